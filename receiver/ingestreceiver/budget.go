package ingestreceiver

import (
	"errors"
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
	if tenant == "" {
		return b.fits(n)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	held := b.tenants[tenant] + n
	if held > b.share || !b.fits(n) { // in this order: what is beyond a tenant's share must not even for a moment be in the others' way
		return false
	}
	b.tenants[tenant] = held
	return true
}

// fits takes n more bytes of all, or none of them.
func (b *budget) fits(n int64) bool {
	if b.used.Add(n) > b.limit {
		b.used.Add(-n)
		return false
	}
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
	of      *budget
	tenant  string // whose share it is of; empty: of nobody's, since anybody could name any tenant
	held    int64
	missing int64 // bytes that grow was asked for last in vain
	// onRelease, if not nil, is called when the request is done with.
	onRelease func()
}

// grow takes n more bytes, or none of them.
func (r *reservation) grow(n int) bool {
	if !r.of.take(r.tenant, int64(n)) {
		r.missing = int64(n)
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
	if done := r.onRelease; done != nil {
		r.onRelease = nil
		done()
	}
}

// explain says more of an error that is refusedMemory.
func (r *reservation) explain(err error) error {
	if why, ok := errors.AsType[*refusal](err); ok && why == refusedMemory {
		return r.noRoom()
	}
	return err
}

// noRoom is the refusal of what grow was asked for in vain. Meanwhile others may have given back or taken more.
func (r *reservation) noRoom() *refusal {
	r.of.mu.Lock()
	ofTenant := r.of.tenants[r.tenant]
	r.of.mu.Unlock()
	if r.tenant != "" && ofTenant+r.missing > r.of.share {
		return refusedMemory.because("requests in flight of tenant %q hold %d bytes and this one needs %d more, at most %d are allowed (max_tenant_share): send it again later",
			r.tenant, ofTenant, r.missing, r.of.share)
	}
	return refusedMemory.because("requests in flight hold %d bytes and this one needs %d more, at most %d are allowed (max_in_flight_bytes): send it again later",
		r.of.used.Load(), r.missing, r.of.limit)
}
