package upkeep

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"
	"github.com/apache/iceberg-go/table/compaction"

	"github.com/pulsegrid/pulsegrid/internal/lakefile"
)

const (
	// enoughFiles of a partition make it worth while to write them anew.
	enoughFiles = 5
	// runBytes is how much of what was read is sorted at a time: the rows of a new file are sorted runs of that size. iceberg-go and the sort hold about six copies.
	runBytes = 64 << 20
	// readRows is how many rows are read at a time.
	readRows = 1 << 12
)

// compact puts the small data files of each partition together, without the rows that delete files take out of them. Each group of files is a commit of its own.
func (u *upkeep) compact(ctx context.Context) error {
	tbl, err := u.load(ctx)
	if err != nil {
		return err
	}
	if v := tbl.Metadata().Version(); v > 2 { // rows have ids there, which a new file would have to keep
		u.report.Kept = fmt.Sprintf("files are not put together in a table of format version %d", v)
		return nil
	}
	tasks, err := tbl.Scan().PlanFiles(ctx)
	if err != nil {
		return fmt.Errorf("list the data files: %w", err)
	}
	u.report.Files = len(tasks)
	cfg := compaction.DefaultConfig()
	cfg.TargetFileSizeBytes, cfg.MinFileSizeBytes, cfg.MaxFileSizeBytes = u.TargetBytes, u.TargetBytes/4*3, u.TargetBytes/5*9
	cfg.MinInputFiles, cfg.DeleteFileThreshold = enoughFiles, 1
	plan, err := cfg.PlanCompaction(tasks)
	if err != nil {
		return err
	}
	for _, g := range plan.Groups {
		if u.DryRun {
			u.report.Compacted += len(g.Tasks)
			continue
		}
		if err := u.compactGroup(ctx, tbl, g.Tasks); err != nil {
			return err
		}
	}
	return nil
}

// compactGroup writes a group's rows into new files, and has the table name them in place of the old ones. Where another writer has taken one of these out of the
// table meanwhile, or rows out of one, the group is left to the next run.
func (u *upkeep) compactGroup(ctx context.Context, tbl *table.Table, tasks []table.FileScanTask) error {
	within, cancel := context.WithTimeoutCause(ctx, u.Within, fmt.Errorf("a group of %d files took longer than %v", len(tasks), u.Within))
	defer cancel()
	files, err := rewrite(within, tbl, tasks, nil, u.TargetBytes)
	if err != nil {
		return errors.Join(err, context.Cause(within), lakefile.Remove(context.WithoutCancel(ctx), tbl, files))
	}
	result := table.CompactionGroupResult{
		NewDataFiles: files, SafePosDeletes: table.CollectSafePositionDeletes(tasks), SafeDeletionVectors: table.CollectSafeDeletionVectors(tasks),
	}
	for _, t := range tasks {
		result.OldDataFiles = append(result.OldDataFiles, t.File)
	}
	committed, err := lakefile.Commit(within, u.load, func(now *table.Table, tx *table.Transaction) (bool, error) {
		same, err := hasTasks(ctx, now, tasks)
		if err != nil || !same {
			return false, err
		}
		return true, tx.NewRewrite(nil).ApplyResult(result).Commit(ctx)
	})
	if committed != nil {
		u.report.Compacted += len(tasks)
		u.report.Written += len(files)
	}
	// Files that the table does not name now may be named by a commit that landed although the catalog said otherwise: the exporter's sweeper tells, later.
	return err
}

// hasTasks tells whether the table's newest snapshot has the files of tasks, and the same delete files of each.
func hasTasks(ctx context.Context, tbl *table.Table, tasks []table.FileScanTask) (bool, error) {
	now, err := tbl.Scan().PlanFiles(ctx)
	if err != nil {
		return false, fmt.Errorf("list the data files: %w", err)
	}
	deletes := func(t table.FileScanTask) (paths []string) {
		for _, f := range slices.Concat(t.DeleteFiles, t.EqualityDeleteFiles, t.DeletionVectorFiles) {
			paths = append(paths, f.FilePath())
		}
		slices.Sort(paths)
		return paths
	}
	of := make(map[string][]string, len(tasks))
	for _, t := range tasks {
		of[t.File.FilePath()] = deletes(t)
	}
	same := 0
	for _, t := range now {
		if before, ok := of[t.File.FilePath()]; ok && slices.Equal(before, deletes(t)) {
			same++
		}
	}
	return same == len(tasks), nil
}

// rewrite writes the rows of tasks into new files, without those that match, if there is a match.
func rewrite(ctx context.Context, tbl *table.Table, tasks []table.FileScanTask, match *Match, target int64) (files []iceberg.DataFile, err error) {
	sc, err := table.SchemaToArrowSchema(tbl.Schema(), nil, true, false)
	if err != nil {
		return nil, err
	}
	// Whether a column has a long text is known once all is read; where there was no hint of it the files are written a second time.
	long := withoutUpperBound(tbl.Schema(), tasks)
	var filter iceberg.BooleanExpression = iceberg.AlwaysTrue{}
	if match != nil && match.Rows == nil {
		filter = iceberg.NewNot(match.Within)
	}
	for {
		_, records, err := tbl.Scan(table.WithRowFilter(filter), table.WithMaxConcurrency(1), table.WithArrowBatchSize(readRows)).ReadTasks(ctx, tasks)
		if err != nil {
			return files, fmt.Errorf("read data files: %w", err)
		}
		if match != nil {
			records = match.stay(ctx, records)
		}
		found := slices.Clone(long)
		files, err = lakefile.Write(ctx, tbl, sc, lakefile.Options{ID: lakefile.NewID(), TargetBytes: target, Long: long}, runs(records, sc, &found))
		if err != nil || len(found) == len(long) {
			return files, err
		}
		if err := lakefile.Remove(ctx, tbl, files); err != nil {
			return nil, err
		}
		files, long = nil, found
	}
}

