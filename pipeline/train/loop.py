"""The training loop: batches in their order, steps, the log, held-out loss, checkpoints; starting again continues.

runs/NAME/recipe.json     as resolved
          log.jsonl       a line every `log_every` steps, and one a held-out evaluation
          rows.f32        the loss of every window of every step: float32, `batch` a step
          spikes/         the documents behind a sudden loss
          step-N/         checkpoints
          curve.svg  summary.json
"""

import json
import math
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline import chart, storage
from pipeline.corpus import Corpus
from pipeline.train import checkpoint, evaluate, optim
from pipeline.train.data import IGNORED, Batch, Dataset
from pipeline.train.model import GPT
from pipeline.train.order import BLOCK
from pipeline.train.ranks import Ranks, bare, exchange, joined, spread
from pipeline.train.recipe import LoopSpec, Recipe, Refused

_PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
"""Dense bf16 FLOP/s by the vendors' data sheets, for the model FLOPs utilisation."""

_CPU_FLOPS = 44e9
_COMPILE_SAVES = 0.37
_COMPILE_COSTS = 10.0
"""One core runs a small model at about 44 GFLOP/s, compiled in 37 % less time; compiling must save 10 s to pay."""

_REMEMBERED = 50


class Run:
    """A training run, from its recipe to its last step."""

    def __init__(self, recipe: Recipe, corpus: Corpus, folder: Path, ranks: Ranks) -> None:
        self.recipe, self.corpus, self.folder, self.ranks, self.spec = recipe, corpus, folder, ranks, recipe.train
        self.data = Dataset(corpus, recipe.data, recipe.model.context, self.spec.steps * self.spec.batch)
        self.micro = _micro_batch(self.spec, ranks)
        _check(self.data, self.spec)
        self.bf16 = self.spec.precision == "bf16" or (self.spec.precision == "auto" and ranks.device.type == "cuda")
        torch.manual_seed(self.spec.seed)
        model = GPT(recipe.model, corpus.manifest["vocab_size"], self.spec.recompute)
        self.model = self._prepared(model.to(ranks.device, torch.float64 if self.spec.precision == "fp64" else None))
        self.optimizers = optim.make(self.spec, bare(self.model), ranks.device)
        self.step, self.cpu_before = 0, -_cpu_now()
        self.recent: list[float] = []
        self.held_out = evaluate.texts(corpus, limit=self.spec.eval_tokens)

    def _prepared(self, model: GPT) -> nn.Module:
        """Compiled where that pays, and shared among the ranks."""
        self.facts = {"parameters": model.parameters_count(), "flops_per_token": model.flops_per_token()}
        work = self.facts["flops_per_token"] * self.spec.steps * self.spec.batch * self.recipe.model.context
        saved = _COMPILE_SAVES * work / _CPU_FLOPS / self.ranks.size
        pays = self.ranks.device.type == "cuda" or (saved > _COMPILE_COSTS and shutil.which("g++") is not None)
        self.compiled = self.spec.compile == "on" or (self.spec.compile == "auto" and pays)
        if self.compiled:
            torch.compiler.reset()  # of an earlier run in this process: torch compiles one function 8 times at most
        if self.compiled and self.ranks.device.type == "cpu":
            from torch._inductor import config  # its pool of processes costs more than so small a model's few kernels

            config.compile_threads = 1
        if self.spec.parallel == "fsdp" and self.ranks.size > 1:
            shared = spread(model, self.spec, self.ranks)
            return torch.compile(shared) if self.compiled else shared
        return spread(torch.compile(model) if self.compiled else model, self.spec, self.ranks)

    def advance(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """One step on this rank's rows: the loss of each window (batch,), zero where another rank's, and the norm."""
        device, rows = self.ranks.device, len(batch.inputs)
        inputs, targets = torch.from_numpy(batch.inputs), torch.from_numpy(batch.targets)
        documents = None if batch.documents is None else torch.from_numpy(batch.documents)
        losses = torch.zeros(self.spec.batch, device=device, dtype=torch.float64)
        optim.set_rate(self.optimizers, optim.rate(self.spec, self.step))
        for first in range(0, rows, self.micro):
            part = slice(first, first + self.micro)
            within = None if documents is None else documents[part].to(device, non_blocking=True)
            wanted = targets[part].to(device, non_blocking=True)
            with exchange(self.model, first + self.micro >= rows), self._cast():
                loss = self.model(inputs[part].to(device, non_blocking=True), wanted, within)
                # ranks' gradients are averaged, and the mean is over the targets of the whole batch
                (loss.sum() * (self.ranks.size / batch.learned)).backward()
            mean = loss.detach().double().sum(1) / (wanted != IGNORED).sum(1).clamp(min=1)
            losses[self.ranks.rank + first * self.ranks.size :: self.ranks.size][: len(mean)] = mean
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.spec.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        return losses, norm.full_tensor() if hasattr(norm, "full_tensor") else norm

    def _cast(self) -> Any:
        return torch.autocast(self.ranks.device.type, torch.bfloat16) if self.bf16 else nullcontext()

    def batches(self) -> Iterator[Batch]:
        """The batches from the next step on; on CUDA one is gathered while another is learned from."""

        def make(step: int) -> Batch:
            return self.data.batch(step * self.spec.batch, self.spec.batch, self.ranks.rank, self.ranks.size)

        if self.ranks.device.type != "cuda":
            yield from map(make, range(self.step, self.spec.steps))
            return
        with ThreadPoolExecutor(1) as pool:
            ahead: Future[Batch] = pool.submit(make, self.step)
            for step in range(self.step + 1, self.spec.steps + 1):
                batch = ahead.result()
                if step < self.spec.steps:
                    ahead = pool.submit(make, step)
                yield batch

    def resume(self) -> bool:
        """Go back to the newest checkpoint, if there is one. Raises `Refused` where it is of another run."""
        if not (paths := checkpoint.found(self.folder)):
            return False
        state = storage.read_json(paths[-1] / "state.json")
        for name, now in self._identity().items():
            if state[name] != now:
                raise Refused(f"{paths[-1]}: its {name} is another: {_brief(state[name])} there, {_brief(now)} here; "
                              "give the run another name, or take its folder away")  # fmt: skip
        checkpoint.restore(paths[-1], self.model, self.optimizers)
        self.step, self.cpu_before = state["step"], self.cpu_before + state["cpu_seconds"]
        if self.ranks.first:
            _cut_logs(self.folder, self.step, self.spec.batch)
            rows = read_rows(self.folder, self.spec.batch)
            self.recent = rows[-_REMEMBERED:].mean(1).tolist()
        self.ranks.wait()
        return True

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to be continued."""
        return {"fingerprint": self.data.fingerprint, "vocabulary": self.corpus.manifest["vocab_size"],
                "model": self.recipe.model.model_dump(mode="json"), "batch": self.spec.batch,
                "order": self.recipe.order_facts()}  # fmt: skip

    def cpu_seconds(self) -> float:
        """Of the run so far, the compilers it called and the processes it goes on from included."""
        return self.cpu_before + _cpu_now()

    def save(self) -> None:
        state = {"step": self.step, "seed": self.spec.seed, "cpu_seconds": self.cpu_seconds(),
                 "consumed": self.data.consumed(self.step * self.spec.batch), **self._identity()}  # fmt: skip
        checkpoint.save(self.folder, self.model, self.optimizers, self.corpus, state, self.spec.keep, self.ranks)

    def evaluate(self) -> dict[str, Any]:
        """The held-out documents' loss and bits per byte."""
        masked = self.recipe.data.mask == "document"
        scores = evaluate.score(bare(self.model), self.held_out, self.recipe.model.context, self.ranks, masked)
        return evaluate.summary(self.held_out, scores)


def train(recipe: Recipe, corpus: Corpus, folder: Path, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Carry a recipe out in `folder`, from its newest checkpoint if there is one; returns the summary.

    Raises `Refused` with the reason where the run must not start.
    """
    if recipe.train.threads:
        torch.set_num_threads(recipe.train.threads)
    with joined(recipe.train) as ranks:
        run = Run(recipe, corpus, folder, ranks)
        say = say if ranks.first else quiet
        resumed = run.resume()
        if resumed and run.step >= recipe.train.steps and (done := storage.read_json(folder / "summary.json")):
            say(f"{folder}: done before, nothing to do")
            return done
        _announce(run, resumed, say)
        log = Log(run, say)
        if ranks.first:
            storage.write_json(folder / "recipe.json", recipe.model_dump(mode="json"))
        for batch in run.batches():
            log.take(*run.advance(batch))
            due = run.step == recipe.train.steps
            if due or (recipe.train.eval_every and run.step % recipe.train.eval_every == 0):
                log.evaluated(run.evaluate())
            if due or (recipe.train.save_every and run.step % recipe.train.save_every == 0):
                log.flush()
                run.save()
        return log.close()


def quiet(line: str) -> None:
    """Say nothing: for ranks beyond the first, and runs among many."""


def _announce(run: Run, resumed: bool, say: Callable[[str], None]) -> None:
    data = run.data.facts()
    say(f"{run.facts['parameters']:,} parameters, {run.facts['flops_per_token'] / 1e6:,.2f} MFLOP a token; "
        f"{data['tokens']:,} tokens in {sum(data['windows'].values()):,} windows; {run.ranks.size} x "
        f"{run.ranks.device.type}, {'bf16' if run.bf16 else run.spec.precision}, "
        f"{'compiled' if run.compiled else 'eager'}")  # fmt: skip
    if run.recipe.data.mix:
        shares = ", ".join(f"{name} {quota / BLOCK:.1%}" for name, quota in data["quotas"].items())
        left = f"; left out: {', '.join(data['left_out'])}" if data["left_out"] else ""
        say(f"mix by {run.recipe.data.mix.by}: {shares}{left}")
    if not run.held_out:
        say("no documents are held out, so nothing but the training loss judges the run (val_fraction of 'shards')")
    if resumed:
        say(f"{run.folder}: goes on after step {run.step}")


class Log:
    """What a run tells: files for programs, a live line for a person."""

    def __init__(self, run: Run, say: Callable[[str], None]) -> None:
        self.run, self.say = run, say
        self.pending: list[tuple[Tensor, Tensor]] = []
        self.since, self.since_step = time.perf_counter(), run.step
        self.result: dict[str, Any] = {}
        self.board: Any = None
        if run.ranks.first:
            run.folder.mkdir(parents=True, exist_ok=True)
        if run.ranks.first and run.spec.tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # needs the tensorboard package

            self.board = SummaryWriter(str(run.folder / "tensorboard"))

    def take(self, losses: Tensor, norm: Tensor) -> None:
        """Keep a step's figures on the device; they are read, and so waited for, once every `log_every` steps."""
        self.pending.append((losses, norm))
        if self.run.step % self.run.spec.log_every == 0 or self.run.step == self.run.spec.steps:
            self.flush()

    def flush(self) -> None:
        if not self.pending:
            return
        run = self.run
        rows = run.ranks.total(torch.stack([losses for losses, _ in self.pending])).cpu().numpy()
        norm = float(self.pending[-1][1])
        self.pending = []
        if not run.ranks.first:
            return
        with (run.folder / "rows.f32").open("ab") as handle:
            handle.write(rows.astype("<f4").tobytes())
        for i, loss in enumerate(rows.mean(1).tolist()):
            self._watch(run.step - len(rows) + i, loss, rows[i])
        seconds, tokens = time.perf_counter() - self.since, run.spec.batch * run.recipe.model.context
        speed = (run.step - self.since_step) * tokens / max(seconds, 1e-9)
        entry = {"step": run.step, "loss": float(rows.mean()), "lr": run.optimizers[0].param_groups[0]["lr"],
                 "grad_norm": norm, "tokens": run.step * tokens, "tokens_per_s": round(speed),
                 "cpu_seconds": round(run.cpu_seconds(), 2),
                 "consumed": run.data.consumed(run.step * run.spec.batch)}  # fmt: skip
        if (share := utilisation(run, speed)) is not None:
            entry["mfu"] = round(share, 4)
        self._write(entry)
        self.since, self.since_step = time.perf_counter(), run.step
        if not math.isfinite(entry["loss"]):
            raise Refused(f"step {run.step}: the loss is {entry['loss']}; the newest checkpoint stands; lower the rate")
        self._live(entry, seconds)

    def _live(self, entry: dict[str, Any], seconds: float) -> None:
        steps = self.run.spec.steps
        left = (steps - self.run.step) * seconds / self.run.spec.log_every
        mfu = f" | mfu {entry['mfu']:.1%}" if "mfu" in entry else ""
        line = (f"step {entry['step']}/{steps} | loss {entry['loss']:.4f} | norm {entry['grad_norm']:.2f} | "
                f"{entry['tokens_per_s']:,} tokens/s{mfu} | {left:.0f} s left")  # fmt: skip
        if sys.stderr.isatty():
            print(
                f"\r\033[K{line}", end="" if self.run.step < self.run.spec.steps else "\n", file=sys.stderr, flush=True
            )
        elif self.run.step % (self.run.spec.log_every * 10) == 0 or self.run.step == self.run.spec.steps:
            self.say(line)

    def _watch(self, step: int, loss: float, rows: np.ndarray) -> None:
        """Trace the documents of a step (from 0) whose loss stands out from those before it."""
        recent = self.run.recent
        if len(recent) == _REMEMBERED:
            middle = statistics.median(recent)
            spread_ = 1.4826 * statistics.median(abs(value - middle) for value in recent)
            if not loss <= middle + self.run.spec.spike * max(spread_, 0.01 * abs(middle)):  # NaN is one too
                windows = traced(self.run.data, self.run.corpus, step, self.run.spec.batch, rows)
                record = {"step": step + 1, "loss": loss, "before": middle, "windows": windows}
                storage.write_json(self.run.folder / "spikes" / f"step-{step + 1}.json", finite(record))
                self.say(f"step {step + 1}: loss {loss:.3f} after {middle:.3f}; its documents are in "
                         f"{self.run.folder / 'spikes'}")  # fmt: skip
        recent.append(loss)
        del recent[:-_REMEMBERED]

    def _write(self, entry: dict[str, Any]) -> None:
        with (self.run.folder / "log.jsonl").open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(finite(entry), ensure_ascii=False, allow_nan=False) + "\n")
        for name, value in entry.items() if self.board else ():
            if isinstance(value, (int, float)) and name != "step":
                self.board.add_scalar(name, value, entry["step"])

    def evaluated(self, facts: dict[str, Any]) -> None:
        self.flush()
        self.since = time.perf_counter()
        self.result = facts
        if self.run.ranks.first and facts["tokens"]:
            self._write({"step": self.run.step, "val_loss": facts["loss"], "bpb": facts["bpb"]})
            self.say(f"step {self.run.step}: held-out {facts['loss']:.4f} nats a token, {facts['bpb']:.4f} bits a byte")

    def close(self) -> dict[str, Any]:
        """Write the curve and the summary."""
        run = self.run
        samples = run.step * run.spec.batch
        done = {"steps": run.step, "tokens": samples * run.recipe.model.context, **run.facts,
                "cpu_seconds": round(run.cpu_seconds(), 2), "held_out": self.result,
                "consumed": run.data.consumed(samples), "tokens_by": run.data.tokens_by(samples),
                "fingerprint": run.data.fingerprint}  # fmt: skip
        if run.ranks.first:
            storage.write_json(run.folder / "summary.json", done)
            trained, held = read_log(run.folder)
            picture = chart.curves(run.recipe.name, {"training": trained, "held out": held}, "step", "nats a token")
            (run.folder / "curve.svg").write_text(picture, encoding="utf-8")
            if self.board:
                self.board.close()
        return done


def finite(value: Any) -> Any:
    """A value for JSON, which has no NaN and no infinity: None in their place."""
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cpu_now() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _micro_batch(spec: LoopSpec, ranks: Ranks) -> int:
    """Windows a rank takes at once. Raises `Refused` where the batch does not divide."""
    if spec.batch % ranks.size:
        raise Refused(f"batch: {spec.batch} windows do not divide among {ranks.size} ranks")
    micro = spec.micro_batch or spec.batch // ranks.size
    if spec.batch // ranks.size % micro:
        raise Refused(f"micro_batch: {spec.batch // ranks.size} windows a rank do not divide by {micro}")
    return micro


def _check(data: Dataset, spec: LoopSpec) -> None:
    windows = sum(data.order.sizes)
    if windows < spec.batch:
        raise Refused(f"{data.corpus.folder}: {windows} windows of {data.context} tokens are fewer than a batch of "
                      f"{spec.batch}; a smaller batch or context, or more text")  # fmt: skip
    data.tokens.check_vocabulary()


def _cut_logs(folder: Path, step: int, batch: int) -> None:
    """Take away what was logged after the checkpoint that the run goes back to."""
    rows = folder / "rows.f32"
    if rows.exists():
        with rows.open("r+b") as handle:
            handle.truncate(4 * step * batch)
    if (log := folder / "log.jsonl").exists():
        lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        log.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else text[:117] + "..."


def utilisation(run: Run, tokens_per_s: float) -> float | None:
    """Model FLOPs utilisation over all ranks; None on a device whose peak is not known."""
    if run.ranks.device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(run.ranks.device)
    peak = next((peak for part, peak in _PEAK.items() if part in name), None)
    return tokens_per_s * run.facts["flops_per_token"] / (peak * run.ranks.size) if peak else None


def read_rows(folder: Path, batch: int) -> np.ndarray:
    """The loss of each window of each step: float32 (steps, batch)."""
    path = folder / "rows.f32"
    flat = np.fromfile(path, "<f4") if path.exists() else np.zeros(0, "<f4")
    return flat[: len(flat) // batch * batch].reshape(-1, batch)


def read_log(folder: Path) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """(step, loss) of the training lines and of the held-out lines of a log."""
    path = folder / "log.jsonl"
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    return ([(entry["step"], entry["loss"]) for entry in entries if entry.get("loss") is not None],
            [(entry["step"], entry["val_loss"]) for entry in entries if "val_loss" in entry])  # fmt: skip


def traced(data: Dataset, corpus: Corpus, step: int, batch: int, rows: np.ndarray | None) -> list[dict[str, Any]]:
    """The windows of a step (from 0), highest loss first: the loss and the documents of each, with id and url."""
    windows: dict[int, list] = {}
    for share in data.trace(step * batch, batch):
        windows.setdefault(share.sample, []).append(share)
    found = []
    for sample, shares in windows.items():
        table = corpus.docs.take([share.document for share in shares])
        columns = {name: table[name].to_pylist() for name in ("id", "url", "source") if name in table.column_names}
        documents = [{**{name: values[i] for name, values in columns.items()}, "document": share.document,
                      "start": share.start, "tokens": share.tokens, "share": round(share.share, 4)}
                     for i, share in enumerate(shares)]  # fmt: skip
        loss = None if rows is None else float(rows[sample - step * batch])
        found.append({"sample": sample, "loss": loss, "mix": shares[0].source, "epoch": shares[0].epoch,
                      "documents": documents})  # fmt: skip
    return sorted(found, key=lambda window: -(window["loss"] or 0.0))
