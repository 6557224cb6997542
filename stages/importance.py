"""Weigh documents by how much likelier they are in a target set than in the raw corpus.

Importance resampling (DSIR; Xie et al. 2023, arXiv:2302.03169): the words and word pairs of a text, hashed into
buckets, are taken as drawn one by one from a distribution, one estimated from texts one wants more of, the other from
the corpus. The log of the ratio of the two likelihoods is the document's log importance weight. Here it is a column;
`keep` with a `temperature` draws by it, or cuts. `train-importance` estimates the two distributions.
"""

import functools
import json
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline import schema
from pipeline.stage import Stage
from stages.kernels import hashed

Name = Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$")]


class Weighing(BaseModel):
    """One model: where it is, whom it is asked about, where its answer goes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path = Field(description="a model of `train-importance` (.npy), its card (.json) beside it")
    language: tuple[str, ...] | None = Field(
        None,
        description="only documents of these languages (`lang`); the card's if omitted; []: all documents",
    )
    column: Name = Field("importance", description="where the weight goes")

    def languages(self) -> tuple[str, ...]:
        """Those of the documents it is asked about; none: all documents."""
        if self.language is not None:
            return self.language
        return read_card(self.path).language if card_path(self.path).exists() else ()

    def files(self) -> list[Path]:
        """The model and its card."""
        return [self.path, card_path(self.path)]


class Importance(Stage):
    """Weigh documents by the ratio of their likelihoods in a target set and in the raw corpus, each as hashed n-grams.

    Column: `importance` (or as a model's `column`, which models of different languages may share), float32: the sum
    of the log ratios (natural logarithm) of all words and word pairs of the document, or their mean. Null for a
    document without a word, and for one of a language that no model is for.
    """

    models: dict[Name, Weighing] = Field(min_length=1, description="by name: {path, language, column}")
    per: Literal["document", "feature"] = Field(
        "document",
        description="document: the sum, as in the paper; feature: the mean, so that length does not decide",
    )

    @model_validator(mode="after")
    def _one_weight_a_column(self) -> "Importance":
        for column, weighings in self.by_column().items():
            if column in schema.DOCUMENT or column in schema.DROP:
                raise ValueError(f"{column!r} is a column of every document; `column` must name another")
            asked = [lang for weighing in weighings for lang in weighing.languages()]
            if len(weighings) > 1 and (len(set(asked)) < len(asked) or not all(w.languages() for w in weighings)):
                raise ValueError(f"models that share the column {column!r} must each have languages of their own")
        return self

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """The text, and the language where a model is for some languages only."""
        return ("text", "lang") if any(weighing.languages() for weighing in self.models.values()) else ("text",)

    def columns(self) -> dict[str, pa.DataType]:
        return {column: pa.float32() for column in self.by_column()}

    def by_column(self) -> dict[str, list[Weighing]]:
        """The models that write each column."""
        found: dict[str, list[Weighing]] = {}
        for weighing in self.models.values():
            found.setdefault(weighing.column, []).append(weighing)
        return found

    def files(self) -> list[Path]:
        """The models and their cards."""
        return [file for weighing in self.models.values() for file in weighing.files()]

    def apply(self, docs: pa.Table) -> pa.Table:
        for column, weighings in self.by_column().items():
            found = np.full(len(docs), np.nan, np.float32)
            for weighing in weighings:
                rows = _rows(docs, weighing.languages())
                texts = docs["text"] if len(rows) == len(docs) else docs["text"].take(pa.array(rows))
                found[rows] = self._weights(texts, load(weighing.path))[: len(rows)]
            docs = schema.set_column(docs, column, pa.array(found, pa.float32(), from_pandas=True))
        return docs

    def _weights(self, texts: pa.ChunkedArray, ratios: np.ndarray) -> np.ndarray:
        """float64: of each text; NaN without a word, where 0 would say that both sets are as likely."""
        found, starts = hashed.features(*hashed.tokens(*schema.text_buffers(texts)), len(ratios))
        sums, sizes = hashed.sums(found, starts, ratios), np.diff(starts)
        sums[sizes == 0] = np.nan
        return sums / np.maximum(sizes, 1) if self.per == "feature" else sums


def _rows(docs: pa.Table, languages: tuple[str, ...]) -> np.ndarray:
    """Where the documents of these languages are; all, where none is named."""
    if not languages:
        return np.arange(len(docs))
    return np.flatnonzero(pc.is_in(docs["lang"].cast(pa.string()), pa.array(languages, pa.string())).to_numpy())


class Card(NamedTuple):
    """What a run has to know of a model."""

    language: tuple[str, ...]  # of the corpus it was estimated from; none: any
    buckets: int
    features: int  # hashed.VERSION


def card_path(model: Path) -> Path:
    """Where the card of a model is."""
    return model.with_suffix(".json")


def read_card(model: Path) -> Card:
    """The card of a model. Raises `ValueError` for one that is damaged or of another version, `OSError` without."""
    path = card_path(model)
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        card = Card(tuple(raw["language"]), int(raw["buckets"]), int(raw["features"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the card of an importance model: {error!r}") from error
    if card.features != hashed.VERSION:
        raise ValueError(f"{path} is of features version {card.features}, this is version {hashed.VERSION}; train anew")
    return card


@functools.cache
def load(path: Path) -> np.ndarray:
    """The log ratios of a model, float32[buckets]. Raises `ValueError` for a file that is not one."""
    card = read_card(path)
    try:
        ratios = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is not an importance model: {error}") from error
    if ratios.dtype != np.float32 or ratios.shape != (card.buckets,) or not np.isfinite(ratios).all():
        raise ValueError(f"{path} is not the model its card tells of: {card.buckets} finite float32 numbers")
    return ratios
