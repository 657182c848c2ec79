package otlpwire

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"testing"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// agree holds everything this package does with req against pdata. It is the body of the fuzz targets.
func agree(t *testing.T, sig signal.Signal, req []byte) {
	t.Helper()
	original := bytes.Clone(req)
	n, err := Count(sig, req, Limits{MaxEvents: math.MaxInt})
	if errors.Is(err, ErrTooDeep) {
		return // our own bound; pdata would recurse
	}
	want, wantErr := decode(sig, req)
	if (err == nil) != (wantErr == nil) {
		t.Fatalf("Count: %v, pdata: %v", err, wantErr)
	}
	keep := func(i int) bool { return (i*2654435761)>>4&1 == 0 }
	if err != nil {
		// Whatever else is called on such bytes must come back.
		_ = Walk(sig, req, func(e *Event) bool { _, _ = e.Attr("k"); _ = e.Time(); return true })
		_, _, _ = Split(sig, req, keep)
		_, _, _ = SplitBySize(sig, req, len(req)/2)
		_, _ = SetResourceAttribute(sig, req, "k", "v")
		Source(sig, req)
		return
	}
	if got := len(want.events()); n != got {
		t.Fatalf("Count: %d events, pdata has %d", n, got)
	}
	agreeWalk(t, sig, req, want)
	agreeSplit(t, sig, req, keep)
	for _, size := range []int{1, 64, len(req) / 3, len(req) - 1, len(req)} {
		if size < len(req)/8 && n*len(req) > 1<<20 {
			continue // checking many parts takes time that is square in the request
		}
		agreeSplitBySize(t, sig, req, size, n)
	}
	agreeSetResourceAttribute(t, sig, req)
	if Source(sig, req) != Source(sig, original) {
		t.Fatal("Source is not stable")
	}
	if !bytes.Equal(req, original) {
		t.Fatal("the request was written to")
	}
}

func agreeWalk(t *testing.T, sig signal.Signal, req []byte, want decoded) {
	t.Helper()
	events := want.events()
	i := 0
	err := Walk(sig, req, func(e *Event) bool {
		w := events[i]
		if e.Index != i {
			t.Fatalf("event %d has index %d", i, e.Index)
		}
		sameAttributes(t, e.Attributes(), w.attributes)
		sameAttributes(t, e.ResourceAttributes(), w.resource)
		sameAttributes(t, e.ScopeAttributes(), w.scope.Attributes())
		got := fmt.Sprintln(e.Time(), e.ObservedTime(), e.EndTime(), string(e.Name()), e.Severity(), e.TraceID(), e.SpanID(),
			string(e.Metric.Name), string(e.Metric.Unit), e.Metric.Type, e.Metric.Temporality(), e.Metric.Monotonic(), string(e.ScopeName()))
		if got != w.scalars {
			t.Fatalf("event %d: got  %s\nwant %s", i, got, w.scalars)
		}
		if w.body != nil {
			sameValue(t, e.Body(), *w.body)
		}
		agreeHead(t, e, w)
		i++
		return true
	})
	if err != nil || i != len(events) {
		t.Fatalf("walked %d of %d events: %v", i, len(events), err)
	}
}

func sameAttributes(t *testing.T, got Attributes, want pcommon.Map) {
	t.Helper()
	type entry struct {
		key string
		v   pcommon.Value
	}
	var entries []entry
	for k, v := range want.All() {
		entries = append(entries, entry{k, v})
	}
	i := 0
	for k, v := range got.All() {
		if i >= len(entries) || string(k) != entries[i].key {
			t.Fatalf("attribute %d is %q, want %v", i, k, entries)
		}
		sameValue(t, v, entries[i].v)
		i++
	}
	if i != len(entries) {
		t.Fatalf("%d attributes, want %d", i, len(entries))
	}
	for _, e := range entries[:min(len(entries), 64)] {
		first, _ := want.Get(e.key)
		v, ok := got.Get(e.key)
		if !ok {
			t.Fatalf("attribute %q was not found", e.key)
		}
		sameValue(t, v, first)
	}
	if _, ok := got.Get("no such key \xff"); ok {
		if _, ok = want.Get("no such key \xff"); !ok {
			t.Fatal("found an attribute that is not there")
		}
	}
}

