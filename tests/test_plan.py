"""What the result of a stage depends on: every file that its settings name, wherever the setting is."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import BaseModel, Field

from pipeline import plan as plans
from pipeline.config import NamedStep
from pipeline.stage import Stage


class Lists(BaseModel):
    names: dict[str, Path] = Field({})


class Blocking(Stage):
    words: Path | None = None
    more: list[Path] = Field([])
    pairs: tuple[tuple[str, Path], ...] = ()
    unordered: frozenset[Path] = frozenset()
    nested: Lists = Lists()
    label: str = ""

    def apply(self, docs: pa.Table) -> pa.Table:
        return docs


class Chosen(Blocking):
    """Names one file of a folder among its settings."""

    def files(self) -> list[Path]:
        return [self.words / "manifest.json"] if self.words else []


def identity(step: Stage) -> list[object]:
    return plans._identity(NamedStep("blocking", step))


@pytest.mark.parametrize(
    "settings",
    [
        lambda path: {"words": path},
        lambda path: {"more": [path]},
        lambda path: {"pairs": [("a", path)]},
        lambda path: {"unordered": [path]},
        lambda path: {"nested": {"names": {"a": path}}},
    ],
    ids=["field", "list", "tuple", "set", "nested"],
)
def test_the_content_of_a_path_setting_is_part_of_the_fingerprint(tmp_path: Path, settings: Any) -> None:
    path = tmp_path / "words.txt"
    path.write_text("ferry\n")
    step = Blocking(**settings(path))
    before = identity(step)
    assert plans.input_files(step) == [path]
    path.write_text("lens\n")
    assert identity(step) != before
    path.write_text("ferry\n")
    assert identity(step) == before


def test_a_folder_among_the_settings_stands_for_all_files_below_it(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_text("a")
    before = identity(Blocking(words=tmp_path))
    (tmp_path / "deep/b.txt").write_text("b")
    assert identity(Blocking(words=tmp_path)) != before
    assert plans.input_files(Blocking(words=tmp_path)) == [tmp_path / "a.txt", tmp_path / "deep/b.txt"]


def test_a_stage_that_names_files_of_a_folder_is_asked_for_those_alone(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "huge.bin").write_text("huge")
    assert plans.input_files(Chosen(words=tmp_path)) == [tmp_path / "manifest.json"]


def test_text_that_looks_like_a_path_is_no_input(tmp_path: Path) -> None:
    assert plans.input_files(Blocking(label=str(tmp_path))) == []
