"""Training a classifier: what is measured is held against definitions, and a whole training against its card."""

import gzip
import json
import random
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from test_learning_corpora import large, prose, samples
from typer.testing import CliRunner

from pipeline.schema import text_buffers
from stages.classify import Classify
from stages.learning import classifier, documents, measures, report
from stages.learning.corpora import Unusable
from stages.models import classifiers

SCORED = st.lists(st.tuples(st.integers(0, 6).map(lambda n: n / 7), st.booleans()), min_size=2, max_size=40)


def read(path: Path) -> Iterator[pa.Table]:
    return documents.examples_of([path], None, Counter())


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


def test_an_isotonic_fit_is_given_a_thousand_groups_at_most() -> None:
    """1,999 scores, of which those from the 1,002nd on are positive: by twos, one group has one of each."""
    fitted = measures.isotonic(np.arange(1999) / 1999, np.arange(1999) >= 1001)
    assert fitted.chances.tolist() == [0, 0.5, 1]


def test_calibration_error_of_what_is_calibrated_is_small_and_of_what_is_not_is_not() -> None:
    drawn = np.random.default_rng(1)
    chances = drawn.random(20_000)
    labels = drawn.random(20_000) < chances
    assert measures.calibration_error(chances, labels) < 0.02
    assert measures.calibration_error(chances**3, labels) > 0.2
    assert measures.calibration_error(measures.isotonic(chances**3, labels)(chances**3), labels) < 0.02


def test_the_order_of_documents_says_nothing_of_calibration() -> None:
    """Two chances for all of 3,000 documents, both right: bins that cut through equals must not see a difference."""
    drawn = np.random.default_rng(3)
    chances = np.where(np.arange(3000) % 2, 0.25, 0.75)
    labels = drawn.permutation(3000) % 4 < np.where(np.arange(3000) % 2, 1, 3)
    by_label = np.argsort(~labels, kind="stable")
    assert measures.calibration_error(chances[by_label], labels[by_label]) < 0.02
    assert measures.calibration_error(chances, labels) == pytest.approx(
        measures.calibration_error(chances[by_label], labels[by_label])
    )


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
    assert next(read(tmp_path / "one.txt")).to_pylist() == [{"text": "A text.", "domain": f"{tmp_path.name}/one.txt"}]
    assert next(read(folder / "good.jsonl"))["domain"][:2].to_pylist() == [
        "site0.example",
        "site1.example",
    ]
    assert next(read(folder / "corpus/1.parquet"))["domain"][:2].to_pylist() == [
        "crawl-1",
        "crawl-3",
    ]
    assert len(documents.files([folder])) == 3
    with pytest.raises(ValueError, match="no such file"):
        documents.files([tmp_path / "nothing"])


def test_a_domain_is_a_host_however_it_is_written(tmp_path: Path) -> None:
    wanted = {
        "http://www.a.com/x": "a.com",
        "https://u:p@WWW.A.com:80": "a.com",
        "HTTP://a.com./y?u=http://b.com": "a.com",
        "http://blog.a.com/": "blog.a.com",
        "http://www.www.com": "www.com",
        "http://www/": "www",
        "http://wwwa.com": "wwwa.com",
        "http://./": "given",
        "a.com": "given",
    }
    pq.write_table(pa.table({"text": ["a"] * len(wanted), "url": list(wanted), "domain": ["given"] * len(wanted)}),
                   tmp_path / "a.parquet")  # fmt: skip
    (found,) = read(tmp_path / "a.parquet")
    assert found["domain"].to_pylist() == list(wanted.values())


def test_a_sample_does_not_depend_on_the_order_of_files(folder: Path) -> None:
    paths = documents.files([folder / "corpus"])
    some, counts = documents.sample(paths, 50, 1)
    assert some.equals(documents.sample(paths[::-1], 50, 1)[0])
    assert len(set(some["text"].to_pylist())) == 50
    assert counts["read"] == 605
    assert not some.equals(documents.sample(paths, 50, 2)[0])
    assert documents.sample(paths, 1000, 1, "en")[1]["other_language"] >= 5


