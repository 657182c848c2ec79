package stored

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
)

// Guarantees: rows come back in the order of their places, however many there are and whether or not they fit in memory.
func TestTheSorterGivesEveryRowBackInOrder(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for _, n := range []int{0, 1, 63, 64, 65, 1000} {
		s := NewSorter(t.TempDir())
		s.limit = 64
		var want []Row
		for range n {
			r := Row{Partition: int32(rnd.IntN(3)), Offset: rnd.Int64N(20), Index: int32(rnd.IntN(5)), Hash: rnd.Uint64()}
			r.ID[3] = byte(rnd.IntN(9))
			want = append(want, r)
			require.NoError(t, s.Add(r))
		}
		slices.SortFunc(want, byPlace)
		c, err := s.Rows()
		require.NoError(t, err)
		var got []Row
		for r, ok := c.Peek(); ok; r, ok = c.Peek() {
			got = append(got, r)
			require.NoError(t, c.Next())
		}
		require.Equal(t, want, got)
		require.Len(t, s.runs, max(0, (n-1)/64), "what does not fit is in files")
		s.Close()
	}
	s := NewSorter("/nonexistent")
	s.limit = 1
	require.NoError(t, s.Add(Row{}))
	require.ErrorContains(t, s.Add(Row{}), "temporary file")
}

// A table that was given a column later has nulls in the rows before: they are the kind's zero value, as ClickHouse shows them.
func TestANullIsTheKindsZeroValue(t *testing.T) {
	for kind, builder := range map[columns.Kind]array.Builder{
		columns.Text: array.NewStringBuilder(memory.DefaultAllocator), columns.Int64: array.NewInt64Builder(memory.DefaultAllocator),
		columns.Double: array.NewFloat64Builder(memory.DefaultAllocator), columns.Bool: array.NewBooleanBuilder(memory.DefaultAllocator),
		columns.Fixed8:   array.NewFixedSizeBinaryBuilder(memory.DefaultAllocator, &arrow.FixedSizeBinaryType{ByteWidth: 8}),
		columns.ListText: array.NewListBuilder(memory.DefaultAllocator, arrow.BinaryTypes.String),
		columns.MapInt:   array.NewMapBuilder(memory.DefaultAllocator, arrow.BinaryTypes.String, arrow.PrimitiveTypes.Int64, false),
	} {
		builder.AppendNull()
		builder.AppendEmptyValue()
		a := builder.NewArray()
		f, err := newAppender(kind, a, nil)
		require.NoError(t, err)
		require.Equal(t, f(nil, 1), f(nil, 0), kind.ClickHouse())
		require.NotEmpty(t, f(nil, 0))
		a.Release()
		builder.Release()
	}
	wrong := array.NewInt64Builder(memory.DefaultAllocator)
	wrong.Append(1)
	_, err := newAppender(columns.Text, wrong.NewArray(), nil)
	require.ErrorContains(t, err, "cannot be compared")
}

// logRows are rows of realistic logs.
func logRows(t testing.TB, n int) arrow.RecordBatch {
	req := plogotlp.NewExportRequest()
	require.NoError(t, req.UnmarshalProto(otlptest.Logs(1, n)))
	b := columns.NewBuilder(memory.DefaultAllocator, columns.Logs)
	defer b.Release()
	require.NoError(t, b.AppendLogs(req.Logs()))
	return b.NewRecordBatch()
}

// BenchmarkRowHash hashes realistic logs, every column.
func BenchmarkRowHash(b *testing.B) {
	rec := logRows(b, 1000)
	defer rec.Release()
	r, err := NewReader(columns.Logs, rec, true)
	require.NoError(b, err)
	n := 0
	for b.Loop() {
		r.Row(n % 1000)
		n++
	}
}
