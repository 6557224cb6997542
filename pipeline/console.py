"""What a person sees: progress, the funnel, documents. The only file that knows rich."""

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from pipeline import storage
from pipeline.rundir import Receipt

_WIDE = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160  # a log has no width, figures are not cut
out = Console(highlight=False, width=_WIDE)
err = Console(stderr=True, highlight=False)
LINE_EVERY = 10.0
"""Seconds between progress lines when the output is a log."""

_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")

_ALARMS = 5  # said at once


def visible(text: str) -> str:
    """`text` with every character made visible that would steer a terminal, but for line ends and tabs.

    These are the control characters (C0, DEL, C1) and those that turn the direction of writing.
    """
    return _STEERING.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def event(kind: str, **facts: Any) -> None:
    """Print one line of JSON: the time (UTC), what happened, and the facts of it."""
    print(json.dumps({"time": storage.utc(), "event": kind, **facts}, ensure_ascii=False), flush=True)


class Lines:
    """Progress as plain lines, for logs; or as lines of JSON."""

    def __init__(self, as_json: bool = False) -> None:
        self._as_json = as_json

    def begin(self, what: str, tasks: int, done: int, size: int) -> None:
        self._what, self._tasks, self._done, self._size = what, tasks, done, size
        self._seen, self._docs, self._had, self._told, self._partly = 0, 0, done, done, 0
        self._started = self._said = time.monotonic()

    def advance(self, receipt: Receipt | None, size: int) -> None:
        self._done += 1
        self._seen += size
        self._docs += _documents(receipt)
        if time.monotonic() - self._said > LINE_EVERY:
            self._say()

    def running(self, documents: int) -> None:
        self._partly = documents
        if documents and time.monotonic() - self._said > LINE_EVERY:
            self._say()
        self._partly = 0  # a task that ends now counts its documents itself

    def note(self, line: str) -> None:
        if self._as_json:
            event("note", text=line)
        else:
            print(line, flush=True)

    def end(self) -> None:
        if self._done > self._told:
            self._say()

    def _say(self) -> None:
        self._said, self._told = time.monotonic(), self._done
        spent = max(self._said - self._started, 1e-9)
        ran = self._done - self._had
        if self._as_json:
            documents = self._docs + self._partly
            event("progress", what=self._what, done=self._done, tasks=self._tasks, documents=documents,
                  bytes=self._seen, seconds=round(spent, 1))  # fmt: skip
            return
        parts = [f"{self._what}: {self._done}/{self._tasks}"]
        if self._docs + self._partly:
            parts.append(f"{self._docs + self._partly:,} documents")
        if self._seen:
            parts.append(f"{self._seen / spent / 1e6:.1f} MB/s")
        if ran and self._done < self._tasks:
            parts.append(f"about {spent / ran * (self._tasks - self._done):.0f} s left")
        print(", ".join(parts), flush=True)


class Bars:
    """Progress as bars, for terminals."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bar = TaskID(0)

    def begin(self, what: str, tasks: int, done: int, size: int) -> None:
        self._docs, self._seen, self._started = 0, 0, time.monotonic()
        self._bar = self._progress.add_task(what, total=max(tasks, 1), completed=done, facts="")

    def advance(self, receipt: Receipt | None, size: int) -> None:
        self._docs += _documents(receipt)
        self._seen += size
        self._progress.update(self._bar, advance=1, facts=self._facts(self._docs))

    def running(self, documents: int) -> None:
        self._progress.update(self._bar, facts=self._facts(self._docs + documents))

    def note(self, line: str) -> None:
        self._progress.console.print(escape(line), soft_wrap=True)

    def _facts(self, documents: int) -> str:
        spent = max(time.monotonic() - self._started, 1e-9)
        facts = f"{documents:,} documents" if documents else ""
        return facts + (f"  {self._seen / spent / 1e6:.1f} MB/s" if self._seen else "")

    def end(self) -> None:
        task = self._progress.tasks[self._progress.task_ids.index(self._bar)]
        self._progress.update(self._bar, completed=task.total)


def _documents(receipt: Receipt | None) -> int:
    return receipt.counts[0].rows_in if receipt and receipt.counts else 0


@contextmanager
def watch(as_json: bool = False) -> Iterator[Bars | Lines]:
    """Bars on a terminal, lines elsewhere; with `as_json` lines of JSON everywhere."""
    if as_json or not sys.stdout.isatty():
        yield Lines(as_json)
        return
    columns = (TextColumn("{task.description:>18}"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"),
               TextColumn("{task.fields[facts]}"), TimeElapsedColumn(), TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=out) as progress:
        yield Bars(progress)


def fail(message: str) -> None:
    """Say an error on stderr."""
    print(visible(message), file=sys.stderr)


def say(line: str) -> None:
    """Print a line that may hold words of a document."""
    print(visible(line))


def funnel(report: dict[str, Any]) -> None:
    """The table of what each stage took in and let through, and why not the rest."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, side in (("stage", "left"), ("in", "right"), ("out", "right"), ("kept", "right"), ("CPU s", "right")):
        table.add_column(name, justify=side, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("dropped, by reason", overflow="fold")
    for stage in report["funnel"]:
        kept = f"{stage['out'] / stage['in']:.1%}" if stage["in"] else "-"
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in stage["reasons"].items())
        table.add_row(stage["stage"], f"{stage['in']:,}", f"{stage['out']:,}", kept, f"{stage['cpu_seconds']:.2f}",
                      escape(reasons))  # fmt: skip
    out.print(table)


