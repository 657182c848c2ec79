package columns

import "github.com/pulsegrid/pulsegrid/internal/signal"

// The definition. Order is the order of the columns in every store, and (with the nested types) of Iceberg's field ids: append
// new columns after the others of their group only together with a migration of the tables that exist.

func before() []Column {
	return []Column{
		{Name: "tenant_id", Kind: Dict, Doc: "tenant that pays for the event"},
		{Name: "service_name", Kind: Dict, Doc: "resource attribute service.name; empty where the resource has none or it is no text"},
		{Name: "time", Kind: Time, Codec: codecTime, Doc: "when it happened: the event's own time, else the time it was observed, else the time it was received (see time_source)"},
		{Name: "time_source", Kind: Dict, Doc: "where time comes from: event, observed or received"},
		{Name: "ingest_time", Kind: Time, Codec: codecTime, Doc: "when the gateway had read the request; the same however often it is replayed. Partitions and retention go by it"},
		{Name: "event_id", Kind: Fixed16, Codec: codecNone, Doc: "identity of the event for deduplication, 16 raw bytes"},
	}
}

func after() []Column {
	return []Column{
		{Name: "attributes_string", Kind: MapText, Doc: "attributes whose value is a string, in their order; of a key that occurs more than once, the first value"},
		{Name: "attributes_int", Kind: MapInt, Doc: "attributes whose value is an integer"},
		{Name: "attributes_double", Kind: MapDouble, Doc: "attributes whose value is a double"},
		{Name: "attributes_bool", Kind: MapBool, Doc: "attributes whose value is a boolean"},
		{Name: "attributes_other", Kind: MapJSON, Doc: "the other attributes (arrays, kvlists, bytes, empty, strings that are not UTF-8) as JSON text, and the further values of keys that occur more than once"},
		{Name: "dropped_attributes_count", Kind: Uint32, Doc: "attributes that the sender discarded"},
		{Name: "resource", Kind: DictJSON, Doc: "all attributes of the resource as one JSON object"},
		{Name: "resource_dropped_attributes_count", Kind: Uint32, Doc: "resource attributes that the sender discarded"},
		{Name: "resource_schema_url", Kind: Dict, Doc: "schema URL of the resource"},
		{Name: "resource_entity_refs", Kind: DictJSON, Doc: `entity references of the resource as a JSON array of {"schema_url","type","id_keys","description_keys"}; empty text where there are none`},
		{Name: "scope_name", Kind: Dict, Doc: "name of the instrumentation scope"},
		{Name: "scope_version", Kind: Dict, Doc: "version of the instrumentation scope"},
		{Name: "scope_attributes", Kind: DictJSON, Doc: "attributes of the instrumentation scope as one JSON object"},
		{Name: "scope_dropped_attributes_count", Kind: Uint32, Doc: "scope attributes that the sender discarded"},
		{Name: "scope_schema_url", Kind: Dict, Doc: "schema URL of the scope"},
		{Name: "kafka_topic", Kind: Dict, Doc: "lineage: topic; empty where the event did not come through Kafka"},
		{Name: "kafka_partition", Kind: Int32, Doc: "lineage: partition; -1 where there is none"},
		{Name: "kafka_offset", Kind: Int64, Codec: codecDelta, Doc: "lineage: offset of the record; -1 where there is none"},
		{Name: "event_index", Kind: Int32, Doc: "lineage: ordinal of the event in its record, from 0; -1 where there is none"},
	}
}

