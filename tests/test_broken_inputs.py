"""Broken inputs through the whole pipeline: a clear line or a counted reason, nothing else lost, the exit code."""

import gzip
import json
import os
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, Workshop

CONFIG = """
name: t
workers: 0
stages:
  - collect: {paths: [in]}
  - extract
  - tokens: {train: {vocab_size: 300}}
  - shards: {val_fraction: 0}
"""
GOOD = [{"text": f"a good document, number {i}", "url": f"http://a.example/{i}"} for i in range(20)]


@pytest.fixture
def shop(workshop: Workshop) -> Workshop:
    workshop.write("c.yaml", CONFIG)
    workshop.write("in/good.jsonl", "".join(json.dumps(record) + "\n" for record in GOOD))
    return workshop


def put(shop: Workshop, name: str, data: bytes) -> Path:
    path = shop.write(f"in/{name}", "")
    path.write_bytes(data)
    return path


def reasons(shop: Workshop) -> dict[str, int]:
    """What the ledger says was lost, once the good documents are seen to be there and all is verified."""
    rows = pa.concat_tables([pq.read_table(path) for path in (shop.folder / "runs/t/ledger").glob("*.parquet")])
    kept = [row["url"] for row in rows.to_pylist() if row["stage"] is None]
    assert {record["url"] for record in GOOD} <= set(kept)
    shop.run("verify", "t")
    counts: dict[str, int] = {}
    for row in rows.to_pylist():
        if row["stage"] is not None:
            counts[row["reason"]] = counts.get(row["reason"], 0) + 1
    return counts


def test_a_zero_byte_file_and_garbage(shop: Workshop) -> None:
    put(shop, "nothing.jsonl", b"")
    put(shop, "garbage.bin", random.Random(1).randbytes(100_000))
    put(shop, "garbage.gz", b"\x1f\x8b\x08\x00" + random.Random(2).randbytes(10_000))
    shop.run("run", "c.yaml")
    assert set(reasons(shop)) <= {"empty_file", "unknown_format", "corrupt", "truncated", "undecodable"}
    assert sum(reasons(shop).values()) >= 3


@pytest.mark.parametrize("share", [0.3, 0.77, 0.999])
def test_a_truncated_crawl_keeps_what_can_be_read(shop: Workshop, share: float) -> None:
    whole = (ROOT / "data_samples/sample.warc.gz").read_bytes()
    put(shop, "cut.warc.gz", whole[: int(len(whole) * share)])
    said = shop.run("run", "c.yaml")
    assert reasons(shop)["truncated"] == 1
    read = json.loads((shop.folder / "runs/t/report.json").read_text())["documents_in"] - len(GOOD) - 1
    assert read >= int(187 * share) - 20
    assert "truncated 1" in said


