package icebergexporter

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/iceberg-go/catalog"
	"github.com/apache/iceberg-go/table"
	"github.com/google/uuid"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/columns"
)

// errShutdown answers calls that come, or have not been taken, when the exporter shuts down. Nothing of them is written.
var errShutdown = errors.New("the exporter is shutting down, retry")

// Backoff between tries at opening the table.
const (
	openBackoffFirst = 100 * time.Millisecond
	openBackoffMax   = 10 * time.Second
)

// sink writes one signal's table.
type sink struct {
	cfg   *Config
	model *columns.Table
	mem   memory.Allocator
	log   *zap.Logger
	tel   *telemetry

	openCatalog func(context.Context) (catalog.Catalog, error) // replaced by tests that inject faults
	onPoint     func(point string) error                       // set by tests: stops a commit "files-written" or "before-commit"
	onBatch     func(arrow.RecordBatch) error                  // set by tests: makes a batch one that cannot be written

	turns    *turns
	budget   *budget
	calls    chan *call    // to the committer, unbuffered: what is sent is in a group
	pressure chan struct{} // of 1: a call waits for memory, close the group
	held     []gap         // of the committer: calls for the next group, because the block before theirs has not come

	ctx     context.Context // of the committer; ends when Shutdown gives up waiting for it
	cancel  context.CancelFunc
	quit    chan struct{} // closed by Shutdown: commit the open group, then stop
	stopped chan struct{} // closed when the committer has returned
	tried   chan struct{} // closed after the first try at opening the table

	ready     atomic.Pointer[opened] // nil until the table is open
	openError atomic.Value           // error of the last try at opening, as openFailure

	mu       sync.Mutex
	host     component.Host         // guarded by mu; nil before Start
	status   componentstatus.Status // guarded by mu; what was last reported to the host
	started  bool                   // guarded by mu
	shutdown bool                   // guarded by mu
}

// opened is what an open table gives. It is immutable.
type opened struct {
	cat  catalog.Catalog
	uuid uuid.UUID // of the table; another one later means another table
	view *columns.IcebergView
}

type openFailure struct{ err error }

