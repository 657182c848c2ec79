package tools

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// pairs is how the plugin makes a map an array of {key, value}.
func pairs(column string) string {
	return "arrayMap(key -> map('key', key, 'value', " + column + "[key]), mapKeys(" + column + "))"
}

// traceByID asks what the plugin's query builder asks of a trace in its OpenTelemetry mode: the same columns by the same expressions, with the table of the traces' times or without.
func traceByID(id string, times bool) string {
	with, where := "", "traceID = '"+id+"'"
	if times {
		const of = ` FROM "pulsegrid"."otel_traces_trace_id_ts" WHERE TraceId = wanted)`
		with = "WITH '" + id + "' as wanted, (SELECT min(Start)" + of + " as opened, (SELECT max(End) + 1" + of + " as closed "
		where = `traceID = wanted AND "Timestamp" >= opened AND "Timestamp" <= closed`
	}
	columns := []string{
		`"TraceId" as traceID`, `"SpanId" as spanID`, `"ParentSpanId" as parentSpanID`, `"ServiceName" as serviceName`, `"SpanName" as operationName`,
		`multiply(toUnixTimestamp64Nano("Timestamp"), 0.000001) as startTime`, `multiply("Duration", 0.000001) as duration`,
		pairs(`"SpanAttributes"`) + " as tags", pairs(`"ResourceAttributes"`) + " as serviceTags",
		`if("StatusCode" IN ('Error', 'STATUS_CODE_ERROR'), 2, 0) as statusCode`,
		"arrayMap((n, at, of) -> tuple(n, toString(toUnixTimestamp64Milli(at)), " + pairs("of") +
			`)::Tuple(name String, timestamp String, fields Array(Map(String, String))), "Events".Name, "Events".Timestamp, "Events".Attributes) AS logs`,
		"arrayMap((id, span, of) -> tuple(id, span, " + pairs("of") +
			`)::Tuple(traceID String, spanID String, tags Array(Map(String, String))), "Links".TraceId, "Links".SpanId, "Links".Attributes) AS references`,
		`"SpanKind" as kind`, `"StatusMessage" as statusMessage`, `"TraceState" as traceState`,
	}
	return with + "SELECT " + strings.Join(columns, ", ") + ` FROM "pulsegrid"."otel_traces" WHERE ` + where
}

// keyed makes an array of {key, value} a map again: the order of keys of different types is not kept.
func keyed(t *testing.T, list any) map[string]any {
	t.Helper()
	out := map[string]any{}
	for _, pair := range list.([]any) {
		p := pair.(map[string]any)
		require.NotContains(t, out, p["key"], "a key twice")
		out[p["key"].(string)] = p["value"]
	}
	return out
}

// Scenario: a trace is opened by its id, with the table of times and without.
// Guarantees: all of its spans, with attributes of every type, events and links, as they were sent; of the spans' granules those alone that may hold the trace are read, and of the
// table of times one.
func (s store) traceView(t *testing.T) {
	for _, times := range []bool{false, true} {
		got := s.ask(t, traceByID(s.in.trace, times))
		require.Len(t, got, 4)
		for _, sent := range s.in.spans {
			if hexOf(sent.trace[:]) != s.in.trace {
				continue
			}
			at := slices.IndexFunc(got, func(row []any) bool { return row[1] == hexOf(sent.id[:]) })
			require.GreaterOrEqual(t, at, 0, "span %s is missing", sent.name)
			row, code := got[at], 0
			if sent.status == "Error" {
				code = 2
			}
			for i, want := range map[int]any{0: s.in.trace, 2: hexOf(sent.parent[:]), 3: sent.service, 4: sent.name, 5: float64(sent.start.UnixNano()) / 1e6, 6: float64(sent.duration) / 1e6, 9: code,
				12: sent.kind, 13: sent.message, 14: ""} {
				require.True(t, same(want, row[i]), "%s, column %d: want %v, got %v", sent.name, i, want, row[i])
			}
			require.True(t, same(sent.attributes.texts(), keyed(t, row[7])), "want %v, got %v", sent.attributes, row[7])
			require.True(t, same(sent.resource().texts(), keyed(t, row[8])), "want %v, got %v", sent.resource(), row[8])
			events, links := row[10].([]any), row[11].([]any)
			require.Len(t, events, len(sent.events))
			for i, e := range sent.events {
				have := events[i].(map[string]any)
				require.Equal(t, e.name, have["name"])
				require.Equal(t, fmt.Sprint(e.at.UnixMilli()), have["timestamp"])
				require.True(t, same(e.attributes.texts(), keyed(t, have["fields"])), "%v", have)
			}
			require.Len(t, links, len(sent.links))
			for i, l := range sent.links {
				have := links[i].(map[string]any)
				require.Equal(t, []any{hexOf(l.trace[:]), hexOf(l.span[:])}, []any{have["traceID"], have["spanID"]})
				require.True(t, same(l.attributes.texts(), keyed(t, have["tags"])), "%v", have)
			}
		}
		taken, _ := s.granules(t, traceByID(s.in.trace, times))
		require.LessOrEqual(t, taken[len(taken)-1], 3, "spans of two services, each of which lies in one granule or astride two")
	}
	require.Empty(t, s.ask(t, traceByID(strings.Repeat("f", 32), true)))
}

