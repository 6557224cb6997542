"""Whether a stage keeps the contract of `stage.py`: tried on real documents and on texts that are hard to handle.

A stage of the package and one of a project's own pass the same checks. `broken` says what is wrong, a sentence each.
"""

import gzip
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import plan as plans
from pipeline.config import NamedStep
from pipeline.schema import DOCUMENT, DROP, empty, set_column
from pipeline.stage import Barrier, Source, Stage

SAMPLE = Path(__file__).parent / "data_samples/sample_text.jsonl.gz"

HOSTILE = [
    "", " ", "\n\n\n", "a", "\x00", "\ufeff", "�" * 50, "😀" * 300, "é" * 5000, "a\u0301" * 100, "\u202e\u200b\u200d",
    "word " * 3000, "。" * 500, "中" * 2000, "中文 and English 混在一起。" * 40, "{" * 100, "<div>" * 500, "&amp;" * 50,
    "<html><body><p>A page.</p></body></html>", "a" * 200_000, "1" * 20_000, "<|endoftext|>", "\U0010ffff" * 30,
    "ทดสอบภาษาไทย " * 30, "한국어 문장입니다. " * 30, "שלום עולם " * 50, "نص عربي " * 50, "-\n" * 300, "…" * 100,
]  # fmt: skip
"""Texts that break what is written with only ordinary pages in mind."""

_SHOWN = 60  # characters of a text in a message


