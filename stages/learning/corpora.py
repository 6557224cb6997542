"""The documents of corpora, whatever they lie in: runs, folders, Parquet, JSON lines, text.

One reader for everything that learns, so that a corpus means the same to all: the same files, the same documents, and
the same account of what is no document. Nothing is lost without being counted.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import rundir, schema
from pipeline.stage import Piece
from stages.readers import plain, records
from stages.readers.rows import Fields, Row, text_of

COLUMNS = {"text": pa.large_string(), **dict.fromkeys(("url", "domain", "source", "lang"), pa.string())}
"""The columns of a batch; all but `text` are null where a document does not say."""

UNDERSTOOD = ".parquet, .jsonl or .txt (.gz, .zst)"

_NAME = re.compile(r".*\.(?:(?P<parquet>parquet)|(?:(?P<jsonl>jsonl|ndjson|json)|(?P<text>txt))(?:\.gz|\.zst)?)")
_WITHOUT_TEXT = ("missing_field", "wrong_type", "empty")
_BATCH = 1000
_LARGEST_TEXT = 1 << 30  # bytes of a text file


class Unusable(ValueError):
    """What is wrong with a corpus or a vocabulary, said to the person who named it."""


class Batch(NamedTuple):
    """Some rows of a file."""

    docs: pa.Table  # COLUMNS; those with a text that is more than blanks
    lost: Counter[str]  # the others, by the reason that `stages.readers` give

    def counts(self) -> dict[str, int]:
        """The others: those without a text, and those that cannot be read at all."""
        without = sum(self.lost[reason] for reason in _WITHOUT_TEXT)
        return {"unreadable": self.lost.total() - without, "without_text": without}


def files(paths: Iterable[Path]) -> list[Path]:
    """The files of corpora: a file, a folder with all below it, or a run, whose last group with text is meant.

    Hidden files are passed over, and in folders `.json`, which mostly tells about a corpus; by its own name it is read
    as lines. Raises `Unusable` for a path with no file.
    """
    return [file for path in paths for file in _at(path)]


def name_of(path: Path) -> str:
    """What a file is called where it has to tell documents apart: with its folder, as `collect` calls it."""
    return "/".join(path.parts[-2:])


def _at(path: Path) -> list[Path]:
    found = _below(path) if path.is_dir() else [path] if path.is_file() and _kind(path) else []
    if not found:
        raise Unusable(f"{path}: no {UNDERSTOOD} there" if path.exists() else f"{path}: no such file or folder")
    return found


def _kind(path: Path) -> str | None:
    """Which reader understands a file, by its name."""
    found = _NAME.fullmatch(path.name.lower())
    return next((kind for kind in ("parquet", "jsonl", "text") if found[kind]), None) if found else None


def _below(folder: Path) -> list[Path]:
    if rundir.is_group(folder):
        return _of_group(folder)
    run = rundir.RunDir(folder)
    if run.outline.is_file() or run.config.is_file():
        report = run.read_report()
        if report is None:
            raise Unusable(f"{folder}: a run that is not finished")
        return _of_run(folder, [group["folder"] for group in report["groups"]])
    entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    if (folder / "LATEST").is_file():  # the increments of a run that goes on
        entries = [entry for entry in entries if entry.name.isdigit()]
    found = []
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            found += _below(entry)
        elif _kind(entry) and entry.suffix.lower() != ".json":
            found.append(entry)
    return found


def _of_run(folder: Path, groups: list[str]) -> list[Path]:
    for group in reversed(groups):
        if found := _of_group(folder / group):
            return found
    raise Unusable(f"{folder}: no group of this run keeps texts")


def _of_group(folder: Path) -> list[Path]:
    """The surviving documents, where they have a text."""
    return [path for path in sorted(folder.glob("part-*.parquet")) if "text" in _schema(path).names]


def _schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except pa.ArrowInvalid as error:
        raise Unusable(f"{path}: {error}") from None


def read(path: Path) -> Iterator[Batch]:
    """The documents of one file, in batches, and what of it is none.

    Raises `Unusable` for a file that cannot be read, and for one of which no row has a field `text`.
    """
    kind, met, lost = _kind(path), 0, Counter[str]()
    batches = _parquet(path) if kind == "parquet" else _rows(path, kind)
    try:
        for batch in batches:
            yield batch
            met += len(batch.docs)
            lost += batch.lost
    except (OSError, pa.ArrowInvalid) as error:
        raise Unusable(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if kind == "jsonl" and lost["truncated"] + lost["corrupt"]:  # how many rows were lost with it, nobody can say
        raise Unusable(f"{path} is {'cut short' if lost['truncated'] else 'damaged'}; {met:,} texts of it can be read")
    if not met and kind == "jsonl":
        _check(path, lost)


def _check(path: Path, lost: Counter[str]) -> None:
    """Of a file in which no document was met."""
    if lost["missing_field"] and not lost["empty"] + lost["wrong_type"]:
        raise Unusable(f"no field 'text' in {path}")
    if lost["wrong_type"] and not lost["empty"]:
        raise Unusable(f"{path}: field 'text' is not text")
    if lost and not lost["empty"]:
        raise Unusable(f"{path}: none of its lines can be read ({', '.join(sorted(lost))})")


def _parquet(path: Path) -> Iterator[Batch]:
    kinds = _schema(path)
    if "text" not in kinds.names:
        raise Unusable(f"{path}: no column 'text'; its columns are {', '.join(map(repr, kinds.names)) or 'none'}")
    kind = kinds.field("text").type
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (_is_text(value) or pa.types.is_null(value)):
        raise Unusable(f"{path}: column 'text' is of {kind}, not of text")
    columns = [name for name in COLUMNS if name in kinds.names]
    with pq.ParquetFile(path) as file:
        for at in range(file.num_row_groups):
            group = file.metadata.row_group(at)
            size = max(1, group.total_byte_size // max(1, group.num_rows))
            rows = max(1, min(_BATCH, schema.BATCH_BYTES // size))
            for batch in file.iter_batches(rows, row_groups=[at], columns=columns, use_threads=False):
                yield from _split(_from_table(batch))


def _split(batch: Batch) -> Iterator[Batch]:
    """The same in batches of some `schema.BATCH_BYTES` of text, which a file that stores repeats once does not tell."""
    lost = batch.lost
    for docs in schema.split_batches(batch.docs) if len(batch.docs) else [batch.docs]:
        yield Batch(docs, lost)
        lost = Counter()


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _from_table(batch: pa.RecordBatch) -> Batch:
    text, lost = _valid(batch["text"].cast(COLUMNS["text"]))
    arrays = [text, *(_strings(batch, name) for name in COLUMNS if name != "text")]
    filled = pc.fill_null(pc.greater(pc.binary_length(pc.utf8_trim_whitespace(text)), 0), False)
    docs = pa.table(arrays, pa.schema(list(COLUMNS.items()))).filter(filled)
    without = len(batch) - len(docs) - lost
    return Batch(docs, +Counter({"undecodable": lost, "missing_field": without}))


def _valid(column: pa.Array) -> tuple[pa.Array, int]:
    """Texts with null for bytes that are no UTF-8, which a column may hold though its type says text; how many."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        texts = [_decoded(value) for value in column.cast(pa.large_binary()).to_pylist()]
        return pa.array(texts, column.type), texts.count(None) - column.null_count
    return column, 0


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _strings(batch: pa.RecordBatch, name: str) -> pa.Array:
    """A column as text, null where there is none: nothing in it, or no UTF-8."""
    if name not in batch.schema.names:
        return pa.nulls(len(batch), pa.string())
    column = batch[name]
    if _is_text(column.type) or pa.types.is_dictionary(column.type):
        text, _ = _valid(column.cast(pa.string()))
        return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
    return pa.array([text_of(value) for value in column.to_pylist()], pa.string())


def _rows(path: Path, kind: str | None) -> Iterator[Batch]:
    """Lines, or the one document that a text file is."""
    piece = Piece(str(path), path.name, kind or "", path.stat().st_size)
    fields = Fields(url="url", keep=("domain", "source", "lang"))
    if kind == "text":
        found = plain.read(piece, replace(fields, limit=_LARGEST_TEXT), html=False)
    else:
        found = records.read_jsonl(piece, fields)
    rows: list[Row] = []
    size = 0
    for row in found:
        rows.append(row)
        size += len(row.text)
        if len(rows) >= _BATCH or size >= schema.BATCH_BYTES:
            yield _from_rows(rows)
            rows, size = [], 0
    if rows:
        yield _from_rows(rows)


def _from_rows(rows: list[Row]) -> Batch:
    good = [(row.text, row.url, *(row.kept or (None,) * 3)) for row in rows if row.reason is None]
    arrays = [pa.array([row[at] for row in good], kind) for at, kind in enumerate(COLUMNS.values())]
    docs = pa.table(arrays, pa.schema(list(COLUMNS.items())))
    return Batch(docs, Counter(row.reason for row in rows if row.reason is not None))
