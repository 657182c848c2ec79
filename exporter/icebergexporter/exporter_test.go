package icebergexporter

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/catalog"
	"github.com/apache/iceberg-go/table"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/exporter/exportertest"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"golang.org/x/sync/errgroup"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/pytest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/s3test"
)

func TestAcknowledgedRowsAreSeenByIndependentReaders(t *testing.T) {
	cfg := lake(t)
	h := start(t, cfg, columns.Logs)
	require.NoError(t, h.send(0, 0, 9))
	require.Equal(t, sorted(bodies(0, 0, 9)), pyiceberg(t, cfg, "logs", "body"))

	var rows []struct {
		Tenant, Topic, Body string
		Offset              int64
		Ingest              float64
		Nanos               int
		N                   int64
	}
	dir := strings.TrimPrefix(cfg.Catalog.Warehouse, "file://")
	pytest.RunJSON(t, &rows, `
import sys, json, duckdb
cols = ["Tenant", "Topic", "Body", "Offset", "Ingest", "Nanos", "N"]
rows = duckdb.sql("select tenant_id, kafka_topic, body, kafka_offset, epoch_us(ingest_time)::double, ingest_time_nanos, map_extract_value(attributes_int, 'n') "
  f"from read_parquet('{sys.argv[1]}/pulsegrid/logs/data/**/*.parquet', hive_partitioning=false) order by kafka_offset").fetchall()
print(json.dumps([dict(zip(cols, r)) for r in rows]))
`, dir)
	require.Len(t, rows, 10, "DuckDB on the files themselves")
	for i, r := range rows {
		require.Equal(t, "acme", r.Tenant)
		require.Equal(t, topic, r.Topic)
		require.Equal(t, fmt.Sprintf("p0 o%d i0", i), r.Body)
		require.Equal(t, int64(i), r.Offset)
		require.Equal(t, float64(received.UnixMicro()), r.Ingest)
		require.Equal(t, 123, r.Nanos)
	}

	tbl := loaded(t, cfg, "logs")
	require.Equal(t, "10", tbl.Properties()["pulsegrid.offset.otlp.logs.v1.0"], "survives snapshot expiry")
	require.Equal(t, "10", tbl.CurrentSnapshot().Summary.Properties["pulsegrid.offset.otlp.logs.v1.0"], "tells the history")
	require.Equal(t, int64(10), h.metric("iceberg_rows"))
	require.Equal(t, int64(1), h.metric("iceberg_files"))
	require.Equal(t, int64(1), h.metric("iceberg_commits"))
}

func TestMetricsAndTracesHaveTablesOfTheirOwn(t *testing.T) {
	cfg := lake(t)
	m, s := start(t, cfg, columns.Metrics), start(t, cfg, columns.Spans) // at once: they race to create the namespace
	ctx, md := metrics(3, 0, 1)
	require.NoError(t, m.consumeMetrics(ctx, md))
	ctx, td := traces(4, 0, 1)
	require.NoError(t, s.consumeTraces(ctx, td))
	require.Equal(t, []string{"p3 o0", "p3 o1"}, stored(t, cfg, "metrics", "metric_name"))
	require.Equal(t, []string{"p4 o0", "p4 o1"}, stored(t, cfg, "spans", "name"))
	require.Equal(t, "2", loaded(t, cfg, "spans").Properties()["pulsegrid.offset."+signal.Traces.Topic()+".4"])
}

func TestConcurrentCallsShareOneCommit(t *testing.T) {
	cfg := lake(t)
	cfg.Commit.MaxAge = time.Hour // only the rows close the group
	cfg.Commit.MaxRows = 80
	h := start(t, cfg, columns.Logs)
	var g errgroup.Group
	var want []string
	for part := range int32(8) {
		want = append(want, bodies(part, 0, 9)...)
		g.Go(func() error { return h.send(part, 0, 9) })
	}
	require.NoError(t, g.Wait())
	require.Equal(t, sorted(want), stored(t, cfg, "logs", "body"))
	tbl := loaded(t, cfg, "logs")
	require.Len(t, tbl.Metadata().Snapshots(), 1)
	for part := range 8 {
		require.Equal(t, "10", tbl.Properties()[fmt.Sprintf("pulsegrid.offset.otlp.logs.v1.%d", part)])
	}
}

