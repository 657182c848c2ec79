package columns

import (
	"fmt"
	"math"

	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/quarantine"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// What the rows of an exporter are: values of its key `rows`.
const (
	RowsEvents        = "events"
	RowsQuarantine    = "quarantine"     // items of the quarantine topic without personal data
	RowsQuarantinePII = "quarantine_pii" // the others: a table of its own, so that it has rights of its own
)

// The tables of the quarantine. Each takes its own items of what both are given, so no item is in neither and none in both.
var (
	Quarantine    = newQuarantineTable(RowsQuarantine, false)
	QuarantinePII = newQuarantineTable(RowsQuarantinePII, true)
)

// ForRows returns the table that an exporter fills with data of a signal.
func ForRows(rows string, s signal.Signal) (*Table, error) {
	if rows == RowsEvents {
		return ForSignal(s), nil
	}
	if s != signal.Logs {
		return nil, fmt.Errorf("rows %q come in a pipeline of logs, not of %s", rows, s)
	}
	switch rows {
	case RowsQuarantine:
		return Quarantine, nil
	case RowsQuarantinePII:
		return QuarantinePII, nil
	}
	return nil, fmt.Errorf("rows %q: want %s, %s or %s", rows, RowsEvents, RowsQuarantine, RowsQuarantinePII)
}

func newQuarantineTable(name string, pii bool) *Table {
	t := &Table{Name: name, Signal: signal.Logs, order: []string{"tenant_id", "code", "time"}, items: true, pii: pii, Columns: quarantineColumns()}
	return t.define()
}

func quarantineColumns() []Column {
	return []Column{
		{Name: "tenant_id", Kind: Dict, Doc: "tenant that sent it"},
		{Name: "code", Kind: Dict, Doc: "why, for programs: code of the first verdict, or of the refusal; empty where the record does not say"},
		{Name: "time", Kind: Time, Codec: codecTime, Doc: "when it went to quarantine: when Kafka appended it"},
		{Name: "ingest_time", Kind: Time, Codec: codecTime, Doc: "when the gateway had read the request; equal to time where nobody knows. Partitions and retention go by it"},
		{Name: "event_id", Kind: Fixed16, Codec: codecNone, Doc: "identity of the item for deduplication, 16 raw bytes: a hash of what it is and who sent it"},
		{Name: "signal", Kind: Dict, Doc: "logs, metrics or traces; empty where it is not known"},
		{Name: "source", Kind: Text, Doc: "agent or resource that sent it; empty where it is not known"},
		{Name: "gateway", Kind: Dict, Doc: "service.instance.id of the gateway that took it"},
		{Name: "reason", Kind: Text, Doc: "why, for people"},
		{Name: "schema", Kind: Dict, Doc: "id of the schema of the first verdict; empty where it is of no schema"},
		{Name: "schema_version", Kind: Dict, Doc: "version of that schema"},
		{Name: "registry_version", Kind: Dict, Doc: "version of the registry that the gateway held it against"},
		{Name: "verdicts", Kind: Text, Doc: "every verdict on every event of the item, as JSON (verdicts.md); empty where a store or the decoder refused it"},
		{Name: "pii", Kind: Bool, Doc: "whether it holds personal data, or nobody knows what it holds; the same in every row of a table"},
		{Name: "events", Kind: Int64, Doc: "events in the body; 0 where they cannot be counted"},
		{Name: "content_type", Kind: Dict, Doc: "of the body: application/x-protobuf is an OTLP request of just the events at fault; else what the sender said"},
		{Name: "content_encoding", Kind: Dict, Doc: "how the body is compressed; empty: it is not"},
		{Name: "object", Kind: Text, Doc: "URL of the object that holds the body where it is too large for a record; the body is empty then"},
		{Name: "body", Kind: Bytes, Doc: "the original bytes"},
		{Name: "origin_topic", Kind: Dict, Doc: "topic of the record that an aggregator put into quarantine; empty: the gateway did"},
		{Name: "origin_partition", Kind: Int32, Doc: "its partition; -1 where there is none"},
		{Name: "origin_offset", Kind: Int64, Doc: "its offset; -1 where there is none"},
		{Name: "origin_group", Kind: Dict, Doc: "consumer group whose store refused it"},
		{Name: "kafka_topic", Kind: Dict, Doc: "lineage: the quarantine topic; empty where the item did not come through Kafka"},
		{Name: "kafka_partition", Kind: Int32, Doc: "lineage: partition; -1 where there is none"},
		{Name: "kafka_offset", Kind: Int64, Codec: codecDelta, Doc: "lineage: offset of the record; -1 where there is none"},
		{Name: "event_index", Kind: Int32, Doc: "lineage: 0, since a record is one item; -1 where there is no record"},
	}
}

// itemCols are the columns of a table of the quarantine.
type itemCols struct {
	tenant, code, signal, gateway             *dictCol
	schema, schemaVersion, registryVersion    *dictCol
	contentType, contentEncoding, originTopic *dictCol
	originGroup, topic                        *dictCol
	source, reason, verdicts, object          *textCol
	body                                      *bytesCol
	pii                                       *boolCol
	id                                        *fixedCol
	time, ingest, events                      *numCol[int64]
	originOffset, offset                      *numCol[int64]
	originPartition, partition, index         *numCol[int32]
}

func newItemCols(b *Builder) *itemCols {
	dict, text := col[*dictCol], col[*textCol]
	i64, i32 := col[*numCol[int64]], col[*numCol[int32]]
	return &itemCols{
		tenant: dict(b, "tenant_id"), code: dict(b, "code"), signal: dict(b, "signal"), gateway: dict(b, "gateway"),
		schema: dict(b, "schema"), schemaVersion: dict(b, "schema_version"), registryVersion: dict(b, "registry_version"),
		contentType: dict(b, "content_type"), contentEncoding: dict(b, "content_encoding"), originTopic: dict(b, "origin_topic"),
		originGroup: dict(b, "origin_group"), topic: dict(b, "kafka_topic"),
		source: text(b, "source"), reason: text(b, "reason"), verdicts: text(b, "verdicts"), object: text(b, "object"),
		body: col[*bytesCol](b, "body"), pii: col[*boolCol](b, "pii"), id: col[*fixedCol](b, "event_id"),
		time: i64(b, "time"), ingest: i64(b, "ingest_time"), events: i64(b, "events"),
		originOffset: i64(b, "origin_offset"), offset: i64(b, "kafka_offset"),
		originPartition: i32(b, "origin_partition"), partition: i32(b, "kafka_partition"), index: i32(b, "event_index"),
	}
}

// appendItems appends a row for every item of ld that belongs into the table.
func (b *Builder) appendItems(ld plog.Logs) {
	for _, rl := range ld.ResourceLogs().All() {
		o, stamped := lineage.ReadResource(rl.Resource().Attributes())
		if !stamped {
			o = lineage.Origin{Tenant: b.defaultTenant, Received: b.now(), Partition: -1}
		}
		for _, sl := range rl.ScopeLogs().All() {
			for _, lr := range sl.LogRecords().All() {
				if item := quarantine.FromLog(lr); item.Personal() == b.table.pii {
					b.appendItem(o, lr, item)
				}
			}
		}
	}
}

func (b *Builder) appendItem(o lineage.Origin, lr plog.LogRecord, i quarantine.Item) {
	if i.Source == "" {
		i.Source = o.Source
	}
	ev, stamped := lineage.ReadEvent(lr.Attributes())
	if !stamped {
		ev = lineage.Event{ID: i.ID(), Offset: -1, Index: -1}
	}
	at := o.Received.UnixNano()
	if ts := lr.Timestamp(); ts != 0 {
		at = clampTime(ts)
	}
	schema, version := i.Schema()

	c := b.item
	c.tenant.push(o.Tenant)
	c.code.push(i.Code)
	c.time.push(at)
	c.ingest.push(o.Received.UnixNano())
	c.id.push(ev.ID[:])
	c.signal.push(i.Signal)
	c.source.push(i.Source)
	c.gateway.push(i.Gateway)
	c.reason.push(i.Reason)
	c.schema.push(schema)
	c.schemaVersion.push(version)
	c.registryVersion.push(i.RegistryVersion)
	c.verdicts.push(i.Verdicts)
	c.pii.push(i.Personal())
	c.events.push(int64(min(i.Events, math.MaxInt32)))
	c.contentType.push(i.ContentType)
	c.contentEncoding.push(i.ContentEncoding)
	c.object.push(i.Object)
	c.body.pushBytes(i.Body)
	c.originTopic.push(i.OriginTopic)
	c.originPartition.push(i.OriginPartition)
	c.originOffset.push(i.OriginOffset)
	c.originGroup.push(i.OriginGroup)
	c.topic.push(o.Topic)
	c.partition.push(o.Partition)
	c.offset.push(ev.Offset)
	c.index.push(ev.Index)
	b.rows++
}
