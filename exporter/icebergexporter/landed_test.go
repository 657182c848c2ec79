package icebergexporter

import (
	"testing"

	"github.com/apache/iceberg-go/table"
	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/columns"
)

// What a catalog answers to a commit is no proof of what it did: the AWS SDK and proxies repeat a request whose answer was lost, and the
// second one is refused because of the first. These tests let a catalog do so; catalogs_test.go does it with real ones.

// answered is a catalog that does a commit and then answers err.
func answered(err error) func(real func() error) error {
	return func(real func() error) error {
		if failed := real(); failed != nil {
			return failed
		}
		return err
	}
}

var wrongAnswers = map[string]error{"as a conflict": table.ErrCommitFailed, "not at all": errCatalog}

func TestACommitThatLandedButIsAnsweredOtherwiseKeepsItsFiles(t *testing.T) {
	for name, answer := range wrongAnswers {
		t.Run(name, func(t *testing.T) {
			cfg := lake(t)
			f := &faulty{}
			h := start(t, cfg, columns.Logs, withFaults(f))
			f.set(nil, first(1, answered(answer)))
			require.NoError(t, h.send(0, 0, 9))
			require.Equal(t, 1, parquetFiles(t, cfg))
			require.Equal(t, sorted(bodies(0, 0, 9)), pyiceberg(t, cfg, "logs", "body"))
			require.Len(t, loaded(t, cfg, "logs").Metadata().Snapshots(), 1)
			require.Zero(t, h.metric("iceberg_orphan_files"))
			require.Equal(t, int64(10), h.metric("iceberg_rows"), "it is known as this exporter's own")
		})
	}
}

func TestALedgersCommitThatLandedButIsAnsweredOtherwiseKeepsItsEntries(t *testing.T) {
	for name, answer := range wrongAnswers {
		t.Run(name, func(t *testing.T) {
			cfg := lake(t)
			f := &faulty{}
			h := start(t, cfg, columns.Logs, faultyLedger(f))
			f.set(nil, first(1, answered(answer)))
			require.NoError(t, h.send(0, 0, 9))
			require.NoError(t, h.send(0, 10, 19))
			require.Equal(t, []entry{wantEntry(0, 0, 9), wantEntry(0, 10, 19)}, entries(t, cfg, topic))
			require.Len(t, loaded(t, cfg, "ledger").Metadata().Snapshots(), 2)
		})
	}
}

// The commit lands, its answer is wrong, and the table cannot be loaded any more before the group is given up.
func TestFilesOfAGroupThatIsGivenUpStayWhileItsCommitMayHaveLanded(t *testing.T) {
	for name, answer := range wrongAnswers {
		t.Run(name, func(t *testing.T) {
			cfg := lake(t)
			cfg.Commit.MaxAttempts = 1
			f := &faulty{}
			h := start(t, cfg, columns.Logs, withFaults(f))
			down := func() error { return errCatalog }
			f.set(nil, func(real func() error) error {
				err := answered(answer)(real)
				f.set(down, nil)
				return err
			})
			require.ErrorIs(t, h.send(0, 0, 9), answer)
			f.set(nil, nil)
			require.Equal(t, int64(1), h.metric("iceberg_orphan_files"))
			backdate(t, cfg)
			require.NoError(t, h.sweep(t.Context(), cfg.Orphans))
			require.Equal(t, sorted(bodies(0, 0, 9)), stored(t, cfg, "logs", "body"), "neither the group nor the sweeper removed its file")
			require.NoError(t, h.send(0, 0, 9))
			require.Equal(t, int64(10), h.metric("iceberg_replayed_rows"))
			require.Equal(t, sorted(bodies(0, 0, 9)), stored(t, cfg, "logs", "body"))
		})
	}
}

func TestFilesOfACommitThatIsRefusedWhileTheBranchStandsStillStay(t *testing.T) {
	cfg := lake(t)
	cfg.Commit.MaxAttempts = 2
	f := &faulty{}
	h := start(t, cfg, columns.Logs, withFaults(f))
	f.set(nil, func(func() error) error { return table.ErrCommitFailed })
	require.ErrorIs(t, h.send(0, 0, 9), table.ErrCommitFailed)
	require.Equal(t, 1, parquetFiles(t, cfg), "the branch has not left the snapshot that the commit is pinned to: it may still land")
	require.Equal(t, int64(1), h.metric("iceberg_orphan_files"))
	f.set(nil, nil)
	require.NoError(t, h.send(0, 0, 9))
	backdate(t, cfg)
	require.NoError(t, h.sweep(t.Context(), cfg.Orphans))
	require.Equal(t, 1, parquetFiles(t, cfg), "the sweeper has removed it")
}

func TestFilesOfACommitThatLandedAndWasRolledBackStay(t *testing.T) {
	cfg := lake(t)
	f := &faulty{}
	h := start(t, cfg, columns.Logs, withFaults(f))
	require.NoError(t, h.send(0, 0, 9))
	tip := int64(0)
	f.set(nil, first(1, func(real func() error) error {
		if err := real(); err != nil {
			return err
		}
		tbl := reload(t, cfg, "logs")
		tip = currentSnapshot(tbl)
		rollBack(t, cfg, "logs", *tbl.CurrentSnapshot().ParentSnapshotID)
		return table.ErrCommitFailed
	}))
	require.NoError(t, h.send(0, 10, 19), "it was stored, and then undone")
	f.set(nil, nil)
	require.Equal(t, 2, parquetFiles(t, cfg), "the snapshot that was undone names it")
	requireResume(t, h.sendFrom(0, 20, 29, 20), 10)
	require.NoError(t, h.deliver(0, 10, 29, 10))
	require.Equal(t, sorted(bodies(0, 0, 29)), stored(t, cfg, "logs", "body"))
	setBranch(t, cfg, "logs", tip)
	require.Equal(t, sorted(bodies(0, 0, 19)), stored(t, cfg, "logs", "body"), "rolled forward, all is there")
}

// An attempt loses, and so does what the history says of it.
func TestFilesOfAnAttemptWhoseHistoryIsExpiredStay(t *testing.T) {
	cfg := lake(t)
	cfg.Commit.MaxAttempts = 3
	owner := start(t, other(cfg), columns.Logs)
	f := &faulty{}
	h := start(t, cfg, columns.Logs, withFaults(f))
	require.NoError(t, owner.send(0, 0, 9))
	f.set(nil, first(1, func(func() error) error {
		if err := owner.send(0, 10, 14); err != nil { // half of the block, by the partition's other owner
			return err
		}
		if err := owner.send(1, 0, 9); err != nil {
			return err
		}
		expire(t, cfg, "logs")
		return table.ErrCommitFailed
	}))
	require.NoError(t, h.deliver(0, 10, 19, 10))
	require.Equal(t, int64(1), h.metric("iceberg_orphan_files"))
	require.Equal(t, 5, parquetFiles(t, cfg), "three of the owner, one of the attempt that nothing is known of, one of the rest of the block")
}
