"""Blocks and text of a page before any of it is left out: nesting, structure, formulas, what a reader sees."""

import re
from html import unescape

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.extract import tidy
from stages.extraction.page import Parser, write
from stages.kernels import html_tree

PARSER = Parser()


def text_of(page: str | bytes) -> str:
    data = page if isinstance(page, bytes) else page.encode()
    tree = PARSER.parse(np.frombuffer(data or b" ", np.uint8))
    return write(tree, np.ones(len(tree.blocks), bool))


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>one<p>two", "one\n\ntwo"),
        ("<div>one<div>two</div>three</div>", "one\ntwo\nthree"),
        ("one<br>two<br><br>three", "one\ntwo\n\nthree"),
        ("<p> a <b> b</b>  c\n<i>d</i> ", "a b c d"),
        ("<p>a<b>b</b>c<span>d</span>e<x-y>f</x-y>", "abcdef"),
        ("<h2>Head</h2>text", "Head\n\ntext"),
        ("<p>a<table><tr><td>b</table>c", "a\n\nb\n\nc"),
        ("<p>in <a href=x><div>one</div></a> two", "in\n\none\ntwo"),
        ("<ul><li>a<li>b<ul><li>c</ul><li>d</ul>", "- a\n- b\n\n  - c\n\n- d"),
        ("<ol><li>a</li><li>b</li></ol>", "1. a\n2. b"),
        ("<ul><li></li></ul><p>a", "a"),
        ("<dl><dt>a<dd>b<dt>c<dd>d</dl>", "a\nb\nc\nd"),
        ("<table><tr><th>a<th>b<tr><td>1<td><p>2</table>", "a | b\n1 | 2"),
        ("<table><tr><td>menu<td><p>one<p>two</table>", "menu\n\none\n\ntwo"),
        ("<table><tr><td>x<td><table><tr><td>1<td>2</table></table>", "x\n\n1 | 2"),
        ("<pre>\n if a:\n\tb &lt; c\r\n</pre>x", " if a:\n\tb < c\n\nx"),
        ("<p>\u00ad\u200b<p>b<ul><li><pre>\n\n\na  \n \n\n\u3000\nb</pre></ul>", "b\n\n-\n\na\n\nb"),
        ("<p>a&nbsp;<p>&nbsp;b\u3000", "a\n\n\xa0b"),
        ("<pre>a<br>b<span> </span><b>c</b></pre>", "a\nb c"),
        ("<select><option>a<option>b</select><textarea>c</textarea>d", "d"),
        ("<select><option>a<p>b", "b"),
        ("a<script>no</script><style>no</style><template>no</template>b", "ab"),
        ("<p>a<span style='display: none'>no</span><i hidden>no</i>b", "ab"),
        ("<p>a<svg><title>no</title><text>no</text></svg>b", "ab"),
        ("<svg><path><p>a", "a"),
        ("<p>10<sup>6</sup> CO<sub>2</sub> 1<sup>*</sup> a <sup>b</sup> 1<sup>st</sup>", "10^6 CO_2 1* a b 1st"),
        ("<ruby>漢<rp>(</rp><rt>かん</rt><rp>)</rp>字<rt>じ</ruby>だ", "漢字だ"),
        ("<ruby><rb>漢<rt>かん</ruby>字", "漢字"),
        ("<p>中文\n  换行 和 空格\nab", "中文换行 和 空格 ab"),
        ("<h2>a <a href='#a'>¶</a></h2><h3>b<a href=#b>&para;</a></h3><p>c <a href='#d'>#1</a>", "a\n\nb\n\nc #1"),
        ("<p>\ue000\ue123 a\0b\x07c", "abc"),
        ("<p>&lt;b&gt; &amp &nbsp;&#x41;&#0;&#150; &copy2 &notit; &bogus; &", "<b> & \xa0A\ufffd– ©2 ¬it; &bogus; &"),
        ("<math alttext='a^2'><msup><mi>a</mi><mn>2</mn></msup></math>", "$a^2$"),
        ("<p>x <math><mfrac><mn>1</mn><mrow><mi>a</mi><mo>+</mo><mi>b</mi></mrow></mfrac></math>", "x 1/(a+b)"),
        ("<p>x <math><msup><mi>a</mi><mn>2</mn></msup><msub><mi>b</mi><mi>i</mi></msub></math>", "x a^2b_i"),
        ("<p>x<script type='math/tex; mode=display'>a<b</script>y", "x$a<b$y"),
        ("<img class='mwe-math-fallback-image-inline' alt='{\\displaystyle a&lt;b}'>", "$a<b$"),
        ("<img class=photo alt=no>a", "a"),
        ("</p>a</div></table></td>b</a></x>", "a\n\nb"),
        ("<div>a<p>b</div>c", "a\n\nb\n\nc"),
        ("<table><div>a<tr><td>b</div>c</table>d", "a\nb\nc\n\nd"),
        ("<button>a<button>b</button>c", "a\nb\nc"),
    ],
)  # fmt: skip
def test_the_text_of_markup(page: str, text: str) -> None:
    assert text_of(page) == text


