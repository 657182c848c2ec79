SELECT
    tenant_id,
    device AS device_id,
    {from:DateTime('UTC')} AS time,
    {to:DateTime('UTC')} AS cutoff_time,
    countIf(happened >= {from:DateTime('UTC')}) AS events_1h,
    count() AS events_24h,
    countIf(happened >= {from:DateTime('UTC')} AND severity_number >= 17) AS errors_1h,
    countIf(severity_number >= 17) AS errors_24h,
    uniqExact(service_name) AS services_24h,
    dateDiff('second', max(happened), {to:DateTime('UTC')}) AS silent_seconds
FROM
(
    SELECT
        tenant_id, service_name, severity_number, l.time AS happened,
        if(JSONExtractString(resource, 'device.id') != '', JSONExtractString(resource, 'device.id'), attributes_string['device.id']) AS device
    FROM logs AS l
)
WHERE device != ''
GROUP BY tenant_id, device
