// Package agents sends events that it knows: a fleet of agents that behave as agents do in the field. They give up waiting, send
// again to another gateway, send twice what was taken long ago, and sometimes go away in the middle. Some obey a gateway that asks
// them to come again later, some do not. Every event has a number, by which it is found again in the stores, and the fleet knows of
// each whether it was acknowledged.
package agents

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Options of a fleet.
type Options struct {
	Service  string   // service.name of every event: what tells this fleet's events from all others
	Seed     uint64   // what is in a request, and what its agent does with it, is a function of the seed and the request's number
	Gateways []string // "host:port" of OTLP/HTTP
	// Dial connects to a gateway, as http.Transport.DialContext does; nil: as net.Dialer does. So agents may ask a DNS server of their own.
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
	Rate   int    // events a second
	Events int    // at least; a fleet that is asked to stop goes on until it has begun this many
	First  int    // number of the first request: so that several fleets of one service have events of their own
	Key    string // API key; empty: the fleet shows no credentials

	// Senders is how many requests may be under way at a time. Default 64. Ordered agents have one each.
	Senders int

	// Refused is what agents do that are asked to come again later.
	Refused Manner
	// Ordered agents, each a source of its own, send a request when the one before it is acknowledged, and never leave their gateway:
	// a source that changes it has two orders. The others may have several under way, at any gateway.
	Ordered bool
	// Poison is the share of events that are made invalid, each in one way (poison.go).
	Poison float64

	// Timeout of one attempt; then the agent tries another gateway. Default DefaultTimeout.
	Timeout time.Duration
	// Impatient is the share of attempts whose agent waits 2 to 20 ms only: often the work is done and the answer not heard.
	Impatient float64
	// Duplicates is the share of requests that are sent again after they were acknowledged: half of them within two seconds, the
	// others after LateAfter. Twice acknowledged, they are the same events all the same.
	Duplicates float64
	// LateAfter is when the later duplicates are sent. Default 8s.
	LateAfter time.Duration
	// Deserters is the share of requests whose agent goes away after its first attempt failed or, at random, even before it is
	// answered: such a request may be in the stores or not.
	Deserters float64
}

const (
	// PerRequest is how many events a request has.
	PerRequest = 50
	// DefaultTimeout of an attempt.
	DefaultTimeout = 10 * time.Second
	sources        = 24   // agents in the fleet's eyes, whose keys spread over the partitions
	waiting        = 1024 // requests of an ordered source that wait for the one before

	retryPause  = 200 * time.Millisecond
	idleTimeout = 30 * time.Second // less than the gateways', or requests meet connections that are being closed
	giveUpAfter = 10 * time.Minute // of retrying a request: the run has failed
)

// Manner is what an agent does that is asked to come again later (429, 503).
type Manner int

// The manners.
const (
	Insist Manner = iota // it comes again at once
	Obey                 // it comes again when it was told to
	Drop                 // it drops its data, and it does so too when it hears nothing
)

// Request is a request that was begun.
type Request struct {
	Number     int
	Signal     signal.Signal
	Sent       time.Time     // of the first attempt, and the time of its events
	Took       time.Duration // from then to the acknowledgement
	Attempts   int
	Acked      bool
	Duplicates int // further copies that were acknowledged

	Unanswered  string           // why the last attempt that got no answer got none
	Throttled   int              // answers 429
	Unavailable int              // answers 502 to 504
	Mute        int              // of both, those that did not say when to come again, by RetryInfo and by Retry-After alike
	Poison      map[int]Poisoned // invalid events, by number
}

// Source is the agent whose request it is, by its number.
func (r Request) Source() int { return r.Number % sources }

// First number of its events; they have PerRequest numbers from there on.
func (r Request) First() int { return r.Number * PerRequest }

