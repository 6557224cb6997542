"""Take the main text out of HTML pages; plain text passes through as it is.

The project's own engine takes time in proportion to the size of a page. The parsers of others can be made to work for
minutes by a page of a few hundred kilobytes (20,000 nested `<div>` cost resiliparse 9 seconds, a tag of 100,000
attributes hangs every one), so guards come before them.
"""

import functools
import html
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import DOMException, HTMLParserException, HTMLTree

from pipeline import schema
from pipeline.stage import Stage
from stages.extraction.engine import main_text
from stages.extraction.model import PATH as MODEL
from stages.kernels import markup
from stages.kernels.whitespace import BLANK, LINE_ENDS


class _Outcome(NamedTuple):
    text: str
    reason: str | None = None
    value: float | None = None
    limit: float | None = None


class Extract(Stage):
    """Replace the markup of `text/html` documents by their main text.

    The text has no trailing spaces, no more than one empty line in a row and no NUL. The engine gristmill keeps lists,
    rows of tables, code, formulas as `$TeX$`, and writes 10^6 (docs/extraction.md). With the engine resiliparse a page
    whose main part has less than 5 % of its text gives its whole text, `10<sup>6</sup>` becomes 10⁶, and readings
    of ruby are left out. `mime` keeps saying what was collected; the column `html_bytes` is the size of the markup
    (UTF-8), null for a document that had none.

    Reasons: `too_large` (bytes), and of other engines `too_deep` (nesting of block elements) and `too_many_attributes`
    (on one tag), each with value and limit and with the markup left in `text`; `extract_failed`, the parser refused it;
    `empty`, nothing but white space came out, or had been there.
    """

    needs: ClassVar[tuple[str, ...]] = ("text", "mime")
    adds: ClassVar[dict[str, pa.DataType]] = {"html_bytes": pa.int32()}

    engine: Literal["gristmill", "resiliparse", "trafilatura"] = Field(
        default="gristmill",
        description="gristmill: the project's own, best and fastest; resiliparse: fast; trafilatura: slow",
    )
    max_bytes: int = Field(default=5_000_000, ge=1, le=2**31 - 1, description="largest page that is parsed, in bytes")
    max_depth: int = Field(default=256, ge=1, description="deepest nesting of block elements (other engines)")
    max_attributes: int = Field(default=256, ge=1, description="most attributes on one tag (other engines)")

    @model_validator(mode="after")
    def _installed(self) -> "Extract":
        if self.engine == "trafilatura" and importlib.util.find_spec("trafilatura") is None:
            raise ValueError("engine trafilatura is not installed: pip install gristmill[trafilatura]")
        return self

    def files(self) -> list[Path]:
        return [MODEL] if self.engine == "gristmill" else []

    def apply(self, docs: pa.Table) -> pa.Table:
        pages = pc.fill_null(pc.starts_with(docs["mime"], "text/html"), False).to_numpy().astype(bool)
        sizes = pc.fill_null(pc.binary_length(docs["text"]), 0).to_numpy()
        outcomes = self._outcomes(docs["text"], pages, sizes)
        docs = schema.set_column(docs, "html_bytes", pa.array(sizes, pa.int32(), mask=~pages))
        if pages.any():
            docs = schema.set_column(docs, "text", _texts(docs["text"], outcomes))
        written = pc.fill_null(pc.match_substring_regex(docs["text"], r"[^\s\x00\pZ]"), False).to_numpy()
        reasons = [
            outcome.reason if outcome and outcome.reason else None if any_ink else "empty"
            for outcome, any_ink in zip(outcomes, written, strict=True)
        ]
        values = [outcome.value if outcome else None for outcome in outcomes]
        limits = [outcome.limit if outcome else None for outcome in outcomes]
        return schema.mark(docs, reasons, values, limits)

    def _outcomes(self, texts: pa.ChunkedArray, pages: np.ndarray, sizes: np.ndarray) -> list[_Outcome | None]:
        """What becomes of each page; None for a document that is no page."""
        outcomes: list[_Outcome | None] = [None] * len(texts)
        data, offsets = schema.text_buffers(texts)
        extract = _engine(self.engine)
        for row in np.flatnonzero(pages):
            ends = offsets[row : row + 2]
            outcomes[row] = self._guarded(data, ends, int(sizes[row])) or _extracted(
                extract, data[ends[0] : ends[1]].tobytes()
            )
        return outcomes

    def _guarded(self, data: np.ndarray, ends: np.ndarray, size: int) -> _Outcome | None:
        """The outcome of a page that no parser should see, None for the others."""
        if size > self.max_bytes:
            return _Outcome(_KEEP, "too_large", size, self.max_bytes)
        if self.engine == "gristmill":  # whose time depends on the size of a page alone
            return None
        depths, attributes = markup.shape(data, ends)
        if depths[0] > self.max_depth:
            return _Outcome(_KEEP, "too_deep", int(depths[0]), self.max_depth)
        if attributes[0] > self.max_attributes:
            return _Outcome(_KEEP, "too_many_attributes", int(attributes[0]), self.max_attributes)
        return None


_KEEP = "\0"  # in an outcome: leave the text as it is (an extracted text never holds a NUL)


def _extracted(extract: Callable[[bytes], str], page: bytes) -> _Outcome:
    try:
        return _Outcome(extract(page))
    # Not UTF-8 and TypeError (both engines, on lone surrogates), what resiliparse declares, and what lxml raises.
    except (ValueError, TypeError, HTMLParserException, DOMException, RecursionError):
        return _Outcome(_KEEP, "extract_failed")


