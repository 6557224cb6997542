"""A finished corpus as training windows: shards as one array, windows cut from it, batches gathered, and traced back.

A window is a few pieces (place, length) of the token array. `stream` concatenates documents and cuts every `context`
tokens, the last of a window being the first of the next, so each token is predicted once. `bestfit` lies in `pack.py`.
"""

import functools
from typing import Any, NamedTuple, Protocol

import numpy as np

from pipeline.corpus import Corpus, with_suffix
from pipeline.train import identity, pack
from pipeline.train.order import BLOCK, Order, quotas
from pipeline.train.recipe import DataSpec, Mix, Refused, digest

IGNORED = -100
"""A target that is not learned from: torch's `cross_entropy` leaves it out."""

_SCANNED = 200_000_000
"""Up to this many tokens are all checked against the vocabulary at the start; beyond, each batch as it comes."""


class Tokens:
    """The shards of one split as one array of ids, none of it read before it is asked for."""

    def __init__(self, corpus: Corpus, split: str) -> None:
        self.corpus = corpus
        self.shards = [shard for shard in corpus.shards if shard.split == split and shard.tokens]
        self.arrays = [np.asarray(corpus.shard_tokens(shard)) for shard in self.shards]
        for shard, array in zip(self.shards, self.arrays):
            if len(array) != shard.tokens:
                path = with_suffix(shard.path, ".bin" if corpus.manifest["format"] == "memmap" else ".parquet")
                raise Refused(f"{path}: holds {len(array):,} tokens, the manifest says {shard.tokens:,}; "
                              "`python -m pipeline verify` says more")  # fmt: skip
        self.starts = [0, *np.cumsum([len(array) for array in self.arrays]).tolist()]
        self.size = self.starts[-1]

    def read(self, place: int, out: np.ndarray) -> None:
        """Fill `out` with the ids from `place` on, across shards."""
        shard = 0 if len(self.arrays) == 1 else int(np.searchsorted(self.starts, place, "right")) - 1
        place, filled = place - self.starts[shard], 0
        while True:
            part = self.arrays[shard][place : place + len(out) - filled]
            out[filled : filled + len(part)] = part
            filled += len(part)
            if filled == len(out):
                return
            shard, place = shard + 1, 0

    def lengths(self) -> np.ndarray:
        """Tokens of each document, EOS included, in the order of the array (int64)."""
        return np.concatenate([np.zeros(0, np.int64), *map(self.corpus.lengths, self.shards)])

    def documents(self) -> np.ndarray:
        """The number in the corpus (row of docs.parquet) of each document, in the order of the array."""
        parts = [np.arange(shard.first, shard.first + shard.documents) for shard in self.shards]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def check_vocabulary(self) -> None:
        """Raise `Refused` where an id is beyond the vocabulary of the manifest."""
        vocabulary = self.corpus.manifest["vocab_size"]
        for shard, array in zip(self.shards, self.arrays) if self.size <= _SCANNED else ():
            if (top := int(array.max())) >= vocabulary:
                raise Refused(f"{shard.name}: token id {top} in a vocabulary of {vocabulary}; "
                              "`python -m pipeline verify` says more")  # fmt: skip


