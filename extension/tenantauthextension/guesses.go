package tenantauthextension

import (
	"math"
	"net"
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

	kept atomic.Int64 // buckets: mostly there are none, and nobody needs the lock

	mu      sync.Mutex // guards what follows
	buckets *simplelru.LRU[guesser, *bucket]
}

// guesser is what attempts are counted by.
type guesser struct {
	address netip.Addr // an IPv4 address, or the first of the /64 that one IPv6 host has to itself; zero: unknown, or this machine's
	keyID   string     // of a known key that was shown; else empty
}

type bucket struct {
	left float64
	at   time.Time
}

func newGuesses(cfg GuessesConfig, now func() time.Time) (*guesses, error) {
	l, err := simplelru.NewLRU[guesser, *bucket](cfg.RememberedMax, nil)
	return &guesses{burst: float64(cfg.Burst), rate: cfg.PerSecond, now: now, buckets: l}, err
}

// blocked returns how long who must wait before an attempt of it is looked at; zero: not at all.
func (g *guesses) blocked(who guesser) time.Duration {
	if g.kept.Load() == 0 {
		return 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	b, ok := g.buckets.Peek(who)
	if !ok {
		return 0
	}
	g.refill(b)
	if b.left >= 1 {
		return 0
	}
	return time.Duration(math.Ceil((1-b.left)/g.rate)) * time.Second
}

// wrong takes one attempt.
func (g *guesses) wrong(who guesser) {
	g.mu.Lock()
	defer g.mu.Unlock()
	b, ok := g.buckets.Get(who)
	if !ok {
		b = &bucket{left: g.burst, at: g.now()}
		g.buckets.Add(who, b)
		g.kept.Store(int64(g.buckets.Len()))
	}
	g.refill(b)
	b.left = max(0, b.left-1)
}

func (g *guesses) refill(b *bucket) {
	now := g.now()
	if d := now.Sub(b.at); d > 0 {
		b.left = min(g.burst, b.left+d.Seconds()*g.rate)
		b.at = now
	}
}

// addressOf is the address that attempts are counted by.
func addressOf(a net.Addr) netip.Addr {
	var ip netip.Addr
	switch a := a.(type) {
	case *net.IPAddr:
		ip, _ = netip.AddrFromSlice(a.IP)
	case *net.TCPAddr:
		ip, _ = netip.AddrFromSlice(a.IP)
	}
	ip = ip.Unmap()
	if ip.Is6() {
		if p, err := ip.WithZone("").Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return ip
}
