package lakereaders

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/quarantine"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// generator makes blocks of events. What a field holds in a block is one thing throughout (its habit): all empty, one value, a few,
// long texts, NaN and so on, because statistics go wrong where a row group, or a part of one, holds nothing but one kind of value.
type generator struct {
	*rand.Rand
	habits map[string]int // of the current block, by field
}

func newGenerator(seed uint64) *generator {
	return &generator{Rand: rand.New(rand.NewPCG(seed, 0))}
}

// block begins a block: every field gets a new habit.
func (g *generator) block() { g.habits = map[string]int{} }

func (g *generator) habit(field string, n int) int {
	h, ok := g.habits[field]
	if !ok {
		h = g.IntN(n)
		g.habits[field] = h
	}
	return h
}

func pick[T any](g *generator, from ...T) T { return from[g.IntN(len(from))] }

// longText is longer than the 4096 bytes up to which arrow-go writes a minimum or maximum.
var longText = strings.Repeat("long text ", 500)

func (g *generator) text(field string) string {
	switch g.habit(field, 8) {
	case 0:
		return ""
	case 1:
		return "the only value of " + field
	case 2:
		return pick(g, "", "a", "b", "checkout", "shop")
	case 3:
		return fmt.Sprintf("%08x", g.Uint32())
	case 4: // cut at 16 or 32 characters, these have ends that no character follows, or follows with a gap
		end := pick(g, "\U0010ffff", "\ud7ff", "\uffff", "\U00010000", "z")
		return strings.Repeat(pick(g, "p", end), pick(g, 1, 15, 31)) + strings.Repeat(end, 1+g.IntN(20))
	case 5:
		return pick(g, "", "\x00", "\x1b[2J\x07", "a\x00b", "tab\tline\n", " ", "\x7f", "é", "日本語", "'quoted' \"text\"", "%_\\")
	case 6:
		return pick(g, "bad\xff\xfeutf8", "\xc3", "ok", "\xed\xa0\x80")
	default:
		return pick(g, "A", "z", "") + pick(g, longText, "", longText+"z")
	}
}

func (g *generator) integer(field string) int64 {
	switch g.habit(field, 5) {
	case 0:
		return 0
	case 1:
		return 7
	case 2:
		return pick[int64](g, math.MinInt64, math.MaxInt64, 0, -1, 1)
	case 3:
		return int64(g.IntN(100)) - 50
	default:
		return int64(g.Uint64())
	}
}

func (g *generator) double(field string) float64 {
	switch g.habit(field, 7) {
	case 0:
		return 0
	case 1:
		return math.NaN()
	case 2:
		return pick(g, math.NaN(), 1, 2, 3)
	case 3:
		return pick(g, math.Copysign(0, -1), 0)
	case 4:
		return pick(g, math.Inf(1), math.Inf(-1), math.MaxFloat64, -math.MaxFloat64, math.SmallestNonzeroFloat64)
	case 5:
		return math.Copysign(0, -1)
	default:
		return g.NormFloat64()
	}
}

func (g *generator) boolean(field string) bool {
	switch g.habit(field, 3) {
	case 0:
		return false
	case 1:
		return true
	default:
		return g.IntN(2) == 0
	}
}

func (g *generator) time(field string) pcommon.Timestamp {
	switch g.habit(field, 5) {
	case 0:
		return 0
	case 1:
		return pcommon.NewTimestampFromTime(day)
	case 2:
		return pick[pcommon.Timestamp](g, 1, 999, 1000, 1001, math.MaxInt64, math.MaxUint64)
	case 3:
		return pcommon.NewTimestampFromTime(day.Add(time.Duration(g.IntN(1e9)) * time.Nanosecond))
	default:
		return pcommon.Timestamp(g.Int64())
	}
}

func (g *generator) bytes(field string, n int) []byte {
	b := make([]byte, n)
	switch h := g.habit(field, 4); h {
	case 0:
	case 1, 2:
		for i := range b {
			b[i] = byte(g.Uint32()) | byte(h-1)<<7 // above and below the sign bit
		}
	default:
		fill := pick[byte](g, 0, 0x7f, 0x80, 0xff)
		for i := range b {
			b[i] = fill
		}
	}
	return b
}

