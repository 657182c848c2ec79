package columns_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/pulsegrid/pulsegrid/internal/chengine"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// recounts are the rollups' measures as one would compute them from the rows: written by hand, not from the definition. SECONDS is the
// width of a bucket.
var recounts = map[signal.Signal]struct{ rows, rollup string }{
	signal.Logs: {
		`SELECT tenant_id, service_name, toUnixTimestamp(toStartOfInterval(time, INTERVAL SECONDS SECOND)) AS bucket,
			transform(intDiv(severity_number + 3, 4), [1, 2, 3, 4, 5, 6], ['trace', 'debug', 'info', 'warn', 'error', 'fatal'], 'unspecified') AS level, count() AS n
		FROM p.logs GROUP BY ALL`,
		`SELECT tenant_id, service_name, toUnixTimestamp(time) AS bucket, severity AS level, sum(count) AS n FROM p.logs_SUFFIX GROUP BY ALL`,
	},
	signal.Traces: {
		`SELECT tenant_id, service_name, toUnixTimestamp(toStartOfInterval(time, INTERVAL SECONDS SECOND)) AS bucket, name, kind, count() AS n,
			countIf(status_code = 'error') AS failed, sum(toInt128(if(duration_nano < 0, 0, duration_nano))) AS total, max(if(duration_nano < 0, 0, duration_nano)) AS longest,
			quantileDD(0.01, 0.5)(toUInt64(if(duration_nano < 0, 0, duration_nano))) AS p50, quantileDD(0.01, 0.99)(toUInt64(if(duration_nano < 0, 0, duration_nano))) AS p99
		FROM p.spans GROUP BY ALL`,
		`SELECT tenant_id, service_name, toUnixTimestamp(time) AS bucket, name, kind, sum(count) AS n, sum(errors) AS failed, sum(duration_sum) AS total,
			max(duration_max) AS longest, quantileDDMerge(0.01, 0.5)(duration_quantiles) AS p50, quantileDDMerge(0.01, 0.99)(duration_quantiles) AS p99
		FROM p.spans_SUFFIX GROUP BY ALL`,
	},
	signal.Metrics: {
		`SELECT tenant_id, service_name, toUnixTimestamp(toStartOfInterval(r.time, INTERVAL SECONDS SECOND)) AS bucket, metric_name, metric_type, metric_unit, temporality,
			is_monotonic, attr_http_route, attr_state, count() AS n, sumIf(1, good) + sum(r.count) AS vals,
			round(sumIf(value_double, good) + sumIf(r.sum, r.has_sum AND isFinite(r.sum)), 3) AS total,
			least(minIf(value_double, good) + if(countIf(good) = 0, inf, 0), minIf(r.min, r.has_min AND NOT isNaN(r.min)) + if(countIf(r.has_min AND NOT isNaN(r.min)) = 0, inf, 0)) AS low,
			greatest(maxIf(value_double, good) - if(countIf(good) = 0, inf, 0), maxIf(r.max, r.has_max AND NOT isNaN(r.max)) - if(countIf(r.has_max AND NOT isNaN(r.max)) = 0, inf, 0)) AS high,
			argMaxIf(value_double, tuple(r.time, value_double), good) AS newest
		FROM (SELECT *, value_type != '' AND value_type != 'empty' AND isFinite(value_double) AND flags % 2 = 0 AS good FROM p.metrics) AS r GROUP BY ALL`,
		`SELECT tenant_id, service_name, toUnixTimestamp(time) AS bucket, metric_name, metric_type, metric_unit, temporality, is_monotonic, attr_http_route, attr_state,
			sum(points) AS n, sum(value_count) AS vals, round(sum(value_sum), 3) AS total, min(value_min) AS low, max(value_max) AS high, tupleElement(max(value_last), 'value') AS newest
		FROM p.metrics_SUFFIX GROUP BY ALL`,
	},
}

