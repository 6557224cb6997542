"""`bench` and `warmup` work, and say the truth about recall; no time is asserted."""

import json
import random
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import ROOT, Workshop

from pipeline import bench


def test_bench_measures_every_stage_and_the_recall(workshop: Workshop) -> None:
    found = json.loads(workshop.run("bench", "--mb", "1", "--repeat", "0", "--json"))
    assert [row["stage"] for row in found["stages"]] == ["language", "quality", "pii", "dedup sketch", "tokens"]
    assert [row["workers"] for row in found["runs"]] == [0, 1, 2]
    assert all(row["mb_per_cpu_s"] > 0 and row["peak_rss_mb"] > 0 for row in (*found["runs"],))
    assert found["corpus"]["planted"] > 3
    assert found["machine"]["processor"]
    assert sum(row["pairs"] for row in found["recall"]) <= found["corpus"]["planted"]


def test_warmup_compiles(workshop: Workshop) -> None:
    assert "kernels compiled and cached in" in workshop.run("warmup")


def test_families_share_no_kernel_and_leave_none_out(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, before = {}, set()
    for family in (*bench.FIRST, *bench.FAMILIES, *bench.LATER):
        if family not in bench.FIRST:  # these find what was made before them, the later ones all of it
            shutil.copytree(tmp_path / ("together" if family in bench.LATER else "reading"), tmp_path / family)
            before = {path.name for path in (tmp_path / family).rglob("*.nbi")}
        monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / family))
        bench.compile_apart(family)
        made[family] = {path.name for path in (tmp_path / family).rglob("*.nbi")} - before
        shutil.copytree(tmp_path / family, tmp_path / "together", dirs_exist_ok=True)
    assert all(made.values())
    assert not made["text"] & made["corpus"]  # or two processes would write the same file
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "together"))
    monkeypatch.setenv("NUMBA_DEBUG_CACHE", "1")
    workshop.write("scores.yaml", (ROOT / "configs/tiny.yaml").read_text().replace(
        "- dedup", "- classify\n  - perplexity\n  - dedup").replace("name: tiny", "name: scores"))  # fmt: skip
    for recipe in ((), ("scores.yaml",)):
        said = workshop.run("run", *recipe)
        assert "data loaded from" in said
        assert "data saved to" not in said


def test_a_family_that_does_not_compile_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(bench.NotCompiled, match="did not compile: exit status 1"):
        bench.warmup()


@pytest.mark.parametrize(
    "text", ["one two three four five six seven eight nine ten ", "人人生而自由在尊严和权利上一律平等"]
)
def test_planted_copies_are_as_similar_as_they_are_said_to_be(text: str) -> None:
    units = list(dict.fromkeys(f"{(text * 40)[:600]}{i}" for i in range(40)))
    docs = pa.table({"source_id": [f"b{i}" for i in range(40)], "text": units})
    planted, everything = bench.plant(docs, random.Random(1), share=1.0)
    texts = dict(zip(everything["source_id"].to_pylist(), everything["text"].to_pylist()))
    assert len(planted) == 40
    assert len(texts) == 80
    for pair in planted:
        assert pair.similarity == bench.jaccard(texts[pair.original], texts[pair.copy])


def test_jaccard_by_hand() -> None:
    assert bench.jaccard("a b c d e f", "a b c d e f") == 1
    assert bench.jaccard("a b c d e f", "a b c d e g") == pytest.approx(1 / 3)
    assert bench.jaccard("一二三四五六七八九", "一二三四五六七八十") == pytest.approx(1 / 3)


def test_wilson_by_hand() -> None:
    assert bench.wilson(0, 0) is None
    low, high = bench.wilson(98, 100)
    assert (low, high) == (0.93, 0.9945)


def test_the_recipe_ships() -> None:
    assert (ROOT / "configs/bench.yaml").is_file()


def test_a_second_process_compiles_nothing(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    workshop.run("run")
    monkeypatch.setenv("NUMBA_DEBUG_CACHE", "1")
    said = workshop.run("run", "--out", "runs/again")
    assert "data loaded from" in said
    assert "data saved to" not in said
