package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/orchestration"
)

// configFile is the configuration of the aggregators that filled the stores.
func (a aggregated) configFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "aggregator.yaml")
	require.NoError(t, os.WriteFile(path, []byte(`
receivers:
  msk/hot: {brokers: [`+a.brokers+`], group_id: pulsegrid-hot}
  msk/lake: {brokers: [`+a.brokers+`], group_id: pulsegrid-lake}
processors:
  dedupe/hot: {window: 15m}
exporters:
  pulsegrid_clickhouse: {endpoint: `+a.hot.URL+`}
  iceberg: {catalog: {type: sql, uri: "file:`+a.catalog+`", warehouse: "file://`+a.warehouse+`"}}
service:
  pipelines:
    logs/hot: {receivers: [msk/hot], processors: [dedupe/hot], exporters: [pulsegrid_clickhouse]}
    metrics/hot: {receivers: [msk/hot], processors: [dedupe/hot], exporters: [pulsegrid_clickhouse]}
    traces/hot: {receivers: [msk/hot], processors: [dedupe/hot], exporters: [pulsegrid_clickhouse]}
    logs/lake: {receivers: [msk/lake], processors: [dedupe/hot], exporters: [iceberg]}
`), 0o600))
	return path
}

// Scenario: events of every shape, copies and a record in quarantine among them; somebody deletes rows of each table by hand, then a whole table's.
// Guarantees: a dry run counts what is missing; the replay puts back exactly that, column by column; one that finds nothing changes nothing; the events of other
// tenants stay missing where one is named; with ClickHouse down nothing is said to be there.
func TestAReplayPutsBackWhatIsMissing(t *testing.T) {
	a := storeAll(t)
	replay := func(code int, more ...string) string {
		t.Helper()
		return ends(t, code, append([]string{"job", "run", "replay", "--quiet", "--config", a.configFile(t)}, more...)...)
	}
	content := func() (out string) {
		for _, s := range signal.All {
			out += a.hot.Query("SELECT count(), sum(cityHash64(*)) FROM pulsegrid."+columns.ForSignal(s).Name) + "\n"
		}
		return out
	}
	whole := content()
	require.Contains(t, replay(0, "--dry-run"), "0 events are missing")
	for _, s := range signal.All {
		a.hot.Exec("DELETE FROM pulsegrid." + columns.ForSignal(s).Name + " WHERE cityHash64(event_id) % 3 = 0")
	}
	a.hot.Exec("TRUNCATE TABLE pulsegrid.spans")
	less := content()
	require.NotEqual(t, whole, less)
	require.NotContains(t, replay(0, "--dry-run"), "\n0 events")
	require.Equal(t, less, content())

	// What a worker of Temporal does for a job is the same.
	w := &jobRunner{stores: storesOptions{config: []string{a.configFile(t)}}, certificates: filepath.Join(t.TempDir(), "certificates")}
	job := func(kind string) orchestration.Outcome {
		t.Helper()
		out, err := w.Run(t.Context(), orchestration.Command{Kind: kind}, false, func(string) {})
		require.NoError(t, err)
		return out
	}
	found := job(orchestration.KindAudit)
	require.Equal(t, orchestration.StateDiffers, found.State, found.Text)
	require.Regexp(t, `(?m)^ +lake +\d+ +\d+ +0 +0 +0 `, found.Text, "the lake is audited too, and has lost nothing")

	require.Contains(t, replay(1, "--tenant", "nobody"), "0 events were missing in ClickHouse: 0 rows were put back") // rollups are of all tenants
	require.Equal(t, less, content())
	require.Contains(t, replay(0), "equal: each event is in each store once")
	require.Equal(t, whole, content())
	again := job(orchestration.KindReplay)
	require.Equal(t, orchestration.StateDone, again.State)
	require.Contains(t, again.Text, "0 events were missing in ClickHouse: 0 rows were put back")
	require.Equal(t, whole, content())
	require.Equal(t, orchestration.StateDone, job(orchestration.KindAudit).State)
	_, code, err := run(t, "audit", "verify", w.certificates)
	require.Equal(t, 0, code, "%v", err)
	require.NotContains(t, a.hot.Query("SHOW TABLES FROM pulsegrid"), replaySuffix)

	a.hot.Kill()
	require.Contains(t, replay(2, "--dry-run"), "not all could be compared: clickhouse")
	require.Contains(t, replay(1), "does not answer")
}
