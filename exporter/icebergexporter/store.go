package icebergexporter

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/catalog"
	"github.com/apache/iceberg-go/table"
	"github.com/google/uuid"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/failpoint"
)

// Backoff between tries at opening the table.
const (
	openBackoffFirst = 100 * time.Millisecond
	openBackoffMax   = 10 * time.Second
)

// store is one table that groups of calls are committed to, a signal's or the ledger, and the lifecycle of its committer: a goroutine
// that opens the table and then commits group after group. Nobody else commits offsets to the table in this process.
type store struct {
	cfg   *Config
	table string // without the namespace
	log   *zap.Logger
	tel   *telemetry

	openCatalog func(context.Context) (catalog.Catalog, error)               // replaced by tests that inject faults
	ensure      func(context.Context, catalog.Catalog) (*table.Table, error) // opens the table, or creates it
	points      points                                                       // names of the points below, for failpoint.Hit
	onPoint     func(point string) error                                     // set by tests: stops an attempt at a point

	schema    *iceberg.Schema     // columns that are written
	refused   map[partition]error // of the committer: partitions whose blocks are refused, and why
	announced map[partition]bool  // of the committer: topics made anew that were told of

	ctx     context.Context // of the committer; ends when Shutdown gives up waiting for it
	cancel  context.CancelFunc
	quit    chan struct{} // closed by Shutdown: commit what is there, then stop
	stopped chan struct{} // closed when the committer has returned
	tried   chan struct{} // closed after the first try at opening the table

	ready     atomic.Pointer[opened] // nil until the table is open
	openError atomic.Value           // error of the last try at opening, as openFailure

	mu       sync.Mutex
	inUse    map[string]bool        // guarded by mu; ids of the files of the group that is being committed
	hosts    []component.Host       // guarded by mu; one of each component that writes here
	status   componentstatus.Status // guarded by mu; what was last reported to the hosts
	started  bool                   // guarded by mu
	shutdown bool                   // guarded by mu
}

// points are where fault tests stop the process: before the files of a group are written, after it, before the commit, after it.
type points struct{ writing, written, committing, committed string }

// opened is what an open table gives. It is immutable.
type opened struct {
	cat  catalog.Catalog
	uuid uuid.UUID // of the table; another one later means another table
}

type openFailure struct{ err error }