// Fleet is a running fleet.
type Fleet struct {
	opts    Options
	client  *http.Client
	stop    chan struct{} // closed: begin no more than Options.Events
	stopped sync.Once
	drain   chan struct{} // closed: no further request is begun
	done    chan struct{}
	turn    sync.Mutex     // held by who begins a request, and while the fleet pauses
	pending sync.WaitGroup // requests under way
	later   sync.WaitGroup // duplicates under way
	acked   atomic.Int64   // events

	sentBack atomic.Int64 // answers

	mu       sync.Mutex
	requests []*Request // guarded by mu, by number
	err      error      // guarded by mu: the first request that could not be sent at all
}

// Start begins to send.
func Start(o Options) *Fleet {
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.LateAfter == 0 {
		o.LateAfter = 8 * time.Second
	}
	if o.Senders == 0 {
		o.Senders = 64
	}
	f := &Fleet{
		opts: o, stop: make(chan struct{}), drain: make(chan struct{}), done: make(chan struct{}),
		client: &http.Client{Transport: &http.Transport{DialContext: o.Dial, MaxIdleConnsPerHost: o.Senders, DisableCompression: true, IdleConnTimeout: idleTimeout}},
	}
	go f.run()
	return f
}

// Acked is how many events are acknowledged by now.
func (f *Fleet) Acked() int { return int(f.acked.Load()) }

// SentBack is how many answers 429 and 502 to 504 there were by now.
func (f *Fleet) SentBack() int { return int(f.sentBack.Load()) }

// Pause begins no further request, and returns when each one is acknowledged or deserted and every duplicate is sent. Resume must follow.
func (f *Fleet) Pause() {
	f.turn.Lock()
	f.pending.Wait()
	f.later.Wait()
}

// Resume undoes Pause.
func (f *Fleet) Resume() { f.turn.Unlock() }

// Stop ends the fleet as soon as it has begun Options.Events, waits until every request is acknowledged or deserted and every
// duplicate is sent, and returns all requests.
func (f *Fleet) Stop() ([]*Request, error) {
	f.stopped.Do(func() { close(f.stop) })
	<-f.done
	f.client.CloseIdleConnections()
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.requests, f.err
}

// run paces the requests. Those that cannot be sent at their time, because all senders wait, are sent later.
func (f *Fleet) run() {
	defer close(f.done)
	queues, wait := f.senders()
	tick := time.NewTicker(time.Duration(float64(time.Second) * PerRequest / float64(f.opts.Rate)))
	defer tick.Stop()
	for n := f.opts.First; ; n++ {
		if (n-f.opts.First)*PerRequest >= f.opts.Events {
			select {
			case <-f.stop:
				wait()
				close(f.drain)
				f.later.Wait()
				return
			default:
			}
		}
		r := &Request{Number: n, Signal: f.signalOf(n)}
		f.turn.Lock()
		f.record(func() { f.requests = append(f.requests, r) })
		f.pending.Add(1)
		f.turn.Unlock()
		queues[r.Source()%len(queues)] <- r
		<-tick.C
	}
}

// senders carry what comes through the queues: one for all, or one for each ordered source. wait ends them when they have carried all.
func (f *Fleet) senders() (queues []chan *Request, wait func()) {
	workers := f.opts.Senders
	queues = []chan *Request{make(chan *Request)}
	if f.opts.Ordered {
		workers = sources
		queues = make([]chan *Request, sources)
		for i := range queues {
			queues[i] = make(chan *Request, waiting)
		}
	}
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			for r := range queues[i%len(queues)] {
				f.carry(r)
				f.pending.Done()
			}
		})
	}
	return queues, func() {
		for _, q := range queues {
			close(q)
		}
		wg.Wait()
	}
}

func (f *Fleet) random(request int) *rand.Rand {
	return rand.New(rand.NewPCG(f.opts.Seed, uint64(request)))
}

// signalOf: half of the requests are logs, the others spans and metrics.
func (f *Fleet) signalOf(request int) signal.Signal {
	return [...]signal.Signal{signal.Logs, signal.Logs, signal.Traces, signal.Metrics}[f.random(request).IntN(4)]
}

