"""The same work by the field's tools and by ours, on one corpus, in one sitting, paired, in CPU-seconds.

    python benchmarks/peers.py CORPUS.parquet [--repeat 5] [--only PEER...] [--pages WARC...] [--environments FOLDER]

CORPUS.parquet has a column `text`; pages to extract text from come out of WARC files, those of `data_samples` unless
others are named. Each peer is installed by name into an environment of its own under FOLDER (a temporary folder by
default), with this interpreter or, where a peer wants a newer or older one, with any `python3.N` on the PATH or named
by `--python`; one that cannot be installed is named in the table, and the others are measured. The slow ones get the
first few MB of the corpus, ours the same. Prints a Markdown table of medians.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent

INSTALL = {
    "datatrove": ["datatrove[processing,io]", "spacy", "fasttext-wheel"],
    "datasketch": ["datasketch>=2", "pyarrow"],
    "rensa": ["rensa", "pyarrow"],
    "fasttext": ["fasttext-wheel", "pyarrow"],
    "text-dedup": ["text-dedup>=0.4", "pyarrow"],
    "tokenizers": ["tokenizers", "pyarrow"],
    "tiktoken": ["tiktoken", "pyarrow"],
    "trafilatura": ["trafilatura>=2", "lxml_html_clean", "pyarrow"],
}
PAIRS = (  # the peer's work, ours, MB of text
    ("datatrove.language", "gristmill.language", 4),
    ("fasttext.language", "gristmill.language", 8),
    ("datatrove.rules", "gristmill.rules", 3),
    ("datatrove.minhash", "gristmill.minhash", 3),
    ("datasketch.minhash", "gristmill.minhash", 8),
    ("rensa.minhash", "gristmill.minhash", 8),
    ("text-dedup.minhash", "gristmill.minhash", 8),
    ("tokenizers.encode", "gristmill.encode", 8),
    ("tiktoken.encode", "gristmill.encode", 8),
    ("trafilatura.extract", "gristmill.extract", 8),
)


class NotInstalled(RuntimeError):
    """A peer that no interpreter could install; the message is the last complaint."""


def python_of(tool: str, asked: argparse.Namespace) -> str:
    """The interpreter of a tool's environment, which is made and filled when it is not there. Raises `NotInstalled`."""
    if tool == "gristmill":
        return sys.executable
    folder = asked.environments / tool
    python = folder / "bin/python"
    if python.exists():
        return str(python)
    complaint = ""
    for interpreter in interpreters(asked.python):
        subprocess.run([interpreter, "-m", "venv", "--clear", folder], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", *INSTALL[tool]]
        done = subprocess.run(install, capture_output=True, text=True)
        if done.returncode == 0:
            return str(python)
        complaint = (done.stderr.strip().splitlines() or [f"pip ended with {done.returncode}"])[-1]
        shutil.rmtree(folder)
    raise NotInstalled(complaint)


def interpreters(named: list[str]) -> list[str]:
    """This one, those named, and those on the PATH that start at all."""
    found = [path for minor in range(13, 9, -1) if (path := shutil.which(f"python3.{minor}"))]
    working = [path for path in found if subprocess.run([path, "-V"], capture_output=True).returncode == 0]
    return [sys.executable, *named, *working]


def measure(work: str, megabytes: float, asked: argparse.Namespace) -> dict:
    environment = {**os.environ, "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    tool, name = work.split(".")
    corpus = asked.html if name == "extract" else asked.corpus
    command = [python_of(tool, asked), str(HERE / "work.py"), work, str(corpus), str(megabytes)]
    done = subprocess.run(command, env=environment, cwd=HERE.parent, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def html_of(archives: list[str], folder: Path) -> Path:
    """A Parquet file with the pages of WARC files in its column `text`."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from pipeline import config

    source = config.step_class("collect").model_validate({"paths": archives})
    batches = [batch for split in source.inputs() for batch in source.read(split)]
    pages = pa.concat_tables([batch.filter(pc.is_null(batch["drop"])).select(["mime", "text"]) for batch in batches])
    pages = pages.filter(pc.starts_with(pages["mime"], "text/html"))
    pq.write_table(pages, folder / "pages.parquet")
    return folder / "pages.parquet"


def tokenizer_beside(corpus: Path) -> None:
    """A vocabulary of 32,000 trained on the corpus, for both encoders."""
    import pyarrow.parquet as pq

    from pipeline import config

    if corpus.with_suffix(".tokenizer.json").exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        texts = pq.read_table(corpus, columns=["text"])
        docs = texts.append_column("id", [[str(i) for i in range(len(texts))]])
        pq.write_table(docs, f"{folder}/docs.parquet")
        stage = config.step_class("tokens").model_validate({"train": {"vocab_size": 32000, "max_bytes": 20_000_000}})
        stage.fit([Path(folder) / "docs.parquet"], Path(folder) / "fit")
        (Path(folder) / "fit.tokenizer.json").rename(corpus.with_suffix(".tokenizer.json"))


def row(peer: str, ours: str, megabytes: float, asked: argparse.Namespace) -> str:
    """One line of the table: medians, and the ratios of the pairs."""
    tool, work = peer.split(".")
    pairs, size = [], 0.0
    for _ in range(asked.repeat):
        theirs, mine = measure(peer, megabytes, asked), measure(ours, megabytes, asked)
        pairs.append((theirs["mb"] / theirs["cpu_s"], mine["mb"] / mine["cpu_s"]))
        size = theirs["mb"]
    ratios = sorted(mine / theirs for theirs, mine in pairs)
    slow, fast = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
    return (f"| {work} | {tool} | {size:.1f} | {slow:.2f} | {fast:.1f} | {statistics.median(ratios):.0f} "
            f"({ratios[0]:.0f}, {ratios[-1]:.0f}) |")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=sorted(INSTALL), default=sorted(INSTALL), help="these peers")
    parser.add_argument("--pages", nargs="+", default=[str(HERE.parent / "data_samples/sample.warc.gz")])
    parser.add_argument("--python", nargs="+", default=[], help="interpreters to try beside this one")
    parser.add_argument("--environments", type=Path, default=Path(tempfile.gettempdir()) / "gristmill-peers")
    asked = parser.parse_args()
    asked.corpus = asked.corpus.resolve()
    tokenizer_beside(asked.corpus)
    with tempfile.TemporaryDirectory() as folder:
        asked.html = html_of(asked.pages, Path(folder)) if "trafilatura" in asked.only else None
        print("| work | peer | MB | peer, MB per CPU-s | ours | ratio: median of pairs (min, max) |")
        print("|---|---|---|---|---|---|")
        for peer, ours, megabytes in PAIRS:
            tool, work = peer.split(".")
            if tool not in asked.only:
                continue
            try:
                print(row(peer, ours, megabytes, asked), flush=True)
            except NotInstalled as complaint:
                print(f"| {work} | {tool} | | could not be installed: {complaint} | | |", flush=True)


if __name__ == "__main__":
    main()
