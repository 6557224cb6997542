"""The index: what the next batch has to know of every document kept so far.

    index.json              settings, batches in the order of ingestion, and which of the files below make up the index
    00003-00000.docs        one partition of a batch: ordinal and number of shingles of each kept document (Parquet)
    00003-00000.texts       the same documents: id, what `keep` orders by, text; 16 to a record batch (Arrow IPC, zstd)
    00003-00000.keys        (key, ordinal), sorted by key, a range of keys a file (Parquet, delta-packed)

Files are named by the revision of the index that brought them. From time to time the keys of all batches but the last
are merged into one run.

`index.json` is replaced by rename once everything it names is there, so an index is always one of the states it has
been in; what it does not name is swept away by the next writer. Keys and ordinals are about 8 bytes a key, since gaps
between n sorted keys have about 64 - log2(n) bits and ordinals log2(n): some 140 bytes a document with 16 bands.

Only kept documents are there: whether a new one leaves depends on the kept documents before it and on nothing else (see
`cluster.leaders`), so what a batch finds is what one run over all batches, in that order of keeping, would have found.
"""

import copy
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.storage import atomic, read_json, write_array, write_json
from stages.duplicates.keys import EXACT, OLD, Dedup, Stored, key_range, read, slice_of
from stages.duplicates.verdicts import Judged
from stages.kernels import cluster

FORMAT = 1

_TOGETHER = 16  # texts that are compressed, and read, together: a candidate costs the reading of so many
_AT_ONCE = 1024  # candidates' texts handed on together
_GROUP = 1 << 20  # keys a row group
_PACKED: dict[str, Any] = {
    "compression": "none",
    "use_dictionary": False,
    "column_encoding": {"key": "DELTA_BINARY_PACKED", "ordinal": "DELTA_BINARY_PACKED"},
    "row_group_size": _GROUP,
}


class Segment(NamedTuple):
    """The kept documents of one partition of a batch; its ordinals are in [base, stop)."""

    batch: int
    docs: str
    texts: str
    base: int
    stop: int
    documents: int


