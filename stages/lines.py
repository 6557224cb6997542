"""Repeated lines: what stands on very many pages (menus, notices, licences, "page not found") is kept on a few of them.

1. `sketch` (with the stages before it, in parallel): the hashes of a document's lines that are long enough to say
   something (`kernels/repeats.py` says which may go at all), and a hash of its id.
2. counts: each partition's lines, sorted by hash, with the number of its documents that have them.
3. hot: one range of hashes at a time, the lines that more than `max_documents` documents of the corpus have.
4. verdicts: each partition's texts without those lines.

A hot line stays in the `keep` documents whose ids hash lowest. The order is the same for every line, so that a text
which is hot from end to end, a licence, stays whole in one place instead of a line here and a line there; and it is the
same however documents lie in partitions. This stage belongs behind `dedup`: before it, the copies of a page make what
the page says look like boilerplate. Every step holds one partition's hashes, one bucket, or one batch of text.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from pipeline.schema import DROP, text_buffers
from pipeline.stage import Barrier, Part, Steps
from pipeline.storage import atomic, write_array, write_json
from stages.kernels import repeats
from stages.kernels.sketch import unit_table
from stages.kernels.text import classes

_TOTALS = ("removed_lines", "removed_bytes", "changed", "dropped")  # the first three of the documents that stay
_TOP = 20  # of the most frequent lines, for the summary
_SAMPLE = 200  # characters of each


class Lines(Barrier):
    """Remove lines that very many documents share, but for a few copies of each.

    Two lines are the same if they differ in case, width, accents, punctuation or blanks only. Code (fenced or
    indented), tables and lines without a letter are left alone. Adds `lines_removed`. Drop reason: repeated_lines, for
    a document of which less than `min_kept` or no letter would be left, unless it is one of those that keep a line for
    all others, so that every line stays in `keep` documents; it is rejected with the text it came with.
    """

    # On 71,547 pages of documentation without duplicates, what 11 to 20 pages share is mostly something said on each of
    # them; above that the share of furniture grows. 20 takes 5.7 % of the lines that are compared, 10 takes 12.8 %.
    max_documents: int = Field(20, ge=1, description="a line that more documents than this have is repeated")
    keep: int = Field(
        1, ge=0, description="documents that keep a repeated line, the same ones for all lines they share"
    )
    min_words: int = Field(5, ge=1, description="words a line must have to be removed, in scripts written with spaces")
    min_chars: int = Field(8, ge=1, description="characters a line must have, in Han, Kana, Thai and the like")
    paragraphs: bool = Field(False, description="compare paragraphs, parted by blank lines, instead of lines")
    min_kept: float = Field(0.1, ge=0, le=1, description="share of its bytes that must be left of a document")
    bucket_rows: int = Field(4_000_000, ge=1, description="lines in memory at a time (about 100 bytes each)")

    needs: ClassVar[tuple[str, ...]] = ("id", "text")
    adds: ClassVar[dict[str, pa.DataType]] = {"lines_removed": pa.int32()}

    @model_validator(mode="after")
    def _keeps_few(self) -> "Lines":
        if self.keep > self.max_documents:
            raise ValueError(f"keep ({self.keep}) is more than max_documents ({self.max_documents})")
        return self

    def sketch(self, docs: pa.Table) -> pa.Table:
        """document (hash of its id), lines (their number), hashes (of those that are compared; distinct, ascending)."""
        starts, hashes, lines = repeats.piece_hashes(*text_buffers(docs["text"]), _tables(), *self.pieces)
        lists = pa.LargeListArray.from_arrays(pa.array(starts), pa.array(hashes))
        document = repeats.hash_rows(*text_buffers(docs["id"]))
        return pa.table({"document": pa.array(document), "lines": pa.array(lines), "hashes": lists})

    @property
    def pieces(self) -> tuple[tuple[int, int], bool]:
        """What is compared, as the kernels take it."""
        return (self.min_words, self.min_chars), self.paragraphs

    def resolve(self, parts: list[Part], steps: Steps) -> list[Path]:
        """Verdict files in the order of `parts`, with texts; and a `summary.json` beside the first."""
        if not parts:
            return []
        counts = steps("counts", write_counts, [_Counts(self, part) for part in parts])
        rows = [record["rows"] for record in counts]
        buckets = -(-sum(record["distinct"] for record in counts) // self.bucket_rows) or 1
        hot = steps("hot", write_hot, [_Hot(self, rows, bucket, buckets) for bucket in range(buckets)])
        top = sorted((line for record in hot for line in record["top"]), reverse=True)[:_TOP]
        tasks = [_Verdicts(self, part, row, [record["file"] for record in hot], top) for part, row in zip(parts, rows)]
        verdicts = steps("verdicts", write_verdicts, tasks)
        files = [Path(record["file"]) for record in verdicts]
        write_json(files[0].parent / "summary.json", _summary(counts, hot, top, verdicts))
        return files


def _summary(counts: Any, hot: Any, top: list[list[int]], verdicts: Any) -> dict[str, Any]:
    """What happened, in numbers, and the most frequent of the lines that went."""

    def total(records: Any, name: str) -> int:
        return sum(record[name] for record in records)

    samples = {
        value: text for value, _, text in sorted((s for record in verdicts for s in record["samples"]), reverse=True)
    }
    return {
        "documents": total(counts, "documents"),
        "lines": total(counts, "lines"),
        "compared_lines": total(counts, "compared"),
        "distinct_lines": total(hot, "distinct"),
        "repeated_lines": total(hot, "hot"),
        **{name: total(verdicts, name) for name in _TOTALS},
        "most_frequent": [{"documents": count, "text": samples[value]} for count, value in top],
    }


class _Counts(NamedTuple):
    lines: Lines
    part: Part


class _Hot(NamedTuple):
    lines: Lines
    rows: list[str]
    bucket: int
    buckets: int


class _Verdicts(NamedTuple):
    lines: Lines
    part: Part
    rows: str
    hot: list[str]
    top: list[list[int]]  # [documents, hash] of the lines to bring a sample of


def _tables() -> tuple[np.ndarray, np.ndarray]:
    return unit_table(), classes()


def _sketches(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """The batches of a sketch file: documents, lines, starts (from 0), hashes."""
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    for number in range(reader.num_record_batches):
        batch = reader.get_batch(number)
        lengths = np.diff(batch["hashes"].offsets.to_numpy())
        starts = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))
        yield batch["document"].to_numpy(), batch["lines"].to_numpy(), starts, batch["hashes"].flatten().to_numpy()


def write_counts(task: _Counts, out: Path) -> dict[str, Any]:
    """The lines of one partition: uint64[3, rows], hash, document, and the number of documents of the partition.

    Sorted by hash, then document; of one hash no more rows than documents that may keep it. The number stands in the
    first of them, the others have 0.
    """
    documents, hashes = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    number = lines = 0
    for document, pieces, starts, values in _sketches(task.part.sketch):
        documents.append(np.repeat(document, np.diff(starts)))
        hashes.append(values)
        number += len(document)
        lines += int(pieces.sum())
    if number != task.part.rows:
        raise ValueError(f"{task.part.sketch} has {number} rows, not {task.part.rows}")
    rows = np.stack((np.concatenate(hashes), np.concatenate(documents), np.ones(sum(map(len, hashes)), np.uint64)))
    compared = rows.shape[1]
    rows, distinct = _counted(rows, max(1, task.lines.keep))
    return {
        "rows": write_array(Path(f"{out}.npy"), rows),
        "documents": number, "lines": lines, "compared": compared, "distinct": distinct,
    }  # fmt: skip


def _counted(rows: np.ndarray, keep: int) -> tuple[np.ndarray, int]:
    """`rows` sorted, counted and cut as `write_counts` says, and the number of different hashes."""
    rows = rows[:, np.lexsort((rows[1], rows[0]))]
    starts = np.flatnonzero(np.diff(rows[0], prepend=~rows[0, :1]))
    if len(starts) == 0:
        return rows, 0
    counts = np.add.reduceat(rows[2], starts)
    rows[2] = 0
    rows[2, starts] = counts
    rank = np.arange(rows.shape[1]) - np.repeat(starts, np.diff(starts, append=rows.shape[1]))
    return rows[:, rank < keep], len(starts)


def _edges(bucket: int, buckets: int, hashes: np.ndarray) -> slice:
    """Where the hashes of a bucket stand among sorted `hashes`."""
    low, high = (-(-(edge << 64) // buckets) for edge in (bucket, bucket + 1))
    stop = np.searchsorted(hashes, np.uint64(high)) if high < 1 << 64 else len(hashes)
    return slice(int(np.searchsorted(hashes, np.uint64(low))), int(stop))


def write_hot(task: _Hot, out: Path) -> dict[str, Any]:
    """The repeated lines of one bucket: uint64[2, rows], hash and the last document that keeps it; sorted by hash."""
    slices = [np.zeros((3, 0), np.uint64)]
    for path in task.rows:
        rows = np.load(path, mmap_mode="r")
        slices.append(np.array(rows[:, _edges(task.bucket, task.buckets, rows[0])]))
    keep = task.lines.keep
    rows, distinct = _counted(np.concatenate(slices, axis=1), max(1, keep))
    firsts = np.flatnonzero(rows[2] > task.lines.max_documents)
    limits = rows[1, firsts + keep - 1] if keep else np.zeros(len(firsts), np.uint64)  # no document has the hash 0
    order = np.lexsort((rows[0, firsts], rows[2, firsts]))[::-1][:_TOP]
    return {
        "file": write_array(Path(f"{out}.npy"), np.stack((rows[0, firsts], limits))),
        "distinct": distinct,
        "hot": len(firsts),
        "top": rows[[2, 0]][:, firsts[order]].T.tolist(),
    }


def _hot_here(task: _Verdicts) -> np.ndarray:
    """Of the repeated lines of the whole corpus, as `write_hot` has them, those of this partition."""
    hashes = np.load(task.rows, mmap_mode="r")[0]
    hashes = hashes[np.diff(hashes, prepend=~hashes[:1]) != 0]
    found = [np.zeros((2, 0), np.uint64)]
    for bucket, path in enumerate(task.hot):
        hot = np.load(path)
        here = hashes[_edges(bucket, len(task.hot), hashes)]
        found.append(hot[:, np.isin(hot[0], here, assume_unique=True)])
    return np.concatenate(found, axis=1)


def write_verdicts(task: _Verdicts, out: Path) -> dict[str, Any]:
    """One partition's verdicts, a row a document: `columns()`, those of `schema.DROP`, and `text` where it changes."""
    hot = _hot_here(task)
    sampled, samples = _sampled(task), []
    totals = np.zeros(len(_TOTALS), np.int64)
    schema = pa.schema([*task.lines.columns().items(), *DROP.items(), ("text", pa.string())])
    sketch = pa.ipc.open_file(pa.memory_map(str(task.part.sketch))).read_all()
    path, base = Path(f"{out}.parquet"), 0
    with atomic(path) as beside, pq.ParquetWriter(beside, schema, compression="lz4") as writer:
        for texts in _texts(task.part.docs):
            found = sketch.slice(base, len(texts)).combine_chunks()
            table, numbers = _judged(task.lines, texts, found, hot)
            writer.write_table(table.cast(schema))
            samples += _samples(task, texts, found["document"].to_numpy(), sampled)
            totals += numbers
            base += len(texts)
    return {"file": str(path), "rows": base, "samples": samples, **dict(zip(_TOTALS, totals.tolist(), strict=True))}


