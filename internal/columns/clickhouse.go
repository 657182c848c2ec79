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
	// DedupSeconds is for how long a replicated table remembers them; 0: DefaultDedupSeconds. Other tables know no time.
	DedupSeconds int
	// Fsync makes an insert return only when its parts are on the disk.
	Fsync bool
}

const (
	// DefaultDedupWindow is the number of insert tokens that a table remembers. A block uses one for each day that its rows lie in.
	DefaultDedupWindow = 100_000
	// DefaultDedupSeconds is a week: a partition may wait that long for an operator. ClickHouse's own default is an hour.
	DefaultDedupSeconds = 7 * 24 * 3600
)

// FewerMerges is the setting of each table that gets a part with each insert: fewer, larger merges. To ClickHouse all parts below 5 MiB are equally cheap to merge. So with its own
// base, 5, a part of some 10,000 rows is merged again with every five inserts, however small they are; with this one, with about fifteen. A partition that gets no more inserts is
// still merged into few parts: the base falls with age (min_parts_to_merge_at_once does not).
const FewerMerges = "merge_selector_base = 16"

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
	var stmts []string
	if o.Database != "" {
		stmts = append(stmts, "CREATE DATABASE IF NOT EXISTS "+quoteIdent(o.Database)+o.onCluster())
	}
	var b strings.Builder
	fmt.Fprintf(&b, "CREATE TABLE IF NOT EXISTS %s\n(\n", o.Table(t.Name))
	for _, c := range t.ClickHouseColumns() {
		fmt.Fprintf(&b, "    %s,\n", c.DDL)
	}
	for i, x := range t.ClickHouseIndexes() {
		if i > 0 {
			b.WriteString(",\n")
		}
		b.WriteString("    INDEX " + x.DDL)
	}
	fmt.Fprintf(&b, "\n)\nENGINE = %s\nPARTITION BY toDate(ingest_time)\nORDER BY (%s)\n", EngineOf("", o.Engine), strings.Join(t.order, ", "))
	if o.TTLDays > 0 {
		fmt.Fprintf(&b, "TTL toDateTime(ingest_time) + INTERVAL %d DAY\n", o.TTLDays)
	}
	// min_level_for_wide_part: fresh parts are compact, so an insert writes few files.
	fmt.Fprintf(&b, "SETTINGS ttl_only_drop_parts = 1, min_level_for_wide_part = 1, %s, %s", FewerMerges, o.promises())
	return append(stmts, b.String())
}

// ClickHouseColumn is a column of any of the tables: its type as ClickHouse tells it, and its declaration.
type ClickHouseColumn struct{ Name, Type, Doc, DDL string }

// NewClickHouseColumn declares a column. Empty codec: that of most columns.
func NewClickHouseColumn(name, typ, doc, codec string) ClickHouseColumn {
	if codec == "" {
		codec = codecDefault
	}
	return ClickHouseColumn{Name: name, Type: typ, Doc: doc, DDL: fmt.Sprintf("%s %s COMMENT %s CODEC(%s)", quoteIdent(name), typ, quoteText(doc), codec)}
}

// ClickHouseColumns are the table's columns in ClickHouse, in their order.
func (t *Table) ClickHouseColumns() []ClickHouseColumn {
	out := make([]ClickHouseColumn, len(t.Columns))
	for i, c := range t.Columns {
		out[i] = NewClickHouseColumn(c.Name, c.Kind.ClickHouse(), c.Doc, c.Codec)
	}
	return out
}

// Table is the quoted name of a table to create, with its database and cluster.
func (o DDLOptions) Table(name string) string { return qualified(o.Database, name) + o.onCluster() }

func (o DDLOptions) onCluster() string {
	if o.Cluster == "" {
		return ""
	}
	return " ON CLUSTER " + quoteIdent(o.Cluster)
}

