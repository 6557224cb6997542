"""Text as a classifier is to see it: folded, and cut into tokens with a blank between them.

fastText knows no token but what stands between blanks: it would take a sentence of Chinese for one word, and a word
with a comma after it for another word. What a model was trained on, it has to be asked with, so the same kernel
prepares both; the card beside a model says how (`stages.models.classifiers`).
"""

import numpy as np

from stages.kernels import constant, inner, kernel, text
from stages.kernels.text import decode

_BLANK = np.uint8(0x20)
_DIGIT = 0x30
_GROWTH = 4
"""Bytes written for a byte read, at most: an invalid one becomes U+FFFD and a blank."""


def prepare(data: np.ndarray, offsets: np.ndarray, fold: bool, split_han: bool) -> tuple[np.ndarray, np.ndarray]:
    """UTF-8 (uint8) and offsets (int64[rows + 1]) of every row's tokens, each with one blank after it.

    `data` and `offsets` as `schema.text_buffers` gives them. `fold`: letters are folded as for matching (`text.fold`:
    no case, no accents), every run of digits is one 0, every punctuation mark and symbol is a token. `split_han`: every
    letter of a script without blanks between words is a token, so that word n-grams become n-grams of characters.
    """
    room = _GROWTH * int(offsets[-1] - offsets[0]) + len(offsets)
    out, places = np.empty(room, np.uint8), np.zeros(len(offsets), np.int64)
    _prepare(constant(data), offsets, constant(text.classes()), constant(text.fold()), fold, split_han, out, places)
    return out[: places[-1]], places


@kernel
def _prepare(data, offsets, classes, folds, fold, split_han, out, places):  # type: ignore[no-untyped-def]
    size = np.int64(0)
    for row in range(len(offsets) - 1):
        size = _row(data, offsets[row], offsets[row + 1], (classes, folds), fold, split_han, out, size)
        places[row + 1] = size


@inner
def _row(data, start, end, tables, fold, split_han, out, size):  # type: ignore[no-untyped-def]
    """Append the tokens of `data[start:end]`; returns the new size."""
    classes, folds = tables
    is_open = in_number = False  # whether a token waits for its blank; whether it ends in a digit
    place = start
    while place < end:
        code, place = decode(data, place, end)
        kind = classes[code]
        if kind == 0 or kind & text.SPACE:
            if is_open:
                out[size] = _BLANK
                size += 1
            is_open = in_number = False
            continue
        if fold:
            code = folds[code]
            if code == 0 or (in_number and kind & text.DIGIT):
                continue
            in_number = kind & text.DIGIT != 0
            if in_number:
                code = np.int32(_DIGIT)
        alone = (fold and kind & text.PUNCT != 0) or (split_han and kind & text.UNSPACED != 0)
        if alone and is_open:
            out[size] = _BLANK
            size += 1
        size = _encode(code, out, size)
        is_open = not alone
        if alone:
            out[size] = _BLANK
            size += 1
    if is_open:
        out[size] = _BLANK
        size += 1
    return size


@inner
def _encode(code, out, size):  # type: ignore[no-untyped-def]
    """Append a code point in UTF-8; returns the new size."""
    if code < 0x80:
        out[size] = code
        return size + 1
    if code < 0x800:
        out[size], out[size + 1] = 0xC0 | code >> 6, 0x80 | code & 0x3F
        return size + 2
    if code < 0x10000:
        out[size], out[size + 1], out[size + 2] = 0xE0 | code >> 12, 0x80 | code >> 6 & 0x3F, 0x80 | code & 0x3F
        return size + 3
    out[size], out[size + 1] = 0xF0 | code >> 18, 0x80 | code >> 12 & 0x3F
    out[size + 2], out[size + 3] = 0x80 | code >> 6 & 0x3F, 0x80 | code & 0x3F
    return size + 4
