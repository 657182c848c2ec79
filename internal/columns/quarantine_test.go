package columns_test

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/quarantine"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

var quarantineTables = []*columns.Table{columns.Quarantine, columns.QuarantinePII}

func TestQuarantineTablesAreWhatTestdataHolds(t *testing.T) {
	for _, tab := range quarantineTables {
		golden(t, filepath.Join("testdata", tab.Name+".sql"), strings.Join(tab.ClickHouseDDL(columns.DDLOptions{Database: "pulsegrid", TTLDays: 30}), ";\n\n")+";\n")
		spec, err := tab.IcebergPartitionSpec(4)
		require.NoError(t, err)
		order, err := tab.IcebergSortOrder()
		require.NoError(t, err)
		text, err := json.MarshalIndent(map[string]any{
			"schema": tab.IcebergSchema(), "partition-spec": spec, "sort-order": order, "properties": tab.IcebergProperties(),
		}, "", "  ")
		require.NoError(t, err)
		golden(t, filepath.Join("testdata", tab.Name+".iceberg.json"), string(text)+"\n")
		require.Empty(t, tab.Rollups())
	}
}

func TestDocsListTheColumnsOfTheQuarantine(t *testing.T) {
	part := columnTable(columns.Quarantine)
	require.Equal(t, part, columnTable(columns.QuarantinePII), "both tables have the same columns")
	goldenPart(t, filepath.Join(docsDir, "quarantine.md"), part)
}

// item makes a log record of a record of the quarantine topic, as the mskreceiver does.
func item(ld plog.Logs, offset int64, body string, headers ...string) {
	r := &kgo.Record{Key: []byte("agent-7"), Value: []byte(body), Timestamp: time.Unix(1795428100, 7), Offset: offset}
	for i := 0; i < len(headers); i += 2 {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: headers[i], Value: []byte(headers[i+1])})
	}
	rl := ld.ResourceLogs().AppendEmpty()
	lineage.StampResource(rl.Resource().Attributes(), lineage.Origin{
		Tenant: "acme", Source: "agent-7", Received: time.Unix(1795428000, 42), Topic: signal.QuarantineTopic, Partition: 2,
	})
	lr := rl.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	quarantine.ToLog(r, lr)
	lineage.StampEvent(lr.Attributes(), lineage.Event{ID: quarantine.FromRecord(r).ID(), Offset: offset})
}

const findings = `[{"event":0,"verdicts":[{"code":"attribute_type","path":"a","expected":"int","got":"string","schema":"event.order","version":"1.2.0"}]}]`

// column is a column's values as text.
func column(rec arrow.RecordBatch, name string) (out []string) {
	col := rec.Column(rec.Schema().FieldIndices(name)[0])
	for i := range col.Len() {
		if b, ok := col.(*array.Binary); ok {
			out = append(out, string(b.Value(i)))
		} else {
			out = append(out, col.ValueStr(i))
		}
	}
	return out
}

// Guarantee: every item is in exactly one of the tables, and what no schema has called free of personal data is in quarantine_pii.
func TestAnItemIsInTheTableOfItsRights(t *testing.T) {
	ld := plog.NewLogs()
	item(ld, 0, "plain", envelope.HeaderFindings, findings)
	item(ld, 1, "marked", envelope.HeaderFindings, findings, envelope.HeaderPII, "true")
	item(ld, 2, "refused by a store", envelope.HeaderQuarantineCode, "refused", envelope.HeaderOriginTopic, "otlp.logs.v1")
	item(ld, 3, "of another program")
	item(ld, 4, "findings nobody can read", envelope.HeaderFindings, "{")
	item(ld, 5, "findings and an origin", envelope.HeaderFindings, findings, envelope.HeaderOriginTopic, "otlp.logs.v1")
	var all [][]string
	for _, tab := range quarantineTables {
		b := columns.NewBuilder(checkedMemory(t), tab)
		require.NoError(t, b.AppendLogs(ld))
		rec := b.NewRecordBatch()
		all = append(all, column(rec, "body"))
		for _, pii := range column(rec, "pii") {
			require.Equal(t, tab == columns.QuarantinePII, pii == "true")
		}
		rec.Release()
		b.Release()
	}
	require.Equal(t, [][]string{{"plain"}, {"marked", "refused by a store", "of another program", "findings nobody can read", "findings and an origin"}}, all)
}

// Guarantee: the lake's view of an item holds what the record said, the body byte for byte.
func TestEveryHeaderOfAnItemIsInItsRow(t *testing.T) {
	mem := checkedMemory(t)
	body := "\x00\xff\xfe not UTF-8 \n\x80"
	ld := plog.NewLogs()
	item(ld, 9, body,
		envelope.HeaderTenant, "acme", envelope.HeaderSignal, "traces", envelope.HeaderEvents, "3", envelope.HeaderGateway, "gw-1", envelope.HeaderSchemaVersion, "r7",
		envelope.HeaderQuarantineCode, "attribute_type", envelope.HeaderQuarantineReason, "why", envelope.HeaderFindings, findings, envelope.HeaderSource, "agent-7, whole",
		envelope.HeaderContentType, envelope.TypeOTLP, envelope.HeaderContentEncoding, "zstd", envelope.HeaderObject, "s3://b/pii/o", envelope.HeaderPII, "true",
		envelope.HeaderOriginTopic, "otlp.traces.v1", envelope.HeaderOriginPartition, "5", envelope.HeaderOriginOffset, "77", envelope.HeaderOriginGroup, "hot")
	b := columns.NewBuilder(mem, columns.QuarantinePII)
	defer b.Release()
	require.NoError(t, b.AppendLogs(ld))
	rec := b.NewRecordBatch()
	defer rec.Release()
	view, err := columns.QuarantinePII.IcebergView(columns.QuarantinePII.IcebergSchema())
	require.NoError(t, err)
	lake, err := view.Convert(mem, rec)
	require.NoError(t, err)
	defer lake.Release()
	for name, want := range map[string]string{
		"tenant_id": "acme", "signal": "traces", "source": "agent-7, whole", "gateway": "gw-1", "code": "attribute_type", "reason": "why", "verdicts": findings,
		"schema": "event.order", "schema_version": "1.2.0", "registry_version": "r7", "pii": "true", "events": "3", "content_type": envelope.TypeOTLP,
		"content_encoding": "zstd", "object": "s3://b/pii/o", "body": body, "origin_topic": "otlp.traces.v1", "origin_partition": "5", "origin_offset": "77",
		"origin_group": "hot", "kafka_topic": signal.QuarantineTopic, "kafka_partition": "2", "kafka_offset": "9", "event_index": "0",
		"time_nanos": "7", "ingest_time_nanos": "42",
	} {
		require.Equal(t, []string{want}, column(lake, name), name)
	}
}

func TestOnlyLogsBecomeItems(t *testing.T) {
	_, err := columns.ForRows(columns.RowsQuarantine, signal.Traces)
	require.ErrorContains(t, err, "in a pipeline of logs, not of traces")
	_, err = columns.ForRows("poison", signal.Logs)
	require.ErrorContains(t, err, `rows "poison": want events, quarantine or quarantine_pii`)
	b := columns.NewBuilder(checkedMemory(t), columns.Quarantine)
	defer b.Release()
	require.Error(t, b.AppendMetrics(pmetric.NewMetrics()))
}
