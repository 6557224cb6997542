"""The contract between the machine and the work.

A stage is a frozen pydantic model: its fields are its configuration, said once, so that checking, defaults, help and
the JSON Schema fall out of the class. There are four kinds: a `Source` brings documents in, a `Stage` works on one
batch at a time, a `Barrier` needs to have seen every document before it can judge any, a `Sink` writes the finished
corpus.

The law: the same rows in, the same rows out, in the same order. A stage rewrites `text`, adds the columns it declares,
and marks documents with `schema.mark`; the runner checks the law on every batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import pyarrow as pa
from pydantic import BaseModel, ConfigDict


class Refused(ValueError):
    """What is asked for cannot be had of these documents, which is said to the person who asked: once more will not do.

    For `plan` and `finish` of a sink, which run once, in the driver.
    """


class _Step(BaseModel, ABC):
    """What all four kinds share: configuration as fields, columns wanted, columns added."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    needs: ClassVar[tuple[str, ...]] = ("text",)
    """Columns that must be there before this stage; checked before anything runs."""

    numbers: ClassVar[tuple[str, ...]] = ()
    """Those of `needs` that must be of numbers; checked as well."""

    groups: ClassVar[tuple[str, ...]] = ()
    """Those of `needs` by whose values documents are grouped, which must be single values; checked as well."""

    adds: ClassVar[dict[str, pa.DataType]] = {}
    """Columns this stage adds, with their types."""

    alarm_share: ClassVar[float | None] = 0.9
    """A run raises an alarm where this stage drops a larger share of the documents for one reason.

    None for a stage whose purpose it is to drop most of them, as a cut to the best tenth.
    """

    def columns(self) -> dict[str, pa.DataType]:
        """`adds` of this very configuration; to override where the columns depend on the fields."""
        return dict(self.adds)

    def files(self) -> list[Path]:
        """Files that no setting names and the result depends on: shipped models, tables.

        They must exist, and their content is part of the fingerprint. So is the content of every `Path` among the
        settings, which need not be listed here. A folder among the settings stands for all files below it, unless this
        lists some of them.
        """
        return []

    def tally(self, docs: pa.Table) -> dict[str, int]:
        """Counts to add up over the run, beside the drop reasons, from a batch that `apply` or `read` returned."""
        return {}


class Stage(_Step):
    """Work on one batch at a time."""

    @abstractmethod
    def apply(self, docs: pa.Table) -> pa.Table:
        """The same rows in the same order, with columns added, `text` rewritten, or documents marked as dropped.

        Called with batches of about 32 MB of text, possibly of no rows. Must be a pure function of its input.
        """


class Piece(NamedTuple):
    """One file, or a part of one: bytes or row groups [start, stop); stop -1 is the end of the file."""

    path: str
    source: str  # the name that goes into the documents' `source` and `id`
    kind: str  # the reader that understands it
    size: int  # bytes to read, for packing and for progress
    start: int = 0
    stop: int = -1


class Split(NamedTuple):
    """The input of one partition: a few pieces, read one after the other."""

    pieces: tuple[Piece, ...]

    @property
    def size(self) -> int:
        return sum(piece.size for piece in self.pieces)


class Source(_Step):
    """Brings documents in."""

    needs: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def inputs(self) -> list[Split]:
        """The partitions, in an order that depends on names only. Raises `ValueError` when a path matches nothing."""

    def arrivals(self) -> list[Split]:
        """The partitions, for an incremental run that has taken something in before.

        Then an inbox that exists and is empty means that nothing has arrived. A place that is gone is still an error.
        """
        return self.inputs()

    @abstractmethod
    def read(self, split: Split) -> Iterator[pa.Table]:
        """Batches with the columns of `schema.DOCUMENT`, then `columns()`, then those of `schema.DROP`.

        Every record met is a row: one that cannot become a document is delivered marked, with empty text.
        """


class Part(NamedTuple):
    """One partition at rest before a barrier: its documents, and a row of sketch for each."""

    docs: Path  # Parquet, every column so far
    sketch: Path  # Arrow IPC file, what `Barrier.sketch` returned, same rows in the same order
    rows: int


class StageCount(NamedTuple):
    """What one stage took in and let through."""

    stage: str
    rows_in: int
    rows_out: int
    reasons: dict[str, int]  # dropped documents by reason
    tally: dict[str, int]  # what the stage counted beside
    seconds: float  # of CPU


class Steps(Protocol):
    """Runs the inner steps of a barrier in parallel; a finished task is not run again after a restart."""

    def __call__(self, name: str, fn: Any, tasks: list[Any]) -> list[dict[str, Any]]:
        """Call `fn(task, out)` for each task and return its records in task order.

        `fn` is a module-level function, `task` anything that pickles. `out` is a path of this task's own, without
        suffix: `fn` writes its files as `storage.atomic(Path(f"{out}.npy"))` or the like, and returns a small
        JSON-able record.
        """
        ...


class Barrier(_Step):
    """Judges documents only after having seen a sketch of every one."""

    @abstractmethod
    def sketch(self, docs: pa.Table) -> pa.Table:
        """One row a document, small: what `resolve` needs to know of it."""

    @abstractmethod
    def resolve(self, parts: list[Part], steps: Steps) -> list[Path]:
        """A verdict file (Parquet) for each part: a row a document, `columns()` and the columns of `schema.DROP`.

        It may have a column `text` (string): what a document's text becomes, null where it stays. A dropped document
        keeps its own, so that its reject shows what was judged. Its row groups are read one at a time.
        """


class Sink(_Step):
    """Writes the finished corpus: each partition is scattered, then each shard gathered from all partitions."""

    rests: ClassVar[bool] = False
    """Whether documents rest before it, so that other settings of this sink cost nothing of what was done before."""

    def asked(self) -> list[dict[str, Any]]:
        """What it will settle of the documents (a mixture), as configured: a row a group; for people."""
        return []

    def foreseen(self, docs: list[Path]) -> dict[str, Any] | None:
        """What `plan` would settle of these documents at rest; None where it would settle nothing. Raises `Refused`."""
        return None

    @abstractmethod
    def scatter(self, docs: Iterator[pa.Table], out: Path) -> dict[str, Any]:
        """Write one partition's contribution as files named `out` + suffix; returns a small JSON-able record."""

    @abstractmethod
    def plan(self, scattered: list[Path]) -> list[Any]:
        """The shards to gather, one task each, from what every partition's `scatter` left under its `out`."""

    @abstractmethod
    def gather(self, task: Any, out: Path) -> dict[str, Any]:
        """Write one shard as files named `out` + suffix; returns a small JSON-able record."""

    @abstractmethod
    def finish(self, gathered: list[Path], records: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
        """Put the shards in place under `folder` and write the manifest, last; returns a record with `files`.

        May drop documents: `counts` in the record (a list of `StageCount`), and rejects under `rejected/` among the
        files.
        """


class Fitted(Protocol):
    """A stage that learns from the documents before it can be applied (a tokenizer, say)."""

    def unfitted(self) -> bool:
        """Whether this configuration asks for learning at all."""
        ...

    def fit(self, docs: list[Path], out: Path) -> dict[str, Any]:
        """Learn from these Parquet files and write what was learned as files named `out` + suffix; returns a record."""
        ...

    def fitted(self, out: Path) -> Stage:
        """This stage with what `fit` left under `out` filled in."""
        ...
