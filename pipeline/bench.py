"""How fast, at what quality: each stage alone and the whole run, in CPU-seconds, with the recall of planted duplicates.

Wall time says what a machine was doing; CPU time says what the work costs. Every figure is the median of interleaved
repetitions, so that a slow minute of the machine falls on all stages alike. A speed of deduplication means nothing
without its recall: copies with known edits are planted into the corpus, their Jaccard similarity is computed exactly in
plain Python, and what became of each is read from the ledger.
"""

import gc
import json
import math
import os
import platform
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import config as configs
from pipeline import plan as plans
from pipeline import storage
from pipeline.config import Config, NamedStep
from pipeline.engine import Inline
from pipeline.run import run
from pipeline.rundir import Receipt, RunDir
from pipeline.schema import split_batches, text_bytes
from pipeline.stage import Barrier, Source, Stage

EDITS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06)
"""Shares of words (characters in Chinese) that a planted copy has changed: J from about .98 down to .6."""
BINS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 1.0)

WARMUP = ["The stages compile their kernels when they first see a document; this is one. " * 8,
          "各阶段在第一次处理文档时编译内核，这里是一篇中文文档，用来让编译提前完成。" * 8]  # fmt: skip


class Planted(NamedTuple):
    """A copy with known edits: what it is a copy of, and how similar the two are."""

    original: str  # own identifiers
    copy: str
    similarity: float


def measure(recipe: Config, corpus: list[str], megabytes: int, repeats: int) -> dict[str, Any]:
    """Measure the stages and the whole run of `recipe` on about `megabytes` of text from `corpus` (paths)."""
    with tempfile.TemporaryDirectory(prefix="gristmill-bench-") as name:
        folder = Path(name)
        docs = _documents(recipe, corpus or None, megabytes << 20, folder)
        planted, docs = plant(docs, random.Random(1))
        pq.write_table(docs, folder / "corpus.parquet", **storage.PARQUET, row_group_size=5000)
        text = text_bytes(docs)
        recipe = _fitted(_with_paths(recipe, [str(folder / "corpus.parquet")], text_only=True), folder)
        return {
            "machine": stamp(),
            "corpus": {"documents": len(docs), "text_mb": round(text / 1e6, 2), "planted": len(planted)},
            "stages": _stages(recipe, docs, repeats),
            "runs": [_whole(recipe, folder, workers, text, repeats) for workers in (0, 1, 2)],
            "recall": recall(planted, folder / "run-0"),
        }


def stamp() -> dict[str, Any]:
    """Where and with what a figure was measured."""
    libraries = ("gristmill", "pyarrow", "numba", "numpy", "ray", "tokenizers")
    return {"date": time.strftime("%Y-%m-%d"), "python": platform.python_version(), "processor": _processor(),
            "cores": os.cpu_count(), "libraries": {name: metadata.version(name) for name in libraries}}  # fmt: skip


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    found = re.search(r"^model name\s*: (.*)$", text, re.M)
    return found[1] if found else platform.machine()


def _with_paths(recipe: Config, paths: list[str], text_only: bool) -> Config:
    """The recipe reading other paths; `text_only` leaves out `extract`, since there is no markup any more."""
    first = recipe.steps[0]
    source = type(first.step).model_validate({**first.step.model_dump(), "paths": paths, "id_field": "source_id"}
                                             if text_only else {**first.step.model_dump(), "paths": paths})  # fmt: skip
    rest = [named for named in recipe.steps[1:] if not (text_only and named.name == "extract")]
    return recipe._replace(steps=(NamedStep(first.name, source), *rest))


def _documents(recipe: Config, corpus: list[str] | None, limit: int, folder: Path) -> pa.Table:
    """About `limit` bytes of text from the corpus, markup extracted: own identifier and text."""
    reading = _with_paths(recipe, corpus, False) if corpus else recipe
    steps = [reading.steps[0], *(named for named in reading.steps[1:] if named.name == "extract")]
    plan = plans.make(Config("read", 0, tuple(steps)))
    tables, size = [], 0
    for split in plan.splits:
        for batch in _through(steps, split):
            tables.append(batch.select(["text"]))
            size += text_bytes(batch)
            if size >= limit:
                break
        if size >= limit:
            break
    texts = pa.concat_tables(tables).combine_chunks()
    texts = next(split_batches(texts, limit))
    names = pa.array([f"b{row}" for row in range(len(texts))])
    return pa.table({"source_id": names, "text": texts["text"]})


