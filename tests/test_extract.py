"""The extract stage: main text out of real pages, and pages no parser should see."""

import gzip
import html
import importlib.util
import re
import time
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline import schema
from stages import extract
from stages.extract import Extract
from stages.kernels import markup
from stages.kernels.whitespace import BLANK

SAMPLES = Path(__file__).parent.parent / "data_samples"


def sample_pages(host: str) -> dict[str, str]:
    """The UTF-8 pages of one host of the sample WARC, by address: read by hand, as this is about their markup only."""
    raw = gzip.decompress((SAMPLES / "sample.warc.gz").read_bytes())
    pages, place = {}, 0
    while (start := raw.find(b"WARC/1", place)) >= 0:
        head_end = raw.index(b"\r\n\r\n", start)
        head = raw[start:head_end].decode()
        place = head_end + 4 + int(re.search(r"Content-Length: *(\d+)", head)[1])
        address = re.search(r"WARC-Target-URI: *<?([^\s>]+)", head)
        if "WARC-Type: response" in head and address and f"//{host}/" in address[1]:
            http, _, body = raw[head_end + 4 : place].partition(b"\r\n\r\n")
            if b"chunked" in http:
                body = b"".join(re.split(rb"(?:^|\r\n)[0-9a-fA-F]+\r\n", body))
            pages[address[1]] = (zlib.decompress(body, 31) if b"gzip" in http else body).decode()
    return pages


def apply(texts: list[str | None], mime: str | None = "text/html", **config: object) -> pa.Table:
    docs = pa.table({"text": pa.array(texts, pa.string()), "mime": pa.array([mime] * len(texts), pa.string())})
    out = Extract(**config).apply(docs)
    assert out["mime"].equals(docs["mime"])
    assert out.schema.field("html_bytes").type == pa.int32()
    return out


def bare(text: str) -> str:
    return re.sub(r"\s+", "", text)


def test_no_text_of_the_udhr_pages_is_lost() -> None:
    pages = sample_pages("udhr.example")
    assert len(pages) >= 30
    out = apply(list(pages.values()))
    for page, text in zip(pages.values(), out["text"].to_pylist(), strict=True):
        paragraphs = re.findall(r"<(?:p|h\d)[^>]*>(.*?)</(?:p|h\d)>", page, re.S)
        kept = bare(text)
        assert len(paragraphs) > 60
        assert all(bare(html.unescape(re.sub("<[^>]*>", "", one))) in kept for one in paragraphs)


def test_navigation_goes_and_paragraphs_stay_in_every_language_of_the_handbook() -> None:
    pages = sample_pages("handbook.example")
    assert len(pages) == 45
    out = apply(list(pages.values()))
    assert out["drop"].null_count == len(pages)
    for text in out["text"].to_pylist():
        assert not re.search(r"Product Site|Download the ebook|docnav", text)
        assert len(bare(text)) > 550
        assert text == extract.tidy(text)
    foreword = out["text"][list(pages).index("http://handbook.example/en-US/foreword.html")].as_py()
    assert foreword.startswith("Foreword\n\nLinux has been garnering strength")
    assert "1.\xa0Why This Book?\n\n" in foreword
    assert "\nLinux has gathered a fair amount" in foreword


ENGINES = pytest.mark.parametrize("engine", ["gristmill", "resiliparse"])
SENTENCE = "Its lamp burned oil for sixty years, and the keeper climbed the stairs four times a night to trim it. "


def around(markup: str) -> str:
    """A page whose second paragraph is `markup`."""
    paragraph = f"<p>{SENTENCE}</p>"
    return f"<html><body><main><article>{paragraph}<p>{markup}</p>{paragraph}</article></main></body></html>"


