package rig

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// Links are the connections between the parts of a rig, each through a proxy (toxiproxy) that can hurt it. A link's name says
// who connects to whom: "agents-gateway0", "gateway0-kafka2", "aggregator1-clickhouse".
type Links struct {
	server *toxiproxy.ApiServer // what proxies log and count with; it serves nothing

	mu    sync.Mutex
	links map[string]*Link // guarded by mu
}

// Link is one of them: all connections from one part to one other.
type Link struct {
	Name  string
	Addr  string // where the proxy listens; the same for the rig's life
	proxy *toxiproxy.Proxy
}

func newLinks() *Links {
	return &Links{server: toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()), links: map[string]*Link{}}
}

// open makes the link, or points an existing one to another address.
func (l *Links) open(name, to string) (*Link, error) { return l.openAt("", name, to) }

// openAt is open for a link that listens at an address; empty: a free one.
func (l *Links) openAt(addr, name, to string) (*Link, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k := l.links[name]; k != nil {
		k.proxy.Stop()
		k.proxy.Upstream = to
		return k, k.start()
	}
	if addr == "" {
		addr = FreeAddr()
	}
	k := &Link{Name: name, Addr: addr}
	k.proxy = toxiproxy.NewProxy(l.server, name, k.Addr, to)
	if err := k.start(); err != nil {
		return nil, err
	}
	l.links[name] = k
	return k, nil
}

// Matching are the links whose names begin with from and, where to is not empty, whose other end begins with to.
func (l *Links) Matching(from, to string) []*Link {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []*Link
	for _, name := range slices.Sorted(maps.Keys(l.links)) {
		a, b, _ := strings.Cut(name, "-")
		if strings.HasPrefix(a, from) && strings.HasPrefix(b, to) {
			out = append(out, l.links[name])
		}
	}
	return out
}

// Heal undoes everything that was done to the links; what was hurt is connected anew.
func (l *Links) Heal() error {
	var errs []error
	for _, k := range l.Matching("", "") {
		errs = append(errs, k.Heal())
	}
	return errors.Join(errs...)
}

func (l *Links) close() {
	for _, k := range l.Matching("", "") {
		k.proxy.Stop()
	}
}

func (k *Link) start() error {
	if err := k.proxy.Start(); err != nil && !errors.Is(err, toxiproxy.ErrProxyAlreadyStarted) {
		return fmt.Errorf("link %s: %w", k.Name, err)
	}
	return nil
}

// Heal undoes what was done to the link. Where anything was, its connections are cut, since bytes may be missing in them.
func (k *Link) Heal() error {
	if len(k.proxy.Toxics.GetToxicArray()) > 0 {
		k.proxy.Stop()
		k.proxy.Toxics.ResetToxics(context.Background())
	}
	return k.start()
}

// Refuse cuts the link's connections, and refuses further ones.
func (k *Link) Refuse() { k.proxy.Stop() }

// Reset cuts the link's connections; further ones are taken.
func (k *Link) Reset() error {
	k.proxy.Stop()
	return k.start()
}

// Swallow keeps connections open and takes new ones, but what is sent in either direction goes nowhere: a network that drops packets.
func (k *Link) Swallow() error {
	return errors.Join(k.add("timeout", "upstream", 1, map[string]int64{"timeout": 0}), k.add("timeout", "downstream", 1, map[string]int64{"timeout": 0}))
}

// SwallowAnswers lets requests through and drops their answers: the work is done, and nobody hears of it.
func (k *Link) SwallowAnswers() error {
	return k.add("timeout", "downstream", 1, map[string]int64{"timeout": 0})
}

// Delay holds the bytes of each direction back for half of the round trip.
func (k *Link) Delay(roundTrip time.Duration) error {
	ms := map[string]int64{"latency": roundTrip.Milliseconds() / 2, "jitter": roundTrip.Milliseconds() / 20}
	return errors.Join(k.add("latency", "upstream", 1, ms), k.add("latency", "downstream", 1, ms))
}

// ResetShare resets, with the given probability for each connection, connections that are open and ones that come, when the next
// byte of an answer passes. To reset connections again and again, call it again and again.
func (k *Link) ResetShare(share float32) error {
	const kind, stream = "reset_peer", "downstream"
	if name := kind + "_" + stream; k.proxy.Toxics.GetToxic(name) != nil {
		if err := k.proxy.Toxics.RemoveToxic(context.Background(), name); err != nil {
			return fmt.Errorf("link %s: %w", k.Name, err)
		}
	}
	return k.add(kind, stream, share, map[string]int64{"timeout": 0})
}

func (k *Link) add(kind, stream string, toxicity float32, attributes map[string]int64) error {
	text, err := json.Marshal(map[string]any{"type": kind, "stream": stream, "toxicity": toxicity, "attributes": attributes})
	if err != nil {
		return err
	}
	if _, err := k.proxy.Toxics.AddToxicJson(bytes.NewReader(text)); err != nil {
		return fmt.Errorf("link %s: %s: %w", k.Name, kind, err)
	}
	return nil
}
