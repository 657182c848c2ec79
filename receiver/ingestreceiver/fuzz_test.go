package ingestreceiver

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	grpcmetadata "google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/receiver/receivertest"
)

// deadlineWriter is a ResponseRecorder that a read deadline can be set on.
type deadlineWriter struct{ *httptest.ResponseRecorder }

func (deadlineWriter) SetReadDeadline(time.Time) error { return nil }

func fuzzed(f *testing.F) (*ingestReceiver, *sink) {
	s := &sink{}
	cfg := smallLimits()
	cfg.Limits.MaxDecompressedBytes = mib
	rec, err := NewFactory().CreateLogs(context.Background(), receivertest.NewNopSettings(metadata.Type()), cfg, s)
	require.NoError(f, err)
	f.Cleanup(func() { _ = rec.Shutdown(context.Background()) })
	return rec.(*ingestReceiver), s
}

// check holds what is true of any request: what goes on is within the limits and decodes, and nothing stays reserved.
func check(t *testing.T, r *ingestReceiver, s *sink, ok bool) {
	t.Helper()
	got := s.take()
	if len(got) > 1 || len(got) == 1 && !ok {
		t.Fatalf("%d envelopes went on, and the answer was OK: %v", len(got), ok)
	}
	for _, e := range got {
		if e.Events < 1 || e.Events > r.cfg.Limits.MaxEvents || len(e.Body) > 2*r.cfg.Limits.MaxDecompressedBytes {
			t.Fatalf("%d events in %d bytes went on", e.Events, len(e.Body))
		}
		if err := decodes(e.Signal, e.Body); err != nil {
			t.Fatalf("accepted, but pdata says: %v", err)
		}
	}
	if n := r.budget.used.Load(); n != 0 {
		t.Fatalf("%d bytes are still reserved", n)
	}
}

func serveFuzzed(t *testing.T, r *ingestReceiver, s *sink, path, contentType, encoding string, body []byte) {
	t.Helper()
	req := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
	req.URL.Path = path
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Content-Encoding", encoding)
	w := deadlineWriter{httptest.NewRecorder()}
	r.ServeHTTP(w, req)
	if !slices.Contains([]int{200, 400, 404, 413, 415, 503}, w.Code) {
		t.Fatalf("status %d is not documented for a body", w.Code)
	}
	check(t, r, s, w.Code == http.StatusOK)
}

func FuzzHTTPBody(f *testing.F) {
	r, s := fuzzed(f)
	for i, sig := range signal.All {
		for _, encoding := range []string{"", encodingGzip, encodingZstd} {
			b := compress(f, encoding, otlptest.Realistic(sig, uint64(i), 3))
			f.Add("/v1/"+sig.String(), typeProtobuf, encoding, b)
			f.Add("/v1/"+sig.String(), typeProtobuf, encoding, b[:len(b)-1])
		}
	}
	f.Add("/v1/logs", typeProtobuf, encodingGzip, bomb(f, 2*mib))
	f.Add("/v1/logs", typeProtobuf, encodingZstd, append(compress(f, "zstd", []byte("a")), compress(f, "zstd-stream", make([]byte, 2*mib))...))
	f.Add("//v1/logs", "text/plain", "br", []byte("x"))
	f.Fuzz(func(t *testing.T, path, contentType, encoding string, body []byte) {
		serveFuzzed(t, r, s, path, contentType, encoding, body)
	})
}

func FuzzJSON(f *testing.F) {
	r, s := fuzzed(f)
	for i, sig := range signal.All {
		f.Add(uint8(i), toJSON(f, sig, otlptest.Realistic(sig, 1, 2)))
	}
	f.Add(uint8(0), []byte(deepJSON(200)))
	f.Add(uint8(1), []byte(`{"resourceMetrics":[null,{"x":"\"{"}]}`))
	f.Fuzz(func(t *testing.T, which uint8, body []byte) {
		serveFuzzed(t, r, s, "/v1/"+signal.All[int(which)%len(signal.All)].String(), typeJSON, "", body)
	})
}

func FuzzGRPC(f *testing.F) {
	r, s := fuzzed(f)
	for i, sig := range signal.All {
		b := otlptest.Realistic(sig, 1, 2)
		f.Add(uint8(i), b, len(b))
		f.Add(uint8(i), b[:len(b)-1], 1)
	}
	f.Fuzz(func(t *testing.T, which uint8, msg []byte, compressed int) {
		ctx, err := r.tapCall(context.WithValue(t.Context(), inboundKey{}, newInbound(r.budget)), &tap.Info{})
		require.NoError(t, err)
		c := ctx.Value(callKey{}).(*call)
		defer c.end()
		c.compressed = max(0, min(compressed, 1<<30))
		err = r.exportGRPC(&oneCall{ctx: ctx, msg: msg}, signal.All[int(which)%len(signal.All)])
		if code := status.Code(err); code != codes.OK && code != codes.InvalidArgument && code != codes.Unavailable {
			t.Fatalf("code %v is not documented for a message", code)
		}
		check(t, r, s, err == nil)
	})
}

// oneCall is a call that has brought one message.
type oneCall struct {
	grpc.ServerStream
	ctx context.Context
	msg []byte
}

func (c *oneCall) Context() context.Context   { return c.ctx }
func (c *oneCall) SendMsg(any) error          { return nil }
func (c *oneCall) SetTrailer(grpcmetadata.MD) {}
func (c *oneCall) RecvMsg(m any) error {
	m.(*frame).data = mem.BufferSlice{mem.SliceBuffer(c.msg)}
	return nil
}
