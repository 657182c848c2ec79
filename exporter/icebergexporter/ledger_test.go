package icebergexporter

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/iceberg-go/catalog"
	"github.com/apache/iceberg-go/table"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog"
	"golang.org/x/sync/errgroup"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/pytest"
)

// entry is what a test says of a ledger entry.
type entry struct {
	part, first, last, events, duplicates, quarantined, rows, idSum int64
}

// entries are those of a topic, in the order of partition and offset.
func entries(t *testing.T, cfg *Config, topic string) (out []entry) {
	t.Helper()
	scan(t, cfg, ledger.Name, func(b arrow.RecordBatch) {
		col := func(name string, row int) int64 {
			switch c := b.Column(b.Schema().FieldIndices(name)[0]).(type) {
			case *array.Int32:
				return int64(c.Value(row))
			case *array.Int64:
				return c.Value(row)
			}
			panic(name)
		}
		for i := range int(b.NumRows()) {
			if b.Column(b.Schema().FieldIndices("kafka_topic")[0]).ValueStr(i) != topic {
				continue
			}
			out = append(out, entry{
				col("kafka_partition", i), col("first_offset", i), col("last_offset", i), col("events", i), col("duplicates", i),
				col("quarantined", i), col("rows", i), col("id_sum", i),
			})
		}
	}, "*")
	slices.SortFunc(out, func(a, b entry) int { return int(a.part<<32 + a.first - b.part<<32 - b.first) })
	return out
}

// wantEntry is the entry of a block of logs.
func wantEntry(part int32, first, last int64) entry {
	e := entry{part: int64(part), first: first, last: last, events: last - first + 1, rows: last - first + 1}
	for o := first; o <= last; o++ {
		id := eventID(part, o, 0)
		e.idSum += int64(ledger.IDSum(id[:]))
	}
	return e
}

func TestEveryBlockHasOneEntryOfWhatBecameOfIt(t *testing.T) {
	cfg := lake(t)
	h := start(t, cfg, columns.Logs)
	require.NoError(t, h.send(0, 0, 9))
	require.NoError(t, h.send(0, 0, 9), "redelivered")

	ctx, ld := logs(0, 10, 19, 1)
	b, _ := block.FromContext(ctx)
	b.Events, b.Account = 15, &block.Account{} // of which dedupe removed five
	b.Account.Add(11, block.Tally{Duplicates: 5})
	b.Account.Add(12, block.Tally{Quarantined: 2})
	require.NoError(t, h.consumeLogs(block.NewContext(ctx, b), ld))

	ctx, _ = logs(0, 20, 29, 1)
	b, _ = block.FromContext(ctx)
	b.Events = 0
	require.NoError(t, h.consumeLogs(block.NewContext(ctx, b), plog.NewLogs()), "nothing of it is left")

	second := wantEntry(0, 10, 19)
	second.events, second.duplicates, second.quarantined = 15, 5, 2
	require.Equal(t, []entry{wantEntry(0, 0, 9), second, {first: 20, last: 29}}, entries(t, cfg, topic))
	require.Equal(t, int64(3), h.metricOf("iceberg_ledger_entries", "pulsegrid.ledger"))
	require.Equal(t, "30", loaded(t, cfg, ledger.Name).Properties()["pulsegrid.offset.otlp.logs.v1.0"])

	var read [][]int64
	pytest.RunJSON(t, &read, `
import sys, json
from pyiceberg.catalog import load_catalog
uri, warehouse = sys.argv[1:]
rows = load_catalog("pulsegrid", type="sql", uri="sqlite:///" + uri, warehouse=warehouse).load_table("pulsegrid.ledger").scan().to_arrow().to_pylist()
print(json.dumps(sorted([r["first_offset"], r["rows"], r["id_sum"]] for r in rows)))
`, cfg.Catalog.URI[len("file:"):], cfg.Catalog.Warehouse)
	require.Equal(t, [][]int64{{0, 10, wantEntry(0, 0, 9).idSum}, {10, 10, second.idSum}, {20, 0, 0}}, read, "pyiceberg")
}

func TestTheSignalsOfAComponentShareOneLedger(t *testing.T) {
	cfg := lake(t)
	l, m, s := start(t, cfg, columns.Logs), start(t, cfg, columns.Metrics), start(t, cfg, columns.Spans)
	require.Same(t, l.ledger, m.ledger)
	require.Same(t, l.ledger, s.ledger)
	var g errgroup.Group
	g.Go(func() error { return l.send(0, 0, 9) })
	g.Go(func() error { ctx, md := metrics(0, 0, 4); return m.consumeMetrics(ctx, md) })
	g.Go(func() error { ctx, td := traces(0, 0, 4); return s.consumeTraces(ctx, td) })
	require.NoError(t, g.Wait())
	l.shutdown()
	s.shutdown()
	ctx, md := metrics(0, 5, 9)
	require.NoError(t, m.consumeMetrics(ctx, md), "the ledger stops with its last user")
	require.Len(t, entries(t, cfg, topic), 1)
	require.Len(t, entries(t, cfg, signal.Metrics.Topic()), 2)
	require.Len(t, entries(t, cfg, signal.Traces.Topic()), 1)
}

// faultyLedger puts a faulty catalog before the ledger's.
func faultyLedger(f *faulty) func(*sink) {
	return func(s *sink) {
		join := s.joinLedger
		s.joinLedger = func() (*ledgerStore, error) {
			l, err := join()
			open := l.openCatalog
			l.openCatalog = func(ctx context.Context) (catalog.Catalog, error) {
				cat, err := open(ctx)
				f.Catalog = cat
				return f, err
			}
			return l, err
		}
	}
}

