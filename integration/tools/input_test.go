package tools

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/clickhousetest"
)

// input is what is sent. Every expectation of the suite is computed from it.
type input struct {
	spans  []span
	logs   []record
	points []point

	from, to time.Time       // the dashboards' range, which does not hold everything
	trace    string          // a trace with an error, events, a link and two services, as hex
	sampled  map[string]bool // ids of spans that the plugin's heat map takes
}

type source struct {
	tenant, service, version string
}

type span struct {
	source
	trace      [16]byte
	id, parent [8]byte
	name, kind string // kind as the Collector's stock exporter writes it: "Server"
	status     string // "Unset", "Ok", "Error"
	message    string
	start      time.Time
	duration   time.Duration
	attributes attributes
	events     []happening
	links      []link
}

type happening struct {
	at         time.Time
	name       string
	attributes attributes
}

type link struct {
	trace      [16]byte
	span       [8]byte
	attributes attributes
}

type record struct {
	source
	at         time.Time
	number     int // severity
	text       string
	body       string
	trace      [16]byte
	id         [8]byte
	attributes attributes
}

// level is the severity that tools show: the sender's word, else that of the number.
func (r record) level() string {
	if r.text != "" {
		return r.text
	}
	return map[int]string{0: "", 1: "TRACE", 5: "DEBUG", 9: "INFO", 13: "WARN", 17: "ERROR", 21: "FATAL"}[r.number]
}

type point struct {
	source
	name, unit, kind string
	at               time.Time
	attributes       attributes
	value            float64   // gauge and sum
	counts           []uint64  // histogram and exponential histogram (positive)
	bounds           []float64 // histogram
	sum              float64
	quantiles        []float64 // summary: 0.5 and 0.99
	exemplar         [16]byte  // its trace; zero: none
}

func (p point) count() (n uint64) {
	for _, c := range p.counts {
		n += c
	}
	return n
}

// attributes are keys and values in pairs; texts, ints, doubles, bools.
type attributes []any

func (a attributes) put(m pcommon.Map) {
	for i := 0; i < len(a); i += 2 {
		switch v := a[i+1].(type) {
		case string:
			m.PutStr(a[i].(string), v)
		case int:
			m.PutInt(a[i].(string), int64(v))
		case float64:
			m.PutDouble(a[i].(string), v)
		case bool:
			m.PutBool(a[i].(string), v)
		case []string:
			s := m.PutEmptySlice(a[i].(string))
			for _, e := range v {
				s.AppendEmpty().SetStr(e)
			}
		}
	}
}

// texts are the attributes as a tool reads them: text by key.
func (a attributes) texts() map[string]any {
	out := map[string]any{}
	for i := 0; i < len(a); i += 2 {
		out[a[i].(string)] = fmt.Sprint(a[i+1])
		if list, ok := a[i+1].([]string); ok {
			out[a[i].(string)] = fmt.Sprintf("[%q,%q]", list[0], list[1])
		}
	}
	return out
}

func (s source) resource() attributes {
	return attributes{"service.name", s.service, "service.version", s.version, "k8s.pod.name", s.service + "-0", "host.cpus", 4}
}

func trace(n int) (id [16]byte) {
	binary.BigEndian.PutUint64(id[:], 0xabcd<<32|uint64(n))
	binary.BigEndian.PutUint64(id[8:], uint64(n))
	return id
}

func spanID(n uint64) (id [8]byte) {
	binary.BigEndian.PutUint64(id[:], n)
	return id
}

// sampledIDs are ids of spans that the plugin's heat map takes: it samples by cityHash64(SpanId) % 500.
func sampledIDs(t *testing.T, ch *clickhousetest.Server) (out []uint64) {
	for _, text := range strings.Fields(ch.Query("SELECT number FROM numbers(1, 60000) WHERE cityHash64(leftPad(lower(hex(number)), 16, '0')) % 500 = 0")) {
		n, err := strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
		out = append(out, n)
	}
	return out
}

const (
	traces = 900 // of four spans
	lines  = 4000
	series = 40 // metrics of a service
	steps  = 60 // points of each
)

// services, of which each has another number of events than the others.
var services = []source{
	{"acme", "checkout", "1.0"}, {"acme", "cart", "7.2"}, {"acme", "frontend", "3.1"}, {"acme", "mail", "0.9"}, {"globex", "billing", "2.0"}, {"globex", "ledger", "2.1"},
}

