"""Records on their way into tables: what a reader says of each, the batches of them, and their text made regular."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from pipeline import schema
from stages.kernels import whitespace
from stages.readers.compression import Bomb, Damaged, Stream
from stages.readers.sniff import is_html

BATCH_ROWS = 10_000


@dataclass(frozen=True)
class Fields:
    """Which fields of a record are what, and how big a record may be. A field may be a path (`doc.text`)."""

    text: str = "text"
    id: str | None = None
    url: str | None = None
    date: str | None = None
    keep: tuple[str, ...] = ()
    limit: int = 10_000_000  # bytes
    each: str | None = None  # a list of whose items each is a document; its name stands for the item in the others
    html: bool = False  # the text is HTML, whatever it looks like
    quotes: bool | None = None  # whether CSV has fields in quotation marks; None: by the kind

    @cached_property
    def named(self) -> frozenset[str]:
        """The fields that get a column of their own."""
        return frozenset(name for name in (self.text, self.id, self.url, self.date, *self.keep) if name is not None)

    @cached_property
    def nested(self) -> bool:
        """Whether a field may lie inside another, or in each item of a list."""
        return self.each is not None or any("." in name for name in self.named)


class Row(NamedTuple):
    """One record met: a document, or, with a reason, one that cannot become one."""

    offset: int
    text: str = ""
    reason: str | None = None
    value: float | None = None
    limit: float | None = None
    locator: str | None = None  # its place in the source, for the id, where that is not simply `offset`
    source_id: str | None = None
    url: str | None = None
    date: str | None = None
    mime: str | None = None
    charset: str | None = None
    metadata: str | None = None
    kept: tuple[str | None, ...] = ()


def lost(offset: int, size: int, truncated: bool) -> Row:
    """A stretch of a file that could not be read: `size` bytes from `offset` on."""
    return Row(offset, reason="truncated" if truncated else "corrupt", value=size, locator=f"!{offset}")


def unfit(reason: str, value: float | None = None) -> Row:
    """A file that gives no document, or none from here on."""
    return Row(0, reason=reason, value=value, locator="!file")


def misfit(columns: list[str], fields: Fields) -> str | None:
    """Why a table with these columns gives no documents, None where it does."""
    if fields.text not in columns:
        return "no_text_field" if columns else "no_records"
    return "repeated_column" if any(columns.count(name) > 1 for name in fields.named) else None


def numbered(columns: list[str]) -> list[str]:
    """The columns, each under a name of its own: `n`, `n_2`, `n_3` for three of one name."""
    names: list[str] = []
    for column in columns:
        again = next(number for number in count(1) if _again(column, number) not in names)
        names.append(_again(column, again))
    return names


def _again(column: str, number: int) -> str:
    return column if number == 1 else f"{column}_{number}"


def broken_off(stream: Stream, damage: Damaged, offset: int, size: int) -> Row:
    """The rest of a file whose compression is damaged: `size` bytes from `offset` on; or that expands without end."""
    if isinstance(damage, Bomb):
        return lost(offset, size, truncated=False)._replace(reason="too_large", value=stream.tell())
    return lost(offset, size, damage.truncated)


def mime_of(text: str, fields: Fields) -> str:
    """text/html for a whole HTML page or what is said to be HTML; `text` starts with no white space."""
    page = fields.html or (text[:1] == "<" and is_html(text[:4096].encode("utf-8", "replace")))
    return "text/html" if page else "text/plain"


def document_id(source: str, locator: str) -> str:
    """32 hexadecimal digits: XXH3-128 of the source's name and the record's place in it."""
    return xxhash.xxh3_128_hexdigest(f"{source}\0{locator}".encode("utf-8", "surrogatepass"))


def text_of(value: Any) -> str | None:
    """A field's value as text: as it is, or as JSON."""
    return value if value is None or isinstance(value, str) else json_text(value)


def json_text(value: Any) -> str:
    """`value` as JSON; dates as ISO 8601, bytes as text, whatever else is not JSON as Python prints it."""
    try:
        return orjson.dumps(value, default=_plain, option=orjson.OPT_NON_STR_KEYS).decode()
    except orjson.JSONEncodeError:  # integers beyond 64 bits, more than 254 levels
        return json.dumps(value, default=_plain, ensure_ascii=False, separators=(",", ":"))


def _plain(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def columns(keep: Sequence[str]) -> dict[str, pa.DataType]:
    """All columns of a source's tables, in order."""
    return {**schema.DOCUMENT, **{f"meta_{name}": pa.string() for name in keep}, **schema.DROP}


class Batch:
    """Rows gathered until they are worth a table: about `schema.BATCH_BYTES` of text or 10,000 rows."""

    def __init__(self, keep: Sequence[str]) -> None:
        self._schema = pa.schema(list(columns(keep).items()))
        self._keep = len(keep)
        self._rows: list[tuple[Any, ...]] = []
        self._size = 0

    def add(self, source: str, row: Row) -> None:
        name = document_id(source, row.locator or str(row.offset))
        kept = row.kept or (None,) * self._keep
        about = (row.source_id, row.url, row.date, row.mime, row.charset, row.metadata, row.text)
        self._rows.append((name, source, row.offset, *about, *kept, row.reason, row.value, row.limit))
        self._size += len(row.text) * (1 if row.text.isascii() else 3) + len(row.metadata or "")

    def full(self) -> bool:
        return self._size >= schema.BATCH_BYTES or len(self._rows) >= BATCH_ROWS

    def take(self) -> Iterator[pa.Table]:
        """The rows so far as a table, if there are any; the batch is empty then."""
        rows, self._rows, self._size = self._rows, [], 0
        if rows:
            arrays = [
                pa.array(column, kind) for column, kind in zip(zip(*rows, strict=True), self._schema.types, strict=True)
            ]
            yield pa.Table.from_arrays(arrays, schema=self._schema)


def regular(docs: pa.Table) -> pa.Table:
    """`docs` with line ends, blank lines, NULs and byte-order marks of their texts as `whitespace.regular` leaves them.

    A document of which nothing but line ends remains is marked `empty`. Markup (`text/html`) is left alone: white space
    has another meaning there, and `extract` tidies what it takes out. A table that needs nothing comes back as it is.
    """
    data, offsets = schema.text_buffers(docs["text"])
    chosen = whitespace.irregular(data, offsets)
    chosen &= ~pc.fill_null(pc.starts_with(docs["mime"], "text/html"), False).to_numpy().astype(bool)
    if not chosen.any():
        return docs
    data, offsets, bare = whitespace.regular(data, offsets, chosen)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    texts = pa.Array.from_buffers(pa.large_string(), len(docs), buffers).cast(pa.string())
    docs = schema.set_column(docs, "text", pc.if_else(pa.array(bare), "", texts))
    return schema.mark(docs, pc.if_else(pa.array(bare), "empty", None)) if bare.any() else docs
