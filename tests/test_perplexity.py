"""Character n-gram models: chances that sum to one, the kernel against plain Python, what the stage marks."""

import gzip
import json
import math
import re
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import typer
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.testing import CliRunner

from pipeline.schema import text_buffers
from stages.collect import Collect
from stages.extract import Extract
from stages.kernels import ngrams
from stages.kernels import text as characters
from stages.learning import perplexity as learning
from stages.models import ngrams as reader
from stages.perplexity import Perplexity

HOSTILE = ["", " ", "\n \t", "\0", "a", "  a", "a  ", "e\u0301", "\u0301", "１２３", "a\u200bb", "\ufeffa", "😀😀", "´"]


def real_texts(han: bool) -> list[str]:
    """Encyclopaedia in pieces of 800 characters, or Tang poems."""
    with gzip.open(ROOT / "data_samples/sample_text.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    texts = [row["text"] for row in rows if row["lang"].startswith("zh") == han]
    return [text[at : at + 800] for text in texts for at in range(0, len(text), 800)]


def column(texts: list[str | None]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(texts, pa.large_string())])


# What a text is to a model, in plain Python.


def plain(text: str) -> list[str]:
    """The folded characters of a text, " " for white space."""
    found = []
    for char in text:
        code, category = ord(char), unicodedata.category(char)
        folded = int(characters.fold()[code])
        if category == "Cc" or unicodedata.category(chr(folded))[0] == "Z":
            found.append(" ")
        elif folded and not (category == "Cf" and code in INVISIBLE) and not 0xFE00 <= code <= 0xFE0F:
            found.append("0" if category[0] == "N" and category != "Nl" else chr(folded))
    return [char for at, char in enumerate(found) if char != " " or (at and found[at - 1] != " ")]


INVISIBLE = {0xAD, 0xFEFF, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x206A)}


def symbols_of(text: str, known: np.ndarray) -> list[int]:
    numbers = {" ": ngrams.BLANK, **{chr(code): ngrams.FIRST + at for at, code in enumerate(known.tolist())}}
    found = [numbers.get(char, ngrams.UNKNOWN) for char in plain(text)]
    while found and found[-1] == ngrams.BLANK:
        found.pop()
    return found[1:] if found and found[0] == ngrams.BLANK else found


def unpacked(grams: np.ndarray, bits: int) -> list[int]:
    return [gram & ((1 << bits) - 1) for gram in grams.tolist()]


@given(st.lists(st.text() | st.sampled_from(HOSTILE), max_size=5))
def test_symbols_are_those_of_plain_python(texts: list[str]) -> None:
    known = np.array(sorted(map(ord, "abe0一é")), np.uint32)
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    found = ngrams.grams(*text_buffers(column(texts)), ngrams.symbols(known), 4, 16)
    assert unpacked(found, 16) == [symbol for text in texts for symbol in symbols_of(text, known)]


def test_a_text_is_folded_and_its_white_space_is_one_blank() -> None:
    same = ["Café 2024", " cafe\u0301\n\t ０000 ", "CA\u00adFE 1234"]
    known = np.array(sorted(map(ord, "acef0")), np.uint32)
    found = [ngrams.grams(*text_buffers(column([text])), ngrams.symbols(known), 4, 16).tolist() for text in same]
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 9


# Interpolated modified Kneser-Ney, in plain Python, from the paper.


