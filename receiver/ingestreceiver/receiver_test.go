package ingestreceiver

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap/confmaptest"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"go.opentelemetry.io/collector/receiver/receivertest"
	"google.golang.org/grpc"
	grpcmetadata "google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Guarantees: whatever the signal, the transport and the compression, the pipeline gets the request's own bytes, in one
// envelope that says whose they are and how many events they hold.
func TestARequestArrivesUnchangedWhateverItsWay(t *testing.T) {
	s := &sink{}
	r := start(t, testConfig(), s, nil)
	conn := r.dial()
	for _, sig := range signal.All {
		req := otlptest.Realistic(sig, 7, 50)
		req = protowire.AppendVarint(protowire.AppendTag(req, 1000, protowire.VarintType), 7) // unknown fields stay
		events, err := otlpwire.Count(sig, req, otlpwire.Limits{})
		require.NoError(t, err)
		check := func(t *testing.T) {
			got := s.take()
			require.Len(t, got, 1)
			e := got[0]
			assert.Equal(t, sig, e.Signal)
			assert.Equal(t, "acme", e.Tenant)
			assert.Equal(t, "device-1", e.Source)
			assert.Equal(t, events, e.Events)
			assert.Equal(t, envelope.LaneFast, e.Lane)
			assert.WithinDuration(t, time.Now(), e.Received, patience)
			assert.True(t, bytes.Equal(req, e.Body), "the body is another one")
		}
		for _, encoding := range []string{"", "identity", "gzip", "zstd", "zstd-stream"} {
			t.Run(fmt.Sprintf("%s/http/%s", sig, encoding), func(t *testing.T) {
				name := encoding
				if name == "zstd-stream" {
					name = encodingZstd
				}
				headers := []string{"Content-Type", typeProtobuf, "X-PulseGrid-Tenant", "acme", "X-PulseGrid-Agent", "device-1"}
				if name != "" {
					headers = append(headers, "Content-Encoding", name)
				}
				got := r.post("/v1/"+sig.String(), bytes.NewReader(compress(t, encoding, req)), headers...)
				assert.Equal(t, http.StatusOK, got.code, "%s", got.body)
				assert.Equal(t, typeProtobuf, got.header.Get("Content-Type"))
				assert.Empty(t, got.body)
				check(t)
			})
		}
		for _, compressor := range []string{"", "gzip", "zstd", "snappy"} {
			t.Run(fmt.Sprintf("%s/grpc/%s", sig, compressor), func(t *testing.T) {
				ctx := grpcmetadata.AppendToOutgoingContext(t.Context(), "x-pulsegrid-tenant", "acme", "x-pulsegrid-agent", "device-1")
				var opts []grpc.CallOption
				if compressor != "" {
					opts = append(opts, grpc.UseCompressor(compressor))
				}
				require.NoError(t, raw(ctx, conn, sig, req, opts...))
				check(t)
			})
		}
	}
}

func TestJSONArrivesAsTheSameRequestInProtobuf(t *testing.T) {
	s := &sink{}
	r := start(t, testConfig(), s, nil)
	for _, sig := range signal.All {
		for _, encoding := range []string{"", "gzip", "zstd"} {
			want := toJSON(t, sig, otlptest.Realistic(sig, 3, 20))
			got := r.post("/v1/"+sig.String(), bytes.NewReader(compress(t, encoding, want)), "Content-Type", "application/json; charset=utf-8", "Content-Encoding", encoding)
			assert.Equal(t, http.StatusOK, got.code, "%s", got.body)
			assert.Equal(t, "{}", string(got.body))
			e := s.take()
			require.Len(t, e, 1)
			assert.JSONEq(t, string(want), string(toJSON(t, sig, e[0].Body)))
			assert.Equal(t, defaultTenant, e[0].Tenant)
			assert.Equal(t, otlpwire.Source(sig, e[0].Body), e[0].Source)
		}
	}
}

