package tools

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// choice is what the user has chosen in a dashboard's variables. Empty: All, or nothing typed.
type choice struct {
	services, levels, operations, statuses []string
	search                                 string
	minDuration                            string // milliseconds
}

func (c choice) lists() map[string][]string {
	return map[string][]string{"service": c.services, "level_filter": c.levels, "operation": c.operations, "status": c.statuses}
}

func (c choice) texts() map[string]string {
	return map[string]string{"search": c.search, "min_duration": c.minDuration}
}

// chosen tells whether a filter lets v through.
func chosen(of []string, v string) bool { return len(of) == 0 || slices.Contains(of, v) }

func (c choice) finds(text string) bool {
	return strings.Contains(strings.ToLower(text), strings.ToLower(c.search))
}

// interval of the panels, as Grafana computes it from their width.
const interval = 30 * time.Second

// service of the dashboards that show one.
const service = "checkout"

// expand does to a statement what Grafana and its ClickHouse plugin do before they send it: the macros of pkg/macros and the variables, in that order or any other.
func expand(sql string, in *input, c choice) string {
	sql = conditions(sql, c)
	for name, values := range c.lists() {
		quoted := "'" + strings.Join(values, "', '") + "'"
		if len(values) == 0 {
			quoted = "'" + strings.Join(allServices(), "', '") + "'" // no other variable is used outside of a condition
		}
		sql = strings.ReplaceAll(sql, "${"+name+":singlequote}", quoted)
		sql = strings.ReplaceAll(sql, "($"+name+")", "("+quoted+")")
	}
	sql = strings.ReplaceAll(sql, "${service}", service)
	for name, text := range c.texts() {
		sql = strings.ReplaceAll(sql, "$"+name, text)
	}
	from, to := fmt.Sprintf("toDateTime(%d)", in.from.Unix()), fmt.Sprintf("toDateTime(%d)", in.to.Unix())
	seconds := fmt.Sprint(int(interval.Seconds()))
	for _, macro := range []struct{ pattern, with string }{
		{`\$__timeFilter\(([^)]*)\)`, "$1 >= " + from + " AND $1 <= " + to},
		{`\$__timeInterval\(([^)]*)\)`, "toStartOfInterval(toDateTime($1), INTERVAL " + seconds + " second)"},
		{`\$__interval_s\b`, seconds},
		{`\$__fromTime\b`, from},
		{`\$__toTime\b`, to},
	} {
		sql = regexp.MustCompile(macro.pattern).ReplaceAllString(sql, macro.with)
	}
	return sql
}

// conditions expands $__conditionalAll(PHRASE, $VARIABLE): the phrase, or 1=1 where the variable says All or nothing.
func conditions(sql string, c choice) string {
	const macro = "$__conditionalAll("
	for {
		at := strings.LastIndex(sql, macro)
		if at < 0 {
			return sql
		}
		depth, comma, end, quoted := 1, 0, 0, false
		for i := at + len(macro); end == 0; i++ {
			switch b := sql[i]; {
			case b == '\'':
				quoted = !quoted
			case quoted:
			case b == '(':
				depth++
			case b == ')':
				if depth--; depth == 0 {
					end = i
				}
			case b == ',' && depth == 1:
				comma = i
			}
		}
		phrase, variable := sql[at+len(macro):comma], strings.TrimPrefix(strings.TrimSpace(sql[comma+1:end]), "$")
		if len(c.lists()[variable]) == 0 && c.texts()[variable] == "" {
			phrase = "1=1"
		}
		sql = sql[:at] + phrase + sql[end+1:]
	}
}

// statement is a question that a tool asks.
type statement struct {
	name string // of the panel: the plugin's dashboard, title of the panel, refId
	more []string
	sql  string // asks the same in our words
	want func(in *input, c choice) answer
}

