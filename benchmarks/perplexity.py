"""What bits per character are worth: told from shuffled text, from menus and lists; whole texts or windows; how fast.

    python benchmarks/perplexity.py FOLDER [LANG [ORDER ...]]

FOLDER is what `quality_data.py` wrote. Learns from the positives of the classifier's training split and judges by its
test split (other domains, less near-duplicates of what was learned), so that the figures stand beside the classifier's.
An AUC is the probability that the first text has fewer bits per character than the second. Speeds are CPU-seconds of
scoring alone; what else uses the machine slows them.
"""

import random
import sys
import sysconfig
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.schema import text_buffers
from stages.kernels import ngrams, windows
from stages.learning import documents, kneser_ney, measures
from stages.learning import perplexity as learning

SIZE = 1_000_000
WIDTH = 600  # of a window, as `classify`


def split(folder: Path, lang: str) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Positives to learn from; positives and negatives to judge by."""
    good, bad = (pq.read_table(folder / f"{lang}-{kind}.parquet") for kind in ("positives", "negatives"))
    labels = np.arange(len(good) + len(bad)) < len(good)
    places = documents.split(good["domain"].to_pylist() + bad["domain"].to_pylist(), labels, 1)
    learned, judged = good.filter(pa.array(places[labels] != 2)), good.filter(pa.array(places[labels] == 2))
    repeats = documents.near_duplicates(judged["text"], learned["text"])
    return learned, judged.filter(pa.array(~repeats)), bad.filter(pa.array(places[~labels] == 2))


def trained(texts: pa.ChunkedArray, order: int) -> ngrams.Automaton:
    known, _ = kneser_ney.known_characters(texts, order)
    model = kneser_ney.fit(kneser_ney.count(texts, known, order), known, kneser_ney.width(order), SIZE)
    return ngrams.automaton(model.known, model.levels)


def shuffled(text: str, lang: str, unit: str) -> str:
    chance = random.Random(text)
    if unit == "characters of a word":
        return " ".join("".join(chance.sample(word, len(word))) for word in text.split())
    if lang == "zh":
        step = 1 if unit == "characters" else 2
        parts = [text[at : at + step] for at in range(0, len(text), step)]
        return "".join(chance.sample(parts, len(parts)))
    return " ".join(chance.sample(text.split(), len(text.split())))


def code() -> list[str]:
    """The beginnings of modules of Python's library."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return [path.read_text(encoding="utf-8", errors="replace")[:4000] for path in files]


def poems() -> list[str]:
    """Tang poems, in traditional characters."""
    path = Path(__file__).parent.parent / "data_samples/sample_text.jsonl.gz"
    texts = [text for batch in documents.read(path) for text in batch["text"].to_pylist()]
    return [text for text in texts if "。" in text and len(text) < 400]


def bits(texts: list[str] | pa.ChunkedArray, model: ngrams.Automaton, width: int = 0) -> np.ndarray:
    column = texts if isinstance(texts, pa.ChunkedArray) else pa.chunked_array([pa.array(texts, pa.large_string())])
    data, offsets = text_buffers(column)
    if width:
        data, offsets = windows.sample(data, offsets, width)
    return ngrams.score(data, offsets, model)


def auc(low: np.ndarray, high: np.ndarray) -> float:
    both = np.concatenate([low, high])
    return measures.roc_auc(-both, np.arange(len(both)) < len(low))


def speed(texts: pa.ChunkedArray, model: ngrams.Automaton, width: int) -> float:
    """MB of text a CPU-second, the best of three."""
    seconds = []
    for _ in range(3):
        start = time.process_time()
        bits(texts, model, width)
        seconds.append(time.process_time() - start)
    return len(text_buffers(texts)[0]) / 1e6 / min(seconds)


def main(folder: Path, lang: str, orders: list[int]) -> None:
    learned, judged, bad = split(folder, lang)
    good = judged["text"].to_pylist()
    kinds = np.array(bad["kind"].to_pylist())
    units = ("words", "characters of a word") if lang == "en" else ("pairs", "characters")
    others = {f"shuffled, {unit}": [shuffled(text, lang, unit) for text in good] for unit in units}
    others |= {kind: bad["text"].filter(pa.array(kinds == kind)).to_pylist() for kind in sorted(set(kinds))}
    others["negatives, all"] = bad["text"].to_pylist()
    others |= {"code": code()} if lang == "en" else {"poems": poems()}
    print(f"{lang}: {len(learned)} texts to learn from; to judge by: {Counter(judged['domain'].to_pylist())}")
    for order in orders:
        model = trained(learned["text"].cast(pa.large_string()), order)
        for width in (0, WIDTH):
            low = bits(good, model, width)
            lengths = np.array([len(text) for text in good])
            rho, fast = measures.rank_correlation(low, lengths), speed(judged["text"], model, width)
            way = "windows" if width else "whole"
            print(f"order {order}, {way}: median {np.median(low):.3f}, rho with length {rho:.3f}, {fast:.0f} MB/s")
            for name, texts in others.items():
                high = bits(texts, model, width)
                high = high[~np.isnan(high)]
                print(f"  {name:32} {len(high):6} median {np.median(high):.3f} AUC {auc(low, high):.3f}")


if __name__ == "__main__":
    for one in sys.argv[2:3] or ["en", "zh"]:
        main(Path(sys.argv[1]), one, list(map(int, sys.argv[3:])) or [learning.ORDERS.get(one, learning.ORDER)])
