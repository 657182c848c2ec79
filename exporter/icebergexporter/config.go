package icebergexporter

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"time"

	"go.opentelemetry.io/collector/config/configopaque"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Catalog types.
const (
	catalogSQL  = "sql"
	catalogREST = "rest"
	catalogGlue = "glue"
)

// Values of Config.Tables.
const (
	tablesCreate = "create"
	tablesVerify = "verify"
)

// Defaults.
const (
	defaultNamespace        = "pulsegrid"
	defaultCatalogName      = "pulsegrid"
	defaultPartitionBuckets = 1
	defaultMaxAge           = 10 * time.Second
	defaultMaxBytes         = 128 << 20
	defaultMaxRows          = 1_000_000
	defaultMaxAttempts      = 8
	defaultCommitTimeout    = time.Minute
	defaultTargetFileSize   = 128 << 20
	defaultMaxBuffered      = 256 << 20
	defaultSweepInterval    = 24 * time.Hour
	defaultOrphanAge        = 24 * time.Hour
)

// Limits on what can be configured, so that one wrong digit does not become an outage.
const (
	maxPartitionBuckets = 1024
	maxCommitAttempts   = 100
	minBuffered         = 1 << 20
	minTargetFileSize   = 1 << 20
	minSweepInterval    = time.Minute
)

// Config of the exporter.
type Config struct {
	// Catalog that holds the tables.
	Catalog CatalogConfig `mapstructure:"catalog"`
	// S3 says how to reach an s3:// warehouse. Empty: the AWS SDK's own chain (environment, profile, instance role).
	S3 S3Config `mapstructure:"s3"`
	// Namespace of the tables. Default: pulsegrid.
	Namespace string `mapstructure:"namespace"`
	// Tables says what happens where a table or a column is missing: create (default) makes it, verify refuses to write.
	Tables string `mapstructure:"tables"`
	// Rows says what the rows are: events (default), or for a pipeline of logs from a quarantine topic quarantine (items without personal
	// data) or quarantine_pii (the others). Table and ledger are named by it, and an item that belongs into the other table is left out.
	Rows string `mapstructure:"rows"`
	// PartitionBuckets is the number of buckets of tenant_id that a newly created table is partitioned into, besides the day of
	// ingest_time. Default: 1, which means by day only. Each commit writes at least one file a partition that it touches.
	PartitionBuckets int `mapstructure:"partition_buckets"`
	// Commit says when waiting calls are committed together.
	Commit CommitConfig `mapstructure:"commit"`
	// TargetFileSizeBytes is the size of a Parquet file at which the next one is begun. Default: 128 MiB.
	TargetFileSizeBytes int64 `mapstructure:"target_file_size_bytes"`
	// MaxBufferedBytes bounds the Arrow memory of calls that are not yet answered, for each signal's table. Calls beyond it wait,
	// and the open group is committed early. One call larger than the bound is let in alone. Default: 256 MiB.
	MaxBufferedBytes int64 `mapstructure:"max_buffered_bytes"`
	// Orphans says when data files that failed commits left behind are removed.
	Orphans OrphansConfig `mapstructure:"orphans"`
}

// OrphansConfig is about data files that this exporter wrote and that no snapshot names.
type OrphansConfig struct {
	// Interval at which they are looked for, by one of the table's writers. Default: 24h. Zero: never.
	Interval time.Duration `mapstructure:"interval"`
	// MinAge of a file, by the object store's clock, to be removed. Default: 24h. At least twice commit::timeout times
	// commit::max_attempts, the longest that a commit may take to name its files.
	MinAge time.Duration `mapstructure:"min_age"`
	// DryRun counts and logs them, and removes nothing. Default: false.
	DryRun bool `mapstructure:"dry_run"`
}

// CatalogConfig names an Iceberg catalog.
type CatalogConfig struct {
	// Type is sql (SQLite), rest or glue. No default.
	Type string `mapstructure:"type"`
	// Name of the catalog. A SQL catalog stores it with every table: every program that reads the file must use the same name.
	// Default: pulsegrid.
	Name string `mapstructure:"name"`
	// URI of the catalog. sql: "file:/path/catalog.db"; write-ahead logging and a busy timeout are added unless it sets them.
	// rest: the server's http(s) address. glue: not used.
	URI string `mapstructure:"uri"`
	// Warehouse is where tables lie: "file:///dir" or "s3://bucket/prefix" for sql and glue; for rest what the server calls its
	// warehouse, or empty.
	Warehouse string `mapstructure:"warehouse"`
	// Properties are handed to the catalog as they are, e.g. credential, token, rest.sigv4-enabled, glue.region.
	Properties map[string]configopaque.String `mapstructure:"properties"`
}

// S3Config reaches an S3 API.
type S3Config struct {
	// Endpoint, for an S3 that is not AWS's, e.g. "http://127.0.0.1:9000". Empty: AWS.
	Endpoint string `mapstructure:"endpoint"`
	// Region. Empty: as the AWS SDK finds it.
	Region string `mapstructure:"region"`
	// AccessKeyID and SecretAccessKey are static credentials. Both empty: the AWS SDK's chain.
	AccessKeyID     string              `mapstructure:"access_key_id"`
	SecretAccessKey configopaque.String `mapstructure:"secret_access_key"`
	// PathStyle puts the bucket into the path instead of the host name. Default: false.
	PathStyle bool `mapstructure:"path_style"`
}

