SELECT tenant_id, hour AS time, count(*) AS requests, count_if(status_code = 'error') AS errors, count(*) / 1000 AS allowed
FROM
(
    SELECT tenant_id, status_code, date_trunc('hour', time) AS hour
    FROM spans
    WHERE kind IN ('server', 'consumer')
)
GROUP BY tenant_id, hour
