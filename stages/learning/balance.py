"""What a tokenizer learns from, and what it is measured on.

Every language (or source) gives the same number of bytes, as far as it has them: counting documents instead would let
the language with the longest documents write the vocabulary. A document's place in the sample and whether it is held
out are halves of one hash of its text, so that neither depends on the order of the files, and copies are never on both
sides. Of copies one is taken and counted, as of the first language and source by name: a page that is there a thousand
times would write the vocabulary, too.
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
    """Which texts are taken, by their `order`."""

    sample: np.ndarray  # uint64, ascending: learned from
    measured: dict[int, tuple[str, str]]  # held out: the (language, source) that each counts for
    told: list[dict[str, Any]]
    read: dict[str, int]  # documents, those of them that are copies, and rows that are none


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
    names = sorted(pairs)
    rank = np.argsort([pairs[name] for name in names])
    order, held, at, size = (np.concatenate(column) for column in zip(*found))
    rows = _firsts(order, rank[at])
    read["copies"] = len(order) - len(rows)
    order, held, at, size = order[rows], held[rows], rank[at[rows]], size[rows]
    learned, told = _sample(asked, names, order[~held], at[~held], size[~held])
    measured, _ = _settled(order[held], at[held], size[held], len(names), _HELD_OUT_BYTES)
    pair_of = {own: names[pair] for own, pair in zip(order[held][measured].tolist(), at[held][measured].tolist())}
    return Limits(np.sort(learned), pair_of, told, dict(read))


def _firsts(order: np.ndarray, pair: np.ndarray) -> np.ndarray:
    """One row of each text, of the first (language, source) it is under."""
    rows = np.lexsort((pair, order))
    ordered = order[rows]
    return rows[np.concatenate([[True], ordered[1:] != ordered[:-1]])]


def _sample(
    asked: Asked, names: list[tuple[str, str]], order: np.ndarray, at: np.ndarray, size: np.ndarray
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """The `order` of the texts that are learned from, and what each group has and gives."""
    if not len(order):
        raise Unusable(f"every text was held out at a share of {asked.heldout}; a lower --heldout leaves some to learn")
    groups, place = np.unique(
        np.array([_balanced(asked.balance, *pair) for pair in names], object), return_inverse=True
    )
    if asked.balance == Balance.LANG and groups.tolist() == [_UNKNOWN]:
        raise Unusable("no document names its language in a column 'lang', and so none can be balanced by it")
    taken, told = _settled(order, place[at], size, len(groups), asked.sample_bytes)
    return order[taken], [{"group": name, **row} for name, row in zip(groups.tolist(), told)]


def _balanced(balance: Balance | None, lang: str, source: str) -> str:
    """Which group gives a document."""
    return {None: "all", Balance.LANG: lang, Balance.SOURCE: source}[balance]


def _held_out(batch: Batch, share: float) -> np.ndarray:
    return batch.chance.astype(np.float64) < share * 2.0**64


def _settled(
    order: np.ndarray, group: np.ndarray, size: np.ndarray, groups: int, total: int
) -> tuple[np.ndarray, list[dict[str, int]]]:
    """bool: which texts are taken, each group's by `order`, so that all give equal bytes, `total` together.

    The last text of a group is taken whole. And the bytes and documents that each group has and gives.
    """
    available = np.bincount(group, size, groups)
    wanted = mixture.filled(np.ones(groups), available, min(float(total), float(available.sum())))
    rows = np.lexsort((order, group))
    first = np.searchsorted(group[rows], np.arange(groups))
    passed = np.concatenate([[0], np.cumsum(size[rows])])
    before = passed[:-1] - passed[first][group[rows]]
    taken = np.zeros(len(order), bool)
    taken[rows] = before < wanted[group[rows]] - 0.5  # what is held against it is a whole number
    told = zip(available, np.bincount(group, size * taken, groups), np.bincount(group[taken], minlength=groups))
    return taken, [{"bytes": int(there), "taken": int(took), "texts": int(texts)} for there, took, texts in told]


def sampled(asked: Asked, settled: Limits) -> Iterator[list[str]]:
    """The texts to learn from, each once."""
    met = np.zeros(len(settled.sample), bool)
    for batch in documents(asked):
        own, rows = np.unique(batch.order, return_index=True)
        at = np.minimum(np.searchsorted(settled.sample, own), len(met) - 1)
        new = (settled.sample[at] == own) & ~met[at]
        met[at[new]] = True
        yield [batch.texts[row] for row in np.sort(rows[new]).tolist()]


def held_out(asked: Asked, settled: Limits) -> Held:
    """The texts to measure on, each once."""
    rows: list[dict[str, Any]] = []
    words: dict[tuple[str, str], Counter[str]] = {}
    met: set[int] = set()
    for batch in documents(asked):
        for own, text in zip(batch.order.tolist(), batch.texts):
            if own in settled.measured and own not in met:
                met.add(own)
                pair = settled.measured[own]
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
