package main

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"go.uber.org/goleak"

	"github.com/pulsegrid/pulsegrid/internal/chengine"
	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/leaktest"
)

// commandVariable makes the test binary the command, with the arguments that it holds, a line each: for tests that kill it.
const commandVariable = "PULSEGRID_TEST_COMMAND"

func TestMain(m *testing.M) {
	chengine.RunChildIfAsked()
	if args := os.Getenv(commandVariable); args != "" {
		os.Args = append(os.Args[:1], strings.Split(args, "\n")...)
		main()
		os.Exit(0)
	}
	sarama := goleak.IgnoreTopFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick") // for the life of the process
	goleak.VerifyTestMain(leaktest.Patient(m, sarama), sarama)
}

// run runs the command line as main does.
func run(t *testing.T, args ...string) (stdout string, code int, err error) {
	t.Helper()
	root := newRoot()
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs(args)
	err = root.ExecuteContext(t.Context())
	return out.String(), exitCode(err), err
}

// ends runs a command line that must end with an exit code, and returns what it printed, with its error.
func ends(t *testing.T, code int, args ...string) string {
	t.Helper()
	out, got, err := run(t, args...)
	require.Equal(t, code, got, "%v\n%s", err, out)
	if err != nil {
		out += err.Error()
	}
	return out
}

func TestEveryCommandHasAnExample(t *testing.T) {
	for _, c := range newRoot().Commands() {
		if c.Name() != "help" && !c.Hidden {
			require.NotEmpty(t, c.Example, c.Name())
		}
	}
}

func TestWrongCommandLinesExitWith2AndSayWhatIsWrong(t *testing.T) {
	for want, args := range map[string][]string{
		`"frob"`:               {"frob"},
		"--bad":                {"local", "--bad"},
		"takes no argument":    {"status", "x"},
		"SQL in quotes":        {"query"},
		`--from "never"`:       {"tail", "--from", "never"},
		`"profiles"`:           {"tail", "--signal", "profiles"},
		"--limit -1":           {"tail", "--limit", "-1"},
		"name at least one":    {"validate"},
		`want HOST:PORT`:       {"local", "--grpc", "x", "--collector", os.Args[0]},
		`--kafka-port 99999`:   {"local", "--kafka-port", "99999", "--collector", os.Args[0]},
		"--data is empty":      {"local", "--data", "", "--collector", os.Args[0]},
		`invalid argument "x"`: {"local", "--kafka-port", "x"},
	} {
		_, code, err := run(t, args...)
		require.ErrorContains(t, err, want, "%v", args)
		require.Equal(t, exitUsage, code, "%v: %v", args, err)
	}
}

func TestCommandsThatNeedACellExitWith3AndSayHowToStartOne(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{{"status"}, {"query", "SELECT 1"}, {"tail"}} {
		_, code, err := run(t, append(args, "--data", dir)...)
		require.Equal(t, exitNotRunning, code)
		require.ErrorContains(t, err, "pulsegrid local")
	}
}

func TestAMissingCollectorNamesTheMakeTarget(t *testing.T) {
	_, code, err := run(t, "validate", "c.yaml")
	require.Equal(t, exitFailed, code)
	require.ErrorContains(t, err, "make build")
}

func TestValidateTellsEachConfigsProblem(t *testing.T) {
	dir := t.TempDir()
	collector := filepath.Join(dir, "collector")
	script := `#!/bin/sh
case "$2" in *bad.yaml)
  echo "Error: exporters::msk: brokers: is empty" >&2
  echo "" >&2
  echo "2026-01-01T00:00:00Z error collector server run finished with error {}" >&2
  exit 1;;
esac`
	require.NoError(t, os.WriteFile(collector, []byte(script), 0o755))
	good, bad := filepath.Join(dir, "good.yaml"), filepath.Join(dir, "bad.yaml")
	require.NoError(t, os.WriteFile(good, nil, 0o644))
	require.NoError(t, os.WriteFile(bad, nil, 0o644))
	out, code, err := run(t, "validate", "--collector", collector, good, bad, filepath.Join(dir, "none.yaml"))
	require.Equal(t, exitFailed, code)
	require.ErrorContains(t, err, "2 of 3")
	require.Contains(t, out, "good.yaml: valid\n")
	require.Contains(t, out, "bad.yaml: invalid\n  exporters::msk: brokers: is empty\n")
	require.NotContains(t, out, "run finished")
	require.Contains(t, out, "no such file")
}

// Guarantee: a pipeline whose components are right one by one and wrong together is invalid, with the fix; variables are this process's.
func TestValidateTellsPipelinesThatAreComposedWrongly(t *testing.T) {
	dir := t.TempDir()
	collector, config := filepath.Join(dir, "collector"), filepath.Join(dir, "c.yaml")
	require.NoError(t, os.WriteFile(collector, []byte("#!/bin/sh\n"), 0o755))
	require.NoError(t, os.WriteFile(config, []byte(`
processors:
  schema_validation: {policy: {mode: "${env:PULSEGRID_SCHEMA_MODE:-warn}"}}
exporters:
  msk: {max_record_bytes: 900000}
service:
  pipelines:
    logs/ingest: {receivers: [ingest], processors: [batch, quarantine, schema_validation], exporters: [msk]}
`), 0o644))
	t.Setenv("PULSEGRID_SCHEMA_MODE", "enforce")
	out, code, err := run(t, "validate", "--collector", collector, config)
	require.Equal(t, exitFailed, code)
	require.ErrorContains(t, err, "1 of 1")
	for _, want := range []string{"processor batch acknowledges", "processor quarantine comes before schema_validation", "max_record_bytes of processor quarantine is 900000, and of exporter msk 900000"} {
		require.Contains(t, out, "service::pipelines::logs/ingest: "+want)
	}
}

