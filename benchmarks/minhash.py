"""Why the sketch is Fast Similarity Sketching: beside it the same number of slots by vectorised k-fold MinHash.

    python benchmarks/minhash.py CORPUS.parquet... [--mb 16] [--repeat 5]

CORPUS has a column `text`. Both signatures are taken of the very same shingle hashes, 112 slots in 16 bands of 7. The
MinHash here is multiply-shift (Dietzfelbinger et al. 1997, "A reliable randomized algorithm for the closest-pair
problem"): slot i holds the smallest high half of `a[i] * shingle + b[i]` mod 2^64, all slots of a shingle at once in
vector registers. Prints the speed of the signatures alone and of the whole sketch with each; how far off their
estimates of J are over planted copies of known similarity; and, by bins of J, the share of those that agree in a band.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numba import njit

from pipeline import bench, schema
from stages.kernels import sketch

BANDS, ROWS, NGRAM, CHAR_NGRAM, SEED = 16, 7, 5, 8, 1
Sign = Callable[[np.ndarray, np.ndarray, np.ndarray], None]


@njit(nogil=True)
def fast(starts, values, signatures):  # type: ignore[no-untyped-def]
    """Fast Similarity Sketching of every set, as the pipeline does it."""
    for row in range(len(signatures)):
        count = starts[row + 1] - starts[row]
        if count:
            sketch.signature(values[starts[row] : starts[row + 1]], count, SEED, signatures[row])


_RANDOM = np.random.default_rng(SEED)
_FACTORS = _RANDOM.integers(0, 2**64, BANDS * ROWS, np.uint64) | np.uint64(1)
_SUMMANDS = _RANDOM.integers(0, 2**64, BANDS * ROWS, np.uint64)


@njit(nogil=True)
def k_fold(starts, values, signatures):  # type: ignore[no-untyped-def]
    """Multiply-shift MinHash of every set, 32 bits a slot."""
    least = np.empty(len(_FACTORS), np.uint32)
    for row in range(len(signatures)):
        least[:] = np.uint32(0xFFFFFFFF)
        for place in range(starts[row], starts[row + 1]):
            value = values[place]
            for slot in range(len(least)):
                least[slot] = min(least[slot], np.uint32((value * _FACTORS[slot] + _SUMMANDS[slot]) >> np.uint64(32)))
        signatures[row] = least


class Corpus(NamedTuple):
    """Texts with planted copies, and the shingle sets of all of them."""

    data: np.ndarray
    offsets: np.ndarray
    starts: np.ndarray
    values: np.ndarray
    pairs: list[tuple[int, int, float]]  # rows of the original and of its copy, Jaccard similarity


def read(path: Path, megabytes: float) -> Corpus:
    texts = next(schema.split_batches(pq.read_table(path, columns=["text"]), int(megabytes * 1e6)))
    docs = pa.table({"source_id": [f"b{row}" for row in range(len(texts))], "text": texts["text"]})
    planted, docs = bench.plant(docs, random.Random(SEED), share=1.0)
    row_of = {name: row for row, name in enumerate(docs["source_id"].to_pylist())}
    data, offsets = schema.text_buffers(docs["text"])
    starts, values = sketch.shingle_sets(data, offsets, sketch.unit_table(), NGRAM, CHAR_NGRAM)
    pairs = []
    for pair in planted:
        a, b = row_of[pair.original], row_of[pair.copy]
        one, other = (values[starts[row] : starts[row + 1]] for row in (a, b))
        both = len(np.intersect1d(one, other, assume_unique=True))
        pairs.append((a, b, both / (len(one) + len(other) - both)))
    return Corpus(data, offsets, starts, values, pairs)


def seconds(work: Callable[[], object], repeats: int) -> float:
    spent = []
    for _ in range(repeats + 1):  # the first compiles
        started = time.process_time()
        work()
        spent.append(time.process_time() - started)
    return statistics.median(spent[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, nargs="+")
    parser.add_argument("--mb", type=float, default=16)
    parser.add_argument("--repeat", type=int, default=5)
    asked = parser.parse_args()
    signs: dict[str, Sign] = {"Fast Similarity Sketching": fast, "k-fold MinHash, vectorised": k_fold}
    for path in asked.corpus:
        corpus = read(path, asked.mb)
        size, number = len(corpus.data) / 1e6, len(corpus.starts) - 1
        nothing = np.iinfo(np.int32).max  # shingles wanted for a signature: none is made
        shared = seconds(lambda c=corpus, none=nothing: sketched(c, none), asked.repeat)
        made = {name: np.empty((number, BANDS * ROWS), np.uint64) for name in signs}
        print(f"\n{path.name}: {size:.1f} MB, {number:,} documents, {len(corpus.values):,} shingles\n")
        print(
            "| signature of 112 slots | MB per CPU-s, alone | with units and shingles | error of J: mean, deviation |"
        )
        print("|---|---|---|---|")
        for name, sign in signs.items():
            spent = seconds(lambda s=sign, c=corpus, out=made[name]: s(c.starts, c.values, out), asked.repeat)
            errors = [(made[name][a] == made[name][b]).mean() - similarity for a, b, similarity in corpus.pairs]
            print(f"| {name} | {size / spent:.0f} | {size / (spent + shared):.0f} | "
                  f"{np.mean(errors):+.4f}, {np.std(errors):.4f} |")  # fmt: skip
        print(f"\n| planted pairs, J | pairs | S-curve | {' | '.join(made)} |")
        print("|---|---|---|---|---|")
        for low, high in zip(bench.BINS, bench.BINS[1:]):
            pairs = [pair for pair in corpus.pairs if low <= pair[2] < high]
            curve = np.mean([sketch.match_probability(similarity, BANDS, ROWS) for *_, similarity in pairs])
            shares = " | ".join(f"{found(signatures, pairs):.3f}" for signatures in made.values())
            print(f"| {low:.2f} to {high:.2f} | {len(pairs)} | {curve:.3f} | {shares} |")


def sketched(corpus: Corpus, least: int) -> None:
    table = sketch.unit_table()
    sketch.sketch_rows(corpus.data, corpus.offsets, table, NGRAM, CHAR_NGRAM, BANDS, ROWS, SEED, least)


def found(signatures: np.ndarray, pairs: list[tuple[int, int, float]]) -> float:
    """The share of the pairs that agree in some band."""
    equal = [(signatures[a] == signatures[b]).reshape(BANDS, ROWS).all(axis=1).any() for a, b, _ in pairs]
    return float(np.mean(equal))


if __name__ == "__main__":
    main()
