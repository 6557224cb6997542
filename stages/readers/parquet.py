"""Parquet: by row group, column by column; the text of ordinary files never becomes a Python object."""

from collections.abc import Iterator
from datetime import date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import schema
from pipeline.stage import Piece
from stages.readers import rows
from stages.readers.charset import decode
from stages.readers.paths import without
from stages.readers.records import from_nested
from stages.readers.rows import Fields, Row, json_text, text_of, unfit
from stages.readers.sniff import is_html

_DAMAGE = (OSError, pa.ArrowException, UnicodeDecodeError, OverflowError)
"""What pyarrow 17 to 22 raises for damaged files: wrong bytes of a footer give all of these."""


def row_groups(path: str) -> list[int]:
    """Compressed bytes of each row group; empty where the file's footer cannot be read."""
    try:
        with pq.ParquetFile(path) as file:
            groups = [file.metadata.row_group(at) for at in range(file.metadata.num_row_groups)]
            return [sum(group.column(at).total_compressed_size for at in range(group.num_columns)) for group in groups]
    except _DAMAGE as error:
        _raise_of_disk(error)
        return []


def columns(path: str) -> list[str] | None:
    """The columns, those in structs by their path, None where the file cannot be read."""
    try:
        with pq.ParquetFile(path) as file:
            return [name for field in file.schema_arrow for name in _paths(field.name, field.type)]
    except _DAMAGE as error:
        _raise_of_disk(error)
        return None


def read(piece: Piece, fields: Fields) -> Iterator[pa.Table | Row]:
    """Tables with the columns of a source, and a `corrupt` row for each row group that cannot be read to its end.

    One row for a file that gives no document: its footer is damaged, or its columns do not fit.
    """
    try:
        file = pq.ParquetFile(piece.path)
        names, groups = [field.name for field in file.schema_arrow], _groups(file)
        reason = _misfit(file.schema_arrow, fields)
    except _DAMAGE as error:
        _raise_of_disk(error)
        yield unfit("damaged_file", piece.size)
        return
    with file:
        if reason:
            yield unfit(reason)
            return
        first = sum(groups[: piece.start])
        for at in range(piece.start, len(groups) if piece.stop < 0 else min(piece.stop, len(groups))):
            yield from _group(file, at, first, names, piece.source, fields)
            first += groups[at]


def _raise_of_disk(error: BaseException) -> None:
    """Raise the error again where it is not of the data: the file cannot be opened, or the disk does not give it."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error


def _groups(file: Any) -> list[int]:
    """The rows of each row group. Raises `ValueError` for a number that cannot be."""
    found = [file.metadata.row_group(at).num_rows for at in range(file.metadata.num_row_groups)]
    if any(rows_ < 0 for rows_ in found) or sum(found) != file.metadata.num_rows:
        raise pa.ArrowInvalid(f"row groups of {found} rows")
    return found


def _misfit(columns: pa.Schema, fields: Fields) -> str | None:
    """Why a file with this schema gives no documents, None where it does."""
    if fields.each is not None:
        return None if _type_at(columns, fields.each) is not None else "no_text_field"
    if columns.names.count(fields.text) < 2 and _type_at(columns, fields.text) is None:
        return "no_text_field"
    if any(columns.names.count(name) > 1 for name in fields.named):
        return "repeated_column"
    return None if _is_text(_type_at(columns, fields.text)) else "wrong_type"


def _is_text(kind: Any) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    checks = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    return _is_binary(value) or any(check(value) for check in checks)


def _is_binary(kind: pa.DataType) -> bool:
    checks = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return any(check(kind) for check in checks)


def _paths(name: str, kind: pa.DataType) -> list[str]:
    """The names by which a column and what lies in it can be called."""
    if pa.types.is_struct(kind):
        return [name, *(path for field in kind for path in _paths(f"{name}.{field.name}", field.type))]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return [name, *_paths(f"{name}[]", kind.value_type)]
    return [name]


def _type_at(columns: pa.Schema, name: str) -> pa.DataType | None:
    """The type of a column or, by its path, of a field in a struct."""
    if name in columns.names:
        return columns.field(name).type
    head, _, path = name.partition(".")
    kind = columns.field(head).type if path and columns.names.count(head) == 1 else None
    for part in path.split("."):
        if kind is None or not pa.types.is_struct(kind) or kind.get_field_index(part) < 0:
            return None
        kind = kind.field(kind.get_field_index(part)).type
    return kind


def _group(file: Any, at: int, first: int, names: list[str], source: str, fields: Fields) -> Iterator[pa.Table | Row]:
    group = file.metadata.row_group(at)
    size = max(1, group.total_byte_size // max(1, group.num_rows))
    batch_rows = max(1, min(rows.BATCH_ROWS, schema.BATCH_BYTES // size))
    columns = rows.numbered(names) if len(set(names)) < len(names) else names
    end = first + group.num_rows
    try:
        for batch in file.iter_batches(batch_size=batch_rows, row_groups=[at]):
            batch = pa.RecordBatch.from_arrays(batch.columns, names=columns)
            yield from _found(batch, first, source, fields)
            first += len(batch)
    except _DAMAGE as error:
        _raise_of_disk(error)
        yield rows.lost(first, group.total_byte_size, truncated=False)
        return
    if first != end:
        yield rows.lost(first, end - first, truncated=False)


def _found(batch: pa.RecordBatch, first: int, source: str, fields: Fields) -> list[pa.Table | Row]:
    """What a batch comes to, all of it before any is given: a batch is read whole or not at all."""
    if fields.each is None:
        return list(schema.split_batches(_table(batch, first, source, fields)))
    records = enumerate(_values(pa.StructArray.from_arrays(batch.columns, names=batch.schema.names)), first)
    return [row for at, record in records for row in from_nested(record, at, None, fields, "utf-8")]


def _table(batch: pa.RecordBatch, first: int, source: str, fields: Fields) -> pa.Table:
    count = len(batch)
    column = _column(batch, fields.text)
    assert column is not None
    text, reasons, sizes = _text(column, fields.limit)
    too_large = pc.equal(reasons, "too_large")
    found: dict[str, Any] = {
        "id": [rows.document_id(source, str(first + at)) for at in range(count)],
        "source": [source] * count,
        "offset": range(first, first + count),
        "source_id": _strings(batch, fields.id),
        "url": _strings(batch, fields.url),
        "date": _strings(batch, fields.date),
        "mime": _mimes(text, fields),
        "charset": ["utf-8"] * count,
        "metadata": _metadata(batch, fields),
        "text": text,
        **{f"meta_{name}": _strings(batch, name) for name in fields.keep},
        "drop": reasons,
        "drop_value": pc.if_else(too_large, sizes, None).cast(pa.float64()),
        "drop_limit": pc.if_else(too_large, float(fields.limit), None).cast(pa.float64()),
    }
    kinds = rows.columns(fields.keep)
    arrays = [_array(found[name], kind) for name, kind in kinds.items()]
    return pa.Table.from_arrays(arrays, schema=pa.schema(list(kinds.items())))


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values, kind)


def _column(batch: pa.RecordBatch, name: str | None) -> pa.Array | None:
    """A column or, by its path, a field in a struct; None where there is none."""
    if name is None or _type_at(batch.schema, name) is None:
        return None
    if name in batch.schema.names:
        return batch.column(name)
    head, *path = name.split(".")
    return pc.struct_field(batch.column(head), path)


def _strings(batch: pa.RecordBatch, name: str | None) -> list[str | None]:
    column = _column(batch, name)
    return [None] * len(batch) if column is None else [_string(value) for value in _values(column)]


def _string(value: Any) -> str | None:
    if isinstance(value, (date, datetime)):
        return value.isoformat()
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else text_of(value)


def _metadata(batch: pa.RecordBatch, fields: Fields) -> list[str | None]:
    """The columns without a role as a JSON object for each row, None where all of them have one."""
    named = fields.named
    others = batch.select([name for name in batch.schema.names if name not in named])
    if not others.num_columns:
        return [None] * len(batch)
    records = _values(pa.StructArray.from_arrays(others.columns, names=others.schema.names))
    if fields.nested:
        records = [without(record, named) for record in records]
    return [json_text(record) if record else None for record in records]


def _values(column: pa.Array) -> list[Any]:
    """The values as Python objects; bytes that are not UTF-8 in what should be text become U+FFFD."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [_readable(value) for value in column.cast(_as_bytes(column.type)).to_pylist()]


