package residency

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"
)

// rowsAtOnce is how many rows of two columns are in memory.
const rowsAtOnce = 64 << 10

// rowsOf counts the rows of a day in a Parquet file, by tenant; nil: it is no Parquet file, or has rows of nobody known. Of a file two columns are read.
func rowsOf(ctx context.Context, f File, size int64, day Day) (of map[string]int64, err error) {
	if is, err := isParquet(f, size); err != nil || !is {
		return nil, err
	}
	r, err := file.NewParquetReader(f)
	if err != nil {
		return nil, err
	}
	// Closing it would close the file, which is its opener's.
	schema := r.MetaData().Schema
	tenant, came := schema.ColumnIndexByName("tenant_id"), schema.ColumnIndexByName("ingest_time")
	if tenant < 0 {
		if slices.ContainsFunc(nobodys, func(name string) bool { return schema.ColumnIndexByName(name) >= 0 }) {
			return map[string]int64{}, nil
		}
		return nil, nil
	}
	columns := []int{tenant}
	if came >= 0 {
		columns = append(columns, came)
	}
	fr, err := pqarrow.NewFileReader(r, pqarrow.ArrowReadProperties{BatchSize: rowsAtOnce}, memory.DefaultAllocator)
	if err != nil {
		return nil, err
	}
	of = map[string]int64{}
	if r.NumRows() == 0 {
		return of, nil
	}
	batches, err := fr.GetRecordReader(ctx, columns, nil)
	if err != nil {
		return nil, err
	}
	defer batches.Release()
	for batches.Next() {
		if err := countRows(of, batches.RecordBatch(), day); err != nil {
			return nil, err
		}
		if len(of) > tenantsMax {
			return nil, fmt.Errorf("has more than %d tenants", tenantsMax)
		}
	}
	if err := batches.Err(); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return of, nil
}

func countRows(of map[string]int64, b arrow.RecordBatch, day Day) error {
	column := func(name string) arrow.Array {
		if i := b.Schema().FieldIndices(name); len(i) == 1 {
			return b.Column(i[0])
		}
		return nil
	}
	within := func(int) bool { return true }
	if came := column("ingest_time"); came != nil {
		at, ok := came.(*array.Timestamp)
		if !ok {
			return fmt.Errorf("ingest_time is %s", came.DataType())
		}
		unit := at.DataType().(*arrow.TimestampType).Unit
		within = func(i int) bool { return at.IsValid(i) && day.has(at.Value(i).ToTime(unit)) }
	}
	tenants := column("tenant_id")
	for i := range tenants.Len() {
		switch {
		case !within(i):
		case tenants.IsNull(i):
			of[""]++
		default:
			of[text(tenants, i)]++
		}
	}
	return nil
}

// text of a column that has texts as they are, or once each.
func text(a arrow.Array, i int) string {
	if s, ok := a.(interface{ Value(int) string }); ok {
		return s.Value(i)
	}
	return a.ValueStr(i)
}
