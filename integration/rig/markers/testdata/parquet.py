"""Counts rows that hold a marker, in Parquet files below a directory, referred to by a table or not.

arguments: DIRECTORY PATTERN MARKER...
stdout: JSON, {MARKER: how many rows hold it}
"""
import json
import pathlib
import sys

import pyarrow
import pyarrow.parquet as pq

found = {marker: 0 for marker in sys.argv[3:]}
for file in pathlib.Path(sys.argv[1]).glob(sys.argv[2]):
    try:
        rows = pq.ParquetFile(file).read().to_pylist()
    except (pyarrow.ArrowInvalid, FileNotFoundError):
        continue  # is being written, or was moved
    for row in rows:
        text = repr(row)
        for marker in found:
            found[marker] += marker in text
print(json.dumps(found))
