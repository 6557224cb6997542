"""Scores of words for the extractor: logistic regressions over hashed words, trained by AdaGrad, page after page."""

from collections.abc import Callable

import numba
import numpy as np
from extractor_labels import Labelled

from stages.kernels.html_features import (
    FAR_WORDS,
    INLINE_WORDS,
    NEAR_WORDS,
    OWN_WORDS,
    PAGE_TYPES,
    SLOTS,
    TEXT_WORDS,
    TYPE_SLOTS,
    slot,
)  # fmt: skip
from stages.kernels.html_names import BLOCK, KINDS
from stages.kernels.html_tree import ELEMENT, INLINE0, INLINE1, PARENT, TAG_OF, WORD0, WORD1

TYPES = ("article", "service", "forum", "listing", "product", "collection", "documentation")
_EPOCHS, _RATE, _PENALTY = 3, 0.08, 1e-4
_TYPE_EPOCHS, _TYPE_RATE, _TYPE_PENALTY = 6, 0.1, 1e-5
_MOST = 4000  # words of a block with all that is around it
_MOST_FAR, _MOST_INLINE = 1500, 200
_WITHOUT_TEXT = 0.3  # share of the pages seen without the words of their text


def train_words(pages: list[Labelled], weights: Callable[[Labelled], np.ndarray]) -> np.ndarray:
    """float32[5, SLOTS]: how much each word, in each place, speaks for the text."""
    scores, squares = np.zeros((5, SLOTS)), np.full((5, SLOTS), 1e-2)
    bias, found = np.zeros(2), np.zeros((_MOST, 2), np.int64)
    draw = np.random.default_rng(0)
    ups = [_up(page.page.elements, KINDS) for page in pages]
    loads = [10 * weights(page) for page in pages]
    for epoch in range(_EPOCHS):
        rate = _RATE * (1 - 0.6 * epoch / _EPOCHS)
        for at in draw.permutation(len(pages)):
            page = pages[at]
            _learn(
                page.page.elements, page.page.blocks, page.page.words, page.figures.tokens, page.figures.ranges,
                ups[at], page.label, loads[at], draw.random() >= _WITHOUT_TEXT, scores, squares, bias, rate, found,
            )  # fmt: skip
    return scores.astype(np.float32)


@numba.njit
def _up(elements, kinds):  # type: ignore[no-untyped-def]
    """The nearest block-level ancestor of every element."""
    up = np.zeros(len(elements), np.int32)
    up[0] = -1
    for number in range(1, len(elements)):
        parent = elements[number, PARENT]
        up[number] = parent if kinds[elements[parent, TAG_OF]] & BLOCK or parent == 0 else up[parent]
    return up


@numba.njit
def _collect(table, words, first, last, found, count):  # type: ignore[no-untyped-def]
    for place in range(first, last):
        found[count, 0], found[count, 1] = table, slot(words[place])
        count += 1
    return count


@numba.njit
def _around(block, elements, words, up, found):  # type: ignore[no-untyped-def]
    """The slots of the words of attributes in and around a block; how many there are."""
    element = block[ELEMENT]
    count = _collect(OWN_WORDS, words, elements[element, WORD0], elements[element, WORD1], found, 0)
    for _ in range(2):
        element = max(up[element], 0) if element > 0 else 0
        if element > 0:
            count = _collect(NEAR_WORDS, words, elements[element, WORD0], elements[element, WORD1], found, count)
    element = max(up[element], 0) if element > 0 else 0
    while element > 0 and count < _MOST_FAR:
        count = _collect(FAR_WORDS, words, elements[element, WORD0], elements[element, WORD1], found, count)
        element = elements[element, PARENT]
    last = min(block[INLINE1], block[INLINE0] + _MOST_INLINE)
    return _collect(INLINE_WORDS, words, block[INLINE0], last, found, count)


@numba.njit
def _learn(elements, blocks, words, tokens, ranges, up, label, load, with_text, scores, squares, bias, rate, found):  # type: ignore[no-untyped-def]
    for number in range(len(blocks)):
        if load[number] <= 0:
            continue
        outer = _around(blocks[number], elements, words, up, found)
        count, share = outer, 1 / np.sqrt(ranges[number, 1] - ranges[number, 0] + 1.0)
        if with_text:
            count = _collect(TEXT_WORDS, tokens, ranges[number, 0], ranges[number, 1], found, outer)
        total = bias[0]
        for place in range(count):
            total += scores[found[place, 0], found[place, 1]] * (1.0 if place < outer else share)
        slope = load[number] * (1 / (1 + np.exp(-total)) - label[number])
        bias[1] += slope * slope
        bias[0] -= rate * slope / np.sqrt(bias[1] + 1e-6)
        for place in range(count):
            table, at = found[place, 0], found[place, 1]
            own = slope * (1.0 if place < outer else share) + _PENALTY * scores[table, at]
            squares[table, at] += own * own
            scores[table, at] -= rate * own / np.sqrt(squares[table, at] + 1e-3)


def train_types(pages: list[Labelled]) -> np.ndarray:
    """float32[7, TYPE_SLOTS]: how much each word of an attribute speaks for each type of page."""
    pages = [page for page in pages if page.kind in TYPES]
    kinds = np.array([TYPES.index(page.kind) for page in pages], np.int64)
    slots = [np.unique(_slots(page.page.words)) for page in pages]
    ends = np.cumsum([0, *map(len, slots)])
    words = np.concatenate(slots)
    scores, squares = np.zeros((PAGE_TYPES, TYPE_SLOTS)), np.full((PAGE_TYPES, TYPE_SLOTS), 1e-2)
    draw = np.random.default_rng(0)
    for epoch in range(_TYPE_EPOCHS):
        rate = _TYPE_RATE * (1 - epoch / (_TYPE_EPOCHS + 2))
        for at in draw.permutation(len(pages)):
            _learn_type(words[ends[at] : ends[at + 1]], kinds[at], scores, squares, rate)
    return scores.astype(np.float32)


@numba.njit
def _slots(words):  # type: ignore[no-untyped-def]
    slots = np.zeros(len(words), np.int64)
    for place in range(len(words)):
        slots[place] = slot(words[place]) >> 2
    return slots


@numba.njit
def _learn_type(words, kind, scores, squares, rate):  # type: ignore[no-untyped-def]
    share = 1 / np.sqrt(len(words) + 1.0)
    totals = np.zeros(PAGE_TYPES)
    for word in words:
        totals += scores[:, word] * share
    slopes = np.exp(totals - totals.max())
    slopes /= slopes.sum()
    slopes[kind] -= 1
    for word in words:
        for one in range(PAGE_TYPES):
            own = slopes[one] * share + _TYPE_PENALTY * scores[one, word]
            squares[one, word] += own * own
            scores[one, word] -= rate * own / np.sqrt(squares[one, word] + 1e-3)
