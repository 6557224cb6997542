"""Train the model of the extractor, or say by cross-validation how good one is on sites it has never seen.

    pip install lightgbm zstandard
    python benchmarks/train_extractor.py PAGES --out stages/data/extractor.npz   # the shipped model, byte for byte
    python benchmarks/train_extractor.py PAGES --folds 5 --likely said.npz           # judge what was not trained on

PAGES is a folder of `*.jsonl.zst`: JSON lines with `html`, `gold` or `must` and `must_not`, `url`, `page_type`. Pages
are split by the domain of their address, everywhere. Three models stand on each other, so the lower ones are asked only
about pages that they were not trained on: scores of words, the first trees, the second trees.
"""

import argparse
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import lightgbm
import numpy as np
from extractor_labels import Labelled, flat, fold_of, load
from extractor_words import train_types, train_words

from stages.extraction import figures
from stages.extraction.model import Trees, choose
from stages.kernels.html_features import FEATURES

INNER = 2
"""Parts of the training pages: what is learned from one is asked about the other."""
FIRST = {"num_iterations": 45, "num_leaves": 16, "max_depth": 6}
SECOND = {"num_iterations": 90, "num_leaves": 31, "max_depth": 7}
ROWS_QUANTILE = 0.8
"""Blocks lighter than this quantile of the weights are drawn with a probability of their weight."""
WITHOUT_WORDS = 0.3
"""Share of the pages whose text's words are hidden, so that the trees also learn to judge a language never seen."""
SETTINGS = {
    "objective": "cross_entropy", "learning_rate": 0.15, "min_data_in_leaf": 60, "max_bin": 63,
    "feature_fraction": 0.35, "bagging_fraction": 0.7, "bagging_freq": 1, "lambda_l2": 5.0, "seed": 7, "num_threads": 1,
    "deterministic": True, "force_row_wise": True, "verbosity": -1,
}  # fmt: skip
FILES = {"zh_pages": 2.0}
"""Weight of the pages of a file, where it is not 1: the few pages of East Asia count twice."""
_TEXT_SCORE, _ALL_SCORES = 13, 22  # features that come from the words of a text


class Trained(NamedTuple):
    words: np.ndarray
    types: np.ndarray
    first: lightgbm.Booster
    second: lightgbm.Booster


def weights(page: Labelled) -> np.ndarray:
    """float64[blocks]: what a block counts. All pages weigh about the same, a block by its words to the power .8."""
    words = page.words.astype(np.float64)
    weight = words**0.8 / (page.gold_words + 30) ** 0.8 + 0.003 * (words > 0)
    if page.gold is None:
        weight = words**0.8 / ((page.label * page.words).sum() + 30) ** 0.8 + 0.01 * (page.sure >= 1)
    weight *= min(1.0, 4.0 / max(weight.sum(), 1e-9)) * (page.words > 0)
    return np.asarray(weight * page.sure * FILES.get(page.file, 1.0))


def train(pages: list[Labelled]) -> Trained:
    """Word scores, first and second trees from these pages."""
    pages = [page for page in pages if len(page.words) and page.sure.any()]
    parts = [fold_of("part of " + page.domain, INNER) for page in pages]
    draw = np.random.default_rng(1)
    features: list[np.ndarray] = [np.empty(0)] * len(pages)
    around: list[figures.Surroundings] = [None] * len(pages)  # type: ignore[list-item]
    for part in range(INNER):
        others = [page for page, own in zip(pages, parts, strict=True) if own != part]
        words, types = train_words(others, weights), train_types(others)
        for at in np.flatnonzero(np.array(parts) == part):
            features[at], around[at] = figures.first_features(pages[at].page, pages[at].figures, words, types)
            if draw.random() < WITHOUT_WORDS:
                features[at][:, _ALL_SCORES] -= features[at][:, _TEXT_SCORE]
                features[at][:, _TEXT_SCORE] = 0
    rows, label = np.concatenate(features), np.concatenate([page.label for page in pages])
    weight = np.concatenate([weights(page) for page in pages])
    chance = np.minimum(1, weight / np.quantile(weight[weight > 0], ROWS_QUANTILE))
    taken = draw.random(len(weight)) < chance
    weight[taken] /= chance[taken]
    sizes = [len(page.words) for page in pages]
    part_of = np.repeat(parts, sizes)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    for part in range(INNER):
        model = _boost(rows[:, :FEATURES], label, weight, taken & (part_of != part), FIRST)
        for at in np.flatnonzero(np.array(parts) == part):
            own = slice(starts[at], starts[at + 1])
            likely = np.asarray(model.predict(rows[own, :FEATURES]), np.float32)
            figures.second_features(pages[at].page, pages[at].figures, around[at], likely, rows[own])
    first = _boost(rows[:, :FEATURES], label, weight, taken, FIRST)
    second = _boost(rows, label, weight, taken, SECOND)
    return Trained(train_words(pages, weights), train_types(pages), first, second)


def _boost(
    rows: np.ndarray, label: np.ndarray, weight: np.ndarray, taken: np.ndarray, size: dict[str, int]
) -> lightgbm.Booster:
    data = lightgbm.Dataset(rows[taken], label[taken], weight=weight[taken], params={"max_bin": SETTINGS["max_bin"]})
    return lightgbm.train(SETTINGS | size, data)


