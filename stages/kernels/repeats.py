"""Lines that repeat: the pieces of a text, a hash of each that is long enough to compare, and the text without some.

A piece is a line, or a paragraph (lines without a blank one between). Its hash is that of its units
(`kernels/sketch.py`), so case, width, accents, punctuation and blanks make no difference. Pieces that a text needs to
be read as what it is are never touched: code (fenced, with its fences, or indented by a tab or four blanks), rows of
tables (`|`), and what has no letter.
"""

import numpy as np
from numba import njit

from stages.kernels.scan import count_newlines, hash_bytes
from stages.kernels.sketch import sequence_hash, write_units
from stages.kernels.text import LETTER, decode

_TAB, _NEWLINE, _BLANK, _BAR, _TICK, _TILDE = 0x09, 0x0A, 0x20, 0x7C, 0x60, 0x7E
_CHARACTER = np.uint64(1)  # the bit of a unit that is no word
_NO_HASH = np.uint64(0)  # of a piece that is not compared


@njit(cache=True, nogil=True)
def hash_rows(data, offsets):  # type: ignore[no-untyped-def]
    """A 64-bit hash of every row, never 0 (uint64[n])."""
    hashes = np.empty(len(offsets) - 1, np.uint64)
    for row in range(len(hashes)):
        hashes[row] = max(hash_bytes(data, offsets[row], offsets[row + 1]), np.uint64(1))
    return hashes


@njit(cache=True, nogil=True)
def _line_end(data, place, end):  # type: ignore[no-untyped-def]
    while place < end and data[place] != _NEWLINE:
        place += 1
    return place


@njit(cache=True, nogil=True)
def _first(data, place, end):  # type: ignore[no-untyped-def]
    """The place of the first byte of data[place:end] that is no ASCII blank; `end` if there is none."""
    while place < end and (data[place] == _BLANK or 0x09 <= data[place] <= 0x0D):
        place += 1
    return place


@njit(cache=True, nogil=True)
def _is_fence(data, place, end):  # type: ignore[no-untyped-def]
    """Whether data[place:end] begins with three backticks or tildes."""
    mark = data[place]
    return mark in (_TICK, _TILDE) and place + 2 < end and data[place + 1] == mark and data[place + 2] == mark


@njit(cache=True, nogil=True)
def _is_indented(data, place, end):  # type: ignore[no-untyped-def]
    """Whether data[place:end] begins with a tab or four blanks."""
    first = place
    while first < end and data[first] == _BLANK:
        first += 1
    return first - place >= 4 or (first < end and data[first] == _TAB)


@njit(cache=True, nogil=True)
def _pieces(data, start, end, paragraphs, bounds):  # type: ignore[no-untyped-def]
    """The pieces of one text into `bounds` (int64[newlines + 1, 3]: from, to, whether it may go); returns how many."""
    count = 0
    fence = 0  # the byte that the code we are in was opened with
    inside = False  # a paragraph goes on
    place = start
    while place < end:
        stop = _line_end(data, place, end)
        first = _first(data, place, stop)
        if first == stop:
            inside = False
        else:
            free = fence == 0 and data[first] != _BAR and not _is_indented(data, place, stop)
            if _is_fence(data, first, stop) and (fence == 0 or fence == data[first]):
                fence = 0 if fence else np.int64(data[first])
                free = False
            if not inside:
                bounds[count, 0] = place
                bounds[count, 2] = 1
                count += 1
                inside = paragraphs
            bounds[count - 1, 1] = stop
            if not free:
                bounds[count - 1, 2] = 0
        place = stop + 1
    return count


@njit(cache=True, nogil=True)
def has_letter(data, start, end, kind):  # type: ignore[no-untyped-def]
    """Whether data[start:end] holds a letter; `kind` are `text.classes()`."""
    place = start
    while place < end:
        code, place = decode(data, place, end)
        if kind[code] & LETTER:
            return True
    return False


@njit(cache=True, nogil=True)
def _hash(data, start, end, table, kind, units, words, chars):  # type: ignore[no-untyped-def]
    """The hash of the piece data[start:end], `_NO_HASH` if it is shorter than `words` words or `chars` characters."""
    count, _ = write_units(data, start, end, table, units)
    weight = 0
    for i in range(count):
        weight += words if units[i] & _CHARACTER else chars
    if weight < words * chars or not has_letter(data, start, end, kind):
        return _NO_HASH
    high, low = sequence_hash(units, count)
    return max(high ^ low, np.uint64(1))


@njit(cache=True, nogil=True)
def _room(data, offsets):  # type: ignore[no-untyped-def]
    """Scratch for any row: bounds and hashes of its pieces, and units."""
    lines = longest = 0
    for row in range(len(offsets) - 1):
        lines = max(lines, 1 + count_newlines(data, offsets[row], offsets[row + 1]))
        longest = max(longest, offsets[row + 1] - offsets[row])
    return np.empty((lines, 3), np.int64), np.empty(lines, np.uint64), np.empty(longest + 2, np.uint64)


@njit(cache=True, nogil=True)
def _read(data, start, end, tables, shortest, paragraphs, room):  # type: ignore[no-untyped-def]
    """Fill `room` with the pieces of one text and their hashes (`_NO_HASH` if not compared); returns how many."""
    table, kind = tables
    bounds, hashes, units = room
    count = _pieces(data, start, end, paragraphs, bounds)
    for i in range(count):
        hashes[i] = _NO_HASH
        if bounds[i, 2]:
            hashes[i] = _hash(data, bounds[i, 0], bounds[i, 1], table, kind, units, shortest[0], shortest[1])
    return count


