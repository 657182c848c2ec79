package audit

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/internal/audit/oracle"
	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// codeRefused is the code of a record that a store refused: it was decoded, so its events have occurred. Of the others the data path knows
// no events.
const codeRefused = "refused"

// quarantined is a record of the quarantine: what a group's store does not have of a record of ours.
type quarantined struct {
	group   string // empty: of any
	refused bool
	value   [32]byte // SHA-256
	object  bool     // the value is elsewhere, since it is too large
	// Of events that a store named when it refused them: their request, and their contents by index.
	digest   [16]byte
	contents map[uint32][32]byte
}

type origin struct {
	topic     string
	partition int32
	offset    int64
}

// quarantineIndex tells which records are in quarantine.
type quarantineIndex map[origin][]quarantined

// find sets what of a record is in quarantine, by group, and whether the data path has never decoded it. Only what holds the record's value, or the
// contents of its events, counts: a former topic of the name may have had other records at the same places.
func (q quarantineIndex) find(d *decoded, rec *kgo.Record, groups []string) {
	d.away, d.unread = make([]absence, len(groups)), false
	entries := q[origin{rec.Topic, rec.Partition, rec.Offset}]
	if len(entries) == 0 {
		return
	}
	value := sha256.Sum256(rec.Value)
	whole, refused := false, false
	for _, e := range entries {
		isWhole := e.object || e.value == value
		whole, refused = whole || isWhole, refused || e.refused
		for i, g := range groups {
			switch {
			case e.group != "" && e.group != g:
			case isWhole:
				d.away[i].whole = true
			default:
				d.away[i].some(e, d.request)
			}
		}
	}
	d.unread = whole && !refused
}

// absence is what of a record a store need not have, since it is in quarantine.
type absence struct {
	whole  bool
	events map[int]bool // by position
}

// some adds the events that e holds.
func (a *absence) some(e quarantined, q *oracle.Request) {
	if q == nil || e.contents == nil || e.digest != q.Header.Digest {
		return
	}
	for i := range q.Events {
		if content, ok := e.contents[q.Index(i)]; ok && content == q.Events[i].Content {
			if a.events == nil {
				a.events = map[int]bool{}
			}
			a.events[i] = true
		}
	}
}

// has tells whether the event at a position is in quarantine.
func (a *absence) has(position int32) bool { return a.whole || a.events[int(position)] }

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
	// Where no record has a time, from the start: nothing is audited, or all of it is gone. Kafka takes times before 1970 for commands.
	starts, err := log.admin.ListOffsetsAfterMilli(ctx, max(0, since.UnixMilli()), topic)
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
				q.part(p.signal, r)
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

// part reads the events of a record that are not all of it.
func (q *quarantined) part(s signal.Signal, r *kgo.Record) {
	_, rec, _ := decoder{signal: s}.headers(r)
	if !q.refused || rec.Header == nil {
		return
	}
	request, err := oracle.Read(s, rec)
	if err != nil || request.Header.Whole {
		return
	}
	q.digest, q.contents = request.Header.Digest, map[uint32][32]byte{}
	for i, e := range request.Events {
		q.contents[request.Index(i)] = e.Content
	}
}

// quarantineEntry is false for a record that was never in another topic.
func quarantineEntry(r *kgo.Record) (o origin, q quarantined, ok bool) {
	q.value = sha256.Sum256(r.Value)
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
		case envelope.HeaderObject:
			q.object = true
		}
	}
	return o, q, o.topic != "" && hasPartition && hasOffset
}
