"""Scatter and gather without the machine: the order, the held-out documents, the limits, the formats."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import corpus
from pipeline.schema import DOCUMENT
from stages.shards import Shards
from stages.tokens import Tokens

TEXTS = [f"Document {i}. " + "混合 text, some of it 中文。" * (i % 7) for i in range(120)]


@pytest.fixture(scope="module")
def tokenized(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    folder = tmp_path_factory.mktemp("tokens")
    docs = {name: pa.nulls(len(TEXTS), kind) for name, kind in DOCUMENT.items()}
    docs["id"] = pa.array([f"{i * 7919:032x}" for i in range(len(TEXTS))])
    docs["text"] = pa.array(TEXTS)
    docs["offset"] = pa.array(range(len(TEXTS)), pa.int64())
    pq.write_table(pa.table(docs), folder / "docs.parquet")
    learner = Tokens.model_validate({"train": {"vocab_size": 400}})
    learner.fit([folder / "docs.parquet"], folder / "fit")
    return learner.fitted(folder / "fit").apply(pa.table(docs))


def build(sink: Shards, partitions: list[list[pa.Table]], folder: Path) -> corpus.Corpus:
    """What the runner does, in a loop."""
    (folder / "scatter").mkdir(parents=True)
    (folder / "gather").mkdir()
    outs = [folder / f"scatter/part-{i:05d}" for i in range(len(partitions))]
    for batches, out in zip(partitions, outs):
        sink.scatter(iter(batches), out)
    tasks = sink.plan(outs)
    gathered = [folder / f"gather/shard-{i:05d}" for i in range(len(tasks))]
    records = [sink.gather(task, out) for task, out in zip(tasks, gathered)]
    sink.finish(gathered, records, folder)
    return corpus.open(folder)


def contents(made: corpus.Corpus) -> list[tuple]:
    return [(row["id"], row["shard"], row["offset"], ids.tolist()) for row, ids in made.documents()]


@given(st.lists(st.integers(0, len(TEXTS)), max_size=5), st.randoms(use_true_random=False))
@settings(max_examples=15, deadline=None)
def test_any_partitioning_and_batching_gives_the_same_bytes(tmp_path_factory, tokenized, cuts, random) -> None:
    sink = Shards(val_fraction=0.1, shard_tokens=1500)
    folder = tmp_path_factory.mktemp("shards")
    whole = build(sink, [[tokenized]], folder / "whole")
    edges = [0, *sorted(cuts), len(TEXTS)]
    parts = [[tokenized.slice(a, b - a)] for a, b in zip(edges, edges[1:])]
    if len(parts) > 2:
        parts[0:2] = [parts[0] + parts[1]]  # one partition of two batches
    random.shuffle(parts)
    other = build(sink, parts, folder / "other")
    assert contents(other) == contents(whole)
    for name, facts in whole.manifest["files"].items():
        assert other.manifest["files"][name] == facts


def test_all_documents_once_held_out_apart_and_eos_last(tmp_path: Path, tokenized: pa.Table) -> None:
    made = build(Shards(val_fraction=0.2, shard_tokens=1000), [[tokenized]], tmp_path)
    assert sorted(made.docs["id"].to_pylist()) == sorted(tokenized["id"].to_pylist())
    assert corpus.verify(made) == []
    splits = {shard.name: shard.split for shard in made.shards}
    assert {"part-00000", "part-00001", "val-00000"} <= set(splits)
    assert all((split == "val") == name.startswith("val") for name, split in splits.items())
    held_out = sum(shard.documents for shard in made.shards if shard.split == "val")
    assert 10 <= held_out <= 40
    for shard in made.shards:
        assert shard.tokens <= 1000 or shard.documents == 1
    texts = dict(zip(tokenized["id"].to_pylist(), tokenized["text"].to_pylist()))
    for index, id_ in enumerate(made.docs["id"].to_pylist()):
        assert made.text(index) == texts[id_]
        assert made.tokens(index)[-1] == made.manifest["eos_id"]


def test_the_order_is_the_seeds(tmp_path: Path, tokenized: pa.Table) -> None:
    one = build(Shards(val_fraction=0, seed=1), [[tokenized]], tmp_path / "1").docs["id"].to_pylist()
    two = build(Shards(val_fraction=0, seed=2), [[tokenized]], tmp_path / "2").docs["id"].to_pylist()
    assert sorted(one) == sorted(two)
    assert one != two
    assert one != sorted(one)


def test_parquet_shards(tmp_path: Path, tokenized: pa.Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "_TOGETHER", 7)
    made = build(Shards(format="parquet", val_fraction=0), [[tokenized]], tmp_path)
    table = pq.read_table(tmp_path / "train-00000.parquet")
    assert pq.read_metadata(tmp_path / "train-00000.parquet").num_row_groups == -(-len(tokenized) // 7)
    assert table.schema == pa.schema([("id", pa.string()), ("input_ids", pa.list_(pa.int32()))])
    assert [ids.tolist() for _, ids in made.documents()] == table["input_ids"].to_pylist()
    assert corpus.verify(made) == []


def test_verify_names_what_is_wrong(tmp_path: Path, tokenized: pa.Table) -> None:
    build(Shards(val_fraction=0), [[tokenized]], tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "vocab_size": 10}))
    assert "in a vocabulary of 10" in corpus.verify(corpus.open(tmp_path))[0]
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "eos_id": 399}))
    assert "do not end in EOS" in corpus.verify(corpus.open(tmp_path))[0]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    tokens = np.memmap(tmp_path / "part-00000.bin", np.uint16, "r+")
    tokens[0] ^= 1
    tokens.flush()
    assert "part-00000.bin: its content changed" in corpus.verify(corpus.open(tmp_path))[0]
    (tmp_path / "part-00000.idx").unlink()
    wrong = corpus.verify(corpus.open(tmp_path, sizes=False))
    assert [line.split("/")[-1] for line in wrong] == [
        "part-00000.idx: is missing", "part-00000.bin: its content changed since it was written"]  # fmt: skip


def test_no_corpus_is_said(tmp_path: Path) -> None:
    with pytest.raises(corpus.NotACorpus, match=r"no manifest\.json there"):
        corpus.open(tmp_path)


def test_tokens_without_a_tokenizer_are_refused(tmp_path: Path) -> None:
    bare = pa.table({"id": ["a"], "text": ["b"], "input_ids": [[1]], "n_tokens": pa.array([1], pa.int32())})
    with pytest.raises(ValueError, match="put 'tokens' before 'shards'"):
        Shards().scatter(iter([bare]), tmp_path / "part-00000")
