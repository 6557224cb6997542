"""Stages -> groups with names and fingerprints. Reads code and names, runs nothing, writes nothing.

A group is what runs in one go over a partition; it ends where data must rest: at a barrier, at the sink, before a stage
that has to learn from the documents first, before a sink that asks for it. Its fingerprint is what its output depends
on: the configuration of its stages, their source text with that of the kernels they import, the versions of the
libraries they call, the files they read, and everything upstream. The folder carries the fingerprint, so a changed
threshold runs its own group and those below, and going back to the old value finds the old folder still there.
"""

import ast
import difflib
import functools
import hashlib
import importlib.util
import json
import sys
import unicodedata
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa
from pydantic import BaseModel

from pipeline import project, storage
from pipeline.config import Config, ConfigError, NamedStep, Step
from pipeline.rundir import Outline, OutlinedGroup
from pipeline.schema import DOCUMENT, DROP
from pipeline.stage import Barrier, Sink, Source, Split, Stage
from pipeline.storage import digest

FORMAT = 1
"""Of the run directory. Raised when what the machine itself writes changes."""

_NEUTRAL = {"pyarrow", "numpy", "numba", "pydantic", "pipeline", "stages"}
"""Not part of a fingerprint: what these do for us does not change from version to version."""


class Group(NamedTuple):
    """Stages that are fused over one partition, ending where data must rest."""

    number: int
    kind: Literal["map", "barrier", "sink"]
    source: NamedStep | None
    stages: tuple[NamedStep, ...]  # the fused `Stage`s
    end: NamedStep | None  # the `Barrier` or `Sink` that ends it
    fingerprint: str
    columns: dict[str, pa.DataType]  # of the documents that leave it, or reach the sink
    fits: bool  # its first stage must learn from the documents first

    @property
    def names(self) -> list[str]:
        steps = [self.source, *self.stages, self.end]
        return [step.name for step in steps if step]

    @property
    def folder(self) -> str:
        return f"{self.number}-{self.names[-1]}-{self.fingerprint[:6]}"


class Plan(NamedTuple):
    """What a configuration comes to."""

    config: Config
    groups: tuple[Group, ...]
    splits: tuple[Split, ...]  # the input of each partition
    contents: tuple[str, ...] | None = None  # a digest of what each holds, where that was settled beforehand


def make(config: Config) -> Plan:
    """Plan a checked configuration. Raises `ConfigError` when stages do not fit together or an input is not there."""
    return Plan(config, groups(config), inputs(config))


def groups(config: Config) -> tuple[Group, ...]:
    """The groups alone, without looking for the input. Raises `ConfigError` when stages do not fit together."""
    _check_order(config.steps)
    _check_columns(config.steps)
    made: list[Group] = []
    upstream = str(FORMAT)
    for steps in _cut(config.steps):
        group = _group(len(made) + 1, steps, upstream, made[-1].columns if made else {})
        made.append(group)
        upstream = group.fingerprint
    return tuple(made)


def inputs(config: Config, *, arrivals: bool = False) -> tuple[Split, ...]:
    """The partitions that the source finds now; with `arrivals` there may be none.

    Raises `ConfigError` when an input is not there.
    """
    name, step = config.steps[0]
    assert isinstance(step, Source)
    try:
        return tuple(step.arrivals() if arrivals else step.inputs())
    except (ValueError, OSError) as error:
        raise ConfigError(f"stages[0].{name}: {error}") from None


def outline(plan: Plan) -> Outline:
    """What the run directory keeps of a plan."""
    before = set(DOCUMENT) - {"text"}
    groups = []
    for group in plan.groups:
        adds = tuple(name for name in group.columns if name not in before)
        names = tuple(group.names)
        groups.append(OutlinedGroup(group.folder, group.kind, names, group.fits, group.fingerprint, adds))
        before |= set(group.columns)
    return Outline(tuple(groups), plan.splits, plan.contents)


def must_fit(step: object) -> bool:
    """Whether a stage has to learn from the documents before it can be applied (see `stage.Fitted`)."""
    unfitted = getattr(step, "unfitted", None)
    return bool(unfitted and unfitted())


def _check_order(steps: tuple[NamedStep, ...]) -> None:
    names = [name for name, _ in steps]
    for place, (name, step) in enumerate(steps):
        if name in names[:place]:
            raise ConfigError(f"stages[{place}].{name}: stands there twice; copy its file under another name")
        if isinstance(step, Source) != (place == 0):
            rule = "a source can only be the first stage" if place else "the first stage must be a source, as 'collect'"
            raise ConfigError(f"stages[{place}].{name}: {rule}")
        if isinstance(step, Sink) and place != len(steps) - 1:
            raise ConfigError(f"stages[{place}].{name}: a sink can only be the last stage")


def _check_columns(steps: tuple[NamedStep, ...]) -> None:
    """Every column a stage needs is there and of its kind, no column is added twice, every file it reads exists."""
    here: dict[str, str] = {}
    types = dict(DOCUMENT)
    for place, (name, step) in enumerate(steps):
        if wrong := _missed(step, types if here else {}):
            raise ConfigError(f"stages[{place}].{name}: {wrong}")
        for column in (*(DOCUMENT if isinstance(step, Source) else ()), *step.columns()):
            if column in here or column in DROP:
                owner = f"stage '{here[column]}'" if column in here else "the machine"
                raise ConfigError(f"stages[{place}].{name}: adds column '{column}', which {owner} has already")
            here[column] = name
        types |= step.columns()
        for path in input_files(step):
            if not path.is_file():
                raise ConfigError(f"stages[{place}].{name}: {_why_missing(path)}")


