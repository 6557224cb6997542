"""Lines: those that came before (Gopher), C4's editing, and what FineWeb asks of them, counted over UTF-8 bytes.

Everything counted is a whole number of something (characters, words, lines); the stage divides. A character is a code
point. C4 takes lines as str.splitlines does, the others part them at newlines only.
"""

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np

from stages.kernels import constant, inlined, inner, kernel
from stages.kernels.scan import (
    ALONE,
    BREAK,
    DIGIT,
    DOT,
    EXTENDS,
    NEWLINE,
    RETURN,
    SPACE,
    TERMINAL,
    WORD,
    among,
    back,
    below,
    bytes_in,
    cleared,
    count_newlines,
    eight,
    equal_to,
    find,
    mix,
    read_line,
    strip,
)  # fmt: skip
from stages.kernels.text import decode

# Columns of `repeated`.
PARAS, DUP_PARAS, DUP_PARA_CHARS, LINES, DUP_LINES, DUP_LINE_CHARS = range(6)
# Columns of `edit`.
LONG_WORD, CITATIONS, UNTERMINATED, FEW_WORDS, JAVASCRIPT, POLICY, LOREM, CURLY = range(8)
# Columns of `measure_lines`.
FULL_LINES, PUNCT_LINES, SHORT_LINES, DUP_CHARS, LINE_CHARS = range(5)

_OPEN, _CLOSE, _CURLY, _BLANK = 0x5B, 0x5D, 0x7B, 0x20
_OPENS, _CONTROL, _LEAD_C2, _LEAD_E2 = np.uint64(_OPEN), np.uint64(0), np.uint64(0xC2), np.uint64(0xE2)
_SEED = np.uint64(0x9AE16A3B2F90404F)
Phrases: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]

_EDIT = np.frombuffer(b"[edit]", np.uint8)
_NEEDED = np.frombuffer(b"[citation needed]", np.uint8)
_CONTROLS = np.uint64(0xE0E0E0E0E0E0E0E0)


# Gopher's repeated lines and paragraphs


@inner
def repeated(data, start, end, kind, newlines, slots, keys, out):  # type: ignore[no-untyped-def]
    """Lines and paragraphs of data[start:end], which has so many newlines: how many, how many seen before, and the
    characters of those, into `out` (PARAS to DUP_LINE_CHARS). `slots` and `keys`: for 2 * newlines + 3 keys.

    Lines are parted by one or more newlines. Paragraphs are those of the stripped text, parted by two or more.
    """
    mask = cleared(slots, 2 * newlines + 3)
    first, last = strip(data, start, end, kind)
    value, chars = _SEED, -1  # of the paragraph so far; -1: there is none
    place = start
    while place <= end:
        stop, line, size = read_line(data, place, end)
        if place < stop or place == start or stop == end:
            _meet(slots, keys, mask, line, size, out[LINES:])
        if first <= stop and place <= last:
            if place < first or stop > last:
                _, line, size = read_line(data, max(place, first), min(stop, last))
            if size:
                value, chars = mix(value, line), chars + 1 + size
            elif chars >= 0:
                _meet(slots, keys, mask, value, chars, out)
                value, chars = _SEED, -1
        place = stop + 1
    if chars >= 0 or first == last:
        _meet(slots, keys, mask, value, max(chars, 0), out)


@inner
def _meet(slots, keys, mask, value, chars, out):  # type: ignore[no-untyped-def]
    """Counts a piece of text by its hash: into out[0], and into out[1] and, its characters, out[2] if seen before."""
    slot = find(slots, keys, mask, value)
    again = slots[slot] >= 0
    slots[slot], keys[slot] = 1, value
    out[0] += 1
    out[1] += again
    out[2] += chars * again


# FineWeb's lines


