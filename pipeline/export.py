"""A finished corpus in the layouts of other trainers.

Most differ in the index beside one and the same payload, the ids of all documents one after the other: `megatron`,
`nanogpt`, `datatrove` and `olmo` share the bytes by hard links where the file system allows. All is little-endian.

    megatron   SHARD.bin + SHARD.idx, docs.parquet and manifest.json: a corpus that `corpus.open` and `verify` take
    nanogpt    train.bin, val.bin
    llmc       train_000000.bin ...: 1,024 bytes of header; EOS stands before each document, as in llm.c's scripts
    datatrove  SHARD.ds + SHARD.ds.index (end of each document, uint64) + SHARD.ds.metadata
    olmo       SHARD.npy (bare ids, no NumPy header) + SHARD.csv.gz (start,end,id,source,number)
    mds        train/, val/: index.json + shard.NNNNN.mds, samples of a fixed length
    litdata    train/, val/: index.json + chunk-0-N.bin, an item a document
    parquet    train-*.parquet, validation-*.parquet (id, input_ids), docs.parquet and manifest.json: a corpus, too;
               `datasets.load_dataset(FOLDER)` gives its splits train and validation
"""

import enum
import gzip
import io
import json
import os
import shutil
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import corpus, storage
from pipeline.corpus import Corpus, Shard

_MDS_BYTES = 64 << 20
"""MosaicML streaming's default size of a shard; its offsets are 32 bits wide."""

_LITDATA_TYPES = {"uint16": 5, "uint32": 6}
"""Places in litdata's list of NumPy types."""


class Layout(str, enum.Enum):
    """Whose layout."""

    megatron = "megatron"
    nanogpt = "nanogpt"
    llmc = "llmc"
    datatrove = "datatrove"
    olmo = "olmo"
    mds = "mds"
    litdata = "litdata"
    parquet = "parquet"


class CannotExport(ValueError):
    """A corpus that a layout cannot hold, and why."""


def export(opened: Corpus, layout: Layout, folder: Path, length: int = 1024) -> list[Path]:
    """Write all shards of `opened` into `folder`; `length` is the tokens of an `mds` sample. Returns the files.

    Raises `CannotExport` where the folder is not empty or the layout cannot hold the corpus.
    """
    if folder.exists() and any(folder.iterdir()):
        raise CannotExport(f"{folder}: is not empty")
    folder.mkdir(parents=True, exist_ok=True)
    writers: dict[Layout, Any] = {
        Layout.megatron: _megatron, Layout.llmc: _llmc, Layout.datatrove: _datatrove, Layout.olmo: _olmo,
    }  # fmt: skip
    if layout in writers:
        for shard in opened.shards:
            writers[layout](opened, shard, folder)
    for split in ("train", "val"):
        shards = [shard for shard in opened.shards if shard.split == split]
        if shards and layout is Layout.nanogpt:
            _nanogpt(opened, shards, folder / f"{split}.bin")
        elif shards and layout is Layout.mds:
            _mds(opened, shards, folder / split, length)
        elif shards and layout is Layout.litdata:
            _litdata(opened, shards, folder / split)
    shutil.copyfile(opened.folder / opened.manifest["tokenizer"]["file"], folder / "tokenizer.json")
    if layout is Layout.megatron:
        _describe(opened, folder, "memmap", [shard.name for shard in opened.shards])
    elif layout is Layout.parquet:
        _describe(opened, folder, "parquet", _parquet(opened, folder))
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _payload(opened: Corpus, shard: Shard, path: Path) -> None:
    """The ids of a shard under another name: the same file where links go, a copy otherwise."""
    if opened.manifest["format"] != "memmap":
        opened.shard_tokens(shard).tofile(path)
        return
    payload = corpus.with_suffix(shard.path, ".bin")
    try:
        os.link(payload, path)
    except OSError:
        shutil.copyfile(payload, path)


def _megatron(opened: Corpus, shard: Shard, folder: Path) -> None:
    _payload(opened, shard, folder / f"{shard.name}.bin")
    corpus.write_idx(folder / f"{shard.name}.idx", opened.lengths(shard), opened.dtype.name)


def _nanogpt(opened: Corpus, shards: list[Shard], path: Path) -> None:
    if len(shards) == 1:
        _payload(opened, shards[0], path)
        return
    with path.open("wb") as handle:
        for shard in shards:
            opened.shard_tokens(shard).tofile(handle)


