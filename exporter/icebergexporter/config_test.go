package icebergexporter

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/apache/iceberg-go"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/configopaque"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/confmaptest"
)

func TestTheExamplesOfTheREADMELoad(t *testing.T) {
	conf, err := confmaptest.LoadConf(filepath.Join("testdata", "config.yaml"))
	require.NoError(t, err)
	require.NotEmpty(t, conf.ToStringMap())
	readme := readFile(t, "README.md")
	for _, line := range strings.Split(readFile(t, filepath.Join("testdata", "config.yaml")), "\n") {
		require.Contains(t, readme, strings.TrimSpace(line), "README.md shows testdata/config.yaml")
	}
	for name := range conf.ToStringMap() {
		var id component.ID
		require.NoError(t, id.UnmarshalText([]byte(name)))
		require.Equal(t, metadata.Type(), id.Type())
		sub, err := conf.Sub(name)
		require.NoError(t, err)
		cfg := createDefaultConfig()
		require.NoError(t, sub.Unmarshal(cfg), name)
		require.NoError(t, confmap.Validate(cfg), name)
	}
}

func TestEveryMetricIsInTheREADME(t *testing.T) {
	readme := readFile(t, "README.md")
	for name := range metadata.Metrics() {
		require.Contains(t, readme, "`otelcol_"+name+"`")
	}
}

func TestAnErrorNamesTheKeyAndTheValue(t *testing.T) {
	for want, spoil := range map[string]func(*Config){
		`catalog::type: "hive"`:       func(c *Config) { c.Catalog.Type = "hive" },
		`catalog::name`:               func(c *Config) { c.Catalog.Name = "" },
		`catalog::uri: "/x.db"`:       func(c *Config) { c.Catalog.URI = "/x.db" },
		`catalog::uri: "x"`:           func(c *Config) { c.Catalog.Type, c.Catalog.URI = catalogREST, "x" },
		`catalog::warehouse: "/dir"`:  func(c *Config) { c.Catalog.Warehouse = "/dir" },
		`catalog::warehouse: "s3://"`: func(c *Config) { c.Catalog.Type, c.Catalog.Warehouse = catalogGlue, "s3://" },
		`s3::access_key_id`:           func(c *Config) { c.S3.AccessKeyID = "only" },
		`s3::endpoint: "host:1"`:      func(c *Config) { c.S3.Endpoint = "host:1" },
		`namespace: "a.b"`:            func(c *Config) { c.Namespace = "a.b" },
		`tables: "drop"`:              func(c *Config) { c.Tables = "drop" },
		`rows "poison"`:               func(c *Config) { c.Rows = "poison" },
		`partition_buckets: 0`:        func(c *Config) { c.PartitionBuckets = 0 },
		`target_file_size_bytes: 1`:   func(c *Config) { c.TargetFileSizeBytes = 1 },
		`max_buffered_bytes: 1`:       func(c *Config) { c.MaxBufferedBytes = 1 },
		`commit::max_age: -1s`:        func(c *Config) { c.Commit.MaxAge = -time.Second },
		`commit::max_bytes: 0`:        func(c *Config) { c.Commit.MaxBytes = 0 },
		`commit::max_rows: 0`:         func(c *Config) { c.Commit.MaxRows = 0 },
		`commit::max_attempts: 0`:     func(c *Config) { c.Commit.MaxAttempts = 0 },
		`orphans::interval: 1s`:       func(c *Config) { c.Orphans.Interval = time.Second },
		`orphans::min_age: 1m0s`:      func(c *Config) { c.Orphans.MinAge = time.Minute },
		`commit::timeout: 0s`:         func(c *Config) { c.Commit.Timeout = 0 },
	} {
		cfg := lake(t)
		spoil(cfg)
		require.ErrorContains(t, cfg.Validate(), want)
	}
}

func TestCatalogPropertiesSayWhatIsConfigured(t *testing.T) {
	cfg := createDefaultConfig().(*Config)
	cfg.Catalog.Type = catalogGlue
	cfg.Catalog.Warehouse = "s3://bucket/lake"
	cfg.Catalog.Properties = map[string]configopaque.String{"glue.region": "eu-west-1"}
	cfg.S3 = S3Config{Region: "eu-west-1"}
	require.NoError(t, cfg.Validate())
	require.Equal(t, iceberg.Properties{"type": "glue", "uri": "", "warehouse": "s3://bucket/lake", "glue.region": "eu-west-1", "s3.region": "eu-west-1"}, cfg.CatalogProperties())

	cfg.S3 = S3Config{Endpoint: "http://127.0.0.1:1", PathStyle: true, AccessKeyID: "id", SecretAccessKey: "secret"}
	p := cfg.CatalogProperties()
	require.Equal(t, "false", p["s3.force-virtual-addressing"])
	require.Equal(t, "secret", p["s3.secret-access-key"])
}

func TestASQLiteFileIsSharedUnlessItsURISaysOtherwise(t *testing.T) {
	require.Equal(t, "file:/x.db?_pragma=busy_timeout%2810000%29&_pragma=journal_mode%28WAL%29", sqliteURI("file:/x.db"))
	require.Equal(t, "file:/x.db?_pragma=journal_mode%28DELETE%29&_pragma=busy_timeout%2810000%29", sqliteURI("file:/x.db?_pragma=journal_mode(DELETE)"))
}
