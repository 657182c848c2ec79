package ingestreceiver

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/config/configauth"
	"go.opentelemetry.io/collector/config/configgrpc"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/config/configtls"
	"go.opentelemetry.io/collector/extension/extensionauth"
	"go.opentelemetry.io/collector/receiver/receivertest"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	grpcmetadata "google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/pulsegrid/pulsegrid/internal/fileset"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
	"github.com/pulsegrid/pulsegrid/internal/testkit/collectortest"
)

// gatekeeper is an authenticator with a registry: the credential `x-who: ID` is as good as any.
type gatekeeper struct {
	component.StartFunc
	component.ShutdownFunc
	loader *tenant.Loader
	fails  error
	seen   atomic.Pointer[peer.Peer]
}

func (g *gatekeeper) Snapshot() *tenant.Snapshot { return g.loader.Snapshot() }
func (g *gatekeeper) Jurisdiction() string       { return "us" }
func (g *gatekeeper) Cell() string               { return "us-1" }

func (g *gatekeeper) Authenticate(ctx context.Context, sources map[string][]string) (context.Context, error) {
	p, _ := peer.FromContext(ctx)
	g.seen.Store(p)
	if g.fails != nil {
		return ctx, g.fails
	}
	for _, name := range []string{"X-Who", "x-who", "who"} {
		if v := sources[name]; len(v) == 1 {
			if t := g.Snapshot().Tenant(v[0]); t != nil {
				return tenant.NewContext(ctx, tenant.Identity{Tenant: t, Credential: tenant.CredentialKey}), nil
			}
		}
	}
	return ctx, errors.New("who are you?")
}

func newGatekeeper(t testing.TB) *gatekeeper {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "t.yaml"), []byte(`
jurisdictions: {eu: {endpoint: "https://ingest.eu.example.com"}}
cells: {us-1: {jurisdiction: us, endpoint: "https://us-1.example.com", shed: {trial: refuse}}, us-2: {jurisdiction: us, endpoint: "https://us-2.example.com"}}
tenants:
  - {id: acme, jurisdiction: us}
  - {id: moved, jurisdiction: us, home: us-2, cells: [us-2]}
  - {id: small, jurisdiction: us, class: trial}
  - {id: europe, jurisdiction: eu, class: premium}
  - {id: gone, status: suspended}
  - {id: logs, signals: [logs]}
`), 0o600))
	source, err := fileset.Open(t.Context(), dir)
	require.NoError(t, err)
	g := &gatekeeper{loader: tenant.NewLoader(source)}
	report, err := g.loader.Reload(t.Context())
	require.NoError(t, err)
	require.Empty(t, report.Refused)
	return g
}

var gatekeeperID = component.MustNewID("gatekeeper")

func guarded(cfg *Config) *Config {
	cfg.Protocols.HTTP.Get().Auth = configoptional.Some(confighttp.AuthConfig{Config: configauth.Config{AuthenticatorID: gatekeeperID}, RequestParameters: []string{"who"}})
	cfg.Protocols.GRPC.Get().Auth = configoptional.Some(configauth.Config{AuthenticatorID: gatekeeperID})
	return cfg
}

// transports send a realistic request of a signal, and return what its sender hears.
var transports = map[string]func(r *rig, s signal.Signal, headers ...string) error{
	"http": func(r *rig, s signal.Signal, headers ...string) error {
		got := r.post("/v1/"+s.String(), bytes.NewReader(otlptest.Realistic(s, 1, 3)), append([]string{"Content-Type", typeProtobuf}, headers...)...)
		if got.code == http.StatusOK {
			return nil
		}
		st := statusOf(r.t, got)
		require.Equal(r.t, httpStatus(st.Code()), got.code)
		return st.Err()
	},
	"grpc": func(r *rig, s signal.Signal, headers ...string) error {
		return raw(grpcmetadata.AppendToOutgoingContext(r.t.Context(), headers...), r.dial(), s, otlptest.Realistic(s, 1, 3))
	},
}

// both sends it by each transport, and returns what its sender hears, by transport.
func both(r *rig, s signal.Signal, headers ...string) map[string]error {
	out := map[string]error{}
	for _, transport := range []string{"http", "grpc"} {
		out[transport] = transports[transport](r, s, headers...)
	}
	return out
}

