"""Whether every machine of a cluster sees what this one sees: the run directory, the input, this program."""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import pipeline
import stages
from pipeline.address import NoCluster
from pipeline.engine import Engine
from pipeline.plan import Plan

_INPUTS = 20  # files of the input that are looked for; they mostly lie in one place


class View(NamedTuple):
    """What one machine sees of some files: a digest of the content for small ones, the size for others."""

    files: dict[str, str]  # by path; empty for a file that is not there
    program: str


def check(plan: Plan, folder: Path, engine: Engine) -> None:
    """Compare what the machines of the cluster see with what this one sees.

    Raises `NoCluster`, naming the machine and the path. `folder` is the run directory, whose lock this process holds:
    the content of the lock file tells it from any other.
    """
    paths = list(dict.fromkeys(os.path.abspath(piece.path) for split in plan.splits for piece in split.pieces))
    step = max(1, len(paths) // _INPUTS)
    marker = str(folder / ".lock")
    ours = look([marker, *paths[::step]])
    for node, theirs in engine.everywhere(look, [marker, *paths[::step]]):
        if isinstance(theirs, str):
            raise NoCluster(f"the machine {node} of the cluster cannot run this program: {theirs}")
        if theirs.program != ours.program:
            raise NoCluster(f"the machine {node} of the cluster has another version of this program")
        for path, seen in ours.files.items():
            if theirs.files[path] != seen:
                what = "does not see" if not theirs.files[path] else "sees something else at"
                shown = folder if path == marker else path
                raise NoCluster(f"the machine {node} of the cluster {what} {shown}, which all of them have to share")


def look(paths: list[str]) -> View:
    """What this machine sees."""
    return View({path: _seen(Path(path)) for path in paths}, program())


def program() -> str:
    """A digest of the source of this program."""
    digest = hashlib.sha256()
    for package in (pipeline, stages):
        for folder in package.__path__:
            for path in sorted(Path(folder).rglob("*.py")):
                digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _seen(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") if path.name == ".lock" else str(path.stat().st_size)
    except OSError:
        return ""