def measure_lines(
    data: np.ndarray, offsets: np.ndarray, profile: np.ndarray, kind: np.ndarray, short: np.ndarray, ends: np.ndarray
) -> np.ndarray:
    """What FineWeb's rules ask of the lines that hold more than white space, int64[rows, 5], FULL_LINES to LINE_CHARS.

    FULL_LINES: how many. PUNCT_LINES: those whose last character is a terminal mark or one of `ends` (int32, a row for
    each profile, padded with -1). SHORT_LINES: those of at most `short` (int64[profiles]) characters. DUP_CHARS:
    characters of the lines seen before. LINE_CHARS: all characters of the text but newlines.
    """
    data, most = constant(data), np.zeros(1, np.int64)
    _most_lines(data, offsets, most)
    slots = np.empty(max(16, 1 << (2 * int(most[0]) - 1).bit_length()), np.int32)
    out = np.zeros((len(offsets) - 1, 5), np.int64)
    _measure_lines(data, offsets, profile, kind, short, ends, slots, np.empty(len(slots), np.uint64), out)
    return out


@kernel
def _most_lines(data, offsets, most):  # type: ignore[no-untyped-def]
    """The lines of the row that has most of them, into most[0]."""
    for row in range(len(offsets) - 1):
        lines = 1 + count_newlines(data, offsets[row], offsets[row + 1])
        if lines > most[0]:
            most[0] = lines


@kernel
def _measure_lines(data, offsets, profile, kind, short, ends, slots, keys, out):  # type: ignore[no-untyped-def]
    for row in range(len(out)):
        place, end, which, counts = offsets[row], offsets[row + 1], profile[row], out[row]
        mask = cleared(slots, 1 + count_newlines(data, place, end))
        while place <= end:
            stop, value, chars = read_line(data, place, end)
            counts[LINE_CHARS] += chars
            if _full(data, place, stop, kind):
                code, _ = decode(data, back(data, place, stop), stop)
                counts[FULL_LINES] += 1
                counts[PUNCT_LINES] += kind[code] & TERMINAL != 0 or among(ends[which], code)
                counts[SHORT_LINES] += chars <= short[which]
                slot = find(slots, keys, mask, value)
                counts[DUP_CHARS] += chars if slots[slot] >= 0 else 0
                slots[slot], keys[slot] = 1, value
            place = stop + 1


@inner
def _full(data, place, end, kind):  # type: ignore[no-untyped-def]
    """Whether data[place:end] holds more than white space."""
    while place < end:
        code, place = decode(data, place, end)
        if not kind[code] & SPACE:
            return True
    return False


# C4's lines


