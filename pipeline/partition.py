"""What a worker does with one partition: stream it through the stages, part kept from dropped, write, sign the receipt.

A partition is a sequence of batches of about 32 MB of text; memory holds one batch, whatever the size of the file. The
receipt is written last and says what went in, what came out, why the rest did not, and the checksum of every file. A
task run twice writes the same bytes to the same names.
"""

import functools
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import apart, isolate, marks, rundir, storage
from pipeline.config import NamedStep
from pipeline.isolate import Beyond, BrokenContract, Sieve, Trial, Worked
from pipeline.marks import Limits
from pipeline.rundir import Cost, InputFact, LostFact, Receipt
from pipeline.schema import BATCH_BYTES, BATCH_ROWS, DOCUMENT, DROP, empty, set_column, split_batches, text_bytes
from pipeline.stage import Barrier, Sink, Source, Split, Stage, StageCount

REJECT: dict[str, pa.DataType] = {"stage": pa.string(), **DROP}
"""Columns that a rejected document has beside its own."""


class StageFailed(RuntimeError):
    """A stage could not work on a partition; the message names the stage, the input and the error, in one line."""

    def __init__(self, stage: str, source: str, what: str) -> None:
        super().__init__(stage, source, what)
        self.stage, self.source, self.what = stage, source, what

    @classmethod
    def of(cls, stage: str, source: str, error: BaseException) -> "StageFailed":
        return cls(stage, source, f"{type(error).__name__}: {error}")

    def __str__(self) -> str:
        return " ".join(f"{self.stage}: {self.source}: {self.what}".split())


class MapTask(NamedTuple):
    """One partition through the fused stages of a group."""

    number: int
    key: str  # what the receipt will be recognised by
    source: NamedStep | None  # reads `split`; without one the documents are those of `docs`
    split: Split | None
    docs: Path | None
    stages: tuple[NamedStep, ...]
    end: NamedStep | None  # a barrier gets a sketch of each document, a sink the documents themselves
    columns: dict[str, pa.DataType]  # of the documents that leave
    folder: Path  # where survivors and receipt go
    group: Path  # the group's folder, for rejects and sketches
    limits: Limits
    deadly: bool = False  # this process can be done without: it may end when a stage exceeds its limit
    apart: tuple[str, ...] = ()  # stages that work in a process of their own, since one of them took its process down

    @property
    def name(self) -> str:
        return f"part-{self.number:05d}"

    @property
    def receipt(self) -> Path:
        return self.folder / f"{self.name}.json"

    def with_apart(self, stage: str) -> "MapTask | None":
        """The task with `stage` in a process of its own; None where it cannot be, or is already."""
        names = [named.name for named in (self.source, *self.stages, self.end) if named]
        return self._replace(apart=(*self.apart, stage)) if stage in names and stage not in self.apart else None

    @property
    def label(self) -> str:
        """What the partition is made of, for messages."""
        if self.split is None:
            return str(self.docs)
        first, *others = self.split.pieces
        name = first.path.encode("utf-8", "backslashreplace").decode()
        return name + (f" and {len(others)} more" if others else "")


class VerdictTask(NamedTuple):
    """One partition and what its group's barrier decided on each of its documents."""

    number: int
    key: str
    end: NamedStep
    docs: Path
    verdicts: Path
    columns: dict[str, pa.DataType]
    group: Path

    @property
    def name(self) -> str:
        return f"part-{self.number:05d}"

    @property
    def receipt(self) -> Path:
        return self.group / f"{self.name}.json"

    def with_apart(self, stage: str) -> None:
        """It has no stage that could be given a process of its own."""

    @property
    def label(self) -> str:
        return str(self.docs)


class StepTask(NamedTuple):
    """One inner step of a barrier or a sink."""

    number: int
    key: str
    fn: Any
    task: Any
    out: Path

    @property
    def receipt(self) -> Path:
        return rundir.step_receipt(self.out)

    def with_apart(self, stage: str) -> None:
        """It has no stage that could be given a process of its own."""

    @property
    def label(self) -> str:
        return self.out.name


