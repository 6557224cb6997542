"""Carries a plan out: group by group, partition by partition, whatever has no valid receipt yet.

There is no state but the receipts. A run that was killed, or whose configuration changed and changed back, continues
from what is on disk; one that has everything does no task at all. Each group of partitions is a `map` through the
engine; a barrier adds its inner steps and the verdicts, a sink its shards.
"""

import re
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pipeline import config as configs
from pipeline import ledger, partition, receipts, report, storage
from pipeline.config import NamedStep
from pipeline.engine import Engine
from pipeline.plan import Group, Plan, digest, outline
from pipeline.receipts import AtRest
from pipeline.stage import Barrier, Part, Piece, Refused, Sink, Split, Steps


class Failure(NamedTuple):
    """A partition or inner step that ended without a result."""

    what: str  # the group and task
    message: str  # one line: stage, input, error
    details: str  # the whole traceback
    refused: bool = False  # the configuration asks for what cannot be had: the same command would fail again


class Failed(RuntimeError):
    """Some tasks of a group failed; the others finished and keep their results."""

    def __init__(self, failures: list[Failure]) -> None:
        super().__init__(f"{len(failures)} failed")
        self.failures = failures


class Watch(Protocol):
    """Is told how a run goes on."""

    def begin(self, what: str, tasks: int, done: int, size: int) -> None: ...

    def advance(self, receipt: dict[str, Any] | None, size: int) -> None: ...

    def end(self) -> None: ...


def run(plan: Plan, folder: Path, engine: Engine, watch: Watch) -> dict[str, Any]:
    """Carry `plan` out in `folder`, which the caller holds the lock of; returns the report, also written there.

    Tasks that fail are in the report's `failed`, counts that do not add up in its `imbalances`; neither raises.
    """
    (folder / "report.json").unlink(missing_ok=True)  # it tells of the run before this one
    for torn in folder.rglob(".*.tmp"):  # what killed writers left; nobody else writes here while the lock is held
        torn.unlink(missing_ok=True)
    with storage.atomic(folder / "config.yaml") as beside:
        beside.write_text(configs.dump(plan.config), encoding="utf-8")
    storage.write_json(folder / receipts.OUTLINE, outline(plan))
    begun = time.monotonic()
    run_ = _Run(folder, engine, watch)
    failures: list[Failure] = []
    arrived: list[AtRest] = []
    try:
        for group in plan.groups:
            arrived = run_.group(plan, group, arrived)
        run_.ledger(plan)
    except Failed as failed:
        failures = failed.failures
    seconds = round(time.monotonic() - begun, 2)
    return report.write(plan, folder, [failure._asdict() for failure in failures], run_.tasks, seconds, run_.said)


