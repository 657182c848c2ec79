// Package ledger is the record of what became of each block, which both stores keep beside their rows: so many events came in, so many
// were duplicates or went to quarantine, so many became rows, and their ids have this sum. The audit compares it with Kafka and with
// the rows. A block has one entry in a store; one that is written twice (a retry) is the same entry, told by its range.
//
// The columns in docs/formats/ledger.md are generated from the definition here.
package ledger

//go:generate go test -run Docs -update .

import (
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/iceberg-go"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Name of the table, in both stores.
const Name = "ledger"

// NameFor is the table for what is not events (columns.Rows...): the same records become rows of another table, whose blocks have the
// same names, so it has a ledger of its own.
func NameFor(rows string) string {
	if rows == columns.RowsEvents {
		return Name
	}
	return Name + "_" + rows
}

// Entry is one block's. Events = Duplicates + Rows + what other processors of the pipeline removed; Quarantined comes on top.
type Entry struct {
	Topic       string
	Partition   int32
	First, Last int64 // offsets, inclusive
	Signal      signal.Signal
	Events      int64     // events that were decoded from the block
	Duplicates  int64     // of these, removed by dedupe
	Quarantined int64     // events in the block's records that went to quarantine; 0 for records whose events cannot be counted
	Rows        int64     // rows that the store has of the block
	IDSum       uint64    // IDSum over the rows' event ids
	Written     time.Time // when the entry was made; milliseconds count
	TopicID     block.TopicID
}

// Of begins the entry of a block that a store has taken.
func Of(b block.Block, rows int64, idSum uint64, now time.Time) Entry {
	e := Entry{
		Topic: b.Topic, Partition: b.Partition, First: b.First, Last: b.Last, Signal: b.Signal,
		Events: int64(b.Events), Rows: rows, IDSum: idSum, Written: now, TopicID: b.TopicID,
	}
	if b.Account != nil {
		all := b.Account.Within(b.First, b.Last)
		e.Duplicates, e.Quarantined = all.Duplicates, all.Quarantined
	}
	return e
}

// topicID is the value of the column topic_id.
func (e Entry) topicID() string {
	if e.TopicID == (block.TopicID{}) {
		return ""
	}
	return e.TopicID.String()
}

// IDSum is what an event id adds to a sum: its first eight bytes, little endian. Sums are modulo 2^64. In ClickHouse:
// sum(reinterpretAsUInt64(substring(event_id, 1, 8))).
func IDSum(id []byte) uint64 { return binary.LittleEndian.Uint64(id) }

// column is the definition that everything below is made of.
type column struct {
	name, doc  string
	clickhouse string
	iceberg    iceberg.PrimitiveType
	arrow      arrow.DataType
}

var fields = []column{
	{"kafka_topic", "topic of the block", "LowCardinality(String)", iceberg.PrimitiveTypes.String, arrow.BinaryTypes.String},
	{"kafka_partition", "partition of the block", "Int32", iceberg.PrimitiveTypes.Int32, arrow.PrimitiveTypes.Int32},
	{"first_offset", "first offset of the block: the one after the block before it", "Int64", iceberg.PrimitiveTypes.Int64, arrow.PrimitiveTypes.Int64},
	{"last_offset", "last offset of the block, inclusive", "Int64", iceberg.PrimitiveTypes.Int64, arrow.PrimitiveTypes.Int64},
	{"signal", "logs, metrics or traces", "LowCardinality(String)", iceberg.PrimitiveTypes.String, arrow.BinaryTypes.String},
	{"events", "events that were decoded from the block", "Int64", iceberg.PrimitiveTypes.Int64, arrow.PrimitiveTypes.Int64},
	{"duplicates", "of these, duplicates that were removed", "Int64", iceberg.PrimitiveTypes.Int64, arrow.PrimitiveTypes.Int64},
	{"quarantined", "events of records that went to quarantine", "Int64", iceberg.PrimitiveTypes.Int64, arrow.PrimitiveTypes.Int64},
	{"rows", "rows that the table of the signal has of the block", "Int64", iceberg.PrimitiveTypes.Int64, arrow.PrimitiveTypes.Int64},
	{"id_sum", "sum modulo 2^64 of the first eight bytes, little endian, of event_id over the rows; in Iceberg as two's complement", "UInt64", iceberg.PrimitiveTypes.Int64, arrow.PrimitiveTypes.Uint64},
	{"written_time", "when the entry was made", "DateTime64(3, 'UTC')", iceberg.PrimitiveTypes.TimestampTz, &arrow.TimestampType{Unit: arrow.Millisecond, TimeZone: "UTC"}},
	{"topic_id", "Kafka's id of the topic, as its tools print it: a topic that was deleted and made anew under its name has another one; empty: not known", "LowCardinality(String)", iceberg.PrimitiveTypes.String, arrow.BinaryTypes.String},
}

// ArrowSchema is the schema of NewRecordBatch. ClickHouse takes such a batch as it is (ArrowStream); Iceberg wants id_sum as an int64
// and written_time in microseconds (NewIcebergBatch).
func ArrowSchema() *arrow.Schema {
	out := make([]arrow.Field, len(fields))
	for i, c := range fields {
		out[i] = arrow.Field{Name: c.name, Type: c.arrow}
	}
	return arrow.NewSchema(out, nil)
}

// NewRecordBatch makes one row of each entry. The caller releases it.
func NewRecordBatch(mem memory.Allocator, entries []Entry) arrow.RecordBatch {
	return newBatch(mem, ArrowSchema(), entries)
}

// IcebergSchema is the schema to create the table with.
func IcebergSchema() *iceberg.Schema {
	var out []iceberg.NestedField
	for i, c := range fields {
		out = append(out, iceberg.NestedField{ID: i + 1, Name: c.name, Type: c.iceberg, Required: true, Doc: c.doc})
	}
	return iceberg.NewSchema(0, out...)
}

// NewIcebergBatch makes one row of each entry with the given schema, which is the loaded table's as Arrow (its field ids are in the
// fields' metadata). A column that is not of IcebergSchema is null: it must be optional. The caller releases it.
func NewIcebergBatch(mem memory.Allocator, sc *arrow.Schema, entries []Entry) arrow.RecordBatch {
	return newBatch(mem, sc, entries)
}

func newBatch(mem memory.Allocator, sc *arrow.Schema, entries []Entry) arrow.RecordBatch {
	b := array.NewRecordBuilder(mem, sc)
	defer b.Release()
	for _, e := range entries {
		values := map[string]any{
			"kafka_topic": e.Topic, "kafka_partition": e.Partition, "first_offset": e.First, "last_offset": e.Last, "signal": e.Signal.String(),
			"events": e.Events, "duplicates": e.Duplicates, "quarantined": e.Quarantined, "rows": e.Rows, "id_sum": e.IDSum, "written_time": e.Written,
			"topic_id": e.topicID(),
		}
		for i, f := range sc.Fields() {
			appendValue(b.Field(i), values[f.Name])
		}
	}
	return b.NewRecordBatch()
}

func appendValue(to array.Builder, v any) {
	if v == nil { // not a column of ours
		to.AppendNull()
		return
	}
	switch f := to.(type) {
	case *array.StringBuilder:
		f.Append(v.(string))
	case *array.LargeStringBuilder:
		f.Append(v.(string))
	case *array.Int32Builder:
		f.Append(v.(int32))
	case *array.Int64Builder:
		if sum, ok := v.(uint64); ok {
			f.Append(int64(sum))
		} else {
			f.Append(v.(int64))
		}
	case *array.Uint64Builder:
		f.Append(v.(uint64))
	case *array.TimestampBuilder:
		f.AppendTime(v.(time.Time))
	default:
		panic(fmt.Sprintf("ledger: no value of type %s", to.Type())) // the definition is at fault
	}
}

// ClickHouseDDL returns the statement that creates the table. Entries that are written twice become one when parts merge: read the
// table with FINAL. o.Engine is that of the rows' tables; o.TTLDays counts from written_time.
func ClickHouseDDL(name string, o columns.DDLOptions) string {
	var b strings.Builder
	fmt.Fprintf(&b, "CREATE TABLE IF NOT EXISTS %s\n(\n", o.Table(name))
	for _, c := range ClickHouseColumns() {
		fmt.Fprintf(&b, "    %s,\n", c.DDL)
	}
	// An owner that redoes a block asks how many entries are younger than the block.
	b.WriteString("    INDEX idx_written written_time TYPE minmax GRANULARITY 1,\n    INDEX idx_last last_offset TYPE minmax GRANULARITY 1\n)\n")
	fmt.Fprintf(&b, "ENGINE = %s\nORDER BY %s", columns.EngineOf("Replacing", o.Engine, "written_time"), ClickHouseKey)
	if o.TTLDays > 0 {
		fmt.Fprintf(&b, "\nTTL toDateTime(written_time) + INTERVAL %d DAY", o.TTLDays)
	}
	b.WriteString("\nSETTINGS " + columns.FewerMerges)
	return b.String()
}

// ClickHouseKey is the key by which entries that are written twice become one. An older table that gets the column topic_id gets it
// into its key with the same ALTER; later that is not possible.
const ClickHouseKey = "(kafka_topic, kafka_partition, first_offset, last_offset, topic_id)"

// ClickHouseColumns are the table's columns in ClickHouse, in their order.
func ClickHouseColumns() []columns.ClickHouseColumn {
	out := make([]columns.ClickHouseColumn, len(fields))
	for i, c := range fields {
		out[i] = columns.NewClickHouseColumn(c.name, c.clickhouse, c.doc, "")
	}
	return out
}
