"""Counts the features of device_features_1h anew from log records (tab-separated on standard input), and prints how many rows of the lake there are, and how many of these,
or of the recounted ones, have no equal."""

import json
import sys

import pandas as pd

sys.path.insert(0, "examples/ml")
import train

HOUR = 3_600_000_000  # microseconds, as all times here

logs = pd.read_csv(sys.stdin, sep="\t", names=["tenant_id", "device_id", "happened", "arrived", "severity"])
rows = train.load({"type": "sql", "uri": "sqlite:///pulsegrid-data/lake/catalog.db", "warehouse": "pulsegrid-data/lake/warehouse"}, "ml-example")
for column in ("time", "cutoff_time"):
    rows[column] = rows[column].astype("datetime64[us, UTC]").astype("int64")

recounted = []
for hour in rows["time"].unique():
    cutoff = hour + HOUR
    known = logs[(logs["happened"] >= hour - 24 * HOUR) & (logs["happened"] < cutoff) & (logs["arrived"] < cutoff)]
    error, last_hour = known["severity"] >= 17, known["happened"] >= hour
    of = known.assign(events_1h=last_hour, events_24h=True, errors_1h=error & last_hour, errors_24h=error).groupby(["tenant_id", "device_id"])
    counts = of[["events_1h", "events_24h", "errors_1h", "errors_24h"]].sum()
    counts["silent_seconds"] = cutoff // 1_000_000 - of["happened"].max() // 1_000_000
    recounted.append(counts.reset_index().assign(time=hour, cutoff_time=cutoff, services_24h=1))

both = rows.merge(pd.concat(recounted), how="outer", on=list(rows.columns), indicator=True)
print(json.dumps({"rows": len(rows), "wrong": int((both["_merge"] != "both").sum())}))
