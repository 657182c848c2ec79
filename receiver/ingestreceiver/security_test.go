package ingestreceiver

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/config/configauth"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/config/configtls"
	"go.opentelemetry.io/collector/receiver/receivertest"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	grpcmetadata "google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// authority signs its own certificate, which serves as CA, server and client of a test.
func authority(t *testing.T) (certFile, keyFile string, pair tls.Certificate, pool *x509.CertPool) {
	t.Helper()
	certFile, keyFile = certificateFor(t, time.Hour)
	certPEM, err := os.ReadFile(certFile)
	require.NoError(t, err)
	pair, err = tls.LoadX509KeyPair(certFile, keyFile)
	require.NoError(t, err)
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	return certFile, keyFile, pair, pool
}

// certificateFor makes such a certificate, which ends after so long.
func certificateFor(t *testing.T, valid time.Duration) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(valid),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	require.NoError(t, err)
	keyDER, err := x509.MarshalECPrivateKey(key)
	require.NoError(t, err)
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	require.NoError(t, os.WriteFile(certFile, certPEM, 0o600))
	require.NoError(t, os.WriteFile(keyFile, keyPEM, 0o600))
	return certFile, keyFile
}

// Guarantees: with client_ca_file a sender without a certificate, or with another authority's, gets nothing through.
func TestMutualTLSTurnsAwayWhoHasNoCertificateOfTheCA(t *testing.T) {
	certFile, keyFile, pair, pool := authority(t)
	_, _, stranger, _ := authority(t)
	cfg := testConfig()
	server := configtls.ServerConfig{ClientCAFile: certFile, Config: configtls.Config{CertFile: certFile, KeyFile: keyFile}}
	cfg.Protocols.HTTP.Get().TLS = configoptional.Some(server)
	cfg.Protocols.GRPC.Get().TLS = configoptional.Some(server)
	s := &sink{}
	r := start(t, cfg, s, nil)
	r.url = "https://" + r.httpAddr.String()
	for name, c := range map[string]struct {
		certs []tls.Certificate
		ok    bool
	}{"good": {[]tls.Certificate{pair}, true}, "none": {nil, false}, "stranger": {[]tls.Certificate{stranger}, false}} {
		t.Run(name, func(t *testing.T) {
			tlsConfig := &tls.Config{RootCAs: pool, Certificates: c.certs, MinVersion: tls.VersionTLS12}
			tr := &http.Transport{TLSClientConfig: tlsConfig, ForceAttemptHTTP2: true}
			defer tr.CloseIdleConnections()
			resp, err := (&http.Client{Transport: tr, Timeout: patience}).Post(r.url+"/v1/logs", typeProtobuf, bytes.NewReader(otlptest.Logs(1, 1)))
			assert.Equal(t, c.ok, err == nil, "%v", err)
			if err == nil {
				_ = resp.Body.Close()
				assert.Equal(t, http.StatusOK, resp.StatusCode)
				assert.Equal(t, 2, resp.ProtoMajor)
			}
			err = raw(t.Context(), r.dial(grpc.WithTransportCredentials(credentials.NewTLS(tlsConfig))), signal.Logs, otlptest.Logs(1, 1))
			assert.Equal(t, c.ok, err == nil, "%v", err)
			assert.Equal(t, c.ok, len(s.take()) == 2)
		})
	}
}

// Scenario: both transports serve a certificate for an hour; it is replaced by one for a day.
// Guarantees: the metric says when the served certificate ends, by transport, and follows the server to the new one; without TLS there is none.
func TestTheMetricSaysWhenTheServedCertificateEnds(t *testing.T) {
	endsIn := func(telemetry *componenttest.Telemetry) map[string]int64 {
		m, err := telemetry.GetMetric("otelcol_ingest_certificate_expiry")
		if err != nil {
			return nil
		}
		out := map[string]int64{}
		for _, p := range m.Data.(metricdata.Gauge[int64]).DataPoints {
			transport, _ := p.Attributes.Value("transport")
			out[transport.AsString()] = p.Value
		}
		return out
	}
	serve := func(cfg *Config) *componenttest.Telemetry {
		_, telemetry := startMeasured(t, cfg, &sink{}, nil)
		return telemetry
	}
	require.Empty(t, endsIn(serve(testConfig())))

	certFile, keyFile, _, _ := authority(t)
	cfg := testConfig()
	server := configtls.ServerConfig{Config: configtls.Config{CertFile: certFile, KeyFile: keyFile, ReloadInterval: time.Millisecond}}
	cfg.Protocols.HTTP.Get().TLS = configoptional.Some(server)
	cfg.Protocols.GRPC.Get().TLS = configoptional.Some(server)
	telemetry := serve(cfg)
	for _, transport := range []string{transportHTTP, transportGRPC} {
		require.InDelta(t, time.Hour.Seconds(), endsIn(telemetry)[transport], 60, transport)
	}

	renewedCert, renewedKey := certificateFor(t, 24*time.Hour)
	require.NoError(t, os.Rename(renewedKey, keyFile))
	require.NoError(t, os.Rename(renewedCert, certFile))
	require.Eventually(t, func() bool { return endsIn(telemetry)[transportGRPC] > 23*3600 }, patience, 10*time.Millisecond)
}