class _Run:
    """One run in progress: where, on what, watched by whom, how many tasks it has had to do, what receipts said."""

    def __init__(self, folder: Path, engine: Engine, watch: Watch) -> None:
        self.folder, self.engine, self.watch = folder, engine, watch
        self.tasks = 0
        self.said: dict[str, list[dict[str, Any]]] = {}  # by folder of the group, in the order of the work

    def group(self, plan: Plan, group: Group, arrived: list[AtRest]) -> list[AtRest]:
        """Bring one group to rest; returns its partitions. Raises `Failed`."""
        home = self.folder / group.folder
        home.mkdir(parents=True, exist_ok=True)
        stages, learned = self._fitted(group, home, arrived) if group.fits else (group.stages, None)
        if group.source:
            keys = receipts.source_keys(group.fingerprint, plan.splits, plan.contents)
        else:
            keys = receipts.docs_keys(group.fingerprint, learned, arrived)
        tasks = _map_tasks(plan, group._replace(stages=stages), home, keys, arrived)
        inputs = [() if plan.contents is not None else _pieces(task) for task in tasks]
        if group.kind == "sink":
            return self._sink(group, home, tasks, inputs)
        _sweep(home, len(tasks))
        said = self._do(_title(group), partition.run_map, tasks, home, inputs)
        here = [receipts.at_rest(task.receipt, receipt) for task, receipt in zip(tasks, said)]
        return here if group.kind == "map" else self._barrier(group, home, tasks, here, said)

    def _do(
        self,
        what: str,
        fn: Callable[[Any], Any],
        tasks: list[Any],
        home: Path,
        inputs: list[tuple[Piece, ...]] | None = None,
        labels: list[str] | None = None,
    ) -> list[dict[str, Any]]:
        """Run the tasks that have no valid receipt; all receipts in task order. Raises `Failed` when all have ended.

        A receipt counts while the `inputs` of its task are what it saw. A failure is told with its entry of `labels`.
        """
        done = [partition.valid(task.receipt, task.key, read) for task, read in zip(tasks, inputs or [()] * len(tasks))]
        places = [place for place, receipt in enumerate(done) if receipt is None]
        missing = [tasks[place] for place in places]
        self.watch.begin(what, len(tasks), len(tasks) - len(missing), sum(map(_size, missing)))
        failures = []
        for end in self.engine.map(fn, missing):
            place, task = places[end.place], missing[end.place]
            self.watch.advance(end.record, _size(task))
            if end.error is None:
                done[place] = end.record
                self.tasks += 1
            else:
                label = labels[place] if labels else task.label
                failures.append(Failure(f"{what} {task.number}", _one_line(end.error, label), end.error))
        self.watch.end()
        finished = [receipt for receipt in done if receipt]
        self.said.setdefault(home.name, []).extend(finished)
        if failures:
            raise Failed(sorted(failures))
        return finished

    def _steps(self, stage: str, home: Path, folder: str, key: str, about: "_About") -> Steps:
        """The inner steps of a barrier or sink called `stage`, with receipts in home/`folder` for this key."""
        key = receipts.placed(key, home)

        def steps(name: str, fn: Any, tasks: list[Any]) -> list[dict[str, Any]]:
            outs = [home / folder / f"{name}-{i:05d}" for i in range(len(tasks))]
            todo = [partition.StepTask(i, key, fn, task, out) for i, (task, out) in enumerate(zip(tasks, outs))]
            labels = [f"{stage}: {name} {about(task, i, len(tasks))}" for i, task in enumerate(tasks)]
            said = self._do(f"{stage} {name}", partition.run_step, todo, home, labels=labels)
            return [receipt["record"] for receipt in said]

        return steps

    def _barrier(
        self,
        group: Group,
        home: Path,
        mapped: list[partition.MapTask],
        here: list[AtRest],
        said: list[dict[str, Any]],
    ) -> list[AtRest]:
        """Judge the partitions `here` and carry the verdicts out, unless that is done."""
        assert group.end
        assert isinstance(group.end.step, Barrier)
        barrier = receipts.barrier_key(group.fingerprint, said)
        keys = receipts.verdict_keys(barrier, here)
        if all(partition.valid(home / f"{task.name}.json", key) for task, key in zip(mapped, keys)):
            verdicts = [Path()] * len(here)  # carried out already: whatever they were read from is needed no more
            self.said[home.name] += _read(home / "verdicts" / "_receipts")
        else:
            sketches = [home / f"sketch-{task.number:05d}.arrow" for task in mapped]
            parts = [Part(docs.docs, sketch, one["rows"]) for docs, sketch, one in zip(here, sketches, said)]
            about = _About({part.docs: task.label for part, task in zip(parts, mapped)})
            steps = self._steps(group.end.name, home, "verdicts", barrier, about)
            verdicts = _here(f"{group.end.name}: resolve", group.end.step.resolve, parts, steps)
        tasks = [
            partition.VerdictTask(i, key, group.end, docs.docs, verdict, group.columns, home)
            for i, (key, docs, verdict) in enumerate(zip(keys, here, verdicts, strict=True))
        ]
        final = self._do(group.end.name, partition.run_verdicts, tasks, home)
        return [receipts.at_rest(task.receipt, receipt) for task, receipt in zip(tasks, final)]

    def _sink(
        self, group: Group, home: Path, tasks: list[partition.MapTask], inputs: list[tuple[Piece, ...]]
    ) -> list[AtRest]:
        """Scatter and gather, unless the corpus stands already; what lay between is removed in the end."""
        assert group.end
        assert isinstance(group.end.step, Sink)
        sink, name = group.end.step, group.end.name
        whole = receipts.sink_key(group.fingerprint, [task.key for task in tasks])
        if partition.valid(home / "sink.json", whole, [piece for read in inputs for piece in read]):
            _tidy(home)
            scattered = [storage.read_json(task.receipt) for task in tasks]
            self.said.setdefault(home.name, []).extend([*scattered, *_read(home / "gather" / "_receipts")])
            self.said[home.name].append(storage.read_json(home / "sink.json"))
            return []
        (home / "sink.json").unlink(missing_ok=True)  # of an earlier input, whose scattered parts are replaced now
        _sweep(home, len(tasks))
        tasks = [task._replace(key=receipts.placed(task.key, home)) for task in tasks]
        scattered = self._do(_title(group), partition.run_map, tasks, home, inputs)
        seen = [witness for receipt in scattered for witness in receipt["inputs"]]
        shards = _here(f"{name}: plan", sink.plan, [task.folder / task.name for task in tasks])
        records = self._steps(name, home, "gather", whole, _About({}))("shard", sink.gather, shards)
        done = [home / "gather" / f"shard-{i:05d}" for i in range(len(shards))]
        record = _here(f"{name}: finish", sink.finish, done, records, home)
        files = {name: {"bytes": (home / name).stat().st_size} for name in record.pop("files")}
        receipt = {"key": whole, "inputs": seen, "base": ".", "files": files, **record}
        storage.write_json(home / "sink.json", receipt)
        self.said[home.name].append(receipt)  # a sink may drop documents too: `counts` and `rejected/` are in it
        _tidy(home)
        return []

    def _fitted(self, group: Group, home: Path, arrived: list[AtRest]) -> tuple[tuple[NamedStep, ...], str]:
        """The group's stages, the first with what it learned filled in, and a digest of what that is."""
        first = group.stages[0]
        fit = _Fit(first, [docs.docs for docs in arrived])
        task = partition.StepTask(0, receipts.fit_key(group.fingerprint, arrived), fit, None, home / "fit" / first.name)
        receipt = self._do(f"fit {first.name}", partition.run_step, [task], home, labels=[f"{first.name}: fit"])[0]
        step = first.step.fitted(task.out)  # type: ignore[union-attr]
        return (NamedStep(first.name, step), *group.stages[1:]), digest(receipt["files"])

    def ledger(self, plan: Plan) -> None:
        """A row for every record that entered, from the rejects of each group and the finished corpus."""
        rejects = [
            path
            for group in plan.groups
            for path in receipts.rejects(self.folder / group.folder, self.said[group.folder])
        ]
        last = self.folder / plan.groups[-1].folder
        kept = [last / "docs.parquet"]
        if plan.groups[-1].kind != "sink":
            kept = receipts.survivors(last, self.said[last.name])
        tasks = ledger.tasks(self.folder, rejects, kept)
        key = digest([ledger.VERSION, [(task.where, task.inputs()) for task in tasks]])
        home = self.folder / "ledger"
        steps = [partition.StepTask(i, key, ledger.write_part, task, home / f"part-{i:05d}")
                 for i, task in enumerate(tasks)]  # fmt: skip
        for stale in home.glob("**/part-*"):
            if _number(stale) >= len(steps):
                stale.unlink()
        self._do("ledger", partition.run_step, steps, home, labels=[f"ledger: {task.where}" for task in tasks])


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


