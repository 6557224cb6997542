"""How the quality kernels read text: what each code point is to them, eight bytes at a time, hashes and hash tables.

Most bytes of most texts need no look of their own: runs of ASCII letters and digits, and what lies between two line
breaks, are passed over eight at a time in one 64-bit word, the top bit of each byte saying whether it is of the kind
looked for. Everything else goes through `text.decode`, one code point after the other.

A line, a word or an n-gram that must be recognised is known by a 64-bit hash of its bytes.
"""

import numpy as np

from stages.kernels import inlined, inner, text
from stages.kernels.text import decode

# Bits of `kinds`.
SPACE, WORD, ALONE, PUNCT, ALPHA, TERMINAL, BREAK, EXTENDS, DIGIT, JOINS, COUNTED = (1 << bit for bit in range(11))
NEWLINE, RETURN, DOT, COMMA, ELLIPSIS, HASH = 0x0A, 0x0D, 0x2E, 0x2C, 0x2026, 0x23
_NEWLINES = np.uint64(NEWLINE)
_BREAKS = (0x0A, 0x0B, 0x0C, 0x0D, 0x1C, 0x1D, 0x1E, 0x85, 0x2028, 0x2029)  # where str.splitlines splits
_JOINERS = "'’-‐‑_."

_EACH = np.uint64(0x0101010101010101)  # times a byte: that byte in all eight places
_TOPS = np.uint64(0x8080808080808080)
_BITS = np.uint64(0x7F7F7F7F7F7F7F7F)
_CASE = np.uint64(0x2020202020202020)
_FROM_A, _PAST_Z = np.uint64(0x1F1F1F1F1F1F1F1F), np.uint64(0x0505050505050505)  # added, they carry into the top bit
_FROM_0, _PAST_9 = np.uint64(0x5050505050505050), np.uint64(0x4646464646464646)
_ONE, _SEVEN, _EIGHT, _COUNT = np.uint64(1), np.uint64(7), np.uint64(8), np.uint64(56)
_SEED, _MIX = np.uint64(0xCBF29CE484222325), np.uint64(0x9E3779B97F4A7C15)
_PRIME, _FOLD, _HIGH = np.uint64(0xBF58476D1CE4E5B9), np.uint64(29), np.uint64(32)


def kinds(terminals: str) -> np.ndarray:
    """uint16[0x110000]: what the kernels need to know of each code point; `terminals` are marks ending sentences."""
    of = text.classes()
    alone = (of & text.LETTER != 0) & (of & text.UNSPACED != 0)
    table = np.zeros(0x110000, np.uint16)
    for bit, where in (
        (SPACE, of & text.SPACE != 0),
        (WORD, (of & (text.LETTER | text.DIGIT | text.MARK) != 0) & ~alone),
        (ALONE, alone),
        (PUNCT, of & text.PUNCT != 0),
        (ALPHA, of & text.LETTER != 0),
        (DIGIT, of & text.DIGIT != 0),
        (EXTENDS, (of & text.MARK != 0) | (of & (text.LETTER | text.DIGIT | text.PUNCT | text.SPACE) == 0)),
    ):
        table[where] |= np.uint16(bit)
    counted = map(chr, (DOT, ELLIPSIS, HASH))
    for bit, chars in ((TERMINAL, terminals), (BREAK, map(chr, _BREAKS)), (JOINS, _JOINERS), (COUNTED, counted)):
        table[[ord(char) for char in chars]] |= np.uint16(bit)
    return table


# Eight bytes at a time


@inlined
def eight(data, place):  # type: ignore[no-untyped-def]
    """data[place:place + 8] as a little-endian uint64; the compiler makes one load of it."""
    at, word = np.uintp(place), np.uint64(0)
    for byte in range(8):
        word |= np.uint64(data[at + np.uintp(byte)]) << np.uint64(8 * byte)
    return word


@inlined
def up_to_eight(data, place, end):  # type: ignore[no-untyped-def]
    """data[place:end], but no more than eight bytes of it, as a little-endian uint64 filled up with zeros."""
    if place + 8 <= len(data):
        word = eight(data, place)
        return word if place + 8 <= end else word & ((_ONE << np.uint64(8 * (end - place))) - _ONE)
    word = np.uint64(0)
    for at in range(place, end):
        word |= np.uint64(data[at]) << np.uint64(8 * (at - place))
    return word


