CREATE VIEW IF NOT EXISTS `pulsegrid`.`otel_logs`
AS SELECT
    s.time AS `Timestamp`,
    replaceOne(lower(hex(s.trace_id)), '00000000000000000000000000000000', '') AS `TraceId`,
    replaceOne(lower(hex(s.span_id)), '0000000000000000', '') AS `SpanId`,
    toUInt8(bitAnd(s.flags, 255)) AS `TraceFlags`,
    if(s.severity_text != '', toString(s.severity_text), multiIf(s.severity_number < 1, '', s.severity_number < 5, 'TRACE', s.severity_number < 9, 'DEBUG', s.severity_number < 13, 'INFO', s.severity_number < 17, 'WARN', s.severity_number < 21, 'ERROR', s.severity_number < 25, 'FATAL', '')) AS `SeverityText`,
    toUInt8(if(s.severity_number BETWEEN 0 AND 255, s.severity_number, 0)) AS `SeverityNumber`,
    s.service_name AS `ServiceName`,
    s.body AS `Body`,
    s.resource_schema_url AS `ResourceSchemaUrl`,
    CAST(JSONExtract(toString(s.resource), 'Map(String, String)') AS Map(LowCardinality(String), String)) AS `ResourceAttributes`,
    s.scope_schema_url AS `ScopeSchemaUrl`,
    s.scope_name AS `ScopeName`,
    s.scope_version AS `ScopeVersion`,
    CAST(JSONExtract(toString(s.scope_attributes), 'Map(String, String)') AS Map(LowCardinality(String), String)) AS `ScopeAttributes`,
    mapConcat(mapFilter((k, v) -> v != '', CAST(map('http.request.method', toString(s.`attr_http_request_method`), 'http.response.status_code', if(s.`attr_http_response_status_code` = 0, '', toString(s.`attr_http_response_status_code`)), 'http.route', toString(s.`attr_http_route`), 'url.path', toString(s.`attr_url_path`), 'error.type', toString(s.`attr_error_type`), 'exception.type', toString(s.`attr_exception_type`), 'exception.message', toString(s.`attr_exception_message`), 'code.function.name', toString(s.`attr_code_function_name`), 'thread.name', toString(s.`attr_thread_name`), 'session.id', toString(s.`attr_session_id`), 'user.id', toString(s.`attr_user_id`), 'client.address', toString(s.`attr_client_address`)) AS Map(LowCardinality(String), String))), s.attributes_string, CAST(s.attributes_int AS Map(LowCardinality(String), String)), CAST(s.attributes_double AS Map(LowCardinality(String), String)), CAST(s.attributes_bool AS Map(LowCardinality(String), String)), s.attributes_other) AS `LogAttributes`,
    s.event_name AS `EventName`,
    s.tenant_id AS `TenantId`,
    s.`attr_http_request_method` AS `attr_http_request_method`,
    s.`attr_http_response_status_code` AS `attr_http_response_status_code`,
    s.`attr_http_route` AS `attr_http_route`,
    s.`attr_url_path` AS `attr_url_path`,
    s.`attr_error_type` AS `attr_error_type`,
    s.`attr_exception_type` AS `attr_exception_type`,
    s.`attr_exception_message` AS `attr_exception_message`,
    s.`attr_code_function_name` AS `attr_code_function_name`,
    s.`attr_thread_name` AS `attr_thread_name`,
    s.`attr_session_id` AS `attr_session_id`,
    s.`attr_user_id` AS `attr_user_id`,
    s.`attr_client_address` AS `attr_client_address`,
    s.`attributes_string` AS `attributes_string`,
    s.`attributes_int` AS `attributes_int`,
    s.`attributes_double` AS `attributes_double`,
    s.`attributes_bool` AS `attributes_bool`,
    s.`attributes_other` AS `attributes_other`
FROM `pulsegrid`.`logs` AS s
COMMENT 'PulseGrid\'s view for tools: log records (definition d2b474f0)';

