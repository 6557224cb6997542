"""Importance weights: features as plain Python finds them, weights as worked out by hand, a corpus drawn by them."""

import gzip
import json
import math
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import typer
from conftest import ROOT
from deduped import names
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.testing import CliRunner

from pipeline.schema import text_buffers
from stages.importance import Importance
from stages.keep import Keep
from stages.kernels import hashed
from stages.learning import importance
from stages.models.importance import load

HOSTILE = [
    "",
    " ",
    "\n",
    "\0",
    "a",
    "汉" * 3000,
    "a" * 5000,
    "a\u0301 é",
    "😀x",
    "1 2,3",
    "\ufeff",
    "ทดสอบภาษาไทย",
    "The THE",
]


def samples(lang: str) -> list[str]:
    with gzip.open(ROOT / "data_samples/sample_text.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [row["text"] for row in map(json.loads, lines) if row["lang"] == lang]


def universal() -> list[str]:
    """The beginning of the Universal Declaration of Human Rights in some hundred languages."""
    rows = json.loads((ROOT / "tests/data/udhr.json").read_text(encoding="utf-8"))["texts"]
    return [row[part] for row in rows for part in ("page", "preamble") if row[part]]


# Features


def bucket(name: bytes, buckets: int) -> int:
    """FNV-1a of 64 bits, the finaliser of MurmurHash3, the upper half scaled."""
    value = 0xCBF29CE484222325
    for byte in name:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        value = (value ^ value >> 33) * factor % 2**64
    return ((value ^ value >> 33) >> 32) * buckets >> 32


def twin(tokens: list[bytes], buckets: int) -> list[int]:
    found = [bucket(token, buckets) for token in tokens[:1]]
    for pair in pairwise(tokens):
        found += [bucket(pair[1], buckets), bucket(b" ".join(pair), buckets)]
    return found


def assert_features(texts: list[str], buckets: int) -> None:
    data, offsets = hashed.tokens(*text_buffers(pa.array(texts, pa.string())))
    found, starts = hashed.features(data, offsets, buckets)
    wanted = [twin(data[a:b].tobytes().split(b" ")[:-1], buckets) for a, b in pairwise(offsets)]
    assert [found[a:b].tolist() for a, b in pairwise(starts)] == wanted
    assert hashed.counts(found, buckets).tolist() == np.bincount(found, minlength=buckets).tolist()
    ratios = np.cos(np.arange(buckets)).astype(np.float32)
    for row, total in zip(wanted, hashed.sums(found, starts, ratios)):
        assert total == sum(float(ratios[one]) for one in row)


def test_features_of_real_texts_are_those_of_the_plain_twin() -> None:
    assert_features([*samples("zh-Hant")[:20], *samples("en")[:3], *universal()[:60], *HOSTILE], 10_000)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), max_size=4), st.integers(1, 1 << 20))
def test_features_of_any_text_are_those_of_the_plain_twin(texts: list[str], buckets: int) -> None:
    assert_features([*texts, "a b"], buckets)


def test_a_feature_has_the_bucket_it_always_had() -> None:
    """Models are files: these numbers may change with `hashed.VERSION` only."""
    data, offsets = hashed.tokens(*text_buffers(pa.array(["The  CAT", "中文", ""])))
    found, starts = hashed.features(data, offsets, 10_000)
    assert found.tolist() == [7939, 5972, 2510, 9571, found[4], 8481]
    assert starts.tolist() == [0, 3, 6, 6]
    assert hashed.VERSION == 1


def test_buckets_are_filled_evenly() -> None:
    data, offsets = hashed.tokens(*text_buffers(pa.array(samples("en"))))
    words = sorted(set(data[: offsets[-1]].tobytes().split()))
    ends = np.cumsum([0, *(len(word) + 1 for word in words)])
    found, _ = hashed.features(np.frombuffer(b"".join(word + b" " for word in words), np.uint8), ends, 50)
    expected = len(words) / 50
    chi_square = ((hashed.counts(found, 50) - expected) ** 2 / expected).sum()
    assert len(words) > 2000
    assert chi_square < 49 + 4 * (2 * 49) ** 0.5


