"""Windows: what is in them, where it comes from, and that nothing is lost or seen twice. No torch here."""

import time
from pathlib import Path

import numpy as np
import pytest
import train_corpus
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from train_corpus import EOS

from pipeline import corpus
from pipeline.train.data import IGNORED, Dataset, Stream, Tokens
from pipeline.train.pack import Packed
from pipeline.train.recipe import DataSpec, Mix, Refused


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> corpus.Corpus:
    texts = train_corpus.words(130)
    sources = [("a", "b", "b", "c")[i % 4] for i in range(130)] + ["v"] * 10
    scores = [i / 130 for i in range(130)] + [0.0] * 10
    folder = tmp_path_factory.mktemp("data") / "corpus"
    return train_corpus.write(folder, texts, train_corpus.words(10, 2), source=sources, quality_score=scores)


def whole(opened: corpus.Corpus) -> np.ndarray:
    return np.concatenate([opened.shard_tokens(shard) for shard in opened.shards if shard.split == "train"])


def test_a_stream_predicts_every_token_once_across_shards(small: corpus.Corpus) -> None:
    data, tokens = Dataset(small, DataSpec(), 32, 1), whole(small)
    assert len(data.tokens.shards) == 3
    count = len(data.sources[0])
    batch = data.batch(0, count)
    order = np.argsort(data.order.places(0, count).window)
    assert np.array_equal(batch.inputs[order].ravel(), tokens[: count * 32])
    assert np.array_equal(batch.targets[order].ravel(), tokens[1 : count * 32 + 1])
    assert len(tokens) - count * 32 <= 32


@pytest.mark.parametrize("spec", [DataSpec(), DataSpec(pack="bestfit", mask="document"), DataSpec(mask="document")])
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_a_batch(small: corpus.Corpus, spec: DataSpec, world: int) -> None:
    data = Dataset(small, spec, 48, 100)
    alone = data.batch(24, 8)
    for rank in range(world):
        part = data.batch(24, 8, rank, world)
        assert np.array_equal(part.inputs, alone.inputs[rank::world])
        assert np.array_equal(part.targets, alone.targets[rank::world])
        assert part.learned == alone.learned == (alone.targets != IGNORED).sum()
        if spec.mask == "document":
            assert np.array_equal(part.documents, alone.documents[rank::world])


def test_a_new_seed_or_another_corpus_is_another_order(small: corpus.Corpus, tmp_path: Path) -> None:
    first, second = (Dataset(small, DataSpec(seed=seed), 32, 1).batch(0, 8).inputs for seed in (1, 2))
    assert not np.array_equal(first, second)
    again = Dataset(corpus.open(small.folder), DataSpec(seed=1), 32, 1).batch(0, 8).inputs
    assert np.array_equal(first, again)


@pytest.mark.parametrize("spec", [
    DataSpec(), DataSpec(pack="bestfit"), DataSpec(mix=Mix(weights={"a": 1, "b": 2, "c": 1})),
    DataSpec(pack="bestfit", mix=Mix(weights={"a": 1, "b": 2}, max_epochs=50)),
])  # fmt: skip
def test_the_trace_is_the_batch(small: corpus.Corpus, spec: DataSpec) -> None:
    data = Dataset(small, spec, 40, 300)
    batch, shares = data.batch(16, 8), data.trace(16, 8)
    for i in range(8):
        mine = [share for share in shares if share.sample == 16 + i]
        ids = np.concatenate([small.tokens(share.document)[share.start : share.start + share.tokens] for share in mine])
        row = np.append(batch.inputs[i], batch.targets[i, -1])
        assert np.array_equal(row[: len(ids)], ids) or row[len(ids) - 1] == IGNORED
        assert (row[len(ids) : -1] == EOS).all()
        assert sum(share.share for share in mine) == pytest.approx(len(ids) / 41)


@pytest.mark.parametrize("spec", [
    DataSpec(), DataSpec(pack="bestfit"), DataSpec(mix=Mix(weights={"a": 1, "b": 2, "c": 1}, max_epochs=50)),
])  # fmt: skip
@pytest.mark.parametrize("samples", [1, 100, 1500])
def test_exposure_counts_what_was_input(small: corpus.Corpus, spec: DataSpec, samples: int) -> None:
    data = Dataset(small, spec, 40, 1500)
    counted = np.zeros(130, np.int64)
    for share in data.trace(0, samples):
        counted[share.document] += share.tokens
    for sample in range(samples):
        source, _, window = (int(column[0]) for column in data.order.places(sample, 1))
        filled = sum(length for _, length in data.sources[source].pieces(window))
        if filled == 41:  # its last token is a target only
            counted[[share.document for share in data.trace(sample, 1)][-1]] -= 1
    assert data.exposure(samples).tolist() == counted.tolist()