def test_a_truncated_jsonl_keeps_its_lines(shop: Workshop) -> None:
    random_ = random.Random(3)
    texts = ["".join(random_.choices("abcdefghij klmnop", k=400)) for _ in range(300)]
    data = gzip.compress("".join(json.dumps({"text": text}) + "\n" for text in texts).encode())
    put(shop, "cut.jsonl.gz", data[: len(data) // 2])
    shop.run("run", "c.yaml")
    assert reasons(shop) == {"truncated": 1}
    assert json.loads((shop.folder / "runs/t/report.json").read_text())["documents_out"] > 120


def test_bad_lines_cost_themselves_and_are_told_by_number(shop: Workshop) -> None:
    lines = [json.dumps(record).encode() for record in GOOD]
    bad = [b'{"text": "cut off', b'["no object"]', b'{"body": "no text"}', b'{"text": 7}', b'{"text": "  "}',
           '{"text": "中文网页，没有声明编码，也不是统一码。还有文字用来判断编码。"}'.encode("gb18030")]  # fmt: skip
    put(shop, "good.jsonl", b"\n".join([*lines, *bad]) + b"\n")
    shop.run("run", "c.yaml")
    assert reasons(shop) == {"bad_json": 2, "missing_field": 1, "wrong_type": 1, "empty": 1}
    assert "中文网页" in shop.run("show", "t", "--stage", "extract", "-n", "100")
    said = shop.run("show", "t", "--rejected", "bad_json")
    assert f"drop_value={len(GOOD) + 1}" in said
    assert f"drop_value={len(GOOD) + 2}" in said


def test_a_line_of_300_mb_is_counted_and_not_held_in_memory(shop: Workshop) -> None:
    with put(shop, "long.jsonl", b"").open("wb") as handle:
        handle.write(b'{"text": "')
        for _ in range(300):
            handle.write(b"x" * 1_000_000)
        handle.write(b'"}\n{"text": "the line after it", "url": "http://c.example/"}\n')
    shop.run("run", "c.yaml")
    assert json.loads((shop.folder / "runs/t/report.json").read_text())["peak_rss_mb"] < 600
    assert reasons(shop) == {"too_large": 1}
    assert "http://c.example/" in shop.run("explain", "t", "http://c.example/")


def test_a_table_without_the_text_column_costs_itself(shop: Workshop) -> None:
    pq.write_table(pa.table({"body": ["a", "b"], "n": [1, 2]}), shop.folder / "in/other.parquet")
    shop.run("run", "c.yaml")
    assert reasons(shop) == {"no_text_field": 1}
    (shop.folder / "in/good.jsonl").unlink()
    said = shop.run("run", "c.yaml", code=2)
    assert "other.parquet: no column 'text'; its columns are 'body', 'n'" in said


def test_a_name_that_is_not_utf8_is_read_and_resumed(shop: Workshop) -> None:
    name = os.path.join(os.fsencode(shop.folder), b"in", "文件.jsonl".encode("gbk"))
    with open(name, "wb") as handle:
        handle.write(b'{"text": "in a file with a GBK name", "url": "http://gbk.example/"}\n')
    shop.run("plan", "c.yaml")
    shop.run("run", "c.yaml")
    assert reasons(shop) == {}
    assert "in/%CE%C4%BC%FE.jsonl" in shop.run("explain", "t", "http://gbk.example/")
    for path in (shop.folder / "runs/t").rglob("*.json"):
        json.loads(path.read_text(encoding="utf-8"))
    assert "0 tasks run" in shop.run("run", "c.yaml")
    shop.run("status", "t")


def test_what_is_no_file_costs_only_itself_until_it_can_be_read(shop: Workshop) -> None:
    (shop.folder / "in/link.jsonl").symlink_to("gone.jsonl")
    (shop.folder / "in/circle.txt").symlink_to("circle.txt")
    os.mkfifo(shop.folder / "in/pipe.txt")
    shop.run("run", "c.yaml")
    assert reasons(shop) == {"unreadable_file": 2, "not_a_file": 1}
    assert "0 tasks run" in shop.run("run", "c.yaml")
    put(shop, "gone.jsonl", b'{"text": "there at last"}\n')
    (shop.folder / "in/circle.txt").unlink()
    shop.run("run", "c.yaml")
    assert reasons(shop) == {"not_a_file": 1}


def test_a_partition_without_a_record_is_none_the_worse(shop: Workshop) -> None:
    shop.run("run", "c.yaml", "--out", "runs/first")
    tokenizer = next((shop.folder / "runs/first").glob("*-shards-*/tokenizer.json"))
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), shop.folder / "in/nothing.parquet")
    shop.write("c.yaml", CONFIG.replace("{paths: [in]}", "{paths: [in], split_bytes: 1024}").replace(
        "  - extract\n", "").replace("train: {vocab_size: 300}", f"tokenizer: {tokenizer}"))  # fmt: skip
    shop.run("run", "c.yaml")
    assert reasons(shop) == {"no_records": 1}


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read every file")
def test_an_unreadable_file_costs_itself_and_is_read_once_it_can_be(shop: Workshop) -> None:
    secret = put(shop, "secret.txt", b"a secret")
    secret.chmod(0)
    shop.run("run", "c.yaml")
    assert reasons(shop) == {"unreadable_file": 1}
    assert "0 tasks run" in shop.run("run", "c.yaml")
    secret.chmod(0o600)
    shop.run("run", "c.yaml")
    assert reasons(shop) == {}


def test_what_is_no_file_is_said_at_plan_time(shop: Workshop) -> None:
    os.mkfifo(shop.folder / "in/pipe.txt")
    shop.write("c.yaml", CONFIG.replace("{paths: [in]}", "{paths: [in/pipe.txt]}"))
    assert "is neither a file nor a folder" in shop.run("run", "c.yaml", code=2)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (CONFIG.replace("paths: [in]", "paths: [inn/*.jsonl]"), "stages[0].collect: no file matches inn/*.jsonl"),
        (CONFIG.replace("paths", "path"), "c.yaml:5: stages[0].collect.path: unknown key"),
        (CONFIG.replace("shards", "shard"), "there is no stage 'shard'; did you mean 'shards'?"),
        ("\x00\x01", "c.yaml: not YAML"),
        ("", "expected a mapping"),
        ("- a\n- b", "expected a mapping"),
        (CONFIG.replace("300", "lots"), "stages[2].tokens.train.vocab_size: should be a valid integer"),
    ],
)
def test_a_wrong_configuration_is_exit_2_and_nothing_is_made(shop: Workshop, config: str, said: str) -> None:
    shop.write("c.yaml", config)
    assert said in shop.run("run", "c.yaml", code=2)
    assert not (shop.folder / "runs").exists()
