"""How good a score is at telling positives from negatives.

Scores are float arrays, labels bool arrays of the same length (True: positive). Everything is by ranks, in NumPy.
"""

from typing import NamedTuple

import numpy as np

_BINS = 15
_STEPS = 1000  # points an isotonic fit is given at most


class Interval(NamedTuple):
    """A figure with its 95 % bootstrap percentile interval."""

    value: float
    low: float
    high: float


def roc_auc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Probability that a positive scores above a negative, ties counting half (Mann and Whitney 1947).

    NaN where one of the two is missing.
    """
    above, below = _by_score(scores, labels, weights)
    negatives_under = np.cumsum(below) - below
    pairs = above.sum() * below.sum()
    return float((above * (negatives_under + below / 2)).sum() / pairs) if pairs else float("nan")


def pr_auc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Average precision: precision at each threshold, weighted with the recall gained there; NaN without positives."""
    above, below = (part[::-1] for part in _by_score(scores, labels, weights))
    hits, all_ = np.cumsum(above), np.cumsum(above + below)
    precision = np.divide(hits, all_, out=np.zeros_like(hits), where=all_ > 0)
    return float((precision * above).sum() / above.sum()) if above.sum() else float("nan")


def _by_score(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The weight of positives, and of negatives, at each distinct score, ascending."""
    values, place = np.unique(scores, return_inverse=True)
    weights = np.ones(len(scores)) if weights is None else weights
    return (
        np.bincount(place, weights * labels, len(values)),
        np.bincount(place, weights * ~labels, len(values)),
    )


def with_intervals(
    scores: np.ndarray, labels: np.ndarray, groups: np.ndarray, draws: int, seed: int
) -> dict[str, Interval]:
    """`roc_auc` and `pr_auc`, resampling whole groups (int from 0: a domain), whose documents are alike.

    Efron and Tibshirani 1993, chapter 13; the cluster bootstrap of Field and Welsh 2007. Draws that lack a class are
    left out.
    """
    _, scores = np.unique(scores, return_inverse=True)
    random = np.random.default_rng(seed)
    number = int(groups.max(initial=-1)) + 1
    found: dict[str, list[float]] = {"roc_auc": [], "pr_auc": []}
    for _ in range(draws):
        weights = np.bincount(random.integers(number, size=number), minlength=number)[groups].astype(float)
        if (weights * labels).any() and (weights * ~labels).any():
            found["roc_auc"].append(roc_auc(scores, labels, weights))
            found["pr_auc"].append(pr_auc(scores, labels, weights))
    values = {"roc_auc": roc_auc(scores, labels), "pr_auc": pr_auc(scores, labels)}
    limits = {name: np.percentile(drawn, [2.5, 97.5]) if drawn else [np.nan] * 2 for name, drawn in found.items()}
    return {name: Interval(value, *map(float, limits[name])) for name, value in values.items()}


class Isotonic(NamedTuple):
    """A rising step function from score to probability: `chances[i]` from `scores[i]` on, `chances[0]` below."""

    scores: np.ndarray
    chances: np.ndarray

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """The calibrated probability of each score."""
        return self.chances[np.maximum(0, np.searchsorted(self.scores, scores, side="right") - 1)]


def isotonic(scores: np.ndarray, labels: np.ndarray) -> Isotonic:
    """The rising function nearest to the labels in squares, by pooling adjacent violators (Ayer et al. 1955).

    Fitted on at most 1,000 groups of neighbouring scores.
    """
    order = np.argsort(scores, kind="stable")
    scores, labels = scores[order], labels[order]
    starts = np.unique(np.searchsorted(scores, scores[np.arange(0, len(scores), max(1, -(-len(scores) // _STEPS)))]))
    sums, sizes = np.add.reduceat(labels.astype(float), starts), np.diff([*starts, len(scores)])
    pools: list[tuple[float, int, int]] = []  # positives, documents, first group
    for at in range(len(starts)):
        positives, size, first = float(sums[at]), int(sizes[at]), at
        while pools and pools[-1][0] * size >= positives * pools[-1][1]:
            before = pools.pop()
            positives, size, first = positives + before[0], size + before[1], before[2]
        pools.append((positives, size, first))
    firsts = np.array([starts[first] for _, _, first in pools])
    return Isotonic(scores[firsts], np.array([positives / size for positives, size, _ in pools]))


def calibration_error(chances: np.ndarray, labels: np.ndarray) -> float:
    """Expected calibration error over 15 bins of equally many documents (Nixon et al. 2019, arXiv:1904.01685).

    Documents of one chance count with the share of positives among them, in whichever bins they lie: an isotonic fit
    gives few different chances, and the order of the documents would decide otherwise.
    """
    _, place = np.unique(chances, return_inverse=True)
    shares = np.bincount(place, labels)[place] / np.bincount(place)[place]
    parts = [part for part in np.array_split(np.argsort(chances, kind="stable"), _BINS) if len(part)]
    gaps = [abs(chances[part].mean() - shares[part].mean()) * len(part) for part in parts]
    return float(sum(gaps) / max(1, len(chances)))


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rho, ties at their mean rank; NaN where one of the two does not vary."""
    ranks = [_ranks(values) for values in (one, other)]
    spreads = [values.std() for values in ranks]
    if len(one) < 2 or 0 in spreads:
        return float("nan")
    return float(((ranks[0] - ranks[0].mean()) * (ranks[1] - ranks[1].mean())).mean() / (spreads[0] * spreads[1]))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]
