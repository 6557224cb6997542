"""Where a task is: a small file that it keeps up to date, so that whoever waits for it can tell what it is at.

The file is there while the task runs, and stays when its process dies: it names the stage that did it. Its first bytes
are the mark; behind them `faulthandler` writes where the process was when its time was up.
"""

import faulthandler
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from pipeline.schema import text_bytes

_SIZE = 512
"""Bytes of a mark, always the same, so that one write replaces it."""

_LONGEST = 10
"""A batch may take the sum of its documents' limits, but no longer than so many of them: of 20,000 documents at 60 s
each, one that hangs would be found after two weeks. A batch that is healthy but slower is then given out in pieces."""


class Limits(NamedTuple):
    """How long one document may take in one stage."""

    seconds: float = 60.0
    per_mb: float = 10.0  # seconds more for each million bytes of its text

    def of_document(self, size: int) -> float:
        return self.seconds + self.per_mb * size / 1e6

    def of_batch(self, docs: pa.Table) -> float:
        return self.seconds * min(max(len(docs), 1), _LONGEST) + self.per_mb * text_bytes(docs) / 1e6

    def of_file(self, size: int) -> float:
        """For the next batch of documents of a file, of about `size` bytes of text."""
        return self.seconds * _LONGEST + self.per_mb * size / 1e6

    def of_start(self) -> float:
        """For what a stage does once in a process: it loads models and compiles kernels."""
        return self.seconds * _LONGEST / 2


class Mark(NamedTuple):
    """What a task is at."""

    host: str
    pid: int
    documents: int = 0  # that are through, or have left
    stage: str = ""  # that works now; empty while none does
    limit: float | None = None  # seconds from the writing of the mark, after which the process should have ended
    late: bool = False  # it was ended by its limit


def path_of(receipt: Path) -> Path:
    """Of the mark of the task with this receipt; it is swept like any temporary file."""
    return receipt.with_name(f".{receipt.stem}.mark.tmp")


def read(path: Path) -> Mark | None:
    """The mark at `path`; None where there is none, or one half written."""
    try:
        said = path.read_bytes()
        return Mark(*json.loads(said[:_SIZE]))._replace(late=said[_SIZE:].startswith(b"Timeout"))
    except (FileNotFoundError, ValueError, TypeError):
        return None


class Marker:
    """Keeps one mark up to date."""

    def __init__(self, path: Path, deadly: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._deadly = path, deadly
        self._descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
        os.lseek(self._descriptor, _SIZE, os.SEEK_SET)  # where faulthandler writes
        self._mark = Mark(socket.gethostname(), os.getpid())
        self._write()

    @contextmanager
    def at(self, stage: str, limit: float, *, elsewhere: bool = False) -> Iterator[None]:
        """Say that `stage` works for `limit` seconds at most.

        Where the marks are deadly, this process ends when it takes longer, unless the stage works `elsewhere`.
        """
        before = self._mark
        self._mark = before._replace(stage=stage, limit=limit)
        self._write()
        armed = self._deadly and not elsewhere
        try:
            if armed:
                # Not a signal handler: that waits until compiled code returns. This is a thread in C.
                faulthandler.dump_traceback_later(limit, exit=True, file=self._descriptor)
            yield
        finally:
            if armed:
                faulthandler.cancel_dump_traceback_later()
            self._mark = before._replace(documents=self._mark.documents)
            self._write()

    def passed(self, documents: int) -> None:
        """Count documents that are through."""
        self._mark = self._mark._replace(documents=self._mark.documents + documents)

    def close(self) -> None:
        os.close(self._descriptor)
        self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        said = json.dumps(self._mark).encode()
        try:
            os.pwrite(self._descriptor, said[:_SIZE].ljust(_SIZE), 0)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error


@contextmanager
def marker(receipt: Path, deadly: bool = False) -> Iterator[Marker]:
    """The marks of one task. After a crash the file stays; an exception removes it."""
    made = Marker(path_of(receipt), deadly)
    try:
        yield made
    finally:
        made.close()
