package enrichmentprocessor

import (
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/collector/component"

	"github.com/pulsegrid/pulsegrid/internal/fileset"
	"github.com/pulsegrid/pulsegrid/internal/lookup"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

// Defaults and bounds of Config.
const (
	defaultReloadInterval = 5 * time.Second
	defaultTimeout        = 30 * time.Second
	minReloadInterval     = 100 * time.Millisecond
	maxReloadInterval     = time.Hour
	maxTimeout            = 10 * time.Minute
	defaultKey            = "key"

	maxLookups        = 16
	maxAttributeBytes = 128
	maxCellBytes      = 64
)

// What LookupConfig.From may be.
const (
	fromResource = "resource"
	fromEvent    = "event"
)

// Config of processor `enrichment`.
type Config struct {
	// Cell is the value of the resource attribute enriched.cell. Default empty: resources do not get it.
	Cell string `mapstructure:"cell"`
	// Jurisdiction of this cell, `eu` for instance: the value of the resource attribute enriched.jurisdiction where the tenant has none of its own.
	// Default empty.
	Jurisdiction string `mapstructure:"jurisdiction"`
	// IngestDelay gives log records and spans enriched.ingest_delay_ms. Default true.
	IngestDelay bool `mapstructure:"ingest_delay"`
	// Tenants is the extension that holds the tenants, `tenant_auth` for instance, of which enriched.plan and enriched.jurisdiction are taken. Default
	// none: resources get no plan.
	Tenants *component.ID `mapstructure:"tenants"`
	// Tables says where the tables of Lookups are.
	Tables TablesConfig `mapstructure:"tables"`
	// Lookups are tables to look events or resources up in; at most 16. Default none.
	Lookups []LookupConfig `mapstructure:"lookups"`
}

// TablesConfig says where lookup tables are.
type TablesConfig struct {
	// Location is a directory, file:///DIRECTORY, or s3://BUCKET/PREFIX?region=REGION. Required where there are lookups. Files of subdirectories are
	// not looked at.
	Location string `mapstructure:"location"`
	// ReloadInterval between two looks at the files. Default 5s; 100ms to 1h.
	ReloadInterval time.Duration `mapstructure:"reload_interval"`
	// Timeout of one look. Default 30s; at most 10m.
	Timeout time.Duration `mapstructure:"timeout"`
}

// LookupConfig is one table, and what is looked up in it.
type LookupConfig struct {
	// Table is the name of the table: its file is TABLE.csv or TABLE.jsonl, its attributes are enriched.TABLE.COLUMN. Required; each table once.
	Table string `mapstructure:"table"`
	// Key is the table's column that holds the key. Default "key".
	Key string `mapstructure:"key"`
	// From says whose attribute is looked up, and who gets the columns: resource (default), or event: a log record, span or data point.
	From string `mapstructure:"from"`
	// Attribute whose value is looked up. Required.
	Attribute string `mapstructure:"attribute"`
}

func createDefaultConfig() component.Config {
	return &Config{IngestDelay: true, Tables: TablesConfig{ReloadInterval: defaultReloadInterval, Timeout: defaultTimeout}}
}

// key is the column that holds the key.
func (c LookupConfig) key() string {
	if c.Key == "" {
		return defaultKey
	}
	return c.Key
}

// Validate names the key and the value of what is wrong.
func (c *Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(c.Cell) > maxCellBytes || c.Cell != "" && !tenant.ValidID(c.Cell) {
		bad("cell: %q: want 1 to %d letters, digits and %s", c.Cell, maxCellBytes, tenant.IDPunctuation)
	}
	if c.Jurisdiction != "" && !tenant.ValidName(c.Jurisdiction) {
		bad("jurisdiction: %q: "+tenant.WantName, c.Jurisdiction)
	}
	if i := c.Tables.ReloadInterval; i < minReloadInterval || i > maxReloadInterval {
		bad("tables::reload_interval: %v is not between %v and %v", i, minReloadInterval, maxReloadInterval)
	}
	if t := c.Tables.Timeout; t <= 0 || t > maxTimeout {
		bad("tables::timeout: %v is not above 0 and at most %v", t, maxTimeout)
	}
	if c.Tables.Location != "" || len(c.Lookups) > 0 {
		if err := fileset.Check(c.Tables.Location); err != nil {
			bad("tables::location: %w", err)
		}
	}
	if c.Tables.Location != "" && len(c.Lookups) == 0 {
		bad("tables::location: %q is of no use without lookups", c.Tables.Location)
	}
	if len(c.Lookups) > maxLookups {
		bad("lookups: has %d, more than %d", len(c.Lookups), maxLookups)
	}
	seen := map[string]bool{}
	for i, l := range c.Lookups {
		if err := l.validate(); err != nil {
			bad("lookups::%d::%w", i, err)
		}
		if seen[l.Table] {
			bad("lookups::%d::table: %q is there twice: two lookups would give the same attributes", i, l.Table)
		}
		seen[l.Table] = true
	}
	return errors.Join(errs...)
}

func (c LookupConfig) validate() error {
	switch {
	case !lookup.ValidName(c.Table):
		return fmt.Errorf("table: %q: want 1 to %d letters, digits, and _ - . after the first", c.Table, lookup.MaxNameBytes)
	case !lookup.ValidName(c.key()) || c.key() == lookup.TenantColumn:
		return fmt.Errorf("key: %q is no column that can hold a key", c.Key)
	case c.From != "" && c.From != fromResource && c.From != fromEvent:
		return fmt.Errorf("from: %q is unknown, want resource or event", c.From)
	case c.Attribute == "" || len(c.Attribute) > maxAttributeBytes:
		return fmt.Errorf("attribute: %q is no attribute of 1 to %d bytes", c.Attribute, maxAttributeBytes)
	}
	return nil
}
