"""Say how surprising each document is to a small language model; optionally drop those too surprising, or too little.

Bits per character under a character n-gram model of texts one believes in: CCNet's signal (Wenzek et al. 2020,
arXiv:1911.00359), which cut each language into thirds by it. Low is ordinary prose, or one phrase a hundred times; high
is lists, code, poetry, names, another language, noise. So it is a column first: what to make of it is for its reader.
"""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline import schema
from pipeline.stage import Stage
from stages.kernels import ngrams
from stages.readers import ngrams as reader

_DATA = Path(__file__).parent / "data"

Name = Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$")]


class Asking(BaseModel):
    """One model: where it is, whom it is asked about, where its answer goes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path | None = Field(None, description="a model of train-perplexity (.ngrams), with its card if it has one")
    builtin: Literal["en", "zh"] | None = Field(None, description="a model that comes with this package, instead")
    language: tuple[str, ...] | None = Field(
        None, description="only documents of these languages (`lang`); the card's if omitted; []: all documents"
    )
    column: Name = Field("bits_per_char", description="where the answer goes")
    min: float | None = Field(None, description="documents of fewer bits per character are dropped")
    max: float | None = Field(None, description="documents of more bits per character are dropped")

    @model_validator(mode="after")
    def _one_model(self) -> "Asking":
        if (self.path is None) == (self.builtin is None):
            raise ValueError("exactly one of `path` and `builtin` says which model")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"`min` {self.min} is above `max` {self.max}: nothing would stay")
        return self

    def file(self) -> Path:
        """The model."""
        return self.path or _DATA / f"perplexity-{self.builtin}.ngrams"

    def languages(self) -> tuple[str, ...]:
        """Those of the documents it is asked about; none: all documents."""
        return reader.languages(self.file()) if self.language is None else self.language


_SHIPPED = {name: Asking.model_validate({"builtin": name}) for name in ("en", "zh")}


class Perplexity(Stage):
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
        for column, askings in self.by_column().items():
            if column in schema.DOCUMENT or column in schema.DROP:
                raise ValueError(f"{column!r} is a column of every document; `column` must name another")
            asked = [lang for asking in askings for lang in asking.languages()]
            if len(askings) > 1 and (len(set(asked)) < len(asked) or not all(one.languages() for one in askings)):
                raise ValueError(f"models that share the column {column!r} must each have languages of their own")
        return self

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """The text, and the language where a model is for some languages only."""
        return ("text", "lang") if any(asking.languages() for asking in self.models.values()) else ("text",)

    def columns(self) -> dict[str, pa.DataType]:
        return {column: pa.float32() for column in self.by_column()}

    def by_column(self) -> dict[str, list[Asking]]:
        """The models that write each column."""
        found: dict[str, list[Asking]] = {}
        for asking in self.models.values():
            found.setdefault(asking.column, []).append(asking)
        return found

    def files(self) -> list[Path]:
        """The models, and the cards of those that have one."""
        files = [asking.file() for asking in self.models.values()]
        return files + [card for card in map(reader.card_path, files) if card.exists()]

    def apply(self, docs: pa.Table) -> pa.Table:
        for column, askings in self.by_column().items():
            bits = np.full(len(docs), np.nan, np.float32)
            least, most = np.full((2, len(docs)), np.nan)
            for asking in askings:
                rows = _rows(docs, asking.languages())
                texts = docs["text"] if len(rows) == len(docs) else docs["text"].take(pa.array(rows))
                bits[rows] = ngrams.score(*schema.text_buffers(texts), reader.load(asking.file()))[: len(rows)]
                least[rows] = np.nan if asking.min is None else asking.min
                most[rows] = np.nan if asking.max is None else asking.max
            docs = schema.set_column(docs, column, pa.array(bits, pa.float32(), from_pandas=True))
            low, high = bits < least.astype(np.float32), bits > most.astype(np.float32)
            if any(asking.min is not None or asking.max is not None for asking in askings):
                reasons = np.full(len(docs), None, object)
                reasons[low], reasons[high] = f"low_{column}", f"high_{column}"
                limits = np.where(low, least, np.where(high, most, np.nan))
                docs = schema.mark(docs, reasons, np.where(low | high, bits, np.nan), limits)
        return docs


def _rows(docs: pa.Table, languages: tuple[str, ...]) -> np.ndarray:
    """Where the documents of these languages are; all, where none is named."""
    if not languages:
        return np.arange(len(docs))
    return np.flatnonzero(pc.is_in(docs["lang"].cast(pa.string()), pa.array(languages, pa.string())).to_numpy())
