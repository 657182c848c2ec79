package aggregate

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	// duckParameter is the type of {from:...} and {to:...} in queries of DuckDB.
	duckParameter = "TIMESTAMPTZ"

	duckAdviceOrder    = "its answer depends on the order in which rows are read: give it an ORDER BY within its brackets, or use min, max, arg_min or arg_max"
	duckAdviceQuantile = "its answer depends on the order in which rows are read: use quantile_cont or quantile_disc"
	duckAdviceMode     = "of values that are as frequent it gives the one that is read first: use arg_max over counts"
	duckAdviceAgain    = "its answer is another one each time, or on another machine: use {from:TIMESTAMPTZ} and {to:TIMESTAMPTZ}, the partition's begin and end"
)

// duckRefused are functions of DuckDB, in small letters, with the advice. A test holds it against those that DuckDB calls volatile.
var duckRefused = map[string]string{
	"now": duckAdviceAgain, "today": duckAdviceAgain, "age": duckAdviceAgain, "ago": duckAdviceAgain, "current_date": duckAdviceAgain, "get_current_time": duckAdviceAgain,
	"get_current_timestamp": duckAdviceAgain, "transaction_timestamp": duckAdviceAgain, "current_localtime": duckAdviceAgain, "current_localtimestamp": duckAdviceAgain,
	"random": duckAdviceAgain, "setseed": duckAdviceAgain, "uuid": duckAdviceAgain, "uuidv4": duckAdviceAgain, "uuidv7": duckAdviceAgain, "gen_random_uuid": duckAdviceAgain,
	"nextval": duckAdviceAgain, "currval": duckAdviceAgain, "txid_current": duckAdviceAgain, "current_transaction_id": duckAdviceAgain, "current_query": duckAdviceAgain,
	"current_query_id": duckAdviceAgain, "current_connection_id": duckAdviceAgain, "version": duckAdviceAgain, "stats": duckAdviceAgain, "sleep_ms": duckAdviceAgain,
	"write_log": duckAdviceAgain, "current_schema": adviceOutside, "current_schemas": adviceOutside, "current_database": adviceOutside, "in_search_path": adviceOutside,
	"iceberg_verify_equality_deletes": adviceOutside, "getenv": adviceOutside, "getvariable": adviceOutside, "current_setting": adviceOutside,
	"approx_quantile": duckAdviceQuantile, "reservoir_quantile": duckAdviceQuantile, "approx_top_k": duckAdviceOrder, "mode": duckAdviceMode,
	"json_group_array": duckAdviceOrder, "json_group_object": duckAdviceOrder, "json_group_structure": duckAdviceOrder,
}

// duckOrdered are functions that need an order of their own.
var duckOrdered = []string{"any_value", "arbitrary", "first", "last", "list", "array_agg", "string_agg", "group_concat", "listagg", "first_value", "last_value", "nth_value", "row_number",
	"ntile", "lag", "lead", "fill"}

// duckTableFunctions may stand where a table does.
var duckTableFunctions = []string{"unnest", "range", "generate_series"}

// duckAdvice says why a function is refused; empty: it is not.
func duckAdvice(function string) string {
	if strings.HasPrefix(function, "pg_") {
		return adviceOutside
	}
	return duckRefused[function]
}

// checkDuckDB is checkQuery's for DuckDB. What needs DuckDB's own reading of the query is left to checkTree.
func checkDuckDB(ts []token) error {
	for _, t := range ts {
		if t.parameter && t.typ != duckParameter {
			return fmt.Errorf("line %d: {%s:%s}: want {%s:%s}", t.line, t.text, t.typ, t.text, duckParameter)
		}
	}
	return check(ts, duckAdvice)
}

// bindDuckDB puts the partition's begin and end in the place of the parameters.
func bindDuckDB(sql string, from, to time.Time) string {
	ts, err := tokens(sql)
	if err != nil {
		return sql // which validate has refused
	}
	var b strings.Builder
	done := 0
	for _, t := range ts {
		if t.parameter {
			b.WriteString(sql[done:t.begin] + duckTime(map[string]time.Time{"from": from, "to": to}[t.text]))
			done = t.end
		}
	}
	return b.String() + sql[done:]
}

