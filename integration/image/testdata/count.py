"""Prints how many rows of a service the lake's table of logs holds.

usage: count.py CATALOG_URI WAREHOUSE SERVICE
"""
import sys

from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.expressions import EqualTo

uri, warehouse, service = sys.argv[1:]
try:
    table = SqlCatalog("pulsegrid", uri=uri, warehouse=warehouse).load_table("pulsegrid.logs")
    print(table.scan(row_filter=EqualTo("service_name", service)).to_arrow().num_rows)
except NoSuchTableError:  # it comes with the aggregator
    print(0)
