"""Verification: shingle sets computed again from the stored text, compared exactly, and who leaves for whom.

The candidates' sets are written partition by partition, cut by bucket, so that one bucket's reader touches nothing
else; a bucket holds whole components, and is all that a task has in memory.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.schema import BATCH_BYTES, text_buffers
from pipeline.storage import atomic, write_array
from stages.duplicates.components import MEMBER
from stages.duplicates.keys import OLD, Dedup, Stored, read
from stages.kernels import cluster
from stages.kernels.sketch import shingle_sets, unit_table

HOW = ("exact", "jaccard", "contained")  # by code: 0, cluster.JACCARD, cluster.CONTAINED
NEW = 2**31 - 1  # `ingest` of this run's documents: after every earlier batch

_TEXT_ROWS = 2048  # documents whose text is read at a time
_LARGEST = 10  # clusters reported


class SetsTask(NamedTuple):
    """The candidates of one partition of this run."""

    dedup: Dedup
    stored: Stored
    components: str


class OldSetsTask(NamedTuple):
    """The candidates of one segment of the index."""

    dedup: Dedup
    before: Any  # index.Before
    segment: int
    components: str


class VerifyTask(NamedTuple):
    """One bucket."""

    dedup: Dedup
    sets: list[tuple[str, str]]
    bucket: int


def set_schema(dedup: Dedup) -> pa.Schema:
    """What verification knows of a candidate."""
    numbers = [(name, pa.uint64()) for name in ("component", "ordinal", "exact_hi", "exact_lo")]
    keys = ("keys", pa.list_(pa.uint64(), dedup.bands))
    sets = [("shingles", pa.large_list(pa.uint64()))]
    return pa.schema(
        [("bucket", pa.int32()), ("ingest", pa.int32()), *numbers, ("id", pa.string()), keys, *dedup.orders(), *sets]
    )


def write_sets(task: SetsTask, out: Path) -> dict[str, Any]:
    """An IPC file of record batches of one bucket each; beside it, which bucket each batch is of (`.npy`, int32)."""
    docs, sketch, count, base = task.stored
    members = _members(task.components, base, base + count)
    known = read(sketch).read_all()
    rows = (members["ordinal"] - np.uint64(base)).astype(np.int64)
    batches = (
        _sets(task.dedup, members[place], texts, known.take(pa.array(rows[place])), NEW)
        for place, texts in _texts(docs, rows)
    )
    return _write(batches, task.dedup, out)


def write_old_sets(task: OldSetsTask, out: Path) -> dict[str, Any]:
    """The same for a segment of the index; sketches are computed again with the shingles."""
    segment = task.before.segments[task.segment]
    members = _members(task.components, segment.base + int(OLD), segment.stop + int(OLD))
    found = task.before.documents(segment, members["ordinal"] & ~OLD)
    batches = (
        _sets(task.dedup, members[place], docs["text"], _resketched(task.dedup, docs), segment.batch)
        for place, docs in found
    )
    return _write(batches, task.dedup, out)


def _resketched(dedup: Dedup, docs: pa.Table) -> pa.Table:
    sketch = dedup.sketch_texts(docs["text"])
    figures = {name: sketch[name] for name in ("exact_hi", "exact_lo", "keys", "shingles")}
    return pa.table({**figures, **{name: docs[name] for name in docs.column_names if name != "text"}})


def _members(path: str, base: int, stop: int) -> np.ndarray:
    members = np.load(path, mmap_mode="r")
    start, end = np.searchsorted(members["ordinal"], np.array([base, stop], np.uint64))
    return np.array(members[start:end], MEMBER)


def _sets(dedup: Dedup, members: np.ndarray, texts: pa.ChunkedArray, sketch: pa.Table, ingest: int) -> pa.RecordBatch:
    needless = members["copy"] | ~np.asarray(pc.greater_equal(sketch["shingles"], dedup.min_shingles))
    data, offsets = text_buffers(pc.if_else(pa.array(needless), "", texts))
    starts, values = shingle_sets(data, offsets, unit_table(dedup.fold_han), dedup.ngram, dedup.char_ngram)
    columns = {name: pa.array(members[name]) for name in ("bucket", "component", "ordinal")}
    columns["ingest"] = pa.array(np.full(len(members), ingest, np.int32))
    columns["shingles"] = pa.LargeListArray.from_arrays(pa.array(starts), pa.array(values))
    schema = set_schema(dedup)
    arrays = [columns[name] if name in columns else sketch[name].combine_chunks() for name in schema.names]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _write(batches: Iterator[pa.RecordBatch], dedup: Dedup, out: Path) -> dict[str, Any]:
    path, order = Path(f"{out}.arrow"), [np.zeros(0, np.int32)]
    with atomic(path) as beside, pa.ipc.new_file(str(beside), set_schema(dedup)) as file:
        for batch in _gathered(batches):
            buckets = batch["bucket"].to_numpy()
            order.append(np.unique(buckets))
            for bucket in order[-1]:
                file.write_batch(batch.take(pa.array(np.flatnonzero(buckets == bucket))))
    return {"file": str(path), "order": write_array(Path(f"{out}.npy"), np.concatenate(order))}


def _gathered(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows in larger batches, of about `BATCH_BYTES`."""
    held: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        held.append(batch)
        size += batch.nbytes
        if size >= BATCH_BYTES:
            yield from pa.Table.from_batches(held).combine_chunks().to_batches()
            held, size = [], 0
    if held:
        yield from pa.Table.from_batches(held).combine_chunks().to_batches()


