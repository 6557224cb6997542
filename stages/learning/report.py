"""The card of a classifier: what it learned from, how good it is where it has not learned, what each rate keeps."""

import math
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import xxhash

from stages.learning import measures

RATES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
_TOP, _SAMPLES, _SHOWN = 5, 3, 160  # domains named, texts shown at each side of a cut, characters of each
_DRAWS = 300
_MET = {"read": "texts read", "other_language": "in another language", "repeated": "copies", "near_a_positive":
        "near a positive", "unreadable": "rows unreadable", "without_text": "rows without text"}  # fmt: skip


class Judged(NamedTuple):
    """The documents of one split, and what the model says of them."""

    texts: list[str]
    domains: list[str]
    labels: np.ndarray  # bool, True: positive
    scores: np.ndarray  # float32

    def lengths(self) -> np.ndarray:
        """Characters."""
        return np.array([len(text) for text in self.texts], np.int64)


def facts(test: Judged, calibrate: Judged, seed: int) -> dict[str, Any]:
    """Everything measured, on documents of domains the model has not seen.

    The calibration is fitted on the documents of other domains yet, and judged on the test's.
    """
    _, groups = np.unique(np.array(test.domains, object), return_inverse=True)
    fitted = measures.isotonic(calibrate.scores, calibrate.labels)
    lengths = test.lengths()
    sides = {"all": np.ones(len(lengths), bool), "positives": test.labels, "negatives": ~test.labels}
    return {
        "test": {"positives": int(test.labels.sum()), "negatives": int((~test.labels).sum()),
                 "domains": int(groups.max(initial=-1)) + 1},
        **{name: interval._asdict() for name, interval in
           measures.with_intervals(test.scores, test.labels, groups, _DRAWS, seed).items()},
        "calibration": {
            "error_raw": measures.calibration_error(test.scores, test.labels),
            "error_isotonic": measures.calibration_error(fitted(test.scores), test.labels),
            "scores": [round(float(score), 6) for score in fitted.scores],
            "chances": [round(float(chance), 6) for chance in fitted.chances],
        },
        "score_length_rho": {
            name: measures.rank_correlation(test.scores[side], lengths[side]) for name, side in sides.items()
        },
        "keep_rates": [_kept(test, rate) for rate in RATES],
    }  # fmt: skip


def _kept(test: Judged, rate: float) -> dict[str, Any]:
    """What a cut at this rate keeps of the test documents.

    Among those with the score it is made at, chance decides: precision and recall are what is to be expected. What is
    shown is by a hash of the text.
    """
    hashes = [xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass")) for text in test.texts]
    order = np.lexsort((np.array(hashes, np.uint64), -test.scores))
    count = max(1, round(rate * len(order)))
    stays, goes = order[:count], order[count:]
    threshold = test.scores[stays[-1]]
    above, level = test.scores > threshold, test.scores == threshold
    hits = test.labels[above].sum() + test.labels[level].mean() * (count - above.sum())
    lengths = test.lengths()
    return {
        "rate": rate,
        "threshold": float(threshold),
        "precision": float(hits / count),
        "recall": float(hits / max(1, test.labels.sum())),
        "median_characters_kept": float(np.median(lengths[stays])),
        "median_characters_dropped": float(np.median(lengths[goes])) if len(goes) else None,
        "domains_kept": _top(test, stays),
        "domains_dropped": _top(test, goes),
        "just_kept": [_sample(test, at) for at in stays[-_SAMPLES:][::-1]],
        "just_dropped": [_sample(test, at) for at in goes[:_SAMPLES]],
    }


def _top(test: Judged, rows: np.ndarray) -> dict[str, int]:
    found = Counter(test.domains[at] for at in rows)
    return dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))[:_TOP])


def _sample(test: Judged, at: int) -> dict[str, Any]:
    return {
        "score": float(test.scores[at]),
        "positive": bool(test.labels[at]),
        "domain": test.domains[at],
        "text": " ".join(test.texts[at][: 4 * _SHOWN].split())[:_SHOWN],
    }