@njit(cache=True, nogil=True)
def piece_hashes(data, offsets, tables, shortest, paragraphs):  # type: ignore[no-untyped-def]
    """The pieces of every row that may be compared, by hash.

    `tables` are `sketch.unit_table()` and `text.classes()`, `shortest` (words, characters) what a piece must have of
    either, or of both together, to be compared. Returns starts (int64[n + 1]) and hashes (uint64, the distinct ones
    of a row, ascending), and the number of pieces of each row, compared or not (int32[n]).
    """
    rows = len(offsets) - 1
    starts = np.zeros(rows + 1, np.int64)
    pieces = np.zeros(rows, np.int32)
    values = np.empty(1024, np.uint64)
    room = _room(data, offsets)
    for row in range(rows):
        pieces[row] = _read(data, offsets[row], offsets[row + 1], tables, shortest, paragraphs, room)
        place = starts[row]
        if place + pieces[row] > len(values):
            larger = np.empty(2 * (place + pieces[row]), np.uint64)
            larger[:place] = values[:place]
            values = larger
        last = _NO_HASH
        for value in np.sort(room[1][: pieces[row]]):
            if value != last:
                values[place] = value
                place += 1
                last = value
        starts[row + 1] = place
    return starts, values[: starts[rows]], pieces


@njit(cache=True, nogil=True)
def find_piece(data, offsets, row, tables, shortest, paragraphs, wanted):  # type: ignore[no-untyped-def]
    """Where the first piece of `row` with the hash `wanted` begins and ends; (0, 0) if there is none."""
    room = _room(data, offsets[row : row + 2])
    count = _read(data, offsets[row], offsets[row + 1], tables, shortest, paragraphs, room)
    for i in range(count):
        if room[1][i] == wanted:
            return room[0][i, 0], room[0][i, 1]
    return np.int64(0), np.int64(0)


@njit(cache=True, nogil=True)
def cut(data, offsets, tables, shortest, paragraphs, leaving, limits, keys):  # type: ignore[no-untyped-def]
    """Every row without the pieces whose hash is among `leaving` (ascending) at a limit below the row's key.

    `limits` goes with `leaving`, `keys` with the rows (all uint64). Blank lines on both sides of what went become those
    of one side; the underline of a heading goes with it. Returns the bytes and offsets of what is left, and counts
    (int64[n, 4]): pieces gone, bytes gone, whether a letter is left, pieces that stay though they are among `leaving`.
    """
    rows = len(offsets) - 1
    out = np.empty(offsets[rows] - offsets[0], np.uint8)
    ends = np.zeros(rows + 1, np.int64)
    counts = np.zeros((rows, 4), np.int64)
    room = _room(data, offsets)
    for row in range(rows):
        start, end = offsets[row], offsets[row + 1]
        pieces = _read(data, start, end, tables, shortest, paragraphs, room)
        for i in range(pieces):
            place = np.searchsorted(leaving, room[1][i])
            known = place < len(leaving) and leaving[place] == room[1][i]
            gone = known and limits[place] < keys[row]
            room[0][i, 2] = gone
            counts[row, 0] += gone
            counts[row, 3] += known and not gone
        ends[row + 1] = ends[row] + _copy(data, start, end, room[0][:pieces], out[ends[row] :])
        counts[row, 1] = end - start - (ends[row + 1] - ends[row])
        counts[row, 2] = has_letter(out, ends[row], ends[row + 1], tables[1])
    return out[: ends[rows]], ends, counts


@njit(cache=True, nogil=True)
def _copy(data, start, end, bounds, out):  # type: ignore[no-untyped-def]
    """Write data[start:end] without the pieces whose third bound is set; returns the bytes written."""
    size = piece = 0
    after = False  # nothing was written since something went
    below = False  # the line before went
    blank = True  # the last line written is blank, or there is none
    place = start
    while place < end:
        stop = min(_line_end(data, place, end) + 1, end)
        empty = _first(data, place, stop) == stop
        while piece < len(bounds) and bounds[piece, 1] < place:
            piece += 1
        if not empty and bounds[piece, 2]:
            after = below = True
        elif below and _is_underline(data, place, stop):
            below = False
        elif not (after and empty and blank):
            out[size : size + stop - place] = data[place:stop]
            size += stop - place
            after = below = False
            blank = empty
        else:
            below = False
        place = stop
    return _trimmed(out, size, data[end - 1] == _NEWLINE) if after else size


@njit(cache=True, nogil=True)
def _is_underline(data, start, end):  # type: ignore[no-untyped-def]
    """Whether data[start:end] is three or more of one ASCII mark, no fence and no row of a table."""
    first = _first(data, start, end)
    if first == end:
        return False
    mark = data[first]
    if not 0x21 <= mark <= 0x7D or mark in (_BAR, _TICK):
        return False
    if 0x30 <= mark <= 0x39 or 0x41 <= mark <= 0x5A or 0x61 <= mark <= 0x7A:
        return False
    place = first
    while place < end and data[place] == mark:
        place += 1
    return place - first >= 3 and _first(data, place, end) == end


@njit(cache=True, nogil=True)
def _trimmed(out, size, newline):  # type: ignore[no-untyped-def]
    """The size of out[:size] without blanks at its end, but for a `newline` if it had one."""
    while size > 0 and _first(out, size - 1, size) == size:
        size -= 1
    if size > 0 and newline:
        out[size] = _NEWLINE
        size += 1
    return size
