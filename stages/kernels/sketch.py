"""Near-duplicate sketches: text to units, units to shingles, shingles to a similarity-preserving signature, band keys.

What is compared. A document is a sequence of units: a word (a run of letters, marks and digits of a spaced script) or
one character of a script written without spaces (Han, Kana, Thai...). Everything else only separates; characters are
folded first (case, width, accents), digits stay as they are. A word weighs `char_ngram`, a character weighs `ngram`;
a shingle is the shortest run of units, ending at any given unit, that weighs at least `ngram * char_ngram`: exactly
`ngram` words in English, exactly `char_ngram` characters in Chinese, and a blend in mixed text, so that no document has
to be put on one side and two near-duplicates cannot fall on different sides.

How it is compared. The signature is Fast Similarity Sketching (Dahlgaard, Knudsen, Thorup, FOCS 2017,
https://arxiv.org/abs/1704.04370): the share of equal slots of two signatures is an unbiased estimate of the Jaccard
similarity J, with less variance than k-fold MinHash on short documents, at about one hash a shingle instead of one
hash a shingle and slot. `rows` slots make a band; documents agreeing in any band are candidates.
"""

import functools
import unicodedata
from pathlib import Path

import numpy as np
from numba import njit

from stages.kernels.text import DIGIT, LETTER, MARK, UNSPACED, cached, classes, decode, fold

FORMAT = 2
"""Version of everything a sketch depends on: units, shingle hash, signature. Part of every key."""

LONGEST = 32
"""The largest `ngram` and `char_ngram`."""

SIMPLIFIED = Path(__file__).parent.parent / "data" / "simplified.tsv"
"""Traditional Chinese characters, each with the simplified one it is written as; what `fold_han` folds by."""

# What a code point does: nothing, ends a word, extends a word, is a unit itself, marks what came before, is several.
_SKIP, _BREAK, _WORD, _CHAR, _MARK, _SEVERAL = 0, 1, 2, 3, 4, 6  # odd: the word before ends
_KIND_SHIFT = 24  # unit_table: kind above, folded code point below

_ONE = np.uint64(1)
_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_NONE = np.uint64(0xFFFFFFFFFFFFFFFF)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: the increment of splitmix64
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)  # the two multipliers of splitmix64's finaliser (Vigna, public domain)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_WORD_START = np.uint64(0xCBF29CE484222325)  # FNV-1a's offset basis
_WORD_FACTOR = np.uint64(0xD6E8FEB86659FD93)  # any odd number with well spread bits serves here and below
_ROLL = np.uint64(0xA0761D6478BD642F)
_EXACT_HI = np.uint64(0xE7037ED1A0B428DB)
_EXACT_LO = np.uint64(0x8EBC6AF09C88C6E3)


def unit_table(fold_han: bool = False) -> np.ndarray:
    """int32: what each of the 0x110000 code points does among units (bits 24 up) and what it folds to (bits 0-23).

    On top of `text.fold`, texts that differ in case or in canonical composition become the same units, whatever the
    script. A character that decomposes into a base and combining marks becomes its base, and those marks are left out
    (kana, Arabic, Hebrew, Indic nukta). What else decomposes (a vowel sign of two parts) or has several characters in
    the other case (sharp s) is `_SEVERAL`: bits 0-23 are then the place in this very table where the entries that stand
    for it begin; an entry of 0 ends them. With `fold_han`, traditional Chinese characters become simplified ones.
    """
    return _unit_table(fold_han)


@functools.cache
def _unit_table(fold_han: bool) -> np.ndarray:
    return cached(f"units-{FORMAT}-{'simplified' if fold_han else 'plain'}", lambda: _build_units(fold_han))


def _build_units(fold_han: bool) -> np.ndarray:
    folded, spelled = _folded()
    if fold_han:
        lines = SIMPLIFIED.read_text(encoding="utf-8").splitlines()
        simplified = np.arange(len(folded), dtype=np.int32)
        simplified[[ord(line[0]) for line in lines]] = [ord(line[2]) for line in lines]
        folded = simplified[folded]
    bits = classes()[folded]
    kind = np.where(bits & (LETTER | DIGIT | MARK), _WORD, np.where(bits, _BREAK, _SKIP)).astype(np.int32)
    kind[bits & UNSPACED > 0] = _CHAR
    kind[[code for code in np.flatnonzero(bits & MARK).tolist() if unicodedata.combining(chr(folded[code]))]] = _MARK
    kind[folded == 0] = _SKIP
    table = (kind << _KIND_SHIFT) | folded
    entries = [0]
    for code, parts in spelled.items():
        table[code] = _SEVERAL << _KIND_SHIFT | len(table) + len(entries)
        entries += [*table[[ord(part) for part in parts]].tolist(), 0]
    return np.concatenate((table, np.array(entries, np.int32)))


