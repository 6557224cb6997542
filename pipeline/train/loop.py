"""The training loop: batches in their order, steps, the log, held-out loss, checkpoints; starting again continues.

runs/NAME/recipe.json     as resolved
          identity.json   what the result depends on, with its digest: a run goes on only as the same (`identity.py`)
          log.jsonl       a line every `log_every` steps, and one a held-out evaluation
          rows.f32        the loss of every window of every step: float32, `batch` a step
          spikes/         the documents behind a sudden loss
          step-N/         checkpoints
          curve.svg  summary.json
"""

import itertools
import json
import math
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline import chart, storage
from pipeline.corpus import Corpus
from pipeline.train import checkpoint, evaluate, identity, optim
from pipeline.train.data import IGNORED, Batch, Dataset
from pipeline.train.identity import Identity
from pipeline.train.model import GPT
from pipeline.train.order import BLOCK
from pipeline.train.ranks import Ranks, bare, device_type, exchange, joined, precision, spread, use_threads
from pipeline.train.recipe import LoopSpec, Recipe, Refused, read_record

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
        self.identity = identity_of(recipe, corpus)
        self.schedules: list[list[int]] = []
        self.bf16 = precision(self.spec) == "bf16"
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

    def resume(self, say: Callable[[str], None]) -> bool:
        """Go back to the newest whole checkpoint, if there is one; damaged ones are said and renamed.

        Raises `Refused`, before anything is changed, where the folder is of a run that cannot go on as this one.
        """
        path = checkpoint.newest(self.folder, say)
        state = checkpoint.read_state(path) if path else None
        if (old := _recorded(self.folder, path, state)) is not None:
            identity.refuse_changes(self.folder, old, self.identity)
        self.ranks.wait()
        if path and state:
            checkpoint.restore(path, self.model, self.optimizers)
            self.step, self.cpu_before = state["step"], self.cpu_before + state["cpu_seconds"]
            self.schedules = state["schedules"]
        if not self.schedules or self.schedules[-1][1] != self.spec.steps:
            self.schedules = [*self.schedules, [self.step, self.spec.steps]]
        if self.ranks.first:
            _set_aside(self.folder, self.step)
            _cut_logs(self.folder, self.step, self.spec.batch)
            means = read_rows(self.folder, self.spec.batch)[-_REMEMBERED:].mean(1)
            self.recent = means[np.isfinite(means)].tolist()
        self.ranks.wait()
        return path is not None

    def finished(self, say: Callable[[str], None]) -> dict[str, Any] | None:
        """The summary, where the run has come to its end and the summary is of this recipe; otherwise None."""
        try:
            done = read_record(self.folder / "summary.json", "steps")
        except Refused as error:  # the checkpoint is whole, so it can be made again
            say(f"{error}; it is written again")
            return None
        same = done is not None and done.get("recipe_digest") == self.identity.digest
        return done if done and same and self.step == done["steps"] == self.spec.steps else None

    def claim(self) -> None:
        """Write down whose folder this is; a summary of fewer steps is removed, since the run goes on."""
        with naming(self.folder):
            identity.write(self.folder, identity.Record(self.identity, self.corpus.folder))
            storage.write_json(self.folder / "recipe.json", self.recipe.model_dump(mode="json"))
            (self.folder / "summary.json").unlink(missing_ok=True)

    def cpu_seconds(self) -> float:
        """Of the run so far, the compilers it called and the processes it goes on from included."""
        return self.cpu_before + _cpu_now()

    def save(self) -> None:
        state = {"step": self.step, "seed": self.spec.seed, "cpu_seconds": self.cpu_seconds(),
                 "consumed": self.data.consumed(self.step * self.spec.batch), "fingerprint": self.data.fingerprint,
                 "vocabulary": self.corpus.manifest["vocab_size"], "corpus_folder": str(self.corpus.folder),
                 "schedules": self.schedules, "recipe_digest": self.identity.digest,
                 "identity": self.identity.fields}  # fmt: skip
        checkpoint.save(self.folder, self.model, self.optimizers, self.corpus, state, self.spec.keep, self.ranks)

    def evaluate(self) -> dict[str, Any]:
        """The held-out documents' loss and bits per byte."""
        masked = self.recipe.data.mask == "document"
        scores = evaluate.score(bare(self.model), self.held_out, self.recipe.model.context, self.ranks, masked)
        return evaluate.summary(self.held_out, scores)


