package columns

import (
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/iceberg-go"
)

// Kind is a column's logical type. It decides the type in Arrow, in ClickHouse and in Iceberg.
type Kind uint8

// The kinds. "Dict" is text that repeats: a dictionary in Arrow, LowCardinality in ClickHouse, plain text in Iceberg.
// JSON texts are written as docs/formats/rows.md says.
const (
	Text     Kind = iota + 1
	Dict          // text that repeats from row to row
	DictJSON      // JSON text that repeats from row to row
	Int32
	Int64
	Uint32 // Iceberg: int, as two's complement
	Uint64 // Iceberg: long, as two's complement
	Double
	Bool
	Time    // Unix nanoseconds. Iceberg: microseconds (floor) and a second column NAME_nanos with the remainder, 0 to 999
	Fixed8  // 8 raw bytes
	Fixed16 // 16 raw bytes
	Bytes   // raw bytes of any length
	MapText
	MapInt
	MapDouble
	MapBool
	MapJSON // values are JSON texts
	ListText
	ListDict
	ListJSON
	ListInt64
	ListUint32
	ListUint64
	ListDouble
	ListTime // Iceberg: list of long, Unix nanoseconds
	ListFixed8
	ListFixed16
)

// kindInfo is what a kind is in each place. elem is the element's kind of a list, or the value's kind of a map.
type kindInfo struct {
	clickhouse string
	elem       Kind
	isMap      bool
	arrow      arrow.DataType
	iceberg    iceberg.Type // primitives only; lists and maps are composed
}

var (
	dictType   = &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int32, ValueType: arrow.BinaryTypes.String}
	nanoType   = &arrow.TimestampType{Unit: arrow.Nanosecond, TimeZone: "UTC"}
	fixed8Type = &arrow.FixedSizeBinaryType{ByteWidth: 8}
	fixed16Typ = &arrow.FixedSizeBinaryType{ByteWidth: 16}
)

var kinds = map[Kind]kindInfo{
	Text:     {clickhouse: "String", arrow: arrow.BinaryTypes.String, iceberg: iceberg.PrimitiveTypes.String},
	Dict:     {clickhouse: "LowCardinality(String)", arrow: dictType, iceberg: iceberg.PrimitiveTypes.String},
	DictJSON: {clickhouse: "LowCardinality(String)", arrow: dictType, iceberg: iceberg.PrimitiveTypes.String},
	Int32:    {clickhouse: "Int32", arrow: arrow.PrimitiveTypes.Int32, iceberg: iceberg.PrimitiveTypes.Int32},
	Int64:    {clickhouse: "Int64", arrow: arrow.PrimitiveTypes.Int64, iceberg: iceberg.PrimitiveTypes.Int64},
	Uint32:   {clickhouse: "UInt32", arrow: arrow.PrimitiveTypes.Uint32, iceberg: iceberg.PrimitiveTypes.Int32},
	Uint64:   {clickhouse: "UInt64", arrow: arrow.PrimitiveTypes.Uint64, iceberg: iceberg.PrimitiveTypes.Int64},
	Double:   {clickhouse: "Float64", arrow: arrow.PrimitiveTypes.Float64, iceberg: iceberg.PrimitiveTypes.Float64},
	Bool:     {clickhouse: "Bool", arrow: arrow.FixedWidthTypes.Boolean, iceberg: iceberg.PrimitiveTypes.Bool},
	Time:     {clickhouse: "DateTime64(9, 'UTC')", arrow: nanoType, iceberg: iceberg.PrimitiveTypes.TimestampTz},
	Fixed8:   {clickhouse: "FixedString(8)", arrow: fixed8Type, iceberg: iceberg.FixedTypeOf(8)},
	Fixed16:  {clickhouse: "FixedString(16)", arrow: fixed16Typ, iceberg: iceberg.FixedTypeOf(16)},
	Bytes:    {clickhouse: "String", arrow: arrow.BinaryTypes.Binary, iceberg: iceberg.PrimitiveTypes.Binary},

	MapText:   {elem: Text, isMap: true},
	MapInt:    {elem: Int64, isMap: true},
	MapDouble: {elem: Double, isMap: true},
	MapBool:   {elem: Bool, isMap: true},
	MapJSON:   {elem: Text, isMap: true},

	ListText:    {elem: Text},
	ListDict:    {elem: Dict},
	ListJSON:    {elem: Text},
	ListInt64:   {elem: Int64},
	ListUint32:  {elem: Uint32},
	ListUint64:  {elem: Uint64},
	ListDouble:  {elem: Double},
	ListTime:    {elem: Time},
	ListFixed8:  {elem: Fixed8},
	ListFixed16: {elem: Fixed16},
}

// IsMap tells whether values are maps from text to Elem.
func (k Kind) IsMap() bool { return kinds[k].isMap }

// IsList tells whether values are lists of Elem.
func (k Kind) IsList() bool { return kinds[k].elem != 0 && !kinds[k].isMap }

// Elem is the kind of a list's elements or of a map's values; 0 for any other kind.
func (k Kind) Elem() Kind { return kinds[k].elem }

// ClickHouse is the column's type in ClickHouse.
func (k Kind) ClickHouse() string {
	switch {
	case k.IsMap():
		return "Map(LowCardinality(String), " + k.Elem().ClickHouse() + ")"
	case k.IsList():
		return "Array(" + k.Elem().ClickHouse() + ")"
	}
	return kinds[k].clickhouse
}

// Arrow is the column's type in a Builder's batch.
func (k Kind) Arrow() arrow.DataType {
	switch {
	case k.IsMap():
		return arrow.MapOfFields(arrow.Field{Name: "key", Type: dictType}, arrow.Field{Name: "value", Type: k.Elem().Arrow()})
	case k.IsList():
		return arrow.ListOfNonNullable(k.Elem().Arrow())
	}
	return kinds[k].arrow
}

// Iceberg is the column's type in Iceberg, with field ids 0: the schema assigns them.
func (k Kind) Iceberg() iceberg.Type {
	switch {
	case k.IsMap():
		return &iceberg.MapType{KeyType: iceberg.PrimitiveTypes.String, ValueType: k.Elem().Iceberg(), ValueRequired: true}
	case k == ListTime:
		return &iceberg.ListType{Element: iceberg.PrimitiveTypes.Int64, ElementRequired: true}
	case k.IsList():
		return &iceberg.ListType{Element: k.Elem().Iceberg(), ElementRequired: true}
	}
	return kinds[k].iceberg
}
