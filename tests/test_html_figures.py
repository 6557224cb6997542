"""Character references, figures of blocks, boosted trees and the cut, each against plain Python."""

import html
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.extraction import figures
from stages.extraction.model import choose, cut
from stages.extraction.page import Page, Parser, write
from stages.kernels import html_figures, trees

PARSER = Parser()


def parse(page: str) -> Page:
    return PARSER.parse(np.frombuffer(page.encode(), np.uint8))


def text_of(page: str) -> str:
    tree = parse(page)
    return write(tree, np.ones(len(tree.blocks), bool))


def test_every_named_reference_is_read_as_python_reads_it() -> None:
    names = [name for name in html.entities.html5 if html.entities.html5[name].strip() not in ("", "\u200b")]
    assert len(names) > 2200
    got = text_of("".join(f"<p>[&{name}]" for name in names)).split("\n\n")
    assert got == [f"[{html.unescape('&' + name)}]" for name in names]


@given(st.text(st.sampled_from("&#xX;ampltgnoi123aAfF 0"), max_size=20))
@settings(deadline=None, max_examples=300)
def test_any_reference_is_read_as_python_reads_it(raw: str) -> None:
    visible = html.unescape(raw)
    if all(unicodedata.category(char) not in ("Cc", "Co", "Zs", "Cn", "Cs") or char == " " for char in visible):
        assert text_of(f"<p>.{raw}.") == " ".join(f".{visible}.".split())


def figures_of(page: str) -> tuple[Page, figures.Figures]:
    tree = parse(page)
    return tree, figures.figures(tree)


SAMPLES = [
    "The cat, 12 dogs.",
    "我们去北京。",
    "猫と犬 3 匹",
    "Ωμέγα ΑΒΓ",
    "a|b»c",
    "x: y:",
    "한국어 말",
    "& &lt;",
    "A1 b2-c3!",
]


@given(st.lists(st.sampled_from(SAMPLES), min_size=1, max_size=4), st.booleans())
@settings(deadline=None)
def test_figures_are_those_of_plain_python(parts: list[str], linked: bool) -> None:
    text = " ".join(parts)
    _, found = figures_of(f"<p><a href=x>{text}</a>" if linked else f"<p>{text}")
    row = found.rows[0]
    seen = [char for char in html.unescape(text) if not char.isspace()]
    wide = [char for char in seen if unicodedata.name(char).startswith(("CJK UNIFIED", "HIRAGANA", "KATAKANA"))]
    hangul = [char for char in seen if unicodedata.name(char).startswith("HANGUL")]
    width = len(seen) + 2 * len(wide) + len(hangul)
    assert row[html_figures.INK] == len(seen)
    assert row[html_figures.WIDTH] == width
    assert row[html_figures.LINKED] == (width if linked else 0)
    assert row[html_figures.DIGITS] == sum(char.isdigit() for char in seen)
    assert row[html_figures.LETTERS] == sum(char.isalpha() for char in seen)
    assert row[html_figures.CAPITALS] == sum(char.isupper() for char in seen)
    assert row[html_figures.WIDE] == len(wide) + len(hangul)
    assert row[html_figures.ENDS] == sum(char in ".!?。" for char in seen)
    assert row[html_figures.COMMAS] == seen.count(",")


def test_words_are_hashed_without_case_and_alike_wherever_they_stand() -> None:
    _, found = figures_of("<title>Read more</title><p>READ MORE<p>read <b>mo</b>re!<p>other")
    tokens = [found.tokens[first:last].tolist() for first, last in found.ranges]
    assert tokens[0] == tokens[1] == found.title.tolist()
    assert len(tokens[0]) == 2
    assert tokens[2][0] not in tokens[0]
    assert found.hashes[0] != found.hashes[1] != found.hashes[2]


