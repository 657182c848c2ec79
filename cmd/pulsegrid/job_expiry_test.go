package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/pytest"
	"github.com/pulsegrid/pulsegrid/orchestration"
)

// quarantineTable has the rows of a table of the lake's quarantine by day of receipt, and the most that a snapshot of it has.
type quarantineTable struct {
	Days map[string]int
	Most int
}

// quarantine is what lies in both tables, by pyiceberg.
func (a aggregated) quarantine(t *testing.T) (of map[string]quarantineTable) {
	t.Helper()
	pytest.RunJSON(t, &of, `
import sys, json, collections
from pyiceberg.catalog.sql import SqlCatalog
catalog = SqlCatalog("pulsegrid", uri="sqlite:///" + sys.argv[1], warehouse="file://" + sys.argv[2])
def read(name):
  table = catalog.load_table("pulsegrid." + name)
  days = collections.Counter(str(r["ingest_time"])[:10] for r in table.scan().to_arrow().to_pylist())
  return {"Days": days, "Most": max(len(table.scan(snapshot_id=s.snapshot_id).to_arrow()) for s in table.metadata.snapshots)}
print(json.dumps({name: read(name) for name in ("quarantine", "quarantine_pii")}))
`, a.catalog, a.warehouse)
	return of
}

// Scenario: items of four days lie in the lake's quarantine, one of them of the last moment before the day that is kept and one of its first. The clock of ClickHouse is
// wrong; it is right. The job is run by hand, by a worker, and once more.
// Guarantees: a dry run, and a run beside a wrong clock, change nothing; exactly the rows that were received before the day go, from both tables; the others stay, and so do
// the snapshots of before; a second run finds nothing.
func TestWhatIsTooOldLeavesTheLakesQuarantine(t *testing.T) {
	k, err := kfake.NewCluster(kfake.NumBrokers(1))
	require.NoError(t, err)
	t.Cleanup(k.Close)
	dir := t.TempDir()
	a := aggregated{brokers: k.ListenAddrs()[0], catalog: filepath.Join(dir, "catalog.db"), warehouse: filepath.Join(dir, "warehouse")}
	client, err := kgo.NewClient(kgo.SeedBrokers(a.brokers))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	admin := kadm.NewClient(client)
	_, err = admin.CreateTopics(t.Context(), 1, 1, map[string]*string{"message.timestamp.type": kadm.StringPtr("LogAppendTime")}, signal.QuarantineTopic, signal.RefusedTopic)
	require.NoError(t, err)
	const keep = 30 * 24 * time.Hour
	kept := (&expiryOptions{keep: keep}).before(time.Now())
	made := &rehearsed{t: t}
	for _, received := range []time.Time{kept.Add(-400 * 24 * time.Hour), kept.Add(-time.Microsecond), kept, time.Now()} {
		made.quarantined(received)
	}
	require.NoError(t, client.ProduceSync(t.Context(), made.records...).FirstErr())
	for _, rows := range []string{"quarantine", "quarantine_pii"} {
		stop := a.quarantinePipeline(t, rows, a.lakeOf(rows))
		require.Eventually(t, func() bool {
			lags, err := admin.Lag(context.Background(), rows)
			return err == nil && lags.Error() == nil && lags[rows].Lag.Total() == 0 && len(lags[rows].Lag) == 1
		}, 2*time.Minute, 50*time.Millisecond, "group %s takes everything", rows)
		stop()
	}
	day := func(t time.Time) string { return t.UTC().Format(time.DateOnly) }
	young := map[string]int{day(kept): 1, day(time.Now()): 1}
	all := map[string]int{day(kept.Add(-400 * 24 * time.Hour)): 1, day(kept.Add(-time.Microsecond)): 1, day(kept): 1, day(time.Now()): 1}
	has := func(want map[string]int) {
		t.Helper()
		require.Equal(t, map[string]quarantineTable{"quarantine": {want, 4}, "quarantine_pii": {want, 4}}, a.quarantine(t))
	}
	has(all)

	clock := time.Now().Add(-20 * time.Minute)
	clickHouse := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, clock.Unix()) }))
	defer clickHouse.Close()
	config := filepath.Join(dir, "aggregator.yaml")
	text, err := json.Marshal(map[string]any{"exporters": map[string]any{"iceberg": a.lakeOf("events"), "pulsegrid_clickhouse": map[string]any{"endpoint": clickHouse.URL}}}) // JSON is YAML
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(config, text, 0o600))
	expire := func(code int, more ...string) string {
		t.Helper()
		return ends(t, code, append([]string{"job", "run", "expiry", "--config", config, "--keep", keep.String()}, more...)...)
	}
	require.Regexp(t, "are (19|20)m[0-9]+s apart: nothing was changed", expire(1))
	has(all)
	clock = time.Now()
	require.Regexp(t, `(?m)^quarantine +2 +2 +2$`, expire(0, "--dry-run"))
	has(all)
	require.Contains(t, ends(t, exitUsage, "job", "run", "expiry", "--config", config, "--keep", "1h"), "--keep: 1h0m0s: want at least 168h0m0s")

	w := &jobRunner{stores: storesOptions{config: []string{config}, data: dir}}
	out, err := w.Run(t.Context(), orchestration.Command{Kind: orchestration.KindExpiry, Flags: []string{"--keep=" + keep.String()}}, false, func(string) {})
	require.NoError(t, err, out.Text)
	require.Equal(t, orchestration.StateDone, out.State)
	require.Contains(t, out.Text, "received before "+kept.Format(time.RFC3339))
	require.Regexp(t, `(?m)^quarantine +2 +2 +0$`, out.Text)
	require.Regexp(t, `(?m)^quarantine_pii +2 +2 +0$`, out.Text)
	has(young)
	require.Regexp(t, `(?m)^quarantine +0 +0 +0$`, expire(0))
	has(young)
}
