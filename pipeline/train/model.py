"""The model: a decoder-only transformer, read from bottom to top.

    Norm -> Attention -> MLP -> Block (attention and MLP, each on a residual branch) -> GPT (embedding, blocks, head)

Two forms. `llama`: RMSNorm, rotary positions, a gated MLP, grouped key-value heads, no biases (Touvron et al. 2023),
with `qk_norm` Qwen3's. `gpt2`: LayerNorm, learned positions, GELU, biases (Radford et al. 2019). Embedding and head
share their weights in both. Shapes: B rows, T tokens, C width, H heads, D = C / H.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.train.data import IGNORED
from pipeline.train.recipe import ModelSpec

EPSILON = 1e-5
"""In every norm."""


class RMSNorm(nn.Module):
    """x / rms(x) * weight (Zhang and Sennrich 2019)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        exact = x if x.dtype == torch.float64 else x.float()
        exact = exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + EPSILON)
        return (self.weight * exact).to(x.dtype)


def norm(spec: ModelSpec, width: int) -> nn.Module:
    return RMSNorm(width) if spec.form == "llama" else nn.LayerNorm(width, EPSILON)


def rotation(positions: int, head: int, base: float) -> Tensor:
    """cos and sin of RoPE's angles (Su et al. 2021): float32 (2, positions, head), the halves of a head alike."""
    frequency = base ** (-torch.arange(0, head, 2, dtype=torch.float32) / head)
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), frequency)
    angles = torch.cat([angles, angles], -1)
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the pairs (i, i + D/2) of each head of `x` (B, H, T, D) by `turn` (2, T, D) or (2, B, 1, T, D)."""
    low, high = x.chunk(2, -1)
    return x * turn[0] + torch.cat([-high, low], -1) * turn[1]


def attend(q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None) -> Tensor:
    """Causal attention; q (B, H, T, D), k and v (B, groups, S, D), the T queries being the last of the S positions.

    With `documents` (B, T) a token sees only tokens of its own document. On CUDA that is FlexAttention, which skips the
    masked blocks; elsewhere a mask. A CPU attends in float32 whatever the autocast says: the backward pass of its bf16
    kernel takes five times as long (7.4 ms against 1.5 for 12 rows of 64, Zen 4), more than bf16 wins elsewhere.
    """
    if q.dtype == torch.bfloat16 and not q.is_cuda:
        with torch.autocast(q.device.type, enabled=False):
            return attend(q.float(), k.float(), v.float(), documents).to(torch.bfloat16)
    grouped = q.size(1) != k.size(1)
    if documents is None:
        if q.size(2) == k.size(2):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        ahead = torch.ones(q.size(2), k.size(2), dtype=torch.bool, device=q.device)
        return F.scaled_dot_product_attention(q, k, v, ahead.tril(k.size(2) - q.size(2)), enable_gqa=grouped)
    if q.is_cuda:
        return attend_flex(q, k, v, documents)
    same = documents[:, None, :, None] == documents[:, None, None, :]
    return F.scaled_dot_product_attention(q, k, v, same.tril(), enable_gqa=grouped)


def attend_flex(q: Tensor, k: Tensor, v: Tensor, documents: Tensor) -> Tensor:
    """`attend` with documents, by torch's FlexAttention."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention  # heavy, and only for masks

    def visible(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (documents[b, query] == documents[b, key])

    length = q.size(2)
    mask = create_block_mask(visible, len(documents), None, length, length, device=q.device)
    kernel = _compiled(flex_attention) if q.is_cuda and not torch.compiler.is_compiling() else flex_attention
    return kernel(q, k, v, block_mask=mask, enable_gqa=q.size(1) != k.size(1))


@functools.cache
def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return torch.compile(function)


class Attention(nn.Module):
    """Multi-head attention with grouped key-value heads."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.heads, self.groups, self.head = spec.heads, spec.groups, spec.width // spec.heads
        bias = spec.form == "gpt2"
        self.qkv = nn.Linear(spec.width, (spec.heads + 2 * spec.groups) * self.head, bias=bias)
        self.out = nn.Linear(spec.width, spec.width, bias=bias)
        self.q_norm = RMSNorm(self.head) if spec.qk_norm else None
        self.k_norm = RMSNorm(self.head) if spec.qk_norm else None

    def forward(self, x: Tensor, turn: Tensor | None, documents: Tensor | None, cache: dict | None) -> Tensor:
        rows, length, _ = x.shape
        packed = self.qkv(x).view(rows, length, self.heads + 2 * self.groups, self.head).transpose(1, 2)
        q, k, v = packed.split([self.heads, self.groups, self.groups], 1)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if turn is not None:
            q, k = rotate(q, turn.to(q.dtype)), rotate(k, turn.to(k.dtype))
        if cache is not None:
            if "k" in cache:
                k, v = torch.cat([cache["k"], k], 2), torch.cat([cache["v"], v], 2)
            cache["k"], cache["v"] = k, v
        return self.out(attend(q, k, v, documents).transpose(1, 2).reshape(rows, length, -1))


class GatedMLP(nn.Module):
    """down(act(gate(x)) * up(x)): SwiGLU, or GEGLU (Shazeer 2020)."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.gate_up = nn.Linear(spec.width, 2 * spec.inner, bias=False)
        self.out = nn.Linear(spec.inner, spec.width, bias=False)
        self.act = F.silu if spec.activation == "silu" else F.gelu

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.out(self.act(gate) * up)


class MLP(nn.Module):
    """down(gelu(up(x)))."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.up = nn.Linear(spec.width, spec.inner)
        self.out = nn.Linear(spec.inner, spec.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.gelu(self.up(x)))


class Block(nn.Module):
    """Attention, then the MLP, each on a residual branch behind its norm."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.norm_1, self.attention = norm(spec, spec.width), Attention(spec)
        self.norm_2, self.mlp = norm(spec, spec.width), GatedMLP(spec) if spec.form == "llama" else MLP(spec)

    def forward(self, x: Tensor, turn: Tensor | None, documents: Tensor | None, cache: dict | None = None) -> Tensor:
        x = x + self.attention(self.norm_1(x), turn, documents, cache)
        return x + self.mlp(self.norm_2(x))


class GPT(nn.Module):
    """Token ids in; logits out, or the loss of each target."""

    turns: Tensor

    def __init__(self, spec: ModelSpec, vocabulary: int, recompute: bool = False) -> None:
        super().__init__()
        self.spec, self.vocabulary, self.recompute = spec, vocabulary, recompute
        self.embedding = nn.Embedding(vocabulary, spec.width)
        self.positions = nn.Embedding(spec.context, spec.width) if spec.form == "gpt2" else None
        self.blocks = nn.ModuleList(Block(spec) for _ in range(spec.layers))
        self.norm = norm(spec, spec.width)
        self.register_buffer("turns", rotation(spec.context, spec.width // spec.heads, spec.rope_base), False)
        self.reset()

    def reset(self) -> None:
        """Normal with 0.02 at GPT-2's width of 768, projections onto the residual scaled by 1 / sqrt(2 layers).

        In the llama form the deviation follows 1 / sqrt(width), so that a narrow model's logits are not near zero for
        the first hundreds of steps; the gpt2 form keeps 0.02 at every width, for parity.
        """
        deviation = 0.02 * (768 / self.spec.width) ** 0.5 if self.spec.form == "llama" else 0.02
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                scale = (2 * self.spec.layers) ** -0.5 if name.endswith("out.weight") else 1.0
                nn.init.normal_(weight, std=deviation * scale)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)

    def forward(
        self, ids: Tensor, targets: Tensor | None = None, documents: Tensor | None = None, cache: list | None = None
    ) -> Tensor:
        """Logits (B, T, vocabulary) for ids (B, T); with `targets` (B, T) the loss of each in nats, 0 where IGNORED.

        `documents` (B, T) keeps attention inside a document and counts positions from its start. `cache`, a dict a
        layer, holds the keys and values of what went before (`sample`).
        """
        start = cache[0]["k"].size(2) if cache and "k" in cache[0] else 0
        places = torch.arange(start, start + ids.size(1), device=ids.device)
        if documents is not None:
            places = _since_start(documents)
        x, turn = self.embedding(ids), None
        if self.positions is not None:
            x = x + self.positions(places)
        else:
            turn = self.turns[:, places] if documents is None else self.turns[:, places].unsqueeze(2)
        for i, block in enumerate(self.blocks):
            if self.recompute and self.training:
                x = checkpoint(block, x, turn, documents, use_reentrant=False)
            else:
                x = block(x, turn, documents, cache[i] if cache is not None else None)
        logits = F.linear(self.norm(x), self.embedding.weight)
        if targets is None:
            return logits
        exact = logits if logits.dtype == torch.float64 else logits.float()
        flat = F.cross_entropy(exact.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none")
        return flat.view(targets.shape)

    def parameters_count(self) -> int:
        """Parameters, the shared embedding once."""
        return sum(weight.numel() for weight in self.parameters())

    def flops_per_token(self) -> int:
        """Of a training step: 6 per parameter in a product, and 12 layers T C for attention (Chowdhery et al. 2022)."""
        products = self.parameters_count() - (self.positions.weight.numel() if self.positions is not None else 0)
        return 6 * products + 12 * self.spec.layers * self.spec.width * self.spec.context


def _since_start(documents: Tensor) -> Tensor:
    """The position of each token in its document, for documents (B, T) numbered from the left."""
    at = torch.arange(documents.size(1), device=documents.device).expand_as(documents)
    new = torch.ones_like(documents, dtype=torch.bool)
    new[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return at - torch.where(new, at, 0).cummax(1).values


@torch.no_grad()
def sample(
    model: GPT, prompt: list[int], count: int, temperature: float = 0.8, top_k: int = 0, seed: int = 1,
    stop: int | None = None,
) -> Iterator[int]:  # fmt: skip
    """Continue `prompt` (at least one id), one id at a time, up to `count` ids or `stop`.

    Keys and values of what is already there are kept; when the context is full, its later half starts a new cache.
    Temperature 0 takes the likeliest id.
    """
    device = model.embedding.weight.device
    generator = torch.Generator(device).manual_seed(seed)
    ids = list(prompt)
    cache: list[dict[str, Any]] = []
    fresh = ids
    for _ in range(count):
        if not cache or cache[0]["k"].size(2) + len(fresh) > model.spec.context:
            cache = [{} for _ in model.blocks]
            fresh = ids if len(ids) < model.spec.context else ids[-((model.spec.context + 1) // 2) :]
        logits = model(torch.tensor([fresh], device=device), cache=cache)[0, -1].float()
        fresh = [_choose(logits, temperature, top_k, generator)]
        ids += fresh
        yield fresh[0]
        if fresh[0] == stop:
            return


def _choose(logits: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    logits = logits / temperature
    if top_k:
        logits[logits < logits.topk(min(top_k, len(logits))).values[-1]] = -torch.inf
    return int(torch.multinomial(logits.softmax(0), 1, generator=generator))
