"""Deduplication against the truth: every pair of documents with J >= 0.8, by an exact all-pairs join.

    python benchmarks/dedup_truth.py texts/*.parquet --documents 50000

Takes documents of the Parquet files (column `text`) by the hash of their text, deduplicates them with the defaults, and
asks: is every removal justified, which of the true pairs share a key, and what would exact greedy clustering (the same
order of keeping, every kept document compared) have removed? Exact copies are set aside: any method finds them.
"""

import argparse
import hashlib
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numba import njit

from pipeline.schema import text_buffers
from pipeline.stage import Part
from stages.dedup import Dedup
from stages.kernels.sketch import shingle_sets, unit_table

BINS = (0.8, 0.85, 0.9, 0.95, 1.0)


def steps(folder: Path) -> Any:
    """The inner steps, one after the other in this process."""

    def run(name: str, fn: Any, tasks: list[Any]) -> list[dict[str, Any]]:
        return [fn(task, folder / f"{name}-{number:05d}") for number, task in enumerate(tasks)]

    return run


def load(paths: list[Path], count: int) -> list[str]:
    """`count` texts of the files, those with the smallest hashes."""
    texts = [text for path in paths for text in pq.read_table(path, columns=["text"])["text"].to_pylist() if text]
    return sorted(texts, key=lambda text: hashlib.sha1(text.encode()).digest())[:count]


