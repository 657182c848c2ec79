// Package enrichment_test puts the aggregator's own components together in one process, as distributions/aggregator does:
// Kafka (in process) -> msk -> dedupe -> enrichment -> the real ClickHouse engine and a real lake, and then the audit.
package enrichment_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/envprovider"
	"go.opentelemetry.io/collector/confmap/provider/fileprovider"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exportertest"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"go.opentelemetry.io/collector/processor/processortest"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/pulsegrid/pulsegrid/exporter/clickhouseexporter"
	"github.com/pulsegrid/pulsegrid/exporter/icebergexporter"
	"github.com/pulsegrid/pulsegrid/internal/audit"
	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/audit/stored"
	"github.com/pulsegrid/pulsegrid/internal/chengine"
	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/clickhousetest"
	"github.com/pulsegrid/pulsegrid/processor/dedupeprocessor"
	"github.com/pulsegrid/pulsegrid/processor/enrichmentprocessor"
	"github.com/pulsegrid/pulsegrid/receiver/mskreceiver"
)

func TestMain(m *testing.M) {
	chengine.RunChildIfAsked()
	m.Run()
}

const (
	partitions = 2
	requests   = 10 // of each signal
	events     = 7  // of a request
	patience   = 5 * time.Minute
)

// configured is a factory's default config with keys over it.
func configured(t testing.TB, cfg component.Config, keys map[string]any) component.Config {
	t.Helper()
	require.NoError(t, confmap.NewFromStringMap(keys).Unmarshal(cfg))
	require.NoError(t, confmap.Validate(cfg))
	return cfg
}

// aggregator is one store's pipelines of all signals, with lookup tables of their own.
type aggregator struct {
	group, tables string
	store         exporter.Factory
	config        map[string]any
}

// run starts it, and returns what stops it.
func (a aggregator) run(t *testing.T, brokers []string) (stop func()) {
	t.Helper()
	df, ef, rf := dedupeprocessor.NewFactory(), enrichmentprocessor.NewFactory(), mskreceiver.NewFactory()
	sc := configured(t, a.store.CreateDefaultConfig(), a.config)
	dc := configured(t, df.CreateDefaultConfig(), map[string]any{"max_memory_bytes": 16 << 20})
	ec := configured(t, ef.CreateDefaultConfig(), map[string]any{
		"cell": "test-1", "jurisdiction": "eu", "tables": map[string]any{"location": a.tables, "reload_interval": "100ms"},
		"lookups": []any{
			map[string]any{"table": "services", "attribute": "service.name"},
			map[string]any{"table": "methods", "key": "method", "from": "event", "attribute": "http.request.method"},
		},
	})
	rc := configured(t, rf.CreateDefaultConfig(), map[string]any{
		"brokers": brokers, "group_id": a.group, "quarantine_topic": signal.QuarantineTopic, "initial_offset": "earliest", "block": map[string]any{"max_age": "50ms"},
	})
	es, ps, rs := exportertest.NewNopSettings(a.store.Type()), processortest.NewNopSettings(df.Type()), receivertest.NewNopSettings(rf.Type())
	var stores, processors, receivers []component.Component
	for _, sig := range signal.All {
		var last, dedupe, enrich, first component.Component
		switch sig {
		case signal.Logs:
			x, err := a.store.CreateLogs(t.Context(), es, sc)
			require.NoError(t, err)
			e, err := ef.CreateLogs(t.Context(), processortest.NewNopSettings(ef.Type()), ec, x)
			require.NoError(t, err)
			d, err := df.CreateLogs(t.Context(), ps, dc, e)
			require.NoError(t, err)
			r, err := rf.CreateLogs(t.Context(), rs, rc, d)
			require.NoError(t, err)
			last, enrich, dedupe, first = x, e, d, r
		case signal.Metrics:
			x, err := a.store.CreateMetrics(t.Context(), es, sc)
			require.NoError(t, err)
			e, err := ef.CreateMetrics(t.Context(), processortest.NewNopSettings(ef.Type()), ec, x)
			require.NoError(t, err)
			d, err := df.CreateMetrics(t.Context(), ps, dc, e)
			require.NoError(t, err)
			r, err := rf.CreateMetrics(t.Context(), rs, rc, d)
			require.NoError(t, err)
			last, enrich, dedupe, first = x, e, d, r
		case signal.Traces:
			x, err := a.store.CreateTraces(t.Context(), es, sc)
			require.NoError(t, err)
			e, err := ef.CreateTraces(t.Context(), processortest.NewNopSettings(ef.Type()), ec, x)
			require.NoError(t, err)
			d, err := df.CreateTraces(t.Context(), ps, dc, e)
			require.NoError(t, err)
			r, err := rf.CreateTraces(t.Context(), rs, rc, d)
			require.NoError(t, err)
			last, enrich, dedupe, first = x, e, d, r
		}
		stores, processors, receivers = append(stores, last), append(processors, enrich, dedupe), append(receivers, first)
	}
	parts := slices.Concat(stores, processors, receivers)
	for _, c := range parts {
		require.NoError(t, c.Start(t.Context(), componenttest.NewNopHost()))
	}
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		for _, c := range slices.Backward(parts) {
			require.NoError(t, c.Shutdown(ctx))
		}
	}
}

