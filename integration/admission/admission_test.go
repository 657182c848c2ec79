package admission

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.uber.org/zap"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/refusals"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

type reply struct {
	code   int
	header http.Header
	status *status.Status
}

// post sends protobuf as a tenant, or as nobody where it has no key.
func (g *gateway) post(as, path string, body []byte, headers ...string) reply {
	g.t.Helper()
	req, err := http.NewRequestWithContext(g.t.Context(), http.MethodPost, g.http+path, bytes.NewReader(body))
	require.NoError(g.t, err)
	req.Header.Set("Content-Type", "application/x-protobuf")
	if key := g.keys[as]; key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr, Timeout: patience}).Do(req)
	require.NoError(g.t, err)
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	require.NoError(g.t, err)
	p := &spb.Status{}
	if resp.StatusCode != http.StatusOK && resp.Header.Get("Content-Type") == "application/x-protobuf" {
		require.NoError(g.t, proto.Unmarshal(text, p))
	}
	return reply{resp.StatusCode, resp.Header, status.FromProto(p)}
}

func (g *gateway) as(id string) context.Context {
	if key := g.keys[id]; key != "" {
		return metadata.AppendToOutgoingContext(g.t.Context(), "authorization", "Bearer "+key)
	}
	return g.t.Context()
}

// logs sends by gRPC, with the Collector's own client.
func (g *gateway) logs(ctx context.Context, body []byte, opts ...grpc.CallOption) error {
	req := plogotlp.NewExportRequest()
	require.NoError(g.t, req.UnmarshalProto(body))
	_, err := plogotlp.NewGRPCClient(g.grpc).Export(ctx, req, opts...)
	return err
}

func details(s *status.Status) (reason string, info map[string]string, retry time.Duration) {
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			reason, info = d.GetReason(), d.GetMetadata()
		case *errdetails.RetryInfo:
			retry = d.GetRetryDelay().AsDuration()
		}
	}
	return reason, info, retry
}

func zip(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(b)
	_ = w.Close()
	return out.Bytes()
}

