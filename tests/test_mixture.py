"""A mixture's numbers, by hand; then what holds for every mixture, and for the copies of each document."""

import math
from fractions import Fraction
from random import Random

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stages.kernels import mixture
from stages.kernels.mixture import Group, Infeasible, Request

FIVE = [
    Group("web", 900, 1_000_000),
    Group("wiki", 50, 70_000),
    Group("code", 200, 300_000),
    Group("books", 3, 50_000),
    Group("zh", 400, 400_000),
]
WISHES = {
    "web": Request(weight=4),
    "wiki": Request(weight=4),
    "code": Request(tokens=200_000),
    "books": Request(epochs=3),
    "zh": Request(weight=2),
}


def test_five_sources_of_which_one_is_exhausted() -> None:
    """1.5 M less 200 k and 150 k is 1.15 M. By 4:4:2 wiki would give 460 k; it has 4 x 70 k. 870 k are left, by 4:2."""
    solved = mixture.solve(FIVE, WISHES, total=1_500_000)
    assert [row.name for row in solved] == [group.name for group in FIVE]
    assert [row.asked for row in solved] == pytest.approx([460_000, 460_000, 200_000, 150_000, 230_000])
    assert [row.possible for row in solved] == [4_000_000, 280_000, 1_200_000, 200_000, 1_600_000]
    assert [row.tokens for row in solved] == pytest.approx([580_000, 280_000, 200_000, 150_000, 290_000])
    assert [row.epochs for row in solved] == pytest.approx([0.58, 4, 2 / 3, 3, 0.725])
    assert [row.name for row in solved if row.exhausted] == ["wiki"]


def test_a_total_that_cannot_be_had() -> None:
    """With a weight there are 1.47 M, four times that 5.88 M; with the 350 k asked for that is 6.23 M at most."""
    with pytest.raises(Infeasible) as refused:
        mixture.solve(FIVE, WISHES, total=8_000_000)
    assert str(refused.value) == (
        "the mixture cannot come to 8,000,000 tokens: every group with a weight is exhausted, "
        "web (4,000,000), wiki (280,000), zh (1,600,000); at most 6,230,000, or with max_epochs 1.301 times as high"
    )
    assert sum(row.tokens for row in mixture.solve(FIVE, WISHES, 6_230_000)) == pytest.approx(6_230_000)
    mixture.solve(FIVE, WISHES, 8_000_000, max_epochs=5.205)


@pytest.mark.parametrize(
    ("change", "total", "said"),
    [
        ({"books": Request(epochs=5)}, None,
         "books is exhausted: 250,000 tokens are asked for, which is 5 epochs; it has 50,000, at most 4 epochs of "
         "it are 200,000"),
        ({"code": Request(tokens=700_000, max_epochs=2)}, None, "at most 2 epochs of it are 600,000"),
        ({}, 300_000, "what is asked for by tokens and epochs is 350,000 tokens, the total is 300,000"),
        ({"news": Request(weight=1)}, None,
         "the mixture names news, which no document is of; there are web, wiki, code, books, zh"),
        ({"zh": Request(weight=1, epochs=1)}, None, "zh: give one of weight, tokens and epochs, not 2 of them"),
        ({"zh": Request()}, None, "zh: give one of weight, tokens and epochs, not none of them"),
        ({"zh": Request(weight=-1)}, None, "zh: -1 at most 4 times"),
        ({"zh": Request(weight=float("nan"))}, None, "zh: nan at most 4 times"),
        ({name: Request(epochs=1) for name in ("web", "wiki", "code", "books", "zh")}, 3_000_000,
         "is 1,820,000 tokens, the total is 3,000,000; a group with a weight would take the rest"),
    ],
)  # fmt: skip
def test_what_is_refused_is_said(change: dict[str, Request], total: float | None, said: str) -> None:
    with pytest.raises(Infeasible) as refused:
        mixture.solve(FIVE, {**WISHES, **change}, total)
    assert said in str(refused.value)


def test_a_group_left_unsaid_is_refused_unless_there_is_a_rest() -> None:
    wishes = {"web": Request(weight=1)}
    with pytest.raises(Infeasible, match="says nothing of wiki, code, books, zh"):
        mixture.solve(FIVE, wishes)
    solved = mixture.solve(FIVE, {**wishes, mixture.REST: Request(epochs=0)})
    assert [row.epochs for row in solved] == [1, 0, 0, 0, 0]


def test_without_a_total_the_weighted_keep_what_they_have() -> None:
    solved = mixture.solve(FIVE, WISHES)
    assert sum(row.tokens for row in solved) == pytest.approx(1_470_000 + 350_000)


