"""Scripts: how many letters of each writing system a text has, and whether its Chinese is simplified or traditional.

One table gives every code point its script, one pass over the bytes counts them. Han characters come in three kinds:
those that only simplified Chinese uses, those that only traditional Chinese uses, and the many that both share.
"""

import functools

import numpy as np

from stages.kernels import constant, inner, kernel
from stages.kernels.text import LETTER, classes, decode

_RANGES: dict[str, tuple[tuple[int, int], ...]] = {
    "Latn": ((0x41, 0x5A), (0x61, 0x7A), (0xAA, 0xAA), (0xBA, 0xBA), (0xC0, 0x2AF), (0x1E00, 0x1EFF), (0x2C60, 0x2C7F),
             (0xA720, 0xA7FF), (0xAB30, 0xAB6F), (0xFB00, 0xFB06), (0xFF21, 0xFF3A), (0xFF41, 0xFF5A)),
    "Grek": ((0x370, 0x3FF), (0x1F00, 0x1FFF)),
    "Cyrl": ((0x400, 0x52F), (0x1C80, 0x1C8F), (0x2DE0, 0x2DFF), (0xA640, 0xA69F)),
    "Armn": ((0x530, 0x58F), (0xFB13, 0xFB17)),
    "Hebr": ((0x590, 0x5FF), (0xFB1D, 0xFB4F)),
    "Arab": ((0x600, 0x6FF), (0x750, 0x77F), (0x870, 0x8FF), (0xFB50, 0xFDFF), (0xFE70, 0xFEFE)),
    "Syrc": ((0x700, 0x74F),), "Thaa": ((0x780, 0x7BF),), "Nkoo": ((0x7C0, 0x7FF),),
    "Deva": ((0x900, 0x97F), (0xA8E0, 0xA8FF)),
    "Beng": ((0x980, 0x9FF),), "Guru": ((0xA00, 0xA7F),), "Gujr": ((0xA80, 0xAFF),), "Orya": ((0xB00, 0xB7F),),
    "Taml": ((0xB80, 0xBFF),), "Telu": ((0xC00, 0xC7F),), "Knda": ((0xC80, 0xCFF),), "Mlym": ((0xD00, 0xD7F),),
    "Sinh": ((0xD80, 0xDFF),), "Thai": ((0xE00, 0xE7F),), "Laoo": ((0xE80, 0xEFF),), "Tibt": ((0xF00, 0xFFF),),
    "Mymr": ((0x1000, 0x109F), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F)),
    "Geor": ((0x10A0, 0x10FF), (0x1C90, 0x1CBF), (0x2D00, 0x2D2F)),
    "Ethi": ((0x1200, 0x139F), (0x2D80, 0x2DDF), (0xAB00, 0xAB2F)),
    "Cher": ((0x13A0, 0x13FF), (0xAB70, 0xABBF)), "Cans": ((0x1400, 0x167F), (0x18B0, 0x18FF)),
    "Tglg": ((0x1700, 0x171F),), "Khmr": ((0x1780, 0x17FF),), "Mong": ((0x1800, 0x18AF),), "Bali": ((0x1B00, 0x1B7F),),
    "Sund": ((0x1B80, 0x1BBF),), "Olck": ((0x1C50, 0x1C7F),), "Tfng": ((0x2D30, 0x2D7F),), "Yiii": ((0xA000, 0xA4CF),),
    "Vaii": ((0xA500, 0xA63F),), "Java": ((0xA980, 0xA9DF),), "Mtei": ((0xABC0, 0xABFF),),
    "Adlm": ((0x1E900, 0x1E95F),), "Bopo": ((0x3100, 0x312F), (0x31A0, 0x31BF)),
    "Hang": ((0x1100, 0x11FF), (0x3131, 0x318E), (0xA960, 0xA97C), (0xAC00, 0xD7FB), (0xFFA0, 0xFFDC)),
    "Kana": ((0x3041, 0x309F), (0x30A1, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F), (0x1B000, 0x1B16F)),
    "Hani": ((0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3021, 0x3029), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),
             (0x20000, 0x323AF)),
}  # fmt: skip

SCRIPTS: tuple[str, ...] = ("Zyyy", "Zzzz", *_RANGES, "Hans", "Hant")
"""ISO 15924 codes, the columns of `count`. Zyyy: not a letter. Zzzz: a letter of a script not listed. Kana is hiragana
and katakana together; Hani is Han used by both forms of Chinese, Hans and Hant what only one of them uses."""

_LETTER, _DIGIT = ord("a"), ord("0")
_BLOCK = 128  # bytes looked at together for being ASCII

_BOTH = "着"  # not in Big5, but what Hong Kong writes


@functools.cache
def table() -> np.ndarray:
    """uint8[0x110000]: the index into `SCRIPTS` of every code point."""
    scripts = np.zeros(0x110000, np.uint8)
    letter = classes() & LETTER != 0
    scripts[letter] = SCRIPTS.index("Zzzz")
    for name, ranges in _RANGES.items():
        for first, last in ranges:
            scripts[first : last + 1][letter[first : last + 1]] = SCRIPTS.index(name)
    for name, only in zip(("Hans", "Hant"), chinese_forms(), strict=True):
        scripts[[ord(char) for char in only]] = SCRIPTS.index(name)
    return scripts


@functools.cache
def chinese_forms() -> tuple[frozenset[str], frozenset[str]]:
    """The characters that only simplified, and only traditional Chinese uses.

    Taken from the two standards that fixed the forms: the frequent characters (level 1) of GB 2312 that Big5 does not
    have, and the frequent ones of Big5 that GB 2312 does not have.
    """
    forms: tuple[set[str], set[str]] = (set(), set())
    for char in map(chr, range(0x4E00, 0xA000)):
        simplified, traditional = char.encode("gb2312", "ignore"), char.encode("big5", "ignore")
        if simplified and simplified < b"\xd8" and not traditional and char not in _BOTH:
            forms[0].add(char)
        if traditional and traditional <= b"\xc6\x7e" and not simplified:
            forms[1].add(char)
    return frozenset(forms[0]), frozenset(forms[1])


def count(data: np.ndarray, offsets: np.ndarray, scripts: np.ndarray, kinds: int) -> np.ndarray:
    """int64[rows, kinds]: the code points of each kind in every row.

    `data` and `offsets` as `schema.text_buffers` gives them, `scripts` as `table()`, `kinds` is `len(SCRIPTS)`. All
    ASCII letters must be of one kind, all other ASCII of one.
    """
    counts = np.zeros((len(offsets) - 1, kinds), np.int64)
    _count(constant(data), offsets, constant(scripts), counts)
    return counts


@kernel
def _count(data, offsets, scripts, counts):  # type: ignore[no-untyped-def]
    latin, other = scripts[_LETTER], scripts[_DIGIT]
    for row in range(len(counts)):
        place, end = offsets[row], offsets[row + 1]
        while place < end:
            stop = min(place + _BLOCK, end)
            letters, highest = _ascii_letters(data, place, stop)
            if highest < 0x80:
                counts[row, latin] += letters
                counts[row, other] += stop - place - letters
                place = stop
            while place < stop:
                code, place = decode(data, place, end)
                counts[row, scripts[code]] += 1


@inner
def _ascii_letters(data, start, end):  # type: ignore[no-untyped-def]
    """How many bytes are ASCII letters, and all bytes or-ed together; simple enough to be done many at a time."""
    letters, highest = 0, np.uint8(0)
    for place in range(start, end):
        highest |= data[place]
        letters += np.uint8((data[place] | np.uint8(0x20)) - np.uint8(0x61)) < 26
    return letters, highest
