# Answers every predicate of the spec with DuckDB. argv: spec, and either "files" (read_parquet on the table's files, which skips row groups
# by their statistics) or the directory of a DuckDB that has the Iceberg extension (which skips files by manifests too).
import json, struct, sys
from datetime import datetime, timedelta, timezone

spec, mode = json.load(open(sys.argv[1])), sys.argv[2]
if mode != "files": sys.path.insert(0, mode)
import duckdb
db, checked, wrong = duckdb.connect(), 0, []
db.execute("SET TimeZone = 'UTC'")
if mode != "files":
    for extension in ("avro", "iceberg"):
        db.execute(f"LOAD '{mode}/duckdb_extension_{extension}/extensions/v{duckdb.__version__}/{extension}.duckdb_extension'")

def source(t):
    if mode != "files": return f"iceberg_scan('{t['metadata'].removeprefix('file://')}')"
    from pyiceberg.table import StaticTable
    files = [f.file.file_path.removeprefix("file://") for f in StaticTable.from_metadata(t["metadata"]).scan().plan_files()]
    return f"read_parquet({files!r})"

def decode(k, v):
    if k in ("binary", "fixed"): return bytes.fromhex(v)
    if k == "double": return struct.unpack(">d", bytes.fromhex(v))[0]
    return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=v) if k == "time" else v

def where(p):
    c, op, values = '"' + p["column"] + '"', p["op"], [decode(p["kind"], v) for v in p["values"]]
    if op in ("null", "not null"): return f"{c} IS {op.upper()}", []
    if op == "empty": return f"len({c}) = 0" if p["column"].startswith("attributes_") is False else f"cardinality({c}) = 0", []
    if op in ("nan", "not nan"): return f"{'NOT ' if op == 'not nan' else ''}isnan({c})", []
    if op in ("in", "not in"): return f"{c} {op.upper()} (" + ", ".join("?" * len(values)) + ")", values
    if op in ("starts", "not starts"): return f"{'NOT ' if op[0] == 'n' else ''}starts_with({c}, ?)", values
    return f"{c} {'=' if op == '==' else op} ?", values

def digest(keys): return [len(keys), sum(keys) % 2**62, sum(k * k for k in keys) % 2**62]

for name, t in spec["tables"].items():
    src, key = source(t), t["key"]
    for p in t["predicates"]:
        if mode == "files" and p["op"].endswith("nan"): continue  # isnan: not promised (docs/formats/rows.md)
        checked += 1
        said = f"{name}: {p['column']} {p['op']} {str(p['values'])[:90]}"
        w, values = where(p)
        run = lambda src: digest([r[0] for r in db.execute(f"SELECT {key} FROM {src} WHERE {w}", values).fetchall() if r[0] not in p.get("unordered", ())])
        try: got = run(src)
        except Exception as e: wrong.append(f"{said}: {type(e).__name__}: {str(e)[:300]}"); continue
        want = p["answer"]
        if got != want: wrong.append(f"{said}: {got[0]} rows, want {want[0]}" + (" others" if got[0] == want[0] else ""))
print(json.dumps({"Checked": checked, "Wrong": wrong}))
