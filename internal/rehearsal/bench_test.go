package rehearsal

import (
	"testing"

	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// BenchmarkRehearsal is of logs of 24 attributes, without reading the lake's files.
func BenchmarkRehearsal(b *testing.B) {
	r := plogotlp.NewExportRequest()
	require.NoError(b, r.UnmarshalProto(otlptest.Realistic(signal.Logs, 1, 500)))
	rows := columns.NewBuilder(memory.DefaultAllocator, columns.Logs)
	defer rows.Release()
	require.NoError(b, rows.AppendLogs(r.Logs()))
	rec := rows.NewRecordBatch()
	defer rec.Release()
	m := &memoryLake{}
	for range b.N {
		m.batches = append(m.batches, rec)
	}
	c := schema.NewChecker(schema.Empty(), schema.DefaultLimits())
	b.ResetTimer()
	_, err := Run(b.Context(), Config{Lake: m, Current: c, Proposed: c, Policy: func(string) schema.Policy { return schema.Policy{Mode: schema.Enforce, Unknown: schema.Open} }, From: received, To: received})
	require.NoError(b, err)
	b.ReportMetric(b.Elapsed().Seconds()*1e6/float64(500*b.N), "us/event")
}
