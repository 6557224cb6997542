"""Cuts WARC and ARC files into records, whatever state they are in.

A record says how long its block is, and some say it wrongly. So a length is believed only where it leads to the end of
a record: to line ends and the next record, the next compressed member, or the end of the file. Where it does not, the
block ends where the next record starts. A wrong length then costs at most its own record.

What cannot be read is a `Lost`. Reading goes on at the next record, or, behind a damaged compressed member, at the next
member that holds a record.
"""

import re
from collections import deque
from collections.abc import Collection, Iterator
from typing import BinaryIO, NamedTuple

from stages.readers.compression import Damaged, Stream

_WINDOW = 1 << 20  # bytes searched at a time for the next member
_OVERLAP = 1 << 13  # bytes of a window searched again with the next one: longer than the start of any record
_HEADER_LIMIT = 1 << 20  # bytes; what is longer is no header
_BEHIND = 16  # bytes looked at behind a block: line ends and the start of the next record
_FOLD = re.compile(r"\r*\n[ \t]+")
_BLANK = re.compile(rb"\n\r{0,2}\n")
_WARC = rb"WARC/[01]\.\d{1,2}[ \t]*\r{0,2}\n(?i:warc-[a-z-]{2,40}|content-[a-z-]{2,20})[ \t]*:"
_ARC = (  # behind the address; ARC 1 and 2: http://archive.org/web/researcher/ArcFileFormat.php
    rb" (?P<ip>[0-9.]{7,15}|[0-9A-Fa-f:]{2,39}) (?P<date>\d{8,18}) "
    rb"(?P<mime>[^\x00-\x20]{1,99}(?:; ?[^\x00-\x20]{1,99})?) "
    rb"(?:\S{1,99} \S{1,99} \S{1,2000} \d{1,15} \S{1,999} )?(?P<length>[^\x00-\x20]{1,30})\r{0,2}\n"
)
_ARC_HEADER = re.compile(rb"(?P<url>[A-Za-z][A-Za-z0-9+.-]{1,20}:[^\x00-\x1f]{0,4000}?)" + _ARC)
_ARC_ANYWHERE = rb"(?:(?m:^)[a-z]{2,9}|https?|ftp|dns):[^\x00-\x20]{1,4000}" + re.sub(rb"P<[a-z]+>", b":", _ARC)
_NEXT = {"warc": re.compile(_WARC), "arc": re.compile(_ARC_ANYWHERE)}
_EITHER = re.compile(_WARC + b"|" + _ARC_ANYWHERE)
_LINE_ENDS = re.compile(rb"[\r\n]*")
_CLOSED = {"warc": re.compile(rb"\r{0,2}\n\r{0,2}\n"), "arc": re.compile(rb"\r{0,2}\n")}
_TRAILER = {"warc": re.compile(rb"\r{0,2}\n\r{0,2}\n\Z"), "arc": re.compile(rb"\r{0,2}\n\Z")}
_MAGIC = {"gzip": rb"\x1f\x8b\x08", "zstd": rb"\x28\xb5\x2f\xfd", "lz4": rb"\x04\x22\x4d\x18"}
_MEMBER = {kind: re.compile(magic) for kind, magic in _MAGIC.items()}
_ANY = re.compile(b"|".join([*_MAGIC.values(), _WARC, _ARC_ANYWHERE]))


class Record(NamedTuple):
    """A record of the file: its header and its block."""

    start: tuple[int, int]  # byte of the file where its member starts, and how far into the member's plain bytes it is
    fields: dict[str, str]  # the header; names in lower case
    size: int  # bytes of the block
    block: bytes  # only the start of a block that is longer than asked for; b"" where it is not asked for


class Lost(NamedTuple):
    """A stretch of the file that cannot be read."""

    start: tuple[int, int]
    size: int  # bytes of the file; of the plain bytes where it starts inside a compressed member
    truncated: bool  # the file ends too early


class _Gap(NamedTuple):
    """Where a stream breaks off: lost from byte `start` of the file; it may be readable again behind byte `after`."""

    start: int
    after: int
    truncated: bool


class _Block(NamedTuple):
    end: int
    after: int  # where the next record may start
    whole: bool


class _WrongLength(Exception):
    """A length of more than was held is wrong: its record has to be read once more."""


