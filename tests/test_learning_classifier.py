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
import zstandard
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from stages.classify import Classify
from stages.learning import classifier, documents, measures, report
from stages.learning.corpora import Unusable
from stages.models import classifiers

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
    assert next(documents.read(tmp_path / "one.txt")).to_pylist() == [
        {"text": "A text.", "domain": f"{tmp_path.name}/one.txt"}
    ]
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


# Corpora: what is read, and what in it is no document

TEXT = "Alle Menschen sind frei und gleich.\n"


def packed(path: Path, text: str) -> Path:
    data = text.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes({".gz": gzip.compress, ".zst": zstandard.compress}.get(path.suffix, bytes)(data))
    return path


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.txt.zst", "A.TXT.GZ"])
def test_a_text_file_is_read_as_text_however_it_is_packed(name: str, tmp_path: Path) -> None:
    path = packed(tmp_path / name.lower(), TEXT).rename(tmp_path / name)
    assert next(documents.read(path)).to_pylist() == [{"text": TEXT, "domain": f"{tmp_path.name}/{name}"}]


def test_folders_are_searched_through(tmp_path: Path) -> None:
    wanted = [
        packed(tmp_path / name, json.dumps({"text": TEXT})) for name in ("a/b/c.jsonl.zst", "a/d.ndjson", "e.txt")
    ]
    for name in ("a/dataset_info.json", ".hidden/f.jsonl", "g.csv", "report.json"):
        packed(tmp_path / name, "{}")
    assert documents.files([tmp_path]) == wanted
    assert documents.files([tmp_path / "a/dataset_info.json"]) == [tmp_path / "a/dataset_info.json"], "if it is named"


def run(folder: Path, groups: dict[str, list[str]]) -> Path:
    """A run directory: what remains of it in each group, and files beside that are no documents."""
    for name, texts in groups.items():
        (folder / name / "verdicts").mkdir(parents=True)
        pq.write_table(pa.table({"id": ["a"], "drop": ["b"]}), folder / name / "verdicts/verdicts-00000.losses.parquet")
        (folder / name / "rejected").mkdir()
        pq.write_table(pa.table({"text": ["rejected"]}), folder / name / "rejected/part-00000.parquet")
        packed(folder / name / "part-00000.json", "{}")
        pq.write_table(
            pa.table({"text": texts} if texts else {"input_ids": [[1]]}), folder / name / "part-00000.parquet"
        )
    packed(folder / "plan.json", "{}")
    packed(folder / "report.json", json.dumps({"groups": [{"folder": name} for name in groups]}))
    return folder


def texts_of(path: Path) -> list[str]:
    return [
        text for file in documents.files([path]) for table in documents.read(file) for text in table["text"].to_pylist()
    ]


def test_a_run_is_what_it_kept(tmp_path: Path) -> None:
    one = run(tmp_path / "runs/one", {"1-dedup-a1a1a1": ["old"], "2-lines-b2b2b2": ["kept"], "3-shards-c3c3c3": []})
    assert texts_of(one) == ["kept"]
    assert texts_of(one / "1-dedup-a1a1a1") == ["old"]
    assert texts_of(tmp_path) == ["kept"], "however deep it lies"
    with pytest.raises(ValueError, match="no group of this run keeps texts"):
        documents.files([run(tmp_path / "two", {"1-shards-a1a1a1": []})])
    packed(tmp_path / "three/plan.json", "{}")
    with pytest.raises(ValueError, match="three: a run that is not finished"):
        documents.files([tmp_path / "three"])


def test_a_run_that_goes_on_is_all_its_increments(tmp_path: Path) -> None:
    run(tmp_path / "0001", {"1-dedup-a1a1a1": ["first"]})
    run(tmp_path / "0002", {"1-dedup-a1a1a1": ["second"]})
    (tmp_path / "index").mkdir()
    pq.write_table(pa.table({"key": [1]}), tmp_path / "index/keys.parquet")
    packed(tmp_path / "LATEST", "0002/1-dedup-a1a1a1\n")
    assert texts_of(tmp_path) == ["first", "second"]


