"""Counts the rows of lakes by tenant and service, with the sum of their event ids, as pyiceberg reads them. usage: lakerows.py PROPERTIES_JSON (CATALOG_DB WAREHOUSE)..."""
import json
import sys

from pyiceberg.catalog.sql import SqlCatalog


def lake(database, warehouse, properties):
    catalog = SqlCatalog("pulsegrid", uri="sqlite:///" + database, warehouse=warehouse, **properties)
    out = {}
    for name in ("logs", "metrics", "spans"):
        columns = ("tenant_id", "service_name", "event_id")
        for batch in catalog.load_table("pulsegrid." + name).scan(selected_fields=columns).to_arrow_batch_reader():
            for tenant, service, event in zip(*(batch.column(c).to_pylist() for c in columns)):
                rows = out.setdefault(f"{name} {tenant} {service}", [0, 0])
                rows[0] += 1
                rows[1] = (rows[1] + int.from_bytes(event, "little")) % 2**128
    return {k: f"{n} {ids}" for k, (n, ids) in out.items()}


lakes = sys.argv[2:]
print(json.dumps([lake(*of, json.loads(sys.argv[1])) for of in zip(lakes[::2], lakes[1::2])]))
