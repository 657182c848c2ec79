package tenantauthextension

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/client"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
	"github.com/pulsegrid/pulsegrid/internal/testkit/collectortest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/leaktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(leaktest.Patient(m)) }

const patience = 30 * time.Second

type rig struct {
	*authExtension
	t         *testing.T
	dir       string
	telemetry *componenttest.Telemetry
	logs      *observer.ObservedLogs
	host      *collectortest.Host
	clock     atomic.Int64 // seconds added to the real time
	writes    int
}

// start runs an extension over a registry of one file; an empty text is no file.
func start(t *testing.T, text string, change func(*Config)) *rig {
	t.Helper()
	r := newRig(t, text, change)
	require.NoError(t, r.Start(t.Context(), r.host))
	return r
}

// frozen starts the rig's extension with a clock that only the test moves.
func (r *rig) frozen() {
	r.t.Helper()
	now := time.Now()
	r.now = func() time.Time { return now.Add(time.Duration(r.clock.Load()) * time.Second) }
	require.NoError(r.t, r.Start(r.t.Context(), r.host))
}

func newRig(t *testing.T, text string, change func(*Config)) *rig {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	r := &rig{t: t, dir: t.TempDir(), telemetry: componenttest.NewTelemetry(), logs: logs, host: &collectortest.Host{}}
	cfg := createDefaultConfig().(*Config)
	cfg.Registry.Location, cfg.Registry.ReloadInterval = r.dir, 100*time.Millisecond
	if change != nil {
		change(cfg)
	}
	require.NoError(t, cfg.Validate())
	if text != "" {
		r.write("tenants.yaml", text)
	}
	set := extension.Settings{ID: component.NewID(metadata.Type()), TelemetrySettings: r.telemetry.NewTelemetrySettings()}
	set.Logger = zap.New(core)
	e, err := NewFactory().Create(t.Context(), set, cfg)
	require.NoError(t, err)
	r.authExtension = e.(*authExtension)
	r.now = func() time.Time { return time.Now().Add(time.Duration(r.clock.Load()) * time.Second) }
	t.Cleanup(func() {
		ctx := context.Background()
		require.NoError(t, r.Shutdown(ctx))
		require.NoError(t, r.Shutdown(ctx), "a second time")
		require.NoError(t, r.telemetry.Shutdown(ctx))
	})
	return r
}

func (r *rig) write(name, text string) {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	require.NoError(r.t, os.WriteFile(path+".tmp", []byte(text), 0o600))
	r.writes++
	at := time.Unix(1_700_000_000+int64(r.writes), 0)
	require.NoError(r.t, os.Chtimes(path+".tmp", at, at))
	require.NoError(r.t, os.Rename(path+".tmp", path))
}

func (r *rig) eventually(what string, condition func() bool) {
	r.t.Helper()
	require.Eventually(r.t, condition, patience, 20*time.Millisecond, what)
}

func from(ip string) context.Context {
	return client.NewContext(context.Background(), client.Info{Addr: &net.IPAddr{IP: net.ParseIP(ip)}})
}

func bearer(s string) map[string][]string {
	return map[string][]string{"Authorization": {"Bearer " + s}}
}

// ask returns whom a request was found to be of, or its error.
func (r *rig) ask(ctx context.Context, headers map[string][]string) (string, error) {
	ctx, err := r.Authenticate(ctx, headers)
	if err != nil {
		return "", err
	}
	i, ok := tenant.FromContext(ctx)
	require.True(r.t, ok)
	info := client.FromContext(ctx)
	require.Equal(r.t, i.Tenant.ID, info.Auth.GetAttribute("tenant.id"))
	return i.Tenant.ID + " by " + i.Credential, nil
}

