package tenantauthextension

import (
	"context"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/otel/attribute"

	"github.com/pulsegrid/pulsegrid/internal/componentmeta"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

// Reasons of metadata.yaml.
const (
	reasonMissing       = "missing"
	reasonMalformed     = "malformed"
	reasonUnknownKey    = "unknown_key"
	reasonWrongKey      = "wrong_key"
	reasonExpired       = "expired"
	reasonInvalidToken  = "invalid_token"
	reasonUnknownIssuer = "unknown_issuer"
	reasonIssuerDown    = "issuer_unreachable"
	reasonUnknownTenant = "unknown_tenant"
	reasonThrottled     = "throttled"
	reasonUnavailable   = "registry_unavailable"
)

const credentialNone = "none"

// telemetry is what metadata.yaml declares. Attribute sets of what comes often are made once.
type telemetry struct {
	*componentmeta.Telemetry
	acceptedTotal, refusedTotal, reloads componentmeta.Counter
	duration                             componentmeta.Histogram

	byClass map[string]*tenant.ByClass[componentmeta.Attributes] // by credential
}

func newTelemetry(id component.ID, set component.TelemetrySettings, e *authExtension) (*telemetry, error) {
	t := metadata.Telemetry(id, set)
	m := &telemetry{
		Telemetry:     t,
		acceptedTotal: t.Counter("tenant_auth_accepted"), refusedTotal: t.Counter("tenant_auth_refused"),
		reloads: t.Counter("tenant_auth_reloads"), duration: t.Histogram("tenant_auth_reload_duration"),
		byClass: map[string]*tenant.ByClass[componentmeta.Attributes]{},
	}
	for _, credential := range []string{tenant.CredentialKey, tenant.CredentialOIDC, tenant.CredentialMTLS} {
		m.byClass[credential] = &tenant.ByClass[componentmeta.Attributes]{Make: func(class string) componentmeta.Attributes {
			return t.With(attribute.String("credential", credential), attribute.String("class", class))
		}}
	}
	gauge := func(name string, value func() int64) {
		t.Gauge(name, func(record func(int64, ...attribute.KeyValue)) { record(value()) })
	}
	gauge("tenant_auth_registry_age", func() int64 {
		if at := e.listed.Load(); at != 0 {
			return int64(e.now().Sub(time.Unix(0, at)).Seconds())
		}
		return 0
	})
	gauge("tenant_auth_refused_files", e.bad.Load)
	gauge("tenant_auth_tenants", func() int64 {
		if s := e.Snapshot(); s != nil {
			return int64(s.Len())
		}
		return 0
	})
	t.Gauge("tenant_auth_key_expiry", func(record func(int64, ...attribute.KeyValue)) {
		if s := e.Snapshot(); s != nil {
			now := e.now()
			if at, ok := s.NextWithoutKey(now); ok {
				record(int64(at.Sub(now).Seconds()))
			}
		}
	})
	gauge("tenant_auth_guessing_addresses", e.guesses.kept.Load)
	return m, t.Err()
}

func (m *telemetry) shutdown() { m.Shutdown() }

func (m *telemetry) accepted(ctx context.Context, i tenant.Identity) {
	m.acceptedTotal.Add(ctx, 1, m.byClass[i.Credential].Of(i.Tenant.Class))
}

func (m *telemetry) refused(ctx context.Context, credential, reason string) {
	m.refusedTotal.Add(ctx, 1, m.With(attribute.String("credential", credential), attribute.String("reason", reason)))
}

func (m *telemetry) reloaded(r tenant.Report, err error) {
	ctx := context.Background()
	outcome := "unchanged"
	switch {
	case err != nil:
		outcome = "failed"
	case r.Changed:
		outcome = "changed"
		m.duration.Record(ctx, r.Duration.Seconds(), m.With())
	}
	m.reloads.Add(ctx, 1, m.With(attribute.String("outcome", outcome)))
}
