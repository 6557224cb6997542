"""A tokenizer of the corpus's own: the same for the same text, balanced, measured on text it has not seen."""

import base64
import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from typer.testing import CliRunner

from stages import tokens
from stages.kernels import mixture
from stages.learning import balance, corpora, ranks, tokenizer
from stages.learning.balance import Asked, Balance
from stages.learning.corpora import Unusable
from stages.learning.ranks import EOS

SAMPLE = ROOT / "data_samples/sample_text.jsonl.gz"
HOSTILE = [
    " ", "\r\n\r\n ", "\x00\x7f\x80\ufeff\ufffd\U0010ffff", "e\u0301" * 40, "don't DON'T I'LL ’s", "👩‍👩‍👧‍👦🏳️‍🌈 🫨",
    "中文 and English 混在一起。", "「日本語」のテスト", "한국어 문장", "ทดสอบภาษาไทย", "नमस्ते१२३", "1234567890 ³½Ⅷ",
    "def f(x):\n\treturn  x  \n\n", "/usr/bin//\n/x.\n/y", *(char * 300 for char in "a1 \né。-="), "ab" * 200, EOS,
]  # fmt: skip


def real() -> list[dict[str, Any]]:
    """25 articles of the English Wikipedia, 60 Tang poems."""
    with gzip.open(SAMPLE, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The report and the folder of a training on the sample, beside a vocabulary called GPT-2."""
    folder = tmp_path_factory.mktemp("learned")
    content = json.loads(tokens.trained([[doc["text"] for doc in real()]], 400, EOS).to_str())
    ranks.write(folder / "vocabularies/r50k_base.tiktoken", content)
    asked = Asked((SAMPLE,), 2000, Balance.LANG, 0.2, (600, 1000), vocabularies=(folder / "vocabularies",))
    return tokenizer.learn(asked, folder / "out"), folder / "out"


def table(docs: list[dict[str, Any]], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({name: [doc[name] for doc in docs] for name in ("text", "lang", "source")}), path)
    return path


def test_the_same_bytes_whatever_the_order_and_the_format(learned: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    docs = real()[::-1]
    parts = [table(docs[at::3], tmp_path / f"in/{at}.parquet") for at in (2, 0, 1)]
    again = tokenizer.learn(Asked(tuple(parts), 2000, Balance.LANG, 0.2, (600, 1000)), tmp_path / "out")
    for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.tiktoken"):
        assert (tmp_path / "out" / name).read_bytes() == (learned[1] / name).read_bytes()
    told, _ = learned
    assert (again["sample"], again["curve"], again["sha256"]) == (told["sample"], told["curve"], told["sha256"])
    assert again["tokenizers"]["this"] == told["tokenizers"]["this"]
    assert again["missing"] == ["cl100k", "gpt2", "o200k"]


def test_another_seed_is_another_sample(learned: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    tokenizer.learn(Asked((SAMPLE,), 2000, Balance.LANG, 0.2, seed=2), tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() != (learned[1] / "tokenizer.json").read_bytes()


def test_a_small_vocabulary_is_the_beginning_of_a_large_one() -> None:
    texts = [[doc["text"] for doc in real()], HOSTILE]
    large, small = (json.loads(tokens.trained(iter(texts), size, EOS).to_str()) for size in (3000, 1100))
    assert tokenizer.smaller(large, 1100) == small
    assert tokenizer.smaller(large, 3000) == large


def asked_for(docs: list[dict[str, Any]], folder: Path, **fields: Any) -> Asked:
    return Asked((table(docs, folder / "docs.parquet"),), 1000, **fields)


def test_what_is_measured_was_never_learned(tmp_path: Path) -> None:
    """Copies and all: every text is on one side, and none is on neither."""
    docs = real() * 2 + [{"text": "", "lang": "en", "source": "x"}]
    asked = asked_for(docs, tmp_path, heldout=0.3)
    settled = balance.limits(asked)
    learned = {text for batch in balance.sampled(asked, settled) for text in batch}
    measured = set(balance.held_out(asked, settled).docs["text"].to_pylist())
    assert not learned & measured
    assert learned | measured == {doc["text"] for doc in real()}
    assert 0.1 * len(docs) < 2 * len(measured) < 0.5 * len(docs)


def test_equal_bytes_of_each_language_as_far_as_there_is(tmp_path: Path) -> None:
    """Of 90 kB, b has 10 and a and c 300 each: 10 of b, 40 of the others, to within one document of 100 bytes."""
    docs = [
        {"text": f"{lang} {at} ".ljust(100, "."), "lang": lang, "source": f"{lang}{at % 2}"}
        for lang, count in (("a", 3000), ("b", 100), ("c", 3000))
        for at in range(count)
    ]
    asked = asked_for(docs, tmp_path, balance=Balance.LANG, heldout=1e-9, sample_bytes=90_000)
    settled = balance.limits(asked)
    assert settled.told == [
        {"group": "a", "bytes": 300_000, "taken": 40_000, "texts": 400},
        {"group": "b", "bytes": 10_000, "taken": 10_000, "texts": 100},
        {"group": "c", "bytes": 300_000, "taken": 40_000, "texts": 400},
    ]
    texts = [text for batch in balance.sampled(asked, settled) for text in batch]
    assert [sum(text[0] == lang for text in texts) for lang in "abc"] == [400, 100, 400]
    by_source = balance.limits(asked._replace(balance=Balance.SOURCE))
    assert [row["taken"] for row in by_source.told] == [20_000, 20_000, 5_000, 5_000, 20_000, 20_000]
    (by_chance,) = balance.limits(asked._replace(balance=None)).told
    assert by_chance == {"group": "all", "bytes": 610_000, "taken": 90_000, "texts": 900}


def test_of_copies_one_is_taken_and_counted(tmp_path: Path) -> None:
    """A page of 10 kB that is there 500 times, in two languages, in a file of each: whatever is asked for, it is taken
    once, counts for the first language, and what is told is what is learned from."""
    page = "a boilerplate page. " * 500
    docs = [{"text": f"{lang} {at} ".ljust(1000, "."), "lang": lang, "source": "s"} for lang in ("en", "zh")
            for at in range(300)]  # fmt: skip
    copies = [{"text": page, "lang": lang, "source": "s"} for lang in ("zh", "en") for _ in range(250)]
    whole = tuple(
        table(part, tmp_path / f"{at}.parquet") for at, part in enumerate((docs + copies[:100], copies[100:]))
    )
    lengths = {doc["text"]: len(doc["text"]) for doc in docs}
    sides = set()
    for seed in range(1, 31):
        asked = Asked(whole, 300, Balance.LANG, 0.2, sample_bytes=100_000, seed=seed)
        settled = balance.limits(asked)
        turned = balance.limits(asked._replace(corpora=whole[::-1]))
        assert (settled.told, settled.measured) == (turned.told, turned.measured)
        assert np.array_equal(settled.sample, turned.sample)
        assert settled.read["copies"] == 499
        texts = [text for batch in balance.sampled(asked, settled) for text in batch]
        held = balance.held_out(asked, settled).docs
        assert len(texts) == len(set(texts)) == sum(row["texts"] for row in settled.told)
        assert sorted([*texts, *held["text"].to_pylist()]) == sorted({*texts, *held["text"].to_pylist()})
        for row in settled.told:
            own = [text for text in texts if text[:2] == row["group"]]
            extra = len(page) if row["group"] == "en" and page in texts else 0
            assert row["taken"] == sum(map(lengths.__getitem__, own)) + extra
            assert 50_000 <= row["taken"] <= 60_000
        sides |= {page in texts, page in held["text"].to_pylist() and "held"}
        assert held.filter(pa.array([text == page for text in held["text"].to_pylist()]))["lang"].to_pylist() in (
            [],
            ["en"],
        )
    assert sides == {True, False, "held"}, "now it was learned from, now measured on, now neither"


def plainly_settled(order: Any, group: Any, size: Any, groups: int, total: int) -> tuple[list[int], list[Any]]:
    """Group by group: texts in their order until the group has given its share, the last one whole."""
    available = np.bincount(group, size, groups)
    wanted = mixture.filled(np.ones(groups), available, min(total, available.sum()))
    every, told = [], []
    for at in range(groups):
        taken: list[tuple[int, int]] = []
        for place in sorted(np.flatnonzero(group == at).tolist(), key=lambda place: int(order[place])):
            if sum(size for _, size in taken) < wanted[at] - 0.5:
                taken.append((place, int(size[place])))
        every += [place for place, _ in taken]
        told.append({"bytes": int(available[at]), "taken": sum(size for _, size in taken), "texts": len(taken)})
    return sorted(every), told


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 5), st.integers(1, 40)), max_size=40,
                unique_by=lambda doc: doc[0]), st.integers(0, 500))  # fmt: skip
def test_what_is_taken_is_what_a_plain_count_takes(docs: list[tuple[int, int, int]], total: int) -> None:
    order, group, size = (np.array([doc[at] for doc in docs], kind) for at, kind in enumerate((np.uint64, int, int)))
    taken, told = balance._settled(order, group, size, 6, total)
    assert (np.flatnonzero(taken).tolist(), told) == plainly_settled(order, group, size, 6, total)


def test_many_sources_cost_no_more_than_one(tmp_path: Path) -> None:
    """40,000 sources took 20 CPU-seconds where each looked through all documents, and a fifth of one now."""
    docs = [{"text": f"a b c d {at}", "lang": "en", "source": f"s{at}"} for at in range(40_000)]
    asked = asked_for(docs, tmp_path, balance=Balance.SOURCE)
    start = time.process_time()
    settled = balance.limits(asked)
    assert time.process_time() - start < 5
    assert len(settled.told) > 37_000


def test_the_largest_sources_are_shown_and_all_are_told(tmp_path: Path) -> None:
    docs = [{"text": f"{doc['text']} {at}", "lang": "en", "source": f"source {at:03}"}
            for at, doc in enumerate(real()[:60] * 2)]  # fmt: skip
    told = tokenizer.learn(asked_for(docs, tmp_path, balance=Balance.SOURCE, heldout=0.3), tmp_path / "out")
    page = (tmp_path / "out/report.md").read_text(encoding="utf-8")
    sample = page.split("## ")[1]
    shown = [line.split("|")[1].strip() for line in sample.splitlines() if line.startswith("| source")]
    largest = sorted(told["sample"], key=lambda row: (-row["bytes"], row["group"]))
    assert shown == [row["group"] for row in largest[:20]]
    assert f"{len(largest) - 20} more are in report.json" in sample
    assert len(largest) > 60
    held = [row for row in told["tokenizers"]["this"]["rows"] if row["by"] == "source"]
    assert f"{len(held) - 20} more are in report.json" in page.split("## ")[2]


def plain_ids(path: Path, texts: list[str]) -> list[list[int]]:
    """Ids by `tokenizers` alone, text by text."""
    made = Tokenizer.from_file(str(path))
    return [made.encode(text, add_special_tokens=False).ids for text in texts]


def test_figures_are_those_of_a_plain_count(learned: tuple[dict[str, Any], Path]) -> None:
    told, out = learned
    path = out / "tokenizer.json"
    asked = Asked((SAMPLE,), 2000, Balance.LANG, 0.2)
    texts = balance.held_out(asked, balance.limits(asked)).docs.to_pylist()
    rows = {row["group"]: row for row in told["tokenizers"]["this"]["rows"]}
    for lang in ("en", "zh-Hant"):
        own = [doc["text"] for doc in texts if doc["lang"] == lang]
        made = sum(map(len, plain_ids(path, own)))
        assert rows[lang]["documents"] == len(own) > 2
        assert rows[lang]["tokens"] == made
        assert rows[lang]["bytes_per_token"] == pytest.approx(sum(len(text.encode()) for text in own) / made)
    poems = [doc["text"] for doc in texts if doc["lang"] == "zh-Hant"]
    characters = sum(not char.isspace() for text in poems for char in text)
    assert rows["zh-Hant"]["tokens_per_character"] == pytest.approx(rows["zh-Hant"]["tokens"] / characters)
    assert rows["zh-Hant"]["tokens_per_word"] is None
    assert rows["en"]["tokens_per_character"] is None
    words = [word.strip("\"'()[].,;:!?–—-/“”$%&*+=~’‘#°|<>…×€@_^`{}\\§") for doc in texts if doc["lang"] == "en"
             for word in doc["text"].split()]  # fmt: skip
    costs = [len(ids) for ids in plain_ids(path, [f" {word}" for word in words if word])]
    assert rows["en"]["tokens_per_word"] == pytest.approx(np.mean(costs), rel=0.002)
    assert rows["en"]["continued_words"] == pytest.approx(np.mean(np.array(costs) > 1), rel=0.01)


def test_unused_ids_are_those_no_text_comes_to(learned: tuple[dict[str, Any], Path]) -> None:
    told, out = learned
    texts = [doc["text"] for doc in real()]
    used = {id_ for ids in plain_ids(out / "tokenizer.json", texts) for id_ in ids}
    assert tokenizer.unused(out / "tokenizer.json", [texts[:3], texts[3:]]) == 2000 - 1 - len(used)
    assert 0 < told["unused_in_sample"] < told["tokenizers"]["this"]["unused_held_out"] < 2000


def test_common_han_characters() -> None:
    found = tokenizer.common_han()
    assert (len(found), len(set(found)), found[0], found[-1]) == (3755, 3755, "啊", "座")
    assert set("的一是不了人我在有他这中大来上国") <= set(found)
    assert not set("齉龘體國") & set(found)


def test_the_knee_by_hand() -> None:
    """(100 + 1000) / 2, (100 + 2000) / 4 and (100 + 4000) / 5 operations: 550, 525, 820, times six."""
    groups = {1000: (20, 20), 2000: (40, 40), 4000: (100, 100 / 3)}

    def facts(size: int) -> dict[str, Any]:
        return {"rows": [{"by": "lang", "bytes": 100, "tokens": 1000 / value} for value in groups[size]]}

    rows = tokenizer.curve({size: facts(size) for size in groups}, "lang", body=100, width=1)
    assert [row["bytes_per_token"] for row in rows] == pytest.approx([2, 4, 5]), "harmonic: tokens of equal bytes"
    assert [row["cost"] for row in rows] == pytest.approx([3300, 3150, 4920])
    assert [row["knee"] for row in rows] == [False, True, False]


def test_a_language_counts_the_same_in_the_knee_whatever_there_is_of_it() -> None:
    """1,000 bytes in 250 tokens and 10 bytes in 10: a byte of each costs 0.25 and 1, the mean is 0.625 of a token."""
    rows = [{"by": "lang", "bytes": 1000, "tokens": 250}, {"by": "lang", "bytes": 10, "tokens": 10},
            {"by": "source", "bytes": 1010, "tokens": 260}]  # fmt: skip
    (row,) = tokenizer.curve({1000: {"rows": rows}}, "lang", body=100, width=1)
    assert row["bytes_per_token"] == pytest.approx(1 / 0.625)


def test_where_all_is_held_out_there_is_nothing_to_learn(tmp_path: Path) -> None:
    docs = [{"text": f"text {at}", "lang": "en", "source": "s"} for at in range(3)]
    with pytest.raises(Unusable, match="every text was held out"):
        balance.limits(asked_for(docs, tmp_path, heldout=1.0))


def test_without_a_size_the_knee_is_taken(tmp_path: Path) -> None:
    told = tokenizer.learn(Asked((SAMPLE,), None, None, 0.2, (400, 800, 1200), body=1, width=1), tmp_path)
    assert told["vocab_size"] == 400 == Tokenizer.from_file(str(tmp_path / "tokenizer.json")).get_vocab_size()
    assert "| knee |" in (report := (tmp_path / "report.md").read_text(encoding="utf-8"))
    assert "may be cheaper still" not in report
    told = tokenizer.learn(Asked((SAMPLE,), None, None, 0.2, (400, 800, 1200), body=1e9, width=1), tmp_path)
    assert told["vocab_size"] == 1200 == Tokenizer.from_file(str(tmp_path / "tokenizer.json")).get_vocab_size()
    assert "knee |" not in (report := (tmp_path / "report.md").read_text(encoding="utf-8")), "it may lie beyond"
    assert "larger ones may be cheaper still" in report


def plainly_ranked(piece: bytes, known: dict[bytes, int]) -> list[int]:
    """tiktoken's algorithm: a piece that is a token is one; else the neighbours of lowest rank become one."""
    if piece in known:
        return [known[piece]]
    parts = [piece[at : at + 1] for at in range(len(piece))]
    while True:
        found = [(known[one + two], at) for at, (one, two) in enumerate(zip(parts, parts[1:])) if one + two in known]
        if not found:
            return [known[part] for part in parts]
        _, at = min(found)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


def read_ranks(path: Path) -> dict[bytes, int]:
    return {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, path.read_bytes().splitlines())}


