"""Character n-grams: what a text is as a row of symbols, their counting, and bits per character under a back-off model.

One table (`symbols`) says what every code point is to a model, so that training and scoring cannot differ: letters are
folded as for matching (`text.fold`), digits are 0, a run of white space and control characters is one blank, combining
marks and invisible format characters are left out, what the model does not know is `UNKNOWN`. A text stands after one
blank; blanks at its end are left out.

A model is scored as an automaton (Allauzen, Mohri and Roark 2003): a state for every context, a transition for every
n-gram, and where a state has no transition for the next symbol, a way back to the longest shorter context, at the cost
of its back-off weight. So a character costs one or two look-ups whatever the order (1.5 of English with the shipped
model). Costs are whole tenths of a bit: their sums are exact, and no answer depends on the order of additions.

A transition is known by 32 bits of a 64-bit hash and by its place, which the others decide: one that is not in the
model is taken for another about once in a thousand million times.
"""

from typing import NamedTuple

import numpy as np

from stages.kernels import constant, inlined, kernel, text
from stages.kernels.text import decode

BEFORE, BLANK, UNKNOWN, FIRST = 0, 1, 2, 3
"""Symbols: what is before a text's first blank (never predicted), white space, any character the model does not know,
and the first of those it knows."""

STEPS = 10
"""Costs are counted in this part of a bit."""

UNSEEN = 17
"""Bits by which an unknown character is dearer than "some unknown character": there are about 2^17 in Unicode."""

_SURPRISE = UNSEEN * STEPS
_LEFT_OUT = -1
_END = -2
_DIGIT = ord("0")
_FORMAT = ((0xAD, 0xAD), (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x2069), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF))
_NEXT, _COST, _MEANING = np.uint64(8), np.uint64(0xFF), np.uint64(0xFFFFFFFF)  # parts of a slot
_LANES = 8  # rows scored in turn
_ROW, _PLACE, _STOP, _LAST, _STATE, _FETCHED = range(6)  # of a lane
_LOAD = 0.5  # share of the slots in use
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio, odd (Knuth, volume 3, 6.4)


class Level(NamedTuple):
    """The n-grams of one length, in the order of their symbols; the first level has every symbol from `BLANK` on.

    An n-gram's children are the next level's that begin with it; they follow each other in the order of their parents.
    """

    symbol: np.ndarray  # uint16: the last one
    cost: np.ndarray  # uint8: of that symbol after the others
    back: np.ndarray  # uint8: of going back from this n-gram as a context; 0 where it has no children
    children: np.ndarray  # uint16


class Automaton(NamedTuple):
    """A model ready to score; `automaton` makes it. State 0 has seen nothing and has a transition for every symbol."""

    symbols: np.ndarray  # int32[0x110000], see `symbols`
    roots: np.ndarray  # uint64[symbols]: next state << 8 | cost, from state 0
    slots: np.ndarray  # uint64[places]: half of the transition's hash << 32 | next state << 8 | cost; 0: free
    backs: np.ndarray  # uint64[states]: the state to go back to << 8 | cost
    start: int  # the state before a text's first character


def symbols(known: np.ndarray) -> np.ndarray:
    """int32[0x110000]: the symbol of every code point, where `known[i]` (folded code points) is symbol `FIRST + i`."""
    folded = text.fold().astype(np.int32)
    folded[(text.classes() & text.DIGIT) != 0] = _DIGIT
    numbers = np.full(0x110000, UNKNOWN, np.int32)
    numbers[known] = np.arange(FIRST, FIRST + len(known), dtype=np.int32)
    return _spaced(numbers[folded], folded)


def characters() -> np.ndarray:
    """int32[0x110000]: the folded code point of every code point, as what is counted to choose those to know.

    `BLANK` stands for white space; no other character below U+0020 comes out.
    """
    folded = text.fold().astype(np.int32)
    folded[(text.classes() & text.DIGIT) != 0] = _DIGIT
    return _spaced(folded.copy(), folded)


def _spaced(table: np.ndarray, folded: np.ndarray) -> np.ndarray:
    table[folded == 0] = _LEFT_OUT
    for first, last in _FORMAT:
        table[first : last + 1] = _LEFT_OUT
    table[(text.classes()[folded] & text.SPACE) != 0] = BLANK  # of what folds to white space, too: an acute by itself
    table[:0x20] = table[0x7F:0xA0] = BLANK
    return table


