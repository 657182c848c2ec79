package otlpjson

import (
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// message is what a JSON object of one OTLP message may hold, by the names of its fields in JSON and in protobuf.
type message struct {
	fields map[string]*field
	always []*field // those that pdata writes even where they are empty
}

type field struct {
	name     string
	num      protowire.Number
	rank     int // among the fields of its message, as they are declared
	kind     protoreflect.Kind
	repeated bool // a list
	packed   bool // a list of numbers, in one field
	events   bool // a list of events
	present  bool // written though it is zero: optional, or one of several (oneof)
	id       int  // bytes of a trace or span id, which OTLP has as hexadecimal digits; 0: none
	of       *message
	enum     map[string]int32
}

// The requests of the collector services have the fields of these messages.
var requests = func() map[signal.Signal]*message {
	known := map[protoreflect.FullName]*message{}
	return map[signal.Signal]*message{
		signal.Logs:    describe((*logs.LogsData)(nil).ProtoReflect().Descriptor(), known),
		signal.Metrics: describe((*metrics.MetricsData)(nil).ProtoReflect().Descriptor(), known),
		signal.Traces:  describe((*trace.TracesData)(nil).ProtoReflect().Descriptor(), known),
	}
}()

// eventLists are the fields whose items are events.
var eventLists = map[protoreflect.Name]bool{"log_records": true, "spans": true, "data_points": true}

var ids = map[protoreflect.Name]int{"trace_id": 16, "span_id": 8, "parent_span_id": 8}

func describe(d protoreflect.MessageDescriptor, known map[protoreflect.FullName]*message) *message {
	if m, ok := known[d.FullName()]; ok {
		return m
	}
	m := &message{fields: map[string]*field{}}
	known[d.FullName()] = m
	for i := range d.Fields().Len() {
		of := d.Fields().Get(i)
		f := &field{
			name: of.JSONName(), num: of.Number(), rank: rank(of), kind: of.Kind(), repeated: of.IsList(), packed: of.IsPacked(), events: eventLists[of.Name()],
			present: of.HasPresence(),
		}
		switch f.kind {
		case protoreflect.BytesKind:
			f.id = ids[of.Name()]
		case protoreflect.MessageKind:
			f.of = describe(of.Message(), known)
		case protoreflect.EnumKind:
			f.enum = map[string]int32{}
			for j := range of.Enum().Values().Len() {
				v := of.Enum().Values().Get(j)
				f.enum[string(v.Name())] = int32(v.Number())
			}
		}
		m.fields[of.JSONName()], m.fields[string(of.Name())] = f, f
		if f.id > 0 || f.of != nil && !f.repeated && of.ContainingOneof() == nil {
			m.always = append(m.always, f)
		}
	}
	return m
}

// rank is the place of a field among those that pdata writes of its message: as they are declared, of a oneof all in one, so that the last one stays the last.
func rank(f protoreflect.FieldDescriptor) int {
	if o := f.ContainingOneof(); o != nil {
		f = o.Fields().Get(0)
	}
	if f.Parent().Name() == "Exemplar" { // pdata has its two ids the other way round
		switch f.Name() {
		case "trace_id":
			return f.Index() - 1
		case "span_id":
			return f.Index() + 1
		}
	}
	return f.Index()
}
