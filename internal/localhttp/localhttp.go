// Package localhttp keeps web pages away from HTTP servers that are meant for programs of this machine.
//
// A browser reaches loopback ports on behalf of any page that it shows. The requests of a page name its origin. A page whose domain resolves to 127.0.0.1
// (DNS rebinding) has the server for its own origin, but names its domain as the host. Other programs do neither.
package localhttp

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// Policy says what else is served than Check lets by; its zero value: nothing.
type Policy struct {
	// Names of this machine.
	Names []string
	// Origin tells whether a page of another origin may send; nil: none may.
	Origin func(*http.Request) bool
}

// Check returns nil for a request that no foreign web page has made a browser send, else an error for its sender (403, Forbidden). The host must be an IP
// address or localhost, since no page can be loaded from a domain under these names; the origin, where there is one, must be the server itself.
func (p Policy) Check(req *http.Request) error {
	if !p.named(req.Host) {
		names := slices.Compact(append([]string{"localhost"}, p.Names...))
		return fmt.Errorf("host %.100q is no known name of this machine: want an IP address or one of %q", req.Host, names)
	}
	if len(req.Header["Origin"]) == 1 && p.Origin != nil && p.Origin(req) {
		return nil
	}
	if origins, named := req.Header["Origin"]; named {
		for _, origin := range origins {
			if u, err := url.Parse(origin); err != nil || u.Host == "" || !strings.EqualFold(u.Host, req.Host) {
				return fmt.Errorf("origin %.100q is another one than %q: pages of other origins are not served", origin, req.Host)
			}
		}
		return nil
	}
	// Browsers name no origin where a page only embeds what a GET returns.
	if site := req.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" {
		return fmt.Errorf("sec-fetch-site is %.100q: pages of other origins are not served", site)
	}
	return nil
}

// named tells whether a Host header is an IP address or a name of this machine, or absent, which it is of no browser.
func (p Policy) named(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	_, err := netip.ParseAddr(host)
	return err == nil || host == "" || strings.EqualFold(host, "localhost") || slices.ContainsFunc(p.Names, func(name string) bool { return strings.EqualFold(host, name) })
}
