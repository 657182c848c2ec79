package rows

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"go.opentelemetry.io/collector/pdata/xpdata"
	"go.opentelemetry.io/collector/pdata/xpdata/entity"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/columns/value"
	"github.com/pulsegrid/pulsegrid/internal/enriched"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// DecodeLogs turns every row of rec into a log record of its own resource and scope, in the order of the rows.
func DecodeLogs(t *columns.Table, rec arrow.RecordBatch) (plog.Logs, error) {
	ld, r := plog.NewLogs(), NewReader(t, rec)
	err := r.Each(func() { r.appendLog(ld) })
	return ld, err
}

// DecodeTraces is DecodeLogs for spans.
func DecodeTraces(t *columns.Table, rec arrow.RecordBatch) (ptrace.Traces, error) {
	td, r := ptrace.NewTraces(), NewReader(t, rec)
	err := r.Each(func() { r.appendSpan(td) })
	return td, err
}

// DecodeMetrics is DecodeLogs for data points: every row is a metric with one data point.
func DecodeMetrics(t *columns.Table, rec arrow.RecordBatch) (pmetric.Metrics, error) {
	md, r := pmetric.NewMetrics(), NewReader(t, rec)
	err := r.Each(func() { r.appendPoint(md) })
	return md, err
}

// Each calls f for every row, which then is the row at hand, and returns what could not be read.
func (r *Reader) Each(f func()) error {
	for r.row = range int(r.rec.NumRows()) {
		f()
	}
	return r.Err()
}

// Request makes row i the row at hand, and returns its event as an OTLP request that holds nothing else (protobuf), without the attributes that the aggregator
// has added (internal/enriched). The error says what of the row could not be read.
func (r *Reader) Request(i int) (req []byte, err error) {
	r.Seek(i)
	r.sent = true
	defer func() { r.sent = false }()
	switch r.table.Signal {
	case signal.Logs:
		ld := plog.NewLogs()
		r.appendLog(ld)
		req, err = plogotlp.NewExportRequestFromLogs(ld).MarshalProto()
	case signal.Traces:
		td := ptrace.NewTraces()
		r.appendSpan(td)
		req, err = ptraceotlp.NewExportRequestFromTraces(td).MarshalProto()
	default:
		md := pmetric.NewMetrics()
		r.appendPoint(md)
		req, err = pmetricotlp.NewExportRequestFromMetrics(md).MarshalProto()
	}
	return req, errors.Join(r.Err(), err)
}

func (r *Reader) appendLog(ld plog.Logs) {
	rl := ld.ResourceLogs().AppendEmpty()
	r.resource(rl.Resource())
	rl.SetSchemaUrl(r.Text("resource_schema_url"))
	sl := rl.ScopeLogs().AppendEmpty()
	r.scope(sl.Scope())
	sl.SetSchemaUrl(r.Text("scope_schema_url"))
	r.logRecord(sl.LogRecords().AppendEmpty())
}

func (r *Reader) appendSpan(td ptrace.Traces) {
	rs := td.ResourceSpans().AppendEmpty()
	r.resource(rs.Resource())
	rs.SetSchemaUrl(r.Text("resource_schema_url"))
	ss := rs.ScopeSpans().AppendEmpty()
	r.scope(ss.Scope())
	ss.SetSchemaUrl(r.Text("scope_schema_url"))
	r.span(ss.Spans().AppendEmpty())
}

func (r *Reader) appendPoint(md pmetric.Metrics) {
	rm := md.ResourceMetrics().AppendEmpty()
	r.resource(rm.Resource())
	rm.SetSchemaUrl(r.Text("resource_schema_url"))
	sm := rm.ScopeMetrics().AppendEmpty()
	r.scope(sm.Scope())
	sm.SetSchemaUrl(r.Text("scope_schema_url"))
	r.metric(sm.Metrics().AppendEmpty())
}

// keep records a value that could not be read.
func (r *Reader) keep(name string, err error) {
	if err != nil {
		r.errs[name] = fmt.Errorf("column %s, row %d: %w", name, r.row, err)
	}
}

// resourceAttributes reads the attributes of the resource.
func (r *Reader) resourceAttributes(m pcommon.Map) {
	if text := r.Text("resource"); text != r.resourceText {
		r.resourceText, r.resourceRead = "", pcommon.NewMap()
		if err := readMap(text, r.resourceRead); err != nil {
			r.keep("resource", err)
		} else {
			r.resourceText = strings.Clone(text)
		}
	}
	r.resourceRead.CopyTo(m)
	if r.sent {
		enriched.Remove(m)
	}
}

