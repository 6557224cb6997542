"""Training a classifier: what is measured is held against definitions, and a whole training against its card."""

import gzip
import json
import random
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from stages.classify import Classify
from stages.learning import classifier, documents, measures, report

SCORED = st.lists(st.tuples(st.integers(0, 6).map(lambda n: n / 7), st.booleans()), min_size=2, max_size=40)


def arrays(pairs: list[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([score for score, _ in pairs]), np.array([label for _, label in pairs], bool)


# Measures


@given(SCORED)
def test_roc_auc_is_the_chance_that_a_positive_is_above_a_negative(pairs: list[tuple[float, bool]]) -> None:
    scores, labels = arrays(pairs)
    wins = [(a > b) + (a == b) / 2 for a, b in product(scores[labels], scores[~labels])]
    assert measures.roc_auc(scores, labels) == pytest.approx(np.mean(wins) if wins else float("nan"), nan_ok=True)


@given(SCORED)
def test_pr_auc_is_the_mean_precision_where_recall_is_gained(pairs: list[tuple[float, bool]]) -> None:
    scores, labels = arrays(pairs)
    wanted, before = 0.0, 0
    for threshold in sorted(set(scores), reverse=True):
        hits = int(labels[scores >= threshold].sum())
        wanted += hits / (scores >= threshold).sum() * (hits - before)
        before = hits
    wanted = wanted / labels.sum() if labels.any() else float("nan")
    assert measures.pr_auc(scores, labels) == pytest.approx(wanted, nan_ok=True)


@given(SCORED)
def test_weights_count_as_repeats_do(pairs: list[tuple[float, bool]]) -> None:
    scores, labels = arrays(pairs)
    weights = np.arange(len(scores)) % 3
    for measure in (measures.roc_auc, measures.pr_auc):
        repeated = measure(np.repeat(scores, weights), np.repeat(labels, weights))
        assert measure(scores, labels, weights.astype(float)) == pytest.approx(repeated, nan_ok=True)


@given(SCORED)
def test_isotonic_is_the_max_of_mins_of_means(pairs: list[tuple[float, bool]]) -> None:
    """Robertson, Wright and Dykstra 1988, theorem 1.4.4, at every score."""
    scores, labels = arrays(pairs)
    values = sorted(set(scores))
    fitted = measures.isotonic(scores, labels)
    for at, value in enumerate(values):
        wanted = max(
            min(labels[(scores >= low) & (scores <= high)].mean() for high in values[at:]) for low in values[: at + 1]
        )
        assert fitted(np.array([value]))[0] == pytest.approx(wanted)


def test_calibration_error_of_what_is_calibrated_is_small_and_of_what_is_not_is_not() -> None:
    drawn = np.random.default_rng(1)
    chances = drawn.random(20_000)
    labels = drawn.random(20_000) < chances
    assert measures.calibration_error(chances, labels) < 0.02
    assert measures.calibration_error(chances**3, labels) > 0.2
    assert measures.calibration_error(measures.isotonic(chances**3, labels)(chances**3), labels) < 0.02


def test_rank_correlation() -> None:
    one = np.array([1.0, 2, 2, 4, 5])
    assert measures.rank_correlation(one, one**3) == pytest.approx(1)
    assert measures.rank_correlation(one, -one) == pytest.approx(-1)
    # ranks 1, 2.5, 2.5, 4, 5 against 2, 1, 4, 3, 5: covariance 1.3, variances 1.9 and 2
    assert measures.rank_correlation(one, np.array([2, 1, 4, 3, 5.0])) == pytest.approx(1.3 / (1.9 * 2) ** 0.5)
    assert np.isnan(measures.rank_correlation(one, np.ones(5)))


def test_the_interval_is_that_of_domains() -> None:
    drawn = np.random.default_rng(2)
    labels = drawn.random(4000) < 0.5
    scores = drawn.normal(size=4000) + labels
    alone = measures.with_intervals(scores, labels, np.arange(4000), 200, 1)["roc_auc"]
    assert alone.low < measures.roc_auc(scores, labels) == alone.value < alone.high
    shift = drawn.normal(size=20)[np.arange(4000) // 200]
    labels = drawn.random(4000) < 1 / (1 + np.exp(-3 * shift))
    scores = drawn.normal(size=4000) + 2 * shift
    wide = measures.with_intervals(scores, labels, np.arange(4000) // 200, 200, 1)["roc_auc"]
    narrow = measures.with_intervals(scores, labels, np.arange(4000), 200, 1)["roc_auc"]
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


# Examples


def samples() -> list[dict]:
    with gzip.open(ROOT / "data_samples/sample_text.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def prose(count: int, seed: int) -> list[str]:
    """Passages of the English samples, none twice."""
    text = " ".join(row["text"] for row in samples() if row["lang"] == "en")
    words = text.split()
    chance = random.Random(seed)
    return [" ".join(words[at : at + chance.randrange(30, 90)]) for at in chance.sample(range(len(words) - 90), count)]


def listed(count: int, seed: int) -> list[str]:
    """The same passages with their words in another order, one a line: a list."""
    chance = random.Random(seed)
    return ["\n* ".join(sorted(text.split(), key=lambda _: chance.random())) for text in prose(count, seed)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    good, bad = prose(400, 1), listed(500, 2)
    rows = [{"text": text, "url": f"https://site{i % 37}.example/{i}"} for i, text in enumerate(good)]
    (folder / "good.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    german = ["Alle Menschen sind frei und gleich an Würde und Rechten geboren und mit Vernunft begabt."] * 5
    texts = [*bad, *good[:100], *[f"{text} {i}" for i, text in enumerate(german)]]
    sources = [f"crawl-{i % 29}" for i in range(len(texts))]
    (folder / "corpus").mkdir()
    for part in range(2):
        table = pa.table({"source": sources[part::2], "text": texts[part::2], "ids": [[1, 2]] * len(texts[part::2])})
        pq.write_table(table, folder / f"corpus/{part}.parquet")
    return folder


def test_examples_come_with_their_domain(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("A text.", encoding="utf-8")
    assert next(documents.read(tmp_path / "one.txt")).to_pylist() == [{"text": "A text.", "domain": "one.txt"}]
    assert next(documents.read(folder / "good.jsonl"))["domain"][:2].to_pylist() == ["site0.example", "site1.example"]
    assert next(documents.read(folder / "corpus/1.parquet"))["domain"][:2].to_pylist() == ["crawl-1", "crawl-3"]
    assert len(documents.files([folder])) == 3
    with pytest.raises(ValueError, match=r"no \.parquet"):
        documents.files([tmp_path / "nothing"])


def test_a_sample_does_not_depend_on_the_order_of_files(folder: Path) -> None:
    paths = documents.files([folder / "corpus"])
    some, counts = documents.sample(paths, 50, 1)
    assert some.equals(documents.sample(paths[::-1], 50, 1)[0])
    assert len(set(some["text"].to_pylist())) == 50
    assert counts["read"] == 605
    assert not some.equals(documents.sample(paths, 50, 2)[0])
    assert documents.sample(paths, 1000, 1, "en")[1]["other_language"] >= 5


def test_near_duplicates_are_found_and_nothing_else() -> None:
    texts = prose(60, 3)
    edited = [" ".join(["Otherwise,", *text.split()]) for text in texts[:30]]
    found = documents.near_duplicates(
        pa.chunked_array([[*edited, texts[1].upper(), ""]]), pa.chunked_array([texts[:20], ["", texts[59]]])
    )
    assert found[:20].all()
    assert not found[20:30].any()
    assert found[30:].tolist() == [True, False]


def test_no_domain_is_in_two_splits() -> None:
    chance = random.Random(5)
    domains = [f"d{int(chance.paretovariate(1))}" for _ in range(5000)]
    labels = np.array([hash_(domain) % 3 > 0 if chance.random() < 0.7 else chance.random() < 0.5 for domain in domains])
    places = documents.split(domains, labels, 1)
    for name in set(domains):
        assert len({place for place, domain in zip(places, domains) if domain == name}) == 1
    for side in (labels, ~labels):
        shares = np.bincount(places[side], minlength=3) / side.sum()
        assert np.abs(shares - documents.SHARES).max() < 0.05
    order = np.random.default_rng(1).permutation(5000)
    assert np.array_equal(documents.split([domains[at] for at in order], labels[order], 1), places[order])


def hash_(name: str) -> int:
    return sum(map(ord, name))


# Training


def command(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.callback()(lambda: None)
    classifier.commands(app)
    done = CliRunner().invoke(app, ["train-classifier", *arguments])
    return done.exit_code, done.output


def trained(folder: Path, out: Path, *more: str) -> dict:
    given = ["--positives", str(folder / "good.jsonl"), "--corpus", str(folder / "corpus")]
    code, said = command(*given, "--out", str(out), "--epochs", "25", *more)
    assert code == 0, said
    return json.loads((out / "classifier.json").read_text(encoding="utf-8"))


def test_a_training_from_start_to_score(folder: Path, tmp_path: Path) -> None:
    card = trained(folder, tmp_path, "--about", "Prose.", "--rows", "2000")
    assert card["language"] == ["en"]
    left_out = card["training"]["left_out"]["negatives"]
    assert left_out["other_language"] >= 5
    assert left_out["near_a_positive"] >= 1, "the corpus holds the positives themselves"
    facts = card["facts"]
    assert facts["roc_auc"]["low"] <= facts["roc_auc"]["value"] <= facts["roc_auc"]["high"]
    assert facts["roc_auc"]["value"] > 0.8, "the order of words was learned"
    assert [entry["rate"] for entry in facts["keep_rates"]] == list(report.RATES)
    thresholds = [entry["threshold"] for entry in facts["keep_rates"]]
    assert thresholds == sorted(thresholds, reverse=True)
    page = (tmp_path / "classifier.md").read_text(encoding="utf-8")
    assert "ROC-AUC" in page
    assert "Prose." in page
    stage = Classify(models={"it": {"path": tmp_path / "classifier.ftz"}})
    assert stage.needs == ("text", "lang")
    texts = [*prose(50, 9), *listed(50, 10)]
    docs = pa.table({"text": texts, "lang": ["en"] * 100})
    scores = stage.apply(docs)["it"].to_numpy()
    assert measures.roc_auc(scores, np.arange(100) < 50) > 0.8


def test_one_thread_makes_the_same_model_again(folder: Path, tmp_path: Path) -> None:
    first, second = (trained(folder, tmp_path / name, "--epochs", "2") for name in "ab")
    assert first["sha256"] == second["sha256"]
    assert first["facts"] == second["facts"]
    assert first["sha256"] != trained(folder, tmp_path / "c", "--epochs", "2", "--seed", "2")["sha256"]


def test_chinese_is_cut_into_characters(tmp_path: Path) -> None:
    good = [row["text"] for row in samples() if row["lang"] == "zh-Hant"]
    for name, texts in (("good", good), ("bad", ["".join(random.Random(1).sample(text, len(text))) for text in good])):
        rows = [json.dumps({"text": text, "domain": f"{i % 20}"}) for i, text in enumerate(texts)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    given = ["--positives", str(tmp_path / "good.jsonl"), "--negatives", str(tmp_path / "bad.jsonl")]
    code, said = command(*given, "--out", str(tmp_path / "out"), "--epochs", "30", "--name", "zh")
    assert code == 0, said
    card = json.loads((tmp_path / "out/zh.json").read_text(encoding="utf-8"))
    assert card["language"] == ["zh"]
    assert card["preparation"]["segmentation"] == "han-chars"
    assert card["training"]["arguments"]["wordNgrams"] == 3


def test_mistakes_are_said_in_a_sentence(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "few.txt").write_text("A single text.", encoding="utf-8")
    few, good = str(tmp_path / "few.txt"), str(folder / "good.jsonl")
    for arguments, said in (
        (["--positives", good], "corpus"),
        (["--positives", str(tmp_path / "no.txt"), "--negatives", good], "no .parquet"),
        (["--positives", few, "--negatives", good], "at least 20"),
    ):
        code, output = command(*arguments, "--out", str(tmp_path / "out"))
        assert code == 2
        assert said in " ".join(output.replace("│", " ").split())


def test_texts_of_one_domain_cannot_be_divided(folder: Path, tmp_path: Path) -> None:
    for name, texts in (("good", prose(40, 1)), ("bad", listed(40, 2))):
        pq.write_table(pa.table({"text": texts, "domain": ["one"] * 40}), tmp_path / f"{name}.parquet")
    code, output = command("--positives", str(tmp_path / "good.parquet"), "--negatives", str(tmp_path / "bad.parquet"),
                           "--out", str(tmp_path / "out"))  # fmt: skip
    assert code == 2
    assert "more domains" in " ".join(output.replace("│", " ").split())
