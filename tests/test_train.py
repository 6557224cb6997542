"""The trainer: it learns, resumes to the bit, is the same on any number of ranks, and its model is Hugging Face's.

Needs the `train` extra; skipped where torch is not installed.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import train_corpus

from pipeline import corpus
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


def test_another_corpus_model_or_order_is_refused(small: corpus.Corpus, tmp_path: Path) -> None:
    loop.train(recipe(small, steps=5), small, tmp_path / "run", quiet)
    other = train_corpus.write(tmp_path / "other", train_corpus.words(60, 5))
    bigger = TINY.model_copy(update={"layers": 3})
    for asked, opened, said in (
        (recipe(other), other, "its fingerprint is another"),
        (recipe(small, bigger), small, "its model is another"),
        (recipe(small, data=DataSpec(seed=9)), small, "its order is another"),
        (recipe(small, batch=16), small, "its batch is another"),
    ):
        with pytest.raises(Refused, match=said):
            loop.train(asked, opened, tmp_path / "run", quiet)


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
    with pytest.raises(Refused, match="the loss is nan; the newest checkpoint stands; lower the rate"):
        loop.train(recipe(small, lr=1e30, clip=1e30, warmup=0), small, tmp_path, quiet)
    assert strict(tmp_path / "log.jsonl")[-1]["loss"] is None
    assert loop.read_log(tmp_path)[0] == []


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
