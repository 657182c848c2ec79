CREATE DATABASE IF NOT EXISTS `pulsegrid`;

CREATE TABLE IF NOT EXISTS `pulsegrid`.`quarantine_pii`
(
    `tenant_id` LowCardinality(String) COMMENT 'tenant that sent it' CODEC(ZSTD(1)),
    `code` LowCardinality(String) COMMENT 'why, for programs: code of the first verdict, or of the refusal; empty where the record does not say' CODEC(ZSTD(1)),
    `time` DateTime64(9, 'UTC') COMMENT 'when it went to quarantine: when Kafka appended it' CODEC(Delta(8), ZSTD(1)),
    `ingest_time` DateTime64(9, 'UTC') COMMENT 'when the gateway had read the request; equal to time where nobody knows. Partitions and retention go by it' CODEC(Delta(8), ZSTD(1)),
    `event_id` FixedString(16) COMMENT 'identity of the item for deduplication, 16 raw bytes: a hash of what it is and who sent it' CODEC(NONE),
    `signal` LowCardinality(String) COMMENT 'logs, metrics or traces; empty where it is not known' CODEC(ZSTD(1)),
    `source` String COMMENT 'agent or resource that sent it; empty where it is not known' CODEC(ZSTD(1)),
    `gateway` LowCardinality(String) COMMENT 'service.instance.id of the gateway that took it' CODEC(ZSTD(1)),
    `reason` String COMMENT 'why, for people' CODEC(ZSTD(1)),
    `schema` LowCardinality(String) COMMENT 'id of the schema of the first verdict; empty where it is of no schema' CODEC(ZSTD(1)),
    `schema_version` LowCardinality(String) COMMENT 'version of that schema' CODEC(ZSTD(1)),
    `registry_version` LowCardinality(String) COMMENT 'version of the registry that the gateway held it against' CODEC(ZSTD(1)),
    `verdicts` String COMMENT 'every verdict on every event of the item, as JSON (verdicts.md); empty where a store or the decoder refused it' CODEC(ZSTD(1)),
    `pii` Bool COMMENT 'whether it holds personal data, or nobody knows what it holds; the same in every row of a table' CODEC(ZSTD(1)),
    `events` Int64 COMMENT 'events in the body; 0 where they cannot be counted' CODEC(ZSTD(1)),
    `content_type` LowCardinality(String) COMMENT 'of the body: application/x-protobuf is an OTLP request of just the events at fault; else what the sender said' CODEC(ZSTD(1)),
    `content_encoding` LowCardinality(String) COMMENT 'how the body is compressed; empty: it is not' CODEC(ZSTD(1)),
    `object` String COMMENT 'URL of the object that holds the body where it is too large for a record; the body is empty then' CODEC(ZSTD(1)),
    `body` String COMMENT 'the original bytes' CODEC(ZSTD(1)),
    `origin_topic` LowCardinality(String) COMMENT 'topic of the record that an aggregator put into quarantine; empty: the gateway did' CODEC(ZSTD(1)),
    `origin_partition` Int32 COMMENT 'its partition; -1 where there is none' CODEC(ZSTD(1)),
    `origin_offset` Int64 COMMENT 'its offset; -1 where there is none' CODEC(ZSTD(1)),
    `origin_group` LowCardinality(String) COMMENT 'consumer group whose store refused it' CODEC(ZSTD(1)),
    `kafka_topic` LowCardinality(String) COMMENT 'lineage: the quarantine topic; empty where the item did not come through Kafka' CODEC(ZSTD(1)),
    `kafka_partition` Int32 COMMENT 'lineage: partition; -1 where there is none' CODEC(ZSTD(1)),
    `kafka_offset` Int64 COMMENT 'lineage: offset of the record; -1 where there is none' CODEC(Delta(8), ZSTD(1)),
    `event_index` Int32 COMMENT 'lineage: 0, since a record is one item; -1 where there is no record' CODEC(ZSTD(1)),
    INDEX idx_time time TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toDate(ingest_time)
ORDER BY (tenant_id, code, time)
TTL toDateTime(ingest_time) + INTERVAL 30 DAY
SETTINGS ttl_only_drop_parts = 1, min_level_for_wide_part = 1, merge_selector_base = 16, non_replicated_deduplication_window = 100000;
