package icebergexporter

import (
	"compress/gzip"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/iceberg-go/catalog"
	"github.com/apache/iceberg-go/table"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.uber.org/goleak"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/collectortest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/leaktest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/pytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(leaktest.Patient(m)) }

var received = time.Date(2026, 3, 4, 5, 6, 7, 89_123, time.UTC)

const topic = "otlp.logs.v1"

// lake is a warehouse folder with a SQLite catalog.
func lake(t testing.TB) *Config {
	t.Helper()
	dir := t.TempDir()
	cfg := createDefaultConfig().(*Config)
	cfg.Catalog.Type = catalogSQL
	cfg.Catalog.URI = "file:" + filepath.Join(dir, "catalog.db")
	cfg.Catalog.Warehouse = "file://" + filepath.Join(dir, "warehouse")
	cfg.Commit.MaxAge = 0
	cfg.Commit.Timeout = 2 * time.Minute
	require.NoError(t, cfg.Validate())
	return cfg
}

// other is the same lake for another process: a Config shares a ledger's committer.
func other(cfg *Config) *Config {
	c := *cfg
	return &c
}

// harness is a started sink, whose Arrow memory must be all given back when the test ends.
type harness struct {
	*sink
	t   *testing.T
	tel *componenttest.Telemetry
}

func start(t *testing.T, cfg *Config, model *columns.Table, prepare ...func(*sink)) *harness {
	t.Helper()
	return startOn(t, componenttest.NewNopHost(), cfg, model, prepare...)
}

func startOn(t *testing.T, host component.Host, cfg *Config, model *columns.Table, prepare ...func(*sink)) *harness {
	t.Helper()
	mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
	tel := componenttest.NewTelemetry()
	s, err := newSink(cfg, component.NewID(metadata.Type()), tel.NewTelemetrySettings(), model, mem)
	require.NoError(t, err)
	for _, p := range prepare {
		p(s)
	}
	require.NoError(t, s.start(t.Context(), host))
	h := &harness{sink: s, t: t, tel: tel}
	t.Cleanup(func() {
		h.shutdown()
		require.Zero(t, s.budget.bytes(), "every call gives back what it reserved")
		mem.AssertSize(t, 0)
		require.NoError(t, tel.Shutdown(context.Background()))
	})
	return h
}

func (h *harness) shutdown() {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	require.NoError(h.t, h.stop(ctx))
}

// metric is a counter's value for the sink's table.
func (h *harness) metric(name string) int64 { return h.metricOf(name, h.name()) }

func (h *harness) metricOf(name, table string) int64 { return counter(h.t, h.tel, name, table) }

func counter(t testing.TB, tel *componenttest.Telemetry, name, table string) int64 {
	t.Helper()
	return collectortest.Sum(t, tel.Reader, name, "table="+table)
}

// logs makes a block's worth of logs: records at offsets first to last, each of perRecord events.
func logs(part int32, first, last int64, perRecord int) (context.Context, plog.Logs) {
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	stampResource(rl.Resource(), topic, part)
	records := rl.ScopeLogs().AppendEmpty().LogRecords()
	for offset := first; offset <= last; offset++ {
		for i := range perRecord {
			lr := records.AppendEmpty()
			lr.SetTimestamp(pcommon.NewTimestampFromTime(received.Add(time.Duration(offset) * time.Second)))
			lr.Body().SetStr(fmt.Sprintf("p%d o%d i%d", part, offset, i))
			lr.Attributes().PutInt("n", int64(i))
			stampEvent(lr.Attributes(), part, offset, i)
		}
	}
	b := block.Block{Topic: topic, Partition: part, First: first, Last: last, Signal: signal.Logs, Events: ld.LogRecordCount()}
	return block.NewContext(context.Background(), b), ld
}

func traces(part int32, first, last int64) (context.Context, ptrace.Traces) {
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	stampResource(rs.Resource(), signal.Traces.Topic(), part)
	for offset := first; offset <= last; offset++ {
		sp := rs.ScopeSpans().AppendEmpty().Spans().AppendEmpty()
		sp.SetName(fmt.Sprintf("p%d o%d", part, offset))
		sp.SetTraceID(pcommon.TraceID{1, byte(offset)})
		sp.SetSpanID(pcommon.SpanID{2, byte(offset)})
		sp.SetStartTimestamp(pcommon.NewTimestampFromTime(received))
		sp.SetEndTimestamp(pcommon.NewTimestampFromTime(received.Add(time.Millisecond)))
		ev := sp.Events().AppendEmpty()
		ev.SetName("event")
		stampEvent(sp.Attributes(), part, offset, 0)
	}
	b := block.Block{Topic: signal.Traces.Topic(), Partition: part, First: first, Last: last, Signal: signal.Traces, Events: td.SpanCount()}
	return block.NewContext(context.Background(), b), td
}

func metrics(part int32, first, last int64) (context.Context, pmetric.Metrics) {
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	stampResource(rm.Resource(), signal.Metrics.Topic(), part)
	sm := rm.ScopeMetrics().AppendEmpty()
	for offset := first; offset <= last; offset++ {
		m := sm.Metrics().AppendEmpty()
		m.SetName(fmt.Sprintf("p%d o%d", part, offset))
		h := m.SetEmptyHistogram().DataPoints().AppendEmpty()
		h.SetTimestamp(pcommon.NewTimestampFromTime(received))
		h.ExplicitBounds().FromRaw([]float64{1, 2})
		h.BucketCounts().FromRaw([]uint64{3, 4, 5})
		stampEvent(h.Attributes(), part, offset, 0)
	}
	b := block.Block{Topic: signal.Metrics.Topic(), Partition: part, First: first, Last: last, Signal: signal.Metrics, Events: md.DataPointCount()}
	return block.NewContext(context.Background(), b), md
}

func stampResource(r pcommon.Resource, topic string, part int32) {
	r.Attributes().PutStr("service.name", "shop")
	lineage.StampResource(r.Attributes(), lineage.Origin{Tenant: "acme", Source: "agent", Received: received, Topic: topic, Partition: part})
}

func stampEvent(attrs pcommon.Map, part int32, offset int64, index int) {
	lineage.StampEvent(attrs, lineage.Event{ID: eventID(part, offset, index), Offset: offset, Index: int32(index)})
}

func eventID(part int32, offset int64, index int) [16]byte {
	return [16]byte{byte(part), byte(offset >> 8), byte(offset), byte(index), 7: 0xff} // large, so that sums overflow
}

// send delivers a block of logs of one event a record.
func (h *harness) send(part int32, first, last int64) error {
	ctx, ld := logs(part, first, last, 1)
	return h.consumeLogs(ctx, ld)
}

// sendEmpty delivers a block of which no event is left.
func (h *harness) sendEmpty(part int32, first, last int64) error {
	ctx, _ := logs(part, first, last, 1)
	return h.consumeLogs(ctx, plog.NewLogs())
}

// deliver delivers a block, and does what a receiver does when it is told to resume from within it.
func (h *harness) deliver(part int32, first, last, oldest int64) error {
	for {
		err := h.sendFrom(part, first, last, oldest)
		resume, ok := errors.AsType[*block.ResumeError](err)
		if !ok || resume.Next <= first {
			return err
		}
		if resume.Next > last {
			return nil
		}
		first, oldest = resume.Next, resume.Next
	}
}

// loaded loads a table with a catalog of its own.
func loaded(t *testing.T, cfg *Config, name string) *table.Table {
	t.Helper()
	cat, err := cfg.openCatalog(t.Context())
	require.NoError(t, err)
	defer cat.(catalog.Closer).Close()
	tbl, err := cat.LoadTable(t.Context(), table.Identifier{cfg.Namespace, name})
	require.NoError(t, err)
	return tbl
}

// reload is loaded with a catalog that stays open until the test ends, so that the table can be committed to.
func reload(t *testing.T, cfg *Config, name string) *table.Table {
	t.Helper()
	cat, err := cfg.openCatalog(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, cat.(catalog.Closer).Close()) })
	tbl, err := cat.LoadTable(t.Context(), table.Identifier{cfg.Namespace, name})
	require.NoError(t, err)
	return tbl
}

