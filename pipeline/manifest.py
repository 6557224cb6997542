"""`manifest.json` of a corpus: what it must contain, and which files do not have the size it gives.

gristmill         1, the version of this layout
format            memmap or parquet
dtype             uint16 or uint32, the type of token ids in a .bin
vocab_size        one more than the highest id
eos_token, eos_id the token that ends every document
tokenizer         {file, sha256}
documents, tokens totals of this folder, without parents
shards            [{name, split, documents, tokens, text_bytes}], training shards first
files             {name: {bytes, sha256}}, all files but this one
parent, parent_sha256    the corpus that this one continues, relative to its folder
"""

import json
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, Field, ValidationError, model_validator

MANIFEST = "manifest.json"

IDX_HEAD = 34
"""Bytes of Megatron's .idx before the documents: magic, version, code of the type, two counts."""


class NotACorpus(ValueError):
    """A path that holds no finished corpus, or a damaged one; the message names the path and what is wrong."""


class _Shard(BaseModel):
    name: str
    split: Literal["train", "val"]
    documents: int = Field(ge=0)
    tokens: int = Field(ge=0)


class _File(BaseModel):
    bytes: int | None = Field(None, ge=0)
    sha256: str


class _Tokenizer(BaseModel):
    file: str
    sha256: str


class _Manifest(BaseModel):
    """The fields that a reader relies on; others may stand beside them."""

    format: Literal["memmap", "parquet"]
    dtype: Literal["uint16", "uint32"]
    vocab_size: int = Field(ge=1)
    eos_token: str
    eos_id: int = Field(ge=0)
    tokenizer: _Tokenizer
    documents: int = Field(ge=0)
    shards: list[_Shard]
    files: dict[str, _File]
    parent: str | None = None
    parent_sha256: str | None = None

    @model_validator(mode="after")
    def _adds_up(self) -> "_Manifest":
        if (held := sum(shard.documents for shard in self.shards)) != self.documents:
            raise ValueError(f"{self.documents:,} documents in all, but {held:,} in the shards")
        return self


def read(folder: Path) -> dict[str, Any] | None:
    """The manifest of the corpus in `folder`; None where there is no such file. Raises `NotACorpus` if damaged."""
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        _Manifest.model_validate(content, strict=True)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise NotACorpus(f"{path} is damaged: {f'{key}: ' if key else ''}{first['msg']}") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, or not JSON
        raise NotACorpus(f"{path} is damaged, it is not JSON: {error}") from None
    return content


def misfits(folder: Path, manifest: dict[str, Any]) -> dict[Path, str]:
    """The files of a corpus that are missing, shorter or longer than `manifest` says, each with a message.

    Reads sizes and Parquet footers only, so it costs little for a corpus of any size.
    """
    wrong = {folder / name: _wrong_size(folder / name, size) for name, size in _sizes(manifest).items()}
    for name, rows in _rows(manifest).items():
        path = folder / name
        wrong[path] = wrong.get(path) or _wrong_rows(path, rows)
    return {path: message for path, message in wrong.items() if message}


def _sizes(manifest: dict[str, Any]) -> dict[str, int | None]:
    """Bytes of each file: as `files` says, of `.bin` and `.idx` as follows from the counts of the shards."""
    sizes = {name: facts.get("bytes") for name, facts in manifest["files"].items()}
    if manifest["format"] == "memmap":
        width = {"uint16": 2, "uint32": 4}[manifest["dtype"]]
        for shard in manifest["shards"]:
            sizes[f"{shard['name']}.bin"] = shard["tokens"] * width
            sizes[f"{shard['name']}.idx"] = IDX_HEAD + 20 * shard["documents"] + 8
    return sizes


def _rows(manifest: dict[str, Any]) -> dict[str, int]:
    """Rows of each Parquet file."""
    rows = {"docs.parquet": manifest["documents"]}
    if manifest["format"] == "parquet":
        rows |= {f"{shard['name']}.parquet": shard["documents"] for shard in manifest["shards"]}
    return rows


def _wrong_size(path: Path, expected: int | None) -> str | None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return f"{path}: is missing"
    if expected is None or size == expected:
        return None
    return f"{path}: has {size:,} bytes, the manifest says {expected:,}"


def _wrong_rows(path: Path, expected: int) -> str | None:
    try:
        rows = pq.read_metadata(path).num_rows
    except FileNotFoundError:
        return f"{path}: is missing"
    except (pa.ArrowInvalid, OSError) as error:
        return f"{path}: is no Parquet file: {error}"
    return None if rows == expected else f"{path}: has {rows:,} rows, the manifest says {expected:,} documents"
