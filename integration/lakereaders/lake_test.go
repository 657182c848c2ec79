package lakereaders

import (
	"context"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/catalog"
	sqlcat "github.com/apache/iceberg-go/catalog/sql"
	"github.com/apache/iceberg-go/table"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun/driver/sqliteshim"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/exporter/exportertest"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/pulsegrid/pulsegrid/exporter/icebergexporter"
	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
	"github.com/pulsegrid/pulsegrid/internal/quarantine"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// day is the day of the rows' ingest_time; some blocks are of the next.
var day = time.Date(2026, 3, 4, 5, 6, 7, 89_123, time.UTC)

const (
	patience = 5 * time.Minute
	commits  = 2 // of a round: one of three blocks together, one of a block
)

// sink is one table of the lake, and how it is filled.
type sink struct {
	table string
	topic string
	send  func(ctx context.Context, g *generator, records []record) error
	stop  func()
	next  [3]int64 // offset at which the next block of each partition begins; the sinks share none, so that an offset names a row of any table
}

// lake is what the exporter wrote.
type lake struct {
	dir    string
	tables map[string]*table.Table
	rows   map[string]int // rows sent, by table
}

// openCatalog opens the lake's catalog as the exporter's neighbour.
func openCatalog(t *testing.T, dir string) catalog.Catalog {
	t.Helper()
	cat, err := catalog.Load(t.Context(), "pulsegrid", iceberg.Properties{
		"type": "sql", "uri": "file:" + filepath.Join(dir, "catalog.db") + "?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)", "warehouse": "file://" + filepath.Join(dir, "warehouse"),
		sqlcat.DriverKey: sqliteshim.ShimName, sqlcat.DialectKey: string(sqlcat.SQLite),
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, cat.(catalog.Closer).Close()) })
	return cat
}

// newLake fills every table of a lake through the exporter: blocks of blockRows rows, first with row groups as large as they are by
// default, then with row groups smaller than a block.
func newLake(t *testing.T, seed uint64, blockRows, rounds int) *lake {
	t.Helper()
	l := &lake{dir: t.TempDir(), tables: map[string]*table.Table{}, rows: map[string]int{}}
	cat := openCatalog(t, l.dir)
	sinks := l.sinks(t, rounds)
	g := newGenerator(seed)
	for round := range rounds {
		for commit := range commits {
			if round+commit > 0 {
				l.limitRowGroups(t, cat, sinks, blockRows*2/(3+round))
			}
			for i := range sinks {
				l.fill(t, g, &sinks[i], blockRows, 3-commit*2)
			}
		}
	}
	for _, s := range sinks {
		s.stop()
	}
	for _, s := range sinks {
		l.load(t, cat, s.table)
	}
	l.load(t, cat, ledger.NameFor(columns.RowsEvents))
	return l
}

func (l *lake) load(t *testing.T, cat catalog.Catalog, name string) {
	t.Helper()
	tbl, err := cat.LoadTable(t.Context(), table.Identifier{"pulsegrid", name})
	require.NoError(t, err)
	l.tables[name] = tbl
}

// fill delivers blocks of several partitions together, so that they may go into one commit.
func (l *lake) fill(t *testing.T, g *generator, s *sink, rows, blocks int) {
	t.Helper()
	var wait sync.WaitGroup
	for part := range blocks {
		g.block()
		records := make([]record, rows)
		first := s.next[part]
		for i := range records {
			records[i] = record{topic: s.topic, partition: int32(part), offset: first + int64(i)}
		}
		b := block.Block{
			Topic: s.topic, Partition: int32(part), First: first, Last: first + int64(rows) - 1, Oldest: first, Fresh: true, Intended: time.Now(), Events: rows,
			Account: &block.Account{},
		}
		s.next[part] = b.Next()
		made := make(chan struct{}) // one block's events are made after the other's, so that a seed makes the same ones
		ctx := context.WithValue(block.NewContext(context.Background(), b), madeKey{}, made)
		wait.Go(func() {
			if err := s.send(ctx, g, records); err != nil {
				t.Errorf("%s: %s: %v", s.table, b, err)
			}
		})
		<-made
	}
	wait.Wait()
	if s.table != columns.RowsQuarantine && s.table != columns.RowsQuarantinePII { // those count for themselves
		l.rows[s.table] += rows * blocks
	}
}

