"""Engines that take the main text out of pages, side by side: word F1 against gold text, snippets, and speed.

    pip install trafilatura readability-lxml justext zstandard
    python benchmarks/extraction.py PAGES [--engine gristmill ...] [--limit 200] [--likely said.npz]

PAGES is a folder of `*.jsonl.zst` as for `train_extractor.py`. Precision, recall and F1 are means over pages of the
multiset of words (Han, kana and Hangul one by one). With `--likely`, which `train_extractor.py --folds` writes, the row
`held out` is the project's engine with models that have never seen the site of the page; the row `gristmill` is the
shipped model, which was trained on these pages, so that its quality is that of training and only its speed counts.
"""

import argparse
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from extractor_labels import decoded, flat, records, split

from stages import extract
from stages.extraction import figures
from stages.extraction.engine import main_text
from stages.extraction.model import choose
from stages.extraction.page import Parser, write

Engine = Callable[[str, str], str]  # the page's id and markup in, text out


class Marks(NamedTuple):
    """What came of the pages of one file or page type."""

    words: list[tuple[float, float, float]]
    snippets: Counter[tuple[str, bool]]
    seconds: list[float]


def engines(likely: Path | None) -> dict[str, Engine]:
    """The engines that are installed, by name."""
    found: dict[str, Engine] = {
        "gristmill": lambda _, page: main_text(page.encode("utf-8", "replace")),
        "resiliparse": _of_stage("resiliparse"),
    }
    for engine in found.values():  # kernels compile before anything is measured
        engine("", "<p>It is there.</p>")
    if likely:
        found["held out"] = _held_out(likely)
    for name, make in (("trafilatura", _of_stage), ("readability-lxml", _readability), ("jusText", _justext)):
        try:
            found[name] = make(name)
            found[name]("", "<p>It is there.</p>")
        except ImportError as error:
            print(f"{name} is not measured: {error}")
            del found[name]
    return found


def _of_stage(name: str) -> Engine:
    def run(_: str, page: str) -> str:
        return extract._engine(name)(page.encode("utf-8", "replace"))

    return run


def _held_out(path: Path) -> Engine:
    said, parser = np.load(path), Parser()

    def run(name: str, page: str) -> str:
        tree = parser.parse(np.frombuffer(page.encode("utf-8", "replace"), np.uint8))
        return write(tree, choose(tree, said[name], figures.figures(tree)))

    return run


def _readability(_: str) -> Engine:
    import readability
    from lxml import html

    def run(_: str, page: str) -> str:
        document = readability.Document(page)
        body = html.fromstring(document.summary())
        for line in body.iter("p", "br", "li", "tr", "div", "pre", "h1", "h2", "h3", "td"):
            line.tail = "\n" + (line.tail or "")
        return f"{document.short_title()}\n{body.text_content()}"

    return run


def _justext(_: str) -> Engine:
    import justext

    stop_words = justext.get_stoplist("English")

    def run(_: str, page: str) -> str:
        return "\n".join(part.text for part in justext.justext(page, stop_words) if not part.is_boilerplate)

    return run


def measure(engine: Engine, pages: list[dict[str, Any]]) -> dict[str, Marks]:
    marks: dict[str, Marks] = defaultdict(lambda: Marks([], Counter(), []))
    for page in pages:
        start = time.process_time()
        try:
            text = engine(page["id"], page["html"])
        except Exception as error:  # noqa: BLE001 - a peer may raise anything on a page; it then gives no text
            print(f"  {page['id']}: {type(error).__name__}")
            text = ""
        seconds = time.process_time() - start
        seen = flat(text)
        for name in (page["file"], f"{page['file']} {page.get('page_type') or '-'}"):
            mark = marks[name]
            mark.seconds.append(seconds)
            if page["gold"] is not None:
                mark.words.append(overlap(Counter(split(text)), Counter(split(page["gold"]))))
            for kind in ("must", "must_not"):
                mark.snippets.update((kind, flat(snippet) in seen) for snippet in page.get(kind) or ())
    return marks


def overlap(words: Counter[str], gold: Counter[str]) -> tuple[float, float, float]:
    """Precision, recall and F1 of a multiset of words; 1 where both are empty."""
    if not words or not gold:
        return (1.0, 1.0, 1.0) if not words and not gold else (0.0, 0.0, 0.0)
    common = (words & gold).total()
    precision, recall = common / words.total(), common / gold.total()
    return precision, recall, 2 * precision * recall / (precision + recall) if common else 0.0


def show(name: str, marks: dict[str, Marks]) -> None:
    for part in sorted(marks):
        mark = marks[part]
        figures_of_words = (
            "- | - | -" if not mark.words else "{:.3f} | {:.3f} | {:.3f}".format(*np.mean(mark.words, axis=0))
        )
        hit, missed = mark.snippets["must", True], mark.snippets["must", False]
        wrong = mark.snippets["must_not", True]
        snippets = f"{2 * hit / (2 * hit + wrong + missed):.3f}" if hit else "-"
        speed = len(mark.seconds) / max(sum(mark.seconds), 1e-9)
        print(f"| {name} | {part} | {len(mark.seconds)} | {figures_of_words} | {snippets} | {speed:.0f} |", flush=True)


def read(folder: Path, limit: int | None) -> Iterator[dict[str, Any]]:
    """The pages of each file, `limit` at most, that can be decoded."""
    for path in sorted(folder.glob("*.jsonl.zst")):
        for number, page in enumerate(records(path)):
            if number == limit:
                break
            page["html"] = page.get("html") or decoded(page)
            page["file"] = path.name.split(".")[0]
            if page["html"]:
                yield page


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("pages", type=Path)
    ask.add_argument("--engine", nargs="+", help="only these")
    ask.add_argument("--limit", type=int, help="only the first so many pages of each file")
    ask.add_argument("--likely", type=Path, help="what held-out models say, from train_extractor.py --folds")
    asked = ask.parse_args()
    pages = list(read(asked.pages, asked.limit))
    print(json.dumps({"pages": len(pages)}))
    print("| engine | pages of | pages | P | R | F1 | snippet F1 | pages/CPU-s |\n|---|---|---|---|---|---|---|---|")
    for name, engine in engines(asked.likely).items():
        if not asked.engine or name in asked.engine:
            show(name, measure(engine, pages))


if __name__ == "__main__":
    main()