_TOLD = 20  # documents given up that a receipt describes


class _Counts:
    """In, out and reasons of every stage, as the batches go through."""

    def __init__(self, names: list[str]) -> None:
        self._rows: dict[str, list[int]] = {name: [0, 0] for name in names}
        self._reasons: dict[str, Counter[str]] = {}
        self._tally: dict[str, Counter[str]] = {}
        self._seconds: Counter[str] = Counter()
        self.text_bytes = 0
        self.entered = self.given_up = 0
        self.lost: list[LostFact] = []

    def add(self, name: str, before: int, after: int, reasons: pa.ChunkedArray | None, seconds: float) -> None:
        rows = self._rows.setdefault(name, [0, 0])
        rows[0] += before
        rows[1] += after
        self._seconds[name] += seconds  # type: ignore[assignment]
        if reasons is not None:
            counter = self._reasons.setdefault(name, Counter())
            for pair in pc.value_counts(reasons).to_pylist():
                counter[pair["values"]] += pair["counts"]

    def tally(self, name: str, counts: dict[str, int]) -> None:
        self._tally.setdefault(name, Counter()).update(counts)

    def give_up(self, facts: list[LostFact]) -> None:
        """Count documents that a stage fails on; they are told one by one, as long as they are few."""
        self.given_up += len(facts)
        self.lost += facts[: _TOLD - len(self.lost)]

    def record(self) -> tuple[StageCount, ...]:
        return tuple(
            StageCount(
                stage=name,
                rows_in=rows[0],
                rows_out=rows[1],
                reasons=dict(sorted(self._reasons.get(name, Counter()).items())),
                tally=dict(sorted(self._tally.get(name, Counter()).items())),
                seconds=round(self._seconds[name], 3),
            )
            for name, rows in self._rows.items()
        )


class _Clock:
    """What a task costs, from here on."""

    def __init__(self) -> None:
        pa.default_memory_pool().release_unused()  # what the task before left behind; this one has its own use for it
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def spent(self) -> Cost:
        seconds, cpu = time.monotonic() - self._wall, time.process_time() - self._cpu
        return Cost(round(seconds, 3), round(cpu, 3), _peak_rss_mb())


class _Writer:
    """A Parquet file that grows by batches and is there only when complete; row groups of about 32 MB of text.

    What a stage says of its column (metadata of the field, such as where its model lies) stays with it, unless `bare`.
    """

    def __init__(self, path: Path, columns: dict[str, pa.DataType], stack: ExitStack, *, bare: bool = False) -> None:
        self.path, self.rows, self._bare = path, 0, bare
        self._schema = pa.schema(list(columns.items()))
        self._stack = stack
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.Table] = []
        self._bytes = self._many = 0

    def write(self, docs: pa.Table) -> None:
        """What is said of columns by the first batch of some rows (or before it) is taken for the whole file."""
        if self._writer is None and not self._waiting and not self._bare:
            self._schema = _described(self._schema, docs.schema)
        if len(docs) == 0:
            return
        self._waiting.append(_conform(docs, self._schema))
        self._bytes += text_bytes(docs)
        self.rows += len(docs)
        self._many += len(docs)
        if self._bytes >= BATCH_BYTES or self._many >= BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._writer is None:
            beside = self._stack.enter_context(storage.atomic(self.path))
            self._writer = self._stack.enter_context(pq.ParquetWriter(beside, self._schema, **storage.PARQUET))
        # One chunk a column: where Parquet's pages end depends on chunks, and those on how often a stage was tried.
        table = pa.concat_tables([self._schema.empty_table(), *self._waiting]).combine_chunks()
        self._writer.write_table(table, row_group_size=max(1, len(table)))
        self._waiting, self._bytes, self._many = [], 0, 0

    def close(self, always: bool = True) -> None:
        """Write what waits; a file of no rows is made only if `always`."""
        if self._waiting or (always and self._writer is None):
            self._flush()


