"""An importance model and its card, as `train-importance` writes them: log ratios of buckets of hashed n-grams."""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stages.kernels import hashed
from stages.models import cards


class Card(NamedTuple):
    """What a run has to know of a model."""

    language: tuple[str, ...]  # of the corpus it was estimated from; none: any
    buckets: int
    features: int  # hashed.VERSION


def read_card(model: Path) -> Card | None:
    """The card of a model. Raises `ValueError` for one that is damaged or of another version."""
    card = cards.read(
        model,
        "an importance model",
        lambda raw: Card(cards.languages(raw), int(raw["buckets"]), int(raw["features"])),
    )
    if card and card.features != hashed.VERSION:
        version = f"features version {card.features}, this is version {hashed.VERSION}"
        raise ValueError(f"{cards.path_of(model)} is of {version}; train anew")
    return card


@functools.cache
def load(path: Path) -> np.ndarray:
    """The log ratios of a model, float32[buckets]. Raises `ValueError` for a file that is not one, or has no card."""
    card = read_card(path)
    if card is None:
        raise ValueError(f"{path} has no card ({cards.path_of(path).name}), which train-importance writes beside it")
    try:
        ratios = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is not an importance model: {error}") from error
    if ratios.dtype != np.float32 or ratios.shape != (card.buckets,) or not np.isfinite(ratios).all():
        raise ValueError(f"{path} is not the model its card tells of: {card.buckets} finite float32 numbers")
    return ratios