def alarms(found: list[dict[str, Any]]) -> None:
    """Sources or domains that lost more than they should, and what else a barrier says, where nobody can overlook it:
    the worst few, and how many more the report has."""
    for alarm in found[:_ALARMS]:
        said = (
            escape(visible(alarm["said"]))
            if "said" in alarm
            else (
                f"{alarm['kind']} [bold]{escape(str(alarm['name']))}[/bold] lost {alarm['share']:.0%} of its documents "
                f"({alarm['in']:,} in, {alarm['out']:,} out)"
            )
        )
        err.print(f"[bold white on red] ALARM [/bold white on red] {alarm['stage']}: {said}", soft_wrap=True)
    if len(found) > _ALARMS:
        err.print(f"[bold white on red] ALARM [/bold white on red] and {len(found) - _ALARMS} more, in report.html")


def increments(rows: list[dict[str, Any]]) -> None:
    """The increments of a run, a line each."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0]:
        table.add_column(name, justify="left" if name in ("increment", "state") else "right")
    for row in rows:
        table.add_row(*("-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
                        for value in row.values()))  # fmt: skip
    out.print(table)


def groups(rows: list[dict[str, Any]], *, columns: bool) -> None:
    """The groups of a plan: folder, stages, what is done, and if asked the columns each adds."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("folder", "stages", "partitions at rest", *(("adds columns",) if columns else ())):
        table.add_column(name, overflow="fold")
    for row in rows:
        done = f"{row['done']} of {row['total']}"
        if row["done"] < row["read"]:
            done += f" ({row['read']} read)"
        table.add_row(row["folder"], " > ".join(row["stages"]), done, *([", ".join(row["adds"])] if columns else []))
    out.print(table)


def exhausted(mix: dict[str, Any]) -> None:
    """The groups of which a finished mixture has less than was asked, as there was no more."""
    short = sorted((row for row in mix["groups"] if row["exhausted"]), key=lambda row: row["realised"] - row["asked"])
    for row in short[:_ALARMS]:
        out.print(escape(f"mixture: {row['group']} is exhausted: {row['realised']:,} of {row['asked']:,} tokens, "
                         f"{row['epochs']:,.6g} epochs"), soft_wrap=True)  # fmt: skip
    if len(short) > _ALARMS:
        out.print(f"mixture: {len(short) - _ALARMS} more groups are exhausted; all are in report.html")


def mixture(found: dict[str, Any] | None, asked: list[dict[str, Any]]) -> None:
    """Tokens of each group: asked, possible and realised once its documents were seen; what is asked before that."""
    if found is None:
        out.print("mixture, as asked (what is possible is known when the documents are tokenized)")
        for row in asked:
            wish = ", ".join(f"{name} {_asked(value)}" for name, value in row.items() if name != "group")
            out.print(escape(f"  {row['group']}: {wish}"), soft_wrap=True)
        return
    names = ("group", "documents", "tokens", "asked", "possible", "realised", "epochs")
    rows = [
        {name: f"{row[name]:,}" if isinstance(row[name], int) else row[name] for name in names if name in row}
        | ({"": "exhausted" if row["exhausted"] else ""} if "exhausted" in row else {})
        for row in found["groups"]
    ]  # fmt: skip
    if rows:
        _table("mixture, in tokens", rows, "group")
    if "refused" in found:
        out.print(escape(f"cannot be had: {found['refused']}"), soft_wrap=True)
    else:
        out.print(f"{found['tokens']:,} tokens to train on")


def _asked(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {_asked(one)}" for name, one in value.items()) + ")"
    return f"{value:,.15g}" if isinstance(value, (int, float)) else str(value)


def menu(stages: list[tuple[str, str, str]]) -> None:
    """Stages: name, kind and what each does, in the words of its class."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("stage", "kind", "what it does"):
        table.add_column(title, no_wrap=title != "what it does")
    for row in stages:
        table.add_row(*map(escape, row))
    out.print(table)


def figures(found: dict[str, Any]) -> None:
    """What `bench` measured, as tables."""
    machine, corpus_ = found["machine"], found["corpus"]
    out.print(f"{machine['date']}  {machine['processor']}, {machine['cores']} cores, Python {machine['python']}")
    out.print(
        f"{corpus_['documents']:,} documents, {corpus_['text_mb']} MB of text, {corpus_['planted']} planted copies"
    )
    _table("stage, alone", found["stages"], "stage")
    _table("whole run, Parquet to shards", found["runs"], "workers")
    _table("duplicates found, by similarity", found["recall"], "from")


def _table(title: str, rows: list[dict[str, Any]], first: str) -> None:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in rows[0]:
        table.add_column(name, justify="left" if name == first else "right", overflow="fold", no_wrap=name != first)
    for row in rows:
        table.add_row(*("-" if value is None else escape(str(value)) for value in row.values()))
    out.print("", table)


def document(row: dict[str, Any], text: str, facts: dict[str, Any], width: int = 800) -> None:
    """One document for reading: where it came from, its figures, the beginning of its text."""
    title = visible(f"{row['id']}  {row.get('url') or row.get('source_id') or ''}")
    text = visible(text)
    shown = text if len(text) <= width else f"{text[:width]} [... {len(text) - width:,} more characters]"
    lines = "  ".join(f"{name}={_figure(value)}" for name, value in facts.items() if name not in ("id", "url"))
    lines = visible(lines)
    out.print(Panel(f"[dim]{escape(lines)}[/dim]\n\n{escape(shown)}", title=escape(title), title_align="left"))


def diff(places: list[list[tuple[str, str]]]) -> None:
    """Where a dropped text differs from the kept one: [-only in the kept one-], {+only in the dropped one+}."""
    signs = {"": ("", "", "dim"), "-": ("[-", "-]", "red"), "+": ("{+", "+}", "green")}
    for place in places:
        line = Text("  ")
        for sign, words in place:
            left, right, style = signs[sign]
            line.append(f"{left}{visible(words)}{right}", style)
        out.print(line)


def _figure(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