def test_a_text_under_two_domains_is_one_whatever_the_order_of_files(tmp_path: Path) -> None:
    texts = [f"text number {at}" for at in range(2000)]
    paths = [tmp_path / "one.parquet", tmp_path / "two.parquet"]
    for path, domain in zip(paths, ("za", "ab")):
        pq.write_table(pa.table({"text": texts, "domain": [domain] * 2000}), path)
    for count, seed in product((50, 500), (1, 2)):
        some, counts = documents.sample(paths, count, seed)
        again, same = documents.sample(paths[::-1], count, seed)
        assert some.equals(again)
        assert set(some["domain"].to_pylist()) == {"ab"}
        assert counts == same
        assert counts["repeated"] == count, "each of those taken is there twice"


def test_a_sample_can_be_gone_on_with(folder: Path) -> None:
    paths = documents.files([folder / "corpus"])
    whole = documents.sample(paths, 90, 1)[0]
    first = documents.sample(paths, 60, 1)[0]
    rest = documents.sample(paths, 30, 1, above=documents.key(first["text"][-1].as_py(), 1))[0]
    assert pa.concat_tables([first, rest]).equals(whole)


@pytest.mark.parametrize("lang", ["english", "en-US", "eng", "EN", "zh_Hant", "chinese", "cmn", "xx-klingon"])
def test_a_language_that_nobody_tells_is_refused(lang: str, folder: Path) -> None:
    guess = {"e": "did you mean 'en'", "c": "did you mean 'zh'", "z": "did you mean 'zh'"}.get(lang[0].lower(), "639")
    with pytest.raises(ValueError, match=guess):
        documents.sample(documents.files([folder / "corpus"]), 50, 1, lang)


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


def table(path: Path, texts: list[str], kind: str) -> Path:
    pq.write_table(pa.table({"text": texts, "domain": [f"{kind}{at % 23}" for at in range(len(texts))]}), path)
    return path


def english(texts: list[str]) -> list[str]:
    """Those that are told to be."""
    langs = documents.languages(pa.chunked_array([texts], pa.large_string()))
    return [text for text, lang in zip(texts, langs) if lang == "en"]


def test_as_many_negatives_as_positives_if_the_corpus_has_them(tmp_path: Path) -> None:
    """A corpus with 3 near copies to every other text: they are passed over, and the next are taken."""
    good, bad = english(prose(100, 1)), english(listed(130, 2))
    positives = table(tmp_path / "good.parquet", good, "g")
    corpus = table(tmp_path / "corpus.parquet", [*bad, *(f"{text} {more}" for more in "ABC" for text in good)], "c")
    examples, _ = classifier.gather([positives], None, [corpus], "en", 1000, 1)
    assert examples.labels.tolist() == [True] * len(good) + [False] * len(good)
    first = sorted(bad, key=lambda text: documents.key(text, 2))[: len(good)]
    assert examples.table["text"].to_pylist()[len(good) :] == first
    assert examples.counts["negatives"]["near_a_positive"] > 150


def test_negatives_that_are_given_are_no_positives_either(tmp_path: Path) -> None:
    good, bad = english(prose(60, 1)), english(listed(60, 2))
    positives = table(tmp_path / "good.parquet", good, "g")
    negatives = table(tmp_path / "bad.parquet", [*bad, *(f"Otherwise, {text}" for text in good[:25])], "b")
    examples, _ = classifier.gather([positives], [negatives], [], "en", 1000, 1)
    assert set(examples.table["text"].to_pylist()[len(good) :]) == set(bad)
    assert examples.counts["negatives"]["near_a_positive"] == 25


def test_what_repeats_a_document_of_another_split_is_in_none() -> None:
    texts = prose(9, 4)
    texts += [f"Otherwise, {texts[at]}" for at in (0, 1, 3, 6)]
    splits = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 1, 2, 2, 1])
    examples = classifier.Examples(pa.table({"text": large(texts), "domain": ["d"] * 13}), splits == 0, {})
    places, counts = classifier._without_repeats(examples, splits)
    assert places.tolist() == [0, 0, 0, -1, 1, 1, 2, 2, 2, -1, -1, 2, -1]
    assert counts == {"test_near_training": 2, "calibrate_near_test": 2}