// Guarantees: each check of the gateway, in its order, is answered by HTTP and gRPC as documented; what was refused is in no topic.
func TestEachCheckIsAnsweredAsDocumented(t *testing.T) {
	g := start(t, nil).ready()
	good, metrics := otlptest.Logs(1, 10), otlptest.Metrics(1, 10)
	mr := pmetricotlp.NewExportRequest()
	require.NoError(t, mr.UnmarshalProto(metrics))
	sendMetrics := func(id string) error {
		_, err := pmetricotlp.NewGRPCClient(g.grpc).Export(g.as(id), mr)
		return err
	}
	spoof := plogotlp.NewExportRequest()
	require.NoError(t, spoof.UnmarshalProto(good))
	stranger, _, _ := tenant.NewKey()
	for _, c := range []struct {
		name   string
		http   func() reply
		grpc   func() error // nil: gRPC has no such case, or the library answers it
		code   int
		status codes.Code
		reason string
		retry  bool
	}{
		{"too large", func() reply { return g.post("acme", "/v1/logs", make([]byte, 4_000_001)) }, nil, 413, codes.InvalidArgument, "", false},
		{"bomb", func() reply {
			return g.post("acme", "/v1/logs", zip(make([]byte, 40_000_000)), "Content-Encoding", "gzip")
		}, nil, 413, codes.InvalidArgument, "", false},
		{"content type", func() reply { return g.post("acme", "/v1/logs", good, "Content-Type", "text/plain") }, nil, 415, codes.OK, "", false},
		{"no credentials", func() reply { return g.post("", "/v1/logs", good) }, func() error { return g.logs(g.as(""), good) }, 401, codes.Unauthenticated, "CREDENTIALS_MISSING", false},
		{"wrong credentials", func() reply { return g.post("", "/v1/logs", good, "X-Api-Key", stranger) }, func() error {
			return g.logs(metadata.AppendToOutgoingContext(t.Context(), "x-api-key", stranger), good)
		}, 401, codes.Unauthenticated, "CREDENTIALS_INVALID", false},
		{"suspended", func() reply { return g.post("gone", "/v1/logs", good) }, func() error { return g.logs(g.as("gone"), good) }, 403, codes.PermissionDenied, tenant.ReasonSuspended, false},
		{"signal", func() reply { return g.post("logs", "/v1/metrics", metrics) }, func() error { return sendMetrics("logs") }, 403, codes.PermissionDenied, tenant.ReasonSignal, false},
		{"jurisdiction", func() reply { return g.post("europe", "/v1/logs", good) }, func() error { return g.logs(g.as("europe"), good) }, 403, codes.PermissionDenied, tenant.ReasonJurisdiction, false},
		{"cell", func() reply { return g.post("moved", "/v1/logs", good) }, func() error { return g.logs(g.as("moved"), good) }, 503, codes.Unavailable, tenant.ReasonCell, true},
		{"another tenant's name", func() reply { return g.post("acme", "/v1/logs", good, "X-Pulsegrid-Tenant", "europe") }, func() error {
			return g.logs(metadata.AppendToOutgoingContext(g.as("acme"), "x-pulsegrid-tenant", "europe"), good)
		}, 403, codes.PermissionDenied, tenant.ReasonSpoofed, false},
		{"no OTLP", func() reply { return g.post("acme", "/v1/logs", good[:len(good)-2]) }, nil, 400, codes.InvalidArgument, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			check := func(s *status.Status) {
				require.Equal(t, c.status, s.Code(), s.Message())
				reason, info, retry := details(s)
				require.Equal(t, c.reason, reason)
				require.Equal(t, c.retry, retry > 0)
				if c.reason == tenant.ReasonJurisdiction {
					require.Equal(t, "https://ingest.eu.example.com", info["endpoint"])
				}
				if c.reason == tenant.ReasonCell {
					require.Equal(t, "https://us-2.example.com", info["endpoint"])
				}
			}
			got := c.http()
			require.Equal(t, c.code, got.code, got.status.Message())
			check(got.status)
			if c.grpc != nil {
				check(status.Convert(c.grpc()))
			}
		})
	}
	for _, topic := range g.topics() {
		require.Empty(t, g.records(topic), topic)
	}
	require.Equal(t, 200, g.post("acme", "/v1/logs", good).code)
	require.NoError(t, g.logs(g.as("acme"), good))
	require.Equal(t, map[string]int{"acme": 20}, g.records("otlp.logs.v1"))
}

// Guarantees: the quota by the fast lane, the burst by the overflow lane's topic, then 429 with the time to come again; the client that obeys gets through.
func TestAQuotasLanesAndItsRefusal(t *testing.T) {
	g := start(t, nil).ready()
	body := otlptest.Logs(1, 100)
	require.Equal(t, 200, g.post("small", "/v1/logs", body).code)
	accepted, refusedWith := 100, time.Duration(0)
	for refusedWith == 0 {
		got := g.post("small", "/v1/logs", body)
		if got.code == 200 {
			accepted += 100
			continue
		}
		require.Equal(t, 429, got.code)
		require.Equal(t, codes.ResourceExhausted, got.status.Code())
		var reason string
		reason, _, refusedWith = details(got.status)
		require.Equal(t, tenant.ReasonQuota, reason)
		require.Regexp(t, `^[1-9]\d*$`, got.header.Get("Retry-After"))
		require.Positive(t, refusedWith)
	}
	// By gRPC the same; and who comes when told is taken.
	deadline := time.Now().Add(patience)
	for {
		err := g.logs(g.as("small"), body)
		if err == nil {
			accepted += 100
			break
		}
		_, _, retry := details(status.Convert(err))
		require.Positive(t, retry, "%v", err)
		require.True(t, time.Now().Before(deadline))
		time.Sleep(retry)
	}
	fast, over := g.records("otlp.logs.v1"), g.records("otlp.logs.overflow.v1")
	require.GreaterOrEqual(t, fast["small"], 100)
	require.GreaterOrEqual(t, over["small"], 200)
	require.Equal(t, accepted, fast["small"]+over["small"], "all that was accepted is there, and nothing else")
	var told []map[string]any
	for _, line := range g.log.FilterMessage(refusals.Message).FilterField(zap.String("detail", tenant.ReasonQuota)).All() {
		told = append(told, line.ContextMap())
	}
	require.NotEmpty(t, told, "the operator sees it too")
	require.Equal(t, "429", told[0]["status"])
	require.Equal(t, "small", told[0]["tenant"])
	require.Equal(t, "127.0.0.1", told[0]["sender"])
	require.Contains(t, told[0]["example"], "over its quota of logs, 100 events/s")
}