// makeInput is the same in each run but for the time: the plugin asks for the keys of the last six hours.
func makeInput(t *testing.T, ch *clickhousetest.Server) *input {
	begin := time.Now().UTC().Truncate(time.Hour).Add(-time.Hour)
	in := &input{from: begin.Add(5 * time.Minute), to: begin.Add(15 * time.Minute), trace: fmt.Sprintf("%x", trace(500)), sampled: map[string]bool{}}
	sampled, next := sampledIDs(t, ch), uint64(0)
	id := func() [8]byte {
		if next++; slices.Contains(sampled, next) {
			next++
		}
		return spanID(next)
	}
	for i := range traces { // over 20 minutes
		at := begin.Add(time.Duration(i) * 20 * time.Minute / traces).Add(123456 * time.Nanosecond)
		front, back := services[2], services[i%2]
		if i%3 == 0 {
			back = services[i/3%len(services)]
		}
		if back.service == "checkout" && i > 450 {
			back.version = "1.1" // deployed within the range
		}
		status, message := "Ok", ""
		if i%7 == 0 || i == 500 {
			status, message = "Error", fmt.Sprintf("declined by bank %d", i%2)
		}
		root := span{source: front, trace: trace(i), id: id(), name: "GET /shop", kind: "Server", status: "Unset", start: at, duration: time.Duration(20+i%50) * time.Millisecond,
			attributes: attributes{"http.request.method", "GET", "http.response.status_code", 200, "shop.sale", i%2 == 0}}
		call := span{source: front, trace: root.trace, id: id(), parent: root.id, name: "POST", kind: "Client", status: "Unset", start: at.Add(time.Millisecond), duration: 9 * time.Millisecond,
			attributes: attributes{"http.request.method", "POST", "retries", i % 3}}
		work := span{source: back, trace: root.trace, id: id(), parent: call.id, name: fmt.Sprintf("POST /pay/%d", i%4), kind: "Server", status: status, message: message,
			start: at.Add(2 * time.Millisecond), duration: time.Duration(1000+i*977%7000) * time.Microsecond,
			attributes: attributes{"http.request.method", "POST", "http.route", "/pay", "amount", 1.5, "http.status_code", "502", "tags", []string{"a", "b"}}}
		last := span{source: back, trace: root.trace, id: id(), parent: work.id, name: "reserve", kind: []string{"Internal", "Producer", "Consumer", "Client"}[i/2%4], status: "Unset",
			start: at.Add(3 * time.Millisecond), duration: time.Duration(i%11) * time.Microsecond}
		if i%90 == 0 { // one of checkout
			work.id = spanID(sampled[len(sampled)-1-i/90]) // behind all others
			last.parent = work.id
			in.sampled[hexOf(work.id[:])] = true
		}
		work.events = []happening{{at.Add(2500 * time.Microsecond), "exception", attributes{"exception.message", "no money", "attempt", 2}}}
		work.links = []link{{trace(i + 1), spanID(77), attributes{"reason", "retry"}}}
		in.spans = append(in.spans, root, call, work, last)
	}
	require.Less(t, next, sampled[len(sampled)-1-traces/90])

	severities := []record{{number: 9}, {number: 9, text: "INFO"}, {number: 17}, {number: 13, text: "WARN"}, {number: 5}, {number: 21, text: "Fatal"}, {}}
	for i := range lines {
		r := severities[i%len(severities)]
		r.source, r.at = services[i*i%11%len(services)], begin.Add(time.Duration(i)*20*time.Minute/lines).Add(time.Duration(i)*time.Nanosecond)
		r.body = []string{"payment declined orderId=%d", "Payment accepted userId=%d", "cart of %d emptied"}[i%3]
		r.body = fmt.Sprintf(r.body, i%5)
		if i == 2001 {
			r.body = "the Zebra crossed"
		}
		r.attributes = attributes{"attempt", i % 4, "http.route", "/pay", "cached", i%2 == 1, "ratio", 0.25}
		if i%2 == 0 {
			r.trace, r.id = trace(i*traces/lines), spanID(uint64(i+1))
		}
		in.logs = append(in.logs, r)
	}

	for step := range steps {
		at := begin.Add(time.Duration(step) * 20 * time.Second).Add(7)
		for _, from := range services[:3] {
			for m := range series {
				in.points = append(in.points, point{source: from, name: fmt.Sprintf("queue.length.%d", m), unit: "{item}", kind: "gauge", at: at, value: float64(step*m) + 0.5,
					attributes: attributes{"system.device", "q1", "shard", m % 2}})
			}
			in.points = append(in.points,
				point{source: from, name: "requests", unit: "{request}", kind: "sum", at: at, value: float64(3 + step%2), attributes: attributes{"http.request.method", "GET"}},
				point{source: from, name: "latency", unit: "ms", kind: "histogram", at: at, counts: []uint64{1, uint64(step), 2}, bounds: []float64{10, 100}, sum: 123.5,
					attributes: attributes{"http.route", "/pay"}, exemplar: trace(step)},
				point{source: from, name: "sizes", unit: "By", kind: "exponential_histogram", at: at, counts: []uint64{4, uint64(step)}, sum: 9},
				point{source: from, name: "gc", unit: "s", kind: "summary", at: at, counts: []uint64{uint64(step + 1)}, sum: 0.5, quantiles: []float64{0.1, float64(step)}})
		}
	}
	return in
}

