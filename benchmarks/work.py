"""One piece of work of one tool on a Parquet file of texts: prints {"cpu_s", "documents", "mb"} for the work alone.

    python benchmarks/work.py TOOL.WORK CORPUS.parquet [MB]

Run by `peers.py`, each tool with the Python of its own environment. Imports, model loading and one warm-up document are
outside the clock; the clock is process time, children included.
"""

import json
import resource
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq

MODEL = Path(__file__).resolve().parent.parent / "stages/data/lid.176.ftz"
Work = Callable[[list[str]], object]


def datatrove_document(text: str, language: str = "en") -> SimpleNamespace:
    return SimpleNamespace(text=text, id="x", media=[], metadata={"language": language, "language_score": 1.0})


def datatrove_language() -> Work:
    from datatrove.utils.lid import FT176LID
    from fasttext.FastText import _FastText

    class Offline(_FastText):  # fasttext-wheel's own predict fails on numpy 2 for a single text
        def predict(self, text: str, k: int = 1) -> tuple:  # type: ignore[override]
            import numpy as np

            found = self.f.predict(text + "\n", k, 0.0, "strict")
            return tuple(label for _, label in found), np.array([score for score, _ in found])

    lid = FT176LID()
    lid._model = Offline(str(MODEL))
    return lambda texts: [lid.predict(datatrove_document(text)) for text in texts]


def datatrove_rules() -> Work:
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )

    rules = [GopherRepetitionFilter(), GopherQualityFilter(), C4QualityFilter(filter_no_terminal_punct=False),
             FineWebQualityFilter()]  # fmt: skip

    def work(texts: list[str]) -> list[bool]:
        kept = []
        for text in texts:
            document = datatrove_document(text)
            kept.append(all(rule.filter(document) is True for rule in rules))  # stops at the first that drops
        return kept

    return work


def datatrove_minhash() -> Work:
    from datatrove.pipeline.dedup import MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig

    step = MinhashDedupSignature(tempfile.mkdtemp(), MinhashConfig(num_buckets=14, hashes_per_bucket=8))

    def work(texts: list[str]) -> int:
        signed = 0
        for text in texts:
            shingles = step.get_shingles(text)
            if shingles.size:
                step.get_signature(shingles)
                signed += 1
        return signed

    return work


def datasketch_minhash() -> Work:
    from datasketch import MinHash

    seed = MinHash(num_perm=112, scheme="affine32")

    def sketch(text: str) -> MinHash:
        words = text.lower().split()
        found = seed.copy()
        found.update_batch([" ".join(words[i : i + 5]).encode() for i in range(max(1, len(words) - 4))])
        return found

    return lambda texts: [sketch(text) for text in texts]


def rensa_minhash() -> Work:
    from rensa import RMinHash

    def sketch(text: str) -> RMinHash:
        words = text.lower().split()
        found = RMinHash(num_perm=112, seed=1)
        found.update([" ".join(words[i : i + 5]) for i in range(max(1, len(words) - 4))])
        return found

    return lambda texts: [sketch(text) for text in texts]


def text_dedup_minhash() -> Work:
    from text_dedup.config.algorithms.minhash import MinHashAlgorithmConfig

    algorithm = MinHashAlgorithmConfig(
        algorithm_name="minhash", text_column="text", num_perm=112, bands=16, rows=7, ngram_size=5, threshold=0.8
    )
    embed = algorithm.get_embed_func()
    return lambda texts: [embed([text], [row]) for row, text in enumerate(texts)]


def fasttext_language() -> Work:
    import fasttext

    model = fasttext.load_model(str(MODEL))
    return lambda texts: [model.f.predict(text.replace("\n", " ") + "\n", 1, 0.0, "strict") for text in texts]


def tokenizers_encode() -> Work:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(sys.argv[2]).with_suffix(".tokenizer.json")))
    return lambda texts: [len(item.ids) for item in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def tiktoken_encode() -> Work:
    """The same vocabulary and the same pattern, as tiktoken wants them: the rank of each token's bytes."""
    from tiktoken import Encoding

    told = json.loads(Path(sys.argv[2]).with_suffix(".tokenizer.json").read_text(encoding="utf-8"))
    pattern = told["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    byte_of = {char: byte for byte, char in enumerate(bytes_as_characters())}
    special = {token["content"]: token["id"] for token in told["added_tokens"]}
    ranks = {bytes(byte_of[char] for char in token): rank
             for token, rank in told["model"]["vocab"].items() if token not in special}  # fmt: skip
    encoding = Encoding("ours", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
    return lambda texts: [encoding.encode_ordinary(text) for text in texts]


def bytes_as_characters() -> list[str]:
    """The characters that stand for the bytes 0 to 255 in a byte-level BPE (GPT-2's `bytes_to_unicode`)."""
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in shown else chr(next(others)) for byte in range(256)]


def trafilatura_extract() -> Work:
    import trafilatura

    return lambda pages: [trafilatura.extract(page, favor_precision=True, include_comments=False) for page in pages]


def gristmill(*names: str) -> Work:
    import pyarrow as pa

    from pipeline import config

    recipe = {"quality": {}, "tokens": {"tokenizer": str(Path(sys.argv[2]).with_suffix(".tokenizer.json"))}}
    steps = [config.step_class(name).model_validate(recipe.get(name, {})) for name in names]

    def work(texts: list[str]) -> object:
        docs = pa.table({"id": [f"{i:032x}" for i in range(len(texts))], "text": texts})
        docs = docs.append_column("mime", pa.array(["text/html"] * len(texts)))
        if "language" not in names:
            docs = docs.append_column("lang", pa.array(["en"] * len(texts)))
        for step in steps:
            docs = step.sketch(docs) if hasattr(step, "sketch") else step.apply(docs)
            docs = docs.drop_columns(
                [name for name in ("drop", "drop_value", "drop_limit") if name in docs.column_names]
            )
        return docs

    return work


WORKS: dict[str, Callable[[], Work]] = {
    "datatrove.language": datatrove_language,
    "datatrove.rules": datatrove_rules,
    "datatrove.minhash": datatrove_minhash,
    "datasketch.minhash": datasketch_minhash,
    "rensa.minhash": rensa_minhash,
    "text-dedup.minhash": text_dedup_minhash,
    "fasttext.language": fasttext_language,
    "tokenizers.encode": tokenizers_encode,
    "tiktoken.encode": tiktoken_encode,
    "trafilatura.extract": trafilatura_extract,
    "gristmill.language": lambda: gristmill("language"),
    "gristmill.rules": lambda: gristmill("quality"),
    "gristmill.minhash": lambda: gristmill("dedup"),
    "gristmill.encode": lambda: gristmill("tokens"),
    "gristmill.extract": lambda: gristmill("extract"),
}


def texts_of(path: str, limit: float) -> list[str]:
    texts: list[str] = []
    size = 0
    for batch in pq.ParquetFile(path).iter_batches(columns=["text"]):
        for text in batch["text"].to_pylist():
            texts.append(text)
            size += len(text.encode())
            if size >= limit * 1e6:
                return texts
    return texts


def cpu_seconds() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main(name: str, path: str, limit: str = "inf") -> None:
    texts: Iterable[str] = texts_of(path, float(limit))
    texts = list(texts)
    work = WORKS[name]()
    work(["A sentence to warm up with, of some ten words and more. " * 5])
    started = cpu_seconds()
    work(texts)
    spent = cpu_seconds() - started
    print(json.dumps({"cpu_s": spent, "documents": len(texts), "mb": sum(len(t.encode()) for t in texts) / 1e6}))


if __name__ == "__main__":
    main(*sys.argv[1:])
