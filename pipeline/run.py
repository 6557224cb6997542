"""Carries a plan out: group by group, partition by partition, whatever has no valid receipt yet.

There is no state but the receipts. A run that was killed, or whose configuration changed and changed back, continues
from what is on disk; one that has everything does no task at all. Each group of partitions is a `map` through the
engine; a barrier adds its inner steps and the verdicts, a sink its shards.
"""

import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import config as configs
from pipeline import ledger, partition, report, rundir, storage
from pipeline.config import Config, NamedStep
from pipeline.engine import Engine
from pipeline.marks import Limits
from pipeline.plan import Group, Plan, outline
from pipeline.rundir import Documents, FileFact, GroupDir, Receipt, RunDir
from pipeline.stage import Barrier, Part, Piece, Refused, Sink, Split, Steps
from pipeline.storage import digest
from pipeline.supervise import Supervisor, Watch


class Failure(NamedTuple):
    """A partition or inner step that ended without a result."""

    what: str  # the group and task
    message: str  # one line: stage, input, error
    details: str  # the whole traceback
    refused: bool = False  # the configuration asks for what cannot be had: the same command would fail again


class Failed(RuntimeError):
    """Some tasks of a group failed; the others finished and keep their results."""

    def __init__(self, failures: list[Failure], said: str) -> None:
        super().__init__(said)
        self.failures = failures


def run(plan: Plan, folder: Path, engine: Engine, watch: Watch) -> dict[str, Any]:
    """Carry `plan` out in `folder`, which the caller holds the lock of; returns the report, also written there.

    Tasks that fail are in the report's `failed`, counts that do not add up in its `imbalances`; neither raises.
    """
    here = RunDir(folder)
    here.report.unlink(missing_ok=True)  # it tells of the run before this one
    here.forget_damaged()
    here.forget_current()
    sweep(folder)
    with storage.atomic(here.config) as beside:
        beside.write_text(configs.dump(plan.config), encoding="utf-8")
    outline(plan).write(here.outline)
    started, begun = storage.utc(), time.monotonic()
    run_ = _Run(here, engine, watch, plan.config)
    failures: list[Failure] = []
    missing = ""
    arrived: list[Documents] = []
    try:
        for group in plan.groups:
            arrived = run_.group(plan, group, arrived)
        run_.conclude(plan)
    except Failed as failed:
        failures, missing = failed.failures, str(failed)
    seconds = round(time.monotonic() - begun, 2)
    failed_tasks = [failure._asdict() for failure in failures]
    return report.write(plan, folder, failed_tasks, missing, run_.tasks, started, seconds, run_.receipts)


def sweep(folder: Path) -> None:
    """Remove what killed writers left; nobody else writes here while the caller holds the lock."""
    for torn in folder.rglob(".*.tmp"):
        torn.unlink(missing_ok=True)


