package otlpwire

import "github.com/pulsegrid/pulsegrid/internal/signal"

// kind says what a field must look like on the wire.
type kind uint8

const (
	unknown       kind = iota
	kVarint            // a varint
	kI64               // eight bytes
	kI32               // four bytes
	kBytes             // string or bytes
	kTraceID           // bytes: 0 or 16
	kSpanID            // bytes: 0 or 8
	kManyI64           // eight bytes each, packed or not
	kManyVarint        // varints, packed or not
	kMessage           // a message
	kKeyValue          // a KeyValue: most of what a request consists of, so it has its own code
	kAnyValue          // an AnyValue, likewise
	kEvents            // repeated message, each of which is an event
	kWrapped           // repeated message that holds events
	kWrappedOneof      // message of a oneof that holds events: the last one counts
	kWrappedOld        // like kWrapped, but counts only where the message has no kWrapped
)

type field struct {
	kind kind
	name string
	of   *message
}

// message is what the walk knows of one OTLP message: its fields by number, and where it wraps events, the deprecated field
// 1000.
type message struct {
	fields []field
	old    *field
}

const oldField = 1000

var unknownField field

func (m *message) field(num int32) *field {
	if int(num) < len(m.fields) {
		return &m.fields[num]
	}
	if num == oldField && m.old != nil {
		return m.old
	}
	return &unknownField
}

// The messages of opentelemetry-proto 1.11. A test holds them against its descriptors.
var (
	keyValueMsg  = &message{}
	anyValueMsg  = &message{}
	arrayMsg     = &message{fields: []field{1: {kAnyValue, "values", anyValueMsg}}}
	kvlistMsg    = &message{fields: []field{1: {kKeyValue, "values", keyValueMsg}}}
	entityRefMsg = &message{fields: []field{
		1: {kBytes, "schema_url", nil}, 2: {kBytes, "type", nil}, 3: {kBytes, "id_keys", nil}, 4: {kBytes, "description_keys", nil},
	}}
	resourceMsg = &message{fields: []field{
		1: {kKeyValue, "attributes", keyValueMsg}, 2: {kVarint, "dropped_attributes_count", nil},
		3: {kMessage, "entity_refs", entityRefMsg},
	}}
	scopeMsg = &message{fields: []field{
		1: {kBytes, "name", nil}, 2: {kBytes, "version", nil},
		3: {kKeyValue, "attributes", keyValueMsg}, 4: {kVarint, "dropped_attributes_count", nil},
	}}
)

var logRecordMsg = &message{fields: []field{
	1: {kI64, "time_unix_nano", nil}, 2: {kVarint, "severity_number", nil}, 3: {kBytes, "severity_text", nil},
	5: {kAnyValue, "body", anyValueMsg}, 6: {kKeyValue, "attributes", keyValueMsg}, 7: {kVarint, "dropped_attributes_count", nil},
	8: {kI32, "flags", nil}, 9: {kTraceID, "trace_id", nil}, 10: {kSpanID, "span_id", nil},
	11: {kI64, "observed_time_unix_nano", nil}, 12: {kBytes, "event_name", nil},
}}

var (
	spanEventMsg = &message{fields: []field{
		1: {kI64, "time_unix_nano", nil}, 2: {kBytes, "name", nil},
		3: {kKeyValue, "attributes", keyValueMsg}, 4: {kVarint, "dropped_attributes_count", nil},
	}}
	spanLinkMsg = &message{fields: []field{
		1: {kTraceID, "trace_id", nil}, 2: {kSpanID, "span_id", nil}, 3: {kBytes, "trace_state", nil},
		4: {kKeyValue, "attributes", keyValueMsg}, 5: {kVarint, "dropped_attributes_count", nil}, 6: {kI32, "flags", nil},
	}}
	statusMsg = &message{fields: []field{2: {kBytes, "message", nil}, 3: {kVarint, "code", nil}}}
	spanMsg   = &message{fields: []field{
		1: {kTraceID, "trace_id", nil}, 2: {kSpanID, "span_id", nil}, 3: {kBytes, "trace_state", nil},
		4: {kSpanID, "parent_span_id", nil}, 5: {kBytes, "name", nil}, 6: {kVarint, "kind", nil},
		7: {kI64, "start_time_unix_nano", nil}, 8: {kI64, "end_time_unix_nano", nil}, 9: {kKeyValue, "attributes", keyValueMsg},
		10: {kVarint, "dropped_attributes_count", nil}, 11: {kMessage, "events", spanEventMsg},
		12: {kVarint, "dropped_events_count", nil}, 13: {kMessage, "links", spanLinkMsg}, 14: {kVarint, "dropped_links_count", nil},
		15: {kMessage, "status", statusMsg}, 16: {kI32, "flags", nil},
	}}
)

