CREATE VIEW IF NOT EXISTS `pulsegrid`.`otel_traces`
AS SELECT
    s.time AS `Timestamp`,
    replaceOne(lower(hex(s.trace_id)), '00000000000000000000000000000000', '') AS `TraceId`,
    replaceOne(lower(hex(s.span_id)), '0000000000000000', '') AS `SpanId`,
    replaceOne(lower(hex(s.parent_span_id)), '0000000000000000', '') AS `ParentSpanId`,
    s.trace_state AS `TraceState`,
    s.name AS `SpanName`,
    initcap(s.kind) AS `SpanKind`,
    s.service_name AS `ServiceName`,
    CAST(JSONExtract(toString(s.resource), 'Map(String, String)') AS Map(LowCardinality(String), String)) AS `ResourceAttributes`,
    s.scope_name AS `ScopeName`,
    s.scope_version AS `ScopeVersion`,
    mapConcat(mapFilter((k, v) -> v != '', CAST(map('http.request.method', toString(s.`attr_http_request_method`), 'http.response.status_code', if(s.`attr_http_response_status_code` = 0, '', toString(s.`attr_http_response_status_code`)), 'http.route', toString(s.`attr_http_route`), 'url.path', toString(s.`attr_url_path`), 'error.type', toString(s.`attr_error_type`), 'db.system.name', toString(s.`attr_db_system_name`), 'db.namespace', toString(s.`attr_db_namespace`), 'db.operation.name', toString(s.`attr_db_operation_name`), 'rpc.system', toString(s.`attr_rpc_system`), 'rpc.service', toString(s.`attr_rpc_service`), 'rpc.method', toString(s.`attr_rpc_method`), 'messaging.system', toString(s.`attr_messaging_system`), 'messaging.destination.name', toString(s.`attr_messaging_destination_name`), 'server.address', toString(s.`attr_server_address`), 'server.port', if(s.`attr_server_port` = 0, '', toString(s.`attr_server_port`))) AS Map(LowCardinality(String), String))), s.attributes_string, CAST(s.attributes_int AS Map(LowCardinality(String), String)), CAST(s.attributes_double AS Map(LowCardinality(String), String)), CAST(s.attributes_bool AS Map(LowCardinality(String), String)), s.attributes_other) AS `SpanAttributes`,
    toUInt64(greatest(s.duration_nano, 0)) AS `Duration`,
    initcap(s.status_code) AS `StatusCode`,
    s.status_message AS `StatusMessage`,
    s.events_time AS `Events.Timestamp`,
    s.events_name AS `Events.Name`,
    arrayMap(x -> CAST(JSONExtract(toString(x), 'Map(String, String)') AS Map(LowCardinality(String), String)), s.events_attributes) AS `Events.Attributes`,
    arrayMap(x -> replaceOne(lower(hex(x)), '00000000000000000000000000000000', ''), s.links_trace_id) AS `Links.TraceId`,
    arrayMap(x -> replaceOne(lower(hex(x)), '0000000000000000', ''), s.links_span_id) AS `Links.SpanId`,
    s.links_trace_state AS `Links.TraceState`,
    arrayMap(x -> CAST(JSONExtract(toString(x), 'Map(String, String)') AS Map(LowCardinality(String), String)), s.links_attributes) AS `Links.Attributes`,
    s.tenant_id AS `TenantId`,
    s.`attr_http_request_method` AS `attr_http_request_method`,
    s.`attr_http_response_status_code` AS `attr_http_response_status_code`,
    s.`attr_http_route` AS `attr_http_route`,
    s.`attr_url_path` AS `attr_url_path`,
    s.`attr_error_type` AS `attr_error_type`,
    s.`attr_db_system_name` AS `attr_db_system_name`,
    s.`attr_db_namespace` AS `attr_db_namespace`,
    s.`attr_db_operation_name` AS `attr_db_operation_name`,
    s.`attr_rpc_system` AS `attr_rpc_system`,
    s.`attr_rpc_service` AS `attr_rpc_service`,
    s.`attr_rpc_method` AS `attr_rpc_method`,
    s.`attr_messaging_system` AS `attr_messaging_system`,
    s.`attr_messaging_destination_name` AS `attr_messaging_destination_name`,
    s.`attr_server_address` AS `attr_server_address`,
    s.`attr_server_port` AS `attr_server_port`,
    s.`attributes_string` AS `attributes_string`,
    s.`attributes_int` AS `attributes_int`,
    s.`attributes_double` AS `attributes_double`,
    s.`attributes_bool` AS `attributes_bool`,
    s.`attributes_other` AS `attributes_other`
