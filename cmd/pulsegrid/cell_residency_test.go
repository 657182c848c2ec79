package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
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

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/residency"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/spill"
	"github.com/pulsegrid/pulsegrid/internal/testkit/pytest"
)

// Tenants of the test, and what their events hold and no other text does. A marker is the name of the service, which rollups keep, too.
const (
	pinnedTenant  = "pinned"
	pinnedMarker  = "stays-in-the-eu-5b1f7c"
	roamingTenant = "roaming"
	roamingMarker = "goes-anywhere-90ae2d"
)

// marked are records of each signal, and an item of the quarantine, of a tenant at a time.
func marked(t *testing.T, tenant, marker string, at time.Time) (events []*kgo.Record, item *kgo.Record) {
	t.Helper()
	record := func(topic string, s signal.Signal, value []byte, err error, more ...kgo.RecordHeader) *kgo.Record {
		t.Helper()
		require.NoError(t, err)
		return &kgo.Record{Topic: topic, Key: []byte("agent"), Value: value, Headers: append(more, kgo.RecordHeader{Key: envelope.HeaderTenant, Value: []byte(tenant)},
			kgo.RecordHeader{Key: envelope.HeaderSignal, Value: []byte(s.String())}, kgo.RecordHeader{Key: envelope.HeaderReceivedNanos, Value: strconv.AppendInt(nil, at.UnixNano(), 10)})}
	}
	stamp := pcommon.NewTimestampFromTime(at)
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	rl.Resource().Attributes().PutStr("service.name", marker)
	sl := rl.ScopeLogs().AppendEmpty()
	for i := range 5 {
		lr := sl.LogRecords().AppendEmpty()
		lr.SetTimestamp(stamp + pcommon.Timestamp(i))
		lr.Body().SetStr(marker)
	}
	logs, err := plogotlp.NewExportRequestFromLogs(ld).MarshalProto()
	events = append(events, record(signal.Logs.Topic(), signal.Logs, logs, err))

	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	rm.Resource().Attributes().PutStr("service.name", marker)
	m := rm.ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
	m.SetName("requests")
	p := m.SetEmptyGauge().DataPoints().AppendEmpty()
	p.SetTimestamp(stamp)
	p.SetDoubleValue(1)
	metrics, err := pmetricotlp.NewExportRequestFromMetrics(md).MarshalProto()
	events = append(events, record(signal.Metrics.Topic(), signal.Metrics, metrics, err))

	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr("service.name", marker)
	s := rs.ScopeSpans().AppendEmpty().Spans().AppendEmpty()
	s.SetTraceID(pcommon.TraceID{1})
	s.SetSpanID(pcommon.SpanID{2})
	s.SetName("get")
	s.SetStartTimestamp(stamp)
	s.SetEndTimestamp(stamp + 1)
	traces, err := ptraceotlp.NewExportRequestFromTraces(td).MarshalProto()
	events = append(events, record(signal.Traces.Topic(), signal.Traces, traces, err))

	item = record(signal.QuarantineTopic, signal.Logs, logs, nil, kgo.RecordHeader{Key: envelope.HeaderContentType, Value: []byte(envelope.TypeOTLP)}, kgo.RecordHeader{Key: envelope.HeaderQuarantineCode, Value: []byte("test")})
	return events, item
}

// residencyCell is a cell whose every place is in one directory, but for Kafka and ClickHouse.
type residencyCell struct {
	aggregated
	name, dir string
	client    *kgo.Client
}

func (c *residencyCell) path(parts ...string) string {
	return filepath.Join(append([]string{c.dir}, parts...)...)
}

