package alerting

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/config"
)

// Authentication says how an Alertmanager is spoken to. Secrets are in files, which are read for each request, so that a new one needs no restart.
type Authentication struct {
	BearerFile        string
	BasicUser         string
	BasicPasswordFile string
	SigV4Region       string // of Amazon Managed Service for Prometheus; empty: no signature
	CAFile            string // PEM; empty: the system's
	CertFile, KeyFile string // PEM, of the client; empty: none
}

// sigV4Service is the name of Amazon Managed Service for Prometheus.
const sigV4Service = "aps"

const secretMost = 64 << 10 // bytes of a file

// Client authenticates requests. The certificates are read now, AWS' credentials are found as AWS' own tools find them.
func (a Authentication) Client(ctx context.Context) (*http.Client, error) {
	ways := 0
	for _, set := range []bool{a.BearerFile != "", a.BasicUser != "" || a.BasicPasswordFile != "", a.SigV4Region != ""} {
		if set {
			ways++
		}
	}
	switch {
	case ways > 1:
		return nil, errors.New("want one of a bearer token, user and password, and SigV4")
	case (a.BasicUser == "") != (a.BasicPasswordFile == ""):
		return nil, errors.New("want a user and a file with the password")
	case (a.CertFile == "") != (a.KeyFile == ""):
		return nil, errors.New("want a certificate and its key")
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if a.CAFile != "" {
		pem, err := os.ReadFile(a.CAFile)
		if err != nil {
			return nil, err
		}
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s: holds no certificate in PEM", a.CAFile)
		}
	}
	if a.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(a.CertFile, a.KeyFile)
		if err != nil {
			return nil, err
		}
		transport.TLSClientConfig.Certificates = []tls.Certificate{pair}
	}
	authenticated := &authenticated{Authentication: a, next: transport}
	if a.SigV4Region != "" {
		conf, err := config.LoadDefaultConfig(ctx, config.WithRegion(a.SigV4Region))
		if err != nil {
			return nil, fmt.Errorf("AWS: %w", err)
		}
		authenticated.signer, authenticated.credentials = v4.NewSigner(), conf.Credentials
	}
	return &http.Client{
		Transport:     authenticated,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // it would take the secret elsewhere
	}, nil
}

type authenticated struct {
	Authentication
	next        http.RoundTripper
	signer      *v4.Signer
	credentials aws.CredentialsProvider
}

// RoundTrip implements http.RoundTripper.
func (a *authenticated) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	switch {
	case a.BearerFile != "":
		token, err := ReadSecret(a.BearerFile)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+token)
	case a.BasicUser != "":
		password, err := ReadSecret(a.BasicPasswordFile)
		if err != nil {
			return nil, err
		}
		req.SetBasicAuth(a.BasicUser, password)
	case a.signer != nil:
		if err := a.sign(req); err != nil {
			return nil, err
		}
	}
	return a.next.RoundTrip(req)
}

func (a *authenticated) sign(req *http.Request) error {
	body, err := io.ReadAll(req.Body)
	if err := errors.Join(err, req.Body.Close()); err != nil {
		return err
	}
	req.Body = io.NopCloser(bytes.NewReader(body))
	credentials, err := a.credentials.Retrieve(req.Context())
	if err != nil {
		return fmt.Errorf("AWS: %w", err)
	}
	sum := sha256.Sum256(body)
	return a.signer.SignHTTP(req.Context(), credentials, req, hex.EncodeToString(sum[:]), sigV4Service, a.SigV4Region, time.Now())
}

// ReadSecret reads a file of at most 64 KiB without the line's end.
func ReadSecret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(io.LimitReader(f, secretMost+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return "", err
	}
	out := strings.TrimSpace(string(text))
	if out == "" || len(text) > secretMost {
		return "", fmt.Errorf("%s: want a secret of 1 to %d bytes", path, secretMost)
	}
	return out, nil
}
