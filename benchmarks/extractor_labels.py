"""Pages with gold text, parsed, each block with the share of its words that the gold has.

The words of a page and of its gold are aligned in order (most words matched, runs of words before single ones), so that
a word of the menu that also stands in the text is not taken for it. Pages with snippets only are labelled by these, and
by what lies between the first and the last snippet that has to be there.
"""

import base64
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numba
import numpy as np
import zstandard

from stages.extraction.figures import Figures, figures
from stages.extraction.page import Page, Parser, write_parts
from stages.kernels.html_figures import LINKED, WIDTH
from stages.readers import charset

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af\U00020000-\U0002ffff"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")
_MOST_CELLS = 400_000_000  # of an alignment; larger ones are matched by runs of four words
_PROSE = 80  # letters of a block between two snippets that is taken for text, less than 30 % of it links
_RUN = 4


class Labelled(NamedTuple):
    """A page and what is known of its blocks."""

    file: str
    id: str
    kind: str  # page type, "-" where nobody said
    domain: str
    page: Page  # without the bytes
    figures: Figures
    words: np.ndarray  # int32[blocks]
    label: np.ndarray  # float32[blocks]: share of the words that belong to the text
    sure: np.ndarray  # float32[blocks]: weight of the label, 0 where nothing is known
    gold: Counter[str] | None  # words of the gold
    gold_words: int
    block_words: list[list[str]]
    block_texts: list[str]
    must: list[str]
    must_not: list[str]


def split(text: str) -> list[str]:
    """Words as the scorer counts them: Han, kana and Hangul one by one."""
    return _WORD.findall(text.lower())


def flat(text: str) -> str:
    """Text for looking up snippets: lower case, blanks collapsed, none between East Asian characters."""
    return re.sub(rf"(?<=[{_CJK}]) | (?=[{_CJK}])", "", " ".join(text.lower().split()))


def fold_of(domain: str, folds: int) -> int:
    return zlib.crc32(domain.encode()) % folds


def load(folder: Path) -> list[Labelled]:
    """Every page of the `*.jsonl.zst` of a folder whose bytes can be decoded."""
    parser = Parser()
    pages = []
    for path in sorted(folder.glob("*.jsonl.zst")):
        for raw in records(path):
            html = raw.get("html") or decoded(raw)
            if html:
                pages.append(_labelled(path.name.split(".")[0], raw, html, parser))
    return pages