def _llmc(opened: Corpus, shard: Shard, folder: Path) -> None:
    """llm.c's `write_datafile`: magic 20240520, version 1, uint16; for uint32 ids 20240801, version 7."""
    tokens = opened.shard_tokens(shard)
    if len(tokens) >= 1 << 31:
        raise CannotExport(f"{shard.name}: llm.c counts tokens in 32 bits; it has {len(tokens):,}")
    header = np.zeros(256, "<i4")
    header[:3] = (20240520, 1, len(tokens)) if opened.dtype.itemsize == 2 else (20240801, 7, len(tokens))
    number = int(shard.name.rsplit("-", 1)[1])
    with (folder / f"{shard.split}_{number:06d}.bin").open("wb") as handle:
        header.tofile(handle)
        tokens[-1:].tofile(handle)  # the EOS that ends the last document
        tokens[:-1].tofile(handle)


def _datatrove(opened: Corpus, shard: Shard, folder: Path) -> None:
    tokens, name = shard.tokens, folder / f"{shard.name}.ds"
    _payload(opened, shard, name)
    np.cumsum(opened.lengths(shard)).astype("<u8").tofile(name.with_name(f"{name.name}.index"))
    facts = f"tokenizer.json|{opened.dtype.itemsize}\n{tokens}\n{_metric(tokens)}"
    name.with_name(f"{name.name}.metadata").write_text(facts, encoding="utf-8")


