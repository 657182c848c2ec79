package columns_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/catalog"
	sqlcat "github.com/apache/iceberg-go/catalog/sql"
	"github.com/apache/iceberg-go/table"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun/driver/sqliteshim"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/pytest"
)

// readTable has pyiceberg read a table and write its rows as an Arrow stream.
const readTable = `
import sys
import pyarrow as pa
from pyiceberg.catalog.sql import SqlCatalog
db, warehouse, name, out = sys.argv[1:5]
cat = SqlCatalog("lake", uri="sqlite:///" + db, warehouse=warehouse)
rows = cat.load_table(("pulsegrid", name)).scan().to_arrow().combine_chunks()
with pa.OSFile(out, "wb") as f, pa.ipc.new_stream(f, rows.schema) as w:
    w.write_table(rows)
`

func openLake(t *testing.T) (cat catalog.Catalog, db, warehouse string) {
	dir := t.TempDir()
	db, warehouse = filepath.Join(dir, "catalog.db"), "file://"+filepath.Join(dir, "warehouse")
	cat, err := catalog.Load(t.Context(), "lake", iceberg.Properties{
		"type": "sql", "uri": "file:" + db, "warehouse": warehouse, sqlcat.DriverKey: sqliteshim.ShimName, sqlcat.DialectKey: string(sqlcat.SQLite),
	})
	require.NoError(t, err)
	require.NoError(t, cat.CreateNamespace(t.Context(), table.Identifier{"pulsegrid"}, nil))
	if c, ok := cat.(interface{ Close() error }); ok {
		t.Cleanup(func() { _ = c.Close() })
	}
	return cat, db, warehouse
}

func createTable(t *testing.T, cat catalog.Catalog, tab *columns.Table) *table.Table {
	spec, err := tab.IcebergPartitionSpec(2)
	require.NoError(t, err)
	order, err := tab.IcebergSortOrder()
	require.NoError(t, err)
	out, err := cat.CreateTable(t.Context(), table.Identifier{"pulsegrid", tab.Name}, tab.IcebergSchema(),
		catalog.WithPartitionSpec(&spec), catalog.WithSortOrder(order), catalog.WithProperties(tab.IcebergProperties()))
	require.NoError(t, err)
	return out
}

func TestPyicebergReadsEveryFieldOfEveryEvent(t *testing.T) {
	cat, db, warehouse := openLake(t)
	forEachSignal(t, func(t *testing.T, s signal.Signal) {
		mem := checkedMemory(t)
		want, rec := build(t, mem, s)
		defer rec.Release()
		tab := columns.ForSignal(s)
		lake := createTable(t, cat, tab)
		require.True(t, tab.IcebergSchema().Equals(lake.Schema()), "the catalog assigns the field ids that the documents say")
		view, err := tab.IcebergView(lake.Schema())
		require.NoError(t, err)
		out, err := view.Convert(mem, rec)
		require.NoError(t, err)

		var files []iceberg.DataFile
		records := func(yield func(arrow.RecordBatch, error) bool) { yield(out, nil) } // WriteRecords releases it
		for f, err := range table.WriteRecords(t.Context(), lake, view.ArrowSchema(), records) {
			require.NoError(t, err)
			files = append(files, f)
		}
		require.NotEmpty(t, files)
		tx := lake.NewTransaction()
		require.NoError(t, tx.AddDataFiles(t.Context(), files, nil))
		_, err = tx.Commit(t.Context())
		require.NoError(t, err)

		stream := filepath.Join(t.TempDir(), "rows.arrows")
		pytest.Run(t, readTable, db, warehouse, tab.Name, stream)
		f, err := os.Open(stream)
		require.NoError(t, err)
		defer func() { _ = f.Close() }()
		requireSame(t, want, readStream(t, f)...)
	})
}

// fieldIDs matches a row of a document's table of columns: names, and ids in the Iceberg column.
var (
	documentedRow = regexp.MustCompile("(?m)^\\| `(\\w+)`(?: `(\\w+)`)? \\|[^|]*\\|([^|]*)\\|")
	documentedID  = regexp.MustCompile(`\((\d+)(?:: (\d+)(?:, (\d+))?)?\)`)
)

// Guarantee: the field ids that the documents list, nested ones too, are those of a table that has just been created.
func TestDocumentedFieldIDsAreThoseOfACreatedTable(t *testing.T) {
	cat, _, _ := openLake(t)
	for _, tab := range []*columns.Table{columns.Logs, columns.Metrics, columns.Spans, columns.Quarantine} {
		have := map[string]string{}
		for _, f := range createTable(t, cat, tab).Schema().Fields() {
			have[f.Name] = fmt.Sprint(f.ID)
			switch typ := f.Type.(type) {
			case *iceberg.ListType:
				have[f.Name] += fmt.Sprint(" ", typ.ElementID)
			case *iceberg.MapType:
				have[f.Name] += fmt.Sprint(" ", typ.KeyID, " ", typ.ValueID)
			}
		}
		text, err := os.ReadFile(filepath.Join(docsDir, tab.Name+".md"))
		require.NoError(t, err)
		documented := map[string]string{}
		for _, row := range documentedRow.FindAllStringSubmatch(string(text), -1) {
			for i, id := range documentedID.FindAllStringSubmatch(row[3], -1) {
				documented[row[1+i]] = strings.TrimSpace(strings.Join(id[1:], " "))
			}
		}
		require.Equal(t, have, documented, tab.Name)
	}
}

func TestAViewTellsWhichColumnTheLakeLacks(t *testing.T) {
	sc := columns.Logs.IcebergSchema()
	fields := append([]iceberg.NestedField{}, sc.Fields()[1:]...)
	_, err := columns.Logs.IcebergView(iceberg.NewSchema(0, fields...))
	require.ErrorContains(t, err, "has no column "+sc.Fields()[0].Name)

	fields[0].Type = iceberg.PrimitiveTypes.Bool
	fields = append(fields, sc.Fields()[0])
	_, err = columns.Logs.IcebergView(iceberg.NewSchema(0, fields...))
	require.ErrorContains(t, err, "column "+fields[0].Name+" has type bool")
}

func TestAViewOfASliceHoldsTheSlicesRows(t *testing.T) {
	forEachSignal(t, func(t *testing.T, s signal.Signal) {
		mem := checkedMemory(t)
		want, rec := build(t, mem, s)
		defer rec.Release()
		tab := columns.ForSignal(s)
		view, err := tab.IcebergView(tab.IcebergSchema())
		require.NoError(t, err)
		var parts []arrow.RecordBatch
		for from := int64(0); from < rec.NumRows(); from += 5 {
			slice := rec.NewSlice(from, min(from+5, rec.NumRows()))
			part, err := view.Convert(mem, slice)
			slice.Release()
			require.NoError(t, err)
			defer part.Release()
			parts = append(parts, part)
		}
		requireSame(t, want, parts...)
	})
}

func readStream(t *testing.T, f io.Reader) []arrow.RecordBatch {
	rd, err := ipc.NewReader(f)
	require.NoError(t, err)
	defer rd.Release()
	var rows []arrow.RecordBatch
	for rd.Next() {
		r := rd.RecordBatch()
		r.Retain()
		t.Cleanup(r.Release)
		rows = append(rows, r)
	}
	require.NoError(t, rd.Err())
	return rows
}
