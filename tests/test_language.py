"""The language stage: the three witnesses, what is kept, and the letters behind it."""

import gzip
import itertools
import json
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from test_extract import sample_pages

from pipeline import schema
from stages import language
from stages.extract import Extract
from stages.kernels import cases, script, windows
from stages.language import Language

UDHR = json.loads((Path(__file__).parent / "data" / "udhr.json").read_text(encoding="utf-8"))["texts"]
SAMPLES = Path(__file__).parent.parent / "data_samples"
CHARS = st.one_of(st.characters(codec="utf-8"), st.sampled_from("a \n\x7f\x85\ufdd0\ufffd\ufffe\U0001ffff汉é😀"))


def identify(texts: list[str | None], **config: object) -> pa.Table:
    docs = pa.table({"text": pa.array(texts, pa.string())})
    out = Language(**config).apply(docs)
    assert out["text"].equals(docs["text"])
    assert {name: out.schema.field(name).type for name in Language.adds} == Language.adds
    return out


def one(text: str) -> dict:
    return identify([text]).to_pylist()[0]


def predict(text: str) -> list[language.Verdict]:
    """The three likeliest languages by fastText alone."""
    data, offsets = schema.text_buffers(pa.array([text]))
    labels, chances = language._predict(data, offsets, language.SHIPPED)
    languages = language._languages(language.SHIPPED)
    return [language.Verdict(languages[i], chance) for i, chance in zip(labels[0], chances[0], strict=True) if i >= 0]


def accuracy(found: list[str], wanted: list[str]) -> float:
    return float(np.mean([a == b for a, b in zip(found, wanted, strict=True)]))


@pytest.mark.parametrize("field", ["page", "preamble"])
def test_the_first_100_characters_of_the_udhr(field: str) -> None:
    wanted = [row["lang"] for row in UDHR]
    major = [row["major"] for row in UDHR]
    found = identify([row[field] for row in UDHR])["lang"].to_pylist()
    of_major = [[lang for lang, is_major in zip(langs, major, strict=True) if is_major] for langs in (found, wanted)]
    assert len(set(of_major[1])) >= 60
    assert accuracy(*of_major) >= 0.98
    assert accuracy(found, wanted) >= 0.97


def test_neither_model_alone_would_reach_that() -> None:
    texts, wanted = [row["page"] for row in UDHR], [row["lang"] for row in UDHR]
    assert accuracy([predict(text)[0].lang for text in texts], wanted) < 0.75
    assert accuracy([language._cld2(text.encode())[0].lang for text in texts], wanted) < 0.97


@pytest.mark.parametrize("lang", ["zu", "xh", "sn", "tn", "ts", "st", "lg", "mi"])
def test_languages_fasttext_has_never_heard_of_do_not_pollute_english(lang: str) -> None:
    texts = [row["preamble"] for row in UDHR if row["lang"] == lang]
    assert identify(texts, keep=["en"])["drop"].to_pylist() == ["language"] * len(texts)
    assert identify(texts)["lang"].to_pylist() == [lang] * len(texts)


@pytest.mark.parametrize(
    ("text", "lang", "form"),
    [
        ("人人生而自由,在尊严和权利上一律平等。", "zh", "Hans"),  # Japanese at 0.96, says lid.176
        ("人人生而自由,在尊嚴和權利上一律平等。", "zh", "Hant"),
        ("床前明月光", "zh", "Hani"),
        ("すべての人間は、生まれながらにして自由であり", "ja", "Jpan"),
        ("日本国憲法の改正", "ja", "Jpan"),
        ("大阪のカフェ", "ja", "Jpan"),
        ("모든 인간은 태어날 때부터 자유로우며", "ko", "Kore"),
        ("대한민국헌법 大韓民國憲法", "ko", "Kore"),
        ("如何使用 GNU/Linux 操作系统下的 Apache HTTP Server 配置虚拟主机", "zh", "Hans"),
        (
            "这家店的招牌是日文的「ラーメン」，我们常常去那里吃面，也常常在那里和朋友们一起喝酒聊天到很晚才回家",
            "zh",
            "Hans",
        ),
        ("Все люди рождаются свободными и равными", "ru", "Cyrl"),
        ("Όλοι οι άνθρωποι γεννιούνται ελεύθεροι", "el", "Grek"),
    ],
)
def test_letters_decide_between_chinese_japanese_and_korean(text: str, lang: str, form: str) -> None:
    assert (one(text)["lang"], one(text)["script"]) == (lang, form)


