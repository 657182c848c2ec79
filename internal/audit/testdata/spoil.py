# Spoils a table of the lake as a person with pyiceberg might: removes, changes, doubles and invents rows.
import sys
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.catalog import load_catalog

uri, warehouse, topic = sys.argv[1:]
tbl = load_catalog("pulsegrid", type="sql", uri="sqlite:///" + uri, warehouse=warehouse).load_table("pulsegrid.logs")
rows = tbl.scan().to_arrow()


def at(offset, index=None, partition=0):
    m = pc.and_(pc.equal(rows["kafka_offset"], offset), pc.equal(rows["kafka_partition"], partition))
    return m if index is None else pc.and_(m, pc.equal(rows["event_index"], index))


def with_column(t, name, value):
    i = t.schema.get_field_index(name)
    return t.set_column(i, t.schema.field(i), pa.array([value] * len(t), t.schema.field(i).type))


removed, changed = at(2), at(4, 1)
out = rows.filter(pc.invert(pc.or_(removed, changed)))
spoilt = rows.filter(changed)
spoilt = with_column(with_column(spoilt, "body", "spoilt"), "time_nanos", (spoilt["time_nanos"][0].as_py() + 1) % 1000)
invented = with_column(rows.filter(at(5, 0)), "event_index", 1000)
tbl.overwrite(pa.concat_tables([out, spoilt, rows.filter(at(6, 3)), invented]))
