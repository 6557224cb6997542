"""Records in JSON: one a line (JSON Lines), or in a list or over several lines. A bad record costs itself."""

from collections.abc import Iterator
from typing import Any, AnyStr, NamedTuple

import orjson

from pipeline.stage import Piece
from stages.readers import jsonstream, paths
from stages.readers.charset import decode
from stages.readers.compression import Damaged, Stream
from stages.readers.rows import Fields, Row, broken_off, json_text, mime_of, text_of
from stages.readers.textstream import SURROGATE, TextStream, wide

_BLANK_RUN = 1024  # characters; a chunk of nothing but line ends is one line then, so that a bomb of them costs little


class Line(NamedTuple):
    """A line without its end; `content` is None where it is longer than the limit and was not kept."""

    offset: int
    content: Any
    size: int


def lines(chunks: Iterator[AnyStr], newline: AnyStr, offset: int, limit: int) -> Iterator[Line]:
    """The lines of a text that comes in chunks, never holding more than `limit` and a chunk of it.

    A long run of empty lines may come as one line, with line ends in it.
    """
    held: list[Any] = []
    size = 0
    for chunk in chunks:
        if len(chunk) >= _BLANK_RUN and not size and not chunk.strip(newline):
            yield Line(offset, chunk[1:], len(chunk) - 1)
            offset += len(chunk)
            continue
        *whole, rest = chunk.split(newline)
        for part in whole:
            held.append(part)
            size += len(part)
            yield Line(offset, newline[:0].join(held) if size <= limit else None, size)
            offset += size + 1
            held, size = [], 0
        size += len(rest)
        held = [*held, rest] if size <= limit else []
    if size:
        yield Line(offset, newline[:0].join(held) if size <= limit else None, size)


def read_jsonl(piece: Piece, fields: Fields) -> Iterator[Row]:
    """A row for each line that starts in the piece's byte range; lines of white space are no records.

    A line with several records gives a row for each, and so does each item of a list that `fields` names.
    """
    first = max(0, piece.start - 1)  # the byte before tells whether a line starts at `start`
    with Stream(piece.path, first, plain=piece.start > 0 or piece.stop >= 0) as stream:
        chunks, charset = _in_utf8(piece, stream)
        number, offset = 0, first
        try:
            for line in lines(chunks, b"\n", first, fields.limit):
                offset = line.offset + line.size + 1
                if line.offset < piece.start:
                    continue
                if 0 <= piece.stop <= line.offset:
                    return
                number += 1
                if line.content is None:
                    yield Row(line.offset, reason="too_large", value=line.size, limit=fields.limit)
                elif line.content.isspace():
                    number += line.content.count(b"\n")
                elif row := _simple(line, fields, charset):
                    yield row
                elif line.content:
                    for row in _from_line(line, fields, charset):
                        yield row._replace(value=number + _lines_before(piece)) if row.reason == "bad_json" else row
        except Damaged as damage:
            yield broken_off(stream, damage, offset, _left(stream, offset, damage))


def _in_utf8(piece: Piece, stream: Stream) -> tuple[Iterator[bytes], str]:
    """The chunks of a stream and the charset they were in: UTF-16 and UTF-32 are turned into UTF-8."""
    if piece.start == 0 and piece.stop < 0:
        with Stream(piece.path) as peek:
            name = wide(peek.head(4096)[0])
        if name:
            return (chunk.encode() for chunk in TextStream(stream)), name
    return iter(stream.read, b""), "utf-8"


def _left(stream: Stream, offset: int, damage: Damaged) -> int:
    """Bytes lost: of the line that was cut, or, behind a corrupt place, of the file."""
    return stream.tell() - offset if damage.truncated else stream.size - damage.start


def _lines_before(piece: Piece) -> int:
    """Lines of the file that start before the piece: read only when there is a bad line to be numbered."""
    if piece.start == 0:
        return 0
    count, left, last = 0, piece.start, b""
    with open(piece.path, "rb") as file:
        while left and (chunk := file.read(min(left, 1 << 20))):
            count += chunk.count(b"\n")
            left -= len(chunk)
            last = chunk[-1:]
    return count if last == b"\n" else count + 1


def _simple(line: Line, fields: Fields, charset: str) -> Row | None:
    """The row of a line that is one record without paths to follow, as nearly all are; None for others."""
    try:
        record = None if fields.nested else orjson.loads(line.content)
        return from_record(record, line.offset, fields, charset) if isinstance(record, dict) else None
    except (orjson.JSONDecodeError, RecursionError):
        return None


