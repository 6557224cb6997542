"""Scores of fastText classifiers: the library's own, where they are asked for; and cuts by rate over a whole corpus."""

import gzip
import json
import unicodedata
from collections import Counter
from itertools import pairwise
from pathlib import Path

import fasttext as library
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from conftest import ROOT
from deduped import LocalSteps, names
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.schema import DROP, text_buffers
from pipeline.stage import Part
from stages.classify import Classify
from stages.keep import Keep, gumbel, ordered
from stages.kernels import text as characters
from stages.kernels.prepare import prepare
from stages.models import classifiers

LID = ROOT / "stages/data/lid.176.ftz"
HOSTILE = ["", " ", "\n", "\0", "</s>", "a </s> b", "__label__en", "汉" * 3000, "a" * 5000, "a\u0301 é", "😀x", "1 2,3"]


def real_texts() -> list[str]:
    with gzip.open(ROOT / "data_samples/sample_text.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def documents(texts: list[str | None], langs: list[str | None] | None = None) -> pa.Table:
    columns = {"id": pa.array(names(len(texts))), "text": pa.array(texts, pa.string())}
    return pa.table(columns | ({"lang": pa.array(langs, pa.string())} if langs else {}))


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three labels, word pairs: enough to tell letters from digits from Chinese."""
    folder = tmp_path_factory.mktemp("toy")
    texts = real_texts()
    lines = [f"__label__{'zh' if '一' in text else 'en'} {' '.join(text.split())[:2000]}" for text in texts]
    lines += [f"__label__digits {i} {i + 1} {i * i}" for i in range(200)]
    (folder / "lines.txt").write_text("\n".join(lines), encoding="utf-8")
    model = library.train_supervised(
        str(folder / "lines.txt"), dim=8, wordNgrams=2, bucket=5000, minCount=1, epoch=15, lr=0.5, thread=1, verbose=0
    )
    model.save_model(str(folder / "toy.bin"))
    model.quantize(cutoff=3000, qnorm=True)
    model.save_model(str(folder / "small.ftz"))
    return folder


def theirs(path: Path, text: str, label: str) -> float:
    """The library's probability of one label."""
    found = library.FastText._FastText(str(path)).f.predict(text.replace("\n", " ") + "\n", 200, 0.0, "strict")
    return next((chance for chance, name in found if name == f"__label__{label}"), float("nan"))


@pytest.mark.parametrize(("name", "label"), [("toy.bin", "en"), ("toy.bin", "digits"), ("small.ftz", "zh"), ("", "zh")])
def test_a_score_is_what_the_library_says(toy: Path, name: str, label: str) -> None:
    path = toy / name if name else LID
    texts = [*real_texts()[:40], *HOSTILE]
    column = Classify(models={"it": {"path": path, "label": label}}).apply(documents(texts))["it"]
    assert column.type == pa.float32()
    model = library.FastText._FastText(str(path))
    for text, score in zip(texts, column.to_pylist(), strict=True):
        line = text.replace("\n", " ")
        found = model.f.predict(line + "\n", 200, 0.0, "strict")
        wanted = next((chance for chance, one in found if one == f"__label__{label}"), 0.0 if found else None)
        assert score == pytest.approx(wanted if is_known(model, line) else None, abs=1e-6), text[:80]


def is_known(model: library.FastText._FastText, line: str) -> bool:
    """Whether the library looks up anything but the end of the line, whose vector would be that of the whole."""
    end = model.get_input_vector(model.get_word_id("</s>"))
    return not np.array_equal(model.get_sentence_vector(line), end)


UNKNOWN = ["", None, " \n\t", "\u200b\u200d", "\ufeff", "</s>", "Зима пришла", "a" * 5000, "asdf qwer zxcv"]


def test_a_text_of_which_the_model_knows_nothing_has_no_score() -> None:
    """Its prior would be a score above that of most pages; and what has no score is not below a limit."""
    texts = [*UNKNOWN, "the law of the land", "[0] [0] | login | cart"]
    stage = Classify(models={"good": {"builtin": "en", "language": [], "min": 0.9}})
    after = stage.apply(documents(texts))
    scores = after["good"].to_pylist()
    folded = after["good"].is_null().to_pylist()
    assert folded == [text not in ("</s>", *texts[-2:]) for text in texts], "folded, </s> is the letter s"
    assert scores[-2] > 0.9 > scores[-1]
    assert after["drop"].to_pylist() == [None if score is None or score >= 0.9 else "low_good" for score in scores]
    assert after["drop"].null_count == len(texts) - 2
    assert stage.apply(documents(texts[:3]))["good"].null_count == 3
    scorer = classifiers.load_with(stage.files()[0], "keep", classifiers.Preparation())
    assert np.isnan(classifiers.score(*text_buffers(pa.array(UNKNOWN)), scorer)).all(), "not folded, it ends the line"


def test_no_documents_and_none_of_the_language_have_no_scores(toy: Path) -> None:
    both = {name: {"path": toy / "toy.bin", "label": name, "language": [name], "column": "c"} for name in ("en", "zh")}
    everyone = {"path": toy / "small.ftz", "label": "digits", "min": 0.5}
    docs = documents(["a text", "1 2 3", "一些"], ["fr", None, "de"])
    for models in (both, both | {"all": everyone}, {"all": everyone}):
        stage = Classify(models=models)
        after = stage.apply(docs.slice(0, 0))
        assert len(after) == 0
        assert {name: after.schema.field(name).type for name in stage.columns()} == stage.columns()
    assert Classify(models=both).apply(docs)["c"].null_count == 3


def test_several_models_each_for_its_languages(toy: Path) -> None:
    docs = documents(["words of text", "一些文字", "words of text", None], ["en", "zh", None, "en"])
    stage = Classify(models={
        "english": {"path": toy / "toy.bin", "label": "en", "language": ["en"], "column": "quality"},
        "chinese": {"path": toy / "toy.bin", "label": "zh", "language": ["zh"], "column": "quality"},
        "digits": {"path": toy / "small.ftz", "label": "digits", "min": 0.5},
    })  # fmt: skip
    assert stage.needs == ("text", "lang")
    after = stage.apply(docs)
    assert stage.columns() == {"quality": pa.float32(), "digits": pa.float32()}
    quality = after["quality"].to_pylist()
    assert quality[0] == pytest.approx(theirs(toy / "toy.bin", "words of text", "en"), abs=1e-6)
    assert quality[1] == pytest.approx(theirs(toy / "toy.bin", "一些文字", "zh"), abs=1e-6)
    assert quality[2] is None
    chances = [theirs(toy / "small.ftz", text, "digits") for text in docs["text"].fill_null("").to_pylist()]
    assert after["drop"].to_pylist() == ["low_digits" if chance < 0.5 else None for chance in chances]


def test_what_scores_low_is_dropped_with_figure_and_limit(toy: Path) -> None:
    docs = documents(["1 2 3 4 5", "the law of the land and of the people"])
    after = Classify(models={"plain": {"path": toy / "toy.bin", "label": "digits", "min": 0.5}}).apply(docs)
    assert after["drop"].to_pylist() == [None, "low_plain"]
    assert after["drop_value"].to_pylist() == [None, after["plain"][1].as_py()]
    assert after["drop_limit"].to_pylist() == [None, 0.5]


def test_a_card_beside_the_model_says_how_to_ask(toy: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes((toy / "toy.bin").read_bytes())
    preparation = {"normalisation": "fold", "segmentation": "han-chars", "window": 50}
    card = {"label": "__label__zh", "language": ["zh"], "preparation": preparation, "more": 1}
    path.with_suffix(".json").write_text(json.dumps(card))
    text = "这是 一些，FÜR 123。" * 100
    stage = Classify(models={"it": {"path": path}})
    assert stage.files() == [path, path.with_suffix(".json")]
    asked = classifiers.Preparation("fold", "han-chars", 50)(*text_buffers(pa.array([text])))[0].tobytes().decode()
    assert asked.startswith("这 是 一 些 , fur 0 。 ")
    assert len(asked.encode()) < 400
    (score,) = stage.apply(documents([text], ["zh"]))["it"].to_pylist()
    assert score == pytest.approx(theirs(path, asked, "zh"), abs=1e-6)
    path.with_suffix(".json").write_text(json.dumps({**card, "preparation": {"segmentation": "syllables"}}))
    with pytest.raises(ValueError, match="does not know"):
        Classify(models={"it": {"path": path}})


def test_the_shipped_pair_prefers_prose() -> None:
    """Prose against a menu, in both languages; the two models fill one column."""
    texts = [
        "A glacier is a large mass of ice that moves slowly over land. It forms where more snow falls than melts, and "
        "over many years the weight of new snow presses the old into ice, which begins to flow downhill.",
        "Home | Products | Support | Login | Register | Contact us | Sitemap | Cart (0) | Next page >> | Share | Print",
        "冰川是在陆地上缓慢移动的巨大冰体。在降雪多于融雪的地方，积雪经过多年的挤压逐渐变成冰，并在重力的作用下向山下流动。",
        "首页 | 产品 | 登录 | 注册 | 联系我们 | 网站地图 | 购物车 (0) | 下一页 | 分享 | 打印 | 关于我们 | 返回",
    ]
    stage = Classify()
    scores = stage.apply(documents([*texts, "Ein Satz."], ["en", "en", "zh", "zh", "de"]))["quality_score"].to_pylist()
    assert scores[0] > 0.5 > scores[1]
    assert scores[2] > 0.5 > scores[3]
    assert scores[4] is None
    assert all(file.stat().st_size <= 2_000_000 for file in stage.files())


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ({"a": {}}, "exactly one of"),
        ({"a": {"path": ROOT / "README.md", "label": "yes"}}, "README.md is not a fastText model"),
        ({"a": {"builtin": "en", "path": "x.bin"}}, "exactly one of"),
        ({"a": {"builtin": "en", "kepe": 1}}, "kepe"),
        ({"a": {"path": str(LID)}}, "has no card"),
        ({"A b": {"builtin": "en"}}, "pattern"),
        ({"text": {"builtin": "en"}}, "column of every document"),
        ({"a": {"builtin": "en", "column": "c"}, "b": {"builtin": "en", "column": "c"}}, "share the column"),
        (
            {"a": {"builtin": "en", "column": "c", "language": []}, "b": {"builtin": "zh", "column": "c"}},
            "of their own",
        ),
        ({}, "at least 1"),
    ],
)
def test_a_mistake_is_said_before_anything_runs(models: dict, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Classify(models=models)


def test_a_label_the_model_lacks_is_named() -> None:
    with pytest.raises(ValueError, match="no label 'xx'; it has"):
        Classify(models={"a": {"path": LID, "label": "xx"}}).apply(documents(["text"]))


# Preparation


def twin(text: str, fold: bool, split_han: bool) -> str:
    """The kernel in plain Python."""
    classes, folds = characters.classes(), characters.fold()
    tokens, word, was_digit = [], "", False
    for char in text:
        kind = int(classes[ord(char)])
        if kind == 0 or kind & characters.SPACE:
            tokens, word, was_digit = [*tokens, word], "", False
            continue
        made, is_digit = char, bool(kind & characters.DIGIT)
        if fold:
            made = chr(folds[ord(char)])
            if made == "\0" or (is_digit and was_digit):
                continue
            made, was_digit = ("0" if is_digit else made), is_digit
        if (fold and kind & characters.PUNCT) or (split_han and kind & characters.UNSPACED):
            tokens, word = [*tokens, word, made], ""
        else:
            word += made
    return "".join(f"{token} " for token in [*tokens, word] if token)


def assert_prepared(texts: list[str]) -> None:
    for fold in (False, True):
        for split_han in (False, True):
            data, offsets = prepare(*text_buffers(pa.array(texts, pa.string())), fold, split_han)
            found = [data[a:b].tobytes().decode() for a, b in pairwise(offsets)]
            assert found == [twin(text, fold, split_han) for text in texts]


def test_real_texts_are_prepared_as_the_plain_twin_does() -> None:
    assert_prepared([*real_texts()[:60], *HOSTILE])


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), max_size=4))
def test_any_text_is_prepared_as_the_plain_twin_does(texts: list[str]) -> None:
    assert_prepared([*texts, ""])


