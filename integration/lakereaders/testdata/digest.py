"""Prints a digest of all rows of each table, whatever their order: digest.py SPEC."""
import hashlib
import json
import sys

from pyiceberg.table import StaticTable

digests = {}
for name, table in json.load(open(sys.argv[1]))["tables"].items():
    rows = StaticTable.from_metadata(table["metadata"]).scan().to_arrow().to_pylist()
    digests[name] = hashlib.sha256("\n".join(sorted(repr(sorted(r.items())) for r in rows)).encode()).hexdigest()
print(json.dumps(digests))
