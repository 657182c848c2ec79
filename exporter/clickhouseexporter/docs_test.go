package clickhouseexporter

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/clickhousetest"
)

// sqlOf are the queries of a document.
func sqlOf(t *testing.T, path string) []string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	var out []string
	for _, part := range strings.Split(string(text), "```sql\n")[1:] {
		q, _, closed := strings.Cut(part, "```")
		require.True(t, closed)
		out = append(out, q)
	}
	return out
}

func TestQueriesOfTheDocumentsAnswer(t *testing.T) {
	ch := clickhousetest.Shared(t)
	now := pcommon.NewTimestampFromTime(time.Now().Add(-time.Minute))
	origin := func(s signal.Signal, res pcommon.Resource) {
		res.Attributes().PutStr("service.name", "checkout")
		lineage.StampResource(res.Attributes(), lineage.Origin{Tenant: "acme", Received: time.Now(), Topic: s.Topic(), Partition: 1})
	}
	ctx := func(s signal.Signal, offset int64) block.Block {
		return block.Block{Topic: s.Topic(), Partition: 1, First: offset, Last: offset, Signal: s, Events: 1}
	}
	logs, spans, points := start(t, signal.Logs, config(ch.URL)), start(t, signal.Traces, config(ch.URL)), start(t, signal.Metrics, config(ch.URL))
	for _, offset := range []int64{1, 2, 5} { // 3 and 4 are missing
		ld := plog.NewLogs()
		rl := ld.ResourceLogs().AppendEmpty()
		origin(signal.Logs, rl.Resource())
		lr := rl.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
		lr.SetTimestamp(now)
		lr.SetSeverityNumber(plog.SeverityNumberError2)
		lineage.StampEvent(lr.Attributes(), lineage.Event{ID: [16]byte{byte(offset)}, Offset: offset})
		require.NoError(t, logs.ConsumeLogs(block.NewContext(t.Context(), ctx(signal.Logs, offset)), ld))
	}
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	origin(signal.Traces, rs.Resource())
	span := rs.ScopeSpans().AppendEmpty().Spans().AppendEmpty()
	span.SetStartTimestamp(now)
	span.SetEndTimestamp(now + 1e9)
	require.NoError(t, spans.ConsumeTraces(block.NewContext(t.Context(), ctx(signal.Traces, 1)), td))

	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	origin(signal.Metrics, rm.Resource())
	metrics := rm.ScopeMetrics().AppendEmpty().Metrics()
	gauge := metrics.AppendEmpty().SetEmptyGauge().DataPoints().AppendEmpty()
	gauge.SetTimestamp(now)
	gauge.SetIntValue(7)
	duration := metrics.AppendEmpty()
	duration.SetName("http.server.request.duration")
	h := duration.SetEmptyHistogram()
	h.SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
	for _, buckets := range []struct { // points of every shape that OTLP can carry
		counts []uint64
		bounds []float64
	}{{nil, nil}, {[]uint64{1, 1}, []float64{0.5}}, {[]uint64{2}, nil}, {[]uint64{1}, []float64{0.5}}, {nil, []float64{0.5, 1}}} {
		p := h.DataPoints().AppendEmpty()
		p.SetTimestamp(now)
		p.SetCount(2)
		p.SetSum(5)
		p.BucketCounts().FromRaw(buckets.counts)
		p.ExplicitBounds().FromRaw(buckets.bounds)
	}
	require.NoError(t, points.ConsumeMetrics(block.NewContext(t.Context(), ctx(signal.Metrics, 1)), md))

	const formats = "../../docs/formats/"
	rollups, ledgers := sqlOf(t, formats+"rollups.md"), sqlOf(t, formats+"ledger.md")
	require.Len(t, rollups, 6)
	require.Len(t, ledgers, 2)
	for _, q := range append(rollups, ledgers...) {
		require.NotEmpty(t, ch.Query(q), "no row: %s", q)
	}
	table := regexp.MustCompile(`\bFROM (logs|metrics|spans)\b`)
	for _, name := range []string{"logs.md", "metrics.md", "spans.md"} {
		queries := sqlOf(t, formats+name)
		require.NotEmpty(t, queries)
		for _, q := range queries {
			answer := ch.Query(table.ReplaceAllString(q, "FROM pulsegrid.$1")) // `pulsegrid query` has that database; a refusal fails the test
			if strings.Contains(q, "explicit_bounds") {
				require.ElementsMatch(t, []string{"0.5\t1", "inf\t3"}, strings.Split(strings.TrimSpace(answer), "\n"))
			}
		}
	}
	require.Equal(t, "otlp.logs.v1\t1\t3\t3\t1", ch.Query(ledgers[0]))
	require.Equal(t, "otlp.logs.v1\t1\t3\t4", ch.Query(ledgers[1]), "the gap")
	last := strings.Split(ch.Query(rollups[5]), "\t")
	require.Equal(t, last[1], last[2], "a rollup is what the rows say")
}
