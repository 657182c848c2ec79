"""Counts rows of an Iceberg table twice, with pyiceberg and with DuckDB over the same data files, and prints both as JSON.

usage: count.py CATALOG_URI WAREHOUSE TABLE SERVICE [DISTINCT_COLUMN]
"""
import json
import sys

import duckdb
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.expressions import EqualTo

uri, warehouse, name, service = sys.argv[1:5]
distinct = sys.argv[5] if len(sys.argv) > 5 else "event_index"
table = SqlCatalog("pulsegrid", uri=uri, warehouse=warehouse).load_table(name)
place = ("kafka_partition", "kafka_offset", "event_index")
rows = table.scan(row_filter=EqualTo("service_name", service), selected_fields=(*place, distinct)).to_arrow()
places = set(zip(*(rows[c].to_pylist() for c in place)))
files = [t.file.file_path.removeprefix("file://") for t in table.scan().plan_files()]
duck = duckdb.sql(f"select count(*) from read_parquet({files!r}) where service_name = $1", params=[service]).fetchall()[0][0] if files else 0
print(json.dumps({
    "pyiceberg": rows.num_rows, "duckdb": duck, "places": len(places), "distinct": len(set(rows[distinct].to_pylist())),
    "files": len(files), "snapshots": len(table.snapshots()),
}))
