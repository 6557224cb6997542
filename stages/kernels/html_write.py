"""Write the blocks of a page that are kept as text: lines, blank lines, list markers, rows of tables, code as it is.

White space collapses as in a browser; a line break of the source between two characters of Chinese or Japanese is
nothing. Signs of icon fonts (private use) and control characters are left out. A power is `10^6`, an index `CO_2`, a
formula `$...$`.
"""

import numpy as np

from stages.kernels import inlined, inner, kernel
from stages.kernels.html_references import reference
from stages.kernels.html_tree import (
    BREAK,
    CELL,
    FORMULA,
    FORMULA_AS_IS,
    GAP,
    LEVEL,
    LEVEL_AGAIN,
    LOWER,
    MARK,
    NEW_LINE,
    OP,
    OP0,
    OP1,
    OP_FIRST,
    OP_LAST,
    PRE,
    RAISE,
    ROW,
    SIGN,
    STATE,
    WRITE,
)  # fmt: skip
from stages.kernels.text import DIGIT, HAN, KANA, LETTER, SPACE, decode
from stages.kernels.whitespace import BLANK

AT, PENDING, LAST_CODE, RAISED, START, GAP_CODE = range(6)
"""Slots of the writer: where it writes, white space that waits (1: blank, 2: line break), the last code point, a `^` or
`_` that waits, where the block began, and the code point before the waiting white space."""
_DEEPEST_INDENT = 8
IS_BLANK = np.zeros(0x10000, np.bool_)
IS_BLANK[list(map(ord, BLANK))] = True
SPARE = 64  # bytes a block may need for what stands before it


def room(blocks: np.ndarray, ops: np.ndarray, count: int) -> int:
    """Bytes that the text of a page may take at most."""
    if count == 0:
        return 0
    texts = ops[blocks[0, OP0] : blocks[count - 1, OP1]]
    lengths = np.maximum(texts[:, OP_LAST] - texts[:, OP_FIRST], 0)  # a sign has no range
    return int(2 * lengths.sum() + 8 * len(texts) + SPARE * count)


@inner
def _put(out, at, code):  # type: ignore[no-untyped-def]
    if code < 0x80:
        out[at] = code
        return at + 1
    if code < 0x800:
        out[at], out[at + 1] = 0xC0 | code >> 6, 0x80 | code & 63
        return at + 2
    if code < 0x10000:
        out[at], out[at + 1], out[at + 2] = 0xE0 | code >> 12, 0x80 | code >> 6 & 63, 0x80 | code & 63
        return at + 3
    out[at], out[at + 1] = 0xF0 | code >> 18, 0x80 | code >> 12 & 63
    out[at + 2], out[at + 3] = 0x80 | code >> 6 & 63, 0x80 | code & 63
    return at + 4


@inlined
def _is_wide(code, classes):  # type: ignore[no-untyped-def]
    return code >= 0x2E80 and (classes[code] & (HAN | KANA) != 0 or 0x3000 <= code < 0x3040 or 0xFF00 <= code < 0xFF61)


@inner
def _emit(out, code, w, classes):  # type: ignore[no-untyped-def]
    """Write one visible code point, and the white space and the mark that wait before it."""
    if 0xE000 <= code < 0xF900 or code < 32 or 127 <= code < 160 or code == 0xFEFF:
        return
    if w[PENDING]:
        if w[AT] > w[START] and not (w[PENDING] == 2 and _is_wide(w[LAST_CODE], classes) and _is_wide(code, classes)):
            out[w[AT]] = 32
            w[AT] += 1
            w[LAST_CODE] = 32
        w[PENDING] = 0
    if w[RAISED]:
        before = w[LAST_CODE]
        bound = classes[before] & (LETTER | DIGIT) != 0 or before == 41 or before == 93
        if (
            bound
            and w[AT] > w[START]
            and (classes[code] & (LETTER | DIGIT) != 0 or code == 45 or code == 43 or code == 0x2212)
        ):
            out[w[AT]] = w[RAISED]
            w[AT] += 1
        w[RAISED] = 0
    w[AT] = _put(out, w[AT], code)
    w[LAST_CODE] = code