def _metric(count: int) -> str:
    """A count for people, as 67.5 kT."""
    power = min(4, max(0, (len(str(count)) - 1) // 3))
    scaled = count / 1000**power
    digits = max(0, 2 - len(str(int(scaled))) + 1)
    return f"{scaled:.{digits}f} {('', 'k', 'M', 'G', 'T')[power]}T"


def _olmo(opened: Corpus, shard: Shard, folder: Path) -> None:
    _payload(opened, shard, folder / f"{shard.name}.npy")
    ends = np.cumsum(opened.lengths(shard))
    rows = opened.docs.slice(shard.first, shard.documents)
    lines = zip(ends - opened.lengths(shard), ends, rows["id"].to_pylist(), rows["source"].to_pylist())
    text = io.StringIO()
    for number, (start, end, id_, source) in enumerate(lines):
        text.write(f"{start},{end},{_quoted(id_)},{_quoted(source)},{number}\n")
    packed = gzip.compress(text.getvalue().encode(), mtime=0)  # no time of day: the same corpus, the same bytes
    (folder / f"{shard.name}.csv.gz").write_bytes(packed)


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\n\r') else text


def _mds(opened: Corpus, shards: list[Shard], folder: Path, length: int) -> None:
    """Mosaic Data Shards: uint32 count, uint32 offsets, JSON of the columns, samples without a header of their own."""
    folder.mkdir()
    kind = f"ndarray:{opened.dtype.name}:{length}"
    columns = {"column_names": ["tokens"], "column_encodings": [kind], "column_sizes": [length * opened.dtype.itemsize],
               "compression": None, "format": "mds", "hashes": [], "size_limit": _MDS_BYTES}  # fmt: skip
    config = json.dumps({**columns, "version": 2}, sort_keys=True).encode()
    stream = np.concatenate([opened.shard_tokens(shard) for shard in shards])
    samples = stream[: len(stream) // length * length].reshape(-1, length)
    room = max(1, (_MDS_BYTES - 8 - len(config)) // (length * opened.dtype.itemsize + 4))
    entries = []
    for number, first in enumerate(range(0, len(samples), room)):
        part = samples[first : first + room]
        head = 4 + 4 * (len(part) + 1) + len(config)
        offsets = head + np.arange(len(part) + 1) * length * opened.dtype.itemsize
        name = f"shard.{number:05d}.mds"
        data = struct.pack("<I", len(part)) + offsets.astype("<u4").tobytes() + config + part.tobytes()
        (folder / name).write_bytes(data)
        raw = {"basename": name, "bytes": len(data), "hashes": {}}
        entries.append({**columns, "raw_data": raw, "samples": len(part), "version": 2, "zip_data": None})
    index = json.dumps({"shards": entries, "version": 2}, sort_keys=True)
    (folder / "index.json").write_text(index, encoding="utf-8")


def _litdata(opened: Corpus, shards: list[Shard], folder: Path) -> None:
    """litdata's chunks for its `TokensLoader`: uint32 count, uint32 offsets, ids."""
    folder.mkdir()
    chunks: list[dict[str, Any]] = []
    for number, shard in enumerate(shards):
        tokens, lengths = opened.shard_tokens(shard), opened.lengths(shard)
        head = 4 + 4 * (len(lengths) + 1)
        offsets = head + np.concatenate([[0], np.cumsum(lengths)]) * opened.dtype.itemsize
        if offsets[-1] >= 1 << 32:
            raise CannotExport(f"{shard.name}: litdata's offsets are 32 bits; smaller shards: shards.shard_tokens")
        name = f"chunk-0-{number}.bin"
        with (folder / name).open("wb") as handle:
            handle.write(struct.pack("<I", len(lengths)) + offsets.astype("<u4").tobytes())
            tokens.tofile(handle)
        chunks.append({"chunk_bytes": int(offsets[-1]), "chunk_size": len(lengths), "dim": len(tokens),
                       "filename": name})  # fmt: skip
    leaf = json.dumps([1, {"type": None, "context": None, "children_spec": []}])
    config = {"chunk_bytes": max(chunk["chunk_bytes"] for chunk in chunks), "chunk_size": None, "compression": None,
              "data_format": [f"no_header_numpy:{_LITDATA_TYPES[opened.dtype.name]}"], "data_spec": leaf,
              "encryption": None, "item_loader": "TokensLoader"}  # fmt: skip
    index = {"chunks": chunks, "config": config, "updated_at": "0"}
    (folder / "index.json").write_text(json.dumps(index, sort_keys=True), encoding="utf-8")


def _parquet(opened: Corpus, folder: Path) -> list[str]:
    """Write every shard under the name that a Parquet corpus gives it; returns the names, in the order of shards."""
    names, numbers = [], Counter[str]()
    for shard in opened.shards:
        names.append(corpus.shard_name("parquet", shard.split, numbers[shard.split]))
        numbers[shard.split] += 1
        documents = np.split(np.asarray(opened.shard_tokens(shard)), np.cumsum(opened.lengths(shard))[:-1])
        ids = opened.docs["id"].slice(shard.first, shard.documents)
        corpus.write_lists(folder / f"{names[-1]}.parquet", ids, documents)
    return names


def _describe(opened: Corpus, folder: Path, format_: str, names: list[str]) -> None:
    """Write `docs.parquet` and `manifest.json` beside the exported shards `names`; a chain becomes one corpus."""
    sizes = [shard.documents for shard in opened.shards]
    column = pa.chunked_array([pa.repeat(pa.scalar(name), size) for name, size in zip(names, sizes)], pa.string())
    docs = opened.docs.set_column(opened.docs.column_names.index("shard"), "shard", column)
    storage.write_table(folder / "docs.parquet", docs)
    shards = [{"name": name, "split": shard.split, "documents": shard.documents, "tokens": shard.tokens}
              for name, shard in zip(names, opened.shards)]  # fmt: skip
    known = _known(opened, names) if format_ == opened.manifest["format"] == "memmap" else {}
    files = {path.name: known.get(path.name) or {"bytes": path.stat().st_size, "sha256": storage.sha256(path)}
             for path in sorted(folder.iterdir())}  # fmt: skip
    kept = ("gristmill", "dtype", "vocab_size", "eos_token", "eos_id", "seed", "val_fraction")
    told = {name: opened.manifest[name] for name in kept if name in opened.manifest}
    tokenizer = {"file": "tokenizer.json", "sha256": files["tokenizer.json"]["sha256"]}
    storage.write_json(folder / corpus.MANIFEST, {
        **told, "format": format_, "tokenizer": tokenizer, "documents": len(opened), "tokens": opened.n_tokens,
        "shards": shards, "files": files,
    })  # fmt: skip


def _known(opened: Corpus, names: list[str]) -> dict[str, Any]:
    """What the manifests say of the files that hold the ids, which are not read again: they have the same bytes."""
    listed = {part.folder / name: facts for part in opened.parts for name, facts in part.manifest["files"].items()}
    paths = {f"{name}.bin": corpus.with_suffix(shard.path, ".bin") for name, shard in zip(names, opened.shards)}
    return {name: listed[path] for name, path in paths.items() if path in listed}
