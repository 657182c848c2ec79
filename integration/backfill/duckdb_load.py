"""Does to the generator's objects the nearest that DuckDB can do to a backfill, and prints what it took as JSON.

usage: duckdb_load.py OBJECTS_DIR DIR

It reads the gzipped lines with a schema, keeps what has the fields of a log, a metric or a span, writes these into tables of a database in DIR, which stand for the hot store, and from
there into a Parquet file each, which stands for the lake. It does not: remove copies, keep malformed lines, name a line's origin, keep the types of attributes (they are texts),
make the two stores agree, or go on where it was killed.
"""
import json
import os
import resource
import sys
import time

import duckdb

objects, target = sys.argv[1:3]
origin = "agent cluster namespace pod node zone image commit account user_agent"
fields = {name: "VARCHAR" for name in f"type service version host env region device_id os {origin} level event_id message name kind unit trace_id span_id".split()}
fields.update({name: "BIGINT" for name in ("timestamp", "time", "start")}, value="DOUBLE", duration_ms="DOUBLE", attributes="MAP(VARCHAR, VARCHAR)", tags="MAP(VARCHAR, VARCHAR)")
resource_columns = "split_part(key, '/', 1) as tenant_id, service, version, host, env, region, device_id, os, " + ", ".join(origin.split())
kinds = {
    "logs": f"{resource_columns}, make_timestamp_ms(timestamp) as time, level, event_id, message, attributes from lines where type = 'log' and timestamp is not null",
    "metrics": f"{resource_columns}, make_timestamp_ms(time) as time, name, kind, unit, value, tags as attributes from lines where type = 'metric' and value is not null",
    "spans": f"{resource_columns}, make_timestamp_ms(start) as time, trace_id, span_id, name, kind, duration_ms, attributes from lines where type = 'span' and trace_id is not null",
}
began = time.time()
db = duckdb.connect(os.path.join(target, "hot.db"))
db.sql(f"""create table lines as select * exclude (filename), substr(filename, {len(objects) + 2}) as key
    from read_json('{objects}/**/*.json.gz', format='newline_delimited', ignore_errors=true, filename=true, columns={fields!r})""")
rows = 0
for name, query in kinds.items():
    db.sql(f"create table {name} as select {query} order by tenant_id, service, time")
    db.sql(f"copy {name} to '{target}/{name}.parquet' (format parquet, compression zstd)")
    rows += db.sql(f"select count(*) from {name}").fetchall()[0][0]
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"rows": rows, "seconds": time.time() - began, "cpu_seconds": used.ru_utime + used.ru_stime}))
