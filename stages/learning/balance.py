"""What a tokenizer learns from, and what it is measured on.

Every language (or source) gives the same number of bytes, as far as it has them: counting documents instead would let
the language with the longest documents write the vocabulary. A document's place in the sample and whether it is held
out are halves of one hash of its text, so that neither depends on the order of the files, and copies are never on both
sides.
"""

import functools
import unicodedata
from collections import Counter
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import xxhash

from stages.kernels import mixture
from stages.kernels import text as characters
from stages.learning import corpora
from stages.learning.corpora import Unusable

_UNKNOWN = "unknown"
"""The language of a document that names none."""

_HELD_OUT_BYTES = 16_000_000
"""Held-out text that is measured at most, the same amount of each language and source as far as there is."""


class Balance(str, Enum):
    """Of what the sample takes equal bytes."""

    LANG = "lang"
    SOURCE = "source"


class Asked(NamedTuple):
    """What a training is asked for."""

    corpora: tuple[Path, ...]
    vocab_size: int | None = None  # None: the knee of the curve
    balance: Balance | None = None  # None: every document has the same chance
    heldout: float = 0.05  # share of the documents
    sizes: tuple[int, ...] = ()
    sample_bytes: int = 500_000_000
    seed: int = 1
    vocabularies: tuple[Path, ...] = ()
    body: float = 85e6  # parameters of the model without its embedding
    width: int = 768


class Batch(NamedTuple):
    """Some documents. A document's keys are two halves of a hash of its text."""

    texts: list[str]
    langs: list[str]
    sources: list[str]
    order: np.ndarray  # uint64: the place in the sample
    chance: np.ndarray  # uint64: whether it is held out
    others: dict[str, int]  # rows that are no documents, see `corpora.Batch.counts`


class Limits(NamedTuple):
    """Which documents are taken: of each (language, source) those whose `order` is at most its limit."""

    heldout: float
    sample: dict[tuple[str, str], int]
    measured: dict[tuple[str, str], int]
    told: list[dict[str, Any]]
    read: dict[str, int]  # documents, and rows that are none


class Held(NamedTuple):
    """The held-out documents, and how often each word comes up in those of each (language, source) that have blanks."""

    docs: pa.Table  # id, text, lang, source, n_bytes, n_chars, spaced
    words: dict[tuple[str, str], Counter[str]]


def documents(asked: Asked) -> Iterator[Batch]:
    """The documents of all corpora, in batches."""
    for path in corpora.files(asked.corpora):
        for found in corpora.read(path):
            texts = found.docs["text"].to_pylist()
            digests = [xxhash.xxh3_128_intdigest(text.encode("utf-8", "surrogatepass"), asked.seed) for text in texts]
            yield Batch(
                texts,
                [lang or _UNKNOWN for lang in found.docs["lang"].to_pylist()],
                [source or corpora.name_of(path) for source in found.docs["source"].to_pylist()],
                np.array([digest & (1 << 64) - 1 for digest in digests], np.uint64),
                np.array([digest >> 64 for digest in digests], np.uint64),
                found.counts(),
            )


def limits(asked: Asked) -> Limits:
    """Read the corpora once and settle what is held out and what is learned from, whatever the order of the files.

    Raises `Unusable` where there is nothing to learn from, or nothing to balance by.
    """
    pairs: dict[tuple[str, str], int] = {}
    read: Counter[str] = Counter()
    found: list[tuple[np.ndarray, ...]] = []
    for batch in documents(asked):
        places = [pairs.setdefault(name, len(pairs)) for name in zip(batch.langs, batch.sources)]
        sizes = [len(text.encode("utf-8", "surrogatepass")) for text in batch.texts]
        found.append(
            (batch.order, _held_out(batch, asked.heldout), np.array(places, np.int64), np.array(sizes, np.int64))
        )
        read.update({"documents": len(sizes), **batch.others})
    if not pairs:
        raise Unusable("no document with text is there to learn from")
    order, held, at, size = (np.concatenate(column) for column in zip(*found))
    names = [_balanced(asked.balance, *pair) for pair in pairs]
    groups = sorted(set(names))
    if asked.balance == Balance.LANG and groups == [_UNKNOWN]:
        raise Unusable("no document names its language in a column 'lang', and so none can be balanced by it")
    place = {name: number for number, name in enumerate(groups)}
    group = np.array([place[name] for name in names], np.int64)[at]
    learned, told = _settled(order[~held], group[~held], size[~held], groups, asked.sample_bytes)
    measured, _ = _settled(order[held], at[held], size[held], [str(name) for name in pairs], _HELD_OUT_BYTES)
    sample = {pair: learned[place[name]] for pair, name in zip(pairs, names)}
    return Limits(asked.heldout, sample, dict(zip(pairs, measured)), told, dict(read))


