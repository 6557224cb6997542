"""report.json -> report.html: one page a run that a person reads, with documents to look at.

The page stands alone: no network, no script, every text escaped, light or dark as the reader's system. It samples a
bounded number of files, so that writing it costs seconds whatever the size of the run.
"""

import html
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import browse, chart, corpus, reading, storage
from pipeline.rundir import RunDir

PAGE = "report.html"
_FILES = 16  # of documents, spread over the run, that samples are taken from
_PER_REASON, _KEPT, _ROWS = 3, 6, 15
_LOOKED_AT = 100_000  # documents of a corpus, for samples of what a mixture left in it
_SNIPPET = 200  # characters of a sample
_ALARMS = 5  # shown at once

_STYLE = """
:root{--ink:#1c1f23;--soft:#5c6670;--paper:#fff;--card:#f5f6f8;--line:#d9dde2;--good:#2e7d4f;--bad:#b3261e;--bar:#3b7dc4;
--gone:#d98a3d;color-scheme:light dark}
@media (prefers-color-scheme:dark){:root{--ink:#e6e8eb;--soft:#9aa4ae;--paper:#15181c;--card:#1e2227;--line:#353b43;
--good:#5cc489;--bad:#ff8a80;--bar:#5b9be0;--gone:#e0a05c}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:68rem;padding:1rem 1rem 4rem;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,"Noto Sans","Noto Sans CJK SC",sans-serif;overflow-wrap:anywhere}
a{color:var(--bar)}h1{font-size:1.5rem;margin:.5rem 0}
h2{font-size:1.15rem;margin:2.2rem 0 .6rem;border-bottom:1px solid var(--line)}
h3{font-size:1rem;margin:1.2rem 0 .4rem}p{margin:.4rem 0}.soft{color:var(--soft)}.good{color:var(--good)}
.bad,.alarm b{color:var(--bad)}.verdict{font-size:1.05rem}.verdict b{white-space:nowrap}
.alarm{border-left:.35rem solid var(--bad);background:var(--card);padding:.5rem .8rem;margin:.4rem 0}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.25rem .6rem .25rem 0;vertical-align:top}th{color:var(--soft);font-weight:600}
td.n,th.n{text-align:right;white-space:nowrap}tr+tr td{border-top:1px solid var(--line)}
.stage{padding:.55rem 0;border-top:1px solid var(--line)}.stage:first-of-type{border-top:0}
.head{display:flex;flex-wrap:wrap;gap:.1rem 1rem;align-items:baseline}.head b{min-width:6rem}
.track{display:block;height:.55rem;background:var(--card);border-radius:.2rem;overflow:hidden;margin:.2rem 0}
.track i{display:block;height:100%;background:var(--bar);min-width:1px}.track i.gone{background:var(--gone)}
.bars{display:grid;grid-template-columns:minmax(8rem,15rem) 1fr auto;gap:.1rem .7rem;
align-items:center;font-size:.92rem}
.bars .track{margin:0}.bars .n{text-align:right;font-variant-numeric:tabular-nums}
.doc{background:var(--card);border-radius:.35rem;padding:.45rem .7rem;margin:.35rem 0;font-size:.92rem}
.doc .id{color:var(--soft);font-size:.8rem;font-family:ui-monospace,monospace}
details{margin:.3rem 0}summary{cursor:pointer}svg{width:100%;max-width:45rem;min-width:30rem;height:auto}
@media (max-width:34rem){body{padding:.7rem .7rem 3rem}
.bars{grid-template-columns:1fr 4.5rem auto;gap:.1rem .4rem}}
"""


def write(folder: Path) -> list[Path]:
    """Write the page of a run that has a report, of an incremental one those of all increments and one over them.

    Returns the pages written. Raises `NotARun` where there is no report.
    """
    homes = reading.members(folder)
    if homes == [folder]:
        return [write_one(folder)]
    return [write_overview(folder), *(write_one(home) for home in homes if RunDir(home).report.exists())]


def write_one(folder: Path) -> Path:
    """The page of one run, or of one increment."""
    return _put(folder, reading.report(folder)["name"], _body(folder))


def write_overview(folder: Path) -> Path:
    """The page over the increments of a run."""
    return _put(folder, folder.name, _overview(folder))


