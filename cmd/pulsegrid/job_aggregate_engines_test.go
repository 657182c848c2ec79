package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/pytest"
)

// telemetryOfDevices are log records and spans of two tenants, one every seven minutes for eight hours, of devices and sessions. Every fifth reaches the gateway 90 minutes late.
func telemetryOfDevices(t *testing.T, at time.Time) (out []*kgo.Record) {
	t.Helper()
	for i := range 68 {
		happened := at.Add(time.Duration(i)*7*time.Minute + time.Duration(i)*123_456_789)
		received := happened.Add(time.Second)
		if i%5 == 0 {
			received = happened.Add(90 * time.Minute)
		}
		record := func(s signal.Signal, value []byte, err error) {
			require.NoError(t, err)
			out = append(out, &kgo.Record{Topic: s.Topic(), Key: []byte{1, byte(i)}, Value: value, Headers: []kgo.RecordHeader{
				{Key: envelope.HeaderTenant, Value: []byte([]string{"acme", "globex"}[i%2])}, {Key: envelope.HeaderReceivedNanos, Value: []byte(strconv.FormatInt(received.UnixNano(), 10))},
			}})
		}
		ld := plog.NewLogs()
		rl := ld.ResourceLogs().AppendEmpty()
		rl.Resource().Attributes().PutStr("service.name", fmt.Sprint("service-", i%3))
		lr := rl.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
		lr.SetTimestamp(pcommon.NewTimestampFromTime(happened))
		lr.SetSeverityNumber(plog.SeverityNumber(i % 25))
		switch i % 6 {
		case 0, 1:
			rl.Resource().Attributes().PutStr("device.id", fmt.Sprint("dévice'\n", i%4))
		case 2:
			lr.Attributes().PutStr("device.id", fmt.Sprint("dévice'\n", i%4))
		case 3: // a number is an id, too
			rl.Resource().Attributes().PutInt("device.id", int64(i))
			lr.Attributes().PutStr("device.id", "behind")
		case 4:
			rl.Resource().Attributes().PutStr("device.id", "")
		}
		if i%4 != 0 {
			lr.Attributes().PutStr("session.id", fmt.Sprint("session-", i%7))
		}
		if i%3 == 0 {
			lr.Attributes().PutStr("user.id", fmt.Sprint("user-", i%5))
		}
		value, err := plogotlp.NewExportRequestFromLogs(ld).MarshalProto()
		record(signal.Logs, value, err)

		td := ptrace.NewTraces()
		rs := td.ResourceSpans().AppendEmpty()
		rs.Resource().Attributes().PutStr("service.name", fmt.Sprint("service-", i%3))
		span := rs.ScopeSpans().AppendEmpty().Spans().AppendEmpty()
		span.SetTraceID(pcommon.TraceID{1, byte(i)})
		span.SetSpanID(pcommon.SpanID{1, byte(i)})
		span.SetStartTimestamp(pcommon.NewTimestampFromTime(happened))
		span.SetEndTimestamp(pcommon.NewTimestampFromTime(happened.Add(time.Duration(i) * time.Millisecond)))
		span.SetKind(ptrace.SpanKind(i % 6))
		span.Status().SetCode(ptrace.StatusCode(i % 3))
		value, err = ptraceotlp.NewExportRequestFromTraces(td).MarshalProto()
		record(signal.Traces, value, err)
	}
	return out
}

