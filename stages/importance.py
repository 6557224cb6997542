"""Weigh documents by how much likelier they are in a target set than in the raw corpus.

Importance resampling (DSIR; Xie et al. 2023, arXiv:2302.03169): the words and word pairs of a text, hashed into
buckets, are taken as drawn one by one from a distribution, one estimated from texts one wants more of, the other from
the corpus. The log of the ratio of the two likelihoods is the document's log importance weight. Here it is a column;
`keep` with a `temperature` draws by it, or cuts. `train-importance` estimates the two distributions.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from pipeline import schema
from pipeline.stage import Stage
from stages.kernels import hashed
from stages.models import asked
from stages.models import importance as reader
from stages.models.asked import Answers, Asked, Asks, Name


class Weighing(Asked):
    """One model: where it is, whom it is asked about, where its answer goes."""

    path: Path = Field(description="a model of `train-importance` (.npy), its card (.json) beside it")
    column: Name | None = Field("importance", description="where the weight goes")

    @model_validator(mode="after")
    def _has_a_card(self) -> "Weighing":
        if self.path.is_file() and reader.read_card(self.path) is None:
            raise ValueError(f"{self.path} has no card, which train-importance writes beside it")
        return self

    def file(self) -> Path:
        """The model."""
        return self.path

    def known(self) -> tuple[str, ...]:
        """The languages its card names."""
        card = reader.read_card(self.path)
        return card.language if card else ()


class Importance(Asks, Stage):  # type: ignore[override]
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
        asked.check(self.models)
        return self

    def apply(self, docs: pa.Table) -> pa.Table:
        for column, weighings in asked.by_column(self.models).items():
            docs = schema.set_column(docs, column, Answers(docs, weighings, self._weights).column())
        return docs

    def _weights(self, weighing: Weighing, texts: pa.ChunkedArray) -> np.ndarray:
        """float64: of each text; NaN without a word, where 0 would say that both sets are as likely."""
        ratios = reader.load(weighing.path)
        found, starts = hashed.features(*hashed.tokens(*schema.text_buffers(texts)), len(ratios))
        sums, sizes = hashed.sums(found, starts, ratios), np.diff(starts)
        sums[sizes == 0] = np.nan
        return sums / np.maximum(sizes, 1) if self.per == "feature" else sums
