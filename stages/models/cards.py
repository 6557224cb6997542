"""The card of a model: a JSON file beside it, of the same name, which `train-...` writes.

It says what a run has to know (the languages, how text is to be prepared) and names the sha256 of its model: the card
of another model is refused, since this one would be asked in the wrong way and nobody would see.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pipeline.storage import sha256

T = TypeVar("T")


def path_of(model: Path) -> Path:
    """Where the card of a model is, if it has one."""
    return model.with_suffix(".json")


def read(model: Path, kind: str, of: Callable[[dict[str, Any]], T]) -> T | None:
    """What `of` makes of the card of a model, None where there is none.

    Raises `ValueError` for a card that is damaged or not one of a `kind` (as "a classifier"), or is of another model.
    """
    path = path_of(model)
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        card = of(raw)
    except FileNotFoundError:
        return None
    except KeyError as error:
        raise ValueError(f"{path} is not the card of {kind}: it has no {error}") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not the card of {kind}: {error}") from error
    _check_is_of(model, path, raw)
    return card


def languages(raw: dict[str, Any]) -> tuple[str, ...]:
    """Those that a card names, one or a list."""
    said = raw["language"]
    return (said,) if isinstance(said, str) else tuple(said)


def check_begins(model: Path, mark: bytes, kind: str) -> None:
    """Raises `ValueError` for a file that does not begin as `kind` (as "a fastText model") does; one that is not there
    is for others to miss."""
    if not model.is_file():
        return
    with model.open("rb") as file:
        if file.read(len(mark)) != mark:
            raise ValueError(f"{model} is not {kind}")


def free_for(model: Path) -> None:
    """Raises `ValueError` where the place of a model's card is taken by the card of another model that is there."""
    try:
        other = json.loads(path_of(model).read_text(encoding="utf-8"))["file"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return
    if other != model.name and (model.parent / other).exists():
        raise ValueError(f"{path_of(model)} is the card of {other}; train {model.name} under another --name or --out")


def _check_is_of(model: Path, path: Path, raw: dict[str, Any]) -> None:
    """A card that names no sha256 is believed; whether there is a model is for others to say."""
    said = raw.get("sha256")
    if said is None or not model.exists():
        return
    state = model.stat()
    found = _sha256(model, state.st_size, state.st_mtime_ns)
    if said != found:
        raise ValueError(
            f"{path} is not the card of {model.name} but of {raw.get('file') or 'another model'}: it names sha256 "
            f"{str(said)[:12]}, the file has {found[:12]}; a model and its card go together, one pair a name"
        )


@functools.cache
def _sha256(model: Path, size: int, mtime_ns: int) -> str:
    """Taken once a process for a file that does not change."""
    return sha256(model)
