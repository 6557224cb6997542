"""The machine, with stages small enough to see through: resume, failures, kills, the law, the balance."""

import errno
import json
import os
import re
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from conftest import Workshop, kill_all

from pipeline import plan, storage

LONG = '''
"""Drop long lines; every call is logged, so that a test can count who worked on what."""
import os
from pathlib import Path

import pyarrow as pa

from pipeline.schema import mark
from pipeline.stage import Stage


class Long(Stage):
    limit: int = 40

    def apply(self, docs: pa.Table) -> pa.Table:
        sizes = [len(text) for text in docs["text"].to_pylist()]
        if len(docs):
            log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(log, f"{docs['source'][0].as_py()}\\n".encode())
            os.close(log)
        return mark(docs, ["long" if size > self.limit else None for size in sizes], sizes, [self.limit] * len(docs))
'''

STUMBLE = '''
"""Fail, crash or dawdle on a document that asks for it, as long as a file called `trouble` is there."""
import os
import signal
import time
from pathlib import Path

import pyarrow as pa

from pipeline.stage import Stage


class Stumble(Stage):
    def apply(self, docs: pa.Table) -> pa.Table:
        for text in docs["text"].to_pylist():
            if "slow" in text:
                time.sleep(0.4)
            if "raise" in text and Path("trouble").exists():
                raise ZeroDivisionError("cannot divide\\nby zero")
            if "crash" in text and Path("trouble").exists():
                Path("trouble").unlink()
                os.kill(os.getpid(), 9)
            if "always-dies" in text:
                os.kill(os.getpid(), 9)
        return docs
'''

CONFIG = """
name: t
workers: 0
stages:
  - rows: {}
  - stumble: {}
  - long: {limit: 40}
  - tokens: {train: {vocab_size: 300}}
  - shards: {val_fraction: 0.2}
"""


@pytest.fixture
def shop(workshop: Workshop) -> Workshop:
    workshop.stage("long", LONG)
    workshop.stage("stumble", STUMBLE)
    workshop.write("c.yaml", CONFIG)
    for i in range(6):
        lines = [f"document {j} of file {i}" + " and more of it" * (j % 4) for j in range(20)]
        workshop.write(f"in/{i}.txt", "\n".join([*lines, ""]) + "\n\n")
    return workshop


def worked_on(shop: Workshop) -> list[str]:
    """The files whose documents reached `long` since the last call."""
    path = shop.folder / "log"
    names = path.read_text().split() if path.exists() else []
    path.unlink(missing_ok=True)
    return sorted(names)


def test_a_second_run_does_no_task(shop: Workshop) -> None:
    assert "0 tasks" not in shop.run("run", "c.yaml")
    assert worked_on(shop) == [f"{i}.txt" for i in range(6)]
    before = shop.checksums("runs/t")
    assert "0 tasks run, nothing to do" in shop.run("run", "c.yaml")
    assert worked_on(shop) == []
    assert shop.checksums("runs/t") == before


def test_a_changed_threshold_runs_its_group_and_those_below_and_going_back_runs_nothing(shop: Workshop) -> None:
    shop.run("run", "c.yaml")
    worked_on(shop)
    first = shop.checksums("runs/t")
    shop.run("run", "c.yaml", "--set", "long.limit=30")
    assert worked_on(shop) == [f"{i}.txt" for i in range(6)]
    assert "2 tasks" not in shop.run("run", "c.yaml", "--set", "shards.val_fraction=0.5", "--set", "long.limit=30")
    assert worked_on(shop) == []  # only the sink's group ran
    shop.run("run", "c.yaml")
    assert worked_on(shop) == []
    assert {name: shop.checksums("runs/t").get(name) for name in first} == first


def test_the_source_text_of_a_stage_counts(shop: Workshop) -> None:
    shop.run("run", "c.yaml")
    worked_on(shop)
    shop.stage("long", LONG.replace("size > self.limit", "size >= self.limit"))
    shop.run("run", "c.yaml")
    assert len(worked_on(shop)) == 6


