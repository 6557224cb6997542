"""Where two near-duplicates differ: the places that changed, with a few words around them.

Compared are words, and single characters of scripts written without blanks. `difflib` alone takes minutes on a long
page, so the texts are first tied together at runs of words that stand once in each (the idea of Bram Cohen's patience
diff); `difflib` sees only what lies between two such ties, and not even that where it is too long.
"""

import bisect
import difflib
import re
from collections.abc import Iterator

LONGEST = 400_000
"""Characters of each text that are compared; the rest is told of, not looked at."""

PLACES = 30
"""Places told."""

_RUNS = (4, 16)  # words in a row that tie the texts together; longer ones where the shorter leave too much between
_BLOCK = 250_000  # words of one side times words of the other that difflib is given: some tenths of a second
_SHOWN = 160  # characters of one change
_AROUND = {True: 16, False: 40}  # characters of context, by whether the script goes without blanks

_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uf900-\ufaff\U0001b000-\U0001b16f\U00020000-\U000323af"
)
_HAS_UNSPACED = re.compile(f"[{_UNSPACED}]")
_WORD = re.compile(rf"[{_UNSPACED}]|\s+|[^\W{_UNSPACED}]+|\W")

Change = tuple[str, str]
"""What it is ("" in both, "-" in the kept text only, "+" in the dropped one only) and the text."""


def places(kept: str, dropped: str) -> list[list[Change]]:
    """The places where `dropped` differs from `kept`, in order, each a line with its surroundings."""
    if kept == dropped:
        return [[("", "(the texts are equal)")]]
    changes = list(_changes(_WORD.findall(kept[:LONGEST]), _WORD.findall(dropped[:LONGEST])))
    found = list(_lines(changes))
    told = found[:PLACES]
    if len(found) > PLACES:
        told.append([("", f"(and {len(found) - PLACES:,} more places)")])
    if max(len(kept), len(dropped)) > LONGEST:
        told.append([("", f"(the first {LONGEST:,} characters of each were compared)")])
    return told or [[("", "(no difference in what was compared)")]]


def _changes(kept: list[str], dropped: list[str], runs: tuple[int, ...] = _RUNS) -> Iterator[Change]:
    """The whole of both texts as equal, removed and added stretches."""
    if len(kept) * len(dropped) <= _BLOCK:
        yield from _exactly(kept, dropped)
        return
    if not runs:
        yield from (("-", "".join(kept)), ("+", "".join(dropped)))
        return
    here = there = 0
    for left, right in _ties(kept, dropped, runs[0]):
        yield from _changes(kept[here:left], dropped[there:right], runs[1:])
        yield "", kept[left]
        here, there = left + 1, right + 1
    yield from _changes(kept[here:], dropped[there:], runs[1:])


def _exactly(kept: list[str], dropped: list[str]) -> Iterator[Change]:
    for kind, a, b, c, d in difflib.SequenceMatcher(None, kept, dropped, autojunk=False).get_opcodes():
        if kind == "equal":
            yield "", "".join(kept[a:b])
        else:
            yield "-", "".join(kept[a:b])
            yield "+", "".join(dropped[c:d])


def _ties(kept: list[str], dropped: list[str], run: int) -> list[tuple[int, int]]:
    """Places of words that tie the texts together, ascending in both: the longest such row of unique runs."""
    sides = [_unique(words, run) for words in (kept, dropped)]
    pairs = sorted((left, sides[1][words]) for words, left in sides[0].items() if words in sides[1])
    tails: list[int] = []  # the smallest right place that ends an ascending row of each length, and which pair that is
    ends: list[int] = []
    before: list[int] = []
    for number, (_, right) in enumerate(pairs):
        length = bisect.bisect_left(tails, right)
        before.append(ends[length - 1] if length else -1)
        tails[length : length + 1], ends[length : length + 1] = [right], [number]
    chosen = []
    number = ends[-1] if ends else -1
    while number >= 0:
        chosen.append(pairs[number])
        number = before[number]
    return chosen[::-1]


def _unique(words: list[str], length: int) -> dict[tuple[str, ...], int]:
    """The runs of so many words that stand once, with their places."""
    seen: dict[tuple[str, ...], int] = {}
    for place in range(len(words) - length + 1):
        run = tuple(words[place : place + length])
        seen[run] = -1 if run in seen else place
    return {run: place for run, place in seen.items() if place >= 0}


def _lines(changes: list[Change]) -> Iterator[list[Change]]:
    """The changes cut where enough lies unchanged between two of them, each change with what stands around it."""
    line: list[Change] = []
    for sign, text in _joined(changes):
        around = _AROUND[bool(_HAS_UNSPACED.search(text[:200]))]
        if sign:
            line.append((sign, _shortened(text)))
        elif len(text) <= 2 * around and (line or len(text) <= around):
            line.append((sign, _flat(text)))
        else:
            if any(sign for sign, _ in line):
                yield [*line, ("", f"{_head(text, around)} ...")]
            line = [("", f"... {_tail(text, around)}")]
    if any(sign for sign, _ in line):
        yield line


def _head(text: str, length: int) -> str:
    """The beginning of a text, to the end of a word where words are written apart."""
    cut = _flat(text)[:length]
    return cut[: cut.rfind(" ")] if " " in cut[1:] and not _HAS_UNSPACED.search(cut) else cut


def _tail(text: str, length: int) -> str:
    """The end of a text, from the beginning of a word where words are written apart."""
    cut = _flat(text)[-length:]
    return cut[cut.find(" ") + 1 :] if " " in cut[:-1] and not _HAS_UNSPACED.search(cut) else cut


def _joined(changes: list[Change]) -> Iterator[Change]:
    """Neighbours of one kind in one, a lone blank or sign between two changes taken into both."""
    waiting = {"-": "", "+": ""}
    equal = ""
    for sign, text in changes:
        if not sign:
            equal += text
            continue
        if not text:
            continue
        changed = waiting["-"] or waiting["+"]
        if equal and changed and not equal.strip():
            waiting = {side: words + equal for side, words in waiting.items()}
        elif equal:
            yield from ((side, words) for side, words in waiting.items() if words)
            waiting = {"-": "", "+": ""}
            yield "", equal
        equal = ""
        waiting[sign] += text
    yield from ((side, words) for side, words in waiting.items() if words)
    if equal:
        yield "", equal


def _shortened(text: str) -> str:
    text = _flat(text)
    half = _SHOWN // 2
    if len(text) <= _SHOWN:
        return text
    return f"{text[:half]} [... {len(text) - 2 * half:,} more characters ...] {text[-half:]}"


def _flat(text: str) -> str:
    """The text on one line, with line breaks visible."""
    return re.sub(r"[^\S\n]+", " ", text).replace("\n", "\u23ce")
