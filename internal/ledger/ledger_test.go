package ledger_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"
	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

func entry() ledger.Entry {
	b := block.Block{Topic: "otlp.logs.v1", TopicID: block.TopicID{1, 2}, Partition: 3, First: 10, Last: 19, Signal: signal.Logs, Events: 100, Account: &block.Account{}}
	b.Account.Add(11, block.Tally{Duplicates: 7})
	b.Account.Add(19, block.Tally{Quarantined: 2})
	return ledger.Of(b, 93, 1<<63+5, time.UnixMilli(1_700_000_000_123))
}

func TestBatchOfBothStoresHoldsTheEntry(t *testing.T) {
	mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
	defer mem.AssertSize(t, 0)
	lakeSchema, err := table.SchemaToArrowSchema(ledger.IcebergSchema(), nil, true, false)
	require.NoError(t, err)

	hot := ledger.NewRecordBatch(mem, []ledger.Entry{entry()})
	defer hot.Release()
	lake := ledger.NewIcebergBatch(mem, lakeSchema, []ledger.Entry{entry()})
	defer lake.Release()

	want := []string{"otlp.logs.v1", "3", "10", "19", "logs", "100", "7", "2", "93"}
	for i, w := range want {
		require.Equal(t, w, hot.Column(i).ValueStr(0), hot.ColumnName(i))
		require.Equal(t, w, lake.Column(i).ValueStr(0), lake.ColumnName(i))
	}
	require.Equal(t, uint64(1<<63+5), hot.Column(9).(*array.Uint64).Value(0))
	require.Equal(t, int64(-1<<63+5), lake.Column(9).(*array.Int64).Value(0), "two's complement")
	require.Equal(t, "2023-11-14T22:13:20.123Z", hot.Column(10).ValueStr(0))
	require.True(t, strings.HasPrefix(lake.Column(10).ValueStr(0), "2023-11-14T22:13:20.123"), lake.Column(10).ValueStr(0))
	require.Equal(t, "AQIAAAAAAAAAAAAAAAAAAA", hot.Column(11).ValueStr(0))
	require.Equal(t, "AQIAAAAAAAAAAAAAAAAAAA", lake.Column(11).ValueStr(0))
}

func TestATopicWithoutAnIDIsAnEmptyText(t *testing.T) {
	e := entry()
	e.TopicID = block.TopicID{}
	b := ledger.NewRecordBatch(memory.NewGoAllocator(), []ledger.Entry{e})
	defer b.Release()
	require.Equal(t, "", b.Column(11).(*array.String).Value(0))
}

func TestColumnsThatAreNotOursAreNull(t *testing.T) {
	mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
	defer mem.AssertSize(t, 0)
	fields := ledger.IcebergSchema().Fields()
	n := len(fields) + 1
	added := append([]iceberg.NestedField{
		{ID: n, Name: "note", Type: iceberg.PrimitiveTypes.String},
		{ID: n + 1, Name: "tags", Type: &iceberg.MapType{KeyID: n + 2, KeyType: iceberg.PrimitiveTypes.String, ValueID: n + 3, ValueType: iceberg.PrimitiveTypes.Int32}},
	}, fields...)
	sc, err := table.SchemaToArrowSchema(iceberg.NewSchema(1, added...), nil, true, false)
	require.NoError(t, err)
	b := ledger.NewIcebergBatch(mem, sc, []ledger.Entry{entry(), entry()})
	defer b.Release()
	require.Equal(t, 2, b.Column(0).NullN())
	require.Equal(t, 2, b.Column(1).NullN())
	require.Equal(t, "otlp.logs.v1", b.Column(2).ValueStr(1))
}

func TestClickHouseDDLReplacesEntriesWrittenTwice(t *testing.T) {
	ddl := ledger.ClickHouseDDL(ledger.Name, columns.DDLOptions{Database: "pulsegrid", Engine: "ReplicatedMergeTree('/t/{table}', '{replica}')", Cluster: "c", TTLDays: 30})
	require.Contains(t, ddl, "CREATE TABLE IF NOT EXISTS `pulsegrid`.`ledger` ON CLUSTER `c`")
	require.Contains(t, ddl, "ENGINE = ReplicatedReplacingMergeTree('/t/{table}', '{replica}', written_time)")
	require.Contains(t, ddl, "TTL toDateTime(written_time) + INTERVAL 30 DAY\nSETTINGS merge_selector_base = 16")
	require.Contains(t, ddl, "ORDER BY (kafka_topic, kafka_partition, first_offset, last_offset, topic_id)", "entries of two topics of one name are not one")
}

var update = flag.Bool("update", false, "write the generated part of docs/formats/ledger.md")

func TestDocsListTheColumns(t *testing.T) {
	const (
		path  = "../../docs/formats/ledger.md"
		begin = "<!-- generated from internal/ledger: `go generate ./internal/ledger` -->\n"
		end   = "<!-- end of the generated part -->\n"
	)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	head, rest, ok := strings.Cut(string(text), begin)
	require.True(t, ok)
	_, tail, ok := strings.Cut(rest, end)
	require.True(t, ok)

	part := "\n| column | ClickHouse | Iceberg (field id) | meaning |\n|---|---|---|---|\n"
	for _, c := range ledger.ClickHouseColumns() {
		lake := "-"
		if f, ok := ledger.IcebergSchema().FindFieldByName(c.Name); ok {
			lake = fmt.Sprintf("%s (%d)", f.Type, f.ID)
		}
		part += fmt.Sprintf("| `%s` | `%s` | %s | %s |\n", c.Name, c.Type, lake, c.Doc)
	}
	want := head + begin + part + "\n" + end + tail
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(want), 0o644))
		return
	}
	require.Equal(t, want, string(text), "run `go generate ./internal/ledger`, and say in the change how tables that exist are migrated")
}