// newResidencyCell fills each place of a cell with the events of tenants, by what fills it in production where that is in this repository.
func newResidencyCell(t *testing.T, root, name string, at time.Time, tenants map[string]string) *residencyCell {
	t.Helper()
	k, err := kfake.NewCluster(kfake.NumBrokers(1))
	require.NoError(t, err)
	t.Cleanup(k.Close)
	c := &residencyCell{name: name, dir: filepath.Join(root, name)}
	for _, folder := range []string{"state", "spill", "replica", "backup"} {
		require.NoError(t, os.MkdirAll(c.path(folder), 0o700))
	}
	c.aggregated, c.client = newAggregated(t, k.ListenAddrs()[0], c.dir)
	spool, err := spill.Open(t.Context(), spill.Config{URL: "file://" + c.path("spill"), Gateway: "gw-" + name, MaxObjectBytes: 1 << 20, MaxLatency: time.Millisecond, MaxBytes: 1 << 30, MaxAge: time.Hour})
	require.NoError(t, err)
	var refused []*kgo.Record
	backup := gzip.NewWriter(create(t, c.path("backup", "all.gz")))
	for _, tenant := range slices.Sorted(maps.Keys(tenants)) {
		events, item := marked(t, tenant, tenants[tenant], at)
		require.NoError(t, c.client.ProduceSync(t.Context(), events...).FirstErr())
		refused = append(refused, item)
		require.NoError(t, spool.Put(t.Context(), []spill.Record{{Topic: events[0].Topic, Partition: spill.Anywhere, Value: events[0].Value, Headers: events[0].Headers}}))
		_, err := backup.Write(events[0].Value)
		require.NoError(t, err)
	}
	require.NoError(t, backup.Close())
	require.NoError(t, spool.Close())
	c.fill(t, c.client)
	c.quarantined(t, refused...)
	require.NoError(t, os.CopyFS(c.path("replica"), os.DirFS(c.warehouse)))
	require.NoError(t, os.WriteFile(c.path("aggregator.yaml"), []byte(`
exporters:
  pulsegrid_clickhouse: {endpoint: `+c.hot.URL+`}
  iceberg: {catalog: {type: sql, uri: "file:`+c.catalog+`", warehouse: "file://`+c.warehouse+`"}}
`), 0o600))
	require.NoError(t, os.WriteFile(c.path("gateway.yaml"), []byte("exporters: {msk: {brokers: [\""+c.brokers+"\"], spill: {url: \"file://"+c.path("spill")+"\"}}}\n"), 0o600))
	return c
}

func create(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Create(path)
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// dump writes what Kafka and ClickHouse hold into files, as sarama and ClickHouse itself read it: every record of every topic, every row of every table.
func (c *residencyCell) dump(t *testing.T) {
	t.Helper()
	require.NoError(t, os.RemoveAll(c.path("dump")))
	write := func(content []byte, parts ...string) {
		t.Helper()
		path := c.path(append([]string{"dump"}, parts...)...)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, content, 0o600))
	}
	cfg := sarama.NewConfig()
	cfg.Version = sarama.V3_6_0_0
	client, err := sarama.NewClient([]string{c.brokers}, cfg)
	require.NoError(t, err)
	defer client.Close()
	consumer, err := sarama.NewConsumerFromClient(client)
	require.NoError(t, err)
	defer consumer.Close()
	topics, err := client.Topics()
	require.NoError(t, err)
	for _, topic := range topics {
		partitions, err := client.Partitions(topic)
		require.NoError(t, err)
		for _, p := range partitions {
			end, err := client.GetOffset(topic, p, sarama.OffsetNewest)
			require.NoError(t, err)
			pc, err := consumer.ConsumePartition(topic, p, sarama.OffsetOldest)
			require.NoError(t, err)
			for at := int64(-1); at < end-1; {
				select {
				case m := <-pc.Messages():
					at = m.Offset
					content := slices.Concat(m.Key, m.Value)
					for _, h := range m.Headers {
						content = append(content, h.Value...)
					}
					write(content, "kafka", topic, fmt.Sprintf("%d-%d", p, at))
				case <-time.After(time.Minute):
					t.Fatalf("topic %s partition %d: no record before %d", topic, p, end)
				}
			}
			require.NoError(t, pc.Close())
		}
	}
	for table := range strings.FieldsSeq(c.hot.Query("SELECT database || '.' || name FROM system.tables WHERE database NOT IN ('system', 'INFORMATION_SCHEMA', 'information_schema') AND engine NOT LIKE '%View'")) {
		database, name, _ := strings.Cut(table, ".")
		write([]byte(c.hot.Query("SELECT * FROM "+quoted(database)+"."+quoted(name)+" FORMAT JSONEachRow")), "clickhouse", table)
	}
}

