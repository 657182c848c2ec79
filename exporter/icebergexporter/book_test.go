package icebergexporter

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/catalog"
	"github.com/apache/iceberg-go/table"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.uber.org/zap/zapcore"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
	"github.com/pulsegrid/pulsegrid/internal/testkit/pytest"
)

// offsetKeys are the names of the table's properties that hold offsets.
func offsetKeys(t *testing.T, cfg *Config, name string) (out []string) {
	t.Helper()
	for k := range loaded(t, cfg, name).Properties() {
		if strings.HasPrefix(k, offsetPrefix) {
			out = append(out, k)
		}
	}
	return out
}

// pyUnset removes properties as another engine does.
func pyUnset(t *testing.T, cfg *Config, name string, keys ...string) {
	t.Helper()
	pytest.Run(t, `
import sys
from pyiceberg.catalog import load_catalog
uri, warehouse, ident, *keys = sys.argv[1:]
table = load_catalog("pulsegrid", type="sql", uri="sqlite:///" + uri, warehouse=warehouse).load_table(ident)
with table.transaction() as tx: tx.remove_properties(*keys)
`, append([]string{cfg.Catalog.URI[len("file:"):], cfg.Catalog.Warehouse, cfg.Namespace + "." + name}, keys...)...)
}

func TestOffsetPropertiesThatWereRemovedAreTakenFromTheSnapshots(t *testing.T) {
	for name, keys := range map[string]func(t *testing.T, cfg *Config) []string{
		"all of them": func(t *testing.T, cfg *Config) []string { return append(offsetKeys(t, cfg, "logs"), commitIDKey) },
		"the offsets": func(t *testing.T, cfg *Config) []string { return offsetKeys(t, cfg, "logs") },
		"one of two":  func(*testing.T, *Config) []string { return []string{"pulsegrid.offset.otlp.logs.v1.0"} },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := lake(t)
			watch, seen := watched(zapcore.WarnLevel)
			h := start(t, cfg, columns.Logs, watch)
			require.NoError(t, h.send(0, 0, 9))
			require.NoError(t, h.send(1, 0, 9))
			pyUnset(t, cfg, "logs", keys(t, cfg)...)
			requireResume(t, h.sendFrom(0, 20, 29, 20), 10)
			require.NoError(t, h.send(1, 10, 19))
			require.NoError(t, h.deliver(0, 0, 19, 0))
			require.NoError(t, h.deliver(0, 20, 29, 20))
			require.Equal(t, sorted(slices.Concat(bodies(0, 0, 29), bodies(1, 0, 19))), stored(t, cfg, "logs", "body"))
			require.Equal(t, offsets{{topic: topic}: 30, {topic: topic, id: 1}: 20}, mustOffsets(t, cfg), "put right")
			require.Equal(t, 1, seen.FilterMessageSnippet("were put right").Len())
		})
	}
}

// A copy has the rows, and neither the properties nor the snapshots.
func TestATableWithRowsOfWhichNothingSaysUpToWhereIsNotFilledAgain(t *testing.T) {
	cfg := lake(t)
	h := start(t, cfg, columns.Logs)
	require.NoError(t, h.send(0, 0, 9))
	require.NoError(t, h.send(0, 10, 19))
	h.shutdown()
	pytest.Run(t, `
import sys
from pyiceberg.catalog import load_catalog
uri, warehouse = sys.argv[1:]
cat = load_catalog("pulsegrid", type="sql", uri="sqlite:///" + uri, warehouse=warehouse)
old = cat.load_table("pulsegrid.logs")
rows = old.scan().to_arrow()
new = cat.create_table("pulsegrid.copied", schema=old.schema(), location=warehouse + "/pulsegrid/copied")
new.append(rows.cast(new.schema().as_arrow()))
cat.rename_table("pulsegrid.logs", "pulsegrid.original")
cat.rename_table("pulsegrid.copied", "pulsegrid.logs")
`, cfg.Catalog.URI[len("file:"):], cfg.Catalog.Warehouse)

	watch, seen := watched(zapcore.ErrorLevel)
	h = start(t, other(cfg), columns.Logs, watch)
	for range 2 {
		err := h.sendFrom(0, 20, 29, 20)
		require.ErrorIs(t, err, errUnknowable)
		require.ErrorContains(t, err, "it has rows of topic otlp.logs.v1, partition 0, and neither its properties nor its snapshots say up to which offset")
		require.False(t, consumererror.IsPermanent(err), "the data is not at fault")
	}
	require.Equal(t, 1, seen.Len(), "it is told once")
	require.NoError(t, h.send(1, 0, 9), "a partition of which it has no rows goes on")
	require.ErrorIs(t, h.sendFrom(0, 20, 29, 20), errUnknowable, "a commit of another partition does not make it forget")

	setProperties(t, cfg, "logs", iceberg.Properties{
		"pulsegrid.offset.otlp.logs.v1.0": "20", "pulsegrid.offset.otlp.logs.v1.1": "10", trustKey: strconv.FormatInt(currentSnapshot(loaded(t, cfg, "logs")), 10),
	})
	require.NoError(t, h.sendFrom(0, 20, 29, 20), "the advice")
	require.Equal(t, sorted(slices.Concat(bodies(0, 0, 29), bodies(1, 0, 9))), stored(t, cfg, "logs", "body"))
}

