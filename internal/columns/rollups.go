package columns

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Rollup is one resolution of a table's rollup in ClickHouse: a table, and the incremental materialized view that fills it while
// rows are inserted into Source. 10 s is made of the table itself, 1 min of 10 s, 1 h of 1 min. Whatever its rows' order or number,
// merging them gives the same: each measure is a function that is associative and commutative (sums of doubles but for rounding).
type Rollup struct {
	Name    string // "logs_10s"
	View    string // "logs_10s_mv"
	Source  string // the table whose inserts it sees: "logs", or the rollup before it
	Seconds int    // width of a bucket
	Columns []RollupColumn

	partition string
}

// RollupColumn is one column of all resolutions of a rollup.
type RollupColumn struct {
	Name string
	Type string // in ClickHouse
	Doc  string
	Key  bool // part of the key; otherwise a measure

	row   string       // its value from rows of the table, which are called s; of a measure: an aggregate
	merge string       // of a measure: its value from rows of the resolution before, which are called s too
	flat  []ToolColumn // of a measure whose type BI tools do not know: what the flat view shows of it
}

// Resolutions of every rollup, in the order in which one is made of the other.
var resolutions = []struct {
	suffix    string
	seconds   int
	partition string
}{
	{"10s", 10, byDay},
	{"1m", 60, byDay},
	{"1h", 3600, byMonth}, // kept for years: a partition a day would be too many
}

// Partition keys.
const (
	byDay   = "ingest_date"
	byMonth = "toYYYYMM(ingest_date)"
)

// Resolutions are the suffixes of the rollups' names, finest first.
func Resolutions() []string {
	var out []string
	for _, r := range resolutions {
		out = append(out, r.suffix)
	}
	return out
}

// Rollups returns the rollups of the table, finest first; the quarantine has none.
func (t *Table) Rollups() []Rollup {
	if t.items {
		return nil
	}
	var out []Rollup
	source := t.Name
	for _, res := range resolutions {
		r := Rollup{
			Name: t.Name + "_" + res.suffix, View: t.Name + "_" + res.suffix + "_mv", Source: source,
			Seconds: res.seconds, Columns: t.rollupColumns(), partition: res.partition,
		}
		out = append(out, r)
		source = r.Name
	}
	return out
}

// timeMax is the last bucket of 10 s that a DateTime can hold, in 2106: an agent's clock may be anywhere, and must not wrap around.
const timeMax = 4294967290

func (t *Table) rollupColumns() []RollupColumn {
	key := func(name, typ, row, doc string) RollupColumn {
		return RollupColumn{Name: name, Type: typ, Doc: doc, Key: true, row: row}
	}
	cols := []RollupColumn{
		key("tenant_id", "LowCardinality(String)", "s.tenant_id", "tenant"),
		key("service_name", "LowCardinality(String)", "s.service_name", "service"),
		key("time", "DateTime('UTC')", fmt.Sprintf("least(intDiv(toUnixTimestamp64Nano(s.time), 1000000000), %d)", timeMax),
			"begin of the bucket that the row's time lies in"),
	}
	switch t.Signal {
	case signal.Logs:
		cols = append(cols, logRollup(key)...)
	case signal.Traces:
		cols = append(cols, spanRollup(key)...)
	case signal.Metrics:
		cols = append(cols, t.metricRollup(key)...)
	}
	return append(cols, key("ingest_date", "Date", "toDate(s.ingest_time)",
		"day of the rows' ingest_time. Partitions and retention go by it; an hour whose rows came on two days has two rows"))
}

type keyFunc = func(name, typ, row, doc string) RollupColumn

// sumOf is a measure that adds up.
func sumOf(name, typ, row, doc string) RollupColumn {
	return RollupColumn{Name: name, Type: "SimpleAggregateFunction(sum, " + typ + ")", Doc: doc, row: row, merge: "sum(s." + name + ")"}
}

func extremeOf(function, name, typ, row, doc string) RollupColumn {
	return RollupColumn{
		Name: name, Type: "SimpleAggregateFunction(" + function + ", " + typ + ")", Doc: doc,
		row: function + "(" + row + ")", merge: function + "(s." + name + ")",
	}
}

func logRollup(key keyFunc) []RollupColumn {
	return []RollupColumn{
		key("severity", "LowCardinality(String)",
			"multiIf(s.severity_number < 1, 'unspecified', s.severity_number < 5, 'trace', s.severity_number < 9, 'debug', s.severity_number < 13, 'info', "+
				"s.severity_number < 17, 'warn', s.severity_number < 21, 'error', s.severity_number < 25, 'fatal', 'unspecified')",
			"trace, debug, info, warn, error, fatal or unspecified, by severity_number"),
		sumOf("count", "UInt64", "count()", "log records"),
	}
}

