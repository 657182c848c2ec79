package mskreceiver

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/pulsegrid/pulsegrid/internal/block"
)

// Special offsets and timestamps of Kafka's ListOffsets.
const (
	atEnd   int64 = -1
	atStart int64 = -2
)

// query asks where a partition begins that this member has been given, or that its store sends back.
type query struct {
	position               // next may be atStart or atEnd; of the topic topicID, if that is known
	window   time.Duration // how far before next its memories want to be told; zero: nothing
}

// plan is where a partition begins.
type plan struct {
	position
	from       int64 // first offset to fetch: the warm-up's first record, else the first block's
	start, end int64 // of the partition's log, committed transactions only, when this was found out

	// cut is the offset from which on the log does not have the records any more that had been read of it; decided() where it has all.
	cut int64

	topic block.TopicID // of the topic as it is; zero: neither the broker nor the group knows
	// gone is what the query was about, if that was another topic of the same name, which was deleted: nothing of it counts, and the
	// partition begins at its start.
	gone *position
}

// before is the leader epoch of the record before the first one to fetch, -1: unknown. The client verifies it against the log.
func (p plan) before() int32 {
	if p.from == p.next && p.cut >= p.next {
		return p.epoch
	}
	if s, ok := p.epochs.at(p.from - 1); ok && p.from <= p.decided() {
		return s.epoch
	}
	return -1
}

// known is the offset behind the last record before the first block. It is next, unless the log has been cut off before that.
func (p plan) known() int64 { return min(p.next, p.end) }

// locator finds out where partitions begin.
type locator struct {
	client *kgo.Client
	// options are those of a client of its own, which looks at single records.
	options func() ([]kgo.Opt, error)
}

const (
	// locateTimeout bounds one try, and so what partitions without a leader cost those that were assigned with them.
	locateTimeout = 10 * time.Second
	// peekBytes is what is asked of a partition to see its next record's time; Kafka sends at least one batch.
	peekBytes = 1 << 10
)

// locate answers queries. A partition's error leaves it out of the plans, and holds no other up for longer than locateTimeout.
func (l *locator) locate(ctx context.Context, queries map[topicPartition]query) (map[topicPartition]plan, map[topicPartition]error) {
	ctx, cancel := context.WithTimeout(ctx, locateTimeout)
	defer cancel()
	plans, failed := make(map[topicPartition]plan, len(queries)), map[topicPartition]error{}
	of := func(timestamp int64) map[topicPartition]int64 {
		all := make(map[topicPartition]int64, len(queries))
		for tp := range queries {
			if failed[tp] == nil {
				all[tp] = timestamp
			}
		}
		return all
	}
	ids := l.topicIDs(ctx, of(0), failed)
	starts := l.list(ctx, of(atStart), failed)
	ends := l.list(ctx, of(atEnd), failed)
	since, unknown := map[topicPartition]int64{}, map[topicPartition]int64{}
	for tp := range of(0) {
		q := queries[tp]
		p := plan{position: q.position, start: starts[tp], end: ends[tp], topic: cmp.Or(ids[tp.topic], q.topicID)}
		if p.topicID != p.topic && p.topicID != (block.TopicID{}) {
			p.gone, p.position = &q.position, position{next: atStart, epoch: -1, topicID: p.topic, fresh: true}
		}
		switch p.next {
		case atStart:
			p.next = p.start
		case atEnd:
			p.next = p.end
		}
		p.cut = p.decided()
		p.from = min(max(p.next, p.start), max(p.end, p.start))
		plans[tp] = p
		switch {
		case q.window == 0 || p.start >= p.known():
		case !p.appended.IsZero():
			since[tp] = windowStart(p.appended, q.window)
		default:
			unknown[tp] = min(p.next, p.end-1) // the next record, else the last one, which is no younger
		}
	}
	for tp, at := range l.peek(ctx, unknown, failed) {
		since[tp] = windowStart(at, queries[tp].window)
	}
	for tp, offset := range l.list(ctx, since, failed) {
		if p := plans[tp]; offset >= 0 { // there is none where all is older
			p.from = min(p.from, max(offset, p.start))
			plans[tp] = p
		}
	}
	l.compare(ctx, plans, failed)
	for tp := range failed {
		delete(plans, tp)
	}
	return plans, failed
}

