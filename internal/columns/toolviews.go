package columns

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// ToolView is a view over a table, for tools that know other tables than ours. It stores nothing and computes its columns when a query reads them.
//
// The views otel_* have the columns of the Collector's stock ClickHouse exporter (opentelemetry-collector-contrib v0.151.0 and later), which Grafana's ClickHouse plugin
// and ClickStack expect, and after them the columns by which a query is cheaper: promoted attributes and typed maps. The views bi_* are flat: no map, no array, no raw bytes.
type ToolView struct {
	Name    string // "otel_traces"
	Source  string // the table or rollup that it reads
	Doc     string
	Columns []ToolColumn

	where, group string // clauses without their keyword; empty: none
}

// ToolColumn is a column of a ToolView.
type ToolColumn struct {
	Name string
	SQL  string // its value from a row of the source, which is called s
}

// ToolViews returns the views over the table and, with rollups, over those; the quarantine has none.
func (t *Table) ToolViews(rollups bool) []ToolView {
	if t.items {
		return nil
	}
	var out []ToolView
	switch t.Signal {
	case signal.Logs:
		out = append(out, t.otelLogs())
	case signal.Traces:
		out = append(out, t.otelTraces(), t.otelTraceTimes())
	case signal.Metrics:
		out = append(out, t.otelMetrics()...)
	}
	out = append(out, t.flat())
	if rollups {
		for _, r := range t.Rollups() {
			out = append(out, r.flat())
		}
	}
	return out
}

// DDL returns the statement that creates the view, or replaces it if replace.
func (v ToolView) DDL(o DDLOptions, replace bool) string {
	create := "CREATE VIEW IF NOT EXISTS " // needs fewer rights than CREATE OR REPLACE
	if replace {
		create = "CREATE OR REPLACE VIEW "
	}
	return create + o.Table(v.Name) + "\nAS " + v.query(o.Database) + "\nCOMMENT " + quoteText(v.Definition())
}

func (v ToolView) query(database string) string {
	selected := make([]string, len(v.Columns))
	for i, c := range v.Columns {
		selected[i] = c.SQL + " AS " + quoteIdent(c.Name)
	}
	q := "SELECT\n    " + strings.Join(selected, ",\n    ") + "\nFROM " + qualified(database, v.Source) + " AS s"
	if v.where != "" {
		q += "\nWHERE " + v.where
	}
	if v.group != "" {
		q += "\nGROUP BY " + v.group
	}
	return q
}

// toolViewMark begins the comment of every view that this program made, and may therefore replace.
const toolViewMark = "PulseGrid's view for tools"

// Definition names what the view computes: its comment in ClickHouse.
func (v ToolView) Definition() string {
	sum := sha256.Sum256([]byte(v.query("")))
	return fmt.Sprintf("%s: %s (definition %s)", toolViewMark, v.Doc, hex.EncodeToString(sum[:4]))
}

// IsToolView tells by its comment whether a view is one that DDL made, of this or another version.
func IsToolView(comment string) bool { return strings.HasPrefix(comment, toolViewMark) }

// Expressions. Tools compare ids as text, so skip indexes are declared over the very same expressions: see Table.ClickHouseIndexes.

// hexID is an id of that many bytes as lower-case hex; empty where all bytes are zero, as for a span without parent.
func hexID(bytes int, id string) string {
	return fmt.Sprintf("replaceOne(lower(hex(%s)), '%s', '')", id, strings.Repeat("00", bytes))
}

func each(value, list string) string { return "arrayMap(x -> " + value + ", " + list + ")" }

const textMap = "Map(LowCardinality(String), String)"

// objectMap is a JSON object as a map; a value that is no string is its JSON text. Of a LowCardinality text it is computed for each row: JSONExtract makes no
// LowCardinality map.
func objectMap(json string) string {
	return "CAST(JSONExtract(toString(" + json + "), 'Map(String, String)') AS " + textMap + ")"
}

// attributes are the event's attributes of every type as one map of texts. Promoted ones come first; within attributes_other lie further values of a key, so it is last, and
// a look-up by key finds the first value.
func (t *Table) attributes() string {
	var promoted []string
	for _, c := range t.Columns {
		switch {
		case c.Promote == "":
		case c.Kind == Text || c.Kind == Dict:
			promoted = append(promoted, quoteText(c.Promote)+", toString(s."+quoteIdent(c.Name)+")")
		default:
			promoted = append(promoted, fmt.Sprintf("%s, if(s.%[2]s = 0, '', toString(s.%[2]s))", quoteText(c.Promote), quoteIdent(c.Name)))
		}
	}
	var maps []string
	if len(promoted) > 0 {
		maps = append(maps, "mapFilter((k, v) -> v != '', CAST(map("+strings.Join(promoted, ", ")+") AS "+textMap+"))")
	}
	for _, c := range t.Columns {
		switch c.Kind {
		case MapText, MapJSON:
			maps = append(maps, "s."+c.Name)
		case MapInt, MapDouble, MapBool:
			maps = append(maps, "CAST(s."+c.Name+" AS "+textMap+")")
		}
	}
	return "mapConcat(" + strings.Join(maps, ", ") + ")"
}

