package probe

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/pulsegrid/pulsegrid/internal/audit/stored"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/sleep"
)

// Bounds of the configuration.
const (
	MinInterval = 100 * time.Millisecond
	MaxTimeout  = time.Minute
	// maxRounds are waited for at a time: an event is given up at twice the deadline.
	maxRounds = 2000
	// maxUnderWay rounds may wait for answers at a time.
	maxUnderWay = 100
)

// Counter counts the rows of each marker in a store.
type Counter interface {
	Copies(ctx context.Context, q stored.Marked) (map[string]int64, error)
}

// Store is where rows are looked for.
type Store struct {
	Name string // clickhouse or lake
	Counter
	Every time.Duration // between two looks
}

// How often stores are looked into: a look into the lake asks the catalog for each table.
const (
	ClickHouseEvery = time.Second
	LakeEvery       = 5 * time.Second
	// lookTimeout bounds a look.
	lookTimeout = time.Minute
)

// Config of a probe.
type Config struct {
	HTTP    string            // URL of OTLP/HTTP; /v1/SIGNAL is added
	GRPC    string            // URL of OTLP/gRPC: https is TLS
	TLS     *tls.Config       // of https; nil: the system's authorities
	Headers map[string]string // credentials, or the tenant's name
	Agent   string            // User-Agent
	Tenant  string            // whose rows the events become
	Stores  []Store

	Interval time.Duration // between the beginnings of two rounds
	Timeout  time.Duration // of a request, with its connection
	Deadline time.Duration // from sending until rows must be there

	// Report takes one line for each failure. It is called by several goroutines.
	Report func(line string)
}

// Validate names what is wrong, as the command's flags are named.
func (c *Config) Validate() error {
	for what, address := range map[string]string{"http": c.HTTP, "grpc": c.GRPC} {
		u, err := url.Parse(address)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return fmt.Errorf("%s: %q: want http://HOST:PORT or https://HOST:PORT", what, address)
		}
	}
	switch {
	case c.Interval < MinInterval:
		return fmt.Errorf("interval: %s is less than %s", c.Interval, MinInterval)
	case c.Timeout <= 0 || c.Timeout > MaxTimeout:
		return fmt.Errorf("timeout: %s: want more than 0 and at most %s", c.Timeout, MaxTimeout)
	case c.Timeout > maxUnderWay*c.Interval:
		return fmt.Errorf("timeout: %s is more than %d intervals of %s", c.Timeout, maxUnderWay, c.Interval)
	case c.Deadline < c.Timeout:
		return fmt.Errorf("deadline: %s is less than the timeout of a request, %s", c.Deadline, c.Timeout)
	case 2*c.Deadline > maxRounds*c.Interval:
		return fmt.Errorf("deadline: %s is more than %d intervals of %s, more than is kept in memory: make the interval longer", c.Deadline, maxRounds/2, c.Interval)
	}
	return nil
}

// Probe sends and counts.
type Probe struct {
	config  Config
	metrics *metrics
	number  atomic.Uint64 // of the newest event

	mu     sync.Mutex
	events []*event // that are not settled, in the order of their sending
	blind  []bool   // by store: the newest look failed
}

// New returns a probe that has sent nothing.
func New(c Config) (*Probe, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.TLS == nil {
		c.TLS = tlsConfig
	}
	p := &Probe{config: c, metrics: newMetrics(c.Stores, time.Now()), blind: make([]bool, len(c.Stores))}
	var first [8]byte
	if _, err := rand.Read(first[:]); err != nil {
		return nil, err
	}
	p.number.Store(binary.BigEndian.Uint64(first[:]) >> 2) // room for 2^62 events within 63 bits
	return p, nil
}

// Gather returns the metrics.
func (p *Probe) Gather(context.Context) []*dto.MetricFamily {
	families, err := p.metrics.registry.Gather()
	if err != nil {
		p.config.Report("metrics: " + err.Error())
	}
	return families
}

// Run sends a round each interval and looks into the stores, until ctx is done.
func (p *Probe) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { p.Watch(ctx) })
	p.Send(ctx, nil)
}

