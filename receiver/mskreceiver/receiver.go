package mskreceiver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/receiver"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

const (
	// produceTimeout bounds one try to put records into quarantine.
	produceTimeout = 30 * time.Second
	// maxQuarantineRecord is the client's own bound on a record, before compression; the topic's bound is the one that counts.
	maxQuarantineRecord = 64 << 20
	// rewind is how far to go back, in append time, where a log was truncated below what had been read (an unclean election).
	// What is read twice is then within the window of deduplication.
	rewind = 15 * time.Minute
	// leaveTimeout bounds the wait for a rebalance that is in progress when this member leaves.
	leaveTimeout = 5 * time.Second
	// farewellTimeout bounds what is then said instead; after it the group finds out by session_timeout.
	farewellTimeout = 2 * time.Second
)

// mskReceiver is one member of the consumer group, for all signals that have a pipeline.
type mskReceiver struct {
	cfg        *Config
	log        *zap.Logger
	tel        *telemetry
	sinks      sinks // attached by the factory before Start
	onShutdown func()
	commitWith func(*kgo.Client) commitFunc

	attached     int // pipelines' signals, by the factory
	hostsMu      sync.Mutex
	hosts        []component.Host // one a pipeline's signal; the Collector keeps a status for each
	startOnce    sync.Once
	startErr     error
	shutdownOnce sync.Once
	shutdownErr  error

	// Set by Start.
	client  *kgo.Client
	hangUp  context.CancelFunc // ends every request of the client
	group   *group
	commit  *committer
	monitor *monitor
	stop    context.CancelFunc // ends the poll loop and the monitor
	loops   sync.WaitGroup     // poll loop, monitor
	finish  context.CancelFunc // ends the committer
	final   sync.WaitGroup     // committer

	waitingMu sync.Mutex
	waiting   int // partitions that wait after a failure

	fetchErrors map[topicPartition]string // last logged; owned by the poll loop
}

func newReceiver(set receiver.Settings, cfg *Config) (*mskReceiver, error) {
	r := &mskReceiver{cfg: cfg, log: set.Logger, commitWith: commitWith, fetchErrors: map[topicPartition]string{}}
	var err error
	if r.sinks, err = newSinks(set); err != nil {
		return nil, err
	}
	r.tel, err = newTelemetry(set.ID, set.TelemetrySettings, cfg.GroupID)
	return r, err
}

// Start joins the group. It does not wait for Kafka. The Collector starts a receiver once a signal, each time when the pipeline of
// that signal is ready; the last time counts.
func (r *mskReceiver) Start(ctx context.Context, host component.Host) error {
	r.hostsMu.Lock()
	r.hosts = append(r.hosts, host)
	all := len(r.hosts) >= r.attached
	r.hostsMu.Unlock()
	if !all {
		return nil
	}
	r.startOnce.Do(func() { r.startErr = r.start(ctx) })
	return r.startErr
}

