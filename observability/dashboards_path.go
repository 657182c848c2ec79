package observability

import "github.com/grafana/grafana-foundation-sdk/go/units"

// gateway is what gateways take, refuse and wait for.
func (b *boards) gateway() Dashboard {
	const of = `cell=~"$cell",instance=~"$instance"`
	return Dashboard{
		Name: "gateway", Title: "PulseGrid / Gateway", Says: "What do gateways take, what do they refuse, and what do they wait for?",
		Variables: []Variable{cells, instances("gateway")},
		Rows: []Row{
			{"Requests", []Panel{
				{
					Title: "Requests by outcome", As: Lines, Unit: units.RequestsPerSecond, Alerts: []string{"IngestionAvailabilityBurn", "NoGateway", "ProgramDown"},
					Says:    "Retry and refused that rise beside accepted are requests that agents must send again, or drop.",
					Queries: lines(`sum by (outcome) (rate(otelcol_ingest_requests{`+of+`}[$__rate_interval]))`, "{{outcome}}"),
				},
				{
					Title: "Refusals by reason", As: Lines, Unit: units.RequestsPerSecond, Alerts: []string{"IngestionAvailabilityBurn", "GatewayMemoryShort"},
					Says:    "memory, not_authenticated, shed and downstream_retry are the cell's fault; all others are the sender's.",
					Queries: lines(`sum by (reason) (rate(otelcol_ingest_refused{`+of+`}[$__rate_interval])) > 0`, "{{reason}}"),
				},
				{
					Title: "Time to the answer, P99", As: Lines, Unit: units.Seconds, Limits: b.within("ingestion-availability"), Alerts: []string{"IngestionAvailabilityBurn"},
					Says:    "One instance above the others is short of CPU or far from Kafka; all of them together wait for Kafka.",
					Queries: lines(quantile(0.99, "instance, ", "otelcol_ingest_request_duration", of+`,outcome="accepted"`), "{{instance}}"),
				},
				{
					Title: "Bytes in", As: Lines, Unit: units.BytesPerSecondSI,
					Says: "Uncompressed bytes that grow much faster than those on the wire are senders whose data compresses suspiciously well.",
					Queries: lines(
						`sum(rate(otelcol_ingest_compressed_bytes{`+of+`}[$__rate_interval]))`, "on the wire",
						`sum(rate(otelcol_ingest_uncompressed_bytes{`+of+`}[$__rate_interval]))`, "uncompressed",
					),
				},
			}},
			{"Memory and Kafka", []Panel{
				{
					Title: "Memory of requests", As: Lines, Unit: units.BytesIEC, Alerts: []string{"GatewayMemoryShort"},
					Says: "Near limits.max_in_flight_bytes, or for Kafka near max_buffered_bytes, requests are turned away.",
					Queries: lines(
						`max by (instance) (otelcol_ingest_in_flight_bytes{`+of+`})`, "in flight {{instance}}",
						`max by (instance) (otelcol_msk_exporter_buffered_bytes{`+of+`})`, "for Kafka {{instance}}",
					),
				},
				{
					Title: "Time to Kafka's acknowledgement, P99", As: Lines, Unit: units.Seconds, Alerts: []string{"KafkaNotReady", "KafkaSpilling"},
					Says:    "Where it rises with the time to the answer, Kafka is what is slow.",
					Queries: lines(quantile(0.99, "instance, ", "otelcol_msk_exporter_produce_duration", of), "{{instance}}"),
				},
				{
					Title: "Requests that Kafka did not take", As: Lines, Unit: units.RequestsPerSecond, Alerts: []string{"KafkaRefuses", "KafkaNotReady"},
					Says:    "permanent is refused for good, and agents drop it; the other classes come again.",
					Queries: lines(`sum by (class, reason) (rate(otelcol_msk_exporter_failures{`+of+`}[$__rate_interval]))`, "{{class}} {{reason}}"),
				},
			}},
			{"Health of the cell", []Panel{
				{
					Title: "Whether DNS is told to send senders", As: Lines, Unit: units.Short, Alerts: []string{"CellDrained"},
					Says: "One instance that differs from the others cannot read the cell's state, or cannot reach Kafka.",
					Queries: lines(
						`max by (instance) (otelcol_cell_health_serving{`+of+`})`, "serving {{instance}}",
						`max by (instance) (otelcol_cell_health_drained{`+of+`})`, "drained {{instance}}",
					),
				},
				{
					Title: "Changes of that", As: Lines, Unit: units.Short, Page: "docs/regions.md",
					Says:    "Several failing and serving in an hour are a cell that comes and goes, which the log explains.",
					Queries: lines(`sum by (to) (increase(otelcol_cell_health_transitions{`+of+`}[$__rate_interval]))`, "{{to}}"),
				},
				{
					Title: "Time since the last request", As: Lines, Unit: units.Seconds, Page: "docs/regions.md",
					Says:    "In a drained cell a line that stays low is a gateway that somebody sends to by its own name.",
					Queries: lines(`min by (instance) (otelcol_ingest_idle{`+of+`})`, "{{instance}}"),
				},
			}},
			{"Tenants and schemas", []Panel{
				{
					Title: "Wrong credentials", As: Lines, Unit: units.RequestsPerSecond, Limits: b.limits("CredentialsGuessed"), Alerts: []string{"CredentialsGuessed", "KeyExpiring"},
					Says:    "Many unknown or wrong keys are somebody who guesses; expired is a tenant that has to rotate its key.",
					Queries: lines(`sum by (reason) (rate(otelcol_tenant_auth_refused{`+of+`}[$__rate_interval]))`, "{{reason}}"),
				},
				{
					Title: "Events by validation", As: Lines, Unit: units.CountsPerSecond, Alerts: []string{"QuarantineSurge", "QuarantineRising"},
					Says:    "invalid goes to quarantine, flagged would; a jump is a new version of a sender or of a schema.",
					Queries: lines(`sum by (outcome) (rate(otelcol_schema_validation_events{`+of+`}[$__rate_interval]))`, "{{outcome}}"),
				},
				{
					Title: "Time to check a request, P99", As: Lines, Unit: units.Seconds, Page: "docs/runbooks/rollout.md",
					Says:    "A jump after a change of the schemas is a schema that is costly to check.",
					Queries: lines(quantile(0.99, "instance, ", "otelcol_schema_validation_duration", of), "{{instance}}"),
				},
			}},
		},
	}
}

