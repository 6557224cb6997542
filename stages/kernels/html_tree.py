"""From tokens to elements and blocks of text, as a browser nests them, in one pass with a stack of bounded height.

A block is a run of text without a line break in it: what lies between two block-level tags (or `<br>`). Its text is a
list of operations (a range of the page, a formula, a raised or lowered part), which is read when figures of it are
taken and when it is written.

Nesting follows the WHATWG rules that decide which text stands in which block: implied end tags (p, li, dd, dt, options,
rows, cells), scopes that an end tag does not leave, void elements, one link at a time. The order of formatting elements
that are wrongly nested, and text that a browser moves out in front of a table, stay where they were written.
"""

import numpy as np

from stages.kernels import html_names as names
from stages.kernels import inlined, inner, kernel
from stages.kernels.html_names import (
    BARRIER,
    BLOCK,
    CLOSES_P,
    FIRM,
    HEADING,
    RAW,
    SKIP,
    SPACED,
    TABLE_PART,
    TAG,
    VOID,
    tags,
)
from stages.kernels.html_tokens import CLOSE, CLOSED, TEXT, VERBATIM

MOST_NESTED = 512
"""Elements nested deeper are taken as children of the last one, as browsers do."""
_INLINE_SEARCH = 64  # so many open inline elements an inline end tag is looked for in
_MOST_WORDS = 24  # of the class, id and role of one element

TAG_OF, PARENT, FLAGS, FIRST, LAST, WORD0, WORD1, PATH = range(8)
"""Columns of elements: the tag, the element around it, what holds for its text (bits below), its blocks [FIRST, LAST),
the words of its attributes [WORD0, WORD1), and a hash of its tags and first class up to the root."""

ELEMENT, OP0, OP1, BREAK, STATE, MARK, LEVEL, ROW, CELL, INLINE0, INLINE1 = range(11)
"""Columns of blocks: innermost block-level element, operations [OP0, OP1), what stands before it (LINE or GAP), the
bits that hold for it, the list marker (0: none, -1: bullet, else a number), how deep in lists, table row and cell
(0: none), and the words of the attributes of inline elements in it."""

WRITE, WRITE_AS_IS, FORMULA, FORMULA_AS_IS, RAISE, LOWER, LEVEL_AGAIN, SIGN, NEW_LINE = range(9)
"""Kinds of operation. FORMULA is TeX with character references, SIGN one ASCII character."""
OP, OP_FIRST, OP_LAST, OP_LINK = range(4)

LINE, GAP = 1, 2

(HIDDEN, PRE, IN_HEADING, IN_LI, IN_CELL, IN_NAV, IN_FOOTER, IN_HEADER, IN_ASIDE, IN_FORM, IN_FIGURE, IN_QUOTE,
 IN_BUTTON, IN_MAIN, IN_ARTICLE, IN_CODE, ARIA, IN_NOSCRIPT, IN_DIALOG, IN_TABLE, INVISIBLE, IN_DL, IN_P, IN_SECTION,
 NO_TEXT, FOREIGN, IN_MATH, IN_TEX, PAREN) = (1 << bit for bit in range(29))  # fmt: skip
"""Bits of FLAGS and STATE; those up to IN_SECTION are features."""

_OWN = np.zeros(256, np.int32)
for _names, _bit in {
    "pre xmp listing plaintext": PRE, "h1 h2 h3 h4 h5 h6": IN_HEADING, "li": IN_LI, "td th": IN_CELL, "nav": IN_NAV,
    "footer": IN_FOOTER, "header": IN_HEADER, "aside": IN_ASIDE, "form fieldset": IN_FORM,
    "figure figcaption": IN_FIGURE, "blockquote": IN_QUOTE, "button": IN_BUTTON, "main": IN_MAIN,
    "article": IN_ARTICLE, "code kbd samp": IN_CODE, "noscript": IN_NOSCRIPT, "dialog": IN_DIALOG, "table": IN_TABLE,
    "dl": IN_DL, "p": IN_P, "section": IN_SECTION, "svg": FOREIGN, "math": FOREIGN | IN_MATH,
}.items():  # fmt: skip
    _OWN[[TAG[_name] for _name in _names.split()]] |= _bit
_OWN[: len(names.KINDS)][names.KINDS & SKIP != 0] |= NO_TEXT
OWN = _OWN

ROLE_BITS = {"navigation": IN_NAV, "menu": IN_NAV, "menubar": IN_NAV, "contentinfo": IN_FOOTER, "banner": IN_HEADER,
             "complementary": IN_ASIDE, "main": IN_MAIN, "article": IN_ARTICLE, "dialog": IN_DIALOG,
             "button": IN_BUTTON, "search": IN_FORM}  # fmt: skip
