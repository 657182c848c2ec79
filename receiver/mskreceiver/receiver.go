package mskreceiver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/receiver"
	"go.uber.org/zap"

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
	// leaveTimeout bounds telling the group that this member leaves; after it the group finds out by session_timeout.
	leaveTimeout = 5 * time.Second
)

// mskReceiver is one member of the consumer group, for all signals that have a pipeline.
type mskReceiver struct {
	cfg        *Config
	log        *zap.Logger
	tel        *telemetry
	sinks      sinks // attached by the factory before Start
	onShutdown func()

	startOnce    sync.Once
	startErr     error
	shutdownOnce sync.Once
	shutdownErr  error

	// Set by Start.
	host   component.Host
	client *kgo.Client
	group  *group
	commit *committer
	stop   context.CancelFunc // ends the poll loop and the monitor
	loops  sync.WaitGroup     // poll loop, monitor
	finish context.CancelFunc // ends the committer
	final  sync.WaitGroup     // committer

	waitingMu sync.Mutex
	waiting   int // partitions that wait after a failure

	fetchErrors map[topicPartition]string // last logged; owned by the poll loop
}

func newReceiver(set receiver.Settings, cfg *Config) (*mskReceiver, error) {
	r := &mskReceiver{cfg: cfg, log: set.Logger, fetchErrors: map[topicPartition]string{}}
	var err error
	if r.sinks, err = newSinks(set); err != nil {
		return nil, err
	}
	r.tel, err = newTelemetry(set.ID, set.TelemetrySettings, cfg.GroupID)
	return r, err
}

// Start joins the group. It does not wait for Kafka.
func (r *mskReceiver) Start(ctx context.Context, host component.Host) error {
	r.startOnce.Do(func() { r.startErr = r.start(ctx, host) })
	return r.startErr
}

func (r *mskReceiver) start(ctx context.Context, host component.Host) error {
	r.host = host
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
		quarantine: newQuarantine(r.cfg.QuarantineTopic),
		committer:  newCommitter(r.cfg.Retry, r.log, func() { r.tel.retry("commit") }),
		budget:     newBudget(r.cfg.MaxInFlightBytes, r.cfg.Block.MaxBytes*(1+decodedFactor)),
	}
	r.group, r.commit = newGroup(d, r.log, signals), d.committer
	if err := r.tel.observe(r.group, d.budget, r.countWaiting); err != nil {
		return err
	}
	opts, err := r.options(ctx, topics)
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return fmt.Errorf("kafka client: %w", err)
	}
	r.client = client
	d.quarantine.produce = produceWith(client)
	d.committer.commit = commitWith(client)
	d.budget.pause = func(topic string, id int32) { client.PauseFetchPartitions(map[string][]int32{topic: {id}}) }
	d.budget.resume = func(topic string, id int32) { client.ResumeFetchPartitions(map[string][]int32{topic: {id}}) }

	pollCtx, stop := context.WithCancel(context.Background())
	commitCtx, finish := context.WithCancel(context.Background())
	r.stop, r.finish = stop, finish
	r.final.Go(func() { d.committer.run(commitCtx) })
	r.loops.Go(func() { r.poll(pollCtx) })
	r.loops.Go(func() { newMonitor(client, topics, r.group, r.log).run(pollCtx) })
	return nil
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
		fetches.EachPartition(func(f kgo.FetchTopicPartition) {
			r.reportFetch(topicPartition{f.Topic, f.Partition}, f.Err)
			r.dispatch(f)
		})
	}
}

// dispatch gives one partition's records to the worker that they are tagged with.
func (r *mskReceiver) dispatch(f kgo.FetchTopicPartition) {
	if len(f.Records) == 0 {
		return
	}
	p := partitionOf(f.Records[0].Context)
	if p == nil {
		return // of a partition that had been taken from us when they were fetched
	}
	p.highWatermark.Store(f.HighWatermark)
	p.position.CompareAndSwap(-1, f.Records[0].Offset)
	if from, to := p.lostBefore(f.Records, f.LogStartOffset); to > from {
		r.tel.lost(p, to-from)
		p.log.Error("records were removed by retention before they were read",
			zap.Int64("first_offset", from), zap.Int64("last_offset", to-1))
	}
	p.push(f.Records)
}

// reportFetch logs a partition's fetch error when it begins, changes or ends. The client itself fetches again.
func (r *mskReceiver) reportFetch(tp topicPartition, err error) {
	if tp.topic == "" {
		return // an error of the group session, which the client logs and mends itself
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
		componentstatus.ReportStatus(r.host, componentstatus.NewRecoverableErrorEvent(err))
	case before > 0 && r.waiting == 0:
		componentstatus.ReportStatus(r.host, componentstatus.NewEvent(componentstatus.StatusOK))
	}
	return r.waiting
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

	leaveCtx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	if leaveErr := r.client.LeaveGroupContext(leaveCtx); leaveErr != nil {
		r.log.Warn("could not tell the group that this member leaves; its partitions are given away after session_timeout",
			zap.String("group", r.cfg.GroupID), zap.Error(leaveErr))
	}
	r.client.Close()
	return err
}
