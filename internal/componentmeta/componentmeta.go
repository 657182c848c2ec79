// Package componentmeta makes a component's metadata.yaml the only source of its type, stability and own metrics: the file is
// embedded and read when the program starts. (The Collector's mdatagen generates code from the same file format; its v0.161
// cannot be installed by the Go client, because a module that it needs is not published. See docs/decisions/.)
package componentmeta

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"gopkg.in/yaml.v3"
)

// commandClass is that of a command of the operator's program, which is no component: only its metrics are declared here.
const commandClass = "command"

// Metadata is a parsed metadata.yaml.
type Metadata struct {
	typ       component.Type
	class     string
	scope     string
	stability map[string]component.StabilityLevel // by signal
	metrics   map[string]Metric
	attrs     map[string]Attribute
}

// Attribute is one entry of `attributes:`.
type Attribute struct {
	Description string   `yaml:"description"`
	Type        string   `yaml:"type"`
	Enum        []string `yaml:"enum"` // all values; none: the description bounds them
}

// Metric is one entry of `telemetry: metrics:`.
type Metric struct {
	Description string    `yaml:"description"`
	Unit        string    `yaml:"unit"`
	Attributes  []string  `yaml:"attributes"` // names of entries of `attributes:`
	Sum         *struct{} `yaml:"sum"`        // monotonic integer counter
	Gauge       *struct{} `yaml:"gauge"`      // integer, observed or recorded
	Histogram   *struct {
		Buckets []float64 `yaml:"bucket_boundaries"`
	} `yaml:"histogram"` // of float64
}

type file struct {
	Type   string `yaml:"type"`
	Status struct {
		Class     string              `yaml:"class"`
		Stability map[string][]string `yaml:"stability"`
	} `yaml:"status"`
	Attributes map[string]Attribute `yaml:"attributes"`
	Telemetry  struct {
		Metrics map[string]Metric `yaml:"metrics"`
	} `yaml:"telemetry"`
}

// MustParse reads a metadata.yaml. It is called at package initialisation with an embedded file and panics on a bad one.
func MustParse(content []byte) *Metadata {
	m, err := Parse(content)
	if err != nil {
		panic(err)
	}
	return m
}

// Parse reads a metadata.yaml.
func Parse(content []byte) (*Metadata, error) {
	var f file
	dec := yaml.NewDecoder(bytes.NewReader(content))
	dec.KnownFields(true)
	if err := dec.Decode(&f); err != nil {
		return nil, fmt.Errorf("metadata.yaml: %w", err)
	}
	typ, err := component.NewType(f.Type)
	if err != nil {
		return nil, fmt.Errorf("metadata.yaml: type: %w", err)
	}
	switch f.Status.Class {
	case "receiver", "processor", "exporter", "extension", "connector", commandClass:
	default:
		return nil, fmt.Errorf("metadata.yaml: status: class: %q is none of receiver, processor, exporter, extension, connector, %s", f.Status.Class, commandClass)
	}
	m := &Metadata{typ: typ, class: f.Status.Class, scope: "github.com/pulsegrid/pulsegrid/" + f.Status.Class + "/" + f.Type, stability: map[string]component.StabilityLevel{}, metrics: f.Telemetry.Metrics, attrs: f.Attributes}
	for level, signals := range f.Status.Stability {
		var l component.StabilityLevel
		if err := l.UnmarshalText([]byte(level)); err != nil {
			return nil, fmt.Errorf("metadata.yaml: stability: %w", err)
		}
		for _, s := range signals {
			m.stability[s] = l
		}
	}
	for name, mt := range m.metrics {
		kinds := 0
		for _, set := range []bool{mt.Sum != nil, mt.Gauge != nil, mt.Histogram != nil} {
			if set {
				kinds++
			}
		}
		if kinds != 1 || mt.Description == "" || mt.Unit == "" {
			return nil, fmt.Errorf("metadata.yaml: metric %s: needs a description, a unit and one of sum, gauge, histogram", name)
		}
		for _, a := range mt.Attributes {
			if _, ok := f.Attributes[a]; !ok {
				return nil, fmt.Errorf("metadata.yaml: metric %s: attribute %s is not declared", name, a)
			}
		}
	}
	return m, nil
}

// Type is the component's type, as a config names it.
func (m *Metadata) Type() component.Type { return m.typ }

// Stability is the declared stability for a signal ("logs", "metrics", "traces", "extension"); undefined where none is declared.
func (m *Metadata) Stability(signal string) component.StabilityLevel { return m.stability[signal] }

// Prefix stands before the names of the metrics where they are exposed to Prometheus.
func (m *Metadata) Prefix() string {
	if m.class == commandClass {
		return "pulsegrid_"
	}
	return "otelcol_"
}