func TestPropertiesThatContradictTheBranchGiveWayToIt(t *testing.T) {
	for _, property := range []string{"5", "20"} {
		t.Run(property, func(t *testing.T) {
			cfg := lake(t)
			h := start(t, cfg, columns.Logs)
			require.NoError(t, h.send(0, 0, 9))
			setProperties(t, cfg, "logs", iceberg.Properties{"pulsegrid.offset.otlp.logs.v1.0": property})
			require.NoError(t, h.deliver(0, 0, 14, 0))
			require.NoError(t, h.deliver(0, 15, 24, 0))
			require.Equal(t, sorted(bodies(0, 0, 24)), stored(t, cfg, "logs", "body"))
		})
	}
}

// Rolled back from 40 to 10; then one of the snapshots that this undid is expired, which breaks their chain.
func TestARollbackWhoseUndoneSnapshotsAreExpiredInPartLosesNothing(t *testing.T) {
	for name, tc := range map[string]struct {
		gone       []int // of the snapshots below
		unknowable bool
	}{
		"the branch is whole":                          {gone: []int{3}},
		"a snapshot between is gone":                   {gone: []int{0, 3}, unknowable: true},
		"the first is gone":                            {gone: []int{0, 2}, unknowable: true},
		"all that was undone is gone":                  {gone: []int{0, 2, 3, 4}, unknowable: true},
		"all of both":                                  {gone: []int{2, 3, 4}},
		"only the branch's own past, before all of it": {gone: []int{0}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := lake(t)
			h := start(t, cfg, columns.Logs)
			require.NoError(t, h.send(0, 0, 9))          // 0
			require.NoError(t, h.send(0, 10, 19))        // 1: rolled back to
			require.NoError(t, h.send(0, 20, 29))        // 2
			require.NoError(t, h.deliver(0, 20, 39, 20)) // 3
			require.NoError(t, h.send(1, 0, 9))          // 4
			all := loaded(t, cfg, "logs").Metadata().Snapshots()
			rollBack(t, cfg, "logs", all[1].SnapshotID)
			var ids []int64
			for _, i := range tc.gone {
				ids = append(ids, all[i].SnapshotID)
			}
			removeSnapshots(t, cfg, "logs", ids...)
			if tc.unknowable {
				for range 2 {
					err := h.sendFrom(0, 40, 49, 40)
					require.ErrorIs(t, err, errUnknowable)
					require.ErrorContains(t, err, "rolled back")
				}
				require.Equal(t, sorted(bodies(0, 0, 19)), stored(t, cfg, "logs", "body"), "nothing was written")
				return
			}
			requireResume(t, h.sendFrom(0, 40, 49, 40), 20)
			require.NoError(t, h.deliver(0, 20, 49, 20))
			if tc.gone[0] != 0 {
				requireResumeOf(t, h.sendFrom(1, 10, 19, 10), 1, block.FromStart)
			}
			require.NoError(t, h.deliver(1, 0, 19, 0))
			require.Equal(t, sorted(slices.Concat(bodies(0, 0, 49), bodies(1, 0, 19))), stored(t, cfg, "logs", "body"))
		})
	}
}

// Another engine moves the branch back and forth, while the exporter goes on and while it is down.
func TestWhatAnotherEngineRollsBackAndForwardIsNeitherLostNorDoubled(t *testing.T) {
	for _, running := range []bool{true, false} {
		t.Run(fmt.Sprintf("exporter running: %t", running), func(t *testing.T) {
			cfg := lake(t)
			h := start(t, cfg, columns.Logs)
			restart := func() {
				if !running {
					h.shutdown()
					h = start(t, cfg, columns.Logs)
				}
			}
			require.NoError(t, h.send(0, 0, 9))
			early := currentSnapshot(loaded(t, cfg, "logs"))
			require.NoError(t, h.send(0, 10, 19))
			require.NoError(t, h.send(1, 0, 9))
			late := currentSnapshot(loaded(t, cfg, "logs"))

			setBranch(t, cfg, "logs", early)
			restart()
			requireResume(t, h.sendFrom(0, 20, 29, 20), 10)
			require.NoError(t, h.deliver(0, 10, 14, 10), "filled again, in part")
			require.Equal(t, sorted(bodies(0, 0, 14)), stored(t, cfg, "logs", "body"))

			setBranch(t, cfg, "logs", late)
			restart()
			require.NoError(t, h.deliver(0, 15, 29, 15), "the branch has 15 to 19")
			require.NoError(t, h.deliver(1, 0, 19, 0))
			require.Equal(t, sorted(slices.Concat(bodies(0, 0, 29), bodies(1, 0, 19))), stored(t, cfg, "logs", "body"))
			require.Equal(t, sorted(slices.Concat(bodies(0, 0, 29), bodies(1, 0, 19))), pyiceberg(t, cfg, "logs", "body"))
		})
	}
}

