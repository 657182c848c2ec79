INSERT INTO logs
    (tenant_id, service_name, time, ingest_time, event_id, severity_number, body, attributes_string, kafka_topic, kafka_partition, kafka_offset, event_index)
-- Invented log records of 80 devices over the last three days, as if each had arrived when it says. They go straight into ClickHouse, past Kafka.
-- A device fails in some hours: half of its records are errors then. Most failures have an hour before them in which the device says little and falls silent. Some such
-- hours mean nothing, any device may log an error by chance, and one record in twenty arrives an hour or more late.
WITH
    cityHash64('cycle', device) % 1000 AS seed,
    8 + seed % 9 AS cycle,                                                -- hours from one failure to the next
    (hour + seed) % cycle AS phase,
    cityHash64('decoy', device, intDiv(hour + seed, cycle)) % 5 AS decoy, -- 0: the quiet hour is not followed by a failure; 1: the failure has no quiet hour before it
    (phase = cycle - 2 AND decoy != 1) AS quiet,
    (phase = cycle - 1 AND decoy != 0) AS failing,
    cityHash64('record', device, hour, n) AS noise,
    ((failing AND n % 2 = 0) OR noise % 1500 = 0) AS error
SELECT
    'ml-example', 'firmware',
    toDateTime64(3600 * hour, 9, 'UTC') + toIntervalMillisecond(if(quiet, 900, 3600) * (intDiv(noise, 10000) % 1000)) AS happened,
    happened + toIntervalSecond(if(noise % 20 = 7, 3600 + 60 * (noise % 120), 1 + noise % 5)),
    unhex(hex(MD5(concat(device, toString(hour), ' ', toString(n))))),
    if(error, 17, 9), if(error, 'write failed', 'ok'), map('device.id', device),
    '', -1, -1, -1
FROM
(
    SELECT concat('device-', leftPad(toString(d), 2, '0')) AS device, intDiv(toUnixTimestamp(now()), 3600) - h AS hour, n
    FROM (SELECT number AS d FROM numbers(80)) AS devices
    CROSS JOIN (SELECT number + 1 AS h FROM numbers(72)) AS hours
    CROSS JOIN (SELECT number AS n FROM numbers(16)) AS records
)
WHERE n < if(quiet, 5, 10 + noise % 7)
