"""Deduplication from texts to verdicts, against brute force: what leaves, for whom, and that nothing else does."""

import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deduped import CHINESE, ENGLISH, SAMPLES, LocalSteps, Runner, edited, jaccard, names, sets_of, synthetic
from fastwarc import ArchiveIterator, WarcRecordType
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from resiliparse.extract.html2text import extract_plain_text

from stages.dedup import Dedup
from stages.kernels import cluster


@pytest.fixture
def run(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


def check_by_brute_force(texts: list[str], rows: list[dict[str, Any]], dedup: Dedup) -> None:
    """No document left without a kept one at the similarity that its row states."""
    sets = dict(zip((row["id"] for row in rows), sets_of(texts), strict=True))
    for row in rows:
        if row["drop"] in ("duplicate_near", "duplicate_contained"):
            mine, keeper = sets[row["id"]], sets[row["duplicate_of"]]
            alike, inside = jaccard(mine, keeper), len(mine & keeper) / len(mine)
            if row["how"] == "jaccard":
                assert row["drop_value"] == pytest.approx(alike)
                assert alike >= dedup.threshold
            else:
                assert row["drop_value"] == pytest.approx(inside)
                assert inside >= dedup.containment
                assert len(keeper) >= len(mine)


@pytest.mark.parametrize(("texts", "joint", "level"), [(ENGLISH, " ", 0.01), (CHINESE, "", 0.01)], ids=["en", "zh"])
def test_edited_copies_leave_and_originals_stay(run: Runner, texts: list[str], joint: str, level: float) -> None:
    source = random.Random(3)
    copies = [joint.join(edited(text.split(joint) if joint else list(text), level, source)) for text in texts]
    everything = texts + copies
    rows = run(everything, cuts=(len(texts),))
    check_by_brute_force(everything, rows, Dedup())
    assert len(texts) >= 5
    sets = sets_of(everything)
    for i in range(len(texts)):
        alike = jaccard(sets[i], sets[i + len(texts)])
        pair = {rows[i]["id"], rows[i + len(texts)]["id"]}
        left = [row for row in (rows[i], rows[i + len(texts)]) if row["drop"]]
        if not 0.8 <= alike < 0.85:  # where one pair in fifty shares no band
            assert len(left) == (alike >= 0.8)
        assert all({row["id"], row["duplicate_of"]} == pair for row in left)
    assert sum(row["drop"] is not None for row in rows) >= 0.7 * len(texts)


def test_chinese_copies_with_five_percent_of_edits_are_found(run: Runner) -> None:
    """In one passage at the default threshold; scattered, where J is about .5, at a threshold of .4."""
    source, copies = random.Random(5), []
    for text in CHINESE:
        start = source.randrange(len(text) - len(text) // 20)
        copies.append(text[:start] + "改动之处" * (len(text) // 80) + text[start + len(text) // 20 :])
    rows = run(CHINESE + copies)
    check_by_brute_force(CHINESE + copies, rows, Dedup())
    assert sum(row["drop"] == "duplicate_near" for row in rows) == len(CHINESE)
    scattered = ["".join(edited(list(text), 0.05, source)) for text in CHINESE]
    rows = run(CHINESE + scattered, threshold=0.4, bands=56, rows=2)
    check_by_brute_force(CHINESE + scattered, rows, Dedup(threshold=0.4))
    originals, copied = sets_of(CHINESE), sets_of(scattered)
    similar = [jaccard(one, other) >= 0.4 for one, other in zip(originals, copied, strict=True)]
    assert sum(row["drop"] == "duplicate_near" for row in rows) == sum(similar) > 0.8 * len(CHINESE)


def crawled_texts() -> list[str]:
    """The readable text of every page of the sample crawl in UTF-8: 36 languages, natural near duplicates."""
    texts = []
    for record in ArchiveIterator((SAMPLES / "sample.warc.gz").open("rb"), record_types=WarcRecordType.response):
        page = record.reader.read()
        if "html" in (record.http_content_type or "") and page.decode("utf-8", "ignore").encode() == page:
            texts.append(extract_plain_text(page.decode()))
    return texts


def test_real_pages_against_brute_force(run: Runner) -> None:
    texts = crawled_texts()
    rows, sets = run(texts, cuts=(60,)), sets_of(texts)
    check_by_brute_force(texts, rows, Dedup())
    alike = [
        (i, j) for i in range(len(texts)) for j in range(i) if jaccard(sets[i], sets[j]) >= 0.8 and len(sets[i]) >= 5
    ]
    assert len(alike) >= 8
    for pair in alike:
        assert any(rows[i]["drop"] for i in pair)
    involved = {i for pair in alike for i in pair}
    for i, row in enumerate(rows):
        assert row["drop"] in (None, "duplicate_exact", "duplicate_contained") or i in involved


def test_recall_of_planted_pairs(run: Runner) -> None:
    source, texts = random.Random(9), []
    for number in range(600):
        script = "zh" if number % 2 else "en"
        units = synthetic(source.randrange(60, 300), source, script)
        joint = "" if script == "zh" else " "
        texts += [joint.join(units), joint.join(edited(units, source.choice([0.005, 0.01, 0.02, 0.03]), source))]
    rows, sets = run(texts, cuts=(100, 500)), sets_of(texts)
    check_by_brute_force(texts, rows, Dedup())
    found: dict[bool, list[bool]] = {False: [], True: []}
    for i in range(0, len(texts), 2):
        alike = jaccard(sets[i], sets[i + 1])
        dropped = any(row["drop"] for row in rows[i : i + 2])
        if alike < 0.8:
            assert not dropped
        else:
            found[alike >= 0.85].append(dropped)
    assert np.mean(found[True]) >= 0.99
    assert np.mean(found[False]) >= 0.93
    assert min(map(len, found.values())) > 50


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_random_corpora_whatever_the_partitioning(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    run = Runner(tmp_path_factory.mktemp("random"))
    source = random.Random(data.draw(st.integers(0, 10**6)))
    texts: list[str] = []
    for _ in range(data.draw(st.integers(1, 8))):
        base = source.choice(
            [ENGLISH[0].split()[: source.randrange(3, 150)], list(CHINESE[0][: source.randrange(3, 300)])]
        )
        joint = " " if base[0] != CHINESE[0][0] else ""
        for _ in range(source.randrange(5)):
            base = edited(base, source.choice([0, 0.01, 0.05]), source)[: source.choice([None, -2])]
            texts.append(joint.join(base))
    texts += source.choices(["", "!", "short one", "short one.", None], k=3)  # type: ignore[list-item]
    docs = pa.table({"id": names(len(texts)), "text": pa.array(texts, pa.string())})
    rows = run(docs)
    check_by_brute_force(texts, rows, Dedup())
    order = np.array(source.sample(range(len(texts)), len(texts)))
    cuts = tuple(sorted(data.draw(st.lists(st.integers(0, len(texts)), max_size=4))))
    again = run(docs.take(pa.array(order)), cuts, bucket_rows=40, bucket_shingles=100)
    assert sorted(again, key=lambda row: row["id"]) == sorted(rows, key=lambda row: row["id"])


def test_a_chain_keeps_both_of_its_ends(run: Runner) -> None:
    """A ~ B ~ C, J(A, C) below the threshold: only what has a kept neighbour leaves, never C for A by way of B."""
    words = synthetic(120, random.Random(1))
    texts = [" ".join(words[start : start + 100]) for start in (0, 8, 16)]
    sets = sets_of(texts)
    assert jaccard(sets[0], sets[1]) > 0.8 < jaccard(sets[1], sets[2])
    assert jaccard(sets[0], sets[2]) < 0.8
    for first in range(3):  # whoever comes first in keep order
        docs = pa.table({"id": [f"{(i - first) % 3}" for i in range(3)], "text": texts})
        rows = run(docs, keep=["id"])
        left = [i for i, row in enumerate(rows) if row["drop"]]
        assert left == {0: [1], 1: [0, 2], 2: [1]}[first]


def test_a_long_chain_keeps_what_exact_greedy_keeps(run: Runner) -> None:
    words = synthetic(3000, random.Random(2))
    texts = [" ".join(words[start : start + 100]) for start in range(0, 2000, 7)]
    rows, sets = run(texts, cuts=(50,), keep=["id"]), sets_of(texts)
    check_by_brute_force(texts, rows, Dedup())
    kept: list[int] = []
    for i in sorted(range(len(texts)), key=lambda i: rows[i]["id"]):
        if all(jaccard(sets[i], sets[j]) < 0.8 for j in kept):
            kept.append(i)
    ours = sum(row["drop"] is None for row in rows)
    assert 0.97 * len(kept) <= ours <= 1.1 * len(kept)
    assert run.summary["largest_component"] > 200


def test_pages_that_share_boilerplate_stay(run: Runner) -> None:
    source = random.Random(4)
    boilerplate = ENGLISH[1].split()[:200]
    texts = [" ".join(synthetic(100, source) + boilerplate) for _ in range(300)]
    rows = run(texts)
    assert run.summary["candidates"] > 100, "the bands do bring them together; verification keeps them apart"
    assert not any(row["drop"] for row in rows)
    assert run.summary["compared"] == 0, "what is their own rules them out before any comparison"
    copies = [text.rsplit(" ", 10)[0] for text in texts[::10]]
    rows = run(texts + copies, max_per_key=5)
    assert run.summary["left_out"]["places_on_full_lists"] > 200
    assert [row["duplicate_of"] for row in rows[300:]] == [row["id"] for row in rows[:300:10]], "found among so many"


def test_two_thousand_copies_cost_little(run: Runner) -> None:
    run([ENGLISH[0]] * 2)  # compiled
    begin = time.process_time()
    rows = run([CHINESE[0], *[ENGLISH[0]] * 2000, CHINESE[1]], cuts=(700, 1500))
    assert time.process_time() - begin < 3
    assert sum(row["drop"] == "duplicate_exact" for row in rows) == 1999
    assert max(row["dup_count"] for row in rows) == 1999
    keeper = next(row for row in rows if row["dup_count"])
    assert keeper["id"] == min(row["id"] for row in rows[1:-1]), "equally long: the smallest id stays"


def test_short_documents_are_compared_exactly(run: Runner) -> None:
    texts = ["four words are few", "Four words, are FEW!", "four words are here", "你好世界", "你好，世界", "你好世人"]
    assert [row["drop"] for row in run(texts)].count("duplicate_exact") == 2
    assert run.summary["exact_only"] == 6
    assert [row["drop"] for row in run(["a b c d e f", "a b c d e g"], threshold=0.3)] == [None, None]


def test_documents_without_text_are_not_each_others_copies(run: Runner) -> None:
    rows = run(["", "", None, "...", "?!", "😀", "😀", "  \n"])  # type: ignore[list-item]
    assert not any(row["drop"] for row in rows)
    assert run.summary["without_text"] == 8


def test_a_page_inside_a_longer_page_leaves(run: Runner) -> None:
    words = ENGLISH[2].split()[:600]
    texts = [" ".join(words[:440]), " ".join(words)]
    rows = run(texts, bands=40, rows=2)
    assert (rows[0]["drop"], rows[0]["how"], rows[0]["similarity"]) == ("duplicate_contained", "contained", 1.0)
    assert rows[0]["duplicate_of"] == rows[1]["id"]
    quality = pa.table({"id": ["a", "b"], "text": texts, "score": [0.9, 0.1]})
    rows = run(quality, bands=40, rows=2, keep=["score"])
    assert not any(row["drop"] for row in rows), "the shorter is preferred; the longer is not inside it"


def test_copies_of_a_document_that_leaves_point_to_the_one_that_stays(run: Runner) -> None:
    near = ENGLISH[3] + " and a few words more"
    rows = run([ENGLISH[3], ENGLISH[3].upper(), near, ENGLISH[3].lower()])
    assert [row["how"] for row in rows] == ["jaccard", "jaccard", None, "jaccard"]
    assert {row["duplicate_of"] for row in rows} == {rows[2]["id"], None}


def test_keep_orders(run: Runner) -> None:
    docs = pa.table({
        "id": ["d", "c", "b", "a"],
        "text": [ENGLISH[4] + extra for extra in (" end", "", "", " ends")],
        "date": pa.array(["2020-01-01", None, "2024-06-01", "2024-05-31"]),
        "score": pa.array([0.5, 0.7, None, 0.7]),
    })  # fmt: skip

    def keeper(*keep: str) -> list[str]:
        return [row["id"] for row in run(docs, cuts=(1,), keep=keep) if row["drop"] is None]

    assert keeper("length") == ["a"]
    assert keeper("id") == ["a"]
    assert keeper("date", "id") == ["b"]
    assert keeper("score", "length") == ["a"]
    assert keeper("score", "date") == ["a"]
    assert Dedup(keep=["score", "length"]).needs == ("id", "source", "url", "text", "score")
    assert Dedup().needs == ("id", "source", "url", "text")


@pytest.mark.parametrize("keep", [["url"], ["id", "length"], ["length", "length"]])
def test_orders_that_make_no_sense_are_refused(keep: list[str]) -> None:
    with pytest.raises(ValidationError):
        Dedup(keep=keep)


def test_no_parts_and_empty_parts(run: Runner, tmp_path: Path) -> None:
    assert Dedup().resolve([], LocalSteps(tmp_path)) == []
    assert run([]) == []
    rows = run([ENGLISH[0], ENGLISH[0]], cuts=(0, 0, 1, 1, 2))
    assert [row["drop"] for row in rows].count("duplicate_exact") == 1


def test_a_component_too_heavy_is_split_and_what_is_left_out_is_said(run: Runner) -> None:
    words = synthetic(1500, random.Random(6))
    texts = [" ".join(words[start : start + 100]) for start in range(0, 1400, 7)]
    texts += texts[::10]
    limits = {"component_shingles": 2000, "bucket_shingles": 2000, "keep": ["id"]}
    rows = run(texts, **limits)
    check_by_brute_force(texts, rows, Dedup())
    assert run.summary["left_out"]["groups"] > 0
    assert run.summary["largest_component"] < 60
    assert sum(row["how"] == "exact" for row in rows) > 0
    order = random.Random(7).sample(range(len(texts)), len(texts))
    docs = pa.table({"id": names(len(texts)), "text": texts}).take(pa.array(order))
    again = run(docs, cuts=(31, 90), **limits)
    assert sorted(again, key=lambda row: row["id"]) == sorted(rows, key=lambda row: row["id"])


def plain_leaders(
    sets: list[set[int]], keys: list[list[int]], settled: Any, threshold: float, containment: float, per_key: int
) -> list[tuple[int, float]]:
    """Every document against the kept ones on the lists of its keys: the keeper (-1: kept) and the figure."""
    answer: list[tuple[int, float]] = []
    lists: dict[int, list[int]] = {}
    for x, mine in enumerate(sets):
        first = (-1, 0.0)
        for y in sorted({y for key in keys[x] if key for y in lists.get(key, [])}, reverse=True):
            if settled[x] or not mine or not sets[y]:
                continue
            alike, inside = jaccard(mine, sets[y]), len(mine & sets[y]) / len(mine)
            if alike >= threshold or (inside >= containment and len(sets[y]) >= len(mine)):
                first = (y, alike if alike >= threshold else inside)
        answer.append(first)
        if first[0] < 0:
            for key in keys[x]:
                if key and len(lists.setdefault(key, [])) < per_key:
                    lists[key].append(x)
    return answer


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.lists(
            st.tuples(st.sets(st.integers(0, 14), max_size=12), st.tuples(st.integers(0, 3), st.integers(4, 6))),
            max_size=12,
        ),
        max_size=4,
    ),
    st.sampled_from([0.3, 0.5, 0.8, 1.0]),
    st.sampled_from([0.6, 0.95, 1.0]),
    st.sampled_from([1, 2, 100]),
)
def test_leader_clustering_equals_comparing_everything(
    components: Any, threshold: float, containment: float, per_key: int
) -> None:
    scattered = [np.uint64((value * 0x9E3779B97F4A7C15 + 1) % 2**64) for value in range(15)]
    sets = [[{scattered[value] for value in one} for one, _ in component] for component in components]
    keys = [[list(pair) for _, pair in component] for component in components]
    groups = np.cumsum([0, *map(len, sets)]).astype(np.int64)
    starts = np.cumsum([0, *(len(one) for component in sets for one in component)]).astype(np.int64)
    values = np.array([value for component in sets for one in component for value in sorted(one)], np.uint64)
    flat = np.array([pair for component in keys for pair in component], np.uint64).reshape(-1, 2)
    limits = (threshold, containment, per_key)
    settled = np.arange(len(starts) - 1) % 3 == 0
    keeper, score, how, unlisted, _ = cluster.leaders(groups, starts, values, flat, settled, *limits)
    expected = [
        (place + base if place >= 0 else -1, figure)
        for component, own, base in zip(sets, keys, groups, strict=False)
        for place, figure in plain_leaders(component, own, settled[base:], *limits)
    ]
    assert list(zip(keeper.tolist(), score.tolist(), strict=True)) == expected
    assert ((how > 0) == (keeper >= 0)).all()
    assert not unlisted[keeper >= 0].any()
    assert not unlisted[flat == 0].any()
    for component in range(len(sets)):
        here = slice(groups[component], groups[component + 1])
        kept, full = flat[here][keeper[here] < 0], unlisted[here][keeper[here] < 0]
        for key in set(kept[kept > 0].tolist()):
            assert ((kept == key) & ~full).sum() == min(per_key, (kept == key).sum())


@given(
    st.lists(st.one_of(st.integers(0, 3), st.integers(2**63, 2**63 + 2**40), st.integers(0, 2**64 - 1)), max_size=50)
)
def test_sorting_rows_equals_sorting(keys: list[int]) -> None:
    rows = np.array([keys, range(len(keys))], np.uint64)
    cluster.sort_rows(rows)
    expected = sorted(zip(keys, range(len(keys)), strict=True))
    assert list(zip(*rows.tolist(), strict=True)) == expected


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 29)), max_size=60), st.randoms())
def test_union_find_equals_flooding(pairs: list[tuple[int, int]], source: random.Random) -> None:
    parent, copies = np.arange(30), np.zeros(30, bool)
    rows = sorted(set(pairs))
    source.shuffle(pairs)
    cluster.unite(parent, *(np.array([row[i] for row in rows], np.uint64) for i in (0, 1)), copies)
    members = cluster.flatten(parent)
    label = list(range(30))
    for _ in range(30):
        for key in range(10):
            nodes = [node for other, node in pairs if other == key]
            for node in nodes:
                label[node] = min(label[other] for other in nodes)
    assert parent.tolist() == label
    assert members.tolist() == [node for node in range(30) if Counter(label)[label[node]] > 1]
    exact = {key: min(node for other, node in pairs if other == key) for key, _ in pairs if key % 2}
    assert set(np.flatnonzero(copies)) == {node for key, node in pairs if key % 2 and node != exact[key]}