func (r *mskReceiver) start(ctx context.Context) error {
	signals := map[string]signal.Signal{}
	for _, s := range signal.All {
		for _, topic := range r.cfg.Topics.of(s) {
			if r.sinks.has(s) {
				signals[topic] = s
			}
		}
	}
	topics := slices.Sorted(maps.Keys(signals))
	if len(topics) == 0 {
		return errors.New("topics: no topic is configured for the signals of this receiver's pipelines")
	}
	d := &deps{
		cfg: r.cfg, sinks: &r.sinks, tel: r.tel, now: time.Now, waiting: r.countWaiting,
		quarantine: newQuarantine(r.cfg.QuarantineTopic, r.cfg.GroupID),
		committer:  newCommitter(r.cfg.Retry, r.log, r.tel),
		budget:     newBudget(r.cfg.MaxInFlightBytes, int64(r.cfg.MaxInFlightBlocks+1)*r.cfg.Block.MaxBytes*(1+decodedFactor)),
		memories:   r.introduce(ctx),
	}
	r.group, r.commit = newGroup(d, r.log, signals), d.committer
	if err := r.tel.observe(r.group, d.budget, r.countWaiting); err != nil {
		return err
	}
	opts, err := r.options(ctx, topics)
	if err != nil {
		return err
	}
	clientCtx, hangUp := context.WithCancel(context.Background())
	client, err := kgo.NewClient(append(opts, kgo.WithContext(clientCtx))...)
	if err != nil {
		hangUp()
		return fmt.Errorf("kafka client: %w", err)
	}
	r.client, r.hangUp = client, hangUp
	d.quarantine.produce = produceWith(client)
	d.committer.commit = r.commitWith(client)
	r.group.locator = &locator{
		client:  client,
		options: func() ([]kgo.Opt, error) { return r.cfg.Options(context.Background(), r.log) },
	}
	r.group.fetch = fetchWith(client, r.cfg.GroupID)
	r.group.seek = seekWith(client)
	r.group.purge = func(topic string) { client.PurgeTopicsFromConsuming(topic) }
	r.group.subscribe = func(topic string) { client.AddConsumeTopics(topic) }
	d.budget.pause = func(topic string, id int32) { client.PauseFetchPartitions(map[string][]int32{topic: {id}}) }
	d.budget.resume = func(topic string, id int32) { client.ResumeFetchPartitions(map[string][]int32{topic: {id}}) }
	close(r.group.ready)

	pollCtx, stop := context.WithCancel(context.Background())
	commitCtx, finish := context.WithCancel(context.Background())
	r.stop, r.finish = stop, finish
	r.final.Go(func() { d.committer.run(commitCtx) })
	r.monitor = newMonitor(client, topics, r.group, r.log)
	r.loops.Go(func() { r.poll(pollCtx) })
	r.loops.Go(func() { r.monitor.run(pollCtx) })
	return nil
}

// introduce finds the memories of the pipelines.
func (r *mskReceiver) introduce(ctx context.Context) map[signal.Signal][]block.Memory {
	memories := map[signal.Signal][]block.Memory{}
	for _, s := range signal.All {
		if !r.sinks.has(s) {
			continue
		}
		found, err := r.sinks.introduce(ctx, s)
		if err != nil {
			r.log.Warn("a pipeline did not take the introduction to its end; it is used with the memories found so far", zap.Int("memories", len(found)), zap.Error(err))
		}
		memories[s] = found
	}
	return memories
}

// fetchWith asks a group for what it has committed.
func fetchWith(cl *kgo.Client, group string) func(context.Context, topicPartition) (committedOffset, bool, error) {
	return func(ctx context.Context, tp topicPartition) (committedOffset, bool, error) {
		ctx, cancel := context.WithTimeout(ctx, locateTimeout)
		defer cancel()
		offsets, err := kadm.NewClient(cl).FetchOffsetsForTopics(ctx, group, tp.topic)
		if err != nil {
			return committedOffset{}, false, err
		}
		o, ok := offsets.Lookup(tp.topic, tp.id)
		return committedOffset{next: o.At, epoch: o.LeaderEpoch, text: o.Metadata}, ok && o.At >= 0, o.Err
	}
}

// seekWith makes cl fetch a partition, which is paused, from another offset; false: cl does not read it.
func seekWith(cl *kgo.Client) func(string, int32, int64) bool {
	return func(topic string, partition int32, offset int64) bool {
		// The client does nothing where it takes itself to be there already, though it has fetched beyond: so by way of another.
		for _, o := range []int64{offset + 1, offset} {
			cl.SetOffsets(map[string]map[int32]kgo.EpochOffset{topic: {partition: {Epoch: -1, Offset: o}}})
		}
		at, ok := cl.CommittedOffsets()[topic][partition]
		return ok && at.Offset == offset
	}
}

