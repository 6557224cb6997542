"""HTML's tokenizer over UTF-8 bytes: start tags, end tags and text, as the WHATWG standard cuts them.

One pass, constant work for each byte. A token is four numbers: its kind, the element, and where it begins and ends in
the page. Text is a range of the page: its character references are read later, when it is written. Comments, doctypes
and processing instructions give no token.

Known differences from the standard: elements of SVG and MathML are told from others by their names alone, and
`<noscript>` always holds markup (as for a browser without scripts).
"""

import numpy as np

from stages.kernels import constant, inlined, inner, kernel
from stages.kernels.html_names import KINDS, RAW, TAG, TAG_KEYS, TAG_VALUES, number_of, step, tags, word_hash

TEXT, VERBATIM, OPEN, CLOSED, CLOSE = range(5)
"""Kinds of token. VERBATIM: text without character references. CLOSED: a start tag that ends in `/>`."""

_SCRIPT, _PLAINTEXT, _SVG, _MATH = TAG["script"], TAG["plaintext"], TAG["svg"], TAG["math"]
_TITLE, _TEXTAREA = TAG["title"], TAG["textarea"]
_SCRIPT_HASH = word_hash(b"script")
BREAKS_OUT = np.zeros(256, np.bool_)  # start tags that end SVG and MathML
BREAKS_OUT[list(tags("""
    b big blockquote body br center code dd div dl dt em embed h1 h2 h3 h4 h5 h6 head hr i img li listing menu
    meta nobr ol p pre ruby s small span strong strike sub sup table tt u ul var
"""))] = True  # fmt: skip


def tokens(page: np.ndarray, xml: bool) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of a page (UTF-8, uint8[bytes]): uint8[tokens, 2] kind and element, int32[tokens, 2] begin and end.

    Of a tag, begin and end are those of its attributes. With `xml`, `/>` ends any element and CDATA is text anywhere.
    """
    most = 2 * int(np.count_nonzero(page == 60)) + 1
    kinds, ranges = np.zeros((most, 2), np.uint8), np.zeros((most, 2), np.int32)
    count = tokenize(constant(page), xml, TAG_KEYS, TAG_VALUES, KINDS, BREAKS_OUT, kinds, ranges)
    return kinds[:count], ranges[:count]


@inlined
def _is_letter(byte):  # type: ignore[no-untyped-def]
    return 97 <= (byte | 32) <= 122


@inlined
def _is_space(byte):  # type: ignore[no-untyped-def]
    return byte == 32 or (9 <= byte <= 13 and byte != 11)


@inner
def _to(data, place, end, byte):  # type: ignore[no-untyped-def]
    """Where `byte` comes next, or `end`."""
    while place < end and data[place] != byte:
        place += 1
    return place


@inner
def _after_attributes(data, place, end):  # type: ignore[no-untyped-def]
    """From behind a tag's name: the place of the `>` that ends it (`end`: none), and whether `/` stands before it."""
    while place < end:
        byte = data[place]
        if byte == 62:
            return place, data[place - 1] == 47
        if byte == 61:
            place += 1
            while place < end and _is_space(data[place]):
                place += 1
            if place < end and (data[place] == 34 or data[place] == 39):
                place = _to(data, place + 1, end, data[place]) + 1
                if place < end and data[place] == 62:
                    return place, False
                continue
            while place < end and data[place] != 62 and not _is_space(data[place]):
                place += 1
            if place < end and data[place] == 62:
                return place, False
            continue
        place += 1
        if _is_space(byte) or byte == 47:  # the first byte of a name may be `=`
            while place < end and (_is_space(data[place]) or data[place] == 47):
                place += 1
            if place < end and data[place] == 61:
                place += 1
    return end, False


@inner
def _after_comment(data, place, end):  # type: ignore[no-untyped-def]
    """The place after the comment whose `<!--` starts at `place`; `<!-->` is a whole comment."""
    at = place + 4
    if at < end and data[at] == 62:
        return at + 1
    if at + 1 < end and data[at] == 45 and data[at + 1] == 62:
        return at + 2
    while at + 2 < end:
        if data[at] == 45 and data[at + 1] == 45:
            if data[at + 2] == 62:
                return at + 3
            if data[at + 2] == 33 and at + 3 < end and data[at + 3] == 62:
                return at + 4
        at += 1
    return end


@inner
def _ends_raw(data, place, end, size, name):  # type: ignore[no-untyped-def]
    """Whether the end tag of a raw element of `size` letters stands at the `<` of `place`."""
    stop = place + 2 + size
    if stop > end or data[place + 1] != 47:
        return False
    state = np.uint32(2166136261)
    for at in range(place + 2, stop):
        state = step(state, data[at])
    return state == name and stop < end and (_is_space(data[stop]) or data[stop] == 47 or data[stop] == 62)


