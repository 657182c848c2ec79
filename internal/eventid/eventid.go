// Package eventid gives every event an id of 16 bytes that its retries share, so that a second copy of it can be told from
// another event. An id is a hash (XXH3, 128 bits) over the event as decoded: decoding and encoding it again, or sending it in
// another request, changes nothing. Attributes under lineage.Prefix are PulseGrid's own and never hashed.
//
//	log record   its attribute event.id, if that is set; else all of its content, and its source
//	span         trace id and span id, if both are set; else all of its content, and its source
//	data point   what makes the time series (source, scope, metric, attributes in any order) and its times; where it has no
//	             time, its value as well
//
// Wire makes the same ids of a request's bytes, without decoding it.
//
// The source of an event is what Source makes of the record's source and the event's resource: one record may hold many
// resources, which report the same metrics at the same time.
package eventid

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
	"sync"

	"github.com/zeebo/xxh3"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/pulsegrid/pulsegrid/internal/lineage"
)

// AttrID is the attribute of a log record by which an agent gives it an id of its own.
const AttrID = "event.id"

// What an id was made of is hashed first, so that ids of different making never meet.
const (
	ofLogID byte = iota + 1
	ofLog
	ofSpanID
	ofSpan
	ofNumber
	ofHistogram
	ofExponentialHistogram
	ofSummary
	ofSource
)

// Source is the source to give to this package's other functions for the events of resource: a digest of the record's source
// and of all the resource's attributes, in any order. It allocates; call it once a resource.
func Source(source string, resource pcommon.Resource) string {
	e := get(ofSource, source)
	e.attributesSorted(resource.Attributes())
	id := e.sum()
	return string(id[:])
}

// Log is a log record's id.
func Log(lr plog.LogRecord, source string) [16]byte {
	if v, ok := lr.Attributes().Get(AttrID); ok && v.Type() != pcommon.ValueTypeEmpty && (v.Type() != pcommon.ValueTypeStr || v.Str() != "") {
		e := get(ofLogID, "")
		e.value(v)
		return e.sum()
	}
	e := get(ofLog, source)
	e.uint(uint64(lr.Timestamp()))
	e.uint(uint64(lr.ObservedTimestamp()))
	e.uint(uint64(lr.SeverityNumber()))
	e.str(lr.SeverityText())
	e.str(lr.EventName())
	e.value(lr.Body())
	e.attributes(lr.Attributes())
	e.uint(uint64(lr.DroppedAttributesCount()))
	e.uint(uint64(lr.Flags()))
	e.ids(lr.TraceID(), lr.SpanID())
	return e.sum()
}

// Span is a span's id.
func Span(s ptrace.Span, source string) [16]byte {
	if !s.TraceID().IsEmpty() && !s.SpanID().IsEmpty() {
		e := get(ofSpanID, "")
		e.ids(s.TraceID(), s.SpanID())
		return e.sum()
	}
	e := get(ofSpan, source)
	e.ids(s.TraceID(), s.SpanID())
	e.ids(pcommon.TraceID{}, s.ParentSpanID())
	e.str(s.TraceState().AsRaw())
	e.uint(uint64(s.Flags()))
	e.str(s.Name())
	e.uint(uint64(s.Kind()))
	e.uint(uint64(s.StartTimestamp()))
	e.uint(uint64(s.EndTimestamp()))
	e.attributes(s.Attributes())
	e.uint(uint64(s.DroppedAttributesCount()))
	e.uint(uint64(s.Events().Len()))
	for i := range s.Events().Len() {
		ev := s.Events().At(i)
		e.uint(uint64(ev.Timestamp()))
		e.str(ev.Name())
		e.attributes(ev.Attributes())
		e.uint(uint64(ev.DroppedAttributesCount()))
	}
	e.uint(uint64(s.DroppedEventsCount()))
	e.uint(uint64(s.Links().Len()))
	for i := range s.Links().Len() {
		l := s.Links().At(i)
		e.ids(l.TraceID(), l.SpanID())
		e.str(l.TraceState().AsRaw())
		e.uint(uint64(l.Flags()))
		e.attributes(l.Attributes())
		e.uint(uint64(l.DroppedAttributesCount()))
	}
	e.uint(uint64(s.DroppedLinksCount()))
	e.str(s.Status().Message())
	e.uint(uint64(s.Status().Code()))
	return e.sum()
}

