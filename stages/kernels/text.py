"""Characters: what kind each code point is, how it folds for matching, and the UTF-8 decoder every kernel reads with.

The tables are built from `unicodedata` once per Python version and kept in the user's cache folder.
"""

import functools
import os
import sys
import tempfile
import unicodedata
from collections.abc import Callable

import numpy as np

from stages.kernels import cache_folder, inlined

LETTER, DIGIT, PUNCT, SPACE, UPPER, HAN, KANA, HANGUL, UNSPACED, MARK = (1 << bit for bit in range(10))
"""Bits of `classes()`. UNSPACED: scripts written without blanks between words (Han, Kana, Thai, Lao, Khmer...)."""

_HAN = ((0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3021, 0x3029), (0x3038, 0x303B), (0x3400, 0x4DBF), (0x4E00, 0x9FFF),
        (0xF900, 0xFAFF), (0x20000, 0x323AF))  # fmt: skip
_KANA = ((0x3041, 0x309F), (0x30A1, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F), (0x1B000, 0x1B16F))
_HANGUL = ((0x1100, 0x11FF), (0x3131, 0x318E), (0xA960, 0xA97C), (0xAC00, 0xD7A3), (0xD7B0, 0xD7FB), (0xFFA0, 0xFFDC))
_OTHER_UNSPACED = ((0x0E01, 0x0E3A), (0x0E40, 0x0E4E), (0x0E81, 0x0EDF), (0x0F40, 0x0FBC), (0x1000, 0x109F),
                   (0x1780, 0x17D3), (0x1950, 0x19DF), (0x1A20, 0x1AAD), (0xAA60, 0xAA7F))  # fmt: skip
_VERSION = 1  # of the tables below; raised when their meaning changes


@functools.cache
def classes() -> np.ndarray:
    """uint16[0x110000]: the class bits of every code point."""
    return cached("classes", _build_classes)


@functools.cache
def fold() -> np.ndarray:
    """int32[0x110000]: each code point folded for matching, 0 where it is left out.

    Lower case, compatibility forms to their plain character (full width to ASCII, NFKC where it is one character),
    accents stripped from Latin, Greek and Cyrillic letters, combining marks left out for those scripts.
    """
    return cached("fold", _build_fold)


def _categories() -> np.ndarray:
    """uint8[0x110000, 2]: the general category of every code point, two letters of ASCII."""
    names = "".join(map(unicodedata.category, map(chr, range(0x110000))))
    return np.frombuffer(names.encode(), np.uint8).reshape(-1, 2)


def _build_classes() -> np.ndarray:
    table = np.zeros(0x110000, np.uint16)
    major, minor = _categories().T
    bits = {"L": LETTER, "N": DIGIT, "P": PUNCT, "S": PUNCT, "Z": SPACE, "M": MARK}
    for letter, bit in bits.items():
        table[major == ord(letter)] = bit
    table[(major == ord("L")) & ((minor == ord("u")) | (minor == ord("t")))] |= UPPER
    table[(major == ord("N")) & (minor == ord("l"))] = LETTER
    for code in (*range(0x09, 0x0E), *range(0x1C, 0x20), 0x85):
        table[code] |= SPACE
    scripts = ((_HAN, HAN | UNSPACED), (_KANA, KANA | UNSPACED), (_HANGUL, HANGUL), (_OTHER_UNSPACED, UNSPACED))
    for ranges, bit in scripts:
        for first, last in ranges:
            table[first : last + 1] |= np.where(table[first : last + 1] & (LETTER | MARK), bit, 0).astype(np.uint16)
    return table


def _build_fold() -> np.ndarray:
    table = np.arange(0x110000, dtype=np.int32)
    major, minor = _categories().T
    assigned = (major != ord("C")) | ((minor != ord("n")) & (minor != ord("o")) & (minor != ord("s")))
    for code in np.flatnonzero(assigned).tolist():
        char = chr(code)
        if unicodedata.decomposition(char) or char.lower() != char or 0x300 <= code <= 0x36F:  # others stay as they are
            table[code] = _folded(char)
    return table


def _folded(char: str) -> int:
    if 0x300 <= ord(char) <= 0x36F:
        return 0
    plain = unicodedata.normalize("NFKC", char).lower()
    if 0xAC00 <= ord(plain[0]) <= 0xD7A3:
        return ord(plain) if len(plain) == 1 else ord(char)
    parts = unicodedata.normalize("NFD", plain)
    if len(parts) > 1 and all(0x300 <= ord(part) <= 0x36F for part in parts[1:]):
        plain = parts[0]
    return ord(plain) if len(plain) == 1 else ord(char)


def cached(name: str, build: Callable[[], np.ndarray]) -> np.ndarray:
    """A table that takes a while to build, from the user's cache folder if it is there; `name` tells its version."""
    path = cache_folder() / f"{name}-{_VERSION}-{unicodedata.unidata_version}-{sys.version_info.minor}.npy"
    try:
        return np.load(path)
    except (OSError, ValueError):  # not there, not readable, or cut short: built anew
        table = build()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as beside:
            np.save(beside, table)
        os.replace(beside.name, path)
    except OSError:  # a read-only home costs a second at each start, nothing else
        pass
    return table


@inlined
def decode(data, place, end):  # type: ignore[no-untyped-def]
    """The code point at `data[place]` and the place after it; an invalid byte is U+FFFD and one byte long.

    `data` is uint8, `end` the end of the row (exclusive).
    """
    first = data[place]
    if first < 0x80:
        return np.int32(first), place + 1
    if 0xC2 <= first < 0xE0 and place + 1 < end and data[place + 1] & 0xC0 == 0x80:
        return np.int32(first & 0x1F) << 6 | np.int32(data[place + 1] & 0x3F), place + 2
    if 0xE0 <= first < 0xF0 and place + 2 < end and data[place + 1] & 0xC0 == 0x80 and data[place + 2] & 0xC0 == 0x80:
        code = np.int32(first & 0x0F) << 12 | np.int32(data[place + 1] & 0x3F) << 6 | np.int32(data[place + 2] & 0x3F)
        if code >= 0x800 and not 0xD800 <= code < 0xE000:
            return code, place + 3
    if (
        0xF0 <= first < 0xF5
        and place + 3 < end
        and data[place + 1] & 0xC0 == 0x80
        and data[place + 2] & 0xC0 == 0x80
        and data[place + 3] & 0xC0 == 0x80
    ):
        code = (np.int32(first & 0x07) << 18 | np.int32(data[place + 1] & 0x3F) << 12
                | np.int32(data[place + 2] & 0x3F) << 6 | np.int32(data[place + 3] & 0x3F))  # fmt: skip
        if 0x10000 <= code < 0x110000:
            return code, place + 4
    return np.int32(0xFFFD), place + 1