def likely(page: Labelled, trained: Trained) -> np.ndarray:
    """float32[blocks]: what a model says of each block."""
    if len(page.words) == 0:
        return np.zeros(0, np.float32)
    rows, around = figures.first_features(page.page, page.figures, trained.words, trained.types)
    first = np.asarray(trained.first.predict(rows[:, :FEATURES]), np.float32)
    figures.second_features(page.page, page.figures, around, first, rows)
    return np.asarray(trained.second.predict(rows), np.float32)


def as_arrays(model: lightgbm.Booster) -> Trees:
    """The trees of a model as the kernel reads them."""
    roots, depths, nodes = [], [], []

    def walk(node: dict) -> tuple[int, int]:
        """The number of a node, and how deep the tree goes below it."""
        at = len(nodes)
        if "split_index" not in node:
            nodes.append([0, at, at, int(np.float32(node["leaf_value"]).view(np.int32))])
            return at, 0
        limit = np.float32(node["threshold"])  # features are float32: the largest one that is not above
        limit = limit if float(limit) <= node["threshold"] else np.nextafter(limit, np.float32(-np.inf))
        nodes.append([node["split_feature"], 0, 0, int(limit.view(np.int32))])
        (nodes[at][1], lower), (nodes[at][2], upper) = walk(node["left_child"]), walk(node["right_child"])
        return at, 1 + max(lower, upper)

    for tree in model.dump_model()["tree_info"]:
        root, depth = walk(tree["tree_structure"])
        roots.append(root)
        depths.append(depth)
    return Trees(np.array(roots, np.int32), np.array(depths, np.int32), np.array(nodes, np.int32))


def save(trained: Trained, path: Path) -> None:
    arrays = {"words": trained.words.astype(np.float16), "types": trained.types.astype(np.float16)}
    for name, model in (("first", trained.first), ("second", trained.second)):
        arrays |= {f"{name}_{field}": values for field, values in as_arrays(model)._asdict().items()}
    np.savez(path, **arrays)


def f1(kept: np.ndarray, page: Labelled) -> tuple[float, float, float]:
    """Precision, recall and F1 of the words that are kept."""
    words = Counter(word for block, one in zip(page.block_words, kept, strict=True) if one for word in block)
    gold = page.gold or Counter()
    if not words or not gold:
        return (1.0, 1.0, 1.0) if not words and not gold else (0.0, 0.0, 0.0)
    common = (words & gold).total()
    precision, recall = common / words.total(), common / gold.total()
    return precision, recall, 2 * precision * recall / (precision + recall) if common else 0.0


def report(judged: list[tuple[Labelled, np.ndarray]]) -> None:
    """Mean word F1 of each file and page type, and F1 of the snippets, of pages with the blocks kept of each."""
    marks: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    there: Counter[tuple[str, bool]] = Counter()
    for page, kept in judged:
        if page.gold is not None:
            for name in (page.file, f"{page.file} {page.kind}"):
                marks[name].append(f1(kept, page))
        else:
            text = flat(" ".join(text for text, one in zip(page.block_texts, kept, strict=True) if one))
            there.update(("must", flat(snippet) in text) for snippet in page.must)
            there.update(("not", flat(snippet) in text) for snippet in page.must_not)
    for name in sorted(marks):
        p, r, f = np.mean(marks[name], axis=0)
        print(f"{name:<32}{len(marks[name]):>6} pages  P {p:.3f}  R {r:.3f}  F1 {f:.4f}")
    hit, missed, wrong = there["must", True], there["must", False], there["not", True]
    if hit:
        both = 2 * hit / (2 * hit + wrong + missed)
        print(f"snippets: P {hit / (hit + wrong):.3f}  R {hit / (hit + missed):.3f}  F1 {both:.4f}")


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("pages", type=Path)
    ask.add_argument("--out", type=Path, help="train on all pages and write the model there")
    ask.add_argument("--folds", type=int, default=0, help="cross-validate")
    ask.add_argument("--only", type=int, help="only so many of the folds")
    ask.add_argument("--likely", type=Path, help="write there what the held-out models say of every block")
    asked = ask.parse_args()
    start = time.monotonic()
    pages = load(asked.pages)
    print(
        f"{len(pages)} pages, {sum(len(page.words) for page in pages)} blocks, {time.monotonic() - start:.0f} s",
        flush=True,
    )
    if asked.out:
        save(train(pages), asked.out)
        print(f"{asked.out}: {asked.out.stat().st_size} bytes, {time.monotonic() - start:.0f} s", flush=True)
    judged, said = [], {}
    for fold in range(asked.folds if asked.only is None else asked.only):
        trained = train([page for page in pages if fold_of(page.domain, asked.folds) != fold])
        for page in pages:
            if fold_of(page.domain, asked.folds) == fold:
                said[page.id] = likely(page, trained)
                judged.append((page, choose(page.page, said[page.id], page.figures)))
        print(f"folds up to {fold + 1}, {time.monotonic() - start:.0f} s", flush=True)
        report(judged)
        if asked.likely:
            np.savez(asked.likely, **said)


if __name__ == "__main__":
    main()
