"""CSV and TSV. A bad row costs that row; a quotation mark that is never closed costs its line.

In CSV a field in quotation marks may hold delimiters and line ends. In TSV a quotation mark is a character like any
other, unless `quotes` says otherwise.
"""

import csv
from collections import deque
from collections.abc import Iterator
from typing import Any

from pipeline.stage import Piece
from stages.readers.compression import Damaged, Stream
from stages.readers.records import from_record, lines
from stages.readers.rows import Fields, Row, broken_off, misfit, numbered, unfit
from stages.readers.textstream import SURROGATE, TextStream

_PATIENCE = 64  # limits read in vain for a closing quotation mark before every line is a record
_HEADER = 1 << 14  # bytes that the charset of a header alone is judged by
_JUDGED = 100  # lines that tell whether a long field is one, or rows behind a quotation mark that is never closed


class _TooLong(Exception):
    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class _Lines:
    """The lines of a file for `csv.reader`, which takes several where a field in quotation marks spans them.

    The lines of the record that is being read are kept, so that they can be given again.
    """

    def __init__(self, text: TextStream, limit: int) -> None:
        self.charset = text.charset
        self.number = 0  # of lines given
        self.begun = False  # a record is being read: its lines are `first` and `further`
        self._first = ""
        self._further: list[str] = []
        self._size = 0  # characters of those further lines
        self._limit = limit
        self._patience = _PATIENCE * max(limit, 1 << 16)
        self._lines = lines((chunk.replace("\0", "") for chunk in text), "\n", 0, limit)
        self._again: deque[str | _TooLong] = deque()

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        if self.begun or self._again:
            return self._next_further()
        line = next(self._lines)
        self.number += 1
        if line.content is None:
            raise _TooLong(line.size)
        if line.content[:1] == "\n":  # a run of blank lines
            self.number += line.content.count("\n")
        return self._begin(f"{line.content}\n")

    def _begin(self, line: str) -> str:
        self.begun, self._first = True, line
        if self._further:
            self._further, self._size = [], 0
        return line

    def _next_further(self) -> str:
        """A line that is not the first of its record, or that was given before."""
        if self.begun and self._patience < 0:
            raise csv.Error("too many quotation marks that are never closed")
        if self.begun and self.size() > self._limit:
            raise csv.Error("the record is larger than the limit")
        line = self._again.popleft() if self._again else None
        if line is None:
            found = next(self._lines)
            line = _TooLong(found.size) if found.content is None else f"{found.content}\n"
        self.number += 1
        if isinstance(line, _TooLong):
            raise line
        self.number += line.count("\n") - 1
        if not self.begun:
            return self._begin(line)
        self._further.append(line)
        self._size += len(line)
        return line

    def size(self) -> int:
        """Characters of the record so far."""
        return len(self._first) + self._size if self.begun else 0

    def further(self) -> list[str]:
        """The lines of the record behind its first."""
        return self._further if self.begun else []

    def again(self, behind: _TooLong | None) -> None:
        """Give all lines but the first of the record once more, then the one that was too long."""
        rest = self.further()
        self._patience -= self.size()
        self.number -= sum(line.count("\n") for line in rest) + (behind is not None)
        self._again.extendleft(reversed([*rest, *([behind] if behind else [])]))

    def to_closing_quote(self) -> int:
        """Go to the end of the line with the closing quotation mark; returns the size of the whole record."""
        size = self.size()
        within = sum(line.count('"') for line in (self._first, *self.further())) % 2 == 1
        while within:
            self.begun = False
            try:
                line = next(self)
            except _TooLong as long:  # its quotation marks are not known
                size += long.size
            except StopIteration:
                break
            else:
                within ^= line.count('"') % 2 == 1
                size += len(line)
        return size


class _Records:
    """The records of a file: the cells of each ([] for a blank line), or the row that says what is wrong with it."""

    def __init__(self, source: _Lines, delimiter: str, quotes: bool, limit: int) -> None:
        self._source, self._limit = source, limit
        self._format: dict[str, Any] = {
            "delimiter": delimiter, "strict": quotes, "quoting": csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE,
        }  # fmt: skip
        self._reader = csv.reader(source, **self._format)
        self.width = 0  # cells of a record, once the header is known

    def next(self) -> list[str] | Row | None:
        """None at the end."""
        source = self._source
        source.begun = False
        try:
            cells = next(self._reader, None)
        except _TooLong as line:
            if not source.begun:
                return Row(0, reason="too_large", value=line.size, limit=self._limit)
            return self._unclosed(line)
        except csv.Error:
            return self._unclosed(None)
        if cells and self.width and len(cells) != self.width:
            return Row(0, reason="bad_row", value=source.number - sum(line.count("\n") for line in source.further()))
        return cells

    def _unclosed(self, behind: _TooLong | None) -> Row:
        """A record that cannot be read: its first line is to blame, unless it is one field larger than the limit."""
        source = self._source
        if behind is None and source.size() > self._limit and not self._are_rows(source.further()):
            return Row(0, reason="too_large", value=source.to_closing_quote(), limit=self._limit)
        source.again(behind)
        return Row(0, reason="bad_row", value=source.number)

    def _are_rows(self, further: list[str]) -> bool:
        """Whether most of these lines have as many cells as the header."""
        judged = csv.reader(further[:_JUDGED], delimiter=self._format["delimiter"])
        fits = [len(cells) == self.width for cells in judged]
        return sum(fits) * 2 >= len(fits)


def read_csv(piece: Piece, fields: Fields, delimiter: str) -> Iterator[Row]:
    """A row for each record below the header line; one row for a file whose header is no header of such records."""
    with Stream(piece.path) as stream:
        number = 0
        try:
            source = _Lines(TextStream(stream), fields.limit)
            records = _records(source, fields, delimiter)
            header = _header(records)
            if reason := "damaged_file" if header is None else misfit(header, fields):
                yield unfit(reason)
                return
            header = numbered(header or [])
            records.width = len(header)
            while (cells := records.next()) is not None:
                if isinstance(cells, Row):
                    yield cells._replace(offset=number)
                elif cells:
                    yield _from_cells(dict(zip(header, cells, strict=True)), number, fields, source.charset)
                number += bool(cells)
        except Damaged as damage:
            yield broken_off(stream, damage, number, stream.size - damage.start)


def columns(path: str, fields: Fields, delimiter: str) -> list[str] | None:
    """The columns that the header line names, None where it cannot be read."""
    with Stream(path) as stream:
        try:
            return _header(_records(_Lines(TextStream(stream, _HEADER), fields.limit), fields, delimiter)) or None
        except Damaged:
            return None


def _records(source: _Lines, fields: Fields, delimiter: str) -> _Records:
    csv.field_size_limit(fields.limit)
    quotes = fields.quotes if fields.quotes is not None else delimiter == ","
    return _Records(source, delimiter, quotes, fields.limit)


def _header(records: _Records) -> list[str] | None:
    """The first line that is not blank, [] for a file of blank lines, None for a line that cannot be read."""
    while (cells := records.next()) is not None:
        if cells:
            return None if isinstance(cells, Row) else cells
    return []


def _from_cells(record: dict[str, str], number: int, fields: Fields, charset: str) -> Row:
    size = sum(map(len, record.values()))
    if size > fields.limit:
        return Row(number, reason="too_large", value=size, limit=fields.limit)
    if any(map(SURROGATE.search, record.values())):
        return Row(number, reason="undecodable")
    return from_record(record, number, fields, charset)
