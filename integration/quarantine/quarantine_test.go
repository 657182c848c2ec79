// Package quarantine_test puts the aggregator's own components together in one process, as distributions/aggregator does for what is in quarantine:
// Kafka (in process) -> msk -> dedupe -> the real ClickHouse engine and a real lake.
package quarantine_test

import (
	"context"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exportertest"
	"go.opentelemetry.io/collector/processor/processortest"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/pulsegrid/pulsegrid/exporter/clickhouseexporter"
	"github.com/pulsegrid/pulsegrid/exporter/icebergexporter"
	"github.com/pulsegrid/pulsegrid/internal/chengine"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/clickhousetest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/pytest"
	"github.com/pulsegrid/pulsegrid/processor/dedupeprocessor"
	"github.com/pulsegrid/pulsegrid/receiver/mskreceiver"
)

func TestMain(m *testing.M) {
	chengine.RunChildIfAsked()
	m.Run()
}

const (
	partitions = 3
	patience   = 5 * time.Minute
)

// configured is a factory's default config with keys over it.
func configured(t *testing.T, cfg component.Config, keys map[string]any) component.Config {
	t.Helper()
	require.NoError(t, confmap.NewFromStringMap(keys).Unmarshal(cfg))
	if v, ok := cfg.(interface{ Validate() error }); ok {
		require.NoError(t, v.Validate())
	}
	return cfg
}

// sink is one store's table.
type sink struct {
	store, rows string
	factory     exporter.Factory
	config      map[string]any
}

// run starts a sink's pipeline, and returns what stops it.
func (s sink) run(t *testing.T, brokers []string) (stop func()) {
	t.Helper()
	host := componenttest.NewNopHost()
	keys := map[string]any{"rows": s.rows}
	for k, v := range s.config {
		keys[k] = v
	}
	last, err := s.factory.CreateLogs(t.Context(), exportertest.NewNopSettings(s.factory.Type()), configured(t, s.factory.CreateDefaultConfig(), keys))
	require.NoError(t, err)
	df := dedupeprocessor.NewFactory()
	dedupe, err := df.CreateLogs(t.Context(), processortest.NewNopSettings(df.Type()), configured(t, df.CreateDefaultConfig(), map[string]any{"max_memory_bytes": 16 << 20}), last)
	require.NoError(t, err)
	rf := mskreceiver.NewFactory()
	first, err := rf.CreateLogs(t.Context(), receivertest.NewNopSettings(rf.Type()), configured(t, rf.CreateDefaultConfig(), map[string]any{
		"brokers": brokers, "group_id": "pulsegrid-" + s.rows + "-" + s.store, "topics": map[string]any{"quarantine": []string{signal.QuarantineTopic}},
		"quarantine_topic": signal.RefusedTopic, "block": map[string]any{"max_age": "50ms"},
	}), dedupe)
	require.NoError(t, err)
	parts := []component.Component{last, dedupe, first}
	for _, c := range parts {
		require.NoError(t, c.Start(t.Context(), host))
	}
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		for _, c := range slices.Backward(parts) {
			require.NoError(t, c.Shutdown(ctx))
		}
	}
}

