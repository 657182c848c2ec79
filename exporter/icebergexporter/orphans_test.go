package icebergexporter

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/iceberg-go/table"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/testkit/s3test"
)

// backdate makes every file of the table two days old.
func backdate(t *testing.T, cfg *Config) {
	t.Helper()
	old := time.Now().Add(-48 * time.Hour)
	require.NoError(t, filepath.WalkDir(strings.TrimPrefix(cfg.Catalog.Warehouse, "file://"), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return os.Chtimes(path, old, old)
	}))
}

// withOrphan is a lake with ten rows in a named file and ten rows in one that a failed commit left behind.
func withOrphan(t *testing.T) (*Config, *harness) {
	t.Helper()
	cfg := lake(t)
	cfg.Commit.MaxAttempts = 1
	f := &faulty{}
	h := start(t, cfg, columns.Logs, withFaults(f))
	require.NoError(t, h.send(0, 0, 9))
	f.set(nil, func(func() error) error { return errCatalog })
	require.ErrorIs(t, h.send(1, 0, 9), errCatalog)
	f.set(nil, nil)
	require.Equal(t, 2, parquetFiles(t, cfg))
	return cfg, h
}

func TestOrphansAreRemovedAndFilesOfSnapshotsStay(t *testing.T) {
	cfg, h := withOrphan(t)
	require.NoError(t, h.send(0, 10, 19))
	others := filepath.Join(strings.TrimPrefix(cfg.Catalog.Warehouse, "file://"), "pulsegrid", "logs", "data", "00000-0-"+uuid.NewString()+"-00001.parquet")
	require.NoError(t, os.WriteFile(others, nil, 0o600))
	require.NoError(t, h.sweep(t.Context(), cfg.Orphans))
	require.Equal(t, 4, parquetFiles(t, cfg), "nothing is old enough")

	backdate(t, cfg)
	require.NoError(t, h.sweep(t.Context(), cfg.Orphans))
	require.Equal(t, 4, parquetFiles(t, cfg), "the interval is not over")

	now := OrphansConfig{Interval: time.Nanosecond, MinAge: 24 * time.Hour, DryRun: true}
	require.NoError(t, h.sweep(t.Context(), now))
	require.Equal(t, 4, parquetFiles(t, cfg), "a dry run removes nothing")
	require.Equal(t, int64(1), h.metric("iceberg_orphans_found"))
	require.Zero(t, h.metric("iceberg_orphans_removed"))

	now.DryRun = false
	require.NoError(t, h.sweep(t.Context(), now))
	require.Equal(t, int64(1), h.metric("iceberg_orphans_removed"))
	require.Equal(t, 3, parquetFiles(t, cfg))
	require.FileExists(t, others, "another engine's")
	require.Equal(t, sorted(bodies(0, 0, 19)), stored(t, cfg, "logs", "body"))
	require.NoError(t, h.send(1, 0, 9), "its block comes again")
}

func TestFilesThatOnlyAnOlderSnapshotNamesStay(t *testing.T) {
	cfg := lake(t)
	h := start(t, cfg, columns.Logs)
	require.NoError(t, h.send(0, 0, 9))
	require.NoError(t, h.send(0, 10, 19))
	tbl := reload(t, cfg, "logs")
	tx := tbl.NewTransaction()
	require.NoError(t, tx.RollbackToSnapshot(tbl.Metadata().Snapshots()[0].SnapshotID))
	_, err := tx.Commit(t.Context())
	require.NoError(t, err)
	backdate(t, cfg)
	require.NoError(t, h.sweep(t.Context(), cfg.Orphans))
	require.Equal(t, 2, parquetFiles(t, cfg), "a rollback can be undone")
}

