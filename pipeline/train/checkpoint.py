"""Checkpoints: a folder a step, written beside and renamed, in the layout `transformers` loads as it is.

    step-200/model.safetensors  config.json  generation_config.json      AutoModelForCausalLM.from_pretrained
             tokenizer.json  tokenizer_config.json                       AutoTokenizer.from_pretrained
             optim.safetensors  state.json                               to go on: moments, step, generators, versions,
                                                                         identity of the run, checksums of the files

A folder with this name is whole: killed at any moment, a save leaves the last one as it was. What was written is read
back before it takes its name, and only then are older checkpoints removed. A file that changes afterwards is noticed by
its checksum, and the checkpoint before it is taken.
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline import storage
from pipeline.corpus import Corpus
from pipeline.train.model import EPSILON, GPT
from pipeline.train.ranks import Ranks, bare
from pipeline.train.recipe import ModelSpec, Refused, read_record

_LLAMA = {
    "attention.out": "self_attn.o_proj", "mlp.out": "mlp.down_proj", "norm_1": "input_layernorm",
    "norm_2": "post_attention_layernorm", "attention.q_norm": "self_attn.q_norm",
    "attention.k_norm": "self_attn.k_norm",
}  # fmt: skip
_GPT2 = {
    "attention.qkv": "attn.c_attn", "attention.out": "attn.c_proj", "mlp.up": "mlp.c_fc", "mlp.out": "mlp.c_proj",
    "norm_1": "ln_1", "norm_2": "ln_2",
}  # fmt: skip


_OUTER = {
    "llama": {"embedding.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight"},
    "gpt2": {
        "embedding.weight": "transformer.wte.weight", "positions.weight": "transformer.wpe.weight",
        "norm.weight": "transformer.ln_f.weight", "norm.bias": "transformer.ln_f.bias",
    },
}  # fmt: skip
"""Our names of parameters and theirs, inside a block and outside."""

_STATE = "state.json"


def found(folder: Path) -> list[Path]:
    """The whole checkpoints in a run's folder, earliest first."""
    named = ((re.fullmatch(r"step-(\d+)", path.name), path) for path in folder.glob("step-*"))
    return [path for _, path in sorted((int(match.group(1)), path) for match, path in named if match)]


class NotSaved(OSError):
    """A checkpoint that could not be written, and why; those before it are as they were."""


def damage(path: Path) -> str | None:
    """What is wrong with the files of a checkpoint, in a sentence; None where all are as they were written."""
    try:
        state = read_record(path / _STATE, "step", "model", "vocabulary")
    except Refused as error:
        return str(error)
    if state is None:
        return f"{path / _STATE}: is missing"
    for name, checksum in state.get("files", {}).items():
        if not (path / name).exists():
            return f"{path / name}: is missing"
        if storage.xxh3(path / name) != checksum:
            return f"{path / name}: is damaged, its content is not what was written"
    return None


def newest(folder: Path, say: Callable[[str], None]) -> Path | None:
    """The newest whole checkpoint of a run, or the folder itself where it is one; None where there is none at all.

    What is damaged is said. Raises `Refused` where every checkpoint is.
    """
    paths = [folder] if (folder / _STATE).exists() else found(folder)
    damages: list[str] = []
    for path in reversed(paths):
        if (wrong := damage(path)) is None:
            for line in damages:
                say(f"{line}; {path.name} is taken instead")
            return path
        damages.append(wrong)
    if damages:
        raise Refused(f"{folder}: no checkpoint is whole ({'; '.join(damages)}); remove them, and the run starts anew")
    return None


def latest(folder: Path, say: Callable[[str], None] = print) -> Path:
    """As `newest`. Raises `Refused` where there is no checkpoint."""
    if (path := newest(folder, say)) is None:
        raise Refused(f"{folder}: no checkpoint there; `python -m pipeline train` makes one")
    return path


def read_state(path: Path) -> dict[str, Any]:
    """The state.json of a checkpoint. Raises `Refused` where it is missing or damaged."""
    if (state := read_record(path / _STATE, "step", "model", "vocabulary")) is None:
        raise Refused(f"{path / _STATE}: is missing")
    return state


def save(
    folder: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer], corpus: Corpus, state: dict[str, Any],
    keep: int, ranks: Ranks,
) -> Path:  # fmt: skip
    """Write the checkpoint of `state["step"]` and take away all but the newest `keep`; all ranks call it.

    Raises `NotSaved` where the files cannot be written, as on a full disk.
    """
    weights, moments = _collected(model, optimizers)
    target = folder / f"step-{state['step']}"
    if ranks.first:
        beside = folder / f".{target.name}.{os.getpid()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.glob(".step-*"):
                shutil.rmtree(left)
            beside.mkdir()
            _write_files(beside, bare(model), weights, moments, corpus, state)
            _settle(beside, target)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(beside, ignore_errors=True)  # the next save tries again
            raise NotSaved(_not_saved(target, error, found(folder))) from error
        for old in found(folder)[:-keep]:
            _remove(old)
    ranks.wait()
    return target


