package otlpwire

import (
	"encoding/binary"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Content is an event as the bytes that it and everything around it were sent as: what makes it equal to another one. Around an event are the fields of
// the resource's, the scope's and the metric's messages that hold no events, known or not, in their order: Split keeps the same ones. pdata makes the same
// of them wherever they lie between the fields that hold events.
type Content struct {
	Bytes []byte     // the LogRecord, Span or data point message
	Type  MetricType // of a data point's metric, and else 0

	// What is around the event is another message than for the event before, though perhaps an equal one.
	NewResource, NewScope, NewMetric bool

	signal signal.Signal
	path   *path
}

// WalkContent is Walk for callers that want the bytes of events.
func WalkContent(sig signal.Signal, req []byte, fn func(*Content) bool) error {
	c := Content{signal: sig}
	return descend(sig, req, func(p *path) bool {
		c.Bytes, c.path = p.event, p
		c.NewResource, c.NewScope = p.changed <= resourceLevel, p.changed <= scopeLevel
		if sig == signal.Metrics {
			c.NewMetric = p.changed <= dataLevel
			c.Type = MetricType(p.at[dataLevel].num)
		}
		return fn(&c)
	})
}

// AppendResource appends the fields around the events of a resource: the Resource message and its schema URL.
func (c *Content) AppendResource(dst []byte) []byte { return c.path.at[resourceLevel].appendOwn(dst) }

// AppendScope appends the fields around the events of a scope: the InstrumentationScope message and its schema URL.
func (c *Content) AppendScope(dst []byte) []byte { return c.path.at[scopeLevel].appendOwn(dst) }

// AppendMetric appends the fields of a data point's metric: name, unit, description, metadata.
func (c *Content) AppendMetric(dst []byte) []byte { return c.path.at[metricLevel].appendOwn(dst) }

// AppendData appends the fields of a metric's Gauge, Sum, ... message: temporality, monotonicity.
func (c *Content) AppendData(dst []byte) []byte { return c.path.at[dataLevel].appendOwn(dst) }

// appendOwn appends the message's fields that hold no events.
func (l *level) appendOwn(dst []byte) []byte {
	f := fields{b: l.msg}
	for f.next() {
		if l.holder.field(f.num).kind < kEvents {
			dst = append(dst, f.raw()...)
		}
	}
	return dst
}

// Times are the two times that an event has, 0 where one is not set: time and observed time of a log record, start and end of a span, start time and time
// of a data point.
func (c *Content) Times() (a, b uint64) {
	switch c.signal {
	case signal.Logs:
		a, b, _, _ = c.Log("", "")
		return a, b
	case signal.Traces:
		return times(c.Bytes, 7, 8)
	}
	return times(c.Bytes, 2, 3)
}

func times(event []byte, first, second int32) (a, b uint64) {
	f := fields{b: event}
	for {
		msg, pos := f.b, f.pos
		for pos+1 < len(msg) && msg[pos]&0x87 == wireLen && msg[pos] >= 1<<3 && msg[pos+1] < 0x80 && pos+2+int(msg[pos+1]) <= len(msg) { // short fields that are no times
			pos += 2 + int(msg[pos+1])
		}
		f.pos = pos
		if !f.next() {
			return a, b
		}
		if f.wire == wireI64 {
			switch f.num {
			case first:
				a = f.uint()
			case second:
				b = f.uint()
			}
		}
	}
}

// Log reads a log record's time and observed time, and its first attributes of two keys, in one pass: a value is of TypeEmpty where there is none.
func (c *Content) Log(key1, key2 string) (time, observed uint64, value1, value2 Value) {
	found1, found2 := key1 == "", key2 == ""
	f := fields{b: c.Bytes}
	for {
		if b, pos := f.b, f.pos; pos+9 <= len(b) && (b[pos] == 1<<3|wireI64 || b[pos] == 11<<3|wireI64) {
			if at := binary.LittleEndian.Uint64(b[pos+1:]); b[pos] == 1<<3|wireI64 {
				time = at
			} else {
				observed = at
			}
			f.pos += 9
			continue
		}
		if !f.next() {
			return time, observed, value1, value2
		}
		switch {
		case f.wire == wireI64 && f.num == 1: // with an overlong tag
			time = f.uint()
		case f.wire == wireI64 && f.num == 11:
			observed = f.uint()
		case f.wire == wireLen && f.num == 6 && (!found1 || !found2):
			key, value, ok := usualParts(f.content())
			if !ok {
				key, value = rawKeyValue(f.content())
			}
			if !found1 && string(key) == key1 {
				value1, found1 = RawValue(value).Value(), true
			}
			if !found2 && string(key) == key2 {
				value2, found2 = RawValue(value).Value(), true
			}
		}
	}
}
