"""A partition of documents as sorted runs on disk, and slices of all partitions' runs put together again.

A run is a batch of documents in the order of their keys: its ids lie in NAME.tokens, everything else, with `key` and
`start` (its place in that file, in tokens), is a record batch of NAME.arrow.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

HELD_OUT = np.uint64(1) << np.uint64(63)
"""The bit of the keys of held-out documents, which come after all others."""

RANGES = 1 << 16
"""Shards end at the edge of one of these key ranges, so that the limit holds unless a single range exceeds it."""

_BLOCK = 4_000_000
"""Ids of a shard held at once while it is written."""


def named(out: Path, suffix: str) -> Path:
    """The file of this kind beside the others of a partition or shard."""
    return out.with_name(out.name + suffix)


def read(out: Path) -> Iterator[pa.RecordBatch]:
    """The sorted runs of a scattered partition, mapped, not read."""
    with pa.memory_map(str(named(out, ".arrow"))) as source:
        file = pa.ipc.open_file(source)
        for index in range(file.num_record_batches):
            yield file.get_batch(index)


def slices(out: Path, low: int, high: int) -> Iterator[pa.Table]:
    """The rows of a scattered partition with low <= key <= high, a table for each run that has any."""
    for run in read(out):
        keys = run["key"].to_numpy()
        first = int(np.searchsorted(keys, np.uint64(low), "left"))
        rows = pa.Table.from_batches([run]).slice(first, int(np.searchsorted(keys, np.uint64(high), "right")) - first)
        if len(rows):
            yield rows


def ids(files: list[Path], docs: pa.Table, dtype: str) -> Iterator[np.ndarray]:
    """The ids of each of `docs`, which are in key order; `files` has the ids of each run.

    Read block by block: what a block has of one run lies together there, since runs are in key order too, but for what
    a mixture repeats or leaves out.
    """
    runs, starts, lengths = (docs[name].to_numpy() for name in ("run", "start", "n_tokens"))
    ends = np.cumsum(lengths.astype(np.int64))
    first = 0
    while first < len(docs):
        stop = max(first + 1, int(np.searchsorted(ends, ends[first] - lengths[first] + _BLOCK, "right")))
        block: list[np.ndarray] = [np.empty(0, dtype)] * (stop - first)
        for run in np.unique(runs[first:stop]).tolist():
            rows = first + np.flatnonzero(runs[first:stop] == run)
            gaps = np.flatnonzero(starts[rows[1:]] != starts[rows[:-1]] + lengths[rows[:-1]]) + 1
            for together in np.split(rows, gaps):
                offset = int(starts[together[0]]) * np.dtype(dtype).itemsize
                tokens = np.fromfile(files[run], dtype, int(lengths[together].sum()), offset=offset)
                for row, document in zip(together.tolist(), np.split(tokens, np.cumsum(lengths[together])[:-1])):
                    block[row - first] = document
        yield from block
        first = stop


def by_range(keys: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Tokens in each of the key ranges that shards are made of."""
    return np.bincount((keys >> np.uint64(48)).astype(np.int64), tokens, RANGES).astype(np.int64)


def cut(tokens: np.ndarray, limit: int) -> list[tuple[int, int]]:
    """Ranges of buckets [low, high) that hold at most `limit` tokens each, or one bucket, and cover all tokens."""
    ranges: list[tuple[int, int]] = []
    low, held = 0, 0
    for place in np.flatnonzero(tokens).tolist():
        if held and held + tokens[place] > limit:
            ranges.append((low, place))
            low, held = place, 0
        held += int(tokens[place])
    if held:
        ranges.append((low, len(tokens)))
    return ranges