class Reference:
    """Chances by recursion over dictionaries of tuples; `(BEFORE, ...)` are texts' beginnings."""

    def __init__(self, texts: list[list[int]], order: int, symbols: int) -> None:
        self.symbols = symbols
        raw: Counter = Counter()
        for text in texts:
            before = [ngrams.BEFORE] * (order - 2) + [ngrams.BLANK]
            padded = before + text
            raw.update(tuple(padded[at - order + 1 : at + 1]) for at in range(len(before), len(padded)))
        self.counts = {order: raw}
        for size in range(order - 1, 0, -1):
            shorter: Counter = Counter()
            for gram, number in self.counts[size + 1].items():
                shorter[gram[1:]] += number if gram[0] == ngrams.BEFORE else 1
            self.counts[size] = shorter
        self.off = {size: self.discounts(counts) for size, counts in self.counts.items()}
        self.after: dict = defaultdict(list)
        for counts in self.counts.values():
            for gram, number in counts.items():
                self.after[gram[:-1]].append((gram, number))

    @staticmethod
    def discounts(counts: Counter) -> tuple[float, ...]:
        n = [0, *(sum(number == wanted for number in counts.values()) for wanted in (1, 2, 3, 4))]
        if not all(n[1:]):
            return (0.0, 0.5, 1.0, 1.5)
        y = n[1] / (n[1] + 2 * n[2])
        found = (0.0, *(k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3)))
        return found if min(found) >= 0 else (0.0, 0.5, 1.0, 1.5)

    def chance(self, context: tuple[int, ...], symbol: int) -> float:
        lower = self.chance(context[1:], symbol) if context else 1 / self.symbols
        grams = self.after[context] if ngrams.BEFORE not in context else []
        if not grams:
            return lower
        off, total = self.off[len(context) + 1], sum(number for _, number in grams)
        mine = self.counts[len(context) + 1][(*context, symbol)]
        freed = sum(off[min(number, 3)] for _, number in grams)
        return (max(0, mine) - off[min(mine, 3)] + freed * lower) / total


def counted(texts: list[str], order: int) -> tuple[np.ndarray, list, int]:
    known = learning.known_characters(column(texts), (1 << learning.width(order)) - ngrams.FIRST)
    return known, learning.count(column(texts), known, order), learning.width(order)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_chances_are_those_of_plain_python(order: int) -> None:
    texts = real_texts(han=False)[:12]
    known, grams, bits = counted(texts, order)
    made = learning.estimate(grams, bits)
    wanted = Reference([symbols_of(text, known) for text in texts], order, len(known) + 2)
    for size in range(1, order + 1):
        for key, chance, kept in zip(grams[size - 1].keys.tolist(), made[size - 1].chance, made[size - 1].kept):
            gram = tuple(key >> bits * at & ((1 << bits) - 1) for at in range(size - 1, -1, -1))
            if kept:
                assert chance == pytest.approx(wanted.chance(gram[:-1], gram[-1]), rel=1e-9)
    assert sum(int(one.kept.sum()) for one in made) > 40


@pytest.mark.parametrize("drop", [False, True])
def test_the_chances_after_every_context_sum_to_one(drop: bool) -> None:
    texts = real_texts(han=True)[:20]
    _, grams, bits = counted(texts, 3)
    worth = learning.worths(grams, bits)
    least = np.median(np.concatenate([one[np.isfinite(one)] for one in worth])) if drop else -np.inf
    kept = [(one >= least) & (one > -np.inf) for one in worth]
    made = learning.estimate(grams, bits, kept)
    assert made[0].chance.sum() == pytest.approx(1)
    assert drop == (sum(map(np.sum, kept)) < 0.7 * sum(int(np.isfinite(one).sum()) for one in worth))
    below = made[0].chance
    pairs = dense(grams[1], made, 1, below[None, :].repeat(len(below), 0), bits)
    assert pairs.sum(axis=1) == pytest.approx(np.ones(len(below)))
    for at in np.flatnonzero(made[1].back < 1)[:200]:  # contexts of two
        first, second = divmod(int(grams[1].keys[at]), 1 << bits)
        triples = made[1].back[at] * pairs[second - 1]
        mine = (grams[2].context == at) & made[2].kept
        triples[(grams[2].keys[mine] & np.uint64((1 << bits) - 1)).astype(int) - 1] = made[2].chance[mine]
        assert triples.sum() == pytest.approx(1), (first, second)


