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
	registry  *componentmeta.Registry
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
	r := meta.Registry()
	m := &metrics{
		registry: r,
		requests: r.Counter("probe_requests_total"), duration: r.Histogram("probe_request_duration_seconds"), freshness: r.Histogram("probe_freshness_seconds"),
		rows: r.Counter("probe_rows_total"), waiting: r.Gauge("probe_waiting_events"), looks: r.Counter("probe_looks_total"), success: r.Gauge("probe_last_success_timestamp_seconds"),
	}
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
