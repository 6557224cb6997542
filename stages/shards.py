"""The finished corpus: documents in a keyed random order, cut into shards, with an index and a manifest.

The order is a keyed hash of (seed, id): it depends neither on the number of workers nor on how the input was
partitioned. Each partition is scattered as sorted runs of about 32 MB of text; a shard is a range of keys, gathered
from its slice of every run. Memory holds one batch, or what `docs.parquet` says of one shard and a block of its ids.

With `mix` a document comes up as often as the mixture wants, or not at all (`kernels/mixture.py` has the arithmetic).
That is settled between the two passes, from what the runs say of each document (some 100 bytes of it in memory), by a
hash of its id; a second copy has a place of its own in the order, far from the first.
"""

import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pipeline import corpus, storage
from pipeline.schema import mark, set_column, text_buffers
from pipeline.stage import Sink
from stages.kernels import mixture

_VAL_BIT = np.uint64(1) << np.uint64(63)
_BUCKETS = 1 << 16
"""Shards end at the edge of one of these key ranges, so that the limit holds unless a single range exceeds it."""

_BLOCK = 4_000_000
"""Ids of a shard held at once while it is written."""

_UNKNOWN = -1  # the quality bucket of a document without a score

_LEFT_OUT = ("text", "input_ids", "mime")
"""Columns of a document that `docs.parquet` does not repeat."""


class Share(BaseModel):
    """What is wanted of a group of documents: one of a weight, a number of tokens, of epochs."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    weight: float | None = Field(None, ge=0, description="Its part, beside other weights, of what is left in `tokens`.")
    tokens: float | None = Field(None, ge=0, description="How many tokens it comes to.")
    epochs: float | None = Field(None, ge=0, description="How often it comes up, on average.")
    max_epochs: float | None = Field(None, gt=0, description="The most epochs of this group; the mixture's if omitted.")

    @model_validator(mode="after")
    def _one_way(self) -> "Share":
        if sum(way is not None for way in (self.weight, self.tokens, self.epochs)) != 1:
            raise ValueError("give exactly one of weight, tokens and epochs")
        return self


class Curve(BaseModel):
    """More of the better documents of each group: epochs that rise with the quality bucket."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    column: str = Field("bucket", description="Integers from 0, the worst; null throughout a group: it has no curve.")
    buckets: int = Field(20, ge=1, le=1000, description="How many there are.")
    power: float = Field(1.0, ge=0, description="p of x^p e^(rate x), x from 0 at the floor to 1 at the best.")
    rate: float = Field(2.0, ge=0, description="How steeply it rises.")
    floor: float = Field(0.4, ge=0, lt=1, description="The share of buckets, from below, of which nothing is taken.")