def test_the_score_is_the_belief_in_any_language_of_these_letters() -> None:
    sure = [predict(text) for text in ("人类社会的构成员", "人類社会のすべての構成員")]
    assert all(sum(verdict.score for verdict in found) <= 1.001 for found in sure)
    row = one("人類社会のすべての構成員")  # zh .65, ja .35 by lid.176
    assert row["lang"] == "ja"
    assert row["lang_score"] == pytest.approx(1.0, abs=0.01)
    assert one("嗰個人喺度做咩嘢呀？佢哋冇嚟過")["lang_score"] > 0.9  # Emilian, says lid.176


@pytest.mark.parametrize(
    ("label", "score", "lang"), [("yue", 0.9, "yue"), ("yue", 0.79, "zh"), ("wuu", 0.99, "zh"), ("ja", 0.96, "zh")]
)
def test_cantonese_only_where_the_model_is_sure(label: str, score: float, lang: str) -> None:
    found = [language.Verdict(label, score), language.Verdict("zh", 1 - score)]
    assert language._by_letters(found, "佢哋冇嚟過".encode(), han=5, kana=0, hangul=0) == (
        lang,
        1.0 if lang == "zh" else score,
    )


def test_a_little_kana_in_much_han() -> None:
    def by_letters(lang: str, kana: int) -> str:
        return language._by_letters([language.Verdict(lang, 1.0)], b"", han=100 - kana, kana=kana, hangul=0).lang

    assert [by_letters("zh", kana) for kana in (9, 10)] == ["zh", "ja"]
    assert [by_letters("ja", kana) for kana in (1, 2)] == ["zh", "ja"]


@pytest.mark.parametrize("text", [None, "", " \n", "12345 !!", "🎉🎉", "\x00\x01"])
def test_a_text_without_letters_is_undetermined(text: str | None) -> None:
    row = identify([text]).to_pylist()[0]
    assert (row["lang"], row["lang_score"], row["script"]) == ("und", 0.0, "Zyyy")


def test_control_characters_and_noncharacters_reach_no_model() -> None:
    assert one("Ngokwesivumelwano\x00 \x07wabelana\ufffe ngawo\U0001ffff wonke umuntu\x85")["lang"] == "zu"


def test_what_is_kept_and_why_not() -> None:
    english, german = (
        "All human beings are born free and equal in dignity.",
        "Alle Menschen sind frei und gleich geboren.",
    )
    out = identify([english, german, "hello"], keep=["en"], min_score=0.5, scores={"en": 0.65}).to_pylist()
    assert [row["drop"] for row in out] == [None, "language", "language_score"]
    assert out[1]["drop_value"] is None
    assert out[2]["drop_value"] == pytest.approx(out[2]["lang_score"])
    assert out[2]["drop_limit"] == 0.65
    assert "drop" not in identify([english, german]).column_names


@pytest.mark.parametrize("lang", ["en", "fr", "de", "es", "pl", "tr", "ru", "el", "vi", "cs", "hu"])
def test_capitals_are_of_the_language_they_are_in(lang: str) -> None:
    texts = [row["preamble"] for row in UDHR if row["lang"] == lang]
    capitals = [text.replace("i", "İ").upper() if lang == "tr" else text.upper() for text in texts]
    assert identify(capitals)["lang"].to_pylist() == [lang] * len(texts)
    assert identify(capitals, keep=[lang])["drop"].to_pylist() == [None] * len(texts)
    mixed = [*texts, *capitals, "", "我们"]  # each row by itself
    assert identify(mixed)["lang"].to_pylist() == [lang] * 2 * len(texts) + ["und", "zh"]


def test_ordinary_text_is_asked_about_as_it_is() -> None:
    texts = ["The USA and the EU met in New York.", "ß", "BBC", "Ωμέγα", "12"]
    data = windows.sample(*schema.text_buffers(pa.array(texts)), 600)
    small = language._in_small_letters(*data)
    assert small[0].tobytes().decode() == "".join(texts).replace("BBC", "bbc")
    assert language._small("IŞIK İLE") == "ışık ile"
    assert language._small("NIGHT") == "night"


@settings(deadline=None)
@given(st.lists(st.text(CHARS | st.sampled_from("AÀaǅßΣσЖж"), max_size=30), max_size=5))
def test_the_kernel_counts_capitals_as_plain_python_does(texts: list[str]) -> None:
    counts = cases.count(*schema.text_buffers(pa.array(texts, pa.string())))
    assert counts.tolist() == [[sum(map(str.islower, text)), sum(map(str.isupper, text))] for text in texts]


CROATIAN = """Čuvar se četiri puta svake noći penjao uz stube kako bi navio sat koji je okretao leću.
    Kad je u luku stigla struja, svjetiljka je zamijenjena, ali je stara leća ostala."""
