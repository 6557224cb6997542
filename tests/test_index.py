"""The index of earlier batches: appending equals starting again, whatever happens on the way."""

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deduped import CHINESE, ENGLISH, LocalSteps, Runner, edited, names, synthetic
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.storage import Locked, lock
from stages.dedup import Dedup
from stages.duplicates import __main__ as command
from stages.duplicates.index import Index


@pytest.fixture
def run(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


def corpus(source: random.Random, size: int) -> list[str]:
    """Texts of both scripts, many of them edited copies or copies of copies of others, some exact, some short."""
    texts: list[str] = []
    for number in range(size):
        if texts and source.random() < 0.6:
            text = source.choice(texts)
            joint = " " if " " in text else ""
            units = text.split(joint) if joint else list(text)
            share = source.choice([0, 0.01, 0.02, 0.03])
            texts.append(joint.join(edited(units, share, source)[: source.choice([None, None, -3])]))
        elif number % 2:
            texts.append("".join(synthetic(source.randrange(2, 200), source, "zh")))
        else:
            texts.append(" ".join(synthetic(source.randrange(2, 150), source)))
    return texts


def table(texts: list[str], batches: list[int]) -> pa.Table:
    return pa.table({
        "id": names(len(texts)), "text": pa.array(texts, pa.string()), "source": [f"night-{n:02d}" for n in batches],
    })  # fmt: skip


class Nights:
    """Batch after batch into one index, each with a runner and a run folder of its own."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.folder, self.config = folder, {"index": str(folder / "index"), **config}
        self.runners: dict[int, Runner] = {}
        self.kept: set[str] = set()

    def __call__(self, docs: pa.Table, night: int, cuts: tuple[int, ...] = (), **config: Any) -> list[dict[str, Any]]:
        run = self.runners[night] = Runner(self.folder / f"night-{night}")
        run.earlier = set(self.kept)
        rows = run(docs, cuts, **{**self.config, **config})
        self.kept |= {row["id"] for row in rows if row["drop"] is None}
        return rows

    def state(self) -> dict[str, Any]:
        return json.loads((self.folder / "index" / "index.json").read_text(encoding="utf-8"))


def outcome(rows: list[dict[str, Any]]) -> dict[str, tuple[Any, ...]]:
    return {row["id"]: (row["duplicate_of"], row["how"], row["similarity"]) for row in rows}


def by_batch(docs: pa.Table, night: int) -> pa.Table:
    return docs.filter(pa.compute.equal(docs["source"], f"night-{night:02d}"))


@pytest.mark.parametrize("compact_every", [1, 3, 100])
def test_ten_nights_equal_one_run(run: Runner, tmp_path: Path, compact_every: int) -> None:
    source = random.Random(compact_every)
    texts = corpus(source, 400)
    docs = table(texts, [source.randrange(10) for _ in texts])
    ranks = {"keep": ["source_rank", "length", "id"], "sources": [f"night-{n:02d}" for n in range(10)]}
    whole = outcome(run(docs, (90, 200)))  # in one order of keeping by content...
    whole = outcome(run(docs, (90, 200), **ranks))  # ... and by night first
    nights = Nights(tmp_path / "nights", compact_every=compact_every, bucket_rows=300, bucket_shingles=2000)
    together: dict[str, tuple[Any, ...]] = {}
    for night in range(10):
        batch = by_batch(docs, night)
        together |= outcome(nights(batch, night, cuts=(len(batch) // 3,)))
    assert together == whole
    assert 100 < sum(answer[0] is not None for answer in whole.values()) < 350
    across = {name for name, answer in whole.items() if answer[0] and not same_night(docs, name, answer[0])}
    assert len(across) > 50, "most of what leaves does so because of an earlier night"
    empty = {name for name, text in zip(docs["id"].to_pylist(), texts, strict=True) if not text}
    kept = sum(answer[0] is None for name, answer in whole.items() if name not in empty)
    assert nights.runners[9].summary["index"] == {"batches": 10, "documents": kept, "revision": 10}
    assert len(nights.state()["runs"]) <= compact_every + 1


def same_night(docs: pa.Table, one: str, other: str) -> bool:
    nights = dict(zip(docs["id"].to_pylist(), docs["source"].to_pylist(), strict=True))
    return nights[one] == nights[other]


LIMITS = {"max_per_key": [1, 2, 100], "threshold": [0.5, 0.8]}


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_batches_equal_one_run(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("nights")
    source = random.Random(data.draw(st.integers(0, 10**6)))
    texts = corpus(source, data.draw(st.integers(1, 40)))
    docs = table(texts, [source.randrange(4) for _ in texts])
    limits = {
        "max_per_key": data.draw(st.sampled_from([1, 2, 100])),
        "threshold": data.draw(st.sampled_from([0.5, 0.8])),
    }
    limits |= {"bands": 20, "rows": 2}  # many share a key and are not alike: lists fill up
    ranks = {"keep": ["source_rank", "length", "id"], "sources": [f"night-{n:02d}" for n in range(4)]}
    whole = outcome(Runner(folder / "whole")(docs, **limits, **ranks))
    nights = Nights(folder, compact_every=data.draw(st.integers(1, 3)), **limits)
    together: dict[str, tuple[Any, ...]] = {}
    for night in range(4):
        together |= outcome(nights(by_batch(docs, night), night))
    assert together == whole


def test_a_batch_replayed_changes_nothing(tmp_path: Path) -> None:
    docs = table(corpus(random.Random(4), 150), [n % 3 for n in range(150)])
    nights = Nights(tmp_path, compact_every=1)
    first = [outcome(nights(by_batch(docs, night), night)) for night in range(3)]
    state, files = nights.state(), sorted(path.name for path in (tmp_path / "index").iterdir())
    for night in (1, 2, 0):
        assert outcome(nights(by_batch(docs, night), night + 10)) == first[night], "as it was then"
    assert nights.state() == state
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == files


class Killed(Exception):
    """The power went."""


class UntilKilled(LocalSteps):
    """Steps that remember what they have done, and end at the given call."""

    def __init__(self, folder: Path, calls: int) -> None:
        super().__init__(folder)
        self.calls = calls

    def __call__(self, name: str, fn: Any, tasks: list[Any]) -> list[dict[str, Any]]:
        self.calls -= 1
        if self.calls < 0:
            raise Killed
        done = self.folder / name / "done.json"
        if not done.exists():
            done.parent.mkdir(parents=True, exist_ok=True)
            done.write_text(json.dumps(super().__call__(name, fn, tasks)))
        return json.loads(done.read_text())


def test_killed_after_any_step_and_started_again(tmp_path: Path) -> None:
    docs = table(corpus(random.Random(5), 80), [n % 2 for n in range(80)])
    expected = Nights(tmp_path / "expected")
    whole = [outcome(expected(by_batch(docs, night), night)) for night in range(2)]
    dedup = Dedup(index=str(tmp_path / "index"), compact_every=1)
    first, second = (
        [Runner.part(dedup, full(by_batch(docs, night)), tmp_path / str(night) / "part")] for night in range(2)
    )
    dedup.resolve(first, LocalSteps(tmp_path / "0"))
    states = {(tmp_path / "index" / "index.json").read_bytes()}
    for calls in range(100):
        try:
            files = dedup.resolve(second, UntilKilled(tmp_path / "1", calls))
        except Killed:
            states.add((tmp_path / "index" / "index.json").read_bytes())
        else:
            break
    assert calls > 8
    assert len(states) == 2, "the index changes once, whole"
    rows = pq.read_table(files[0]).append_column("id", by_batch(docs, 1)["id"]).to_pylist()
    assert outcome(rows) == whole[1]
    dedup.resolve(second, UntilKilled(tmp_path / "1", 100))
    assert Index(tmp_path / "index", dedup).summary() == Index(tmp_path / "expected" / "index", dedup).summary()


def full(docs: pa.Table) -> pa.Table:
    return docs.append_column("url", pa.nulls(len(docs), pa.string()))


def test_steps_done_on_another_state_of_the_index_do_not_count(tmp_path: Path) -> None:
    """A run is stopped; another adds the same documents to the index; the first goes on and sees them."""
    docs = full(table(corpus(random.Random(6), 40), [0] * 40))
    dedup = Dedup(index=str(tmp_path / "index"))
    part = [Runner.part(dedup, docs, tmp_path / "0" / "part")]
    with pytest.raises(Killed):
        dedup.resolve(part, UntilKilled(tmp_path / "0", 8))
    other = docs.set_column(0, "id", pa.array([name[::-1] for name in docs["id"].to_pylist()]))
    dedup.resolve([Runner.part(dedup, other, tmp_path / "1" / "part")], LocalSteps(tmp_path / "1"))
    verdicts = pq.read_table(dedup.resolve(part, UntilKilled(tmp_path / "0", 100))[0])
    assert verdicts["drop"].null_count == 0


def test_the_last_batch_may_be_replaced_by_its_own_run_and_no_other(tmp_path: Path) -> None:
    docs = table([*ENGLISH[:6], *CHINESE[:6]], [0] * 12)
    dedup = Dedup(index=str(tmp_path / "index"))

    def batch(folder: str, rows: pa.Table) -> int:
        home = tmp_path / folder / "1-dedup"
        home.mkdir(parents=True, exist_ok=True)
        (home.parent / "config.yaml").touch()
        verdicts = dedup.resolve([Runner.part(dedup, full(rows), home / "part")], LocalSteps(home))
        return pq.read_table(verdicts[0])["drop"].null_count

    assert batch("a", docs.slice(0, 4)) == 4
    assert batch("b", docs.slice(4, 4)) == 4
    assert batch("b", docs.slice(4, 6)) == 6, "the run's filters have changed: its documents take their own place"
    assert Index(tmp_path / "index", dedup).summary() == {"batches": 2, "documents": 10, "revision": 3}
    with pytest.raises(ValueError, match="as batch 1 of 2, with other documents or settings"):
        batch("a", docs.slice(0, 5))
    assert batch("a", docs.slice(0, 4)) == 4


def test_an_index_of_other_settings_is_refused(tmp_path: Path) -> None:
    docs = table(ENGLISH[:3], [0] * 3)
    nights = Nights(tmp_path)
    nights(docs, 0)
    with pytest.raises(ValueError, match=r"was made with threshold 0\.8, this run has 0\.7"):
        nights(docs, 1, threshold=0.7)
    nights(docs, 1, alarm=0.9, bucket_rows=10)


def test_two_runs_do_not_share_an_index_at_once(tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    with lock(tmp_path / "index"), pytest.raises(Locked, match="another run holds it"):
        nights(table(ENGLISH[:3], [0] * 3), 0)


def test_a_document_is_forgotten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    docs = table([*ENGLISH[:8], *CHINESE[:4]], [0] * 12)
    nights = Nights(tmp_path)
    nights(docs, 0, cuts=(5,))
    again = docs.set_column(0, "id", pa.array([name[::-1] for name in docs["id"].to_pylist()]))
    gone = docs["id"].to_pylist()[3:6]
    (tmp_path / "ids.txt").write_text("\n".join([*gone, "0" * 32, ""]))
    assert command.main([str(tmp_path / "index"), "--forget", str(tmp_path / "ids.txt")]) == 0
    assert "3 of 4" in capsys.readouterr().out
    stored = b"".join(path.read_bytes() for path in (tmp_path / "index").iterdir() if path.is_file())
    assert not any(name.encode() in stored for name in gone)
    rows = nights(again, 1)
    assert [row["drop"] is None for row in rows] == [3 <= n < 6 for n in range(12)]
    assert nights.runners[1].summary["index"]["documents"] == 12


def test_what_an_index_weighs(tmp_path: Path) -> None:
    """Bytes a document beside the text, 16 bands; all kept."""
    source = random.Random(7)
    texts = ["".join(synthetic(60, source, "zh")) for _ in range(20_000)]
    nights = Nights(tmp_path)
    nights(table(texts, [0] * len(texts)), 0)
    size = sum(path.stat().st_size for path in (tmp_path / "index").iterdir() if path.suffix in (".docs", ".keys"))
    assert size / len(texts) <= 160


def test_a_probe_measures_recall_and_leaves_no_trace(run: Runner) -> None:
    source = random.Random(8)
    texts = [" ".join(synthetic(source.randrange(100, 200), source)) for _ in range(300)]
    texts += ["".join(synthetic(source.randrange(100, 200), source, "zh")) for _ in range(300)]
    plain = run(texts, cuts=(50, 170))
    summary = dict(run.summary)
    assert run(texts, cuts=(50, 170), probe=400) == plain
    probe = run.summary.pop("probe")
    assert run.summary == summary
    assert probe["planted"] == 400
    bins = {one["from"]: one for one in probe["bins"]}
    assert all(bins[low]["recall"] >= 0.9 for low in (0.8, 0.85, 0.9))
    assert bins[0.9]["pairs"] > 50
    assert bins[0.5]["recall"] < 0.5
    assert all(one["low"] <= one["recall"] <= one["high"] for one in bins.values())
    again = run(texts, cuts=(300,), probe=400)
    assert run.summary["probe"] == probe, "whatever the partitioning"
    assert again == plain


def test_losses_of_sources_and_domains_are_told(run: Runner) -> None:
    source = random.Random(9)
    mine = [" ".join(synthetic(50, source)) for _ in range(60)]
    texts = mine + mine[:40] + [" ".join(synthetic(50, source)) for _ in range(30)]
    docs = table(texts, [0] * 60 + [1] * 70)
    hosts = ["https://user@good.example/a?b"] * 60 + ["http://COPY.example:8080/x"] * 40 + [None] * 30
    rows = run(docs.append_column("url", pa.array(hosts)), (75,), keep=["source_rank"], sources=["night-00", "*"])
    assert sum(row["drop"] is not None for row in rows) == 40
    assert run.summary["removed"]["domain"] == [
        {"name": "copy.example", "in": 40, "out": 0}, {"name": "good.example", "in": 60, "out": 60},
    ]  # fmt: skip
    assert run.summary["removed"]["source"][0] == {"name": "night-01", "in": 70, "out": 30}
    assert [(one["kind"], one["name"], one["share"]) for one in run.summary["alarms"]] == [
        ("domain", "copy.example", 1.0), ("source", "night-01", round(40 / 70, 4)),
    ]  # fmt: skip


def test_the_largest_clusters_are_shown(run: Runner) -> None:
    texts = [ENGLISH[0]] * 5 + [CHINESE[0]] * 3 + ENGLISH[1:4]
    rows = run(texts, (2, 6))
    first, second = run.summary["largest_clusters"]
    assert (first["dup_count"], second["dup_count"]) == (4, 2)
    assert first["text"] == ENGLISH[0][:300]
    assert second["text"] == CHINESE[0][:300]
    assert set(first["members"]) | {first["id"]} == {row["id"] for row in rows[:5]}


def test_levels(run: Runner) -> None:
    near = ENGLISH[0] + " and some more words here"
    texts = [ENGLISH[0], ENGLISH[0].upper(), near, "a b", "A, b!"]

    def left(*levels: str) -> list[str]:
        return sorted(row["drop"] for row in run(texts, levels=levels) if row["drop"])

    assert left("exact", "near") == ["duplicate_exact", "duplicate_near", "duplicate_near"]
    assert left("exact") == ["duplicate_exact", "duplicate_exact"]
    assert left("near") == ["duplicate_near", "duplicate_near"]
