"""Text to token ids, by a Hugging Face `tokenizer.json` or by a byte-level BPE trained on the surviving documents.

Ids are exactly those of the `tokenizers` library, with EOS appended to every document. The text of a document is only
ever text: "<|endoftext|>" written in a web page becomes ordinary tokens, not the end of a document. The library's own
switch for this covers only one of the ways in which text becomes a special token, so the ids of every document are
checked. A document with such an id is encoded again, with a vocabulary in which special tokens have other names.

`fastokens` gives the same ids about forty times faster, and is never taken at its word. It is used for byte-level BPE
only, after it has agreed with `tokenizers` on a probe in this process, and while it agrees on a sample of every batch;
a batch where it does not is encoded by `tokenizers` as a whole, and that is counted.
"""

import functools
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from pipeline import storage
from pipeline.schema import set_column, split_batches, text_bytes
from pipeline.stage import Stage
from stages.encoding import vocabulary
from stages.kernels import bpe
from stages.kernels import text as characters

_CHUNK = 1 << 20
"""Bytes of text encoded at once: small enough for text and ids to stay in cache, and for memory not to matter."""

_WORDS = "|".join(
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
"""What merges may not cross: a word with the blank or sign before it (marks belong to it, as in Hindi or Thai), up to
three digits, a run of signs, blanks. It is the pattern of o200k_base (openai/tiktoken, `openai_public.py`) to the
letter, for which `fastokens` has a scanner of its own; any other works as well, at the speed of a regex engine."""

_WINDOW, _PER_WINDOW = 512, 3 << 20
"""The sample of a batch: one window of so many characters for every so many bytes of text. `tokenizers` takes about
0.2 ms for it, `fastokens` 14 ms and more for the text: the check costs 1 to 2 % of the stage."""

_ODD = ("\u180e", "'\u017f")
"""Where fastokens 0.3.5 splits otherwise than `tokenizers`, of all code points: the Mongolian vowel separator, a blank
to its regex engine, and the long s after an apostrophe, an 's to `(?i:'s)`. Such text goes to `tokenizers` at once."""

_PLANES = 4
"""Planes of Unicode that have letters."""

_RENEWED = 4
"""Batches of about 32 MB between two fast encoders. One more takes 0.17 CPU-s; words never met before leave half their
size in it."""

_batches: Counter[Path] = Counter()  # that this process has encoded with each tokenizer

_FAST, _HF, _FALLBACK = "fastokens", "hf", "fallback"
"""What encoded a batch: the fast library; `tokenizers`, as there is no fast one; `tokenizers`, as the two differed."""


_SPECIAL, _UNKNOWN = np.uint8(1), np.uint8(2)
"""Kinds of ids: a special token's, which no text may become; that of unknown characters."""

_NAMED = 20
"""Special tokens that an error message lists."""


class Flat(NamedTuple):
    """The ids of some texts (uint32), one after the other, and where each begins (int64, texts + 1)."""

    ids: np.ndarray
    offsets: np.ndarray


class Encoded(NamedTuple):
    """A batch of documents as ids."""

    encoder: str
    ids: np.ndarray  # of all documents one after the other, EOS after each
    lengths: np.ndarray  # int32, of each document, EOS included
    changed: int  # documents in which the text of a special token stood


class Training(BaseModel):
    """How to train a tokenizer on the documents that reach this stage."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    vocab_size: int = Field(ge=300, description="Size of the vocabulary, EOS included.")
    max_bytes: int = Field(500_000_000, ge=1, description="Train on about this much text, sampled by document.")
    seed: int = Field(1, description="Of the sample.")


class Tokens(Stage):
    """Token ids by a tokenizer.json, or by one trained on the survivors."""

    needs: ClassVar[tuple[str, ...]] = ("id", "text")
    adds: ClassVar[dict[str, pa.DataType]] = {"input_ids": pa.list_(pa.uint32()), "n_tokens": pa.int32()}

    tokenizer: Path | None = Field(None, description="A Hugging Face tokenizer.json.")
    train: Training | None = Field(None, description="Train a byte-level BPE on the survivors instead.")
    eos: str = Field("<|endoftext|>", description="The token that ends every document; it must be in the vocabulary.")
    encoder: Literal["auto", "hf"] = Field(
        "auto", description="auto: the fast encoder where it gives the ids of Hugging Face's; hf: always the latter."
    )

    @model_validator(mode="before")
    @classmethod
    def _one_of_both(cls, fields: Any) -> Any:
        given = [isinstance(fields, dict) and fields.get(name) is not None for name in ("tokenizer", "train")]
        if isinstance(fields, dict) and given[0] == given[1]:
            both = "; both are given, so set one to null" if all(given) else ""
            raise ValueError(f"give either tokenizer: PATH or train: {{vocab_size: N}}{both}")
        return fields

    @field_validator("tokenizer")
    @classmethod
    def _readable(cls, path: Path | None) -> Path | None:
        if path is not None and path.is_file():
            load(path)
        return path

    @model_validator(mode="after")
    def _eos_is_known(self) -> "Tokens":
        if self.train and self.eos in ("", *pre_tokenizers.ByteLevel.alphabet()):
            raise ValueError(f"eos: '{self.eos}' is part of ordinary text; take a longer name, as <|endoftext|>")
        if self.tokenizer and self.tokenizer.is_file():
            facts = _facts(self.tokenizer)
            if load(self.tokenizer).token_to_id(self.eos) is None:
                raise ValueError(f"eos: {self.tokenizer} has no token '{self.eos}'; {_named(facts.special)}")
            if self.eos in facts.bytes:
                what = f"in {self.tokenizer} the token '{self.eos}' is a byte of ordinary text"
                raise ValueError(f"eos: {what}; {_named(facts.special)}")
        return self

    def columns(self) -> dict[str, pa.DataType]:
        """`input_ids` are uint16 where every id of the vocabulary fits, known before anything runs."""
        return {**self.adds, "input_ids": pa.list_(pa.from_numpy_dtype(self._dtype()))}

    def _dtype(self) -> str:
        if self.train:
            return _narrowest(self.train.vocab_size)
        path = Path(self.tokenizer or "")
        return _narrowest(vocab_size(path)) if path.is_file() else "uint32"  # a missing file is refused by name

    def files(self) -> list[Path]:
        return [self.tokenizer] if self.tokenizer else []

    def unfitted(self) -> bool:
        return self.tokenizer is None

    def fit(self, docs: list[Path], out: Path) -> dict[str, Any]:
        """Train on the text of `docs`; the tokenizer becomes `out`.tokenizer.json."""
        assert self.train
        tokenizer = trained(_sampled(docs, self.train), self.train.vocab_size, self.eos)
        with storage.atomic(_trained(out)) as beside:
            tokenizer.save(str(beside))
        return {"vocab_size": tokenizer.get_vocab_size()}

    def fitted(self, out: Path) -> "Tokens":
        return self.model_copy(update={"tokenizer": _trained(out), "train": None})

    def apply(self, docs: pa.Table) -> pa.Table:
        path = Path(self.tokenizer or "")
        end = int(load(path).token_to_id(self.eos) or 0)  # known to be there since the configuration was checked
        encoded = _encode(path, docs, end, self._dtype(), self.encoder == "auto")
        offsets = np.concatenate([[0], np.cumsum(encoded.lengths, dtype=np.int64)]).astype(np.int32)
        lists = pa.ListArray.from_arrays(offsets, encoded.ids)
        facts = {"tokenizer": str(path), "eos": self.eos, "eos_id": str(end), "vocab_size": str(vocab_size(path)),
                 "encoder": encoded.encoder, "special_text": str(encoded.changed)}  # fmt: skip
        docs = docs.append_column(pa.field("input_ids", lists.type, metadata=facts), lists)
        return set_column(docs, "n_tokens", pa.array(encoded.lengths))

    def tally(self, docs: pa.Table) -> dict[str, int]:
        """Tokens; the documents that were not encoded by the fast encoder: `encoder_hf`, `encoder_fallback`; those in
        which the text of a special token stood and would have become that token: `special_text`."""
        facts = docs.schema.field("input_ids").metadata or {}
        counts = {"tokens": int(np.sum(docs["n_tokens"].to_numpy()))}
        if (encoder := facts.get(b"encoder", b"").decode()) not in (_FAST, ""):
            counts[f"encoder_{encoder}"] = len(docs)
        if changed := int(facts.get(b"special_text", 0)):
            counts["special_text"] = changed
        return counts


def trained(texts: Iterable[list[str]], vocab_size: int, eos: str) -> Tokenizer:
    """A byte-level BPE with the pattern of o200k_base, learned from batches of texts: `eos` is id 0, the bytes follow,
    then the merges in the order they were learned.

    A pure function of the texts as a multiset: merges are chosen by count, ties by id. The first N ids are therefore
    the vocabulary that training for N gives.
    """
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[eos],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _trained(out: Path) -> Path:
    return out.with_name(f"{out.name}.tokenizer.json")


def _narrowest(ids: int) -> str:
    return "uint16" if ids <= 1 << 16 else "uint32"


@functools.cache
def load(path: Path) -> Tokenizer:
    """The tokenizer at `path`, as a pure function of text: special tokens in text are text, nothing is padded, cut or
    left to chance. Raises `ValueError` when it is not one."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # a worker has one core; threads would only contend
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - the library raises bare Exception for whatever is wrong with the file
        raise ValueError(f"{path} is not a tokenizer.json: {error}") from None
    tokenizer.encode_special_tokens = True  # the library does not look for them; the model may still make them
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if isinstance(tokenizer.model, models.BPE):
        tokenizer.model.dropout = None
    return tokenizer


def _content(path: Path) -> vocabulary.Content:
    """The content of the tokenizer at `path`, in the form that this version of the library writes."""
    return json.loads(load(path).to_str())


class _Facts(NamedTuple):
    """What the content of a tokenizer.json says: parsing it takes 0.4 s for 150,000 tokens, keeping it 100 MB."""

    special: dict[str, int]
    unknown: tuple[str, int] | None  # the token for unknown characters or words
    bytes: set[str]  # tokens that stand for one byte
    fast: str | None  # what the fast encoder is made from; None where it is not made for this kind


@functools.cache
def _facts(path: Path) -> _Facts:
    content, alphabet = _content(path), pre_tokenizers.ByteLevel.alphabet()
    fast_content = json.dumps(vocabulary.filled(content)) if _is_byte_level(content) else None
    return _Facts(vocabulary.specials(content), vocabulary.unknown(content),
                  vocabulary.byte_tokens(content, alphabet), fast_content)  # fmt: skip


def _named(special: dict[str, int]) -> str:
    """The special tokens of a tokenizer, for an error message."""
    names = list(special)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"its special tokens: {', '.join(names[:_NAMED])}{more}" if names else "it has no special tokens"


@functools.cache
def kinds(path: Path, end: int) -> np.ndarray:
    """uint8, one for each id of the tokenizer at `path`: `_SPECIAL`, `_UNKNOWN` or 0. `end` is the id of EOS, which is
    special however the file marks it; the token for unknown characters is not, since text may become it."""
    table, facts = np.zeros(vocab_size(path), np.uint8), _facts(path)
    table[list(facts.special.values())] = _SPECIAL
    if facts.unknown:
        table[facts.unknown[1]] = _UNKNOWN
    table[end] = _SPECIAL
    return table


@functools.cache
def plain(path: Path, end: int) -> Tokenizer:
    """The tokenizer at `path` with other names for its special tokens: it encodes their text as any other text."""
    special = set(np.flatnonzero(kinds(path, end)).tolist())
    tokenizer = Tokenizer.from_str(json.dumps(vocabulary.hidden(_content(path), special)))
    tokenizer.encode_special_tokens = True
    return tokenizer


@functools.cache
def vocab_size(path: Path) -> int:
    """One more than the highest id of the tokenizer at `path`: ids may have gaps, as those of cl100k_base do."""
    return 1 + max(load(path).get_vocab().values(), default=0)


@functools.cache
def fast(path: Path) -> Any | None:
    """The fast encoder of the tokenizer at `path`; None where the library is missing or the tokenizer is not for it."""
    content = _facts(path).fast
    return _fast(content) if content else None


def _is_byte_level(tokenizer: dict[str, Any]) -> bool:
    """Whether it is a BPE over bytes, which knows no unknown character: what `fastokens` was made for."""
    last = tokenizer["pre_tokenizer"] or {}
    last = last["pretokenizers"][-1] if last.get("pretokenizers") else last
    if tokenizer["model"]["type"] != "BPE" or last.get("type") != "ByteLevel":
        return False
    return all(byte in tokenizer["model"]["vocab"] for byte in pre_tokenizers.ByteLevel.alphabet())


def _fast(tokenizer: str) -> Any | None:
    """The fast encoder of the content of a tokenizer.json."""
    for variable in ("FASTOKENS_BPE_THREADS", "RAYON_NUM_THREADS"):  # read once, when the library first encodes
        os.environ.setdefault(variable, "1")
    try:
        from fastokens import Tokenizer as Fast  # type: ignore[import-untyped]

        return Fast.from_json_str(tokenizer)
    except (ImportError, ValueError):  # not installed, or a part of the tokenizer is unknown to it
        return None


@functools.cache
def _proven(path: Path) -> bool:
    """Whether both encoders split the probe alike with the pre-tokenizer of `path`, once a process.

    The two may know different versions of Unicode: `tokenizers` before 0.21.2 takes letters newer than Unicode 14 for
    signs. Few ids show it with a common vocabulary, so it is replaced by one in which every split shows.
    """
    split = json.dumps({**_content(path), "model": _showing(), "added_tokens": []})
    encoder = _fast(split)
    return encoder is not None and _agree(Tokenizer.from_str(split), encoder, _probe())


def _showing() -> dict[str, Any]:
    """A BPE that merges every byte with the signs of the probe beside it, unless they were split."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [pair for byte in alphabet for sign in "a1!ĠĊ" for pair in ((byte, sign), (sign, byte))]
    merges = list(dict.fromkeys(pairs))
    tokens = dict.fromkeys([*alphabet, *("".join(pair) for pair in merges)])
    return {"type": "BPE", "vocab": {token: id_ for id_, token in enumerate(tokens)}, "merges": merges}


@functools.cache
def _probe() -> list[str]:
    """Characters among others, as the classes in a pre-tokenizer's pattern make a difference of them.

    Taken are both sides of every border between kinds of characters, and every 32nd of those this Python knows nothing
    of: each version of Unicode fills longer gaps than that.
    """
    kinds = characters.classes()
    edges = np.flatnonzero(kinds[1:] != kinds[:-1])
    unknown = np.flatnonzero(kinds[: _PLANES << 16 : 32] == 0) * 32
    codes = np.unique(np.concatenate([edges, edges + 1, unknown]))
    texts = map(around, map(chr, codes[(codes < 0xD800) | (codes > 0xDFFF)].tolist()))
    return [text for text in texts if not odd(text)]


def around(char: str) -> str:
    """A text with `char` after and before a letter, a digit, a blank, a sign, an apostrophe, an end of line."""
    return f"a{char}1{char} {char}!{char}\n{char}a'{char}a"


def odd(text: str) -> bool:
    """Whether only `tokenizers` is to be trusted with this text."""
    return any(part in text for part in _ODD)


def by_hf(tokenizer: Tokenizer, texts: list[str]) -> Flat:
    """The ids of `texts` by `tokenizers`."""
    encoded = [item.ids for item in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
    offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in encoded], dtype=np.int64)]).astype(np.int64)
    return Flat(np.fromiter(itertools.chain.from_iterable(encoded), np.uint32, int(offsets[-1])), offsets)


def by_fast(encoder: Any, texts: list[str]) -> Flat:
    """The ids of `texts` by what `fast` returns. Raises `ValueError` when the library's regex engine gives up."""
    ids, offsets = encoder.encode_batch_flat(texts, split_special_tokens=True)
    return Flat(np.frombuffer(ids, np.uint32), np.frombuffer(offsets, np.int64))


def _by_either(tokenizer: Tokenizer, encoder: Any, texts: list[str]) -> Flat:
    return by_hf(tokenizer, texts) if any(map(odd, texts)) else by_fast(encoder, texts)


def _agree(tokenizer: Tokenizer, encoder: Any, texts: list[str]) -> bool:
    """Whether both encoders give the same ids for each of `texts`."""
    return all(map(np.array_equal, by_fast(encoder, texts), by_hf(tokenizer, texts)))


def _remembering_little(path: Path) -> Any | None:
    """The fast encoder, made anew after every `_RENEWED` batches: it remembers each word it has met, and frees none."""
    _batches[path] += 1
    if _batches[path] % _RENEWED == 0:
        fast.cache_clear()
    return fast(path)


def _encode(path: Path, docs: pa.Table, end: int, dtype: str, auto: bool) -> Encoded:
    """The ids of `docs`, with `end` after each document; `auto`: by the fast encoder where that gives the same."""
    tokenizer, encoder = load(path), _remembering_little(path) if auto else None
    by_tokenizers = functools.partial(by_hf, tokenizer)
    if encoder is None:
        return Encoded(_HF, *_flat(path, by_tokenizers, docs, end, dtype))
    try:
        if _proven(path) and _agree(tokenizer, encoder, _windows(docs)):
            by_one = functools.partial(_by_either, tokenizer, encoder)
            return Encoded(_FAST, *_flat(path, by_one, docs, end, dtype))
    except ValueError:  # it gave up on a text
        pass
    return Encoded(_FALLBACK, *_flat(path, by_tokenizers, docs, end, dtype))


def _flat(
    path: Path, encode: Callable[[list[str]], Flat], docs: pa.Table, end: int, dtype: str
) -> tuple[np.ndarray, np.ndarray, int]:
    """Ids, lengths and the count of documents with the text of a special token, as `Encoded` has them."""
    ids, lengths, changed = [np.zeros(0, dtype)], [np.zeros(0, np.int32)], 0
    for chunk in split_batches(docs.select(["text"]), _CHUNK):
        texts = [text or "" for text in chunk["text"].to_pylist()]
        flat, count = as_text(path, end, texts, encode(texts))
        ids.append(bpe.terminated(*flat, end, dtype))
        lengths.append((np.diff(flat.offsets) + 1).astype(np.int32))
        changed += count
    return np.concatenate(ids), np.concatenate(lengths), changed


def as_text(path: Path, end: int, texts: list[str], flat: Flat) -> tuple[Flat, int]:
    """`flat`, the ids of `texts`, without any id of a special token, and the number of texts that had one.

    Such a text is encoded again as a whole by the `plain` tokenizer. What this cannot encode otherwise is left out, so
    that no special token ever stands inside a document.
    """
    table = kinds(path, end)
    found = bpe.kinds_in(*flat, table)
    rows = [row for row in np.flatnonzero(found).tolist() if found[row] & _SPECIAL or _says_unknown(path, texts[row])]
    if not rows:
        return flat, 0
    again = by_hf(plain(path, end), [texts[row] for row in rows])
    parts = np.split(flat.ids, flat.offsets[1:-1])
    for row, ids in zip(rows, np.split(again.ids, again.offsets[1:-1])):
        parts[row] = ids[table[ids] & _SPECIAL == 0]
    changed = sum(not np.array_equal(parts[row], flat.ids[slice(*flat.offsets[row : row + 2])]) for row in rows)
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts], dtype=np.int64)])
    return Flat(np.concatenate(parts), offsets), changed