def records(path: str, hold: int, wanted: Collection[str]) -> Iterator[Record | Lost]:
    """The records of a file, and the stretches between them that cannot be read.

    Blocks of up to `hold` bytes are given whole, of records whose type (`warc-type`, in lower case) is `wanted`.
    """
    start: int | None = 0
    skip, believing = 0, True
    while start is not None:
        with Stream(path, start) as stream:
            cutter = _Cutter(stream, hold, wanted, skip, believing)
            try:
                yield from cutter.records()
            except _WrongLength:
                (start, skip), believing = cutter.last, False
                continue
        skip = 0
        if cutter.gap is None:
            return
        gap = cutter.gap
        start = gap.after if _goes_on(path, gap.after, stream.kind) else _resync(path, stream.kind, gap.after)
        end = stream.size if start is None else start
        if end > gap.start or start is None:
            yield Lost((gap.start, 0), end - gap.start, gap.truncated and start is None)


class _Cutter:
    """The records of one stream. `gap` says afterwards where it breaks off; None where it is read to its end.

    All places are counted in the plain bytes of the stream.
    """

    def __init__(self, stream: Stream, hold: int, wanted: Collection[str], skip: int, believing: bool) -> None:
        self.gap: _Gap | None = None
        self.last: tuple[int, int] = (-1, 0)  # where the latest record starts
        self._stream, self._hold, self._wanted, self._believing = stream, hold, wanted, believing
        self._format = ""
        self._buffer = bytearray()
        self._base = 0  # place of the buffer's first byte
        self._borders: deque[int] = deque()  # places where members start
        self._damage: Damaged | None = None
        self._ended = False
        self._first = b""  # what a block starts with that is too long to be held
        while skip > self._reach() and self._more():
            self._forget(min(skip, self._reach()))
        self._forget(min(skip, self._reach()))

    def records(self) -> Iterator[Record | Lost]:
        """Raises `_WrongLength` where the record at `last` has to be read again by a cutter that is not `believing`."""
        while self._skip_line_ends():
            start = self._base
            header = self._header(start)
            if header is None:
                yield from self._garbage(start)
                if self.gap:
                    return
                continue
            fields, body = header
            self.last = self._stream.locate(start)
            self._first = b""
            block = self._block(start, body, _length(fields))
            if self._damage and not self._sound(self._damage, block):
                break
            if block.whole:
                yield Record(self.last, fields, block.end - body, self._content(fields, body, block.end))
            else:
                yield self._lost(self.last, start, block.after)
            self._forget(block.after)
        if self._damage:
            self.gap = self._broken(self._damage)

    # what is in the buffer

    def _reach(self) -> int:
        return self._base + len(self._buffer)

    def _forget(self, until: int) -> None:
        del self._buffer[: until - self._base]
        self._base = until
        while self._borders and self._borders[0] < until:
            self._borders.popleft()

    def _more(self) -> bool:
        """Read on; False where the stream ends or breaks off."""
        if self._ended:
            return False
        try:
            data = self._stream.read()
        except Damaged as damage:
            self._damage = damage
            data = b""
        if self._stream.kind and data and self._stream.member() == self._reach():
            self._borders.append(self._reach())
        self._buffer += data
        self._ended = not data
        return not self._ended

    def _fill(self, until: int) -> None:
        while self._reach() < until and self._more():
            pass

    def _skip_line_ends(self) -> bool:
        """Go on to the next byte that is no line end; False where there is none."""
        while True:
            line_ends = _LINE_ENDS.match(self._buffer)
            self._forget(self._base + (line_ends.end() if line_ends else 0))
            if self._buffer or not self._more():
                return bool(self._buffer)

    # where a record starts

    def _starts_record(self, position: int) -> bool:
        """Whether a record starts here, of the format of the record before."""
        self._fill(position + (_BEHIND if self._format == "warc" else _OVERLAP))
        at = position - self._base
        if self._buffer.startswith(b"WARC/", at):
            return True
        return self._format != "warc" and _ARC_HEADER.match(self._buffer, at) is not None

    def _border(self, start: int) -> int | None:
        """The first member behind `start` that starts with a record, among those read so far."""
        while self._borders:
            if self._borders[0] > start and self._starts_record(self._borders[0]):
                return self._borders[0]
            self._borders.popleft()
        return None

    def _search(self, start: int) -> int | None:
        """The first place from `start` on, among the bytes read so far, that looks like the start of a record."""
        match = _NEXT[self._format].search(self._buffer, max(0, start - self._base))
        return self._base + match.start() if match else None

    def _header(self, start: int) -> tuple[dict[str, str], int] | None:
        """The header of the record at `start` and where its block starts; None where there is no record."""
        self._fill(start + _BEHIND)
        if not self._buffer.startswith(b"WARC/"):
            return self._arc_header(start)
        self._format = "warc"
        scanned = 1
        while not (blank := _BLANK.search(self._buffer, scanned, scanned + _OVERLAP)):
            if scanned > _HEADER_LIMIT or self._another_starts(scanned + _OVERLAP):
                return None
            if scanned + _OVERLAP <= len(self._buffer):
                scanned += _OVERLAP - 3
            elif not self._more():
                return None
        stop, body = blank.start(), blank.end()
        border = self._border(start)
        if self._another_starts(body) or (border is not None and border < start + body):
            return None
        fields = header_fields(self._buffer[:stop].decode("utf-8", "replace"))
        known = "content-length" in fields or "warc-type" in fields or "warc-record-id" in fields
        return (fields, start + body) if known else None

    def _another_starts(self, stop: int) -> bool:
        """Whether the header at the start of the buffer breaks off, and another record follows before `stop`."""
        return self._buffer.find(b"WARC/", 1, stop) > 0 and bool(_NEXT["warc"].search(self._buffer, 1, stop + _BEHIND))

    def _arc_header(self, start: int) -> tuple[dict[str, str], int] | None:
        self._fill(start + _OVERLAP)
        line = _ARC_HEADER.match(self._buffer)
        if not line or (b" " in line["url"] and _NEXT["arc"].search(self._buffer, 1, line.end())):
            return None  # or one that breaks off, and another record follows
        self._format = "arc"
        names = ("url", "ip", "date", "mime", "length")
        url, address, date, mime, length = (line[name].decode("utf-8", "replace") for name in names)
        date = date.ljust(14, "0")
        day = f"{date[:4]}-{date[4:6]}-{date[6:8]}T{date[8:10]}:{date[10:12]}:{date[12:14]}Z"
        return {
            "warc-type": "warcinfo" if url.lower().startswith("filedesc:") else "response",
            "warc-target-uri": url,
            "warc-date": day,
            "warc-ip-address": address,
            "content-type": mime,
            "content-length": length,
        }, start + line.end()

    # where a block ends

    def _block(self, start: int, body: int, length: int | None) -> _Block:
        """Where the block at `body` really ends. Raises `_WrongLength`."""
        end = None if length is None or self._beyond_file(body + length) else body + length
        scanned, other = body, None
        while True:
            border = self._border(start)
            if border is not None and (end is None or border < end):
                return self._cut(body, border, length)
            if end is not None and (self._ended or self._reach() >= end + _BEHIND):
                if self._ends_at(end, body, other):
                    return _Block(end, end, whole=True)
                if other is not None and other < self._base:
                    raise _WrongLength
                end = None
            if end is None or self._reach() - body > self._hold:
                other = self._search(scanned) if other is None else other
                if other is not None and (end is None or not self._believing):
                    return self._cut(body, other, length)
                scanned = max(body, self._reach() - _OVERLAP)
            if end is None and self._ended:
                return self._cut(body, self._reach(), length)
            if self._reach() - body > self._hold:
                self._let_go(body, scanned)
            self._more()

    def _beyond_file(self, end: int) -> bool:
        return self._stream.kind is None and self._stream.locate(end)[0] > self._stream.size

    def _ends_at(self, end: int, body: int, other: int | None) -> bool:
        """Whether the block ends here, by what follows: the line ends of a record, and another record or nothing.

        Where only one of the two follows, the next record may be damaged, or the length wrong: it is right if no record
        starts inside the block.
        """
        if self._reach() < end:
            return False
        at = end - self._base
        behind = bytes(self._buffer[at : at + _BEHIND])
        rest = behind.lstrip(b"\r\n")
        new_line = rest != behind or self._buffer[at - 1 : at] == b"\n" or end in self._borders
        followed = not rest or (new_line and self._starts_record(end + len(behind) - len(rest)))
        closed = _CLOSED[self._format].match(behind) is not None
        if followed and closed:
            return True
        inside = other is not None or _NEXT[self._format].search(self._buffer, max(0, body - self._base), at + _BEHIND)
        return (followed or closed) and not inside

    def _cut(self, body: int, stop: int, length: int | None) -> _Block:
        """The block of a record with a wrong length: it ends where the next record starts, at `stop`.

        It is whole if it ends as records do, or if its member ends there and no length says otherwise.
        """
        tail = self._buffer[max(body, stop - 6) - self._base : stop - self._base]
        trailer = _TRAILER[self._format].search(tail)
        end = stop - (len(tail) - trailer.start() if trailer else 0)
        breaks_off = self._damage.start == self.last[0] if self._damage else self._stream.kind is None
        if breaks_off and self._ended and stop == self._reach():
            whole = trailer is not None and (length is None or body + length <= stop)
        else:
            whole = trailer is not None or (length is None and self._stream.kind is not None)
        return _Block(end, stop, whole)

    def _let_go(self, body: int, until: int) -> None:
        """Forget what is too long to be held, but for its start."""
        if not self._first:
            self._first = bytes(self._buffer[body - self._base :][:_WINDOW])
        self._forget(max(self._base, until))

    def _content(self, fields: dict[str, str], body: int, end: int) -> bytes:
        if fields.get("warc-type", "").lower() not in self._wanted:
            return b""
        return self._first or bytes(memoryview(self._buffer)[body - self._base : end - self._base])

    # what is lost

    def _garbage(self, start: int) -> Iterator[Lost]:
        """Step over what is no record, to the next one in the stream.

        Sets `gap` where the bytes are not compressed and a compressed member may follow: its file's start is damaged.
        """
        origin = self._stream.locate(start)
        pattern = _EITHER if self._stream.kind else _ANY
        scanned = start + (1 if _EITHER.match(self._buffer) else 0)
        while True:
            match = pattern.search(self._buffer, scanned - self._base)
            border = self._border(start)
            starts = [self._base + match.start()] if match else []
            starts += [border] if border is not None else []
            if starts or not self._more():
                break
            scanned = max(scanned, self._reach() - _OVERLAP)
            self._forget(max(self._base, scanned - 1))
        stop = min(starts, default=self._reach())
        if match and not self._stream.kind and not _EITHER.match(self._buffer, match.start()):
            self.gap = _Gap(origin[0], self._stream.locate(stop)[0] - 1, truncated=False)
        elif starts or not self._damage or origin[0] != self._damage.start:
            yield self._lost(origin, start, stop)._replace(truncated=False)
        self._forget(stop)

    def _lost(self, origin: tuple[int, int], start: int, stop: int) -> Lost:
        """The stretch between two places of the stream; `origin` is where it starts in the file."""
        at_end = self._ended and stop == self._reach()
        member = self._stream.size if at_end and not self._damage else self._stream.locate(stop)[0]
        size = member - origin[0] if origin[1] == 0 and member != origin[0] else stop - start
        return Lost(origin, size, truncated=at_end and self._stream.kind is None)

    def _sound(self, damage: Damaged, block: _Block) -> bool:
        """Whether the latest record is good although the stream breaks off behind it or in it.

        It is if its member ends before the damage, if another record follows it before the damage, or if the file is
        one long member that was good up to its end.
        """
        if self.last[0] != damage.start:
            return True
        behind = _LINE_ENDS.match(self._buffer, block.after - self._base)
        if behind and self._starts_record(self._base + behind.end()):
            return True
        return block.whole and self.last[1] > 0 and damage.truncated

    def _broken(self, damage: Damaged) -> _Gap:
        inside = self.last[0] == damage.start and self.last[1] > 0
        return _Gap(damage.at if inside else damage.start, damage.start, damage.truncated)


