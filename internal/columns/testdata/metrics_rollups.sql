CREATE TABLE IF NOT EXISTS `pulsegrid`.`metrics_10s`
(
    `tenant_id` LowCardinality(String) COMMENT 'tenant' CODEC(ZSTD(1)),
    `service_name` LowCardinality(String) COMMENT 'service' CODEC(ZSTD(1)),
    `time` DateTime('UTC') COMMENT 'begin of the bucket that the row\'s time lies in' CODEC(ZSTD(1)),
    `metric_name` LowCardinality(String) COMMENT 'name of the metric' CODEC(ZSTD(1)),
    `metric_type` LowCardinality(String) COMMENT 'gauge, sum, histogram, exponential_histogram or summary' CODEC(ZSTD(1)),
    `metric_unit` LowCardinality(String) COMMENT 'unit of the metric' CODEC(ZSTD(1)),
    `temporality` LowCardinality(String) COMMENT 'delta, cumulative, unspecified, or empty for gauge and summary' CODEC(ZSTD(1)),
    `is_monotonic` Bool COMMENT 'sum: whether it only grows' CODEC(ZSTD(1)),
    `attr_http_request_method` LowCardinality(String) COMMENT 'promoted attribute `http.request.method`' CODEC(ZSTD(1)),
    `attr_http_response_status_code` Int64 COMMENT 'promoted attribute `http.response.status_code`' CODEC(ZSTD(1)),
    `attr_http_route` LowCardinality(String) COMMENT 'promoted attribute `http.route`' CODEC(ZSTD(1)),
    `attr_error_type` LowCardinality(String) COMMENT 'promoted attribute `error.type`' CODEC(ZSTD(1)),
    `attr_db_system_name` LowCardinality(String) COMMENT 'promoted attribute `db.system.name`' CODEC(ZSTD(1)),
    `attr_db_operation_name` LowCardinality(String) COMMENT 'promoted attribute `db.operation.name`' CODEC(ZSTD(1)),
    `attr_rpc_service` LowCardinality(String) COMMENT 'promoted attribute `rpc.service`' CODEC(ZSTD(1)),
    `attr_rpc_method` LowCardinality(String) COMMENT 'promoted attribute `rpc.method`' CODEC(ZSTD(1)),
    `attr_messaging_system` LowCardinality(String) COMMENT 'promoted attribute `messaging.system`' CODEC(ZSTD(1)),
    `attr_server_address` LowCardinality(String) COMMENT 'promoted attribute `server.address`' CODEC(ZSTD(1)),
    `attr_state` LowCardinality(String) COMMENT 'promoted attribute `state`' CODEC(ZSTD(1)),
    `attr_system_device` LowCardinality(String) COMMENT 'promoted attribute `system.device`' CODEC(ZSTD(1)),
    `attr_network_io_direction` LowCardinality(String) COMMENT 'promoted attribute `network.io.direction`' CODEC(ZSTD(1)),
    `points` SimpleAggregateFunction(sum, UInt64) COMMENT 'data points, those without a value too' CODEC(ZSTD(1)),
    `value_count` SimpleAggregateFunction(sum, UInt64) COMMENT 'values: finite ones of gauges and sums; measurements of histograms and summaries' CODEC(ZSTD(1)),
    `value_sum` SimpleAggregateFunction(sum, Float64) COMMENT 'their sum' CODEC(ZSTD(1)),
    `value_min` SimpleAggregateFunction(min, Float64) COMMENT 'least of them; inf where there is none' CODEC(ZSTD(1)),
    `value_max` SimpleAggregateFunction(max, Float64) COMMENT 'greatest of them; -inf where there is none' CODEC(ZSTD(1)),
    `value_last` SimpleAggregateFunction(max, Tuple(time DateTime64(9, 'UTC'), value Float64)) COMMENT 'gauges and sums: time and value of the newest point, of equally new ones the greatest' CODEC(ZSTD(1)),
    `ingest_date` Date COMMENT 'day of the rows\' ingest_time. Partitions and retention go by it; an hour whose rows came on two days has two rows' CODEC(ZSTD(1)),
    INDEX idx_time time TYPE minmax GRANULARITY 1
)
ENGINE = AggregatingMergeTree
PARTITION BY ingest_date
PRIMARY KEY (tenant_id, service_name, time)
ORDER BY (tenant_id, service_name, time, metric_name, metric_type, metric_unit, temporality, is_monotonic, attr_http_request_method, attr_http_response_status_code, attr_http_route, attr_error_type, attr_db_system_name, attr_db_operation_name, attr_rpc_service, attr_rpc_method, attr_messaging_system, attr_server_address, attr_state, attr_system_device, attr_network_io_direction, ingest_date)
TTL ingest_date + INTERVAL 60 DAY
SETTINGS ttl_only_drop_parts = 1, merge_selector_base = 16, non_replicated_deduplication_window = 100000;

