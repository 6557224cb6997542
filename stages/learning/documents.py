"""Examples: texts with the domain each is from, read from files, sampled from a corpus, split by domain."""

import difflib
import functools
import heapq
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from pipeline.schema import split_batches, text_buffers
from stages.kernels import cluster, fasttext, sketch, windows
from stages.learning import corpora
from stages.learning.corpora import Unusable
from stages.models import fasttext as models

EXAMPLE = {"text": pa.large_string(), "domain": pa.string()}
"""The columns of examples; their texts together may be more than 2 GB. The domain: the host of the URL in lower case,
without `www.` before and a dot after it, else the column `domain`, else `source`, else the file's name. Which hosts
belong to one owner would need the public suffix list, and is not asked: `blog.a.com` and `a.com` are two domains."""

SPLITS = ("train", "calibrate", "test")
SHARES = (0.7, 0.1, 0.2)

_LID = Path(__file__).parent.parent / "data" / "lid.176.ftz"
_LID_WINDOW = 600  # as `stages/language.py`
_LABEL = "__label__"
_NAMES = {"arabic": "ar", "chinese": "zh", "cmn": "zh", "dutch": "nl", "english": "en", "french": "fr", "german": "de",
          "hindi": "hi", "italian": "it", "japanese": "ja", "korean": "ko", "mandarin": "zh", "polish": "pl",
          "portuguese": "pt", "russian": "ru", "spanish": "es", "turkish": "tr", "vietnamese": "vi"}  # fmt: skip
_HOST = r"^[a-z][a-z0-9+.-]*://(?:[^/?#@]*@)?(?:www\.)?(?P<host>\[[^\]]*\]|[^/?#:]*[^/?#:.])"
_NEAR, _NGRAM, _CHAR_NGRAM, _BANDS, _ROWS, _LEAST = 0.8, 5, 8, 16, 7, 5  # as `dedup`
_BEGINNING = 4000  # characters by which near duplicates are looked for
_NEVER = 2.0  # a share of shingles that no text holds


def files(paths: Iterable[Path]) -> list[Path]:
    """The files of corpora, as `corpora.files` finds them."""
    return corpora.files(paths)


def _examples(docs: pa.Table, path: Path) -> pa.Table:
    host = pc.struct_field(pc.extract_regex(pc.utf8_lower(docs["url"]), _HOST), "host")
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
    counts = Counter(dict.fromkeys(("read", "unreadable", "without_text", "repeated"), 0))
    if lang is not None:
        check_language(lang)
        counts["other_language"] = 0
    best: dict[int, tuple[int, str, str]] = {}  # how often it was met, text, domain
    limit = 1 << 64
    for examples in examples_of(paths, lang, counts):
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


def examples_of(paths: list[Path], lang: str | None, counts: Counter[str]) -> Iterator[pa.Table]:
    """Batches of examples in this language (any, if None), of all files; what is met goes into `counts`.

    Rows without text are left out. Raises `Unusable` as `corpora.read` does.
    """
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
    if not len(texts):
        raise Unusable("no document with text is there to learn from")
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


class Sketched(NamedTuple):
    """Texts, and what near duplicates of them are looked for by."""

    texts: pa.ChunkedArray
    exact: np.ndarray  # uint64[n, 2]: hash of the normalised beginning, zeros where that is empty
    keys: np.ndarray  # uint64[n, 16]: band keys, zeros where there are too few shingles


def sketched(texts: pa.ChunkedArray) -> Sketched:
    """Sketches of the first 4,000 characters of these texts."""
    table = sketch.unit_table()
    exact, keys = [np.zeros((0, 2), np.uint64)], [np.zeros((0, _BANDS), np.uint64)]
    for data, offsets in _beginnings(texts):
        found = sketch.sketch_rows(data, offsets, table, _NGRAM, _CHAR_NGRAM, _BANDS, _ROWS, 1, _LEAST)
        exact.append(found[0])
        keys.append(found[1])
    return Sketched(texts, np.concatenate(exact), np.concatenate(keys))


def _beginnings(texts: pa.ChunkedArray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for batch in split_batches(pa.table({"text": texts})):
        yield text_buffers(pc.utf8_slice_codeunits(batch["text"], 0, _BEGINNING))


def near_duplicates(texts: pa.ChunkedArray, of: pa.ChunkedArray | Sketched) -> np.ndarray:
    """bool: which of `texts` repeat one of the others: the same normalised text, or shingles of Jaccard >= 0.8.

    Looked for as `dedup` does, in the first 4,000 characters: by band keys, then by the shingle sets of all that share
    one. So the answer for a text is its own affair, whatever the number and the order of the others.
    """
    ours, theirs = sketched(texts), of if isinstance(of, Sketched) else sketched(of)
    numbers = np.unique(np.concatenate([theirs.exact, ours.exact]), axis=0, return_inverse=True)[1].reshape(-1)
    known, asked = numbers[: len(theirs.exact)], numbers[len(theirs.exact) :]
    found = ours.exact.any(axis=1) & np.isin(asked, known)
    open_ = np.flatnonzero(~found & _shares_a_key(ours.keys, theirs.keys))
    candidates = np.flatnonzero(_shares_a_key(theirs.keys, ours.keys[open_]))
    candidates = candidates[np.unique(known[candidates], return_index=True)[1]]  # each text once
    rows = open_[np.unique(asked[open_], return_index=True)[1]]
    near = rows[_near(ours, rows, theirs, candidates)]
    return np.asarray(found | np.isin(asked, asked[near]))


def _shares_a_key(keys: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.asarray((np.isin(keys, others) & (keys != 0)).any(axis=1))


def _near(ours: Sketched, rows: np.ndarray, theirs: Sketched, candidates: np.ndarray) -> np.ndarray:
    """bool: which of our rows are near one of their candidates.

    `dedup`'s clustering, with the candidates as what was there before: a row leaves for the first text that it is near
    to, and all candidates come before the rows.
    """
    parts = [_sets(theirs.texts, candidates), _sets(ours.texts, rows)]
    starts = np.cumsum(np.concatenate([np.zeros(1, np.int64), *(np.diff(starts) for starts, _ in parts)]))
    values = np.concatenate([values for _, values in parts])
    keys = np.concatenate([theirs.keys[candidates], ours.keys[rows]])
    groups, settled = np.array([0, len(keys)]), np.arange(len(keys)) < len(candidates)
    keeper, *_ = cluster.leaders(groups, starts, values, keys, settled, _NEAR, _NEVER, len(keys))
    return (keeper[len(candidates) :] >= 0) & (keeper[len(candidates) :] < len(candidates))


def _sets(texts: pa.ChunkedArray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """starts (int64[rows + 1]) and values (uint64) of the shingle sets of the beginnings of these rows."""
    table = sketch.unit_table()
    sizes, values = [np.zeros(1, np.int64)], [np.zeros(0, np.uint64)]
    for data, offsets in _beginnings(texts.take(pa.array(rows))):
        starts, found = sketch.shingle_sets(data, offsets, table, _NGRAM, _CHAR_NGRAM)
        sizes.append(np.diff(starts))
        values.append(found)
    return np.cumsum(np.concatenate(sizes)), np.concatenate(values)


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
