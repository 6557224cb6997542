"""Brings documents in from WARC, WET, ARC, HTML, JSON, JSONL, Parquet, CSV, TSV and text files, compressed or not.

Every record met becomes a row, one that cannot become a document with the reason why, so that what entered can be
balanced against what came out. A file that cannot be read, or gives no record, is a row too, and costs no other file.
A document's `id` is a hash of its file's name below the folder given and of its place in that file: it survives moving
the data, adding files and another split into partitions.
"""

import json
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pipeline.stage import Piece, Source, Split
from stages.readers import delimited, jsonstream, parquet, plain, records, textstream, warc
from stages.readers.compression import Stream
from stages.readers.listing import Found, files, readable
from stages.readers.rows import Batch, Fields, Row, regular, unfit
from stages.readers.sniff import sniff

_MAX_PIECES = 20_000  # of one partition, however small they are
_COMPRESSED = (".gz", ".zst", ".lz4", ".bz2", ".xz")
_EXPANSION = 4  # what web pages and text come to unpacked, roughly; only for packing small files together
_HEAD = 1 << 16  # bytes that tell how a JSON file is laid out
_SNIFFED = 4096  # of which these tell the format
_DELIMITERS = {"csv": ",", "tsv": "\t"}

Format = Literal["auto", "warc", "wet", "html", "jsonl", "parquet", "csv", "tsv", "text"]


class _Kind(NamedTuple):
    """What a file is, by its first bytes."""

    reader: str | None  # "empty" for a file of no bytes, None for a format unknown
    compressed: bool
    divisible: bool = False  # a part of it can be read alone, and it has a record


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _once_each(names: list[str]) -> list[str]:
    return list(dict.fromkeys(names))


