package audit

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/columns"
)

// Guarantees: rows come back in the order of their places, however many there are and whether or not they fit in memory.
func TestTheSorterGivesEveryRowBackInOrder(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for _, n := range []int{0, 1, 63, 64, 65, 1000} {
		s := newSorter(t.TempDir())
		s.limit = 64
		var want []row
		for range n {
			r := row{partition: int32(rnd.IntN(3)), offset: rnd.Int64N(20), index: int32(rnd.IntN(5)), hash: rnd.Uint64()}
			r.id[3] = byte(rnd.IntN(9))
			want = append(want, r)
			require.NoError(t, s.add(r))
		}
		slices.SortFunc(want, byPlace)
		c, err := s.rows()
		require.NoError(t, err)
		var got []row
		for r, ok := c.peek(); ok; r, ok = c.peek() {
			got = append(got, r)
			require.NoError(t, c.next())
		}
		require.Equal(t, want, got)
		require.Len(t, s.runs, max(0, (n-1)/64), "what does not fit is in files")
		s.close()
	}
	s := newSorter("/nonexistent")
	s.limit = 1
	require.NoError(t, s.add(row{}))
	require.ErrorContains(t, s.add(row{}), "temporary file")
}

// Guarantees: the window decides as a list of all occurrences would, in which nothing is ever forgotten, also where the broker's clock goes back.
func TestTheWindowIsTheRule(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	w := newWindow(10 * time.Second)
	type event struct {
		tenant string
		id     byte
		at     time.Time
	}
	var before []event
	now, latest, duplicates := time.Unix(1_000_000, 0), time.Time{}, 0
	for offset := range int64(3000) {
		now = now.Add(time.Duration(rnd.IntN(3000)-1000) * time.Millisecond)
		if now.After(latest) {
			latest = now
		}
		w.advance(now)
		for range rnd.IntN(3) {
			e := event{[]string{"a", "b"}[rnd.IntN(2)], byte(rnd.IntN(12)), latest}
			want := slices.ContainsFunc(before, func(o event) bool { return o.tenant == e.tenant && o.id == e.id && latest.Sub(o.at) <= 10*time.Second })
			_, got := w.occurred(e.tenant, [16]byte{e.id}, offset)
			require.Equal(t, want, got, "offset %d", offset)
			before = append(before, e)
			if got {
				duplicates++
			}
		}
	}
	require.Greater(t, duplicates, 100)
	require.Less(t, len(w.seen), 25, "what is too old is forgotten")
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

func TestRangesAreWrittenAsBlocksAreNamed(t *testing.T) {
	r, err := ParseRange("otlp.logs.v1/3/120-129")
	require.NoError(t, err)
	require.Equal(t, Range{"otlp.logs.v1", 3, 120, 129}, r)
	require.Equal(t, "otlp.logs.v1/3/120-129", r.String())
	for _, bad := range []string{"", "a/0/1", "a/0/2-1", "a/x/1-2", "/0/1-2", "a/-1/1-2", "a/0/-1-2", "a/0/1-2/3", "a/0/0-9223372036854775807"} {
		_, err := ParseRange(bad)
		require.ErrorContains(t, err, "TOPIC/PARTITION/FIRST-LAST", bad)
	}
}