func logColumns() []Column {
	return []Column{
		{Name: "observed_time", Kind: Time, Codec: codecTime, Doc: "when it was observed; 1970-01-01 where the sender did not say"},
		{Name: "severity_number", Kind: Int32, Doc: "1 to 24, 0 where unspecified"},
		{Name: "severity_text", Kind: Dict, Doc: "severity as the source calls it"},
		{Name: "body", Kind: Text, Doc: "the body; JSON text where body_type is not string; empty where it is empty"},
		{Name: "body_type", Kind: Dict, Doc: "type of the body: string, int, double, bool, bytes, array, kvlist, empty, or invalid_string (not UTF-8)"},
		{Name: "event_name", Kind: Dict, Doc: "name of the event class"},
		{Name: "trace_id", Kind: Fixed16, Codec: codecNone, Doc: "16 raw bytes; zeros where there is none"},
		{Name: "span_id", Kind: Fixed8, Codec: codecNone, Doc: "8 raw bytes; zeros where there is none"},
		{Name: "flags", Kind: Uint32, Doc: "flags of the log record"},
	}
}

func spanColumns() []Column {
	return []Column{
		{Name: "trace_id", Kind: Fixed16, Codec: codecNone, Doc: "16 raw bytes"},
		{Name: "span_id", Kind: Fixed8, Codec: codecNone, Doc: "8 raw bytes"},
		{Name: "parent_span_id", Kind: Fixed8, Codec: codecNone, Doc: "8 raw bytes; zeros for a root span"},
		{Name: "trace_state", Kind: Dict, Doc: "W3C tracestate"},
		{Name: "name", Kind: Dict, Doc: "name of the span"},
		{Name: "kind", Kind: Dict, Doc: "unspecified, internal, server, client, producer or consumer; a number OTLP does not define is written as digits"},
		{Name: "end_time", Kind: Time, Codec: codecTime, Doc: "when the span ended (time is when it started); 1970-01-01 where the sender did not say"},
		{Name: "duration_nano", Kind: Int64, Doc: "end_time - start, in nanoseconds; negative where the clock went back; 0 where either is missing"},
		{Name: "status_code", Kind: Dict, Doc: "unset, ok or error; a number OTLP does not define is written as digits"},
		{Name: "status_message", Kind: Text, Doc: "message of the status"},
		{Name: "flags", Kind: Uint32, Doc: "flags of the span"},
		{Name: "events_time", Kind: ListTime, Doc: "span events: times. The events_ lists have one element per event"},
		{Name: "events_name", Kind: ListDict, Doc: "span events: names"},
		{Name: "events_attributes", Kind: ListJSON, Doc: "span events: attributes, each event's as one JSON object"},
		{Name: "events_dropped_attributes_count", Kind: ListUint32, Doc: "span events: attributes that the sender discarded"},
		{Name: "dropped_events_count", Kind: Uint32, Doc: "events that the sender discarded"},
		{Name: "links_trace_id", Kind: ListFixed16, Doc: "span links: trace ids. The links_ lists have one element per link"},
		{Name: "links_span_id", Kind: ListFixed8, Doc: "span links: span ids"},
		{Name: "links_trace_state", Kind: ListDict, Doc: "span links: W3C tracestates"},
		{Name: "links_attributes", Kind: ListJSON, Doc: "span links: attributes, each link's as one JSON object"},
		{Name: "links_dropped_attributes_count", Kind: ListUint32, Doc: "span links: attributes that the sender discarded"},
		{Name: "links_flags", Kind: ListUint32, Doc: "span links: flags"},
		{Name: "dropped_links_count", Kind: Uint32, Doc: "links that the sender discarded"},
	}
}

