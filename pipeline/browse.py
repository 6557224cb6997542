"""Questions to a run directory: how far, which documents, why this one, is it whole. Reads receipts and ledger only."""

import fcntl
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import corpus, increments, ledger, manifest, rundir, storage
from pipeline.reading import NotARun, groups, kept, members, rejects, report, run_folder
from pipeline.rundir import GroupDir, Outline, RunDir
from pipeline.stage import Sink


class Story(NamedTuple):
    """All that is known of one document."""

    row: dict[str, Any]
    text: str
    lines: list[str]
    keeper: str | None  # the text it is a duplicate of


def run_or_corpus(name: str) -> Path:
    """What `verify` checks: the folder of a corpus, wherever it was copied to, or a run directory. Raises `NotARun`."""
    if _is_bare_corpus(Path(name)):
        return Path(name)
    try:
        return run_folder(name)
    except NotARun as error:
        raise NotARun(f"{error}, and no corpus ({name} has no {manifest.MANIFEST})") from None


def _is_bare_corpus(folder: Path) -> bool:
    """Whether a folder holds a corpus, or a chain of them, without the run that made it."""
    chain = (folder / corpus.LATEST).is_file() and not increments.of(folder)
    return chain or (folder / manifest.MANIFEST).is_file()


def state(folder: Path) -> str:
    """How the last run of this directory ended."""
    found = RunDir(folder).read_report()
    if not found:
        return "interrupted; the same command continues"
    refused = all(failure.get("refused") for failure in found["failed"])
    then = "the same command with another configuration" if refused else "the same command"
    failed = f", {len(found['failed'])} failed; {then} tries again what failed" if found["failed"] else ""
    return f"{found['state']}{failed}, {found['documents_in']:,} documents in, {found['documents_out']:,} out"


def holder(folder: Path) -> str | None:
    """Who holds the run directory now, if anyone."""
    try:
        with open(folder / ".lock", encoding="utf-8") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return (folder / ".lock").read_text(encoding="utf-8").strip()


def outline(folder: Path) -> Outline | None:
    """What the run in `folder` consists of, as it wrote it down when it began."""
    return Outline.load(RunDir(folder).outline)


def progress(outline: Outline, folder: Path, *, inputs: bool) -> list[dict[str, Any]]:
    """Of each group: folder, stages, partitions done, columns added. With `inputs`, changed files are noticed."""
    return [
        {"folder": group.folder, "kind": group.kind, "stages": group.stages, "adds": group.adds,
         "read": one.read, "done": one.done, "total": one.total}
        for group, one in zip(outline.groups, rundir.progress(outline, RunDir(folder), inputs=inputs))
    ]  # fmt: skip


def status(folder: Path) -> dict[str, Any]:
    """How far a run is, as plain data: who holds it, how its last run ended, its groups, its increments."""
    home = members(folder)[-1]
    begun = outline(home)
    return {
        "folder": str(folder),
        "held_by": holder(folder),
        "state": state(home),
        "report": RunDir(home).read_report(),
        "groups": progress(begun, home, inputs=False) if begun else [],
        "increments": increment_rows(folder) if increments.of(folder) else [],
        "latest": str(latest) if (latest := corpus.latest(folder)) else None,
    }


def mixture(outline: Outline, folder: Path, sink: Sink) -> dict[str, Any] | None:
    """What the mixture of a finished corpus came to, or would come to of documents at rest; None before that.

    Raises `Refused` where their columns do not make groups.
    """
    *_, before, last = rundir.progress(outline, RunDir(folder), inputs=True)
    if last.done:
        return (manifest.read(folder / outline.groups[-1].folder) or {}).get("mix")
    return sink.foreseen([documents.path for documents in before.left]) if before.left else None


