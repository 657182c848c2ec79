SELECT
    tenant_id,
    device AS device_id,
    {from:TIMESTAMPTZ} AS time,
    {to:TIMESTAMPTZ} AS cutoff_time,
    count_if(happened >= {from:TIMESTAMPTZ}) AS events_1h,
    count(*) AS events_24h,
    count_if(happened >= {from:TIMESTAMPTZ} AND severity_number >= 17) AS errors_1h,
    count_if(severity_number >= 17) AS errors_24h,
    count(DISTINCT service_name) AS services_24h,
    epoch_us({to:TIMESTAMPTZ}) // 1000000 - epoch_us(max(happened)) // 1000000 AS silent_seconds
FROM
(
    SELECT
        tenant_id, service_name, severity_number, time AS happened,
        CASE
            WHEN json_type(resource, '$."device.id"') IN ('VARCHAR', 'UBIGINT', 'BIGINT') AND json_extract_string(resource, '$."device.id"') != '' THEN json_extract_string(resource, '$."device.id"')
            ELSE coalesce(attributes_string['device.id'], '')
        END AS device
    FROM logs
)
WHERE device != ''
GROUP BY tenant_id, device