def _fitted(recipe: Config, folder: Path) -> Config:
    """The recipe with what a stage has to learn learned beforehand: training is not part of a run's speed."""
    steps = []
    for name, step in recipe.steps:
        if plans.must_fit(step):
            docs = pq.read_table(folder / "corpus.parquet").rename_columns({"source_id": "id"})
            pq.write_table(docs, folder / "fit.parquet")
            step.fit([folder / "fit.parquet"], folder / name)  # type: ignore[union-attr]
            step = step.fitted(folder / name)  # type: ignore[union-attr]
        steps.append(NamedStep(name, step))
    return recipe._replace(steps=tuple(steps))


def _through(steps: list[NamedStep], split: Any) -> Iterator[pa.Table]:
    source = steps[0].step
    assert isinstance(source, Source)
    for batch in source.read(split):
        for named in [None, *steps[1:]]:
            batch = named.step.apply(batch) if named else batch  # type: ignore[union-attr]
            batch = batch.filter(pc.is_null(batch["drop"])) if "drop" in batch.column_names else batch
            batch = batch.drop_columns(
                [name for name in ("drop", "drop_value", "drop_limit") if name in batch.column_names]
            )
        yield batch


def plant(docs: pa.Table, rng: random.Random, share: float = 0.1) -> tuple[list[Planted], pa.Table]:
    """Add edited copies of some documents; returns what was planted and the documents, shuffled."""
    texts = dict(zip(docs["source_id"].to_pylist(), docs["text"].to_pylist()))
    long = [name for name, text in texts.items() if 600 <= len(text) <= 30_000]
    rng.shuffle(long)
    words = sorted({word for name in long[:200] for word in texts[name].split()[:60]})
    planted, copies = [], {}
    for place, name in enumerate(long[: int(len(long) * share)]):
        copies[f"p{place}"] = text = _edited(texts[name], EDITS[place % len(EDITS)], rng, words)
        planted.append(Planted(name, f"p{place}", jaccard(texts[name], text)))
    everything = [*texts.items(), *copies.items()]
    rng.shuffle(everything)
    names, bodies = zip(*everything)
    return planted, pa.table({"source_id": pa.array(names), "text": pa.array(bodies)})


_HAN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")


def _edited(text: str, rate: float, rng: random.Random, words: list[str]) -> str:
    """A copy with this share of units replaced, dropped or added: characters where Han prevails, else words."""
    han = len(_HAN.findall(text)) > len(text) / 3
    units = list(text) if han else re.split(r"(\s+)", text)
    spare = _HAN.findall(text) if han else words
    out: list[str] = []
    for unit in units:
        if unit.isspace() or rng.random() >= rate:
            out.append(unit)
            continue
        kind = rng.random()
        if kind < 0.6:
            out.append(rng.choice(spare))
        elif kind < 0.8:
            out += [unit, "" if han else " ", rng.choice(spare)]
    return "".join(out)


def shingles(text: str) -> set[tuple[str, ...]]:
    """5-grams of words, or 8-grams of characters where Han prevails, in plain Python."""
    units = re.findall(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+", text.lower())
    size = 8 if len(_HAN.findall(text)) > len(units) / 2 else 5
    return {tuple(units[at : at + size]) for at in range(max(1, len(units) - size + 1))}


def jaccard(one: str, other: str) -> float:
    """Exact Jaccard similarity of the two texts' shingle sets."""
    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b)


def _stages(recipe: Config, docs: pa.Table, repeats: int) -> list[dict[str, Any]]:
    """Each stage alone on the same documents, in turn, `repeats` times; the first round, which compiles, is apart."""
    prepared = _prepared(recipe)
    rounds: dict[str, list[float]] = {name: [] for name, _, _ in prepared}
    size = text_bytes(docs)
    for _ in range(repeats + 1):
        for name, work, batches in prepared:
            started = time.process_time()
            for batch in batches:
                work(batch)
            rounds[name].append(time.process_time() - started)
    medians = {name: statistics.median(seconds[1:] or seconds) for name, seconds in rounds.items()}
    return [
        {"stage": name, "cpu_s": round(spent, 4), "first_cpu_s": round(rounds[name][0], 2),
         "mb_per_cpu_s": round(size / 1e6 / spent, 2), "docs_per_cpu_s": round(len(docs) / spent)}
        for name, spent in medians.items()
    ]  # fmt: skip