@inner
def _after_raw(data, place, end, size, name, script):  # type: ignore[no-untyped-def]
    """Where the end tag of a raw element begins; a script's is not one between `<!-- <script` and `-->`."""
    escaped, twice = False, False
    while place < end:
        byte = data[place]
        if byte == 60:
            if _ends_raw(data, place, end, size, name):
                if not twice:
                    return place
                twice = False
            elif script and place + 7 < end and data[place + 1] == 33:
                if data[place + 2] == 45 and data[place + 3] == 45:
                    escaped = True
                    place += 1  # so that `<!-->` ends at once
            elif script and escaped and place + 7 < end and (data[place + 1] | 32) == 115:
                twice = twice or _opens_script(data, place + 1, end)
        elif byte == 45 and escaped and place + 2 < end and data[place + 1] == 45 and data[place + 2] == 62:
            escaped, twice = False, False
        place += 1
    return end


@inner
def _opens_script(data, place, end):  # type: ignore[no-untyped-def]
    state = np.uint32(2166136261)
    for at in range(place, place + 6):
        state = step(state, data[at])
    after = data[place + 6]
    return state == np.uint32(_SCRIPT_HASH) and (_is_space(after) or after == 47 or after == 62)


@inner
def _after_cdata(data, place, end):  # type: ignore[no-untyped-def]
    while place + 2 < end and not (data[place] == 93 and data[place + 1] == 93 and data[place + 2] == 62):
        place += 1
    return place if place + 2 < end else end


@inner
def _is_cdata(data, place, end):  # type: ignore[no-untyped-def]
    return (
        place + 8 < end and data[place + 2] == 91 and data[place + 3] == 67 and data[place + 4] == 68
        and data[place + 5] == 65 and data[place + 6] == 84 and data[place + 7] == 65 and data[place + 8] == 91
    )  # fmt: skip


@inlined
def _put(kinds, ranges, count, kind, tag, first, last):  # type: ignore[no-untyped-def]
    kinds[count, 0] = kind
    kinds[count, 1] = tag
    ranges[count, 0] = first
    ranges[count, 1] = last
    return count + 1


@kernel
def tokenize(data, xml, tag_keys, tag_values, properties, breaks_out, kinds, ranges):  # type: ignore[no-untyped-def]
    end = len(data)
    place, text, count, foreign = 0, 0, 0, 0
    while place < end:
        if data[place] != 60:
            place += 1
            continue
        if place + 1 >= end:
            break
        byte = data[place + 1]
        closing = byte == 47
        start = place + 2 if closing else place + 1
        if start < end and _is_letter(data[start]):
            if text < place:
                count = _put(kinds, ranges, count, TEXT, 0, text, place)
            state, at = np.uint32(2166136261), start
            while at < end and not (_is_space(data[at]) or data[at] == 47 or data[at] == 62):
                state = step(state, data[at])
                at += 1
            tag = number_of(tag_keys, tag_values, state)
            place, closed = _after_attributes(data, at, end)
            if place >= end:  # an unfinished tag at the end of the page is nothing
                text = end
                break
            place += 1
            text = place
            if closing:
                count = _put(kinds, ranges, count, CLOSE, tag, at, place - 1)
                foreign = 0 if tag == foreign else foreign
                continue
            if foreign and breaks_out[tag]:
                foreign = 0
            count = _put(kinds, ranges, count, CLOSED if closed else OPEN, tag, at, place - 1)
            if closed and (xml or foreign):
                continue
            if (tag in (_SVG, _MATH)) and not foreign and not closed:
                foreign = tag
            elif properties[tag] & RAW and not foreign:
                size = at - start
                place = end if tag == _PLAINTEXT else _after_raw(data, place, end, size, state, tag == _SCRIPT)
                if text < place:
                    count = _put(kinds, ranges, count, _raw_kind(tag), tag, text, place)
                text = place
        elif byte == 33 or byte == 63 or (closing and start < end):
            if text < place:
                count = _put(kinds, ranges, count, TEXT, 0, text, place)
            if byte == 33 and (xml or foreign) and _is_cdata(data, place, end):
                last = _after_cdata(data, place + 9, end)
                count = _put(kinds, ranges, count, VERBATIM, 0, place + 9, last)
                place = last + 3
            elif byte == 33 and place + 3 < end and data[place + 2] == 45 and data[place + 3] == 45:
                place = _after_comment(data, place, end)
            else:
                place = _to(data, place + 1, end, 62) + 1
            place = min(place, end)
            text = place
        else:
            place += 1
    if text < end:
        count = _put(kinds, ranges, count, TEXT, 0, text, end)
    return count


@inlined
def _raw_kind(tag):  # type: ignore[no-untyped-def]
    return TEXT if tag in (_TITLE, _TEXTAREA) else VERBATIM