def test_preparing_makes_the_same_of_what_reads_the_same() -> None:
    data, _ = prepare(*text_buffers(pa.array(["Straße CAFÉ ２０２６年，v3.11"])), True, True)
    assert data.tobytes().decode() == "straße cafe 0 年 , v0 . 0 "
    assert unicodedata.normalize("NFC", data.tobytes().decode()) == data.tobytes().decode()


# Cuts by rate


def kept(docs: pa.Table, folder: Path, cuts: tuple[int, ...] = (), **config) -> pa.Table:
    """The verdicts of a corpus in parts cut at these rows."""
    barrier = Keep(**config)
    parts = []
    folder.mkdir(parents=True, exist_ok=True)
    for number, (first, last) in enumerate(pairwise([0, *cuts, len(docs)])):
        path = folder / f"{number}.arrow"
        sketch = barrier.sketch(docs.slice(first, last - first))
        with pa.ipc.new_file(str(path), sketch.schema) as writer:
            writer.write_table(sketch)
        parts.append(Part(folder / "docs.parquet", path, len(sketch)))
    tables = [pq.read_table(file) for file in barrier.resolve(parts, LocalSteps(folder))]
    assert [len(table) for table in tables] == [part.rows for part in parts]
    expected = pa.schema([*barrier.columns().items(), *DROP.items()])
    assert all(table.schema.equals(expected) for table in tables)
    return pa.concat_tables(tables)


