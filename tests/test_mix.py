"""A mixture through the real sink and the real machine: its numbers by hand, its bytes, where every document went."""

import atexit
import functools
import json
import re
import shutil
import tempfile
from collections import Counter
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Workshop
from pydantic import ValidationError
from test_shards import build

from pipeline import config, corpus
from pipeline.schema import DOCUMENT
from pipeline.stage import Refused
from pipeline.train.data import Dataset
from pipeline.train.recipe import DataSpec
from stages.kernels.mixture import upsampled
from stages.shards import Shards
from stages.tokens import Tokens

LENGTH = 10  # tokens a document
FIVE = {"web/a": 600, "web/b": 400, "wiki": 70, "code": 300, "books": 50, "zh": 400}
"""Documents of each source; the five of the mixture, since web/* is one."""

WISHES = {
    "by": ["source"],
    "groups": {"web/*": {"weight": 4}, "wiki": {"weight": 4}, "code": {"tokens": 2000}, "books": {"epochs": 3},
               "zh": {"weight": 2}},
    "tokens": 15_000,
}  # fmt: skip
BY_HAND = {"web/*": 5800, "wiki": 2800, "code": 2000, "books": 1500, "zh": 2900}
"""15,000 less 2,000 and 1,500 is 11,500. By 4:4:2 wiki would give 4,600; it has 4 x 700. 8,700 are left, by 4:2."""


@functools.cache
def bytewise() -> Tokens:
    """Learned from nothing, so without merges: a document of ASCII has a token a character, and EOS."""
    folder = Path(tempfile.mkdtemp())
    pq.write_table(pa.table({"id": ["0"], "text": [""]}), folder / "docs.parquet")
    learner = Tokens.model_validate({"train": {"vocab_size": 300}})
    learner.fit([folder / "docs.parquet"], folder / "fit")
    atexit.register(shutil.rmtree, folder)
    return learner.fitted(folder / "fit")


def documents(sources: dict[str, int], lengths: list[int] | None = None, **columns: pa.Array) -> pa.Table:
    """Tokenized documents of so many tokens each, LENGTH if nothing is said."""
    rows = [source for source, number in sources.items() for _ in range(number)]
    docs = {name: pa.nulls(len(rows), kind) for name, kind in DOCUMENT.items()}
    docs["id"] = pa.array([f"{at * 7919:032x}" for at in range(len(rows))])
    docs["source"] = pa.array(rows)
    docs["text"] = pa.array([str(at).zfill(tokens - 1)[: tokens - 1] for at, tokens in
                             enumerate(lengths or [LENGTH] * len(rows))])  # fmt: skip
    made = bytewise().apply(pa.table({**docs, **columns}))
    assert made["n_tokens"].to_pylist() == (lengths or [LENGTH] * len(rows))
    return made


def sink(mix: dict, **fields: object) -> Shards:
    return Shards.model_validate({"val_fraction": 0, "mix": mix, **fields})


def tokens_by(made: corpus.Corpus, group=lambda source: source) -> Counter:
    """Tokens of each source in the training shards, as a reader of the corpus counts them."""
    found: Counter = Counter()
    for shard in made.shards:
        if shard.split == "train":
            rows = made.docs.slice(shard.first, shard.documents)
            for source, tokens in zip(rows["source"].to_pylist(), rows["n_tokens"].to_pylist()):
                found[group(source)] += tokens
    return found


def web(source: str) -> str:
    return "web/*" if source.startswith("web/") else source


def test_five_sources_of_which_one_is_exhausted(tmp_path: Path) -> None:
    docs = documents(FIVE)
    made = build(sink(WISHES, shard_tokens=4000), [[docs]], tmp_path)
    told = {row["group"]: row for row in made.manifest["mix"]["groups"]}
    assert {name: row["realised"] for name, row in told.items()} == BY_HAND
    assert {name: row["asked"] for name, row in told.items()} == {
        "web/*": 4600, "wiki": 4600, "code": 2000, "books": 1500, "zh": 2300}  # fmt: skip
    assert {name: row["possible"] for name, row in told.items()} == {
        "web/*": 40_000, "wiki": 2800, "code": 12_000, "books": 2000, "zh": 16_000}  # fmt: skip
    assert [name for name, row in told.items() if row["exhausted"]] == ["wiki"]
    assert told["web/*"]["left_out"] == 420
    assert tokens_by(made, web) == BY_HAND
    assert made.manifest["tokens"] == made.manifest["mix"]["tokens"] == 15_000
    assert made.manifest["documents"] == len(made.docs) == 1500
    assert corpus.verify(made) == []
    times = Counter(made.docs["id"].to_pylist())
    sources = dict(zip(docs["id"].to_pylist(), docs["source"].to_pylist()))
    assert {times[id_] for id_, source in sources.items() if source == "wiki"} == {4}
    assert {times[id_] for id_, source in sources.items() if source == "books"} == {3}
    assert {times[id_] for id_, source in sources.items() if source == "code"} == {0, 1}
    lists = dict(zip(docs["id"].to_pylist(), docs["input_ids"].to_pylist()))
    assert all(ids.tolist() == lists[row["id"]] for row, ids in made.documents()), "each copy is the document itself"


