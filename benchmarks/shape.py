"""The shape of the code in figures: types, layout, strings, lengths, cycles, words.

    python benchmarks/shape.py            # every figure with its limit; exit code 1 if one is over
    python benchmarks/shape.py --list     # with the places

What is counted, and why: `Any` and bare dicts in the framework (records should have types), paths of the run directory
outside the module that owns them, names of stages and of their columns in the framework (which knows no stage),
overruled formatting, long functions, import cycles, and private words as identifiers (docs/glossary.md has the plain
ones).
"""

import argparse
import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
CODE = sorted(path for folder in ("pipeline", "stages") for path in (ROOT / folder).rglob("*.py"))
FRAMEWORK = [path for path in CODE if path.is_relative_to(ROOT / "pipeline")]

LAYOUT = re.compile(
    r"^(?:config\.yaml|plan\.json|report\.json|report\.html|sink\.json|summary\.json|damaged\.json|map|scatter|gather"
    r"|rejected|verdicts|ledger|current|fit|_receipts|(?:part|sketch)-.*)/?"
)
"""String constants that are a path of the run directory."""

ALLOWED = {"tiny"}
"""The default configuration's name."""

WORDS = frozenset(
    {
        "law",
        "lawful",
        "machine",
        "rests",
        "at_rest",
        "said",
        "told",
        "found",
        "one",
        "met",
        "judged",
        "settled",
        "settle",
        "asked",
        "foreseen",
        "place",
        "places",
        "home",
        "homes",
        "witness",
        "vouch",
        "sign",
        "beside",
        "kin",
        "turns",
        "bare",
        "exchange",
        "spread",
        "exhausted",
        "realised",
        "possible",
        "premiums",
        "twentieth",
        "witnesses",
    }
)
"""The table of private words, as identifiers."""

LIMITS = {
    "`Any` per 1,000 lines of pipeline/": 12.0,
    "`dict[str, Any]` per 1,000 lines of pipeline/": 6.0,
    "paths of the run directory outside rundir.py": 0,
    "names of stages or their columns in pipeline/": 0,
    "`fmt: skip`": 20,
    "functions over 60 lines": 0,
    "import cycles": 0,
    "private words as identifiers": 60,
}


class Figure(NamedTuple):
    """One figure, and the places behind it."""

    value: float
    places: list[str]


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _strings(path: Path) -> Iterator[ast.Constant]:
    """The string constants of a module that are no docstrings and no format strings' text."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose | inside:
            yield node


def per_thousand(pattern: str) -> Figure:
    """How often a pattern stands in the framework, per 1,000 lines."""
    places, lines = [], 0
    for path in FRAMEWORK:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            lines += 1
            places += [f"{path.relative_to(ROOT)}:{number}"] * len(re.findall(pattern, line))
    return Figure(round(1000 * len(places) / lines, 1), places)


def layout() -> Figure:
    """Strings that name a path of the run directory, anywhere but in the module that owns it and in the trainer."""
    elsewhere = [
        path for path in FRAMEWORK if path.name != "rundir.py" and not path.is_relative_to(ROOT / "pipeline/train")
    ]
    places = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.value!r}"
        for path in elsewhere
        for node in _strings(path)
        if LAYOUT.match(node.value) and "\n" not in node.value and " " not in node.value
    ]
    return Figure(len(places), places)


def stage_names() -> Figure:
    """Strings in the framework that are the name of a stage, or of a column that a stage adds."""
    stages = {path.stem for path in (ROOT / "stages").glob("*.py") if path.stem != "__init__"}
    columns = {"lang", "lang_score", "script", "html_bytes", "quality_score", "bits_per_char", "input_ids", "n_tokens"}
    places = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.value!r}"
        for path in FRAMEWORK
        if not path.is_relative_to(ROOT / "pipeline/train")
        for node in _strings(path)
        if node.value in stages | columns
    ]
    return Figure(len(places), places)


def overruled() -> Figure:
    places = [
        f"{path.relative_to(ROOT)}:{number}"
        for folder in ("pipeline", "stages", "tests", "benchmarks")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if "fmt: skip" in line
    ]
    return Figure(len(places), places)


def long_functions(limit: int = 60) -> Figure:
    places = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name} ({node.end_lineno - node.lineno + 1} lines)"
        for path in CODE
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > limit
    ]
    return Figure(len(places), places)


def cycles() -> Figure:
    """Modules that reach themselves by imports at the top of files."""
    known = {_name(path): path for path in CODE}
    graph = {name: _imports(path) & set(known) for name, path in known.items()}
    places = []
    for name in graph:
        reached: set[str] = set()
        pending = set(graph[name])
        while pending:
            reached |= pending
            pending = {other for one in pending for other in graph[one]} - reached
        if name in reached:
            places.append(name)
    return Figure(len(places), places)


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names - {"pipeline", "stages"}


def private_words() -> Figure:
    """Names that are bound somewhere (variables, arguments, functions, classes, attributes) and are private words."""
    places = []
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for name, line in _bound(node):
                if name.strip("_").lower() in WORDS:
                    places.append(f"{path.relative_to(ROOT)}:{line} {name}")
    return Figure(len(places), places)


def _bound(node: ast.AST) -> Iterator[tuple[str, int]]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        yield node.name, node.lineno
    elif isinstance(node, ast.arg):
        yield node.arg, node.lineno
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id, node.lineno
    elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        yield node.attr, node.lineno


def figures() -> dict[str, Figure]:
    measured = (
        per_thousand(r"\bAny\b"),
        per_thousand(r"dict\[str, Any\]"),
        layout(),
        stage_names(),
        overruled(),
        long_functions(),
        cycles(),
        private_words(),
    )
    return dict(zip(LIMITS, measured, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="show the places")
    given = parser.parse_args()
    over = 0
    for name, figure in figures().items():
        good = figure.value <= LIMITS[name]
        over += not good
        print(f"{figure.value:>8g}  limit {LIMITS[name]:>4g}  {'ok  ' if good else 'OVER'}  {name}")
        if given.list:
            for place, times in Counter(figure.places).items():
                print(f"              {place}" + (f"  x{times}" if times > 1 else ""))
    sys.exit(over > 0)


if __name__ == "__main__":
    main()