def second(markup: str, engine: str = "gristmill") -> str:
    """What is extracted of the second paragraph."""
    text = apply([around(markup)], engine=engine)["text"][0].as_py()
    assert text.startswith(SENTENCE.strip())
    assert text.endswith(SENTENCE.strip())
    return text.removeprefix(SENTENCE.strip()).removesuffix(SENTENCE.strip()).strip()


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("在<a href=b>北京</a>和<a href=s>上海</a>", "在北京和上海"),
        ("也<b>不</b>用，<em> 很 </em>好", "也不用， 很 好"),
        ("<b>€</b>50, <i>a</i>–<i>f</i>, “<i>yes</i>”", "€50, a–f, “yes”"),
        ("<b>&euro;</b>50, <i>a</i>&ndash;<i>f</i>, &#8220;<i>yes</i>&#x201D;", "€50, a–f, “yes”"),
        ("<b>&#8364</b>50 <i>&#151;</i> <i>&mdash;</i>", "€50 — —"),
        ("là: <b>là</b>, <i>né</i>, <b>v&agrave;</b>, <i>sí</i>, <b>5&nbsp;</b>kg", "là: là, né, và, sí, 5 kg"),
        ("a<!-- c -->的<!-- d -->b<i><u>길</u></i>c<b>น</b>d<b>א<!-- --></b>", "a的b길cนdא"),
        ("می<span>\u200c</span>خواهم", "می\u200cخواهم"),
        ("A<i>&emsp;</i>B<b>\u2009</b>C<p>&emsp;</p><p>D</p>", "A\u2003B\u2009C\n\nD"),
        ("\ufdd0a<b>\ufdd0</b>\ufdd0不\ufdd0<b>不</b>", "a不不"),
        ("<table><tr><td>男</td><td>是</td></tr><tr><td>女</td><td>否</td></tr></table>", "男\t\t是\n女\t\t否"),
        ("Heading<a href=#h>¶</a> <a href=#i>&para;</a><i>\ue000</i><i> &#xF0E0; </i>.", "Heading ."),
    ],
)
def test_short_texts_between_tags_stay(markup: str, text: str) -> None:
    assert re.sub(r"[ \xa0]+", " ", second(markup, "resiliparse")) == text


@ENGINES
def test_short_texts_at_the_ends_of_a_page_stay(engine: str) -> None:
    middle = f"<b>“{SENTENCE}</b>"
    assert apply([f"在{middle}里"], engine=engine)["text"].to_pylist() == [f"在“{SENTENCE}里"]


INLINE = st.sampled_from(
    ["<b>", "</b>", "<i>", "</i>", "<a href=x>", "</a>", "<!-- -->", " ", "\n", "在", "€", "&mdash;", "&#x4e0d;", "é",
     "l", "&agrave;", "&nbsp;", "길", "ab", "🚀", "—", "1"]
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(INLINE, max_size=15))
def test_no_character_between_inline_tags_is_lost(pieces: list[str]) -> None:
    shown = html.unescape(re.sub("<[^>]*>", "", "".join(pieces)))
    for engine in ("gristmill", "resiliparse"):
        assert bare(second(SENTENCE + "".join(pieces) + SENTENCE, engine)) == bare(SENTENCE + shown + SENTENCE)


@pytest.mark.parametrize(
    "markup",
    [
        "我学<ruby>汉<rp>(</rp><rt>hàn</rt><rp>)</rp></ruby><ruby>字<rt>zì</rt></ruby>已经三年了。",
        "我学<ruby>汉<rt>hàn<rb>字<rt>zì</ruby>已经三年了。",
        "我学<ruby><rb>汉</rb><rb>字</rb><rtc><rt>hàn</rt><rt>zì</rt></rtc></ruby>已经三年了。",
    ],
)
@ENGINES
def test_of_ruby_the_base_text_stays(engine: str, markup: str) -> None:
    assert second(markup, engine) == "我学汉字已经三年了。"


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("10<sup>6</sup>, 10<sup class=e> &minus;3</sup>, 4 m<SUP>2</SUP>", "10⁶, 10 ⁻³, 4 m²"),
        ("CO<sub>2</sub>, Na<sup>+</sup>, SO<sub>4</sub><sup>2-</sup>, x<sub>n+1</sub>", "CO₂, Na⁺, SO₄²⁻, xₙ₊₁"),
        ("in 1990<sup><a href=#n>3</a></sup>, 1990<sup>1,2</sup>", "in 1990³, 1990¹,²"),
        ("2<sup>n</sup>, 10<sup><small><i>12</i></small></sup>, <sup>1</sup>/<sub>2</sub>", "2ⁿ, 10¹², ¹/₂"),
        ("the 1<sup>st</sup>, M<sup>me</sup>, x<sub>in</sub>, note<sup>[7]</sup>", "the 1st, Mme, xin, note[7]"),
    ],
)
def test_raised_and_lowered_numbers_are_told_from_those_on_the_line(markup: str, text: str) -> None:
    assert second(markup, "resiliparse") == text


