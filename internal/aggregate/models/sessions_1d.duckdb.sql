SELECT
    tenant_id,
    {from:TIMESTAMPTZ} AS day,
    attr_session_id AS session_id,
    max(attr_user_id) AS user_id,
    min(happened) AS first_time,
    max(happened) AS last_time,
    count(*) AS events,
    count_if(severity_number >= 17) AS errors,
    count(DISTINCT service_name) AS services
FROM
(
    -- The lake keeps the nanoseconds below the microsecond beside it.
    SELECT tenant_id, attr_session_id, attr_user_id, severity_number, service_name, make_timestamp_ns(epoch_us(time) * 1000 + time_nanos) AS happened
    FROM logs
)
WHERE attr_session_id != ''
GROUP BY tenant_id, attr_session_id
