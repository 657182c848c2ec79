package upkeep

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/catalog"
	sqlcat "github.com/apache/iceberg-go/catalog/sql"
	"github.com/apache/iceberg-go/table"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun/driver/sqliteshim"

	"github.com/pulsegrid/pulsegrid/internal/testkit/pytest"
)

// lake is a table of rows (tenant, n, note) in small files.
type lake struct {
	catalog.Catalog
	t   *testing.T
	dir string
}

var name = table.Identifier{"pulsegrid", "events"}

func newLake(t *testing.T, props iceberg.Properties) *lake {
	t.Helper()
	all := iceberg.Properties{table.PropertyFormatVersion: "2", table.WriteDeleteModeKey: table.WriteModeMergeOnRead}
	maps.Copy(all, props)
	dir := t.TempDir()
	cat, err := catalog.Load(t.Context(), "pulsegrid", iceberg.Properties{
		"type": "sql", "uri": "file:" + filepath.Join(dir, "catalog.db"), "warehouse": "file://" + filepath.Join(dir, "warehouse"),
		sqlcat.DriverKey: sqliteshim.ShimName, sqlcat.DialectKey: string(sqlcat.SQLite),
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, cat.(catalog.Closer).Close()) })
	require.NoError(t, cat.CreateNamespace(t.Context(), table.Identifier{"pulsegrid"}, nil))
	sc := iceberg.NewSchema(0,
		iceberg.NestedField{ID: 1, Name: "tenant", Type: iceberg.PrimitiveTypes.String, Required: true},
		iceberg.NestedField{ID: 2, Name: "n", Type: iceberg.PrimitiveTypes.Int64, Required: true},
		iceberg.NestedField{ID: 3, Name: "note", Type: iceberg.PrimitiveTypes.String},
		iceberg.NestedField{ID: 4, Name: "tags", Required: true, Type: &iceberg.MapType{
			KeyID: 5, KeyType: iceberg.PrimitiveTypes.String, ValueID: 6, ValueType: iceberg.PrimitiveTypes.String, ValueRequired: true,
		}},
	)
	spec := iceberg.NewPartitionSpec(iceberg.PartitionField{SourceIDs: []int{1}, FieldID: 1000, Name: "tenant", Transform: iceberg.IdentityTransform{}})
	order, err := table.NewSortOrder(1, []table.SortField{{SourceIDs: []int{2}, Transform: iceberg.IdentityTransform{}, Direction: table.SortASC, NullOrder: table.NullsLast}})
	require.NoError(t, err)
	_, err = cat.CreateTable(t.Context(), name, sc, catalog.WithPartitionSpec(&spec), catalog.WithSortOrder(order), catalog.WithProperties(all))
	require.NoError(t, err)
	return &lake{cat, t, dir}
}

func (l *lake) table() *table.Table {
	l.t.Helper()
	tbl, err := l.LoadTable(l.t.Context(), name)
	require.NoError(l.t, err)
	return tbl
}

// add writes rows of a tenant, numbered from the first down, as one file, by iceberg-go's own writer and not the product's.
func (l *lake) add(tenant string, first, n int, note func(i int) string, opts ...table.WriteRecordOption) {
	l.t.Helper()
	tbl := l.table()
	sc, err := table.SchemaToArrowSchema(tbl.Schema(), nil, true, false)
	require.NoError(l.t, err)
	b := array.NewRecordBuilder(memory.DefaultAllocator, sc)
	defer b.Release()
	for i := range n {
		b.Field(0).(*array.StringBuilder).Append(tenant)
		b.Field(1).(*array.Int64Builder).Append(int64(first - i))
		b.Field(2).(*array.StringBuilder).Append(note(first - i))
		m := b.Field(3).(*array.MapBuilder)
		m.Append(true)
		m.KeyBuilder().(*array.StringBuilder).Append("k")
		m.ItemBuilder().(*array.StringBuilder).Append("v")
	}
	rec := b.NewRecordBatch()
	var files []iceberg.DataFile
	for f, err := range table.WriteRecords(l.t.Context(), tbl, sc, one(rec), opts...) {
		require.NoError(l.t, err)
		files = append(files, f)
	}
	tx := tbl.NewTransaction()
	require.NoError(l.t, tx.AddDataFiles(l.t.Context(), files, nil))
	_, err = tx.Commit(l.t.Context())
	require.NoError(l.t, err)
}

