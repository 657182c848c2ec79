package mskreceiver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"
)

// Special offsets and timestamps of Kafka's ListOffsets.
const (
	atEnd   int64 = -1
	atStart int64 = -2
)

// query asks where a partition begins that this member has been given, or that its store sends back.
type query struct {
	position               // next may be atStart or atEnd
	window   time.Duration // how far before next its memories want to be told; zero: nothing
}

// plan is where a partition begins.
type plan struct {
	position
	from       int64 // first offset to fetch: the warm-up's first record, else the first block's
	start, end int64 // of the partition's log, committed transactions only, when this was found out
}

// known is the offset behind the last record before the first block. It is next, unless the log has been cut off before that.
func (p plan) known() int64 { return min(p.next, p.end) }

// locator finds out where partitions begin.
type locator struct {
	client *kgo.Client
	// options are those of a client of its own, which looks at single records.
	options func() ([]kgo.Opt, error)
	retry   RetryConfig
	log     *zap.Logger
}

const (
	locateTimeout = 20 * time.Second
	// peekBytes is what is asked of a partition to see its next record's time; Kafka sends at least one batch.
	peekBytes = 1 << 10
)

// locate answers queries. It tries until ctx ends, which is its only error.
func (l *locator) locate(ctx context.Context, queries map[topicPartition]query) (map[topicPartition]plan, error) {
	wait := newBackoff(l.retry)
	for failed := false; ; failed = true {
		plans, err := l.once(ctx, queries)
		if err == nil {
			return plans, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if !failed {
			l.log.Warn("cannot find out where assigned partitions begin; it is tried again, and they wait", zap.Int("partitions", len(queries)), zap.Error(err))
		}
		if !sleep(ctx, nil, wait.next()) {
			return nil, ctx.Err()
		}
	}
}

func (l *locator) once(ctx context.Context, queries map[topicPartition]query) (map[topicPartition]plan, error) {
	ctx, cancel := context.WithTimeout(ctx, locateTimeout)
	defer cancel()
	same := func(timestamp int64) map[topicPartition]int64 {
		of := make(map[topicPartition]int64, len(queries))
		for tp := range queries {
			of[tp] = timestamp
		}
		return of
	}
	starts, err := l.list(ctx, same(atStart))
	if err != nil {
		return nil, err
	}
	ends, err := l.list(ctx, same(atEnd))
	if err != nil {
		return nil, err
	}
	plans := make(map[topicPartition]plan, len(queries))
	warm, unknown := map[topicPartition]time.Time{}, map[topicPartition]int64{}
	for tp, q := range queries {
		p := plan{position: q.position, start: starts[tp], end: ends[tp]}
		switch q.next {
		case atStart:
			p.next = p.start
		case atEnd:
			p.next = p.end
		}
		p.from = min(max(p.next, p.start), max(p.end, p.start))
		plans[tp] = p
		switch {
		case q.window == 0 || p.start >= p.known():
		case !p.appended.IsZero():
			warm[tp] = p.appended
		default:
			unknown[tp] = min(p.next, p.end-1) // the next record, else the last one, which is no younger
		}
	}
	if err := l.peek(ctx, unknown, warm); err != nil {
		return nil, err
	}
	since := make(map[topicPartition]int64, len(warm))
	for tp, at := range warm {
		since[tp] = max(0, at.Add(-queries[tp].window).UnixMilli())
	}
	first, err := l.list(ctx, since)
	if err != nil {
		return nil, err
	}
	for tp, offset := range first {
		if p := plans[tp]; offset >= 0 { // there is none where all is older
			p.from = min(p.from, max(offset, p.start))
			plans[tp] = p
		}
	}
	return plans, nil
}

// list asks for each partition's first offset at or after its timestamp; -1: there is none.
func (l *locator) list(ctx context.Context, timestamps map[topicPartition]int64) (map[topicPartition]int64, error) {
	out := make(map[topicPartition]int64, len(timestamps))
	if len(timestamps) == 0 {
		return out, nil
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
	for _, shard := range l.client.RequestSharded(ctx, req) {
		if shard.Err != nil {
			return nil, fmt.Errorf("list offsets: %w", shard.Err)
		}
		for _, t := range shard.Resp.(*kmsg.ListOffsetsResponse).Topics {
			for _, p := range t.Partitions {
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					return nil, fmt.Errorf("list offsets of topic %s, partition %d: %w", t.Topic, p.Partition, err)
				}
				out[topicPartition{t.Topic, p.Partition}] = p.Offset
			}
		}
	}
	if len(out) != len(timestamps) {
		return nil, fmt.Errorf("list offsets: %d partitions were asked for and %d answered", len(timestamps), len(out))
	}
	return out, nil
}

// peek puts into times when the records at offsets, or the first ones behind them, were appended. The log ends behind them.
func (l *locator) peek(ctx context.Context, offsets map[topicPartition]int64, times map[topicPartition]time.Time) error {
	if len(offsets) == 0 {
		return nil
	}
	opts, err := l.options()
	if err != nil {
		return err
	}
	at := map[string]map[int32]kgo.Offset{}
	for tp, o := range offsets {
		if at[tp.topic] == nil {
			at[tp.topic] = map[int32]kgo.Offset{}
		}
		at[tp.topic][tp.id] = kgo.NewOffset().At(o)
	}
	// What belongs to no committed transaction has a time too, and may be all that there is.
	client, err := kgo.NewClient(append(opts, kgo.ConsumePartitions(at), kgo.FetchIsolationLevel(kgo.ReadUncommitted()),
		kgo.KeepControlRecords(), kgo.FetchMaxPartitionBytes(peekBytes), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))...)
	if err != nil {
		return err
	}
	defer client.Close()
	found := 0
	for found < len(offsets) {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return fmt.Errorf("look at the next records: %d of %d partitions have not answered: %w", len(offsets)-found, len(offsets), ctx.Err())
		}
		var errs []error
		fetches.EachPartition(func(f kgo.FetchTopicPartition) {
			tp := topicPartition{f.Topic, f.Partition}
			if f.Err != nil {
				errs = append(errs, fmt.Errorf("look at the next record of topic %s, partition %d: %w", f.Topic, f.Partition, f.Err))
			}
			if _, known := times[tp]; !known && len(f.Records) > 0 {
				times[tp] = f.Records[0].Timestamp
				found++
				client.PauseFetchPartitions(map[string][]int32{f.Topic: {f.Partition}})
			}
		})
		if err := errors.Join(errs...); err != nil {
			return err
		}
	}
	return nil
}
