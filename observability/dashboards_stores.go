package observability

import "github.com/grafana/grafana-foundation-sdk/go/units"

// clickHouse is the hot store, from the exporter's side and from its own.
func (b *boards) clickHouse() Dashboard {
	const of = `cell=~"$cell"`
	return Dashboard{
		Name: "clickhouse", Title: "PulseGrid / ClickHouse", Says: "Does ClickHouse take rows, how long does that take, and what will stop it?", Variables: []Variable{cells},
		Rows: []Row{
			{"Inserts", []Panel{
				{
					Title: "Rows stored", As: Lines, Unit: units.WritesPerSecond, Alerts: []string{"StoreStalled"},
					Says:    "A table that falls to zero while events come is not filled.",
					Queries: lines(`sum by (cell, table) (rate(otelcol_clickhouse_rows{`+of+`}[$__rate_interval]))`, "{{cell}} {{table}}"),
				},
				{
					Title: "Inserts by outcome", As: Lines, Unit: units.CountsPerSecond, Alerts: []string{"ClickHouseErrors"},
					Says:    "retryable and unknown come again, permanent go to quarantine.",
					Queries: lines(`sum by (cell, outcome) (rate(otelcol_clickhouse_inserts{`+of+`}[$__rate_interval]))`, "{{cell}} {{outcome}}"),
				},
				{
					Title: "Errors by exception", As: Lines, Unit: units.CountsPerSecond, Alerts: []string{"ClickHouseErrors"},
					Says:    "Each line is an exception of ClickHouse; the runbook says what to do about it.",
					Queries: lines(`sum by (cell, class, code) (rate(otelcol_clickhouse_errors{`+of+`}[$__rate_interval]))`, "{{cell}} {{class}} {{code}}"),
				},
				{
					Title: "Freshness by table, P99", As: Lines, Unit: units.Seconds, Limits: b.within("freshness-clickhouse-p99"),
					Alerts:  []string{"FreshnessClickHouseP99Burn", "FreshnessClickHouseP95Burn"},
					Says:    "Above the line the oldest event of a block waits longer than the promise.",
					Queries: lines(quantile(0.99, "table, ", "otelcol_clickhouse_freshness", of), "{{table}}"),
				},
				{
					Title: "Where the time of an insert goes, P99", As: Lines, Unit: units.Seconds, Alerts: []string{"FreshnessClickHouseP99Burn"},
					Says: "insert and ledger are ClickHouse's time, build and encode the aggregator's CPU.",
					Queries: lines(
						quantile(0.99, "", "otelcol_clickhouse_build_duration", of), "build",
						quantile(0.99, "", "otelcol_clickhouse_encode_duration", of), "encode",
						quantile(0.99, "", "otelcol_clickhouse_insert_duration", of), "insert",
						quantile(0.99, "", "otelcol_clickhouse_ledger_duration", of), "ledger",
					),
				},
				{
					Title: "Inserts that run", As: Lines, Unit: units.Short, Alerts: []string{"ClickHouseErrors"},
					Says:    "At max_concurrent_inserts for minutes ClickHouse is what is slow.",
					Queries: lines(`max by (cell, table) (otelcol_clickhouse_inserts_running{`+of+`})`, "{{cell}} {{table}}"),
				},
			}},
			{"The server", []Panel{
				{
					Title: "Disk left", As: Lines, Unit: units.PercentUnit, Limits: b.limits("ClickHouseDiskFull", "ClickHouseDiskFilling"), Alerts: []string{"ClickHouseDiskFull", "ClickHouseDiskFilling"},
					Says:    "Below the lines inserts will fail, and merges before them.",
					Queries: lines(`min by (cell, instance) (ClickHouseAsyncMetrics_DiskAvailable_default{`+of+`} / ClickHouseAsyncMetrics_DiskTotal_default{`+of+`})`, "{{cell}} {{instance}}"),
				},
				{
					Title: "Tables", As: Table, Unit: units.Short, Alerts: []string{"ClickHouseErrors", "FreshnessClickHouseP99Burn"},
					Units: map[string]string{"bytes": units.BytesIEC},
					Says:  "Many parts in one partition are merges that do not keep up: at 3,000 ClickHouse refuses inserts.",
					Queries: sql(`
		SELECT table, max(parts_of_partition) AS parts_in_a_partition, sum(parts_of_partition) AS parts, sum(r) AS rows, sum(b) AS bytes, max(changed) AS last_change
		FROM (
			SELECT table, partition, count() AS parts_of_partition, sum(rows) AS r, sum(bytes_on_disk) AS b, max(modification_time) AS changed
			FROM system.parts WHERE active AND database = 'pulsegrid' GROUP BY table, partition
		)
		GROUP BY table ORDER BY parts_in_a_partition DESC, bytes DESC LIMIT 50`),
				},
				{
					Title: "Disks", As: Table, Unit: units.BytesIEC, Alerts: []string{"ClickHouseDiskFull", "ClickHouseDiskFilling"}, Units: map[string]string{"left": units.PercentUnit},
					Says:    "A disk with little left will fail inserts, and merges before them.",
					Queries: sql(`SELECT name AS disk, free_space AS free, total_space AS total, free_space / total_space AS left FROM system.disks WHERE total_space > 0 ORDER BY left`),
				},
			}},
		},
	}
}

