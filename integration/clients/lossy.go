package clients

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"
)

// lossy is a proxy for HTTP/1.1 and HTTP/2 without TLS that loses some of the answers: the request arrives and is answered, then the
// client's connection is cut instead of the answer. A client cannot tell that from a request that never arrived. Each of a client's
// connections has one of its own to the server, which ends with it, as behind a load balancer of layer 4.
type lossy struct {
	Addr string

	server *http.Server
	lost   float64

	mu       sync.Mutex
	random   *rand.Rand
	answers  int // that were OK
	lostOnes int
	links    map[net.Conn]*link
}

// linked is the link of a client's new connection.
func (p *lossy) linked(c net.Conn) *link {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := newLink(c)
	p.links[c] = l
	return l
}

// ended ends the link of a connection that its client has closed.
func (p *lossy) ended(c net.Conn) {
	p.mu.Lock()
	l := p.links[c]
	delete(p.links, c)
	p.mu.Unlock()
	if l != nil {
		l.cut()
	}
}

type linkKey struct{}

// link is one connection of a client, with those that it has to the server.
type link struct {
	client net.Conn
	h1, h2 *http.Transport

	mu      sync.Mutex
	servers []net.Conn
}

func newLink(client net.Conn) *link {
	l := &link{client: client}
	l.h1, l.h2 = l.transport(false), l.transport(true)
	return l
}

// cut closes the server's side first: a retry must not arrive before the server can know that this connection is gone.
func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.servers {
		_ = c.Close()
	}
	l.servers = nil
	_ = l.client.Close()
}

func (l *link) transport(h2 bool) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!h2)
	protocols.SetUnencryptedHTTP2(h2)
	return &http.Transport{Protocols: protocols, DisableCompression: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.servers = append(l.servers, c)
		}
		return c, err
	}}
}

func linkOf(ctx context.Context) *link { return ctx.Value(linkKey{}).(*link) }

// newLossy returns a running proxy before address that loses that share of the OK answers.
func newLossy(address string, lost float64, seed uint64) (*lossy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &lossy{Addr: l.Addr().String(), lost: lost, random: rand.New(rand.NewPCG(seed, seed)), links: map[net.Conn]*link{}}
	both := new(http.Protocols)
	both.SetHTTP1(true)
	both.SetUnencryptedHTTP2(true)
	target := &url.URL{Scheme: "http", Host: address}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = target.Scheme, target.Host
			r.Out.Header["Te"] = r.In.Header["Te"]
		},
		Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			if l := linkOf(r.Context()); r.ProtoMajor == 2 {
				return l.h2.RoundTrip(r)
			} else {
				return l.h1.RoundTrip(r)
			}
		}),
		ModifyResponse: p.answer,
		ErrorHandler:   func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	p.server = &http.Server{
		Handler: proxy, Protocols: both, ReadHeaderTimeout: time.Minute,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, linkKey{}, p.linked(c))
		},
	}
	p.server.ConnState = func(c net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			p.ended(c)
		}
	}
	go func() { _ = p.server.Serve(l) }()
	return p, nil
}

var errLost = errors.New("answer lost on purpose")

// answer reads the whole answer, so that it has been given, and then passes it on or cuts the connection.
func (p *lossy) answer(r *http.Response) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	if err := r.Body.Close(); err != nil {
		return err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	status := r.Trailer.Get("Grpc-Status") + r.Header.Get("Grpc-Status")
	if r.StatusCode != http.StatusOK || status != "" && status != "0" {
		return nil
	}
	if !p.loses() {
		return nil
	}
	linkOf(r.Request.Context()).cut()
	return errLost
}

// loses counts an OK answer, and tells whether it is to be lost.
func (p *lossy) loses() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers++
	lost := p.random.Float64() < p.lost
	if lost {
		p.lostOnes++
	}
	return lost
}

// counts are the OK answers that came by, and how many of them were lost.
func (p *lossy) counts() (answers, lost int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.answers, p.lostOnes
}

func (p *lossy) close() { _ = p.server.Close() }

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
