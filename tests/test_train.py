"""The trainer: it learns, resumes to the bit, is the same on any number of ranks, and its model is Hugging Face's.

Needs the `train` extra; skipped where torch is not installed.
"""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import train_corpus

from pipeline import corpus, storage
from pipeline.train import identity
from pipeline.train.recipe import DataSpec, LoopSpec, Mix, ModelSpec, Recipe, Refused

torch = pytest.importorskip("torch")

from pipeline.train import checkpoint, evaluate, loop, optim, report  # noqa: E402 - after the skip
from pipeline.train.model import GPT, attend, attend_flex, sample  # noqa: E402

TINY = ModelSpec(layers=2, heads=4, kv_heads=2, width=32, context=32)
FORMS = [
    TINY,
    ModelSpec(layers=2, heads=4, width=32, context=32, activation="gelu"),
    ModelSpec(layers=2, heads=4, kv_heads=2, width=32, context=32, qk_norm=True),
    ModelSpec(form="gpt2", layers=2, heads=4, width=32, context=32),
]
STREAM = DataSpec()
LOOP = LoopSpec(steps=20, batch=8, threads=1, lr=1e-2, log_every=5, save_every=5, keep=9)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> corpus.Corpus:
    sources = [("a", "b")[i % 2] for i in range(100)]
    folder = tmp_path_factory.mktemp("train") / "corpus"
    return train_corpus.write(folder, train_corpus.words(90), train_corpus.words(10, 2), source=sources)


def recipe(opened: corpus.Corpus, model: ModelSpec = TINY, data: DataSpec = STREAM, **changed) -> Recipe:
    return Recipe(name="t", corpus=opened.folder, model=model, data=data,
                  train=LOOP.model_copy(update=changed))  # fmt: skip


def quiet(line: str) -> None:
    pass


def weights(folder: Path) -> dict[str, "torch.Tensor"]:
    from safetensors.torch import load_file

    return load_file(checkpoint.latest(folder) / "model.safetensors")


def difference(one: Path, other: Path) -> float:
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys()
    return max(float((mine[name] - theirs[name]).abs().max()) for name in mine)


def within(what: str, found: float, limit: float) -> None:
    """`pytest -rP` shows the figure beside its limit."""
    print(f"{what}: {float(found):.2g} (limit {limit:g})")
    assert found <= limit, what


def test_it_learns(small: corpus.Corpus, tmp_path: Path) -> None:
    done = loop.train(recipe(small, steps=150, save_every=0, lr=2e-2), small, tmp_path / "run", quiet)
    ids = np.concatenate([text.ids for text in evaluate.texts(small)])
    share = np.bincount(ids)[np.bincount(ids) > 0] / len(ids)
    assert done["held_out"]["loss"] < -(share * np.log(share)).sum() - 0.25  # the entropy of single bytes
    trained, held = loop.read_log(tmp_path / "run")
    assert trained[-1][1] < trained[0][1] - 1
    assert held[-1][0] == 150
    assert "<polyline" in (tmp_path / "run/curve.svg").read_text()


