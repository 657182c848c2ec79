package topicreplay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/audit/erasure"
	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/failpoint"
	"github.com/pulsegrid/pulsegrid/internal/journal"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/yield"
)

// JournalTopic holds the plans and positions of all jobs.
const JournalTopic = "replays.v1"

// Bounds of what is read and written at a time.
const (
	batchBytes    = 8 << 20 // of copies in a transaction, and at most pollRecords records more
	batchMost     = 1 << 30 // of a record batch: the client takes no larger one
	placeBytes    = 512     // of the header that a copy has more than its original: a topic's name has 249 bytes at most
	batchAge      = time.Second
	pollRecords   = 16
	fetchBytes    = 4 << 20   // of one broker's answer, compressed
	fetchBrokers  = 4         // brokers that are asked at once
	fetchBytesMax = 128 << 20 // of an answer: one record may be larger than fetchBytes
	stall         = time.Minute
	// paceBatches is how many batches a second's events make at least, so that a bound of the rate holds within a second, too.
	paceBatches = 4
)

// Config of a run.
type Config struct {
	Request
	Kafka         []kgo.Opt         // seed brokers, TLS, credentials
	Journal       string            // empty: JournalTopic
	DefaultTenant string            // owns records without a tenant header, as in the receiver
	Erased        []erasure.Erasure // records that these cover are not copied; none has times of events
	Rate          int               // events a second, at most; 0: no bound
	Live          yield.Live        // what the job yields to; nil: nothing
	Log           *zap.Logger
	DryRun        bool           // read and count what is left; write nothing
	Progress      func(Progress) // called after each batch
}

// Progress of a run.
type Progress struct {
	Read, Of int64  // offsets of the plan's
	Tally           // of this job, earlier runs included
	Yields   string // to what the job yields, and how much; empty: to nothing
}

// Report is how far a job is.
type Report struct {
	Job     string            `json:"job"`
	Target  string            `json:"target"`
	Signal  string            `json:"signal"`
	Tenant  string            `json:"tenant,omitempty"`
	Planned time.Time         `json:"planned"`
	DryRun  bool              `json:"dry_run"`
	Done    bool              `json:"done"`
	Before  bool              `json:"done_before"` // by an earlier run: this one has copied nothing
	Total   Tally             `json:"total"`
	Ranges  []PartitionReport `json:"ranges"`
}

// PartitionReport is how far a range of a partition is.
type PartitionReport struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	First     int64  `json:"first"`
	Last      int64  `json:"last"`
	Next      int64  `json:"next"` // offset
	Tally
}

// Run copies what is left of the request's job. After an error the report says what was done before it, and the next run goes on from there.
func Run(ctx context.Context, c Config) (Report, error) {
	if c.Journal == "" {
		c.Journal = JournalTopic
	}
	r := &run{Config: c, courtesy: yield.NewCourtesy(), pace: yield.Pace{Rate: c.Rate}}
	if c.DryRun {
		r.pace.Rate = 0 // nothing is written
	}
	err := r.run(ctx)
	return r.report(), err
}

type run struct {
	Config
	topics   *topics
	job      string
	plan     *plan
	parts    []*part
	before   bool
	journal  *journal.Journal[entry] // nil: a dry run
	courtesy *yield.Courtesy
	pace     yield.Pace
}

// part is a range of the plan with its position.
type part struct {
	planned
	position
}

func (p *part) done() bool { return p.Next > p.Last }

