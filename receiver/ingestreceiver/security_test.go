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
	"go.opentelemetry.io/collector/config/configauth"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/config/configtls"
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
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
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
	pair, err = tls.X509KeyPair(certPEM, keyPEM)
	require.NoError(t, err)
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	return certFile, keyFile, pair, pool
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
