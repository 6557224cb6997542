"""The installed package works from any folder, with a project's own stages; nothing in the folder hides its parts."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import typer
from conftest import ROOT, ROWS, Workshop

import pipeline
import stages
from pipeline import __main__ as commands
from pipeline import config, contract, project
from pipeline import plan as plans
from pipeline.config import ConfigError, NamedStep
from pipeline.schema import mark
from pipeline.stage import Stage

BANNED = """
"Drops documents with a banned word."
import pyarrow as pa
from pydantic import Field

from pipeline.schema import mark
from pipeline.stage import Stage
{imported}


class Banned(Stage):
    "Drops documents with a banned word."

    also: str = Field("", description="One more word.")

    def apply(self, docs: pa.Table) -> pa.Table:
        listed = [*WORDS, self.also] if self.also else WORDS
        return mark(docs, ["banned" if any(w in (t or "") for w in listed) else None for t in docs["text"].to_pylist()])
"""
OWN = {"name": "own", "workers": 0, "stages": [{"rows": {}}, {"banned": {}}]}


def project_in(folder: Path, imported: str = "from .words import WORDS", stages_path: object = None) -> Path:
    """A project with two stages of its own, a file that they share, three documents and a configuration."""
    own = folder / "ours"
    own.mkdir()
    (own / "rows.py").write_text(ROWS, encoding="utf-8")
    (own / "banned.py").write_text(BANNED.format(imported=imported), encoding="utf-8")
    (own / "words.py").write_text("WORDS = ['ferry']\n", encoding="utf-8")
    (folder / "in").mkdir()
    (folder / "in/a.txt").write_text("a ferry\na lens\na pier\n", encoding="utf-8")
    stated = OWN | ({"stages_path": stages_path} if stages_path else {})
    (folder / "own.yaml").write_text(json.dumps(stated), encoding="utf-8")
    return own


def call(folder: Path, *command: str, path: Path = ROOT, code: int = 0, **more: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(path), "COLUMNS": "160", **more}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, text=True, capture_output=True, timeout=300
    )
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch):
    """A process that has seen no project yet, as far as stages go."""
    monkeypatch.delenv(project.VARIABLE, raising=False)
    monkeypatch.setattr(stages, "__path__", list(stages.__path__))
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    plans._code.cache_clear()
    yield
    for name in set(sys.modules) - before:
        if project.is_own(Path(getattr(sys.modules[name], "__file__", None) or "")):
            del sys.modules[name]
            if name.startswith("stages."):
                delattr(stages, name.removeprefix("stages."))
    os.environ.pop(project.VARIABLE, None)
    plans._code.cache_clear()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, installed into a folder; built from a copy, so that nothing of an earlier build is in it."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    skipped = shutil.ignore_patterns("__pycache__")
    for folder in ("pipeline", "stages", "configs", "data_samples"):
        shutil.copytree(ROOT / folder, source / folder, symlinks=True, ignore=skipped)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source / file)
    pip = ("-m", "pip", "-q", "--disable-pip-version-check")
    call(source, *pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", "made", ".")
    wheel = next((source / "made").glob("gristmill-*.whl"))
    call(source, *pip, "install", "--no-deps", "--no-index", "--target", str(target), str(wheel))
    return target


def test_the_wheel_has_every_file_of_the_package(installed: Path) -> None:
    for folder in ("pipeline", "stages"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert (installed / path.relative_to(ROOT)).is_file(), path
    for folder in ("configs", "data_samples"):
        for path in (ROOT / folder).iterdir():
            assert (installed / "pipeline" / folder / path.name).read_bytes() == path.read_bytes()


def test_the_installed_package_runs_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    assert call(tmp_path, "-m", "pipeline", "--version", path=installed) == f"gristmill {pipeline.__version__}\n"
    said = call(tmp_path, "-m", "pipeline", "plan", path=installed)
    assert "tiny: 2 files" in said
    assert "-> runs/tiny" in said
    project_in(tmp_path)
    said = call(tmp_path, "-m", "pipeline", "run", "own.yaml", "--stages", "ours", "--out", "here", path=installed)
    assert "banned 1" in said
    assert (tmp_path / "here/report.json").is_file()


def test_the_command_does_not_see_folders_of_the_same_names(installed: Path, tmp_path: Path) -> None:
    project_in(tmp_path)
    for name in ("stages", "pipeline"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('a foreign package')\n", encoding="utf-8")
    said = call(tmp_path, str(installed / "bin/gristmill"), "run", "own.yaml", "--stages", "ours", path=installed)
    assert "banned 1" in said


def test_workers_of_ray_import_stages_of_a_project_and_no_foreign_ones(tmp_path: Path) -> None:
    project_in(tmp_path)
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/__init__.py").write_text("raise SystemExit('a foreign package')\n", encoding="utf-8")
    start = tmp_path / "bin/gristmill"
    start.parent.mkdir()
    start.write_text("from pipeline.__main__ import main\nmain()\n", encoding="utf-8")
    assert "banned 1" in call(tmp_path, str(start), "run", "own.yaml", "--stages", "ours", "--workers", "2")


@pytest.mark.parametrize("file", ["stages/__init__.py", "stages.py"])
def test_a_package_that_hides_the_stages_is_named(tmp_path: Path, file: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("", encoding="utf-8")
    said = call(tmp_path, "-m", "pipeline", "plan", code=2)
    assert f"{tmp_path / file} hides the stages of Gristmill" in said
    assert "`gristmill`" in said


def test_a_folder_named_stages_that_is_no_package_can_hold_stages_of_ones_own(tmp_path: Path) -> None:
    project_in(tmp_path).rename(tmp_path / "stages")
    assert "banned 1" in call(tmp_path, "-m", "pipeline", "run", "own.yaml", "--stages", "stages")


def test_a_folder_is_found_from_the_configuration_that_names_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    project_in(home, stages_path="ours")
    (home / "in").rename(tmp_path / "in")
    assert "banned 1" in call(tmp_path, "-m", "pipeline", "run", "home/own.yaml")
    assert "nothing to do" in call(tmp_path, "-m", "pipeline", "run", "runs/own/config.yaml")


@pytest.mark.parametrize(
    "imported", ["from .words import WORDS", "from stages.words import WORDS", "from words import WORDS",
                 "from . import words\nWORDS = words.WORDS"],
)  # fmt: skip
def test_a_change_in_a_file_that_a_stage_imports_runs_it_again(tmp_path: Path, imported: str, fresh: None) -> None:
    own = project_in(tmp_path, imported, ["ours"])
    before = plans.groups(config.load(tmp_path / "own.yaml"))[0].fingerprint
    plans._code.cache_clear()
    assert plans.groups(config.load(tmp_path / "own.yaml"))[0].fingerprint == before
    (own / "words.py").write_text("WORDS = ['lens']\n", encoding="utf-8")
    plans._code.cache_clear()
    assert plans.groups(config.load(tmp_path / "own.yaml"))[0].fingerprint != before


def test_the_configuration_of_a_run_names_the_folder_by_its_whole_path(tmp_path: Path, fresh: None) -> None:
    own = project_in(tmp_path, stages_path="ours")
    loaded = config.load(tmp_path / "own.yaml")
    assert loaded.stages_path == (str(own),)
    (tmp_path / "again.yaml").write_text(config.dump(loaded), encoding="utf-8")
    assert config.load(tmp_path / "again.yaml") == loaded


def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path, fresh: None) -> None:
    own = project_in(tmp_path, stages_path="ours")
    with pytest.raises(ConfigError, match=r"no such folder of stages: .*missing"):
        config.load(tmp_path / "own.yaml", own=[tmp_path / "missing"])
    clash = tmp_path / "clash"
    clash.mkdir()
    (clash / "collect.py").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"there is a 'collect' in .* already; give it another name"):
        config.load(tmp_path / "own.yaml", own=[clash])
    (own / "broken.py").write_text("import no_such_library\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"broken\.py cannot be imported: ModuleNotFoundError"):
        config.step_class("broken")
    with pytest.raises(ConfigError, match=r"words\.py must define exactly one stage class, it has 0"):
        config.step_class("words")


def test_stages_of_ones_own_are_in_the_schema_and_the_menu(tmp_path: Path) -> None:
    project_in(tmp_path)
    schema = json.loads(call(tmp_path, "-m", "pipeline", "schema", "--stages", "ours"))
    assert "also" in schema["$defs"]["banned"]["properties"]
    assert "words" not in schema["$defs"]
    menu = call(tmp_path, "-m", "pipeline", "stages", "--stages", "ours")
    assert "banned       stage    Drops documents with a banned word." in menu.replace("banned      ", "banned       ")
    assert "collect" in menu
    assert "words" not in [line.split()[0] for line in menu.splitlines()]


def test_every_example_in_the_help_is_a_command() -> None:
    for command in commands.app.registered_commands:
        name = command.name or command.callback.__name__
        if command.callback.__module__ == commands.__name__ and name != "warmup":
            example = re.search(r"For example: `(.+)`", command.callback.__doc__ or "")
            assert example, name
            words = shlex.split(example.group(1).partition(" > ")[0])
            assert words[0] == name
            typer.main.get_command(commands.app).commands[name].make_context(name, words[1:])


class _Points:
    """Entry points as an installed package would have them."""

    def __init__(self, **values: str) -> None:
        self.values = values

    def __call__(self, group: str) -> list[project.metadata.EntryPoint]:
        return [project.metadata.EntryPoint(name, value, group) for name, value in self.values.items()]


def test_installed_packages_offer_stages(tmp_path: Path, fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "offering").mkdir()
    (tmp_path / "offering/__init__.py").write_text("", encoding="utf-8")
    (tmp_path / "offering/parts.py").write_text("WORDS = ['ferry']\n", encoding="utf-8")
    source = BANNED.format(imported="from offering.parts import WORDS")
    (tmp_path / "offering/banned.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    points = _Points(banned="offering.banned", same="offering.banned:Banned", none="offering.parts", gone="offering.x")
    monkeypatch.setattr(project.metadata, "entry_points", points)
    assert {"banned", "same", "collect"} <= set(config.step_names())
    kind = config.step_class("banned")
    assert config.step_class("same") is kind
    assert any(line.startswith("offering.parts ") for line in plans._code(kind.__module__))
    with pytest.raises(ConfigError, match="'none', must be one stage class"):
        config.step_class("none")
    with pytest.raises(ConfigError, match=r"offering\.x cannot be imported"):
        config.step_class("gone")


def test_check_stage(tmp_path: Path) -> None:
    own = project_in(tmp_path)
    path = str(own / "banned.py")
    assert "banned: keeps the contract" in call(tmp_path, "-m", "pipeline", "check-stage", path)
    source = (own / "banned.py").read_text(encoding="utf-8")
    needy = source.replace('Field("", ', "Field(").replace('in (t or "")', "in t")
    (own / "banned.py").write_text(needy, encoding="utf-8")
    assert "also" in call(tmp_path, "-m", "pipeline", "check-stage", path, code=2)
    said = call(tmp_path, "-m", "pipeline", "check-stage", path, "--set", "also=lens", code=1)
    assert "banned: raises" in said
    assert "the text null" in said
    assert "no such file" in call(tmp_path, "-m", "pipeline", "check-stage", "nothing.py", code=2)


class Kept(Stage):
    """Keeps all."""

    def apply(self, docs: pa.Table) -> pa.Table:
        return mark(docs, [None] * len(docs))


class Fewer(Kept):
    """Removes rows itself."""

    def apply(self, docs: pa.Table) -> pa.Table:
        return docs.slice(0, len(docs) // 2)


class Turned(Kept):
    """Changes the order."""

    def apply(self, docs: pa.Table) -> pa.Table:
        return docs.take(list(range(len(docs)))[::-1])


class Undeclared(Kept):
    """Adds a column that it does not name."""

    def apply(self, docs: pa.Table) -> pa.Table:
        return docs.append_column("length", pa.array([0] * len(docs)))


class Missing(Kept):
    """Does not add what it names."""

    adds = {"length": pa.int64()}  # noqa: RUF012 - as stages do


class Batched(Kept):
    """Judges a document by its place in the batch."""

    def apply(self, docs: pa.Table) -> pa.Table:
        return mark(docs, ["first" if i == 0 else None for i in range(len(docs))])


class Forgetful(Kept):
    """Answers otherwise the second time."""

    def apply(self, docs: pa.Table) -> pa.Table:
        CALLS.append(0)
        return mark(docs, ["odd" if len(CALLS) % 2 else None] * len(docs))


class Unexplained(Kept):
    """Has a setting that nobody explains."""

    share: float = 0.5


class Emoji(Kept):
    """Cannot take a document of emoji."""

    def apply(self, docs: pa.Table) -> pa.Table:
        if "😀" in "".join(text or "" for text in docs["text"].to_pylist()):
            raise ValueError("no word")
        return docs


CALLS: list[int] = []


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Fewer, "rows went in and"),
        (Turned, "another order"),
        (Undeclared, "adds the column 'length', which `adds` does not name"),
        (Missing, "the column 'length' is missing"),
        (Batched, "depends on how documents are cut into batches"),
        (Forgetful, "another answer the second time"),
        (Unexplained, "the setting 'share' has no description"),
        (Emoji, "raises ValueError on the text '😀"),
    ],
)
def test_each_broken_rule_is_said(kind: type[Stage], said: str) -> None:
    assert any(said in line for line in contract.broken(NamedStep("one", kind())))
    assert contract.broken(NamedStep("one", Kept())) == []


def test_a_shipped_configuration_finds_its_files_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = dict(config.load(commands.DEFAULT).steps)["collect"].paths
    assert [Path(path).is_file() for path in paths] == [True, True]
    (tmp_path / "data_samples").mkdir()
    (tmp_path / "data_samples/sample.warc.gz").write_bytes(b"")
    assert dict(config.load(commands.DEFAULT).steps)["collect"].paths[0] == "data_samples/sample.warc.gz"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/tiny.yaml").write_text("name: mine\nstages: [collect: {paths: [x/y.txt]}]", encoding="utf-8")
    assert config.load(commands.DEFAULT).name == "mine"


def test_the_lines_of_commands_that_are_loaded_late_are_their_own() -> None:
    for name, one in commands.LEARNING.items():
        assert commands.learning(name).help.split("\n\n")[0] == one.line


@pytest.mark.parametrize("command", [["--help"], ["run", "--help"], ["status", "own"], ["--version"]])
def test_commands_that_only_tell_load_no_compiler_no_pandas_and_no_ray(workshop: Workshop, command: list[str]) -> None:
    if command[0] == "status":
        workshop.write("in/a.txt", "a\nb\n")
        workshop.write("own.yaml", json.dumps(OWN | {"stages": [{"rows": {}}]}))
        workshop.run("run", "own.yaml")
    code = f"""
        import sys
        from pipeline.__main__ import main
        sys.argv[1:] = {command}
        try:
            main()
        except SystemExit as end:
            assert not end.code, end.code
        heavy = {{"numba", "pandas", "ray", "torch", "pyarrow.dataset", "stages.kernels"}}
        print("loaded:", sorted(heavy & set(sys.modules)))
    """
    path = workshop.write("tell.py", "\n".join(line[8:] for line in code.splitlines()))
    assert "loaded: []" in workshop.python(str(path))