// setMetadata lets the catalog point to another metadata file, as a restored backup of it does.
func setMetadata(t *testing.T, cfg *Config, name, location string) {
	t.Helper()
	db, err := sql.Open("sqliteshim", cfg.Catalog.URI)
	require.NoError(t, err)
	defer db.Close()
	_, err = db.Exec("update iceberg_tables set metadata_location = ? where table_name = ?", location, name)
	require.NoError(t, err)
}

// editMetadata lets the catalog point to a changed copy of the table's metadata.
func editMetadata(t *testing.T, cfg *Config, name string, edit func(string) string) {
	t.Helper()
	old := loaded(t, cfg, name).MetadataLocation()
	packed, err := os.Open(strings.TrimPrefix(old, "file://"))
	require.NoError(t, err)
	defer packed.Close()
	zr, err := gzip.NewReader(packed)
	require.NoError(t, err)
	text, err := io.ReadAll(zr)
	require.NoError(t, err)
	edited := filepath.Join(filepath.Dir(packed.Name()), "09999-"+uuid.NewString()+".metadata.json")
	require.NoError(t, os.WriteFile(edited, []byte(edit(string(text))), 0o600))
	setMetadata(t, cfg, name, "file://"+edited)
}

// rollBack moves the branch back to an ancestor, as engines do: the properties stay as they are.
func rollBack(t *testing.T, cfg *Config, name string, to int64) {
	t.Helper()
	tx := reload(t, cfg, name).NewTransaction()
	require.NoError(t, tx.RollbackToSnapshot(to))
	_, err := tx.Commit(t.Context())
	require.NoError(t, err)
}

