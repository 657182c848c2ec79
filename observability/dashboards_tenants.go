package observability

import "github.com/grafana/grafana-foundation-sdk/go/units"

// tenantNames are those that sent something since yesterday.
var tenantNames = Variable{Name: "tenant", Label: "Tenant", Query: Query{SQL: bounded(`
		SELECT DISTINCT tenant_id
		FROM (
			SELECT tenant_id FROM pulsegrid.logs_1h WHERE ingest_date >= today() - 1
			UNION DISTINCT SELECT tenant_id FROM pulsegrid.metrics_1h WHERE ingest_date >= today() - 1
			UNION DISTINCT SELECT tenant_id FROM pulsegrid.spans_1h WHERE ingest_date >= today() - 1
		)
		ORDER BY tenant_id LIMIT 1000`)}}

const (
	// chosen are the rows of a rollup. The first condition leaves days out that are before the time, of which ClickHouse then reads nothing.
	chosen = "ingest_date >= toDate($__fromTime, 'UTC') AND $__timeFilter(time) AND $__conditionalAll(tenant_id IN ($tenant), $tenant)"
	// events by tenant, service, signal and minute. A rollup's row is a part of a bucket, so all of them are added up.
	events = `(
			SELECT tenant_id, service_name, time AS minute, 'logs' AS signal, count AS n, if(severity IN ('error', 'fatal'), count, 0) AS bad FROM pulsegrid.logs_1m WHERE ` + chosen + `
			UNION ALL SELECT tenant_id, service_name, time, 'metrics', points, 0 FROM pulsegrid.metrics_1m WHERE ` + chosen + `
			UNION ALL SELECT tenant_id, service_name, time, 'traces', count, errors FROM pulsegrid.spans_1m WHERE ` + chosen + `
		)`
	// chosenItems are the rows of a table of quarantine. They are stored by the day of receipt, which is before the time in quarantine.
	chosenItems = "ingest_time >= $__fromTime - INTERVAL 1 DAY AND $__timeFilter(time) AND $__conditionalAll(tenant_id IN ($tenant), $tenant)"
)