func (g *generator) traceID(field string) pcommon.TraceID { return pcommon.TraceID(g.bytes(field, 16)) }
func (g *generator) spanID(field string) pcommon.SpanID   { return pcommon.SpanID(g.bytes(field, 8)) }

// attributes sets every promoted attribute of a signal, and others of every type; each may be missing, or have a type that does not fit
// its column.
func (g *generator) attributes(m pcommon.Map, t *columns.Table) {
	for _, c := range t.Columns {
		if c.Promote == "" || g.habit(c.Name+"?", 4) == 0 {
			continue
		}
		switch {
		case g.IntN(20) == 0:
			m.PutBool(c.Promote, true)
		case c.Kind == columns.Int64:
			m.PutInt(c.Promote, g.integer(c.Name))
		default:
			m.PutStr(c.Promote, g.text(c.Name))
		}
	}
	if g.habit("attributes?", 3) == 0 {
		return
	}
	m.PutStr("t", g.text("attributes_string"))
	m.PutInt("i", g.integer("attributes_int"))
	m.PutDouble("d", g.double("attributes_double"))
	m.PutBool("b", g.boolean("attributes_bool"))
	m.PutEmpty("e")
}

// record is where an event lies in Kafka; its offset is the key of its row.
type record struct {
	topic     string
	partition int32
	offset    int64
}

func (g *generator) resource(res pcommon.Resource, r record) {
	if g.habit("service?", 3) != 0 {
		res.Attributes().PutStr("service.name", g.text("service_name"))
	}
	if g.habit("resource?", 3) != 0 {
		res.Attributes().PutStr("host.name", g.text("resource"))
	}
	res.SetDroppedAttributesCount(uint32(g.integer("resource_dropped_attributes_count")))
	lineage.StampResource(res.Attributes(), lineage.Origin{
		Tenant: pick(g, "acme", "acme-with-a-long-name-1", "acme-with-a-long-name-2", "zebra"), Source: "agent",
		Received: day.Add(time.Duration(g.habit("ingest_time", 2)*24) * time.Hour).Add(time.Duration(g.IntN(1e9))), Topic: r.topic, Partition: r.partition,
	})
}

func (g *generator) scope(s pcommon.InstrumentationScope) {
	s.SetName(g.text("scope_name"))
	s.SetVersion(g.text("scope_version"))
	s.SetDroppedAttributesCount(uint32(g.integer("scope_dropped_attributes_count")))
	if g.habit("scope?", 3) == 0 {
		s.Attributes().PutStr("k", g.text("scope_attributes"))
	}
}

func (g *generator) stamp(m pcommon.Map, r record) {
	lineage.StampEvent(m, lineage.Event{ID: [16]byte(g.bytes("event_id", 16)), Offset: r.offset, Index: int32(g.IntN(3))})
}

func (g *generator) logs(records []record) plog.Logs {
	ld := plog.NewLogs()
	for _, r := range records {
		rl := ld.ResourceLogs().AppendEmpty()
		g.resource(rl.Resource(), r)
		rl.SetSchemaUrl(g.text("resource_schema_url"))
		sl := rl.ScopeLogs().AppendEmpty()
		g.scope(sl.Scope())
		sl.SetSchemaUrl(g.text("scope_schema_url"))
		lr := sl.LogRecords().AppendEmpty()
		lr.SetTimestamp(g.time("time"))
		lr.SetObservedTimestamp(g.time("observed_time"))
		lr.SetSeverityNumber(plog.SeverityNumber(int32(g.integer("severity_number"))))
		lr.SetSeverityText(g.text("severity_text"))
		lr.SetEventName(g.text("event_name"))
		lr.SetTraceID(g.traceID("trace_id"))
		lr.SetSpanID(g.spanID("span_id"))
		lr.SetFlags(plog.LogRecordFlags(uint32(g.integer("flags"))))
		lr.SetDroppedAttributesCount(uint32(g.integer("dropped_attributes_count")))
		if g.habit("body?", 4) == 0 {
			lr.Body().SetDouble(g.double("body"))
		} else {
			lr.Body().SetStr(g.text("body"))
		}
		g.attributes(lr.Attributes(), columns.Logs)
		g.stamp(lr.Attributes(), r)
	}
	return ld
}

