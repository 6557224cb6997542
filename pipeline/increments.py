"""A corpus that grows: each start takes in the files that are new, as an increment with a directory of its own.

    runs/nightly/
      0001/  0002/  ...      a run directory each, with `inputs.json`: the files it takes in, settled beforehand
      LATEST                 one line: the newest finished corpus, relative to here; switched by rename, last
      .lock                  one start at a time

`LATEST` alone says which increments are finished. An increment after it was interrupted and is finished first, with the
files it settled on: a partition that was read stays as it was read, whatever became of its file. A file is known by its
name and content, not by its time or folder. The corpus of an increment names that of the one before as its parent.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import config as configs
from pipeline import corpus, manifest, rundir, storage
from pipeline import plan as plans
from pipeline.alarms import of_history
from pipeline.config import Config, ConfigError, NamedStep
from pipeline.plan import Plan
from pipeline.rundir import Outline, RunDir
from pipeline.stage import Piece, Sink, Split

INPUTS = "inputs.json"
_FORMAT = 1


class Increment(NamedTuple):
    """One increment of an incremental run."""

    number: int
    folder: Path

    def inputs(self) -> dict[str, Any]:
        """What it takes in: `files` with path, name, source, size, mtime_ns and xxh3, and how they are `splits`."""
        return storage.read_json(self.folder / INPUTS)


class _File(NamedTuple):
    """One input file as it is now."""

    path: str
    name: str  # by which the source calls it
    size: int  # -1 for one that cannot be read
    mtime_ns: int


def of(folder: Path) -> list[Increment]:
    """The increments in a directory, in order; none if it is not that of an incremental run."""
    found = [path for path in folder.glob("[0-9]*") if path.name.isdigit() and (path / INPUTS).is_file()]
    return sorted(Increment(int(path.name), path) for path in found)


def finished(folder: Path) -> int:
    """The number of the newest finished increment, 0 if there is none."""
    made = corpus.latest(folder)
    return int(made.relative_to(folder).parts[0]) if made else 0


def publish(folder: Path, home: Path, report: dict[str, Any]) -> None:
    """Make the increment in `home`, done and balanced, the latest."""
    with storage.atomic(folder / corpus.LATEST) as beside:
        beside.write_text(f"{(home / report['groups'][-1]['folder']).relative_to(folder).as_posix()}\n", "utf-8")


def alarms(folder: Path, home: Path, report: dict[str, Any]) -> list[dict[str, Any]]:
    """Alarms where the increment in `home` has far fewer documents than those before it."""
    before = [RunDir(one.folder).read_report() for one in of(folder) if one.folder.resolve() != home.resolve()]
    return of_history(report, [one for one in before if one])


def due(config: Config, folder: Path) -> Iterator[tuple[Plan, Path]]:
    """What there is to carry out now, each with its directory: an interrupted increment, then one of the new files.

    The caller carries out and publishes each before it asks for the next. Raises `ConfigError` when the configuration
    cannot go on from what was made so far.
    """
    _check(config)
    while (pending := _interrupted(folder)) and (plan := _resumed(config, folder, pending)):
        yield plan, pending.folder
    if plan := settle(config, folder):
        yield plan, _next(folder)


def upcoming(config: Config, folder: Path) -> tuple[Plan | None, Path]:
    """What `due` would come to first, and its directory, with nothing written."""
    _check(config)
    if pending := _interrupted(folder):
        return _plan(_continuing(config, folder), pending.inputs()), pending.folder
    return settle(config, folder, write=False), _next(folder)


def _interrupted(folder: Path) -> Increment | None:
    """The first increment that is not finished."""
    return next((increment for increment in of(folder) if increment.number > finished(folder)), None)


def _next(folder: Path) -> Path:
    """The directory of the increment after the finished ones."""
    return folder / f"{finished(folder) + 1:04d}"


def settle(config: Config, folder: Path, *, write: bool = True) -> Plan | None:
    """The plan of an increment of all files that are new, its inputs settled in its directory; None if none is new."""
    before = [increment for increment in of(folder) if increment.number <= finished(folder)]
    known = _Known(before)
    splits = plans.inputs(config, arrivals=bool(before))
    new = {file.path: entry for file in _files(splits) if (entry := known.new(file))}
    if not new:
        return None
    config = _continuing(config, folder)
    chosen = _repacked(splits, new)
    plan = _plan(config, {"splits": chosen, "files": list(new.values())})
    if write:
        home = _next(folder)
        settled = {"format": _FORMAT, "folder": str(home.resolve()), "groups": _judging(plan),
                   "files": list(new.values()), "splits": chosen}  # fmt: skip
        storage.write_json(home / INPUTS, settled)
    return plan


def _check(config: Config) -> None:
    """An increment has to be a corpus that can name a parent."""
    name, step = config.steps[-1]
    if not isinstance(step, Sink) or "parent" not in type(step).model_fields:
        raise ConfigError(f"incremental: the last stage must write a corpus that can have a parent, as 'shards', not "
                          f"'{name}'")  # fmt: skip


def _plan(config: Config, inputs: dict[str, Any]) -> Plan:
    """The plan for settled inputs: what a file holds is part of the key of the partition that reads it."""
    content = {file["path"]: file["xxh3"] for file in inputs["files"]}
    splits = tuple(Split(tuple(Piece(*piece) for piece in split)) for split in inputs["splits"])
    held = tuple(storage.digest([content[piece.path] for piece in split.pieces]) for split in splits)
    return Plan(config, plans.groups(config), splits, held)


def _resumed(config: Config, folder: Path, pending: Increment) -> Plan | None:
    """The plan that finishes an interrupted increment, or None if its files have to be settled anew.

    Its documents may stand in an index that outlives the run. Under the same settings and code it is the same batch to
    the index, wherever its directory lies; under others the index knows it by its directory and replaces it. Moved and
    changed at once it would be another batch, whose documents are duplicates of themselves: that is refused.
    """
    inputs = pending.inputs()
    plan = _plan(_continuing(config, folder), inputs)
    if _judging(plan) != inputs["groups"]:
        judged = any(any((pending.folder / group / "verdicts").glob("*")) for group in inputs["groups"])
        if judged and inputs["folder"] != str(pending.folder.resolve()):
            raise ConfigError(
                f"{pending.folder} was interrupted while it was deduplicated, and since then both moved (from "
                f"{inputs['folder']}) and given other settings or code; take one of the two back until it is finished"
            )
        inputs = {**inputs, "groups": _judging(plan)}
        storage.write_json(pending.folder / INPUTS, inputs)
    splits = rundir.unread(plans.outline(plan), RunDir(pending.folder))
    unread = {piece.path for split in splits for piece in split.pieces}
    if all(_as_settled(file) for file in inputs["files"] if file["path"] in unread):
        return plan
    (pending.folder / INPUTS).unlink()  # what is there now is taken in instead
    return None


def _judging(plan: Plan) -> list[str]:
    """The folders of the groups up to the last barrier; what comes after may be changed at any time."""
    barriers = [place for place, group in enumerate(plan.groups) if group.kind == "barrier"]
    return [group.folder for group in plan.groups[: barriers[-1] + 1]] if barriers else []


def _as_settled(file: dict[str, Any]) -> bool:
    size, mtime_ns = storage.state(file["path"])
    untouched = (size, mtime_ns) == (file["size"], file["mtime_ns"])
    return untouched or (size == file["size"] and storage.xxh3(file["path"]) == file["xxh3"])


def _continuing(config: Config, folder: Path) -> Config:
    """The configuration with the parent in the sink, and in each stage that learns what it learned for the first.

    Raises `ConfigError` where parent and increment would have different vocabularies.
    """
    parent = corpus.latest(folder)
    if parent is None:
        return config
    first = of(folder)[0].folder
    steps = [_learned(named, first) if plans.must_fit(named.step) else named for named in config.steps]
    steps[-1] = configs.changed(steps[-1], parent=parent)
    vocabulary = (manifest.read(parent) or {}).get("tokenizer", {}).get("sha256")
    files = [path for named in steps for path in named.step.files() if path.is_file()]
    if vocabulary and vocabulary not in map(storage.sha256, files):
        raise ConfigError(
            f"the corpus so far, {parent}, has another tokenizer than this configuration; a corpus that grows has one "
            f"vocabulary: name {parent / 'tokenizer.json'}, or start a run of another name"
        )
    return config._replace(steps=tuple(steps))


def _learned(named: NamedStep, first: Path) -> NamedStep:
    """A stage with what it learned in the first increment, which all later ones use."""
    began = dict(configs.load(RunDir(first).config).steps)
    if began.get(named.name) != named.step:
        raise ConfigError(
            f"{named.name}: what it learned in {first} is used by all increments, and there it had other settings; set "
            "them back or start a run of another name"
        )
    outline = Outline.load(RunDir(first).outline)
    if outline is None:
        raise ConfigError(f"{first}: its plan.json is missing, so what {named.name} learned there cannot be found")
    group = next(group for group in outline.groups if group.fits and group.stages[0] == named.name)
    learned = RunDir(first).group(group.folder, group.kind).fit(named.name)
    return NamedStep(named.name, named.step.fitted(learned))  # type: ignore[union-attr]


class _Known:
    """The files of earlier increments."""

    def __init__(self, increments: list[Increment]) -> None:
        self._by_name: dict[str, list[dict[str, Any]]] = {}
        self._by_path: dict[str, dict[str, Any]] = {}
        for file in (file for increment in increments for file in increment.inputs()["files"]):
            self._by_name.setdefault(file["name"], []).append(file)
            self._by_path[file["path"]] = file

    def new(self, file: _File) -> dict[str, Any] | None:
        """The entry of a file that is new, or None. Its content is read only if size and time do not settle it.

        A known name with another content is taken in under a name of its own, since documents are known by the name of
        their file and their place in it, and an id must never mean two documents.
        """
        last = self._by_path.get(file.path)
        if last and (last["size"], last["mtime_ns"]) == (file.size, file.mtime_ns):
            return None
        content = storage.xxh3(file.path) if file.size >= 0 else ""  # nothing yet, of a file that cannot be read
        before = self._by_name.get(file.name, [])
        if any((one["size"], one["xxh3"]) == (file.size, content) for one in before):
            return None
        source = f"{file.name}@{content[:8]}" if before else file.name
        return {"path": file.path, "name": file.name, "source": source, "size": file.size, "mtime_ns": file.mtime_ns,
                "xxh3": content}  # fmt: skip


def _files(splits: tuple[Split, ...]) -> Iterator[_File]:
    """Each file of the partitions once."""
    for path, name in dict.fromkeys((piece.path, piece.source) for split in splits for piece in split.pieces):
        yield _File(path, name, *storage.state(path))


def _repacked(splits: tuple[Split, ...], new: dict[str, dict[str, Any]]) -> list[list[Piece]]:
    """The pieces of new files, in order; what is left of neighbouring partitions together, as large as those."""
    largest = max(split.size for split in splits)
    packed: list[list[Piece]] = []
    held = 0
    for split in splits:
        pieces = [piece._replace(source=new[piece.path]["source"]) for piece in split.pieces if piece.path in new]
        size = sum(piece.size for piece in pieces)
        if len(pieces) == len(split.pieces) or not packed or held + size > largest:
            packed += [pieces] if pieces else []
            held = largest if len(pieces) == len(split.pieces) else size
        else:
            packed[-1] += pieces
            held += size
    return packed
