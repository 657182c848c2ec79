// Package hostile makes requests of the shapes by which a sender, broken or hostile, makes a receiver hold or do more than the request's size tells.
package hostile

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Shape makes OTLP export requests.
type Shape struct {
	Name   string
	Does   string // what is large or many
	Signal signal.Signal
	JSON   bool // the request is OTLP/JSON, not protobuf
	// Make returns a request of about size bytes, whose first event is at a time in ns. Equal random choices make equal requests.
	Make func(r *rand.Rand, size int, at uint64) []byte
}

// Shapes are all that there are.
func Shapes() []Shape {
	return []Shape{
		{Name: "wide-resource", Does: "a resource of many kilobytes around as many small log records as may share it", Signal: signal.Logs, Make: wideResource},
		{Name: "wide-metric", Does: "a description of many kilobytes around as many data points as may share it", Signal: signal.Metrics, Make: wideMetric},
		{Name: "tiny-events", Does: "log records of a time and nothing else", Signal: signal.Logs, Make: tinyEvents},
		{Name: "empty-events", Does: "log records of two bytes", Signal: signal.Logs, Make: emptyEvents},
		{Name: "empty-resources", Does: "resources without events", Signal: signal.Logs, Make: emptyResources},
		{Name: "lone-events", Does: "a resource and a scope for each span", Signal: signal.Traces, Make: loneEvents},
		{Name: "many-attributes", Does: "distinct attribute keys, thousands a record", Signal: signal.Logs, Make: manyAttributes},
		{Name: "deep-values", Does: "values in values, as deep as may be", Signal: signal.Logs, Make: deepValues},
		{Name: "wide-values", Does: "arrays of small integers", Signal: signal.Logs, Make: wideValues},
		{Name: "histograms", Does: "buckets and bounds, thousands a data point", Signal: signal.Metrics, Make: histograms},
		{Name: "exponential-histograms", Does: "buckets of one byte", Signal: signal.Metrics, Make: exponentialHistograms},
		{Name: "exemplars", Does: "exemplars, thousands a data point", Signal: signal.Metrics, Make: exemplars},
		{Name: "quantiles", Does: "quantiles of summaries", Signal: signal.Metrics, Make: quantiles},
		{Name: "events-and-links", Does: "empty events and links of spans", Signal: signal.Traces, Make: eventsAndLinks},
		{Name: "at-fault", Does: "data points, each of which no schema takes", Signal: signal.Metrics, Make: atFault},
		{Name: "long-text", Does: "one body as large as the request", Signal: signal.Logs, Make: longText},
		{Name: "json-numbers", Does: "bucket counts as JSON numbers of one digit", Signal: signal.Metrics, JSON: true, Make: jsonNumbers},
		{Name: "json-empty-objects", Does: "log records as {}", Signal: signal.Logs, JSON: true, Make: jsonEmpty},
		{Name: "json-escapes", Does: "a body of escapes", Signal: signal.Logs, JSON: true, Make: jsonEscapes},
	}
}

// Fields of OTLP (opentelemetry-proto 1.7), by number.
const (
	resourceField, scopesField                                                            = 1, 2 // of ResourceLogs, ResourceMetrics, ResourceSpans
	itemsField                                                                            = 2    // of ScopeLogs, ScopeMetrics, ScopeSpans
	metricName, metricDescription, metricGauge, metricHistogram, metricExp, metricSummary = 1, 2, 5, 9, 10, 11
)

func field(b []byte, n protowire.Number, v ...[]byte) []byte {
	size := 0
	for _, part := range v {
		size += len(part)
	}
	b = protowire.AppendTag(b, n, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	for _, part := range v {
		b = append(b, part...)
	}
	return b
}

func fixed(b []byte, n protowire.Number, v uint64) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(b, n, protowire.Fixed64Type), v)
}

func text(b []byte, n protowire.Number, s string) []byte { return field(b, n, []byte(s)) }

// attribute appends a KeyValue of a string.
func attribute(b []byte, n protowire.Number, key, value string) []byte {
	return field(b, n, text(nil, 1, key), field(nil, 2, text(nil, 1, value)))
}

