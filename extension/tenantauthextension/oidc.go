package tenantauthextension

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/hashicorp/golang-lru/v2/simplelru"
	"google.golang.org/grpc/codes"

	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

const (
	maxTokenBytes    = 16 << 10
	rememberedTokens = 16384
	tokenTrust       = 5 * time.Minute // after which a token that was right is checked again: its issuer's keys may be others
	issuerTimeout    = 10 * time.Second
	issuerRetry      = 5 * time.Second // between tries to reach an issuer
	keysFor          = time.Second     // is as long as an issuer is not asked for its keys again: each token with a wrong signature asks for them
	maxKeysBytes     = 1 << 20
)

// issuers check tokens. Tokens that were right are remembered by their hash: an agent shows the same one for an hour, and checking a signature
// costs more than the rest of a request.
type issuers struct {
	of   map[string]*issuer // by `iss`
	http *http.Client
	now  func() time.Time

	mu    sync.Mutex
	right *simplelru.LRU[[sha256.Size]byte, named]
}

// named is whom a token names.
type named struct {
	issuer, claim string
	until         time.Time
}

// issuer is one OIDC issuer. It is asked for its keys when its first token comes.
type issuer struct {
	cfg  OIDCConfig
	http *http.Client
	now  func() time.Time

	mu       sync.Mutex // held while the issuer is asked: one asks, the others wait for what it says
	verifier *oidc.IDTokenVerifier
	failed   error
	tried    time.Time
}

func newIssuers(cfgs []OIDCConfig, now func() time.Time) (*issuers, error) {
	right, err := simplelru.NewLRU[[sha256.Size]byte, named](rememberedTokens, nil)
	if err != nil {
		return nil, err
	}
	s := &issuers{of: map[string]*issuer{}, now: now, right: right, http: &http.Client{Timeout: issuerTimeout, Transport: http.DefaultTransport.(*http.Transport).Clone()}}
	for _, c := range cfgs {
		s.of[c.Issuer] = &issuer{cfg: c, http: s.http, now: now}
	}
	return s, nil
}

func (s *issuers) close() { s.http.CloseIdleConnections() }

// Errors of tokens. They do not hold the token.
var (
	errNoToken       = errors.New("is no JSON Web Token")
	errUnknownIssuer = errors.New("token is of an issuer that is not configured")
	errIssuerDown    = errors.New("issuer cannot be asked for its keys")
	errTokenExpired  = errors.New("token has expired")
)

// byToken checks the token first, and throttles only failures, as byKey does.
func (e *authExtension) byToken(ctx context.Context, snapshot *tenant.Snapshot, token string, address netip.Addr) (tenant.Identity, *failure) {
	const credential = tenant.CredentialOIDC
	hash := sha256.Sum256([]byte(token))
	n, known := e.issuers.recall(hash)
	if !known {
		var err error
		if n, err = e.issuers.check(ctx, token); err != nil {
			return tenant.Identity{}, e.tokenFailure(guesser{address: address, credential: credential}, err)
		}
		e.issuers.remember(hash, n)
	}
	t := snapshot.ByClaim(n.issuer, n.claim)
	switch {
	case t != nil:
		return tenant.Identity{Tenant: t, Credential: credential}, nil
	case snapshot.Incomplete():
		return tenant.Identity{}, incomplete(credential)
	}
	return tenant.Identity{}, unauthenticated(credential, reasonUnknownTenant, toldInvalid, "the token is right, and its tenant claim names no tenant")
}

func (e *authExtension) tokenFailure(who guesser, err error) *failure {
	const credential = tenant.CredentialOIDC
	switch {
	case errors.Is(err, errIssuerDown): // the sender can do nothing about it
		return &failure{reasonIssuerDown, credential, &tenant.Refusal{Reason: toldIssuer, Code: codes.Unavailable, After: issuerRetry, Text: "the token's issuer cannot be asked for its keys: send it again later"}}
	case errors.Is(err, errTokenExpired):
		return unauthenticated(credential, reasonExpired, toldExpired, "the token has expired: get another one")
	case errors.Is(err, errUnknownIssuer):
		return e.wrong(who, unauthenticated(credential, reasonUnknownIssuer, toldInvalid, "the token is of an issuer that is not trusted here"))
	case errors.Is(err, errNoToken):
		return e.wrong(who, unauthenticated(credential, reasonMalformed, toldMalformed, "the credential is neither an API key nor a JSON Web Token"))
	}
	return e.wrong(who, unauthenticated(credential, reasonInvalidToken, toldInvalid, "the token is not valid: its signature, audience, times or tenant claim are not as they must be"))
}

func (s *issuers) recall(hash [sha256.Size]byte) (named, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ok := s.right.Get(hash)
	if ok && !s.now().Before(n.until) {
		s.right.Remove(hash)
		ok = false
	}
	return n, ok
}

func (s *issuers) remember(hash [sha256.Size]byte, n named) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.right.Add(hash, n)
}