def _why_missing(path: Path) -> str:
    try:
        return f"no such file: {storage.local(path)}"
    except ValueError as error:
        return str(error)


def _missed(step: Step, types: dict[str, pa.DataType]) -> str:
    """What a stage lacks of the columns that are there before it, in a sentence; empty if nothing."""
    for column in step.needs:
        if column not in types:
            near = difflib.get_close_matches(column, types, 1)
            meant = f"; did you mean '{near[0]}'?" if near else ""
            return f"needs column '{column}', which no earlier stage adds{meant}"
    for column in step.numbers:
        if not _is_number(types[column]):
            return f"column '{column}' has to be of numbers, not {types[column]}"
    for column in step.groups:
        if pa.types.is_nested(types[column]):
            return f"nothing can be grouped by column '{column}', which is of {types[column]}"
    return ""


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _cut(steps: tuple[NamedStep, ...]) -> list[list[NamedStep]]:
    """The stage list cut where data must rest."""
    groups: list[list[NamedStep]] = [[]]
    for named in steps:
        before = groups[-1][-1].step if groups[-1] else None
        if before and (must_fit(named.step) or isinstance(before, Barrier) or getattr(named.step, "rests", False)):
            groups.append([])
        groups[-1].append(named)
    return groups


def _group(number: int, steps: list[NamedStep], upstream: str, columns: dict[str, pa.DataType]) -> Group:
    first, last = steps[0], steps[-1]
    source = first if isinstance(first.step, Source) else None
    end = last if isinstance(last.step, (Barrier, Sink)) else None
    columns = dict(DOCUMENT) if source else dict(columns)
    for _, step in steps:
        columns.update(step.columns())
    kind: Literal["map", "barrier", "sink"] = (
        "map" if end is None else "barrier" if isinstance(end.step, Barrier) else "sink"
    )
    fused = tuple(named for named in steps if isinstance(named.step, Stage))
    fingerprint = digest([upstream, [_identity(named) for named in steps]])
    return Group(number, kind, source, fused, end, fingerprint, columns, must_fit(first.step))


def _identity(named: NamedStep) -> list[object]:
    """Everything the output of a stage depends on, apart from its input."""
    step = named.step
    files = [storage.sha256(path) for path in input_files(step)]
    settings = json.dumps(
        step.model_dump(mode="json"), ensure_ascii=False
    )  # in their order: of patterns, the first wins
    return [named.name, settings, _code(type(step).__module__), files]


def input_files(step: Step) -> list[Path]:
    """The files that the result of a stage depends on: those it names itself, and those that its settings name.

    Every `Path` among the settings is an input, also inside lists and nested models. A folder stands for all files
    below it, unless the stage itself names files in it. A path where nothing is comes back as it is.
    """
    named = step.files()
    files = list(named)
    for path in _paths([getattr(step, field) for field in type(step).model_fields]):
        if path.is_dir():
            covered = any(path in file.parents for file in named)
            files += [] if covered else sorted(file for file in path.rglob("*") if file.is_file())
        else:
            files.append(path)
    return list(dict.fromkeys(files))


def _paths(value: object) -> Iterator[Path]:
    """The paths in a setting."""
    if isinstance(value, Path):
        yield value
    elif isinstance(value, BaseModel):
        yield from _paths([getattr(value, field) for field in type(value).model_fields])
    elif isinstance(value, Mapping):
        yield from _paths([*value.keys(), *value.values()])
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _paths(item)
    elif isinstance(value, (set, frozenset)):
        yield from _paths(sorted(value, key=str))  # sets have no order of their own


@functools.cache
def _code(module: str) -> tuple[str, ...]:
    """Hashes of the source of a stage module and of what it imports of its own; versions of the other libraries.

    Its own are the modules of its package (`stages`) and the files of a project's folder, however they are imported.
    """
    sources: dict[str, str] = {}
    libraries: set[str] = set()
    pending = [module]
    while pending:
        name = pending.pop()
        path = _source_file(name)
        if name in sources or path is None:
            continue
        text = path.read_text(encoding="utf-8")
        sources[name] = hashlib.sha256(text.encode()).hexdigest()
        for imported in _imports(text, name if path.name == "__init__.py" else name.rpartition(".")[0]):
            if imported.split(".")[0] == module.split(".")[0] or _is_own(imported):
                pending.append(imported)
            else:
                libraries.add(imported.split(".")[0])
    return (*(f"{name} {sources[name]}" for name in sorted(sources)), *_versions(libraries))


def _is_own(module: str) -> bool:
    """Whether a module is a file of a project's folder."""
    path = _source_file(module) if project.folders() else None
    return path is not None and project.is_own(path)


@functools.cache  # kernels and readers are imported by many stages
def _imports(text: str, package: str) -> tuple[str, ...]:
    """Dotted names a source text imports; `from a import b` gives both a and a.b, since b may be a module.

    `package` is where relative imports start from.
    """
    names: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            origin = ".".join(part for part in (above, node.module) if part)
            names += [origin, *(f"{origin}.{alias.name}" for alias in node.names)]
    return tuple(names)


def _source_file(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except (ModuleNotFoundError, AttributeError):  # the name imported from a module is not itself a module
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def _versions(libraries: set[str]) -> list[str]:
    owners = _distributions()
    tables = [f"Unicode {unicodedata.unidata_version}"] if "unicodedata" in libraries else []  # Python's
    wanted = sorted(name for name in libraries - _NEUTRAL if name not in sys.stdlib_module_names and name in owners)
    return tables + [f"{owners[name][0]}=={metadata.version(owners[name][0])}" for name in wanted]


@functools.cache
def _distributions() -> dict[str, list[str]]:
    return dict(metadata.packages_distributions())