@inlined
def _next(data, place, end, table, last):  # type: ignore[no-untyped-def]
    """The next symbol and the place after it; `_END` where there is none. `last`: the symbol before."""
    while place < end:
        if data[place] < 0x80:
            symbol, after = table[data[place]], place + 1
        else:
            code, after = decode(data, place, end)
            symbol = table[code]
        if symbol > BLANK:
            return symbol, after
        if symbol == BLANK and last != BLANK:
            ahead = after
            while ahead < end:  # only if anything comes after it
                code, after = decode(data, ahead, end)
                if table[code] > BLANK:
                    return np.int32(BLANK), ahead
                ahead = after
            return np.int32(_END), end
        place = after
    return np.int32(_END), end


@kernel
def count_characters(data, offsets, table, counts):  # type: ignore[no-untyped-def]
    """Add to `counts` (int64[0x110000]) how often each entry of `characters` occurs in these rows."""
    for row in range(len(offsets) - 1):
        place, end, last = offsets[row], offsets[row + 1], np.int32(BLANK)
        while True:
            last, place = _next(data, place, end, table, last)
            if last == _END:
                break
            counts[last] += 1


def grams(data: np.ndarray, offsets: np.ndarray, table: np.ndarray, order: int, bits: int) -> np.ndarray:
    """uint64: for every character of every row the n-gram that ends in it, a symbol in each `bits` bits.

    The latest symbol is in the lowest bits; before a text's beginning there is one `BLANK`, and `BEFORE` before that.
    `order` times `bits` is at most 64.
    """
    out = np.empty(int(offsets[-1] - offsets[0]), np.uint64)
    mask = np.uint64((1 << order * bits) - 1)
    size = _grams(constant(data), offsets, constant(table), mask, np.uint64(bits), out)
    return out[:size]


@kernel
def _grams(data, offsets, table, mask, bits, out):  # type: ignore[no-untyped-def]
    size = np.int64(0)
    for row in range(len(offsets) - 1):
        place, end, last, gram = offsets[row], offsets[row + 1], np.int32(BLANK), np.uint64(BLANK)
        while True:
            last, place = _next(data, place, end, table, last)
            if last == _END:
                break
            gram = (gram << bits | np.uint64(last)) & mask
            out[size] = gram
            size += 1
    return size


def costs(data: np.ndarray, offsets: np.ndarray, model: Automaton) -> tuple[np.ndarray, np.ndarray]:
    """int64[rows] twice: what every row of `schema.text_buffers` costs, in tenths of a bit, and its characters."""
    total, count = np.empty(len(offsets) - 1, np.int64), np.empty(len(offsets) - 1, np.int64)
    arrays = (constant(model.symbols), constant(model.roots), constant(model.slots), constant(model.backs))
    _costs(constant(data), offsets, arrays, model.start, np.empty((_LANES, 6), np.int64), total, count)
    return total, count


def score(data: np.ndarray, offsets: np.ndarray, model: Automaton) -> np.ndarray:
    """float32[rows]: bits per character of every row of `schema.text_buffers`; NaN where it has no characters."""
    total, count = costs(data, offsets, model)
    return np.where(count > 0, total / (STEPS * np.maximum(count, 1)), np.nan).astype(np.float32)


@kernel
def _costs(data, offsets, arrays, start, lanes, total, count):  # type: ignore[no-untyped-def]
    """Several rows in turn, a symbol of each: while one look-up waits for memory, the others' are under way."""
    table, roots, slots, backs = arrays
    rows, entered, active = len(offsets) - 1, np.int64(0), np.int64(0)
    while active < len(lanes) and entered < rows:
        _enter(lanes[active], offsets, entered, start, total, count)
        entered, active = entered + 1, active + 1
    while active:
        at = np.int64(0)
        while at < active:
            lane = lanes[at]
            last, place = _next(data, lane[_PLACE], lane[_STOP], table, np.int32(lane[_LAST]))
            if last != _END:
                lane[_PLACE], lane[_LAST] = place, last
                home = _home(slots, _mixed(np.uint64(lane[_STATE]), np.uint64(last)))
                lane[_FETCHED] = np.int64(slots[home])  # only so that it is near when it is asked for, a round later
                at += 1
            elif entered < rows:
                _enter(lane, offsets, entered, start, total, count)
                entered += 1
            else:
                active -= 1
                for field in range(len(lane)):
                    lane[field] = lanes[active, field]
        for at in range(active):
            lane = lanes[at]
            state, cost = _step(roots, slots, backs, np.uint64(lane[_STATE]), np.uint64(lane[_LAST]))
            lane[_STATE] = state
            total[lane[_ROW]] += cost + (_SURPRISE if lane[_LAST] == UNKNOWN else 0)
            count[lane[_ROW]] += 1


