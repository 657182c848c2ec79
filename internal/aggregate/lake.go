package aggregate

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/catalog"
	"github.com/apache/iceberg-go/table"

	"github.com/pulsegrid/pulsegrid/internal/failpoint"
	"github.com/pulsegrid/pulsegrid/internal/lakefile"
)

const (
	// lakeFileBytes is the size of a data file, at most.
	lakeFileBytes = 256 << 20
	// copyLongest bounds how long a partition may take to be copied.
	copyLongest = 30 * time.Minute
)

// Lake keeps copies of published partitions in Iceberg tables. Like an Engine it is asked for what it has, and has no state of its own: a partition's files tell.
type Lake struct {
	Catalog   catalog.Catalog
	Namespace string
	// Open opens a table as it is, or creates it.
	Open func(context.Context, lakefile.Definition) (*table.Table, error)
}

func (l *Lake) load(m *Model) func(context.Context) (*table.Table, error) {
	return func(ctx context.Context) (*table.Table, error) {
		tbl, err := l.Catalog.LoadTable(ctx, table.Identifier{l.Namespace, m.Target.Table})
		if err != nil {
			return nil, fmt.Errorf("load the table: %w", err)
		}
		return tbl, nil
	}
}

// prepare makes the model's table and holds it against the model. With create false it only looks; where there is none yet it returns false.
func (l *Lake) prepare(ctx context.Context, m *Model, create bool) (bool, error) {
	d, err := m.definition()
	if err != nil {
		return false, err
	}
	var tbl *table.Table
	if create {
		tbl, err = l.Open(ctx, d)
	} else if tbl, err = l.load(m)(ctx); errors.Is(err, catalog.ErrNoSuchTable) || errors.Is(err, catalog.ErrNoSuchNamespace) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, holds(tbl, d)
}

// partitions are those of the model's table in [from, to): the rows of their files, and the sum of digests of the files' names, which no two writes share.
func (l *Lake) partitions(ctx context.Context, m *Model, from, to time.Time) (map[time.Time]Count, error) {
	tbl, err := l.load(m)(ctx)
	if err != nil {
		return nil, err
	}
	tasks, err := tasksWithin(ctx, tbl, m, from, to)
	if err != nil {
		return nil, err
	}
	out := map[time.Time]Count{}
	for at, of := range tasks {
		out[at] = countOf(of)
	}
	return out, nil
}

// tasksWithin are the table's files by partition, of those in [from, to).
func tasksWithin(ctx context.Context, tbl *table.Table, m *Model, from, to time.Time) (map[time.Time][]table.FileScanTask, error) {
	column := iceberg.Reference(m.Partition.Column)
	tasks, err := tbl.Scan(table.WithRowFilter(iceberg.NewAnd(
		iceberg.GreaterThanEqual(column, iceberg.Timestamp(from.UnixMicro())), iceberg.LessThan(column, iceberg.Timestamp(to.UnixMicro()))))).PlanFiles(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the data files: %w", err)
	}
	out := map[time.Time][]table.FileScanTask{}
	for _, t := range tasks {
		at, err := partitionOf(tbl, m, t.File)
		if err != nil {
			return nil, err
		}
		if !at.Before(from) && at.Before(to) {
			out[at] = append(out[at], t)
		}
	}
	return out, nil
}

// partitionOf is the begin of the partition that a file lies in: Iceberg has it as hours or days since 1970.
func partitionOf(tbl *table.Table, m *Model, f iceberg.DataFile) (time.Time, error) {
	n, spec := int64(0), tbl.Spec()
	switch v := f.Partition()[spec.Field(0).FieldID].(type) {
	case int32:
		n = int64(v)
	case iceberg.Date:
		n = int64(v)
	default:
		return time.Time{}, fmt.Errorf("%s: its partition is %v: want an %s since 1970", f.FilePath(), v, m.Partition.Size)
	}
	return time.Unix(n*int64(m.Partition.Size.Duration().Seconds()), 0).UTC(), nil
}

func countOf(tasks []table.FileScanTask) (c Count) {
	for _, t := range tasks {
		c.Rows += t.File.Count()
		c.Digest += digestOf(t.File)
		for _, deletes := range slices.Concat(t.DeleteFiles, t.EqualityDeleteFiles, t.DeletionVectorFiles) {
			c.Digest += digestOf(deletes) // somebody has taken rows out: it is not what was written
		}
	}
	return c
}

func digestOf(f iceberg.DataFile) uint64 {
	sum := sha256.Sum256([]byte(f.FilePath()))
	return binary.LittleEndian.Uint64(sum[:])
}

