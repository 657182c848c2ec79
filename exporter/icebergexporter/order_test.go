package icebergexporter

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/iceberg-go/catalog"
	"github.com/apache/iceberg-go/table"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/columns"
)

// blockLogs makes a block of one event a record, as a receiver delivers it whose group has finished what is before oldest.
func blockLogs(part int32, first, last, oldest int64, fresh bool) (context.Context, plog.Logs) {
	ctx, ld := logs(part, first, last, 1)
	b, _ := block.FromContext(ctx)
	b.Oldest, b.Fresh = oldest, fresh
	return block.NewContext(ctx, b), ld
}

func (h *harness) sendFrom(part int32, first, last, oldest int64) error {
	ctx, ld := blockLogs(part, first, last, oldest, false)
	return h.consumeLogs(ctx, ld)
}

// async sends a block and tells its answer.
func (h *harness) async(part int32, first, last, oldest int64) chan error {
	out := make(chan error, 1)
	go func() { out <- h.sendFrom(part, first, last, oldest) }()
	return out
}

func requireResume(t *testing.T, err error, next int64) {
	t.Helper()
	requireResumeOf(t, err, 0, next)
}

func requireResumeOf(t *testing.T, err error, part int32, next int64) {
	t.Helper()
	var resume *block.ResumeError
	require.ErrorAs(t, err, &resume)
	require.Equal(t, &block.ResumeError{Topic: topic, Partition: part, Next: next}, resume)
	require.False(t, consumererror.IsPermanent(err), "the data is not at fault")
}

func requireUnanswered(t *testing.T, answer chan error) {
	t.Helper()
	select {
	case err := <-answer:
		require.Fail(t, "answered", "%v", err)
	case <-time.After(100 * time.Millisecond):
	}
}

func TestBlocksInAnyOrderLoseAndDoubleNothing(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	cfg := lake(t)
	cfg.Commit.MaxAge = 20 * time.Millisecond
	h := start(t, cfg, columns.Logs)
	const parts, blocks, size = 3, 20, 3
	var answers []chan error
	order := random.Perm(parts * blocks)
	var want []string
	for _, n := range order {
		part, first := int32(n%parts), int64(n/parts)*size
		answers = append(answers, h.async(part, first, first+size-1, 0))
		want = append(want, bodies(part, first, first+size-1)...)
		if random.IntN(4) == 0 {
			time.Sleep(time.Duration(random.IntN(20)) * time.Millisecond)
		}
	}
	for _, a := range answers {
		require.NoError(t, <-a)
	}
	require.Equal(t, sorted(want), stored(t, cfg, "logs", "body"))
	require.Equal(t, offsets{{topic: topic, id: 0}: blocks * size, {topic: topic, id: 1}: blocks * size, {topic: topic, id: 2}: blocks * size}, mustOffsets(t, cfg))
}

func TestNoOffsetPassesABlockThatIsNotIn(t *testing.T) {
	cfg := lake(t)
	h := start(t, cfg, columns.Logs)
	require.NoError(t, h.send(0, 0, 9))
	h.turns.advance(partition{topic: topic, id: 0}, 20) // as if 10-19 had been let in and its build were slow
	third := h.async(0, 20, 29, 0)
	require.NoError(t, h.send(1, 0, 9), "other partitions go on")
	requireUnanswered(t, third)
	require.Equal(t, offsets{{topic: topic, id: 0}: 10, {topic: topic, id: 1}: 10}, mustOffsets(t, cfg))
	require.NoError(t, h.send(0, 10, 19))
	require.NoError(t, <-third)
	require.Equal(t, sorted(slices.Concat(bodies(0, 0, 29), bodies(1, 0, 9))), stored(t, cfg, "logs", "body"))
	require.Positive(t, h.metric("iceberg_held_blocks"))
}

func TestAWaitingBlockEndsWithItsCallerAndWithTheExporter(t *testing.T) {
	for name, letIn := range map[string]int64{"waiting without memory": 0, "held by the committer": 10} {
		t.Run(name, func(t *testing.T) {
			cfg := lake(t)
			h := start(t, cfg, columns.Logs)
			require.NoError(t, h.send(1, 0, 0))
			h.turns.advance(partition{topic: topic, id: 0}, letIn)
			ctx, ld := logs(0, 10, 19, 1)
			ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
			defer cancel()
			require.ErrorIs(t, h.consumeLogs(ctx, ld), context.DeadlineExceeded)
			second := h.async(0, 10, 19, 0)
			requireUnanswered(t, second)
			h.shutdown()
			require.ErrorIs(t, <-second, errShutdown)
		})
	}
}

