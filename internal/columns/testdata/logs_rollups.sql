CREATE TABLE IF NOT EXISTS `pulsegrid`.`logs_10s`
(
    `tenant_id` LowCardinality(String) COMMENT 'tenant' CODEC(ZSTD(1)),
    `service_name` LowCardinality(String) COMMENT 'service' CODEC(ZSTD(1)),
    `time` DateTime('UTC') COMMENT 'begin of the bucket that the row\'s time lies in' CODEC(ZSTD(1)),
    `severity` LowCardinality(String) COMMENT 'trace, debug, info, warn, error, fatal or unspecified, by severity_number' CODEC(ZSTD(1)),
    `count` SimpleAggregateFunction(sum, UInt64) COMMENT 'log records' CODEC(ZSTD(1)),
    `ingest_date` Date COMMENT 'day of the rows\' ingest_time. Partitions and retention go by it; an hour whose rows came on two days has two rows' CODEC(ZSTD(1)),
    INDEX idx_time time TYPE minmax GRANULARITY 1
)
ENGINE = AggregatingMergeTree
PARTITION BY ingest_date
PRIMARY KEY (tenant_id, service_name, time)
ORDER BY (tenant_id, service_name, time, severity, ingest_date)
TTL ingest_date + INTERVAL 60 DAY
SETTINGS ttl_only_drop_parts = 1, merge_selector_base = 16, non_replicated_deduplication_window = 100000;

CREATE MATERIALIZED VIEW IF NOT EXISTS `pulsegrid`.`logs_10s_mv` TO `pulsegrid`.`logs_10s`
AS SELECT
    s.tenant_id AS `tenant_id`,
    s.service_name AS `service_name`,
    toDateTime(intDiv(least(intDiv(toUnixTimestamp64Nano(s.time), 1000000000), 4294967290), 10) * 10, 'UTC') AS `time`,
    multiIf(s.severity_number < 1, 'unspecified', s.severity_number < 5, 'trace', s.severity_number < 9, 'debug', s.severity_number < 13, 'info', s.severity_number < 17, 'warn', s.severity_number < 21, 'error', s.severity_number < 25, 'fatal', 'unspecified') AS `severity`,
    count() AS `count`,
    toDate(s.ingest_time) AS `ingest_date`
FROM `pulsegrid`.`logs` AS s
GROUP BY
    s.tenant_id,
    s.service_name,
    toDateTime(intDiv(least(intDiv(toUnixTimestamp64Nano(s.time), 1000000000), 4294967290), 10) * 10, 'UTC'),
    multiIf(s.severity_number < 1, 'unspecified', s.severity_number < 5, 'trace', s.severity_number < 9, 'debug', s.severity_number < 13, 'info', s.severity_number < 17, 'warn', s.severity_number < 21, 'error', s.severity_number < 25, 'fatal', 'unspecified'),
    toDate(s.ingest_time)
COMMENT 'rollup of logs to 10 s, definition 249d155d';

CREATE TABLE IF NOT EXISTS `pulsegrid`.`logs_1m`
(
    `tenant_id` LowCardinality(String) COMMENT 'tenant' CODEC(ZSTD(1)),
    `service_name` LowCardinality(String) COMMENT 'service' CODEC(ZSTD(1)),
    `time` DateTime('UTC') COMMENT 'begin of the bucket that the row\'s time lies in' CODEC(ZSTD(1)),
    `severity` LowCardinality(String) COMMENT 'trace, debug, info, warn, error, fatal or unspecified, by severity_number' CODEC(ZSTD(1)),
    `count` SimpleAggregateFunction(sum, UInt64) COMMENT 'log records' CODEC(ZSTD(1)),
    `ingest_date` Date COMMENT 'day of the rows\' ingest_time. Partitions and retention go by it; an hour whose rows came on two days has two rows' CODEC(ZSTD(1)),
    INDEX idx_time time TYPE minmax GRANULARITY 1
)
ENGINE = AggregatingMergeTree
PARTITION BY ingest_date
PRIMARY KEY (tenant_id, service_name, time)
ORDER BY (tenant_id, service_name, time, severity, ingest_date)
TTL ingest_date + INTERVAL 60 DAY
SETTINGS ttl_only_drop_parts = 1, merge_selector_base = 16, non_replicated_deduplication_window = 100000;

CREATE MATERIALIZED VIEW IF NOT EXISTS `pulsegrid`.`logs_1m_mv` TO `pulsegrid`.`logs_1m`
AS SELECT
    s.tenant_id AS `tenant_id`,
    s.service_name AS `service_name`,
    toDateTime(intDiv(toUnixTimestamp(s.time), 60) * 60, 'UTC') AS `time`,
    s.severity AS `severity`,
    sum(s.count) AS `count`,
    s.ingest_date AS `ingest_date`
FROM `pulsegrid`.`logs_10s` AS s
GROUP BY
    s.tenant_id,
    s.service_name,
    toDateTime(intDiv(toUnixTimestamp(s.time), 60) * 60, 'UTC'),
    s.severity,
    s.ingest_date
COMMENT 'rollup of logs_10s to 60 s, definition 6b520e99';

CREATE TABLE IF NOT EXISTS `pulsegrid`.`logs_1h`
(
    `tenant_id` LowCardinality(String) COMMENT 'tenant' CODEC(ZSTD(1)),
    `service_name` LowCardinality(String) COMMENT 'service' CODEC(ZSTD(1)),
    `time` DateTime('UTC') COMMENT 'begin of the bucket that the row\'s time lies in' CODEC(ZSTD(1)),
    `severity` LowCardinality(String) COMMENT 'trace, debug, info, warn, error, fatal or unspecified, by severity_number' CODEC(ZSTD(1)),
    `count` SimpleAggregateFunction(sum, UInt64) COMMENT 'log records' CODEC(ZSTD(1)),
    `ingest_date` Date COMMENT 'day of the rows\' ingest_time. Partitions and retention go by it; an hour whose rows came on two days has two rows' CODEC(ZSTD(1)),
    INDEX idx_time time TYPE minmax GRANULARITY 1
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(ingest_date)
PRIMARY KEY (tenant_id, service_name, time)
ORDER BY (tenant_id, service_name, time, severity, ingest_date)
TTL ingest_date + INTERVAL 60 DAY
SETTINGS ttl_only_drop_parts = 1, merge_selector_base = 16, non_replicated_deduplication_window = 100000;

CREATE MATERIALIZED VIEW IF NOT EXISTS `pulsegrid`.`logs_1h_mv` TO `pulsegrid`.`logs_1h`
AS SELECT
    s.tenant_id AS `tenant_id`,
    s.service_name AS `service_name`,
    toDateTime(intDiv(toUnixTimestamp(s.time), 3600) * 3600, 'UTC') AS `time`,
    s.severity AS `severity`,
    sum(s.count) AS `count`,
    s.ingest_date AS `ingest_date`
FROM `pulsegrid`.`logs_1m` AS s
GROUP BY
    s.tenant_id,
    s.service_name,
    toDateTime(intDiv(toUnixTimestamp(s.time), 3600) * 3600, 'UTC'),
    s.severity,
    s.ingest_date
COMMENT 'rollup of logs_1m to 3600 s, definition bfcc4a88';