// refused checks what a sender is told, and what is counted.
func (r *rig) refused(err error, code codes.Code, told, reason string) {
	r.t.Helper()
	require.Error(r.t, err)
	st, ok := status.FromError(err)
	require.True(r.t, ok)
	require.Equal(r.t, code, st.Code(), err)
	var info *errdetails.ErrorInfo
	var retry *errdetails.RetryInfo
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			info = d
		case *errdetails.RetryInfo:
			retry = d
		}
	}
	require.Equal(r.t, told, info.GetReason())
	require.Equal(r.t, code != codes.Unauthenticated, retry != nil, "who may come again is told when")
	require.Positive(r.t, r.count("tenant_auth_refused", "reason="+reason), "reason %s", reason)
}

// ofIt is the attribute that every point has.
var ofIt = "extension=" + metadata.Type().String()

func (r *rig) count(name string, attrs ...string) int64 {
	r.t.Helper()
	return collectortest.Sum(r.t, r.telemetry.Reader, name, attrs...)
}

func withKey(id string, extra string) (text, key string) {
	key, keyID, hash := tenant.NewKey()
	return fmt.Sprintf("  - {id: %s, keys: [{id: %s, hash: \"%s\"}]%s}\n", id, keyID, hash, extra), key
}

// Scenario: a has a key that expires and one that does not, b two that expire, c one that has expired, d one that expires after b's, e none.
// Guarantees: the metric counts down to the end of b's last key, then of d's, and is gone when no further tenant will be left without one.
func TestTheMetricSaysWhenTheFirstTenantIsLeftWithoutAKey(t *testing.T) {
	begin := time.Now()
	line := func(expires ...time.Duration) (keys string) {
		for _, in := range expires {
			_, id, hash := tenant.NewKey()
			keys += fmt.Sprintf("{id: %s, hash: \"%s\"", id, hash)
			if in != 0 {
				keys += ", expires: " + begin.Add(in).UTC().Format(time.RFC3339)
			}
			keys += "}, "
		}
		return "keys: [" + keys + "]}\n"
	}
	const hour = time.Hour
	r := start(t, "tenants:\n  - {id: a, "+line(hour, 0)+"  - {id: b, "+line(3*hour, 2*hour)+"  - {id: c, "+line(-hour)+"  - {id: d, "+line(4*hour)+"  - {id: e}\n", nil)
	expiry := func() (out []int64) {
		m, err := r.telemetry.GetMetric("otelcol_tenant_auth_key_expiry")
		if err != nil {
			return nil
		}
		for _, p := range m.Data.(metricdata.Gauge[int64]).DataPoints {
			out = append(out, p.Value)
		}
		return out
	}
	for after, want := range map[time.Duration]time.Duration{0: 3 * hour, 2*hour + hour/2: hour / 2, 3*hour + hour/2: hour / 2} {
		r.clock.Store(int64(after.Seconds()))
		got := expiry()
		require.Len(t, got, 1)
		require.InDelta(t, want.Seconds(), got[0], 60)
	}
	r.clock.Store(int64((4*hour + hour/2).Seconds()))
	require.Empty(t, expiry())
}

func TestAKeyIsTakenFromEachHeaderThatMayHoldIt(t *testing.T) {
	a, key := withKey("a", ", class: premium")
	r := start(t, "tenants:\n"+a, nil)
	for _, h := range []map[string][]string{
		bearer(key), {"authorization": {"Bearer " + key}}, {"AUTHORIZATION": {"bearer " + key}}, {"Authorization": {"ApiKey " + key}}, {"X-Api-Key": {key}}, {"x-api-key": {key}},
	} {
		got, err := r.ask(from("192.0.2.1"), h)
		require.NoError(t, err, "%v", h)
		require.Equal(t, "a by api_key", got)
	}
	require.EqualValues(t, 6, r.count("tenant_auth_accepted", "class=premium"))
}

