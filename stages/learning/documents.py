"""Examples: texts with the domain each is from, read from files, sampled from a corpus, split by domain."""

import functools
import heapq
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from pipeline.schema import split_batches, text_buffers
from pipeline.stage import Piece
from stages.kernels import fasttext, sketch, windows
from stages.readers import fasttext as models
from stages.readers import records
from stages.readers.rows import Fields

EXAMPLE = {"text": pa.large_string(), "domain": pa.string()}
"""The columns of examples; their texts together may be more than 2 GB. The domain: that of the URL, else the column
`domain`, else `source`, else the file's name."""

SPLITS = ("train", "calibrate", "test")
SHARES = (0.7, 0.1, 0.2)

_LID = Path(__file__).parent.parent / "data" / "lid.176.ftz"
_LID_WINDOW = 600  # as `stages/language.py`
_HOST = r"^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?(?P<host>[^/?#:]+)"
_BATCH = 4096
_NEAR, _NGRAM, _CHAR_NGRAM, _BANDS, _ROWS, _LEAST = 0.8, 5, 8, 16, 7, 5  # as `dedup`
_BEGINNING = 4000  # characters by which near duplicates are looked for


def files(paths: Iterable[Path]) -> list[Path]:
    """The Parquet, JSON lines and text files at these paths, folders searched through.

    Raises `ValueError` for a path with none.
    """
    found = []
    for path in paths:
        below = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        known = [p for p in below if _kind(p) and not any(part.startswith(".") for part in p.relative_to(path).parts)]
        if not known or not path.exists():
            raise ValueError(f"{path}: no .parquet, .jsonl (.gz, .zst) or .txt there")
        found += known
    return found


def _kind(path: Path) -> str | None:
    suffixes = [suffix for suffix in path.suffixes if suffix not in (".gz", ".zst")]
    last = suffixes[-1] if suffixes else ""
    return {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".txt": "text"}.get(last)


def read(path: Path) -> Iterator[pa.Table]:
    """Batches of examples of one file; rows without text are left out.

    Raises `ValueError` for a file without a column of texts.
    """
    kind = _kind(path)
    if kind == "parquet":
        batches: Iterator[pa.Table] = _parquet(path)
    elif kind == "jsonl":
        batches = _json_lines(path)
    else:
        text = path.read_text(encoding="utf-8", errors="replace")
        batches = iter([pa.table({"text": [text], "domain": [path.name]})])
    for batch in batches:
        batch = batch.select(list(EXAMPLE)).cast(pa.schema(list(EXAMPLE.items())))
        yield batch.filter(pc.fill_null(pc.greater(pc.binary_length(batch["text"]), 0), False))


def _parquet(path: Path) -> Iterator[pa.Table]:
    with pq.ParquetFile(path) as file:
        names = [name for name in ("text", "url", "domain", "source") if name in file.schema_arrow.names]
        if "text" not in names:
            raise ValueError(f"{path}: no column 'text'")
        for batch in file.iter_batches(_BATCH, columns=names, use_threads=False):
            yield _with_domain(pa.Table.from_batches([batch]), path)


def _json_lines(path: Path) -> Iterator[pa.Table]:
    fields = Fields(url="url", keep=("domain", "source"))
    rows = []
    for row in records.read_jsonl(Piece(str(path), path.name, "jsonl", path.stat().st_size), fields):
        if row.reason is None:
            rows.append((row.text, row.url, *row.kept))
        if len(rows) == _BATCH:
            yield _with_domain(_table(rows), path)
            rows = []
    yield _with_domain(_table(rows), path)


def _table(rows: list[tuple[Any, ...]]) -> pa.Table:
    names = ("text", "url", "domain", "source")
    return pa.table({name: pa.array([row[at] for row in rows], pa.string()) for at, name in enumerate(names)})


def _with_domain(table: pa.Table, path: Path) -> pa.Table:
    found: list[Any] = []
    if "url" in table.column_names:
        found.append(pc.utf8_lower(pc.struct_field(pc.extract_regex(table["url"].cast(pa.string()), _HOST), "host")))
    found += [table[name].cast(pa.string()) for name in ("domain", "source") if name in table.column_names]
    return pa.table({"text": table["text"].cast(pa.string()), "domain": pc.coalesce(*found, path.name)})


def sample(paths: list[Path], count: int, seed: int, lang: str | None = None) -> tuple[pa.Table, dict[str, int]]:
    """At most `count` distinct texts of these files, those with the smallest keyed hashes, in order of hash; counts.

    The same whatever the order and the partition of the files. With `lang`, only texts identified as of that language.
    Holds no more than twice `count` texts.
    """
    counts = dict.fromkeys(("read", "other_language", "repeated"), 0)
    best: dict[int, tuple[str, str]] = {}
    limit = 1 << 64
    for path in paths:
        for batch in read(path):
            counts["read"] += len(batch)
            if lang is not None:
                right = np.array([one == lang for one in languages(batch["text"])], bool)
                counts["other_language"] += int((~right).sum())
                batch = batch.filter(pa.array(right))
            for text, domain in zip(batch["text"].to_pylist(), batch["domain"].to_pylist(), strict=True):
                key = xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"), seed)
                counts["repeated"] += key in best
                if key < limit:
                    best[key] = min((text, domain), best.get(key, (text, domain)))
            if len(best) > 2 * count:
                best = {key: best[key] for key in heapq.nsmallest(count, best)}
                limit = max(best)
    rows = [best[key] for key in sorted(best)[:count]]
    columns = {name: pa.array([row[at] for row in rows], kind) for at, (name, kind) in enumerate(EXAMPLE.items())}
    return pa.table(columns), counts


def languages(texts: pa.ChunkedArray) -> list[str | None]:
    """The language of each text by lid.176 alone (ISO 639-1 where it exists); None where it has no opinion."""
    classifier = _lid()
    data, offsets = windows.sample(*text_buffers(texts), _LID_WINDOW)
    labels, _ = fasttext.predict(data, offsets, classifier.model, 1)
    return [classifier.labels[at].removeprefix("__label__") if at >= 0 else None for at in labels[: len(texts), 0]]


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
