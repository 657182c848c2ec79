"""Adds a column to each table of the lake, and expires one of its snapshots, by pyiceberg. usage: evolve.py CATALOG_URL CATALOG_PROPERTIES_JSON COLUMN TABLE..."""
import json
import sys

from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.types import StringType

url, properties, column = sys.argv[1:4]
catalog = RestCatalog("pulsegrid", uri=url, **json.loads(properties))
done = {"columns": 0, "expired": 0, "beaten": 0}
for name in sys.argv[4:]:
    table = catalog.load_table("pulsegrid." + name)
    try:
        if column not in table.schema().column_names:
            with table.update_schema() as schema:
                schema.add_column(column, StringType())
            done["columns"] += 1
        oldest = min(table.snapshots(), key=lambda s: s.timestamp_ms).snapshot_id
        if oldest != table.current_snapshot().snapshot_id:
            table.maintenance.expire_snapshots().by_id(oldest).commit()
            done["expired"] += 1
    except CommitFailedException:
        done["beaten"] += 1
print(json.dumps(done))
