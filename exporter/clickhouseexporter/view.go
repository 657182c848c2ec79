package clickhouseexporter

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
)

// views are what the exporter knows of the partitions that it has been given blocks of.
type views struct {
	mu    sync.Mutex
	parts map[viewKey]*view // guarded by mu; views stay
}

type viewKey struct {
	topic     string
	topicID   block.TopicID
	partition int32
}

// view is what ClickHouse was seen to hold of a partition, for one worker of the receiver (block.Block.Worker). Within a worker's life
// blocks tile, so what was found when it began stays true of what lies behind: after the first look a block costs no query.
type view struct {
	turn chan struct{} // never changes. Capacity 1; holding it guards seen, queries included: blocks of a partition share what one of them looks up
	seen
}

// seen is all of a view that another worker finds anew.
type seen struct {
	looked  bool
	at      time.Time // of the last look
	worker  uint64    // that it is for
	trouble uint64    // chExporter.trouble before the last look

	// clear is the first offset from which nothing was stored when the worker began. Blocks behind it are this worker's own.
	clear int64
	// unseen: the table has not been asked yet what it holds behind the ledger.
	unseen bool
	ledger ledgerPage
	table  tablePage
	// uncertain are this worker's blocks that may be stored although their calls failed.
	uncertain map[extent]struct{}
}

// ledgerPage are all entries that overlap the offsets [from, upto), in order.
type ledgerPage struct {
	from, upto int64 // upto 0: there is no page
	entries    []entryRow
}

// has tells whether the page answers for x.
func (p *ledgerPage) has(x extent) bool { return p.from <= x.first && x.last < p.upto }

// in are the entries that overlap x.
func (p *ledgerPage) in(x extent) (out []entryRow) {
	for _, e := range p.entries {
		if e.First <= x.last && e.Last >= x.first {
			out = append(out, e)
		}
	}
	return out
}

// enter waits for the view of b's partition, which the caller leaves.
func (vs *views) enter(ctx context.Context, b block.Block) (*view, error) {
	key := viewKey{b.Topic, b.TopicID, b.Partition}
	vs.mu.Lock()
	v := vs.parts[key]
	if v == nil {
		v = &view{turn: make(chan struct{}, 1)}
		if vs.parts == nil {
			vs.parts = map[viewKey]*view{}
		}
		vs.parts[key] = v
	}
	vs.mu.Unlock()
	select {
	case v.turn <- struct{}{}:
		return v, nil
	case <-ctx.Done():
		return nil, &storeError{class: retryable, code: codeOther, cause: fmt.Errorf("waiting for a look at the partition: %w", context.Cause(ctx))}
	}
}

func (v *view) leave() { <-v.turn }

// add tells the view of entries that have been written since it looked.
func (v *view) add(entries []ledger.Entry) {
	for _, e := range entries {
		if v.ledger.upto == 0 || e.Last < v.ledger.from || e.First >= v.ledger.upto {
			continue
		}
		row := entryRow{First: e.First, Last: e.Last}
		i, found := slices.BinarySearchFunc(v.ledger.entries, row, compareEntries)
		if !found {
			v.ledger.entries = slices.Insert(v.ledger.entries, i, row)
		}
	}
}

// ended notes how a call with b ended: nil, or a failure after which it may be stored.
func (v *view) ended(b block.Block, err error) {
	for x := range v.uncertain {
		if x.last < b.Oldest {
			delete(v.uncertain, x)
		}
	}
	switch x := extentOf(b); {
	case err == nil:
		delete(v.uncertain, x)
	case v.worker == b.Worker:
		v.table = tablePage{}
		if v.uncertain == nil {
			v.uncertain = map[extent]struct{}{}
		}
		v.uncertain[x] = struct{}{}
	}
}

// mayHoldPartsOf tells whether an earlier try of b, or of what it was cut from before, may have stored it.
func (v *view) mayHoldPartsOf(b block.Block) bool {
	_, uncertain := v.uncertain[extentOf(b)]
	return uncertain || b.Redo || b.First < v.clear
}