func (r *run) run(ctx context.Context) error {
	client, err := kgo.NewClient(r.Kafka...)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := client.Ping(ctx); err != nil {
		return fmt.Errorf("kafka does not answer: %w", err)
	}
	if r.topics, err = describe(ctx, kadm.NewClient(client), r.Request); err != nil {
		return err
	}
	if r.job, err = r.Request.job(r.topics.ids[r.Target]); err != nil {
		return err
	}
	// Nobody is fenced before it is known that there is something to do.
	entries, err := journal.Peek[entry](ctx, r.Kafka, r.Journal)
	if err != nil {
		return err
	}
	if err := r.take(ctx, entries); err != nil || r.before || r.left() == 0 {
		return err
	}
	if !r.DryRun {
		if err := r.begin(ctx); err != nil {
			return err
		}
		defer r.journal.Close()
	}
	if r.Live != nil {
		looking, end := context.WithCancel(ctx)
		var work sync.WaitGroup
		work.Go(func() { r.courtesy.Observe(looking, r.Live, r.Log) })
		defer work.Wait()
		defer end()
	}
	return r.copy(ctx)
}

// take finds the job's plan among the journal's entries, or makes one, and its positions.
func (r *run) take(ctx context.Context, entries map[string]entry) (err error) {
	r.plan, r.parts = entries[r.job].Plan, nil
	planned := r.plan != nil
	if !planned {
		if r.plan, err = r.topics.plan(ctx, r.Request, time.Now()); err != nil {
			return err
		}
	}
	for _, p := range r.plan.Ranges {
		at := position{Next: p.First}
		if e := entries[p.key(r.job)]; planned && e.Position != nil {
			at = *e.Position
		}
		r.parts = append(r.parts, &part{p, at})
	}
	if r.before = planned && r.left() == 0; r.before {
		return nil
	}
	if err := r.plan.check(r.job, r.topics, entries); err != nil {
		return err
	}
	return r.there(ctx)
}

// there fails where Kafka no longer has what is left to copy.
func (r *run) there(ctx context.Context) error {
	starts, err := r.topics.admin.ListStartOffsets(ctx, r.topics.sources...)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return fmt.Errorf("first offsets: %w", err)
	}
	for _, p := range r.parts {
		if start, _ := starts.Lookup(p.Topic, p.Partition); !p.done() && start.Offset > p.Next {
			return refused("job %s, %s: Kafka's retention has removed offsets %d to %d, which are not copied", r.job, p.Range, p.Next, min(start.Offset-1, p.Last))
		}
	}
	return nil
}

// begin makes this run the only one that copies into the target, and writes the plan unless that is done.
func (r *run) begin(ctx context.Context) (err error) {
	opts := slices.Concat(r.Kafka, []kgo.Opt{
		kgo.RequiredAcks(kgo.AllISRAcks()), kgo.RecordPartitioner(partitioner{r.Target}),
		kgo.ProducerBatchMaxBytesFn(func(topic string) int32 {
			if topic == r.Target {
				return min(r.topics.maxBytes, batchMost-placeBytes) + placeBytes // before compression; the broker counts after it
			}
			return 1_000_012 // franz-go's default: the journal has Kafka's own
		}),
		kgo.ProducerBatchCompression(kgo.ZstdCompression(), kgo.NoCompression()),
	})
	if r.journal, err = journal.Open[entry](ctx, opts, r.Journal, "pulsegrid-replay."+r.Target); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			r.journal.Close()
		}
	}()
	// Another run may have gone on, or planned, until it was fenced.
	if err := r.take(ctx, r.journal.Entries); err != nil {
		return err
	}
	if r.journal.Entries[r.job].Plan == nil {
		if err := r.journal.Write(ctx, map[string]entry{r.job: {Plan: r.plan}}); err != nil {
			return fmt.Errorf("write the plan: %w", err)
		}
	}
	failpoint.Hit("replay-planned")
	return nil
}

// partitioner leaves the choice of the target's partitions to the records.
type partitioner struct{ target string }

// ForTopic implements kgo.Partitioner.
func (p partitioner) ForTopic(topic string) kgo.TopicPartitioner {
	if topic == p.target {
		return kgo.ManualPartitioner().ForTopic(topic)
	}
	return kgo.StickyKeyPartitioner(nil).ForTopic(topic)
}

func (r *run) left() (offsets int64) {
	for _, p := range r.parts {
		offsets += max(0, p.Last+1-p.Next)
	}
	return offsets
}

