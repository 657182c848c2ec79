package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"go.opentelemetry.io/collector/receiver"

	"github.com/pulsegrid/pulsegrid/exporter/clickhouseexporter"
	"github.com/pulsegrid/pulsegrid/exporter/icebergexporter"
	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/receiver/mskreceiver"
)

// Ids of two persons. No other text holds that of the first; lookalike is not hers.
const (
	person    = "person-51c0ffee"
	neighbour = "person-77abad1d"
	lookalike = "person-51c0ffe"
)

// personal are records of a tenant, one of each signal, with the person's id wherever an attribute can be. The events that carry it have the attribute `hers`.
func personal(t *testing.T, tenant string, at time.Time) []*kgo.Record {
	t.Helper()
	stamp := pcommon.NewTimestampFromTime(at)
	hers := func(m pcommon.Map) pcommon.Map { m.PutBool("hers", true); return m }

	ld := plog.NewLogs()
	resource := func(id string) plog.ScopeLogs {
		rl := ld.ResourceLogs().AppendEmpty()
		rl.Resource().Attributes().PutStr("service.name", "shop")
		if id != "" {
			rl.Resource().Attributes().PutStr("user.id", id)
		}
		return rl.ScopeLogs().AppendEmpty()
	}
	n := 0
	record := func(sl plog.ScopeLogs, user, session string) pcommon.Map {
		n++
		lr := sl.LogRecords().AppendEmpty()
		lr.SetTimestamp(stamp + pcommon.Timestamp(n))
		lr.Attributes().PutInt("n", int64(n))
		if user != "" {
			lr.Attributes().PutStr("user.id", user)
		}
		if session != "" {
			lr.Attributes().PutStr("session.id", session)
		}
		return lr.Attributes()
	}
	sl := resource("")
	hers(record(sl, person, "s-hers"))
	record(sl, neighbour, "s-other")
	twice := hers(record(sl, neighbour, ""))
	twice.PutInt("device.number", 4711)
	twice.PutStr("user-id", person) // OTLP forbids a key twice, and senders do it: see below
	record(sl, lookalike, "")
	hers(record(sl, person, "s-both"))
	record(sl, neighbour, "s-both")
	sl = resource(person)
	hers(record(sl, "", ""))
	hers(record(sl, neighbour, ""))
	sl = resource("")
	sl.Scope().Attributes().PutStr("user.id", person)
	hers(record(sl, "", "")).PutInt("device.number", 4711)
	logs, err := plogotlp.NewExportRequestFromLogs(ld).MarshalProto()
	require.NoError(t, err)
	logs = []byte(strings.Replace(string(logs), "user-id", "user.id", 1))

	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr("service.name", "shop")
	ss := rs.ScopeSpans().AppendEmpty()
	span := func(id byte) ptrace.Span {
		s := ss.Spans().AppendEmpty()
		s.SetTraceID(pcommon.TraceID{1, id})
		s.SetSpanID(pcommon.SpanID{1, id})
		s.SetStartTimestamp(stamp + pcommon.Timestamp(id))
		s.SetEndTimestamp(stamp + pcommon.Timestamp(1000*int(id)))
		return s
	}
	hers(span(1).Attributes()).PutStr("user.id", person)
	span(2).Attributes().PutStr("user.id", neighbour)
	in := span(3)
	hers(in.Attributes())
	in.Events().AppendEmpty().Attributes().PutStr("user.id", neighbour)
	in.Events().AppendEmpty().Attributes().PutStr("user.id", person)
	in = span(4)
	hers(in.Attributes()).PutInt("server.port", 4711)
	in.Links().AppendEmpty().Attributes().PutStr("user.id", person)
	traces, err := ptraceotlp.NewExportRequestFromTraces(td).MarshalProto()
	require.NoError(t, err)

	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	rm.Resource().Attributes().PutStr("service.name", "shop")
	m := rm.ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
	m.SetName("basket")
	gauge := m.SetEmptyGauge().DataPoints()
	point := func(v float64) pmetric.NumberDataPoint {
		p := gauge.AppendEmpty()
		p.SetTimestamp(stamp + pcommon.Timestamp(v))
		p.SetDoubleValue(v)
		return p
	}
	hers(point(1).Attributes()).PutStr("user.id", person)
	point(2).Attributes().PutStr("http.route", "/of/"+neighbour)
	sampled := point(3)
	hers(sampled.Attributes())
	sampled.Exemplars().AppendEmpty().FilteredAttributes().PutStr("user.id", person)
	metrics, err := pmetricotlp.NewExportRequestFromMetrics(md).MarshalProto()
	require.NoError(t, err)

	header := []kgo.RecordHeader{{Key: envelope.HeaderTenant, Value: []byte(tenant)}}
	return []*kgo.Record{
		{Topic: signal.Logs.Topic(), Key: []byte{3}, Value: logs, Headers: header}, // 3: it is sent twice
		{Topic: signal.Traces.Topic(), Key: []byte{3}, Value: traces, Headers: header},
		{Topic: signal.Metrics.Topic(), Key: []byte{3}, Value: metrics, Headers: header},
	}
}