func TestAReplayedBlockIsAcknowledgedAndNotWrittenAgain(t *testing.T) {
	cfg := lake(t)
	h := start(t, cfg, columns.Logs)
	require.NoError(t, h.send(0, 0, 9))
	require.NoError(t, h.send(0, 0, 9))
	require.NoError(t, h.send(0, 3, 5))
	require.Len(t, loaded(t, cfg, "logs").Metadata().Snapshots(), 1)
	require.Equal(t, int64(13), h.metric("iceberg_replayed_rows"))
	require.Equal(t, sorted(bodies(0, 0, 9)), stored(t, cfg, "logs", "body"))
}

func TestOfAStraddlingBlockOnlyTheNewRowsAreWritten(t *testing.T) {
	cfg := lake(t)
	h := start(t, cfg, columns.Logs)
	require.NoError(t, h.send(0, 0, 9))
	require.NoError(t, h.deliver(0, 5, 14, 5))
	require.Equal(t, sorted(bodies(0, 0, 14)), stored(t, cfg, "logs", "body"))
	require.Equal(t, int64(10), h.metric("iceberg_replayed_rows"), "5 to 9 when the block came, 10 to 14 when its end came as a block of its own, for the ledger")
	require.Equal(t, "15", loaded(t, cfg, "logs").Properties()["pulsegrid.offset.otlp.logs.v1.0"])
}

func TestARestartedExporterGoesOnFromTheTablesOffsets(t *testing.T) {
	cfg := lake(t)
	h := start(t, cfg, columns.Logs)
	require.NoError(t, h.send(0, 0, 9))
	h.shutdown()
	again := start(t, cfg, columns.Logs)
	require.NoError(t, again.send(0, 0, 9))
	require.NoError(t, again.send(0, 10, 11))
	require.Equal(t, sorted(bodies(0, 0, 11)), stored(t, cfg, "logs", "body"))
}

func TestDataWithoutABlockIsCommitted(t *testing.T) {
	cfg := lake(t)
	h := start(t, cfg, columns.Logs)
	_, ld := logs(0, 0, 2, 1)
	require.NoError(t, h.consumeLogs(t.Context(), ld))
	require.NoError(t, h.consumeLogs(t.Context(), plog.NewLogs()), "nothing to do")
	require.Equal(t, sorted(bodies(0, 0, 2)), stored(t, cfg, "logs", "body"))
	require.Empty(t, mustOffsets(t, cfg))
}

func TestABlockWithoutEventsMovesTheOffset(t *testing.T) {
	cfg := lake(t)
	h := start(t, cfg, columns.Logs)
	ctx, _ := logs(0, 0, 9, 1)
	require.NoError(t, h.consumeLogs(ctx, plog.NewLogs()))
	require.Equal(t, offsets{{topic: topic, id: 0}: 10}, mustOffsets(t, cfg))
	require.NoError(t, h.send(0, 10, 10))
	require.Equal(t, sorted(bodies(0, 10, 10)), stored(t, cfg, "logs", "body"))
}