func newSink(cfg *Config, id component.ID, set component.TelemetrySettings, model *columns.Table, mem memory.Allocator) (*sink, error) {
	s := &sink{
		cfg: cfg, model: model, mem: mem, log: set.Logger, openCatalog: cfg.openCatalog,
		turns: newTurns(), calls: make(chan *call), pressure: make(chan struct{}, 1),
		status: componentstatus.StatusOK, // what the Collector takes a started component for
		quit:   make(chan struct{}), stopped: make(chan struct{}), tried: make(chan struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.budget = newBudget(cfg.MaxBufferedBytes, func() {
		select {
		case s.pressure <- struct{}{}:
		default:
		}
	})
	var err error
	s.tel, err = newTelemetry(id, set, s.name(), s.budget.bytes)
	return s, err
}

func (s *sink) name() string { return s.cfg.Namespace + "." + s.model.Name }

func (s *sink) id() table.Identifier { return table.Identifier{s.cfg.Namespace, s.model.Name} }

// start returns at once: the table is opened in the background and calls are given retryable errors until it is, so that a
// catalog that is down at start is no other case than one that goes down later.
func (s *sink) start(_ context.Context, host component.Host) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.host = host
	s.started = true
	go func() {
		if s.open() {
			s.run()
		} else {
			close(s.stopped)
		}
	}()
	return nil
}

// Shutdown commits the open group and stops. When ctx ends first, the commit in progress is broken off: its calls are given
// retryable errors, and the table's offsets tell whether it happened.
func (s *sink) stop(ctx context.Context) error {
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

// open tries to open the table until it succeeds or the sink stops.
func (s *sink) open() bool {
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

func (s *sink) tryOpen() error {
	ctx, cancel := context.WithTimeout(s.ctx, s.cfg.Commit.Timeout)
	defer cancel()
	go func() { // a catalog that hangs must not hold up the shutdown of a sink that has nothing to commit
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
	o, err := s.openTable(ctx, cat)
	if err != nil {
		if closer, ok := cat.(catalog.Closer); ok {
			err = errors.Join(err, closer.Close())
		}
		return err
	}
	s.ready.Store(o)
	return nil
}

func (s *sink) openTable(ctx context.Context, cat catalog.Catalog) (*opened, error) {
	tbl, err := s.cfg.ensure(ctx, cat, s.model)
	if err != nil {
		return nil, err
	}
	view, err := s.model.IcebergView(tbl.Schema())
	if err != nil {
		return nil, fmt.Errorf("table %s: %w", s.name(), err)
	}
	return &opened{cat: cat, uuid: tbl.Metadata().TableUUID(), view: view}, nil
}

// load loads the table for a commit.
func (s *sink) load(ctx context.Context) (*table.Table, error) {
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

// report tells the host when writing begins to fail, fails for good, or works again. Repetitions are not told.
func (s *sink) report(err error) {
	now := componentstatus.StatusOK
	switch {
	case errors.Is(err, errTableReplaced):
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
	componentstatus.ReportStatus(s.host, componentstatus.NewEvent(now, componentstatus.WithError(err)))
}

// consume returns when the rows that build makes are in a committed snapshot, or with the reason why that is not known. size is
// the data's size as protobuf, for the reservation of memory.
func (s *sink) consume(ctx context.Context, size int64, build func(*columns.Builder) error) error {
	if block.IntroductionOf(ctx) != nil {
		return nil // a receiver looks for stages that remember; this one does not
	}
	if err := s.awaitOpen(ctx); err != nil {
		return err
	}
	for {
		err := s.try(ctx, size, build)
		if err != errEarly { //nolint:errorlint // it is never wrapped
			return err
		}
	}
}

// errEarly sends a call back to wait for its turn: the block before it has not come, and others need the memory.
var errEarly = errors.New("the block before it has not come yet")

func (s *sink) try(ctx context.Context, size int64, build func(*columns.Builder) error) error {
	c := &call{ctx: ctx, bytes: size, arrived: time.Now(), done: make(chan error, 1)}
	c.block, c.hasBlock = block.FromContext(ctx)
	if c.hasBlock {
		if err := s.turns.await(ctx, s.quit, c.block); err != nil {
			return fmt.Errorf("table %s: %s: waiting for the block before it: %w", s.name(), c.origin(), err)
		}
	}
	if err := s.budget.acquire(ctx, c.bytes); err != nil {
		return fmt.Errorf("table %s: %s: waiting for memory: %w", s.name(), c.origin(), err)
	}
	if c.hasBlock {
		s.turns.advance(partitionOf(c.block), c.block.Next())
	}
	if err := s.fill(c, build); err != nil {
		s.budget.release(c.bytes)
		return err
	}
	if c.rows == 0 && !c.hasBlock {
		s.answer(c, nil)
		return nil
	}
	select {
	case s.calls <- c:
	case <-s.quit:
		s.answer(c, nil)
		return fmt.Errorf("table %s: %s: %w", s.name(), c.origin(), errShutdown)
	case <-ctx.Done():
		s.answer(c, nil)
		return fmt.Errorf("table %s: %s: waiting for the commit before: %w", s.name(), c.origin(), ctx.Err())
	}
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("table %s: %s: outcome unknown, the table's offsets tell on redelivery: %w", s.name(), c.origin(), ctx.Err())
	}
}

// awaitOpen waits for the first try at opening the table, and then answers by the last one.
func (s *sink) awaitOpen(ctx context.Context) error {
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

// fill builds the call's batch on the caller's goroutine, so that what is wrong with its data is its caller's error alone.
func (s *sink) fill(c *call, build func(*columns.Builder) error) error {
	b := columns.NewBuilder(s.mem, s.model)
	defer b.Release()
	if err := build(b); err != nil {
		s.tel.reject(s.ctx, int64(c.block.Events), reasonBuild)
		return consumererror.NewPermanent(fmt.Errorf("table %s: %s: events that cannot be made rows: %w", s.name(), c.origin(), err))
	}
	if b.Rows() == 0 {
		s.budget.add(-c.bytes)
		c.bytes = 0
		return nil
	}
	c.batch = b.NewRecordBatch()
	c.rows, c.oldest = c.batch.NumRows(), oldestIngest(c.batch)
	size := batchBytes(c.batch)
	s.budget.add(size - c.bytes)
	c.bytes = size
	return nil
}

// oldestIngest is the least ingest_time of a batch.
func oldestIngest(b arrow.RecordBatch) time.Time {
	col := b.Column(b.Schema().FieldIndices(ingestColumn)[0]).(*array.Timestamp)
	oldest := col.Value(0)
	for i := 1; i < col.Len(); i++ {
		oldest = min(oldest, col.Value(i))
	}
	return oldest.ToTime(col.DataType().(*arrow.TimestampType).Unit)
}

// batchBytes is the memory that a batch holds.
func batchBytes(b arrow.RecordBatch) (n int64) {
	for _, col := range b.Columns() {
		n += dataBytes(col.Data())
	}
	return n
}

func dataBytes(d arrow.ArrayData) (n int64) {
	for _, buf := range d.Buffers() {
		if buf != nil {
			n += int64(buf.Cap())
		}
	}
	for _, child := range d.Children() {
		n += dataBytes(child)
	}
	if d.DataType().ID() == arrow.DICTIONARY {
		n += dataBytes(d.Dictionary())
	}
	return n
}
