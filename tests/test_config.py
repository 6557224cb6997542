"""A configuration is wrong in one clear line: its place, its value, the likely meaning, before anything runs."""

import json
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from pipeline import config, plan

GOOD = """
name: t
stages:
  - collect: {paths: [in/*.txt]}
  - language: {keep: [en, no], min_score: 0.5}
"""


def complaint(tmp_path: Path, text: str, *overrides: str) -> str:
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(config.ConfigError) as caught:
        plan.make(config.load(path, list(overrides)))
    return str(caught.value).replace(str(tmp_path), "")


def test_norwegian_is_not_false(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(GOOD)
    assert config.load(path).steps[1].step.keep == ["en", "no"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("min_score", "min_scor", "/c.yaml:5: stages[1].language.min_scor: unknown key (value 0.5); did you mean"),
        ("language", "langauge", "/c.yaml:5: stages[1].langauge: there is no stage 'langauge'; did you mean 'la"),
        ("0.5", "high", "/c.yaml:5: stages[1].language.min_score: should be a valid number"),
        ("0.5", ".nan", "/c.yaml:5: stages[1].language.min_score: should be"),
        ("0.5}", ".5}\n  - classify: {models: {en: {builtin: en, min: -.inf}}}", "min: should be a finite number"),
        ("name: t", "nam: t", "/c.yaml: nam: unknown key (value 't'); did you mean 'name'?"),
        ("name: t", "name: a/b", "/c.yaml: name: should"),
        ("name: t", "name: t\nworkers: -1", "workers: should be greater than or equal to 0, not -1"),
        ("- language: {", "- language: [", "/c.yaml:5: not YAML"),
        ("- language: {keep: [en, no], min_score: 0.5}", "- 7", "stages[1]: expected one stage as 'name: {settings}'"),
        ("{keep: [en, no], min_score: 0.5}", "yes please", "settings must be a mapping"),
        ("- collect: {paths: [in/*.txt]}", "- pii: {}", "the first stage must be a source, as 'collect'"),
        ("- language: {keep: [en, no], min_score: 0.5}", "- quality: {}", "needs column 'lang', which no earlier"),
        ("- language: {keep: [en, no], min_score: 0.5}", "- keep: {column: date, by: null}", "of numbers, not string"),
        ("- language: {keep: [en, no], min_score: 0.5}", "- keep: {column: ofset, by: null}", "mean 'offset'?"),
        (
            "- language: {keep: [en, no], min_score: 0.5}",
            "- tokens: {train: {vocab_size: 300}}\n  - keep: {column: n_tokens, by: input_ids}",
            "nothing can be grouped by column 'input_ids', which is of list",
        ),
        ("[en, no]", "zh", "language.keep: should be a list, as [a, b], not 'zh'"),
        ("[en, no], min_score: 0.5}", "[en]}\n  - classify: {models: {Lang: {builtin: en}}}", "should match pattern"),
        ("- language: {keep: [en, no], min_score: 0.5}", "- extract: {}\n  - extract: {}", "twice"),
        ("- language: {keep: [en, no], min_score: 0.5}", "- tokens: {train: {vocab_siz: 9}}", "mean 'vocab_size'?"),
        ("- language: {keep: [en, no], min_score: 0.5}", "- tokens: {}", "give either tokenizer: PATH or train:"),
        ("- language: {keep: [en, no], min_score: 0.5}", "- tokens: {tokenizer: no.json}", "no such file: no.json"),
        (
            "- language: {keep: [en, no], min_score: 0.5}",
            "- tokens: {tokenizer: x, train: {vocab_size: 300}}",
            "both are given, so set one to null",
        ),
        ("in/*.txt", "in/*.text", "in/*.text"),
    ],
)
def test_mistakes_are_explained(tmp_path: Path, monkeypatch, old: str, new: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("a text")
    assert old in GOOD
    assert said in complaint(tmp_path, GOOD.replace(old, new))


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    lines = complaint(tmp_path, GOOD.replace("min_score", "min_scor").replace("paths", "path")).splitlines()
    assert len(lines) == 3  # paths is missing, path and min_scor are unknown


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("language.min_score", "expected stage.key=value"),
        ("langage.min_score=1", "stage 'langage' is not in this configuration; did you mean 'language'?"),
        ("language.min_scor=1", "unknown key (value 1); did you mean 'min_score'?"),
        ("language.min_score=[", "--set language.min_score=[:1: not YAML"),
    ],
)
def test_overrides_are_checked(tmp_path: Path, override: str, said: str) -> None:
    assert said in complaint(tmp_path, GOOD, override)


def test_overrides_reach_every_depth(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(GOOD + "  - tokens: {train: {vocab_size: 300}}\n  - pii\n")
    loaded = config.load(path, ["tokens.train.vocab_size=512", "pii.ip=false", "workers=3", "language.keep=[zh]"])
    assert loaded.steps[2].step.train.vocab_size == 512
    assert loaded.steps[3].step.ip is False
    assert loaded.workers == 3
    assert loaded.steps[1].step.keep == ["zh"]


@given(st.text(max_size=200))
def test_no_text_breaks_the_loader(tmp_path_factory, text: str) -> None:
    path = tmp_path_factory.mktemp("c") / "c.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(config.ConfigError):
        config.load(path)


RUNS = sorted(path for path in (ROOT / "configs").glob("*.yaml") if not path.name.startswith("gpt_"))
"""Configurations of runs; gpt_* are recipes of the trainer."""


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.name)
def test_shipped_configurations_are_good_and_point_editors_at_the_schema(path: Path) -> None:
    loaded = config.load(path)
    assert path.read_text(encoding="utf-8").startswith("# yaml-language-server: $schema=schema.json\n")
    again = path.parent / "again.yaml"
    assert config.check(config.YAML(typ="safe", pure=True).load(config.dump(loaded)), str(again)) == loaded


def test_the_schema_beside_the_configurations_is_fresh() -> None:
    shipped = json.loads((ROOT / "configs/schema.json").read_text(encoding="utf-8"))
    now = json.loads(json.dumps(config.json_schema()))
    assert shipped == now, "run: python -m pipeline schema > configs/schema.json"


def test_the_schema_knows_every_stage_and_key() -> None:
    schema = config.json_schema()
    for name in config.step_names():
        assert set(schema["$defs"][name]["properties"]) == set(config.step_class(name).model_fields)