// belonging counts the items that are rows of a table of the quarantine: the other table has the others.
func belonging(items plog.Logs, table string) (n int) {
	for _, rl := range items.ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			for _, lr := range sl.LogRecords().All() {
				if quarantine.FromLog(lr).Personal() == (table == columns.RowsQuarantinePII) {
					n++
				}
			}
		}
	}
	return n
}

type madeKey struct{}

// made tells fill that a block's events are made.
func made[T any](ctx context.Context, events T) T {
	close(ctx.Value(madeKey{}).(chan struct{}))
	return events
}

// limitRowGroups makes further files of many small row groups.
func (l *lake) limitRowGroups(t *testing.T, cat catalog.Catalog, sinks []sink, rows int) {
	t.Helper()
	for _, s := range sinks {
		require.Eventually(t, func() bool {
			tbl, err := cat.LoadTable(t.Context(), table.Identifier{"pulsegrid", s.table})
			require.NoError(t, err)
			tx := tbl.NewTransaction()
			require.NoError(t, tx.SetProperties(iceberg.Properties{table.ParquetRowGroupLimitKey: strconv.Itoa(rows)}))
			_, err = tx.Commit(t.Context())
			return err == nil
		}, patience, 100*time.Millisecond)
	}
}

// sinks starts the exporters of all tables.
func (l *lake) sinks(t *testing.T, buckets int) []sink {
	t.Helper()
	f, set := icebergexporter.NewFactory(), exportertest.NewNopSettings(icebergexporter.NewFactory().Type())
	config := func(rows string) component.Config {
		cfg := f.CreateDefaultConfig()
		require.NoError(t, confmap.NewFromStringMap(map[string]any{
			"catalog":           map[string]any{"type": "sql", "uri": "file:" + filepath.Join(l.dir, "catalog.db"), "warehouse": "file://" + filepath.Join(l.dir, "warehouse")},
			"commit":            map[string]any{"max_age": "300ms"},
			"partition_buckets": buckets, "rows": rows,
		}).Unmarshal(cfg))
		require.NoError(t, cfg.(interface{ Validate() error }).Validate())
		return cfg
	}
	run := func(c component.Component, err error) func() {
		require.NoError(t, err)
		require.NoError(t, c.Start(t.Context(), componenttest.NewNopHost()))
		return func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			require.NoError(t, c.Shutdown(ctx))
		}
	}
	events := config(columns.RowsEvents)
	logs, err := f.CreateLogs(t.Context(), set, events)
	stopLogs := run(logs, err)
	traces, err := f.CreateTraces(t.Context(), set, events)
	stopTraces := run(traces, err)
	metrics, err := f.CreateMetrics(t.Context(), set, events)
	stopMetrics := run(metrics, err)
	out := []sink{
		{table: columns.Logs.Name, topic: signal.Logs.Topic(), send: func(ctx context.Context, g *generator, r []record) error {
			return logs.ConsumeLogs(ctx, made(ctx, g.logs(r)))
		}, stop: stopLogs},
		{table: columns.Spans.Name, topic: signal.Traces.Topic(), send: func(ctx context.Context, g *generator, r []record) error {
			return traces.ConsumeTraces(ctx, made(ctx, g.traces(r)))
		}, stop: stopTraces},
		{table: columns.Metrics.Name, topic: signal.Metrics.Topic(), send: func(ctx context.Context, g *generator, r []record) error {
			return metrics.ConsumeMetrics(ctx, made(ctx, g.metrics(r)))
		}, stop: stopMetrics},
	}
	for _, rows := range []string{columns.RowsQuarantine, columns.RowsQuarantinePII} {
		items, err := f.CreateLogs(t.Context(), set, config(rows))
		stop := run(items, err)
		out = append(out, sink{table: rows, topic: signal.QuarantineTopic, send: func(ctx context.Context, g *generator, r []record) error {
			ld := g.items(r)
			l.rows[rows] += belonging(ld, rows)
			return items.ConsumeLogs(ctx, made(ctx, ld))
		}, stop: stop})
	}
	for i := range out {
		for part := range out[i].next {
			out[i].next[part] = int64(i*len(out[i].next)+part) * 1_000_000
		}
	}
	return out
}