@ENGINES
@pytest.mark.parametrize("tag", ["div class=sidebar", "aside", "form", "footer", "nav", "div id=comments"])
def test_a_page_whose_main_part_is_not_recognised_gives_its_text(engine: str, tag: str) -> None:
    page = f"<html><body><{tag}><p>{SENTENCE}</p><p>{SENTENCE * 3}</p></{tag.split()[0]}></body></html>"
    out = apply([page], engine=engine)
    assert out["drop"].to_pylist() == [None]
    assert out["text"][0].as_py().split() == (SENTENCE * 4).split()


def test_the_whole_text_comes_without_navigation_and_only_where_the_main_part_is_tiny() -> None:
    menu = "<nav><a href=x>Timetable</a></nav><footer>Imprint</footer>"
    unknown = f"{menu}<aside><p>{SENTENCE * 30}</p></aside>"
    assert (
        apply([f"{unknown}<main><p>Short.</p></main>"], engine="resiliparse")["text"][0].as_py().split()
        == (SENTENCE * 30 + "Short.").split()
    )
    assert (
        apply([f"{unknown}<main><p>{SENTENCE * 3}</p></main>"], engine="resiliparse")["text"][0].as_py()
        == (SENTENCE * 3).strip()
    )


def test_markup_goes_and_its_size_is_noted() -> None:
    page = "<html><body><p>Zwölf Boxkämpfer&nbsp;jagen</p><!-- no --><script>no()</script></body></html>"
    out = apply([page]).to_pylist()[0]
    assert out["text"].split() == ["Zwölf", "Boxkämpfer", "jagen"]
    assert out["html_bytes"] == len(page.encode())


@pytest.mark.parametrize("mime", ["text/plain", None])
def test_plain_text_passes_through_as_it_is(mime: str | None) -> None:
    texts = ["<p>no page</p>\n\n\n\n ", "  two  ", "<div>" * 1000]
    out = apply(texts, mime)
    assert out["text"].to_pylist() == texts
    assert out["html_bytes"].null_count == out["drop"].null_count == 3


@pytest.mark.parametrize("mime", ["text/html", "text/plain"])
def test_nothing_but_white_space_is_empty(mime: str) -> None:
    blank = ["", " \n\t", "\u3000\xa0", "\0", None]
    assert apply(blank, mime)["drop"].to_pylist() == ["empty"] * len(blank)
    assert apply(["<p>\n</p>", "<!-- <p>text</p>", "<script>x()</script>"])["drop"].to_pylist() == ["empty"] * 3


def test_guards_name_the_figure_and_leave_the_markup() -> None:
    pages = ["<p>" + "x" * 500, "<div>" * 40 + "x", "<p>a<b " + "c=1 " * 30 + ">x", "<p>text</p>"]
    out = apply(pages, engine="resiliparse", max_bytes=400, max_depth=39, max_attributes=29)
    found = [(row["drop"], row["drop_value"], row["drop_limit"]) for row in out.to_pylist()]
    assert found == [
        ("too_large", 503, 400),
        ("too_deep", 40, 39),
        ("too_many_attributes", 30, 29),
        (None, None, None),
    ]
    assert out["text"].to_pylist() == [*pages[:3], "text"]


@pytest.mark.parametrize(
    "page",
    [
        "<div>" * 100_000 + "x",
        "<div>" * 256 + "x" + "</div>" * 256,
        "<article/>" * 20_000,
        "<p " + "a=1 " * 100_000 + ">x",
        "<p " + " ".join(f"a{i}" for i in range(256)) + ">x",
        "<b" * 100_000,
        "<!--" * 100_000,
        "<script>" * 100_000,
        '<a href="' * 50_000,
        "<p><b>" * 20_000,
        "<sup" * 100_000,
        "<sup>" + "<a>" * 20_000 + "2</sup>",
        ">" * 1000 + "\u3000" * 100_000 + " " * 100_000,
        "<i>" + "&#" * 100_000 + "&amp" * 50_000,
    ],
    ids=lambda page: page[:8],
)
def test_a_hostile_page_costs_little(page: str) -> None:
    apply(["<p>the kernels are compiled</p>"])
    start = time.process_time()
    apply([page])
    assert time.process_time() - start < 0.2


def test_no_real_page_comes_near_the_guards() -> None:
    pages = [
        page for host in ("udhr.example", "handbook.example", "lohelp.example") for page in sample_pages(host).values()
    ]
    depths, attributes = markup.shape(*schema.text_buffers(pa.array(pages)))
    assert 2 <= depths.max() < 32
    assert 2 <= attributes.max() < 32