func (in *input) holds(at time.Time) bool { return !at.Before(in.from) && !at.After(in.to) }

// inRange are the spans of the range that match.
func (in *input) inRange(match func(span) bool) (out []span) {
	for _, s := range in.spans {
		if in.holds(s.start) && match(s) {
			out = append(out, s)
		}
	}
	return out
}

func (in *input) linesInRange(match func(record) bool) (out []record) {
	for _, r := range in.logs {
		if in.holds(r.at) && match(r) {
			out = append(out, r)
		}
	}
	return out
}

func hexOf(id []byte) string {
	for _, b := range id {
		if b != 0 {
			return hex.EncodeToString(id)
		}
	}
	return ""
}

// stamp makes a resource one that came through Kafka.
func stamp(res pcommon.Resource, from source, s signal.Signal) {
	from.resource().put(res.Attributes())
	lineage.StampResource(res.Attributes(), lineage.Origin{Tenant: from.tenant, Received: time.Now(), Topic: s.Topic(), Partition: 1})
}

func (in *input) traces() ptrace.Traces {
	kinds := map[string]ptrace.SpanKind{"Server": ptrace.SpanKindServer, "Client": ptrace.SpanKindClient, "Internal": ptrace.SpanKindInternal,
		"Producer": ptrace.SpanKindProducer, "Consumer": ptrace.SpanKindConsumer}
	codes := map[string]ptrace.StatusCode{"Unset": ptrace.StatusCodeUnset, "Ok": ptrace.StatusCodeOk, "Error": ptrace.StatusCodeError}
	td, by := ptrace.NewTraces(), map[source]ptrace.SpanSlice{}
	for i, s := range in.spans {
		if _, ok := by[s.source]; !ok {
			rs := td.ResourceSpans().AppendEmpty()
			stamp(rs.Resource(), s.source, signal.Traces)
			by[s.source] = rs.ScopeSpans().AppendEmpty().Spans()
		}
		sp := by[s.source].AppendEmpty()
		sp.SetTraceID(s.trace)
		sp.SetSpanID(s.id)
		sp.SetParentSpanID(s.parent)
		sp.SetName(s.name)
		sp.SetKind(kinds[s.kind])
		sp.Status().SetCode(codes[s.status])
		sp.Status().SetMessage(s.message)
		sp.SetStartTimestamp(pcommon.NewTimestampFromTime(s.start))
		sp.SetEndTimestamp(pcommon.NewTimestampFromTime(s.start.Add(s.duration)))
		s.attributes.put(sp.Attributes())
		for _, h := range s.events {
			e := sp.Events().AppendEmpty()
			e.SetTimestamp(pcommon.NewTimestampFromTime(h.at))
			e.SetName(h.name)
			h.attributes.put(e.Attributes())
		}
		for _, l := range s.links {
			to := sp.Links().AppendEmpty()
			to.SetTraceID(l.trace)
			to.SetSpanID(l.span)
			l.attributes.put(to.Attributes())
		}
		lineage.StampEvent(sp.Attributes(), lineage.Event{ID: [16]byte{1, byte(i), byte(i >> 8)}, Index: int32(i)})
	}
	return td
}

