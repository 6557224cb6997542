"""The finished corpus on disk: write a shard, open a corpus or a chain of them, verify it.

    part-00000.bin   token ids of the training documents one after the other, little-endian, each document ended by EOS
    part-00000.idx   Megatron-LM's index of the same shard (its `IndexedDataset` reads the pair as it is)
    val-00000.*      the held-out documents, in shards of their own, so that `part-*` never touches them
    docs.parquet     row i is document i, over all shards in manifest order
    tokenizer.json   what made the ids
    manifest.json    dtype, vocabulary, EOS, counts, checksums; written last, so a corpus with a manifest is whole

`np.memmap(path, dtype)` reads a `.bin` as nanoGPT does. With `format: parquet` a shard is one file of two columns, `id`
and `input_ids`, `train-00000.parquet` or `validation-00000.parquet`: under these names `datasets.load_dataset(FOLDER)`
finds both splits and leaves `docs.parquet` alone.

A corpus that grows is a chain: a manifest with `parent` (a folder, relative to its own) and `parent_sha256` (of the
manifest there) holds only what is new, and opens as one corpus with all before it, the oldest first. Since it names
its parent's checksum, the checksum of the newest manifest stands for the whole chain. A folder with a file `LATEST`,
one line that names the newest corpus relative to it, opens as that corpus.
"""

import functools
import struct
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tokenizers import Tokenizer

from pipeline import manifest as manifests
from pipeline import storage
from pipeline.manifest import MANIFEST, NotACorpus

LATEST = "LATEST"
_MAGIC = b"MMIDIDX\x00\x00"
_MEGATRON_CODE = {"uint16": 8, "uint32": 4}  # Megatron has no uint32: int32 is the same bytes below 2**31


_TOGETHER = 1000  # documents written at once

_ALIKE = ("tokenizer", "dtype", "vocab_size", "eos_id", "eos_token", "format")
"""What the corpora of a chain must have in common; of the tokenizer, its sha256."""


_PREFIXES = {"memmap": {"train": "part", "val": "val"}, "parquet": {"train": "train", "val": "validation"}}
"""Begins the name of a shard, by format and split. Hugging Face reads splits off file names."""


def dtype_for(vocab_size: int) -> str:
    """The narrowest of the two widths the field reads that holds every id."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


def shard_name(format_: str, split: str, number: int) -> str:
    """The name of a new shard, without suffix. A reader takes the names of the manifest, which may be others."""
    return f"{_PREFIXES[format_][split]}-{number:05d}"


def write_bin(path: Path, documents: Iterable[np.ndarray], dtype: str) -> int:
    """Write the ids of `documents` one after the other; returns how many ids that is."""
    little, count, documents = np.dtype(dtype).newbyteorder("<"), 0, iter(documents)
    with storage.atomic(path) as beside, beside.open("wb") as handle:
        while block := list(islice(documents, _TOGETHER)):  # a shard is never in memory whole
            ids = np.concatenate(block).astype(little, copy=False)
            handle.write(ids.data)
            count += len(ids)
    return count


def write_lists(path: Path, names: pa.ChunkedArray, documents: Iterable[np.ndarray]) -> None:
    """Write `id` (of `names`) and `input_ids` of each document as Parquet, some documents a row group.

    Ids are int32, the type that Hugging Face's `datasets` itself gives a column of this name.
    """
    documents, first = iter(documents), 0
    schema = pa.schema([("id", pa.string()), ("input_ids", pa.list_(pa.int32()))])
    with storage.atomic(path) as beside, pq.ParquetWriter(beside, schema, **storage.PARQUET) as writer:
        while block := list(islice(documents, _TOGETHER)):  # a shard is never in memory whole
            offsets = np.cumsum([0, *map(len, block)], dtype=np.int32)
            lists = pa.ListArray.from_arrays(offsets, pa.array(np.concatenate(block)).cast(pa.int32()))
            rows = [names.slice(first, len(block)).combine_chunks(), lists]
            writer.write_table(pa.table(rows, schema))
            first += len(block)


def write_idx(path: Path, lengths: np.ndarray, dtype: str) -> None:
    """Megatron-LM's `.idx` for documents of these lengths (tokens): one sequence a document."""
    lengths = np.asarray(lengths, "<i4")
    starts = np.zeros(len(lengths), "<i8")
    np.cumsum(lengths[:-1], out=starts[1:])
    with storage.atomic(path) as beside, beside.open("wb") as handle:
        handle.write(_MAGIC + struct.pack("<QB", 1, _MEGATRON_CODE[dtype]))
        handle.write(struct.pack("<QQ", len(lengths), len(lengths) + 1))
        handle.write(lengths.tobytes())
        handle.write((starts * np.dtype(dtype).itemsize).tobytes())
        handle.write(np.arange(len(lengths) + 1, dtype="<i8").tobytes())