@inner
def _back_over(out, at, floor, spaces, classes):  # type: ignore[no-untyped-def]
    """The place behind the last character of the line before `at` that is no white space, or (`spaces` False) that
    shows."""
    while at > floor:
        start = at - 1
        while start > floor and out[start] & 0xC0 == 0x80:
            start -= 1
        code, _ = decode(out, start, at)
        if code == 10 or not (classes[code] & SPACE if spaces else code < 0x10000 and IS_BLANK[code]):
            break
        at = start
    return at


@inner
def _trim(out, at, floor, classes, lines):  # type: ignore[no-untyped-def]
    """Where a line ends that is written up to `at`: without white space, and nowhere if nothing of it shows. With
    `lines`, empty lines before it go, too."""
    while at > floor:
        empty = _back_over(out, at, floor, False, classes)
        if empty > floor and out[empty - 1] != 10:
            return _back_over(out, at, floor, True, classes)
        at = empty
        if at == floor or not lines:
            break
        at -= 1
    return at


@inner
def _emit_as_is(out, code, w, classes):  # type: ignore[no-untyped-def]
    """Write one code point of preformatted text. The first line break of all is none, and no more than one empty line
    stands in a row."""
    if code == 10:
        at = _trim(out, w[AT], 0, classes, False)
        empty = at == 0 or (at > 1 and out[at - 1] == 10 and out[at - 2] == 10)
        if (w[AT] > w[START] or w[GAP_CODE]) and not empty:
            out[at] = 10
            at += 1
        w[AT], w[GAP_CODE] = at, 1
        return
    if (code < 32 and code != 9) or 127 <= code < 160 or 0xE000 <= code < 0xF900:
        return
    w[GAP_CODE] = 1
    w[AT] = _put(out, w[AT], code)
    w[LAST_CODE] = code


@inner
def _plain(data, place, last, out, w):  # type: ignore[no-untyped-def]
    """Write visible ASCII as it is, up to the next blank, reference or other character: most of most pages."""
    at = w[AT]
    while place < last and 32 < data[place] < 127 and data[place] != 38:
        out[at] = data[place]
        at += 1
        place += 1
    if at > w[AT]:
        w[AT], w[LAST_CODE] = at, out[at - 1]
    return place


@inner
def _range(data, first, last, references, pre, out, w, classes, keys, codes, windows):  # type: ignore[no-untyped-def]
    place = first
    while place < last:
        if not pre and w[PENDING] == 0 and w[RAISED] == 0:
            place = _plain(data, place, last, out, w)
            if place == last:
                return
        byte = data[place]
        second = 0
        if byte == 38 and references:
            code, second, place = reference(data, place, last, keys, codes, windows)
        elif byte < 0x80:
            code = np.int64(byte)
            place += 1
        else:
            decoded, place = decode(data, place, last)
            code = np.int64(decoded)
        if pre:
            if code == 13 or code == 0x2028 or code == 0x2029:
                code = 10
                if place < last and data[place] == 10:
                    place += 1
            _emit_as_is(out, code, w, classes)
            if second:
                _emit_as_is(out, second, w, classes)
        elif code == 32 or 9 <= code <= 13 or code == 0x2028 or code == 0x2029:
            w[PENDING] = max(w[PENDING], 2 if code == 10 or code == 13 else 1)
        else:
            _emit(out, code, w, classes)
            if second:
                _emit(out, second, w, classes)


_STYLE_OPEN = np.frombuffer(b"{\\displaystyle ", np.uint8)


@inner
def _formula(data, first, last, kind, out, w, classes, keys, codes, windows, opening):  # type: ignore[no-untyped-def]
    """`$TeX$`, without the frame of `{\\displaystyle ...}` that wikis put around it."""
    while first < last and data[first] <= 32:
        first += 1
    while first < last and data[last - 1] <= 32:
        last -= 1
    size = len(opening)
    if last - first > size and data[last - 1] == 125:
        framed = True
        for at in range(size):
            framed = framed and data[first + at] == opening[at]
        if framed:
            first, last = first + size, last - 1
    if first == last:
        return
    _emit(out, 36, w, classes)
    w[PENDING] = 0
    at = w[AT]
    _range(data, first, last, kind == FORMULA, False, out, w, classes, keys, codes, windows)
    w[PENDING] = 0
    if w[AT] == at:
        w[AT] -= 1
        return
    _emit(out, 36, w, classes)