class Before(NamedTuple):
    """What a batch sees of the batches before it."""

    segments: list[Segment]
    runs: list[str]  # key files, the oldest first
    base: int  # ordinals from here on are of this batch or later ones

    def rows(self, low: int, high: int) -> Iterator[np.ndarray]:
        """uint64[2, n], keys in [low, high) above ordinals, sorted by key within each array."""
        for path in self.runs:
            with pq.ParquetFile(path) as file:
                for group in range(file.num_row_groups):
                    span = file.metadata.row_group(group).column(0).statistics
                    if span is not None and span.max >= low and span.min < high:  # None: an empty file
                        table = file.read_row_group(group, use_threads=False)
                        rows = np.stack([table[name].to_numpy() for name in ("key", "ordinal")])
                        rows = slice_of(rows, low, high)
                        yield rows[:, rows[1] < np.uint64(self.base)]

    def matching(self, keys: np.ndarray, low: int, high: int) -> np.ndarray:
        """The rows whose key is among the sorted `keys`, with `OLD` set in the ordinals."""
        found = [np.zeros((2, 0), np.uint64)]
        for rows in self.rows(low, high):
            rows = rows[:, cluster.shared_with(rows[0], keys)]
            rows[1] |= OLD
            found.append(rows)
        return np.concatenate(found, axis=1)

    def shingle_counts(self, ordinals: np.ndarray) -> np.ndarray:
        """How many shingles each of these documents has (ordinals ascending, with or without `OLD`)."""
        ordinals = ordinals & ~OLD
        counts = np.zeros(len(ordinals), np.int64)
        for segment in self.segments:
            start, stop = np.searchsorted(ordinals, np.array([segment.base, segment.stop], np.uint64))
            if stop > start:
                table = pq.read_table(segment.docs, use_threads=False)
                place = np.searchsorted(table["ordinal"].to_numpy(), ordinals[start:stop])
                counts[start:stop] = table["shingles"].to_numpy()[place]
        return counts

    def documents(self, segment: Segment, ordinals: np.ndarray) -> Iterator[tuple[slice, pa.Table]]:
        """The documents of a segment with these ordinals (ascending), some at a time, with their places among them."""
        known = pq.read_table(segment.docs, columns=["ordinal"], use_threads=False)["ordinal"].to_numpy()
        rows = np.searchsorted(known, ordinals)
        batches, starts = np.unique(rows // _TOGETHER, return_index=True)
        reader = read(segment.texts)
        held, begun = [], 0
        for batch, start, stop in zip(batches, starts, np.append(starts, len(rows))[1:], strict=True):
            docs = pa.Table.from_batches([reader.get_batch(int(batch))])
            held.append(docs.take(pa.array(rows[start:stop] - batch * _TOGETHER)))
            if stop - begun >= _AT_ONCE or stop == len(rows):
                yield slice(begun, stop), pa.concat_tables(held)
                held, begun = [], stop


class Place(NamedTuple):
    """Where a batch stands among the others."""

    digest: str
    origin: str
    number: int
    before: Before
    after: int  # the revision of the index that it sees
    taken: bool  # whether it is in the index already


class SegmentTask(NamedTuple):
    """One partition whose kept documents go into the index."""

    dedup: Dedup
    stored: Stored
    verdicts: str
    shift: int  # from ordinals in the run to ordinals in the index
    unlisted: list[str]


class RunTask(NamedTuple):
    """One range of keys of a batch (`keys`), or of all batches before (`before`)."""

    keys: list[str]
    before: Before | None
    bucket: int
    buckets: int


class Index:
    """An index folder. The caller holds its lock."""

    def __init__(self, folder: Path, dedup: Dedup | None = None) -> None:
        """Open, to look into it, or to add to it with `dedup`.

        Raises `ValueError` when the index was made with settings that decide otherwise than those of `dedup`.
        """
        self.folder = folder
        blank: dict[str, Any] = {"settings": None, "revision": 0, "batches": [], "segments": [], "runs": []}
        self._state = read_json(folder / "index.json") or blank
        if dedup is not None:
            self._agree(json.loads(json.dumps({"format": FORMAT, **dedup.settings()})))

    def _agree(self, settings: dict[str, Any]) -> None:
        for name, value in (self._state["settings"] or settings).items():
            if value != settings.get(name):
                raise ValueError(
                    f"the index {self.folder} was made with {name} {value}, this run has {settings.get(name)}"
                )
        self._state["settings"] = settings

    def batches(self) -> list[dict[str, Any]]:
        """Those taken in: digest, origin (run directory), documents kept, range of ordinals."""
        return list(self._state["batches"])

    def summary(self) -> dict[str, int]:
        """How much there is."""
        batches = self._state["batches"]
        documents = sum(batch["documents"] for batch in batches)
        return {"batches": len(batches), "documents": documents, "revision": self._state["revision"]}

    def place(self, digest: str, origin: str) -> Place:
        """Where the batch with this digest stands: where it was taken in, or else after the last one.

        A batch from the same origin (run directory) but of other documents or settings takes the place of the one it
        was, if none came after it; raises `ValueError` otherwise.
        """
        batches = self._state["batches"]
        for number, batch in enumerate(batches):
            if batch["digest"] == digest:
                return Place(digest, origin, number, self._before(number), batch["after"], taken=True)
            if batch["origin"] == origin and number < len(batches) - 1:
                raise ValueError(
                    f"{origin} is in the index {self.folder} as batch {number + 1} of {len(batches)}, with other "
                    "documents or settings; give this run another name, or make a new index"
                )
        number = len(batches) - (bool(batches) and batches[-1]["origin"] == origin)
        return Place(digest, origin, number, self._before(number), self._state["revision"], taken=False)

    def _before(self, number: int) -> Before:
        batches = self._state["batches"]
        segments = [
            Segment(batch, str(self.folder / docs), str(self.folder / texts), *numbers)
            for batch, docs, texts, *numbers in self._state["segments"]
            if batch < number
        ]
        runs = [run["files"] for run in self._state["runs"] if run["first"] < number]
        base = batches[number]["base"] if number < len(batches) else batches[-1]["stop"] if batches else 0
        return Before(segments, [str(self.folder / name) for files in runs for name in files], base)

    def take_in(self, dedup: Dedup, place: Place, judged: Judged, steps: Any) -> None:
        """Add a batch, and merge the keys of those before it if they have become many runs."""
        unlisted = [record["unlisted"] for record in judged.verified]
        files = [record["file"] for record in judged.verdicts]
        base = place.before.base
        segments = steps("segments", write_segment, [
            SegmentTask(dedup, part, file, base, unlisted)
            for part, file in zip(judged.stored, files, strict=True)
        ])  # fmt: skip
        keys = [segment["keys"] for segment in segments]
        buckets = -(-sum(segment["rows"] for segment in segments) // dedup.bucket_rows) or 1
        runs = steps("runs", write_run, [RunTask(keys, None, bucket, buckets) for bucket in range(buckets)])
        known = [run for run in self._state["runs"] if run["first"] < place.number]
        merged: list[dict[str, Any]] = []
        if len(known) >= dedup.compact_every:
            buckets = -(-sum(run["rows"] for run in known) // dedup.bucket_rows) or 1
            tasks = [RunTask([], place.before, bucket, buckets) for bucket in range(buckets)]
            merged = steps("merged", write_run, tasks)
        entered = sum(part.rows for part in judged.stored)
        facts = {"digest": place.digest, "origin": place.origin, "base": base, "stop": base + entered,
                 "documents": sum(segment["documents"] for segment in segments), "after": place.after}  # fmt: skip
        self._publish(place.number, facts, segments, runs, merged)

    def _publish(self, number: int, batch: dict[str, Any], segments: Any, runs: Any, merged: Any) -> None:
        """Put the files in place and name them in `index.json`, all at once."""
        revision, state = self._state["revision"] + 1, self._state
        older = [run for run in state["runs"] if run["first"] < number]
        if merged:
            older = [self._run(0, merged, revision, len(runs))]
        here = [
            [number, self._named(segment["docs"], revision, place), self._named(segment["texts"], revision, place),
             segment["base"], segment["stop"], segment["documents"]]
            for place, segment in enumerate(segments)
        ]  # fmt: skip
        self._switch({
            "settings": state["settings"],
            "revision": revision,
            "batches": [*state["batches"][:number], batch],
            "segments": [*(one for one in state["segments"] if one[0] < number), *here],
            "runs": [*older, self._run(number, runs, revision, 0)],
        })  # fmt: skip

    def _switch(self, state: dict[str, Any]) -> None:
        write_json(self.folder / "index.json", state)
        self._state = state
        self._sweep()

    def _run(self, first: int, records: Any, revision: int, number: int) -> dict[str, Any]:
        files = [self._named(record["file"], revision, number + i) for i, record in enumerate(records)]
        return {"first": first, "rows": sum(record["rows"] for record in records), "files": files}

    def _named(self, path: str, revision: int, number: int) -> str:
        """Put a step's file into the index, without a copy where it lies on the same disk; returns its name there."""
        source = Path(path)
        name = f"{revision:05d}-{number:05d}{source.suffix}"
        with atomic(self.folder / name) as beside:
            try:
                os.link(source, beside)
            except OSError:  # another file system
                shutil.copyfile(source, beside)
        return name

    def _sweep(self) -> None:
        named = {name for run in self._state["runs"] for name in run["files"]}
        named |= {name for _, docs, texts, *_ in self._state["segments"] for name in (docs, texts)}
        for path in self.folder.iterdir():
            if path.suffix in (".docs", ".texts", ".keys") and path.name not in named:
                path.unlink()

    def forget(self, ids: set[str]) -> int:
        """Remove documents by id: their text, their figures, their keys. Returns how many there were.

        Later batches are no longer compared with them; what left because of them before stays gone.
        """
        revision = self._state["revision"] + 1
        state = {**copy.deepcopy(self._state), "revision": revision, "segments": [], "runs": []}
        gone = [np.zeros(0, np.uint64)]
        for number, (batch, docs, texts, base, stop, _) in enumerate(self._state["segments"]):
            stays, ordinals = self._stays(docs, texts, ids)
            if not stays.all():
                gone.append(ordinals[~stays])
                docs, texts = self._rewritten(docs, texts, stays, f"{revision:05d}-{number:05d}")
            state["segments"].append([batch, docs, texts, base, stop, int(stays.sum())])
            state["batches"][batch]["documents"] -= int((~stays).sum())
        lost = np.concatenate(gone)
        if not len(lost):
            return 0
        for run in self._state["runs"]:
            files = [self._without(name, lost, revision) for name in run["files"]]
            state["runs"].append({**run, "files": files})
        self._switch(state)
        return len(lost)

    def _stays(self, docs: str, texts: str, ids: set[str]) -> tuple[np.ndarray, np.ndarray]:
        ordinals = pq.read_table(self.folder / docs, columns=["ordinal"], use_threads=False)["ordinal"].to_numpy()
        reader = read(self.folder / texts)
        names = [reader.get_batch(number)["id"] for number in range(reader.num_record_batches)]
        wanted = pa.array(sorted(ids), pa.string())
        listed = pc.is_in(pa.chunked_array(names, pa.string()), value_set=wanted)
        return ~listed.to_numpy().astype(bool), ordinals

    def _rewritten(self, docs: str, texts: str, stays: np.ndarray, stem: str) -> tuple[str, str]:
        kept = pq.read_table(self.folder / docs, use_threads=False).filter(pa.array(stays))
        _write_docs(self.folder / f"{stem}.docs", kept)
        reader = read(self.folder / texts)
        batches = (pa.Table.from_batches([reader.get_batch(n)]) for n in range(reader.num_record_batches))
        _write_texts(self.folder / f"{stem}.texts", reader.schema, _filtered(batches, stays))
        return f"{stem}.docs", f"{stem}.texts"

    def _without(self, name: str, lost: np.ndarray, revision: int) -> str:
        """The name of a key file without the documents of these ordinals."""
        table = pq.read_table(self.folder / name, use_threads=False)
        gone = np.isin(table["ordinal"].to_numpy(), lost)
        if not gone.any():
            return name
        renamed = f"{revision:05d}-{name}"
        _write_keys(self.folder / renamed, table.filter(pa.array(~gone)))
        return renamed


def _filtered(batches: Iterator[pa.Table], stays: np.ndarray) -> Iterator[pa.Table]:
    row = 0
    for batch in batches:
        yield batch.filter(pa.array(stays[row : row + len(batch)]))
        row += len(batch)


def write_segment(task: SegmentTask, out: Path) -> dict[str, Any]:
    """The kept documents of one partition, and (`.npy`, uint64[2, n]) their keys above ordinals, sorted by key."""
    sketch = read(task.stored.sketch).read_all()
    some = (sketch["exact_hi"].to_numpy() != 0) | (sketch["exact_lo"].to_numpy() != 0)
    kept = some & pq.read_table(task.verdicts, columns=["drop"])["drop"].is_null().to_numpy()
    first = task.stored.base + task.shift
    ordinals = np.flatnonzero(kept).astype(np.uint64) + np.uint64(first)
    docs, texts = Path(f"{out}.docs"), Path(f"{out}.texts")
    _write_docs(docs, pa.table({"ordinal": ordinals, "shingles": sketch["shingles"].filter(pa.array(kept))}))
    columns = sketch.select(["id", *(name for name, _ in task.dedup.orders())])
    schema = columns.schema.append(pa.field("text", pa.string()))
    _write_texts(texts, schema, _filtered(_with_text(columns, task.stored.docs), kept))
    keys = _listed_keys(task, sketch, kept, ordinals)
    return {
        "docs": str(docs), "texts": str(texts), "keys": write_array(Path(f"{out}.npy"), keys), "rows": keys.shape[1],
        "base": first, "stop": first + len(sketch), "documents": len(ordinals),
    }  # fmt: skip


def _with_text(columns: pa.Table, docs: Path) -> Iterator[pa.Table]:
    row = 0
    with pq.ParquetFile(docs) as file:
        for batch in file.iter_batches(2048, columns=["text"]):
            yield columns.slice(row, len(batch)).append_column("text", batch["text"])
            row += len(batch)


def _listed_keys(task: SegmentTask, sketch: pa.Table, kept: np.ndarray, ordinals: np.ndarray) -> np.ndarray:
    """Keys above ordinals of the kept documents, but for keys whose lists were full before them."""
    bands = sketch["keys"].combine_chunks().flatten().to_numpy().reshape(len(sketch), task.dedup.bands)[kept]
    row, band = np.nonzero(bands)
    keys, owners = [bands[row, band]], [ordinals[row]]
    if "exact" in task.dedup.levels:
        keys.append((sketch["exact_hi"].to_numpy() ^ sketch["exact_lo"].to_numpy())[kept] | EXACT)
        owners.append(ordinals)
    rows = np.stack((np.concatenate(keys), np.concatenate(owners)))
    cluster.sort_rows(rows)
    return rows[:, ~_unlisted(task, rows)]


def _unlisted(task: SegmentTask, rows: np.ndarray) -> np.ndarray:
    """Which of the rows, sorted by key, are of a key whose list was full before the document came."""
    shift = np.uint64(task.shift)
    refused = np.concatenate([np.zeros((2, 0), np.uint64), *map(np.load, task.unlisted)], axis=1)
    refused = refused[:, refused[1] < OLD]
    pairs = set(zip(refused[0].tolist(), (refused[1] + shift).tolist(), strict=True))
    full = cluster.shared_with(rows[0], np.unique(refused[0]))
    for place in np.flatnonzero(full):
        full[place] = (int(rows[0, place]), int(rows[1, place])) in pairs
    return full


def write_run(task: RunTask, out: Path) -> dict[str, Any]:
    """One range of keys as a Parquet file, sorted by key, then ordinal."""
    low, high = key_range(task.bucket, task.buckets)
    slices = [np.zeros((2, 0), np.uint64), *(slice_of(np.load(path, mmap_mode="r"), low, high) for path in task.keys)]
    slices += task.before.rows(low, high) if task.before else []
    rows = np.concatenate(slices, axis=1)
    cluster.sort_rows(rows)
    path = Path(f"{out}.keys")
    _write_keys(path, pa.table({"key": rows[0], "ordinal": rows[1]}))
    return {"file": str(path), "rows": rows.shape[1]}


def _write_keys(path: Path, table: pa.Table) -> None:
    with atomic(path) as beside:
        pq.write_table(table, beside, **_PACKED)


def _write_docs(path: Path, table: pa.Table) -> None:
    with atomic(path) as beside:
        pq.write_table(table, beside, use_dictionary=False, column_encoding={"ordinal": "DELTA_BINARY_PACKED"})


def _write_texts(path: Path, schema: pa.Schema, tables: Iterator[pa.Table]) -> None:
    """Record batches of exactly `_TOGETHER` rows, but for the last, so that a row's batch is known from its number."""
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with atomic(path) as beside, pa.ipc.new_file(str(beside), schema, options=options) as file:
        waiting = schema.empty_table()
        for table in tables:
            waiting = pa.concat_tables([waiting, table.cast(schema)])
            whole = len(waiting) - len(waiting) % _TOGETHER
            for start in range(0, whole, _TOGETHER):
                file.write_batch(waiting.slice(start, _TOGETHER).combine_chunks().to_batches()[0])
            waiting = waiting.slice(whole)
        for batch in waiting.combine_chunks().to_batches():
            file.write_batch(batch)