func one(rec arrow.RecordBatch) iter.Seq2[arrow.RecordBatch, error] {
	return func(yield func(arrow.RecordBatch, error) bool) { yield(rec, nil) }
}

// deletes rows by a delete file.
func (l *lake) deletes(filter iceberg.BooleanExpression) {
	l.t.Helper()
	tx := l.table().NewTransaction()
	require.NoError(l.t, tx.Delete(l.t.Context(), filter, nil))
	_, err := tx.Commit(l.t.Context())
	require.NoError(l.t, err)
}

func (l *lake) files() []table.FileScanTask {
	l.t.Helper()
	tasks, err := l.table().Scan().PlanFiles(l.t.Context())
	require.NoError(l.t, err)
	return tasks
}

// rows are those of the table by pyiceberg, as "tenant n note", with a condition; and then in the order of the file, where there is one.
func (l *lake) rows(condition string) (out []string) {
	l.t.Helper()
	pytest.RunJSON(l.t, &out, `
import sys, json
from pyiceberg.table import StaticTable
location, condition = sys.argv[1:]
scan = StaticTable.from_metadata(location).scan(row_filter=condition) if condition else StaticTable.from_metadata(location).scan()
print(json.dumps(["%s %d %s" % (r["tenant"], r["n"], r["note"]) for r in scan.to_arrow().to_pylist()]))
`, l.table().MetadataLocation(), condition)
	return out
}

func (l *lake) upkeep(cat catalog.Catalog) (Report, error) {
	return Table(l.t.Context(), cat, name, Options{RetainLast: 1, TargetBytes: 1 << 20, Within: time.Minute})
}

func plain(i int) string { return fmt.Sprint("note ", i) }

// Scenario: two tenants with six small files, one with four; rows of two files were deleted by delete files.
// Guarantees: a file each for the two, sorted, the four as they were; by pyiceberg the same rows; no delete file is left; a second run, behind another commit, finds nothing to put together.
func TestSmallFilesOfAPartitionArePutTogether(t *testing.T) {
	l := newLake(t, nil)
	for i := range 6 {
		l.add("acme", 100*i+99, 100, plain)
		l.add("zebra", 1000*i+50, 50, plain)
		if i < 4 {
			l.add("few", i, 1, plain)
		}
	}
	l.deletes(iceberg.EqualTo(iceberg.Reference("n"), int64(250)))
	l.deletes(iceberg.EqualTo(iceberg.Reference("n"), int64(3001)))
	before := l.rows("")
	require.Len(t, before, 600+300+4-2)
	r, err := l.upkeep(l)
	require.NoError(t, err)
	require.Equal(t, []int{16, 12, 2}, []int{r.Files, r.Compacted, r.Written})
	after := l.rows("")
	require.ElementsMatch(t, before, after)
	for _, task := range l.files() {
		require.Empty(t, task.DeleteFiles)
	}
	acme := l.rows("tenant = 'acme'")
	require.Len(t, acme, 599)
	numbers := make([]int, len(acme))
	for i, row := range acme {
		_, err := fmt.Sscanf(row, "acme %d", &numbers[i])
		require.NoError(t, err)
	}
	require.True(t, slices.IsSorted(numbers))
	l.add("lone", 1, 1, plain)
	again, err := l.upkeep(l)
	require.NoError(t, err)
	require.Equal(t, []int{7, 0, 0}, []int{again.Files, again.Compacted, again.Written})
	require.Positive(t, again.Expired)
}

// busy is a catalog in which another writer is faster than a commit, once.
type busy struct {
	catalog.Catalog
	first func()
}

func (b *busy) CommitTable(ctx context.Context, id table.Identifier, reqs []table.Requirement, updates []table.Update) (table.Metadata, string, error) {
	if first := b.first; first != nil {
		b.first = nil
		first()
	}
	return b.Catalog.CommitTable(ctx, id, reqs, updates)
}

func (b *busy) LoadTable(ctx context.Context, id table.Identifier) (*table.Table, error) {
	tbl, err := b.Catalog.LoadTable(ctx, id)
	if err != nil {
		return nil, err
	}
	return table.New(id, tbl.Metadata(), tbl.MetadataLocation(), tbl.FS, b), nil
}

