"""The figures and features of a page's blocks, in arrays for the models."""

from typing import NamedTuple

import numpy as np

from stages.extraction.page import Page
from stages.kernels import html_features, html_figures, html_names, html_references, text
from stages.kernels.html_features import ELEMENT_FIGURES, FEATURES, SECOND_FEATURES, SUMS, TYPE_SLOTS
from stages.kernels.html_figures import MARKS, MOST_TOKENS
from stages.kernels.html_tree import ELEMENT, PATH, WRITE_AS_IS


class Figures(NamedTuple):
    """Figures of the text of a page's blocks."""

    rows: np.ndarray  # float32[blocks, 14], columns of html_figures
    hashes: np.ndarray  # int64[blocks], equal for equal texts
    tokens: np.ndarray  # uint32[tokens], hashed words
    ranges: np.ndarray  # int32[blocks, 2], the tokens of each block
    title: np.ndarray  # uint32[tokens], hashed words of <title>


class Surroundings(NamedTuple):
    """What the second model needs of the first one's work."""

    up: np.ndarray
    sums: np.ndarray
    path_groups: np.ndarray


def figures(page: Page) -> Figures:
    """Figures of every block of a page."""
    title = np.zeros((1, 11), np.int32)
    title[0, 2] = 1  # OP1
    one_op = np.array([[WRITE_AS_IS, *page.title, 0]], np.int32)
    hashed = _figures(page.data, title, one_op)
    found = _figures(page.data, page.blocks, page.ops)
    return Figures(found[0], found[1], found[2], found[3], hashed[2])


def _figures(data: np.ndarray, blocks: np.ndarray, ops: np.ndarray) -> tuple[np.ndarray, ...]:
    count = len(blocks)
    rows, hashes = np.empty((count, 14), np.float32), np.empty(count, np.int64)
    tokens, ranges = np.empty(MOST_TOKENS * count, np.uint32), np.empty((count, 2), np.int32)
    size = html_figures.figures(
        data, blocks, count, ops, text.classes(), text.fold(), MARKS, html_references.KEYS, html_references.CODES,
        html_references.WINDOWS, rows, hashes, tokens, ranges, np.empty(10, np.int64),
    )  # fmt: skip
    return rows, hashes, tokens[:size], ranges


def _grouped(keys: np.ndarray) -> np.ndarray:
    """int32[blocks]: equal keys numbered alike."""
    groups = np.empty(len(keys), np.int32)
    slots = 1 << max(4, int(2 * len(keys)).bit_length())
    html_features.number_groups(keys, np.empty(slots, np.int32), groups)
    return groups


def first_features(
    page: Page, figures: Figures, weights: np.ndarray, types: np.ndarray
) -> tuple[np.ndarray, Surroundings]:
    """float32[blocks, FEATURES + SECOND_FEATURES], the second part still empty; `weights` float32[5, SLOTS]
    and `types` float32[7, TYPE_SLOTS] are the scores of words."""
    count, elements = len(page.blocks), len(page.elements)
    out = np.empty((count, FEATURES + SECOND_FEATURES), np.float32)
    up, sums = np.empty(elements, np.int32), np.empty((count + 1, SUMS), np.float64)
    paths = page.elements[page.blocks[:, ELEMENT], PATH].astype(np.int64)
    path_groups, text_groups = _grouped(paths), _grouped(figures.hashes)
    html_features.first(
        page.elements, page.blocks, figures.rows, page.words, figures.tokens, figures.ranges, figures.title, weights,
        types, html_names.KINDS, up, np.empty((elements, ELEMENT_FIGURES), np.float32), sums, path_groups, text_groups,
        np.empty((count, 3), np.float32), np.empty((count, 3), np.float32), np.zeros(4096 + TYPE_SLOTS, np.uint8),
        np.empty(4, np.float32), out,
    )  # fmt: skip
    return out, Surroundings(up, sums, path_groups)


def second_features(
    page: Page, figures: Figures, around: Surroundings, likely: np.ndarray, features: np.ndarray
) -> None:
    """Fill in the second part of `features`, given what the first model says (float32[blocks])."""
    count = len(page.blocks)
    html_features.second(
        page.elements, page.blocks, figures.rows, around.sums, around.up, around.path_groups, likely,
        np.empty(count + 1, np.float64), np.empty((count, 3), np.float32), np.empty((count, 2), np.int32), features,
        FEATURES,
    )  # fmt: skip
