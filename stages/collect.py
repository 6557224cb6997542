"""Brings documents in from WARC, WET, ARC, HTML, JSONL, Parquet, CSV, TSV and text files, compressed or not.

Every record met becomes a row, one that cannot become a document with the reason why, so that what entered can be
balanced against what came out. A document's `id` is a hash of its file's name below the folder given and of its place
in that file: it survives moving the data, adding files and another split into partitions.
"""

import difflib
import glob
import json
import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import AfterValidator, BeforeValidator, Field

from pipeline.stage import Piece, Source, Split
from pipeline.storage import local
from stages.readers import parquet, plain, records, warc
from stages.readers.compression import Stream
from stages.readers.rows import Batch, Fields, Row, regular
from stages.readers.sniff import sniff

_MAX_PIECES = 20_000  # of one partition, however small they are
_COMPRESSED = (".gz", ".zst", ".lz4", ".bz2", ".xz")
_EXPANSION = 4  # what web pages and text come to unpacked, roughly; only for packing small files together
_HEAD = 4096  # bytes a file's format is told by

Format = Literal["auto", "warc", "wet", "html", "jsonl", "parquet", "csv", "tsv", "text"]


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
    text_field: str = Field("text", description="Field of a JSONL, Parquet or CSV record that holds the text.")
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
    split_bytes: int = Field(
        64 << 20,
        ge=1,
        description="Aimed size of a partition: small files are packed, big Parquet and plain JSONL split.",
    )

    def columns(self) -> dict[str, pa.DataType]:
        return {f"meta_{name}": pa.string() for name in self.keep_fields}

    def inputs(self) -> list[Split]:
        """The partitions, by source name. Raises `ValueError` for a path that matches nothing or cannot be listed."""
        found = _named(_files(self.paths))
        pieces = [piece for source, path in sorted(found) for piece in self._pieces(source, path)]
        return list(_packed(pieces, self.split_bytes))

    def read(self, split: Split) -> Iterator[pa.Table]:
        """Raises `ValueError` for a table that lacks a column, `OSError` for a file that cannot be read."""
        return map(regular, self._tables(split))

    def _tables(self, split: Split) -> Iterator[pa.Table]:
        batch = Batch(self.keep_fields)
        for piece in split.pieces:
            for found in self._records(piece):
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
        needed = [self.text_field, self.id_field, self.url_field, self.date_field, *self.keep_fields]
        return Fields(
            text=self.text_field,
            id=self.id_field,
            url=self.url_field or "url",
            date=self.date_field,
            keep=tuple(self.keep_fields),
            limit=self.max_document_bytes,
            needed=tuple(name for name in needed if name is not None),
        )

    def _pieces(self, source: str, path: str) -> Iterator[Piece]:
        """A file as one piece, or, if it is big and can be entered in the middle, as several."""
        size = _stat(path).st_size
        whole = Piece(path, source, self.format, size)
        if size <= self.split_bytes:
            yield whole
            return
        kind, compressed = self._kind(whole) if os.access(path, os.R_OK) else (None, None)
        if kind == "jsonl" and not compressed:
            for start in range(0, size, self.split_bytes):
                stop = min(start + self.split_bytes, size)
                yield Piece(path, source, kind, stop - start, start, stop)
        elif kind == "parquet" and not compressed:
            yield from _by_row_groups(whole._replace(kind=kind), self.split_bytes)
        else:
            yield whole

    def _kind(self, piece: Piece) -> tuple[str | None, str | None]:
        """The reader for a whole file, "empty", or None for a format unknown; and how the file is compressed."""
        with Stream(piece.path) as stream:
            head, damage = stream.head(_HEAD)
        if not head and not damage:
            return "empty", stream.kind
        return sniff(head, os.path.basename(piece.path)) if self.format == "auto" else self.format, stream.kind

    def _records(self, piece: Piece) -> Iterator[Row | pa.Table]:
        fields = self._fields()
        kind, compressed = self._kind(piece) if piece.stop < 0 else (piece.kind, None)
        if kind in ("warc", "wet"):
            yield from warc.read(piece, fields)
        elif kind == "jsonl":
            yield from records.read_jsonl(piece, fields)
        elif kind in ("csv", "tsv"):
            yield from records.read_csv(piece, fields, "," if kind == "csv" else "\t")
        elif kind == "parquet" and not compressed:
            yield from parquet.read(piece, fields)
        elif kind in ("html", "text"):
            yield from plain.read(piece, fields, html=kind == "html")
        elif kind == "empty":
            yield Row(0, reason="empty_file")
        else:
            yield Row(0, reason="unknown_format", value=piece.size)