# Weights


def made(folder: Path, ratios: np.ndarray, language: tuple[str, ...] = (), **card: object) -> Path:
    """A model file with these log ratios."""
    path = folder / f"m{len(list(folder.iterdir()))}.npy"
    np.save(path, ratios.astype(np.float32))
    told = {"language": language, "buckets": len(ratios), "features": hashed.VERSION, **card}
    path.with_suffix(".json").write_text(json.dumps(told))
    return path


def documents(texts: list[str | None], langs: list[str | None] | None = None) -> pa.Table:
    columns = {"id": pa.array(names(len(texts))), "text": pa.array(texts, pa.string())}
    return pa.table(columns | ({"lang": pa.array(langs, pa.string())} if langs else {}))


def weights(docs: pa.Table, path: Path, **config: object) -> list[float | None]:
    return Importance(models={"it": {"path": path}}, **config).apply(docs)["importance"].to_pylist()


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """log 2 for "a", -log 3 for "b", log 5 for "a b"; 0 for all else."""
    ratios = np.zeros(1 << 20)
    for name, ratio in ((b"a", math.log(2)), (b"b", -math.log(3)), (b"a b", math.log(5))):
        ratios[bucket(name, 1 << 20)] = ratio
    return made(tmp_path, ratios)


def test_a_weight_is_the_sum_or_the_mean_of_log_ratios(toy: Path) -> None:
    docs = documents(["a", "A  b", "b a", "A b a b", "c", "", None, "\n"])
    wanted = [math.log(2), math.log(2 / 3 * 5), math.log(2 / 3), math.log((2 / 3) ** 2 * 25), 0.0]
    found = weights(docs, toy)
    assert found[:5] == pytest.approx(wanted, rel=1e-6)
    assert found[5:] == [None] * 3
    found = weights(docs, toy, per="feature")
    assert found[:5] == pytest.approx([total / size for total, size in zip(wanted, [1, 3, 3, 7, 1])], rel=1e-6)
    assert found[5:] == [None] * 3
    stage = Importance(models={"it": {"path": toy}})
    assert stage.columns() == {"importance": pa.float32()}
    assert stage.apply(docs)["importance"].type == pa.float32()
    assert stage.needs == ("text",)
    assert stage.files() == [toy, toy.with_suffix(".json")]


def test_models_share_a_column_by_language(tmp_path: Path) -> None:
    one, two = made(tmp_path, np.full(9, 1.0), ("en",)), made(tmp_path, np.full(9, -1.0), ("zh",))
    stage = Importance(models={"english": {"path": one}, "chinese": {"path": two},
                               "all": {"path": one, "language": [], "column": "other"}})  # fmt: skip
    assert stage.needs == ("text", "lang")
    after = stage.apply(documents(["a b", "中文字", "x", None], ["en", "zh", None, "en"]))
    assert after["importance"].to_pylist() == [3, -5, None, None]
    assert after["other"].to_pylist() == [3, 5, 1, None]


def test_the_answer_does_not_depend_on_the_batches(toy: Path) -> None:
    docs = documents([*samples("zh-Hant"), *HOSTILE, None, "a b a"])
    ratios = np.random.default_rng(1).normal(size=1000)
    path = made(toy.parent, ratios)
    whole = weights(docs, path)
    assert whole == [one for at in range(0, len(docs), 7) for one in weights(docs.slice(at, 7), path)]
    assert weights(docs.slice(0, 0), path) == []


