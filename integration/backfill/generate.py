"""Writes objects as the old REST collectors did: gzipped JSON lines of logs, metrics and spans. The same arguments give the same bytes.

    python3 integration/backfill/generate.py DIR --objects 20 --lines 5000 --seed 1
    python3 integration/backfill/generate.py DIR --mib 5120 --lines 20000 --tenants acme globex

DIR/objects gets the objects, DIR/truth.json what must be in the stores after they were loaded once, by the generator's own count:

    logs, metrics, spans   the numbers of the distinct good events: field n of their attributes
    copies                 lines that repeat an earlier one
    malformed              "key:line" of each line that is no event
    lines                  all of them
    tenants                the first and the last number of each tenant's lines
    json_bytes, gzip_bytes of all objects, before and after compression

One line of a hundred is malformed, in one of eight ways. Two repeat one of the last thousand lines, so some are in another object. The objects are of seven days in no order: the events
of one are of ten minutes of a day, but for one in twenty, which is of any time of the seven days.
--mib is the size of the JSON, before compression. --broken adds objects that cannot be loaded whole; what can be of them is in the truth.

Each line is a function of the seed and of its number, so that objects are made in parallel, and a copy knows its original.
"""

import argparse
import gzip
import json
import multiprocessing
import os
import random
import zlib

DAY = 86_400
START = 1_767_225_600  # 2026-01-01
OBJECT_EVERY = 60  # seconds between the times of two objects
OBJECT_SPANS = 600_000  # milliseconds of events
COPIES_WITHIN = 1000  # lines
KINDS = ["logs", "metrics", "spans"]
MALFORMED, LOG, METRIC, SPAN = range(4)
SHAPES = 1009  # lines that differ in more than number and time
ROUTES = ["/pay/{id}", "/cart/{id}/items", "/search", "/login", "/catalog/{category}/{page}"]
PACKAGES = ["shop.checkout.PaymentService", "shop.cart.CartRepository", "common.http.RetryingClient", "common.pool.ConnectionPool", "shop.auth.SessionFilter"]
METHODS = ["handle", "execute", "lambda$submit$0", "acquire", "findByCustomer", "doFilter"]
FILES = ["PaymentService", "CartRepository", "RetryingClient", "ConnectionPool", "SessionFilter"]
ERRORS = ["connection reset by peer", "deadline exceeded after 30000 ms", "card declined by issuer", "stock is reserved by another order"]


def mix(x):
    """Splitmix64: 64 bits that look random."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return x ^ (x >> 31)


def origin(r, head):
    """Fields that the old collectors added to each line. With them lines are of 0.7 to 2 KB, which is the size of the mission's events."""
    service, region = head["service"], head["region"]
    return {"agent": "pulse-agent/2.%d.%d" % (r.randrange(20), r.randrange(10)), "cluster": "prod-%s-%s" % (region, r.choice(["blue", "green"])), "namespace": "shop-" + service,
            "pod": "%s-%08x-%05x" % (service, r.getrandbits(32), r.getrandbits(20)), "node": "ip-10-0-%d-%d.%s.compute.internal" % (r.randrange(256), r.randrange(256), region),
            "zone": region + r.choice("abc"), "image": "registry.example.com/shop/%s:%s" % (service, head["version"]), "commit": "%040x" % r.getrandbits(160),
            "account": "a-%012d" % r.randrange(10**12), "user_agent": "Mozilla/5.0 (Linux; Android 14; Pixel %d) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/%d.0.0.0 Mobile Safari/537.36" % (r.randrange(4, 9), r.randrange(100, 140))}


