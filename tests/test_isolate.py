"""The documents that a stage fails on are found, whatever the batch; no others are given up."""

import ctypes
import functools
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import isolate, marks
from pipeline.child import Child, Died
from pipeline.isolate import Beyond, Failed, Sieve, Trial, Worked
from pipeline.marks import Limits, Marker

QUICK = Limits(1.0, 0.0)


def table(count: int) -> pa.Table:
    return pa.table({"id": [str(i) for i in range(count)], "text": [f"text {i}" for i in range(count)]})


def sieve(bad: dict[int, str], calls: list[int] | None = None) -> Sieve:
    """A sieve over a stage that fails on these rows, in these ways."""

    def attempt(docs: pa.Table, limit: float) -> Worked | Failed:
        if calls is not None:
            calls.append(len(docs))
        kinds = [bad[int(row)] for row in docs["id"].to_pylist() if int(row) in bad]
        return Failed(kinds[0], "so") if kinds else Worked(docs, {"seen": len(docs)})  # type: ignore[arg-type]

    return Sieve(attempt, QUICK)


@given(
    st.integers(1, 300),
    st.dictionaries(st.integers(0, 299), st.sampled_from(["crashed", "failed", "timed_out"]), max_size=isolate.MOST),
)
def test_exactly_the_bad_rows_are_lost_and_the_others_keep_their_order(count: int, bad: dict[int, str]) -> None:
    bad = {row: kind for row, kind in bad.items() if row < count}
    worked, lost = sieve(bad).sift(table(count))
    assert [one.row for one in lost] == sorted(bad)
    assert {one.row: one.failed.kind for one in lost} == bad
    kept = [row for one in worked for row in one.docs["id"].to_pylist()]
    assert kept == [str(row) for row in range(count) if row not in bad]
    assert sum(one.tally["seen"] for one in worked) == count - len(bad)


@pytest.mark.parametrize(("kind", "most"), [("crashed", 10), ("timed_out", 10), ("failed", 50)])
def test_a_stage_that_fails_on_everything_is_stopped_soon(kind: str, most: int) -> None:
    calls: list[int] = []
    with pytest.raises(Beyond, match=f"on {most + 1} documents of this partition"):
        sieve(dict.fromkeys(range(5000), kind), calls).sift(table(5000))
    assert len(calls) < 3 * most + 40


def test_the_bound_is_of_the_partition_not_of_the_batch() -> None:
    one = sieve(dict.fromkeys(range(6), "crashed"))
    one.sift(table(20))
    with pytest.raises(Beyond):
        one.sift(table(20))


def test_what_fails_together_and_never_alone_is_the_fault_of_the_stage() -> None:
    def attempt(docs: pa.Table, limit: float) -> Worked | Failed:
        return Failed("failed", f"of {len(docs)}") if len(docs) > 1 else Worked(docs, {})

    with pytest.raises(Beyond, match="on 8 documents together and on none of them alone") as raised:
        Sieve(attempt, QUICK).sift(table(8))
    assert raised.value.failed.how == "of 8"


def test_what_is_only_too_much_at_once_costs_nothing() -> None:
    def attempt(docs: pa.Table, limit: float) -> Worked | Failed:
        return Failed("failed", "memory", of_size=True) if len(docs) > 3 else Worked(docs, {})

    worked, lost = Sieve(attempt, QUICK).sift(table(20))
    assert not lost
    assert sum(len(one.docs) for one in worked) == 20


def test_what_does_not_come_again_costs_nothing() -> None:
    met = []

    def attempt(docs: pa.Table, limit: float) -> Worked | Failed:
        if "3" in docs["id"].to_pylist() and len(met) < 4:  # the batch, two parts of it, the document once
            met.append(len(docs))
            return Failed("crashed", "now and then")
        return Worked(docs, {})

    assert not Sieve(attempt, QUICK).sift(table(7)).lost


def test_a_batch_that_needs_long_is_gone_through_in_pieces_within_the_limit_of_a_document() -> None:
    limits: list[tuple[int, float]] = []

    def attempt(docs: pa.Table, limit: float) -> Worked | Failed:
        limits.append((len(docs), limit))
        return Failed("timed_out", "so") if len(docs) > 4 or "5" in docs["id"].to_pylist() else Worked(docs, {})

    _, lost = Sieve(attempt, QUICK).sift(table(30))
    assert [one.row for one in lost] == [5]
    assert limits[0] == (30, 10.0)
    assert {limit for size, limit in limits[1:]} == {1.0}


