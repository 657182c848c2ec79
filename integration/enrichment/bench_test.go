package enrichment_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/processor/processortest"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/clickhousetest"
	"github.com/pulsegrid/pulsegrid/processor/enrichmentprocessor"
)

// BenchmarkBytes is what 100,000 logs of 24 attributes take in ClickHouse, merged, with enrichment and without: unique bodies, delays of 0 to 5 s.
func BenchmarkBytes(b *testing.B) {
	ch := clickhousetest.Start(b)
	run := 0
	for b.Loop() {
		run++
		var sizes []float64
		for i, keys := range []map[string]any{{"ingest_delay": false}, {"ingest_delay": false, "cell": "eu-central-1-a", "jurisdiction": "eu"}, {"cell": "eu-central-1-a", "jurisdiction": "eu"}} {
			database := fmt.Sprintf("bytes_%d_%d", run, i)
			for _, ddl := range columns.Logs.ClickHouseDDL(columns.DDLOptions{Database: database}) {
				ch.Exec(ddl)
			}
			fill(b, ch, database, keys)
			ch.Exec("OPTIMIZE TABLE " + database + ".logs FINAL")
			sizes = append(sizes, float64(ch.QueryInt("SELECT sum(data_compressed_bytes) FROM system.parts WHERE active AND table = 'logs' AND database = '"+database+"'"))/100_000)
		}
		b.ReportMetric(sizes[0], "B/event-without")
		b.ReportMetric(sizes[1], "B/event-cell")
		b.ReportMetric(sizes[2], "B/event-cell-and-delay")
	}
}

func fill(b *testing.B, ch *clickhousetest.Server, database string, keys map[string]any) {
	b.Helper()
	builder := columns.NewBuilder(memory.DefaultAllocator, columns.Logs)
	defer builder.Release()
	next, err := consumer.NewLogs(func(_ context.Context, ld plog.Logs) error { return builder.AppendLogs(ld) })
	require.NoError(b, err)
	f := enrichmentprocessor.NewFactory()
	p, err := f.CreateLogs(b.Context(), processortest.NewNopSettings(f.Type()), configured(b, f.CreateDefaultConfig(), keys), next)
	require.NoError(b, err)
	require.NoError(b, p.Start(b.Context(), componenttest.NewNopHost()))
	defer func() { require.NoError(b, p.Shutdown(context.Background())) }()
	random := rand.New(rand.NewPCG(1, 1))
	received := time.Unix(1_800_000_000, 0)
	for request := range 200 {
		req := plogotlp.NewExportRequest()
		require.NoError(b, req.UnmarshalProto(otlptest.Logs(uint64(request), 500)))
		for _, rl := range req.Logs().ResourceLogs().All() {
			received = received.Add(time.Millisecond)
			lineage.StampResource(rl.Resource().Attributes(), lineage.Origin{Tenant: "acme", Source: "agent", Topic: "t", Received: received})
			for i, lr := range rl.ScopeLogs().At(0).LogRecords().All() {
				lr.SetTimestamp(pcommon.NewTimestampFromTime(received.Add(-time.Duration(random.Int64N(5e9)))))
				lineage.StampEvent(lr.Attributes(), lineage.Event{ID: [16]byte{byte(request), byte(i), byte(i >> 8)}, Offset: int64(request), Index: int32(i)})
			}
		}
		require.NoError(b, p.ConsumeLogs(b.Context(), req.Logs()))
	}
	rec := builder.NewRecordBatch()
	defer rec.Release()
	var body bytes.Buffer
	w := ipc.NewWriter(&body, ipc.WithSchema(rec.Schema()))
	require.NoError(b, w.Write(rec))
	require.NoError(b, w.Close())
	resp, err := http.Post(ch.URL+"/?"+url.Values{"query": {"INSERT INTO " + database + ".logs FORMAT ArrowStream"}}.Encode(), "", &body)
	require.NoError(b, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(b, err)
	require.Equal(b, http.StatusOK, resp.StatusCode, string(text))
}
