"""A text classifier and its card: the fastText model, which label is the score, and how it wants text to be prepared.

`train-classifier` writes the card. A model without one is asked as fastText's own `predict` would be: the whole text as
one line, line breaks as blanks.
"""

import functools
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from stages.kernels import fasttext, windows
from stages.kernels.prepare import prepare
from stages.models import cards
from stages.models import fasttext as models

_PREFIX = "__label__"


class Preparation(NamedTuple):
    """What is done to a text before the model sees it."""

    normalisation: Literal["none", "fold"] = "none"  # fold: see `kernels.prepare`
    segmentation: Literal["words", "han-chars"] = "words"  # between blanks; characters where a script has no blanks
    window: int = 0  # bytes of UTF-8 in each of three pieces: first, middle, last; 0: the whole text

    def __call__(self, data: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The bytes and offsets to predict from, of those that `schema.text_buffers` gives."""
        if self.window:
            data, offsets = windows.sample(data, offsets, self.window)
        fold, split_han = self.normalisation == "fold", self.segmentation == "han-chars"
        return prepare(data, offsets, fold, split_han) if fold or split_han else (data, offsets)


class Card(NamedTuple):
    """What a run has to know of a model."""

    label: str | None = None
    language: tuple[str, ...] = ()  # of the texts it learned from; none: not said
    preparation: Preparation = Preparation()


class Scorer(NamedTuple):
    """A model, ready to be asked for the probability of one label."""

    model: fasttext.Model
    labels: int
    label: int
    preparation: Preparation


def read_card(model: Path) -> Card:
    """The card of a model; one that says nothing where there is none.

    Raises `ValueError` for a card that is damaged, and for one that says it is of another model.
    """
    card = cards.read(
        model, "a classifier", lambda raw: Card(raw["label"], cards.languages(raw), Preparation(**raw["preparation"]))
    )
    if card is None:
        return Card()
    asked = card.preparation
    known = asked.normalisation in ("none", "fold") and asked.segmentation in ("words", "han-chars")
    if not known or asked.window < 0:
        raise ValueError(f"{cards.path_of(model)} asks for a preparation that this version does not know: {asked}")
    return card


@functools.cache
def load(path: Path, label: str | None) -> Scorer:
    """The model in this file, scoring by `label` (with or without `__label__`), else by the one its card names.

    Raises `ValueError` where neither names one, or one that the model does not have.
    """
    card = read_card(path)
    return load_with(path, label or card.label, card.preparation)


def load_with(path: Path, label: str | None, preparation: Preparation) -> Scorer:
    """The same where the card is not asked."""
    labels, model = models.read(path)
    known = ", ".join(name.removeprefix(_PREFIX) for name in labels[:10])
    if label is None:
        raise ValueError(f"{path} has no card, so `label` must name one of its labels: {known}")
    if _PREFIX + label.removeprefix(_PREFIX) not in labels:
        raise ValueError(f"{path} has no label {label!r}; it has {known}")
    return Scorer(model, len(labels), labels.index(_PREFIX + label.removeprefix(_PREFIX)), preparation)


def score(data: np.ndarray, offsets: np.ndarray, scorer: Scorer) -> np.ndarray:
    """float32[rows]: the probability of the scorer's label for every row of `schema.text_buffers`.

    It is the library's to the last digits, so up to 1e-5 above 1, and 0 where the library does not name the label (in
    a hierarchical softmax, below 1e-5). NaN for a text of which the model knows nothing, neither a word nor an n-gram
    (the library would give its prior there, that of a line without a word), and where it names no label at all.
    """
    texts = scorer.preparation(data, offsets)
    found, chances, known = fasttext.predict_and_count(*texts, scorer.model, scorer.labels)
    ours = np.where(found == scorer.label, chances, 0).sum(axis=1, dtype=np.float32)
    return np.where((known > 0) & (found[:, 0] >= 0), ours, np.float32(np.nan))