// Guarantees: the tenant is that of the credentials; a header may repeat it, and must not name another one.
func TestTheTenantIsThatOfTheCredentials(t *testing.T) {
	s := &sink{}
	r := start(t, guarded(testConfig()), s, hostWith{gatekeeperID: newGatekeeper(t)})
	for transport, err := range both(r, signal.Logs, "x-who", "acme") {
		require.NoError(t, err, transport)
	}
	for transport, err := range both(r, signal.Logs, "x-who", "acme", "x-pulsegrid-tenant", "acme", "x-pulsegrid-agent", "a-1") {
		require.NoError(t, err, transport)
	}
	got := s.take()
	require.Len(t, got, 4)
	for _, e := range got {
		require.Equal(t, "acme", e.Tenant)
	}
	require.Equal(t, "a-1", got[3].Source)
	for transport, err := range both(r, signal.Logs, "x-who", "acme", "x-pulsegrid-tenant", "europe") {
		require.Equal(t, tenant.ReasonSpoofed, requireDenied(t, err).Reason, transport)
	}
	for transport, err := range both(r, signal.Logs, "x-pulsegrid-tenant", "acme") {
		require.Equal(t, codes.Unauthenticated, status.Code(err), transport)
		require.ErrorContains(t, err, "who are you?")
	}
	require.Empty(t, s.take())
	require.Equal(t, http.StatusOK, r.post("/v1/logs?who=acme", bytes.NewReader(otlptest.Logs(1, 1)), "Content-Type", typeProtobuf).code, "auth::request_params")
}

// Scenario: one tenant has 40 uploads under way that never end, more than all requests together may hold.
// Guarantees: another tenant is served; the one is asked to come again; what it held is free when its senders leave.
func TestSlowUploadsOfOneTenantLeaveRoomForOthers(t *testing.T) {
	cfg := guarded(testConfig())
	cfg.Limits.MaxCompressedBytes, cfg.Limits.MaxDecompressedBytes, cfg.Limits.MaxInFlightBytes = mib, mib, 16*mib
	cfg.Limits.ReadTimeout = time.Hour
	r := start(t, cfg, &sink{}, hostWith{gatekeeperID: newGatekeeper(t)})
	var slow []net.Conn
	for n := range int64(40) {
		conn, err := net.Dial("tcp", r.httpAddr.String())
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		slow = append(slow, conn)
		_, err = fmt.Fprintf(conn, "POST /v1/logs HTTP/1.1\r\nHost: x\r\nX-Who: acme\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n", typeProtobuf, mib)
		require.NoError(t, err)
		go func() { _, _ = conn.Write(make([]byte, mib-1)) }() // those beyond the share are refused
		if n < 8 {                                             // they fill the share
			require.Eventually(t, func() bool { return r.budget.used.Load() == (n+1)*mib }, patience, time.Millisecond)
		}
	}
	for range 20 {
		for transport, err := range both(r, signal.Logs, "x-who", "logs") {
			require.NoError(t, err, transport)
		}
		r.budget.mu.Lock()
		held := r.budget.tenants["acme"]
		r.budget.mu.Unlock()
		require.LessOrEqual(t, held, int64(8*mib))
	}
	large := bytes.Repeat([]byte{0x7a, 0}, mib/2-1) // an empty field of no message of OTLP
	require.Equal(t, http.StatusServiceUnavailable, r.post("/v1/logs", bytes.NewReader(large), "Content-Type", typeProtobuf, "x-who", "acme").code)
	for _, conn := range slow {
		_ = conn.Close()
	}
	require.Eventually(t, func() bool {
		r.budget.mu.Lock()
		defer r.budget.mu.Unlock()
		return r.budget.used.Load() == 0 && len(r.budget.tenants) == 0
	}, patience, 10*time.Millisecond)
	require.NoError(t, both(r, signal.Logs, "x-who", "acme")["http"])
}

func requireDenied(t testing.TB, err error) *errdetails.ErrorInfo {
	t.Helper()
	st, _ := status.FromError(err)
	require.Equal(t, codes.PermissionDenied, st.Code(), "%v", err)
	require.Len(t, st.Details(), 1)
	info, ok := st.Details()[0].(*errdetails.ErrorInfo)
	require.True(t, ok)
	return info
}