def test_filling_by_hand() -> None:
    assert mixture.filled(np.array([1, 1, 2]), np.array([10, 100, 100]), 110).tolist() == pytest.approx(
        [10, 100 / 3, 200 / 3]
    )
    assert mixture.filled(np.ones(3), np.array([5.0, 1.0, 3.0]), 100).tolist() == [5, 1, 3]
    assert mixture.filled(np.array([0.0, 1.0]), np.array([5.0, 9.0]), 4).tolist() == [0, 4]


AMOUNTS = st.lists(
    st.tuples(st.floats(0.01, 100), st.integers(0, 10**9), st.floats(0.1, 10)), min_size=1, max_size=12
)  # weight, tokens, max_epochs


@given(AMOUNTS, st.floats(0, 1))
@example([(1.0, 0, 1.0)], 0.5)
@example([(1.0, 3, 0.1), (1.0, 3, 0.1), (1.0, 3, 0.1)], 1.0)
def test_sums_caps_and_proportions(amounts: list[tuple[float, int, float]], share: float) -> None:
    groups = [Group(str(at), 1, tokens) for at, (_, tokens, _) in enumerate(amounts)]
    wishes = {str(at): Request(weight=weight, max_epochs=cap) for at, (weight, _, cap) in enumerate(amounts)}
    total = share * sum(tokens * cap for _, tokens, cap in amounts)
    solved = mixture.solve(groups, wishes, total)
    assert sum(row.tokens for row in solved) == pytest.approx(total, rel=1e-9, abs=1e-6)
    free = []
    for row, (weight, tokens, cap) in zip(solved, amounts):
        assert row.tokens <= row.possible == tokens * cap
        assert row.epochs * tokens == pytest.approx(row.tokens)
        if row.exhausted:
            assert row.tokens == pytest.approx(row.possible)
        else:
            free.append(row.tokens / weight)
    assert free == pytest.approx([free[0]] * len(free), rel=1e-6) if free else True, "not exhausted: by weight"


@given(AMOUNTS, st.floats(0, 1), st.floats(0, 1))
def test_more_in_all_is_no_less_for_anyone(amounts: list[tuple[float, int, float]], one: float, other: float) -> None:
    weights, caps = (np.array(part, float) for part in ([a[0] for a in amounts], [a[1] * a[2] for a in amounts]))
    less, more = (mixture.filled(weights, caps, share * caps.sum()) for share in sorted((one, other)))
    assert (less <= more * (1 + 1e-9) + 1e-6).all()


def test_temperature_by_hand() -> None:
    """en has 100 of content, zh 0.92 x 25 bytes = 25 of it. At T = 2 the shares of content are 10 : 5."""
    groups = [Group("en", 1, 30, 100), Group("zh", 1, 12, 23)]
    weights = {name: wish.weight for name, wish in mixture.tempered(groups, 2, {"zh": 0.92}).items()}
    content = {"en": weights["en"] * 100 / 30, "zh": weights["zh"] * 25 / 12}
    assert content["en"] / content["zh"] == pytest.approx(10 / 5)
    natural = {name: wish.weight for name, wish in mixture.tempered(groups, 1, {"zh": 0.92}).items()}
    assert natural == {"en": 30, "zh": 12}, "at 1 nothing changes, in tokens"
    assert mixture.tempered([*groups, Group("xx", 0, 0, 0)], 3)["xx"].weight == 0


@pytest.mark.parametrize(("temperature", "premiums"), [(0.5, {}), (2, {"fr": 1.1}), (2, {"zh": 0})])
def test_temperatures_and_premiums_that_make_no_sense(temperature: float, premiums: dict[str, float]) -> None:
    with pytest.raises(Infeasible):
        mixture.tempered([Group("en", 1, 1, 1), Group("zh", 1, 1, 1)], temperature, premiums)


def test_quality_curve_by_hand() -> None:
    """x^1 over two buckets above the floor of one half: heights 1/4 and 3/4 of their bucket's mean, so 1 : 3."""
    epochs = mixture.quality_curve(np.array([100, 100, 100, 100]), 200, power=1, rate=0, floor=0.5, cap=7)
    assert epochs == pytest.approx([0, 0, 0.5, 1.5])
    capped = mixture.quality_curve(np.array([100, 100, 100, 100]), 200, power=1, rate=0, floor=0.5, cap=1.25)
    assert capped == pytest.approx([0, 0, 0.75, 1.25]), "what the best cannot give, the next gives"
    with pytest.raises(Infeasible, match=r"above the lowest 50% there are at most 250 at 1\.25 epochs"):
        mixture.quality_curve(np.array([100, 100, 100, 100]), 251, power=1, rate=0, floor=0.5, cap=1.25)


