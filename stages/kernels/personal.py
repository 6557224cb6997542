"""Which rows may hold personal data: one pass over the bytes, so that exact patterns need to look at few rows only.

Every byte asked about is ASCII, and UTF-8 never uses those inside another character, so nothing is decoded.
"""

import numpy as np

from stages.kernels import constant, inlined, inner, kernel

EMAIL, IPV4, IPV6, NUMBER = (1 << bit for bit in range(4))
"""Bits of `candidates`. NUMBER: at least 11 digits, a single space or hyphen between some of them at most."""


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


def candidates(data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """uint8[rows]: what each row may hold, as bits; a bit not set is a promise, one set is not.

    `data` and `offsets` as `schema.text_buffers` gives them.
    """
    found = np.zeros(len(offsets) - 1, np.uint8)
    _candidates(constant(data), offsets, found)
    return found


@kernel
def _candidates(data, offsets, found):  # type: ignore[no-untyped-def]
    for row in range(len(found)):
        start, end = offsets[row], offsets[row + 1]
        digits = dots = 0
        for place in range(start, end):
            byte = data[place]
            if _digit(byte):
                digits += 1
                if digits >= 11:
                    found[row] |= NUMBER
                continue
            after = _digit(data[place - 1]) if place > start else False
            if byte == 46 and after:
                dots += 1
                if dots >= 3:
                    found[row] |= IPV4
            else:
                dots = 0
            if not (after and (byte == 32 or byte == 45)):
                digits = 0
            if byte == 64:
                found[row] |= EMAIL
            elif byte == 58 and _hex(data, place, start):
                found[row] |= IPV6
