"""Our fastText kernel against the library: are the labels the same, how far apart are the probabilities, how fast?

    python benchmarks/fasttext_parity.py CORPUS ... [--model lid.176.ftz] [--k 3] [--mb 20]

A corpus is whatever the `collect` stage reads (WARC, HTML, JSONL, Parquet...); main text is taken out of pages. Whole
documents and the pieces the `language` stage shows the model are compared, by all `k` labels. Speeds are MB of text a
CPU-second on one core, the best of five passes over `--mb` MB, kernels compiled and models loaded: all languages, those
the model calls English, and their pieces. Exit status 1 where a label differs or a probability by 1e-5 or more.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import fasttext as library
import numpy as np
import pyarrow as pa

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from pipeline import schema  # noqa: E402
from stages import language  # noqa: E402
from stages.collect import Collect  # noqa: E402
from stages.extract import Extract  # noqa: E402
from stages.kernels import fasttext, windows  # noqa: E402
from stages.models import fasttext as reader  # noqa: E402

Texts = tuple[np.ndarray, np.ndarray]  # as `schema.text_buffers` gives them


def batches(corpora: list[str]) -> Iterator[pa.ChunkedArray]:
    """The texts of the documents that have any."""
    source, extract = Collect(paths=corpora), Extract()
    for split in source.inputs():
        for batch in source.read(split):
            text = extract.apply(batch)["text"]
            yield text.filter(pa.compute.greater(pa.compute.binary_length(text), 0))


def lines(texts: Texts) -> list[bytes]:
    """The rows as the library wants them."""
    data, offsets = texts[0].tobytes(), texts[1].tolist()
    return [data[start:end].replace(b"\n", b" ") + b"\n" for start, end in pairwise(offsets)]


class Comparison:
    """Counts what differs between the kernel and the library."""

    def __init__(self, model: Path, k: int) -> None:
        self.ours, self.theirs, self.k = reader.read(model), library.FastText._FastText(model_path=str(model)).f, k
        self.documents = self.wrong = 0
        self.furthest = 0.0
        self.labels: Counter[str] = Counter()

    def add(self, texts: Texts) -> None:
        labels, chances = fasttext.predict(*texts, self.ours.model, self.k)
        for line, row, found in zip(lines(texts), labels.tolist(), chances.tolist(), strict=True):
            wanted = self.theirs.predict(line, self.k, 0.0, "strict")
            names = [self.ours.labels[label] for label in row if label >= 0]
            self.documents += 1
            self.labels[names[0] if names else ""] += 1
            if names != [label for _, label in wanted]:
                self.wrong += 1
            elif names:
                gap = max(abs(chance - there) for chance, (there, _) in zip(found, wanted))
                self.furthest = max(self.furthest, gap)

    def report(self, name: str) -> bool:
        often = sum(count >= 10 for count in self.labels.values())
        print(f"{name}: {self.documents} documents, {len(self.labels)} labels ({often} of 10 documents or more), "
              f"{self.wrong} with other labels, probabilities at most {self.furthest:.1e} apart")  # fmt: skip
        return self.wrong == 0 and self.furthest < 1e-5


def speed(size: int, work: Callable[[], object], passes: int = 5) -> float:
    """MB a CPU-second, the best pass."""
    seconds = []
    for _ in range(passes):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return size / min(seconds) / 1e6


def compare_speed(name: str, texts: Texts, both: Comparison) -> None:
    rows, size = lines(texts), int(texts[1][-1] - texts[1][0])
    ours = speed(size, lambda: fasttext.predict(*texts, both.ours.model, 1))
    theirs = speed(size, lambda: [both.theirs.predict(row, 1, 0.0, "strict") for row in rows], 1)
    print(f"{name}: {size / 1e6:.1f} MB in {len(rows)} texts, {ours:.1f} MB/s, "
          f"fasttext {theirs:.1f} MB/s, {ours / theirs:.1f} times")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", nargs="+")
    parser.add_argument("--model", type=Path, default=language.SHIPPED)
    parser.add_argument("--k", type=int, default=3)
    parser.add_argument("--mb", type=float, default=20)
    given = parser.parse_args()
    whole, pieces = Comparison(given.model, given.k), Comparison(given.model, given.k)
    kept: list[pa.Array] = []
    for column in batches(given.corpus):
        texts = schema.text_buffers(column)
        whole.add(texts)
        pieces.add(windows.sample(*texts, language.WINDOW))
        kept += column.chunks
    good = whole.report("whole documents") & pieces.report("pieces")
    docs = pa.table({"text": pa.chunked_array(kept, pa.string())})
    docs = docs.take(np.random.default_rng(1).permutation(len(docs)))
    labels, _ = fasttext.predict(*schema.text_buffers(docs["text"]), whole.ours.model, 1)
    english = docs.filter(pa.array([whole.ours.labels[label].endswith("__en") for label in labels[:, 0]]))
    for name, chosen in (("all languages", docs), ("English", english)):
        texts = schema.text_buffers(next(schema.split_batches(chosen, int(given.mb * 1e6)))["text"])
        compare_speed(name, texts, whole)
        compare_speed(f"{name}, pieces", windows.sample(*texts, language.WINDOW), whole)
    sys.exit(not good)


if __name__ == "__main__":
    main()
