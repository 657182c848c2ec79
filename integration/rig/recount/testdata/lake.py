"""Counts the events of one service in the lake, with two readers that know nothing of PulseGrid, and prints what they found as JSON.

usage: lake.py CATALOG_URI WAREHOUSE CATALOG_PROPERTIES_JSON OBJECTS_DIR SERVICE

OBJECTS_DIR is where the object store keeps its buckets; empty where the lake is a directory.

For each table: "events": of each event [number, rows, distinct places in Kafka] as DuckDB reads the data files; "pyiceberg": rows as
pyiceberg reads the table; "late": the longest time in seconds from an event's own time to the commit of the snapshot that shows it.
A table that is not there yet is left out.
"""
import json
import sys

import duckdb
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.expressions import EqualTo

uri, warehouse, properties, objects, service = sys.argv[1:6]
catalog = SqlCatalog("pulsegrid", uri=uri, warehouse=warehouse, **json.loads(properties))
numbers = {"logs": "substr(body, 7)::bigint", "spans": "('0x' || hex(span_id))::bigint - 1", "metrics": "value_int"}
found = {}
for name, number in numbers.items():
    try:
        table = catalog.load_table("pulsegrid." + name)
    except NoSuchTableError:
        continue
    scan = table.scan(row_filter=EqualTo("service_name", service), selected_fields=("event_index",))
    paths = [t.file.file_path for t in scan.plan_files()]
    local = {p.replace("s3:/", objects, 1).removeprefix("file://"): p for p in paths}
    found[name] = {"pyiceberg": scan.to_arrow().num_rows, "events": [], "late": 0, "files": len(paths)}
    if not paths:
        continue
    read = f"read_parquet({list(local)!r}, filename=true) where service_name = $1"
    found[name]["events"] = duckdb.sql(
        f"select {number}, count(*), count(distinct (kafka_partition, kafka_offset, event_index)) from {read} group by 1", params=[service]).fetchall()
    entries = table.inspect.entries().select(["snapshot_id", "data_file"]).to_pylist()
    snapshots = {s.snapshot_id: s.timestamp_ms for s in table.snapshots()}
    shown = {e["data_file"]["file_path"]: snapshots.get(e["snapshot_id"]) for e in entries}
    oldest = duckdb.sql(f"select filename, epoch_ms(min(time)) from {read} group by 1", params=[service]).fetchall()
    late = [shown[local[f]] - t for f, t in oldest if shown.get(local[f])]
    found[name]["late"] = max(late, default=0) / 1000
print(json.dumps(found))