def test_limits_of_documents_and_batches() -> None:
    limits = Limits(60, 10)
    assert limits.of_document(2_000_000) == 80
    assert limits.of_batch(table(3)) == pytest.approx(180, abs=0.01)
    assert limits.of_batch(table(20_000)) == pytest.approx(602, abs=1)


WILD = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda: os._exit(3),
    "quit": lambda: exit(3),
    "segv": lambda: ctypes.string_at(0),
    "hang": lambda: re.match(r"(a+)+$", "a" * 40 + "b"),  # holds the interpreter in compiled code
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "raise": lambda: 1 / 0,
}


def wild(docs: pa.Table) -> Worked:
    for text in docs["text"].to_pylist():
        if text in WILD:
            WILD[text]()
    return Worked(docs, {})


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Marker]:
    with marks.marker(tmp_path / "part-00000.json") as made:
        yield made


def test_a_process_of_its_own_survives_whatever_a_document_does(mark: Marker) -> None:
    texts = ["a", "segv", "b", "raise", "c", "d", "exit", "e", "hang", "quit"]
    docs = pa.table({"id": list("0123456789"), "text": texts})
    trial = Trial(QUICK, mark)
    try:
        worked, lost = Sieve(trial.of("wild", functools.partial(wild)), QUICK).sift(docs)
    finally:
        trial.close()
    told = {docs["text"][one.row].as_py(): (one.failed.kind, one.failed.how) for one in lost}
    assert {text: kind for text, (kind, _) in told.items()} == {
        "segv": "crashed", "raise": "failed", "exit": "crashed", "hang": "timed_out", "quit": "crashed"
    }  # fmt: skip
    assert "SIGSEGV" in told["segv"][1]
    assert "code 3" in told["exit"][1]
    assert told["raise"][1] == "ZeroDivisionError: division by zero"
    assert re.search(r"more than 1 s \(test_isolate.py, line \d+, in", told["hang"][1])
    assert [row for one in worked for row in one.docs["text"].to_pylist()] == ["a", "b", "c", "d", "e"]


def test_a_process_that_is_stopped_is_late() -> None:
    child = Child(quiet=True)
    assert child.call(os.getpid) == child.pid
    with pytest.raises(Died, match=r"needed more than 0\.5 s") as died:
        child.call(os.kill, child.pid, signal.SIGSTOP, limit=0.5)
    assert died.value.late
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)


def test_an_exception_and_what_cannot_be_sent_leave_the_process_as_it_is() -> None:
    child = Child(quiet=True)
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        child.call(divmod, 1, 0)
    with pytest.raises(Exception, match="pickle"):
        child.call(lambda: None)
    assert child.call(divmod, 7, 2) == (3, 1)
    child.close()


def test_a_mark_says_what_a_task_is_at_and_is_gone_when_it_ends(tmp_path: Path) -> None:
    receipt = tmp_path / "part-00007.json"
    path = marks.path_of(receipt)
    with marks.marker(receipt) as mark:
        mark.passed(5)
        with mark.at("extract", 60.0):
            told = marks.read(path)
            assert told is not None
            assert (told.documents, told.stage, told.limit, told.pid) == (5, "extract", 60.0, os.getpid())
        again = marks.read(path)
        assert again is not None
        assert (again.stage, again.limit) == ("", None)
    assert marks.read(path) is None
    assert not list(tmp_path.iterdir())


def _hang(folder: str) -> None:
    with marks.marker(Path(folder) / "part-00000.json", deadly=True) as mark, mark.at("wild", 0.5):
        WILD["hang"]()


def test_a_process_ends_itself_when_compiled_code_does_not_return(tmp_path: Path) -> None:
    child = Child(quiet=True)
    with pytest.raises(Died, match="code 1"):
        child.call(_hang, str(tmp_path), limit=60)
    mark = marks.read(marks.path_of(tmp_path / "part-00000.json"))
    assert mark is not None
    assert mark.late
    assert mark.stage == "wild"


def test_a_child_ends_with_its_parent(tmp_path: Path) -> None:
    child = Child()
    grandchild = child.call(_start_another)
    os.kill(child.pid, signal.SIGKILL)
    until = time.monotonic() + 20
    while time.monotonic() < until and _runs(grandchild):
        time.sleep(0.05)
    assert not _runs(grandchild)


def _start_another() -> int:
    _KEPT.append(Child())
    _KEPT[0].send(time.sleep, 300)
    return _KEPT[0].pid


_KEPT: list[Child] = []


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
