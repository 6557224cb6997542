"""Line ends and blank lines of a text, made alike: one pass that tells which rows need it, one that rewrites those.

Every count of lines further on splits at LF and takes a line without characters for a blank one. A text with the line
ends of Windows, or with a no-break space on each blank line, is the same text to its reader.
"""

import numpy as np

from stages.kernels import constant, inner, kernel
from stages.kernels.text import decode

_BLANKS = (
    (0x09, 0x09), (0x0B, 0x0C), (0x1C, 0x20), (0x85, 0x85), (0xA0, 0xA0), (0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C),
    (0x115F, 0x1160), (0x1680, 0x1680), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x2000, 0x200F), (0x202A, 0x202F),
    (0x205F, 0x2064), (0x2066, 0x206F), (0x2800, 0x2800), (0x3000, 0x3000), (0x3164, 0x3164), (0xFE00, 0xFE0F),
    (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0),
)  # fmt: skip
BLANK = "".join(chr(code) for first, last in _BLANKS for code in range(first, last + 1))
"""What shows nothing on a line of its own: Unicode's White_Space but for line ends, its Default_Ignorable_Code_Point of
the basic plane, the information separators that Python takes for white space, and the blank of Braille."""

LINE_ENDS = "\r\n|[\r\u2028\u2029]"
"""What becomes LF, as a regular expression. U+0085 is no line end here: on the web it is the ellipsis of windows-1252
or half of a damaged letter."""

_IS_BLANK = np.zeros(0x10000, np.bool_)
_IS_BLANK[list(map(ord, BLANK))] = True
_NUL, _LF, _CR = 0, 10, 13


@inner
def _is_separator(data, place, end):  # type: ignore[no-untyped-def]
    """Whether U+2028 or U+2029 stands at `place`."""
    return (
        data[place] == 0xE2
        and place + 2 < end
        and data[place + 1] == 0x80
        and (data[place + 2] == 0xA8 or data[place + 2] == 0xA9)
    )


@inner
def _is_mark(data, place, end):  # type: ignore[no-untyped-def]
    """Whether a byte-order mark stands at `place`."""
    return place + 2 < end and data[place] == 0xEF and data[place + 1] == 0xBB and data[place + 2] == 0xBF


def irregular(data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """bool[rows]: the rows that `regular` would change.

    `data` and `offsets` as `schema.text_buffers` gives them.
    """
    found = np.zeros(len(offsets) - 1, np.bool_)
    _irregular(constant(data), offsets, _IS_BLANK, found)
    return found


@kernel
def _irregular(data, offsets, is_blank, found):  # type: ignore[no-untyped-def]
    for row in range(len(found)):
        place, end = offsets[row], offsets[row + 1]
        found[row] = _is_mark(data, place, end)
        blank, length = True, 0  # the line so far: whether it is blank, and its characters while it is
        while place < end and not found[row]:
            byte = data[place]
            if byte == _LF:
                found[row] = blank and length > 0
                blank, length = True, 0
                place += 1
            elif byte in (_CR, _NUL) or _is_separator(data, place, end):
                found[row] = True
            elif blank:
                code, place = decode(data, place, end)
                blank = code < len(is_blank) and is_blank[code]
                length += 1
            else:
                place += 1
        found[row] |= blank and length > 0


def regular(data: np.ndarray, offsets: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The chosen rows rewritten, the others as they are: bytes (uint8) and offsets (int64, rows + 1).

    And bool[rows]: the chosen rows in which nothing but line ends remains.

    Gone are NULs everywhere, byte-order marks at the head, and all that stands on a blank line (`BLANK`). Each of CRLF,
    CR, U+2028 and U+2029 becomes LF. Trailing and leading blanks of other lines stay.
    """
    out = np.empty(int(offsets[-1] - offsets[0]), np.uint8)
    ends = np.zeros(len(offsets), np.int64)
    bare = np.zeros(len(chosen), np.bool_)
    _regular(constant(data), offsets, chosen, _IS_BLANK, out, ends, bare)
    return out[: ends[-1]], ends, bare


@kernel
def _regular(data, offsets, chosen, is_blank, out, ends, bare):  # type: ignore[no-untyped-def]
    at = 0
    for row in range(len(chosen)):
        start, end = offsets[row], offsets[row + 1]
        if chosen[row]:
            at, bare[row] = _rewritten(data, start, end, is_blank, out, at)
        else:
            for place in range(start, end):
                out[at + place - start] = data[place]
            at += end - start
        ends[row + 1] = at


@inner
def _rewritten(data, place, end, is_blank, out, at):  # type: ignore[no-untyped-def]
    """Write one row to `out` from `at` on; return the place after it, and whether it holds nothing but line ends."""
    while place < end and (data[place] == _NUL or _is_mark(data, place, end)):
        place += 1 if data[place] == _NUL else 3
    bare = True
    line, blank = at, True  # where the line starts in `out`, and whether it is blank so far
    while place < end:
        byte = data[place]
        if byte in (_LF, _CR) or _is_separator(data, place, end):
            at = line if blank else at
            out[at] = _LF
            at += 1
            line, blank = at, True
            place = _after_line_end(data, place, end)
            continue
        after = place + 1
        if byte == _NUL:
            place = after
        elif blank:
            code, after = decode(data, place, end)
            blank = code < len(is_blank) and is_blank[code]
            bare = bare and blank
        while place < after:
            out[at] = data[place]
            at += 1
            place += 1
    return (line if blank else at), bare


@inner
def _after_line_end(data, place, end):  # type: ignore[no-untyped-def]
    """The place after the line end at `place`; NULs between CR and LF are as good as not there."""
    if data[place] == 0xE2:
        return place + 3
    after = place + 1
    if data[place] == _CR:
        ahead = after
        while ahead < end and data[ahead] == _NUL:
            ahead += 1
        if ahead < end and data[ahead] == _LF:
            return ahead + 1
    return after