// items are records of the quarantine: two of the person's, one of them with an event of somebody else, and others.
func items(t *testing.T, tenant string) (out []*kgo.Record) {
	t.Helper()
	item := func(of, contentType, encoding string, body []byte) {
		out = append(out, &kgo.Record{Topic: signal.QuarantineTopic, Key: []byte{1}, Value: body, Headers: []kgo.RecordHeader{
			{Key: envelope.HeaderTenant, Value: []byte(of)}, {Key: envelope.HeaderSignal, Value: []byte("logs")}, {Key: envelope.HeaderContentType, Value: []byte(contentType)},
			{Key: envelope.HeaderContentEncoding, Value: []byte(encoding)}, {Key: envelope.HeaderQuarantineCode, Value: []byte("test")},
		}})
	}
	request := func(users ...string) []byte {
		ld := plog.NewLogs()
		sl := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty()
		for _, user := range users {
			sl.LogRecords().AppendEmpty().Attributes().PutStr("user.id", user)
		}
		b, err := plogotlp.NewExportRequestFromLogs(ld).MarshalProto()
		require.NoError(t, err)
		return b
	}
	item(tenant, envelope.TypeOTLP, "", request(person, neighbour))
	item(tenant, "application/json", "", []byte(`{"user.id":"`+person+`"`))
	item(tenant, envelope.TypeOTLP, "", request(neighbour, lookalike))
	item(tenant, "application/json", "gzip", []byte("\x1f\x8b"))
	item(leaving, envelope.TypeOTLP, "", request(person))
	return out
}