def test_every_other_line_is_cut_to_whole_tokens() -> None:
    texts = [" ".join(prose(40, seed)) for seed in range(60)]
    recipe = classifier.Recipe("en")
    data, offsets = recipe.preparation()(*text_buffers(large(texts)))
    whole = [data[a:b].tobytes() for a, b in zip(offsets, offsets[1:])]
    lines = classifier._lines(large(texts), recipe)
    assert lines[::2] == whole[::2]
    assert all(b" " + line in b" " + full for line, full in zip(lines, whole))
    lengths = np.array([len(line) for line in lines[1::2]])
    assert all(len(full) > 1750 for full in whole)
    assert lengths.min() < 150, "some short"
    assert (lengths < 600).sum() > 10
    assert (lengths > 600).sum() > 5
    assert len(set(lengths)) > 20
    assert classifier._lines(large(texts), recipe._replace(seed=2)) != lines


@pytest.mark.parametrize(
    "text", ["x" * 1700 + " word", "a " + "é" * 1000, "word " * 9 + "y" * 900 + " end", "z" * 2000]
)
def test_a_cut_leaves_something_of_long_tokens(text: str) -> None:
    recipe = classifier.Recipe("en")
    data, offsets = recipe.preparation()(*text_buffers(large([text])))
    whole = data[: offsets[1]].tobytes()
    for line in classifier._lines(large([text] * 400), recipe):
        assert len(line) >= 50
        assert b" " + line in b" " + whole
        assert (line + b" " if line[-1:] != b" " else line) in whole, "tokens are whole"


def test_a_text_without_tokens_is_no_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []

    class Learner:
        def save_model(self, path: str) -> None:
            Path(path).write_bytes(b"")

    def learn(path: str, **_: object) -> Learner:
        seen.extend(Path(path).read_bytes().splitlines())
        return Learner()

    monkeypatch.setattr(classifier.fasttext, "train_supervised", learn)
    texts = [*prose(10, 1), "\u0301" * 30, "\u200b"]
    examples = classifier.Examples(pa.table({"text": large(texts), "domain": ["d"] * 12}), np.arange(12) < 11, {})
    classifier._fit(examples, np.ones(12, bool), classifier.Recipe("en"), tmp_path / "m.bin")
    assert len(seen) == 10
    assert all(len(line.split()) > 20 for line in seen)