class _Run:
    """One run in progress: where, on what, watched by whom, how many tasks it has had to do, what receipts said."""

    def __init__(self, home: RunDir, engine: Engine, watch: Watch, config: Config) -> None:
        self.home, self.engine, self.watch, self.config = home, engine, watch, config
        self.tasks = 0
        self.receipts: dict[str, list[Receipt]] = {}  # by folder of the group, in the order of the work

    def group(self, plan: Plan, group: Group, arrived: list[Documents]) -> list[Documents]:
        """Bring one group to rest; returns its partitions. Raises `Failed`."""
        home = self.home.group(group.folder, group.kind)
        home.path.mkdir(parents=True, exist_ok=True)
        stages, learned = self._fitted(group, home, arrived) if group.fits else (group.stages, None)
        if group.source:
            keys = rundir.source_keys(group.fingerprint, plan.splits, plan.contents)
        else:
            keys = rundir.document_keys(group.fingerprint, learned, arrived)
        about = (self.config.limits, self.engine.disposable)
        tasks = _map_tasks(plan, group._replace(stages=stages), home, keys, arrived, *about)
        inputs = [() if plan.contents is not None else _pieces(task) for task in tasks]
        if group.kind == "sink":
            return self._sink(group, home, tasks, inputs)
        home.sweep(len(tasks))
        receipts = self._do(_title(group), partition.run_map, tasks, home.path, inputs)
        mapped = [rundir.documents_of(task.receipt, receipt) for task, receipt in zip(tasks, receipts)]
        return mapped if group.kind == "map" else self._barrier(group, home, tasks, mapped, receipts)

    def _do(
        self,
        what: str,
        fn: Callable[[Any], Any],
        tasks: list[Any],
        home: Path,
        inputs: list[tuple[Piece, ...]] | None = None,
        labels: list[str] | None = None,
    ) -> list[Receipt]:
        """Run the tasks that have no valid receipt; all receipts in task order. Raises `Failed` when all have ended.

        A receipt counts while the `inputs` of its task are what it saw. A failure is told with its entry of `labels`.
        """
        done = [rundir.valid(task.receipt, task.key, read) for task, read in zip(tasks, inputs or [()] * len(tasks))]
        if report.too_many_lost([receipt for receipt in done if receipt], self.config.max_failed_fraction):
            done = [receipt if receipt and not receipt.given_up else None for receipt in done]  # tried once more
        places = [place for place, receipt in enumerate(done) if receipt is None]
        missing = [tasks[place] for place in places]
        names = [labels[place] if labels else tasks[place].label for place in places]
        self.watch.begin(what, len(tasks), len(tasks) - len(missing), sum(map(_size, missing)))
        failures = []
        for end in Supervisor(self.engine, self.watch, what, names).map(fn, missing):
            place, task = places[end.place], missing[end.place]
            self.watch.advance(end.record, _size(task))
            if end.error is None:
                done[place] = end.record
                self.tasks += 1
            else:
                message = _one_line(end.error, names[end.place])
                failures.append(Failure(f"{what} {task.number}", message, end.error))
        self.watch.end()
        finished = [receipt for receipt in done if receipt]
        self.receipts.setdefault(home.name, []).extend(finished)
        if failures:
            raise Failed(sorted(failures), f"{len(failures)} of {len(tasks)} tasks of {what} failed")
        return finished

    def _steps(self, stage: str, home: Path, folder: str, key: str, about: "_About") -> Steps:
        """The inner steps of a barrier or sink called `stage`, with receipts in home/`folder` for this key."""
        key = rundir.placed(key, home)

        def steps(name: str, fn: Any, tasks: list[Any]) -> list[dict[str, Any]]:
            outs = [home / folder / f"{name}-{i:05d}" for i in range(len(tasks))]
            todo = [partition.StepTask(i, key, fn, task, out) for i, (task, out) in enumerate(zip(tasks, outs))]
            labels = [f"{stage}: {name} {about(task, i, len(tasks))}" for i, task in enumerate(tasks)]
            return [one.record for one in self._do(f"{stage} {name}", partition.run_step, todo, home, labels=labels)]

        return steps

    def _barrier(
        self,
        group: Group,
        home: GroupDir,
        tasks: list[partition.MapTask],
        mapped: list[Documents],
        receipts: list[Receipt],
    ) -> list[Documents]:
        """Decide on the partitions `mapped` and apply the verdicts, unless that is done."""
        assert group.end
        assert isinstance(group.end.step, Barrier)
        barrier = rundir.barrier_key(group.fingerprint, receipts)
        keys = rundir.verdict_keys(barrier, mapped)
        applied = [rundir.valid(home.part_receipt(task.number), key) for task, key in zip(tasks, keys)]
        if all(applied) and (steps_done := _undamaged(_decided, home)) is not None:
            verdicts = [Path()] * len(mapped)  # applied already: whatever they were made from is needed no more
            self.receipts[home.path.name] += steps_done
        else:
            parts = [Part(docs.path, home.sketch(task.number), receipt.rows or 0)
                     for docs, task, receipt in zip(mapped, tasks, receipts)]  # fmt: skip
            about = _About({part.docs: task.label for part, task in zip(parts, tasks)})
            steps = self._steps(group.end.name, home.path, home.verdicts.name, barrier, about)
            verdicts = _here(f"{group.end.name}: resolve", group.end.step.resolve, parts, steps)
        applications = [
            partition.VerdictTask(i, key, group.end, docs.path, verdict, group.columns, home.path)
            for i, (key, docs, verdict) in enumerate(zip(keys, mapped, verdicts, strict=True))
        ]
        final = self._do(group.end.name, partition.run_verdicts, applications, home.path)
        return [rundir.documents_of(task.receipt, receipt) for task, receipt in zip(applications, final)]

    def _sink(
        self, group: Group, home: GroupDir, tasks: list[partition.MapTask], inputs: list[tuple[Piece, ...]]
    ) -> list[Documents]:
        """Scatter and gather, unless the corpus is there already; what lay between is removed in the end."""
        assert group.end
        assert isinstance(group.end.step, Sink)
        sink, name = group.end.step, group.end.name
        whole = rundir.sink_key(group.fingerprint, [task.key for task in tasks])
        known = self.receipts.setdefault(home.path.name, [])
        every = [piece for read in inputs for piece in read]
        if rundir.valid(home.sink_receipt, whole, every) and (done := _undamaged(_corpus_receipts, home, len(tasks))):
            home.tidy()
            known += done
            return []
        home.sink_receipt.unlink(missing_ok=True)  # of an earlier input, whose scattered parts are replaced now
        home.sweep(len(tasks))
        tasks = [task._replace(key=rundir.placed(task.key, home.path)) for task in tasks]
        scattered = self._do(_title(group), partition.run_map, tasks, home.path, inputs)
        seen = tuple(fact for receipt in scattered for fact in receipt.inputs)
        shards = _here(f"{name}: plan", sink.plan, [task.folder / task.name for task in tasks])
        steps = self._steps(name, home.path, home.gather.name, whole, _About({}))
        records = steps("shard", sink.gather, shards)
        outs = [home.gather / f"shard-{i:05d}" for i in range(len(shards))]
        record = _here(f"{name}: finish", sink.finish, outs, records, home.path)
        files = {file: FileFact((home.path / file).stat().st_size) for file in record.pop("files")}
        counts = tuple(record.pop("counts", ()))  # a sink may drop documents too
        receipt = Receipt(whole, ".", files, seen, counts, record=record, written=storage.utc())
        known.append(receipt.write(home.sink_receipt))
        home.tidy()
        return []

    def _fitted(self, group: Group, home: GroupDir, arrived: list[Documents]) -> tuple[tuple[NamedStep, ...], str]:
        """The group's stages, the first with what it learned filled in, and a digest of what that is."""
        first = group.stages[0]
        fit = _Fit(first, [docs.path for docs in arrived])
        key = rundir.fit_key(group.fingerprint, arrived)
        task = partition.StepTask(0, key, fit, None, home.fit(first.name))
        what, label = f"fit {first.name}", f"{first.name}: fit"
        receipt = self._do(what, partition.run_step, [task], home.path, labels=[label])[0]
        step = first.step.fitted(task.out)  # type: ignore[union-attr]
        return (NamedStep(first.name, step), *group.stages[1:]), rundir.learned_digest(receipt)

    def conclude(self, plan: Plan) -> None:
        """Write the ledger of all that entered, and the links to what the present configuration made."""
        groups = [self.home.group(group.folder, group.kind) for group in plan.groups]
        rejects = [path for group in groups for path in group.reject_files(self.receipts[group.path.name])]
        left = [group.document_files(self.receipts[group.path.name]) for group in groups]
        corpus = groups[-1].path if groups[-1].kind == "sink" else None
        self._ledger(rejects, [corpus / "docs.parquet"] if corpus else left[-1])
        self.home.link_current(next(filter(None, reversed(left)), []), rejects, corpus)

    def _ledger(self, rejects: list[Path], kept: list[Path]) -> None:
        """A row for every record: of the documents that were dropped, and of those that stayed."""
        tasks = ledger.tasks(self.home.path, rejects, kept)
        key = digest([ledger.VERSION, [(task.where, task.inputs()) for task in tasks]])
        folder = self.home.ledger
        steps = [
            partition.StepTask(i, key, ledger.write_part, task, folder / f"part-{i:05d}")
            for i, task in enumerate(tasks)
        ]
        for stale in folder.glob("**/part-*"):
            if rundir.number_of(stale) >= len(steps):
                stale.unlink()
        self._do("ledger", partition.run_step, steps, folder, labels=[f"ledger: {task.where}" for task in tasks])


