package ingestreceiver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcmetadata "google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

// bomb is gzip of n zero bytes.
func bomb(t testing.TB, n int64) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	require.NoError(t, err)
	_, err = io.Copy(w, io.LimitReader(zeros{}, n))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.Bytes()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func deepProtobuf(depth int) []byte {
	wrap := func(b []byte, field protowire.Number) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, field, protowire.BytesType), b)
	}
	var v []byte
	for range depth {
		v = wrap(wrap(v, 1), 5)
	}
	return wrap(wrap(wrap(wrap(v, 5), 2), 2), 1)
}

func deepJSON(depth int) string {
	return `{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":` + strings.Repeat(`{"arrayValue":{"values":[`, depth) + strings.Repeat(`]}}`, depth) + `}]}]}]}`
}

// smallLimits make the table's large bodies small.
func smallLimits() *Config {
	cfg := testConfig()
	cfg.Limits.MaxCompressedBytes = 256 << 10
	cfg.Limits.MaxDecompressedBytes = 2 * mib
	cfg.Limits.MaxInFlightBytes = 16 * mib
	cfg.Limits.MaxEvents = 100
	return cfg
}

// statusOf decodes the google.rpc.Status of an answer in the encoding that it claims.
func statusOf(t testing.TB, r reply) *status.Status {
	t.Helper()
	p := &spb.Status{}
	if r.header.Get("Content-Type") == typeProtobuf {
		require.NoError(t, proto.Unmarshal(r.body, p))
	} else {
		require.Equal(t, typeJSON, r.header.Get("Content-Type"))
		require.NoError(t, protojson.Unmarshal(r.body, p), "%s", r.body)
	}
	require.NotEmpty(t, p.GetMessage())
	return status.FromProto(p)
}

// assertForSenders: a text for senders holds no marks of libraries or of this program.
func assertForSenders(t testing.TB, text string) {
	t.Helper()
	assert.NotRegexp(t, `(?i)rpc error|permanent error|(^|: )(grpc|http|ingest|otlpwire|gzip|zlib|zstd): |%!`, text)
	assert.NotEmpty(t, text)
}

func TestMarksOfLibrariesAreLeftOut(t *testing.T) {
	for text, want := range map[string]string{
		"rpc error: code = ResourceExhausted desc = quota":                                    "quota",
		"Permanent error: tenant acme: rpc error: code = Internal desc = grpc: too large (1)": "tenant acme: too large (1)",
		"Permanent error: Permanent error: otlpwire: a request of 5 bytes":                    "a request of 5 bytes",
		"bad (http: broken) at http://a: see limits::http: x":                                 "bad (broken) at http://a: see limits::http: x",
		"Permanent error: ":    "InvalidArgument",
		"":                     "InvalidArgument",
		"nothing to leave out": "nothing to leave out",
		"not \xff UTF-8":       "not \uFFFD UTF-8",
	} {
		assert.Equal(t, want, readable(status.New(codes.InvalidArgument, text)).Message())
	}
	wrapped := answerTo(fmt.Errorf("tenant acme: %w", status.Error(codes.ResourceExhausted, "quota")), time.Second)
	assert.Equal(t, "tenant acme: quota", wrapped.status.Message())
}