var sameTypes = map[pcommon.ValueType]ValueType{
	pcommon.ValueTypeEmpty: TypeEmpty, pcommon.ValueTypeStr: TypeString, pcommon.ValueTypeBool: TypeBool,
	pcommon.ValueTypeInt: TypeInt, pcommon.ValueTypeDouble: TypeDouble, pcommon.ValueTypeSlice: TypeArray,
	pcommon.ValueTypeMap: TypeMap, pcommon.ValueTypeBytes: TypeBytes,
}

func sameValue(t *testing.T, got Value, want pcommon.Value) {
	t.Helper()
	if got.Type() != sameTypes[want.Type()] {
		t.Fatalf("value is %v, want %v", got.Type(), want.Type())
	}
	same := true
	switch got.Type() {
	case TypeString:
		same = got.Str() == want.Str() && string(got.Bytes()) == want.Str()
	case TypeBool:
		same = got.Bool() == want.Bool()
	case TypeInt:
		same = got.Int() == want.Int()
	case TypeDouble:
		same = math.Float64bits(got.Double()) == math.Float64bits(want.Double())
	case TypeBytes:
		same = bytes.Equal(got.Bytes(), want.Bytes().AsRaw())
	case TypeMap:
		sameAttributes(t, got.Map(), want.Map())
	case TypeArray:
		i := 0
		for v := range got.Items() {
			sameValue(t, v, want.Slice().At(i))
			i++
		}
		same = i == want.Slice().Len()
	}
	if !same {
		t.Fatalf("value is %v, want %v", got, want.AsRaw())
	}
}

func agreeSplit(t *testing.T, sig signal.Signal, req []byte, keep func(int) bool) {
	t.Helper()
	kept, rest, err := Split(sig, req, keep)
	if err != nil {
		t.Fatalf("Split: %v", err)
	}
	for side, got := range [][]byte{kept, rest} {
		want, _ := decode(sig, req)
		want.filter(func(i int) bool { return keep(i) == (side == 0) })
		sameRequest(t, sig, got, want)
	}
}

// sameRequest decodes got and compares all that pdata knows of it with want.
func sameRequest(t *testing.T, sig signal.Signal, got []byte, want decoded) {
	t.Helper()
	if got == nil && len(want.events()) == 0 {
		return
	}
	d, err := decode(sig, got)
	if err != nil {
		t.Fatalf("pdata refuses what was written: %v", err)
	}
	if !bytes.Equal(d.encode(), want.encode()) {
		t.Fatalf("written request differs\ngot  %x\nwant %x", d.encode(), want.encode())
	}
}

func agreeSplitBySize(t *testing.T, sig signal.Signal, req []byte, size, n int) {
	t.Helper()
	parts, counts, err := SplitBySize(sig, req, size)
	if errors.Is(err, ErrAmplified) {
		return
	}
	if err != nil {
		t.Fatalf("SplitBySize: %v", err)
	}
	if n == 0 && len(parts) == 0 || len(parts) == 1 && len(req) <= size && bytes.Equal(parts[0], req) && counts[0] == n {
		return
	}
	first := 0
	for i, part := range parts {
		end := first + counts[i]
		if counts[i] < 1 || len(part) > size && counts[i] > 1 {
			t.Fatalf("part %d of %d bytes has %d events, at most %d bytes are allowed", i, len(part), counts[i], size)
		}
		want, _, _ := Split(sig, req, func(i int) bool { return i >= first && i < end })
		if !bytes.Equal(part, want) {
			t.Fatalf("part %d is not what Split makes of events %d to %d", i, first, end)
		}
		if i < len(parts)-1 {
			if more, _, _ := Split(sig, req, func(i int) bool { return i >= first && i <= end }); len(more) <= size {
				t.Fatalf("part %d could hold one event more: %d bytes of %d", i, len(more), size)
			}
		}
		first = end
	}
	if first != n {
		t.Fatalf("the parts have %d events of %d", first, n)
	}
}

func agreeSetResourceAttribute(t *testing.T, sig signal.Signal, req []byte) {
	t.Helper()
	got, err := SetResourceAttribute(sig, req, "service.name", "new")
	if err != nil {
		t.Fatalf("SetResourceAttribute: %v", err)
	}
	want, _ := decode(sig, req)
	want.resources(func(r pcommon.Resource) {
		r.Attributes().RemoveIf(func(k string, _ pcommon.Value) bool { return k == "service.name" })
		r.Attributes().PutStr("service.name", "new")
	})
	d, err := decode(sig, got)
	if err != nil {
		t.Fatalf("pdata refuses what was written: %v", err)
	}
	if !bytes.Equal(d.encode(), want.encode()) {
		t.Fatalf("written request differs\ngot  %x\nwant %x", d.encode(), want.encode())
	}
}

