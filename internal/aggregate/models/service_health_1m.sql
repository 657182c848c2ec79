SELECT
    tenant_id,
    service_name,
    minute AS time,
    count() AS spans,
    countIf(status_code = 'error') AS errors,
    quantileDD(0.01, 0.5)(duration) AS duration_p50_nano,
    quantileDD(0.01, 0.99)(duration) AS duration_p99_nano,
    max(duration) AS duration_max_nano
FROM
(
    SELECT tenant_id, service_name, status_code, toStartOfMinute(toDateTime(s.time)) AS minute, toUInt64(greatest(duration_nano, 0)) AS duration
    FROM spans AS s
)
GROUP BY tenant_id, service_name, minute
