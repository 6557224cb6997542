"""Deduplication: a document leaves only because of one kept document that is measurably the same or holds it whole.

1. `sketch` (with the stages before it, in parallel): exact hash of the normalised text, and band keys of a similarity
   sketch over word or character shingles (`kernels/sketch.py` says what is compared).
2. keys, edges: the keys are shuffled by their top bits, one sorted file a partition; documents of one key are grouped,
   with those of an index of earlier batches if there is one.
3. components: union-find over the groups. Only a way to bring documents together that must be looked at together.
4. shingles, verify: the shingle sets of those documents are computed again from the stored text, brought together by
   component, and clustered around leaders in keep order (`kernels/cluster.py`), with exact Jaccard and containment.
5. verdicts: one row a document, aligned with each partition. Then the batch goes into the index.

Every step holds one partition's keys, one bucket or one batch of text, except the union-find (9 bytes a document).
Nothing depends on how documents are spread over partitions: the order of keeping is by batch, by content, then by `id`.
The steps themselves are in `stages/duplicates/`.
"""

import hashlib
from collections import Counter
from fnmatch import fnmatchcase
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import AfterValidator, Field, field_validator

from pipeline.schema import DOCUMENT, text_buffers
from pipeline.stage import Barrier, Part, Steps
from pipeline.storage import local, lock, write_json
from stages.duplicates.components import ComponentsTask, write_components
from stages.duplicates.index import Before, Index
from stages.duplicates.keys import EdgesTask, KeysTask, Stored, write_edges, write_keys
from stages.duplicates.probe import PickTask, ProbeTask, write_picks, write_probe
from stages.duplicates.samples import SamplesTask, write_samples
from stages.duplicates.verdicts import Judged, VerdictsTask, losses, write_verdicts
from stages.duplicates.verify import (
    HOW,
    OldSetsTask,
    SetsTask,
    VerifyTask,
    write_old_sets,
    write_sets,
    write_verified,
)  # fmt: skip
from stages.kernels.sketch import FORMAT, LONGEST, SIMPLIFIED, match_probability, sketch_rows, unit_table

_LARGEST = 10  # clusters in the summary
_ORDERS = ("source_rank", "length", "date", "id")  # of `keep`, beside the names of numeric columns
_NEVER = np.iinfo(np.int32).max  # no document has so many shingles
_FREE = {"index", "compact_every", "alarm", "probe", "bucket_rows", "bucket_shingles", "component_shingles"}
"""Fields that do not decide who leaves (but for what a limit left out, which is counted)."""


Records = list[dict[str, Any]]