var (
	exemplarMsg = &message{fields: []field{
		2: {kI64, "time_unix_nano", nil}, 3: {kI64, "as_double", nil}, 4: {kSpanID, "span_id", nil}, 5: {kTraceID, "trace_id", nil},
		6: {kI64, "as_int", nil}, 7: {kKeyValue, "filtered_attributes", keyValueMsg},
	}}
	numberMsg = &message{fields: []field{
		2: {kI64, "start_time_unix_nano", nil}, 3: {kI64, "time_unix_nano", nil}, 4: {kI64, "as_double", nil},
		5: {kMessage, "exemplars", exemplarMsg}, 6: {kI64, "as_int", nil}, 7: {kKeyValue, "attributes", keyValueMsg},
		8: {kVarint, "flags", nil},
	}}
	histogramPointMsg = &message{fields: []field{
		2: {kI64, "start_time_unix_nano", nil}, 3: {kI64, "time_unix_nano", nil}, 4: {kI64, "count", nil}, 5: {kI64, "sum", nil},
		6: {kManyI64, "bucket_counts", nil}, 7: {kManyI64, "explicit_bounds", nil}, 8: {kMessage, "exemplars", exemplarMsg},
		9: {kKeyValue, "attributes", keyValueMsg}, 10: {kVarint, "flags", nil}, 11: {kI64, "min", nil}, 12: {kI64, "max", nil},
	}}
	bucketsMsg  = &message{fields: []field{1: {kVarint, "offset", nil}, 2: {kManyVarint, "bucket_counts", nil}}}
	expPointMsg = &message{fields: []field{
		1: {kKeyValue, "attributes", keyValueMsg}, 2: {kI64, "start_time_unix_nano", nil}, 3: {kI64, "time_unix_nano", nil},
		4: {kI64, "count", nil}, 5: {kI64, "sum", nil}, 6: {kVarint, "scale", nil}, 7: {kI64, "zero_count", nil},
		8: {kMessage, "positive", bucketsMsg}, 9: {kMessage, "negative", bucketsMsg}, 10: {kVarint, "flags", nil},
		11: {kMessage, "exemplars", exemplarMsg}, 12: {kI64, "min", nil}, 13: {kI64, "max", nil}, 14: {kI64, "zero_threshold", nil},
	}}
	quantileMsg     = &message{fields: []field{1: {kI64, "quantile", nil}, 2: {kI64, "value", nil}}}
	summaryPointMsg = &message{fields: []field{
		2: {kI64, "start_time_unix_nano", nil}, 3: {kI64, "time_unix_nano", nil}, 4: {kI64, "count", nil}, 5: {kI64, "sum", nil},
		6: {kMessage, "quantile_values", quantileMsg}, 7: {kKeyValue, "attributes", keyValueMsg}, 8: {kVarint, "flags", nil},
	}}

	gaugeMsg = &message{fields: []field{1: {kEvents, "data_points", numberMsg}}}
	sumMsg   = &message{fields: []field{
		1: {kEvents, "data_points", numberMsg}, 2: {kVarint, "aggregation_temporality", nil}, 3: {kVarint, "is_monotonic", nil},
	}}
	histogramMsg = &message{fields: []field{
		1: {kEvents, "data_points", histogramPointMsg}, 2: {kVarint, "aggregation_temporality", nil},
	}}
	expHistogramMsg = &message{fields: []field{
		1: {kEvents, "data_points", expPointMsg}, 2: {kVarint, "aggregation_temporality", nil},
	}}
	summaryMsg = &message{fields: []field{1: {kEvents, "data_points", summaryPointMsg}}}
	metricMsg  = &message{fields: []field{
		1: {kBytes, "name", nil}, 2: {kBytes, "description", nil}, 3: {kBytes, "unit", nil},
		5: {kWrappedOneof, "gauge", gaugeMsg}, 7: {kWrappedOneof, "sum", sumMsg}, 9: {kWrappedOneof, "histogram", histogramMsg},
		10: {kWrappedOneof, "exponential_histogram", expHistogramMsg}, 11: {kWrappedOneof, "summary", summaryMsg},
		12: {kKeyValue, "metadata", keyValueMsg},
	}}
)

// The three requests differ in names and in what a scope holds.
var (
	logsMsg    = request("logs", field{kEvents, "log_records", logRecordMsg})
	tracesMsg  = request("spans", field{kEvents, "spans", spanMsg})
	metricsMsg = request("metrics", field{kWrapped, "metrics", metricMsg})
)

func request(what string, item field) *message {
	scopes := &message{fields: []field{1: {kMessage, "scope", scopeMsg}, 2: item, 3: {kBytes, "schema_url", nil}}}
	resources := &message{
		fields: []field{
			1: {kMessage, "resource", resourceMsg}, 2: {kWrapped, "scope_" + what, scopes}, 3: {kBytes, "schema_url", nil},
		},
		old: &field{kWrappedOld, "deprecated_scope_" + what, scopes},
	}
	return &message{fields: []field{1: {kWrapped, "resource_" + what, resources}}}
}

func requestOf(sig signal.Signal) *message {
	switch sig {
	case signal.Logs:
		return logsMsg
	case signal.Metrics:
		return metricsMsg
	case signal.Traces:
		return tracesMsg
	}
	panic("otlpwire: " + sig.String() + " is not a signal") // a caller's bug, not an agent's
}