def test_the_trainer_counts_what_the_manifest_says(tmp_path: Path) -> None:
    made = build(sink(WISHES, shard_tokens=4000), [[documents(FIVE)]], tmp_path)
    data = Dataset(made, DataSpec(), 14_999, 3)  # one window; its last token is a target only
    told = Counter()
    for source, tokens in data.tokens_by(samples=1)["source"].items():
        told[web(source)] += tokens
    last = web(made.docs["source"][-1].as_py())
    assert told == {**BY_HAND, last: BY_HAND[last] - 1}
    assert data.tokens_by(3)["source"] == {name: 3 * tokens for name, tokens in data.tokens_by(1)["source"].items()}


def test_copies_are_numbered_and_lie_apart(tmp_path: Path) -> None:
    made = build(sink({"groups": {"*": {"epochs": 4}}}), [[documents({"a": 500})]], tmp_path)
    assert made.docs.schema.field("copy").type == pa.int16()
    places: dict[str, dict[int, int]] = {}
    for place, (id_, copy) in enumerate(zip(made.docs["id"].to_pylist(), made.docs["copy"].to_pylist())):
        places.setdefault(id_, {})[copy] = place
    assert len(places) == 500
    assert all(sorted(copies) == [0, 1, 2, 3] for copies in places.values())
    gaps = np.diff(np.sort([list(copies.values()) for copies in places.values()]), axis=1)
    assert gaps.mean() == pytest.approx(2000 / 5, rel=0.1), "as far apart as places drawn at random"
    orders = [[id_ for _, id_ in sorted((copies[copy], id_) for id_, copies in places.items())] for copy in (0, 1)]
    assert orders[0] != orders[1]


