"""Names of HTML: what each element is, found by a hash of its name in any case.

`TAG[name]` is the number of an element; `KINDS[number]` its properties as bits. Element 0 is any unknown one.
"""

import numpy as np

from stages.kernels import inlined

BLOCK, VOID, RAW, SKIP, CLOSES_P, BARRIER, TABLE_PART, HEADING, FIRM, SPACED = (1 << bit for bit in range(10))
"""BLOCK starts a new line. VOID has no content. RAW holds no markup. SKIP holds no text of the page. CLOSES_P ends an
open paragraph. BARRIER: end tags do not reach beyond it. TABLE_PART: rows, cells and what groups them. FIRM: ends the
search of an inline end tag. SPACED: stands a blank line apart."""

_BLOCKS = """
    address article aside blockquote body caption center col colgroup dd details dialog dir div dl dt fieldset
    figcaption figure footer form frameset h1 h2 h3 h4 h5 h6 header hgroup hr legend li listing main menu nav noscript
    ol optgroup option p plaintext pre search section summary table tbody td tfoot th thead tr ul xmp button
"""
_INLINE = """
    a abbr acronym b bdi bdo big cite code data del dfn em font i ins kbd label mark nobr output q s samp small span
    strike strong sub sup time tt u var ruby rb rt rtc rp math annotation annotation-xml semantics mfrac msup msub
    msubsup mover munder munderover msqrt mroot mrow mi mn mo mtext mtable mtr mtd mstyle foreignobject desc progress
    meter slot picture mjx-container html head title template select textarea script style iframe noembed noframes svg
    video audio canvas object datalist map
"""
_VOID = "area base basefont bgsound br col embed frame hr img input keygen link meta param source track wbr"
_RAW = "script style textarea title xmp iframe noembed noframes plaintext"
_SKIP = """
    script style textarea title iframe noembed noframes svg video audio canvas select datalist template rt rp rtc
    mjx-container progress meter desc object
"""
_CLOSES_P = """
    address article aside blockquote center details dialog dir div dl fieldset figcaption figure footer form h1 h2 h3 h4
    h5 h6 header hgroup hr listing main menu nav ol p plaintext pre search section summary table ul xmp li dd dt
"""
_BARRIER = "html table td th caption template object marquee applet svg select video audio canvas datalist button"
_SPACED = """
    address article aside blockquote details dialog dl fieldset figure footer form h1 h2 h3 h4 h5 h6 header hgroup hr
    listing main menu nav ol p plaintext pre search section table ul xmp body
"""
_NAMES = tuple(dict.fromkeys(f"{_BLOCKS} {_INLINE} {_VOID} marquee applet".split()))

TAG: dict[str, int] = {name: number for number, name in enumerate(_NAMES, 1)}


def tags(names: str) -> tuple[int, ...]:
    """The numbers of elements."""
    return tuple(TAG[name] for name in names.split())


def _bits(names: str, bit: int) -> np.ndarray:
    column = np.zeros(len(TAG) + 1, np.int32)
    column[list(tags(names))] = bit
    return column


KINDS: np.ndarray = (
    _bits(_BLOCKS, BLOCK | FIRM)
    | _bits(_VOID, VOID)
    | _bits(_RAW, RAW)
    | _bits(_SKIP, SKIP)
    | _bits(_CLOSES_P, CLOSES_P)
    | _bits(_BARRIER, BARRIER | FIRM)
    | _bits(_SPACED, SPACED)
    | _bits("h1 h2 h3 h4 h5 h6", HEADING)
    | _bits("caption col colgroup tbody td tfoot th thead tr", TABLE_PART)
)

ATTRIBUTES = ("class", "id", "style", "hidden", "aria-hidden", "role", "itemprop", "href", "alt", "alttext", "encoding",
              "type", "rel", "start", "shadowrootmode", "itemtype", "property", "content")  # fmt: skip
"""Those that are read; their numbers count from 1."""

(CLASS, ID, STYLE, HIDDEN, ARIA_HIDDEN, ROLE, ITEMPROP, HREF, ALT, ALTTEXT, ENCODING, TYPE, REL, START,
 SHADOWROOT, ITEMTYPE, PROPERTY, CONTENT) = range(1, 19)  # fmt: skip

DROPPED, FORMULA = 1, 2
_RENDERINGS = """
    katex-html mathjax mathjax_preview mathjax_display mathjax_chtml mathjax_svg mathjax_mathml mjx-chtml mjx-math
    mw-editsection material-icons material-icons-outlined material-symbols-outlined material-symbols-rounded headerlink
"""
_FORMULAS = "tex math latex mathtex mwe-math-fallback-image-inline mwe-math-fallback-image-display"
CLASSES = dict.fromkeys(_RENDERINGS.split(), DROPPED) | dict.fromkeys(_FORMULAS.split(), FORMULA)
"""What a whole class name says: the text of the element is a rendering or a sign, or an image is a formula."""


def word_hash(word: bytes) -> int:
    """32-bit FNV-1a of lower-case ASCII."""
    state = 2166136261
    for byte in word:
        state = ((state ^ byte) * 16777619) & 0xFFFFFFFF
    return state


def _table(numbers: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Open addressing: keys uint32[1024], values uint8[1024]."""
    keys, values = np.zeros(1024, np.uint32), np.zeros(1024, np.uint8)
    for name, number in numbers.items():
        slot = word_hash(name.encode()) & 1023
        while values[slot]:
            slot = (slot + 1) & 1023
        keys[slot], values[slot] = word_hash(name.encode()), number
    return keys, values


TAG_KEYS, TAG_VALUES = _table(TAG)
CLASS_KEYS, CLASS_VALUES = _table(CLASSES)
ATTRIBUTE_KEYS, ATTRIBUTE_VALUES = _table({name: number for number, name in enumerate(ATTRIBUTES, 1)})


@inlined
def step(state, byte):  # type: ignore[no-untyped-def]
    """`word_hash` with one more byte, in lower case if it is an ASCII letter."""
    if 65 <= byte <= 90:
        byte |= 32
    return np.uint32((state ^ np.uint32(byte)) * np.uint32(16777619))


@inlined
def number_of(keys, values, state):  # type: ignore[no-untyped-def]
    """What the table holds for a hash, 0 for nothing."""
    slot = np.int64(state) & 1023
    while values[slot] and keys[slot] != state:
        slot = (slot + 1) & 1023
    return values[slot]
