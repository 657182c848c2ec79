package rig

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Misbehaviour is what a server does wrong.
type Misbehaviour int

// The misbehaviours.
const (
	Behaves          Misbehaviour = iota
	InternalError                 // 500, having done nothing
	SlowDown                      // 503 SlowDown, having done nothing; of an object store
	DoesButErrs                   // does the work, then answers 500
	DoesButConflicts              // does the work, then answers that another writer was first; of a catalog
	NeverAnswers                  // does the work, then keeps the client waiting until it gives up
	AnswersNothing                // does nothing, and keeps the client waiting until it gives up
)

// Faulty is an HTTP server that can fail as the store behind it does.
type Faulty struct {
	to     http.Handler
	writes func(*http.Request) bool                // which requests change something
	answer func(http.ResponseWriter, Misbehaviour) // the store's own words for InternalError, SlowDown and DoesButConflicts
	front  net.Listener
	server *http.Server

	mode       atomic.Int64 // a Misbehaviour
	writesOnly atomic.Bool  // misbehave only to writes
	share      atomic.Int64 // of a thousand requests that are treated so
	counter    atomic.Int64 // requests so far
	hurt       atomic.Int64 // requests that were not treated as they should be
	closing    chan struct{}
	once       sync.Once
}

func startFaulty(to http.Handler, writes func(*http.Request) bool, answer func(http.ResponseWriter, Misbehaviour)) (*Faulty, error) {
	f := &Faulty{to: to, writes: writes, answer: answer, closing: make(chan struct{})}
	var err error
	if f.front, err = net.Listen("tcp", FreeAddr()); err != nil {
		return nil, err
	}
	f.server = &http.Server{Handler: f, ReadHeaderTimeout: startTimeout}
	go func() { _ = f.server.Serve(f.front) }() // ends with close
	return f, nil
}

// Misbehave makes the server treat a share (0 to 1) of its requests, or of its writes, that way, evenly spread.
func (f *Faulty) Misbehave(how Misbehaviour, share float64, writesOnly bool) {
	f.writesOnly.Store(writesOnly)
	f.share.Store(int64(share * 1000))
	f.mode.Store(int64(how))
}

// URL is where it listens: no link of the rig is before it.
func (f *Faulty) URL() string { return "http://" + f.front.Addr().String() }

// Hurt is how many requests it hit so far.
func (f *Faulty) Hurt() int64 { return f.hurt.Load() }

// Behave ends it, and tells how many requests it hit.
func (f *Faulty) Behave() int64 {
	f.mode.Store(int64(Behaves))
	return f.hurt.Swap(0)
}

func (f *Faulty) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	how := Misbehaviour(f.mode.Load())
	if how == Behaves || (f.writesOnly.Load() && !f.writes(r)) || !f.takesPart() {
		f.to.ServeHTTP(w, r)
		return
	}
	f.hurt.Add(1)
	switch how {
	case DoesButErrs, DoesButConflicts, NeverAnswers:
		lasting := r.WithContext(context.WithoutCancel(r.Context())) // work goes on when the client has given up
		f.to.ServeHTTP(discard{http.Header{}}, lasting)
	}
	switch how {
	case DoesButErrs:
		f.answer(w, InternalError)
	case NeverAnswers, AnswersNothing:
		f.hang(r.Context())
	default:
		f.answer(w, how)
	}
}

// takesPart counts a request and tells whether it is one of the share.
func (f *Faulty) takesPart() bool {
	n, share := f.counter.Add(1), f.share.Load()
	return n*share/1000 != (n-1)*share/1000
}

// hang waits for the client to give up, and then breaks the connection.
func (f *Faulty) hang(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-f.closing:
	case <-time.After(10 * time.Minute):
	}
	panic(http.ErrAbortHandler)
}

// discard is an answer that nobody gets.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) WriteHeader(int)             {}
func (d discard) Write(b []byte) (int, error) { return len(b), nil }

func (f *Faulty) close() error {
	var err error
	f.once.Do(func() {
		close(f.closing)
		err = f.server.Close()
	})
	return err
}
