"""One process or many: who am I, how gradients meet, by torch's own engines and started by `torchrun`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.train.recipe import LoopSpec, Refused


class Ranks(NamedTuple):
    """This process among all."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """The sum of `values` over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        if self.size > 1:
            dist.barrier()


def use_threads(spec: LoopSpec) -> None:
    """Let torch use as many threads on the CPU as the recipe says; 0 leaves the choice to torch."""
    if spec.threads:
        torch.set_num_threads(spec.threads)


def device_type(spec: LoopSpec) -> str:
    """cpu or cuda. Raises `Refused` where the recipe wants CUDA and there is none."""
    if spec.device == "cuda" and not torch.cuda.is_available():
        raise Refused("device: cuda is asked for and not there")
    return "cuda" if spec.device != "cpu" and torch.cuda.is_available() else "cpu"


def precision(spec: LoopSpec) -> str:
    """fp32, bf16 or fp64: what the recipe says, or what `auto` means on this device."""
    if spec.precision != "auto":
        return spec.precision
    return "bf16" if device_type(spec) == "cuda" else "fp32"


@contextmanager
def joined(spec: LoopSpec) -> Iterator[Ranks]:
    """Join the group that torchrun started, or be alone."""
    cuda = device_type(spec) == "cuda"
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Ranks(0, 1, device)
        return
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Ranks(dist.get_rank(), size, device)
    finally:
        dist.destroy_process_group()


def spread(model: nn.Module, spec: LoopSpec, ranks: Ranks) -> nn.Module:
    """The model as the ranks share it: replicated (DDP), or its parameters, gradients and states sharded (FSDP2).

    FSDP2 shards block by block, so that only one block is whole at a time (Zhao et al. 2023).
    """
    if ranks.size == 1:
        return model
    if spec.parallel == "ddp":
        return nn.parallel.DistributedDataParallel(model)
    if spec.optimizer == "muon":
        raise Refused("parallel: fsdp shards the matrices, and muon needs each whole; take ddp or adamw")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(ranks.device.type, (ranks.size,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


@contextmanager
def exchange(model: nn.Module, now: bool) -> Iterator[None]:
    """Whether the backward pass inside exchanges gradients: with accumulation, only the last one does."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        with nullcontext() if now else model.no_sync():
            yield
        return
    if hasattr(model, "set_requires_gradient_sync"):  # what fully_shard adds
        model.set_requires_gradient_sync(now)
    yield


def bare(model: nn.Module) -> Any:
    """The model without DDP's and the compiler's wrapping."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod
        else:
            return model