def increment_rows(folder: Path) -> list[dict[str, Any]]:
    """Of each increment: number, state, files and bytes taken in, documents in and out, tokens."""
    rows = []
    for number, home in increments.of(folder):
        files, found = (
            increments.Increment(number, home).inputs()["files"],
            RunDir(home).read_report() or {},
        )
        rows.append({"increment": home.name,
                     "state": "done" if number <= increments.finished(folder) else state(home).split(";")[0],
                     "files": len(files), "MB": round(sum(file["size"] for file in files) / 1e6, 1),
                     "documents in": found.get("documents_in"), "out": found.get("documents_out"),
                     "tokens": found.get("corpus", {}).get("tokens")})  # fmt: skip
    return rows


def documents(folder: Path, stage: str | None, reason: str | None, count: int) -> list[dict[str, Any]]:
    """Some documents of a run: rejected ones for a reason and/or by a stage, else survivors. Raises `NotARun`."""
    reports = [(home, found) for home in members(folder) if (found := RunDir(home).read_report())]
    if not reports:
        raise NotARun(f"{folder}: no report yet; the run has not come to an end")
    stages = list(dict.fromkeys(name for _, found in reports for group in found["groups"] for name in group["stages"]))
    if stage is not None and stage not in stages:
        raise NotARun(f"there is no stage '{stage}' in this run (there are: {', '.join(stages)})")
    if reason is None:
        rows = [row for home, found in reports for row in _sampled(home, found, stage, count)]
        return sorted(rows, key=lambda row: row["id"])[:count]
    paths = [path for home, found in reports for path in rejects(home, found, stage)]
    rows = list(ledger.sample(paths, reason, count))
    if not rows:
        mine = {name for _, found in reports for group in found["groups"]
                if stage is None or stage in group["stages"] for name in group["stages"]}  # fmt: skip
        known = dict.fromkeys(name for _, found in reports for part in found["funnel"] if part["stage"] in mine
                              for name in part["reasons"])  # fmt: skip
        raise NotARun(f"no document was dropped for '{reason}' (reasons: {', '.join(known) or 'none'})")
    return rows


def _sampled(home: Path, found: dict[str, Any], stage: str | None, count: int) -> list[dict[str, Any]]:
    """Some survivors; where the last stage dropped some that reached it, of those in the corpus."""
    paths = kept(home, found, stage)
    chosen = in_corpus(home, found, count) if stage is None or stage in found["groups"][-1]["stages"] else None
    return list(ledger.sample(paths, None, count) if chosen is None else ledger.of(paths, sorted(chosen)[:count]))


def in_corpus(home: Path, found: dict[str, Any], count: int) -> set[str] | None:
    """Ids of at least `count` documents of the finished corpus (all, if it has fewer), from its beginning, which is in
    random order; None where the last stage dropped nothing that reached it, so that all survivors are in the corpus."""
    last = groups(home, found)[-1]
    rejects = last.reject_files(last.receipts(found["partitions"]))
    if last.kind != "sink" or not rejects or not last.sink_receipt.is_file():
        return None
    ids: set[str] = set()
    with pq.ParquetFile(last.path / "docs.parquet") as file:
        for group in range(file.num_row_groups):
            ids |= set(file.read_row_group(group, columns=["id"])["id"].to_pylist())
            if len(ids) >= count:
                break
    return ids


def figures(row: dict[str, Any]) -> dict[str, Any]:
    """What is known of a document beside its text, for people."""
    return ledger.story(row)


def stories(folder: Path, wanted: str) -> list[Story]:
    """The story of every record that goes by `wanted`, in any increment. Raises `NotARun` when there is none."""
    homes = [home for home in members(folder) if ledger.rows(home)]
    if not homes:
        raise NotARun(f"{folder}: no ledger yet; it is written when the run is done")
    found = [(home, row) for home in homes for row in ledger.find(home, wanted)]
    if not found:
        raise NotARun(f"no document '{wanted}' in {folder} (asked by id, url and own identifier)")
    return [_story(homes, home, row) for home, row in found]


