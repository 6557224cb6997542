"""Damaged configurations and records: every command ends in a sentence with the file's name, and the run mends it.

    python benchmarks/fuzz_records.py --configurations 10000 --records 2000

A finished run of a few documents is made once. Then configurations are mutated and loaded; every kind of record of the
run directory is mutated in turn, and `status`, `verify`, `show`, `explain` and `report` are called on it in this
process; every tenth time the run is made again and has to come back to the same bytes. The seed is fixed: a second call
does the same.
"""

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from pipeline import config as configs
from pipeline import storage
from pipeline.__main__ import main as command_line

CONFIG = """
name: t
workers: 0
stages:
  - collect: {paths: in, split_bytes: 1500, id_field: id}
  - lines: {max_documents: 50}
  - tokens: {train: {vocab_size: 300}}
  - shards
"""
RECORDS = ("plan.json", "report.json", "config.yaml", "*-shards-*/sink.json", "*-shards-*/manifest.json",
           "*-shards-*/gather/_receipts/*.json", "*-shards-*/scatter/*.json", "*-lines-*/part-00001.json",
           "*-lines-*/map/part-00000.json", "*-lines-*/verdicts/summary.json", "*/fit/_receipts/tokens.json",
           "ledger/_receipts/part-00000.json", "*-shards-*/tokenizer.json")  # fmt: skip
COMMANDS = (["status", "t"], ["verify", "t"], ["show", "t", "-n", "1"], ["explain", "t", "0-1"], ["report", "t"])
OUTPUT = ("*.bin", "*.idx", "docs.parquet", "manifest.json", "tokenizer.json")


def mutated(data: bytes, chance: random.Random) -> bytes:
    """`data` with one to three changes: a cut, a flipped bit, junk, a repeated or a removed stretch, other types."""
    for _ in range(chance.randint(1, 3)):
        at, length = chance.randrange(len(data) + 1), chance.randint(1, 40)
        kind = chance.randrange(7)
        if kind == 0:
            data = data[:at]
        elif kind == 1 and data:
            at = min(at, len(data) - 1)
            data = data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
        elif kind == 2:
            data = data[:at] + chance.randbytes(length) + data[at:]
        elif kind == 3:
            data = data[:at] + data[at : at + length] * 3 + data[at + length :]
        elif kind == 4:
            data = data[:at] + data[at + length :]
        elif kind == 5:
            data = data.replace(
                chance.choice([b"{", b"}", b"[", b'"', b":", b"1"]), chance.choice([b"", b"[", b"null"]), 1
            )
        else:
            data = chance.choice([b"", b"null", b"[]", b"{}", b"0", b'"x"', b"\xff\xfe\x00", b"\x00" * 10])
    return data


def call(arguments: list[str]) -> tuple[int, str, BaseException | None]:
    """Exit code and output of a command called here, and the exception that escaped it, if one did."""
    printed = io.StringIO()
    sys.argv = ["pipeline", *arguments]
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            command_line()
        except SystemExit as end:
            return (end.code if isinstance(end.code, int) else int(end.code is not None)), printed.getvalue(), None
        except BaseException as error:  # noqa: BLE001 - whatever escapes is what this looks for
            return 1, printed.getvalue(), error
    return 0, printed.getvalue(), None


def output(home: Path) -> dict[str, str]:
    """The checksums of a finished corpus."""
    return {path.name: storage.sha256(path) for name in OUTPUT for path in home.glob(f"*-shards-*/{name}")}


def configurations(count: int, chance: random.Random) -> Counter[str]:
    """Load mutated configurations: they load, or are refused in words that name the file."""
    ends: Counter[str] = Counter()
    good = [path.read_bytes() for path in sorted(Path(__file__).parent.parent.glob("configs/*.yaml"))]
    path = Path("mutated.yaml")
    for _ in range(count):
        path.write_bytes(mutated(chance.choice(good), chance))
        began = time.monotonic()
        try:
            configs.load(path)
            ends["load"] += 1
        except configs.ConfigError as error:
            ends["refused" if path.name in str(error) else "REFUSED WITHOUT THE NAME"] += 1
        except Exception as error:  # noqa: BLE001 - counted, and shown
            ends["ESCAPED"] += 1
            print(f"{type(error).__name__}: {error}\n{path.read_bytes()[:300]!r}", file=sys.stderr)
        ends["SLOWER THAN 10 S"] += time.monotonic() - began > 10
    return ends


def records(count: int, chance: random.Random) -> Counter[str]:
    """Mutate the records of a run directory in turn, ask it everything, and run it again now and then."""
    ends: Counter[str] = Counter()
    home = Path("runs/t")
    call(["run", "c.yaml"])
    expected = output(home)
    shutil.copytree(home, "good", symlinks=True)
    for number in range(count):
        path = sorted(home.glob(RECORDS[number % len(RECORDS)]))[0]
        whole = path.read_bytes()
        path.write_bytes(mutated(whole, chance))
        for arguments in COMMANDS:
            code, printed, error = call(arguments)
            if error is not None:
                ends["ESCAPED"] += 1
                print(f"{arguments} with a damaged {path}: {type(error).__name__}: {error}", file=sys.stderr)
            else:
                ends[f"{arguments[0]} exit {code}"] += 1
                ends["NOT NAMED"] += code == 1 and arguments[0] != "verify" and path.name not in printed
        if number % 10 == 0:
            code, printed, error = call(["run", "c.yaml"])
            same = output(home) == expected and call(["verify", "t"])[0] == 0
            ends["mended" if code == 0 and error is None and same else "NOT MENDED"] += 1
            if not same:
                print(f"not mended: {path}: {printed[-300:]} {error}", file=sys.stderr)
        shutil.rmtree(home)
        shutil.copytree("good", home, symlinks=True)
    return ends


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--configurations", type=int, default=10_000)
    asked.add_argument("--records", type=int, default=2_000)
    asked.add_argument("--seed", type=int, default=1)
    given = asked.parse_args()
    chance = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("c.yaml").write_text(CONFIG)
        Path("in").mkdir()
        for i in range(3):
            rows = [{"id": f"{i}-{j}", "text": f"document {j} of file {i}, as good as any other"} for j in range(30)]
            Path(f"in/{i}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for name, ends in (
            ("configurations", configurations(given.configurations, chance)),
            ("records", records(given.records, chance)),
        ):
            print(name, dict(sorted((end, times) for end, times in ends.items() if times)))
            if bad := sum(times for end, times in ends.items() if end.isupper()):
                sys.exit(f"{bad} of them wrong")


if __name__ == "__main__":
    main()
