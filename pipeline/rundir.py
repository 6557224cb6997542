"""The run directory: where things lie in it, and the records that say what happened there.

    runs/NAME/
      config.yaml                    the configuration as resolved
      plan.json                      the outline: groups with fingerprints, the input of each partition
      1-dedup-58e0c1/                a group: number, last stage, fingerprint
        part-00000.parquet .json     the documents that left the group, and the receipt, written last
        map/ scatter/                the same before a barrier or a sink
        rejected/                    the documents that did not leave it
        sketch-* verdicts/ gather/   what a barrier saw and decided; the shards of a sink
        sink.json                    the receipt of a finished corpus
      ledger/  report.json           what happened to each record; the figures of the run
      damaged.json                   what `verify` found damaged, until the next run makes it again
      current/                       the present configuration's documents, rejects, shards and ledger, as links
      .lock                          held while a run works here

Every task has a key, a digest of all that its result depends on. A receipt is valid if it has the key of the task, its
files are there with the size it names, and the inputs it names did not change. Resume, `plan` and `status` all ask the
same question: is there a valid receipt?
"""

import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pipeline import storage
from pipeline.stage import Piece, Split, StageCount
from pipeline.storage import Damaged, digest

Kind = Literal["map", "barrier", "sink"]


# --- records ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FileFact:
    """A file that a task wrote. Of the files of a corpus the checksum is in the manifest."""

    bytes: int
    sha256: str | None = None


@dataclass(frozen=True)
class InputFact:
    """What a piece of raw input looked like when it was read."""

    path: str
    source: str
    size: int  # bytes of the whole file, -1 if it cannot be read
    mtime_ns: int
    xxh3: str | None  # of the content; None for a part of a file

    @classmethod
    def of(cls, piece: Piece) -> "InputFact":
        """Look at the file of `piece` now; its size is -1 if it cannot be read."""
        size, mtime_ns = storage.state(piece.path)
        content = None
        if piece.start == 0 and piece.stop == -1 and size >= 0:
            try:
                content = storage.xxh3(piece.path)
            except OSError:  # the disk does not give it: it is read again next time
                size = -1
        return cls(piece.path, piece.source, size, mtime_ns, content)

    def matches(self, piece: Piece) -> bool:
        """Whether `piece` is still what was read: the same size, and the same path and time or the same content."""
        size, mtime_ns = storage.state(piece.path)
        if size != self.size:
            return False
        untouched = piece.path == self.path and mtime_ns == self.mtime_ns
        return untouched or (self.xxh3 is not None and self.xxh3 == storage.xxh3(piece.path))


@dataclass(frozen=True)
class Cost:
    """What a task cost."""

    seconds: float
    cpu_seconds: float
    peak_rss_mb: int


@dataclass(frozen=True)
class LostFact:
    """A document that a stage fails on alone: it crashes the process, raises, or does not come to an end."""

    id: str
    source: str
    url: str | None
    source_id: str | None
    stage: str
    reason: str
    how: str  # the exception, the signal, the limit


