"""A field of a record by its name, or by its path where it lies inside another: `doc.text`."""

from collections.abc import Iterable, Iterator
from typing import Any


def value(record: dict[str, Any], name: str) -> Any:
    """The value of a field, None where there is none. A field with dots in its own name comes before a path."""
    if name in record or "." not in name:
        return record.get(name)
    found: Any = record
    for part in name.split("."):
        if not isinstance(found, dict):
            return None
        found = found.get(part)
    return found


def without(record: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """A copy of the record without these fields, and without what is empty then."""
    left = dict(record)
    for name in names:
        _remove(left, [name] if name in record else name.split("."))
    return left


def _remove(record: dict[str, Any], path: list[str]) -> None:
    inner = record.get(path[0])
    if len(path) == 1:
        record.pop(path[0], None)
    elif isinstance(inner, dict):
        inner = dict(inner)
        _remove(inner, path[1:])
        record[path[0]] = inner
        if not inner:
            del record[path[0]]


def one_by_one(record: dict[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """The record once for each item of its list `name`, with the item in the list's place.

    A record whose list is empty or missing comes once, without it.
    """
    items = value(record, name)
    for item in items if isinstance(items, list) and items else [None]:
        yield _with(record, [name] if name in record else name.split("."), item)


def _with(record: dict[str, Any], path: list[str], item: Any) -> dict[str, Any]:
    if len(path) == 1:
        return {**record, path[0]: item}
    inner = record.get(path[0])
    return {**record, path[0]: _with(inner, path[1:], item)} if isinstance(inner, dict) else record
