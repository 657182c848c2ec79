package ingestreceiver

import (
	"context"
	"errors"
	"math"
	"mime"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/configoptional"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

const (
	typeProtobuf = "application/x-protobuf"
	typeJSON     = "application/json"
)

var paths = map[string]signal.Signal{"/v1/logs": signal.Logs, "/v1/metrics": signal.Metrics, "/v1/traces": signal.Traces}

// profiles are the paths of the OTLP signal that is not served, as SDKs and Collectors have sent it.
var profiles = []string{"/v1development/profiles", "/v1/profiles", "/v1experimental/profiles"}

// pathOf is the path of a request without empty segments: an endpoint that ends with a slash, joined with OTLP's path, makes //v1/logs, and a redirect is
// followed by few SDKs.
func pathOf(req *http.Request) string {
	p := req.URL.Path
	if !strings.Contains(p, "//") && !strings.HasSuffix(p, "/") {
		return p
	}
	return "/" + strings.Join(strings.FieldsFunc(p, func(r rune) bool { return r == '/' }), "/")
}

// serverConfig is the user's, with confighttp's own body handling out of the way: no decompression, and a size limit that is
// never reached before this package's own. Credentials are this package's business too (gate).
func serverConfig(c confighttp.ServerConfig, l *LimitsConfig) confighttp.ServerConfig {
	c.CompressionAlgorithms = []string{}
	c.Auth = configoptional.None[confighttp.AuthConfig]()
	c.MaxRequestBodySize = int64(max(l.MaxCompressedBytes, l.MaxDecompressedBytes)) + mib
	return c
}

// ServeHTTP answers one OTLP/HTTP request.
func (r *ingestReceiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	// net/http reads what is left of a small body before it answers, with no bound of its own. readHTTP sets the deadline anew.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(r.cfg.Limits.ReadTimeout)) // readHTTP tells where it fails
	path := pathOf(req)
	q := &request{transport: r.http, start: time.Now(), signal: paths[path], remote: req.RemoteAddr, headers: req.Header}
	contentType := mediaType(req)
	held := &reservation{of: r.budget}
	defer held.release()
	answered := false
	defer func() { q.arrival.end(answered) }()
	if r.health != nil && r.health.Drained() || isOld(req.Context()) {
		w.Header().Set("Connection", "close") // over HTTP/2 it has the connection go, too
	}
	err := r.pages.check(req)
	switch {
	case err != nil:
	case r.legacy != nil && path == legacyPath:
		contentType = typeJSON
		err = r.serveLegacy(w, req, q, held)
	default:
		err = r.serveHTTP(w, req, q, contentType, held)
	}
	if err == nil {
		r.countWaste(q, held, nil)
		r.http.done(req.Context(), q, nil)
		answered = writeOK(w, contentType, q)
		return
	}
	a := answerTo(held.explain(err), r.cfg.RetryAfter)
	r.countWaste(q, held, &a)
	r.http.done(req.Context(), q, &a)
	if a.http == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", http.MethodPost)
	}
	var d *denied
	if errors.As(err, &d) && d.unread {
		leaveUnread(w)
	}
	writeStatus(w, contentType, a.http, a.status)
}

func (r *ingestReceiver) serveHTTP(w http.ResponseWriter, req *http.Request, q *request, contentType string, held *reservation) error {
	if !r.next.takes(q.signal, r.cfg.Output) {
		q.signal = 0
		if slices.Contains(profiles, pathOf(req)) {
			return refusedPath.because("%s", noProfiles)
		}
		return refusedPath.because("nothing is served at %.100q; want /v1/logs, /v1/metrics or /v1/traces", req.URL.Path)
	}
	if req.Method != http.MethodPost {
		return refusedMethod.because("method is %.20q, want POST", req.Method)
	}
	if contentType != typeProtobuf && contentType != typeJSON {
		return refusedContentType.because("content type is %.100q, want %s or %s", req.Header.Get("Content-Type"), typeProtobuf, typeJSON)
	}
	ctx, encoding, err := r.admitHTTP(req, q, held)
	if err != nil {
		return err
	}
	if err = r.takeHTTP(ctx, w, req, q, contentType, encoding, held); err != nil {
		err = r.keep(ctx, q, err) // as the tenant that was admitted
	}
	return err
}

// takeHTTP reads the body of an admitted request and hands it on.
func (r *ingestReceiver) takeHTTP(ctx context.Context, w http.ResponseWriter, req *http.Request, q *request, contentType, encoding string, held *reservation) error {
	b, err := r.readHTTP(w, req, encoding, held)
	if r.cfg.QuarantineUndecodable {
		q.original = original{b.bytes, contentType, encodingNone}
		if b.undecompressed != nil {
			q.original = original{b.undecompressed, contentType, encoding}
		}
	}
	if err != nil {
		return err
	}
	q.received, q.body, q.frames, q.compressed = time.Now(), b.bytes, b.frames, b.compressed
	if contentType == typeJSON {
		if err = r.fromJSON(q, held); err != nil {
			return err
		}
	}
	return r.export(ctx, q)
}

