package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/receiver"

	"github.com/pulsegrid/pulsegrid/exporter/clickhouseexporter"
	"github.com/pulsegrid/pulsegrid/exporter/icebergexporter"
	"github.com/pulsegrid/pulsegrid/internal/audit"
	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/chengine"
	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/clickhousetest"
	"github.com/pulsegrid/pulsegrid/processor/dedupeprocessor"
	"github.com/pulsegrid/pulsegrid/receiver/mskreceiver"
)

// aggregated is a cell whose stores the aggregator's own components have filled.
type aggregated struct {
	brokers, catalog, warehouse, hotDir string
	hot                                 *clickhousetest.Server
}

// flags reach the cell.
func (a aggregated) flags(more ...string) []string {
	return append([]string{"audit", "--quiet", "--brokers", a.brokers, "--clickhouse", a.hot.URL, "--catalog-uri", "file:" + a.catalog, "--warehouse", "file://" + a.warehouse}, more...)
}

// storeAll produces records of each signal, and runs the pipeline of each store over them. Some records have every field, some come twice, and one is not OTLP. more are further records.
func storeAll(t *testing.T, more ...*kgo.Record) aggregated {
	t.Helper()
	k, err := kfake.NewCluster(kfake.NumBrokers(1))
	require.NoError(t, err)
	t.Cleanup(k.Close)
	return storeAllOf(t, k.ListenAddrs()[0], more...)
}

// storeAllOf is storeAll with that Kafka.
func storeAllOf(t *testing.T, broker string, more ...*kgo.Record) aggregated {
	t.Helper()
	a, client := newAggregated(t, broker, t.TempDir())
	var records []*kgo.Record
	for _, s := range signal.All {
		for seed := range uint64(12) {
			value := otlptest.Realistic(s, seed, 20)
			if seed%4 == 0 {
				value = otlptest.Full(s, seed)
			}
			records = append(records, &kgo.Record{Topic: s.Topic(), Key: []byte{byte(seed)}, Value: value, Headers: []kgo.RecordHeader{{Key: envelope.HeaderTenant, Value: []byte("acme")}}})
		}
	}
	records = append(append(records, more...), &kgo.Record{Topic: signal.Logs.Topic(), Value: []byte("no OTLP")})
	require.NoError(t, client.ProduceSync(t.Context(), records...).FirstErr())
	for _, r := range records[:len(records)-1] { // agents and gateways send again
		if r.Key[0]%3 == 0 {
			again := &kgo.Record{Topic: r.Topic, Key: r.Key, Value: r.Value, Headers: r.Headers}
			require.NoError(t, client.ProduceSync(t.Context(), again).FirstErr())
		}
	}
	a.fill(t, client)
	return a
}

// newAggregated is a cell with topics and empty stores, the lake in dir.
func newAggregated(t *testing.T, broker, dir string) (aggregated, *kgo.Client) {
	t.Helper()
	a := aggregated{brokers: broker, catalog: filepath.Join(dir, "catalog.db"), warehouse: filepath.Join(dir, "lake"), hotDir: t.TempDir()}
	a.hot = clickhousetest.StartWith(t, chengine.Options{Dir: a.hotDir})
	client, err := kgo.NewClient(kgo.SeedBrokers(a.brokers))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	topics := []string{signal.QuarantineTopic}
	for _, s := range signal.All {
		topics = append(topics, s.Topic())
	}
	_, err = kadm.NewClient(client).CreateTopics(t.Context(), 2, 1, map[string]*string{"message.timestamp.type": kadm.StringPtr("LogAppendTime")}, topics...)
	require.NoError(t, err)
	return a, client
}

// fill runs the pipeline of each store until it has read the topics of events to their ends. Each topic has records.
func (a aggregated) fill(t *testing.T, client *kgo.Client) {
	t.Helper()
	hot := clickhouseexporter.NewFactory()
	hotStop := a.pipeline(t, audit.DefaultHotGroup, hot, map[string]any{"endpoint": a.hot.URL})
	lake := icebergexporter.NewFactory()
	lakeStop := a.pipeline(t, audit.DefaultLakeGroup, lake, map[string]any{
		"catalog": map[string]any{"type": "sql", "uri": "file:" + a.catalog, "warehouse": "file://" + a.warehouse}, "commit": map[string]any{"max_age": "100ms"},
	})
	admin := kadm.NewClient(client)
	for _, group := range []string{audit.DefaultHotGroup, audit.DefaultLakeGroup} {
		require.Eventually(t, func() bool {
			lags, err := admin.Lag(context.Background(), group)
			return err == nil && lags.Error() == nil && lags[group].Lag.Total() == 0 && len(lags[group].Lag) == len(signal.All)
		}, 2*time.Minute, 50*time.Millisecond, "group %s takes everything", group)
	}
	hotStop()
	lakeStop()
}

