"""How fast the trainer's loader is, and nanoGPT's beside it: Mtokens a CPU-second of the main process, one thread.

    python benchmarks/loader.py [--mb 200] [--rounds 5]

A corpus of random uint16 ids (`--mb` megabytes, in the page cache) is opened and its batches are gathered for windows
and batches of several sizes; the best of the rounds is told, as others may be using the machine. `nanoGPT` is the
`get_batch` of its train.py without the copy to a GPU: the file is mapped anew for each batch, windows start anywhere.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import corpus
from pipeline.train.data import Dataset
from pipeline.train.recipe import DataSpec

SIZES = ((12, 64), (12, 1024), (8, 2048), (64, 1024))
DOCUMENT = 1000


def made(folder: Path, tokens: int) -> corpus.Corpus:
    """A corpus of `tokens` random ids in documents of `DOCUMENT`, EOS (256) last."""
    ids = np.random.default_rng(1).integers(0, 256, tokens // DOCUMENT * DOCUMENT).astype("<u2")
    ids[DOCUMENT - 1 :: DOCUMENT] = 256
    count = len(ids) // DOCUMENT
    ids.tofile(folder / "part-00000.bin")
    corpus.write_idx(folder / "part-00000.idx", np.full(count, DOCUMENT), "uint16")
    pq.write_table(pa.table({"n_tokens": np.full(count, DOCUMENT, np.int32)}), folder / "docs.parquet")
    shard = {"name": "part-00000", "split": "train", "documents": count, "tokens": len(ids)}
    manifest = {"format": "memmap", "dtype": "uint16", "vocab_size": 257, "eos_token": "<|endoftext|>", "eos_id": 256,
                "documents": count, "tokens": len(ids), "shards": [shard], "files": {},
                "tokenizer": {"file": "tokenizer.json", "sha256": ""}}  # fmt: skip
    (folder / corpus.MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return corpus.open(folder)


def ours(opened: corpus.Corpus, spec: DataSpec, rows: int, context: int) -> Callable[[int], None]:
    data = Dataset(opened, spec, context, 1)
    return lambda step: data.batch(step * rows, rows) and None


def nanogpt(opened: corpus.Corpus, rows: int, context: int) -> Callable[[int], None]:
    import torch

    path = opened.folder / "part-00000.bin"

    def get_batch(step: int) -> None:
        data = np.memmap(path, np.uint16, "r")
        starts = torch.randint(len(data) - context, (rows,))
        torch.stack([torch.from_numpy(data[i : i + context].astype(np.int64)) for i in starts])
        torch.stack([torch.from_numpy(data[i + 1 : i + 1 + context].astype(np.int64)) for i in starts])

    return get_batch


def speed(batch: Callable[[int], None], tokens: int, rounds: int) -> float:
    """The best of `rounds`, of about 0.3 CPU-seconds each, in Mtokens a CPU-second."""
    best, step = 0.0, 0
    for _ in range(rounds):
        began, first = time.process_time(), step
        while (spent := time.process_time() - began) < 0.3:
            for _ in range(50):
                batch(step)
                step += 1
        best = max(best, (step - first) * tokens / spent / 1e6)
    return best


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--mb", type=int, default=200)
    asked.add_argument("--rounds", type=int, default=5)
    given = asked.parse_args()
    packed = DataSpec(pack="bestfit", mask="document")
    print("rows x window | stream | bestfit, document masks | nanoGPT get_batch   (Mtokens a CPU-second)")
    with tempfile.TemporaryDirectory() as folder:
        opened = made(Path(folder), given.mb * 500_000)
        for rows, context in SIZES:
            loaders = (ours(opened, DataSpec(), rows, context), ours(opened, packed, rows, context),
                       nanogpt(opened, rows, context))  # fmt: skip
            found = [speed(loader, rows * context, given.rounds) for loader in loaders]
            print(f"{rows:3} x {context:4} | " + " | ".join(f"{value:.1f}" for value in found), flush=True)


if __name__ == "__main__":
    main()