// Guarantees: each way of being nobody is answered by its own text, code and count, and no text holds the credential.
func TestEachWrongCredentialIsRefusedAsTheREADMESays(t *testing.T) {
	a, key := withKey("a", "")
	unknown, _, _ := tenant.NewKey()
	old, oldID, oldHash := tenant.NewKey()
	wrong := key[:len(key)-4] + strings.Map(func(c rune) rune {
		if c == 'a' {
			return 'b'
		}
		return 'a'
	}, key[len(key)-4:])
	r := start(t, "tenants:\n"+a+fmt.Sprintf("  - {id: b, keys: [{id: %s, hash: \"%s\", expires: 2020-01-01T00:00:00Z}]}\n", oldID, oldHash), nil)
	for _, c := range []struct {
		name         string
		headers      map[string][]string
		told, reason string
	}{
		{"nothing", nil, toldMissing, reasonMissing},
		{"no scheme", map[string][]string{"Authorization": {key}}, toldMalformed, reasonMalformed},
		{"another scheme", map[string][]string{"Authorization": {"Basic " + key}}, toldMalformed, reasonMalformed},
		{"empty", map[string][]string{"X-Api-Key": {""}}, toldMalformed, reasonMalformed},
		{"twice", map[string][]string{"X-Api-Key": {key, key}}, toldMalformed, reasonMalformed},
		{"both", map[string][]string{"X-Api-Key": {key}, "Authorization": {"Bearer " + key}}, toldMalformed, reasonMalformed},
		{"a token, where no issuer is trusted", bearer("x.y.z"), toldMalformed, reasonMalformed},
		{"cut", bearer(key[:len(key)-1]), toldInvalid, reasonMalformed},
		{"unknown", bearer(unknown), toldInvalid, reasonUnknownKey},
		{"another secret", bearer(wrong), toldInvalid, reasonWrongKey},
		{"expired", bearer(old), toldExpired, reasonExpired},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := r.ask(from("192.0.2.1"), c.headers)
			r.refused(err, codes.Unauthenticated, c.told, c.reason)
			for _, vs := range c.headers {
				for _, v := range vs {
					secret := v[strings.LastIndex(v, " ")+1:]
					require.False(t, len(secret) > 3 && strings.Contains(err.Error(), secret))
				}
			}
		})
	}
	for _, entry := range r.logs.All() {
		line := fmt.Sprint(entry.Message, entry.ContextMap())
		for _, secret := range []string{key, unknown, old, wrong} {
			require.NotContains(t, line, secret[len(tenant.KeyPrefix)+17:])
		}
	}
	_, invalid := r.ask(from("192.0.2.1"), bearer(unknown))
	_, other := r.ask(from("192.0.2.1"), bearer(wrong))
	require.Equal(t, invalid.Error(), other.Error(), "senders do not hear which part was right")
}