// Scenario: events of two days, some of them late, that the aggregators have stored in ClickHouse and in the lake.
// Guarantees: DuckDB over the lake gives each shipped model the table that ClickHouse gives it over its own rows, to the byte, and so again; it finds then nothing to build, and publishes
// no watermark of ClickHouse. A DuckDB that dies, a query that fails, gives NULL or fails a test leave the table as it was.
func TestAggregatesByDuckDBAreThoseByClickHouse(t *testing.T) {
	day := time.Now().UTC().Truncate(24 * time.Hour).Add(-72 * time.Hour)
	a := storeAll(t, telemetryOfDevices(t, day.Add(20*time.Hour))...)
	real := pytest.DuckDB(t)
	t.Setenv(duckDBVariable, real)
	names := []string{"device_features_1h", "error_budget_1h", "sessions_1d"}
	rangeOf := []string{"--config", a.configFile(t), "--from", day.Add(20 * time.Hour).Format(time.RFC3339), "--to", day.Add(29 * time.Hour).Format(time.RFC3339), "--quiet"}
	build := func(code int, more ...string) string {
		t.Helper()
		return ends(t, code, append(append([]string{"job", "run", "aggregate"}, rangeOf...), more...)...)
	}
	shipped := func(code int, more ...string) string {
		t.Helper()
		for _, name := range names {
			more = append(more, "--model", name)
		}
		return build(code, more...)
	}
	tables := func() (out []string) {
		for _, name := range names {
			out = append(out, a.hot.Query("SELECT count(), sum(cityHash64(*)), groupBitXor(cityHash64(*)) FROM pulsegrid."+name),
				a.hot.Query("SELECT * FROM pulsegrid."+name+" ORDER BY ALL"))
		}
		return out
	}
	shipped(0, "--engine", "clickhouse")
	want := tables()
	for i, name := range names {
		require.Greater(t, strings.Count(want[2*i+1], "\n"), 10, name)
	}
	require.NotEmpty(t, a.hot.Query("SELECT 1 FROM pulsegrid.logs WHERE time_source = 'event' AND toStartOfHour(time) < toStartOfHour(ingest_time) LIMIT 1"), "late ones")

	out := shipped(0, "--engine", "duckdb")
	require.Equal(t, want, tables())
	built := `(?m)^error_budget_1h +\S+ +([1-9]\d*) +0 +0 +0 +0 +-$`
	require.Regexp(t, built, out)
	require.Regexp(t, `(?m)^error_budget_1h +\S+ +0 +[1-9]\d* +0 +0 +0 +-$`, shipped(0, "--engine", "duckdb"))
	require.Regexp(t, built, build(0, "--engine", "duckdb", "--model", "error_budget_1h", "--again"))
	require.Equal(t, want, tables())

	// Without a range the model's watermark is published, by how far the lake is.
	ends(t, 0, append(append([]string{"job", "run", "aggregate"}, rangeOf[:2]...), "--quiet", "--engine", "duckdb", "--model", "error_budget_1h")...)
	require.Equal(t, "error_budget_1h", a.hot.Query("SELECT name FROM pulsegrid.aggregate_watermarks"))
	want = tables()

	program := filepath.Join(t.TempDir(), "duckdb")
	runs := program + ".runs"
	fails := func(at int, how, text string) {
		t.Helper()
		require.NoError(t, os.WriteFile(program, fmt.Appendf(nil, "#!/bin/sh\necho >>'%[1]s'\n[ $(wc -l <'%[1]s') != %[2]d ] || %[3]s\nexec '%[4]s' \"$@\"\n", runs, at, how, real), 0o700))
		require.NoError(t, os.RemoveAll(runs))
		t.Setenv(duckDBVariable, program)
		require.Contains(t, build(1, "--engine", "duckdb", "--model", "error_budget_1h", "--again"), text, "run %d", at)
		require.Equal(t, want, tables())
	}
	for _, at := range []int{1, 3, 5} { // two to look at the query, one to count, and then the partitions
		fails(at, "kill -9 $$", "signal: killed")
	}
	fails(5, "{ '"+real+"' \"$@\" | head -c 60; exit 0; }", "the answer of DuckDB is not whole: 60 bytes")
	t.Setenv(duckDBVariable, real)
	build(0, "--engine", "duckdb", "--model", "error_budget_1h")
	require.Equal(t, want, tables())
	require.Empty(t, a.hot.Query("SELECT name FROM system.tables WHERE database = 'pulsegrid' AND name LIKE '%staged%'"))

	const counts = "SELECT tenant_id, {from:TIMESTAMPTZ} AS time, count(*) AS requests, "
	for text, query := range map[string]string{
		"query: DuckDB: Binder Error: Referenced column \"tenant\" not found": "SELECT tenant AS tenant_id, 1 AS n FROM spans",
		"column allowed: the query gives NULL":                                counts + "0 AS errors, NULL AS allowed FROM spans GROUP BY tenant_id",
		"holds: rows for which this is not true: errors <= requests":          counts + "1000000 AS errors, 1 AS allowed FROM spans GROUP BY tenant_id",
		"DuckDB: Conversion Error":                                            "SELECT tenant_id, {from:TIMESTAMPTZ} AS time, -count(*) AS requests, 0 AS errors, 1 AS allowed FROM spans GROUP BY tenant_id",
		"query: it reads logs, which is not in the model's sources":           "SELECT tenant_id FROM logs",
		"unique: ": "SELECT tenant_id, {from:TIMESTAMPTZ} AS time, 1 AS requests, 0 AS errors, 1 AS allowed FROM spans",
	} {
		out := build(1, "--models", modelsWith(t, "error_budget_1h", query, "clickhouse, duckdb"), "--engine", "duckdb", "--to", day.Add(21*time.Hour).Format(time.RFC3339))
		require.Contains(t, out, text)
		require.Equal(t, want, tables())
	}

	t.Setenv(duckDBVariable, program+".none")
	out = shipped(1, "--engine", "duckdb")
	require.Contains(t, out, "model error_budget_1h: engines: this cell has no duckdb: its command line is missing: install it, or name the program in PULSEGRID_DUCKDB: ")
	out = build(1, "--models", modelsWith(t, "error_budget_1h", "SELECT 1", "athena, duckdb"))
	require.Contains(t, out, "engines: this cell has no athena: this version does not build by it\nthis cell has no duckdb: ")
	require.Equal(t, want, tables())
}

// modelsWith is a directory with a shipped model that has these engines, and a query of DuckDB.
func modelsWith(t *testing.T, name, query, engines string) string {
	t.Helper()
	dir, shipped := t.TempDir(), filepath.Join("..", "..", "internal", "aggregate", "models", name)
	definition, err := os.ReadFile(shipped + ".yaml")
	require.NoError(t, err)
	sql, err := os.ReadFile(shipped + ".sql")
	require.NoError(t, err)
	for ext, text := range map[string]string{".yaml": strings.Replace(string(definition), "[clickhouse, duckdb]", "["+engines+"]", 1), ".sql": string(sql), ".duckdb.sql": query} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name+ext), []byte(text), 0o600))
	}
	return dir
}
