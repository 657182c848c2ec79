package clickhouseexporter

import (
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/configopaque"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/confmap"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// SchemaMode says what the exporter does about its tables.
type SchemaMode string

const (
	// SchemaCreate creates the database, the tables and the rollups' views, adds columns that an older table lacks, and sets the
	// retention and the deduplication window.
	SchemaCreate SchemaMode = "create"
	// SchemaVerify changes nothing: a table that is not as it should be fails every call until somebody mends it.
	SchemaVerify SchemaMode = "verify"
	// SchemaOff inserts without looking, for example into Distributed tables.
	SchemaOff SchemaMode = "off"
)

// BeyondWindow says what becomes of a block that may be stored, and that the deduplication window no longer covers.
type BeyondWindow string

const (
	// BeyondRefuse fails the call as retryable: the partition waits for an operator.
	BeyondRefuse BeyondWindow = "refuse"
	// BeyondCompare reads which of the block's records the table holds, and stores the others. It scans the parts of the block's days.
	BeyondCompare BeyondWindow = "compare"
)

// RollupRetention are days; 0 keeps for ever. A rollup is never kept shorter than the rows: where retention_days is more, it counts.
type RollupRetention struct {
	Seconds10 int `mapstructure:"10s"` // default 60
	Minute    int `mapstructure:"1m"`  // default 180
	Hour      int `mapstructure:"1h"`  // default 800: two years and a bit, to compare with
}

// Config of the exporter. Each signal has an exporter of its own: limits are per signal.
type Config struct {
	// ClientConfig is the HTTP client, with the Collector's usual keys: endpoint of ClickHouse's HTTP interface (http[s]://host:port,
	// default http://localhost:8123), tls, headers, auth, timeout of one insert (default 60s, must be positive), compression of the
	// body (none, lz4, zstd, gzip; default zstd; none where ClickHouse is on the same machine).
	ClientConfig confighttp.ClientConfig `mapstructure:",squash"`

	// Username and Password log in. Empty username: ClickHouse's `default` user, or what auth and headers say.
	Username string              `mapstructure:"username"`
	Password configopaque.String `mapstructure:"password"`

	// Database that holds the tables. Default "pulsegrid".
	Database string `mapstructure:"database"`

	// Schema: create (default), verify or off.
	Schema SchemaMode `mapstructure:"schema"`

	// Rows says what the rows are: events (default), or for a pipeline of logs from a quarantine topic quarantine (items without personal
	// data) or quarantine_pii (the others). Table and ledger are named by it, and an item that belongs into the other table is left out.
	Rows string `mapstructure:"rows"`

	// RetentionDays is how many days after their receipt rows are kept. Default 30; 0 keeps them for ever. Not looked at with schema: off.
	RetentionDays int `mapstructure:"retention_days"`

	// Rollups creates and checks the rollups of 10 s, 1 min and 1 h beside the signal's table. Default true. False leaves rollups that
	// exist alone: ClickHouse fills them as long as their views exist.
	Rollups bool `mapstructure:"rollups"`

	// RollupRetentionDays is how many days after the rows' receipt each rollup is kept.
	RollupRetentionDays RollupRetention `mapstructure:"rollup_retention_days"`

	// ToolViews creates the views that Grafana, ClickStack and BI tools read (docs/tools.md). Default true. False leaves views that exist alone.
	ToolViews bool `mapstructure:"tool_views"`

	// Cluster, where set, adds ON CLUSTER to every statement that changes a table. Default: none.
	Cluster string `mapstructure:"cluster"`

	// Engine of created tables with its arguments, of the MergeTree family, for example ReplicatedMergeTree. Default MergeTree.
	Engine string `mapstructure:"engine"`

	// DeduplicationWindow is how many of the newest inserts a table must recognise when they are sent again; a block takes one for each
	// day that its rows lie in. Default 100000. Tables that remember less are mended (create) or refused (verify).
	DeduplicationWindow int `mapstructure:"deduplication_window"`

	// DeduplicationPeriod is for how long a replicated table must recognise them, and how old a block may be that is redone by its
	// token alone. Default 168h.
	DeduplicationPeriod time.Duration `mapstructure:"deduplication_period"`

	// BeyondWindow says what becomes of a block that an earlier try may have stored so long ago that the table no longer recognises
	// it: compare (default) or refuse.
	BeyondWindow BeyondWindow `mapstructure:"beyond_window"`

	// Fsync makes ClickHouse write an insert's parts through to the disk before it answers (fsync_after_insert, fsync_part_directory), so that
	// a power cut removes nothing that was acknowledged. Default true. SharedMergeTree does so by itself.
	Fsync bool `mapstructure:"fsync"`

	// InsertQuorum is how many replicas must have an insert before it is acknowledged, where engine is one of the Replicated family: auto
	// (default; a majority) or a number; 0: the one that was asked.
	InsertQuorum string `mapstructure:"insert_quorum"`

	// InsertNice is the Linux nice value, 0 to 19, of ClickHouse's threads that work on an insert (os_thread_priority): above 0 they yield to those of other inserts and queries. It has no
	// effect where ClickHouse lacks the capability CAP_SYS_NICE. Default 0; jobs use 19.
	InsertNice int `mapstructure:"insert_nice"`

	// Ledger writes an entry for each block into the table `ledger`. Default true. False is for data that does not come in blocks
	// (from another receiver than msk): a block is then not stored, since it could not be redone safely.
	Ledger bool `mapstructure:"ledger"`

	// MaxConcurrentInserts bounds the inserts at a time; further calls wait. Each holds one block in memory. Default 4.
	MaxConcurrentInserts int `mapstructure:"max_concurrent_inserts"`
}

const (
	defaultEndpoint      = "http://localhost:8123"
	defaultTimeout       = 60 * time.Second
	defaultCompression   = "zstd" // 1 us of CPU a row more than none, and a fraction of the bytes between zones
	defaultDatabase      = "pulsegrid"
	defaultRetentionDays = 30
	defaultDedupWindow   = columns.DefaultDedupWindow
	defaultDedupPeriod   = columns.DefaultDedupSeconds * time.Second
	defaultMaxInserts    = 4
	quorumAuto           = "auto"

	retentionDaysMax = 36_500
	maxInsertsMax    = 256
	// dedupWindowMin is per insert at a time: further ones must not push those out whose outcome is not yet known.
	dedupWindowMin = 10
	dedupPeriodMin = time.Hour
	dedupPeriodMax = ledgerDaysMin * 24 * time.Hour // the ledger, which says how much was stored since, goes back no further
)

func createDefaultConfig() component.Config {
	client := confighttp.NewDefaultClientConfig()
	client.Endpoint = defaultEndpoint
	client.Timeout = defaultTimeout
	client.Compression = defaultCompression
	keepalive := confighttp.NewDefaultKeepaliveClientConfig()
	keepalive.MaxIdleConnsPerHost = keepalive.MaxIdleConns // net/http's default of 2 would make further inserts connect anew each time
	client.Keepalive = configoptional.Some(keepalive)
	return &Config{
		ClientConfig:         client,
		Database:             defaultDatabase,
		Rows:                 columns.RowsEvents,
		Schema:               SchemaCreate,
		RetentionDays:        defaultRetentionDays,
		Rollups:              true,
		ToolViews:            true,
		RollupRetentionDays:  RollupRetention{Seconds10: 60, Minute: 180, Hour: 800},
		DeduplicationWindow:  defaultDedupWindow,
		DeduplicationPeriod:  defaultDedupPeriod,
		BeyondWindow:         BeyondCompare,
		Fsync:                true,
		InsertQuorum:         quorumAuto,
		Ledger:               true,
		MaxConcurrentInserts: defaultMaxInserts,
	}
}

var _ confmap.Unmarshaler = (*Config)(nil)

// Unmarshal refuses keys that nobody reads. The Collector itself accepts any key beside a squashed ClientConfig, and a
// misspelt retention_days would keep its default unnoticed.
func (c *Config) Unmarshal(conf *confmap.Conf) error {
	if err := conf.Unmarshal(c); err != nil {
		return err
	}
	known := map[string]bool{}
	for _, typ := range []reflect.Type{reflect.TypeFor[Config](), reflect.TypeFor[confighttp.ClientConfig]()} {
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get(confmap.MapstructureTag), ",")
			known[name] = true
		}
	}
	var errs []error
	for key := range conf.ToStringMap() {
		if !known[key] {
			errs = append(errs, fmt.Errorf("%s: the exporter has no such key", key))
		}
	}
	return errors.Join(errs...)
}