func newStore(cfg *Config, name string, log *zap.Logger, tel *telemetry) *store {
	s := &store{
		cfg: cfg, table: name, log: log, tel: tel, openCatalog: cfg.openCatalog, inUse: map[string]bool{},
		refused: map[partition]error{}, announced: map[partition]bool{},
		status: componentstatus.StatusOK, // what the Collector takes a started component for
		quit:   make(chan struct{}), stopped: make(chan struct{}), tried: make(chan struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

func (s *store) name() string { return s.cfg.Namespace + "." + s.table }

func (s *store) id() table.Identifier { return table.Identifier{s.cfg.Namespace, s.table} }

// start returns at once: the table is opened in the background and calls are given retryable errors until it is, so that a catalog
// that is down at start is no other case than one that goes down later. run is the committer.
func (s *store) start(host component.Host, run func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hosts = append(s.hosts, host)
	if s.started {
		return
	}
	s.started = true
	go func() {
		defer close(s.stopped)
		if !s.open() {
			return
		}
		ctx, cancel := context.WithCancel(s.ctx)
		var sweeper sync.WaitGroup
		sweeper.Go(func() { s.sweepEvery(ctx) })
		run()
		cancel()
		sweeper.Wait()
	}()
}

// stop commits what is there and stops. When ctx ends first, the commit in progress is broken off: its calls are given retryable
// errors, and the table's offsets tell whether it happened.
func (s *store) stop(ctx context.Context) error {
	s.mu.Lock()
	first, started := !s.shutdown, s.started
	s.shutdown = true
	s.mu.Unlock()
	if !first {
		return nil
	}
	close(s.quit)
	defer s.tel.meta.Shutdown()
	if !started {
		s.cancel()
		return nil
	}
	var err error
	select {
	case <-s.stopped:
	case <-ctx.Done():
		s.cancel()
		select {
		case <-s.stopped:
		case <-time.After(cleanupTimeout + time.Second): // its clean-up is bounded; a library that ignores its context is not
		}
		err = fmt.Errorf("table %s: the last commit was broken off, its outcome is in the table's offsets: %w", s.name(), context.Cause(ctx))
	}
	s.cancel()
	if o := s.ready.Load(); o != nil {
		if closer, ok := o.cat.(catalog.Closer); ok {
			err = errors.Join(err, closer.Close())
		}
	}
	return err
}

// open tries to open the table until it succeeds or the store stops.
func (s *store) open() bool {
	wait := openBackoffFirst
	for attempt := 1; ; attempt++ {
		err := s.tryOpen()
		if err != nil {
			s.openError.Store(openFailure{err})
		}
		if attempt == 1 {
			close(s.tried)
		}
		s.report(err)
		if err == nil {
			return true
		}
		t := time.NewTimer(wait)
		wait = min(2*wait, openBackoffMax)
		select {
		case <-t.C:
		case <-s.quit:
			t.Stop()
			return false
		}
	}
}

func (s *store) tryOpen() error {
	ctx, cancel := context.WithTimeout(s.ctx, s.cfg.Commit.Timeout)
	defer cancel()
	go func() { // a catalog that hangs must not hold up the shutdown of a store that has nothing to commit
		select {
		case <-s.quit:
			cancel()
		case <-ctx.Done():
		}
	}()
	cat, err := s.openCatalog(ctx)
	if err != nil {
		return err
	}
	tbl, err := s.ensure(ctx, cat)
	if err == nil {
		err = s.check(tbl)
	}
	if err != nil {
		if closer, ok := cat.(catalog.Closer); ok {
			err = errors.Join(err, closer.Close())
		}
		return err
	}
	s.ready.Store(&opened{cat: cat, uuid: tbl.Metadata().TableUUID()})
	return nil
}

// awaitOpen waits for the first try at opening the table, and then answers by the last one.
func (s *store) awaitOpen(ctx context.Context) error {
	select {
	case <-s.quit:
		return fmt.Errorf("table %s: %w", s.name(), errShutdown)
	default:
	}
	select {
	case <-s.tried:
	case <-s.quit:
		return fmt.Errorf("table %s: %w", s.name(), errShutdown)
	case <-ctx.Done():
		return fmt.Errorf("table %s: %w, retry: %w", s.name(), errNotReady, ctx.Err())
	}
	if s.ready.Load() != nil {
		return nil
	}
	failure, _ := s.openError.Load().(openFailure)
	return fmt.Errorf("table %s: %w, retry: %w", s.name(), errNotReady, failure.err)
}

// load loads the table for a commit.
func (s *store) load(ctx context.Context) (*table.Table, error) {
	o := s.ready.Load()
	tbl, err := o.cat.LoadTable(ctx, s.id())
	if err != nil {
		return nil, fmt.Errorf("loading the table: %w", err)
	}
	if tbl.Metadata().TableUUID() != o.uuid {
		return nil, errTableReplaced
	}
	return tbl, nil
}

// report tells the hosts when writing begins to fail, fails for good, or works again. Repetitions are not told.
func (s *store) report(err error) {
	now := componentstatus.StatusOK
	switch {
	case needsOperator(err):
		now = componentstatus.StatusPermanentError
	case err != nil:
		now = componentstatus.StatusRecoverableError
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status == now {
		return
	}
	s.status = now
	if now == componentstatus.StatusPermanentError {
		s.log.Error("nothing is written any more", zap.String("table", s.name()), zap.Error(err))
	}
	for _, host := range s.hosts {
		componentstatus.ReportStatus(host, componentstatus.NewEvent(now, componentstatus.WithError(err)))
	}
}

// describe says in one call's error what failed, for which block, and what to do about it.
func (s *store) describe(c *call, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("table %s: %s: not known to be committed, retry: %w", s.name(), c.origin(), err)
}

// point is passed between two steps of a commit: fault tests stop the process, or the attempt, there.
func (s *store) point(name string) error {
	failpoint.Hit(name)
	if s.onPoint == nil {
		return nil
	}
	return s.onPoint(name)
}
