package clickhouseexporter

import (
	"slices"
	"strings"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
)

// ledgerDaysMin is how long entries of the ledger are kept at least, whatever retention_days says: a block that is redone is looked up
// there, and so is how much was stored since.
const ledgerDaysMin = 30

// wantedTable is a table as the exporter needs it.
type wantedTable struct {
	name       string
	create     []string // statements, each of which may be run again
	columns    []columns.ClickHouseColumn
	indexes    []columns.ClickHouseIndex // skip indexes that it should have
	extensible bool                      // columns that it lacks may be added
	key        string                    // its sorting key, which a column that it lacks may be part of; empty: not looked at
	engine     string                    // how the name of its engine ends
	promises   bool                      // it must recognise inserts that come again, and keep what it has taken
	ttlFrom    string                    // expression that its retention counts from
	ttlDays    int                       // 0: for ever
	ttlKey     string                    // key of the config that says so
	unless     string                    // key of the config with which it is not wanted
}

// wantedView is a materialized view as the exporter needs it.
type wantedView struct {
	name, create, definition string
}

// ddlOptions are what the config says of tables and views.
func ddlOptions(cfg *Config) columns.DDLOptions {
	return columns.DDLOptions{
		Database: cfg.Database, Cluster: cfg.Cluster, Engine: cfg.Engine, TTLDays: cfg.RetentionDays,
		DedupWindow: cfg.DeduplicationWindow, DedupSeconds: int(cfg.DeduplicationPeriod.Seconds()),
		Fsync: cfg.Fsync && !strings.HasPrefix(cfg.Engine, "Shared"),
	}
}

// wantedTables are the tables of one signal, in the order in which they are created, and the views, likewise.
func wantedTables(cfg *Config, t *columns.Table) ([]wantedTable, []wantedView) {
	options := ddlOptions(cfg)
	tables := []wantedTable{{
		name: t.Name, create: t.ClickHouseDDL(options), columns: t.ClickHouseColumns(), indexes: t.ClickHouseIndexes(), extensible: true, engine: "MergeTree", promises: true,
		ttlFrom: "toDateTime(ingest_time)", ttlDays: cfg.RetentionDays, ttlKey: "retention_days",
	}}
	var views []wantedView
	if cfg.Rollups {
		for _, r := range t.Rollups() {
			o := options
			o.TTLDays = cfg.rollupDays(r)
			tables = append(tables, wantedTable{
				name: r.Name, create: []string{r.TableDDL(o)}, columns: r.ClickHouseColumns(), engine: "AggregatingMergeTree", promises: true,
				ttlFrom: "ingest_date", ttlDays: o.TTLDays, ttlKey: "rollup_retention_days", unless: "rollups",
			})
			views = append(views, wantedView{name: r.View, create: r.ViewDDL(o), definition: r.Definition()})
		}
		slices.Reverse(views) // coarsest first
	}
	if cfg.Ledger {
		o := options
		if o.TTLDays > 0 {
			o.TTLDays = max(o.TTLDays, ledgerDaysMin)
		}
		tables = append(tables, wantedTable{
			name: cfg.ledgerName(), create: []string{ledger.ClickHouseDDL(cfg.ledgerName(), o)}, columns: ledger.ClickHouseColumns(), extensible: true, key: ledger.ClickHouseKey, engine: "ReplacingMergeTree",
			ttlFrom: "toDateTime(written_time)", ttlDays: o.TTLDays, ttlKey: "retention_days", unless: "ledger",
		})
	}
	return tables, views
}