def test_inputs_touched_changed_added_and_taken_away(shop: Workshop) -> None:
    shop.run("run", "c.yaml")
    worked_on(shop)
    os.utime(shop.folder / "in/2.txt")
    assert "0 tasks" in shop.run("run", "c.yaml")
    (shop.folder / "in/2.txt").write_text("changed\n")
    shop.run("run", "c.yaml")
    assert worked_on(shop) == ["2.txt"]
    (shop.folder / "in/6.txt").write_text("added\n")
    shop.run("run", "c.yaml")
    assert worked_on(shop) == ["6.txt"]
    (shop.folder / "in/6.txt").unlink()
    shop.run("run", "c.yaml")
    assert worked_on(shop) == []
    assert len(list(shop.folder_of("runs/t", "long").glob("part-*.parquet"))) == 6
    shop.run("verify", "t")


def test_every_worker_count_writes_the_same_bytes(shop: Workshop) -> None:
    sums = []
    for workers in ("0", "1", "2"):
        shop.run("run", "c.yaml", "--workers", workers, "--out", f"runs/w{workers}")
        sums.append(shop.checksums(f"runs/w{workers}"))
    assert len(sums[0]) > 20
    assert sums[0] == sums[1] == sums[2]


def test_an_exception_costs_its_document_and_is_tried_again(shop: Workshop) -> None:
    shop.write("trouble", "")
    shop.write("in/3.txt", "please raise\n")
    said = shop.run("run", "c.yaml", code=1)
    assert "failed_stumble: document" in said
    assert "ZeroDivisionError: cannot divide by zero" in said
    assert "111 ledger rows" in shop.run("verify", "t")
    worked_on(shop)
    (shop.folder / "trouble").unlink()
    shop.run("run", "c.yaml")
    assert worked_on(shop) == ["3.txt"]
    shop.run("verify", "t")


def test_a_worker_that_dies_once_costs_nothing_and_one_that_always_dies_costs_the_document(shop: Workshop) -> None:
    shop.write("trouble", "")
    shop.write("in/3.txt", "please crash\n")
    shop.run("run", "c.yaml", "--workers", "1")
    assert not (shop.folder / "trouble").exists()
    shop.write("in/4.txt", "this one always-dies\n")
    said = shop.run("run", "c.yaml", "--workers", "1", code=1)
    assert "crashed_stumble: document" in said
    assert "90 ledger rows" in shop.run("verify", "t")


def test_killed_anywhere_the_same_command_finishes_the_same_bytes(shop: Workshop) -> None:
    for i in range(6):
        shop.write(f"in/{i}.txt", "\n".join(f"a slow document {j} in {i}" for j in range(2)))
    shop.run("run", "c.yaml", "--out", "runs/whole")
    worked_on(shop)
    process = shop.start("run", "c.yaml", "--workers", "2", "--out", "runs/killed")
    deadline = time.monotonic() + 60
    while len(list((shop.folder / "runs/killed").glob("*/part-*.json"))) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    kill_all(process)
    time.sleep(2)  # orphaned workers may finish the task they are at; that is harmless, but it is not what is tested
    finished = {path.name: path.stat().st_mtime_ns for path in (shop.folder / "runs/killed").glob("*/part-*.json")}
    assert 2 <= len(finished) < 6
    worked_on(shop)
    shop.run("run", "c.yaml", "--workers", "2", "--out", "runs/killed")
    assert len(worked_on(shop)) == 6 - len(finished)
    for path in (shop.folder / "runs/killed").glob("1-*/part-*.json"):
        if path.name in finished:
            assert path.stat().st_mtime_ns == finished[path.name]
    assert shop.checksums("runs/killed") == shop.checksums("runs/whole")