// setBranch moves the branch to any snapshot, with pyiceberg.
func setBranch(t *testing.T, cfg *Config, name string, to int64) {
	t.Helper()
	pytest.Run(t, `
import sys
from pyiceberg.catalog import load_catalog
uri, warehouse, ident, to = sys.argv[1:]
table = load_catalog("pulsegrid", type="sql", uri="sqlite:///" + uri, warehouse=warehouse).load_table(ident)
table.manage_snapshots().set_current_snapshot(int(to)).commit()
`, cfg.Catalog.URI[len("file:"):], cfg.Catalog.Warehouse, cfg.Namespace+"."+name, strconv.FormatInt(to, 10))
}

// expire removes all snapshots but the branch's last, and leaves the files.
func expire(t *testing.T, cfg *Config, name string) {
	t.Helper()
	tx := reload(t, cfg, name).NewTransaction()
	require.NoError(t, tx.ExpireSnapshots(table.WithOlderThan(0), table.WithRetainLast(1), table.WithPostCommit(false)))
	_, err := tx.Commit(t.Context())
	require.NoError(t, err)
}

// stored are the texts of a column that a table holds, sorted.
func stored(t *testing.T, cfg *Config, name, column string) []string {
	t.Helper()
	out := []string{}
	scan(t, cfg, name, func(b arrow.RecordBatch) {
		col := b.Column(b.Schema().FieldIndices(column)[0])
		for i := range col.Len() {
			out = append(out, col.ValueStr(i))
		}
	}, column)
	return sorted(out)
}

// scan reads columns of a table's current snapshot.
func scan(t *testing.T, cfg *Config, name string, each func(arrow.RecordBatch), fields ...string) {
	t.Helper()
	_, batches, err := reload(t, cfg, name).Scan(table.WithSelectedFields(fields...)).ToArrowRecords(t.Context())
	require.NoError(t, err)
	for b, err := range batches {
		require.NoError(t, err)
		each(b)
		b.Release()
	}
}

// pyiceberg is what stored is, by a reader that is not ours.
func pyiceberg(t *testing.T, cfg *Config, name, column string) (out []string) {
	t.Helper()
	pytest.RunJSON(t, &out, `
import sys, json
from pyiceberg.catalog import load_catalog
name, uri, warehouse, ident, column, props = sys.argv[1:]
cat = load_catalog(name, **{"type": "sql", "uri": "sqlite:///" + uri, "warehouse": warehouse, **json.loads(props)})
print(json.dumps(sorted(cat.load_table(ident).scan(selected_fields=(column,)).to_arrow().column(column).to_pylist())))
`, cfg.Catalog.Name, cfg.Catalog.URI[len("file:"):], cfg.Catalog.Warehouse, cfg.Namespace+"."+name, column, pyS3(cfg))
	return out
}

func pyS3(cfg *Config) string {
	if cfg.S3.Endpoint == "" {
		return "{}"
	}
	return fmt.Sprintf(`{"s3.endpoint":%q,"s3.access-key-id":%q,"s3.secret-access-key":%q,"s3.region":%q}`,
		cfg.S3.Endpoint, cfg.S3.AccessKeyID, string(cfg.S3.SecretAccessKey), cfg.S3.Region)
}

// bodies are what logs writes for the records of a partition.
func bodies(part int32, first, last int64) (out []string) {
	for o := first; o <= last; o++ {
		out = append(out, fmt.Sprintf("p%d o%d i0", part, o))
	}
	return out
}

// faulty is a catalog whose answers a test decides.
type faulty struct {
	catalog.Catalog
	mu     sync.Mutex
	load   func() error                  // before the real LoadTable
	commit func(real func() error) error // around the real CommitTable
}

func (f *faulty) set(load func() error, commit func(func() error) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.load, f.commit = load, commit
}

func (f *faulty) Close() error {
	return f.Catalog.(catalog.Closer).Close()
}

func (f *faulty) LoadTable(ctx context.Context, id table.Identifier) (*table.Table, error) {
	f.mu.Lock()
	load := f.load
	f.mu.Unlock()
	if load != nil {
		if err := load(); err != nil {
			return nil, err
		}
	}
	tbl, err := f.Catalog.LoadTable(ctx, id)
	if err != nil {
		return nil, err
	}
	// The table must commit through this catalog.
	return table.New(tbl.Identifier(), tbl.Metadata(), tbl.MetadataLocation(), tbl.FS, f), nil
}

func (f *faulty) CommitTable(ctx context.Context, id table.Identifier, reqs []table.Requirement, updates []table.Update) (meta table.Metadata, location string, err error) {
	real := func() error {
		meta, location, err = f.Catalog.CommitTable(ctx, id, reqs, updates)
		return err
	}
	f.mu.Lock()
	commit := f.commit
	f.mu.Unlock()
	if commit == nil {
		err = real()
		return meta, location, err
	}
	err = commit(real)
	return meta, location, err
}

// withFaults puts a faulty catalog before the real one.
func withFaults(f *faulty) func(*sink) {
	return func(s *sink) {
		open := s.openCatalog
		s.openCatalog = func(ctx context.Context) (catalog.Catalog, error) {
			cat, err := open(ctx)
			f.Catalog = cat
			return f, err
		}
	}
}

func sorted(s []string) []string {
	slices.Sort(s)
	return s
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(text)
}