def _as_bytes(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_as_bytes(field.type)) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(_as_bytes(kind.value_type))
    if pa.types.is_dictionary(kind):
        return _as_bytes(kind.value_type)
    return pa.large_binary() if pa.types.is_string(kind) or pa.types.is_large_string(kind) else kind


def _readable(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list):
        return [_readable(item) for item in value]
    return {key: _readable(item) for key, item in value.items()} if isinstance(value, dict) else value


def _mimes(text: pa.Array, fields: Fields) -> pa.Array:
    """text/html for whole HTML pages or, where the fields say so, for all."""
    if fields.html:
        return pa.repeat(pa.scalar("text/html"), len(text))
    tagged = pc.match_substring_regex(text, "^[\\s\ufeff\u3000]*<")
    if not pc.any(tagged).as_py():
        return pa.repeat(pa.scalar("text/plain"), len(text))
    heads = pc.utf8_slice_codeunits(pc.if_else(tagged, text, ""), 0, 4096).to_pylist()
    pages = pa.array([is_html(head.lstrip().encode()) for head in heads])
    return pc.if_else(pages, "text/html", "text/plain")


def _text(column: pa.Array, limit: int) -> tuple[pa.Array, pa.Array, pa.Array]:
    """The text without nulls, the reason of each row that is no document, and each row's bytes."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    raw = column.cast(pa.large_binary() if _is_binary(column.type) else pa.large_string())
    sizes = pc.binary_length(raw)
    try:
        column = raw.cast(pa.large_string())
        column.validate(full=True)
        bad = pa.array([False] * len(column))
    except pa.ArrowInvalid:  # bytes that are not UTF-8
        column, bad = _repaired(raw)
    large = pc.fill_null(pc.greater(sizes, limit), False)
    blank = pc.fill_null(pc.equal(pc.binary_length(pc.utf8_trim_whitespace(column)), 0), False)
    reasons = pc.case_when(
        pc.make_struct(bad, pc.is_null(column), large, blank),
        "undecodable", "missing_field", "too_large", "empty", pa.scalar(None, pa.string()),
    )  # fmt: skip
    text = pc.if_else(pc.is_valid(reasons), pa.scalar("", pa.large_string()), column)
    return text.cast(pa.string()), reasons, sizes


def _repaired(column: pa.Array) -> tuple[pa.Array, pa.Array]:
    """The text of each row in whatever charset it is, and which rows are in none."""
    values = column.cast(pa.large_binary()).to_pylist()
    decoded = [None if value is None else decode(value, None, is_html(value[:4096])) for value in values]
    texts = [None if value is None else (text[0] if text else "") for value, text in zip(values, decoded, strict=True)]
    bad = [value is not None and text is None for value, text in zip(values, decoded, strict=True)]
    return pa.array(texts, pa.large_string()), pa.array(bad)
