"""Say how surprising each document is to a small language model; optionally drop those too surprising, or too little.

Bits per character under a character n-gram model of texts one believes in: CCNet's signal (Wenzek et al. 2020,
arXiv:1911.00359), which cut each language into thirds by it. Low is ordinary prose, or one phrase a hundred times; high
is lists, code, poetry, names, another language, noise. So it is a column first: what to make of it is for its reader.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from pipeline import schema
from pipeline.stage import Stage
from stages.kernels import ngrams
from stages.models import asked, cards
from stages.models import ngrams as reader
from stages.models.asked import Answers, Asked, Asks, Name

_DATA = Path(__file__).parent / "data"


class Asking(Asked):
    """One model: where it is, whom it is asked about, where its answer goes."""

    path: Path | None = Field(None, description="a model of train-perplexity (.ngrams), with its card if it has one")
    builtin: Literal["en", "zh"] | None = Field(None, description="a model that comes with this package, instead")
    column: Name | None = Field("bits_per_char", description="where the answer goes")
    min: float | None = Field(None, description="documents of fewer bits per character are dropped")
    max: float | None = Field(None, description="documents of more bits per character are dropped")

    @model_validator(mode="after")
    def _one_model(self) -> "Asking":
        if (self.path is None) == (self.builtin is None):
            raise ValueError("exactly one of `path` and `builtin` says which model")
        if self.path is not None:
            cards.check_begins(
                self.path, reader.MARK, "an n-gram model of train-perplexity, or one of an older version"
            )
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"`min` {self.min} is above `max` {self.max}: nothing would stay")
        return self

    def file(self) -> Path:
        """The model."""
        return self.path or _DATA / f"perplexity-{self.builtin}.ngrams"

    def known(self) -> tuple[str, ...]:
        """The languages its card names."""
        return reader.languages(self.file())

    def bits(self, texts: pa.ChunkedArray) -> np.ndarray:
        """float32: bits per character of each text."""
        return ngrams.score(*schema.text_buffers(texts), reader.load(self.file()))


_SHIPPED = {name: Asking.model_validate({"builtin": name}) for name in ("en", "zh")}


class Perplexity(Asks, Stage):  # type: ignore[override]
    """Bits per character of each document under character n-gram models, each for the languages it knows.

    Columns: `bits_per_char`, or the models' own `column`, which models of different languages may share; float32, null
    for a document of another language or without a character. Reasons: `high_<column>` above `max`, `low_<column>`
    below `min`.
    """

    models: dict[Name, Asking] = Field(
        _SHIPPED, min_length=1, description="by name: {path or builtin, language, column, min, max}"
    )

    @model_validator(mode="after")
    def _one_answer_a_column(self) -> "Perplexity":
        asked.check(self.models)
        return self

    def apply(self, docs: pa.Table) -> pa.Table:
        for column, askings in asked.by_column(self.models).items():
            answers = Answers(docs, askings, Asking.bits)
            docs = schema.set_column(docs, column, answers.column())
            if any(asking.min is not None or asking.max is not None for asking in askings):
                bits, least, most = answers.values, answers.limits("min"), answers.limits("max")
                low, high = bits < least.astype(np.float32), bits > most.astype(np.float32)
                reasons = np.full(len(docs), None, object)
                reasons[low], reasons[high] = f"low_{column}", f"high_{column}"
                limits = np.where(low, least, np.where(high, most, np.nan))
                docs = schema.mark(docs, reasons, np.where(low | high, bits, np.nan), limits)
        return docs