// Guarantees: an address that guesses is told to wait. A right credential is taken whatever was shown before, by whom, and of which kind.
func TestGuessingIsSlowedDownWithoutLockingOutOthers(t *testing.T) {
	issuer := newIssuer(t)
	a, key := withKey("a", "")
	r := newRig(t, "tenants:\n  - {id: acme, oidc: [{issuer: \""+issuer.URL+"\", claim: acme}]}\n"+a, func(c *Config) {
		c.Guesses = GuessesConfig{Burst: 3, PerSecond: 0.1, RememberedMax: 100}
		c.OIDC = []OIDCConfig{{Issuer: issuer.URL, Audience: "pulsegrid"}}
	})
	r.frozen()
	ask := func(ip, secret string) error { _, err := r.ask(from(ip), bearer(secret)); return err }
	unknown := func() string { k, _, _ := tenant.NewKey(); return k }
	// guessed shows wrong credentials until their sender is told to wait, and then some.
	guessed := func(ip string, wrong func() string, reason string) {
		t.Helper()
		for range 3 {
			r.refused(ask(ip, wrong()), codes.Unauthenticated, toldInvalid, reason)
		}
		for range 20 {
			r.refused(ask(ip, wrong()), codes.ResourceExhausted, toldThrottled, reasonThrottled)
		}
	}
	guessed("192.0.2.1", unknown, reasonUnknownKey)
	r.refused(ask("192.0.2.2", unknown()), codes.Unauthenticated, toldInvalid, reasonUnknownKey)
	require.NoError(t, ask("192.0.2.1", key), "a right key from the address that guesses")
	require.NoError(t, ask("192.0.2.1", issuer.token(t, nil)), "a right token that was never seen, from the address that guesses keys")
	guessed("192.0.2.1", func() string { return key[:len(key)-3] + "zzz" }, reasonWrongKey)
	require.NoError(t, ask("192.0.2.1", key), "the key whose id others guess by")

	fetched := issuer.fetched.Load()
	guessed("192.0.2.1", func() string {
		good := issuer.token(t, map[string]any{"jti": t.Name()})
		return good[:len(good)-8] + "AAAAAAAA"
	}, reasonInvalidToken)
	require.NoError(t, ask("192.0.2.1", issuer.token(t, map[string]any{"jti": "new"})), "a right token that was never seen, from the address that guesses tokens")
	require.LessOrEqual(t, issuer.fetched.Load(), fetched+1, "wrong signatures do not become a flood of questions to the issuer")

	r.clock.Add(11)
	r.refused(ask("192.0.2.1", unknown()), codes.Unauthenticated, toldInvalid, reasonUnknownKey) // after the wait that it was told

	// One host has a /64 of IPv6 to itself.
	for i := range 3 {
		require.Error(t, ask(fmt.Sprintf("2001:db8::%d", i+1), unknown()))
	}
	r.refused(ask("2001:db8::ffff", unknown()), codes.ResourceExhausted, toldThrottled, reasonThrottled)
	r.refused(ask("2001:db8:0:1::1", unknown()), codes.Unauthenticated, toldInvalid, reasonUnknownKey)
}

// Guarantees: behind a trusted proxy senders are told apart by the last address that is no proxy's; from elsewhere, and before that address, the header
// is anybody's word.
func TestBehindATrustedProxyTheSendersAddressCounts(t *testing.T) {
	a, _ := withKey("a", "")
	r := newRig(t, "tenants:\n"+a, func(c *Config) { c.TrustedProxies = []string{"10.0.0.0/8", "fd00::/8"} })
	r.frozen()
	for name, c := range map[string]struct {
		peer      string
		forwarded []string
		want      string
	}{
		"no proxy":                        {"192.0.2.1", nil, "192.0.2.1"},
		"a header of somebody":            {"192.0.2.1", []string{"198.51.100.7"}, "192.0.2.1"},
		"by a proxy":                      {"10.0.0.1", []string{"198.51.100.7"}, "198.51.100.7"},
		"by two proxies":                  {"10.0.0.1", []string{"198.51.100.7, 10.0.0.2"}, "198.51.100.7"},
		"invented before its own":         {"10.0.0.1", []string{"203.0.113.5, 198.51.100.7"}, "198.51.100.7"},
		"invented in a header before":     {"10.0.0.1", []string{"203.0.113.5", "198.51.100.7"}, "198.51.100.7"},
		"invented proxy before its own":   {"10.0.0.1", []string{"10.0.0.9, 198.51.100.7, 10.0.0.2"}, "198.51.100.7"},
		"with port":                       {"10.0.0.1", []string{"198.51.100.7:4711"}, "198.51.100.7"},
		"IPv6, by its /64":                {"fd00::1", []string{"[2001:db8:0:7::9]:4711"}, "2001:db8:0:7::"},
		"IPv6 without port":               {"10.0.0.1", []string{"2001:db8:0:7::9"}, "2001:db8:0:7::"},
		"IPv4 written as IPv6":            {"10.0.0.1", []string{"::ffff:198.51.100.7"}, "198.51.100.7"},
		"a proxy that says nothing":       {"10.0.0.1", nil, "10.0.0.1"},
		"nonsense behind the own address": {"10.0.0.1", []string{"198.51.100.7, unknown"}, "10.0.0.1"},
		"proxies only":                    {"10.0.0.1", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		"a flood of proxies":              {"10.0.0.1", []string{"198.51.100.7" + strings.Repeat(",10.0.0.2", 10000)}, "10.0.0.2"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, key := range []string{"X-Forwarded-For", "x-forwarded-for"} { // HTTP, gRPC
				sources := map[string][]string{}
				if c.forwarded != nil {
					sources[key] = c.forwarded
				}
				require.Equal(t, c.want, r.addressOf(from(c.peer), sources).String())
			}
		})
	}
	wrong := func(sender string) error {
		k, _, _ := tenant.NewKey()
		sources := bearer(k)
		sources["X-Forwarded-For"] = []string{sender}
		_, err := r.ask(from("10.0.0.1"), sources)
		return err
	}
	for range defaultGuessBurst {
		r.refused(wrong("198.51.100.7"), codes.Unauthenticated, toldInvalid, reasonUnknownKey)
	}
	r.refused(wrong("198.51.100.7"), codes.ResourceExhausted, toldThrottled, reasonThrottled)
	r.refused(wrong("198.51.100.8"), codes.Unauthenticated, toldInvalid, reasonUnknownKey)
}

