package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/pulsegrid/pulsegrid/exporter/clickhouseexporter"
	"github.com/pulsegrid/pulsegrid/exporter/icebergexporter"
	"github.com/pulsegrid/pulsegrid/internal/audit"
	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/settle"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/clickhousetest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/pytest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/s3test"
)

//go:embed testdata/lakerows.py
var lakeRowsScript string

// Flags of TestTwoCellsAreSettled.
var (
	settleEvents = flag.Int("settle-events", 2000, "events that both cells have; from 100,000 on it prints figures")
	settleKills  = flag.String("settle-kills", "some", "at which steps the job is killed: none, some, all")
)

// settleLong is how many events make the test long.
const settleLong = 100_000

// region is a cell whose stores the aggregator's own components fill: Kafka, ClickHouse, and a lake on S3.
type region struct {
	aggregated
	name   string
	config string // of its aggregators
	client *kgo.Client
	lake   map[string]any
	large  bool
	t      *testing.T
}

func newRegion(t *testing.T, name string, s3 *s3test.Server, large bool) *region {
	t.Helper()
	k, err := kfake.NewCluster(kfake.NumBrokers(1))
	require.NoError(t, err)
	t.Cleanup(k.Close)
	dir := t.TempDir()
	r := &region{t: t, name: name, large: large, config: filepath.Join(dir, "aggregator.yaml")}
	r.brokers, r.catalog, r.warehouse, r.hot = k.ListenAddrs()[0], filepath.Join(dir, "catalog.db"), "s3://"+s3.CreateBucket(name)+"/lake", clickhousetest.Start(t)
	r.client, err = kgo.NewClient(kgo.SeedBrokers(r.brokers), kgo.MaxBufferedRecords(500))
	require.NoError(t, err)
	t.Cleanup(r.client.Close)
	topics := []string{signal.QuarantineTopic}
	for _, s := range signal.All {
		topics = append(topics, s.Topic())
	}
	_, err = kadm.NewClient(r.client).CreateTopics(t.Context(), 2, 1, map[string]*string{"message.timestamp.type": kadm.StringPtr("LogAppendTime")}, topics...)
	require.NoError(t, err)
	age := "100ms"
	if large {
		age = "5s"
	}
	r.lake = map[string]any{
		"catalog": map[string]any{"type": "sql", "uri": "file:" + r.catalog, "warehouse": r.warehouse}, "commit": map[string]any{"max_age": age},
		"s3": map[string]any{"endpoint": s3.Endpoint, "region": s3test.Region, "access_key_id": s3test.AccessKey, "secret_access_key": s3test.SecretKey, "path_style": true},
	}
	lake, err := json.Marshal(r.lake) // which is YAML
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(r.config, []byte(`
receivers:
  msk/hot: {brokers: [`+r.brokers+`], group_id: pulsegrid-hot}
  msk/lake: {brokers: [`+r.brokers+`], group_id: pulsegrid-lake}
processors:
  dedupe: {window: 15m}
exporters:
  pulsegrid_clickhouse: {endpoint: `+r.hot.URL+`}
  iceberg: `+string(lake)+`
service:
  pipelines:
    logs/hot: {receivers: [msk/hot], processors: [dedupe], exporters: [pulsegrid_clickhouse]}
    metrics/hot: {receivers: [msk/hot], processors: [dedupe], exporters: [pulsegrid_clickhouse]}
    traces/hot: {receivers: [msk/hot], processors: [dedupe], exporters: [pulsegrid_clickhouse]}
    logs/lake: {receivers: [msk/lake], processors: [dedupe], exporters: [iceberg]}
`), 0o600))
	return r
}

// acknowledge puts requests into the cell's Kafka, as its gateway does: with its own time of receipt.
func (r *region) acknowledge(received time.Time, records ...*kgo.Record) {
	r.t.Helper()
	for some := range slices.Chunk(records, 200) {
		own := make([]*kgo.Record, len(some))
		for i, of := range some {
			headers := append(slices.Clone(of.Headers), kgo.RecordHeader{Key: envelope.HeaderReceivedNanos, Value: strconv.AppendInt(nil, received.UnixNano(), 10)})
			own[i] = &kgo.Record{Topic: of.Topic, Key: of.Key, Value: of.Value, Headers: headers}
		}
		require.NoError(r.t, r.client.ProduceSync(r.t.Context(), own...).FirstErr())
	}
}

