"""Components: which documents have to be looked at together, and in which bucket.

Union-find over groups of equal keys, in one task. It decides nothing but who meets whom: two documents are compared
only if they share a key themselves. It holds nine bytes a document of the run; of earlier batches only those that some
new document shares a key with are there at all.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.storage import write_array
from stages.duplicates.keys import EXACT, OLD, Stored, read
from stages.kernels import cluster

MEMBER = np.dtype([("ordinal", "<u8"), ("component", "<u8"), ("bucket", "<i4"), ("copy", "?")])


class ComponentsTask(NamedTuple):
    """Everything there is to unite."""

    stored: list[Stored]
    groups: list[str]
    before: Any  # index.Before, or None
    bucket_shingles: int
    component_shingles: int


def write_components(task: ComponentsTask, out: Path) -> dict[str, Any]:
    """Which documents belong together: a row of `MEMBER` for each that shares a key with another, by ordinal.

    `copy` marks all but one document of the same exact hash: their shingles need not be computed. A component is
    as heavy as its shingles; the ones heavier than allowed are united again from their groups, smallest group first,
    and groups that would exceed the limit are refused and counted. Components are then dealt into buckets.
    """
    total = sum(part.rows for part in task.stored)
    old = _old(task.groups)
    parent = np.arange(total + len(old), dtype=np.int64)
    copies = np.zeros(len(parent), bool)
    for rows in _groups(task, total, old):
        cluster.unite(parent, rows[0], rows[1], copies)
    places = cluster.flatten(parent)
    roots, copy = parent[places], copies[places]
    del parent, copies
    weights = np.where(copy, 1, _shingle_counts(task, total, places, old) + 1)
    roots, refused = _split(task, total, old, places, roots, weights)
    components, index, sizes = np.unique(roots, return_inverse=True, return_counts=True)
    single = sizes == 1  # what refused groups left alone need not be looked at
    heavy = np.where(single, 0, np.bincount(index, weights, len(components)).astype(np.int64))
    buckets = (np.cumsum(heavy) - heavy) // task.bucket_shingles
    buckets = np.unique(buckets, return_inverse=True)[1]  # one heavy component may have passed over some numbers
    members = np.empty(len(places), MEMBER)
    members["ordinal"] = _ordinals(places, total, old)
    members["component"], members["copy"], members["bucket"] = roots, copy, buckets[index]
    members = members[~single[index]]
    return {
        "file": write_array(Path(f"{out}.npy"), members),
        "buckets": int(members["bucket"].max()) + 1 if len(members) else 0,
        "candidates": len(members),
        "components": int((~single).sum()),
        "largest": int(sizes.max()) if len(sizes) else 0,
        "refused_groups": refused,
    }


def _old(groups: list[str]) -> np.ndarray:
    """The ordinals of earlier batches that occur in the groups, ascending, `OLD` set."""
    found = [np.zeros(0, np.uint64)]
    for path in groups:
        ordinals = np.load(path, mmap_mode="r")[1]
        found.append(np.unique(ordinals[ordinals >= OLD]))
    return np.unique(np.concatenate(found))


def _groups(task: ComponentsTask, total: int, old: np.ndarray) -> Iterator[np.ndarray]:
    """Rows (key, place) of each file: the new documents in front, those of earlier batches behind."""
    for path in task.groups:
        rows = np.asarray(np.load(path, mmap_mode="r"))
        if len(old):
            rows = rows.copy()
            before = rows[1] >= OLD
            rows[1, before] = (total + np.searchsorted(old, rows[1, before])).astype(np.uint64)
            rows.setflags(write=False)  # as it is when mapped: one compiled kernel serves both
        yield rows


def _ordinals(places: np.ndarray, total: int, old: np.ndarray) -> np.ndarray:
    new = places < total
    return np.concatenate((places[new].astype(np.uint64), old[places[~new] - total]))


def _shingle_counts(task: ComponentsTask, total: int, places: np.ndarray, old: np.ndarray) -> np.ndarray:
    counts = np.zeros(len(places), np.int64)
    for part in task.stored:
        start, stop = np.searchsorted(places, (part.base, part.base + part.rows))
        if stop > start:
            column = read(part.sketch).read_all()["shingles"]
            counts[start:stop] = column.to_numpy()[places[start:stop] - part.base]
    if len(old):
        counts[np.searchsorted(places, total) :] = task.before.shingle_counts(old[places[places >= total] - total])
    return counts


def _split(
    task: ComponentsTask, total: int, old: np.ndarray, places: np.ndarray, roots: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, int]:
    """New roots where a component is heavier than allowed, and the number of groups refused on the way."""
    _, index = np.unique(roots, return_inverse=True)
    inside = np.flatnonzero(np.bincount(index, weights)[index] > task.component_shingles)
    if len(inside) == 0:
        return roots, 0
    giants = places[inside]
    starts, nodes, band = _giant_groups(_groups(task, total, old), giants)
    parent, refused = cluster.unite_capped(starts, nodes, ~band, weights[inside], task.component_shingles)
    roots = roots.copy()
    roots[inside] = giants[parent]
    return roots, int(refused)


def _giant_groups(groups: Iterator[np.ndarray], giants: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The groups among the `giants`, as starts, nodes and whether each is of a band, in the order of uniting.

    Exact groups first, then the smallest, by content only, however documents are numbered.
    """
    pieces = []
    for rows in groups:
        place = np.minimum(np.searchsorted(giants, rows[1].astype(np.int64)), len(giants) - 1)
        pieces.append(rows[:, giants[place] == rows[1].astype(np.int64)])
    rows = np.concatenate(pieces, axis=1)
    rows = rows[:, np.lexsort((rows[1], rows[0]))]
    new = np.any(np.diff(rows, axis=1, prepend=~rows[:, :1]) != 0, axis=0)
    rows = rows[:, new]  # a partition's first of a key is both in its own group and in the bucket's
    keys, group, size = np.unique(rows[0], return_inverse=True, return_counts=True)
    band = keys & EXACT == 0
    rank = np.empty(len(keys), np.int64)
    by_rank = np.lexsort((keys, size, band))
    rank[by_rank] = np.arange(len(keys))
    order = np.argsort(rank[group], kind="stable")
    starts = np.concatenate(([0], np.cumsum(size[by_rank])))
    return starts, np.searchsorted(giants, rows[1][order].astype(np.int64)), band[by_rank]
