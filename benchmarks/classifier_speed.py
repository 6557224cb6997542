"""How long `train-classifier` takes for 200,000 texts of each kind, and what memory it needs.

    python benchmarks/classifier_speed.py CORPUS.parquet... [--texts 200000] [--threads 2] [--repeat 1]

CORPUS has a column `text`. Pages are cut into pieces of 1,400 characters; those of every other page (by a hash) are the
positives, and 64 pages are a domain: there is nothing to learn; the time is what is asked for. The command
runs as a user runs it, in a process of its own, once more than it is counted: the first compiles the kernels.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

PIECE = 1400  # characters


def pieces(paths: list[Path]) -> Iterator[tuple[int, str, str]]:
    """The kind (0 or 1), text and domain of each piece."""
    page = 0
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(1000, columns=["text"]):
            for text in batch["text"].to_pylist():
                page += 1
                for start in range(0, len(text or "") - PIECE // 2, PIECE):
                    yield xxhash.xxh3_64_intdigest(str(page).encode()) & 1, text[start : start + PIECE], str(page // 64)


def write(paths: list[Path], texts: int, folder: Path) -> list[Path]:
    """`texts` distinct pieces of each kind in two files; raises `ValueError` where there are not so many."""
    found: list[dict[str, str]] = [{}, {}]
    for kind, text, domain in pieces(paths):
        if len(found[kind]) < texts:
            found[kind].setdefault(text, domain)
    files = [folder / "positives.parquet", folder / "negatives.parquet"]
    for rows, file in zip(found, files, strict=True):
        if len(rows) < texts:
            raise ValueError(f"only {len(rows):,} pieces of one kind; give more of a corpus, or ask for less (--texts)")
        pq.write_table(pa.table({"text": list(rows), "domain": list(rows.values())}), file)
    return files


def train(files: list[Path], texts: int, threads: int, out: Path) -> tuple[float, float, float]:
    """Seconds on the clock, CPU-seconds and the peak in MB of one run of the command."""
    command = [sys.executable, "-m", "pipeline", "train-classifier", "--positives", str(files[0]), "--negatives",
               str(files[1]), "--limit", str(texts), "--threads", str(threads), "--out", str(out)]  # fmt: skip
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    told = process.stdout.read() if process.stdout else ""
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise subprocess.CalledProcessError(os.waitstatus_to_exitcode(status), command)
    print(told.strip())
    return time.perf_counter() - started, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, nargs="+")
    parser.add_argument("--texts", type=int, default=200_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = write(asked.corpus, asked.texts, Path(folder))
        size = sum(pq.read_table(file)["text"].nbytes for file in files) / 1e6
        train(files, min(asked.texts, 1000), 1, Path(folder))
        runs = [train(files, asked.texts, asked.threads, Path(folder)) for _ in range(asked.repeat)]
    clock, spent, peak = (statistics.median(values) for values in zip(*runs, strict=True))
    print(f"{2 * asked.texts:,} texts, {size:.0f} MB, {asked.threads} threads: {clock:.0f} s on the clock, "
          f"{spent:.0f} CPU-s, peak {peak:.0f} MB; load {os.getloadavg()[0]:.1f}")  # fmt: skip


if __name__ == "__main__":
    main()