func (in *input) records() plog.Logs {
	ld, by := plog.NewLogs(), map[source]plog.LogRecordSlice{}
	for i, r := range in.logs {
		if _, ok := by[r.source]; !ok {
			rl := ld.ResourceLogs().AppendEmpty()
			stamp(rl.Resource(), r.source, signal.Logs)
			by[r.source] = rl.ScopeLogs().AppendEmpty().LogRecords()
		}
		lr := by[r.source].AppendEmpty()
		lr.SetTimestamp(pcommon.NewTimestampFromTime(r.at))
		lr.SetSeverityNumber(plog.SeverityNumber(r.number))
		lr.SetSeverityText(r.text)
		lr.Body().SetStr(r.body)
		lr.SetTraceID(r.trace)
		lr.SetSpanID(r.id)
		r.attributes.put(lr.Attributes())
		lineage.StampEvent(lr.Attributes(), lineage.Event{ID: [16]byte{2, byte(i), byte(i >> 8)}, Index: int32(i)})
	}
	return ld
}

func (in *input) metrics() pmetric.Metrics {
	md, by := pmetric.NewMetrics(), map[source]pmetric.MetricSlice{}
	for i, p := range in.points {
		if _, ok := by[p.source]; !ok {
			rm := md.ResourceMetrics().AppendEmpty()
			stamp(rm.Resource(), p.source, signal.Metrics)
			by[p.source] = rm.ScopeMetrics().AppendEmpty().Metrics()
		}
		m := by[p.source].AppendEmpty()
		m.SetName(p.name)
		m.SetUnit(p.unit)
		m.SetDescription("of " + p.name)
		at, began := pcommon.NewTimestampFromTime(p.at), pcommon.NewTimestampFromTime(p.at.Add(-20*time.Second))
		stampPoint := func(m pcommon.Map) {
			p.attributes.put(m)
			lineage.StampEvent(m, lineage.Event{ID: [16]byte{3, byte(i), byte(i >> 8)}, Index: int32(i)})
		}
		switch p.kind {
		case "gauge", "sum":
			var points pmetric.NumberDataPointSlice
			if p.kind == "gauge" {
				points = m.SetEmptyGauge().DataPoints()
			} else {
				sum := m.SetEmptySum()
				sum.SetIsMonotonic(true)
				sum.SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
				points = sum.DataPoints()
			}
			d := points.AppendEmpty()
			d.SetTimestamp(at)
			d.SetStartTimestamp(began)
			d.SetDoubleValue(p.value)
			stampPoint(d.Attributes())
		case "histogram":
			h := m.SetEmptyHistogram()
			h.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
			d := h.DataPoints().AppendEmpty()
			d.SetTimestamp(at)
			d.SetStartTimestamp(began)
			d.SetCount(p.count())
			d.SetSum(p.sum)
			d.SetMin(1)
			d.SetMax(200)
			d.BucketCounts().FromRaw(p.counts)
			d.ExplicitBounds().FromRaw(p.bounds)
			e := d.Exemplars().AppendEmpty()
			e.SetTimestamp(at)
			e.SetDoubleValue(42.5)
			e.SetTraceID(p.exemplar)
			e.FilteredAttributes().PutStr("user", "u1")
			stampPoint(d.Attributes())
		case "exponential_histogram":
			h := m.SetEmptyExponentialHistogram()
			h.SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
			d := h.DataPoints().AppendEmpty()
			d.SetTimestamp(at)
			d.SetStartTimestamp(began)
			d.SetCount(p.count())
			d.SetSum(p.sum)
			d.SetScale(3)
			d.SetZeroCount(0)
			d.Positive().SetOffset(5)
			d.Positive().BucketCounts().FromRaw(p.counts)
			stampPoint(d.Attributes())
		case "summary":
			d := m.SetEmptySummary().DataPoints().AppendEmpty()
			d.SetTimestamp(at)
			d.SetStartTimestamp(began)
			d.SetCount(p.count())
			d.SetSum(p.sum)
			for q, level := range []float64{0.5, 0.99} {
				v := d.QuantileValues().AppendEmpty()
				v.SetQuantile(level)
				v.SetValue(p.quantiles[q])
			}
			stampPoint(d.Attributes())
		}
	}
	return md
}
