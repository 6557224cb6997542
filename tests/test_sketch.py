"""Units, shingles, signatures: against plain Python, against datasketch, and against what the theory promises."""

import gzip
import json
import unicodedata
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash
from datasketch.lsh import _optimal_param
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.schema import text_buffers
from stages.kernels import sketch
from stages.kernels.sketch import band_keys, match_probability, shingle_sets, signature, sketch_rows, unit_table

SAMPLES = Path(__file__).parent.parent / "data_samples" / "sample_text.jsonl.gz"


def sample_texts() -> list[str]:
    with gzip.open(SAMPLES, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def plain_units(text: str) -> list[str]:
    """The definition, without the kernel: words as they fold, characters of unspaced scripts with a bar before.

    Of combining marks the order is of no matter, but where they stand is: here they are sorted where they meet.
    """
    units, word, lone = [], "", 0  # lone: how many of the last units are marks that follow no word
    for kind, char in (entry for point in text for entry in entries(point)):
        if kind == sketch._WORD:
            word += char
        elif kind == sketch._MARK and word:
            word = sorted_marks(word, char)
        elif kind != sketch._SKIP:
            if word or kind == sketch._CHAR:
                lone = 0
            units += [word] if word else []
            units += ["|" + char] if kind != sketch._BREAK else []
            if kind == sketch._MARK:
                lone += 1
                units[-lone:] = sorted(units[-lone:], key=unit_hash)
            word = ""
    return units + ([word] if word else [])


def entries(char: str) -> list[tuple[int, str]]:
    """What a character does, and the character it does it as; of some, several."""
    table = unit_table()
    kind, code = divmod(int(table[ord(char)]), 1 << 24)
    if kind != sketch._SEVERAL:
        return [(kind, chr(code))]
    end = code + int(np.argmin(table[code:] != 0))
    return [(int(entry) >> 24, chr(entry & 0xFFFFFF)) for entry in table[code:end]]


def sorted_marks(word: str, mark: str) -> str:
    """`word` with one more mark; marks in a row, put between brackets, by code point."""
    if not word.endswith("}"):
        return word + "{" + mark + "}"
    start = word.rindex("{") + 1
    return word[:start] + "".join(sorted(word[start:-1] + mark)) + "}"


def unit_hash(unit: str) -> int:
    return int(sketch.mix(np.uint64(ord(unit[1]) * int(sketch._GOLDEN) % 2**64))) | 1


def plain_shingles(text: str, ngram: int = 5, char_ngram: int = 8) -> set[tuple[str, ...]]:
    units = plain_units(text)
    weights = [ngram if unit[0] == "|" else char_ngram for unit in units]
    found = set()
    for end in range(1, len(units) + 1):
        heavy = [start for start in range(end) if sum(weights[start:end]) >= ngram * char_ngram]
        if heavy:
            found.add(tuple(units[heavy[-1] : end]))
    return found


def kernel_sets(texts: list[str], ngram: int = 5, char_ngram: int = 8, **table: bool) -> list[set[int]]:
    data, offsets = text_buffers(pa.array(texts, pa.string()))
    starts, values = shingle_sets(data, offsets, unit_table(**table), ngram, char_ngram)
    return [set(values[a:b].tolist()) for a, b in pairwise(starts)]


def exact_hashes(texts: list[str]) -> list[tuple[int, int]]:
    data, offsets = text_buffers(pa.array(texts, pa.string()))
    exact = sketch_rows(data, offsets, unit_table(), 5, 8, 16, 7, 1, 5)[0]
    return [tuple(row) for row in exact.tolist()]


def assert_same_sets(texts: list[str], ngram: int, char_ngram: int) -> None:
    ours, plain = kernel_sets(texts, ngram, char_ngram), [plain_shingles(text, ngram, char_ngram) for text in texts]
    assert [len(one) for one in ours] == [len(one) for one in plain]
    for i in range(1, len(texts)):
        assert len(ours[i] & ours[i - 1]) == len(plain[i] & plain[i - 1])


def test_shingle_sets_equal_the_definition_on_real_texts() -> None:
    texts = [text[:300] for text in sample_texts()]
    texts += [text[50:] for text in texts[::2]] + [texts[70] + text for text in texts[:10]]
    texts += ["각 국은 모든 사람의 권리를 지킨다", "すべての人間は、生まれながらにして自由である", ""]
    assert_same_sets(texts, 5, 8)
    assert len(kernel_sets(texts[70:71])[0]) > 30


PIECES = st.sampled_from(
    [
        "ß",
        "\u0587 ",
        "\u09cb",
        "ខ\u17d2",
        "ก\u0e38\u0e48",
        "\u0f43",
        "\u0f71\u0f72",
        "ب\u0651\u064e",
        "\u064e ",
        "\u0b94",
        "word",
        "Été ",
        "的",
        "한국 ",
        "ス",
        "ｶﾞ",
        " ",
        "\n",
        "7",
        "、",
        "e\u0301",
        "ก",
        "😀",
        "\x00",
        "ab ",
    ]
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.one_of(st.lists(PIECES, max_size=40).map("".join), st.text(max_size=30)), min_size=1, max_size=4),
    st.integers(1, 6),
    st.integers(1, 9),
)
def test_shingle_sets_equal_the_definition(texts: list[str], ngram: int, char_ngram: int) -> None:
    assert_same_sets([*texts, texts[0] + texts[-1]], ngram, char_ngram)
    for text, sets in zip(texts, kernel_sets(texts, ngram, char_ngram), strict=True):
        if len(plain_units(text)) >= max(ngram, char_ngram):
            assert sets, "a document of n units has a shingle, whatever its scripts"


