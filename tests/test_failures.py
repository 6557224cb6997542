"""A document that kills, hangs or fails a stage costs itself; a run that is stopped leaves nothing behind."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import ROWS, Workshop

WILD = '''
"""Does to its process what a document's text says; `SICK` only while a file called `sick` is there."""
import ctypes
import os
import re
import signal
import time
from pathlib import Path

import pyarrow as pa

from pipeline.stage import Stage


def do(docs, names):
    for text in docs["text"].to_pylist():
        for name in names:
            if name in text:
                DEEDS[name]()


DEEDS = {
    "KILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "EXIT": lambda: os._exit(3),
    "SEGV": lambda: ctypes.string_at(0),
    "HANG": lambda: re.match("(a+)+$", "a" * 40 + "b"),
    "STOP": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "RAISE": lambda: 1 / 0,
    "SKETCH": lambda: os.abort(),
    "SCATTER": lambda: os.abort(),
    "READ": lambda: os.abort(),
    "SLOW": lambda: time.sleep(0.4),
    "SICK": lambda: Path("sick").exists() and 1 / 0,
}


class Wild(Stage):
    def apply(self, docs: pa.Table) -> pa.Table:
        do(docs, ("KILL", "EXIT", "SEGV", "HANG", "STOP", "RAISE", "SLOW", "SICK"))
        return docs
'''

_READS = """
        docs = mark(pa.table(table), ["blank" if not line.strip() else None for line in lines])
        step = 1 if schema.BATCH_BYTES == 1 else 1000
        for start in range(0, len(docs), step):
            do(docs.slice(start, step), ("READ",))
            yield docs.slice(start, step)
"""
_HEAD, _, _ = ROWS.replace("class Rows", "class Reader").rpartition("        yield mark(")
READER = (_HEAD.rstrip() + _READS).replace(
    "import xxhash", "import xxhash\n\nfrom pipeline import schema\nfrom stages.wild import do"
)

JUDGE = '''
"""Keeps all documents; some end its process while it makes a sketch."""
from pathlib import Path

import pyarrow as pa

from pipeline.schema import DROP
from pipeline.stage import Barrier
from pipeline.storage import write_table
from stages.wild import do


class Judge(Barrier):
    def sketch(self, docs):
        do(docs, ("SKETCH",))
        return docs.select(["id"])

    def resolve(self, parts, steps):
        return [Path(record["path"]) for record in steps("keep", keep, parts)]


def keep(part, out):
    write_table(Path(f"{out}.parquet"), pa.table({name: pa.nulls(part.rows, kind) for name, kind in DROP.items()}))
    return {"path": f"{out}.parquet"}
'''

FUSSY = '''
"""Shards whose writing some documents end."""
from stages.shards import Shards
from stages.wild import do


class Fussy(Shards):
    def scatter(self, docs, out):
        return super().scatter(seen(docs), out)


def seen(docs):
    for batch in docs:
        do(batch, ("SCATTER",))
        yield batch