// Guarantees: each row of the README's table over HTTP: status, code, a text, and nothing goes downstream; the connection's
// next request is served.
func TestEveryRefusalOverHTTPIsAsDocumented(t *testing.T) {
	s := &sink{}
	r := start(t, smallLimits(), s, nil)
	good := otlptest.Logs(1, 10)
	random := make([]byte, 300<<10) // does not compress
	for i, x := 0, uint32(1); i < len(random); i++ {
		x = x*1664525 + 1013904223
		random[i] = byte(x >> 24)
	}
	many := otlptest.Logs(1, 101)
	for _, c := range []struct {
		name, path, contentType, encoding string
		body                              []byte
		header                            string
		http                              int
		code                              codes.Code
		says                              string
	}{
		{"truncated", "/v1/logs", typeProtobuf, "", good[:len(good)-3], "", 400, codes.InvalidArgument, `at byte`},
		{"not JSON", "/v1/logs", typeJSON, "", []byte(`{"resourceLogs":[`), "", 400, codes.InvalidArgument, `at byte 17: the body ends`},
		{"content type", "/v1/logs", "text/plain", "", good, "", 415, codes.InvalidArgument, `"text/plain", want application/x-protobuf or application/json`},
		{"no content type", "/v1/logs", "", "", good, "", 415, codes.InvalidArgument, `content type is "", want`},
		{"content encoding", "/v1/logs", typeProtobuf, "br", good, "", 415, codes.InvalidArgument, `"br"`},
		{"two encodings", "/v1/logs", typeProtobuf, "gzip, zstd", good, "", 415, codes.InvalidArgument, `gzip, zstd`},
		{"not gzip", "/v1/logs", typeProtobuf, "gzip", good, "", 400, codes.InvalidArgument, `body is not gzip: invalid header`},
		{"not zstd", "/v1/logs", typeProtobuf, "zstd", good, "", 400, codes.InvalidArgument, `body is not zstd: `},
		{"cut gzip", "/v1/logs", typeProtobuf, "gzip", compress(t, "gzip", good)[:100], "", 400, codes.InvalidArgument, `body is not gzip: `},
		{"cut zstd", "/v1/logs", typeProtobuf, "zstd", compress(t, "zstd", good)[:100], "", 400, codes.InvalidArgument, `body is not zstd: `},
		{"path", "/v1/profiles", typeProtobuf, "", good, "", 404, codes.Unimplemented, `profiles`},
		{"too large", "/v1/logs", typeProtobuf, "", make([]byte, 2*mib+1), "", 413, codes.InvalidArgument, `body has 2097153 bytes, at most 2097152 are allowed (max_decompressed_bytes)`},
		{"too large compressed", "/v1/logs", typeProtobuf, "gzip", compress(t, "gzip", random), "", 413, codes.InvalidArgument, `at most 262144 are allowed (max_compressed_bytes)`},
		{"too deep", "/v1/logs", typeProtobuf, "", deepProtobuf(10_000), "", 400, codes.InvalidArgument, `deeper than 64 levels`},
		{"too deep JSON", "/v1/logs", typeJSON, "", []byte(deepJSON(10_000)), "", 400, codes.InvalidArgument, `at most 212 levels are allowed`},
		{"too many events", "/v1/logs", typeProtobuf, "", many, "", 413, codes.InvalidArgument, `101, at most 100 are allowed`},
		{"JSON of too many events", "/v1/logs", typeJSON, "", toJSON(t, signal.Logs, many), "", 413, codes.InvalidArgument, `101 at byte`},
		{"tenant", "/v1/logs", typeProtobuf, "", good, "a b", 400, codes.InvalidArgument, `has " " at byte 1, want letters`},
		{"long tenant", "/v1/logs", typeProtobuf, "", good, strings.Repeat("a", tenant.MaxIDBytes+1), 400, codes.InvalidArgument, `has 129 bytes, at most 128 are allowed`},
	} {
		t.Run(c.name, func(t *testing.T) {
			headers := []string{"Content-Type", c.contentType}
			if c.encoding != "" {
				headers = append(headers, "Content-Encoding", c.encoding)
			}
			if c.header != "" {
				headers = append(headers, defaultTenantHeader, c.header)
			}
			got := r.post(c.path, bytes.NewReader(c.body), headers...)
			assert.Equal(t, c.http, got.code, "%s", got.body)
			st := statusOf(t, got)
			assert.Equal(t, c.code, st.Code())
			assert.Contains(t, st.Message(), c.says)
			assertForSenders(t, st.Message())
			assert.Empty(t, got.header.Get("Retry-After"))
			assert.Empty(t, s.take())
			assert.Equal(t, http.StatusOK, r.post("/v1/logs", bytes.NewReader(good), "Content-Type", typeProtobuf).code)
			assert.Len(t, s.take(), 1)
		})
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+"/v1/logs", nil)
	require.NoError(t, err)
	got := r.do(req)
	assert.Equal(t, http.StatusMethodNotAllowed, got.code)
	assert.Equal(t, `method is "GET", want POST`, statusOf(t, got).Message())
	assert.Equal(t, http.MethodPost, got.header.Get("Allow"))
	got = r.post("/v1/logs", bytes.NewReader(good), "Content-Type", typeProtobuf, defaultTenantHeader, "a", defaultTenantHeader, "b")
	assert.Equal(t, http.StatusBadRequest, got.code)
}

