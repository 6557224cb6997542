"""Finds the documents at which a stage fails, and goes on without them.

A document is given up only when the stage fails on it alone, twice. So the outcome depends neither on the batch that it
came in nor on whether the failure was met at the first or a later try. Halving finds the document that raises or that
kills the process. One that hangs is found by going through the batch in small pieces, since half a batch of healthy
documents may rightly take long.
"""

import os
import time
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import pyarrow as pa

from pipeline.child import Child, Died
from pipeline.marks import Limits, Marker
from pipeline.schema import text_bytes

MOST = 10
"""So many documents of a partition may be given up at one stage, for an exception one in a hundred if that is more.
Beyond it the fault is the stage's and not the documents', and the partition fails."""

_TO_START = 120.0  # seconds that an interpreter may need to start and to import a stage, on a machine that is busy
_BRISK = 1.0  # seconds: a piece that takes less is followed by one of twice its size


class BrokenContract(ValueError):
    """What a stage returned is not what it has to return; no document is to blame."""


class Worked(NamedTuple):
    """What a stage made of documents: a row for each, and its tally."""

    docs: pa.Table
    tally: dict[str, int]


Work = Callable[[pa.Table], Worked]
"""A stage at work. A module-level function or a `partial` of one, so that it can be sent to another process."""


class Failed(NamedTuple):
    """A stage did not get through some documents."""

    kind: Literal["crashed", "failed", "timed_out"]
    how: str
    error: BaseException | None = None  # that the stage raised
    of_size: bool = False  # fewer documents may well do, as when memory is short


class Lost(NamedTuple):
    """A document on which a stage fails alone."""

    row: int
    failed: Failed


class Sifted(NamedTuple):
    """What a stage made of a batch, and the documents that it failed on."""

    worked: list[Worked]
    lost: list[Lost]


class Beyond(RuntimeError):
    """The stage fails on too many documents, or on none of them alone; `failed` says how."""

    def __init__(self, said: str, failed: Failed) -> None:
        super().__init__(said)
        self.said, self.failed = said, failed


class _Together(Exception):
    """A stage raises on some documents and on none of them alone: what it returns depends on more than one row."""


Attempt = Callable[[pa.Table, float], Worked | Failed]
"""One try on some documents, within so many seconds."""


