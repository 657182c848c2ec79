package observability

import (
	"fmt"

	"github.com/grafana/grafana-foundation-sdk/go/units"
)

const index = "docs/runbooks/README.md"

// firing are the alerts that fire where matchers say.
func (b *boards) firing(matchers string) Panel {
	return Panel{
		Title: "Alerts that fire", As: Table, Unit: units.Short, Page: index,
		Says:    "Each line is an alert that fires now, pages before tickets; begin with the runbook of the uppermost.",
		Queries: lines(`ALERTS{alertstate="firing",`+matchers+`}`, ""),
	}
}

// audits is the panel of the newest verdicts.
func (b *boards) audits(matchers string) Panel {
	return Panel{
		Title: "Audits that differ", As: Number, Unit: units.Short, Limits: b.limits("AuditDifferent"), Alerts: []string{"AuditDifferent"},
		Says:    "1 means that the cell's newest audit found events that are lost, doubled, altered or foreign.",
		Queries: lines(`max by (cell) (pulsegrid_audit{verdict="different",`+matchers+`})`, "{{cell}}"),
	}
}

// fleet is what to open first.
func (b *boards) fleet() Dashboard {
	return Dashboard{
		Name: "fleet", Title: "PulseGrid / Fleet overview", Says: "Is anyone hurt, in which cell, and by which promise?", Variables: []Variable{cells},
		Rows: []Row{
			{"Promises", []Panel{
				b.firing(`cell=~"$cell"`),
				{
					Title: "Error budget left, fleet", As: Number, Unit: units.PercentUnit, Limits: budgetLeft, Alerts: b.burnAlerts(),
					Says:    "Below zero the fleet has broken the promise over the SLO's window; what is left may still be spent on changes.",
					Queries: lines("slo:error_budget:remaining_fleet", "{{slo}}"),
				},
				b.audits(`cell=~"$cell"`),
			}},
			{"Cells", []Panel{
				{
					Title: "Programs that answer", As: Lines, Unit: units.Short, Alerts: []string{"NoGateway", "NoAggregator", "ProgramDown"},
					Says:    "A line that falls means that gateways or aggregators have ended or cannot be scraped.",
					Queries: lines(`sum by (cell, job) (up{job=~"pulsegrid-(gateway|aggregator)",cell=~"$cell"})`, "{{cell}} {{job}}"),
				},
				{
					Title: "Gateways that have DNS send senders", As: Lines, Unit: units.Short, Page: "docs/regions.md",
					Says:    "At zero DNS sends the cell's senders elsewhere: it is drained, or can accept nothing.",
					Queries: lines(`sum by (cell) (otelcol_cell_health_serving{cell=~"$cell"})`, "{{cell}}"),
				},
				{
					Title: "Events in", As: Lines, Unit: units.CountsPerSecond, Alerts: []string{"NoGateway", "TenantSilent"},
					Says:    "A cell that falls to zero gets no requests, or takes none.",
					Queries: lines(`sum by (cell) (rate(otelcol_ingest_events{cell=~"$cell"}[$__rate_interval]))`, "{{cell}}"),
				},
				{
					Title: "Requests that the cell failed", As: Lines, Unit: units.PercentUnit, Limits: b.failing("ingestion-availability"), Alerts: []string{"IngestionAvailabilityBurn"},
					Says:    "Above the line the cell fails so many requests that keep the rules that it pages within the hour.",
					Queries: lines(`slo:error:ratio5m{slo="ingestion-availability",cell=~"$cell"}`, "{{cell}}"),
				},
				{
					Title: "Freshness of ClickHouse, P99", As: Lines, Unit: units.Seconds, Limits: b.within("freshness-clickhouse-p99"),
					Alerts:  []string{"FreshnessClickHouseP99Burn", "FreshnessClickHouseP95Burn"},
					Says:    "Above the line dashboards and alerts of users lag behind; a gap means that nothing is stored.",
					Queries: lines(quantile(0.99, "cell, ", "otelcol_msk_receiver_received_to_delivered", `cell=~"$cell",group="pulsegrid-hot"`), "{{cell}}"),
				},
				{
					Title: "Freshness of the lake, P99", As: Lines, Unit: units.Seconds, Limits: b.within("freshness-lake"), Alerts: []string{"FreshnessLakeBurn"},
					Says:    "Above the line jobs miss the newest minutes; a gap means that nothing is committed.",
					Queries: lines(quantile(0.99, "cell, ", "otelcol_msk_receiver_received_to_delivered", `cell=~"$cell",group="pulsegrid-lake"`), "{{cell}}"),
				},
				{
					Title: "Records that wait in Kafka", As: Lines, Unit: units.Short, Alerts: []string{"StoreStalled"},
					Says:    "A line that only rises is a store that takes less than comes, or nothing.",
					Queries: lines(`sum by (cell, group) (otelcol_msk_receiver_lag{cell=~"$cell",group=~"pulsegrid-(hot|lake)"})`, "{{cell}} {{group}}"),
				},
			}},
		},
	}
}