def _write_files(
    folder: Path, core: GPT, weights: dict[str, Tensor], moments: dict[str, Tensor], corpus: Corpus,
    state: dict[str, Any],
) -> None:  # fmt: skip
    """All files of a checkpoint; state.json, with the checksums of the others, comes last."""
    parts = {
        "model.safetensors": to_hf(core.spec, weights),
        "optim.safetensors": {**moments, "rng/cpu": torch.get_rng_state()},
    }
    for name, tensors in parts.items():
        save_file(tensors, folder / name, {"format": "pt"})
        _read_back(folder / name, tensors)
    _describe(folder, core.spec, core.vocabulary, corpus, weights["embedding.weight"].dtype)
    files = {path.name: storage.xxh3(path) for path in sorted(folder.iterdir())}
    versions = {"torch": torch.__version__, "gristmill_train": 1}
    _write(folder / _STATE, {**state, "versions": versions, "model": core.spec.model_dump(mode="json"), "files": files})


def _read_back(path: Path, tensors: dict[str, Tensor]) -> None:
    """Raise `OSError` where a file does not hold these tensors bit by bit."""
    with safe_open(path, "pt") as file:
        for name, tensor in tensors.items():
            same = file.get_tensor(name).reshape(-1).view(torch.uint8)
            if not torch.equal(same, tensor.reshape(-1).view(torch.uint8)):
                raise OSError(f"{path.name}: '{name}' reads back other than it was written")


def _not_saved(target: Path, error: Exception, whole: list[Path]) -> str:
    stands = f"{whole[-1].name} stands" if whole else "there is no earlier one"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (
        f"{target}: the checkpoint could not be saved: {reason}; {stands}, and the same command goes on from there "
        "when the cause is mended (is the disk full?)"
    )


def _settle(beside: Path, target: Path) -> None:
    """Make every file durable, then give the folder its name."""
    for path in [*beside.iterdir(), beside]:
        storage.fsync(path)
    if target.exists():
        _remove(target)
    os.replace(beside, target)
    storage.fsync(target.parent)


def _remove(path: Path) -> None:
    """First take its name, so that what is half gone never looks whole."""
    gone = path.with_name(f".{path.name}.old")
    os.replace(path, gone)
    shutil.rmtree(gone)


def _write(path: Path, record: dict[str, Any]) -> None:
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _describe(folder: Path, spec: ModelSpec, vocabulary: int, corpus: Corpus, dtype: torch.dtype) -> None:
    eos = corpus.manifest["eos_id"]
    _write(folder / "config.json", hf_config(spec, vocabulary, eos, str(dtype).removeprefix("torch.")))
    _write(folder / "generation_config.json", {"bos_token_id": eos, "eos_token_id": eos})
    shutil.copyfile(corpus.folder / corpus.manifest["tokenizer"]["file"], folder / "tokenizer.json")
    _write(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast",
           "eos_token": corpus.manifest["eos_token"], "model_max_length": spec.context})  # fmt: skip


def _is_sharded(model: nn.Module) -> bool:
    return hasattr(model, "set_requires_gradient_sync")