def dense(grams: learning.Grams, made: list, size: int, below: np.ndarray, bits: int) -> np.ndarray:
    """Chances of every symbol after every one: those in the model, else the shorter one's."""
    table = below * made[size - 1].back[:, None]
    kept = made[size].kept
    last = (grams.keys[kept] & np.uint64((1 << bits) - 1)).astype(int) - 1
    table[grams.context[kept], last] = made[size].chance[kept]
    return table


# The file, and the kernel that scores.


def fitted(texts: list[str], order: int, limit: int = 1 << 20) -> reader.Model:
    known, grams, bits = counted(texts, order)
    return learning.fit(grams, known, bits, limit)


class Plain:
    """Scores by dictionaries and recursion, of what is in a model's file."""

    def __init__(self, model: reader.Model) -> None:
        self.known, self.cost, self.back = model.known, {}, {}
        contexts: list[tuple[int, ...]] = [()] * len(model.levels[0].symbol)
        for level in model.levels:
            grams = [(*context, symbol) for context, symbol in zip(contexts, level.symbol.tolist(), strict=True)]
            self.cost.update(zip(grams, level.cost.tolist()))
            self.back.update(zip(grams, level.back.tolist()))
            contexts = [gram for gram, number in zip(grams, level.children.tolist()) for _ in range(number)]

    def tenths(self, context: tuple[int, ...], symbol: int) -> int:
        if (*context, symbol) in self.cost:
            return self.cost[(*context, symbol)]
        return self.back.get(context, 0) + self.tenths(context[1:], symbol)

    def score(self, text: str, order: int) -> float:
        past, total = (ngrams.BLANK,), 0
        found = symbols_of(text, self.known)
        for symbol in found:
            total += self.tenths(past[-(order - 1) :] if order > 1 else (), symbol)
            total += ngrams.UNSEEN * ngrams.STEPS * (symbol == ngrams.UNKNOWN)
            past = (*past, symbol)[-order:]
        return total / ngrams.STEPS / len(found) if found else math.nan


@pytest.fixture(scope="module", params=[(False, 6), (True, 4), (False, 1), (True, 2)])
def model(request: pytest.FixtureRequest) -> tuple[reader.Model, int]:
    han, order = request.param
    return fitted(real_texts(han)[:100], order, 40_000), order


def test_scores_are_those_of_plain_python(model: tuple[reader.Model, int]) -> None:
    made, order = model
    texts = [*real_texts(False)[80:120], *real_texts(True), *HOSTILE, *(["a b"] * 3)]
    check(texts, made, order)


@settings(max_examples=50)
@given(st.lists(st.text(alphabet="abcde \n中文é０😀", max_size=80), max_size=30))
def test_any_text_scores_as_in_plain_python(model: tuple[reader.Model, int], texts: list[str]) -> None:
    check(texts, *model)


def check(texts: list[str], made: reader.Model, order: int) -> None:
    found = ngrams.score(*text_buffers(column(texts)), ngrams.automaton(made.known, made.levels))[: len(texts)]
    twin = Plain(made)
    np.testing.assert_allclose(found, [twin.score(text, order) for text in texts], rtol=1e-6)


def test_a_file_is_read_as_it_was_written_and_damage_is_told(tmp_path: Path) -> None:
    made = fitted(real_texts(han=True)[:5], 3)
    reader.write(tmp_path / "it.ngrams", made)
    again = reader.read(tmp_path / "it.ngrams")
    assert again.encoded() == made.encoded() == (tmp_path / "it.ngrams").read_bytes()
    assert reader.languages(tmp_path / "it.ngrams") == ()
    (tmp_path / "it.json").write_text("{}")
    with pytest.raises(ValueError, match="not the card"):
        reader.languages(tmp_path / "it.ngrams")
    (tmp_path / "it.ngrams").write_bytes(made.encoded()[:-40])
    with pytest.raises(ValueError, match="damaged"):
        reader.read(tmp_path / "it.ngrams")
    (tmp_path / "it.ngrams").write_bytes(b"something else")
    with pytest.raises(ValueError, match="not an n-gram model"):
        reader.read(tmp_path / "it.ngrams")


