package icebergexporter

import (
	"context"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/catalog"
	"github.com/apache/iceberg-go/table"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.uber.org/zap/zapcore"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
	"github.com/pulsegrid/pulsegrid/internal/testkit/collectortest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/pytest"
)

// pyAddColumns adds optional columns of every sort, as another engine does.
func pyAddColumns(t *testing.T, cfg *Config, names ...string) {
	t.Helper()
	pytest.Run(t, `
import sys
from pyiceberg.catalog import load_catalog
from pyiceberg.types import *
uri, warehouse, *names = sys.argv[1:]
cat = load_catalog("pulsegrid", type="sql", uri="sqlite:///" + uri, warehouse=warehouse)
for name in names:
    with cat.load_table("pulsegrid." + name).update_schema() as u:
        u.add_column("note", StringType())
        u.add_column("tags", MapType(1001, StringType(), 1002, LongType(), value_required=False))
        u.add_column("list", ListType(1003, DoubleType(), element_required=False))
        u.add_column("place", StructType(NestedField(1004, "x", DoubleType(), required=False), NestedField(1005, "at", TimestamptzType(), required=False)))
        u.add_column("id16", FixedType(16))
        u.add_column("price", DecimalType(12, 2))
        u.move_first("note")
`, append([]string{cfg.Catalog.URI[len("file:"):], cfg.Catalog.Warehouse}, names...)...)
}

func TestAnOptionalColumnThatSomebodyAddsIsLeftEmpty(t *testing.T) {
	for _, running := range []bool{true, false} {
		cfg := lake(t)
		l, m, s := start(t, cfg, columns.Logs), start(t, cfg, columns.Metrics), start(t, cfg, columns.Spans)
		send := func(n int64) {
			t.Helper()
			from := func(ctx context.Context) context.Context { // all before it is stored
				b, _ := block.FromContext(ctx)
				b.Oldest = n
				return block.NewContext(ctx, b)
			}
			require.NoError(t, l.sendFrom(0, n, n, n))
			ctx, md := metrics(0, n, n)
			require.NoError(t, m.consumeMetrics(from(ctx), md))
			ctx, td := traces(0, n, n)
			require.NoError(t, s.consumeTraces(from(ctx), td))
		}
		send(0)
		tables := []string{"logs", "metrics", "spans", ledger.Name}
		pyAddColumns(t, cfg, tables...)
		if !running {
			for _, h := range []*harness{l, m, s} {
				h.shutdown()
			}
			cfg = other(cfg)
			l, m, s = start(t, cfg, columns.Logs), start(t, cfg, columns.Metrics), start(t, cfg, columns.Spans)
		}
		send(1)
		require.Equal(t, bodies(0, 0, 1), stored(t, cfg, "logs", "body"))
		require.Equal(t, map[string][]int{"logs": {0, 0}, "metrics": {0, 0}, "spans": {0, 0}, ledger.Name: {0, 0, 0, 0, 0, 0}}, pyFilled(t, cfg, tables...))
	}
}

// pyFilled is how many of the added columns the rows of some tables have values in, read with all other columns.
func pyFilled(t *testing.T, cfg *Config, names ...string) (out map[string][]int) {
	t.Helper()
	pytest.RunJSON(t, &out, `
import sys, json
from pyiceberg.catalog import load_catalog
uri, warehouse, *names = sys.argv[1:]
cat = load_catalog("pulsegrid", type="sql", uri="sqlite:///" + uri, warehouse=warehouse)
added = ["note", "tags", "list", "place", "id16", "price"]
print(json.dumps({n: [sum(r[c] is not None for c in added) for r in cat.load_table("pulsegrid." + n).scan().to_arrow().to_pylist()] for n in names}))
`, append([]string{cfg.Catalog.URI[len("file:"):], cfg.Catalog.Warehouse}, names...)...)
	return out
}

// A newer version adds the columns that its row model has more, while this one goes on.
func TestAnAggregatorGoesOnWhileANewerVersionAddsItsColumns(t *testing.T) {
	cfg := lake(t)
	h := start(t, cfg, columns.Logs)
	require.NoError(t, h.send(0, 0, 9))
	for _, name := range []string{"logs", ledger.Name} {
		tbl := reload(t, cfg, name)
		_, err := addColumns(t.Context(), tbl, []iceberg.NestedField{
			{Name: "newer_text", Type: iceberg.PrimitiveTypes.String}, {Name: "newer_count", Type: iceberg.PrimitiveTypes.Int64},
		})
		require.NoError(t, err)
	}
	require.NoError(t, h.send(0, 10, 19))
	require.Equal(t, sorted(bodies(0, 0, 19)), pyiceberg(t, cfg, "logs", "body"))
}

