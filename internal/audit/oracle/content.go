package oracle

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Event is what the rules compare of one event.
type Event struct {
	Content [32]byte // SHA-256 over the event's message and everything around it that is stored
	UID     [32]byte // SHA-256 over resource, name and value of the attribute that names the event; zero: it has none
	Time    uint64   // of a log record its time, of a span its start, of a data point its time
	Other   uint64   // of a log record its observed time, of a span its end, of a data point its start time
}

// HasUID tells whether the event is named by an attribute.
func (e *Event) HasUID() bool { return e.UID != [32]byte{} }

// Coarse tells whether all times of the event are missing or whole milliseconds.
func (e *Event) Coarse() bool { return e.Time%1_000_000 == 0 && e.Other%1_000_000 == 0 }

// AttrUID is OpenTelemetry's attribute for the unique id of a log record.
const AttrUID = "log.record.uid"

// Field numbers of OTLP, the same for all signals unless said.
const (
	fieldResources     = 1 // of a request
	fieldResource      = 1 // of ResourceLogs
	fieldScopes        = 2
	fieldScope         = 1 // of ScopeLogs
	fieldEvents        = 2 // log records, spans, or metrics
	fieldSchemaURL     = 3 // of both
	fieldPoints        = 1 // of Gauge, Sum...
	fieldTemporality   = 2
	fieldMonotonic     = 3
	fieldLogAttributes = 6
)

// timeFields are the fixed64 fields of Event.Time and Event.Other.
var timeFields = map[signal.Signal][2]protowire.Number{signal.Logs: {1, 11}, signal.Traces: {7, 8}, signal.Metrics: {3, 2}}

var errMalformed = errors.New("malformed protobuf")

// Events reads the events of a request, in their order. The request must be one that pdata's decoder takes.
func Events(s signal.Signal, request []byte, idAttribute string) ([]Event, error) {
	r := reader{signal: s, times: timeFields[s], idAttribute: idAttribute}
	err := each(request, func(f field) error {
		if f.number != fieldResources || f.kind != protowire.BytesType {
			return nil
		}
		return r.resource(f.bytes)
	})
	if err != nil {
		return nil, fmt.Errorf("event %d: %w", len(r.events), err)
	}
	return r.events, nil
}

// field is one of a message.
type field struct {
	number protowire.Number
	kind   protowire.Type
	value  uint64 // of a VarintType or Fixed64Type
	bytes  []byte // content of a BytesType
	raw    []byte // tag and value
}

// each calls f with every field of a message.
func each(message []byte, f func(field) error) error {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return errMalformed
		}
		size := protowire.ConsumeFieldValue(number, kind, message[n:])
		if size < 0 {
			return errMalformed
		}
		at := field{number: number, kind: kind, raw: message[:n+size]}
		content := message[n : n+size]
		switch kind {
		case protowire.VarintType:
			at.value, _ = protowire.ConsumeVarint(content)
		case protowire.Fixed64Type:
			at.value, _ = protowire.ConsumeFixed64(content)
		case protowire.BytesType:
			at.bytes, _ = protowire.ConsumeBytes(content)
		}
		if err := f(at); err != nil {
			return err
		}
		message = message[n+size:]
	}
	return nil
}

// reader goes through one request.
type reader struct {
	signal      signal.Signal
	times       [2]protowire.Number
	idAttribute string
	events      []Event

	resourceSum [32]byte // of the resource and its schema URL
	around      [32]byte // of everything around the events of one scope, or of one metric
	scratch     []byte
}

// sum is SHA-256 over parts, each after its length.
func (r *reader) sum(parts ...[]byte) [32]byte {
	b := r.scratch[:0]
	for _, p := range parts {
		b = append(binary.LittleEndian.AppendUint64(b, uint64(len(p))), p...)
	}
	r.scratch = b
	return sha256.Sum256(b)
}

// wrapped reads a message that holds what is around others: its single message (fields that come several times are one, as protobuf merges them),
// its schema URL (the last one counts) and the messages within.
func wrapped(message []byte, single protowire.Number) (one, url []byte, within [][]byte, err error) {
	err = each(message, func(f field) error {
		switch {
		case f.kind != protowire.BytesType:
		case f.number == single && one == nil:
			one = f.bytes[:len(f.bytes):len(f.bytes)]
		case f.number == single:
			one = append(one, f.bytes...)
		case f.number == fieldSchemaURL:
			url = f.bytes
		case f.number == fieldScopes:
			within = append(within, f.bytes)
		}
		return nil
	})
	return one, url, within, err
}

