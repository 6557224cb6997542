"""Verdicts: a row for every document of a partition, and how much each source and domain lost."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.schema import DROP
from pipeline.storage import write_table
from stages.duplicates.keys import Dedup, Stored, read
from stages.duplicates.verify import HOW

_REASONS = ("duplicate_exact", "duplicate_near", "duplicate_contained")
_HOST = r"^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?(?P<host>[^/?#:]+)"
_LOSSES = {"kind": pa.string(), "name": pa.string(), "in": pa.int64(), "out": pa.int64()}
_ENOUGH = 20  # documents, before losing more than `alarm` of them means anything
_LISTED = 50  # sources and domains reported


class Judged(NamedTuple):
    """What every step said, in the order of the steps, for those who want to know more than the verdicts."""

    stored: list[Stored]
    before: Any  # index.Before, or None
    keys: list[dict[str, Any]]
    edges: list[dict[str, Any]]
    found: dict[str, Any]  # the components
    verified: list[dict[str, Any]]
    verdicts: list[dict[str, Any]]


class VerdictsTask(NamedTuple):
    """One partition and the answers of every bucket."""

    dedup: Dedup
    stored: Stored
    answers: list[str]


def write_verdicts(task: VerdictsTask, out: Path) -> dict[str, Any]:
    """One partition's verdicts, a row a document: the stage's columns and those of `schema.DROP`.

    Beside it (`.losses.parquet`) documents in and out by source and by domain.
    """
    found = _answers(task)
    row = np.full(task.stored.rows, -1, np.int64)
    row[(found["ordinal"].to_numpy() - np.uint64(task.stored.base)).astype(np.int64)] = np.arange(len(found))
    found = found.take(pa.array(row, mask=row < 0))
    limits = pa.array([1.0, task.dedup.threshold, task.dedup.containment])
    table = pa.table({
        "duplicate_of": found["duplicate_of"],
        "similarity": found["similarity"].cast(pa.float32()),
        "how": pa.array(HOW).take(found["how"]),
        "dup_count": pc.fill_null(found["dup_count"], 0),
        "drop": pa.array(_REASONS).take(found["how"]),
        "drop_value": found["similarity"],
        "drop_limit": limits.take(found["how"]),
    })  # fmt: skip
    path, losses = Path(f"{out}.parquet"), Path(f"{out}.losses.parquet")
    write_table(path, table.cast(pa.schema([*task.dedup.columns().items(), *DROP.items()])))
    write_table(losses, _losses(task.stored.docs, pc.is_valid(table["drop"])))
    dropped = len(table) - table["drop"].null_count
    return {"file": str(path), "losses": str(losses), "rows": len(table), "dropped": dropped}


def _answers(task: VerdictsTask) -> pa.Table:
    ends = np.array([task.stored.base, task.stored.base + task.stored.rows], np.uint64)
    kinds = (pa.uint64(), pa.string(), pa.float64(), pa.int8(), pa.int32())
    names = ("ordinal", "duplicate_of", "similarity", "how", "dup_count")
    slices = [pa.schema(list(zip(names, kinds, strict=True))).empty_table()]
    for path in task.answers:
        answer = read(path).read_all()
        start, stop = np.searchsorted(answer["ordinal"].to_numpy(), ends)
        slices.append(answer.slice(start, stop - start))
    return pa.concat_tables(slices)


def _losses(docs: Path, gone: pa.ChunkedArray) -> pa.Table:
    """kind (source, domain), name, in, out."""
    columns = pq.read_table(docs, columns=["source", "url"], use_threads=False)
    host = pc.utf8_lower(pc.struct_field(pc.extract_regex(columns["url"], _HOST), "host"))
    tables = []
    for kind, names in (("source", columns["source"]), ("domain", host)):
        counted = pa.table({"name": names, "in": pa.repeat(1, len(gone)), "out": pc.cast(pc.invert(gone), pa.int64())})
        counted = counted.filter(pc.is_valid(names)).group_by("name").aggregate([("in", "sum"), ("out", "sum")])
        counted = counted.rename_columns(["name", "in", "out"])
        tables.append(counted.append_column("kind", pa.repeat(kind, len(counted))))
    return pa.concat_tables(tables)


def losses(files: list[str], alarm: float) -> dict[str, Any]:
    """`removed`, the sources and domains that lost most, and `alarms`, those that lost more than this share."""
    total = pa.table({name: pa.array([], kind) for name, kind in _LOSSES.items()})
    for path in files:
        total = pa.concat_tables([total, pq.read_table(path, use_threads=False).select(list(_LOSSES))])
        total = total.group_by(["kind", "name"]).aggregate([("in", "sum"), ("out", "sum")])
        total = total.rename_columns(list(_LOSSES))
    lost = pc.subtract(total["in"], total["out"])
    share = pc.divide(lost.cast(pa.float64()), total["in"].cast(pa.float64()))
    total = total.append_column("lost", lost).append_column("share", pc.round(share, 4))
    total = total.sort_by([("lost", "descending"), ("name", "ascending")])
    many = pc.and_(pc.greater(total["share"], alarm), pc.greater_equal(total["in"], _ENOUGH))
    removed = {
        kind: total.filter(pc.equal(total["kind"], kind)).slice(0, _LISTED).select(["name", "in", "out"]).to_pylist()
        for kind in ("source", "domain")
    }
    return {"removed": removed, "alarms": total.filter(many).drop_columns("lost").slice(0, _LISTED).to_pylist()}