def scored(scores: np.ndarray, langs: list[str | None] | None = None) -> pa.Table:
    columns = {"id": pa.array(names(len(scores))), "quality_score": pa.array(scores, pa.float32(), from_pandas=True)}
    return pa.table(columns | {"lang": pa.array(langs or ["en"] * len(scores), pa.string())})


def stays(verdicts: pa.Table) -> np.ndarray:
    return verdicts["drop"].is_null().to_numpy()


@pytest.mark.parametrize("rate", [0.0, 0.001, 0.1, 0.37, 1.0])
def test_the_rate_is_met_to_the_document_and_the_best_stay(tmp_path: Path, rate: float) -> None:
    scores = np.random.default_rng(1).normal(size=100_000).astype(np.float32)
    verdicts = kept(scored(scores), tmp_path, (1, 40_000, 40_000), rate=rate)
    stay = stays(verdicts)
    assert stay.sum() == round(rate * 100_000)
    if 0 < rate < 1:
        assert scores[stay].min() > scores[~stay].max()
        dropped = verdicts.filter(pa.array(~stay))
        assert set(dropped["drop"].to_pylist()) == {"below_rate"}
        assert set(dropped["drop_limit"].to_pylist()) == {float(scores[stay].min())}
        assert np.array_equal(dropped["drop_value"].to_numpy(), scores[~stay].astype(float))


