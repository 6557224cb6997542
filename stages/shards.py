"""The finished corpus: documents in a keyed random order, cut into shards, with an index and a manifest.

The order is a keyed hash of (seed, id): it depends neither on the number of workers nor on how the input was
partitioned. Each partition is scattered as sorted runs of about 32 MB of text; a shard is a range of keys, gathered
from its slice of every run. Memory holds one batch, or what `docs.parquet` says of one shard and a block of its ids.

With `mix` a document comes up as often as the mixture wants, or not at all, which is settled between the two passes
(`sharding/copies.py`).
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from pydantic import Field, field_validator

from pipeline import corpus, storage
from pipeline import manifest as manifests
from pipeline.schema import mark, set_column, text_buffers
from pipeline.stage import Refused, Sink, StageCount
from stages.kernels import mixture
from stages.sharding import copies, runs
from stages.sharding.mix import Mix

_LEFT_OUT = ("text", "input_ids", "mime")
"""Columns of a document that `docs.parquet` does not repeat."""

_TOKENIZER_FACTS = ("tokenizer", "eos", "eos_id", "vocab_size")
"""What the manifest needs of the facts that `tokens` puts on the column `input_ids`."""


class ShardTask(NamedTuple):
    """One shard: the keys in [low, high] of every partition's runs."""

    name: str
    split: str
    low: int
    high: int
    scattered: tuple[str, ...]
    mix: str = ""  # what was settled, a file; empty where there is no mixture


