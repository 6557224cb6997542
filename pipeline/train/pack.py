"""Best-fit packing: documents into windows, nothing cut that fits, next to no padding.

Best-fit decreasing (Ding et al. 2024, Fewer Truncations Improve Language Modeling) for what fits a window. A longer
document must be cut anyway, and where it is cut is free: so its whole windows are kept, its remainder is packed like a
document, and whole windows are cut further only to fill the gaps that are left, until these are less than one window.
What still is left, less than a window in all, shows text again that is learned from elsewhere, rather than padding:
more context before a piece that continues a document, or the beginning of one whole window, moved into the gaps.
"""

import heapq
from typing import NamedTuple

import numpy as np


class Piece(NamedTuple):
    """A stretch of a document in a window."""

    place: int  # in the token array
    length: int
    skip: int  # so many tokens at its start are context: not learned from here but in another piece


class Packed:
    """Windows of context + 1 tokens filled with whole documents, or pieces of those longer than that.

    `starts` and `lengths` (int64): where each document lies in the token array. A piece that continues a document
    repeats the token before it as its first input, so that every token of it is predicted, and once.
    """

    def __init__(self, starts: np.ndarray, lengths: np.ndarray, context: int) -> None:
        self.context = context
        rows = _packed(starts, lengths, context + 1)
        self.ends = np.cumsum([len(row) for row in rows]).astype(np.int64)  # of each window, in pieces
        columns = np.array([piece for row in rows for piece in row], np.int64).reshape(-1, 3).T
        self.places, self.lengths, self.skips = np.ascontiguousarray(columns)

    def __len__(self) -> int:
        return len(self.ends)

    def pieces(self, window: int) -> list[tuple[int, int]]:
        """(place, length) of each piece of a window; they may leave an end unfilled."""
        span = self._span(window)
        return list(zip(self.places[span].tolist(), self.lengths[span].tolist()))

    def learned(self, window: int) -> np.ndarray:
        """bool (context,): whether a target is learned from: not padding, not the joint of a cut, not mere context."""
        learned, at, span = np.zeros(self.context + 1, bool), 0, self._span(window)
        for length, skip in zip(self.lengths[span].tolist(), self.skips[span].tolist()):
            learned[at + skip : at + length] = True
            at += length
        return learned[1:]

    def _span(self, window: int) -> slice:
        return slice(int(self.ends[window - 1]) if window else 0, int(self.ends[window]))

    def padding(self) -> float:
        """Share of all windows that holds no token."""
        return 1 - int(self.lengths.sum()) / (len(self) * (self.context + 1))

    def repeated(self) -> float:
        """Share of all windows that is context shown again, the token before each continuation not counted."""
        return int(np.maximum(self.skips - 1, 0).sum()) / (len(self) * (self.context + 1))

    def exposure(self, visits: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Tokens of each document that were input, the last of a full window not being one."""
        counts = np.diff(np.concatenate([[0], self.ends]))
        inputs = self.lengths.copy()
        filled = np.add.reduceat(self.lengths, self.ends - counts)
        inputs[self.ends - 1] -= filled == self.context + 1
        document = np.searchsorted(ends, self.places, "right")
        seen = np.bincount(document, np.repeat(visits, counts) * inputs, len(ends))
        return seen.astype(np.int64)


def _packed(starts: np.ndarray, lengths: np.ndarray, capacity: int) -> list[list[Piece]]:
    """Windows as lists of pieces."""
    whole, rest = _cut_long(starts, lengths, capacity)
    packed, gaps = _best_fit(rest, capacity)
    largest = [(-gap, row) for row, gap in enumerate(gaps) if gap >= 2]  # a piece of one token predicts nothing
    heapq.heapify(largest)
    room = sum(-gap - 1 for gap, _ in largest)
    while whole and room >= capacity - 1:
        place, length = whole.pop()
        while length > 1:
            gap, row = heapq.heappop(largest)
            taken = min(-gap, length)
            packed[row].append((place, taken))
            place, length = place + taken - 1, length - taken + 1
            room -= -gap - 1
            if (left := -gap - taken) >= 2:
                heapq.heappush(largest, (-left, row))
                room += left - 1
    heads = set(starts.tolist())
    rows = [[Piece(place, length, int(place not in heads)) for place, length in row] for row in packed]
    rows = [_more_context(row, capacity, starts) for row in rows]
    if whole:
        rows.append(_moved(whole.pop(), rows, capacity, heads))
    return [[Piece(place, length, int(place not in heads))] for place, length in whole] + rows


def _more_context(row: list[Piece], capacity: int, starts: np.ndarray) -> list[Piece]:
    """What is left of a window goes to its first piece that continues a document: it begins earlier."""
    gap = capacity - sum(piece.length for piece in row)
    for i, (place, length, skip) in enumerate(row):
        if gap and skip:
            earlier = min(gap, place - int(starts[np.searchsorted(starts, place, "right") - 1]))
            return [*row[:i], Piece(place - earlier, length + earlier, skip + earlier), *row[i + 1 :]]
    return row


def _moved(window: tuple[int, int], rows: list[list[Piece]], capacity: int, heads: set[int]) -> list[Piece]:
    """Fill the gaps of `rows`, less than a window in all, with the beginning of a whole window; returns that window.

    What is learned from in the gaps is mere context where it stood.
    """
    first, length = window
    place, skip = first, int(first not in heads)
    for row in rows:
        gap = capacity - sum(piece.length for piece in row)
        if gap >= 2:
            row.append(Piece(place, gap, skip))
            place, skip = place + gap - 1, 1
    return [Piece(first, length, place - first + skip)]


def _cut_long(
    starts: np.ndarray, lengths: np.ndarray, capacity: int
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Windows that documents longer than one fill, and what is to be packed: (place, length) each."""
    whole: list[tuple[int, int]] = []
    rest: list[tuple[int, int]] = []
    for place, length in zip(starts.tolist(), lengths.tolist()):
        fits = length <= capacity
        while length > capacity:
            whole.append((place, capacity))
            place, length = place + capacity - 1, length - capacity + 1
        (rest if fits or length < capacity else whole).append((place, length))
    return whole, rest


def _best_fit(items: list[tuple[int, int]], capacity: int) -> tuple[list[list[tuple[int, int]]], list[int]]:
    """Each item, longest first, into the row with the smallest gap that takes it; rows and their gaps.

    Rows wait in a list by gap, and a bit set says which lists hold any: the smallest gap that suffices is the lowest
    bit from the item's length on.
    """
    rows: list[list[tuple[int, int]]] = []
    gaps: list[int] = []
    waiting: list[list[int]] = [[] for _ in range(capacity + 1)]
    there = 0  # bit g is set while a row with gap g waits
    for place, length in sorted(items, key=lambda item: (-item[1], item[0])):
        fitting = there >> length
        if fitting:
            gap = length + (fitting & -fitting).bit_length() - 1
            row = waiting[gap].pop()
            if not waiting[gap]:
                there &= ~(1 << gap)
        else:
            row, gap = len(rows), capacity
            rows.append([])
            gaps.append(capacity)
        rows[row].append((place, length))
        gaps[row] = gap - length
        if gaps[row]:
            waiting[gaps[row]].append(row)
            there |= 1 << gaps[row]
    return rows, gaps
