package columns_test

import (
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

func slicesOf(rec arrow.RecordBatch, rows, bytes int64) (out []arrow.RecordBatch) {
	for s := range columns.Slices(rec, rows, bytes) {
		out = append(out, s)
	}
	return out
}

func TestSlicesHoldEveryRowOnceInOrder(t *testing.T) {
	forEachSignal(t, func(t *testing.T, s signal.Signal) {
		want, rec := build(t, checkedMemory(t), s)
		defer rec.Release()
		tail := rec.NewSlice(1, rec.NumRows()) // a slice's slices
		defer tail.Release()
		head := rec.NewSlice(0, 1)
		defer head.Release()
		for _, bounds := range [][2]int64{{1, 1 << 40}, {7, 1 << 40}, {1 << 40, 1}, {1 << 40, 4000}, {1 << 40, 1 << 40}} {
			all := []arrow.RecordBatch{head}
			for _, part := range slicesOf(tail, bounds[0], bounds[1]) {
				defer part.Release()
				require.LessOrEqual(t, part.NumRows(), bounds[0])
				if bounds[1] == 1 {
					require.EqualValues(t, 1, part.NumRows(), "a row that is too large is alone")
				}
				all = append(all, part)
			}
			requireSame(t, want, all...)
		}
	})
}

func TestSlicesCountARepeatedTextInEveryRow(t *testing.T) {
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	rl.Resource().Attributes().PutStr("note", strings.Repeat("x", 100_000))
	for i := range 10 {
		lr := rl.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
		lr.Attributes().PutStr(strings.Repeat("k", 50_000), "a key of a map, whose dictionary has it once")
		lr.Body().SetStr(strings.Repeat("b", 50_000*(i/5))) // not in a dictionary: the last five rows are larger
	}
	b := columns.NewBuilder(checkedMemory(t), columns.Logs)
	defer b.Release()
	require.NoError(t, b.AppendLogs(ld))
	rec := b.NewRecordBatch()
	defer rec.Release()
	var rows []int64
	for _, s := range slicesOf(rec, 1<<40, 410_000) {
		defer s.Release()
		rows = append(rows, s.NumRows())
	}
	require.Equal(t, []int64{2, 1, 2, 2, 1, 2}, rows, "of 150 or 200 KB each")
}