// Scenario: one tenant sends far beyond its quota while another sends within its own.
// Guarantees: nothing of the other's is refused or put into the overflow lane, and all that was accepted of both is there.
func TestAStormOfOneTenantLeavesAnotherAlone(t *testing.T) {
	g := start(t, nil).ready()
	body := otlptest.Logs(1, 100)
	var mu sync.Mutex
	stormed, refused := 0, 0
	var storm sync.WaitGroup
	for range 4 {
		storm.Go(func() {
			for range 50 {
				err := g.logs(g.as("small"), body)
				mu.Lock()
				if err == nil {
					stormed += 100
				} else {
					refused++
				}
				mu.Unlock()
			}
		})
	}
	for range 50 {
		require.NoError(t, g.logs(g.as("acme"), body))
	}
	storm.Wait()
	require.Positive(t, refused)
	fast, over := g.records("otlp.logs.v1"), g.records("otlp.logs.overflow.v1")
	require.Equal(t, 5000, fast["acme"])
	require.Zero(t, over["acme"])
	require.Equal(t, stormed, fast["small"]+over["small"])
}

// Guarantees: until the registry can be read nothing is accepted, and everybody is told to come again; nothing is misrouted.
func TestWithoutARegistryNothingIsAccepted(t *testing.T) {
	g := start(t, nil)
	g.keys["acme"], _, _ = tenant.NewKey()
	body := otlptest.Logs(1, 10)
	for _, as := range []string{"acme", ""} {
		got := g.post(as, "/v1/logs", body)
		require.Equal(t, 503, got.code)
		require.NotEmpty(t, got.header.Get("Retry-After"))
		reason, _, retry := details(status.Convert(g.logs(g.as(as), body)))
		require.Equal(t, tenant.ReasonUnavailable, reason)
		require.Positive(t, retry)
	}
	g.ready()
	for _, topic := range g.topics() {
		require.Empty(t, g.records(topic))
	}
	require.NoError(t, os.RemoveAll(g.registry))
	require.Equal(t, 200, g.post("acme", "/v1/logs", body).code, "what was read last stays in force")
	require.NoError(t, os.MkdirAll(g.registry, 0o700))
	g.write("tenants.yaml", "tenants: [{id: somebody}]\n")
	require.Eventually(t, func() bool { return g.post("acme", "/v1/logs", body).code == 401 }, patience, 20*time.Millisecond, "a key that was taken out")
}

// Guarantees: while Kafka is away senders within their quota are told to come again.
func TestWithoutKafkaSendersAreToldToComeAgain(t *testing.T) {
	g := start(t, nil).ready()
	g.kafka.Close()
	got := g.post("acme", "/v1/logs", otlptest.Logs(1, 10))
	require.Equal(t, 503, got.code)
	require.Equal(t, codes.Unavailable, got.status.Code())
	require.NotEmpty(t, got.header.Get("Retry-After"))
}

// Guarantees: a request of another jurisdiction leaves nothing of it in Kafka nor in the registry's directory: a marker in it is found nowhere.
func TestAnotherJurisdictionsDataLeavesNoTrace(t *testing.T) {
	g := start(t, nil).ready()
	const marker = "marker-6f1d2c"
	req := plogotlp.NewExportRequest()
	req.Logs().ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty().Body().SetStr(marker)
	body, err := req.MarshalProto()
	require.NoError(t, err)
	require.Equal(t, 403, g.post("europe", "/v1/logs", body).code)
	require.Equal(t, codes.PermissionDenied, status.Code(g.logs(g.as("europe"), body)))
	for _, topic := range g.topics() {
		require.Empty(t, g.records(topic), topic)
	}
	files, err := filepath.Glob(filepath.Join(g.registry, "*"))
	require.NoError(t, err)
	for _, f := range files {
		text, err := os.ReadFile(f)
		require.NoError(t, err)
		require.False(t, strings.Contains(string(text), marker))
	}
}