func duckTime(t time.Time) string {
	return "(TIMESTAMPTZ '" + t.UTC().Format("2006-01-02 15:04:05.000000") + "+00')"
}

// duckWithin is the condition that a column lies in [from, to).
func duckWithin(column string, from, to time.Time) string {
	return duckName(column) + " >= " + duckTime(from) + " AND " + duckName(column) + " < " + duckTime(to)
}

func duckName(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

func duckText(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

// checkTree holds a query, as DuckDB has parsed it (json_serialize_sql), against the model: it is one SELECT that reads the model's sources and nothing else, and a function of their rows.
func checkTree(m *Model, text string) error {
	var parsed struct {
		Error      bool
		Message    string `json:"error_message"`
		Statements []any
	}
	if err := json.Unmarshal([]byte(text), &parsed); err != nil {
		return fmt.Errorf("DuckDB's tree of it: %w", err)
	}
	switch {
	case parsed.Error:
		return &DuckDBError{parsed.Message}
	case len(parsed.Statements) != 1:
		return fmt.Errorf("%d statements: want one SELECT", len(parsed.Statements))
	}
	var own []string // names of its own WITH
	err := visit(parsed.Statements, func(node map[string]any) error {
		with, _ := node["cte_map"].(map[string]any)
		list, _ := with["map"].([]any)
		for _, one := range list {
			entry, _ := one.(map[string]any)
			name, _ := entry["key"].(string)
			if !nameForm.MatchString(name) { // no file has such a name
				return fmt.Errorf("WITH %q: want small letters, digits and _, at most 63", name)
			}
			own = append(own, name)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return visit(parsed.Statements, func(node map[string]any) error { return checkNode(m, own, node) })
}

// checkNode is checkTree for a node.
func checkNode(m *Model, own []string, node map[string]any) error {
	text := func(node map[string]any, key string) string { s, _ := node[key].(string); return s }
	list := func(node map[string]any, key string) []any { l, _ := node[key].([]any); return l }
	switch text(node, "type") {
	case "BASE_TABLE":
		name, schema := text(node, "table_name"), text(node, "catalog_name")+text(node, "schema_name")
		if schema != "" || !slices.Contains(own, name) && !slices.ContainsFunc(m.Sources, func(s Source) bool { return s.Table == name }) {
			return fmt.Errorf("it reads %s, which is not in the model's sources", strings.TrimPrefix(schema+"."+name, "."))
		}
	case "TABLE_FUNCTION":
		function, _ := node["function"].(map[string]any)
		if name := text(function, "function_name"); !slices.Contains(duckTableFunctions, name) {
			return fmt.Errorf("%s(): %s", name, adviceOutside)
		}
	case "DISTINCT_MODIFIER":
		if len(list(node, "distinct_on_targets")) > 0 {
			return errors.New("DISTINCT ON: " + adviceLimit)
		}
	case "LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER":
		return errors.New("LIMIT: " + adviceLimit)
	}
	if node["sample"] != nil {
		return errors.New("SAMPLE: " + adviceLimit)
	}
	if text(node, "ref_type") == "POSITIONAL" {
		return errors.New("POSITIONAL JOIN: which rows it puts together depends on their order")
	}
	name := strings.ToLower(text(node, "function_name"))
	if why := duckAdvice(name); why != "" {
		return fmt.Errorf("%s(): %s", name, why)
	}
	if slices.Contains(duckOrdered, name) {
		within, _ := node["order_bys"].(map[string]any)
		if len(list(within, "orders"))+len(list(node, "orders"))+len(list(node, "arg_orders")) == 0 {
			return fmt.Errorf("%s(): %s", name, duckAdviceOrder)
		}
	}
	return nil
}

// visit calls f for each object of a tree, the outer first.
func visit(tree any, f func(node map[string]any) error) error {
	switch t := tree.(type) {
	case []any:
		for _, one := range t {
			if err := visit(one, f); err != nil {
				return err
			}
		}
	case map[string]any:
		if err := f(t); err != nil {
			return err
		}
		for _, one := range t {
			if err := visit(one, f); err != nil {
				return err
			}
		}
	}
	return nil
}