def test_ranks_give_the_ids_of_the_tokenizer(learned: tuple[dict[str, Any], Path]) -> None:
    made, known = Tokenizer.from_file(str(learned[1] / "tokenizer.json")), read_ranks(learned[1] / "tokenizer.tiktoken")
    assert len(known) == 1999
    shown = ranks._alphabet()
    for text in [*[doc["text"] for doc in real()[::6]], *HOSTILE[:-1]]:
        pieces = [bytes(shown[c] for c in piece) for piece, _ in made.pre_tokenizer.pre_tokenize_str(text)]
        wanted = [id_ for piece in pieces for id_ in plainly_ranked(piece, known)]
        assert made.encode(text, add_special_tokens=False).ids == wanted, text[:60]


def test_ranks_read_back_are_the_same_tokenizer(learned: tuple[dict[str, Any], Path]) -> None:
    content = json.loads((learned[1] / "tokenizer.json").read_text(encoding="utf-8"))
    pattern = content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    read = ranks.read(learned[1] / "tokenizer.tiktoken", pattern)
    one, other = Tokenizer.from_str(json.dumps(content)), Tokenizer.from_str(json.dumps(read))
    assert other.token_to_id(EOS) == 2000
    for text in [*[doc["text"] for doc in real()], *HOSTILE[:-1]]:
        assert other.encode(text).ids == one.encode(text).ids
        assert other.decode(one.encode(text).ids) == text