// replace puts rows in the place of what the table has of a partition, in one commit, and returns what it has then. rows have the table's columns, and their hashes in one
// more; they must be those of want.
func (l *Lake) replace(ctx context.Context, m *Model, at time.Time, want Count, rows iter.Seq2[arrow.RecordBatch, error]) (Count, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, copyLongest, fmt.Errorf("it took longer than %v", copyLongest))
	defer cancel()
	load := l.load(m)
	tbl, err := load(ctx)
	if err != nil {
		return Count{}, err
	}
	sc, err := table.SchemaToArrowSchema(tbl.Schema(), nil, true, false)
	if err != nil {
		return Count{}, err
	}
	var got Count
	files, err := lakefile.Write(ctx, tbl, sc, lakefile.Options{ID: lakefile.NewID(), TargetBytes: lakeFileBytes}, counted(rows, sc, &got))
	if err == nil && got != want {
		err = fmt.Errorf("ClickHouse gave %d rows that are not the %d that were published: somebody has changed them meanwhile, or the answer was cut off", got.Rows, want.Rows)
	}
	if err != nil {
		return Count{}, errors.Join(err, lakefile.Remove(context.WithoutCancel(ctx), tbl, files))
	}
	failpoint.Hit("aggregate-lake-written")
	var now Count
	for _, f := range files {
		now.Rows, now.Digest = now.Rows+f.Count(), now.Digest+digestOf(f)
	}
	// Files that no commit came to name may be named by one that landed although the catalog said otherwise.
	if _, err := lakefile.Commit(ctx, load, func(tbl *table.Table, tx *table.Transaction) (bool, error) {
		tasks, err := tasksWithin(ctx, tbl, m, at, at.Add(m.Partition.Size.Duration()))
		if err != nil || countOf(tasks[at]) == now {
			return false, err
		}
		// Another writer may put files into the partition: this commit must come behind what it has read.
		if err := tx.AssertRefSnapshotID(""); err != nil {
			return false, err
		}
		return true, replaceFiles(ctx, tx, tasks[at], files)
	}); err != nil {
		return Count{}, err
	}
	failpoint.Hit("aggregate-lake-committed")
	return now, nil
}

func replaceFiles(ctx context.Context, tx *table.Transaction, tasks []table.FileScanTask, files []iceberg.DataFile) error {
	old := make([]iceberg.DataFile, len(tasks))
	for i, t := range tasks {
		old[i] = t.File
	}
	return tx.ReplaceFiles(ctx, old, files, table.CollectSafePositionDeletes(tasks), nil, table.WithoutAutoNameMapping())
}

// counted hands rows on with the schema of the lake's table, and adds up how many they are and their hashes.
func counted(rows iter.Seq2[arrow.RecordBatch, error], sc *arrow.Schema, c *Count) iter.Seq2[arrow.RecordBatch, error] {
	return func(yield func(arrow.RecordBatch, error) bool) {
		for b, err := range rows {
			if err != nil {
				yield(nil, err)
				return
			}
			out, err := withoutHash(b, sc, c)
			b.Release()
			if !yield(out, err) || err != nil {
				return
			}
		}
	}
}

func withoutHash(b arrow.RecordBatch, sc *arrow.Schema, c *Count) (arrow.RecordBatch, error) {
	n := sc.NumFields()
	if int(b.NumCols()) != n+1 {
		return nil, fmt.Errorf("ClickHouse gave %d columns, want %d", b.NumCols(), n+1)
	}
	for i, f := range sc.Fields() {
		if col := b.Column(i); b.ColumnName(i) != f.Name || !arrow.TypeEqual(col.DataType(), f.Type) || col.NullN() > 0 {
			return nil, fmt.Errorf("ClickHouse gave column %s of type %s with %d nulls, want %s of type %s", b.ColumnName(i), col.DataType(), col.NullN(), f.Name, f.Type)
		}
	}
	hashes, ok := b.Column(n).(*array.Uint64)
	if !ok {
		return nil, fmt.Errorf("ClickHouse gave hashes of type %s", b.Column(n).DataType())
	}
	for _, h := range hashes.Values() {
		c.Digest += h
	}
	c.Rows += b.NumRows()
	return array.NewRecordBatch(sc, b.Columns()[:n], b.NumRows()), nil
}

// drop takes the partitions before a time out of the table, in one commit, and returns how many they were.
func (l *Lake) drop(ctx context.Context, m *Model, before time.Time) (n int, err error) {
	_, err = lakefile.Commit(ctx, l.load(m), func(tbl *table.Table, tx *table.Transaction) (bool, error) {
		tasks, err := tasksWithin(ctx, tbl, m, time.Unix(0, 0), before)
		if err != nil || len(tasks) == 0 {
			return false, err
		}
		n = len(tasks)
		if err := tx.AssertRefSnapshotID(""); err != nil {
			return false, err
		}
		return true, replaceFiles(ctx, tx, slices.Concat(slices.Collect(maps.Values(tasks))...), nil)
	})
	return n, err
}