// pipeline runs a receiver and the exporters of one store, as a Collector does.
func (a aggregated) pipeline(t *testing.T, group string, f exporter.Factory, config map[string]any) (stop func()) {
	t.Helper()
	return a.pipelineOf(t, map[string]any{"group_id": group}, f, config)
}

// pipelineOf is pipeline with that configuration of the receiver.
func (a aggregated) pipelineOf(t *testing.T, from map[string]any, f exporter.Factory, config map[string]any) (stop func()) {
	t.Helper()
	ctx, host := t.Context(), componenttest.NewNopHost()
	cfg := f.CreateDefaultConfig()
	require.NoError(t, confmap.NewFromStringMap(config).Unmarshal(cfg))
	rf := mskreceiver.NewFactory()
	rcfg := rf.CreateDefaultConfig()
	from["brokers"], from["block"] = []any{a.brokers}, map[string]any{"max_age": "50ms"}
	require.NoError(t, confmap.NewFromStringMap(from).Unmarshal(rcfg))
	es := exporter.Settings{ID: component.NewID(f.Type()), TelemetrySettings: componenttest.NewNopTelemetrySettings()}
	rs := receiver.Settings{ID: component.NewID(rf.Type()), TelemetrySettings: componenttest.NewNopTelemetrySettings()}
	var parts []component.Component // in the order of their stop
	logs, err := f.CreateLogs(ctx, es, cfg)
	require.NoError(t, err)
	metrics, err := f.CreateMetrics(ctx, es, cfg)
	require.NoError(t, err)
	traces, err := f.CreateTraces(ctx, es, cfg)
	require.NoError(t, err)
	df := dedupeprocessor.NewFactory()
	dcfg, ds := df.CreateDefaultConfig(), processor.Settings{ID: component.NewID(df.Type()), TelemetrySettings: componenttest.NewNopTelemetrySettings()}
	logsOnce, err := df.CreateLogs(ctx, ds, dcfg, logs)
	require.NoError(t, err)
	metricsOnce, err := df.CreateMetrics(ctx, ds, dcfg, metrics)
	require.NoError(t, err)
	tracesOnce, err := df.CreateTraces(ctx, ds, dcfg, traces)
	require.NoError(t, err)
	logsIn, err := rf.CreateLogs(ctx, rs, rcfg, logsOnce)
	require.NoError(t, err)
	metricsIn, err := rf.CreateMetrics(ctx, rs, rcfg, metricsOnce)
	require.NoError(t, err)
	tracesIn, err := rf.CreateTraces(ctx, rs, rcfg, tracesOnce)
	require.NoError(t, err)
	parts = append(parts, logsIn, metricsIn, tracesIn, logsOnce, metricsOnce, tracesOnce, logs, metrics, traces)
	for i := len(parts) - 1; i >= 0; i-- {
		require.NoError(t, parts[i].Start(ctx, host))
	}
	return func() {
		for _, p := range parts {
			require.NoError(t, p.Shutdown(context.Background()))
		}
	}
}