func TestWhatIsRememberedOfGuessersIsBounded(t *testing.T) {
	a, _ := withKey("a", "")
	r := start(t, "tenants:\n"+a, func(c *Config) { c.Guesses.RememberedMax = 50 })
	for i := range 500 {
		k, _, _ := tenant.NewKey()
		_, err := r.ask(from(fmt.Sprintf("10.0.%d.%d", i/200, i%200)), bearer(k))
		require.Error(t, err)
	}
	require.EqualValues(t, 50, r.guesses.buckets.Len())
	require.EqualValues(t, 50, r.count("tenant_auth_guessing_addresses", ofIt))
}

func TestAChangeIsInForceWithoutARestart(t *testing.T) {
	a, key := withKey("a", "")
	r := start(t, "tenants:\n"+a, nil)
	b, keyB := withKey("b", "")
	_, err := r.ask(from("192.0.2.1"), bearer(keyB))
	require.Error(t, err)
	r.write("b.yaml", "tenants:\n"+b)
	r.eventually("the new key", func() bool { _, err := r.ask(from("192.0.2.1"), bearer(keyB)); return err == nil })
	require.EqualValues(t, 2, r.count("tenant_auth_tenants", ofIt))

	r.write("b.yaml", "tenants:\n  - {id: b, status: broken}\n")
	r.eventually("the bad file is told", func() bool { return r.host.Status() == componentstatus.StatusRecoverableError })
	require.EqualValues(t, 1, r.count("tenant_auth_refused_files", ofIt))
	said := r.logs.FilterField(zap.String("reason", `b.yaml:2: tenants[0].status: "broken": want active or suspended`))
	require.Equal(t, 1, said.Len())
	_, err = r.ask(from("192.0.2.1"), bearer(keyB))
	require.NoError(t, err, "the last good file stays in force")
	reloads := r.count("tenant_auth_reloads", ofIt)
	r.eventually("more looks", func() bool { return r.count("tenant_auth_reloads", ofIt) > reloads+2 })
	require.Equal(t, 1, r.logs.FilterMessageSnippet("stays in force").Len(), "it is told once")

	r.write("b.yaml", "tenants: []\n")
	r.eventually("the key that was taken out", func() bool { _, err := r.ask(from("192.0.2.1"), bearer(keyB)); return err != nil })
	r.eventually("well again", func() bool { return r.host.Status() == componentstatus.StatusOK })
	_, err = r.ask(from("192.0.2.1"), bearer(key))
	require.NoError(t, err)
}

func TestATenantsSchemaPolicyIsWhatTheRegistrySays(t *testing.T) {
	r := start(t, "tenants:\n  - {id: a, schema: {policy: warn, unknown_attributes: strict}}\n  - {id: b}\n", nil)
	own, ok := r.SchemaPolicy("a")
	require.True(t, ok)
	require.Equal(t, schema.Policy{Mode: schema.Warn, Unknown: schema.Strict}, own)
	own, ok = r.SchemaPolicy("b")
	require.True(t, ok)
	require.Zero(t, own, "the gateway's")
	_, ok = r.SchemaPolicy("nobody")
	require.False(t, ok)
}