@pytest.mark.parametrize(
    ("page", "depth", "attributes"),
    [
        ("<div><section></section><div></div></div><div>", 2, 0),
        ("<DIV CLASS=a id='b>' title=\"<div><div>\"><Ul>", 2, 3),
        ("<!-- <div><div> --><div><!--><div><!-- --!><div>", 3, 0),
        ("<script>'<div><div>'</script><div><style><div></styles><div></style></div>", 1, 0),
        ("<p><p><p><li><li><td><b><i><br><img src=x>", 0, 1),
        ("<div/><div/><path/><path/>", 2, 0),
        ("</div></div><div>", 1, 0),
        ("a < b <3 <> </> <!doctype html> <?php ?> <div", 1, 0),
        ("<a b = c d= 'e' f='g'h =i / j/>", 0, 5),
        ("<blockquote><blockquotes>", 2, 0),
    ],
)
def test_the_shape_of_markup(page: str, depth: int, attributes: int) -> None:
    depths, most = markup.shape(*schema.text_buffers(pa.array([page])))
    assert (depths.tolist(), most.tolist()) == ([depth], [attributes])


PIECES = st.sampled_from(
    ["<div>", "</div>", "<div", ">", "<!--", "-->", "<script>", "</script>", "'", '"', "=", " a", "汉", "/", "<"]
)


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.lists(PIECES, max_size=20).map("".join), max_size=4))
def test_a_page_is_judged_by_itself_and_never_read_beyond(pages: list[str]) -> None:
    depths, attributes = markup.shape(*schema.text_buffers(pa.array(pages, pa.string())))
    for row, page in enumerate(pages):
        alone = np.frombuffer(page.encode(), np.uint8)
        assert [depths[row], attributes[row]] == [int(x[0]) for x in markup.shape(alone, np.array([0, len(alone)]))]
        assert depths[row] <= page.count("<div")


@given(st.text())
def test_tidy_does_what_it_says_and_nothing_twice(text: str) -> None:
    clean = extract.tidy(text)
    assert "\0" not in clean
    assert "\n\n\n" not in clean
    assert not re.search(r"[^\S\n]\n", clean)
    assert extract.tidy(clean) == clean
    without_blanks = str.maketrans("", "", BLANK)  # a line of what shows nothing becomes an empty one
    assert bare(clean.translate(without_blanks)) == bare(text.replace("\0", "").translate(without_blanks))


@settings(deadline=None)
@given(st.lists(st.text(max_size=50) | st.lists(PIECES, max_size=20).map("".join), max_size=3))
def test_any_text_keeps_its_row(texts: list[str]) -> None:
    out = apply(texts)
    assert len(out) == len(texts)
    assert out.to_pylist() == [row for text in texts for row in apply([text]).to_pylist()]


def test_what_the_parser_refuses_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(page: str) -> str:
        raise TypeError("lone surrogate")

    monkeypatch.setattr(extract, "_engine", lambda name: refuse)
    out = apply(["<p>text</p>"])
    assert out["drop"].to_pylist() == ["extract_failed"]
    assert out["text"].to_pylist() == ["<p>text</p>"]
    broken = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.array([0, 4], pa.int32()).buffers()[1], pa.py_buffer(b"<p>\xff")]
    )
    docs = pa.table({"text": broken, "mime": ["text/html"]})
    assert Extract().apply(docs)["drop"].to_pylist() == ["extract_failed"]


def test_trafilatura_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValidationError, match=r"pip install gristmill\[trafilatura\]"):
        Extract(engine="trafilatura")


def test_trafilatura_finds_the_text_of_the_handbook() -> None:
    pytest.importorskip("trafilatura")
    pages = [page for address, page in sample_pages("handbook.example").items() if "/en-US/" in address]
    out = apply(pages, engine="trafilatura")
    assert out["drop"].null_count == len(pages)
    assert all(len(bare(text)) > 600 and "Product Site" not in text for text in out["text"].to_pylist())


def test_the_limits_themselves_are_allowed() -> None:
    page = "<div>" * 40 + "<p " + "c=1 " * 30 + ">text</p>"
    assert apply([page], max_bytes=len(page), max_depth=40, max_attributes=30)["drop"].to_pylist() == [None]


def test_no_rows() -> None:
    assert len(apply([])) == 0