def shape(r):
    """The kind of a line, and its text before, between and behind number and time."""
    head = {"service": r.choice(["checkout", "search", "auth", "catalog"]), "version": "4.%d.%d" % (r.randrange(20), r.randrange(10)),
            "host": "host-%d" % r.randrange(200), "env": "prod", "region": r.choice(["eu-central-1", "us-east-1", "ap-southeast-2"]),
            "device_id": "%016x" % r.getrandbits(64), "os": r.choice(["android", "ios", "linux"])}
    head.update(origin(r, head))
    kind = r.choices([LOG, METRIC, SPAN], [6, 3, 1])[0]
    if kind == LOG:
        head.update(type="log", level=r.choice(["INFO", "WARN", "ERROR"]))
        tags = {"http.route": r.choice(ROUTES), "http.method": r.choice(["GET", "POST"]), "http.status": r.choice([200, 200, 201, 404, 503]), "user": "u-%d" % r.randrange(10**6),
                "session": "%032x" % r.getrandbits(128), "cart": [r.randrange(9), r.randrange(9)], "retry": r.random() < 0.1, "took_ms": r.randrange(90_000) / 100}
        text = "of customer %d took %d ms" % (r.randrange(10_000), r.randrange(900))
        if head["level"] == "ERROR":
            text += ": " + r.choice(ERRORS)
            tags["exception.stacktrace"] = "".join("\n\tat com.example.%s.%s(%s.java:%d)" % (r.choice(PACKAGES), r.choice(METHODS), r.choice(FILES), r.randrange(900)) for _ in range(12))
        return kind, json.dumps(head)[:-1], text, json.dumps(tags)[1:]
    if kind == METRIC:
        name = r.choice(["queue.depth", "orders"])
        head.update(type="metric", name=name, value=r.randrange(1000) / 4, unit="1")
        if name == "orders":
            head["kind"] = "counter"
        return kind, json.dumps(head)[:-1], "", json.dumps({"queue": "q-%d" % r.randrange(50), "shard": r.randrange(16), "datacenter": r.choice("abc")})[1:]
    head.update(type="span", name=r.choice(["GET /pay", "SELECT orders", "publish receipt"]), kind=r.choice(["server", "client"]), duration_ms=r.randrange(500))
    return kind, json.dumps(head)[:-1], "%016x" % r.getrandbits(64), json.dumps({"db.system": "postgresql", "peer": "10.0.%d.%d" % (r.randrange(256), r.randrange(256))})[1:]