def _described(columns: pa.Schema, by: pa.Schema) -> pa.Schema:
    """These columns, with the metadata that those of the same name have."""
    said = {field.name: field.metadata for field in by}
    return pa.schema([field.with_metadata(said.get(field.name) or {}) for field in columns])


def _conform(docs: pa.Table, schema: pa.Schema) -> pa.Table:
    """`docs` with exactly the columns of `schema`, missing ones null."""
    columns = [
        docs[field.name].cast(field.type) if field.name in docs.column_names else pa.nulls(len(docs), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def run_map(task: MapTask) -> Receipt:
    """Carry one partition through its group; returns the receipt, which is on disk by then."""
    try:
        return _run_map(task)
    except StageFailed as failed:
        # A sink takes batch after batch from an iterator. Which document it fails on is found before it gets any.
        sink = task.end and isinstance(task.end.step, Sink) and task.end.name == failed.stage
        again = task.with_apart(failed.stage) if sink else None
        if again is None:
            raise
        return _run_map(again)


def _run_map(task: MapTask) -> Receipt:
    clock = _Clock()
    task.receipt.unlink(missing_ok=True)  # of another input: it must not vouch for what is written now
    names = [named.name for named in (*((task.source,) if task.source else ()), *task.stages)]
    counts = _Counts(names)
    rejected = task.group / "rejected" / f"{task.name}.parquet"
    files = [rejected]
    inputs = tuple(map(InputFact.of, task.split.pieces)) if task.split else ()
    with ExitStack() as stack:
        rejects = _Writer(rejected, {**task.columns, **REJECT}, stack, bare=True)
        passage = _Passage(task, counts, rejects, stack)
        if task.end and isinstance(task.end.step, Sink):
            written, extra = _scatter(task, task.end.step, passage.through())
        else:
            written, extra = _store(task, passage, stack)
        rejects.close(always=False)
    if not rejects.rows:
        files.remove(rejected)
        rejected.unlink(missing_ok=True)  # of an earlier input under the same name
    about = {"inputs": inputs, "counts": counts.record(), "text_bytes": counts.text_bytes, "cost": clock.spent(),
             "entered": counts.entered, "given_up": counts.given_up, "lost": tuple(counts.lost)}  # fmt: skip
    return rundir.write_receipt(task.receipt, [*files, *written], task.group, key=task.key, **about, **extra)


def _store(task: MapTask, passage: "_Passage", stack: ExitStack) -> tuple[list[Path], dict[str, Any]]:
    """Survivors to Parquet, and a row of sketch for each if a barrier asks for it."""
    docs = _Writer(task.folder / f"{task.name}.parquet", task.columns, stack)
    written = [docs.path]
    sketches: pa.ipc.RecordBatchFileWriter | None = None
    for batch in passage.through():
        if task.end:
            batch, sketch = passage.sketched(task.end, batch)
            if sketches is None:
                path = task.group / f"sketch-{task.number:05d}.arrow"
                beside = stack.enter_context(storage.atomic(path))
                sketches = stack.enter_context(pa.ipc.new_file(beside, sketch.schema))
                written.append(path)
            sketches.write_table(sketch.combine_chunks())
        docs.write(batch)
    docs.close()
    return written, {"rows": docs.rows}


def _scatter(task: MapTask, sink: Sink, kept: Iterator[pa.Table]) -> tuple[list[Path], dict[str, Any]]:
    out = task.folder / task.name
    assert task.end
    record = _run(task.end.name, task.label, sink.scatter, kept, out)
    return sorted(path for path in task.folder.glob(f"{task.name}.*") if path != task.receipt), {"record": record}


class _Passage:
    """The way of one partition's batches through the stages, past the documents that a stage fails on."""

    def __init__(self, task: MapTask, counts: _Counts, rejects: _Writer, stack: ExitStack) -> None:
        self._task, self._counts, self._rejects = task, counts, rejects
        self._marks = stack.enter_context(marks.marker(task.receipt, task.deadly))
        self._trial = Trial(task.limits, self._marks)
        stack.callback(self._trial.close)
        self._sieves: dict[str, Sieve] = {}

    def through(self) -> Iterator[pa.Table]:
        """The batches that leave the last stage; dropped rows go to the rejects on the way."""
        task, batches = self._task, self._batches()
        while True:
            started = time.process_time()  # reading and decoding are the source's time
            if (batch := next(batches, None)) is None:
                return
            entered = len(batch)
            self._counts.entered += entered
            if task.source:
                self._counts.text_bytes += text_bytes(batch)
                tally = _run(task.source.name, task.label, task.source.step.tally, batch)
                self._counts.tally(task.source.name, tally)
                batch = _part(task.source.name, batch, self._counts, self._rejects, started)
            for named in task.stages:
                batch = self._stage(named, batch)
            if task.end and isinstance(task.end.step, Sink):
                batch = self._scatterable(task.end, batch)
                with self._marks.at(task.end.name, self._patience(task.end.name, batch)):
                    yield batch
            else:
                yield batch
            self._marks.passed(entered)
            pa.default_memory_pool().release_unused()  # Arrow keeps what is freed for later, more of it batch by batch

    def sketched(self, end: NamedStep, docs: pa.Table) -> tuple[pa.Table, pa.Table]:
        """The documents that the barrier `end` could make a sketch of, and the sketch."""
        docs, worked = self._sift(end, functools.partial(_sketch, end), docs)
        return docs, pa.concat_tables(isolate.pieces(worked))

    def _stage(self, named: NamedStep, docs: pa.Table) -> pa.Table:
        started = time.process_time()
        _, worked = self._sift(named, functools.partial(_apply, named), docs)
        for one in worked:
            self._counts.tally(named.name, one.tally)
        after = pa.concat_tables(isolate.pieces(worked)) if len(worked) != 1 else worked[0].docs
        return _part(named.name, after, self._counts, self._rejects, started)

    def _scatterable(self, end: NamedStep, docs: pa.Table) -> pa.Table:
        """The documents that the sink `end` can take, if there is doubt about it."""
        if end.name not in self._task.apart:
            return docs
        return self._sift(end, functools.partial(_probe, end), docs)[0]

    def _sift(self, named: NamedStep, work: isolate.Work, docs: pa.Table) -> tuple[pa.Table, list[Worked]]:
        """The documents that a stage can work on, and what it made of them; the others become rejects."""
        sieve = self._sieves.get(named.name) or self._sieve(named, work)
        try:
            worked, lost = sieve.sift(docs)
        except BrokenContract as broken:
            raise StageFailed(named.name, self._task.label, str(broken)) from None
        except Beyond as beyond:
            what = f"{beyond.failed.how} ({beyond})"
            raise StageFailed(named.name, self._task.label, what) from beyond.failed.error
        if not lost:
            return docs, worked
        gone = np.zeros(len(docs), bool)
        gone[[one.row for one in lost]] = True
        self._give_up(named.name, docs.filter(pa.array(gone)), lost)
        worked = worked or sieve.sift(docs.slice(0, 0)).worked
        return docs.filter(pa.array(~gone)), worked

    def _sieve(self, named: NamedStep, work: isolate.Work) -> Sieve:
        here = not self._task.deadly or named.name not in self._task.apart
        limits = self._task.limits
        attempt = isolate.here(named.name, work, limits, self._marks) if here else self._trial.of(named.name, work)
        return self._sieves.setdefault(named.name, Sieve(attempt, limits))

    def _give_up(self, stage: str, docs: pa.Table, lost: list[isolate.Lost]) -> None:
        reasons = pa.array([f"{one.failed.kind}_{stage}" for one in lost])
        columns = {"stage": pa.repeat(pa.scalar(stage), len(lost)), "drop": reasons}
        for name, column in columns.items():
            docs = set_column(docs, name, column)
        self._rejects.write(docs)
        self._counts.add(stage, len(lost), 0, docs["drop"], 0.0)
        told = docs.select(["id", "source", "url", "source_id"]).to_pylist()
        self._counts.give_up(
            [LostFact(**row, stage=stage, reason=reason, how=one.failed.how)
             for row, reason, one in zip(told, reasons.to_pylist(), lost)]
        )  # fmt: skip

    def _patience(self, stage: str, docs: pa.Table) -> float:
        return self._task.limits.of_batch(docs) + isolate.start_allowance(stage, self._task.limits)

    def _batches(self) -> Iterator[pa.Table]:
        task = self._task
        if task.source is None:
            assert task.docs
            batches = read_docs(task.docs)
            yield next(batches, pq.read_schema(task.docs).empty_table())  # a sink wants a batch, be it of no rows
            yield from batches
            return
        assert task.split
        assert isinstance(task.source.step, Source)
        name, first = task.source.name, True
        if task.deadly and name in task.apart:
            batches = apart.batches(self._trial, task.source, task.split, self._limit_of_reading(), self._unread)
        else:
            batches = iter(_run(name, task.label, task.source.step.read, task.split))
        while (batch := self._next(batches)) is not None:
            yield batch
            first = False
        if first:
            yield empty({**DOCUMENT, **task.source.step.columns()})

    def _unread(self, fact: LostFact) -> None:
        self._counts.give_up([fact])

    def _limit_of_reading(self) -> float:
        """For one batch, whose size is not known before."""
        return self._task.limits.of_file(BATCH_BYTES)

    def _next(self, batches: Iterator[pa.Table]) -> pa.Table | None:
        """The next batch from the source."""
        assert self._task.source
        name = self._task.source.name
        if name in self._task.apart:
            return _run(name, self._task.label, next, batches, None)
        with self._marks.at(name, self._limit_of_reading() + isolate.start_allowance(name, self._task.limits)):
            return _run(name, self._task.label, next, batches, None)


def read_docs(path: Path, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The batches of a Parquet file of documents, about 32 MB of text each."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=columns, use_threads=False)
            yield from split_batches(table) if "text" in table.column_names else [table]


def _run(stage: str, source: str, fn: Any, *args: Any) -> Any:
    """`fn(*args)`, whatever it raises said with the stage and the input it happened on."""
    try:
        return fn(*args)
    except StageFailed:
        raise
    except Exception as error:
        raise StageFailed.of(stage, source, error) from error


def _apply(named: NamedStep, docs: pa.Table) -> Worked:
    """A stage at work, and what it counts."""
    after = _lawful(named, docs)
    return Worked(after, named.step.tally(after))


def _sketch(named: NamedStep, docs: pa.Table) -> Worked:
    """A barrier's sketch of documents."""
    assert isinstance(named.step, Barrier)
    sketch = named.step.sketch(docs)
    if len(sketch) != len(docs):
        raise BrokenContract(f"returned {len(sketch)} sketches for {len(docs)} documents")
    return Worked(sketch, {})


def _probe(named: NamedStep, docs: pa.Table) -> Worked:
    """Have a sink write documents to a folder that is thrown away: whether it can, not what comes of it."""
    assert isinstance(named.step, Sink)
    with tempfile.TemporaryDirectory(prefix="gristmill-") as folder:
        named.step.scatter(iter([docs]), Path(folder) / "probe")
    return Worked(docs.select(["id"]), {})


def _lawful(named: NamedStep, docs: pa.Table) -> pa.Table:
    """`apply`, held to the contract: the same rows in the same order, the declared columns and no others."""
    step = named.step
    assert isinstance(step, Stage)
    after = step.apply(docs)
    if len(after) != len(docs) or not after["id"].equals(docs["id"]):
        raise BrokenContract(f"returned {len(after)} rows for {len(docs)}, or in another order")
    allowed = {**{field.name: field.type for field in docs.schema}, **step.columns()}
    for field in after.schema:
        if field.name not in DROP and allowed.get(field.name) != field.type:
            raise BrokenContract(f"returned column '{field.name}' as {field.type}, declared {allowed.get(field.name)}")
    missing = [name for name in allowed if name not in after.column_names]
    if missing:
        raise BrokenContract(f"did not return column '{missing[0]}'")
    return after


def _part(name: str, docs: pa.Table, counts: _Counts, rejects: _Writer, started: float) -> pa.Table:
    """The rows that stay, without the drop columns; the marked ones are written and counted."""
    before, reasons = len(docs), None
    if "drop" in docs.column_names:
        gone = pc.is_valid(docs["drop"])
        dropped = docs.filter(gone)
        docs = docs.filter(pc.invert(gone)).drop_columns(list(DROP)) if len(dropped) else docs.drop_columns(list(DROP))
        reasons = dropped["drop"]
        rejects.write(set_column(dropped, "stage", pa.repeat(pa.scalar(name), len(dropped))))
    counts.add(name, before, len(docs), reasons, time.process_time() - started)
    return docs


def run_verdicts(task: VerdictTask) -> Receipt:
    """Apply a barrier's verdicts to one partition: the documents that stay, and those that go."""
    clock = _Clock()
    task.receipt.unlink(missing_ok=True)
    counts = _Counts([task.end.name])
    rejected = task.group / "rejected" / f"{task.name}.{task.end.name}.parquet"
    with ExitStack() as stack:
        stack.enter_context(marks.marker(task.receipt))
        docs = _Writer(task.group / f"{task.name}.parquet", task.columns, stack)
        rejects = _Writer(rejected, {**task.columns, **REJECT}, stack, bare=True)
        docs.write(pq.read_schema(task.docs).empty_table())
        for batch in _run(task.end.name, task.label, _judged, task):
            begun = time.process_time()
            docs.write(_part(task.end.name, batch, counts, rejects, begun))
        docs.close()
        rejects.close(always=False)
    if not rejects.rows:
        rejected.unlink(missing_ok=True)
    files = [docs.path, *([rejected] if rejects.rows else [])]
    about = {"counts": counts.record(), "rows": docs.rows, "cost": clock.spent()}
    return rundir.write_receipt(task.receipt, files, task.group, key=task.key, **about)


def _judged(task: VerdictTask) -> Iterator[pa.Table]:
    """The partition's batches with the verdict columns beside them, and the text of those that stay as it is now."""
    with pq.ParquetFile(task.verdicts) as file:
        expected = pq.read_metadata(task.docs).num_rows
        if file.metadata.num_rows != expected:
            raise ValueError(f"{file.metadata.num_rows} verdicts for {expected} documents")
        groups = (file.read_row_group(group, use_threads=False) for group in range(file.num_row_groups))
        waiting = file.schema_arrow.empty_table()
        for batch in read_docs(task.docs):
            while len(waiting) < len(batch):
                waiting = pa.concat_tables([waiting, next(groups)])
            yield _beside(batch, waiting.slice(0, len(batch)))
            waiting = waiting.slice(len(batch))


def _beside(docs: pa.Table, verdicts: pa.Table) -> pa.Table:
    """`docs` with their verdicts; a `text` among those replaces that of a document unless it is dropped."""
    for name in verdicts.column_names:
        column = verdicts[name]
        if name == "text":
            column = pc.if_else(pc.is_valid(verdicts["drop"]), docs["text"], pc.coalesce(column, docs["text"]))
        docs = set_column(docs, name, column)
    return docs


def run_step(task: StepTask) -> Receipt:
    """One inner step of a barrier or sink; its files and its record go into a receipt."""
    clock = _Clock()
    task.receipt.unlink(missing_ok=True)
    task.out.parent.mkdir(parents=True, exist_ok=True)
    with marks.marker(task.receipt):
        record = task.fn(task.task, task.out)
    files = sorted(task.out.parent.glob(f"{task.out.name}.*"))
    about = {"record": record, "cost": clock.spent()}
    return rundir.write_receipt(task.receipt, files, task.out.parent, key=task.key, **about)


def _peak_rss_mb() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (1 << 20 if sys.platform == "darwin" else 1 << 10)
