package aggregate

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/lakefile"
)

// ModelProperty is the property of a lake's table that names the model whose rows it has.
const ModelProperty = "pulsegrid.model"

// lakeColumn is a column of the lake's table, and the expression by which ClickHouse gives it. %s is ClickHouse's column.
type lakeColumn struct {
	name, source, doc string
	typ               iceberg.Type
	expr              string
}

var (
	lowCardinality = regexp.MustCompile(`^LowCardinality\((.*)\)$`)
	fineTime       = regexp.MustCompile(`^DateTime64\((\d), ?'UTC'\)$`)
)

// microseconds are the digits of a second that a time of Iceberg has.
const microseconds = 6

// lakeTypes are the types that the lake can keep and DuckDB can give, as ClickHouse writes them, beside finer times.
var lakeTypes = map[string]struct {
	typ  iceberg.Type
	expr string
	duck string // DuckDB's type of the same values
}{
	// Readers of Parquet refuse texts that are not UTF-8.
	"String": {iceberg.PrimitiveTypes.String, "toValidUTF8(CAST(%s, 'String'))", "VARCHAR"},
	"Bool":   {iceberg.PrimitiveTypes.Bool, "%s", "BOOLEAN"},
	"Int8":   {iceberg.PrimitiveTypes.Int32, "toInt32(%s)", "TINYINT"},
	"Int16":  {iceberg.PrimitiveTypes.Int32, "toInt32(%s)", "SMALLINT"},
	"Int32":  {iceberg.PrimitiveTypes.Int32, "%s", "INTEGER"},
	"UInt8":  {iceberg.PrimitiveTypes.Int32, "toInt32(%s)", "UTINYINT"},
	"UInt16": {iceberg.PrimitiveTypes.Int32, "toInt32(%s)", "USMALLINT"},
	"UInt32": {iceberg.PrimitiveTypes.Int64, "toInt64(%s)", "UINTEGER"},
	"Int64":  {iceberg.PrimitiveTypes.Int64, "%s", "BIGINT"},
	// Iceberg has no unsigned numbers: ClickHouse refuses those that are too large.
	"UInt64":  {iceberg.PrimitiveTypes.Int64, "accurateCast(%s, 'Int64')", "UBIGINT"},
	"Float32": {iceberg.PrimitiveTypes.Float32, "%s", "FLOAT"},
	"Float64": {iceberg.PrimitiveTypes.Float64, "%s", "DOUBLE"},
	"Date":    {iceberg.PrimitiveTypes.Date, "toDate32(%s)", "DATE"},
	"Date32":  {iceberg.PrimitiveTypes.Date, "%s", "DATE"},
	timeType:  {iceberg.PrimitiveTypes.TimestampTz, "toDateTime64(%s, 6, 'UTC')", "TIMESTAMPTZ"},
}

// plainTypes are lakeTypes and finer times, for errors.
const plainTypes = "String, Bool, Int8 to Int64, UInt8 to UInt64, Float32, Float64, Date, Date32, " + timeType + " or DateTime64(0 to 9, 'UTC')"

// plainType is a column's type without LowCardinality.
func plainType(c Column) string {
	if inner := lowCardinality.FindStringSubmatch(c.Type); inner != nil {
		return inner[1]
	}
	return c.Type
}

