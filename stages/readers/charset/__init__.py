"""Bytes to text: which charset a page is really in, whatever it says of itself.

Declarations lie: servers add a default `charset=iso-8859-1`, templates keep a `<meta>` of another time. A wrong one
rarely fails: GBK read as windows-1252 decodes without an error into mojibake. So the bytes decide, in this order:

1. a byte order mark (here);
2. UTF-8, also with a few stray bytes, also encoded twice; UTF-16 and UTF-32 by their NULs (`utf`);
3. the most probable of all other charsets: East Asian ones by the classes of their characters (`multibyte`), those of
   single bytes by the letters of some fifty languages (`likelihood`). What the HTTP header and the page declare
   (`declared`) makes a charset likelier, and nothing more.
"""

import codecs
import re
from typing import NamedTuple

from stages.readers.charset.declared import declared
from stages.readers.charset.labels import canonical, python_codec
from stages.readers.charset.likelihood import letter_scores, noise
from stages.readers.charset.multibyte import character_scores, read
from stages.readers.charset.utf import encoded_once, mostly_utf8, wide

__all__ = ["Decoded", "canonical", "decode", "looks_wide", "python_codec"]

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32le"),
    (codecs.BOM_UTF32_BE, "utf-32be"),
    (codecs.BOM_UTF16_LE, "utf-16le"),
    (codecs.BOM_UTF16_BE, "utf-16be"),
)
_CONTROLS = bytes(code for code in range(1, 0x20) if code not in b"\t\n\r\f\x0e\x0f\x1b") + b"\x7f"
_TAGS = re.compile(
    rb"<(script|style)\b(?:.*?</\1|.*\Z)|<!--(?:.*?-->|.*\Z)|<[^<>]*>",  # none of it looks at a byte twice
    re.IGNORECASE | re.DOTALL,
)
_SAMPLE = 1 << 12  # bytes that the choice of a charset is made by
_BEFORE = 200  # bytes of a line before its first byte beyond ASCII
_BEYOND_ASCII = re.compile(rb"[\x80-\xff]")
_DAMAGE = 200  # a text may have one damaged character in so many

_PRIORS = {
    # logarithms of how often a charset is met where it is possible, against windows-1252: our own order of magnitude,
    # after the shares of charsets on the web; what computers wrote before Windows is rare
    "windows-1252": 0.0, "windows-1251": -1.0, "gb18030": -1.0, "shift_jis": -1.5, "euc-kr": -1.5, "big5": -2.0,
    "euc-jp": -2.0, "windows-1250": -2.5, "iso-8859-2": -2.5, "windows-1254": -2.5, "windows-1256": -2.0,
    "windows-1253": -2.0, "iso-8859-7": -2.5, "windows-1255": -2.0, "windows-874": -2.0, "windows-1257": -3.0,
    "koi8-r": -3.0, "koi8-u": -3.5, "windows-1258": -5.0, "iso-8859-15": -4.0, "iso-8859-8": -4.0, "iso-8859-6": -4.0,
    "iso-8859-5": -4.0, "ibm866": -4.5, "macintosh": -6.0, "x-mac-cyrillic": -6.0, "ibm855": -6.5, "x-mac-ce": -7.0,
    "iso-8859-13": -5.0, "iso-8859-4": -7.0, "iso-8859-3": -7.0, "iso-8859-10": -9.0, "iso-8859-14": -8.0,
    "iso-8859-16": -7.0, "johab": -8.0, "ibm850": -7.5, "ibm852": -7.5,
}  # fmt: skip
_DECLARED, _DECLARED_DEFAULT = 8.0, 2.0  # what a declaration adds; that of windows-1252 is what servers add unasked


class Decoded(NamedTuple):
    """A text, the name of its charset, and what it lost and gained on the way."""

    text: str
    charset: str
    replaced: int = 0  # characters that are U+FFFD since their bytes are damaged
    repaired: int = 0  # characters put right: stray bytes of windows-1252 in UTF-8, UTF-8 that was encoded twice
    nuls: int = 0  # NUL bytes taken out

    def notes(self) -> dict[str, dict[str, int]]:
        """What a document's `metadata` says of the three counts; empty where all are 0."""
        counts = {"replaced": self.replaced, "repaired": self.repaired, "nuls": self.nuls}
        found = {name: count for name, count in counts.items() if count}
        return {"decoding": found} if found else {}


