"""The shipped sample through the shipped configuration: every record of the crawl has the fate it should have."""

import csv
import json
import re
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, Workshop, kill_all

from pipeline import corpus

ALL = """
name: all
workers: 0
stages:
  - collect: {paths: [data_samples/sample.warc.gz, data_samples/sample_text.jsonl.gz], id_field: id}
  - extract
  - language: {min_score: 0}
  - dedup
  - tokens: {train: {vocab_size: 1000}}
  - shards
"""
"""No language and no quality rule stands in the way here: for the fates that `tiny.yaml` would hide."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    shop = Workshop(tmp_path_factory.mktemp("sample"))
    shop.said = shop.run("run")
    shop.write("all.yaml", ALL)
    shop.run("run", "all.yaml")
    return shop


def ledger(shop: Workshop, run: str) -> pd.DataFrame:
    return pd.read_parquet(shop.folder / f"runs/{run}/ledger")


def documents(shop: Workshop, run: str) -> pd.DataFrame:
    """Survivors and rejects of the first group: every document with its text and figures."""
    home = shop.folder_of(f"runs/{run}", "dedup")
    paths = [*sorted(home.glob("part-*.parquet")), *sorted(home.glob("rejected/*.parquet"))]
    return pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)


def fates(shop: Workshop, run: str, url: str) -> list[tuple]:
    rows = ledger(shop, run)
    rows = rows[rows.url == url]
    return [(r.stage, r.reason) if isinstance(r.stage, str) else ("kept", None) for r in rows.itertuples()]


@pytest.mark.parametrize(
    ("page", "fate"),
    [
        ("missing.html", ("collect", "http_status")),
        ("redirect.html", ("collect", "http_status")),
        ("empty.html", ("collect", "empty")),
        ("data.json", ("collect", "not_html")),
        ("pixel.png", ("collect", "not_html")),
        ("exact-copy.html", ("dedup", "duplicate_exact")),
    ],
)
@pytest.mark.parametrize("run", ["tiny", "all"])
def test_the_mishaps_of_the_web(shop: Workshop, run: str, page: str, fate: tuple) -> None:
    assert fates(shop, run, f"http://noise.example/{page}") == [fate]


def test_the_status_is_the_figure(shop: Workshop) -> None:
    rows = ledger(shop, "tiny").set_index("url")
    assert rows.loc["http://noise.example/missing.html", ["value", "limit"]].tolist() == [404, 200]
    assert rows.loc["http://noise.example/redirect.html", ["value", "limit"]].tolist() == [302, 200]


def test_every_response_of_the_crawl_is_in_the_ledger_once(shop: Workshop) -> None:
    with (ROOT / "data_samples/sample_manifest.tsv").open(encoding="utf-8") as handle:
        urls = {row["url"] for row in csv.DictReader(handle, delimiter="\t")}
    rows = ledger(shop, "tiny")
    crawl = rows[rows.source == "data_samples/sample.warc.gz"]
    assert len(crawl) == 187
    assert urls <= set(crawl.url)
    assert rows.id.is_unique
    assert len(rows) == 187 + 85


def charset_cases() -> Iterator[tuple[str, str]]:
    with (ROOT / "data_samples/sample_manifest.tsv").open(encoding="utf-8") as handle:
        for row in csv.DictReader(handle, delimiter="\t"):
            if row["url"].startswith("http://enc.example/"):
                yield row["url"], row["url"].split("/")[-1].split(".")[0]


@pytest.mark.parametrize(("url", "page"), list(charset_cases()))
def test_every_charset_comes_out_right(shop: Workshop, url: str, page: str) -> None:
    """The letters are those of the UTF-8 page; what the legacy charset lacks stands there as character references."""
    docs = documents(shop, "all").drop_duplicates("url").set_index("url")
    text, expected = docs.loc[url, "text"], docs.loc[f"http://udhr.example/{page}.html", "text"]
    letters = [re.sub(r"[\W�]", "", unicodedata.normalize("NFC", side)) for side in (text, expected)]
    assert letters[0] == letters[1]


def test_the_udhr_pages_have_their_language(shop: Workshop) -> None:
    codes = {"eng": "en", "cmn": "zh", "jpn": "ja", "kor": "ko", "fra": "fr", "deu": "de", "spa": "es", "por": "pt",
             "ita": "it", "rus": "ru", "ukr": "uk", "pol": "pl", "ces": "cs", "hun": "hu", "tur": "tr", "arb": "ar",
             "heb": "he", "hin": "hi", "ben": "bn", "tam": "ta", "tha": "th", "vie": "vi", "ind": "id", "swh": "sw",
             "amh": "am", "kat": "ka", "hye": "hy", "fin": "fi", "swe": "sv", "nld": "nl", "bul": "bg", "srp": "sr",
             "lit": "lt", "est": "et", "cat": "ca"}  # fmt: skip
    docs = documents(shop, "all")
    pages = docs[docs.url.fillna("").str.startswith("http://udhr.example/")]
    assert len(pages) >= 36
    wrong = [(r.url, r.lang) for r in pages.itertuples() if codes[r.url.split("/")[-1][:3]] != r.lang]
    assert not wrong
    scripts = pages.set_index("url").script
    assert scripts["http://udhr.example/cmn_hans.html"] == "Hans"
    assert scripts["http://udhr.example/cmn_hant.html"] == "Hant"


def units(text: str) -> list[str]:
    """Words of spaced scripts, single characters of Han and kana, in lower case: a reference, in plain Python."""
    text = unicodedata.normalize("NFKC", text).lower()
    return re.findall(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+", text)


def jaccard(a: str, b: str) -> float:
    """Exact Jaccard similarity of shingle sets: 8-grams of characters where Han prevails, else 5-grams of words."""
    sets = []
    for text in (a, b):
        found = units(text)
        n = 8 if sum(len(unit) == 1 and unit > "\u3000" for unit in found) > len(found) / 2 else 5
        sets.append({tuple(found[i : i + n]) for i in range(max(1, len(found) - n + 1))})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def near_duplicate_pairs() -> Iterator[tuple[str, str]]:
    """The URL pairs of the manifest that are one page in two editions."""
    with (ROOT / "data_samples/sample_manifest.tsv").open(encoding="utf-8") as handle:
        rows = [row["url"] for row in csv.DictReader(handle, delimiter="\t") if "near-duplicate" in row["note"]]
    by_page: dict[str, list[str]] = {}
    for url in rows:
        page = re.sub(r"/(amd64|i386|en-US|en-GB|zh-CN|zh-TW)/", "/*/", url)
        by_page.setdefault(page, []).append(url)
    for urls in by_page.values():
        assert len(urls) == 2
        yield urls[0], urls[1]


@pytest.mark.parametrize(("one", "other"), list(near_duplicate_pairs()))
def test_near_duplicates_by_brute_force(shop: Workshop, one: str, other: str) -> None:
    """At J >= 0.8 one stands for the other; well below, both are kept, unless one is contained in the other."""
    docs = documents(shop, "all").set_index("url")
    similarity = jaccard(docs.loc[one, "text"], docs.loc[other, "text"])
    rows = ledger(shop, "all").set_index("url")
    pair = [rows.loc[one], rows.loc[other]]
    gone = [row for row in pair if isinstance(row.stage, str)]
    if similarity >= 0.82:  # the reference's units differ a little from the kernel's
        assert len(gone) == 1
        kept = next(row for row in pair if not isinstance(row.stage, str))
        assert gone[0].duplicate_of == kept.id
        assert abs(gone[0].similarity - similarity) < 0.02 or gone[0].reason == "duplicate_contained"
    elif similarity < 0.78:
        assert all(row.reason == "duplicate_contained" for row in gone)


def test_there_are_pairs_on_both_sides_of_the_threshold(shop: Workshop) -> None:
    docs = documents(shop, "all").set_index("url")
    similar = [jaccard(docs.loc[one, "text"], docs.loc[other, "text"]) for one, other in near_duplicate_pairs()]
    assert len(similar) == 27
    assert sum(value >= 0.82 for value in similar) >= 10
    assert sum(value < 0.78 for value in similar) >= 3


def test_no_document_left_for_one_that_left(shop: Workshop) -> None:
    for run in ("tiny", "all"):
        rows = ledger(shop, run)
        kept = set(rows[rows.stage.isna()].id)
        gone = rows[rows.reason.fillna("").str.startswith("duplicate")]
        assert len(gone) > 20
        assert set(gone.duplicate_of) <= kept


def test_the_shards_decode_to_the_surviving_text(shop: Workshop) -> None:
    made = corpus.open(shop.folder / "runs/tiny")
    home = shop.folder_of("runs/tiny", "dedup")
    texts = pd.concat([pd.read_parquet(path) for path in sorted(home.glob("part-*.parquet"))]).set_index("id").text
    assert len(made) == len(texts) > 40
    for index, id_ in enumerate(made.docs["id"].to_pylist()):
        assert made.text(index) == texts[id_]
    assert {shard.split for shard in made.shards} == {"train", "val"}


def test_numpy_reads_the_shards_as_nanogpt_does(shop: Workshop) -> None:
    folder = shop.folder_of("runs/tiny", "shards")
    manifest = json.loads((folder / "manifest.json").read_text())
    tokens = np.memmap(folder / "part-00000.bin", dtype=np.uint16, mode="r")
    assert len(tokens) == manifest["shards"][0]["tokens"]
    assert int(tokens.max()) < manifest["vocab_size"]
    ends = int((tokens == manifest["eos_id"]).sum())
    assert ends == manifest["shards"][0]["documents"]


def test_the_command_line_answers(shop: Workshop) -> None:
    assert "187" not in shop.run("status", "tiny")
    assert "272 ledger rows, each id once" in shop.run("verify", "tiny")
    said = shop.run("explain", "tiny", "http://instguide.example/amd64/en/ch02s01.html")
    assert "left at dedup: duplicate_near (0.821" in said or "stands for" in said
    assert "stands for" in shop.run("explain", "tiny", "http://udhr.example/cmn_hant.html")
    assert "left at collect: http_status (404, limit 200)" in shop.run(
        "explain", "tiny", "http://noise.example/missing.html"
    )
    assert "是" in shop.run("show", "tiny", "--stage", "quality", "-n", "100")
    assert "drop=duplicate_near" in shop.run("show", "tiny", "--rejected", "duplicate_near", "-n", "2")
    assert "no document was dropped for 'nope' (reasons: " in shop.run("show", "tiny", "--rejected", "nope", code=2)
    assert "no stage 'nope' in this run (there are: collect," in shop.run("show", "tiny", "--stage", "nope", code=2)
    assert "no document 'nope'" in shop.run("explain", "tiny", "nope", code=2)
    assert "no run directory" in shop.run("explain", "nowhere", "x", code=2)
    assert "--nope" in shop.run("run", "--nope", code=2)
    assert json.loads(shop.run("schema"))["properties"]["stages"]


def test_the_report_tells_the_funnel(shop: Workshop) -> None:
    report = json.loads((shop.folder / "runs/tiny/report.json").read_text(encoding="utf-8"))
    assert [stage["stage"] for stage in report["funnel"]] == [
        "collect", "extract", "language", "quality", "pii", "dedup", "tokens"
    ]  # fmt: skip
    assert report["documents_in"] == 272
    assert report["state"] == "done"
    assert not report["imbalances"]
    for stage in report["funnel"]:
        assert stage["in"] == stage["out"] + sum(stage["reasons"].values())
        for reason in stage["reasons"]:
            assert reason in shop.said


def test_running_the_resolved_configuration_repeats_the_run(shop: Workshop) -> None:
    assert "0 tasks run" in shop.run("run", "runs/tiny/config.yaml")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ray_writes_the_same_bytes_as_one_process(shop: Workshop, workers: str) -> None:
    shop.run("run", "--workers", workers, "--out", f"runs/ray{workers}")
    assert shop.checksums(f"runs/ray{workers}") == shop.checksums("runs/tiny")
    assert len(shop.checksums("runs/tiny")) > 8


def test_parquet_shards_hold_the_same_tokens(shop: Workshop) -> None:
    shop.run("run", "--set", "shards.format=parquet", "--out", "runs/parquet")
    shop.run("verify", "runs/parquet")
    one, other = corpus.open(shop.folder / "runs/tiny"), corpus.open(shop.folder / "runs/parquet")
    assert len(one) == len(other)
    for (row, ids), (row_, ids_) in zip(one.documents(), other.documents()):
        assert row["id"] == row_["id"]
        assert np.array_equal(ids, ids_)
    folder: Path = shop.folder_of("runs/parquet", "shards")
    assert pd.read_parquet(folder / "train-00000.parquet").input_ids.iloc[0].dtype == np.int32


def test_killed_in_the_middle_it_finishes_with_the_same_bytes_and_redoes_nothing(shop: Workshop) -> None:
    """SIGKILL to the driver and the workers, in the middle of each phase in turn, until the run is through."""
    home = shop.folder / "runs/killed"
    arguments = ("run", "--workers", "2", "--out", "runs/killed", "--set", "collect.split_bytes=1024")
    seen: dict[str, int] = {}
    for wanted in ("1-*/map/part-*.json", "1-*/verdicts/_receipts/*.json", "2-*/scatter/part-*.json"):
        process = shop.start(*arguments)
        deadline = time.monotonic() + 120
        while not list(home.glob(wanted)):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        kill_all(process)
        time.sleep(1)
        for path in home.glob("*/map/part-*.json"):
            assert seen.setdefault(path.name, path.stat().st_mtime_ns) == path.stat().st_mtime_ns
    shop.run(*arguments)
    for path in home.glob("*/map/part-*.json"):
        assert seen.get(path.name, path.stat().st_mtime_ns) == path.stat().st_mtime_ns
    shop.run("run", "--workers", "0", "--out", "runs/whole", "--set", "collect.split_bytes=1024")
    assert shop.checksums("runs/killed") == shop.checksums("runs/whole")
    shop.run("verify", "runs/killed")
