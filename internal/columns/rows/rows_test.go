package rows_test

import (
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/columns/columnstest"
	"github.com/pulsegrid/pulsegrid/internal/columns/rows"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// built are the rows of a request.
func built(t *testing.T, sig signal.Signal, body []byte) arrow.RecordBatch {
	t.Helper()
	b := columns.NewBuilder(memory.DefaultAllocator, columns.ForSignal(sig))
	defer b.Release()
	switch sig {
	case signal.Logs:
		r := plogotlp.NewExportRequest()
		require.NoError(t, r.UnmarshalProto(body))
		require.NoError(t, b.AppendLogs(r.Logs()))
	case signal.Metrics:
		r := pmetricotlp.NewExportRequest()
		require.NoError(t, r.UnmarshalProto(body))
		require.NoError(t, b.AppendMetrics(r.Metrics()))
	default:
		r := ptraceotlp.NewExportRequest()
		require.NoError(t, r.UnmarshalProto(body))
		require.NoError(t, b.AppendTraces(r.Traces()))
	}
	rec := b.NewRecordBatch()
	t.Cleanup(rec.Release)
	return rec
}

// Guarantee: the requests of a batch's rows, one event each, are what the rows were made of, every field of it.
func TestTheRequestsOfRowsAreWhatTheyWereMadeOf(t *testing.T) {
	for _, sig := range signal.All {
		t.Run(sig.String(), func(t *testing.T) {
			for seed := range uint64(8) {
				rec := built(t, sig, otlptest.Full(sig, seed))
				r := rows.NewReader(columns.ForSignal(sig), rec)
				ld, md, td := plog.NewLogs(), pmetric.NewMetrics(), ptrace.NewTraces()
				for i := range int(rec.NumRows()) {
					req, err := r.Request(i)
					require.NoError(t, err)
					n, err := otlpwire.Count(sig, req, otlpwire.Limits{MaxDepth: 256})
					require.NoError(t, err)
					require.Equal(t, 1, n)
					switch sig {
					case signal.Logs:
						one := plogotlp.NewExportRequest()
						require.NoError(t, one.UnmarshalProto(req))
						one.Logs().ResourceLogs().MoveAndAppendTo(ld.ResourceLogs())
					case signal.Metrics:
						one := pmetricotlp.NewExportRequest()
						require.NoError(t, one.UnmarshalProto(req))
						one.Metrics().ResourceMetrics().MoveAndAppendTo(md.ResourceMetrics())
					default:
						one := ptraceotlp.NewExportRequest()
						require.NoError(t, one.UnmarshalProto(req))
						one.Traces().ResourceSpans().MoveAndAppendTo(td.ResourceSpans())
					}
				}
				require.Empty(t, columnstest.Diff(map[signal.Signal]any{signal.Logs: ld, signal.Metrics: md, signal.Traces: td}[sig], rec))
			}
		})
	}
}

// Guarantees: attributes of enrichment are not in the request of an event; a row of another program, or of a table that has other columns, is an error that names the column.
func TestWhatTheAggregatorHasAddedIsLeftOutAndForeignRowsAreRefused(t *testing.T) {
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	rl.Resource().Attributes().PutStr("enriched.cell", "eu")
	lr := rl.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	lr.Attributes().PutInt("enriched.ingest_delay_ms", 7)
	lr.Attributes().PutInt("kept", 7)
	body, err := plogotlp.NewExportRequestFromLogs(ld).MarshalProto()
	require.NoError(t, err)
	rec := built(t, signal.Logs, body)
	req, err := rows.NewReader(columns.Logs, rec).Request(0)
	require.NoError(t, err)
	require.NotContains(t, string(req), "enriched")
	require.Contains(t, string(req), "kept")

	for column, text := range map[string]string{
		"resource": strings.Repeat(`{"a":`, 300) + "1" + strings.Repeat("}", 300), "scope_attributes": `[1]`, "time_source": "", "body_type": "",
	} {
		fields, arrays := []arrow.Field{}, []arrow.Array{}
		for i, f := range rec.Schema().Fields() {
			if f.Name != column {
				fields, arrays = append(fields, f), append(arrays, rec.Column(i))
			}
		}
		if text != "" { // else the column is missing
			b := array.NewStringBuilder(memory.DefaultAllocator)
			b.Append(text)
			a := b.NewArray()
			fields, arrays = append(fields, arrow.Field{Name: column, Type: arrow.BinaryTypes.String}), append(arrays, a)
		}
		_, err := rows.NewReader(columns.Logs, array.NewRecordBatch(arrow.NewSchema(fields, nil), arrays, 1)).Request(0)
		require.ErrorContains(t, err, "column "+column)
	}
}