def _put(folder: Path, title: str, body: Iterable[str]) -> Path:
    text = "\n".join(body)
    with storage.atomic(folder / PAGE) as beside:
        beside.write_text(
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_e(title)}</title>'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f"<style>{_STYLE}</style></head>\n<body>\n{text}\n</body></html>\n",
            encoding="utf-8",
        )
    return folder / PAGE


def _body(folder: Path) -> Iterator[str]:
    found = reading.report(folder)
    yield f"<h1>{_e(found['name'])}</h1>"
    yield from _verdict(found)
    yield from _alarms(found["alarms"])
    yield from _funnel(found)
    yield from _reasons(folder, found)
    yield from _kept(folder, found)
    yield from _tables(folder, found)
    for stage, summary in found["barriers"].items():
        yield from _barrier(stage, summary)
    if mix := found["corpus"].get("mix"):
        yield from _mixture(mix)


def _overview(folder: Path) -> Iterator[str]:
    """The page over all increments."""
    rows = browse.increment_rows(folder)
    yield f"<h1>{_e(folder.name)}</h1>"
    done = [row for row in rows if row["state"] == "done"]
    total = {name: sum(row[name] or 0 for row in done) for name in ("files", "documents in", "out", "tokens")}
    yield (f'<p class="verdict">{len(done):,} finished: <b>{total["files"]:,} files</b>, '
           f'<b>{total["documents in"]:,} documents in</b>, '
           f'<b>{total["out"]:,} out</b>, <b>{total["tokens"]:,} tokens</b></p>')  # fmt: skip
    latest = corpus.latest(folder)
    yield f'<p class="soft">Latest corpus: {_e(str(latest.relative_to(folder)) if latest else "none yet")}</p>'
    reports = [(row["increment"], RunDir(folder / row["increment"]).read_report() or {}) for row in rows]
    yield from _alarms([{**alarm, "increment": name} for name, found in reports for alarm in found.get("alarms", [])])
    yield "<h2>Increments</h2>"
    links = [f'<a href="{name}/{PAGE}">{name}</a>' if found else name for name, found in reports]
    cells = [[link, *(_cell(value) for value in list(row.values())[1:])] for link, row in zip(links, rows)]
    yield from _table(list(rows[0]), cells, left=2, raw=1)


def _verdict(found: dict[str, Any]) -> Iterator[str]:
    good = not found["failed"] and not found["imbalances"]
    state = '<b class="good">Done</b>' if good else '<b class="bad">Failed</b>'
    facts = [f"<b>{found['documents_in']:,}</b> documents in", f"<b>{found['documents_out']:,}</b> out"]
    if made := found["corpus"]:
        facts.append(f"<b>{made['tokens']:,}</b> tokens")
    if found["text_bytes"]:
        facts.append(f"{found['text_bytes'] / 1e6:,.1f} MB of text")
    if found["tasks_run"]:
        facts.append(f"{found['seconds']:,.1f} s")
    facts.append(f"{found['task_cpu_seconds']:,.1f} CPU s")
    if found["text_bytes"] and found["task_cpu_seconds"]:
        facts.append(f"{found['text_bytes'] / 1e6 / found['task_cpu_seconds']:,.1f} MB per CPU s")
    yield f'<p class="verdict">{state}: {", ".join(facts)}.</p>'
    for line in [*(failure["message"] for failure in found["failed"]), *found["imbalances"]]:
        yield f'<p class="bad">{_e(line)}</p>'


def _alarms(found: list[dict[str, Any]]) -> Iterator[str]:
    """A paragraph each; where there are many, the worst, and the others folded away."""
    yield from map(_alarm, found[:_ALARMS])
    if len(found) > _ALARMS:
        yield f"<details><summary><b>{len(found) - _ALARMS} more alarms</b></summary>"
        yield from map(_alarm, found[_ALARMS:])
        yield "</details>"