def _balanced(balance: Balance | None, lang: str, source: str) -> str:
    """Which group gives a document."""
    return {None: "all", Balance.LANG: lang, Balance.SOURCE: source}[balance]


def _held_out(batch: Batch, share: float) -> np.ndarray:
    return batch.chance.astype(np.float64) < share * 2.0**64


def _settled(
    order: np.ndarray, group: np.ndarray, size: np.ndarray, names: list[str], total: int
) -> tuple[list[int], list[dict[str, Any]]]:
    """The highest `order` taken of each group (-1: none), so that all groups give equal bytes, `total` together.

    The last document of a group is taken whole.
    """
    available = np.bincount(group, size, len(names))
    wanted = mixture.filled(np.ones(len(names)), available, min(float(total), float(available.sum())))
    rows = np.lexsort((order, group))
    order, group, size = order[rows], group[rows], size[rows]
    first = np.searchsorted(group, np.arange(len(names)))
    passed = np.concatenate([[0], np.cumsum(size)])
    before = passed[:-1] - passed[first][group]
    taken = before < wanted[group] - 0.5  # what is held against it is a whole number
    last = first + np.bincount(group, taken, len(names)).astype(np.int64) - 1
    limits = [int(order[at]) if at >= start else -1 for at, start in zip(last.tolist(), first.tolist())]
    given = np.bincount(group, size * taken, len(names))
    told = zip(names, available.tolist(), given.tolist())
    return limits, [{"group": name, "bytes": int(there), "taken": int(took)} for name, there, took in told]


def sampled(asked: Asked, settled: Limits) -> Iterator[list[str]]:
    """The texts to learn from."""
    for batch in documents(asked):
        held = _held_out(batch, settled.heldout)
        ends = [settled.sample[pair] for pair in zip(batch.langs, batch.sources)]
        yield [
            text for text, own, end, out in zip(batch.texts, batch.order.tolist(), ends, held) if own <= end and not out
        ]


def held_out(asked: Asked, settled: Limits) -> Held:
    """The text to measure on."""
    rows: list[dict[str, Any]] = []
    words: dict[tuple[str, str], Counter[str]] = {}
    for batch in documents(asked):
        held = _held_out(batch, settled.heldout)
        for at in np.flatnonzero(held).tolist():
            pair, text = (batch.langs[at], batch.sources[at]), batch.texts[at]
            if int(batch.order[at]) <= settled.measured[pair]:
                rows.append({"text": text, "lang": pair[0], "source": pair[1], **_counts(text)})
                words.setdefault(pair, Counter()).update(text.split() if rows[-1]["spaced"] else [])
    if not rows:
        raise Unusable(f"no document was held out at a share of {asked.heldout}; a higher --heldout measures something")
    docs = pa.Table.from_pylist(rows)
    docs = docs.append_column("id", pa.array([f"{at:032x}" for at in range(len(docs))]))
    return Held(docs, {pair: _bare(counts) for pair, counts in words.items()})


def _counts(text: str) -> dict[str, Any]:
    kinds = characters.classes()[np.frombuffer(text.encode("utf-32-le", "replace"), np.uint32)]
    unspaced = np.count_nonzero(kinds & characters.UNSPACED)
    return {
        "n_bytes": len(text.encode("utf-8", "replace")),
        "n_chars": int(np.count_nonzero(kinds & characters.SPACE == 0)),
        "spaced": bool(2 * unspaced <= np.count_nonzero(kinds & characters.LETTER)),
    }


def _bare(counts: Counter[str]) -> Counter[str]:
    """Words without the punctuation around them."""
    bare: Counter[str] = Counter()
    for word, count in counts.items():
        bare[word.strip(_signs())] += count
    del bare[""]
    return bare


@functools.cache
def _signs() -> str:
    return "".join(char for char in map(chr, range(0x30000)) if unicodedata.category(char)[0] in "PS")