// Scenario: an endpoint with TLS, whose certificate is not there.
// Guarantees: the receiver does not start, and says what is missing, where it is configured, and how to do without.
func TestAMissingCertificateIsToldWithWhatToDo(t *testing.T) {
	server := configtls.ServerConfig{Config: configtls.Config{CertFile: filepath.Join(t.TempDir(), "tls.crt"), KeyFile: filepath.Join(t.TempDir(), "tls.key")}}
	for _, protocol := range []string{"grpc", "http"} {
		cfg := testConfig()
		if protocol == "grpc" {
			cfg.Protocols.GRPC.Get().TLS = configoptional.Some(server)
		} else {
			cfg.Protocols.HTTP.Get().TLS = configoptional.Some(server)
		}
		rec, err := NewFactory().CreateLogs(t.Context(), receivertest.NewNopSettings(metadata.Type()), cfg, &sink{})
		require.NoError(t, err)
		err = rec.Start(t.Context(), componenttest.NewNopHost())
		for _, says := range []string{"protocols::" + protocol, server.CertFile, "cert_file", "PULSEGRID_TLS_CERT", "insecure.yaml"} {
			require.ErrorContains(t, err, says)
		}
		require.NoError(t, rec.Shutdown(t.Context()))
	}
}

// Guarantees: an endpoint that others can reach, without TLS or without credentials, is told loudly; one that only this machine reaches is not.
func TestAnEndpointThatIsOpenToTheNetworkIsToldLoudly(t *testing.T) {
	core, logged := observer.New(zap.WarnLevel)
	set := receivertest.NewNopSettings(metadata.Type())
	set.Logger = zap.New(core)
	rec, err := NewFactory().CreateLogs(t.Context(), set, testConfig(), &sink{})
	require.NoError(t, err)
	r := started(t, rec.(*ingestReceiver), nil)
	require.Zero(t, logged.Len(), "it listens on 127.0.0.1")
	for _, c := range []struct {
		ip                       string
		encrypted, authenticated bool
		loud                     bool
	}{
		{"0.0.0.0", false, false, true}, {"::", true, false, true}, {"192.0.2.1", false, true, true}, {"0.0.0.0", true, true, false}, {"::1", false, false, false},
	} {
		r.warnOfStrangers("http", &net.TCPAddr{IP: net.ParseIP(c.ip), Port: 4318}, c.encrypted, c.authenticated)
		require.Equal(t, c.loud, logged.Len() > 0, c)
		for _, e := range logged.TakeAll() {
			require.Contains(t, e.Message, "INSECURE")
			require.Equal(t, map[string]any{"protocol": "http", "endpoint": net.JoinHostPort(c.ip, "4318"), "tls": c.encrypted, "auth": c.authenticated}, e.ContextMap())
		}
	}
}

// guard is an auth extension that knows one token.
type guard struct {
	component.StartFunc
	component.ShutdownFunc
}

func (guard) Authenticate(ctx context.Context, sources map[string][]string) (context.Context, error) {
	for _, key := range []string{"Authorization", "authorization"} {
		if v := sources[key]; len(v) == 1 && v[0] == "Bearer good" {
			return ctx, nil
		}
	}
	return ctx, errors.New("who are you?")
}

type hostWith map[component.ID]component.Component

func (h hostWith) GetExtensions() map[component.ID]component.Component { return h }

func TestAuthExtensionsAreAskedOverBothTransports(t *testing.T) {
	id := component.MustNewID("guard")
	cfg := testConfig()
	cfg.Protocols.HTTP.Get().Auth = configoptional.Some(confighttp.AuthConfig{Config: configauth.Config{AuthenticatorID: id}})
	cfg.Protocols.GRPC.Get().Auth = configoptional.Some(configauth.Config{AuthenticatorID: id})
	s := &sink{}
	r := start(t, cfg, s, hostWith{id: guard{}})
	conn := r.dial()
	good := otlptest.Logs(1, 1)
	got := r.post("/v1/logs", bytes.NewReader(good), "Content-Type", typeProtobuf)
	assert.Equal(t, http.StatusUnauthorized, got.code)
	assert.Equal(t, codes.Unauthenticated, statusOf(t, got).Code())
	assert.Equal(t, codes.Unauthenticated, status.Code(raw(t.Context(), conn, signal.Logs, good)))
	assert.Empty(t, s.take())
	assert.Equal(t, http.StatusOK, r.post("/v1/logs", bytes.NewReader(good), "Content-Type", typeProtobuf, "Authorization", "Bearer good").code)
	require.NoError(t, raw(grpcmetadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer good"), conn, signal.Logs, good))
	assert.Len(t, s.take(), 2)
}
