package icebergexporter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/iceberg-go/catalog"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/consumer/consumererror"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/testkit/collectortest"
)

var errCatalog = errors.New("503 from the catalog")

// parquetFiles counts the data files of the logs, committed or not.
func parquetFiles(t *testing.T, cfg *Config) (n int) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(filepath.Join(strings.TrimPrefix(cfg.Catalog.Warehouse, "file://"), "pulsegrid", "logs"), func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".parquet") {
			n++
		}
		return err
	}))
	return n
}

// first lets the first n calls be answered by fault and the others by the real commit.
func first(n int64, fault func(real func() error) error) func(func() error) error {
	var calls atomic.Int64
	return func(real func() error) error {
		if calls.Add(1) <= n {
			return fault(real)
		}
		return real()
	}
}

func TestACommitThatFailsIsRetriedWithTheSameFiles(t *testing.T) {
	cfg := lake(t)
	f := &faulty{}
	h := start(t, cfg, columns.Logs, withFaults(f))
	f.set(nil, first(2, func(func() error) error { return errCatalog }))
	require.NoError(t, h.send(0, 0, 9))
	require.Equal(t, sorted(bodies(0, 0, 9)), stored(t, cfg, "logs", "body"))
	require.Equal(t, 1, parquetFiles(t, cfg))
	require.Equal(t, int64(3), h.metric("iceberg_commit_attempts"))
}

func TestACommitThatFailsAfterItWasDoneIsNotDoneAgain(t *testing.T) {
	for name, withBlock := range map[string]bool{"with a block": true, "without a block": false} {
		t.Run(name, func(t *testing.T) {
			cfg := lake(t)
			f := &faulty{}
			h := start(t, cfg, columns.Logs, withFaults(f))
			f.set(nil, first(1, func(real func() error) error { return errors.Join(real(), errCatalog) }))
			ctx, ld := logs(0, 0, 9, 1)
			if !withBlock {
				ctx = t.Context()
			}
			require.NoError(t, h.consumeLogs(ctx, ld))
			require.Equal(t, sorted(bodies(0, 0, 9)), stored(t, cfg, "logs", "body"))
			require.Len(t, loaded(t, cfg, "logs").Metadata().Snapshots(), 1)
			require.Zero(t, h.metric("iceberg_replayed_rows"), "it is known as this exporter's own")
		})
	}
}

func TestTheLastAttemptsOutcomeIsLookedUpBeforeGivingUp(t *testing.T) {
	cfg := lake(t)
	cfg.Commit.MaxAttempts = 1
	f := &faulty{}
	h := start(t, cfg, columns.Logs, withFaults(f))
	f.set(nil, first(1, func(real func() error) error { return errors.Join(real(), errCatalog) }))
	require.NoError(t, h.send(0, 0, 9))
}

func TestACatalogThatStaysDownGivesARetryableErrorAndThenGoesOn(t *testing.T) {
	cfg := lake(t)
	cfg.Commit.MaxAttempts = 2
	f := &faulty{}
	h := start(t, cfg, columns.Logs, withFaults(f))
	f.set(nil, func(func() error) error { return errCatalog })
	err := h.send(0, 0, 9)
	require.ErrorIs(t, err, errCatalog)
	require.ErrorContains(t, err, "table pulsegrid.logs: block otlp.logs.v1/0/0-9")
	require.False(t, consumererror.IsPermanent(err))
	require.Equal(t, 1, parquetFiles(t, cfg), "the commit may still land, so its file stays")
	require.Equal(t, int64(1), h.metric("iceberg_orphan_files"))

	f.set(func() error { return errCatalog }, nil)
	require.ErrorIs(t, h.send(0, 0, 9), errCatalog, "loading fails too")

	f.set(nil, nil)
	require.NoError(t, h.send(0, 0, 9))
	require.Equal(t, sorted(bodies(0, 0, 9)), stored(t, cfg, "logs", "body"))
}