// Guarantees: OTLP's own generated clients get an answer that they can decode.
func TestStockGRPCClientsAreServed(t *testing.T) {
	s := &sink{}
	r := start(t, testConfig(), s, nil)
	conn := r.dial()
	logs := plogotlp.NewExportRequest()
	require.NoError(t, logs.UnmarshalProto(otlptest.Logs(1, 10)))
	resp, err := plogotlp.NewGRPCClient(conn).Export(t.Context(), logs)
	require.NoError(t, err)
	assert.Zero(t, resp.PartialSuccess().RejectedLogRecords())
	metrics := pmetricotlp.NewExportRequest()
	require.NoError(t, metrics.UnmarshalProto(otlptest.Metrics(1, 10)))
	_, err = pmetricotlp.NewGRPCClient(conn).Export(t.Context(), metrics)
	require.NoError(t, err)
	traces := ptraceotlp.NewExportRequest()
	require.NoError(t, traces.UnmarshalProto(otlptest.Spans(1, 10)))
	_, err = ptraceotlp.NewGRPCClient(conn).Export(t.Context(), traces)
	require.NoError(t, err)
	assert.Len(t, s.take(), 3)
}

func TestRequestsWithoutEventsAreAcceptedAndGoNowhere(t *testing.T) {
	s := &sink{}
	r := start(t, testConfig(), s, nil)
	conn := r.dial()
	noEvents := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), nil)
	for _, sig := range signal.All {
		for _, b := range [][]byte{nil, noEvents} {
			require.NoError(t, raw(t.Context(), conn, sig, b))
			for _, encoding := range []string{"", "gzip", "zstd"} {
				assert.Equal(t, http.StatusOK, r.post("/v1/"+sig.String(), bytes.NewReader(compress(t, encoding, b)), "Content-Type", typeProtobuf, "Content-Encoding", encoding).code)
			}
		}
		assert.Equal(t, http.StatusOK, r.post("/v1/"+sig.String(), bytes.NewReader([]byte("{}")), "Content-Type", typeJSON).code)
	}
	assert.Empty(t, s.take())
}

// Guarantees: with output pdata one receiver feeds three pipelines through one pair of listeners, and a sender cannot claim to
// be another tenant.
func TestPdataGoesToThePipelineOfItsSignal(t *testing.T) {
	cfg := testConfig()
	cfg.Output = outputPdata
	var logs consumertest.LogsSink
	var metrics consumertest.MetricsSink
	set := receivertest.NewNopSettings(metadata.Type())
	lr, err := NewFactory().CreateLogs(t.Context(), set, cfg, &logs)
	require.NoError(t, err)
	mr, err := NewFactory().CreateMetrics(t.Context(), set, cfg, &metrics)
	require.NoError(t, err)
	assert.Same(t, lr, mr)
	r := started(t, lr.(*ingestReceiver), nil)
	require.NoError(t, mr.Start(t.Context(), componenttest.NewNopHost()))

	assert.Equal(t, http.StatusOK, r.post("/v1/logs", bytes.NewReader(otlptest.Logs(1, 5)), "Content-Type", typeProtobuf, "X-PulseGrid-Tenant", "acme").code)
	assert.Equal(t, 5, logs.LogRecordCount())
	o, ok := lineage.ReadResource(logs.AllLogs()[0].ResourceLogs().At(0).Resource().Attributes())
	assert.True(t, ok)
	assert.Equal(t, "acme", o.Tenant)
	require.NoError(t, raw(t.Context(), r.dial(), signal.Metrics, otlptest.Metrics(1, 5)))
	assert.Positive(t, metrics.DataPointCount())
	assert.Equal(t, http.StatusNotFound, r.post("/v1/traces", nil, "Content-Type", typeProtobuf).code)
}

func TestEnvelopesAreRefusedOutsideOfALogsPipeline(t *testing.T) {
	cfg := testConfig()
	set := receivertest.NewNopSettings(metadata.Type())
	_, err := NewFactory().CreateMetrics(t.Context(), set, cfg, consumertest.NewNop())
	assert.ErrorContains(t, err, "metrics pipeline")
	_, err = NewFactory().CreateTraces(t.Context(), set, cfg, consumertest.NewNop())
	assert.ErrorContains(t, err, "output: pdata")
}