_ROLES = list(ROLE_BITS)
ROLE_KEYS, ROLE_VALUES = names._table({name: number for number, name in enumerate(_ROLES, 1)})
ROLE_FLAGS = np.array([0, *ROLE_BITS.values()], np.int32)

(TOP, ELEMENTS, BLOCKS, OPS, WORDS, OPEN_BLOCK, NEXT_BREAK, LINK_LEVEL, LINK_OP, AFTER_BR, NEXT_MARK, ROWS, CELLS,
 INLINE_WORDS, MATH_OP, TEX0, TEX1, ALT0, ALT1, SCRIPT_TEX, TITLE0, TITLE1, A_FLAGS, A_ALT0, A_ALT1, A_CLASS, A_START,
 A_HREF, A_TEX, A_KIND, A_CONTENT0, A_CONTENT1, AFTER_TEX, SCRIPT_DATA,
 STEPS) = range(35)  # fmt: skip
"""Slots of the state: what is open, how many of each there are, what the attributes of a tag said (A_...), and the
steps taken through the stack."""

S_ELEMENT, S_COUNT, S_ROW, S_CELL, S_FIRM, S_LISTS = range(6)  # columns of the stack

_P, _LI, _DD, _DT, _A, _BR, _HR, _IMG, _TR, _TD, _TH, _TABLE, _SELECT, _OPTION, _OPTGROUP = tags(
    "p li dd dt a br hr img tr td th table select option optgroup"
)
_OL, _UL, _DIV, _ADDRESS, _BODY, _HTML, _HEAD, _BUTTON, _SUP, _SUB, _SCRIPT, _TITLE, _MATH, _ANNOTATION, _MROW = tags(
    "ol ul div address body html head button sup sub script title math annotation mrow"
)
_ANNOTATION_XML, _MFRAC, _MSUP, _MSUB, _MSUBSUP, _MUNDER, _MOVER, _MUNDEROVER, _MSQRT = tags(
    "annotation-xml mfrac msup msub msubsup munder mover munderover msqrt"
)
_SVG, _FOREIGN_OBJECT, _THEAD, _META = TAG["svg"], TAG["foreignobject"], TAG["thead"], TAG["meta"]
_RB, _RT, _RP, _RTC, _XMP, _PLAINTEXT, _TEMPLATE, _MENU, _TBODY = tags("rb rt rp rtc xmp plaintext template menu tbody")


# -- attributes --------------------------------------------------------------------------------------------------------


@inlined
def _is_space(byte):  # type: ignore[no-untyped-def]
    return byte == 32 or 9 <= byte <= 13


@inner
def _value(data, place, last):  # type: ignore[no-untyped-def]
    """Begin and end of the attribute value behind the `=` before `place`, and the place after it."""
    while place < last and _is_space(data[place]):
        place += 1
    if place < last and (data[place] == 34 or data[place] == 39):
        quote, first = data[place], place + 1
        place = first
        while place < last and data[place] != quote:
            place += 1
        return first, place, place + 1
    first = place
    while place < last and not _is_space(data[place]):
        place += 1
    return first, place, place


@inner
def _words(data, first, last, words, state):  # type: ignore[no-untyped-def]
    """Add the hashed words of an attribute: runs of letters, cut where a capital follows a small letter."""
    limit = state[A_START] + _MOST_WORDS
    hashed, size, small = np.uint32(2166136261), 0, False
    for place in range(first, last + 1):
        byte = data[place] if place < last else np.uint8(32)
        letter = 97 <= (byte | 32) <= 122
        if size and (not letter or (small and byte <= 90)):
            if state[WORDS] < limit and size > 1:
                words[state[WORDS]] = hashed
                state[WORDS] += 1
            hashed, size = np.uint32(2166136261), 0
        if letter:
            hashed = names.step(hashed, byte)
            size += 1
        small = letter and byte > 90


@inner
def _class(data, first, last, keys, values):  # type: ignore[no-untyped-def]
    """What the whole class names say, or-ed together, and a hash of the first one."""
    found, first_hash = 0, np.uint32(0)
    hashed, size = np.uint32(2166136261), 0
    for place in range(first, last + 1):
        if place == last or _is_space(data[place]):
            if size:
                found |= names.number_of(keys, values, hashed)
                if first_hash == 0:
                    first_hash = hashed
            hashed, size = np.uint32(2166136261), 0
        else:
            hashed = names.step(hashed, data[place])
            size += 1
    return found, first_hash


