"""What the models are told of each block: its text, its place in the tree, what stands around it, the whole page.

All features are float32 and none depends on the language but the score of the words, which is 0 for words that the
model has never seen.
"""

import numpy as np

from stages.kernels import inlined, inner, kernel
from stages.kernels.html_figures import (
    CAPITALS,
    COMMAS,
    DIGITS,
    ENDS,
    FIRST_KIND,
    INK,
    LAST_KIND,
    LETTERS,
    LINKED,
    LINKS,
    SIGNS,
    WIDE,
    WIDTH,
    WORDS,
)  # fmt: skip
from stages.kernels.html_names import BLOCK, TAG
from stages.kernels.html_tree import (
    BREAK,
    ELEMENT,
    FIRST,
    FLAGS,
    IN_ARTICLE,
    IN_CELL,
    IN_HEADING,
    IN_LI,
    IN_MAIN,
    IN_P,
    INLINE0,
    INLINE1,
    LEVEL,
    MARK,
    OP0,
    OP1,
    PARENT,
    PATH,
    PRE,
    STATE,
    TAG_OF,
    WORD0,
    WORD1,
)  # fmt: skip
from stages.kernels.html_tree import (
    LAST as LAST_BLOCK,
)

STATE_BITS = 24
ANCESTORS = 5
_H1 = TAG["h1"]

SLOTS = 1 << 15
"""Slots of each table of word scores; a word's slot is the upper bits of its hash."""
OWN_WORDS, NEAR_WORDS, FAR_WORDS, INLINE_WORDS, TEXT_WORDS = range(5)
"""Tables of word scores: attributes of the block's own element, of the two around it, of those further out, of inline
elements in it, and words of its text."""

PAGE_TYPES = 7
TYPE_SLOTS = 1 << 13
"""Page types (article, service, forum, listing, product, collection, documentation) and slots of their word scores."""

_TEXT_FEATURES = 24
_PLACE_FEATURES = STATE_BITS + 15
_NEIGHBOUR_FEATURES = 4 * 5 + 6
_PAGE_FEATURES = 16 + PAGE_TYPES
FEATURES = _TEXT_FEATURES + _PLACE_FEATURES + 6 * ANCESTORS + _NEIGHBOUR_FEATURES + _PAGE_FEATURES

SECOND_FEATURES = 10 + 6 + 3 * ANCESTORS + 12
"""Features that the second model has besides: the first one's verdicts on what stands around."""

C_WIDTH, C_LINKED, C_ENDS, C_P, C_LI, C_CELL, C_WORDS = range(7)  # running sums over the blocks
SUMS = 7
E_OWN, E_NEAR, E_FAR, E_LEAST, E_MOST, E_DEPTH = range(6)  # columns of what is known of elements
ELEMENT_FIGURES = 6


@inlined
def slot(word):  # type: ignore[no-untyped-def]
    """Of a word in a table: the hash mixed once more, its upper 15 bits."""
    return np.int64((np.int64(word) * 0x9E3779B1 & 0xFFFFFFFF) >> 17)


@inner
def page_types(words, weights, seen, out):  # type: ignore[no-untyped-def]
    """How much the words of all attributes of a page speak for each type of page; each word counts once."""
    for kind in range(PAGE_TYPES):
        out[kind] = 0
    count = 0
    for word in words:
        at = slot(word) >> 2
        if not seen[at]:
            seen[at] = 1
            count += 1
            for kind in range(PAGE_TYPES):
                out[kind] += weights[kind, at]
    for word in words:
        seen[slot(word) >> 2] = 0
    for kind in range(PAGE_TYPES):
        out[kind] /= np.sqrt(np.float32(count + 1))


@inner
def _sum(words, first, last, weights):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for place in range(first, last):
        total += weights[slot(words[place])]
    return total


@inner
def _elements(elements, words, weights, kinds, up, known):  # type: ignore[no-untyped-def]
    """The nearest block-level ancestor of every element, and the scores of its words."""
    for number in range(len(elements)):
        element = elements[number]
        parent = element[PARENT]
        row = known[number]
        if number == 0:
            up[0] = -1
            row[:] = 0
            continue
        up[number] = parent if kinds[elements[parent, TAG_OF]] & BLOCK or parent == 0 else up[parent]
        row[E_OWN] = _sum(words, element[WORD0], element[WORD1], weights[OWN_WORDS])
        row[E_NEAR] = _sum(words, element[WORD0], element[WORD1], weights[NEAR_WORDS])
        far = _sum(words, element[WORD0], element[WORD1], weights[FAR_WORDS])
        row[E_FAR] = known[parent, E_FAR] + far
        row[E_LEAST] = min(known[parent, E_LEAST], row[E_NEAR])
        row[E_MOST] = max(known[parent, E_MOST], row[E_NEAR])
        row[E_DEPTH] = known[parent, E_DEPTH] + 1