CREATE MATERIALIZED VIEW IF NOT EXISTS `pulsegrid`.`metrics_10s_mv` TO `pulsegrid`.`metrics_10s`
AS SELECT
    s.tenant_id AS `tenant_id`,
    s.service_name AS `service_name`,
    toDateTime(intDiv(least(intDiv(toUnixTimestamp64Nano(s.time), 1000000000), 4294967290), 10) * 10, 'UTC') AS `time`,
    s.metric_name AS `metric_name`,
    s.metric_type AS `metric_type`,
    s.metric_unit AS `metric_unit`,
    s.temporality AS `temporality`,
    s.is_monotonic AS `is_monotonic`,
    s.attr_http_request_method AS `attr_http_request_method`,
    s.attr_http_response_status_code AS `attr_http_response_status_code`,
    s.attr_http_route AS `attr_http_route`,
    s.attr_error_type AS `attr_error_type`,
    s.attr_db_system_name AS `attr_db_system_name`,
    s.attr_db_operation_name AS `attr_db_operation_name`,
    s.attr_rpc_service AS `attr_rpc_service`,
    s.attr_rpc_method AS `attr_rpc_method`,
    s.attr_messaging_system AS `attr_messaging_system`,
    s.attr_server_address AS `attr_server_address`,
    s.attr_state AS `attr_state`,
    s.attr_system_device AS `attr_system_device`,
    s.attr_network_io_direction AS `attr_network_io_direction`,
    count() AS `points`,
    sum(if((s.value_type IN ('int', 'double') AND isFinite(s.value_double) AND bitAnd(s.flags, 1) = 0), 1, s.count)) AS `value_count`,
    sum(multiIf((s.value_type IN ('int', 'double') AND isFinite(s.value_double) AND bitAnd(s.flags, 1) = 0), s.value_double, s.has_sum AND isFinite(s.sum), s.sum, 0.)) AS `value_sum`,
    min(multiIf((s.value_type IN ('int', 'double') AND isFinite(s.value_double) AND bitAnd(s.flags, 1) = 0), s.value_double, s.has_min AND NOT isNaN(s.min), s.min, inf)) AS `value_min`,
    max(multiIf((s.value_type IN ('int', 'double') AND isFinite(s.value_double) AND bitAnd(s.flags, 1) = 0), s.value_double, s.has_max AND NOT isNaN(s.max), s.max, -inf)) AS `value_max`,
    max(if((s.value_type IN ('int', 'double') AND isFinite(s.value_double) AND bitAnd(s.flags, 1) = 0), tuple(s.time, s.value_double), tuple(toDateTime64(0, 9, 'UTC'), 0.))) AS `value_last`,
    toDate(s.ingest_time) AS `ingest_date`
