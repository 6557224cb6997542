"""Damages files at random, reads them beside good ones, and checks that each costs at most itself.

    python benchmarks/fuzz_files.py [--files 100000] [--parquet 10000] [--seed 1] [--kinds jsonl,csv]

Each batch is a folder of damaged files with two good neighbours, read by `collect` in a process of its own. What is
checked: no exception leaves the reader, no process dies or hangs, both neighbours give all their documents, every file
has a row, every row is a document or has a reason, ids are unique, and each line of JSON Lines that is still good gives
its document. The same seed makes the same files. Exit code 1 if a check fails; the message names what to repeat.
"""

import argparse
import gzip
import json
import multiprocessing
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from stages.collect import Collect

BATCH = 25  # files of a folder
SECONDS = 60  # that a batch may take
KINDS = ("jsonl", "jsonl.gz", "json", "csv", "tsv", "txt", "txt.gz")
_WORDS = [
    "the",
    "lighthouse",
    "灯塔",
    "at",
    "end",
    "of",
    "码头",
    "long",
    '"pier"',
    "was,",
    "built;",
    "naïve",
    "1874",
    "{a}",
    "[b]",
    "'c'\n\t",
]


class Outcome(NamedTuple):
    """What a batch came to."""

    seed: int
    kind: str
    problems: tuple[str, ...]
    reasons: Counter[str | None]


def text(draw: random.Random) -> str:
    return " ".join(draw.choices(_WORDS, k=draw.randrange(3, 60)))


def whole(kind: str, draw: random.Random) -> bytes:
    """A good file."""
    records = [
        {"text": f"{text(draw)} {at}", "url": f"http://a.example/{at}", "n": at} for at in range(draw.randrange(1, 30))
    ]
    name = kind.removesuffix(".gz")
    if name == "jsonl":
        made = "".join(json.dumps(record, ensure_ascii=draw.random() < 0.5) + "\n" for record in records)
    elif name == "json":
        made = json.dumps(records, ensure_ascii=False, indent=draw.choice([None, 1]))
    elif name in ("csv", "tsv"):
        quoted = [(str(record["text"]).replace('"', '""'), record["url"]) for record in records]
        made = "text,url\n" + "".join(f'"{one}",{url}\n' for one, url in quoted)
        if name == "tsv":
            made = "text\turl\n" + "".join(f"{' '.join(one.split())}\t{url}\n" for one, url in quoted)
    else:
        made = "\n".join(str(record["text"]) for record in records)
    return gzip.compress(made.encode(), 1, mtime=0) if kind.endswith(".gz") else made.encode()


def damaged(data: bytes, draw: random.Random, tail: int = 0) -> bytes:
    """`data` with one to four damages; with `tail`, mostly in so many last bytes."""
    made = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 4])):
        first = max(0, len(made) - tail) if tail and draw.random() < 0.7 else 0
        at, size = draw.randrange(first, len(made) + 1), draw.choice([1, 1, 4, 40])
        how = draw.choice(["flip", "noise", "zeros", "cut", "remove", "insert", "quote", "twice"])
        if how == "flip" and at < len(made):
            made[at] ^= 1 << draw.randrange(8)
        elif how == "cut":
            del made[max(at, 1) :]
        elif how == "remove":
            del made[at : at + size]
        elif how == "twice":
            made[at:at] = made[at : at + size]
        elif how in ("insert", "quote"):
            made[at:at] = (
                draw.randbytes(size) if how == "insert" else draw.choice([b'"', b"\\", b"\0", b"\n", b"\r", b"{"])
            )
        else:
            made[at : at + size] = draw.randbytes(size) if how == "noise" else bytes(size)
    return bytes(made)


def parquet(path: Path, draw: random.Random) -> None:
    """A good Parquet file, damaged, mostly in its footer."""
    count = draw.randrange(1, 40)
    table = pa.table({
        "text": [text(draw) for _ in range(count)],
        "id": [str(at) for at in range(count)],
        "meta": [{"lang": "en", "tags": ["a", "b"]} for _ in range(count)],
    })  # fmt: skip
    pq.write_table(
        table, path, row_group_size=draw.choice([5, 100]), compression=draw.choice(["zstd", "snappy", "none"])
    )
    data = path.read_bytes()
    path.write_bytes(damaged(data, draw, tail=int.from_bytes(data[-8:-4], "little") + 8))


