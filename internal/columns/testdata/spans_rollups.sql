CREATE TABLE IF NOT EXISTS `pulsegrid`.`spans_10s`
(
    `tenant_id` LowCardinality(String) COMMENT 'tenant' CODEC(ZSTD(1)),
    `service_name` LowCardinality(String) COMMENT 'service' CODEC(ZSTD(1)),
    `time` DateTime('UTC') COMMENT 'begin of the bucket that the row\'s time lies in' CODEC(ZSTD(1)),
    `name` LowCardinality(String) COMMENT 'name of the span' CODEC(ZSTD(1)),
    `kind` LowCardinality(String) COMMENT 'kind of the span' CODEC(ZSTD(1)),
    `count` SimpleAggregateFunction(sum, UInt64) COMMENT 'spans' CODEC(ZSTD(1)),
    `errors` SimpleAggregateFunction(sum, UInt64) COMMENT 'spans whose status_code is error' CODEC(ZSTD(1)),
    `duration_sum` SimpleAggregateFunction(sum, Int128) COMMENT 'sum of the durations in nanoseconds, negative ones as 0' CODEC(ZSTD(1)),
    `duration_max` SimpleAggregateFunction(max, Int64) COMMENT 'longest duration in nanoseconds' CODEC(ZSTD(1)),
    `duration_quantiles` AggregateFunction(quantileDD(0.01, 0.5), UInt64) COMMENT 'state of the durations\' quantiles, of any level, to 1 % of the value: quantileDDMerge(0.01, 0.99)(duration_quantiles)' CODEC(ZSTD(1)),
    `ingest_date` Date COMMENT 'day of the rows\' ingest_time. Partitions and retention go by it; an hour whose rows came on two days has two rows' CODEC(ZSTD(1)),
    INDEX idx_time time TYPE minmax GRANULARITY 1
)
ENGINE = AggregatingMergeTree
PARTITION BY ingest_date
PRIMARY KEY (tenant_id, service_name, time)
ORDER BY (tenant_id, service_name, time, name, kind, ingest_date)
TTL ingest_date + INTERVAL 60 DAY
SETTINGS ttl_only_drop_parts = 1, merge_selector_base = 16, non_replicated_deduplication_window = 100000;

CREATE MATERIALIZED VIEW IF NOT EXISTS `pulsegrid`.`spans_10s_mv` TO `pulsegrid`.`spans_10s`
AS SELECT
    s.tenant_id AS `tenant_id`,
    s.service_name AS `service_name`,
    toDateTime(intDiv(least(intDiv(toUnixTimestamp64Nano(s.time), 1000000000), 4294967290), 10) * 10, 'UTC') AS `time`,
    s.name AS `name`,
    s.kind AS `kind`,
    count() AS `count`,
    countIf(s.status_code = 'error') AS `errors`,
    sum(toInt128(greatest(s.duration_nano, 0))) AS `duration_sum`,
    max(greatest(s.duration_nano, 0)) AS `duration_max`,
    quantileDDState(0.01, 0.5)(toUInt64(greatest(s.duration_nano, 0))) AS `duration_quantiles`,
    toDate(s.ingest_time) AS `ingest_date`
FROM `pulsegrid`.`spans` AS s
GROUP BY
    s.tenant_id,
    s.service_name,
    toDateTime(intDiv(least(intDiv(toUnixTimestamp64Nano(s.time), 1000000000), 4294967290), 10) * 10, 'UTC'),
    s.name,
    s.kind,
    toDate(s.ingest_time)
COMMENT 'rollup of spans to 10 s, definition de0f832e';

CREATE TABLE IF NOT EXISTS `pulsegrid`.`spans_1m`
(
    `tenant_id` LowCardinality(String) COMMENT 'tenant' CODEC(ZSTD(1)),
    `service_name` LowCardinality(String) COMMENT 'service' CODEC(ZSTD(1)),
    `time` DateTime('UTC') COMMENT 'begin of the bucket that the row\'s time lies in' CODEC(ZSTD(1)),
    `name` LowCardinality(String) COMMENT 'name of the span' CODEC(ZSTD(1)),
    `kind` LowCardinality(String) COMMENT 'kind of the span' CODEC(ZSTD(1)),
    `count` SimpleAggregateFunction(sum, UInt64) COMMENT 'spans' CODEC(ZSTD(1)),
    `errors` SimpleAggregateFunction(sum, UInt64) COMMENT 'spans whose status_code is error' CODEC(ZSTD(1)),
    `duration_sum` SimpleAggregateFunction(sum, Int128) COMMENT 'sum of the durations in nanoseconds, negative ones as 0' CODEC(ZSTD(1)),
    `duration_max` SimpleAggregateFunction(max, Int64) COMMENT 'longest duration in nanoseconds' CODEC(ZSTD(1)),
    `duration_quantiles` AggregateFunction(quantileDD(0.01, 0.5), UInt64) COMMENT 'state of the durations\' quantiles, of any level, to 1 % of the value: quantileDDMerge(0.01, 0.99)(duration_quantiles)' CODEC(ZSTD(1)),
    `ingest_date` Date COMMENT 'day of the rows\' ingest_time. Partitions and retention go by it; an hour whose rows came on two days has two rows' CODEC(ZSTD(1)),
    INDEX idx_time time TYPE minmax GRANULARITY 1
)
ENGINE = AggregatingMergeTree
PARTITION BY ingest_date
PRIMARY KEY (tenant_id, service_name, time)
ORDER BY (tenant_id, service_name, time, name, kind, ingest_date)
TTL ingest_date + INTERVAL 60 DAY
SETTINGS ttl_only_drop_parts = 1, merge_selector_base = 16, non_replicated_deduplication_window = 100000;