// kafka is the log as gateways and aggregators see it, and its brokers' own word where that is scraped.
func (b *boards) kafka() Dashboard {
	const of = `cell=~"$cell"`
	return Dashboard{
		Name: "kafka", Title: "PulseGrid / Kafka", Says: "Does Kafka take records, does it give them back, and did anyone change the log?", Variables: []Variable{cells},
		Rows: []Row{
			{"Health", []Panel{
				{
					Title: "Partitions under min ISR", As: Number, Unit: units.Short, Limits: b.limits("KafkaUnderMinISR"), Alerts: []string{"KafkaUnderMinISR"},
					Says:    "Each of them takes no record until a replica is back.",
					Queries: lines(`sum by (cell) (kafka_server_ReplicaManager_Value{name="UnderMinIsrPartitionCount",`+of+`})`, "{{cell}}"),
				},
				{
					Title: "Gateways that find their topics", As: Number, Unit: units.Short, Alerts: []string{"KafkaNotReady"},
					Says:    "Fewer than all gateways means that topics are missing, or are not as they should be.",
					Queries: lines(`sum by (cell) (otelcol_msk_exporter_ready{`+of+`})`, "{{cell}}"),
				},
				{
					Title: "Offsets lost to retention, 1 h", As: Number, Unit: units.Short, Limits: []Limit{{Value: aboveZero, Page: true}}, Alerts: []string{"RecordsLost"},
					Says:    "Acknowledged records that Kafka removed before they were read.",
					Queries: lines(counted("otelcol_msk_receiver_lost_offsets", of), "lost"),
				},
				{
					Title: "Changes of the log, 1 h", As: Number, Unit: units.Short, Limits: []Limit{{Value: aboveZero}}, Alerts: []string{"LogChanged"},
					Says: "Above zero somebody else made topics anew or moved the groups' offsets.",
					Queries: lines(counted("otelcol_msk_receiver_recreated_partitions", of), "made anew", counted("otelcol_msk_receiver_unreadable_intents", of), "unreadable offsets",
						counted("otelcol_msk_receiver_passed_over", of), "passed over"),
				},
			}},
			{"Into Kafka", []Panel{
				{
					Title: "Records acknowledged", As: Lines, Unit: units.WritesPerSecond, Alerts: []string{"KafkaSpilling"},
					Says:    "A line that falls while requests come is a Kafka that does not take them.",
					Queries: lines(`sum by (cell, signal) (rate(otelcol_msk_exporter_records{`+of+`}[$__rate_interval]))`, "{{cell}} {{signal}}"),
				},
				{
					Title: "Time to the acknowledgement", As: Lines, Unit: units.Seconds, Alerts: []string{"KafkaUnderMinISR"},
					Says:    "A P99 far above the P50 is one slow broker.",
					Queries: lines(quantile(0.5, "cell, ", "otelcol_msk_exporter_produce_duration", of), "P50 {{cell}}", quantile(0.99, "cell, ", "otelcol_msk_exporter_produce_duration", of), "P99 {{cell}}"),
				},
				{
					Title: "Requests that were not acknowledged", As: Lines, Unit: units.RequestsPerSecond, Alerts: []string{"KafkaRefuses"},
					Says:    "permanent is refused for good; the other classes come again.",
					Queries: lines(`sum by (cell, class, reason) (rate(otelcol_msk_exporter_failures{`+of+`}[$__rate_interval]))`, "{{cell}} {{class}} {{reason}}"),
				},
			}},
			{"Spill: the object store in Kafka's place", []Panel{
				{
					Title: "Partitions that spill", As: Lines, Unit: units.Short, Alerts: []string{"KafkaSpilling"},
					Says:    "Above zero Kafka does not take records of so many partitions, and the object store keeps them.",
					Queries: lines(`max by (cell) (otelcol_msk_exporter_spilling_partitions{`+of+`})`, "{{cell}}"),
				},
				{
					Title: "Spill, of its bound", As: Lines, Unit: units.PercentUnit, Limits: b.limits("SpillFilling"), Alerts: []string{"SpillFilling"},
					Says:    "At 100 % requests are refused.",
					Queries: lines(`max by (cell) (otelcol_msk_exporter_spill_backlog_bytes{`+of+`}) / max by (cell) (otelcol_msk_exporter_spill_max_bytes{`+of+`})`, "{{cell}}"),
				},
				{
					Title: "Oldest that waits", As: Lines, Unit: units.Seconds, Limits: b.limits("SpillWaiting"), Alerts: []string{"SpillWaiting"},
					Says:    "Above the line acknowledged requests are so late as rows.",
					Queries: lines(`max by (cell) (otelcol_msk_exporter_spill_backlog_age{`+of+`})`, "{{cell}}"),
				},
				{
					Title: "Objects set aside", As: Number, Unit: units.Short, Limits: []Limit{{Value: aboveZero, Page: true}}, Alerts: []string{"SpillDamaged"},
					Says:    "Acknowledged records under bad/ that are not on their way.",
					Queries: lines(`sum by (cell) (otelcol_msk_exporter_spill_damaged_objects{`+of+`})`, "{{cell}}"),
				},
			}},
			{"Out of Kafka", []Panel{
				{
					Title: "Records that wait, by group", As: Lines, Unit: units.Short, Alerts: []string{"StoreStalled"},
					Says:    "A line that only rises is a store that takes less than comes, or nothing.",
					Queries: lines(`sum by (cell, group) (otelcol_msk_receiver_lag{`+of+`})`, "{{cell}} {{group}}"),
				},
				{
					Title: "Partitions with the most that waits", As: Lines, Unit: units.Short, Alerts: []string{"PartitionStuck"},
					Says:    "One partition far above the others has one busy source, or a block that fails.",
					Queries: lines(`topk(10, otelcol_msk_receiver_lag{`+of+`})`, "{{group}} {{topic}}/{{partition}}"),
				},
			}},
		},
	}
}