def _by_row_groups(whole: Piece, split_bytes: int) -> Iterator[Piece]:
    sizes = parquet.row_groups(whole.path)
    start = size = 0
    for at, group in enumerate(sizes):
        size += group
        if size >= split_bytes or at == len(sizes) - 1:
            yield whole._replace(start=start, stop=at + 1, size=size)
            start, size = at + 1, 0
    if not sizes:
        yield whole


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


def _files(paths: list[str]) -> dict[str, tuple[str, str]]:
    """Every file meant, once: its real path, with the path it was found by and the root its name starts from."""
    found: dict[str, tuple[str, str]] = {}
    for given in paths:
        root, files = _matches(given)
        if not files:
            raise ValueError(_no_match(given))
        for file in files:
            found.setdefault(os.path.realpath(file), (file, root))
    return found


def _matches(given: str) -> tuple[str, list[str]]:
    """The root of a path as given, and its files in order, both absolute."""
    path = os.path.abspath(os.path.expanduser(local(given)))
    if os.path.isdir(path):
        return path, _below(path)
    if os.path.exists(path):
        if not os.path.isfile(path):
            raise ValueError(f"{given} is neither a file nor a folder")
        return os.path.dirname(path), [path]
    if not glob.has_magic(path):
        return path, []
    parts = Path(path).parts
    plain_parts = next(at for at, part in enumerate(parts) if glob.has_magic(part))
    root = str(Path(*parts[:plain_parts]))
    return root, sorted(file for file in glob.glob(path, recursive=True) if os.path.isfile(file))


def _below(folder: str) -> list[str]:
    files = []
    for here, folders, names in os.walk(folder, onerror=_not_listed):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        seen = (os.path.join(here, name) for name in sorted(names) if not name.startswith("."))
        files += [file for file in seen if stat.S_ISREG(_stat(file).st_mode)]
    return files


def _not_listed(error: OSError) -> None:
    raise ValueError(f"{error.filename} cannot be listed: {error.strerror}") from error


def _stat(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error


def _no_match(given: str) -> str:
    """One sentence for a path that matches no file, with a near one where the first wrong name has a near match."""
    path = os.path.abspath(os.path.expanduser(given))
    if os.path.isdir(path):
        return f"no files in the folder {given}"
    here = Path(path)
    while not here.parent.is_dir():
        here = here.parent
    if glob.has_magic(path) and any(os.path.isdir(folder) for folder in glob.glob(path)):
        return f"{given} matches only folders; to read what is in them, write {given.rstrip('/')}/**"
    near = difflib.get_close_matches(here.name, os.listdir(here.parent), n=1)
    hint = f"; did you mean {here.parent / near[0]}?" if near else ""
    return f"no file matches {given}{hint}"


def _named(files: dict[str, tuple[str, str]]) -> list[tuple[str, str]]:
    """(source name, path) of each file; files that would share a name are called by their whole path."""
    named = [(_source(file, root), file) for file, root in files.values()]
    often = Counter(source for source, _ in named)
    return [(source if often[source] == 1 else Path(file).as_posix(), file) for source, file in named]


def _source(file: str, root: str) -> str:
    return f"{os.path.basename(root)}/{Path(file).relative_to(root).as_posix()}"