// forged is a request of the signal, realistic, in which an agent says what it must not.
func forged(t *testing.T, sig signal.Signal, seed uint64) []byte {
	t.Helper()
	body := otlptest.Realistic(sig, seed, events)
	var out []byte
	var err error
	switch sig {
	case signal.Logs:
		req := plogotlp.NewExportRequest()
		require.NoError(t, req.UnmarshalProto(body))
		rl := req.Logs().ResourceLogs().At(0)
		rl.Resource().Attributes().PutStr("enriched.plan", "forged")
		rl.ScopeLogs().At(0).LogRecords().At(0).Attributes().PutStr("enriched.methods.safe", "forged")
		out, err = req.MarshalProto()
	case signal.Traces:
		req := ptraceotlp.NewExportRequest()
		require.NoError(t, req.UnmarshalProto(body))
		rs := req.Traces().ResourceSpans().At(0)
		rs.Resource().Attributes().PutStr("enriched.plan", "forged")
		rs.ScopeSpans().At(0).Spans().At(0).Attributes().PutEmptySlice("enriched.x").AppendEmpty().SetStr("forged")
		out, err = req.MarshalProto()
	case signal.Metrics:
		req := pmetricotlp.NewExportRequest()
		require.NoError(t, req.UnmarshalProto(body))
		rm := req.Metrics().ResourceMetrics().At(0)
		rm.Resource().Attributes().PutStr("enriched.plan", "forged")
		for _, m := range rm.ScopeMetrics().At(0).Metrics().All() {
			if m.Type() == pmetric.MetricTypeGauge {
				m.Gauge().DataPoints().At(0).Attributes().PutStr("enriched.x", "forged")
			}
		}
		out, err = req.MarshalProto()
	}
	require.NoError(t, err)
	return out
}

// produce writes each request twice, as an agent does that did not hear its answer.
func produce(t *testing.T, kafka *kgo.Client) {
	t.Helper()
	for _, sig := range signal.All {
		for i := range requests {
			body := forged(t, sig, uint64(i+1))
			for range 2 {
				rec := &kgo.Record{Topic: sig.Topic(), Key: []byte("agent-" + strconv.Itoa(i)), Value: body, Headers: []kgo.RecordHeader{
					{Key: envelope.HeaderTenant, Value: []byte("acme")}, {Key: envelope.HeaderSignal, Value: []byte(sig.String())},
					{Key: envelope.HeaderReceivedNanos, Value: []byte(strconv.FormatInt(time.Now().UnixNano(), 10))},
				}}
				require.NoError(t, kafka.ProduceSync(t.Context(), rec).FirstErr())
			}
		}
	}
}

// tables writes both tables, with a version of their own.
func tables(t *testing.T, dir, version string) {
	t.Helper()
	write := func(name, content string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name+".new"), []byte(content), 0o600))
		require.NoError(t, os.Rename(filepath.Join(dir, name+".new"), filepath.Join(dir, name)))
	}
	services := "key,team\n"
	for _, name := range []string{"checkout", "cart", "payment", "search", "shipping"} {
		services += name + "," + version + "\n"
	}
	write("services.csv", services)
	write("methods.jsonl", `{"method":"GET","safe":true,"version":"`+version+`"}`+"\n"+`{"method":"POST","safe":false,"version":"`+version+`"}`+"\n")
}