func spanRollup(key keyFunc) []RollupColumn {
	const duration = "greatest(s.duration_nano, 0)" // negative where a clock went back
	// 2^63 ns are 292 years, which a few spans with a broken clock would exceed.
	total := sumOf("duration_sum", "Int128", "sum(toInt128("+duration+"))", "sum of the durations in nanoseconds, negative ones as 0")
	total.flat = []ToolColumn{{"duration_sum", "toFloat64(sum(s.duration_sum))"}}
	return []RollupColumn{
		key("name", "LowCardinality(String)", "s.name", "name of the span"),
		key("kind", "LowCardinality(String)", "s.kind", "kind of the span"),
		sumOf("count", "UInt64", "count()", "spans"),
		sumOf("errors", "UInt64", "countIf(s.status_code = 'error')", "spans whose status_code is error"),
		total,
		extremeOf("max", "duration_max", "Int64", duration, "longest duration in nanoseconds"),
		{
			Name: "duration_quantiles", Type: "AggregateFunction(quantileDD(0.01, 0.5), UInt64)",
			Doc: "state of the durations' quantiles, of any level, to 1 % of the value: quantileDDMerge(0.01, 0.99)(duration_quantiles)",
			row: "quantileDDState(0.01, 0.5)(toUInt64(" + duration + "))", merge: "quantileDDMergeState(0.01, 0.5)(s.duration_quantiles)",
			flat: []ToolColumn{
				{"duration_p50", "quantileDDMerge(0.01, 0.5)(s.duration_quantiles)"},
				{"duration_p95", "quantileDDMerge(0.01, 0.95)(s.duration_quantiles)"},
				{"duration_p99", "quantileDDMerge(0.01, 0.99)(s.duration_quantiles)"},
			},
		},
	}
}

// metricRollup's keys are what the semantic conventions keep few: the metric, and the promoted attributes that are no free text. With
// all attributes a row of 10 s would be one series, so as many rows as points: no rollup. Without any, a dashboard could not
// tell a route from another, nor CPU states.
func (t *Table) metricRollup(key keyFunc) []RollupColumn {
	const (
		number = "(s.value_type IN ('int', 'double') AND isFinite(s.value_double) AND bitAnd(s.flags, 1) = 0)"
		zero   = "tuple(toDateTime64(0, 9, 'UTC'), 0.)"
	)
	cols := []RollupColumn{
		key("metric_name", "LowCardinality(String)", "s.metric_name", "name of the metric"),
		key("metric_type", "LowCardinality(String)", "s.metric_type", "gauge, sum, histogram, exponential_histogram or summary"),
		key("metric_unit", "LowCardinality(String)", "s.metric_unit", "unit of the metric"),
		key("temporality", "LowCardinality(String)", "s.temporality", "delta, cumulative, unspecified, or empty for gauge and summary"),
		key("is_monotonic", "Bool", "s.is_monotonic", "sum: whether it only grows"),
	}
	for _, c := range t.Columns {
		if c.Promote != "" && c.Kind != Text {
			cols = append(cols, key(c.Name, c.Kind.ClickHouse(), "s."+c.Name, "promoted attribute `"+c.Promote+"`"))
		}
	}
	last := extremeOf("max", "value_last", "Tuple(time DateTime64(9, 'UTC'), value Float64)", "if("+number+", tuple(s.time, s.value_double), "+zero+")",
		"gauges and sums: time and value of the newest point, of equally new ones the greatest")
	last.flat = []ToolColumn{{"value_last", "tupleElement(max(s.value_last), 'value')"}}
	return append(cols,
		sumOf("points", "UInt64", "count()", "data points, those without a value too"),
		sumOf("value_count", "UInt64", "sum(if("+number+", 1, s.count))", "values: finite ones of gauges and sums; measurements of histograms and summaries"),
		sumOf("value_sum", "Float64", "sum(multiIf("+number+", s.value_double, s.has_sum AND isFinite(s.sum), s.sum, 0.))", "their sum"),
		extremeOf("min", "value_min", "Float64", "multiIf("+number+", s.value_double, s.has_min AND NOT isNaN(s.min), s.min, inf)", "least of them; inf where there is none"),
		extremeOf("max", "value_max", "Float64", "multiIf("+number+", s.value_double, s.has_max AND NOT isNaN(s.max), s.max, -inf)", "greatest of them; -inf where there is none"),
		last,
	)
}

// bucket is the begin of the bucket that a number of seconds lies in.
func (r Rollup) bucket(seconds string) string {
	return fmt.Sprintf("toDateTime(intDiv(%s, %d) * %d, 'UTC')", seconds, r.Seconds, r.Seconds)
}

// query is the view's SELECT.
func (r Rollup) query(database string) string { return r.queryOf(qualified(database, r.Source), "") }

