package mskexporter

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

	"github.com/pulsegrid/pulsegrid/internal/kafka"
)

func load(t *testing.T, conf *confmap.Conf) (*Config, error) {
	t.Helper()
	cfg := createDefaultConfig()
	if err := conf.Unmarshal(cfg); err != nil {
		return nil, err
	}
	return cfg, confmap.Validate(cfg)
}

func TestTestdataHoldsEveryDefault(t *testing.T) {
	require.NoError(t, componenttest.CheckConfigStruct(createDefaultConfig()))
	conf, err := confmaptest.LoadConf(filepath.Join("testdata", "config.yaml"))
	require.NoError(t, err)
	for _, id := range []string{"msk", "msk/all"} {
		sub, err := conf.Sub(id)
		require.NoError(t, err)
		cfg, err := load(t, sub)
		require.NoError(t, err)
		require.Equal(t, createDefaultConfig(), cfg, id)
	}
}

func TestREADMEsExampleLoads(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	examples := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(readme), -1)
	require.Len(t, examples, 2)
	var loaded []*Config
	for _, example := range examples {
		file := filepath.Join(t.TempDir(), "c.yaml")
		require.NoError(t, os.WriteFile(file, []byte(example[1]), 0o600))
		conf, err := confmaptest.LoadConf(file)
		require.NoError(t, err)
		sub, err := conf.Sub("exporters::msk")
		require.NoError(t, err)
		cfg, err := load(t, sub)
		require.NoError(t, err)
		loaded = append(loaded, cfg)
	}
	require.NotEmpty(t, loaded[1].Spill.URL)
	cfg := loaded[0]
	require.True(t, cfg.TLS.HasValue())
	require.Equal(t, kafka.MechanismAWSMSKIAM, cfg.Auth.Mechanism)
	require.EqualValues(t, 48, cfg.Topics.Logs.Partitions)
	require.EqualValues(t, 12, cfg.Topics.Traces.Partitions)
}

func TestErrorsNameTheKeyAndTheValue(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"brokers: is empty":                       func(c *Config) { c.Brokers = nil },
		`topics::manage: "perhaps"`:               func(c *Config) { c.Topics.Manage = "perhaps" },
		"topics::logs::name: is empty":            func(c *Config) { c.Topics.Logs.Name = "" },
		`topics::logs::name: "otlp.metrics.v1"`:   func(c *Config) { c.Topics.Logs.Name = "otlp.metrics.v1" },
		"topics::traces::partitions: -1":          func(c *Config) { c.Topics.Traces.Partitions = -1 },
		"topics::metrics::min_insync_replicas: 4": func(c *Config) { c.Topics.Metrics.MinInSyncReplicas = 4 },
		"topics::quarantine: is empty":            func(c *Config) { c.Topics.Quarantine = "" },
		`topics::quarantine: "otlp.logs.v1"`:      func(c *Config) { c.Topics.Quarantine = "otlp.logs.v1" },
		"topics::logs::retention: -1s":            func(c *Config) { c.Topics.Logs.Retention = -time.Second },
		`compression::codec: "brotli"`:            func(c *Config) { c.Compression.Codec = "brotli" },
		"compression::level: 19":                  func(c *Config) { c.Compression.Level = 19 },
		"max_record_bytes: 10":                    func(c *Config) { c.MaxRecordBytes = 10 },
		"max_buffered_bytes: 10":                  func(c *Config) { c.MaxBufferedBytes = 10 },
		"timeout: 1ms":                            func(c *Config) { c.Timeout = time.Millisecond },
		"linger: 1m0s":                            func(c *Config) { c.Linger = time.Minute },
		"max_wait: -1s":                           func(c *Config) { c.MaxWait = -time.Second },
		"startup_timeout: -1s":                    func(c *Config) { c.StartupTimeout = -time.Second },
	} {
		cfg := createDefaultConfig()
		change(cfg)
		require.ErrorContains(t, confmap.Validate(cfg), want)
	}
}

func TestAnotherCodecNeedsNoLevel(t *testing.T) {
	for _, codec := range []string{"none", "snappy", "lz4", "gzip", "zstd"} {
		cfg, err := load(t, confmap.NewFromStringMap(map[string]any{"compression": map[string]any{"codec": codec}}))
		require.NoError(t, err, codec)
		_ = cfg.Compression.codec()
	}
}

func TestEveryMetricIsExplainedOnce(t *testing.T) {
	for name, m := range metadata.Metrics() {
		require.True(t, strings.HasPrefix(name, "msk_exporter_"), name)
		require.NotEmpty(t, m.Description)
	}
}