func (g *generator) traces(records []record) ptrace.Traces {
	td := ptrace.NewTraces()
	for _, r := range records {
		rs := td.ResourceSpans().AppendEmpty()
		g.resource(rs.Resource(), r)
		rs.SetSchemaUrl(g.text("resource_schema_url"))
		ss := rs.ScopeSpans().AppendEmpty()
		g.scope(ss.Scope())
		ss.SetSchemaUrl(g.text("scope_schema_url"))
		sp := ss.Spans().AppendEmpty()
		sp.SetTraceID(g.traceID("trace_id"))
		sp.SetSpanID(g.spanID("span_id"))
		sp.SetParentSpanID(g.spanID("parent_span_id"))
		sp.TraceState().FromRaw(g.text("trace_state"))
		sp.SetName(g.text("name"))
		sp.SetKind(ptrace.SpanKind(g.habit("kind", 7)))
		sp.SetStartTimestamp(g.time("time"))
		sp.SetEndTimestamp(g.time("end_time"))
		sp.Status().SetCode(ptrace.StatusCode(g.habit("status_code", 4)))
		sp.Status().SetMessage(g.text("status_message"))
		sp.SetFlags(uint32(g.integer("flags")))
		sp.SetDroppedAttributesCount(uint32(g.integer("dropped_attributes_count")))
		sp.SetDroppedEventsCount(uint32(g.integer("dropped_events_count")))
		sp.SetDroppedLinksCount(uint32(g.integer("dropped_links_count")))
		for range g.habit("events", 3) {
			e := sp.Events().AppendEmpty()
			e.SetName(g.text("events_name"))
			e.SetTimestamp(g.time("events_time"))
			l := sp.Links().AppendEmpty()
			l.SetTraceID(g.traceID("links_trace_id"))
			l.TraceState().FromRaw(g.text("links_trace_state"))
		}
		g.attributes(sp.Attributes(), columns.Spans)
		g.stamp(sp.Attributes(), r)
	}
	return td
}

func (g *generator) metrics(records []record) pmetric.Metrics {
	md := pmetric.NewMetrics()
	for _, r := range records {
		rm := md.ResourceMetrics().AppendEmpty()
		g.resource(rm.Resource(), r)
		rm.SetSchemaUrl(g.text("resource_schema_url"))
		sm := rm.ScopeMetrics().AppendEmpty()
		g.scope(sm.Scope())
		sm.SetSchemaUrl(g.text("scope_schema_url"))
		m := sm.Metrics().AppendEmpty()
		m.SetName(g.text("metric_name"))
		m.SetDescription(g.text("metric_description"))
		m.SetUnit(g.text("metric_unit"))
		if g.habit("metadata?", 2) == 0 {
			m.Metadata().PutStr("k", g.text("metric_metadata"))
		}
		g.point(m, r)
	}
	return md
}