@inner
def _whole_hash(data, first, last):  # type: ignore[no-untyped-def]
    hashed = np.uint32(2166136261)
    for place in range(first, last):
        hashed = names.step(hashed, data[place])
    return hashed


@inner
def _has(data, first, last, a, b, c, d):  # type: ignore[no-untyped-def]
    """Whether four letters in any case stand in a row there, blanks left out."""
    got = 0
    for place in range(first, last):
        byte = data[place] | 32
        if byte == 32:
            continue
        got = (
            got + 1 if byte == (a if got == 0 else b if got == 1 else c if got == 2 else d) else (1 if byte == a else 0)
        )
        if got == 4:
            return True
    return False


@inner
def _style(data, first, last):  # type: ignore[no-untyped-def]
    flags = 0
    if _has(data, first, last, 121, 58, 110, 111):  # displa-y:no-ne
        flags |= HIDDEN
    if _has(data, first, last, 121, 58, 104, 105):  # visibilit-y:hi-dden
        flags |= INVISIBLE
    return flags


@inner
def _read_attributes(data, first, last, state, words, t):  # type: ignore[no-untyped-def]
    """Read the attributes of one tag into the A_ slots of the state and the hashed words; a hash of the first class.

    `t` holds the tables of names: attributes, classes, roles.
    """
    for slot in range(A_FLAGS, A_CONTENT1 + 1):
        state[slot] = 0
    state[A_START] = state[WORDS]
    path = np.uint32(0)
    place = first
    while place < last:
        if _is_space(data[place]) or data[place] == 47:
            place += 1
            continue
        hashed = names.step(np.uint32(2166136261), data[place])
        place += 1
        while place < last and data[place] != 61 and data[place] != 47 and not _is_space(data[place]):
            hashed = names.step(hashed, data[place])
            place += 1
        after = place
        while after < last and _is_space(data[after]):
            after += 1
        begin, stop = after, after
        if after < last and data[after] == 61:
            begin, stop, place = _value(data, after + 1, last)
        number = names.number_of(t[0], t[1], hashed)
        if number:
            path = _use_attribute(data, number, begin, min(stop, last), state, words, t, path)
    return path


@inner
def _use_attribute(data, number, first, last, state, words, t, path):  # type: ignore[no-untyped-def]
    if number == names.CLASS:
        found, path = _class(data, first, last, t[2], t[3])
        state[A_CLASS] |= found
        _words(data, first, last, words, state)
    elif number == names.ID or number == names.ITEMPROP or number == names.ITEMTYPE:
        _words(data, first, last, words, state)
    elif number == names.ROLE:
        _words(data, first, last, words, state)
        state[A_FLAGS] |= t[6][names.number_of(t[4], t[5], _whole_hash(data, first, last))]
    elif number == names.STYLE:
        state[A_FLAGS] |= _style(data, first, last)
    elif number == names.HIDDEN:
        if not _has(data, first, last, 117, 110, 116, 105):  # hidden="until-found" shows when searched for
            state[A_FLAGS] |= HIDDEN
    elif number == names.ARIA_HIDDEN:
        state[A_FLAGS] |= ARIA if last - first == 4 else 0  # true
    elif number == names.HREF:
        state[A_HREF] = 2 if first < last and data[first] == 35 else 1
    elif number == names.ALT or number == names.ALTTEXT:
        state[A_ALT0], state[A_ALT1] = first, last
    elif number == names.ENCODING or number == names.TYPE:
        state[A_TEX] |= _is_tex(data, first, last) | (4 if _is_linked_data(data, first, last) else 0)
    elif number == names.SHADOWROOT:
        state[A_TEX] |= 2
    elif number == names.PROPERTY:
        state[A_KIND] = last - first == 7 and data[first] == 111 and data[first + 3] == 116  # og:type
    elif number == names.CONTENT:
        state[A_CONTENT0], state[A_CONTENT1] = first, last
    return path


@inner
def _is_tex(data, first, last):  # type: ignore[no-untyped-def]
    """`application/x-tex`, `math/tex`, `math/tex; mode=display`, `TeX`."""
    for place in range(first, last - 2):
        if (data[place] | 32) == 116 and (data[place + 1] | 32) == 101 and (data[place + 2] | 32) == 120:
            return 0 if place + 3 < last and (data[place + 3] | 32) == 116 else 1  # not te-xt
    return 0


@inner
def _is_linked_data(data, first, last):  # type: ignore[no-untyped-def]
    """`application/ld+json`."""
    return last - first == 19 and data[first + 12] == 108 and data[first + 13] == 100 and data[first + 14] == 43


