"""Writes the rows of services of an Iceberg table, read by pyiceberg, to a file as an Arrow stream, and prints how many they are. While the table
is not there yet it prints 0 and writes nothing.

usage: rows.py CATALOG_URI WAREHOUSE TABLE SERVICE_PREFIX FILE
"""
import sys

import pyarrow as pa
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.expressions import StartsWith

uri, warehouse, name, prefix, out = sys.argv[1:6]
try:
    table = SqlCatalog("pulsegrid", uri=uri, warehouse=warehouse).load_table(name)
except NoSuchTableError:
    print(0)
    sys.exit()
rows = table.scan(row_filter=StartsWith("service_name", prefix)).to_arrow()
with pa.OSFile(out, "wb") as f, pa.ipc.new_stream(f, rows.schema) as w:
    w.write_table(rows)
print(rows.num_rows)