CREATE MATERIALIZED VIEW IF NOT EXISTS `pulsegrid`.`spans_1m_mv` TO `pulsegrid`.`spans_1m`
AS SELECT
    s.tenant_id AS `tenant_id`,
    s.service_name AS `service_name`,
    toDateTime(intDiv(toUnixTimestamp(s.time), 60) * 60, 'UTC') AS `time`,
    s.name AS `name`,
    s.kind AS `kind`,
    sum(s.count) AS `count`,
    sum(s.errors) AS `errors`,
    sum(s.duration_sum) AS `duration_sum`,
    max(s.duration_max) AS `duration_max`,
    quantileDDMergeState(0.01, 0.5)(s.duration_quantiles) AS `duration_quantiles`,
    s.ingest_date AS `ingest_date`
FROM `pulsegrid`.`spans_10s` AS s
GROUP BY
    s.tenant_id,
    s.service_name,
    toDateTime(intDiv(toUnixTimestamp(s.time), 60) * 60, 'UTC'),
    s.name,
    s.kind,
    s.ingest_date
COMMENT 'rollup of spans_10s to 60 s, definition bf73f4ac';

CREATE TABLE IF NOT EXISTS `pulsegrid`.`spans_1h`
(
    `tenant_id` LowCardinality(String) COMMENT 'tenant' CODEC(ZSTD(1)),
    `service_name` LowCardinality(String) COMMENT 'service' CODEC(ZSTD(1)),
    `time` DateTime('UTC') COMMENT 'begin of the bucket that the row\'s time lies in' CODEC(ZSTD(1)),
    `name` LowCardinality(String) COMMENT 'name of the span' CODEC(ZSTD(1)),
    `kind` LowCardinality(String) COMMENT 'kind of the span' CODEC(ZSTD(1)),
    `count` SimpleAggregateFunction(sum, UInt64) COMMENT 'spans' CODEC(ZSTD(1)),
    `errors` SimpleAggregateFunction(sum, UInt64) COMMENT 'spans whose status_code is error' CODEC(ZSTD(1)),
    `duration_sum` SimpleAggregateFunction(sum, Int128) COMMENT 'sum of the durations in nanoseconds, negative ones as 0' CODEC(ZSTD(1)),
    `duration_max` SimpleAggregateFunction(max, Int64) COMMENT 'longest duration in nanoseconds' CODEC(ZSTD(1)),
    `duration_quantiles` AggregateFunction(quantileDD(0.01, 0.5), UInt64) COMMENT 'state of the durations\' quantiles, of any level, to 1 % of the value: quantileDDMerge(0.01, 0.99)(duration_quantiles)' CODEC(ZSTD(1)),
    `ingest_date` Date COMMENT 'day of the rows\' ingest_time. Partitions and retention go by it; an hour whose rows came on two days has two rows' CODEC(ZSTD(1)),
    INDEX idx_time time TYPE minmax GRANULARITY 1
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(ingest_date)
PRIMARY KEY (tenant_id, service_name, time)
ORDER BY (tenant_id, service_name, time, name, kind, ingest_date)
TTL ingest_date + INTERVAL 60 DAY
SETTINGS ttl_only_drop_parts = 1, merge_selector_base = 16, non_replicated_deduplication_window = 100000;

CREATE MATERIALIZED VIEW IF NOT EXISTS `pulsegrid`.`spans_1h_mv` TO `pulsegrid`.`spans_1h`
AS SELECT
    s.tenant_id AS `tenant_id`,
    s.service_name AS `service_name`,
    toDateTime(intDiv(toUnixTimestamp(s.time), 3600) * 3600, 'UTC') AS `time`,
    s.name AS `name`,
    s.kind AS `kind`,
    sum(s.count) AS `count`,
    sum(s.errors) AS `errors`,
    sum(s.duration_sum) AS `duration_sum`,
    max(s.duration_max) AS `duration_max`,
    quantileDDMergeState(0.01, 0.5)(s.duration_quantiles) AS `duration_quantiles`,
    s.ingest_date AS `ingest_date`
FROM `pulsegrid`.`spans_1m` AS s
GROUP BY
    s.tenant_id,
    s.service_name,
    toDateTime(intDiv(toUnixTimestamp(s.time), 3600) * 3600, 'UTC'),
    s.name,
    s.kind,
    s.ingest_date
COMMENT 'rollup of spans_1m to 3600 s, definition 80008b0a';