// copy reads what is left and writes it, a batch at a time.
func (r *run) copy(ctx context.Context) error {
	from := map[string]map[int32]kgo.Offset{}
	for _, p := range r.parts {
		if !p.done() {
			if from[p.Topic] == nil {
				from[p.Topic] = map[int32]kgo.Offset{}
			}
			from[p.Topic][p.Partition] = kgo.NewOffset().At(p.Next)
		}
	}
	if len(from) == 0 {
		return nil
	}
	client, err := kgo.NewClient(slices.Concat(r.Kafka, []kgo.Opt{
		kgo.ConsumePartitions(from), kgo.ConsumeResetOffset(kgo.NoResetOffset()), // offsets that are gone are an error, not other offsets
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(), // the last offset may be one
		kgo.FetchMaxBytes(fetchBytes), kgo.BrokerMaxReadBytes(fetchBytesMax), kgo.MaxConcurrentFetches(fetchBrokers),
	})...)
	if err != nil {
		return err
	}
	defer client.Close()
	for r.left() > 0 {
		b, err := r.read(ctx, client)
		if err != nil {
			return err
		}
		if err := r.pace.Wait(ctx, b.events, r.courtesy.Worked()); err != nil {
			return err
		}
		if !r.DryRun {
			// Order is a contract: the copies and the positions behind them are one transaction.
			if err := r.journal.Write(ctx, b.positions(r.job), b.copies...); err != nil {
				return fmt.Errorf("write %d records to topic %s: %w", len(b.copies), r.Target, err)
			}
			failpoint.Hit("replay-copied")
		}
		if r.Progress != nil {
			r.Progress(r.progress())
		}
	}
	return nil
}

// batch is what a transaction holds.
type batch struct {
	copies  []*kgo.Record
	touched map[*part]bool
	events  int
	bytes   int
}

func (b *batch) positions(job string) map[string]entry {
	out := map[string]entry{}
	for p := range b.touched {
		at := p.position
		out[p.key(job)] = entry{Position: &at}
	}
	return out
}

// read takes the next records, and moves the positions behind them.
func (r *run) read(ctx context.Context, client *kgo.Client) (*batch, error) {
	b, begun := &batch{touched: map[*part]bool{}}, time.Now()
	for r.left() > 0 && b.bytes < batchBytes && (r.Rate == 0 || b.events < max(1, r.Rate/paceBatches)) {
		wait := stall
		if len(b.touched) > 0 {
			if wait = batchAge - time.Since(begun); wait <= 0 {
				break
			}
		}
		polling, cancel := context.WithTimeout(ctx, wait)
		fetches := client.PollRecords(polling, pollRecords)
		silent := polling.Err() != nil && fetches.NumRecords() == 0
		cancel()
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		for _, fe := range fetches.Errors() {
			if !errors.Is(fe.Err, context.DeadlineExceeded) {
				return nil, fmt.Errorf("read topic %s, partition %d: %w", fe.Topic, fe.Partition, fe.Err)
			}
		}
		if silent && len(b.touched) == 0 {
			return nil, fmt.Errorf("read %d offsets more: no record for %s: see whether each partition has a leader", r.left(), stall)
		}
		fetches.EachPartition(func(f kgo.FetchTopicPartition) { r.records(client, b, f) })
	}
	return b, nil
}

// records takes those of one partition.
func (r *run) records(client *kgo.Client, b *batch, f kgo.FetchTopicPartition) {
	i := slices.IndexFunc(r.parts, func(p *part) bool { return p.Topic == f.Topic && p.Partition == f.Partition })
	if i < 0 || len(f.Records) == 0 {
		return
	}
	p := r.parts[i]
	for _, record := range f.Records {
		if record.Offset > p.Last || p.done() {
			p.Next = p.Last + 1
			break
		}
		if !record.Attrs.IsControl() {
			r.choose(b, p, record)
		}
		p.Next = record.Offset + 1
	}
	b.touched[p] = true
	if p.done() {
		client.RemoveConsumePartitions(map[string][]int32{p.Topic: {p.Partition}})
	}
}