// Scenario: JSON whose numbers take four times as much in protobuf.
// Guarantees: what it takes is reserved; what can never fit is refused for good, what does not fit now may come again.
func TestJSONThatBecomesTooLargeIsRefused(t *testing.T) {
	s := &sink{}
	cfg := testConfig()
	cfg.Limits.MaxCompressedBytes, cfg.Limits.MaxDecompressedBytes, cfg.Limits.MaxInFlightBytes = mib, mib, 3*mib
	r := start(t, cfg, s, nil)
	buckets := func(n int) *strings.Reader {
		return strings.NewReader(`{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"histogram":{"dataPoints":[{"bucketCounts":[1` + strings.Repeat(",1", n) + `]}]}}]}]}]}`)
	}
	got := r.post("/v1/metrics", buckets(500_000), "Content-Type", typeJSON)
	assert.Equal(t, http.StatusRequestEntityTooLarge, got.code)
	assert.Contains(t, statusOf(t, got).Message(), "or protobuf")
	assert.Empty(t, s.take())
	assert.Equal(t, http.StatusOK, r.post("/v1/metrics", buckets(50_000), "Content-Type", typeJSON).code)
	other := &reservation{of: r.budget}
	require.True(t, other.grow(2*mib+mib/2))
	defer other.release()
	assert.Equal(t, http.StatusServiceUnavailable, r.post("/v1/metrics", buckets(50_000), "Content-Type", typeJSON).code)
}

func TestEveryRefusalOverGRPCIsAsDocumented(t *testing.T) {
	s := &sink{}
	r := start(t, smallLimits(), s, nil)
	conn := r.dial()
	good := otlptest.Logs(1, 10)
	for _, c := range []struct {
		name   string
		msg    []byte
		opts   []grpc.CallOption
		tenant string
		code   codes.Code
		says   string
	}{
		{"truncated", good[:len(good)-3], nil, "", codes.InvalidArgument, `at byte`},
		{"too large", make([]byte, 2*mib+1), nil, "", codes.ResourceExhausted, `(2097153 vs. 2097152)`},
		{"too large, compressed", make([]byte, 2*mib+1), []grpc.CallOption{grpc.UseCompressor("gzip")}, "", codes.ResourceExhausted, `2097152`},
		{"too deep", deepProtobuf(10_000), nil, "", codes.InvalidArgument, `deeper than 64 levels`},
		{"too many events", otlptest.Logs(1, 101), nil, "", codes.InvalidArgument, `101, at most 100 are allowed`},
		{"tenant", good, nil, "a b", codes.InvalidArgument, `has " " at byte 1, want letters`},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := t.Context()
			if c.tenant != "" {
				ctx = grpcmetadata.AppendToOutgoingContext(ctx, defaultTenantHeader, c.tenant)
			}
			err := raw(ctx, conn, signal.Logs, c.msg, c.opts...)
			assert.Equal(t, c.code, status.Code(err), "%v", err)
			assert.Contains(t, status.Convert(err).Message(), c.says)
			assertForSenders(t, strings.TrimPrefix(status.Convert(err).Message(), "grpc: ")) // the library's own answers
			assert.Nil(t, retryDelay(status.Convert(err)))
			assert.Empty(t, s.take())
		})
	}
	err := conn.Invoke(t.Context(), "/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export", &clientFrame{good}, &frame{}, grpc.ForceCodecV2(clientCodec{}))
	assert.Equal(t, codes.Unimplemented, status.Code(err))
}

func TestTheRatioIsJudgedBeyondWhatTheStockReceiverTakes(t *testing.T) {
	s := &sink{}
	r := start(t, testConfig(), s, nil)
	beyond := make([]byte, ratioFloor+1)
	for _, encoding := range []string{encodingGzip, encodingZstd, "zstd-stream"} {
		got := r.post("/v1/logs", bytes.NewReader(compress(t, encoding, beyond)), "Content-Type", typeProtobuf, "Content-Encoding", strings.TrimSuffix(encoding, "-stream"))
		assert.Equal(t, http.StatusRequestEntityTooLarge, got.code)
		assert.Contains(t, statusOf(t, got).Message(), "ratio")
	}
	conn := r.dial()
	for _, compressor := range []string{"gzip", "zstd"} {
		st := status.Convert(raw(t.Context(), conn, signal.Logs, beyond, grpc.UseCompressor(compressor)))
		assert.Equal(t, codes.InvalidArgument, st.Code())
		assert.Contains(t, st.Message(), "ratio")
	}
	assert.Empty(t, s.take())
}

