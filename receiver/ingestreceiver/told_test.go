package ingestreceiver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcmetadata "google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/refusals"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

// startTold starts a receiver whose log is at hand.
func startTold(t *testing.T, cfg *Config, next *sink, host component.Host) (*rig, *observer.ObservedLogs) {
	t.Helper()
	core, logs := observer.New(zapcore.WarnLevel)
	return startLogging(t, cfg, next, host, zap.New(core)), logs
}

// Guarantees: each way in which a request, or a part of one, is refused is in the log at once, with status, reason, tenant, sender and what the sender
// was told; whoever does it again is in the log once more, with the count.
func TestEveryRefusalIsToldInTheLog(t *testing.T) {
	good := otlptest.Logs(1, 10)
	post := func(path string, body []byte, headers ...string) func(*rig) string {
		return func(r *rig) string {
			return statusOf(t, r.post(path, bytes.NewReader(body), append([]string{"User-Agent", "agent/7"}, headers...)...)).Message()
		}
	}
	call := func(msg []byte, opts ...grpc.CallOption) func(*rig) string {
		return func(r *rig) string {
			ctx := grpcmetadata.AppendToOutgoingContext(t.Context(), defaultTenantHeader, "acme")
			return status.Convert(raw(ctx, r.dial(), signal.Logs, msg, opts...)).Message()
		}
	}
	const protobuf, acme = "Content-Type", "X-Pulsegrid-Tenant"
	fails := func(err error) *sink { return &sink{script: func(context.Context) error { return err }} }
	quota := (&tenant.Refusal{Reason: tenant.ReasonQuota, Code: codes.ResourceExhausted, After: time.Second, Text: "tenant \"acme\" is over its quota"}).GRPCStatus().Err()
	tells := func(lost int) *sink {
		return &sink{script: func(ctx context.Context) error {
			result := envelope.ResultOf(ctx)
			result.Reject(3, `event 0: attribute_type at attributes["k"]: expected double, got string "secret"`)
			result.Lose(lost)
			return nil
		}}
	}
	busy := func(c *Config) {
		c.Limits.MaxInFlightBytes = c.Limits.MaxCompressedBytes + c.Limits.MaxDecompressedBytes
	}
	for name, c := range map[string]struct {
		next   *sink
		change func(*Config)
		full   bool // the budget
		send   func(*rig) string
		want   refusals.Kind // without the sender
		says   string        // empty: what the sender was told
	}{
		"web page": {change: func(c *Config) { c.LocalHosts = []string{"localhost"} }, send: post("/v1/logs", good, protobuf, typeProtobuf, "Origin", "https://evil.example"),
			want: refusals.Kind{Protocol: "http", Status: "403", Reason: "web_page"}},
		"path":         {send: post("/v1/none", nil), want: refusals.Kind{Protocol: "http", Status: "404", Reason: "path"}},
		"content type": {send: post("/v1/logs", good, protobuf, "text/plain"), want: refusals.Kind{Protocol: "http", Status: "415", Reason: "content_type"}},
		"encoding":     {send: post("/v1/logs", good, protobuf, typeProtobuf, "Content-Encoding", "br"), want: refusals.Kind{Protocol: "http", Status: "415", Reason: "content_encoding"}},
		"compression":  {send: post("/v1/logs", good, protobuf, typeProtobuf, "Content-Encoding", "gzip", acme, "acme"), want: refusals.Kind{Protocol: "http", Status: "400", Reason: "compression", Tenant: "acme"}},
		"too large":    {send: post("/v1/logs", make([]byte, 2*mib+1), protobuf, typeProtobuf, acme, "acme"), want: refusals.Kind{Protocol: "http", Status: "413", Reason: "too_large", Tenant: "acme"}},
		"malformed": {send: post("/v1/logs", []byte(`{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":"secret"}]}]}]}`), protobuf, typeJSON, acme, "acme"),
			want: refusals.Kind{Protocol: "http", Status: "400", Reason: "malformed", Tenant: "acme"}, says: `"..."`},
		"header": {send: post("/v1/logs", good, protobuf, typeProtobuf, acme, "a b"), want: refusals.Kind{Protocol: "http", Status: "400", Reason: "header"}},
		"memory": {change: busy, full: true, send: post("/v1/logs", good, protobuf, typeProtobuf, acme, "acme"), want: refusals.Kind{Protocol: "http", Status: "503", Reason: "memory", Tenant: "acme"}},
		"quota": {next: fails(quota), send: post("/v1/logs", good, protobuf, typeProtobuf, acme, "acme"), says: "is over its quota",
			want: refusals.Kind{Protocol: "http", Status: "429", Reason: "quota", Detail: "QUOTA_EXCEEDED", Tenant: "acme"}},
		"memory_limiter": {next: fails(errors.New("data refused due to high memory usage")), send: post("/v1/logs", good, protobuf, typeProtobuf, acme, "acme"),
			want: refusals.Kind{Protocol: "http", Status: "503", Reason: "downstream_retry", Tenant: "acme"}},
		"permanent": {next: fails(consumererror.NewPermanent(errors.New("no"))), send: post("/v1/logs", good, protobuf, typeProtobuf, acme, "acme"),
			want: refusals.Kind{Protocol: "http", Status: "400", Reason: "downstream_permanent", Tenant: "acme"}},
		"legacy": {change: func(c *Config) { c.LegacyEvents.Enabled = true }, send: post("/v1/events", []byte("{"), protobuf, typeJSON, acme, "acme"),
			want: refusals.Kind{Protocol: "http", Status: "400", Reason: "malformed", Tenant: "acme"}},
		"gRPC, malformed":   {send: call(good[:len(good)-3]), want: refusals.Kind{Protocol: "grpc", Status: "InvalidArgument", Reason: "malformed", Tenant: "acme"}},
		"gRPC, memory":      {change: busy, full: true, send: call(good), want: refusals.Kind{Protocol: "grpc", Status: "Unavailable", Reason: "memory", Tenant: "acme"}},
		"gRPC, the library": {send: call(make([]byte, 2*mib+1)), says: "received message larger than max (2097153 vs. 2097152)", want: refusals.Kind{Protocol: "grpc", Status: "ResourceExhausted", Reason: "transport", Tenant: "acme"}},
		"gRPC, quota": {next: fails(quota), send: call(good), says: "is over its quota",
			want: refusals.Kind{Protocol: "grpc", Status: "ResourceExhausted", Reason: "quota", Detail: "QUOTA_EXCEEDED", Tenant: "acme"}},
		"gRPC, path": {want: refusals.Kind{Protocol: "grpc", Status: "Unimplemented", Reason: "path"}, send: func(r *rig) string {
			return status.Convert(r.dial().Invoke(t.Context(), "/a.Service/Export", &clientFrame{good}, &frame{}, grpc.ForceCodecV2(clientCodec{}))).Message()
		}},
		"events in quarantine": {next: tells(0), want: refusals.Kind{Protocol: "http", Status: "200", Reason: "events_quarantined", Tenant: "acme"}, says: `3 events were put into quarantine`,
			send: func(r *rig) string {
				return string(r.post("/v1/logs", bytes.NewReader(good), protobuf, typeProtobuf, acme, "acme", "User-Agent", "agent/7").body)
			}},
		"gRPC, events lost": {next: tells(2), want: refusals.Kind{Protocol: "grpc", Status: "OK", Reason: "events_lost", Tenant: "acme"}, says: `2 events were refused and are kept nowhere`, send: call(good)},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := smallLimits()
			if c.change != nil {
				c.change(cfg)
			}
			if c.next == nil {
				c.next = &sink{}
			}
			r, logs := startTold(t, cfg, c.next, nil)
			if c.full {
				other := &reservation{of: r.budget}
				require.True(t, other.grow(int(r.budget.limit)))
				defer other.release()
			}
			told := c.send(r)
			require.Eventually(t, func() bool { return len(all(logs)) == 1 }, patience, time.Millisecond)
			got := all(logs)[0]
			require.Equal(t, zapcore.WarnLevel, got.Level)
			fields := got.ContextMap()
			require.Equal(t, c.want.Protocol, fields["protocol"])
			require.Equal(t, c.want.Status, fields["status"])
			require.Equal(t, c.want.Reason, fields["reason"])
			require.Equal(t, c.want.Tenant, orEmpty(fields["tenant"]))
			require.Equal(t, c.want.Detail, orEmpty(fields["detail"]))
			require.Equal(t, "127.0.0.1", fields["sender"])
			require.Regexp(t, "^(agent/7|grpc-go/)", fields["user_agent"])
			if c.says == "" {
				c.says = told
			}
			require.NotEmpty(t, c.says)
			require.Contains(t, fields["example"], c.says)
			require.NotContains(t, fields["example"], "secret")
			c.send(r)
			c.send(r)
			require.NoError(t, r.Shutdown(context.Background()))
			require.Len(t, all(logs), 2)
			require.EqualValues(t, 3, all(logs)[1].ContextMap()["requests"])
		})
	}
}