def _says_unknown(path: Path, text: str) -> bool:
    """Whether a text that has unknown characters also contains the name of the token for them."""
    normalizer, unknown = load(path).normalizer, _facts(path).unknown
    return unknown is not None and unknown[0] in (normalizer.normalize_str(text) if normalizer else text)


def _windows(docs: pa.Table) -> list[str]:
    """The sample both encoders are compared on: a window of text at a keyed place in each of a few documents.

    Taken are the documents with the lowest ids: an id is a hash, so they are any, and the same ones on every run.
    """
    if len(docs) == 0:
        return []
    count = min(len(docs), 1 + text_bytes(docs) // _PER_WINDOW)
    windows = []
    for row in docs.take(pc.bottom_k_unstable(docs["id"], count)).select(["id", "text"]).to_pylist():
        text = row["text"] or ""
        place = xxhash.xxh3_64_intdigest(row["id"].encode()) % max(1, len(text) - _WINDOW)
        windows.append(text[place : place + _WINDOW])
    return [window for window in windows if not odd(window)]


def _sampled(docs: list[Path], training: Training) -> Iterator[list[str]]:
    """About `max_bytes` of text, chosen by a keyed hash of the id: the same documents whatever the partitioning."""
    share = training.max_bytes / max(1, sum(map(_text_size, docs)))
    limit = min(int(share * 2**64), 2**64 - 1)
    for path in docs:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1000, columns=["id", "text"], use_threads=False):
                yield [
                    text
                    for id_, text in zip(batch["id"].to_pylist(), batch["text"].to_pylist())
                    if xxhash.xxh3_64_intdigest(id_.encode(), training.seed) <= limit
                ]


def _text_size(path: Path) -> int:
    meta = pq.read_metadata(path)
    place = meta.schema.to_arrow_schema().get_field_index("text")
    return sum(meta.row_group(group).column(place).total_uncompressed_size for group in range(meta.num_row_groups))