def test_one_run_at_a_time_and_a_dead_holder_is_no_holder(shop: Workshop) -> None:
    shop.write("in/0.txt", "\n".join(["slow"] * 20))
    process = shop.start("run", "c.yaml")
    while not (shop.folder / "runs/t/config.yaml").exists():
        time.sleep(0.02)
    assert f"process {process.pid} on" in shop.run("run", "c.yaml", code=3)
    assert "running (process" in shop.run("status", "t")
    kill_all(process)
    assert "interrupted" in shop.run("status", "t")
    shop.run("run", "c.yaml")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return docs.slice(1)", "returned 19 rows for 20"),
        ("return docs.take(list(range(len(docs)))[::-1])", "or in another order"),
        ("return docs.append_column('extra', pa.nulls(len(docs), pa.int32()))", "returned column 'extra' as int32"),
        ("return docs.drop_columns(['url'])", "did not return column 'url'"),
        ("return mark(docs, ['x'])", "1 entries for 20 documents"),
    ],
)
def test_the_contract_is_held(shop: Workshop, body: str, said: str) -> None:
    shop.stage("stumble", STUMBLE.replace("return docs", body).replace("import pyarrow as pa",
               "import pyarrow as pa\nfrom pipeline.schema import mark"))  # fmt: skip
    assert said in shop.run("run", "c.yaml", code=1)


def test_what_does_not_balance_is_an_error(shop: Workshop) -> None:
    shop.run("run", "c.yaml")
    receipt = shop.folder_of("runs/t", "long") / "part-00002.json"
    facts = json.loads(receipt.read_text())
    facts["counts"][0]["rows_in"] += 1
    receipt.write_text(json.dumps(facts))
    said = shop.run("run", "c.yaml", code=1)
    assert "does not balance: rows: 133 in, but 120 out and 12 dropped" in said
    assert "133 records entered, but the ledger has 132" in said


def test_verify_sees_a_flipped_byte_anywhere(shop: Workshop) -> None:
    shop.run("run", "c.yaml")
    paths = [path for pattern in ("*/part-*.parquet", "*/*.bin", "*/*.idx", "ledger/*.parquet", "*/docs.parquet",
             "*/rejected/*.parquet") for path in [next((shop.folder / "runs/t").glob(pattern))]]  # fmt: skip
    for path in paths:
        good = path.read_bytes()
        path.write_bytes(good[:-20] + bytes([good[-20] ^ 1]) + good[-19:])
        assert f"wrong: {path.relative_to(shop.folder)}: " in shop.run("verify", "t", code=1)
        path.write_bytes(good)
    assert "verified" in shop.run("verify", "t")


def test_every_record_is_in_the_ledger_with_figure_and_threshold(shop: Workshop) -> None:
    shop.run("run", "c.yaml")
    rows = [row for path in sorted((shop.folder / "runs/t/ledger").glob("*.parquet"))
            for row in pq.read_table(path).to_pylist()]  # fmt: skip
    assert len(rows) == 6 * 22 == len({row["id"] for row in rows})
    fates = {}
    for row in rows:
        fates[row["stage"], row["reason"]] = fates.get((row["stage"], row["reason"]), 0) + 1
    assert fates == {("rows", "blank"): 12, ("long", "long"): 60, (None, None): 60}
    long = next(row for row in rows if row["reason"] == "long")
    assert long["value"] > long["limit"] == 40
    kept = next(row for row in rows if row["stage"] is None)
    assert kept["shard"].startswith(("part-", "val-"))
    assert kept["n_tokens"] > 0


def test_nothing_left_to_write_is_said(shop: Workshop) -> None:
    assert "no document is left to write" in shop.run("run", "c.yaml", "--set", "long.limit=1", code=2)


def test_a_run_without_a_sink_ends_in_documents(shop: Workshop) -> None:
    shop.write("c.yaml", CONFIG.split("  - tokens")[0])
    shop.run("run", "c.yaml")
    assert "60 out" in shop.run("status", "t")
    assert "132 ledger rows" in shop.run("verify", "t")