def _from_line(line: Line, fields: Fields, charset: str) -> list[Row]:
    """The rows of any line that is not blank."""
    try:
        return _from_value(orjson.loads(line.content), line.offset, None, fields, charset)
    except orjson.JSONDecodeError:
        found = _lenient(line.content)
    if isinstance(found, str):
        return [Row(line.offset, reason=found)]
    records, charset = found
    if len(records) > 1 and not all(isinstance(record, dict) for record in records):
        return [Row(line.offset, reason="bad_json")]
    made: list[Row] = []
    for at, record in enumerate(records):
        locator = f"{line.offset}+{at}" if at else None
        made += _from_value(record, line.offset, locator, fields, charset)
    return made


def _lenient(content: bytes) -> tuple[list[Any], str] | str:
    """The values of a line that is JSON to others, with its charset; or the reason why it is none.

    NaN, lone surrogates, control characters in strings, a byte order mark, other charsets, several records.
    """
    try:
        return _values(content.decode("utf-8-sig")), "utf-8"
    except (ValueError, RecursionError):
        decoded = decode(content)
    if decoded is None:
        return "undecodable"
    try:
        return _values(decoded[0]), decoded[1]
    except (ValueError, RecursionError):
        return "bad_json"


def _values(text: str) -> list[Any]:
    return [_clean(value) for value in jsonstream.several(text.strip())]


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return {_clean(key): _clean(item) for key, item in value.items()} if isinstance(value, dict) else value


def read_json(piece: Piece, fields: Fields) -> Iterator[Row]:
    """A row for each record of a list of records, or of records over several lines; its offset is its number."""
    with Stream(piece.path) as stream:
        number = 0
        try:
            text = TextStream(stream)
            for number, value in enumerate(jsonstream.values(iter(text), fields.limit)):
                if value.reason == "too_large":
                    yield Row(number, reason="too_large", value=value.size, limit=fields.limit)
                elif value.reason:
                    yield Row(number, reason=value.reason, value=number + 1)
                else:
                    for row in _from_value(_clean(value.content), number, None, fields, text.charset):
                        yield row._replace(value=number + 1) if row.reason == "bad_json" else row
        except Damaged as damage:
            yield broken_off(stream, damage, number + 1, stream.size - damage.start)


def _from_value(record: Any, offset: int, locator: str | None, fields: Fields, charset: str) -> list[Row]:
    """The rows of one JSON value: one, or one for each item of the list that the fields name."""
    if not isinstance(record, dict):
        return [Row(offset, reason="bad_json", locator=locator)]
    try:
        if fields.nested:
            return list(from_nested(record, offset, locator, fields, charset))
        return [from_record(record, offset, fields, charset, locator)]
    except RecursionError:  # nested too deeply to be written as metadata
        return [Row(offset, reason="bad_json", locator=locator)]


def from_nested(
    record: dict[str, Any], offset: int, locator: str | None, fields: Fields, charset: str
) -> Iterator[Row]:
    """Like `from_record`, for fields that are paths, or that are in each item of a list."""
    if fields.each is None:
        yield from_record(_flat(record, fields), offset, fields, charset, locator)
        return
    for at, one in enumerate(paths.one_by_one(record, fields.each)):
        yield from_record(_flat(one, fields), offset, fields, charset, f"{locator or offset}#{at}")


def _flat(record: dict[str, Any], fields: Fields) -> dict[str, Any]:
    """The record with the fields that are named by a path lifted to its top, under that path."""
    named = fields.named
    return {**paths.without(record, named), **{name: paths.value(record, name) for name in named}}


def from_record(record: dict[str, Any], offset: int, fields: Fields, charset: str, locator: str | None = None) -> Row:
    """The row of a record whose fields are those of `fields`, without paths; all other fields become metadata."""
    text = record.get(fields.text)
    own = text_of(record.get(fields.id)) if fields.id else None
    named = fields.named
    others = {name: value for name, value in record.items() if name not in named}
    row = Row(
        offset,
        locator=locator,
        source_id=own,
        url=text_of(record.get(fields.url)) if fields.url else None,
        date=text_of(record.get(fields.date)) if fields.date else None,
        mime="text/plain",
        charset=charset,
        metadata=json_text(others) if others else None,
        kept=tuple(text_of(record.get(name)) for name in fields.keep),
    )
    if text is None:
        return row._replace(reason="missing_field")
    if not isinstance(text, str):
        return row._replace(reason="wrong_type")
    bare = text.strip()
    if not bare:
        return row._replace(reason="empty")
    if fields.html or bare[0] == "<":
        return row._replace(text=text, mime=mime_of(bare, fields))
    return row._replace(text=text)