// Metrics are the declared metrics by name, for tests and documents.
func (m *Metadata) Metrics() map[string]Metric { return m.metrics }

// Attributes are the declared attributes of metrics by name.
func (m *Metadata) Attributes() map[string]Attribute { return m.attrs }

// Telemetry makes instruments of a component's declared metrics. Asking for a metric that metadata.yaml does not declare, or
// declares as another kind, is a bug of the component: Err reports it, and a component's constructor returns that error.
//
// Each measurement has the component's id as an attribute named by its class, as the Collector's own metrics have it
// (`receiver="msk/hot"`): two components of one type in a process would otherwise overwrite each other's gauges.
type Telemetry struct {
	meta  *Metadata
	id    attribute.KeyValue
	meter metric.Meter
	errs  []error
	regs  []metric.Registration
}

// Telemetry returns the maker of instruments for the component of this id.
func (m *Metadata) Telemetry(id component.ID, set component.TelemetrySettings) *Telemetry {
	return &Telemetry{meta: m, id: attribute.String(m.class, id.String()), meter: set.MeterProvider.Meter(m.scope)}
}

// Attributes are those of a measurement. Only With makes them. Making them costs more than a measurement: keep those that come often.
type Attributes struct{ option metric.MeasurementOption }

// With returns attributes that metadata.yaml declares for a metric, and the component's id.
func (t *Telemetry) With(attrs ...attribute.KeyValue) Attributes {
	all := make([]attribute.KeyValue, 0, len(attrs)+1)
	return Attributes{metric.WithAttributeSet(attribute.NewSet(append(append(all, attrs...), t.id)...))}
}

// Counter is a declared `sum`.
type Counter struct{ instrument metric.Int64Counter }

// Add counts n, which is not negative.
func (c Counter) Add(ctx context.Context, n int64, a Attributes) { c.instrument.Add(ctx, n, a.option) }

// Histogram is a declared `histogram`.
type Histogram struct{ instrument metric.Float64Histogram }

// Record takes one value, in the declared unit.
func (h Histogram) Record(ctx context.Context, value float64, a Attributes) {
	h.instrument.Record(ctx, value, a.option)
}

func (t *Telemetry) find(name, kind string, is func(Metric) bool) Metric {
	mt, ok := t.meta.metrics[name]
	if !ok || !is(mt) {
		t.errs = append(t.errs, fmt.Errorf("metadata.yaml of %s declares no %s %s", t.meta.typ, kind, name))
	}
	return mt
}

// Counter returns the declared `sum`. Its exposed name begins with Prefix.
func (t *Telemetry) Counter(name string) Counter {
	mt := t.find(name, "sum", func(m Metric) bool { return m.Sum != nil })
	c, err := t.meter.Int64Counter(t.meta.Prefix()+name, metric.WithDescription(mt.Description), metric.WithUnit(mt.Unit))
	t.keep(err)
	return Counter{c}
}

// Histogram returns the declared `histogram`.
func (t *Telemetry) Histogram(name string) Histogram {
	mt := t.find(name, "histogram", func(m Metric) bool { return m.Histogram != nil })
	opts := []metric.Float64HistogramOption{metric.WithDescription(mt.Description), metric.WithUnit(mt.Unit)}
	if mt.Histogram != nil && len(mt.Histogram.Buckets) > 0 {
		opts = append(opts, metric.WithExplicitBucketBoundaries(mt.Histogram.Buckets...))
	}
	h, err := t.meter.Float64Histogram(t.meta.Prefix()+name, opts...)
	t.keep(err)
	return Histogram{h}
}

// Gauge observes the declared `gauge` whenever metrics are collected, until Shutdown.
func (t *Telemetry) Gauge(name string, observe func(record func(value int64, attrs ...attribute.KeyValue))) {
	mt := t.find(name, "gauge", func(m Metric) bool { return m.Gauge != nil })
	g, err := t.meter.Int64ObservableGauge(t.meta.Prefix()+name, metric.WithDescription(mt.Description), metric.WithUnit(mt.Unit))
	t.keep(err)
	if err != nil {
		return
	}
	reg, err := t.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		observe(func(value int64, attrs ...attribute.KeyValue) {
			o.ObserveInt64(g, value, t.With(attrs...).option)
		})
		return nil
	}, g)
	t.keep(err)
	if err == nil {
		t.regs = append(t.regs, reg)
	}
}

func (t *Telemetry) keep(err error) {
	if err != nil {
		t.errs = append(t.errs, err)
	}
}

// Err reports instruments that could not be made.
func (t *Telemetry) Err() error { return errors.Join(t.errs...) }

// Shutdown stops observing gauges. It may be called more than once.
func (t *Telemetry) Shutdown() {
	for _, r := range t.regs {
		_ = r.Unregister() // fails only where it was never registered
	}
	t.regs = nil
}
