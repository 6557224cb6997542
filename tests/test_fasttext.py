"""The fastText kernel against the library itself: every loss, every format, real texts and hostile ones."""

import gzip
import json
import re
import struct
from collections import Counter
from pathlib import Path

import fasttext as library
import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.kernels import fasttext
from stages.models import fasttext as reader

UDHR = json.loads((ROOT / "tests/data/udhr.json").read_text(encoding="utf-8"))["texts"]
LID = ROOT / "stages/data/lid.176.ftz"

TRAINED = {
    "softmax": {"loss": "softmax"},
    "tree": {"loss": "hs", "dim": 16, "minn": 2, "maxn": 4},
    "one-vs-all": {"loss": "ova", "minn": 1, "maxn": 3},
    "negative-sampling": {"loss": "ns", "neg": 3, "wordNgrams": 3, "lr": 2.0, "epoch": 30},
    "pairs": {"loss": "softmax", "wordNgrams": 2, "minn": 3, "maxn": 3, "dim": 7},
    "tree-of-pairs": {"loss": "hs", "wordNgrams": 2, "bucket": 50},
}
QUANTISED = {
    "plain": ("tree", {}),
    "norms": ("softmax", {"qnorm": True}),
    "pruned": ("tree", {"cutoff": 900, "dsub": 3}),
    "pruned-norms": ("pairs", {"cutoff": 700, "qnorm": True, "dsub": 4}),
    "pruned-to-words": ("one-vs-all", {"cutoff": 300}),
    "output": ("many", {"qout": True, "cutoff": 2000}),
    "output-norms": ("many-tree", {"qout": True, "qnorm": True}),
}
MANY = {"many": {"loss": "softmax", "minn": 2, "maxn": 3}, "many-tree": {"loss": "hs", "wordNgrams": 2}}
"""Models of more than 256 labels: fewer cannot be quantised."""

HOSTILE = [
    "", " ", "\n", "a", "<", ">", "\0", "</s>", "all human beings </s> todos os seres", "</s>x", "__label__en",
    "__label__en all __label__nosuch __label__ human", "__label_", "all\0human\fbeings\vare\tborn\r\nfree",
    "\x85 \u2003 \xa0", "汉" * 3000, "a" * 5000, "é" * 400, "word " * 4000, " ".join(f"w{i}" for i in range(6000)),
    "\u0301\u0301", "😀" * 40, "\ufeffall", "x" * 32, "x" * 33, "x" * 254, "x" * 255, "x" * 256,
]  # fmt: skip


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fasttext")