def test_a_mistake_is_said_in_a_sentence(tmp_path: Path) -> None:
    path = made(tmp_path, np.zeros(9), ("en",))
    for models, said in (
        ({}, "at least 1"),
        ({"a": {}}, "path"),
        ({"a": {"path": path, "column": "text"}}, "column of every document"),
        ({"a": {"path": path}, "b": {"path": path}}, "share the column"),
        ({"a": {"path": made(tmp_path, np.zeros(9), features=99)}}, "train anew"),
        ({"a": {"path": made(tmp_path, np.zeros(9), language=None)}}, "not the card"),
    ):
        with pytest.raises(ValidationError, match=said):
            Importance(models=models)
    for wrong in (made(tmp_path, np.zeros(9), buckets=8), made(tmp_path, np.full(9, np.nan))):
        with pytest.raises(ValueError, match="not the model its card tells of"):
            load(wrong)
    path.write_bytes(b"what")
    with pytest.raises(ValueError, match="not an importance model"):
        load(path)


# Training


def command(*arguments: str | Path) -> tuple[int, str]:
    app = typer.Typer()
    app.callback()(lambda: None)
    importance.commands(app)
    done = CliRunner().invoke(app, ["train-importance", *map(str, arguments)])
    return done.exit_code, " ".join(done.output.replace("│", " ").split())


