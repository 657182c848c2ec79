"""Trains a small model on the lake's table device_features_1h: which devices will log an error in the next hour?

A row of the table is a device as it was known at cutoff_time, the end of an hour. Its label is of the hour after that, so nothing of what is to be predicted is in the
features. Train and test are split by time, as a model in use knows the past only.
"""

import argparse

import pandas as pd
from pyiceberg.catalog import load_catalog
from pyiceberg.expressions import EqualTo
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import average_precision_score

HOUR = pd.Timedelta(hours=1)
KEY = ["tenant_id", "device_id", "time"]
FEATURES = ["events_1h", "events_24h", "errors_1h", "errors_24h", "services_24h", "silent_seconds"]


def load(catalog: dict[str, str], tenant: str) -> pd.DataFrame:
    table = load_catalog("pulsegrid", **catalog).load_table("pulsegrid.device_features_1h")
    return table.scan(row_filter=EqualTo("tenant_id", tenant), selected_fields=(*KEY, "cutoff_time", *FEATURES)).to_pandas()


def labelled(rows: pd.DataFrame) -> pd.DataFrame:
    """Adds `fails`: the device logs an error in the hour that begins at cutoff_time. Rows of which that is not known yet are left out."""
    after = rows[[*KEY, "errors_1h"]].assign(time=rows["time"] - HOUR).rename(columns={"errors_1h": "errors_after"})
    known = rows[(rows["time"] + HOUR).isin(rows["time"])]
    out = known.merge(after, how="left", on=KEY, validate="one_to_one")
    # A device without a row has sent nothing for 24 hours.
    return out.assign(fails=out["errors_after"].fillna(0) > 0).drop(columns="errors_after")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", default="pulsegrid-data/lake", help="directory of the local cell's lake (default: %(default)s)")
    parser.add_argument("--catalog", action="append", default=[], metavar="KEY=VALUE", help="property of another catalog, for example type=glue; may be repeated")
    parser.add_argument("--tenant", default="ml-example", help="(default: %(default)s)")
    args = parser.parse_args()
    local = {"type": "sql", "uri": f"sqlite:///{args.lake}/catalog.db", "warehouse": f"{args.lake}/warehouse"}
    rows = labelled(load(dict(p.split("=", 1) for p in args.catalog) or local, args.tenant))
    hours = sorted(rows["time"].unique())
    if len(hours) < 10 or rows["fails"].nunique() < 2:
        raise SystemExit(f"{len(rows)} rows of {len(hours)} hours, {rows['fails'].sum()} of them before an error: too few to learn from")

    split = hours[len(hours) * 7 // 10]
    # The label of the last hour of train is known at the cut-off of the first row of test, and not before.
    train, test = rows[rows["time"] < split], rows[rows["time"] >= split]
    model = HistGradientBoostingClassifier(max_iter=100, random_state=0).fit(train[FEATURES], train["fails"])

    def precision(score: pd.Series) -> str:
        return f"{average_precision_score(test['fails'], score):.2f}"

    print(f"{len(rows)} rows of {rows['device_id'].nunique()} devices, {hours[0]:%F %H:%M} to {hours[-1]:%F %H:%M} UTC; {rows['fails'].mean():.1%} are before an error")
    print(f"trained on {len(train)} rows, tested on {len(test)} of {split:%F %H:%M} and later; average precision there:")
    print(f"  model              {precision(model.predict_proba(test[FEATURES])[:, 1])}")
    print(f"  errors of the hour {precision(test['errors_1h'])}")
    print(f"  chance             {test['fails'].mean():.2f}")


if __name__ == "__main__":
    main()