@given(
    st.lists(st.integers(0, 10**8), min_size=20, max_size=20),
    st.floats(0, 1), st.floats(0, 3), st.floats(0, 5), st.floats(0, 0.9), st.floats(0.5, 10),
)  # fmt: skip
def test_quality_curve_rises_and_comes_to_its_total(
    tokens: list[int], share: float, power: float, rate: float, floor: float, cap: float
) -> None:
    have = np.array(tokens)
    total = share * cap * have[int(np.ceil(floor * 20)) :].sum()
    epochs = mixture.quality_curve(have, total, power, rate, floor, cap)
    assert (np.diff(epochs) >= -1e-9).all()
    assert ((epochs >= 0) & (epochs <= cap)).all()
    assert (epochs * have).sum() == pytest.approx(total, rel=1e-6, abs=1e-3)
    assert not epochs[: int(floor * 20)].any()


def test_clusters_are_upsampled_as_in_fineweb_2() -> None:
    sizes = [1, 2, 3, 4, 5, 99, 100, 999, 1000, 10**6]
    assert mixture.upsampled(np.array(sizes)).tolist() == [1, 2, 3, 3, 5, 5, 8, 8, 1, 1]


def documents(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Hashes and lengths of documents as skewed as those of the web."""
    lengths = np.maximum(1, np.random.default_rng(seed).lognormal(6, 1.2, count)).astype(np.int64)
    return mixture.hashes([f"{at:032x}" for at in range(count)], seed), lengths


@pytest.mark.parametrize("epochs", [0.0, 0.05, 0.58, 1.0, 2.725, 4.0])
def test_copies_come_to_what_was_promised(epochs: float) -> None:
    hashed, lengths = documents(3000)
    settled = mixture.cut(hashed, lengths, np.array(epochs))
    copies = mixture.repetitions(hashed, np.array(epochs), settled)
    assert set(copies.tolist()) <= {int(np.floor(epochs)), int(np.ceil(epochs))}
    made, promised = int((copies * lengths).sum()), epochs * int(lengths.sum())
    assert made == settled.tokens
    assert made == pytest.approx(promised, rel=1e-4)


def test_one_long_document_among_a_few() -> None:
    """900 of 1,000 tokens are one document's. At 0.95 it has to be taken, at 0.4 to be left, whatever its hash."""
    lengths = np.array([900, *[10] * 10])
    for seed in range(20):
        hashed = mixture.hashes([str(at) for at in range(11)], seed)
        for epochs, tokens in ((0.95, 950), (0.4, 100), (0.52, 900), (1.4, 1100)):
            settled = mixture.cut(hashed, lengths, np.array(epochs))
            assert settled.tokens == tokens
            assert (mixture.repetitions(hashed, np.array(epochs), settled) * lengths).sum() == tokens


def test_copies_depend_on_the_id_alone() -> None:
    hashed, lengths = documents(500)
    rates = 1.3 * mixture.upsampled(np.random.default_rng(1).integers(1, 200, 500))
    settled = mixture.cut(hashed, lengths, rates)
    copies = mixture.repetitions(hashed, rates, settled)
    order = np.random.default_rng(2).permutation(500)
    again = mixture.cut(hashed[order], lengths[order], rates[order])
    assert (again.below, again.tokens, again.also.tolist()) == (settled.below, settled.tokens, settled.also.tolist())
    assert mixture.repetitions(hashed[order], rates[order], again).tolist() == copies[order].tolist()
    parts = [mixture.repetitions(hashed[at : at + 7], rates[at : at + 7], settled) for at in range(0, 500, 7)]
    assert np.concatenate(parts).tolist() == copies.tolist(), "a worker needs the cut and its own documents only"
    other = mixture.hashes([f"{at:032x}" for at in range(500)], 9)
    assert mixture.repetitions(other, rates, mixture.cut(other, lengths, rates)).tolist() != copies.tolist()


@given(st.lists(st.integers(1, 400), min_size=1, max_size=60), st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9]), st.randoms())
def test_halves_are_rounded_alike_in_any_order(lengths: list[int], rate: float, random: Random) -> None:
    order = list(range(len(lengths)))
    random.shuffle(order)
    hashed, tokens = mixture.hashes([str(at) for at in order], 1), np.array(lengths)
    one = mixture.cut(np.sort(hashed), tokens[np.argsort(hashed)], np.array(rate))
    other = mixture.cut(hashed, tokens, np.array(rate))
    assert (one.below, one.tokens, one.also.tolist()) == (other.below, other.tokens, other.also.tolist())


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(0, 600))
def test_what_fits_is_taken_in_order(sizes: list[int], total: int) -> None:
    first, rest, left = mixture._fitting(np.array(sizes, np.int64), total)
    taken, missing = [], total
    for place, size in enumerate(sizes):
        if size <= missing:
            taken, missing = [*taken, place], missing - size
    others = [place for place in range(len(sizes)) if place not in taken]
    smallest = min(others, key=lambda place: sizes[place], default=None)
    if smallest is not None and sizes[smallest] < 2 * missing:
        taken, missing = [*taken, smallest], missing - sizes[smallest]
    assert ([*range(first), *rest], left) == (taken, missing)


