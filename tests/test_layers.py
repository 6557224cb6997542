"""The import map: this test is the architecture drawing, and fails when the code disagrees."""

import ast
from pathlib import Path

import pytest
from conftest import ROOT

MAP = {
    "pipeline.schema": set(),
    "pipeline.storage": set(),
    "pipeline.manifest": set(),
    "pipeline.stage": set(),
    "pipeline.child": set(),
    "pipeline.marks": {"pipeline.schema"},
    "pipeline.isolate": {"pipeline.child", "pipeline.marks", "pipeline.schema"},
    "pipeline.apart": {
        "pipeline.child", "pipeline.config", "pipeline.isolate", "pipeline.rundir", "pipeline.schema", "pipeline.stage",
    },
    "pipeline.address": set(),
    "pipeline.nodes": {"pipeline.address", "pipeline.engine", "pipeline.plan", "stages"},
    "pipeline.stopping": set(),
    "pipeline.project": {"stages"},
    "pipeline.contract": {"pipeline.config", "pipeline.plan", "pipeline.schema", "pipeline.stage"},
    "pipeline.supervise": {"pipeline.engine", "pipeline.marks"},
    "pipeline.config": {"pipeline.marks", "pipeline.project", "pipeline.stage"},
    "pipeline.rundir": {"pipeline.stage", "pipeline.storage"},
    "pipeline.plan": {
        "pipeline.config", "pipeline.project", "pipeline.rundir", "pipeline.schema", "pipeline.stage",
        "pipeline.storage",
    },
    "pipeline.engine": {"pipeline.address", "pipeline.child", "pipeline.project"},
    "pipeline.partition": {
        "pipeline.apart", "pipeline.config", "pipeline.isolate", "pipeline.marks", "pipeline.rundir",
        "pipeline.schema", "pipeline.stage", "pipeline.storage",
    },
    "pipeline.ledger": {"pipeline.rundir", "pipeline.storage"},
    "pipeline.alarms": {"pipeline.config", "pipeline.rundir"},
    "pipeline.report": {
        "pipeline.alarms", "pipeline.ledger", "pipeline.plan", "pipeline.rundir", "pipeline.storage",
    },
    "pipeline.reading": {"pipeline.corpus", "pipeline.increments", "pipeline.rundir"},
    "pipeline.run": {
        "pipeline.config", "pipeline.engine", "pipeline.ledger", "pipeline.partition", "pipeline.plan",
        "pipeline.marks", "pipeline.report", "pipeline.rundir", "pipeline.stage", "pipeline.storage",
        "pipeline.supervise",
    },
    "pipeline.increments": {
        "pipeline.alarms", "pipeline.config", "pipeline.corpus", "pipeline.manifest", "pipeline.plan",
        "pipeline.rundir", "pipeline.stage",
        "pipeline.storage",
    },
    "pipeline.bench": {
        "pipeline.config", "pipeline.engine", "pipeline.plan", "pipeline.run", "pipeline.rundir", "pipeline.schema",
        "pipeline.stage", "pipeline.storage",
    },
    "pipeline.corpus": {"pipeline.manifest", "pipeline.storage"},
    "pipeline.export": {"pipeline.corpus", "pipeline.storage"},
    "pipeline.browse": {
        "pipeline.corpus", "pipeline.increments", "pipeline.ledger", "pipeline.manifest", "pipeline.reading",
        "pipeline.rundir", "pipeline.stage", "pipeline.storage",
    },
    "pipeline.difference": set(),
    "pipeline.chart": set(),
    "pipeline.page": {
        "pipeline.browse", "pipeline.chart", "pipeline.corpus", "pipeline.reading", "pipeline.rundir",
        "pipeline.storage",
    },
    "pipeline.console": {"pipeline.rundir", "pipeline.storage"},
    "pipeline.train": set(),
    "pipeline.train.recipe": {"pipeline.storage"},
    "pipeline.train.identity": {"pipeline.corpus", "pipeline.storage", "pipeline.train.recipe"},
    "pipeline.train.order": {"pipeline.train.recipe"},
    "pipeline.train.pack": set(),
    "pipeline.train.data": {
        "pipeline.corpus", "pipeline.train", "pipeline.train.identity", "pipeline.train.order",
        "pipeline.train.pack", "pipeline.train.recipe",
    },
    "pipeline.train.model": {"pipeline.train.data", "pipeline.train.recipe"},
    "pipeline.train.optim": {"pipeline.train.recipe"},
    "pipeline.train.ranks": {"pipeline.train.recipe"},
    "pipeline.train.checkpoint": {
        "pipeline.corpus", "pipeline.storage", "pipeline.train.model", "pipeline.train.ranks", "pipeline.train.recipe",
    },
    "pipeline.train.evaluate": {
        "pipeline.corpus", "pipeline.train.data", "pipeline.train.model", "pipeline.train.ranks",
        "pipeline.train.recipe",
    },
    "pipeline.train.loop": {
        "pipeline.corpus", "pipeline.storage", "pipeline.chart", "pipeline.train", "pipeline.train.checkpoint",
        "pipeline.train.data", "pipeline.train.evaluate", "pipeline.train.identity", "pipeline.train.model",
        "pipeline.train.optim", "pipeline.train.order", "pipeline.train.ranks", "pipeline.train.recipe",
    },
    "pipeline.train.report": {
        "pipeline.corpus", "pipeline.train", "pipeline.train.data", "pipeline.train.evaluate", "pipeline.train.loop",
        "pipeline.train.model", "pipeline.train.recipe",
    },
    "pipeline.train.compare": {
        "pipeline.corpus", "pipeline.storage", "pipeline.chart", "pipeline.train", "pipeline.train.checkpoint",
        "pipeline.train.data", "pipeline.train.evaluate", "pipeline.train.loop",
        "pipeline.train.recipe",
    },
    "pipeline.train.cli": {
        "pipeline.config", "pipeline.console", "pipeline.corpus", "pipeline.export", "pipeline.train",
        "pipeline.train.checkpoint", "pipeline.train.compare", "pipeline.train.identity", "pipeline.train.loop",
        "pipeline.train.model", "pipeline.train.ranks", "pipeline.train.recipe", "pipeline.train.report",
    },
    "pipeline.__main__": {
        "pipeline.address", "pipeline.nodes", "pipeline.stopping", "pipeline.bench", "pipeline.browse",
        "pipeline.config", "pipeline.console", "pipeline.contract", "pipeline.corpus",
        "pipeline.difference", "pipeline.engine", "pipeline.increments", "pipeline.page", "pipeline.plan",
        "pipeline.project",
        "pipeline.reading", "pipeline.report", "pipeline.run", "pipeline.stage", "pipeline.storage", "pipeline.train",
        "pipeline.train.cli",
    },
}  # fmt: skip
"""What each module of the machine imports of this project. It never imports a stage by name."""

