"""Repeated lines from texts to verdicts, against a plain Python reference, and through the whole pipeline."""

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Workshop
from deduped import LocalSteps, names, sample_texts
from fastwarc import ArchiveIterator, WarcRecordType
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from resiliparse.extract.html2text import extract_plain_text
from test_sketch import SAMPLES, plain_units

from pipeline.config import NamedStep
from pipeline.partition import VerdictTask, run_verdicts
from pipeline.schema import DROP, text_buffers
from pipeline.stage import Part
from stages.kernels import repeats
from stages.lines import Lines

MENU = "Home, products, prices, support and contact"
NOTICE = "版权所有，未经许可不得转载"
ENGLISH, _ = sample_texts()


class Runner:
    """`run(docs, cuts)` writes parts cut at these rows and resolves them; rows come back, with the text left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = 0
        self.summary: dict[str, Any] = {}

    def __call__(self, docs: Any, cuts: tuple[int, ...] = (), **config: Any) -> list[dict[str, Any]]:
        if isinstance(docs, list):
            docs = pa.table({"id": pa.array(names(len(docs)), pa.string()), "text": pa.array(docs, pa.string())})
        lines = Lines(**config)
        self.runs += 1
        folder = self.folder / str(self.runs)
        edges = enumerate(pairwise([0, *cuts, len(docs)]))
        parts = [_part(lines, docs.slice(a, b - a), folder / f"part-{number}") for number, (a, b) in edges]
        files = lines.resolve(parts, LocalSteps(folder))
        self.summary = json.loads((files[0].parent / "summary.json").read_text(encoding="utf-8"))
        verdicts = pa.concat_tables(map(pq.read_table, files)).to_pylist()
        assert list(verdicts[0] if verdicts else []) in ([], ["lines_removed", *DROP, "text"])
        rows = []
        for doc, verdict in zip(docs.to_pylist(), verdicts, strict=True):
            assert verdict["text"] is None or (verdict["lines_removed"] > 0 and verdict["drop"] is None)
            changed = verdict.pop("text")
            rows.append({**doc, **verdict, "text": doc["text"] if changed is None else changed})
        return rows


def _part(lines: Lines, docs: pa.Table, stem: Path) -> Part:
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = stem.with_suffix(".parquet"), stem.with_suffix(".arrow")
    pq.write_table(docs, paths[0], row_group_size=7)
    sketch = lines.sketch(docs)
    with pa.ipc.new_file(str(paths[1]), sketch.schema) as file:
        file.write_table(sketch, max_chunksize=5)
    return Part(*paths, len(docs))


@pytest.fixture
def run(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


# The definition, line by line

_BLANK = " \t\n\v\f\r"
_FENCE = re.compile(r"[ \t\v\f\r]*(```|~~~)")
_INDENTED = re.compile(r" {4}| {0,3}\t")
_UNDERLINE = re.compile(r"[ \t-\r]*([!-/:-@\[-_{}])\1\1+[ \t-\r]*")


def split(text: str) -> list[str]:
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def plain_pieces(lines: list[str], config: Lines) -> list[tuple[list[int], tuple[str, ...] | None]]:
    """The numbers of the lines of each piece, and what it is compared by, if it is."""
    pieces: list[tuple[list[int], list[bool]]] = []
    fence, inside = "", False
    for number, line in enumerate(lines):
        if not line.strip(_BLANK):
            inside = False
            continue
        free = not (fence or _INDENTED.match(line) or line.lstrip(_BLANK)[0] == "|")
        found = _FENCE.match(line)
        if found and fence in ("", found[1]):
            fence, free = "" if fence else found[1], False
        if not inside:
            pieces.append(([], []))
            inside = config.paragraphs
        pieces[-1][0].append(number)
        pieces[-1][1].append(free)
    return [(numbers, plain_key("".join(lines[n] for n in numbers), config) if all(free) else None)
            for numbers, free in pieces]  # fmt: skip


def plain_key(piece: str, config: Lines) -> tuple[str, ...] | None:
    units = plain_units(piece)
    weight = sum(config.min_words if unit[0] == "|" else config.min_chars for unit in units)
    enough = weight >= config.min_words * config.min_chars and any(map(str.isalpha, piece))
    return tuple(units) if enough else None


def plain_cut(lines: list[str], gone: set[int]) -> str:
    out: list[str] = []
    after = below = False
    for number, line in enumerate(lines):
        blank = not line.strip(_BLANK)
        if number in gone:
            after = below = True
        elif (below and _UNDERLINE.fullmatch(line)) or (after and blank and not (out and out[-1].strip(_BLANK))):
            below = False
        else:
            out.append(line)
            after = below = False
    text = "".join(out)
    if after:
        text = text.rstrip(_BLANK)
        text += "\n" if text and lines[-1].endswith("\n") else ""
    return text


def plain(docs: pa.Table, config: Lines) -> list[tuple[str | None, int, str | None]]:
    """Text, lines removed, reason of every document, one after the other."""
    texts = docs["text"].to_pylist()
    order = repeats.hash_rows(*text_buffers(docs["id"])).tolist()
    read = [(split(text or ""), plain_pieces(split(text or ""), config)) for text in texts]
    having: dict[tuple[str, ...], set[int]] = {}
    for place, (_, pieces) in enumerate(read):
        for _, key in pieces:
            if key is not None:
                having.setdefault(key, set()).add(place)
    order_of = {key: sorted(places, key=lambda place: order[place]) for key, places in having.items()}
    hot = {key: places for key, places in order_of.items() if len(places) > config.max_documents}
    keepers = {place for places in hot.values() for place in places[: config.keep]}
    leaving = {key: set(places[config.keep :]) for key, places in hot.items()}
    answer = []
    for place, (text, (lines, pieces)) in enumerate(zip(texts, read, strict=True)):
        gone = [numbers for numbers, key in pieces if key is not None and place in leaving.get(key, ())]
        left = plain_cut(lines, {number for numbers in gone for number in numbers}) if gone else text
        few = gone and len(left.encode()) / len(text.encode()) < config.min_kept
        no_letter = gone and not any(map(str.isalpha, left))
        drop = "repeated_lines" if (few or no_letter) and place not in keepers else None
        answer.append((text if drop else left, len(gone), drop))
    return answer


def assert_as_defined(run: Runner, docs: pa.Table, cuts: tuple[int, ...], **config: Any) -> list[dict[str, Any]]:
    rows = run(docs, cuts, **config)
    assert [(row["text"], row["lines_removed"], row["drop"]) for row in rows] == plain(docs, Lines(**config))
    return rows


LINE = st.sampled_from([
    MENU, MENU.upper() + "!", f"  {MENU}  ", NOTICE, NOTICE.replace("，", " "), "a b c d e", "A B C D E\r", "", "",
    "a b 版权所有c", " \t", "===", "--- ", "* * *", "```", " ~~~ py", "| a b c d e |", f"    {MENU}", f"\t{MENU}",
    "1 2 3 4 5 6", "short", "its own a b c d", "😀 👍 🎉 ✨ 🚀 ❤", "\u0915\u094d\u093c a b c d e",
])  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_corpus_as_defined_however_it_is_cut(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    run = Runner(tmp_path_factory.mktemp("any"))
    text = st.builds(lambda lines, end: "\n".join(lines) + end, st.lists(LINE, max_size=8), st.sampled_from(["", "\n"]))
    texts = data.draw(st.lists(st.one_of(text, st.none()), min_size=1, max_size=8))
    keep = data.draw(st.integers(0, 2))
    config = {"keep": keep, "max_documents": data.draw(st.integers(max(1, keep), 3)),
              "paragraphs": data.draw(st.booleans()),
              "min_kept": data.draw(st.sampled_from([0, 0.1, 0.5]))}  # fmt: skip
    docs = pa.table({"id": names(len(texts)), "text": pa.array(texts, pa.string())})
    rows = assert_as_defined(run, docs, (), **config)
    summary = run.summary
    order = np.array(data.draw(st.permutations(range(len(texts)))))
    cuts = tuple(sorted(data.draw(st.lists(st.integers(0, len(texts)), max_size=3))))
    again = run(docs.take(pa.array(order)), cuts, bucket_rows=2, **config)
    assert sorted(again, key=lambda row: row["id"]) == sorted(rows, key=lambda row: row["id"])
    assert run.summary == summary


def crawled_texts() -> list[str]:
    texts = []
    for record in ArchiveIterator((SAMPLES.parent / "sample.warc.gz").open("rb"), record_types=WarcRecordType.response):
        page = record.reader.read()
        if "html" in (record.http_content_type or "") and page.decode("utf-8", "ignore").encode() == page:
            texts.append(extract_plain_text(page.decode()))
    return texts


def test_real_pages_as_defined(run: Runner) -> None:
    texts = list(dict.fromkeys(crawled_texts()))
    docs = pa.table({"id": names(len(texts)), "text": texts})
    rows = assert_as_defined(run, docs, (40, 90), max_documents=3)
    assert run.summary["removed_lines"] > 50
    assert run.summary["removed_lines"] == sum(row["lines_removed"] for row in rows if row["drop"] is None)
    lost = sum(len(text.encode()) - len(row["text"].encode()) for text, row in zip(texts, rows, strict=True))
    assert run.summary["removed_bytes"] == lost
    assert_as_defined(run, docs, (), max_documents=2, paragraphs=True, keep=2)


# What it is for


def test_a_menu_on_every_page_stays_on_one(run: Runner) -> None:
    texts = [f"{MENU}\n\n{article}\n\n{NOTICE}\n" for article in ENGLISH]
    rows = run(texts, cuts=(11,))
    whole = [row for row in rows if row["lines_removed"] == 0]
    assert len(whole) == 1
    assert whole[0]["text"] in texts
    for article, row in zip(ENGLISH, rows, strict=True):
        if row is not whole[0]:
            assert row["text"] == f"{article}\n"
            assert row["lines_removed"] == 2
    frequent = [(line["documents"], line["text"]) for line in run.summary["most_frequent"]]
    assert sorted(frequent) == sorted([(25, MENU), (25, NOTICE)])
    assert run(texts, max_documents=25)[0]["lines_removed"] == 0, "in no more documents than are allowed"
    assert all(row["lines_removed"] == 2 for row in run(texts, keep=0))


def test_chinese_pages(run: Runner) -> None:
    texts = [f"第{number}篇文章的正文说的是另外一件事情。\n{NOTICE}" for number in range(30)]
    assert sum(row["text"].endswith("事情。") for row in run(texts)) == 29
    rows = run([text.replace("，", ",\u3000") if i % 2 else text for i, text in enumerate(texts)])
    assert sum(row["lines_removed"] for row in rows) == 29, "punctuation and blanks are no difference"


def test_a_licence_stays_whole_in_one_document(run: Runner) -> None:
    """And the pages that are nothing else leave, with the text they came with."""
    licence = ENGLISH[0]
    texts = [*ENGLISH[1:10], *[f"{licence}\nFile {number}" for number in range(12)]]
    rows = run(texts, cuts=(5, 12), max_documents=5)[9:]
    assert [row["drop"] for row in rows].count("repeated_lines") == 11
    assert [row["text"] for row in rows] == texts[9:]
    for row in rows:
        assert row["drop_value"] is None or row["drop_value"] < row["drop_limit"] == 0.1
    assert run.summary["dropped"] == 11
    kept = [row for row in run(texts, max_documents=5, min_kept=0)[9:] if row["lines_removed"]]
    assert len(kept) == 11
    assert all(re.fullmatch(r"(.*\n)*File \d+", row["text"]) and row["drop"] is None for row in kept)


def test_a_document_that_keeps_a_line_for_the_others_stays(run: Runner) -> None:
    """However little it has of its own: the line would be lost with it."""
    pages = [f"{NOTICE}\n{text}" for text in ENGLISH[:4]] + [f"{MENU}\n{text}" for text in ENGLISH[4:8]]
    ends = set()
    for place in range(9):
        rows = run([*pages[:place], f"{NOTICE}\n{MENU}", *pages[place:]], max_documents=4, min_kept=0.9)
        small = rows.pop(place)
        assert not any(row["drop"] for row in rows)
        for line in (NOTICE, MENU):
            assert sum(line in row["text"] for row in [*rows, small] if not row["drop"]) == 1
        ends.add((small["lines_removed"], small["drop"]))
    assert ends >= {(1, None), (2, "repeated_lines")}


def test_a_document_without_a_letter_left_leaves(run: Runner) -> None:
    rows = run([f"{MENU}\n{'0123456789 ' * number}" for number in range(30)], min_kept=0)
    gone = [row for row in rows if row["drop"]]
    assert len(gone) == 29
    assert all((row["drop_value"], row["drop_limit"]) == (0, 0) for row in gone)


@pytest.mark.parametrize(
    "line",
    ["Read more", "返回首页", "12 34 56 78 90 12", "| one | two | three | four | five |",
     "    return one + two + three + four", "\tint one, two, three, four, five;"],
)  # fmt: skip
def test_what_is_short_or_code_or_a_table_stays(run: Runner, line: str) -> None:
    assert not any(row["lines_removed"] for row in run([f"{text}\n{line}" for text in ENGLISH]))


def test_fenced_code_stays(run: Runner) -> None:
    code = "```python\nimport one, two, three, four, five\n\nfor each in one: print(two, three)\n```"
    rows = run([f"{text}\n{code}\n{MENU}" for text in ENGLISH])
    assert all(code in row["text"] for row in rows)
    assert sum(MENU in row["text"] for row in rows) == 1


def test_an_underline_leaves_with_its_heading_and_blank_lines_close_up(run: Runner) -> None:
    texts = [f"{text}\n\n{MENU}\n======\n\n{text[::-1]}\n---\n" for text in ENGLISH]
    rows = [row for row in run(texts) if row["lines_removed"]]
    assert len(rows) == 24
    assert {row["text"] for row in rows} <= {f"{text}\n\n{text[::-1]}\n---\n" for text in ENGLISH}


def test_a_line_twice_in_a_document_counts_once(run: Runner) -> None:
    assert not any(
        row["lines_removed"] for row in run([f"{MENU}\n" * 5 + text for text in ENGLISH[:4]], max_documents=4)
    )
    rows = run([f"{MENU}\n" * 5 + text for text in ENGLISH[:5]], max_documents=4)
    assert sorted(row["lines_removed"] for row in rows) == [0, 5, 5, 5, 5]


def test_paragraphs(run: Runner) -> None:
    both = "Terms of use\nof this site\n\n"
    texts = [f"{both}{text}" if number % 2 else f"Terms of use\n\n{text}" for number, text in enumerate(ENGLISH)]
    rows = run(texts, paragraphs=True, max_documents=5)
    assert sum(row["lines_removed"] for row in rows) == 11
    assert not any(row["lines_removed"] for row in run(texts, max_documents=5)), "its lines alone are too short"


def test_no_parts_no_rows_no_text(run: Runner, tmp_path: Path) -> None:
    assert Lines().resolve([], LocalSteps(tmp_path)) == []
    assert run([]) == []
    assert run.summary["most_frequent"] == []
    rows = run(["", None, "\n\n", "..."], cuts=(0, 1, 1))
    assert [row["text"] for row in rows] == ["", None, "\n\n", "..."]
    assert not any(row["drop"] for row in rows)


def test_more_copies_than_documents_may_have_are_refused() -> None:
    with pytest.raises(ValidationError, match="more than max_documents"):
        Lines(keep=21)


# Through the machine


def test_the_machine_changes_the_text_of_those_that_stay(tmp_path: Path) -> None:
    """Whatever row groups the files have; a document that is dropped is rejected with its own text."""
    docs = pa.table({"id": names(10), "text": [f"old {number}" for number in range(10)]})
    reasons = pa.array(["gone" if number % 4 == 0 else None for number in range(10)])
    texts = pa.array([None if number % 3 == 0 else f"new {number}" for number in range(10)])
    drop = {"drop": reasons, "drop_value": pa.nulls(10, pa.float64()), "drop_limit": pa.nulls(10, pa.float64())}
    verdicts = pa.table({"lines_removed": np.ones(10, np.int32), **drop, "text": texts})
    pq.write_table(docs, tmp_path / "docs.parquet", row_group_size=4)
    pq.write_table(verdicts, tmp_path / "verdicts.parquet", row_group_size=3)
    paths = tmp_path / "docs.parquet", tmp_path / "verdicts.parquet"
    columns = {"id": pa.string(), "text": pa.string(), **Lines.adds}
    run_verdicts(VerdictTask(0, "key", NamedStep("lines", Lines()), *paths, columns, tmp_path / "group"))
    kept = pq.read_table(tmp_path / "group/part-00000.parquet")["text"].to_pylist()
    assert kept == ["new 1", "new 2", "old 3", "new 5", "old 6", "new 7", "old 9"]
    rejected = pq.read_table(tmp_path / "group/rejected/part-00000.lines.parquet")
    assert rejected["text"].to_pylist() == ["old 0", "old 4", "old 8"]


MORTAL = '''
"""Lines, in a process that is killed before the verdicts if there is a file `die`."""
import os
from pathlib import Path

from stages import lines


class Mortal(lines.Lines):
    """Dies once."""

    def resolve(self, parts, steps):
        def mortal(name, fn, tasks):
            if name == "verdicts" and Path("die").exists():
                Path("die").unlink()
                os.kill(os.getpid(), 9)
            return steps(name, fn, tasks)

        return super().resolve(parts, mortal)
'''


def test_through_the_pipeline_killed_and_resumed(workshop: Workshop) -> None:
    """The corpus has the shortened texts, the rejects the whole ones; a kill changes no byte."""
    workshop.stage("mortal", MORTAL)
    for number in range(3):
        texts = [f"{MENU}\n{text}" for text in ENGLISH[number::3]] + [f"{MENU}\nme"] * (number == 1)
        workshop.write(f"in/{number}.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts))
    workshop.write("c.yaml", "name: t\nworkers: 0\nstages:\n  - collect: {paths: ['in/*.jsonl']}\n  - mortal: {}\n")
    workshop.write("die", "")
    workshop.run("run", "c.yaml", code=-9)
    said = workshop.run("run", "c.yaml")
    assert "repeated_lines 1" in said
    workshop.run("run", "c.yaml", "--out", "runs/whole")
    assert workshop.checksums("runs/t") == workshop.checksums("runs/whole")
    home = workshop.folder_of("runs/t", "mortal")
    docs = pa.concat_tables(pq.read_table(path) for path in sorted(home.glob("part-*.parquet")))
    texts = sorted(zip(docs["lines_removed"].to_pylist(), docs["text"].to_pylist(), strict=True))
    assert {number for number, _ in texts} == {0, 1}
    read = ["\n".join(line if line.strip() else "" for line in text.split("\n")) for text in ENGLISH]  # as collect does
    assert sorted(text.removeprefix(f"{MENU}\n") for _, text in texts) == sorted(read)
    assert all(text.startswith(MENU) == (number == 0) for number, text in texts)
    rejects = pa.concat_tables(map(pq.read_table, (home / "rejected").glob("*.parquet")))
    assert rejects["text"].to_pylist() == [f"{MENU}\nme"]