def _texts(path: Path, wanted: np.ndarray) -> Iterator[tuple[slice, pa.Array]]:
    """The texts of the `wanted` rows (ascending) of a Parquet file, some at a time, with their places in `wanted`."""
    with pq.ParquetFile(path) as file:
        ends = np.cumsum([file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)], dtype=np.int64)
        begins = np.concatenate((np.zeros(1, np.int64), ends[:-1])) if len(ends) else ends
        for group in np.unique(np.searchsorted(ends, wanted, side="right")):
            row = begins[group]
            for batch in file.iter_batches(_TEXT_ROWS, row_groups=[int(group)], columns=["text"]):
                start, stop = np.searchsorted(wanted, (row, row + len(batch)))
                if stop > start:
                    yield slice(start, stop), batch["text"].take(pa.array(wanted[start:stop] - row))
                row += len(batch)


def write_verified(task: VerifyTask, out: Path) -> dict[str, Any]:
    """The answer for one bucket: an IPC file (ordinal, duplicate_of, similarity, how, dup_count), by ordinal.

    It has a row for each document that leaves and for each kept document that others left for. Beside it
    (`.unlisted.npy`, uint64[2, n]) the keys, above ordinals, whose lists were full of documents kept before.
    """
    docs = _bucket(task)
    heads, place = _exact_classes(docs)  # place: of each document's class in heads
    starts, values = _class_sets(docs, heads, place)
    component = docs["component"].to_numpy()[heads]
    groups = np.concatenate((np.flatnonzero(np.diff(component, prepend=component[0] ^ np.uint64(1))), [len(heads)]))
    keys = _keys(docs, heads)
    limits = (task.dedup.threshold, task.dedup.containment, task.dedup.max_per_key)
    settled = docs["ingest"].to_numpy()[heads] < NEW
    keeper, score, how, unlisted, counts = cluster.leaders(groups, starts, values, keys, settled, *limits)
    kept = keeper[place] < 0
    target = heads[np.where(kept, place, keeper[place])]
    leaves = target != np.arange(len(docs))
    code = np.where(kept, 0, how[place])
    path = Path(f"{out}.arrow")
    answer = _answer(docs, target, leaves, np.where(kept, 1.0, score[place]), code)
    with atomic(path) as beside, pa.ipc.new_file(str(beside), answer.schema) as file:
        file.write_table(answer)
    row, band = np.nonzero(unlisted)
    full = np.stack((keys[row, band], docs["ordinal"].to_numpy()[heads[row]]))
    return {
        "file": str(path),
        "unlisted": write_array(Path(f"{out}.unlisted.npy"), full),
        **{name: int((code[leaves] == number).sum()) for number, name in enumerate(HOW)},
        **dict(zip(("compared", "refused", "lists_full"), counts.tolist(), strict=True)),
        **_clusters(docs, target, leaves),
    }


