// Package lineage stamps decoded events with where they lie in Kafka and with their event id, so that any stock processor may
// filter, split or regroup them on the way to a store.
//
// A resource carries what all events of a record share (tenant, source, received time, topic, partition) as attributes of
// their own; an event carries one bytes attribute: event id (16) | offset (8, big endian) | index (4, big endian). All of them
// begin with Prefix, which is reserved: what an agent sent under it is removed when a record is stamped, and the stores' row
// model turns stamps into columns and never shows them as attributes.
package lineage

import (
	"encoding/binary"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
)

// Prefix of every reserved attribute.
const Prefix = "pulsegrid."

// Reserved attributes.
const (
	AttrTenant    = Prefix + "tenant"
	AttrSource    = Prefix + "source"
	AttrReceived  = Prefix + "received_unix_nano"
	AttrTopic     = Prefix + "topic"
	AttrPartition = Prefix + "partition"
	AttrAppended  = Prefix + "appended_unix_nano"
	AttrEvent     = Prefix + "event"

	// Between a gateway's processors and its exporter only.
	AttrLane         = Prefix + "lane"
	AttrJurisdiction = Prefix + "jurisdiction"
	AttrTopicClass   = Prefix + "topic_class"
	AttrIDAttribute  = Prefix + "id_attribute"
)

// Origin is what all events of one record share.
type Origin struct {
	Tenant    string
	Source    string
	Received  time.Time
	Topic     string // empty: the event did not come through Kafka
	Partition int32
	Appended  time.Time // the record's timestamp: when Kafka appended it, with message.timestamp.type=LogAppendTime
}

// Route is where the gateway sends the data of a resource. An empty field is not said.
type Route struct {
	Lane         string // of envelope
	Jurisdiction string // where the tenant's data may be; empty: anywhere
	TopicClass   string // empty: the common topics
	IDAttribute  string // log attribute that the tenant declares to be unique; empty: none
}

// StampRoute sets a resource's route, over the one that it has.
func StampRoute(attrs pcommon.Map, r Route) {
	for key, value := range map[string]string{AttrLane: r.Lane, AttrJurisdiction: r.Jurisdiction, AttrTopicClass: r.TopicClass, AttrIDAttribute: r.IDAttribute} {
		if value == "" {
			attrs.Remove(key)
		} else {
			attrs.PutStr(key, value)
		}
	}
}

// ReadRoute returns a resource's route; empty where it has none.
func ReadRoute(attrs pcommon.Map) Route {
	read := func(key string) string {
		if v, ok := attrs.Get(key); ok {
			return v.Str()
		}
		return ""
	}
	return Route{Lane: read(AttrLane), Jurisdiction: read(AttrJurisdiction), TopicClass: read(AttrTopicClass), IDAttribute: read(AttrIDAttribute)}
}

// Event is one event's id and place.
type Event struct {
	ID     [16]byte
	Offset int64 // -1: the event did not come through Kafka
	Index  int32 // ordinal of the event in its record, from 0
}

const eventSize = 16 + 8 + 4

// Reserved tells whether an attribute key is PulseGrid's own.
func Reserved(key string) bool { return strings.HasPrefix(key, Prefix) }

// removeReserved removes what an agent sent under Prefix. It looks before it removes: RemoveIf calls a function for each
// attribute, and hardly any event has one.
func removeReserved(attrs pcommon.Map) {
	for k := range attrs.All() {
		if Reserved(k) {
			attrs.RemoveIf(func(k string, _ pcommon.Value) bool { return Reserved(k) })
			return
		}
	}
}

// StampResource replaces the reserved attributes of a resource by o.
func StampResource(attrs pcommon.Map, o Origin) {
	removeReserved(attrs)
	attrs.EnsureCapacity(attrs.Len() + 6)
	attrs.PutStr(AttrTenant, o.Tenant)
	attrs.PutStr(AttrSource, o.Source)
	attrs.PutInt(AttrReceived, o.Received.UnixNano())
	attrs.PutStr(AttrTopic, o.Topic)
	attrs.PutInt(AttrPartition, int64(o.Partition))
	if !o.Appended.IsZero() {
		attrs.PutInt(AttrAppended, o.Appended.UnixNano())
	}
}

// StampEvent replaces the reserved attributes of an event by e.
func StampEvent(attrs pcommon.Map, e Event) {
	removeReserved(attrs)
	var b [eventSize]byte
	copy(b[:16], e.ID[:])
	binary.BigEndian.PutUint64(b[16:24], uint64(e.Offset))
	binary.BigEndian.PutUint32(b[24:], uint32(e.Index))
	attrs.PutEmptyBytes(AttrEvent).FromRaw(b[:])
}

// ReadResource returns a resource's stamp; false where it has none.
func ReadResource(attrs pcommon.Map) (Origin, bool) {
	var o Origin
	v, ok := attrs.Get(AttrTenant)
	if !ok {
		return o, false
	}
	o.Tenant = v.Str()
	if v, ok = attrs.Get(AttrSource); ok {
		o.Source = v.Str()
	}
	if v, ok = attrs.Get(AttrReceived); ok {
		o.Received = time.Unix(0, v.Int()).UTC()
	}
	if v, ok = attrs.Get(AttrTopic); ok {
		o.Topic = v.Str()
	}
	if v, ok = attrs.Get(AttrPartition); ok {
		o.Partition = int32(v.Int())
	}
	if v, ok = attrs.Get(AttrAppended); ok {
		o.Appended = time.Unix(0, v.Int()).UTC()
	}
	return o, true
}

// ReadEvent returns an event's stamp; false where it has none.
func ReadEvent(attrs pcommon.Map) (Event, bool) {
	v, ok := attrs.Get(AttrEvent)
	if !ok || v.Type() != pcommon.ValueTypeBytes || v.Bytes().Len() != eventSize {
		return Event{}, false
	}
	var b [eventSize]byte
	stamp := v.Bytes() // AsRaw would allocate
	for i := range b {
		b[i] = stamp.At(i)
	}
	return Event{ID: [16]byte(b[:16]), Offset: int64(binary.BigEndian.Uint64(b[16:24])), Index: int32(binary.BigEndian.Uint32(b[24:]))}, true
}