func TestQueryPrintsTheAnswerAndMakesErrorsReadable(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("default_format") != "CSVWithNames" || r.URL.Query().Get("database") != "pulsegrid" {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write([]byte("Code: 62. DB::Exception: Syntax error: failed. Expected one of: " + strings.Repeat("SELECT, ", 100) + " (version 26.7.2.1 (official build))\n"))
			return
		}
		_, _ = w.Write([]byte("a\n1\n"))
	}))
	defer server.Close()
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	var out bytes.Buffer
	require.NoError(t, question{endpoint: server.URL, sql: "SELECT 1", format: outputFormats["csv"]}.ask(t.Context(), &out))
	require.Equal(t, "a\n1\n", out.String())
	require.EqualError(t, question{endpoint: server.URL, sql: "SELECT", format: "JSON"}.ask(t.Context(), &out), "Syntax error: failed. [ClickHouse error 62]")
	require.ErrorContains(t, question{endpoint: "http://127.0.0.1:1", sql: "SELECT 1", format: "JSON"}.ask(t.Context(), &out), "does not answer")
}

func TestVersionIsPrinted(t *testing.T) {
	out, code, err := run(t, "version")
	require.NoError(t, err)
	require.Zero(t, code)
	require.Contains(t, out, "pulsegrid dev")
}

// produced fills a Kafka with one record of each signal, of two tenants, and one that is no OTLP.
func produced(t *testing.T) (brokers string) {
	t.Helper()
	topics := []string{signal.Logs.Topic(), signal.Metrics.Topic(), signal.Traces.Topic()}
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, topics...))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	brokers = cluster.ListenAddrs()[0]

	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	logs := plog.NewLogs()
	rl := logs.ResourceLogs().AppendEmpty()
	rl.Resource().Attributes().PutStr("service.name", "checkout")
	lr := rl.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	lr.Body().SetStr("card\nrefused \x1b[31m")
	lr.SetSeverityText("ERROR")
	lr.Attributes().PutInt("code", 7)
	lr.SetTimestamp(pcommon.NewTimestampFromTime(at))
	logValue, err := plogotlp.NewExportRequestFromLogs(logs).MarshalProto()
	require.NoError(t, err)

	metrics := pmetric.NewMetrics()
	m := metrics.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
	m.SetName("load")
	m.SetEmptyGauge().DataPoints().AppendEmpty().SetIntValue(3)
	h := metrics.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().AppendEmpty()
	h.SetName("latency")
	p := h.SetEmptyHistogram().DataPoints().AppendEmpty()
	p.SetCount(2)
	p.SetSum(1.5)
	metricValue, err := pmetricotlp.NewExportRequestFromMetrics(metrics).MarshalProto()
	require.NoError(t, err)

	traces := ptrace.NewTraces()
	span := traces.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans().AppendEmpty()
	span.SetName("GET /")
	span.SetStartTimestamp(pcommon.NewTimestampFromTime(at))
	span.SetEndTimestamp(pcommon.NewTimestampFromTime(at.Add(5 * time.Millisecond)))
	spanValue, err := ptraceotlp.NewExportRequestFromTraces(traces).MarshalProto()
	require.NoError(t, err)

	client, err := kgo.NewClient(kgo.SeedBrokers(brokers))
	require.NoError(t, err)
	defer client.Close()
	record := func(s signal.Signal, tenant string, value []byte) *kgo.Record {
		return &kgo.Record{Topic: s.Topic(), Value: value, Headers: []kgo.RecordHeader{
			{Key: envelope.HeaderTenant, Value: []byte(tenant)}, {Key: envelope.HeaderSignal, Value: []byte(s.String())},
		}}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	require.NoError(t, client.ProduceSync(ctx,
		record(signal.Logs, "acme", logValue), record(signal.Metrics, "acme", metricValue), record(signal.Traces, "other", spanValue),
		&kgo.Record{Topic: signal.Logs.Topic(), Value: []byte("no OTLP")}, // and no headers
	).FirstErr())
	return brokers
}

func TestTailPrintsOneLineAnEvent(t *testing.T) {
	brokers := produced(t)
	out, _, err := run(t, "tail", "--brokers", brokers, "--from", "earliest", "--limit", "5")
	require.NoError(t, err)
	require.Equal(t, 5, strings.Count(out, "\n"), out)
	require.Contains(t, out, "03:04:05.000 acme logs checkout ERROR card refused  [31m code=7\n", "what a client sent must not drive the terminal")
	require.Contains(t, out, "acme metrics - load 3\n")
	require.Contains(t, out, "acme metrics - latency count=2 sum=1.5\n")
	require.Contains(t, out, "03:04:05.000 other traces - GET / 5ms\n")
	require.Contains(t, out, "- logs - UNREADABLE")

	out, _, err = run(t, "tail", "--brokers", brokers, "--from", "earliest", "--limit", "1", "--tenant", "acme", "--service", "checkout", "--json")
	require.NoError(t, err)
	require.Contains(t, out, `"service":"checkout"`)
	require.Contains(t, out, `"attributes":{"code":7}`)

	out, _, err = run(t, "tail", "--brokers", brokers, "--from", "earliest", "--limit", "1", "--signal", "traces")
	require.NoError(t, err)
	require.Contains(t, out, "GET /")
}

func TestTailEndsQuietlyWhenInterrupted(t *testing.T) {
	brokers := produced(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	interrupted, interrupt := context.WithCancel(ctx)
	time.AfterFunc(100*time.Millisecond, interrupt)
	require.NoError(t, tail(interrupted, &bytes.Buffer{}, tailOptions{reach: reach{brokers: brokers}, from: "latest"}))
}