// fastColumns are the columns by which a query over attributes is cheaper: promoted attributes and typed maps, under their own names, and the tenant.
func (t *Table) fastColumns() []ToolColumn {
	out := []ToolColumn{{"TenantId", "s.tenant_id"}}
	for _, c := range t.Columns {
		if c.Promote != "" || c.Kind.IsMap() {
			out = append(out, ToolColumn{c.Name, "s." + quoteIdent(c.Name)})
		}
	}
	return out
}

func (t *Table) otelLogs() ToolView {
	columns := []ToolColumn{
		{"Timestamp", "s.time"},
		{"TraceId", hexID(16, "s.trace_id")},
		{"SpanId", hexID(8, "s.span_id")},
		{"TraceFlags", "toUInt8(bitAnd(s.flags, 255))"},
		{"SeverityText", "if(s.severity_text != '', toString(s.severity_text), multiIf(s.severity_number < 1, '', s.severity_number < 5, 'TRACE', s.severity_number < 9, 'DEBUG', " +
			"s.severity_number < 13, 'INFO', s.severity_number < 17, 'WARN', s.severity_number < 21, 'ERROR', s.severity_number < 25, 'FATAL', ''))"},
		{"SeverityNumber", "toUInt8(if(s.severity_number BETWEEN 0 AND 255, s.severity_number, 0))"},
		{"ServiceName", "s.service_name"},
		{"Body", "s.body"},
		{"ResourceSchemaUrl", "s.resource_schema_url"},
		{"ResourceAttributes", objectMap("s.resource")},
		{"ScopeSchemaUrl", "s.scope_schema_url"},
		{"ScopeName", "s.scope_name"},
		{"ScopeVersion", "s.scope_version"},
		{"ScopeAttributes", objectMap("s.scope_attributes")},
		{"LogAttributes", t.attributes()},
		{"EventName", "s.event_name"},
	}
	return ToolView{Name: "otel_logs", Source: t.Name, Doc: "log records", Columns: append(columns, t.fastColumns()...)}
}

func (t *Table) otelTraces() ToolView {
	columns := []ToolColumn{
		{"Timestamp", "s.time"},
		{"TraceId", hexID(16, "s.trace_id")},
		{"SpanId", hexID(8, "s.span_id")},
		{"ParentSpanId", hexID(8, "s.parent_span_id")},
		{"TraceState", "s.trace_state"},
		{"SpanName", "s.name"},
		{"SpanKind", "initcap(s.kind)"},
		{"ServiceName", "s.service_name"},
		{"ResourceAttributes", objectMap("s.resource")},
		{"ScopeName", "s.scope_name"},
		{"ScopeVersion", "s.scope_version"},
		{"SpanAttributes", t.attributes()},
		{"Duration", "toUInt64(greatest(s.duration_nano, 0))"},
		{"StatusCode", "initcap(s.status_code)"},
		{"StatusMessage", "s.status_message"},
		{"Events.Timestamp", "s.events_time"},
		{"Events.Name", "s.events_name"},
		{"Events.Attributes", each(objectMap("x"), "s.events_attributes")},
		{"Links.TraceId", each(hexID(16, "x"), "s.links_trace_id")},
		{"Links.SpanId", each(hexID(8, "x"), "s.links_span_id")},
		{"Links.TraceState", "s.links_trace_state"},
		{"Links.Attributes", each(objectMap("x"), "s.links_attributes")},
	}
	return ToolView{Name: "otel_traces", Source: t.Name, Doc: "spans", Columns: append(columns, t.fastColumns()...)}
}

// otelTraceTimes says when a trace began and its last span began. Grafana looks here before it reads a trace's spans.
func (t *Table) otelTraceTimes() ToolView {
	id := hexID(16, "s.trace_id")
	return ToolView{
		Name: "otel_traces_trace_id_ts", Source: t.Name, Doc: "first and last start of a span, by trace", group: id,
		Columns: []ToolColumn{{"TraceId", id}, {"Start", "min(s.time)"}, {"End", "max(s.time)"}},
	}
}

