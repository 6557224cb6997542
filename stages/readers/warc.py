"""WARC, WET and ARC: each response, resource, revisit and conversion record a row, whatever state the file is in.

`archive` cuts the file into records; here each becomes a row. What a crawler writes about itself (its log, its
arguments, a manifest) is no document. A record that repeats an earlier one, id and content, is dropped; one that shares
only the id is a document of its own, since wget 1.14 gave the same id to several records.
"""

import re
from collections.abc import Iterator

import xxhash

from pipeline.stage import Piece
from stages.readers import archive, http
from stages.readers.archive import Lost, Record
from stages.readers.charset import decode
from stages.readers.rows import Fields, Row, json_text, lost, unfit
from stages.readers.sniff import is_page

_ROWS = ("response", "resource", "revisit", "conversion")  # the record types that have a row each
_NO_ROWS = ("warcinfo", "request", "metadata", "continuation")
_HEAD = 1 << 17  # bytes of a block that may be its HTTP header, beside a body of the greatest size
_CRAWLER = re.compile(
    r"(?:metadata|warcinfo|filedesc|crawl|crawler|screenshot|thumbnail|urn:(?:x-.*|pageinfo|text|view|thumbnail"
    r"|screenshot|fullpage|wget|wpull|crawler?|logs?|har|pagelist))(?:[:/]|$)",
    re.IGNORECASE,
)
"""URIs that crawlers give to records about themselves: wget, wpull, grab-site, Heritrix, Browsertrix, brozzler."""


def read(piece: Piece, fields: Fields) -> Iterator[Row]:
    """A row for each record that could have held a document, and one for each stretch that cannot be read.

    `offset` is the place in the file of the record, or of the compressed member it lies in. A file without any such
    record has one row with the reason `no_records` and the number of its records.
    """
    seen: set[int] = set()
    passed, rows = 0, 0
    for part in archive.records(piece.path, fields.limit + _HEAD, _ROWS):
        if isinstance(part, Lost):
            row = lost(part.start[0], part.size, part.truncated)
            yield row if part.start[1] == 0 else row._replace(locator=f"!{_locator(part.start)}")
        elif (kind := part.fields.get("warc-type", "").lower()) in _NO_ROWS:
            passed += 1
            continue
        else:
            yield _row(part, kind, fields, seen)
        rows += 1
    if not rows:
        yield unfit("no_records", passed)


def _locator(start: tuple[int, int]) -> str:
    return str(start[0]) if start[1] == 0 else f"{start[0]}+{start[1]}"


def _row(record: Record, kind: str, fields: Fields, seen: set[int]) -> Row:
    """What becomes of one record."""
    headers = record.fields
    block_type = http.content_type(headers.get("content-type"))[0]
    is_http = kind in ("response", "revisit") or block_type == "application/http"
    head = http.response(record.block) if is_http else None
    media_type = head.fields.get("content-type") if head else headers.get("content-type")
    names = [name.lower() for name in fields.keep]
    row = Row(
        offset=record.start[0],
        locator=_locator(record.start),
        source_id=_without_brackets(headers.get("warc-record-id")),
        url=_without_brackets(headers.get("warc-target-uri")),
        date=headers.get("warc-date"),
        metadata=json_text({"content_type": media_type}) if media_type else None,
        kept=tuple((head.fields.get(name) if head else None) or headers.get(name) for name in names),
    )
    if kind not in _ROWS:
        return row._replace(reason="record_type")
    if _is_repeated(record, row, seen):
        return row._replace(reason="repeated_record")
    if kind == "revisit":
        return row._replace(reason="revisit")
    if _CRAWLER.match(row.url or ""):
        return row._replace(reason="crawler_record")
    if head and head.status != 200:
        return row._replace(reason="http_status", value=head.status, limit=200)
    if kind == "response" and head is None:  # not of the web: dns, whois; or a page without its HTTP header
        if not is_page(record.block[:_HEAD]):
            return row._replace(reason="not_html")
        media_type = media_type if block_type == "text/html" else "text/html"
    return _document(row, record, media_type, head, fields.limit)


def _is_repeated(record: Record, row: Row, seen: set[int]) -> bool:
    """Whether a record of this id, address and content has been before."""
    if row.source_id is None:
        return False
    name = f"{row.source_id}\0{row.url}\0{record.size}".encode()
    key = xxhash.xxh3_64_intdigest(record.block, seed=xxhash.xxh3_64_intdigest(name))
    repeated = key in seen
    seen.add(key)
    return repeated


def _document(row: Row, record: Record, media_type: str | None, head: http.Response | None, limit: int) -> Row:
    declared, charset = http.content_type(media_type)
    if http.never_page(declared):
        return row._replace(reason="not_html")
    size = record.size - (head.body if head else 0)
    if size > limit:
        return row._replace(reason="too_large", value=size, limit=limit)
    body = record.block
    if head:
        transfer, content = (head.fields.get(name) or "" for name in ("transfer-encoding", "content-encoding"))
        try:
            body = http.decoded(body[head.body :], transfer, content, limit)
        except ValueError:
            return row._replace(reason="undecodable")
    if len(body) > limit:
        return row._replace(reason="too_large", value=len(body), limit=limit)
    if not body.strip():
        return row._replace(reason="empty")
    mime = http.media(declared, body, charset)
    if mime is None:
        return row._replace(reason="not_html")
    decoded = decode(body, charset, html=mime == "text/html")
    if decoded is None:
        return row._replace(reason="undecodable", mime=mime)
    about = {"content_type": media_type} if media_type else {}
    notes = decoded.notes()
    return row._replace(
        text=decoded.text,
        mime=mime,
        charset=decoded.charset,
        metadata=json_text({**about, **notes}) if notes else row.metadata,
        reason=None if decoded.text.strip() else "empty",
    )


def _without_brackets(name: str | None) -> str | None:
    """A URI without the angle brackets that WARC puts around some and wget around all."""
    return name.strip().removeprefix("<").removesuffix(">") if name else None