@inner
def _linked_types(data, first, last, state, words):  # type: ignore[no-untyped-def]
    """Add the words of every `"@type": "Name"` of JSON-LD."""
    place = first
    while place + 8 < last:
        if not (data[place] == 64 and data[place + 1] == 116 and data[place + 2] == 121 and data[place + 5] == 34):
            place += 1
            continue
        place += 6
        while place < last and (_is_space(data[place]) or data[place] == 58 or data[place] == 91):
            place += 1
        if place < last and data[place] == 34:
            begin = place + 1
            place = begin
            while place < last and data[place] != 34:
                place += 1
            state[A_START] = state[WORDS]
            _words(data, begin, min(place, begin + 40), words, state)


# -- the stack ---------------------------------------------------------------------------------------------------------


@inlined
def _tag(level, elements, stack):  # type: ignore[no-untyped-def]
    return elements[stack[level, S_ELEMENT], TAG_OF]


@inner
def _end_block(state, blocks):  # type: ignore[no-untyped-def]
    if state[OPEN_BLOCK] >= 0:
        blocks[state[OPEN_BLOCK], OP1] = state[OPS]
        blocks[state[OPEN_BLOCK], INLINE1] = state[WORDS]
        state[OPEN_BLOCK] = -1
    state[INLINE_WORDS] = state[WORDS]


@inner
def _boundary(strength, state, blocks):  # type: ignore[no-untyped-def]
    _end_block(state, blocks)
    state[NEXT_BREAK] = max(state[NEXT_BREAK], strength)
    state[AFTER_BR] = 0
    state[AFTER_TEX] = 0


@inner
def _op(kind, first, last, state, ops):  # type: ignore[no-untyped-def]
    ops[state[OPS], OP] = kind
    ops[state[OPS], OP_FIRST] = first
    ops[state[OPS], OP_LAST] = last
    ops[state[OPS], OP_LINK] = state[LINK_LEVEL] > 0
    state[OPS] += 1


@inner
def _start_block(state, elements, blocks, stack):  # type: ignore[no-untyped-def]
    top, number = state[TOP], state[BLOCKS]
    block = blocks[number]
    block[ELEMENT] = stack[top, S_FIRM]
    block[OP0] = state[OPS]
    block[BREAK] = state[NEXT_BREAK]
    block[STATE] = elements[stack[top, S_FIRM], FLAGS]
    block[MARK] = state[NEXT_MARK]
    block[LEVEL] = stack[top, S_LISTS]
    block[ROW] = stack[top, S_ROW]
    block[CELL] = stack[top, S_CELL]
    block[INLINE0] = state[INLINE_WORDS]
    state[OPEN_BLOCK] = number
    state[BLOCKS] += 1
    state[NEXT_BREAK] = state[NEXT_MARK] = state[AFTER_BR] = 0


@inner
def _pop_to(level, state, elements, blocks, ops, stack, opened, kinds):  # type: ignore[no-untyped-def]
    """Close the elements from the top of the stack down to `level`, that one too."""
    while state[TOP] >= level:
        state[STEPS] += 1
        element = stack[state[TOP], S_ELEMENT]
        tag = elements[element, TAG_OF]
        kind = kinds[tag]
        if kind & BLOCK:
            _boundary(GAP if kind & SPACED else LINE, state, blocks)
            state[NEXT_MARK] = 0 if tag == _LI else state[NEXT_MARK]
        elif (tag in (_SUP, _SUB)) and state[OPEN_BLOCK] >= 0:
            _op(LEVEL_AGAIN, 0, 0, state, ops)
        elif tag == _MATH:
            _end_math(state, elements, blocks, ops, stack)
        elif elements[element, FLAGS] & PAREN and tag == _MROW and state[OPEN_BLOCK] >= 0:
            _op(SIGN, 41, 0, state, ops)
        elements[element, LAST] = state[BLOCKS]
        opened[tag] -= 1
        state[TOP] -= 1
        if state[LINK_LEVEL] > state[TOP]:
            state[LINK_LEVEL] = 0


@inner
def _end_math(state, elements, blocks, ops, stack):  # type: ignore[no-untyped-def]
    """Put the TeX of a formula in place of its rendering, if it has any."""
    first, last, kind = state[TEX0], state[TEX1], FORMULA
    if first == last:
        first, last = state[ALT0], state[ALT1]
    if first == last:
        return
    if state[OPEN_BLOCK] < 0:
        _start_block(state, elements, blocks, stack)
    state[OPS] = max(state[MATH_OP], blocks[state[OPEN_BLOCK], OP0])
    _op(kind, first, last, state, ops)
    state[AFTER_TEX] = state[OPS]


