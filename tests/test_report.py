"""The page of a run and the differences that `explain` shows: complete, escaped, bounded, in any script."""

import html.parser
import json
import random
import re
import time
from pathlib import Path

import pytest
from conftest import Workshop
from hypothesis import given
from hypothesis import strategies as st

from pipeline import console, difference, page

EVIL = "</style><script>alert('x')</script>"

SUMMARY = {
    "documents": 75, "exact": 16, "left_out": {"pairs": 12, "groups": 0}, "cluster_sizes": {"2-3": 13, "4-7": 2},
    "match_probability": {"0.40": 0.02, "0.80": 0.977, "1.00": 1.0},
    "removed": {"source": [{"name": EVIL, "in": 4, "out": 1}],
                "domain": [{"name": f"host{i}.example", "in": 10, "out": 9} for i in range(40)]},
    "alarms": [{"kind": "source", "name": EVIL, "in": 4, "out": 1, "share": 0.75}],
    "largest_clusters": [{"id": "f" * 32, "dup_count": 5, "text": f"人人生而自由 {EVIL}", "members": ["a" * 32]}],
    "probe": {"planted": 500, "bins": [
        {"from": 0.8, "to": 0.85, "pairs": 100, "found": 97, "recall": 0.97, "low": 0.915, "high": 0.994},
        {"from": 0.85, "to": 0.9, "pairs": 0, "found": 0, "recall": None, "low": None, "high": None}]},
    "index": {"batches": 2, "documents": 52, "generation": 2},
}  # fmt: skip