FROM `pulsegrid`.`metrics` AS s
GROUP BY
    s.tenant_id,
    s.service_name,
    toDateTime(intDiv(least(intDiv(toUnixTimestamp64Nano(s.time), 1000000000), 4294967290), 10) * 10, 'UTC'),
    s.metric_name,
    s.metric_type,
    s.metric_unit,
    s.temporality,
    s.is_monotonic,
    s.attr_http_request_method,
    s.attr_http_response_status_code,
    s.attr_http_route,
    s.attr_error_type,
    s.attr_db_system_name,
    s.attr_db_operation_name,
    s.attr_rpc_service,
    s.attr_rpc_method,
    s.attr_messaging_system,
    s.attr_server_address,
    s.attr_state,
    s.attr_system_device,
    s.attr_network_io_direction,
    toDate(s.ingest_time)
COMMENT 'rollup of metrics to 10 s, definition a006f11f';

CREATE TABLE IF NOT EXISTS `pulsegrid`.`metrics_1m`
(
    `tenant_id` LowCardinality(String) COMMENT 'tenant' CODEC(ZSTD(1)),
    `service_name` LowCardinality(String) COMMENT 'service' CODEC(ZSTD(1)),
    `time` DateTime('UTC') COMMENT 'begin of the bucket that the row\'s time lies in' CODEC(ZSTD(1)),
    `metric_name` LowCardinality(String) COMMENT 'name of the metric' CODEC(ZSTD(1)),
    `metric_type` LowCardinality(String) COMMENT 'gauge, sum, histogram, exponential_histogram or summary' CODEC(ZSTD(1)),
    `metric_unit` LowCardinality(String) COMMENT 'unit of the metric' CODEC(ZSTD(1)),
    `temporality` LowCardinality(String) COMMENT 'delta, cumulative, unspecified, or empty for gauge and summary' CODEC(ZSTD(1)),
    `is_monotonic` Bool COMMENT 'sum: whether it only grows' CODEC(ZSTD(1)),
    `attr_http_request_method` LowCardinality(String) COMMENT 'promoted attribute `http.request.method`' CODEC(ZSTD(1)),
    `attr_http_response_status_code` Int64 COMMENT 'promoted attribute `http.response.status_code`' CODEC(ZSTD(1)),
    `attr_http_route` LowCardinality(String) COMMENT 'promoted attribute `http.route`' CODEC(ZSTD(1)),
    `attr_error_type` LowCardinality(String) COMMENT 'promoted attribute `error.type`' CODEC(ZSTD(1)),
    `attr_db_system_name` LowCardinality(String) COMMENT 'promoted attribute `db.system.name`' CODEC(ZSTD(1)),
    `attr_db_operation_name` LowCardinality(String) COMMENT 'promoted attribute `db.operation.name`' CODEC(ZSTD(1)),
    `attr_rpc_service` LowCardinality(String) COMMENT 'promoted attribute `rpc.service`' CODEC(ZSTD(1)),
    `attr_rpc_method` LowCardinality(String) COMMENT 'promoted attribute `rpc.method`' CODEC(ZSTD(1)),
    `attr_messaging_system` LowCardinality(String) COMMENT 'promoted attribute `messaging.system`' CODEC(ZSTD(1)),
    `attr_server_address` LowCardinality(String) COMMENT 'promoted attribute `server.address`' CODEC(ZSTD(1)),
    `attr_state` LowCardinality(String) COMMENT 'promoted attribute `state`' CODEC(ZSTD(1)),
    `attr_system_device` LowCardinality(String) COMMENT 'promoted attribute `system.device`' CODEC(ZSTD(1)),
    `attr_network_io_direction` LowCardinality(String) COMMENT 'promoted attribute `network.io.direction`' CODEC(ZSTD(1)),
    `points` SimpleAggregateFunction(sum, UInt64) COMMENT 'data points, those without a value too' CODEC(ZSTD(1)),
    `value_count` SimpleAggregateFunction(sum, UInt64) COMMENT 'values: finite ones of gauges and sums; measurements of histograms and summaries' CODEC(ZSTD(1)),
    `value_sum` SimpleAggregateFunction(sum, Float64) COMMENT 'their sum' CODEC(ZSTD(1)),
    `value_min` SimpleAggregateFunction(min, Float64) COMMENT 'least of them; inf where there is none' CODEC(ZSTD(1)),
    `value_max` SimpleAggregateFunction(max, Float64) COMMENT 'greatest of them; -inf where there is none' CODEC(ZSTD(1)),
    `value_last` SimpleAggregateFunction(max, Tuple(time DateTime64(9, 'UTC'), value Float64)) COMMENT 'gauges and sums: time and value of the newest point, of equally new ones the greatest' CODEC(ZSTD(1)),
    `ingest_date` Date COMMENT 'day of the rows\' ingest_time. Partitions and retention go by it; an hour whose rows came on two days has two rows' CODEC(ZSTD(1)),
    INDEX idx_time time TYPE minmax GRANULARITY 1
)
ENGINE = AggregatingMergeTree
PARTITION BY ingest_date
PRIMARY KEY (tenant_id, service_name, time)
ORDER BY (tenant_id, service_name, time, metric_name, metric_type, metric_unit, temporality, is_monotonic, attr_http_request_method, attr_http_response_status_code, attr_http_route, attr_error_type, attr_db_system_name, attr_db_operation_name, attr_rpc_service, attr_rpc_method, attr_messaging_system, attr_server_address, attr_state, attr_system_device, attr_network_io_direction, ingest_date)
TTL ingest_date + INTERVAL 60 DAY
SETTINGS ttl_only_drop_parts = 1, merge_selector_base = 16, non_replicated_deduplication_window = 100000;