func TestAHangingCatalogIsGivenUpInTimeAndTheCallIsRetryable(t *testing.T) {
	cfg := lake(t)
	cfg.Commit.MaxAttempts = 1
	f := &faulty{}
	h := start(t, cfg, columns.Logs, withFaults(f))
	require.NoError(t, h.send(0, 0, 9))
	release := make(chan struct{})
	f.set(nil, func(func() error) error { <-release; return errCatalog })
	sent := make(chan error, 1)
	ctx, ld := logs(0, 10, 19, 1)
	ctx, cancel := context.WithCancel(ctx)
	go func() { sent <- h.consumeLogs(ctx, ld) }()
	require.Eventually(t, func() bool { return parquetFiles(t, cfg) == 2 }, time.Minute, time.Millisecond)
	cancel()
	require.ErrorIs(t, <-sent, context.Canceled, "a caller need not wait for the catalog")
	close(release)
	f.set(nil, nil)
	require.NoError(t, h.send(0, 10, 19))
	require.Equal(t, sorted(bodies(0, 0, 19)), stored(t, cfg, "logs", "body"))
}

func TestACallWhoseCallerHasLeftIsNotWritten(t *testing.T) {
	cfg := lake(t)
	cfg.Commit.MaxAge = time.Hour
	h := start(t, cfg, columns.Logs)
	require.Eventually(t, func() bool { return h.ready.Load() != nil }, time.Minute, time.Millisecond, "the table is made")
	ctx, ld := logs(0, 0, 9, 1)
	ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, h.consumeLogs(ctx, ld), context.DeadlineExceeded)
	h.shutdown() // closes the group
	require.Nil(t, loaded(t, cfg, "logs").CurrentSnapshot())
}

func TestAProcessKilledBetweenFilesAndCommitLosesAndDoublesNothing(t *testing.T) {
	for _, point := range []string{"iceberg-written", "iceberg-committing"} {
		t.Run(point, func(t *testing.T) {
			cfg := lake(t)
			cfg.Commit.MaxAttempts = 1
			killed := errors.New("killed")
			h := start(t, cfg, columns.Logs, func(s *sink) {
				s.onPoint = func(at string) error {
					if at == point {
						return killed
					}
					return nil
				}
			})
			require.ErrorIs(t, h.send(0, 0, 9), killed)
			h.shutdown()
			again := start(t, cfg, columns.Logs)
			require.NoError(t, again.send(0, 0, 9))
			require.Equal(t, sorted(bodies(0, 0, 9)), stored(t, cfg, "logs", "body"))
		})
	}
}

func TestAnotherWritersCommitInBetweenTrimsTheBlock(t *testing.T) {
	cfg := lake(t)
	owner := start(t, other(cfg), columns.Logs)
	var once atomic.Bool
	h := start(t, cfg, columns.Logs, func(s *sink) {
		s.onPoint = func(at string) error {
			if at == "iceberg-committing" && once.CompareAndSwap(false, true) {
				return owner.send(0, 0, 4) // the partition's other owner commits its first half
			}
			return nil
		}
	})
	require.NoError(t, h.deliver(0, 0, 9, 0))
	require.Equal(t, sorted(bodies(0, 0, 9)), stored(t, cfg, "logs", "body"))
	require.Equal(t, 2, parquetFiles(t, cfg), "the untrimmed file is removed: its commit can no longer land")
}

func TestACatalogThatIsDownAtStartDelaysNothingAndIsTriedAgain(t *testing.T) {
	cfg := lake(t)
	var up atomic.Bool
	host := &collectortest.Host{}
	h := startOn(t, host, cfg, columns.Logs, func(s *sink) {
		open := s.openCatalog
		s.openCatalog = func(ctx context.Context) (catalog.Catalog, error) {
			if !up.Load() {
				return nil, errCatalog
			}
			return open(ctx)
		}
	})
	err := h.send(0, 0, 9)
	require.ErrorIs(t, err, errNotReady)
	require.ErrorIs(t, err, errCatalog)
	require.False(t, consumererror.IsPermanent(err))
	up.Store(true)
	require.Eventually(t, func() bool { return h.send(0, 0, 9) == nil }, time.Minute, 20*time.Millisecond)
	require.Eventually(t, func() bool {
		return slices.Equal(host.Statuses(), []componentstatus.Status{componentstatus.StatusRecoverableError, componentstatus.StatusOK})
	}, time.Minute, 20*time.Millisecond)
}

