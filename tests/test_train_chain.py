"""A corpus that grew, parent and increments: it opens, trains, judges, traces and exports as one; or says why not."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import train_corpus

from pipeline import corpus, storage
from pipeline.export import Layout, export
from pipeline.train.data import Dataset
from pipeline.train.recipe import DataSpec, LoopSpec, Mix, ModelSpec, Recipe, Refused

FIRST, SECOND, THIRD = (train_corpus.words(count, seed) for count, seed in ((70, 1), (30, 5), (10, 6)))
HELD = [train_corpus.words(count, seed) for count, seed in ((8, 2), (3, 3), (2, 4))]


def grow(folder: Path) -> corpus.Corpus:
    """Three corpora, 1 <- 2 <- 3, and LATEST; the second has a column more."""
    train_corpus.write(folder / "1/c", FIRST, HELD[0])
    train_corpus.write(folder / "2/c", SECOND, HELD[1], parent=folder / "1/c", tag="b", score=[0.5] * 33)
    train_corpus.write(folder / "3/c", THIRD, HELD[2], parent=folder / "2/c", tag="c", lang=["xx"] * 12)
    (folder / "LATEST").write_text("3/c\n")
    return corpus.open(folder)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> corpus.Corpus:
    return grow(tmp_path_factory.mktemp("chain"))


def remake(folder: Path, **changed: object) -> None:
    manifest = storage.read_json(folder / corpus.MANIFEST)
    (folder / corpus.MANIFEST).write_text(json.dumps({**manifest, **changed}))


def test_it_opens_as_one_the_oldest_first(chain: corpus.Corpus) -> None:
    assert chain.folder.parts[-2:] == ("3", "c")
    assert [shard.name for shard in chain.shards] == [
        "part-00000", "part-00001", "val-00000", "part-00002", "val-00001", "part-00003", "val-00002"]  # fmt: skip
    assert len(chain) == len(chain.docs) == 70 + 8 + 30 + 3 + 10 + 2
    expected = [*FIRST, *HELD[0], *SECOND, *HELD[1], *THIRD, *HELD[2]]
    assert [chain.text(i) for i in range(len(chain))] == expected
    ids = chain.docs["id"].to_pylist()
    assert (ids[0], ids[78], ids[-1]) == ("train0", "btrain0", "cval1")
    for row, tokens in chain.documents():
        assert row["n_tokens"] == len(tokens)
    shards = {shard.name: shard.documents for shard in chain.shards}
    names = chain.docs["shard"].to_pylist()
    assert {name: names.count(name) for name in shards} == shards
    assert chain.docs["score"].null_count == 78 + 12
    assert chain.n_tokens == sum(len(tokens) for _, tokens in chain.documents())
    assert corpus.verify(chain) == []


def test_an_increment_of_nothing_changes_nothing(chain: corpus.Corpus, tmp_path: Path) -> None:
    empty = train_corpus.write(tmp_path / "empty", [], parent=chain.folder)
    assert len(empty) == len(chain) == len(empty.docs)
    assert empty.docs["shard"].to_pylist() == chain.docs["shard"].to_pylist()
    assert empty.shards == [shard._replace(path=other.path) for shard, other in zip(chain.shards, empty.shards)]
    assert corpus.verify(empty) == []


def test_latest(tmp_path: Path) -> None:
    assert corpus.latest(tmp_path) is None
    (tmp_path / "LATEST").write_text("0002/4-shards-ab\n")
    assert corpus.latest(tmp_path) == tmp_path / "0002/4-shards-ab"
    with pytest.raises(corpus.NotACorpus, match=r"no manifest\.json there"):
        corpus.open(tmp_path)


def test_verify_goes_through_the_parents(tmp_path: Path) -> None:
    opened = grow(tmp_path)
    tokens = np.memmap(tmp_path / "1/c/part-00001.bin", np.uint16, "r+")
    tokens[0] ^= 1
    tokens.flush()
    assert [line for line in corpus.verify(opened) if "1/c/part-00001.bin: its content changed" in line]
    (tmp_path / "2/c/val-00000.idx").unlink()
    assert any("2/c/val-00000.idx: is missing" in line for line in corpus.verify(opened))


@pytest.mark.parametrize(("key", "value", "said"), [
    ("tokenizer", {"file": "tokenizer.json", "sha256": "00"}, "its tokenizer is"),
    ("dtype", "uint32", "its dtype is uint16, its parent .* has uint32"),
    ("vocab_size", 300, "its vocab_size is 257, its parent .* has 300"),
    ("eos_id", 3, "its eos_id is 256, its parent .* has 3"),
    ("format", "parquet", "its format is memmap"),
])  # fmt: skip
def test_another_vocabulary_is_refused(tmp_path: Path, key: str, value: object, said: str) -> None:
    grow(tmp_path)
    remake(tmp_path / "2/c", **{key: value})
    remake(tmp_path / "3/c", parent_sha256=storage.sha256(tmp_path / "2/c/manifest.json"))
    with pytest.raises(corpus.NotACorpus, match=said):
        corpus.open(tmp_path)


def test_a_broken_chain_is_refused(tmp_path: Path) -> None:
    grow(tmp_path)
    remake(tmp_path / "1/c", seed=2)
    with pytest.raises(corpus.NotACorpus, match=r"manifest of its parent .*1/c is not the one it was made for"):
        corpus.open(tmp_path / "3/c")
    assert len(corpus.open(tmp_path / "1/c")) == 78  # by itself it is a corpus still
    (tmp_path / "1/c/manifest.json").unlink()
    with pytest.raises(corpus.NotACorpus, match=r"2/c: its parent .*1/c has no manifest\.json"):
        corpus.open(tmp_path / "3/c")
    remake(tmp_path / "2/c", parent="../../3/c")
    remake(tmp_path / "3/c", parent_sha256=storage.sha256(tmp_path / "2/c/manifest.json"))
    with pytest.raises(corpus.NotACorpus, match="its parents go round in a circle"):
        corpus.open(tmp_path / "3/c")


def test_documents_of_another_kind_are_refused(tmp_path: Path) -> None:
    train_corpus.write(tmp_path / "a", FIRST, score=[1.0] * 70)
    opened = train_corpus.write(tmp_path / "b", THIRD, parent=tmp_path / "a", score=[["x"]] * 10)
    with pytest.raises(corpus.NotACorpus, match="have other columns"):
        _ = opened.docs


def test_the_fingerprint_covers_the_chain(tmp_path: Path) -> None:
    grow(tmp_path)
    before = Dataset(corpus.open(tmp_path), DataSpec(), 32, 1).fingerprint
    remake(tmp_path / "1/c", seed=2)
    for child, parent in (("2/c", "1/c"), ("3/c", "2/c")):
        remake(tmp_path / child, parent_sha256=storage.sha256(tmp_path / parent / "manifest.json"))
    assert Dataset(corpus.open(tmp_path), DataSpec(), 32, 1).fingerprint != before


@pytest.mark.parametrize(
    "spec",
    [
        DataSpec(),
        DataSpec(pack="bestfit", mask="document"),
        DataSpec(mix=Mix(by="lang", weights={"lang": 2, "xx": 1}, max_epochs=99)),
    ],
)
def test_windows_and_traces_go_over_the_whole_chain(chain: corpus.Corpus, spec: DataSpec) -> None:
    data = Dataset(chain, spec, 32, 64)
    assert data.tokens.size == sum(len(text.encode()) + 1 for text in [*FIRST, *SECOND, *THIRD])
    count = sum(map(len, data.sources)) if spec.mix is None else 64
    seen = set()
    for share in data.trace(0, count):
        seen.add(share.document)
        assert chain.docs["shard"][share.document].as_py().startswith("part")
    train = {i for i, name in enumerate(chain.docs["shard"].to_pylist()) if name.startswith("part")}
    assert seen <= train
    if spec.mix is None:
        assert len(train - seen) <= 1  # the tail that fills no window
    batch, shares = data.batch(0, 4), [share for share in data.trace(0, 4) if share.sample == 2]
    ids = np.concatenate([chain.tokens(s.document)[s.start : s.start + s.tokens] for s in shares])
    assert np.array_equal(batch.inputs[2][: len(ids)], ids[:32])


@pytest.mark.parametrize("layout", list(Layout))
def test_it_exports_as_one(chain: corpus.Corpus, tmp_path: Path, layout: Layout) -> None:
    made = export(chain, layout, tmp_path / "out", 64)
    train = np.concatenate([chain.shard_tokens(shard) for shard in chain.shards if shard.split == "train"])
    parts = [path for path in made if path.name.startswith("part-") and path.suffix in (".bin", ".ds", ".npy")]
    if layout in (Layout.megatron, Layout.datatrove, Layout.olmo):
        assert [path.stem for path in parts] == [f"part-{i:05d}" for i in range(4)]
        assert np.array_equal(np.concatenate([np.fromfile(path, np.uint16) for path in parts]), train)
    elif layout is Layout.nanogpt:
        assert np.array_equal(np.fromfile(tmp_path / "out/train.bin", np.uint16), train)
    elif layout is Layout.llmc:
        files = [path for path in made if path.name.startswith("train")]
        assert sum(path.stat().st_size - 1024 for path in files) == 2 * len(train)
    elif layout is Layout.parquet:
        tables = [pq.read_table(tmp_path / f"out/train-{i:05d}.parquet") for i in range(4)]
        assert [row for table in tables for row in table["id"].to_pylist()][70] == "btrain0"
        assert np.array_equal([i for t in tables for ids in t["input_ids"].to_pylist() for i in ids], train)


MODEL = ModelSpec(layers=1, heads=2, width=32, context=32)


def test_it_trains_judges_and_traces_as_one(chain: corpus.Corpus, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from pipeline.train import checkpoint, loop, report

    spec = LoopSpec(steps=20, batch=8, threads=1, lr=1e-2)
    asked = Recipe(name="t", corpus=chain.folder.parents[1], model=MODEL, train=spec)
    done = loop.train(asked, corpus.open(asked.corpus), tmp_path / "run", lambda line: None)
    assert done["held_out"]["documents"] == 13
    assert set(done["held_out"]["lang"]) == {"lang", "xx"}
    model, _ = checkpoint.load(checkpoint.latest(tmp_path / "run"))
    facts = report.examined(model, asked, chain, chain, None)
    assert facts["bpb"] == pytest.approx(done["held_out"]["bpb"])
    windows = report.behind(asked, chain, tmp_path / "run", 20)
    assert {doc["id"].split("train")[0] for window in windows for doc in window["documents"]} <= {"", "b", "c"}
    with pytest.raises(Refused, match="corpus manifest was"):  # of the parent alone
        loop.train(asked, corpus.open(chain.folder.parents[1] / "2/c"), tmp_path / "run", lambda line: None)


def test_a_chain_and_its_parent_compare(chain: corpus.Corpus, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from pipeline.train import compare

    spec = LoopSpec(steps=1, batch=8, lr=1e-2, threads=1)
    home = chain.folder.parents[1]
    asked = Recipe(name="c", corpus=home, model=MODEL, train=spec)
    design = compare.Design(5 * 8 * 32, (1, 2), (1.0,))
    compare.compare(asked, [home / "1/c", home], design, tmp_path / "out", say=lambda line: None)
    found = storage.read_json(tmp_path / "out/report.json")
    assert found["held_out"]["documents"] == 8  # what both hold out: that of the parent
    assert set(found["consumed"][home.name]["lang"]) == {"lang", "xx"}