func TestASweepThatCannotReadTheSnapshotsRemovesNothing(t *testing.T) {
	cfg, h := withOrphan(t)
	backdate(t, cfg)
	manifests, err := filepath.Glob(filepath.Join(strings.TrimPrefix(cfg.Catalog.Warehouse, "file://"), "pulsegrid", "logs", "metadata", "*-m*.avro"))
	require.NoError(t, err)
	require.NotEmpty(t, manifests)
	for _, m := range manifests {
		require.NoError(t, os.Rename(m, m+".away"))
	}
	require.ErrorContains(t, h.sweep(t.Context(), cfg.Orphans), "reading what the snapshots name")
	require.Equal(t, 2, parquetFiles(t, cfg))
}

// A catalog with a cache, or a replica that lags, may answer with what was before the file was named.
func TestASweepThatIsShownOlderMetadataRemovesNothing(t *testing.T) {
	cfg := lake(t)
	f := &faulty{}
	h := start(t, cfg, columns.Logs, withFaults(f))
	require.NoError(t, h.send(0, 0, 9))
	before := loaded(t, cfg, "logs").MetadataLocation()
	require.NoError(t, h.send(0, 10, 19))
	now := loaded(t, cfg, "logs").MetadataLocation()
	backdate(t, cfg)
	loads := 0
	f.set(func() error {
		if loads++; loads == 2 { // the first is the claim's
			now = loaded(t, cfg, "logs").MetadataLocation()
			setMetadata(t, cfg, "logs", before)
		}
		return nil
	}, nil)
	require.ErrorContains(t, h.sweep(t.Context(), cfg.Orphans), "older than this sweep")
	f.set(nil, nil)
	setMetadata(t, cfg, "logs", now)
	require.Equal(t, 2, parquetFiles(t, cfg))
}

func TestOfManyWritersOneSweeps(t *testing.T) {
	cfg, h := withOrphan(t)
	second := start(t, other(cfg), columns.Logs)
	require.NoError(t, second.send(2, 0, 0))
	backdate(t, cfg)
	require.NoError(t, h.sweep(t.Context(), cfg.Orphans))
	require.NoError(t, second.sweep(t.Context(), cfg.Orphans))
	require.Equal(t, int64(1), h.metric("iceberg_sweeps"))
	require.Zero(t, second.metric("iceberg_sweeps"))
}

// Two writers commit, some commits fail, and a third sweeps all the time without regard to age: only orphans may go. Files of the
// writers' own process are known to be in use; here each sweeps for itself.
func TestSweepingWhileFilesAreWrittenRemovesNoneThatIsUsed(t *testing.T) {
	server := s3test.Start(t)
	cfg := lake(t)
	cfg.Catalog.Warehouse = "s3://" + server.CreateBucket("lake") + "/tables"
	cfg.S3 = S3Config{Endpoint: server.Endpoint, Region: s3test.Region, AccessKeyID: s3test.AccessKey, SecretAccessKey: s3test.SecretKey, PathStyle: true}
	always := OrphansConfig{Interval: time.Nanosecond, MinAge: -time.Hour} // the store's clock has seconds
	f := &faulty{}
	h := start(t, cfg, columns.Logs, withFaults(f))
	require.NoError(t, h.send(0, 0, 0))
	var sweeps sync.WaitGroup
	stop := make(chan struct{})
	sweeps.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond): // so that commits get their turn
				_ = h.sweep(t.Context(), always) // it loses its claim to a commit now and then
			}
		}
	})
	for n := int64(1); n < 20; n++ {
		if n%4 == 0 {
			f.set(nil, first(1, func(func() error) error { return table.ErrCommitFailed }))
		} else {
			f.set(nil, nil)
		}
		require.NoError(t, h.send(0, n, n))
	}
	close(stop)
	sweeps.Wait()
	require.Positive(t, h.metric("iceberg_sweeps"))
	require.Equal(t, sorted(bodies(0, 0, 19)), stored(t, cfg, "logs", "body"))
	require.Equal(t, sorted(bodies(0, 0, 19)), pyiceberg(t, cfg, "logs", "body"))
}
