"""What a worker does with one partition: stream it through the stages, part kept from dropped, write, sign the receipt.

A partition is a sequence of batches of about 32 MB of text; memory holds one batch, whatever the size of the file. The
receipt is written last and says what went in, what came out, why the rest did not, and the checksum of every file. A
task run twice writes the same bytes to the same names.
"""

import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import rundir, storage
from pipeline.config import NamedStep
from pipeline.rundir import Cost, InputFact, Receipt
from pipeline.schema import BATCH_BYTES, BATCH_ROWS, DOCUMENT, DROP, empty, set_column, split_batches, text_bytes
from pipeline.stage import Barrier, Sink, Source, Split, Stage, StageCount

REJECT: dict[str, pa.DataType] = {"stage": pa.string(), **DROP}
"""Columns that a rejected document has beside its own."""


class StageFailed(RuntimeError):
    """A stage could not work on a partition; the message names the stage, the input and the error, in one line."""

    def __init__(self, stage: str, source: str, error: BaseException) -> None:
        super().__init__(stage, source, error)
        self.stage, self.source, self.error = stage, source, error

    def __str__(self) -> str:
        return " ".join(f"{self.stage}: {self.source}: {type(self.error).__name__}: {self.error}".split())

    def __reduce__(self) -> Any:
        return StageFailed, (self.stage, self.source, RuntimeError(f"{type(self.error).__name__}: {self.error}"))


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

    @property
    def name(self) -> str:
        return f"part-{self.number:05d}"

    @property
    def receipt(self) -> Path:
        return self.folder / f"{self.name}.json"

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

    @property
    def label(self) -> str:
        return self.out.name


