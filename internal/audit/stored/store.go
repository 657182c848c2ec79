// Package stored reads what the stores hold: rows, each as a place, an id and a hash that is the same whichever store it comes from, and the
// ledger. It also sorts rows in bounded memory.
package stored

import (
	"context"
	"errors"
	"math"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
)

// Store is what an audit asks of ClickHouse and of the lake. An error means that the store could not be audited.
type Store interface {
	Info() certificate.StoreInfo
	// Read calls f with all rows that q asks for, in any order.
	Read(ctx context.Context, q Query, f RowsFunc) error
	// Sums adds up the rows of q by bucket, without their content.
	Sums(ctx context.Context, q Query, b Buckets) (map[Bucket]certificate.Sums, error)
	// Ledger returns the entries of a topic that overlap one of the ranges, one for each block, in any order; ErrNoLedger.
	Ledger(ctx context.Context, topic string, ranges []certificate.Range) ([]ledger.Entry, error)
	Close()
}

// RowsFunc takes rows of a batch, by their numbers. It does not keep the batch.
type RowsFunc func(rec arrow.RecordBatch, rows []int) error

func allRows(rec arrow.RecordBatch) []int {
	rows := make([]int, rec.NumRows())
	for i := range rows {
		rows[i] = i
	}
	return rows
}

// ErrNoLedger: the store has no ledger table.
var ErrNoLedger = errors.New("there is no table " + ledger.Name)

// Query asks for the rows of a topic.
type Query struct {
	Table  *columns.Table
	Topic  string
	Tenant string // empty: all
	// Ranges by partition, at most one of each; Last may be Beyond.
	Ranges []certificate.Range
	// Strangers asks for rows of this partition and of those above it too; 0: not.
	Strangers int32
	Content   bool    // all columns, not just place and id
	Places    []Place // only these rows; nil: all
}

// Beyond is the Last of a range without an upper bound.
const Beyond = math.MaxInt64

// Empty tells that no row is asked for.
func (q Query) Empty() bool { return len(q.Ranges) == 0 && q.Strangers == 0 }

func (q Query) columnNames() []string {
	if !q.Content {
		return placeColumns
	}
	names := make([]string, len(q.Table.Columns))
	for i, c := range q.Table.Columns {
		names[i] = c.Name
	}
	return names
}

// Buckets cut each partition's range into equal parts.
type Buckets struct {
	First map[int32]int64 // first offset of the partition's range
	Width int64           // offsets
}

// Bucket is one part.
type Bucket struct {
	Partition int32
	Number    int64
}

// Of is the bucket of an offset.
func (b Buckets) Of(partition int32, offset int64) Bucket {
	return Bucket{partition, (offset - b.First[partition]) / b.Width}
}

// Add adds a row to sums. The digest is not touched.
func Add(s *certificate.Sums, r Row) {
	s.Rows++
	s.IDs += certificate.Hex64(ledger.IDSum(r.ID[:]))
	s.Places += certificate.Hex64(placeSum(r.ID, r.Offset, r.Index))
	s.Content += certificate.Hex64(r.Hash)
}