func TestAGroupOfEmptyBlocksIsASnapshotToo(t *testing.T) {
	cfg := lake(t)
	h := start(t, cfg, columns.Logs)
	require.NoError(t, h.send(0, 0, 9))
	require.NoError(t, h.sendEmpty(0, 10, 19))
	tbl := loaded(t, cfg, "logs")
	require.Len(t, tbl.Metadata().Snapshots(), 2)
	require.Equal(t, "20", tbl.CurrentSnapshot().Summary.Properties["pulsegrid.offset.otlp.logs.v1.0"], "or the branch would contradict the property")
	require.NoError(t, h.send(0, 20, 29))
	require.Zero(t, h.metric("iceberg_resumes"))
	require.Equal(t, sorted(slices.Concat(bodies(0, 0, 9), bodies(0, 20, 29))), pyiceberg(t, cfg, "logs", "body"))
}

func TestALedgerWhosePropertiesWereRemovedGoesOn(t *testing.T) {
	cfg := lake(t)
	h := start(t, cfg, columns.Logs)
	require.NoError(t, h.send(0, 0, 9))
	pyUnset(t, cfg, ledger.Name, append(offsetKeys(t, cfg, ledger.Name), commitIDKey)...)
	require.NoError(t, h.send(0, 10, 19))
	require.NoError(t, h.send(1, 0, 9))
	require.Equal(t, []entry{wantEntry(0, 0, 9), wantEntry(0, 10, 19), wantEntry(1, 0, 9)}, entries(t, cfg, topic))
}

// removeSnapshots removes some snapshots, as an expiry does that works on them one by one.
func removeSnapshots(t *testing.T, cfg *Config, name string, ids ...int64) {
	t.Helper()
	cat, err := cfg.openCatalog(t.Context())
	require.NoError(t, err)
	defer cat.(catalog.Closer).Close()
	_, _, err = cat.CommitTable(t.Context(), table.Identifier{cfg.Namespace, name}, nil, []table.Update{table.NewRemoveSnapshotsUpdate(ids, false)})
	require.NoError(t, err)
}

// foreignCommit is a snapshot of another engine, which changes nothing.
func foreignCommit(t *testing.T, cfg *Config, name string) (id int64) {
	t.Helper()
	before := currentSnapshot(loaded(t, cfg, name))
	pytest.Run(t, `
import sys
from pyiceberg.catalog import load_catalog
uri, warehouse, ident = sys.argv[1:]
table = load_catalog("pulsegrid", type="sql", uri="sqlite:///" + uri, warehouse=warehouse).load_table(ident)
table.append(table.scan(row_filter="kafka_offset < 0").to_arrow().cast(table.schema().as_arrow()))
`, cfg.Catalog.URI[len("file:"):], cfg.Catalog.Warehouse, cfg.Namespace+"."+name)
	tbl := loaded(t, cfg, name)
	id = currentSnapshot(tbl)
	require.NotEqual(t, before, id)
	require.Empty(t, commitID(tbl.CurrentSnapshot()))
	return id
}

// A tag keeps the newest snapshot of the exporter, and another engine's snapshot behind it is expired: the branch's chain does not reach it.
func TestASnapshotThatATagKeepsIsNotTakenForUndone(t *testing.T) {
	for name, blocks := range map[string]int64{"it is the table's first": 1, "those before it are there": 3} {
		t.Run(name, func(t *testing.T) {
			cfg := lake(t)
			h := start(t, cfg, columns.Logs)
			for n := range blocks {
				require.NoError(t, h.send(0, n*10, n*10+9))
			}
			gone := foreignCommit(t, cfg, "logs")
			foreignCommit(t, cfg, "logs")
			removeSnapshots(t, cfg, "logs", gone)
			end := blocks * 10
			require.NoError(t, h.sendFrom(0, end, end+9, end))
			require.Equal(t, sorted(bodies(0, 0, end+9)), stored(t, cfg, "logs", "body"))
		})
	}
}

// Rolled back from 30 to 20, then another engine committed; the snapshot where both went apart is expired.
func TestARollbackBehindAnExpiredSnapshotIsSeen(t *testing.T) {
	cfg := lake(t)
	h := start(t, cfg, columns.Logs)
	require.NoError(t, h.send(0, 0, 9))
	require.NoError(t, h.send(0, 10, 19))
	apart := currentSnapshot(loaded(t, cfg, "logs"))
	require.NoError(t, h.send(0, 20, 29))
	rollBack(t, cfg, "logs", apart)
	foreignCommit(t, cfg, "logs")
	removeSnapshots(t, cfg, "logs", apart)
	requireResume(t, h.sendFrom(0, 30, 39, 30), 20)
	require.NoError(t, h.deliver(0, 20, 39, 20))
	require.Equal(t, sorted(bodies(0, 0, 39)), stored(t, cfg, "logs", "body"))
}