class Shards(Sink):
    """Shuffled, sharded, indexed token files with a manifest."""

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """What a shard is made of, and the columns that `mix` reads."""
        return ("id", "text", "input_ids", "n_tokens", *(self.mix.needs if self.mix else ()))

    @property
    def numbers(self) -> tuple[str, ...]:  # type: ignore[override]
        """The buckets of the mixture's quality curve."""
        return (self.mix.quality.column,) if self.mix and self.mix.quality else ()

    @property
    def groups(self) -> tuple[str, ...]:  # type: ignore[override]
        """What the mixture is by."""
        return self.mix.by if self.mix else ()

    @property
    def rests(self) -> bool:  # type: ignore[override]
        """With a mixture, which takes trying out: so that nothing is tokenized again for the next."""
        return self.mix is not None

    format: Literal["memmap", "parquet"] = Field("memmap", description="memmap: .bin + .idx; parquet: id, input_ids.")
    val_fraction: float = Field(0.005, ge=0, le=0.5, description="Share of documents held out, by keyed hash.")
    seed: int = Field(1, ge=0, lt=1 << 64, description="Of the document order and of the held-out choice.")
    shard_tokens: int = Field(100_000_000, ge=1, le=2_000_000_000, description="Tokens a shard may hold.")
    mix: Mix | None = Field(None, description="How much of which documents; all of them once if omitted.")
    parent: Path | None = Field(None, description="The corpus that this one goes on from; an incremental run sets it.")

    @field_validator("parent")
    @classmethod
    def _is_a_corpus(cls, parent: Path | None) -> Path | None:
        if parent is not None and manifests.read(parent) is None:
            raise ValueError(f"{parent}: no finished corpus ({corpus.MANIFEST}) is there")
        return parent

    @field_validator("mix")
    @classmethod
    def _columns_remain(cls, mix: Mix | None) -> Mix | None:
        if mix is not None and (gone := set(mix.needs) & set(_LEFT_OUT)):
            raise ValueError(f"the index of a corpus does not have {sorted(gone)[0]!r}, so nothing is mixed by it")
        return mix

    def files(self) -> list[Path]:
        """The parent's manifest, which this corpus's own repeats the checksum of."""
        return [self.parent / corpus.MANIFEST] if self.parent else []

    def scatter(self, docs: Iterator[pa.Table], out: Path) -> dict[str, Any]:
        """Write the documents of a partition as sorted runs: ids in `out`.tokens, everything else in `out`.arrow."""
        facts: dict[str, str] = {}
        start, count = 0, 0
        with storage.atomic(runs.named(out, ".tokens")) as tokens, storage.atomic(runs.named(out, ".arrow")) as rows:
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
        return order >> np.uint64(1) | np.where(held_out, runs.HELD_OUT, np.uint64(0))

    def asked(self) -> list[dict[str, Any]]:
        """What the mixture asks for, a row a group and one of all, before any document has been seen."""
        if self.mix is None:
            return []
        shares = [{"group": name, **share.model_dump(exclude_none=True)} for name, share in self.mix.groups.items()]
        whole = self.mix.model_dump(exclude_none=True, exclude={"groups", "by", "premiums"})
        return [*shares, {"group": f"all together, by {', '.join(self.mix.by)}", **whole}]

    def foreseen(self, docs: list[Path]) -> dict[str, Any] | None:
        """What the mixture comes to, by columns of documents at rest (and their texts, if bytes give weights)."""
        if not self.mix or not any(pq.read_metadata(path).num_rows for path in docs):
            return None
        columns = {"id", "n_tokens", *self.mix.needs, *(["text"] if self.mix.by_bytes else [])}
        seen = copies.Seen(self.mix, (self._numbered(batch) for batch in _batches(docs, columns)), self.seed)
        return seen.settled()[1] if seen.any_to_train_on() else None

    def _numbered(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """With `key`, and `n_bytes` (0 where there is no text), as a run has them."""
        sizes = pa.repeat(pa.scalar(0), len(batch))
        if "text" in batch.schema.names:
            sizes = pc.fill_null(pc.binary_length(batch["text"]), 0)
        keys = pa.array(self.keys(batch["id"].to_pylist()), pa.uint64())
        return batch.append_column("key", keys).append_column("n_bytes", sizes)

    def plan(self, scattered: list[Path]) -> list[ShardTask]:
        """Raises `Refused` where nothing is left to write, or the mixture cannot be had."""
        tokens = np.zeros(runs.RANGES, np.int64)
        for out in scattered:
            for run in runs.read(out):
                tokens += runs.by_range(run["key"].to_numpy(), run["n_tokens"].to_numpy())
        if not tokens.any() and self.parent is None:  # of a parent, nothing new is a corpus too
            raise Refused("no document is left to write; the table above says where they went, `show` shows them")
        settled = ""
        if self.mix and tokens[: runs.RANGES // 2].any():
            settled = str(scattered[0].with_name("mix.json"))
            tokens = self._mixed(self.mix, scattered, Path(settled))
        outs = tuple(str(out) for out in scattered)
        tasks = []
        for split, first in (("train", 0), ("val", runs.RANGES // 2)):
            ranges = runs.cut(tokens[first : first + runs.RANGES // 2], self.shard_tokens)
            tasks += [
                ShardTask(
                    corpus.shard_name(self.format, split, number),
                    split,
                    (first + low) << 48,
                    ((first + high) << 48) - 1,
                    outs,
                    settled,
                )
                for number, (low, high) in enumerate(ranges)
            ]
        return tasks

    def _mixed(self, mix: Mix, scattered: list[Path], told: Path) -> np.ndarray:
        """Settle how often each document comes up, beside each partition's runs; tokens in each range of keys.

        `told` becomes what was asked, is possible and comes out, or why it cannot be had.
        """
        seen = copies.Seen(mix, (run for out in scattered for run in runs.read(out)), self.seed)
        times, found = seen.settled()
        storage.write_json(told, {"mix": found})
        if times is None:
            raise Refused(found["refused"])
        tokens, first = np.zeros(runs.RANGES, np.int64), 0
        for out in scattered:
            last = first + sum(run.num_rows for run in runs.read(out))
            tokens += copies.write(out, times[first:last], seen.hashed[first:last])
            first = last
        return tokens

    def gather(self, task: ShardTask, out: Path) -> dict[str, Any]:
        """Write one shard's files, in key order over all partitions."""
        files: list[Path] = []
        tables = []
        chosen = copies.slices if task.mix else runs.slices
        for scattered in map(Path, task.scattered):
            for rows in chosen(scattered, task.low, task.high):
                tables.append(rows.append_column("run", pa.repeat(pa.scalar(len(files), pa.int32()), len(rows))))
                files.append(runs.named(scattered, ".tokens"))
        docs = pa.concat_tables(tables)
        docs = docs.take(pc.sort_indices(docs, [("key", "ascending"), ("id", "ascending")]))
        told: dict[str, Any] = {}
        if task.mix:
            docs, told = self._without_left_out(docs, out)
            told["mix"] = task.mix
        lengths = docs["n_tokens"].to_numpy()
        facts = _facts_of(docs)
        dtype = _dtype(facts)
        ids = runs.ids(files, docs, dtype)
        docs = _described(docs, task.name, lengths)
        storage.write_table(runs.named(out, ".docs.parquet"), docs)
        if self.format == "memmap":
            corpus.write_bin(runs.named(out, ".bin"), ids, dtype)
            corpus.write_idx(runs.named(out, ".idx"), lengths, dtype)
        else:
            corpus.write_lists(runs.named(out, ".parquet"), docs["id"], ids)
        shard = {"name": task.name, "split": task.split, "documents": len(docs), "tokens": int(lengths.sum()),
                 "text_bytes": int(docs["n_bytes"].to_numpy().sum())}  # fmt: skip
        return {"shard": shard, "tokenizer": facts, **told}

    def _without_left_out(self, docs: pa.Table, out: Path) -> tuple[pa.Table, dict[str, Any]]:
        """The rows that go into a shard, and how many documents do and do not; these are written as rejects."""
        gone = pc.equal(docs["copy"], mixture.NEVER)
        rejects, docs = docs.filter(gone), docs.filter(pc.invert(gone))
        rejects = rejects.drop_columns(["key", "start", "run", "copy"]).replace_schema_metadata(None)
        rejects = rejects.append_column("stage", pa.repeat(pa.scalar(self._name()), len(rejects)))
        if len(rejects):
            storage.write_table(runs.named(out, ".rejected.parquet"), mark(rejects, ["mixture"] * len(rejects)))
        return docs, {"in": len(rejects) + int(pc.sum(pc.equal(docs["copy"], 0)).as_py()), "left_out": len(rejects)}

    def _name(self) -> str:
        """By which the configuration knows this sink."""
        return type(self).__module__.rpartition(".")[2]

    def finish(self, gathered: list[Path], records: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
        """Raises `Refused` where the parent has another vocabulary or layout."""
        facts, shards = self._facts(records), [record["shard"] for record in records]
        (folder / corpus.MANIFEST).unlink(missing_ok=True)
        names = self._put_in_place(gathered, shards, facts, folder)
        mixed = self._carried_out(gathered, records, folder)
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
        manifest.update(mixed.get("told", {}))
        storage.write_json(folder / corpus.MANIFEST, manifest)
        return {"files": [*names, corpus.MANIFEST, *mixed.get("files", [])], "shards": len(shards),
                "dtype": _dtype(facts), **totals, "vocab_size": manifest["vocab_size"],
                **({"counts": [mixed["counts"]], **mixed["told"]} if mixed else {})}  # fmt: skip

    def _put_in_place(
        self, gathered: list[Path], shards: list[dict[str, Any]], facts: dict[str, str], folder: Path
    ) -> list[str]:
        """Link the shards and the tokenizer into `folder`, join `docs.parquet` there; returns the names."""
        for pattern in ("part-*", "val-*", "train-*", "validation-*"):  # of an earlier input
            for path in folder.glob(pattern):
                path.unlink()
        suffixes = (".bin", ".idx") if self.format == "memmap" else (".parquet",)
        files = {f"{shard['name']}{suffix}": runs.named(out, suffix)
                 for out, shard in zip(gathered, shards) for suffix in suffixes}  # fmt: skip
        for name, path in {**files, "tokenizer.json": _tokenizer(facts, folder)}.items():
            _link(path, folder / name)
        if gathered:
            _join([runs.named(out, ".docs.parquet") for out in gathered], folder / "docs.parquet")
        elif self.parent:
            columns = pq.read_schema(self.parent / "docs.parquet")
            storage.write_table(folder / "docs.parquet", columns.empty_table())
        return [*files, "docs.parquet", "tokenizer.json"]

    def _carried_out(self, gathered: list[Path], records: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
        """What the mixture came to, with the documents it left out put together as rejects; empty without one."""
        rejected = folder / "rejected" / "mixture.parquet"
        rejected.unlink(missing_ok=True)
        if not any("mix" in record for record in records):
            return {}
        entered, gone = (sum(record[name] for record in records) for name in ("in", "left_out"))
        if gone:
            written = (out for out, record in zip(gathered, records) if record["left_out"])
            _join([runs.named(out, ".rejected.parquet") for out in written], rejected)
        counts = StageCount(self._name(), entered, entered - gone, {"mixture": gone} if gone else {}, {}, 0.0)
        told = storage.read_json(Path(records[0]["mix"]))
        told["mix"].update({"documents": entered - gone, "left_out": gone})
        return {"told": told, "counts": counts, "files": [f"rejected/{rejected.name}"] if gone else []}

    def _facts(self, records: list[dict[str, Any]]) -> dict[str, str]:
        """Of the tokenizer: what the shards were written with, or the parent where there is none."""
        if records:
            return records[0]["tokenizer"]
        assert self.parent
        known = _manifest(self.parent)
        tokenizer = str(self.parent / known["tokenizer"]["file"])
        return {"tokenizer": tokenizer, "vocab_size": str(known["vocab_size"]), "eos": known["eos_token"],
                "eos_id": str(known["eos_id"])}  # fmt: skip

    def _lineage(self, manifest: dict[str, Any], folder: Path) -> dict[str, Any]:
        """Which corpus this one goes on from, with the checksum of its manifest; they are read as one."""
        if self.parent is None:
            return {}
        known = _manifest(self.parent)
        for name in ("tokenizer", "eos_token", "vocab_size", "dtype", "format"):
            if manifest[name] != known[name]:
                raise Refused(
                    f"parent {self.parent} has {name} {known[name]}, this corpus {manifest[name]}; the two are read as "
                    "one, so set it back or start a run of another name"
                )
        parent = os.path.relpath(self.parent.resolve(), folder.resolve())
        return {"parent": Path(parent).as_posix(), "parent_sha256": storage.sha256(self.parent / corpus.MANIFEST)}


def _manifest(folder: Path) -> dict[str, Any]:
    """The manifest of the parent, which was there when the configuration was checked. Raises `NotACorpus`."""
    known = manifests.read(folder)
    if known is None:
        raise corpus.NotACorpus(f"{folder}: no {corpus.MANIFEST} is there any more")
    return known


def _facts(batch: pa.Table) -> dict[str, str]:
    """What the tokens stage says of its tokenizer; what it counted in this batch is left out."""
    facts = batch.schema.field("input_ids").metadata or {}
    if not facts:
        raise ValueError("column 'input_ids' does not say which tokenizer made it; put 'tokens' before 'shards'")
    return {key: facts[key.encode()].decode() for key in _TOKENIZER_FACTS}


def _facts_of(run: pa.Table) -> dict[str, str]:
    """What a run was written with: the tokenizer's path, vocabulary and EOS."""
    return {key.decode(): value.decode() for key, value in run.schema.metadata.items()}


def _batches(docs: list[Path], columns: set[str]) -> Iterator[pa.RecordBatch]:
    """These columns of documents at rest, a row group at a time."""
    for path in docs:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                yield from file.read_row_group(group, sorted(columns), use_threads=False).combine_chunks().to_batches()


def _tokenizer(facts: dict[str, str], folder: Path) -> Path:
    """Where the tokenizer is: if a run learned it, in the place it had there, since the run may have been moved."""
    path = Path(facts["tokenizer"])
    here = folder.parent.joinpath(*path.parts[-3:])  # <group>/fit/<name>
    return here if here.is_file() else path


def _dtype(facts: dict[str, str]) -> str:
    return corpus.dtype_for(int(facts["vocab_size"]))


def _described(docs: pa.Table, shard: str, lengths: np.ndarray) -> pa.Table:
    """The rows of `docs.parquet`: the record's own place is `source_offset`, the place in the shard `offset`."""
    docs = docs.drop_columns(["key", "start", "run"])
    names = ["source_offset" if name == "offset" else name for name in docs.column_names]
    docs = docs.rename_columns(names).replace_schema_metadata(None)
    docs = docs.append_column("shard", pa.repeat(pa.scalar(shard), len(docs)))
    return docs.append_column("offset", pa.array(np.cumsum(lengths.astype(np.int64)) - lengths, pa.int64()))


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