def write(path: Path, texts: list[str]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def trained(target: Path, corpus: Path, out: Path, *more: str) -> dict:
    code, said = command("--target", target, "--corpus", corpus, "--out", out, *more)
    assert code == 0, said
    return json.loads((out / "importance.json").read_text(encoding="utf-8"))


def test_a_model_worked_out_by_hand(tmp_path: Path) -> None:
    """25 texts "a b 0", of which 20 are learned from, and 30 texts "a c 0"; 2^16 buckets, one added to each."""
    target = write(tmp_path / "t.jsonl", [f"a b {i:02}" for i in range(25)])
    corpus = write(tmp_path / "c.jsonl", [f"a c {i}" for i in range(30)])
    card = trained(target, corpus, tmp_path / "out", "--buckets", "65536")
    ratios = load(tmp_path / "out/importance.npy")
    ours, theirs = 100 + 65536, 150 + 65536
    for name, count, other in (("a", 20, 30), ("b", 20, 0), ("a b", 20, 0), ("c", 0, 30), ("0", 20, 30), ("x", 0, 0)):
        wanted = math.log((count + 1) / ours) - math.log((other + 1) / theirs)
        assert ratios[bucket(name.encode(), 65536)] == pytest.approx(wanted, rel=1e-5), name
    assert (card["target"]["texts"], card["target"]["held_out"], card["target"]["features"]) == (20, 5, 100)
    assert (card["corpus"]["texts"], card["corpus"]["features"], card["corpus"]["in_target"]) == (30, 150, 0)
    # "a" and "0": 20 and 30 times; "b", "a b", "b 0": 20 and 0; "c", "a c", "c 0": 0 and 30; the others: never
    pairs = [(21, 31)] * 2 + [(21, 1)] * 3 + [(1, 31)] * 3 + [(1, 1)] * (65536 - 8)
    wanted = sum(t / ours * math.log(t / ours / (c / theirs)) for t, c in pairs)
    assert card["facts"]["divergence"] == pytest.approx(wanted)
    for sizes in card["facts"]["effective_sample"].values():
        assert list(sizes.values()) == pytest.approx([30] * 3), "all texts of the corpus weigh the same"
    assert card["ngrams"]["for"][0][0] in ("b", "a b", "b 0")
    assert card["ngrams"]["against"][0][0] in ("c", "a c", "c 0")


def with_domains(path: Path, rows: list[tuple[str, str]]) -> Path:
    path.write_text("".join(json.dumps({"text": text, "domain": domain}) + "\n" for text, domain in rows))
    return path


def test_whole_domains_are_held_out_and_no_copies_of_what_was_learned(tmp_path: Path) -> None:
    """Ten domains of eight texts, each with a word of its own, and a licence that all of them have."""
    words = [word for text in samples("en") for word in text.split() if word.isascii()]
    licence = " ".join(words[:120])
    rows = [(" ".join([f"own{'abcdefghij'[site]}", *words[at : at + 60]]), f"s{site}")
            for site in range(10) for at in range(200 + 800 * site, 200 + 800 * site + 800, 100)]  # fmt: skip
    rows += [(f"{licence} {domain}", domain) for domain in dict.fromkeys(domain for _, domain in rows)]
    corpus = write(tmp_path / "c.jsonl", [" ".join(words[at : at + 50]) for at in range(10_000, 14_000, 50)])
    card = trained(with_domains(tmp_path / "t.jsonl", rows), corpus, tmp_path / "out", "--buckets", "1000000")
    told, ratios = card["target"], load(tmp_path / "out/importance.npy")
    learned = [name for name in "abcdefghij" if ratios[bucket(f"own{name}".encode(), 1_000_000)] > 1]
    assert told["whole"] == "domains"
    assert len(learned) == told["domains"] == 10 - told["domains_held_out"]
    assert 1 <= told["domains_held_out"] <= 3
    assert told["texts"] == 9 * len(learned)
    assert told["held_out"] == 8 * told["domains_held_out"]
    assert told["held_out_near_learned"] == told["domains_held_out"], "its copy of the licence"
    page = (tmp_path / "out/importance.md").read_text(encoding="utf-8")
    assert f"of {told['domains_held_out']} domains besides the {told['domains']} learned from" in page
    assert "flatter" not in page


def test_of_one_domain_texts_are_held_out_and_the_card_says_so(tmp_path: Path) -> None:
    corpus = write(tmp_path / "c.jsonl", [f"a c {i}" for i in range(30)])
    card = trained(write(tmp_path / "t.jsonl", [f"a b {i:02}" for i in range(25)]), corpus, tmp_path / "out")
    assert (card["target"]["whole"], card["target"]["domains"]) == ("texts", 1)
    assert "of one domain: texts are held out" in (tmp_path / "out/importance.md").read_text(encoding="utf-8")


def test_a_target_of_copies_cannot_be_judged(tmp_path: Path) -> None:
    text = samples("en")[0][:1500]
    target = write(tmp_path / "t.jsonl", [f"{text} copy {i}" for i in range(40)])
    corpus = write(tmp_path / "c.jsonl", [f"a c {i}" for i in range(30)])
    code, output = command("--target", target, "--corpus", corpus, "--out", tmp_path / "out")
    assert code == 2
    assert "and 0 that do not repeat them to judge by" in output


def test_divergence_and_effective_size() -> None:
    assert importance.divergence(np.array([0.5, 0.5, 0]), np.array([0.25, 0.5, 0.25])) == pytest.approx(
        0.5 * math.log(2)
    )
    assert importance.effective_size(np.log([1.0, 1, 1, 3]) + 5000) == pytest.approx(36 / 12)
    assert importance.smoothed(np.array([3, 0])).tolist() == [0.8, 0.2]


@pytest.fixture(scope="module")
def chinese(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], dict]:
    """The target: forty poems. The corpus: the other twenty among texts of many languages. The model, the corpus, the
    card."""
    folder = tmp_path_factory.mktemp("chinese")
    poems = samples("zh-Hant")
    english = [text[at : at + 300] for text in samples("en")[:10] for at in range(0, 3000, 300)]
    others = [text for text in [*universal(), *english] if text.strip()]
    corpus = [*poems[40:], *dict.fromkeys(others)]
    card = trained(write(folder / "t.jsonl", poems[:40]), write(folder / "c.jsonl", corpus), folder)
    return folder / "importance.npy", corpus, card


