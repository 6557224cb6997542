"""Reads damaged WARC and ARC files by the thousand, and counts what is lost.

    python benchmarks/fuzz_warc.py [--files 100000] [--seed 0]

Each file has eight small pages and is damaged in one to three ways: bits flipped, bytes overwritten, cut out, put in or
repeated, the file cut off, lengths falsified, fields renamed. A page is intact if no byte of its record is touched (in
a compressed file: of its member). Printed for each layout: files, intact pages that were not read (there should be
none), pages read out of touched records, stretches counted as lost, files that raised an exception (there should be
none), and the longest time a file took.
"""

import argparse
import gzip
import random
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import lz4.frame
import zstandard

from pipeline.stage import Piece
from stages.readers import warc
from stages.readers.rows import Fields

PAGES = 8
_LAYOUTS: dict[str, tuple[str, Callable[[list[bytes]], list[bytes]]]] = {
    "warc": ("warc", lambda records: records),
    "warc.gz": ("warc", lambda records: [gzip.compress(one, 1, mtime=0) for one in records]),
    "warc.zst": ("warc", lambda records: [zstandard.compress(one) for one in records]),
    "warc.lz4": ("warc", lambda records: [lz4.frame.compress(one, content_checksum=True) for one in records]),
    "one member": ("warc", lambda records: [gzip.compress(b"".join(records), 1, mtime=0)]),
    "arc": ("arc", lambda records: records),
    "arc.gz": ("arc", lambda records: [gzip.compress(one, 1, mtime=0) for one in records]),
}
LAYOUTS = tuple(_LAYOUTS)


class Damaged(NamedTuple):
    """A damaged file, and the addresses of its pages that are intact."""

    data: bytes
    intact: set[str]


class Outcome(NamedTuple):
    """What was read of a damaged file."""

    missing: set[str]  # intact pages that were not read
    read: int  # pages
    lost: int  # rows that tell of a stretch that cannot be read
    seconds: float


def _record(number: int, kind: str, draw: random.Random) -> bytes:
    page = f"<!doctype html><title>{number}</title><p>{draw.randbytes(draw.randrange(20, 900)).hex()}</p>\n"
    block = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n{page}".encode()
    url = f"http://page.example/{number}"
    if kind == "arc":
        return f"{url} 192.0.2.7 20040102030405 text/html {len(block)}\n".encode() + block + b"\n"
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{number}>\r\nWARC-Target-URI: {url}\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(block)}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def _harmed(part: bytes, draw: random.Random) -> bytes:
    """The bytes of a record or member, damaged in one way."""
    at, size = draw.randrange(len(part)), draw.choice([1, 2, 7, 60, 500])
    ways = (
        lambda: part[:at] + bytes([part[at] ^ (1 << draw.randrange(8))]) + part[at + 1 :],
        lambda: part[:at] + draw.randbytes(size) + part[at + size :],
        lambda: part[:at] + bytes(size) + part[at + size :],
        lambda: part[:at] + part[at + size :],
        lambda: part[:at] + draw.randbytes(size) + part[at:],
        lambda: part[: at + size] + part[at:],
        lambda: part[:at],
    )
    return draw.choice(ways)()


def _reheaded(record: bytes, draw: random.Random) -> bytes:
    """A record whose header says something else, or says it in other ways."""
    length = draw.choice([b"0", b"-5", b"", b"many", b"1e3", b"99999999999999", b"%d" % draw.randrange(2000)])
    if not record.startswith(b"WARC"):
        return re.sub(rb" \d+\n", b" %s\n" % length, record, count=1)
    head, gap, block = record.partition(b"\r\n\r\n")
    ways = (
        lambda: re.sub(rb"(?m)^(Content-Length: )\d+", rb"\g<1>" + length, head),
        lambda: re.sub(rb"(?m)^Content-Length: \d+\r\n", b"", head),
        lambda: b"WARC" + re.sub(rb"(?m)^[\w-]+:", lambda name: name[0].lower(), head[4:]),
        lambda: head.replace(b"\r\n", b"\n"),
        lambda: draw.choice(head.split(b"\r\n")) + b"\r\n" + head,
    )
    return draw.choice(ways)() + gap + block


def damaged(layout: str, seed: int) -> Damaged:
    """A file of `PAGES` pages in this layout, damaged in one to three ways."""
    draw = random.Random(f"{layout} {seed}")
    kind, pack = _LAYOUTS[layout]
    records = [_record(number, kind, draw) for number in range(PAGES)]
    touched = set()
    for number in draw.sample(range(PAGES), draw.choice([0, 0, 1, 2])):
        records[number] = _reheaded(records[number], draw)
        touched.add(number)
    parts = pack(records)
    for at in draw.sample(range(len(parts)), min(len(parts), draw.choice([0, 1, 1, 2]))):
        parts[at] = _harmed(parts[at], draw)
        touched |= {at} if len(parts) == PAGES else set(range(PAGES))
    order = list(range(len(parts)))
    if draw.random() < 0.1:
        order.insert(draw.randrange(len(order)), draw.choice(order))
    if draw.random() < 0.1:
        dropped = order.pop(draw.randrange(len(order)))
        touched |= {dropped} if len(parts) == PAGES else set(range(PAGES))
    intact = {f"http://page.example/{number}" for number in range(PAGES) if number not in touched}
    return Damaged(b"".join(parts[at] for at in order), intact)


def outcome(file: Damaged, path: Path) -> Outcome:
    """What the reader makes of a file; `path` is where it may be written."""
    path.write_bytes(file.data)
    started = time.process_time()
    rows = list(warc.read(Piece(str(path), "fuzz", "warc", len(file.data)), Fields()))
    seconds = time.process_time() - started
    pages = {row.url for row in rows if row.reason is None}
    return Outcome(
        file.intact - pages, len(pages), sum(row.reason in ("corrupt", "truncated") for row in rows), seconds
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    each = max(1, options.files // len(LAYOUTS))
    print("layout      files  intact pages  not read  files they are in  other pages read  lost  exceptions  slowest s")
    with tempfile.TemporaryDirectory() as folder:
        for layout in LAYOUTS:
            intact = missing = files = others = stretches = raised = 0
            slowest = 0.0
            for seed in range(options.seed, options.seed + each):
                file = damaged(layout, seed)
                try:
                    result = outcome(file, Path(folder) / "damaged")
                except Exception as error:  # noqa: BLE001 (counted, and shown)
                    print(f"{layout} {seed}: {error!r}")
                    raised += 1
                    continue
                intact += len(file.intact)
                missing += len(result.missing)
                files += bool(result.missing)
                others += result.read - (len(file.intact) - len(result.missing))
                stretches += result.lost
                slowest = max(slowest, result.seconds)
            print(
                f"{layout:<10} {each:>6,} {intact:>13,} {missing:>9,} {files:>18,} {others:>17,} {stretches:>5,}"
                f" {raised:>11,} {slowest:>10.3f}"
            )


if __name__ == "__main__":
    main()