// compare finds out where logs do not have the records any more that had been read of them, by the ends of these records' leader
// epochs, and lets such plans begin there. Which records are others is decided one by one (partition.isStray).
func (l *locator) compare(ctx context.Context, plans map[topicPartition]plan, failed map[topicPartition]error) {
	type question struct {
		steps epochs // those that may be missing in the log
		to    int64  // offset behind the last of them
	}
	open := map[topicPartition]question{}
	for tp, p := range plans {
		if steps := p.epochs.below(p.decided()); len(steps) > 0 && failed[tp] == nil {
			open[tp] = question{steps, p.decided()}
		}
	}
	for len(open) > 0 { // most often once: the last epoch is there
		asked := make(map[topicPartition]int32, len(open))
		for tp, q := range open {
			asked[tp] = q.steps[len(q.steps)-1].epoch
		}
		for tp, end := range l.epochEnds(ctx, asked, failed) {
			q, p := open[tp], plans[tp]
			n := len(q.steps) - 1
			last := q.steps[n]
			if end.epoch == last.epoch && end.offset >= q.to {
				delete(open, tp)
				continue
			}
			p.cut = last.from
			if end.epoch == last.epoch || n == 0 && end.epoch >= 0 { // what lies before the first step is not known
				p.cut = end.offset
			}
			p.cut = min(p.cut, q.to)
			p.from = min(p.from, max(p.cut, p.start))
			plans[tp] = p
			if n == 0 || end.epoch == last.epoch && end.offset > last.from {
				delete(open, tp)
			} else {
				open[tp] = question{q.steps[:n], last.from}
			}
		}
		for tp := range failed {
			delete(open, tp)
		}
	}
}

// epochEnd is the largest leader epoch that a log has, of those up to the one that was asked for, and the offset behind it; -1: none.
type epochEnd struct {
	epoch  int32
	offset int64
}

// epochEnds asks for each partition's end of a leader epoch. What it has no answer for is in failed.
func (l *locator) epochEnds(ctx context.Context, asked map[topicPartition]int32, failed map[topicPartition]error) map[topicPartition]epochEnd {
	topics := map[string][]kmsg.OffsetForLeaderEpochRequestTopicPartition{}
	for tp, epoch := range asked {
		p := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
		p.Partition, p.LeaderEpoch = tp.id, epoch
		topics[tp.topic] = append(topics[tp.topic], p)
	}
	req := kmsg.NewPtrOffsetForLeaderEpochRequest()
	req.ReplicaID = -1
	for topic, partitions := range topics {
		t := kmsg.NewOffsetForLeaderEpochRequestTopic()
		t.Topic, t.Partitions = topic, partitions
		req.Topics = append(req.Topics, t)
	}
	out := make(map[topicPartition]epochEnd, len(asked))
	var broken error
	for _, shard := range l.client.RequestSharded(ctx, req) {
		if shard.Err != nil {
			broken = shard.Err
			continue
		}
		for _, t := range shard.Resp.(*kmsg.OffsetForLeaderEpochResponse).Topics {
			for _, p := range t.Partitions {
				tp := topicPartition{t.Topic, p.Partition}
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					failed[tp] = fmt.Errorf("ask for the end of leader epoch %d: %w", asked[tp], err)
				} else {
					out[tp] = epochEnd{p.LeaderEpoch, p.EndOffset}
				}
			}
		}
	}
	for tp := range asked {
		if _, ok := out[tp]; !ok && failed[tp] == nil {
			failed[tp] = fmt.Errorf("ask for the end of a leader epoch: no answer: %w", cmp.Or(broken, ctx.Err(), errNoAnswer))
		}
	}
	return out
}

// topicIDs asks for the topics' ids. Records and commits of another topic with the same name are told by them (group.otherTopic).
func (l *locator) topicIDs(ctx context.Context, partitions map[topicPartition]int64, failed map[topicPartition]error) map[string]block.TopicID {
	ids, broken, err := topicIDs(ctx, l.client, slices.Collect(topicsOf(partitions)))
	for tp := range partitions {
		if e := cmp.Or(err, broken[tp.topic]); e != nil {
			failed[tp] = fmt.Errorf("ask for the topic's id: %w", e)
		}
	}
	return ids
}

func topicsOf[V any](partitions map[topicPartition]V) iter.Seq[string] {
	topics := map[string]struct{}{}
	for tp := range partitions {
		topics[tp.topic] = struct{}{}
	}
	return maps.Keys(topics)
}