// CommitConfig says when waiting calls are committed together, and how hard that is tried.
type CommitConfig struct {
	// MaxAge is how long the oldest call of a group waits for others. Default: 10s. Zero: no waiting; each commit takes what is there.
	MaxAge time.Duration `mapstructure:"max_age"`
	// MaxBytes of Arrow memory close a group. Default: 128 MiB.
	MaxBytes int64 `mapstructure:"max_bytes"`
	// MaxRows close a group. Default: 1,000,000.
	MaxRows int64 `mapstructure:"max_rows"`
	// MaxAttempts at a commit that may fail before its calls are given a retryable error. Default: 8. An attempt that loses against
	// another writer does not count, until Timeout times MaxAttempts have passed.
	MaxAttempts int `mapstructure:"max_attempts"`
	// Timeout of one attempt: loading the table, writing the files, committing. Default: 1m.
	Timeout time.Duration `mapstructure:"timeout"`
}

var namespacePattern = regexp.MustCompile(`^[A-Za-z0-9_]+$`)

// Validate tells the first thing wrong of each part, by YAML key and value.
func (c *Config) Validate() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	errs = append(errs, c.Catalog.validate())
	if (c.S3.AccessKeyID == "") != (c.S3.SecretAccessKey == "") {
		fail("s3::access_key_id and s3::secret_access_key must be set together")
	}
	if c.S3.Endpoint != "" && !isURL(c.S3.Endpoint, "http", "https") {
		fail("s3::endpoint: %q is no http or https URL", c.S3.Endpoint)
	}
	if !namespacePattern.MatchString(c.Namespace) {
		fail("namespace: %q must be letters, digits and _", c.Namespace)
	}
	if c.Tables != tablesCreate && c.Tables != tablesVerify {
		fail("tables: %q is neither %s nor %s", c.Tables, tablesCreate, tablesVerify)
	}
	if _, err := columns.ForRows(c.Rows, signal.Logs); err != nil {
		errs = append(errs, err)
	}
	if c.PartitionBuckets < 1 || c.PartitionBuckets > maxPartitionBuckets {
		fail("partition_buckets: %d is not within 1 to %d", c.PartitionBuckets, maxPartitionBuckets)
	}
	if c.TargetFileSizeBytes < minTargetFileSize {
		fail("target_file_size_bytes: %d is less than %d", c.TargetFileSizeBytes, minTargetFileSize)
	}
	if c.MaxBufferedBytes < minBuffered {
		fail("max_buffered_bytes: %d is less than %d", c.MaxBufferedBytes, minBuffered)
	}
	if c.Commit.MaxAge < 0 {
		fail("commit::max_age: %s is negative", c.Commit.MaxAge)
	}
	if c.Commit.MaxBytes <= 0 {
		fail("commit::max_bytes: %d must be positive", c.Commit.MaxBytes)
	}
	if c.Commit.MaxRows <= 0 {
		fail("commit::max_rows: %d must be positive", c.Commit.MaxRows)
	}
	if c.Commit.MaxAttempts < 1 || c.Commit.MaxAttempts > maxCommitAttempts {
		fail("commit::max_attempts: %d is not within 1 to %d", c.Commit.MaxAttempts, maxCommitAttempts)
	}
	if c.Commit.Timeout <= 0 {
		fail("commit::timeout: %s must be positive", c.Commit.Timeout)
	}
	if c.Orphans.Interval != 0 && c.Orphans.Interval < minSweepInterval {
		fail("orphans::interval: %s is less than %s", c.Orphans.Interval, minSweepInterval)
	}
	if least := 2 * c.Commit.Timeout * time.Duration(c.Commit.MaxAttempts); c.Orphans.MinAge < least {
		fail("orphans::min_age: %s is less than twice commit::timeout times commit::max_attempts, %s", c.Orphans.MinAge, least)
	}
	return errors.Join(errs...)
}

// ledgerName is the table of the entries.
func (c *Config) ledgerName() string { return ledger.NameFor(c.Rows) }

func (c *CatalogConfig) validate() error {
	if c.Name == "" {
		return errors.New("catalog::name: must not be empty")
	}
	located := isURL(c.Warehouse, "file", "s3")
	switch c.Type {
	case catalogSQL:
		if !strings.HasPrefix(c.URI, "file:") {
			return fmt.Errorf("catalog::uri: %q: a sql catalog is a SQLite file, file:/path/catalog.db", c.URI)
		}
		if !located {
			return fmt.Errorf("catalog::warehouse: %q is neither file:///dir nor s3://bucket/prefix", c.Warehouse)
		}
	case catalogREST:
		if !isURL(c.URI, "http", "https") {
			return fmt.Errorf("catalog::uri: %q is no http or https URL", c.URI)
		}
	case catalogGlue:
		if !isURL(c.Warehouse, "s3") {
			return fmt.Errorf("catalog::warehouse: %q is not s3://bucket/prefix", c.Warehouse)
		}
	default:
		return fmt.Errorf("catalog::type: %q is none of %s, %s, %s", c.Type, catalogSQL, catalogREST, catalogGlue)
	}
	return nil
}

func isURL(text string, schemes ...string) bool {
	u, err := url.Parse(text)
	if err != nil || (u.Host == "" && u.Path == "") {
		return false
	}
	for _, s := range schemes {
		if u.Scheme == s && (s == "file" || u.Host != "") {
			return true
		}
	}
	return false
}
