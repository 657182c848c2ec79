package clickhouseexporter

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/apache/arrow-go/v18/arrow/ipc"

	"github.com/pulsegrid/pulsegrid/internal/ledger"
)

// ledgerWriter inserts entries of blocks whose rows are stored. An insert of one entry costs ClickHouse as much as one of a hundred,
// so entries that arrive while an insert runs wait and go together with the next.
type ledgerWriter struct {
	insert func(context.Context, []ledger.Entry) error
	life   context.Context // ends with Shutdown
	most   time.Duration   // of one insert

	turn chan struct{} // capacity 1; full while an insert runs

	mu   sync.Mutex
	open *ledgerGroup // entries that wait for the turn; nil: none
}

// ledgerGroup are entries of one insert. entries is guarded by the writer's mu until somebody has taken the group out of open.
type ledgerGroup struct {
	entries []ledger.Entry
	done    chan struct{} // closed when err is set
	err     error
}

func newLedgerWriter(life context.Context, most time.Duration, insert func(context.Context, []ledger.Entry) error) *ledgerWriter {
	return &ledgerWriter{insert: insert, life: life, most: most, turn: make(chan struct{}, 1)}
}

// write returns nil when all entries are in the table. A caller that gives up may leave its entries to the group: what they say is true.
func (w *ledgerWriter) write(ctx context.Context, entries []ledger.Entry) error {
	w.mu.Lock()
	g := w.open
	if g == nil {
		g = &ledgerGroup{done: make(chan struct{})}
		w.open = g
	}
	g.entries = append(g.entries, entries...)
	w.mu.Unlock()

	select {
	case w.turn <- struct{}{}:
		w.lead(g)
	case <-g.done:
	case <-ctx.Done():
	}
	select {
	case <-g.done:
		return g.err
	case <-ctx.Done():
		return &storeError{class: unknown, code: codeOther, cause: fmt.Errorf("waiting for the ledger: %w", context.Cause(ctx))}
	}
}

// lead inserts g, unless another of its callers has, and gives the turn back. The insert is everybody's in the group, so it does not
// end with the caller that happened to lead.
func (w *ledgerWriter) lead(g *ledgerGroup) {
	w.mu.Lock()
	mine := w.open == g
	if mine {
		w.open = nil
	}
	w.mu.Unlock()
	if !mine {
		<-w.turn
		return
	}
	go func() {
		defer func() { <-w.turn }()
		ctx, cancel := context.WithTimeout(w.life, w.most)
		defer cancel()
		g.err = w.insert(ctx, g.entries)
		close(g.done)
	}()
}

// wait returns when no insert runs any more and none will, since life has ended.
func (w *ledgerWriter) wait(ctx context.Context) error {
	select {
	case w.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("an insert into the ledger still runs: %w", ctx.Err())
	}
}

// insertEntries is one INSERT into the ledger. An entry that is written twice is the same entry (ReplacingMergeTree).
func (e *chExporter) insertEntries(ctx context.Context, entries []ledger.Entry) error {
	begun := time.Now()
	rec := ledger.NewRecordBatch(e.mem, entries)
	defer rec.Release()
	var payload sliceWriter
	w := ipc.NewWriter(&payload, ipc.WithSchema(rec.Schema()), ipc.WithAllocator(e.mem))
	if err := errors.Join(w.Write(rec), w.Close()); err != nil {
		return &storeError{class: unknown, code: codeBuild, cause: fmt.Errorf("encode the entries: %w", err)}
	}
	err := e.onGoodTables(ctx, func() error {
		settings := map[string]string{"async_insert": "0"}
		e.cfg.quorum(settings)
		return e.client.insert(ctx, settings, newBody(e.ledgerInsert, payload))
	})
	e.tel.ledgerWritten(len(entries), time.Since(begun), err)
	var se *storeError
	if errors.As(err, &se) && se.class == permanent {
		// What the ledger refuses is no fault of the rows, which are stored.
		err = &storeError{class: unknown, code: se.code, hint: "the ledger refuses its entries: look at the table " + e.cfg.ledgerName(), cause: se.cause}
	}
	return err
}