func (r *Reader) resource(res pcommon.Resource) {
	r.resourceAttributes(res.Attributes())
	res.SetDroppedAttributesCount(r.uint32("resource_dropped_attributes_count"))
	text := r.Text("resource_entity_refs")
	if text == "" {
		return
	}
	var refs []struct {
		SchemaURL string   `json:"schema_url"`
		Type      string   `json:"type"`
		ID        []string `json:"id_keys"`
		Desc      []string `json:"description_keys"`
	}
	r.keep("resource_entity_refs", json.Unmarshal([]byte(text), &refs))
	for _, ref := range refs {
		e := entity.ResourceEntityRefs(res).AppendEmpty()
		e.SetSchemaUrl(ref.SchemaURL)
		e.SetType(ref.Type)
		e.IdKeys().FromRaw(ref.ID)
		e.DescriptionKeys().FromRaw(ref.Desc)
	}
}

func (r *Reader) scope(s pcommon.InstrumentationScope) {
	s.SetName(r.Text("scope_name"))
	s.SetVersion(r.Text("scope_version"))
	r.keep("scope_attributes", readMap(r.Text("scope_attributes"), s.Attributes()))
	s.SetDroppedAttributesCount(r.uint32("scope_dropped_attributes_count"))
}

type pair struct {
	key string
	val pcommon.Value
}

// putPairs fills m, duplicate keys included.
func putPairs(m pcommon.Map, pairs []pair) {
	var mb xpdata.MapBuilder
	for _, p := range pairs {
		p.val.MoveTo(mb.AppendEmpty(p.key))
	}
	mb.UnsafeIntoMap(m)
}

// attributes reads the promoted columns and the typed maps, in that order.
func (r *Reader) attributes(m pcommon.Map) {
	var pairs []pair
	add := func(key string) pcommon.Value {
		v := pcommon.NewValueEmpty()
		pairs = append(pairs, pair{key, v})
		return v
	}
	for _, c := range r.promoted {
		switch c.Kind {
		case columns.Int64:
			if x := r.Int(c.Name); x != 0 {
				add(c.Promote).SetInt(x)
			}
		case columns.Double:
			if x := r.double(c.Name); x != 0 {
				add(c.Promote).SetDouble(x)
			}
		default:
			if s := r.Text(c.Name); s != "" {
				add(c.Promote).SetStr(s)
			}
		}
	}
	r.eachEntry("attributes_string", func(k string, vals arrow.Array, i int) bool {
		s, ok := value.Text(vals, i)
		add(k).SetStr(s)
		return ok
	})
	r.eachEntry("attributes_int", func(k string, vals arrow.Array, i int) bool {
		x, ok := value.Int(vals, i)
		add(k).SetInt(x)
		return ok
	})
	r.eachEntry("attributes_double", func(k string, vals arrow.Array, i int) bool {
		x, ok := value.Double(vals, i)
		add(k).SetDouble(x)
		return ok
	})
	r.eachEntry("attributes_bool", func(k string, vals arrow.Array, i int) bool {
		x, ok := value.Bool(vals, i)
		add(k).SetBool(x)
		return ok
	})
	r.eachEntry("attributes_other", func(k string, vals arrow.Array, i int) bool {
		s, ok := value.Text(vals, i)
		list, repeated := strings.CutPrefix(s, `{"$values":`)
		if !repeated {
			r.keep("attributes_other", readValue(s, add(k)))
			return ok
		}
		all := pcommon.NewValueEmpty()
		r.keep("attributes_other", readValue(list, all))
		for _, v := range all.Slice().All() {
			v.CopyTo(add(k))
		}
		return ok
	})
	putPairs(m, pairs)
	if r.sent {
		enriched.Remove(m)
	}
}

// eventTime is the event's own time: 0 where the row's time comes from elsewhere.
func (r *Reader) eventTime() pcommon.Timestamp {
	if r.Text("time_source") != "event" {
		return 0
	}
	return pcommon.Timestamp(r.Time("time"))
}

func (r *Reader) logRecord(lr plog.LogRecord) {
	lr.SetTimestamp(r.eventTime())
	lr.SetObservedTimestamp(pcommon.Timestamp(r.Time("observed_time")))
	lr.SetSeverityNumber(plog.SeverityNumber(r.Int("severity_number")))
	lr.SetSeverityText(r.Text("severity_text"))
	switch r.Text("body_type") {
	case "empty":
	case "string":
		lr.Body().SetStr(r.Text("body"))
	default:
		r.keep("body", readValue(r.Text("body"), lr.Body()))
	}
	r.attributes(lr.Attributes())
	lr.SetDroppedAttributesCount(r.uint32("dropped_attributes_count"))
	lr.SetFlags(plog.LogRecordFlags(r.uint32("flags")))
	lr.SetTraceID(pcommon.TraceID(to16(r.Bytes("trace_id"))))
	lr.SetSpanID(pcommon.SpanID(to8(r.Bytes("span_id"))))
	lr.SetEventName(r.Text("event_name"))
}

