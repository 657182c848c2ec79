package mskreceiver

import (
	"context"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/otel/attribute"

	"github.com/pulsegrid/pulsegrid/internal/componentmeta"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// telemetry holds the instruments that metadata.yaml declares.
type telemetry struct {
	tel   *componentmeta.Telemetry
	group attribute.KeyValue // of every metric

	blockEvents, blockBytes, blockAge componentmeta.Histogram
	delivery                          componentmeta.Histogram
	appendToDelivered                 componentmeta.Histogram
	receivedToDelivered               componentmeta.Histogram
	receivedToAppended                componentmeta.Histogram
	retries, quarantines              componentmeta.Counter
	lostOffsets, rebalances           componentmeta.Counter
	commits                           componentmeta.Histogram
	redone, sendBacks, unreadables    componentmeta.Counter
	anew, passes                      componentmeta.Counter
	warmRecords, warmEvents           componentmeta.Counter

	warming atomic.Int64 // partitions
}

func newTelemetry(id component.ID, set component.TelemetrySettings, group string) (*telemetry, error) {
	t := &telemetry{tel: metadata.Telemetry(id, set), group: attribute.String("group", group)}
	t.blockEvents = t.tel.Histogram("msk_receiver_block_events")
	t.blockBytes = t.tel.Histogram("msk_receiver_block_bytes")
	t.blockAge = t.tel.Histogram("msk_receiver_block_age")
	t.delivery = t.tel.Histogram("msk_receiver_delivery_duration")
	t.appendToDelivered = t.tel.Histogram("msk_receiver_append_to_delivered")
	t.receivedToDelivered = t.tel.Histogram("msk_receiver_received_to_delivered")
	t.receivedToAppended = t.tel.Histogram("msk_receiver_received_to_appended")
	t.retries = t.tel.Counter("msk_receiver_retries")
	t.quarantines = t.tel.Counter("msk_receiver_quarantined_records")
	t.lostOffsets = t.tel.Counter("msk_receiver_lost_offsets")
	t.rebalances = t.tel.Counter("msk_receiver_rebalances")
	t.commits = t.tel.Histogram("msk_receiver_commit_duration")
	t.redone = t.tel.Counter("msk_receiver_redone_blocks")
	t.sendBacks = t.tel.Counter("msk_receiver_resumes")
	t.unreadables = t.tel.Counter("msk_receiver_unreadable_intents")
	t.anew = t.tel.Counter("msk_receiver_recreated_partitions")
	t.passes = t.tel.Counter("msk_receiver_passed_over")
	t.warmRecords = t.tel.Counter("msk_receiver_warmup_records")
	t.warmEvents = t.tel.Counter("msk_receiver_warmup_events")
	return t, t.tel.Err()
}

func (t *telemetry) shutdown() { t.tel.Shutdown() }

func (t *telemetry) with(attrs ...attribute.KeyValue) componentmeta.Attributes {
	return t.tel.With(append(attrs, t.group)...)
}

// observe registers the gauges. waiting(0, nil) tells how many partitions wait.
func (t *telemetry) observe(g *group, b *budget, waiting func(int, error) int) error {
	type record = func(int64, ...attribute.KeyValue)
	t.tel.Gauge("msk_receiver_lag", func(record record) {
		for _, p := range g.partitions() {
			end, position := p.highWatermark.Load(), p.position.Load()
			if end >= 0 && position >= 0 {
				record(max(0, end-position), append(p.attributes(), t.group)...)
			}
		}
	})
	t.tel.Gauge("msk_receiver_assigned_partitions", func(record record) { record(int64(len(g.partitions())), t.group) })
	t.tel.Gauge("msk_receiver_paused_partitions", func(record record) { _, n := b.usage(); record(int64(n), t.group) })
	t.tel.Gauge("msk_receiver_in_flight_bytes", func(record record) { n, _ := b.usage(); record(n, t.group) })
	t.tel.Gauge("msk_receiver_waiting_partitions", func(record record) { record(int64(waiting(0, nil)), t.group) })
	t.tel.Gauge("msk_receiver_warming_partitions", func(record record) { record(t.warming.Load(), t.group) })
	return t.tel.Err()
}

func (p *partition) attributes() []attribute.KeyValue {
	return []attribute.KeyValue{attribute.String("topic", p.topic), attribute.Int("partition", int(p.id))}
}

func (t *telemetry) ofSignal(s signal.Signal) componentmeta.Attributes {
	return t.with(attribute.String("signal", s.String()))
}

// closed records a block that will be delivered.
func (t *telemetry) closed(p *partition, s span, now time.Time) {
	events, bytes := 0, 0
	for _, e := range s.entries {
		events += e.events
		bytes += len(e.record.Value)
	}
	ctx, attrs := context.Background(), t.ofSignal(p.signal)
	t.blockEvents.Record(ctx, float64(events), attrs)
	t.blockBytes.Record(ctx, float64(bytes), attrs)
	if len(s.entries) > 0 {
		t.blockAge.Record(ctx, now.Sub(s.entries[0].arrived).Seconds(), attrs)
	}
	if s.redo {
		t.redone.Add(ctx, 1, attrs)
	}
}

func (t *telemetry) deliveryTook(p *partition, took time.Duration, err error) {
	outcome := "delivered"
	switch {
	case consumererror.IsPermanent(err):
		outcome = "refused"
	case err != nil:
		outcome = "failed"
	}
	t.delivery.Record(context.Background(), took.Seconds(),
		t.with(attribute.String("signal", p.signal.String()), attribute.String("outcome", outcome)))
}

// delivered records how old each delivered record is.
func (t *telemetry) delivered(p *partition, entries []*entry, now time.Time) {
	ctx, attrs := context.Background(), t.ofSignal(p.signal)
	for _, e := range entries {
		if e.refusal != nil {
			continue
		}
		t.appendToDelivered.Record(ctx, now.Sub(e.record.Timestamp).Seconds(), attrs)
		if e.origin.gateway {
			t.receivedToDelivered.Record(ctx, now.Sub(e.origin.Received).Seconds(), attrs)
			t.receivedToAppended.Record(ctx, e.record.Timestamp.Sub(e.origin.Received).Seconds(), attrs)
		}
	}
}

func (t *telemetry) retry(operation string) {
	t.retries.Add(context.Background(), 1, t.with(attribute.String("operation", operation)))
}

func (t *telemetry) quarantined(p *partition, e *entry) {
	t.quarantines.Add(context.Background(), 1,
		t.with(attribute.String("topic", p.topic), attribute.String("reason", e.refusal.code)))
}

func (t *telemetry) lost(p *partition, offsets int64) {
	t.lostOffsets.Add(context.Background(), offsets, t.with(p.attributes()...))
}

func (t *telemetry) rebalanced(event string, partitions int) {
	t.rebalances.Add(context.Background(), int64(partitions), t.with(attribute.String("event", event)))
}

func (t *telemetry) committed(took time.Duration) {
	t.commits.Record(context.Background(), took.Seconds(), t.with())
}

func (t *telemetry) sentBack(p *partition) {
	t.sendBacks.Add(context.Background(), 1, t.with(p.attributes()...))
}

func (t *telemetry) unreadable(p *partition) {
	t.unreadables.Add(context.Background(), 1, t.with(p.attributes()...))
}

func (t *telemetry) madeAnew(p *partition) {
	t.anew.Add(context.Background(), 1, t.with(p.attributes()...))
}

func (t *telemetry) passedOver(p *partition) {
	t.passes.Add(context.Background(), 1, t.with(p.attributes()...))
}

func (t *telemetry) remembered(p *partition, events int) {
	ctx, attrs := context.Background(), t.ofSignal(p.signal)
	t.warmRecords.Add(ctx, 1, attrs)
	t.warmEvents.Add(ctx, int64(events), attrs)
}
