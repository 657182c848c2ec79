package fault

import (
	"fmt"

	"github.com/pulsegrid/pulsegrid/integration/rig/recount"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// rollups: by what a signal's rollups are compared with its rows: a key beside the time, and two measures.
var rollups = map[signal.Signal]struct {
	key, rawKey     string // of the rollup, and of the rows
	count, rawCount string
	sum, rawSum     string
}{
	signal.Logs: {
		key: "severity", rawKey: "['unspecified','trace','debug','info','warn','error','fatal'][toUInt8(intDiv(severity_number + 3, 4)) + 1]",
		count: "sum(count)", rawCount: "count()", sum: "0", rawSum: "0",
	},
	signal.Traces: {
		key: "name", rawKey: "name", count: "sum(count)", rawCount: "count()", sum: "sum(duration_sum)", rawSum: "sum(duration_nano)",
	},
	signal.Metrics: {
		key: "metric_name", rawKey: "metric_name", count: "sum(points)", rawCount: "count()", sum: "sum(value_sum)", rawSum: "sum(value_double)",
	},
}

// resolutions of the rollups, by the suffix of their tables.
var resolutions = map[string]int{"10s": 10, "1m": 60, "1h": 3600}

// checkRollups recounts every rollup from the rows that are stored, and names the buckets that differ.
func (r *run) checkRollups() (wrong int) {
	r.t.Helper()
	for sig, c := range rollups {
		table := recount.Tables[sig].Name
		for suffix, seconds := range resolutions {
			where := fmt.Sprintf("WHERE service_name = '%s' GROUP BY bucket, key", r.service)
			text, err := r.Query(fmt.Sprintf(`SELECT bucket, key, sum(n), sum(s) FROM (
				SELECT toInt64(toUnixTimestamp(time)) AS bucket, toString(%s) AS key, toInt128(%s) AS n, toInt128(%s) AS s FROM %s_%s %s
				UNION ALL
				SELECT toInt64(intDiv(toUnixTimestamp(time), %d) * %d) AS bucket, toString(%s) AS key, -toInt128(%s), -toInt128(%s) FROM %s %s)
				GROUP BY bucket, key HAVING sum(n) != 0 OR sum(s) != 0 ORDER BY bucket, key LIMIT 5`,
				c.key, c.count, c.sum, table, suffix, where, seconds, seconds, c.rawKey, c.rawCount, c.rawSum, table, where))
			switch {
			case err != nil:
				wrong++
				r.t.Errorf("rollup %s_%s: %v", table, suffix, err)
			case text != "":
				wrong++
				r.t.Errorf("rollup %s_%s differs from its rows (bucket, key, events more, sum more):\n%s", table, suffix, text)
			}
		}
	}
	return wrong
}