@inner
def _running(blocks, figures, sums):  # type: ignore[no-untyped-def]
    for column in range(SUMS):
        sums[0, column] = 0
    for number in range(len(blocks)):
        row, after, before = figures[number], sums[number + 1], sums[number]
        state = blocks[number, STATE]
        after[C_WIDTH] = before[C_WIDTH] + row[WIDTH]
        after[C_LINKED] = before[C_LINKED] + row[LINKED]
        after[C_ENDS] = before[C_ENDS] + row[ENDS]
        after[C_P] = before[C_P] + (row[WIDTH] if state & IN_P else 0)
        after[C_LI] = before[C_LI] + (row[WIDTH] if state & IN_LI else 0)
        after[C_CELL] = before[C_CELL] + (row[WIDTH] if state & IN_CELL else 0)
        after[C_WORDS] = before[C_WORDS] + row[WORDS]


@kernel
def number_groups(keys, table, groups):  # type: ignore[no-untyped-def]
    """Number equal keys alike from 0 on, in order of their first appearance; `table` is int32 of a power of two of
    slots, more than there are keys."""
    mask = len(table) - 1
    table[:] = -1
    made = 0
    for number in range(len(keys)):
        key = keys[number]
        at = np.int64((np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(20)) & mask
        while table[at] >= 0 and keys[table[at]] != key:
            at = (at + 1) & mask
        if table[at] < 0:
            table[at] = number
            groups[number] = made
            made += 1
        else:
            groups[number] = groups[table[at]]


@inner
def _text(block, row, words, tokens, span, weights, own, near, far, least, most, in_title, out):  # type: ignore[no-untyped-def]
    width = row[WIDTH] + 1e-6
    out[0], out[1] = np.log1p(row[WIDTH]), row[WORDS]
    out[2] = row[LINKED] / width
    out[3], out[4] = row[ENDS], row[COMMAS]
    out[5], out[6] = row[DIGITS] / width, row[CAPITALS] / (row[LETTERS] + 1e-6)
    out[7], out[8] = row[LAST_KIND], row[FIRST_KIND]
    out[9], out[10] = row[SIGNS], row[LINKS]
    out[11], out[12] = row[LETTERS] / (row[WORDS] + 1e-6), row[WIDE] / (row[INK] + 1e-6)
    size = span[1] - span[0]
    out[13] = _sum(tokens, span[0], span[1], weights[TEXT_WORDS]) / np.sqrt(np.float32(size + 1))
    out[14] = block[OP1] - block[OP0]
    matched = 0
    for place in range(span[0], span[1]):
        matched += in_title[np.int64(tokens[place]) & 4095]
    out[15] = matched / (size + 1e-6)
    out[16], out[17], out[18], out[19], out[20] = own, near, far, least, most
    out[21] = _sum(words, block[INLINE0], block[INLINE1], weights[INLINE_WORDS])
    out[22] = out[13] + out[16] + out[17] + out[18] + out[21]
    out[23] = row[ENDS] / (row[WORDS] + 1)


@inner
def _place(block, tag, depth, number, count, sums, since, width_since, heading, headline, out):  # type: ignore[no-untyped-def]
    for bit in range(STATE_BITS):
        out[bit] = block[STATE] >> bit & 1
    total = sums[count, C_WIDTH] + 1e-6
    at = STATE_BITS
    out[at] = tag - _H1 + 1 if _H1 <= tag < _H1 + 6 else 0
    out[at + 1], out[at + 2] = tag, depth
    out[at + 3], out[at + 4], out[at + 5] = block[LEVEL], min(block[MARK], 3), block[BREAK]
    out[at + 6] = number / count
    out[at + 7] = sums[number, C_WIDTH] / total
    out[at + 8] = np.log1p(np.float32(count - number))
    out[at + 9], out[at + 10], out[at + 11] = since, np.log1p(np.float32(width_since)), heading[0]
    out[at + 12] = heading[1]
    out[at + 13] = number - headline[0] if headline[0] >= 0 else -1000
    out[at + 14] = number - headline[1] if headline[1] >= 0 else -1000


@inner
def _ancestor(element, elements, sums, total, out):  # type: ignore[no-untyped-def]
    first, last = elements[element, FIRST], elements[element, LAST_BLOCK]
    width = sums[last, C_WIDTH] - sums[first, C_WIDTH]
    out[0] = np.log1p(width)
    out[1] = (sums[last, C_LINKED] - sums[first, C_LINKED]) / (width + 1e-6)
    out[2] = width / total
    out[3] = width / (last - first + 1e-6)
    out[4] = (sums[last, C_ENDS] - sums[first, C_ENDS]) / (width + 1e-6)
    out[5] = last - first


@inner
def _neighbours(number, count, blocks, figures, elements, sums, known, out):  # type: ignore[no-untyped-def]
    at = 0
    for step in (-2, -1, 1, 2):
        other = number + step
        if 0 <= other < count:
            row = figures[other]
            out[at], out[at + 1] = np.log1p(row[WIDTH]), row[LINKED] / (row[WIDTH] + 1e-6)
            mine, theirs = blocks[number, ELEMENT], blocks[other, ELEMENT]
            out[at + 2] = (elements[mine, PATH] == elements[theirs, PATH]) + (
                elements[mine, PARENT] == elements[theirs, PARENT]
            )
            out[at + 3] = row[LAST_KIND]
            out[at + 4] = known[theirs, E_OWN]
        else:
            for column in range(5):
                out[at + column] = -1
        at += 5
    for reach in (3, 8, 20):
        first, last = max(0, number - reach), min(count, number + reach + 1)
        width = sums[last, C_WIDTH] - sums[first, C_WIDTH]
        out[at] = width / (last - first)
        out[at + 1] = (sums[last, C_LINKED] - sums[first, C_LINKED]) / (width + 1e-6)
        at += 2


@inner
def _page(elements, blocks, figures, sums, out):  # type: ignore[no-untyped-def]
    """What is the same for all blocks of a page."""
    count = len(blocks)
    total = sums[count, C_WIDTH] + 1e-6
    out[0], out[1] = np.log1p(total), sums[count, C_LINKED] / total
    out[2] = np.log1p(np.float32(count))
    out[3], out[4], out[5] = sums[count, C_P] / total, sums[count, C_LI] / total, sums[count, C_CELL] / total
    headings, wide, longest = 0, np.float32(0), np.float32(0)
    for number in range(count):
        headings += blocks[number, STATE] & IN_HEADING != 0
        wide += figures[number, WIDE]
        longest = max(longest, figures[number, WIDTH])
    mains, articles, tables = 0, 0, 0
    for number in range(1, len(elements)):
        new = elements[number, FLAGS] & ~elements[elements[number, PARENT], FLAGS]
        mains += new & IN_MAIN != 0
        articles += new & IN_ARTICLE != 0
        tables += elements[number, TAG_OF] == _TABLE
    out[6], out[7] = np.log1p(np.float32(headings)), wide / total
    out[8], out[9], out[10] = mains, articles, np.log1p(np.float32(tables))
    out[11], out[12] = sums[count, C_ENDS] / total, np.log1p(longest)


_TABLE = TAG["table"]


@inner
def _groups(groups, count, figures, tallies):  # type: ignore[no-untyped-def]
    """Blocks, width and linked width of each group."""
    for number in range(count):
        for column in range(3):
            tallies[number, column] = 0
    for number in range(count):
        row = tallies[groups[number]]
        row[0] += 1
        row[1] += figures[number, WIDTH]
        row[2] += figures[number, LINKED]


@inner
def _headline(elements, blocks, tokens, ranges, title, in_title, found):  # type: ignore[no-untyped-def]
    """The first block of <h1>, and the first one that repeats most of the title; -1 for none."""
    found[0] = found[1] = -1
    for number in range(len(blocks)):
        if found[0] < 0 and elements[blocks[number, ELEMENT], TAG_OF] == _H1:
            found[0] = number
        size = ranges[number, 1] - ranges[number, 0]
        if found[1] >= 0 or size < 2 or 3 * size < len(title):
            continue
        matched = 0
        for place in range(ranges[number, 0], ranges[number, 1]):
            matched += in_title[np.int64(tokens[place]) & 4095]
        if 5 * matched >= 4 * size:
            found[1] = number


@kernel
def first(  # type: ignore[no-untyped-def]
    elements,
    blocks,
    figures,
    words,
    tokens,
    ranges,
    title,
    weights,
    types,
    kinds,
    up,
    known,
    sums,
    path_groups,
    text_groups,
    tallies,
    repeats,
    in_title,
    scratch,
    out,
):
    """Fill the features of the first model, float32[blocks, FEATURES].

    `path_groups` and `text_groups` number the blocks of one path and of one text alike.
    """
    count = len(blocks)
    if count == 0:
        return
    _elements(elements, words, weights, kinds, up, known)
    _running(blocks, figures, sums)
    for place in range(len(title)):
        in_title[np.int64(title[place]) & 4095] = 1
    _groups(text_groups, count, figures, repeats)
    _groups(path_groups, count, figures, tallies)
    page = np.int64(FEATURES - _PAGE_FEATURES)
    _page(elements, blocks, figures, sums, out[0, page:])
    total = sums[count, C_WIDTH] + 1e-6
    page_types(words, types, in_title[4096:], out[0, page + 16 :])
    headline, heading = scratch[:2], scratch[2:]
    _headline(elements, blocks, tokens, ranges, title, in_title, headline)
    since, width_since = 0, np.float32(0)
    heading[0] = heading[1] = 0
    for number in range(count):
        block, row = blocks[number], out[number]
        element = block[ELEMENT]
        if number:
            for column in range(page, FEATURES):
                row[column] = out[0, column]
        one = up[element] if element > 0 else 0
        two = up[one] if one > 0 else 0
        three = up[two] if two > 0 else 0
        _text(
            block, figures[number], words, tokens, ranges[number], weights, known[element, E_OWN],
            known[max(one, 0), E_NEAR] + known[max(two, 0), E_NEAR], known[max(three, 0), E_FAR],
            known[element, E_LEAST], known[element, E_MOST], in_title, row,
        )  # fmt: skip
        if block[STATE] & IN_HEADING:
            since, width_since = 0, np.float32(0)
            heading[0], heading[1] = figures[number, WIDTH], row[13]
        tag = elements[element, TAG_OF]
        at = _TEXT_FEATURES
        _place(
            block, tag, known[element, E_DEPTH], number, count, sums, since, width_since, heading, headline, row[at:]
        )
        since += 1
        width_since += figures[number, WIDTH]
        at += _PLACE_FEATURES
        for _ in range(ANCESTORS):
            _ancestor(max(element, 0), elements, sums, total, row[at:])
            element = up[element] if element > 0 else 0
            element = max(element, 0)
            at += 6
        _neighbours(number, count, blocks, figures, elements, sums, known, row[at:])
        tally = tallies[path_groups[number]]
        row[page + 13], row[page + 14] = tally[1] / tally[0], tally[0]
        row[page + 15] = repeats[text_groups[number], 0]
    for place in range(len(title)):
        in_title[np.int64(title[place]) & 4095] = 0


@inner
def _mean(first, last, sure, sums):  # type: ignore[no-untyped-def]
    return (sure[last] - sure[first]) / (sums[last, C_WORDS] - sums[first, C_WORDS] + 1e-6)


@kernel
def second(elements, blocks, figures, sums, up, path_groups, likely, sure, tallies, sections, out, at):  # type: ignore[no-untyped-def]
    """Fill in the features of the second model from column `at` on. `likely` float32[blocks] is what the first one
    says: how likely the block belongs to the text; `sure` float64[blocks + 1] and `sections` are work space."""
    count = len(blocks)
    sure[0] = 0
    for number in range(count):
        sure[number + 1] = sure[number] + likely[number] * figures[number, WORDS]
        for column in range(2):
            tallies[number, column] = 0
    for number in range(count):
        tally = tallies[path_groups[number]]
        tally[0] += likely[number] * (figures[number, WORDS] + 0.1)
        tally[1] += figures[number, WORDS] + 0.1
    start = 0
    for number in range(count + 1):  # where the section of a block begins and ends
        if number == count or (
            blocks[number, STATE] & IN_HEADING and number and not blocks[number - 1, STATE] & IN_HEADING
        ):
            for inside in range(start, number):
                sections[inside, 0], sections[inside, 1] = start, number
            start = number
    whole = sure[count] + 1e-6
    for number in range(count):
        row = out[number, at:]
        row[0] = likely[number]
        row[1], row[2] = np.log1p(whole), whole / (sums[count, C_WORDS] + 1)
        row[3], row[4] = sure[number] / whole, (sure[count] - sure[number + 1]) / whole
        tally = tallies[path_groups[number]]
        row[5] = tally[0] / tally[1]
        row[6] = _mean(sections[number, 0], sections[number, 1], sure, sums)
        row[7] = (sure[sections[number, 1]] - sure[sections[number, 0]]) / whole
        row[8] = likely[sections[number, 0]]
        row[9] = likely[sections[number, 1]] if sections[number, 1] < count else -1
        column = 10
        for step in (-3, -2, -1, 1, 2, 3):
            other = number + step
            row[column] = likely[other] if 0 <= other < count else -1
            column += 1
        element = blocks[number, ELEMENT]
        for _ in range(ANCESTORS):
            first_block, last_block = elements[element, FIRST], elements[element, LAST_BLOCK]
            row[column] = _mean(first_block, last_block, sure, sums)
            row[column + 1] = (sure[last_block] - sure[first_block]) / whole
            row[column + 2] = last_block - first_block
            element = max(up[element], 0) if element > 0 else 0
            column += 3
        for reach in (2, 5, 10, 20):
            row[column] = _mean(max(0, number - reach), min(count, number + reach + 1), sure, sums)
            row[column + 1] = _mean(max(0, number - reach), number, sure, sums)
            row[column + 2] = _mean(min(count, number + 1), min(count, number + reach + 1), sure, sums)
            column += 3


MOST_BRIDGED = 2
MOST_LINKED = 0.7


@kernel
def bridge(elements, blocks, figures, kept):  # type: ignore[no-untyped-def]
    """Keep what stands between two kept blocks and is like them: one or two blocks in elements of the same kind in the
    same parent, not all links. A short paragraph of an article is part of it, whatever it looks like by itself."""
    last, waiting = -1, 0
    for number in range(len(blocks)):
        if figures[number, INK] == 0:
            continue
        here = blocks[number, ELEMENT]
        if not kept[number]:
            waiting += 1
            continue
        if last >= 0 and 0 < waiting <= MOST_BRIDGED and _alike(elements, blocks[last, ELEMENT], here):
            for between in range(last + 1, number):
                inside = blocks[between, ELEMENT]
                prose = figures[between, LINKED] <= MOST_LINKED * figures[between, WIDTH]
                if prose and figures[between, INK] and _alike(elements, inside, here):
                    kept[between] = True
        last, waiting = number, 0


@inner
def _alike(elements, one, other):  # type: ignore[no-untyped-def]
    same_tag = elements[one, TAG_OF] == elements[other, TAG_OF]
    return same_tag and elements[one, PARENT] == elements[other, PARENT]


MOST_BEFORE = 3


@kernel
def headline(elements, blocks, figures, kept):  # type: ignore[no-untyped-def]
    """Keep the <h1> at most three blocks before the text, unless another one is kept. What has been learned from leaves
    it out as often as not; a text says more with its headline."""
    start = 0
    while start < len(blocks) and not kept[start]:
        start += 1
    for number in range(start, len(blocks)):
        if kept[number] and elements[blocks[number, ELEMENT], TAG_OF] == _H1:
            return
    number, passed = start - 1, 0
    while number >= 0 and start < len(blocks) and passed < MOST_BEFORE:
        if figures[number, INK]:
            passed += 1
            if elements[blocks[number, ELEMENT], TAG_OF] == _H1:
                kept[number] = True
                return
        number -= 1


LEAST_LETTERS = 3


@kernel
def code(blocks, figures, kept):  # type: ignore[no-untyped-def]
    """Keep preformatted text between the first and the last block that is kept: 99 of 100 such are part of the text
    (77 by the model alone). Not the numbers of lines: more letters than digits."""
    last = len(blocks) - 1
    while last >= 0 and not kept[last]:
        last -= 1
    begun = False
    for number in range(last + 1):
        row = figures[number]
        begun = begun or kept[number]
        letters = row[LETTERS] >= LEAST_LETTERS and row[LETTERS] > row[DIGITS]
        if begun and blocks[number, STATE] & PRE and letters:
            kept[number] = True
