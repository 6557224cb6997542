"""A character n-gram model and its card, as `train-perplexity` writes them and `perplexity` reads them.

The model is a file of NumPy arrays, one after the other, compressed as one stream (zstd): the order, the characters
known, then for each length of n-grams the last symbols, the costs, the costs of going back, how many children each has.
n-grams are stored in order, so neither contexts nor hashes are needed to tell them. Before the stream stand a mark, a
digest of all that follows (zstd's own is not to be had from Arrow) and the size unpacked.

Scoring trusts its arrays (compiled code checks no bounds), so reading does not: a model of a wrong digest, or whose
arrays do not agree with each other, is refused.
"""

import functools
import io
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import xxhash

from pipeline.storage import atomic
from stages.kernels import ngrams
from stages.kernels.ngrams import FIRST, Automaton, Level
from stages.models import cards

_FIELD = 8  # bytes of the digest, and of the size
_LEVEL = 19  # zstd's; Brotli's best is 7 % smaller, and takes 5 times as long, several times in training
_MOST_BYTES = 1 << 30  # unpacked
_MOST = 64  # symbols of an n-gram
_TYPES = (np.uint16, np.uint8, np.uint8, np.uint16)  # of a `Level`
_HEADER = re.compile(  # version 1, of 128 bytes
    rb"\x93NUMPY\x01\0v\0\{'descr': '(?P<type>.{3})', 'fortran_order': False, 'shape': \((?P<count>\d{1,12}),\), \} *\n"
)


MARK = b"gm-ngrams 2\n"
"""The first bytes of a model."""


class Model(NamedTuple):
    """What is in the file."""

    known: np.ndarray  # uint32: folded code points, ascending; see `ngrams.symbols`
    levels: list[Level]  # by length of n-gram, from 1

    def encoded(self) -> bytes:
        """The file's content; the same model is the same bytes."""
        raw = io.BytesIO()
        for array in (np.array([len(self.levels)], np.int64), self.known, *(a for level in self.levels for a in level)):
            np.save(raw, array, allow_pickle=False)
        content = raw.getvalue()
        sealed = len(content).to_bytes(_FIELD, "little") + pa.Codec("zstd", _LEVEL).compress(content, asbytes=True)
        return MARK + xxhash.xxh3_64_digest(sealed) + sealed


def write(path: Path, model: Model) -> None:
    """The model's file, atomically."""
    with atomic(path) as beside:
        beside.write_bytes(model.encoded())


def read(path: Path) -> Model:
    """The model in this file. Raises `ValueError` where it is none, or not as it was written."""
    data = path.read_bytes()
    if not data.startswith(MARK):
        raise ValueError(f"{path} is not an n-gram model of train-perplexity, or one of an older version")
    try:
        return _decoded(data[len(MARK) :])
    except (OSError, ValueError) as error:  # OSError: Arrow's, of a stream that is not zstd's
        raise ValueError(f"{path} is damaged: {error}") from error


def _decoded(data: bytes) -> Model:
    """What `encoded` wrote after the mark."""
    digest, sealed = data[:_FIELD], data[_FIELD:]
    if len(sealed) < _FIELD or xxhash.xxh3_64_digest(sealed) != digest:
        raise ValueError("its digest is that of other bytes")
    size = int.from_bytes(sealed[:_FIELD], "little")
    _expect(size <= _MOST_BYTES, f"{size:,} bytes unpacked are more than a model may have")
    content = pa.Codec("zstd").decompress(sealed[_FIELD:], size, asbytes=True)
    (order,), at = _array(content, 0, np.int64, 1)
    _expect(1 <= order <= _MOST, "it has no order")
    arrays = []
    for kind in (np.uint32, *_TYPES * int(order)):
        array, at = _array(content, at, kind)
        arrays.append(array)
    _expect(at == len(content), "there is more in it than a model")
    known, levels = arrays[0], [Level(*four) for four in zip(*(arrays[1 + field :: 4] for field in range(4)))]
    _check(known, levels)
    return Model(known, levels)


def _array(content: bytes, at: int, kind: Any, wanted: int | None = None) -> tuple[np.ndarray, int]:
    """The array that `np.save` wrote there, of this type, one dimension and size (any, if omitted); where it ends."""
    header, of = _HEADER.match(content, at), np.dtype(kind)
    if header is None or header["type"] != of.str.encode():
        raise ValueError(f"an array is not a row of {of}")
    count = int(header["count"])
    end = header.end() + count * of.itemsize
    _expect(end <= len(content) and wanted in (None, count), f"a row of {count:,} {of} is of a wrong length")
    return np.frombuffer(content, kind, count, header.end()).copy(), end  # a copy is aligned, wherever it began


def _check(known: np.ndarray, levels: list[Level]) -> None:
    """Raise `ValueError` unless these are the arrays of a model, so that no look-up leaves them."""
    _expect(bool((np.diff(known.astype(np.int64)) > 0).all()), "the characters are not in order")
    _expect(not len(known) or known[-1] < 0x110000, "a character that is none")
    symbols = FIRST + len(known)
    _expect(symbols <= 1 << 16 and np.array_equal(levels[0].symbol, np.arange(1, symbols)), "symbols are missing")
    parents = np.zeros(symbols - 1, np.int64)  # of each n-gram of a level; those of one parent ascend
    for level, longer in zip(levels, [*levels[1:], None]):
        count = len(level.symbol)
        _expect({len(array) for array in level} == {count} == {len(parents)}, "arrays of different lengths")
        _expect(not count or (level.symbol.min() > 0 and level.symbol.max() < symbols), "a symbol that is none")
        _expect(bool((np.diff(parents << 16 | level.symbol) > 0).all()), "n-grams are not in order")
        children = int(level.children.sum(dtype=np.int64))
        _expect(children == (len(longer.symbol) if longer else 0), "n-grams without their parents")
        parents = np.repeat(np.arange(count), level.children)


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


@functools.cache
def load(path: Path) -> Automaton:
    """The model in this file, ready for `ngrams.score`. Raises `ValueError` where its card is not its own, too."""
    languages(path)
    model = read(path)
    return ngrams.automaton(model.known, model.levels)


def languages(model: Path) -> tuple[str, ...]:
    """Those its card names; none where there is no card. Raises `ValueError` for a card that is damaged."""
    return cards.read(model, "an n-gram model", cards.languages) or ()
