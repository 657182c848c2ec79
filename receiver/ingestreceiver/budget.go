package ingestreceiver

import (
	"sync"
	"sync/atomic"
)

// budget is the memory, in bytes, that all requests in flight may hold together, and that those of one tenant may hold: a sender that uploads slowly keeps
// what it has reserved for as long as limits::read_timeout.
type budget struct {
	limit, share int64
	used         atomic.Int64
	mu           sync.Mutex
	tenants      map[string]int64 // guarded by mu: those that hold something
}

func newBudget(limit, share int64) *budget {
	return &budget{limit: limit, share: share, tenants: map[string]int64{}}
}

// take takes n more bytes, or none of them.
func (b *budget) take(tenant string, n int64) bool {
	if b.used.Add(n) > b.limit {
		b.used.Add(-n)
		return false
	}
	if tenant == "" {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	held := b.tenants[tenant] + n
	if held > b.share {
		b.used.Add(-n)
		return false
	}
	b.tenants[tenant] = held
	return true
}

func (b *budget) giveBack(tenant string, n int64) {
	b.used.Add(-n)
	if tenant == "" {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.tenants[tenant] -= n; b.tenants[tenant] == 0 {
		delete(b.tenants, tenant)
	}
}

// reservation is one request's part of the budget. It belongs to the goroutine that serves the request.
type reservation struct {
	of     *budget
	tenant string // whose share it is of; empty: of nobody's, since anybody could name any tenant
	held   int64
}

// grow takes n more bytes, or none of them.
func (r *reservation) grow(n int) bool {
	if !r.of.take(r.tenant, int64(n)) {
		return false
	}
	r.held += int64(n)
	return true
}

// most is what it can become when nobody else holds anything.
func (r *reservation) most() int64 {
	if r.tenant == "" {
		return r.of.limit
	}
	return r.of.share
}

func (r *reservation) release() {
	r.of.giveBack(r.tenant, r.held)
	r.held = 0
}