// Guarantees: what distributions/ say to this component is what it understands, as it is and with its variables set. That the built Collector takes the whole of it
// is tested in distributions.
func TestTheDistributionsConfigsAreUnderstood(t *testing.T) {
	understood := func(path string) *enrichmentprocessor.Config {
		r, err := confmap.NewResolver(confmap.ResolverSettings{
			URIs:              []string{"file:../../distributions/" + path},
			ProviderFactories: []confmap.ProviderFactory{fileprovider.NewFactory(), envprovider.NewFactory()},
		})
		require.NoError(t, err)
		conf, err := r.Resolve(t.Context())
		require.NoError(t, err)
		sub, err := conf.Sub("processors::enrichment")
		require.NoError(t, err)
		cfg := enrichmentprocessor.NewFactory().CreateDefaultConfig()
		require.NoError(t, sub.Unmarshal(cfg))
		require.NoError(t, confmap.Validate(cfg))
		require.NoError(t, r.Shutdown(t.Context()))
		return cfg.(*enrichmentprocessor.Config)
	}
	require.Empty(t, understood("aggregator/config.yaml").Cell)
	require.Equal(t, "local", understood("local/aggregator.yaml").Cell)
	require.NotNil(t, understood("aggregator/tenants.yaml").Tenants)
	t.Setenv("PULSEGRID_CELL", "1234")
	t.Setenv("PULSEGRID_JURISDICTION", "eu")
	require.Equal(t, "1234", understood("aggregator/config.yaml").Cell)
	require.Equal(t, "eu", understood("aggregator/config.yaml").Jurisdiction)
}

// Scenario: agents send everything twice, and forge attributes of enrichment; the two stores' aggregators have other versions of the tables; the hot one is then
// set back to the begin of the log, with yet another version.
// Guarantees: rows have their attributes, and none that was forged; each store keeps what it took first; the audit says that both are equal to Kafka, and
// still sees what is altered.
func TestEnrichedRowsAreEqualToKafka(t *testing.T) {
	appendTime := "LogAppendTime"
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.BrokerConfigs(map[string]string{"group.initial.rebalance.delay.ms": "0"}))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	kafka, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...))
	require.NoError(t, err)
	t.Cleanup(kafka.Close)
	admin := kadm.NewClient(kafka)
	for _, topic := range []string{signal.Logs.Topic(), signal.Metrics.Topic(), signal.Traces.Topic(), signal.QuarantineTopic} {
		_, err := admin.CreateTopic(t.Context(), partitions, 1, map[string]*string{"message.timestamp.type": &appendTime}, topic)
		require.NoError(t, err)
	}
	produce(t, kafka)

	ch, lakeDir := clickhousetest.Start(t), t.TempDir()
	hotTables, lakeTables := t.TempDir(), t.TempDir()
	tables(t, hotTables, "v1")
	tables(t, lakeTables, "v2")
	catalog, warehouse := "file:"+filepath.Join(lakeDir, "catalog.db"), "file://"+filepath.Join(lakeDir, "warehouse")
	hot := aggregator{audit.DefaultHotGroup, hotTables, clickhouseexporter.NewFactory(), map[string]any{"endpoint": ch.URL}}
	lake := aggregator{audit.DefaultLakeGroup, lakeTables, icebergexporter.NewFactory(), map[string]any{
		"catalog": map[string]any{"type": "sql", "uri": catalog, "warehouse": warehouse}, "commit": map[string]any{"max_age": "100ms"},
	}}
	finished := func(group string) func() bool { return func() bool { return lag(t, admin, group) == 0 } }
	stopHot, stopLake := hot.run(t, cluster.ListenAddrs()), lake.run(t, cluster.ListenAddrs())
	require.Eventually(t, finished(audit.DefaultHotGroup), patience, 200*time.Millisecond)
	require.Eventually(t, finished(audit.DefaultLakeGroup), patience, 200*time.Millisecond)
	stopHot()
	stopLake()

	number := func(sql string) int64 { return ch.QueryInt(sql) }
	check := func() {
		t.Helper()
		for _, table := range []string{"logs", "metrics", "spans"} {
			from := " FROM pulsegrid." + table + " WHERE "
			rows := number("SELECT count()" + from + "1")
			require.NotZero(t, rows)
			require.Equal(t, rows, number("SELECT count()"+from+`JSONExtractString(resource, 'enriched.cell') = 'test-1' AND JSONExtractString(resource, 'enriched.jurisdiction') = 'eu'
				AND JSONExtractString(resource, 'enriched.services.team') = 'v1'`), table)
			require.Zero(t, number("SELECT count()"+from+`resource LIKE '%forged%' OR has(mapValues(attributes_string), 'forged') OR notEmpty(attributes_other['enriched.x'])`), table)
			delays := number("SELECT countIf(mapContains(attributes_int, 'enriched.ingest_delay_ms'))" + from + "1")
			if table == "metrics" {
				require.Zero(t, delays)
				continue
			}
			require.Equal(t, rows, delays, table)
		}
		require.NotZero(t, number("SELECT count() FROM pulsegrid.logs WHERE attributes_bool['enriched.methods.safe'] AND attr_http_request_method = 'GET' AND attributes_string['enriched.methods.version'] = 'v1'"))
	}
	check()
	requireEqual(t, cluster, ch, catalog, warehouse)

	rows := number("SELECT count() FROM pulsegrid.logs")
	tables(t, hotTables, "v3")
	back := kadm.Offsets{}
	for _, sig := range signal.All {
		for p := range int32(partitions) {
			back.AddOffset(sig.Topic(), p, 0, -1)
		}
	}
	require.NoError(t, admin.CommitAllOffsets(t.Context(), audit.DefaultHotGroup, back))
	stopHot = hot.run(t, cluster.ListenAddrs())
	require.Eventually(t, finished(audit.DefaultHotGroup), patience, 200*time.Millisecond)
	stopHot()
	require.Equal(t, rows, number("SELECT count() FROM pulsegrid.logs"))
	check()
	requireEqual(t, cluster, ch, catalog, warehouse)

	ch.Exec("ALTER TABLE pulsegrid.logs UPDATE attributes_int = mapUpdate(attributes_int, map('enriched.ingest_delay_ms', toInt64(0))) WHERE 1 SETTINGS mutations_sync = 2")
	requireEqual(t, cluster, ch, catalog, warehouse)
	ch.Exec("ALTER TABLE pulsegrid.logs UPDATE attributes_int = mapUpdate(attributes_int, map('enrich', toInt64(0))) WHERE event_index = 3 SETTINGS mutations_sync = 2")
	c := certificateOf(t, cluster, ch, catalog, warehouse)
	require.Equal(t, certificate.Different, c.Verdict)
	require.Equal(t, []string{"attributes_int"}, c.Differences[0].Columns)
}