func TestACatalogThatHangsAtStartDoesNotHoldUpShutdown(t *testing.T) {
	cfg := lake(t)
	h := start(t, cfg, columns.Logs, func(s *sink) {
		s.openCatalog = func(ctx context.Context) (catalog.Catalog, error) { <-ctx.Done(); return nil, ctx.Err() }
	})
	ctx, ld := logs(0, 0, 0, 1)
	ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, h.consumeLogs(ctx, ld), errNotReady)
	h.shutdown()
}

func TestAShutdownThatRunsOutOfTimeBreaksTheCommitOffAndSaysSo(t *testing.T) {
	cfg := lake(t)
	f := &faulty{}
	h := start(t, cfg, columns.Logs, withFaults(f))
	require.NoError(t, h.send(0, 0, 0))
	f.set(nil, func(func() error) error { <-h.ctx.Done(); return h.ctx.Err() })
	sent := make(chan error, 1)
	go func() { sent <- h.send(0, 1, 9) }()
	require.Eventually(t, func() bool { return parquetFiles(t, cfg) == 2 }, time.Minute, time.Millisecond)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, h.stop(ctx), context.DeadlineExceeded)
	require.Error(t, <-sent)
}

func TestEventsThatCannotBecomeRowsFailTheirOwnCallOnly(t *testing.T) {
	cfg := lake(t)
	cfg.Commit.MaxAge = 300 * time.Millisecond
	h := start(t, cfg, columns.Logs)
	good := make(chan error, 1)
	go func() { good <- h.send(0, 0, 9) }()
	ctx, _ := logs(1, 0, 9, 1)
	bad := errors.New("cannot be a row")
	err := h.consume(ctx, 1, func(*columns.Builder) error { return bad })
	require.ErrorIs(t, err, bad)
	require.True(t, consumererror.IsPermanent(err))
	require.ErrorContains(t, err, "table pulsegrid.logs: block otlp.logs.v1/1/0-9")
	require.NoError(t, <-good)
	require.Equal(t, int64(10), h.metric("iceberg_rejected_rows"))
	require.Equal(t, sorted(bodies(0, 0, 9)), stored(t, cfg, "logs", "body"))
}

func TestRowsThatCannotBeWrittenFailTheirOwnCallOnly(t *testing.T) {
	cfg := lake(t)
	cfg.Commit.MaxAge = time.Hour
	cfg.Commit.MaxRows = 30
	h := start(t, cfg, columns.Logs, func(s *sink) {
		s.onBatch = func(b arrow.RecordBatch) error {
			if b.Column(b.Schema().FieldIndices("kafka_partition")[0]).(*array.Int32).Value(0) == 1 {
				return fmt.Errorf("%w: row", arrow.ErrInvalid)
			}
			return nil
		}
	})
	sent := make([]chan error, 3)
	for part := range sent {
		sent[part] = make(chan error, 1)
		go func() { sent[part] <- h.send(int32(part), 0, 9) }()
	}
	require.NoError(t, <-sent[0])
	err := <-sent[1]
	require.True(t, consumererror.IsPermanent(err))
	require.ErrorContains(t, err, "table pulsegrid.logs: block otlp.logs.v1/1/0-9: rows that cannot be written")
	require.NoError(t, <-sent[2])
	require.Equal(t, sorted(slices.Concat(bodies(0, 0, 9), bodies(2, 0, 9))), stored(t, cfg, "logs", "body"))
	require.Equal(t, offsets{{topic: topic, id: 0}: 10, {topic: topic, id: 2}: 10}, mustOffsets(t, cfg))
	require.Equal(t, int64(10), h.metric("iceberg_rejected_rows"))
}