// placesOfFiles are the places that files below a root stand for.
func placesOfFiles(t *testing.T, root string, files []string) []string {
	t.Helper()
	found := map[string]bool{}
	for _, file := range files {
		parts := strings.Split(file, "/")
		cell, at := parts[0], filepath.Join(root, parts[0], parts[1])
		switch parts[1] {
		case "dump":
			found[cell+" "+map[string]string{"kafka": residency.KindTopic, "clickhouse": residency.KindTable}[parts[2]]+" "+parts[3]] = true
		case "lake":
			found[cell+" "+residency.KindLake+" "+filepath.Join(at, parts[2], parts[3])] = true
		case "replica":
			found[cell+" "+residency.KindReplica+" file://"+filepath.Join(at, parts[2], parts[3])] = true
		default:
			found[cell+" "+parts[1]+" file://"+at] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// Scenario: two cells in two jurisdictions, with a tenant that is pinned to one of them and one that is not, in every kind of place: topics, tables and rollups, the lake, the spill, the quarantine, a replica of the
// lake and a backup. Then bytes of the pinned tenant are put into places of the wrong cell: a topic, a table, a data file that no snapshot names, the spill, the replica.
// Guarantees: what statements name is where an independent search of all bytes finds the tenants' markers, before and after, in the right cell and in the wrong one; the statement of the pinned tenant is inside, and
// then outside with these places; rollups over cells hold to the same borders; nothing is proven while an inventory lacks, or is older than the day's end; an inventory or a statement that was changed, or that another key has signed, is found.
func TestAStatementOfResidencyAgreesWithASearchForMarkers(t *testing.T) {
	day := time.Now().UTC().AddDate(0, 0, -3).Truncate(24 * time.Hour)
	at, root := day.Add(13*time.Hour), t.TempDir()
	eu := newResidencyCell(t, root, "eu-1", at, map[string]string{pinnedTenant: pinnedMarker, roamingTenant: roamingMarker})
	us := newResidencyCell(t, root, "us-1", at, map[string]string{roamingTenant: roamingMarker})

	dir := t.TempDir()
	text := "cells:\n"
	for name, c := range map[string]*residencyCell{"eu": eu, "us": us} {
		text += fmt.Sprintf("  - {name: %s, jurisdiction: %s, state: %s, gateways: ['http://127.0.0.1:1/%s'], kafka: {brokers: [%q]}, copies: [{url: 'file://%s', of: lake}, {url: 'file://%s', of: stores}], clickhouse: {endpoint: %s}}\n",
			c.name, name, c.path("state"), c.name, c.brokers, c.path("replica"), c.path("backup"), c.hot.URL)
	}
	cells, registry := filepath.Join(dir, "cells.yaml"), filepath.Join(dir, "tenants")
	require.NoError(t, os.WriteFile(cells, []byte(text), 0o600))
	require.NoError(t, os.Mkdir(registry, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(registry, "all.yaml"), []byte(`
cells:
  eu-1: {jurisdiction: eu, endpoint: "https://eu-1.ingest.example.com"}
  us-1: {jurisdiction: us, endpoint: "https://us-1.ingest.example.com"}
tenants: [{id: `+pinnedTenant+`, jurisdiction: eu, home: eu-1}, {id: `+roamingTenant+`}]
`), 0o600))
	key := func(name string) string {
		ends(t, 0, "audit", "key", "new", filepath.Join(dir, name))
		return filepath.Join(dir, name)
	}
	cellKey, stateKey, otherKey := key("cell.key"), key("statements.key"), key("other.key")
	inventories, statements := filepath.Join(dir, "inventories"), filepath.Join(dir, "statements")
	inventory := func(c *residencyCell) {
		t.Helper()
		ends(t, 0, "cell", "inventory", c.name, "--day", day.Format(time.DateOnly), "--cells", cells, "--config", c.path("aggregator.yaml"), "--gateway", c.path("gateway.yaml"), "--sign-key", cellKey, "--out", inventories)
	}
	state := func(code int, more ...string) string {
		t.Helper()
		return ends(t, code, append([]string{"cell", "residency", "--day", day.Format(time.DateOnly), "--cells", cells, "--tenants", registry, "--inventories", inventories, "--inventory-key", cellKey + ".pub",
			"--sign-key", stateKey, "--out", statements}, more...)...)
	}
	statement := func(tenant string) (s residency.Statement) {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(statements, day.Format(time.DateOnly), tenant+".json"))
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(b, &s))
		return s
	}
	stated := func(s residency.Statement) (places, outside []string) {
		for _, p := range s.Places {
			if p.MayHold && p.Cell == us.name && s.Tenant == pinnedTenant {
				continue // the backup of the wrong cell: it has copies, which is all that is known, and the marker was not put there
			}
			places = append(places, p.Cell+" "+p.Kind+" "+p.Name)
			if p.Outside {
				outside = append(outside, places[len(places)-1])
			}
		}
		slices.Sort(places)
		slices.Sort(outside)
		return places, outside
	}
	search := func(marker string) (files []string) {
		t.Helper()
		var got struct {
			Read  int
			Found []string
		}
		pytest.RunJSON(t, &got, searchScript, root, marker)
		require.Greater(t, got.Read, 30)
		return got.Found
	}
	eu.dump(t)
	us.dump(t)

	require.Contains(t, state(exitUsage), "--inventories: lstat", "there is none yet")
	inventory(eu)
	require.Contains(t, state(exitFailed), "NOT KNOWN, of 2 tenants: cell us-1 has no whole inventory that was begun after the end of the day")
	require.Equal(t, residency.Unproven, statement(pinnedTenant).Verdict)
	inventory(us)
	out := state(0)
	require.Regexp(t, `(?m)^pinned +eu +inside +\d+ +0$`, out)
	require.Regexp(t, `(?m)^roaming +- +unpinned +\d+ +0$`, out)

	inPlaces := search(pinnedMarker)
	before, outside := stated(statement(pinnedTenant))
	require.Equal(t, placesOfFiles(t, root, inPlaces), before)
	require.Empty(t, outside)
	require.Greater(t, len(before), 15, "%v", before)
	for _, kind := range []string{residency.KindTopic, residency.KindTable, residency.KindLake, residency.KindSpill, residency.KindReplica, residency.KindBackup} {
		require.True(t, slices.ContainsFunc(before, func(p string) bool { return strings.HasPrefix(p, "eu-1 "+kind+" ") }), "%s: %v", kind, before)
	}
	everywhere, _ := stated(statement(roamingTenant))
	require.Equal(t, placesOfFiles(t, root, search(roamingMarker)), everywhere)

	// A reader over cells hears of the pinned tenant in its own jurisdiction only, and which cells are in the answer.
	rollups := func(code int, cells string, more ...string) string {
		t.Helper()
		return ends(t, code, append([]string{"cell", "rollups", "logs", "--cells", cells, "--tenants", registry, "--from", day.Format(time.RFC3339), "--to", day.AddDate(0, 0, 1).Format(time.RFC3339), "--resolution", "1h", "--by", "tenant_id"}, more...)...)
	}
	out = rollups(0, cells, "--in", "us")
	require.Regexp(t, `(?m)^roaming +10$`, out)
	require.NotRegexp(t, `(?m)^pinned `, out)
	require.Regexp(t, `(?m)^eu-1 +eu +tenants that are pinned nowhere +1 +\d+h\d+m\d+s ago$`, out)
	out = rollups(0, cells, "--in", "eu")
	require.Regexp(t, `(?m)^pinned +5\nroaming +10$`, out)
	require.Contains(t, rollups(exitFailed, cells, "--in", "us", "--tenant", pinnedTenant), "must stay in jurisdiction \"eu\", and this reader is in \"us\": nothing was read")
	without := filepath.Join(dir, "without.yaml")
	require.NoError(t, os.WriteFile(without, []byte(strings.ReplaceAll(text, us.hot.URL, "http://127.0.0.1:1")), 0o600))
	out = rollups(exitFailed, without, "--in", "us")
	require.Regexp(t, `(?m)^us-1 +us +all tenants +0 +NOT IN THE ANSWER: ClickHouse at 127.0.0.1:1 does not answer`, out)
	require.Contains(t, out, "the answer is without us-1")

	// Another day has nothing of them, and nothing is proven of it: the day is not over.
	today := time.Now().UTC().AddDate(0, 0, 1).Format(time.DateOnly)
	ends(t, 0, "cell", "inventory", "us-1", "--day", today, "--cells", cells, "--config", us.path("aggregator.yaml"), "--gateway", us.path("gateway.yaml"), "--out", inventories)
	out = ends(t, exitFailed, "cell", "residency", "--day", today, "--cells", cells, "--tenants", registry, "--inventories", inventories, "--tenant", pinnedTenant)
	require.Regexp(t, `(?m)^pinned +eu +unproven +0 +0$`, out)

	verify := func(code int, more ...string) string {
		t.Helper()
		return ends(t, code, append([]string{"cell", "residency", "verify"}, more...)...)
	}
	require.Contains(t, verify(0, statements, filepath.Join(inventories, day.Format(time.DateOnly)), "--public-key", stateKey+".pub", "--public-key", cellKey+".pub"), "statement of pinned, "+day.Format(time.DateOnly)+": inside")
	require.Contains(t, verify(exitFailed, statements, "--public-key", otherKey+".pub"), "the signature is not of this key")

	// The wrong cell gets bytes of the pinned tenant.
	events, _ := marked(t, pinnedTenant, pinnedMarker, at)
	require.NoError(t, us.client.ProduceSync(t.Context(), events[0]).FirstErr())
	us.hot.Exec("INSERT INTO pulsegrid.spans (tenant_id, ingest_time, service_name) VALUES ('" + pinnedTenant + "', toDateTime64('" + at.Format("2006-01-02 15:04:05") + "', 9, 'UTC'), '" + pinnedMarker + "')")
	moved := func(from, to string) {
		t.Helper()
		content, err := os.ReadFile(filepath.Join(root, from))
		require.NoError(t, err)
		require.NoError(t, os.MkdirAll(filepath.Dir(to), 0o700))
		require.NoError(t, os.WriteFile(to, content, 0o600))
	}
	first := func(below, suffix string) string {
		t.Helper()
		i := slices.IndexFunc(inPlaces, func(f string) bool { return strings.HasPrefix(f, below) && strings.HasSuffix(f, suffix) })
		require.GreaterOrEqual(t, i, 0, "%s: %v", below, inPlaces)
		return inPlaces[i]
	}
	moved(first("eu-1/lake/pulsegrid/metrics/data/", ".parquet"), us.path("lake", "pulsegrid", "metrics", "data", "left-by-nobody.parquet"))
	moved(first("eu-1/lake/pulsegrid/logs/data/", ".parquet"), us.path("replica", "pulsegrid", "logs", "data", "sent-by-mistake.parquet"))
	moved(first("eu-1/spill/", ""), us.path("spill", "gw-lost", filepath.Base(first("eu-1/spill/", ""))))
	us.dump(t)
	inventory(us)
	out = state(exitFailed)
	require.Regexp(t, `(?m)^pinned +eu +outside +\d+ +\d+$`, out)
	require.Contains(t, out, "OUTSIDE: pinned, pinned to eu, in cell us-1 (us): topic otlp.logs.v1: 1 items\n")
	require.Contains(t, out, "1 of 2 tenants have bytes outside of their jurisdiction, or nothing is proven of them: pinned")

	s := statement(pinnedTenant)
	require.Equal(t, residency.Outside, s.Verdict)
	places, outside := stated(s)
	require.Equal(t, placesOfFiles(t, root, search(pinnedMarker)), places)
	for _, kind := range []string{residency.KindTopic + " otlp.logs.v1", residency.KindTable + " pulsegrid.spans", residency.KindLake + " " + us.path("lake", "pulsegrid", "metrics"),
		residency.KindSpill + " file://" + us.path("spill"), residency.KindReplica + " file://" + us.path("replica", "pulsegrid", "logs")} {
		require.Contains(t, outside, "us-1 "+kind)
	}
	require.Equal(t, before, slices.DeleteFunc(places, func(p string) bool { return slices.Contains(outside, p) }))
	require.Equal(t, residency.Unpinned, statement(roamingTenant).Verdict)

	// Somebody mends an inventory by hand.
	var changed string
	require.NoError(t, filepath.WalkDir(filepath.Join(inventories, day.Format(time.DateOnly)), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.Contains(path, "us-1") {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(content, []byte(`"`+pinnedTenant+`"`)) {
			return err
		}
		changed = path
		return os.WriteFile(path, bytes.ReplaceAll(content, []byte(`"`+pinnedTenant+`"`), []byte(`"`+roamingTenant+`"`)), 0o600)
	}))
	require.Contains(t, state(exitFailed), changed+": pulsegrid residency inventory: was changed after it was written")
	require.Contains(t, verify(exitFailed, changed), "BAD: pulsegrid residency inventory: was changed after it was written")
}
