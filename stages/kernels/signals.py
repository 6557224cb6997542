"""Signals of text quality, counted over UTF-8 bytes: words, lines, repetition.

Everything returned is a whole number of something (characters, tokens, lines); the stage divides. A token is a 64-bit
hash, a place and a length, never a Python object. A character is a code point.

Tokens. A *word* is a run of letters, digits and combining marks. An apostrophe, hyphen, underscore or full stop between
two such characters belongs to the word (don't, well-known, 3.14, example.com), a comma between two digits too. A letter
of a script written without spaces (Han, Kana, Thai...) is a word of its own, with the marks on it. A run of punctuation
and symbols is one token, no word. Format and control characters extend the token they stand in.

Repetition. An n-gram is named by the place where it first occurred. The name of an (n+1)-gram is the pair of the names
of its two n-grams, so only tokens are hashed, and an n-gram that occurs once is never looked at again: what occurs once
at length n cannot occur twice at length n + 1. What a loop here meets cannot be foretold by the processor, so the loops
over places choose by arithmetic, not by branches.
"""

import numpy as np

from stages.kernels import constant, inlined, inner, kernel
from stages.kernels.lines import repeated
from stages.kernels.scan import (
    ALONE,
    ALPHA,
    BREAK,
    COMMA,
    COUNTED,
    DIGIT,
    DOT,
    ELLIPSIS,
    EXTENDS,
    HASH,
    JOINS,
    NEWLINE,
    PUNCT,
    RETURN,
    TERMINAL,
    WORD,
    among,
    back,
    below,
    bytes_in,
    cleared,
    eight,
    find,
    hash_bytes,
    letters_digits,
    strip,
)  # fmt: skip
from stages.kernels.text import decode

# Columns of `measure`.
(CHARS, TOKENS, WORDS, WORD_CHARS, ALPHA_WORDS, SENTENCES, STOP_WORDS, HASHES, ELLIPSES, NEWLINES, SPLIT_LINES,
 BULLET_LINES, ELLIPSIS_LINES, PARAS, DUP_PARAS, DUP_PARA_CHARS,
 LINES, DUP_LINES, DUP_LINE_CHARS) = range(19)  # fmt: skip
TOP, DUP = 19, 22  # characters covered by the most frequent n-gram of 3 lengths, by duplicated n-grams of 6 lengths
COUNTS = 28
TOPS, DUPS = 3, 6

_NONE, _IN_WORD, _IN_ALONE, _IN_PUNCT = range(4)  # what the token being read is
_BLANK = 0x20
_NO, _YES, _NOTHING = np.bool_(False), np.bool_(True), np.int64(0)
# numba compiles a function once more for a literal it is called with
_HIGH, _TOP_BITS = np.uint64(32), np.uint64(0x8080808080808080)
_FIRST, _ZERO = np.uint64(0x80), np.uint64(0)


def token_hash(token: str) -> int:
    """The 64-bit hash the kernels give to this token."""
    return int(_token_hash(np.frombuffer(token.encode(), np.uint8)))


@kernel
def _token_hash(data):  # type: ignore[no-untyped-def]
    return hash_bytes(data, _NOTHING, np.int64(len(data)))


# Tokens


@inlined
def _joins(data, place, end, code, before, kind):  # type: ignore[no-untyped-def]
    """Whether punctuation `code`, read inside a word, belongs to it; `place` is the place after it."""
    if place >= end or not (kind[code] & JOINS or (code == COMMA and kind[before] & DIGIT)):
        return False
    after, _ = decode(data, place, end)
    return kind[after] & (DIGIT if code == COMMA else WORD) != 0


@inlined
def _ends_sentence(data, place, end, code, before, second, kind):  # type: ignore[no-untyped-def]
    """Whether the terminal mark `code` ends a sentence: no ellipsis, no initial (J.), no word right after ASCII."""
    if code >= 0x80:
        return True
    if code == DOT:
        if before == DOT or (place < end and data[place] == DOT):
            return False
        if kind[before] & ALPHA and kind[before] & WORD and not kind[second] & WORD:
            return False
    return place >= end or kind[decode(data, place, end)[0]] & WORD == 0