def _prepared(recipe: Config) -> list[tuple[str, Callable[[pa.Table], Any], list[pa.Table]]]:
    """What to time: the stage's name, its function, the batches it would get if nothing had been dropped."""
    plan = plans.make(Config("stages", 0, (recipe.steps[0],)))
    source = recipe.steps[0].step
    assert isinstance(source, Source)
    batches = [batch.drop_columns(["drop", "drop_value", "drop_limit"]) for split in plan.splits
               for batch in source.read(split)]  # fmt: skip
    prepared: list[tuple[str, Callable[[pa.Table], Any], list[pa.Table]]] = []
    for name, step in recipe.steps[1:]:
        if isinstance(step, Barrier):
            prepared.append((f"{name} sketch", step.sketch, batches))
        elif isinstance(step, Stage):
            prepared.append((name, step.apply, batches))
            batches = [_undropped(step.apply(batch), batch) for batch in batches]
    return prepared


def _undropped(after: pa.Table, before: pa.Table) -> pa.Table:
    """The columns a stage added, with the text as it was: the next stage is timed on all of it."""
    dropped = [name for name in ("drop", "drop_value", "drop_limit") if name in after.column_names]
    after = after.drop_columns(dropped)
    return after.set_column(after.schema.get_field_index("text"), "text", before["text"])


