"""The probe: how many of the near duplicates in this very corpus the sketch finds.

Kept documents are drawn by the hash of their content, a copy of each is edited (some words, or characters of scripts
without spaces, replaced, deleted and inserted, at five levels), sketched, and looked up in the key files of the run.
A copy is found if it shares a key with its original; that is all the sketch has to do, since what shares a key is
compared exactly. The copies are never part of the run: nothing is kept or dropped because of them.
"""

import random
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.schema import text_buffers
from pipeline.storage import write_array
from stages.duplicates.keys import Dedup, Stored, read
from stages.duplicates.samples import texts_of
from stages.kernels import cluster
from stages.kernels.sketch import shingle_sets, unit_table

LEVELS = (0.003, 0.008, 0.013, 0.02, 0.04)
"""Share of the units edited. Scattered edits of 1 % leave J about .91 with 5-grams, .86 with 8-grams."""

BINS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 1.0)

_ENOUGH = 50  # shingles, for J to be measured in steps finer than a bin
_WORD = 12  # characters: what is longer on average between spaces is written without spaces


class PickTask(NamedTuple):
    """One partition to draw originals from."""

    stored: Stored
    verdicts: str
    number: int  # at most


class ProbeTask(NamedTuple):
    """The originals drawn, and where their keys are."""

    dedup: Dedup
    stored: list[Stored]
    picks: list[str]
    keys: list[list[str]]  # a partition's key files


def write_picks(task: PickTask, out: Path) -> dict[str, Any]:
    """The kept documents of the partition with the smallest hashes: uint64[2, n], hash above ordinal."""
    sketch = read(task.stored.sketch).read_all()
    kept = pq.read_table(task.verdicts, columns=["drop"])["drop"].is_null().to_numpy()
    rows = np.flatnonzero(kept & (sketch["shingles"].to_numpy() >= _ENOUGH))
    hashes = sketch["exact_lo"].to_numpy()[rows]
    first = np.argsort(hashes, kind="stable")[: task.number]
    picks = np.stack((hashes[first], (rows[first] + task.stored.base).astype(np.uint64)))
    return {"file": write_array(Path(f"{out}.npy"), picks)}


def write_probe(task: ProbeTask, out: Path) -> dict[str, Any]:
    """Plant, look up, count: recall by Jaccard similarity with its 95 % interval, in the record."""
    del out  # nothing but the record
    picks = np.concatenate([np.zeros((2, 0), np.uint64), *map(np.load, task.picks)], axis=1)
    picks = picks[:, np.argsort(picks[0], kind="stable")[: task.dedup.probe]]
    texts = texts_of(task.stored, picks[1])
    originals = [texts[ordinal] for ordinal in picks[1].tolist()]
    copies = [
        edited(text, LEVELS[number % len(LEVELS)], random.Random(int(seed)))
        for number, (text, seed) in enumerate(zip(originals, picks[0], strict=True))
    ]
    alike = _similarities(task.dedup, originals, copies)
    keys = task.dedup.sketch_texts(pa.chunked_array([pa.array(copies, pa.string())]))["keys"]
    found = _found(task, keys.combine_chunks().flatten().to_numpy().reshape(len(copies), task.dedup.bands), picks[1])
    return {"planted": len(copies), "bins": _binned(alike, found)}


def edited(text: str, share: float, source: random.Random) -> str:
    """`text` with this share of its words, or characters, replaced (half), deleted or inserted (a quarter each)."""
    words = text.split()
    units, joint = (words, " ") if len(text) < _WORD * len(words) else (list(text), "")
    for place in sorted(source.sample(range(len(units)), max(1, round(share * len(units)))), reverse=True):
        turn, other = source.randrange(4), source.choice(units)
        units[place : place + 1] = [[other], [other], [], [units[place], other]][turn]
    return joint.join(units)


def _similarities(dedup: Dedup, originals: list[str], copies: list[str]) -> np.ndarray:
    """Exact Jaccard similarity of each copy and its original."""
    data, offsets = text_buffers(pa.chunked_array([pa.array([*originals, *copies], pa.string())]))
    starts, values = shingle_sets(data, offsets, unit_table(dedup.fold_han), dedup.ngram, dedup.char_ngram)
    sets = np.split(values, starts[1:-1])
    common = [len(np.intersect1d(*pair, assume_unique=True)) for pair in zip(sets, sets[len(copies) :], strict=False)]
    total = np.diff(starts)
    both = np.array(common, np.float64)
    return both / np.maximum(total[: len(copies)] + total[len(copies) :] - both, 1)


def _found(task: ProbeTask, keys: np.ndarray, ordinals: np.ndarray) -> np.ndarray:
    """Whether a key of each copy is, in the run's files, a key of its original."""
    wanted = np.unique(keys)
    found = np.zeros(len(ordinals), bool)
    for part, files in zip(task.stored, task.keys, strict=True):
        mine = np.flatnonzero((ordinals >= part.base) & (ordinals < part.base + part.rows))
        pairs: set[tuple[int, int]] = set()
        for path in files if len(mine) else ():
            rows = np.asarray(np.load(path, mmap_mode="r"))
            rows = rows[:, cluster.shared_with(rows[0], wanted)]
            pairs.update(zip(*rows.tolist(), strict=True))
        for copy in mine:
            found[copy] = any((key, int(ordinals[copy])) in pairs for key in keys[copy].tolist())
    return found


def _binned(alike: np.ndarray, found: np.ndarray) -> list[dict[str, Any]]:
    bins = []
    for low, high in zip(BINS, BINS[1:]):
        here = (alike >= low) & ((alike < high) | (high == BINS[-1]))
        pairs, hits = int(here.sum()), int(found[here].sum())
        if pairs:
            least, most = wilson(hits, pairs)
            bins.append({"from": low, "to": high, "pairs": pairs, "found": hits, "recall": round(hits / pairs, 4),
                         "low": round(least, 4), "high": round(most, 4)})  # fmt: skip
    return bins


def wilson(hits: int, tries: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927, JASA 22), 95 % by default."""
    centre = (hits + z * z / 2) / (tries + z * z)
    half = z / (tries + z * z) * (hits * (tries - hits) / tries + z * z / 4) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)
