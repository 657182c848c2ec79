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

// turn is the state of one partition. It is immutable but for lacking, which is set before woken is closed; a newer turn follows it.
type turn struct {
	next    int64              // the offset up to which calls have been let in
	lacking *block.ResumeError // why the turn ended: the table lacks what is before this
	woken   chan struct{}      // closed when another turn has followed
}

func newTurns() *turns { return &turns{parts: map[partition]*turn{}} }

func (t *turns) of(part partition) *turn {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.parts[part] == nil {
		t.parts[part] = &turn{woken: make(chan struct{})}
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
		if b.First <= turn.next {
			return nil
		}
		select {
		case <-turn.woken:
			if turn.lacking != nil && turn.lacking.Next < b.Oldest {
				return turn.lacking
			}
		case <-quit:
			return errShutdown
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// advance says that calls up to next are let in, or that the table holds what is before next.
func (t *turns) advance(part partition, next int64) {
	if now := t.of(part); next > now.next {
		t.change(part, func(n *turn) { n.next = max(n.next, next) }, nil)
	}
}

// takeBack says that the calls from next on, though let in, have to wait again: the one at next failed. Where the table lacks even what
// the group takes for finished, lacking says so to those who wait.
func (t *turns) takeBack(part partition, next int64, lacking *block.ResumeError) {
	t.change(part, func(n *turn) { n.next = next }, lacking)
}

func (t *turns) change(part partition, edit func(*turn), lacking *block.ResumeError) {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := &turn{woken: make(chan struct{})}
	if old := t.parts[part]; old != nil {
		next.next = old.next
		old.lacking = lacking
		defer close(old.woken)
	}
	edit(next)
	t.parts[part] = next
}