func TestRollupsAreWhatTheRowsSay(t *testing.T) {
	e := startEngine(t)
	forEachSignal(t, func(t *testing.T, s signal.Signal) {
		table := columns.ForSignal(s)
		opts := columns.DDLOptions{Database: "p"}
		for range 2 { // every statement may be run again
			stmts := table.ClickHouseDDL(opts)
			for _, r := range table.Rollups() {
				stmts = append(stmts, r.TableDDL(opts), r.ViewDDL(opts))
			}
			for _, stmt := range stmts {
				query(t, e, nil, stmt, nil)
			}
		}
		blocks := 0
		insert := func(rec arrow.RecordBatch) {
			defer rec.Release()
			blocks++
			for range 2 { // as after a crash
				query(t, e, columns.InsertSettings(fmt.Sprintf("t/0/%d", blocks)), "INSERT INTO p."+table.Name+" FORMAT ArrowStream", arrowStream(t, rec))
			}
		}
		mem := checkedMemory(t)
		_, rec := build(t, mem, s)
		insert(rec)
		for seed := range uint64(8) {
			insert(realistic(t, mem, s, seed))
		}
		// DateTime ends in 2106; what lies beyond has a test of its own in the exporter.
		query(t, e, nil, "ALTER TABLE p."+table.Name+" DELETE WHERE time >= '2106-01-01' SETTINGS mutations_sync = 1", nil)
		for i, r := range table.Rollups() {
			query(t, e, nil, "ALTER TABLE p."+r.Name+" DELETE WHERE time >= '2106-01-01' SETTINGS mutations_sync = 1", nil)
			suffix := columns.Resolutions()[i]
			q := strings.NewReplacer("SECONDS", fmt.Sprint(r.Seconds), "SUFFIX", suffix)
			want, got := q.Replace(recounts[s].rows), q.Replace(recounts[s].rollup)
			// A recount, of the rows and of nothing else, is the rollup: sketches are equal to the byte when they are merged.
			recounted := "p." + r.Name + "_recounted"
			query(t, e, nil, "CREATE TABLE "+recounted+" AS p."+r.Name, nil)
			query(t, e, nil, "INSERT INTO "+recounted+" "+r.Recount(table, "p", days(t, e, table)), nil)
			again := strings.ReplaceAll(got, "p."+r.Name, recounted)
			require.Empty(t, string(query(t, e, nil, "SELECT * FROM ("+got+" EXCEPT "+again+") LIMIT 3 FORMAT Vertical", nil)), suffix)
			require.Equal(t, number(t, e, "SELECT count() FROM ("+got+")"), number(t, e, "SELECT count() FROM ("+again+")"), suffix)
			for range 2 {
				require.NotZero(t, number(t, e, "SELECT count() FROM ("+want+")"))
				require.Equal(t, number(t, e, "SELECT count() FROM ("+want+")"), number(t, e, "SELECT count() FROM ("+got+")"), suffix)
				diff := query(t, e, nil, "SELECT * FROM ("+want+" EXCEPT "+got+") LIMIT 3 FORMAT Vertical", nil)
				require.Empty(t, string(diff), "%s: rows say this, the rollup does not", suffix)
				query(t, e, nil, "OPTIMIZE TABLE p."+r.Name+" FINAL", nil) // merged they must say the same
			}
		}
	})
}

// days are those of receipt of all rows of a table.
func days(t *testing.T, e *chengine.Engine, table *columns.Table) (out []time.Time) {
	t.Helper()
	for day := range strings.FieldsSeq(string(query(t, e, nil, "SELECT DISTINCT toDate(ingest_time) FROM p."+table.Name, nil))) {
		at, err := time.Parse(time.DateOnly, day)
		require.NoError(t, err)
		out = append(out, at)
	}
	return out
}

func number(t *testing.T, e *chengine.Engine, sql string) (n int) {
	t.Helper()
	_, err := fmt.Sscan(string(query(t, e, nil, sql, nil)), &n)
	require.NoError(t, err)
	return n
}

// realistic are rows of a request as a service sends it.
func realistic(t *testing.T, mem memory.Allocator, s signal.Signal, seed uint64) arrow.RecordBatch {
	t.Helper()
	b := columns.NewBuilder(mem, columns.ForSignal(s))
	defer b.Release()
	request := otlptest.Realistic(s, seed, 500)
	switch s {
	case signal.Logs:
		req := plogotlp.NewExportRequest()
		require.NoError(t, req.UnmarshalProto(request))
		require.NoError(t, b.AppendLogs(req.Logs()))
	case signal.Metrics:
		req := pmetricotlp.NewExportRequest()
		require.NoError(t, req.UnmarshalProto(request))
		require.NoError(t, b.AppendMetrics(req.Metrics()))
	case signal.Traces:
		req := ptraceotlp.NewExportRequest()
		require.NoError(t, req.UnmarshalProto(request))
		require.NoError(t, b.AppendTraces(req.Traces()))
	}
	return b.NewRecordBatch()
}

// Guarantee: the partition of a day of receipt is the one that ClickHouse puts it into, and its days are all of that partition.
func TestThePartitionOfADay(t *testing.T) {
	for _, c := range []struct{ suffix, id, first, end string }{
		{"10s", "20240229", "2024-02-29", "2024-03-01"}, {"1m", "20240229", "2024-02-29", "2024-03-01"}, {"1h", "202402", "2024-02-01", "2024-03-01"},
	} {
		i := slices.Index(columns.Resolutions(), c.suffix)
		id, first, end := columns.Logs.Rollups()[i].Partition(time.Date(2024, 2, 29, 23, 0, 0, 0, time.UTC))
		require.Equal(t, c, struct{ suffix, id, first, end string }{c.suffix, id, first.Format(time.DateOnly), end.Format(time.DateOnly)})
	}
}
