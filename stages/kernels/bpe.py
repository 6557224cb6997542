"""Token ids of a batch: from the encoder's buffer into the column's, an end after every document, in one pass."""

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
