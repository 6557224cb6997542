"""What became of each document: a row for every record that entered, and the story of any one of them.

Nothing is joined: a document that left is a row of some group's `rejected/`, one that stayed is a row of the finished
corpus (or of the last group's partitions), so the ledger is those files, projected. Of a document that a mixture
repeats, the first copy counts.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.rundir import RunDir

if TYPE_CHECKING:
    import pyarrow.dataset as ds

VERSION = 1

LEDGER: dict[str, pa.DataType] = {
    "id": pa.string(),
    "url": pa.string(),
    "source": pa.string(),
    "offset": pa.int64(),
    "source_id": pa.string(),
    "stage": pa.string(),  # where it left; null for a document that is in the corpus
    "reason": pa.string(),
    "value": pa.float64(),
    "limit": pa.float64(),
    "duplicate_of": pa.string(),
    "similarity": pa.float32(),
    "shard": pa.string(),
    "token_offset": pa.int64(),  # of its first token in the shard
    "n_tokens": pa.int32(),
}
"""The columns of `ledger/part-*.parquet`."""

_FROM_REJECTS = {"reason": "drop", "value": "drop_value", "limit": "drop_limit"}
_FROM_CORPUS = {"offset": "source_offset", "token_offset": "offset"}


class LedgerTask(NamedTuple):
    """One part of the ledger: a file of rejects, or a file of documents that stayed."""

    where: str
    path: Path
    renamed: dict[str, str]

    def inputs(self) -> list[int]:
        state = self.path.stat()
        return [state.st_size, state.st_mtime_ns]


def tasks(folder: Path, rejects: list[Path], kept: list[Path]) -> list[LedgerTask]:
    """The files that together hold every record once, each a part of the ledger."""
    finished = [_FROM_CORPUS if path.name == "docs.parquet" else {} for path in kept]
    return [
        *(LedgerTask(str(path.relative_to(folder)), path, _FROM_REJECTS) for path in rejects),
        *(LedgerTask(str(path.relative_to(folder)), path, renamed) for path, renamed in zip(kept, finished)),
    ]


def write_part(task: LedgerTask, out: Path) -> dict[str, Any]:
    """Project one file to the ledger's columns, those it lacks null; returns the number of rows."""
    schema, rows = pa.schema(list(LEDGER.items())), 0
    with storage.atomic(out.with_name(f"{out.name}.parquet")) as beside, pq.ParquetFile(task.path) as file:
        names = {name: task.renamed.get(name, name) for name in LEDGER}
        there = [names[name] for name in LEDGER if names[name] in file.schema_arrow.names]
        copy = ["copy"] if "copy" in file.schema_arrow.names and task.path.name == "docs.parquet" else []
        with pq.ParquetWriter(beside, schema, **storage.PARQUET) as writer:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=list(dict.fromkeys([*there, *copy])), use_threads=False)
                table = table.filter(pc.equal(table["copy"], 0)) if copy else table
                columns = [
                    table[names[name]].cast(kind) if names[name] in there else pa.nulls(len(table), kind)
                    for name, kind in LEDGER.items()
                ]
                writer.write_table(pa.table(columns, schema=schema))
                rows += len(table)
    return {"rows": rows}


def find(folder: Path, wanted: str) -> list[dict[str, Any]]:
    """The ledger rows whose id, url or own identifier is `wanted`, or whose id begins with it (eight digits up)."""
    same = (pc.field("id") == wanted) | (pc.field("url") == wanted) | (pc.field("source_id") == wanted)
    if len(wanted) >= 8:
        same = same | pc.starts_with(pc.field("id"), wanted)
    return _dataset(folder).to_table(filter=same).to_pylist()


def document(paths: list[Path], id_: str) -> dict[str, Any] | None:
    """The document's full row (text and every figure) from the first of the files that has it.

    What a sink dropped has no text there; that is in the next file that has the document.
    """
    found: dict[str, Any] | None = None
    for path in paths:
        rows = pq.read_table(path, filters=pc.field("id") == id_).to_pylist()
        if rows:
            found = {**rows[0], **(found or {})}
            if "text" in found:
                return found
    return found


def dropped_for(folder: Path, id_: str) -> list[dict[str, Any]]:
    """The ledger rows of the documents that left because of this one."""
    return _dataset(folder).to_table(filter=pc.field("duplicate_of") == id_).to_pylist()


def rows(folder: Path) -> int:
    """How many rows the ledger has."""
    return sum(pq.read_metadata(path).num_rows for path in RunDir(folder).ledger_files)


def _dataset(folder: Path) -> "ds.Dataset":
    import pyarrow.dataset as ds  # here, since it brings pandas in where that is installed

    return ds.dataset([str(path) for path in RunDir(folder).ledger_files], format="parquet")


def sample(paths: list[Path], reason: str | None, count: int) -> Iterator[dict[str, Any]]:
    """Documents from Parquet files, of one drop reason if given: the first `count` by id, so that all sources show."""
    found: list[dict[str, Any]] = []
    for path in paths:
        names = pq.read_schema(path).names
        if reason is not None and "drop" not in names:
            continue
        table = pq.read_table(path, columns=["id"], filters=(pc.field("drop") == reason) if reason else None)
        found += of([path], sorted(table["id"].to_pylist())[:count])
        found = sorted(found, key=lambda row: row["id"])[:count]
    yield from found


def of(paths: list[Path], ids: list[str]) -> list[dict[str, Any]]:
    """The documents of these ids, whole but for their tokens, from Parquet files; in the order of ids."""
    found: list[dict[str, Any]] = []
    for path in paths if ids else []:
        names = [name for name in pq.read_schema(path).names if name != "input_ids"]
        found += pq.read_table(path, columns=names, filters=pc.field("id").isin(ids)).to_pylist()
    return sorted(found, key=lambda row: row["id"])


def story(row: dict[str, Any]) -> dict[str, Any]:
    """The figures of a document, without its text and its empty columns, for people."""
    hidden = {"text", "input_ids", "metadata"}
    shown = {name: value for name, value in row.items() if name not in hidden and value is not None}
    if row.get("metadata"):
        shown["metadata"] = json.loads(row["metadata"])
    return shown