// Guarantees: what the pipeline says reaches the sender, over both transports: code, details and RetryInfo where it has them.
func TestErrorsOfThePipelineReachTheSender(t *testing.T) {
	throttled, err := status.New(codes.ResourceExhausted, "quota").WithDetails(
		&errdetails.RetryInfo{RetryDelay: durationpb.New(1500 * time.Millisecond)}, &errdetails.ErrorInfo{Reason: "QUOTA"})
	require.NoError(t, err)
	for _, c := range []struct {
		name       string
		err        error
		http       int
		code       codes.Code
		retryAfter string
		details    int
	}{
		{"any", errors.New("broken"), 503, codes.Unavailable, "5", 1},
		{"permanent", consumererror.NewPermanent(errors.New("bad")), 400, codes.InvalidArgument, "", 0},
		{"throttled", throttled.Err(), 429, codes.ResourceExhausted, "2", 2},
		{"throttled, wrapped", consumererror.NewPermanent(fmt.Errorf("tenant acme: %w", throttled.Err())), 429, codes.ResourceExhausted, "2", 2},
		{"resource exhausted", status.Error(codes.ResourceExhausted, "x"), 429, codes.ResourceExhausted, "", 0},
		{"denied", status.Error(codes.PermissionDenied, "x"), 403, codes.PermissionDenied, "", 0},
		{"unauthenticated", status.Error(codes.Unauthenticated, "x"), 401, codes.Unauthenticated, "", 0},
		{"unavailable", status.Error(codes.Unavailable, "x"), 503, codes.Unavailable, "5", 1},
		{"internal", status.Error(codes.Internal, "x"), 500, codes.Internal, "", 0},
		{"deadline", context.DeadlineExceeded, 503, codes.DeadlineExceeded, "", 0},
		{"cancelled", fmt.Errorf("kafka: %w", context.Canceled), 503, codes.Canceled, "", 0},
		{"retryable", consumererror.NewRetryableError(errors.New("x")), 503, codes.Unavailable, "5", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := start(t, testConfig(), &sink{script: func(context.Context) error { return c.err }}, nil)
			good := otlptest.Logs(1, 1)
			for _, contentType := range []string{typeProtobuf, typeJSON} {
				body := good
				if contentType == typeJSON {
					body = toJSON(t, signal.Logs, good)
				}
				got := r.post("/v1/logs", bytes.NewReader(body), "Content-Type", contentType)
				assert.Equal(t, c.http, got.code)
				assert.Equal(t, contentType, got.header.Get("Content-Type"))
				assert.Equal(t, c.retryAfter, got.header.Get("Retry-After"))
				st := statusOf(t, got)
				assert.Equal(t, c.code, st.Code())
				assert.Len(t, st.Details(), c.details)
			}
			st := status.Convert(raw(t.Context(), r.dial(), signal.Logs, good))
			assert.Equal(t, c.code, st.Code())
			assert.Len(t, st.Details(), c.details)
		})
	}
}

func TestMoreBytesInFlightThanAllowedAreAskedToComeAgain(t *testing.T) {
	s := &sink{}
	r := start(t, testConfig(), s, nil)
	other := &reservation{of: r.budget}
	require.True(t, other.grow(int(r.budget.limit)-100))
	good := otlptest.Logs(1, 10)
	for _, encoding := range []string{"", "gzip", "zstd"} {
		got := r.post("/v1/logs", bytes.NewReader(compress(t, encoding, good)), "Content-Type", typeProtobuf, "Content-Encoding", encoding)
		assert.Equal(t, http.StatusServiceUnavailable, got.code)
		assert.Equal(t, "5", got.header.Get("Retry-After"))
		assert.Regexp(t, `hold \d+ bytes and this one needs \d+ more, at most 268435456 are allowed`, statusOf(t, got).Message())
	}
	err := raw(t.Context(), r.dial(), signal.Logs, good)
	assert.Regexp(t, `hold \d+ bytes and this one needs \d+ more, at most 268435456 are allowed`, err.Error())
	assert.Equal(t, codes.Unavailable, status.Code(err))
	assert.NotNil(t, retryDelay(status.Convert(err)))
	other.release()
	assert.Equal(t, http.StatusOK, r.post("/v1/logs", bytes.NewReader(good), "Content-Type", typeProtobuf).code)
}