// Send sends a round each interval until enough is closed (nil: it never is), and returns when each request is answered. Requests under way are cut off when ctx is done.
func (p *Probe) Send(ctx context.Context, enough <-chan struct{}) {
	var wg sync.WaitGroup
	defer wg.Wait()
	tick := time.NewTicker(p.config.Interval)
	defer tick.Stop()
	for {
		wg.Go(func() { p.round(ctx) })
		select {
		case <-ctx.Done():
			return
		case <-enough:
			return
		case <-tick.C:
		}
	}
}

// Watch looks into each store again and again, until ctx is done.
func (p *Probe) Watch(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for i, s := range p.config.Stores {
		wg.Go(func() {
			for sleep.For(ctx, s.Every) == nil {
				p.look(ctx, i, false)
			}
		})
	}
}

// Once sends one round, waits until each acknowledged event has been seen in each store, or for the deadline, looks once more, and returns what became of all.
func (p *Probe) Once(ctx context.Context) ([]Result, error) {
	events := p.round(ctx)
	var wg sync.WaitGroup
	for i, s := range p.config.Stores {
		wg.Go(func() {
			for !p.seen(events, i) && sleep.For(ctx, s.Every) == nil {
				p.look(ctx, i, false)
			}
		})
	}
	wg.Wait()
	if ctx.Err() == nil {
		p.Settle(ctx)
	}
	if ctx.Err() != nil {
		return nil, errors.New("stopped")
	}
	return p.results(events), nil
}

// Settle looks into each store once more and judges every event that is answered, due or not.
func (p *Probe) Settle(ctx context.Context) {
	for i := range p.config.Stores {
		if !p.look(ctx, i, true) {
			p.giveUp(i, time.Time{})
		}
	}
}

// round sends an event of each signal in each way at once, and returns when each is answered.
func (p *Probe) round(ctx context.Context) []*event {
	events := p.begin(time.Now())
	c, err := p.config.connect()
	if err != nil {
		for _, e := range events {
			p.answered(e, failure{outcomeUnavailable, err.Error()}, 0)
		}
		return events
	}
	defer c.close()
	var wg sync.WaitGroup
	for _, e := range events {
		wg.Go(func() {
			began := time.Now()
			err := c.send(ctx, e)
			if err != nil && ctx.Err() != nil { // the probe is stopped, which is no failure of the cell's
				p.forget(e)
				return
			}
			p.answered(e, err, time.Since(began))
		})
	}
	wg.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range events {
		if !e.acknowledged() {
			return events
		}
	}
	p.metrics.success.WithLabelValues(stageRequests).Set(unix(time.Now()))
	return events
}

// begin makes the events of a round. They are known before they are sent, as rows may be there before the answer.
func (p *Probe) begin(now time.Time) []*event {
	events := make([]*event, 0, len(ways)*len(signal.All))
	for _, s := range signal.All {
		for _, w := range ways {
			events = append(events, &event{Way: w, signal: s, sent: now, number: p.number.Add(1), sights: make([]sight, len(p.config.Stores))})
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events = append(p.events, events...)
	return events
}

// forget takes an event out that was not answered because the probe is stopped.
func (p *Probe) forget(e *event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range e.sights {
		e.sights[i].result = resultNone
	}
	e.outcome = outcomeTimeout
	p.prune()
}

// answered notes what became of a request.
func (p *Probe) answered(e *event, err error, took time.Duration) {
	outcome, detail := outcomeOK, ""
	if f, failed := errors.AsType[failure](err); failed {
		outcome, detail = f.outcome, f.detail
	}
	p.metrics.requests.WithLabelValues(e.Protocol, e.Compression, e.signal.String(), outcome).Inc()
	if outcome == outcomeOK {
		p.metrics.duration.WithLabelValues(e.Protocol, e.signal.String()).Observe(took.Seconds())
	}
	p.mu.Lock()
	e.outcome, e.detail, e.took = outcome, detail, took
	if e.acknowledged() {
		for _, s := range p.config.Stores {
			p.metrics.waiting.WithLabelValues(s.Name).Inc()
		}
	}
	p.prune()
	p.mu.Unlock()
	if err != nil {
		p.report(e, "", outcome+": "+detail)
	}
}

func (p *Probe) report(e *event, store, what string) {
	p.config.Report(fmt.Sprintf("%s %s %s %s", e.sent.UTC().Format(time.RFC3339), e.name(), cmp.Or(store, stageRequests), what))
}
