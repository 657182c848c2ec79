package columns

import (
	"fmt"
	"strings"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Compression codecs. Ids are random: no codec shrinks them. For the other columns special codecs gained nothing when measured.
const (
	codecDefault = "ZSTD(1)"
	codecTime    = "Delta(8), ZSTD(1)"
	codecDelta   = "Delta(8), ZSTD(1)"
	codecNone    = "NONE"
)

// DDLOptions are what an operator decides about the tables in ClickHouse.
type DDLOptions struct {
	Database string // empty: the tables are created in the connection's database
	TTLDays  int    // days after ingest_time; 0: rows are kept for ever
	Cluster  string // CREATE ... ON CLUSTER; empty: this server only
	// Engine is the table engine with its arguments; empty: MergeTree. One of the Replicated family: "ReplicatedMergeTree".
	Engine string
	// DedupWindow is how many insert tokens the table remembers; 0: DefaultDedupWindow.
	DedupWindow int
}

// DefaultDedupWindow is the number of insert tokens that a table remembers. One is used per block.
const DefaultDedupWindow = 100_000

// InsertSettings are the query settings that every insert of a block carries, with the block's deduplication token.
// Skip indexes are then built by merges, and a rollup's materialized view does not double a repeated block.
func InsertSettings(token string) map[string]string {
	return map[string]string{
		"insert_deduplication_token":                         token,
		"insert_deduplicate":                                 "1",
		"deduplicate_blocks_in_dependent_materialized_views": "1",
		"materialize_skip_indexes_on_insert":                 "0",
		"async_insert":                                       "0",
		"input_format_arrow_allow_missing_columns":           "0",
		"input_format_parallel_parsing":                      "0",
		"max_partitions_per_insert_block":                    "0",
	}
}

// ClickHouseDDL returns the statements that create the table: the database where one is named, then the table. Each may be
// run again at any time.
func (t *Table) ClickHouseDDL(o DDLOptions) []string {
	onCluster := ""
	if o.Cluster != "" {
		onCluster = " ON CLUSTER " + quoteIdent(o.Cluster)
	}
	name := quoteIdent(t.Name)
	var stmts []string
	if o.Database != "" {
		stmts = append(stmts, "CREATE DATABASE IF NOT EXISTS "+quoteIdent(o.Database)+onCluster)
		name = quoteIdent(o.Database) + "." + name
	}
	engine := o.Engine
	if engine == "" {
		engine = "MergeTree"
	}
	window := o.DedupWindow
	if window == 0 {
		window = DefaultDedupWindow
	}
	windowSetting := "non_replicated_deduplication_window"
	if strings.HasPrefix(engine, "Replicated") || strings.HasPrefix(engine, "Shared") {
		windowSetting = "replicated_deduplication_window_seconds = 604800, replicated_deduplication_window" // by default: an hour
	}

	var b strings.Builder
	fmt.Fprintf(&b, "CREATE TABLE IF NOT EXISTS %s%s\n(\n", name, onCluster)
	for _, c := range t.Columns {
		fmt.Fprintf(&b, "    %s,\n", c.ClickHouseDDL())
	}
	b.WriteString(strings.Join(t.indexes(), ",\n"))
	fmt.Fprintf(&b, "\n)\nENGINE = %s\nPARTITION BY toDate(ingest_time)\nORDER BY (tenant_id, service_name, time)\n", engine)
	if o.TTLDays > 0 {
		fmt.Fprintf(&b, "TTL toDateTime(ingest_time) + INTERVAL %d DAY\n", o.TTLDays)
	}
	// min_level_for_wide_part: fresh parts are compact, so an insert writes few files.
	// merge_selector_base: fewer, larger merges.
	fmt.Fprintf(&b, "SETTINGS ttl_only_drop_parts = 1, min_level_for_wide_part = 1, merge_selector_base = 16, %s = %d", windowSetting, window)
	return append(stmts, b.String())
}

// ClickHouseDDL is the column's declaration, as CREATE TABLE and ALTER TABLE ADD COLUMN take it.
func (c *Column) ClickHouseDDL() string {
	codec := c.Codec
	if codec == "" {
		codec = codecDefault
	}
	return fmt.Sprintf("%s %s COMMENT %s CODEC(%s)", quoteIdent(c.Name), c.Kind.ClickHouse(), quoteText(c.Doc), codec)
}

// indexes are the skip indexes; merges build them (InsertSettings).
func (t *Table) indexes() []string {
	idx := []string{"    INDEX idx_time time TYPE minmax GRANULARITY 1"}
	switch t.Signal {
	case signal.Logs:
		idx = append(idx, "    INDEX idx_trace_id trace_id TYPE bloom_filter(0.001) GRANULARITY 1",
			"    INDEX idx_body body TYPE tokenbf_v1(32768, 3, 0) GRANULARITY 1")
	case signal.Traces:
		idx = append(idx, "    INDEX idx_trace_id trace_id TYPE bloom_filter(0.001) GRANULARITY 1",
			"    INDEX idx_duration duration_nano TYPE minmax GRANULARITY 1")
	case signal.Metrics:
		idx = append(idx, "    INDEX idx_metric_name metric_name TYPE set(256) GRANULARITY 1")
	}
	return idx
}

func quoteIdent(s string) string {
	return "`" + strings.NewReplacer("\\", "\\\\", "`", "\\`").Replace(s) + "`"
}

func quoteText(s string) string {
	return "'" + strings.NewReplacer("\\", "\\\\", "'", "\\'").Replace(s) + "'"
}
