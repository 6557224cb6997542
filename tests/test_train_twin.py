"""The gpt2 form against a twin written out in plain torch: the same weights and batches give the same losses.

The twin shares no line with `pipeline.train`: a function of a dictionary of tensors for the model (Radford et al. 2019
as nanoGPT lays it out: pre-norm, exact GELU, tied head), clipping and AdamW (Loshchilov and Hutter 2019) spelled out.
"""

from pathlib import Path

import pytest
import train_corpus

from pipeline.train.recipe import LoopSpec, ModelSpec, Recipe

torch = pytest.importorskip("torch")

from pipeline.train import loop  # noqa: E402 - after the skip
from pipeline.train.ranks import Ranks  # noqa: E402

LAYERS, HEADS, WIDTH, CONTEXT, STEPS, BATCH = 2, 4, 32, 32, 20, 8
LR, BETAS, DECAY, CLIP = 1e-2, (0.9, 0.95), 0.1, 0.5
SPEC = ModelSpec(form="gpt2", layers=LAYERS, heads=HEADS, width=WIDTH, context=CONTEXT)
LOOP = LoopSpec(steps=STEPS, batch=BATCH, lr=LR, betas=BETAS, weight_decay=DECAY, clip=CLIP, warmup=0.2, decay=0.5,
                threads=1, compile="off")  # fmt: skip


def twin_norm(x, weight, bias):
    mean = x.mean(-1, keepdim=True)
    spread = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(spread + 1e-5) * weight + bias


def twin_loss(w: dict, inputs, targets):
    rows, length = inputs.shape
    x = w["embedding.weight"][inputs] + w["positions.weight"][:length]
    for layer in range(LAYERS):
        p = {name.split(".", 2)[2]: value for name, value in w.items() if name.startswith(f"blocks.{layer}.")}
        y = twin_norm(x, p["norm_1.weight"], p["norm_1.bias"])
        q, k, v = (y @ p["attention.qkv.weight"].T + p["attention.qkv.bias"]).split(WIDTH, -1)
        q, k, v = (part.view(rows, length, HEADS, WIDTH // HEADS).transpose(1, 2) for part in (q, k, v))
        scores = q @ k.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5
        scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
        y = (torch.exp(scores - scores.logsumexp(-1, keepdim=True)) @ v).transpose(1, 2).reshape(rows, length, WIDTH)
        x = x + y @ p["attention.out.weight"].T + p["attention.out.bias"]
        y = twin_norm(x, p["norm_2.weight"], p["norm_2.bias"])
        y = y @ p["mlp.up.weight"].T + p["mlp.up.bias"]
        y = 0.5 * y * (1 + torch.erf(y / 2**0.5))
        x = x + y @ p["mlp.out.weight"].T + p["mlp.out.bias"]
    logits = twin_norm(x, w["norm.weight"], w["norm.bias"]) @ w["embedding.weight"].T
    right = logits.gather(-1, targets[..., None])[..., 0]
    return (logits.logsumexp(-1) - right).mean()


def twin_rate(step: int) -> float:
    """Four steps up, six at the peak, ten down to a share of 1/11."""
    return [0.25, 0.5, 0.75, 1.0, *[1.0] * 6, *[(10 - i) / 11 for i in range(10)]][step]


def twin_step(w: dict, moments: dict, loss, step: int) -> None:
    gradients = torch.autograd.grad(loss, list(w.values()))
    norm = sum((g**2).sum() for g in gradients) ** 0.5
    shrink = min(1.0, CLIP / (float(norm) + 1e-6))
    lr = LR * twin_rate(step)
    for (name, weight), gradient in zip(w.items(), gradients):
        g = gradient * shrink
        m, v = moments.get(name, (torch.zeros_like(weight), torch.zeros_like(weight)))
        m, v = BETAS[0] * m + (1 - BETAS[0]) * g, BETAS[1] * v + (1 - BETAS[1]) * g**2
        moments[name] = m, v
        unbiased = m / (1 - BETAS[0] ** (step + 1)), v / (1 - BETAS[1] ** (step + 1))
        kept = 1 - lr * DECAY if weight.dim() > 1 else 1.0
        weight.data = weight.data * kept - lr * unbiased[0] / (unbiased[1].sqrt() + 1e-8)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-6), ("fp64", 1e-12)])
def test_twenty_steps_are_those_of_the_twin(tmp_path: Path, precision: str, tolerance: float) -> None:
    torch.set_num_threads(1)
    small = train_corpus.write(tmp_path / "c", train_corpus.words(90))
    asked = Recipe(name="t", corpus=small.folder, model=SPEC, train=LOOP.model_copy(update={"precision": precision}))
    run = loop.Run(asked, small, tmp_path / "run", Ranks(0, 1, torch.device("cpu")))
    twin = {name: weight.detach().clone().requires_grad_() for name, weight in run.model.named_parameters()}
    moments: dict = {}
    ours, theirs = [], []
    for step, batch in enumerate(run.batches()):
        loss = twin_loss(twin, torch.from_numpy(batch.inputs), torch.from_numpy(batch.targets))
        twin_step(twin, moments, loss, step)
        ours.append(float(run.advance(batch)[0].mean()))
        theirs.append(loss.item())
    assert len(ours) == STEPS
    assert ours[-1] < ours[0] - 1  # it is no straight line that they agree on
    apart = max(abs(a - b) / b for a, b in zip(ours, theirs))
    print(f"losses of 20 steps, ours and the twin's, {precision}: {apart:.2g} (limit {tolerance:g})")  # -rP shows it
    assert apart < tolerance
