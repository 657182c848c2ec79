package clickhouseexporter

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/clickhousetest"
)

// consumeRequest unmarshals an OTLP request and gives it to the signal's Consume; it returns the number of events.
func consumeRequest(ctx context.Context, e *chExporter, request []byte) (int, error) {
	switch e.table.Signal {
	case signal.Logs:
		req := plogotlp.NewExportRequest()
		if err := req.UnmarshalProto(request); err != nil {
			return 0, err
		}
		return req.Logs().LogRecordCount(), e.ConsumeLogs(ctx, req.Logs())
	case signal.Metrics:
		req := pmetricotlp.NewExportRequest()
		if err := req.UnmarshalProto(request); err != nil {
			return 0, err
		}
		return req.Metrics().DataPointCount(), e.ConsumeMetrics(ctx, req.Metrics())
	default:
		req := ptraceotlp.NewExportRequest()
		if err := req.UnmarshalProto(request); err != nil {
			return 0, err
		}
		return req.Traces().SpanCount(), e.ConsumeTraces(ctx, req.Traces())
	}
}

func deliver(t *testing.T, r *rig, ctx context.Context, request []byte) int {
	t.Helper()
	n, err := consumeRequest(ctx, r.chExporter, request)
	require.NoError(t, err)
	return n
}

func TestEverySignalWithEveryFieldIsStored(t *testing.T) {
	ch := clickhousetest.Shared(t)
	for compression, requests := range map[string]uint64{"none": 10, "lz4": 2, "zstd": 2, "gzip": 2} {
		for _, s := range signal.All {
			t.Run(compression+"/"+s.String(), func(t *testing.T) {
				db := "d_" + compression
				r := start(t, s, config(ch.URL, func(c *Config) {
					c.Database = db
					c.RetentionDays = 0 // generated times lie anywhere
					require.NoError(t, c.ClientConfig.Compression.UnmarshalText([]byte(compression)))
				}))
				total := 0
				for seed := range requests {
					total += deliver(t, r, t.Context(), otlptest.Full(s, seed))
					total += deliver(t, r, t.Context(), otlptest.Realistic(s, seed, 50))
				}
				table := db + "." + r.table.Name
				require.EqualValues(t, total, ch.QueryInt("SELECT count() FROM "+table))
				require.EqualValues(t, total, r.sum(t, "clickhouse_rows", "table="+table))
				require.EqualValues(t, 2*requests, r.sum(t, "clickhouse_inserts", "outcome=stored"))
				require.EqualValues(t, 2*requests, r.sum(t, "clickhouse_insert_duration"))
				require.EqualValues(t, 2*requests, r.sum(t, "clickhouse_freshness"))
				require.Empty(t, r.host.Statuses())
			})
		}
	}
}

func TestFieldsArriveAsTheyWere(t *testing.T) {
	ch := clickhousetest.Shared(t)
	r := start(t, signal.Logs, config(ch.URL))
	require.NoError(t, r.consumeLogs(t, 25, 100))
	row := ch.QueryRows(`SELECT tenant_id, service_name, toUnixTimestamp64Nano(time) AS time, time_source, toUnixTimestamp64Nano(ingest_time) AS ingest_time,
		hex(event_id) AS event_id, body, body_type, attributes_int, attributes_string, attr_http_route, resource, kafka_topic, kafka_partition, kafka_offset, event_index
		FROM pulsegrid.logs WHERE kafka_offset = 102 AND event_index = 4`)
	require.Len(t, row, 1)
	got := fmt.Sprint(row[0]["time"], " ", row[0]["ingest_time"])
	require.Equal(t, fmt.Sprint(received.Add(24*time.Microsecond).UnixNano(), " ", received.UnixNano()), got)
	for key, want := range map[string]string{
		"tenant_id": "acme", "service_name": "checkout", "time_source": "event", "event_id": "00040000000000000000000000000000",
		"body": "payment declined for order", "body_type": "string", "attributes_int": "map[attempt:24]", "attributes_string": "map[]",
		"attr_http_route": "/pay", "resource": `{"service.name":"checkout"}`, "kafka_topic": "otlp.logs.v1", "kafka_partition": "3",
	} {
		require.Equal(t, want, fmt.Sprint(row[0][key]), key)
	}
}

func TestABlockSentTwiceIsStoredOnce(t *testing.T) {
	ch := clickhousetest.Shared(t)
	r := start(t, signal.Logs, config(ch.URL))
	for range 3 {
		require.NoError(t, r.consumeLogs(t, 100, 0))
		require.NoError(t, r.consumeLogs(t, 100, 10))
	}
	require.EqualValues(t, 200, ch.QueryInt("SELECT count() FROM pulsegrid.logs"))
	require.EqualValues(t, 600, r.sum(t, "clickhouse_rows"), "rows of inserts that succeeded, repeated ones too")
}