def test_tiktoken_agrees(learned: tuple[dict[str, Any], Path]) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    content = json.loads((learned[1] / "tokenizer.json").read_text(encoding="utf-8"))
    pattern = content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    known = read_ranks(learned[1] / "tokenizer.tiktoken")
    theirs = tiktoken.Encoding("own", pat_str=pattern, mergeable_ranks=known, special_tokens={EOS: 0})
    made = Tokenizer.from_str(json.dumps(content))
    made.encode_special_tokens = True
    for text in [*[doc["text"] for doc in real()], *HOSTILE]:
        assert theirs.encode_ordinary(text) == made.encode(text).ids


def test_transformers_loads_it(learned: tuple[dict[str, Any], Path]) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(str(learned[1]))
    assert (theirs.eos_token, theirs.eos_token_id, len(theirs)) == (EOS, 0, 2000)
    for text in [real()[0]["text"], real()[-1]["text"], *HOSTILE[:-1]]:
        ids = theirs(text)["input_ids"]
        assert [ids] == plain_ids(learned[1] / "tokenizer.json", [text])
        assert theirs.decode(ids) == text


@pytest.mark.parametrize("content", [b"not base64! 1\n", b"YQ== x\n", b"YQ==\n", b""])
def test_a_file_that_has_no_ranks_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "r50k_base.tiktoken").write_bytes(content)
    with pytest.raises(Unusable, match="expected a line a token"):
        ranks.read(tmp_path / "r50k_base.tiktoken", None)