def decode(data: bytes, http_charset: str | None = None, html: bool = False) -> Decoded | None:
    """The text of `data`; None where it is binary or in no charset that we can tell.

    `http_charset` is what the HTTP header says, `html` whether to look for a `<meta>` or XML declaration. The text has
    no byte order mark, no NUL and no lone surrogates. A text with one damaged character in two hundred or fewer is kept
    (UTF-8: in fifty), with U+FFFD in their place.
    """
    marked = _by_bom(data)
    if marked:
        return marked
    nuls = data.count(b"\0")
    if nuls:
        found = wide(data, declared(data, http_charset, html))
        if found:
            return _without_nuls(*found)
        data = data.replace(b"\0", b"")
    if len(data) - len(data.translate(None, _CONTROLS)) > len(data) // _DAMAGE:
        return None
    if data.isascii():
        return _seven_bits(data, nuls, declared(data, http_charset, html) if b"~{" in data else [])
    text = _strictly(data, "utf-8")
    if text is not None:
        once = encoded_once(text, data)
        return Decoded(once.text, "utf-8", 0, once.repaired, nuls)
    mended = mostly_utf8(data)
    if mended:
        return Decoded(mended.text, "utf-8", mended.replaced, mended.repaired, nuls)
    names = declared(data, http_charset, html)
    found = wide(data, names)
    if found:
        return _without_nuls(*found)
    decoded = _likeliest(data, names, html)
    return decoded._replace(nuls=nuls) if decoded else None


def looks_wide(head: bytes) -> bool:
    """Whether the first bytes of a file are text in UTF-16 or UTF-32, which is full of NULs."""
    return head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or wide(head, []) is not None


def _by_bom(data: bytes) -> Decoded | None:
    for mark, name in _BOMS:
        text = _strictly(data[len(mark) :], name) if data.startswith(mark) else None
        if text is not None and text.count("\0") <= 1 + len(text) // 20:
            return _without_nuls(text, name)
    return None


def _without_nuls(text: str, name: str) -> Decoded:
    return Decoded(text.replace("\0", ""), name, nuls=text.count("\0"))


def _seven_bits(data: bytes, nuls: int, names: list[str]) -> Decoded | None:
    """ASCII, or Japanese, Korean or Chinese in seven bits, which escape sequences announce."""
    for mark, name in ((b"\x1b$)C", "iso-2022-kr"), (b"\x1b$", "iso-2022-jp"), (b"~{", "hz-gb-2312")):
        if mark not in data or (name == "hz-gb-2312" and "hz-gb-2312" not in names):
            continue
        text = _strictly(data, name)
        if text is not None and not text.isascii():
            return Decoded(text, name, nuls=nuls)
    if data.count(b"\x0e") + data.count(b"\x0f") > len(data) // _DAMAGE:
        return None
    return Decoded(data.decode("ascii"), "utf-8", nuls=nuls)


def _strictly(data: bytes, name: str) -> str | None:
    try:
        return data.decode(python_codec(name))
    except UnicodeDecodeError:
        return None


def _likeliest(data: bytes, names: list[str], html: bool) -> Decoded | None:
    """The text in the most probable charset; None where it is not more probable than noise."""
    words = _sample(data, html)
    found = [(score, name) for name, score in (*letter_scores(words), *character_scores(words))]
    ranked = sorted(((score + _prior(name, names), name) for score, name in found), reverse=True)
    score, name = ranked[0]
    text, replaced = read(data, name)
    if replaced > 1 + len(text) // _DAMAGE or score < noise(words):
        return None
    return Decoded(text, name, replaced)


def _prior(name: str, names: list[str]) -> float:
    bonus = _DECLARED_DEFAULT if name == "windows-1252" else _DECLARED
    return _PRIORS[name] + bonus * names.count(name)


def _sample(data: bytes, html: bool) -> bytes:
    """The first lines with bytes beyond ASCII, without markup, which is ASCII and drowns what there is to go by."""
    words = _TAGS.sub(b"\n", data) if html else data
    words = words if not words.isascii() else data
    sample, size = [], 0
    for line in words.splitlines():
        if first := _BEYOND_ASCII.search(line):
            start = max(0, first.start() - _BEFORE)
            sample.append(line[start : start + _SAMPLE - size])
            size += len(sample[-1])
        if size >= _SAMPLE - _BEFORE:
            break
    return b"\n".join(sample)
