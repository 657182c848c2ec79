package ingestreceiver

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"go.opentelemetry.io/collector/receiver/receivertest"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/pulsegrid/pulsegrid/internal/composition"
	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/testkit/leaktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(leaktest.Patient(m)) }

const patience = time.Minute

// sink is a pipeline: it keeps envelopes, their bodies by reference, unless script says otherwise.
type sink struct {
	script func(context.Context) error

	mu  sync.Mutex
	got []envelope.Envelope
}

func (s *sink) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

func (s *sink) ConsumeLogs(ctx context.Context, ld plog.Logs) error {
	if composition.Walking(ctx) {
		return nil // it asks how the pipeline is composed, and is no data
	}
	if s.script != nil {
		if err := s.script(ctx); err != nil {
			return err
		}
	}
	all, err := envelope.All(ld)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, all...)
	return nil
}

// take returns what has come since it was called last.
func (s *sink) take() []envelope.Envelope {
	s.mu.Lock()
	defer s.mu.Unlock()
	got := s.got
	s.got = nil
	return got
}

// testConfig listens on free ports.
func testConfig() *Config {
	cfg := createDefaultConfig().(*Config)
	cfg.Protocols.HTTP.GetOrInsertDefault().NetAddr.Endpoint = "127.0.0.1:0"
	cfg.Protocols.GRPC.GetOrInsertDefault().NetAddr.Endpoint = "127.0.0.1:0"
	return cfg
}

type rig struct {
	*ingestReceiver
	t    testing.TB
	url  string
	http *http.Client
}

func start(t testing.TB, cfg *Config, next consumer.Logs, host component.Host) *rig {
	t.Helper()
	return startLogging(t, cfg, next, host, zap.NewNop())
}

func startLogging(t testing.TB, cfg *Config, next consumer.Logs, host component.Host, logger *zap.Logger) *rig {
	t.Helper()
	require.NoError(t, cfg.Validate())
	set := receivertest.NewNopSettings(metadata.Type())
	set.Logger = logger
	rec, err := NewFactory().CreateLogs(t.Context(), set, cfg, next)
	require.NoError(t, err)
	return started(t, rec.(*ingestReceiver), host)
}

// startMeasured starts a receiver whose metrics can be read.
func startMeasured(t testing.TB, cfg *Config, next consumer.Logs, host component.Host) (*rig, *componenttest.Telemetry) {
	t.Helper()
	telemetry := componenttest.NewTelemetry()
	t.Cleanup(func() { require.NoError(t, telemetry.Shutdown(context.Background())) })
	set := receivertest.NewNopSettings(metadata.Type())
	set.TelemetrySettings = telemetry.NewTelemetrySettings()
	rec, err := NewFactory().CreateLogs(t.Context(), set, cfg, next)
	require.NoError(t, err)
	return started(t, rec.(*ingestReceiver), host), telemetry
}

func started(t testing.TB, r *ingestReceiver, host component.Host) *rig {
	t.Helper()
	if host == nil {
		host = componenttest.NewNopHost()
	}
	require.NoError(t, r.Start(t.Context(), host))
	tr := &http.Transport{}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := r.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if n := r.budget.used.Load(); n != 0 {
			t.Errorf("%d bytes are still reserved", n)
		}
	})
	return &rig{r, t, "http://" + r.httpAddr.String(), &http.Client{Transport: tr, Timeout: patience}}
}

// reply is an HTTP answer, read.
type reply struct {
	code   int
	header http.Header
	body   []byte
	closes bool // the connection is not used again
}

func (r *rig) post(path string, body io.Reader, headers ...string) reply {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodPost, r.url+path, body)
	require.NoError(r.t, err)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	return r.do(req)
}

func (r *rig) do(req *http.Request) reply {
	r.t.Helper()
	resp, err := r.http.Do(req)
	require.NoError(r.t, err)
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	require.NoError(r.t, err)
	return reply{resp.StatusCode, resp.Header, b, resp.Close}
}

func (r *rig) dial(opts ...grpc.DialOption) *grpc.ClientConn {
	r.t.Helper()
	if len(opts) == 0 {
		opts = []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	}
	conn, err := grpc.NewClient("passthrough:///"+r.grpcAddr.String(), opts...)
	require.NoError(r.t, err)
	r.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// raw sends bytes as a message, whatever they are.
func raw(ctx context.Context, conn *grpc.ClientConn, s signal.Signal, msg []byte, opts ...grpc.CallOption) error {
	out := &frame{}
	in := &clientFrame{msg}
	opts = append(opts, grpc.ForceCodecV2(clientCodec{}))
	return conn.Invoke(ctx, "/"+services[s]+"/Export", in, out, opts...)
}

func compress(t testing.TB, encoding string, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	switch encoding {
	case encodingGzip:
		w := gzip.NewWriter(&out)
		_, _ = w.Write(b)
		require.NoError(t, w.Close())
	case encodingZstd:
		w, err := zstd.NewWriter(nil)
		require.NoError(t, err)
		defer func() { _ = w.Close() }()
		return w.EncodeAll(b, nil)
	case "zstd-stream": // of unknown content size
		w, err := zstd.NewWriter(&out)
		require.NoError(t, err)
		_, _ = io.Copy(w, bytes.NewReader(b))
		require.NoError(t, w.Close())
	default:
		return b
	}
	return out.Bytes()
}

func pdataOf(t testing.TB, s signal.Signal, b []byte) otlptest.Request {
	t.Helper()
	req := otlptest.NewRequest(s)
	require.NoError(t, req.UnmarshalProto(b))
	return req
}

// toJSON is independent of the receiver's own way round.
func toJSON(t testing.TB, s signal.Signal, b []byte) []byte {
	t.Helper()
	out, err := pdataOf(t, s, b).MarshalJSON()
	require.NoError(t, err)
	return out
}

func asPdataWritesIt(t testing.TB, s signal.Signal, b []byte) []byte {
	t.Helper()
	out, err := pdataOf(t, s, b).MarshalProto()
	require.NoError(t, err)
	return out
}

func decodes(s signal.Signal, b []byte) error {
	switch s {
	case signal.Logs:
		return plogotlp.NewExportRequest().UnmarshalProto(b)
	case signal.Metrics:
		return pmetricotlp.NewExportRequest().UnmarshalProto(b)
	}
	return ptraceotlp.NewExportRequest().UnmarshalProto(b)
}