class _Counts:
    """In, out and reasons of every stage, as the batches go through."""

    def __init__(self, names: list[str]) -> None:
        self._rows: dict[str, list[int]] = {name: [0, 0] for name in names}
        self._reasons: dict[str, Counter[str]] = {name: Counter() for name in names}
        self._tally: dict[str, Counter[str]] = {name: Counter() for name in names}
        self._seconds: Counter[str] = Counter()
        self.text_bytes = 0

    def add(self, name: str, before: int, after: int, reasons: pa.ChunkedArray | None, seconds: float) -> None:
        self._rows[name][0] += before
        self._rows[name][1] += after
        self._seconds[name] += seconds  # type: ignore[assignment]
        if reasons is not None:
            for pair in pc.value_counts(reasons).to_pylist():
                self._reasons[name][pair["values"]] += pair["counts"]

    def tally(self, name: str, counts: dict[str, int]) -> None:
        self._tally[name].update(counts)

    def record(self) -> tuple[StageCount, ...]:
        return tuple(
            StageCount(
                stage=name,
                rows_in=rows[0],
                rows_out=rows[1],
                reasons=dict(sorted(self._reasons[name].items())),
                tally=dict(sorted(self._tally[name].items())),
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

    What a stage says of its column (metadata of the field, as `tokens` names its tokenizer) stays with it.
    """

    def __init__(self, path: Path, columns: dict[str, pa.DataType], stack: ExitStack) -> None:
        self.path, self.rows = path, 0
        self._schema = pa.schema(list(columns.items()))
        self._stack = stack
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.Table] = []
        self._bytes = self._many = 0

    def write(self, docs: pa.Table) -> None:
        """What is said of columns by the first batch of some rows (or before it) is taken for the whole file."""
        if self._writer is None and not self._waiting:
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
        table = pa.concat_tables([self._schema.empty_table(), *self._waiting])
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
    clock = _Clock()
    task.receipt.unlink(missing_ok=True)  # of another input: it must not vouch for what is written now
    names = [named.name for named in (*((task.source,) if task.source else ()), *task.stages)]
    counts = _Counts(names)
    rejected = task.group / "rejected" / f"{task.name}.parquet"
    files = [rejected]
    inputs = tuple(map(InputFact.of, task.split.pieces)) if task.split else ()
    with ExitStack() as stack:
        rejects = _Writer(rejected, {**task.columns, **REJECT}, stack)
        kept = _through(task, counts, rejects)
        if task.end and isinstance(task.end.step, Sink):
            written, extra = _scatter(task, task.end.step, kept)
        else:
            written, extra = _store(task, kept, stack)
        rejects.close(always=False)
    if not rejects.rows:
        files.remove(rejected)
        rejected.unlink(missing_ok=True)  # of an earlier input under the same name
    about = {"inputs": inputs, "counts": counts.record(), "text_bytes": counts.text_bytes, "cost": clock.spent()}
    return rundir.write_receipt(task.receipt, [*files, *written], task.group, key=task.key, **about, **extra)


def _store(task: MapTask, kept: Iterator[pa.Table], stack: ExitStack) -> tuple[list[Path], dict[str, Any]]:
    """Survivors to Parquet, and a row of sketch for each if a barrier asks for it."""
    docs = _Writer(task.folder / f"{task.name}.parquet", task.columns, stack)
    written = [docs.path]
    sketches: pa.ipc.RecordBatchFileWriter | None = None
    if task.end and isinstance(task.end.step, Barrier):
        barrier = task.end.step
        path = task.group / f"sketch-{task.number:05d}.arrow"
        beside = stack.enter_context(storage.atomic(path))
        blank = _run(task.end.name, task.label, barrier.sketch, empty(task.columns))
        sketches = stack.enter_context(pa.ipc.new_file(beside, blank.schema))
        written.append(path)
    for batch in kept:
        docs.write(batch)
        if sketches is not None and task.end:
            sketch = _run(task.end.name, task.label, task.end.step.sketch, batch)  # type: ignore[union-attr]
            if len(sketch) != len(batch):
                raise StageFailed(task.end.name, task.label, ValueError(f"{len(sketch)} sketches of {len(batch)} rows"))
            sketches.write_table(sketch.combine_chunks())
    docs.close()
    return written, {"rows": docs.rows}


def _scatter(task: MapTask, sink: Sink, kept: Iterator[pa.Table]) -> tuple[list[Path], dict[str, Any]]:
    out = task.folder / task.name
    assert task.end
    record = _run(task.end.name, task.label, sink.scatter, kept, out)
    return sorted(path for path in task.folder.glob(f"{task.name}.*") if path != task.receipt), {"record": record}


def _through(task: MapTask, counts: _Counts, rejects: _Writer) -> Iterator[pa.Table]:
    """The batches that leave the last stage; dropped rows go to `rejects` on the way."""
    batches = _batches(task)
    while True:
        started = time.process_time()  # reading and decoding are the source's time
        if (batch := next(batches, None)) is None:
            return
        if task.source:
            counts.text_bytes += text_bytes(batch)
            counts.tally(task.source.name, task.source.step.tally(batch))
            batch = _part(task.source.name, batch, counts, rejects, started)
        for named in task.stages:
            started = time.process_time()
            after = _run(named.name, task.label, _lawful, named, batch)
            counts.tally(named.name, named.step.tally(after))
            batch = _part(named.name, after, counts, rejects, started)
        yield batch
        pa.default_memory_pool().release_unused()  # Arrow keeps what is freed for later, more of it batch by batch


def _batches(task: MapTask) -> Iterator[pa.Table]:
    if task.source is None:
        assert task.docs
        batches = read_docs(task.docs)
        yield next(batches, pq.read_schema(task.docs).empty_table())  # a sink wants a batch, be it of no rows
        yield from batches
        return
    assert task.split
    assert isinstance(task.source.step, Source)
    name = task.source.name
    reader = iter(_run(name, task.label, task.source.step.read, task.split))
    yield _run(name, task.label, next, reader, empty({**DOCUMENT, **task.source.step.columns()}))
    while (batch := _run(name, task.label, next, reader, None)) is not None:
        yield batch


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
        raise StageFailed(stage, source, error) from error


def _lawful(named: NamedStep, docs: pa.Table) -> pa.Table:
    """`apply`, held to the law: the same rows in the same order, the declared columns and no others."""
    step = named.step
    assert isinstance(step, Stage)
    after = step.apply(docs)
    if len(after) != len(docs) or not after["id"].equals(docs["id"]):
        raise ValueError(f"broke the law: {len(docs)} rows in, {len(after)} out, or in another order")
    allowed = {**{field.name: field.type for field in docs.schema}, **step.columns()}
    for field in after.schema:
        if field.name not in DROP and allowed.get(field.name) != field.type:
            raise ValueError(f"returned column '{field.name}' as {field.type}, declared {allowed.get(field.name)}")
    missing = [name for name in allowed if name not in after.column_names]
    if missing:
        raise ValueError(f"did not return column '{missing[0]}'")
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
        docs = _Writer(task.group / f"{task.name}.parquet", task.columns, stack)
        rejects = _Writer(rejected, {**task.columns, **REJECT}, stack)
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
    record = task.fn(task.task, task.out)
    files = sorted(task.out.parent.glob(f"{task.out.name}.*"))
    about = {"record": record, "cost": clock.spent()}
    return rundir.write_receipt(task.receipt, files, task.out.parent, key=task.key, **about)


def _peak_rss_mb() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (1 << 20 if sys.platform == "darwin" else 1 << 10)
