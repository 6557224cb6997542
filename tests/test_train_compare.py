"""Comparing corpora: a real difference is resolved, none is not, and the report says what was learned from."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import train_corpus
from hypothesis import given
from hypothesis import strategies as st

from pipeline import corpus, storage
from pipeline.train.recipe import LoopSpec, ModelSpec, Recipe, Refused

pytest.importorskip("torch")

from pipeline import chart
from pipeline.train import compare, evaluate, loop


def recipe(folder: Path) -> Recipe:
    return Recipe(name="c", corpus=folder, model=ModelSpec(layers=1, heads=2, width=32, context=32),
                  train=LoopSpec(steps=1, batch=16, lr=1e-2, threads=1, log_every=10))  # fmt: skip


def noise(count: int) -> list[str]:
    random = np.random.default_rng(3)
    return ["".join(map(chr, random.integers(33, 126, 300))) for _ in range(count)]


def test_a_corpus_with_noise_is_worse_and_itself_is_not(tmp_path: Path) -> None:
    clean = train_corpus.articles()
    held, clean = clean[::12], [text for i, text in enumerate(clean) if i % 12]
    train_corpus.write(tmp_path / "raw", clean[: len(clean) // 4] + noise(200) + clean[:5] * 8, held)
    train_corpus.write(tmp_path / "filtered", clean, held)
    design = compare.Design(60 * 16 * 32, (1, 2, 3), (1.0,))
    text = compare.compare(recipe(tmp_path), [tmp_path / "raw", tmp_path / "filtered"], design, tmp_path / "out",
                           say=lambda line: None)  # fmt: skip
    assert text.count("filtered is better than raw by") == 1
    report = storage.read_json(tmp_path / "out/report.json")
    told = report["held_out"]
    assert (told["documents"], told["leaked"], told["bytes"]) == (len(held), 0, sum(map(len, held)))
    assert all(found["low"] > 0 for found in report["differences"])
    assert report["consumed"]["raw"]["copied"] > 0.05
    assert report["consumed"]["filtered"]["copied"] == 0
    assert report["consumed"]["raw"]["tokens"] == report["consumed"]["filtered"]["tokens"] == 60 * 16 * 32
    assert "<svg" in (tmp_path / "out/report.html").read_text()
    again: list[str] = []
    assert compare.compare(recipe(tmp_path), [tmp_path / "raw", tmp_path / "filtered"], design, tmp_path / "out",
                           say=again.append) == text  # fmt: skip
    assert storage.read_json(tmp_path / "out/report.json") == report


def test_a_corpus_and_itself_are_not_resolved(tmp_path: Path) -> None:
    """The same documents in two orders: nothing to find, and nothing is found."""
    clean, held = train_corpus.words(150), train_corpus.words(12, 2)
    train_corpus.write(tmp_path / "one", clean, held)
    train_corpus.write(tmp_path / "two", clean[::-1], held)
    design = compare.Design(20 * 16 * 32, (1, 2, 3), (1.0,))
    for other in ("one", "two"):
        paths = [tmp_path / "one", tmp_path / other]
        text = compare.compare(recipe(tmp_path), paths, design, tmp_path / f"out-{other}", say=lambda line: None)
        assert "not resolved" in text
        assert "is better" not in text


def test_what_leaked_does_not_judge(tmp_path: Path) -> None:
    clean, held = train_corpus.words(60), train_corpus.words(6, 2)
    one = train_corpus.write(tmp_path / "one", clean, held)
    two = train_corpus.write(tmp_path / "two", [*clean, "Before it. " + held[0], held[1][: len(held[1]) // 4]], held)
    share = compare.leaks(evaluate.texts(one), one, two)
    assert share[0] > 0.9
    assert share[1] < 0.5
    assert share[2] == 0
    _, told = compare.held_out({"one": one, "two": two}, None)
    assert (told["documents"], told["leaked"]) == (5, 1)
    three = train_corpus.write(tmp_path / "three", clean)
    with pytest.raises(Refused, match="no document is held out of all"):
        compare.held_out({"one": one, "three": three}, None)


def test_few_judges_are_warned_of_and_other_judges_judge_anew(tmp_path: Path) -> None:
    held = train_corpus.words(40, 2)
    one = train_corpus.write(tmp_path / "one", train_corpus.words(60), held)
    train_corpus.write(tmp_path / "two", train_corpus.words(60, 3), held[:9])
    train_corpus.write(tmp_path / "judge", [], held[9:])
    design = compare.Design(2 * 16 * 32, (1,), (1.0,))
    said: list[str] = []
    paths = [tmp_path / "one", tmp_path / "two"]
    text = compare.compare(recipe(tmp_path), paths, design, tmp_path / "out", say=said.append)
    assert said[0].startswith("Only 9 held-out documents judge")
    assert said[0] in text
    assert "in one seed, and one seed says nothing" in text
    found = json.loads((tmp_path / "out/report.json").read_text(), parse_constant=pytest.fail)
    assert found["differences"][0]["low"] is None
    assert found["differences"][0]["over_documents"]["documents"] == 9
    again = compare.compare(recipe(tmp_path), paths, design, tmp_path / "out", tmp_path / "judge", said.append)
    assert "31 held-out documents" in again
    assert "Only" not in again
    other = json.loads((tmp_path / "out/report.json").read_text())
    assert [run["bpb"] for run in other["runs"]] != [run["bpb"] for run in found["runs"]]
    assert len(one) == 100


def pair(folder: Path, held: int = 12) -> list[Path]:
    """Two corpora that differ, with the same held-out documents."""
    texts, judges = train_corpus.words(60), train_corpus.words(held, 2)
    train_corpus.write(folder / "one", texts, judges)
    train_corpus.write(folder / "two", texts[:30] + train_corpus.words(30, 7), judges)
    return [folder / "one", folder / "two"]


def figures(out: Path) -> list[float]:
    return [run["bpb"] for run in json.loads((out / "report.json").read_text())["runs"]]


def silent(line: str) -> None:
    pass


DESIGN = compare.Design(3 * 16 * 32, (1, 2), (1.0,))


@pytest.mark.parametrize(("design", "changed"), [
    (DESIGN._replace(tokens=5 * 16 * 32), {}),
    (DESIGN._replace(rates=(0.5,)), {}),
    (DESIGN, {"train": {"lr": 1e-3}}),
    (DESIGN, {"train": {"optimizer": "muon"}}),
    (DESIGN, {"train": {"weight_decay": 0.9}}),
    (DESIGN, {"train": {"precision": "bf16"}}),
    (DESIGN, {"model": {"layers": 2}}),
    (DESIGN, {"data": {"pack": "bestfit"}}),
    (DESIGN, {"data": {"mask": "document"}}),
])  # fmt: skip
def test_other_settings_give_the_figures_of_a_new_folder(tmp_path: Path, design: compare.Design, changed: dict) -> None:
    """And the report of before is kept; the settings of before give it again without training."""
    paths, out = pair(tmp_path), tmp_path / "out"
    asked = recipe(tmp_path)
    first = compare.compare(asked, paths, DESIGN, out, say=silent)
    before = figures(out)
    parts = {part: getattr(asked, part).model_copy(update=values) for part, values in changed.items()}
    other = asked.model_copy(update=parts)
    said: list[str] = []
    text = compare.compare(other, paths, design, out, say=said.append)
    fresh = compare.compare(other, paths, design, tmp_path / "fresh", say=silent)
    assert text.split("## ")[:2] == fresh.split("## ")[:2]  # the verdicts and the differences
    assert figures(out) == figures(tmp_path / "fresh")
    assert figures(out) != before
    digest = said[0].rsplit("report-", 1)[1]
    assert (out / f"report-{digest}.md").read_text() == first
    runs = {path.name for path in out.iterdir() if path.is_dir()}
    assert compare.compare(asked, paths, DESIGN, out, say=silent) == first
    assert {path.name for path in out.iterdir() if path.is_dir()} == runs


def test_another_corpus_at_the_same_path_gives_its_own_figures(tmp_path: Path) -> None:
    paths, out = pair(tmp_path), tmp_path / "out"
    compare.compare(recipe(tmp_path), paths, DESIGN, out, say=silent)
    before = figures(out)
    paths[1].rename(tmp_path / "elsewhere")
    train_corpus.write(paths[1], train_corpus.words(60, 11), train_corpus.words(12, 2))
    compare.compare(recipe(tmp_path), paths, DESIGN, out, say=silent)
    compare.compare(recipe(tmp_path), paths, DESIGN, tmp_path / "fresh", say=silent)
    assert figures(out) == figures(tmp_path / "fresh") != before
    assert figures(out)[0] == before[0]


def test_more_seeds_add_runs_and_leave_those_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, out = pair(tmp_path), tmp_path / "out"
    compare.compare(recipe(tmp_path), paths, DESIGN, out, say=silent)
    before = figures(out)
    scored: list[int] = []
    score = evaluate.score
    monkeypatch.setattr(evaluate, "score", lambda *args, **named: scored.append(1) or score(*args, **named))
    more = DESIGN._replace(seeds=(1, 2, 3))
    compare.compare(recipe(tmp_path), paths, more, out, say=silent)
    assert figures(out)[:4] == before
    assert len(figures(out)) == 6
    judged = len(scored)
    compare.compare(recipe(tmp_path), paths, more, out, say=silent)
    assert judged > 0
    assert len(scored) == judged


def test_judges_of_another_language_judge_anew(tmp_path: Path) -> None:
    """The same tokens in all, and another table."""
    paths, out = pair(tmp_path), tmp_path / "out"
    held = train_corpus.words(12, 2)
    for name, langs in (("a", ["en"] * 12), ("b", ["en"] * 6 + ["de"] * 6)):
        judge = train_corpus.write(tmp_path / name, [], held, lang=langs)
        compare.compare(recipe(tmp_path), paths, DESIGN, out, judge.folder, silent)
        report = storage.read_json(out / "report.json")
        assert set(report["runs"][0]["lang"]) == set(langs)


def test_killed_between_no_report_of_other_settings_stands_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, out = pair(tmp_path), tmp_path / "out"
    compare.compare(recipe(tmp_path), paths, DESIGN, out, say=silent)
    longer = DESIGN._replace(tokens=5 * 16 * 32)
    train, calls = loop.train, []

    def killed(*args: Any) -> dict:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return train(*args)

    monkeypatch.setattr(loop, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        compare.compare(recipe(tmp_path), paths, longer, out, say=silent)
    assert not (out / "report.json").exists()
    assert len(list(out.glob("report-*.json"))) == 1
    compare.compare(recipe(tmp_path), paths, longer, out, say=silent)
    compare.compare(recipe(tmp_path), paths, longer, tmp_path / "fresh", say=silent)
    assert figures(out) == figures(tmp_path / "fresh")


def test_damaged_results_are_named_and_made_again(tmp_path: Path) -> None:
    paths, out = pair(tmp_path), tmp_path / "out"
    text = compare.compare(recipe(tmp_path), paths, DESIGN, out, say=silent)
    judged = sorted(out.glob("*/judged.json"))[0]
    judged.write_text("{")
    (out / "report.json").write_text('{"a": ')
    said: list[str] = []
    assert compare.compare(recipe(tmp_path), paths, DESIGN, out, say=said.append) == text
    assert f"{out / 'report.json'}: is damaged" in said[0]
    assert f"{judged}: is damaged" in "".join(said[1:])
    for path in out.glob("*/step-*/model.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Refused, match=r"model\.safetensors: is damaged"):
        compare.compare(recipe(tmp_path), paths, DESIGN, out, say=silent)


def test_the_report_of_something_else_stays(tmp_path: Path) -> None:
    paths, out = pair(tmp_path), tmp_path / "out"
    storage.write_json(out / "report.json", {"groups": []})
    with pytest.raises(Refused, match=r"its report\.json is not of a comparison"):
        compare.compare(recipe(tmp_path), paths, DESIGN, out, say=silent)
    assert storage.read_json(out / "report.json") == {"groups": []}


def words_only(folder: Path) -> corpus.Corpus:
    """A corpus whose tokenizer knows one word and has one id for all others."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    opened = train_corpus.write(folder, train_corpus.words(20), train_corpus.words(6, 2))
    tokenizer = Tokenizer(models.WordLevel({"known": 0, "<unk>": 1}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    opened.manifest["tokenizer"]["sha256"] = storage.sha256(folder / "tokenizer.json")
    return corpus.Corpus(folder, opened.manifest)


def test_a_tokenizer_that_loses_text_does_not_win_by_that(tmp_path: Path) -> None:
    """What a tokenizer cannot say costs no bits: such documents do not judge."""
    one = train_corpus.write(tmp_path / "one", train_corpus.words(20), ["known", *train_corpus.words(6, 2)])
    two = words_only(tmp_path / "two")
    with pytest.raises(Refused, match=r"tokenizer of .*two gives none of the held-out documents back"):
        compare.held_out({"one": one, "two": two}, train_corpus.write(tmp_path / "j", [], train_corpus.words(6, 2)))
    _, told = compare.held_out({"one": one, "two": two}, one)
    assert (told["documents"], told["not_expressed"], told["leaked"]) == (1, 6, 0)
    assert "6 held-out documents do not judge" in told["warnings"][0]
    _, told = compare.held_out({"one": one, "again": one}, one)
    assert (told["documents"], told["not_expressed"]) == (7, 0)


@pytest.mark.parametrize("key", ["corpus", "train.steps", "train.seed", "data.seed", "train.eval_tokens"])
def test_keys_that_a_comparison_sets_itself_are_refused(key: str) -> None:
    with pytest.raises(Refused, match=f"--set {key}: compare sets this key itself"):
        compare.refuse_set(["train.lr", key])


def test_the_interval_over_documents_is_that_of_resampling() -> None:
    random = np.random.default_rng(1)
    n_bytes = random.lognormal(6, 0.8, 200).round()
    one = n_bytes * random.normal(2.0, 0.3, 200)
    other = one - n_bytes * random.normal(0.1, 0.4, 200)
    found = compare.over_documents(one, other, n_bytes)
    picks = random.integers(0, 200, (4000, 200))
    means = (one - other)[picks].sum(1) / np.log(2) / n_bytes[picks].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.1 * (high - low))
    assert found.high == pytest.approx(high, abs=0.1 * (high - low))
    assert found.better == (one > other).sum()
    assert compare.over_documents(one[:1], other[:1], n_bytes[:1]) is None


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_and_inside(low: float, span: float) -> None:
    found = chart.ticks(low, low + span)
    assert 3 <= len(found) <= 10
    assert low - span * 1e-3 <= found[0] < found[-1] <= low + span * 1.001
    steps = np.diff(found)
    assert np.allclose(steps, steps[0], rtol=1e-3)


def test_a_picture_shows_lines_dots_and_names() -> None:
    drawn = chart.curves("a < b", {"x & y": [(1, 3.0), (5, 2.0)], "dot": [(5, 2.5)], "none": []}, "step", "nats")
    root = ElementTree.fromstring(drawn)
    texts = [node.text for node in root.iter() if node.text and node.text.strip()]
    assert {"a < b", "x & y 2", "dot 2.5", "step", "nats", "1", "5"} <= set(texts)
    assert sum(node.tag.endswith("polyline") for node in root.iter()) == 2
    for node in root.iter():
        for name in ("x", "cx"):
            assert 0 <= float(node.get(name, 0)) <= 720
    assert "NaN" not in chart.curves("empty", {}, "x", "y")


def test_student_and_the_seeds_it_takes() -> None:
    stats = pytest.importorskip("scipy.stats")
    for freedom in (1, 2, 10, 15, 16, 40, 500):
        assert compare.quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=0.011)


def test_verdicts() -> None:
    sure = compare.difference([3.0, 3.1, 3.2], [2.9, 3.0, 3.1])
    assert compare.verdict("a", "b", sure).startswith("b is better than a by 0.1000")
    unsure = compare.difference([3.0, 3.1, 3.2], [2.9, 3.15, 3.19])
    assert not unsure.resolved
    needed = compare.seeds_needed(unsure)
    assert needed
    assert compare.quantile(needed - 1) * unsure.deviation / needed**0.5 < abs(unsure.mean)
    assert f"needs about {needed} seeds" in compare.verdict("a", "b", unsure)
    assert "one seed says nothing" in compare.verdict("a", "b", compare.difference([3.0], [2.0]))
    assert "no difference at all" in compare.verdict("a", "a", compare.difference([3.0, 3.1], [3.0, 3.1]))
