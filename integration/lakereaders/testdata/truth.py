# Reads each table without a predicate, chooses predicates for each column from the values that are there, and writes them with the answer
# of plain Python into the spec. argv: spec, predicates a column (0: all), seed. Prints the number of rows by table.
import json, math, random, struct, sys
import pyarrow as pa
from pyiceberg.table import StaticTable

path, per_column, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
spec, rng = json.load(open(path)), random.Random(seed)

def kind(t):
    if pa.types.is_string(t) or pa.types.is_large_string(t): return "text"
    if pa.types.is_boolean(t): return "bool"
    if pa.types.is_integer(t): return "long" if t.bit_width == 64 else "int"
    if pa.types.is_floating(t): return "double"
    if pa.types.is_timestamp(t): return "time"  # microseconds
    if pa.types.is_binary(t) or pa.types.is_large_binary(t): return "binary"
    if pa.types.is_fixed_size_binary(t): return "fixed"
    return "nested"

LIMITS = {"int": (-2**31, 2**31 - 1), "long": (-2**63, 2**63 - 1), "time": (-62135596800 * 10**6, 253402300799 * 10**6)}

def near(k, v):  # values beside one that is there
    if k == "text": return [v + "\0", v + "z", v[:-1], v[:1], v[:16], v[:16] + "\U0010ffff"]
    if k in LIMITS: return [x for x in (v - 1, v + 1) if LIMITS[k][0] <= x <= LIMITS[k][1]]
    if k == "double": return [math.nextafter(v, math.inf), -v] if not math.isnan(v) else []
    if k in ("binary", "fixed"): return [v[:-1] + bytes([v[-1] ^ 1]) if v else b"\0"] + ([v[:-1], v + b"\0"] if k == "binary" else [])
    return []

CONSTANTS = {"text": ["", "\U0010ffff"], "int": [0], "long": [0], "double": [0.0, -0.0, math.inf, -math.inf, 1.5], "time": [0], "bool": [False, True], "binary": [b""], "fixed": []}
OPS = {
    "==": lambda v, l: v == l[0], "!=": lambda v, l: v != l[0], "<": lambda v, l: v < l[0], "<=": lambda v, l: v <= l[0],
    ">": lambda v, l: v > l[0], ">=": lambda v, l: v >= l[0], "in": lambda v, l: v in l, "not in": lambda v, l: v not in l,
    "starts": lambda v, l: v.startswith(l[0]), "not starts": lambda v, l: not v.startswith(l[0]), "null": lambda v, l: v is None, "not null": lambda v, l: v is not None,
    "nan": lambda v, l: v != v, "not nan": lambda v, l: v == v,
}
def digest(keys): return [len(keys), sum(keys) % 2**62, sum(k * k for k in keys) % 2**62]

def encode(k, v):
    if k in ("binary", "fixed"): return v.hex()
    return struct.pack(">d", v).hex() if k == "double" else v

def choose(k, values):
    distinct = sorted(set(v for v in values if v == v)) if k != "nested" else []
    literals = list(CONSTANTS.get(k, []))
    for v in distinct[:2] + distinct[-2:] + rng.sample(distinct, min(3, len(distinct))):
        literals += [v] + near(k, v)
    if k == "fixed" and values: literals += [bytes(len(values[0])), b"\xff" * len(values[0])]
    out = []
    for l in dict.fromkeys((encode(k, l), l) for l in literals):
        out += [(op, [l[1]]) for op in ("==", "!=", "<", "<=", ">", ">=")]
        if k == "text" and l[1]: out += [("starts", [l[1]]), ("not starts", [l[1]])]
        if len(literals) > 2 and k not in ("bool", "double"): out += [(op, [l[1], *rng.sample(literals, 2)]) for op in ("in", "not in")]
    if k == "bool": out = [p for p in out if p[0] in ("==", "!=")]
    rng.shuffle(out)
    first = [("==", [distinct[0]]), ("==", [distinct[-1]])] if distinct else []  # the least and the greatest: what wrong statistics hide
    out = first + out + [("null", []), ("not null", [])]
    if k == "double": out = [out[0], ("nan", []), *out[1:], ("not nan", [])] if distinct else [("nan", []), *out]
    return out if per_column == 0 else out[:per_column]

counts = {}
for name, t in spec["tables"].items():
    rows = StaticTable.from_metadata(t["metadata"]).scan().to_arrow()
    counts[name], keys, t["predicates"] = rows.num_rows, rows.column(t["key"]).to_pylist(), []
    if len(set(keys)) != len(keys): sys.exit(f"{name}: {t['key']} is no key")
    for field in rows.schema:
        k, column = kind(field.type), rows.column(field.name)
        if k == "time": column = column.cast(pa.timestamp("us", "UTC")).cast(pa.int64())
        values = column.to_pylist()
        if k == "nested":
            t["predicates"] += [{"column": field.name, "kind": k, "op": op, "values": [], "answer": digest([i for v, i in zip(values, keys) if OPS[op](v, None)])} for op in ("null", "not null")]
            t["predicates"].append({"column": field.name, "kind": k, "op": "empty", "values": [], "answer": digest([i for v, i in zip(values, keys) if len(v) == 0])})
            continue
        # No two readers agree on how NaN compares, and Parquet's statistics leave it out: such rows count only where NaN is asked for.
        unordered = [i for v, i in zip(values, keys) if k == "double" and v != v]
        for op, literals in choose(k, values):
            without = [] if op.endswith("nan") else unordered
            t["predicates"].append({"column": field.name, "kind": k, "op": op, "values": [encode(k, l) for l in literals],
                "unordered": without, "answer": digest([i for v, i in zip(values, keys) if OPS[op](v, literals) and i not in without])})
json.dump(spec, open(path, "w"))
print(json.dumps(counts))