// decoded is a request as pdata has it.
type decoded struct {
	logs    plog.Logs
	metrics pmetric.Metrics
	traces  ptrace.Traces
	sig     signal.Signal
}

func decode(sig signal.Signal, req []byte) (decoded, error) {
	d := decoded{sig: sig}
	switch sig {
	case signal.Logs:
		r := plogotlp.NewExportRequest()
		if err := r.UnmarshalProto(req); err != nil {
			return d, err
		}
		d.logs = r.Logs()
	case signal.Metrics:
		r := pmetricotlp.NewExportRequest()
		if err := r.UnmarshalProto(req); err != nil {
			return d, err
		}
		d.metrics = r.Metrics()
	case signal.Traces:
		r := ptraceotlp.NewExportRequest()
		if err := r.UnmarshalProto(req); err != nil {
			return d, err
		}
		d.traces = r.Traces()
	}
	return d, nil
}

func (d decoded) encode() (b []byte) {
	switch d.sig {
	case signal.Logs:
		b, _ = plogotlp.NewExportRequestFromLogs(d.logs).MarshalProto()
	case signal.Metrics:
		b, _ = pmetricotlp.NewExportRequestFromMetrics(d.metrics).MarshalProto()
	case signal.Traces:
		b, _ = ptraceotlp.NewExportRequestFromTraces(d.traces).MarshalProto()
	}
	return b
}

func (d decoded) resources(fn func(pcommon.Resource)) {
	switch d.sig {
	case signal.Logs:
		for _, r := range d.logs.ResourceLogs().All() {
			fn(r.Resource())
		}
	case signal.Metrics:
		for _, r := range d.metrics.ResourceMetrics().All() {
			fn(r.Resource())
		}
	case signal.Traces:
		for _, r := range d.traces.ResourceSpans().All() {
			fn(r.Resource())
		}
	}
}

// wanted is an event as pdata has it.
type wanted struct {
	attributes, resource pcommon.Map
	scope                pcommon.InstrumentationScope
	scalars              string
	body                 *pcommon.Value
	head                 string
}

func (d decoded) events() (out []wanted) {
	switch d.sig {
	case signal.Logs:
		for _, r := range d.logs.ResourceLogs().All() {
			for _, s := range r.ScopeLogs().All() {
				for _, lr := range s.LogRecords().All() {
					body := lr.Body()
					out = append(out, wanted{lr.Attributes(), r.Resource().Attributes(), s.Scope(), fmt.Sprintln(
						uint64(lr.Timestamp()), uint64(lr.ObservedTimestamp()), 0, lr.EventName(), int32(lr.SeverityNumber()),
						[16]byte(lr.TraceID()), [8]byte(lr.SpanID()), "", "", MetricType(0), 0, false, s.Scope().Name()), &body,
						fmt.Sprintf("%q", []string{lr.SeverityText(), schemaURL(s.SchemaUrl(), r.SchemaUrl())})})
				}
			}
		}
	case signal.Traces:
		for _, r := range d.traces.ResourceSpans().All() {
			for _, s := range r.ScopeSpans().All() {
				for _, sp := range s.Spans().All() {
					out = append(out, wanted{sp.Attributes(), r.Resource().Attributes(), s.Scope(), fmt.Sprintln(
						uint64(sp.StartTimestamp()), 0, uint64(sp.EndTimestamp()), sp.Name(), 0,
						[16]byte(sp.TraceID()), [8]byte(sp.SpanID()), "", "", MetricType(0), 0, false, s.Scope().Name()), nil,
						spanHead(sp, schemaURL(s.SchemaUrl(), r.SchemaUrl()))})
				}
			}
		}
	case signal.Metrics:
		for _, r := range d.metrics.ResourceMetrics().All() {
			for _, s := range r.ScopeMetrics().All() {
				for _, m := range s.Metrics().All() {
					eachPoint(m, func(at pcommon.Timestamp, attrs pcommon.Map, temporality int32, monotonic bool, head string) {
						out = append(out, wanted{attrs, r.Resource().Attributes(), s.Scope(), fmt.Sprintln(
							uint64(at), 0, 0, m.Name(), 0, [16]byte{}, [8]byte{}, m.Name(), m.Unit(), m.Type(), temporality, monotonic,
							s.Scope().Name()), nil, head + schemaURL(s.SchemaUrl(), r.SchemaUrl())})
					})
				}
			}
		}
	}
	return out
}