// store has stores take what is in Kafka.
func (r *region) store(groups ...string) {
	r.t.Helper()
	for _, group := range groups {
		var stop func()
		if group == audit.DefaultHotGroup {
			stop = r.pipeline(r.t, group, clickhouseexporter.NewFactory(), map[string]any{"endpoint": r.hot.URL})
		} else {
			stop = r.pipeline(r.t, group, icebergexporter.NewFactory(), maps.Clone(r.lake))
		}
		require.Eventually(r.t, func() bool {
			lags, err := kadm.NewClient(r.client).Lag(context.Background(), group)
			return err == nil && lags.Error() == nil && lags[group].Lag.Total() == 0 && len(lags[group].Lag) == len(signal.All)
		}, 20*time.Minute, 50*time.Millisecond, "group %s takes everything", group)
		stop()
	}
}

// inHot and inLakes are, by table, tenant and service, the number of rows and the sum of their event ids.
func (r *region) inHot() map[string]string {
	r.t.Helper()
	out := map[string]string{}
	for _, table := range []string{"logs", "metrics", "spans"} {
		for line := range strings.Lines(r.hot.Query("SELECT tenant_id, service_name, count(), sum(reinterpretAsUInt128(event_id)) FROM pulsegrid."+table+" GROUP BY ALL") + "\n") {
			if f := strings.Fields(line); len(f) > 0 {
				out[table+" "+f[0]+" "+f[1]] = f[2] + " " + f[3]
			}
		}
	}
	return out
}

func inLakes(t *testing.T, of ...*region) (out []map[string]string) {
	t.Helper()
	s3 := of[0].lake["s3"].(map[string]any)
	properties, err := json.Marshal(map[string]any{"s3.endpoint": s3["endpoint"], "s3.region": s3["region"], "s3.access-key-id": s3["access_key_id"], "s3.secret-access-key": s3["secret_access_key"]})
	require.NoError(t, err)
	args := []string{string(properties)}
	for _, r := range of {
		args = append(args, r.catalog, r.warehouse)
	}
	pytest.RunJSON(t, &out, lakeRowsScript, args...)
	return out
}

// whole is all rows of the cell in ClickHouse, in every column.
func (r *region) whole(where string) (out string) {
	for _, table := range []string{"logs", "metrics", "spans"} {
		out += table + " " + r.hot.Query("SELECT count(), sum(cityHash64(*)) FROM pulsegrid."+table+" WHERE "+where) + "\n"
	}
	return out
}

func (r *region) audit(code int, more ...string) string {
	r.t.Helper()
	return ends(r.t, code, append([]string{"audit", "--quiet", "--config", r.config, "--rollups"}, more...)...)
}

// without is what is left of rows when those of a tenant's services are gone.
func without(rows map[string]string, services ...string) map[string]string {
	out := maps.Clone(rows)
	maps.DeleteFunc(out, func(key, _ string) bool {
		return slices.ContainsFunc(services, func(s string) bool { return strings.HasSuffix(key, " acme "+s) })
	})
	return out
}

