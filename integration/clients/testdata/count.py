"""Counts the rows of each service in the lake, with pyiceberg and with DuckDB over the same data files, and prints them as JSON.

usage: count.py CATALOG_URI WAREHOUSE
"""
import collections
import json
import sys

import duckdb
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import NoSuchTableError

catalog = SqlCatalog("pulsegrid", uri=sys.argv[1], warehouse=sys.argv[2])
out = {}
for name in ("logs", "spans", "metrics"):
    try:
        table = catalog.load_table("pulsegrid." + name)
    except NoSuchTableError:
        continue
    scan = table.scan(selected_fields=("service_name",))
    rows = collections.Counter(scan.to_arrow()["service_name"].to_pylist())
    files = [t.file.file_path.removeprefix("file://") for t in scan.plan_files()]
    duck = dict(duckdb.sql(f"select service_name, count(*) from read_parquet({files!r}) group by 1").fetchall()) if files else {}
    if rows != duck:
        sys.exit(f"pyiceberg finds {rows} in {name}, DuckDB {duck}")
    for service, n in rows.items():
        out.setdefault(service, {})[name] = n
print(json.dumps(out))