def _collected(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> tuple[dict, dict]:
    """Parameters by name, and moments as "optimizer/parameter/moment", whole and on the CPU."""
    core = bare(model)
    if _is_sharded(core):
        from torch.distributed.checkpoint.state_dict import (
            StateDictOptions,
            get_model_state_dict,
            get_optimizer_state_dict,
        )

        whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights = get_model_state_dict(core, options=whole)
        states = [get_optimizer_state_dict(core, optimizer, options=whole).get("state", {}) for optimizer in optimizers]
    else:
        names = {id(weight): name for name, weight in core.named_parameters()}
        weights = core.state_dict()
        states = [{names[id(weight)]: state for weight, state in o.state.items()} for o in optimizers]
    moments = {
        f"{i}/{name}/{key}": value.detach().cpu().contiguous()
        for i, state in enumerate(states)
        for name, entry in state.items()
        for key, value in entry.items()
    }
    return {name: weight.detach().cpu() for name, weight in weights.items()}, moments


def restore(path: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
    """Put a checkpoint's parameters, moments and generator back. Raises `Refused` where its files are damaged."""
    core = bare(model)
    weights = _weights(path, core.spec)
    moments = _tensors(path / "optim.safetensors")
    if (generator := moments.pop("rng/cpu", None)) is None:
        raise Refused(f"{path / 'optim.safetensors'}: is damaged, it lacks rng/cpu")
    torch.set_rng_state(generator)
    states: list[dict[str, dict[str, Tensor]]] = [{} for _ in optimizers]
    for place, value in moments.items():
        i, name, key = place.split("/")
        states[int(i)].setdefault(name, {})[key] = value
    if _is_sharded(core):
        _restore_sharded(core, optimizers, weights, states)
    else:
        core.load_state_dict(weights)
        named = dict(core.named_parameters())
        for optimizer, state in zip(optimizers, states):
            for name, entry in state.items():
                device = named[name].device
                optimizer.state[named[name]] = {key: value.to(device) for key, value in entry.items()}


def _restore_sharded(core: nn.Module, optimizers: list, weights: dict, states: list) -> None:
    """Every rank has read the whole; each keeps its shards."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
    from torch.distributed.tensor import distribute_tensor

    set_model_state_dict(core, weights, options=StateDictOptions(full_state_dict=True))
    for optimizer, state in zip(optimizers, states):
        for name, weight in core.named_parameters():
            entry = state.get(name, {})
            optimizer.state[weight] = {
                key: distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements)
                if value.shape == weight.shape
                else value
                for key, value in sorted(entry.items())
            }


def load(path: Path, device: str | torch.device = "cpu") -> tuple[GPT, dict[str, Any]]:
    """The model of a checkpoint, for use and not for training, and its state.json.

    Raises `Refused` with the name of the file that is missing or damaged.
    """
    state = read_state(path)
    try:
        spec = ModelSpec.model_validate(state["model"])
    except ValidationError as error:
        raise Refused(f"{path / _STATE}: is damaged, its model is none: {error.errors()[0]['msg']}") from None
    model = GPT(spec, state["vocabulary"])
    try:
        model.load_state_dict(_weights(path, spec))
    except RuntimeError as error:  # other shapes
        raise Refused(f"{path / 'model.safetensors'}: is damaged, or not of the model in state.json: {error}") from None
    return model.to(device).eval(), state


def _weights(path: Path, spec: ModelSpec) -> dict[str, Tensor]:
    """The parameters of a checkpoint under our names. Raises `Refused` where they are not those of `spec`."""
    file = path / "model.safetensors"
    try:
        return from_hf(spec, _tensors(file))
    except KeyError as error:
        raise Refused(f"{file}: is damaged, it lacks {error}") from None


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise Refused(f"{path}: is missing") from None
    except SafetensorError as error:
        raise Refused(f"{path}: is damaged: {error}") from None


def hf_config(spec: ModelSpec, vocabulary: int, eos: int, dtype: str = "float32") -> dict[str, Any]:
    """The config.json that makes `transformers` build the same model."""
    common = {"vocab_size": vocabulary, "bos_token_id": eos, "eos_token_id": eos, "tie_word_embeddings": True,
              "torch_dtype": dtype}  # fmt: skip
    if spec.form == "gpt2":
        return {**common, "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": spec.width,
                "n_layer": spec.layers, "n_head": spec.heads, "n_positions": spec.context, "n_inner": spec.inner,
                "activation_function": "gelu", "layer_norm_epsilon": EPSILON,
                "embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}  # fmt: skip
    kind = ("qwen3", "Qwen3ForCausalLM") if spec.qk_norm else ("llama", "LlamaForCausalLM")
    return {**common, "model_type": kind[0], "architectures": [kind[1]], "hidden_size": spec.width,
            "intermediate_size": spec.inner, "num_hidden_layers": spec.layers, "num_attention_heads": spec.heads,
            "num_key_value_heads": spec.groups, "head_dim": spec.width // spec.heads, "hidden_act": spec.activation,
            "max_position_embeddings": spec.context, "rms_norm_eps": EPSILON, "rope_theta": spec.rope_base,
            "rope_parameters": {"rope_type": "default", "rope_theta": spec.rope_base},
            "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0}  # fmt: skip


def to_hf(spec: ModelSpec, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our parameters under the names and in the shapes of `transformers`."""
    made: dict[str, Tensor] = {}
    for name, weight in weights.items():
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", name)
        if not block:
            made[_OUTER[spec.form][name]] = weight
            continue
        number, part, kind = block.groups()
        if spec.form == "gpt2":  # its Conv1D keeps matrices transposed
            made[f"transformer.h.{number}.{_GPT2[part]}.{kind}"] = weight.T if weight.dim() == 2 else weight
            continue
        prefix = f"model.layers.{number}."
        for theirs, piece in _split(spec, part, weight):
            made[f"{prefix}{theirs}.{kind}"] = piece
    return {name: weight.contiguous() for name, weight in made.items()}


def _split(spec: ModelSpec, part: str, weight: Tensor) -> list[tuple[str, Tensor]]:
    head = spec.width // spec.heads
    if part == "attention.qkv":
        pieces = weight.split([spec.width, spec.groups * head, spec.groups * head])
        return list(zip(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), pieces))
    if part == "mlp.gate_up":
        return list(zip(("mlp.gate_proj", "mlp.up_proj"), weight.chunk(2)))
    return [(_LLAMA[part], weight)]


def from_hf(spec: ModelSpec, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `to_hf`."""
    with torch.device("meta"):
        shapes = GPT(spec, 1).state_dict()
    made = {}
    for name in shapes:
        parts = to_hf(spec, {name: torch.empty(shapes[name].shape, device="meta")})
        pieces = [theirs[part] for part in parts]
        made[name] = torch.cat(pieces) if len(pieces) > 1 else pieces[0]
        if spec.form == "gpt2" and name.startswith("blocks.") and made[name].dim() == 2:
            made[name] = made[name].T.contiguous()
    return made
