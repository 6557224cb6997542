"""Models in a configuration: whom each is asked about, and the column its answer goes to.

Stages that score by models (`classify`, `perplexity`, `importance`) have them by name; models for different languages
may share a column, so that one column has the score of every document.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from pipeline import schema
from stages.models import cards

Name = Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$")]


class Asked(BaseModel, ABC):
    """One model; the stages add where it is."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    language: tuple[str, ...] | None = Field(
        None, description="only documents of these languages (`lang`); the card's if omitted; []: all documents"
    )

    column: Name | None = Field(None, description="where the answer goes; the model's name if omitted")

    @abstractmethod
    def file(self) -> Path:
        """The model."""

    @abstractmethod
    def known(self) -> tuple[str, ...]:
        """The languages its card names."""

    def languages(self) -> tuple[str, ...]:
        """Those of the documents it is asked about; none: all documents."""
        return self.known() if self.language is None else self.language


A = TypeVar("A", bound=Asked)


def by_column(models: Mapping[str, A]) -> dict[str, list[A]]:
    """The models that write each column; one without a `column` writes that of its name."""
    found: dict[str, list[A]] = {}
    for name, model in models.items():
        found.setdefault(model.column or name, []).append(model)
    return found


def check(models: Mapping[str, Asked]) -> None:
    """Raises `ValueError` where a column is taken, or a document would have two answers in one column."""
    for column, sharing in by_column(models).items():
        if column in schema.DOCUMENT or column in schema.DROP:
            raise ValueError(f"{column!r} is a column of every document; `column` must name another")
        languages = [lang for model in sharing for lang in model.languages()]
        if len(sharing) > 1 and (len(set(languages)) < len(languages) or not all(m.languages() for m in sharing)):
            raise ValueError(f"models that share the column {column!r} must each have languages of their own")


class Asks:
    """What stages that have `models` by name share, beside being stages."""

    models: Mapping[str, Asked]

    @property
    def needs(self) -> tuple[str, ...]:
        """The text, and the language where a model is for some languages only."""
        return ("text", "lang") if any(model.languages() for model in self.models.values()) else ("text",)

    def columns(self) -> dict[str, pa.DataType]:
        """One for every name in `models`, or its `column`."""
        return {column: pa.float32() for column in by_column(self.models)}

    def files(self) -> list[Path]:
        """The models, and the cards of those that have one."""
        found = [model.file() for model in self.models.values()]
        return found + [card for card in map(cards.path_of, found) if card.exists()]


class Answers:
    """What models that share a column say of a batch: float32 a document, NaN where none was asked or one had none."""

    def __init__(self, docs: pa.Table, sharing: list[A], answer: Callable[[A, pa.ChunkedArray], np.ndarray]) -> None:
        self.values = np.full(len(docs), np.nan, np.float32)
        self._asked: list[tuple[Asked, np.ndarray]] = []
        for model in sharing:
            rows = _rows(docs, model.languages())
            texts = docs["text"] if len(rows) == len(docs) else docs["text"].take(pa.array(rows))
            self.values[rows] = answer(model, texts)
            self._asked.append((model, rows))

    def column(self) -> pa.Array:
        """The answers, null for NaN."""
        return pa.array(self.values, pa.float32(), from_pandas=True)

    def limits(self, name: str) -> np.ndarray:
        """float64 a document: this field of the model that was asked; NaN without one."""
        limits = np.full(len(self.values), np.nan)
        for model, rows in self._asked:
            value: Any = getattr(model, name)
            limits[rows] = np.nan if value is None else value
        return limits


def _rows(docs: pa.Table, languages: tuple[str, ...]) -> np.ndarray:
    """Where the documents of these languages are; all, where none is named."""
    if not languages:
        return np.arange(len(docs))
    return np.flatnonzero(pc.is_in(docs["lang"].cast(pa.string()), pa.array(languages, pa.string())).to_numpy())
