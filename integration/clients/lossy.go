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
}

type linkKey struct{}

// link is one connection of a client.
type link struct {
	client net.Conn
	h1, h2 *http.Transport
}

func (l *link) cut() {
	_ = l.client.Close()
	l.h1.CloseIdleConnections()
	l.h2.CloseIdleConnections()
}

func linkOf(ctx context.Context) *link { return ctx.Value(linkKey{}).(*link) }

// newLossy returns a running proxy before address that loses that share of the OK answers.
func newLossy(address string, lost float64, seed uint64) (*lossy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &lossy{Addr: l.Addr().String(), lost: lost, random: rand.New(rand.NewPCG(seed, seed))}
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
			return context.WithValue(ctx, linkKey{}, &link{client: c, h1: transport(false), h2: transport(true)})
		},
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
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers++
	if p.random.Float64() >= p.lost {
		return nil
	}
	p.lostOnes++
	linkOf(r.Request.Context()).cut()
	return errLost
}

// counts are the OK answers that came by, and how many of them were lost.
func (p *lossy) counts() (answers, lost int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.answers, p.lostOnes
}

func (p *lossy) close() { _ = p.server.Close() }

func transport(h2 bool) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!h2)
	protocols.SetUnencryptedHTTP2(h2)
	return &http.Transport{Protocols: protocols, DisableCompression: true}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