CREATE MATERIALIZED VIEW IF NOT EXISTS `pulsegrid`.`metrics_1m_mv` TO `pulsegrid`.`metrics_1m`
AS SELECT
    s.tenant_id AS `tenant_id`,
    s.service_name AS `service_name`,
    toDateTime(intDiv(toUnixTimestamp(s.time), 60) * 60, 'UTC') AS `time`,
    s.metric_name AS `metric_name`,
    s.metric_type AS `metric_type`,
    s.metric_unit AS `metric_unit`,
    s.temporality AS `temporality`,
    s.is_monotonic AS `is_monotonic`,
    s.attr_http_request_method AS `attr_http_request_method`,
    s.attr_http_response_status_code AS `attr_http_response_status_code`,
    s.attr_http_route AS `attr_http_route`,
    s.attr_error_type AS `attr_error_type`,
    s.attr_db_system_name AS `attr_db_system_name`,
    s.attr_db_operation_name AS `attr_db_operation_name`,
    s.attr_rpc_service AS `attr_rpc_service`,
    s.attr_rpc_method AS `attr_rpc_method`,
    s.attr_messaging_system AS `attr_messaging_system`,
    s.attr_server_address AS `attr_server_address`,
    s.attr_state AS `attr_state`,
    s.attr_system_device AS `attr_system_device`,
    s.attr_network_io_direction AS `attr_network_io_direction`,
    sum(s.points) AS `points`,
    sum(s.value_count) AS `value_count`,
    sum(s.value_sum) AS `value_sum`,
    min(s.value_min) AS `value_min`,
    max(s.value_max) AS `value_max`,
    max(s.value_last) AS `value_last`,
    s.ingest_date AS `ingest_date`
FROM `pulsegrid`.`metrics_10s` AS s
GROUP BY
    s.tenant_id,
    s.service_name,
    toDateTime(intDiv(toUnixTimestamp(s.time), 60) * 60, 'UTC'),
    s.metric_name,
    s.metric_type,
    s.metric_unit,
    s.temporality,
    s.is_monotonic,
    s.attr_http_request_method,
    s.attr_http_response_status_code,
    s.attr_http_route,
    s.attr_error_type,
    s.attr_db_system_name,
    s.attr_db_operation_name,
    s.attr_rpc_service,
    s.attr_rpc_method,
    s.attr_messaging_system,
    s.attr_server_address,
    s.attr_state,
    s.attr_system_device,
    s.attr_network_io_direction,
    s.ingest_date
