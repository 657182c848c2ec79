package otlpwire

import (
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// MetricType is the type of a metric's data; its values are the numbers of Metric's fields.
type MetricType uint8

// The types of metric.
const (
	Gauge                MetricType = 5
	Sum                  MetricType = 7
	Histogram            MetricType = 9
	ExponentialHistogram MetricType = 10
	Summary              MetricType = 11
)

// String returns the type's name as pmetric writes it; "" for no type.
func (t MetricType) String() string {
	switch t {
	case Gauge:
		return "Gauge"
	case Sum:
		return "Sum"
	case Histogram:
		return "Histogram"
	case ExponentialHistogram:
		return "ExponentialHistogram"
	case Summary:
		return "Summary"
	}
	return ""
}

// Metric is what a data point's metric says of all its points. It is zero for a log record or a span.
type Metric struct {
	Name []byte
	Unit []byte
	Type MetricType
	Data []byte // the Gauge, Sum, ... message, data points included
}

// Temporality is the metric's aggregation temporality: 0 unspecified or none, 1 delta, 2 cumulative.
func (m Metric) Temporality() int32 {
	if m.Type == Gauge || m.Type == Summary {
		return 0
	}
	return int32(lastUint(m.Data, 2, wireVarint))
}

// Monotonic tells whether a sum only ever rises.
func (m Metric) Monotonic() bool { return m.Type == Sum && lastUint(m.Data, 3, wireVarint) != 0 }

// Event is one log record, span or metric data point and what encloses it. Its accessors read the event's bytes when called.
type Event struct {
	Index    int    // ordinal in the request, from 0, in pdata's order
	Bytes    []byte // the LogRecord, Span or data point message
	Resource []byte // the Resource message; empty where there is none
	Scope    []byte // the InstrumentationScope message; empty where there is none
	Metric   Metric
	Signal   signal.Signal

	// Ordinals, from 0, of the event's resource, scope and metric among those of the request that hold events: who works something out
	// for all events of one does it again when this changes.
	ResourceIndex, ScopeIndex, MetricIndex int

	resourceWrapper, scopeWrapper []byte // the ResourceLogs and ScopeLogs message, or what the signal has
}

// SchemaURL is that of the event's scope, and where it has none that of its resource.
func (e *Event) SchemaURL() []byte {
	if url := lastBytes(e.scopeWrapper, 3); len(url) > 0 {
		return url
	}
	return lastBytes(e.resourceWrapper, 3)
}

// Attributes of the event itself.
func (e *Event) Attributes() Attributes { return Attributes{e.Bytes, e.attributesField()} }

// ResourceAttributes are those of the event's resource.
func (e *Event) ResourceAttributes() Attributes { return Attributes{e.Resource, resourceAttributes} }

// ScopeAttributes are those of the event's scope.
func (e *Event) ScopeAttributes() Attributes { return Attributes{e.Scope, 3} }

const resourceAttributes = 1

func (e *Event) attributesField() int32 {
	switch e.Signal {
	case signal.Logs:
		return 6
	case signal.Traces:
		return 9
	}
	switch e.Metric.Type {
	case Histogram:
		return 9
	case ExponentialHistogram:
		return 1
	}
	return 7
}

// Attr returns the event's first attribute of that key.
func (e *Event) Attr(key string) (Value, bool) { return e.Attributes().Get(key) }

// ResourceAttr returns the resource's first attribute of that key.
func (e *Event) ResourceAttr(key string) (Value, bool) { return e.ResourceAttributes().Get(key) }

// ScopeAttr returns the scope's first attribute of that key.
func (e *Event) ScopeAttr(key string) (Value, bool) { return e.ScopeAttributes().Get(key) }

// ScopeName is the name of the instrumentation scope.
func (e *Event) ScopeName() []byte { return lastBytes(e.Scope, 1) }

// ScopeVersion is the version of the instrumentation scope.
func (e *Event) ScopeVersion() []byte { return lastBytes(e.Scope, 2) }

// StartTime is when a data point's series began, in nanoseconds since 1970; 0: not set, or not a data point.
func (e *Event) StartTime() uint64 {
	if e.Signal != signal.Metrics {
		return 0
	}
	return lastUint(e.Bytes, 2, wireI64)
}

// Time is a log record's or a data point's time or a span's start, in nanoseconds since 1970; 0: not set.
func (e *Event) Time() uint64 {
	switch e.Signal {
	case signal.Logs:
		return lastUint(e.Bytes, 1, wireI64)
	case signal.Traces:
		return lastUint(e.Bytes, 7, wireI64)
	}
	return lastUint(e.Bytes, 3, wireI64)
}

// ObservedTime is when a log record was observed, in nanoseconds since 1970; 0: not set, or not a log record.
func (e *Event) ObservedTime() uint64 {
	if e.Signal != signal.Logs {
		return 0
	}
	return lastUint(e.Bytes, 11, wireI64)
}

// EndTime is a span's end in nanoseconds since 1970; 0: not set, or not a span.
func (e *Event) EndTime() uint64 {
	if e.Signal != signal.Traces {
		return 0
	}
	return lastUint(e.Bytes, 8, wireI64)
}

// Name is a log record's event name, a span's name or a data point's metric's name.
func (e *Event) Name() []byte {
	switch e.Signal {
	case signal.Logs:
		return lastBytes(e.Bytes, 12)
	case signal.Traces:
		return lastBytes(e.Bytes, 5)
	}
	return e.Metric.Name
}

// Severity is a log record's severity number; 0: not set, or not a log record.
func (e *Event) Severity() int32 {
	if e.Signal != signal.Logs {
		return 0
	}
	return int32(lastUint(e.Bytes, 2, wireVarint))
}

// Body is a log record's body; empty for other events.
func (e *Event) Body() (v Value) {
	if e.Signal != signal.Logs {
		return v
	}
	f := fields{b: e.Bytes}
	for f.next() {
		if f.num == 5 && f.wire == wireLen {
			v = v.merge(f.content())
		}
	}
	return v
}

// LogRecord is what a log record holds besides its attributes.
type LogRecord struct {
	Time, ObservedTime uint64 // nanoseconds since 1970; 0: not set
	Severity           int32
	SeverityText       []byte
	EventName          []byte
	Body               Value
	DroppedAttributes  uint32
	Flags              uint32
	TraceID            [16]byte
	SpanID             [8]byte
}

// LogRecord reads all of a log record at once; zero for other events.
func (e *Event) LogRecord() (r LogRecord) {
	if e.Signal != signal.Logs {
		return r
	}
	var trace, span []byte
	f := fields{b: e.Bytes}
	for f.next() {
		switch {
		case f.num == 1 && f.wire == wireI64:
			r.Time = f.uint()
		case f.num == 2 && f.wire == wireVarint:
			r.Severity = int32(f.uint())
		case f.num == 3 && f.wire == wireLen:
			r.SeverityText = f.content()
		case f.num == 5 && f.wire == wireLen:
			r.Body = r.Body.merge(f.content())
		case f.num == 7 && f.wire == wireVarint:
			r.DroppedAttributes = uint32(f.uint())
		case f.num == 8 && f.wire == wireI32:
			r.Flags = uint32(f.uint())
		case f.num == 9 && f.wire == wireLen:
			trace = f.content()
		case f.num == 10 && f.wire == wireLen:
			span = f.content()
		case f.num == 11 && f.wire == wireI64:
			r.ObservedTime = f.uint()
		case f.num == 12 && f.wire == wireLen:
			r.EventName = f.content()
		}
	}
	copy(r.TraceID[:], trace)
	copy(r.SpanID[:], span)
	return r
}

// TraceID of a log record or span; zero: not set, or a data point.
func (e *Event) TraceID() (id [16]byte) {
	switch e.Signal {
	case signal.Logs:
		copy(id[:], lastBytes(e.Bytes, 9))
	case signal.Traces:
		copy(id[:], lastBytes(e.Bytes, 1))
	}
	return id
}

// SpanID of a log record or span; zero: not set, or a data point.
func (e *Event) SpanID() (id [8]byte) {
	switch e.Signal {
	case signal.Logs:
		copy(id[:], lastBytes(e.Bytes, 10))
	case signal.Traces:
		copy(id[:], lastBytes(e.Bytes, 2))
	}
	return id
}

// Walk calls fn for each event of req in order until fn returns false. It fails with ErrMalformed when it comes across a fault outside the events' own bytes;
// it has called fn for the events before the fault then. The Event is the walk's own, and another one after fn has returned; its slices alias req.
func Walk(sig signal.Signal, req []byte, fn func(*Event) bool) error {
	e := Event{Signal: sig, ResourceIndex: -1, ScopeIndex: -1, MetricIndex: -1}
	index := 0
	return descend(sig, req, func(p *path) bool {
		e.Index = index
		index++
		e.Bytes = p.event
		if p.changed <= resourceLevel {
			e.ResourceIndex++
			e.resourceWrapper = p.at[resourceLevel].msg
			e.Resource = merged(e.resourceWrapper, 1)
		}
		if p.changed <= scopeLevel {
			e.ScopeIndex++
			e.scopeWrapper = p.at[scopeLevel].msg
			e.Scope = merged(e.scopeWrapper, 1)
		}
		if sig == signal.Metrics && p.changed <= dataLevel {
			e.MetricIndex++
			metric := p.at[metricLevel].msg
			e.Metric = Metric{
				Name: lastBytes(metric, 1), Unit: lastBytes(metric, 3),
				Type: MetricType(p.at[dataLevel].num), Data: p.at[dataLevel].msg,
			}
		}
		return fn(&e)
	})
}

// merged returns a singular message field. It is copied only in the odd case that it comes in several pieces: protobuf merges
// messages by concatenating them.
func merged(msg []byte, num int32) (one []byte) {
	f := fields{b: msg}
	for f.next() {
		if f.num != num || f.wire != wireLen {
			continue
		}
		if one == nil {
			one = f.content() // its capacity ends with it, so that append copies
		} else {
			one = append(one, f.content()...)
		}
	}
	return one
}
