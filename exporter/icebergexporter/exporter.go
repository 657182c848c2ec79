package icebergexporter

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/iceberg-go/catalog"
	"github.com/apache/iceberg-go/table"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer/consumererror"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
)

// errShutdown answers calls that come, or have not been taken, when the exporter shuts down. Nothing of them is written.
var errShutdown = errors.New("the exporter is shutting down, retry")

// sink writes one signal's table: the first stage of a call. The ledger is the second.
type sink struct {
	*store
	model  *columns.Table
	mem    memory.Allocator
	ledger *ledgerStore // nil before start; shared by the signals of a component
	left   atomic.Bool  // the ledger

	joinLedger func() (*ledgerStore, error)  // replaced by tests that inject faults
	onBatch    func(arrow.RecordBatch) error // set by tests: makes a batch one that cannot be written

	turns    *turns
	budget   *budget
	calls    chan *call    // to the committer, unbuffered: what is sent is in a group
	pressure chan struct{} // of 1: a call waits for memory, close the group
	held     []gap         // of the committer: calls for the next group, because the block before theirs has not come
}

// Points of a sink, as failpoint.Hit knows them.
var sinkPoints = points{writing: "iceberg-writing", written: "iceberg-written", committing: "iceberg-committing", committed: "iceberg-committed"}

func newSink(cfg *Config, id component.ID, set component.TelemetrySettings, model *columns.Table, mem memory.Allocator) (*sink, error) {
	s := &sink{model: model, mem: mem, turns: newTurns(), calls: make(chan *call), pressure: make(chan struct{}, 1)}
	s.budget = newBudget(cfg.MaxBufferedBytes, func() {
		select {
		case s.pressure <- struct{}{}:
		default:
		}
	})
	tel, err := newTelemetry(id, set, cfg.Namespace+"."+model.Name, s.budget.bytes)
	if err != nil {
		return nil, err
	}
	s.store = newStore(cfg, model.Name, set.Logger, tel)
	s.points, s.schema = sinkPoints, model.IcebergSchema()
	s.ensure = func(ctx context.Context, cat catalog.Catalog) (*table.Table, error) {
		return s.cfg.ensure(ctx, cat, s.model)
	}
	s.joinLedger = func() (*ledgerStore, error) { return ledgers.join(cfg, id, set, mem) }
	return s, nil
}

func (s *sink) start(_ context.Context, host component.Host) (err error) {
	if s.ledger, err = s.joinLedger(); err != nil {
		return err
	}
	s.ledger.start(host, s.ledger.run)
	s.store.start(host, s.run)
	return nil
}

// stop stops the sink, and the ledger with the last sink that uses it: what the sink has committed still gets its entries.
func (s *sink) stop(ctx context.Context) error {
	err := s.store.stop(ctx)
	if s.ledger != nil && s.left.CompareAndSwap(false, true) {
		err = errors.Join(err, ledgers.leave(ctx, s.ledger))
	}
	return err
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
	if _, ok := block.FromContext(ctx); ok {
		if err := s.ledger.awaitOpen(ctx); err != nil { // rows without an entry would only be redelivered
			return err
		}
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

// fill builds the call's batch on the caller's goroutine, so that what is wrong with its data is its caller's error alone.
func (s *sink) fill(c *call, build func(*columns.Builder) error) error {
	b := columns.NewBuilder(s.mem, s.model)
	defer b.Release()
	if err := build(b); err != nil {
		s.tel.reject(s.ctx, int64(c.block.Events), reasonBuild)
		return consumererror.NewPermanent(fmt.Errorf("table %s: %s: events that cannot be made rows: %w", s.name(), c.origin(), err))
	}
	if b.Rows() == 0 {
		s.budget.release(c.bytes)
		c.bytes = 0
		c.entry = ledger.Of(c.block, 0, 0, time.Now())
		return nil
	}
	c.batch = b.NewRecordBatch()
	c.rows, c.oldest = c.batch.NumRows(), oldestIngest(c.batch)
	size := batchBytes(c.batch)
	s.budget.add(size - c.bytes)
	c.bytes = size
	c.entry = ledger.Of(c.block, c.rows, idSum(c.batch), time.Now())
	return nil
}

// idSum is the ledger's sum over a batch's event ids.
func idSum(b arrow.RecordBatch) (sum uint64) {
	col := b.Column(b.Schema().FieldIndices(idColumn)[0]).(*array.FixedSizeBinary)
	for i := range col.Len() {
		sum += ledger.IDSum(col.Value(i))
	}
	return sum
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