// lakeColumns are those of the lake's table, in order.
func (m *Model) lakeColumns() (out []lakeColumn, err error) {
	for _, c := range m.Target.Columns {
		typ := plainType(c)
		if known, ok := lakeTypes[typ]; ok {
			out = append(out, lakeColumn{c.Name, c.Name, c.Doc, known.typ, known.expr})
			continue
		}
		fine := fineTime.FindStringSubmatch(typ)
		if fine == nil {
			return nil, fmt.Errorf("%s: the lake cannot keep the type %s: want %s", c.Name, c.Type, plainTypes)
		}
		if digits, _ := strconv.Atoi(fine[1]); digits <= microseconds {
			out = append(out, lakeColumn{c.Name, c.Name, c.Doc, iceberg.PrimitiveTypes.TimestampTz, "toDateTime64(%s, 6, 'UTC')"})
			continue
		}
		below := c.Name + columns.NanosSuffix
		if m.column(below) != nil {
			return nil, fmt.Errorf("%s: the lake keeps the nanoseconds of %s under this name", below, c.Name)
		}
		const nanos = "positiveModulo(toUnixTimestamp64Nano(%[1]s), 1000)"
		out = append(out,
			lakeColumn{c.Name, c.Name, c.Doc, iceberg.PrimitiveTypes.TimestampTz, "fromUnixTimestamp64Micro(intDiv(toUnixTimestamp64Nano(%[1]s) - " + nanos + ", 1000), 'UTC')"},
			lakeColumn{below, c.Name, "nanoseconds of " + c.Name + " below its microsecond, 0 to 999", iceberg.PrimitiveTypes.Int32, "toInt32(" + nanos + ")"})
	}
	return out, nil
}

// definition is what the lake's table is created with: a partition is the model's, and its rows are sorted by the grain.
func (m *Model) definition() (lakefile.Definition, error) {
	cols, err := m.lakeColumns()
	if err != nil {
		return lakefile.Definition{}, err
	}
	fields, ids := make([]iceberg.NestedField, len(cols)), map[string]int{}
	for i, c := range cols {
		fields[i] = iceberg.NestedField{ID: i + 1, Name: c.name, Type: c.typ, Required: true, Doc: c.doc}
		ids[c.name] = i + 1
	}
	var transform iceberg.Transform = iceberg.HourTransform{}
	if m.Partition.Size == Day {
		transform = iceberg.DayTransform{}
	}
	var sort []table.SortField
	for _, g := range m.Grain {
		sort = append(sort, table.SortField{SourceIDs: []int{ids[g]}, Transform: iceberg.IdentityTransform{}, Direction: table.SortASC, NullOrder: table.NullsFirst})
	}
	order, err := table.NewSortOrder(1, sort)
	if err != nil {
		return lakefile.Definition{}, err
	}
	props := columns.CommonIcebergProperties()
	props[ModelProperty] = m.Name
	// Of the others, and of texts, a file's bounds would tell no more than its partition does.
	props[table.DefaultWriteMetricsModeKey] = "none"
	props[table.MetricsModeColumnConfPrefix+"."+m.Partition.Column] = "full"
	return lakefile.Definition{
		Name: m.Target.Table, Schema: iceberg.NewSchema(0, fields...), Order: order, Properties: props,
		Spec: iceberg.NewPartitionSpec(iceberg.PartitionField{
			SourceIDs: []int{ids[m.Partition.Column]}, FieldID: 1000, Name: m.Partition.Column + "_" + string(m.Partition.Size), Transform: transform,
		}),
	}, nil
}

// holds holds a table of the lake against the definition.
func holds(tbl *table.Table, d lakefile.Definition) error {
	shape := func(sc *iceberg.Schema, spec iceberg.PartitionSpec) (cols, parts string) {
		var c, p []string
		for _, f := range sc.Fields() {
			c = append(c, f.Name+" "+f.Type.String())
		}
		for _, f := range spec.Fields() {
			name, _ := sc.FindColumnName(f.SourceID())
			p = append(p, fmt.Sprintf("%s(%s)", f.Transform, name))
		}
		return strings.Join(c, ", "), strings.Join(p, ", ")
	}
	const advice = "name another table in the model, or move this one away to have it made anew"
	isCols, isParts := shape(tbl.Schema(), tbl.Spec())
	wantCols, wantParts := shape(d.Schema, d.Spec)
	switch {
	case isCols != wantCols:
		return fmt.Errorf("its columns are %s; the model's are %s: %s", isCols, wantCols, advice)
	case isParts != wantParts:
		return fmt.Errorf("its partitions are by %s, the model's by %s: %s", isParts, wantParts, advice)
	case tbl.Properties()[ModelProperty] != d.Properties[ModelProperty]:
		return fmt.Errorf("it is not this model's: its property %s is %q: %s", ModelProperty, tbl.Properties()[ModelProperty], advice)
	}
	return nil
}