@pytest.mark.parametrize("kind", ["ties", "few", "signs"])
def test_the_same_stay_however_they_are_spread(tmp_path: Path, kind: str) -> None:
    random = np.random.default_rng(2)
    scores = {"ties": np.zeros(30_000), "few": random.integers(0, 3, 30_000) / 7, "signs": random.normal(size=30_000)}[
        kind
    ]
    docs = scored(scores.astype(np.float32))
    once = kept(docs, tmp_path / "a", rate=0.1)
    assert stays(once).sum() == 3000
    assert kept(docs, tmp_path / "b", (5, 9_000, 20_001), rate=0.1).equals(once)
    order = random.permutation(len(docs))
    mixed = kept(docs.take(pa.array(order)), tmp_path / "c", (15_000,), rate=0.1)
    assert np.array_equal(stays(mixed), stays(once)[order])


def test_buckets_are_equal_parts_in_the_order_of_the_scores(tmp_path: Path) -> None:
    scores = np.random.default_rng(3).exponential(size=1234).astype(np.float32)
    bucket = kept(scored(scores), tmp_path)["bucket"].to_numpy()
    ranks = np.argsort(np.argsort(scores))
    assert np.array_equal(bucket, ranks * 20 // 1234)


@pytest.mark.parametrize("count", [1, 2, 7, 19, 20, 21])
def test_few_documents_have_buckets_too(tmp_path: Path, count: int) -> None:
    bucket = kept(scored(np.arange(count).astype(np.float32)), tmp_path)["bucket"].to_pylist()
    assert bucket == [rank * 20 // count for rank in range(count)]


def test_each_language_is_cut_for_itself_and_the_whole_is_right(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    langs = random.choice(
        ["en", "zh", *[f"x{chr(97 + i)}" for i in range(20)]], 5000, p=[0.5, 0.4, *[0.005] * 20]
    ).tolist()
    scores = (random.normal(size=5000) + np.array([5 * (lang == "zh") for lang in langs])).astype(np.float32)
    stay = stays(kept(scored(scores, langs), tmp_path, (2500,), rate=0.1))
    assert stay.sum() == 500
    totals, left = Counter(langs), Counter(np.array(langs)[stay].tolist())
    assert all(abs(left[lang] - 0.1 * total) <= 1 for lang, total in totals.items())
    together = stays(kept(scored(scores, langs), tmp_path / "all", by=None, rate=0.1))
    assert Counter(np.array(langs)[together].tolist())["zh"] > 490
    english = stays(kept(scored(scores, langs), tmp_path / "one", rate=1.0, rates={"en": 0.0}))
    assert set(np.array(langs)[~english]) == {"en"}


@pytest.mark.filterwarnings("error")
def test_groups_of_one_document_and_rates_of_none(tmp_path: Path) -> None:
    """Groups too small to be cut are looked up all the same, and are in no other group."""
    langs = ["en"] * 100 + ["de", "fr", "it", None]
    docs = scored(np.arange(104).astype(np.float32), langs)
    stay = stays(kept(docs, tmp_path, (50, 101), rate=0.1, rates={"": 1.0, "zn": 0.5}))
    summary = json.loads((tmp_path / "verdicts/summary.json").read_text())
    assert {row["group"]: row["kept"] for row in summary["groups"]} == Counter(np.array(langs, object)[stay]) | {
        lang: int(stay[langs.index(lang)]) for lang in ("de", "fr", "it", None)
    }
    assert summary["kept"] == stay.sum() == 10
    assert summary["rates_unused"] == ["", "zn"]
    assert [alarm["said"] for alarm in summary["alarms"]] == [
        "`rates` names '', 'zn', which no document with a quality_score is of"
    ]
    with pytest.raises(ValidationError, match="`rates` are of the values of `by`, which is null"):
        Keep(by=None, rates={"en": 0.1})


def test_documents_without_a_score_stay_or_go(tmp_path: Path) -> None:
    scores = np.array([0.5, np.nan, 0.1, np.nan, 0.9, 0.2], np.float32)
    docs = scored(scores, ["en", "en", "en", None, None, "en"])
    verdicts = kept(docs, tmp_path / "a", rate=0.5)
    assert verdicts["bucket"].null_count == 2
    assert verdicts["drop"].to_pylist()[1::2][:2] == [None, None]
    verdicts = kept(docs, tmp_path / "b", rate=0.5, nulls="drop")
    assert [reason == "no_score" for reason in verdicts["drop"].to_pylist()] == np.isnan(scores).tolist()
    assert kept(docs.slice(0, 0), tmp_path / "c").num_rows == 0


@pytest.mark.parametrize(
    ("missing", "nulls", "said"),
    [
        (200, "keep", "no document has a quality_score, so nothing was cut"),
        (200, "drop", "no document has a quality_score, so nothing was cut"),
        (21, "keep", "21 of 200 documents have no quality_score and stay, `nulls: drop` drops them"),
        (20, "keep", None),
        (199, "drop", None),
    ],
)
def test_a_cut_that_cannot_do_what_is_asked_raises_an_alarm(
    tmp_path: Path, missing: int, nulls: str, said: str | None
) -> None:
    scores = np.arange(200, dtype=np.float32)
    scores[:missing] = np.nan
    kept(scored(scores), tmp_path, rate=0.1, nulls=nulls)
    alarms = json.loads((tmp_path / "verdicts/summary.json").read_text())["alarms"]
    assert [alarm["said"] for alarm in alarms] == ([said] if said else [])


def colliding() -> list[str]:
    """Eight ids in the order of their hashes' lower halves (and, there alike, of the upper ones), two of them alike."""
    seen: dict[int, str] = {}
    for name in names(300_000):
        lower = xxhash.xxh3_64_intdigest(name.encode()) & 0xFFFFFFFF
        if lower in seen:
            break
        seen[lower] = name
    twins = sorted([seen[lower], name], key=lambda one: xxhash.xxh3_64_intdigest(one.encode()))
    below, above = sorted(one for one in seen if one < lower)[:3], sorted(one for one in seen if one > lower)[:3]
    return [*(seen[one] for one in below), *twins, *(seen[one] for one in above)]


@pytest.mark.parametrize("cuts", [(), (4,), (1, 4, 7)])
def test_the_rate_is_met_between_two_whose_hashes_begin_alike(tmp_path: Path, cuts: tuple[int, ...]) -> None:
    """Half the hash stands in the number that is cut at; two of 90,000 have the same half."""
    ids = colliding()
    for at, chosen in enumerate(([*range(8)], [3, 7, 0, 4, 1, 2, 6, 5])):
        docs = pa.table({"id": [ids[i] for i in chosen], "x": [0.5] * 8})
        verdicts = kept(docs, tmp_path / str(at), cuts, column="x", by=None, rate=0.5, buckets=2)
        assert verdicts["bucket"].to_pylist() == [int(i >= 4) for i in chosen]
        assert verdicts["drop"].to_pylist() == ["tied" if i < 4 else None for i in chosen]
        summary = json.loads((tmp_path / str(at) / "verdicts/summary.json").read_text())
        assert (summary["kept"], summary["rate"], summary["groups"][0]["kept"]) == (4, 0.5, 4)


def test_the_summary_counts_what_is_kept(tmp_path: Path) -> None:
    """Also where ids, against the rules, are the same, so that no cut can be made between them."""
    docs = pa.table({"id": ["a"] * 6, "x": [1.0, 1, 1, 1, 0, 2], "lang": ["en"] * 6})
    verdicts = kept(docs, tmp_path, (2, 5), column="x", rate=0.5)
    assert stays(verdicts).tolist() == [True, True, True, True, False, True]
    summary = json.loads((tmp_path / "verdicts/summary.json").read_text())
    assert (summary["kept"], summary["groups"][0]["kept"], summary["rate"]) == (5, 5, 5 / 6)


def test_who_leaves_by_the_hash_is_called_tied(tmp_path: Path) -> None:
    scores = np.repeat([0.0, 0.5, 1.0], 100).astype(np.float32)
    for name, config in (("below_rate", {}), ("above_rate", {"lowest": True})):
        verdicts = kept(scored(scores), tmp_path / name, (120,), rate=0.5, **config)
        assert Counter(verdicts["drop"].to_pylist()) == {None: 150, name: 100, "tied": 50}
        tied = verdicts.filter(pa.array([reason == "tied" for reason in verdicts["drop"].to_pylist()]))
        assert set(tied["drop_value"].to_pylist()) == set(tied["drop_limit"].to_pylist()) == {0.5}


@pytest.mark.filterwarnings("error")
def test_numbers_beyond_float32_tie(tmp_path: Path) -> None:
    """Integers above 2^53, which no float64 has, and figures above 3.4e38, which are infinite."""
    ids = names(4)
    for column, values, wanted in (
        ("int64", [2**62, 2**53 + 1, -(2**62), 3], [True, True, False, False]),
        ("uint64", [2**64 - 1, 2**63, 1, 0], [True, True, False, False]),
        ("float64", [1e300, 1e39, -1e300, 3e38], [True, True, False, False]),
    ):
        docs = pa.table({"id": ids, "x": pa.array(values, column)})
        verdicts = kept(docs, tmp_path / column, (1,), column="x", by=None, rate=0.5)
        assert stays(verdicts).tolist() == wanted, column
    for column, pair in (("int64", [2**24, 2**24 + 1]), ("float64", [1e39, 1e300])):
        docs = pa.table({"id": ids[:2], "x": pa.array(pair, column)})
        verdicts = kept(docs, tmp_path / f"tied {column}", column="x", by=None, rate=0.5)
        assert verdicts["drop"].drop_null().to_pylist() == ["tied"]


def test_the_order_of_numbers_is_that_of_scores() -> None:
    scores = np.array([-np.inf, -3e38, -1.5, -1e-45, -0.0, 0.0, 1e-45, 0.25, 7, np.inf], np.float32)
    found = ordered(scores)
    assert found.dtype == np.uint32
    assert (np.diff(found.astype(np.int64)) > 0).tolist() == [True] * 4 + [False] + [True] * 4


def test_the_lowest_may_be_the_best(tmp_path: Path) -> None:
    """As of bits per character: figures and limits stay in the scale of the column."""
    bits = np.array([1.5, 0.75, 3.25, -2.0, 0.0, 1.0, 7.0, 2.0], np.float32)
    verdicts = kept(scored(bits), tmp_path / "a", (3,), rate=0.5, lowest=True, buckets=4)
    assert stays(verdicts).tolist() == [False, True, False, True, True, True, False, False]
    assert verdicts["bucket"].to_pylist() == [1, 2, 0, 3, 3, 2, 0, 1]
    dropped = verdicts.filter(verdicts["drop"].is_valid())
    assert set(dropped["drop"].to_pylist()) == {"above_rate"}
    assert dropped["drop_value"].to_pylist() == [1.5, 3.25, 7.0, 2.0]
    assert set(dropped["drop_limit"].to_pylist()) == {1.0}
    summary = json.loads((tmp_path / "a/verdicts/summary.json").read_text())["groups"][0]
    assert (summary["threshold"], summary["edges"]) == (1.0, [2.0, 1.0, 0.0])
    zero = kept(scored(np.zeros(4, np.float32)), tmp_path / "b", rate=0.5, lowest=True)
    assert str(zero["drop_limit"].drop_null()[0].as_py()) == "0.0"


# Draws


def weighted(weights: list[float], seed: int, temperature: float = 1.0, far: float = 0.0) -> list[int]:
    """The order in which documents with these weights would be drawn, of one seed; their logs lie `far` from 0."""
    docs = scored(far + temperature * np.log(np.array(weights)))
    numbers = Keep(temperature=temperature, seed=seed).sketch(docs)["number"].to_numpy()
    return np.argsort(numbers)[::-1].tolist()


@pytest.mark.parametrize(("temperature", "far"), [(1.0, 0.0), (20.0, -300.0), (1.0, 1e5)])
def test_documents_are_drawn_in_proportion_without_replacement(temperature: float, far: float) -> None:
    """Inclusion in a sample of 2 of 4 against the probabilities by enumeration, and the order of the two; also where
    a step of float32 is 0.008."""
    weights, seeds = [1.0, 2.0, 4.0, 13.0], 6000
    share = np.array(weights) / sum(weights)
    pairs = {(i, j): share[i] * share[j] / (1 - share[i]) for i in range(4) for j in range(4) if i != j}
    drawn = Counter(tuple(weighted(weights, seed, temperature, far)[:2]) for seed in range(seeds))
    for pair, chance in pairs.items():
        assert abs(drawn[pair] / seeds - chance) < 4.5 * (chance * (1 - chance) / seeds) ** 0.5, pair
    for i in range(4):
        included = sum(chance for pair, chance in pairs.items() if i in pair)
        found = sum(count for pair, count in drawn.items() if i in pair) / seeds
        assert abs(found - included) < 4.5 * (included * (1 - included) / seeds) ** 0.5


def test_the_noise_is_gumbel_and_unlike_other_hashes_of_the_id() -> None:
    """Else what is drawn against the odds would stand together in the shards, which are ordered by such a hash."""
    ids = pa.chunked_array([names(40_000)])
    noise = np.sort(gumbel(ids, 1))
    distance = np.abs(np.exp(-np.exp(-noise)) - (np.arange(40_000) + 0.5) / 40_000).max()
    assert distance < 1.63 / 40_000**0.5, "Kolmogorov and Smirnov, 1 %"
    plain = [[xxhash.xxh3_64_intdigest(one.encode(), seed) for one in ids.to_pylist()] for seed in (0, 1)]
    for other in (gumbel(ids, 2), *np.array(plain, float)):
        assert abs(np.corrcoef(gumbel(ids, 1), other)[0, 1]) < 0.02


def test_a_draw_is_exact_and_says_what_was_compared(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    scores = random.normal(size=20_000).astype(np.float32)
    docs = scored(scores, random.choice(["en", "zh"], 20_000).tolist())
    verdicts = kept(docs, tmp_path, (1, 9_000), rate=0.1, temperature=0.5, seed=7)
    stay = stays(verdicts)
    assert stay.sum() == 2000
    assert scores[stay].min() < np.median(scores) < np.median(scores[stay]), "drawn, not cut"
    dropped = verdicts.filter(pa.array(~stay))
    assert set(dropped["drop"].to_pylist()) == {"not_drawn"}
    values, limits = dropped["drop_value"].to_numpy(), dropped["drop_limit"].to_numpy()
    assert (values <= limits).all()
    noisy = (scores + 0.5 * gumbel(docs["id"], 7)).astype(np.float32)
    assert np.array_equal(values, noisy[~stay])
    assert sorted(set(limits)) == sorted(noisy[stay & (docs["lang"].to_numpy() == lang)].min() for lang in ("en", "zh"))
    plain = kept(docs, tmp_path / "plain")
    assert verdicts["bucket"].equals(plain["bucket"]), "buckets are by score, without the noise"


def test_the_same_are_drawn_however_they_are_spread(tmp_path: Path) -> None:
    docs = scored(np.random.default_rng(6).integers(0, 4, 5000).astype(np.float32))
    once = kept(docs, tmp_path / "a", rate=0.3, temperature=1)
    assert kept(docs, tmp_path / "b", (7, 1_900, 1_900), rate=0.3, temperature=1).equals(once)
    order = np.random.default_rng(7).permutation(len(docs))
    mixed = kept(docs.take(pa.array(order)), tmp_path / "c", (2_500,), rate=0.3, temperature=1)
    assert np.array_equal(stays(mixed), stays(once)[order])
    other = stays(kept(docs, tmp_path / "d", rate=0.3, temperature=1, seed=2))
    assert other.sum() == stays(once).sum() == 1500
    assert not np.array_equal(other, stays(once))


def test_the_lowest_are_drawn_more_often_where_they_are_best(tmp_path: Path) -> None:
    scores = np.repeat([0.0, 1.0, 2.0], 2000).astype(np.float32)
    verdicts = kept(scored(scores), tmp_path, rate=0.25, temperature=1, lowest=True)
    counts = [stays(verdicts)[scores == score].sum() for score in (0, 1, 2)]
    assert sum(counts) == 1500
    assert counts[0] > 1.8 * counts[1] > 1.8 * 1.8 * counts[2] > 0
    dropped = verdicts.filter(pa.array(~stays(verdicts)))
    assert (dropped["drop_value"].to_numpy() >= dropped["drop_limit"].to_numpy()).all()


def test_the_ends_of_rates_and_of_temperatures(tmp_path: Path) -> None:
    scores = np.array([3.0, np.nan, -np.inf, 1.0, np.inf, 2.0], np.float32)
    docs = scored(scores)
    for rate, count in ((0.0, 1), (1.0, 6)):
        verdicts = kept(docs, tmp_path / str(rate), (2,), rate=rate, temperature=1, buckets=1)
        assert stays(verdicts).sum() == count, "and the one without a score"
    cold = kept(docs, tmp_path / "cold", rate=0.4, temperature=1e-6)
    assert stays(cold).tolist() == stays(kept(docs, tmp_path / "cut", rate=0.4)).tolist()
    hot = [weighted([1.0, 50.0], seed)[0] for seed in range(300)]
    assert 0 < hot.count(0) < 20
    even = scored(np.log([1.0, 50.0]))
    firsts = [int(np.argmax(Keep(temperature=1e4, seed=seed).sketch(even)["number"].to_numpy())) for seed in range(300)]
    assert 110 < sum(firsts) < 190
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        Keep(temperature=-1)
