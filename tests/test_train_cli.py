"""The trainer's commands as a person types them, on the corpus that `python -m pipeline run` makes."""

import json
from pathlib import Path

import pytest
import train_corpus
import typer
from conftest import ROOT, Workshop
from typer.testing import CliRunner

from pipeline import config, corpus
from pipeline.train.cli import commands
from pipeline.train.recipe import Recipe

app = typer.Typer()
commands(app)


def typed(*args: str) -> str:
    done = CliRunner().invoke(app, list(args), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("gpt_*.yaml")), ids=lambda path: path.name)
def test_shipped_recipes_are_good(path: Path) -> None:
    assert config.load_as(Recipe, path).name


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("train.stepz=3", "train.stepz: unknown key"),
        ("train.steps=many", "train.steps: should be a valid integer"),
        ("model.heads=3", "width must be a multiple of heads"),
        ("steps", "expected part.key=value"),
        ("train.warmup=0.9", "warmup and decay together"),
    ],
)
def test_mistakes_are_explained(setting: str, said: str) -> None:
    with pytest.raises(config.ConfigError, match=said):
        config.load_as(Recipe, ROOT / "configs/gpt_tiny.yaml", [setting])


def test_settings_reach_the_recipe() -> None:
    recipe = config.load_as(Recipe, ROOT / "configs/gpt_tiny.yaml", ["train.steps=7", "data.mix={weights: {a: 1}}"])
    assert recipe.train.steps == 7
    assert recipe.data.mix.weights == {"a": 1.0}


@pytest.mark.parametrize("rates", ["", "1,x", "0", "1,,2", "-1"])
def test_rates_that_are_none_are_explained(rates: str) -> None:
    pytest.importorskip("torch")
    with pytest.raises(config.ConfigError, match="expected numbers above 0"):
        typed("compare", "a", "b", "--recipe", str(ROOT / "configs/gpt_compare.yaml"), "--lrs", rates)


def test_export_is_typed(tmp_path: Path) -> None:
    train_corpus.write(tmp_path / "c", train_corpus.words(5))
    assert "for nanogpt" in typed("export", str(tmp_path / "c"), "--to", "nanogpt")
    assert (tmp_path / "c-nanogpt/train.bin").exists()
    with pytest.raises(config.ConfigError, match="is not empty"):
        typed("export", str(tmp_path / "c"), "--to", "nanogpt")


def test_the_default_path_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`run`, then `train` (40 steps of it), eval, sample, trace: below the entropy of single tokens."""
    pytest.importorskip("torch")
    import numpy as np

    Workshop(tmp_path).run("run")
    monkeypatch.chdir(tmp_path)
    short = ["--set", "train.steps=40", "--set", "train.save_every=0"]
    assert "40 steps" in typed("train", "configs/gpt_tiny.yaml", *short)
    done = json.loads(Path("runs/gpt-tiny/summary.json").read_text())
    made = corpus.open("runs/tiny")
    share = np.bincount(made.shard_tokens(made.shards[0])) / made.shards[0].tokens
    held = np.concatenate([made.shard_tokens(shard) for shard in made.shards if shard.split == "val"])
    unigram = -np.log(np.maximum(share[held], 1e-6)).mean()  # the best that counting single tokens can do
    assert done["held_out"]["loss"] < unigram
    assert "nothing to do" in typed("train", "configs/gpt_tiny.yaml", *short)
    assert "duplicate gap: no document" in typed("eval", "gpt-tiny")
    assert json.loads(typed("eval", "gpt-tiny", "--json"))["bpb"] == pytest.approx(done["held_out"]["bpb"])
    assert typed("sample", "gpt-tiny", "--prompt", "The system", "-n", "20").startswith("The system")
    assert "http" in typed("trace", "gpt-tiny", "--step", "40")
    assert len(json.loads(typed("trace", "gpt-tiny", "--step", "1", "--json"))) == 8
    with pytest.raises(config.ConfigError, match="steps 1 to 40"):
        typed("trace", "gpt-tiny", "--step", "41")
    with pytest.raises(config.ConfigError, match="no training run there"):
        typed("sample", "nothing")