// topicIDs asks a broker for the ids of topics. What Kafka knows no such topic for, or cannot tell, is in failed.
func topicIDs(ctx context.Context, cl *kgo.Client, topics []string) (ids map[string]block.TopicID, failed map[string]error, err error) {
	req := kmsg.NewPtrMetadataRequest()
	for _, name := range topics {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = &name
		req.Topics = append(req.Topics, t)
	}
	if len(req.Topics) == 0 {
		return nil, nil, nil // a request without topics asks for all
	}
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return nil, nil, err
	}
	ids, failed = map[string]block.TopicID{}, map[string]error{}
	for _, t := range resp.Topics {
		if t.Topic == nil {
			continue
		}
		ids[*t.Topic] = t.TopicID
		if err := kerr.ErrorForCode(t.ErrorCode); err != nil {
			failed[*t.Topic] = err
		}
	}
	return ids, failed, nil
}

func windowStart(at time.Time, window time.Duration) int64 {
	return max(0, at.Add(-window).UnixMilli())
}

// list asks for each partition's first offset at or after its timestamp; -1: there is none. What it has no answer for is in failed.
func (l *locator) list(ctx context.Context, timestamps map[topicPartition]int64, failed map[topicPartition]error) map[topicPartition]int64 {
	out := make(map[topicPartition]int64, len(timestamps))
	if len(timestamps) == 0 {
		return out
	}
	topics := map[string][]kmsg.ListOffsetsRequestTopicPartition{}
	for tp, at := range timestamps {
		p := kmsg.NewListOffsetsRequestTopicPartition()
		p.Partition, p.Timestamp = tp.id, at
		topics[tp.topic] = append(topics[tp.topic], p)
	}
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	req.IsolationLevel = 1 // as records are fetched: read_committed
	for topic, partitions := range topics {
		t := kmsg.NewListOffsetsRequestTopic()
		t.Topic, t.Partitions = topic, partitions
		req.Topics = append(req.Topics, t)
	}
	var broken error
	for _, shard := range l.client.RequestSharded(ctx, req) {
		if shard.Err != nil {
			broken = shard.Err
			continue
		}
		for _, t := range shard.Resp.(*kmsg.ListOffsetsResponse).Topics {
			for _, p := range t.Partitions {
				tp := topicPartition{t.Topic, p.Partition}
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					failed[tp] = fmt.Errorf("list offsets: %w", err)
				} else {
					out[tp] = p.Offset
				}
			}
		}
	}
	for tp := range timestamps {
		if _, ok := out[tp]; !ok && failed[tp] == nil {
			failed[tp] = fmt.Errorf("list offsets: no answer: %w", cmp.Or(broken, ctx.Err(), errNoAnswer))
		}
	}
	return out
}

// peek returns when the records at offsets, or the first ones behind them, were appended. The log ends behind all of them.
func (l *locator) peek(ctx context.Context, offsets map[topicPartition]int64, failed map[topicPartition]error) map[topicPartition]time.Time {
	times := make(map[topicPartition]time.Time, len(offsets))
	if len(offsets) == 0 {
		return times
	}
	// What belongs to no committed transaction has a time too, and may be all that there is.
	found, err := l.first(ctx, offsets, kgo.FetchIsolationLevel(kgo.ReadUncommitted()), kgo.KeepControlRecords())
	for tp := range offsets {
		if r := found[tp]; r != nil {
			times[tp] = r.Timestamp
		} else {
			failed[tp] = fmt.Errorf("look at the next record: %w", err)
		}
	}
	return times
}

// first returns the records at offsets, or the first ones behind them; of the partitions that it has none of the error says why.
func (l *locator) first(ctx context.Context, offsets map[topicPartition]int64, which ...kgo.Opt) (map[topicPartition]*kgo.Record, error) {
	found := make(map[topicPartition]*kgo.Record, len(offsets))
	opts, err := l.options()
	if err != nil {
		return found, err
	}
	at := map[string]map[int32]kgo.Offset{}
	for tp, o := range offsets {
		if at[tp.topic] == nil {
			at[tp.topic] = map[int32]kgo.Offset{}
		}
		at[tp.topic][tp.id] = kgo.NewOffset().At(o)
	}
	opts = append(opts, kgo.ConsumePartitions(at), kgo.FetchMaxPartitionBytes(peekBytes), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	client, err := kgo.NewClient(append(opts, which...)...)
	if err != nil {
		return found, err
	}
	defer client.Close()
	var broken error // the client goes on where it can
	for len(found) < len(offsets) {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return found, cmp.Or(broken, ctx.Err())
		}
		fetches.EachPartition(func(f kgo.FetchTopicPartition) {
			if f.Err != nil {
				broken = f.Err
			}
			tp := topicPartition{f.Topic, f.Partition}
			if found[tp] == nil && len(f.Records) > 0 {
				found[tp] = f.Records[0]
				client.PauseFetchPartitions(map[string][]int32{f.Topic: {f.Partition}})
			}
		})
	}
	return found, nil
}
