package componentmeta

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Registry makes and serves the metrics that the metadata.yaml of a command declares. (Those of components go through the Collector: Telemetry.) Asking for a metric that it does not
// declare, or declares as another kind, is a bug of the program, and panics.
type Registry struct {
	meta     *Metadata
	registry *prometheus.Registry
}

// Registry returns one without metrics.
func (m *Metadata) Registry() *Registry { return &Registry{m, prometheus.NewRegistry()} }

// Counter is a declared `sum`. Its labels are in the order of metadata.yaml.
func (r *Registry) Counter(name string) *prometheus.CounterVec {
	m := r.find(name, "sum", func(m Metric) bool { return m.Sum != nil })
	return registered(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: r.meta.Prefix() + name, Help: m.Description}, m.Attributes))
}

// Histogram is a declared `histogram`, likewise.
func (r *Registry) Histogram(name string) *prometheus.HistogramVec {
	m := r.find(name, "histogram", func(m Metric) bool { return m.Histogram != nil })
	return registered(r, prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: r.meta.Prefix() + name, Help: m.Description, Buckets: m.Histogram.Buckets}, m.Attributes))
}

// Gauge is a declared `gauge`, likewise.
func (r *Registry) Gauge(name string) *prometheus.GaugeVec {
	m := r.find(name, "gauge", isGauge)
	return registered(r, prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: r.meta.Prefix() + name, Help: m.Description}, m.Attributes))
}

// Observe has a declared `gauge` without attributes ask for its value at each scrape.
func (r *Registry) Observe(name string, value func() float64) {
	m := r.find(name, "gauge without attributes", func(m Metric) bool { return isGauge(m) && len(m.Attributes) == 0 })
	registered(r, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: r.meta.Prefix() + name, Help: m.Description}, value))
}

// Gather returns what a scrape gets.
func (r *Registry) Gather() ([]*dto.MetricFamily, error) { return r.registry.Gather() }

func isGauge(m Metric) bool { return m.Gauge != nil }

func (r *Registry) find(name, kind string, is func(Metric) bool) Metric {
	m, ok := r.meta.metrics[name]
	if !ok || !is(m) {
		panic(fmt.Sprintf("metadata.yaml of %s declares no %s %s", r.meta.typ, kind, name))
	}
	return m
}

func registered[C prometheus.Collector](r *Registry, c C) C {
	r.registry.MustRegister(c)
	return c
}
