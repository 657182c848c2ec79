package icebergexporter

import (
	"context"
	"sync"
)

// budget bounds the bytes that calls hold. One acquisition larger than the bound is let in when nothing else is held.
type budget struct {
	max     int64
	squeeze func() // called, without the lock, whenever an acquisition has to wait

	mu      sync.Mutex
	held    int64         // guarded by mu
	waiting int           // guarded by mu
	freed   chan struct{} // guarded by mu; closed and replaced at every release
}

func newBudget(limit int64, squeeze func()) *budget {
	return &budget{max: limit, squeeze: squeeze, freed: make(chan struct{})}
}

// acquire waits until n bytes are free, or ctx ends.
func (b *budget) acquire(ctx context.Context, n int64) error {
	for {
		b.mu.Lock()
		if b.held == 0 || b.held+n <= b.max {
			b.held += n
			b.mu.Unlock()
			return nil
		}
		b.waiting++
		freed := b.freed
		b.mu.Unlock()
		b.squeeze()
		select {
		case <-freed:
		case <-ctx.Done():
		}
		b.mu.Lock()
		b.waiting--
		b.mu.Unlock()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// add takes n more bytes (or, negative, gives some back) without waiting: an estimate turned out differently.
func (b *budget) add(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held += n
	if n < 0 {
		close(b.freed)
		b.freed = make(chan struct{})
	}
}

func (b *budget) release(n int64) { b.add(-n) }

func (b *budget) isWaitedFor() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.waiting > 0
}

func (b *budget) bytes() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.held
}
