package probe

import (
	_ "embed"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pulsegrid/pulsegrid/internal/componentmeta"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

//go:embed metadata.yaml
var metadataFile []byte

var meta = componentmeta.MustParse(metadataFile)

// metrics are those that metadata.yaml declares. Their labels are in its order.
type metrics struct {
	registry  *prometheus.Registry
	requests  *prometheus.CounterVec
	duration  *prometheus.HistogramVec
	freshness *prometheus.HistogramVec
	rows      *prometheus.CounterVec
	waiting   *prometheus.GaugeVec
	looks     *prometheus.CounterVec
	success   *prometheus.GaugeVec
}

// newMetrics makes every counter begin at zero, so that Prometheus sees its first step.
func newMetrics(stores []Store, started time.Time) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: counter("probe_requests_total"), duration: histogram("probe_request_duration_seconds"), freshness: histogram("probe_freshness_seconds"),
		rows: counter("probe_rows_total"), waiting: gauge("probe_waiting_events"), looks: counter("probe_looks_total"), success: gauge("probe_last_success_timestamp_seconds"),
	}
	m.registry.MustRegister(m.requests, m.duration, m.freshness, m.rows, m.waiting, m.looks, m.success)
	for _, s := range signal.All {
		for _, w := range ways {
			for _, outcome := range meta.Attributes()["outcome"].Enum {
				m.requests.WithLabelValues(w.Protocol, w.Compression, s.String(), outcome)
			}
			m.duration.WithLabelValues(w.Protocol, s.String())
		}
		for _, store := range stores {
			for _, result := range meta.Attributes()["result"].Enum {
				m.rows.WithLabelValues(store.Name, s.String(), result)
			}
			m.freshness.WithLabelValues(store.Name, s.String())
		}
	}
	m.success.WithLabelValues(stageRequests).Set(unix(started))
	for _, store := range stores {
		m.success.WithLabelValues(store.Name).Set(unix(started))
		m.waiting.WithLabelValues(store.Name)
		m.looks.WithLabelValues(store.Name, "yes")
		m.looks.WithLabelValues(store.Name, "no")
	}
	return m
}

// stageRequests stands beside the stores' names.
const stageRequests = "requests"

func unix(t time.Time) float64 { return float64(t.UnixMilli()) / 1e3 }

func declared(name string) (componentmeta.Metric, string) {
	m, ok := meta.Metrics()[name]
	if !ok {
		panic("metadata.yaml declares no " + name)
	}
	return m, meta.Prefix() + name
}

func counter(name string) *prometheus.CounterVec {
	m, exposed := declared(name)
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: exposed, Help: m.Description}, m.Attributes)
}

func gauge(name string) *prometheus.GaugeVec {
	m, exposed := declared(name)
	return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: exposed, Help: m.Description}, m.Attributes)
}

func histogram(name string) *prometheus.HistogramVec {
	m, exposed := declared(name)
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: exposed, Help: m.Description, Buckets: m.Histogram.Buckets}, m.Attributes)
}