def records(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file, zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(file) as stream:
        for line in io.TextIOWrapper(stream, encoding="utf-8", newline="\n"):
            yield json.loads(line)


def decoded(raw: dict[str, Any]) -> str:
    found = charset.decode(base64.b64decode(raw["html_base64"]), None, True)
    return found[0] if found else ""


def _domain(raw: dict[str, Any]) -> str:
    """The registered name of the site, near enough; the page's own id where it has no address."""
    host = urlsplit(raw["url"] or "").hostname
    if not host:
        return str(raw["id"])
    parts = host.split(".")
    return ".".join(parts[-3:] if len(parts) > 2 and len(parts[-2]) <= 3 else parts[-2:])


def _labelled(file: str, raw: dict[str, Any], html: str, parser: Parser) -> Labelled:
    page = parser.parse(np.frombuffer(html.encode("utf-8", "replace"), np.uint8))
    found = figures(page)
    text, ends = write_parts(page, np.ones(len(page.blocks), bool))
    texts = [text[first:last].decode() for first, last in zip([0, *ends[:-1]], ends, strict=False)]
    words = [split(one) for one in texts]
    gold = None if raw["gold"] is None else split(raw["gold"])
    must, must_not = raw.get("must") or [], raw.get("must_not") or []
    if gold is not None:
        label = _aligned(words, gold)
        sure = np.full(len(words), raw.get("gold_in_page", 1.0) >= 0.5 or not gold, np.float32)
    else:
        label, sure = _by_snippets(texts, found, must, must_not)
    kept = Page(
        np.zeros(0, np.uint8), page.elements.copy(), page.blocks.copy(), np.zeros((0, 4), np.int32), page.words.copy(),
        np.zeros(0, np.uint8), page.title,
    )  # fmt: skip
    sizes = np.array([len(one) for one in words], np.int32)
    return Labelled(
        file, raw["id"], raw.get("page_type") or "-", _domain(raw), kept, found, sizes,
        label, sure, None if gold is None else Counter(gold), len(gold or ()), words, texts, must, must_not,
    )  # fmt: skip


def _aligned(words: list[list[str]], gold: list[str]) -> np.ndarray:
    """float32[blocks]: the share of each block's words that the gold has in its place."""
    numbers: dict[str, int] = {}
    of_page = np.array([numbers.setdefault(word, len(numbers)) for block in words for word in block], np.int32)
    of_gold = np.array([numbers.setdefault(word, len(numbers)) for word in gold], np.int32)
    hit = np.zeros(len(of_page), np.uint8)
    if len(of_page) * len(of_gold) > _MOST_CELLS:
        _match_runs(of_page.tolist(), of_gold.tolist(), hit)
    elif len(of_page) and len(of_gold):
        _align(of_page, of_gold, hit)
    before = np.concatenate([[0], np.cumsum(hit)])
    sizes = np.array([len(block) for block in words], np.int64)
    ends = np.cumsum(sizes, dtype=np.int64)
    return np.asarray((before[ends] - before[ends - sizes]) / np.maximum(sizes, 1), np.float32)


def _match_runs(of_page: list[int], of_gold: list[int], hit: np.ndarray) -> None:
    runs = {tuple(of_gold[at : at + _RUN]) for at in range(len(of_gold) - _RUN + 1)}
    for at in range(len(of_page) - _RUN + 1):
        if tuple(of_page[at : at + _RUN]) in runs:
            hit[at : at + _RUN] = 1


@numba.njit
def _align(of_page, of_gold, hit):  # type: ignore[no-untyped-def]
    """Mark the words of the best alignment: 1 for a word that goes on a run, 0.35 for one that begins it."""
    rows, columns = len(of_page), len(of_gold)
    best, run = np.zeros(columns + 1, np.float32), np.full(columns + 1, -1e9, np.float32)
    came = np.zeros((rows + 1, columns + 1), np.uint8)
    for i in range(1, rows + 1):
        corner_best, corner_run = best[0], run[0]
        for j in range(1, columns + 1):
            above_best, above_run = best[j], run[j]
            matched, goes_on = np.float32(-1e9), 0
            if of_page[i - 1] == of_gold[j - 1]:
                goes_on = 4 if corner_run + 1.0 >= corner_best + 0.35 else 0
                matched = corner_run + np.float32(1) if goes_on else corner_best + np.float32(0.35)
            value, step = above_best, 1
            if best[j - 1] > value:
                value, step = best[j - 1], 2
            if matched >= value:
                value, step = matched, 3
            best[j], run[j], came[i, j] = value, matched, step | goes_on
            corner_best, corner_run = above_best, above_run
    i, j, inside = rows, columns, False
    while i > 0 and j > 0:
        step = came[i, j]
        if inside or step & 3 == 3:
            hit[i - 1] = 1
            inside = step & 4 != 0
            i, j = i - 1, j - 1
        elif step & 3 == 1:
            i -= 1
        else:
            j -= 1


def _by_snippets(
    texts: list[str], found: Figures, must: list[str], must_not: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and their weights where only snippets are known."""
    flats = [flat(text) for text in texts]
    label, sure = np.zeros(len(texts), np.float32), np.zeros(len(texts), np.float32)
    hits = [[at for at, text in enumerate(flats) if flat(snippet) in text] for snippet in must]
    hits = [hit for hit in hits if hit]
    if len(hits) >= 2:
        first, last = min(hit[0] for hit in hits), max(hit[0] for hit in hits)
        width, linked = found.rows[first:last, WIDTH], found.rows[first:last, LINKED]
        prose = (width > _PROSE) & (linked < 0.3 * width)
        label[first:last][prose], sure[first:last][prose] = 0.95, 0.5
    for hit in hits:
        if len(hit) == 1:
            label[hit[0]], sure[hit[0]] = 1, 1
    for snippet in must_not:
        for at, text in enumerate(flats):
            if flat(snippet) in text:
                label[at], sure[at] = 0, 1
    return label, sure