// promises are the settings that make a table recognise inserts that come again, and keep those that it has taken.
func (o DDLOptions) promises() string {
	blocks, seconds := o.DedupWindow, o.DedupSeconds
	if blocks == 0 {
		blocks = DefaultDedupWindow
	}
	if seconds == 0 {
		seconds = DefaultDedupSeconds
	}
	settings := fmt.Sprintf("non_replicated_deduplication_window = %d", blocks)
	if Replicated(o.Engine) {
		settings = fmt.Sprintf("replicated_deduplication_window_seconds = %d, replicated_deduplication_window = %d", seconds, blocks)
	}
	if o.Fsync {
		settings += ", fsync_after_insert = 1, fsync_part_directory = 1"
	}
	return settings
}

// Replicated tells whether an engine of the MergeTree family keeps its insert tokens in Keeper.
func Replicated(engine string) bool {
	return strings.HasPrefix(engine, "Replicated") || strings.HasPrefix(engine, "Shared")
}

// EngineOf is the engine of a table that goes with tables of the given engine (empty: MergeTree): of the same family and with the same
// arguments, and of the kind "Aggregating" or "Replacing" (empty: as it is); more are further arguments.
func EngineOf(kind, engine string, more ...string) string {
	if engine == "" {
		engine = "MergeTree"
	}
	if kind == "" {
		return engine
	}
	name, args, _ := strings.Cut(engine, "(")
	prefix := ""
	for _, p := range []string{"Replicated", "Shared"} {
		if strings.HasPrefix(name, p) {
			prefix = p
		}
	}
	if args = strings.TrimSuffix(args, ")"); args != "" {
		if prefix != "" { // else: arguments of a Replacing or Summing engine, which are columns of the rows
			more = append([]string{args}, more...)
		}
	}
	out := prefix + kind + "MergeTree"
	if len(more) > 0 {
		out += "(" + strings.Join(more, ", ") + ")"
	}
	return out
}

func qualified(database, name string) string {
	if database == "" {
		return quoteIdent(name)
	}
	return quoteIdent(database) + "." + quoteIdent(name)
}

// ClickHouseIndex is a skip index: its name, and its declaration after the word INDEX.
type ClickHouseIndex struct{ Name, DDL string }

func skipIndex(name, expression, typ string) ClickHouseIndex {
	return ClickHouseIndex{Name: name, DDL: fmt.Sprintf("%s %s TYPE %s GRANULARITY 1", name, expression, typ)}
}

// Types of skip indexes.
const (
	bloomFilter = "bloom_filter(0.001)"
	tokenFilter = "tokenbf_v1(32768, 3, 0)"
)

// ClickHouseIndexes are the skip indexes; merges build them (InsertSettings). Tools compare ids as hex and search words in lower case, which an index over the column itself
// does not help: ClickHouse uses one only if the query has its very expression (ToolView).
func (t *Table) ClickHouseIndexes() []ClickHouseIndex {
	idx := []ClickHouseIndex{skipIndex("idx_time", "time", "minmax")}
	if t.items {
		return idx
	}
	switch t.Signal {
	case signal.Logs:
		idx = append(idx, skipIndex("idx_trace_id", "trace_id", bloomFilter), skipIndex("idx_trace_id_hex", hexID(16, "trace_id"), bloomFilter),
			skipIndex("idx_body", "body", tokenFilter), skipIndex("idx_body_lower", "lower(body)", tokenFilter))
	case signal.Traces:
		idx = append(idx, skipIndex("idx_trace_id", "trace_id", bloomFilter), skipIndex("idx_trace_id_hex", hexID(16, "trace_id"), bloomFilter),
			skipIndex("idx_duration", "duration_nano", "minmax"))
	case signal.Metrics:
		idx = append(idx, skipIndex("idx_metric_name", "metric_name", "set(256)"))
	}
	return idx
}

func quoteIdent(s string) string {
	return "`" + strings.NewReplacer("\\", "\\\\", "`", "\\`").Replace(s) + "`"
}

func quoteText(s string) string {
	return "'" + strings.NewReplacer("\\", "\\\\", "'", "\\'").Replace(s) + "'"
}
