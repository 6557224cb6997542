"""Which files a list of paths means, and what each is called.

A folder is read with all below it. Something in it that is no readable file (a link that leads nowhere, a socket, a
folder that cannot be listed) is named all the same, so that it is counted; it never stops the other files.
"""

import difflib
import fnmatch
import glob
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import xxhash

from pipeline.storage import local

_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # how Python holds a byte of a file name that is not UTF-8


class Found(NamedTuple):
    """A file: its name for documents, which does not depend on where the data lies, and its path."""

    source: str
    path: str


def files(paths: Sequence[str], *, empty_ok: bool = False) -> list[Found]:
    """Every file that `paths` mean, once, sorted by name.

    Raises `ValueError` for a path that matches nothing; with `empty_ok`, only where the folder to look in is missing.
    """
    roots: dict[str, tuple[str, str]] = {}  # by real path: the path a file was found by, the root its name starts from
    for given in paths:
        root, matches = _matches(given)
        if not matches and not (empty_ok and os.path.isdir(root)):
            raise ValueError(_no_match(given))
        for path in matches:
            roots.setdefault(os.path.realpath(path), (path, root))
    return sorted(_named(list(roots.values())))


def _matches(given: str) -> tuple[str, list[str]]:
    """The root of a path as given, and its files, both absolute."""
    path = os.path.abspath(os.path.expanduser(local(given)))
    if os.path.isdir(path):
        return path, _below(path)
    if os.path.exists(path):
        if not os.path.isfile(path):
            raise ValueError(f"{given} is neither a file nor a folder")
        return os.path.dirname(path), [path]
    if not glob.has_magic(path):
        return path, []  # no folder: a file that is named is not there
    parts = Path(path).parts
    plain_parts = next(at for at, part in enumerate(parts) if glob.has_magic(part))
    return str(Path(*parts[:plain_parts])), _expanded(path)


def _expanded(pattern: str) -> list[str]:
    """The files that a glob matches, sorted. `**` follows a link to a folder once, never in a circle."""
    parts = Path(pattern).parts
    if "**" not in parts:
        return sorted(path for path in glob.glob(pattern) if not os.path.isdir(path))
    at = parts.index("**")
    found: list[str] = []
    for folder in sorted(filter(os.path.isdir, glob.glob(str(Path(*parts[:at]))))):
        for path in _below(folder):
            if os.path.isdir(path) or _fits(Path(path).relative_to(folder).parts, parts[at:]):
                found.append(path)
    return found


def _fits(names: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    if not pattern:
        return not names
    if pattern[0] == "**":
        return pattern[1:] == () or any(_fits(names[at:], pattern[1:]) for at in range(len(names)))
    return bool(names) and fnmatch.fnmatchcase(names[0], pattern[0]) and _fits(names[1:], pattern[1:])


def _below(root: str) -> list[str]:
    """Everything below a folder that is not hidden and no folder, and the folders that cannot be listed.

    Real folders come before linked ones, so that a file in both is called by its real place. A link to a folder around
    it is not followed.
    """
    found: list[str] = []
    seen: set[str] = set()
    waiting = [root]

    def not_listed(error: OSError) -> None:
        found.append(str(error.filename))

    while waiting:
        start = waiting.pop(0)
        if os.path.realpath(start) in seen or (start != root and _is_around(start, root)):
            continue
        for here, folders, names in os.walk(start, onerror=not_listed):
            seen.add(os.path.realpath(here))
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            waiting += filter(os.path.islink, (os.path.join(here, name) for name in folders))
            found += [os.path.join(here, name) for name in sorted(names) if not name.startswith(".")]
    if found == [root]:
        raise ValueError(f"{root} cannot be listed")
    return found


def _is_around(folder: str, root: str) -> bool:
    outer, inner = os.path.realpath(folder), os.path.realpath(root)
    return os.path.commonpath([outer, inner]) == outer


def _no_match(given: str) -> str:
    """One sentence for a path that matches no file, with a near one where the first wrong name has a near match."""
    path = os.path.abspath(os.path.expanduser(given))
    if os.path.isdir(path):
        return f"no files in the folder {given}"
    here = Path(path)
    while not here.parent.is_dir():
        here = here.parent
    if glob.has_magic(path) and any(os.path.isdir(folder) for folder in glob.glob(path)):
        return f"{given} matches only folders; to read what is in them, write {given.rstrip('/')}/**"
    near = difflib.get_close_matches(here.name, os.listdir(here.parent), n=1)
    hint = f"; did you mean {readable(str(here.parent / near[0]))}?" if near else ""
    return f"no file matches {given}{hint}"


def _named(roots: list[tuple[str, str]]) -> list[Found]:
    """The name of each file; files that would share one are called by their whole path."""
    names = [_source(path, root) for path, root in roots]
    often = Counter(names)
    names = [name if often[name] == 1 else readable(Path(path).as_posix()) for name, (path, _) in zip(names, roots)]
    often = Counter(names)  # "%D6" may stand for a byte of one file's name and for itself in another's
    return [Found(name if often[name] == 1 else _hashed(name, path), path) for name, (path, _) in zip(names, roots)]


def _source(path: str, root: str) -> str:
    return readable(f"{os.path.basename(root)}/{Path(path).relative_to(root).as_posix()}")


def _hashed(name: str, path: str) -> str:
    return f"{name}@{xxhash.xxh3_64_hexdigest(os.fsencode(path))[:8]}"


def readable(path: str) -> str:
    """A path as valid UTF-8: a name in it that is not UTF-8 is written as in a URL (`%D6%D0.txt`)."""
    if not _NOT_UTF8.search(path):
        return path
    return "/".join(_escaped(os.fsencode(name)) if _NOT_UTF8.search(name) else name for name in path.split("/"))


def _escaped(name: bytes) -> str:
    return "".join(chr(byte) if byte < 0x80 else f"%{byte:02X}" for byte in name)