// Guarantees: a bomb costs what it is allowed to become at most, whatever it says of itself.
func TestABombOfOneGiBCostsLittleMemory(t *testing.T) {
	r := start(t, testConfig(), &sink{}, nil)
	b := bomb(t, 1<<30)
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	got := r.post("/v1/logs", bytes.NewReader(b), "Content-Type", typeProtobuf, "Content-Encoding", "gzip")
	runtime.ReadMemStats(&after)
	assert.Equal(t, http.StatusRequestEntityTooLarge, got.code)
	assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(3*defaultMaxDecompressedBytes), "bytes allocated")
}

// Guarantees: a sender that stalls is answered within limits.read_timeout and holds nothing longer; one that leaves costs nothing.
func TestSlowAndLeavingSendersHoldNothing(t *testing.T) {
	cfg := testConfig()
	cfg.Limits.ReadTimeout = 200 * time.Millisecond
	s := &sink{}
	r := start(t, cfg, s, nil)
	send := func() net.Conn {
		conn, err := net.Dial("tcp", r.httpAddr.String())
		require.NoError(t, err)
		_, err = fmt.Fprintf(conn, "POST /v1/logs HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: 1000\r\n\r\nabc", typeProtobuf)
		require.NoError(t, err)
		return conn
	}
	slow := send()
	defer func() { _ = slow.Close() }()
	require.NoError(t, slow.SetReadDeadline(time.Now().Add(patience)))
	answer := make([]byte, 1024)
	n, err := slow.Read(answer)
	require.NoError(t, err)
	assert.Contains(t, string(answer[:n]), "503 Service Unavailable")
	assert.Contains(t, string(answer[:n]), "only 3 bytes of the body came within 200ms")
	require.NoError(t, send().Close())
	assert.Eventually(t, func() bool { return r.budget.used.Load() == 0 }, patience, time.Millisecond)
	assert.Empty(t, s.take())
}

// Guarantees: limits.read_timeout ends with the body: a pipeline that takes longer is waited for.
func TestTheReadTimeoutDoesNotCutOffTheNextHop(t *testing.T) {
	cfg := testConfig()
	cfg.Limits.ReadTimeout = time.Second
	r := start(t, cfg, &sink{script: func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(1500 * time.Millisecond):
			return nil
		}
	}}, nil)
	assert.Equal(t, http.StatusOK, r.post("/v1/logs", bytes.NewReader(otlptest.Logs(1, 1)), "Content-Type", typeProtobuf).code)
}

// Guarantee: a request that stores would write out as gigabytes goes nowhere; a large resource of many small events, as there are, does.
func TestARequestWhoseEventsShareTooMuchIsRefused(t *testing.T) {
	s := &sink{}
	r := start(t, testConfig(), s, nil)
	for _, sig := range signal.All {
		path := "/v1/" + sig.String()
		bad := r.post(path, bytes.NewReader(otlptest.Shared(sig, 9000, 450<<10)), "Content-Type", typeProtobuf)
		require.Equal(t, http.StatusRequestEntityTooLarge, bad.code, sig)
		require.Contains(t, statusOf(t, bad).Message(), "share too much")
		good := r.post(path, bytes.NewReader(otlptest.Shared(sig, 6000, 8_000)), "Content-Type", typeProtobuf)
		require.Equal(t, http.StatusOK, good.code, sig)
	}
	require.Len(t, s.take(), len(signal.All))
}

// Guarantees: metadata.yaml and README know every reason, and README every status.
func TestReasonsAreDocumented(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	for _, r := range []*refusal{refusedWebPage, refusedMethod, refusedPath, refusedContentType, refusedEncoding, refusedCompression, refusedTooLarge,
		refusedRatio, refusedMalformed, refusedTooDeep, refusedTooMany, refusedRepetitive, refusedHeader, refusedMemory, refusedSlow, refusedGone} {
		assert.Regexp(t, regexp.MustCompile(`enum: \[.*\b`+r.reason+`\b`), string(metadataYAML))
		assert.Regexp(t, regexp.MustCompile("(?m)^\\|.*\\| "+fmt.Sprint(r.http)+" \\| "+r.code.String()+".*`"+r.reason+"` \\|$"), string(readme))
	}
	for _, reason := range []string{reasonUnauthenticated, reasonNotAsked, reasonGuesses, reasonTransport, reasonDownstreamPermanent, reasonDownstreamRetry, reasonQuota} {
		assert.Contains(t, string(metadataYAML), reason)
		assert.Contains(t, string(readme), "`"+reason+"`")
	}
	config, err := os.ReadFile("testdata/config.yaml")
	require.NoError(t, err)
	assert.Contains(t, string(readme), string(config))
}
