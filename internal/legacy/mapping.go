package legacy

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"gopkg.in/yaml.v3"
)

//go:embed default.yaml
var defaultYAML []byte

// Mapping says which fields of an event become what of OTLP. Each list of fields is tried in its order, and the first one that the event
// has is taken; a dot goes into an object ("http.status" is field status of field http, unless the event has a field "http.status").
// What no list takes becomes an attribute of the event.
type Mapping struct {
	// Version of the mapping's format: 1.
	Version int `yaml:"version"`
	// Type tells log, metric and trace apart.
	Type TypeMapping `yaml:"type"`
	// Time of the event: RFC 3339 text, or seconds, milliseconds, microseconds or nanoseconds since 1970, told by their magnitude.
	Time []string `yaml:"time"`
	// ID that no two events of a resource share: by it copies of a log record are recognised, as its attribute log.record.uid. Empty: none, as in the
	// default mapping: what an event calls its id may name its kind.
	ID []string `yaml:"id"`
	// Resource attributes, by their name.
	Resource map[string][]string `yaml:"resource"`
	// Attributes are objects whose fields become attributes of the event, one level up.
	Attributes []string `yaml:"attributes"`

	Log    LogMapping    `yaml:"log"`
	Metric MetricMapping `yaml:"metric"`
	Trace  TraceMapping  `yaml:"trace"`

	resourceNames []string // of Resource, in order; set by Parse
}

// TypeMapping tells signals apart.
type TypeMapping struct {
	Fields []string `yaml:"fields"`
	// Log, Metric and Trace are the values of the type field, in lower case.
	Log    []string `yaml:"log"`
	Metric []string `yaml:"metric"`
	Trace  []string `yaml:"trace"`
}

// LogMapping is a log record's.
type LogMapping struct {
	Body      []string `yaml:"body"`
	Severity  []string `yaml:"severity"` // a name, or a number of OTLP's 1 to 24
	EventName []string `yaml:"event_name"`
	TraceID   []string `yaml:"trace_id"` // hex
	SpanID    []string `yaml:"span_id"`  // hex
}

// MetricMapping is a data point's: a gauge, or a sum where kind is one of Sum's values.
type MetricMapping struct {
	Name        []string `yaml:"name"`
	Value       []string `yaml:"value"`
	Unit        []string `yaml:"unit"`
	Description []string `yaml:"description"`
	Kind        []string `yaml:"kind"`
	// Sum and Cumulative are the values of kind, in lower case, that make a monotonic sum of delta and of cumulative temporality.
	Sum        []string `yaml:"sum"`
	Cumulative []string `yaml:"cumulative"`
}

// TraceMapping is a span's. Its end is the end, or the start and the duration.
type TraceMapping struct {
	TraceID      []string `yaml:"trace_id"`
	SpanID       []string `yaml:"span_id"`
	ParentSpanID []string `yaml:"parent_span_id"`
	Name         []string `yaml:"name"`
	Kind         []string `yaml:"kind"`
	Start        []string `yaml:"start"`
	End          []string `yaml:"end"`
	DurationMS   []string `yaml:"duration_ms"`
	Error        []string `yaml:"error"` // true, or a text that is the status message
}

// Default is the mapping that is used where no file is configured.
func Default() *Mapping {
	m, err := Parse(defaultYAML)
	if err != nil {
		panic(err) // a test reads it
	}
	return m
}

// DefaultText is the file of the default mapping.
func DefaultText() []byte { return slices.Clone(defaultYAML) }

// Parse reads a mapping file. Its errors name what is wrong.
func Parse(content []byte) (*Mapping, error) {
	dec := yaml.NewDecoder(bytes.NewReader(content))
	dec.KnownFields(true)
	m := &Mapping{}
	if err := dec.Decode(m); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("the file is empty")
		}
		return nil, fmt.Errorf("legacy mapping: %w", err)
	}
	m.resourceNames = slices.Sorted(maps.Keys(m.Resource))
	return m, m.validate()
}

func (m *Mapping) validate() error {
	var errs []error
	need := func(key string, fields []string) {
		if len(fields) == 0 {
			errs = append(errs, fmt.Errorf("legacy mapping: %s: names no field", key))
		}
		if slices.Contains(fields, "") {
			errs = append(errs, fmt.Errorf("legacy mapping: %s: holds an empty name", key))
		}
	}
	if m.Version != 1 {
		errs = append(errs, fmt.Errorf("legacy mapping: version: is %d, this program reads 1", m.Version))
	}
	need("type::fields", m.Type.Fields)
	need("time", m.Time)
	need("metric::name", m.Metric.Name)
	need("metric::value", m.Metric.Value)
	need("trace::trace_id", m.Trace.TraceID)
	need("trace::span_id", m.Trace.SpanID)
	need("trace::name", m.Trace.Name)
	seen := map[string]string{}
	for key, values := range map[string][]string{"log": m.Type.Log, "metric": m.Type.Metric, "trace": m.Type.Trace} {
		for _, v := range values {
			if other, twice := seen[v]; twice {
				errs = append(errs, fmt.Errorf("legacy mapping: type::%s: %q is in type::%s too", key, v, other))
			}
			seen[v] = key
		}
	}
	return errors.Join(errs...)
}
