"""The framework: carries a list of stages out over partitions. It knows nothing of language, duplicates or tokens."""

import os
from typing import TYPE_CHECKING, Any

from pipeline import project

if TYPE_CHECKING:
    from pipeline.reading import Run, open_run

__all__ = ["Run", "__version__", "open_run"]
__version__ = "0.1.0"

if project.VARIABLE in os.environ:  # a process that works for another one finds the same stages
    project.follow()


def __getattr__(name: str) -> Any:
    """Load `open_run` and `Run` when they are asked for, so that the command line starts without pyarrow.dataset."""
    if name in ("Run", "open_run"):
        from pipeline import reading

        return getattr(reading, name)
    raise AttributeError(f"module 'pipeline' has no attribute '{name}'")
