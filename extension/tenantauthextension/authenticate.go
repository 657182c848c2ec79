package tenantauthextension

import (
	"context"
	"crypto/x509"
	"errors"
	"net/netip"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

// Reasons that senders are told in google.rpc.ErrorInfo. They say less than the metrics: not which part of a credential was right.
const (
	toldMissing   = "CREDENTIALS_MISSING"
	toldMalformed = "CREDENTIALS_MALFORMED"
	toldInvalid   = "CREDENTIALS_INVALID"
	toldExpired   = "CREDENTIALS_EXPIRED"
	toldThrottled = "TOO_MANY_WRONG_CREDENTIALS"
	toldIssuer    = "ISSUER_UNAVAILABLE"
)

// failure is a request that was not authenticated.
type failure struct {
	reason     string // of metadata.yaml
	credential string
	told       *tenant.Refusal
}

func unauthenticated(credential, reason, told, text string) *failure {
	return &failure{reason, credential, &tenant.Refusal{Reason: told, Code: codes.Unauthenticated, Text: text}}
}

// Authenticate implements extensionauth.Server: sources are a request's headers or gRPC metadata. The context that it returns carries a
// tenant.Identity; its errors carry the status that the sender shall see.
func (e *authExtension) Authenticate(ctx context.Context, sources map[string][]string) (context.Context, error) {
	identity, f := e.authenticate(ctx, sources)
	if f != nil {
		e.telemetry.refused(ctx, f.credential, f.reason)
		return ctx, f.told
	}
	e.telemetry.accepted(ctx, identity)
	return tenant.NewContext(ctx, identity), nil
}

func (e *authExtension) authenticate(ctx context.Context, sources map[string][]string) (tenant.Identity, *failure) {
	snapshot := e.Snapshot()
	if snapshot == nil {
		return tenant.Identity{}, &failure{reasonUnavailable, credentialNone, tenant.Unavailable("has not been read yet")}
	}
	secret, f := shown(sources)
	if f != nil {
		return tenant.Identity{}, f
	}
	switch {
	case secret == "":
		return e.byCertificate(ctx, snapshot)
	case strings.HasPrefix(secret, tenant.KeyPrefix):
		return e.byKey(snapshot, secret, e.addressOf(ctx, sources))
	case len(e.cfg.OIDC) > 0:
		return e.byToken(ctx, snapshot, secret, e.addressOf(ctx, sources))
	}
	return tenant.Identity{}, unauthenticated(tenant.CredentialKey, reasonMalformed, toldMalformed, "the credential is no API key: those begin with "+tenant.KeyPrefix)
}

// shown returns the key or token of a request, or "" where it shows none.
func shown(sources map[string][]string) (string, *failure) {
	authorization, apiKey := header(sources, "Authorization", "authorization"), header(sources, "X-Api-Key", "x-api-key")
	malformed := func(text string) (string, *failure) {
		return "", unauthenticated(credentialNone, reasonMalformed, toldMalformed, text)
	}
	switch {
	case len(authorization)+len(apiKey) == 0:
		return "", nil
	case len(authorization)+len(apiKey) > 1:
		return malformed("more than one credential: send one of the headers authorization and x-api-key, once")
	case len(apiKey) == 1:
		if apiKey[0] == "" {
			return malformed("header x-api-key is empty")
		}
		return apiKey[0], nil
	}
	scheme, secret, _ := strings.Cut(authorization[0], " ")
	secret = strings.TrimSpace(secret)
	if secret == "" || !strings.EqualFold(scheme, "Bearer") && !strings.EqualFold(scheme, "ApiKey") {
		return malformed("header authorization: want `Bearer KEY_OR_TOKEN` or `ApiKey KEY`")
	}
	return secret, nil
}

// header looks a header up as HTTP writes it, as gRPC does, and as anybody may.
func header(sources map[string][]string, name, lower string) []string {
	if v, ok := sources[name]; ok {
		return v
	}
	if v, ok := sources[lower]; ok {
		return v
	}
	for k, v := range sources {
		if len(k) == len(name) && strings.EqualFold(k, name) {
			return v
		}
	}
	return nil
}

// byKey checks the key first, and throttles only failures: were a right key turned away because of wrong ones, whoever knows a tenant's key id, which is no
// secret, or shares its address could lock it out. Nobody guesses a key of 256 random bits at any rate.
func (e *authExtension) byKey(snapshot *tenant.Snapshot, key string, address netip.Addr) (tenant.Identity, *failure) {
	const credential = tenant.CredentialKey
	t, id, err := snapshot.ByKey(key, e.now())
	if err == nil {
		return tenant.Identity{Tenant: t, Credential: credential}, nil
	}
	if errors.Is(err, tenant.ErrKeyExpired) {
		return tenant.Identity{}, unauthenticated(credential, reasonExpired, toldExpired, "the API key has expired: use its successor")
	}
	who, reason := guesser{address: address, credential: credential}, reasonUnknownKey
	switch {
	case errors.Is(err, tenant.ErrKeyForm):
		reason = reasonMalformed
	case errors.Is(err, tenant.ErrKeyWrong):
		reason, who.keyID = reasonWrongKey, id
	case snapshot.Incomplete():
		return tenant.Identity{}, incomplete(credential)
	}
	return tenant.Identity{}, e.wrong(who, unauthenticated(credential, reason, toldInvalid, "the API key is not valid"))
}

// wrong counts an attempt that failed, and returns what its sender is told: f, or that it has failed too often.
func (e *authExtension) wrong(who guesser, f *failure) *failure {
	wait := e.guesses.wrong(who)
	if wait == 0 {
		return f
	}
	return &failure{reasonThrottled, who.credential, &tenant.Refusal{
		Reason: toldThrottled, Code: codes.ResourceExhausted, After: wait, Text: "the credential is not valid, as too many from this address before it",
	}}
}

// incomplete is for who may be in a file that could not be read.
func incomplete(credential string) *failure {
	return &failure{reasonUnavailable, credential, tenant.Unavailable("is incomplete and does not know the credential")}
}

func (e *authExtension) byCertificate(ctx context.Context, snapshot *tenant.Snapshot) (tenant.Identity, *failure) {
	c := verifiedCertificate(ctx)
	if c == nil {
		return tenant.Identity{}, unauthenticated(credentialNone, reasonMissing, toldMissing,
			"no credentials: send an API key in the header `authorization: Bearer KEY` or `x-api-key: KEY`")
	}
	if t := snapshot.ByCertificate(c); t != nil {
		return tenant.Identity{Tenant: t, Credential: tenant.CredentialMTLS}, nil
	}
	if snapshot.Incomplete() {
		return tenant.Identity{}, incomplete(tenant.CredentialMTLS)
	}
	return tenant.Identity{}, unauthenticated(tenant.CredentialMTLS, reasonUnknownTenant, toldInvalid, "the client certificate belongs to no tenant, and there are no other credentials")
}

// verifiedCertificate of the connection, which the server has checked against its client CA; nil where there is none.
func verifiedCertificate(ctx context.Context) *x509.Certificate {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 || len(info.State.VerifiedChains[0]) == 0 {
		return nil
	}
	return info.State.VerifiedChains[0][0]
}