FROM `pulsegrid`.`spans` AS s
COMMENT 'PulseGrid\'s view for tools: spans (definition 1e0613e7)';

CREATE VIEW IF NOT EXISTS `pulsegrid`.`otel_traces_trace_id_ts`
AS SELECT
    replaceOne(lower(hex(s.trace_id)), '00000000000000000000000000000000', '') AS `TraceId`,
    min(s.time) AS `Start`,
    max(s.time) AS `End`
FROM `pulsegrid`.`spans` AS s
GROUP BY replaceOne(lower(hex(s.trace_id)), '00000000000000000000000000000000', '')
COMMENT 'PulseGrid\'s view for tools: first and last start of a span, by trace (definition 1e832472)';

CREATE VIEW IF NOT EXISTS `pulsegrid`.`bi_spans`
AS SELECT
    s.`tenant_id` AS `tenant_id`,
    s.`service_name` AS `service_name`,
    s.`time` AS `time`,
    s.`time_source` AS `time_source`,
    s.`ingest_time` AS `ingest_time`,
    replaceOne(lower(hex(s.`event_id`)), '00000000000000000000000000000000', '') AS `event_id`,
    replaceOne(lower(hex(s.`trace_id`)), '00000000000000000000000000000000', '') AS `trace_id`,
    replaceOne(lower(hex(s.`span_id`)), '0000000000000000', '') AS `span_id`,
    replaceOne(lower(hex(s.`parent_span_id`)), '0000000000000000', '') AS `parent_span_id`,
    s.`trace_state` AS `trace_state`,
    s.`name` AS `name`,
    s.`kind` AS `kind`,
    s.`end_time` AS `end_time`,
    s.`duration_nano` AS `duration_nano`,
    s.`status_code` AS `status_code`,
    s.`status_message` AS `status_message`,
    s.`flags` AS `flags`,
    s.`dropped_events_count` AS `dropped_events_count`,
    s.`dropped_links_count` AS `dropped_links_count`,
    s.`attr_http_request_method` AS `attr_http_request_method`,
    s.`attr_http_response_status_code` AS `attr_http_response_status_code`,
    s.`attr_http_route` AS `attr_http_route`,
    s.`attr_url_path` AS `attr_url_path`,
    s.`attr_error_type` AS `attr_error_type`,
    s.`attr_db_system_name` AS `attr_db_system_name`,
    s.`attr_db_namespace` AS `attr_db_namespace`,
    s.`attr_db_operation_name` AS `attr_db_operation_name`,
    s.`attr_rpc_system` AS `attr_rpc_system`,
    s.`attr_rpc_service` AS `attr_rpc_service`,
    s.`attr_rpc_method` AS `attr_rpc_method`,
    s.`attr_messaging_system` AS `attr_messaging_system`,
    s.`attr_messaging_destination_name` AS `attr_messaging_destination_name`,
    s.`attr_server_address` AS `attr_server_address`,
    s.`attr_server_port` AS `attr_server_port`,
    s.`dropped_attributes_count` AS `dropped_attributes_count`,
    s.`resource` AS `resource`,
    s.`resource_dropped_attributes_count` AS `resource_dropped_attributes_count`,
    s.`resource_schema_url` AS `resource_schema_url`,
    s.`resource_entity_refs` AS `resource_entity_refs`,
    s.`scope_name` AS `scope_name`,
    s.`scope_version` AS `scope_version`,
    s.`scope_attributes` AS `scope_attributes`,
    s.`scope_dropped_attributes_count` AS `scope_dropped_attributes_count`,
    s.`scope_schema_url` AS `scope_schema_url`,
    s.`kafka_topic` AS `kafka_topic`,
    s.`kafka_partition` AS `kafka_partition`,
    s.`kafka_offset` AS `kafka_offset`,
    s.`event_index` AS `event_index`,
    toJSONString(mapConcat(mapFilter((k, v) -> v != '', CAST(map('http.request.method', toString(s.`attr_http_request_method`), 'http.response.status_code', if(s.`attr_http_response_status_code` = 0, '', toString(s.`attr_http_response_status_code`)), 'http.route', toString(s.`attr_http_route`), 'url.path', toString(s.`attr_url_path`), 'error.type', toString(s.`attr_error_type`), 'db.system.name', toString(s.`attr_db_system_name`), 'db.namespace', toString(s.`attr_db_namespace`), 'db.operation.name', toString(s.`attr_db_operation_name`), 'rpc.system', toString(s.`attr_rpc_system`), 'rpc.service', toString(s.`attr_rpc_service`), 'rpc.method', toString(s.`attr_rpc_method`), 'messaging.system', toString(s.`attr_messaging_system`), 'messaging.destination.name', toString(s.`attr_messaging_destination_name`), 'server.address', toString(s.`attr_server_address`), 'server.port', if(s.`attr_server_port` = 0, '', toString(s.`attr_server_port`))) AS Map(LowCardinality(String), String))), s.attributes_string, CAST(s.attributes_int AS Map(LowCardinality(String), String)), CAST(s.attributes_double AS Map(LowCardinality(String), String)), CAST(s.attributes_bool AS Map(LowCardinality(String), String)), s.attributes_other)) AS `attributes`