// withoutUpperBound returns the columns that some file has values of, and no upper bound.
func withoutUpperBound(sc *iceberg.Schema, tasks []table.FileScanTask) (names []string) {
	for _, f := range sc.Fields() {
		if slices.ContainsFunc(tasks, func(t table.FileScanTask) bool {
			id := f.ID
			_, bounded := t.File.UpperBoundValues()[id]
			return !bounded && t.File.ValueCounts()[id] > t.File.NullValueCounts()[id]
		}) {
			names = append(names, f.Name)
		}
	}
	return names
}

// runs puts records together to batches of about runBytes, with schema sc, and adds to long the columns with a long text that are not in it.
func runs(records iter.Seq2[arrow.RecordBatch, error], sc *arrow.Schema, long *[]string) iter.Seq2[arrow.RecordBatch, error] {
	return func(yield func(arrow.RecordBatch, error) bool) {
		var run []arrow.RecordBatch
		defer func() { release(run) }()
		size := int64(0)
		flush := func() bool {
			if len(run) == 0 {
				return true
			}
			one, err := concatenate(run)
			release(run)
			run, size = nil, 0
			return yield(one, err) && err == nil
		}
		for b, err := range records {
			if err != nil {
				yield(nil, err)
				return
			}
			with, err := withSchema(b, sc)
			b.Release()
			if err != nil {
				yield(nil, err)
				return
			}
			for _, name := range lakefile.LongTexts([]arrow.RecordBatch{with}) {
				if !slices.Contains(*long, name) {
					*long = append(*long, name)
				}
			}
			run = append(run, with)
			for _, c := range with.Columns() {
				size += int64(c.Data().SizeInBytes())
			}
			if size >= runBytes && !flush() {
				return
			}
		}
		flush()
	}
}

func release(batches []arrow.RecordBatch) {
	for _, b := range batches {
		b.Release()
	}
}

// concatenate returns the rows of batches, which have one schema, as one.
func concatenate(batches []arrow.RecordBatch) (arrow.RecordBatch, error) {
	if len(batches) == 1 {
		batches[0].Retain()
		return batches[0], nil
	}
	rows := int64(0)
	for _, b := range batches {
		rows += b.NumRows()
	}
	cols := make([]arrow.Array, 0, batches[0].NumCols())
	defer func() {
		for _, c := range cols {
			c.Release()
		}
	}()
	parts := make([]arrow.Array, len(batches))
	for i := range int(batches[0].NumCols()) {
		for j, b := range batches {
			parts[j] = b.Column(i)
		}
		c, err := array.Concatenate(parts, memory.DefaultAllocator)
		if err != nil {
			return nil, fmt.Errorf("put %d rows together: %w", rows, err)
		}
		cols = append(cols, c)
	}
	return array.NewRecordBatch(batches[0].Schema(), cols, rows), nil
}

// withSchema returns b with the fields of sc. iceberg-go 0.7.0 makes the values of maps nullable where it converts what it has read, and its writer then refuses the
// rows; the arrays themselves are the same.
func withSchema(b arrow.RecordBatch, sc *arrow.Schema) (arrow.RecordBatch, error) {
	if int(b.NumCols()) != sc.NumFields() {
		return nil, fmt.Errorf("%d columns were read, the table has %d", b.NumCols(), sc.NumFields())
	}
	cols := make([]arrow.Array, 0, sc.NumFields())
	defer func() {
		for _, c := range cols {
			c.Release()
		}
	}()
	for i, f := range sc.Fields() {
		if name := b.ColumnName(i); name != f.Name {
			return nil, fmt.Errorf("column %s was read where the table has %s", name, f.Name)
		}
		d, err := withType(b.Column(i).Data(), f.Type)
		if err != nil {
			return nil, fmt.Errorf("column %s: %w", f.Name, err)
		}
		cols = append(cols, array.MakeFromData(d))
		d.Release()
	}
	return array.NewRecordBatch(sc, cols, b.NumRows()), nil
}

// withType returns d as an array of type want, which differs from its own in names and nullability of nested fields at most.
func withType(d arrow.ArrayData, want arrow.DataType) (arrow.ArrayData, error) {
	have := d.DataType()
	nested, ok := want.(arrow.NestedType)
	if have.ID() != want.ID() || !ok && !arrow.TypeEqual(have, want) {
		return nil, fmt.Errorf("%w: %s was read where the table has %s", arrow.ErrType, have, want)
	}
	if !ok {
		d.Retain()
		return d, nil
	}
	fields := nested.Fields()
	if len(fields) != len(d.Children()) {
		return nil, fmt.Errorf("%w: %s was read where the table has %s", arrow.ErrType, have, want)
	}
	children := make([]arrow.ArrayData, 0, len(fields))
	defer func() {
		for _, c := range children {
			c.Release()
		}
	}()
	for i, f := range fields {
		c, err := withType(d.Children()[i], f.Type)
		if err != nil {
			return nil, err
		}
		children = append(children, c)
	}
	return array.NewData(want, d.Len(), d.Buffers(), children, d.NullN(), d.Offset()), nil
}