def test_a_space_is_no_figure_in_any_script() -> None:
    for text in ("从北门进公园不收钱", "harbour"):
        _, plain = figures_of(f"<p>{text}")
        _, spaced = figures_of("<p>" + " \n ".join(text))
        for column in (html_figures.WIDTH, html_figures.LETTERS, html_figures.INK):
            assert plain.rows[0, column] == spaced.rows[0, column]


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_trees_are_walked_as_plain_python_walks_them(seed: int) -> None:
    draw = np.random.default_rng(seed)
    roots, depths, nodes = [], [], []

    def grow(depth: int) -> int:
        """A random tree of at most this depth; its root."""
        at = len(nodes)
        nodes.append([0, at, at, np.float32(draw.normal()).view(np.int32)])
        if depth and draw.random() < 0.8:
            nodes[at][0], nodes[at][1], nodes[at][2] = draw.integers(4), grow(depth - 1), grow(depth - 1)
        return at

    for depth in (0, 3, 5):
        roots.append(grow(depth))
        depths.append(depth)
    table = np.array(nodes, np.int32)
    limits = table.view(np.float32)
    rows = draw.normal(size=(70, 4)).astype(np.float32)
    out = np.zeros(70, np.float32)
    trees.add_trees(rows, np.array(roots, np.int32), np.array(depths, np.int32), table, limits, out)
    for row, total in zip(rows, out, strict=True):
        expected = 0.0
        for node in roots:
            while nodes[node][1] != node:
                node = nodes[node][1] if row[nodes[node][0]] <= limits[node, 3] else nodes[node][2]
            expected += limits[node, 3]
        assert total == pytest.approx(expected, abs=1e-5)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 0.99), st.integers(1, 50)), min_size=1, max_size=8))
def test_the_cut_has_the_highest_expected_f1(blocks: list[tuple[float, int]]) -> None:
    _, found = figures_of("".join("<p>" + "w " * size for _, size in blocks))
    likely = np.array([chance for chance, _ in blocks], np.float32)
    kept = cut(likely, found)
    assert kept.any()
    sizes = found.rows[:, html_figures.WORDS]

    def expected(chosen: np.ndarray) -> float:
        return float(2 * (likely * sizes)[chosen].sum() / (sizes[chosen].sum() + (likely * sizes).sum()))

    cuts = [expected(likely >= chance) for chance in likely]
    assert expected(kept) == pytest.approx(max(cuts), rel=1e-3)


@pytest.mark.parametrize(
    ("page", "likely", "kept"),
    [
        ("<p>a<p>b<p>c", [0.9, 0.01, 0.9], [True, True, True]),
        ("<p>a<p>b<p>c<p>d<p>e", [0.9, 0.01, 0.01, 0.01, 0.9], [True, False, False, False, True]),
        ("<p>a<div>b</div><p>c", [0.9, 0.01, 0.9], [True, False, True]),
        ("<p>a<p><a href=x>b</a><p>c", [0.9, 0.01, 0.9], [True, False, True]),
        ("<p>a<p>b", [0.9, 0.01], [True, False]),
        ("<ul><li>a</ul><ul><li>b</ul><ul><li>c</ul>", [0.9, 0.01, 0.9], [True, False, True]),
    ],
)
def test_what_two_kept_blocks_enclose_is_kept(page: str, likely: list[float], kept: list[bool]) -> None:
    tree, found = figures_of(page)
    assert choose(tree, np.array(likely, np.float32), found).tolist() == kept


@pytest.mark.parametrize(
    ("page", "likely", "kept"),
    [
        ("<p>a<pre>code</pre><div>b</div>", [0.9, 0.01, 0.9], [True, True, True]),
        ("<p>a<pre>1\n2\n3</pre><div>b</div>", [0.9, 0.01, 0.9], [True, False, True]),
        ("<pre>code</pre><p>a<p>b<pre>code</pre>", [0.01, 0.9, 0.9, 0.01], [False, True, True, False]),
    ],
)
def test_code_inside_the_text_is_kept(page: str, likely: list[float], kept: list[bool]) -> None:
    tree, found = figures_of(page)
    assert choose(tree, np.array(likely, np.float32), found).tolist() == kept


@pytest.mark.parametrize(
    ("page", "likely", "kept"),
    [
        ("<h1>a</h1><p>b<p>c", [0.01, 0.01, 0.9], [True, False, True]),
        ("<h1>a</h1><p>b<p>c<p>d<p>e", [0.01, 0.01, 0.01, 0.01, 0.9], [False, False, False, False, True]),
        ("<h1>a</h1><p>b<h1>c</h1>", [0.01, 0.9, 0.9], [False, True, True]),
        ("<h2>a</h2><p>b", [0.01, 0.9], [False, True]),
        ("<p>b<h1>a</h1>", [0.9, 0.01], [True, False]),
    ],
)
def test_the_headline_is_kept(page: str, likely: list[float], kept: list[bool]) -> None:
    tree, found = figures_of(page)
    assert choose(tree, np.array(likely, np.float32), found).tolist() == kept