// admitHTTP decides by the headers whether a request may come in, and how its body is compressed.
func (r *ingestReceiver) admitHTTP(req *http.Request, q *request, held *reservation) (context.Context, string, error) {
	encoding, err := contentEncoding(req.Header)
	if err != nil {
		return nil, "", err
	}
	ctx, err := r.admit(withPeer(req), q, r.httpGate, held, r.httpGate.sources(req), req.Header.Values)
	return ctx, encoding, err
}

// readHTTP reads the body within limits.read_timeout. The server's own read timeout will not do: it goes on running while the
// next hop works, and cancels the request then.
func (r *ingestReceiver) readHTTP(w http.ResponseWriter, req *http.Request, encoding string, held *reservation) (body, error) {
	deadline := http.NewResponseController(w)
	if err := deadline.SetReadDeadline(time.Now().Add(r.cfg.Limits.ReadTimeout)); err != nil {
		return body{}, status.Errorf(codes.Internal, "cannot bound the time of reading: %v", err)
	}
	b, err := r.reader.read(req, encoding, held)
	if err == nil {
		_ = deadline.SetReadDeadline(time.Time{}) // a connection that is gone by now shows when it is written to
	}
	return b, err
}

func mediaType(req *http.Request) string {
	v := req.Header.Get("Content-Type")
	if v == typeProtobuf || v == typeJSON {
		return v
	}
	t, _, err := mime.ParseMediaType(v)
	if err != nil {
		return ""
	}
	return t
}

var emptyJSON = []byte("{}")

// writeOK writes an Export*ServiceResponse. It says nothing where all was taken. False: it could not be written; its sender sends again.
func writeOK(w http.ResponseWriter, contentType string, q *request) bool {
	msg := q.outcome.protobuf()
	switch {
	case q.legacy:
		msg = q.outcome.legacyJSON(q.events)
	case contentType == typeJSON:
		msg = q.outcome.json(q.signal)
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(http.StatusOK)
	if len(msg) == 0 {
		return true
	}
	_, err := w.Write(msg)
	return err == nil
}

// writeStatus writes a google.rpc.Status in the encoding of the request, JSON where that is neither of OTLP's.
func writeStatus(w http.ResponseWriter, contentType string, code int, s *status.Status) {
	var msg []byte
	var err error
	if contentType == typeProtobuf {
		msg, err = proto.Marshal(s.Proto())
	} else {
		contentType = typeJSON
		msg, err = protojson.Marshal(s.Proto())
	}
	if err != nil { // a detail of a type that this program does not know, or text that is not UTF-8
		code, contentType, msg = http.StatusInternalServerError, typeJSON, []byte(`{"code":13,"message":"the error cannot be encoded"}`)
	}
	if d := retryDelay(s); d != nil && (code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable) {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(d.AsDuration().Seconds())))) // whole seconds, never too few
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(code)
	_, _ = w.Write(msg) // who does not hear the answer sends again
}

// httpError answers what confighttp refuses before the request gets here.
func (r *ingestReceiver) httpError(w http.ResponseWriter, req *http.Request, msg string, code int) {
	a := answer{readable(status.New(codes.InvalidArgument, msg)), code, reasonTransport}
	r.http.done(req.Context(), &request{signal: paths[pathOf(req)], start: time.Now(), remote: req.RemoteAddr, headers: req.Header}, &a)
	writeStatus(w, mediaType(req), code, a.status)
}

func (r *ingestReceiver) startHTTP(ctx context.Context) error {
	if auth := r.cfg.Protocols.HTTP.Get().Auth.Get(); auth != nil {
		a, err := auth.Config.GetServerAuthenticator(ctx, r.host.GetExtensions())
		if err != nil {
			return err
		}
		r.httpGate = gateOf(a, auth.RequestParameters)
	}
	var err error
	if r.legacy, err = r.cfg.LegacyEvents.mapping(); err != nil {
		return err
	}
	r.pages = r.cfg.pages()
	cfg := serverConfig(*r.cfg.Protocols.HTTP.Get(), &r.cfg.Limits)
	if err := r.watchCertificate(ctx, transportHTTP, cfg.TLS.Get()); err != nil {
		return err
	}
	srv, err := cfg.ToServer(ctx, r.host.GetExtensions(), r.set.TelemetrySettings, r, confighttp.WithErrorHandler(r.httpError))
	if err != nil {
		return err
	}
	ln, err := cfg.ToListener(ctx)
	if err != nil {
		return err
	}
	srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return withAge(withConnection(ctx, connectionOf(c)), r.cfg.HTTPConnectionAge)
	}
	r.httpServer, r.httpAddr = srv, ln.Addr()
	r.warnOfStrangers("http", r.httpAddr, cfg.TLS.HasValue(), r.cfg.Protocols.HTTP.Get().Auth.HasValue())
	r.serve("http", ln, srv.Serve, http.ErrServerClosed)
	return nil
}
