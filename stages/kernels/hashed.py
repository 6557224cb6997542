"""Features of a text: its words and pairs of neighbouring words, each hashed into one of a fixed number of buckets.

The tokens are those of `kernels.prepare`, letters folded, so that a character is a word in scripts without blanks
between words. An n-gram is named by its bytes, tokens joined by one blank. Its bucket is the upper half of a 64-bit
hash, scaled: FNV-1a (Fowler, Noll and Vo; draft-eastlake-fnv) and after it the finaliser of MurmurHash3, because the
upper bits of FNV-1a alone depend little on the last bytes. The same on every machine and in every process.
"""

import numpy as np

from stages.kernels import constant, inner, kernel
from stages.kernels.prepare import prepare

VERSION = 1
"""Of tokens, hash and bucket; raised when one of them changes, since models of another version mean something else."""

_BASIS, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_MIX = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_SHIFT, _HALF = np.uint64(33), np.uint64(32)
_BLANK = np.uint8(0x20)
_PER_TOKEN = 2  # features a token adds, at most


def tokens(data: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """UTF-8 (uint8) and offsets (int64[rows + 1]) of every row's tokens, a blank after each.

    `data` and `offsets` as `schema.text_buffers` gives them.
    """
    return prepare(data, offsets, fold=True, split_han=True)


def features(data: np.ndarray, offsets: np.ndarray, buckets: int) -> tuple[np.ndarray, np.ndarray]:
    """The bucket of every feature of every row of `tokens` (int32), and where the rows start (int64[rows + 1]).

    Each token comes once, followed, from the second on, by the pair it closes: n tokens have 2n - 1 features.
    `buckets` is below 2^31.
    """
    found = np.empty(_PER_TOKEN * int(np.count_nonzero(data == _BLANK)), np.int32)
    starts = np.zeros(len(offsets), np.int64)
    _features(constant(data), offsets, np.uint64(buckets), found, starts)
    return found[: starts[-1]], starts


def counts(found: np.ndarray, buckets: int) -> np.ndarray:
    """int64[buckets]: how often each bucket occurs among `features`."""
    total = np.zeros(buckets, np.int64)
    _count(constant(found), total)
    return total


def sums(found: np.ndarray, starts: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    """float64[rows]: the sum of `ratios` (float32[buckets]) over the features of each row, first to last."""
    total = np.zeros(len(starts) - 1, np.float64)
    _sums(constant(found), starts, constant(ratios), total)
    return total


@kernel
def _features(data, offsets, buckets, found, starts):  # type: ignore[no-untyped-def]
    size = np.int64(0)
    for row in range(len(offsets) - 1):
        one = pair = _BASIS  # of the token that is read; of the token before it, a blank, and this one
        is_first = True
        for place in range(offsets[row], offsets[row + 1]):
            byte = data[place]
            if byte != _BLANK:
                one, pair = _step(one, byte), _step(pair, byte)
                continue
            found[size] = _bucket(one, buckets)
            size += 1
            if not is_first:
                found[size] = _bucket(pair, buckets)
                size += 1
            one, pair, is_first = _BASIS, _step(one, byte), False
        starts[row + 1] = size


@inner
def _step(value, byte):  # type: ignore[no-untyped-def]
    return (value ^ np.uint64(byte)) * _PRIME


@inner
def _bucket(value, buckets):  # type: ignore[no-untyped-def]
    value = (value ^ value >> _SHIFT) * _MIX[0]
    value = (value ^ value >> _SHIFT) * _MIX[1]
    value ^= value >> _SHIFT
    return np.int32((value >> _HALF) * buckets >> _HALF)


@kernel
def _count(found, total):  # type: ignore[no-untyped-def]
    for place in range(len(found)):
        total[found[place]] += 1


@kernel
def _sums(found, starts, ratios, total):  # type: ignore[no-untyped-def]
    for row in range(len(starts) - 1):
        value = 0.0
        for place in range(starts[row], starts[row + 1]):
            value += np.float64(ratios[found[place]])
        total[row] = value
