"""Token ids of a batch: what kinds of ids a document has; the ids with an end after every document."""

import numpy as np

from stages.kernels import constant, kernel


def terminated(ids: np.ndarray, offsets: np.ndarray, end: int, dtype: str) -> np.ndarray:
    """The ids of all documents one after the other as `dtype`, each document followed by `end`.

    `ids` is uint32, document i is `ids[offsets[i]:offsets[i + 1]]` (int64, documents + 1). Every id must fit `dtype`.
    """
    out = np.empty(len(ids) + len(offsets) - 1, dtype)
    _terminate(constant(ids), constant(offsets), out.dtype.type(end), out)
    return out


@kernel
def _terminate(ids, offsets, end, out):  # type: ignore[no-untyped-def]
    for row in range(len(offsets) - 1):
        for place in range(offsets[row], offsets[row + 1]):
            out[place + row] = ids[place]
        out[offsets[row + 1] + row] = end


def kinds_in(ids: np.ndarray, offsets: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """uint8 a document: the bits of `kinds` (uint8, one for each id of the vocabulary) that any of its ids has.

    `ids` and `offsets` are as for `terminated`. Every id must be below `len(kinds)`.
    """
    out = np.zeros(len(offsets) - 1, np.uint8)
    _gather_kinds(constant(ids), constant(offsets), constant(kinds), out)
    return out


@kernel
def _gather_kinds(ids, offsets, kinds, out):  # type: ignore[no-untyped-def]
    for row in range(len(out)):
        bits = out[row]
        for place in range(offsets[row], offsets[row + 1]):
            bits |= kinds[ids[place]]
        out[row] = bits