// tenants is who sends what: by class out of the gateways' metrics, by tenant out of the rollups.
func (b *boards) tenants() Dashboard {
	const of = `cell=~"$cell"`
	return Dashboard{
		Name: "tenants", Title: "PulseGrid / Tenants", Says: "Who sends what, who has fallen silent, who is over quota, and whose services fail?", Variables: []Variable{cells, tenantNames},
		Rows: []Row{
			{"Classes of tenants, at the gateways", []Panel{
				{
					Title: "Events by class", As: Lines, Unit: units.CountsPerSecond, Alerts: []string{"TenantSilent"},
					Says:    "A class that falls to zero has fallen silent, or all of its requests are refused.",
					Queries: lines(`sum by (class) (rate(otelcol_tenant_routing_events{`+of+`}[$__rate_interval]))`, "{{class}}"),
				},
				{
					Title: "Requests over quota and burst", As: Lines, Unit: units.PercentUnit, Limits: b.limits("TenantOverQuota"), Alerts: []string{"TenantOverQuota"},
					Says: "A class above the line has a tenant that sends more than it may, and is told to come again.",
					Queries: lines(`sum by (class) (rate(otelcol_tenant_routing_requests{decision="throttled",`+of+`}[$__rate_interval]))`+
						` / sum by (class) (rate(otelcol_tenant_routing_requests{`+of+`}[$__rate_interval]))`, "{{class}}"),
				},
				{
					Title: "Requests that do not go the fast lane", As: Lines, Unit: units.RequestsPerSecond, Alerts: []string{"TenantOverQuota"},
					Says:    "throttled and denied are refused; overflow waits behind all others.",
					Queries: lines(`sum by (decision) (rate(otelcol_tenant_routing_requests{decision!="fast",`+of+`}[$__rate_interval]))`, "{{decision}}"),
				},
				{
					Title: "Wait that throttled senders are told, P99", As: Lines, Unit: units.Seconds, Alerts: []string{"TenantOverQuota"},
					Says:    "Minutes mean that a tenant sends many times what it may.",
					Queries: lines(quantile(0.99, "class, ", "otelcol_tenant_routing_retry_after", of), "{{class}}"),
				},
			}},
			{"Tenants, by the rows that are stored", []Panel{
				{
					Title: "Events by tenant", As: Lines, Unit: units.CountsPerSecond, Alerts: []string{"TenantSilent", "TenantOverQuota"},
					Says: "The 20 that sent most in each interval, by the events' own time; a line that ends is a tenant that fell silent or behind.",
					Queries: sql(`
		SELECT $__timeInterval(minute) AS time, tenant_id AS tenant, sum(n) / $__interval_s AS per_second
		FROM ` + events + `
		GROUP BY time, tenant ORDER BY time, per_second DESC LIMIT 20 BY time`),
				},
				{
					Title: "Time since the newest event", As: Table, Unit: units.Short, Alerts: []string{"TenantSilent", "FreshnessClickHouseP99Burn"},
					Units: map[string]string{"behind": units.Seconds, "error_share": units.PercentUnit},
					Says:  "The longest silent come first; where all tenants are behind alike, the store is.",
					Queries: sql(`
		SELECT tenant_id AS tenant, signal, max(minute) AS newest, greatest(0, dateDiff('second', max(minute), now())) AS behind, sum(n) AS events, sum(bad) / sum(n) AS error_share
		FROM ` + events + `
		GROUP BY tenant, signal ORDER BY behind DESC, events DESC LIMIT 200`),
				},
				{
					Title: "Services", As: Table, Unit: units.Short, Page: "docs/formats/rollups.md", Units: map[string]string{"span_error_share": units.PercentUnit},
					Says: "A service with many errors sends what its owner should know; one with most of a tenant's events is what uses up its quota.",
					Queries: sql(`
		SELECT tenant_id AS tenant, service_name AS service, sumIf(n, signal = 'logs') AS logs, sumIf(n, signal = 'metrics') AS metric_points, sumIf(n, signal = 'traces') AS spans,
			sumIf(bad, signal = 'logs') AS error_logs, if(spans = 0, 0, sumIf(bad, signal = 'traces') / spans) AS span_error_share
		FROM ` + events + `
		GROUP BY tenant, service ORDER BY logs + metric_points + spans DESC LIMIT 100`),
				},
				{
					Title: "Duration of spans, P99", As: Lines, Unit: units.Seconds, Page: "docs/formats/rollups.md",
					Says: "A jump is a tenant whose own services became slow; it is no fault of the cell.",
					Queries: sql(`
		SELECT $__timeInterval(minute) AS time, tenant_id AS tenant, quantileDDMerge(0.01, 0.99)(quantiles) / 1e9 AS p99
		FROM (SELECT tenant_id, time AS minute, duration_quantiles AS quantiles FROM pulsegrid.spans_1m WHERE ` + chosen + `)
		GROUP BY time, tenant ORDER BY time, p99 DESC LIMIT 20 BY time`),
				},
			}},
			{"Alerts on what is stored", []Panel{
				{
					Title: "Groups that are behind, rules that fail", As: Number, Unit: units.Short, Limits: []Limit{{Value: aboveZero}}, Alerts: []string{"AlertsNotEvaluated"},
					Says: "Above zero the evaluator that is furthest behind does not know whether these fire, and leaves their alerts as they are.",
					Queries: lines(
						`max by (cell) (pulsegrid_alerts_stale_groups{`+of+`})`, "{{cell}} groups behind",
						`max by (cell) (pulsegrid_alerts_failing_rules{`+of+`})`, "{{cell}} rules fail",
					),
				},
				{
					Title: "Rules", As: Number, Unit: units.Short, Page: "docs/alerts.md",
					Says:    "Another number than the files have is an evaluator that was not started anew.",
					Queries: lines(`max by (cell) (pulsegrid_alerts_rules{`+of+`})`, "{{cell}}"),
				},
				{
					Title: "Evaluations of rules", As: Lines, Unit: units.CountsPerSecond, Alerts: []string{"AlertsNotEvaluated"},
					Says:    "What is not ok leaves a rule's alerts as they are, and nothing at all is an evaluator that stands still.",
					Queries: lines(`sum by (result) (rate(pulsegrid_alerts_evaluations_total{`+of+`}[$__rate_interval]))`, "{{result}}"),
				},
				{
					Title: "From a bucket's end to its evaluation", As: Lines, Unit: units.Seconds, Alerts: []string{"AlertsNotEvaluated"},
					Says: "Beyond freshness and the store's lag it is rules that take too long, by which every alert is later.",
					Queries: lines(
						quantile(0.5, "", "pulsegrid_alerts_lateness_seconds", of), "P50",
						quantile(0.99, "", "pulsegrid_alerts_lateness_seconds", of), "P99",
					),
				},
				{
					Title: "Time of a rule's query, P99", As: Lines, Unit: units.Seconds, Page: "docs/alerts.md",
					Says:    "Seconds are rules over rows, or a ClickHouse that is busy.",
					Queries: lines(quantile(0.99, "", "pulsegrid_alerts_evaluation_seconds", of), "P99"),
				},
				{
					Title: "Alerts sent", As: Lines, Unit: units.CountsPerSecond, Alerts: []string{"AlertsNotDelivered"},
					Says:    "What is refused or dropped nobody is told of.",
					Queries: lines(`sum by (outcome) (rate(pulsegrid_alerts_sent_total{`+of+`}[$__rate_interval]))`, "{{outcome}}"),
				},
				{
					Title: "Alerts that wait, requests that fail", As: Lines, Unit: units.Short, Alerts: []string{"AlertsNotDelivered"},
					Says: "A line that rises is an Alertmanager that does not take alerts; they wait for it.",
					Queries: lines(
						`sum by (cell) (pulsegrid_alerts_waiting{`+of+`})`, "{{cell}} waiting",
						`sum by (reason) (increase(pulsegrid_alerts_send_failures_total{`+of+`}[$__rate_interval]))`, "{{reason}}",
					),
				},
			}},
		},
	}
}

