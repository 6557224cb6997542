"""Deduplicate a Parquet file with one tool and write the identifiers of what it keeps, one a line.

    python benchmarks/dedup_work.py TOOL CORPUS.parquet KEPT.txt [en | zh]

CORPUS.parquet has the columns `id` (0, 1, ... as strings) and `text`. Run by `dedup_peers.py`, each tool with the
Python of its own environment. Everybody gets 16 bands of 7 values and word 5-grams, or what comes nearest; with `zh`, a
tool that can be told to compare Chinese by characters or by segmented words is told so.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

BANDS, ROWS, WORDS, CHARACTERS = 16, 7, 5, 8
THRESHOLD = 0.8
Corpus = tuple[Path, bool]  # the file, and whether to compare by characters


def rows(corpus: Corpus) -> Iterator[tuple[str, str]]:
    """Identifier and text of every document."""
    for batch in pq.ParquetFile(corpus[0]).iter_batches(columns=["id", "text"]):
        yield from zip(batch["id"].to_pylist(), batch["text"].to_pylist(), strict=True)


def shingles(text: str, chinese: bool) -> list[str]:
    """For the tools that want them ready-made: overlapping runs of 5 words, or of 8 characters."""
    units = [char for char in text if not char.isspace()] if chinese else text.lower().split()
    size, joint = (CHARACTERS, "") if chinese else (WORDS, " ")
    return [joint.join(units[i : i + size]) for i in range(max(1, len(units) - size + 1))]


def gristmill(corpus: Corpus) -> list[str]:
    from dedup_truth import deduplicated

    from stages.dedup import Dedup

    table = pq.read_table(corpus[0])
    with tempfile.TemporaryDirectory() as folder:
        dedup = Dedup(threshold=THRESHOLD, bands=BANDS, rows=ROWS, ngram=WORDS, char_ngram=CHARACTERS)
        verdicts, _ = deduplicated(table["text"].to_pylist(), dedup, Path(folder))
    return table["id"].filter(verdicts["drop"].is_null()).to_pylist()


def datatrove(corpus: Corpus, bands: int = BANDS, values: int = ROWS) -> list[str]:
    """The four MinHash stages on one worker, files in between on disk."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import JsonlWriter

    with tempfile.TemporaryDirectory() as name:
        config = MinhashConfig(num_buckets=bands, hashes_per_bucket=values, n_grams=WORDS)
        reader = ParquetReader(str(corpus[0].parent), glob_pattern=corpus[0].name)
        words = "cmn_Hani" if corpus[1] else "eng"
        steps = (
            ([reader, MinhashDedupSignature(f"{name}/signatures", config, language=words)], 1),
            ([MinhashDedupBuckets(f"{name}/signatures", f"{name}/buckets", config=config)], bands),
            ([MinhashDedupCluster(f"{name}/buckets", f"{name}/remove", config=config)], 1),
            ([reader, MinhashDedupFilter(f"{name}/remove"), JsonlWriter(f"{name}/kept", compression=None)], 1),
        )
        for number, (pipeline, tasks) in enumerate(steps):
            LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=f"{name}/log-{number}").run()
        return ids_of_lines(Path(name) / "kept")


def ids_of_lines(folder: Path) -> list[str]:
    import json

    return [json.loads(line)["id"] for file in sorted(folder.glob("*.jsonl")) for line in file.open(encoding="utf-8")]


def datatrove_default(corpus: Corpus) -> list[str]:
    """With its own bands, those of FineWeb."""
    return datatrove(corpus, 14, 8)


def text_dedup(corpus: Corpus) -> list[str]:
    """Its command, in this process. It has no way to be told of characters."""
    from datasets import load_from_disk
    from text_dedup.minhash import main

    with tempfile.TemporaryDirectory() as name:
        arguments = {
            "path": "parquet", "data_files": str(corpus[0]), "split": "train", "cache_dir": f"{name}/cache",
            "output": f"{name}/kept", "column": "text", "ngram": WORDS, "num_perm": BANDS * ROWS, "b": BANDS, "r": ROWS,
            "threshold": THRESHOLD, "num_proc": 1, "batch_size": 10000, "hash_func": "xxh3", "min_length": 0,
        }  # fmt: skip
        main(
            [part for option, value in arguments.items() for part in (f"--{option}", str(value))], standalone_mode=False
        )
        return list(load_from_disk(f"{name}/kept")["id"])


def data_juicer(corpus: Corpus) -> list[str]:
    from data_juicer.core.data import NestedDataset
    from data_juicer.ops.deduplicator.document_minhash_deduplicator import DocumentMinhashDeduplicator
    from datasets import load_dataset

    with tempfile.TemporaryDirectory() as name:
        documents = load_dataset("parquet", data_files=str(corpus[0]), split="train", cache_dir=name)
        step = DocumentMinhashDeduplicator(
            tokenization="character" if corpus[1] else "space", window_size=CHARACTERS if corpus[1] else WORDS,
            num_permutations=BANDS * ROWS, jaccard_threshold=THRESHOLD, num_bands=BANDS, num_rows_per_band=ROWS,
            num_proc=1,
        )  # fmt: skip
        return list(step.run(NestedDataset(documents))["id"])


def datasketch(corpus: Corpus) -> list[str]:
    """A document that shares a band with a kept one leaves."""
    from datasketch import MinHash, MinHashLSH

    lsh, kept = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS)), []
    for name, text in rows(corpus):
        sketch = MinHash(num_perm=BANDS * ROWS, scheme="affine32")
        sketch.update_batch([shingle.encode() for shingle in shingles(text, corpus[1])])
        if not lsh.query(sketch):
            lsh.insert(name, sketch)
            kept.append(name)
    return kept


def rensa_lsh(corpus: Corpus) -> list[str]:
    """R-MinHash with plain LSH: a document that shares a band with a kept one leaves."""
    from rensa import RMinHash, RMinHashLSH

    lsh, kept = RMinHashLSH(threshold=THRESHOLD, num_perm=BANDS * ROWS, num_bands=BANDS), []
    for name, text in rows(corpus):
        sketch = RMinHash(num_perm=BANDS * ROWS, seed=1)
        sketch.update(shingles(text, corpus[1]))
        if not lsh.query(sketch):
            lsh.insert(int(name), sketch)
            kept.append(name)
    return kept


def rensa(corpus: Corpus) -> list[str]:
    """Its own deduplicator, which checks what shares a band by the estimated similarity."""
    from rensa import RMinHash, RMinHashDeduplicator

    kept = []
    seen = RMinHashDeduplicator(threshold=THRESHOLD, num_perm=BANDS * ROWS, use_lsh=True, num_bands=BANDS, seed=1)
    for name, text in rows(corpus):
        sketch = RMinHash(num_perm=BANDS * ROWS, seed=1)
        sketch.update(shingles(text, corpus[1]))
        if seen.add(name, sketch):
            kept.append(name)
    return kept


TOOLS = {
    "gristmill": gristmill,
    "datatrove": datatrove,
    "datatrove-14x8": datatrove_default,
    "text-dedup": text_dedup,
    "data-juicer": data_juicer,
    "datasketch": datasketch,
    "rensa": rensa,
    "rensa-lsh": rensa_lsh,
}


def main(tool: str, corpus: str, out: str, script: str = "en") -> None:
    kept = TOOLS[tool]((Path(corpus), script == "zh"))
    Path(out).write_text("\n".join(kept), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