func metricColumns() []Column {
	return []Column{
		{Name: "metric_name", Kind: Dict, Doc: "name of the metric"},
		{Name: "metric_description", Kind: Dict, Doc: "description of the metric"},
		{Name: "metric_unit", Kind: Dict, Doc: "unit of the metric (UCUM)"},
		{Name: "metric_type", Kind: Dict, Doc: "gauge, sum, histogram, exponential_histogram or summary"},
		{Name: "metric_metadata", Kind: DictJSON, Doc: "metadata of the metric as one JSON object"},
		{Name: "temporality", Kind: Dict, Doc: "unspecified, delta or cumulative; empty for gauge and summary; a number OTLP does not define is written as digits"},
		{Name: "is_monotonic", Kind: Bool, Doc: "sum: whether it only grows"},
		{Name: "start_time", Kind: Time, Codec: codecTime, Doc: "start of the aggregation; 1970-01-01 where the sender did not say"},
		{Name: "flags", Kind: Uint32, Doc: "flags of the data point; bit 0: no recorded value"},
		{Name: "value_type", Kind: Dict, Doc: "gauge and sum: int, double or empty; empty text for the other types"},
		{Name: "value_double", Kind: Double, Doc: "gauge and sum: the value, converted where it is an integer"},
		{Name: "value_int", Kind: Int64, Doc: "gauge and sum: the value where value_type is int"},
		{Name: "count", Kind: Uint64, Doc: "histograms and summary: number of measurements"},
		{Name: "sum", Kind: Double, Doc: "histograms and summary: sum of the measurements"},
		{Name: "has_sum", Kind: Bool, Doc: "whether sum was sent (always for a summary)"},
		{Name: "min", Kind: Double, Doc: "histograms: least measurement"},
		{Name: "has_min", Kind: Bool, Doc: "whether min was sent"},
		{Name: "max", Kind: Double, Doc: "histograms: greatest measurement"},
		{Name: "has_max", Kind: Bool, Doc: "whether max was sent"},
		{Name: "explicit_bounds", Kind: ListDouble, Doc: "histogram: upper bounds of the buckets but the last"},
		{Name: "bucket_counts", Kind: ListUint64, Doc: "histogram: counts of the buckets"},
		{Name: "scale", Kind: Int32, Doc: "exponential histogram: the base is 2^(2^-scale)"},
		{Name: "zero_count", Kind: Uint64, Doc: "exponential histogram: count of the zero bucket"},
		{Name: "zero_threshold", Kind: Double, Doc: "exponential histogram: width of the zero bucket"},
		{Name: "positive_offset", Kind: Int32, Doc: "exponential histogram: index of the first positive bucket"},
		{Name: "positive_bucket_counts", Kind: ListUint64, Doc: "exponential histogram: counts of the positive buckets"},
		{Name: "negative_offset", Kind: Int32, Doc: "exponential histogram: index of the first negative bucket"},
		{Name: "negative_bucket_counts", Kind: ListUint64, Doc: "exponential histogram: counts of the negative buckets"},
		{Name: "quantiles", Kind: ListDouble, Doc: "summary: quantiles, 0 to 1"},
		{Name: "quantile_values", Kind: ListDouble, Doc: "summary: value at each of quantiles"},
		{Name: "exemplars_time", Kind: ListTime, Doc: "exemplars: times. The exemplars_ lists have one element per exemplar"},
		{Name: "exemplars_value_type", Kind: ListDict, Doc: "exemplars: int, double or empty"},
		{Name: "exemplars_value_double", Kind: ListDouble, Doc: "exemplars: the value, converted where it is an integer"},
		{Name: "exemplars_value_int", Kind: ListInt64, Doc: "exemplars: the value where its type is int"},
		{Name: "exemplars_trace_id", Kind: ListFixed16, Doc: "exemplars: trace ids"},
		{Name: "exemplars_span_id", Kind: ListFixed8, Doc: "exemplars: span ids"},
		{Name: "exemplars_attributes", Kind: ListJSON, Doc: "exemplars: filtered attributes, each exemplar's as one JSON object"},
	}
}

// The tables with the default promotions.
var (
	Logs    = NewTable(signal.Logs, DefaultPromotions(signal.Logs))
	Metrics = NewTable(signal.Metrics, DefaultPromotions(signal.Metrics))
	Spans   = NewTable(signal.Traces, DefaultPromotions(signal.Traces))
)

// ForSignal returns the signal's table with the default promotions; nil for no signal.
func ForSignal(s signal.Signal) *Table {
	switch s {
	case signal.Logs:
		return Logs
	case signal.Metrics:
		return Metrics
	case signal.Traces:
		return Spans
	}
	return nil
}