def test_a_shingle_is_n_words_or_m_characters() -> None:
    words = "all human beings are born free and equal in dignity"
    han = "人人生而自由在尊严和权利上一律平等"
    english, chinese, few_words, few_chars, mixed = kernel_sets(
        [words, han, "four words are few", han[:7], f"{words} {han}"]
    )
    assert len(english) == 10 - 4
    assert len(chinese) == len(han) - 7
    assert few_words == few_chars == set()
    assert english | chinese < mixed
    assert len(mixed) == 10 + len(han) - 4, "across the border shingles blend, none is missing"


VARIANTS = [
    ("Crème BRÛLÉE, naïve!\nsecond line", "creme brulee naive\r\n\r\n  second   line."),
    ("한국의 모든 사람", unicodedata.normalize("NFD", "한국의 모든 사람")),
    ("ガギグが、ぱぴ", unicodedata.normalize("NFD", "ガギグが、ぱぴ")),
    ("Ｆｕｌｌ　ｗｉｄｔｈ １２３", "full width 123"),
    ("人人 生而自由，\n在尊严", "人人生而自由在尊严"),
    ("iPhone手机2023年", "iphone 手机 2023 年"),
    ("soft\u00adhyphen zero\u200bwidth", "softhyphen zerowidth"),
    ("Ångström ça", unicodedata.normalize("NFD", "Ångström ça")),
    ("हिन्दी क़लम", unicodedata.normalize("NFD", "हिन्दी क़लम")),
    ("שָׁלוֹם", unicodedata.normalize("NFC", "שלום")),
    ("ভালোবাসা", unicodedata.normalize("NFD", "ভালোবাসা")),
    ("கொடு ஔவை", unicodedata.normalize("NFD", "கொடு ஔவை")),
    ("ဦး", unicodedata.normalize("NFD", "ဦး")),
    ("རྒྱུད་གྷ", unicodedata.normalize("NFD", "རྒྱུད་གྷ")),
    ("مُحَمَّد", unicodedata.normalize("NFC", "مُحَمَّد")),
    ("Straße ΟΔΟΣ ﬁne ısı և", "STRASSE οδος FINE ISI ԵՒ"),
    ("ὁδῷ", "ΟΔΩΙ"),
]


@pytest.mark.parametrize(("one", "other"), VARIANTS)
def test_variants_of_writing_are_exact_duplicates(one: str, other: str) -> None:
    first, second = exact_hashes([one, other])
    assert first == second != (0, 0)


@pytest.mark.parametrize(
    ("one", "other"), [("room 12", "room 13"), ("foo bar", "foobar"), ("的了", "了的"), ("a b", "b a")]
)
def test_what_differs_in_content_differs(one: str, other: str) -> None:
    first, second = exact_hashes([one, other])
    assert first != second


