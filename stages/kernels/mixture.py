"""What a mixture comes to: how often each group of documents is repeated, and each document in it.

A group is whatever documents are mixed by: a source, a language, a quality bucket. `solve` turns wishes (weights,
tokens, epochs) into epochs before anything is written, and refuses in a sentence what cannot be had. `cut` and
`repetitions` turn a group's epochs into a whole number of copies of each document, by a hash of its id: the same for
any order of the documents and any number of workers.

Repeating data up to 4 times is about as good as new data (Muennighoff et al. 2023), hence the default cap.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import xxhash

MAX_EPOCHS = 4.0
REST = "*"
"""The name in a request that stands for every group not named, each on its own."""

NEVER = -1
"""The number of the copy that a document left out does not have."""

_CLUSTERS = np.array([2, 3, 5, 100, 1000])
_TIMES = np.array([1, 2, 3, 5, 8, 1])
_NEAR = 0.001  # of what a group is to come to
_PLACES = 10**9  # to so many parts an epoch is counted
_POINTS = 64  # the curve is averaged over so many places of a bucket


class Infeasible(ValueError):
    """A mixture that cannot be had, said to the person who asked for it."""


class Group(NamedTuple):
    """What there is to mix; `size`, bytes as a rule, is what `tempered` weighs languages by."""

    name: str
    documents: int
    tokens: int
    size: int = 0


class Request(NamedTuple):
    """What is wanted of a group: exactly one of a share of what the others leave, a number of tokens, of epochs."""

    weight: float | None = None
    tokens: float | None = None
    epochs: float | None = None
    max_epochs: float | None = None  # of this group; that of the mixture if None


class Realised(NamedTuple):
    """What a group comes to, in tokens."""

    name: str
    documents: int
    available: int  # in one epoch
    asked: float  # before any cap
    possible: float  # at the most epochs
    tokens: float
    epochs: float
    exhausted: bool  # the cap binds: the others give what it cannot


class Cut(NamedTuple):
    """Which documents of a group get one copy more than the whole part of their rate."""

    below: float  # those with a priority below this
    also: np.ndarray  # uint64, sorted: and those with these hashes
    tokens: int  # what the group then comes to


def level(weights: np.ndarray, caps: np.ndarray, total: float) -> float:
    """The λ for which the sum of min(λ weight, cap) is `total`; infinite where all caps together are no more.

    Sorted by cap / weight, the groups below λ give their caps and the others share the rest: one pass over the sorted.
    """
    weights, caps = np.asarray(weights, np.float64), np.asarray(caps, np.float64)
    rows = np.flatnonzero(weights > 0)
    if caps[rows].sum() <= total:
        return float("inf")
    rows = rows[np.argsort(caps[rows] / weights[rows], kind="stable")]
    full = np.concatenate([[0.0], np.cumsum(caps[rows])])[:-1]  # of the groups before, at their caps
    left = np.cumsum(weights[rows][::-1])[::-1]  # weight of this group and those behind
    found = (total - full) / left
    fits = np.flatnonzero(found <= caps[rows] / weights[rows])
    return float(found[fits[0] if len(fits) else -1])  # none: by a rounding of the last


def filled(weights: np.ndarray, caps: np.ndarray, total: float) -> np.ndarray:
    """`total` shared out by weight, no group above its cap: what one cannot take goes to the others by their weights.

    All float64. Where all caps together are less than `total`, each group of any weight gets its cap.
    """
    weights, caps = np.asarray(weights, np.float64), np.asarray(caps, np.float64)
    found = level(weights, caps, total)
    return np.where(weights > 0, caps if np.isinf(found) else np.minimum(found * weights, caps), 0.0)


def solve(
    groups: Sequence[Group],
    requests: Mapping[str, Request],
    total: float | None = None,
    max_epochs: float = MAX_EPOCHS,
) -> list[Realised]:
    """What each of `groups` comes to, in their order.

    Groups asked for by tokens or epochs get that, or the mixture is refused. Those asked for by weight share what is
    left of `total`; one that reaches its cap is exhausted, and the others go on without it. Without a total, the
    groups asked for by weight keep together the tokens they have. Raises `Infeasible`.
    """
    asked = _requests(groups, requests, max_epochs)
    tokens = np.array([group.tokens for group in groups], np.float64)
    caps = tokens * np.array([request.max_epochs for request in asked], np.float64)
    weights = np.array([request.weight or 0.0 for request in asked], np.float64)
    fixed = np.array([_fixed(request, group) for request, group in zip(asked, groups)], np.float64)
    _check_fixed(groups, asked, fixed, caps)
    rest = _rest(fixed.sum(), float(tokens[weights > 0].sum()), total, bool((weights > 0).any()))
    _check_rest(groups, weights, caps, fixed.sum(), rest)
    given = np.where(weights > 0, filled(weights, caps, rest), fixed)
    wanted = np.where(weights > 0, rest * weights / max(weights.sum(), 1e-300), fixed)
    bound = (weights > 0) & (wanted > caps * (1 + 1e-12))
    return [
        Realised(group.name, group.documents, group.tokens, float(wish), float(cap), float(got),
                 float(got / group.tokens) if group.tokens else 0.0, bool(full))
        for group, wish, cap, got, full in zip(groups, wanted, caps, given, bound | ((weights > 0) & (given >= caps)))
    ]  # fmt: skip


def _requests(groups: Sequence[Group], requests: Mapping[str, Request], max_epochs: float) -> list[Request]:
    """A request for each group, its `max_epochs` filled in. Raises `Infeasible` where one is missing or ill-formed."""
    names = [group.name for group in groups]
    if unknown := sorted(set(requests) - set(names) - {REST}):
        raise Infeasible(f"the mixture names {', '.join(unknown)}, which no document is of; there are {_list(names)}")
    missing = [name for name in names if name not in requests and REST not in requests]
    if missing:
        raise Infeasible(f"the mixture says nothing of {_list(missing)}; name it, or give '{REST}' for all others")
    found = []
    for name in names:
        request = requests.get(name, requests.get(REST, Request()))
        ways = [way for way in (request.weight, request.tokens, request.epochs) if way is not None]
        if len(ways) != 1:
            raise Infeasible(f"{name}: give one of weight, tokens and epochs, not {len(ways) or 'none'} of them")
        limit = max_epochs if request.max_epochs is None else request.max_epochs
        if not (0 <= ways[0] < float("inf") and 0 <= limit < float("inf")):
            raise Infeasible(f"{name}: {ways[0]:g} at most {limit:g} times; weights, tokens and epochs are 0 or more")
        found.append(request._replace(max_epochs=limit))
    return found


def _list(names: Sequence[str], shown: int = 8) -> str:
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def _fixed(request: Request, group: Group) -> float:
    if request.tokens is not None:
        return request.tokens
    return (request.epochs or 0.0) * group.tokens


def _check_fixed(groups: Sequence[Group], asked: Sequence[Request], fixed: np.ndarray, caps: np.ndarray) -> None:
    for group, request, wish, cap in zip(groups, asked, fixed.tolist(), caps.tolist()):
        if wish > cap * (1 + 1e-12):
            times = f"{wish / group.tokens:,.4f}".rstrip("0").rstrip(".") if group.tokens else ""
            epochs = f", which is {times} epochs" if times else ""
            raise Infeasible(
                f"{group.name} is exhausted: {wish:,.0f} tokens are asked for{epochs}; it has {group.tokens:,}, "
                f"at most {request.max_epochs:g} epochs of it are {cap:,.0f}"
            )


def _rest(fixed: float, available: float, total: float | None, weighted: bool) -> float:
    """The tokens that the groups asked for by weight share."""
    if total is None:
        return available
    if fixed > total * (1 + 1e-12):
        raise Infeasible(f"what is asked for by tokens and epochs is {fixed:,.0f} tokens, the total is {total:,.0f}")
    if not weighted and fixed < total * (1 - 1e-12):
        raise Infeasible(
            f"what is asked for by tokens and epochs is {fixed:,.0f} tokens, the total is {total:,.0f}; "
            "a group with a weight would take the rest"
        )
    return total - fixed if weighted else 0.0


def _check_rest(groups: Sequence[Group], weights: np.ndarray, caps: np.ndarray, fixed: float, rest: float) -> None:
    most = float(caps[weights > 0].sum())
    if rest <= most * (1 + 1e-12):
        return
    names = [f"{group.name} ({cap:,.0f})" for group, weight, cap in zip(groups, weights, caps) if weight > 0]
    more = f", or with max_epochs {rest / most:.4g} times as high" if most else ""
    raise Infeasible(
        f"the mixture cannot come to {fixed + rest:,.0f} tokens: every group with a weight is exhausted, "
        f"{_list(names)}; at most {fixed + most:,.0f}{more}"
    )


def tempered(
    groups: Sequence[Group], temperature: float, premiums: Mapping[str, float] | None = None
) -> dict[str, Request]:
    """Weights for languages: 1 leaves them as they are, a higher temperature brings them closer to each other.

    A language with content c is sampled in proportion to c^(1/T) (Conneau and Lample 2019; XLM-R's α of 0.3 is T 3.3).
    Content is `size` over the byte premium, the bytes a language takes to say what English says in one (Arnett et al.
    2024; Mandarin 0.93, unnamed languages 1). A share of content is not one of tokens: each language is repeated
    c^(1/T - 1) times, up to a factor, so that its weight in tokens is tokens x c^(1/T - 1).
    """
    if not temperature >= 1:
        raise Infeasible(f"temperature {temperature:g}: 1 leaves languages as they are, higher evens them out")
    premiums = premiums or {}
    if unknown := sorted(set(premiums) - {group.name for group in groups}):
        raise Infeasible(f"premiums name {', '.join(unknown)}, which no document is of")
    if wrong := sorted(name for name, premium in premiums.items() if not 0 < premium < float("inf")):
        raise Infeasible(f"the byte premium of {', '.join(wrong)} is not above 0")
    content = {group.name: group.size / premiums.get(group.name, 1.0) for group in groups}
    most = max(content.values(), default=0.0)  # measured against the largest, so that no power is out of range
    return {
        group.name: Request(weight=group.tokens * (content[group.name] / most) ** (1 / temperature - 1))
        if content[group.name] > 0
        else Request(weight=0.0)
        for group in groups
    }


def heights(buckets: int, power: float, rate: float, floor: float) -> np.ndarray:
    """Of `quality_curve`, for each of so many buckets, up to a factor; 0 where nothing is taken."""
    places = (np.arange(buckets * _POINTS) + 0.5) / (buckets * _POINTS)
    x = np.maximum(places - floor, 0.0) / (1 - floor)
    return np.where(places > floor, x**power * np.exp(rate * x), 0.0).reshape(buckets, _POINTS).mean(axis=1)


def quality_curve(
    tokens: np.ndarray, total: float, power: float = 1.0, rate: float = 2.0, floor: float = 0.4, cap: float = 7.0
) -> np.ndarray:
    """Epochs of each quality bucket, the worst first, that come to `total` tokens together; never falling.

    The curve is C x^p e^(λx) of OLMo 3: x goes from 0 at the share `floor` of the buckets, below which nothing is
    taken, to 1 at the best; `power` is p, `rate` λ, and C follows from `total`. No bucket has more than `cap` epochs:
    what the best cannot give, the next ones do. `tokens` is float64 or int64, one a bucket (20 of them, as a rule).
    Raises `Infeasible`.
    """
    if not (power >= 0 and rate >= 0 and 0 <= floor < 1 and cap > 0 and total >= 0):
        raise Infeasible(
            f"power {power:g}, rate {rate:g}, floor {floor:g}, cap {cap:g}: a curve that rises has none below 0"
        )
    shape = heights(len(tokens), power, rate, floor)
    have = np.asarray(tokens, np.float64)
    most = cap * float(have[shape > 0].sum())
    if total > most * (1 + 1e-12):
        raise Infeasible(
            f"{total:,.0f} tokens are asked for; above the lowest {floor:.0%} there are at most {most:,.0f} "
            f"at {cap:g} epochs"
        )
    factor = level(shape * have, cap * have, total)
    return np.where(shape > 0, cap if np.isinf(factor) else np.minimum(factor * shape, cap), 0.0)


def upsampled(size: np.ndarray) -> np.ndarray:
    """Copies of a document by the size of its duplicate cluster, int64: FineWeb-2's rehydration (Penedo et al. 2025).

    1, 2, 3-4, 5-99, 100-999, 1,000 and more give 1, 2, 3, 5, 8 and 1: what is met often is better than the rest, what
    is met everywhere is boilerplate.
    """
    return _TIMES[np.searchsorted(_CLUSTERS, np.asarray(size), side="right")]


def hashes(ids: Sequence[str], seed: int) -> np.ndarray:
    """uint64 a document: where it stands among those that may be repeated once more."""
    return np.fromiter((xxhash.xxh3_64_intdigest(b"mix " + id_.encode(), seed) for id_ in ids), np.uint64, len(ids))


def _copies(hashed: np.ndarray, rates: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The whole part (int64) and the fraction of each rate, and a document's priority: its place in [0, 1) over the
    fraction, so that about that fraction of documents is below 1. Infinite where the rate is whole.

    Rates count to nine places: 2.9999999999 epochs are three.
    """
    rates = np.round(np.broadcast_to(np.asarray(rates, np.float64), len(hashed)) * _PLACES) / _PLACES
    whole = np.floor(rates)
    fraction = rates - whole
    place = hashed.astype(np.float64) / 2.0**64
    priority = np.divide(place, fraction, out=np.full(len(rates), np.inf), where=fraction > 0)
    return whole.astype(np.int64), fraction, priority


def cut(hashed: np.ndarray, tokens: np.ndarray, rates: np.ndarray) -> Cut:
    """Settle which documents of a group are repeated once more, so that it comes to the sum of tokens x rates.

    `hashed` are the `hashes` of all its documents in any order, `tokens` their lengths, `rates` (float64) how often
    each is to come up on average: the group's epochs, times its copies where duplicates are upsampled. Documents are
    taken by priority as long as they fit into what is missing, so that a document comes up as often as its rate says.
    Where a few long documents are most of a group, that may miss by more than 0.1 %, and they are taken by length, the
    longest first, if this misses by less. What is missed is at most half the shortest document that could be added.
    """
    tokens = np.asarray(tokens, np.int64)
    copies, fraction, priority = _copies(hashed, rates)
    whole, missing = int((tokens * copies).sum()), _rounded_sum(tokens, fraction)
    order = np.lexsort((hashed, priority))
    order = order[fraction[order] > 0]
    first, rest, left = _fitting(tokens[order], missing)
    if abs(left) > _NEAR * (whole + missing):
        chosen, less = _by_length(order[np.argsort(-tokens[order], kind="stable")], tokens, missing)
        if abs(less) < abs(left):
            return Cut(0.0, np.sort(hashed[chosen]), whole + missing - less)
    ranked = priority[order]
    alike = first  # `below` cannot part what is equal
    while 0 < alike < len(order) and ranked[alike] == ranked[alike - 1]:
        alike -= 1
    below = float(ranked[alike]) if alike < len(order) else float("inf")
    return Cut(below, np.sort(hashed[order[[*range(alike, first), *rest]]]), whole + missing - left)


def _rounded_sum(tokens: np.ndarray, fraction: np.ndarray) -> int:
    """The sum of tokens x fraction to the nearest whole, exactly: a sum of floats depends on the order of its terms."""
    shares, place = np.unique(np.round(fraction * _PLACES).astype(np.int64), return_inverse=True)
    held = np.zeros(len(shares), np.int64)
    np.add.at(held, place, tokens)
    return (2 * sum(share * tokens for share, tokens in zip(shares.tolist(), held.tolist())) + _PLACES) // (2 * _PLACES)


def _by_length(longest: np.ndarray, tokens: np.ndarray, total: int) -> tuple[np.ndarray, int]:
    """Rows, given the longest first, that come to `total` tokens as nearly as one of two ways does, and what is left:
    the longest that fit, or the shortest row alone that is no less than all of it."""
    sizes = tokens[longest]
    first, rest, left = _fitting(sizes, total)
    above = int(np.searchsorted(-sizes, -total, side="right"))
    if above and sizes[above - 1] - total < abs(left):
        return longest[above - 1 : above], total - int(sizes[above - 1])
    return longest[[*range(first), *rest]], left


def _fitting(sizes: np.ndarray, total: int) -> tuple[int, list[int], int]:
    """How many of the first fit into `total` together, the places of those that do behind them, what is then left.

    The last one taken, the smallest of all that are not, may exceed what is left, where that leaves less than without.
    """
    first = int(np.searchsorted(np.cumsum(sizes), total, side="right"))
    left = total - int(sizes[:first].sum())
    rest: list[int] = []
    open_ = np.arange(first, len(sizes))
    while left and len(fits := open_[sizes[open_] <= left]):
        taken = int(np.searchsorted(np.cumsum(sizes[fits]), left, side="right"))
        rest += fits[:taken].tolist()
        left -= int(sizes[fits[:taken]].sum())
        open_ = fits[taken:]
    others = np.setdiff1d(np.arange(first, len(sizes)), rest, assume_unique=True)
    if len(others) and int(sizes[others].min()) < 2 * left:
        rest.append(int(others[np.argmin(sizes[others])]))
        left -= int(sizes[rest[-1]])
    return first, rest, left


def repetitions(hashed: np.ndarray, rates: np.ndarray, settled: Cut) -> np.ndarray:
    """Copies of each document, int64, 0 where it is left out; for any part of the documents that `cut` has seen."""
    copies, fraction, priority = _copies(hashed, rates)
    extra = (priority < settled.below) | np.isin(hashed, settled.also)
    return copies + (extra & (fraction > 0))


def occurrences(copies: np.ndarray, hashed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every copy of every document: which document it is of, its number from 0 (both int64), a hash of both (uint64).

    A document left out has one entry, with the number `NEVER`. The hash is splitmix64 (Steele et al. 2014) with the
    document's own for a state and the copy's number for the step: copies lie anywhere, whatever their document.
    """
    times = np.maximum(copies, 1).astype(np.int64)
    document = np.repeat(np.arange(len(times)), times)
    number = np.arange(len(document)) - np.repeat(np.cumsum(times) - times, times)
    number[np.asarray(copies)[document] == 0] = NEVER
    mixed = hashed[document] + number.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return document, number, mixed ^ (mixed >> np.uint64(31))