def train(recipe: Recipe, corpus: Corpus, folder: Path, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Carry a recipe out in `folder`, from its newest checkpoint if there is one; returns the summary.

    Raises `Refused` with the reason where the run must not start, `storage.Locked` where another process holds the
    folder, `checkpoint.NotSaved` where a checkpoint cannot be written.
    """
    use_threads(recipe.train)
    with joined(recipe.train) as ranks, storage.lock(folder) if ranks.first else nullcontext():
        run = Run(recipe, corpus, folder, ranks)
        say = say if ranks.first else quiet
        resumed = run.resume(say)
        if done := run.finished(say):
            say(f"{folder}: done before, nothing to do")
            return done
        _announce(run, resumed, say)
        if ranks.first:
            run.claim()
        log = Log(run, say)
        for batch in run.batches():
            log.take(*run.advance(batch))
            due = run.step == recipe.train.steps
            if due or (recipe.train.eval_every and run.step % recipe.train.eval_every == 0):
                log.evaluated(run.evaluate())
            if due or (recipe.train.save_every and run.step % recipe.train.save_every == 0):
                log.flush()
                run.save()
        if not log.result:  # killed between the last checkpoint and the summary
            log.result = run.evaluate()
        return log.close()


def identity_of(recipe: Recipe, corpus: Corpus) -> Identity:
    """What the result of this recipe on this corpus depends on, on this machine."""
    return identity.of(recipe, corpus, precision(recipe.train))


def exact_digest(recipe: Recipe, corpus: Corpus) -> str:
    """A digest of all that the figures of a run depend on to the last digit, torch and the device included."""
    machine = (torch.__version__, device_type(recipe.train))
    return identity.exact(identity_of(recipe, corpus), recipe, *machine)


def _recorded(folder: Path, path: Path | None, state: dict[str, Any] | None) -> Identity | None:
    """The identity of the run that a folder holds: by the checkpoint it goes on from, or by what it began with.

    None of a folder without a run. Raises `Refused` where a checkpoint does not say.
    """
    if state is None:
        record = identity.read(folder)
        return record and record.identity
    if missing := [name for name in ("identity", "schedules", "cpu_seconds") if name not in state]:
        raise Refused(f"{path}: was written by an earlier version of the trainer and lacks {', '.join(missing)}: "
                      "its recipe cannot be compared with this one; give another --out, or remove it")  # fmt: skip
    return Identity(state["identity"])


def _set_aside(folder: Path, step: int) -> None:
    """Rename the checkpoints beyond the one that a run goes on from: they are damaged, and must not count as kept."""
    for path in checkpoint.found(folder):
        if int(path.name.removeprefix("step-")) > step:
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the name of a file or folder on an `OSError` that has none, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


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
    for before, after in itertools.pairwise(run.schedules):
        say(f"the learning rate followed a schedule of {before[1]} steps up to step {after[0]}: a new run of "
            f"{after[1]} steps would give other figures")  # fmt: skip


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

            self.board = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.step + 1)

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
        norms = torch.stack([norm for _, norm in self.pending]).tolist()
        self.pending = []
        if run.ranks.first:
            self._tell(rows, norms)
        _refuse_no_number(run.step - len(rows), rows.mean(1).tolist(), norms)

    def _tell(self, rows: np.ndarray, norms: list[float]) -> None:
        """Write down the losses (steps, batch) and gradient norms of the steps up to this one."""
        run = self.run
        path = run.folder / "rows.f32"
        with naming(path), path.open("ab") as handle:
            handle.write(rows.astype("<f4").tobytes())
        for i, loss in enumerate(rows.mean(1).tolist()):
            self._watch(run.step - len(rows) + i, loss, rows[i])
        seconds, tokens = time.perf_counter() - self.since, run.spec.batch * run.recipe.model.context
        speed = (run.step - self.since_step) * tokens / max(seconds, 1e-9)
        entry = {"step": run.step, "loss": float(rows.mean()), "lr": run.optimizers[0].param_groups[0]["lr"],
                 "grad_norm": norms[-1], "tokens": run.step * tokens, "tokens_per_s": round(speed),
                 "cpu_seconds": round(run.cpu_seconds(), 2),
                 "consumed": run.data.consumed(run.step * run.spec.batch)}  # fmt: skip
        if (share := utilisation(run, speed)) is not None:
            entry["mfu"] = round(share, 4)
        self._write(entry)
        self.since, self.since_step = time.perf_counter(), run.step
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
        """Trace the documents of a step (from 0) whose loss stands out from those before it, or is no number.

        Of losses that are no number only the first is traced: it is the cause of the others.
        """
        recent = self.run.recent
        middle = statistics.median(recent) if recent else None
        if not math.isfinite(loss):
            stands_out = all(map(math.isfinite, recent))
        elif stands_out := middle is not None and len(recent) == _REMEMBERED:
            spread_ = 1.4826 * statistics.median(abs(value - middle) for value in recent)
            stands_out = loss > middle + self.run.spec.spike * max(spread_, 0.01 * abs(middle))
        if stands_out:
            windows = traced(self.run.data, self.run.corpus, step, self.run.spec.batch, rows)
            record = {"step": step + 1, "loss": loss, "before": middle, "windows": windows}
            path = self.run.folder / "spikes" / f"step-{step + 1}.json"
            with naming(path):
                storage.write_json(path, finite(record))
            after = "" if middle is None else f" after {middle:.3f}"
            self.say(f"step {step + 1}: loss {loss:.3f}{after}; its documents are in {path.parent}")
        recent.append(loss)
        del recent[:-_REMEMBERED]

    def _write(self, entry: dict[str, Any]) -> None:
        path = self.run.folder / "log.jsonl"
        with naming(path), path.open("a", encoding="utf-8") as handle:
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
                "fingerprint": run.data.fingerprint, "schedules": run.schedules,
                "recipe_digest": run.identity.digest}  # fmt: skip
        if run.ranks.first:
            trained, held = read_log(run.folder)
            picture = chart.curves(run.recipe.name, {"training": trained, "held out": held}, "step", "nats a token")
            with naming(run.folder):
                (run.folder / "curve.svg").write_text(picture, encoding="utf-8")
                storage.write_json(run.folder / "summary.json", done)  # last: a run that has one is finished
            if self.board:
                self.board.close()
        return done


def _refuse_no_number(first: int, losses: list[float], norms: list[float]) -> None:
    """Raise `Refused` where a loss or a gradient of the steps after `first` is no number: the weights are spoilt.

    A gradient that is no number spoils the weights one step before the loss shows it, so that a checkpoint of that
    step would be worthless.
    """
    for step, (loss, norm) in enumerate(zip(losses, norms), first + 1):
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = f"the loss is {loss}" if not math.isfinite(loss) else f"the norm of the gradient is {norm}"
            raise Refused(f"step {step}: {what}; the newest checkpoint stands; try a lower rate with another --out")


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
    """Take away what was logged after the checkpoint that the run goes back to, at step 0 everything.

    Rows that are missing before it, as after a loss of power, become NaN: no loss is known, which is not a loss of 0.
    """
    path, wanted = folder / "rows.f32", 4 * step * batch
    if path.exists() or wanted:
        with naming(path), path.open("ab") as handle:
            handle.truncate(min(wanted, handle.tell()))
            handle.truncate(path.stat().st_size // 4 * 4)
            handle.write(np.full((wanted - path.stat().st_size) // 4, np.nan, "<f4").tobytes())
    if (log := folder / "log.jsonl").exists():
        kept = [json.dumps(entry, ensure_ascii=False) for entry in read_entries(folder) if entry["step"] <= step]
        with naming(log), storage.atomic(log) as beside:
            beside.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    for spike in (folder / "spikes").glob("step-*.json"):
        if int(spike.stem.removeprefix("step-")) > step:
            spike.unlink()


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


def read_entries(folder: Path) -> list[dict[str, Any]]:
    """The lines of a log; a last one without its end was cut off by a kill and does not count.

    Raises `Refused` with the number of a line that is damaged.
    """
    path = folder / "log.jsonl"
    if not path.exists():
        return []
    entries = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            entries.append(json.loads(line))
            entries[-1]["step"] + 0
        except (ValueError, TypeError, KeyError):
            raise Refused(f"{path}, line {number}: is damaged, it is no entry of a log; remove the line") from None
    return entries


def read_log(folder: Path) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """(step, loss) of the training lines and of the held-out lines of a log. Raises `Refused` on a damaged line."""
    entries = read_entries(folder)
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
        loss = None if rows is None or np.isnan(rows[sample - step * batch]) else float(rows[sample - step * batch])
        found.append({"sample": sample, "loss": loss, "mix": shares[0].source, "epoch": shares[0].epoch,
                      "documents": documents})  # fmt: skip
    return sorted(found, key=lambda window: -(window["loss"] or 0.0))
