package stored

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/sleep"
)

// Rollup tables hold sums over buckets of time, so a row of them has no place in Kafka. What can be compared is a day (of ingest_time, by which
// both are partitioned): each bucket of the rollup with the rows that lie in it. The expressions here are this package's own, not those that
// made the rollups.

// rollupSettle is the time between two looks: in a cell at work rows and rollups change meanwhile, and only what differs twice in the same way
// is wrong.
const rollupSettle = 2 * time.Second

// rollupModel is what a signal's rollups must say. All measures are exact: a sum of doubles, which depends on its order, is not among them, nor are sketches.
type rollupModel struct {
	keys     []rollupExpr
	measures []rollupExpr
}

// rollupExpr is a value as the rollup has it, and as the rows give it.
type rollupExpr struct{ name, rollup, rows string }

var rollupModels = map[signal.Signal]rollupModel{
	signal.Logs: {
		keys: []rollupExpr{{"severity", "severity", "if(severity_number BETWEEN 1 AND 24, ['trace', 'debug', 'info', 'warn', 'error', 'fatal'][intDiv(severity_number - 1, 4) + 1], 'unspecified')"}},
		measures: []rollupExpr{
			{"count", "sum(count)", "count()"},
		},
	},
	signal.Traces: {
		keys: []rollupExpr{{"name", "name", "name"}, {"kind", "kind", "kind"}},
		measures: []rollupExpr{
			{"count", "sum(count)", "count()"},
			{"errors", "sum(errors)", "countIf(status_code = 'error')"},
			{"duration_sum", "toInt128(sum(duration_sum))", "toInt128(sum(toInt128(greatest(duration_nano, 0))))"},
			{"duration_max", "max(duration_max)", "max(greatest(duration_nano, 0))"},
		},
	},
	signal.Metrics: {
		keys: []rollupExpr{{"metric_name", "metric_name", "metric_name"}, {"metric_type", "metric_type", "metric_type"}},
		measures: []rollupExpr{
			{"points", "sum(points)", "count()"},
			{"value_count", "sum(value_count)", "sum(if(" + numberPoint + ", 1, count))"},
			{"value_min", "min(value_min)", "min(multiIf(" + numberPoint + ", value_double, has_min AND NOT isNaN(min), min, inf))"},
			{"value_max", "max(value_max)", "max(multiIf(" + numberPoint + ", value_double, has_max AND NOT isNaN(max), max, -inf))"},
		},
	},
}

const numberPoint = "(value_type IN ('int', 'double') AND isFinite(value_double) AND bitAnd(flags, 1) = 0)"

// Resolution of a rollup.
type Resolution struct {
	Suffix  string // of the table's name
	Seconds int64  // width of a bucket
}

// Resolutions that every table's rollup has.
var Resolutions = []Resolution{{"10s", 10}, {"1m", 60}, {"1h", 3600}}

// rollupTimeMax is the last 10 s that a DateTime holds; later times lie in the last bucket.
const rollupTimeMax = 4294967290

// Days on which the rows of q were received, as ClickHouse writes them.
func (c *ClickHouse) Days(ctx context.Context, q Query) ([]string, error) {
	if q.Empty() {
		return nil, nil
	}
	where, params := c.where(q)
	type row struct {
		Day string `json:"day"`
	}
	var days []string
	err := askRows(ctx, c, "SELECT DISTINCT toString(toDate(ingest_time)) AS day FROM "+q.Table.Name+" WHERE "+where, params, func(r row) { days = append(days, r.Day) })
	return days, err
}

// rollupGroup is a group of which rollup and rows do not say the same.
type rollupGroup struct {
	Key    string `json:"key"`
	Rollup string `json:"rollup"`
	Rows   string `json:"rows"`
}

// Rollup compares a table's rollup of the given days with its rows. At most shown groups that are wrong are listed.
func (c *ClickHouse) Rollup(ctx context.Context, t *columns.Table, resolution Resolution, days []string, shown int) (certificate.RollupResult, error) {
	name := t.Name + "_" + resolution.Suffix
	r := certificate.RollupResult{Table: name, Shown: []string{}}
	grouped := rollupSQL(t, name, resolution.Seconds, days)
	groups, err := c.number(ctx, "SELECT count() FROM ("+grouped+")", nil)
	if e, ok := errors.AsType[*exceptionError](err); ok && e.code == unknownTableCode {
		return r, errors.New("there is no such table: audit without --rollups, or let the exporter create it")
	}
	if err != nil {
		return r, err
	}
	r.Groups = groups
	differ := func() (map[rollupGroup]bool, error) {
		out := map[rollupGroup]bool{}
		err := askRows(ctx, c, "SELECT toString(tuple(* EXCEPT (r, s))) AS key, toString(r) AS rollup, toString(s) AS rows FROM ("+grouped+") WHERE r != s ORDER BY key", nil, func(g rollupGroup) { out[g] = true })
		return out, err
	}
	first, err := differ()
	if err != nil || len(first) == 0 {
		return r, err
	}
	if err := sleep.For(ctx, rollupSettle); err != nil {
		return r, err
	}
	second, err := differ()
	if err != nil {
		return r, err
	}
	var wrong []string
	for g := range first {
		if second[g] {
			wrong = append(wrong, fmt.Sprintf("%s: says %s, the rows say %s", g.Key, g.Rollup, g.Rows))
		}
	}
	slices.Sort(wrong)
	r.Wrong, r.Shown = int64(len(wrong)), append(r.Shown, wrong[:min(len(wrong), shown)]...)
	return r, nil
}

// rollupSQL gives a row for each group: its keys, r (the measures of the rollup) and s (those of the rows), each an array of texts.
func rollupSQL(t *columns.Table, name string, seconds int64, days []string) string {
	m := rollupModels[t.Signal]
	in := "('" + strings.Join(days, "', '") + "')"
	var names, fromRollup, fromRows, rollupMeasures, rowMeasures []string
	for _, k := range append([]rollupExpr{
		{"tenant_id", "tenant_id", "tenant_id"}, {"service_name", "service_name", "service_name"},
		{"bucket", "toUnixTimestamp(time)", fmt.Sprintf("intDiv(toUInt64(greatest(0, least(intDiv(toUnixTimestamp64Nano(time), 1000000000), %d))), %d) * %d", int64(rollupTimeMax), seconds, seconds)},
		{"day", "ingest_date", "toDate(ingest_time)"},
	}, m.keys...) {
		names = append(names, "k_"+k.name)
		fromRollup, fromRows = append(fromRollup, k.rollup+" AS k_"+k.name), append(fromRows, k.rows+" AS k_"+k.name)
	}
	for _, e := range m.measures {
		rollupMeasures, rowMeasures = append(rollupMeasures, "toString("+e.rollup+")"), append(rowMeasures, "toString("+e.rows+")")
	}
	keys := strings.Join(names, ", ")
	return fmt.Sprintf(`SELECT %s, anyIf(v, w = 0) AS r, anyIf(v, w = 1) AS s FROM
		(SELECT %s, array(%s) AS v, 0 AS w FROM %s WHERE ingest_date IN %s GROUP BY %s
		UNION ALL SELECT %s, array(%s) AS v, 1 AS w FROM %s WHERE toDate(ingest_time) IN %s GROUP BY %s) GROUP BY %s`,
		keys, strings.Join(fromRollup, ", "), strings.Join(rollupMeasures, ", "), name, in, keys,
		strings.Join(fromRows, ", "), strings.Join(rowMeasures, ", "), t.Name, in, keys, keys)
}