def _map_tasks(plan: Plan, group: Group, home: Path, keys: list[str], arrived: list[AtRest]) -> list[partition.MapTask]:
    """One task a partition: of the raw input in the first group, of the documents that arrived in the others."""
    inputs: list[tuple[Split | None, Path | None]] = [(None, docs.docs) for docs in arrived]
    if group.source:
        inputs = [(split, None) for split in plan.splits]
    folder = home / receipts.INSIDE[group.kind]
    return [
        partition.MapTask(i, key, group.source, split, docs, group.stages, group.end, group.columns, folder, home)
        for i, (key, (split, docs)) in enumerate(zip(keys, inputs, strict=True))
    ]


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
        raise Failed([Failure(what, message, traceback.format_exc(), refused)]) from error


def _read(folder: Path) -> list[dict[str, Any]]:
    """The receipts of inner steps in a folder, by name."""
    return [storage.read_json(path) for path in sorted(folder.glob("*.json"))]


def _sweep(home: Path, parts: int) -> None:
    """Remove partitions beyond the number there are now (an input was taken away since), not the shards of a corpus."""
    here = () if (home / "scatter").exists() else home.glob("part-*")
    inside = (path for folder in ("map", "scatter", "rejected") for path in home.glob(f"{folder}/part-*"))
    for path in [*here, *inside, *home.glob("sketch-*")]:
        if _number(path) >= parts:
            path.unlink()


def _tidy(home: Path) -> None:
    """Remove what lay between scatter and corpus; the receipts stay, since the report is made of them."""
    for leftover in (*home.glob("scatter/part-*"), *home.glob("gather/shard-*")):
        if leftover.suffix != ".json":
            leftover.unlink()


def _number(path: Path) -> int:
    """The number in a name like part-00012.parquet."""
    found = re.match(r"[a-z]+-(\d+)", path.name)
    return int(found[1]) if found else -1


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
