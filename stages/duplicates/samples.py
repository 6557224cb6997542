"""A few documents by ordinal, read back from where they are stored."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stages.duplicates.keys import OLD, Stored

_HEAD = 300  # characters of a text that are shown


class SamplesTask(NamedTuple):
    """Documents to show."""

    stored: list[Stored]
    before: Any  # index.Before, or None
    ordinals: list[int]


def write_samples(task: SamplesTask, out: Path) -> dict[str, Any]:
    """The beginning of the text of each document, in the record."""
    del out  # nothing but the record
    found = texts_of(task.stored, np.array(task.ordinals, np.uint64))
    for segment in task.before.segments if task.before else ():
        first, stop = segment.base + int(OLD), segment.stop + int(OLD)
        wanted = np.array(sorted(n for n in task.ordinals if first <= n < stop), np.uint64)
        for place, docs in task.before.documents(segment, wanted & ~OLD) if len(wanted) else ():
            found.update(zip(wanted[place].tolist(), docs["text"].to_pylist(), strict=True))
    return {"texts": [found[ordinal][:_HEAD] for ordinal in task.ordinals]}


def texts_of(stored: list[Stored], ordinals: np.ndarray) -> dict[int, str]:
    """The texts of documents of this run, by ordinal; those of other batches are passed over."""
    ordinals = np.sort(ordinals)
    found: dict[int, str] = {}
    for part in stored:
        start, stop = np.searchsorted(ordinals, np.array([part.base, part.base + part.rows], np.uint64))
        rows = (ordinals[start:stop] - np.uint64(part.base)).astype(np.int64)
        if len(rows):
            found.update(zip(ordinals[start:stop].tolist(), _texts(part.docs, rows), strict=True))
    return found


def _texts(docs: Path, rows: np.ndarray) -> list[str]:
    """The texts of these rows (ascending) of a Parquet file; one row group in memory at a time."""
    texts: list[str] = []
    with pq.ParquetFile(docs) as file:
        first = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            start, stop = np.searchsorted(rows, (first, first + count))
            if stop > start:
                column = file.read_row_group(group, columns=["text"], use_threads=False)["text"]
                texts += column.take(pa.array(rows[start:stop] - first)).to_pylist()
            first += count
    return texts