var engineName = regexp.MustCompile(`^[A-Za-z]*MergeTree(\(.*\))?$`)

// Validate checks what no other part of the config checks.
func (c *Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	u, err := url.Parse(c.ClientConfig.Endpoint)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" {
		bad("endpoint %q: want http://host:port or https://host:port of ClickHouse's HTTP interface", c.ClientConfig.Endpoint)
	}
	if c.ClientConfig.Timeout <= 0 {
		bad("timeout %v: want more than 0", c.ClientConfig.Timeout)
	}
	switch c.ClientConfig.Compression {
	case "", "none", "lz4", "zstd", "gzip":
	default:
		bad("compression %q: want none, lz4, zstd or gzip", c.ClientConfig.Compression)
	}
	if c.Username == "" && c.Password != "" {
		bad("password is set, username is empty: name the user")
	}
	if c.Database == "" {
		bad("database is empty: name one")
	}
	switch c.Schema {
	case SchemaCreate, SchemaVerify, SchemaOff:
	default:
		bad("schema %q: want create, verify or off", c.Schema)
	}
	if _, err := columns.ForRows(c.Rows, signal.Logs); err != nil {
		errs = append(errs, err)
	}
	if c.RetentionDays < 0 || c.RetentionDays > retentionDaysMax {
		bad("retention_days %d: want 0 (for ever) to %d", c.RetentionDays, retentionDaysMax)
	}
	if c.Engine != "" && !engineName.MatchString(c.Engine) {
		bad("engine %q: want one of the MergeTree family", c.Engine)
	}
	for _, r := range []struct {
		key  string
		days int
	}{{"10s", c.RollupRetentionDays.Seconds10}, {"1m", c.RollupRetentionDays.Minute}, {"1h", c.RollupRetentionDays.Hour}} {
		if r.days < 0 || r.days > retentionDaysMax {
			bad("rollup_retention_days::%s %d: want 0 (for ever) to %d", r.key, r.days, retentionDaysMax)
		}
	}
	if least := dedupWindowMin * c.MaxConcurrentInserts; c.DeduplicationWindow < max(least, 1) {
		bad("deduplication_window %d: want at least %d, %d for each of max_concurrent_inserts; below that a repeated block is stored twice", c.DeduplicationWindow, least, dedupWindowMin)
	}
	if c.DeduplicationPeriod < dedupPeriodMin || c.DeduplicationPeriod > dedupPeriodMax {
		bad("deduplication_period %v: want %v to %v", c.DeduplicationPeriod, dedupPeriodMin, dedupPeriodMax)
	}
	switch c.BeyondWindow {
	case BeyondRefuse, BeyondCompare:
	default:
		bad("beyond_window %q: want refuse or compare", c.BeyondWindow)
	}
	if n, err := strconv.Atoi(c.InsertQuorum); c.InsertQuorum != quorumAuto && (err != nil || n < 0) {
		bad("insert_quorum %q: want auto or a number of replicas", c.InsertQuorum)
	}
	if c.InsertNice < 0 || c.InsertNice > 19 {
		bad("insert_nice %d: want 0 to 19", c.InsertNice)
	}
	if c.MaxConcurrentInserts < 1 || c.MaxConcurrentInserts > maxInsertsMax {
		bad("max_concurrent_inserts %d: want 1 to %d", c.MaxConcurrentInserts, maxInsertsMax)
	}
	return errors.Join(errs...)
}

// rollupDays is how many days a rollup is kept.
func (c *Config) rollupDays(r columns.Rollup) int {
	days := map[int]int{10: c.RollupRetentionDays.Seconds10, 60: c.RollupRetentionDays.Minute, 3600: c.RollupRetentionDays.Hour}[r.Seconds]
	if days == 0 || c.RetentionDays == 0 {
		return 0
	}
	return max(days, c.RetentionDays)
}

// ledgerName is the table of the entries.
func (c *Config) ledgerName() string { return ledger.NameFor(c.Rows) }

// quorum adds to an INSERT's settings how many replicas must have it.
func (c *Config) quorum(settings map[string]string) {
	if strings.HasPrefix(c.Engine, "Replicated") && c.InsertQuorum != "0" {
		settings["insert_quorum"] = c.InsertQuorum
	}
}
