package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/audit/certificate"
	"github.com/pulsegrid/pulsegrid/internal/audit/oracle"
	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Bounds of one fetch of the audit.
const (
	fetchBytes    = 8 << 20
	fetchBytesMax = 128 << 20 // of an answer: one record may be larger than fetchBytes
)

// kafkaLog reads Kafka without a consumer group, so that it takes nothing from anybody.
type kafkaLog struct {
	options []kgo.Opt
	client  *kgo.Client // for questions
	admin   *kadm.Client
	stall   time.Duration
}

func openKafka(ctx context.Context, c *Config) (*kafkaLog, error) {
	opts, err := c.Kafka.Options(ctx, zap.NewNop())
	if err != nil {
		return nil, err
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("make a Kafka client: %w", err)
	}
	pingCtx, cancel := context.WithTimeout(ctx, c.StallTimeout)
	defer cancel()
	if err := client.Ping(pingCtx); err != nil {
		client.Close()
		return nil, fmt.Errorf("kafka at %s does not answer: %w", strings.Join(c.Kafka.Brokers, ","), err)
	}
	return &kafkaLog{options: opts, client: client, admin: kadm.NewClient(client), stall: c.StallTimeout}, nil
}

func (k *kafkaLog) close() { k.client.Close() }

// each calls f with the committed records of [first, last]. It returns when it has seen the range's end.
func (k *kafkaLog) each(ctx context.Context, topic string, partition int32, first, last int64, f func(*kgo.Record) error) error {
	if last < first {
		return nil
	}
	opts := append(slices.Clone(k.options),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {partition: kgo.NewOffset().At(first)}}),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()), // a range that is gone is an error, not another range
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), // the last offset may be one
		kgo.FetchMaxBytes(fetchBytes), kgo.FetchMaxPartitionBytes(fetchBytes), kgo.BrokerMaxReadBytes(fetchBytesMax), kgo.MaxConcurrentFetches(1),
	)
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return fmt.Errorf("make a Kafka client: %w", err)
	}
	defer client.Close()
	where := certificate.Range{Topic: topic, Partition: partition, First: first, Last: last}
	for {
		pollCtx, cancel := context.WithTimeout(ctx, k.stall)
		fetches := client.PollFetches(pollCtx)
		silent := pollCtx.Err() != nil
		cancel()
		if err := ctx.Err(); err != nil {
			return err
		}
		for _, fe := range fetches.Errors() {
			if !errors.Is(fe.Err, context.DeadlineExceeded) {
				return fmt.Errorf("read %s from Kafka: %w", where, fe.Err)
			}
		}
		if silent && fetches.NumRecords() == 0 {
			return fmt.Errorf("read %s from Kafka: no record for %s: see whether the partition has a leader", where, k.stall)
		}
		for r := range fetches.RecordsAll() {
			if r.Offset > last {
				return nil
			}
			if !r.Attrs.IsControl() {
				if err := f(r); err != nil {
					return err
				}
			}
			if r.Offset == last {
				return nil
			}
		}
	}
}

// timeOf is the append time of the first record at or after an offset; zero: there is none before end.
func (k *kafkaLog) timeOf(ctx context.Context, topic string, partition int32, offset, end int64) (time.Time, error) {
	var at time.Time
	done := errors.New("found")
	err := k.each(ctx, topic, partition, offset, end-1, func(r *kgo.Record) error {
		at = r.Timestamp
		return done
	})
	if errors.Is(err, done) {
		err = nil
	}
	return at, err
}

// plan is what is audited of one partition.
type plan struct {
	certificate.Range // what is counted again from Kafka; Last < First: nothing
	signal            signal.Signal
	start, end        int64             // of the log
	windowFrom        int64             // offset from which ids are remembered
	blindBefore       int64             // append time, Unix nanoseconds; before it duplicates cannot be told, since retention has removed what came before
	gone              certificate.Range // that retention has removed, and that was asked for; Last < First: none
	goneSince         time.Time         // not zero: gone.First is not known yet; the ledger tells by when a block was written
	lasts             []int64           // by store: the last offset to compare
	finished          []int64           // by store: the last offset that its group has finished
}

// topicPlan is what is audited of a topic.
type topicPlan struct {
	Topic
	partitions []*plan // ascending
	count      int32   // partitions that the topic has
	id         block.TopicID
	former     *formerTopic
}

// planner resolves what was asked for.
type planner struct {
	*Config
	log    *kafkaLog
	groups []string // by store
	cert   *certificate.Certificate
}

