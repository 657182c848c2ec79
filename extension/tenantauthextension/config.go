package tenantauthextension

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"time"

	"go.opentelemetry.io/collector/component"

	"github.com/pulsegrid/pulsegrid/internal/fileset"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

// Defaults and bounds of Config.
const (
	defaultReloadInterval = 5 * time.Second // a pushed change is in force within 10 s, reading it included
	defaultTimeout        = 30 * time.Second
	defaultTenantClaim    = "tenant"
	defaultGuessBurst     = 20
	defaultGuessRate      = 0.5
	defaultRemembered     = 65536

	maxIssuers       = 16
	maxProxies       = 256
	maxRememberedMax = 1 << 24
)

// Config of extension `tenant_auth`.
type Config struct {
	// Registry is where the tenants' files are (docs/formats/tenants.md).
	Registry RegistryConfig `mapstructure:"registry"`
	// Jurisdiction of this cell, `eu` for instance. Tenants that are pinned to another one are refused. Default empty: the cell is in none, and
	// takes only tenants that are pinned to none.
	Jurisdiction string `mapstructure:"jurisdiction"`
	// Cell is this cell's name, as the registry's `cells` have it. Tenants that may not be in it are refused. Default empty: the cell takes only tenants that
	// may be in all cells of their jurisdictions.
	Cell string `mapstructure:"cell"`
	// OIDC issuers whose tokens are taken, at most 16. Default none.
	OIDC []OIDCConfig `mapstructure:"oidc"`
	// Guesses bounds how often an address may show wrong credentials.
	Guesses GuessesConfig `mapstructure:"guesses"`
	// TrustedProxies are the networks, as CIDR, of the load balancers and proxies in front of the gateway, at most 256. A sender that comes through one
	// has the last address in X-Forwarded-For that is in none of them. Default none: the header is ignored.
	TrustedProxies []string `mapstructure:"trusted_proxies"`
}

// RegistryConfig says where the tenants' files are.
type RegistryConfig struct {
	// Location is a directory, or s3://BUCKET/PREFIX?region=REGION (also endpoint, use_path_style). Its *.yaml and *.yml files are read, those
	// of subdirectories are not. Required.
	Location string `mapstructure:"location"`
	// ReloadInterval is how often changes are looked for. Default 5s; 100ms to 1h.
	ReloadInterval time.Duration `mapstructure:"reload_interval"`
	// Timeout of a look, reading included. Default 30s; 1s to 10m.
	Timeout time.Duration `mapstructure:"timeout"`
}

// OIDCConfig is an issuer of tokens.
type OIDCConfig struct {
	// Issuer is the URL that tokens have as `iss`, and below which the issuer describes itself. Required; https, or http on this machine.
	Issuer string `mapstructure:"issuer"`
	// Audience that tokens must have in `aud`. Required: a token for another service must not open this one.
	Audience string `mapstructure:"audience"`
	// TenantClaim is the claim, a string, by which tenants' `oidc` entries are found. Default "tenant".
	TenantClaim string `mapstructure:"tenant_claim"`
}

// GuessesConfig bounds wrong attempts. They are counted by client address (IPv6: by /64) and kind of credential, those with the id of a known API key by
// address and key. A right credential is taken whatever was shown before.
type GuessesConfig struct {
	// Burst is how many wrong attempts are answered at once. Default 20; at least 1.
	Burst int `mapstructure:"burst"`
	// PerSecond is how many more are answered each second. Default 0.5; above 0.
	PerSecond float64 `mapstructure:"per_second"`
	// RememberedMax bounds how many addresses are remembered; the ones seen longest ago are forgotten first. Default 65536.
	RememberedMax int `mapstructure:"remembered_max"`
}

func createDefaultConfig() component.Config {
	return &Config{
		Registry: RegistryConfig{ReloadInterval: defaultReloadInterval, Timeout: defaultTimeout},
		Guesses:  GuessesConfig{Burst: defaultGuessBurst, PerSecond: defaultGuessRate, RememberedMax: defaultRemembered},
	}
}

// Validate names the key and the value of what is wrong.
func (c *Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if err := fileset.Check(c.Registry.Location); err != nil {
		bad("registry::location: %w", err)
	}
	if i := c.Registry.ReloadInterval; i < 100*time.Millisecond || i > time.Hour {
		bad("registry::reload_interval: %v is not between 100ms and 1h", i)
	}
	if t := c.Registry.Timeout; t < time.Second || t > 10*time.Minute {
		bad("registry::timeout: %v is not between 1s and 10m", t)
	}
	if c.Jurisdiction != "" && !tenant.ValidName(c.Jurisdiction) {
		bad("jurisdiction: %q: "+tenant.WantName, c.Jurisdiction)
	}
	if c.Cell != "" && !tenant.ValidName(c.Cell) {
		bad("cell: %q: "+tenant.WantName, c.Cell)
	}
	if len(c.OIDC) > maxIssuers {
		bad("oidc: has %d issuers, more than %d", len(c.OIDC), maxIssuers)
	}
	seen := map[string]bool{}
	for i, o := range c.OIDC {
		if err := o.validate(); err != nil {
			bad("oidc::%d::%w", i, err)
		}
		if seen[o.Issuer] {
			bad("oidc::%d::issuer: %q is there twice", i, o.Issuer)
		}
		seen[o.Issuer] = true
	}
	if len(c.TrustedProxies) > maxProxies {
		bad("trusted_proxies: has %d networks, more than %d", len(c.TrustedProxies), maxProxies)
	}
	if _, err := c.proxies(); err != nil {
		bad("trusted_proxies: %w", err)
	}
	if c.Guesses.Burst < 1 || c.Guesses.Burst > 1e6 {
		bad("guesses::burst: %d is not between 1 and 1000000", c.Guesses.Burst)
	}
	if !(c.Guesses.PerSecond > 0 && c.Guesses.PerSecond <= 1e6) {
		bad("guesses::per_second: %v is not above 0 and at most 1000000", c.Guesses.PerSecond)
	}
	if c.Guesses.RememberedMax < 1 || c.Guesses.RememberedMax > maxRememberedMax {
		bad("guesses::remembered_max: %d is not between 1 and %d", c.Guesses.RememberedMax, maxRememberedMax)
	}
	return errors.Join(errs...)
}

func (o *OIDCConfig) validate() error {
	u, err := url.Parse(o.Issuer)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("issuer: %q is no URL of an issuer", o.Issuer)
	case u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname())):
		return fmt.Errorf("issuer: %q is not https: its keys could be anybody's", o.Issuer)
	case o.Audience == "":
		return errors.New("audience: is empty: a token for another service must not open this one")
	}
	return nil
}

func (c *Config) proxies() ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, text := range c.TrustedProxies {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("%q is no network like 10.0.0.0/8", text)
		}
		out = append(out, p)
	}
	return out, nil
}

func loopback(host string) bool { return host == "localhost" || host == "127.0.0.1" || host == "::1" }

func (o *OIDCConfig) claim() string {
	if o.TenantClaim == "" {
		return defaultTenantClaim
	}
	return o.TenantClaim
}