def finite(value: Any) -> Any:
    """The same with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {name: finite(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def met(counts: dict[str, Any]) -> str:
    """What there was of positives and of negatives, and what of it was left out, in words."""
    parts = []
    for kind in (kind for kind in ("positives", "negatives") if kind in counts):
        told = [f"{counts[kind][name]:,} {said}" for name, said in _MET.items() if counts[kind].get(name)]
        parts.append(f"{kind}: {', '.join(told) or 'none'}")
    return "; ".join(parts)


def training(learned: dict[str, Any]) -> str:
    """What of a card's training a person should see: what was met and left out, and what was not left out."""
    left_out = learned["left_out"]
    lines = [f"Met and left out: {met(left_out)}; to be judged by, but near one learned from: "
             f"{left_out['test_near_training']:,}; to calibrate with, but near one of the test: "
             f"{left_out['calibrate_near_test']:,}."]  # fmt: skip
    if foreign := learned.get("negatives_in_other_languages"):
        lines.append(f"{foreign:,} of the negatives that were given look to be in other languages, and were kept.")
    return "\n".join(lines)


def markdown(card: dict[str, Any]) -> str:
    """The card for people."""
    return "\n".join([*_head(card), *_measured(card["facts"]), *_cuts(card["facts"])]) + "\n"


def _head(card: dict[str, Any]) -> list[str]:
    learned = card["training"]
    return [
        f"# {card['name']}",
        "",
        *(f"{paragraph}\n" for paragraph in card["about"]),
        f"fastText, probability of `{card['label']}`; languages: {', '.join(card['language']) or 'any'}; "
        f"{card['bytes']:,} bytes, sha256 `{card['sha256']}`.",
        "",
        f"Learned from {learned['positives']:,} positives and {learned['negatives']:,} negatives of "
        f"{learned['domains']:,} domains ({_listed(learned['arguments'])}). Text is prepared: "
        f"{_listed(card['preparation'])}.",
        "",
        training(learned),
        "",
    ]


def _measured(found: dict[str, Any]) -> list[str]:
    return [
        f"## On {found['test']['positives']:,} positives and {found['test']['negatives']:,} negatives of "
        f"{found['test']['domains']:,} other domains",
        "",
        "| measure | value | 95 % interval (domains resampled) |",
        "|---|---|---|",
        *(f"| {name} | {figure(found[key]['value'])} | {figure(found[key]['low'])} to {figure(found[key]['high'])} |"
          for key, name in (("roc_auc", "ROC-AUC"), ("pr_auc", "PR-AUC"))),
        f"| calibration error, raw / isotonic | {figure(found['calibration']['error_raw'])} / "
        f"{figure(found['calibration']['error_isotonic'])} | |",
        *(f"| rho of score and length, {name} | {figure(rho)} | |" for name, rho in found["score_length_rho"].items()),
        "",
    ]  # fmt: skip


def _cuts(found: dict[str, Any]) -> list[str]:
    rates, positives = found["keep_rates"], found["test"]["positives"]
    share = positives / max(1, positives + found["test"]["negatives"])
    lines = [
        f"What a cut keeps of these test documents, of which {share:.0%} are positives. A corpus has another share of "
        "good texts, and so another score, precision and recall at each rate.",
        "",
        "| keep | from score | precision | recall | median length kept / dropped | domains kept | domains dropped |",
        "|---|---|---|---|---|---|---|",
        *(_row(entry) for entry in rates),
        "",
        "## Texts at each cut",
    ]
    for entry in rates:
        lines += ["", f"### {entry['rate']:.0%}", ""]
        for name in ("just_kept", "just_dropped"):
            lines += [
                f"- {name.replace('_', ' ')}, {_score(one['score'])}, {'positive' if one['positive'] else 'negative'}, "
                f"{one['domain']}: {plain(one['text'])}"
                for one in entry[name]
            ]
    return lines


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _row(entry: dict[str, Any]) -> str:
    kept, dropped = (
        ", ".join(f"{plain(name)} {count}" for name, count in entry[key].items())
        for key in ("domains_kept", "domains_dropped")
    )
    lengths = f"{figure(entry['median_characters_kept'], 0)} / {figure(entry['median_characters_dropped'], 0)}"
    figures = " | ".join([_score(entry["threshold"]), figure(entry["precision"]), figure(entry["recall"])])
    return f"| {entry['rate']:.0%} | {figures} | {lengths} | {kept} | {dropped} |"


def _score(value: float) -> str:
    """All digits of a score, so that `min` in `classify` cuts where the table does."""
    return str(np.float32(value))


def figure(value: float | None, digits: int = 3) -> str:
    """A number for a table, `-` where there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def plain(text: str) -> str:
    """Text that means nothing in Markdown."""
    return "".join(f"\\{char}" if char in "\\`*_[]<>|#" else char for char in text)
