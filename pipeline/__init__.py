"""The framework: carries a list of stages out over partitions. It knows nothing of language, duplicates or tokens."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.reading import Run, open_run

__all__ = ["Run", "open_run"]


def __getattr__(name: str) -> Any:
    """Load `open_run` and `Run` when they are asked for, so that the command line starts without pyarrow.dataset."""
    if name in __all__:
        from pipeline import reading

        return getattr(reading, name)
    raise AttributeError(f"module 'pipeline' has no attribute '{name}'")