class Mix(BaseModel):
    """How much of which documents: the tokens of each group, made by repeating documents and leaving some out."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    by: tuple[str, ...] = Field(
        ("source",), min_length=1, description="Columns that make a group; several are joined, as en/19."
    )
    groups: dict[str, Share] = Field(
        {},
        description="By name or pattern, {weight | tokens | epochs, max_epochs}. What a pattern matches is one group; "
        "'*' is every group not named, each on its own. None given: all as they are, up or down to `tokens`.",
    )
    tokens: float | None = Field(None, gt=0, description="Of the whole mixture; as many as there are if omitted.")
    max_epochs: float = Field(mixture.MAX_EPOCHS, gt=0, description="No group is repeated more often than this.")
    temperature: float | None = Field(
        None, ge=1, description="Weights for groups not named (languages): 1 as they are, higher evens them out."
    )
    premiums: dict[str, float] = Field({}, description="Byte premiums for the temperature, as {zh: 0.93}; else 1.")
    upsample: Literal["dup_count"] | None = Field(
        None, description="dup_count: one epoch has 1, 2, 3, 5, 8 or 1 copies by the size of the duplicate cluster."
    )
    quality: Curve | None = Field(None, description="{column, buckets, power, rate, floor}: more of the better.")

    @model_validator(mode="after")
    def _weights_agree(self) -> "Mix":
        weighted = [name for name, share in self.groups.items() if share.weight is not None]
        if self.temperature is not None and (weighted or mixture.REST in self.groups):
            named = f"{weighted[0]} has a weight" if weighted else "'*' is given"
            raise ValueError(f"the temperature gives the weights of all groups not named, but {named}")
        if self.premiums and self.temperature is None:
            raise ValueError("premiums are of use with a temperature only")
        return self

    @property
    def needs(self) -> tuple[str, ...]:
        """The columns it reads."""
        return (*self.by, *([self.upsample] if self.upsample else []), *([self.quality.column] if self.quality else []))

    def group(self, name: str) -> str:
        """The group of documents whose columns `by` say `name`: itself, or the first pattern that it matches."""
        if name in self.groups:
            return name
        return next((one for one in self.groups if one != mixture.REST and fnmatchcase(name, one)), name)

    def requests(self, groups: Sequence[mixture.Group]) -> dict[str, mixture.Request]:
        """What is wanted of `groups`, in the solver's terms. Raises `Infeasible`."""
        named = {name: mixture.Request(**share.model_dump()) for name, share in self.groups.items()}
        temperature = self.temperature if self.groups or self.temperature else 1.0
        if temperature is None:
            return named
        return {**mixture.tempered([one for one in groups if one.name not in named], temperature, self.premiums),
                **named}  # fmt: skip


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

    format: Literal["memmap", "parquet"] = Field("memmap", description="memmap: .bin + .idx; parquet: input_ids lists.")
    val_fraction: float = Field(0.005, ge=0, le=0.5, description="Share of documents held out, by keyed hash.")
    seed: int = Field(1, ge=0, description="Of the document order and of the held-out choice.")
    shard_tokens: int = Field(100_000_000, ge=1, le=2_000_000_000, description="Tokens a shard may hold.")
    mix: Mix | None = Field(None, description="How much of which documents; all of them once if omitted.")
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

    def asked(self) -> list[dict[str, Any]]:
        """What the mixture asks for, a row a group, before any document has been seen."""
        shares = self.mix.groups if self.mix else {}
        return [{"group": name, **share.model_dump(exclude_none=True)} for name, share in shares.items()]

    def plan(self, scattered: list[Path]) -> list[ShardTask]:
        """Raises `ValueError` where nothing is left to write, or the mixture cannot be had."""
        tokens = np.zeros(_BUCKETS, np.int64)
        for out in scattered:
            for run in _runs(out):
                tokens += _by_bucket(run["key"].to_numpy(), run["n_tokens"].to_numpy())
        if not tokens.any() and self.parent is None:  # of a parent, nothing new is a corpus too
            raise ValueError("no document is left to write; `show RUN --rejected REASON` shows where they went")
        settled = ""
        if self.mix and tokens[: _BUCKETS // 2].any():
            settled = str(scattered[0].with_name("mix.json"))
            tokens = self._mixed(self.mix, scattered, Path(settled))
        outs = tuple(str(out) for out in scattered)
        tasks = []
        for split, name, first in (("train", "part", 0), ("val", "val", _BUCKETS // 2)):
            ranges = _cut(tokens[first : first + _BUCKETS // 2], self.shard_tokens)
            tasks += [
                ShardTask(f"{name}-{i:05d}", split, (first + low) << 48, ((first + high) << 48) - 1, outs, settled)
                for i, (low, high) in enumerate(ranges)
            ]
        return tasks

    def _mixed(self, mix: Mix, scattered: list[Path], told: Path) -> np.ndarray:
        """Settle how often each document comes up, beside each partition's runs; tokens in each range of keys.

        `told` becomes what was asked, is possible and comes out, or why it cannot be had.
        """
        seen = _Seen(mix, scattered, self.seed)
        try:
            copies, rows = seen.copies()
        except mixture.Infeasible as error:
            storage.write_json(told, {"mix": {"by": mix.by, "refused": str(error), "groups": seen.available()}})
            raise
        storage.write_json(told, {"mix": {"by": mix.by, "tokens": sum(row["realised"] for row in rows),
                                          "groups": rows}})  # fmt: skip
        if not any(row["realised"] for row in rows):
            raise ValueError("the mixture leaves no document to train on")
        tokens, first = np.zeros(_BUCKETS, np.int64), 0
        for out in scattered:
            last = first + sum(run.num_rows for run in _runs(out))
            tokens += _write_occurrences(out, copies[first:last], seen.hashed[first:last])
            first = last
        return tokens

    def gather(self, task: ShardTask, out: Path) -> dict[str, Any]:
        """Write one shard's files, in key order over all partitions."""
        files: list[Path] = []
        tables = []
        chosen = _chosen if task.mix else _slices
        for scattered in map(Path, task.scattered):
            for rows in chosen(scattered, task.low, task.high):
                tables.append(rows.append_column("run", pa.repeat(pa.scalar(len(files), pa.int32()), len(rows))))
                files.append(_with(scattered, ".tokens"))
        docs = pa.concat_tables(tables)
        docs = docs.take(pc.sort_indices(docs, [("key", "ascending"), ("id", "ascending")]))
        told: dict[str, Any] = {}
        if task.mix:
            docs, told = self._without_left_out(docs, out)
            told["mix"] = task.mix
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
        return {"shard": shard, "tokenizer": facts, **told}

    def _without_left_out(self, docs: pa.Table, out: Path) -> tuple[pa.Table, dict[str, Any]]:
        """The rows that go into a shard, and how many documents do and do not; these are written as rejects."""
        gone = pc.equal(docs["copy"], mixture.NEVER)
        rejects, docs = docs.filter(gone), docs.filter(pc.invert(gone))
        rejects = rejects.drop_columns(["key", "start", "run", "copy"]).replace_schema_metadata(None)
        rejects = rejects.append_column("stage", pa.repeat(pa.scalar(self._name()), len(rejects)))
        if len(rejects):
            storage.write_table(_with(out, ".rejected.parquet"), mark(rejects, ["mixture"] * len(rejects)))
        return docs, {"in": len(rejects) + int(pc.sum(pc.equal(docs["copy"], 0)).as_py()), "left_out": len(rejects)}

    def _name(self) -> str:
        """By which the configuration knows this sink."""
        return type(self).__module__.rpartition(".")[2]

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
        mixed = self._carried_out(gathered, records, folder)
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
        manifest.update(mixed.get("told", {}))
        storage.write_json(folder / corpus.MANIFEST, manifest)
        return {"files": [*names, corpus.MANIFEST, *mixed.get("files", [])], "shards": len(shards),
                "dtype": _dtype(facts), **totals, "vocab_size": manifest["vocab_size"],
                **({"counts": [mixed["counts"]]} if mixed else {})}  # fmt: skip

    def _carried_out(self, gathered: list[Path], records: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
        """What the mixture came to, with the documents it left out put together as rejects; empty without one."""
        rejected = folder / "rejected" / "mixture.parquet"
        rejected.unlink(missing_ok=True)
        if not any("mix" in record for record in records):
            return {}
        entered, gone = (sum(record[name] for record in records) for name in ("in", "left_out"))
        if gone:
            _join([_with(out, ".rejected.parquet") for out, record in zip(gathered, records) if record["left_out"]],
                  rejected)  # fmt: skip
        counts = {"stage": self._name(), "in": entered, "out": entered - gone,
                  "reasons": {"mixture": gone} if gone else {}, "tally": {}, "seconds": 0.0}  # fmt: skip
        told = storage.read_json(Path(records[0]["mix"]))
        told["mix"].update({"documents": entered - gone, "left_out": gone})
        return {"told": told, "counts": counts, "files": [f"rejected/{rejected.name}"] if gone else []}

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


class _Seen:
    """What the runs say of every document, as numbers, in the order of the runs."""

    def __init__(self, mix: Mix, scattered: list[Path], seed: int) -> None:
        self._mix = mix
        codes: dict[str, int] = {}
        told = [_told(run, mix, seed, codes) for out in scattered for run in _runs(out)]
        keys, self.hashed, self._tokens, self._sizes, self._times, self._bucket, group = map(np.concatenate, zip(*told))
        self._train = keys < _VAL_BIT
        order = np.argsort(group, kind="stable")
        order = order[self._train[order]]
        ends = np.cumsum(np.bincount(group[order], minlength=len(codes)))
        rows = dict(zip(codes, np.split(order, ends[:-1])))
        self._rows = {name: rows[name] for name in sorted(rows) if len(rows[name])}

    def _groups(self) -> list[mixture.Group]:
        return [
            mixture.Group(name, len(rows), int((self._tokens[rows] * self._times[rows]).sum()),
                          int(self._sizes[rows].sum()))
            for name, rows in self._rows.items()
        ]  # fmt: skip

    def available(self) -> list[dict[str, Any]]:
        """What there is of each group."""
        return [{"group": group.name, "documents": group.documents, "tokens": group.tokens} for group in self._groups()]

    def copies(self) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """How often each document comes up (int16), and a row a group: asked, possible, realised. Raises `Infeasible`.

        Held-out documents come up once and belong to no group.
        """
        groups = self._groups()
        requests, limits = self._limited(self._mix.requests(groups))
        copies, told = np.where(self._train, 0, 1).astype(np.int16), []
        for row in mixture.solve(groups, requests, self._mix.tokens, self._mix.max_epochs):
            mine = self._rows[row.name]
            rates = self._rates(row, limits[row.name])
            if rates.max() > np.iinfo(np.int16).max - 1:
                raise mixture.Infeasible(f"{row.name}: a document would come up {rates.max():,.0f} times")
            settled = mixture.cut(self.hashed[mine], self._tokens[mine], rates)
            copies[mine] = mixture.repetitions(self.hashed[mine], rates, settled)
            told.append({
                "group": row.name, "documents": row.documents, "tokens": row.available, "asked": round(row.asked),
                "possible": round(row.possible), "solved": round(row.tokens), "realised": settled.tokens,
                "epochs": round(settled.tokens / row.available, 6), "exhausted": row.exhausted,
                "left_out": int((copies[mine] == 0).sum()), "occurrences": int(copies[mine].sum()),
            })  # fmt: skip
        return copies, told

    def _limited(self, requests: dict[str, mixture.Request]) -> tuple[dict[str, mixture.Request], dict[str, float]]:
        """The requests with what a quality curve leaves of each group's most epochs; and these without."""
        limits = {}
        for name in self._rows:
            wish = requests.get(name) or requests.get(mixture.REST) or mixture.Request()
            limits[name] = self._mix.max_epochs if wish.max_epochs is None else wish.max_epochs
            held = self._by_bucket(name)
            if held is not None and wish != mixture.Request():
                most = limits[name] * float(held[self._heights() > 0].sum() / held.sum())
                requests = {**requests, name: wish._replace(max_epochs=most)}
        return requests, limits

    def _heights(self) -> np.ndarray:
        assert self._mix.quality
        return mixture.heights(**self._mix.quality.model_dump(exclude={"column"}))

    def _by_bucket(self, name: str) -> np.ndarray | None:
        """Tokens in each quality bucket of a group; None where no curve applies."""
        curve, rows = self._mix.quality, self._rows[name]
        bucket = self._bucket[rows]
        if curve is None or (bucket == _UNKNOWN).all():
            return None
        if ((bucket < 0) | (bucket >= curve.buckets)).any():
            raise mixture.Infeasible(
                f"{name}: '{curve.column}' is not from 0 to {curve.buckets - 1} for all of its documents, or missing "
                f"for {int((bucket == _UNKNOWN).sum()):,} of {len(rows):,}"
            )
        return np.bincount(bucket, self._tokens[rows] * self._times[rows], curve.buckets)

    def _rates(self, row: mixture.Realised, limit: float) -> np.ndarray:
        """How often each document of a group is to come up on average."""
        rows, held = self._rows[row.name], self._by_bucket(row.name)
        if held is None:
            return row.epochs * self._times[rows]
        assert self._mix.quality
        shape = self._mix.quality.model_dump(exclude={"column", "buckets"})
        epochs = mixture.quality_curve(held, row.tokens, **shape, cap=limit)
        return epochs[self._bucket[rows]] * self._times[rows]


def _told(run: pa.RecordBatch, mix: Mix, seed: int, codes: dict[str, int]) -> tuple[np.ndarray, ...]:
    """Of each document of a run: key, hash, tokens, bytes, copies in one epoch, bucket and number of its group."""
    columns = [pc.fill_null(run[name].cast(pa.string()), "null") for name in mix.by]
    names = pc.binary_join_element_wise(*columns, "/").dictionary_encode()
    local = [codes.setdefault(mix.group(name), len(codes)) for name in names.dictionary.to_pylist()]
    times = np.ones(len(run), np.int64)
    if mix.upsample:  # the document itself and those that left because of it
        times = mixture.upsampled(1 + pc.fill_null(run[mix.upsample], 0).to_numpy(zero_copy_only=False))
    bucket = np.full(len(run), _UNKNOWN)
    if mix.quality:
        bucket = pc.fill_null(run[mix.quality.column].cast(pa.int64()), _UNKNOWN).to_numpy(zero_copy_only=False)
    return (run["key"].to_numpy(), mixture.hashes(run["id"].to_pylist(), seed), run["n_tokens"].to_numpy(),
            run["n_bytes"].to_numpy(), times, bucket,
            np.array(local, np.int32)[names.indices.to_numpy()])  # fmt: skip


def _write_occurrences(out: Path, copies: np.ndarray, hashed: np.ndarray) -> np.ndarray:
    """Every place that documents of a scattered partition have in the order, sorted; tokens in each range of keys.

    A row is `key`, `run` and `row` of the document, and which `copy` it is; one left out has a row of its own key.
    """
    runs = list(_runs(out))
    sizes = [run.num_rows for run in runs]
    keys, lengths = (np.concatenate([np.zeros(0, kind), *(run[name].to_numpy() for run in runs)])
                     for name, kind in (("key", np.uint64), ("n_tokens", np.int32)))  # fmt: skip
    document, copy, elsewhere = mixture.occurrences(copies, hashed)
    key = np.where(copy > 0, elsewhere >> np.uint64(1), keys[document])
    order = np.argsort(key, kind="stable")
    run = np.repeat(np.arange(len(runs)), sizes)
    row = np.arange(len(keys)) - np.repeat(np.cumsum([0, *sizes])[:-1], sizes)
    table = pa.table({"key": key[order], "run": run[document[order]].astype(np.int32),
                      "row": row[document[order]].astype(np.int32), "copy": copy[order].astype(np.int16)})  # fmt: skip
    with storage.atomic(_with(out, "-mix.arrow")) as beside, pa.ipc.new_file(beside, table.schema) as writer:
        writer.write_table(table)
    return _by_bucket(key[copy >= 0], lengths[document][copy >= 0])


def _by_bucket(keys: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Tokens in each of the key ranges that shards are made of."""
    return np.bincount((keys >> np.uint64(48)).astype(np.int64), tokens, _BUCKETS).astype(np.int64)


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


def _chosen(out: Path, low: int, high: int) -> Iterator[pa.Table]:
    """What `_slices` gives, of a mixture: a row for each copy of a document, and for each that is left out."""
    with pa.memory_map(str(_with(out, "-mix.arrow"))) as source:
        places = pa.ipc.open_file(source).read_all()
        keys = places["key"].to_numpy()
        first = int(np.searchsorted(keys, np.uint64(low), "left"))
        places = places.slice(first, int(np.searchsorted(keys, np.uint64(high), "right")) - first)
        for number, run in enumerate(_runs(out)):
            mine = places.filter(pc.equal(places["run"], number))
            if len(mine):
                rows = pa.Table.from_batches([run]).take(mine["row"])
                yield set_column(rows, "key", mine["key"]).append_column("copy", mine["copy"])


def _ids(files: list[Path], docs: pa.Table, dtype: str) -> Iterator[np.ndarray]:
    """The ids of each of `docs`, which are in key order; `files` has the ids of each run.

    Read block by block: what a block has of one run lies together there, since runs are in key order too, but for what
    a mixture repeats or leaves out.
    """
    runs, starts, lengths = (docs[name].to_numpy() for name in ("run", "start", "n_tokens"))
    ends = np.cumsum(lengths.astype(np.int64))
    first = 0
    while first < len(docs):
        stop = max(first + 1, int(np.searchsorted(ends, ends[first] - lengths[first] + _BLOCK, "right")))
        block: list[np.ndarray] = [np.empty(0, dtype)] * (stop - first)
        for run in np.unique(runs[first:stop]).tolist():
            rows = first + np.flatnonzero(runs[first:stop] == run)
            gaps = np.flatnonzero(starts[rows[1:]] != starts[rows[:-1]] + lengths[rows[:-1]]) + 1
            for together in np.split(rows, gaps):
                offset = int(starts[together[0]]) * np.dtype(dtype).itemsize
                tokens = np.fromfile(files[run], dtype, int(lengths[together].sum()), offset=offset)
                for row, document in zip(together.tolist(), np.split(tokens, np.cumsum(lengths[together])[:-1])):
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
