"""The finished corpus: documents in a keyed random order, cut into shards, with an index and a manifest.

The order is a keyed hash of (seed, id): it depends neither on the number of workers nor on how the input was
partitioned. Each partition is scattered as sorted runs of about 32 MB of text; a shard is a range of keys, gathered
from its slice of every run. Memory holds one batch, or what `docs.parquet` says of one shard and a block of its ids.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from pydantic import Field, field_validator

from pipeline import corpus, storage
from pipeline.schema import set_column, text_buffers
from pipeline.stage import Sink

_VAL_BIT = np.uint64(1) << np.uint64(63)
_BUCKETS = 1 << 16
"""Shards end at the edge of one of these key ranges, so that the limit holds unless a single range exceeds it."""

_BLOCK = 4_000_000
"""Ids of a shard held at once while it is written."""

_LEFT_OUT = ("text", "input_ids", "mime")
"""Columns of a document that `docs.parquet` does not repeat."""


class ShardTask(NamedTuple):
    """One shard: the keys in [low, high] of every partition's runs."""

    name: str
    split: str
    low: int
    high: int
    scattered: tuple[str, ...]


class Shards(Sink):
    """Shuffled, sharded, indexed token files with a manifest."""

    needs: ClassVar[tuple[str, ...]] = ("id", "text", "input_ids", "n_tokens")

    format: Literal["memmap", "parquet"] = Field("memmap", description="memmap: .bin + .idx; parquet: input_ids lists.")
    val_fraction: float = Field(0.005, ge=0, le=0.5, description="Share of documents held out, by keyed hash.")
    seed: int = Field(1, ge=0, description="Of the document order and of the held-out choice.")
    shard_tokens: int = Field(100_000_000, ge=1, le=2_000_000_000, description="Tokens a shard may hold.")
    parent: Path | None = Field(None, description="The corpus that this one goes on from; an incremental run sets it.")

    @field_validator("parent")
    @classmethod
    def _is_a_corpus(cls, parent: Path | None) -> Path | None:
        if parent is not None and storage.read_json(parent / corpus.MANIFEST) is None:
            raise ValueError(f"{parent}: no finished corpus ({corpus.MANIFEST}) is there")
        return parent

    def files(self) -> list[Path]:
        """The parent's manifest, which this corpus's own repeats the checksum of."""
        return [self.parent / corpus.MANIFEST] if self.parent else []

    def scatter(self, docs: Iterator[pa.Table], out: Path) -> dict[str, Any]:
        """Write the documents of a partition as sorted runs: ids in `out`.tokens, everything else in `out`.arrow."""
        facts: dict[str, str] = {}
        start, count = 0, 0
        with storage.atomic(_with(out, ".tokens")) as tokens, storage.atomic(_with(out, ".arrow")) as rows:
            writer = None
            with tokens.open("wb") as handle:
                for batch in docs:
                    facts = facts or _facts(batch)
                    ids, run = self._run(batch, start)
                    ids.astype(_dtype(facts), copy=False).tofile(handle)
                    run = run.replace_schema_metadata(facts)
                    writer = writer or pa.ipc.new_file(rows, run.schema)
                    writer.write_table(run.combine_chunks())
                    start, count = start + len(ids), count + len(run)
            assert writer, "a partition has at least one batch, be it empty"
            writer.close()
        return {"documents": count, "tokens": start}

    def _run(self, batch: pa.Table, start: int) -> tuple[np.ndarray, pa.Table]:
        """The ids of a batch in key order, and its rows in the same order with `key` and `start` (in tokens)."""
        batch = set_column(batch, "key", pa.array(self.keys(batch["id"].to_pylist()), pa.uint64()))
        _, offsets = text_buffers(batch["text"])
        batch = set_column(batch, "n_bytes", pa.array(np.diff(offsets).astype(np.int32)))
        order = pc.sort_indices(batch, [("key", "ascending"), ("id", "ascending")])
        ids = pc.list_flatten(batch["input_ids"].take(order)).to_numpy()
        batch = batch.drop_columns([name for name in _LEFT_OUT if name in batch.column_names]).take(order)
        lengths = batch["n_tokens"].to_numpy().astype(np.int64)
        batch = set_column(batch, "start", pa.array(start + np.cumsum(lengths) - lengths, pa.int64()))
        return ids, batch

    def keys(self, ids: list[str]) -> np.ndarray:
        """uint64 a document: its place in the order, held-out documents after all others."""
        order = np.fromiter((xxhash.xxh3_64_intdigest(id_.encode(), self.seed) for id_ in ids), np.uint64, len(ids))
        chance = np.fromiter((xxhash.xxh3_64_intdigest(b"val " + id_.encode(), self.seed) for id_ in ids), np.uint64,
                             len(ids))  # fmt: skip
        held_out = chance.astype(np.float64) < self.val_fraction * 2.0**64
        return order >> np.uint64(1) | np.where(held_out, _VAL_BIT, np.uint64(0))

    def plan(self, scattered: list[Path]) -> list[ShardTask]:
        tokens = np.zeros(_BUCKETS, np.int64)
        for out in scattered:
            for run in _runs(out):
                bucket = (run["key"].to_numpy() >> np.uint64(48)).astype(np.int64)
                tokens += np.bincount(bucket, run["n_tokens"].to_numpy(), _BUCKETS).astype(np.int64)
        if not tokens.any() and self.parent is None:  # of a parent, nothing new is a corpus too
            raise ValueError("no document is left to write; `show RUN --rejected REASON` shows where they went")
        outs = tuple(str(out) for out in scattered)
        tasks = []
        for split, name, first in (("train", "part", 0), ("val", "val", _BUCKETS // 2)):
            ranges = _cut(tokens[first : first + _BUCKETS // 2], self.shard_tokens)
            tasks += [
                ShardTask(f"{name}-{i:05d}", split, (first + low) << 48, ((first + high) << 48) - 1, outs)
                for i, (low, high) in enumerate(ranges)
            ]
        return tasks

    def gather(self, task: ShardTask, out: Path) -> dict[str, Any]:
        """Write one shard's files, in key order over all partitions."""
        files: list[Path] = []
        tables = []
        for scattered in map(Path, task.scattered):
            for rows in _slices(scattered, task.low, task.high):
                tables.append(rows.append_column("run", pa.repeat(pa.scalar(len(files), pa.int32()), len(rows))))
                files.append(_with(scattered, ".tokens"))
        docs = pa.concat_tables(tables)
        docs = docs.take(pc.sort_indices(docs, [("key", "ascending"), ("id", "ascending")]))
        lengths = docs["n_tokens"].to_numpy()
        facts = _facts_of(docs)
        dtype = _dtype(facts)
        ids = _ids(files, docs, dtype)
        docs = _described(docs, task.name, lengths)
        storage.write_table(_with(out, ".docs.parquet"), docs)
        if self.format == "memmap":
            corpus.write_bin(_with(out, ".bin"), ids, dtype)
            corpus.write_idx(_with(out, ".idx"), lengths, dtype)
        else:
            lists = pa.array(list(ids), pa.list_(pa.from_numpy_dtype(dtype)))
            storage.write_table(_with(out, ".parquet"), pa.table({"id": docs["id"], "input_ids": lists}))
        shard = {"name": task.name, "split": task.split, "documents": len(docs), "tokens": int(lengths.sum()),
                 "text_bytes": int(docs["n_bytes"].to_numpy().sum())}  # fmt: skip
        return {"shard": shard, "tokenizer": facts}

    def finish(self, gathered: list[Path], records: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
        """Raises `ValueError` where the parent has another vocabulary or layout."""
        facts, shards = self._facts(records), [record["shard"] for record in records]
        (folder / corpus.MANIFEST).unlink(missing_ok=True)
        _clear(folder)
        suffixes = (".bin", ".idx") if self.format == "memmap" else (".parquet",)
        files = {f"{shard['name']}{suffix}": _with(out, suffix)
                 for out, shard in zip(gathered, shards) for suffix in suffixes}  # fmt: skip
        for name, path in {**files, "tokenizer.json": Path(facts["tokenizer"])}.items():
            _link(path, folder / name)
        if gathered:
            _join([_with(out, ".docs.parquet") for out in gathered], folder / "docs.parquet")
        elif self.parent:
            columns = pq.read_schema(self.parent / "docs.parquet")
            storage.write_table(folder / "docs.parquet", columns.empty_table())
        names = [*files, "docs.parquet", "tokenizer.json"]
        listed = {
            name: {"bytes": (folder / name).stat().st_size, "sha256": storage.sha256(folder / name)} for name in names
        }
        totals = {key: sum(shard[key] for shard in shards) for key in ("documents", "tokens", "text_bytes")}
        manifest = {
            "gristmill": 1, "format": self.format, "dtype": _dtype(facts), "vocab_size": int(facts["vocab_size"]),
            "eos_token": facts["eos"], "eos_id": int(facts["eos_id"]),
            "tokenizer": {"file": "tokenizer.json", "sha256": listed["tokenizer.json"]["sha256"]},
            "seed": self.seed, "val_fraction": self.val_fraction, **totals, "shards": shards, "files": listed,
        }  # fmt: skip
        manifest.update(self._lineage(manifest, folder))
        storage.write_json(folder / corpus.MANIFEST, manifest)
        return {"files": [*names, corpus.MANIFEST], "shards": len(shards), "dtype": _dtype(facts), **totals,
                "vocab_size": manifest["vocab_size"]}  # fmt: skip

    def _facts(self, records: list[dict[str, Any]]) -> dict[str, str]:
        """Of the tokenizer: what the shards were written with, or the parent where there is none."""
        if records:
            return records[0]["tokenizer"]
        assert self.parent
        known = storage.read_json(self.parent / corpus.MANIFEST)
        tokenizer = str(self.parent / known["tokenizer"]["file"])
        return {"tokenizer": tokenizer, "vocab_size": str(known["vocab_size"]), "eos": known["eos_token"],
                "eos_id": str(known["eos_id"])}  # fmt: skip

    def _lineage(self, manifest: dict[str, Any], folder: Path) -> dict[str, Any]:
        """Which corpus this one goes on from, with the checksum of its manifest; they are read as one."""
        if self.parent is None:
            return {}
        known = storage.read_json(self.parent / corpus.MANIFEST)
        for name in ("tokenizer", "eos_token", "vocab_size", "dtype", "format"):
            if manifest[name] != known[name]:
                raise ValueError(
                    f"parent {self.parent} has {name} {known[name]}, this corpus {manifest[name]}; the two are read as "
                    "one, so set it back or start a run of another name"
                )
        parent = os.path.relpath(self.parent.resolve(), folder.resolve())
        return {"parent": Path(parent).as_posix(), "parent_sha256": storage.sha256(self.parent / corpus.MANIFEST)}


def _with(out: Path, suffix: str) -> Path:
    return out.with_name(out.name + suffix)


def _facts(batch: pa.Table) -> dict[str, str]:
    """What the tokens stage says of its tokenizer."""
    facts = batch.schema.field("input_ids").metadata or {}
    if not facts:
        raise ValueError("column 'input_ids' does not say which tokenizer made it; put 'tokens' before 'shards'")
    return {key.decode(): value.decode() for key, value in facts.items()}


def _runs(out: Path) -> Iterator[pa.RecordBatch]:
    """The sorted runs of a scattered partition, mapped, not read."""
    with pa.memory_map(str(_with(out, ".arrow"))) as source:
        file = pa.ipc.open_file(source)
        for index in range(file.num_record_batches):
            yield file.get_batch(index)


def _slices(out: Path, low: int, high: int) -> Iterator[pa.Table]:
    """The rows of a scattered partition with low <= key <= high, a table for each run that has any."""
    for run in _runs(out):
        keys = run["key"].to_numpy()
        first = int(np.searchsorted(keys, np.uint64(low), "left"))
        rows = pa.Table.from_batches([run]).slice(first, int(np.searchsorted(keys, np.uint64(high), "right")) - first)
        if len(rows):
            yield rows


def _ids(files: list[Path], docs: pa.Table, dtype: str) -> Iterator[np.ndarray]:
    """The ids of each of `docs`, which are in key order; `files` has the ids of each run.

    Read block by block: what a block has of one run lies together there, since runs are in key order too.
    """
    runs, starts, lengths = (docs[name].to_numpy() for name in ("run", "start", "n_tokens"))
    ends = np.cumsum(lengths.astype(np.int64))
    first = 0
    while first < len(docs):
        stop = max(first + 1, int(np.searchsorted(ends, ends[first] - lengths[first] + _BLOCK, "right")))
        block: list[np.ndarray] = [np.empty(0, dtype)] * (stop - first)
        for run in np.unique(runs[first:stop]).tolist():
            rows = first + np.flatnonzero(runs[first:stop] == run)
            offset = int(starts[rows[0]]) * np.dtype(dtype).itemsize
            tokens = np.fromfile(files[run], dtype, int(lengths[rows].sum()), offset=offset)
            for row, document in zip(rows.tolist(), np.split(tokens, np.cumsum(lengths[rows])[:-1])):
                block[row - first] = document
        yield from block
        first = stop


def _facts_of(run: pa.Table) -> dict[str, str]:
    """What a run was written with: the tokenizer's path, vocabulary and EOS."""
    return {key.decode(): value.decode() for key, value in run.schema.metadata.items()}


def _dtype(facts: dict[str, str]) -> str:
    return corpus.dtype_for(int(facts["vocab_size"]))


def _cut(tokens: np.ndarray, limit: int) -> list[tuple[int, int]]:
    """Ranges of buckets [low, high) that hold at most `limit` tokens each, or one bucket, and cover all tokens."""
    ranges: list[tuple[int, int]] = []
    low, held = 0, 0
    for place in np.flatnonzero(tokens).tolist():
        if held and held + tokens[place] > limit:
            ranges.append((low, place))
            low, held = place, 0
        held += int(tokens[place])
    if held:
        ranges.append((low, len(tokens)))
    return ranges


def _described(docs: pa.Table, shard: str, lengths: np.ndarray) -> pa.Table:
    """The rows of `docs.parquet`: the record's own place is `source_offset`, the place in the shard `offset`."""
    docs = docs.drop_columns(["key", "start", "run"])
    names = ["source_offset" if name == "offset" else name for name in docs.column_names]
    docs = docs.rename_columns(names).replace_schema_metadata(None)
    docs = docs.append_column("shard", pa.repeat(pa.scalar(shard), len(docs)))
    return docs.append_column("offset", pa.array(np.cumsum(lengths.astype(np.int64)) - lengths, pa.int64()))


def _clear(folder: Path) -> None:
    """Take away the shards of an earlier input."""
    for path in [*folder.glob("part-*"), *folder.glob("val-*")]:
        path.unlink()


def _link(path: Path, name: Path) -> None:
    """`name` becomes another name of `path`, atomically, or a copy where links do not go."""
    with storage.atomic(name) as beside:
        try:
            os.link(path, beside)
        except OSError:
            beside.write_bytes(path.read_bytes())


def _join(paths: list[Path], target: Path) -> None:
    """The rows of many Parquet files in one, streamed."""
    schema = pq.read_schema(paths[0])
    with storage.atomic(target) as beside, pq.ParquetWriter(beside, schema, **storage.PARQUET) as writer:
        for path in paths:
            with pq.ParquetFile(path) as file:
                for group in range(file.num_row_groups):
                    writer.write_table(file.read_row_group(group))