func (t *Table) otelMetrics() []ToolView {
	const temporality = "toInt32(multiIf(s.temporality = 'delta', 1, s.temporality = 'cumulative', 2, toInt32OrZero(toString(s.temporality))))"
	shared := []ToolColumn{
		{"ResourceAttributes", objectMap("s.resource")},
		{"ResourceSchemaUrl", "s.resource_schema_url"},
		{"ScopeName", "s.scope_name"},
		{"ScopeVersion", "s.scope_version"},
		{"ScopeAttributes", objectMap("s.scope_attributes")},
		{"ScopeDroppedAttrCount", "s.scope_dropped_attributes_count"},
		{"ScopeSchemaUrl", "s.scope_schema_url"},
		{"ServiceName", "s.service_name"},
		{"MetricName", "s.metric_name"},
		{"MetricDescription", "s.metric_description"},
		{"MetricUnit", "s.metric_unit"},
		{"Attributes", t.attributes()},
		{"StartTimeUnix", "s.start_time"},
		{"TimeUnix", "s.time"},
		{"Flags", "s.flags"},
	}
	exemplars := []ToolColumn{
		{"Exemplars.FilteredAttributes", each(objectMap("x"), "s.exemplars_attributes")},
		{"Exemplars.TimeUnix", "s.exemplars_time"},
		{"Exemplars.Value", "s.exemplars_value_double"},
		{"Exemplars.SpanId", each(hexID(8, "x"), "s.exemplars_span_id")},
		{"Exemplars.TraceId", each(hexID(16, "x"), "s.exemplars_trace_id")},
	}
	total := []ToolColumn{{"Count", "s.count"}, {"Sum", "s.sum"}}
	extremes := []ToolColumn{{"Min", "s.min"}, {"Max", "s.max"}, {"AggregationTemporality", temporality}}
	views := []struct {
		metricType string
		columns    [][]ToolColumn
	}{
		{metricGauge, [][]ToolColumn{{{"Value", "s.value_double"}}, exemplars}},
		{metricSum, [][]ToolColumn{{{"Value", "s.value_double"}}, exemplars, {{"AggregationTemporality", temporality}, {"IsMonotonic", "s.is_monotonic"}}}},
		{metricHistogram, [][]ToolColumn{total, {{"BucketCounts", "s.bucket_counts"}, {"ExplicitBounds", "s.explicit_bounds"}}, exemplars, extremes}},
		{metricExpHistogram, [][]ToolColumn{total, {
			{"Scale", "s.scale"}, {"ZeroCount", "s.zero_count"}, {"PositiveOffset", "s.positive_offset"}, {"PositiveBucketCounts", "s.positive_bucket_counts"},
			{"NegativeOffset", "s.negative_offset"}, {"NegativeBucketCounts", "s.negative_bucket_counts"},
		}, exemplars, extremes}},
		{metricSummary, [][]ToolColumn{total, {{"ValueAtQuantiles.Quantile", "s.quantiles"}, {"ValueAtQuantiles.Value", "s.quantile_values"}}}},
	}
	var out []ToolView
	for _, v := range views {
		columns := append([]ToolColumn{}, shared...)
		for _, more := range v.columns {
			columns = append(columns, more...)
		}
		out = append(out, ToolView{
			Name: "otel_metrics_" + v.metricType, Source: t.Name, Doc: "data points of metrics of the type " + v.metricType, where: "s.metric_type = " + quoteText(v.metricType),
			Columns: append(columns, t.fastColumns()...),
		})
	}
	return out
}

// flat is the table without maps, lists and raw bytes: ids are hex, and all attributes one JSON object of texts.
func (t *Table) flat() ToolView {
	v := ToolView{Name: "bi_" + t.Name, Source: t.Name, Doc: "flat rows of " + t.Name}
	for _, c := range t.Columns {
		sql := "s." + quoteIdent(c.Name)
		switch {
		case c.Kind == Fixed16:
			sql = hexID(16, sql)
		case c.Kind == Fixed8:
			sql = hexID(8, sql)
		case c.Kind.IsMap(), c.Kind.IsList():
			continue
		}
		v.Columns = append(v.Columns, ToolColumn{c.Name, sql})
	}
	v.Columns = append(v.Columns, ToolColumn{"attributes", "toJSONString(" + t.attributes() + ")"})
	return v
}

// flat is the rollup with its parts put together and its states as numbers. ingest_date is no column: a bucket is one row, whatever days its events came on.
func (r Rollup) flat() ToolView {
	v := ToolView{Name: "bi_" + r.Name, Source: r.Name, Doc: fmt.Sprintf("finished rows of %s", r.Name)}
	var keys []string
	for _, c := range r.Columns {
		switch {
		case c.Key && c.Name == "ingest_date":
		case c.Key:
			keys = append(keys, "s."+quoteIdent(c.Name))
			v.Columns = append(v.Columns, ToolColumn{c.Name, "s." + quoteIdent(c.Name)})
		case c.flat != nil:
			v.Columns = append(v.Columns, c.flat...)
		default: // min and max keep the type of the state
			_, typ, _ := strings.Cut(strings.TrimSuffix(c.Type, ")"), ", ")
			v.Columns = append(v.Columns, ToolColumn{c.Name, "CAST(" + c.merge + " AS " + typ + ")"})
		}
	}
	v.group = strings.Join(keys, ", ")
	return v
}