// lag is how many records the group has not finished; -1 while that is not known.
func lag(t *testing.T, admin *kadm.Client, group string) int64 {
	t.Helper()
	ends, err := admin.ListEndOffsets(t.Context(), signal.Logs.Topic(), signal.Metrics.Topic(), signal.Traces.Topic())
	require.NoError(t, err)
	require.NoError(t, ends.Error())
	committed, err := admin.FetchOffsets(t.Context(), group)
	if err != nil {
		return -1
	}
	sum := int64(0)
	ends.Each(func(e kadm.ListedOffset) {
		at := int64(0)
		if o, ok := committed.Lookup(e.Topic, e.Partition); ok {
			at = max(o.At, 0)
		}
		sum += e.Offset - at
	})
	return sum
}

func certificateOf(t *testing.T, cluster *kfake.Cluster, ch *clickhousetest.Server, catalog, warehouse string) *certificate.Certificate {
	t.Helper()
	c := audit.DefaultConfig()
	c.Tool, c.Cell, c.Rollups = "test", "test", true
	c.Kafka.Brokers = cluster.ListenAddrs()
	c.ClickHouse = &stored.ClickHouseConfig{URL: ch.URL, Database: audit.DefaultDatabase, Group: audit.DefaultHotGroup}
	c.Lake = &stored.LakeConfig{CatalogType: "sql", CatalogName: "pulsegrid", CatalogURI: catalog, Warehouse: warehouse, Namespace: audit.DefaultNamespace, Group: audit.DefaultLakeGroup}
	cert, err := audit.Run(t.Context(), c)
	require.NoError(t, err)
	return cert
}

func requireEqual(t *testing.T, cluster *kfake.Cluster, ch *clickhousetest.Server, catalog, warehouse string) {
	t.Helper()
	c := certificateOf(t, cluster, ch, catalog, warehouse)
	require.Empty(t, c.Problems)
	require.Empty(t, c.Differences)
	require.Equal(t, certificate.Equal, c.Verdict)
	require.Len(t, c.Totals, 2)
	for _, totals := range c.Totals {
		require.Equal(t, totals.Expected, totals.Rows, totals.Store)
		require.NotZero(t, totals.Rows, totals.Store)
	}
}
