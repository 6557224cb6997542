"""Examples: texts with the domain each is from, read from files, sampled from a corpus, split by domain."""

import difflib
import functools
import heapq
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from pipeline.schema import split_batches, text_buffers
from stages.kernels import fasttext, sketch, windows
from stages.learning import corpora
from stages.learning.corpora import Unusable
from stages.models import fasttext as models

EXAMPLE = {"text": pa.large_string(), "domain": pa.string()}
"""The columns of examples; their texts together may be more than 2 GB. The domain: that of the URL, else the column
`domain`, else `source`, else the file's name."""

SPLITS = ("train", "calibrate", "test")
SHARES = (0.7, 0.1, 0.2)

_LID = Path(__file__).parent.parent / "data" / "lid.176.ftz"
_LID_WINDOW = 600  # as `stages/language.py`
_LABEL = "__label__"
_NAMES = {"arabic": "ar", "chinese": "zh", "cmn": "zh", "dutch": "nl", "english": "en", "french": "fr", "german": "de",
          "hindi": "hi", "italian": "it", "japanese": "ja", "korean": "ko", "mandarin": "zh", "polish": "pl",
          "portuguese": "pt", "russian": "ru", "spanish": "es", "turkish": "tr", "vietnamese": "vi"}  # fmt: skip
_HOST = r"^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?(?P<host>[^/?#:]+)"
_NEAR, _NGRAM, _CHAR_NGRAM, _BANDS, _ROWS, _LEAST = 0.8, 5, 8, 16, 7, 5  # as `dedup`
_BEGINNING = 4000  # characters by which near duplicates are looked for


def files(paths: Iterable[Path]) -> list[Path]:
    """The files of corpora, as `corpora.files` finds them."""
    return corpora.files(paths)


def read(path: Path) -> Iterator[pa.Table]:
    """Batches of examples of one file; rows without text are left out. Raises `Unusable` as `corpora.read` does."""
    for batch in corpora.read(path):
        yield _examples(batch.docs, path)


def _examples(docs: pa.Table, path: Path) -> pa.Table:
    host = pc.utf8_lower(pc.struct_field(pc.extract_regex(docs["url"], _HOST), "host"))
    domain = pc.coalesce(host, docs["domain"], docs["source"], corpora.name_of(path))
    return pa.table([docs["text"], domain], pa.schema(list(EXAMPLE.items())))


def sample(
    paths: list[Path], count: int, seed: int, lang: str | None = None, above: int = -1
) -> tuple[pa.Table, dict[str, int]]:
    """At most `count` distinct texts of these files, those with the smallest `key` over `above`, in its order; counts.

    The same whatever the order and the partition of the files: of a text that stands under several domains, the first
    by name. With `lang`, only texts identified as of that language. Holds no more than twice `count` texts. Counted
    are the texts `read`, how often those taken are `repeated`, rows that are `unreadable` or `without_text`, and, with
    `lang`, texts in an `other_language`. Raises `Unusable` for a language that cannot be identified.
    """
    counts = dict.fromkeys(("read", "unreadable", "without_text", "repeated"), 0)
    if lang is not None:
        check_language(lang)
        counts["other_language"] = 0
    best: dict[int, tuple[int, str, str]] = {}  # how often it was met, text, domain
    limit = 1 << 64
    for examples in _counted(paths, lang, counts):
        for text, domain in zip(examples["text"].to_pylist(), examples["domain"].to_pylist(), strict=True):
            if above < (place := key(text, seed)) <= limit:
                times, *known = best.get(place, (0, text, domain))
                best[place] = (times + 1, *min([text, domain], known))
        if len(best) > 2 * count:
            best = {place: best[place] for place in heapq.nsmallest(count, best)}
            limit = max(best)
    rows = [best[place] for place in sorted(best)[:count]]
    counts["repeated"] = sum(times - 1 for times, *_ in rows)
    columns = {name: pa.array([row[at] for row in rows], kind) for at, (name, kind) in enumerate(EXAMPLE.items(), 1)}
    return pa.table(columns), counts


def _counted(paths: list[Path], lang: str | None, counts: dict[str, int]) -> Iterator[pa.Table]:
    """The examples in this language, of all files; what is met goes into `counts`."""
    for path in paths:
        for batch in corpora.read(path):
            for name, number in {"read": len(batch.docs), **batch.counts()}.items():
                counts[name] += number
            examples = _examples(batch.docs, path)
            if lang is not None:
                examples = examples.filter(pa.array([one == lang for one in languages(examples["text"])], pa.bool_()))
                counts["other_language"] += len(batch.docs) - len(examples)
            yield examples


def key(text: str, seed: int) -> int:
    """The 64 bits that decide a text's place in a sample."""
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"), seed)


def languages(texts: pa.ChunkedArray) -> list[str | None]:
    """The language of each text by lid.176 alone (ISO 639-1 where it exists); None where it has no opinion."""
    classifier = _lid()
    data, offsets = windows.sample(*text_buffers(texts), _LID_WINDOW)
    labels, _ = fasttext.predict(data, offsets, classifier.model, 1)
    return [classifier.labels[at].removeprefix(_LABEL) if at >= 0 else None for at in labels[: len(texts), 0]]