def _texts(path: Path) -> Iterator[pa.ChunkedArray]:
    """The texts of a Parquet file, a row group (about 32 MB) at a time."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns=["text"], use_threads=False)["text"]


def _judged(lines: Lines, texts: pa.ChunkedArray, sketch: pa.Table, hot: np.ndarray) -> tuple[pa.Table, list[int]]:
    """The verdicts on some documents, and what they come to (`_TOTALS`)."""
    documents = sketch["document"].to_numpy()
    rows = _losing(sketch["hashes"], documents, hot)
    data, offsets = text_buffers(texts.take(pa.array(rows)))
    left, ends, counts = repeats.cut(data, offsets, _tables(), *lines.pieces, hot[0], hot[1], documents[rows])
    share = np.where(counts[:, 2], np.diff(ends) / np.diff(offsets), 0.0)
    leaves = (counts[:, 3] == 0) & ((counts[:, 2] == 0) | (share < lines.min_kept))
    removed = np.zeros(len(texts), np.int32)
    removed[rows] = counts[:, 0]
    shortened = pa.LargeStringArray.from_buffers(len(rows), pa.py_buffer(ends), pa.py_buffer(left))
    table = pa.table({
        "lines_removed": removed,
        "drop": _at(rows[leaves], pa.repeat("repeated_lines", int(leaves.sum())), len(texts)),
        "drop_value": _at(rows[leaves], pa.array(share[leaves]), len(texts)),
        "drop_limit": _at(rows[leaves], pa.repeat(lines.min_kept, int(leaves.sum())), len(texts)),
        "text": _at(rows[~leaves], shortened.filter(pa.array(~leaves)), len(texts)),
    })  # fmt: skip
    stay = counts[~leaves]
    return table, [int(stay[:, 0].sum()), int(stay[:, 1].sum()), len(stay), int(leaves.sum())]


def _losing(hashes: pa.ChunkedArray, documents: np.ndarray, hot: np.ndarray) -> np.ndarray:
    """The rows of the documents that have a line to lose."""
    row = np.repeat(np.arange(len(documents)), pc.list_value_length(hashes).to_numpy())
    values = pc.list_flatten(hashes).to_numpy()
    if hot.shape[1] == 0:
        return row[:0]
    place = np.minimum(np.searchsorted(hot[0], values), hot.shape[1] - 1)
    return np.unique(row[(hot[0, place] == values) & (hot[1, place] < documents[row])])


def _at(rows: np.ndarray, values: pa.Array, length: int) -> pa.Array:
    """A column of `length` with these values at these rows, null elsewhere."""
    place = np.full(length, -1)
    place[rows] = np.arange(len(rows))
    return values.take(pa.array(place, mask=place < 0))


def _sampled(task: _Verdicts) -> dict[int, list[int]]:
    """Of the most frequent lines, those of this partition: by the first document that has one, their hashes."""
    rows = np.load(task.rows, mmap_mode="r")
    sampled: dict[int, list[int]] = {}
    for _, value in task.top:
        place = int(np.searchsorted(rows[0], np.uint64(value)))
        if place < rows.shape[1] and rows[0, place] == value:
            sampled.setdefault(int(rows[1, place]), []).append(value)
    return sampled


def _samples(task: _Verdicts, texts: Any, documents: np.ndarray, sampled: dict[int, list[int]]) -> list[list[Any]]:
    """[hash, document, text] of the lines that are to be sampled from these documents."""
    samples = []
    for row in np.flatnonzero(np.isin(documents, np.array(list(sampled), np.uint64))).tolist():
        data, offsets = text_buffers(texts.slice(row, 1))
        for value in sampled[int(documents[row])]:
            start, stop = repeats.find_piece(data, offsets, 0, _tables(), *task.lines.pieces, np.uint64(value))
            line = data[start:stop].tobytes().decode().strip()
            samples.append([value, int(documents[row]), line[:_SAMPLE]])
    return samples
