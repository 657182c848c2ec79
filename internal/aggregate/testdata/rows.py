# Prints the rows of the Iceberg table whose metadata file is given, each as a text, sorted: times in microseconds since 1970, dates in days.
import datetime
import json
import sys

from pyiceberg.table import StaticTable

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


def text(value):
    if isinstance(value, datetime.datetime):
        return str((value - EPOCH) // datetime.timedelta(microseconds=1))
    if isinstance(value, datetime.date):
        return str((value - EPOCH.date()).days)
    return str(value)


rows = StaticTable.from_metadata(sys.argv[1]).scan().to_arrow().to_pylist()
print(json.dumps(sorted("|".join(text(v) for v in row.values()) for row in rows)))