func orEmpty(v any) string { s, _ := v.(string); return s }

// all lines that say that requests are refused.
func all(logs *observer.ObservedLogs) []observer.LoggedEntry {
	return logs.FilterMessage(refusals.Message).All()
}

// Guarantees: who may not come in is told of too, with the tenant of the credentials where there is one.
func TestWhoMayNotComeInIsToldInTheLog(t *testing.T) {
	busy := status.Error(codes.Unavailable, "the registry is not read yet")
	guesses := (&tenant.Refusal{Reason: "TOO_MANY_WRONG_CREDENTIALS", Code: codes.ResourceExhausted, After: time.Second, Text: "the credential is not valid"}).GRPCStatus().Err()
	for name, c := range map[string]struct {
		fails                          error
		headers                        []string
		http, code                     string
		reason, detail, tenant, secret string
	}{
		"without credentials": {headers: []string{"x-who", "hunter2"}, http: "401", code: "Unauthenticated", reason: "unauthenticated", secret: "hunter2"},
		"not now":             {fails: busy, http: "503", code: "Unavailable", reason: "not_authenticated"},
		"guesses":             {fails: guesses, http: "429", code: "ResourceExhausted", reason: "guesses", detail: "TOO_MANY_WRONG_CREDENTIALS"},
		"suspended":           {headers: []string{"x-who", "gone"}, http: "403", code: "PermissionDenied", reason: "forbidden", detail: tenant.ReasonSuspended, tenant: "gone"},
		"elsewhere":           {headers: []string{"x-who", "europe"}, http: "403", code: "PermissionDenied", reason: "forbidden", detail: tenant.ReasonJurisdiction, tenant: "europe"},
		"another cell's":      {headers: []string{"x-who", "moved"}, http: "503", code: "Unavailable", reason: "elsewhere", detail: tenant.ReasonCell, tenant: "moved"},
		"another's name": {headers: []string{"x-who", "acme", "x-pulsegrid-tenant", "logs"}, http: "403", code: "PermissionDenied", reason: "forbidden", detail: tenant.ReasonSpoofed,
			tenant: "acme"},
		"no such name": {headers: []string{"x-who", "acme", "x-pulsegrid-tenant", "hunter2!"}, http: "400", code: "InvalidArgument", reason: "header", tenant: "acme", secret: "hunter2"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGatekeeper(t)
			g.fails = c.fails
			r, logs := startTold(t, guarded(testConfig()), &sink{}, hostWith{gatekeeperID: g})
			for _, err := range both(r, signal.Logs, c.headers...) {
				require.Error(t, err)
			}
			require.Len(t, all(logs), 2)
			for i, want := range []struct{ protocol, status string }{{"http", c.http}, {"grpc", c.code}} {
				fields := all(logs)[i].ContextMap()
				require.Equal(t, want.protocol, fields["protocol"])
				require.Equal(t, want.status, fields["status"])
				require.Equal(t, c.reason, fields["reason"])
				require.Equal(t, c.detail, orEmpty(fields["detail"]))
				require.Equal(t, c.tenant, orEmpty(fields["tenant"]))
				if c.secret != "" {
					require.NotContains(t, fmt.Sprint(fields), c.secret)
				}
			}
		})
	}
}