def main_language(texts: pa.ChunkedArray) -> str:
    """The language of most of these texts, of equals the first by name. Raises `Unusable` where none can be told."""
    found = Counter(name for name in languages(texts) if name is not None)
    if not found:
        raise Unusable("the texts are in no language that can be told; name it with --lang")
    return min(found, key=lambda name: (-found[name], name))


def check_language(lang: str) -> None:
    """Raise `Unusable`, with a guess, for a language that `languages` never answers with."""
    known = {label.removeprefix(_LABEL) for label in _lid().labels}
    if lang in known:
        return
    asked = lang.lower()
    guesses = [_NAMES.get(asked), re.split("[-_]", asked)[0], *difflib.get_close_matches(asked, known, 1)]
    guess = next((guess for guess in guesses if guess in known), None)
    hint = f"did you mean {guess!r}?" if guess else "expected a code of ISO 639-1, as 'en' or 'zh'"
    raise Unusable(f"no language {lang!r} can be identified; {hint}")


@functools.cache
def _lid() -> models.Classifier:
    return models.read(_LID)


def near_duplicates(texts: pa.ChunkedArray, of: pa.ChunkedArray) -> np.ndarray:
    """bool: which of `texts` repeat one of the others: the same normalised text, or shingles of Jaccard >= 0.8.

    Looked for as `dedup` does, by band keys and then by the shingle sets themselves, in the first 4,000 characters.
    """
    (exact, keys, sets), (wanted_exact, wanted_keys, wanted_sets) = _sketched(texts), _sketched(of)
    known = {tuple(row) for row in wanted_exact.tolist()} - {(0, 0)}
    found = np.array([tuple(row) in known for row in exact.tolist()], bool)
    order = np.argsort(wanted_keys.reshape(-1), kind="stable")
    ordered = wanted_keys.reshape(-1)[order]
    for row in np.flatnonzero(~found & (np.isin(keys, ordered) & (keys != 0)).any(axis=1)):
        first, last = (np.searchsorted(ordered, keys[row], side=side) for side in ("left", "right"))
        others = np.unique(np.concatenate([order[a : min(b, a + 50)] // _BANDS for a, b in zip(first, last)]))
        found[row] = any(_jaccard(sets, row, wanted_sets, other) >= _NEAR for other in others)
    return found


def _sketched(texts: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """exact (uint64[n, 2]), band keys (uint64[n, 16]) and shingle sets of the beginnings."""
    table = sketch.unit_table()
    parts = []
    for batch in split_batches(pa.table({"text": texts})):
        data, offsets = text_buffers(pc.utf8_slice_codeunits(batch["text"], 0, _BEGINNING))
        exact, keys, _, _ = sketch.sketch_rows(data, offsets, table, _NGRAM, _CHAR_NGRAM, _BANDS, _ROWS, 1, _LEAST)
        parts.append((exact, keys, *sketch.shingle_sets(data, offsets, table, _NGRAM, _CHAR_NGRAM)))
    if not parts:
        return np.zeros((0, 2), np.uint64), np.zeros((0, _BANDS), np.uint64), (np.zeros(1, np.int64), np.zeros(0))
    sizes = np.concatenate([np.diff(starts) for _, _, starts, _ in parts])
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return (
        np.concatenate([part[0] for part in parts]),
        np.concatenate([part[1] for part in parts]),
        (starts, np.concatenate([part[3] for part in parts])),
    )


def _jaccard(sets: Any, row: Any, others: Any, other: Any) -> float:
    one, two = ((values[starts[at] : starts[at + 1]]) for (starts, values), at in ((sets, row), (others, other)))
    shared = len(np.intersect1d(one, two, assume_unique=True))
    return shared / max(1, len(one) + len(two) - shared)


def split(domains: list[str], labels: np.ndarray, seed: int) -> np.ndarray:
    """int8: the split (an index into `SPLITS`) of each document; no domain is in two.

    Domains go, the largest first, to where they bring the shares of positives and of negatives nearest to `SHARES`
    (least squares, in proportion); among equals a keyed hash of the name decides who goes first.
    """
    names, place = np.unique(np.array(domains, object), return_inverse=True)
    sizes = np.stack([np.bincount(place, labels == side, len(names)) for side in (False, True)], axis=1)
    whole = np.maximum(sizes.sum(axis=0), 1)
    hashes = [xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogatepass"), seed) for name in names]
    missing = np.repeat(np.array(SHARES)[:, None], 2, axis=1)
    of_domain = np.zeros(len(names), np.int8)
    for at in sorted(range(len(names)), key=lambda at: (-(sizes[at] / whole).sum(), hashes[at])):
        share = sizes[at] / whole
        change = (((missing - share) ** 2 - missing**2) / np.array(SHARES)[:, None]).sum(axis=1)
        of_domain[at] = int(np.argmin(change))
        missing[of_domain[at]] -= share
    return of_domain[place]
