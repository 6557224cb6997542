"""Where stages and shipped files are: in this package, and in folders of a project's own.

The modules of a project's folder become modules of the package `stages`, behind the shipped ones: `shouting.py` in it
is `stages.shouting`. A stage can import other files of its folder as `from stages.words import LIST`, `from .words
import LIST` or `from words import LIST`. The folders stand in an environment variable, so that every process that is
started for a run, also by Ray, imports the same stages.
"""

import os
import pkgutil
import sys
from importlib import metadata
from pathlib import Path

import stages

VARIABLE = "GRISTMILL_STAGES"
"""The environment variable with the absolute paths of the folders, separated like those of PATH."""

GROUP = "gristmill.stages"
"""The entry points by which an installed package offers stages: a module or a class each."""

_HERE = Path(os.path.abspath(__file__)).parent
_SHIPPED = _HERE.parent / "stages"


class Blocked(ValueError):
    """Stages cannot be found as they should: what is in the way, in a sentence."""


def folders() -> list[Path]:
    """The folders with a project's own stages that are in use."""
    return [Path(folder) for folder in os.environ.get(VARIABLE, "").split(os.pathsep) if folder]


def use(folder: Path) -> None:
    """Find stages also in `folder`, here and in every process started from now on. Raises `Blocked`."""
    folder = Path(os.path.abspath(folder))
    if not folder.is_dir():
        raise Blocked(f"no such folder of stages: {folder}")
    if os.pathsep in str(folder):
        raise Blocked(f"a folder of stages cannot have '{os.pathsep}' in its path: {folder}")
    if folder in folders() or os.path.realpath(folder) in map(os.path.realpath, stages.__path__):
        return
    if taken := sorted(_modules([str(folder)]).keys() & _modules(stages.__path__).keys()):
        there = _modules(stages.__path__)[taken[0]]
        raise Blocked(f"{folder / taken[0]}: there is a '{taken[0]}' in {there} already; give it another name")
    os.environ[VARIABLE] = os.pathsep.join(map(str, [*folders(), folder]))
    follow()


def follow() -> None:
    """Find stages also in the folders that the environment names."""
    for folder in map(str, folders()):
        if folder not in stages.__path__:
            stages.__path__.append(folder)
        if folder not in sys.path:
            sys.path.append(folder)  # last, so that no file of it hides a library


def names() -> list[str]:
    """Names of all stages: files of the package and of the project's folders, and entry points.

    In a project's folder, a file whose name begins with `_` is no stage.
    """
    own = {str(folder) for folder in folders()}
    found = {name for name, home in _modules(stages.__path__).items() if not (home in own and name.startswith("_"))}
    return sorted(found | set(entry_points()))


def entry_points() -> dict[str, metadata.EntryPoint]:
    """Stages that installed packages offer, by name."""
    return {point.name: point for point in metadata.entry_points(group=GROUP)}


def has_file(name: str) -> bool:
    """Whether a stage is a file of the package or of a project's folder."""
    return name in _modules(stages.__path__)


def is_own(path: Path) -> bool:
    """Whether a file lies in a project's folder."""
    return any(folder in path.parents for folder in folders())


def _modules(path: list[str]) -> dict[str, str]:
    """Names of the modules in these folders, and the folder of each."""
    found: dict[str, str] = {}
    for module in pkgutil.iter_modules(path):
        if not module.ispkg:
            found.setdefault(module.name, getattr(module.module_finder, "path", ""))
    return found


def shipped(path: Path) -> Path:
    """`path`, or the file of that name that comes with the package where there is none here."""
    beside = _HERE / path
    return beside if not path.is_absolute() and not path.exists() and beside.exists() else path


def is_shipped(path: Path) -> bool:
    """Whether a file came with the package."""
    return Path(os.path.abspath(path)).is_relative_to(_HERE)


def check() -> None:
    """Raise `Blocked` where another package hides the stages of this one."""
    found = [os.path.realpath(folder) for folder in getattr(stages, "__path__", [])]
    if os.path.realpath(_SHIPPED) not in found:
        there = stages.__file__ or next(iter(found), "")
        raise Blocked(
            f"{there} hides the stages of Gristmill, which are in {_SHIPPED}: start the command `gristmill` instead of "
            f"`python -m pipeline`, or work in another folder; --stages DIR adds stages of your own"
        )