// Scenario: the 147 requests of one agent that are all refused.
// Guarantees: one line at once and one with the sum; requests that are accepted leave none.
func TestManyRefusalsOfAKindAreOneLineAndTheirSum(t *testing.T) {
	r, logs := startTold(t, testConfig(), &sink{}, nil)
	for range 147 {
		require.Equal(t, http.StatusBadRequest, r.post("/v1/logs", strings.NewReader("{"), "Content-Type", typeJSON).code)
		require.Equal(t, http.StatusOK, r.post("/v1/logs", bytes.NewReader(otlptest.Logs(1, 1)), "Content-Type", typeProtobuf).code)
	}
	require.NoError(t, r.Shutdown(context.Background()))
	require.Len(t, all(logs), 2)
	require.EqualValues(t, 147, all(logs)[1].ContextMap()["requests"])
}

// Guarantees: a sender that is too slow, and one that leaves, are told of although nobody may hear the answer.
func TestSlowAndLeavingSendersAreToldInTheLog(t *testing.T) {
	example := map[string]any{} // by reason
	for _, leaves := range []bool{false, true} {
		cfg := testConfig()
		if !leaves {
			cfg.Limits.ReadTimeout = 200 * time.Millisecond
		}
		r, logs := startTold(t, cfg, &sink{}, nil)
		conn, err := net.Dial("tcp", r.httpAddr.String())
		require.NoError(t, err)
		defer func() { _ = conn.Close() }()
		_, err = fmt.Fprintf(conn, "POST /v1/logs HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: 1000\r\n\r\nabc", typeProtobuf)
		require.NoError(t, err)
		if leaves {
			require.NoError(t, conn.Close())
		}
		require.Eventually(t, func() bool { return len(all(logs)) == 1 }, patience, time.Millisecond)
		fields := all(logs)[0].ContextMap()
		example[fields["reason"].(string)] = fields["example"]
	}
	require.Equal(t, "only 3 bytes of the body came within 200ms (read_timeout)", example["slow"])
	require.Contains(t, example["disconnected"], "after 3 bytes")
}

// Scenario: data of another jurisdiction, over both transports.
// Guarantee: the log has why it was refused and whose it is, and nothing else of who sent it: it stays in this jurisdiction.
func TestTheLogDoesNotTellWhoSendsAnotherJurisdictionsData(t *testing.T) {
	r, logs := startTold(t, guarded(testConfig()), &sink{}, hostWith{gatekeeperID: newGatekeeper(t)})
	for transport, err := range both(r, signal.Logs, "x-who", "europe") {
		requireDenied(t, err)
		require.Eventually(t, func() bool { return logs.FilterField(zap.String("protocol", transport)).Len() == 1 }, patience, time.Millisecond)
		fields := logs.FilterField(zap.String("protocol", transport)).All()[0].ContextMap()
		require.Equal(t, tenant.ReasonJurisdiction, fields["detail"])
		require.Equal(t, "europe", fields["tenant"])
		require.Empty(t, fields["sender"])
		require.NotContains(t, fields, "user_agent")
	}
}
