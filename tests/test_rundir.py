"""What a run directory promises: damage is named and mended, reading is never stale, nothing important is silent."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT, UNTIMED
from hypothesis import given
from hypothesis import strategies as st

from pipeline import alarms, console, open_run, storage
from pipeline import config as configs
from pipeline import plan as plans
from pipeline import run as runs
from pipeline.__main__ import main
from pipeline.engine import Inline
from pipeline.reading import NotARun
from pipeline.rundir import Receipt, RunDir, valid, write_receipt
from pipeline.stage import StageCount

CONFIG = """
name: t
workers: 0
stages:
  - collect: {paths: in, split_bytes: 1500, id_field: id}
  - lines: {max_documents: 50}
  - tokens: {train: {vocab_size: 300}}
  - shards
"""


class Shop:
    """A folder with a run in `runs/t`; commands are called in this process."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys
        self.home = folder / "runs/t"

    def call(self, *arguments: str, code: int | None = 0) -> str:
        """What a command prints; its exit code must be `code`, if one is given."""
        self._capsys.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["pipeline", *arguments])
            with pytest.raises(SystemExit) as end:
                main()
        out, err = self._capsys.readouterr()
        assert code is None or (end.value.code or 0) == code, out + err
        return out + err

    def again(self, *more: str, code: int = 0) -> str:
        return self.call("run", "c.yaml", *more, code=code)

    def checksums(self) -> dict[str, str]:
        files = (path for pattern in UNTIMED for path in self.home.rglob(pattern))
        return {str(path.relative_to(self.home)): storage.sha256(path) for path in files}


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 90 documents and 3 blank ones in three partitions; tests work on copies of it."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "c.yaml").write_text(CONFIG)
    (folder / "in").mkdir()
    for i in range(3):
        texts = [f"document {j} of file {i}, as good as any other" for j in range(30)]
        rows = [{"id": f"{i}-{j}", "text": text} for j, text in enumerate([*texts, " "])]
        (folder / f"in/{i}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        plan = plans.make(configs.load(Path("c.yaml")))
        runs.run(plan, folder / "runs/t", Inline(), console.Lines())
    return folder


@pytest.fixture
def shop(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shop:
    shutil.copytree(finished, tmp_path / "shop", symlinks=True)
    monkeypatch.chdir(tmp_path / "shop")
    return Shop(tmp_path / "shop", capsys)


# --- records ----------------------------------------------------------------------------------------------------------


def receipt_at(folder: Path, content: bytes = b"data") -> Path:
    (folder / "part-00000.parquet").write_bytes(content)
    counts = (StageCount("a", 3, 2, {"short": 1}, {"seen": 3}, 0.5),)
    path = folder / "part-00000.json"
    write_receipt(path, [folder / "part-00000.parquet"], folder, key="k", counts=counts, rows=2)
    return path


def test_a_receipt_reads_back_as_it_was_written(tmp_path: Path) -> None:
    path = receipt_at(tmp_path)
    receipt = Receipt.load(path)
    assert receipt == valid(path, "k")
    assert receipt
    assert receipt.counts == (StageCount("a", 3, 2, {"short": 1}, {"seen": 3}, 0.5),)
    assert valid(path, "other") is None
    (tmp_path / "part-00000.parquet").write_bytes(b"longer data")
    assert valid(path, "k") is None


@given(cut=st.integers(0, 400), junk=st.sampled_from([b"", b"[]", b"null", b"\xff\xfe", b'{"key": 1}', b"0"]))
def test_a_damaged_receipt_is_absent_for_a_run_and_named_for_a_person(
    tmp_path_factory: pytest.TempPathFactory, cut: int, junk: bytes
) -> None:
    path = receipt_at(tmp_path_factory.mktemp("r"))
    whole = path.read_bytes()
    path.write_bytes(junk or whole[: min(cut, len(whole) - 3)])
    assert valid(path, "k") is None
    with pytest.raises(storage.Damaged, match=r"part-00000\.json"):
        Receipt.load(path)


RECORDS = [
    "plan.json",
    "report.json",
    "*-shards-*/sink.json",
    "*-shards-*/manifest.json",
    "*-shards-*/gather/_receipts/*.json",
    "*-lines-*/part-00001.json",
    "*-lines-*/map/part-00000.json",
    "*-lines-*/verdicts/summary.json",
    "*/fit/_receipts/tokens.json",
    "ledger/_receipts/part-00000.json",
]


@pytest.mark.parametrize("name", RECORDS)
def test_a_damaged_record_is_named_and_the_run_makes_it_again(shop: Shop, name: str) -> None:
    before = shop.checksums()
    path = next(shop.home.glob(name))
    path.write_bytes(path.read_bytes()[:20])
    shop.call("status", "t", code=None)
    assert path.name in shop.call("verify", "t", code=1)
    assert path.name in shop.call("verify", "t", code=1), "until it is made again"
    shop.again()
    shop.call("verify", "t")
    assert shop.checksums() == before


FILES = [
    "*-shards-*/part-*.bin",
    "*-shards-*/docs.parquet",
    "*-lines-*/part-*.parquet",
    "*-lines-*/map/part-*.parquet",
    "*-lines-*/rejected/part-*.parquet",
    "ledger/part-*.parquet",
]


@pytest.mark.parametrize("pattern", FILES)
def test_a_flipped_byte_is_named_by_verify_and_mended_by_the_run(shop: Shop, pattern: str) -> None:
    before = shop.checksums()
    path = sorted(shop.home.glob(pattern))[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert path.name in shop.call("verify", "t", code=1)
    assert path.name in shop.call("verify", "t", code=1), "until it is made again"
    shop.again()
    shop.call("verify", "t")
    assert shop.checksums() == before


@pytest.mark.parametrize("content", [b"null", None], ids=["null", "gone"])
def test_a_partition_of_a_corpus_without_a_receipt_is_made_again(shop: Shop, content: bytes | None) -> None:
    before = shop.checksums()
    path = next(shop.home.glob("*-shards-*/scatter/part-*.json"))
    path.unlink() if content is None else path.write_bytes(content)
    shop.again()
    shop.call("verify", "t")
    assert shop.checksums() == before


def test_a_damaged_file_that_is_put_back_is_not_made_again(shop: Shop) -> None:
    shop.again()  # the copied input has other times
    path = sorted(shop.home.glob("*-shards-*/part-*.bin"))[0]
    good = path.read_bytes()
    path.write_bytes(good[:-1] + b"\xff")
    shop.call("verify", "t", code=1)
    path.write_bytes(good)
    shop.call("verify", "t")
    assert "nothing to do" in shop.again()


# --- reading ----------------------------------------------------------------------------------------------------------


def test_reading_gives_the_present_configuration_and_clean_removes_the_others(shop: Shop) -> None:
    shop.again("--set", "lines.max_documents=40")
    assert len(list(shop.home.glob("*-lines-*"))) == 2
    texts = pd.read_parquet(shop.home / "current/documents")
    assert len(texts) == 90
    assert texts["id"].is_unique
    assert len(pd.read_parquet(shop.home / "current/rejected")) == 3
    assert len(pd.read_parquet(shop.home / "current/ledger")) == 93
    assert len(pd.read_parquet(shop.home / "current/corpus/docs.parquet")) == 90
    shop.call("clean", "t", "--yes")
    assert len(list(shop.home.glob("*-lines-*"))) == 1
    assert "every group belongs" in shop.call("clean", "t")
    shop.call("verify", "t")


def test_open_run_reads_documents_rejects_ledger_and_corpus(shop: Shop) -> None:
    run = open_run("t")
    assert run.documents().count_rows() == 90
    assert run.rejects(stage="collect", reason="empty").count_rows() == 3
    assert run.rejects(reason="another").count_rows() == 0
    assert run.ledger().count_rows() == 93
    assert len(run.corpus()) == 90
    with pytest.raises(NotARun, match="no stage 'row'"):
        run.documents(stage="row")
    with pytest.raises(NotARun, match="no run directory"):
        open_run("nowhere")
    RunDir(shop.home).report.unlink()
    with pytest.raises(NotARun, match="not come to an end"):
        open_run("t")


def test_the_links_of_current_are_relative_so_that_a_run_can_be_moved(shop: Shop) -> None:
    shutil.move(shop.home, shop.folder / "elsewhere")
    assert len(pd.read_parquet(shop.folder / "elsewhere/current/documents")) == 90


# --- alarms -----------------------------------------------------------------------------------------------------------


def row(stage: str, rows_in: int, rows_out: int, **reasons: int) -> dict[str, object]:
    return {"stage": stage, "in": rows_in, "out": rows_out, "reasons": reasons}


def steps(*names: str) -> list[configs.NamedStep]:
    return [configs.NamedStep(name, configs.step_class(name).model_construct()) for name in names]  # type: ignore[arg-type]


def told(funnel: list[dict[str, object]], limit: float | None = None) -> str:
    named = steps(*(str(entry["stage"]) for entry in funnel))
    return " | ".join(f"{alarm['stage']}: {alarm['said']}" for alarm in alarms.of_funnel(funnel, named, limit))


def test_a_stage_that_drops_nearly_all_for_one_reason_is_an_alarm() -> None:
    assert told([row("collect", 100, 5, bad_json=95)]).startswith("collect: 95 of 100 documents (95.0%)")
    assert told([row("collect", 100, 10, bad_json=90)]) == ""
    assert told([row("collect", 100, 10, bad_json=50, empty=40)]) == ""
    assert told([row("collect", 100, 10, bad_json=90)], limit=0.8)
    assert told([row("collect", 19, 1, bad_json=18)]) == "", "a share of few documents says nothing"


def test_a_stage_whose_purpose_is_to_drop_raises_no_alarm() -> None:
    assert told([row("collect", 100, 100), row("keep", 100, 1, below_rate=99)]) == ""
    assert told([row("collect", 100, 100), row("keep", 100, 1, below_rate=99)], limit=0.5) == ""


def test_nothing_read_and_nothing_left_are_alarms() -> None:
    assert "nothing was read" in told([row("collect", 0, 0)])
    assert "no document is left of 3" in told([row("collect", 3, 3), row("extract", 3, 0, empty=3)])
    assert "dropped as empty" in told([row("collect", 3, 3), row("extract", 3, 0, empty=3), row("pii", 0, 0)])


def test_an_increment_with_far_fewer_documents_than_usual_is_an_alarm() -> None:
    def report(rows_in: int, rows_out: int) -> dict[str, object]:
        return {"documents_in": rows_in, "documents_out": rows_out, "funnel": [row("collect", 1, 1), row("pii", 1, 1)]}

    before = [report(1000, 900), report(1200, 1000), report(900, 800)]
    assert [alarm["stage"] for alarm in alarms.of_history(report(99, 85), before)] == ["collect", "pii"]
    assert alarms.of_history(report(100, 90), before) == []
    assert alarms.of_history(report(5, 5), []) == []


def test_files_that_gave_no_document_are_named_and_strict_makes_it_an_error(shop: Shop) -> None:
    for name in ("1.jsonl", "3.jsonl"):
        (shop.folder / "in" / name).write_text('{"text": ""}\n')
    said = shop.again()
    assert "ALARM" in said
    assert "2 input files gave no document: in/1.jsonl (empty), in/3.jsonl (empty)" in said
    assert "--strict" in shop.again("--strict", code=1)
    assert json.loads(shop.call("status", "t", "--json"))["report"]["alarms"]


def test_a_log_of_json_has_a_line_for_each_event(shop: Shop) -> None:
    events = [json.loads(line) for line in shop.again("--log-format", "json").splitlines()]
    assert {"progress", "end"} <= {one["event"] for one in events}
    assert all(one["time"].endswith("Z") for one in events)
    assert events[-1]["report"]["state"] == "done"


# --- small ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_url_is_no_folder(shop: Shop, command: str) -> None:
    said = shop.call(command, "c.yaml", "--out", "s3://bucket/run", code=2)
    assert "s3:// is not supported" in said
    assert not (shop.folder / "s3:").exists()


@given(st.text())
def test_no_character_steers_a_terminal(text: str) -> None:
    shown = console.visible(text)
    assert not {code for code in map(ord, shown) if (code < 32 and code not in (9, 10)) or 127 <= code < 160}
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    assert console.visible(shown) == shown


def test_a_cache_that_cannot_be_written_is_said_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    environment = {**os.environ, "GRISTMILL_CACHE": str(tmp_path / "file/cache")}
    environment.pop("NUMBA_CACHE_DIR", None)
    command = [sys.executable, "-m", "pipeline", "warmup"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "set GRISTMILL_CACHE to a writable folder" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_escape_sequences_of_a_document_are_shown_and_not_sent(shop: Shop) -> None:
    row = {"id": "x", "text": "a \x1b[31mred\x1b]0;title\x07 word in a text, and more of it for the tokenizer"}
    (shop.folder / "in/9.jsonl").write_text(json.dumps(row) + "\n")
    shop.again()
    for arguments in (("show", "t", "-n", "99"), ("explain", "t", "x")):
        said = shop.call(*arguments)
        assert r"\x1b[31mred\x1b]0;title\x07" in said
        assert "\x1b" not in said


BOMBS = {
    "aliases": "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)),
    "brackets": "stages: " + "[" * 3000,
    "dashes": "stages:\n" + "".join(" " * i + "-\n" for i in range(1, 600)),
    "many values": "stages: [" + "a," * 440_000 + "]",
    "size": "name: " + "x" * 2_000_000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_configuration_that_would_keep_the_parser_busy_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "c.yaml").write_text(BOMBS[name])
    with pytest.raises(configs.ConfigError, match=r"c\.yaml: .*(values|nested|larger)"):
        configs.load(tmp_path / "c.yaml")