func TestALedgerOfAnEarlierVersionGetsTheMissingColumns(t *testing.T) {
	cfg := lake(t)
	h := start(t, cfg, columns.Logs)
	require.NoError(t, h.sendBlock(0, 0, 9, of(presentTopic)))
	h.shutdown()
	dropColumn(t, cfg, ledger.Name, "topic_id")
	h = start(t, other(cfg), columns.Logs)
	require.NoError(t, h.sendBlock(0, 10, 19, func(b *block.Block) { b.TopicID, b.Oldest = presentTopic, 10 }))
	ids := map[string]string{}
	scan(t, cfg, ledger.Name, func(b arrow.RecordBatch) {
		for i := range int(b.NumRows()) {
			ids[b.Column(0).ValueStr(i)] = b.Column(1).ValueStr(i)
		}
	}, "first_offset", "topic_id")
	require.Equal(t, map[string]string{"0": "(null)", "10": presentTopic.String()}, ids)
}

func dropColumn(t *testing.T, cfg *Config, name, column string) {
	t.Helper()
	tx := reload(t, cfg, name).NewTransaction()
	update := tx.UpdateSchema(true, false)
	update.DeleteColumn([]string{column})
	require.NoError(t, update.Commit())
	_, err := tx.Commit(t.Context())
	require.NoError(t, err)
}

func TestATableThatCannotBeWrittenIsRefusedOnceAndClearly(t *testing.T) {
	schema := func(edit func(*table.UpdateSchema)) func(*testing.T, *table.Transaction) {
		return func(t *testing.T, tx *table.Transaction) {
			update := tx.UpdateSchema(true, true)
			edit(update)
			require.NoError(t, update.Commit())
		}
	}
	for want, spoil := range map[string]func(*testing.T, *table.Transaction){
		"column severity_text was dropped: add it again, or restart with `tables: create`": schema(func(u *table.UpdateSchema) { u.DeleteColumn([]string{"severity_text"}) }),
		"column severity_number is long, want int": schema(func(u *table.UpdateSchema) {
			u.UpdateColumn([]string{"severity_number"}, table.ColumnUpdate{FieldType: iceberg.Optional[iceberg.Type]{Val: iceberg.PrimitiveTypes.Int64, Valid: true}})
		}),
		"column must is required, and this program does not know it": schema(func(u *table.UpdateSchema) {
			u.AddColumn([]string{"must"}, iceberg.PrimitiveTypes.String, "", true, nil)
		}),
		"it has format version 3, and this program writes version 2, which Iceberg cannot go back to: move the table away (rename it), and restart: a new one is made and filled from Kafka": func(t *testing.T, tx *table.Transaction) {
			require.NoError(t, tx.UpgradeFormatVersion(3))
		},
	} {
		t.Run(want, func(t *testing.T) {
			cfg := lake(t)
			watch, seen := watched(zapcore.InfoLevel)
			host := &collectortest.Host{}
			h := startOn(t, host, cfg, columns.Logs, watch)
			require.NoError(t, h.send(0, 0, 9))
			tx := reload(t, cfg, "logs").NewTransaction()
			spoil(t, tx)
			_, err := tx.Commit(t.Context())
			require.NoError(t, err)
			attempts := h.metric("iceberg_commit_attempts")
			for range 3 {
				err := h.sendFrom(0, 10, 19, 10)
				require.ErrorIs(t, err, errUnwritable)
				require.ErrorContains(t, err, want)
				require.Less(t, len(err.Error()), 500)
				require.False(t, consumererror.IsPermanent(err), "the data is not at fault: it must not go to quarantine")
			}
			require.Equal(t, attempts+3, h.metric("iceberg_commit_attempts"), "one try a group")
			require.Equal(t, []componentstatus.Status{componentstatus.StatusPermanentError}, host.Statuses())
			require.Equal(t, 1, seen.Len(), "it is told once")
			require.Equal(t, 1, parquetFiles(t, cfg), "nothing is written that cannot be committed")

			h.shutdown() // an operator moves it away, and restarts
			cat, err := cfg.openCatalog(t.Context())
			require.NoError(t, err)
			defer cat.(catalog.Closer).Close()
			_, err = cat.RenameTable(t.Context(), table.Identifier{"pulsegrid", "logs"}, table.Identifier{"pulsegrid", "logs_before"})
			require.NoError(t, err)
			h = start(t, other(cfg), columns.Logs)
			requireResume(t, h.sendFrom(0, 10, 19, 10), -1)
			require.NoError(t, h.deliver(0, 0, 19, 0))
			require.Equal(t, sorted(bodies(0, 0, 19)), stored(t, cfg, "logs", "body"))
		})
	}
}
