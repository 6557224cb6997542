"""Windows: the beginning, middle and end of every text, cleaned of what models choke on.

What a model says of a long text it says of three short pieces of it too, at a cost that does not follow the length.
"""

import numpy as np

from stages.kernels import constant, inner, kernel
from stages.kernels.text import decode

_BLANK = np.uint8(0x20)
_INVALID = 0xFFFD


def sample(data: np.ndarray, offsets: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """UTF-8 (uint8) and offsets (int64[rows + 1]) of the first, middle and last `width` bytes of every row.

    `data` and `offsets` as `schema.text_buffers` gives them; a row of at most three widths is taken whole. Pieces are
    cut between characters and joined by a space. Control characters, line breaks among them, and code points that
    Unicode sets apart as no characters become spaces; bytes that are not UTF-8 are left out.
    """
    sizes = np.diff(offsets)
    room = int(np.where(sizes > 3 * width, 3 * width + 2, sizes).sum())  # two spaces more than a row one byte longer
    out, places = np.empty(room, np.uint8), np.zeros(len(offsets), np.int64)
    _sample(constant(data), offsets, width, out, places)
    return out[: places[-1]], places


@kernel
def _sample(data, offsets, width, out, places):  # type: ignore[no-untyped-def]
    size = np.int64(0)
    for row in range(len(offsets) - 1):
        start, end = offsets[row], offsets[row + 1]
        if end - start <= 3 * width:
            size = _copy(data, start, end, out, size)
        else:
            size = _copy(data, start, start + width, out, size)
            middle = (start + end - width) // 2
            for place in (middle, end - width):
                out[size] = _BLANK
                size = _copy(data, place, place + width, out, size + 1)
        places[row + 1] = size


@inner
def _copy(data, start, end, out, size):  # type: ignore[no-untyped-def]
    """Append the characters of `data[start:end]`; returns the new size."""
    place = start
    while place < end:
        if _BLANK <= data[place] < 0x7F:
            out[size] = data[place]
            size, place = size + 1, place + 1
            continue
        code, after = decode(data, place, end)
        if code < 0x20 or 0x7F <= code <= 0x9F or 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE:
            out[size] = _BLANK
            size += 1
        elif code != _INVALID or after > place + 1:
            for at in range(place, after):
                out[size + at - place] = data[at]
            size += after - place
        place = after
    return size