def _bucket(task: VerifyTask) -> pa.Table:
    """The documents of a bucket, by component and within it in the order in which they are to be kept."""
    batches = []
    for path, order in task.sets:
        places = np.flatnonzero(np.load(order) == task.bucket)
        if len(places):
            reader = read(path)
            batches += [reader.get_batch(int(place)) for place in places]
    docs = pa.Table.from_batches(batches, set_schema(task.dedup))
    first = [("component", "ascending"), ("ingest", "ascending")]
    orders = [(name, "descending") for name, _ in task.dedup.orders()]
    return docs.take(pc.sort_indices(docs, [*first, *orders, ("id", "ascending"), ("ordinal", "ascending")]))


def _exact_classes(docs: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """The first row of every class of documents with one exact hash within one component, and each row's class."""
    keys = [docs[name].to_numpy() for name in ("exact_lo", "exact_hi", "component")]
    order = np.lexsort(keys)  # stable: within a class, rows keep their order
    new = np.ones(len(order), bool)
    new[1:] = np.any([key[order][1:] != key[order][:-1] for key in keys], axis=0)
    head = np.empty(len(order), np.int64)
    head[order] = order[np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))]
    return np.unique(head, return_inverse=True)


def _class_sets(docs: pa.Table, heads: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The shingle set of every class, from whichever of its documents brought it: starts and values."""
    source = np.full(len(heads), -1, np.int64)
    bringing = np.flatnonzero(pc.list_value_length(docs["shingles"]).to_numpy() > 0)
    source[place[bringing]] = bringing
    lists = docs["shingles"].combine_chunks().take(pa.array(source, mask=source < 0))
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths))), lists.flatten().to_numpy()


def _keys(docs: pa.Table, heads: np.ndarray) -> np.ndarray:
    """uint64[heads, bands]: the band keys of every class."""
    keys = docs["keys"].combine_chunks().take(pa.array(heads))
    return np.ascontiguousarray(keys.flatten().to_numpy().reshape(len(heads), keys.type.list_size))


def _answer(docs: pa.Table, target: np.ndarray, leaves: np.ndarray, score: np.ndarray, code: np.ndarray) -> pa.Table:
    dup_count = np.bincount(target[leaves], minlength=len(docs)).astype(np.int32)
    answer = pa.table({
        "ordinal": docs["ordinal"],
        "duplicate_of": docs["id"].take(pa.array(target, mask=~leaves)),
        "similarity": pa.array(score, mask=~leaves),
        "how": pa.array(code, pa.int8(), mask=~leaves),
        "dup_count": pa.array(dup_count),
    }).filter(pa.array(leaves | (dup_count > 0)))  # fmt: skip
    return answer.sort_by("ordinal").combine_chunks()


def _clusters(docs: pa.Table, target: np.ndarray, leaves: np.ndarray) -> dict[str, Any]:
    """Kept documents by size of cluster, itself included, in powers of two; the largest with some of their members."""
    dup_count = np.bincount(target[leaves], minlength=len(docs))
    powers, counts = np.unique(np.floor(np.log2(dup_count[dup_count > 0] + 1)).astype(int), return_counts=True)
    names = [f"{1 << power}-{(2 << power) - 1}" for power in powers.tolist()]
    first = np.argsort(-dup_count, kind="stable")[:_LARGEST]
    largest = []
    for row in first[dup_count[first] > 0].tolist():
        members = docs["id"].take(pa.array(np.flatnonzero(leaves & (target == row))[:5])).to_pylist()
        facts = {"id": docs["id"][row].as_py(), "dup_count": int(dup_count[row]), "members": members}
        largest.append({**facts, "ordinal": docs["ordinal"][row].as_py()})
    return {"cluster_sizes": dict(zip(names, counts.tolist(), strict=True)), "largest": largest}