func (p *planner) topics(ctx context.Context) ([]Topic, error) {
	topics := slices.Clone(p.Topics)
	if len(topics) == 0 {
		all, err := p.log.admin.ListTopics(ctx)
		if err != nil {
			return nil, fmt.Errorf("list the topics: %w", err)
		}
		for _, name := range all.Names() {
			if s := signal.OfTopic(name); s != 0 {
				topics = append(topics, Topic{name, s})
			}
		}
		if len(topics) == 0 {
			return nil, errors.New("kafka has no topic otlp.logs.*, otlp.metrics.* or otlp.traces.*: name the topics to audit")
		}
	}
	if len(p.Ranges) > 0 {
		for _, r := range p.Ranges {
			if !slices.ContainsFunc(topics, func(t Topic) bool { return t.Name == r.Topic }) {
				return nil, fmt.Errorf("range %s: topic %s is not among the topics to audit, or does not exist", r, r.Topic)
			}
		}
		topics = slices.DeleteFunc(topics, func(t Topic) bool {
			return !slices.ContainsFunc(p.Ranges, func(r certificate.Range) bool { return r.Topic == t.Name })
		})
	}
	return topics, nil
}

// offsets of a topic, as Kafka and the groups know them.
type offsets struct {
	starts, ends, from, to kadm.ListedOffsets
	oldest                 kadm.ListedOffsets     // first record of each partition, with its append time; -1: it has none
	committed              []kadm.OffsetResponses // by store
}

func (p *planner) offsets(ctx context.Context, topic string) (o offsets, err error) {
	list := func(what string, out *kadm.ListedOffsets, f func() (kadm.ListedOffsets, error)) {
		if err != nil {
			return
		}
		*out, err = f()
		if err == nil {
			err = out.Error()
		}
		if err != nil {
			err = fmt.Errorf("topic %s, list the %s offsets: %w", topic, what, err)
		}
	}
	list("first", &o.starts, func() (kadm.ListedOffsets, error) { return p.log.admin.ListStartOffsets(ctx, topic) })
	list("oldest", &o.oldest, func() (kadm.ListedOffsets, error) { return p.log.admin.ListOffsetsAfterMilli(ctx, 0, topic) })
	list("last", &o.ends, func() (kadm.ListedOffsets, error) { return p.log.admin.ListCommittedOffsets(ctx, topic) })
	if !p.From.IsZero() {
		list("from", &o.from, func() (kadm.ListedOffsets, error) {
			return p.log.admin.ListOffsetsAfterMilli(ctx, p.From.UnixMilli(), topic)
		})
	}
	if !p.To.IsZero() {
		list("to", &o.to, func() (kadm.ListedOffsets, error) {
			return p.log.admin.ListOffsetsAfterMilli(ctx, p.To.UnixMilli(), topic)
		})
	}
	for _, group := range p.groups {
		if err != nil {
			break
		}
		var c kadm.OffsetResponses
		if c, err = p.log.admin.FetchOffsetsForTopics(ctx, group, topic); err == nil {
			err = c.Error()
		}
		if errors.Is(err, kerr.GroupIDNotFound) { // it has committed nothing
			c, err = nil, nil
		}
		if err != nil {
			return o, fmt.Errorf("topic %s, offsets of group %s: %w", topic, group, err)
		}
		o.committed = append(o.committed, c)
	}
	return o, err
}

func (p *planner) topic(ctx context.Context, t Topic) (*topicPlan, error) {
	o, err := p.offsets(ctx, t.Name)
	if err != nil {
		return nil, err
	}
	out := &topicPlan{Topic: t}
	if out.id, err = p.topicID(ctx, t.Name); err != nil {
		return nil, err
	}
	for _, start := range o.starts.Offsets().Sorted() {
		out.count = max(out.count, start.Partition+1)
		pl, err := p.partition(ctx, t, start.Partition, o)
		if err != nil {
			return nil, err
		}
		if pl != nil {
			out.partitions = append(out.partitions, pl)
		}
	}
	out.former = newFormerTopic(t.Name, out.count, o)
	for _, r := range p.Ranges {
		if r.Topic == t.Name && r.Partition >= out.count {
			return nil, fmt.Errorf("range %s: topic %s has %d partitions", r, t.Name, out.count)
		}
	}
	return out, nil
}

// topicID is Kafka's id of the topic; zero: the broker gives none.
func (p *planner) topicID(ctx context.Context, topic string) (block.TopicID, error) {
	details, err := p.log.admin.ListTopics(ctx, topic)
	if err == nil {
		err = details.Error()
	}
	if err != nil {
		return block.TopicID{}, fmt.Errorf("topic %s: %w", topic, err)
	}
	return block.TopicID(details[topic].ID), nil
}

func at(l kadm.ListedOffsets, topic string, partition int32) int64 {
	o, _ := l.Lookup(topic, partition)
	return o.Offset
}

