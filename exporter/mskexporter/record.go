package mskexporter

import (
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

const (
	// maxKeyBytes bounds the record key. A longer source still sticks to one partition, by its beginning.
	maxKeyBytes = 1 << 10
	// batchOverhead and recordOverhead are what Kafka's format v2 adds to a batch and to a record beside key, value and headers
	// (61 bytes, and at most 35 bytes of varints); headerOverhead is added to a header (two varints).
	batchOverhead  = 64
	recordOverhead = 40
	headerOverhead = 10
)

// record is one Kafka record to be produced.
type record struct {
	kafka  *kgo.Record
	events int
	signal signal.Signal
	tenant string
	stored bool   // Kafka has acknowledged it
	forget func() // of the splicer, once its fate is known; nil: it has no frames
}

// size is what the record takes of the buffer.
func (r *record) size() int64 {
	n := recordOverhead + len(r.kafka.Key) + len(r.kafka.Value)
	for _, h := range r.kafka.Headers {
		n += headerOverhead + len(h.Key) + len(h.Value)
	}
	return int64(n)
}

// records makes the records of an envelope: one, or where its body is too large several, split by events. Values alias the body
// unless it is split. frames are the zstd frames that the body came out of, or nil.
func (c *client) records(e envelope.Envelope, frames []byte) ([]record, error) {
	if e.Tenant == "" {
		e.Tenant = c.cfg.DefaultTenant
	}
	if e.Tenant == "" {
		return nil, permanent(reasonInvalid, "%s request says nothing of its tenant, and default_tenant is empty", e.Signal)
	}
	if len(e.Body) == 0 && e.Lane != envelope.LaneQuarantine { // there the body may lie elsewhere
		return nil, nil
	}
	key := sourceKey(e.Source)
	common := c.headers(e)
	room := c.cfg.MaxRecordBytes - batchOverhead - recordOverhead - len(key) - 2*headerOverhead - len(envelope.HeaderEvents) - frameHeaderBytes
	for _, h := range common {
		room -= headerOverhead + len(h.Key) + len(h.Value)
	}
	if e.Lane == envelope.LaneQuarantine {
		return c.quarantined(e, key, common)
	}
	parts, counts := [][]byte{e.Body}, []int{e.Events}
	if len(e.Body) > room {
		var err error
		if parts, counts, err = c.split(e, room); err != nil {
			return nil, err
		}
	}
	topic := c.cfg.Topics.of(e.Signal).Name
	out := make([]record, len(parts))
	for i, part := range parts {
		headers := append(common[:len(common):len(common)], kgo.RecordHeader{Key: envelope.HeaderEvents, Value: strconv.AppendInt(nil, int64(counts[i]), 10)})
		var forget func()
		// Frames larger than what is in them would only make the batch larger than Kafka takes.
		if c.splicer != nil && len(parts) == 1 && len(frames) > 0 && len(frames) < len(part) {
			var h kgo.RecordHeader
			h, forget = c.splicer.register(frames)
			headers = append(headers, h)
		}
		out[i] = record{forget: forget, kafka: &kgo.Record{Topic: topic, Key: key, Value: part, Headers: headers}, events: counts[i], signal: e.Signal, tenant: e.Tenant}
	}
	return out, nil
}

// split divides a body. If one of its events alone is too large, nothing of the request is written: a client that hears of a
// refusal must not find a part of it in the store.
func (c *client) split(e envelope.Envelope, room int) ([][]byte, []int, error) {
	if room <= 0 {
		return nil, nil, permanent(reasonInvalid, "%s request of tenant %q: key and headers alone exceed max_record_bytes %d", e.Signal, e.Tenant, c.cfg.MaxRecordBytes)
	}
	parts, counts, err := otlpwire.SplitBySize(e.Signal, e.Body, room)
	if err != nil {
		return nil, nil, permanent(reasonInvalid, "%s request of tenant %q, %d bytes, cannot be split into records of max_record_bytes %d: %w", e.Signal, e.Tenant, len(e.Body), c.cfg.MaxRecordBytes, err)
	}
	first := 0
	for i, part := range parts {
		if len(part) > room {
			return nil, nil, permanent(reasonEventTooLarge, "%s request of tenant %q: event %d is %d bytes with its resource and scope, a record takes %d (max_record_bytes %d); nothing of the request's %d events is stored",
				e.Signal, e.Tenant, first, len(part), room, c.cfg.MaxRecordBytes, e.Events)
		}
		first += counts[i]
	}
	return parts, counts, nil
}

// headers are those that all records of an envelope share.
func (c *client) headers(e envelope.Envelope) []kgo.RecordHeader {
	lane := e.Lane
	if lane == "" {
		lane = envelope.LaneFast
	}
	h := make([]kgo.RecordHeader, 0, 8)
	h = append(h,
		kgo.RecordHeader{Key: envelope.HeaderTenant, Value: []byte(e.Tenant)},
		kgo.RecordHeader{Key: envelope.HeaderSignal, Value: []byte(e.Signal.String())},
		kgo.RecordHeader{Key: envelope.HeaderReceivedNanos, Value: strconv.AppendInt(nil, e.Received.UnixNano(), 10)},
		kgo.RecordHeader{Key: envelope.HeaderGateway, Value: c.gateway},
		kgo.RecordHeader{Key: envelope.HeaderLane, Value: []byte(lane)},
	)
	if e.SchemaVersion != "" {
		h = append(h, kgo.RecordHeader{Key: envelope.HeaderSchemaVersion, Value: []byte(e.SchemaVersion)})
	}
	return h
}

// sourceKey is nil where no source is known: such records are spread over the partitions.
func sourceKey(source string) []byte {
	if source == "" {
		return nil
	}
	if len(source) > maxKeyBytes {
		source = strings.ToValidUTF8(source[:maxKeyBytes], "")
	}
	return []byte(source)
}