// Scenario: the aggregator's own components fill both stores; then a row is removed from ClickHouse by hand.
// Guarantees: the audit, which shares neither decoder nor dedupe with them, first finds every row as it must be, and then what is missing; its exit
// codes and certificates say so, and a certificate that is changed afterwards is found.
func TestAuditOfTheAggregatorsOwnRows(t *testing.T) {
	a := storeAll(t)
	certificates, key := filepath.Join(t.TempDir(), "certificates"), filepath.Join(t.TempDir(), "audit.key")
	out, code, err := run(t, "audit", "key", "new", key)
	require.NoError(t, err, out)
	require.Zero(t, code)
	metrics := filepath.Join(t.TempDir(), "pulsegrid.prom")
	verdict := func() (verdict string) {
		text, err := os.ReadFile(metrics)
		require.NoError(t, err)
		for _, m := range regexp.MustCompile(`(?m)^pulsegrid_audit\{verdict="(\w+)"\} 1$`).FindAllStringSubmatch(string(text), -1) {
			verdict += m[1]
		}
		ended := regexp.MustCompile(`(?m)^pulsegrid_audit_end_time_seconds (\d+)$`).FindStringSubmatch(string(text))
		require.NotNil(t, ended, "%s", text)
		at, err := strconv.ParseInt(ended[1], 10, 64)
		require.NoError(t, err)
		require.WithinDuration(t, time.Now(), time.Unix(at, 0), time.Minute)
		return verdict
	}
	out, code, err = run(t, a.flags("--certificates", certificates, "--sign-key", key, "--rollups", "--metrics", metrics)...)
	require.NoError(t, err, out)
	require.Zero(t, code)
	require.Equal(t, "equal", verdict())
	require.Contains(t, out, "equal: each event is in each store once, as it was sent\n")

	require.Regexp(t, `WARNING: logs: \d\d\.\d % of \d+ events are copies \(limit 5 %\), \d+ by rule (content|request).* Check: agents send`, out)
	gateway := httptest.NewServer(http.NotFoundHandler())
	defer gateway.Close()
	show, code, err := run(t, "tenant", "show", "acme", "--clickhouse", strings.TrimPrefix(a.hot.URL, "http://"), "--brokers", a.brokers, "--gateway-metrics", gateway.URL)
	require.NoError(t, err, show)
	require.Zero(t, code)
	require.Contains(t, show, "copies in Kafka since ")
	require.Regexp(t, `logs, rule \w+, of a repeated request: otlp\.logs\.v1/\d/\d+#0 repeats \d+#0, tenant acme`, show)
	require.Contains(t, show, "WARNING: traces: ")
	show, _, err = run(t, "tenant", "show", "globex", "--clickhouse", strings.TrimPrefix(a.hot.URL, "http://"), "--brokers", a.brokers, "--gateway-metrics", gateway.URL, "--json")
	require.NoError(t, err, show)
	require.Contains(t, show, `{"signal":"logs","events":0,"copies":0,"rules":[]}`)

	erased := filepath.Join(t.TempDir(), "erased.yaml")
	require.NoError(t, os.WriteFile(erased, []byte("format: 1\nerasures:\n  - {id: a, by: b, at: "+time.Now().Add(time.Hour).Format(time.RFC3339)+", reason: c, tenant: acme, stores: [clickhouse]}\n"), 0o644))

	a.hot.Exec("ALTER TABLE pulsegrid.logs DELETE WHERE event_id = (SELECT min(event_id) FROM pulsegrid.logs) SETTINGS mutations_sync = 2")
	out, code, err = run(t, a.flags("--certificates", certificates, "--sign-key", key, "--json", "--metrics", metrics)...)
	require.ErrorContains(t, err, "differ")
	require.Equal(t, 1, code)
	require.Equal(t, "different", verdict())
	_, code, err = run(t, a.flags("--metrics", filepath.Join(metrics, "no", "directory"))...)
	require.ErrorContains(t, err, "differ", "what was found is told all the same")
	require.ErrorContains(t, err, "--metrics: ")
	require.Equal(t, 1, code)
	var c certificate.Certificate
	require.NoError(t, json.Unmarshal([]byte(out), &c), out)
	require.Equal(t, certificate.Faults{Lost: 1}, c.Totals[0].Faults)
	duplicates, quarantined := int64(0), int64(0)
	for _, p := range c.Partitions {
		duplicates, quarantined = duplicates+p.Duplicates, quarantined+p.Quarantined
	}
	require.Greater(t, duplicates, int64(100))
	require.Equal(t, int64(1), quarantined)
	require.Len(t, c.Differences, 1)
	file, err := os.ReadFile(filepath.Join(certificates, "certificate-000002.json"))
	require.NoError(t, err)
	require.Equal(t, string(file), out, "--json prints what is kept")

	out, code, err = run(t, a.flags("--erased", erased)...)
	require.NoError(t, err, out)
	require.Zero(t, code)
	require.Contains(t, out, "equal: each event is in each store once, as it was sent; 1 rows are missing as declared\n")
	require.Regexp(t, `a +acme +\S+ +b +c +clickhouse 1\s`, out)

	out, code, err = run(t, a.flags("--stores", "lake")...)
	require.NoError(t, err, out)
	require.Zero(t, code)

	a.hot.Kill()
	out, code, err = run(t, a.flags("--metrics", metrics)...)
	require.Error(t, err)
	require.Equal(t, 2, code)
	require.Equal(t, "incomplete", verdict())
	require.Contains(t, out, "INCOMPLETE")
	require.Contains(t, out, "does not answer")

	out, code, err = run(t, "audit", "verify", certificates)
	require.NoError(t, err)
	require.Zero(t, code)
	require.Equal(t, 3, strings.Count(out, "\n"))
	require.Contains(t, out, "2 certificates; 2 are signed, and the signatures were not checked: give --public-key\n")
	out, code, err = run(t, "audit", "verify", certificates, "--public-key", key+".pub")
	require.NoError(t, err)
	require.Zero(t, code)
	require.Contains(t, out, "2 certificates, each signed by the key, and none is missing at the end\n")
	first, err := os.ReadFile(filepath.Join(certificates, "certificate-000001.json"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(certificates, "certificate-000001.json"), []byte(strings.Replace(string(file), `"lost": 1`, `"lost": 0`, 1)), 0o644))
	_, code, err = run(t, "audit", "verify", certificates)
	require.ErrorContains(t, err, "was changed")
	require.Equal(t, 1, code)
	require.NoError(t, os.Remove(filepath.Join(certificates, "certificate-000002.json")))
	require.NoError(t, os.WriteFile(filepath.Join(certificates, "certificate-000001.json"), first, 0o644))
	_, code, err = run(t, "audit", "verify", certificates, "--public-key", key+".pub")
	require.ErrorContains(t, err, "certificates 2 to 2 are missing")
	require.Equal(t, 1, code)
}

