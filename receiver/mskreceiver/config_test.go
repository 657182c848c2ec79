package mskreceiver

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/confmaptest"
	"gopkg.in/yaml.v3"
)

func TestDefaultsNeedOnlyAGroup(t *testing.T) {
	cfg := createDefaultConfig().(*Config)
	require.ErrorContains(t, cfg.Validate(), "group_id")
	cfg.GroupID = "g"
	require.NoError(t, confmap.Validate(cfg))
}

func TestTestdataHasEveryKeyAsItsDefault(t *testing.T) {
	conf, err := confmaptest.LoadConf(filepath.Join("testdata", "config.yaml"))
	require.NoError(t, err)
	want := createDefaultConfig().(*Config)
	want.GroupID = "pulsegrid"
	for _, id := range []string{"msk", "msk/all"} {
		sub, err := conf.Sub(id)
		require.NoError(t, err)
		cfg := createDefaultConfig().(*Config)
		require.NoError(t, sub.Unmarshal(cfg))
		require.NoError(t, confmap.Validate(cfg))
		require.Equal(t, want, cfg, id)
	}
	all, err := conf.Sub("msk/all")
	require.NoError(t, err)
	marshalled := confmap.New()
	require.NoError(t, marshalled.Marshal(want))
	for key := range marshalled.ToStringMap() {
		if key != "tls" {
			require.True(t, all.IsSet(key), key)
		}
	}
}

func TestWrongValuesAreNamedByTheirKey(t *testing.T) {
	for key, spoil := range map[string]func(*Config){
		"brokers":                    func(c *Config) { c.Brokers = nil },
		"group_id":                   func(c *Config) { c.GroupID = "" },
		"topics::logs":               func(c *Config) { c.Topics.Logs = []string{"x", "x"} },
		"topics::metrics":            func(c *Config) { c.Topics.Metrics = []string{""} },
		"topics::traces":             func(c *Config) { c.Topics.Traces = []string{"quarantine.v1"} },
		"initial_offset":             func(c *Config) { c.InitialOffset = "middle" },
		"default_tenant":             func(c *Config) { c.DefaultTenant = "" },
		"quarantine_topic":           func(c *Config) { c.QuarantineTopic = "" },
		"session_timeout":            func(c *Config) { c.SessionTimeout = time.Second },
		"rebalance_timeout":          func(c *Config) { c.RebalanceTimeout = 0 },
		"heartbeat_interval":         func(c *Config) { c.HeartbeatInterval = 0 },
		"fetch::max_bytes":           func(c *Config) { c.Fetch.MaxBytes = 0 },
		"fetch::max_partition_bytes": func(c *Config) { c.Fetch.MaxPartitionBytes = 1 << 30 },
		"fetch::max_concurrent":      func(c *Config) { c.Fetch.MaxConcurrent = -1 },
		"block::max_bytes":           func(c *Config) { c.Block.MaxBytes = 0 },
		"block::max_events":          func(c *Config) { c.Block.MaxEvents = -1 },
		"block::max_age":             func(c *Config) { c.Block.MaxAge = -1 },
		"max_in_flight_blocks":       func(c *Config) { c.MaxInFlightBlocks = 65 },
		"max_in_flight_bytes":        func(c *Config) { c.MaxInFlightBytes = 1 },
		"retry::initial_interval":    func(c *Config) { c.Retry.InitialInterval = 0 },
		"retry::max_interval":        func(c *Config) { c.Retry.MaxInterval = 1 },
		"shutdown_timeout":           func(c *Config) { c.ShutdownTimeout = 0 },
	} {
		t.Run(key, func(t *testing.T) {
			cfg := createDefaultConfig().(*Config)
			cfg.GroupID = "g"
			spoil(cfg)
			require.ErrorContains(t, cfg.Validate(), key+":")
		})
	}
}

func TestREADME(t *testing.T) {
	text, err := os.ReadFile("README.md")
	require.NoError(t, err)
	t.Run("examples load", func(t *testing.T) {
		examples := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(text, -1)
		require.NotEmpty(t, examples)
		for _, e := range examples {
			var doc struct{ Receivers map[string]map[string]any }
			require.NoError(t, yaml.Unmarshal(e[1], &doc))
			require.NotEmpty(t, doc.Receivers)
			for name, raw := range doc.Receivers {
				cfg := createDefaultConfig().(*Config)
				require.NoError(t, confmap.NewFromStringMap(raw).Unmarshal(cfg), name)
				require.NoError(t, confmap.Validate(cfg), name)
			}
		}
	})
	t.Run("names every metric", func(t *testing.T) {
		for name := range metadata.Metrics() {
			require.True(t, strings.Contains(string(text), "`"+name+"`"), name)
		}
	})
}