@pytest.mark.parametrize("seed", range(3))
def test_any_partitioning_gives_the_same_bytes(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    lengths = np.maximum(2, random.lognormal(3, 1, sum(FIVE.values()))).astype(int).tolist()
    docs = documents(FIVE, lengths)
    made = sink({**WISHES, "tokens": 60_000, "max_epochs": 6}, val_fraction=0.1, shard_tokens=9000)
    whole = build(made, [[docs]], tmp_path / "whole")
    shuffled = docs.take(random.permutation(len(docs)))
    edges = [0, *sorted(random.integers(0, len(docs), 4).tolist()), len(docs)]
    parts = [[shuffled.slice(a, b - a)] for a, b in zip(edges, edges[1:])]
    parts = [parts[0] + parts[1], *parts[2:], [docs.slice(0, 0)]]
    other = build(made, parts, tmp_path / "other")
    assert other.manifest == whole.manifest
    assert (tmp_path / "whole/rejected/mixture.parquet").read_bytes() == (
        tmp_path / "other/rejected/mixture.parquet"
    ).read_bytes()


def test_held_out_documents_come_up_once_and_are_not_mixed(tmp_path: Path) -> None:
    docs = documents({"a": 2000, "b": 1000})
    mix = {"groups": {"a": {"epochs": 0.5}, "b": {"epochs": 2.5}}}
    plain = build(Shards(val_fraction=0.2), [[docs]], tmp_path / "plain")
    made = build(sink(mix, val_fraction=0.2), [[docs]], tmp_path / "mixed")
    assert (tmp_path / "mixed/val-00000.bin").read_bytes() == (tmp_path / "plain/val-00000.bin").read_bytes()
    had, has = tokens_by(plain), tokens_by(made)
    assert has["a"] == pytest.approx(had["a"] * 0.5, abs=LENGTH)
    assert has["b"] == pytest.approx(had["b"] * 2.5, abs=LENGTH)
    assert {row["group"]: row["realised"] for row in made.manifest["mix"]["groups"]} == has
    left_out = set(pq.read_table(tmp_path / "mixed/rejected/mixture.parquet")["id"].to_pylist())
    assert left_out == set(docs["id"].to_pylist()) - set(made.docs["id"].to_pylist())
    assert len(left_out) == made.manifest["mix"]["left_out"]


def test_realised_within_a_thousandth(tmp_path: Path) -> None:
    lengths = np.maximum(2, np.random.default_rng(5).lognormal(4, 1.3, 5000)).astype(int).tolist()
    mix = {"groups": {"a": {"weight": 1}, "b": {"weight": 2}, "c": {"epochs": 1.37}}, "tokens": 700_000}
    made = build(sink(mix), [[documents({"a": 2000, "b": 1500, "c": 1500}, lengths)]], tmp_path)
    for row in made.manifest["mix"]["groups"]:
        assert row["realised"] == pytest.approx(row["solved"], rel=1e-3)
    assert made.n_tokens == pytest.approx(700_000, rel=1e-3)


def test_the_size_of_the_cluster(tmp_path: Path) -> None:
    """`dup_count` is of the others, so 0, 1, 2, 4, 99 and 999 are clusters of 1, 2, 3, 5, 100 and 1,000."""
    others = [0, 1, 2, 4, 99, 999] * 20
    docs = documents({"a": 120}, dup_count=pa.array(others, pa.int32()))
    made = build(sink({"upsample": "dup_count"}), [[docs]], tmp_path)
    times = Counter(made.docs["id"].to_pylist())
    assert [times[id_] for id_ in docs["id"].to_pylist()] == [1, 2, 3, 5, 8, 1] * 20
    assert upsampled(1 + np.array(others)).tolist() == [1, 2, 3, 5, 8, 1] * 20


def test_more_of_the_better(tmp_path: Path) -> None:
    """By x over two of four buckets, heights 1 : 3; 2,000 tokens of 1,000 a bucket are 0.5 and 1.5 epochs."""
    bucket = pa.array([at % 4 for at in range(400)] + [None] * 100, pa.int8())
    mix = {"by": ["lang"], "groups": {"en": {"tokens": 2000}, "zh": {"epochs": 1}},
           "quality": {"buckets": 4, "power": 1, "rate": 0, "floor": 0.5}}  # fmt: skip
    docs = documents({"a": 500}, bucket=bucket, lang=pa.array(["en"] * 400 + ["zh"] * 100))
    made = build(sink(mix), [[docs]], tmp_path)
    english = [row for row in made.docs.to_pylist() if row["lang"] == "en"]
    times = Counter(row["bucket"] for row in english)
    assert sum(times.values()) == 200
    assert times == {2: pytest.approx(50, abs=10), 3: pytest.approx(150, abs=10)}
    assert len(made.docs) - len(english) == 100, "no score, no curve"
    with pytest.raises(Refused, match=r"en is exhausted: 10,000 tokens .* at most 2 epochs of it are 8,000"):
        build(sink({**mix, "groups": {"en": {"tokens": 10_000}, "*": {"epochs": 1}}}), [[docs]], tmp_path / "more")
    with pytest.raises(Refused, match="a: 100 of 500 documents have no 'bucket'"):
        build(sink({"quality": mix["quality"]}), [[docs]], tmp_path / "some")


def test_languages_by_temperature(tmp_path: Path) -> None:
    """As many bytes a document: content is 900 : 100, its roots 30 : 10, so 750 : 250 of 1,000 documents."""
    docs = documents({"a": 1000}, lang=pa.array(["en"] * 900 + ["sw"] * 100))
    mix = {"by": ["lang"], "temperature": 2}
    made = build(sink(mix), [[docs]], tmp_path / "1")
    assert Counter(made.docs["lang"].to_pylist()) == {"en": 750, "sw": 250}
    made = build(sink({**mix, "premiums": {"sw": 100 / 81}}), [[docs]], tmp_path / "2")
    told = {row["group"]: row["realised"] for row in made.manifest["mix"]["groups"]}
    assert told["en"] / told["sw"] == pytest.approx(3 / 1 * (100 / 81) ** -0.5, abs=0.05)


@pytest.mark.parametrize(
    ("mix", "said"),
    [
        ({"groups": {"a": {"wieght": 3}}}, "stages[1].shards.mix.groups.a.wieght: unknown key"),
        ({"groups": {"a": {"wieght": 3}}}, "did you mean 'weight'?"),
        ({"group": {}}, "did you mean 'groups'?"),
        ({"groups": {"a": {"weight": 1, "epochs": 1}}}, "give exactly one of weight, tokens and epochs"),
        ({"temperature": 2, "groups": {"*": {"epochs": 1}}}, "the temperature gives the weights"),
        ({"premiums": {"zh": 1}}, "premiums are of use with a temperature only"),
        ({"temperature": 2, "premiums": {"zh": 1}, "groups": {"zh": {"epochs": 1}}}, "zh has a premium and a share"),
        ({"by": ["mime"]}, "the index of a corpus does not have 'mime'"),
    ],
)
def test_mistakes_are_said(mix: dict, said: str) -> None:
    raw = {"name": "x", "stages": [{"collect": {"paths": ["x"]}}, {"shards": {"mix": mix}}]}
    with pytest.raises(config.ConfigError) as refused:
        config.check(raw, "x.yaml")
    assert said in str(refused.value)


def test_one_name_is_not_for_two_groups(tmp_path: Path) -> None:
    docs = documents({"x": 20, "x/y": 20}, url=pa.array(["y/z"] * 20 + ["z"] * 20))
    with pytest.raises(Refused, match="different values of the columns it is by are all called x/y/z"):
        build(sink({"by": ["source", "url"], "groups": {"*": {"epochs": 1}}}), [[docs]], tmp_path)


def test_a_bucket_is_a_whole_number(tmp_path: Path) -> None:
    docs = documents({"a": 20}, lang_score=pa.array([0.5] * 20))
    with pytest.raises(Refused, match="'lang_score' is not of integers, as a bucket is, but double"):
        build(sink({"quality": {"column": "lang_score"}, "tokens": 100}), [[docs]], tmp_path)


def test_a_group_all_held_out_has_nothing_to_give(tmp_path: Path) -> None:
    docs = documents({"a": 400, "b": 1})
    seed = next(
        seed for seed in range(100) if Shards(val_fraction=0.2, seed=seed).keys(docs["id"][-1:].to_pylist())[0] >> 63
    )
    mix = {"groups": {"a": {"weight": 1}, "b": {"weight": 1}}}
    made = build(sink(mix, val_fraction=0.2, seed=seed), [[docs]], tmp_path)
    told = {row["group"]: row for row in made.manifest["mix"]["groups"]}
    assert (told["b"]["documents"], told["b"]["realised"], told["b"]["exhausted"]) == (0, 0, True)
    assert told["a"]["realised"] == told["a"]["tokens"]


def test_the_columns_it_reads_are_needed() -> None:
    assert sink({"by": ["lang"], "upsample": "dup_count", "quality": {}}).needs[-3:] == ("lang", "dup_count", "bucket")
    for wrong in ({"rate": 51}, {"power": 51}):
        with pytest.raises(ValidationError, match="less than or equal to 50"):
            sink({"quality": wrong})
    with pytest.raises(ValidationError):
        sink({"tokens": float("inf")})


def test_buckets_counted_otherwise_than_the_curve_says_are_refused(tmp_path: Path) -> None:
    docs = documents({"a": 400}, bucket=pa.array([at % 10 for at in range(400)], pa.int8()))
    with pytest.raises(Refused, match=r"'bucket' goes up to 9 only: quality\.buckets has to be .* not 20"):
        build(sink({"quality": {}}), [[docs]], tmp_path / "fewer")
    with pytest.raises(Refused, match=r"a: 'bucket' goes up to 9, so quality\.buckets, 5, is too low"):
        build(sink({"quality": {"buckets": 5}}), [[docs]], tmp_path / "more")
    build(sink({"quality": {"buckets": 10}}), [[docs]], tmp_path / "right")


@pytest.mark.parametrize("mix", [{"groups": {"a": {"epochs": 5}}}, {"groups": {"a": {"epochs": 3, "max_epochs": 2}}}])
def test_more_epochs_than_the_most_are_a_mistake_before_anything_runs(mix: dict) -> None:
    with pytest.raises(ValidationError, match=r"a asks for . epochs, but max_epochs is"):
        sink(mix)


def test_copies_that_stand_for_duplicates_count_for_the_temperature(tmp_path: Path) -> None:
    """Each of the 100 en stands for 5, so comes up 3 or more times: evened out, both languages have as many bytes."""
    docs = documents({"a": 200}, lang=pa.array(["en"] * 100 + ["sw"] * 100), dup_count=pa.array([4] * 100 + [0] * 100))
    copies = int(upsampled(np.array([5]))[0])
    for temperature, most in ((1, copies), (1e9, 1)):
        mix = {"by": ["lang"], "temperature": temperature, "upsample": "dup_count"}
        made = build(sink(mix), [[docs]], tmp_path / str(most))
        told = {row["group"]: row for row in made.manifest["mix"]["groups"]}
        assert told["en"]["tokens"] == 100 * LENGTH * copies
        assert told["en"]["realised"] == pytest.approx(most * told["sw"]["realised"], rel=0.02)


def test_the_temperature_goes_by_bytes(tmp_path: Path) -> None:
    """sw has as many tokens as en in twice the bytes: evened out, it is repeated half as often."""
    docs = documents({"a": 200}, lang=pa.array(["en"] * 100 + ["sw"] * 100))
    texts = [text if at < 100 else text + "x" * (len(text)) for at, text in enumerate(docs["text"].to_pylist())]
    docs = docs.set_column(docs.column_names.index("text"), "text", pa.array(texts))
    made = build(sink({"by": ["lang"], "temperature": 1e9, "tokens": 1800}), [[docs]], tmp_path)
    told = {row["group"]: row["realised"] for row in made.manifest["mix"]["groups"]}
    assert told == {"en": pytest.approx(1200, rel=0.02), "sw": pytest.approx(600, rel=0.02)}


FORMS = [
    {"by": ["source"], "groups": {"web*": {"weight": 2}, "wiki": {"epochs": 3}, "*": {"tokens": 500}}, "tokens": 5000},
    {"by": ["source"], "tokens": 2500},
    {"by": ["lang"]},
    {"by": ["lang"], "temperature": 3.3, "premiums": {"zh": 0.93}},
    {"by": ["lang", "bucket"], "groups": {"*": {"epochs": 1.5}}},
    {"by": ["lang"], "quality": {"rate": 1, "floor": 0.2}, "tokens": 3000},
    {"by": ["lang"], "upsample": "dup_count", "temperature": 2},
    {"by": ["lang"], "groups": {"en": {"tokens": 1e9}, "*": {"epochs": 1}}},
    {"by": ["id"], "tokens": 20},
]


@pytest.mark.parametrize("mix", FORMS)
def test_what_is_foreseen_of_documents_at_rest_is_what_comes(mix: dict, tmp_path: Path) -> None:
    rows = 500
    docs = documents(
        {"web/a": 200, "web/b": 100, "wiki": 100, "books": 100}, [8 + at % 9 for at in range(rows)],
        lang=pa.array(["en", "zh", "sw", None, "en"] * 100),
        bucket=pa.array([at % 20 for at in range(rows)], pa.int8()),
        dup_count=pa.array([at % 7 for at in range(rows)], pa.int32()),
    )  # fmt: skip
    at_rest = [tmp_path / "0.parquet", tmp_path / "1.parquet", tmp_path / "2.parquet"]
    for path, part in zip(at_rest, (docs.slice(0, 300), docs.slice(0, 0), docs.slice(300))):
        pq.write_table(part, path)
    stage = sink(mix, val_fraction=0.1)
    foreseen = stage.foreseen(at_rest)
    parts = [[docs.slice(0, 300)], [docs.slice(300)]]
    if "refused" in foreseen:
        with pytest.raises(Refused, match=re.escape(foreseen["refused"])):
            build(stage, parts, tmp_path / "out")
    else:
        came = build(stage, parts, tmp_path / "out").manifest["mix"]
        assert {name: came[name] for name in foreseen} == foreseen
    assert ("refused" in foreseen) == (mix in FORMS[-2:])


def test_where_nothing_is_to_be_settled_nothing_is_foreseen(tmp_path: Path) -> None:
    docs = documents({"a": 5})
    pq.write_table(docs, tmp_path / "docs.parquet")
    pq.write_table(docs.slice(0, 0), tmp_path / "none.parquet")
    for fields in ({"val_fraction": 0.5, "seed": 9}, {"val_fraction": 0}):
        stage = sink({"tokens": 10}, **fields)
        assert stage.foreseen([tmp_path / "none.parquet"]) is None
    everything_held_out = next(seed for seed in range(1, 999) if (
        sink({}, val_fraction=0.5, seed=seed).keys(docs["id"].to_pylist()) >> np.uint64(63)).all())  # fmt: skip
    stage = sink({"tokens": 10}, val_fraction=0.5, seed=everything_held_out)
    assert stage.foreseen([tmp_path / "docs.parquet"]) is None
    assert len(build(stage, [[docs]], tmp_path / "out").docs) == 5


def test_groups_of_less_than_a_document_are_said(tmp_path: Path) -> None:
    mix = {"by": ["url"], "tokens": 100}
    docs = documents(
        {"a": 100},
    )
    docs = docs.set_column(docs.column_names.index("url"), "url", pa.array([f"http://{at}" for at in range(100)]))
    with pytest.raises(Refused, match="its 100 groups come to less than one each"):
        build(sink(mix), [[docs]], tmp_path)


def test_more_copies_than_can_be_counted_are_refused(tmp_path: Path) -> None:
    mix = {"groups": {"a": {"epochs": 40_000, "max_epochs": 50_000}}}
    with pytest.raises(Refused, match="a: a document would come up 40,000 times"):
        build(sink(mix), [[documents({"a": 3})]], tmp_path)


def test_no_mixture_no_trace(tmp_path: Path) -> None:
    made = build(Shards(val_fraction=0), [[documents(FIVE)]], tmp_path)
    assert "copy" not in made.docs.column_names
    assert "mix" not in made.manifest
    assert not (tmp_path / "rejected").exists()


RUN = """
name: mixed
workers: 0
stages:
  - rows
  - dedup: {levels: [exact]}
  - tokens: {train: {vocab_size: 300}}
  - shards:
      val_fraction: 0.02
      mix: {by: [source], groups: {web*: {weight: 1}, "wiki.txt": {epochs: 3}}, tokens: TOKENS}
"""


def test_a_run_balances_and_plan_explains(workshop: Workshop) -> None:
    number = count()
    for name, lines in (("web1.txt", 300), ("web2.txt", 200), ("wiki.txt", 60)):
        workshop.write(f"in/{name}", "".join(f"A line of {name}, number {next(number)}.\n" for _ in range(lines)))
    workshop.write("mixed.yaml", RUN.replace("TOKENS", "10000000"))
    assert "web*: weight 1" in workshop.run("plan", "mixed.yaml")
    assert "every group with a weight is exhausted, web* (" in workshop.run("run", "mixed.yaml", code=2)
    refused = workshop.run("plan", "mixed.yaml", code=2)
    assert "cannot be had: the mixture cannot come to 10,000,000 tokens" in refused
    asked = 6000
    workshop.write("mixed.yaml", RUN.replace("TOKENS", str(asked)))
    foreseen = workshop.run("plan", "mixed.yaml")
    said = workshop.run("run", "mixed.yaml")
    assert "tokens: " not in said, "nothing is tokenized again for another mixture"
    homes = [path for path in (workshop.folder / "runs/mixed").glob("*-shards-*") if (path / "manifest.json").exists()]
    (home,) = homes
    manifest = json.loads((home / "manifest.json").read_text())
    told = {row["group"]: row for row in manifest["mix"]["groups"]}
    gone = manifest["mix"]["left_out"]
    assert 0 < gone == told["web*"]["left_out"]
    assert told["wiki.txt"]["realised"] == 3 * told["wiki.txt"]["tokens"]
    assert manifest["mix"]["tokens"] == pytest.approx(asked, rel=2e-3)
    assert f"mixture {gone}" in said
    report = json.loads((workshop.folder / "runs/mixed/report.json").read_text())
    assert report["imbalances"] == []
    assert report["documents_in"] == 560 == report["documents_out"] + gone
    ledger = pq.read_table(workshop.folder / "runs/mixed/ledger").to_pylist()
    assert len({row["id"] for row in ledger}) == len(ledger) == 560
    assert Counter((row["stage"], row["reason"]) for row in ledger)["shards", "mixture"] == gone
    assert f"{told['web*']['realised']:,}" in foreseen
    settled = workshop.run("plan", "mixed.yaml")
    assert settled[settled.index("mixture") :] == foreseen[foreseen.index("mixture") :]
    assert "verified" in workshop.run("verify", "mixed")
    left = next(row["id"] for row in ledger if row["reason"] == "mixture")
    explained = workshop.run("explain", "mixed", left)
    assert "left at shards: mixture" in explained
    assert "A line of web" in explained, "its text is where it was last"
    workshop.run("show", "mixed", "--rejected", "mixture")
    assert "nothing to do" in workshop.run("run", "mixed.yaml")
    for number in (1, 6, 300):
        shown = set(re.findall(r"─ ([0-9a-f]{32})", workshop.run("show", "mixed", "-n", str(number))))
        assert len(shown) == number
        assert shown <= {row["id"] for row in ledger if row["stage"] is None}, "what was left out did not survive"
    thrice = next(row["id"] for row in ledger if row["source"] == "wiki.txt" and row["stage"] is None
                  and row["id"] in copies_of(home, 3))  # fmt: skip
    assert ", and 2 more times" in workshop.run("explain", "mixed", thrice)
    workshop.run("report", "mixed")
    page = (workshop.folder / "runs/mixed/report.html").read_text()
    assert "Mixture by source, in tokens" in page
    assert f">{told['web*']['realised']:,}<" in page
    workshop.write("in/web3.txt", "One more line.\n")
    assert "as asked" in workshop.run("plan", "mixed.yaml"), "the mixture that is there is of other documents"


def copies_of(home: Path, times: int) -> set[str]:
    counts = Counter(pq.read_table(home / "docs.parquet")["id"].to_pylist())
    return {id_ for id_, number in counts.items() if number == times}


def test_groups_that_are_exhausted_are_said_in_the_end(workshop: Workshop) -> None:
    for name, lines in (("web1.txt", 300), ("wiki.txt", 20)):
        workshop.write(f"in/{name}", "".join(f"Line {number} of {name}.\n" for number in range(lines)))
    recipe = RUN.replace("{epochs: 3}", "{weight: 1}").replace("TOKENS", "3000")
    workshop.write("mixed.yaml", recipe)
    said = workshop.run("run", "mixed.yaml")
    (home,) = (workshop.folder / "runs/mixed").glob("*-shards-*")
    told = {row["group"]: row for row in json.loads((home / "manifest.json").read_text())["mix"]["groups"]}
    assert told["wiki.txt"]["exhausted"]
    assert f"mixture: wiki.txt is exhausted: {told['wiki.txt']['realised']:,} of 1,500 tokens, 4 epochs" in said
    assert "web* is exhausted" not in said


def test_little_of_much_is_found_and_empty_partitions_are_no_hindrance(workshop: Workshop) -> None:
    workshop.write("in/a.txt", "".join(f"Line {number} of a page.\n" for number in range(900)))
    workshop.write("in/empty.txt", "\n\n")
    recipe = RUN.replace("TOKENS", "150").replace('web*: {weight: 1}, "wiki.txt": {epochs: 3}', "a.txt: {weight: 1}")
    workshop.write("mixed.yaml", recipe.replace("0.02", "0"))
    workshop.run("run", "mixed.yaml")
    (home,) = (workshop.folder / "runs/mixed").glob("*-shards-*")
    there = set(pq.read_table(home / "docs.parquet")["id"].to_pylist())
    assert len(there) < 20
    for words in (("-n", "3"), ("-n", "3", "--stage", "shards")):
        shown = set(re.findall(r"─ ([0-9a-f]{32})", workshop.run("show", "mixed", *words)))
        assert len(shown) == 3
        assert shown <= there
    page = (workshop.folder / "runs/mixed/report.html").read_text()
    kept = page[page.index("Kept, some samples") :]
    shown = set(re.findall(r'class="id">([0-9a-f]{32})', kept))
    assert shown
    assert shown <= there


def test_what_is_asked_is_told_whole_before_a_run(workshop: Workshop) -> None:
    workshop.write("in/web.txt", "One line.\n")
    mix = "{by: [source], tokens: 1234567, temperature: 3.3, quality: {column: n_tokens, rate: 3}}"
    recipe = RUN[: RUN.index("      mix:")] + f"      mix: {mix}\n"
    workshop.write("mixed.yaml", recipe)
    said = workshop.run("plan", "mixed.yaml")
    assert "all together, by source: tokens 1,234,567, max_epochs 4, temperature 3.3, quality (column n_tok" in said


def test_the_order_of_patterns_is_part_of_the_mixture(workshop: Workshop) -> None:
    workshop.write("in/web_de.txt", "Ein Text.\n")
    patterns = ["web*: {epochs: 1}", "'*de.txt': {epochs: 2}"]
    folders = set()
    for order in (patterns, patterns[::-1]):
        groups = ", ".join(order)
        recipe = RUN.replace(", tokens: TOKENS", "").replace('web*: {weight: 1}, "wiki.txt": {epochs: 3}', groups)
        workshop.write("mixed.yaml", recipe)
        folders |= set(re.findall(r"\d-shards-\w+", workshop.run("plan", "mixed.yaml")))
    assert len(folders) == 2


def test_another_mixture_of_a_run_that_was_moved_has_its_own_tokenizer(workshop: Workshop) -> None:
    """The old place may be another run's since then."""
    workshop.write("in/web.txt", "".join(f"Line {number} of a page.\n" for number in range(300)))
    recipe = RUN.replace("TOKENS", "2000").replace(', "wiki.txt": {epochs: 3}', "")
    workshop.write("mixed.yaml", recipe)
    workshop.run("run", "mixed.yaml")
    runs = workshop.folder / "runs"
    (runs / "mixed").rename(runs / "moved")
    learned = next((runs / "moved").glob("*-tokens-*/fit/*.tokenizer.json"))
    wrong = runs / "mixed" / learned.relative_to(runs / "moved")
    wrong.parent.mkdir(parents=True)
    wrong.write_text("{}")
    workshop.write("moved.yaml", recipe.replace("mixed", "moved").replace("2000", "2500"))
    said = workshop.run("run", "moved.yaml")
    assert "tokens: " not in said
    made = corpus.open(runs / "moved")
    assert (made.folder / "tokenizer.json").read_bytes() == learned.read_bytes()
    assert made.manifest["mix"]["tokens"] == pytest.approx(2500, rel=5e-3)


def test_tokens_may_rest_before_a_barrier_and_partitions_may_lose_all(workshop: Workshop) -> None:
    for number in range(40):
        workshop.write(f"in/{number}.txt", f"Page {number}, with {'more ' * number} in it.\n")
    workshop.write(
        "mixed.yaml",
        """
name: mixed
workers: 0
stages:
  - rows
  - tokens: {train: {vocab_size: 300}}
  - keep: {column: n_tokens, rate: 0.5, by: null}
  - shards: {val_fraction: 0, mix: {by: [source], groups: {"*": {epochs: 1}}}}
""",
    )
    workshop.run("run", "mixed.yaml")
    made = corpus.open(workshop.folder / "runs/mixed")
    assert len(made.docs) == 20
    assert made.docs["n_tokens"].to_numpy().min() > 20
    assert made.docs["n_tokens"].to_numpy().sum() == made.manifest["tokens"]


def test_each_increment_is_mixed_of_its_own_documents(workshop: Workshop) -> None:
    recipe = RUN.replace("workers: 0", "workers: 0\nincremental: true").replace("rows", "collect: {paths: [in]}")
    recipe = recipe.replace("levels: [exact]", "index: index").replace(", tokens: TOKENS", "")
    workshop.write("mixed.yaml", recipe.replace("by: [source]", "by: [charset]").replace(
        '{web*: {weight: 1}, "wiki.txt": {epochs: 3}}', '{"*": {epochs: 2}}'))  # fmt: skip
    for night, number in ((1, 40), (2, 25)):
        for page in range(number):
            workshop.write(f"in/{night}-{page}.txt", f"Page {page} of night {night}, of which there is one.\n" * 3)
        workshop.run("run", "mixed.yaml")
    made = corpus.open(workshop.folder / "runs/mixed")
    assert made.manifest["mix"]["documents"] + made.manifest["mix"]["left_out"] == 25
    copies = Counter(made.docs["id"].to_pylist())
    held_out = {id_ for shard in made.shards if shard.split == "val"
                for id_ in made.docs["id"].slice(shard.first, shard.documents).to_pylist()}  # fmt: skip
    assert len(copies) == 65
    assert copies == {id_: 1 if id_ in held_out else 2 for id_ in copies}
    assert workshop.run("verify", "mixed")