def good_lines(data: bytes, kind: str) -> Counter[str]:
    """The texts of the lines of a JSON Lines file that are still good."""
    found: Counter[str] = Counter()
    for line in data.split(b"\n") if kind == "jsonl" else []:
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if isinstance(record, dict) and isinstance(record.get("text"), str) and record["text"].strip():
            found[record["text"]] += 1
    return found


def check(seed: int, kind: str, count: int, folder: Path) -> Outcome:
    """Make a batch, read it, and say what is wrong."""
    draw = random.Random(f"{seed} {kind}")
    neighbours = [{"text": f"A good document, number {at}."} for at in range(10)]
    for name in ("a-first.jsonl", "z-last.jsonl"):
        (folder / name).write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in neighbours))
    wanted: dict[str, Counter[str]] = {}
    for at in range(count):
        path = folder / f"m{at:03d}.{kind}"
        if kind == "parquet":
            parquet(path, draw)
        else:
            path.write_bytes(damaged(whole(kind, draw), draw))
        wanted[path.name] = good_lines(path.read_bytes(), kind)
    try:
        source = Collect(paths=[str(folder)])
        rows = [row for split in source.inputs() for table in source.read(split) for row in table.to_pylist()]
    except Exception as error:  # noqa: BLE001 (which is what is looked for)
        return Outcome(seed, kind, (f"{type(error).__name__}: {error}",), Counter())
    return Outcome(seed, kind, tuple(_problems(rows, wanted)), Counter(row["drop"] for row in rows))


def _problems(rows: list[dict], wanted: dict[str, Counter[str]]) -> list[str]:
    problems = []
    by_file: dict[str, list[dict]] = {}
    for row in rows:
        by_file.setdefault(row["source"].split("/")[-1], []).append(row)
    for name in ("a-first.jsonl", "z-last.jsonl"):
        if sum(row["drop"] is None for row in by_file.get(name, [])) != 10:
            problems.append(f"{name} lost documents")
    for name, texts in wanted.items():
        if name not in by_file:
            problems.append(f"{name} has no row")
        elif texts - Counter(row["text"] for row in by_file[name]):
            problems.append(f"{name} lost good lines")
    if len({row["id"] for row in rows}) != len(rows):
        problems.append("an id stands twice")
    if any((row["text"] == "") != (row["drop"] is not None) for row in rows):
        problems.append("a row is neither document nor reject")
    return problems


def _child(seed: int, kind: str, count: int, answer: "multiprocessing.connection.Connection") -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory() as folder:
        answer.send(check(seed, kind, count, Path(folder)))


def apart(seed: int, kind: str, count: int) -> Outcome:
    """`check` in a process of its own, which may die or hang."""
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_child, args=(seed, kind, count, there))
    process.start()
    there.close()
    try:
        return here.recv() if here.poll(SECONDS) else Outcome(seed, kind, (f"not done in {SECONDS} s",), Counter())
    except EOFError:
        process.join()
        return Outcome(seed, kind, (f"the process died, code {process.exitcode}",), Counter())
    finally:
        process.kill()
        process.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--parquet", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", type=lambda names: tuple(names.split(",")), default=KINDS)
    asked = parser.parse_args()
    share = -(-asked.files // (BATCH * len(asked.kinds)))
    work = [(asked.seed + at, kind) for kind in asked.kinds for at in range(share)]
    work += [(asked.seed + at, "parquet") for at in range(-(-asked.parquet // BATCH))]
    reasons: dict[str, Counter[str | None]] = {}
    failed, started, slowest = 0, time.monotonic(), 0.0
    for seed, kind in work:
        begun = time.monotonic()
        outcome = apart(seed, kind, BATCH)
        slowest = max(slowest, time.monotonic() - begun)
        reasons.setdefault(kind, Counter()).update(outcome.reasons)
        failed += bool(outcome.problems)
        for problem in outcome.problems:
            print(f"seed {seed} {kind}: {problem}", flush=True)
    for kind, counts in reasons.items():
        print(f"{kind:9}", ", ".join(f"{reason or 'kept'} {count:,}" for reason, count in counts.most_common()))
    seconds = f"{time.monotonic() - started:.0f} s, slowest batch {slowest:.1f} s"
    print(f"{len(work) * BATCH:,} files, {failed} batches failed, {seconds}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
