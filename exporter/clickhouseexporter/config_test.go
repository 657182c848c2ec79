package clickhouseexporter

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

	"github.com/pulsegrid/pulsegrid/internal/columns"
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
	require.Equal(t, "https://clickhouse.internal:8443", cfg.ClientConfig.Endpoint)
	require.EqualValues(t, "zstd", cfg.ClientConfig.Compression)
	require.Equal(t, "30s", cfg.ClientConfig.Timeout.String())
	require.Equal(t, "/etc/pulsegrid/ca.pem", cfg.ClientConfig.TLS.CAFile)
	require.Equal(t, "writer", cfg.Username)
	require.EqualValues(t, "secret", cfg.Password)
	require.Equal(t, "telemetry", cfg.Database)
	require.Equal(t, SchemaVerify, cfg.Schema)
	require.Equal(t, columns.RowsQuarantinePII, cfg.Rows)
	require.Equal(t, 90, cfg.RetentionDays)
	require.Equal(t, "main", cfg.Cluster)
	require.Equal(t, "ReplicatedMergeTree", cfg.Engine)
	require.Equal(t, 1000, cfg.DeduplicationWindow)
	require.Equal(t, 72*time.Hour, cfg.DeduplicationPeriod)
	require.Equal(t, BeyondRefuse, cfg.BeyondWindow)
	require.False(t, cfg.Fsync)
	require.Equal(t, "2", cfg.InsertQuorum)
	require.False(t, cfg.Rollups)
	require.Equal(t, RollupRetention{Seconds10: 100, Minute: 200, Hour: 0}, cfg.RollupRetentionDays)
	require.False(t, cfg.Ledger)
	require.False(t, cfg.ToolViews)
	require.Equal(t, 8, cfg.MaxConcurrentInserts)
}

func TestErrorsNameTheKeyAndTheValue(t *testing.T) {
	for key, tc := range map[string]struct {
		value any
		want  string
	}{
		"endpoint":               {"localhost:8123", `endpoint "localhost:8123"`},
		"timeout":                {"0s", "timeout 0s"},
		"compression":            {"snappy", `compression "snappy"`},
		"password":               {"p", "username is empty"},
		"database":               {"", "database is empty"},
		"insert_nice":            {20, "insert_nice 20"},
		"schema":                 {"drop", `schema "drop"`},
		"rows":                   {"poison", `rows "poison": want events, quarantine or quarantine_pii`},
		"retention_days":         {-1, "retention_days -1"},
		"engine":                 {"Log", `engine "Log"`},
		"deduplication_window":   {0, "deduplication_window 0"},
		"deduplication_period":   {"1m", "deduplication_period 1m0s: want 1h0m0s to 720h0m0s"},
		"beyond_window":          {"insert", `beyond_window "insert": want refuse or compare`},
		"rollup_retention_days":  {map[string]any{"1m": -1}, "rollup_retention_days::1m -1"},
		"max_concurrent_inserts": {0, "max_concurrent_inserts 0"},
		"sending_queue":          {map[string]any{"enabled": true}, "sending_queue"},
		"retention_dayz":         {1, "retention_dayz"},
	} {
		t.Run(key, func(t *testing.T) {
			_, err := load(t, confmap.NewFromStringMap(map[string]any{key: tc.value}))
			require.ErrorContains(t, err, tc.want)
		})
	}
}

func TestTheWindowIsWiderThanTheInsertsUnderWay(t *testing.T) {
	_, err := load(t, confmap.NewFromStringMap(map[string]any{"deduplication_window": 79, "max_concurrent_inserts": 8}))
	require.ErrorContains(t, err, "deduplication_window 79: want at least 80")
	_, err = load(t, confmap.NewFromStringMap(map[string]any{"deduplication_window": 80, "max_concurrent_inserts": 8}))
	require.NoError(t, err)
}

func TestReadmesConfigLoads(t *testing.T) {
	text, err := os.ReadFile("README.md")
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(text), "```yaml\n")
	require.True(t, found)
	example, _, found := strings.Cut(rest, "```")
	require.True(t, found)
	var doc struct {
		Exporters map[string]map[string]any `yaml:"exporters"`
	}
	require.NoError(t, yaml.Unmarshal([]byte(example), &doc))
	section, ok := doc.Exporters[metadata.Type().String()]
	require.True(t, ok)
	_, err = load(t, confmap.NewFromStringMap(section))
	require.NoError(t, err)
}

func TestReadmeListsEveryMetricAndNoOther(t *testing.T) {
	text, err := os.ReadFile("README.md")
	require.NoError(t, err)
	for name := range metadata.Metrics() {
		require.Contains(t, string(text), "`otelcol_"+name+"`")
	}
	require.Equal(t, len(metadata.Metrics()), strings.Count(string(text), "`otelcol_"))
}

func TestFactoryMakesEverySignal(t *testing.T) {
	f := NewFactory()
	require.Equal(t, "pulsegrid_clickhouse", f.Type().String())
	require.NotZero(t, f.LogsStability())
	require.NotZero(t, f.MetricsStability())
	require.NotZero(t, f.TracesStability())
}
