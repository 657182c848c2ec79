SELECT
    tenant_id,
    hour AS time,
    count() AS requests,
    countIf(status_code = 'error') AS errors,
    count() / 1000 AS allowed
FROM
(
    SELECT tenant_id, status_code, toStartOfHour(toDateTime(s.time)) AS hour
    FROM spans AS s
    WHERE kind IN ('server', 'consumer')
)
GROUP BY tenant_id, hour
