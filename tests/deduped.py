"""A corpus through `Dedup` from sketches to verdicts, in this process, and texts to do it with."""

import gzip
import json
import pickle
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.schema import DROP, text_buffers
from pipeline.stage import Part
from stages.dedup import Dedup
from stages.kernels.sketch import shingle_sets, unit_table

SAMPLES = Path(__file__).parent.parent / "data_samples"


class LocalSteps:
    """Inner steps one after the other in this process; tasks and records travel as they would between machines."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, name: str, fn: Any, tasks: list[Any]) -> list[dict[str, Any]]:
        outs = [self.folder / name / f"{number:05d}" for number in range(len(tasks))]
        return [
            json.loads(json.dumps(fn(pickle.loads(pickle.dumps(t)), out))) for t, out in zip(tasks, outs, strict=True)
        ]


def names(count: int) -> list[str]:
    """Identifiers in no particular order."""
    return [f"{(number * 0x9E3779B97F4A7C15 + 1) % 2**128:032x}" for number in range(count)]


class Runner:
    """`run(docs, cuts)` writes parts cut at these rows and resolves them; verdicts come back as rows, in order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = 0
        self.summary: dict[str, Any] = {}
        self.earlier: set[str] = set()  # ids kept by earlier batches of an index

    def __call__(self, docs: Any, cuts: tuple[int, ...] = (), **config: Any) -> list[dict[str, Any]]:
        if isinstance(docs, list):
            docs = pa.table({"id": names(len(docs)), "text": pa.array(docs, pa.string())})
        for column in {"source", "url"} - set(docs.column_names):
            docs = docs.append_column(column, pa.nulls(len(docs), pa.string()))
        dedup = Dedup(**config)
        self.runs += 1
        folder = self.folder / str(self.runs)
        edges = [0, *cuts, len(docs)]
        parts = [self.part(dedup, docs.slice(a, b - a), folder / f"part-{a}-{b}-{i}") for i, (a, b) in
                 enumerate(pairwise(edges))]  # fmt: skip
        files = dedup.resolve(parts, LocalSteps(folder))
        self.summary = json.loads((files[0].parent / "summary.json").read_text(encoding="utf-8"))
        tables = [pq.read_table(file) for file in files]
        expected = pa.schema([*dedup.columns().items(), *DROP.items()])
        assert [len(table) for table in tables] == [part.rows for part in parts]
        assert all(table.schema.equals(expected) for table in tables)
        rows = [
            {"id": name, **row}
            for name, row in zip(docs["id"].to_pylist(), pa.concat_tables(tables).to_pylist(), strict=True)
        ]
        check_law(rows, dedup, self.earlier)
        return rows

    @staticmethod
    def part(dedup: Dedup, docs: pa.Table, stem: Path) -> Part:
        stem.parent.mkdir(parents=True, exist_ok=True)
        paths = stem.with_suffix(".parquet"), stem.with_suffix(".arrow")
        pq.write_table(docs, paths[0], row_group_size=37)
        sketch = dedup.sketch(docs)
        assert len(sketch) == len(docs)
        with pa.ipc.new_file(str(paths[1]), sketch.schema) as file:
            file.write_table(sketch, max_chunksize=23)
        return Part(*paths, len(docs))


def check_law(rows: list[dict[str, Any]], dedup: Dedup, earlier: set[str]) -> None:
    """Whatever the documents: no chains, counts that balance, figures that justify the reason."""
    kept = {row["id"] for row in rows if row["drop"] is None}
    gone = [row for row in rows if row["drop"] is not None]
    assert {row["duplicate_of"] for row in gone} <= kept | earlier
    counts = Counter(row["duplicate_of"] for row in gone)
    for row in rows:
        assert row["dup_count"] == (counts[row["id"]] if row["drop"] is None else 0)
        if row["drop"] is None:
            assert row["duplicate_of"] is row["similarity"] is row["how"] is row["drop_value"] is None
            continue
        reason, limit = {"exact": ("duplicate_exact", 1.0), "jaccard": ("duplicate_near", dedup.threshold),
                         "contained": ("duplicate_contained", dedup.containment)}[row["how"]]  # fmt: skip
        assert (row["drop"], row["drop_limit"]) == (reason, limit)
        assert row["drop_value"] >= limit
        assert row["similarity"] == np.float32(row["drop_value"])


def sets_of(texts: list[str]) -> list[set[int]]:
    starts, values = shingle_sets(*text_buffers(pa.array(texts, pa.string())), unit_table(), 5, 8)
    return [set(part.tolist()) for part in np.split(values, starts[1:-1])]


def jaccard(one: set[int], other: set[int]) -> float:
    return len(one & other) / max(len(one | other), 1)


def sample_texts() -> tuple[list[str], list[str]]:
    """25 English articles, and 12 Chinese texts of five Tang poems each."""
    with gzip.open(SAMPLES / "sample_text.jsonl.gz", "rt", encoding="utf-8") as lines:
        docs = [json.loads(line) for line in lines]
    poems = [doc["text"] for doc in docs if doc["lang"] == "zh-Hant"]
    return [doc["text"] for doc in docs if doc["lang"] == "en"], ["\n".join(poems[i : i + 5]) for i in range(0, 60, 5)]


def edited(units: list[str], share: float, source: random.Random) -> list[str]:
    """`units` with this share of them, scattered, exchanged for others of the same text."""
    units = list(units)
    for place in source.sample(range(len(units)), round(share * len(units))):
        units[place] = source.choice(units)
    return units


ENGLISH, CHINESE = sample_texts()


def synthetic(length: int, source: random.Random, script: str = "en") -> list[str]:
    if script == "zh":
        return [chr(source.randrange(0x4E00, 0x5E00)) for _ in range(length)]
    return ["".join(source.choices("abcdefghij", k=5)) for _ in range(length)]