// Guarantee: every item is a row, byte for byte, in the table of its rights of either store, once: also where it was sent twice and where the aggregator
// was stopped in between.
func TestWhatIsInQuarantineIsInTheTablesOfBothStores(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions, signal.QuarantineTopic, signal.RefusedTopic),
		kfake.BrokerConfigs(map[string]string{"group.initial.rebalance.delay.ms": "0"}))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	kafka, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...))
	require.NoError(t, err)
	t.Cleanup(kafka.Close)
	ch, dir := clickhousetest.Start(t), t.TempDir()
	db, warehouse := filepath.Join(dir, "catalog.db"), "file://"+filepath.Join(dir, "warehouse")

	var sinks []sink
	for _, rows := range []string{columns.RowsQuarantine, columns.RowsQuarantinePII} {
		sinks = append(sinks,
			sink{"hot", rows, clickhouseexporter.NewFactory(), map[string]any{"endpoint": ch.URL}},
			sink{"lake", rows, icebergexporter.NewFactory(), map[string]any{
				"catalog": map[string]any{"type": "sql", "uri": "file:" + db, "warehouse": warehouse}, "commit": map[string]any{"max_age": "100ms"},
			}})
	}
	want := map[string][]string{}
	for round := range 3 {
		produceItems(t, kafka, round, want)
		var stops []func()
		for _, s := range sinks {
			stops = append(stops, s.run(t, cluster.ListenAddrs()))
		}
		for _, s := range sinks {
			require.Eventually(t, func() bool { return len(s.bodies(t, ch, db, warehouse)) >= len(want[s.rows]) }, patience, 300*time.Millisecond, "%s of %s", s.rows, s.store)
		}
		for _, stop := range stops {
			stop()
		}
		for _, s := range sinks {
			got := s.bodies(t, ch, db, warehouse)
			slices.Sort(got)
			slices.Sort(want[s.rows])
			require.Equal(t, want[s.rows], got, "%s of %s after round %d", s.rows, s.store, round)
		}
	}
}

// produceItems writes what a gateway and an aggregator put into quarantine, each twice, and adds the bodies, as hex, to want by table.
func produceItems(t *testing.T, kafka *kgo.Client, round int, want map[string][]string) {
	t.Helper()
	var records []*kgo.Record
	for i := range 60 {
		body := fmt.Sprintf("\x00\xff\n%d/%d\x80", round, i)
		headers := map[string]string{envelope.HeaderTenant: "acme", envelope.HeaderSignal: "logs", envelope.HeaderEvents: "1", envelope.HeaderQuarantineCode: "attribute_type"}
		rows := columns.RowsQuarantinePII
		switch i % 3 {
		case 0: // of a schema without personal data
			headers[envelope.HeaderFindings], rows = `[{"event":0,"verdicts":[{"code":"attribute_type","path":"a"}]}]`, columns.RowsQuarantine
		case 1:
			headers[envelope.HeaderFindings], headers[envelope.HeaderPII] = `[{"event":0,"pii":true,"verdicts":[{"code":"attribute_type","path":"a"}]}]`, "true"
		case 2: // refused by a store
			headers[envelope.HeaderOriginTopic], headers[envelope.HeaderOriginPartition], headers[envelope.HeaderOriginOffset] = "otlp.logs.v1", "0", fmt.Sprint(i)
		}
		for range 2 { // an agent that did not get its answer sends again
			r := &kgo.Record{Topic: signal.QuarantineTopic, Key: fmt.Append(nil, "agent-", i), Value: []byte(body)}
			for k, v := range headers {
				r.Headers = append(r.Headers, kgo.RecordHeader{Key: k, Value: []byte(v)})
			}
			records = append(records, r)
		}
		want[rows] = append(want[rows], hex.EncodeToString([]byte(body)))
	}
	require.NoError(t, kafka.ProduceSync(t.Context(), records...).FirstErr())
}

// bodies are those that the sink's table holds, as hex; none while there is no table.
func (s sink) bodies(t *testing.T, ch *clickhousetest.Server, db, warehouse string) (out []string) {
	t.Helper()
	if s.store == "hot" {
		text, err := ch.Try("SELECT lower(hex(body)) FROM pulsegrid." + s.rows + " FORMAT TSV")
		if err != nil {
			return nil
		}
		return strings.Fields(text)
	}
	pytest.RunJSON(t, &out, `
import sys, json
from pyiceberg.catalog import load_catalog
from pyiceberg.exceptions import NoSuchTableError
uri, warehouse, name = sys.argv[1:]
try:
  rows = load_catalog("pulsegrid", type="sql", uri="sqlite:///" + uri, warehouse=warehouse).load_table("pulsegrid." + name).scan().to_arrow().to_pylist()
except NoSuchTableError:
  rows = []
print(json.dumps([r["body"].hex() for r in rows]))
`, db, warehouse, s.rows)
	return out
}