// quarantine is what was refused: how much, out of metrics, and what, out of its tables.
func (b *boards) quarantine() Dashboard {
	const of = `cell=~"$cell"`
	return Dashboard{
		Name: "quarantine", Title: "PulseGrid / Quarantine", Says: "How much is refused, whose is it, and why?", Variables: []Variable{cells, tenantNames},
		Rows: []Row{
			{"Into quarantine", []Panel{
				{
					Title: "Share of events", As: Lines, Unit: units.PercentUnit, Limits: b.limits("QuarantineSurge", "QuarantineRising"), Alerts: []string{"QuarantineSurge", "QuarantineRising"},
					Says: "Above the lines a sender or a schema has changed.",
					Queries: lines(`sum by (cell) (rate(otelcol_quarantine_events{`+of+`}[$__rate_interval]))`+
						` / (sum by (cell) (rate(otelcol_ingest_events{`+of+`}[$__rate_interval])) > 0)`, "{{cell}}"),
				},
				{
					Title: "Events by code", As: Lines, Unit: units.CountsPerSecond, Alerts: []string{"QuarantineSurge", "QuarantineRising"},
					Says:    "The code that rises says what is wrong with the events.",
					Queries: lines(`sum by (signal, code) (rate(otelcol_quarantine_events{`+of+`}[$__rate_interval]))`, "{{signal}} {{code}}"),
				},
				{
					Title: "Freshness of quarantine, P99", As: Lines, Unit: units.Seconds, Limits: b.within("quarantine-readable"), Alerts: []string{"QuarantineReadableBurn"},
					Says:    "Above the line what is below is not yet all.",
					Queries: lines(quantile(0.99, "group, ", "otelcol_msk_receiver_received_to_delivered", of+`,group=~"pulsegrid-quarantine-hot|pulsegrid-quarantine-pii-hot"`), "{{group}}"),
				},
				{
					Title: "Refused behind Kafka", As: Lines, Unit: units.CountsPerSecond, Alerts: []string{"StoreRefusesRecords"},
					Says:    "Records that were acknowledged and that no store takes: a defect, or a store that was changed by hand.",
					Queries: lines(`sum by (group, reason) (rate(otelcol_msk_receiver_quarantined_records{`+of+`}[$__rate_interval]))`, "{{group}} {{reason}}"),
				},
				{
					Title: "Kept nowhere", As: Lines, Unit: units.CountsPerSecond, Alerts: []string{"EventsKeptNowhere"},
					Says:    "Events that were refused and that no quarantine keeps; their senders were told.",
					Queries: lines(`sum by (cell, signal) (rate(otelcol_ingest_lost_events{`+of+`}[$__rate_interval]))`, "{{cell}} {{signal}}"),
				},
			}},
			{"What is in it", []Panel{
				{
					Title: "Items by code", As: Lines, Unit: units.Short, Alerts: []string{"QuarantineSurge"},
					Says: "The begin of a step is when a sender or a schema changed.",
					Queries: sql(`
		SELECT $__timeInterval(since) AS time, code, sum(n) AS items
		FROM (SELECT toStartOfMinute(time) AS since, code, count() AS n FROM pulsegrid.quarantine WHERE ` + chosenItems + ` GROUP BY since, code)
		GROUP BY time, code ORDER BY time, items DESC LIMIT 20 BY time`),
				},
				{
					Title: "By tenant and reason", As: Table, Unit: units.Short, Alerts: []string{"QuarantineSurge", "QuarantineRising"}, Page: "docs/formats/repair.md",
					Says: "The first line is what to mend first: with its owner, its schema, or a rule of repair.",
					Queries: sql(`
		SELECT tenant_id AS tenant, signal, code, schema, count() AS items, sum(events) AS events_at_fault, min(time) AS first, max(time) AS last, any(reason) AS for_example
		FROM pulsegrid.quarantine WHERE ` + chosenItems + `
		GROUP BY tenant, signal, code, schema ORDER BY items DESC LIMIT 100`),
				},
				{
					Title: "Newest items", As: Table, Unit: units.Short, Page: "docs/formats/quarantine.md",
					Says: "Each line is an item that `pulsegrid quarantine show` prints whole, by its place in Kafka.",
					Queries: sql(`
		SELECT time, tenant_id AS tenant, signal, code, schema, source, reason, concat(kafka_topic, '/', toString(kafka_partition), '/', toString(kafka_offset)) AS place
		FROM pulsegrid.quarantine WHERE ` + chosenItems + `
		ORDER BY time DESC LIMIT 50`),
				},
				{
					Title: "Personal, or seen by no schema", As: Table, Unit: units.Short, Page: "docs/formats/quarantine.md",
					Says: "Counts only, of a table that wants a right of its own: without it this panel shows an error, as it should.",
					Queries: sql(`
		SELECT tenant_id AS tenant, signal, code, count() AS items, min(time) AS first, max(time) AS last
		FROM pulsegrid.quarantine_pii WHERE ` + chosenItems + `
		GROUP BY tenant, signal, code ORDER BY items DESC LIMIT 100`),
				},
			}},
		},
	}
}