def test_ray_listens_on_loopback_only_and_leaves_nothing(shop: Workshop) -> None:
    psutil = pytest.importorskip("psutil")
    for i in range(6):
        shop.write(f"in/{i}.txt", "\n".join(["slow"] * 10))
    process = shop.start("run", "c.yaml", "--workers", "1")
    while not list((shop.folder / "runs/t").glob("*/part-*.json")):
        assert process.poll() is None
        time.sleep(0.05)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    sockets = [c for p in family for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert sockets
    assert {c.laddr.ip.removeprefix("::ffff:") for c in sockets} <= {"127.0.0.1", "::1"}
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert not list(Path("/tmp").glob(f"gristmill-ray-{process.pid}-*"))


def test_back_to_an_input_whose_corpus_was_half_replaced(shop: Workshop) -> None:
    """Input A is done, B dies after scattering, then A again: what B left must neither count nor vouch for anything."""
    shop.run("run", "c.yaml")
    first = shop.checksums("runs/t")
    good = (shop.folder / "in/2.txt").read_text()
    shop.write("in/2.txt", "another text\n" * 3)
    shop.write("in/7.txt", "one more\n")
    shop.run("run", "c.yaml")
    (shop.folder_of("runs/t", "shards") / "sink.json").unlink()  # as if killed while finishing
    shop.write("in/2.txt", good)
    (shop.folder / "in/7.txt").unlink()
    shop.run("run", "c.yaml")
    shop.run("verify", "t")
    assert shop.checksums("runs/t") == first


def test_the_same_names_with_other_content_are_another_input(shop: Workshop) -> None:
    shop.run("run", "c.yaml", "--out", "runs/a")
    other = {f"{i}.txt": f"an other document {i}\n" for i in range(6)}
    for name, text in other.items():
        shop.write(f"elsewhere/{name}", text)
    shop.run("run", "c.yaml", "--out", "runs/a", "--set", "rows.folder=elsewhere")
    (shop.folder / "in").rename(shop.folder / "was")
    (shop.folder / "elsewhere").rename(shop.folder / "in")
    shop.run("run", "c.yaml", "--out", "runs/a")
    assert "6 ledger rows" in shop.run("verify", "runs/a")


PAUSE = '''
"""Drop a document whose text stood before; fails in its last step as long as a file called `trouble` is there."""
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.schema import DROP
from pipeline.stage import Barrier
from pipeline.storage import write_table


class Pause(Barrier):
    def sketch(self, docs):
        return docs.select(["id"])

    def resolve(self, parts, steps):
        first = steps("first", note, parts)
        return [Path(record["path"]) for record in steps("last", judge, list(zip(parts, first)))]


def note(part, out):
    Path(f"{out}.txt").write_text("noted")
    return {"path": f"{out}.txt"}


def judge(task, out):
    part, noted = task
    if Path("trouble").exists() and part.rows == 3:
        raise ZeroDivisionError("as asked")
    assert Path(noted["path"]).read_text() == "noted"
    nothing = {name: pa.nulls(part.rows, kind) for name, kind in DROP.items()}
    write_table(Path(f"{out}.parquet"), pa.table(nothing))
    return {"path": f"{out}.parquet"}
'''


@pytest.fixture
def paused(shop: Workshop) -> Workshop:
    """A run that failed within its barrier, at the partition of 3.txt."""
    shop.stage("pause", PAUSE)
    shop.write("c.yaml", CONFIG.replace("  - tokens", "  - pause: {}\n  - tokens"))
    shop.write("in/3.txt", "one\ntwo\nthree\n")
    shop.write("trouble", "")
    shop.said = shop.run("run", "c.yaml", code=1)
    (shop.folder / "trouble").unlink()
    return shop


def test_an_error_within_a_barrier_names_the_stage_and_the_input(paused: Workshop) -> None:
    assert "failed: pause: last of in/3.txt: ZeroDivisionError: as asked" in paused.said


def test_a_moved_interrupted_run_goes_on_where_it_is(paused: Workshop) -> None:
    (paused.folder / "runs/t").rename(paused.folder / "runs/moved")
    worked_on(paused)
    paused.run("run", "c.yaml", "--out", "runs/moved")
    assert worked_on(paused) == []  # what was read stays read
    assert not (paused.folder / "runs/t").exists()
    paused.run("verify", "moved")
    paused.run("run", "c.yaml", "--out", "runs/whole")
    assert paused.checksums("runs/moved") == paused.checksums("runs/whole")
    (paused.folder / "runs/moved").rename(paused.folder / "runs/again")
    assert "0 tasks run" in paused.run("run", "c.yaml", "--out", "runs/again")


def test_status_counts_what_is_valid_and_needs_no_input(paused: Workshop) -> None:
    assert re.search(r"1-pause-\w+ .* 0 of 6 \(6 read\)", paused.run("status", "t"))
    paused.run("run", "c.yaml")
    (paused.folder / "in").rename(paused.folder / "gone")
    said = paused.run("status", "t")
    assert "6 of 6" in said
    assert "1 of 1" in said
    (paused.folder_of("runs/t", "pause") / "part-00002.parquet").unlink()
    assert "5 of 6 (6 read)" in paused.run("status", "t")
    (paused.folder / "gone").rename(paused.folder / "in")
    paused.write("in/0.txt", "changed\n")
    assert "0 of 6 (5 read)" in paused.run("plan", "c.yaml")
    assert "5 of 6 (6 read)" in paused.run("status", "t")  # what the run itself has read


def test_the_funnel_of_a_failed_run_is_of_its_own_input(shop: Workshop) -> None:
    shop.run("run", "c.yaml")
    shop.write("trouble", "")
    shop.write("in/3.txt", "please raise\n" * 12)  # more than are given up one by one
    said = shop.run("run", "c.yaml", code=1)
    assert "1 of 6 tasks of rows to long failed; what they and later stages would add is missing" in said
    assert re.search(r"rows +110 +100 ", said)  # five files of 22 records: what the sixth was before does not count
    report = json.loads((shop.folder / "runs/t/report.json").read_text())
    assert [(stage["stage"], stage["in"]) for stage in report["funnel"]] == [
        ("rows", 110), ("stumble", 100), ("long", 100)
    ]  # fmt: skip


def test_a_file_nobody_signed_for_is_not_counted(shop: Workshop) -> None:
    shop.run("run", "c.yaml")
    home = shop.folder_of("runs/t", "long")
    stray = home / "rejected/part-00009.parquet"
    stray.write_bytes((home / "rejected/part-00001.parquet").read_bytes())
    shop.run("run", "c.yaml")
    assert "132 ledger rows, each id once" in shop.run("verify", "t")


def test_a_changed_file_of_a_run_without_a_barrier_changes_its_corpus(shop: Workshop) -> None:
    shop.run("run", "c.yaml")
    tokenizer = shop.folder_of("runs/t", "shards") / "tokenizer.json"
    shop.write("c.yaml", CONFIG.replace("train: {vocab_size: 300}", f"tokenizer: {tokenizer}"))
    shop.run("run", "c.yaml", "--out", "runs/flat")
    assert len(list((shop.folder / "runs/flat").glob("[0-9]-*"))) == 1
    worked_on(shop)
    shop.write("in/3.txt", "another text\n")
    assert "51 documents, " in shop.run("run", "c.yaml", "--out", "runs/flat")
    assert "3.txt" in worked_on(shop)
    shop.run("verify", "flat")


def test_a_stage_twice_is_refused(shop: Workshop) -> None:
    shop.write("c.yaml", CONFIG.replace("  - long: {limit: 40}", "  - long: {limit: 40}\n  - long: {limit: 30}"))
    assert "stages[3].long: stands there twice" in shop.run("run", "c.yaml", code=2)


def test_ctrl_c_is_one_sentence(shop: Workshop) -> None:
    shop.write("in/0.txt", "\n".join(["slow"] * 20))
    process = shop.start("run", "c.yaml")
    while not (shop.folder / "runs/t/config.yaml").exists():
        time.sleep(0.02)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "stopped; the same command continues.\n"


def test_the_unicode_tables_of_python_are_part_of_a_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    of = {}
    for version in ("15.0.0", "16.0.0"):
        monkeypatch.setattr("pipeline.plan.unicodedata", SimpleNamespace(unidata_version=version))
        plan._code.cache_clear()
        of[version] = plan._code("stages.quality")
    plan._code.cache_clear()
    assert of["15.0.0"] != of["16.0.0"]
    assert "Unicode 16.0.0" in of["16.0.0"]


def test_a_full_disk_is_said_with_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left on device") as raised, storage.atomic(tmp_path / "part.parquet"):
        raise OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28] No space left on device")
    assert raised.value.filename == str(tmp_path / "part.parquet")
