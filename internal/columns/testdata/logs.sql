CREATE DATABASE IF NOT EXISTS `pulsegrid`;

CREATE TABLE IF NOT EXISTS `pulsegrid`.`logs`
(
    `tenant_id` LowCardinality(String) COMMENT 'tenant that pays for the event' CODEC(ZSTD(1)),
    `service_name` LowCardinality(String) COMMENT 'resource attribute service.name; empty where the resource has none or it is no text' CODEC(ZSTD(1)),
    `time` DateTime64(9, 'UTC') COMMENT 'when it happened: the event\'s own time, else the time it was observed, else the time it was received (see time_source)' CODEC(Delta(8), ZSTD(1)),
    `time_source` LowCardinality(String) COMMENT 'where time comes from: event, observed or received' CODEC(ZSTD(1)),
    `ingest_time` DateTime64(9, 'UTC') COMMENT 'when the gateway had read the request; the same however often it is replayed. Partitions and retention go by it' CODEC(Delta(8), ZSTD(1)),
    `event_id` FixedString(16) COMMENT 'identity of the event for deduplication, 16 raw bytes' CODEC(NONE),
    `observed_time` DateTime64(9, 'UTC') COMMENT 'when it was observed; 1970-01-01 where the sender did not say' CODEC(Delta(8), ZSTD(1)),
    `severity_number` Int32 COMMENT '1 to 24, 0 where unspecified' CODEC(ZSTD(1)),
    `severity_text` LowCardinality(String) COMMENT 'severity as the source calls it' CODEC(ZSTD(1)),
    `body` String COMMENT 'the body; JSON text where body_type is not string; empty where it is empty' CODEC(ZSTD(1)),
    `body_type` LowCardinality(String) COMMENT 'type of the body: string, int, double, bool, bytes, array, kvlist, empty, or invalid_string (not UTF-8)' CODEC(ZSTD(1)),
    `event_name` LowCardinality(String) COMMENT 'name of the event class' CODEC(ZSTD(1)),
    `trace_id` FixedString(16) COMMENT '16 raw bytes; zeros where there is none' CODEC(NONE),
    `span_id` FixedString(8) COMMENT '8 raw bytes; zeros where there is none' CODEC(NONE),
    `flags` UInt32 COMMENT 'flags of the log record' CODEC(ZSTD(1)),
    `attr_http_request_method` LowCardinality(String) COMMENT 'attribute `http.request.method`; the zero value means: see the attribute maps' CODEC(ZSTD(1)),
    `attr_http_response_status_code` Int64 COMMENT 'attribute `http.response.status_code`; the zero value means: see the attribute maps' CODEC(ZSTD(1)),
    `attr_http_route` LowCardinality(String) COMMENT 'attribute `http.route`; the zero value means: see the attribute maps' CODEC(ZSTD(1)),
    `attr_url_path` String COMMENT 'attribute `url.path`; the zero value means: see the attribute maps' CODEC(ZSTD(1)),
    `attr_error_type` LowCardinality(String) COMMENT 'attribute `error.type`; the zero value means: see the attribute maps' CODEC(ZSTD(1)),
    `attr_exception_type` LowCardinality(String) COMMENT 'attribute `exception.type`; the zero value means: see the attribute maps' CODEC(ZSTD(1)),
    `attr_exception_message` String COMMENT 'attribute `exception.message`; the zero value means: see the attribute maps' CODEC(ZSTD(1)),
    `attr_code_function_name` LowCardinality(String) COMMENT 'attribute `code.function.name`; the zero value means: see the attribute maps' CODEC(ZSTD(1)),
    `attr_thread_name` LowCardinality(String) COMMENT 'attribute `thread.name`; the zero value means: see the attribute maps' CODEC(ZSTD(1)),
    `attr_session_id` String COMMENT 'attribute `session.id`; the zero value means: see the attribute maps' CODEC(ZSTD(1)),
    `attr_user_id` String COMMENT 'attribute `user.id`; the zero value means: see the attribute maps' CODEC(ZSTD(1)),
    `attr_client_address` String COMMENT 'attribute `client.address`; the zero value means: see the attribute maps' CODEC(ZSTD(1)),
    `attributes_string` Map(LowCardinality(String), String) COMMENT 'attributes whose value is a string, in their order; of a key that occurs more than once, the first value' CODEC(ZSTD(1)),
    `attributes_int` Map(LowCardinality(String), Int64) COMMENT 'attributes whose value is an integer' CODEC(ZSTD(1)),
    `attributes_double` Map(LowCardinality(String), Float64) COMMENT 'attributes whose value is a double' CODEC(ZSTD(1)),
    `attributes_bool` Map(LowCardinality(String), Bool) COMMENT 'attributes whose value is a boolean' CODEC(ZSTD(1)),
    `attributes_other` Map(LowCardinality(String), String) COMMENT 'the other attributes (arrays, kvlists, bytes, empty, strings that are not UTF-8) as JSON text, and the further values of keys that occur more than once' CODEC(ZSTD(1)),
    `dropped_attributes_count` UInt32 COMMENT 'attributes that the sender discarded' CODEC(ZSTD(1)),
    `resource` LowCardinality(String) COMMENT 'all attributes of the resource as one JSON object' CODEC(ZSTD(1)),
    `resource_dropped_attributes_count` UInt32 COMMENT 'resource attributes that the sender discarded' CODEC(ZSTD(1)),
    `resource_schema_url` LowCardinality(String) COMMENT 'schema URL of the resource' CODEC(ZSTD(1)),
    `resource_entity_refs` LowCardinality(String) COMMENT 'entity references of the resource as a JSON array of {"schema_url","type","id_keys","description_keys"}; empty text where there are none' CODEC(ZSTD(1)),
    `scope_name` LowCardinality(String) COMMENT 'name of the instrumentation scope' CODEC(ZSTD(1)),
    `scope_version` LowCardinality(String) COMMENT 'version of the instrumentation scope' CODEC(ZSTD(1)),
    `scope_attributes` LowCardinality(String) COMMENT 'attributes of the instrumentation scope as one JSON object' CODEC(ZSTD(1)),
    `scope_dropped_attributes_count` UInt32 COMMENT 'scope attributes that the sender discarded' CODEC(ZSTD(1)),
    `scope_schema_url` LowCardinality(String) COMMENT 'schema URL of the scope' CODEC(ZSTD(1)),
    `kafka_topic` LowCardinality(String) COMMENT 'lineage: topic; empty where the event did not come through Kafka' CODEC(ZSTD(1)),
    `kafka_partition` Int32 COMMENT 'lineage: partition; -1 where there is none' CODEC(ZSTD(1)),
    `kafka_offset` Int64 COMMENT 'lineage: offset of the record; -1 where there is none' CODEC(Delta(8), ZSTD(1)),
    `event_index` Int32 COMMENT 'lineage: ordinal of the event in its record, from 0; -1 where there is none' CODEC(ZSTD(1)),
    INDEX idx_time time TYPE minmax GRANULARITY 1,
    INDEX idx_trace_id trace_id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX idx_body body TYPE tokenbf_v1(32768, 3, 0) GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toDate(ingest_time)
ORDER BY (tenant_id, service_name, time)
TTL toDateTime(ingest_time) + INTERVAL 30 DAY
SETTINGS ttl_only_drop_parts = 1, min_level_for_wide_part = 1, merge_selector_base = 16, non_replicated_deduplication_window = 100000;
