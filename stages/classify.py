"""Score documents with fastText classifiers; optionally drop those that score low.

A score is a column first: what it is good for (a cut at a threshold here, a cut by rate or buckets in `keep`, an order
in `dedup`) is decided by whoever reads it, without the text. A linear model over hashed n-grams of words is what ranked
web pages best at a given cost in DataComp-LM (Li et al. 2024, arXiv:2406.11794, table 4), and a core scores tens of
megabytes a second with it.
"""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline import schema
from pipeline.stage import Stage
from stages.readers import classifiers

_DATA = Path(__file__).parent / "data"

Name = Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$")]


class Scoring(BaseModel):
    """One model: where it is, whom it is asked about, where its answer goes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path | None = Field(None, description="a supervised fastText model (.bin, .ftz), with its card if it has one")
    builtin: Literal["en", "zh"] | None = Field(None, description="a model that comes with this package, instead")
    label: str | None = Field(None, description="the label whose probability is the score; the card's if omitted")
    language: tuple[str, ...] | None = Field(
        None,
        description="only documents of these languages (`lang`); the card's if omitted; []: all documents",
    )
    column: Name | None = Field(None, description="where the score goes; the model's name if omitted")
    min: float | None = Field(None, description="documents that score lower are dropped")

    @model_validator(mode="after")
    def _one_model(self) -> "Scoring":
        if (self.path is None) == (self.builtin is None):
            raise ValueError("exactly one of `path` and `builtin` says which model")
        if self.path is not None and self.label is None and self.path.exists() and not self.card().label:
            raise ValueError(f"{self.path} has no card: `label` must say which of its labels is the score")
        return self

    def file(self) -> Path:
        """The model."""
        return self.path or _DATA / f"quality-{self.builtin}.ftz"

    def card(self) -> classifiers.Card:
        """Its card."""
        return classifiers.read_card(self.file())

    def languages(self) -> tuple[str, ...]:
        """Those of the documents it is asked about; none: all documents."""
        return self.card().language if self.language is None else self.language


_SHIPPED = {name: Scoring.model_validate({"builtin": name, "column": "quality_score"}) for name in ("en", "zh")}


class Classify(Stage):
    """Score documents with one or more fastText classifiers, each for the languages it knows.

    Columns: one for every name in `models` (or its `column`, which models of different languages may share), float32:
    the model's probability of its label, as the library's `predict` gives it; null for a document of another language.
    Reason: `low_<column>`, for a score below `min`.
    """

    models: dict[Name, Scoring] = Field(
        _SHIPPED, min_length=1, description="by name: {path or builtin, label, language, column, min}"
    )

    @model_validator(mode="after")
    def _one_score_a_column(self) -> "Classify":
        for column, scorings in self.by_column().items():
            if column in schema.DOCUMENT or column in schema.DROP:
                raise ValueError(f"{column!r} is a column of every document; `column` must name another")
            asked = [lang for scoring in scorings for lang in scoring.languages()]
            if len(scorings) > 1 and (len(set(asked)) < len(asked) or not all(s.languages() for s in scorings)):
                raise ValueError(f"models that share the column {column!r} must each have languages of their own")
        return self

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """The text, and the language where a model is for some languages only."""
        return ("text", "lang") if any(scoring.languages() for scoring in self.models.values()) else ("text",)

    def columns(self) -> dict[str, pa.DataType]:
        return {column: pa.float32() for column in self.by_column()}

    def by_column(self) -> dict[str, list[Scoring]]:
        """The models that write each column."""
        found: dict[str, list[Scoring]] = {}
        for name, scoring in self.models.items():
            found.setdefault(scoring.column or name, []).append(scoring)
        return found

    def files(self) -> list[Path]:
        """The models, and the cards of those that have one."""
        files = [scoring.file() for scoring in self.models.values()]
        return files + [card for card in map(classifiers.card_path, files) if card.exists()]

    def apply(self, docs: pa.Table) -> pa.Table:
        for column, scorings in self.by_column().items():
            scores = np.full(len(docs), np.nan, np.float32)
            limits = np.full(len(docs), np.nan)
            for scoring in scorings:
                rows = _rows(docs, scoring.languages())
                texts = docs["text"] if len(rows) == len(docs) else docs["text"].take(pa.array(rows))
                scorer = classifiers.load(scoring.file(), scoring.label)
                scores[rows] = classifiers.score(*schema.text_buffers(texts), scorer)[: len(rows)]
                limits[rows] = np.nan if scoring.min is None else scoring.min
            docs = schema.set_column(docs, column, pa.array(scores, pa.float32(), from_pandas=True))
            low = scores < limits.astype(np.float32)
            if any(scoring.min is not None for scoring in scorings):
                reasons = pc.if_else(pa.array(low), f"low_{column}", pa.scalar(None, pa.string()))
                docs = schema.mark(docs, reasons, np.where(low, scores, np.nan), np.where(low, limits, np.nan))
        return docs


def _rows(docs: pa.Table, languages: tuple[str, ...]) -> np.ndarray:
    """Where the documents of these languages are; all, where none is named."""
    if not languages:
        return np.arange(len(docs))
    return np.flatnonzero(pc.is_in(docs["lang"].cast(pa.string()), pa.array(languages, pa.string())).to_numpy())
