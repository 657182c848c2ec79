package columns_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/apache/iceberg-go"
	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

var update = flag.Bool("update", false, "write testdata and the generated part of docs/formats")

const (
	docsDir  = "../../docs/formats"
	docBegin = "<!-- generated from internal/columns: `go generate ./internal/columns` -->\n"
	docEnd   = "<!-- end of the generated part -->\n"
)

// golden compares got with a file, or writes it.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
		return
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got, "%s differs from the definition: run `go generate ./internal/columns`, and say in the change how tables that exist are migrated", path)
}

func TestClickHouseDDLIsWhatTestdataHolds(t *testing.T) {
	forEachSignal(t, func(t *testing.T, s signal.Signal) {
		tab := columns.ForSignal(s)
		stmts := tab.ClickHouseDDL(columns.DDLOptions{Database: "pulsegrid", TTLDays: 30})
		golden(t, filepath.Join("testdata", tab.Name+".sql"), strings.Join(stmts, ";\n\n")+";\n")
	})
}

func TestClickHouseRollupsAreWhatTestdataHolds(t *testing.T) {
	forEachSignal(t, func(t *testing.T, s signal.Signal) {
		var stmts []string
		for _, r := range columns.ForSignal(s).Rollups() {
			o := columns.DDLOptions{Database: "pulsegrid", TTLDays: 60}
			stmts = append(stmts, r.TableDDL(o), r.ViewDDL(o))
		}
		golden(t, filepath.Join("testdata", columns.ForSignal(s).Name+"_rollups.sql"), strings.Join(stmts, ";\n\n")+";\n")
	})
}

func TestViewsForToolsAreWhatTestdataHolds(t *testing.T) {
	forEachSignal(t, func(t *testing.T, s signal.Signal) {
		var stmts []string
		for _, v := range columns.ForSignal(s).ToolViews(true) {
			stmts = append(stmts, v.DDL(columns.DDLOptions{Database: "pulsegrid"}, false))
		}
		golden(t, filepath.Join("testdata", columns.ForSignal(s).Name+"_tools.sql"), strings.Join(stmts, ";\n\n")+";\n")
	})
}

func TestIcebergTableIsWhatTestdataHolds(t *testing.T) {
	forEachSignal(t, func(t *testing.T, s signal.Signal) {
		tab := columns.ForSignal(s)
		spec, err := tab.IcebergPartitionSpec(4)
		require.NoError(t, err)
		order, err := tab.IcebergSortOrder()
		require.NoError(t, err)
		text, err := json.MarshalIndent(map[string]any{
			"schema": tab.IcebergSchema(), "partition-spec": spec, "sort-order": order, "properties": tab.IcebergProperties(),
		}, "", "  ")
		require.NoError(t, err)
		golden(t, filepath.Join("testdata", tab.Name+".iceberg.json"), string(text)+"\n")
	})
}

func TestDocsListTheColumns(t *testing.T) {
	forEachSignal(t, func(t *testing.T, s signal.Signal) {
		tab := columns.ForSignal(s)
		goldenPart(t, filepath.Join(docsDir, tab.Name+".md"), columnTable(tab))
	})
}

func TestDocsListTheRollups(t *testing.T) {
	var b strings.Builder
	for _, s := range signal.All {
		rollups := columns.ForSignal(s).Rollups()
		var names []string
		for _, r := range rollups {
			names = append(names, "`"+r.Name+"`")
		}
		fmt.Fprintf(&b, "\n### %s\n\n| column | type | meaning |\n|---|---|---|\n", strings.Join(names, ", "))
		for _, c := range rollups[0].Columns {
			if c.Key {
				fmt.Fprintf(&b, "| **`%s`** | `%s` | %s |\n", c.Name, c.Type, c.Doc)
			}
		}
		for _, c := range rollups[0].Columns {
			if !c.Key {
				fmt.Fprintf(&b, "| `%s` | `%s` | %s |\n", c.Name, c.Type, c.Doc)
			}
		}
	}
	b.WriteString("\nNames in bold are the key.\n\n")
	goldenPart(t, filepath.Join(docsDir, "rollups.md"), b.String())
}

// goldenPart compares the generated part of a document.
func goldenPart(t *testing.T, path, part string) {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	head, rest, ok := strings.Cut(string(text), docBegin)
	require.True(t, ok, "%s has no line %q", path, docBegin)
	_, tail, ok := strings.Cut(rest, docEnd)
	require.True(t, ok, "%s has no line %q", path, docEnd)
	golden(t, path, head+docBegin+part+docEnd+tail)
}

// columnTable is the table of columns as Markdown.
func columnTable(tab *columns.Table) string {
	var b strings.Builder
	b.WriteString("\n| column | ClickHouse | Iceberg (field id: ids of nested fields) | meaning |\n|---|---|---|---|\n")
	for _, c := range tab.Columns {
		name := c.Name
		if c.NanosID != 0 {
			name += "` `" + c.Name + columns.NanosSuffix
		}
		ice := fmt.Sprintf("%s (%d%s)", icebergName(c.Kind), c.FieldID, nestedIDs(tab, c))
		if c.NanosID != 0 {
			ice += fmt.Sprintf(", int (%d)", c.NanosID)
		}
		fmt.Fprintf(&b, "| `%s` | `%s` | %s | %s |\n", name, c.Kind.ClickHouse(), ice, strings.ReplaceAll(c.Doc, "|", "\\|"))
	}
	b.WriteString("\nIceberg table properties:\n\n")
	props := tab.IcebergProperties()
	for _, k := range slices.Sorted(maps.Keys(props)) {
		fmt.Fprintf(&b, "    %s = %s\n", k, props[k])
	}
	b.WriteString("\n")
	return b.String()
}

// nestedIDs are the ids of a list's elements, or of a map's keys and values.
func nestedIDs(tab *columns.Table, c columns.Column) string {
	f, _ := tab.IcebergSchema().FindFieldByID(c.FieldID)
	switch typ := f.Type.(type) {
	case *iceberg.ListType:
		return fmt.Sprintf(": %d", typ.ElementID)
	case *iceberg.MapType:
		return fmt.Sprintf(": %d, %d", typ.KeyID, typ.ValueID)
	}
	return ""
}

func icebergName(k columns.Kind) string {
	switch {
	case k.IsMap():
		return "map of string to " + icebergName(k.Elem())
	case k == columns.ListTime:
		return "list of long"
	case k.IsList():
		return "list of " + icebergName(k.Elem())
	}
	return k.Iceberg().String()
}

func TestDocsListTheViewsForTools(t *testing.T) {
	var b strings.Builder
	b.WriteString("\n| view | of | columns |\n|---|---|---|\n")
	for _, s := range signal.All {
		tab := columns.ForSignal(s)
		for _, v := range tab.ToolViews(true) {
			var names []string
			more := false
			for _, c := range v.Columns {
				own, known := tab.Column(c.Name)
				if known && strings.HasPrefix(v.Name, "otel_") && (own.Promote != "" || own.Kind.IsMap()) {
					more = true
					continue
				}
				names = append(names, "`"+c.Name+"`")
			}
			if more {
				names = append(names, "and the columns `attr_*` and `attributes_*` of `"+tab.Name+"`")
			}
			fmt.Fprintf(&b, "| `%s` | `%s` | %s |\n", v.Name, v.Source, strings.Join(names, ", "))
		}
	}
	b.WriteString("\n")
	goldenPart(t, "../../docs/tools.md", b.String())
}