// requests are of one service of a tenant: of each signal some, spread over minutes, with so many events each. Those of minute -1 have no time.
func requests(t *testing.T, tenant, service string, minutes []int, base time.Time, n, events int) (out []*kgo.Record) {
	t.Helper()
	for i := range n {
		s := signal.All[i%len(signal.All)]
		minute := minutes[i/len(signal.All)%len(minutes)]
		at := func(event int) pcommon.Timestamp {
			if minute < 0 {
				return 0
			}
			return pcommon.NewTimestampFromTime(base.Add(time.Duration(minute)*time.Minute + time.Duration(i*events+event)*time.Microsecond%time.Minute))
		}
		var value []byte
		var err error
		switch s {
		case signal.Logs:
			ld := plog.NewLogs()
			rl := ld.ResourceLogs().AppendEmpty()
			rl.Resource().Attributes().PutStr("service.name", service)
			sl := rl.ScopeLogs().AppendEmpty()
			for e := range events {
				lr := sl.LogRecords().AppendEmpty()
				lr.SetTimestamp(at(e))
				lr.SetSeverityNumber(plog.SeverityNumber(1 + e%24))
				lr.Body().SetStr(fmt.Sprintf("%s: request %d, line %d", service, i, e))
				lr.Attributes().PutInt("n", int64(e))
			}
			value, err = plogotlp.NewExportRequestFromLogs(ld).MarshalProto()
		case signal.Metrics:
			md := pmetric.NewMetrics()
			rm := md.ResourceMetrics().AppendEmpty()
			rm.Resource().Attributes().PutStr("service.name", service)
			m := rm.ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
			m.SetName("requests")
			points := m.SetEmptyGauge().DataPoints()
			for e := range events {
				p := points.AppendEmpty()
				p.SetTimestamp(at(e))
				p.SetIntValue(int64(i*events + e))
				p.Attributes().PutStr("http.route", "/"+strconv.Itoa(e%7))
			}
			value, err = pmetricotlp.NewExportRequestFromMetrics(md).MarshalProto()
		case signal.Traces:
			td := ptrace.NewTraces()
			rs := td.ResourceSpans().AppendEmpty()
			rs.Resource().Attributes().PutStr("service.name", service)
			ss := rs.ScopeSpans().AppendEmpty()
			for e := range events {
				sp := ss.Spans().AppendEmpty()
				sp.SetTraceID(pcommon.TraceID{1, byte(i), byte(i >> 8), byte(e), byte(e >> 8)})
				sp.SetSpanID(pcommon.SpanID{1, byte(e), byte(e >> 8)})
				sp.SetName("GET /" + strconv.Itoa(e%7))
				sp.SetStartTimestamp(at(e))
				sp.SetEndTimestamp(at(e) + 1000)
			}
			value, err = ptraceotlp.NewExportRequestFromTraces(td).MarshalProto()
		}
		require.NoError(t, err)
		out = append(out, &kgo.Record{Topic: s.Topic(), Key: []byte(service + strconv.Itoa(i)), Value: value, Headers: []kgo.RecordHeader{{Key: envelope.HeaderTenant, Value: []byte(tenant)}}})
	}
	return out
}

func span(from, to int) (minutes []int) {
	for m := from; m < to; m++ {
		minutes = append(minutes, m)
	}
	return minutes
}

