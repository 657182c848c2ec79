package mskexporter

import (
	"context"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/eventid"
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
	// requestKeyPrefix begins the key of a request without a source. 16 hexadecimal digits of its digest follow.
	requestKeyPrefix = "request:"
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
// unless it is split. frames are the zstd frames that the body came out of, or nil. Events that no record can hold are left out.
func (c *client) records(ctx context.Context, e envelope.Envelope, frames []byte) (out []record, left []leftOut, err error) {
	if e.Tenant == "" {
		e.Tenant = c.cfg.DefaultTenant
	}
	if e.Tenant == "" {
		return nil, nil, permanent(reasonInvalid, "%s request says nothing of its tenant, and default_tenant is empty", e.Signal)
	}
	if len(e.Body) == 0 && e.Lane != envelope.LaneQuarantine { // there the body may lie elsewhere
		return nil, nil, nil
	}
	key := recordKey(&e)
	common := c.headers(e)
	room := c.cfg.MaxRecordBytes - batchOverhead - recordOverhead - len(key) - 2*headerOverhead - len(envelope.HeaderEvents) - frameHeaderBytes
	for _, h := range common {
		room -= headerOverhead + len(h.Key) + len(h.Value)
	}
	if e.Lane == envelope.LaneQuarantine {
		return c.quarantined(e, key, common)
	}
	parts := []part{{body: e.Body, events: e.Events, request: e.Request}}
	if !parts[0].fits(room) {
		var large []largeEvent
		if parts, large, err = c.split(e, room); err != nil {
			return nil, nil, err
		}
		if out, left, err = c.leaveOut(ctx, e, key, large); err != nil {
			return nil, nil, err
		}
		frames = nil // they hold the whole
	}
	topic := c.cfg.Topics.nameOf(e)
	out = slices.Grow(out, len(parts))
	for _, p := range parts {
		headers := append(common[:len(common):len(common)], kgo.RecordHeader{Key: envelope.HeaderEvents, Value: strconv.AppendInt(nil, int64(p.events), 10)})
		if len(p.request) > 0 {
			headers = append(headers, kgo.RecordHeader{Key: envelope.HeaderRequest, Value: p.request})
		}
		var forget func()
		// Frames larger than what is in them would only make the batch larger than Kafka takes.
		if c.splicer != nil && len(frames) > 0 && len(frames) < len(p.body) {
			var h kgo.RecordHeader
			h, forget = c.splicer.register(frames)
			headers = append(headers, h)
		}
		out = append(out, record{forget: forget, kafka: &kgo.Record{Topic: topic, Key: key, Value: p.body, Headers: headers}, events: p.events, signal: e.Signal, tenant: e.Tenant})
	}
	return out, left, nil
}

// headers are those that all records of an envelope share.
func (c *client) headers(e envelope.Envelope) []kgo.RecordHeader {
	lane := e.Lane
	if lane == "" {
		lane = envelope.LaneFast
	}
	h := make([]kgo.RecordHeader, 0, 11)
	h = append(h,
		kgo.RecordHeader{Key: envelope.HeaderTenant, Value: []byte(e.Tenant)},
		kgo.RecordHeader{Key: envelope.HeaderSignal, Value: []byte(e.Signal.String())},
		kgo.RecordHeader{Key: envelope.HeaderReceivedNanos, Value: strconv.AppendInt(nil, e.Received.UnixNano(), 10)},
		kgo.RecordHeader{Key: envelope.HeaderGateway, Value: c.gateway},
		kgo.RecordHeader{Key: envelope.HeaderLane, Value: []byte(lane)},
	)
	if e.Jurisdiction != "" {
		h = append(h, kgo.RecordHeader{Key: envelope.HeaderJurisdiction, Value: []byte(e.Jurisdiction)})
	}
	if e.IDAttribute != "" {
		h = append(h, kgo.RecordHeader{Key: envelope.HeaderIDAttribute, Value: []byte(e.IDAttribute)})
	}
	if e.SchemaVersion != "" {
		h = append(h, kgo.RecordHeader{Key: envelope.HeaderSchemaVersion, Value: []byte(e.SchemaVersion)})
	}
	return h
}

// recordKey is the source, or of a request that says nothing of its sender a name of the request: its retries meet in one partition, and such requests are
// spread over all of them. It is nil only for a body that lies elsewhere.
func recordKey(e *envelope.Envelope) []byte {
	source := e.Source
	switch {
	case source == "" && len(e.Body) == 0 && len(e.Request) == 0:
		return nil
	case source == "":
		of := eventid.OfBody(e.Body, e.Request, e.Events)
		return hex.AppendEncode([]byte(requestKeyPrefix), of.Digest[:8])
	case len(source) > maxKeyBytes:
		source = strings.ToValidUTF8(source[:maxKeyBytes], "")
	}
	return []byte(source)
}
