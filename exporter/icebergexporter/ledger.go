package icebergexporter

import (
	"context"
	"sync"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"
	"go.opentelemetry.io/collector/component"

	"github.com/pulsegrid/pulsegrid/internal/ledger"
)

// ledgerStore is the second stage of a call: once the table of the signal has the rows of a block, the ledger gets the block's entry,
// and only then the call is answered. It is shared by the signals of a component, so that a process is one writer of the ledger
// however many signals it has, and what gathers while one commit is made goes into the next.
//
// The ledger keeps offsets of its own, by the same rules as a signal's table (makePlan). After a crash between the two commits the
// redelivered block is found in the table and missing in the ledger, and its entry, which was made of all of the block's rows, is
// written then. A ledger that is behind (restored, rolled back) sends receivers back like a table that is, so what is resumed from
// is the lesser of the two.
type ledgerStore struct {
	*store
	mem    memory.Allocator
	shared *Config // key in ledgers
	users  int     // guarded by ledgers.mu

	waiting sync.Mutex
	queue   []*call       // guarded by waiting; bounded by the calls that receivers have under way
	came    chan struct{} // of 1: something is in the queue
	held    []gap         // of the committer: entries for the next group, because the block before theirs has not come
}

// Points of the ledger, as failpoint.Hit knows them.
var ledgerPoints = points{
	writing: "iceberg-ledger-writing", written: "iceberg-ledger-written",
	committing: "iceberg-ledger-committing", committed: "iceberg-ledgered",
}

// ledgers are those of the process's components: the exporters that a component has for its signals share a Config.
var ledgers = sharedLedgers{of: map[*Config]*ledgerStore{}}

type sharedLedgers struct {
	mu sync.Mutex
	of map[*Config]*ledgerStore // guarded by mu
}

func (s *sharedLedgers) join(cfg *Config, id component.ID, set component.TelemetrySettings, mem memory.Allocator) (*ledgerStore, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.of[cfg]
	if l == nil {
		tel, err := newTelemetry(id, set, cfg.Namespace+"."+cfg.ledgerName(), nil)
		if err != nil {
			return nil, err
		}
		l = &ledgerStore{store: newStore(cfg, cfg.ledgerName(), set.Logger, tel), mem: mem, shared: cfg, came: make(chan struct{}, 1)}
		l.points, l.schema = ledgerPoints, ledger.IcebergSchema()
		l.ensure = cfg.ensureLedger
		s.of[cfg] = l
	}
	l.users++
	return l, nil
}

// leave stops the ledger when its last user leaves.
func (s *sharedLedgers) leave(ctx context.Context, l *ledgerStore) error {
	s.mu.Lock()
	l.users--
	last := l.users == 0
	if last {
		delete(s.of, l.shared)
	}
	s.mu.Unlock()
	if !last {
		return nil
	}
	return l.stop(ctx)
}

// add takes calls whose rows are in their table. It does not wait.
func (l *ledgerStore) add(c *call) {
	l.waiting.Lock()
	l.queue = append(l.queue, c)
	l.waiting.Unlock()
	select {
	case l.came <- struct{}{}:
	default:
	}
}

func (l *ledgerStore) take() []*call {
	l.waiting.Lock()
	defer l.waiting.Unlock()
	g := l.queue
	l.queue = nil
	return g
}

// run commits the entries that have gathered, again and again, until the last user has left and the queue is empty. Entries are written
// even if their callers have left: the rows are in the table.
func (l *ledgerStore) run() {
	for {
		select {
		case <-l.came:
		case <-l.quit:
			if l.commitWaiting() {
				continue
			}
			for _, g := range l.held {
				g.call.done <- l.describe(g.call, errShutdown)
			}
			return
		}
		l.commitWaiting()
	}
}

func (l *ledgerStore) commitWaiting() bool {
	g := l.take()
	if len(g) == 0 {
		return false
	}
	for _, h := range l.held {
		if err := context.Cause(h.call.ctx); err != nil { // the block before it did not come while its caller waited
			h.call.done <- l.describe(h.call, err)
			continue
		}
		g = append(g, h.call)
	}
	l.held = nil
	l.commitGroup(l, g)
	return true
}

func (l *ledgerStore) plan(have book, calls []*call) plan { return makePlan(have, calls, ledgerRules) }

// mayHold is false: entries that are written again are the same entries.
func (l *ledgerStore) mayHold(context.Context, *table.Table, partition) (bool, error) {
	return false, nil
}

func (l *ledgerStore) write(ctx context.Context, tbl *table.Table, p plan) ([]iceberg.DataFile, []refusal, error) {
	sc, err := table.SchemaToArrowSchema(tbl.Schema(), nil, true, false)
	if err != nil {
		return nil, nil, err
	}
	var entries []ledger.Entry
	for _, c := range p.write {
		entries = append(entries, c.call.entry)
	}
	b := ledger.NewIcebergBatch(l.mem, sc, entries)
	defer b.Release()
	files, err := l.writeParquet(ctx, tbl, sc, nil, func(yield func(arrow.RecordBatch, error) bool) {
		b.Retain() // the writer releases what it is handed
		yield(b, nil)
	})
	return files, nil, err
}

func (l *ledgerStore) pass(c *call, _ bool) { c.done <- nil }

func (l *ledgerStore) hold(g gap) { l.held = append(l.held, g) }

func (l *ledgerStore) sendBack(g gap, err error) { g.call.done <- err }

func (l *ledgerStore) refuse(c *call, err error) { c.done <- err }

func (l *ledgerStore) committed(_ []*call, files []iceberg.DataFile) {
	for _, f := range files {
		l.tel.entries.Add(l.ctx, f.Count(), l.tel.table)
	}
}