// Recount returns a SELECT of the rollup's rows out of the table itself, whose rows of these days of receipt (at least one) it reads. The order of the columns is that of
// r.Columns.
func (r Rollup) Recount(t *Table, database string, days []time.Time) string {
	texts := make([]string, len(days))
	for i, d := range days {
		texts[i] = quoteText(d.Format(time.DateOnly))
	}
	from, where := qualified(database, t.Name), "\nWHERE toDate(s.ingest_time) IN ("+strings.Join(texts, ", ")+")"
	for _, finer := range t.Rollups() {
		q := finer.queryOf(from, where)
		if finer.Name == r.Name {
			return q
		}
		from, where = "(\n"+q+"\n)", ""
	}
	panic(fmt.Sprintf("columns: %s is no rollup of %s", r.Name, t.Name))
}

// Partition is the one that holds a day of receipt: ClickHouse's id of it, and its days from first to end, exclusive.
func (r Rollup) Partition(day time.Time) (id string, first, end time.Time) {
	y, m, d := day.UTC().Date()
	if r.partition == byMonth {
		first = time.Date(y, m, 1, 0, 0, 0, 0, time.UTC)
		return first.Format("200601"), first, first.AddDate(0, 1, 0)
	}
	first = time.Date(y, m, d, 0, 0, 0, 0, time.UTC)
	return first.Format("20060102"), first, first.AddDate(0, 0, 1)
}

// queryOf is the rollup's SELECT from its source, or from what stands for that. Keys are grouped by their expressions, not by alias or position: those depend on settings.
func (r Rollup) queryOf(from, where string) string {
	first := r.Seconds == resolutions[0].seconds
	var selected, grouped []string
	for _, c := range r.Columns {
		expr := c.merge
		if c.Key {
			switch {
			case c.Name == "time" && first:
				expr = r.bucket(c.row)
			case c.Name == "time":
				expr = r.bucket("toUnixTimestamp(s.time)")
			case first:
				expr = c.row
			default:
				expr = "s." + c.Name
			}
			grouped = append(grouped, expr)
		} else if first {
			expr = c.row
		}
		selected = append(selected, expr+" AS "+quoteIdent(c.Name))
	}
	return "SELECT\n    " + strings.Join(selected, ",\n    ") + "\nFROM " + from + " AS s" + where + "\nGROUP BY\n    " + strings.Join(grouped, ",\n    ")
}

// Key lists the columns of the sorting key.
func (r Rollup) Key() []string {
	var out []string
	for _, c := range r.Columns {
		if c.Key {
			out = append(out, c.Name)
		}
	}
	return out
}

// TableDDL returns the statement that creates the rollup's table. o.TTLDays counts from ingest_date.
func (r Rollup) TableDDL(o DDLOptions) string {
	var b strings.Builder
	fmt.Fprintf(&b, "CREATE TABLE IF NOT EXISTS %s\n(\n", o.Table(r.Name))
	for _, c := range r.ClickHouseColumns() {
		fmt.Fprintf(&b, "    %s,\n", c.DDL)
	}
	fmt.Fprintf(&b, "    INDEX idx_time time TYPE minmax GRANULARITY 1\n)\nENGINE = %s\nPARTITION BY %s\nPRIMARY KEY (tenant_id, service_name, time)\nORDER BY (%s)\n",
		EngineOf("Aggregating", o.Engine), r.partition, strings.Join(r.Key(), ", "))
	if o.TTLDays > 0 {
		fmt.Fprintf(&b, "TTL ingest_date + INTERVAL %d DAY\n", o.TTLDays)
	}
	fmt.Fprintf(&b, "SETTINGS ttl_only_drop_parts = 1, %s, %s", FewerMerges, o.promises())
	return b.String()
}

// ClickHouseColumns are the rollup's columns, in their order.
func (r Rollup) ClickHouseColumns() []ClickHouseColumn {
	out := make([]ClickHouseColumn, len(r.Columns))
	for i, c := range r.Columns {
		out[i] = NewClickHouseColumn(c.Name, c.Type, c.Doc, "")
	}
	return out
}

// ViewDDL returns the statement that creates the materialized view. Create the views coarsest first: from the moment the view of 10 s
// exists, nothing passes the others.
func (r Rollup) ViewDDL(o DDLOptions) string {
	return "CREATE MATERIALIZED VIEW IF NOT EXISTS " + o.Table(r.View) + " TO " + qualified(o.Database, r.Name) +
		"\nAS " + r.query(o.Database) + "\nCOMMENT " + quoteText(r.Definition())
}

// Definition names what the view computes: the comment of the view in ClickHouse, by which a view of another definition is told.
func (r Rollup) Definition() string {
	sum := sha256.Sum256([]byte(r.query("")))
	return fmt.Sprintf("rollup of %s to %d s, definition %s", r.Source, r.Seconds, hex.EncodeToString(sum[:4]))
}
