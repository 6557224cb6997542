"""Figures of the text of every block: how long it is, how much of it is links, its punctuation, its hashed words.

Lengths are in letters: blanks do not count, and a character of Chinese or Japanese counts three, since it says about as
much as three letters. So the figures of a page do not depend on whether its language has blanks.
"""

import numpy as np

from stages.kernels import inlined, inner, kernel
from stages.kernels.html_references import reference
from stages.kernels.html_tree import (
    FORMULA,
    FORMULA_AS_IS,
    OP,
    OP0,
    OP1,
    OP_FIRST,
    OP_LAST,
    OP_LINK,
    SIGN,
    WRITE,
    WRITE_AS_IS,
)
from stages.kernels.text import DIGIT, HAN, HANGUL, KANA, LETTER, SPACE, UPPER, decode

(WIDTH, WORDS, LINKED, ENDS, COMMAS, DIGITS, CAPITALS, LETTERS, LAST_KIND, FIRST_KIND, SIGNS, LINKS, WIDE,
 INK) = range(14)  # fmt: skip
"""Columns of the figures. LAST_KIND: 1 end of a sentence, 2 colon, 3 other punctuation, 0 else. FIRST_KIND: 1 capital,
2 small letter, 3 letter without case, 4 digit, 0 else. WIDE: Han, kana and Hangul. INK: characters that are seen."""

MOST_TOKENS = 40
"""So many words of a block are hashed."""

_ENDS = frozenset(".!?。！？…؟।．")
_COMMAS = frozenset(",;，、；،")
_SIGNS = frozenset("|»›©•·→←×®™►▼▶<>&+/#@=：$€£¥")
_COLONS = frozenset(":：")
_WIDE = HAN | KANA | HANGUL


def _table() -> np.ndarray:
    """uint8[0x110000]: 1 ends a sentence, 2 comma, 4 sign, 8 colon."""
    table = np.zeros(0x110000, np.uint8)
    for bit, chars in ((1, _ENDS), (2, _COMMAS), (4, _SIGNS), (8, _COLONS)):
        table[[ord(char) for char in chars]] |= bit
    return table


MARKS = _table()

CODE, HASH, SIZE, IN_WORD, BEFORE, SEEN, LAST, TEXT_HASH, COUNT, RUN = range(10)
"""Slots of the running state of a block."""


@inner
def _end_word(s, tokens, limit):  # type: ignore[no-untyped-def]
    if s[SIZE] and s[COUNT] < limit:
        tokens[s[COUNT]] = np.uint32(s[HASH] & 0xFFFFFFFF)
        s[COUNT] += 1
    s[SIZE] = 0
    s[HASH] = 2166136261


@inlined
def _mix(state, code):  # type: ignore[no-untyped-def]
    return ((state ^ code) * 16777619) & 0xFFFFFFFF


@inner
def _character(code, linked, row, s, tokens, limit, classes, folds, marks):  # type: ignore[no-untyped-def]
    kind = classes[code]
    if kind & SPACE or code < 33 or 127 <= code < 160 or code == 0x200B or code == 0xFEFF:
        _end_word(s, tokens, limit)
        s[IN_WORD] = s[BEFORE] = 0
        return
    row[INK] += 1
    width = 1
    if kind & LETTER:
        first = 2
        if kind & _WIDE:
            first, width = 3, 3 if not kind & HANGUL else 2
            row[WIDE] += 1
            row[WORDS] += 1
            _end_word(s, tokens, limit)
            if s[BEFORE] and s[COUNT] < limit:
                tokens[s[COUNT]] = np.uint32(_mix(_mix(2166136261, s[BEFORE]), code))
                s[COUNT] += 1
            s[BEFORE], s[IN_WORD] = code, 0
        elif kind & UPPER:
            first = 1
            row[CAPITALS] += 1
        row[LETTERS] += 1
    elif kind & DIGIT:
        first = 4
        row[DIGITS] += 1
    else:
        first = 0
    if kind & (LETTER | DIGIT) and not kind & _WIDE:
        row[WORDS] += not s[IN_WORD]
        s[IN_WORD], s[BEFORE] = 1, 0
        s[HASH] = _mix(s[HASH], np.int64(folds[code]))
        s[SIZE] += 1
    elif not kind & _WIDE:
        mark = marks[code]
        row[ENDS] += mark & 1
        row[COMMAS] += mark >> 1 & 1
        row[SIGNS] += mark >> 2 & 1
        if s[IN_WORD] or s[BEFORE]:
            _end_word(s, tokens, limit)
        s[IN_WORD] = s[BEFORE] = 0
        s[LAST] = 1 if mark & 1 else 2 if mark & 8 else 3
    if first:
        s[LAST] = 0
    if s[SEEN] == 0:
        row[FIRST_KIND] = first
        s[SEEN] = 1
    row[WIDTH] += width
    row[LINKED] += width if linked else 0
    s[TEXT_HASH] = (s[TEXT_HASH] * 31 + code) & 0x3FFFFFFFFFFF


@inner
def _operation(data, op, row, s, tokens, limit, classes, folds, marks, keys, codes, windows):  # type: ignore[no-untyped-def]
    kind, place, last = op[OP], op[OP_FIRST], op[OP_LAST]
    linked = op[OP_LINK] != 0
    while place < last:
        byte = data[place]
        second = 0
        if byte == 38 and (kind in (WRITE, FORMULA)):
            code, second, place = reference(data, place, last, keys, codes, windows)
        elif byte < 0x80:
            code = np.int64(byte)
            place += 1
        else:
            decoded, place = decode(data, place, last)
            code = np.int64(decoded)
        _character(code, linked, row, s, tokens, limit, classes, folds, marks)
        if second:
            _character(second, linked, row, s, tokens, limit, classes, folds, marks)


@kernel
def figures(data, blocks, count, ops, classes, folds, marks, keys, codes, windows, rows, hashes, tokens, ranges, s):  # type: ignore[no-untyped-def]
    """Fill the figures float32[blocks, 14], a hash of each text int64[blocks], and its hashed words: `tokens` uint32
    and their ranges int32[blocks, 2]; how many hashed words there are."""
    s[:] = 0
    for number in range(count):
        row = rows[number]
        row[:] = 0
        start = s[COUNT]
        s[HASH], s[SIZE], s[IN_WORD], s[BEFORE], s[SEEN], s[LAST], s[TEXT_HASH], s[RUN] = (
            2166136261,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
        )
        for place in range(blocks[number, OP0], blocks[number, OP1]):
            op = ops[place]
            kind = op[OP]
            if kind in (WRITE, WRITE_AS_IS, FORMULA, FORMULA_AS_IS):
                _operation(data, op, row, s, tokens, start + MOST_TOKENS, classes, folds, marks, keys, codes, windows)
                row[LINKS] += op[OP_LINK] != 0 and s[RUN] == 0
                s[RUN] = op[OP_LINK]
            elif kind == SIGN:
                _character(np.int64(op[OP_FIRST]), False, row, s, tokens, start + MOST_TOKENS, classes, folds, marks)
        _end_word(s, tokens, start + MOST_TOKENS)
        row[LAST_KIND] = s[LAST]
        hashes[number] = s[TEXT_HASH]
        ranges[number, 0], ranges[number, 1] = start, s[COUNT]
    return s[COUNT]