// check returns whom a token names.
func (s *issuers) check(ctx context.Context, token string) (named, error) {
	iss, err := claimedIssuer(token)
	if err != nil {
		return named{}, err
	}
	i, ok := s.of[iss]
	if !ok {
		return named{}, errUnknownIssuer
	}
	verifier, err := i.ask()
	if err != nil {
		return named{}, err
	}
	var keysErr error
	t, err := verifier.Verify(context.WithValue(ctx, keysErrKey{}, &keysErr), token)
	var expired *oidc.TokenExpiredError
	switch {
	case errors.As(err, &expired):
		return named{}, errTokenExpired
	case keysErr != nil:
		return named{}, fmt.Errorf("%w: %w", errIssuerDown, keysErr)
	case err != nil:
		return named{}, err
	}
	claims := map[string]any{}
	if err := t.Claims(&claims); err != nil {
		return named{}, err
	}
	claim, ok := claims[i.cfg.claim()].(string)
	if !ok || claim == "" {
		return named{}, fmt.Errorf("claim %s is not a string", i.cfg.claim())
	}
	until := s.now().Add(tokenTrust)
	if t.Expiry.Before(until) {
		until = t.Expiry
	}
	return named{i.cfg.Issuer, claim, until}, nil
}

// claimedIssuer reads `iss` of a token that is not checked yet.
func claimedIssuer(token string) (string, error) {
	parts := strings.Split(token, ".")
	if len(token) > maxTokenBytes || len(parts) != 3 {
		return "", errNoToken
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", errNoToken
	}
	var c struct {
		Issuer string `json:"iss"`
	}
	if err := json.Unmarshal(payload, &c); err != nil {
		return "", errNoToken
	}
	return c.Issuer, nil
}

// ask returns the issuer's verifier, having asked the issuer who it is if that has not succeeded yet.
func (i *issuer) ask() (*oidc.IDTokenVerifier, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.verifier != nil {
		return i.verifier, nil
	}
	if i.failed != nil && i.now().Sub(i.tried) < issuerRetry {
		return nil, i.failed
	}
	i.tried = i.now()
	// The provider keeps this context for as long as it lives, so it must not be a request's.
	provider, err := oidc.NewProvider(oidc.ClientContext(context.Background(), i.http), i.cfg.Issuer)
	if err != nil {
		i.failed = fmt.Errorf("%w: %w", errIssuerDown, err)
		return nil, i.failed
	}
	var described struct {
		JWKS string   `json:"jwks_uri"`
		Algs []string `json:"id_token_signing_alg_values_supported"`
	}
	if err := provider.Claims(&described); err != nil {
		i.failed = fmt.Errorf("%w: %w", errIssuerDown, err)
		return nil, i.failed
	}
	keysHTTP := &http.Client{Timeout: i.http.Timeout, Transport: &repeating{of: i.http.Transport, now: i.now}}
	keys := oidc.NewRemoteKeySet(oidc.ClientContext(context.Background(), keysHTTP), described.JWKS)
	i.verifier = oidc.NewVerifier(i.cfg.Issuer, watchedKeys{keys}, &oidc.Config{ClientID: i.cfg.Audience, SupportedSigningAlgs: asymmetric(described.Algs), Now: i.now})
	return i.verifier, nil
}

// asymmetric keeps the algorithms whose keys an issuer may publish.
func asymmetric(algs []string) []string {
	var out []string
	for _, a := range algs {
		switch a {
		case oidc.RS256, oidc.RS384, oidc.RS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.EdDSA:
			out = append(out, a)
		}
	}
	return out
}

// repeating gives the last good answer again while it is younger than keysFor. It is for one address; its user asks once at a time.
type repeating struct {
	of  http.RoundTripper
	now func() time.Time

	mu   sync.Mutex // held while it is asked
	last http.Response
	body []byte
	at   time.Time // of last; zero: there is none
}

func (r *repeating) RoundTrip(req *http.Request) (*http.Response, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.at.IsZero() || r.now().Sub(r.at) >= keysFor {
		res, err := r.of.RoundTrip(req)
		if err != nil || res.StatusCode != http.StatusOK {
			return res, err
		}
		body, err := io.ReadAll(io.LimitReader(res.Body, maxKeysBytes+1))
		if err = errors.Join(err, res.Body.Close()); err != nil {
			return nil, err
		}
		if len(body) > maxKeysBytes {
			return nil, fmt.Errorf("%s: keys of more than %d bytes", req.URL, maxKeysBytes)
		}
		r.last, r.body, r.at = *res, body, r.now()
	}
	res := r.last
	res.Request, res.Header, res.Body = req, r.last.Header.Clone(), io.NopCloser(bytes.NewReader(r.body))
	return &res, nil
}

type keysErrKey struct{}

// watchedKeys tells keys that could not be fetched from a signature that is wrong; the library's own error says it only in words.
type watchedKeys struct{ oidc.KeySet }

func (k watchedKeys) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	payload, err := k.KeySet.VerifySignature(ctx, jwt)
	if into, ok := ctx.Value(keysErrKey{}).(*error); ok && err != nil && strings.HasPrefix(err.Error(), "fetching keys") {
		*into = err
	}
	return payload, err
}
