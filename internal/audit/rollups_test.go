package audit

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/audit/stored"
	"github.com/pulsegrid/pulsegrid/internal/testkit/clickhousetest"
)

// rollupSelects make rollups straightforwardly; TIME is the bucket.
var rollupSelects = map[string]string{
	"logs": `SELECT tenant_id, service_name, TIME AS time, toDate(ingest_time) AS ingest_date,
		multiIf(severity_number < 1 OR severity_number > 24, 'unspecified', severity_number < 5, 'trace', severity_number < 9, 'debug', severity_number < 13, 'info',
			severity_number < 17, 'warn', severity_number < 21, 'error', 'fatal') AS severity, count() AS count
		FROM DB.logs GROUP BY tenant_id, service_name, time, ingest_date, severity`,
	"spans": `SELECT tenant_id, service_name, TIME AS time, toDate(ingest_time) AS ingest_date, name, kind, count() AS count, countIf(status_code = 'error') AS errors,
		sum(toInt128(greatest(duration_nano, 0))) AS duration_sum, max(greatest(duration_nano, 0)) AS duration_max
		FROM DB.spans GROUP BY tenant_id, service_name, time, ingest_date, name, kind`,
	"metrics": `SELECT tenant_id, service_name, TIME AS time, toDate(ingest_time) AS ingest_date, metric_name, metric_type, count() AS points,
		countIf(value_type != '' AND value_type != 'empty' AND isFinite(value_double) AND bitAnd(flags, 1) = 0) + sumIf(count, value_type = '') AS value_count,
		min(multiIf(value_type IN ('int', 'double') AND isFinite(value_double) AND bitAnd(flags, 1) = 0, value_double, has_min AND NOT isNaN(min), min, inf)) AS value_min,
		max(multiIf(value_type IN ('int', 'double') AND isFinite(value_double) AND bitAnd(flags, 1) = 0, value_double, has_max AND NOT isNaN(max), max, -inf)) AS value_max
		FROM DB.metrics GROUP BY tenant_id, service_name, time, ingest_date, metric_name, metric_type`,
}

func (r *rig) createRollups() {
	r.t.Helper()
	for table, sql := range rollupSelects {
		for _, resolution := range stored.Resolutions {
			sql := strings.NewReplacer("DB", r.database, "TIME",
				fmt.Sprintf("toDateTime(intDiv(least(intDiv(toUnixTimestamp64Nano(s.time), 1000000000), 4294967290), %d) * %[1]d, 'UTC')", resolution.Seconds)).Replace(sql)
			sql = strings.Replace(sql, " GROUP BY", " AS s GROUP BY", 1)
			name := r.database + "." + table + "_" + resolution.Suffix
			r.hot.Exec("CREATE TABLE " + name + " ENGINE = MergeTree ORDER BY tuple() EMPTY AS " + sql)
			r.hot.Exec("CREATE MATERIALIZED VIEW " + name + "_mv TO " + name + " AS " + sql)
		}
	}
}

// Scenario: rollups are right; then one has a row twice, and one loses a bucket; then one is gone.
// Guarantees: rollups that are right are equal to the rows; what is doubled or missing is named; one that is gone is a problem.
func TestRollupsAreComparedWithTheRows(t *testing.T) {
	r := newRig(t, clickhousetest.Start(t))
	r.createRollups()
	r.fill(12)
	r.store()
	rollups := func(c *Config) { c.Rollups, c.Quick = true, true }
	c := r.audit(rollups)
	require.Equal(t, certificate.Equal, c.Verdict, "%v %v %v", shown(c), c.Problems, c.Rollups)
	require.Len(t, c.Rollups, 9)
	for _, rollup := range c.Rollups {
		require.Positive(t, rollup.Groups, rollup.Table)
	}

	r.hot.Exec("INSERT INTO " + r.database + ".spans_1m SELECT * FROM " + r.database + ".spans_1m LIMIT 1")
	r.alterHot("logs_1h DELETE WHERE service_name = (SELECT min(service_name) FROM " + r.database + ".logs)")
	c = r.audit(rollups)
	require.Equal(t, certificate.Different, c.Verdict)
	wrong := map[string]bool{}
	for _, rollup := range c.Rollups {
		require.Len(t, rollup.Shown, int(rollup.Wrong))
		if rollup.Wrong > 0 {
			wrong[rollup.Table] = true
			require.Regexp(t, `acme.*: says .*, the rows say`, rollup.Shown[0])
		}
	}
	require.Equal(t, map[string]bool{"spans_1m": true, "logs_1h": true}, wrong)

	r.hot.Exec("DROP TABLE " + r.database + ".metrics_1h SYNC")
	require.Contains(t, strings.Join(r.audit(rollups).Problems, "\n"), "rollup metrics_1h: there is no such table")
}