def _alarm(alarm: dict[str, Any]) -> str:
    where = f" in increment {_e(alarm['increment'])}" if "increment" in alarm else ""
    if "said" in alarm:
        return f'<p class="alarm"><b>Alarm.</b> {_e(alarm["stage"])}{where}: {_e(alarm["said"])}.</p>'
    return (f'<p class="alarm"><b>Alarm.</b> {_e(alarm["kind"])} <b>{_e(str(alarm["name"]))}</b> lost '
            f'{alarm["share"]:.0%} of its documents at {_e(alarm["stage"])}{where} ({alarm["in"]:,} in, '
            f'{alarm["out"]:,} out).</p>')  # fmt: skip


def _funnel(found: dict[str, Any]) -> Iterator[str]:
    yield "<h2>What each stage let through</h2>"
    most = max((stage["in"] for stage in found["funnel"]), default=1) or 1
    for stage in found["funnel"]:
        kept = f"{stage['out'] / stage['in']:.1%} kept" if stage["in"] else "nothing came"
        yield (f'<div class="stage"><div class="head"><b>{_e(stage["stage"])}</b> <span>{stage["in"]:,} in, '
               f'{stage["out"]:,} out</span> <span>{kept}</span> <span class="soft">{stage["cpu_seconds"]:,.2f} CPU s'
               f"</span></div>{_track(stage['out'] / most)}")  # fmt: skip
        if stage["reasons"]:
            yield from _bars(stage["reasons"], stage["in"], "gone")
        if tally := {name: count for name, count in stage["tally"].items() if count}:
            yield f'<details class="soft"><summary>also counted</summary>{_told(tally)}</details>'
        yield "</div>"


def _reasons(folder: Path, found: dict[str, Any]) -> Iterator[str]:
    """A few documents that were dropped for each reason."""
    samples: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for group in reading.groups(folder, found):
        for path in _spread(group.reject_files(group.receipts(found["partitions"]))):
            for row in _first_of_each(path):
                samples.setdefault((row["stage"], row["drop"]), []).append(row)
    counts = {(stage["stage"], name): count for stage in found["funnel"] for name, count in stage["reasons"].items()}
    if counts:
        yield "<h2>Dropped, with samples</h2>"
    for (stage, reason), count in counts.items():
        rows = sorted(samples.get((stage, reason), []), key=lambda row: row["id"])[:_PER_REASON]
        yield f"<details><summary><b>{_e(reason)}</b> {count:,} at {_e(stage)}</summary>"
        yield from (_document(row, _figure(row)) for row in rows)
        if not rows:
            yield '<p class="soft">None in the files that were sampled.</p>'
        yield "</details>"


def _first_of_each(path: Path) -> list[dict[str, Any]]:
    """The first documents by id of each stage and reason in one file of rejects."""
    brief = pq.read_table(path, columns=["id", "stage", "drop"]).sort_by("id").to_pylist()
    chosen: dict[tuple[str, str], list[str]] = {}
    for row in brief:
        ids = chosen.setdefault((row["stage"], row["drop"]), [])
        if len(ids) < _PER_REASON:
            ids.append(row["id"])
    return _rows(path, [id_ for ids in chosen.values() for id_ in ids])


def _rows(path: Path, ids: list[str]) -> list[dict[str, Any]]:
    wanted = ("id", "url", "source", "source_id", "text", "stage", "drop", "drop_value", "drop_limit")
    columns = [name for name in wanted if name in pq.read_schema(path).names]
    return pq.read_table(path, columns=columns, filters=pc.field("id").isin(ids)).to_pylist()


