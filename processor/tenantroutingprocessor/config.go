package tenantroutingprocessor

import (
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/collector/component"

	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

// What Unauthenticated may be.
const (
	refuseUnauthenticated = "refuse"
	trustUnauthenticated  = "trust"
)

// What Spoofed may be.
const (
	overwriteSpoofed = "overwrite"
	refuseSpoofed    = "refuse"
)

const (
	defaultDrainShare  = 0.25
	defaultRetryMax    = 60 * time.Second
	defaultUndecodable = 1 << 20
	minRetry           = 100 * time.Millisecond

	maxTenantAttributes = 16
	maxAttributeBytes   = 128
)

// Config of processor `tenant_routing`.
type Config struct {
	// Registry is the extension that holds the tenants. Default: the only one that does.
	Registry *component.ID `mapstructure:"registry"`
	// Unauthenticated says what becomes of a request whose receiver asked for no credentials: refuse (default), or trust, which takes the tenant that
	// the ingest receiver's tenant header named, or that resources have in the attribute pulsegrid.tenant. Trust only what is behind a proxy that
	// authenticates.
	Unauthenticated string `mapstructure:"unauthenticated"`
	// DefaultTenant owns what names no tenant, with unauthenticated: trust. Default empty: it is refused.
	DefaultTenant string `mapstructure:"default_tenant"`
	// TenantAttributes are attributes, besides pulsegrid.tenant, that must not name another tenant: `tenant.id` for instance. They are looked for on
	// resources, scopes and events. Default none; at most 16.
	TenantAttributes []string `mapstructure:"tenant_attributes"`
	// Spoofed says what becomes of a request in which such an attribute names another tenant: overwrite (default) puts the right one there,
	// refuse refuses the request for good.
	Spoofed string `mapstructure:"spoofed"`
	// DrainShare is the part of a tenant's quota with which its overflow lane is taken to drain. Default 0.25; above 0 and at most 1. It is what the
	// aggregator has left over; senders are told to come again by it.
	DrainShare float64 `mapstructure:"drain_share"`
	// UndecodableBytesPerSecond is how many bytes of a tenant that cannot be decoded are kept in quarantine, besides its quotas. Default 1048576; 0 is no
	// limit.
	UndecodableBytesPerSecond int64 `mapstructure:"undecodable_bytes_per_second"`
	// RetryMax bounds what senders are asked to wait. Default 60s; 1s to 1h.
	RetryMax time.Duration `mapstructure:"retry_max"`
}

func createDefaultConfig() component.Config {
	return &Config{Unauthenticated: refuseUnauthenticated, Spoofed: overwriteSpoofed, DrainShare: defaultDrainShare, RetryMax: defaultRetryMax, UndecodableBytesPerSecond: defaultUndecodable}
}

// Validate names the key and the value of what is wrong.
func (c *Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Unauthenticated != refuseUnauthenticated && c.Unauthenticated != trustUnauthenticated {
		bad("unauthenticated: %q is unknown, want refuse or trust", c.Unauthenticated)
	}
	if c.Spoofed != overwriteSpoofed && c.Spoofed != refuseSpoofed {
		bad("spoofed: %q is unknown, want overwrite or refuse", c.Spoofed)
	}
	if c.DefaultTenant != "" && !tenant.ValidID(c.DefaultTenant) {
		bad("default_tenant: %q is not a tenant id: "+tenant.WantID, c.DefaultTenant)
	}
	if c.DefaultTenant != "" && c.Unauthenticated != trustUnauthenticated {
		bad("default_tenant: %q is of no use with unauthenticated: %s", c.DefaultTenant, c.Unauthenticated)
	}
	if len(c.TenantAttributes) > maxTenantAttributes {
		bad("tenant_attributes: has %d, more than %d", len(c.TenantAttributes), maxTenantAttributes)
	}
	for _, a := range c.TenantAttributes {
		if a == "" || len(a) > maxAttributeBytes {
			bad("tenant_attributes: %q is no attribute of 1 to %d bytes", a, maxAttributeBytes)
		}
	}
	if !(c.DrainShare > 0 && c.DrainShare <= 1) {
		bad("drain_share: %v is not above 0 and at most 1", c.DrainShare)
	}
	if c.RetryMax < time.Second || c.RetryMax > time.Hour {
		bad("retry_max: %v is not between 1s and 1h", c.RetryMax)
	}
	if c.UndecodableBytesPerSecond < 0 {
		bad("undecodable_bytes_per_second: %d is below 0", c.UndecodableBytesPerSecond)
	}
	return errors.Join(errs...)
}
