"""What the field's deduplicators find, what they lose, and what they cost, held against an exact all-pairs join.

    python benchmarks/dedup_peers.py --english en/*.parquet --chinese zh.parquet [--documents 20000] [--longest 5000]

The files have a column `text`. Documents are taken by the hash of their text, none longer than `--longest` bytes (the
slowest tool reads 0.4 MB in a CPU-second). Every tool runs in a process of its own, with the Python of an environment
of its own under `--environments`, where it is installed by name if it is not there (`dedup_work.py` is what it runs).

Truth is in the shingles of this project: word 5-grams, 8-grams of Han characters, after normalisation. The others cut
words otherwise, so a pair just above J = 0.8 here may lie below it there, and the reverse; what is counted as a false
removal at J < 0.5 is nobody's rounding. Documents of one normalised text are one: a pair is found if not both are kept,
and a removal is false if no kept document has J >= 0.8 with it or holds 95 % of its shingles and is no smaller.

Prints a Markdown table a corpus. CPU-seconds and peak memory are those of the whole process and its children, starting
included, the median of three runs where one takes less than `--short` CPU-seconds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from dedup_truth import load, truth

from stages.dedup import Dedup

HERE = Path(__file__).resolve().parent
INSTALL = {
    "datatrove": ["datatrove[processing,io]==0.10.1", "spacy==3.8.18", "jieba==0.42.1", "xxhash==3.8.2"],
    "text-dedup": ["text-dedup==0.4.0", "pyarrow"],
    "data-juicer": ["py-data-juicer==1.6.1", "aiohttp", "torch"],
    "datasketch": ["datasketch==2.0.0", "pyarrow==26.0.1"],
    "rensa": ["rensa==0.5.0", "pyarrow==26.0.1"],
}
TOOLS = {
    "gristmill": "",  # with this interpreter
    "datatrove": "datatrove",
    "datatrove-14x8": "datatrove",
    "text-dedup": "text-dedup",
    "data-juicer": "data-juicer",
    "datasketch": "datasketch",
    "rensa": "rensa",
    "rensa-lsh": "rensa",
}
TOLD = ("datatrove", "data-juicer", "datasketch", "rensa", "rensa-lsh")  # these can be told that a corpus is Chinese
BINS = (0.8, 0.85, 0.9, 1.0)
WATCH = """
import json, resource, subprocess, sys
with open(sys.argv[1], "wb") as said:
    code = subprocess.run(sys.argv[2:], stdout=said, stderr=said).returncode
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([code, usage.ru_utime + usage.ru_stime, usage.ru_maxrss]))
"""  # a small process between, since a child's peak begins with that of the process that started it


class Truth(NamedTuple):
    """What is so of a corpus; documents of one normalised text are one class."""

    path: Path
    classes: np.ndarray  # of each document
    pairs: np.ndarray  # int64[n, 2]: classes with J >= 0.8
    alike: np.ndarray  # float64[n]: their J
    starts: np.ndarray
    shingles: np.ndarray  # of class x from starts[x] to starts[x + 1], numbered from 0


class Cost(NamedTuple):
    """Of one process and its children."""

    cpu: float  # seconds
    peak: float  # MiB


def corpus(paths: list[Path], asked: argparse.Namespace, out: Path) -> Truth:
    """Write the documents to `out`, and find every similar pair among them."""
    dedup = Dedup()
    texts = [text for text in load(paths, sys.maxsize) if len(text.encode()) <= asked.longest][: asked.documents]
    sketches = dedup.sketch_texts(pa.chunked_array([texts]))
    exact = np.stack([sketches[name].to_numpy() for name in ("exact_hi", "exact_lo")], axis=1)
    some = exact.any(axis=1)
    texts = [text for text, is_some in zip(texts, some.tolist(), strict=True) if is_some]
    pq.write_table(pa.table({"id": [str(i) for i in range(len(texts))], "text": texts}), out)
    _, heads, classes = np.unique(exact[some], axis=0, return_index=True, return_inverse=True)
    pairs, alike, (starts, ranks) = truth(texts, heads, dedup)
    print(f"\n{len(texts):,} documents, {sum(len(text.encode()) for text in texts) / 1e6:.1f} MB, "
          f"{len(heads):,} of them distinct; {len(pairs):,} pairs with J >= {BINS[0]}\n")  # fmt: skip
    return Truth(out, classes.reshape(-1), pairs, alike, starts, ranks)


def python_of(tool: str, asked: argparse.Namespace) -> Path:
    """The interpreter of a tool's environment, made and filled when it is not there."""
    if not TOOLS[tool]:
        return Path(sys.executable)
    folder = asked.environments / TOOLS[tool]
    if not (folder / "bin/python").exists():
        subprocess.run([asked.python, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin/python", "-m", "pip", "install", "-q", *INSTALL[TOOLS[tool]]], check=True)
    return folder / "bin/python"


def run(command: list[str], log: Path) -> Cost:
    """Run a command; raises `CalledProcessError` when it fails, with the end of what it said."""
    single = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    watched = [sys.executable, "-c", WATCH, str(log), *command]
    done = subprocess.run(watched, stdout=subprocess.PIPE, env={**os.environ, **single}, cwd=HERE.parent, check=True)
    code, cpu, peak = json.loads(done.stdout)
    if code:
        raise subprocess.CalledProcessError(code, command, log.read_text(encoding="utf-8", errors="replace")[-500:])
    return Cost(cpu, peak / 1024)


def measure(tool: str, facts: Truth, script: str, asked: argparse.Namespace) -> tuple[np.ndarray, Cost]:
    """Which documents a tool keeps (bool, by document), and what that cost."""
    out = facts.path.with_suffix(".kept")
    command = [str(python_of(tool, asked)), str(HERE / "dedup_work.py"), tool, str(facts.path), str(out), script]
    costs = [run(command, out.with_suffix(".log"))]
    while len(costs) < 3 and costs[0].cpu < asked.short:
        costs.append(run(command, out.with_suffix(".log")))
    kept = np.zeros(len(facts.classes), bool)
    kept[np.array(out.read_text(encoding="utf-8").split(), np.int64)] = True
    return kept, Cost(statistics.median(cost.cpu for cost in costs), max(cost.peak for cost in costs))


def unfounded(facts: Truth, kept: np.ndarray, dedup: Dedup) -> np.ndarray:
    """For each class of which nothing is kept and nothing justifies it, the greatest J with any kept one (else -1)."""
    starts, sizes = facts.starts, np.diff(facts.starts)
    owners = np.repeat(np.arange(len(sizes)), sizes)
    order = np.argsort(facts.shingles, kind="stable")
    lists, begins = owners[order], np.searchsorted(facts.shingles[order], np.arange(facts.shingles.max() + 2))
    best = np.full(len(sizes), -1.0)
    for x in np.flatnonzero(~kept):
        mine = facts.shingles[starts[x] : starts[x + 1]]
        met = np.concatenate([np.zeros(0, np.int64), *(lists[begins[one] : begins[one + 1]] for one in mine)])
        common = np.bincount(met, minlength=len(sizes)) * kept
        alike = common / np.maximum(sizes + len(mine) - common, 1)
        inside = (common >= dedup.containment * len(mine) - 1e-9) & (sizes >= len(mine)) & (common > 0)
        if not inside.any() and alike.max() < dedup.threshold - 1e-9:
            best[x] = alike.max()
    return best


def row(tool: str, facts: Truth, script: str, asked: argparse.Namespace) -> str:
    """One line of the table."""
    kept, cost = measure(tool, facts, script, asked)
    class_kept = np.bincount(facts.classes, kept, facts.classes.max() + 1) > 0
    best = unfounded(facts, class_kept, Dedup())[facts.classes]
    found = ~class_kept[facts.pairs].all(axis=1)
    recalls = [found[(facts.alike >= low) & (facts.alike < high)] for low, high in zip(BINS, (*BINS[1:-1], 1.1))]
    told = " told" if script == "zh" else ""
    return (f"| {tool}{told} | {(~kept).sum():,} | {(best >= 0).sum():,} | {((best >= 0) & (best < 0.5)).sum():,} | "
            + " | ".join(f"{one.mean():.3f}" if len(one) else "" for one in recalls)
            + f" | {cost.cpu:.1f} | {cost.peak:.0f} |")  # fmt: skip


def table(facts: Truth, settings: list[tuple[str, str]], asked: argparse.Namespace) -> None:
    """Print a row for each tool and script; a tool that cannot be installed or fails says so."""
    counts = np.histogram(facts.alike, BINS)[0]  # the last one with its upper edge
    names = [f"J {low} to {high} ({count})" for low, high, count in zip(BINS, BINS[1:], counts)]
    print(f"| tool | removed | false | J < 0.5 | {' | '.join(names)} | CPU s | peak MiB |\n|{'---|' * 9}")
    for tool, script in settings:
        try:
            print(row(tool, facts, script, asked), flush=True)
        except subprocess.CalledProcessError as failure:
            last = (failure.output or "").strip().splitlines()[-1:]
            print(f"| {tool} | failed: {' '.join(last) or failure} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--english", type=Path, nargs="+", default=[])
    parser.add_argument("--chinese", type=Path, nargs="+", default=[])
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--longest", type=int, default=5_000, help="bytes")
    parser.add_argument("--short", type=float, default=60, help="runs of fewer CPU-seconds are repeated")
    parser.add_argument("--only", nargs="+", choices=TOOLS, default=list(TOOLS), help="these tools")
    parser.add_argument("--python", default=sys.executable, help="the interpreter of new environments")
    parser.add_argument("--environments", type=Path, default=Path(tempfile.gettempdir()) / "gristmill-dedup-peers")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if asked.english:
            facts = corpus(asked.english, asked, Path(folder) / "en.parquet")
            table(facts, [(tool, "en") for tool in asked.only], asked)
        if asked.chinese:
            facts = corpus(asked.chinese, asked, Path(folder) / "zh.parquet")
            told = [(tool, "zh") for tool in TOLD if tool in asked.only]
            table(facts, [*((tool, "en") for tool in asked.only), *told], asked)


if __name__ == "__main__":
    main()