CREATE VIEW IF NOT EXISTS `pulsegrid`.`bi_logs`
AS SELECT
    s.`tenant_id` AS `tenant_id`,
    s.`service_name` AS `service_name`,
    s.`time` AS `time`,
    s.`time_source` AS `time_source`,
    s.`ingest_time` AS `ingest_time`,
    replaceOne(lower(hex(s.`event_id`)), '00000000000000000000000000000000', '') AS `event_id`,
    s.`observed_time` AS `observed_time`,
    s.`severity_number` AS `severity_number`,
    s.`severity_text` AS `severity_text`,
    s.`body` AS `body`,
    s.`body_type` AS `body_type`,
    s.`event_name` AS `event_name`,
    replaceOne(lower(hex(s.`trace_id`)), '00000000000000000000000000000000', '') AS `trace_id`,
    replaceOne(lower(hex(s.`span_id`)), '0000000000000000', '') AS `span_id`,
    s.`flags` AS `flags`,
    s.`attr_http_request_method` AS `attr_http_request_method`,
    s.`attr_http_response_status_code` AS `attr_http_response_status_code`,
    s.`attr_http_route` AS `attr_http_route`,
    s.`attr_url_path` AS `attr_url_path`,
    s.`attr_error_type` AS `attr_error_type`,
    s.`attr_exception_type` AS `attr_exception_type`,
    s.`attr_exception_message` AS `attr_exception_message`,
    s.`attr_code_function_name` AS `attr_code_function_name`,
    s.`attr_thread_name` AS `attr_thread_name`,
    s.`attr_session_id` AS `attr_session_id`,
    s.`attr_user_id` AS `attr_user_id`,
    s.`attr_client_address` AS `attr_client_address`,
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
    toJSONString(mapConcat(mapFilter((k, v) -> v != '', CAST(map('http.request.method', toString(s.`attr_http_request_method`), 'http.response.status_code', if(s.`attr_http_response_status_code` = 0, '', toString(s.`attr_http_response_status_code`)), 'http.route', toString(s.`attr_http_route`), 'url.path', toString(s.`attr_url_path`), 'error.type', toString(s.`attr_error_type`), 'exception.type', toString(s.`attr_exception_type`), 'exception.message', toString(s.`attr_exception_message`), 'code.function.name', toString(s.`attr_code_function_name`), 'thread.name', toString(s.`attr_thread_name`), 'session.id', toString(s.`attr_session_id`), 'user.id', toString(s.`attr_user_id`), 'client.address', toString(s.`attr_client_address`)) AS Map(LowCardinality(String), String))), s.attributes_string, CAST(s.attributes_int AS Map(LowCardinality(String), String)), CAST(s.attributes_double AS Map(LowCardinality(String), String)), CAST(s.attributes_bool AS Map(LowCardinality(String), String)), s.attributes_other)) AS `attributes`
FROM `pulsegrid`.`logs` AS s
COMMENT 'PulseGrid\'s view for tools: flat rows of logs (definition bd069cc8)';

CREATE VIEW IF NOT EXISTS `pulsegrid`.`bi_logs_10s`
AS SELECT
    s.`tenant_id` AS `tenant_id`,
    s.`service_name` AS `service_name`,
    s.`time` AS `time`,
    s.`severity` AS `severity`,
    CAST(sum(s.count) AS UInt64) AS `count`
FROM `pulsegrid`.`logs_10s` AS s
GROUP BY s.`tenant_id`, s.`service_name`, s.`time`, s.`severity`
COMMENT 'PulseGrid\'s view for tools: finished rows of logs_10s (definition 7982e443)';

CREATE VIEW IF NOT EXISTS `pulsegrid`.`bi_logs_1m`
AS SELECT
    s.`tenant_id` AS `tenant_id`,
    s.`service_name` AS `service_name`,
    s.`time` AS `time`,
    s.`severity` AS `severity`,
    CAST(sum(s.count) AS UInt64) AS `count`
FROM `pulsegrid`.`logs_1m` AS s
GROUP BY s.`tenant_id`, s.`service_name`, s.`time`, s.`severity`
COMMENT 'PulseGrid\'s view for tools: finished rows of logs_1m (definition 2dc96e4a)';

CREATE VIEW IF NOT EXISTS `pulsegrid`.`bi_logs_1h`
AS SELECT
    s.`tenant_id` AS `tenant_id`,
    s.`service_name` AS `service_name`,
    s.`time` AS `time`,
    s.`severity` AS `severity`,
    CAST(sum(s.count) AS UInt64) AS `count`
FROM `pulsegrid`.`logs_1h` AS s
GROUP BY s.`tenant_id`, s.`service_name`, s.`time`, s.`severity`
COMMENT 'PulseGrid\'s view for tools: finished rows of logs_1h (definition 6250cf12)';