def test_what_is_no_document_is_counted(tmp_path: Path) -> None:
    lines = ['{"text": "one"}', "{broken", '{"text": " "}', '{"text": null}', "7", '{"text": 7}', '{"body": "x"}']
    packed(tmp_path / "a.jsonl", "\n".join(lines))
    pq.write_table(pa.table({"text": ["two", None, "", " \n"]}), tmp_path / "b.parquet")
    packed(tmp_path / "c.txt.gz", TEXT)
    (tmp_path / "d.txt.gz").write_bytes((tmp_path / "c.txt.gz").read_bytes()[:-9])
    some, counts = documents.sample(documents.files([tmp_path]), 10, 1)
    assert sorted(some["text"].to_pylist()) == [TEXT, "one", "two"]
    assert (counts["read"], counts["unreadable"], counts["without_text"]) == (3, 3, 7)


def test_bytes_that_are_no_utf8_are_counted(tmp_path: Path) -> None:
    raw = pa.array([b"good", b"\xff\xfe bad", None], pa.binary())
    column = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    some, counts = documents.sample([tmp_path / "a.parquet"], 10, 1)
    assert some["text"].to_pylist() == ["good"]
    assert (counts["unreadable"], counts["without_text"]) == (1, 1)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"body": "a"}\n{"body": "b"}\n', "no field 'text' in .*a.jsonl"),
        ("a.jsonl", '{"text": 1}\n', "a.jsonl: field 'text' is not text"),
        ("a.jsonl", "junk\n{\n", r"a.jsonl: none of its lines can be read \(bad_json\)"),
        ("a.parquet", pa.table({"body": ["a"]}), "no column 'text'; its columns are 'body'"),
        ("a.parquet", pa.table({"text": [b"a"]}), "column 'text' is of binary, not of text"),
        ("a.parquet", pa.table({"text": [1]}), "column 'text' is of int64, not of text"),
        ("a.parquet", "PAR1 and no more", "a.parquet: "),
        ("a.csv", "text\na\n", r"a.csv: no .parquet, .jsonl or .txt \(.gz, .zst\) there"),
    ],
)
def test_a_file_without_texts_is_named(name: str, content: pa.Table | str, said: str, tmp_path: Path) -> None:
    if isinstance(content, str):
        packed(tmp_path / name, content)
    else:
        pq.write_table(content, tmp_path / name)
    with pytest.raises(Unusable, match=said):
        texts_of(tmp_path / name)


def test_a_table_that_is_damaged_inside_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": prose(300, 1)}), tmp_path / "a.parquet", compression="zstd")
    raw = bytearray((tmp_path / "a.parquet").read_bytes())
    raw[len(raw) // 3 : len(raw) // 2] = bytes(len(raw) // 2 - len(raw) // 3)
    (tmp_path / "a.parquet").write_bytes(raw)
    with pytest.raises(Unusable, match=r"a\.parquet: "):
        texts_of(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    "column", [pa.array(["a", "b", "a"]).dictionary_encode(), pa.array(["a", "b", "a"], pa.large_string())]
)
def test_text_is_text_in_whatever_type_of_column(column: pa.Array, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": column, "url": [1, 2, 3], "source": [["x"], None, []]}), tmp_path / "a.parquet")
    (table,) = documents.read(tmp_path / "a.parquet")
    domains = ['["x"]', f"{tmp_path.name}/a.parquet", "[]"]
    assert table.to_pylist() == [{"text": text, "domain": domain} for text, domain in zip("aba", domains)]


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
        (["--positives", few, "--negatives", good], "1 positives for 'en', and at least 20 are needed"),
        (["--positives", good, "--corpus", good], "0 negatives for 'en', and at least 20 are needed"),
        (
            ["--positives", good, "--corpus", good, "--lang", "zh"],
            "(positives: 400 texts read, 400 in another language)",
        ),
        (["--positives", good, "--negatives", good, "--corpus", good], "beside --negatives it has no use"),
        (["--positives", good, "--corpus", good, "--lang", "english"], "did you mean 'en'?"),
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


def test_a_file_that_is_cut_short_is_not_half_read(folder: Path, tmp_path: Path) -> None:
    packed = gzip.compress((folder / "good.jsonl").read_bytes())
    (tmp_path / "cut.jsonl.gz").write_bytes(packed[: len(packed) * 6 // 10])
    with pytest.raises(Unusable, match=r"cut\.jsonl\.gz is cut short; [\d,]+ texts of it can be read"):
        documents.sample([tmp_path / "cut.jsonl.gz"], 1000, 1)


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.jsonl").write_text(json.dumps({"text": f"A text of {name}."}) + "\n")
    found, _ = documents.sample(documents.files([tmp_path]), 10, 1)
    assert sorted(found["domain"].to_pylist()) == ["a/data.jsonl", "b/data.jsonl"]
