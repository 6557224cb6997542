"""What a run should not pass over in silence: lost files, a stage that drops nearly everything, nothing left.

An alarm is a sentence with the stage it concerns. It does not fail the run; `--strict` makes the exit code 1.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import NamedStep
from pipeline.rundir import RunDir

MIN_DOCUMENTS = 20
"""A share of fewer documents says nothing."""

USUAL = 0.1
"""An increment with less than this share of what the earlier ones had (their median) is an alarm."""

_NAMED = 3  # files named in a sentence


def of_funnel(
    funnel: Sequence[dict[str, Any]], steps: Sequence[NamedStep], limit: float | None = None
) -> list[dict[str, Any]]:
    """Alarms on what the stages took in and let through.

    A stage that drops more than its share for one reason is one; `limit` replaces the shares of all stages that have
    one (`alarm_share` in their classes).
    """
    if not funnel:
        return []
    entered = funnel[0]["in"]
    if entered == 0:
        return [_alarm(funnel[0]["stage"], "nothing was read: the input has no record")]
    shares = {name: step.alarm_share for name, step in steps}
    alarms = []
    for row in funnel:
        share = shares.get(row["stage"])
        share = limit if limit is not None and share is not None else share
        for reason, count in row["reasons"].items():
            if share is not None and row["in"] >= MIN_DOCUMENTS and count > share * row["in"]:
                what = f"{count:,} of {row['in']:,} documents ({count / row['in']:.1%}) were dropped as {reason}"
                alarms.append(_alarm(row["stage"], what))
    last = next((row for row in funnel if row["out"] == 0), None)
    if last:
        reasons = f"; the last were dropped as {next(iter(last['reasons']))}" if last["reasons"] else ""
        alarms.append(_alarm(last["stage"], f"no document is left of {entered:,} that entered{reasons}"))
    return alarms


def of_files(run: RunDir, source: str) -> list[dict[str, Any]]:
    """An alarm where input files gave no document at all: how many, and a few of them with the reason.

    `source` is the name of the stage that reads.
    """
    lost: dict[str, Counter[str]] = defaultdict(Counter)
    for path in run.ledger_files:
        for file, reason, count in _lost_rows(path, source):
            lost[file][reason] += count
    for path in run.ledger_files if lost else ():
        for file in _sources_that_gave(path, source, list(lost)):
            del lost[file]
    if not lost:
        return []
    named = [f"{file} ({reasons.most_common(1)[0][0]})" for file, reasons in sorted(lost.items())[:_NAMED]]
    more = f" and {len(lost) - _NAMED:,} more" if len(lost) > _NAMED else ""
    files = "1 input file gave" if len(lost) == 1 else f"{len(lost):,} input files gave"
    return [_alarm(source, f"{files} no document: {', '.join(named)}{more}")]


def _lost_rows(path: Path, source: str) -> list[tuple[str, str, int]]:
    """(file, reason, records) of what the reading stage itself dropped, in one part of the ledger."""
    with pq.ParquetFile(path) as file:
        batches = [
            file.read_row_group(group, columns=["source", "stage", "reason"], use_threads=False)
            for group in range(file.num_row_groups)
        ]
    rows = pa.concat_tables(batches) if batches else pq.read_schema(path).empty_table()
    rows = rows.filter(pc.equal(rows["stage"], source))
    counts = rows.group_by(["source", "reason"]).aggregate([("stage", "count")]).to_pylist()
    return [(row["source"], row["reason"], row["stage_count"]) for row in counts]


def _sources_that_gave(path: Path, source: str, files: list[str]) -> list[str]:
    """Those of `files` that have a row in this part which the reading stage did not drop."""
    rows = pq.read_table(path, columns=["source", "stage"])
    passed = pc.fill_null(pc.not_equal(rows["stage"], source), True)
    chosen = rows.filter(passed)["source"].unique()
    return chosen.filter(pc.is_in(chosen, pa.array(files, pa.string()))).to_pylist()


def of_history(now: dict[str, Any], before: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Alarms where the report of an increment has far fewer documents than those of the increments before it."""
    alarms = []
    for name, what in (("documents_in", "entered"), ("documents_out", "are left")):
        usual = median(report[name] for report in before) if before else 0
        if now[name] < USUAL * usual:
            stage = now["funnel"][0 if name == "documents_in" else -1]["stage"]
            alarms.append(_alarm(stage, f"{now[name]:,} documents {what}; the median increment had {usual:,.0f}"))
    return alarms


def _alarm(stage: str, message: str) -> dict[str, Any]:
    return {"stage": stage, "said": message}
