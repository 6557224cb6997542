"""What a receipt has to say to count, and what the receipts of a run tell: how far it is, which files are its own.

Every task has a key: a digest of all that its result depends on. The runner compares keys before it works; a
question to a run directory compares the same keys, from the outline that the runner left there, and needs neither the
configuration nor the raw input.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import partition, storage
from pipeline.plan import digest
from pipeline.stage import Piece, Split

OUTLINE = "plan.json"
"""What a run consists of, in its directory: groups with their fingerprints, and the input of each partition."""

INSIDE = {"map": "", "barrier": "map", "sink": "scatter"}
"""Where in a group's folder its partitions lie when they have run through its stages, by kind of group."""


class AtRest(NamedTuple):
    """A partition at rest, as the next group finds it."""

    docs: Path
    sha256: str


class Progress(NamedTuple):
    """How much of a group has a valid receipt."""

    read: int  # partitions that have run through its stages
    done: int  # partitions through with the group; 1 for a finished corpus
    total: int
    rest: list["AtRest"] | None = None  # its partitions, if all are at rest


def at_rest(receipt: Path, said: dict[str, Any]) -> AtRest:
    """The documents beside a partition's receipt, which says `said`."""
    docs = receipt.with_suffix(".parquet")
    return AtRest(docs, said["files"][os.path.relpath(docs, receipt.parent / said["base"])]["sha256"])


def source_key(fingerprint: str, split: Split, content: str | None) -> str:
    """Of a partition that is read in. `content`, where known beforehand, stands for what the files hold."""
    pieces: list[Any] = [(piece.source, piece.kind, piece.start, piece.stop) for piece in split.pieces]
    return digest([fingerprint, pieces] if content is None else [fingerprint, pieces, content])


def source_keys(fingerprint: str, splits: Sequence[Split], contents: Sequence[str] | None) -> list[str]:
    """Of all partitions that are read in."""
    known: Iterable[str | None] = contents if contents is not None else [None] * len(splits)
    return [source_key(fingerprint, split, content) for split, content in zip(splits, known, strict=True)]


def docs_keys(fingerprint: str, learned: str | None, arrived: list[AtRest]) -> list[str]:
    """Of the partitions that the group before left; `learned` stands for what the first stage learned from them."""
    return [digest([fingerprint, learned, docs.sha256]) for docs in arrived]


def fit_key(fingerprint: str, arrived: list[AtRest]) -> str:
    """Of learning from all documents that arrived."""
    return digest([fingerprint, [docs.sha256 for docs in arrived]])


def barrier_key(fingerprint: str, said: list[dict[str, Any]]) -> str:
    """Of a barrier's judgement, from the receipts of the partitions that it judges."""
    return digest([fingerprint, [receipt["files"] for receipt in said]])


def verdict_keys(barrier: str, here: list[AtRest]) -> list[str]:
    """Of carrying a barrier's judgement out on each partition."""
    return [digest([barrier, docs.sha256]) for docs in here]


def sink_key(fingerprint: str, keys: list[str]) -> str:
    """Of the finished corpus, from the keys of the partitions that go into it."""
    return digest([fingerprint, keys])


def placed(key: str, folder: Path) -> str:
    """The key of work that leaves paths in what it writes: it counts only where it was done, not after a move."""
    return digest([key, str(folder)])


def progress(outline: dict[str, Any], folder: Path, *, inputs: bool) -> list[Progress]:
    """How far each group of an outline is. With `inputs`, raw files that changed since do not count as read."""
    splits = splits_of(outline)
    pieces = [split.pieces if inputs and outline["contents"] is None else () for split in splits]
    keys: list[str] | None = None
    arrived: list[AtRest] | None = []
    found: list[Progress] = []
    for group in outline["groups"]:
        keys = (
            source_keys(group["fingerprint"], splits, outline["contents"])
            if not found
            else _keys(group, folder, arrived)
        )
        found.append(_group(group, folder, keys, [()] * len(splits) if found else pieces))
        arrived = found[-1].rest
    return found