// NumberPoint is the id of a gauge's or a sum's data point. The metric and the scope are those that it lies in.
func NumberPoint(m pmetric.Metric, scope pcommon.InstrumentationScope, dp pmetric.NumberDataPoint, source string) [16]byte {
	e := get(ofNumber, source)
	e.series(m, scope, dp.Attributes(), dp.StartTimestamp(), dp.Timestamp())
	if dp.Timestamp() == 0 {
		e.uint(uint64(dp.ValueType()))
		e.uint(uint64(dp.IntValue()))
		e.double(dp.DoubleValue())
	}
	return e.sum()
}

// HistogramPoint is the id of a histogram's data point.
func HistogramPoint(m pmetric.Metric, scope pcommon.InstrumentationScope, dp pmetric.HistogramDataPoint, source string) [16]byte {
	e := get(ofHistogram, source)
	e.series(m, scope, dp.Attributes(), dp.StartTimestamp(), dp.Timestamp())
	if dp.Timestamp() == 0 {
		e.uint(dp.Count())
		e.optional(dp.HasSum(), dp.Sum())
		e.optional(dp.HasMin(), dp.Min())
		e.optional(dp.HasMax(), dp.Max())
		e.uints(dp.BucketCounts())
		e.uint(uint64(dp.ExplicitBounds().Len()))
		for i := range dp.ExplicitBounds().Len() {
			e.double(dp.ExplicitBounds().At(i))
		}
	}
	return e.sum()
}

// ExponentialHistogramPoint is the id of an exponential histogram's data point.
func ExponentialHistogramPoint(
	m pmetric.Metric, scope pcommon.InstrumentationScope, dp pmetric.ExponentialHistogramDataPoint, source string,
) [16]byte {
	e := get(ofExponentialHistogram, source)
	e.series(m, scope, dp.Attributes(), dp.StartTimestamp(), dp.Timestamp())
	if dp.Timestamp() == 0 {
		e.uint(dp.Count())
		e.optional(dp.HasSum(), dp.Sum())
		e.optional(dp.HasMin(), dp.Min())
		e.optional(dp.HasMax(), dp.Max())
		e.uint(uint64(dp.Scale()))
		e.uint(dp.ZeroCount())
		e.double(dp.ZeroThreshold())
		e.uint(uint64(dp.Positive().Offset()))
		e.uints(dp.Positive().BucketCounts())
		e.uint(uint64(dp.Negative().Offset()))
		e.uints(dp.Negative().BucketCounts())
	}
	return e.sum()
}

// SummaryPoint is the id of a summary's data point.
func SummaryPoint(m pmetric.Metric, scope pcommon.InstrumentationScope, dp pmetric.SummaryDataPoint, source string) [16]byte {
	e := get(ofSummary, source)
	e.series(m, scope, dp.Attributes(), dp.StartTimestamp(), dp.Timestamp())
	if dp.Timestamp() == 0 {
		e.uint(dp.Count())
		e.double(dp.Sum())
		e.uint(uint64(dp.QuantileValues().Len()))
		for i := range dp.QuantileValues().Len() {
			e.double(dp.QuantileValues().At(i).Quantile())
			e.double(dp.QuantileValues().At(i).Value())
		}
	}
	return e.sum()
}

// encoder writes what is hashed. Numbers take eight bytes, all else is preceded by its length and a list by its count, so that
// no two contents give the same bytes.
type encoder struct {
	buf    []byte
	chunks []chunk // of attributesSorted
}

type chunk struct{ start, end int }

var encoders = sync.Pool{New: func() any { return &encoder{buf: make([]byte, 0, 4096)} }}

func get(of byte, source string) *encoder {
	e := encoders.Get().(*encoder)
	e.begin(of, source)
	return e
}

func (e *encoder) begin(of byte, source string) {
	e.buf = append(e.buf[:0], of)
	e.str(source)
}

// maxKept bounds the buffers that the pool holds on to.
const maxKept = 1 << 20

func (e *encoder) sum() [16]byte {
	id := xxh3.Hash128(e.buf).Bytes()
	if cap(e.buf) <= maxKept {
		encoders.Put(e)
	}
	return id
}

