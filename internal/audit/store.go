package audit

import (
	"context"
	"errors"
	"math"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
)

// store is what an audit asks of ClickHouse and of the lake. An error means that the store could not be audited.
type store interface {
	info() StoreInfo
	// read calls f with all rows that q asks for, in any order.
	read(ctx context.Context, q query, f rowsFunc) error
	// sums adds up the rows of q by bucket, without their content.
	sums(ctx context.Context, q query, b buckets) (map[bucketKey]Sums, error)
	// ledger returns the entries of a topic that overlap one of the ranges, one for each block, in any order; errNoLedger.
	ledger(ctx context.Context, topic string, ranges []Range) ([]ledger.Entry, error)
	close()
}

// rowsFunc takes rows of a batch, by their numbers. It does not keep the batch.
type rowsFunc func(rec arrow.RecordBatch, rows []int) error

func allRows(rec arrow.RecordBatch) []int {
	rows := make([]int, rec.NumRows())
	for i := range rows {
		rows[i] = i
	}
	return rows
}

// errNoLedger: the store has no ledger table.
var errNoLedger = errors.New("there is no table " + ledger.Name)

// query asks for the rows of a topic.
type query struct {
	table  *columns.Table
	topic  string
	tenant string // empty: all
	// ranges by partition; Last may be beyond: no upper bound.
	ranges []Range
	// strangers asks for rows of this partition and of those above it too; 0: not.
	strangers int32
	content   bool    // all columns, not just placeColumns
	places    []place // only these rows; nil: all
}

// beyond is the Last of a range without an upper bound.
const beyond = math.MaxInt64

func (q query) empty() bool { return len(q.ranges) == 0 && q.strangers == 0 }

func (q query) columnNames() []string {
	if !q.content {
		return placeColumns
	}
	names := make([]string, len(q.table.Columns))
	for i, c := range q.table.Columns {
		names[i] = c.Name
	}
	return names
}

// buckets cut each partition's range into equal parts.
type buckets struct {
	first map[int32]int64 // first offset of the partition's range
	width int64
}

type bucketKey struct {
	partition int32
	bucket    int64
}

func (b buckets) of(partition int32, offset int64) bucketKey {
	return bucketKey{partition, (offset - b.first[partition]) / b.width}
}

// add adds a row. The digest is not touched.
func (s *Sums) add(r row) {
	s.Rows++
	s.IDs += Hex64(ledger.IDSum(r.id[:]))
	s.Places += Hex64(placeSum(r.id, r.offset, r.index))
	s.Content += Hex64(r.hash)
}