func (r *Reader) span(sp ptrace.Span) {
	sp.SetTraceID(pcommon.TraceID(to16(r.Bytes("trace_id"))))
	sp.SetSpanID(pcommon.SpanID(to8(r.Bytes("span_id"))))
	sp.SetParentSpanID(pcommon.SpanID(to8(r.Bytes("parent_span_id"))))
	sp.TraceState().FromRaw(r.Text("trace_state"))
	sp.SetName(r.Text("name"))
	sp.SetKind(ptrace.SpanKind(r.enum("kind", "unspecified", "internal", "server", "client", "producer", "consumer")))
	sp.SetStartTimestamp(r.eventTime())
	sp.SetEndTimestamp(pcommon.Timestamp(r.Time("end_time")))
	sp.SetFlags(r.uint32("flags"))
	sp.Status().SetCode(ptrace.StatusCode(r.enum("status_code", "unset", "ok", "error")))
	sp.Status().SetMessage(r.Text("status_message"))
	r.attributes(sp.Attributes())
	sp.SetDroppedAttributesCount(r.uint32("dropped_attributes_count"))
	sp.SetDroppedEventsCount(r.uint32("dropped_events_count"))
	sp.SetDroppedLinksCount(r.uint32("dropped_links_count"))

	names, attrs := listOf(r, "events_name", value.Text), listOf(r, "events_attributes", value.Text)
	dropped := listOf(r, "events_dropped_attributes_count", value.Int)
	for i, at := range alike(r, "events_time", listOf(r, "events_time", value.Time), len(names), len(attrs), len(dropped)) {
		e := sp.Events().AppendEmpty()
		e.SetTimestamp(pcommon.Timestamp(at))
		e.SetName(names[i])
		r.keep("events_attributes", readMap(attrs[i], e.Attributes()))
		e.SetDroppedAttributesCount(uint32(dropped[i]))
	}
	spans, states := listOf(r, "links_span_id", value.Bytes), listOf(r, "links_trace_state", value.Text)
	attrs, flags := listOf(r, "links_attributes", value.Text), listOf(r, "links_flags", value.Int)
	dropped = listOf(r, "links_dropped_attributes_count", value.Int)
	for i, id := range alike(r, "links_trace_id", listOf(r, "links_trace_id", value.Bytes), len(spans), len(states), len(attrs), len(flags), len(dropped)) {
		l := sp.Links().AppendEmpty()
		l.SetTraceID(pcommon.TraceID(to16(id)))
		l.SetSpanID(pcommon.SpanID(to8(spans[i])))
		l.TraceState().FromRaw(states[i])
		r.keep("links_attributes", readMap(attrs[i], l.Attributes()))
		l.SetDroppedAttributesCount(uint32(dropped[i]))
		l.SetFlags(uint32(flags[i]))
	}
}

func (r *Reader) metric(m pmetric.Metric) {
	m.SetName(r.Text("metric_name"))
	m.SetDescription(r.Text("metric_description"))
	m.SetUnit(r.Text("metric_unit"))
	r.keep("metric_metadata", readMap(r.Text("metric_metadata"), m.Metadata()))
	temporality := func() pmetric.AggregationTemporality {
		return pmetric.AggregationTemporality(r.enum("temporality", "unspecified", "delta", "cumulative"))
	}
	switch typ := r.Text("metric_type"); typ {
	case "gauge":
		r.number(m.SetEmptyGauge().DataPoints().AppendEmpty())
	case "sum":
		s := m.SetEmptySum()
		s.SetIsMonotonic(r.bool("is_monotonic"))
		s.SetAggregationTemporality(temporality())
		r.number(s.DataPoints().AppendEmpty())
	case "histogram":
		h := m.SetEmptyHistogram()
		h.SetAggregationTemporality(temporality())
		r.histogram(h.DataPoints().AppendEmpty())
	case "exponential_histogram":
		h := m.SetEmptyExponentialHistogram()
		h.SetAggregationTemporality(temporality())
		r.expHistogram(h.DataPoints().AppendEmpty())
	case "summary":
		r.summary(m.SetEmptySummary().DataPoints().AppendEmpty())
	default:
		r.keep("metric_type", fmt.Errorf("unknown type %q", typ))
	}
}

type anyPoint interface {
	SetTimestamp(pcommon.Timestamp)
	SetStartTimestamp(pcommon.Timestamp)
	SetFlags(pmetric.DataPointFlags)
	Attributes() pcommon.Map
}