def measure_run(recipe: Config, out: Path) -> tuple[dict[str, Any], float]:
    """Run `recipe` into `out` in a process of its own; returns its report and the seconds on the clock."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        file.write(configs.dump(recipe))
        file.flush()
        started = time.monotonic()
        command = [sys.executable, "-m", "pipeline", "run", file.name, "--out", str(out)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    report = RunDir(out).read_report()
    assert report  # the command above ended with exit code 0
    return report, time.monotonic() - started


def _whole(recipe: Config, folder: Path, workers: int, text: int, repeats: int) -> dict[str, Any]:
    """The whole run from Parquet to shards, `repeats` times; the first one, which loads and compiles, is apart."""
    out = folder / f"run-{workers}"
    results = []
    for _ in range(repeats + 1):
        shutil.rmtree(out, ignore_errors=True)
        report, wall = measure_run(recipe._replace(workers=workers), out)
        results.append((report["task_cpu_seconds"], wall, report["peak_rss_mb"]))
    counted = results[1:] or results
    cpu = statistics.median(result[0] for result in counted)
    return {"workers": workers, "cpu_s": round(cpu, 2), "mb_per_cpu_s": round(text / 1e6 / cpu, 2),
            "wall_s": round(statistics.median(result[1] for result in counted), 2),
            "first_cpu_s": results[0][0], "peak_rss_mb": max(result[2] for result in results)}  # fmt: skip


def recall(planted: list[Planted], folder: Path) -> list[dict[str, Any]]:
    """Of the pairs that reached deduplication, by similarity: how many lost a member, with a 95 % interval (Wilson)."""
    import pyarrow.dataset as ds  # here, since it brings pandas in where that is installed

    ledger = ds.dataset([str(path) for path in RunDir(folder).ledger_files], format="parquet")
    fate = {row["source_id"]: row["reason"] or "kept"
            for row in ledger.to_table(columns=["source_id", "reason"]).to_pylist()}  # fmt: skip
    rows = []
    for low, high in zip(BINS, BINS[1:]):
        pairs = [(fate[p.original], fate[p.copy]) for p in planted if low <= p.similarity < high]
        reached = [pair for pair in pairs if all(one == "kept" or one.startswith("duplicate") for one in pair)]
        found = sum(any(one.startswith("duplicate") for one in pair) for pair in reached)
        rows.append({"from": low, "to": high, "pairs": len(reached), "found": found,
                     "recall": round(found / len(reached), 4) if reached else None,
                     "interval": wilson(found, len(reached))})  # fmt: skip
    return rows


def wilson(hits: int, trials: int) -> list[float] | None:
    """The 95 % Wilson score interval of a share (Wilson 1927)."""
    if not trials:
        return None
    z, share = 1.96, hits / trials
    middle = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return [round(max(0.0, (middle - spread) / scale), 4), round(min(1.0, (middle + spread) / scale), 4)]


class _Silent:
    """A `Watch` that says nothing."""

    def begin(self, what: str, tasks: int, done: int, size: int) -> None: ...

    def advance(self, receipt: Receipt | None, size: int) -> None: ...

    def running(self, documents: int) -> None: ...

    def note(self, line: str) -> None: ...

    def end(self) -> None: ...


FIRST: dict[str, list[Any]] = {"reading": []}
"""What every run needs beside its stages: the kernels of the source itself, compiled before those of the others."""

FAMILIES: dict[str, list[Any]] = {
    "text": ["extract", "language", "pii", "quality"],
    "corpus": ["dedup", {"lines": {"max_documents": 1}}, {"tokens": {"train": {"vocab_size": 300}}}, "shards"],
}
"""Stages whose kernels are compiled in one process. No kernel is in two families, so that no file of the cache is
written by two processes; each takes about as long as the other."""

SCORES = ("classify", "perplexity")
LATER: dict[str, list[Any]] = {"scores": ["language", *SCORES]}
"""A family that shares kernels with the others: it is compiled after them, and before a run only if that has scores."""


class NotCompiled(OSError):
    """Kernels could not be compiled; the message says which and why."""


def warm_once(stages: Iterable[str]) -> None:
    """Compile the kernels of these stages here, unless that was done: or else every worker of the first run would do it
    for itself."""
    cache = os.environ.get("NUMBA_CACHE_DIR")  # set by the kernels when the configuration imported them
    wanted = [*FIRST, *FAMILIES, *(LATER if set(SCORES) & set(stages) else ())]
    missing = [family for family in wanted if cache and not _flag(cache, family).exists()]
    if missing:
        print("compiling kernels, once")
        warmup(missing)


def warmup(families: Collection[str] = (*FIRST, *FAMILIES, *LATER)) -> float:
    """Compile and cache every kernel, each family in a process of its own, as many at once as there are cores.

    Returns the seconds it took. Raises `NotCompiled`.
    """
    started = time.monotonic()
    for family in families:
        if family in FIRST:
            compile_apart(family)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(min(cores, len(FAMILIES))) as threads:
        list(threads.map(compile_apart, [family for family in families if family in FAMILIES]))
    for family in families:
        if family in LATER:
            compile_apart(family)
    return time.monotonic() - started


def _flag(cache: str, family: str) -> Path:
    return Path(cache, f"warm-{family}")


def compile_apart(family: str) -> None:
    """Compile a family in a process of its own. Raises `NotCompiled`."""
    here = f"import sys; sys.path[:] = {sys.path!r}"  # else the working folder comes first, whatever is in it
    command = [sys.executable, "-c", f"{here}\nfrom pipeline import bench; bench.compile_family({family!r})"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise NotCompiled(f"the kernels of {_named(family)} did not compile: {why}")


def _named(family: str) -> str:
    stages = {**FIRST, **FAMILIES, **LATER}[family]
    return ", ".join(stage if isinstance(stage, str) else next(iter(stage)) for stage in stages)


def compile_family(family: str) -> None:
    """Compile the kernels of a family in this process, by running a small real corpus through its stages."""
    gc.disable()  # a compiler makes many small objects that stay: looking for dead ones takes a sixth of the time
    with tempfile.TemporaryDirectory(prefix="gristmill-warmup-") as name:
        folder = Path(name)
        lines = [json.dumps({"text": text + str(i)}, ensure_ascii=False) for i in range(4) for text in WARMUP]
        lines.append(json.dumps({"text": WARMUP[0].replace(" ", "\r\n \r\n", 1)}))  # lines that are made regular
        (folder / "in.jsonl").write_text("\n".join(lines), encoding="utf-8")
        (folder / "in.html").write_text(f"<html><body><p>{WARMUP[0]}</p></body></html>", encoding="utf-8")
        paths = [str(folder / "in.jsonl"), str(folder / "in.html")]
        stages = [{"collect": {"paths": paths}}, *{**FIRST, **FAMILIES, **LATER}[family]]
        recipe = configs.check({"name": "warmup", "stages": stages}, "warmup")
        told = run(plans.make(recipe), folder / "run", Inline(), _Silent())
        if told["failed"]:
            raise RuntimeError(told["failed"][0]["message"])
    flag = _flag(os.environ["NUMBA_CACHE_DIR"], family)
    flag.parent.mkdir(parents=True, exist_ok=True)
    flag.touch()
