package rig

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"sync"
	"sync/atomic"
)

// Request is a kind of OTLP request.
type Request struct {
	Protocol string // http_protobuf, http_json or grpc
	Signal   string // logs, metrics or traces
}

// Front stands before gateways, as a load balancer that takes them in turn and knows nothing of their health does. It counts what it sees.
type Front struct {
	server *httptest.Server
	marker *regexp.Regexp // nil: bodies are not read
	gate   sync.RWMutex   // held by whoever lets no request begin

	mu           sync.Mutex
	seen, good   map[Request]int // guarded by mu
	acknowledged map[string]bool // guarded by mu: markers
}

// NewFront begins to listen before gateways at these addresses of OTLP/HTTP and of OTLP/gRPC. The first group of marker, which may be nil, is what tells a request from all others; it is
// looked for in the body, decompressed.
func NewFront(httpAddresses, grpcAddresses []string, marker *regexp.Regexp) *Front {
	f := &Front{marker: marker, seen: map[Request]int{}, good: map[Request]int{}, acknowledged: map[string]bool{}}
	overHTTP, overGRPC := f.proxy(httpAddresses, false), f.proxy(grpcAddresses, true)
	f.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.gate.RLock()
		f.count(f.seen, r)
		f.gate.RUnlock()
		r, err := f.read(r)
		if err != nil { // its sender is gone
			return
		}
		if kindOf(r).Protocol == protocolGRPC {
			overGRPC.ServeHTTP(w, r)
		} else {
			overHTTP.ServeHTTP(w, r)
		}
	}))
	f.server.Config.Protocols = protocols(true, true)
	f.server.Start()
	return f
}

// URL is where OTLP/HTTP and OTLP/gRPC are taken.
func (f *Front) URL() string { return f.server.URL }

// Hold lets no request begin, nor be counted, until release is called: those that come wait.
func (f *Front) Hold() (release func()) {
	f.gate.Lock()
	return f.gate.Unlock
}

// Close stops it, and returns when no request is under way.
func (f *Front) Close() { f.server.Close() }

// Counts returns how many requests of each kind were acknowledged, and how many were not, yet or ever. An answer is counted before its sender has all of it.
func (f *Front) Counts() (good, failed map[Request]int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	good, failed = map[Request]int{}, map[Request]int{}
	for kind, n := range f.seen {
		good[kind], failed[kind] = f.good[kind], n-f.good[kind]
	}
	return good, failed
}

// Acknowledged are the markers of requests that were acknowledged.
func (f *Front) Acknowledged() map[string]bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.acknowledged)
}

type markerKey struct{} // of a request's context

// read finds a request's marker.
func (f *Front) read(r *http.Request) (*http.Request, error) {
	if f.marker == nil {
		return r, nil
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	if m := f.marker.FindSubmatch(decompressed(r, body)); m != nil {
		r = r.WithContext(context.WithValue(r.Context(), markerKey{}, string(m[1])))
	}
	return r, nil
}

// decompressed is what a request's body holds; nil: it is no gzip, and says that it is.
func decompressed(r *http.Request, body []byte) []byte {
	const prefix = 5 // of a gRPC message: whether it is compressed, and its length
	compressed := r.Header.Get("Content-Encoding") == "gzip"
	if kindOf(r).Protocol == protocolGRPC && len(body) > prefix {
		compressed, body = body[0] == 1, body[prefix:]
	}
	if !compressed {
		return body
	}
	z, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return nil
	}
	out, err := io.ReadAll(z)
	if err != nil {
		return nil
	}
	return out
}

func (f *Front) acknowledge(r *http.Request) {
	f.count(f.good, r)
	if marker, ok := r.Context().Value(markerKey{}).(string); ok {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.acknowledged[marker] = true
	}
}

func (f *Front) count(into map[Request]int, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	into[kindOf(r)]++
}

const protocolGRPC = "grpc"

var (
	protocolOf = map[string]string{"application/grpc": protocolGRPC, "application/json": "http_json", "application/x-protobuf": "http_protobuf"}
	signalForm = regexp.MustCompile(`^/(?:v1/(\w+)|opentelemetry\.proto\.collector\.(logs|metrics|trace)\.)`)
)

func kindOf(r *http.Request) Request {
	kind := Request{Protocol: protocolOf[r.Header.Get("Content-Type")]}
	if m := signalForm.FindStringSubmatch(r.URL.Path); m != nil {
		if kind.Signal = m[1] + m[2]; kind.Signal == "trace" {
			kind.Signal = "traces"
		}
	}
	return kind
}

func protocols(http1, h2 bool) *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(http1)
	p.SetUnencryptedHTTP2(h2)
	return p
}

// proxy hands requests to the addresses in turn. A request is counted as good when its acknowledgement has passed whole to a sender who still waits for it.
func (f *Front) proxy(addresses []string, grpc bool) *httputil.ReverseProxy {
	var turn atomic.Uint64
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: addresses[turn.Add(1)%uint64(len(addresses))]})
		},
		Transport:     &http.Transport{Protocols: protocols(!grpc, grpc), DisableKeepAlives: !grpc},
		FlushInterval: -1,
		ModifyResponse: func(resp *http.Response) error {
			whole := func() {
				ok := resp.StatusCode == http.StatusOK
				if grpc {
					ok = resp.Trailer.Get("Grpc-Status") == "0"
				}
				if ok && resp.Request.Context().Err() == nil {
					f.acknowledge(resp.Request)
				}
			}
			// A client that has all the bytes that were announced may be gone before the body's end is read. Over gRPC it waits for the trailers.
			left := resp.ContentLength
			switch {
			case grpc:
				left = -1
			case left == 0:
				whole()
				return nil
			}
			resp.Body = &atEnd{ReadCloser: resp.Body, left: left, do: whole}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
}

// atEnd does something when a body has been read to its end, where its trailers are known, or has all the bytes that were announced.
type atEnd struct {
	io.ReadCloser
	left int64 // bytes that are announced; below 0: nobody knows
	do   func()
}

func (a *atEnd) Read(b []byte) (int, error) {
	n, err := a.ReadCloser.Read(b)
	whole := a.left >= 0 && a.left == int64(n)
	a.left -= int64(n)
	if (errors.Is(err, io.EOF) || whole) && a.do != nil {
		a.do()
		a.do = nil
	}
	return n, err
}