@pytest.mark.parametrize(("per", "temperature"), [("document", 1), ("feature", 0.1)])
def test_what_is_drawn_by_weight_is_like_the_target(
    chinese: tuple[Path, list[str], dict], per: str, temperature: float
) -> None:
    path, corpus, _ = chinese
    docs = Importance(models={"it": {"path": path}}, per=per).apply(documents(corpus))
    numbers = Keep(column="importance", by=None, temperature=temperature).sketch(docs)["number"].to_numpy()
    drawn = np.argsort(numbers)[::-1][: len(corpus) // 20]
    share, base = np.mean(drawn < 20), 20 / len(corpus)
    assert base < 0.06
    assert share > 0.6


def test_the_card_tells_how_much_nearer_the_corpus_comes(chinese: tuple[Path, list[str], dict]) -> None:
    path, corpus, card = chinese
    assert path.stat().st_size < 41_000
    facts = card["facts"]
    for sizes in facts["effective_sample"].values():
        by_temperature = [sizes[at] for at in sorted(sizes, key=float)]
        assert 1 <= by_temperature[0] < by_temperature[1] < by_temperature[2] <= len(corpus)
    tenth = facts["resampled"][1]
    assert tenth["texts"] == round(len(corpus) / 10)
    for way in ("drawn", "highest"):
        assert tenth[way]["reduction"] > tenth["random"]["reduction"] + 0.3
    assert facts["ends"]["highest"][0]["weight"] == pytest.approx(facts["weights"]["100"])
    assert any("一" <= name[0] <= "鿿" for name, _, _ in card["ngrams"]["for"][:5])
    page = path.with_suffix(".md").read_text(encoding="utf-8")
    assert f"{tenth['drawn']['reduction']:+.3f}" in page
    assert card["corpus"]["texts"] == len(corpus)


def test_the_same_texts_make_the_same_model_in_any_process(
    chinese: tuple[Path, list[str], dict], tmp_path: Path
) -> None:
    """Files in another order and another split, and Python's hashes of strings seeded otherwise."""
    path, corpus, _ = chinese
    write(tmp_path / "c/2.jsonl", corpus[:100])
    write(tmp_path / "c/1.jsonl", corpus[100:][::-1])
    shutil.copy(path.parent / "t.jsonl", tmp_path / "t.jsonl")
    asked = f'["train-importance", "--target", "{tmp_path}/t.jsonl", "--corpus", "{tmp_path}/c", "--out", "{tmp_path}"]'
    code = ("import typer; from stages.learning import importance as i; app = typer.Typer(); "
            f"app.callback()(lambda: None); i.commands(app); app({asked})")  # fmt: skip
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "77"}, check=True)
    for suffix in (".npy", ".json", ".md"):
        assert (tmp_path / f"importance{suffix}").read_bytes() == path.with_suffix(suffix).read_bytes()


def test_one_language_of_the_corpus(tmp_path: Path) -> None:
    target = write(tmp_path / "t.jsonl", samples("zh-Hant"))
    english = [text[at : at + 400] for text in samples("en")[:5] for at in range(0, 4000, 400)]
    card = trained(target, write(tmp_path / "c.jsonl", [*samples("zh-Hant"), *english]), tmp_path, "--lang", "en")
    assert card["language"] == ["en"]
    assert card["corpus"]["other_language"] >= 55
    assert Importance(models={"it": {"path": tmp_path / "importance.npy"}}).needs == ("text", "lang")


def test_what_cannot_be_trained_from_is_said(tmp_path: Path) -> None:
    few, many = write(tmp_path / "few.jsonl", ["a b"]), write(tmp_path / "many.jsonl", [f"a {i}" for i in range(30)])
    blank = write(tmp_path / "blank.jsonl", ["\u0301" * i for i in range(1, 31)])
    for target, corpus, said in (
        (few, many, "at least 20 of each"),
        (many, few, "30 target texts and 1 of the corpus"),
        (tmp_path / "no.jsonl", many, "no such file"),
        (blank, many, "the target has no words"),
    ):
        code, output = command("--target", target, "--corpus", corpus, "--out", tmp_path / "out")
        assert code == 2
        assert said in output
    assert not (tmp_path / "out").exists()
