package eventid

import (
	"encoding/binary"
	"unsafe"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Wire appends to dst the ids of a request's events, in their order: what this package makes of the events when pdata has decoded
// them, several times as fast. False: it has an event whose id is made of what is not read here (a span without ids, a data point
// without a time), and dst has a part of the ids or none. source is the record's, not Source's.
//
// The request must have passed otlpwire.Count.
func Wire(sig signal.Signal, request []byte, source string, dst [][16]byte) ([][16]byte, bool) {
	w := wire{source: source, ids: dst, ok: true}
	err := otlpwire.Walk(sig, request, func(ev *otlpwire.Event) bool {
		switch sig {
		case signal.Logs:
			w.log(ev)
		case signal.Traces:
			w.span(ev)
		case signal.Metrics:
			w.point(ev)
		}
		return w.ok
	})
	return w.ids, w.ok && err == nil
}

type wire struct {
	source string
	ids    [][16]byte
	ok     bool

	resource []byte // that digest is of
	digest   string
	known    bool
}

// of is Source of the event's resource. It is made once for the events of a resource.
func (w *wire) of(ev *otlpwire.Event) string {
	if !w.known || len(ev.Resource) != len(w.resource) || unsafe.SliceData(ev.Resource) != unsafe.SliceData(w.resource) {
		e := get(ofSource, w.source)
		e.wireSorted(ev.ResourceAttributes())
		id := e.sum()
		w.resource, w.digest, w.known = ev.Resource, string(id[:]), true
	}
	return w.digest
}

func (w *wire) log(ev *otlpwire.Event) {
	r := ev.LogRecord()
	e := get(ofLog, w.of(ev))
	e.uint(r.Time)
	e.uint(r.ObservedTime)
	e.uint(uint64(r.Severity))
	e.bytes(r.SeverityText)
	e.bytes(r.EventName)
	e.wireValue(r.Body)
	if v, ok := e.wireAttributes(ev.Attributes()); ok && v.Type() != otlpwire.TypeEmpty && (v.Type() != otlpwire.TypeString || len(v.Bytes()) > 0) {
		e.begin(ofLogID, "") // it has an id of its own: what was written so far is not hashed
		e.wireValue(v)
		w.ids = append(w.ids, e.sum())
		return
	}
	e.uint(uint64(r.DroppedAttributes))
	e.uint(uint64(r.Flags))
	e.ids(r.TraceID, r.SpanID)
	w.ids = append(w.ids, e.sum())
}

func (w *wire) span(ev *otlpwire.Event) {
	trace, span := pcommon.TraceID(ev.TraceID()), pcommon.SpanID(ev.SpanID())
	if trace.IsEmpty() || span.IsEmpty() {
		w.ok = false
		return
	}
	e := get(ofSpanID, "")
	e.ids(trace, span)
	w.ids = append(w.ids, e.sum())
}

func (w *wire) point(ev *otlpwire.Event) {
	of, typ := ofNumber, pmetric.MetricTypeGauge
	switch ev.Metric.Type {
	case otlpwire.Gauge:
	case otlpwire.Sum:
		typ = pmetric.MetricTypeSum
	case otlpwire.Histogram:
		of, typ = ofHistogram, pmetric.MetricTypeHistogram
	case otlpwire.ExponentialHistogram:
		of, typ = ofExponentialHistogram, pmetric.MetricTypeExponentialHistogram
	case otlpwire.Summary:
		of, typ = ofSummary, pmetric.MetricTypeSummary
	}
	time := ev.Time()
	if time == 0 {
		w.ok = false
		return
	}
	e := get(of, w.of(ev))
	e.bytes(ev.ScopeName())
	e.bytes(ev.ScopeVersion())
	e.bytes(ev.Metric.Name)
	e.bytes(ev.Metric.Unit)
	e.uint(uint64(typ))
	e.wireSorted(ev.Attributes())
	e.uint(ev.StartTime())
	e.uint(time)
	w.ids = append(w.ids, e.sum())
}

func (e *encoder) bytes(b []byte) { e.uint(uint64(len(b))); e.buf = append(e.buf, b...) }

// valueTypes are pdata's names of the types: they are part of what is hashed.
var valueTypes = [...]pcommon.ValueType{
	otlpwire.TypeEmpty: pcommon.ValueTypeEmpty, otlpwire.TypeString: pcommon.ValueTypeStr, otlpwire.TypeBool: pcommon.ValueTypeBool,
	otlpwire.TypeInt: pcommon.ValueTypeInt, otlpwire.TypeDouble: pcommon.ValueTypeDouble, otlpwire.TypeArray: pcommon.ValueTypeSlice,
	otlpwire.TypeMap: pcommon.ValueTypeMap, otlpwire.TypeBytes: pcommon.ValueTypeBytes,
}

func (e *encoder) wireValue(v otlpwire.Value) {
	e.buf = append(e.buf, byte(valueTypes[v.Type()]))
	switch v.Type() {
	case otlpwire.TypeString, otlpwire.TypeBytes:
		e.bytes(v.Bytes())
	case otlpwire.TypeBool:
		if v.Bool() {
			e.uint(1)
		} else {
			e.uint(0)
		}
	case otlpwire.TypeInt:
		e.uint(uint64(v.Int()))
	case otlpwire.TypeDouble:
		e.double(v.Double())
	case otlpwire.TypeArray:
		at, n := e.count()
		for item := range v.Items() {
			n++
			e.wireValue(item)
		}
		e.counted(at, n)
	case otlpwire.TypeMap:
		at, n := e.count()
		for k, item := range v.Map().All() {
			n++
			e.bytes(k)
			e.wireValue(item)
		}
		e.counted(at, n)
	}
}

// count leaves room for a count, which counted puts there.
func (e *encoder) count() (at, n int) { e.uint(0); return len(e.buf) - 8, 0 }

func (e *encoder) counted(at, n int) { binary.LittleEndian.PutUint64(e.buf[at:], uint64(n)) }

// wireAttributes writes an event's attributes, and returns the first one named AttrID.
func (e *encoder) wireAttributes(attrs otlpwire.Attributes) (id otlpwire.Value, found bool) {
	at, n := e.count()
	for k, v := range attrs.All() {
		if reserved(k) {
			continue
		}
		if !found && string(k) == AttrID {
			id, found = v, true
		}
		n++
		e.bytes(k)
		e.wireValue(v)
	}
	e.counted(at, n)
	return id, found
}

func (e *encoder) wireSorted(attrs otlpwire.Attributes) {
	e.chunks = e.chunks[:0]
	at, _ := e.count()
	for k, v := range attrs.All() {
		if reserved(k) {
			continue
		}
		start := len(e.buf)
		e.bytes(k)
		e.wireValue(v)
		e.chunks = append(e.chunks, chunk{start, len(e.buf)})
	}
	e.counted(at, len(e.chunks))
	e.sortChunks(at + 8)
}

func reserved(key []byte) bool {
	return len(key) >= len(lineage.Prefix) && string(key[:len(lineage.Prefix)]) == lineage.Prefix
}