def test_what_is_compared_and_what_is_missing_is_told(learned: tuple[dict[str, Any], Path]) -> None:
    told, out = learned
    assert told["missing"] == ["cl100k", "o200k"]
    theirs, own = (told["tokenizers"][name]["rows"][0] for name in ("gpt2", "this"))
    assert theirs["bytes"] == own["bytes"]
    assert theirs["tokens"] > 1.2 * own["tokens"], "400 ids against 2,000"
    text = (out / "report.md").read_text(encoding="utf-8")
    assert f"({own['bytes_per_token'] / theirs['bytes_per_token']:.2f}x)" in text
    assert "Not compared, as no file of it is here: cl100k, o200k (`npm install gpt-tokenizer`" in text
    assert [row["vocab_size"] for row in told["curve"]] == [600, 1000, 2000]


def test_a_run_is_its_last_group_with_text(tmp_path: Path) -> None:
    docs = real()
    table(docs, tmp_path / "1-dedup-aaaaaa/part-00000.parquet")
    kept = table(docs[:40], tmp_path / "2-lines-bbbbbb/part-00000.parquet")
    table(docs[40:], tmp_path / "2-lines-bbbbbb/rejected/part-00000.parquet")
    pq.write_table(pa.table({"id": ["a"], "input_ids": [[1]]}), tmp_path / "2-lines-bbbbbb/part-00001.parquet")
    (tmp_path / "3-shards-cccccc").mkdir()
    folders = [{"folder": name} for name in ("1-dedup-aaaaaa", "2-lines-bbbbbb", "3-shards-cccccc")]
    (tmp_path / "plan.json").write_text("{}")
    (tmp_path / "report.json").write_text(json.dumps({"state": "done", "funnel": [], "groups": folders}))
    assert corpora.files([tmp_path]) == [kept]
    assert corpora.files([tmp_path / "2-lines-bbbbbb"]) == [kept]
    assert sum(len(batch.texts) for batch in balance.documents(Asked((tmp_path,)))) == 40


