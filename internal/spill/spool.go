package spill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"gocloud.dev/blob"

	"github.com/pulsegrid/pulsegrid/internal/bucket"
)

// Config of a spool.
type Config struct {
	// URL of the bucket: s3://bucket?prefix=spill/&region=eu-central-1 or file:///dir. Gateways of a cell share it.
	URL string
	// Gateway is this gateway's name, unique among those that share the bucket.
	Gateway string
	// MaxObjectBytes, before compression, close an object.
	MaxObjectBytes int
	// MaxLatency is how long a request waits for others to share its object.
	MaxLatency time.Duration
	// MaxBytes and MaxAge bound what waits in the store, all gateways' together; beyond them Put refuses with ErrFull.
	MaxBytes int64
	MaxAge   time.Duration
	// Left is told, once, of an object that the store has not given for minutes: the others are given back without it. It is asked for again and again. nil: nobody
	// is told.
	Left func(error)
}

const (
	putTimeout = 30 * time.Second // of one object
	uploads    = 4                // objects on their way at a time
)

var gatewayName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)

// Spool is one gateway's part of the spill. It is safe for concurrent use, but for Drain and Adopt: each is called by one goroutine at a
// time. Locks are taken in the order mu, index.mu, othersMu.
type Spool struct {
	cfg    Config
	bucket *blob.Bucket
	now    func() time.Time
	sent   chan struct{} // of capacity uploads: places for objects on their way
	wg     sync.WaitGroup

	next   atomic.Int64 // sequence of the next object
	own    *index
	listed atomic.Bool // own is what the store has
	stale  atomic.Bool // but for an object of which it is not known whether it was stored

	othersMu sync.Mutex
	others   summary // guarded by othersMu

	lanes   blockedLanes
	failing failures

	leasesMu sync.Mutex
	leases   map[string]lease // guarded by leasesMu; those that this process holds, by gateway

	mu     sync.Mutex
	open   *object              // guarded by mu; nil: none
	flying map[*object]struct{} // guarded by mu; with the open one, those that are not durable yet
	closed bool                 // guarded by mu
}

// object is one that is being filled.
type object struct {
	records []Record
	lanes   map[Lane]int64 // bytes before compression; guarded by Spool.mu until it is sent
	bytes   int
	// position is empty until it is closed; guarded by Spool.mu.
	position string
	done     chan struct{} // closed when it is durable, or failed
	err      error         // set before done is closed
	timer    *time.Timer
}

// Open opens the bucket. It does not ask the store anything.
func Open(ctx context.Context, cfg Config) (*Spool, error) {
	if !gatewayName.MatchString(cfg.Gateway) {
		return nil, fmt.Errorf("gateway name %q: want letters, digits, '.', '_' and '-', at most 128", cfg.Gateway)
	}
	if cfg.Left == nil {
		cfg.Left = func(error) {}
	}
	b, err := bucket.Open(ctx, cfg.URL)
	if err != nil {
		return nil, err
	}
	return &Spool{
		cfg: cfg, bucket: b, now: time.Now, sent: make(chan struct{}, uploads), own: newIndex(),
		lanes: newBlockedLanes(), failing: failures{of: map[string]failure{}}, leases: map[string]lease{}, flying: map[*object]struct{}{},
	}, nil
}

// Put returns nil when the store has acknowledged an object that holds the records. Any error but ErrFull leaves open whether it has;
// the records may then come out of Drain nevertheless. The records' memory is the caller's again when Put has returned.
func (s *Spool) Put(ctx context.Context, records []Record) error {
	for i := range records {
		if err := s.full(records[i].lane()); err != nil {
			return fmt.Errorf("topic %s, partition %d: %w", records[i].Topic, records[i].Partition, err)
		}
	}
	o, err := s.join(records)
	if err != nil {
		return err
	}
	// The object holds the caller's memory, so its fate is awaited whatever becomes of ctx: it is bounded by putTimeout.
	<-o.done
	if o.err != nil {
		return fmt.Errorf("spill object not known to be stored: %w", o.err)
	}
	return ctx.Err()
}

// join adds records to the open object, and closes it where it is large enough.
func (s *Spool) join(records []Record) (*object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errors.New("the spool is closed")
	}
	if s.open == nil {
		o := &object{lanes: map[Lane]int64{}, done: make(chan struct{})}
		o.timer = time.AfterFunc(s.cfg.MaxLatency, func() { s.close(o) })
		s.open = o
		s.flying[o] = struct{}{}
	}
	o := s.open
	o.records = append(o.records, records...)
	for i := range records {
		n := records[i].size()
		o.bytes += n
		o.lanes[records[i].lane()] += int64(n)
	}
	if o.bytes >= s.cfg.MaxObjectBytes {
		s.send(o)
	}
	return o, nil
}

// close sends o if it is still open.
func (s *Spool) close(o *object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == o {
		s.send(o)
	}
}

// flush closes the open object and waits until nothing is on its way any more.
func (s *Spool) flush() {
	s.mu.Lock()
	if s.open != nil {
		s.send(s.open)
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// send is called with mu held. An object gets its name here: names are in the order in which objects were closed.
func (s *Spool) send(o *object) {
	o.timer.Stop()
	s.open = nil
	o.position = position(s.cfg.Gateway, s.now(), s.next.Add(1))
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		s.sent <- struct{}{}
		defer func() { <-s.sent }()
		o.err = s.upload(o)
		s.mu.Lock()
		delete(s.flying, o)
		s.mu.Unlock()
		close(o.done)
	}()
}

func (s *Spool) upload(o *object) error {
	var buf bytes.Buffer
	enc, err := newEncoder(&buf)
	if err != nil {
		return err
	}
	for _, r := range o.records {
		if err := enc.add(r); err != nil {
			return err
		}
	}
	if err := enc.close(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), putTimeout)
	defer cancel()
	// Its expiry tells other gateways that this one drains its objects itself.
	if err := s.lead(ctx, s.cfg.Gateway); err != nil {
		return fmt.Errorf("lease: %w", err)
	}
	lanes := shares(o.lanes, int64(buf.Len()))
	return s.write(ctx, s.own, withLanes(o.position, lanes), buf.Bytes(), lanes)
}

// write stores an object and takes it into the index.
func (s *Spool) write(ctx context.Context, x *index, name string, body []byte, lanes []share) error {
	if err := s.bucket.WriteAll(ctx, name, body, nil); err != nil {
		s.stale.Store(true) // perhaps it is there
		return err
	}
	p, _ := parse(name)
	e := &entry{name: name, position: p.position, at: p.at, bytes: int64(len(body))}
	if p.lanes != nil {
		e.lanes = lanes
	}
	x.add(e, lanes)
	return nil
}

// Close sends what is open, waits for it, and lets go of the bucket. What is in the store stays there for the next gateway.
func (s *Spool) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.flush()
	return s.bucket.Close()
}