def test_a_model_keeps_to_its_size_and_gets_better_with_it() -> None:
    texts, others = real_texts(han=False)[:150], column(real_texts(han=False)[150:])
    bits = []
    for limit in (5_000, 20_000, 80_000):
        made = fitted(texts, 5, limit)
        assert 0.9 * limit < len(made.encoded()) <= limit
        total, size = ngrams.costs(*text_buffers(others), ngrams.automaton(made.known, made.levels))
        bits.append(total.sum() / size.sum())
    assert bits[0] > bits[1] > bits[2]
    with pytest.raises(ValueError, match="--size"):
        fitted(texts, 5, 300)


# The stage.


def documents(texts: list[str | None], langs: list[str | None]) -> pa.Table:
    return pa.table({"text": pa.array(texts, pa.string()), "lang": pa.array(langs, pa.string())})


@pytest.fixture(scope="module")
def declaration() -> list[str]:
    """The Universal Declaration of Human Rights, in Chinese, in pieces of 300 characters."""
    source = Collect(paths=[str(ROOT / "data_samples/sample.warc.gz")])
    pages = pa.concat_tables([batch for split in source.inputs() for batch in source.read(split)])
    page = Extract().apply(pages.filter(pc.equal(pages["url"], "http://udhr.example/cmn_hans.html")))
    text = page["text"][0].as_py()
    return [text[at : at + 300] for at in range(0, len(text) - 100, 300)]


def test_the_shipped_pair_is_asked_about_its_own_languages(declaration: list[str]) -> None:
    english, chinese = real_texts(han=False)[3], declaration[1]
    docs = documents([english, chinese, english, "", None, " \n"], ["en", "zh", "fr", "en", "zh", "en"])
    bits = Perplexity().apply(docs)["bits_per_char"]
    assert bits.type == pa.float32()
    assert [value is not None for value in bits.to_pylist()] == [True, True, False, False, False, False]
    assert 1 < bits[0].as_py() < 3
    assert 5 < bits[1].as_py() < 9  # law is far from manuals


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_prose_is_less_surprising_than_itself_in_another_order(lang: str, declaration: list[str]) -> None:
    random = np.random.default_rng(1)
    texts = declaration if lang == "zh" else [text for text in real_texts(han=False) if len(text) == 800]
    units = [list(text) if lang == "zh" else text.split() for text in texts]
    shuffled = [("" if lang == "zh" else " ").join(random.permutation(np.array(its, object))) for its in units]
    bits = Perplexity().apply(documents(texts + shuffled, [lang] * 2 * len(texts)))["bits_per_char"].to_numpy()
    assert len(texts) >= 10
    assert (bits[: len(texts)] < bits[len(texts) :]).mean() > 0.9


