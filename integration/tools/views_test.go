package tools

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Guarantees: each column of each view of metrics holds what was sent.
func (s store) metrics(t *testing.T) {
	shared := []string{"ServiceName", "MetricName", "MetricDescription", "MetricUnit", "TimeUnix", "StartTimeUnix", "Attributes", "ResourceAttributes", "ScopeAttributes", "Flags", "TenantId", "ScopeDroppedAttrCount"}
	for kind, of := range map[string]struct {
		columns []string
		values  func(point) []any
	}{
		"gauge": {[]string{"Value", "Exemplars.Value"}, func(p point) []any { return []any{p.value, []any{}} }},
		"sum":   {[]string{"Value", "AggregationTemporality", "IsMonotonic"}, func(p point) []any { return []any{p.value, 1, true} }},
		"histogram": {[]string{"Count", "Sum", "BucketCounts", "ExplicitBounds", "Min", "Max", "AggregationTemporality", "Exemplars.TraceId", "Exemplars.SpanId", "Exemplars.Value", "Exemplars.TimeUnix", "Exemplars.FilteredAttributes"},
			func(p point) []any {
				return []any{p.count(), p.sum, []any{p.counts[0], p.counts[1], p.counts[2]}, []any{p.bounds[0], p.bounds[1]}, 1, 200, 2,
					[]any{hexOf(p.exemplar[:])}, []any{""}, []any{42.5}, []any{at(p.at)}, []any{map[string]any{"user": "u1"}}}
			}},
		"exponential_histogram": {[]string{"Count", "Sum", "Scale", "ZeroCount", "PositiveOffset", "PositiveBucketCounts", "NegativeOffset", "NegativeBucketCounts", "AggregationTemporality"},
			func(p point) []any {
				return []any{p.count(), p.sum, 3, 0, 5, []any{p.counts[0], p.counts[1]}, 0, []any{}, 1}
			}},
		"summary": {[]string{"Count", "Sum", "ValueAtQuantiles.Quantile", "ValueAtQuantiles.Value"}, func(p point) []any {
			return []any{p.count(), p.sum, []any{0.5, 0.99}, []any{p.quantiles[0], p.quantiles[1]}}
		}},
	} {
		t.Run(kind, func(t *testing.T) {
			a := answer{by: -1}
			for _, p := range s.in.points {
				if p.kind == kind && (kind != "gauge" || p.name == "queue.length.3") {
					a.rows = append(a.rows, append([]any{p.service, p.name, "of " + p.name, p.unit, at(p.at), at(p.at.Add(-20 * time.Second)), p.attributes.texts(), p.resource().texts(), map[string]any{}, 0, p.tenant, 0}, of.values(p)...))
				}
			}
			selected := slices.Concat(shared, of.columns)
			where := " WHERE MetricName = '" + a.rows[0][1].(string) + "'"
			a.check(t, s.ask(t, "SELECT `"+strings.Join(selected, "`, `")+"` FROM otel_metrics_"+kind+where))
			require.Len(t, s.ask(t, "SELECT count() FROM otel_metrics_"+kind+" HAVING count() = "+fmt.Sprint(len(slices.DeleteFunc(slices.Clone(s.in.points), func(p point) bool { return p.kind != kind })))), 1)
		})
	}
}

// Guarantees: no column of a flat view has a type that BI tools stumble over; rows and finished rollups say what was sent.
func (s store) flat(t *testing.T) {
	require.Empty(t, s.ask(t, `SELECT table, name, type FROM system.columns WHERE database = 'pulsegrid' AND startsWith(table, 'bi_') AND match(type, 'FixedString|Map|Array|Tuple|AggregateFunction|Int128')`))
	a := answer{by: -1}
	for _, sp := range s.in.inRange(func(sp span) bool { return sp.service == service }) {
		a.rows = append(a.rows, []any{sp.tenant, at(sp.start), hexOf(sp.trace[:]), hexOf(sp.parent[:]), sp.name, strings.ToLower(sp.kind), int(sp.duration), sp.attributes.texts()["amount"]})
	}
	for _, row := range a.rows {
		if row[7] == nil {
			row[7] = ""
		}
	}
	a.check(t, s.ask(t, expand("SELECT tenant_id, time, trace_id, parent_span_id, name, kind, duration_nano, JSONExtractString(attributes, 'amount') FROM bi_spans WHERE $__timeFilter(time) AND service_name = 'checkout'", s.in, choice{})))

	a = answer{by: -1}
	for minute, of := range grouped(s.in.inRange(func(sp span) bool { return sp.service == service && sp.kind == "Server" && sp.name == "POST /pay/0" }), func(sp span) time.Time { return sp.start.Truncate(time.Minute) }) {
		if minute.Before(s.in.to) {
			a.rows = append(a.rows, []any{at(minute), len(of), errors(of), int(longest(of))})
		}
	}
	q := expand("SELECT time, count, errors, duration_max FROM bi_spans_1m WHERE time >= $__fromTime AND time < $__toTime AND service_name = 'checkout' AND kind = 'server' AND name = 'POST /pay/0'", s.in, choice{})
	a.check(t, s.ask(t, q))
	for _, row := range s.ask(t, strings.Replace(q, "time, count, errors, duration_max", "duration_p50 <= duration_p95 AND duration_p95 <= duration_p99 AND duration_p99 <= duration_max * 1.01", 1)) {
		require.Equal(t, float64(1), row[0])
	}
	last := s.ask(t, "SELECT value_last FROM bi_metrics_1h WHERE metric_name = 'queue.length.5' AND service_name = 'cart'")
	require.Equal(t, [][]any{{float64((steps-1)*5) + 0.5}}, last)
	require.Equal(t, [][]any{{float64(lines)}}, s.ask(t, "SELECT sum(count) FROM bi_logs_10s"))
}

// Guarantees: through every view a time range, a service, a trace id and a metric's name leave granules out, and how many are left is bounded by what the table's order and indexes can do.
func (s store) pruning(t *testing.T) {
	for _, sig := range signal.All {
		for _, v := range columns.ForSignal(sig).ToolViews(false) {
			names := map[string]bool{}
			for _, c := range v.Columns {
				names[c.Name] = true
			}
			first := func(of ...string) string {
				return of[slices.IndexFunc(of, func(n string) bool { return names[n] })]
			}
			filters := map[string]string{}
			if v.Name == "otel_traces_trace_id_ts" {
				filters["trace"] = "TraceId = '" + s.in.trace + "'"
			} else {
				filters["time"] = "$__timeFilter(" + first("Timestamp", "TimeUnix", "time") + ")"
				filters["service"] = first("ServiceName", "service_name") + " = 'checkout'"
				if sig != signal.Metrics {
					filters["trace"] = first("TraceId", "trace_id") + " = '" + s.in.trace + "'"
				}
			}
			for name, where := range filters {
				t.Run(v.Name+"/"+name, func(t *testing.T) {
					q := expand("SELECT * FROM "+v.Name+" WHERE "+where, s.in, choice{})
					s.requirePruned(t, q)
					if name == "trace" {
						taken, of := s.granules(t, q)
						require.LessOrEqual(t, taken[0], 3, "of %d", of[0])
					}
				})
			}
		}
	}
}