// Scenario: a failover. Agents have sent some requests to both cells: in minutes in which both cells have nothing else, in minutes in which each has others beside them, some without a time; one came to
// the guest twice, by different partitions, and some are in one store of the home only. Another tenant has sent to both, too. The guest is settled: the job is killed at its steps and run again; then, with
// each side in a process of its own, what the home's lake had been waiting for.
// Guarantees: a dry run changes nothing; from both stores of the guest exactly those events of the tenant go that both stores of the home have, and the home stays as it is, in every column; both audits
// are equal, rollups too, the guest's with the declaration and not without it; identities are exchanged of minutes only that differ; the certificate says so, and a run that is repeated changes
// nothing; a process elsewhere is refused.
func TestTwoCellsAreSettled(t *testing.T) {
	events, large := 20, *settleEvents >= settleLong
	if large {
		events = 500
	}
	n := *settleEvents / events // requests that both have
	s3 := s3test.Start(t)
	t.Setenv("AWS_ACCESS_KEY_ID", s3test.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", s3test.SecretKey)
	home, guest := newRegion(t, "eu-1", s3, large), newRegion(t, "eu-2", s3, large)
	base := time.Now().UTC().Truncate(24 * time.Hour).Add(-12 * time.Hour) // yesterday: its rows are kept, and its rollups' partitions are over
	equal, mixed, untimed := n/2, n-n/2-3, 3
	// "equal" is alone in its minutes, "mixed" is not.
	both := slices.Concat(requests(t, "acme", "equal", span(0, 5), base, equal, events), requests(t, "acme", "mixed", span(5, 10), base, mixed, events),
		requests(t, "acme", "untimed", []int{-1}, base, untimed, events))
	late := requests(t, "acme", "late", span(5, 7), base, 6, events)
	others := requests(t, "globex", "equal", span(0, 10), base, 12, events)
	began := time.Now()
	homes := slices.Concat(requests(t, "acme", "home", span(5, 15), base, n/2, events), requests(t, "acme", "home", []int{-1}, base, 3, events))
	home.acknowledge(base.Add(time.Minute), slices.Concat(both, others, homes)...)
	home.store(audit.DefaultHotGroup, audit.DefaultLakeGroup)
	home.acknowledge(base.Add(2*time.Minute), late...)
	home.store(audit.DefaultHotGroup) // its lake is behind
	guest.acknowledge(base.Add(30*time.Minute), slices.Concat(both, late, others, requests(t, "acme", "guest", append(span(5, 10), span(15, 25)...), base, n/2, events))...)
	again := kgo.Record{Topic: both[0].Topic, Key: []byte("another"), Value: both[0].Value, Headers: both[0].Headers}
	for guest.partitions(again.Topic, both[0].Key, again.Key) == 1 {
		again.Key = append(again.Key, 'x')
	}
	guest.acknowledge(base.Add(31*time.Minute), &again)
	guest.store(audit.DefaultHotGroup, audit.DefaultLakeGroup)
	if large {
		t.Logf("stored in %v", time.Since(began).Round(time.Second))
	}

	dir := t.TempDir()
	state := "s3://" + s3.CreateBucket("state") + "/eu-1?region=" + s3test.Region + "&use_path_style=true&endpoint=" + s3.Endpoint
	cells, tenants, declarations, key := filepath.Join(dir, "cells.yaml"), filepath.Join(dir, "tenants"), filepath.Join(dir, "eu-2-erased.yaml"), filepath.Join(dir, "audit.key")
	require.NoError(t, os.WriteFile(cells, []byte(fmt.Sprintf(`cells:
  - {name: eu-1, jurisdiction: eu, state: %q, gateways: ['http://127.0.0.1:1'], kafka: {brokers: [%q]}, aggregator: [%s]}
  - {name: eu-2, jurisdiction: eu, state: %s, gateways: ['http://127.0.0.1:2'], kafka: {brokers: [%q]}, aggregator: [%s]}
`, state, home.brokers, home.config, dir, guest.brokers, guest.config)), 0o600))
	require.NoError(t, os.Mkdir(tenants, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(tenants, "t.yaml"), []byte(`
jurisdictions: {eu: {endpoint: "https://ingest.eu.example.com"}}
cells: {eu-1: {jurisdiction: eu, endpoint: "https://eu-1.example.com"}, eu-2: {jurisdiction: eu, endpoint: "https://eu-2.example.com"}}
tenants: [{id: acme, jurisdiction: eu, home: eu-1, cells: [eu-1, eu-2]}, {id: globex, jurisdiction: eu, home: eu-2}]
`), 0o600))
	ends(t, 0, "audit", "key", "new", key)
	settles := func(more ...string) []string {
		return append([]string{"cell", "settle", "--cells", cells, "--home", "eu-1", "--guest", "eu-2", "--tenant", "acme", "--from", base.Format(time.RFC3339), "--to", base.Add(time.Hour).Format(time.RFC3339),
			"--tenants", tenants, "--jurisdiction", "eu"}, more...)
	}
	declared := []string{"--by", "sre@example.com", "--reason", "eu-1 was away", "--declare", declarations}

	require.Contains(t, ends(t, exitUsage, settles("--dry-run", "--jurisdiction", "us")...), `data of tenant "acme" must stay in jurisdiction "eu", its identities too, and this process is in "us": nothing was read`)
	require.Contains(t, ends(t, exitUsage, settles("--dry-run", "--tenant", "globex")...), "the home of tenant \"globex\" is cell eu-2")
	require.Contains(t, ends(t, exitUsage, settles("--id", "x")...), "what is removed is declared")

	homeHot, guestHot, lakes := home.inHot(), guest.inHot(), inLakes(t, home, guest)
	homeLake := lakes[0]
	require.Equal(t, guestHot, lakes[1])
	homeWhole, guestRest := home.whole("1"), guest.whole("NOT (tenant_id = 'acme' AND service_name IN ('equal', 'mixed', 'untimed'))")
	doubled := n * events
	said := ends(t, 0, settles("--dry-run")...)
	require.Contains(t, said, fmt.Sprintf("\n%d of them are in both cells\n", doubled))
	require.Contains(t, said, "nothing was changed\n")
	require.Equal(t, guestHot, guest.inHot())
	guest.audit(0)

	first := settles(append(declared, "--id", "failover-1", "--sign-key", key, "--certificate", filepath.Join(dir, "certificate.json"))...)
	kills, known := map[string][]string{
		"none": {},
		"some": {"settle-2-answer", "settle-plan", "erasure-mutating", "settle-lake", "settle-declared"},
		"all": {"settle-1-summary", "settle-2-answer", "settle-3-identities", "settle-4-doubled", "settle-plan", "settle-5-planned", "erasure-mutating", "settle-hot", "settle-lake", "settle-declared",
			"rollups-exchanging", "settle-6-removed", "settle-certified"},
	}[*settleKills]
	require.True(t, known)
	for _, step := range kills {
		killedAt(t, step+"=kill", append(first, "--quiet")...)
	}
	began = time.Now()
	said = ends(t, 0, first...)
	took := time.Since(began)
	require.Contains(t, said, fmt.Sprintf("settled: tenant acme, home eu-1, guest eu-2, received there from %s", base.Format(time.RFC3339)))
	rows := doubled + events // one request was there twice
	require.Contains(t, said, fmt.Sprintf("\n%d were in both stores of eu-1, too; %d of these were removed: %d rows of ClickHouse, %d of the lake\n", doubled, doubled, rows, rows))
	require.Equal(t, []string{"audit.key", "audit.key.pub", "cells.yaml", "certificate.json", "eu-2-erased.yaml", "tenants"}, names(t, dir), "no plan is left")

	gone := []string{"equal", "mixed", "untimed"}
	require.Equal(t, without(guestHot, gone...), guest.inHot())
	require.Equal(t, []map[string]string{homeLake, without(guestHot, gone...)}, inLakes(t, home, guest))
	require.Equal(t, guestRest, guest.whole("1"))
	require.Equal(t, homeWhole, home.whole("1"))
	home.audit(0)
	guest.audit(1)
	require.Contains(t, guest.audit(0, "--erased", declarations), fmt.Sprintf("%d rows are missing as declared", 2*rows))
	require.Contains(t, ends(t, 0, first...), "settled: ", "whoever runs it did not hear that it was done")
	require.Equal(t, guestRest, guest.whole("1"))

	out := ends(t, 0, "cell", "settled", filepath.Join(dir, "certificate.json"), "--public-key", key+".pub")
	require.Contains(t, out, "settled: tenant acme")
	sealed, err := os.ReadFile(filepath.Join(dir, "certificate.json"))
	require.NoError(t, err)
	var c settle.Certificate
	require.NoError(t, json.Unmarshal(sealed, &c))
	// The cells agree on minutes 0 to 4. Only the guest has minutes 15 to 24. They exchange identities of minutes 5 to 9, and of events without a time.
	require.Equal(t, []int{3 * 5, 3 * 10}, []int{c.Had.Equal, c.Had.None})
	require.Greater(t, c.Had.Told, 3*5)
	require.Less(t, c.ToHome, int64(16*(int(c.Had.Events)-equal*events)+4*c.Had.Told+33*c.Had.Buckets+2000))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "changed.json"), []byte(strings.Replace(string(sealed), `"home_missing": 0`, `"home_missing": 1`, 1)), 0o600))
	require.Contains(t, ends(t, exitFailed, "cell", "settled", filepath.Join(dir, "changed.json")), "was changed after it was written")

	// What the home's lake lacked was not removed, and is removed when it has it; each side in a process of its own.
	home.store(audit.DefaultLakeGroup)
	second := settles("--id", "failover-2", "--quiet")
	turns := [][]string{append([]string{"--side", "guest"}, declared...), {"--side", "home"}}
	for turn := range 5 {
		out = ends(t, map[bool]int{true: 0, false: exitFailed}[turn == 4], append(second, turns[turn%2]...)...)
		if turn < 4 {
			require.Contains(t, out, "it is the other side's turn")
		}
	}
	require.Contains(t, out, "the guest's side is done")
	require.Regexp(t, fmt.Sprintf(`\n%d were in both stores of eu-1, too; %[1]d of these`, len(late)*events), ends(t, 0, append(second, turns[1]...)...))
	gone = append(gone, "late")
	require.Equal(t, without(guestHot, gone...), guest.inHot())
	require.Equal(t, []map[string]string{homeHot, without(guestHot, gone...)}, inLakes(t, home, guest))
	home.audit(0)
	guest.audit(0, "--erased", declarations)
	if large {
		t.Logf("%d doubled events of %d in the guest, killed at %d steps; the last run took %v; %s", doubled, c.Had.Events, len(kills), took.Round(100*time.Millisecond), regexp.MustCompile(`exchanged: .*`).FindString(said))
	}
}

// partitions is in how many partitions records of these keys lie.
func (r *region) partitions(topic string, keys ...[]byte) int {
	r.t.Helper()
	ends, err := kadm.NewClient(r.client).ListEndOffsets(r.t.Context(), topic)
	require.NoError(r.t, err)
	partitioner, seen := kgo.StickyKeyPartitioner(nil).ForTopic(topic), map[int]bool{}
	for _, key := range keys {
		seen[partitioner.Partition(&kgo.Record{Topic: topic, Key: key}, len(ends[topic]))] = true
	}
	return len(seen)
}
