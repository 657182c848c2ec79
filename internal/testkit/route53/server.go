package route53

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	negativeTTL = 60 // seconds, of an answer without an address
	stopWithin  = 10 * time.Second
)

// Record is an A record of a latency record set: the records of one name are those that an answer is chosen from.
type Record struct {
	Name    string // such as eu.ingest.example.com
	Set     string // the set identifier: which of the name's records it is
	Region  string // whose latency counts
	Address netip.Addr
	TTL     time.Duration // whole seconds
	Check   string        // URL of its health check; empty: it is always healthy
}

// Options of a server.
type Options struct {
	Listen  string // HOST:PORT, UDP and TCP
	Zone    string // names outside of it are refused
	Records []Record
	// Interval and Threshold of the health checks. Route 53 has 10 s or 30 s, and 1 to 10.
	Interval  time.Duration
	Threshold int
	// Latencies say how far a client's network is from a region. A client of no network here is equally far from all.
	Latencies map[netip.Prefix]map[string]time.Duration
}

// Server is a running server.
type Server struct {
	opts    Options
	zone    string
	records map[string][]Record // by canonical name
	checks  map[string]*check   // by URL
	servers []*dns.Server
	serving sync.WaitGroup
	errs    chan error
}

// Start begins to serve, and to check.
func Start(o Options) (*Server, error) {
	s := &Server{opts: o, zone: dns.CanonicalName(o.Zone), records: map[string][]Record{}, checks: map[string]*check{}, errs: make(chan error, 2)}
	for _, r := range o.Records {
		name := dns.CanonicalName(r.Name)
		if !dns.IsSubDomain(s.zone, name) || !r.Address.Is4() || r.TTL < time.Second {
			return nil, fmt.Errorf("record %s of %s: want a name in %s, an IPv4 address and a TTL of a second or more", r.Set, r.Name, o.Zone)
		}
		s.records[name] = append(s.records[name], r)
	}
	for _, r := range o.Records {
		if r.Check != "" && s.checks[r.Check] == nil {
			s.checks[r.Check] = startCheck(r.Check, o.Interval, o.Threshold)
		}
	}
	if err := s.listen(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Server) listen() error {
	packets, err := net.ListenPacket("udp", s.opts.Listen)
	if err != nil {
		return err
	}
	stream, err := net.Listen("tcp", s.opts.Listen)
	if err != nil {
		return errors.Join(err, packets.Close())
	}
	for _, d := range []*dns.Server{{PacketConn: packets}, {Listener: stream}} {
		started := make(chan struct{})
		d.Handler, d.NotifyStartedFunc = dns.HandlerFunc(s.handle), func() { close(started) }
		s.serving.Go(func() {
			if err := d.ActivateAndServe(); err != nil {
				s.errs <- err
			}
		})
		select {
		case <-started:
			s.servers = append(s.servers, d)
		case err := <-s.errs:
			return errors.Join(err, packets.Close(), stream.Close())
		}
	}
	return nil
}

// Addr is where it listens.
func (s *Server) Addr() string { return s.opts.Listen }

// Healthy tells what the check of a URL has found.
func (s *Server) Healthy(url string) bool { return s.checks[url] == nil || s.checks[url].healthy() }

// Close stops checking and serving.
func (s *Server) Close() error {
	for _, c := range s.checks {
		c.stop()
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopWithin)
	defer cancel()
	var errs []error
	for _, d := range s.servers {
		errs = append(errs, d.ShutdownContext(ctx))
	}
	s.serving.Wait()
	return errors.Join(errs...)
}

// Choose is the record of a name that a client gets, false where the name has none.
func (s *Server) Choose(name string, client netip.Addr) (Record, bool) {
	all := s.records[dns.CanonicalName(name)]
	if len(all) == 0 {
		return Record{}, false
	}
	from := slices.DeleteFunc(slices.Clone(all), func(r Record) bool { return !s.Healthy(r.Check) })
	if len(from) == 0 {
		from = all
	}
	return slices.MinFunc(from, func(a, b Record) int { return int(s.latency(client, a.Region) - s.latency(client, b.Region)) }), true
}

func (s *Server) latency(client netip.Addr, region string) time.Duration {
	for network, to := range s.opts.Latencies {
		if network.Contains(client) {
			return to[region]
		}
	}
	return 0
}

func (s *Server) handle(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg).SetReply(q)
	m.Authoritative = true
	client := clientOf(w.RemoteAddr())
	if asked := q.IsEdns0(); asked != nil {
		m.SetEdns0(dns.DefaultMsgSize, false)
		for _, o := range asked.Option {
			if subnet, ok := o.(*dns.EDNS0_SUBNET); ok {
				if a, ok := netip.AddrFromSlice(subnet.Address); ok {
					client = a.Unmap()
				}
				said := *subnet
				said.SourceScope = said.SourceNetmask
				m.IsEdns0().Option = append(m.IsEdns0().Option, &said)
			}
		}
	}
	s.answer(m, client)
	_ = w.WriteMsg(m) // who asks asks again
}

func (s *Server) answer(m *dns.Msg, client netip.Addr) {
	if m.Opcode != dns.OpcodeQuery || len(m.Question) != 1 || m.Question[0].Qclass != dns.ClassINET {
		m.Rcode = dns.RcodeNotImplemented
		return
	}
	q := m.Question[0]
	if !dns.IsSubDomain(s.zone, dns.CanonicalName(q.Name)) {
		m.Authoritative, m.Rcode = false, dns.RcodeRefused
		return
	}
	r, ok := s.Choose(q.Name, client)
	if ok && q.Qtype == dns.TypeA {
		m.Answer = []dns.RR{&dns.A{Hdr: header(q.Name, dns.TypeA, uint32(r.TTL/time.Second)), A: r.Address.AsSlice()}}
		return
	}
	if !ok {
		m.Rcode = dns.RcodeNameError
	}
	m.Ns = []dns.RR{&dns.SOA{
		Hdr: header(s.zone, dns.TypeSOA, negativeTTL), Ns: "ns." + s.zone, Mbox: "hostmaster." + s.zone, Serial: 1, Refresh: 7200, Retry: 900, Expire: 1209600, Minttl: negativeTTL,
	}}
}

func header(name string, kind uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: ttl}
}

func clientOf(a net.Addr) netip.Addr {
	p, err := netip.ParseAddrPort(strings.TrimSpace(a.String()))
	if err != nil {
		return netip.Addr{}
	}
	return p.Addr().Unmap()
}
