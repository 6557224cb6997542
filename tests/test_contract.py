"""What every stage file must keep, checked on each of them as it is found: a new stage is tested without a new test."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT

from pipeline import config, contract, corpus
from pipeline.stage import Barrier, Sink, Source, Stage

EXAMPLES = {
    "importance": {"models": {"it": {"path": "weights.npy"}}},
    "keep": {"column": "offset"},
    "collect": {"paths": [str(ROOT / "data_samples/sample_text.jsonl.gz")]},
    "language": {"keep": ["en", "zh"]},
    "tokens": {"tokenizer": "tokenizer.json"},
}
"""Configurations for the stages that cannot do without; all others are tried with their defaults."""


def step(name: str):
    return config.step_class(name).model_validate(EXAMPLES.get(name, {}))


@pytest.fixture(scope="module")
def real() -> pa.Table:
    return contract.documents()


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


@pytest.mark.parametrize("name", config.step_names())
def test_every_stage_keeps_the_contract(name: str) -> None:
    assert contract.broken(config.NamedStep(name, step(name))) == []


def test_decoding_gives_the_text_back(real: pa.Table) -> None:
    stage = step("tokens")
    docs = stage.apply(real)
    tokenizer = corpus.Tokenizer.from_file("tokenizer.json")
    end = tokenizer.token_to_id("<|endoftext|>")
    for text, ids in zip(real["text"].to_pylist(), docs["input_ids"].to_pylist()):
        assert ids[-1] == end
        assert end not in ids[:-1], "text can write an end of document"
        assert tokenizer.decode(ids[:-1], skip_special_tokens=False) == (text or "")