def header_fields(head: str) -> dict[str, str]:
    """The fields of a header, without its first line: names in lower case; of several of a name, the first."""
    fields: dict[str, str] = {}
    if "\n " in head or "\n\t" in head:
        head = _FOLD.sub(" ", head)
    for line in head.split("\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip().lower(), value.strip(" \t\r"))
    return fields


def _length(fields: dict[str, str]) -> int | None:
    """What the header says of the block's length in bytes; None where that is no number."""
    value = fields.get("content-length", "")
    return int(value) if value.isascii() and value.isdigit() and len(value) < 16 else None


def _resync(path: str, kind: str | None, after: int) -> int | None:
    """The first place behind byte `after` of the file where a member or record starts; None where there is none."""
    pattern = _MEMBER.get(kind, _ANY) if kind else _ANY
    with open(path, "rb") as file:
        offset = after
        file.seek(offset)
        window = file.read(_WINDOW)
        while window:
            for match in pattern.finditer(window):
                candidate = offset + match.start()
                if candidate > after and (_EITHER.match(window, match.start()) or _readable(path, candidate)):
                    return candidate
            offset, window = _slide(file, offset, window)
    return None


def _goes_on(path: str, offset: int, kind: str | None) -> bool:
    """Whether a record starts here that is compressed otherwise than `kind`: files are put together of both."""
    with Stream(path, offset) as stream:
        head, _ = stream.head(_OVERLAP)
    return kind is not None and stream.kind != kind and _EITHER.match(head) is not None


def _slide(file: BinaryIO, offset: int, window: bytes) -> tuple[int, bytes]:
    """The next window of the file and its offset. It overlaps the one before: a candidate may lie across the edge."""
    more = file.read(_WINDOW)
    kept = window[-_OVERLAP:] if more else b""
    return offset + len(window) - len(kept), kept + more


def _readable(path: str, offset: int) -> bool:
    """Whether a record starts in the first plain bytes from here on."""
    with Stream(path, offset) as stream:
        head, _ = stream.head(_WINDOW >> 2)
    return head.startswith(b"WARC/") or _EITHER.search(head) is not None