// A later block that came first fills the memory: the one before it must still get in.
func TestAHeldBlockKeepsNoMemoryThatTheOneBeforeItWaitsFor(t *testing.T) {
	for name, letIn := range map[string]bool{"in turn": false, "let in though its predecessor failed": true} {
		t.Run(name, func(t *testing.T) {
			cfg := lake(t)
			h := start(t, cfg, columns.Logs, func(s *sink) { s.budget.max = 1 }) // one call at a time
			if letIn {
				h.turns.advance(partition{topic: topic, id: 0}, 30)
			}
			third, second := h.async(0, 20, 29, 0), h.async(0, 10, 19, 0)
			requireUnanswered(t, third)
			require.NoError(t, h.send(0, 0, 9))
			require.NoError(t, <-second)
			require.NoError(t, <-third)
			require.Equal(t, sorted(bodies(0, 0, 29)), stored(t, cfg, "logs", "body"))
		})
	}
}

func TestHalvesOfABlockThatCannotBeWrittenTileAndTheBlocksAfterItWait(t *testing.T) {
	cfg := lake(t)
	h := start(t, cfg, columns.Logs, func(s *sink) {
		s.onBatch = func(b arrow.RecordBatch) error {
			if slices.Contains(b.Column(b.Schema().FieldIndices(offsetColumn)[0]).(*array.Int64).Int64Values(), 6) {
				return fmt.Errorf("%w: the record at offset 6", arrow.ErrInvalid)
			}
			return nil
		}
	})
	next := h.async(0, 10, 19, 0)
	var refused []int64
	var deliver func(first, last int64)
	deliver = func(first, last int64) { // as the receiver bisects
		err := h.sendFrom(0, first, last, first)
		switch {
		case err == nil:
		case !consumererror.IsPermanent(err):
			require.NoError(t, err)
		case first == last:
			refused = append(refused, first)
			ctx, _ := blockLogs(0, first, last, first, false)
			require.NoError(t, h.consumeLogs(ctx, plog.NewLogs()), "its record is in quarantine: a block without events")
		default:
			requireUnanswered(t, next)
			deliver(first, (first+last)/2)
			deliver((first+last)/2+1, last)
		}
	}
	deliver(0, 9)
	require.NoError(t, <-next)
	require.Equal(t, []int64{6}, refused)
	require.Equal(t, sorted(slices.Concat(bodies(0, 0, 5), bodies(0, 7, 19))), stored(t, cfg, "logs", "body"))
	require.Equal(t, offsets{{topic: topic, id: 0}: 20}, mustOffsets(t, cfg))
}

func TestWhereTheGroupIsAheadOfTheTableTheReceiverIsSentBack(t *testing.T) {
	cfg := lake(t)
	h := start(t, cfg, columns.Logs)
	require.NoError(t, h.send(0, 0, 9))
	later := h.async(0, 60, 69, 50) // the group's offset was moved from 10 to 50
	requireResume(t, h.sendFrom(0, 50, 59, 50), 10)
	requireResume(t, <-later, 10)
	require.NoError(t, h.sendFrom(0, 10, 59, 10))
	require.NoError(t, h.sendFrom(0, 60, 69, 10))
	require.Equal(t, sorted(bodies(0, 0, 69)), stored(t, cfg, "logs", "body"))
	require.Positive(t, h.metric("iceberg_resumes"))
}

func TestAGroupThatIsNewBeginsWhereItChose(t *testing.T) {
	cfg := lake(t)
	h := start(t, cfg, columns.Logs)
	ctx, ld := blockLogs(0, 500, 509, 500, true)
	require.NoError(t, h.consumeLogs(ctx, ld))
	require.Equal(t, offsets{{topic: topic, id: 0}: 510}, mustOffsets(t, cfg))

	ctx, ld = blockLogs(0, 900, 909, 900, true) // the group was deleted, and begins at the newest record
	requireResume(t, h.consumeLogs(ctx, ld), 510)
}

