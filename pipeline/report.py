"""Receipts -> report.json: the funnel, the reasons, and whether every record is accounted for."""

from collections import Counter
from pathlib import Path
from typing import Any

from pipeline import ledger, storage
from pipeline.plan import Plan

_OF_RECEIPTS = ("key", "inputs", "base", "files", "counts")
"""What a sink's receipt says beside the corpus."""


def write(
    plan: Plan,
    folder: Path,
    failed: list[dict[str, Any]],
    tasks: int,
    seconds: float,
    said: dict[str, list[dict[str, Any]]],
) -> dict[str, Any]:
    """Put the report of a run together and write it as `report.json`.

    `said` holds, by group, the receipts that this run found valid or wrote, and no others: what lies in the folder from
    an earlier input does not count. `tasks` is how many tasks were done now, `seconds` how long that took by the clock.
    """
    funnel = [stage for group in plan.groups for stage in _funnel(said.get(group.folder, []))]
    sink = storage.read_json(folder / plan.groups[-1].folder / "sink.json") or {} if not failed else {}
    every = [receipt for group in plan.groups for receipt in said.get(group.folder, []) if "seconds" in receipt]
    barriers = _summaries(plan, folder, {stage["stage"] for stage in funnel})
    report = {
        "name": plan.config.name,
        "state": "failed" if failed else "done",
        "groups": [{"folder": group.folder, "kind": group.kind, "stages": group.names} for group in plan.groups],
        "partitions": len(plan.splits),
        "documents_in": funnel[0]["in"] if funnel else 0,
        "documents_out": funnel[-1]["out"] if funnel else 0,
        "funnel": funnel,
        "corpus": {name: value for name, value in sink.items() if name not in _OF_RECEIPTS},
        "failed": failed,
        "imbalances": [] if failed else _imbalances(folder, funnel),
        "alarms": [
            {"stage": name, **alarm} for name, summary in barriers.items() for alarm in summary.get("alarms", [])
        ],
        "tasks_run": tasks,
        "seconds": seconds,
        "text_bytes": sum(receipt.get("text_bytes", 0) for receipt in every),
        "task_seconds": round(sum(receipt["seconds"] for receipt in every), 2),
        "task_cpu_seconds": round(sum(receipt["cpu_seconds"] for receipt in every), 2),
        "peak_rss_mb": max((receipt["peak_rss_mb"] for receipt in every), default=0),
        "barriers": barriers,
    }
    storage.write_json(folder / "report.json", report)
    return report


def _funnel(said: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """In, out and reasons of every stage of a group, summed over the receipts of its partitions."""
    found: dict[str, dict[str, Any]] = {}
    for part in (part for receipt in said for part in receipt.get("counts", [])):
        blank = {"stage": part["stage"], "in": 0, "out": 0, "reasons": Counter(), "tally": Counter(),
                 "cpu_seconds": 0.0}  # fmt: skip
        total = found.setdefault(part["stage"], blank)
        total["in"] += part["in"]
        total["out"] += part["out"]
        total["reasons"].update(part["reasons"])
        total["tally"].update(part["tally"])
        total["cpu_seconds"] = round(total["cpu_seconds"] + part["seconds"], 3)
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


def _summaries(plan: Plan, folder: Path, judged: set[str]) -> dict[str, Any]:
    """What each barrier said of its work, of those whose verdicts were carried out."""
    found = {}
    for group in plan.groups:
        summary = storage.read_json(folder / group.folder / "verdicts" / "summary.json")
        if group.end and summary and group.end.name in judged:
            found[group.end.name] = summary
    return found
