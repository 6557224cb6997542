"""The values of a JSON text one after the other: a list of records, records over several lines, records in a row.

The file is never held whole: only the value that is being read, up to a limit. What is broken costs itself; reading
goes on at the next place where a record seems to start.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from stages.readers.textstream import SURROGATE

_BETWEEN = re.compile("[\\s,\\[\\]\x1e\ufeff]*")  # what may stand between records; \x1e begins one in RFC 7464
_START = re.compile(r'(?<!:)(?<!: )\{\s*"(?:[^"\\]|\\.){0,200}"\s*:')  # not the value of a field
_TAIL = 512  # characters kept while the next start is searched, in case it is cut
_NEAR = 16  # an error so close to the end may be a token that is cut
_PATIENCE = 64  # limits read in vain before the rest of a file is given up
_DECODER = json.JSONDecoder(strict=False)  # control characters in strings are wrong and frequent


class Value(NamedTuple):
    """One value; with a reason, one that could not be read."""

    content: Any
    size: int  # characters
    reason: str | None = None


def in_lines(head: bytes) -> bool:
    """Whether a JSON file that starts with `head` (UTF-8) has a record a line, as JSON Lines should."""
    first, *others = [line for line in head.lstrip(b"\xef\xbb\xbf \t\r\n").split(b"\n") if line.strip()] or [b""]
    if first.startswith(b"["):
        return False
    if not others:
        return not re.search(rb'\}\s*\{\s*"', first)
    try:
        json.loads(first)
        return True
    except (ValueError, RecursionError):
        second = others[0].lstrip()
        return second.startswith(b"{") or not second.startswith((b'"', b"}", b"]", b","))


def several(text: str) -> list[Any]:
    """All values of a short text. Raises `ValueError` or `RecursionError` where it is not JSON to its end."""
    found, at = [], 0
    while at < len(text):
        value, at = _DECODER.raw_decode(text, at)
        found.append(value)
        at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]
    return found


def values(chunks: Iterator[str], limit: int) -> Iterator[Value]:
    """The values of a text that comes in chunks; no more than about `limit` characters and a chunk are held."""
    reader = _Reader(chunks, limit)
    while reader.next_start():
        value = reader.value()
        yield value
        if value.reason == "corrupt":
            return


class _Reader:
    def __init__(self, chunks: Iterator[str], limit: int) -> None:
        self._chunks, self._limit = chunks, limit
        self._text, self._at = "", 0
        self._patience = _PATIENCE * max(limit, 1 << 16)

    def next_start(self) -> bool:
        """Go to the next value; False at the end."""
        while True:
            self._at = _BETWEEN.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text):
                return True
            if not self._more():
                return False

    def value(self) -> Value:
        while True:
            held = len(self._text) - self._at
            try:
                content, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                cut = error.pos >= len(self._text) - _NEAR or error.msg.startswith("Unterminated string")
                self._patience -= held if cut else error.pos - self._at
                if not cut or held > self._limit or not self._more(held):
                    return self._skipped()
            except RecursionError:
                return self._skipped()
            else:
                raw, self._at = (self._at, end), end
                if end - raw[0] > self._limit:
                    return Value(None, end - raw[0], "too_large")
                wrong = SURROGATE.search(self._text, *raw)
                return Value(content, end - raw[0], "undecodable" if wrong else None)

    def _more(self, at_least: int = 1) -> bool:
        """Read on, dropping what was used; False where there is no more."""
        parts, size = [self._text[self._at :]], 0
        for chunk in self._chunks:
            parts.append(chunk)
            size += len(chunk)
            if size >= at_least:
                break
        self._text, self._at = "".join(parts), 0
        return size > 0

    def _skipped(self) -> Value:
        """A value that cannot be read, up to where the next record seems to start."""
        if self._patience < 0:
            return Value(None, len(self._text) - self._at + sum(map(len, self._chunks)), "corrupt")
        large, size = len(self._text) - self._at > self._limit, 0
        start = _START.search(self._text, self._at + 1)
        reason = "too_large" if large and not start else "bad_json"
        while not start:
            keep = max(self._at, len(self._text) - _TAIL) + (size == 0 and len(self._text) - self._at <= _TAIL)
            size += keep - self._at
            self._at = keep
            if not self._more():
                size += len(self._text) - self._at
                self._at = len(self._text)
                return Value(None, size, reason)
            start = _START.search(self._text, self._at)
        size += start.start() - self._at
        self._at = start.start()
        return Value(None, size, reason)