def _kept(folder: Path, found: dict[str, Any]) -> Iterator[str]:
    """A few documents that stayed, from all over the run."""
    rows: list[dict[str, Any]] = []
    paths = _spread(reading.kept(folder, found))
    chosen = browse.in_corpus(folder, found, _LOOKED_AT)
    for path in paths:
        ids = sorted(pq.read_table(path, columns=["id"])["id"].to_pylist())
        ids = [id_ for id_ in ids if chosen is None or id_ in chosen][: -(-_KEPT // len(paths))]
        rows += _rows(path, ids) if ids else []
    if rows:
        yield "<h2>Kept, some samples</h2>"
        yield from (_document(row) for row in sorted(rows, key=lambda row: row["id"])[:_KEPT])


def _tables(folder: Path, found: dict[str, Any]) -> Iterator[str]:
    """Documents by language as kept, and by source as they came and stayed."""
    last = folder / found["groups"][-1]["folder"] / "docs.parquet"
    if found["corpus"] and "lang" in pq.read_schema(last).names:
        table = _by_language(last)
        groups = table.group_by("lang").aggregate([("first", "sum"), ("n_tokens", "sum")])
        groups = groups.sort_by([("n_tokens_sum", "descending"), ("lang", "ascending")]).slice(0, _ROWS)
        yield "<h2>Languages of what was kept</h2>"
        cells = [[row["lang"], row["first_sum"], row["n_tokens_sum"]] for row in groups.to_pylist()]
        yield from _table(["language", "documents", "tokens"], [list(map(_cell, row)) for row in cells])
    paths = [str(path) for path in RunDir(folder).ledger_files]
    if found["state"] == "done" and paths:
        import pyarrow.dataset as ds  # here, since it brings pandas in where that is installed

        table = ds.dataset(paths, format="parquet").to_table(columns={
            "source": pc.field("source"), "stays": pc.field("stage").is_null().cast(pa.int64())
        })  # fmt: skip
        groups = table.group_by("source").aggregate([("stays", "count"), ("stays", "sum")])
        rows = groups.sort_by([("stays_count", "descending"), ("source", "ascending")]).to_pylist()
        yield "<h2>Sources, over all stages</h2>"
        yield from _lost(
            [{"name": row["source"], "in": row["stays_count"], "out": row["stays_sum"]} for row in rows], "source"
        )


def _by_language(docs: Path) -> pa.Table:
    """Language and tokens of each row, and `first`: 1, 0 for a document that a mixture repeats."""
    repeated = ["copy"] if "copy" in pq.read_schema(docs).names else []
    table = pq.read_table(docs, columns=["lang", "n_tokens", *repeated])
    first = pc.equal(table["copy"], 0).cast(pa.int64()) if repeated else pa.repeat(pa.scalar(1), len(table))
    return table.append_column("first", first)


def _barrier(stage: str, found: dict[str, Any]) -> Iterator[str]:
    """What deduplication, or another barrier that tells as much, found."""
    yield f"<h2>{_e(stage)}: what it found</h2>"
    plain = {name: value for name, value in found.items() if isinstance(value, (int, float))}
    if plain:
        yield f"<p>{_told(plain)}.</p>"
    if groups := found.get("groups"):
        cells = [[_e(str(row["group"])), *(_cell(row[name]) for name in ("scored", "kept", "threshold"))]
                 for row in groups[:_ROWS]]  # fmt: skip
        yield from _table(["group", "scored", "kept", "last kept"], cells, raw=1)
    left_out = {name: count for name, count in found.get("left_out", {}).items() if count}
    if left_out:
        yield f'<p class="bad">Left out by a limit: {_told(left_out)}.</p>'
    if index := found.get("index"):
        yield f"<p>Index: {_told(index)}.</p>"
    if curve := found.get("match_probability"):
        points = [(float(similarity), float(chance)) for similarity, chance in curve.items()]
        drawn = chart.curves("Chance that a pair is compared", {"": points}, "Jaccard similarity", "", (0.0, 1.0))
        yield f'<div class="wide">{drawn}</div>'
    if probe := found.get("probe"):
        yield from _probe(probe)
    if sizes := found.get("cluster_sizes"):
        yield "<h3>Sizes of clusters, the kept document included</h3>"
        yield from _bars(sizes, max(sizes.values()))
    for kind, rows in found.get("removed", {}).items():
        if rows:
            yield f"<h3>Lost by {_e(kind)}</h3>"
            yield from _lost(rows, kind)
    if clusters := found.get("largest_clusters"):
        yield "<h3>The largest clusters</h3>"
        for cluster in clusters[:10]:
            others = ", ".join(cluster.get("members", []))
            note = f"{cluster['dup_count']:,} left for it" + (f", among them {others}" if others else "")
            yield _document(cluster, note, 300)


def _mixture(mix: dict[str, Any]) -> Iterator[str]:
    """Tokens asked, possible and realised, by group, the largest first."""
    yield f"<h2>Mixture by {_e(', '.join(mix['by']))}, in tokens</h2>"
    names = ("group", "documents", "tokens", "asked", "possible", "realised", "epochs")
    rows = sorted(mix["groups"], key=lambda row: (-row["realised"], row["group"]))
    cells = [[*(_cell(row[name]) for name in names), "exhausted" if row["exhausted"] else ""] for row in rows[:_ROWS]]
    yield from _table([*names, ""], cells)
    if len(rows) > _ROWS:
        yield f'<p class="soft">and {len(rows) - _ROWS:,} more</p>'


def _told(figures: dict[str, Any]) -> str:
    """Names and figures in a row."""
    return _e(", ".join(f"{name.replace('_', ' ')} {_cell(value)}" for name, value in figures.items()))


def _probe(probe: dict[str, Any]) -> Iterator[str]:
    yield f"<h3>Recall of {probe['planted']:,} planted near-duplicates</h3>"
    cells = [
        [f"{one['from']:.2f}\u2013{one['to']:.2f}", _cell(one["pairs"]), _cell(one["found"]),
         "-" if one.get("recall") is None else f"{one['recall']:.3f}",
         "-" if one.get("low") is None else f"{one['low']:.3f} to {one['high']:.3f}"]
        for one in probe["bins"]
    ]  # fmt: skip
    yield from _table(["J", "pairs", "found", "recall", "95 % interval"], cells)


def _lost(rows: list[dict[str, Any]], name: str) -> Iterator[str]:
    """In, out and share lost, the first rows of many."""
    cells = [[_e(str(row["name"])), _cell(row["in"]), _cell(row["out"]),
              f"{1 - row['out'] / row['in']:.1%}" if row["in"] else "-"] for row in rows[:_ROWS]]  # fmt: skip
    yield from _table([name, "in", "out", "lost"], cells, raw=1)
    if len(rows) > _ROWS:
        yield f'<p class="soft">and {len(rows) - _ROWS:,} more</p>'


def _table(names: list[str], rows: list[list[str]], left: int = 1, raw: int = 0) -> Iterator[str]:
    """A table of texts, the first `left` columns left-aligned; the first `raw` are HTML already."""
    kinds = ["" if place < left else ' class="n"' for place in range(len(names))]
    yield '<div class="wide"><table><tr>' + "".join(f"<th{kind}>{_e(name)}</th>" for kind, name in zip(kinds, names))
    for row in rows:
        cells = [text if place < raw else _e(text) for place, text in enumerate(row)]
        yield "</tr><tr>" + "".join(f"<td{kind}>{text}</td>" for kind, text in zip(kinds, cells))
    yield "</tr></table></div>"


def _bars(counts: dict[str, int], whole: int, kind: str = "") -> Iterator[str]:
    """A bar for each count, as its share of `whole`."""
    yield '<div class="bars">'
    for name, count in counts.items():
        yield f'<span>{_e(name)}</span>{_track(count / max(1, whole), kind)}<span class="n">{count:,}</span>'
    yield "</div>"


def _track(share: float, kind: str = "") -> str:
    return f'<span class="track"><i class="{kind}" style="width:{100 * share:.2f}%"></i></span>'


def _document(row: dict[str, Any], note: str = "", length: int = _SNIPPET) -> str:
    """One document: id, where it is from, what is noted of it, how it begins."""
    where = row.get("url") or row.get("source_id") or row.get("source") or ""
    text = " ".join((row.get("text") or "").split())
    text = text[:length] + (" ..." if len(text) > length else "")
    told = f'<div class="soft">{_e(note)}</div>' if note else ""
    return (f'<div class="doc"><div><span class="id">{_e(str(row["id"]))}</span> {_e(str(where))}</div>{told}'
            f'<div dir="auto">{_e(text)}</div></div>')  # fmt: skip


def _figure(row: dict[str, Any]) -> str:
    """The figure and the threshold a document was dropped by."""
    if row["drop_value"] is None:
        return ""
    return f"{row['drop_value']:.6g}" + (f", limit {row['drop_limit']:.6g}" if row["drop_limit"] is not None else "")


def _spread(paths: list[Path]) -> list[Path]:
    """At most `_FILES` of the files, evenly spaced."""
    step = max(1, -(-len(paths) // _FILES))
    return paths[::step]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.6g}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _e(text: str) -> str:
    return html.escape(text)
