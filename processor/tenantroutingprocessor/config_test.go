package tenantroutingprocessor

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
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
	for _, id := range []string{"tenant_routing", "tenant_routing/all"} {
		sub, err := conf.Sub(id)
		require.NoError(t, err)
		cfg := createDefaultConfig().(*Config)
		require.NoError(t, sub.Unmarshal(cfg))
		require.NoError(t, confmap.Validate(cfg))
		if len(cfg.TenantAttributes) == 0 {
			cfg.TenantAttributes = nil
		}
		require.Equal(t, createDefaultConfig(), cfg, id)
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
	sub, err := conf.Sub("processors::tenant_routing")
	require.NoError(t, err)
	cfg := createDefaultConfig().(*Config)
	require.NoError(t, sub.Unmarshal(cfg))
	require.NoError(t, confmap.Validate(cfg))
	require.Equal(t, "tenant_auth", cfg.Registry.String())
}

func TestErrorsNameTheKeyAndTheValue(t *testing.T) {
	for want, change := range map[string]func(*Config){
		`unauthenticated: "maybe"`:         func(c *Config) { c.Unauthenticated = "maybe" },
		`spoofed: "keep"`:                  func(c *Config) { c.Spoofed = "keep" },
		`default_tenant: "a b"`:            func(c *Config) { c.Unauthenticated, c.DefaultTenant = "trust", "a b" },
		`default_tenant: "a" is of no use`: func(c *Config) { c.DefaultTenant = "a" },
		`tenant_attributes: ""`:            func(c *Config) { c.TenantAttributes = []string{""} },
		"tenant_attributes: has 17":        func(c *Config) { c.TenantAttributes = strings.Split(strings.Repeat("a", 17), "") },
		"drain_share: 0":                   func(c *Config) { c.DrainShare = 0 },
		"retry_max: 1ms":                   func(c *Config) { c.RetryMax = time.Millisecond },
		"undecodable_bytes_per_second: -1": func(c *Config) { c.UndecodableBytesPerSecond = -1 },
	} {
		cfg := createDefaultConfig().(*Config)
		change(cfg)
		require.ErrorContains(t, confmap.Validate(cfg), want)
	}
}