func TestATableDroppedAndMadeAgainWhileTheExporterIsDownIsFilledFromTheStart(t *testing.T) {
	cfg := lake(t)
	h := start(t, cfg, columns.Logs)
	require.NoError(t, h.send(0, 0, 9))
	h.shutdown()
	cat, err := cfg.openCatalog(t.Context())
	require.NoError(t, err)
	defer cat.(catalog.Closer).Close()
	require.NoError(t, cat.DropTable(t.Context(), table.Identifier{"pulsegrid", "logs"}))

	again := start(t, cfg, columns.Logs)
	requireResume(t, again.sendFrom(0, 10, 19, 10), block.FromStart)
	require.NoError(t, again.deliver(0, 0, 19, 0))
	require.Equal(t, sorted(bodies(0, 0, 19)), stored(t, cfg, "logs", "body"))
}

// A restore puts back an older metadata file, properties and all; a rollback only moves the branch, and leaves the properties.
func TestARestoredOrRolledBackTableIsFilledAgainFromWhereItEnds(t *testing.T) {
	for name, undo := range map[string]func(t *testing.T, cfg *Config){
		"rolled back": func(t *testing.T, cfg *Config) {
			tbl := loaded(t, cfg, "logs")
			tx := reload(t, cfg, "logs").NewTransaction()
			require.NoError(t, tx.RollbackToSnapshot(tbl.Metadata().Snapshots()[0].SnapshotID))
			_, err := tx.Commit(t.Context())
			require.NoError(t, err)
			require.Equal(t, "30", loaded(t, cfg, "logs").Properties()["pulsegrid.offset.otlp.logs.v1.0"], "the property stays")
		},
		"restored": func(t *testing.T, cfg *Config) {
			dir := filepath.Join(strings.TrimPrefix(cfg.Catalog.Warehouse, "file://"), "pulsegrid", "logs", "metadata")
			files, err := filepath.Glob(filepath.Join(dir, "00001-*.metadata.json"))
			require.NoError(t, err)
			require.Len(t, files, 1, "the table's first commit")
			setMetadata(t, cfg, "logs", "file://"+files[0])
		},
	} {
		for _, running := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, exporter running: %t", name, running), func(t *testing.T) {
				cfg := lake(t)
				h := start(t, cfg, columns.Logs)
				require.NoError(t, h.send(0, 0, 9))
				require.NoError(t, h.send(0, 10, 19))
				require.NoError(t, h.send(0, 20, 29))
				require.NoError(t, h.send(1, 0, 9))
				undo(t, cfg)
				if !running {
					h.shutdown()
					h = start(t, cfg, columns.Logs)
				}
				requireResume(t, h.sendFrom(0, 30, 39, 30), 10)
				require.NoError(t, h.deliver(0, 10, 24, 10), "cut differently")
				require.NoError(t, h.deliver(0, 25, 39, 25))
				require.Equal(t, sorted(bodies(0, 0, 39)), stored(t, cfg, "logs", "body"), "partition 1 is still rolled back")
				require.NoError(t, h.deliver(1, 0, 19, 0))
				require.Equal(t, sorted(slices.Concat(bodies(0, 0, 39), bodies(1, 0, 19))), stored(t, cfg, "logs", "body"))
			})
		}
	}
}

func TestExpiryAndCompactionAreNoRollback(t *testing.T) {
	cfg := lake(t)
	h := start(t, cfg, columns.Logs)
	for n := range int64(4) {
		require.NoError(t, h.send(0, n*10, n*10+9))
	}
	tbl := reload(t, cfg, "logs")
	tx := tbl.NewTransaction()
	_, err := tx.RewriteManifests(t.Context())
	require.NoError(t, err)
	_, err = tx.Commit(t.Context())
	require.NoError(t, err)
	require.Empty(t, commitID(loaded(t, cfg, "logs").CurrentSnapshot()), "a snapshot of somebody else")
	require.NoError(t, h.send(0, 40, 49))
	tx = reload(t, cfg, "logs").NewTransaction()
	require.NoError(t, tx.ExpireSnapshots(table.WithOlderThan(0), table.WithRetainLast(1)))
	_, err = tx.Commit(t.Context())
	require.NoError(t, err)
	require.NoError(t, h.send(0, 50, 59))
	require.Equal(t, sorted(bodies(0, 0, 59)), stored(t, cfg, "logs", "body"))
	require.Zero(t, h.metric("iceberg_resumes"))
}

func TestAnIntroductionIsAnsweredAndNotWritten(t *testing.T) {
	cfg := lake(t)
	h := start(t, cfg, columns.Logs)
	ctx, i := block.Introduce(t.Context())
	require.NoError(t, h.consumeLogs(ctx, plog.NewLogs()))
	require.Empty(t, i.Memories())
}