// partition plans one; nil: it was not asked for.
func (p *planner) partition(ctx context.Context, t Topic, partition int32, o offsets) (*plan, error) {
	pl := &plan{signal: t.Signal, start: at(o.starts, t.Name, partition), end: at(o.ends, t.Name, partition)}
	pl.Range = certificate.Range{Topic: t.Name, Partition: partition, First: pl.start, Last: pl.end - 1}
	pl.gone = certificate.Range{Topic: t.Name, Partition: partition, First: 0, Last: -1}
	wanted := pl.end - 1 // what each store must have; without a bound by the caller: what its group has finished
	bounded := true
	switch i := slices.IndexFunc(p.Ranges, func(r certificate.Range) bool { return r.Topic == t.Name && r.Partition == partition }); {
	case i >= 0:
		r := p.Ranges[i]
		if r.Last >= pl.end {
			p.cert.Problem("range %s: the log ends at %d", r, pl.end)
		}
		wanted = min(r.Last, pl.end-1)
		pl.First = max(r.First, pl.start)
		if r.First < pl.start {
			pl.gone = certificate.Range{Topic: t.Name, Partition: partition, First: r.First, Last: min(r.Last, pl.start-1)}
		}
	case len(p.Ranges) > 0:
		return nil, nil
	default:
		if !p.From.IsZero() {
			pl.First = at(o.from, t.Name, partition)
		}
		if !p.To.IsZero() {
			wanted = at(o.to, t.Name, partition) - 1
		} else {
			bounded = false
		}
	}
	pl.Last = pl.First - 1
	for i, c := range o.committed {
		next := int64(-1)
		if r, ok := c.Lookup(t.Name, partition); ok {
			next = r.At
		}
		if next < 0 && pl.end > pl.start && wanted >= pl.First {
			p.cert.Problem("group %s has committed nothing of %s/%d: is that its name, and has it ever run?", p.groups[i], t.Name, partition)
		}
		next = max(next, 0)
		pl.finished = append(pl.finished, next-1)
		last := min(wanted, next-1)
		if bounded && last < wanted && wanted >= pl.First {
			p.cert.Problem("group %s has finished %s/%d only up to offset %d, and %d was asked for: wait for it, or see why it lags", p.groups[i], t.Name, partition, next-1, wanted)
		}
		last = max(last, pl.First-1)
		pl.lasts = append(pl.lasts, last)
		pl.Last = max(pl.Last, last)
	}
	return pl, p.retention(ctx, pl)
}

// retention finds from where ids must be remembered, and what of that Kafka no longer has.
func (p *planner) retention(ctx context.Context, pl *plan) error {
	pl.windowFrom = pl.First
	if pl.start >= pl.end {
		return nil
	}
	var begin time.Time // of the log, where it has lost its beginning
	var err error
	if pl.start > 0 {
		if begin, err = p.log.timeOf(ctx, pl.Topic, pl.Partition, pl.start, pl.end); err != nil {
			return err
		}
		switch {
		case len(p.Ranges) > 0:
		case p.From.IsZero():
			after, err := p.after(ctx, pl, begin.Add(oracle.Reach(p.Window)))
			if err != nil {
				return err
			}
			if after > pl.start && after <= pl.Last {
				p.cert.Notes = append(p.cert.Notes, fmt.Sprintf("%s/%d is audited from offset %d, a dedupe window after the first record that Kafka still has (%d): before that duplicates cannot be told", pl.Topic, pl.Partition, after, pl.start))
				pl.First = after
				for i, last := range pl.lasts {
					pl.lasts[i] = max(last, after-1)
				}
			}
		case p.From.Before(begin):
			pl.gone, pl.goneSince = certificate.Range{Topic: pl.Topic, Partition: pl.Partition, First: 0, Last: pl.start - 1}, p.From
		}
	}
	if pl.start > 0 {
		pl.blindBefore = begin.Add(oracle.Reach(p.Window)).UnixNano()
	}
	return p.rewind(ctx, pl)
}

// rewind finds from where ids must be remembered.
func (p *planner) rewind(ctx context.Context, pl *plan) error {
	pl.windowFrom = pl.First
	if pl.Last < pl.First || p.Window == 0 {
		return nil
	}
	first, err := p.log.timeOf(ctx, pl.Topic, pl.Partition, pl.First, pl.end)
	if err != nil || first.IsZero() {
		return err
	}
	from, err := p.after(ctx, pl, first.Add(-oracle.Reach(p.Window)))
	pl.windowFrom = min(from, pl.First)
	return err
}

// after is the first offset whose record was appended at t or later.
func (p *planner) after(ctx context.Context, pl *plan, t time.Time) (int64, error) {
	l, err := p.log.admin.ListOffsetsAfterMilli(ctx, t.UnixMilli(), pl.Topic)
	if err == nil {
		err = l.Error()
	}
	if err != nil {
		return 0, fmt.Errorf("topic %s, offsets after %s: %w", pl.Topic, t.Format(time.RFC3339), err)
	}
	return at(l, pl.Topic, pl.Partition), nil
}