@inlined
def equal_to(word, byte):  # type: ignore[no-untyped-def]
    """Top bits of the bytes of `word` equal to `byte` (uint64); right up to and including the lowest, which is used."""
    other = word ^ (_EACH * byte)
    return (other - _EACH) & ~other & _TOPS


@inlined
def letters_digits(word):  # type: ignore[no-untyped-def]
    """Top bits of the bytes of `word` that are ASCII letters, and of those that are ASCII digits."""
    low = word & _BITS
    lower = low | _CASE
    letters = (lower + _FROM_A) & ~(lower + _PAST_Z) & ~word & _TOPS
    return letters, (low + _FROM_0) & ~(low + _PAST_9) & ~word & _TOPS


@inlined
def below(tops):  # type: ignore[no-untyped-def]
    """All bits of the bytes below the lowest top bit set in `tops`; of all eight if there is none."""
    return ((tops & (~tops + _ONE)) >> _SEVEN) - _ONE


@inlined
def bytes_in(mask):  # type: ignore[no-untyped-def]
    """How many bytes of `mask` have their lowest bit set."""
    return np.int64(((mask & _EACH) * _EACH) >> _COUNT)


@inlined
def continuations(word):  # type: ignore[no-untyped-def]
    """How many bytes of `word` continue a character of UTF-8."""
    return bytes_in((word & ~(word << _ONE)) >> _SEVEN)


@inner
def count_newlines(data, start, end):  # type: ignore[no-untyped-def]
    count = 0
    for place in range(np.uintp(start), np.uintp(end)):
        count += data[place] == NEWLINE
    return count


# Hashes


@inlined
def mix(value, word):  # type: ignore[no-untyped-def]
    """`value` with another 64-bit word hashed into it; different words give different values."""
    value = (value ^ word) * _MIX
    value = (value ^ value >> _FOLD) * _PRIME
    return value ^ value >> _HIGH


@inner
def hash_bytes(data, start, end):  # type: ignore[no-untyped-def]
    """64-bit hash of data[start:end]."""
    value = _SEED ^ np.uint64(end - start) * _PRIME
    while start + 8 < end:
        value = mix(value, eight(data, start))
        start += 8
    return mix(value, up_to_eight(data, start, end))


@inner
def read_line(data, place, end):  # type: ignore[no-untyped-def]
    """Where the line at `place` ends (its newline, or `end`), a hash of it, and its characters."""
    start, value, more = place, _SEED, np.int64(0)
    while place + 8 <= end:
        word = eight(data, place)
        if equal_to(word, _NEWLINES):
            break
        value = mix(value, word)
        more += continuations(word)
        place += 8
    word = up_to_eight(data, place, end)
    before = below(equal_to(word, _NEWLINES))
    stop = min(end, place + bytes_in(before))
    word &= before
    return stop, mix(value ^ np.uint64(stop - start) * _PRIME, word), stop - start - more - continuations(word)


@inner
def cleared(slots, count):  # type: ignore[no-untyped-def]
    """Frees as many slots as `count` keys want, a power of two, and returns the mask of their indices.

    A slot holds -1 where it is free, else what its key stands for. Open addressing.
    """
    size = 16
    while size < 2 * count:
        size *= 2
    for slot in range(size):
        slots[slot] = -1
    return size - 1


@inlined
def find(slots, keys, mask, key):  # type: ignore[no-untyped-def]
    """The slot of `key`: its own, or the free one where it belongs."""
    slot = (key * _MIX) >> _HIGH & np.uint64(mask)
    while slots[slot] >= 0 and keys[slot] != key:
        slot = (slot + _ONE) & np.uint64(mask)
    return slot


# White space


@inlined
def back(data, start, place):  # type: ignore[no-untyped-def]
    """Where the character ending at `place` begins, not before `start`."""
    place -= 1
    while place > start and data[place] & 0xC0 == 0x80:
        place -= 1
    return place


@inner
def strip(data, start, end, kind):  # type: ignore[no-untyped-def]
    """`start` and `end` moved inward over white space."""
    while start < end:
        code, after = decode(data, start, end)
        if not kind[code] & SPACE:
            break
        start = after
    while start < end:
        before = back(data, start, end)
        code, _ = decode(data, before, end)
        if not kind[code] & SPACE:
            break
        end = before
    return start, end


@inlined
def among(codes, code):  # type: ignore[no-untyped-def]
    found = False
    for one in codes:
        found |= one == code
    return found
