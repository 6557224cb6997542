"""Addresses of clusters; tasks that die, and tasks that stand still."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipeline import marks, supervise
from pipeline.address import Address, NoCluster, parse, reach
from pipeline.engine import Done, Tick
from pipeline.marks import Mark
from pipeline.supervise import Supervisor


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("auto", None),
        ("10.0.0.7:6379", Address("10.0.0.7", 6379, False)),
        ("head.example:6379", Address("head.example", 6379, False)),
        ("[fe80::1%eth0]:6379", Address("fe80::1%eth0", 6379, False)),
        ("ray://head:10001", Address("head", 10001, True)),
    ],
)
def test_addresses(said: str, meant: Address | None) -> None:
    assert parse(said) == meant


@pytest.mark.parametrize("said", ["", "local", "head", "head:", "head:0", "head:70000", "http://head:1", "::1:6379"])
def test_what_is_no_address_is_said(said: str) -> None:
    with pytest.raises(NoCluster, match="is no address of a Ray cluster; it should be auto, HOST:PORT"):
        parse(said)


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        reach(f"127.0.0.1:{port}")
    with pytest.raises(NoCluster, match=f"no Ray cluster at 127.0.0.1:{port}: connection refused"):
        reach(f"127.0.0.1:{port}")
    with pytest.raises(NoCluster, match=r"host name no-such-host\.invalid is not known"):
        reach("no-such-host.invalid:6379")


class Job(NamedTuple):
    """A task whose one stage can be put apart."""

    receipt: Path
    apart: tuple[str, ...] = ()

    def with_apart(self, stage: str) -> "Job | None":
        return self._replace(apart=(stage,)) if stage == "wild" and not self.apart else None


class Scripted:
    """An engine whose rounds are given; it remembers what it was asked to do."""

    workers, disposable = 1, True

    def __init__(self, *rounds: list[Done | Tick]) -> None:
        self.rounds, self.tasks, self.killed = list(rounds), [], []

    def map(self, fn: Any, tasks: list[Any]) -> Iterator[Done | Tick]:
        self.tasks.append(tasks)
        yield from self.rounds.pop(0)

    def kill(self, host: str, pid: int) -> None:
        self.killed.append((host, pid))

    def everywhere(self, fn: Any, task: Any) -> list[tuple[str, Any]]:
        return []


class Notes:
    """A watch that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.documents: list[int] = []

    def begin(self, what: str, tasks: int, done: int, size: int) -> None: ...

    def advance(self, receipt: Any, size: int) -> None: ...

    def running(self, documents: int) -> None:
        self.documents.append(documents)

    def note(self, line: str) -> None:
        self.lines.append(line)

    def end(self) -> None: ...


def write(job: Job, mark: Mark) -> None:
    with marks.marker(job.receipt) as made:
        made._mark = mark
        made._write()
        marks.path_of(job.receipt).rename(job.receipt)
    job.receipt.rename(marks.path_of(job.receipt))


DIED = Done(0, None, "the process was ended by SIGSEGV", died=True)


def test_a_task_that_died_in_a_stage_is_tried_with_the_stage_apart(tmp_path: Path) -> None:
    job = Job(tmp_path / "part-00000.json")
    write(job, Mark("here", 1, 7, "wild", 60.0))
    engine, notes = Scripted([DIED], [Done(0, "record", None)]), Notes()
    ends = list(Supervisor(engine, notes, "rows", ["in/0.txt"]).map(print, [job]))
    assert ends == [Done(0, "record", None)]
    assert engine.tasks[1] == [job._replace(apart=("wild",))]
    assert "wild took its process down at in/0.txt: the process was ended by SIGSEGV" in notes.lines[0]
    assert not marks.path_of(job.receipt).exists()


def test_a_task_that_always_dies_elsewhere_fails(tmp_path: Path) -> None:
    engine = Scripted([DIED], [DIED], [DIED])
    [end] = Supervisor(engine, Notes(), "rows", ["in/0.txt"]).map(print, [Job(tmp_path / "part-00000.json")])
    assert end.error == "the worker process died 3 times (the process was ended by SIGSEGV)"


def test_a_task_that_stands_still_is_named_and_ended_when_its_limit_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(0, 1000, 20))
    monkeypatch.setattr(supervise.time, "monotonic", lambda: float(next(now)))
    job = Job(tmp_path / "part-00000.json")
    write(job, Mark("there", os.getpid(), 1234, "wild", 60.0))
    engine, notes = Scripted([Tick((0,))] * 6 + [Done(0, "record", None)]), Notes()
    list(Supervisor(engine, notes, "rows to wild", ["in/0.txt"]).map(print, [job]))
    assert notes.lines[0] == ("rows to wild: in/0.txt: no progress for 40 s in wild, 1,234 documents are through")
    assert len(notes.lines) == 2
    assert engine.killed == [("there", os.getpid())]
    assert set(notes.documents) == {1234}
