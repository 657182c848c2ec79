package columns

import (
	"fmt"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/iceberg-go"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Column is one column of a table.
type Column struct {
	Name    string
	Doc     string
	Kind    Kind
	Codec   string // ClickHouse compression codec; empty: codecDefault
	Promote string // key of the attribute that the column holds; empty: not a promoted attribute
	FieldID int    // Iceberg field id in a table that iceberg-go created (a REST server assigns ids itself; see IcebergView)
	NanosID int    // Iceberg field id of NAME_nanos; 0 where the kind is not Time
}

// Table is one signal's table. It is immutable.
type Table struct {
	Name    string        // "logs", "metrics", "spans", "quarantine" or "quarantine_pii", in both stores
	Signal  signal.Signal // of the pdata that its rows are made of
	Columns []Column

	order []string // columns that rows are sorted by
	items bool     // its rows are items of the quarantine
	pii   bool     // of items: those that hold, or may hold, personal data

	index map[string]int // column name -> position in Columns
	arrow *arrow.Schema
	ice   *iceberg.Schema
}

// NewTable defines a signal's table with the given promoted attributes. It panics on a definition that names a column twice or
// promotes to a kind that Promotion does not allow: that is a bug of the caller, who validates what users may declare.
func NewTable(s signal.Signal, promotions []Promotion) *Table {
	t := &Table{Signal: s, order: []string{"tenant_id", "service_name", "time"}}
	t.Columns = append(t.Columns, before()...)
	switch s {
	case signal.Logs:
		t.Name = "logs"
		t.Columns = append(t.Columns, logColumns()...)
	case signal.Traces:
		t.Name = "spans"
		t.Columns = append(t.Columns, spanColumns()...)
	case signal.Metrics:
		t.Name = "metrics"
		t.Columns = append(t.Columns, metricColumns()...)
	default:
		panic(fmt.Sprintf("columns: no table for %s", s))
	}
	for _, p := range promotions {
		switch p.Kind {
		case Text, Dict, Int64, Double:
		default:
			panic(fmt.Sprintf("columns: attribute %s cannot be promoted to a %s column", p.Key, p.Kind.ClickHouse()))
		}
		t.Columns = append(t.Columns, Column{Name: p.Column(), Kind: p.Kind, Promote: p.Key, Doc: "attribute `" + p.Key + "`; the zero value means: see the attribute maps"})
	}
	t.Columns = append(t.Columns, after()...)
	return t.define()
}

// define makes everything that follows from the columns.
func (t *Table) define() *Table {
	t.index = map[string]int{}
	fields := make([]arrow.Field, len(t.Columns))
	for i, c := range t.Columns {
		if _, twice := t.index[c.Name]; twice {
			panic(fmt.Sprintf("columns: table %s has two columns %s", t.Name, c.Name))
		}
		t.index[c.Name] = i
		fields[i] = arrow.Field{Name: c.Name, Type: c.Kind.Arrow()}
	}
	t.arrow = arrow.NewSchema(fields, nil)
	t.ice = t.icebergSchema()
	return t
}

// ArrowSchema is the schema of a Builder's batches; no field is nullable. ClickHouse takes such a batch as it is (ArrowStream);
// IcebergView makes Iceberg's of it.
func (t *Table) ArrowSchema() *arrow.Schema { return t.arrow }

// Items tells whether the rows are items of the quarantine.
func (t *Table) Items() bool { return t.items }

// Column returns the column of that name; false where the table has none.
func (t *Table) Column(name string) (Column, bool) {
	i, ok := t.index[name]
	if !ok {
		return Column{}, false
	}
	return t.Columns[i], true
}