func TestEntriesThatACrashLeftOutAreWrittenWhenTheirBlocksComeAgain(t *testing.T) {
	cfg := lake(t)
	cfg.Commit.MaxAttempts = 1
	f := &faulty{}
	h := start(t, cfg, columns.Logs, faultyLedger(f))
	require.NoError(t, h.send(0, 0, 9))
	f.set(nil, func(func() error) error { return errCatalog })
	err := h.send(0, 10, 19)
	require.ErrorIs(t, err, errCatalog)
	require.ErrorContains(t, err, "table pulsegrid.ledger: block otlp.logs.v1/0/10-19")
	after := h.async(0, 20, 29, 10)
	require.Eventually(t, func() bool { return mustOffsets(t, cfg)[partition{topic: topic, id: 0}] == 30 }, time.Minute, 10*time.Millisecond, "the rows are in")
	requireUnanswered(t, after)
	h.shutdown()
	require.ErrorIs(t, <-after, errShutdown)
	require.Equal(t, []entry{wantEntry(0, 0, 9)}, entries(t, cfg, topic))

	again := start(t, other(cfg), columns.Logs)
	third := again.async(0, 20, 29, 10)
	require.NoError(t, again.sendFrom(0, 10, 19, 10))
	require.NoError(t, <-third)
	require.Equal(t, []entry{wantEntry(0, 0, 9), wantEntry(0, 10, 19), wantEntry(0, 20, 29)}, entries(t, cfg, topic))
	require.Equal(t, sorted(bodies(0, 0, 29)), stored(t, cfg, "logs", "body"))
}

func TestALedgerBehindItsTableSendsTheReceiverBack(t *testing.T) {
	cfg := lake(t)
	h := start(t, cfg, columns.Logs)
	require.NoError(t, h.send(0, 0, 9))
	require.NoError(t, h.send(0, 10, 19))
	require.NoError(t, h.send(0, 20, 29))
	tbl := reload(t, cfg, ledger.Name)
	tx := tbl.NewTransaction()
	require.NoError(t, tx.RollbackToSnapshot(tbl.Metadata().Snapshots()[0].SnapshotID))
	_, err := tx.Commit(t.Context())
	require.NoError(t, err)

	requireResume(t, h.sendFrom(0, 30, 39, 30), 10) // the rows of 30-39 are in, its entry is not
	require.NoError(t, h.sendFrom(0, 10, 24, 10))
	require.NoError(t, h.sendFrom(0, 25, 39, 25))
	require.Equal(t, []entry{wantEntry(0, 0, 9), wantEntry(0, 10, 24), wantEntry(0, 25, 39)}, entries(t, cfg, topic))
	require.Equal(t, sorted(bodies(0, 0, 39)), stored(t, cfg, "logs", "body"))
}

func TestANewLedgerBeginsWhereTheGroupIs(t *testing.T) {
	cfg := lake(t)
	h := start(t, cfg, columns.Logs)
	require.NoError(t, h.send(0, 0, 9))
	h.shutdown()
	cat, err := cfg.openCatalog(t.Context())
	require.NoError(t, err)
	defer cat.(catalog.Closer).Close()
	require.NoError(t, cat.DropTable(t.Context(), table.Identifier{"pulsegrid", ledger.Name}))
	again := start(t, other(cfg), columns.Logs)
	third := again.async(0, 20, 29, 10)
	require.NoError(t, again.sendFrom(0, 10, 19, 10))
	require.NoError(t, <-third)
	require.Equal(t, []entry{wantEntry(0, 10, 19), wantEntry(0, 20, 29)}, entries(t, cfg, topic), "and not before its first block")
}

func TestAReplacedLedgerStopsTheSink(t *testing.T) {
	cfg := lake(t)
	h := start(t, cfg, columns.Logs)
	require.NoError(t, h.send(0, 0, 9))
	cat, err := cfg.openCatalog(t.Context())
	require.NoError(t, err)
	defer cat.(catalog.Closer).Close()
	require.NoError(t, cat.DropTable(t.Context(), table.Identifier{"pulsegrid", ledger.Name}))
	_, err = cfg.ensureLedger(t.Context(), cat)
	require.NoError(t, err)
	for range 2 {
		require.ErrorIs(t, h.send(0, 10, 19), errTableReplaced)
	}
	require.Empty(t, entries(t, cfg, topic))
}

func TestABlockIsAcknowledgedOnlyWithItsEntry(t *testing.T) {
	cfg := lake(t)
	f := &faulty{}
	h := start(t, cfg, columns.Logs, faultyLedger(f))
	require.NoError(t, h.send(0, 0, 0))
	release := make(chan struct{})
	var asked atomic.Bool
	f.set(nil, func(real func() error) error { asked.Store(true); <-release; return real() })
	answer := h.async(0, 1, 9, 1)
	require.Eventually(t, asked.Load, time.Minute, time.Millisecond)
	require.Equal(t, sorted(bodies(0, 0, 9)), stored(t, cfg, "logs", "body"), "its rows are seen")
	require.Zero(t, h.budget.bytes(), "and hold no memory")
	requireUnanswered(t, answer)
	close(release)
	require.NoError(t, <-answer)
}

func TestALedgerOfOtherColumnsIsRefused(t *testing.T) {
	cfg := lake(t)
	cat, err := cfg.openCatalog(t.Context())
	require.NoError(t, err)
	defer cat.(catalog.Closer).Close()
	require.NoError(t, cat.CreateNamespace(t.Context(), table.Identifier{cfg.Namespace}, nil))
	_, err = cat.CreateTable(t.Context(), table.Identifier{cfg.Namespace, ledger.Name}, columns.Logs.IcebergSchema())
	require.NoError(t, err)
	h := start(t, cfg, columns.Logs)
	require.ErrorContains(t, h.send(0, 0, 9), "column tenant_id is required, and this program does not know it")
}