def deduplicated(texts: list[str], dedup: Dedup, folder: Path, parts: int = 5) -> tuple[pa.Table, pa.Table]:
    """Verdicts and sketches of every text, in order; ids are places."""
    docs = pa.table({
        "id": [f"{i:08d}" for i in range(len(texts))], "source": pa.nulls(len(texts), pa.string()),
        "url": pa.nulls(len(texts), pa.string()), "text": texts,
    })  # fmt: skip
    sketches, stored = [], []
    for number, start in enumerate(range(0, len(texts), -(-len(texts) // parts))):
        some = docs.slice(start, -(-len(texts) // parts))
        paths = folder / f"docs-{number}.parquet", folder / f"sketch-{number}.arrow"
        pq.write_table(some, paths[0])
        sketches.append(dedup.sketch(some))
        with pa.ipc.new_file(str(paths[1]), sketches[-1].schema) as file:
            file.write_table(sketches[-1].combine_chunks())
        stored.append(Part(*paths, len(some)))
    files = dedup.resolve(stored, steps(folder))
    return pa.concat_tables(map(pq.read_table, files)), pa.concat_tables(sketches)


@njit(cache=True, nogil=True)
def similar_pairs(starts, values, ranks, order, threshold):  # type: ignore[no-untyped-def]
    """All pairs (longer set first) with J >= threshold, and J: prefix filter (Bayardo, Ma, Srikant, WWW 2007).

    `ranks` are the values numbered from the rarest; each set's `values` are sorted by rank here and compared in full.
    """
    total = len(values)
    head = np.full(ranks.max() + 1, -1, np.int64)  # a linked list of (document, next) a rank
    owner = np.empty(total, np.int32)
    after = np.empty(total, np.int64)
    used = 0
    seen = np.full(len(starts) - 1, -1, np.int32)
    pairs = [(0, 0, 0.0)]
    for x in order:  # ascending size
        mine = ranks[starts[x] : starts[x + 1]]
        size = len(mine)
        prefix = size - int(np.ceil(threshold * size - 1e-9)) + 1
        for shingle in mine[:prefix]:
            node = head[shingle]
            while node >= 0:
                y = owner[node]
                node = after[node]
                other = starts[y + 1] - starts[y]
                if seen[y] == x or other < threshold * size - 1e-9:
                    continue
                seen[y] = x
                common = _common(mine, ranks[starts[y] : starts[y + 1]])
                alike = common / (size + other - common)
                if alike >= threshold:
                    pairs.append((x, y, alike))
            owner[used], after[used] = x, head[shingle]
            head[shingle] = used
            used += 1
    return pairs[1:]


@njit(cache=True, nogil=True)
def _common(one, other):  # type: ignore[no-untyped-def]
    i, j, common = 0, 0, 0
    while i < len(one) and j < len(other):
        if one[i] == other[j]:
            common += 1
            i += 1
            j += 1
        elif one[i] < other[j]:
            i += 1
        else:
            j += 1
    return common


def truth(texts: list[str], heads: np.ndarray, dedup: Dedup) -> tuple[np.ndarray, np.ndarray, Any]:
    """Pairs (places in `heads`) with J >= threshold: int64[n, 2], float64[n]; and the shingle sets."""
    data, offsets = text_buffers(pa.chunked_array([pa.array([texts[i] for i in heads], pa.large_string())]))
    starts, values = shingle_sets(data, offsets, unit_table(), dedup.ngram, dedup.char_ngram)
    distinct, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    rank = np.empty(len(distinct), np.int64)
    rank[np.argsort(counts, kind="stable")] = np.arange(len(distinct))
    ranks = rank[inverse]
    for i in range(len(heads)):
        ranks[starts[i] : starts[i + 1]].sort()
    sizes = np.diff(starts)
    order = np.argsort(sizes, kind="stable")
    order = order[sizes[order] >= dedup.min_shingles]
    found = similar_pairs(starts, values, ranks, order, dedup.threshold)
    pairs = np.array([(x, y) for x, y, _ in found], np.int64).reshape(-1, 2)
    return pairs, np.array([alike for _, _, alike in found]), (starts, ranks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, nargs="+")
    parser.add_argument("--documents", type=int, default=50_000)
    options = parser.parse_args()
    texts, dedup = load(options.texts, options.documents), Dedup()
    with tempfile.TemporaryDirectory() as name:
        deduplicated(texts[:200], dedup, Path(name), 1)  # compiled
    with tempfile.TemporaryDirectory() as name:
        begun = time.process_time()
        verdicts, sketches = deduplicated(texts, dedup, Path(name))
        print(f"{len(texts):,} documents, {sum(len(t.encode()) for t in texts) / 1e6:.0f} MB; "
              f"deduplicated in {time.process_time() - begun:.1f} CPU-s, "
              f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB with the texts")  # fmt: skip
    exact = np.stack([sketches[name].to_numpy() for name in ("exact_hi", "exact_lo")], axis=1)
    heads = np.sort(np.unique(exact, axis=0, return_index=True)[1])
    pairs, alike, sets = truth(texts, heads, dedup)
    report_pairs(pairs, alike, np.stack(sketches["keys"].to_numpy(zero_copy_only=False))[heads])
    report_removals(verdicts, exact, sets, heads, dedup)
    report_greedy(verdicts, sketches, heads, pairs)


def report_pairs(pairs: np.ndarray, alike: np.ndarray, keys: np.ndarray) -> None:
    """The share of true pairs that meet in a bucket."""
    shared = np.concatenate([
        ((keys[some[:, 0]] == keys[some[:, 1]]) & (keys[some[:, 0]] > 0)).any(axis=1)
        for some in np.array_split(pairs, max(1, len(pairs) // 100_000))
    ])  # fmt: skip
    print(f"{len(pairs):,} pairs of distinct documents with J >= {BINS[0]}")
    for low, high in zip(BINS, BINS[1:]):
        here = (alike >= low) & ((alike < high) | (high == 1))
        if here.any():
            print(f"  J {low:.2f} to {high:.2f}: {here.sum():>9,} pairs, recall {shared[here].mean():.4f}")


def report_removals(verdicts: pa.Table, exact: np.ndarray, sets: Any, heads: np.ndarray, dedup: Dedup) -> None:
    """Is every removal justified by a kept document, measured again here?"""
    starts, ranks = sets
    place = {tuple(exact[head]): i for i, head in enumerate(heads.tolist())}
    rows = verdicts.to_pylist()
    wrong = 0
    for mine, row in zip(exact, rows, strict=True):
        if row["drop"] is None:
            continue
        keeper = int(row["duplicate_of"])
        x, y = place[tuple(mine)], place[tuple(exact[keeper])]
        one, other = ranks[starts[x] : starts[x + 1]], ranks[starts[y] : starts[y + 1]]
        common = _common(one, other)
        inside = common >= dedup.containment * len(one) - 1e-9 and len(other) >= len(one)
        like = x == y or common >= dedup.threshold * (len(one) + len(other) - common) - 1e-9
        wrong += rows[keeper]["drop"] is not None or not (like or inside)
    removed = sum(row["drop"] is not None for row in rows)
    print(f"{removed:,} removed, of them without a kept document that justifies it: {wrong}")


def report_greedy(verdicts: pa.Table, sketches: pa.Table, heads: np.ndarray, pairs: np.ndarray) -> None:
    """What exact greedy clustering removes by Jaccard, in the same order (longest, then id), and what we do."""
    length = sketches["keep_length"].to_numpy()[heads]
    order = np.lexsort((heads, -length))
    near: dict[int, list[int]] = {}
    for x, y in pairs.tolist():
        near.setdefault(x, []).append(y)
        near.setdefault(y, []).append(x)
    gone: set[int] = set()
    kept: set[int] = set()
    for x in order.tolist():
        if any(y in kept for y in near.get(x, ())):
            gone.add(x)
        else:
            kept.add(x)
    ours = verdicts["drop"].take(pa.array(heads)).to_pylist()
    both = sum(ours[x] is not None for x in gone)
    print(f"exact greedy removes {len(gone):,} distinct documents, {both:,} of them removed here, too; "
          f"kept: {sum(drop is None for drop in ours):,} here, {len(kept):,} by exact greedy")  # fmt: skip


if __name__ == "__main__":
    main()