// Guarantees: who may not send here hears why, and where to send; nothing of it goes downstream.
func TestATenantThatThisCellDoesNotTakeIsRefusedByItsHeaders(t *testing.T) {
	s := &sink{}
	r, telemetry := startMeasured(t, guarded(testConfig()), s, hostWith{gatekeeperID: newGatekeeper(t)})
	for who, want := range map[string]string{"europe": tenant.ReasonJurisdiction, "gone": tenant.ReasonSuspended, "logs": tenant.ReasonSignal} {
		for transport, err := range both(r, signal.Traces, "x-who", who) {
			info := requireDenied(t, err)
			require.Equal(t, want, info.Reason, transport)
			require.Equal(t, who, info.Metadata["tenant"])
			if want == tenant.ReasonJurisdiction {
				require.Equal(t, map[string]string{"tenant": "europe", "jurisdiction": "eu", "cell": "us-1", "cell_jurisdiction": "us", "endpoint": "https://ingest.eu.example.com"}, info.Metadata)
				require.ErrorContains(t, err, "send to https://ingest.eu.example.com")
			}
		}
	}
	require.Empty(t, s.take())
	m, err := telemetry.GetMetric("otelcol_ingest_denied")
	require.NoError(t, err)
	counts := map[string]int64{}
	for _, p := range m.Data.(metricdata.Sum[int64]).DataPoints {
		class, _ := p.Attributes.Value("class")
		decision, _ := p.Attributes.Value("decision")
		counts[class.AsString()+" "+decision.AsString()] += p.Value
	}
	require.Equal(t, map[string]int64{"premium wrong_jurisdiction": 2, "standard tenant_suspended": 2, "standard signal_not_allowed": 2}, counts)
}

// Scenario: a tenant that may be in another cell of the same jurisdiction only sends here.
// Guarantees: it is told where to send and when to come again, over HTTP by another connection; nothing of it goes downstream, and it does not count as the cell's failure.
func TestATenantOfAnotherCellIsToldToComeAgain(t *testing.T) {
	s := &sink{}
	r, telemetry := startMeasured(t, guarded(testConfig()), s, hostWith{gatekeeperID: newGatekeeper(t)})
	for transport, err := range both(r, signal.Logs, "x-who", "moved") {
		st, _ := status.FromError(err)
		require.Equal(t, codes.Unavailable, st.Code(), transport)
		require.Equal(t, tenant.ReasonCell, errorReason(st), transport)
		require.Equal(t, 10*time.Second, retryDelay(st).AsDuration(), transport)
		require.Contains(t, st.Message(), "send to https://us-2.example.com", transport)
	}
	got := r.post("/v1/logs", bytes.NewReader(otlptest.Logs(1, 1)), "Content-Type", typeProtobuf, "X-Who", "moved")
	require.Equal(t, http.StatusServiceUnavailable, got.code)
	require.Equal(t, "10", got.header.Get("Retry-After"))
	require.True(t, got.closes, "the connection is not used again")
	require.Empty(t, s.take())
	require.EqualValues(t, 3, collectortest.Sum(t, telemetry.Reader, "ingest_denied", "class=standard", "decision=wrong_cell"))
	require.EqualValues(t, 3, collectortest.Sum(t, telemetry.Reader, "ingest_refused", "reason=elsewhere"))
	require.EqualValues(t, 3, collectortest.Sum(t, telemetry.Reader, "ingest_refused"))
}