func (r *Reader) point(p anyPoint) {
	p.SetTimestamp(r.eventTime())
	p.SetStartTimestamp(pcommon.Timestamp(r.Time("start_time")))
	p.SetFlags(pmetric.DataPointFlags(r.uint32("flags")))
	r.attributes(p.Attributes())
}

func (r *Reader) number(p pmetric.NumberDataPoint) {
	r.point(p)
	switch r.Text("value_type") {
	case "int":
		p.SetIntValue(r.Int("value_int"))
	case "double":
		p.SetDoubleValue(r.double("value_double"))
	}
	r.exemplars(p.Exemplars())
}

func (r *Reader) histogram(p pmetric.HistogramDataPoint) {
	r.point(p)
	p.SetCount(r.uint64("count"))
	if r.bool("has_sum") {
		p.SetSum(r.double("sum"))
	}
	if r.bool("has_min") {
		p.SetMin(r.double("min"))
	}
	if r.bool("has_max") {
		p.SetMax(r.double("max"))
	}
	p.ExplicitBounds().FromRaw(listOf(r, "explicit_bounds", value.Double))
	p.BucketCounts().FromRaw(r.counts("bucket_counts"))
	r.exemplars(p.Exemplars())
}

func (r *Reader) expHistogram(p pmetric.ExponentialHistogramDataPoint) {
	r.point(p)
	p.SetCount(r.uint64("count"))
	if r.bool("has_sum") {
		p.SetSum(r.double("sum"))
	}
	if r.bool("has_min") {
		p.SetMin(r.double("min"))
	}
	if r.bool("has_max") {
		p.SetMax(r.double("max"))
	}
	p.SetScale(int32(r.Int("scale")))
	p.SetZeroCount(r.uint64("zero_count"))
	p.SetZeroThreshold(r.double("zero_threshold"))
	p.Positive().SetOffset(int32(r.Int("positive_offset")))
	p.Positive().BucketCounts().FromRaw(r.counts("positive_bucket_counts"))
	p.Negative().SetOffset(int32(r.Int("negative_offset")))
	p.Negative().BucketCounts().FromRaw(r.counts("negative_bucket_counts"))
	r.exemplars(p.Exemplars())
}

func (r *Reader) summary(p pmetric.SummaryDataPoint) {
	r.point(p)
	p.SetCount(r.uint64("count"))
	p.SetSum(r.double("sum"))
	values := listOf(r, "quantile_values", value.Double)
	for i, q := range alike(r, "quantiles", listOf(r, "quantiles", value.Double), len(values)) {
		v := p.QuantileValues().AppendEmpty()
		v.SetQuantile(q)
		v.SetValue(values[i])
	}
}

func (r *Reader) exemplars(out pmetric.ExemplarSlice) {
	types, doubles, ints := listOf(r, "exemplars_value_type", value.Text), listOf(r, "exemplars_value_double", value.Double), listOf(r, "exemplars_value_int", value.Int)
	traces, spans := listOf(r, "exemplars_trace_id", value.Bytes), listOf(r, "exemplars_span_id", value.Bytes)
	attrs := listOf(r, "exemplars_attributes", value.Text)
	for i, at := range alike(r, "exemplars_time", listOf(r, "exemplars_time", value.Time), len(types), len(doubles), len(ints), len(traces), len(spans), len(attrs)) {
		e := out.AppendEmpty()
		e.SetTimestamp(pcommon.Timestamp(at))
		switch types[i] {
		case "int":
			e.SetIntValue(ints[i])
		case "double":
			e.SetDoubleValue(doubles[i])
		}
		e.SetTraceID(pcommon.TraceID(to16(traces[i])))
		e.SetSpanID(pcommon.SpanID(to8(spans[i])))
		r.keep("exemplars_attributes", readMap(attrs[i], e.FilteredAttributes()))
	}
}

// alike is a list that others are parallel to; none of it where one has another length: no program of ours writes that.
func alike[T any](r *Reader, name string, list []T, others ...int) []T {
	for _, n := range others {
		if n != len(list) {
			r.keep(name, fmt.Errorf("has %d elements, and a list beside it %d", len(list), n))
			return nil
		}
	}
	return list
}

func (r *Reader) counts(name string) []uint64 {
	var out []uint64
	for _, n := range listOf(r, name, value.Int) {
		out = append(out, uint64(n))
	}
	return out
}

// enum reads an enumeration's name, or the digits of a number that OTLP does not define.
func (r *Reader) enum(name string, names ...string) int32 {
	s := r.Text(name)
	if i := slices.Index(names, s); i >= 0 {
		return int32(i)
	}
	n, err := strconv.ParseInt(s, 10, 32)
	r.keep(name, err)
	return int32(n)
}

func to16(b []byte) (out [16]byte) { copy(out[:], b); return out }
func to8(b []byte) (out [8]byte)   { copy(out[:], b); return out }