@inlined
def _step(data, place, end, code, what, state, before, kind):  # type: ignore[no-untyped-def]
    """What the token that `code` lies in is; `place` is the place after it, `state` the token before."""
    if what & EXTENDS and state != _NONE:
        return state
    if what & WORD:
        return _IN_WORD
    if what & ALONE:
        return _IN_ALONE
    if what & PUNCT:
        return _IN_WORD if state == _IN_WORD and _joins(data, place, end, code, before, kind) else _IN_PUNCT
    return _NONE


@inlined
def _close(data, first, end, since, chars, word, alpha, hashes, places, lengths, out):  # type: ignore[no-untyped-def]
    """Counts the token data[first:end], characters `since` to `chars`, and stores it if the arrays have room."""
    at = out[TOKENS]
    if at < len(hashes):
        hashes[at], places[at], lengths[at] = hash_bytes(data, first, end), since, chars - since
    out[TOKENS] = at + 1
    if word:
        out[WORDS] += 1
        out[WORD_CHARS] += chars - since
        out[ALPHA_WORDS] += alpha


@inlined
def _starts_plain(word):  # type: ignore[no-untyped-def]
    letters, digits = letters_digits(word)
    return (letters | digits) & _FIRST != _ZERO


@inlined
def _plain_words(data, place, end, before, code, first, since, chars, alpha, hashes, places, lengths, out):  # type: ignore[no-untyped-def]
    """The rest of the word being read, and the words after it, while they are ASCII and parted by single blanks.

    `code` is the character read last, before `place`, and `before` the one before that. Leaves the last word open and
    returns the arguments from `place` to `alpha` as they are then, without `end`.
    """
    while True:
        at = place
        while at + 8 <= end:
            letters, digits = letters_digits(eight(data, at))
            inside = below((letters | digits) ^ _TOP_BITS)
            alpha |= letters & inside != _ZERO
            size = bytes_in(inside)
            at += size
            if size < 8:
                break
        if at > place:
            before, code = np.int64(data[at - 2]) if at - place > 1 else code, np.int64(data[at - 1])
            chars += at - place
            place = at
        if place + 9 > end or data[place] != _BLANK or not _starts_plain(eight(data, place + 1)):
            return place, before, code, first, since, chars, alpha
        _close(data, first, place, since, chars, _YES, alpha, hashes, places, lengths, out)
        code, place, chars = np.int64(_BLANK), place + 1, chars + 1
        first, since, alpha = place, chars, _NO


@inner
def _tokens(data, start, end, kind, bullets, hashes, places, lengths, out):  # type: ignore[no-untyped-def]
    """One document into tokens; returns how many. Counts CHARS to SENTENCES and HASHES to ELLIPSIS_LINES go to `out`.

    As many tokens are stored (hash, first character, length in characters) as the arrays hold; all are counted.
    """
    for at in range(len(out)):
        out[at] = 0
    state, since, first, chars, dots = (
        np.int64(_NONE),
        _NOTHING,
        start,
        _NOTHING,
        _NOTHING,
    )  # `since` and `first`: where the token began
    alpha = in_sentence = last = _NO
    before = second = np.int64(NEWLINE)
    place = line = start
    while not last:
        last, at = place >= end, place
        code = np.int64(NEWLINE)  # one is imagined after the last character, to close what is open
        if not last:
            code, place = decode(data, place, end)
        what = kind[code]
        step = _step(data, place, end, code, what, state, before, kind)
        if step != state or what & ALONE:
            if state != _NONE:
                _close(data, first, at, since, chars, state != _IN_PUNCT, alpha, hashes, places, lengths, out)
            if step in (_IN_WORD, _IN_ALONE):
                out[SENTENCES] += not in_sentence
                in_sentence = True
            state, since, first, alpha = step, chars, at, _NO
        alpha |= what & ALPHA != 0
        chars += not last
        if what & COUNTED:
            dots = _count_mark(code, before, dots, out)
        if step == _IN_WORD:
            place, before, code, first, since, chars, alpha = _plain_words(
                data, place, end, before, code, first, since, chars, alpha, hashes, places, lengths, out
            )
        elif what & (TERMINAL | BREAK) and (
            what & BREAK or _ends_sentence(data, place, end, code, before, second, kind)
        ):
            in_sentence = False
        if what & BREAK:
            out[NEWLINES] += code == NEWLINE and not last
            if line < at if last else code != NEWLINE or before != RETURN:
                _line_marks(data, line, at, kind, bullets, out)
            line = place
        second, before = before, code
    out[CHARS] = chars
    return out[TOKENS]