func TestShutdownReturnsWhateverWasStarted(t *testing.T) {
	create := func(cfg *Config) *ingestReceiver {
		rec, err := NewFactory().CreateLogs(t.Context(), receivertest.NewNopSettings(metadata.Type()), cfg, consumertest.NewNop())
		require.NoError(t, err)
		return rec.(*ingestReceiver)
	}
	r := create(testConfig())
	require.NoError(t, r.Shutdown(t.Context())) // never started
	require.NoError(t, r.Shutdown(t.Context()))

	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = taken.Close() }()
	cfg := testConfig()
	cfg.Protocols.HTTP.Get().NetAddr.Endpoint = taken.Addr().String()
	r = create(cfg) // gRPC listens already when HTTP fails
	assert.ErrorContains(t, r.Start(t.Context(), componenttest.NewNopHost()), "protocols::http")
	require.NoError(t, r.Shutdown(t.Context()))
}

// Scenario: requests wait in the pipeline when the receiver is shut down.
// Guarantees: they are answered; Shutdown waits for them.
func TestShutdownDrainsRequestsInFlight(t *testing.T) {
	entered, release := make(chan struct{}, 2), make(chan struct{})
	s := &sink{script: func(context.Context) error { entered <- struct{}{}; <-release; return nil }}
	r := start(t, testConfig(), s, nil)
	conn := r.dial()
	answers := make(chan error, 2)
	go func() { answers <- raw(context.Background(), conn, signal.Logs, otlptest.Logs(1, 1)) }()
	go func() {
		resp, err := r.http.Post(r.url+"/v1/logs", typeProtobuf, bytes.NewReader(otlptest.Logs(1, 1)))
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				err = fmt.Errorf("status %d", resp.StatusCode)
			}
		}
		answers <- err
	}()
	<-entered
	<-entered
	stopped := make(chan error, 1)
	go func() { stopped <- r.Shutdown(context.Background()) }()
	select {
	case err := <-stopped:
		t.Fatalf("Shutdown did not wait: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	close(release)
	require.NoError(t, <-answers)
	require.NoError(t, <-answers)
	require.NoError(t, <-stopped)
	assert.Len(t, s.take(), 2)
}

func TestDefaultsAreValidAndErrorsNameTheKey(t *testing.T) {
	require.NoError(t, componenttest.CheckConfigStruct(createDefaultConfig()))
	require.NoError(t, testConfig().Validate())
	for key, breakIt := range map[string]func(*Config){
		"output":                 func(c *Config) { c.Output = "x" },
		"retry_after":            func(c *Config) { c.RetryAfter = 0 },
		"repeats::window":        func(c *Config) { c.Repeats.Window = time.Minute },
		"tenant::default":        func(c *Config) { c.Tenant.Default = "a b" },
		"tenant::header":         func(c *Config) { c.Tenant.Header = "a b" },
		"source_header":          func(c *Config) { c.SourceHeader = "a:b" },
		"max_in_flight_bytes":    func(c *Config) { c.Limits.MaxInFlightBytes = 1 },
		"max_depth":              func(c *Config) { c.Limits.MaxDepth = -1 },
		"read_timeout":           func(c *Config) { c.Limits.ReadTimeout = 0 },
		"max_request_body_size":  func(c *Config) { c.Protocols.HTTP.Get().MaxRequestBodySize = 1 },
		"compression_algorithms": func(c *Config) { c.Protocols.HTTP.Get().CompressionAlgorithms = []string{"gzip"} },
		"http_connection_age":    func(c *Config) { c.HTTPConnectionAge = time.Millisecond },
		"protocols":              func(c *Config) { *c = *createDefaultConfig().(*Config) },
	} {
		cfg := testConfig()
		breakIt(cfg)
		assert.ErrorContains(t, cfg.Validate(), key)
	}
}

func TestREADMEsConfigLoads(t *testing.T) {
	conf, err := confmaptest.LoadConf(filepath.Join("testdata", "config.yaml"))
	require.NoError(t, err)
	sub, err := conf.Sub("ingest")
	require.NoError(t, err)
	cfg := createDefaultConfig().(*Config)
	require.NoError(t, sub.Unmarshal(cfg))
	require.NoError(t, cfg.Validate())
	assert.Equal(t, "0.0.0.0:4317", cfg.Protocols.GRPC.Get().NetAddr.Endpoint)
	assert.Equal(t, 64*mib, cfg.Limits.MaxDecompressedBytes)
}
