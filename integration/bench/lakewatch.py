"""Watches a table of the lake: whenever a snapshot appears, prints a line of JSON with the time at which it was seen and the times of one
service's events in the files that it added, in milliseconds. Ends when standard input closes.

usage: lakewatch.py CATALOG_URI WAREHOUSE TABLE SERVICE
"""
import json
import sys
import threading
import time

import pyarrow.parquet as pq
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.manifest import ManifestEntryStatus

uri, warehouse, name, service = sys.argv[1:5]
done = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), done.set()), daemon=True).start()
catalog = SqlCatalog("pulsegrid", uri=uri, warehouse=warehouse)
known = set()
while not done.wait(0.25):
    try:
        table = catalog.load_table(name)
    except NoSuchTableError:
        continue
    seen = time.time() * 1000
    for snapshot in table.snapshots():
        if snapshot.snapshot_id in known:
            continue
        known.add(snapshot.snapshot_id)
        times = set()
        for manifest in snapshot.manifests(table.io):
            if manifest.added_snapshot_id != snapshot.snapshot_id:
                continue
            for entry in manifest.fetch_manifest_entry(table.io):
                if entry.status == ManifestEntryStatus.ADDED and entry.snapshot_id == snapshot.snapshot_id:
                    rows = pq.read_table(entry.data_file.file_path.removeprefix("file://"), columns=["service_name", "time"])
                    times |= {int(t.timestamp() * 1000) for s, t in zip(rows["service_name"].to_pylist(), rows["time"].to_pylist()) if s == service}
        print(json.dumps({"seen": seen, "times": sorted(times)}), flush=True)