class Lines:
    """The lines of a tenant, whose numbers begin at first."""

    def __init__(self, seed, first, longest, per_object):
        r = random.Random(seed)
        self.shapes = [shape(r) for _ in range(SHAPES)]
        self.seed, self.first, self.longest, self.per_object = mix(seed), first, longest, per_object

    def bits(self, n):
        return mix(n * 0x9E3779B97F4A7C15 + self.seed & 0xFFFFFFFFFFFFFFFF)

    def copied(self, n, bits):
        """The number of the line that line n repeats; n: it repeats none."""
        if 10 <= bits % 1000 < 30:
            m = n - 1 - (bits >> 40) % COPIES_WITHIN
            if m >= self.first and self.bits(m) % 1000 >= 30:
                return m
        return n

    def event(self, n, bits):
        """A good line and its kind. Times are whole milliseconds, as the old collectors had them."""
        kind, head, between, tail = self.shapes[(bits >> 44) % SHAPES]
        at = START * 1000
        if bits % 20 == 0:
            at += (bits >> 10) % (7 * DAY * 1000)
        else:
            at += self.bits((n - 1) // self.per_object) % (7 * DAY * 1000 - OBJECT_SPANS) + (bits >> 10) % OBJECT_SPANS
        if kind == LOG:
            return kind, f'{head}, "event_id": "e-{n}", "timestamp": {at}, "message": "payment {n} {between}", "attributes": {{"n": {n}, {tail}}}'
        if kind == METRIC:
            return kind, f'{head}, "time": {at}, "tags": {{"n": {n}, {tail}}}'
        return kind, f'{head}, "trace_id": "{between}{bits:016x}", "span_id": "{n + 1:016x}", "start": {at}, "attributes": {{"n": {n}, {tail}}}'

    def malformed(self, n, bits):
        """A line that is no event."""
        x = bits >> 20
        if x % 150 == 0:
            return '{"type": "log", "message": "%s"}' % ("x" * self.longest)
        return [
            self.event(n, bits)[1][: 5 + (x >> 8) % 56],  # cut off
            str(n),  # no object
            '{"type": "invoice", "service": "billing", "attributes": {"n": %d}}' % n,
            '{"type": "log", "time": "yesterday", "message": "x", "attributes": {"n": %d}}' % n,
            '{"type": "metric", "time": 1, "name": "queue.depth", "tags": {"n": %d}}' % n,  # no value
            '{"type": "span", "span_id": "01", "name": "x", "n": %d}' % n,
            "<event>%d</event>" % n,
        ][x % 7]

    def line(self, n):
        """Line n, its kind, and the number of its event."""
        bits = self.bits(n)
        if bits % 1000 < 10:
            return self.malformed(n, bits), MALFORMED, n
        m = self.copied(n, bits)
        if m == n:
            kind, text = self.event(n, bits)
            return text, kind, n
        kind, text = self.event(m, self.bits(m))
        if kind == LOG:  # a sender's own retry: the id is the same, another field is not
            text = text[:-1] + ', "attempt": %d}' % n
        return text, kind, m


def write(task):
    """Writes an object. Returns its key, size and compressed size, and of its lines that can be read kinds and numbers."""
    a, lines, first, key, at, damage = task
    made = [lines.line(n) for n in range(first, first + a.lines)]
    data = ("\n".join([text for text, _, _ in made]) + "\n").encode()
    packed = gzip.compress(data, 6, mtime=0)
    if damage == "cut":  # it breaks off in the middle
        packed = packed[: len(packed) // 2]
        del made[zlib.decompressobj(31).decompress(packed).count(b"\n"):]
    if damage == "plain":  # nobody has compressed it
        packed = data
    put(a, key, packed, at)
    return key, len(data), len(packed), bytes(kind for _, kind, _ in made), [n for _, _, n in made]


def put(a, key, data, at):
    path = os.path.join(a.dir, "objects", key)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(data)
    os.utime(path, (at, at))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("dir")
    p.add_argument("--objects", type=int, default=20, help="of each tenant")
    p.add_argument("--mib", type=int, help="of JSON, instead of --objects")
    p.add_argument("--lines", type=int, default=5000, help="in each object")
    p.add_argument("--tenants", nargs="+", default=["eu"], help="whose names the keys begin with")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--longest", type=int, default=100_000, help="bytes of the lines that are too long")
    p.add_argument("--broken", action="store_true")
    a = p.parse_args()
    if a.mib:
        sample = Lines(a.seed, 1, a.longest, a.lines)
        line = sum(len(sample.line(n)[0]) + 1 for n in range(1, 50_001)) / 50_000
        a.objects = max(1, round(a.mib * 2**20 / line / a.lines / len(a.tenants)))
    tasks, tenants, first = [], {}, 1
    for tenant in a.tenants:
        tenants[tenant] = [first, first + a.objects * a.lines - 1]
        lines = Lines(a.seed, first, a.longest, a.lines)
        for i in range(a.objects):
            damage = {a.objects // 2: "cut", 0: "plain"}.get(i) if a.broken else None
            tasks.append((a, lines, first, "%s/2026/%02d/events-%04d.json.gz" % (tenant, 1 + i % 12, i), START + 40 * DAY + i * OBJECT_EVERY, damage))
            first += a.lines
    seen = bytearray(first)  # the kind of each number's event; 0: there is none
    malformed, count, copies, json_bytes, gzip_bytes = [], 0, 0, 0, 0
    with multiprocessing.Pool() as pool:
        for key, size, packed, kinds, numbers in pool.imap(write, tasks):
            count, json_bytes, gzip_bytes = count + len(kinds), json_bytes + size, gzip_bytes + packed
            for at, (kind, n) in enumerate(zip(kinds, numbers), 1):
                if kind == MALFORMED:
                    malformed.append("%s:%d" % (key, at))
                elif seen[n]:
                    copies += 1
                else:
                    seen[n] = kind
    if a.broken:
        put(a, a.tenants[0] + "/2026/01/events-0000.parquet", b"PAR1" + bytes(1000), START + 41 * DAY)
    truth = {name: [n for n, k in enumerate(seen) if k == kind] for kind, name in enumerate(KINDS, LOG)}
    truth.update(malformed=sorted(malformed), copies=copies, lines=count, tenants=tenants, objects=len(tasks), json_bytes=json_bytes, gzip_bytes=gzip_bytes)
    with open(os.path.join(a.dir, "truth.json"), "w") as f:
        json.dump(truth, f)
    print("%d objects, %d lines: %d logs, %d metrics, %d spans, %d copies, %d malformed; %d MiB of JSON, %d MiB as gzip" % (
        len(tasks), count, *(len(truth[name]) for name in KINDS), copies, len(malformed), json_bytes >> 20, gzip_bytes >> 20))


main()