// Scenario: what Explore and the query builder send: a search for traces, log lines with their volume and context, and the values that filters offer.
// Guarantees: they run on the views and return what was sent.
func (s store) queryBuilder(t *testing.T) {
	const inRange = `"Timestamp" >= $__fromTime AND "Timestamp" <= $__toTime`
	ask := func(sql string) [][]any { return s.ask(t, expand(sql, s.in, choice{})) }

	t.Run("trace search", func(t *testing.T) {
		a := answer{by: 3, desc: true, limit: 1000}
		for _, sp := range s.in.inRange(func(sp span) bool { return sp.parent == [8]byte{} && sp.duration > 0 }) {
			a.rows = append(a.rows, []any{hexOf(sp.trace[:]), sp.service, sp.name, at(sp.start), float64(sp.duration) / 1e6})
		}
		a.check(t, ask(`SELECT "TraceId" as traceID, "ServiceName" as serviceName, "SpanName" as operationName, "Timestamp" as startTime, multiply("Duration", 0.000001) as duration
			FROM "pulsegrid"."otel_traces" WHERE ( Timestamp >= $__fromTime AND Timestamp <= $__toTime ) AND ( ParentSpanId = '' ) AND ( Duration > 0 ) ORDER BY Timestamp DESC, Duration DESC LIMIT 1000`))
	})
	const lines = `SELECT "Timestamp" as "timestamp", "Body" as "body", "SeverityText" as "level", "TraceId" as "traceID", "ResourceAttributes", "ScopeAttributes", "LogAttributes" FROM "pulsegrid"."otel_logs" WHERE `
	line := func(r record) []any {
		return []any{at(r.at), r.body, r.level(), hexOf(r.trace[:]), r.resource().texts(), map[string]any{}, r.attributes.texts()}
	}
	t.Run("log lines", func(t *testing.T) {
		a := answer{desc: true, limit: 1000}
		for _, r := range s.in.linesInRange(func(r record) bool { return r.level() == "ERROR" && strings.Contains(r.body, "declined") }) {
			a.rows = append(a.rows, line(r))
		}
		a.check(t, ask(lines+`( timestamp >= $__fromTime AND timestamp <= $__toTime ) AND ( level = 'ERROR' ) AND (body LIKE '%declined%') ORDER BY timestamp DESC LIMIT 1000`))
	})
	t.Run("filter by an attribute", func(t *testing.T) {
		a := answer{desc: true, limit: 100}
		for _, r := range s.in.linesInRange(func(r record) bool { return r.attributes.texts()["attempt"] == "2" && r.service == service }) {
			a.rows = append(a.rows, line(r))
		}
		a.check(t, ask(lines+inRange+` AND ( LogAttributes['attempt'] = '2' ) AND ( ResourceAttributes['service.name'] = 'checkout' ) ORDER BY timestamp DESC LIMIT 100`))
	})
	t.Run("log volume", func(t *testing.T) {
		words := map[string]string{"critical": "FATAL", "error": "ERROR", "warn": "WARN", "info": "INFO", "debug": "DEBUG"}
		order, sums := slices.Sorted(maps.Keys(words)), []string{}
		for _, name := range order {
			w := words[name]
			sums = append(sums, fmt.Sprintf(`sum(multiSearchAny(toString("SeverityText"), ['%s', '%s', '%s'])) as %s`, strings.ToLower(w), w, w[:1]+strings.ToLower(w[1:]), name))
		}
		a := answer{}
		for minute, of := range grouped(s.in.linesInRange(func(record) bool { return true }), func(r record) time.Time { return r.at.Truncate(time.Minute) }) {
			row := []any{at(minute)}
			for _, name := range order {
				row = append(row, len(slices.DeleteFunc(slices.Clone(of), func(r record) bool { return !strings.EqualFold(r.level(), words[name]) })))
			}
			a.rows = append(a.rows, row)
		}
		a.check(t, ask(`SELECT toStartOfInterval("Timestamp", INTERVAL 1 MINUTE) as "time", `+strings.Join(sums, ", ")+` FROM "pulsegrid"."otel_logs" WHERE ( `+inRange+` ) GROUP BY time ORDER BY time ASC`))
	})
	t.Run("log context", func(t *testing.T) {
		around := s.in.linesInRange(func(r record) bool { return r.service == service })[50]
		a := answer{desc: true, limit: 10}
		for _, r := range s.in.logs {
			if r.service == service && !r.at.After(around.at) {
				a.rows = append(a.rows, line(r))
			}
		}
		a.check(t, ask(lines+fmt.Sprintf(`( timestamp <= fromUnixTimestamp64Nano(%d) ) AND ( ServiceName = 'checkout' ) AND ( ResourceAttributes['k8s.pod.name'] = 'checkout-0' ) ORDER BY timestamp DESC LIMIT 10`,
			around.at.UnixNano())))
	})
	t.Run("what filters offer", func(t *testing.T) {
		texts := func(rows [][]any) (out []string) {
			for _, r := range rows {
				out = append(out, r[0].(string))
			}
			return out
		}
		require.ElementsMatch(t, []string{"attempt", "http.route", "cached", "ratio"},
			texts(ask(`SELECT DISTINCT arrayJoin(mapKeys("LogAttributes")) as keys FROM "pulsegrid"."otel_logs" WHERE "Timestamp" >= now() - INTERVAL 6 HOUR LIMIT 1000`)))
		require.ElementsMatch(t, []string{"http.request.method", "http.response.status_code", "shop.sale", "retries", "http.route", "amount", "http.status_code", "tags"},
			texts(ask(`SELECT DISTINCT arrayJoin(mapKeys("SpanAttributes")) as keys FROM (SELECT "SpanAttributes" FROM "pulsegrid"."otel_traces" LIMIT 100000) LIMIT 1000`)))
		require.ElementsMatch(t, []string{"checkout-0", "cart-0", "mail-0", "billing-0", "ledger-0"},
			texts(ask(`SELECT DISTINCT "ResourceAttributes"['k8s.pod.name'] FROM "pulsegrid"."otel_logs" WHERE mapContains("ResourceAttributes", 'k8s.pod.name') LIMIT 1000`)))
		require.ElementsMatch(t, []string{"Server", "Client", "Internal", "Producer", "Consumer"}, texts(ask(`SELECT DISTINCT "SpanKind" FROM "pulsegrid"."otel_traces" WHERE "SpanKind" IS NOT NULL LIMIT 1000`)))
		for table, wanted := range map[string][]string{"otel_logs": {"Timestamp", "Body"}, "otel_traces_trace_id_ts": {"TraceId", "Start", "End"}} {
			have := texts(ask(`SELECT name FROM system.columns WHERE database = 'pulsegrid' AND table = '` + table + `'`))
			require.Subset(t, have, wanted, "by these columns the plugin knows the table")
			require.NotContains(t, have, "TimestampTime", "of an older schema of logs")
		}
	})
}

