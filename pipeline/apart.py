"""Reads the input of a partition in a process of its own, since reading it took a process down.

What cannot be read becomes a row with the reason, like every record that is no document: the source and the place of
the last record before it. Records behind it in the same file are not reached; other files are.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import xxhash

from pipeline import schema
from pipeline.child import Died
from pipeline.config import NamedStep
from pipeline.isolate import Failed, Trial, pack, raised, unpack
from pipeline.rundir import LostFact
from pipeline.schema import DOCUMENT, DROP, text_bytes
from pipeline.stage import Piece, Source, Split

_OPEN: list[Iterator[pa.Table]] = []  # in the process that reads: what it is reading

Tell = Callable[[LostFact], None]


class Unreadable(RuntimeError):
    """The source raised an exception, which the message names."""


def batches(trial: Trial, source: NamedStep, split: Split, limit: float, tell: Tell) -> Iterator[pa.Table]:
    """The batches of `split`. Each has `limit` seconds. A file that cannot be read to its end is told to `tell`."""
    if _readable(trial, source, split, limit):  # whatever it was does not come again: the same batches as ever
        yield from _stream(trial, source, split, limit)
        return
    for piece in split.pieces:
        one = Split((piece,))
        if _readable(trial, source, one, limit):
            yield from _stream(trial, source, one, limit)
        else:
            yield from _as_far_as_possible(trial, source, piece, limit, tell)


def _readable(trial: Trial, source: NamedStep, split: Split, limit: float) -> bool:
    try:
        for _ in _stream(trial, source, split, limit):
            pass
    except Died:
        return False
    return True


def _as_far_as_possible(trial: Trial, source: NamedStep, piece: Piece, limit: float, tell: Tell) -> Iterator[pa.Table]:
    """Record by record, so that everything before the one that ends the process is there; then a row for the rest."""
    waiting: list[pa.Table] = []
    offset = piece.start
    try:
        for batch in _stream(trial, source, Split((piece,)), limit, one_by_one=True):
            waiting.append(batch)
            offset = batch["offset"][-1].as_py() if len(batch) else offset
            if sum(map(text_bytes, waiting)) >= schema.BATCH_BYTES:
                yield pa.concat_tables(waiting)
                waiting = []
    except Died as died:
        row, fact = _rest(source, piece, offset, died)
        tell(fact)
        waiting.append(row)
    if waiting:
        yield pa.concat_tables(waiting)


def _rest(source: NamedStep, piece: Piece, offset: int, died: Died) -> tuple[pa.Table, LostFact]:
    """The row for what was not read of a file: all from behind the record at `offset`."""
    reason = f"{'timed_out' if died.late else 'crashed'}_{source.name}"
    name = xxhash.xxh3_128_hexdigest(f"{piece.source}\0behind {offset}".encode("utf-8", "surrogatepass"))
    values: dict[str, Any] = {"id": name, "source": piece.source, "offset": offset, "text": "", "drop": reason}
    columns = {**DOCUMENT, **source.step.columns(), **DROP}
    row = pa.table({column: pa.array([values.get(column)], kind) for column, kind in columns.items()})
    how = f"{died.how}; not read: all of {piece.path} behind the record at {offset}"
    return row, LostFact(name, piece.source, None, None, source.name, reason, how)


def _stream(
    trial: Trial, source: NamedStep, split: Split, limit: float, one_by_one: bool = False
) -> Iterator[pa.Table]:
    """The batches as they come from the other process. Raises `Died`, and `Unreadable` where reading raises."""
    trial.call(source.name, _begin, source, split, one_by_one, limit=limit)
    while (packed := trial.call(source.name, _go_on, limit=limit)) is not None:
        if isinstance(packed, Failed):
            raise Unreadable(packed.how)
        assert isinstance(packed, bytes)
        yield unpack(packed)


def _begin(source: NamedStep, split: Split, one_by_one: bool) -> None:
    """Open the input, in the process that reads."""
    if one_by_one:  # for good: this process reads one file to the place where it ends
        schema.BATCH_BYTES = 1
    _OPEN[:] = [_read(source, split)]


def _read(source: NamedStep, split: Split) -> Iterator[pa.Table]:
    assert isinstance(source.step, Source)
    yield from source.step.read(split)


def _go_on() -> bytes | Failed | None:
    try:
        batch = next(_OPEN[0], None)
    except Exception as error:  # noqa: BLE001 - said by the process that waits for it
        return raised(error)._replace(error=None)
    return None if batch is None else pack(batch)
