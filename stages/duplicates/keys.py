"""Keys and their shuffle: documents that share a band key or an exact hash meet in one bucket.

A key is 64 bits; the lowest is set for an exact hash and clear for a band. A document is its ordinal: its place in the
run, partition after partition, or, with the highest bit set (`OLD`), its ordinal in the index of earlier batches.
"""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from pipeline.schema import text_buffers
from pipeline.storage import write_array
from stages.kernels import cluster

Dedup: TypeAlias = Any
"""The configuration, a `stages.dedup.Dedup`; that module imports this package, so it is not named here."""

EXACT = np.uint64(1)
OLD = np.uint64(1 << 63)


class Stored(NamedTuple):
    """One partition of this run; its documents have the ordinals from `base`, the number of documents before it."""

    docs: Path
    sketch: Path
    rows: int
    base: int


class KeysTask(NamedTuple):
    """One partition's sketches."""

    stored: Stored
    exact: bool  # whether exact hashes are keys too


class EdgesTask(NamedTuple):
    """One range of keys, of all partitions and of the batches before."""

    keys: list[str]
    bucket: int
    buckets: int
    before: Any  # index.Before, or None


def read(path: Path | str) -> pa.RecordBatchFileReader:
    """An Arrow IPC file, mapped."""
    return pa.ipc.open_file(pa.memory_map(str(path)))


def key_range(bucket: int, buckets: int) -> tuple[int, int]:
    """The first key of a bucket and the first beyond it, which may be 2^64."""
    low, high = (-(-(edge << 64) // buckets) for edge in (bucket, bucket + 1))
    return low, high


def slice_of(rows: np.ndarray, low: int, high: int) -> np.ndarray:
    """The columns of uint64[2, n], sorted by its first row, whose key is in [low, high)."""
    start = np.searchsorted(rows[0], np.uint64(low))
    stop = np.searchsorted(rows[0], np.uint64(high)) if high < 1 << 64 else rows.shape[1]
    return np.array(rows[:, start:stop])


def write_keys(task: KeysTask, out: Path) -> dict[str, Any]:
    """The keys of one partition: uint64[2, rows], keys above ordinals, sorted by both, so that a bucket is a slice.

    Documents of the partition that share a key are grouped here; only the first goes on to the shuffle, so a key
    shared by very many documents sends one row a partition.
    """
    rows, facts = _key_rows(task)
    again, grouped = _repeated(rows[0])
    return {
        "keys": write_array(Path(f"{out}.keys.npy"), rows[:, ~again]),
        "groups": write_array(Path(f"{out}.groups.npy"), rows[:, grouped]),
        "rows": rows.shape[1],
        "matches": int(again.sum()),
        **facts,
    }


def _key_rows(task: KeysTask) -> tuple[np.ndarray, dict[str, Any]]:
    """The sorted rows; how many documents have no text and how many no band keys; a digest of what was sketched."""
    _, path, count, base = task.stored
    reader = read(path)
    rows = np.empty((2, count * (reader.schema.field("keys").type.list_size + 1)), np.uint64)
    filled, place, blank, sketched = 0, base, 0, 0
    digest = hashlib.sha256()
    for number in range(reader.num_record_batches):
        batch = reader.get_batch(number)
        here = np.arange(place, place + len(batch), dtype=np.uint64)
        place += len(batch)
        high, low = batch["exact_hi"].to_numpy(), batch["exact_lo"].to_numpy()
        some = (high != 0) | (low != 0)
        bands = batch["keys"].flatten().to_numpy().reshape(len(batch), batch["keys"].type.list_size)
        enough = bands.any(axis=1)
        exact = some & task.exact
        blank += int((~some).sum())
        sketched += int(enough.sum())
        for part in (high, low, *text_buffers(batch["id"])):
            digest.update(np.ascontiguousarray(part).data)
        for keys, owners in (((high ^ low)[exact] | EXACT, here[exact]),
                             (bands[enough].reshape(-1), np.repeat(here[enough], bands.shape[1]))):  # fmt: skip
            rows[:, filled : filled + len(keys)] = keys, owners
            filled += len(keys)
    rows = np.ascontiguousarray(rows[:, :filled])
    cluster.sort_rows(rows)
    rest = place - base - blank - sketched
    return rows, {"without_text": blank, "exact_only": rest, "digest": digest.hexdigest()}


def _repeated(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of sorted keys: which equal the one before, and which are in a run of two and more."""
    again = np.zeros(len(keys), bool)
    again[1:] = keys[1:] == keys[:-1]
    grouped = again.copy()
    grouped[:-1] |= again[1:]
    return again, grouped


def write_edges(task: EdgesTask, out: Path) -> dict[str, Any]:
    """The groups of one bucket: rows (key, ordinal) of the keys that several partitions, or earlier batches, have."""
    low, high = key_range(task.bucket, task.buckets)
    rows = np.concatenate(
        [np.zeros((2, 0), np.uint64), *(slice_of(np.load(path, mmap_mode="r"), low, high) for path in task.keys)],
        axis=1,
    )
    cluster.sort_rows(rows)
    if task.before:
        rows = np.concatenate((rows, task.before.matching(rows[0], low, high)), axis=1)
        cluster.sort_rows(rows)
    again, grouped = _repeated(rows[0])
    return {"groups": write_array(Path(f"{out}.npy"), rows[:, grouped]), "matches": int(again.sum())}