@inner
def _count_mark(code, before, dots, out):  # type: ignore[no-untyped-def]
    """Counts HASHES and ELLIPSES: `code` is one of "#….", `dots` how many in a row there were; returns it anew."""
    if code == DOT:
        dots = dots + 1 if before == DOT else 1
        out[ELLIPSES] += dots % 3 == 0
    out[ELLIPSES] += code == ELLIPSIS
    out[HASHES] += code == HASH
    return dots


@inner
def _line_marks(data, start, end, kind, bullets, out):  # type: ignore[no-untyped-def]
    """Counts a line of str.splitlines into SPLIT_LINES to ELLIPSIS_LINES."""
    out[SPLIT_LINES] += 1
    start, end = strip(data, start, end, kind)
    if start == end:
        return
    out[BULLET_LINES] += among(bullets, decode(data, start, end)[0])
    dots = end - start >= 3 and data[end - 1] == DOT and data[end - 2] == DOT and data[end - 3] == DOT
    out[ELLIPSIS_LINES] += dots or decode(data, back(data, start, end), end)[0] == ELLIPSIS


# Repetition


@inner
def _repetition(hashes, places, lengths, count, sizes, stops, slots, keys, names, seen, active, out):  # type: ignore[no-untyped-def]
    """Counts STOP_WORDS, TOP + i and DUP + i of one document of `count` tokens. Uses up `hashes`.

    `sizes` are the n-gram lengths, TOPS then DUPS of them; `stops` the hashes of the stop words. `names`, `seen`
    and `active` are int32 scratch of at least `count` + 1: the place where the n-gram at i first occurred (-1: it
    occurs once), how often the n-gram first seen at i occurs, and the places where one stands that occurs more than
    once; `slots` and `keys` a table for `count` keys.
    """
    mask = cleared(slots, count)
    for i in range(count):
        active[i], seen[i] = i, 0
    names[count] = -1
    _name(hashes, count, slots, keys, mask, names, seen, active)
    for stop in stops:
        out[STOP_WORDS] += slots[find(slots, keys, mask, stop)] >= 0
    left = _several(count, names, seen, active)
    longest = sizes[0]
    for size in sizes:
        longest = size if size > longest else longest
    for size in range(2, longest + 1):
        left = _pairs(left, hashes, names, seen, active)
        if left:
            mask = cleared(slots, left)
            _name(hashes, left, slots, keys, mask, names, seen, active)
            left = _several(left, names, seen, active)
        for column in range(TOPS + DUPS):
            if sizes[column] == size and column < TOPS:
                out[TOP + column] = _most_frequent(left, count, size, names, seen, active, places, lengths)
            elif sizes[column] == size:
                out[TOP + column] = _seen_before(left, size, names, active, lengths)


@inner
def _name(values, count, slots, keys, mask, names, seen, active):  # type: ignore[no-untyped-def]
    """Names what stands at the first `count` places of `active`, known by `values`, and counts it in `seen`."""
    for at in range(np.uintp(count)):
        i = np.uintp(active[at])
        slot = find(slots, keys, mask, values[at])
        name = slots[slot]
        name = active[at] if name < 0 else name
        slots[slot], keys[slot] = name, values[at]
        names[i] = name
        seen[np.uintp(name)] += 1


@inner
def _several(count, names, seen, active):  # type: ignore[no-untyped-def]
    """Keeps in `active` the places whose n-gram occurs more than once; the others lose their name."""
    left = np.uintp(0)
    for at in range(np.uintp(count)):
        i = np.uintp(active[at])
        several = seen[np.uintp(names[i])] > 1
        names[i] = names[i] if several else -1
        active[left] = active[at]
        left += np.uintp(several)
    return np.int64(left)