// choose adds a record's copy to the batch if it was asked for.
func (r *run) choose(b *batch, p *part, record *kgo.Record) {
	tenant := header(record, envelope.HeaderTenant)
	if tenant == "" {
		tenant = r.DefaultTenant
	}
	if r.Tenant != "" && tenant != r.Tenant {
		p.Others++
		return
	}
	if r.isErased(tenant, record) {
		p.Erased++
		return
	}
	events, err := otlpwire.Count(r.Signal, record.Value, otlpwire.Limits{})
	if err != nil {
		p.Unreadable++
	}
	p.Copied, p.Events, p.Bytes = p.Copied+1, p.Events+int64(events), p.Bytes+int64(len(record.Value))
	b.events, b.bytes = b.events+events, b.bytes+len(record.Value)
	if !r.DryRun {
		b.copies = append(b.copies, r.copyOf(record))
	}
}

// copyOf a record is in the target what the record is in its topic. A target of CreateTime has its time, too.
func (r *run) copyOf(record *kgo.Record) *kgo.Record {
	headers := make([]kgo.RecordHeader, 0, len(record.Headers)+1)
	for _, h := range record.Headers {
		if h.Key != envelope.HeaderReplayed { // of the record that this one is a copy of
			headers = append(headers, h)
		}
	}
	place := record.Topic + "/" + strconv.Itoa(int(record.Partition)) + "/" + strconv.FormatInt(record.Offset, 10)
	return &kgo.Record{
		Topic: r.Target, Partition: record.Partition % r.topics.partitions, Key: record.Key, Value: record.Value, Timestamp: record.Timestamp,
		Headers: append(headers, kgo.RecordHeader{Key: envelope.HeaderReplayed, Value: []byte(place)}),
	}
}

// isErased tells whether a record's events were deleted lawfully, from whichever store.
func (r *run) isErased(tenant string, record *kgo.Record) bool {
	return slices.ContainsFunc(r.Erased, func(d erasure.Erasure) bool {
		return slices.ContainsFunc(d.Stores, func(store string) bool {
			return d.Covers(erasure.Event{
				Store: store, Tenant: tenant, Signal: r.Signal, Topic: record.Topic, Partition: record.Partition, Offset: record.Offset, Appended: record.Timestamp,
			})
		})
	})
}

func header(r *kgo.Record, key string) string {
	for _, h := range r.Headers {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return ""
}

func (r *run) progress() Progress {
	p := Progress{Yields: r.courtesy.String()}
	for _, part := range r.parts {
		p.Read, p.Of = p.Read+part.Next-part.First, p.Of+part.Last+1-part.First
		p.add(part.Tally)
	}
	return p
}

func (t *Tally) add(o Tally) {
	t.Copied, t.Events, t.Bytes = t.Copied+o.Copied, t.Events+o.Events, t.Bytes+o.Bytes
	t.Others, t.Erased, t.Unreadable = t.Others+o.Others, t.Erased+o.Erased, t.Unreadable+o.Unreadable
}

// report says what the journal says: a batch that could not be written is not in it.
func (r *run) report() Report {
	out := Report{Job: r.job, Target: r.Target, Signal: r.Signal.String(), Tenant: r.Tenant, DryRun: r.DryRun, Before: r.before, Ranges: []PartitionReport{}}
	if r.plan == nil {
		return out
	}
	out.Planned, out.Done = r.plan.Created, !r.DryRun || r.before
	for _, p := range r.parts {
		at := p.position
		if r.journal != nil {
			at = position{Next: p.First}
			if e := r.journal.Entries[p.key(r.job)]; e.Position != nil {
				at = *e.Position
			}
		}
		out.Ranges = append(out.Ranges, PartitionReport{p.Topic, p.Partition, p.First, p.Last, at.Next, at.Tally})
		out.Total.add(at.Tally)
		out.Done = out.Done && at.Next > p.Last
	}
	return out
}