def trained(folder: Path, name: str) -> Path:
    path = folder / f"{name}.bin"
    if not path.exists():
        lines = [f"__label__{row['lang']} {row[part]}" for row in UDHR for part in ("page", "preamble")]
        if name in MANY:
            words = " ".join(row["preamble"] for row in UDHR).split()
            lines = [f"__label__{i % 300} " + " ".join(words[3 * i : 3 * i + 8]) for i in range(len(words) // 3)]
        (folder / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
        defaults = {"dim": 10, "bucket": 3000, "epoch": 5, "lr": 0.5, "thread": 1, "verbose": 0, "minCount": 1}
        arguments = defaults | (TRAINED | MANY)[name]
        library.train_supervised(str(folder / f"{name}.txt"), **arguments).save_model(str(path))
    return path


def quantised(folder: Path, name: str) -> Path:
    path = folder / f"{name}.ftz"
    if not path.exists():
        base, arguments = QUANTISED[name]
        model = opened(trained(folder, base))
        model.quantize(verbose=0, **arguments)
        model.save_model(str(path))
    return path


def opened(path: Path) -> library.FastText._FastText:
    return library.FastText._FastText(model_path=str(path))


def buffers(texts: list[str | bytes]) -> tuple[np.ndarray, np.ndarray]:
    raw = [text.encode() if isinstance(text, str) else text for text in texts]
    return np.frombuffer(b"".join(raw), np.uint8), np.cumsum([0, *map(len, raw)]).astype(np.int64)


def ours(classifier: reader.Classifier, texts: list[str | bytes], k: int) -> list[list[tuple[float, str]]]:
    labels, chances = fasttext.predict(*buffers(texts), classifier.model, k)
    return [
        [(chance, classifier.labels[label]) for label, chance in zip(*row, strict=True) if label >= 0]
        for row in zip(labels.tolist(), chances.tolist(), strict=True)
    ]


def theirs(model: library.FastText._FastText, text: str | bytes, k: int) -> list[tuple[float, str]]:
    """What the library says; `model.predict` itself repeats the first label's probability for the others."""
    line = text.encode() if isinstance(text, str) else text
    return model.f.predict(line.replace(b"\n", b" ") + b"\n", k, 0.0, "strict")


def assert_equal(path: Path, texts: list[str | bytes], k: int = 3) -> None:
    model = opened(path)
    for text, found in zip(texts, ours(reader.read(path), texts, k), strict=True):
        wanted = theirs(model, text, k)
        assert [label for _, label in found] == [label for _, label in wanted], text[:80]
        assert np.allclose([p for p, _ in found], [p for p, _ in wanted], rtol=0, atol=1e-6), text[:80]


def real_texts() -> list[str]:
    with gzip.open(ROOT / "data_samples/sample_text.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines] + [row["page"] for row in UDHR]


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("k", [1, 5])
def test_every_loss_and_kind_of_ngram(folder: Path, name: str, k: int) -> None:
    assert_equal(trained(folder, name), [*real_texts(), *HOSTILE], k)


@pytest.mark.parametrize("name", QUANTISED)
def test_every_way_to_quantise(folder: Path, name: str) -> None:
    path = quantised(folder, name)
    assert opened(path).is_quantized()
    assert_equal(path, [*real_texts(), *HOSTILE])


def test_language_identification_of_real_and_hostile_texts() -> None:
    assert_equal(LID, [*real_texts(), *[row["preamble"] for row in UDHR], *HOSTILE], 5)


WORDS = st.sampled_from(
    ["all", "human", "beings", "</s>", "__label__en", "__label__", "人人", "生而自由", "människor", "Ω", "<all", "xyz"]
)
BLANKS = st.sampled_from([" ", "  ", "\n", "\t", "\v", "\f", "\r", "\0"])
LINES = st.lists(st.one_of(WORDS, BLANKS, st.text(st.characters(codec="utf-8"), max_size=9)), max_size=30).map("".join)


@settings(deadline=None, max_examples=60)
@given(st.lists(LINES, max_size=6))
def test_any_text(texts: list[str]) -> None:
    assert_equal(LID, texts)


@pytest.mark.parametrize("name", ["pairs", "one-vs-all"])
@settings(deadline=None, max_examples=30)
@given(texts=st.lists(st.binary(max_size=60), max_size=6))
def test_any_bytes(folder: Path, name: str, texts: list[bytes]) -> None:
    assert_equal(trained(folder, name), texts)


def test_more_labels_asked_for_than_there_are(folder: Path) -> None:
    path = folder / "two.bin"
    (folder / "two.txt").write_text("__label__a good fine\n__label__b bad poor\n" * 5, encoding="utf-8")
    library.train_supervised(str(folder / "two.txt"), dim=4, verbose=0, thread=1, minCount=1).save_model(str(path))
    assert_equal(path, ["good", "bad", "neither nor", ""], k=5)
    labels, chances = fasttext.predict(*buffers(["good"]), reader.read(path).model, 4)
    assert labels[0, 2:].tolist() == [-1, -1]
    assert chances[0, 2:].tolist() == [0, 0]


def test_a_text_of_no_known_words_has_no_label(folder: Path) -> None:
    path = folder / "line.bin"
    (folder / "line.txt").write_text("__label__a good fine\x00__label__b bad poor " * 5, encoding="utf-8")
    library.train_supervised(str(folder / "line.txt"), dim=4, verbose=0, thread=1, minCount=1).save_model(str(path))
    assert theirs(opened(path), "unknown", 1) == []
    assert ours(reader.read(path), ["unknown", "", "bad"], 1)[:2] == [[], []]


@pytest.mark.parametrize("name", ["softmax.bin", "tree.bin", "one-vs-all.bin", "pruned.ftz", "pruned-to-words.ftz"])
def test_rows_that_are_looked_up_are_counted_without_the_end_of_the_line(folder: Path, name: str) -> None:
    stem, _, kind = name.partition(".")
    path = trained(folder, stem) if kind == "bin" else quantised(folder, stem)
    library_model, texts = opened(path), [*real_texts()[:30], "", " ", "qqq", "all qqq", "</s> all", "all </s> human"]
    *answer, counts = fasttext.predict_and_count(*buffers(texts), reader.read(path).model, 2)
    assert all(
        np.array_equal(a, b) for a, b in zip(answer, fasttext.predict(*buffers(texts), reader.read(path).model, 2))
    )
    for text, count in zip(texts, counts.tolist(), strict=True):
        words = re.split("[ \n\t\v\f\r\0]+", text.partition("</s>")[0])
        assert count == sum(len(library_model.get_subwords(word)[1]) for word in words if word), text[:80]


def test_of_pairs_of_unknown_words_a_pruned_model_may_know_none(folder: Path) -> None:
    model = reader.read(trained(folder, "pairs")).model._replace(maxn=0)
    texts = ["", "qqq", "qqq rrr", "qqq rrr sss", "all qqq"]
    assert fasttext.predict_and_count(*buffers(texts), model, 1)[2].tolist() == [0, 1, 2, 3, 3]
    model = model._replace(kept=np.zeros(-(-model.bucket // 64), np.uint64), before=np.zeros(47, np.int32))
    model.kept.setflags(write=False)
    model.before.setflags(write=False)
    assert fasttext.predict_and_count(*buffers(texts), model, 1)[2].tolist() == [0, 0, 0, 0, 1]


def test_an_answer_does_not_depend_on_the_other_rows() -> None:
    texts = real_texts()
    classifier = reader.read(LID)
    whole = ours(classifier, texts, 3)
    assert ours(classifier, texts[::-1], 3) == whole[::-1]
    assert [ours(classifier, [text], 3)[0] for text in texts[:20]] == whole[:20]
    data, offsets = buffers(["before", *texts, "after"])
    labels, chances = fasttext.predict(data, offsets[1:-1], classifier.model, 3)
    assert [
        [(p, classifier.labels[i]) for i, p in zip(*row)] for row in zip(labels.tolist(), chances.tolist())
    ] == whole


def test_no_rows() -> None:
    labels, chances = fasttext.predict(*buffers([]), reader.read(LID).model, 2)
    assert labels.shape == chances.shape == (0, 2)


def test_a_model_of_the_time_before_character_ngrams(folder: Path) -> None:
    raw = bytearray(trained(folder, "tree").read_bytes())
    raw[4:8] = (11).to_bytes(4, "little")
    path = folder / "version11.bin"
    path.write_bytes(raw)
    assert reader.read(path).model.maxn == 0
    assert_equal(path, [row["page"] for row in UDHR])


@pytest.mark.parametrize("name", ["softmax.bin", "pruned-norms.ftz"])
def test_a_file_cut_short_anywhere_is_refused(folder: Path, name: str) -> None:
    stem, _, kind = name.partition(".")
    raw = (trained(folder, stem) if kind == "bin" else quantised(folder, stem)).read_bytes()
    path = folder / f"cut.{kind}"
    for size in [0, 3, 7, 20, 70, 90, 200, *range(1000, len(raw), len(raw) // 40), len(raw) - 1]:
        path.write_bytes(raw[:size])
        with pytest.raises(ValueError, match=r"cut\.(bin|ftz) is "):
            reader.read(path)


HEADER = {"dim": 8, "word_ngrams": 28, "bucket": 40, "minn": 44, "maxn": 48, "size": 64, "words": 68, "labels": 72}
"""Where these are in the file, of 4 bytes each."""


def figures(raw: bytes) -> dict[str, tuple[int, str]]:
    """Where every figure of the file is that says how large something is, and its `struct` format."""
    found = {name: (place, "<i") for name, place in HEADER.items()} | {"pruned": (84, "<q")}
    dim, labels, pruned = (struct.unpack_from(form, raw, at)[0] for form, at in (("<i", 8), ("<i", 72), ("<q", 84)))
    place = raw.index(b"\0", raw.rfind(b"__label__")) + 10 + 8 * max(pruned, 0)
    is_quantised = raw[place]
    place += 1 + is_quantised
    found |= {"table rows": (place, "<q"), "table columns": (place + 8, "<q")}
    if is_quantised:
        (size,) = struct.unpack_from("<i", raw, place + 16)
        at, after = place + 20 + size, struct.unpack_from("<q", raw, place)[0] + 4 * 256 * dim + 16
        found["codes"] = place + 16, "<i"
        found |= {f"centroids {number}": (at + 4 * number, "<i") for number in range(4)}
        found |= {f"centroids of norms {number}": (at + after + 4 * number, "<i") for number in range(4)}
    place = len(raw) - 4 * labels * dim - 16
    return found | {"output rows": (place, "<q"), "output columns": (place + 8, "<q")}


POSSIBLE = {
    ("bucket", "ftz"): {2_000_000_000},  # of which the same are kept
    ("pruned", "bin"): {0},  # none is kept
    ("centroids of norms 2", "ftz"): {2, 2_000_000_000},  # no part is so wide, the last may be narrower
}


@pytest.mark.parametrize("name", ["pairs.bin", "pruned-norms.ftz"])
def test_an_impossible_figure_is_refused(folder: Path, name: str) -> None:
    stem, _, kind = name.partition(".")
    raw = (trained(folder, stem) if kind == "bin" else quantised(folder, stem)).read_bytes()
    path = folder / f"figure.{kind}"
    for figure, (place, form) in figures(raw).items():
        (was,) = struct.unpack_from(form, raw, place)
        may_be = {0, was + 1} if figure in ("bucket", "word_ngrams", "minn", "maxn") else set()
        for value in (
            {-2_000_000_000, -2, 0, was + 1, 2_000_000_000} - {was} - may_be - POSSIBLE.get((figure, kind), set())
        ):
            path.write_bytes(raw[:place] + struct.pack(form, value) + raw[place + struct.calcsize(form) :])
            assert read_unless_refused(path) is None, (figure, was, value)


def test_figures_that_fit_each_other_but_no_model_are_refused(folder: Path) -> None:
    raw = quantised(folder, "pruned-norms").read_bytes()
    path, place = folder / "fits.ftz", figures(raw)["table rows"][0] - 2
    (pruned,) = struct.unpack_from("<q", raw, 84)
    path.write_bytes(raw[: place - 8] + raw[place - 16 : place - 12] + raw[place - 4 :])
    with pytest.raises(ValueError, match="a bucket is kept twice"):
        reader.read(path)
    kind = place - 8 * pruned - 1
    path.write_bytes(raw[:kind] + b"\0" + raw[kind + 1 :])
    with pytest.raises(ValueError, match="words and labels are mixed"):
        reader.read(path)
    raw = trained(folder, "pairs").read_bytes()
    (rows,), place = struct.unpack_from("<q", raw, figures(raw)["table rows"][0]), figures(raw)["table rows"][0]
    flat = struct.pack("<qq?qq", rows, 0, False, struct.unpack_from("<i", raw, 72)[0], 0)
    path.write_bytes(raw[:8] + struct.pack("<i", 0) + raw[12:place] + flat)
    with pytest.raises(ValueError, match="vectors of 0 dimensions"):
        reader.read(path)


@pytest.mark.parametrize("name", ["tree.bin", "pairs.bin", "pruned-norms.ftz", "output-norms.ftz"])
@pytest.mark.filterwarnings("ignore:invalid value", "ignore:overflow")  # norms that are no longer numbers
def test_a_damaged_byte_makes_another_model_or_is_refused(folder: Path, name: str) -> None:
    """Whatever is read leads no kernel beyond its arrays."""
    stem, _, kind = name.partition(".")
    raw = (trained(folder, stem) if kind == "bin" else quantised(folder, stem)).read_bytes()
    path, random, counts = folder / f"byte.{kind}", np.random.default_rng(8), Counter()
    texts = buffers(["all human beings are born free qqq", "", "汉" * 300])
    places = [*range(8, 92), *random.integers(92, len(raw), 60), *random.integers(len(raw) - 3000, len(raw), 30)]
    for place in places:
        for value in {0, 127, 255, raw[place] ^ 1 << int(random.integers(8))} - {raw[place]}:
            path.write_bytes(raw[:place] + bytes([value]) + raw[place + 1 :])
            counts["tried"] += 1
            if classifier := read_unless_refused(path):
                counts["read"] += 1
                assert_within(classifier)
                fasttext.predict(*texts, classifier.model, 3)
    assert 80 < counts["read"] < counts["tried"] - 80


def read_unless_refused(path: Path) -> reader.Classifier | None:
    try:
        return reader.read(path)
    except ValueError as error:
        said = str(error)
    assert said.startswith(f"{path} is a "), "not what some array happened to say"
    return None


def assert_within(classifier: reader.Classifier) -> None:
    model, labels = classifier.model, len(classifier.labels)
    assert min(model.word_ngrams, model.maxn, model.bucket) >= 0 < model.minn
    kept = int(np.unpackbits(model.kept[model.kept > 0].view(np.uint8)).sum()) if len(model.kept) else model.bucket
    assert len(model.before) == len(model.kept) in (0, -(-model.bucket // 64))
    assert model.before.max(initial=0) <= kept
    assert len(model.table) >= model.words + kept * bool(model.maxn or model.word_ngrams > 1)
    assert len(model.output) >= labels == len(model.tree) + 1 == len(model.places) - 1 - model.words
    assert sorted(model.tree.ravel().tolist()) == [*range(2 * labels - 2)], "each node but the root is a child once"
    assert (model.tree.max(axis=1) < labels + np.arange(labels - 1)).all(), "of one that comes later"


def test_what_is_no_classifier_is_refused(folder: Path) -> None:
    (folder / "words.txt").write_text("some words to learn vectors of\n" * 20, encoding="utf-8")
    vectors = library.train_unsupervised(str(folder / "words.txt"), dim=4, verbose=0, thread=1, minCount=1, bucket=10)
    vectors.save_model(str(folder / "words.bin"))
    with pytest.raises(ValueError, match="not a classifier"):
        reader.read(folder / "words.bin")
    with pytest.raises(ValueError, match=r"is not a fastText model"):
        reader.read(folder / "words.txt")
    with pytest.raises(FileNotFoundError):
        reader.read(folder / "nowhere.bin")


def test_a_dense_table_stays_in_the_file(folder: Path) -> None:
    model = reader.read(trained(folder, "softmax")).model
    assert not model.table.flags.owndata
    assert not model.table.flags.writeable