@inner
def _is_word(data, ops, number, last):  # type: ignore[no-untyped-def]
    """Whether what is raised begins with two letters: 1st and Mme are no powers."""
    if number >= last or ops[number, OP] != WRITE:
        return False
    place, end = ops[number, OP_FIRST], ops[number, OP_LAST]
    return place + 1 < end and 97 <= data[place] | 32 <= 122 and 97 <= data[place + 1] | 32 <= 122


@inner
def _block(data, block, ops, out, w, classes, keys, codes, windows, opening):  # type: ignore[no-untyped-def]
    pre = block[STATE] & PRE != 0
    w[PENDING] = w[RAISED] = w[GAP_CODE] = 0
    w[START], w[LAST_CODE] = w[AT], 32
    for number in range(block[OP0], block[OP1]):
        kind, first, last = ops[number, OP], ops[number, OP_FIRST], ops[number, OP_LAST]
        if kind in (FORMULA, FORMULA_AS_IS):
            _formula(data, first, last, kind, out, w, classes, keys, codes, windows, opening)
        elif kind in (RAISE, LOWER):
            mark = np.int64(94) if kind == RAISE else np.int64(95)
            w[RAISED] = 0 if _is_word(data, ops, number + 1, block[OP1]) else mark
        elif kind == LEVEL_AGAIN:
            w[RAISED] = 0
        elif kind == SIGN:
            _emit(out, first, w, classes)
        elif kind == NEW_LINE:
            _emit_as_is(out, 10, w, classes)
        else:
            _range(data, first, last, kind == WRITE, pre, out, w, classes, keys, codes, windows)


@inner
def _before(block, row, cell, strength, rows, out, at):  # type: ignore[no-untyped-def]
    """Write what stands between the last block that was kept and this one, and its list marker."""
    in_row = block[ROW] != 0 and not rows[block[ROW]]
    if in_row and block[ROW] == row:
        if block[CELL] != cell:
            out[at], out[at + 1], out[at + 2] = 32, 124, 32
            return at + 3
        out[at] = 32
        return at + 1
    if at:
        out[at] = 10
        at += 1
        if strength == GAP and not (in_row and row == block[ROW] - 1 and not rows[row]):
            out[at] = 10
            at += 1
    return _marker(block[MARK], block[LEVEL], out, at)


@inner
def _marker(mark, level, out, at):  # type: ignore[no-untyped-def]
    if mark == 0:
        return at
    for _ in range(2 * min(level - 1, _DEEPEST_INDENT)):
        out[at] = 32
        at += 1
    if mark < 0:
        out[at] = 45
        at += 1
    else:
        size = 1
        while size * 10 <= mark:
            size *= 10
        while size:
            out[at] = 48 + mark // size % 10
            at += 1
            size //= 10
        out[at] = 46
        at += 1
    out[at] = 32
    return at + 1


@kernel
def mark_layout(blocks, count, rows):  # type: ignore[no-untyped-def]
    """Mark in `rows` those with a cell of several blocks: their cells are not joined in a line."""
    for number in range(1, count):
        if blocks[number, ROW] and blocks[number, CELL] == blocks[number - 1, CELL]:
            rows[blocks[number, ROW]] = 1


@kernel
def write(data, blocks, count, kept, ops, rows, classes, keys, codes, windows, opening, out, ends, w):  # type: ignore[no-untyped-def]
    """Write the kept blocks into `out`; how many bytes that are. `ends`: where the text of each block ends."""
    w[:] = 0
    strength, row, cell = 0, 0, 0
    for number in range(count):
        block = blocks[number]
        strength = max(strength, block[BREAK])
        ends[number] = w[AT]
        if not kept[number]:
            continue
        before = w[AT]
        w[AT] = _before(block, row, cell, strength, rows, out, before)
        start = w[AT]
        _block(data, block, ops, out, w, classes, keys, codes, windows, opening)
        w[AT] = _trim(out, w[AT], min(start, w[AT]), classes, True)
        if w[AT] <= start:  # nothing that can be seen
            w[AT] = before
            continue
        ends[number] = w[AT]
        strength, row, cell = 0, block[ROW], block[CELL]
    return w[AT]


OPENING = _STYLE_OPEN
