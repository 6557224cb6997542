"""What unverified keys and connected components get wrong at scale: chains, templates, licences, worker counts.

And the two steps that only gather candidates, held against what others compute: pairs by DuckDB's join, components by
networkx. Both are skipped where they are not installed.
"""

import random
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import Workshop
from deduped import CHINESE, ENGLISH, Runner, jaccard, names, sets_of, synthetic
from hypothesis import given, settings
from hypothesis import strategies as st
from test_dedup import check_by_brute_force
from test_metamorphic import declarations

from pipeline import corpus
from pipeline.storage import read_json
from stages.dedup import Dedup
from stages.duplicates.components import ComponentsTask, write_components
from stages.duplicates.keys import EdgesTask, KeysTask, Stored, write_edges, write_keys
from stages.duplicates.verify import _gathered


@pytest.fixture
def run(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


# Chains


def greedy(sets: list[set[int]], order: list[int], threshold: float) -> set[int]:
    """What exact greedy clustering keeps: every document compared with every kept one that has a shingle of it."""
    kept: set[int] = set()
    holders: dict[int, list[int]] = defaultdict(list)
    for x in order:
        met = {y for shingle in sets[x] for y in holders[shingle]}
        if all(jaccard(sets[x], sets[y]) < threshold for y in met):
            kept.add(x)
            for shingle in sets[x]:
                holders[shingle].append(x)
    return kept


@pytest.mark.parametrize("script", ["en", "zh"])
@pytest.mark.parametrize("shuffled", [False, True], ids=["in order", "shuffled"])
def test_a_chain_of_a_thousand_keeps_what_exact_greedy_keeps(run: Runner, shuffled: bool, script: str) -> None:
    """Each document has J = .85 with the next, and .72 with the one after: connected, they would be one document."""
    n, step = (5, 12) if script == "en" else (8, 12)
    width, joint = 148 + n - 1, " " if script == "en" else ""
    units = synthetic(999 * step + width, random.Random(11), script)
    texts = [joint.join(units[start : start + width]) for start in range(0, 1000 * step, step)]
    order = random.Random(15).sample(range(1000), 1000) if shuffled else range(1000)
    ids = [f"{number:032x}" for number in order]
    docs = pa.table({"id": ids, "text": texts})
    rows, sets = run(docs, (300, 301, 800), keep=["id"]), sets_of(texts)
    assert all(jaccard(one, other) == pytest.approx(0.85) for one, other in pairwise(sets))
    check_by_brute_force(texts, rows, Dedup())
    exact = greedy(sets, sorted(range(1000), key=lambda x: ids[x]), 0.8)
    ours = {x for x, row in enumerate(rows) if row["drop"] is None}
    assert len(exact) in (range(400, 500) if shuffled else [500])
    assert 0.95 * len(exact) <= len(ours) <= 1.05 * len(exact)
    assert run.summary["largest_component"] > 300, "the keys do bring nearly all of them together"


# Pages and books that share much


def pages(count: int, shared: list[str], own: int, script: str) -> list[str]:
    """A template with words of each page's own in its middle."""
    source, joint = random.Random(12), "" if script == "zh" else " "
    half = len(shared) // 2
    return [joint.join([*shared[:half], *synthetic(own, source, script), *shared[half:]]) for _ in range(count)]


@pytest.mark.parametrize("script", ["en", "zh"])
def test_ten_thousand_pages_of_one_template_stay(run: Runner, script: str) -> None:
    """J = .70 between any two: three of four pairs share a key, and a method that does not verify keeps one page."""
    template = ENGLISH[1].split()[:200] if script == "en" else list("".join(CHINESE[0].split())[:200])
    texts = pages(10_000, template, 36, script)
    assert 0.65 < jaccard(*sets_of(texts[:2])) < 0.75
    rows = run(texts, cuts=(2500, 6000))
    assert not any(row["drop"] for row in rows)
    assert run.summary["largest_component"] > 9_500
    assert run.summary["left_out"]["groups"] == 0


def books(count: int, words: int, licence: int) -> list[str]:
    """Random words after a licence that all of them share."""
    source = np.random.default_rng(13)
    vocabulary = np.array(synthetic(20_000, random.Random(14)), object)
    front = " ".join(vocabulary[source.integers(0, 20_000, licence)])
    return [f"{front} {' '.join(vocabulary[source.integers(0, 20_000, words)])}" for _ in range(count)]


@pytest.mark.parametrize(
    ("count", "words", "licence"),
    [
        (1000, 900, 3000),  # J = .63: leaflets, mostly licence, whose keys collide
        pytest.param(1000, 17_000, 3000, marks=pytest.mark.slow),
    ],
    ids=["leaflets", "books"],
)
def test_a_thousand_books_with_one_licence_stay(run: Runner, count: int, words: int, licence: int) -> None:
    texts = books(count, words, licence)
    rows = run([*texts, texts[7]], cuts=(count // 3,))
    assert [row["how"] for row in rows if row["drop"]] == ["exact"], "the one that is there twice, and no other"
    if words < licence:
        assert run.summary["largest_component"] > 0.9 * count


# Chinese in both scripts


def test_the_declaration_in_both_chinese_scripts_is_one_document_if_folded(run: Runner) -> None:
    texts = declarations()
    rest = [text for name, text in texts.items() if not name.startswith("cmn")]
    both = [texts["cmn_hant"], texts["cmn_hans"]]
    assert not any(row["drop"] for row in run([*both, *rest]))
    rows = run([*both, *rest], fold_han=True)
    gone = [row for row in rows if row["drop"]]
    assert [(row["how"], row["duplicate_of"] in {one["id"] for one in rows[:2]}) for row in gone] == [("jaccard", True)]
    assert gone[0]["id"] in {row["id"] for row in rows[:2]}
    assert 0.85 < gone[0]["similarity"] < 0.95


# Any number of workers

SAMPLES = """
name: t
workers: 0
stages:
  - collect: {paths: [data_samples/sample.warc.gz, data_samples/sample_text.jsonl.gz], split_bytes: 100000}
  - extract: {}
  - dedup: {threshold: 0.5, bands: 24, rows: 4, bucket_rows: 300, bucket_shingles: 3000}
  - tokens: {train: {vocab_size: 500}}
  - shards: {val_fraction: 0.1}
"""


@pytest.mark.slow
def test_one_two_and_seven_workers_keep_the_same_and_write_the_same_bytes(workshop: Workshop) -> None:
    workshop.write("c.yaml", SAMPLES)
    kept, sums = [], []
    for workers in ("0", "1", "2", "7"):
        out = f"runs/w{workers}"
        workshop.run("run", "c.yaml", "--workers", workers, "--out", out)
        kept.append([row["id"] for row, _ in corpus.open(workshop.folder / out).documents()])
        sums.append(workshop.checksums(out))
    assert len(kept[0]) > 100
    assert any(".bin" in name for name in sums[0])
    summary = read_json(workshop.folder_of("runs/w7", "dedup") / "verdicts/summary.json")
    assert summary["jaccard"] > 5
    assert all(other == kept[0] for other in kept)
    assert all(other == sums[0] for other in sums)


# The steps that gather candidates, against a database and a graph library

DOCUMENTS = st.lists(
    st.tuples(
        st.integers(0, 5),  # exact hash; 0 is a document without text
        st.one_of(st.just((0, 0, 0)), st.tuples(*[st.integers(1, 5)] * 3)),  # band keys; 0 is too short for any
    ),
    max_size=40,
)
SPREAD = 0x9E3779B97F4A7C15  # odd, so that distinct numbers stay distinct over all 64 bits


def gathered(folder: Path, documents: list[Any], cuts: list[int], buckets: int) -> tuple[np.ndarray, list[str], Any]:
    """Sketches of the documents through `write_keys`, `write_edges`, `write_components`."""
    edges = [0, *cuts, len(documents)]
    stored = []
    for number, (start, stop) in enumerate(pairwise(edges)):
        some = documents[start:stop]
        bands = np.array([one for _, one in some], np.uint64).reshape(-1, 3)
        bands += np.arange(3, dtype=np.uint64) * np.uint64(10) * (bands > 0)
        keys = bands * np.uint64(SPREAD) & ~np.uint64(1)
        sketch = pa.table({
            "exact_hi": pa.array([one * SPREAD % 2**64 for one, _ in some], pa.uint64()),
            "exact_lo": pa.array([one for one, _ in some], pa.uint64()),
            "keys": pa.FixedSizeListArray.from_arrays(pa.array(keys.reshape(-1)), 3),
            "shingles": pa.array([10] * len(some), pa.int32()),
            "id": pa.array(names(len(documents))[start:stop], pa.string()),
        })  # fmt: skip
        path = folder / f"{number}.arrow"
        with pa.ipc.new_file(str(path), sketch.schema) as file:
            file.write_table(sketch, max_chunksize=3)
        stored.append(Stored(folder / "none", path, stop - start, start))
    records = [write_keys(KeysTask(part, True), folder / f"keys-{part.base}-{n}") for n, part in enumerate(stored)]
    sorted_keys = [record["keys"] for record in records]
    more = [write_edges(EdgesTask(sorted_keys, n, buckets, None), folder / f"edges-{n}") for n in range(buckets)]
    groups = [record["groups"] for record in (*records, *more)]
    found = write_components(ComponentsTask(stored, groups, None, 50, 10**9), folder / "found")
    sketched = pa.concat_tables([pa.ipc.open_file(str(part.sketch)).read_all() for part in stored])
    return np.load(found["file"]), groups, sketched


@settings(max_examples=25, deadline=None)
@given(DOCUMENTS, st.data())
def test_pairs_are_a_join_and_components_those_of_a_graph(
    tmp_path_factory: pytest.TempPathFactory, documents: list[Any], data: st.DataObject
) -> None:
    duckdb, networkx = pytest.importorskip("duckdb"), pytest.importorskip("networkx")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(documents)), max_size=4)))
    buckets = data.draw(st.integers(1, 5))
    members, groups, sketch = gathered(tmp_path_factory.mktemp("gathered"), documents, cuts, buckets)

    sketch = sketch.append_column("ordinal", pa.array(range(len(sketch)), pa.int64()))
    with duckdb.connect() as base:
        base.register("sketch", sketch)
        base.execute(
            "create table keyed as select ordinal, unnest(keys) as key, false as exact from sketch where keys[1] > 0 "
            "union all select ordinal, xor(exact_hi, exact_lo) | 1, true from sketch where exact_lo > 0"
        )
        joined = "select distinct a.ordinal, b.ordinal from keyed a join keyed b on a.key = b.key"
        pairs = set(base.execute(f"{joined} and a.ordinal < b.ordinal").fetchall())
        earlier = base.execute(f"{joined} and a.exact and a.ordinal > b.ordinal").fetchall()
    holders: dict[int, set[int]] = defaultdict(set)
    for path in groups:
        for key, ordinal in np.load(path).T.tolist():
            holders[key].add(ordinal)
    assert {(a, b) for group in holders.values() for a in group for b in group if a < b} == pairs

    graph = networkx.Graph(sorted(pairs))
    expected = {frozenset(component) for component in networkx.connected_components(graph)}
    components: dict[int, set[int]] = defaultdict(set)
    for member in members:
        components[int(member["component"])].add(int(member["ordinal"]))
    assert set(map(frozenset, components.values())) == expected
    assert set(members["ordinal"][members["copy"]].tolist()) == {copy for copy, _ in earlier}
    dealt = {(int(member["component"]), int(member["bucket"])) for member in members}
    assert len(dealt) == len(components), "a component lies in one bucket"


def test_gathering_many_small_batches_takes_time_in_proportion() -> None:
    """A segment of an index delivers its candidates 64 rows at a time: the size of what is held is not summed anew."""
    rows = pa.record_batch({"shingles": pa.array([[1, 2, 3]] * 4, pa.large_list(pa.uint64())), "id": names(4)})

    def seconds(count: int) -> float:
        begun = time.process_time()
        assert sum(map(len, _gathered(iter([rows] * count)))) == 4 * count
        return time.process_time() - begun

    assert min(seconds(1600) for _ in range(2)) < 24 * max(min(seconds(200) for _ in range(3)), 1e-4)