// Filters of the dashboards, as our statements write them.
const (
	ofOne    = "$__timeFilter(Timestamp) AND ServiceName = '${service}'"
	ofMany   = "$__timeFilter(Timestamp) AND ServiceName IN (${service:singlequote}) AND $__conditionalAll(positionCaseInsensitive(SpanName, '$search') > 0, $search)"
	isError  = "StatusCode IN ('Error', 'STATUS_CODE_ERROR')"
	bucket   = "toStartOfInterval(Timestamp, INTERVAL $__interval_s second)"
	ofLines  = "$__timeFilter(Timestamp) AND $__conditionalAll(ServiceName IN ($service), $service) AND $__conditionalAll(positionCaseInsensitive(Body, '$search') > 0, $search)"
	ofLevels = " AND $__conditionalAll(SeverityText IN ($level_filter), $level_filter)"
	deployed = `WITH versions AS (SELECT toStartOfInterval(Timestamp, INTERVAL 30 second) AS at, ServiceName AS name, topK(1)(ResourceAttributes['service.version'])[1] AS version
		FROM otel_traces WHERE $__timeFilter(Timestamp) AND %s AND ResourceAttributes['service.version'] != '' GROUP BY at, name)
		SELECT at, name, name || ' deployed ' || version || ' (was ' || before || ')', 'Deployment'
		FROM (SELECT *, lagInFrame(version) OVER (PARTITION BY name ORDER BY at) AS before FROM versions) WHERE before != '' AND before != version ORDER BY at`
)

// statements are those of the plugin's three OpenTelemetry dashboards: variables, annotations, panels. The queries are ours; what they ask, and their answers' columns, is the
// plugin's (grafana/clickhouse-datasource 4.20.0). -plugin runs its own queries in their place.
func statements() []statement {
	out := append(logsExplorer(), tracesExplorer()...)
	out = append(out, serviceDashboard()...)
	return out
}

func logsExplorer() []statement {
	const d = "otel-logs-explorer/"
	return []statement{
		{name: d + "variable/service", want: topServicesOfLogs,
			sql: "SELECT ServiceName FROM otel_logs WHERE $__timeFilter(Timestamp) GROUP BY 1 ORDER BY count() DESC LIMIT 10"},
		{name: d + "variable/level_filter", want: levels, sql: "SELECT SeverityText FROM otel_logs WHERE $__timeFilter(Timestamp) GROUP BY 1 ORDER BY 1"},
		{name: d + "Log Volume by Level/A", want: logVolume(false),
			sql: "SELECT " + bucket + " AS at, SeverityText, count() FROM otel_logs WHERE " + ofLines + ofLevels + " GROUP BY at, SeverityText ORDER BY at"},
		{name: d + "Services/A", want: logsByService, sql: "SELECT ServiceName, count() AS n FROM otel_logs WHERE " + ofLines + ofLevels + " GROUP BY ServiceName ORDER BY n DESC LIMIT 15"},
		{name: d + "Level Distribution/A", want: logsByLevel, sql: "SELECT SeverityText, count() AS n FROM otel_logs WHERE " + ofLines + " GROUP BY 1 ORDER BY n DESC"},
		{name: d + "Top Error Messages/A", want: topErrorMessages,
			sql: "SELECT SeverityText, ServiceName, replaceRegexpAll(Body, '(userId|orderId|cartId)=[a-zA-Z0-9-]+', '\\\\1=…') AS text, count() AS n FROM otel_logs WHERE " + ofLines +
				" AND SeverityText IN ('ERROR', 'WARN', 'FATAL', 'Error', 'Warning', 'error', 'warning', 'fatal', 'CRITICAL') GROUP BY ALL ORDER BY n DESC LIMIT 20"},
		{name: d + "Log Volume: $service/A", want: logVolume(true),
			sql: "SELECT " + bucket + " AS at, SeverityText, count() FROM otel_logs WHERE " + ofOne + ofLevels +
				" AND $__conditionalAll(positionCaseInsensitive(Body, '$search') > 0, $search) GROUP BY at, SeverityText ORDER BY at"},
		{name: d + "Log Samples: $service/A", want: logSamples(true),
			sql: "SELECT Timestamp, Body, SeverityText, ServiceName, TraceId, SpanId, ResourceAttributes['service.namespace'], ResourceAttributes['k8s.pod.name'] FROM otel_logs WHERE " + ofOne + ofLevels +
				" AND $__conditionalAll(positionCaseInsensitive(Body, '$search') > 0, $search) ORDER BY Timestamp DESC LIMIT 200"},
		{name: d + "annotation/Deployments (service.version, requires traces)", more: []string{"otel-traces-explorer/annotation/Deployments (service.version)"}, want: deployments(false),
			sql: fmt.Sprintf(deployed, "$__conditionalAll(ServiceName IN ($service), $service)")},
	}
}