@inner
def _level_of(tag, state, elements, stack, opened, kinds):  # type: ignore[no-untyped-def]
    """The level of the open element `tag` that an end tag reaches, 0 for none."""
    if opened[tag] == 0:
        return 0
    level = state[TOP]
    while level > 0:
        state[STEPS] += 1
        found = _tag(level, elements, stack)
        if found == tag:
            return level
        if kinds[found] & BARRIER:
            return 0
        level -= 1
    return 0


@inner
def _level_in_table(tag, other, state, elements, stack, opened):  # type: ignore[no-untyped-def]
    """The lowest level of `tag` or `other` above the innermost table, 0 for none."""
    if opened[tag] + opened[other] == 0:
        return 0
    level, found = state[TOP], 0
    while level > 0 and _tag(level, elements, stack) != _TABLE and _tag(level, elements, stack) != _TEMPLATE:
        state[STEPS] += 1
        here = _tag(level, elements, stack)
        if here in (tag, other):
            found = level
        level -= 1
    return found if level > 0 else 0


@inner
def _level_of_item(tag, other, state, elements, stack, opened, kinds):  # type: ignore[no-untyped-def]
    """The level of the list item that a new one ends, 0 for none."""
    if opened[tag] + opened[other] == 0:
        return 0
    level = state[TOP]
    while level > 0:
        state[STEPS] += 1
        here = _tag(level, elements, stack)
        if here in (tag, other):
            return level
        if kinds[here] & FIRM and here != _DIV and here != _P and here != _ADDRESS:
            return 0
        level -= 1
    return 0


@inner
def _implied_ends(tag, state, elements, blocks, ops, stack, opened, kinds):  # type: ignore[no-untyped-def]
    """Close what a start tag closes."""
    level = 0
    kind = kinds[tag]
    firm = _tag(state[TOP], elements, stack)
    if kind & BLOCK and opened[_SELECT] and tag != _OPTION and tag != _OPTGROUP and tag != _BUTTON and tag != _HR:
        level = _level_of(_SELECT, state, elements, stack, opened, kinds)
        if level:
            _pop_to(level, state, elements, blocks, ops, stack, opened, kinds)
    if tag == _LI:
        level = _level_of_item(_LI, _LI, state, elements, stack, opened, kinds)
    elif tag in (_DD, _DT):
        level = _level_of_item(_DD, _DT, state, elements, stack, opened, kinds)
    elif tag in (_TD, _TH):
        level = _level_in_table(_TD, _TH, state, elements, stack, opened)
    elif kind & TABLE_PART:
        level = _level_in_table(_TD, _TH, state, elements, stack, opened)
        other = _level_in_table(_TR, _TR, state, elements, stack, opened)
        level = min(level, other) if level and other else max(level, other)
        if tag != _TR:
            other = _level_in_table(_TBODY, _THEAD, state, elements, stack, opened)
            level = other if other else level
    elif kind & HEADING and kinds[firm] & HEADING:
        level = state[TOP]
    elif tag == _BUTTON:
        level = _level_of(_BUTTON, state, elements, stack, opened, kinds)
    elif ((tag in (_RT, _RP, _RB, _RTC)) and (firm in (_RT, _RP, _RB, _RTC))) or (tag == _OPTION and firm == _OPTION):
        level = state[TOP]
    if level:
        _pop_to(level, state, elements, blocks, ops, stack, opened, kinds)
    if kind & CLOSES_P and opened[_P]:
        level = _level_of(_P, state, elements, stack, opened, kinds)
        if level:
            _pop_to(level, state, elements, blocks, ops, stack, opened, kinds)


# -- tokens ------------------------------------------------------------------------------------------------------------


@inner
def _push(tag, path, state, elements, stack, opened, kinds, own):  # type: ignore[no-untyped-def]
    """Put an element on the stack, or only count its text to the last one where the stack is full."""
    top = state[TOP]
    if top + 1 >= MOST_NESTED:
        return
    parent, number = stack[top, S_ELEMENT], state[ELEMENTS]
    flags = elements[parent, FLAGS] & ~PAREN | own[tag] | np.int32(state[A_FLAGS])
    if tag == _TEMPLATE and state[A_TEX] & 2:
        flags = elements[parent, FLAGS]
    if state[A_CLASS] & names.DROPPED and not kinds[tag] & BLOCK:
        flags |= NO_TEXT
    element = elements[number]
    element[TAG_OF] = tag
    element[PARENT] = parent
    element[FLAGS] = flags
    element[FIRST] = state[BLOCKS]
    element[LAST] = -1
    element[WORD0] = state[A_START]
    element[WORD1] = state[WORDS]
    element[PATH] = np.int32((np.int64(elements[parent, PATH]) * 31 + tag * 7919 + np.int64(path)) & 0x7FFFFFFF)
    top += 1
    for column in range(6):
        stack[top, column] = stack[top - 1, column]
    stack[top, S_ELEMENT] = number
    stack[top, S_COUNT] = 0
    if kinds[tag] & BLOCK:
        stack[top, S_FIRM] = number
    state[ELEMENTS] += 1
    state[TOP] = top
    opened[tag] += 1


