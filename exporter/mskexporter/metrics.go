package mskexporter

import (
	"context"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/otel/attribute"

	"github.com/pulsegrid/pulsegrid/internal/componentmeta"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// metrics are those that metadata.yaml declares.
type metrics struct {
	telemetry *componentmeta.Telemetry
	of        map[signal.Signal]componentmeta.Attributes // the signal attribute
	plain     componentmeta.Attributes

	records, events, bytes, failures, splits componentmeta.Counter
	duration                                 componentmeta.Histogram
}

func newMetrics(id component.ID, set component.TelemetrySettings, buffered, ready func() int64) (*metrics, error) {
	t := metadata.Telemetry(id, set)
	m := &metrics{
		telemetry: t,
		of:        map[signal.Signal]componentmeta.Attributes{},
		plain:     t.With(),
		records:   t.Counter("msk_exporter_records"),
		events:    t.Counter("msk_exporter_events"),
		bytes:     t.Counter("msk_exporter_bytes"),
		failures:  t.Counter("msk_exporter_failures"),
		splits:    t.Counter("msk_exporter_splits"),
		duration:  t.Histogram("msk_exporter_produce_duration"),
	}
	for _, s := range signal.All {
		m.of[s] = t.With(attribute.String("signal", s.String()))
	}
	t.Gauge("msk_exporter_buffered_bytes", func(record func(int64, ...attribute.KeyValue)) { record(buffered()) })
	t.Gauge("msk_exporter_ready", func(record func(int64, ...attribute.KeyValue)) { record(ready()) })
	return m, t.Err()
}

// acknowledged counts the records that are stored. It is not done in the Kafka client's callbacks, which are called one after
// the other for all partitions.
func (m *metrics) acknowledged(records []record) {
	ctx := context.Background()
	for i := range records {
		if r := &records[i]; r.stored {
			m.records.Add(ctx, 1, m.of[r.signal])
			m.events.Add(ctx, int64(r.events), m.of[r.signal])
			m.bytes.Add(ctx, int64(len(r.kafka.Value)), m.of[r.signal])
		}
	}
}