FROM `pulsegrid`.`spans` AS s
COMMENT 'PulseGrid\'s view for tools: flat rows of spans (definition 6343bdcf)';

CREATE VIEW IF NOT EXISTS `pulsegrid`.`bi_spans_10s`
AS SELECT
    s.`tenant_id` AS `tenant_id`,
    s.`service_name` AS `service_name`,
    s.`time` AS `time`,
    s.`name` AS `name`,
    s.`kind` AS `kind`,
    CAST(sum(s.count) AS UInt64) AS `count`,
    CAST(sum(s.errors) AS UInt64) AS `errors`,
    toFloat64(sum(s.duration_sum)) AS `duration_sum`,
    CAST(max(s.duration_max) AS Int64) AS `duration_max`,
    quantileDDMerge(0.01, 0.5)(s.duration_quantiles) AS `duration_p50`,
    quantileDDMerge(0.01, 0.95)(s.duration_quantiles) AS `duration_p95`,
    quantileDDMerge(0.01, 0.99)(s.duration_quantiles) AS `duration_p99`
FROM `pulsegrid`.`spans_10s` AS s
GROUP BY s.`tenant_id`, s.`service_name`, s.`time`, s.`name`, s.`kind`
COMMENT 'PulseGrid\'s view for tools: finished rows of spans_10s (definition e8140057)';

CREATE VIEW IF NOT EXISTS `pulsegrid`.`bi_spans_1m`
AS SELECT
    s.`tenant_id` AS `tenant_id`,
    s.`service_name` AS `service_name`,
    s.`time` AS `time`,
    s.`name` AS `name`,
    s.`kind` AS `kind`,
    CAST(sum(s.count) AS UInt64) AS `count`,
    CAST(sum(s.errors) AS UInt64) AS `errors`,
    toFloat64(sum(s.duration_sum)) AS `duration_sum`,
    CAST(max(s.duration_max) AS Int64) AS `duration_max`,
    quantileDDMerge(0.01, 0.5)(s.duration_quantiles) AS `duration_p50`,
    quantileDDMerge(0.01, 0.95)(s.duration_quantiles) AS `duration_p95`,
    quantileDDMerge(0.01, 0.99)(s.duration_quantiles) AS `duration_p99`
FROM `pulsegrid`.`spans_1m` AS s
GROUP BY s.`tenant_id`, s.`service_name`, s.`time`, s.`name`, s.`kind`
COMMENT 'PulseGrid\'s view for tools: finished rows of spans_1m (definition 89120052)';

CREATE VIEW IF NOT EXISTS `pulsegrid`.`bi_spans_1h`
AS SELECT
    s.`tenant_id` AS `tenant_id`,
    s.`service_name` AS `service_name`,
    s.`time` AS `time`,
    s.`name` AS `name`,
    s.`kind` AS `kind`,
    CAST(sum(s.count) AS UInt64) AS `count`,
    CAST(sum(s.errors) AS UInt64) AS `errors`,
    toFloat64(sum(s.duration_sum)) AS `duration_sum`,
    CAST(max(s.duration_max) AS Int64) AS `duration_max`,
    quantileDDMerge(0.01, 0.5)(s.duration_quantiles) AS `duration_p50`,
    quantileDDMerge(0.01, 0.95)(s.duration_quantiles) AS `duration_p95`,
    quantileDDMerge(0.01, 0.99)(s.duration_quantiles) AS `duration_p99`
FROM `pulsegrid`.`spans_1h` AS s
GROUP BY s.`tenant_id`, s.`service_name`, s.`time`, s.`name`, s.`kind`
COMMENT 'PulseGrid\'s view for tools: finished rows of spans_1h (definition e51177f2)';