// quarantined has both stores take records of the quarantine, as aggregators do.
func (a aggregated) quarantined(t *testing.T, records ...*kgo.Record) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(a.brokers))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	require.NoError(t, client.ProduceSync(t.Context(), records...).FirstErr())
	for group, store := range map[string]struct {
		factory exporter.Factory
		config  map[string]any
	}{
		"hot": {clickhouseexporter.NewFactory(), map[string]any{"endpoint": a.hot.URL}},
		"lake": {icebergexporter.NewFactory(), map[string]any{
			"catalog": map[string]any{"type": "sql", "uri": "file:" + a.catalog, "warehouse": "file://" + a.warehouse}, "commit": map[string]any{"max_age": "100ms"},
		}},
	} {
		store.config["rows"] = "quarantine_pii"
		cfg := store.factory.CreateDefaultConfig()
		require.NoError(t, confmap.NewFromStringMap(store.config).Unmarshal(cfg))
		rf := mskreceiver.NewFactory()
		rcfg := rf.CreateDefaultConfig()
		require.NoError(t, confmap.NewFromStringMap(map[string]any{
			"brokers": []any{a.brokers}, "group_id": "quarantine-" + group, "topics": map[string]any{"quarantine": []any{signal.QuarantineTopic}}, "block": map[string]any{"max_age": "50ms"},
		}).Unmarshal(rcfg))
		to, err := store.factory.CreateLogs(t.Context(), exporter.Settings{ID: component.NewID(store.factory.Type()), TelemetrySettings: componenttest.NewNopTelemetrySettings()}, cfg)
		require.NoError(t, err)
		from, err := rf.CreateLogs(t.Context(), receiver.Settings{ID: component.NewID(rf.Type()), TelemetrySettings: componenttest.NewNopTelemetrySettings()}, rcfg, to)
		require.NoError(t, err)
		require.NoError(t, to.Start(t.Context(), componenttest.NewNopHost()))
		require.NoError(t, from.Start(t.Context(), componenttest.NewNopHost()))
		require.Eventually(t, func() bool {
			lags, err := kadm.NewClient(client).Lag(context.Background(), "quarantine-"+group)
			return err == nil && lags.Error() == nil && lags["quarantine-"+group].Lag.Total() == 0 && len(lags["quarantine-"+group].Lag) == 1
		}, 2*time.Minute, 50*time.Millisecond)
		require.NoError(t, from.Shutdown(context.Background()))
		require.NoError(t, to.Shutdown(context.Background()))
	}
}

