package clickhouseexporter

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
)

// rowLineage is where the rows of an INSERT lie in Kafka, in their order. It keeps just two of their columns: the rows themselves are
// not held while ClickHouse works.
type rowLineage struct {
	offsets []*array.Int64
	indexes []*array.Int32
}

func lineageOf(recs []arrow.RecordBatch) *rowLineage {
	l := &rowLineage{}
	for _, rec := range recs {
		l.offsets = append(l.offsets, columnOf[*array.Int64](rec, "kafka_offset"))
		l.indexes = append(l.indexes, columnOf[*array.Int32](rec, "event_index"))
	}
	for i := range l.offsets {
		l.offsets[i].Retain()
		l.indexes[i].Retain()
	}
	return l
}

func (l *rowLineage) release() {
	for i := range l.offsets {
		l.offsets[i].Release()
		l.indexes[i].Release()
	}
}

var atRow = regexp.MustCompile(`at row (\d+)`)

// locate adds to a refusal that names a row, counted from 1, where that row lies in Kafka.
func (l *rowLineage) locate(err error) error {
	var se *storeError
	if !errors.As(err, &se) || se.class != permanent {
		return err
	}
	m := atRow.FindStringSubmatch(se.cause.Error())
	if m == nil {
		return err
	}
	row, convErr := strconv.Atoi(m[1])
	if convErr != nil {
		return err
	}
	row--
	for i, offsets := range l.offsets {
		if row >= 0 && row < offsets.Len() {
			located := *se
			located.cause = fmt.Errorf("row %s is event %d of the record at offset %d: %w", m[1], l.indexes[i].Value(row), offsets.Value(row), se.cause)
			return &located
		}
		row -= offsets.Len()
	}
	return err
}