// Guarantees: with a registry that cannot be read nothing is accepted, and everybody is asked to come again rather than told to give up.
func TestUntilTheRegistryIsReadNothingIsAccepted(t *testing.T) {
	a, key := withKey("a", "")
	r := start(t, "", nil)
	_, err := r.ask(from("192.0.2.1"), bearer(key))
	r.refused(err, codes.Unavailable, tenant.ReasonUnavailable, reasonUnavailable)
	_, err = r.ask(from("192.0.2.1"), nil)
	r.refused(err, codes.Unavailable, tenant.ReasonUnavailable, reasonUnavailable)
	require.Equal(t, componentstatus.StatusRecoverableError, r.host.Status())
	r.write("bad.yaml", "nonsense: true\n")
	r.write("good.yaml", "tenants:\n  - {id: other}\n")
	r.eventually("what can be read is", func() bool { return r.Snapshot() != nil && r.Snapshot().Len() == 1 })
	_, err = r.ask(from("192.0.2.1"), bearer(key))
	r.refused(err, codes.Unavailable, tenant.ReasonUnavailable, reasonUnavailable) // it may be in the bad file
	r.write("bad.yaml", "tenants:\n"+a)
	r.eventually("the key", func() bool { _, err := r.ask(from("192.0.2.1"), bearer(key)); return err == nil })
}

func TestACertificateCountsOnlyIfItWasVerified(t *testing.T) {
	r := start(t, `tenants: [{id: a, mtls: ["subject:CN=agent"]}]`, nil)
	named := func(name string) *x509.Certificate {
		raw, err := asn1.Marshal(pkix.Name{CommonName: name}.ToRDNSequence())
		require.NoError(t, err)
		return &x509.Certificate{RawSubject: raw}
	}
	cert := named("agent")
	with := func(state tls.ConnectionState) context.Context {
		return peer.NewContext(from("192.0.2.1"), &peer.Peer{AuthInfo: credentials.TLSInfo{State: state}})
	}
	got, err := r.ask(with(tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{cert}}}), nil)
	require.NoError(t, err)
	require.Equal(t, "a by mtls", got)
	_, err = r.ask(with(tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}), nil)
	r.refused(err, codes.Unauthenticated, toldMissing, reasonMissing)
	_, err = r.ask(with(tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{named("other")}}}), nil)
	r.refused(err, codes.Unauthenticated, toldInvalid, reasonUnknownTenant)
}

func TestLifecycle(t *testing.T) {
	r := newRig(t, "", nil) // Shutdown without Start, twice: the rig's cleanup
	require.Nil(t, r.Snapshot())
	_, err := r.ask(from("192.0.2.1"), nil)
	require.Error(t, err)
}

// issuerServer is an OIDC issuer of one key.
type issuerServer struct {
	*httptest.Server
	key     *rsa.PrivateKey
	down    atomic.Bool
	fetched atomic.Int64
}

func newIssuer(t *testing.T) *issuerServer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	s := &issuerServer{key: key}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"issuer": s.URL, "jwks_uri": s.URL + "/keys", "id_token_signing_alg_values_supported": []string{"RS256", "HS256"}})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		s.fetched.Add(1)
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": []any{map[string]string{
			"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "1",
			"n": base64.RawURLEncoding.EncodeToString(key.N.Bytes()), "e": base64.RawURLEncoding.EncodeToString(big.NewInt(int64(key.E)).Bytes()),
		}}})
	})
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if s.down.Load() {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		mux.ServeHTTP(w, req)
	}))
	t.Cleanup(s.Close)
	return s
}

func part(v any) string {
	b, _ := json.Marshal(v)
	return base64.RawURLEncoding.EncodeToString(b)
}

