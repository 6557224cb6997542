"""Score documents with fastText classifiers; optionally drop those that score low.

A score is a column first: what it is good for (a cut at a threshold here, a cut by rate or buckets in `keep`, an order
in `dedup`) is decided by whoever reads it, without the text. A linear model over hashed n-grams of words is what ranked
web pages best at a given cost in DataComp-LM (Li et al. 2024, arXiv:2406.11794, table 4), and a core scores tens of
megabytes a second with it.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from pipeline import schema
from pipeline.stage import Stage
from stages.models import asked, cards, classifiers, fasttext
from stages.models.asked import Answers, Asked, Asks, Name

_DATA = Path(__file__).parent / "data"


class Scoring(Asked):
    """One model: where it is, whom it is asked about, where its answer goes."""

    path: Path | None = Field(None, description="a supervised fastText model (.bin, .ftz), with its card if it has one")
    builtin: Literal["en", "zh"] | None = Field(None, description="a model that comes with this package, instead")
    label: str | None = Field(None, description="the label whose probability is the score; the card's if omitted")
    min: float | None = Field(None, description="documents that score lower are dropped")

    @model_validator(mode="after")
    def _one_model(self) -> "Scoring":
        if (self.path is None) == (self.builtin is None):
            raise ValueError("exactly one of `path` and `builtin` says which model")
        if self.path is not None:
            cards.check_begins(self.path, fasttext.MARK, "a fastText model")
        if self.path is not None and self.path.is_file() and not self.card().label and self.label is None:
            raise ValueError(f"{self.path} has no card: `label` must say which of its labels is the score")
        return self

    def file(self) -> Path:
        """The model."""
        return self.path or _DATA / f"quality-{self.builtin}.ftz"

    def card(self) -> classifiers.Card:
        """Its card."""
        return classifiers.read_card(self.file())

    def known(self) -> tuple[str, ...]:
        """The languages its card names."""
        return self.card().language

    def score(self, texts: pa.ChunkedArray) -> np.ndarray:
        """float32: the probability of the label for each text."""
        return classifiers.score(*schema.text_buffers(texts), classifiers.load(self.file(), self.label))


_SHIPPED = {name: Scoring.model_validate({"builtin": name, "column": "quality_score"}) for name in ("en", "zh")}


class Classify(Asks, Stage):  # type: ignore[override]
    """Score documents with one or more fastText classifiers, each for the languages it knows.

    Columns: one for every name in `models` (or its `column`, which models of different languages may share), float32:
    the model's probability of its label, as the library's `predict` gives it; null for a document of another language,
    and for one without a word or n-gram that the model knows (an empty one, say), where `predict` has but its prior.
    Reason: `low_<column>`, for a score below `min`; a null is not below it.
    """

    models: dict[Name, Scoring] = Field(
        _SHIPPED, min_length=1, description="by name: {path or builtin, label, language, column, min}"
    )

    @model_validator(mode="after")
    def _one_score_a_column(self) -> "Classify":
        asked.check(self.models)
        return self

    def apply(self, docs: pa.Table) -> pa.Table:
        for column, scorings in asked.by_column(self.models).items():
            answers = Answers(docs, scorings, Scoring.score)
            docs = schema.set_column(docs, column, answers.column())
            if any(scoring.min is not None for scoring in scorings):
                scores, limits = answers.values, answers.limits("min")
                low = scores < limits.astype(np.float32)
                reasons = pc.if_else(pa.array(low), f"low_{column}", pa.scalar(None, pa.string()))
                docs = schema.mark(docs, reasons, np.where(low, scores, np.nan), np.where(low, limits, np.nan))
        return docs