func (r *mskReceiver) options(ctx context.Context, topics []string) ([]kgo.Opt, error) {
	opts, err := r.cfg.Options(ctx, r.log)
	if err != nil {
		return nil, err
	}
	first := kgo.NewOffset().AtStart()
	if r.cfg.InitialOffset == Latest {
		first = kgo.NewOffset().AtEnd()
	}
	opts = append(opts,
		kgo.WithHooks(r.group),
		kgo.ConsumerGroup(r.cfg.GroupID),
		kgo.ConsumeTopics(topics...),
		kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.SessionTimeout(r.cfg.SessionTimeout),
		kgo.RebalanceTimeout(r.cfg.RebalanceTimeout),
		kgo.HeartbeatInterval(r.cfg.HeartbeatInterval),
		kgo.ConsumeStartOffset(first),
		// Not initial_offset: with latest, an offset that retention has passed would skip everything that is still there.
		// From the log's start for a partition not read yet; else from a little before where we were, for truncated logs.
		kgo.ConsumeResetOffset(kgo.RewindOffset(rewind)),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), // other producers may use transactions
		kgo.FetchMaxBytes(r.cfg.Fetch.MaxBytes),
		kgo.FetchMaxPartitionBytes(r.cfg.Fetch.MaxPartitionBytes),
		kgo.MaxConcurrentFetches(r.cfg.Fetch.MaxConcurrent),
		kgo.DisableAutoCommit(),
		kgo.OnPartitionsAssigned(r.group.assigned),
		kgo.OnPartitionsRevoked(r.group.revoked),
		kgo.OnPartitionsLost(r.group.lost),
		kgo.OnOffsetsFetched(r.group.offsetsFetched),
		kgo.AdjustFetchOffsetsFn(r.group.position),
		// The quarantine's producer.
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerLinger(0),
		kgo.ProducerBatchMaxBytes(maxQuarantineRecord),
		kgo.ProducerBatchCompression(kgo.ZstdCompression(), kgo.NoCompression()),
		kgo.RecordDeliveryTimeout(produceTimeout),
	)
	return opts, nil
}

// poll hands fetched records to their workers until ctx ends. It waits for nothing but records.
func (r *mskReceiver) poll(ctx context.Context) {
	for {
		fetches := r.client.PollFetches(ctx)
		if ctx.Err() != nil || fetches.IsClientClosed() {
			return
		}
		for _, f := range fetches {
			for _, t := range f.Topics {
				r.monitor.hear(t.Topic, t.TopicID)
				for _, p := range t.Partitions {
					r.reportFetch(topicPartition{t.Topic, p.Partition}, p.Err)
					r.dispatch(t.TopicID, p)
				}
			}
		}
	}
}

// dispatch gives one partition's records to the worker that they are tagged with. Those of another topic with the same name, if the
// broker says which it is, are dropped: the partition is about to be begun anew (monitor).
func (r *mskReceiver) dispatch(topic block.TopicID, f kgo.FetchPartition) {
	if len(f.Records) == 0 {
		return
	}
	p := partitionOf(f.Records[0].Context)
	if p == nil {
		return // of a partition that had been taken from us when they were fetched
	}
	if isOther(topic, p.plan.topic) {
		r.monitor.lookNow()
		return
	}
	p.highWatermark.Store(f.HighWatermark)
	gap := extent{max(p.expects(), f.LogStartOffset), f.Records[0].Offset}
	if from, to := p.lostBefore(f.Records, f.LogStartOffset); to > from {
		r.group.lostOffsets(p, from, to)
	}
	if gap.to > gap.from && p.doubt(gap) {
		go r.group.lookInto(p)
	}
	p.push(f.Records)
}