def test_more_epochs_never_take_a_document_out() -> None:
    """Nearly: the documents that fill what is missing may change."""
    hashed, lengths = documents(4000)
    before = np.zeros(4000, np.int64)
    for epochs in np.arange(0.1, 3, 0.13):
        settled = mixture.cut(hashed, lengths, np.array(epochs))
        copies = mixture.repetitions(hashed, np.array(epochs), settled)
        assert np.count_nonzero(copies < before) <= len(settled.also) + 20
        before = copies


def test_a_document_comes_up_as_often_as_its_rate_says() -> None:
    lengths = np.full(50_000, 10)
    hashed = mixture.hashes([f"{at:032x}" for at in range(50_000)], 3)
    rates = np.tile([0.25, 0.9, 1.5, 2.0], 12_500)
    copies = mixture.repetitions(hashed, rates, mixture.cut(hashed, lengths, rates)).reshape(-1, 4)
    assert copies.mean(axis=0) == pytest.approx([0.25, 0.9, 1.5, 2.0], abs=0.015)


@given(
    st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(1, 10**6), st.floats(0, 5)), max_size=40,
             unique_by=lambda row: row[0])
)  # fmt: skip
@example([(0, 5, 0.5), (1, 5, 0.5), (2, 5, 0.5)])
@example([(0, 1, 0.5)])
@example([(0, 2, 1.5), (16384, 1, 5e-324), (7, 3, 2.9999999999)])
def test_as_near_as_whole_documents_allow(rows: list[tuple[int, int, float]]) -> None:
    hashed, lengths, rates = (
        np.array([row[at] for row in rows], kind) for at, kind in ((0, np.uint64), (1, np.int64), (2, float))
    )
    settled = mixture.cut(hashed, lengths, rates)
    copies = mixture.repetitions(hashed, rates, settled)
    rates = np.round(rates, 9)
    exact = sum(Fraction(round(rate * 10**9), 10**9) * length for rate, length in zip(rates.tolist(), lengths.tolist()))
    target = math.floor(exact + Fraction(1, 2))  # half a token rounds up, not to the even number
    assert int((copies * lengths).sum()) == settled.tokens
    assert ((copies == np.floor(rates)) | (copies == np.ceil(rates))).all()
    left = lengths[(copies == np.floor(rates)) & (rates > np.floor(rates))]
    assert target - settled.tokens <= (left.min() / 2 if len(left) else 0)
    taken = lengths[copies > np.floor(rates)]
    assert settled.tokens - target < (taken.max() / 2 if len(taken) else 1)


def splitmix64(state: int) -> int:
    """In Python's own integers."""
    mixed = state & (2**64 - 1)
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 & (2**64 - 1)
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB & (2**64 - 1)
    return mixed ^ (mixed >> 31)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2**64 - 1)), max_size=30))
def test_every_copy_has_a_number_and_a_place(rows: list[tuple[int, int]]) -> None:
    copies, hashed = np.array([row[0] for row in rows], np.int16), np.array([row[1] for row in rows], np.uint64)
    expected = [(at, number) for at, (times, _) in enumerate(rows) for number in (range(times) if times else [-1])]
    document, number, places = mixture.occurrences(copies, hashed)
    assert list(zip(document.tolist(), number.tolist())) == expected
    step = 0x9E3779B97F4A7C15
    assert places.tolist() == [splitmix64(rows[at][1] + copy * step) for at, copy in expected]


def test_splitmix64_is_the_published_one() -> None:
    assert mixture.occurrences(np.array([4]), np.array([0], np.uint64))[2].tolist()[1:] == [
        0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]  # fmt: skip
