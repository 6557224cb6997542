"""Which rows may hold personal data: one pass over the bytes, so that exact patterns need to look at few rows only.

Nearly every byte asked about is ASCII, and UTF-8 never uses those inside another character, so nothing is decoded but
digits and signs of full width.
"""

import numpy as np

from stages.kernels import constant, inlined, inner, kernel

EMAIL, IPV4, IPV6, NUMBER = (1 << bit for bit in range(4))
"""Bits of `candidates`. NUMBER: at least 11 digits, one blank, dash or dot between some of them at most."""

_BLANK, _DASH, _DOT, _AT, _COLON = 32, 45, 46, 64, 58
_LEADS = (0xC2, 0xE2, 0xE3, 0xEF)  # first bytes of the characters that `_narrow` knows
_TELLS = np.zeros(256, np.bool_)
_TELLS[[*range(48, 58), _BLANK, _DASH, _DOT, _AT, _COLON, *_LEADS]] = True


@inlined
def _digit(byte):  # type: ignore[no-untyped-def]
    return 48 <= byte <= 57


@inner
def _hex(data, place, start):  # type: ignore[no-untyped-def]
    """Whether the four bytes before `place` are hexadecimal and begin with 2 or 3: a global unicast address might."""
    if place - 4 < start or not (data[place - 4] == 50 or data[place - 4] == 51):
        return False
    for at in range(place - 3, place):  # noqa: SIM110 - numba
        if not (_digit(data[at]) or 65 <= data[at] <= 70 or 97 <= data[at] <= 102):
            return False
    return True


@inner
def _narrow(data, place, end):  # type: ignore[no-untyped-def]
    """The character at `place` that is not ASCII: the plain form of one of full width, _BLANK or _DASH for blanks and
    dashes of other widths, 0 for all others; and its bytes, or 1 where it is none of these."""
    first, second = data[place], data[place + 1] if place + 1 < end else 0
    if first == 0xC2 and (second == 0xA0 or second == 0xB7):  # no-break space, middle dot
        return _BLANK, 2
    third = data[place + 2] if place + 2 < end else 0
    if first == 0xE2 and second == 0x80 and (0x89 <= third <= 0x8A or 0x90 <= third <= 0x94 or third == 0xAF):
        return _DASH, 3
    if first == 0xE3 and second == 0x80 and third == 0x80:
        return _BLANK, 3
    if first == 0xEF and second == 0xBC and 0x81 <= third <= 0xBF:  # U+FF01 to U+FF3F
        return np.int64(third) - 0x60, 3
    return 0, 1


def candidates(data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """uint8[rows]: what each row may hold, as bits; a bit not set is a promise, one set is not.

    `data` and `offsets` as `schema.text_buffers` gives them.
    """
    found = np.zeros(len(offsets) - 1, np.uint8)
    _candidates(constant(data), offsets, _TELLS, found)
    return found


@kernel
def _candidates(data, offsets, tells, found):  # type: ignore[no-untyped-def]
    for row in range(len(found)):
        start, end = offsets[row], offsets[row + 1]
        digits = dots = 0
        after = False  # a digit
        place = start
        while place < end:
            if not tells[data[place]]:
                digits = dots = 0
                after = False
                place += 1
                continue
            char, width = np.int64(data[place]), 1
            if char >= 0x80:
                char, width = _narrow(data, place, end)
            if _digit(char):
                digits += 1
                if digits >= 11:
                    found[row] |= NUMBER
                after = True
                place += width
                continue
            dots = dots + 1 if char == _DOT and after else 0
            if dots >= 3:
                found[row] |= IPV4
            if not (after and char in (_BLANK, _DASH, _DOT)):
                digits = 0
            if char == _AT:
                found[row] |= EMAIL
            elif char == _COLON and width == 1 and _hex(data, place, start):
                found[row] |= IPV6
            after = False
            place += width
