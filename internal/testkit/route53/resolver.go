package route53

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const askTimeout = 2 * time.Second

// ErrNoAddress is returned where a name has no address.
var ErrNoAddress = errors.New("has no address")

// Resolver is a sender's: it asks a server and keeps each answer for its TTL, and no longer. Its methods may be called by several goroutines.
type Resolver struct {
	server string
	place  netip.Prefix
	client *dns.Client

	mu    sync.Mutex
	known map[string]known // guarded by mu
}

type known struct {
	address netip.Addr
	until   time.Time
}

// NewResolver asks the server at HOST:PORT for senders of a network, which it names as resolvers do that stand elsewhere (EDNS client subnet).
func NewResolver(server string, place netip.Prefix) *Resolver {
	return &Resolver{server: server, place: place, client: &dns.Client{Timeout: askTimeout}, known: map[string]known{}}
}

// Lookup is the IPv4 address of a host.
func (r *Resolver) Lookup(ctx context.Context, host string) (netip.Addr, error) {
	r.mu.Lock()
	defer r.mu.Unlock() // while it asks too: others wait for the same answer
	if k, ok := r.known[host]; ok && time.Now().Before(k.until) {
		return k.address, nil
	}
	q := new(dns.Msg).SetQuestion(dns.Fqdn(host), dns.TypeA)
	q.SetEdns0(dns.DefaultMsgSize, false)
	q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: uint8(r.place.Bits()), Address: r.place.Addr().AsSlice()}}
	m, _, err := r.client.ExchangeContext(ctx, q, r.server)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("resolve %s: %w", host, err)
	}
	for _, answer := range m.Answer {
		a, ok := answer.(*dns.A)
		if !ok {
			continue
		}
		if address, ok := netip.AddrFromSlice(a.A); ok {
			r.known[host] = known{address.Unmap(), time.Now().Add(time.Duration(a.Hdr.Ttl) * time.Second)}
			return address.Unmap(), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("resolve %s: %w (%s)", host, ErrNoAddress, dns.RcodeToString[m.Rcode])
}

// DialContext connects to HOST:PORT, for http.Transport.
func (r *Resolver) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	to, err := r.Lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(to.String(), port))
}