def edit(
    data: np.ndarray,
    offsets: np.ndarray,
    profile: np.ndarray,
    kind: np.ndarray,
    longest: np.ndarray,
    fewest: np.ndarray,
    ends: np.ndarray,
    drops: np.ndarray,
    wanted: Phrases,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """C4's line rules: the edited bytes, their offsets, and int64[rows, 8] of what was found (LONG_WORD to CURLY).

    A line (of str.splitlines) is stripped, loses its citations, and falls when it has a word of more than `longest`
    characters, does not end in one of `ends` or ends in "...", has fewer than `fewest` words, or holds a JAVASCRIPT or
    POLICY phrase, looked at in this order. Lines with LOREM phrases and CURLY brackets are counted only. A word here
    is what white space parts, or a letter of an unspaced script. `longest` and `fewest` are float64[profiles], `ends`
    int32[profiles, n] padded with -1, `drops` uint8[profiles, 8]: which rules act; `wanted` comes from `phrases`.
    """
    rows = len(offsets) - 1
    found, bounds = np.zeros((rows, 8), np.int64), np.zeros(rows + 1, np.int64)
    edited = np.empty(offsets[-1] - offsets[0] + rows, np.uint8)
    limits = longest, fewest, ends, drops, wanted
    _edit(constant(data), offsets, profile, kind, limits, edited, constant(edited), bounds, found)
    return edited[: bounds[rows]], bounds, found


@kernel
def _edit(data, offsets, profile, kind, limits, edited, read, bounds, found):  # type: ignore[no-untyped-def]
    """`read` is `edited` for those who read it, of the same type as `data`."""
    longest, fewest, ends, drops, wanted = limits
    for row in range(len(found)):
        which, place, end, base = profile[row], offsets[row], offsets[row + 1], bounds[row]
        size = base
        while place < end:
            stop, after = _line_end(data, place, end, kind)
            first, last = strip(data, place, stop, kind)
            place = after
            if _has_long_word(data, first, last, kind, longest[which]):
                found[row, LONG_WORD] += 1
                continue
            few = _has_few_words(data, first, last, kind, fewest[which])
            until = _copy(data, first, last, kind, drops[which, CITATIONS], edited, size, found[row])
            if not _falls(read, size, until, few, ends[which], drops[which], wanted, found[row]):
                edited[until] = NEWLINE
                size = until + 1
        first, last = strip(read, base, size, kind)
        if first > base:
            for place in range(first, last):
                edited[base + place - first] = edited[place]
        bounds[row + 1] = base + last - first


@inner
def _line_end(data, place, end, kind):  # type: ignore[no-untyped-def]
    """Where the line at `place` ends, and where the next begins."""
    while place < end:
        while place + 8 <= end:
            ahead = bytes_in(below(_may_break(eight(data, place))))
            place += ahead
            if ahead < 8:
                break
        if place >= end:
            break
        code, after = decode(data, place, end)
        if kind[code] & BREAK:
            if code == RETURN and after < end and data[after] == NEWLINE:
                return place, after + 1
            return place, after
        place = after
    return end, end


@inlined
def _may_break(word):  # type: ignore[no-untyped-def]
    """Top bits of the bytes that may begin a line break: below 0x20, 0xC2 (U+0085), 0xE2 (U+2028)."""
    controls = word & _CONTROLS
    return equal_to(controls, _CONTROL) | equal_to(word, _LEAD_C2) | equal_to(word, _LEAD_E2)


@inner
def _has_long_word(data, place, end, kind, longest):  # type: ignore[no-untyped-def]
    """Whether a line has a word of more than `longest` characters, as C4 counts them."""
    at = place
    while at + longest < end:  # no word is so long where there is a blank in any so many bytes
        limit = at
        at += np.int64(longest)
        while at > limit and data[at] != _BLANK:
            at -= 1
        if data[at] != _BLANK:
            return _words(data, place, end, kind, np.inf)[1] > longest
        at += 1
    return False


@inner
def _has_few_words(data, place, end, kind, fewest):  # type: ignore[no-untyped-def]
    """Whether a line has fewer than `fewest` words, as C4 counts them."""
    return _words(data, place, end, kind, fewest)[0] < fewest


@inner
def _words(data, place, end, kind, enough):  # type: ignore[no-untyped-def]
    """Words of a line as C4 counts them, no more than `enough`, and the characters of the longest of these."""
    words = widest = width = 0
    apart = True  # what comes next is a new word, unless it is punctuation after a letter of an unspaced script
    alone = False
    while place < end and words < enough:
        code, place = decode(data, place, end)
        what = kind[code]
        if what & SPACE:
            apart, alone = True, False
            continue
        if apart or what & ALONE or (alone and what & WORD and not what & EXTENDS):
            words += 1
            width = 0
        apart, alone = False, what & ALONE != 0 or (alone and not what & WORD)
        width += 1
        widest = max(widest, width)
    return words, widest


@inner
def _copy(data, place, end, kind, citing, edited, size, found):  # type: ignore[no-untyped-def]
    """Appends data[place:end] to `edited` at `size`, citations left out if `citing`; returns the new size."""
    while place < end:
        stop = end
        if citing:
            after = _citation(data, place, end, kind) if data[place] == _OPEN else place
            if after > place:
                found[CITATIONS] += 1
                place = after
                continue
            stop = _next(data, place + 1, end, _OPENS)
        for at in range(np.uintp(stop - place)):
            edited[np.uintp(size) + at] = data[np.uintp(place) + at]
        size += stop - place
        place = stop
    return size


@inner
def _next(data, place, end, byte):  # type: ignore[no-untyped-def]
    """Where `byte` (uint64) comes next in data[place:end]; `end` if it does not."""
    while place + 8 <= end:
        ahead = bytes_in(below(equal_to(eight(data, place), byte)))
        place += ahead
        if ahead < 8:
            return place
    while place < end and data[place] != byte:
        place += 1
    return place


@inner
def _citation(data, place, end, kind):  # type: ignore[no-untyped-def]
    """The place after the citation that opens at `place` ([], [12], [edit], [citation needed]), or `place` itself."""
    at = place + 1
    while at < end:
        code, after = decode(data, at, end)
        if code == _CLOSE:
            return after
        if not kind[code] & DIGIT:
            break
        at = after
    for phrase in (_EDIT, _NEEDED):
        if _starts_with(data, place, end, phrase, False):
            return place + len(phrase)
    return place


@inner
def _falls(line, start, end, few, ends, drops, wanted, found):  # type: ignore[no-untyped-def]
    """Whether the edited line line[start:end] falls by the rules after the citations; counts what it meets."""
    closed = False
    if end > start:
        code, _ = decode(line, back(line, start, end), end)
        dots = end - start >= 3 and line[end - 1] == DOT and line[end - 2] == DOT and line[end - 3] == DOT
        closed = among(ends, code) and not dots
    found[UNTERMINATED] += not closed
    if not closed and drops[UNTERMINATED]:
        return True
    found[FEW_WORDS] += few
    if few:
        return True
    met = _phrases_in(line, start, end, wanted)
    found[LOREM] += met >> LOREM & 1
    found[JAVASCRIPT] += met >> JAVASCRIPT & 1
    if met >> JAVASCRIPT & 1 and drops[JAVASCRIPT]:
        return True
    found[CURLY] += met >> CURLY & 1
    found[POLICY] += met >> POLICY & 1
    return met >> POLICY & 1 and drops[POLICY]


# C4's phrases


def phrases(groups: Iterable[tuple[int, Iterable[str]]]) -> Phrases:
    """Lower-case phrases to look for in lines, as `edit` takes them: bytes, offsets, groups, how far to
    skip, and the length of the shortest.

    A group is one of JAVASCRIPT, POLICY, LOREM. Case is ignored in ASCII letters only. The skips, uint8[65536], are
    those of Wu and Manber 1994, "A fast algorithm for multi-pattern searching": by the two bytes that end a window as
    wide as the shortest phrase, how far the window can be moved without missing any. Phrases have two bytes or more.
    """
    listed = [(group, phrase.encode()) for group, members in groups for phrase in members]
    shortest = min(len(phrase) for _, phrase in listed)
    skips = np.full((256, 256), shortest - 1, np.uint8)
    for _, phrase in listed:
        for at in range(shortest - 1):
            rows, columns = ([*{byte, *bytes([byte]).upper()}] for byte in phrase[at : at + 2])
            where = np.ix_(rows, columns)
            skips[where] = np.minimum(skips[where], shortest - 2 - at)
    data = np.frombuffer(b"".join(phrase for _, phrase in listed), np.uint8)
    offsets = np.cumsum([0] + [len(phrase) for _, phrase in listed]).astype(np.int64)
    return data, offsets, np.array([group for group, _ in listed], np.int64), skips.ravel(), shortest


@inner
def _phrases_in(line, start, end, wanted):  # type: ignore[no-untyped-def]
    """The groups of the phrases a line holds, one bit each, and CURLY's if it has a curly bracket."""
    data, offsets, groups, skips, shortest = wanted
    curly = False
    for place in range(np.uintp(start), np.uintp(end)):
        curly |= line[place] == _CURLY
    met = np.int64(curly) << CURLY
    place = start + shortest - 2
    while place + 1 < end:
        skip = skips[np.int64(line[place]) << 8 | np.int64(line[place + 1])]
        if skip == 0:
            for which in range(len(groups)):
                phrase = data[offsets[which] : offsets[which + 1]]
                if _starts_with(line, place + 2 - shortest, end, phrase, True):
                    met |= 1 << groups[which]
        place += max(skip, 1)
    return met


@inner
def _starts_with(line, place, end, phrase, folded):  # type: ignore[no-untyped-def]
    """Whether line[place:end] starts with `phrase`, its ASCII letters in either case if `folded`."""
    if place + len(phrase) > end:
        return False
    for byte in phrase:
        other = line[place]
        if other != byte and (not folded or other < 0x41 or other > 0x5A or other | 0x20 != byte):
            return False
        place += 1
    return True