@inner
def _list_or_cell(tag, state, stack, rows):  # type: ignore[no-untyped-def]
    """What a list, an item, a row or a cell does to the stack once it lies there."""
    top = state[TOP]
    if tag in (_OL, _UL, _MENU):
        stack[top, S_LISTS] += 1
    elif tag == _LI:
        state[NEXT_MARK] = -1
        if _LI_IN_OL & stack[top - 1, S_COUNT]:
            stack[top - 1, S_COUNT] += 2
            state[NEXT_MARK] = stack[top - 1, S_COUNT] >> 1
    elif tag == _TABLE:
        rows[stack[top, S_ROW]] = 1  # a row with a table in it is layout
        stack[top, S_ROW] = stack[top, S_CELL] = 0
    elif tag == _TR:
        state[ROWS] += 1
        stack[top, S_ROW] = state[ROWS]
    elif tag in (_TD, _TH):
        state[CELLS] += 1
        stack[top, S_CELL] = state[CELLS]
    if tag == _OL:
        stack[top, S_COUNT] = _LI_IN_OL


_LI_IN_OL = 1


@inner
def _math_child(tag, state, elements, ops, stack):  # type: ignore[no-untyped-def]
    """Write what tells the parts of a formula without TeX apart: `/ ^ _ ( )`."""
    top = state[TOP]
    around = _tag(top, elements, stack)
    stack[top, S_COUNT] += 1
    child = stack[top, S_COUNT]
    if state[OPEN_BLOCK] < 0:
        return False
    if around == _MFRAC and child == 2:
        _op(SIGN, 47, 0, state, ops)
    elif ((around in (_MSUP, _MOVER)) and child == 2) or ((around in (_MSUBSUP, _MUNDEROVER)) and child == 3):
        _op(SIGN, 94, 0, state, ops)
    elif (around in (_MSUB, _MUNDER, _MSUBSUP, _MUNDEROVER)) and child == 2:
        _op(SIGN, 95, 0, state, ops)
    elif around != _MFRAC or tag != _MROW:
        return False
    if tag == _MROW:
        _op(SIGN, 40, 0, state, ops)
        return True
    return False


@inner
def _start_tag(data, tag, first, last, closed, state, elements, blocks, ops, words, stack, opened, rows, kinds, own, t):  # type: ignore[no-untyped-def]
    kind = kinds[tag]
    top_flags = elements[stack[state[TOP], S_ELEMENT], FLAGS]
    if tag in (_HTML, _HEAD) or (tag == _BODY and opened[_BODY]):
        return
    if top_flags & FOREIGN and kind & BLOCK and not opened[_FOREIGN_OBJECT]:  # HTML's own elements end SVG and MathML
        level = max(_level_of_barrier(_SVG, state, elements, stack, opened),
                    _level_of_barrier(_MATH, state, elements, stack, opened))  # fmt: skip
        _pop_to(max(level, 1), state, elements, blocks, ops, stack, opened, kinds)
        top_flags = elements[stack[state[TOP], S_ELEMENT], FLAGS]
    if not top_flags & FOREIGN:
        _implied_ends(tag, state, elements, blocks, ops, stack, opened, kinds)
    if kind & BLOCK:
        _boundary(GAP if kind & SPACED else LINE, state, blocks)
    path = _read_attributes(data, first, last, state, words, t)
    if kind & BLOCK:
        state[INLINE_WORDS] = state[WORDS]
    if tag == _META and state[A_KIND]:
        _words(data, state[A_CONTENT0], state[A_CONTENT1], words, state)
    if kind & VOID:
        _void(tag, state, elements, blocks, ops, stack)
        return
    if kind & RAW and tag != _XMP and tag != _PLAINTEXT and not top_flags & FOREIGN:
        state[SCRIPT_TEX] = tag == _SCRIPT and state[A_TEX] & 1
        state[SCRIPT_DATA] = tag == _SCRIPT and state[A_TEX] & 4
        return
    if kind & TABLE_PART and not opened[_TABLE]:
        return
    paren = False
    if top_flags & IN_MATH:
        paren = _math_child(tag, state, elements, ops, stack)
    elif tag == _MATH:
        state[MATH_OP], state[TEX0], state[TEX1] = state[OPS], 0, 0
        state[ALT0], state[ALT1] = state[A_ALT0], state[A_ALT1]
    before = state[TOP]
    _push(tag, path, state, elements, stack, opened, kinds, own)
    if state[TOP] == before:
        return
    element = stack[state[TOP], S_ELEMENT]
    if tag in (_ANNOTATION, _ANNOTATION_XML):
        elements[element, FLAGS] |= IN_TEX if state[A_TEX] & 1 and tag == _ANNOTATION else NO_TEXT
    elif tag == _MATH:
        elements[element, FLAGS] &= ~NO_TEXT
    elif paren:
        elements[element, FLAGS] |= PAREN
    elif tag == _A:
        _start_link(state)
    elif (tag in (_SUP, _SUB)) and state[OPEN_BLOCK] >= 0:
        _op(RAISE if tag == _SUP else LOWER, 0, 0, state, ops)
    elif kind & (BLOCK | TABLE_PART):
        _list_or_cell(tag, state, stack, rows)
    if closed:
        _pop_to(state[TOP], state, elements, blocks, ops, stack, opened, kinds)