// lake is the Iceberg tables, from the exporter's side.
func (b *boards) lake() Dashboard {
	const of = `cell=~"$cell"`
	return Dashboard{
		Name: "lake", Title: "PulseGrid / Lake", Says: "Does the lake take commits, how late are they, and is it kept small?", Variables: []Variable{cells},
		Rows: []Row{
			{"Commits", []Panel{
				{
					Title: "Rows committed", As: Lines, Unit: units.WritesPerSecond, Alerts: []string{"StoreStalled"},
					Says:    "A table that falls to zero while events come is not filled.",
					Queries: lines(`sum by (cell, table) (rate(otelcol_iceberg_rows{`+of+`}[$__rate_interval]))`, "{{cell}} {{table}}"),
				},
				{
					Title: "Groups by outcome", As: Lines, Unit: units.CountsPerSecond, Alerts: []string{"LakeCommitsFail"},
					Says:    "failed without committed is a catalog or an object store that is away; held wait for a block before theirs.",
					Queries: lines(`sum by (cell, outcome) (rate(otelcol_iceberg_commits{`+of+`}[$__rate_interval]))`, "{{cell}} {{outcome}}"),
				},
				{
					Title: "Freshness by table, P99", As: Lines, Unit: units.Seconds, Limits: b.within("freshness-lake"), Alerts: []string{"FreshnessLakeBurn"},
					Says:    "Above the line jobs miss the newest minutes.",
					Queries: lines(quantile(0.99, "table, ", "otelcol_iceberg_freshness", of), "{{table}}"),
				},
				{
					Title: "Where the time of a commit goes, P99", As: Lines, Unit: units.Seconds, Alerts: []string{"FreshnessLakeBurn", "LakeCommitsFail"},
					Says: "A high age is an aggregator that lacks memory or CPU, a high commit time a slow catalog or object store.",
					Queries: lines(
						quantile(0.99, "", "otelcol_iceberg_group_age", of), "age of a group when it closes",
						quantile(0.99, "", "otelcol_iceberg_commit_duration", of), "commit, with all attempts",
					),
				},
				{
					Title: "Attempts and conflicts", As: Lines, Unit: units.CountsPerSecond, Alerts: []string{"LakeCommitsFail"},
					Says: "Conflicts near the attempts are another writer that commits all the time.",
					Queries: lines(
						`sum by (cell) (rate(otelcol_iceberg_commit_attempts{`+of+`}[$__rate_interval]))`, "attempts {{cell}}",
						`sum by (cell) (rate(otelcol_iceberg_conflicts{`+of+`}[$__rate_interval]))`, "conflicts {{cell}}",
					),
				},
				{
					Title: "Memory of calls", As: Lines, Unit: units.BytesIEC, Alerts: []string{"FreshnessLakeBurn"},
					Says:    "A line at its bound is an aggregator that lacks memory.",
					Queries: lines(`sum by (cell, instance) (otelcol_iceberg_buffered_bytes{`+of+`})`, "{{cell}} {{instance}}"),
				},
			}},
			{"Order and upkeep", []Panel{
				{
					Title: "Blocks refused, 1 h", As: Number, Unit: units.Short, Limits: []Limit{{Value: aboveZero}}, Alerts: []string{"LakeBlocksRefused"},
					Says:    "Above zero blocks wait until an operator has mended something.",
					Queries: lines(counted("otelcol_iceberg_refused_blocks", of), "refused"),
				},
				{
					Title: "Sent back, 1 h", As: Number, Unit: units.Short, Limits: []Limit{{Value: aboveZero}}, Alerts: []string{"StoreWentBack"},
					Says:    "Above zero a store has less than its group had stored, and is filled again.",
					Queries: lines(counted("otelcol_msk_receiver_resumes", of), "sent back"),
				},
				{
					Title: "Size of a data file, mean", As: Lines, Unit: units.BytesIEC, Page: "docs/runbooks/upkeep.md",
					Says: "Small files make commits and readers slow until upkeep puts them together.",
					Queries: lines(`sum by (cell, table) (rate(otelcol_iceberg_file_bytes{`+of+`}[$__rate_interval])) / sum by (cell, table) (rate(otelcol_iceberg_files{`+of+`}[$__rate_interval]))`,
						"{{cell}} {{table}}"),
				},
				{
					Title: "Files left behind by failed commits", As: Lines, Unit: units.CountsPerSecond, Page: "docs/runbooks/lake.md",
					Says:    "A line that stays is a store that fails in the middle of commits; sweeps remove the files later.",
					Queries: lines(`sum(rate(otelcol_iceberg_orphan_files{`+of+`}[$__rate_interval])) or vector(0)`, "left"),
				},
			}},
		},
	}
}
