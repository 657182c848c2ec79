SELECT
    tenant_id,
    toDateTime(toStartOfDay(l.time)) AS day,
    attr_session_id AS session_id,
    max(attr_user_id) AS user_id,
    min(l.time) AS first_time,
    max(l.time) AS last_time,
    count() AS events,
    countIf(severity_number >= 17) AS errors,
    uniqExact(service_name) AS services
FROM logs AS l
WHERE attr_session_id != ''
GROUP BY tenant_id, day, session_id