// Scenario: a person's id is in every place of an attribute, in the quarantine and in an aggregate of a tenant; another tenant has the same value. The person is erased: the job is killed
// at each step, run again, and run again when it is done. Then a replay that was not told brings her events back, and she is erased again.
// Guarantees: a dry run counts per table and changes nothing; exactly her events go, in both stores; her id is in no file of the lake but in rows of the other tenant, and in no file of
// ClickHouse but in columns of theirs; declarations do not hold it, and the audit is equal with them and not without; one more row that lacks is lost all the same; a replay that is told
// leaves her events away.
func erasesAPerson(t *testing.T, a aggregated, declarations string, search func(text string, but ...string) []string) {
	t.Helper()
	a.quarantined(t, items(t, "acme")...)
	config, day := a.configFile(t), personalTime()
	job := func(code int, kind string, more ...string) string {
		t.Helper()
		return ends(t, code, append([]string{"job", "run", kind, "--config", config}, more...)...)
	}
	aggregate := []string{"--model", "sessions_1d", "--from", day.Format(time.DateOnly), "--to", day.AddDate(0, 0, 1).Format(time.DateOnly), "--quiet"}
	job(0, "aggregate", aggregate...)
	sessions := func() string {
		return a.hot.Query("SELECT session_id, user_id, events FROM pulsegrid.sessions_1d WHERE tenant_id = 'acme' AND session_id LIKE 's-%' ORDER BY 1")
	}
	require.Equal(t, "s-both\t"+neighbour+"\t2\ns-hers\t"+person+"\t1\ns-other\t"+neighbour+"\t1", sessions())
	for table := range strings.FieldsSeq(a.hot.Query("SELECT name FROM system.tables WHERE database = 'pulsegrid' AND engine LIKE '%MergeTree'")) {
		a.hot.Exec("ALTER TABLE pulsegrid." + table + " MODIFY SETTING old_parts_lifetime = 1, cleanup_delay_period = 1, max_cleanup_delay_period = 1, cleanup_delay_period_random_add = 0")
	}
	const hers = "tenant_id = 'acme' AND attributes_bool['hers']"
	rows := func(where string) (out string) {
		for _, table := range []string{"logs", "metrics", "spans"} {
			out += table + " " + a.hot.Query("SELECT count(), sum(cityHash64(*)) FROM pulsegrid."+table+" WHERE "+where) + "\n"
		}
		return out
	}
	others, whole := rows("NOT ("+hers+")"), rows(hers)
	file := filepath.Join(t.TempDir(), "ids.txt")
	require.NoError(t, os.WriteFile(file, []byte("nobody\n\n"+person+"\r\n"), 0o600))
	chosen := []string{"--tenant", "acme", "--attribute", "user.id", "--values", file}
	declared := append(chosen, "--id", "GDPR-P1", "--by", "privacy@example.com", "--reason", "Art. 17", "--declare", declarations)

	for args, want := range map[string]string{
		"--values " + file:    "--attribute: want KEY=VALUE",
		"--attribute user.id": "--attribute: want KEY=VALUE",
		"--attribute user.id=" + person + " --values " + file: "--attribute: want KEY=VALUE",
		"--attribute user.id=":                                "--attribute: value 1: must have 1 to 4096 bytes",
		"--attribute user.id --values " + os.DevNull:          "--attribute: there is no value",
		"--attribute user.id --values " + file + ".none":      "no such file",
		"--attribute =x":                                      "--attribute: the attribute's key must have",
	} {
		said := job(2, "erasure", append([]string{"--tenant", "acme", "--dry-run"}, strings.Fields(args)...)...)
		require.Contains(t, said, want)
		require.NotContains(t, said, person)
	}
	// Integers match by their digits: in maps, and in promoted columns.
	for _, table := range []string{`ClickHouse +logs +2 +2`, `lake +logs +2 +2`} {
		require.Regexp(t, table, job(0, "erasure", "--tenant", "acme", "--attribute", "device.number=4711", "--dry-run"))
	}
	for _, table := range []string{`ClickHouse +spans +1 +1`, `lake +spans +1 +1`} {
		require.Regexp(t, table, job(0, "erasure", "--tenant", "acme", "--attribute", "server.port=4711", "--dry-run"))
	}
	counts := map[string]string{"logs": "6", "spans": "3", "metrics": "2", "quarantine_pii": "2", "sessions_1d": "1", "logs_10s": "0", "metrics_1h": "0"}
	said := job(0, "erasure", append(chosen, "--dry-run")...)
	for table, n := range counts {
		require.Regexp(t, `(?m)^ClickHouse +`+table+` +`+n+` +`+n+`$`, said)
		if !strings.Contains(table, "_1") {
			require.Regexp(t, `(?m)^lake +`+table+` +`+n+` +`+n+`$`, said)
		}
	}
	for _, note := range []string{"nothing was changed", "quarantine_pii: 1 events of others", "quarantine_pii: 1 items were not looked into", "Kafka has forgotten it "} {
		require.Contains(t, said, note)
	}
	require.Equal(t, whole, rows(hers))
	require.NotEmpty(t, search(person, leaving))

	plan := regexp.MustCompile(`erasures\.yaml\.plan-`)
	for _, step := range []string{"erasure-mutating", "erasure-hot", "erasure-lake"} {
		killedAt(t, step+"=kill", append([]string{"job", "run", "erasure", "--config", config}, declared...)...)
		require.NoFileExists(t, declarations)
		require.Regexp(t, plan, strings.Join(names(t, filepath.Dir(declarations)), " "))
	}
	said = job(0, "erasure", declared...)
	require.NotRegexp(t, `(?m)^(ClickHouse|lake) +\S+ +\d+ +[1-9]`, said)
	require.NotContains(t, said, person)
	require.Equal(t, []string{"erasures.yaml"}, names(t, filepath.Dir(declarations)), "no plan is left")
	text, err := os.ReadFile(declarations)
	require.NoError(t, err)
	require.NotContains(t, string(text), person)
	require.Contains(t, string(text), "attribute: user.id")

	gone := func() {
		t.Helper()
		require.Equal(t, others, rows("NOT ("+hers+")"))
		require.Regexp(t, `^(\w+ 0\t0\n){3}$`, rows(hers))
		require.Empty(t, search(person, leaving))
		require.NotEmpty(t, search(person), "the other tenant's")
		require.NotContains(t, sessions(), person)
		require.Equal(t, "0", a.partsBefore("erasing_"))
		require.Equal(t, "0", a.hot.Query("SELECT count() FROM system.mutations WHERE position(command, concat('person-51', 'c0ffee')) > 0"))
		require.Equal(t, "0", a.hot.Query("SELECT count() FROM system.tables WHERE name LIKE 'erasing%'"))
		require.Equal(t, "1\t1", a.hot.Query("SELECT countIf(tenant_id = 'acme' AND content_encoding = ''), countIf(tenant_id = '"+leaving+"') FROM pulsegrid.quarantine_pii WHERE code = 'test'"))
	}
	gone()
	audit := func(code int, more ...string) string {
		t.Helper()
		return ends(t, code, a.flags(more...)...)
	}
	audit(1)
	audit(0, "--erased", declarations, "--quick")
	var certificate struct {
		Erasures []struct {
			Attribute string
			Events    map[string]int64
		}
	}
	require.NoError(t, json.Unmarshal([]byte(audit(0, "--erased", declarations, "--json")), &certificate))
	require.Equal(t, "user.id", certificate.Erasures[0].Attribute)
	require.Equal(t, map[string]int64{"clickhouse": 11, "lake": 11}, certificate.Erasures[0].Events)

	// Rollups still count her, and aggregates, until they are built anew.
	job(0, "rollups", "--quiet")
	audit(0, "--erased", declarations, "--rollups")
	job(0, "aggregate", append(aggregate, "--accept-rows")...)
	require.Equal(t, "s-both\t"+neighbour+"\t1\ns-other\t"+neighbour+"\t1", sessions())

	require.Contains(t, job(0, "erasure", declared...), "declared in "+declarations+" already")
	again := append(append([]string{}, declared...), "--id", "GDPR-P2")
	require.Contains(t, job(0, "erasure", again...), "nothing is declared")

	// Another row of the same record lacks: nobody declared it.
	a.hot.Exec("DELETE FROM pulsegrid.logs WHERE tenant_id = 'acme' AND attributes_int['n'] = 2 AND attr_user_id = '" + neighbour + "'")
	audit(1, "--erased", declarations)
	require.Contains(t, job(0, "replay", "--erased", declarations, "--quiet"), "1 events were missing")
	gone()
	_, _, _ = run(t, "job", "run", "replay", "--config", config, "--quiet") // the lake still lacks them, and it says so
	require.Equal(t, whole, rows(hers))
	require.Contains(t, job(2, "erasure", declared...), "give another id")
	require.Regexp(t, `(?m)^ClickHouse +logs +6 +0$`, job(0, "erasure", again...))
	gone()
	audit(0, "--erased", declarations)

	// A value that is part of a rollup's key.
	job(0, "rollups", "--quiet")
	route := []string{"--tenant", "acme", "--attribute", "http.route=/of/" + neighbour, "--id", "GDPR-P3", "--by", "me", "--reason", "asked", "--declare", declarations}
	said = job(0, "erasure", route...)
	for _, table := range []string{"metrics", "metrics_10s", "metrics_1m", "metrics_1h"} {
		require.Regexp(t, `(?m)^ClickHouse +`+table+` +1 +0$`, said)
	}
	audit(0, "--erased", declarations, "--rollups")
}

// partsBefore is the number of parts on ClickHouse's disk that mutations with a text in their command have replaced.
func (a aggregated) partsBefore(command string) string {
	return a.hot.Query("SELECT count() FROM system.parts AS p JOIN (SELECT table, max(arrayMax(block_numbers.number)) AS version FROM system.mutations WHERE position(command, '" + command +
		"') > 0 GROUP BY table) AS m ON m.table = p.table WHERE NOT p.active AND p.data_version < m.version")
}

// personalTime is when the person's events happened: on a day that is over.
var personalTime = sync.OnceValue(func() time.Time { return time.Now().UTC().AddDate(0, 0, -2).Truncate(24 * time.Hour) })

func names(t *testing.T, dir string) (out []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}