// Scenario: what ClickStack sends: a search for a word, and charts of metrics, which it computes from points of a series.
// Guarantees: they run on the views and return what was sent; the word's search leaves granules out.
func (s store) clickStack(t *testing.T) {
	between := fmt.Sprintf("%%[1]s >= fromUnixTimestamp64Milli(%d) AND %%[1]s <= fromUnixTimestamp64Milli(%d)", s.in.from.UnixMilli(), s.in.to.UnixMilli())
	t.Run("word", func(t *testing.T) {
		a := answer{desc: true}
		for _, r := range s.in.linesInRange(func(r record) bool { return strings.Contains(r.body, "Zebra") }) {
			a.rows = append(a.rows, []any{at(r.at), r.service, r.level(), r.body})
		}
		q := "SELECT Timestamp, ServiceName, SeverityText, Body FROM otel_logs WHERE (" + fmt.Sprintf(between, "Timestamp") + ") AND ((hasToken(lower(Body), lower('zebra')))) ORDER BY Timestamp DESC LIMIT 200"
		a.check(t, s.ask(t, q))
		taken, _ := s.granules(t, q)
		require.Equal(t, []int{1}, taken, "one line has the word")
	})
	of := func(name string) (out []point) {
		for _, p := range s.in.points {
			if p.name == name && s.in.holds(p.at) {
				out = append(out, p)
			}
		}
		return out
	}
	t.Run("gauge", func(t *testing.T) {
		a := answer{by: -1}
		for name, ps := range grouped(of("queue.length.7"), func(p point) string { return p.service }) {
			a.rows = append(a.rows, []any{name, ps[len(ps)-1].value})
		}
		a.check(t, s.ask(t, "SELECT service, avg(last) FROM (SELECT any(ServiceName) AS service, cityHash64(ScopeAttributes, ResourceAttributes, Attributes) AS AttributesHash, argMax(Value, TimeUnix) AS last"+
			" FROM otel_metrics_gauge WHERE "+fmt.Sprintf(between, "TimeUnix")+" AND MetricName = 'queue.length.7' GROUP BY AttributesHash) GROUP BY service"))
	})
	t.Run("sum", func(t *testing.T) {
		a := answer{by: -1}
		for minute, ps := range grouped(of("requests"), func(p point) time.Time { return p.at.Truncate(time.Minute) }) {
			sum := 0.0
			for _, p := range ps {
				sum += p.value
			}
			a.rows = append(a.rows, []any{at(minute), sum})
		}
		a.check(t, s.ask(t, "SELECT toStartOfInterval(toDateTime(TimeUnix), INTERVAL 1 minute) AS t, sumIf(Value, AggregationTemporality = 1 AND IsMonotonic) FROM otel_metrics_sum WHERE "+
			fmt.Sprintf(between, "TimeUnix")+" AND MetricName = 'requests' GROUP BY t"))
	})
	t.Run("histogram", func(t *testing.T) { // cumulative: what each point adds to the one before, of its series
		a := answer{by: -1}
		for name, ps := range grouped(of("latency"), func(p point) string { return p.service }) {
			a.rows = append(a.rows, []any{name, int(ps[len(ps)-1].count() - ps[0].count())})
		}
		a.check(t, s.ask(t, "WITH source AS (SELECT ServiceName, AggregationTemporality, toInt64(Count) AS now, lagInFrame(toNullable(now), 1, NULL) OVER (PARTITION BY cityHash64(ScopeAttributes, ResourceAttributes, Attributes),"+
			" cityHash64(ExplicitBounds) ORDER BY TimeUnix) AS before FROM otel_metrics_histogram WHERE "+fmt.Sprintf(between, "TimeUnix")+" AND MetricName = 'latency')"+
			" SELECT ServiceName, sum(multiIf(AggregationTemporality = 1, now, AggregationTemporality = 2 AND before IS NOT NULL, if(now < before, now, now - before), 0)) FROM source GROUP BY ServiceName"))
	})
}