func tracesExplorer() []statement {
	const d = "otel-traces-explorer/"
	return []statement{
		{name: d + "variable/service", want: topServicesOfSpans,
			sql: "SELECT ServiceName FROM otel_traces WHERE $__timeFilter(Timestamp) GROUP BY 1 ORDER BY count() DESC LIMIT 10"},
		{name: d + "variable/operation", want: operations(func(c choice, s span) bool { return chosen(c.services, s.service) }),
			sql: "SELECT SpanName FROM otel_traces WHERE $__timeFilter(Timestamp) AND $__conditionalAll(ServiceName IN ($service), $service) GROUP BY 1 ORDER BY 1 LIMIT 200"},
		{name: d + "variable/status", want: statuses, sql: "SELECT StatusCode FROM otel_traces WHERE $__timeFilter(Timestamp) GROUP BY 1 ORDER BY 1"},
		{name: d + "Service Map/nodes", want: nodes,
			sql: "SELECT ServiceName, ServiceName, count() || ' spans', round(avg(Duration) / 1e6, 1) || ' ms avg', 1 - countIf(" + isError + ") / count(), countIf(" + isError + ") / count()" +
				" FROM otel_traces WHERE $__timeFilter(Timestamp) GROUP BY ServiceName ORDER BY count() DESC LIMIT 30"},
		{name: d + "Service Map/edges", want: edges,
			sql: `SELECT caller.ServiceName || '-' || callee.ServiceName, caller.ServiceName AS source, callee.ServiceName AS target, count() || ' calls'
				FROM otel_traces AS callee JOIN otel_traces AS caller ON callee.TraceId = caller.TraceId AND callee.ParentSpanId = caller.SpanId
				WHERE $__timeFilter(callee.Timestamp) AND $__timeFilter(caller.Timestamp) AND source != target GROUP BY source, target ORDER BY count() DESC LIMIT 50`},
		{name: d + "Trace Search Results/A", want: foundTraces,
			sql: "SELECT TraceId, any(ServiceName), any(SpanName), min(Timestamp) AS at, max(Duration) AS Duration, count(), anyIf(StatusCode, " + isError + ") FROM otel_traces" +
				" WHERE $__timeFilter(Timestamp) AND $__conditionalAll(ServiceName IN ($service), $service) AND $__conditionalAll(SpanName IN ($operation), $operation)" +
				" AND $__conditionalAll(StatusCode IN ($status), $status) AND $__conditionalAll(positionCaseInsensitive(SpanName, '$search') > 0, $search)" +
				" GROUP BY TraceId HAVING $__conditionalAll(max(Duration) >= 1000000 * toUInt64($min_duration), $min_duration) ORDER BY at DESC LIMIT 200"},
		{name: d + "Duration Distribution/A", want: heatMap,
			sql: "SELECT " + bucket + " AS at, Duration / 1e6 FROM otel_traces WHERE " + ofMany + " AND cityHash64(SpanId) % 500 = 0 ORDER BY at"},
		{name: d + "/A", want: perBucket(func(of []span) any { return len(of) }), sql: "SELECT " + bucket + " AS at, count() FROM otel_traces WHERE " + ofMany + " GROUP BY at ORDER BY at"},
		{name: d + "/A#2", want: perBucket(func(of []span) any { return errors(of) }), sql: "SELECT " + bucket + " AS at, countIf(" + isError + ") FROM otel_traces WHERE " + ofMany + " GROUP BY at ORDER BY at"},
		{name: d + "/A#3", want: perBucket(func(of []span) any { return quantile(0.99, of) / 1e6 }),
			sql: "SELECT " + bucket + " AS at, quantile(0.99)(Duration) / 1e6 FROM otel_traces WHERE " + ofMany + " GROUP BY at ORDER BY at"},
		{name: d + "/A#4", want: perBucket(func(of []span) any { return average(of) / 1e6 }),
			sql: "SELECT " + bucket + " AS at, avg(Duration) / 1e6 FROM otel_traces WHERE " + ofMany + " GROUP BY at ORDER BY at"},
		{name: d + "Top Operations/A", want: topOperations,
			sql: "SELECT SpanName, count() AS n, countIf(" + isError + "), round(100 * countIf(" + isError + ") / count(), 2), quantile(0.5)(Duration), quantile(0.99)(Duration)," +
				" anyIf(if(StatusMessage = '', SpanAttributes['http.status_code'], StatusMessage), " + isError + ") FROM otel_traces WHERE " + ofMany + " GROUP BY SpanName ORDER BY n DESC LIMIT 15"},
	}
}

