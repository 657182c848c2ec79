package mskreceiver

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
)

const (
	// quarantineBatchBytes bounds what is produced at once, unless it is a single record.
	quarantineBatchBytes = 512 << 10
	// maxReasonBytes bounds the reason that a refused record carries; a store's error may quote the data.
	maxReasonBytes = 1 << 10
)

// quarantine produces refused records to the quarantine topic.
//
// Records of several partitions never share a produce: the client would put them into one batch, and one record that is too
// large for the topic would hold the others up.
type quarantine struct {
	topic   string
	group   string // consumer group that could not store the records
	produce func(context.Context, ...*kgo.Record) error
	turn    chan struct{} // holds one token
}

func newQuarantine(topic, group string) *quarantine {
	return &quarantine{topic: topic, group: group, turn: make(chan struct{}, 1)}
}

// put returns nil when all in-sync replicas have the refused records of entries; it marks those that it has put as rejected,
// also where it fails halfway. An error is always worth another try: the records are still in their own topic.
func (q *quarantine) put(ctx context.Context, entries []*entry, rejected func(*entry)) error {
	select {
	case q.turn <- struct{}{}:
		defer func() { <-q.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	for len(entries) > 0 {
		n, size := 0, 0
		var records []*kgo.Record
		for n < len(entries) {
			size += len(entries[n].record.Value)
			if n > 0 && size > quarantineBatchBytes {
				break
			}
			records = append(records, q.record(entries[n]))
			n++
		}
		if err := q.produce(ctx, records...); err != nil {
			first := entries[0].record
			return fmt.Errorf("quarantine topic %s: record of topic %s, partition %d, offset %d: %w", q.topic, first.Topic, first.Partition, first.Offset, err)
		}
		for _, e := range entries[:n] {
			e.rejected = true
			rejected(e)
		}
		entries = entries[n:]
	}
	return nil
}

// record is e's record as it was, with why and from where. Quarantine headers that it already has are replaced; an item of the
// quarantine keeps them, with the new ones behind: the last of a key counts.
func (q *quarantine) record(e *entry) *kgo.Record {
	r := e.record
	headers := make([]kgo.RecordHeader, 0, len(r.Headers)+7)
	for _, h := range r.Headers {
		if e.item || !envelope.QuarantineHeader(h.Key) {
			headers = append(headers, h)
		}
	}
	reason := e.refusal.reason
	if len(reason) > maxReasonBytes {
		reason = reason[:maxReasonBytes]
	}
	add := func(key, value string) {
		headers = append(headers, kgo.RecordHeader{Key: key, Value: []byte(value)})
	}
	add(envelope.HeaderQuarantineCode, e.refusal.code)
	add(envelope.HeaderQuarantineReason, strings.ToValidUTF8(reason, ""))
	add(envelope.HeaderOriginTopic, r.Topic)
	add(envelope.HeaderOriginPartition, strconv.FormatInt(int64(r.Partition), 10))
	add(envelope.HeaderOriginOffset, strconv.FormatInt(r.Offset, 10))
	add(envelope.HeaderOriginTimestamp, strconv.FormatInt(r.Timestamp.UnixNano(), 10))
	add(envelope.HeaderOriginGroup, q.group)
	return &kgo.Record{Topic: q.topic, Key: r.Key, Value: r.Value, Headers: headers}
}

// produceWith produces through cl with acks=all.
func produceWith(cl *kgo.Client) func(context.Context, ...*kgo.Record) error {
	return func(ctx context.Context, records ...*kgo.Record) error {
		return cl.ProduceSync(ctx, records...).FirstErr()
	}
}
