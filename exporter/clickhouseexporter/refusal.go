package clickhouseexporter

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/pulsegrid/pulsegrid/internal/block"
)

// rowLineage is where the rows of an INSERT lie in Kafka, in their order. It keeps just two of their columns: the rows themselves are
// not held while ClickHouse works.
type rowLineage struct {
	offsets *array.Int64
	indexes *array.Int32
}

func lineageOf(rec arrow.RecordBatch) rowLineage {
	l := rowLineage{columnOf[*array.Int64](rec, "kafka_offset"), columnOf[*array.Int32](rec, "event_index")}
	l.offsets.Retain()
	l.indexes.Retain()
	return l
}

func (l rowLineage) release() {
	l.offsets.Release()
	l.indexes.Release()
}

var atRow = regexp.MustCompile(`at row (\d+)`)

// locate adds to a refusal that names a row, counted from 1, where that row lies in Kafka: the receiver delivers the block again without it.
func (l rowLineage) locate(err error) error {
	var se *storeError
	if !errors.As(err, &se) || se.class != permanent {
		return err
	}
	m := atRow.FindStringSubmatch(se.cause.Error())
	if m == nil {
		return err
	}
	row, convErr := strconv.Atoi(m[1])
	if convErr != nil || row < 1 || row > l.offsets.Len() {
		return err
	}
	located := *se
	at := block.EventRef{Offset: l.offsets.Value(row - 1), Index: l.indexes.Value(row - 1)}
	located.cause = &block.RefusedError{
		Events: []block.EventRef{at},
		Err:    fmt.Errorf("row %d is event %d of the record at offset %d: %w", row, at.Index, at.Offset, se.cause),
	}
	return &located
}