// request is one of one resource and one scope.
func request(resource, items []byte) []byte {
	if resource == nil {
		resource = attribute(nil, 1, "service.name", "hostile")
	}
	return field(nil, 1, field(nil, resourceField, resource), field(nil, scopesField, items))
}

// metric is a request of one metric, whose data is of the kind.
func metric(kind protowire.Number, description string, points []byte) []byte {
	return request(nil, field(nil, itemsField, text(nil, metricName, "hostile"), text(nil, metricDescription, description), field(nil, kind, points)))
}

func letters(r *rand.Rand, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = 'a' + byte(r.IntN(26))
	}
	return string(b)
}

const (
	// writtenOut is how many times an event's bytes a text may have that all events share, so that the request written out is within 512 times itself.
	writtenOut = 450
	// mostEvents are within what a request may have.
	mostEvents = 250_000
)

func wideResource(r *rand.Rand, size int, at uint64) []byte {
	const each = 35
	resource := attribute(nil, 1, "note", letters(r, min(size/2, writtenOut*each)))
	var records []byte
	for i := range min(mostEvents, (size-len(resource))/each) {
		records = field(records, itemsField, fixed(nil, 1, at+uint64(i)), field(nil, 5, text(nil, 1, letters(r, 18))))
	}
	return request(resource, records)
}

func wideMetric(r *rand.Rand, size int, at uint64) []byte {
	const each = 20
	description := letters(r, min(size/2, writtenOut*each))
	var points []byte
	for i := range min(mostEvents, (size-len(description))/each) {
		points = field(points, 1, fixed(fixed(nil, 3, at+uint64(i)), 4, math.Float64bits(r.Float64())))
	}
	return metric(metricGauge, description, points)
}

func tinyEvents(_ *rand.Rand, size int, at uint64) []byte {
	var records []byte
	for i := 0; len(records) < size && i < mostEvents; i++ {
		records = field(records, itemsField, fixed(nil, 1, at+uint64(i)))
	}
	return request(nil, records)
}

func emptyEvents(_ *rand.Rand, size int, _ uint64) []byte {
	return request(nil, []byte(strings.Repeat("\x12\x00", min(mostEvents, size/2))))
}

func emptyResources(_ *rand.Rand, size int, _ uint64) []byte {
	return []byte(strings.Repeat("\x0a\x00", size/2))
}

func loneEvents(r *rand.Rand, size int, at uint64) []byte {
	var b []byte
	for i := 0; len(b) < size; i++ {
		id := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, r.Uint64()|1), at+uint64(i))
		span := field(nil, itemsField, field(nil, 1, id), field(nil, 2, id[8:]), text(nil, 5, "s"), fixed(fixed(nil, 7, at+uint64(i)), 8, at+uint64(i)+1))
		b = field(b, 1, field(nil, resourceField), field(nil, scopesField, span))
	}
	return b
}

func manyAttributes(r *rand.Rand, size int, at uint64) []byte {
	var records []byte
	for i := 0; len(records) < size; i++ {
		record := fixed(nil, 1, at+uint64(i))
		for range min(2000, size/12) {
			record = attribute(record, 6, letters(r, 6), "")
		}
		records = field(records, itemsField, record)
	}
	return request(nil, records)
}

const depth = 50 // of 64

func deepValues(_ *rand.Rand, size int, at uint64) []byte {
	deep := text(nil, 1, "x")
	for range depth {
		deep = field(nil, 5, field(nil, 1, deep)) // AnyValue{array_value: {values: [deep]}}
	}
	var records []byte
	for i := 0; len(records) < size; i++ {
		records = field(records, itemsField, fixed(nil, 1, at+uint64(i)), field(nil, 5, deep))
	}
	return request(nil, records)
}

func wideValues(_ *rand.Rand, size int, at uint64) []byte {
	var records []byte
	for i := 0; len(records) < size; i++ {
		values := []byte(strings.Repeat("\x0a\x02\x18\x01", min(size, 256<<10)/4)) // values: {int_value: 1}
		records = field(records, itemsField, fixed(nil, 1, at+uint64(i)), field(nil, 5, field(nil, 5, values)))
	}
	return request(nil, records)
}