// aggregator is the way from Kafka to the stores.
func (b *boards) aggregator() Dashboard {
	const of = `cell=~"$cell",instance=~"$instance"`
	return Dashboard{
		Name: "aggregator", Title: "PulseGrid / Aggregator", Says: "Do aggregators keep up, and which hop between Kafka and the stores is slow?",
		Variables: []Variable{cells, instances("aggregator")},
		Rows: []Row{
			{"Keeping up", []Panel{
				{
					Title: "Records that wait", As: Lines, Unit: units.Short, Alerts: []string{"StoreStalled", "NoAggregator"},
					Says:    "A line that only rises is a store that takes less than comes, or nothing.",
					Queries: lines(`sum by (group) (otelcol_msk_receiver_lag{`+of+`})`, "{{group}}"),
				},
				{
					Title: "Partitions that do not move", As: Lines, Unit: units.Short, Alerts: []string{"PartitionStuck"},
					Says: "waiting offer the same block again, paused lack memory, warming read their past again after a rebalance.",
					Queries: lines(
						`sum by (group) (otelcol_msk_receiver_waiting_partitions{`+of+`})`, "waiting {{group}}",
						`sum by (group) (otelcol_msk_receiver_paused_partitions{`+of+`})`, "paused {{group}}",
						`sum by (group) (otelcol_msk_receiver_warming_partitions{`+of+`})`, "warming {{group}}",
					),
				},
				{
					Title: "Partitions by instance", As: Lines, Unit: units.Short, Alerts: []string{"ProgramDown"},
					Says:    "Steps that never end are a group that rebalances all the time; zero everywhere is a group without members.",
					Queries: lines(`sum by (instance, group) (otelcol_msk_receiver_assigned_partitions{`+of+`,group=~"pulsegrid-(hot|lake)"})`, "{{instance}} {{group}}"),
				},
				{
					Title: "Memory of records", As: Lines, Unit: units.BytesIEC,
					Says:    "At max_in_flight_bytes partitions are paused, and more aggregators are needed.",
					Queries: lines(`sum by (instance, group) (otelcol_msk_receiver_in_flight_bytes{`+of+`})`, "{{instance}} {{group}}"),
				},
			}},
			{"Hops, P99", []Panel{
				{
					Title: "Gateway to Kafka", As: Lines, Unit: units.Seconds, Alerts: []string{"ClockSkew"},
					Says:    "High means that requests wait in the spill or for Kafka; below zero a gateway's clock is ahead.",
					Queries: lines(quantile(0.99, "group, ", "otelcol_msk_receiver_received_to_appended", of), "{{group}}"),
				},
				{
					Title: "Kafka to the store", As: Lines, Unit: units.Seconds, Alerts: []string{"FreshnessClickHouseP99Burn", "FreshnessLakeBurn"},
					Says:    "High with a small delivery time means that records wait in Kafka; with a large one the store is slow.",
					Queries: lines(quantile(0.99, "group, ", "otelcol_msk_receiver_append_to_delivered", of), "{{group}}"),
				},
				{
					Title: "Delivery of a block", As: Lines, Unit: units.Seconds, Alerts: []string{"ClickHouseErrors", "LakeCommitsFail"},
					Says:    "A group whose line rises has a slow store.",
					Queries: lines(quantile(0.99, "group, ", "otelcol_msk_receiver_delivery_duration", of), "{{group}}"),
				},
				{
					Title: "Commit of offsets", As: Lines, Unit: units.Seconds, Page: "docs/runbooks/kafka.md",
					Says:    "A line that rises is a slow group coordinator of Kafka.",
					Queries: lines(quantile(0.99, "group, ", "otelcol_msk_receiver_commit_duration", of), "{{group}}"),
				},
			}},
			{"Blocks", []Panel{
				{
					Title: "Blocks by outcome", As: Lines, Unit: units.CountsPerSecond, Alerts: []string{"PartitionStuck", "StoreRefusesRecords"},
					Says:    "failed come again, refused go to quarantine.",
					Queries: lines(`sum by (group, outcome) (rate(otelcol_msk_receiver_delivery_duration_count{`+of+`}[$__rate_interval]))`, "{{group}} {{outcome}}"),
				},
				{
					Title: "Events of a block, mean", As: Lines, Unit: units.Short,
					Says: "Small blocks at high load are too many partitions or aggregators, and make stores slow.",
					Queries: lines(`sum by (group) (rate(otelcol_msk_receiver_block_events_sum{`+of+`}[$__rate_interval])) / sum by (group) (rate(otelcol_msk_receiver_block_events_count{`+of+`}[$__rate_interval]))`,
						"{{group}}"),
				},
				{
					Title: "Tries again", As: Lines, Unit: units.CountsPerSecond, Alerts: []string{"PartitionStuck"},
					Says:    "deliver is a store that fails, commit and quarantine are Kafka.",
					Queries: lines(`sum by (group, operation) (rate(otelcol_msk_receiver_retries{`+of+`}[$__rate_interval]))`, "{{group}} {{operation}}"),
				},
			}},
			{"Dedupe and enrichment", []Panel{
				{
					Title: "Window of dedupe", As: Lines, Unit: units.Seconds, Limits: b.limits("DedupeWindowShort"), Alerts: []string{"DedupeWindowShort"},
					Says:    "Below the line memory is short, and copies that come later are stored.",
					Queries: lines(`min by (processor, signal) (otelcol_dedupe_effective_window{`+of+`,processor=~"dedupe/(hot|lake)"})`, "{{processor}} {{signal}}"),
				},
				{
					Title: "Memory of dedupe", As: Lines, Unit: units.BytesIEC, Alerts: []string{"DedupeWindowShort"},
					Says:    "At max_memory_bytes the window becomes shorter.",
					Queries: lines(`max by (processor, signal) (otelcol_dedupe_memory_bytes{`+of+`})`, "{{processor}} {{signal}}"),
				},
				{
					Title: "Batches that wait in dedupe", As: Lines, Unit: units.Short, Alerts: []string{"PartitionStuck"},
					Says:    "Above zero for minutes, with no error in the log, is a defect.",
					Queries: lines(`sum by (processor, signal) (otelcol_dedupe_waiting{`+of+`})`, "{{processor}} {{signal}}"),
				},
				{
					Title: "Enrichment", As: Lines, Unit: units.CountsPerSecond, Page: "processor/enrichmentprocessor/README.md",
					Says: "enriched far below in is a lookup table that matches little; untimed and forged are faults of senders.",
					Queries: lines(
						`sum(rate(otelcol_enrichment_events{`+of+`}[$__rate_interval]))`, "in",
						`sum(rate(otelcol_enrichment_enriched{`+of+`}[$__rate_interval]))`, "enriched",
						`sum(rate(otelcol_enrichment_untimed{`+of+`}[$__rate_interval]))`, "untimed",
						`sum(rate(otelcol_enrichment_forged{`+of+`}[$__rate_interval]))`, "forged",
					),
				},
			}},
		},
	}
}