// Scenario: the cell cannot take everything, and sheds the class of a tenant.
// Guarantees: the tenant's requests are sent back unread, with the time to come again; nothing of them goes downstream. They count as the cell's failure.
func TestATenantWhoseClassIsShedIsSentBackUnread(t *testing.T) {
	s := &sink{}
	r, telemetry := startMeasured(t, guarded(testConfig()), s, hostWith{gatekeeperID: newGatekeeper(t)})
	for range 3 {
		for transport, err := range both(r, signal.Logs, "x-who", "small") {
			st, _ := status.FromError(err)
			require.Equal(t, codes.ResourceExhausted, st.Code(), transport)
			require.Equal(t, tenant.ReasonShed, errorReason(st), transport)
			require.GreaterOrEqual(t, retryDelay(st).AsDuration(), 30*time.Second, transport)
			require.LessOrEqual(t, retryDelay(st).AsDuration(), 90*time.Second, transport)
			require.Contains(t, st.Message(), `nothing of tenants of class "trial"; nothing was read: send it again in`, transport)
		}
	}
	got := r.post("/v1/logs", bytes.NewReader(otlptest.Logs(1, 1)), "Content-Type", typeProtobuf, "X-Who", "small")
	require.Equal(t, http.StatusTooManyRequests, got.code)
	seconds, err := strconv.Atoi(got.header.Get("Retry-After"))
	require.NoError(t, err)
	require.GreaterOrEqual(t, seconds, 30)
	require.Empty(t, s.take())
	require.EqualValues(t, 7, collectortest.Sum(t, telemetry.Reader, "ingest_denied", "class=trial", "decision=cell_full"))
	require.EqualValues(t, 7, collectortest.Sum(t, telemetry.Reader, "ingest_refused", "reason=shed"))
	require.EqualValues(t, 7, collectortest.Sum(t, telemetry.Reader, "ingest_refused"))
	for transport, err := range both(r, signal.Logs, "x-who", "acme") {
		require.NoError(t, err, transport)
	}
}

// Guarantees: an authenticator's own status reaches the sender: what it can do nothing about is to be sent again.
func TestAnAuthenticatorsStatusReachesTheSender(t *testing.T) {
	g := newGatekeeper(t)
	s := &sink{}
	r := start(t, guarded(testConfig()), s, hostWith{gatekeeperID: g})
	body := otlptest.Logs(1, 1)
	for code, want := range map[codes.Code]int{codes.Unavailable: 503, codes.ResourceExhausted: 429, codes.PermissionDenied: 403, codes.Unauthenticated: 401} {
		after := time.Duration(0)
		if code == codes.Unavailable || code == codes.ResourceExhausted {
			after = 7 * time.Second
		}
		g.fails = &tenant.Refusal{Reason: "X", Code: code, Text: "not now", After: after}
		got := r.post("/v1/logs", bytes.NewReader(body), "Content-Type", typeProtobuf)
		require.Equal(t, want, got.code)
		require.Equal(t, after > 0, got.header.Get("Retry-After") == "7", "%v", got.header)
		require.Equal(t, "not now", statusOf(t, got).Message())
		require.Equal(t, code, status.Code(raw(t.Context(), r.dial(), signal.Logs, body)))
	}
	require.Empty(t, s.take())
}

// countingListener counts what is read from its connections.
type countingListener struct {
	net.Listener
	read atomic.Int64
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return countingConn{c, &l.read, new(atomic.Int64)}, err
}

type countingConn struct {
	net.Conn
	read, written *atomic.Int64
}

func (c countingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read.Add(int64(n))
	return n, err
}

func (c countingConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.written.Add(int64(n))
	return n, err
}

// Scenario: a sender of another jurisdiction sends its headers, and its body when it has the answer or without waiting for it.
// Guarantees: the server reads the headers and not one byte more, and the sender has its answer.
func TestNoByteOfAnotherJurisdictionsBodyIsReadOverHTTP(t *testing.T) {
	r := start(t, guarded(testConfig()), &sink{}, hostWith{gatekeeperID: newGatekeeper(t)})
	for _, size := range []int{100, 100 << 10, 8 << 20} { // net/http reads on up to 256 KiB of what is announced
		for _, who := range []string{"europe", "acme"} {
			t.Run(fmt.Sprint(who, size), func(t *testing.T) {
				srv := httptest.NewUnstartedServer(r.ingestReceiver)
				l := &countingListener{Listener: srv.Listener}
				srv.Listener = l
				srv.Start()
				defer srv.Close()
				conn, err := net.Dial("tcp", l.Addr().String())
				require.NoError(t, err)
				defer func() { _ = conn.Close() }()
				require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
				head := fmt.Sprintf("POST /v1/logs HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nX-Who: %s\r\nContent-Length: %d\r\n\r\n", typeProtobuf, who, size)
				_, err = io.WriteString(conn, head)
				require.NoError(t, err)
				if who == "acme" { // this test can fail
					require.Eventually(t, func() bool { return l.read.Load() == int64(len(head)) }, patience, time.Millisecond)
					_, err = conn.Write(make([]byte, 100))
					require.NoError(t, err)
					require.Eventually(t, func() bool { return l.read.Load() > int64(len(head)) }, patience, time.Millisecond)
					return
				}
				resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
				require.NoError(t, err)
				text, err := io.ReadAll(resp.Body)
				require.NoError(t, err)
				_ = resp.Body.Close()
				require.Equal(t, http.StatusForbidden, resp.StatusCode, "%s", text)
				require.True(t, resp.Close, "the connection is not used again")
				body := strings.NewReader(strings.Repeat("x", size))
				_, _ = io.Copy(conn, body) // until the server resets it
				_, _ = io.Copy(io.Discard, conn)
				require.EqualValues(t, len(head), l.read.Load())
			})
		}
	}
}