func histograms(_ *rand.Rand, size int, at uint64) []byte {
	var points []byte
	for i := 0; len(points) < size; i++ {
		n := min(size, 256<<10) / 16
		counts, bounds := make([]byte, 0, 8*n), make([]byte, 0, 8*n)
		for j := range n {
			counts = binary.LittleEndian.AppendUint64(counts, 1)
			if j > 0 {
				bounds = binary.LittleEndian.AppendUint64(bounds, math.Float64bits(float64(j)))
			}
		}
		points = field(points, 1, fixed(fixed(nil, 3, at+uint64(i)), 4, uint64(n)), field(nil, 6, counts), field(nil, 7, bounds))
	}
	return metric(metricHistogram, "", append(points, 0x10, 1)) // delta
}

func exponentialHistograms(_ *rand.Rand, size int, at uint64) []byte {
	var points []byte
	for i := 0; len(points) < size; i++ {
		n := min(size, 256<<10)
		buckets := field(nil, 2, []byte(strings.Repeat("\x01", n)))
		points = field(points, 1, fixed(fixed(nil, 3, at+uint64(i)), 4, uint64(n)), field(nil, 8, buckets))
	}
	return metric(metricExp, "", append(points, 0x10, 1))
}

func exemplars(_ *rand.Rand, size int, at uint64) []byte {
	var points []byte
	for i := 0; len(points) < size; i++ {
		point := fixed(fixed(nil, 3, at+uint64(i)), 4, 0)
		for len(point) < min(size, 256<<10) {
			point = field(point, 5, fixed(nil, 2, at))
		}
		points = field(points, 1, point)
	}
	return metric(metricGauge, "", points)
}

func quantiles(_ *rand.Rand, size int, at uint64) []byte {
	var points []byte
	for i := 0; len(points) < size; i++ {
		point := fixed(fixed(nil, 3, at+uint64(i)), 4, 1)
		for j := 0; len(point) < min(size, 256<<10); j++ {
			point = field(point, 6, fixed(nil, 1, math.Float64bits(1/float64(j+1))))
		}
		points = field(points, 1, point)
	}
	return metric(metricSummary, "", points)
}

func eventsAndLinks(r *rand.Rand, size int, at uint64) []byte {
	var spans []byte
	for i := 0; len(spans) < size; i++ {
		id := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, r.Uint64()|1), at+uint64(i))
		half := min(size, 256<<10) / 4
		many := strings.Repeat("\x5a\x00", half) + strings.Repeat("\x6a\x00", half)
		spans = field(spans, itemsField, field(nil, 1, id), field(nil, 2, id[8:]), text(nil, 5, "s"), fixed(fixed(nil, 7, at), 8, at+1), []byte(many))
	}
	return request(nil, spans)
}

// atFault makes data points without a time or a value.
func atFault(_ *rand.Rand, size int, _ uint64) []byte {
	return metric(metricGauge, "", []byte(strings.Repeat("\x0a\x00", min(mostEvents, size/2))))
}

func longText(r *rand.Rand, size int, at uint64) []byte {
	return request(nil, field(nil, itemsField, fixed(nil, 1, at), field(nil, 5, text(nil, 1, letters(r, size)))))
}

func jsonNumbers(_ *rand.Rand, size int, at uint64) []byte {
	n := size / 4
	return fmt.Appendf(nil, `{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"hostile","histogram":{"aggregationTemporality":1,"dataPoints":[{"timeUnixNano":"%d","count":"%d","bucketCounts":[%s0],"explicitBounds":[%s1]}]}}]}]}]}`,
		at, n, strings.Repeat("1,", n), strings.Repeat("0,", n-1))
}

func jsonEmpty(_ *rand.Rand, size int, _ uint64) []byte {
	return fmt.Appendf(nil, `{"resourceLogs":[{"scopeLogs":[{"logRecords":[%s{}]}]}]}`, strings.Repeat("{},", min(mostEvents, size/3)))
}

func jsonEscapes(_ *rand.Rand, size int, at uint64) []byte {
	return fmt.Appendf(nil, `{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":"%d","body":{"stringValue":"%s"}}]}]}]}`, at, strings.Repeat(`\u00e9`, size/6))
}