func (e *encoder) uint(v uint64) { e.buf = binary.LittleEndian.AppendUint64(e.buf, v) }
func (e *encoder) str(s string)  { e.uint(uint64(len(s))); e.buf = append(e.buf, s...) }

// double writes -0 as 0: encoders leave out a field that equals zero.
func (e *encoder) double(v float64) {
	if v == 0 {
		v = 0
	}
	e.uint(math.Float64bits(v))
}

func (e *encoder) optional(has bool, v float64) {
	if !has {
		e.uint(0)
		return
	}
	e.uint(1)
	e.double(v)
}

func (e *encoder) uints(s pcommon.UInt64Slice) {
	e.uint(uint64(s.Len()))
	for i := range s.Len() {
		e.uint(s.At(i))
	}
}

func (e *encoder) ids(trace pcommon.TraceID, span pcommon.SpanID) {
	e.buf = append(e.buf, trace[:]...)
	e.buf = append(e.buf, span[:]...)
}

func (e *encoder) series(
	m pmetric.Metric, scope pcommon.InstrumentationScope, attrs pcommon.Map, start, time pcommon.Timestamp,
) {
	e.str(scope.Name())
	e.str(scope.Version())
	e.str(m.Name())
	e.str(m.Unit())
	e.uint(uint64(m.Type()))
	e.attributesSorted(attrs)
	e.uint(uint64(start))
	e.uint(uint64(time))
}

func (e *encoder) value(v pcommon.Value) {
	e.buf = append(e.buf, byte(v.Type()))
	switch v.Type() {
	case pcommon.ValueTypeStr:
		e.str(v.Str())
	case pcommon.ValueTypeBool:
		if v.Bool() {
			e.uint(1)
		} else {
			e.uint(0)
		}
	case pcommon.ValueTypeInt:
		e.uint(uint64(v.Int()))
	case pcommon.ValueTypeDouble:
		e.double(v.Double())
	case pcommon.ValueTypeBytes:
		b := v.Bytes()
		e.uint(uint64(b.Len()))
		for i := range b.Len() {
			e.buf = append(e.buf, b.At(i))
		}
	case pcommon.ValueTypeSlice:
		s := v.Slice()
		e.uint(uint64(s.Len()))
		for i := range s.Len() {
			e.value(s.At(i))
		}
	case pcommon.ValueTypeMap:
		m := v.Map()
		e.uint(uint64(m.Len()))
		for k, v := range m.All() {
			e.str(k)
			e.value(v)
		}
	}
}

// attributes writes an event's attributes in their order, without the reserved ones. Their count is put in front afterwards.
func (e *encoder) attributes(m pcommon.Map) {
	at, n := len(e.buf), 0
	e.uint(0)
	for k, v := range m.All() {
		if lineage.Reserved(k) {
			continue
		}
		n++
		e.str(k)
		e.value(v)
	}
	binary.LittleEndian.PutUint64(e.buf[at:], uint64(n))
}

// attributesSorted writes attributes, each as key and value, in the order of the bytes they are written as.
func (e *encoder) attributesSorted(m pcommon.Map) {
	e.chunks = e.chunks[:0]
	at := len(e.buf)
	e.uint(0)
	begin := len(e.buf)
	for k, v := range m.All() {
		if lineage.Reserved(k) {
			continue
		}
		start := len(e.buf)
		e.str(k)
		e.value(v)
		e.chunks = append(e.chunks, chunk{start, len(e.buf)})
	}
	binary.LittleEndian.PutUint64(e.buf[at:], uint64(len(e.chunks)))
	e.sortChunks(begin)
}

// sortChunks puts the chunks, which lie from begin to the end, in the order of their bytes.
func (e *encoder) sortChunks(begin int) {
	end, buf := len(e.buf), e.buf
	byBytes := func(a, b chunk) int { return bytes.Compare(buf[a.start:a.end], buf[b.start:b.end]) }
	if slices.IsSortedFunc(e.chunks, byBytes) {
		return
	}
	slices.SortFunc(e.chunks, byBytes)
	for _, c := range e.chunks { // behind the unsorted ones, then over them
		e.buf = append(e.buf, e.buf[c.start:c.end]...)
	}
	copy(e.buf[begin:], e.buf[end:])
	e.buf = e.buf[:end]
}
