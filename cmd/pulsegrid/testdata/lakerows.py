"""Counts the rows of the lake by tenant and service, with the sum of their event ids, as pyiceberg reads them. usage: lakerows.py CATALOG_DB WAREHOUSE PROPERTIES_JSON TABLE..."""
import json
import sys

from pyiceberg.catalog.sql import SqlCatalog

database, warehouse, properties = sys.argv[1:4]
catalog = SqlCatalog("pulsegrid", uri="sqlite:///" + database, warehouse=warehouse, **json.loads(properties))
out = {}
for name in sys.argv[4:]:
    table = catalog.load_table("pulsegrid." + name)
    for batch in table.scan(selected_fields=("tenant_id", "service_name", "event_id")).to_arrow_batch_reader():
        for tenant, service, event in zip(*(batch.column(c).to_pylist() for c in ("tenant_id", "service_name", "event_id"))):
            rows = out.setdefault(f"{name} {tenant} {service}", [0, 0])
            rows[0] += 1
            rows[1] = (rows[1] + int.from_bytes(event, "little")) % 2**128
print(json.dumps({k: f"{n} {ids}" for k, (n, ids) in out.items()}))
