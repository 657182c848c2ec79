package audit

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/testkit/clickhousetest"
)

func (r *rig) createRollups() {
	r.t.Helper()
	for _, table := range []*columns.Table{columns.Logs, columns.Metrics, columns.Spans} {
		for _, rollup := range table.Rollups() {
			r.hot.Exec(rollup.TableDDL(columns.DDLOptions{Database: r.database}))
		}
		for _, rollup := range table.Rollups() {
			r.hot.Exec(rollup.ViewDDL(columns.DDLOptions{Database: r.database}))
		}
	}
}

// Scenario: rollups are right; then one has a row twice, and one loses a bucket; then one is gone.
// Guarantees: rollups that are right are equal to the rows; what is doubled or missing is named; one that is gone is a problem.
func TestRollupsAreComparedWithTheRows(t *testing.T) {
	r := newRig(t, clickhousetest.Shared(t))
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
	require.Equal(t, map[string]bool{"spans_1m": true, "spans_1h": true, "logs_1h": true}, wrong, "spans_1h is made of spans_1m")

	r.hot.Exec("DROP TABLE " + r.database + ".metrics_1h SYNC")
	require.Contains(t, strings.Join(r.audit(rollups).Problems, "\n"), "rollup metrics_1h: there is no such table")
}