class Collect(Source):
    """Reads raw files into documents; what cannot be a document is kept as a row with a reason.

    Texts of every format but HTML have the same line ends: CRLF, CR, U+2028 and U+2029 become LF. A line of blanks or
    invisible characters alone becomes an empty line. NULs and a byte-order mark at the head go. Indentation, trailing
    blanks, tabs and form feeds within other lines stay, and so does U+0085.
    """

    paths: Annotated[list[str], BeforeValidator(_as_list)] = Field(
        min_length=1,
        description="Files, folders (read with all below, but for hidden files) and globs (`**` for any depth).",
    )
    format: Format = Field("auto", description="What the files are; auto: told file by file by content and suffix.")
    text_field: str = Field(
        "text",
        description="Field of a JSON, Parquet or CSV record that holds the text; `doc.text` for a field in another, "
        "`files[].content` for a document from each item of a list. Whole HTML pages are told from text.",
    )
    html_field: str | None = Field(None, description="Field that holds HTML, be it pages or parts of them, instead.")
    id_field: str | None = Field(None, description="Field with the record's own identifier, kept as `source_id`.")
    url_field: str | None = Field(None, description="Field with the address; by default `url`, where there is one.")
    date_field: str | None = Field(None, description="Field with the date.")
    keep_fields: Annotated[list[str], AfterValidator(_once_each)] = Field(
        [],
        description="Fields that become columns `meta_<field>` (WARC: HTTP or WARC headers); others go to `metadata`.",
    )
    max_document_bytes: int = Field(
        10_000_000, ge=1, le=1 << 30, description="A bigger record is not read but counted as too_large (bytes)."
    )
    quotes: bool | None = Field(
        None,
        description="Whether fields of CSV and TSV may stand in quotation marks; by default those of CSV, not of TSV.",
    )
    split_bytes: int = Field(
        64 << 20,
        ge=1 << 10,
        description="Aimed size of a partition (bytes): small files are packed, big Parquet and plain JSONL split. "
        "Each partition is a task with files of its own: a megabyte or less serves tests only.",
    )

    @model_validator(mode="after")
    def _one_text(self) -> "Collect":
        if self.html_field is not None and "text_field" in self.model_fields_set:
            raise ValueError("text_field and html_field both name the field of the text; keep one of them")
        self._fields()
        return self

    def columns(self) -> dict[str, pa.DataType]:
        return {f"meta_{name}": pa.string() for name in self.keep_fields}

    def inputs(self) -> list[Split]:
        """The partitions, by source name.

        Raises `ValueError` for a path that matches nothing or cannot be listed, and where all files are tables and none
        of them has a column that is named.
        """
        return self._splits(files(self.paths))

    def arrivals(self) -> list[Split]:
        return self._splits(files(self.paths, empty_ok=True))

    def _splits(self, found: Sequence[Found]) -> list[Split]:
        self._check_columns(found)
        pieces = [piece for file in found for piece in self._pieces(file.source, file.path)]
        return list(_packed(pieces, self.split_bytes))

    def read(self, split: Split) -> Iterator[pa.Table]:
        """Raises `ValueError`, naming the file, for what no reader expects; a damaged file is a row with a reason."""
        return map(regular, self._tables(split))

    def _tables(self, split: Split) -> Iterator[pa.Table]:
        batch = Batch(self.keep_fields)
        for piece in split.pieces:
            for found in self._guarded(piece):
                if isinstance(found, Row):
                    batch.add(piece.source, found)
                    if batch.full():
                        yield from batch.take()
                else:
                    yield from batch.take()
                    yield found
        yield from batch.take()

    def tally(self, docs: pa.Table) -> dict[str, int]:
        """Characters replaced and repaired and NULs taken out while texts were decoded."""
        total: Counter[str] = Counter()
        noted = docs["metadata"].filter(pc.fill_null(pc.match_substring(docs["metadata"], '"decoding":{'), False))
        for about in noted.to_pylist():
            counts = json.loads(about).get("decoding")
            for name in ("replaced", "repaired", "nuls"):
                count = counts.get(name) if isinstance(counts, dict) else None  # a record's own field may be called so
                total[f"decoding_{name}"] += count if isinstance(count, int) else 0
        return dict(total)

    def _fields(self) -> Fields:
        """Raises `ValueError` for a path that cannot be followed."""
        text = self.html_field or self.text_field
        each = text.partition("[]")[0] if "[]" in text else None
        return Fields(
            text=_in_item(text, each) or "",
            id=_in_item(self.id_field, each),
            url=_in_item(self.url_field, each) or "url",
            date=_in_item(self.date_field, each),
            keep=tuple(_in_item(name, each) or "" for name in self.keep_fields),
            limit=self.max_document_bytes,
            each=each,
            html=self.html_field is not None,
            quotes=self.quotes,
        )

    def _check_columns(self, found: Sequence[Found]) -> None:
        """Raise `ValueError` where all files are tables and a column that is named is in none: nobody means that."""
        fields = (self.html_field or self.text_field, self.id_field, self.url_field, self.date_field, *self.keep_fields)
        missing = [name for name in fields if name is not None]
        tables: list[tuple[str, list[str]]] = []
        for file in found:
            columns = self._columns(file.path)
            if columns is None:
                return
            if columns:
                tables.append((file.path, columns))
                missing = [name for name in missing if name not in columns]
            if not missing:
                return
        if tables:
            path, columns = tables[0]
            others = f"; nor has any of the {len(tables) - 1} other tables" if len(tables) > 1 else ""
            named = ", ".join(map(repr, columns))
            raise ValueError(f"{readable(path)}: no column {missing[0]!r}; its columns are {named}{others}")

    def _columns(self, path: str) -> list[str] | None:
        """The columns of a table, [] for a file that cannot be read, None for a format without columns."""
        try:
            if not os.path.isfile(path):
                return []
            kind = self._kind(path)
            if kind.reader in _DELIMITERS:
                return delimited.columns(path, self._fields(), _DELIMITERS[kind.reader]) or []
            if kind.reader == "parquet" and not kind.compressed:
                return parquet.columns(path) or []
        except OSError:  # a row of the run says so
            return []
        return [] if kind.reader in (None, "empty") else None

    def _pieces(self, source: str, path: str) -> Iterator[Piece]:
        """A file as one piece, or, if it is big and can be entered in the middle, as several."""
        whole = Piece(path, source, self.format, 0)
        try:
            whole = whole._replace(size=os.stat(path).st_size)
            kind = self._kind(path) if whole.size > self.split_bytes and os.path.isfile(path) else None
            groups = parquet.row_groups(path) if kind and kind.reader == "parquet" and kind.divisible else []
        except OSError:  # a row of the run says so
            yield whole
            return
        if kind and kind.reader == "jsonl" and kind.divisible:
            for start in range(0, whole.size, self.split_bytes):
                stop = min(start + self.split_bytes, whole.size)
                yield Piece(path, source, kind.reader, stop - start, start, stop)
        elif groups:
            yield from _by_row_groups(whole._replace(kind="parquet"), groups, self.split_bytes)
        else:
            yield whole

    def _kind(self, path: str) -> _Kind:
        """What a whole file is. Raises `OSError` where it cannot be read."""
        with Stream(path) as stream:
            head, damage = stream.head(_HEAD)
        if not head and not damage:
            return _Kind("empty", stream.kind is not None)
        text = textstream.narrowed(head)
        reader = sniff(text[:_SNIFFED], os.path.basename(path)) if self.format == "auto" else self.format
        if reader == "jsonl" and not jsonstream.in_lines(text):
            reader = "json"
        divisible = stream.kind is None and text is head and not text.isspace()
        return _Kind(reader, stream.kind is not None, divisible)

    def _guarded(self, piece: Piece) -> Iterator[Row | pa.Table]:
        """What a piece gives, and a row for a file that gives nothing or cannot be read on."""
        empty = piece.stop < 0
        try:
            for found in self._records(piece):
                empty = False
                yield found
        except OSError as error:
            yield unfit("unreadable_file", error.errno)
            return
        except Exception as error:
            raise ValueError(f"{readable(piece.path)}: {type(error).__name__}: {error}") from error
        if empty:
            yield unfit("no_records")

    def _records(self, piece: Piece) -> Iterator[Row | pa.Table]:
        fields = self._fields()
        mode = os.stat(piece.path).st_mode
        if not stat.S_ISREG(mode):
            yield unfit("unreadable_folder" if stat.S_ISDIR(mode) else "not_a_file")
            return
        kind = self._kind(piece.path) if piece.stop < 0 else _Kind(piece.kind, compressed=False)
        if kind.reader in ("warc", "wet"):
            yield from warc.read(piece, fields)
        elif kind.reader == "jsonl":
            yield from records.read_jsonl(piece, fields)
        elif kind.reader == "json":
            yield from records.read_json(piece, fields)
        elif kind.reader in _DELIMITERS:
            yield from delimited.read_csv(piece, fields, _DELIMITERS[kind.reader])
        elif kind.reader == "parquet" and not kind.compressed:
            yield from parquet.read(piece, fields)
        elif kind.reader in ("html", "text"):
            yield from plain.read(piece, fields, html=kind.reader == "html")
        elif kind.reader == "empty":
            yield Row(0, reason="empty_file")
        else:
            yield Row(0, reason="unknown_format", value=piece.size)