func eachPoint(m pmetric.Metric, fn func(at pcommon.Timestamp, attrs pcommon.Map, temporality int32, monotonic bool, head string)) {
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		for _, p := range m.Gauge().DataPoints().All() {
			fn(p.Timestamp(), p.Attributes(), 0, false, pointHead(numberOf(p), p.Exemplars()))
		}
	case pmetric.MetricTypeSum:
		for _, p := range m.Sum().DataPoints().All() {
			fn(p.Timestamp(), p.Attributes(), int32(m.Sum().AggregationTemporality()), m.Sum().IsMonotonic(), pointHead(numberOf(p), p.Exemplars()))
		}
	case pmetric.MetricTypeHistogram:
		for _, p := range m.Histogram().DataPoints().All() {
			fn(p.Timestamp(), p.Attributes(), int32(m.Histogram().AggregationTemporality()), false, pointHead("empty 0 0", p.Exemplars()))
		}
	case pmetric.MetricTypeExponentialHistogram:
		for _, p := range m.ExponentialHistogram().DataPoints().All() {
			fn(p.Timestamp(), p.Attributes(), int32(m.ExponentialHistogram().AggregationTemporality()), false, pointHead("empty 0 0", p.Exemplars()))
		}
	case pmetric.MetricTypeSummary:
		for _, p := range m.Summary().DataPoints().All() {
			fn(p.Timestamp(), p.Attributes(), 0, false, pointHead("empty 0 0", pmetric.NewExemplarSlice()))
		}
	}
}

// filter removes the events that keep refuses, and what is left without events.
func (d decoded) filter(keep func(int) bool) {
	i := -1
	drop := func() bool { i++; return !keep(i) }
	switch d.sig {
	case signal.Logs:
		d.logs.ResourceLogs().RemoveIf(func(r plog.ResourceLogs) bool {
			r.ScopeLogs().RemoveIf(func(s plog.ScopeLogs) bool {
				s.LogRecords().RemoveIf(func(plog.LogRecord) bool { return drop() })
				return s.LogRecords().Len() == 0
			})
			return r.ScopeLogs().Len() == 0
		})
	case signal.Traces:
		d.traces.ResourceSpans().RemoveIf(func(r ptrace.ResourceSpans) bool {
			r.ScopeSpans().RemoveIf(func(s ptrace.ScopeSpans) bool {
				s.Spans().RemoveIf(func(ptrace.Span) bool { return drop() })
				return s.Spans().Len() == 0
			})
			return r.ScopeSpans().Len() == 0
		})
	case signal.Metrics:
		d.metrics.ResourceMetrics().RemoveIf(func(r pmetric.ResourceMetrics) bool {
			r.ScopeMetrics().RemoveIf(func(s pmetric.ScopeMetrics) bool {
				s.Metrics().RemoveIf(func(m pmetric.Metric) bool { return filterPoints(m, drop) == 0 })
				return s.Metrics().Len() == 0
			})
			return r.ScopeMetrics().Len() == 0
		})
	}
}

func filterPoints(m pmetric.Metric, drop func() bool) (left int) {
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		m.Gauge().DataPoints().RemoveIf(func(pmetric.NumberDataPoint) bool { return drop() })
		return m.Gauge().DataPoints().Len()
	case pmetric.MetricTypeSum:
		m.Sum().DataPoints().RemoveIf(func(pmetric.NumberDataPoint) bool { return drop() })
		return m.Sum().DataPoints().Len()
	case pmetric.MetricTypeHistogram:
		m.Histogram().DataPoints().RemoveIf(func(pmetric.HistogramDataPoint) bool { return drop() })
		return m.Histogram().DataPoints().Len()
	case pmetric.MetricTypeExponentialHistogram:
		m.ExponentialHistogram().DataPoints().RemoveIf(func(pmetric.ExponentialHistogramDataPoint) bool { return drop() })
		return m.ExponentialHistogram().DataPoints().Len()
	case pmetric.MetricTypeSummary:
		m.Summary().DataPoints().RemoveIf(func(pmetric.SummaryDataPoint) bool { return drop() })
		return m.Summary().DataPoints().Len()
	}
	return 0
}