def documents() -> pa.Table:
    """Real documents, hostile ones, and one whose text is null, with every column of `schema.DOCUMENT`."""
    with gzip.open(SAMPLE, "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    texts += [*HOSTILE, None]
    docs = {name: pa.nulls(len(texts), kind) for name, kind in DOCUMENT.items()}
    docs["id"] = pa.array([f"{i:032x}" for i in range(len(texts))])
    docs["text"] = pa.array(texts, pa.string())
    docs["mime"] = pa.array(["text/html" if i % 3 == 0 else "text/plain" for i in range(len(texts))])
    return pa.table(docs)


def with_needs(step: Stage | Barrier, docs: pa.Table) -> pa.Table:
    """`docs` with plausible values in the columns that the stage needs from earlier ones."""
    for column in step.needs:
        if column not in docs.column_names:
            values = [0.5, 1.0, 0.0, None] if column in step.numbers else ["en", "zh", "th", None]
            docs = set_column(docs, column, pa.array([values[i % 4] for i in range(len(docs))]))
    return docs


def broken(named: NamedStep) -> list[str]:
    """What of the contract a stage breaks, a sentence each; empty if it keeps all of it.

    Of a source, the documents are read that its settings name. Of a sink, only the configuration is checked, since it
    can be judged in a run alone.
    """
    step = named.step
    found = _undocumented(named)
    if isinstance(step, Source):
        return found + _tried(lambda: _source(step), "reading its documents")
    if isinstance(step, (Stage, Barrier)):
        docs = documents()
        with tempfile.TemporaryDirectory(prefix="gristmill-check-") as folder:
            if isinstance(step, Barrier):
                return found + (_culprit(step.sketch, with_needs(step, docs)) or _barrier(step, docs))
            fitted, wrong = _ready(step, docs, Path(folder))
            if fitted is None:
                return found + wrong
            return found + (_culprit(fitted.apply, with_needs(fitted, docs)) or _stage(fitted, docs, named.name))
    return found


def _undocumented(named: NamedStep) -> list[str]:
    kind = type(named.step)
    found = [] if kind.__doc__ else [f"the class {kind.__name__} has no docstring"]
    return found + [
        f"the setting '{key}' has no description" for key, field in kind.model_fields.items() if not field.description
    ]


def _ready(step: Stage, docs: pa.Table, folder: Path) -> tuple[Stage | None, list[str]]:
    """The stage as it is applied: one that learns has learned from the documents."""
    if not plans.must_fit(step):
        return step, []
    learner: Any = step
    ready: list[Stage] = []

    def learn() -> list[str]:
        good = with_needs(step, docs).filter(pc.is_valid(docs["text"]))
        pq.write_table(good, folder / "docs.parquet")
        learner.fit([folder / "docs.parquet"], folder / "fit")
        ready.append(learner.fitted(folder / "fit"))
        return []

    wrong = _tried(learn, "learning from the documents")
    return (ready[0] if ready else None), wrong


def _culprit(fn: Callable[[pa.Table], pa.Table], docs: pa.Table) -> list[str]:
    """The document at which a stage raises, if there is one; else the batch."""
    wrong = _raised(fn, docs, "all documents in one batch")
    if not wrong:
        return []
    for row in range(len(docs)):
        text = docs["text"][row].as_py()
        shown = "the text null" if text is None else f"the text {text[:_SHOWN]!r}"
        if alone := _raised(fn, docs.slice(row, 1), shown):
            return alone
    return wrong


def _raised(fn: Callable[[pa.Table], pa.Table], docs: pa.Table, on: str) -> list[str]:
    def call() -> list[str]:
        fn(docs)
        return []

    return _tried(call, on)


def _tried(check: Callable[[], list[str]], on: str) -> list[str]:
    """What a check finds; an exception is a finding too."""
    try:
        return check()
    except Exception as error:  # noqa: BLE001 - whatever the stage raises is what its author wants to know
        return [f"raises {type(error).__name__} on {on}: {error}"]


def _stage(stage: Stage, docs: pa.Table, name: str) -> list[str]:
    """Of a stage that raises on no document."""
    docs = with_needs(stage, docs)
    after = stage.apply(docs)
    if not isinstance(after, pa.Table):
        return [f"apply must return a pyarrow.Table, it returns {type(after).__name__}"]
    if wrong := _not_the_rows(docs, after):
        return [wrong]
    found = _other_columns(stage, docs, after)
    if not stage.apply(docs).equals(after):
        found.append("the same documents gave another answer the second time")
    cut = random.Random(name).randrange(1, len(docs))
    found += _tried(lambda: _batched(stage, docs, after, cut), f"documents in two batches, cut at {cut}")
    return found + _tried(lambda: _no_rows(stage), "a batch without rows")


def _not_the_rows(docs: pa.Table, after: pa.Table) -> str:
    if len(after) != len(docs):
        return f"{len(docs)} rows went in and {len(after)} came out; mark documents to drop with schema.mark"
    if "id" not in after.column_names or not after["id"].equals(docs["id"]):
        return "the rows came out in another order, or with another id"
    return ""


def _other_columns(stage: Stage, docs: pa.Table, after: pa.Table) -> list[str]:
    """Columns that are missing, undeclared, or of another type than declared."""
    declared = {**{field.name: field.type for field in docs.schema}, **stage.columns()}
    got = {field.name: field.type for field in after.schema if field.name not in DROP}
    return [
        *(f"the column '{name}' is missing from what it returns" for name in declared.keys() - got.keys()),
        *(f"adds the column '{name}', which `adds` does not name" for name in got.keys() - declared.keys()),
        *(
            f"the column '{name}' is of {got[name]}, but {declared[name]} is declared"
            for name in declared.keys() & got.keys()
            if got[name] != declared[name]
        ),
    ]


def _batched(stage: Stage, docs: pa.Table, whole: pa.Table, cut: int) -> list[str]:
    halves = [stage.apply(docs.slice(0, cut)), stage.apply(docs.slice(cut))]
    joined = pa.concat_tables(halves, promote_options="default")
    both = [name for name in whole.column_names if name in joined.column_names]
    same = set(joined.column_names) == set(whole.column_names) and joined.select(both).equals(whole.select(both))
    return [] if same else [f"the answer depends on how documents are cut into batches (here at {cut})"]


def _no_rows(stage: Stage) -> list[str]:
    after = stage.apply(with_needs(stage, empty(DOCUMENT)))
    found = [f"{len(after)} rows came out of a batch without rows"] if len(after) else []
    missing = sorted(set(stage.columns()) - set(after.column_names))
    found += [f"the column '{name}' is missing from a batch without rows" for name in missing]
    counted = {name: count for name, count in stage.tally(after).items() if count}
    return found + [f"counts {count} {name} in a batch without rows" for name, count in counted.items()]


def _barrier(barrier: Barrier, docs: pa.Table) -> list[str]:
    """Of a barrier whose sketch raises on no document."""
    docs = with_needs(barrier, docs)
    sketch = barrier.sketch(docs)
    if not isinstance(sketch, pa.Table):
        return [f"sketch must return a pyarrow.Table, it returns {type(sketch).__name__}"]
    if len(sketch) != len(docs):
        return [f"the sketch of {len(docs)} rows has {len(sketch)} rows"]
    found = [] if barrier.sketch(docs.slice(5)).equals(sketch.slice(5)) else ["the sketch depends on the batches"]
    same = barrier.sketch(docs.slice(0, 0)).schema.equals(sketch.schema)
    return found + ([] if same else ["the sketch of a batch without rows has other columns"])


def _source(source: Source) -> list[str]:
    expected = {**DOCUMENT, **source.columns(), **DROP}
    found: list[str] = []
    for split in source.inputs():
        for table in source.read(split):
            got = {field.name: field.type for field in table.schema}
            found += [f"the column '{name}' is missing from what it reads" for name in expected.keys() - got.keys()]
            found += [
                f"the column '{name}' is of {got[name]}, it must be of {kind}"
                for name, kind in expected.items()
                if name in got and got[name] != kind
            ]
            if found:
                return found
            if table["id"].null_count or len(table["id"].unique()) != len(table):
                return ["documents of a batch share an id, or have none"]
    return found
