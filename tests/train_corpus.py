"""Small corpora for the trainer's tests, written as the pipeline's last stage writes them."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from pipeline import corpus, storage

EOS = 256
"""Bytes are tokens, and this ends a document."""


def byte_tokenizer() -> Tokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={**{c: i for i, c in enumerate(letters)}, "<|endoftext|>": EOS}, merges=[]))
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def words(count: int, seed: int = 1) -> list[str]:
    """Texts of made-up sentences whose words follow one another with a rule, so that there is something to learn."""
    stems, random = _stems(), np.random.default_rng(seed)
    found = []
    for _ in range(count):
        word, text = int(random.integers(40)), []
        for _ in range(int(random.integers(5, 120))):
            text.append(stems[word])
            word = (word * 7 + int(random.integers(3))) % 40
        found.append(" ".join(text) + ".")
    return found


def articles() -> list[str]:
    """Real English: the encyclopedia articles of data_samples, a paragraph each, those of at least 100 characters."""
    with gzip.open(
        Path(__file__).parent.parent / "data_samples/sample_text.jsonl.gz", "rt", encoding="utf-8"
    ) as handle:
        texts = [json.loads(line)["text"] for line in handle]
    return [part for text in texts for part in text.split("\n") if len(part) >= 100 and part.isascii()]


def _stems() -> list[str]:
    random = np.random.default_rng(0)
    return ["".join(random.choice(list("abdeilmnorstu"), random.integers(2, 7))) for _ in range(40)]


def write(folder: Path, texts: list[str], held_out: list[str] = (), shard_documents: int = 50,
          parent: Path | None = None, tag: str = "", **columns: list[Any]) -> corpus.Corpus:  # fmt: skip
    """A finished corpus of these texts, byte by byte; extra columns go to docs.parquet, training documents first.

    With a parent it goes on from that; `tag` stands before its documents' ids.
    """
    folder.mkdir(parents=True)
    tokenizer = byte_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    shards, tables = [], []
    for split, name, part in (("train", "part", list(texts)), ("val", "val", list(held_out))):
        for number, first in enumerate(range(0, len(part), shard_documents)):
            here = part[first : first + shard_documents]
            ids = [np.array([*tokenizer.encode(text).ids, EOS]) for text in here]
            lengths = np.array([len(i) for i in ids])
            shard = f"{name}-{number:05d}"
            corpus.write_bin(folder / f"{shard}.bin", ids, "uint16")
            corpus.write_idx(folder / f"{shard}.idx", lengths, "uint16")
            shards.append({"name": shard, "split": split, "documents": len(here), "tokens": int(lengths.sum())})
            tables.append(pa.table({
                "id": [f"{tag}{split}{first + i}" for i in range(len(here))],
                "url": [f"http://{tag}{split}/{first + i}" for i in range(len(here))],
                "n_bytes": [len(text.encode()) for text in here], "n_tokens": pa.array(lengths, pa.int32()),
                "shard": [shard] * len(here), "offset": np.cumsum(lengths) - lengths,
            }))  # fmt: skip
    columns_of_none = {name: pa.nulls(0) for name in ("id", "url", "n_bytes", "n_tokens", "shard", "offset")}
    docs = pa.concat_tables(tables) if tables else pa.table(columns_of_none)
    for name in ("source", "lang"):
        columns.setdefault(name, [name] * len(docs))
    for name, values in columns.items():
        docs = docs.append_column(name, [values])
    pq.write_table(docs, folder / "docs.parquet")
    files = {path.name: {"sha256": storage.sha256(path)} for path in sorted(folder.iterdir())}
    manifest = {
        "gristmill": 1, "format": "memmap", "dtype": "uint16", "vocab_size": 257, "eos_token": "<|endoftext|>",
        "eos_id": EOS, "seed": 1, "documents": len(docs),
        "tokens": sum(shard["tokens"] for shard in shards), "shards": shards, "files": files,
        "tokenizer": {"file": "tokenizer.json", "sha256": files["tokenizer.json"]["sha256"]},
    }  # fmt: skip
    if parent:
        manifest["parent"] = os.path.relpath(parent, folder)
        manifest["parent_sha256"] = storage.sha256(parent / corpus.MANIFEST)
    (folder / corpus.MANIFEST).write_text(json.dumps(manifest))
    return corpus.open(folder)
