package dedupeprocessor

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/confmaptest"
	"gopkg.in/yaml.v3"
)

func load(t *testing.T, conf *confmap.Conf) (*Config, error) {
	t.Helper()
	cfg := createDefaultConfig().(*Config)
	if err := conf.Unmarshal(cfg); err != nil {
		return nil, err
	}
	return cfg, confmap.Validate(cfg)
}

func TestDefaultConfigIsValid(t *testing.T) {
	require.NoError(t, componenttest.CheckConfigStruct(createDefaultConfig()))
	require.NoError(t, confmap.Validate(createDefaultConfig()))
}

func TestEveryKeyOfTheExampleIsRead(t *testing.T) {
	conf, err := confmaptest.LoadConf("testdata/config.yaml")
	require.NoError(t, err)
	cfg, err := load(t, conf)
	require.NoError(t, err)
	require.Equal(t, &Config{Window: 30 * time.Minute, MaxMemoryBytes: 256 << 20}, cfg)
}

func TestErrorsNameTheKeyAndTheValue(t *testing.T) {
	for want, conf := range map[string]map[string]any{
		"window 999ms":          {"window": "999ms"},
		"window 24h0m1s":        {"window": "24h1s"},
		"max_memory_bytes 1000": {"max_memory_bytes": 1000},
		"max_memory_mib":        {"max_memory_mib": 64},
	} {
		_, err := load(t, confmap.NewFromStringMap(conf))
		require.ErrorContains(t, err, want)
	}
}

func TestReadmesConfigIsTheDefault(t *testing.T) {
	text, err := os.ReadFile("README.md")
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(text), "```yaml\n")
	require.True(t, found)
	example, _, found := strings.Cut(rest, "```")
	require.True(t, found)
	var doc struct {
		Processors map[string]map[string]any `yaml:"processors"`
	}
	require.NoError(t, yaml.Unmarshal([]byte(example), &doc))
	cfg, err := load(t, confmap.NewFromStringMap(doc.Processors["dedupe/hot"]))
	require.NoError(t, err)
	require.Equal(t, createDefaultConfig(), cfg)
}

func TestReadmeListsEveryMetricAndNoOther(t *testing.T) {
	text, err := os.ReadFile("README.md")
	require.NoError(t, err)
	_, metrics, found := strings.Cut(string(text), "\n## Metrics\n")
	require.True(t, found)
	for name := range metadata.Metrics() {
		require.Contains(t, metrics, "`otelcol_"+name+"`")
	}
	require.Equal(t, len(metadata.Metrics()), strings.Count(metrics, "`otelcol_"))
}

func TestFactoryMakesEverySignal(t *testing.T) {
	f := NewFactory()
	require.Equal(t, "dedupe", f.Type().String())
	require.NotZero(t, f.LogsStability())
	require.NotZero(t, f.MetricsStability())
	require.NotZero(t, f.TracesStability())
}