// cell is one cell along the way of an event.
func (b *boards) cell() Dashboard {
	const stored = `table=~"(.*\\.)?(logs|metrics|spans)"`
	return Dashboard{
		Name: "cell", Title: "PulseGrid / Cell", Says: "Where along the way of an event does this cell fail?", Variables: []Variable{oneCell},
		Rows: []Row{
			{"Promises", []Panel{
				b.firing(`cell="$cell"`),
				{
					Title: "Error budget left", As: Number, Unit: units.PercentUnit, Limits: budgetLeft, Alerts: b.burnAlerts(),
					Says:    "Below zero this cell has broken the promise over the SLO's window.",
					Queries: lines(`slo:error_budget:remaining{cell="$cell"}`, "{{slo}}"),
				},
				{
					Title: "Since the last audit ended", As: Number, Unit: units.Seconds, Limits: []Limit{{Value: 7200}}, Alerts: []string{"AuditNotRun", "AuditDifferent"},
					Says:    "More than two hours, or nothing, means that nobody knows whether the stores hold what was acknowledged.",
					Queries: lines(`time() - max(pulsegrid_audit_end_time_seconds{cell="$cell"})`, "since the last audit"),
				},
			}},
			{"The way of an event", []Panel{
				{
					Title: "Events by hop", As: Lines, Unit: units.CountsPerSecond, Page: "docs/ARCHITECTURE.md",
					Says: "Over minutes the rows of each store are the events in, less quarantine and copies; a store below that falls behind.",
					Queries: lines(
						`sum(rate(otelcol_ingest_events{cell="$cell"}[$__rate_interval]))`, "in",
						`sum(rate(otelcol_msk_exporter_events{cell="$cell"}[$__rate_interval]))`, "acknowledged by Kafka",
						`sum(rate(otelcol_clickhouse_rows{cell="$cell",`+stored+`}[$__rate_interval]))`, "rows in ClickHouse",
						`sum(rate(otelcol_iceberg_rows{cell="$cell",`+stored+`}[$__rate_interval]))`, "rows in the lake",
						`sum(rate(otelcol_quarantine_events{cell="$cell"}[$__rate_interval]))`, "into quarantine",
						`sum(rate(otelcol_dedupe_duplicates{cell="$cell",processor="dedupe/hot"}[$__rate_interval]))`, "copies",
					),
				},
				{
					Title: "Time to the answer", As: Lines, Unit: units.Seconds, Limits: b.within("ingestion-availability"), Alerts: []string{"IngestionAvailabilityBurn"},
					Says: "Above the line agents run into their timeouts and send again.",
					Queries: lines(
						quantile(0.5, "", "otelcol_ingest_request_duration", `cell="$cell",outcome="accepted"`), "P50",
						quantile(0.99, "", "otelcol_ingest_request_duration", `cell="$cell",outcome="accepted"`), "P99",
					),
				},
				{
					Title: "Freshness, P99", As: Lines, Unit: units.Seconds, Limits: b.within("freshness-clickhouse-p99"),
					Alerts:  []string{"FreshnessClickHouseP99Burn", "FreshnessClickHouseP95Burn", "FreshnessLakeBurn"},
					Says:    "Above the line group pulsegrid-hot breaks its promise; each other group has its own on the dashboard of SLOs.",
					Queries: lines(quantile(0.99, "group, ", "otelcol_msk_receiver_received_to_delivered", `cell="$cell"`), "{{group}}"),
				},
				{
					Title: "Records that wait in Kafka", As: Lines, Unit: units.Short, Alerts: []string{"StoreStalled"},
					Says:    "A line that only rises is a store that takes less than comes, or nothing.",
					Queries: lines(`sum by (group) (otelcol_msk_receiver_lag{cell="$cell"})`, "{{group}}"),
				},
				{
					Title: "Spill, of its bound", As: Lines, Unit: units.PercentUnit, Limits: b.limits("SpillFilling"), Alerts: []string{"SpillFilling", "SpillWaiting"},
					Says:    "Above the line the object store that stands in for Kafka is half full; at 100 % requests are refused.",
					Queries: lines(`max(otelcol_msk_exporter_spill_backlog_bytes{cell="$cell"}) / max(otelcol_msk_exporter_spill_max_bytes{cell="$cell"})`, "full"),
				},
				{
					Title: "Share of copies", As: Lines, Unit: units.PercentUnit, Limits: b.limits("CopiesMany"), Alerts: []string{"CopiesMany"},
					Says: "Above the line many agents send again what was acknowledged, often after slow answers.",
					Queries: lines(`sum by (signal) (rate(otelcol_dedupe_duplicates{cell="$cell",processor="dedupe/hot"}[$__rate_interval]))`+
						` / sum by (signal) (rate(otelcol_dedupe_events{cell="$cell",processor="dedupe/hot"}[$__rate_interval]))`, "{{signal}}"),
				},
			}},
			{"From outside", []Panel{
				{
					Title: "Requests of the probes that fail", As: Lines, Unit: units.PercentUnit, Limits: b.limits("ProbeFails"), Alerts: []string{"ProbeFails", "ProbeAndGatewaysDisagree"},
					Says: "Above the line agents cannot reach the cell, whatever its gateways say; one protocol alone is the way to it.",
					Queries: lines(`sum by (protocol) (rate(pulsegrid_probe_requests_total{cell="$cell",outcome!="ok"}[$__rate_interval]))`+
						` / sum by (protocol) (rate(pulsegrid_probe_requests_total{cell="$cell"}[$__rate_interval]))`, "{{protocol}}"),
				},
				{
					Title: "Rows of the probes that are missing or doubled", As: Lines, Unit: units.Short, Limits: b.limits("ProbeRowsMissing"), Alerts: []string{"ProbeRowsMissing", "ProbeRowsDoubled"},
					Says:    "Any means that acknowledged events are late beyond the deadline, lost, or stored twice.",
					Queries: lines(`sum by (store, result) (increase(pulsegrid_probe_rows_total{cell="$cell",result=~"missing|doubled"}[1h]))`, "{{store}} {{result}}"),
				},
				{
					Title: "Freshness that the probes see, P99", As: Lines, Unit: units.Seconds, Limits: b.within("freshness-clickhouse-p99"), Page: "docs/slo.md",
					Says:    "Beside the stores' own freshness this has the way to the gateways; ClickHouse above the line breaks its promise.",
					Queries: lines(quantile(0.99, "store, ", "pulsegrid_probe_freshness_seconds", `cell="$cell"`), "{{store}}"),
				},
				{
					Title: "Since the probes' last success", As: Lines, Unit: units.Seconds, Limits: []Limit{{Value: 900}}, Alerts: []string{"ProbeStale"},
					Says:    "Above the line nobody measures the cell from outside.",
					Queries: lines(`time() - max by (stage) (pulsegrid_probe_last_success_timestamp_seconds{cell="$cell"})`, "{{stage}}"),
				},
				{
					Title: "Looks of the probes that stores do not answer", As: Lines, Unit: units.CountsPerSecond, Alerts: []string{"ProbeCannotLook"},
					Says:    "While a store answers none, rows are not counted.",
					Queries: lines(`sum by (store) (rate(pulsegrid_probe_looks_total{cell="$cell",answered="no"}[$__rate_interval]))`, "{{store}}"),
				},
			}},
			{"Configuration", []Panel{
				{
					Title: "Files at fault", As: Number, Unit: units.Short, Limits: b.limits("FilesNotInForce"), Alerts: []string{"FilesNotInForce"},
					Says: "Files of tenants, schemas or lookup tables that are not in force as they are now; what was in force before stays.",
					Queries: lines(
						`max(otelcol_tenant_auth_refused_files{cell="$cell"})`, "tenants",
						`max(otelcol_schema_registry_refused_files{cell="$cell"})`, "schemas",
						`max(otelcol_enrichment_refused_tables{cell="$cell"})`, "lookup tables",
					),
				},
				{
					Title: "Since files were last read", As: Number, Unit: units.Seconds, Limits: b.limits("FilesUnreadable"), Alerts: []string{"FilesUnreadable"},
					Says: "Above the limit a registry cannot be read, and changes do not come into force.",
					Queries: lines(
						`max(otelcol_tenant_auth_registry_age{cell="$cell"})`, "tenants",
						`max(otelcol_schema_registry_age{cell="$cell"})`, "schemas",
						`max(otelcol_enrichment_look_age{cell="$cell"})`, "lookup tables",
					),
				},
				{
					Title: "Certificate ends in", As: Number, Unit: units.Seconds, Limits: b.limits("CertificateEnding", "CertificateExpiring"),
					Alerts: []string{"CertificateEnding", "CertificateExpiring"}, Says: "At zero no agent can connect by TLS.",
					Queries: lines(`min(otelcol_ingest_certificate_expiry{cell="$cell"})`, "certificate"),
				},
				{
					Title: "First tenant without a key in", As: Number, Unit: units.Seconds, Limits: b.limits("KeyExpiring"), Alerts: []string{"KeyExpiring"},
					Says:    "At zero a tenant has no API key in force, and all of its requests are refused.",
					Queries: lines(`min(otelcol_tenant_auth_key_expiry{cell="$cell"})`, "key"),
				},
			}},
			{"Hosts", []Panel{
				{
					Title: "Disk left", As: Lines, Unit: units.PercentUnit, Limits: b.limits("DiskFull", "DiskFilling"), Alerts: []string{"DiskFull", "DiskFilling"},
					Says: "A file system below the lines will stop the program that writes there.",
					Queries: lines(`min by (instance, mountpoint) (node_filesystem_avail_bytes{cell="$cell",fstype!~"tmpfs|overlay|squashfs"}`+
						` / node_filesystem_size_bytes{cell="$cell",fstype!~"tmpfs|overlay|squashfs"})`, "{{instance}} {{mountpoint}}"),
				},
				{
					Title: "Clocks off by", As: Lines, Unit: units.Seconds, Limits: []Limit{{Value: 0.5}}, Alerts: []string{"ClockSkew"},
					Says:    "A host above the line measures freshness wrongly.",
					Queries: lines(`max by (instance) (abs(node_timex_offset_seconds{cell="$cell"}))`, "{{instance}}"),
				},
				{
					Title: "Requests from a gateway that is ahead", As: Lines, Unit: units.CountsPerSecond, Alerts: []string{"ClockSkew"},
					Says:    "Above zero a gateway's clock is more than a second ahead of Kafka's.",
					Queries: lines(`sum(rate(otelcol_msk_receiver_received_to_appended_bucket{cell="$cell",group="pulsegrid-hot",le=~"-1|-1\\.0"}[$__rate_interval]))`, "ahead"),
				},
			}},
		},
	}
}

