package probe

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/encoding/gzip" // the compressor of stock exporters
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Outcomes of a request, as metadata.yaml explains them.
const (
	outcomeOK          = "ok"
	outcomePartial     = "partial"
	outcomeThrottled   = "throttled"
	outcomeUnavailable = "unavailable"
	outcomeTimeout     = "timeout"
	outcomeRefused     = "refused"
)

const (
	answerMax = 64 << 10 // bytes of an answer that are read
	detailMax = 300      // bytes of an answer that are quoted
)

// failure is why a request is not acknowledged.
type failure struct{ outcome, detail string }

func (f failure) Error() string { return f.outcome + ": " + f.detail }

// connections are those of one round. Each round makes its own, as an agent that has just been started: a pooled connection hides a name that no longer resolves or a certificate
// that has ended, and one that has failed is tried again ever later, so that it would tell of an outage that is over.
type connections struct {
	config *Config
	http   *http.Client
	grpc   *grpc.ClientConn
}

func (c *Config) connect() (*connections, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig, transport.DisableCompression = c.TLS.Clone(), true
	u, err := url.Parse(c.GRPC)
	if err != nil {
		return nil, err
	}
	secure := insecure.NewCredentials()
	if u.Scheme == "https" {
		secure = credentials.NewTLS(c.TLS.Clone())
	}
	conn, err := grpc.NewClient(u.Host, grpc.WithTransportCredentials(secure), grpc.WithUserAgent(c.Agent))
	if err != nil {
		return nil, err
	}
	redirects := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &connections{c, &http.Client{Transport: transport, CheckRedirect: redirects}, conn}, nil
}

func (c *connections) close() {
	c.http.CloseIdleConnections()
	_ = c.grpc.Close() // fails only for one that is closed
}

// send sends an event's request once. Its error is a failure.
func (c *connections) send(ctx context.Context, e *event) (err error) {
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	if e.Protocol == overGRPC {
		err = c.call(ctx, e)
	} else {
		err = c.post(ctx, e)
	}
	if _, judged := errors.AsType[failure](err); err != nil && !judged {
		err = failure{outcomeUnavailable, err.Error()}
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = failure{outcomeTimeout, fmt.Sprintf("no answer within %s", c.config.Timeout)}
		}
	}
	return err
}

func (c *connections) call(ctx context.Context, e *event) (err error) {
	for name, value := range c.config.Headers {
		ctx = metadata.AppendToOutgoingContext(ctx, name, value)
	}
	var options []grpc.CallOption
	if e.Compression == compressed {
		options = append(options, grpc.UseCompressor("gzip"))
	}
	var rejected int64
	var message string
	switch e.signal {
	case signal.Logs:
		var r plogotlp.ExportResponse
		if r, err = plogotlp.NewGRPCClient(c.grpc).Export(ctx, e.logs(), options...); err == nil {
			rejected, message = r.PartialSuccess().RejectedLogRecords(), r.PartialSuccess().ErrorMessage()
		}
	case signal.Metrics:
		var r pmetricotlp.ExportResponse
		if r, err = pmetricotlp.NewGRPCClient(c.grpc).Export(ctx, e.metrics(), options...); err == nil {
			rejected, message = r.PartialSuccess().RejectedDataPoints(), r.PartialSuccess().ErrorMessage()
		}
	case signal.Traces:
		var r ptraceotlp.ExportResponse
		if r, err = ptraceotlp.NewGRPCClient(c.grpc).Export(ctx, e.traces(), options...); err == nil {
			rejected, message = r.PartialSuccess().RejectedSpans(), r.PartialSuccess().ErrorMessage()
		}
	}
	if err != nil {
		return grpcFailure(err)
	}
	return partial(rejected, message)
}

func grpcFailure(err error) failure {
	s := status.Convert(err)
	f := failure{outcomeRefused, fmt.Sprintf("%s: %s", s.Code(), quote(s.Message()))}
	switch s.Code() {
	case codes.ResourceExhausted:
		f.outcome = outcomeThrottled
	case codes.Unavailable, codes.Aborted:
		f.outcome = outcomeUnavailable
	case codes.DeadlineExceeded:
		f.outcome = outcomeTimeout
	}
	return f
}

// exportRequest is what the requests of all signals can do.
type exportRequest interface {
	MarshalProto() ([]byte, error)
	MarshalJSON() ([]byte, error)
}

func (e *event) request() exportRequest {
	switch e.signal {
	case signal.Logs:
		return e.logs()
	case signal.Metrics:
		return e.metrics()
	}
	return e.traces()
}

func (c *connections) post(ctx context.Context, e *event) error {
	marshal, contentType := e.request().MarshalProto, "application/x-protobuf"
	if e.Protocol == httpJSON {
		marshal, contentType = e.request().MarshalJSON, "application/json"
	}
	body, err := marshal()
	if err != nil {
		return err
	}
	if e.Compression == compressed {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		if _, err := w.Write(body); err != nil {
			return err
		}
		if err := w.Close(); err != nil {
			return err
		}
		body = b.Bytes()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(c.config.HTTP, "/")+"/v1/"+e.signal.String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	for name, value := range c.config.Headers {
		req.Header.Set(name, value)
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("User-Agent", c.config.Agent)
	if e.Compression == compressed {
		req.Header.Set("Content-Encoding", "gzip")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // the URL says nothing new
		}
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, answerMax))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return httpFailure(resp.StatusCode, answer)
	}
	rejected, message, err := e.read(answer)
	if err != nil {
		return failure{outcomeRefused, fmt.Sprintf("status 200 with an answer that is no OTLP: %v", err)}
	}
	return partial(rejected, message)
}

func httpFailure(code int, answer []byte) failure {
	f := failure{outcomeRefused, fmt.Sprintf("status %d: %s", code, quote(string(answer)))}
	switch code {
	case http.StatusTooManyRequests:
		f.outcome = outcomeThrottled
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		f.outcome = outcomeUnavailable
	}
	return f
}

// read returns what an answer says of partial success.
func (e *event) read(answer []byte) (rejected int64, message string, err error) {
	parse := func(proto, json func([]byte) error) error {
		if e.Protocol == httpJSON {
			return json(answer)
		}
		return proto(answer)
	}
	switch e.signal {
	case signal.Logs:
		r := plogotlp.NewExportResponse()
		err = parse(r.UnmarshalProto, r.UnmarshalJSON)
		return r.PartialSuccess().RejectedLogRecords(), r.PartialSuccess().ErrorMessage(), err
	case signal.Metrics:
		r := pmetricotlp.NewExportResponse()
		err = parse(r.UnmarshalProto, r.UnmarshalJSON)
		return r.PartialSuccess().RejectedDataPoints(), r.PartialSuccess().ErrorMessage(), err
	}
	r := ptraceotlp.NewExportResponse()
	err = parse(r.UnmarshalProto, r.UnmarshalJSON)
	return r.PartialSuccess().RejectedSpans(), r.PartialSuccess().ErrorMessage(), err
}

// partial is nil where nothing was rejected. A message without that is a warning, which costs the event nothing.
func partial(rejected int64, message string) error {
	if rejected == 0 {
		return nil
	}
	return failure{outcomePartial, fmt.Sprintf("rejected %d events: %s", rejected, quote(message))}
}

// quote is the beginning of a foreign text, in one line and printable.
func quote(text string) string {
	text = strings.ToValidUTF8(text[:min(len(text), detailMax)], "?")
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, text)
}

// tlsConfig of connections where none is given.
var tlsConfig = &tls.Config{MinVersion: tls.VersionTLS12}