class Dedup(Barrier):
    """Drop exact and near duplicates, keeping one document of each kind.

    Adds, for a document that leaves: `duplicate_of` (id of the one kept document), `similarity` (Jaccard similarity of
    the shingle sets, or the share of its shingles the kept one holds; 1 for exact), `how` (exact, jaccard, contained).
    For every document: `dup_count`, how many left because of it (0 for those that left). Drop reasons:
    duplicate_exact, duplicate_near, duplicate_contained. Text without a letter or digit is like no other.
    """

    levels: tuple[Literal["exact", "near"], ...] = Field(
        ("exact", "near"), min_length=1, description="exact (same normalised text), near (similar); lines: see `lines`"
    )
    threshold: float = Field(0.8, gt=0, le=1, description="Jaccard similarity from which two documents are the same")
    containment: float = Field(0.95, gt=0, le=1, description="share of its shingles in a kept, no smaller document")
    bands: int = Field(16, ge=1, le=256, description="groups of slots; more bands find more pairs")
    rows: int = Field(7, ge=1, le=64, description="slots a band; more rows let fewer dissimilar pairs through")
    ngram: int = Field(5, ge=1, le=LONGEST, description="words a shingle, in scripts written with spaces")
    char_ngram: int = Field(8, ge=1, le=LONGEST, description="characters a shingle, in Han, Kana, Thai and the like")
    fold_han: bool = Field(False, description="traditional and simplified Chinese characters count as the same")
    keep: tuple[str, ...] = Field(
        ("length", "id"),
        description="what stays: source_rank (see `sources`), length (longest), date (latest), any numeric column "
        "(largest), id (smallest, always last); documents in the index come before all",
    )
    sources: tuple[str, ...] = Field((), description="for source_rank: patterns of `source`, the first preferred")
    min_shingles: int = Field(5, ge=1, description="documents with fewer distinct shingles are compared exactly only")
    seed: int = Field(1, ge=0, lt=2**63, description="of the sketch's hash functions")
    max_per_key: int = Field(100, ge=1, description="kept documents compared with whatever else has the same band key")
    index: Annotated[str, AfterValidator(local)] | None = Field(
        None, description="folder of the documents kept by earlier runs, to which this one adds"
    )
    compact_every: int = Field(8, ge=1, description="batches after which the keys in the index are merged")
    alarm: float = Field(0.5, gt=0, le=1, description="a source or domain that loses more than this share is flagged")
    probe: int = Field(0, ge=0, description="edited copies to plant and look for, to measure the recall of this run")
    bucket_rows: int = Field(4_000_000, ge=1, description="keys in memory at a time (about 50 bytes each)")
    bucket_shingles: int = Field(4_000_000, ge=1, description="shingles in memory at a time (about 60 bytes each)")
    component_shingles: int = Field(8_000_000, ge=1, description="no group of candidates is let grow beyond this")

    adds: ClassVar[dict[str, pa.DataType]] = {
        "duplicate_of": pa.string(),
        "similarity": pa.float32(),
        "how": pa.string(),
        "dup_count": pa.int32(),
    }

    @field_validator("keep")
    @classmethod
    def _id_last(cls, keep: tuple[str, ...]) -> tuple[str, ...]:
        unfit = [name for name in keep if name in DOCUMENT and name not in ("date", "id")]
        if unfit:
            raise ValueError(f"{unfit[0]!r} is no order to keep by; {', '.join(_ORDERS)} or a numeric column is")
        if len(set(keep)) < len(keep) or "id" in keep[:-1]:
            raise ValueError("each order is named once, and id, which decides every tie, comes last")
        return keep if "id" in keep else (*keep, "id")

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """Columns of every document, and whatever columns `keep` names."""
        return ("id", "source", "url", "text", *(name for name in self.keep if name not in _ORDERS))

    def files(self) -> list[Path]:
        """The table of traditional characters, where it is used."""
        return [SIMPLIFIED] if self.fold_han else []

    def orders(self) -> list[tuple[str, pa.DataType]]:
        """The columns that say which document is kept, the greatest first, before `id` decides."""
        kinds = {"length": pa.int32(), "date": pa.string()}
        return [(f"keep_{name}", kinds.get(name, pa.float64())) for name in self.keep if name != "id"]

    def settings(self) -> dict[str, Any]:
        """Everything that decides who leaves: what an index has to agree on."""
        return {"sketch": FORMAT, **{name: value for name, value in self.model_dump().items() if name not in _FREE}}

    def sketch(self, docs: pa.Table) -> pa.Table:
        """exact_hi, exact_lo (both 0: no text), keys (0: too few shingles), shingles, id and what `keep` orders by."""
        sketch = self.sketch_texts(docs["text"])
        columns = {name: sketch[name] for name in ("exact_hi", "exact_lo", "keys", "shingles")}
        columns["id"] = docs["id"]
        for name, kind in self.orders():
            column = name.removeprefix("keep_")
            if column == "length":
                columns[name] = sketch["length"]
            elif column == "source_rank":
                columns[name] = _rank(docs["source"], self.sources)
            else:
                columns[name] = docs[column].cast(kind)
        return pa.table(columns)

    def sketch_texts(self, texts: pa.ChunkedArray) -> pa.Table:
        """exact_hi, exact_lo, keys, shingles and length (characters) of every text."""
        data, offsets = text_buffers(texts)
        sizes = (self.ngram, self.char_ngram, self.bands, self.rows)
        least = self.min_shingles if "near" in self.levels else _NEVER
        exact, keys, shingles, length = sketch_rows(data, offsets, unit_table(self.fold_han), *sizes, self.seed, least)
        return pa.table({
            "exact_hi": pa.array(exact[:, 0]),
            "exact_lo": pa.array(exact[:, 1]),
            "keys": pa.FixedSizeListArray.from_arrays(pa.array(keys.reshape(-1)), self.bands),
            "shingles": pa.array(shingles),
            "length": pa.array(length),
        })  # fmt: skip

    def resolve(self, parts: list[Part], steps: Steps) -> list[Path]:
        """Verdict files in the order of `parts`, and a `summary.json` beside the first.

        Raises `ValueError` when the index does not go with this configuration or batch, `Locked` when another run has
        it.
        """
        if not parts:
            return []
        bases = accumulate((part.rows for part in parts), initial=0)
        stored = [Stored(*part, base) for part, base in zip(parts, bases)]
        keys = steps("keys", write_keys, [KeysTask(part, "exact" in self.levels) for part in stored])
        if self.index is None:
            return self._conclude(self._judge(stored, keys, None, steps), steps, {})
        with lock(Path(self.index)):
            return self._resolve_batch(stored, keys, Index(Path(self.index).resolve(), self), steps)

    def _resolve_batch(self, stored: list[Stored], keys: Records, index: Index, steps: Steps) -> list[Path]:
        """The same behind the documents of an index, which then takes this batch in."""
        place = index.place(_digest(keys), str(_run_folder(stored[0].docs)))

        def later(name: str, fn: Any, tasks: list[Any]) -> list[dict[str, Any]]:
            return steps(f"{name}-{place.after:05d}", fn, tasks)  # what was done on another state does not count

        judged = self._judge(stored, keys, place.before, later)
        if not place.taken:
            index.take_in(self, place, judged, later)
        return self._conclude(judged, later, {"index": index.summary()})

    def _judge(self, stored: list[Stored], keys: Records, before: Before | None, steps: Steps) -> Judged:
        """Everything from keys to verdicts."""
        total = sum(part.rows for part in stored)
        buckets = -(-total * (self.bands + 1) // self.bucket_rows) or 1
        sorted_keys = [record["keys"] for record in keys]
        edges = steps("edges", write_edges, [EdgesTask(sorted_keys, n, buckets, before) for n in range(buckets)])
        groups = [record["groups"] for record in (*keys, *edges)]
        limits = (self.bucket_shingles, self.component_shingles)
        (found,) = steps("components", write_components, [ComponentsTask(stored, groups, before, *limits)])
        sets = steps("shingles", write_sets, [SetsTask(self, part, found["file"]) for part in stored])
        if before:
            old = range(len(before.segments))
            sets += steps("old", write_old_sets, [OldSetsTask(self, before, n, found["file"]) for n in old])
        files = [(record["file"], record["order"]) for record in sets]
        verified = steps("verify", write_verified, [VerifyTask(self, files, n) for n in range(found["buckets"])])
        answers = [record["file"] for record in verified]
        verdicts = steps("verdicts", write_verdicts, [VerdictsTask(self, part, answers) for part in stored])
        return Judged(stored, before, keys, edges, found, verified, verdicts)

    def _conclude(self, judged: Judged, steps: Steps, more: dict[str, Any]) -> list[Path]:
        """Write the summary; returns the verdict files."""
        files = [Path(record["file"]) for record in judged.verdicts]
        summary = {
            **_counted(judged),
            **losses([record["losses"] for record in judged.verdicts], self.alarm),
            "largest_clusters": _largest(judged, steps),
            "match_probability": {
                f"{step / 20:.2f}": round(match_probability(step / 20, self.bands, self.rows), 4)
                for step in range(8, 21)
            },
            **({"probe": self._probe(judged, steps)} if self.probe else {}),
            **more,
        }
        write_json(files[0].parent / "summary.json", summary)
        return files

    def _probe(self, judged: Judged, steps: Steps) -> dict[str, Any]:
        verdicts = [record["file"] for record in judged.verdicts]
        tasks = [PickTask(*pair, self.probe) for pair in zip(judged.stored, verdicts, strict=True)]
        picks = [record["file"] for record in steps("picks", write_picks, tasks)]
        keys = [[record["keys"], record["groups"]] for record in judged.keys]
        (probe,) = steps("probe", write_probe, [ProbeTask(self, judged.stored, picks, keys)])
        return probe


def _rank(names: pa.ChunkedArray, patterns: tuple[str, ...]) -> pa.Array:
    """0 for sources that match the first pattern, -1 for the second, and so on; less than all for the others."""
    coded = names.combine_chunks().dictionary_encode()
    ranks = [
        -next((place for place, pattern in enumerate(patterns) if fnmatchcase(name or "", pattern)), len(patterns))
        for name in coded.dictionary.to_pylist()
    ]
    return pa.array(ranks, pa.float64()).take(coded.indices)


def _digest(keys: Records) -> str:
    """Of everything that was sketched, by which a batch is recognised."""
    return hashlib.sha256("".join(record["digest"] for record in keys).encode()).hexdigest()


def _run_folder(docs: Path) -> Path:
    """The run directory that the documents lie in: the one with the configuration."""
    return next((folder for folder in docs.resolve().parents if (folder / "config.yaml").exists()), docs.parent)


def _counted(judged: Judged) -> dict[str, Any]:
    """What happened, in numbers, and what a limit left out."""

    def total(records: Records, name: str) -> int:
        return sum(record[name] for record in records)

    sizes: Counter[str] = Counter()
    for record in judged.verified:
        sizes.update(record["cluster_sizes"])
    verified = judged.verified
    return {
        "documents": sum(part.rows for part in judged.stored),
        "without_text": total(judged.keys, "without_text"),
        "exact_only": total(judged.keys, "exact_only"),
        "keys": total(judged.keys, "rows"),
        "key_matches": total(judged.keys, "matches") + total(judged.edges, "matches"),
        "candidates": judged.found["candidates"],
        "components": judged.found["components"],
        "largest_component": judged.found["largest"],
        **{name: total(verified, name) for name in (*HOW, "compared", "refused")},
        "left_out": {"groups": judged.found["refused_groups"], "places_on_full_lists": total(verified, "lists_full")},
        "cluster_sizes": {size: sizes[size] for size in sorted(sizes, key=lambda name: int(name.split("-")[0]))},
    }


def _largest(judged: Judged, steps: Steps) -> list[dict[str, Any]]:
    """The largest clusters: id, dup_count, the beginning of the kept text, some of the members."""
    clusters = [cluster for record in judged.verified for cluster in record["largest"]]
    clusters = sorted(clusters, key=lambda cluster: (-cluster["dup_count"], cluster["id"]))[:_LARGEST]
    ordinals = [cluster.pop("ordinal") for cluster in clusters]
    (record,) = steps("samples", write_samples, [SamplesTask(judged.stored, judged.before, ordinals)])
    return [{**cluster, "text": text} for cluster, text in zip(clusters, record["texts"], strict=True)]