def test_reasons_name_the_column_the_figure_and_the_limit(tmp_path: Path) -> None:
    reader.write(tmp_path / "it.ngrams", fitted(real_texts(han=False)[:100], 4))
    texts = [real_texts(han=False)[150], "zq" * 50, "the " * 100, None]
    asked = {"path": tmp_path / "it.ngrams", "column": "surprise"}
    free = Perplexity(models={"it": asked}).apply(pa.table({"text": texts}))
    assert "drop" not in free.column_names
    prose, noise, repeated, _ = free["surprise"].to_pylist()
    assert repeated < prose < noise
    asked |= {"min": (repeated + prose) / 2, "max": (prose + noise) / 2}
    docs = Perplexity(models={"it": asked}).apply(pa.table({"text": texts}))
    assert docs["drop"].to_pylist() == [None, "high_surprise", "low_surprise", None]
    assert docs["drop_value"].to_pylist() == [None, noise, repeated, None]
    assert docs["drop_limit"].to_pylist() == [None, asked["max"], asked["min"], None]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"it": {}}, "exactly one"),
        ({"it": {"builtin": "en", "path": "x"}}, "exactly one"),
        ({"it": {"builtin": "en", "min": 3, "max": 2}}, "nothing would stay"),
        ({"it": {"builtin": "en", "column": "text"}}, "column of every document"),
        ({"a": {"builtin": "en"}, "b": {"builtin": "en"}}, "languages of their own"),
        ({"a": {"builtin": "en"}, "b": {"builtin": "zh", "language": []}}, "languages of their own"),
        ({}, "at least 1"),
    ],
)
def test_a_configuration_that_means_nothing_is_refused(asked: dict, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Perplexity(models=asked)


# The command.

app = typer.Typer()
learning.commands(app)


def trained(*arguments: str | Path) -> str:
    """What it printed, without the box around an error, and the exit code."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return " ".join([*re.sub("[│╭╮╰╯─]", " ", result.output).split(), str(result.exit_code)])


def write(path: Path, rows: list[tuple[str, str]]) -> Path:
    pq.write_table(pa.table({"text": [text for text, _ in rows], "domain": [domain for _, domain in rows]}), path)
    return path


def rows_of(han: bool) -> list[tuple[str, str]]:
    return [(text, f"site{at % 15}") for at, text in enumerate(real_texts(han))]


def test_one_command_trains_what_the_stage_reads(tmp_path: Path) -> None:
    rows = rows_of(han=True)
    write(tmp_path / "all.parquet", rows)
    trained(tmp_path / "all.parquet", "--out", tmp_path / "one", "--size", "0.1")
    card = json.loads((tmp_path / "one/perplexity.json").read_text())
    assert card["language"] == ["zh"]
    assert card["order"] == learning.ORDERS["zh"] == len(card["facts"]["by_order"])
    assert card["bytes"] == (tmp_path / "one/perplexity.ngrams").stat().st_size <= 100_000
    steps = [card["facts"]["uniform"], *(one["bits_per_char"] for one in card["facts"]["by_order"][:3])]
    assert steps == sorted(steps, reverse=True)
    assert not set(card["facts"]["domains"]) & set(card["training"]["domains"]) - {"all"}
    low, high = card["facts"]["thirds"]
    assert low <= card["facts"]["deciles"][5]["bits_per_char"] <= high
    stage = Perplexity(models={"it": {"path": tmp_path / "one/perplexity.ngrams"}})
    assert stage.needs == ("text", "lang")
    assert len(stage.files()) == 2
    bits = stage.apply(documents([text for text, _ in rows], ["zh"] * len(rows)))["bits_per_char"].to_pylist()
    begins = {" ".join(text.split())[:160]: (score, domain) for (text, domain), score in zip(rows, bits)}
    for one in card["facts"]["deciles"]:
        assert begins[one["text"]] == (pytest.approx(one["bits_per_char"]), one["domain"])
    halves = tmp_path / "halves"
    halves.mkdir()
    write(halves / "a.parquet", rows[len(rows) // 2 :][::-1])
    write(halves / "b.parquet", rows[: len(rows) // 2])
    trained(halves, "--out", tmp_path / "two", "--size", "0.1")
    assert (tmp_path / "one/perplexity.ngrams").read_bytes() == (tmp_path / "two/perplexity.ngrams").read_bytes()
    assert "| order 5 |" in (tmp_path / "two/perplexity.md").read_text()


def test_what_cannot_be_trained_is_told_in_a_sentence(tmp_path: Path) -> None:
    rows = rows_of(han=False)
    one = write(tmp_path / "one.parquet", [(text, "alone") for text, _ in rows])
    few = write(tmp_path / "few.parquet", rows[:3])
    out = ("--out", tmp_path / "out")
    assert "one domain" in trained(one, *out)
    assert "at least 20" in trained(few, *out)
    assert "'xx'" in trained(one, *out, "--lang", "xx")
    assert "no .parquet" in trained(tmp_path / "nowhere", *out)
    assert "--size" in trained(write(tmp_path / "all.parquet", rows), *out, "--size", "0.0001")
    assert not (tmp_path / "out").exists()