'''

CHAIN = """
name: t
workers: 0
document_seconds: 2
stages:
  - reader: {}
  - wild: {}
  - judge: {}
  - tokens: {train: {vocab_size: 300}}
  - fussy: {val_fraction: 0.2}
"""
SHORT = "name: t\nworkers: 0\nstages:\n  - reader: {}\n  - wild: {}\n"

BAD = {(0, 3): "KILL", (0, 7): "EXIT", (1, 2): "SKETCH", (1, 5): "SCATTER", (2, 5): "RAISE", (3, 9): "READ"}


@pytest.fixture
def shop(workshop: Workshop) -> Workshop:
    for name, source in {"wild": WILD, "reader": READER, "judge": JUDGE, "fussy": FUSSY}.items():
        workshop.stage(name, source)
    workshop.write("c.yaml", SHORT)
    return workshop


def put(shop: Workshop, bad: dict[tuple[int, int], str], files: int = 4, lines: int = 12) -> None:
    """Files of documents, some of which say what they do."""
    for i in range(files):
        texts = [f"document {j} of file {i} {bad.get((i, j), '')}".strip() for j in range(lines)]
        shop.write(f"in/{i}.txt", "\n".join(texts) + "\n")


def lost(shop: Workshop, run: str = "runs/t") -> dict[str, str]:
    """The reason of every document that is not in the corpus, by its text."""
    return {
        row["text"]: row["drop"]
        for path in sorted((shop.folder / run).glob("*/rejected/*.parquet"))
        for row in pq.read_table(path).to_pylist()
    }


def test_each_bad_document_costs_itself_anywhere_and_the_bytes_are_the_same_for_any_workers(shop: Workshop) -> None:
    shop.write("c.yaml", CHAIN)
    put(shop, BAD)
    sums = []
    for workers in ("0", "2"):
        said = shop.run("run", "c.yaml", "--workers", workers, "--out", f"runs/w{workers}", code=1)
        assert "stages failed on 6 documents, a larger fraction than max_failed_fraction allows" in said
        assert "ALARM  wild: crashed_wild: document" in said
        sums.append(shop.checksums(f"runs/w{workers}"))
        assert lost(shop, f"runs/w{workers}") == {
            "document 3 of file 0 KILL": "crashed_wild",
            "document 7 of file 0 EXIT": "crashed_wild",
            "document 2 of file 1 SKETCH": "crashed_judge",
            "document 5 of file 1 SCATTER": "crashed_fussy",
            "document 5 of file 2 RAISE": "failed_wild",
            "": "crashed_reader",  # and with it what is behind it in the file
        }
        assert "46 ledger rows, each id once" in shop.run("verify", f"runs/w{workers}")
    assert sums[0] == sums[1]
    # 9 documents of the last file come before the one that cannot be read
    accepted = shop.run("run", "c.yaml", "--out", "runs/w0", "--set", "max_failed_fraction=1")
    assert f"{3 * 12 + 9 - 5} documents, " in accepted


def test_more_losses_than_allowed_are_tried_again_and_fewer_are_not(shop: Workshop) -> None:
    shop.write("sick", "")
    put(shop, {(1, 4): "SICK"})
    shop.run("run", "c.yaml", code=1)
    assert "0 tasks run" in shop.run("run", "c.yaml", "--set", "max_failed_fraction=0.1")
    assert lost(shop) == {"document 4 of file 1 SICK": "failed_wild"}
    (shop.folder / "sick").unlink()
    shop.run("run", "c.yaml")
    assert lost(shop) == {}


@pytest.mark.parametrize("deed", ["RAISE", "KILL"])
def test_a_stage_that_fails_on_everything_fails_its_partition_soon_and_loses_nothing(shop: Workshop, deed: str) -> None:
    put(shop, {(1, j): deed for j in range(200)}, files=2, lines=200)
    said = shop.run("run", "c.yaml", code=1)
    assert re.search(r"failed: wild: in/1\.txt: .* \(on 11 documents of this partition, each alone", said)
    assert "1 of 2 tasks of reader to wild failed; what they and later stages would add is missing" in said
    assert not (shop.folder / "runs/t/ledger").exists()
    report = json.loads((shop.folder / "runs/t/report.json").read_text())
    assert report["missing"] == "1 of 2 tasks of reader to wild failed"
    assert report["funnel"][0]["in"] == 200


def test_a_document_that_hangs_in_compiled_code_is_timed_out(shop: Workshop) -> None:
    shop.write("c.yaml", "document_seconds: 1\n" + SHORT)
    put(shop, {(0, 1): "HANG"}, files=2, lines=3)
    said = shop.run("run", "c.yaml", code=1)
    assert lost(shop) == {"document 1 of file 0 HANG": "timed_out_wild"}
    assert re.search(r"timed_out_wild: document \w+ of 0.txt: needed more than 1 s \(wild.py, line \d+, in", said)


def test_a_slow_stage_is_never_taken_for_one_that_hangs(shop: Workshop) -> None:
    shop.write("c.yaml", "document_seconds: 1\n" + SHORT)
    put(shop, {(0, j): "SLOW" for j in range(45)}, files=1, lines=45)  # 18 s: longer than a batch may take
    shop.run("run", "c.yaml")
    assert lost(shop) == {}


def test_in_this_process_an_exception_is_isolated_too(shop: Workshop) -> None:
    put(shop, {(0, 3): "RAISE"})
    shop.run("--debug", "run", "c.yaml", code=1)
    assert lost(shop) == {"document 3 of file 0 RAISE": "failed_wild"}


@pytest.mark.parametrize(
    ("workers", "number"), [("0", signal.SIGTERM), ("0", signal.SIGHUP), ("1", signal.SIGTERM), ("1", signal.SIGINT)]
)
def test_a_signal_stops_a_run_with_everything_that_it_started(shop: Workshop, workers: str, number: int) -> None:
    psutil = pytest.importorskip("psutil")
    put(shop, {(i, j): "SLOW" for i in range(4) for j in range(12)})
    process = shop.start("run", "c.yaml", "--workers", workers)
    marks = shop.folder / "runs/t"
    until = time.monotonic() + 120
    while not list(marks.glob("*/.part-*.mark.tmp")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    family = psutil.Process(process.pid).children(recursive=True)
    assert family
    process.send_signal(number)
    time.sleep(0.3)
    process.send_signal(number)  # once more, while it ends
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, out + err
    assert err == "stopped; the same command continues.\n"
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive
    assert not list((shop.folder / "runs").rglob(".*.tmp"))
    assert not list(Path("/tmp").glob(f"gristmill-ray-{process.pid}-*"))


def test_nohup_is_respected(shop: Workshop) -> None:
    put(shop, {(0, j): "SLOW" for j in range(8)}, files=1, lines=8)
    process = subprocess.Popen(
        ["nohup", sys.executable, "-m", "pipeline", "run", "c.yaml"], cwd=shop.folder, env=shop.environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    while not list((shop.folder / "runs/t").glob("*/.part-*.mark.tmp")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGHUP)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err