// carry sends a request until it is acknowledged, or its agent goes away.
func (f *Fleet) carry(r *Request) {
	rng := f.random(r.Number)
	rng.IntN(4) // signalOf's
	sent := time.Now()
	p := poisoner{rng: rand.New(rand.NewPCG(f.opts.Seed+1, uint64(r.Number))), share: f.opts.Poison}
	body, err := encode(f.opts.Service, r.Signal, r.First(), sources, sent, &p)
	if err == nil {
		err = p.remember(r, body)
	}
	if err != nil {
		f.fail(fmt.Errorf("request %d: %w", r.Number, err))
		return
	}
	encoding := ""
	if rng.IntN(2) == 0 { // such a frame goes into Kafka as it is
		encoding, body = "zstd", compressor.EncodeAll(body, nil)
	}
	post := func(timeout time.Duration, gateway int) error {
		return f.post(timeout, f.opts.Gateways[gateway%len(f.opts.Gateways)], r, encoding, body)
	}
	deserts, duplicated, late := rng.Float64() < f.opts.Deserters, rng.Float64() < f.opts.Duplicates, rng.IntN(2) == 0
	gateway := rng.IntN(len(f.opts.Gateways))
	if f.opts.Ordered {
		gateway = r.Source()
	}
	f.record(func() { r.Sent = sent })
	var last error
	for deadline := sent.Add(giveUpAfter); time.Now().Before(deadline); {
		timeout := f.opts.Timeout
		if rng.Float64() < f.opts.Impatient || deserts {
			timeout = time.Duration(2+rng.IntN(19)) * time.Millisecond
		}
		f.record(func() { r.Attempts++ })
		if last = post(timeout, gateway); last == nil {
			f.acked.Add(PerRequest)
			f.record(func() { r.Acked, r.Took = true, time.Since(sent) })
			break
		}
		var refused *refusedError
		if errors.As(last, &refused) {
			f.fail(fmt.Errorf("request %d was refused for good: %w", r.Number, last))
			return
		}
		pause := f.heard(r, last)
		if deserts || f.opts.Refused == Drop {
			return
		}
		time.Sleep(pause)
		if !f.opts.Ordered {
			gateway++
		}
	}
	if last != nil {
		f.fail(fmt.Errorf("request %d is not acknowledged after %v: %w", r.Number, giveUpAfter, last))
		return
	}
	if duplicated {
		wait := time.Duration(rng.IntN(2000)) * time.Millisecond
		if late {
			wait = f.opts.LateAfter + wait
		}
		f.again(r, wait, func() error { return post(f.opts.Timeout, gateway) })
	}
}

// again sends an acknowledged request once more, after a while.
func (f *Fleet) again(r *Request, wait time.Duration, post func() error) {
	f.later.Go(func() {
		select {
		case <-time.After(wait):
		case <-f.drain: // a duplicate is one at any time
		}
		if post() == nil { // an unanswered duplicate is no worse than one that was never sent
			f.record(func() { r.Duplicates++ })
		}
	})
}

// heard takes down why an attempt failed, and says how long the agent waits before the next one.
func (f *Fleet) heard(r *Request, err error) time.Duration {
	var l *laterError
	if !errors.As(err, &l) {
		f.record(func() { r.Unanswered = err.Error() })
		return retryPause
	}
	f.sentBack.Add(1)
	f.record(func() {
		if l.status == http.StatusTooManyRequests {
			r.Throttled++
		} else {
			r.Unavailable++
		}
		if l.after == 0 {
			r.Mute++
		}
	})
	if f.opts.Refused == Obey && l.after > 0 {
		return l.after
	}
	return retryPause
}

func (f *Fleet) record(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *Fleet) fail(err error) {
	f.record(func() {
		if f.err == nil {
			f.err = err
		}
	})
}

// compressor's EncodeAll may be called by several goroutines.
var compressor, _ = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest)) // it fails only for bad options
