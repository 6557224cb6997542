"""What every stage file must keep, checked on each of them as it is found: a new stage is tested without a new test."""

import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT

from pipeline import config, corpus
from pipeline.schema import DOCUMENT, DROP, empty, set_column
from pipeline.stage import Barrier, Sink, Source, Stage

EXAMPLES = {
    "importance": {"models": {"it": {"path": "weights.npy"}}},
    "keep": {"column": "offset"},
    "collect": {"paths": [str(ROOT / "data_samples/sample_text.jsonl.gz")]},
    "language": {"keep": ["en", "zh"]},
    "tokens": {"tokenizer": "tokenizer.json"},
}
"""Configurations for the stages that cannot do without; all others are tried with their defaults."""

HOSTILE = [
    "", " ", "\n\n\n", "a", "\x00", "\ufeff", "�" * 50, "😀" * 300, "é" * 5000, "a\u0301" * 100, "\u202e\u200b\u200d",
    "word " * 3000, "。" * 500, "中" * 2000, "中文 and English 混在一起。" * 40, "{" * 100, "<div>" * 500, "&amp;" * 50,
    "<html><body><p>A page.</p></body></html>", "a" * 200_000, "1" * 20_000, "<|endoftext|>", "\U0010ffff" * 30,
    "ทดสอบภาษาไทย " * 30, "한국어 문장입니다. " * 30, "שלום עולם " * 50, "نص عربي " * 50, "-\n" * 300, "…" * 100,
]  # fmt: skip


def step(name: str):
    return config.step_class(name).model_validate(EXAMPLES.get(name, {}))


def stage_names() -> list[str]:
    return [name for name in config.step_names() if issubclass(config.step_class(name), Stage)]


@pytest.fixture(scope="module")
def real() -> pa.Table:
    """Real documents and hostile ones, with every column any stage could ask for."""
    rows = pa.concat_tables(step("collect").read(step("collect").inputs()[0]), promote_options="default")
    texts = [*rows["text"].to_pylist(), *HOSTILE, None]
    docs = {name: pa.nulls(len(texts), kind) for name, kind in DOCUMENT.items()}
    docs["id"] = pa.array([f"{i:032x}" for i in range(len(texts))])
    docs["text"] = pa.array(texts, pa.string())
    docs["mime"] = pa.array(["text/html" if i % 3 == 0 else "text/plain" for i in range(len(texts))])
    return pa.table(docs)


def with_needs(named: Stage | Barrier, docs: pa.Table) -> pa.Table:
    """`docs` with plausible values in the columns the stage needs from earlier ones."""
    for column in named.needs:
        if column not in docs.column_names:
            docs = set_column(docs, column, pa.array([["en", "zh", "th", None][i % 4] for i in range(len(docs))]))
    return docs


@pytest.fixture(autouse=True)
def _models(tmp_path, monkeypatch, real) -> None:
    monkeypatch.chdir(tmp_path)
    pq.write_table(real.select(["id", "text"]).slice(0, 20), "docs.parquet")
    learner = config.step_class("tokens").model_validate({"train": {"vocab_size": 400}})
    learner.fit([tmp_path / "docs.parquet"], tmp_path / "fit")
    (tmp_path / "fit.tokenizer.json").rename("tokenizer.json")
    np.save("weights.npy", np.cos(np.arange(100, dtype=np.float32)))
    (tmp_path / "weights.json").write_text('{"language": ["en", "zh"], "buckets": 100, "features": 1}')


def test_every_file_defines_one_stage() -> None:
    names = config.step_names()
    assert {"collect", "extract", "language", "quality", "pii", "dedup", "tokens", "shards"} <= set(names)
    for name in names:
        assert issubclass(config.step_class(name), (Source, Stage, Barrier, Sink))


@pytest.mark.parametrize("name", config.step_names())
def test_every_key_is_explained_and_has_an_example(name: str) -> None:
    kind = config.step_class(name)
    assert kind.__doc__
    unexplained = [key for key, field in kind.model_fields.items() if not field.description]
    assert not unexplained
    assert set(kind.model_fields).isdisjoint({"needs", "adds"})
    step(name)


@pytest.mark.parametrize("name", stage_names())
def test_same_rows_in_same_rows_out_same_order(name: str, real: pa.Table) -> None:
    stage = step(name)
    docs = with_needs(stage, real)
    after = stage.apply(docs)
    assert after["id"].equals(docs["id"])
    declared = {**{field.name: field.type for field in docs.schema}, **stage.columns()}
    assert {field.name: field.type for field in after.schema if field.name not in DROP} == declared
    assert stage.apply(docs).equals(after), "the same question gave another answer"


@pytest.mark.parametrize("name", stage_names())
def test_the_answer_does_not_depend_on_the_batches(name: str, real: pa.Table) -> None:
    stage = step(name)
    docs = with_needs(stage, real)
    whole = stage.apply(docs)
    cut = random.Random(name).randrange(1, len(docs))
    halves = pa.concat_tables([stage.apply(docs.slice(0, cut)), stage.apply(docs.slice(cut))])
    assert halves.equals(whole.select(halves.column_names))


@pytest.mark.parametrize("name", stage_names())
def test_no_rows_are_rows_too(name: str) -> None:
    stage = step(name)
    docs = with_needs(stage, empty(DOCUMENT))
    after = stage.apply(docs)
    assert len(after) == 0
    assert set(stage.columns()) <= set(after.column_names)
    assert all(count == 0 for count in stage.tally(after).values())


@pytest.mark.parametrize("name", [n for n in config.step_names() if issubclass(config.step_class(n), Barrier)])
def test_a_barrier_sketches_every_row(name: str, real: pa.Table) -> None:
    barrier = step(name)
    docs = with_needs(barrier, real)
    sketch = barrier.sketch(docs)
    assert len(sketch) == len(docs)
    assert barrier.sketch(docs.slice(5)).equals(sketch.slice(5))
    assert barrier.sketch(docs.slice(0, 0)).schema.equals(sketch.schema)


def test_decoding_gives_the_text_back(real: pa.Table) -> None:
    stage = step("tokens")
    docs = stage.apply(real)
    tokenizer = corpus.Tokenizer.from_file("tokenizer.json")
    end = tokenizer.token_to_id("<|endoftext|>")
    for text, ids in zip(real["text"].to_pylist(), docs["input_ids"].to_pylist()):
        assert ids[-1] == end
        assert end not in ids[:-1], "text can write an end of document"
        assert tokenizer.decode(ids[:-1], skip_special_tokens=False) == (text or "")
