package clickhouse

import (
	"context"
	"regexp"
	"strings"
)

// Tree is how ClickHouse itself understands a query.
type Tree struct {
	Tables         []string // database.table of each that it reads, views by their own name; Parse does not know them
	TableFunctions []string // called as tables
	Functions      []string // in small letters
	Settings       bool     // a SELECT in it has settings of its own
}

var (
	treeTable         = regexp.MustCompile(`^\s*TABLE id: .*table_name: (\S+)`)
	treeTableFunction = regexp.MustCompile(`^\s*TABLE_FUNCTION id: .*table_function_name: (\S+?),?$`)
	treeFunction      = regexp.MustCompile(`^\s*FUNCTION id: .*function_name: ([^\s,]+)`)
	treeSettings      = regexp.MustCompile(`^\s*SETTINGS `)
	syntaxFunction    = regexp.MustCompile(`^\s*Function (\S+)`)
	syntaxTable       = regexp.MustCompile(`^\s*TableExpression\b`)
	syntaxSettings    = regexp.MustCompile(`^\s*Set(\s|$)`)
)

// Parse asks ClickHouse for the syntax of a query. Nothing of the query is run; what names stand for is not known, nor what `*` and APPLY become.
func Parse(ctx context.Context, c *Client, query string, settings map[string]string) (Tree, error) {
	var t Tree
	asTable := false // the line before says that this one is read as a table
	err := explain(ctx, c, "EXPLAIN AST "+query, settings, func(line string) {
		if m := syntaxFunction.FindStringSubmatch(line); m != nil && asTable {
			t.TableFunctions = append(t.TableFunctions, m[1])
		} else if m != nil {
			t.Functions = append(t.Functions, strings.ToLower(m[1]))
		}
		t.Settings = t.Settings || syntaxSettings.MatchString(line)
		asTable = syntaxTable.MatchString(line)
	})
	return t, err
}

// Analyze asks ClickHouse for the tree of a query with every name resolved. Expressions of constants, and subqueries that stand for one, are run for it: Parse a query first that is
// not trusted.
func Analyze(ctx context.Context, c *Client, query string, settings map[string]string) (Tree, error) {
	var t Tree
	err := explain(ctx, c, "EXPLAIN QUERY TREE "+query, settings, func(line string) {
		if m := treeTable.FindStringSubmatch(line); m != nil {
			t.Tables = append(t.Tables, strings.TrimSuffix(m[1], ","))
		}
		if m := treeTableFunction.FindStringSubmatch(line); m != nil {
			t.TableFunctions = append(t.TableFunctions, m[1])
		}
		if m := treeFunction.FindStringSubmatch(line); m != nil {
			t.Functions = append(t.Functions, strings.ToLower(m[1]))
		}
		t.Settings = t.Settings || treeSettings.MatchString(line)
	})
	return t, err
}

func explain(ctx context.Context, c *Client, statement string, settings map[string]string, each func(line string)) error {
	lines, err := Rows[struct {
		Explain string `json:"explain"`
	}](ctx, c, statement, settings)
	for _, l := range lines {
		for line := range strings.Lines(l.Explain) {
			each(strings.TrimRight(line, "\n"))
		}
	}
	return err
}
