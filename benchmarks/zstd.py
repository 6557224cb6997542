"""Which zstd level for Parquet: CPU time to write and read, and size, of a column of documents.

    python benchmarks/zstd.py CORPUS.parquet... [--mb 32] [--repeat 5]

CORPUS has a column `text`. Levels take turns, in memory, one thread; medians.
"""

import argparse
import io
import statistics
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import schema

LEVELS = (1, 3, 6, 9)


def once(docs: pa.Table, level: int) -> tuple[float, float, int]:
    """CPU-seconds to write, to read, and bytes."""
    sink = io.BytesIO()
    started = time.process_time()
    pq.write_table(docs, sink, compression="zstd", compression_level=level)
    written = time.process_time()
    sink.seek(0)
    pq.read_table(sink, use_threads=False)
    return written - started, time.process_time() - written, len(sink.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, nargs="+")
    parser.add_argument("--mb", type=float, default=32)
    parser.add_argument("--repeat", type=int, default=5)
    asked = parser.parse_args()
    print("| corpus | level | write, MB per CPU-s | read, MB per CPU-s | ratio |")
    print("|---|---|---|---|---|")
    for path in asked.corpus:
        docs = next(schema.split_batches(pq.read_table(path, columns=["text"]), int(asked.mb * 1e6)))
        size = schema.text_bytes(docs)
        rounds = [{level: once(docs, level) for level in LEVELS} for _ in range(asked.repeat)]
        for level in LEVELS:
            write, read, stored = (statistics.median(turn[level][i] for turn in rounds) for i in range(3))
            print(
                f"| {path.name} | {level} | {size / 1e6 / write:.0f} | {size / 1e6 / read:.0f} | {size / stored:.2f} |"
            )


if __name__ == "__main__":
    main()