@inner
def _start_link(state):  # type: ignore[no-untyped-def]
    state[LINK_LEVEL] = state[TOP] if state[A_HREF] else 0
    state[LINK_OP] = state[OPS] if state[A_HREF] == 2 else -1


@inner
def _void(tag, state, elements, blocks, ops, stack):  # type: ignore[no-untyped-def]
    flags = elements[stack[state[TOP], S_ELEMENT], FLAGS]
    if tag == _BR:
        if flags & PRE and state[OPEN_BLOCK] >= 0:
            _op(NEW_LINE, 0, 0, state, ops)
            return
        twice = state[OPEN_BLOCK] < 0 and state[AFTER_BR]
        _boundary(GAP if twice else LINE, state, blocks)
        state[AFTER_BR] = 1
    elif tag == _IMG and state[A_CLASS] & names.FORMULA and state[A_ALT0] < state[A_ALT1] and not flags & NO_TEXT:
        if state[AFTER_TEX] and state[AFTER_TEX] == state[OPS]:  # the same formula was there as MathML
            return
        if state[OPEN_BLOCK] < 0:
            _start_block(state, elements, blocks, stack)
        _op(FORMULA, state[A_ALT0], state[A_ALT1], state, ops)


@inner
def _end_tag(data, tag, state, elements, blocks, ops, stack, opened, kinds):  # type: ignore[no-untyped-def]
    if tag in (_BODY, _HTML, _HEAD):
        return
    kind = kinds[tag]
    if tag == _BR:
        _void(tag, state, elements, blocks, ops, stack)
        return
    if kind & VOID or (kind & RAW and tag != _XMP):
        return
    level = 0
    if tag == _A:
        _drop_permalink(data, state, elements, blocks, ops, stack)
        state[LINK_LEVEL] = 0
    if kind & (TABLE_PART | BARRIER) and tag != _BUTTON:
        if tag == _TABLE or not kind & TABLE_PART:
            level = _level_of_barrier(tag, state, elements, stack, opened)
        else:
            level = _level_in_table(tag, tag, state, elements, stack, opened)
    elif kind & HEADING:
        level = _level_of_heading(state, elements, stack, kinds)
    elif kind & BLOCK:
        level = _level_of(tag, state, elements, stack, opened, kinds)
    elif opened[tag]:
        level = state[TOP]
        lowest = max(0, level - _INLINE_SEARCH)
        while level > lowest and _tag(level, elements, stack) != tag:
            state[STEPS] += 1
            level = lowest if kinds[_tag(level, elements, stack)] & FIRM else level - 1
        if level == lowest:
            level = 0
    if level:
        _pop_to(level, state, elements, blocks, ops, stack, opened, kinds)
    elif kind & BLOCK:
        _boundary(GAP if kind & SPACED else LINE, state, blocks)


@inner
def _level_of_barrier(tag, state, elements, stack, opened):  # type: ignore[no-untyped-def]
    level = state[TOP] if opened[tag] else 0
    while level > 0 and _tag(level, elements, stack) != tag:
        state[STEPS] += 1
        level -= 1
    return level