@inner
def _pairs(count, pairs, names, seen, active):  # type: ignore[no-untyped-def]
    """Keeps in `active` the places where the next has a name too; the pair of names goes into `pairs`, `seen` to 0."""
    left = np.uintp(0)
    for at in range(np.uintp(count)):
        i = np.uintp(active[at])
        name, after = names[i], names[i + np.uintp(1)]
        pairs[left] = np.uint64(name) << _HIGH | np.uint64(after)
        names[i] = name if after >= 0 else -1
        seen[i] = 0
        active[left] = active[at]
        left += np.uintp(after >= 0)
    return np.int64(left)


@inner
def _most_frequent(left, count, size, names, seen, active, places, lengths):  # type: ignore[no-untyped-def]
    """Characters from first to last token of all occurrences of the most frequent n-gram (the first of equals)."""
    if count < size:
        return 0
    best, most = -1, 1
    for at in range(left):
        i = active[at]
        if names[i] == i and seen[i] > most:
            best, most = i, seen[i]
    if best < 0:
        return places[size - 1] + lengths[size - 1] - places[0]
    covered = until = 0
    for at in range(left):
        i = active[at]
        if names[i] == best:
            stop = places[i + size - 1] + lengths[i + size - 1]
            covered += stop - max(until, places[i])
            until = stop
    return covered


@inner
def _seen_before(left, size, names, active, lengths):  # type: ignore[no-untyped-def]
    """Characters of the tokens (not of the space between) that lie in an n-gram which occurred earlier."""
    covered = until = 0
    for at in range(left):
        i = active[at]
        if names[i] < i:
            for token in range(max(until, i), i + size):
                covered += lengths[token]
            until = i + size
    return covered


def measure(
    data: np.ndarray,
    offsets: np.ndarray,
    profile: np.ndarray,
    kind: np.ndarray,
    sizes: np.ndarray,
    stops: np.ndarray,
    bullets: np.ndarray,
    thorough: bool,
) -> np.ndarray:
    """Counts of every document, int64[rows, COUNTS].

    `profile` (int64 a row) chooses the row of `sizes` (int64[profiles, TOPS + DUPS]), of `stops` (uint64) and
    of `bullets` (int32, padded with -1). Without `thorough` STOP_WORDS and the columns from PARAS on stay 0.
    """
    data, out = constant(data), np.zeros((len(offsets) - 1, COUNTS), np.int64)
    done, room = 0, 1 << 13 if thorough else 0
    while done < len(out):
        done, needed = _measure(data, offsets, profile, kind, sizes, stops, bullets, thorough, done, _rooms(room), out)
        room = max(2 * room, needed)
    return out


def _rooms(room: int) -> tuple[np.ndarray, ...]:
    """Scratch for so many tokens, as `_repetition` wants it: hashes, places, lengths, slots, keys, names, seen, active;
    as many slots, a power of two, as so many keys want."""
    slots = 1 << max(4, (2 * room - 1).bit_length())
    kinds = (np.uint64, room), (np.int32, room), (np.int32, room), (np.int32, slots), (np.uint64, slots)
    return tuple(np.empty(size, kind) for kind, size in (*kinds, *((np.int32, room + 1),) * 3))


@kernel
def _measure(data, offsets, profile, kind, sizes, stops, bullets, thorough, first, rooms, out):  # type: ignore[no-untyped-def]
    """Measures the documents from `first` on; returns where it ended: behind the last, or at one that wants rooms for
    more keys, and how many that is."""
    hashes, places, lengths, slots, keys, names, seen, active = rooms
    for row in range(first, len(out)):
        start, end, which, counts = offsets[row], offsets[row + 1], profile[row], out[row]
        count = _tokens(data, start, end, kind, bullets[which], hashes, places, lengths, counts)
        if not thorough:
            continue
        pieces = 2 * counts[NEWLINES] + 3
        if count > len(hashes) or pieces > len(hashes):
            return row, max(count, pieces)
        repeated(data, start, end, kind, counts[NEWLINES], slots, keys, counts[PARAS:])
        _repetition(
            hashes, places, lengths, count, sizes[which], stops[which], slots, keys, names, seen, active, counts
        )
    return len(out), 0
