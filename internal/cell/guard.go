package cell

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/net/netutil"

	"github.com/pulsegrid/pulsegrid/internal/localhttp"
)

// Bounds of the guard.
const (
	guardConnections    = 512
	guardHeaderBytes    = 128 << 10 // ClickHouse takes a URL or a header of so much by default
	guardHeaderTimeout  = 10 * time.Second
	guardIdleTimeout    = 5 * time.Minute
	guardUpstreamIdle   = time.Minute // less than the engine's keep_alive_timeout: a request never meets a connection that is just being closed
	guardUpstreamIdlers = 64
	guardDialTimeout    = 2 * time.Second
)

// guard owns ClickHouse's public port and passes whole requests on to the engine, which listens on another port.
//
// The engine takes itself for clickhouse-local, whose server ends the process at any exception of a connection: a client that resets its connection, or
// falls silent for 30 seconds, in the middle of a request's header, or a Content-Length that is no number. What comes from here is none of these: the
// header has been read to its end, and is written anew. What becomes of a connection later, the engine survives (TestNoConnectionEndsTheEngineOrAQueryInFlight).
//
// It also refuses requests that a web page made a browser send (localhttp).
type guard struct {
	address  string // host:port
	server   *http.Server
	upstream *http.Transport
	engine   atomic.Pointer[url.URL] // nil: it is not running
	served   chan struct{}           // closed when the server has ended
}

func startGuard(port int, logged *logFile) (*guard, error) {
	ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return nil, fmt.Errorf("ClickHouse's port: %w", err)
	}
	g := &guard{address: ln.Addr().String(), served: make(chan struct{}), upstream: &http.Transport{
		DialContext:         (&net.Dialer{Timeout: guardDialTimeout}).DialContext,
		DisableCompression:  true,
		MaxIdleConnsPerHost: guardUpstreamIdlers,
		IdleConnTimeout:     guardUpstreamIdle,
	}}
	logger := log.New(logged, "guard: ", log.LstdFlags|log.LUTC)
	proxy := &httputil.ReverseProxy{Rewrite: g.rewrite, Transport: g.upstream, FlushInterval: -1, ErrorLog: logger, ErrorHandler: unanswered}
	g.server = &http.Server{
		Handler:           g.checked(proxy),
		ReadHeaderTimeout: guardHeaderTimeout, IdleTimeout: guardIdleTimeout, MaxHeaderBytes: guardHeaderBytes,
		ErrorLog: logger,
	}
	go func() {
		defer close(g.served)
		_ = g.server.Serve(netutil.LimitListener(ln, guardConnections)) // ends when close is called: nothing else closes a listener
	}()
	return g, nil
}

type engineKey struct{}

func (g *guard) checked(proxy http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if err := (localhttp.Policy{}).Check(req); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		engine := g.engine.Load()
		if engine == nil {
			unavailable(w, "ClickHouse is being started again, nothing was sent to it: try again in a second")
			return
		}
		proxy.ServeHTTP(w, req.WithContext(context.WithValue(req.Context(), engineKey{}, engine)))
	})
}

func (g *guard) rewrite(r *httputil.ProxyRequest) {
	engine, _ := r.In.Context().Value(engineKey{}).(*url.URL)
	r.Out.URL.Scheme, r.Out.URL.Host = engine.Scheme, engine.Host
	// The query is the client's own as it came: ClickHouse takes more than net/url does.
	r.Out.URL.RawQuery = r.In.URL.RawQuery
}

// unanswered answers a request that the engine has not. What was sent to the engine may have been done: only without a connection it has not.
func unanswered(w http.ResponseWriter, _ *http.Request, err error) {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		unavailable(w, "ClickHouse does not listen, nothing was sent to it: "+err.Error())
		return
	}
	http.Error(w, "ClickHouse has not answered, whether it has done what was asked is not known: "+err.Error(), http.StatusBadGateway)
}

func unavailable(w http.ResponseWriter, why string) {
	w.Header().Set("Retry-After", "1")
	http.Error(w, why, http.StatusServiceUnavailable)
}

// forward sends requests to the engine at addr from now on; empty: there is none, and requests are asked to come again.
func (g *guard) forward(addr string) {
	g.upstream.CloseIdleConnections() // they are of the engine before
	if addr == "" {
		g.engine.Store(nil)
		return
	}
	g.engine.Store(&url.URL{Scheme: "http", Host: addr})
}

// close cuts off what is under way.
func (g *guard) close() error {
	err := g.server.Close()
	<-g.served
	g.upstream.CloseIdleConnections()
	return err
}