// reportFetch logs a partition's fetch error when it begins, changes or ends. The client itself fetches again.
func (r *mskReceiver) reportFetch(tp topicPartition, err error) {
	if tp.topic == "" {
		return // an error of the group session, which the client logs and mends itself
	}
	if errors.Is(err, kerr.UnknownTopicID) || errors.Is(err, kerr.InconsistentTopicID) {
		r.monitor.lookNow()
	}
	last, failing := r.fetchErrors[tp]
	fields := []zap.Field{zap.String("topic", tp.topic), zap.Int32("partition", tp.id)}
	switch {
	case err == nil && failing:
		delete(r.fetchErrors, tp)
		r.log.Info("fetching again", fields...)
	case err != nil && err.Error() != last:
		r.fetchErrors[tp] = err.Error()
		r.log.Error("cannot fetch, or not all that there was; it is tried again", append(fields, zap.Error(err))...)
	}
}

// countWaiting counts partitions that wait after a failure, and tells the Collector when the first begins and the last ends to.
func (r *mskReceiver) countWaiting(delta int, err error) int {
	r.waitingMu.Lock()
	defer r.waitingMu.Unlock()
	before := r.waiting
	r.waiting += delta
	switch {
	case before == 0 && r.waiting > 0:
		r.report(componentstatus.NewRecoverableErrorEvent(err))
	case before > 0 && r.waiting == 0:
		r.report(componentstatus.NewEvent(componentstatus.StatusOK))
	}
	return r.waiting
}

// report tells the host of every pipeline.
func (r *mskReceiver) report(e *componentstatus.Event) {
	r.hostsMu.Lock()
	defer r.hostsMu.Unlock()
	for _, h := range r.hosts {
		componentstatus.ReportStatus(h, e)
	}
}

// Shutdown stops fetching, waits for the blocks in flight, commits what they finished and leaves the group. What is gathered but
// not being delivered is left to the next owner.
func (r *mskReceiver) Shutdown(ctx context.Context) error {
	r.shutdownOnce.Do(func() {
		if r.onShutdown != nil {
			r.onShutdown()
		}
		r.startOnce.Do(func() { r.startErr = errors.New("the receiver has been shut down") })
		if r.client != nil {
			r.shutdownErr = r.shutdown(ctx)
		}
		r.tel.shutdown()
	})
	return r.shutdownErr
}

func (r *mskReceiver) shutdown(ctx context.Context) error {
	r.stop()
	r.loops.Wait()
	err := r.group.drain(ctx, r.group.close(), r.cfg.ShutdownTimeout)
	r.finish()
	r.final.Wait()

	if leaveErr := r.leave(ctx); leaveErr != nil {
		r.log.Warn("could not tell the group that this member leaves; its partitions are given away after session_timeout",
			zap.String("group", r.cfg.GroupID), zap.Error(leaveErr))
	}
	return err
}

// leave tells the group that this member is gone, and closes the client. Within a rebalance the client would first wait for its
// end, which takes a session timeout where another member has died: then its requests are broken off, and the group is told by
// another client.
func (r *mskReceiver) leave(ctx context.Context) error {
	defer r.hangUp()
	leaveCtx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	err := r.client.LeaveGroupContext(leaveCtx)
	member, _ := r.client.GroupMetadata()
	if err != nil {
		r.hangUp()
	}
	r.client.Close()
	if err == nil || member == "" {
		return err
	}
	ctx, cancel = context.WithTimeout(ctx, farewellTimeout)
	defer cancel()
	return r.farewell(ctx, member)
}

// farewell tells the group by a client of its own that a member is gone.
func (r *mskReceiver) farewell(ctx context.Context, member string) error {
	opts, err := r.cfg.Options(ctx, r.log)
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return err
	}
	defer client.Close()
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group, req.MemberID = r.cfg.GroupID, member // the latter for brokers that know no list of members
	m := kmsg.NewLeaveGroupRequestMember()
	m.MemberID, m.Reason = member, new("shut down within a rebalance")
	req.Members = append(req.Members, m)
	resp, err := req.RequestWith(ctx, client)
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(resp.ErrorCode)
}