func (r *reader) resource(message []byte) error {
	resource, url, scopes, err := wrapped(message, fieldResource)
	if err != nil {
		return err
	}
	r.resourceSum = r.sum(resource, url)
	for _, s := range scopes {
		scope, url, events, err := wrapped(s, fieldScope)
		if err != nil {
			return err
		}
		scopeSum := r.sum(r.resourceSum[:], scope, url)
		r.around = scopeSum
		for _, e := range events {
			if r.signal == signal.Metrics {
				err = r.metric(scopeSum, e)
			} else {
				err = r.event(e)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// metric reads the points of a metric. Of several data the last one counts.
func (r *reader) metric(scope [32]byte, message []byte) error {
	var name, description, unit, metadata, data []byte
	kind := protowire.Number(0)
	err := each(message, func(f field) error {
		if f.kind != protowire.BytesType {
			return nil
		}
		switch f.number {
		case 1:
			name = f.bytes
		case 2:
			description = f.bytes
		case 3:
			unit = f.bytes
		case 5, 7, 9, 10, 11:
			kind, data = f.number, f.bytes
		case 12:
			metadata = append(metadata, f.raw...)
		}
		return nil
	})
	if err != nil {
		return err
	}
	var temporality, monotonic uint64
	var points [][]byte
	err = each(data, func(f field) error {
		switch {
		case f.number == fieldPoints && f.kind == protowire.BytesType:
			points = append(points, f.bytes)
		case f.number == fieldTemporality && f.kind == protowire.VarintType:
			temporality = f.value
		case f.number == fieldMonotonic && f.kind == protowire.VarintType:
			monotonic = min(f.value, 1)
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.around = r.sum(scope[:], name, description, unit, metadata, []byte{byte(kind), byte(monotonic)}, binary.LittleEndian.AppendUint32(nil, uint32(temporality)))
	for _, p := range points {
		if err := r.event(p); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) event(message []byte) error {
	e := Event{Content: r.sum(r.around[:], message)}
	var uid, declared []byte // value of the first attribute of that name
	err := each(message, func(f field) error {
		switch {
		case f.kind == protowire.Fixed64Type && f.number == r.times[0]:
			e.Time = f.value
		case f.kind == protowire.Fixed64Type && f.number == r.times[1]:
			e.Other = f.value
		case r.signal == signal.Logs && f.number == fieldLogAttributes && f.kind == protowire.BytesType:
			key, err := attributeKey(f.bytes)
			if err != nil {
				return err
			}
			if uid == nil && string(key) == AttrUID {
				uid, err = attributeValue(f.bytes)
			}
			if err == nil && declared == nil && r.idAttribute != "" && string(key) == r.idAttribute {
				declared, err = attributeValue(f.bytes)
			}
			return err
		}
		return nil
	})
	if err != nil {
		return err
	}
	switch {
	case named(uid):
		e.UID = r.sum(r.resourceSum[:], []byte(AttrUID), uid)
	case named(declared):
		e.UID = r.sum(r.resourceSum[:], []byte(r.idAttribute), declared)
	}
	r.events = append(r.events, e)
	return nil
}

// attributeKey is the key of a KeyValue.
func attributeKey(message []byte) (key []byte, err error) {
	err = each(message, func(f field) error {
		if f.kind == protowire.BytesType && f.number == 1 {
			key = f.bytes
		}
		return nil
	})
	return key, err
}

// attributeValue is the AnyValue of a KeyValue. It is not nil.
func attributeValue(message []byte) (value []byte, err error) {
	value = []byte{}
	err = each(message, func(f field) error {
		if f.kind == protowire.BytesType && f.number == 2 {
			value = append(value, f.bytes...)
		}
		return nil
	})
	return value, err
}

// named tells whether an AnyValue names an event: it is set, and no empty text or bytes.
func named(value []byte) bool {
	set := false
	err := each(value, func(f field) error {
		switch f.number {
		case 1, 7:
			set = len(f.bytes) > 0
		case 2, 3, 4, 5, 6:
			set = true
		}
		return nil
	})
	return set && err == nil
}