@inner
def _level_of_heading(state, elements, stack, kinds):  # type: ignore[no-untyped-def]
    level = state[TOP]
    while level > 0 and not kinds[_tag(level, elements, stack)] & HEADING:
        state[STEPS] += 1
        if kinds[_tag(level, elements, stack)] & BARRIER:
            return 0
        level -= 1
    return level


@inner
def _drop_permalink(data, state, elements, blocks, ops, stack):  # type: ignore[no-untyped-def]
    """Take back the sign (¶ § # or a chain) of a link to the place where it stands."""
    op = state[OPS] - 1
    if state[LINK_LEVEL] == 0 or state[LINK_OP] != op or state[OPEN_BLOCK] < 0 or op <= blocks[state[OPEN_BLOCK], OP0]:
        return
    first, last = ops[op, OP_FIRST], ops[op, OP_LAST]
    while first < last and _is_space(data[first]):
        first += 1
    while first < last and _is_space(data[last - 1]):
        last -= 1
    size, byte = last - first, data[first] if first < last else np.uint8(0)
    if (
        (size == 1 and byte == 35)
        or (size == 2 and byte == 0xC2 and (data[first + 1] == 0xB6 or data[first + 1] == 0xA7))
        or (size == 4 and byte == 0xF0 and data[first + 2] == 0x94 and data[first + 3] == 0x97)
        or (6 <= size <= 7 and byte == 38 and data[last - 1] == 59)
    ):  # fmt: skip
        state[OPS] = op


@inner
def _text(data, kind, first, last, state, elements, blocks, ops, stack):  # type: ignore[no-untyped-def]
    element = stack[state[TOP], S_ELEMENT]
    flags = elements[element, FLAGS]
    if flags & IN_TEX:
        if state[TEX0] == state[TEX1]:
            state[TEX0], state[TEX1] = first, last
        return
    if flags & NO_TEXT:
        return
    visible = not elements[stack[state[TOP], S_FIRM], FLAGS] & HIDDEN
    if flags & HIDDEN and visible:  # a hidden part of a line that is seen
        return
    if state[OPEN_BLOCK] < 0 or flags & IN_MATH:
        place = first
        while place < last and _is_space(data[place]):
            place += 1
        if place == last and not (flags & PRE and not flags & IN_MATH):
            return
    if state[OPEN_BLOCK] < 0:
        _start_block(state, elements, blocks, stack)
    _op(WRITE if kind == TEXT else WRITE_AS_IS, first, last, state, ops)


@inner
def _raw_text(data, tag, first, last, words, state, elements, blocks, ops, stack):  # type: ignore[no-untyped-def]
    if tag == _TITLE:
        if state[TITLE1] == 0:
            state[TITLE0], state[TITLE1] = first, last
    elif tag == _SCRIPT and state[SCRIPT_TEX]:
        if state[OPEN_BLOCK] < 0:
            _start_block(state, elements, blocks, stack)
        _op(FORMULA_AS_IS, first, last, state, ops)
    elif tag == _SCRIPT and state[SCRIPT_DATA]:
        _linked_types(data, first, last, state, words)


@kernel
def build(  # type: ignore[no-untyped-def]
    data, xml, token_kinds, token_ranges, count, kinds, own, t, state, stack, opened, elements, blocks, ops, words, rows
):
    """Fill `elements`, `blocks`, `ops`, `words` and `rows`; how many there are stands in `state`."""
    state[:] = 0
    opened[:] = 0
    state[OPEN_BLOCK] = -1
    elements[0] = 0
    stack[0] = 0
    state[ELEMENTS] = 1
    for token in range(count):
        kind, tag = token_kinds[token, 0], token_kinds[token, 1]
        first, last = token_ranges[token, 0], token_ranges[token, 1]
        if kind in (TEXT, VERBATIM):
            if tag and tag != _XMP and tag != _PLAINTEXT:
                _raw_text(data, tag, first, last, words, state, elements, blocks, ops, stack)
            else:
                _text(data, kind, first, last, state, elements, blocks, ops, stack)
        elif kind == CLOSE:
            _end_tag(data, tag, state, elements, blocks, ops, stack, opened, kinds)
        else:
            closed = kind == CLOSED and (xml or elements[stack[state[TOP], S_ELEMENT], FLAGS] & FOREIGN != 0)
            _start_tag(
                data, tag, first, last, closed, state, elements, blocks, ops, words, stack, opened, rows, kinds, own, t
            )
    _pop_to(1, state, elements, blocks, ops, stack, opened, kinds)
    _end_block(state, blocks)
    elements[0, LAST] = state[BLOCKS]