NYNORSK = "Om hausten får biene sukkerlake, opninga vert gjord smal så ingen mus kan kome inn, og kuba får vere i fred."
SLOVENE = "Ko je v pristanišče prišla elektrika, so svetilko zamenjali, stara leča pa je ostala, ker niso našli boljše."


@pytest.mark.parametrize(("text", "lang"), [(CROATIAN, "hr"), (NYNORSK, "nn"), (SLOVENE, "sl")])
def test_relatives_do_not_cost_a_document_its_place(text: str, lang: str) -> None:
    assert predict(text)[0].score < 0.65
    row = identify([text], keep=[lang]).to_pylist()[0]
    assert (row["lang"], row["drop"]) == (lang, None)
    assert row["lang_score"] > 0.65
    assert identify([text], keep=["en"])["drop"].to_pylist() == ["language"]


def test_the_score_is_that_of_the_language_and_its_relatives() -> None:
    found = [language.Verdict("hr", 0.4), language.Verdict("sh", 0.3), language.Verdict("en", 0.2)]
    assert language._with_relatives(found, found[0]) == ("hr", pytest.approx(0.7))
    found = [language.Verdict("fi", 0.4), language.Verdict("et", 0.3)]
    assert language._with_relatives(found, found[0]) == ("fi", 0.4)


def test_thresholds_of_languages_the_model_is_rarely_sure_of() -> None:
    irish = next(row["preamble"] for row in UDHR if row["lang"] == "ga")

    def drop(**config: object) -> tuple[str | None, float | None]:
        row = identify([irish[:60]], keep=["ga"], **config).to_pylist()[0]
        return row["drop"], row["drop_limit"]

    assert Language()._limit("ga") == 0.25
    assert Language(min_score=0.1)._limit("ga") == 0.1
    assert Language(scores={"ga": 0.9})._limit("ga") == 0.9
    assert Language()._limit("en") == 0.65
    assert drop() == (None, None)
    assert drop(scores={"ga": 1.0}) == ("language_score", 1.0)


def test_a_row_already_dropped_keeps_its_reason() -> None:
    docs = schema.mark(pa.table({"text": ["Alle Menschen sind frei geboren."]}), ["empty"])
    assert Language(keep=["en"]).apply(docs)["drop"].to_pylist() == ["empty"]


@pytest.mark.parametrize("config", [{"keep": ["zh-Hans"]}, {"min_score": 1.5}, {"scores": {"en": -1}}, {"keeps": []}])
def test_a_wrong_configuration_is_refused(config: dict) -> None:
    with pytest.raises(ValidationError):
        Language(**config)


def test_a_model_by_path_gives_the_same_as_the_shipped_one(tmp_path: Path) -> None:
    copy = tmp_path / "own.ftz"
    copy.write_bytes(language.SHIPPED.read_bytes())
    texts = [row["page"] for row in UDHR]
    assert identify(texts, model=copy).equals(identify(texts))
    assert Language(model=copy).files() == [copy]


def test_labels_of_other_models_become_iso_codes() -> None:
    labels = [
        "__label__en",
        "__label__eng_Latn",
        "__label__cmn_Hani",
        "__label__als",
        "__label__als_Latn",
        "__label__ceb",
    ]
    assert [language._language(label) for label in labels] == ["en", "en", "zh", "gsw", "sq", "ceb"]


def test_a_long_document_is_judged_by_its_beginning_middle_and_end() -> None:
    french = next(row["preamble"] for row in UDHR if row["lang"] == "fr")
    noise = "0123456789 " * 3000
    assert one(french * 6 + noise + french * 12 + noise + french * 6)["lang"] == "fr"
    (sample,) = sampled(["汉字" * 5000], language.WINDOW)
    assert set(sample) == set("汉字 ")
    assert len(sample.encode()) <= 3 * language.WINDOW + 2


def sampled(texts: list[str], width: int) -> list[str]:
    data, offsets = windows.sample(*schema.text_buffers(pa.array(texts, pa.string())), width)
    return [data[start:end].tobytes().decode() for start, end in itertools.pairwise(offsets)]


def plainly_sampled(text: str, width: int) -> str:
    raw = text.encode()
    pieces = [raw]
    if len(raw) > 3 * width:
        middle = (len(raw) - width) // 2
        pieces = [raw[place : place + width] for place in (0, middle, len(raw) - width)]
    joined = " ".join(piece.decode("utf-8", "ignore") for piece in pieces)
    return "".join(" " if is_refused(char) else char for char in joined)


