"""How deep markup nests and how many attributes a tag carries, by a scan of the bytes that builds no tree.

The scan knows as much of HTML's tokenizer as it takes not to be fooled: quoted attribute values, comments, and the
elements whose content is no markup (script, style, textarea, title, xmp, iframe, noembed, noframes).
"""

import numpy as np

from stages.kernels import constant, inlined, inner, kernel

_RAW = ("script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes")
_FLAT = """
    area base br col embed hr img input link meta param source track wbr html head body p li dt dd tr td th thead tbody
    tfoot colgroup caption option optgroup rt rp a abbr b big cite code em font i kbd nobr q s samp small span strike
    strong sub sup tt u var
"""
# Void elements, those whose end tag may be left out, and inline ones, which old pages open by the hundred and never
# close: none of them makes a parser's work grow with depth (measured, 3,000 deep).
_NO_SELF_CLOSING = ("div", "article", "section", "center")  # `<div/>` opens a div


def _packed(name: str) -> int:
    return int.from_bytes(name.encode()[:8], "big")


RAW = np.array([_packed(name) for name in _RAW], np.uint64)
FLAT = np.sort(np.array([_packed(name) for name in _FLAT.split()], np.uint64))
NO_SELF_CLOSING = np.array([_packed(name) for name in _NO_SELF_CLOSING], np.uint64)


@inlined
def _name(data, place, end):  # type: ignore[no-untyped-def]
    """The first 8 bytes of the tag name at `place` in lower case, packed big-endian, and the place after the name."""
    packed = np.uint64(0)
    length = 0
    while place < end:
        byte = data[place]
        if byte <= 32 or byte == 47 or byte == 62:
            break
        if 65 <= byte <= 90:
            byte += 32
        if length < 8:
            packed = (packed << np.uint64(8)) | np.uint64(byte)
        length += 1
        place += 1
    return packed, place


@inner
def _attributes(data, place, end):  # type: ignore[no-untyped-def]
    """From behind a tag's name: how many attributes it has, whether it ends in `/>`, and the place after the tag."""
    number = 0
    closed = False
    while place < end:
        byte = data[place]
        if byte == 62:
            return number, closed, place + 1
        if byte <= 32 or byte == 47:
            closed = byte == 47
            place += 1
            continue
        closed = False
        number += 1
        place += 1  # the first byte of a name may be anything, even `=`
        while place < end and data[place] > 32 and data[place] != 61 and data[place] != 47 and data[place] != 62:
            place += 1
        after = place
        while after < end and data[after] <= 32:
            after += 1
        if after < end and data[after] == 61:
            place = _after_value(data, after + 1, end)
    return number, closed, end


@inner
def _after_value(data, place, end):  # type: ignore[no-untyped-def]
    """The place after the attribute value that starts behind the `=` at `place - 1`."""
    while place < end and data[place] <= 32:
        place += 1
    if place < end and (data[place] == 34 or data[place] == 39):
        quote = data[place]
        place += 1
        while place < end and data[place] != quote:
            place += 1
        return place + 1
    while place < end and data[place] > 32 and data[place] != 62:
        place += 1
    return place


@inner
def _after_comment(data, place, end):  # type: ignore[no-untyped-def]
    """The place after the comment whose `<!--` starts at `place`; `<!-->` is a whole comment."""
    at = place + 4
    if at < end and data[at] == 62:
        return at + 1
    at = place + 2
    while at + 2 < end:
        if data[at] == 45 and data[at + 1] == 45:
            if data[at + 2] == 62 and at >= place + 3:
                return at + 3
            if data[at + 2] == 33 and at + 3 < end and data[at + 3] == 62 and at >= place + 4:
                return at + 4
        at += 1
    return end


@inner
def _after_raw(data, place, end, name):  # type: ignore[no-untyped-def]
    """The place of the end tag that ends an element without markup in it."""
    while place + 2 < end:
        if data[place] == 60 and data[place + 1] == 47:
            found, _ = _name(data, place + 2, end)
            if found == name:
                return place
        place += 1
    return end


@inner
def _holds(names, name):  # type: ignore[no-untyped-def]
    for one in names:  # noqa: SIM110 - numba
        if one == name:
            return True
    return False


@inner
def _holds_sorted(names, name):  # type: ignore[no-untyped-def]
    low, high = 0, len(names)
    while low < high:
        middle = (low + high) >> 1
        if names[middle] < name:
            low = middle + 1
        else:
            high = middle
    return low < len(names) and names[low] == name


def shape(data: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The deepest nesting of block elements, and the most attributes on one tag, of every row: two int64[rows].

    `data` and `offsets` as `schema.text_buffers` gives them.
    """
    depths, attributes = np.zeros(len(offsets) - 1, np.int64), np.zeros(len(offsets) - 1, np.int64)
    _shape(constant(data), offsets, RAW, FLAT, NO_SELF_CLOSING, depths, attributes)
    return depths, attributes


@kernel
def _shape(data, offsets, raw, flat, no_self_closing, depths, attributes):  # type: ignore[no-untyped-def]
    for row in range(len(depths)):
        place, end = offsets[row], offsets[row + 1]
        depth = 0
        while place + 1 < end:
            if data[place] != 60:
                place += 1
                continue
            byte = data[place + 1]
            if byte == 33 and place + 3 < end and data[place + 2] == 45 and data[place + 3] == 45:
                place = _after_comment(data, place, end)
                continue
            closing = byte == 47
            start = place + 2 if closing else place + 1
            if start >= end or not (65 <= data[start] <= 90 or 97 <= data[start] <= 122):
                place += 1
                continue
            name, place = _name(data, start, end)
            number, closed, place = _attributes(data, place, end)
            attributes[row] = max(attributes[row], number)
            if _holds_sorted(flat, name):
                continue
            if closing:
                depth = max(0, depth - 1)
            elif _holds(raw, name):
                place = _after_raw(data, place, end, name)
                depth += 1
            elif not closed or _holds(no_self_closing, name):
                depth += 1
                depths[row] = max(depths[row], depth)
