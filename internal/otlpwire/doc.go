// Package otlpwire walks OTLP Export{Logs,Metrics,Trace}ServiceRequest protobuf where it lies: no copy, and no allocation an
// event. An event is one log record, one span or one metric data point.
//
// Count is the gate: it walks every field of every message that OTLP 1.x defines and accepts exactly what the Collector's pdata
// accepts (go.opentelemetry.io/collector/pdata v1.67.0, the version that decodes the request further on), apart from this
// package's own bounds, Limits. Invalid UTF-8 is accepted, as pdata accepts it. Every other function expects a request that
// Count accepted. Given anything else they stay within its bytes, and fail with ErrMalformed when they come across the fault,
// but they do not look for faults inside events.
//
// Where protobuf leaves room, pdata's reading is followed, and the differential fuzz tests hold the two together:
//   - a singular message that occurs twice (a resource, a scope) is merged; of a oneof (an attribute's value, a metric's data)
//     the last one counts, so a metric's earlier data points are no events;
//   - field 1000 of a resource's logs, metrics or spans holds scopes from before OTLP 0.15; they count where the resource has no
//     others, else they are ignored;
//   - of attributes with the same key the first one counts;
//   - groups are skipped the way pdata skips them.
//
// Slices in an Event, in a Value and in Metric alias the request: they are valid as long as its bytes are, and must not be
// written to.
package otlpwire