@pytest.mark.parametrize("text", ["", " \n", "...!?", "😀🎉", "\u200b\u0301", "——，。"])
def test_text_without_letters_has_no_hash(text: str) -> None:
    assert exact_hashes([text, "x"])[0] == (0, 0)


def test_rows_do_not_depend_on_their_neighbours() -> None:
    texts = sample_texts()
    data, offsets = text_buffers(pa.array(texts, pa.string()))
    together = sketch_rows(data, offsets, unit_table(), 5, 8, 16, 7, 1, 5)
    for i in (0, 30, 70, 84):
        alone = sketch_rows(*text_buffers(pa.array(texts[i : i + 1])), unit_table(), 5, 8, 16, 7, 1, 5)
        assert all(np.array_equal(a[0], b[i]) for a, b in zip(alone, together, strict=True))
    distinct = [len(one) for one in kernel_sets(texts)]
    assert together[2].tolist() == distinct
    assert together[3].tolist() == [len(text) for text in texts]
    assert not together[1][together[2] < 5].any()
    other_seed = sketch_rows(data, offsets, unit_table(), 5, 8, 16, 7, 2, 5)
    assert not np.intersect1d(other_seed[1][together[2] >= 5], together[1]).size


def planted(similarity: float, size: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of about `size` random values whose Jaccard similarity is as near to `similarity` as sizes allow."""
    common = round(2 * size * similarity / (1 + similarity))
    values = random.integers(1, 2**63, 2 * size - common, dtype=np.uint64)
    return values[:size], values[size - common :]


def slots_of(values: np.ndarray, seed: int = 1, total: int = 112) -> np.ndarray:
    slots = np.empty(total, np.uint64)
    signature(values, len(values), seed, slots)
    return slots


@pytest.mark.parametrize("size", [5, 60, 600])
def test_signature_estimates_better_than_datasketch(size: int) -> None:
    random = np.random.default_rng(7)
    ours, theirs = [], []
    for trial in range(150):
        pair = planted(0.8, size, random)
        common = len(np.intersect1d(*pair))
        truth = common / (2 * size - common)
        ours.append(np.mean(slots_of(pair[0], trial) == slots_of(pair[1], trial)) - truth)
        sketches = [MinHash(112, seed=trial + 1) for _ in pair]
        for minhash, values in zip(sketches, pair, strict=True):
            minhash.update_batch([value.tobytes() for value in values])
        theirs.append(sketches[0].jaccard(sketches[1]) - truth)
    assert abs(np.mean(ours)) < 0.012
    assert np.std(ours) < 1.15 * np.std(theirs)
    assert np.std(ours) < 0.045  # binomial: .0378 at 112 slots


@pytest.mark.parametrize("similarity", [0.5, 0.6, 0.7, 0.8, 0.9])
def test_bands_match_as_often_as_the_curve_says(similarity: float) -> None:
    random = np.random.default_rng(11)
    hits, trials = 0, 2500
    keys = np.empty((2, 16), np.uint64)
    truth = 0.0
    for trial in range(trials):
        for values, row in zip(planted(similarity, 200, random), keys, strict=True):
            band_keys(slots_of(values, trial), 7, row)
        hits += bool(np.any(keys[0] == keys[1]))
        common = round(400 * similarity / (1 + similarity))
        truth = common / (400 - common)
    assert abs(hits / trials - match_probability(truth, 16, 7)) < 0.03


def test_curve_and_bands_against_datasketch() -> None:
    """16 x 7 finds more than datasketch's choice for 112 slots at this threshold, even where misses weigh most."""
    assert match_probability(0.8, 16, 7) == pytest.approx(0.9769, abs=1e-4)
    assert match_probability(0.8, 14, 8) == pytest.approx(0.9235, abs=1e-4)
    bands, rows = _optimal_param(0.8, 112, 0.1, 0.9)
    assert bands * rows <= 112
    assert match_probability(0.8, 16, 7) > match_probability(0.8, bands, rows)
    balanced = _optimal_param(0.8, 112, 0.5, 0.5)
    assert match_probability(0.8, 16, 7) > match_probability(0.8, *balanced)


def test_equal_slots_in_another_band_are_another_key() -> None:
    keys = np.empty(16, np.uint64)
    band_keys(np.full(112, 5, np.uint64), 7, keys)
    assert len(set(keys.tolist())) == 16
    assert not (keys & np.uint64(1)).any()