func (s *issuerServer) token(t *testing.T, claims map[string]any) string {
	t.Helper()
	all := map[string]any{"iss": s.URL, "aud": "pulsegrid", "sub": "x", "exp": time.Now().Add(time.Hour).Unix(), "tenant": "acme"}
	for k, v := range claims {
		if v == nil {
			delete(all, k)
		} else {
			all[k] = v
		}
	}
	signed := part(map[string]string{"alg": "RS256", "kid": "1"}) + "." + part(all)
	sum := sha256.Sum256([]byte(signed))
	sig, err := rsa.SignPKCS1v15(rand.Reader, s.key, crypto.SHA256, sum[:])
	require.NoError(t, err)
	return signed + "." + base64.RawURLEncoding.EncodeToString(sig)
}

func TestTokensOfTrustedIssuersNameTheirTenant(t *testing.T) {
	issuer, stranger := newIssuer(t), newIssuer(t)
	a, key := withKey("a", "")
	r := start(t, "tenants:\n  - {id: acme, oidc: [{issuer: \""+issuer.URL+"\", claim: acme}]}\n"+a, func(c *Config) {
		c.OIDC = []OIDCConfig{{Issuer: issuer.URL, Audience: "pulsegrid"}}
		c.Guesses.Burst = 1000
	})
	ask := func(token string) (string, error) { return r.ask(from("192.0.2.1"), bearer(token)) }
	good := issuer.token(t, nil)
	got, err := ask(good)
	require.NoError(t, err)
	require.Equal(t, "acme by oidc", got)
	got, err = ask(key)
	require.NoError(t, err)
	require.Equal(t, "a by api_key", got, "keys go on beside tokens")

	parts := strings.Split(good, ".")
	forged := parts[0] + "." + part(map[string]any{"iss": issuer.URL, "aud": "pulsegrid", "exp": time.Now().Add(time.Hour).Unix(), "tenant": "a"}) + "." + parts[2]
	unsigned := part(map[string]string{"alg": "none"}) + "." + parts[1] + "."
	for name, c := range map[string]struct{ token, told, reason string }{
		"forged":             {forged, toldInvalid, reasonInvalidToken},
		"unsigned":           {unsigned, toldInvalid, reasonInvalidToken},
		"another audience":   {issuer.token(t, map[string]any{"aud": "elsewhere"}), toldInvalid, reasonInvalidToken},
		"no tenant":          {issuer.token(t, map[string]any{"tenant": nil}), toldInvalid, reasonInvalidToken},
		"a list of tenants":  {issuer.token(t, map[string]any{"tenant": []string{"acme"}}), toldInvalid, reasonInvalidToken},
		"expired":            {issuer.token(t, map[string]any{"exp": time.Now().Add(-time.Hour).Unix()}), toldExpired, reasonExpired},
		"not yet":            {issuer.token(t, map[string]any{"nbf": time.Now().Add(time.Hour).Unix()}), toldInvalid, reasonInvalidToken},
		"a stranger's":       {stranger.token(t, nil), toldInvalid, reasonUnknownIssuer},
		"by another's key":   {stranger.token(t, map[string]any{"iss": issuer.URL}), toldInvalid, reasonInvalidToken},
		"an unknown tenant":  {issuer.token(t, map[string]any{"tenant": "nobody"}), toldInvalid, reasonUnknownTenant},
		"no token":           {"hello", toldMalformed, reasonMalformed},
		"too long":           {good + strings.Repeat("A", maxTokenBytes), toldMalformed, reasonMalformed},
		"payload is no JSON": {parts[0] + ".AAAA." + parts[2], toldMalformed, reasonMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ask(c.token)
			r.refused(err, codes.Unauthenticated, c.told, c.reason)
		})
	}

	// A token that was right is not checked again while it is trusted, and not beyond its end.
	issuer.down.Store(true)
	_, err = ask(good)
	require.NoError(t, err)
	r.clock.Add(int64(tokenTrust.Seconds()) + 1)
	_, err = ask(good)
	require.NoError(t, err, "the issuer's keys are kept")
	r.clock.Add(3600)
	_, err = ask(good)
	r.refused(err, codes.Unauthenticated, toldExpired, reasonExpired)
}

