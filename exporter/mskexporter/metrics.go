package mskexporter

import (
	"context"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/otel/attribute"

	"github.com/pulsegrid/pulsegrid/internal/componentmeta"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/spill"
)

// metrics are those that metadata.yaml declares.
type metrics struct {
	telemetry *componentmeta.Telemetry
	of        map[signal.Signal]componentmeta.Attributes // the signal attribute
	plain     componentmeta.Attributes

	records, events, bytes, failures, splits componentmeta.Counter
	spilled, unspilled, damaged, oversized   componentmeta.Counter
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
		spilled:   t.Counter("msk_exporter_spilled_records"),
		unspilled: t.Counter("msk_exporter_unspilled_records"),
		damaged:   t.Counter("msk_exporter_spill_damaged_objects"),
		oversized: t.Counter("msk_exporter_oversized_events"),
		duration:  t.Histogram("msk_exporter_produce_duration"),
	}
	for _, s := range signal.All {
		m.of[s] = t.With(attribute.String("signal", s.String()))
	}
	t.Gauge("msk_exporter_buffered_bytes", func(record func(int64, ...attribute.KeyValue)) { record(buffered()) })
	t.Gauge("msk_exporter_ready", func(record func(int64, ...attribute.KeyValue)) { record(ready()) })
	return m, t.Err()
}

// observeSpill adds the gauges of a spill.
func (m *metrics) observeSpill(bytesMax int64, backlog func() spill.Backlog, spilling func() int) error {
	m.telemetry.Gauge("msk_exporter_spill_max_bytes", func(record func(int64, ...attribute.KeyValue)) { record(bytesMax) })
	m.telemetry.Gauge("msk_exporter_spill_backlog_bytes", func(record func(int64, ...attribute.KeyValue)) { record(backlog().Bytes) })
	m.telemetry.Gauge("msk_exporter_spill_backlog_age", func(record func(int64, ...attribute.KeyValue)) {
		if oldest := backlog().Oldest; oldest.IsZero() {
			record(0)
		} else {
			record(int64(time.Since(oldest).Seconds()))
		}
	})
	m.telemetry.Gauge("msk_exporter_spilling", func(record func(int64, ...attribute.KeyValue)) {
		record(min(1, int64(spilling())))
	})
	m.telemetry.Gauge("msk_exporter_spilling_partitions", func(record func(int64, ...attribute.KeyValue)) { record(int64(spilling())) })
	return m.telemetry.Err()
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