@inlined
def _enter(lane, offsets, row, start, total, count):  # type: ignore[no-untyped-def]
    """Begin a row in this lane."""
    lane[_ROW], lane[_PLACE], lane[_STOP], lane[_LAST], lane[_STATE] = row, offsets[row], offsets[row + 1], BLANK, start
    total[row] = count[row] = 0


@inlined
def _step(roots, slots, backs, state, symbol):  # type: ignore[no-untyped-def]
    """The state after `symbol` and what it cost to get there."""
    cost = np.int64(0)
    while state:
        found = slots[_find(slots, state, symbol)]
        if found:
            break
        back = backs[state]
        cost += np.int64(back & _COST)
        state = back >> _NEXT
    else:
        found = roots[symbol]
    return (found & _MEANING) >> _NEXT, cost + np.int64(found & _COST)


@inlined
def _mixed(state, symbol):  # type: ignore[no-untyped-def]
    """A one-to-one hash: 32 bits for the place, 32 to tell what is there from others."""
    mixed = (state << np.uint64(16) | symbol) * _SPREAD
    return (mixed ^ mixed >> np.uint64(32)) * _SPREAD


@inlined
def _home(slots, mixed):  # type: ignore[no-untyped-def]
    """Where a transition of this hash is, unless others are in its way."""
    return np.int64((mixed >> np.uint64(32)) * np.uint64(slots.shape[0]) >> np.uint64(32))


@inlined
def _find(slots, state, symbol):  # type: ignore[no-untyped-def]
    """Where this transition is, or the free place where it would be."""
    mixed, places = _mixed(state, symbol), slots.shape[0]
    place = _home(slots, mixed)
    while slots[place] and (slots[place] ^ mixed << np.uint64(32)) & ~_MEANING:
        place += 1
        if place == places:
            place = 0
    return place


def automaton(known: np.ndarray, levels: list[Level]) -> Automaton:
    """The automaton of a model: `levels[k - 1]` has its n-grams of length k.

    Raises `ValueError` for one of more than 2^24 contexts.
    """
    first = levels[0]
    slots = np.zeros(int(sum(len(level.cost) for level in levels) / _LOAD), np.uint64)
    states = 1 + sum(int(np.count_nonzero(level.children)) for level in levels)
    if states > 1 << 24:
        raise ValueError(f"{states:,} contexts are more than a model may have")
    backs, roots = np.zeros(states, np.uint64), np.zeros(len(first.cost) + 1, np.uint64)
    owners = np.zeros(1, np.uint64)  # of the level before: the state of each n-gram that has children, in order
    made = 1
    for level in levels:
        costs = level.cost.astype(np.uint64)
        mine = np.zeros(len(costs), np.uint64)
        has = level.children > 0
        mine[has] = np.arange(made, made + int(has.sum()), dtype=np.uint64)
        backs[mine[has].astype(np.int64)] = level.back[has]
        made += int(has.sum())
        if level is first:
            roots[1:] = mine << _NEXT | costs
        else:
            _link(owners, level.symbol, costs, mine, roots, slots, backs)
        owners = np.repeat(mine, level.children)
    return Automaton(symbols(known), roots, slots, backs, int(roots[BLANK]) >> 8)


@kernel
def _link(owners, last, costs, mine, roots, slots, backs):  # type: ignore[no-untyped-def]
    """Enter one level's transitions; a state's way back is where its context's way back leads by the same symbol."""
    for gram in range(len(last)):
        owner, symbol = owners[gram], np.uint64(last[gram])
        state, _ = _step(roots, slots, backs, backs[owner] >> _NEXT, symbol)
        if mine[gram]:
            backs[mine[gram]] |= state << _NEXT
            state = mine[gram]
        place = _find(slots, owner, symbol)
        slots[place] = (_mixed(owner, symbol) << np.uint64(32) & ~_MEANING) | state << _NEXT | costs[gram]