class Reader(html.parser.HTMLParser):
    """Tags must close in order; scripts, links elsewhere and handlers are not there."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: list) -> None:
        assert tag not in ("script", "link", "img", "iframe")
        assert not [name for name, value in attributes if name.startswith("on") or (str(value).startswith("http")
                    and name != "xmlns")]  # fmt: skip
        if tag not in ("meta", "path", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("path", "polyline"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    reader = Reader()
    reader.feed(text)
    assert not reader.open
    return re.sub(r"\s+", " ", reader.text)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    shop = Workshop(tmp_path_factory.mktemp("report"))
    shop.run("run")
    return shop


def test_a_run_leaves_its_page_and_report_writes_it_anew(shop: Workshop) -> None:
    written = shop.folder / "runs/tiny/report.html"
    text = read(written)
    before = written.read_bytes()
    written.unlink()
    assert shop.run("report", "tiny") == "runs/tiny/report.html\n"
    assert written.read_bytes() == before
    report = json.loads((shop.folder / "runs/tiny/report.json").read_text())
    assert re.search(r"Done: 272 documents in, 58 out, 73,\d+ tokens", text)
    for stage in report["funnel"]:
        assert f"{stage['stage']} {stage['in']:,} in, {stage['out']:,} out" in text
        for reason, count in stage["reasons"].items():
            assert f"{reason} {count:,} at {stage['stage']}" in text
    for title in ("What each stage let through", "Dropped, with samples", "Kept, some samples", "Languages", "Sources",
                  "dedup: what it found", "Chance that a pair is compared", "Sizes of clusters"):  # fmt: skip
        assert title in text
    assert text.index("Dropped, with samples") < text.index("Kept, some samples") < text.index("Sources")
    assert "http://noise.example/missing.html" in text
    assert "404, limit 200" in text
    assert "data_samples/sample.warc.gz" in text
    assert re.search("[\u4e00-\u9fff]{20}", text)
    assert "no report yet" not in shop.run("report", "runs/tiny")


def test_everything_a_barrier_may_tell_is_shown_and_escaped(shop: Workshop) -> None:
    path = shop.folder / "runs/tiny/report.json"
    good = path.read_text(encoding="utf-8")
    report = json.loads(good)
    report["barriers"]["dedup"] = SUMMARY
    report["alarms"] = [{"stage": "dedup", **alarm} for alarm in [*SUMMARY["alarms"], {"said": "nothing was <cut>"}]]
    report["failed"] = [{"what": "x", "message": EVIL, "details": ""}]
    path.write_text(json.dumps(report), encoding="utf-8")
    text = read(page.write(shop.folder / "runs/tiny")[0])
    path.write_text(good, encoding="utf-8")
    assert "Failed" in text
    assert f"Alarm. source {EVIL} lost 75% of its documents at dedup (4 in, 1 out)." in text
    assert "Alarm. dedup: nothing was <cut>." in text
    assert "Recall of 500 planted near-duplicates" in text
    assert "0.970" in text
    assert "0.915 to 0.994" in text
    assert "Left out by a limit: pairs 12." in text
    assert "Index: batches 2, documents 52, generation 2" in text
    assert "and 25 more" in text
    assert "5 left for it, among them " + "a" * 32 in text


def test_alarms_are_loud(workshop: Workshop) -> None:
    workshop.stage("loud", '''
        """Keeps everything and raises an alarm."""
        import pyarrow as pa

        from pipeline.schema import DROP
        from pipeline.stage import Barrier
        from pipeline.storage import write_json, write_table


        class Loud(Barrier):
            def sketch(self, docs):
                return docs.select(["id"])

            def resolve(self, parts, steps):
                folder = parts[0].docs.parent.parent / "verdicts"
                files = [folder / f"verdicts-{i}.parquet" for i in range(len(parts))]
                for part, file in zip(parts, files):
                    write_table(file, pa.table({name: pa.nulls(part.rows, kind) for name, kind in DROP.items()}))
                alarm = {"kind": "domain", "name": "shop.example", "in": 10, "out": 1, "share": 0.9}
                write_json(folder / "summary.json", {"alarms": [alarm]})
                return files
    ''')  # fmt: skip
    workshop.write("in/a.txt", "a document\n")
    workshop.write("c.yaml", "name: t\nworkers: 0\nstages: [rows, loud]\n")
    said = workshop.run("run", "c.yaml")
    assert "ALARM  loud: domain shop.example lost 90% of its documents (10 in, 1 out)" in said
    assert json.loads((workshop.folder / "runs/t/report.json").read_text())["alarms"][0]["name"] == "shop.example"
    assert "ALARM" in workshop.run("run", "c.yaml")  # told again, though there was nothing to do


def told(kept: str, dropped: str) -> list[str]:
    signs = {"": "{}", "-": "[-{}-]", "+": "{{+{}+}}"}
    return ["".join(signs[sign].format(text) for sign, text in place) for place in difference.places(kept, dropped)]


def test_words_differ_as_words_and_han_as_characters() -> None:
    assert told("The quick brown fox jumps.", "The quick red fox jumps.") == ["The quick [-brown-]{+red+} fox jumps."]
    assert told("人人生而自由，在尊严上平等。", "人人生而自由，在權利上平等。") == [
        "人人生而自由，在[-尊严-]{+權利+}上平等。"
    ]
    assert told("same", "same") == ["(the texts are equal)"]
    assert told("one two", "one") == ["one[- two-]"]
    assert told("", "new") == ["{+new+}"]


def test_only_what_changed_is_shown_with_something_around_it() -> None:
    words = [f"word{i}" for i in range(1000)]
    other = [*words]
    other[300], other[700] = "CHANGED", "TWICE"
    lines = told(" ".join(words), " ".join(other))
    assert len(lines) == 2
    assert "word299 [-word300-]{+CHANGED+} word301" in lines[0]
    assert "word699 [-word700-]{+TWICE+} word701" in lines[1]
    assert all(len(line) < 150 for line in lines)


def test_long_texts_take_no_long_time_and_no_long_page() -> None:
    rng = random.Random(1)
    words = [rng.choice("abcdefghij") * rng.randint(1, 9) for _ in range(200_000)]
    other = [word if rng.random() < 0.9 else "x" for word in words]
    begun = time.process_time()
    lines = told(" ".join(words), " ".join(other))
    assert time.process_time() - begun < 20
    assert len(lines) == difference.PLACES + 2
    assert "more places" in lines[-2]
    assert sum(map(len, lines)) < 40_000
    begun = time.process_time()
    assert len(told("a" * 1_000_000, "b" * 1_000_000)) < 10
    assert time.process_time() - begun < 5


@given(st.text(max_size=60), st.text(max_size=60))
def test_the_changes_turn_one_text_into_the_other(kept: str, dropped: str) -> None:
    changes = list(difference._changes(*(difference._WORD.findall(text) for text in (kept, dropped))))
    assert "".join(text for sign, text in changes if sign != "+") == kept
    assert "".join(text for sign, text in changes if sign != "-") == dropped
    joined = list(difference._joined(changes))
    assert "".join(text for sign, text in joined if sign != "+") == kept
    assert "".join(text for sign, text in joined if sign != "-") == dropped


def test_real_near_duplicates_are_told_apart(shop: Workshop) -> None:
    said = shop.run("explain", "tiny", "http://instguide.example/amd64/en/ch02s01.html")
    assert "is a duplicate of" in said or "stands for" in said


def test_many_alarms_are_counted_and_the_worst_are_said(capsys) -> None:
    found = [
        {"stage": "dedup", "kind": "domain", "name": f"d{i}", "share": 0.9, "in": 100, "out": 10} for i in range(8)
    ]
    console.alarms(found)
    said = capsys.readouterr().err
    assert said.count("lost 90% of its documents") == 5
    assert "and 3 more, in report.html" in said
    shown = "".join(page._alarms(found))
    assert shown.count("<b>Alarm.</b>") == 8
    assert "<summary><b>3 more alarms</b></summary>" in shown
