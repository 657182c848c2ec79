package tenantauthextension

import (
	"context"
	"net"
	"net/netip"
	"strings"

	"go.opentelemetry.io/collector/client"
	"google.golang.org/grpc/peer"
)

// maxHops bounds how many addresses of X-Forwarded-For are looked at.
const maxHops = 32

// addressOf is the address that a sender's attempts are counted by: that of its connection or, where this is a trusted proxy's, the last address in
// X-Forwarded-For that is no trusted proxy's. What stands before that one was written by whoever it belongs to.
func (e *authExtension) addressOf(ctx context.Context, sources map[string][]string) netip.Addr {
	a := connectedFrom(ctx)
	if !e.trusted(a) {
		return host(a)
	}
	var hops []string
	for _, line := range header(sources, "X-Forwarded-For", "x-forwarded-for") {
		hops = append(hops, strings.Split(line, ",")...)
	}
	for i := len(hops) - 1; i >= max(0, len(hops)-maxHops); i-- {
		next, ok := hop(strings.TrimSpace(hops[i]))
		if !ok {
			break // the proxy does not say: it is all that is known
		}
		if a = next; !e.trusted(a) {
			break
		}
	}
	return host(a)
}

func (e *authExtension) trusted(a netip.Addr) bool {
	for _, p := range e.proxies {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// hop reads an address as proxies write it, with or without a port.
func hop(text string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		return a.Unmap().WithZone(""), true
	}
	p, err := netip.ParseAddrPort(text)
	return p.Addr().Unmap().WithZone(""), err == nil
}

// connectedFrom is the address at the other end of a request's connection; zero where it is none.
func connectedFrom(ctx context.Context) netip.Addr {
	a := client.FromContext(ctx).Addr
	if a == nil {
		if p, ok := peer.FromContext(ctx); ok {
			a = p.Addr
		}
	}
	var ip netip.Addr
	switch a := a.(type) {
	case *net.IPAddr:
		ip, _ = netip.AddrFromSlice(a.IP)
	case *net.TCPAddr:
		ip, _ = netip.AddrFromSlice(a.IP)
	}
	return ip.Unmap()
}

// host is whom an address belongs to: one IPv6 host has a /64 to itself.
func host(a netip.Addr) netip.Addr {
	if a.Is6() {
		if p, err := a.WithZone("").Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}