@pytest.mark.parametrize(
    "mime_mark",
    ["<?xml version='1.0'?>", "\ufeff <?xml version='1.0'?>", "<html xmlns='http://www.w3.org/1999/xhtml'>"],
)
def test_in_xml_an_element_may_close_itself(mime_mark: str) -> None:
    assert text_of(f"{mime_mark}<script src='x'/><title/>a<select/>b<![CDATA[<c>]]>") == "ab<c>"


def test_links_end_where_a_browser_ends_them() -> None:
    page = "<a href=x>one<div>two</a>three</div><p><a href=y>four<p>five <a name=z>six</a>"
    tree = PARSER.parse(np.frombuffer(page.encode(), np.uint8))
    linked = [page[first:last] for kind, first, last, link in tree.ops.tolist() if link]
    assert linked == ["one", "two", "four"]


WORDS = ["ab", "汉字", "é", " ", "\n", "&amp;", "&lt", "x<y"]
MARKUP = """p,/p,div,/div,b,/b,a href=#,/a,table,/table,tr,td,/td,ul,li,/ul,ol,pre,/pre,br,sup,/sup,math,/math,mfrac,
mrow,svg,/svg,select,/select,option,h1,/h1,button,/button,ruby,rt,/ruby,span hidden,/span,body,form,dd,/dl,template,
/template,annotation encoding=tex,/annotation,p class='a b' id=c /""".replace("\n", "")
PIECES = st.sampled_from([*WORDS, *(f"<{name}>" for name in MARKUP.split(","))])


@settings(deadline=None, max_examples=300)
@given(st.lists(PIECES, max_size=40).map("".join))
def test_nothing_is_invented_and_nothing_is_turned_round(page: str) -> None:
    visible = unescape(re.sub(r"</?[a-z][^>]*>", "", page))
    marks = {"-", "|", "^", "_", "$", "/", "(", ")", ".", *"0123456789"}
    rest = iter(char for char in visible if not char.isspace())
    assert tidy(text_of(page)) == text_of(page)
    assert all(char in rest for char in text_of(page) if not char.isspace() and char not in marks)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=300) | st.lists(PIECES, max_size=30).map(lambda pieces: "".join(pieces).encode()))
def test_any_bytes_give_blocks_in_order(page: bytes) -> None:
    tree = PARSER.parse(np.frombuffer(page or b" ", np.uint8))
    blocks, elements = tree.blocks, tree.elements
    assert (blocks[:, html_tree.OP0] < blocks[:, html_tree.OP1]).all()
    assert (blocks[1:, html_tree.OP0] >= blocks[:-1, html_tree.OP1]).all()
    assert (elements[1:, html_tree.PARENT] < np.arange(1, len(elements))).all()
    inside = elements[blocks[:, html_tree.ELEMENT]]
    order = np.arange(len(blocks))
    assert ((inside[:, html_tree.FIRST] <= order) & (order < inside[:, html_tree.LAST])).all()
    write(tree, np.ones(len(blocks), bool))


@settings(deadline=None)
@given(st.lists(st.sampled_from(["汉字 word", "x", "&amp;"]), min_size=1, max_size=5))
def test_every_word_of_plain_paragraphs_is_there(words: list[str]) -> None:
    page = "".join(f"<p>{word}</p>" for word in words)
    assert text_of(page) == "\n\n".join(map(unescape, words))


@pytest.mark.parametrize(
    "piece",
    ["<div>", "<p><b>", "<a><b><i>", "<table><tr><td>", "<ul><li>", "</div></p>", "<select><option>", "<svg>", "<math>",
     "<p><button><i>", "<b", "<!--", "<script>", '<a href="', "<p x=y ", "<li></ul>", "<ruby><rt>", "&amp"],
)  # fmt: skip
def test_the_work_grows_with_the_page_and_not_faster(piece: str) -> None:
    """Steps through the stack, counted: at most those of the bounded stack for each tag."""
    counts = []
    for times in (2_000, 8_000):
        tree = PARSER.parse(np.frombuffer(("x" + piece * times).encode(), np.uint8))
        counts.append(PARSER.steps)
        assert len(tree.elements) <= 3 * times + 1
    assert counts[1] <= 4 * counts[0] + 100 * html_tree.MOST_NESTED
