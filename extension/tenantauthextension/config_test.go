package tenantauthextension

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/confmaptest"
)

func TestTestdataHoldsEveryDefault(t *testing.T) {
	require.NoError(t, componenttest.CheckConfigStruct(createDefaultConfig()))
	conf, err := confmaptest.LoadConf(filepath.Join("testdata", "config.yaml"))
	require.NoError(t, err)
	want := createDefaultConfig().(*Config)
	require.ErrorContains(t, want.Validate(), "registry::location: is empty")
	want.Registry.Location = "/etc/pulsegrid/tenants"
	for _, id := range []string{"tenant_auth", "tenant_auth/all"} {
		sub, err := conf.Sub(id)
		require.NoError(t, err)
		cfg := createDefaultConfig().(*Config)
		require.NoError(t, sub.Unmarshal(cfg))
		require.NoError(t, confmap.Validate(cfg))
		if len(cfg.OIDC) == 0 {
			cfg.OIDC = nil
		}
		if len(cfg.TrustedProxies) == 0 {
			cfg.TrustedProxies = nil
		}
		require.Equal(t, want, cfg, id)
	}
}

func TestREADMEsExampleLoads(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	examples := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(readme), -1)
	require.Len(t, examples, 1)
	file := filepath.Join(t.TempDir(), "c.yaml")
	require.NoError(t, os.WriteFile(file, []byte(examples[0][1]), 0o600))
	conf, err := confmaptest.LoadConf(file)
	require.NoError(t, err)
	sub, err := conf.Sub("extensions::tenant_auth")
	require.NoError(t, err)
	cfg := createDefaultConfig().(*Config)
	require.NoError(t, sub.Unmarshal(cfg))
	require.NoError(t, confmap.Validate(cfg))
	require.Equal(t, "eu", cfg.Jurisdiction)
	require.Equal(t, "tenant", cfg.OIDC[0].claim())
}

func TestErrorsNameTheKeyAndTheValue(t *testing.T) {
	good := OIDCConfig{Issuer: "https://a.example.com", Audience: "x"}
	for want, change := range map[string]func(*Config){
		"registry::location: is empty":                              func(c *Config) { c.Registry.Location = "" },
		`registry::location: "ftp://x"`:                             func(c *Config) { c.Registry.Location = "ftp://x" },
		"registry::reload_interval: 1ms":                            func(c *Config) { c.Registry.ReloadInterval = time.Millisecond },
		"registry::timeout: 1h0m0s":                                 func(c *Config) { c.Registry.Timeout = time.Hour },
		`jurisdiction: "EU"`:                                        func(c *Config) { c.Jurisdiction = "EU" },
		`cell: "EU 1"`:                                              func(c *Config) { c.Cell = "EU 1" },
		`oidc::0::issuer: "x"`:                                      func(c *Config) { c.OIDC = []OIDCConfig{{Issuer: "x"}} },
		`oidc::0::issuer: "http://a" is not http`:                   func(c *Config) { c.OIDC = []OIDCConfig{{Issuer: "http://a", Audience: "x"}} },
		"oidc::0::audience: is empty":                               func(c *Config) { c.OIDC = []OIDCConfig{{Issuer: "https://a"}} },
		"oidc::1::issuer: \"https://a.example.com\" is there twice": func(c *Config) { c.OIDC = []OIDCConfig{good, good} },
		"oidc: has 17 issuers":                                      func(c *Config) { c.OIDC = make([]OIDCConfig, 17) },
		`trusted_proxies: "10.0.0.1" is no network`:                 func(c *Config) { c.TrustedProxies = []string{"10.0.0.1"} },
		"trusted_proxies: has 257 networks":                         func(c *Config) { c.TrustedProxies = make([]string, 257) },
		"guesses::burst: 0":                                         func(c *Config) { c.Guesses.Burst = 0 },
		"guesses::per_second: 0":                                    func(c *Config) { c.Guesses.PerSecond = 0 },
		"guesses::remembered_max: 0":                                func(c *Config) { c.Guesses.RememberedMax = 0 },
	} {
		cfg := createDefaultConfig().(*Config)
		cfg.Registry.Location = "x"
		change(cfg)
		require.ErrorContains(t, confmap.Validate(cfg), want)
	}
}
