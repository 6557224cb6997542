"""A character n-gram model and its card, as `train-perplexity` writes them and `perplexity` reads them.

The model is a file of NumPy arrays, one after the other, compressed as one stream (zstd): version and order, the
characters known, then for each length of n-grams how many children each has, the last symbols, the costs, the costs of
going back. n-grams are stored in order, so neither contexts nor hashes are needed to tell them.
"""

import functools
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.storage import atomic
from stages.kernels import ngrams
from stages.kernels.ngrams import Automaton, Level
from stages.models import cards

_MAGIC = b"gristmill n-grams 1\n"
_LEVEL = 19  # zstd's; Brotli's best is 7 % smaller, and takes 5 times as long, several times in training


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
        packed = pa.Codec("zstd", _LEVEL).compress(content, asbytes=True)
        return _MAGIC + len(content).to_bytes(8, "little") + packed


def write(path: Path, model: Model) -> None:
    """The model's file, atomically."""
    with atomic(path) as beside:
        beside.write_bytes(model.encoded())


def read(path: Path) -> Model:
    """The model in this file. Raises `ValueError` where it is none."""
    data = path.read_bytes()
    start = len(_MAGIC) + 8
    if not data.startswith(_MAGIC) or len(data) < start:
        raise ValueError(f"{path} is not an n-gram model of train-perplexity")
    try:
        size = int.from_bytes(data[len(_MAGIC) : start], "little")
        raw = io.BytesIO(pa.Codec("zstd").decompress(data[start:], size, asbytes=True))
        order = int(np.load(raw, allow_pickle=False)[0])
        known = np.load(raw, allow_pickle=False)
        levels = [Level(*(np.load(raw, allow_pickle=False) for _ in Level._fields)) for _ in range(order)]
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return Model(known, levels)


@functools.cache
def load(path: Path) -> Automaton:
    """The model in this file, ready for `ngrams.score`."""
    model = read(path)
    return ngrams.automaton(model.known, model.levels)


def languages(model: Path) -> tuple[str, ...]:
    """Those its card names; none where there is no card. Raises `ValueError` for a card that is damaged."""
    return cards.read(model, "an n-gram model", lambda raw: tuple(raw["language"])) or ()
