package icebergexporter

import (
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"golang.org/x/sync/errgroup"

	"github.com/pulsegrid/pulsegrid/internal/columns"
)

// Scenario: two blocks in one commit; a dictionary column is all empty in one of them.
// Guarantee: the bounds of their file begin with the empty text, that is: there is no lower bound, and never that of the other block.
func TestBoundsOfAFileAreThoseOfAllOfItsBlocks(t *testing.T) {
	cfg := lake(t)
	cfg.Commit.MaxAge = 2 * time.Second
	h := start(t, cfg, columns.Logs)
	var g errgroup.Group
	for part := range int32(2) {
		g.Go(func() error {
			ctx, ld := logs(part, 0, 9, 1)
			if part == 0 {
				ld.ResourceLogs().At(0).Resource().Attributes().Remove("service.name")
			}
			return h.consumeLogs(ctx, ld)
		})
	}
	require.NoError(t, g.Wait())
	tbl := loaded(t, cfg, columns.Logs.Name)
	service, _ := columns.Logs.Column("service_name")
	files, err := tbl.Scan().PlanFiles(t.Context())
	require.NoError(t, err)
	require.Len(t, files, 1, "both blocks are in one file")
	require.Empty(t, files[0].File.LowerBoundValues()[service.FieldID])
	require.Equal(t, "shop", string(files[0].File.UpperBoundValues()[service.FieldID]))
	_, rows, err := tbl.Scan(table.WithRowFilter(iceberg.EqualTo(iceberg.Reference("service_name"), ""))).ToArrowRecords(t.Context())
	require.NoError(t, err)
	n := int64(0)
	for b, err := range rows {
		require.NoError(t, err)
		n += b.NumRows()
		b.Release()
	}
	require.EqualValues(t, 10, n)
}

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
	require.Equal(t, []string{"body", "attr_http_route"}, longTexts([]arrow.RecordBatch{rec}))

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
