"""Character references (`&amp;`, `&#x4e00;`) as the WHATWG standard reads them: all 2,231 names, and numbers."""

from html.entities import html5

import numpy as np

from stages.kernels import inner

_SLOTS = 8192


def _hash(name: str) -> int:
    state = 14695981039346656037
    for byte in name.encode():
        state = ((state ^ byte) * 1099511628211) & 0xFFFFFFFFFFFFFFFF
    return state


def _table() -> tuple[np.ndarray, np.ndarray]:
    """Open addressing: keys uint64[8192], the one or two code points int32[8192, 2] (0: none)."""
    keys, codes = np.zeros(_SLOTS, np.uint64), np.zeros((_SLOTS, 2), np.int32)
    for name, text in html5.items():
        slot = _hash(name) & (_SLOTS - 1)
        while codes[slot, 0]:
            slot = (slot + 1) & (_SLOTS - 1)
        keys[slot] = _hash(name)
        codes[slot, : len(text)] = [ord(char) for char in text]
    return keys, codes


KEYS, CODES = _table()
_LONGEST = max(map(len, html5))
_LONGEST_OPEN = max(len(name) for name in html5 if not name.endswith(";"))
WINDOWS = np.array([ord(bytes([byte]).decode("cp1252", "replace")) for byte in range(0x80, 0xA0)], np.int32)
WINDOWS[WINDOWS == 0xFFFD] = np.arange(0x80, 0xA0)[WINDOWS == 0xFFFD]  # what cp1252 does not have stays


@inner
def reference(data, place, last, keys, codes, windows):  # type: ignore[no-untyped-def]
    """The one or two code points (0: none) of the reference at the `&` of `place`, and the place after it.

    What is no reference is an ampersand.
    """
    at = place + 1
    if at < last and data[at] == 35:
        return _number(data, place, last, windows)
    state = np.uint64(14695981039346656037)
    first, second, after = 38, 0, place + 1
    stop = min(last, at + _LONGEST)
    while at < stop:
        byte = data[at]
        if not (97 <= (byte | 32) <= 122 or 48 <= byte <= 57 or byte == 59):
            break
        state = (state ^ np.uint64(byte)) * np.uint64(1099511628211)
        at += 1
        if byte == 59 or at - place - 1 <= _LONGEST_OPEN:
            slot = np.int64(state & np.uint64(_SLOTS - 1))
            while codes[slot, 0] and keys[slot] != state:
                slot = (slot + 1) & (_SLOTS - 1)
            if codes[slot, 0]:
                first, second, after = np.int64(codes[slot, 0]), np.int64(codes[slot, 1]), at
            if byte == 59:
                break
    return first, second, after


@inner
def _number(data, place, last, windows):  # type: ignore[no-untyped-def]
    at, base = place + 2, 10
    if at < last and (data[at] | 32) == 120:
        at, base = at + 1, 16
    code, digits = 0, 0
    while at < last:
        byte = data[at]
        if 48 <= byte <= 57:
            digit = np.int64(byte) - 48
        elif base == 16 and 97 <= (byte | 32) <= 102:
            digit = np.int64(byte | 32) - 87
        else:
            break
        code = min(code * base + digit, 0x110000)
        digits += 1
        at += 1
    if digits == 0:
        return 38, 0, place + 1
    if at < last and data[at] == 59:
        at += 1
    if code == 0 or code >= 0x110000 or 0xD800 <= code < 0xE000:
        code = 0xFFFD
    elif 0x80 <= code < 0xA0:
        code = np.int64(windows[code - 0x80])
    return code, 0, at
