"""The reduce of deduplication on synthetic sketches: keys, shuffle, union-find; no text, so no verification.

    python benchmarks/dedup_scale.py --documents 10000000

Each document has 16 random band keys and an exact hash; three of ten share some bands with one other, one in a hundred
is of a family of a thousand that share a band. Every step runs in a process of its own, to have a peak of its own.
"""

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stages.dedup import Dedup
from stages.duplicates.components import ComponentsTask, write_components
from stages.duplicates.keys import EdgesTask, KeysTask, Stored, write_edges, write_keys

PART = 500_000


def write_part(number: int, rows: int, out: Path) -> None:
    """The sketches of one partition, as the map group leaves them."""
    source = np.random.default_rng(number)
    keys = source.integers(1, 1 << 63, (rows, 16), np.uint64) << np.uint64(1)
    pairs = np.arange(0, int(rows * 0.3) // 2 * 2, 2)
    bands = source.integers(0, 16, (len(pairs), 3))
    keys[pairs[:, None] + 1, bands] = keys[pairs[:, None], bands]
    for family in source.choice(rows, (rows // 100_000, 1000)):
        keys[family, 5] = keys[family[0], 5]
    table = pa.table({
        "exact_hi": source.integers(1, 1 << 63, rows, np.uint64),
        "exact_lo": source.integers(1, 1 << 63, rows, np.uint64),
        "keys": pa.FixedSizeListArray.from_arrays(pa.array(keys.reshape(-1)), 16),
        "shingles": pa.array(source.integers(50, 1000, rows), pa.int32()),
        "id": [f"{i:032x}" for i in range(number * PART, number * PART + rows)],
    })  # fmt: skip
    with pa.ipc.new_file(str(out), table.schema) as file:
        file.write_table(table, max_chunksize=20_000)


def measured(pipe: Any, fn: Any, task: Any, out: Path) -> None:
    """Run one step here, a fresh process, and send its record, CPU-seconds and peak of memory."""
    begun = time.process_time()
    record = fn(task, out)
    cpu = time.process_time() - begun
    status = Path("/proc/self/status").read_text(encoding="utf-8")  # Linux; ru_maxrss begins with the parent's peak
    pipe.send((record, cpu, int(status.partition("VmHWM:")[2].split()[0]) / 1024))


def step(name: str, fn: Any, tasks: list[Any], folder: Path) -> tuple[list[dict[str, Any]], float]:
    """The records of a step and its CPU-seconds."""
    context = multiprocessing.get_context("spawn")
    records, cpu, peak = [], 0.0, 0.0
    for number, task in enumerate(tasks):
        here, there = context.Pipe()
        process = context.Process(target=measured, args=(there, fn, task, folder / f"{name}-{number:05d}"))
        process.start()
        record, seconds, memory = here.recv()
        process.join()
        records.append(record)
        cpu, peak = cpu + seconds, max(peak, memory)
    print(f"{name:12} {len(tasks):4} tasks  {cpu:8.1f} CPU-s  peak {peak:6.0f} MiB")
    return records, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=10_000_000)
    parser.add_argument("--bucket-rows", type=int, default=Dedup().bucket_rows)
    options = parser.parse_args()
    dedup, total = Dedup(), options.documents
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stored = []
        for base in range(0, total, PART):
            stored.append(Stored(folder / "none", folder / f"sketch-{base}.arrow", min(PART, total - base), base))
            write_part(base // PART, stored[-1].rows, stored[-1].sketch)
        keys, first = step("keys", write_keys, [KeysTask(part, True) for part in stored], folder)
        buckets = -(-total * (dedup.bands + 1) // options.bucket_rows)
        files = [record["keys"] for record in keys]
        edges, second = step("edges", write_edges, [EdgesTask(files, n, buckets, None) for n in range(buckets)], folder)
        groups = [record["groups"] for record in (*keys, *edges)]
        task = ComponentsTask(stored, groups, None, dedup.bucket_shingles, dedup.component_shingles)
        (found,), third = step("components", write_components, [task], folder)
        size = sum(path.stat().st_size for path in folder.glob("*.npy"))
    cpu = first + second + third
    print(f"{total:,} documents: {cpu:.1f} CPU-s, {size / total:.0f} bytes a document between steps; "
          f"{found['components']:,} components, the largest of {found['largest']:,}")  # fmt: skip


if __name__ == "__main__":
    main()
