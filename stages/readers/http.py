"""What an HTTP response says of its body, and the body freed of its transfer and content codings."""

import io
import re
from typing import NamedTuple

from fastwarc.stream_io import BrotliReader

from stages.readers.archive import header_fields
from stages.readers.charset import canonical
from stages.readers.compression import expand
from stages.readers.sniff import is_binary, is_html, is_page, root

_STATUS = re.compile(rb"HTTP(?:/[\d.]{1,5})?[ \t]+(\d{3})(?!\d)", re.IGNORECASE)
_BLANK = re.compile(rb"\n\r{0,2}\n")
_CHARSET = re.compile(r"""charset\s*=\s*["']?\s*([^\s;"',]+)""", re.IGNORECASE)
_CHUNK_SIZE = re.compile(rb"\s*([0-9A-Fa-f]{1,15})[^\r\n]{0,200}\r?\n")
_KINDS = {"gzip": "gzip", "x-gzip": "gzip", "zstd": "zstd", "deflate": "zlib", "br": "br"}
_NO_PAGE = re.compile(
    r"(?:image|video|audio|font|model|multipart|message)/"
    r"|text/(?:css|csv|javascript|calendar|vcard|dns|vtt|rtf|tab-separated-values)$"
    r"|application/(?:json|javascript|x-javascript|ecmascript|pdf|zip|gzip|x-gzip|wasm|rtf|msword|postscript"
    r"|warc-fields|http$|vnd\.(?!.*\+xml$)|x-shockwave|x-font|x-tar|x-bzip|x-7z|x-rar|java-archive|x-protobuf|grpc)"
    r"|.*\+(?:json|zip|cbor|protobuf)$"
)
"""Media types that are known to be no page. What is of another unknown type is told by its content."""
_OTHER_ROOTS = ("rss", "feed", "rdf:rdf", "svg", "urlset", "sitemapindex", "opml", "math")
_HEAD = 16_384  # bytes that a page is told by: comments and scripts may stand before its first elements
_XML = re.compile(r"(?:application|text)/(?:.*\+)?xml$")


class Response(NamedTuple):
    """The head of an HTTP response."""

    status: int | None  # None where the first line names none
    fields: dict[str, str]  # names in lower case
    body: int  # where the body starts


def response(block: bytes) -> Response | None:
    """The head of the HTTP response in a record's block; None where it is none.

    Lines may end with LF alone, and fields may be folded. Interim responses (100 Continue) before it are passed over.
    """
    start = 0
    while True:
        if block[start : start + 4].upper() != b"HTTP":
            return None
        blank = _BLANK.search(block, start)
        stop, body = (blank.start(), blank.end()) if blank else (len(block), len(block))
        line = _STATUS.match(block, start)
        status = int(line[1]) if line else None
        if status is None or not 100 <= status < 200 or block[body : body + 4].upper() != b"HTTP":
            return Response(status, header_fields(block[start:stop].decode("latin-1")), body)
        start = body


def content_type(header: str | None) -> tuple[str, str | None]:
    """The media type in lower case ("" for none) and the charset of a Content-Type header."""
    header = header or ""
    charset = _CHARSET.search(header)
    return header.split(";")[0].split(",")[0].strip().lower(), charset[1] if charset else None


def never_page(declared: str) -> bool:
    """Whether a media type is known to be no page, so that its body need not be looked at."""
    return _NO_PAGE.match(declared) is not None


def media(declared: str, body: bytes, charset: str | None = None) -> str | None:
    """text/html or text/plain for what can become a document, by what is declared and by the body; else None.

    A whole HTML page is one whatever text it is declared as, and XML is a page where it is XHTML.
    """
    head = body[:_HEAD]
    if never_page(declared) or (is_binary(head[:4096]) and not (canonical(charset) or "").startswith("utf-16")):
        return None
    if declared == "text/html":
        return "text/html"
    if declared == "application/xhtml+xml":
        return None if root(head) in _OTHER_ROOTS else "text/html"
    if _XML.match(declared):
        return "text/html" if root(head) == "html" else None
    if declared == "text/plain":
        return "text/html" if is_page(head) else "text/plain"
    if not declared:
        return "text/html" if is_html(head) else "text/plain"
    return "text/html" if is_page(head) else None


def decoded(body: bytes, transfer: str, content: str, limit: int) -> bytes:
    """`body` without its chunks and compression, cut at `limit` + 1 bytes.

    Archives often hold bodies decoded already beside the headers of the encoded one: what does not look encoded is
    taken as it is. Raises `ValueError` where a compressed body is corrupt.
    """
    if "chunked" in transfer.lower():
        body = _dechunked(body)
    for coding in reversed(content.lower().split(",")):
        kind = _KINDS.get(coding.strip())
        if kind and body:
            body = _expanded(body, kind, limit)
    return body


def _dechunked(body: bytes) -> bytes:
    """The chunks joined; a body cut short gives the chunks that are there, one without chunks is returned as it is."""
    chunks: list[bytes] = []
    at = 0
    while match := _CHUNK_SIZE.match(body, at):
        size = int(match[1], 16)
        if size == 0:
            return b"".join(chunks)
        chunks.append(body[match.end() : match.end() + size])
        at = match.end() + size
    return b"".join(chunks) if chunks and at >= len(body) - 2 else body


def _expanded(body: bytes, kind: str, limit: int) -> bytes:
    if (kind == "gzip" and body[:2] != b"\x1f\x8b") or (kind == "zstd" and body[:4] != b"\x28\xb5\x2f\xfd"):
        return body
    if kind == "br":
        return _brotli(body, limit)
    if kind == "zlib" and (body[0] & 0x0F != 8 or int.from_bytes(body[:2], "big") % 31):
        kind = "deflate"  # what some servers have always sent under that name
    return expand(body, kind, limit)


def _brotli(body: bytes, limit: int) -> bytes:
    if is_html(body[:4096]):
        return body
    reader, chunks, size = BrotliReader(io.BytesIO(body)), [], 0
    try:
        while size <= limit and (chunk := reader.read(limit + 1 - size)):
            chunks.append(chunk)
            size += len(chunk)
    except OSError as error:
        raise ValueError("corrupt brotli data") from error
    return b"".join(chunks)
