"""A file is a document: HTML pages and plain text."""

from collections.abc import Iterator

from pipeline.stage import Piece
from stages.readers.charset import decode
from stages.readers.compression import Damaged, Stream
from stages.readers.rows import Fields, Row, broken_off, json_text


def read(piece: Piece, fields: Fields, html: bool) -> Iterator[Row]:
    """One row: the whole file's text, or why there is none."""
    with Stream(piece.path) as stream:
        chunks, size = [], 0
        try:
            while size <= fields.limit and (chunk := stream.read()):
                size += len(chunk)
                chunks.append(chunk)
        except Damaged as damage:  # half a document is none
            yield broken_off(stream, damage, 0, stream.size)
            return
        if size > fields.limit and not stream.kind:
            size = stream.size
    data = b"".join(chunks)
    yield row(data, size, fields, html)


def row(data: bytes, size: int, fields: Fields, html: bool) -> Row:
    mime = "text/html" if html else "text/plain"
    if size > fields.limit:
        return Row(0, reason="too_large", value=size, limit=fields.limit, mime=mime)
    decoded = decode(data, None, html)
    if decoded is None:
        return Row(0, reason="undecodable", mime=mime)
    row = Row(0, mime=mime, charset=decoded.charset, metadata=json_text(notes) if (notes := decoded.notes()) else None)
    return row._replace(text=decoded.text) if decoded.text.strip() else row._replace(reason="empty")