STAGES_MAY = {"pipeline.schema", "pipeline.stage", "pipeline.storage"}
"""What the work may know of the machine; the sink writes a corpus and the corpus is the machine's."""

HOMES = {
    "ray": {"pipeline.engine"},
    "ruamel": {"pipeline.config"},
    "rich": {"pipeline.console"},
    "typer": {
        "pipeline.__main__",
        "pipeline.train.cli",
        "stages.learning.classifier",
        "stages.learning.importance",
        "stages.learning.perplexity",
        "stages.learning.tokenizer",
    },
    "torch": {f"pipeline.train.{name}" for name in ("model", "optim", "ranks", "checkpoint", "evaluate", "loop")},
    "safetensors": {"pipeline.train.checkpoint"},
    "tokenizers": {"pipeline.corpus", "stages.tokens"},  # read back, made
    "fastokens": {"stages.tokens"},
    "fastwarc": {"stages.readers.http"},  # brotli
    "fasttext": {"stages.learning.classifier"},  # trains; the kernel reads, and is judged by it in tests
    "pycld2": {"stages.language"},
    "orjson": {"stages.readers.records", "stages.readers.rows"},
    "zstandard": {"stages.readers.compression"},
    "lz4": {"stages.readers.compression"},
    "isal": {"stages.readers.compression"},
    "trafilatura": {"stages.extract"},
}
"""One heavy dependency, one home."""


def modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for package in ("pipeline", "stages")
        for path in (ROOT / package).rglob("*.py")
    }


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def own(path: Path) -> set[str]:
    known = modules()
    return {name for name in imports(path) if name in known and name not in ("pipeline",)}


@pytest.mark.parametrize("name", sorted(name for name in modules() if name.startswith("pipeline.")))
def test_the_machine_imports_what_the_map_says(name: str) -> None:
    assert own(modules()[name]) - {"stages"} == MAP[name] - {"stages"}


def below(name: str) -> tuple[str, ...]:
    """What a module of the stages may import of the others."""
    if name.startswith("stages.kernels"):
        return ("stages.kernels",)
    if name.startswith(("stages.dedup", "stages.duplicates")):
        return ("stages.kernels", "stages.duplicates")
    if name.startswith("stages.shard"):
        return ("stages.kernels", "stages.sharding")
    if name.startswith(("stages.tokens", "stages.encoding")):
        return ("stages.kernels", "stages.encoding")
    if name.startswith("stages.extract"):
        return ("stages.kernels", "stages.extraction")
    if name.startswith("stages.learning"):
        return ("stages.kernels", "stages.models", "stages.readers", "stages.learning", "stages.tokens")
    if name.startswith("stages.models"):
        return ("stages.kernels", "stages.models")
    return ("stages.kernels", "stages.models", "stages.readers")


@pytest.mark.parametrize("name", sorted(name for name in modules() if name.startswith("stages")))
def test_stages_know_the_contract_and_their_kernels_only(name: str) -> None:
    more = {
        "stages.shards": {"pipeline.corpus", "pipeline.manifest"},
        "stages.learning.corpora": {"pipeline.rundir"},
    }
    allowed = STAGES_MAY | more.get(name, set())
    for imported in own(modules()[name]):
        if imported.startswith("pipeline"):
            assert imported in allowed
            assert not name.startswith("stages.kernels")
        else:
            assert imported == "stages" or imported.startswith(below(name)), f"{name} imports the stage {imported}"


@pytest.mark.parametrize("library", sorted(HOMES))
def test_one_heavy_dependency_one_home(library: str) -> None:
    users = {name for name, path in modules().items() if any(i.split(".")[0] == library for i in imports(path))}
    assert users == HOMES[library]


@pytest.mark.parametrize("name", sorted(name for name in modules() if name.startswith("stages.kernels.")))
def test_kernels_are_numba_and_numpy(name: str) -> None:
    foreign = {i.split(".")[0] for i in imports(modules()[name])} & {"pyarrow", "pandas", "ray", "pydantic"}
    assert not foreign


def test_a_run_never_imports_torch() -> None:
    """The trainer's commands import it when they are called; nothing that `run` imports does."""
    known = modules()
    graph = {name: own_at_the_top(path) & known.keys() for name, path in known.items()}
    reached, open_ = set(), {"pipeline.__main__", "pipeline.train.cli"}
    while open_:
        reached |= open_
        open_ = {other for name in open_ for other in graph[name]} - reached
    assert not reached & (HOMES["torch"] | HOMES["safetensors"])


def own_at_the_top(path: Path) -> set[str]:
    """What a module imports when it is imported itself."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_no_cycles() -> None:
    graph = {name: own(path) - {name} for name, path in modules().items()}  # a package may import its parts

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " > ".join((*above, name))
        for other in graph.get(name, ()):
            visit(other, (*above, name))

    for name in graph:
        visit(name, ())
