package upkeep

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/compute"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/catalog"
	"github.com/apache/iceberg-go/table"

	"github.com/pulsegrid/pulsegrid/internal/lakefile"
)

const (
	// erasedTogether is how many files a commit of an erasure replaces at most: what is lost where another writer is faster.
	erasedTogether = 64
	// erasures is how often the files with rows are looked for: writers may add some meanwhile.
	erasures = 10
)

// Erased is what became of a table.
type Erased struct {
	Table   string  `json:"table"`
	Rows    int64   `json:"rows"`  // that were erased; in a dry run, that would be
	Files   int     `json:"files"` // that had any of them
	Left    int64   `json:"left"`  // rows that were there at the end
	Expired int     `json:"expired_snapshots"`
	Seconds float64 `json:"seconds"`
	Error   string  `json:"error,omitempty"`
}

// Match says which rows of a table are erased.
type Match struct {
	// Within has all of them. Files whose bounds exclude it are not read.
	Within iceberg.BooleanExpression
	// Rows tells of each row of a batch whether it is erased; of rows outside of Within it must not be. nil: all within are. In a dry run the batches have Columns.
	Rows    func(arrow.RecordBatch) ([]bool, error)
	Columns []string
	// History leaves the snapshots of before as they are: the rows stay in these until upkeep expires them.
	History bool
	// Clean are paths of files that are known to have no such row. A dry run adds to it, unless it is nil.
	Clean map[string]bool
}

// Erase takes the rows that match out of a table: files that have any are written anew without them, and then all snapshots but the newest are expired, with the
// files that only they name, unless match.History. What it did before an error counts. It can be run again at any time.
func Erase(ctx context.Context, cat catalog.Catalog, id table.Identifier, match Match, o Options) (Erased, error) {
	began := time.Now()
	o.Keep, o.RetainLast = 0, 1
	clean := match.Clean
	if !o.DryRun || clean == nil {
		if clean = maps.Clone(match.Clean); clean == nil {
			clean = map[string]bool{}
		}
	}
	e := &eraser{upkeep: upkeep{Options: o, catalog: cat, id: id}, match: match, clean: clean, report: Erased{Table: id[len(id)-1]}}
	err := e.run(ctx)
	e.report.Expired = e.upkeep.report.Expired
	e.report.Seconds = time.Since(began).Seconds()
	if err != nil {
		err = fmt.Errorf("table %s: %w", e.report.Table, err)
		e.report.Error = err.Error()
	}
	return e.report, err
}

type eraser struct {
	upkeep
	match  Match
	clean  map[string]bool // files without a row that matches
	report Erased
}

func (e *eraser) run(ctx context.Context) error {
	for range erasures {
		tbl, err := e.load(ctx)
		if err != nil || tbl.CurrentSnapshot() == nil {
			return err
		}
		found, rows, err := e.find(ctx, tbl)
		if err != nil {
			return err
		}
		e.report.Left = rows
		if e.DryRun {
			e.report.Rows, e.report.Files = rows, len(found)
			return nil
		}
		if len(found) == 0 && e.match.History {
			return nil
		}
		if len(found) == 0 {
			return e.forget(ctx)
		}
		for len(found) > 0 {
			n := min(len(found), erasedTogether)
			if err := e.erase(ctx, tbl, found[:n]); err != nil {
				return err
			}
			found = found[n:]
		}
	}
	return fmt.Errorf("after %d passes there are still rows: their sender still sends, or they are still on their way from Kafka", erasures)
}

// dirty is a file with rows that match.
type dirty struct {
	task table.FileScanTask
	rows int64
}

// find looks for the files with rows that match, and counts these.
func (e *eraser) find(ctx context.Context, tbl *table.Table) (found []dirty, rows int64, err error) {
	tasks, err := tbl.Scan(table.WithRowFilter(e.match.Within)).PlanFiles(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("list the data files: %w", err)
	}
	for _, t := range tasks { // what their bounds do not exclude
		path := t.File.FilePath()
		if e.clean[path] {
			continue
		}
		n, err := e.count(ctx, tbl, t)
		if err != nil {
			return nil, 0, err
		}
		if n == 0 {
			e.clean[path] = true
			continue
		}
		t.Residual = nil // it is written anew with all that stays
		found = append(found, dirty{t, n})
		rows += n
	}
	return found, rows, nil
}

