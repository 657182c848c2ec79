"""Prints the texts among which a marker may lie: all rows of all Parquet files below a directory.

arguments: DIRECTORY MARKER...
stdout: JSON, {MARKER: how many rows hold it}
"""
import json
import pathlib
import sys

import pyarrow
import pyarrow.parquet as pq

found = {marker: 0 for marker in sys.argv[2:]}
for file in pathlib.Path(sys.argv[1]).rglob("*.parquet"):
    try:
        rows = pq.ParquetFile(file).read().to_pylist()
    except (pyarrow.ArrowInvalid, FileNotFoundError):
        continue  # is being written, or was moved
    for row in rows:
        text = repr(row)
        for marker in found:
            found[marker] += marker in text
print(json.dumps(found))