def _keys(group: dict[str, Any], folder: Path, arrived: list[AtRest] | None) -> list[str] | None:
    """The keys of a later group's partitions, or None while they cannot be known."""
    if arrived is None:
        return None
    learned = None
    if group["fits"]:
        receipt = folder / group["folder"] / "fit" / "_receipts" / f"{group['stages'][0]}.json"
        said = partition.valid(receipt, fit_key(group["fingerprint"], arrived))
        if said is None:
            return None
        learned = digest(said["files"])
    return docs_keys(group["fingerprint"], learned, arrived)


def _group(
    group: dict[str, Any], folder: Path, keys: list[str] | None, pieces: Sequence[tuple[Piece, ...]]
) -> Progress:
    """How far one group is."""
    home, total = folder / group["folder"], len(pieces)
    if group["kind"] == "sink":
        every = [piece for some in pieces for piece in some]
        whole = sink_key(group["fingerprint"], keys) if keys is not None else ""
        done = int(partition.valid(home / "sink.json", whole, every) is not None)
        return Progress(done, done, 1)
    if keys is None:
        return Progress(0, 0, total)
    read = _valid(home / INSIDE[group["kind"]], keys, pieces)
    if group["kind"] == "map" or len(read) < total:
        done = len(read) if group["kind"] == "map" else 0
        return Progress(len(read), done, total, list(read.values()) if done == total else None)
    said = [storage.read_json(at.docs.with_suffix(".json")) for at in read.values()]
    judged = _valid(home, verdict_keys(barrier_key(group["fingerprint"], said), list(read.values())), [()] * total)
    return Progress(total, len(judged), total, list(judged.values()) if len(judged) == total else None)


def _valid(folder: Path, keys: list[str], pieces: Sequence[tuple[Piece, ...]]) -> dict[int, AtRest]:
    """The partitions in `folder` with a receipt for their key, by number."""
    found = {}
    for number, (key, read) in enumerate(zip(keys, pieces, strict=True)):
        receipt = folder / f"part-{number:05d}.json"
        if said := partition.valid(receipt, key, read):
            found[number] = at_rest(receipt, said)
    return found


def unread(outline: dict[str, Any], folder: Path) -> list[Split]:
    """The partitions that have not been read in yet; the raw files of all others are needed no more."""
    first, splits = outline["groups"][0], splits_of(outline)
    if progress(outline, folder, inputs=False)[0].done:  # of a corpus made in one go no partition is left to look at
        return []
    keys = source_keys(first["fingerprint"], splits, outline["contents"])
    if first["kind"] == "sink":
        keys = [placed(key, folder / first["folder"]) for key in keys]
        places = [folder / first["folder"] / "scatter" / f"part-{i:05d}.json" for i in range(len(keys))]
        return [split for split, place, key in zip(splits, places, keys) if partition.valid(place, key) is None]
    read = _valid(folder / first["folder"] / INSIDE[first["kind"]], keys, [()] * len(keys))
    return [split for number, split in enumerate(splits) if number not in read]


def splits_of(outline: dict[str, Any]) -> list[Split]:
    """The input of each partition of an outline."""
    return [Split(tuple(Piece(*piece) for piece in split)) for split in outline["splits"]]


def of_group(folder: Path, group: dict[str, Any], partitions: int) -> list[dict[str, Any]]:
    """The receipts of a group that are there: of its stages, then of its barrier's verdicts or of the corpus."""
    home = folder / group["folder"]
    places = [home / INSIDE[group["kind"]], *([home] if group["kind"] == "barrier" else [])]
    paths = [place / f"part-{i:05d}.json" for place in places for i in range(partitions)]
    said = map(storage.read_json, [*paths, *([home / "sink.json"] if group["kind"] == "sink" else [])])
    return [receipt for receipt in said if receipt]


def rejects(home: Path, said: list[dict[str, Any]]) -> list[Path]:
    """The files of dropped documents that a group's receipts name."""
    return sorted(home / name for receipt in said for name in receipt["files"] if name.startswith("rejected/"))


def survivors(home: Path, said: list[dict[str, Any]]) -> list[Path]:
    """The files of documents that left a group, as its receipts name them; a sink leaves none."""
    at_rest = (receipt for receipt in said if "rows" in receipt)
    names = {name for receipt in at_rest for name in receipt["files"] if name.startswith("part-")}
    return sorted(home / name for name in names if name.endswith(".parquet"))
