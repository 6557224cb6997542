"""Letters in capitals and in small, counted."""

import functools

import numpy as np

from stages.kernels import constant, kernel
from stages.kernels.text import cached, decode

SMALL, CAPITAL = 1, 2


@functools.cache
def table() -> np.ndarray:
    """uint8[0x110000]: SMALL or CAPITAL for the code points that are one of them, 0 for all others."""
    return cached("cases", _build)


def _build() -> np.ndarray:
    chars = map(chr, range(0x110000))
    return np.fromiter((SMALL if char.islower() else CAPITAL * char.isupper() for char in chars), np.uint8, 0x110000)


def count(data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """int64[rows, 2]: the small letters and the capitals of every row of `schema.text_buffers`."""
    counts = np.zeros((len(offsets) - 1, 3), np.int64)
    _count(constant(data), offsets, constant(table()), counts)
    return counts[:, 1:]


@kernel
def _count(data, offsets, cases, counts):  # type: ignore[no-untyped-def]
    for row in range(len(counts)):
        place, end = offsets[row], offsets[row + 1]
        while place < end:
            code, place = decode(data, place, end)
            counts[row, cases[code]] += 1