class _Fit:
    """`fit` of a stage, in the shape of an inner step."""

    def __init__(self, named: NamedStep, docs: list[Path]) -> None:
        self._named, self._docs = named, docs

    def __call__(self, _: None, out: Path) -> dict[str, Any]:
        return self._named.step.fit(self._docs, out)  # type: ignore[union-attr]


class _About:
    """What an inner step works on, for messages: the input of its partition if it has one, else its number."""

    def __init__(self, labels: dict[Path, str]) -> None:
        self._labels = labels

    def __call__(self, task: Any, number: int, of: int) -> str:
        fields = (task, *task) if isinstance(task, tuple) else ()
        places = (getattr(field, "docs", None) for field in fields)
        label = next((self._labels[docs] for docs in places if docs in self._labels), None)
        return f"of {label}" if label else f"{number + 1} of {of}"


def _map_tasks(
    plan: Plan, group: Group, home: GroupDir, keys: list[str], arrived: list[Documents], limits: Limits, deadly: bool
) -> list[partition.MapTask]:
    """One task a partition: of the raw input in the first group, of the documents that arrived in the others."""
    inputs: list[tuple[Split | None, Path | None]] = [(None, docs.path) for docs in arrived]
    if group.source:
        inputs = [(split, None) for split in plan.splits]
    about = (group.stages, group.end, group.columns, home.map_dir, home.path, limits, deadly)
    return [
        partition.MapTask(i, key, group.source, split, docs, *about)
        for i, (key, (split, docs)) in enumerate(zip(keys, inputs, strict=True))
    ]


