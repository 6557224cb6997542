"""The model that chooses the blocks of a page: word scores and two groups of boosted trees, in one file of numbers.

The first trees say how likely each block belongs to the text; the second ones say it again, knowing what the first
said of everything around. Then the page is cut where the expected word F1 of what is kept is highest: a page of whose
blocks nothing is sure keeps more than one whose text is plain to see, so no page is empty that has a line of text.
"""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stages.extraction import figures
from stages.extraction.page import Page
from stages.kernels import constant, html_features, trees
from stages.kernels.html_features import FEATURES, SECOND_FEATURES, SLOTS, TYPE_SLOTS
from stages.kernels.html_figures import INK, WORDS
from stages.kernels.html_tree import HIDDEN, INVISIBLE, STATE

MOST_HIDDEN = 5.0
"""Times the words that are seen: with more, what is hidden is the text. (1 to 10 differ by .003 F1 at most.)"""

PATH = Path(__file__).parent.parent / "data" / "extractor.npz"


class Trees(NamedTuple):
    """Boosted trees as `stages.kernels.trees` walks them."""

    roots: np.ndarray  # int32[trees]
    depths: np.ndarray  # int32[trees]
    nodes: np.ndarray  # int32[nodes, 4]: feature, lower, upper, bits of the limit (float32)

    def likely(self, features: np.ndarray) -> np.ndarray:
        """float32[rows]: the probability for each row of float32[rows, features]."""
        out = np.zeros(len(features), np.float32)
        trees.add_trees(features, self.roots, self.depths, self.nodes, self.nodes.view(np.float32), out)
        return np.asarray(1 / (1 + np.exp(-out)), np.float32)


class Model(NamedTuple):
    words: np.ndarray  # float32[5, SLOTS], the tables of html_features
    types: np.ndarray  # float32[7, TYPE_SLOTS], of page types
    first: Trees
    second: Trees

    def likely(self, page: Page) -> tuple[np.ndarray, figures.Figures]:
        """float32[blocks]: how likely each block of a page belongs to its text."""
        found = figures.figures(page)
        features, around = figures.first_features(page, found, self.words, self.types)
        figures.second_features(page, found, around, self.first.likely(features), features)
        return self.second.likely(features), found


def choose(page: Page, likely: np.ndarray, found: figures.Figures) -> np.ndarray:
    """bool[blocks]: the blocks with which the expected F1 of the words is highest, what they enclose, and the headline.

    Of these, hidden ones are left out, unless they have five times the words of the others: a page whose body shows
    when its script has run.
    """
    kept = cut(likely, found)
    html_features.bridge(page.elements, page.blocks, found.rows, kept)
    html_features.code(page.blocks, found.rows, kept)
    html_features.headline(page.elements, page.blocks, found.rows, kept)
    hidden = kept & (page.blocks[:, STATE] & (HIDDEN | INVISIBLE) != 0)
    if hidden.any():
        words = found.rows[:, WORDS]
        if MOST_HIDDEN * words[kept & ~hidden].sum() >= words[hidden].sum():
            kept &= ~hidden
    return kept


def cut(likely: np.ndarray, found: figures.Figures) -> np.ndarray:
    """bool[blocks]: the likeliest blocks, as many as make the expected F1 of the words highest."""
    words = found.rows[:, WORDS].astype(np.float64) + 0.01 * (found.rows[:, INK] > 0)
    order = np.argsort(-likely, kind="stable")
    expected = np.cumsum(likely[order] * words[order])
    if len(likely) == 0 or expected[-1] == 0:
        return np.zeros(len(likely), bool)
    best = int(np.argmax(2 * expected / (np.cumsum(words[order]) + expected[-1])))
    return np.asarray((likely >= likely[order[best]]) & (found.rows[:, INK] > 0))


@functools.cache
def shipped() -> Model:
    """The model that comes with the project."""
    return read(PATH)


def read(path: Path) -> Model:
    """Raises `ValueError` for a file that holds another number of features or words than this version computes."""
    with np.load(path) as file:
        words, types = (constant(file[name].astype(np.float32)) for name in ("words", "types"))
        first, second = (
            Trees(*(constant(np.ascontiguousarray(file[f"{name}_{field}"])) for field in Trees._fields))
            for name in ("first", "second")
        )
    if (
        words.shape != (5, SLOTS)
        or types.shape != (7, TYPE_SLOTS)
        or first.nodes[:, 0].max() >= FEATURES
        or second.nodes[:, 0].max() >= FEATURES + SECOND_FEATURES
    ):
        raise ValueError(f"{path} is the model of another version of the extractor")
    return Model(words, types, first, second)