// Scenario: as above, the sender sends 8 MiB over gRPC.
// Guarantees: no more is sent than HTTP/2's flow control lets a sender send before anybody has read; nothing of it is taken up or inflated.
func TestNoMessageOfAnotherJurisdictionIsReceivedOverGRPC(t *testing.T) {
	r := start(t, guarded(testConfig()), &sink{}, hostWith{gatekeeperID: newGatekeeper(t)})
	written := func(who string) (int64, error) {
		var n atomic.Int64
		conn := r.dial(grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
			return countingConn{c, new(atomic.Int64), &n}, err
		}))
		defer func() { _ = conn.Close() }()
		err := raw(grpcmetadata.AppendToOutgoingContext(t.Context(), "x-who", who), conn, signal.Logs, otlptest.Realistic(signal.Logs, 1, 10_000))
		return n.Load(), err
	}
	n, err := written("europe")
	require.Equal(t, tenant.ReasonJurisdiction, requireDenied(t, err).Reason)
	require.Less(t, n, int64(512<<10))
	n, err = written("acme")
	require.NoError(t, err)
	require.Greater(t, n, int64(4<<20), "this test can fail")
}

func TestAClientCertificateReachesTheAuthenticatorByBothTransports(t *testing.T) {
	certFile, keyFile, pair, pool := authority(t)
	cfg := guarded(testConfig())
	server := configtls.ServerConfig{ClientCAFile: certFile, Config: configtls.Config{CertFile: certFile, KeyFile: keyFile}}
	cfg.Protocols.HTTP.Get().TLS = configoptional.Some(server)
	cfg.Protocols.GRPC.Get().TLS = configoptional.Some(server)
	g := newGatekeeper(t)
	r := start(t, cfg, &sink{}, hostWith{gatekeeperID: g})
	tlsConfig := &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	check := func() {
		t.Helper()
		p := g.seen.Swap(nil)
		require.NotNil(t, p)
		info, ok := p.AuthInfo.(credentials.TLSInfo)
		require.True(t, ok)
		require.Equal(t, "test", info.State.VerifiedChains[0][0].Subject.CommonName)
	}
	tr := &http.Transport{TLSClientConfig: tlsConfig}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr, Timeout: patience}).Post("https://"+r.httpAddr.String()+"/v1/logs", typeProtobuf, bytes.NewReader(otlptest.Logs(1, 1)))
	require.NoError(t, err)
	_ = resp.Body.Close()
	check()
	assert.Error(t, raw(t.Context(), r.dial(grpc.WithTransportCredentials(credentials.NewTLS(tlsConfig))), signal.Logs, otlptest.Logs(1, 1)))
	check()
}

func TestAnAuthenticatorThatIsNotThereIsToldAtStart(t *testing.T) {
	for _, only := range []string{"http", "grpc"} {
		cfg := guarded(testConfig())
		if only == "http" {
			cfg.Protocols.GRPC = configoptional.None[configgrpc.ServerConfig]()
		} else {
			cfg.Protocols.HTTP = configoptional.None[confighttp.ServerConfig]()
		}
		rec, err := NewFactory().CreateLogs(t.Context(), receivertest.NewNopSettings(metadata.Type()), cfg, &sink{})
		require.NoError(t, err)
		require.ErrorContains(t, rec.Start(t.Context(), componenttest.NewNopHost()), "gatekeeper")
		require.NoError(t, rec.Shutdown(t.Context()))
	}
}

var _ extensionauth.Server = (*gatekeeper)(nil)