def test_rows_that_are_no_documents_are_left_out_and_told(tmp_path: Path) -> None:
    lines = ['{"text": "one", "lang": "en"}', "{broken", '{"text": ""}', '{"text": null}', '{"text": "two"}', "7"]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    (batch,) = balance.documents(Asked((tmp_path,)))
    assert (batch.texts, batch.langs, batch.sources) == (
        ["one", "two"],
        ["en", "unknown"],
        [f"{tmp_path.name}/in.jsonl"] * 2,
    )
    table(real(), tmp_path / "deep/down/docs.parquet")
    (tmp_path / "deep/more.txt.gz").write_bytes(gzip.compress(b"A text."))
    told = tokenizer.learn(Asked((tmp_path,), 400, heldout=0.2), tmp_path / "out")
    assert told["read"] == {"documents": len(real()) + 3, "copies": 0, "unreadable": 2, "without_text": 2}
    page = (tmp_path / "out/report.md").read_text(encoding="utf-8")
    assert "2 rows could not be read, 2 had no text" in page


@pytest.fixture
def command() -> Callable[..., Any]:
    app = typer.Typer()
    tokenizer.commands(app)
    app.command()(lambda: None)
    runner = CliRunner()
    return lambda *words: runner.invoke(app, ["train-tokenizer", *map(str, words)], env={"COLUMNS": "200"})


