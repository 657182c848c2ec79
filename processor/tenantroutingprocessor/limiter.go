package tenantroutingprocessor

import (
	"hash/maphash"
	"math"
	"sync"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

const (
	shards     = 64
	sweepEvery = time.Minute // of a shard's clock
	fastWindow = 1.0         // seconds of quota that an idle tenant may send at once in the fast lane
)

// limiter decides by quotas. Of each tenant, signal and dimension (events, bytes) it keeps two figures:
//
//   - fast: tokens, filled at the quota's rate up to one second's worth. A request that finds enough of them goes by the fast lane.
//   - over: what went into the overflow lane and is not drained yet, as an estimate. It drains at drain_share of the quota's rate. A request that
//     finds no tokens goes by the overflow lane as long as over stays within the quota's burst.
//
// A request larger than a whole bucket passes when the bucket is full (over: empty), and leaves it in debt, so that every request gets through in
// the end, and the rate holds.
//
// What fits neither is sent back, with the time at which it will fit: at the earliest when tokens are there or the overflow has drained, and behind
// all those that were sent back before it. Each of them is given the time after the one before, at the rate at which the tenant is served, so
// senders that obey come one after the other and not all at once.
//
// A gateway holds only its own figures: a fleet's quota reaches it as the share that the registry gives it.
type limiter struct {
	drainShare  float64
	undecodable float64 // bytes a second, of a tenant
	retryMax    time.Duration
	now         func() time.Time
	seed        maphash.Seed
	shard       [shards]shard
}

type shard struct {
	mu    sync.Mutex // guards what follows, buckets' fields included
	of    map[bucketKey]*bucket
	swept time.Time
}

type bucketKey struct {
	tenant      string
	signal      signal.Signal
	undecodable bool // of all signals
}

// Dimensions of a quota.
const (
	events = iota
	bytes
	dimensions
)

type amount [dimensions]float64

type bucket struct {
	quota tenant.Quota // by which the figures were made
	fast  amount       // tokens; negative: debt
	over  amount       // not drained yet
	at    time.Time    // of these figures
	slot  time.Time    // before which nobody who was sent back is asked to come
}

type lane uint8

const (
	laneFast lane = iota
	laneOverflow
	laneNone // sent back
)

func newLimiter(cfg *Config, now func() time.Time) *limiter {
	l := &limiter{drainShare: cfg.DrainShare, undecodable: float64(cfg.UndecodableBytesPerSecond), retryMax: cfg.RetryMax, now: now, seed: maphash.MakeSeed()}
	for i := range l.shard {
		l.shard[i].of = map[bucketKey]*bucket{}
	}
	return l
}

// take decides about a request. With laneNone nothing was taken, and the sender shall come again after the duration.
func (l *limiter) take(t *tenant.Tenant, s signal.Signal, nEvents, nBytes int) (lane, time.Duration) {
	return l.takeOf(bucketKey{tenant: t.ID, signal: s}, t.Quota(s), nEvents, nBytes)
}

// takeUndecodable decides whether a body that cannot be decoded is kept, by the quota that every tenant has for such bodies.
func (l *limiter) takeUndecodable(t *tenant.Tenant, nBytes int) (lane, time.Duration) {
	return l.takeOf(bucketKey{tenant: t.ID, undecodable: true}, tenant.Quota{BytesPerSecond: l.undecodable}, 0, nBytes)
}

func (l *limiter) takeOf(key bucketKey, q tenant.Quota, nEvents, nBytes int) (lane, time.Duration) {
	if !q.Limited() {
		return laneFast, 0
	}
	sh := &l.shard[maphash.String(l.seed, key.tenant)%shards]
	n := amount{float64(nEvents), float64(nBytes)}
	rates := amount{q.EventsPerSecond, q.BytesPerSecond}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	now := l.now()
	b, ok := sh.of[key]
	if !ok {
		b = &bucket{at: now}
		for d, rate := range rates {
			b.fast[d] = rate * fastWindow
		}
		sh.of[key] = b
	}
	l.advance(b, q, now)
	l.sweep(sh, now)
	fastWait, overWait := 0.0, 0.0
	for d, rate := range rates {
		if rate == 0 {
			continue
		}
		fastWait = max(fastWait, (min(n[d], rate*fastWindow)-b.fast[d])/rate)
		most := rate * q.Burst.Seconds()
		overWait = max(overWait, (b.over[d]+min(n[d], most)-most)/(rate*l.drainShare))
	}
	switch {
	case fastWait <= 0:
		for d := range n {
			b.fast[d] -= n[d]
		}
		return laneFast, 0
	case q.Burst > 0 && overWait <= 0:
		for d := range n {
			b.over[d] += n[d]
		}
		return laneOverflow, 0
	case q.Burst > 0:
		fastWait = min(fastWait, overWait)
	}
	return laneNone, l.sendBack(b, n, rates, now, fastWait)
}

// sendBack gives a request its place behind those that were sent back before it.
func (l *limiter) sendBack(b *bucket, n, rates amount, now time.Time, wait float64) time.Duration {
	last := now.Add(l.retryMax)
	at := now.Add(seconds(wait))
	if at.Before(b.slot) {
		at = b.slot
	}
	if at.After(last) {
		at = last
	}
	service := 0.0
	for d, rate := range rates {
		if rate > 0 {
			service = max(service, n[d]/(rate*(1+l.drainShare)))
		}
	}
	if b.slot = at.Add(seconds(service)); b.slot.After(last) {
		b.slot = last
	}
	return max(at.Sub(now), minRetry)
}

// seconds as a duration, of what may be more than one holds.
func seconds(s float64) time.Duration {
	return time.Duration(min(s, math.MaxInt32) * float64(time.Second))
}

// advance brings a bucket's figures to now and to the quota, which the registry may have changed.
func (l *limiter) advance(b *bucket, q tenant.Quota, now time.Time) {
	elapsed := now.Sub(b.at).Seconds()
	if elapsed < 0 {
		elapsed = 0
	} else {
		b.at = now
	}
	b.quota = q
	for d, rate := range (amount{q.EventsPerSecond, q.BytesPerSecond}) {
		if rate == 0 { // not limited, perhaps since now: a later limit finds a full bucket
			b.fast[d], b.over[d] = math.Inf(1), 0
			continue
		}
		b.fast[d] = min(rate*fastWindow, b.fast[d]+rate*elapsed)
		b.over[d] = max(0, b.over[d]-rate*l.drainShare*elapsed)
	}
}

// sweep forgets buckets that are as they were made, once in a while: those of idle tenants, and of tenants that are no more.
func (l *limiter) sweep(sh *shard, now time.Time) {
	if now.Sub(sh.swept) < sweepEvery {
		return
	}
	sh.swept = now
	for key, b := range sh.of {
		if b.at.Equal(now) {
			continue // in use
		}
		l.advance(b, b.quota, now)
		fresh := !now.Before(b.slot)
		for d, rate := range (amount{b.quota.EventsPerSecond, b.quota.BytesPerSecond}) {
			fresh = fresh && b.over[d] == 0 && (rate == 0 || b.fast[d] == rate*fastWindow)
		}
		if fresh {
			delete(sh.of, key)
		}
	}
}

// buckets is how many are kept.
func (l *limiter) buckets() int64 {
	n := 0
	for i := range l.shard {
		sh := &l.shard[i]
		sh.mu.Lock()
		n += len(sh.of)
		sh.mu.Unlock()
	}
	return int64(n)
}