// serviceDashboard asks the same four questions of each kind of span.
func serviceDashboard() []statement {
	const d = "otel-service-dashboard/"
	out := []statement{
		{name: d + "variable/service", want: allServicesOfSpans, sql: "SELECT ServiceName FROM otel_traces WHERE $__timeFilter(Timestamp) GROUP BY 1 ORDER BY 1"},
		{name: d + "variable/operation", want: operations(func(_ choice, s span) bool { return s.service == service }),
			sql: "SELECT SpanName FROM otel_traces WHERE " + ofOne + " GROUP BY 1 ORDER BY 1"},
		{name: d + "Top Errors/A", want: topErrors,
			sql: "SELECT SpanName, SpanKind, StatusMessage, count() AS n, max(Timestamp) FROM otel_traces WHERE " + ofOne + " AND " + isError +
				" AND $__conditionalAll(positionCaseInsensitive(SpanName, '$search') > 0, $search) GROUP BY 1, 2, 3 ORDER BY n DESC LIMIT 20"},
		{name: d + "Logs for ${service}/A", want: logSamples(false),
			sql: "SELECT Timestamp, Body, SeverityText, ServiceName, TraceId, SpanId FROM otel_logs WHERE " + ofOne +
				" AND $__conditionalAll(positionCaseInsensitive(Body, '$search') > 0, $search) ORDER BY Timestamp DESC LIMIT 200"},
		{name: d + "annotation/Deployments (service.version)", want: deployments(true), sql: fmt.Sprintf(deployed, "ServiceName = '${service}'")},
	}
	const names = " AND $__conditionalAll(SpanName IN ($operation), $operation) AND $__conditionalAll(positionCaseInsensitive(SpanName, '$search') > 0, $search)"
	for _, k := range []struct {
		title, rate, slowest string
		kinds                []string
	}{
		{"Server", "Request", "Server Operations", []string{"Server"}}, {"Client", "Request", "Client Operations", []string{"Client"}},
		{"Internal", "Request", "Internal Operations", []string{"Internal"}}, {"Async", "Message", "Async Operations", []string{"Producer", "Consumer"}},
	} {
		where := "otel_traces WHERE " + ofOne + " AND SpanKind IN ('" + strings.Join(k.kinds, "', '") + "')" + names
		key, group := "SpanName", "1"
		if len(k.kinds) > 1 {
			key, group = "SpanName, SpanKind", "1, 2"
		}
		out = append(out,
			statement{name: d + k.rate + " Rate (" + k.title + ")/A", want: ofKinds(k.kinds, func(of []span) []any { return []any{float64(len(of)) / interval.Seconds()} }),
				sql: "SELECT " + bucket + " AS at, count() / $__interval_s FROM " + where + " GROUP BY at ORDER BY at"},
			statement{name: d + "Error Rate (" + k.title + ")/A", want: ofKinds(k.kinds, func(of []span) []any { return []any{float64(errors(of)) / float64(len(of))} }),
				sql: "SELECT " + bucket + " AS at, countIf(" + isError + ") / count() FROM " + where + " GROUP BY at ORDER BY at"},
			statement{name: d + "Duration Percentiles (" + k.title + ")/A", want: ofKinds(k.kinds, func(of []span) []any { return []any{quantile(0.5, of), quantile(0.9, of), quantile(0.99, of)} }),
				sql: "SELECT " + bucket + " AS at, quantile(0.5)(Duration), quantile(0.9)(Duration), quantile(0.99)(Duration) FROM " + where + " GROUP BY at ORDER BY at"},
			statement{name: d + "Slowest " + k.slowest + "/A", want: slowest(k.kinds),
				sql: "SELECT " + key + ", count(), quantile(0.5)(Duration), quantile(0.99)(Duration) AS p99 FROM " + where + " GROUP BY " + group + " ORDER BY p99 DESC LIMIT 20"})
	}
	return out
}