def test_sources_do_not_mix_inside_a_window(small: corpus.Corpus) -> None:
    data = Dataset(small, DataSpec(mix=Mix(weights={"a": 3, "c": 1}, max_epochs=1000)), 40, 2048)
    assert data.left_out() == ["b"]
    sources = small.docs["source"].to_pylist()
    for share in data.trace(0, 50):
        assert sources[share.document] == share.source
    seen = data.consumed(2048)
    assert seen["a"]["tokens"] == 3 * seen["c"]["tokens"] == 1536 * 40
    assert seen["a"]["epochs"] == pytest.approx(1536 / len(data.sources[0]), abs=1e-4)


def test_buckets_of_a_score(small: corpus.Corpus) -> None:
    mix = Mix(by="quality_score", edges=[0.5], weights={"b0": 1, "b1": 3}, max_epochs=1000)
    data = Dataset(small, DataSpec(mix=mix), 40, 1000)
    assert data.order.quotas.tolist() == [256, 768]
    assert all((share.document >= 65) == (share.source == "b1") for share in data.trace(0, 100))


def test_a_missing_score_is_a_bucket_of_its_own(tmp_path: Path) -> None:
    """And not the best one."""
    score = [None, float("nan"), 0.2, 0.9] * 15
    opened = train_corpus.write(tmp_path / "c", train_corpus.words(60), score=score)
    weights = {"b0": 1, "b1": 1, "null": 2}
    data = Dataset(opened, DataSpec(mix=Mix(by="score", edges=[0.5], weights=weights, max_epochs=1000)), 40, 1000)
    assert data.order.quotas.tolist() == [256, 256, 512]
    expected = {0: "null", 1: "null", 2: "b0", 3: "b1"}
    assert all(share.source == expected[share.document % 4] for share in data.trace(0, 100))
    with pytest.raises(Refused, match="edges cut a column of numbers, and 'url' is string"):
        Dataset(opened, DataSpec(mix=Mix(by="url", edges=[0.5], weights={"b0": 1})), 40, 1000)
    with pytest.raises(ValidationError, match="edges must rise"):
        Mix(by="score", edges=[0.5, 0.2], weights={"b0": 1})


@pytest.mark.parametrize("change", [-2, 2])
def test_a_shard_of_another_length_is_refused(tmp_path: Path, change: int) -> None:
    opened = train_corpus.write(tmp_path / "c", train_corpus.words(5))
    path = tmp_path / "c/part-00000.bin"
    data = path.read_bytes()
    path.write_bytes(data[:change] if change < 0 else data + data[:change])
    with pytest.raises(Refused, match=r"part-00000\.bin: holds [\d,]+ tokens, the manifest says [\d,]+"):
        Dataset(opened, DataSpec(), 8, 1)


@pytest.mark.parametrize(
    ("spec", "context", "said"),
    [
        (DataSpec(mix=Mix(weights={"x": 1})), 32, "no document has source x; there are: a, b, c"),
        (DataSpec(mix=Mix(by="topic", weights={"x": 1})), 32, "no column 'topic'"),
        (DataSpec(), 10**6, "no window of 1000000 tokens"),
    ],
)
def test_what_cannot_be_is_refused(small: corpus.Corpus, spec: DataSpec, context: int, said: str) -> None:
    with pytest.raises(Refused, match=said):
        Dataset(small, spec, context, 10)


def test_an_id_beyond_the_vocabulary_is_refused(small: corpus.Corpus, tmp_path: Path) -> None:
    opened = train_corpus.write(tmp_path / "c", train_corpus.words(5))
    opened.manifest["vocab_size"] = 100
    data = Dataset(opened, DataSpec(), 16, 10)
    with pytest.raises(Refused, match="part-00000: token id 256 in a vocabulary of 100"):
        data.tokens.check_vocabulary()
    with pytest.raises(Refused, match="in a vocabulary of 100"):
        data.batch(0, 8)


@given(st.lists(st.integers(1, 200), min_size=1, max_size=60), st.integers(4, 64))
def test_packing_loses_nothing_and_cuts_nothing_that_fits(lengths: list[int], context: int) -> None:
    sizes = np.array(lengths)
    starts = np.cumsum(sizes) - sizes
    packed = Packed(starts, sizes, context)
    shown, learned = np.zeros(sizes.sum(), int), np.zeros(sizes.sum(), int)
    for window in range(len(packed)):
        pieces = packed.pieces(window)
        assert 0 < sum(length for _, length in pieces) <= context + 1
        places = np.concatenate([np.arange(place, place + length) for place, length in pieces])
        for place, length in pieces:
            document = int(np.searchsorted(starts, place, "right")) - 1
            assert place + length <= starts[document] + sizes[document]
            if sizes[document] <= context + 1:
                assert (place, length) == (starts[document], sizes[document])
        np.add.at(shown, places, 1)
        np.add.at(learned, places[1:][packed.learned(window)[: len(places) - 1]], 1)
        first = packed.ends[window] - len(pieces)
        learned[places[0]] += packed.skips[first] == 0  # it has nothing before it, so it is nobody's target
    assert (learned == 1).all()
    again = shown.sum() - len(shown) - (packed.skips > 0).sum()
    assert again == round(packed.repeated() * len(packed) * (context + 1))
    assert again < len(packed) * (context + 1)