// count counts the rows of a file that match.
func (e *eraser) count(ctx context.Context, tbl *table.Table, t table.FileScanTask) (n int64, err error) {
	names := []string{"tenant_id"}
	if e.match.Rows != nil {
		names = slices.DeleteFunc(slices.Clone(e.match.Columns), func(name string) bool { // a table may be older than the column
			_, ok := tbl.Schema().FindFieldByName(name)
			return !ok
		})
	}
	_, records, err := tbl.Scan(table.WithRowFilter(e.match.Within), table.WithSelectedFields(names...), table.WithMaxConcurrency(1)).ReadTasks(ctx, []table.FileScanTask{t})
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", t.File.FilePath(), err)
	}
	for b, err := range records {
		if err != nil {
			return 0, fmt.Errorf("read %s: %w", t.File.FilePath(), err)
		}
		some, err := e.match.count(b)
		b.Release()
		if err != nil {
			return 0, fmt.Errorf("read %s: %w", t.File.FilePath(), err)
		}
		n += some
	}
	return n, nil
}

// count counts the rows of a batch that match. All of them are within.
func (m *Match) count(b arrow.RecordBatch) (n int64, err error) {
	if m.Rows == nil {
		return b.NumRows(), nil
	}
	which, err := m.Rows(b)
	for _, is := range which {
		if is {
			n++
		}
	}
	return n, err
}

// stay takes the rows that match out of records.
func (m *Match) stay(ctx context.Context, records iter.Seq2[arrow.RecordBatch, error]) iter.Seq2[arrow.RecordBatch, error] {
	if m.Rows == nil {
		return records // they were filtered where they were read
	}
	return func(yield func(arrow.RecordBatch, error) bool) {
		for b, err := range records {
			if err == nil {
				b, err = m.without(ctx, b)
			}
			if err == nil && b.NumRows() == 0 {
				b.Release()
				continue
			}
			if !yield(b, err) || err != nil {
				return
			}
		}
	}
}

// without is a batch without the rows that match. It releases b.
func (m *Match) without(ctx context.Context, b arrow.RecordBatch) (arrow.RecordBatch, error) {
	defer b.Release()
	which, err := m.Rows(b)
	if err != nil {
		return nil, err
	}
	mask := array.NewBooleanBuilder(memory.DefaultAllocator)
	defer mask.Release()
	for _, is := range which {
		mask.Append(!is)
	}
	keep := mask.NewBooleanArray()
	defer keep.Release()
	return compute.FilterRecordBatch(ctx, b, keep, compute.DefaultFilterOptions())
}

// erase replaces files by such without the rows that match.
func (e *eraser) erase(ctx context.Context, tbl *table.Table, found []dirty) (err error) {
	within, cancel := context.WithTimeoutCause(ctx, e.Within, fmt.Errorf("%d files took longer than %v", len(found), e.Within))
	defer cancel()
	var tasks []table.FileScanTask
	var old, files []iceberg.DataFile
	rows := int64(0)
	for _, d := range found {
		written, err := rewrite(within, tbl, []table.FileScanTask{d.task}, &e.match, e.TargetBytes)
		files = append(files, written...)
		if err == nil {
			err = complete(d, written)
		}
		if err != nil {
			return errors.Join(err, context.Cause(within), lakefile.Remove(context.WithoutCancel(ctx), tbl, files))
		}
		tasks, old, rows = append(tasks, d.task), append(old, d.task.File), rows+d.rows
	}
	committed, err := lakefile.Commit(within, e.load, func(now *table.Table, tx *table.Transaction) (bool, error) {
		same, err := hasTasks(ctx, now, tasks)
		if err != nil || !same {
			return false, err // the next pass looks again
		}
		return true, tx.ReplaceFiles(ctx, old, files, table.CollectSafePositionDeletes(tasks), nil)
	})
	if committed != nil {
		e.report.Rows += rows
		e.report.Files += len(found)
		for _, f := range files {
			e.clean[f.FilePath()] = true
		}
	}
	return err
}

// complete makes sure that the files written in place of another have all of its rows that stay. Rows that a delete file takes out are not counted.
func complete(d dirty, written []iceberg.DataFile) error {
	if len(d.task.DeleteFiles)+len(d.task.EqualityDeleteFiles) > 0 {
		return nil
	}
	stay := int64(0)
	for _, f := range written {
		stay += f.Count()
	}
	if want := d.task.File.Count() - d.rows; stay != want {
		return fmt.Errorf("%s: %d rows match of %d, and %d were written anew: the file is left as it is", d.task.File.FilePath(), d.rows, d.task.File.Count(), stay)
	}
	return nil
}

// forget takes what was erased out of the history: manifests name the files that were replaced, with bounds of their rows.
func (e *eraser) forget(ctx context.Context) error {
	if err := e.mergeManifests(ctx); err != nil {
		return fmt.Errorf("merge manifests: %w", err)
	}
	if err := e.expire(ctx); err != nil {
		return fmt.Errorf("expire snapshots: %w", err)
	}
	return nil
}