// Guarantees: who shows a token whose issuer cannot be asked is told to come again, not to give up.
func TestAnIssuerThatIsDownIsNotTheSendersFault(t *testing.T) {
	issuer := newIssuer(t)
	issuer.down.Store(true)
	r := start(t, "tenants:\n  - {id: acme, oidc: [{issuer: \""+issuer.URL+"\", claim: acme}]}\n", func(c *Config) {
		c.OIDC = []OIDCConfig{{Issuer: issuer.URL, Audience: "pulsegrid"}}
	})
	_, err := r.ask(from("192.0.2.1"), bearer(issuer.token(t, nil)))
	r.refused(err, codes.Unavailable, toldIssuer, reasonIssuerDown)
	issuer.down.Store(false)
	_, err = r.ask(from("192.0.2.1"), bearer(issuer.token(t, nil)))
	r.refused(err, codes.Unavailable, toldIssuer, reasonIssuerDown) // it is not asked more often
	r.clock.Add(int64(issuerRetry.Seconds()) + 1)
	_, err = r.ask(from("192.0.2.1"), bearer(issuer.token(t, nil)))
	require.NoError(t, err)
}

// Scenario: the registry does not know the gateway's cell, then has it in another jurisdiction, then as it is.
// Guarantees: log and status say so as long as it is so; the registry is in force all the same.
func TestARegistryThatDoesNotFitTheGatewayIsTold(t *testing.T) {
	text := func(cells string) string { return "cells: {" + cells + "}\ntenants: [{id: acme}]\n" }
	const eu1 = "eu-1: {jurisdiction: eu, endpoint: 'https://eu-1.example.com'}"
	r := start(t, text(eu1), func(c *Config) { c.Cell, c.Jurisdiction = "eu-2", "eu" })
	require.Equal(t, "eu-2", r.Cell())
	told := func(reason string) bool {
		for _, l := range r.logs.FilterLevelExact(zapcore.ErrorLevel).All() {
			if l.ContextMap()["reason"] == reason {
				require.Contains(t, l.Message, "it does not fit this gateway's configuration")
				return true
			}
		}
		return false
	}
	require.True(t, told(`cell: "eu-2" is none of the registry's 1 cells`))
	require.Equal(t, componentstatus.StatusRecoverableError, r.host.Status())
	require.NotNil(t, r.Snapshot().Tenant("acme"))
	r.write("tenants.yaml", text(eu1+", eu-2: {jurisdiction: us, endpoint: 'https://eu-2.example.com'}"))
	r.eventually("the other disagreement", func() bool {
		return told(`jurisdiction: "eu" is this gateway's, and the registry has cell "eu-2" in "us"`)
	})
	r.write("tenants.yaml", text(eu1+", eu-2: {jurisdiction: eu, endpoint: 'https://eu-2.example.com'}"))
	r.eventually("that it fits", func() bool { return r.host.Status() == componentstatus.StatusOK })
}

func BenchmarkAuthenticate(b *testing.B) {
	text, key := withKey("a", "")
	dir := b.TempDir()
	require.NoError(b, os.WriteFile(filepath.Join(dir, "a.yaml"), []byte("tenants:\n"+text), 0o600))
	cfg := createDefaultConfig().(*Config)
	cfg.Registry.Location = dir
	e, err := NewFactory().Create(b.Context(), extension.Settings{ID: component.NewID(metadata.Type()), TelemetrySettings: componenttest.NewNopTelemetrySettings()}, cfg)
	require.NoError(b, err)
	require.NoError(b, e.Start(b.Context(), componenttest.NewNopHost()))
	defer func() { _ = e.Shutdown(context.Background()) }()
	ctx, headers := from("192.0.2.1"), bearer(key)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.(*authExtension).Authenticate(ctx, headers); err != nil {
			b.Fatal(err)
		}
	}
}