def _story(homes: list[Path], home: Path, row: dict[str, Any]) -> Story:
    full = ledger.document(_files(home), row["id"]) or row
    lines = [f"came from {row['source']} at {row['offset']}{_where(homes, home)}"]
    if row["stage"] is not None:
        lines.append(f"left at {row['stage']}: {row['reason']}{_judged(row)}")
    elif row["shard"] is not None:
        lines.append(f"is in the corpus: shard {row['shard']}, tokens {row['token_offset']} to "
                     f"{row['token_offset'] + row['n_tokens']}{_again(home, row['id'])}")  # fmt: skip
    else:
        lines.append("was kept to the end")
    lines += [
        f"stands for {other['id']} {other['url'] or ''} ({other['reason']}{_judged(other)}){_where(homes, one)}"
        for one in homes
        for other in ledger.dropped_for(one, row["id"])
        if (one, other["id"]) != (home, row["id"])
    ]
    keeper = None
    if row["duplicate_of"]:
        keeper, line = _kept(homes, home, row)
        lines.append(line)
    return Story(full, full.get("text") or "", lines, keeper)


def _again(home: Path, id_: str) -> str:
    """How much more often a mixture has a document in the corpus."""
    docs = home / report(home)["groups"][-1]["folder"] / "docs.parquet"
    if "copy" not in pq.read_schema(docs).names:
        return ""
    more = pq.read_table(docs, columns=["copy"], filters=pc.field("id") == id_).num_rows - 1
    return f", and {more:,} more time{'s' * (more > 1)}" if more else ""


def _kept(homes: list[Path], home: Path, row: dict[str, Any]) -> tuple[str | None, str]:
    """The text of the document that `row` is a duplicate of, and a line on it: of its own increment or an older one."""
    for place in reversed(homes[: homes.index(home) + 1]):
        entries = [one for one in ledger.find(place, row["duplicate_of"]) if one["stage"] is None]
        if entries and (other := ledger.document(_files(place), row["duplicate_of"])):
            return other["text"], f"is a duplicate of {other['id']} {other.get('url') or ''}{_where(homes, place)}"
    return None, f"is a duplicate of {row['duplicate_of']}, which is not in this run"


def _where(homes: list[Path], home: Path) -> str:
    return f", increment {home.name}" if len(homes) > 1 else ""


def _files(home: Path) -> list[Path]:
    """Every file with whole documents of a run, the latest group first, the dropped before those that stayed."""
    found = report(home)
    paths = []
    for group in reversed(groups(home, found)):
        receipts = group.receipts(found["partitions"])
        paths += group.reject_files(receipts) + group.document_files(receipts)
    return paths


def _judged(row: dict[str, Any]) -> str:
    """The figure and the threshold a document was dropped by."""
    if row["value"] is None:
        return ""
    limit = f", limit {row['limit']:.6g}" if row["limit"] is not None else ""
    return f" ({row['value']:.6g}{limit})"


def verify(folder: Path) -> tuple[list[str], list[str]]:
    """What is wrong with a run or a corpus, and what was checked, in sentences; of increments each one, and the
    whole chain.

    What is damaged in a run is noted in the run directory, so that the next run makes it again.
    """
    if _is_bare_corpus(folder):
        return _verify_corpus(folder, [])
    if increments.of(folder):
        return _verify_increments(folder)
    wrong, checked, receipts = _verify(folder)
    if not wrong and report(folder)["corpus"]:
        wrong, checked = _verify_corpus(folder, checked)
        receipts = [groups(folder, report(folder))[-1].sink_receipt] if wrong else []
    return [*wrong, *_record(folder, receipts)], checked