def _folded() -> tuple[np.ndarray, dict[int, str]]:
    """int32[0x110000], the code point each is matched as (0: left out); and those matched as several, spelled out."""
    folded = fold().copy()
    spelled: dict[int, str] = {}
    marks: set[str] = set()
    for code in range(0x30000):  # beyond are neither cases nor decompositions, but for ideographs that fold() has done
        if any(char.upper() != char or unicodedata.decomposition(char) for char in (chr(code), chr(folded[code]))):
            spelled[code] = "".join(_decomposed(part, marks) for part in _uncased(chr(code)))
    for code, text in list(spelled.items()):
        text = "".join(part for part in text if part not in marks)
        spelled[code] = text
        if len(text) < 2:
            folded[code] = ord(spelled.pop(code) or "\0")
    folded[[ord(mark) for mark in marks]] = 0
    return folded, spelled


def _uncased(text: str) -> str:
    """`text` in one case, each character folded: what it, its upper and its lower case all become (ς and Σ: σ)."""
    while True:
        lower = (low for upper in text.upper() for low in upper.lower())  # one by one: str.lower has a final sigma
        again = "".join(chr(code) for code in (int(fold()[ord(low)]) for low in lower) if code)
        if again == text:
            return text
        text = again


def _decomposed(char: str, marks: set[str]) -> str:
    """`char` in its canonical parts; unless it is a mark itself, without the combining ones, which join `marks`."""
    if not unicodedata.decomposition(char):  # of Hangul there is none: its syllables are taken apart as they are met
        return char
    parts = unicodedata.normalize("NFD", char)
    if unicodedata.category(char)[0] != "M":
        marks.update(part for part in parts if unicodedata.combining(part))
    return parts


@njit(cache=True, nogil=True, inline="always")
def mix(value):  # type: ignore[no-untyped-def]
    """splitmix64's finaliser: a bijection of uint64 in which every input bit moves every output bit."""
    value = (value ^ (value >> np.uint64(30))) * _MIX_1
    value = (value ^ (value >> np.uint64(27))) * _MIX_2
    return value ^ (value >> np.uint64(31))


