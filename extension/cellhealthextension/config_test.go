package cellhealthextension

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

	"github.com/pulsegrid/pulsegrid/internal/cellhealth"
)

func TestTestdataHoldsEveryDefault(t *testing.T) {
	require.NoError(t, componenttest.CheckConfigStruct(createDefaultConfig()))
	conf, err := confmaptest.LoadConf(filepath.Join("testdata", "config.yaml"))
	require.NoError(t, err)
	for _, id := range []string{"cell_health", "cell_health/all"} {
		sub, err := conf.Sub(id)
		require.NoError(t, err)
		cfg := createDefaultConfig().(*Config)
		require.NoError(t, sub.Unmarshal(cfg))
		require.NoError(t, confmap.Validate(cfg))
		require.Equal(t, createDefaultConfig(), cfg, id)
	}
}

func TestREADMEsExamplesLoad(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	examples := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(readme), -1)
	require.Len(t, examples, 2)
	file := filepath.Join(t.TempDir(), "c.yaml")
	require.NoError(t, os.WriteFile(file, []byte(examples[0][1]), 0o600))
	conf, err := confmaptest.LoadConf(file)
	require.NoError(t, err)
	sub, err := conf.Sub("extensions::cell_health")
	require.NoError(t, err)
	cfg := createDefaultConfig().(*Config)
	require.NoError(t, sub.Unmarshal(cfg))
	require.NoError(t, confmap.Validate(cfg))
	state, err := cellhealth.ParseState([]byte(examples[1][1]))
	require.NoError(t, err)
	require.Equal(t, cfg.Cell, state.Cell)
}

func TestErrorsNameTheKeyAndTheValue(t *testing.T) {
	for want, change := range map[string]func(*Config){
		`endpoint: "nowhere" is not HOST:PORT`: func(c *Config) { c.Endpoint = "nowhere" },
		`cell: "EU 1": want 1 to 32`:           func(c *Config) { c.Cell = "EU 1" },
		"cell: is empty":                       func(c *Config) { c.State.Location = "/x" },
		`state::location: "ftp://x"`:           func(c *Config) { c.State.Location = "ftp://x" },
		"state::reload_interval: is 11s":       func(c *Config) { c.State.ReloadInterval = 11 * time.Second },
		"state::timeout: is 0s":                func(c *Config) { c.State.Timeout = 0 },
		"interval: is 1ms":                     func(c *Config) { c.Interval = time.Millisecond },
		"timeout: is 6s, want more than 0 and": func(c *Config) { c.Timeout = 6 * time.Second },
		"bad_looks: is 0, want 1 to 100":       func(c *Config) { c.BadLooks = 0 },
		"good_looks: is 101, want 1 to 100":    func(c *Config) { c.GoodLooks = 101 },
		"hold: is 2h0m0s, want 0s to 1h0m0s":   func(c *Config) { c.Hold = 2 * time.Hour },
	} {
		cfg := createDefaultConfig().(*Config)
		change(cfg)
		require.ErrorContains(t, confmap.Validate(cfg), want)
	}
}
