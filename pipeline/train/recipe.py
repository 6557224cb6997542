"""What a training run is asked to do: the model, the data, the loop. Fields are the keys of the YAML file."""

import hashlib
import itertools
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline import storage


class Refused(ValueError):
    """A run that must not start, or not go on; the message says why and what to change."""


class Part(BaseModel):
    """Frozen, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelSpec(Part):
    """The shape of the model."""

    form: Literal["llama", "gpt2"] = Field(default="llama", description="llama: RMSNorm, RoPE, gated MLP, no biases.")
    layers: int = Field(default=4, ge=1)
    heads: int = Field(default=4, ge=1)
    kv_heads: int | None = Field(
        default=None, ge=1, description="Key-value heads that groups of heads share; omitted: heads."
    )
    width: int = Field(default=128, ge=2)
    hidden: int | None = Field(
        default=None, ge=1, description="Width inside the MLP; omitted: 8/3 width (gated), 4 width."
    )
    context: int = Field(default=128, ge=1, description="Tokens a window holds.")
    activation: Literal["silu", "gelu"] = Field(
        default="silu", description="Of the gate; the gpt2 form always has GELU."
    )
    qk_norm: bool = Field(default=False, description="RMSNorm on queries and keys (Qwen3's layout when saved).")
    rope_base: float = Field(default=10_000.0, gt=0)

    @model_validator(mode="after")
    def _divides(self) -> "ModelSpec":
        if self.width % self.heads or self.heads % self.groups:
            raise ValueError("width must be a multiple of heads, and heads of kv_heads")
        if self.form == "llama" and self.width // self.heads % 2:
            raise ValueError("width / heads must be even: RoPE turns pairs")
        if self.form == "gpt2" and (self.qk_norm or self.groups != self.heads):
            raise ValueError("the gpt2 form has neither qk_norm nor kv_heads")
        return self

    @property
    def groups(self) -> int:
        """Key-value heads."""
        return self.kv_heads or self.heads

    @property
    def inner(self) -> int:
        """Width inside the MLP: 8/3 of the width keeps a gated MLP at the size of a plain one of 4 (Shazeer 2020)."""
        gated = -(-self.width * 8 // 3 // 8) * 8
        return self.hidden or (gated if self.form == "llama" else 4 * self.width)


class Mix(Part):
    """Shares of the tokens by source, language, or buckets of a score."""

    by: str = Field(default="source", description="A column of docs.parquet.")
    edges: list[float] | None = Field(
        default=None,
        description="Cut a numeric column here, in rising order; buckets are named b0, b1, ..., without a value: null.",
    )
    weights: dict[str, Annotated[float, Field(gt=0)]] = Field(
        min_length=1, description="Share of each value, in any unit; values not named are left out, and that is said."
    )
    max_epochs: float = Field(default=4.0, gt=0, description="No source is seen more often than this.")

    @model_validator(mode="after")
    def _rises(self) -> "Mix":
        if any(low >= high for low, high in itertools.pairwise(self.edges or [])):
            raise ValueError("edges must rise")
        return self


class DataSpec(Part):
    """How windows are cut and ordered."""

    pack: Literal["stream", "bestfit"] = Field(
        default="stream", description="stream: concatenate and cut; bestfit: pack."
    )
    mask: Literal["none", "document"] = Field(
        default="none", description="document: attention stays inside a document."
    )
    seed: int = Field(default=1, ge=0, description="Of the order.")
    mix: Mix | None = None


class LoopSpec(Part):
    """The optimisation."""

    steps: int = Field(default=200, ge=1)
    batch: int = Field(default=16, ge=1, description="Windows in a global batch, over all ranks and micro-batches.")
    micro_batch: int | None = Field(default=None, ge=1, description="Windows a rank takes through the model at once.")
    seed: int = Field(default=1, ge=0, description="Of the initialisation.")
    optimizer: Literal["adamw", "muon"] = "adamw"
    lr: float = Field(default=3e-3, gt=0)
    muon_lr: float = Field(default=0.02, gt=0, description="For the matrices inside the blocks.")
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(default=0.1, ge=0)
    clip: float = Field(default=1.0, gt=0, description="Limit of the gradient's norm.")
    warmup: float = Field(default=0.02, ge=0, le=1, description="Share of the steps in which the rate rises.")
    decay: float = Field(default=0.5, ge=0, le=1, description="Share of the steps, the last ones, in which it falls.")
    floor: float = Field(default=0.0, ge=0, le=1, description="What it falls to, as a share of lr.")
    precision: Literal["auto", "fp32", "bf16", "fp64"] = Field(
        default="auto", description="auto: bf16 on CUDA, fp32 on CPU."
    )
    compile: Literal["auto", "on", "off"] = Field(
        default="auto", description="auto: on CUDA, and on CPU where it pays."
    )
    recompute: bool = Field(
        default=False, description="Recompute activations in the backward pass: less memory, more time."
    )
    parallel: Literal["ddp", "fsdp"] = Field(default="ddp", description="With more than one rank (torchrun).")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(
        default=0, ge=0, description="Threads on the CPU; 0: torch's choice. Exact resume needs a fixed one."
    )
    log_every: int = Field(default=10, ge=1)
    eval_every: int = Field(default=0, ge=0, description="0: at the end only.")
    eval_tokens: int = Field(default=1_000_000, ge=1, description="At most so many held-out tokens.")
    save_every: int = Field(default=0, ge=0, description="0: at the end only.")
    keep: int = Field(default=2, ge=1, description="How many checkpoints stay.")
    spike: float = Field(default=6.0, gt=0, description="A loss so many deviations above the last 50 is traced.")
    tensorboard: bool = False

    @model_validator(mode="after")
    def _fits(self) -> "LoopSpec":
        if self.warmup + self.decay > 1:
            raise ValueError("warmup and decay together are more than all steps")
        return self


class Recipe(Part):
    """A training run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Names the run directory: runs/<name>.")
    corpus: Path = Field(description="A finished corpus, or the run directory that made it.")
    model: ModelSpec = ModelSpec()
    data: DataSpec = DataSpec()
    train: LoopSpec = LoopSpec()


def digest(*parts: object) -> bytes:
    """32 bytes that depend on the text of every part and on where one ends."""
    return hashlib.blake2b("\x00".join(map(str, parts)).encode(), digest_size=32).digest()


def read_record(path: Path, *keys: str) -> dict[str, Any] | None:
    """The JSON object of a file that a run wrote; None where there is no file.

    Raises `Refused` with the file's name where it is no JSON object, or lacks one of `keys`.
    """
    try:
        record = storage.read_json(path)
    except storage.Damaged as error:
        raise Refused(str(error)) from None
    if record is None and not path.exists():
        return None
    if not isinstance(record, dict):
        raise Refused(f"{path}: is damaged, it holds no JSON object")
    if missing := [key for key in keys if key not in record]:
        raise Refused(f"{path}: is damaged or of another version, it lacks {', '.join(missing)}")
    return record