// Guarantees: what another writer adds just before the commit is there beside the new file; rows that it deletes then are not there again.
func TestAnotherWriterIsFasterThanACompaction(t *testing.T) {
	for what, tc := range map[string]struct {
		meanwhile func(*lake)
		rows      int
		compacted int
	}{
		"it adds":                      {func(l *lake) { l.add("acme", 9000, 7, plain) }, 67, 6},
		"it deletes rows":              {func(l *lake) { l.deletes(iceberg.EqualTo(iceberg.Reference("n"), int64(25))) }, 59, 0},
		"it deletes all rows of files": {func(l *lake) { l.deletes(iceberg.LessThan(iceberg.Reference("n"), int64(20))) }, 40, 0},
	} {
		t.Run(what, func(t *testing.T) {
			l := newLake(t, nil)
			for i := range 6 {
				l.add("acme", 10*i+9, 10, plain)
			}
			r, err := l.upkeep(&busy{Catalog: l.Catalog, first: func() { tc.meanwhile(l) }})
			require.NoError(t, err)
			require.Equal(t, tc.compacted, r.Compacted)
			rows := l.rows("")
			require.Len(t, rows, tc.rows)
			require.Len(t, slices.Compact(slices.Sorted(slices.Values(rows))), tc.rows)
		})
	}
}

// Guarantee: another writer that is faster than an expiry is no failure of it, and the old files are gone.
func TestAnotherWriterIsFasterThanAnExpiry(t *testing.T) {
	l := newLake(t, nil)
	for i := range 6 {
		l.add("acme", 10*i+9, 10, plain)
	}
	_, err := Table(t.Context(), l, name, Options{Keep: time.Hour, RetainLast: 1, TargetBytes: 1 << 20, Within: time.Minute})
	require.NoError(t, err)
	r, err := Table(t.Context(), &busy{Catalog: l.Catalog, first: func() { l.add("acme", 9000, 7, plain) }}, name, Options{RetainLast: 1})
	require.NoError(t, err)
	require.Positive(t, r.Expired)
	require.Len(t, l.rows(""), 67)
	entries, err := filepath.Glob(filepath.Join(l.dir, "warehouse", "*", "*", "data", "*", "*.parquet"))
	require.NoError(t, err)
	require.Len(t, entries, 2)
}

// Guarantee: only errors that are all of files that are not there are none.
func TestOnlyFilesThatAreNotThereMayStayUndeleted(t *testing.T) {
	gone, other := fmt.Errorf("remove a: %w", os.ErrNotExist), fmt.Errorf("remove b: %w", os.ErrPermission)
	for _, err := range []error{gone, errors.Join(gone, gone), fmt.Errorf("delete: %w", errors.Join(gone, errors.Join(gone)))} {
		require.True(t, allGone(err), err)
	}
	for _, err := range []error{other, errors.Join(gone, other), fmt.Errorf("delete: %w", errors.Join(gone, errors.Join(gone, other)))} {
		require.False(t, allGone(err), err)
	}
}

// Scenario: a file has a long text in one of many row groups, and bounds of that column which are those of the others.
// Guarantee: the file that it is put into, of many row groups too, has no bounds of that column, so that readers find the row.
func TestAFileWithALongTextHasNoBoundsOfIt(t *testing.T) {
	long := strings.Repeat("z", 5000)
	l := newLake(t, iceberg.Properties{table.ParquetRowGroupLimitKey: "10"})
	for i := range 6 {
		l.add("acme", 10*i+9, 10, func(n int) string {
			if n == 33 {
				return long
			}
			return "a"
		}, table.WithParquetRowGroupLimit(1))
	}
	require.False(t, slices.Contains(withoutUpperBound(l.table().Schema(), l.files()), "note"), "there is no hint of it")
	r, err := l.upkeep(l)
	require.NoError(t, err)
	require.Equal(t, 6, r.Compacted)
	files := l.files()
	require.Len(t, files, 1)
	require.NotContains(t, files[0].File.UpperBoundValues(), 3)
	require.Contains(t, files[0].File.UpperBoundValues(), 2)
	require.Equal(t, []string{"acme 33 " + long}, l.rows("note > 'b'"))
	entries, err := filepath.Glob(filepath.Join(l.dir, "warehouse", "*", "*", "data", "*", "*.parquet"))
	require.NoError(t, err)
	require.Len(t, entries, 1, "the files of the first try are gone, and the old ones with their snapshots")
}
