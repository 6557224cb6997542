"""The text of a stream in chunks, in the charset that its first bytes are in.

For formats that are text from start to end and too big to be decoded whole (CSV, JSON). Bytes that are wrong in that
charset become lone surrogates, by which a reader knows the records they are in.
"""

import codecs
import re
import unicodedata
from collections.abc import Iterator

from stages.readers.charset import decode, python_codec
from stages.readers.compression import Stream

_SAMPLE = 1 << 18  # bytes that the charset is judged by
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32le"),
    (codecs.BOM_UTF32_BE, "utf-32be"),
    (codecs.BOM_UTF16_LE, "utf-16le"),
    (codecs.BOM_UTF16_BE, "utf-16be"),
)
_JUDGED = 1000  # characters
_CONTROLS = frozenset(map(chr, range(0x20))) - frozenset("\t\n\r\f")
_CODECS = {"utf-32le": "utf-32-le", "utf-32be": "utf-32-be"}
_ASCII_PAIR = (  # the first two characters, both of ASCII, as JSON and most header lines begin
    (re.compile(rb"[\t\n\r\x20-\x7e]\0\0\0[\t\n\r\x20-\x7e]\0\0\0"), "utf-32le"),
    (re.compile(rb"\0\0\0[\t\n\r\x20-\x7e]\0\0\0[\t\n\r\x20-\x7e]"), "utf-32be"),
    (re.compile(rb"[\t\n\r\x20-\x7e]\0[\t\n\r\x20-\x7e]\0"), "utf-16le"),
    (re.compile(rb"\0[\t\n\r\x20-\x7e]\0[\t\n\r\x20-\x7e]"), "utf-16be"),
)
SURROGATE = re.compile("[\ud800-\udfff]")


def mark(head: bytes) -> bytes:
    """The byte order mark that `head` starts with, empty for none."""
    return next((mark for mark, _ in _MARKS if head.startswith(mark)), b"")


def wide(head: bytes) -> str | None:
    """utf-16le, utf-16be, utf-32le or utf-32be for a text that starts with `head`; None for all others.

    Told by the byte order mark; without one, by the NULs of ASCII characters.
    """
    for bom, name in _MARKS:
        if head.startswith(bom):
            return name if name != "utf-8" else None
    named = next((name for pattern, name in _ASCII_PAIR if pattern.match(head)), None)
    if named:
        return named
    if head.count(0) < max(8, len(head) // 40):  # of Chinese text, every twentieth character
        return None
    return next((name for name in ("utf-16le", "utf-16be") if _is_text(head.decode(_codec(name), "ignore"))), None)


def _is_text(text: str) -> bool:
    """Whether this is text with line ends: in the wrong byte order they are characters that do not exist."""
    start = text[:_JUDGED]
    return "\n" in start and not any(unicodedata.category(char) == "Cn" or char in _CONTROLS for char in start)


def narrowed(head: bytes) -> bytes:
    """`head` in UTF-8 if it is in UTF-16 or UTF-32, otherwise as it is."""
    name = wide(head)
    return head.removeprefix(mark(head)).decode(_codec(name), "ignore").encode() if name else head


class TextStream:
    """The chunks of a stream as text; `charset` is the WHATWG name of what they were decoded from."""

    def __init__(self, stream: Stream, sample: int = _SAMPLE) -> None:
        self._stream = stream
        self._sample, self._damage = stream.head(sample)
        self.charset = wide(self._sample) or _charset(self._sample)

    def __iter__(self) -> Iterator[str]:
        """Raises `Damaged` once all before it was given."""
        decoder = codecs.getincrementaldecoder(_codec(self.charset))(
            "replace" if self.charset.startswith(("utf-16", "utf-32")) else "surrogateescape"
        )
        yield decoder.decode(self._sample.removeprefix(mark(self._sample)))
        if self._damage:
            raise self._damage
        while chunk := self._stream.read():
            yield decoder.decode(chunk)
        yield decoder.decode(b"", final=True)


def _codec(name: str) -> str:
    return _CODECS.get(name) or python_codec(name)


def _charset(sample: bytes) -> str:
    """Judged up to the last line end or quotation mark: behind it a character may be cut."""
    whole = sample[: max(sample.rfind(b"\n"), sample.rfind(b'"')) + 1] or sample
    decoded = decode(whole.replace(b"\0", b""))
    return decoded[1] if decoded else "utf-8"  # then its bad records are counted one by one