def _decided(home: GroupDir) -> list[Receipt]:
    """The receipts of a barrier's inner steps. Raises `Damaged` also where its summary cannot be read."""
    storage.read_json(home.summary)
    return rundir.step_receipts(home.verdicts)


def _corpus_receipts(home: GroupDir, partitions: int) -> list[Receipt]:
    """The receipts of a finished corpus, in the order of the work."""
    *scattered, finished = home.receipts(partitions)
    if len(scattered) != partitions:
        raise storage.Damaged(home.map_dir, f"has {len(scattered)} receipts of {partitions} partitions")
    return [*scattered, *rundir.step_receipts(home.gather), finished]


def _undamaged(fn: Callable[..., list[Receipt]], *args: Any) -> list[Receipt] | None:
    """`fn(*args)`, or None where a record is damaged: the work that it speaks of is done again."""
    try:
        return fn(*args)
    except storage.Damaged:
        return None


def _here(what: str, fn: Callable[..., Any], *args: Any) -> Any:
    """`fn(*args)` in the driver, with an exception told like that of a task."""
    try:
        return fn(*args)
    except (Failed, storage.Locked):
        raise
    except Exception as error:
        refused = isinstance(error, Refused)
        said = str(error) if refused else f"{type(error).__name__}: {error}"
        message = " ".join(f"{what.partition(':')[0] if refused else what}: {said}".split())
        raise Failed([Failure(what, message, traceback.format_exc(), refused)], f"{what} failed") from error


def _title(group: Group) -> str:
    """The stages that one task runs through, by the first and the last."""
    fused = [named.name for named in (group.source, *group.stages) if named] or group.names
    return " to ".join(dict.fromkeys((fused[0], fused[-1])))


def _pieces(task: Any) -> tuple[Piece, ...]:
    return task.split.pieces if isinstance(task, partition.MapTask) and task.split else ()


def _size(task: Any) -> int:
    return sum(piece.size for piece in _pieces(task))


def _one_line(error: str, label: str) -> str:
    """The last line of a traceback without the exception's own module; a message of the engine names the input."""
    last = error.strip().splitlines()[-1]
    prefix = "pipeline.partition.StageFailed: "
    return last.removeprefix(prefix) if last.startswith(prefix) else f"{label}: {last}"
