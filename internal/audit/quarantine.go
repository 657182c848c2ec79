package audit

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
)

// codeRefused is the code of a record that a store refused: it was decoded, so its events have occurred. Of the others the data path knows
// no events.
const codeRefused = "refused"

// quarantined is a record that a group's store does not have.
type quarantined struct {
	group   string // empty: of any
	refused bool
}

type origin struct {
	topic     string
	partition int32
	offset    int64
}

// quarantineIndex tells which records are in quarantine.
type quarantineIndex map[origin][]quarantined

// of tells whether the record is in quarantine for a group, and whether its events nevertheless occurred.
func (q quarantineIndex) of(topic string, partition int32, offset int64, group string) (in, refused bool) {
	for _, e := range q[origin{topic, partition, offset}] {
		if e.group == "" || e.group == group {
			in, refused = true, refused || e.refused
		}
	}
	return in, refused
}

// unread tells whether the data path, as far as the quarantine says, has never decoded the record.
func (q quarantineIndex) unread(topic string, partition int32, offset int64) bool {
	entries := q[origin{topic, partition, offset}]
	for _, e := range entries {
		if e.refused {
			return false
		}
	}
	return len(entries) > 0
}

// readQuarantine reads the quarantine topic from the time when the oldest audited record was appended: a record is quarantined after it was
// appended, and before the group's offset passes it.
func readQuarantine(ctx context.Context, log *kafkaLog, topic string, plans []*topicPlan) (quarantineIndex, error) {
	index := quarantineIndex{}
	ranges := map[string]map[int32]*plan{}
	var since time.Time
	for _, t := range plans {
		ranges[t.Name] = map[int32]*plan{}
		for _, p := range t.partitions {
			if p.Last < p.First {
				continue
			}
			ranges[t.Name][p.Partition] = p
			at, err := log.timeOf(ctx, p.Topic, p.Partition, p.windowFrom, p.end)
			if err != nil {
				return nil, err
			}
			if since.IsZero() || !at.IsZero() && at.Before(since) {
				since = at
			}
		}
	}
	starts, err := log.admin.ListOffsetsAfterMilli(ctx, since.UnixMilli(), topic)
	if err == nil {
		err = starts.Error()
	}
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		return index, nil
	}
	if err != nil {
		return nil, fmt.Errorf("quarantine topic %s: %w", topic, err)
	}
	ends, err := log.admin.ListCommittedOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("quarantine topic %s: %w", topic, err)
	}
	for _, start := range starts.Offsets().Sorted() {
		err := log.each(ctx, topic, start.Partition, start.At, at(ends, topic, start.Partition)-1, func(r *kgo.Record) error {
			o, q, ok := quarantineEntry(r)
			if p := ranges[o.topic][o.partition]; ok && p != nil && o.offset >= p.windowFrom && o.offset <= p.Last {
				index[o] = append(index[o], q)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return index, nil
}

// quarantineEntry is false for a record that was never in another topic.
func quarantineEntry(r *kgo.Record) (o origin, q quarantined, ok bool) {
	var hasPartition, hasOffset bool
	for _, h := range r.Headers {
		v := string(h.Value)
		switch h.Key {
		case envelope.HeaderOriginTopic:
			o.topic = v
		case envelope.HeaderOriginPartition:
			n, err := strconv.ParseInt(v, 10, 32)
			o.partition, hasPartition = int32(n), err == nil
		case envelope.HeaderOriginOffset:
			n, err := strconv.ParseInt(v, 10, 64)
			o.offset, hasOffset = n, err == nil
		case envelope.HeaderOriginGroup:
			q.group = v
		case envelope.HeaderQuarantineCode:
			q.refused = v == codeRefused
		}
	}
	return o, q, o.topic != "" && hasPartition && hasOffset
}
