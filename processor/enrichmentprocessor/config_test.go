package enrichmentprocessor

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
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

var exampleTenants = component.MustNewID("tenant_auth")

func TestEveryKeyOfTheExampleIsRead(t *testing.T) {
	conf, err := confmaptest.LoadConf("testdata/config.yaml")
	require.NoError(t, err)
	cfg, err := load(t, conf)
	require.NoError(t, err)
	require.Equal(t, &Config{
		Cell: "eu-central-1-a", Jurisdiction: "eu", Tenants: &exampleTenants,
		Tables: TablesConfig{Location: "s3://pulsegrid-registry/tables?region=eu-central-1", ReloadInterval: 10 * time.Second, Timeout: 20 * time.Second},
		Lookups: []LookupConfig{
			{Table: "hosts", Attribute: "host.name"},
			{Table: "routes", Key: "route", From: fromEvent, Attribute: "http.route"},
		},
	}, cfg)
}

func TestErrorsNameTheKeyAndTheValue(t *testing.T) {
	one := func(change map[string]any) map[string]any {
		l := map[string]any{"table": "hosts", "attribute": "host.name"}
		for k, v := range change {
			l[k] = v
		}
		return map[string]any{"tables": map[string]any{"location": "tables"}, "lookups": []any{l}}
	}
	many := make([]any, maxLookups+1)
	for i := range many {
		many[i] = map[string]any{"table": "t" + string(rune('a'+i)), "attribute": "a"}
	}
	for _, test := range []struct {
		want string
		conf map[string]any
	}{
		{`cell: "a b"`, map[string]any{"cell": "a b"}},
		{`jurisdiction: "EU"`, map[string]any{"jurisdiction": "EU"}},
		{"ingest_delays", map[string]any{"ingest_delays": true}},
		{"tables::reload_interval: 1ms", map[string]any{"tables": map[string]any{"reload_interval": "1ms"}}},
		{"tables::timeout: 0s", map[string]any{"tables": map[string]any{"timeout": "0s"}}},
		{"tables::location: is empty", map[string]any{"lookups": one(nil)["lookups"]}},
		{`tables::location: "ftp://host/dir"`, map[string]any{"tables": map[string]any{"location": "ftp://host/dir"}, "lookups": one(nil)["lookups"]}},
		{`tables::location: "tables" is of no use without lookups`, map[string]any{"tables": map[string]any{"location": "tables"}}},
		{"lookups: has 17, more than 16", map[string]any{"tables": map[string]any{"location": "tables"}, "lookups": many}},
		{`lookups::0::table: "../hosts"`, one(map[string]any{"table": "../hosts"})},
		{`lookups::0::table: ""`, one(map[string]any{"table": ""})},
		{`lookups::0::key: "tenant_id"`, one(map[string]any{"key": "tenant_id"})},
		{`lookups::0::from: "scope"`, one(map[string]any{"from": "scope"})},
		{`lookups::0::attribute: ""`, one(map[string]any{"attribute": ""})},
		{`lookups::1::table: "hosts" is there twice`, map[string]any{"tables": map[string]any{"location": "tables"}, "lookups": []any{
			map[string]any{"table": "hosts", "attribute": "a"}, map[string]any{"table": "hosts", "attribute": "b"},
		}}},
	} {
		_, err := load(t, confmap.NewFromStringMap(test.conf))
		require.ErrorContains(t, err, test.want)
	}
}

// examples are the READMEs' processors.
func examples(t *testing.T, file string) map[string]map[string]any {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(text), "```yaml\n")
	require.True(t, found)
	example, _, found := strings.Cut(rest, "```")
	require.True(t, found)
	var doc struct {
		Processors map[string]map[string]any `yaml:"processors"`
	}
	require.NoError(t, yaml.Unmarshal([]byte(example), &doc))
	require.NotEmpty(t, doc.Processors)
	return doc.Processors
}

func TestReadmesConfigIsValid(t *testing.T) {
	cfg, err := load(t, confmap.NewFromStringMap(examples(t, "README.md")["enrichment"]))
	require.NoError(t, err)
	def := createDefaultConfig().(*Config)
	require.Equal(t, def.Tables.ReloadInterval, cfg.Tables.ReloadInterval)
	require.Equal(t, def.Tables.Timeout, cfg.Tables.Timeout)
	require.Equal(t, def.IngestDelay, cfg.IngestDelay)
	require.Equal(t, &exampleTenants, cfg.Tenants)
	require.Len(t, cfg.Lookups, 2)
}

func TestFactoryMakesEverySignal(t *testing.T) {
	f := NewFactory()
	require.Equal(t, "enrichment", f.Type().String())
	require.NotZero(t, f.LogsStability())
	require.NotZero(t, f.MetricsStability())
	require.NotZero(t, f.TracesStability())
}
