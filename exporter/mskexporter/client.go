package mskexporter

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/exporter"
	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"

	"github.com/pulsegrid/pulsegrid/internal/kafka"
	"github.com/pulsegrid/pulsegrid/internal/sleep"
)

// Waits between tries of verifying the topics.
const (
	verifyBackoffMin = 250 * time.Millisecond
	verifyBackoffMax = 10 * time.Second
	verifyTimeout    = 15 * time.Second // of one try
	minDelivery      = time.Second      // that the Kafka client takes
)

// client is what the exporters of one configured component share: the Kafka client, the room in its buffer, the topics' state,
// and the health that is reported. Its life: made by the first exporter, connected by the first Start, closed by the last
// Shutdown.
type client struct {
	cfg      *Config
	log      *zap.Logger
	gateway  []byte // the gateway header's value
	metrics  *metrics
	room     *semaphore.Weighted // of max_buffered_bytes
	buffered atomic.Int64        // bytes that wait for acknowledgement
	ready    atomic.Bool         // all topics are verified
	router   *router
	lanes    *lanes
	// unverified says what is wrong with topics, by name; nil: none has been looked at.
	unverified atomic.Pointer[map[string]error]

	// Set by connect, before ready.
	kafka *producer
	// splicer passes agents' zstd frames on; nil where the configuration says not to.
	splicer *splicer
	// spillway sends requests around Kafka while it does not take them, and producers of back give them back; nil where there is no spill.
	spillway *spillway
	back     []*producer
	// forget has the health check not ask any more; never nil after connect.
	forget func()
	recent recent
	ids    topicIDs
	alive  context.Context // ends when the client closes; then nothing is waited for
	kill   context.CancelCauseFunc
	work   sync.WaitGroup // of prepare

	mu       sync.Mutex
	holders  int // exporters that were made and not shut down
	hosts    []component.Host
	began    time.Time // of connecting
	closing  bool
	inflight sync.WaitGroup // of deliver; added to under mu while !closing
	prepared chan struct{}  // closed when the topics are verified
	lastErr  error          // why the topics are not verified
	ailing   bool           // the last request failed, and that was reported
}

var errClosing = errors.New("exporter is shutting down")

// clients are by configuration: the Collector hands one *Config to all exporters of a component.
var clients = struct {
	sync.Mutex
	of map[*Config]*client
}{of: map[*Config]*client{}}

// clientOf returns the component's client and counts its holder.
func clientOf(set exporter.Settings, cfg *Config) (*client, error) {
	clients.Lock()
	defer clients.Unlock()
	c, ok := clients.of[cfg]
	if !ok {
		c = &client{
			cfg: cfg, log: set.Logger, room: semaphore.NewWeighted(cfg.MaxBufferedBytes), prepared: make(chan struct{}),
			ids: topicIDs{of: map[string][16]byte{}}, router: newRouter(&cfg.Topics), lanes: newLanes(max(1, cfg.MaxBufferedBytes/2)),
		}
		if id, ok := set.Resource.Attributes().Get("service.instance.id"); ok {
			c.gateway = []byte(id.AsString())
		}
		var err error
		c.metrics, err = newMetrics(set.ID, set.TelemetrySettings, c.buffered.Load, func() int64 {
			if c.ready.Load() {
				return 1
			}
			return 0
		})
		if err != nil {
			return nil, err
		}
		clients.of[cfg] = c
	}
	c.mu.Lock()
	c.holders++
	c.mu.Unlock()
	return c, nil
}