def _texts(texts: pa.ChunkedArray, outcomes: list[_Outcome | None]) -> pa.Array:
    kept = np.array([outcome is None or outcome.text == _KEEP for outcome in outcomes], bool)
    new = pa.array([outcome.text if outcome else "" for outcome in outcomes], pa.string())
    return pc.if_else(pa.array(kept), texts, new)


_LINE_ENDS = re.compile(LINE_ENDS)
_GAPS = re.compile(r"\n{3,}")


def tidy(text: str) -> str:
    """`text` without NULs, trailing spaces, runs of empty lines, and white space at its ends; its lines end in LF."""
    lines = _LINE_ENDS.sub("\n", text.replace("\0", "")).split("\n")
    text = "\n".join([line.rstrip() if line.strip(BLANK) else "" for line in lines])
    return _GAPS.sub("\n\n", text).strip("\n")


@functools.cache
def _engine(name: str) -> Callable[[bytes], str]:
    """What makes the tidy text of a page (UTF-8)."""
    if name == "gristmill":
        return main_text
    extract = _trafilatura() if name == "trafilatura" else _resiliparse
    return lambda page: tidy(extract(page.decode()))


_FEW = 0.05  # of the page's characters: with less, the main part was not recognised (best of .05 and .1 on 4,000 pages)
_AROUND = re.compile(r"(?i)<(?:nav|footer)\b")


def _resiliparse(page: str) -> str:
    """The main text of a page, or all of its text where the main part has less than a twentieth of it."""
    tree = HTMLTree.parse(mended(page))
    text = _plain(tree, main=True)
    if _characters(text) >= _FEW * len(page):  # the text of a page is no longer than its markup
        return text
    whole = _plain(tree, main=False, without=("nav", "footer"))
    if not _characters(whole) and _AROUND.search(page):
        whole = _plain(tree, main=False)
    return whole if _characters(text) < _FEW * _characters(whole) else text


def _plain(tree: HTMLTree, main: bool, without: tuple[str, ...] = ()) -> str:
    text = extract_plain_text(
        tree,
        main_content=main,
        alt_texts=False,
        comments=False,
        post_meta=False,
        links=False,
        skip_elements=[*_READINGS, *without],
    )
    return str(text).replace(_MARK, "")


def _characters(text: str) -> int:
    return len(text) - sum(map(text.count, " \n"))


# resiliparse 2.0.1 deletes each element and each text node of three bytes whose last byte is not ASCII (not counting
# blanks around). It means signs of icon fonts, and takes 在, €, dashes, "là" and "5&nbsp;" along. A mark saves them.
_MARK = "\ufdd0"  # a noncharacter, never part of a text: where a page has one itself, it goes, too
_ENTITY = r"&(?:#[Xx]?[0-9A-Fa-f]+|[A-Za-z][0-9A-Za-z]{1,31});?"
_SPACE = r"[ \t\r\n\f]*"
_SHORT = re.compile(
    rf">{_SPACE}(?:[^\x00-\x7f]|[!-%'-;=?-~](?:[^\x00-\x7f]|{_ENTITY})|{_ENTITY}(?:[^\x00-\x7f]|{_ENTITY})?)"
    rf"(?={_SPACE}(?:<|\Z))"
)
_READINGS = ("rt", "rp", "rtc")  # of ruby: 漢字, not 漢かん字じ

_SHIFTED = re.compile(
    r"(?i)<(su[pb])\b[^<>]{0,300}>((?:<[^<>]{0,300}>){0,4})([^<>]{1,40})(?=(?:<[^<>]{0,300}>){0,4}</\1\s*>)"
)
_NUMBER = re.compile(r"[-+−–=()., /:·0-9ni]*[-+−–0-9][-+−–=()., /:·0-9ni]*|[ni]")
_RAISED = str.maketrans("0123456789+-−–=()ni", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁻⁼⁽⁾ⁿⁱ")
_LOWERED = str.maketrans("0123456789+-−–=()ni", "₀₁₂₃₄₅₆₇₈₉₊₋₋₋₌₍₎ₙᵢ")


def mended(page: str) -> str:
    """Markup of which resiliparse loses no short text, and in which raised and lowered numbers are such characters."""
    return _SHORT.sub(_marked, ">" + _SHIFTED.sub(_shifted, page))[1:]


def _marked(short: re.Match[str]) -> str:
    text = html.unescape(short[0][1:]).strip(" \t\r\n\f")
    is_icon = "\ue000" <= text <= "\uf8ff"
    return short[0] + _MARK if len(text.encode()) == 3 and not is_icon else short[0]


def _shifted(element: re.Match[str]) -> str:
    """10<sup>6</sup> is 10⁶, not 106; what is no number (1<sup>st</sup>) stays as it is."""
    text = html.unescape(element[3])
    if not _NUMBER.fullmatch(text.strip()):
        return element[0]
    table = _RAISED if element[1].lower() == "sup" else _LOWERED
    return element[0][: element.start(3) - element.start()] + text.translate(table)


def _trafilatura() -> Callable[[str], str]:
    import trafilatura

    def extract(page: str) -> str:
        return trafilatura.extract(page, favor_precision=True, include_comments=False) or ""

    return extract