def test_a_corpus_that_ends_gives_what_it_has(tmp_path: Path) -> None:
    good, bad = english(prose(100, 1)), english(listed(30, 2))
    positives = table(tmp_path / "good.parquet", good, "g")
    corpus = table(tmp_path / "corpus.parquet", [*bad, *good], "c")
    examples, _ = classifier.gather([positives], None, [corpus], "en", 1000, 1)
    assert set(examples.table["text"].to_pylist()[len(good) :]) == set(bad)
    assert examples.counts["negatives"]["near_a_positive"] == len(good)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with 120 English and some 40 Chinese positives and as many negatives, and the Chinese of them."""
    folder = tmp_path_factory.mktemp("mixed")
    poems = [row["text"] for row in samples() if row["lang"] == "zh-Hant"]
    chinese = [text for text, lang in zip(poems, documents.languages(pa.chunked_array([poems]))) if lang != "en"]
    for kind, texts in (("good", prose(120, 1)), ("bad", listed(120, 2))):
        rows = [json.dumps({"text": text, "domain": f"{i % 20}"}) for i, text in enumerate([*texts, *chinese])]
        (folder / f"{kind}.jsonl").write_text("\n".join([*rows, "{broken", '{"text": ""}']), encoding="utf-8")
    return folder, chinese


def test_positives_in_another_language_are_left_out(mixed: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, chinese = mixed
    given = ["--positives", f"{folder}/good.jsonl", "--negatives", f"{folder}/bad.jsonl"]
    code, said = command(*given, "--out", str(tmp_path), "--epochs", "2")
    assert code == 0, said
    card = json.loads((tmp_path / "classifier.json").read_text(encoding="utf-8"))
    assert card["language"] == ["en"]
    counts = {"read": 120 + len(chinese), "unreadable": 1, "without_text": 1}
    left_out = card["training"]["left_out"]
    assert counts.items() <= left_out["positives"].items()
    assert counts.items() <= left_out["negatives"].items()
    assert left_out["positives"]["other_language"] >= len(chinese) > 20
    assert card["training"]["negatives_in_other_languages"] >= len(chinese)
    for told in (said, (tmp_path / "classifier.md").read_text(encoding="utf-8")):
        assert f"{left_out['positives']['other_language']} in another language" in told
        assert "1 rows unreadable, 1 rows without text" in told
        assert f"{card['training']['negatives_in_other_languages']} of the negatives that were given look to be" in told


def test_positives_may_be_taken_in_any_language(mixed: tuple[Path, list[str]]) -> None:
    folder, chinese = mixed
    given = [folder / "good.jsonl"], [folder / "bad.jsonl"], [], "en", 1000, 1
    assert set(chinese) <= set(
        classifier.gather(*given, trusted=True)[0].table["text"].to_pylist()[: 120 + len(chinese)]
    )
    examples, _ = classifier.gather(*given)
    positives = examples.table["text"].filter(pa.array(examples.labels)).to_pylist()
    assert not set(chinese) & set(positives)


def test_a_card_is_of_one_model(folder: Path, tmp_path: Path) -> None:
    card = trained(folder, tmp_path, "--epochs", "1")
    model = tmp_path / "classifier.bin"
    assert card["file"] == model.name
    code, said = command("--positives", str(folder / "good.jsonl"), "--corpus", str(folder / "corpus"), "--out",
                         str(tmp_path), "--rows", "2000")  # fmt: skip
    assert code == 2
    assert "is the card of classifier.bin" in " ".join(said.replace("│", " ").split())
    assert not (tmp_path / "classifier.ftz").exists()
    assert classifiers.read_card(model).language == ("en",)
    moved = tmp_path / "moved.bin"
    moved.write_bytes(model.read_bytes())
    moved.with_suffix(".json").write_text(json.dumps(card))
    assert classifiers.read_card(moved).language == ("en",), "a model may be renamed with its card"
    moved.with_suffix(".json").write_text(json.dumps({**card, "sha256": None}))
    assert classifiers.read_card(moved).language == ("en",), "a card that names no content is believed"
    other = {**card, "language": ["zh"], "sha256": "0" * 64, "file": "classifier.ftz"}
    model.with_suffix(".json").write_text(json.dumps(other))
    said = "classifier.json is not the card of classifier.bin but of classifier.ftz"
    with pytest.raises(ValueError, match=said):
        classifiers.load(model, None)
    with pytest.raises(ValueError, match=said):
        Classify(models={"it": {"path": model}})


def judged(scores: list[float], labels: list[bool]) -> report.Judged:
    texts = [f"text {at}" for at in range(len(scores))]
    return report.Judged(texts, ["d"] * len(texts), np.array(labels), np.array(scores, np.float32))


def test_a_calibration_is_judged_on_other_documents_than_it_was_fitted_on() -> None:
    fitted_on = judged([0.1] * 50 + [0.9] * 50, [False] * 50 + [True] * 50)
    test = judged([0.1] * 50 + [0.9] * 50, [True] * 50 + [False] * 50)
    found = report.facts(test, fitted_on, 1)["calibration"]
    assert found["error_isotonic"] > 0.95 > found["error_raw"] > 0.85
    assert report.facts(fitted_on, fitted_on, 1)["calibration"]["error_isotonic"] == pytest.approx(0)


def test_the_table_says_of_what_documents_it_is(folder: Path, tmp_path: Path) -> None:
    card = trained(folder, tmp_path, "--epochs", "1")
    test = card["facts"]["test"]
    share = test["positives"] / (test["positives"] + test["negatives"])
    assert f"of these test documents, of which {share:.0%} are positives" in report.markdown(card)


def test_a_cut_among_equal_scores_is_no_better_than_chance() -> None:
    test = judged([0.5] * 200, [True] * 100 + [False] * 100)
    for entry in report.facts(test, test, 1)["keep_rates"]:
        assert entry["precision"] == pytest.approx(0.5)
        assert entry["recall"] == pytest.approx(entry["rate"])
        assert len({one["positive"] for one in (*entry["just_kept"], *entry["just_dropped"])}) == 2, "both are shown"
    # a tenth of 20 is 2: the one at 0.9, a positive, and one of the four at 0.8, of which one is
    some = report.facts(judged([0.9, 0.8, 0.8, 0.8, 0.8, *[0.1] * 15], [True, True, *[False] * 17, True]), test, 1)
    assert some["keep_rates"][3]["precision"] == pytest.approx((1 + 1 / 4) / 2)


def test_the_scores_in_the_table_cut_where_it_says(folder: Path, tmp_path: Path) -> None:
    card = trained(folder, tmp_path, "--epochs", "5")
    rows = [line.split("|")[2] for line in report.markdown(card).splitlines() if line.split("|")[1:2] == [" 10% "]]
    (threshold,) = map(np.float32, rows)
    assert threshold == np.float32(card["facts"]["keep_rates"][3]["threshold"])
    cut = {"rate": 0.1, "threshold": float(np.float32(0.99994)), "precision": 1.0, "recall": 0.2,
           "median_characters_kept": 1.0, "median_characters_dropped": 1.0, "domains_kept": {}, "domains_dropped": {},
           "just_kept": [], "just_dropped": []}  # fmt: skip
    shown = report.markdown({**card, "facts": {**card["facts"], "keep_rates": [cut]}})
    assert "| 10% | 0.99994 | 1.000 | 0.200 |" in shown


def test_one_thread_makes_the_same_model_again(folder: Path, tmp_path: Path) -> None:
    first, second = (trained(folder, tmp_path / name, "--epochs", "2") for name in "ab")
    assert first["sha256"] == second["sha256"]
    for suffix in (".bin", ".json", ".md"):
        one, other = ((tmp_path / f"{name}/classifier{suffix}").read_bytes() for name in "ab")
        assert one == other
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
        (["--positives", str(tmp_path / "no.txt"), "--negatives", good], "no such file"),
        (["--positives", few, "--negatives", good], "1 positives for 'en', and at least 20 are needed"),
        (["--positives", good, "--corpus", good], "0 negatives for 'en', and at least 20 are needed"),
        (
            ["--positives", good, "--corpus", good, "--lang", "zh"],
            "(positives: 400 texts read, 400 in another language)",
        ),
        (["--positives", good, "--negatives", good, "--corpus", good], "beside --negatives it has no use"),
        (["--positives", good, "--corpus", good, "--lang", "english"], "did you mean 'en'?"),
        (["--positives", good, "--negatives", good, "--seed", "5000000000"], "2147483647"),
        (["--positives", good, "--negatives", good, "--epochs", "5000000000"], "10000"),
    ):
        code, output = command(*arguments, "--out", str(tmp_path / "out"))
        assert code == 2
        assert said in " ".join(output.replace("│", " ").split())


def test_a_classifier_that_knows_nothing_is_called_so(folder: Path, tmp_path: Path) -> None:
    texts = prose(400, 1)
    for name, side in (("good", 0), ("bad", 1)):
        pq.write_table(pa.table({"text": texts[side::2], "domain": [f"d{at % 20}" for at in range(200)]}),
                       tmp_path / f"{name}.parquet")  # fmt: skip
    code, output = command("--positives", str(tmp_path / "good.parquet"), "--negatives", str(tmp_path / "bad.parquet"),
                           "--out", str(tmp_path / "out"), "--lang", "en")  # fmt: skip
    assert code == 0, output
    assert f"{tmp_path}/out/classifier.bin: " in output
    assert "may be no better than chance" in output


def test_texts_of_one_domain_cannot_be_divided(folder: Path, tmp_path: Path) -> None:
    for name, texts in (("good", prose(40, 1)), ("bad", listed(40, 2))):
        pq.write_table(pa.table({"text": texts, "domain": ["one"] * 40}), tmp_path / f"{name}.parquet")
    code, output = command("--positives", str(tmp_path / "good.parquet"), "--negatives", str(tmp_path / "bad.parquet"),
                           "--out", str(tmp_path / "out"))  # fmt: skip
    assert code == 2
    assert "more domains" in " ".join(output.replace("│", " ").split())


def test_a_file_that_is_cut_short_is_not_half_read(folder: Path, tmp_path: Path) -> None:
    packed = gzip.compress((folder / "good.jsonl").read_bytes())
    (tmp_path / "cut.jsonl.gz").write_bytes(packed[: len(packed) * 6 // 10])
    with pytest.raises(Unusable, match=r"cut\.jsonl\.gz is cut short; [\d,]+ texts of it can be read"):
        documents.sample([tmp_path / "cut.jsonl.gz"], 1000, 1)