// join connects, or waits with the exporter that has, until the topics are verified or startup_timeout is over. That Kafka does
// not answer, or that a topic is not as it must be, is no error: a gateway that cannot start cannot tell its clients to retry.
func (c *client) join(ctx context.Context, id component.ID, host component.Host) error {
	c.mu.Lock()
	c.hosts = append(c.hosts, host)
	var err error
	if c.kafka == nil {
		c.began = time.Now()
		if err = c.connect(ctx); err == nil {
			c.forget, err = c.watched(id, host)
		}
	}
	began := c.began
	c.mu.Unlock()
	if err != nil {
		return err
	}
	// All exporters of the component wait together: the Collector starts them one after the other.
	wait := time.NewTimer(time.Until(began.Add(c.cfg.StartupTimeout)))
	defer wait.Stop()
	select {
	case <-c.prepared:
		return nil
	case <-ctx.Done():
	case <-wait.C:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ready.Load() {
		return nil
	}
	c.log.Warn("Kafka is not ready: requests are refused as retryable until it is", zap.Error(c.lastErr))
	c.report(componentstatus.NewRecoverableErrorEvent(fmt.Errorf("kafka is not ready: %w", c.unreadyCause())))
	return nil
}

// connect is called with mu held.
func (c *client) connect(ctx context.Context) error {
	compression, err := c.compression()
	if err != nil {
		return fmt.Errorf("compression: %w", err)
	}
	opts, err := c.options(ctx, compression)
	if err != nil {
		return err
	}
	p, err := newProducer(opts)
	if err != nil {
		return err
	}
	c.alive, c.kill = context.WithCancelCause(context.Background())
	if c.cfg.Spill.URL != "" {
		if err := c.connectSpill(ctx, append(slices.Clip(opts), kgo.ManualFlushing())); err != nil {
			p.close()
			return err
		}
		c.work.Go(func() { c.spillway.run(c.alive) })
		c.work.Go(func() { c.spillway.adopt(c.alive) })
	}
	c.kafka = p
	c.work.Go(c.prepare)
	return nil
}

func (c *client) connectSpill(ctx context.Context, opts []kgo.Opt) (err error) {
	defer func() {
		if err != nil {
			for _, p := range c.back {
				p.close()
			}
			c.back = nil
		}
	}()
	for range givers {
		p, err := newProducer(opts)
		if err != nil {
			return err
		}
		c.back = append(c.back, p)
	}
	if c.spillway, err = newSpillway(ctx, c, newGiveBack(c, c.back)); err != nil {
		return fmt.Errorf("spill: %w", err)
	}
	return nil
}

// options are those of a Kafka client that produces.
func (c *client) options(ctx context.Context, compression kgo.Opt) ([]kgo.Opt, error) {
	opts, err := c.cfg.Options(ctx, c.log)
	if err != nil {
		return nil, err
	}
	return append(opts,
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerBatchMaxBytes(int32(c.cfg.MaxRecordBytes)),
		kgo.ProducerLinger(c.cfg.Linger),
		kgo.RecordPartitioner(c.router),
		// The bound is room, which whole requests pass; here it would cut them in pieces.
		kgo.MaxBufferedRecords(math.MaxInt32),
		// Records are given up between two tries: to give up one that a broker has at this moment closes the connection, and takes the requests of
		// all other partitions on it away. The broker answers soon; only one that is frozen is not waited for (produce).
		kgo.RecordDeliveryTimeout(max(minDelivery, c.cfg.patience())),
		kgo.ProduceRequestTimeout(c.cfg.answer()),
		kgo.AllowIdempotentProduceCancellation(),
		compression,
	), nil
}

// compression of batches: with zstd, agents' frames are passed on.
func (c *client) compression() (kgo.Opt, error) {
	codec := c.cfg.Compression.codec()
	if c.cfg.Compression.Codec != "zstd" || !c.cfg.Compression.PassFrames {
		return kgo.ProducerBatchCompression(codec, kgo.NoCompression()), nil
	}
	whole, err := kgo.DefaultCompressor(codec, kgo.NoCompression())
	if err != nil {
		return nil, err
	}
	c.splicer, err = newSplicer(whole, c.cfg.Compression.Level)
	return kgo.WithCompressor(c.splicer), err
}

// prepare makes or verifies the topics, for as long as it takes.
func (c *client) prepare() {
	backoff := verifyBackoffMin
	for {
		if c.tryPrepare() {
			return
		}
		if sleep.For(c.alive, backoff) != nil {
			return
		}
		backoff = min(2*backoff, verifyBackoffMax)
	}
}

func (c *client) tryPrepare() bool {
	ctx, cancel := context.WithTimeout(c.alive, verifyTimeout)
	defer cancel()
	mismatches, err := kafka.EnsureTopics(ctx, c.kafka.client(), c.cfg.Topics.Manage, c.cfg.specs())
	if c.alive.Err() != nil {
		return true
	}
	c.ids.asking.Lock()
	c.learn(ctx)
	c.ids.asking.Unlock()
	if c.spillway != nil {
		c.spillway.look(ctx)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		if bad, all := kafka.BadTopics(err); !all {
			c.unverified.Store(&bad)
		}
		// Told once for each cause, not at each try.
		if c.lastErr == nil || c.lastErr.Error() != err.Error() {
			c.log.Error("Kafka's topics cannot be verified, trying again", zap.Error(err))
			c.report(componentstatus.NewRecoverableErrorEvent(fmt.Errorf("kafka is not ready: %w", err)))
		}
		c.lastErr = err
		return false
	}
	for _, m := range mismatches {
		c.log.Warn("topic differs from topics::*", zap.Stringer("mismatch", m))
	}
	c.lastErr = nil
	c.unverified.Store(&map[string]error{})
	c.ready.Store(true)
	close(c.prepared)
	c.log.Info("Kafka's topics are verified")
	c.report(componentstatus.NewEvent(componentstatus.StatusOK))
	return true
}

// usable says why nothing may be sent to a topic; nil: it may.
func (c *client) usable(topic string) error {
	bad := c.unverified.Load()
	if bad == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.unreadyCause()
	}
	return (*bad)[topic]
}