// slo has a row for each SLO with a budget.
func (b *boards) slo() Dashboard {
	d := Dashboard{Name: "slo", Title: "PulseGrid / SLOs", Says: "How fast does each budget burn, and what is left of it?", Variables: []Variable{cells}}
	for _, s := range b.slos.SLOs {
		of := func(series string) string { return fmt.Sprintf(`%s{slo=%q,cell=~"$cell"}`, series, s.Name) }
		var alerts []string
		if s.Alert != "" {
			alerts = []string{s.Alert}
		}
		if s.SLI.Audit != "" {
			d.Rows = append(d.Rows, Row{fmt.Sprintf("%s: %s", s.Title, s.Promise), []Panel{
				b.audits(`cell=~"$cell"`),
				{
					Title: "Audits that were not equal, " + b.slos.Window, As: Lines, Unit: units.PercentUnit, Limits: []Limit{{Value: aboveZero, Page: true}}, Alerts: []string{"AuditDifferent", "AuditNotRun"},
					Says:    "Each audit that differs or was not whole shows here for the whole window; there is no budget for it.",
					Queries: lines(of("slo:error:ratio"+b.slos.Window), "{{cell}}"),
				},
			}})
			continue
		}
		row := Row{fmt.Sprintf("%s: %s %s %% over %s", s.Title, s.Promise, number(s.Objective), b.slos.Window), []Panel{
			{
				Title: "Budget left", As: Number, Unit: units.PercentUnit, Limits: budgetLeft, Alerts: alerts,
				Says:    fmt.Sprintf("Below zero the cell has broken the promise over %s.", b.slos.Window),
				Queries: lines(of("slo:error_budget:remaining"), "{{cell}}"),
			},
			{
				Title: "Bad events of all", As: Lines, Unit: units.CountsPerSecond, Alerts: alerts,
				Says:    "The share of bad events among all is what the burn rates are made of; few events make it coarse.",
				Queries: lines(of("slo:bad:rate5m"), "bad {{cell}}", of("slo:total:rate5m"), "all {{cell}}"),
			},
		}}
		if s.Alert != "" {
			burning := Panel{
				Title: "Burn rate by window", As: Lines, Unit: units.Short, Alerts: alerts,
				Says: "At rate 1 the budget is used up exactly at the window's end; an alert fires where a long window and its short one are both above the long one's limit.",
			}
			for _, w := range burns {
				burning.Limits = append(burning.Limits, Limit{Value: w.rate, Page: w.severity == "page" && s.Severity == ""})
				burning.Queries = append(burning.Queries, Query{PromQL: of("slo:error:ratio"+w.long) + " / " + number(s.budget()), Legend: w.long + " {{cell}}"})
			}
			row.Panels = append(row.Panels, burning)
		}
		d.Rows = append(d.Rows, row)
	}
	return d
}