class Sieve:
    """One stage over the batches of one partition."""

    def __init__(self, attempt: Attempt, limits: Limits) -> None:
        self._attempt, self._limits = attempt, limits
        self._seen = self._given_up = 0

    def sift(self, docs: pa.Table) -> Sifted:
        """Put a batch through. Raises `Beyond`."""
        self._seen += len(docs)
        found = Sifted([], [])
        outcome = self._attempt(docs, self._limits.of_batch(docs))
        try:
            self._take(docs, 0, len(docs), outcome, found)
        except _Together:
            assert isinstance(outcome, Failed)  # of the whole batch: what a person would have seen
            raise Beyond(f"on {len(docs)} documents together and on none of them alone", outcome) from None
        return found

    def _take(self, docs: pa.Table, start: int, stop: int, outcome: Worked | Failed, found: Sifted) -> None:
        """Keep what the rows from `start` to `stop` came to; if that is a failure, look for those at fault."""
        if isinstance(outcome, Worked):
            found.worked.append(outcome)
        elif stop - start <= 1:
            self._alone(docs, start, found)
        elif outcome.kind == "timed_out":
            self._scan(docs, start, stop, found)
        else:
            self._halve(docs, start, stop, outcome, found)

    def _halve(self, docs: pa.Table, start: int, stop: int, failed: Failed, found: Sifted) -> None:
        before, middle = len(found.lost), (start + stop) // 2
        for first, last in ((start, middle), (middle, stop)):
            part = docs.slice(first, last - first)
            self._take(docs, first, last, self._attempt(part, self._limits.of_batch(part)), found)
        if failed.kind == "failed" and not failed.of_size and len(found.lost) == before:
            raise _Together

    def _scan(self, docs: pa.Table, start: int, stop: int, found: Sifted) -> None:
        """In pieces that grow while they are fast; each may take as long as its longest document alone."""
        size, careful = 1, start  # one by one up to `careful`
        while start < stop:
            size = 1 if start < careful else min(size, stop - start)
            part = docs.slice(start, size)
            begun = time.monotonic()
            longest = max(text_bytes(part.slice(row, 1)) for row in range(size))
            outcome = self._attempt(part, self._limits.of_document(longest))
            if isinstance(outcome, Failed) and size > 1:
                careful = start + size
                continue
            self._take(docs, start, start + 1, outcome, found)
            start += size
            size = 2 * size if time.monotonic() - begun < _BRISK else max(1, size // 2)

    def _alone(self, docs: pa.Table, row: int, found: Sifted) -> None:
        """Try a document that failed alone once more, then give it up."""
        part = docs.slice(row, min(1, len(docs)))
        outcome = self._attempt(part, self._limits.of_document(text_bytes(part)))
        if isinstance(outcome, Worked):
            found.worked.append(outcome)
            return
        if not len(part):
            raise Beyond("on a batch of no documents", outcome)
        self._given_up += 1
        found.lost.append(Lost(row, outcome))
        most = max(MOST, self._seen // 100) if outcome.kind == "failed" else MOST
        if self._given_up > most:
            raise Beyond(f"on {self._given_up} documents of this partition, each alone; no more were tried", outcome)


_STARTED: set[str] = set()  # stages that have worked in this process


def start_allowance(stage: str, limits: Limits) -> float:
    """Seconds that a stage has more when it works in this process for the first time."""
    return 0.0 if stage in _STARTED else limits.of_start()


def here(stage: str, work: Work, limits: Limits, marks: Marker) -> Attempt:
    """Tries in this process, where an exception is all that can be survived."""

    def attempt(docs: pa.Table, limit: float) -> Worked | Failed:
        try:
            with marks.at(stage, limit + start_allowance(stage, limits)):
                worked = work(docs)
        except BrokenContract:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a stage raises; the documents at fault are looked for
            return raised(error)
        if len(docs):
            _STARTED.add(stage)
        return worked

    return attempt


class Trial:
    """Tries in a process of their own, a new one after each that died."""

    def __init__(self, limits: Limits, marks: Marker) -> None:
        self._limits, self._marks = limits, marks
        self._child: Child | None = None

    def of(self, stage: str, work: Work) -> Attempt:
        """Tries of one stage."""
        known: list[pa.Table] = []  # a document that it is known to get through
        ready: list[Child] = []  # the process that has loaded and compiled what the stage needs

        def attempt(docs: pa.Table, limit: float) -> Worked | Failed:
            if self._child is None or self._child not in ready:
                start = known[0] if known else docs.slice(0, 0)
                outcome = self._try(stage, work, start, _TO_START + 2 * self._limits.of_start())
                if isinstance(outcome, Failed):
                    return outcome
                ready[:] = [self._child] if self._child else []
            limit += 0 if known else self._limits.of_start()  # a model may be loaded only for a document
            outcome = self._try(stage, work, docs, limit)
            if isinstance(outcome, Worked) and len(docs) and not known:
                known.append(docs.slice(0, 1))
            return outcome

        return attempt

    def call(self, stage: str, fn: Callable[..., object], *args: object, limit: float) -> object:
        """`fn(*args)`, which is part of `stage`, in the trial's process. Raises `Died`."""
        try:
            if self._child is None:
                self._child = Child(quiet=True)
                self._child.call(os.getpid, limit=_TO_START)
            with self._marks.at(stage, 2 * limit + 60, elsewhere=True):
                return self._child.call(fn, *args, limit=limit)
        except Died:
            self._child = None
            raise

    def close(self) -> None:
        if self._child:
            self._child.close()
            self._child = None

    def _try(self, stage: str, work: Work, docs: pa.Table, limit: float) -> Worked | Failed:
        try:
            made = self.call(stage, _attempt, work, pack(docs), limit=limit)
        except Died as died:
            return Failed("timed_out" if died.late else "crashed", died.how)
        if isinstance(made, BrokenContract):
            raise made
        if isinstance(made, Failed):
            return made
        assert isinstance(made, tuple)
        return Worked(unpack(made[0]), made[1])


def _attempt(work: Work, packed: bytes) -> tuple[bytes, dict[str, int]] | Failed | BrokenContract:
    """One try, in the trial's process; what cannot be pickled stays there."""
    try:
        docs, tally = work(unpack(packed))
    except BrokenContract as broken:
        return broken
    except Exception as error:  # noqa: BLE001 - as in `here`
        failed = raised(error)
        return failed._replace(error=None)
    return pack(docs), tally


def raised(error: Exception) -> Failed:
    """What an exception says of the documents that it came with."""
    of_size = isinstance(error, (MemoryError, pa.ArrowCapacityError, OverflowError))
    return Failed("failed", " ".join(f"{type(error).__name__}: {error}".split()), error, of_size)


def pack(docs: pa.Table) -> bytes:
    """The rows of a table and no more; pickling a slice would take the whole with it."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, docs.schema) as stream:
        stream.write_table(docs)
    return sink.getvalue().to_pybytes()


def unpack(packed: bytes) -> pa.Table:
    with pa.ipc.open_stream(packed) as stream:
        return stream.read_all()


def pieces(worked: list[Worked]) -> Iterator[pa.Table]:
    """The tables of a sifted batch, all with the same columns: those of dropping only where any has them."""
    names = list(dict.fromkeys(name for one in worked for name in one.docs.column_names))
    first = {name: one.docs.schema.field(name) for one in reversed(worked) for name in one.docs.column_names}
    schema = pa.schema([first[name] for name in names])
    for one in worked:
        columns = [
            one.docs[field.name] if field.name in one.docs.column_names else pa.nulls(len(one.docs), field.type)
            for field in schema
        ]
        yield pa.table(columns, schema=schema)