// anyUsable tells whether something may be sent to some topic.
func (c *client) anyUsable() bool { return c.unverified.Load() != nil }

// unreadyCause is called with mu held.
func (c *client) unreadyCause() error {
	if c.lastErr != nil {
		return c.lastErr
	}
	return errors.New("no broker has answered yet")
}

// enter admits a request unless the client is closing or not ready.
func (c *client) enter() (leave func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closing:
		return nil, retryable(reasonUnready, retryAfterFull, "%w", errClosing)
	case c.kafka == nil:
		return nil, retryable(reasonUnready, retryAfterOutage, "kafka is not ready, nothing was sent: %w", c.unreadyCause())
	}
	c.inflight.Add(1)
	return c.inflight.Done, nil
}

// observe reports health when it changes. A single request that is refused for its size is no illness of Kafka's.
func (c *client) observe(f *failure) {
	if f != nil && f.class == kafka.Permanent {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if ailing := f != nil; ailing != c.ailing {
		c.ailing = ailing
		if ailing {
			c.log.Error("Kafka does not acknowledge", zap.Error(f))
			c.report(componentstatus.NewRecoverableErrorEvent(f))
		} else {
			c.log.Info("Kafka acknowledges again")
			c.report(componentstatus.NewEvent(componentstatus.StatusOK))
		}
	}
}

// report tells every pipeline's host. It is called with mu held.
func (c *client) report(e *componentstatus.Event) {
	for _, h := range c.hosts {
		componentstatus.ReportStatus(h, e)
	}
}

// leave gives up a holder. The last one waits for the requests in flight, as long as ctx allows, and closes the client; what is
// in flight then has an unknown outcome.
func (c *client) leave(ctx context.Context) error {
	if !c.drop() {
		return nil
	}
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	defer c.metrics.telemetry.Shutdown()
	if c.kafka == nil {
		return nil // never started, or not able to
	}
	c.forget()
	done := make(chan struct{})
	go func() { c.inflight.Wait(); close(done) }()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = fmt.Errorf("requests in flight were given up: %w", ctx.Err())
	}
	c.kill(errClosing)
	c.kafka.close()
	for _, p := range c.back {
		p.close()
	}
	c.work.Wait()
	<-done
	if c.spillway != nil {
		err = errors.Join(err, c.spillway.spool.Close())
	}
	return err
}

// drop returns whether the holder was the last.
func (c *client) drop() bool {
	clients.Lock()
	defer clients.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.holders--; c.holders > 0 {
		return false
	}
	delete(clients.of, c.cfg)
	return true
}
