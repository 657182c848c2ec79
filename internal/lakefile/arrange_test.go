package lakefile

import (
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/pulsegrid/pulsegrid/internal/columns"
)

// Guarantee: a column with a text that statistics leave out has no bounds; other columns keep theirs.
func TestAColumnWithALongTextHasNoBounds(t *testing.T) {
	ld := plog.NewLogs()
	lr := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	lr.Attributes().PutStr("http.route", string(make([]byte, statsMax+1)))
	lr.Body().SetStr(string(make([]byte, statsMax+1)))
	lr.Attributes().PutStr("url.path", string(make([]byte, statsMax)))
	lr.SetTimestamp(pcommon.Timestamp(1))
	b := columns.NewBuilder(memory.DefaultAllocator, columns.Logs)
	defer b.Release()
	require.NoError(t, b.AppendLogs(ld))
	rec := b.NewRecordBatch()
	defer rec.Release()
	require.Equal(t, []string{"body", "attr_http_route"}, LongTexts([]arrow.RecordBatch{rec}))

	props := withoutBounds(iceberg.Properties{
		table.DefaultWriteMetricsModeKey: "none", table.MetricsModeColumnConfPrefix + ".service_name": "truncate(16)", table.MetricsModeColumnConfPrefix + ".code": "truncate(16)",
	}, []string{"service_name", "body"})
	require.Equal(t, "counts", props[table.MetricsModeColumnConfPrefix+".service_name"])
	require.Equal(t, "truncate(16)", props[table.MetricsModeColumnConfPrefix+".code"])
	require.NotContains(t, props, table.MetricsModeColumnConfPrefix+".body")
}

// Guarantee: texts that are all empty have a buffer, within lists and maps too, and the rows are otherwise the same.
func TestEmptyTextsHaveABuffer(t *testing.T) {
	empty := array.NewData(arrow.BinaryTypes.String, 2, []*memory.Buffer{nil, memory.NewBufferBytes(make([]byte, 12)), memory.NewBufferBytes(nil)}, nil, 0, 0)
	list := array.NewData(arrow.ListOf(arrow.BinaryTypes.String), 1, []*memory.Buffer{nil, memory.NewBufferBytes([]byte{0, 0, 0, 0, 2, 0, 0, 0})}, []arrow.ArrayData{empty}, 0, 0)
	with, changed := withTextBuffer(list)
	require.True(t, changed)
	require.NotNil(t, with.Children()[0].Buffers()[2].Bytes())
	require.Equal(t, `[["" ""]]`, array.MakeFromData(with).String())
	_, changed = withTextBuffer(with)
	require.False(t, changed)
}