@pytest.mark.parametrize("spec", FORMS, ids=lambda spec: f"{spec.form}-{spec.activation}-{spec.qk_norm}")
def test_one_batch_overfits(spec: ModelSpec) -> None:
    torch.manual_seed(1)
    torch.set_num_threads(1)
    model = GPT(spec, 257)
    ids = torch.randint(0, 257, (4, 33))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, fused=True)
    for _ in range(120):
        loss = model(ids[:, :-1], ids[:, 1:]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    within("loss of one batch", loss.item(), 0.05)


@pytest.mark.parametrize("spec", FORMS, ids=lambda spec: f"{spec.form}-{spec.activation}-{spec.qk_norm}")
def test_transformers_loads_a_checkpoint_and_gives_our_logits(
    small: corpus.Corpus, tmp_path: Path, spec: ModelSpec
) -> None:
    transformers = pytest.importorskip("transformers")
    loop.train(recipe(small, spec, steps=5), small, tmp_path, quiet)
    path = checkpoint.latest(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path).eval()
    ours, _ = checkpoint.load(path)
    ids = torch.randint(0, 257, (3, 32))
    with torch.no_grad():
        within("logits, ours and transformers'", (theirs(ids).logits - ours(ids)).abs().max(), 1e-5)
    text = "a text, and 中文"
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    assert tokenizer(text)["input_ids"] == small.tokenizer.encode(text).ids
    assert tokenizer.eos_token_id == train_corpus.EOS


def test_the_saved_form_turns_back(tmp_path: Path) -> None:
    for spec in FORMS:
        model = GPT(spec, 99)
        state = model.state_dict()
        back = checkpoint.from_hf(spec, checkpoint.to_hf(spec, state))
        assert back.keys() == state.keys()
        assert all(torch.equal(back[name], state[name]) for name in state)


@pytest.mark.parametrize(("optimizer", "data"), [
    ("adamw", DataSpec()), ("muon", DataSpec(pack="bestfit", mask="document")),
    ("adamw", DataSpec(mix=Mix(weights={"a": 3, "b": 1}))),
])  # fmt: skip
def test_resume_is_exact(small: corpus.Corpus, tmp_path: Path, optimizer: str, data: DataSpec) -> None:
    asked = recipe(small, data=data, optimizer=optimizer)
    loop.train(asked, small, tmp_path / "whole", quiet)
    loop.train(asked, small, tmp_path / "parts", quiet)
    for path in checkpoint.found(tmp_path / "parts")[2:]:  # as if killed after step 10
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    (tmp_path / "parts/summary.json").unlink()
    said: list[str] = []
    loop.train(asked, small, tmp_path / "parts", said.append)
    assert any("goes on after step 10" in line for line in said)
    within("parameters after resuming", difference(tmp_path / "whole", tmp_path / "parts"), 0.0)
    rows = [loop.read_rows(tmp_path / name, 8) for name in ("whole", "parts")]
    assert rows[0].shape == (20, 8)
    assert np.array_equal(*rows)
    logs = [loop.read_log(tmp_path / name) for name in ("whole", "parts")]
    assert logs[0] == logs[1]


@pytest.mark.parametrize(("change", "said"), [
    ({"batch": 10_000}, "fewer than a batch"), ({"micro_batch": 3}, "do not divide by 3"),
])  # fmt: skip
def test_what_cannot_start_is_refused(small: corpus.Corpus, tmp_path: Path, change: dict, said: str) -> None:
    with pytest.raises(Refused, match=said):
        loop.train(recipe(small, **change), small, tmp_path, quiet)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


MIX = Mix(weights={"a": 3, "b": 1})


@pytest.mark.parametrize(("first", "then", "said"), [
    ({}, {"lr": 0.5}, r"train\.lr was 0\.01 and is now 0\.5;"),
    ({}, {"optimizer": "muon"}, r'train\.muon_lr was not recorded .*train\.optimizer was "adamw" and is now "muon"'),
    ({}, {"seed": 9, "weight_decay": 0.5}, r"train\.seed was 1 and is now 9; train\.weight_decay was 0\.1 and"),
    ({}, {"precision": "bf16"}, r'train\.precision was "fp32" and is now "bf16"'),
    ({}, {"batch": 16}, r"train\.batch was 8 and is now 16"),
    ({}, {"betas": (0.9, 0.99)}, r"train\.betas was \[0\.9, 0\.95\]"),
    ({}, {"clip": 2.0, "warmup": 0.1, "decay": 0.1, "floor": 0.1}, "clip.*decay.*floor.*warmup"),
    ({}, {"eval_tokens": 50}, "train.eval_tokens"),
    ({}, {"steps": 4}, r"train\.steps was 5 and is now 4 \(train\.steps may only grow"),
    ({}, {"model": TINY.model_copy(update={"layers": 3})}, r"model\.layers was 2 and is now 3"),
    ({}, {"data": DataSpec(seed=9)}, r"data\.seed was 1 and is now 9"),
    ({}, {"data": DataSpec(pack="bestfit")}, "data.pack"),
    ({"data": DataSpec(mix=MIX)}, {"data": DataSpec(mix=Mix(weights={"a": 1, "b": 1}))}, r"data\.mix was \{"),
    ({"data": DataSpec(mix=MIX)}, {"data": DataSpec(mix=MIX), "steps": 9}, "with data.mix it may not change"),
])  # fmt: skip
def test_another_recipe_is_refused_and_nothing_changes(
    small: corpus.Corpus, tmp_path: Path, first: dict, then: dict, said: str
) -> None:
    """Over a finished run, over one that can go on, and over one that was killed before its first checkpoint."""
    loop.train(recipe(small, **{"steps": 5, **first}), small, tmp_path, quiet)
    for gone in ([], ["summary.json"], ["step-5"]):
        for name in gone:
            path = tmp_path / name
            path.rename(tmp_path / "elsewhere") if path.is_dir() else path.unlink()
        before = files(tmp_path)
        with pytest.raises(Refused, match=f"is of another recipe: .*{said}") as refused:
            loop.train(recipe(small, **{"steps": 5, **then}), small, tmp_path, quiet)
        assert "give another --out, or remove the folder" in str(refused.value)
        assert "\n" not in str(refused.value)
        assert files(tmp_path) == before


def test_another_corpus_under_the_same_path_is_refused(tmp_path: Path) -> None:
    opened = train_corpus.write(tmp_path / "c", train_corpus.words(60))
    loop.train(recipe(opened, steps=5), opened, tmp_path / "run", quiet)
    (tmp_path / "c").rename(tmp_path / "old")
    opened = train_corpus.write(tmp_path / "c", train_corpus.words(60, 5))
    with pytest.raises(Refused, match=r"corpus manifest was .* and is now"):
        loop.train(recipe(opened, steps=5), opened, tmp_path / "run", quiet)


def test_what_may_change_changes_nothing_but_that(small: corpus.Corpus, tmp_path: Path) -> None:
    """Every key of the two lists has another value in the second call, and the run goes on to the same end."""
    begun = recipe(small, steps=20, save_every=10)
    loop.train(begun, small, tmp_path / "whole", quiet)
    loop.train(begun, small, tmp_path / "run", quiet)
    remove(tmp_path / "run/step-20")
    (tmp_path / "run/summary.json").unlink()
    changed = {"log_every": 3, "eval_every": 7, "save_every": 4, "keep": 1, "spike": 9.0, "tensorboard": False,
               "threads": 2, "micro_batch": 2, "recompute": True, "compile": "off", "parallel": "fsdp",
               "device": "cpu"}  # fmt: skip
    assert {f"train.{name}" for name in changed} | {"name", "corpus"} == set(identity.FREE) | set(identity.ROUNDING)
    said: list[str] = []
    loop.train(recipe(small, steps=20, **changed), small, tmp_path / "run", said.append)
    assert any("goes on after step 10" in line for line in said)
    assert difference(tmp_path / "whole", tmp_path / "run") < 1e-3


def test_the_documentation_lists_what_may_change() -> None:
    text = (Path(__file__).parent.parent / "docs/training.md").read_text(encoding="utf-8")
    table = text.split("What may change between two calls:")[1].split("\n\n")[1]
    keys = [name for line in table.splitlines() for name in re.findall("`([a-z_.]+)`", line.split("|")[1])]
    assert sorted(keys) == sorted([*identity.FREE, *identity.ROUNDING, identity.STEPS])


def test_more_steps_go_on_and_say_so(small: corpus.Corpus, tmp_path: Path) -> None:
    first = loop.train(recipe(small, steps=5), small, tmp_path, quiet)
    said: list[str] = []
    done = loop.train(recipe(small, steps=10), small, tmp_path, said.append)
    assert (done["steps"], done["schedules"]) == (10, [[0, 5], [5, 10]])
    assert any("followed a schedule of 5 steps up to step 5" in line for line in said)
    assert done["recipe_digest"] != first["recipe_digest"]
    assert storage.read_json(tmp_path / "summary.json")["held_out"] == done["held_out"]


def test_a_run_killed_before_its_first_checkpoint_begins_anew(small: corpus.Corpus, tmp_path: Path) -> None:
    """What it had logged is gone: `trace` reads losses by their place in a file."""
    loop.train(recipe(small), small, tmp_path / "whole", quiet)
    loop.train(recipe(small, save_every=0), small, tmp_path / "run", quiet)
    remove(tmp_path / "run/step-20")
    (tmp_path / "run/summary.json").unlink()
    loop.train(recipe(small), small, tmp_path / "run", quiet)
    assert np.array_equal(*(loop.read_rows(tmp_path / name, 8) for name in ("whole", "run")))
    assert loop.read_log(tmp_path / "whole") == loop.read_log(tmp_path / "run")


@pytest.mark.parametrize("how", ["missing", "damaged", "of fewer steps"])
def test_a_lost_summary_is_written_again(small: corpus.Corpus, tmp_path: Path, how: str) -> None:
    done = loop.train(recipe(small, steps=5), small, tmp_path, quiet)
    if how == "of fewer steps":
        older = (tmp_path / "summary.json").read_bytes()
        done = loop.train(recipe(small, steps=10), small, tmp_path, quiet)
        (tmp_path / "summary.json").write_bytes(older)
    elif how == "damaged":
        (tmp_path / "summary.json").write_text('{"steps": ')
    else:
        (tmp_path / "summary.json").unlink()
    said: list[str] = []
    again = loop.train(recipe(small, steps=done["steps"]), small, tmp_path, said.append)
    assert again["held_out"] == done["held_out"] == storage.read_json(tmp_path / "summary.json")["held_out"]
    assert again["held_out"]["tokens"] > 0
    assert any("summary.json: is damaged" in line for line in said) == (how == "damaged")


def remove(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


@pytest.mark.parametrize("name", ["model.safetensors", "optim.safetensors", "state.json", "tokenizer.json"])
@pytest.mark.parametrize("how", ["cut", "flipped", "gone"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    small: corpus.Corpus, tmp_path: Path, name: str, how: str
) -> None:
    asked = recipe(small, steps=10, keep=1)
    loop.train(recipe(small, steps=10), small, tmp_path / "whole", quiet)
    loop.train(recipe(small, steps=10), small, tmp_path / "run", quiet)
    path = tmp_path / "run/step-10" / name
    data = path.read_bytes()
    middle = len(data) // 2
    damaged = data[:middle] if how == "cut" else data[:middle] + bytes([data[middle] ^ 0x80]) + data[middle + 1 :]
    path.unlink() if how == "gone" else path.write_bytes(damaged)
    said: list[str] = []
    assert checkpoint.latest(tmp_path / "run", said.append).name == "step-5"
    assert f"step-10/{name}: is " in said[0]
    assert said[0].endswith("step-5 is taken instead")
    loop.train(asked, small, tmp_path / "run", said.append)
    assert any("goes on after step 5" in line for line in said)
    assert difference(tmp_path / "whole", tmp_path / "run") == 0
    assert [path.name for path in checkpoint.found(tmp_path / "run")] == ["step-10"]
    assert (tmp_path / "run/damaged-step-10").exists()
    (tmp_path / "run/step-10/model.safetensors").write_bytes(b"")
    with pytest.raises(Refused, match=r"no checkpoint is whole .*step-10/model.safetensors: is damaged"):
        loop.train(asked, small, tmp_path / "run", quiet)


def test_a_checkpoint_without_checksums_is_named_as_well(small: corpus.Corpus, tmp_path: Path) -> None:
    """The files of a folder that somebody put together."""
    loop.train(recipe(small, steps=5), small, tmp_path, quiet)
    path = tmp_path / "step-5"
    state = storage.read_json(path / "state.json")
    storage.write_json(path / "state.json", {**state, "files": {}, "model": {**state["model"], "layers": 3}})
    with pytest.raises(Refused, match=r"model\.safetensors: is damaged, it lacks"):
        checkpoint.load(path)
    storage.write_json(path / "state.json", {**state, "files": {}, "vocabulary": 9})
    with pytest.raises(Refused, match=r"model\.safetensors: is damaged, or not of the model"):
        checkpoint.load(path)
    storage.write_json(path / "state.json", {**state, "files": {}, "model": {"layers": "many"}})
    with pytest.raises(Refused, match=r"state\.json: is damaged, its model is none"):
        checkpoint.load(path)
    (path / "model.safetensors").write_bytes(b"{}")
    storage.write_json(path / "state.json", {**state, "files": {}})
    with pytest.raises(Refused, match=r"model\.safetensors: is damaged: "):
        checkpoint.load(path)


def test_a_checkpoint_of_an_earlier_version_is_not_gone_on_from(small: corpus.Corpus, tmp_path: Path) -> None:
    loop.train(recipe(small, steps=5), small, tmp_path, quiet)
    state = storage.read_json(tmp_path / "step-5/state.json")
    del state["identity"]
    storage.write_json(tmp_path / "step-5/state.json", state)
    with pytest.raises(Refused, match="an earlier version of the trainer and lacks identity"):
        loop.train(recipe(small, steps=5), small, tmp_path, quiet)


@pytest.mark.parametrize("limit", [20_000, 100_000])
def test_a_full_disk_is_told_and_the_run_goes_on_later(small: corpus.Corpus, tmp_path: Path, limit: int) -> None:
    """A limit on the size of files, as on a full disk: parameters do not fit, or they do and moments do not."""
    asked = recipe(small, steps=10)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(checkpoint.NotSaved, match=r"step-5: the checkpoint could not be saved: .*; there is no"):
            loop.train(asked, small, tmp_path / "run", quiet)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not [path for path in (tmp_path / "run").iterdir() if "step-" in path.name]
    loop.train(asked, small, tmp_path / "run", quiet)
    loop.train(asked, small, tmp_path / "whole", quiet)
    assert difference(tmp_path / "whole", tmp_path / "run") == 0


def test_a_save_that_reads_back_otherwise_leaves_the_last_one(
    small: corpus.Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop.train(recipe(small, steps=5, keep=1), small, tmp_path, quiet)
    saved = checkpoint.save_file

    def spoil(tensors: dict, path: Path, metadata: dict) -> None:
        saved(tensors, path, metadata)
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)

    monkeypatch.setattr(checkpoint, "save_file", spoil)
    with pytest.raises(checkpoint.NotSaved, match="reads back other than it was written; step-5 stands"):
        loop.train(recipe(small, steps=10, keep=1), small, tmp_path, quiet)
    assert [path.name for path in checkpoint.found(tmp_path)] == ["step-5"]
    assert checkpoint.damage(tmp_path / "step-5") is None


def test_two_at_once_in_one_folder_are_refused(small: corpus.Corpus, tmp_path: Path) -> None:
    with storage.lock(tmp_path), pytest.raises(storage.Locked, match="another run holds it"):
        loop.train(recipe(small), small, tmp_path, quiet)


def test_damaged_logs_are_named_and_lost_losses_are_no_zeros(small: corpus.Corpus, tmp_path: Path) -> None:
    asked = recipe(small, steps=10)
    loop.train(asked, small, tmp_path, quiet)
    remove(tmp_path / "step-10")
    (tmp_path / "summary.json").unlink()
    rows = (tmp_path / "rows.f32").read_bytes()
    (tmp_path / "rows.f32").write_bytes(rows[: 4 * 8 * 3 + 6])
    log = tmp_path / "log.jsonl"
    lines = log.read_bytes()
    log.write_bytes(lines + b'{"step": 1')  # the kill came in the middle of a line
    loop.train(asked, small, tmp_path, quiet)
    found = loop.read_rows(tmp_path, 8)
    assert np.isnan(found).any(1).tolist() == [False] * 3 + [True] * 2 + [False] * 5
    assert report.behind(asked, small, tmp_path, 5)[0]["loss"] is None
    assert len(strict(log)) == len(lines.splitlines())
    log.write_bytes(b"[]\n" + lines)
    with pytest.raises(Refused, match=r"log\.jsonl, line 1: is damaged"):
        loop.read_log(tmp_path)
    log.write_bytes('{"step": 1, "of": "a\u2028b\u0085"}\n'.encode())
    assert len(loop.read_entries(tmp_path)) == 1


def test_a_finished_run_has_nothing_to_do(small: corpus.Corpus, tmp_path: Path) -> None:
    done = loop.train(recipe(small, steps=5), small, tmp_path, quiet)
    said: list[str] = []
    assert loop.train(recipe(small, steps=5), small, tmp_path, said.append)["held_out"] == done["held_out"]
    assert "nothing to do" in said[0]


def test_only_the_newest_checkpoints_stay(small: corpus.Corpus, tmp_path: Path) -> None:
    loop.train(recipe(small, keep=2), small, tmp_path, quiet)
    assert [path.name for path in checkpoint.found(tmp_path)] == ["step-15", "step-20"]


def test_bf16_learns_as_fp32_does(small: corpus.Corpus, tmp_path: Path) -> None:
    losses = [loop.train(recipe(small, precision=p), small, tmp_path / p, quiet)["held_out"]["loss"]
              for p in ("fp32", "bf16")]  # fmt: skip
    assert losses[0] == pytest.approx(losses[1], abs=0.05)
    assert losses[0] != losses[1]


@pytest.mark.parametrize("change", [{"micro_batch": 2}, {"recompute": True}])
def test_accumulation_and_recomputation_change_nothing(small: corpus.Corpus, tmp_path: Path, change: dict) -> None:
    data = DataSpec(pack="bestfit", mask="document")
    loop.train(recipe(small, data=data, precision="fp64"), small, tmp_path / "one", quiet)
    loop.train(recipe(small, data=data, precision="fp64", **change), small, tmp_path / "other", quiet)
    within("parameters, float64", difference(tmp_path / "one", tmp_path / "other"), 1e-12)


SPAWN = """
import sys
from pathlib import Path
from pipeline import corpus
from pipeline.train import loop
from pipeline.train.recipe import Recipe
asked = Recipe.model_validate_json(Path(sys.argv[1]).read_text())
loop.train(asked, corpus.open(asked.corpus), Path(sys.argv[2]), lambda line: None)
"""


def start(asked: Recipe, tmp_path: Path, name: str, ranks: int = 1) -> list[subprocess.Popen]:
    path = tmp_path / f"{name}.json"
    path.write_text(asked.model_dump_json())
    env = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(29_500 + os.getpid() % 2000),
           "WORLD_SIZE": str(ranks), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}  # fmt: skip
    command = [sys.executable, "-c", SPAWN, str(path), str(tmp_path / name)]
    return [subprocess.Popen(command, env={**env, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE,
                             text=True) for rank in range(ranks)]  # fmt: skip


def finish(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        _, said = process.communicate(timeout=200)
        assert process.returncode == 0, said


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_are_one_process(small: corpus.Corpus, tmp_path: Path, parallel: str) -> None:
    data = DataSpec(pack="bestfit", mask="document")
    asked = recipe(small, data=data, precision="fp64", parallel=parallel, device="cpu", micro_batch=2)
    loop.train(asked, small, tmp_path / "one", quiet)
    finish(start(asked, tmp_path, "two", 2))
    within("parameters of 2 ranks and 1, float64", difference(tmp_path / "one", tmp_path / "two"), 1e-12)
    one, two = (loop.read_rows(tmp_path / name, 8) for name in ("one", "two"))
    assert np.abs(one - two).max() < 1e-6  # logged as float32
    for path in checkpoint.found(tmp_path / "two")[2:]:  # from 2 ranks to 1 in mid-run
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    (tmp_path / "two/summary.json").unlink()
    loop.train(asked, small, tmp_path / "two", quiet)
    within("parameters of 2 ranks and 1, float64", difference(tmp_path / "one", tmp_path / "two"), 1e-12)


@pytest.mark.slow
def test_sharded_ranks_go_on_from_a_checkpoint(small: corpus.Corpus, tmp_path: Path) -> None:
    asked = recipe(small, precision="fp64", parallel="fsdp", device="cpu")
    loop.train(asked, small, tmp_path / "one", quiet)
    finish(start(asked, tmp_path, "two", 2))
    for path in checkpoint.found(tmp_path / "two")[1:]:
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    (tmp_path / "two/summary.json").unlink()
    finish(start(asked, tmp_path, "two", 2))
    within("parameters of 2 ranks and 1, float64", difference(tmp_path / "one", tmp_path / "two"), 1e-12)


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_exactly(small: corpus.Corpus, tmp_path: Path) -> None:
    """kill -9 every few hundred milliseconds, with a save at every step: the end is that of an unbroken run."""
    asked = recipe(small, steps=120, save_every=1, keep=2)
    loop.train(asked, small, tmp_path / "whole", quiet)
    kills = 0
    for delay in (0.1, 0.25, 0.05, 0.33):
        process = start(asked, tmp_path, "killed")[0]
        before = checkpoint.found(tmp_path / "killed")
        deadline = time.time() + 60
        while checkpoint.found(tmp_path / "killed") == before and process.poll() is None and time.time() < deadline:
            time.sleep(0.01)
        time.sleep(delay)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
        for path in checkpoint.found(tmp_path / "killed"):
            checkpoint.load(path)
    assert kills >= 2
    finish(start(asked, tmp_path, "killed"))
    within("parameters after kill -9", difference(tmp_path / "whole", tmp_path / "killed"), 0.0)
    assert np.array_equal(*(loop.read_rows(tmp_path / name, 8) for name in ("whole", "killed")))


@pytest.mark.parametrize("spec", FORMS, ids=lambda spec: f"{spec.form}-{spec.activation}-{spec.qk_norm}")
def test_a_masked_row_is_each_document_alone(spec: ModelSpec) -> None:
    torch.manual_seed(1)
    model = GPT(spec, 50).double()
    ids = torch.randint(0, 50, (2, 30))
    documents = torch.tensor([[0] * 11 + [1] * 1 + [2] * 18, [0] * 30])
    together = model(ids, documents=documents)
    for row, low, high in ((0, 0, 11), (0, 11, 12), (0, 12, 30), (1, 0, 30)):
        alone = model(ids[row : row + 1, low:high])
        within("logits, masked and alone", (together[row, low:high] - alone[0]).abs().max().item(), 1e-12)


@pytest.mark.parametrize("documents", [None, (torch.arange(64)[None] // torch.tensor([[37], [50]])).int()])
def test_a_cpu_attends_in_float32_under_bf16(documents: "torch.Tensor | None") -> None:
    torch.manual_seed(1)
    q, k, v = (torch.randn(2, heads, 64, 16).bfloat16() for heads in (4, 2, 2))
    with torch.autocast("cpu", torch.bfloat16):
        found = attend(q, k, v, documents)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, attend(q.float(), k.float(), v.float(), documents).bfloat16())


def test_flex_attention_is_the_mask() -> None:
    torch.manual_seed(1)
    q, k, v = torch.randn(2, 4, 128, 16), torch.randn(2, 2, 128, 16), torch.randn(2, 2, 128, 16)
    documents = (torch.arange(128)[None] // torch.tensor([[37], [50]])).int()
    within("flex and mask", (attend_flex(q, k, v, documents) - attend(q, k, v, documents)).abs().max(), 1e-5)


@pytest.mark.parametrize("spec", FORMS, ids=lambda spec: f"{spec.form}-{spec.activation}-{spec.qk_norm}")
def test_the_cache_changes_no_choice(spec: ModelSpec) -> None:
    torch.manual_seed(1)
    model = GPT(spec, 50)
    made = list(sample(model, [1, 2, 3], 20, temperature=0))
    ids = [1, 2, 3]
    for _ in range(20):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    assert ids[3:] == made
    assert len(list(sample(model, [1], 100, temperature=1.0, top_k=5))) == 100  # beyond the context
    assert list(sample(model, list(range(49)), 3, temperature=0))  # a prompt longer than the context


def test_the_rate_rises_stays_and_falls() -> None:
    spec = LoopSpec(steps=100, warmup=0.1, decay=0.5, floor=0.1)
    rates = [optim.rate(spec, step) for step in range(100)]
    assert rates[0] == 0.1
    assert set(rates[9:50]) == {1.0}
    assert all(later < sooner for sooner, later in zip(rates[50:], rates[51:]))
    assert 0.1 < rates[-1] < 0.13


def test_muon_makes_updates_nearly_orthogonal() -> None:
    torch.manual_seed(1)
    for shape in ((64, 32), (32, 64)):
        values = torch.linalg.svdvals(optim.orthogonal(torch.randn(shape)))
        assert 0.6 < values.min() < values.max() < 1.3


def test_the_loss_of_each_token_and_bits_per_byte(small: corpus.Corpus, tmp_path: Path) -> None:
    loop.train(recipe(small, steps=20), small, tmp_path, quiet)
    model, _ = checkpoint.load(checkpoint.latest(tmp_path))
    documents = evaluate.texts(small)
    ids = np.concatenate([text.ids for text in documents])
    losses = evaluate.token_losses(model, ids, 32, train_corpus.EOS)
    stream = torch.tensor(np.concatenate([[train_corpus.EOS], ids]))
    with torch.no_grad():
        exact = model(stream[None, 64:96], stream[None, 65:97])[0].numpy()
    assert np.allclose(losses[64:96], exact, atol=1e-5)
    facts = evaluate.summary(documents, evaluate.score(model, documents, 32))
    texts = ids != train_corpus.EOS
    assert facts["bpb"] == pytest.approx(losses[texts].sum() / np.log(2) / texts.sum())
    assert facts["loss"] == pytest.approx(losses.mean())
    assert sum(part["bytes"] for part in facts["source"].values()) == facts["bytes"] == texts.sum()


def strict(path: Path) -> list[dict]:
    """The lines of a log, or a whole file, read as JSON is defined: without NaN and Infinity."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{path}: {word}")

    text = path.read_text()
    return [
        json.loads(part, parse_constant=refuse) for part in (text.splitlines() if path.suffix == ".jsonl" else [text])
    ]


def test_without_held_out_documents_it_says_so(tmp_path: Path) -> None:
    opened = train_corpus.write(tmp_path / "c", train_corpus.words(60))
    said: list[str] = []
    asked = recipe(opened, steps=10, eval_every=5)
    loop.train(asked, opened, tmp_path / "run", said.append)
    assert sum("no documents are held out" in line for line in said) == 1
    held = strict(tmp_path / "run/summary.json")[0]["held_out"]
    assert (held["loss"], held["bpb"], held["nats_per_byte"], held["documents"]) == (None, None, None, 0)
    assert all("val_loss" not in line for line in strict(tmp_path / "run/log.jsonl"))
    model, _ = checkpoint.load(checkpoint.latest(tmp_path / "run"))
    facts = report.examined(model, asked, opened, opened, None)
    json.dumps(facts, allow_nan=False)
    assert report.told(facts, 10).startswith("after step 10: no held-out documents, so nothing to judge by")


def test_a_loss_that_is_no_number_stops_the_run(small: corpus.Corpus, tmp_path: Path) -> None:
    """Within the first steps, too, its documents are traced; only those of the first such step."""
    with pytest.raises(Refused, match=r"step \d: the .* is nan; the newest checkpoint stands; try a lower rate"):
        loop.train(recipe(small, lr=1e30, clip=1e30, warmup=0), small, tmp_path, quiet)
    assert strict(tmp_path / "log.jsonl")[-1]["loss"] is None
    assert loop.read_log(tmp_path)[0] == []
    (path,) = (tmp_path / "spikes").glob("*.json")
    (record,) = strict(path)
    assert record["loss"] is None
    assert record["windows"][0]["documents"][0]["id"].startswith("train")


def test_a_gradient_that_is_no_number_is_not_saved(
    small: corpus.Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of the step is a number still, and the weights after it are not."""
    clip = loop.nn.utils.clip_grad_norm_

    def spoil(parameters: list, limit: float) -> "torch.Tensor":
        parameters = list(parameters)
        for parameter in parameters:
            parameter.grad.fill_(float("nan"))
        return clip(parameters, limit)

    monkeypatch.setattr(loop.nn.utils, "clip_grad_norm_", spoil)
    with pytest.raises(Refused, match="step 1: the norm of the gradient is nan"):
        loop.train(recipe(small, save_every=1), small, tmp_path, quiet)
    assert checkpoint.found(tmp_path) == []


def test_tensorboard(small: corpus.Corpus, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loop.train(recipe(small, tensorboard=True), small, tmp_path, quiet)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {"loss", "lr", "grad_norm", "tokens_per_s", "val_loss", "bpb"} <= set(events.Tags()["scalars"])
    trained, held = loop.read_log(tmp_path)
    assert [event.step for event in events.Scalars("loss")] == [step for step, _ in trained]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx([loss for _, loss in trained])
    assert [event.step for event in events.Scalars("val_loss")] == [held[0][0]]


def test_trace_tells_what_a_step_learned_from(small: corpus.Corpus, tmp_path: Path) -> None:
    asked = recipe(small, steps=10)
    loop.train(asked, small, tmp_path, quiet)
    windows = report.behind(asked, small, tmp_path, 7)
    rows = loop.read_rows(tmp_path, 8)[6]
    assert sorted(window["loss"] for window in windows) == sorted(rows.tolist())
    assert windows[0]["loss"] == rows.max()
    assert {window["sample"] for window in windows} == set(range(48, 56))
    assert windows[0]["documents"][0]["url"].startswith("http://train/")
    with pytest.raises(Refused, match="step 11"):
        report.behind(asked, small, tmp_path, 11)


def test_a_spike_writes_its_documents(tmp_path: Path) -> None:
    """One document of noise in a text of one word: the step that meets it is traced without being asked."""
    texts = ["ab " * 300] * 40
    texts[17] = "".join(chr(c) for c in np.random.default_rng(1).integers(33, 126, 900))
    opened = train_corpus.write(tmp_path / "c", texts)
    loop.train(recipe(opened, steps=140, batch=8, lr=3e-3), opened, tmp_path / "run", quiet)
    found = [json.loads(path.read_text()) for path in sorted((tmp_path / "run/spikes").glob("*.json"))]
    assert found
    assert "train17" in {document["id"] for document in found[0]["windows"][0]["documents"]}


def test_what_was_repeated_shows_in_the_gap(tmp_path: Path) -> None:
    texts = train_corpus.words(60) + train_corpus.words(3, 7) * 12
    opened = train_corpus.write(tmp_path / "c", texts, train_corpus.words(8, 2))
    assert list(evaluate.duplicates(opened).values()) == [12, 12, 12]
    asked = recipe(opened, steps=300, model=TINY.model_copy(update={"width": 64}), save_every=0)
    loop.train(asked, opened, tmp_path / "run", quiet)
    model, _ = checkpoint.load(checkpoint.latest(tmp_path / "run"))
    gap = evaluate.duplicate_gap(model, opened, 32)
    assert gap["gap"] > 0.1
    assert gap["copies"] == 36
    unique = train_corpus.write(tmp_path / "u", list(dict.fromkeys(texts)), train_corpus.words(8, 2))
    assert evaluate.duplicate_gap(model, unique, 32) is None


@pytest.mark.parametrize("masked", [False, True])
def test_sentences_together_are_sentences_alone(masked: bool) -> None:
    """Of one id, of a window, of more than one; in the order they were given."""
    torch.manual_seed(1)
    model = GPT(TINY, 257).eval()
    random = np.random.default_rng(1)
    sentences = [random.integers(0, 256, length) for length in (5, 1, 70, 32, 33, 5, 0, 64, 12)]
    found = evaluate.likelihoods(model, sentences, train_corpus.EOS, 32, masked)
    for ids, score in zip(sentences, found):
        alone = evaluate.token_losses(model, ids, 32, train_corpus.EOS, rows=1, masked=masked) if len(ids) else ids
        assert score == pytest.approx(-alone.sum(), abs=1e-3)


@pytest.mark.parametrize(
    "line", ["{", "[]", "7", '{"sentence_good": "a"}', '{"sentence_good": "", "sentence_bad": "b"}']
)
def test_a_line_that_is_no_pair_is_named(small: corpus.Corpus, tmp_path: Path, line: str) -> None:
    pair = json.dumps({"sentence_good": "a\u2028b", "sentence_bad": "c"}, ensure_ascii=False)
    (tmp_path / "p.jsonl").write_text(f"\ufeff{pair}\n\n{line}\n")
    model = GPT(TINY, 257).eval()
    with pytest.raises(Refused, match=r"p\.jsonl, line 3: expected a JSON object with"):
        evaluate.pairs(model, small.tokenizer, train_corpus.EOS, tmp_path, 32)
    assert evaluate.pairs(model, small.tokenizer, train_corpus.EOS, tmp_path, 32, most=1)["p"] in (0.0, 1.0)


def test_documents_that_were_learned_from_are_said(tmp_path: Path) -> None:
    own = train_corpus.write(tmp_path / "own", train_corpus.words(60), train_corpus.words(6, 2))
    judge = train_corpus.write(tmp_path / "judge", [], [*train_corpus.words(60)[:2], *train_corpus.words(3, 9)])
    asked = recipe(own, steps=5)
    loop.train(asked, own, tmp_path / "run", quiet)
    model, _ = checkpoint.load(checkpoint.latest(tmp_path / "run"))
    facts = report.examined(model, asked, own, judge, None)
    assert (facts["documents"], facts["in_training"]) == (5, 2)
    assert f"2 of these documents stand in the training corpus, too, so the figure is too good; the others take " \
           f"{facts['bpb_of_others']:.4f}" in report.told(facts, 5)  # fmt: skip
    assert report.examined(model, asked, own, own, None)["in_training"] == 0


def test_minimal_pairs(small: corpus.Corpus, tmp_path: Path) -> None:
    loop.train(recipe(small, steps=60, save_every=0), small, tmp_path / "run", quiet)
    model, _ = checkpoint.load(checkpoint.latest(tmp_path / "run"))
    text = train_corpus.words(90)[0]
    pair = {"sentence_good": text, "sentence_bad": text[::-1]}
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs/order.jsonl").write_text("\n".join([json.dumps(pair)] * 3))
    assert evaluate.pairs(model, small.tokenizer, train_corpus.EOS, tmp_path / "pairs", 32) == {"order": 1.0}
    with pytest.raises(Refused, match="with minimal pairs"):
        evaluate.pairs(model, small.tokenizer, train_corpus.EOS, tmp_path, 32)