func TestEqualDataWithoutABlockIsStoredEachTime(t *testing.T) {
	ch := clickhousetest.Shared(t)
	r := start(t, signal.Logs, config(ch.URL))
	ld, _ := someLogs(10, 0)
	require.NoError(t, r.ConsumeLogs(t.Context(), ld))
	require.NoError(t, r.ConsumeLogs(t.Context(), ld))
	require.EqualValues(t, 20, ch.QueryInt("SELECT count() FROM pulsegrid.logs"))
}

func TestABlockOfManyDaysAndManyRowsIsOneToken(t *testing.T) {
	ch := clickhousetest.Shared(t)
	r := start(t, signal.Logs, config(ch.URL, func(c *Config) { c.RetentionDays, c.ClientConfig.Timeout = 0, 2*time.Minute })) // 150 parts are written through to the disk
	ld := plog.NewLogs()
	var blk block.Block
	for day := range 150 { // more than max_partitions_per_insert_block's default of 100
		var part plog.Logs
		part, blk = someLogs(20, 0)
		part.ResourceLogs().At(0).Resource().Attributes().PutInt("pulsegrid.received_unix_nano", received.AddDate(0, 0, -day).UnixNano())
		part.ResourceLogs().MoveAndAppendTo(ld.ResourceLogs())
	}
	ctx := block.NewContext(t.Context(), blk)
	require.NoError(t, r.ConsumeLogs(ctx, ld))
	require.NoError(t, r.ConsumeLogs(ctx, ld))
	require.EqualValues(t, 3000, ch.QueryInt("SELECT count() FROM pulsegrid.logs"))
	require.EqualValues(t, 150, ch.QueryInt("SELECT uniqExact(toDate(ingest_time)) FROM pulsegrid.logs"))
}

func TestNoEventsSendNothing(t *testing.T) {
	r := start(t, signal.Logs, config("http://127.0.0.1:1"))
	ld := plog.NewLogs()
	ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty()
	require.NoError(t, r.ConsumeLogs(t.Context(), ld))
}