def _verify_increments(folder: Path) -> tuple[list[str], list[str]]:
    wrong: list[str] = []
    checked: list[str] = []
    last = increments.finished(folder)
    for number, home in increments.of(folder):
        if number > last:
            wrong.append(f"{home} is not finished: {state(home)}")
            continue
        broken, lines, receipts = _verify(home)
        wrong += [f"{home.name}: {line}" for line in broken]
        checked += [f"{home.name}: {line}" for line in lines]
        if receipts:
            wrong.append(f"{home.name}: a finished increment is not made again; put a copy of these files in place")
    if wrong or not last:
        return wrong, checked
    wrong, checked = _verify_corpus(folder, checked)
    linked = last if wrong else len(corpus.open(folder, sizes=False).parts)
    if linked < last:
        wrong.append(f"{folder}: {last} increments, but only {linked} corpora are linked to each other")
    return wrong, checked


def _verify_corpus(folder: Path, checked: list[str]) -> tuple[list[str], list[str]]:
    """What is wrong with the corpus in a folder or of a run, and with its parents."""
    try:
        made = corpus.open(folder, sizes=False)
    except corpus.NotACorpus as error:
        return [str(error)], checked
    told = f"{len(made):,} documents, {made.n_tokens:,} tokens in {len(made.shards)} shards"
    return corpus.verify(made), [*checked, told]


def _verify(folder: Path) -> tuple[list[str], list[str], list[Path]]:
    """What is wrong with the files and the ledger of one run directory, what was checked, the receipts of damage."""
    written = report(folder)
    wrong = list(written["imbalances"])
    if written["state"] != "done":
        return [*wrong, f"the run is not finished: {state(folder)}"], [], []
    folders = [group.path for group in groups(folder, written)]
    files, damage = rundir.damage([*folders, RunDir(folder).ledger])
    damage += _damaged_records(folder, groups(folder, written))
    if damage:
        return [*wrong, *(one.message for one in damage)], [], [one.receipt for one in damage if one.receipt]
    entered, repeated = _ids(folder)
    if entered != written["documents_in"]:
        wrong.append(f"{written['documents_in']} records entered, the ledger has {entered}")
    if repeated:
        wrong.append(f"{repeated} ids stand in the ledger more than once")
    return wrong, [f"{files} files against their receipts", f"{entered:,} ledger rows, each id once"], []


def _damaged_records(folder: Path, groups: list[GroupDir]) -> list[rundir.Damage]:
    """What cannot be read of the outline and of what barriers report; a run makes these again where they are absent."""
    found = []
    for load, path in [(Outline.load, RunDir(folder).outline), *((storage.read_json, g.summary) for g in groups)]:
        try:
            load(path)
        except storage.Damaged as error:
            found.append(rundir.Damage(str(error), None))
    return found


def _record(folder: Path, receipts: list[Path]) -> list[str]:
    """Note for the next run which receipts name damaged files, or remove the note; a sentence on what follows."""
    home = RunDir(folder)
    if receipts and (held := holder(folder)):
        return [f"{folder} is in use ({held}): verify it again when that run has ended"]
    try:
        home.note_damage(receipts)
    except OSError as error:
        return [f"{home.damaged}: cannot be written ({error.strerror}), so the next run will not know of this damage"]
    return [f"{folder}: the next run with the same configuration makes the damaged files again"] if receipts else []


def unused(folder: Path) -> list[tuple[Path, int]]:
    """The folders of groups that the present configuration of a run does not use, with their sizes in bytes."""
    found = []
    for home in members(folder):
        if written := outline(home):
            found += [(path, _size(path)) for path in RunDir(home).unused_groups(written)]
    return found


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _ids(folder: Path) -> tuple[int, int]:
    """How many rows the ledger has, and how many of them repeat an id."""
    paths = RunDir(folder).ledger_files
    halves = [np.array([int(id_[:16], 16) for id_ in pq.read_table(path, columns=["id"])["id"].to_pylist()], np.uint64)
              for path in paths]  # fmt: skip
    ids = np.concatenate([np.zeros(0, np.uint64), *halves])
    return len(ids), len(ids) - len(np.unique(ids))
