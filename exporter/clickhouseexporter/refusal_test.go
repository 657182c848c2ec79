package clickhouseexporter

import (
	"errors"
	"fmt"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumererror"

	"github.com/pulsegrid/pulsegrid/internal/block"
)

// Guarantee: where ClickHouse says which row it refuses, the refusal names that event, so that the receiver quarantines it alone; what may be
// tried again names none.
func TestARefusalNamesTheEvent(t *testing.T) {
	offsets, indexes := array.NewInt64Builder(memory.DefaultAllocator), array.NewInt32Builder(memory.DefaultAllocator)
	offsets.AppendValues([]int64{7, 7, 9}, nil)
	indexes.AppendValues([]int32{0, 1, 0}, nil)
	rec := array.NewRecordBatch(arrow.NewSchema([]arrow.Field{
		{Name: "kafka_offset", Type: arrow.PrimitiveTypes.Int64}, {Name: "event_index", Type: arrow.PrimitiveTypes.Int32},
	}, nil), []arrow.Array{offsets.NewArray(), indexes.NewArray()}, 3)
	l := lineageOf(rec)
	defer l.release()
	refusal := func(class class, text string) error {
		return l.locate(&storeError{class: class, code: "VIOLATED_CONSTRAINT", cause: errors.New(text)})
	}
	named, ok := errors.AsType[*block.RefusedError](consumererror.NewPermanent(fmt.Errorf("insert: %w", refusal(permanent, "Constraint `c` is violated at row 2."))))
	require.True(t, ok)
	require.Equal(t, []block.EventRef{{Offset: 7, Index: 1}}, named.Events)
	require.ErrorContains(t, named, "row 2 is event 1 of the record at offset 7: Constraint")
	for _, err := range []error{refusal(permanent, "no row"), refusal(permanent, "at row 4"), refusal(retryable, "at row 2")} {
		_, ok := errors.AsType[*block.RefusedError](err)
		require.False(t, ok)
	}
}
