"""The trainer's commands as a person types them, on the corpus that `python -m pipeline run` makes."""

import json
import re
from pathlib import Path

import pytest
import train_corpus
import typer
from conftest import ROOT, Workshop
from typer.testing import CliRunner

from pipeline import config, corpus
from pipeline.train import cli
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


@pytest.mark.parametrize("rates", ["", "1,x", "0", "1,,2", "-1", "nan", "inf"])
def test_rates_that_are_none_are_explained(rates: str) -> None:
    pytest.importorskip("torch")
    with pytest.raises(config.ConfigError, match="expected numbers above 0"):
        typed("compare", "a", "b", "--recipe", str(ROOT / "configs/gpt_compare.yaml"), "--lrs", rates)


def test_a_rate_given_twice_counts_once() -> None:
    assert cli._multiples("1,0.25,1.0") == (1.0, 0.25)


RECIPE = """
name: small
corpus: c
model: {layers: 1, heads: 2, kv_heads: 2, width: 16, context: 32}
train: {batch: 4, steps: 4, threads: 1, compile: "off", save_every: 2}
"""


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the corpus c and a run on it; its documents hold what steers a terminal."""
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    texts, held = train_corpus.words(60), train_corpus.words(4, 2)
    langs = ["\x1b[31men\x9b2J"] * 64
    train_corpus.write(tmp_path / "c", texts, held, lang=langs, source=["\x1b]0;s\x07"] * 64)
    (tmp_path / "small.yaml").write_text(RECIPE)
    typed("train", "small.yaml")
    return tmp_path


QUESTIONS = [["eval", "small"], ["eval", "small", "--json"], ["sample", "small"], ["trace", "small", "--step", "2"],
             ["trace", "small", "--step", "2", "--json"]]  # fmt: skip


@pytest.mark.parametrize("question", QUESTIONS, ids=" ".join)
def test_nothing_printed_steers_a_terminal(trained: Path, question: list[str]) -> None:
    said = typed(*question)
    assert not re.findall("[\x00-\x08\x0b-\x1f\x7f-\x9f]", said)
    if "--json" in question:
        assert question[0] == "trace" or "\x1b[31men\x9b2J" in json.loads(said)["lang"]


def test_sampled_controls_are_spelled_out(trained: Path) -> None:
    assert typed("sample", "small", "--prompt", "a\x1b[2Jb\x9bc\rd\te\nf").startswith("a\\x1b[2Jb\\x9bc\\rd\te\nf")


def test_another_recipe_in_a_used_folder_is_refused(trained: Path) -> None:
    before = (trained / "runs/small/recipe.json").read_bytes()
    with pytest.raises(config.ConfigError, match=r"train\.lr was 0\.003 and is now 0\.1; give another --out"):
        typed("train", "small.yaml", "--set", "train.lr=0.1")
    assert (trained / "runs/small/recipe.json").read_bytes() == before
    assert "nothing to do" in typed("train", "small.yaml", "--set", "train.log_every=3")


@pytest.mark.parametrize("question", QUESTIONS, ids=" ".join)
def test_a_corpus_that_is_another_by_now_is_refused(trained: Path, question: list[str]) -> None:
    (trained / "c").rename(trained / "old")
    train_corpus.write(trained / "c", train_corpus.words(60, 5), train_corpus.words(4, 2))
    with pytest.raises(config.ConfigError, match="c: is not the corpus that the run learned from"):
        typed(*question)


@pytest.mark.parametrize("question", QUESTIONS, ids=" ".join)
def test_of_a_corpus_that_grew_the_part_that_was_learned_from_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, question: list[str]
) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    train_corpus.write(tmp_path / "c/1", train_corpus.words(60), train_corpus.words(4, 2))
    (tmp_path / "c/LATEST").write_text("1\n")
    (tmp_path / "small.yaml").write_text(RECIPE)
    typed("train", "small.yaml")
    before = typed(*question)
    train_corpus.write(tmp_path / "c/2", train_corpus.words(9, 5), train_corpus.words(4, 6), parent=tmp_path / "c/1")
    (tmp_path / "c/LATEST").write_text("2\n")
    assert typed(*question) == before
    with pytest.raises(config.ConfigError, match="corpus manifest was"):
        typed("train", "small.yaml")


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b'{"name": "x"}'])
@pytest.mark.parametrize("question", QUESTIONS[2:4], ids=" ".join)
def test_damaged_records_are_named(trained: Path, content: bytes, question: list[str]) -> None:
    for name in ("recipe.json", "identity.json") if question[0] == "trace" else ("recipe.json",):
        path = trained / "runs/small" / name
        whole = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(config.ConfigError, match=f"runs/small/{name}: is damaged"):
            typed(*question)
        path.write_bytes(whole)


def test_eval_and_sample_take_the_checkpoint_before_a_damaged_one(trained: Path) -> None:
    path = trained / "runs/small/step-4/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    done = CliRunner().invoke(app, ["eval", "small"], catch_exceptions=False)
    assert "runs/small/step-4/model.safetensors: is damaged" in done.stderr
    assert done.stdout.startswith("after step 2: ")
    with pytest.raises(config.ConfigError, match="no checkpoint is whole"):
        typed("sample", "runs/small/step-4")


def test_eval_uses_the_threads_of_the_recipe(trained: Path) -> None:
    import torch

    torch.set_num_threads(2)
    typed("eval", "small")
    assert torch.get_num_threads() == 1


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