func TestConcurrentCallsAreBoundedAndAllStored(t *testing.T) {
	ch := clickhousetest.Shared(t)
	r := start(t, signal.Logs, config(ch.URL, func(c *Config) { c.MaxConcurrentInserts = 3 }))
	var wg sync.WaitGroup
	errs := make([]error, 24)
	for i := range errs {
		wg.Go(func() { errs[i] = r.consumeLogs(t, 50, int64(i*5)) })
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	require.EqualValues(t, 24*50, ch.QueryInt("SELECT uniqExact(event_id, kafka_offset, event_index) FROM pulsegrid.logs"))
	require.Len(t, r.places, 3)
}

func TestAnEngineThatIsDownAtStartIsWaitedForByItsCallers(t *testing.T) {
	ch := clickhousetest.Start(t)
	ch.Kill()
	begun := time.Now()
	r := start(t, signal.Logs, config(ch.URL))
	require.Less(t, time.Since(begun), 10*time.Second, "Start does not wait for the store")
	require.Equal(t, []componentstatus.Status{componentstatus.StatusRecoverableError}, r.host.Statuses())

	err := r.consumeLogs(t, 10, 0)
	require.ErrorContains(t, err, "not stored, send it again")
	require.ErrorContains(t, err, "otlp.logs.v1/3/0-0")
	require.False(t, consumererror.IsPermanent(err))

	ch.Restart()
	require.Eventually(t, func() bool { return r.consumeLogs(t, 10, 0) == nil }, time.Minute, 100*time.Millisecond)
	require.EqualValues(t, 10, ch.QueryInt("SELECT count() FROM pulsegrid.logs"))
	require.Equal(t, []componentstatus.Status{componentstatus.StatusRecoverableError, componentstatus.StatusOK}, r.host.Statuses())
}

func TestKillsInTheMiddleOfInsertsLoseAndDoubleNothing(t *testing.T) {
	ch := clickhousetest.Start(t)
	r := start(t, signal.Logs, config(ch.URL))
	const blocks, rows = 30, 2000
	var mu sync.Mutex
	acked := 0
	var wg sync.WaitGroup
	for worker := range 3 {
		wg.Go(func() {
			for i := worker; i < blocks; i += 3 {
				for { // as the mskreceiver: the same block until it is stored
					err := r.consumeLogs(t, rows, int64(i)*1000)
					if err == nil {
						break
					}
					if consumererror.IsPermanent(err) {
						t.Errorf("a killed engine made the data's fault: %v", err)
						return
					}
					time.Sleep(20 * time.Millisecond)
				}
				mu.Lock()
				acked++
				mu.Unlock()
			}
		})
	}
	for kill := 1; kill <= 3; kill++ {
		require.Eventually(t, func() bool { mu.Lock(); defer mu.Unlock(); return acked >= kill*blocks/5 }, 60*time.Second, time.Millisecond)
		ch.Kill()
		ch.Restart()
	}
	wg.Wait()
	requireOnce(t, ch, blocks*rows)
	require.EqualValues(t, blocks, ch.QueryInt("SELECT count() FROM pulsegrid.ledger FINAL"))
}

func TestRefusedDataIsPermanentAndNamesItsBlock(t *testing.T) {
	ch := clickhousetest.Shared(t)
	r := start(t, signal.Logs, config(ch.URL))
	ch.Exec("ALTER TABLE pulsegrid.logs ADD CONSTRAINT no_huge CHECK mapContains(attributes_int, 'attempt') AND attributes_int['attempt'] < 5")
	err := r.consumeLogs(t, 10, 40)
	require.True(t, consumererror.IsPermanent(err), "%v", err)
	for _, part := range []string{"pulsegrid.logs", "topic otlp.logs.v1, partition 3, offsets 40 to 40", "ClickHouse exception 469", "no_huge"} {
		require.ErrorContains(t, err, part)
	}
	require.Less(t, len(err.Error()), 4096)
	require.EqualValues(t, 10, r.sum(t, "clickhouse_rejected_rows", "code=VIOLATED_CONSTRAINT"))
	require.Empty(t, r.host.Statuses(), "the exporter is healthy; the data is not")
	require.NoError(t, r.consumeLogs(t, 5, 41), "good data goes on")
	require.EqualValues(t, 5, ch.QueryInt("SELECT count() FROM pulsegrid.logs"))
}

func TestAViewThatFailsIsNotTheDatasFault(t *testing.T) {
	ch := clickhousetest.Shared(t)
	r := start(t, signal.Logs, config(ch.URL))
	ch.Exec("CREATE TABLE pulsegrid.target (n UInt8) ENGINE = MergeTree ORDER BY n")
	ch.Exec("CREATE MATERIALIZED VIEW pulsegrid.broken TO pulsegrid.target AS SELECT toUInt8(body) AS n FROM pulsegrid.logs")
	err := r.consumeLogs(t, 10, 0)
	require.Error(t, err)
	require.False(t, consumererror.IsPermanent(err), "%v", err)
	require.ErrorContains(t, err, "materialized view")
	ch.Exec("DROP VIEW pulsegrid.broken")
	require.NoError(t, r.consumeLogs(t, 10, 0))
	require.EqualValues(t, 10, ch.QueryInt("SELECT count() FROM pulsegrid.logs"))
}

func TestViewsTakeARepeatedBlockOnce(t *testing.T) {
	ch := clickhousetest.Shared(t)
	r := start(t, signal.Logs, config(ch.URL))
	ch.Exec("CREATE TABLE pulsegrid.per_service (service_name String, n UInt64) ENGINE = SummingMergeTree ORDER BY service_name SETTINGS non_replicated_deduplication_window = 1000")
	ch.Exec("CREATE MATERIALIZED VIEW pulsegrid.per_service_mv TO pulsegrid.per_service AS SELECT service_name, count() AS n FROM pulsegrid.logs GROUP BY service_name")
	for range 2 {
		require.NoError(t, r.consumeLogs(t, 100, 0))
		require.NoError(t, r.consumeLogs(t, 100, 10))
	}
	require.EqualValues(t, 200, ch.QueryInt("SELECT sum(n) FROM pulsegrid.per_service"))
}

func TestATableThatVanishesIsMadeAgain(t *testing.T) {
	ch := clickhousetest.Shared(t)
	r := start(t, signal.Logs, config(ch.URL))
	require.NoError(t, r.consumeLogs(t, 10, 0))
	ch.Exec("DROP DATABASE pulsegrid SYNC")
	require.NoError(t, r.consumeLogs(t, 10, 10))
	ch.Exec("ALTER TABLE pulsegrid.logs DROP COLUMN event_name")
	require.NoError(t, r.consumeLogs(t, 10, 20))
	require.EqualValues(t, 20, ch.QueryInt("SELECT count() FROM pulsegrid.logs"))
}

func TestTooLargeABatchIsPermanentSoThatItsBlockIsHalved(t *testing.T) {
	r := start(t, signal.Logs, config("http://127.0.0.1:1", func(c *Config) { c.Schema = SchemaOff }))
	err := r.consume(t.Context(), 1, func(*columns.Builder) error { return fmt.Errorf("rows: %w", columns.ErrTooLarge) })
	require.True(t, consumererror.IsPermanent(err))
	require.ErrorIs(t, err, columns.ErrTooLarge)
	require.EqualValues(t, 1, r.sum(t, "clickhouse_rejected_rows", "code=build"))
}