func (g *generator) point(m pmetric.Metric, r record) {
	temporality := pmetric.AggregationTemporality(g.habit("temporality", 4))
	switch g.habit("metric_type", 5) {
	case 0:
		g.number(m.SetEmptyGauge().DataPoints().AppendEmpty(), r)
	case 1:
		m.SetEmptySum().SetIsMonotonic(g.boolean("is_monotonic"))
		m.Sum().SetAggregationTemporality(temporality)
		g.number(m.Sum().DataPoints().AppendEmpty(), r)
	case 2:
		m.SetEmptyHistogram().SetAggregationTemporality(temporality)
		p := m.Histogram().DataPoints().AppendEmpty()
		p.SetCount(uint64(g.integer("count")))
		if g.boolean("has_sum") {
			p.SetSum(g.double("sum"))
		}
		if g.boolean("has_min") {
			p.SetMin(g.double("min"))
			p.SetMax(g.double("max"))
		}
		for range g.habit("buckets", 3) {
			p.ExplicitBounds().Append(g.double("explicit_bounds"))
			p.BucketCounts().Append(uint64(g.integer("bucket_counts")))
		}
		g.anyPoint(p, r)
	case 3:
		m.SetEmptyExponentialHistogram().SetAggregationTemporality(temporality)
		p := m.ExponentialHistogram().DataPoints().AppendEmpty()
		p.SetCount(uint64(g.integer("count")))
		p.SetScale(int32(g.integer("scale")))
		p.SetZeroCount(uint64(g.integer("zero_count")))
		p.SetZeroThreshold(g.double("zero_threshold"))
		p.Positive().SetOffset(int32(g.integer("positive_offset")))
		p.Negative().SetOffset(int32(g.integer("negative_offset")))
		g.anyPoint(p, r)
	default:
		p := m.SetEmptySummary().DataPoints().AppendEmpty()
		p.SetCount(uint64(g.integer("count")))
		p.SetSum(g.double("sum"))
		g.anyPoint(p, r)
	}
}

func (g *generator) number(p pmetric.NumberDataPoint, r record) {
	switch g.habit("value_type", 3) {
	case 0:
		p.SetDoubleValue(g.double("value_double"))
	case 1:
		p.SetIntValue(g.integer("value_int"))
	}
	g.anyPoint(p, r)
}

func (g *generator) anyPoint(p interface {
	SetTimestamp(pcommon.Timestamp)
	SetStartTimestamp(pcommon.Timestamp)
	SetFlags(pmetric.DataPointFlags)
	Attributes() pcommon.Map
}, r record,
) {
	p.SetTimestamp(g.time("time"))
	p.SetStartTimestamp(g.time("start_time"))
	p.SetFlags(pmetric.DataPointFlags(uint32(g.integer("flags"))))
	g.attributes(p.Attributes(), columns.Metrics)
	g.stamp(p.Attributes(), r)
}

// items are what quarantine.v1 holds, for both of its tables.
func (g *generator) items(records []record) plog.Logs {
	ld := plog.NewLogs()
	for i, r := range records {
		plain := i == 0 // without personal data: neither table is empty
		kr := &kgo.Record{Value: g.bytes("body", pick(g, 0, 1, 5000)), Offset: r.offset, Timestamp: g.time("time").AsTime()}
		header := func(key, value string) {
			kr.Headers = append(kr.Headers, kgo.RecordHeader{Key: key, Value: []byte(value)})
		}
		for _, key := range []string{
			envelope.HeaderGateway, envelope.HeaderSchemaVersion, envelope.HeaderQuarantineCode, envelope.HeaderQuarantineReason, envelope.HeaderSource,
			envelope.HeaderContentType, envelope.HeaderContentEncoding, envelope.HeaderObject, envelope.HeaderOriginGroup,
		} {
			if g.habit(key+"?", 3) != 0 {
				header(key, g.text(key))
			}
		}
		header(envelope.HeaderSignal, pick(g, "logs", "traces"))
		header(envelope.HeaderPII, fmt.Sprint(g.IntN(2) == 0 && !plain))
		if g.habit("findings", 4) != 0 || plain {
			header(envelope.HeaderFindings, `[{"event":0,"verdicts":[{"code":"attribute_type","path":"a","schema":"s","version":"1"}]}]`)
		}
		if g.habit("origin", 3) == 0 && !plain {
			header(envelope.HeaderOriginTopic, signal.Logs.Topic())
			header(envelope.HeaderOriginPartition, fmt.Sprint(g.IntN(4)))
			header(envelope.HeaderOriginOffset, fmt.Sprint(g.IntN(1e6)))
		}
		rl := ld.ResourceLogs().AppendEmpty()
		g.resource(rl.Resource(), r)
		lr := rl.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
		quarantine.ToLog(kr, lr)
		lineage.StampEvent(lr.Attributes(), lineage.Event{ID: [16]byte(g.bytes("event_id", 16)), Offset: r.offset})
	}
	return ld
}
