package icebergexporter

import (
	"context"
	"sync"

	"github.com/pulsegrid/pulsegrid/internal/block"
)

// turns lets the calls of a partition take memory in the order of their blocks. A call whose predecessor has not been let in waits
// here, holding nothing, so that what it would hold can never be what its predecessor waits for.
//
// A call is let in when its block is the least that the group has not finished (block.Oldest), or when the call before it has been.
// That is a matter of memory only: what the table takes, and in which order, is decided by the table's own offsets (makePlan).
type turns struct {
	mu    sync.Mutex
	parts map[partition]*turn // guarded by mu; one of each partition that was ever written here
}

// turn is the state of one partition until it changes. It is immutable.
type turn struct {
	next    int64         // the offset up to which calls have been let in
	lacking *lack         // what the table was found to lack, until a call is let in
	changed chan struct{} // closed when another turn has followed
}

// lack is what a table was found to lack: everything from resume.Next on, though a block's Oldest was beyond it.
type lack struct {
	resume *block.ResumeError
	oldest int64
}

func newTurns() *turns { return &turns{parts: map[partition]*turn{}} }

func (t *turns) of(part partition) *turn {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.parts[part] == nil {
		t.parts[part] = &turn{changed: make(chan struct{})}
	}
	return t.parts[part]
}

// await returns when the block may be let in, with ctx's error, or with a ResumeError that says what the table lacks before it.
func (t *turns) await(ctx context.Context, quit <-chan struct{}, b block.Block) error {
	if b.First <= b.Oldest {
		return nil
	}
	for {
		turn := t.of(partitionOf(b))
		switch l := turn.lacking; {
		case b.First <= turn.next:
			return nil
		case l != nil && l.resume.Next < b.Oldest && b.Oldest <= l.oldest: // a greater one is of a time when this was mended
			return l.resume
		}
		select {
		case <-turn.changed:
		case <-quit:
			return errShutdown
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// advance says that calls up to next are let in, or that the table holds what is before next.
func (t *turns) advance(part partition, next int64) {
	t.change(part, func(n *turn) bool {
		if next <= n.next {
			return false
		}
		n.next, n.lacking = next, nil
		return true
	})
}

// takeBack says that the calls from next on, though let in, have to wait again: the one at next is missing. lacking, if not nil, says that
// the group takes it for stored.
func (t *turns) takeBack(part partition, next int64, lacking *lack) {
	t.change(part, func(n *turn) bool {
		n.next, n.lacking = next, lacking
		return true
	})
}

func (t *turns) change(part partition, edit func(*turn) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.parts[part]
	if old == nil {
		old = &turn{changed: make(chan struct{})}
	}
	next := *old
	if !edit(&next) {
		return
	}
	next.changed = make(chan struct{})
	t.parts[part] = &next
	close(old.changed)
}
