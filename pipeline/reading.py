"""Read a run directory from Python: its documents, rejects, ledger and corpus, as the present configuration made them.

    from pipeline import open_run

    run = open_run("runs/tiny")
    run.documents().head(5).to_pandas()
    run.rejects(reason="too_short").to_table(columns=["url", "drop_value"]).to_pandas()
    run.ledger().to_table().to_pandas()
    run.corpus().text(0)

A run directory keeps the groups of earlier configurations, so that going back costs nothing. Whoever reads its folders
by a pattern reads those too. Here only the files count that the report of the last run names.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import corpus, increments
from pipeline.rundir import GroupDir, RunDir

if TYPE_CHECKING:
    import pyarrow.dataset as ds


class NotARun(ValueError):
    """A path that is no run directory, or a question it has no answer to."""


def run_folder(name: str) -> Path:
    """The run directory `name`, or runs/`name`; that of an incremental run holds its increments. Raises `NotARun`."""
    for folder in (Path(name), Path("runs") / name):
        if RunDir(folder).config.is_file() or increments.of(folder):
            return folder
    raise NotARun(f"{name}: no run directory (neither {name} nor runs/{name} has a config.yaml)")


def members(folder: Path) -> list[Path]:
    """The increments of an incremental run, in order; a run as it is."""
    return [increment.folder for increment in increments.of(folder)] or [folder]


def report(folder: Path) -> dict[str, Any]:
    """The run's report. Raises `NotARun` when it has none yet."""
    written = RunDir(folder).read_report()
    if written is None:
        raise NotARun(f"{folder}: no report yet; the run has not come to an end")
    return written


def groups(folder: Path, report: dict[str, Any]) -> list[GroupDir]:
    """The folders of the groups that a report is about."""
    return [RunDir(folder).group(group["folder"], group["kind"]) for group in report["groups"]]


def kept(folder: Path, report: dict[str, Any], stage: str | None = None) -> list[Path]:
    """The surviving documents as they left the group of `stage`, or the last group that left them with their text."""
    named = [number for number, group in enumerate(report["groups"]) if stage is None or stage in group["stages"]]
    for group in reversed(groups(folder, report)[: max(named, default=-1) + 1]):
        if paths := group.document_files(group.receipts(report["partitions"])):
            return paths
    return []


def rejects(folder: Path, report: dict[str, Any], stage: str | None = None) -> list[Path]:
    """The files of dropped documents; with `stage`, those of its group, which may hold those of other stages too."""
    return [
        path
        for entry, group in zip(report["groups"], groups(folder, report))
        if stage is None or stage in entry["stages"]
        for path in group.reject_files(group.receipts(report["partitions"]))
    ]


class _Member(NamedTuple):
    """A run, or one increment."""

    folder: Path
    report: dict[str, Any]


class Run:
    """A finished run, or all finished increments of one that grows. Nothing is loaded before it is asked for."""

    def __init__(self, folder: Path, members: list[_Member]) -> None:
        self.folder = folder
        self._members = members

    @property
    def stages(self) -> list[str]:
        """The names of the stages, in the order they work."""
        return list(dict.fromkeys(name for group in self._members[-1].report["groups"] for name in group["stages"]))

    def documents(self, stage: str | None = None) -> "ds.Dataset":
        """The documents that survived, with their text: a row a document, the columns of the run.

        With `stage`, as they left the group of that stage, which may be earlier. Documents that the last stage left out
        (a mixture does) are not among them. Raises `NotARun` where the run keeps no texts, or has no such stage.
        """
        self._check(stage)
        files = [path for one in self._members for path in kept(one.folder, one.report, stage)]
        if not files:
            raise NotARun(f"{self.folder}: no group of this run keeps texts; corpus().text(i) decodes them from tokens")
        left_out = set() if stage else {id_ for one in self._members for id_ in _left_out(one)}
        rows = _dataset(files)
        return rows.filter(~pc.field("id").isin(sorted(left_out))) if left_out else rows

    def rejects(self, stage: str | None = None, reason: str | None = None) -> "ds.Dataset":
        """The documents that were dropped, with `stage`, `drop` (the reason), `drop_value` and `drop_limit`.

        Of one stage and for one reason, if given. Raises `NotARun` for a stage that is not in this run.
        """
        self._check(stage)
        rows = _dataset(path for one in self._members for path in rejects(one.folder, one.report))
        for name, value in (("stage", stage), ("drop", reason)):
            rows = rows if value is None else rows.filter(pc.field(name) == value)
        return rows

    def ledger(self) -> "ds.Dataset":
        """A row for every record that entered: what happened to it, and why."""
        return _dataset(path for one in self._members for path in RunDir(one.folder).ledger_files)

    def corpus(self) -> corpus.Corpus:
        """The finished corpus. Raises `corpus.NotACorpus` where the run does not end in one."""
        return corpus.open(self.folder)

    def _check(self, stage: str | None) -> None:
        if stage is not None and stage not in self.stages:
            raise NotARun(f"there is no stage '{stage}' in this run (there are: {', '.join(self.stages)})")


def open_run(path: str | Path) -> Run:
    """Open the run directory `path`, or runs/`path`.

    Raises `NotARun` where there is none, and where its last run did not come to a good end.
    """
    folder = run_folder(str(path))
    last = increments.finished(folder)
    homes = [one.folder for one in increments.of(folder) if one.number <= last] or [folder]
    opened = [_Member(home, report(home)) for home in homes]
    for home, written in opened:
        if written["state"] != "done" or written["imbalances"]:
            raise NotARun(f"{home}: its last run did not come to a good end; `status` and `verify` say more")
    return Run(folder, opened)


def _left_out(member: _Member) -> list[str]:
    """The ids of documents that reached the sink and are not in the corpus."""
    last = groups(*member)[-1]
    if last.kind != "sink":
        return []
    files = last.reject_files(last.receipts(member.report["partitions"]))
    tables = [pq.read_table(path, columns=["id", "stage"]) for path in files]
    sink = member.report["groups"][-1]["stages"][-1]
    return [id_ for table in tables for id_ in table.filter(pc.equal(table["stage"], sink))["id"].to_pylist()]


def _dataset(files: Iterable[Path]) -> "ds.Dataset":
    """One dataset over Parquet files, whose groups may have different columns; empty for no files."""
    import pyarrow.dataset as ds  # here, since it brings pandas in where that is installed

    paths = [str(path) for path in files]
    if not paths:
        return ds.dataset(pa.table({"id": pa.array([], pa.string())}))
    one_of_each = {Path(path).parent: path for path in paths}
    schema = pa.unify_schemas([pq.read_schema(path).remove_metadata() for path in one_of_each.values()])
    return ds.dataset(paths, schema=schema, format="parquet")
