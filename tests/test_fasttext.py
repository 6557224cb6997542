"""The fastText kernel against the library itself: every loss, every format, real texts and hostile ones."""

import gzip
import json
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