@dataclass(frozen=True)
class Receipt:
    """Says that a task is done: on what, with which result. It is written after the files it names."""

    key: str
    base: str  # folder that the names of `files` start from, relative to the receipt
    files: dict[str, FileFact]
    inputs: tuple[InputFact, ...] = ()
    counts: tuple[StageCount, ...] = ()
    text_bytes: int = 0  # read in
    rows: int | None = None  # documents that left; None for a task that leaves no documents
    record: dict[str, Any] = field(default_factory=dict)  # what an inner step or a sink returned
    cost: Cost | None = None
    entered: int = 0  # documents that the stages of a group were given
    given_up: int = 0  # of those, how many a stage failed on
    lost: tuple[LostFact, ...] = ()  # the first of them
    written: str = ""  # UTC

    @classmethod
    def load(cls, path: Path) -> "Receipt | None":
        """The receipt at `path`, None where there is no file. Raises `Damaged` for a file that is no receipt."""
        data = storage.read_json(path)
        if data is None and not path.exists():
            return None
        try:
            return cls(
                key=str(data["key"]),
                base=str(data["base"]),
                files={str(name): FileFact(**facts) for name, facts in data["files"].items()},
                inputs=tuple(InputFact(**fact) for fact in data["inputs"]),
                counts=tuple(StageCount(**count) for count in data["counts"]),
                text_bytes=data["text_bytes"],
                rows=data["rows"],
                record=data["record"],
                cost=Cost(**data["cost"]) if data["cost"] else None,
                entered=data["entered"],
                given_up=data["given_up"],
                lost=tuple(LostFact(**fact) for fact in data["lost"]),
                written=data["written"],
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise Damaged(path, f"is no receipt ({type(error).__name__}: {error})") from None

    def write(self, path: Path) -> "Receipt":
        """Write the receipt; the files it names are durable already."""
        counts = [count._asdict() for count in self.counts]
        storage.write_json(path, {**asdict(self), "counts": counts})
        return self

    def is_valid(self, path: Path, key: str, pieces: Sequence[Piece] = ()) -> bool:
        """Whether the receipt, which lies at `path`, is for `key`, and files and `pieces` read are what it says."""
        return (
            self.key == key
            and all(_has_size(path.parent / self.base / name, fact.bytes) for name, fact in self.files.items())
            and all(fact.matches(piece) for fact, piece in zip(self.inputs, pieces))
        )


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def file_facts(files: Iterable[Path], base: Path) -> dict[str, FileFact]:
    """Size and checksum of each file, by its name relative to `base`."""
    return {str(path.relative_to(base)): FileFact(path.stat().st_size, storage.sha256(path)) for path in files}


def write_receipt(path: Path, files: list[Path], base: Path, **fields: Any) -> Receipt:
    """Write the receipt of a task that wrote `files` below `base`; `fields` are the other fields of `Receipt`."""
    listed = file_facts(files, base)
    receipt = Receipt(base=os.path.relpath(base, path.parent), files=listed, written=storage.utc(), **fields)
    return receipt.write(path)


def valid(path: Path, key: str, pieces: Sequence[Piece] = ()) -> Receipt | None:
    """The receipt at `path` if it is valid. One that is damaged counts as absent: its task runs again."""
    try:
        receipt = Receipt.load(path)
    except Damaged:
        return None
    return receipt if receipt and receipt.is_valid(path, key, pieces) else None


# --- layout -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GroupDir:
    """The folder of one group."""

    path: Path
    kind: Kind

    @property
    def map_dir(self) -> Path:
        """Where partitions lie when they have run through the stages of the group."""
        return self.path / {"map": "", "barrier": "map", "sink": "scatter"}[self.kind]

    @property
    def rejected(self) -> Path:
        return self.path / "rejected"

    @property
    def verdicts(self) -> Path:
        return self.path / "verdicts"

    @property
    def gather(self) -> Path:
        return self.path / "gather"

    @property
    def sink_receipt(self) -> Path:
        return self.path / "sink.json"

    @property
    def summary(self) -> Path:
        """What a barrier reports of its work."""
        return self.verdicts / "summary.json"

    def sketch(self, number: int) -> Path:
        return self.path / f"sketch-{number:05d}.arrow"

    def fit(self, stage: str) -> Path:
        """What a stage learned, without suffix."""
        return self.path / "fit" / stage

    def mapped_receipt(self, number: int) -> Path:
        """Of a partition that has run through the stages of the group."""
        return self.map_dir / f"part-{number:05d}.json"

    def part_receipt(self, number: int) -> Path:
        """Of a partition that has left the group."""
        return self.path / f"part-{number:05d}.json"

    def receipts(self, partitions: int) -> list[Receipt]:
        """The receipts that are there: of its stages, then of its barrier's verdicts or of the corpus."""
        paths = [self.mapped_receipt(i) for i in range(partitions)]
        if self.kind == "barrier":
            paths += [self.part_receipt(i) for i in range(partitions)]
        if self.kind == "sink":
            paths.append(self.sink_receipt)
        return [receipt for path in paths if (receipt := Receipt.load(path))]

    def reject_files(self, receipts: Iterable[Receipt]) -> list[Path]:
        """The files of dropped documents that these receipts of the group name."""
        return sorted(self.path / name for one in receipts for name in one.files if name.startswith("rejected/"))

    def document_files(self, receipts: Iterable[Receipt]) -> list[Path]:
        """The files of documents that left the group, as these receipts name them; a sink leaves none."""
        names = {name for one in receipts if one.rows is not None for name in one.files if name.startswith("part-")}
        return sorted(self.path / name for name in names if name.endswith(".parquet"))

    def sweep(self, partitions: int) -> None:
        """Remove partitions beyond the number there are now (an input was removed), but not the shards of a corpus."""
        shards = (self.path / "scatter").exists()
        inside = [path for folder in ("map", "scatter", "rejected") for path in self.path.glob(f"{folder}/part-*")]
        for path in [*([] if shards else self.path.glob("part-*")), *inside, *self.path.glob("sketch-*")]:
            if number_of(path) >= partitions:
                path.unlink()

    def tidy(self) -> None:
        """Remove what lay between scatter and corpus. The receipts stay: the report is made of them."""
        for leftover in (*self.path.glob("scatter/part-*"), *self.gather.glob("shard-*")):
            if leftover.suffix != ".json":
                leftover.unlink()


def is_group(path: Path) -> bool:
    """Whether `path` is the folder of a group: by its name, and by the outline beside it or the receipts in it."""
    if not re.fullmatch(r"\d+-.+-[0-9a-f]{6}", path.name):
        return False
    beside = (RunDir(path.parent).outline, GroupDir(path, "sink").sink_receipt)
    return any(file.is_file() for file in beside) or next(path.glob("part-*.json"), None) is not None


def step_receipt(out: Path) -> Path:
    """The receipt of an inner step that writes `out` + suffix. Readers of Parquet folders pass over "_"."""
    return out.parent / "_receipts" / f"{out.name}.json"


def step_receipts(folder: Path) -> list[Receipt]:
    """The receipts of the inner steps that write into `folder`, by name."""
    return [receipt for path in sorted(folder.glob("_receipts/*.json")) if (receipt := Receipt.load(path))]


def number_of(path: Path) -> int:
    """The number in a name like part-00012.parquet, -1 where there is none."""
    match = re.match(r"[a-z]+-(\d+)", path.name)
    return int(match[1]) if match else -1


@dataclass(frozen=True)
class RunDir:
    """A run directory."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def outline(self) -> Path:
        return self.path / "plan.json"

    @property
    def report(self) -> Path:
        return self.path / "report.json"

    @property
    def damaged(self) -> Path:
        """What `verify` found damaged: the receipts that do not count any more."""
        return self.path / "damaged.json"

    @property
    def page(self) -> Path:
        return self.path / "report.html"

    @property
    def ledger(self) -> Path:
        return self.path / "ledger"

    @property
    def ledger_files(self) -> list[Path]:
        return sorted(self.ledger.glob("part-*.parquet"))

    @property
    def current(self) -> Path:
        return self.path / "current"

    def group(self, folder: str, kind: Kind) -> GroupDir:
        return GroupDir(self.path / folder, kind)

    def unused_groups(self, outline: "Outline") -> list[Path]:
        """The folders of groups that an outline does not have: those of earlier configurations and code."""
        used = {group.folder for group in outline.groups}
        return sorted(path for path in self.path.iterdir() if is_group(path) and path.name not in used)

    def note_damage(self, receipts: list[Path]) -> None:
        """Write down which receipts name damaged files; with none of them, remove the note."""
        if receipts:
            storage.write_json(self.damaged, [str(path.relative_to(self.path)) for path in receipts])
        else:
            self.damaged.unlink(missing_ok=True)

    def forget_damaged(self) -> None:
        """Remove the receipts that are noted as damaged, so that their tasks run again, then the note."""
        try:
            noted = storage.read_json(self.damaged)
        except Damaged:
            noted = None
        for name in noted if isinstance(noted, list) else []:
            (self.path / str(name)).unlink(missing_ok=True)
        self.damaged.unlink(missing_ok=True)

    def forget_current(self) -> None:
        """Remove the links to the present configuration's files."""
        shutil.rmtree(self.current, ignore_errors=True)

    def link_current(self, documents: list[Path], rejects: list[Path], corpus: Path | None) -> None:
        """Put links in place that lead to the files of the present configuration, and to no others.

        `current/documents` and `current/rejected` are folders of Parquet files, which pandas, polars and DuckDB open
        as one table. `current/corpus` is the folder of the shards, `current/ledger` that of the ledger.
        """
        made = self.current.with_name(".current")
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        for folder, files in (("documents", documents), ("rejected", rejects)):
            for file in files:
                link = (
                    made / folder / (file.name if folder == "documents" else f"{file.parent.parent.name}-{file.name}")
                )
                _link(link, file, self.current / folder)
        for name, target in (("corpus", corpus), ("ledger", self.ledger)):
            if target is not None:
                _link(made / name, target, self.current)
        self.forget_current()
        made.rename(self.current)

    def read_report(self) -> dict[str, Any] | None:
        """The report of the last run that came to an end, None where there is none. Raises `Damaged`."""
        report = storage.read_json(self.report)
        if (report is not None or self.report.exists()) and not (
            isinstance(report, dict) and {"state", "groups", "funnel"} <= set(report)
        ):
            raise Damaged(self.report, "is no report of a run")
        return report


def _link(link: Path, target: Path, seen_from: Path) -> None:
    """A relative link to `target`, right once `link` lies in the folder `seen_from`."""
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(os.path.relpath(target, seen_from))


@dataclass(frozen=True)
class OutlinedGroup:
    """A group as the outline of a run has it."""

    folder: str
    kind: Kind
    stages: tuple[str, ...]
    fits: bool  # its first stage learns from the documents first
    fingerprint: str
    adds: tuple[str, ...]  # columns that it adds


@dataclass(frozen=True)
class Outline:
    """What a run consists of: enough to tell how far it is without the configuration or the raw input."""

    groups: tuple[OutlinedGroup, ...]
    splits: tuple[Split, ...]
    contents: tuple[str, ...] | None  # a digest of what each split holds, where that was settled beforehand

    def write(self, path: Path) -> None:
        groups = [asdict(group) for group in self.groups]
        splits = [split.pieces for split in self.splits]
        storage.write_json(path, {"groups": groups, "splits": splits, "contents": self.contents})

    @classmethod
    def load(cls, path: Path) -> "Outline | None":
        """The outline at `path`, None where there is no file. Raises `Damaged`."""
        data = storage.read_json(path)
        if data is None and not path.exists():
            return None
        try:
            groups = [{**group, "stages": tuple(group["stages"]), "adds": tuple(group["adds"])}
                      for group in data["groups"]]  # fmt: skip
            splits = tuple(Split(tuple(Piece(*piece) for piece in pieces)) for pieces in data["splits"])
            contents = None if data["contents"] is None else tuple(data["contents"])
            return cls(tuple(OutlinedGroup(**group) for group in groups), splits, contents)
        except (KeyError, TypeError, AttributeError) as error:
            raise Damaged(path, f"is no outline of a run ({type(error).__name__}: {error})") from None


# --- keys -------------------------------------------------------------------------------------------------------------


class Documents(NamedTuple):
    """One partition's documents, as the next group finds them."""

    path: Path
    sha256: str


def documents_of(path: Path, receipt: Receipt) -> Documents:
    """The documents beside a partition's receipt, which lies at `path`."""
    file = path.with_suffix(".parquet")
    fact = receipt.files[os.path.relpath(file, path.parent / receipt.base)]
    return Documents(file, fact.sha256 or "")


def source_keys(fingerprint: str, splits: Sequence[Split], contents: Sequence[str] | None) -> list[str]:
    """Of all partitions that are read in. `contents`, where known beforehand, stands for what the files hold."""
    keys = []
    for number, split in enumerate(splits):
        pieces = [(piece.source, piece.kind, piece.start, piece.stop) for piece in split.pieces]
        keys.append(digest([fingerprint, pieces, *([] if contents is None else [contents[number]])]))
    return keys


def document_keys(fingerprint: str, learned: str | None, arrived: list[Documents]) -> list[str]:
    """Of the partitions that the group before left; `learned` stands for what the first stage learned from them."""
    return [digest([fingerprint, learned, documents.sha256]) for documents in arrived]


def fit_key(fingerprint: str, arrived: list[Documents]) -> str:
    """Of learning from all documents that arrived."""
    return digest([fingerprint, [documents.sha256 for documents in arrived]])


def learned_digest(receipt: Receipt) -> str:
    """Of what a stage learned."""
    return digest({name: asdict(fact) for name, fact in receipt.files.items()})


def barrier_key(fingerprint: str, receipts: Sequence[Receipt]) -> str:
    """Of a barrier's decision, from the receipts of the partitions that it decides on."""
    files = [{name: asdict(fact) for name, fact in receipt.files.items()} for receipt in receipts]
    return digest([fingerprint, files])


def verdict_keys(barrier: str, arrived: list[Documents]) -> list[str]:
    """Of applying a barrier's decision to each partition."""
    return [digest([barrier, documents.sha256]) for documents in arrived]


def sink_key(fingerprint: str, keys: list[str]) -> str:
    """Of the finished corpus, from the keys of the partitions that go into it."""
    return digest([fingerprint, keys])


def placed(key: str, folder: Path) -> str:
    """The key of work that writes paths into its files: valid only where it was done, not after a move."""
    return digest([key, str(folder)])


# --- progress ---------------------------------------------------------------------------------------------------------


class Progress(NamedTuple):
    """How much of a group has a valid receipt."""

    read: int  # partitions that have run through its stages
    done: int  # partitions that have left the group; 1 for a finished corpus
    total: int
    left: list[Documents] | None = None  # its partitions, if all are done


def progress(outline: Outline, run: RunDir, *, inputs: bool) -> list[Progress]:
    """How far each group of an outline is. With `inputs`, raw files that changed since do not count as read."""
    look = inputs and outline.contents is None
    pieces: list[tuple[Piece, ...]] = [split.pieces if look else () for split in outline.splits]
    arrived: list[Documents] | None = []
    rows: list[Progress] = []
    for group in outline.groups:
        first = not rows
        keys = source_keys(group.fingerprint, outline.splits, outline.contents) if first else _keys(group, run, arrived)
        rows.append(_group_progress(group, run, keys, pieces if first else [()] * len(pieces)))
        arrived = rows[-1].left
    return rows


def _keys(group: OutlinedGroup, run: RunDir, arrived: list[Documents] | None) -> list[str] | None:
    """The keys of a later group's partitions, or None while they cannot be known."""
    if arrived is None:
        return None
    if not group.fits:
        return document_keys(group.fingerprint, None, arrived)
    fit = run.group(group.folder, group.kind).fit(group.stages[0])
    receipt = valid(step_receipt(fit), fit_key(group.fingerprint, arrived))
    return document_keys(group.fingerprint, learned_digest(receipt), arrived) if receipt else None


def _group_progress(
    group: OutlinedGroup, run: RunDir, keys: list[str] | None, pieces: Sequence[tuple[Piece, ...]]
) -> Progress:
    here, total = run.group(group.folder, group.kind), len(pieces)
    if group.kind == "sink":
        every = [piece for some in pieces for piece in some]
        done = int(keys is not None and valid(here.sink_receipt, sink_key(group.fingerprint, keys), every) is not None)
        return Progress(done, done, 1)
    if keys is None:
        return Progress(0, 0, total)
    read = _valid_parts(here.map_dir, keys, pieces)
    mapped = [documents_of(path, receipt) for path, receipt in read]
    if group.kind == "map" or len(read) < total:
        done = len(read) if group.kind == "map" else 0
        return Progress(len(read), done, total, mapped if done == total else None)
    barrier = barrier_key(group.fingerprint, [receipt for _, receipt in read])
    final = _valid_parts(here.path, verdict_keys(barrier, mapped), [()] * total)
    left = [documents_of(path, receipt) for path, receipt in final]
    return Progress(total, len(final), total, left if len(final) == total else None)


def _valid_parts(folder: Path, keys: list[str], pieces: Sequence[tuple[Piece, ...]]) -> list[tuple[Path, Receipt]]:
    """The partitions in `folder` with a valid receipt: where it lies, and the receipt."""
    paths = [folder / f"part-{number:05d}.json" for number in range(len(keys))]
    looked = ((path, valid(path, key, read)) for path, key, read in zip(paths, keys, pieces, strict=True))
    return [(path, receipt) for path, receipt in looked if receipt]


def unread(outline: Outline, run: RunDir) -> list[Split]:
    """The partitions that a run may still read; the raw files of all others are needed no more.

    Those with documents that a stage failed on are among them: a run tries them again.
    """
    first = outline.groups[0]
    if first.kind == "sink" and progress(outline, run, inputs=False)[0].done:  # its partitions are removed
        return []
    keys = source_keys(first.fingerprint, outline.splits, outline.contents)
    here = run.group(first.folder, first.kind)
    if first.kind == "sink":
        keys = [placed(key, here.path) for key in keys]
    receipts = [valid(here.mapped_receipt(number), key) for number, key in enumerate(keys)]
    return [split for split, one in zip(outline.splits, receipts) if one is None or one.given_up]


# --- damage -----------------------------------------------------------------------------------------------------------


class Damage(NamedTuple):
    """A file that is not what a receipt says of it, or a receipt that cannot be read."""

    message: str
    receipt: Path | None  # without it, the next run makes the file again; None where the run looks at the file itself


def damage(folders: Iterable[Path]) -> tuple[int, list[Damage]]:
    """Hash every file again that receipts below `folders` name, but for what is removed between scatter and gather.

    Returns how many files were looked at, and what is wrong.
    """
    count, wrong = 0, []
    for path in sorted(path for folder in folders for path in folder.glob("**/*.json")):
        if path.parent.name == "_receipts" or re.fullmatch(r"part-\d+|sink", path.stem):
            try:
                receipt = Receipt.load(path)
            except Damaged as error:
                wrong.append(Damage(str(error), path))
                continue
            if receipt and not {"scatter", "gather"} & set(path.parts[-3:-1]):
                count += len(receipt.files)
                wrong += [Damage(message, path) for message in _damaged_files(path, receipt)]
    return count, wrong


def _damaged_files(path: Path, receipt: Receipt) -> list[str]:
    wrong = []
    for name, fact in receipt.files.items():
        file = Path(os.path.normpath(path.parent / receipt.base / name))
        if not file.exists():
            wrong.append(f"{file}: is missing")
        elif file.stat().st_size != fact.bytes or (fact.sha256 and storage.sha256(file) != fact.sha256):
            wrong.append(f"{file}: its content changed since it was written")
    return wrong