@njit(cache=True, nogil=True)
def _hangul(word, code):  # type: ignore[no-untyped-def]
    """Absorb a Hangul syllable as its two or three jamo: composed and decomposed Korean hash alike."""
    syllable = code - 0xAC00
    word = (word ^ np.uint64(0x1100 + syllable // 588)) * _WORD_FACTOR
    word = (word ^ np.uint64(0x1161 + syllable % 588 // 28)) * _WORD_FACTOR
    if syllable % 28:
        word = (word ^ np.uint64(0x11A7 + syllable % 28)) * _WORD_FACTOR
    return word


@njit(cache=True, nogil=True)
def write_units(data, start, end, table, units):  # type: ignore[no-untyped-def]
    """Write the hashes of a document's units (lowest bit: 0 word, 1 character); returns units and characters."""
    count = 0
    chars = 0
    lone = 0, 0  # units [from, to) that are marks with nothing to stand on
    word = _WORD_START
    place = start
    while place < end:
        if data[place] < 0x80:
            entry = table[data[place]]
            place += 1
        else:
            point, place = decode(data, place, end)
            entry = table[point]
        chars += 1
        kind = entry >> _KIND_SHIFT
        code = entry & 0xFFFFFF
        if kind == _WORD:
            word = _hangul(word, code) if 0xAC00 <= code <= 0xD7A3 else (word ^ np.uint64(code)) * _WORD_FACTOR
        elif kind & 1:
            if word != _WORD_START:
                units[count] = mix(word) & ~_ONE
                count += 1
                word = _WORD_START
            if kind == _CHAR:
                units[count] = mix(np.uint64(code) * _GOLDEN) | _ONE
                count += 1
        elif kind != _SKIP:
            word, count, lone = _marks(entry, table, word, units, count, lone)
    if word != _WORD_START:
        units[count] = mix(word) & ~_ONE
        count += 1
    return count, chars


@njit(cache=True, nogil=True)
def _marks(entry, table, word, units, count, lone):  # type: ignore[no-untyped-def]
    """Take in a `_MARK` or the parts of a `_SEVERAL`; returns word, count and lone of `write_units`.

    Normalisation may change the order of combining marks, so they are added up: to the word if there is one; else each
    is a unit, and those in a row are sorted.
    """
    place = 0  # where the table has a 0
    if entry >> _KIND_SHIFT == _SEVERAL:
        place = entry & 0xFFFFFF
        entry = table[place]
    while entry:
        kind = entry >> _KIND_SHIFT
        code = np.uint64(entry & 0xFFFFFF)
        if kind == _WORD:
            word = (word ^ code) * _WORD_FACTOR
        elif kind == _MARK and word != _WORD_START:
            word += mix(code * _GOLDEN)
        else:
            if word != _WORD_START:
                units[count] = mix(word) & ~_ONE
                count += 1
                word = _WORD_START
            units[count] = mix(code * _GOLDEN) | _ONE
            count += 1
            if kind == _MARK:
                lone = lone[0] if lone[1] == count - 1 else count - 1, count
                _sink(units, lone)
        place += place > 0
        entry = table[place]
    return word, count, lone


@njit(cache=True, nogil=True)
def _sink(units, lone):  # type: ignore[no-untyped-def]
    """Bring the last of the units [from, to) to where it belongs among the others, which are sorted."""
    place = lone[1] - 1
    while place > lone[0] and units[place - 1] > units[place]:
        units[place - 1], units[place] = units[place], units[place - 1]
        place -= 1


@njit(cache=True, nogil=True)
def sequence_hash(units, count):  # type: ignore[no-untyped-def]
    """128-bit hash of the unit sequence as two uint64; (0, 0) of an empty one."""
    high = np.uint64(0)
    low = np.uint64(0)
    for i in range(count):
        high = (high ^ units[i]) * _EXACT_HI
        high = high << np.uint64(23) | high >> np.uint64(41)
        low = (low + units[i]) * _EXACT_LO
        low = low << np.uint64(37) | low >> np.uint64(27)
    if count == 0:
        return high, low
    return mix(high ^ np.uint64(count)), mix(low + np.uint64(count))


@njit(cache=True, nogil=True)
def _shingles(units, count, ngram, char_ngram, powers, out):  # type: ignore[no-untyped-def]
    """Write the hash of the shingle ending at each unit where there is one; returns their number, repeats included."""
    need = ngram * char_ngram
    number = 0
    tail = 0
    weight = 0
    rolling = np.uint64(0)
    for head in range(count):
        weight += ngram if units[head] & _ONE else char_ngram
        rolling = rolling * _ROLL + units[head]
        while True:
            lighter = weight - (ngram if units[tail] & _ONE else char_ngram)
            if lighter < need:
                break
            rolling -= units[tail] * powers[head - tail]
            weight = lighter
            tail += 1
        if weight >= need:
            out[number] = mix(rolling)
            number += 1
    return number


@njit(cache=True, nogil=True)
def _powers():  # type: ignore[no-untyped-def]
    powers = np.empty(LONGEST + 2, np.uint64)
    powers[0] = _ONE
    for i in range(1, len(powers)):
        powers[i] = powers[i - 1] * _ROLL
    return powers


@njit(cache=True, nogil=True)
def _distinct(hashes, count, seen):  # type: ignore[no-untyped-def]
    """Move the distinct ones of `hashes[:count]` to the front; returns their number. `seen`: 2 count of scratch."""
    size = 4
    while size < 2 * count:
        size *= 2
    seen[:size] = 0
    last = np.uint64(size - 1)
    number = 0
    for i in range(count):
        value = hashes[i] if hashes[i] else _ONE  # 0 marks a free place
        place = value & last
        while seen[place] and seen[place] != value:
            place = (place + _ONE) & last
        if not seen[place]:
            seen[place] = value
            hashes[number] = value
            number += 1
    return number


@njit(cache=True, nogil=True)
def _ascending(hashes, count, counts, out, start):  # type: ignore[no-untyped-def]
    """Write `hashes[:count]` to `out[start:]` in order: dealt out by their leading bits, then insertion sort.

    `counts` is scratch of 2 count or more; hashes are spread evenly, so there is next to nothing left to insert.
    """
    bits = 1
    while bits < 12 and (1 << bits) < count:
        bits += 1
    shift = np.uint64(64 - bits)
    for digit in range(1 << bits):
        counts[digit] = 0
    for i in range(count):
        counts[hashes[i] >> shift] += _ONE
    total = np.uint64(start)
    for digit in range(1 << bits):
        total, counts[digit] = total + counts[digit], total
    for i in range(count):
        place = counts[hashes[i] >> shift]
        counts[hashes[i] >> shift] = place + _ONE
        out[place] = hashes[i]
    for i in range(start + 1, start + count):
        value = out[i]
        place = i
        while place > start and out[place - 1] > value:
            out[place] = out[place - 1]
            place -= 1
        out[place] = value


@njit(cache=True, nogil=True)
def signature(shingles, count, seed, slots):  # type: ignore[no-untyped-def]
    """Fill `slots` (uint64, any number t) with the Fast Similarity Sketch of `shingles[:count]`, count >= 1.

    Round i < t throws every shingle into one slot by a fresh hash, round t + i fills slot i for certain; a slot holds
    its smallest (round << 32 | hash). The round inside the value makes earlier rounds win, without which slots of sets
    that stopped at different rounds would not be comparable.
    """
    slots[:] = _NONE
    total = len(slots)
    missing = total
    for turn in range(2 * total):
        if missing == 0:
            break
        salt = mix(np.uint64(seed) + np.uint64(FORMAT) * _MIX_1 + np.uint64(turn) * _GOLDEN)
        prefix = np.uint64(turn) << _HALF
        for i in range(count):
            value = mix(shingles[i] ^ salt)
            slot = np.int64((value >> _HALF) * np.uint64(total) >> _HALF) if turn < total else turn - total
            value = prefix | (value & _LOW)
            if value < slots[slot]:
                missing -= slots[slot] == _NONE
                slots[slot] = value


@njit(cache=True, nogil=True)
def band_keys(slots, rows, keys):  # type: ignore[no-untyped-def]
    """Fill `keys` (uint64, one a band) with the hash of each band's `rows` slots and number; the lowest bit is 0."""
    for band in range(len(keys)):
        key = mix(np.uint64(band + 1) * _GOLDEN)
        for slot in range(band * rows, (band + 1) * rows):
            key = mix(key ^ slots[slot])
        keys[band] = key & ~_ONE


@njit(cache=True, nogil=True)
def _scratch(offsets):  # type: ignore[no-untyped-def]
    """Room for the units of the longest row: a letter and a Tibetan stack of two, three units, are four bytes."""
    longest = 0
    for row in range(len(offsets) - 1):
        longest = max(longest, offsets[row + 1] - offsets[row])
    return np.empty(longest - longest // 4 + 2, np.uint64)


@njit(cache=True, nogil=True)
def _grown(array, count):  # type: ignore[no-untyped-def]
    """`array` if it holds `count`, else an uninitialised one of the next power of two."""
    size = max(4, len(array))
    while size < count:
        size *= 2
    return array if size == len(array) else np.empty(size, np.uint64)


@njit(cache=True, nogil=True)
def sketch_rows(data, offsets, table, ngram, char_ngram, bands, rows, seed, least):  # type: ignore[no-untyped-def]
    """Sketch every row of a string column given as bytes and int64 offsets.

    Returns exact (uint64[n, 2]: hash of the normalised text, zeros where that is empty), keys (uint64[n, bands]: zeros
    where there are fewer than `least` distinct shingles), shingles (int32[n]: distinct ones), chars (int32[n]).
    """
    number = len(offsets) - 1
    exact = np.zeros((number, 2), np.uint64)
    keys = np.zeros((number, bands), np.uint64)
    shingles = np.zeros(number, np.int32)
    chars = np.zeros(number, np.int32)
    units = _scratch(offsets)
    hashes = np.empty(4, np.uint64)
    seen = np.empty(8, np.uint64)
    slots = np.empty(bands * rows, np.uint64)
    powers = _powers()
    for row in range(number):
        count, chars[row] = write_units(data, offsets[row], offsets[row + 1], table, units)
        exact[row, 0], exact[row, 1] = sequence_hash(units, count)
        hashes = _grown(hashes, count)
        count = _shingles(units, count, ngram, char_ngram, powers, hashes)
        seen = _grown(seen, 2 * count)
        count = _distinct(hashes, count, seen)
        shingles[row] = count
        if count >= least:
            signature(hashes, count, seed, slots)
            band_keys(slots, rows, keys[row])
    return exact, keys, shingles, chars


@njit(cache=True, nogil=True)
def shingle_sets(data, offsets, table, ngram, char_ngram):  # type: ignore[no-untyped-def]
    """The sorted distinct 64-bit shingle hashes of every row: starts (int64[n + 1]) and values (uint64)."""
    number = len(offsets) - 1
    starts = np.zeros(number + 1, np.int64)
    values = np.empty(4, np.uint64)
    units = _scratch(offsets)
    hashes = np.empty(4, np.uint64)
    seen = np.empty(8, np.uint64)
    powers = _powers()
    for row in range(number):
        count, _ = write_units(data, offsets[row], offsets[row + 1], table, units)
        hashes = _grown(hashes, count)
        count = _shingles(units, count, ngram, char_ngram, powers, hashes)
        seen = _grown(seen, 2 * count)
        count = _distinct(hashes, count, seen)
        starts[row + 1] = starts[row] + count
        if starts[row + 1] > len(values):
            larger = _grown(values, starts[row + 1])
            for i in range(starts[row]):
                larger[i] = values[i]
            values = larger
        _ascending(hashes, count, seen, values, starts[row])
    return starts, values[: starts[number]]


def match_probability(similarity: float, bands: int, rows: int) -> float:
    """Probability that two documents of this Jaccard similarity agree in at least one band: 1 - (1 - J^rows)^bands.

    Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, 3.4.2.
    """
    return float(1 - (1 - similarity**rows) ** bands)