def test_packing_pads_next_to_nothing() -> None:
    random = np.random.default_rng(1)
    sizes = np.minimum(random.lognormal(6, 1.2, 20_000).astype(int) + 1, 50_000)
    began = time.process_time()
    for count, context in ((20_000, 1024), (60, 128)):
        part = sizes[:count]
        assert Packed(np.cumsum(part) - part, part, context).padding() <= 0.0005
    few = np.array([1500] * 7 + [3000] * 12 + [300] * 30)  # hardly any of them long enough to be cut
    assert Packed(np.cumsum(few) - few, few, 1024).padding() <= 0.0005
    assert time.process_time() - began < 10


def test_what_is_not_learned_from(small: corpus.Corpus) -> None:
    """Padding, and the first token of a piece that goes on from another window."""
    data = Dataset(small, DataSpec(pack="bestfit", mask="document"), 40, 100)
    count = len(data.sources[0])
    batch = data.batch(0, count)
    assert batch.learned == (batch.targets != IGNORED).sum()
    first_of_a_row = count  # never a target
    starts = np.cumsum(data.lengths) - data.lengths
    packed = data.sources[0]
    cut = sum(place not in starts for place in packed.places)
    firsts = sum(packed.pieces(w)[0][0] not in starts for w in range(count))
    context = np.maximum(packed.skips - 1, 0).sum()
    assert batch.learned == packed.lengths.sum() - first_of_a_row - (cut - firsts) - context


def test_documents_are_numbered_inside_a_row(small: corpus.Corpus) -> None:
    for spec in (
        DataSpec(mask="document"),
        DataSpec(mask="document", mix=Mix(weights={"a": 1, "b": 1}, max_epochs=99)),
    ):
        batch = Dataset(small, spec, 64, 64).batch(0, 64)
        after_eos = np.pad(batch.inputs[:, :-1] == EOS, ((0, 0), (1, 0))).cumsum(1)
        assert np.array_equal(batch.documents, after_eos)


def test_shards_read_as_one_array(small: corpus.Corpus) -> None:
    tokens, flat = Tokens(small, "train"), whole(small)
    edge = tokens.starts[1]
    for place, length in ((0, 10), (edge - 3, 9), (edge, 5), (0, len(flat))):
        out = np.empty(length, np.int64)
        tokens.read(place, out)
        assert np.array_equal(out, flat[place : place + length])


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 30)), min_size=1, max_size=20), st.integers(1, 25))
def test_a_stream_of_runs_is_their_concatenation(runs: list[tuple[int, int]], context: int) -> None:
    places, at = [], 0
    for skip, length in runs:
        places.append(at + skip)
        at += skip + length
    lengths = [length for _, length in runs]
    flat = np.concatenate([np.arange(place, place + length) for place, length in zip(places, lengths)])
    stream = Stream(np.array(places), np.array(lengths), context)
    assert len(stream) == (len(flat) - 1) // context if len(flat) else 0
    for window in range(len(stream)):
        got = np.concatenate([np.arange(place, place + length) for place, length in stream.pieces(window)])
        assert np.array_equal(got, flat[window * context : window * context + context + 1])


@pytest.mark.slow
def test_the_loader_is_far_faster_than_any_model(tmp_path: Path) -> None:
    """>= 100 Mtokens a CPU-second at 12 windows of 1,024 (uint16, in the page cache)."""
    opened = train_corpus.write(tmp_path / "c", ["x" * 999] * 2000, shard_documents=2000)
    path = opened.folder / "part-00000.bin"
    np.random.default_rng(1).integers(0, 256, 50_000_000).astype("<u2").tofile(path)
    opened.manifest["shards"][0]["tokens"] = 50_000_000
    data = Dataset(corpus.Corpus(opened.folder, opened.manifest), DataSpec(), 1024, 1)
    best = 0.0
    for _ in range(5):
        began = time.process_time()
        for step in range(1000):
            data.batch(step * 12, 12)
        best = max(best, 1000 * 12 * 1024 / (time.process_time() - began) / 1e6)
    assert best >= 100, f"{best:.0f} Mtokens a CPU-second"
