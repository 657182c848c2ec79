package tenantauthextension

import (
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// guesses are token buckets of wrong attempts, by address. A bucket that nobody has is full.
type guesses struct {
	burst, rate float64
	now         func() time.Time

	kept atomic.Int64 // buckets, for the gauge

	mu      sync.Mutex // guards what follows
	buckets *simplelru.LRU[guesser, *bucket]
}

// guesser is what attempts are counted by.
type guesser struct {
	address    netip.Addr // an IPv4 address, or the first of the /64 that one IPv6 host has to itself; zero: unknown, or this machine's
	credential string     // its kind: wrong keys and wrong tokens are counted apart
	keyID      string     // of a known key that was shown with another secret; else empty
}

type bucket struct {
	left float64
	at   time.Time
}

func newGuesses(cfg GuessesConfig, now func() time.Time) (*guesses, error) {
	l, err := simplelru.NewLRU[guesser, *bucket](cfg.RememberedMax, nil)
	return &guesses{burst: float64(cfg.Burst), rate: cfg.PerSecond, now: now, buckets: l}, err
}

// wrong takes one attempt. It returns zero, or how long whoever failed too often is asked to wait.
func (g *guesses) wrong(who guesser) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	b, ok := g.buckets.Get(who)
	if !ok {
		b = &bucket{left: g.burst, at: g.now()}
		g.buckets.Add(who, b)
		g.kept.Store(int64(g.buckets.Len()))
	}
	g.refill(b)
	if b.left < 1 {
		return time.Duration(math.Ceil((1-b.left)/g.rate)) * time.Second
	}
	b.left--
	return 0
}

func (g *guesses) refill(b *bucket) {
	now := g.now()
	if d := now.Sub(b.at); d > 0 {
		b.left = min(g.burst, b.left+d.Seconds()*g.rate)
		b.at = now
	}
}