def _in_item(name: str | None, each: str | None) -> str | None:
    """A field's path with the list's name standing for its item. Raises `ValueError` for a list of another name."""
    if name is None:
        return None
    path = name.replace("[]", "", 1) if each is not None and name.partition("[]")[0] == each else name
    if "[]" in path:
        raise ValueError(f"field {name!r}: only the list that the text is in can be followed, and no list within it")
    return path


def _by_row_groups(whole: Piece, sizes: list[int], split_bytes: int) -> Iterator[Piece]:
    start = size = 0
    for at, group in enumerate(sizes):
        size += group
        if size >= split_bytes or at == len(sizes) - 1:
            yield whole._replace(start=start, stop=at + 1, size=size)
            start, size = at + 1, 0


def _packed(pieces: list[Piece], split_bytes: int) -> Iterator[Split]:
    """Consecutive pieces together, up to `split_bytes` a partition; a bigger one stands alone."""
    packed: list[Piece] = []
    size = 0
    for piece in pieces:
        plain_size = piece.size * (_EXPANSION if piece.path.endswith(_COMPRESSED) else 1)
        if packed and (size + plain_size > split_bytes or len(packed) == _MAX_PIECES):
            yield Split(tuple(packed))
            packed, size = [], 0
        packed.append(piece)
        size += plain_size
    if packed:
        yield Split(tuple(packed))