def read_idx(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Lengths (int32, tokens) and byte offsets (int64) of the documents of a shard, mapped from its `.idx`."""
    with path.open("rb") as handle:
        head = handle.read(manifests.IDX_HEAD)
    if len(head) < manifests.IDX_HEAD or head[:9] != _MAGIC:
        raise NotACorpus(f"{path}: not a Megatron index")
    count = struct.unpack_from("<Q", head, 18)[0]
    rest = np.memmap(path, np.uint8, "r")[manifests.IDX_HEAD :]
    return rest[: 4 * count].view("<i4"), rest[4 * count : 12 * count].view("<i8")


class Part(NamedTuple):
    """One corpus of a chain."""

    folder: Path
    manifest: dict[str, Any]


class Shard(NamedTuple):
    """One shard of an opened corpus."""

    name: str  # numbered through over the chain
    split: str  # train or val
    documents: int
    tokens: int
    first: int  # of its documents in the corpus
    path: Path  # of its files, without suffix


class Corpus:
    """A finished corpus, opened for reading with all its parents; nothing is loaded before it is asked for.

    `folder` and `manifest` are those of the newest, `parts` all of them, the oldest first.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], parents: Sequence[Part] = ()) -> None:
        self.folder, self.manifest = folder, manifest
        self.parts = [*parents, Part(folder, manifest)]
        self.dtype = np.dtype(manifest["dtype"])
        self.shards: list[Shard] = []
        first, numbers = 0, Counter[str]()
        for home, listed in self.parts:
            for entry in listed["shards"]:
                prefix = entry["name"].rsplit("-", 1)[0]
                name = f"{prefix}-{numbers[prefix]:05d}"
                here = Shard(name, entry["split"], entry["documents"], entry["tokens"], first, home / entry["name"])
                self.shards.append(here)
                numbers[prefix] += 1
                first += here.documents

    def __len__(self) -> int:
        return sum(part.manifest["documents"] for part in self.parts)

    @property
    def n_tokens(self) -> int:
        """Tokens of all shards."""
        return sum(shard.tokens for shard in self.shards)

    @functools.cached_property
    def docs(self) -> pa.Table:
        """`docs.parquet`: row i is document i. Of a chain all rows, `shard` by the names that `shards` has."""
        if len(self.parts) == 1:
            return pq.read_table(self.folder / "docs.parquet")
        tables = []
        for part in self.parts:
            table = pq.read_table(part.folder / "docs.parquet")
            names = {shard.path.name: shard.name for shard in self.shards if shard.path.parent == part.folder}
            tables.append(_renamed(table, names))
        try:
            return pa.concat_tables(tables, promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise NotACorpus(f"{self.folder}: its docs.parquet and its parents' have other columns: {error}") from None

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.from_file(str(self.folder / self.manifest["tokenizer"]["file"]))

    def shard_tokens(self, shard: Shard) -> np.ndarray:
        """All token ids of a shard, one after the other; mapped, not read, where the format allows."""
        if self.manifest["format"] == "memmap":
            path = with_suffix(shard.path, ".bin")
            return np.memmap(path, self.dtype, "r") if shard.tokens else np.zeros(0, self.dtype)
        ids = pq.read_table(with_suffix(shard.path, ".parquet"), columns=["input_ids"])["input_ids"]
        return pc.list_flatten(ids).to_numpy().astype(self.dtype)

    def lengths(self, shard: Shard) -> np.ndarray:
        """Tokens of each document of a shard, EOS included (int64)."""
        if self.manifest["format"] == "memmap":
            return read_idx(with_suffix(shard.path, ".idx"))[0].astype(np.int64)
        return self.docs["n_tokens"].slice(shard.first, shard.documents).to_numpy().astype(np.int64)

    def tokens(self, index: int) -> np.ndarray:
        """The ids of document `index`, EOS last. Raises `IndexError` beyond the corpus."""
        if not 0 <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        row = self.docs.slice(index, 1).select(["offset", "n_tokens"]).to_pylist()[0]
        shard = self.shards[bisect_right([shard.first for shard in self.shards], index) - 1]
        return np.asarray(self.shard_tokens(shard)[row["offset"] : row["offset"] + row["n_tokens"]])

    def text(self, index: int) -> str:
        """The text of document `index`, decoded from its tokens."""
        return self.tokenizer.decode(self.tokens(index)[:-1].tolist(), skip_special_tokens=False)

    def documents(self) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
        """Every document in order: its row of `docs.parquet`, and its ids."""
        for shard in self.shards:
            tokens = self.shard_tokens(shard)
            for row in self.docs.slice(shard.first, shard.documents).to_pylist():
                yield row, tokens[row["offset"] : row["offset"] + row["n_tokens"]]


def with_suffix(path: Path, suffix: str) -> Path:
    """`path` with a suffix put on, whatever dots its name has."""
    return path.with_name(path.name + suffix)


def _renamed(docs: pa.Table, names: dict[str, str]) -> pa.Table:
    """`docs` with the shards of one corpus called by their names in the chain."""
    coded = docs["shard"].cast(pa.large_string()).combine_chunks().dictionary_encode()
    known = pa.array([names.get(name, name) for name in coded.dictionary.to_pylist()], pa.string())
    return docs.set_column(docs.column_names.index("shard"), "shard", known.take(coded.indices))


def latest(folder: Path) -> Path | None:
    """The newest corpus of a folder that names it in `LATEST`; None where there is no such file."""
    try:
        return folder / (folder / LATEST).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None


def open(path: str | Path, *, sizes: bool = True) -> Corpus:  # noqa: A001 - read as corpus.open(path)
    """Open a corpus with its parents: its own folder, the run directory that made it, or a folder with `LATEST`.

    Raises `NotACorpus`, also where a parent is missing, changed since, or of another vocabulary, and where a file is
    missing or does not have the size or rows that the manifest says. `sizes=False` leaves the files to `verify`.
    """
    folder = latest(Path(path)) or Path(path)
    if not (folder / MANIFEST).exists():
        folder = _made_by(folder) or folder
    manifest = manifests.read(folder)
    if manifest is None:
        raise NotACorpus(f"{path}: no {MANIFEST} there; is the run finished, and does it end in 'shards'?")
    opened = Corpus(folder, manifest, _parents(folder, manifest))
    if sizes and (wrong := _misfits(opened)):
        more = f"; {len(wrong) - 1} more files are wrong, `verify` lists them" if len(wrong) > 1 else ""
        raise NotACorpus(f"{next(iter(wrong.values()))}{more}")
    return opened


def _made_by(run: Path) -> Path | None:
    """The folder of the last group of a run, which has its corpus; None where there is no report of a run."""
    try:
        found = storage.read_json(run / "report.json")
        return run / found["groups"][-1]["folder"] if found else None
    except (ValueError, KeyError, IndexError, TypeError):
        raise NotACorpus(f"{run / 'report.json'} is damaged: it does not say where the corpus of this run is") from None


def _misfits(corpus: Corpus) -> dict[Path, str]:
    """The files of a corpus and its parents that are missing or of another size, each with a message."""
    return {path: message for part in corpus.parts for path, message in manifests.misfits(*part).items()}


def _parents(folder: Path, manifest: dict[str, Any]) -> list[Part]:
    """All that a corpus goes on from, the oldest first. Raises `NotACorpus`."""
    chain = [Part(folder, manifest)]
    while (parent := chain[0].manifest.get("parent")) is not None:
        child = chain[0]
        home = (child.folder / parent).resolve()
        if home in {part.folder.resolve() for part in chain}:
            raise NotACorpus(f"{child.folder}: its parents go round in a circle, back to {home}")
        found = manifests.read(home)
        if found is None:
            raise NotACorpus(f"{child.folder}: its parent {home} has no {MANIFEST}; a corpus that grew needs all of it")
        if storage.sha256(home / MANIFEST) != child.manifest.get("parent_sha256"):
            raise NotACorpus(f"{child.folder}: the manifest of its parent {home} is not the one it was made for")
        for name in _ALIKE:
            if (here := _told(child.manifest, name)) != (there := _told(found, name)):
                raise NotACorpus(f"{child.folder}: its {name} is {here}, its parent {home} has {there}; "
                                 "a chain is read as one corpus and must have one vocabulary")  # fmt: skip
        chain.insert(0, Part(home, found))
    return chain[:-1]


def _told(manifest: dict[str, Any], name: str) -> Any:
    return manifest["tokenizer"]["sha256"] if name == "tokenizer" else manifest.get(name)


def verify(corpus: Corpus) -> list[str]:
    """What is wrong with a corpus or any of its parents, a sentence each.

    Sizes, checksums, counts, ids beyond the vocabulary, documents without EOS at the end or with EOS inside.
    """
    wrong = _misfits(corpus)
    for part in corpus.parts:
        for name, facts in part.manifest["files"].items():
            path = part.folder / name
            if path not in wrong and storage.sha256(path) != facts["sha256"]:
                wrong[path] = f"{path}: its content changed since it was written"
    if wrong:
        return list(wrong.values())
    return [message for shard in corpus.shards for message in _check_shard(corpus, shard)]


def _check_shard(corpus: Corpus, shard: Shard) -> list[str]:
    tokens, rows = corpus.shard_tokens(shard), corpus.docs.slice(shard.first, shard.documents)
    lengths, offsets = rows["n_tokens"].to_numpy(), rows["offset"].to_numpy()
    if len(tokens) != shard.tokens or lengths.sum() != shard.tokens:
        return [f"{shard.path}: {len(tokens)} tokens, {lengths.sum()} by docs.parquet, {shard.tokens} by manifest"]
    wrong = []
    ends = np.cumsum(lengths, dtype=np.int64)
    if not np.array_equal(offsets, ends - lengths):
        wrong.append(f"{shard.path}: the offsets of docs.parquet are not those of the lengths")
    if len(tokens) and (top := int(tokens.max())) >= corpus.manifest["vocab_size"]:
        wrong.append(f"{shard.path}: token id {top} in a vocabulary of {corpus.manifest['vocab_size']}")
    if not np.array_equal(corpus.lengths(shard), lengths):
        wrong.append(f"{shard.path}: its .idx disagrees with docs.parquet")
    return wrong + _check_ends(shard, np.flatnonzero(tokens == corpus.manifest["eos_id"]), ends)


def _check_ends(shard: Shard, found: np.ndarray, ends: np.ndarray) -> list[str]:
    """What is wrong with EOS, which stands at the places `found` of a shard whose documents end before `ends`."""
    wrong = []
    if missing := len(ends) - len(np.intersect1d(found, ends - 1)):
        wrong.append(f"{shard.path}: {missing} documents do not end in EOS")
    inside = np.setdiff1d(found, ends - 1)
    if len(inside):
        documents = len(np.unique(np.searchsorted(ends, inside, "right")))
        wrong.append(f"{shard.path}: EOS stands {len(inside)} times inside documents, in {documents} of {len(ends)}")
    return wrong