func TestTwoExportersOnOneTableLoseAndDoubleNothing(t *testing.T) {
	cfg := lake(t)
	cfg.Commit.MaxAttempts = 50
	a, b := start(t, cfg, columns.Logs), start(t, other(cfg), columns.Logs)
	const blocks, size = 6, 5
	var g errgroup.Group
	for i, h := range []*harness{a, b} {
		g.Go(func() error { // its own partition, block after block
			for n := range int64(blocks) {
				if err := h.send(int32(i), n*size, n*size+size-1); err != nil {
					return err
				}
			}
			return nil
		})
		g.Go(func() error { // a partition that both believe to own, as around a rebalance, cut differently
			step := int64(size + i)
			for first := int64(0); first < blocks*size; first += step {
				if err := h.deliver(2, first, min(first+step, blocks*size)-1, first); err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, g.Wait())
	want := slices.Concat(bodies(0, 0, blocks*size-1), bodies(1, 0, blocks*size-1), bodies(2, 0, blocks*size-1))
	require.Equal(t, sorted(want), stored(t, cfg, "logs", "body"))
}

func TestAnObjectStoreThatDiesAndReturnsLosesAndDoublesNothing(t *testing.T) {
	server := s3test.Start(t)
	cfg := lake(t)
	cfg.Catalog.Warehouse = "s3://" + server.CreateBucket("lake") + "/tables"
	cfg.S3 = S3Config{Endpoint: server.Endpoint, Region: s3test.Region, AccessKeyID: s3test.AccessKey, SecretAccessKey: s3test.SecretKey, PathStyle: true}
	cfg.Commit.MaxAttempts = 2
	require.NoError(t, cfg.Validate())
	h := start(t, cfg, columns.Logs)
	require.NoError(t, h.send(0, 0, 9))

	server.Kill()
	err := h.send(0, 10, 19)
	require.ErrorContains(t, err, "block otlp.logs.v1/0/10-19")
	require.False(t, consumererror.IsPermanent(err), "the receiver has to retry it")

	server.Restart()
	require.NoError(t, h.send(0, 10, 19))
	require.Equal(t, sorted(bodies(0, 0, 19)), pyiceberg(t, cfg, "logs", "body"))
}

func TestShutdownCommitsTheOpenGroup(t *testing.T) {
	cfg := lake(t)
	cfg.Commit.MaxAge = time.Hour
	h := start(t, cfg, columns.Logs)
	sent := make(chan error, 1)
	go func() { sent <- h.send(0, 0, 9) }()
	require.Eventually(t, func() bool { return h.budget.bytes() > 0 && h.ready.Load() != nil }, time.Minute, time.Millisecond)
	time.Sleep(50 * time.Millisecond) // the call is handed over right after its batch is built; if not, it is told to retry
	h.shutdown()
	if err := <-sent; err != nil {
		require.ErrorIs(t, err, errShutdown)
		return
	}
	require.Equal(t, sorted(bodies(0, 0, 9)), stored(t, cfg, "logs", "body"))
	require.ErrorIs(t, h.send(0, 10, 19), errShutdown)
}

func TestMemoryIsBoundedByCommittingEarly(t *testing.T) {
	cfg := lake(t)
	cfg.Commit.MaxAge = time.Hour // nothing but memory closes a group
	h := start(t, cfg, columns.Logs, func(s *sink) { s.budget.max = 1 })
	sent := make(chan error, 4)
	for part := range int32(4) {
		go func() { sent <- h.send(part, 0, 9) }()
	}
	for range 3 {
		require.NoError(t, <-sent)
	}
	h.shutdown() // the last one has nobody behind it that waits for memory
	if err := <-sent; err != nil {
		require.ErrorIs(t, err, errShutdown)
		return
	}
	require.Len(t, loaded(t, cfg, "logs").Metadata().Snapshots(), 4, "one call at a time")
}

func TestATableOfAnEarlierVersionGetsTheMissingColumns(t *testing.T) {
	cfg := lake(t)
	createTable(t, cfg, columns.Logs, func(f iceberg.NestedField) (iceberg.NestedField, bool) {
		return f, f.Name != "event_name" && f.Name != "attributes_bool"
	})
	verify := *cfg
	verify.Tables = tablesVerify
	v := start(t, &verify, columns.Logs)
	require.ErrorContains(t, v.send(0, 0, 0), "`tables: verify` forbids adding it")

	h := start(t, cfg, columns.Logs)
	require.NoError(t, h.send(0, 0, 9))
	require.Equal(t, sorted(bodies(0, 0, 9)), stored(t, cfg, "logs", "body"))
}

func TestAColumnOfAnotherTypeIsRefusedByName(t *testing.T) {
	cfg := lake(t)
	createTable(t, cfg, columns.Logs, func(f iceberg.NestedField) (iceberg.NestedField, bool) {
		if f.Name == "severity_text" {
			f.Type = iceberg.PrimitiveTypes.Int64
		}
		return f, true
	})
	h := start(t, cfg, columns.Logs)
	err := h.send(0, 0, 0)
	require.ErrorContains(t, err, "column severity_text is long, want string")
	require.False(t, consumererror.IsPermanent(err), "the table is at fault and not the data")
}

func TestVerifyCreatesNothing(t *testing.T) {
	cfg := lake(t)
	cfg.Tables = tablesVerify
	h := start(t, cfg, columns.Logs)
	require.ErrorContains(t, h.send(0, 0, 0), "`tables: verify` forbids creating it")
}

func TestAReplacedTableIsNotWritten(t *testing.T) {
	cfg := lake(t)
	h := start(t, cfg, columns.Logs)
	require.NoError(t, h.send(0, 0, 9))
	cat, err := cfg.openCatalog(t.Context())
	require.NoError(t, err)
	defer cat.(catalog.Closer).Close()
	require.NoError(t, cat.DropTable(t.Context(), table.Identifier{"pulsegrid", "logs"}))
	require.ErrorIs(t, h.send(0, 10, 19), catalog.ErrNoSuchTable)
	createTable(t, cfg, columns.Logs, nil)
	for range 2 {
		require.ErrorIs(t, h.send(0, 10, 19), errTableReplaced)
	}
	require.Nil(t, loaded(t, cfg, "logs").CurrentSnapshot())
}

func TestTheCatalogFileStaysReadableWhileItIsWritten(t *testing.T) {
	cfg := lake(t)
	h := start(t, cfg, columns.Logs)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for n := int64(0); ; n++ {
			select {
			case <-stop:
				return
			default:
				if !assert.NoError(t, h.send(0, n, n)) {
					return
				}
			}
		}
	})
	require.Eventually(t, func() bool { return h.metric("iceberg_rows") > 0 }, time.Minute, time.Millisecond)
	for range 3 {
		got := pyiceberg(t, cfg, "logs", "body")
		require.Equal(t, sorted(bodies(0, 0, int64(len(got))-1)), got, "whole snapshots")
	}
	close(stop)
	wg.Wait()
	db, err := sql.Open("sqliteshim", cfg.Catalog.URI)
	require.NoError(t, err)
	defer db.Close()
	var mode string
	require.NoError(t, db.QueryRow("pragma journal_mode").Scan(&mode))
	require.Equal(t, "wal", mode)
}

func TestLifecycle(t *testing.T) {
	cfg := lake(t)
	set := exportertest.NewNopSettings(metadata.Type())
	never, err := NewFactory().CreateLogs(t.Context(), set, cfg)
	require.NoError(t, err)
	require.NoError(t, never.Shutdown(t.Context()), "without Start")

	twice, err := NewFactory().CreateTraces(t.Context(), set, cfg)
	require.NoError(t, err)
	require.NoError(t, twice.Start(t.Context(), componenttest.NewNopHost()))
	require.NoError(t, twice.Shutdown(t.Context()))
	require.NoError(t, twice.Shutdown(t.Context()))

	m, err := NewFactory().CreateMetrics(t.Context(), set, cfg)
	require.NoError(t, err)
	require.NoError(t, m.Start(t.Context(), componenttest.NewNopHost()))
	ctx, md := metrics(0, 0, 1)
	require.NoError(t, m.ConsumeMetrics(ctx, md), "through the Collector's helper")
	ctx, _ = metrics(0, 2, 2)
	require.NoError(t, m.ConsumeMetrics(ctx, pmetric.NewMetrics()), "a block without events")
	ctx, md = metrics(0, 9, 9)
	b, _ := block.FromContext(ctx)
	b.Oldest = 9
	_, ok := errors.AsType[*block.ResumeError](m.ConsumeMetrics(block.NewContext(ctx, b), md))
	require.True(t, ok, "the receiver is told where to resume")
	require.NoError(t, m.Shutdown(context.Background()))
	require.Equal(t, "3", loaded(t, cfg, "metrics").Properties()["pulsegrid.offset.otlp.metrics.v1.0"], "the block reaches the exporter")
}

func createTable(t *testing.T, cfg *Config, model *columns.Table, edit func(iceberg.NestedField) (iceberg.NestedField, bool)) {
	t.Helper()
	cat, err := cfg.openCatalog(t.Context())
	require.NoError(t, err)
	defer cat.(catalog.Closer).Close()
	if ok, err := cat.CheckNamespaceExists(t.Context(), table.Identifier{cfg.Namespace}); err == nil && !ok {
		require.NoError(t, cat.CreateNamespace(t.Context(), table.Identifier{cfg.Namespace}, nil))
	}
	var fields []iceberg.NestedField
	for _, f := range model.IcebergSchema().Fields() {
		keep := true
		if edit != nil {
			f, keep = edit(f)
		}
		if keep {
			fields = append(fields, f)
		}
	}
	_, err = cat.CreateTable(t.Context(), table.Identifier{cfg.Namespace, model.Name}, iceberg.NewSchema(0, fields...))
	require.NoError(t, err)
}

func mustOffsets(t *testing.T, cfg *Config) offsets {
	t.Helper()
	have, err := readOffsets(loaded(t, cfg, "logs").Properties(), offsetPrefix)
	require.NoError(t, err)
	return have
}