class Windows(Protocol):
    """All windows of one source."""

    def __len__(self) -> int: ...

    def pieces(self, window: int) -> list[tuple[int, int]]:
        """(place in the token array, length) of each piece of a window; all but a window's last token are inputs."""
        ...

    def learned(self, window: int) -> np.ndarray:
        """bool (context,): whether each target of a window is learned from."""
        ...

    def exposure(self, visits: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """How many tokens of each document (they end at `ends` in the array) were input, given visits per window."""
        ...


class Stream:
    """Documents one after the other, cut every `context` tokens; the tail that fills no window is left out.

    `places` and `lengths` (int64) are the runs of the token array that make up the source, in order.
    """

    def __init__(self, places: np.ndarray, lengths: np.ndarray, context: int) -> None:
        self.places, self.lengths, self.context = places, lengths, context
        self.starts = np.concatenate([[0], np.cumsum(lengths)])  # of each run in the stream
        self.count = max(0, (int(self.starts[-1]) - 1) // context)

    def __len__(self) -> int:
        return self.count

    def pieces(self, window: int) -> list[tuple[int, int]]:
        at, wanted = window * self.context, self.context + 1
        if len(self.places) == 1:
            return [(int(self.places[0]) + at, wanted)]
        run = int(np.searchsorted(self.starts, at, "right")) - 1
        found = []
        while wanted:
            skip = at - int(self.starts[run])
            taken = min(wanted, int(self.lengths[run]) - skip)
            found.append((int(self.places[run]) + skip, taken))
            at, wanted, run = at + taken, wanted - taken, run + 1
        return found

    def learned(self, window: int) -> np.ndarray:
        return np.ones(self.context, bool)

    def exposure(self, visits: np.ndarray, ends: np.ndarray) -> np.ndarray:
        edges = np.concatenate([[0], ends])
        seen = np.zeros(len(ends), np.int64)
        total = np.concatenate([[0], np.cumsum(visits) * self.context])
        padded = np.append(visits, 0)

        def before(at: np.ndarray) -> np.ndarray:
            """Inputs drawn from the stream before each position."""
            window = np.minimum(at // self.context, self.count)
            return total[window] + padded[window] * (at - window * self.context)

        for place, length, start in zip(self.places, self.lengths, self.starts):
            low = int(np.searchsorted(edges, place, "right")) - 1
            high = int(np.searchsorted(edges, place + length, "left"))
            marks = np.clip(edges[low : high + 1], place, place + length) - place + start
            seen[low:high] += np.diff(before(marks))
        return seen


class Batch(NamedTuple):
    """Rows of a global batch that one rank takes."""

    inputs: np.ndarray  # int64 (rows, context)
    targets: np.ndarray  # int64 (rows, context), IGNORED where there is nothing to learn
    documents: np.ndarray | None  # int32 (rows, context): which document of its row a token is of; with mask: document
    learned: int  # targets that count, in the whole global batch


class Share(NamedTuple):
    """A document's part of one window."""

    sample: int
    source: str
    epoch: int
    document: int  # row of docs.parquet
    start: int  # of the part, in the document's tokens
    tokens: int
    share: float  # of the window


class Dataset:
    """The training windows of a corpus in their order; holds no state."""

    def __init__(self, corpus: Corpus, spec: DataSpec, context: int, samples: int) -> None:
        self.corpus, self.spec, self.context = corpus, spec, context
        self.fingerprint = identity.fingerprint(corpus)
        self.tokens = Tokens(corpus, "train")
        self.names, self.sources = self._cut()
        sizes = [len(windows) for windows in self.sources]
        if not all(sizes):
            raise Refused(f"{corpus.folder}: {self.names[sizes.index(0)]} has no window of {context} tokens")
        share = np.array([BLOCK])
        if spec.mix:
            weights = [spec.mix.weights[name] for name in self.names]
            share = quotas(self.names, sizes, weights, samples, spec.mix.max_epochs)
        self.order = Order(sizes, share, digest(self.fingerprint, spec.seed).hex())

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each training document, in the order of the array."""
        return self.tokens.lengths()

    @functools.cached_property
    def starts(self) -> np.ndarray:
        """Where each training document begins in the array."""
        return np.cumsum(self.lengths) - self.lengths

    def _cut(self) -> tuple[list[str], list[Windows]]:
        if self.spec.mix is None:
            return ["all"], [self._windows(None)]
        values = _values(self.corpus, self.spec.mix, self.tokens.documents())
        there = sorted(set(values.tolist()))
        if unknown := sorted(set(self.spec.mix.weights) - set(there)):
            raise Refused(
                f"mix: no document has {self.spec.mix.by} {', '.join(unknown)}; there are: {', '.join(there)}"
            )
        names = [name for name in there if name in self.spec.mix.weights]
        return names, [self._windows(values == name) for name in names]

    def _windows(self, chosen: np.ndarray | None) -> Windows:
        """The windows over the chosen documents (bool each), or over all."""
        if self.spec.pack == "stream" and chosen is None:
            return Stream(np.array([0]), np.array([self.tokens.size]), self.context)
        lengths, starts = self.lengths, self.starts
        if chosen is not None:
            lengths, starts = lengths[chosen], starts[chosen]
        if self.spec.pack == "stream":
            return Stream(starts, lengths, self.context)
        return pack.Packed(starts, lengths, self.context)

    def left_out(self) -> list[str]:
        """Values of the mixture's column that have no weight."""
        if self.spec.mix is None:
            return []
        return sorted(set(_values(self.corpus, self.spec.mix, self.tokens.documents()).tolist()) - set(self.names))

    def batch(self, first: int, count: int, rank: int = 0, world: int = 1) -> Batch:
        """Rows rank, rank + world, ... of samples [first, first + count). Raises `Refused` on an id too large."""
        places = self.order.places(first, count)
        sources, windows = places.source.tolist(), places.window.tolist()
        mine = range(rank, count, world)
        ids = np.empty((len(mine), self.context + 1), np.int64)
        targets = ids[:, 1:]
        rows = [self.sources[sources[i]].pieces(windows[i]) for i in mine]
        for row, pieces in zip(ids, rows):
            self._fill(row, pieces)
        if int(ids.max()) >= self.corpus.manifest["vocab_size"]:
            raise Refused(f"token id {ids.max()} in a vocabulary of {self.corpus.manifest['vocab_size']}")
        learned = count * self.context
        if self.spec.pack == "bestfit":
            kept = np.stack([self.sources[source].learned(window) for source, window in zip(sources, windows)])
            targets, learned = np.where(kept[rank::world], targets, IGNORED), int(kept.sum())
        documents = np.stack([self._documents(row) for row in rows]) if self.spec.mask == "document" else None
        return Batch(ids[:, :-1], targets, documents, learned)

    def _fill(self, row: np.ndarray, pieces: list[tuple[int, int]]) -> None:
        if len(pieces) == 1 and pieces[0][1] == len(row):
            self.tokens.read(pieces[0][0], row)
            return
        at = 0
        for place, length in pieces:
            self.tokens.read(place, row[at : at + length])
            at += length
        row[at:] = self.corpus.manifest["eos_id"]

    def _documents(self, pieces: list[tuple[int, int]]) -> np.ndarray:
        """int32 (context,): 0, 1, ... by document or cut piece; padding is one of its own."""
        starts = self.starts
        new, at = np.zeros(self.context + 1, np.int32), 0
        for place, length in pieces:
            low, high = np.searchsorted(starts, [place, place + length], "left")
            new[at + starts[low:high] - place] = 1
            new[at] = 1
            at += length
        if at <= self.context:
            new[at] = 1
        return (np.cumsum(new)[: self.context] - new[0]).astype(np.int32)

    def trace(self, first: int, count: int) -> list[Share]:
        """The documents in samples [first, first + count), in order."""
        ends = np.cumsum(self.lengths)
        numbers, places = self.tokens.documents(), self.order.places(first, count)
        found = []
        for i in range(count):
            source, epoch, window = (int(column[i]) for column in places)
            for place, length in self.sources[source].pieces(window):
                while length > 0:
                    d = int(np.searchsorted(ends, place, "right"))
                    taken = min(length, int(ends[d]) - place)
                    found.append(Share(first + i, self.names[source], epoch, int(numbers[d]),
                                       place - int(ends[d] - self.lengths[d]), taken,
                                       taken / (self.context + 1)))  # fmt: skip
                    place, length = place + taken, length - taken
        return found

    def consumed(self, samples: int) -> dict[str, dict[str, float]]:
        """Tokens and epochs of each source of the mixture in the first `samples` samples."""
        counts = self.order.consumed(samples)
        return {name: {"tokens": int(count) * self.context, "epochs": round(int(count) / size, 4)}
                for name, count, size in zip(self.names, counts, self.order.sizes)}  # fmt: skip

    def exposure(self, samples: int) -> np.ndarray:
        """Tokens of each training document (order of the array) that were input in the first `samples` samples."""
        ends = np.cumsum(self.lengths)
        parts = [windows.exposure(self.order.visits(s, samples), ends) for s, windows in enumerate(self.sources)]
        return np.sum(parts, axis=0)

    def tokens_by(self, samples: int) -> dict[str, dict[str, int]]:
        """Tokens that were input in the first `samples` samples, by source, by language, and by what the corpus was
        mixed by (as en/19 by lang/bucket): to hold against the mixture's own figures in the manifest."""
        seen, documents = self.exposure(samples), self.tokens.documents()
        mixed = tuple(self.corpus.manifest.get("mix", {}).get("by", ("source",)))
        found = {}
        for columns in dict.fromkeys([("source",), ("lang",), mixed]):
            if set(columns) <= set(self.corpus.docs.column_names):
                rows = self.corpus.docs.select(columns).take(documents).to_pylist()
                joined = ["/".join("null" if one is None else str(one) for one in row.values()) for row in rows]
                values, place = np.unique(np.array(joined, object), return_inverse=True)
                found["/".join(columns)] = dict(zip(values.tolist(), np.bincount(place, seen).astype(int).tolist()))
        return found

    def facts(self) -> dict[str, Any]:
        """What a log says of the data at the start."""
        return {"fingerprint": self.fingerprint, "tokens": self.tokens.size,
                "windows": dict(zip(self.names, self.order.sizes)),
                "quotas": dict(zip(self.names, self.order.quotas.tolist())), "left_out": self.left_out()}  # fmt: skip


def _values(corpus: Corpus, mix: Mix, documents: np.ndarray) -> np.ndarray:
    """The value, or bucket, of the mixture's column for each of these documents (str)."""
    if mix.by not in corpus.docs.column_names:
        raise Refused(f"mix: docs.parquet has no column '{mix.by}'; it has: {', '.join(corpus.docs.column_names)}")
    column = corpus.docs[mix.by].take(documents)
    if mix.edges is None:
        return np.array([str(value) for value in column.to_pylist()])
    try:
        figures = np.array(column.to_pylist(), float)  # null becomes NaN
    except (ValueError, TypeError):
        raise Refused(f"mix: edges cut a column of numbers, and '{mix.by}' is {column.type}") from None
    buckets = np.searchsorted(mix.edges, figures, "right").tolist()
    return np.array(["null" if np.isnan(figure) else f"b{bucket}" for figure, bucket in zip(figures, buckets)])