def test_the_command(command: Any, tmp_path: Path) -> None:
    done = command(SAMPLE, "--vocab-size", "50000", "--byte-balance", "lang", "--heldout", "0.2", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert "ids and no more; 50,000 were asked for" in done.output
    assert "--sample-bytes" in done.output, "all of both languages was taken, and of one there is more"
    assert (tmp_path / "report.md").read_text(encoding="utf-8") in done.output
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["balance"] == "lang"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["missing.parquet", "--vocab-size", "1000"], "missing.parquet: no such file or folder"),
        ([ROOT / "LICENSE", "--vocab-size", "1000"], "LICENSE: no .parquet, .jsonl or .txt (.gz, .zst) there"),
        ([SAMPLE, "--vocab-size", "400", "--vocabulary", "nowhere"], "nowhere: none of r50k_base.tiktoken, "),
        ([SAMPLE], "give a --vocab-size, or --sizes"),
        ([SAMPLE, "--sizes", "1000,many"], "expected numbers with commas between"),
        ([SAMPLE, "--sizes", "100"], "of 300 and more"),
        ([SAMPLE, "--vocab-size", "400", "--heldout", "0.0001"], "no document was held out at a share of 0.0001"),
        ([SAMPLE, "--vocab-size", "400", "--byte-balance", "topic"], "topic"),
    ],
)  # fmt: skip
def test_a_mistake_is_a_sentence(command: Any, words: list[Any], said: str, tmp_path: Path) -> None:
    done = command(*words, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert said in " ".join(done.output.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


def test_no_language_no_balance(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a b c", "d e f"]}), tmp_path / "a.parquet")
    asked = Asked((tmp_path / "a.parquet",), 300, Balance.LANG)
    with pytest.raises(Unusable, match="no document names its language"):
        balance.limits(asked)
    assert balance.limits(asked._replace(balance=Balance.SOURCE)).told[0]["group"] == f"{tmp_path.name}/a.parquet"


def test_a_table_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(Unusable, match=r"a\.parquet: "):
        next(balance.documents(Asked((tmp_path,))))


@pytest.mark.parametrize("text", [[b"a"], [1]])
def test_a_column_of_no_text_is_a_sentence(command: Any, text: list[Any], tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": text}), tmp_path / "a.parquet")
    done = command(tmp_path / "a.parquet", "--vocab-size", "400", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "column 'text' is of" in done.output


def test_a_table_without_text_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(Unusable, match="no column 'text'; its columns are 'body'"):
        next(balance.documents(Asked((tmp_path / "a.parquet",))))