COMMENT 'rollup of metrics_10s to 60 s, definition d7edbca4';

CREATE TABLE IF NOT EXISTS `pulsegrid`.`metrics_1h`
(
    `tenant_id` LowCardinality(String) COMMENT 'tenant' CODEC(ZSTD(1)),
    `service_name` LowCardinality(String) COMMENT 'service' CODEC(ZSTD(1)),
    `time` DateTime('UTC') COMMENT 'begin of the bucket that the row\'s time lies in' CODEC(ZSTD(1)),
    `metric_name` LowCardinality(String) COMMENT 'name of the metric' CODEC(ZSTD(1)),
    `metric_type` LowCardinality(String) COMMENT 'gauge, sum, histogram, exponential_histogram or summary' CODEC(ZSTD(1)),
    `metric_unit` LowCardinality(String) COMMENT 'unit of the metric' CODEC(ZSTD(1)),
    `temporality` LowCardinality(String) COMMENT 'delta, cumulative, unspecified, or empty for gauge and summary' CODEC(ZSTD(1)),
    `is_monotonic` Bool COMMENT 'sum: whether it only grows' CODEC(ZSTD(1)),
    `attr_http_request_method` LowCardinality(String) COMMENT 'promoted attribute `http.request.method`' CODEC(ZSTD(1)),
    `attr_http_response_status_code` Int64 COMMENT 'promoted attribute `http.response.status_code`' CODEC(ZSTD(1)),
    `attr_http_route` LowCardinality(String) COMMENT 'promoted attribute `http.route`' CODEC(ZSTD(1)),
    `attr_error_type` LowCardinality(String) COMMENT 'promoted attribute `error.type`' CODEC(ZSTD(1)),
    `attr_db_system_name` LowCardinality(String) COMMENT 'promoted attribute `db.system.name`' CODEC(ZSTD(1)),
    `attr_db_operation_name` LowCardinality(String) COMMENT 'promoted attribute `db.operation.name`' CODEC(ZSTD(1)),
    `attr_rpc_service` LowCardinality(String) COMMENT 'promoted attribute `rpc.service`' CODEC(ZSTD(1)),
    `attr_rpc_method` LowCardinality(String) COMMENT 'promoted attribute `rpc.method`' CODEC(ZSTD(1)),
    `attr_messaging_system` LowCardinality(String) COMMENT 'promoted attribute `messaging.system`' CODEC(ZSTD(1)),
    `attr_server_address` LowCardinality(String) COMMENT 'promoted attribute `server.address`' CODEC(ZSTD(1)),
    `attr_state` LowCardinality(String) COMMENT 'promoted attribute `state`' CODEC(ZSTD(1)),
    `attr_system_device` LowCardinality(String) COMMENT 'promoted attribute `system.device`' CODEC(ZSTD(1)),
    `attr_network_io_direction` LowCardinality(String) COMMENT 'promoted attribute `network.io.direction`' CODEC(ZSTD(1)),
    `points` SimpleAggregateFunction(sum, UInt64) COMMENT 'data points, those without a value too' CODEC(ZSTD(1)),
    `value_count` SimpleAggregateFunction(sum, UInt64) COMMENT 'values: finite ones of gauges and sums; measurements of histograms and summaries' CODEC(ZSTD(1)),
    `value_sum` SimpleAggregateFunction(sum, Float64) COMMENT 'their sum' CODEC(ZSTD(1)),
    `value_min` SimpleAggregateFunction(min, Float64) COMMENT 'least of them; inf where there is none' CODEC(ZSTD(1)),
    `value_max` SimpleAggregateFunction(max, Float64) COMMENT 'greatest of them; -inf where there is none' CODEC(ZSTD(1)),
    `value_last` SimpleAggregateFunction(max, Tuple(time DateTime64(9, 'UTC'), value Float64)) COMMENT 'gauges and sums: time and value of the newest point, of equally new ones the greatest' CODEC(ZSTD(1)),
    `ingest_date` Date COMMENT 'day of the rows\' ingest_time. Partitions and retention go by it; an hour whose rows came on two days has two rows' CODEC(ZSTD(1)),
    INDEX idx_time time TYPE minmax GRANULARITY 1
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(ingest_date)
PRIMARY KEY (tenant_id, service_name, time)
ORDER BY (tenant_id, service_name, time, metric_name, metric_type, metric_unit, temporality, is_monotonic, attr_http_request_method, attr_http_response_status_code, attr_http_route, attr_error_type, attr_db_system_name, attr_db_operation_name, attr_rpc_service, attr_rpc_method, attr_messaging_system, attr_server_address, attr_state, attr_system_device, attr_network_io_direction, ingest_date)
TTL ingest_date + INTERVAL 60 DAY
SETTINGS ttl_only_drop_parts = 1, merge_selector_base = 16, non_replicated_deduplication_window = 100000;

CREATE MATERIALIZED VIEW IF NOT EXISTS `pulsegrid`.`metrics_1h_mv` TO `pulsegrid`.`metrics_1h`
AS SELECT
    s.tenant_id AS `tenant_id`,
    s.service_name AS `service_name`,
    toDateTime(intDiv(toUnixTimestamp(s.time), 3600) * 3600, 'UTC') AS `time`,
    s.metric_name AS `metric_name`,
    s.metric_type AS `metric_type`,
    s.metric_unit AS `metric_unit`,
    s.temporality AS `temporality`,
    s.is_monotonic AS `is_monotonic`,
    s.attr_http_request_method AS `attr_http_request_method`,
    s.attr_http_response_status_code AS `attr_http_response_status_code`,
    s.attr_http_route AS `attr_http_route`,
    s.attr_error_type AS `attr_error_type`,
    s.attr_db_system_name AS `attr_db_system_name`,
    s.attr_db_operation_name AS `attr_db_operation_name`,
    s.attr_rpc_service AS `attr_rpc_service`,
    s.attr_rpc_method AS `attr_rpc_method`,
    s.attr_messaging_system AS `attr_messaging_system`,
    s.attr_server_address AS `attr_server_address`,
    s.attr_state AS `attr_state`,
    s.attr_system_device AS `attr_system_device`,
    s.attr_network_io_direction AS `attr_network_io_direction`,
    sum(s.points) AS `points`,
    sum(s.value_count) AS `value_count`,
    sum(s.value_sum) AS `value_sum`,
    min(s.value_min) AS `value_min`,
    max(s.value_max) AS `value_max`,
    max(s.value_last) AS `value_last`,
    s.ingest_date AS `ingest_date`
FROM `pulsegrid`.`metrics_1m` AS s
GROUP BY
    s.tenant_id,
    s.service_name,
    toDateTime(intDiv(toUnixTimestamp(s.time), 3600) * 3600, 'UTC'),
    s.metric_name,
    s.metric_type,
    s.metric_unit,
    s.temporality,
    s.is_monotonic,
    s.attr_http_request_method,
    s.attr_http_response_status_code,
    s.attr_http_route,
    s.attr_error_type,
    s.attr_db_system_name,
    s.attr_db_operation_name,
    s.attr_rpc_service,
    s.attr_rpc_method,
    s.attr_messaging_system,
    s.attr_server_address,
    s.attr_state,
    s.attr_system_device,
    s.attr_network_io_direction,
    s.ingest_date
COMMENT 'rollup of metrics_1m to 3600 s, definition a2d6546a';
