"""Interpolated modified Kneser-Ney: how likely each character is after those before it.

Chen and Goodman 1998 (TR-10-98, section 3), estimated from exact counts: n-grams are numbers of 64 bits with the
symbols in them, so that no two share a count. To fit a size, the n-grams that gain least are left out (weighted
difference: Seymore and Rosenfeld 1996), and their share goes to the next shorter one. (Counting them whole for the
shorter ones, as in Kneser 1996, was worse: 5.61 and 5.89 bits instead of 5.60 and 5.82, Chinese, 2 and 0.5 MB.)

Memory: about 60 bytes for each distinct n-gram.
"""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.schema import split_batches, text_buffers
from stages.kernels import ngrams
from stages.kernels.ngrams import BEFORE, FIRST, STEPS, Level
from stages.models import ngrams as reader

_SEEN = 2  # a character must be met so often to be known
_WIDEST = 16  # bits of a symbol
_FALLBACK = (0.5, 1.0, 1.5)  # discounts where counts of counts give none, as in small alphabets (Heafield's lmplz)


class Grams(NamedTuple):
    """The n-grams of one length, ascending; the first length has every symbol."""

    keys: np.ndarray  # uint64, as `ngrams.grams`
    counts: np.ndarray  # int64: how often each occurs
    shorter: np.ndarray  # int64: the place, in the length before, of the same without its first symbol
    context: np.ndarray  # int64: of the same without its last symbol; -1: not there, as before a text's first character


class Estimate(NamedTuple):
    """What a model says of the n-grams of one length."""

    chance: np.ndarray  # float64: of the last symbol after the others
    back: np.ndarray  # float64: weight of going back from this n-gram as a context
    kept: np.ndarray  # bool


def known_characters(texts: pa.ChunkedArray, order: int) -> tuple[np.ndarray, int]:
    """uint32, ascending: folded code points that occur at least twice; and how many such did not go in.

    As many are known as `width` can number, the most frequent (then the lowest).
    """
    counts = np.zeros(0x110000, np.int64)
    table = ngrams.characters()
    for batch in split_batches(pa.table({"text": texts})):
        ngrams.count_characters(*text_buffers(batch["text"]), table, counts)
    counts[ngrams.BLANK] = 0
    found = np.flatnonzero(counts >= _SEEN)
    known = found[np.argsort(-counts[found], kind="stable")][: (1 << width(order)) - FIRST]
    return np.sort(known).astype(np.uint32), len(found) - len(known)


def count(texts: pa.ChunkedArray, known: np.ndarray, order: int) -> list[Grams]:
    """The n-grams of every length up to `order` in these texts; those of length 1 are all symbols, met or not."""
    bits, table = width(order), ngrams.symbols(known)
    keys, counts = np.zeros(0, np.uint64), np.zeros(0, np.int64)
    for batch in split_batches(pa.table({"text": texts})):
        found = np.sort(ngrams.grams(*text_buffers(batch["text"]), table, order, bits))
        starts = _starts(found)
        keys = np.concatenate([keys, found[starts]])
        counts = np.concatenate([counts, np.diff([*starts, len(found)])])
        by_key = np.argsort(keys, kind="stable")
        keys = keys[by_key]
        starts = _starts(keys)
        keys, counts = keys[starts], np.add.reduceat(counts[by_key], starts)
    longest_first = []
    for size in range(order - 1, 0, -1):
        grams, keys, counts = _shortened(keys, counts, size, bits, FIRST + len(known))
        longest_first.append(grams)
    every = np.arange(1, FIRST + len(known), dtype=np.uint64)
    totals = np.bincount(keys.astype(np.int64) - 1, counts, len(every)).astype(np.int64)
    nothing = np.zeros(len(every), np.int64)
    return [Grams(every, totals, nothing, nothing), *longest_first[::-1]]


def _shortened(keys: Any, counts: Any, size: int, bits: int, symbols: int) -> tuple[Grams, np.ndarray, np.ndarray]:
    """The n-grams with their places in the next shorter length (`size`), and that length's keys and counts."""
    suffixes = keys & np.uint64((1 << bits * size) - 1)
    if size == 1:
        short, shorter = np.arange(1, symbols, dtype=np.uint64), suffixes.astype(np.int64) - 1
    else:
        short, shorter = np.unique(suffixes, return_inverse=True)
    prefixes = keys >> np.uint64(bits)
    context = np.minimum(np.searchsorted(short, prefixes), len(short) - 1)
    context[short[context] != prefixes] = -1
    totals = np.bincount(shorter, counts, len(short)).astype(np.int64)
    return Grams(keys, counts, shorter, context), short, totals