func TestWrongAuditCommandLines(t *testing.T) {
	full := aggregated{brokers: "127.0.0.1:1", catalog: "c.db", warehouse: "w", hot: &clickhousetest.Server{URL: "http://127.0.0.1:1"}}
	for want, more := range map[string][]string{
		`--from: "never"`:        {"--from", "never"},
		"is not before":          {"--from", "1h", "--to", "2h"},
		`range "x"`:              {"--range", "x"},
		"exclude each other":     {"--range", "a/0/1-2", "--from", "1h"},
		"does not tell its":      {"--topic", "x"},
		`--stores: "x"`:          {"--stores", "x"},
		"--kafka-config":         {"--kafka-config", filepath.Join(t.TempDir(), "none.yaml")},
		"no store to audit":      {"--stores", ""},
		"max differences -1":     {"--max-differences", "-1"},
		"copies percent 101":     {"--copies-percent", "101"},
		"without --certificates": {"--sign-key", "x"},
		"--sign-key: key":        {"--certificates", "x", "--sign-key", filepath.Join(t.TempDir(), "none.key")},
		"--erased":               {"--erased", filepath.Join(t.TempDir(), "none.yaml")},
		"format: 0: want 1":      {"--erased", writeFile(t, "erasures: []")},
		`catalog type "x"`:       {"--catalog-type", "x"},
		"takes no argument":      nil,
		"auth::username":         {"--kafka-config", writeFile(t, "auth: {mechanism: plain, password: p}\ntls: {}")},
		"has invalid keys: x":    {"--kafka-config", writeFile(t, "x: 1")},
	} {
		args := full.flags(more...)
		if more == nil {
			args = append([]string{"status"}, "x")
		}
		_, code, err := run(t, args...)
		require.ErrorContains(t, err, want)
		require.Equal(t, exitUsage, code, want)
	}
	_, code, err := run(t, full.flags("--kafka-config", writeFile(t, "dial_timeout: 100ms\nrequest_timeout: 100ms"))...)
	require.ErrorContains(t, err, "could not audit: kafka at 127.0.0.1:1 does not answer")
	require.Equal(t, exitNotAudited, code)
	_, code, err = run(t, "audit", "--data", t.TempDir())
	require.ErrorContains(t, err, "pulsegrid local")
	require.Equal(t, exitNotRunning, code)
}

func writeFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kafka.yaml")
	require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
	return path
}
