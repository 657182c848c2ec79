"""Prints the files below a directory that hold a text, in any of the encodings of a lake: Parquet, Avro with deflate, gzip, plain; objects of the spill. With a tenant, its rows do not count. usage: search.py DIRECTORY TEXT [TENANT]"""
import gzip
import io
import json
import os
import sys
import zlib

import pyarrow
import pyarrow.parquet

directory, text = sys.argv[1], sys.argv[2].encode()
but = sys.argv[3] if len(sys.argv) > 3 else None


def number(f):
    n = shift = 0
    while True:
        b = f.read(1)[0]
        n |= (b & 0x7F) << shift
        shift += 7
        if not b & 0x80:
            return n >> 1 ^ -(n & 1)


def avro(raw):
    f = io.BytesIO(raw[4:])
    codec = b"null"
    while count := number(f):
        if count < 0:
            count, _ = -count, number(f)
        for _ in range(count):
            key = f.read(number(f))
            value = f.read(number(f))
            if key == b"avro.codec":
                codec = value
    f.read(16)
    while f.tell() < len(raw) - 4:
        number(f)
        block = f.read(number(f))
        f.read(16)
        assert codec in (b"null", b"deflate"), codec
        yield zlib.decompress(block, -15) if codec == b"deflate" else block


def contents(path):
    raw = open(path, "rb").read()
    if raw[:4] == b"PAR1":
        kept = 0
        for row in pyarrow.parquet.read_table(path).to_pylist():
            if but and row.get("tenant_id") == but:
                kept += 1  # its values may also stand in the file's footer
                continue
            yield repr(row).encode()
        if not kept:
            yield raw
        return
    yield raw
    if raw[:4] == b"Obj\x01":
        yield from avro(raw)
    elif raw[:2] == b"\x1f\x8b":
        yield gzip.decompress(raw)
    elif raw[:7] == b"PGSPILL":
        yield pyarrow.CompressedInputStream(pyarrow.BufferReader(raw[8:]), "zstd").read()


found, read = [], 0
for parent, _, names in os.walk(directory):
    for name in names:
        path = os.path.join(parent, name)
        read += 1
        if any(text in c for c in contents(path)):
            found.append(os.path.relpath(path, directory))
print(json.dumps({"read": read, "found": sorted(found)}))