def width(order: int) -> int:
    """Bits of a symbol in n-grams of this order."""
    return min(_WIDEST, 64 // order)


def _starts(keys: np.ndarray) -> np.ndarray:
    """Where each run of equal keys begins."""
    return np.flatnonzero(np.concatenate([np.ones(min(1, len(keys)), bool), keys[1:] != keys[:-1]]))


def estimate(grams: list[Grams], bits: int, kept: list[np.ndarray] | None = None) -> list[Estimate]:
    """Interpolated modified Kneser-Ney of these counts, of which only those `kept` are in the model (all, if omitted).

    Over all symbols, the chances after any context sum to 1. n-grams that reach before a text's beginning are never
    kept. A kept n-gram's context must be kept.
    """
    within = [inside(one, size, bits) for size, one in enumerate(grams)]
    counts = [grams[-1].counts]
    for size in range(len(grams) - 1, 0, -1):  # of a shorter n-gram it counts how many symbols it follows
        ways = np.where(within[size], 1, counts[-1])
        counts.append(np.bincount(grams[size].shorter, ways, len(grams[size - 1].keys)).astype(np.int64))
    made: list[Estimate] = []
    for size, (one, counted, stays) in enumerate(zip(grams, counts[::-1], kept or within)):
        starts = _starts(one.keys >> np.uint64(bits)) if size else np.zeros(1, np.int64)
        group = np.repeat(np.arange(len(starts)), np.diff([*starts, len(counted)]))
        totals = np.add.reduceat(counted, starts)
        left = np.where(stays, counted - discounts(counted), 0)
        back = 1 - np.add.reduceat(left, starts) / totals
        below = made[-1].chance[one.shorter] if size else 1 / len(counted)
        if size:
            has = np.add.reduceat(stays, starts) > 0
            made[-1].back[one.context[starts[has]]] = back[has]
        made.append(Estimate(left / totals[group] + back[group] * below, np.ones(len(counted)), stays))
    return made


def inside(grams: Grams, size: int, bits: int) -> np.ndarray:
    """bool: which n-grams (`size` symbols before the last) do not reach before a text's beginning."""
    return grams.keys >> np.uint64(size * bits) != BEFORE


def discounts(counts: np.ndarray) -> np.ndarray:
    """float64: what is taken off each count (Chen and Goodman 1998, equation 26), 0 off 0."""
    n1, n2, n3, n4 = (int((counts == number).sum()) for number in (1, 2, 3, 4))
    taken = np.array([0, *_FALLBACK])
    if n1 and n2 and n3 and n4:
        share = n1 / (n1 + 2 * n2)
        found = np.array([0, 1 - 2 * share * n2 / n1, 2 - 3 * share * n3 / n2, 3 - 4 * share * n4 / n3])
        taken = found if (found >= 0).all() else taken
    return taken[np.minimum(counts, 3)]


def worths(grams: list[Grams], bits: int) -> list[np.ndarray]:
    """float64: the bits by which each n-gram makes the texts cheaper; a context is worth its best continuation."""
    made = estimate(grams, bits)
    worth = [np.full(len(one.keys), -np.inf) for one in grams]
    for size in range(len(grams) - 1, 0, -1):
        one = grams[size]
        starts = _starts(one.keys >> np.uint64(bits))
        has = one.context >= 0
        without = made[size - 1].back[one.context] * made[size - 1].chance[one.shorter]
        gain = np.where(has, one.counts * np.log2(made[size].chance / without), -np.inf)
        gain[~inside(one, size, bits)] = -np.inf
        worth[size] = np.maximum(worth[size], gain)
        best = np.maximum.reduceat(worth[size], starts)
        place = one.context[starts]
        worth[size - 1][place[place >= 0]] = best[place >= 0]
    worth[0][:] = np.inf
    return worth


def fit(grams: list[Grams], known: np.ndarray, bits: int, limit: int) -> reader.Model:
    """The model of at most `limit` bytes, with about as many of the worthiest n-grams as go in.

    Raises `ValueError` where not even single characters do.
    """
    worth = worths(grams, bits)
    ranked = np.sort(np.concatenate([one[np.isfinite(one)] for one in worth]))[::-1]
    number, most = min(len(ranked), limit // 3), len(ranked)
    while True:
        least = ranked[number - 1] if number else np.inf
        model = _model(grams, known, bits, estimate(grams, bits, [one >= least for one in worth]))
        size = len(model.encoded())
        if size <= limit and number >= min(most, int(0.97 * number * limit / size)):
            return model
        if not number:
            raise ValueError(f"{size:,} bytes hold only the {len(known):,} characters; --size must be larger")
        if size > limit:
            most = number - 1
        number = min(most, int(0.99 * number * limit / size))


def _model(grams: list[Grams], known: np.ndarray, bits: int, made: list[Estimate]) -> reader.Model:
    """What the file holds: costs in tenths of a bit, n-grams by the number of children of each."""
    levels = []
    for size, (one, told) in enumerate(zip(grams, made)):
        children = np.zeros(len(one.keys), np.int64)
        if size + 1 < len(grams):
            longer = grams[size + 1].context[made[size + 1].kept]
            children = np.bincount(longer, minlength=len(one.keys))
        symbol = (one.keys & np.uint64((1 << bits) - 1))[told.kept].astype(np.uint16)
        levels.append(Level(symbol, _cost(told.chance[told.kept]), _cost(told.back[told.kept]),
                            children[told.kept].astype(np.uint16)))  # fmt: skip
    while len(levels) > 1 and not len(levels[-1].symbol):
        levels.pop()
    return reader.Model(known, levels)


def uniform(known: np.ndarray) -> reader.Model:
    """Every symbol as likely as any other, whatever it follows."""
    symbols = np.arange(1, len(known) + FIRST, dtype=np.uint16)
    none = np.zeros(len(symbols), np.uint8)
    return reader.Model(known, [Level(symbols, _cost(np.full(len(symbols), 1 / len(symbols))), none, none)])


def _cost(chances: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(-STEPS * np.log2(chances)), 0, 255).astype(np.uint8)
