"""The README runs: its Python is executed, its commands are typed, its stage is added, its map is the tree."""

import re
import shlex

import pandas as pd
import pytest
from conftest import ROOT, Workshop

from pipeline import config

DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*) ?(\S*)\n(.*?)^```$", README, re.M | re.S)


def blocks(language: str) -> list[str]:
    return [text for kind, name, text in BLOCKS if kind == language and not name]


def commands() -> list[str]:
    lines = [line.split("#")[0].strip() for text in blocks("bash") for line in text.splitlines()]
    return [line.removeprefix("python -m pipeline ") for line in lines if line.startswith("python -m pipeline ")]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    shop = Workshop(tmp_path_factory.mktemp("docs"))
    shop.run("run")
    return shop


def test_there_is_something_to_test() -> None:
    assert len(commands()) >= 7
    assert len(blocks("python")) == 2
    assert len(blocks("yaml")) == 1


@pytest.mark.parametrize("command", commands())
def test_every_command_works_as_written(shop: Workshop, command: str) -> None:
    if command.split()[0] in ("train", "sample"):
        pytest.importorskip("torch")
    shop.run(*shlex.split(command))


def test_the_python_runs(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shop.folder)
    names: dict = {}
    for block in blocks("python"):
        exec(block, names)
    run, made = names["run"], names["corpus"]
    assert len(names["ledger"]) == len(names["rejects"]) + len(names["texts"]) == run.ledger().count_rows()
    assert len(names["docs"]) == len(names["texts"]) == len(made) == run.documents().count_rows()
    assert made.text(0) == names["texts"].set_index("id").text[names["docs"].id[0]]
    assert len(names["tokens"]) == made.manifest["shards"][0]["tokens"]


def test_the_example_configuration_is_good() -> None:
    raw = config.YAML(typ="safe", pure=True).load(blocks("yaml")[0])
    assert len(config.check(raw, "README").steps) == 8


def test_a_stage_is_one_file_and_one_line(shop: Workshop) -> None:
    """It runs, rejects, is counted, resumes, and is contract-tested, with nothing else touched."""
    name, source = next((name, text) for kind, name, text in BLOCKS if kind == "python" and name)
    shop.write(name, source)
    recipe = (shop.folder / "configs/tiny.yaml").read_text(encoding="utf-8")
    shop.write("loud.yaml", recipe.replace("name: tiny", "name: loud").replace(
        "  - pii: {}", "  - shouting: {max_upper: 0.03}\n\n  - pii: {}"))  # fmt: skip
    said = shop.run("run", "loud.yaml")
    assert re.search(r"shouting +\d+ +\d+ .* shouting \d+", said)
    assert "0 tasks run" in shop.run("run", "loud.yaml")
    assert "limit 0.03" in shop.run("explain", "loud", _first_rejected(shop))
    assert "drop=shouting" in shop.run("show", "loud", "--rejected", "shouting", "-n", "1")
    assert "did you mean 'max_upper'?" in shop.run("run", "loud.yaml", "--set", "shouting.max_uper=1", code=2)
    assert "shouting" in shop.run("schema")
    shop.run("verify", "loud")
    tests = shop.folder / "tests"
    tests.mkdir()
    for file in ("conftest.py", "test_contract.py"):
        (tests / file).write_text((ROOT / "tests" / file).read_text(encoding="utf-8"), encoding="utf-8")
    done = shop.python("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_contract.py", "-k", "shouting")
    assert "2 passed" in done


def _first_rejected(shop: Workshop) -> str:
    ledger = pd.read_parquet(shop.folder / "runs/loud/ledger")
    return ledger[ledger.reason == "shouting"].id.iloc[0]


def test_the_codemap_is_the_tree() -> None:
    text = next(text for kind, _, text in BLOCKS if "__main__.py" in text and not kind)
    folder, named = "", set()
    for line in text.splitlines():
        name = line.split()[0]
        folder = name if not line.startswith(" ") else folder
        named.add(name if not line.startswith(" ") else folder + name)
    here = {f"{folder}/{path.name}" for folder in ("pipeline", "stages") for path in (ROOT / folder).glob("*.py")}
    assert here - {"pipeline/__init__.py", "stages/__init__.py"} <= named
    for name in named:
        assert (ROOT / name).exists(), name


def test_every_stage_is_in_the_readme_and_every_page_it_names_is_there() -> None:
    for name in config.step_names():
        assert f"{name}.py" in README
    for page in re.findall(r"(?:docs|configs|tests|stages|data_samples)/[\w./]+\.(?:md|yaml|json|py)", README):
        assert (ROOT / page).exists() or page == "stages/shouting.py", page


def test_the_answers_to_where_is_it_are_true() -> None:
    """Each answer of the form `file.py`: `name` names a function or class that the file defines."""
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    table = text.split("## Where is it?")[1].split("\n## ")[0]
    answers = re.findall(r"`([\w/]+\.py)`: ((?:`\w+`(?:, )?)+)", table)
    assert len(answers) > 30
    for file, names in answers:
        code = (ROOT / file).read_text(encoding="utf-8")
        for name in re.findall(r"\w+", names):
            assert re.search(rf"^ *(?:def|class) {name}\b", code, re.M), f"{file} does not define {name}"


def test_the_stages_in_the_guides_are_valid() -> None:
    text = (DOCS / "README.md").read_text(encoding="utf-8")
    lists = [block for block in re.findall(r"^```yaml\n(.*?)^```$", text, re.M | re.S) if block.startswith("  - ")]
    steps = [step for block in lists for entry in config.YAML(typ="safe").load(block) for step in entry.items()]
    assert len(steps) > 10
    for name, settings in steps:
        config.step_class(name)(**settings)


def test_every_page_is_in_the_index_and_every_link_leads_somewhere() -> None:
    pages = sorted(DOCS.glob("*.md"))
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    for page in pages:
        assert page.name == "README.md" or f"({page.name})" in index, f"docs/README.md does not list {page.name}"
        for link in re.findall(r"\]\(([^)#:]+)[^):]*\)", page.read_text(encoding="utf-8")):
            assert (DOCS / link).exists(), f"{page.name} links to {link}"
