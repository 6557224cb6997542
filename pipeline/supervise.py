"""Watches over tasks: tries those again whose process died, ends those that hang, says which make no progress.

A task keeps a mark of what it is at (`marks`). When its process dies, the mark names the stage, and the task runs again
with that stage in a process of its own, where the document at fault is looked for. The process ends itself when a stage
exceeds its limit; one that does not, as it is stopped, is ended from here.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pipeline import marks
from pipeline.engine import Done, Engine, Tick
from pipeline.marks import Mark

RETRIES = 2
"""A task whose process dies outside of a stage is tried this many times more."""

SILENCE = 30.0
"""Seconds without progress after which a task is named, again and again."""

_GRACE = 15.0  # seconds beyond its limit that a process has to end itself


class Watch(Protocol):
    """Is told how a run goes on."""

    def begin(self, what: str, tasks: int, done: int, size: int) -> None: ...

    def advance(self, receipt: Any, size: int) -> None: ...

    def running(self, documents: int) -> None:
        """So many documents of the tasks at work are through."""
        ...

    def note(self, line: str) -> None:
        """Something that a person should see, and that does not stop the run."""
        ...

    def end(self) -> None: ...


class Task(Protocol):
    """What runs: it has a receipt, beside which its mark lies, and may be able to put a stage apart."""

    @property
    def receipt(self) -> Path: ...

    def with_apart(self, stage: str) -> Any: ...


class _Seen(NamedTuple):
    """A mark, since when it stands, when it was last spoken of, and when its process was killed."""

    mark: Mark
    since: float
    told: float
    killed: float = 0.0


class Supervisor:
    """One list of tasks at work."""

    def __init__(self, engine: Engine, watch: Watch, what: str, labels: list[str]) -> None:
        self._engine, self._watch, self._what, self._labels = engine, watch, what, labels
        self._deaths: Counter[int] = Counter()
        self._seen: dict[int, _Seen] = {}

    def map(self, fn: Callable[[Any], Any], tasks: list[Any]) -> Iterator[Done]:
        """The ends of all tasks, in any order; a task whose process died is tried again when the others are done."""
        tasks, todo = list(tasks), list(range(len(tasks)))
        while todo:
            again: list[int] = []
            for end in self._engine.map(fn, [tasks[place] for place in todo]):
                if isinstance(end, Tick):
                    self._look(tasks, [todo[place] for place in end.places])
                    continue
                place = todo[end.place]
                self._seen.pop(place, None)
                other, error = self._another_try(tasks[place], place, end) if end.died else (None, end.error)
                if other is not None:
                    tasks[place] = other
                    again.append(place)
                else:
                    yield Done(place, end.record, error, end.died)
            todo = again

    def _another_try(self, task: Task, place: int, end: Done) -> tuple[Any, str | None]:
        """The task as it is tried once more, or None and why not."""
        path = marks.path_of(task.receipt)
        mark = marks.read(path)
        path.unlink(missing_ok=True)
        stage = mark.stage if mark else ""
        apart = task.with_apart(stage)
        if apart is not None:
            how = "it needed more time than it may" if mark and mark.late else end.error
            self._watch.note(
                f"{self._what}: {stage} took its process down at {self._labels[place]}: {how}; the document is looked "
                f"for when the other tasks are done"
            )
            return apart, None
        where = f" in {stage}" if stage else ""
        self._deaths[place] += 1
        if self._deaths[place] > RETRIES:
            return None, f"the worker process died {self._deaths[place]} times{where} ({end.error})"
        return task, None

    def _look(self, tasks: list[Task], places: list[int]) -> None:
        """Look at the marks of tasks at work: how far they are, and whether any stands still."""
        now, documents = time.monotonic(), 0
        for place in places:
            mark = marks.read(marks.path_of(tasks[place].receipt))
            if mark is None:  # waits to be run
                continue
            documents += mark.documents
            seen = self._seen.get(place)
            if seen is None or seen.mark != mark:
                self._seen[place] = _Seen(mark, now, now)
            else:
                self._stands(place, seen, now)
        self._watch.running(documents)

    def _stands(self, place: int, seen: _Seen, now: float) -> None:
        mark = seen.mark
        if now - seen.told >= SILENCE:
            spent = f"{now - seen.since:.0f} s"
            said = f"no progress for {spent} in {mark.stage}" if mark.stage else f"at work for {spent}"
            through = f", {mark.documents:,} documents are through" if mark.documents else ""
            self._watch.note(f"{self._what}: {self._labels[place]}: {said}{through}")
            seen = self._seen[place] = seen._replace(told=now)
        if mark.limit is not None and now - max(seen.since, seen.killed) > mark.limit + _GRACE:
            self._engine.kill(mark.host, mark.pid)
            self._seen[place] = seen._replace(killed=now)