def is_refused(char: str) -> bool:
    return unicodedata.category(char) == "Cc" or 0xFDD0 <= ord(char) <= 0xFDEF or ord(char) & 0xFFFF in (0xFFFE, 0xFFFF)


@settings(deadline=None)
@given(st.lists(st.text(CHARS, max_size=40), max_size=5), st.integers(1, 12))
@example(["0000"], 1)
def test_windows_are_cut_as_plain_python_does(texts: list[str], width: int) -> None:
    assert sampled(texts, width) == [plainly_sampled(text, width) for text in texts]


def test_windows_of_real_text_are_cut_as_plain_python_does() -> None:
    texts = [row["page"] * 20 for row in UDHR]
    assert sampled(texts, 600) == [plainly_sampled(text, 600) for text in texts]


def test_windows_leave_out_what_is_not_utf8() -> None:
    data = np.frombuffer(b"a\xe6\xb1b\xffc\xed\xa0\x80d\xef\xbf\xbd", np.uint8)
    out, offsets = windows.sample(data, np.array([0, len(data)]), 100)
    assert (out.tobytes().decode(), offsets.tolist()) == ("abcd\ufffd", [0, 7])


def test_real_articles_and_poems() -> None:
    with gzip.open(SAMPLES / "sample_text.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    out = identify([row["text"] for row in rows]).to_pylist()
    assert [row["lang"] for row in out] == [row["lang"][:2] for row in rows]
    poems = [found["script"] for found, row in zip(out, rows, strict=True) if row["lang"] == "zh-Hant"]
    assert set(poems) == {"Hant"}


UNTRANSLATED = """zh-TW/foreword zh-TW/sect.why-debian ko-KR/sect.why-debian ko-KR/case-study
    vi-VN/foreword el-GR/sect.why-debian el-GR/case-study""".split()  # noqa: SIM905
"""Pages of the handbook whose paragraphs are English, at least most of them, under a translated heading."""


def test_real_pages_in_forty_languages() -> None:
    wanted = {f"http://udhr.example/{row['udhr']}.html": row["lang"] for row in UDHR}
    pages = {address: page for address, page in sample_pages("udhr.example").items() if address in wanted}
    assert len(pages) >= 34
    for address, page in sample_pages("handbook.example").items():
        pages[address] = page
        wanted[address] = "en" if address.split("/", 3)[3].removesuffix(".html") in UNTRANSLATED else address[24:26]
    docs = Extract().apply(pa.table({"text": list(pages.values()), "mime": ["text/html"] * len(pages)}))
    found = dict(zip(pages, Language().apply(docs)["lang"].to_pylist(), strict=True))
    assert found == {address: wanted[address] for address in pages}


def test_a_row_does_not_depend_on_its_batch() -> None:
    docs = pa.table({"text": [row["page"] for row in UDHR]})
    halves = [Language().apply(docs.slice(0, 41)), Language().apply(docs.slice(41))]
    assert pa.concat_tables(halves).equals(Language().apply(docs).combine_chunks())
    assert len(identify([])) == 0


def test_documents_are_tallied_by_language() -> None:
    stage = Language()
    out = stage.apply(pa.table({"text": ["人人生而自由", "我们是中国人", ""]}))
    assert stage.tally(out) == {"lang_zh": 2, "lang_und": 1}


def test_forms_of_chinese_do_not_overlap() -> None:
    simplified, traditional = script.chinese_forms()
    assert set("国权为对会这") <= simplified
    assert set("國權為對會這") <= traditional
    assert not set("后里台干人中着") & (simplified | traditional)


def counted(text: str) -> list[int]:
    counts = [0] * len(script.SCRIPTS)
    for char in text:
        counts[script.table()[ord(char)]] += 1
    return counts


LONG = st.lists(st.one_of(st.text(max_size=40), st.sampled_from(["Ab1 " * 32, "z" * 127, "-" * 129]))).map("".join)


@settings(deadline=None)
@given(st.lists(LONG, max_size=5))
def test_the_kernel_counts_as_plain_python_does(texts: list[str]) -> None:
    data, offsets = schema.text_buffers(pa.array(texts, pa.string()))
    counts = script.count(data, offsets, script.table(), len(script.SCRIPTS))
    assert counts.tolist() == [counted(text) for text in texts]


def test_the_kernel_counts_as_plain_python_does_on_real_text() -> None:
    texts = [row["page"] for row in UDHR]
    data, offsets = schema.text_buffers(pa.array(texts))
    counts = script.count(data, offsets, script.table(), len(script.SCRIPTS))
    assert counts.tolist() == [counted(text) for text in texts]
