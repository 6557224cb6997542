"""Receipts -> report.json: the funnel, the reasons, and whether every record is accounted for."""

from collections import Counter
from pathlib import Path
from typing import Any

from pipeline import alarms, ledger, storage
from pipeline.plan import Plan
from pipeline.rundir import LostFact, Receipt, RunDir


def write(
    plan: Plan,
    folder: Path,
    failed: list[dict[str, Any]],
    missing: str,
    tasks: int,
    started: str,
    seconds: float,
    receipts: dict[str, list[Receipt]],
) -> dict[str, Any]:
    """Put the report of a run together and write it as `report.json`.

    `receipts` holds, by group, the receipts that this run found valid or wrote, and no others: what lies in the
    folder from an earlier input does not count. `missing` says what these lack in a run that failed. `tasks` is how
    many tasks were done now, from `started` (UTC) on, in `seconds` by the clock.
    """
    here = RunDir(folder)
    funnel = [stage for group in plan.groups for stage in _funnel(receipts.get(group.folder, []))]
    _count_past_the_sink(funnel)
    every = [receipt for group in plan.groups for receipt in receipts.get(group.folder, [])]
    costs = [receipt.cost for receipt in every if receipt.cost]
    last = here.group(plan.groups[-1].folder, plan.groups[-1].kind)
    finished = Receipt.load(last.sink_receipt) if not failed else None
    barriers = _summaries(plan, here, {stage["stage"] for stage in funnel})
    groups = (receipts.get(group.folder, []) for group in plan.groups)
    too_many = any(too_many_lost(group, plan.config.max_failed_fraction) for group in groups)
    report = {
        "name": plan.config.name,
        "state": "failed" if failed else "done",
        "groups": [{"folder": group.folder, "kind": group.kind, "stages": group.names} for group in plan.groups],
        "partitions": len(plan.splits),
        "documents_in": funnel[0]["in"] if funnel else 0,
        "documents_out": funnel[-1]["out"] if funnel else 0,
        "funnel": funnel,
        "corpus": finished.record if finished else {},
        "failed": failed,
        "missing": missing,
        "given_up": sum(receipt.given_up for receipt in every),
        "too_many_lost": too_many,
        "imbalances": [] if failed else _imbalances(folder, funnel),
        "alarms": [
            *({"stage": fact.stage, "said": _lost(fact)} for receipt in every for fact in receipt.lost),
            *_alarms(plan, here, funnel, barriers, failed=bool(failed)),
        ],
        "started": started,
        "ended": storage.utc(),
        "tasks_run": tasks,
        "seconds": seconds,
        "text_bytes": sum(receipt.text_bytes for receipt in every),
        "task_seconds": round(sum(cost.seconds for cost in costs), 2),
        "task_cpu_seconds": round(sum(cost.cpu_seconds for cost in costs), 2),
        "peak_rss_mb": max((cost.peak_rss_mb for cost in costs), default=0),
        "barriers": barriers,
    }
    storage.write_json(here.report, report)
    return report


def add_alarms(folder: Path, report: dict[str, Any], more: list[dict[str, Any]]) -> dict[str, Any]:
    """The report of a run with more alarms, also in its file."""
    report = {**report, "alarms": [*report["alarms"], *more]}
    storage.write_json(RunDir(folder).report, report)
    return report


def _alarms(
    plan: Plan, here: RunDir, funnel: list[dict[str, Any]], barriers: dict[str, Any], *, failed: bool
) -> list[dict[str, Any]]:
    """What the run should not pass over in silence. Of a failed run the counts say nothing: parts of it are missing."""
    by_barriers = [
        {"stage": name, **alarm} for name, summary in barriers.items() for alarm in summary.get("alarms", [])
    ]
    if failed:
        return by_barriers
    steps = plan.config.steps
    files = alarms.of_files(here, steps[0].name)
    return [*alarms.of_funnel(funnel, steps, plan.config.alarm_share), *files, *by_barriers]


def too_many_lost(receipts: list[Receipt], most: float) -> bool:
    """Whether stages of one group failed on more than the fraction `most` of the documents that entered it."""
    return sum(one.given_up for one in receipts) > most * sum(one.entered for one in receipts)


def _lost(fact: LostFact) -> str:
    """A document that a stage failed on, by every name it has."""
    own = f" ({fact.source_id})" if fact.source_id else ""
    at = f" at {fact.url}" if fact.url else ""
    return f"{fact.reason}: document {fact.id}{own} of {fact.source}{at}: {fact.how}"


def _count_past_the_sink(funnel: list[dict[str, Any]]) -> None:
    """A sink counts only documents that it drops. Those that it fails on are in the funnel beside all it took."""
    if len(funnel) > 1 and funnel[-1]["in"] < funnel[-2]["out"] and funnel[-1]["out"] == 0:
        past = funnel[-2]["out"] - funnel[-1]["in"]
        funnel[-1]["in"] += past
        funnel[-1]["out"] += past


def _funnel(receipts: list[Receipt]) -> list[dict[str, Any]]:
    """In, out and reasons of every stage of a group, summed over the receipts of its partitions."""
    found: dict[str, dict[str, Any]] = {}
    for part in (part for receipt in receipts for part in receipt.counts):
        blank = {"stage": part.stage, "in": 0, "out": 0, "reasons": Counter(), "tally": Counter(), "cpu_seconds": 0.0}
        total = found.setdefault(part.stage, blank)
        total["in"] += part.rows_in
        total["out"] += part.rows_out
        total["reasons"].update(part.reasons)
        total["tally"].update(part.tally)
        total["cpu_seconds"] = round(total["cpu_seconds"] + part.seconds, 3)
    for stage in found.values():
        stage["reasons"] = dict(stage["reasons"].most_common())
        stage["tally"] = dict(sorted(stage["tally"].items()))
    return list(found.values())


def _imbalances(folder: Path, funnel: list[dict[str, Any]]) -> list[str]:
    """What does not add up, in sentences: in = out + dropped, out = the next stage's in, all are in the ledger."""
    wrong = []
    for stage in funnel:
        dropped = sum(stage["reasons"].values())
        if stage["in"] != stage["out"] + dropped:
            wrong.append(f"{stage['stage']}: {stage['in']} in, but {stage['out']} out and {dropped} dropped")
    for before, after in zip(funnel, funnel[1:]):
        if before["out"] != after["in"]:
            wrong.append(f"{before['out']} left {before['stage']}, but {after['in']} reached {after['stage']}")
    entered = funnel[0]["in"] if funnel else 0
    if (recorded := ledger.rows(folder)) != entered:
        wrong.append(f"{entered} records entered, but the ledger has {recorded}")
    return wrong


def _summaries(plan: Plan, here: RunDir, judged: set[str]) -> dict[str, Any]:
    """What each barrier said of its work, of those whose verdicts were carried out."""
    found = {}
    for group in plan.groups:
        summary = storage.read_json(here.group(group.folder, group.kind).summary)
        if group.end and summary and group.end.name in judged:
            found[group.end.name] = summary
    return found
