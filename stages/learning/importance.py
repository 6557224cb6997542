"""Estimate what makes texts of a target set likelier than those of a corpus, and say how far resampling would go.

The model of DSIR (Xie et al. 2023, arXiv:2302.03169): hashed words and word pairs are drawn independently, from one
distribution in the target, from another in the corpus; what is kept is the log of their ratio, a number a bucket. Both
are estimated with one added to every count (Laplace). The authors' code adds 1e-8 to the probabilities instead, which
makes of every bucket that a small target happens to lack a verdict of -10 or lower.

A fifth of the target is not learned from, whole domains of it and nothing that repeats what is: the card tells how much
nearer to it the corpus comes, at several rates, by drawing in proportion to the weights, by taking the highest, and by
chance.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import typer

from pipeline.schema import split_batches, text_buffers
from pipeline.storage import atomic, sha256, write_array, write_json
from stages.kernels import hashed
from stages.learning import documents, measures, perplexity
from stages.learning.report import figure, finite, plain
from stages.models import cards

RATES = (0.01, 0.1, 0.5)
WAYS = {
    "random": "at random",
    "drawn": "drawn by exp(weight), the paper's",
    "highest": "the highest weights",
    "highest_mean": "the highest means by feature",
    "drawn_mean": "drawn by exp(mean / 0.1)",
}
"""How documents are chosen, as the card names it."""

_TEMPERATURES = {"document": (1, 100, 10_000), "feature": (1, 0.1, 0.01)}  # by `per` of the stage
_DRAWN_AT = 0.1  # temperature of a draw by means
_LEAST = 20  # documents of each kind
_HELD_OUT = 0.2  # share of the target's text
_JUDGED = 50_000  # texts of the corpus that resampling is tried on
_DRAWS = 5  # repetitions of what depends on chance
_ONE_DOMAIN = (
    "**Note**: all texts of the target are of one domain: texts are held out, not domains, and the figures flatter."
)
_LISTED, _TOP, _SAMPLES, _SHOWN = 500, 15, 3, 160  # texts searched for n-grams, n-grams named, texts shown, characters


class Texts(NamedTuple):
    """Texts and all their features."""

    texts: pa.ChunkedArray
    found: np.ndarray  # int32, the buckets
    starts: np.ndarray  # int64[texts + 1]

    def counts(self, rows: np.ndarray, buckets: int) -> np.ndarray:
        """int64[buckets] over these rows."""
        chosen = np.zeros(len(self.texts), bool)
        chosen[rows] = True
        return hashed.counts(self.found[np.repeat(chosen, self.sizes())], buckets)

    def sizes(self) -> np.ndarray:
        """int64: features of each text."""
        return np.diff(self.starts)


class Weighed(NamedTuple):
    """The corpus, and what the model says of it."""

    corpus: Texts
    sums: np.ndarray  # float64: log importance weights
    means: np.ndarray  # float64: the same by feature, 0 without one


def featured(texts: pa.ChunkedArray, buckets: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The features of these texts and where each text starts, a batch at a time."""
    for batch in split_batches(pa.table({"text": texts})):
        yield hashed.features(*hashed.tokens(*text_buffers(batch["text"])), buckets)


def counted(texts: pa.ChunkedArray, buckets: int) -> np.ndarray:
    """int64[buckets]: how often each occurs in all of these texts."""
    return sum((hashed.counts(found, buckets) for found, _ in featured(texts, buckets)), np.zeros(buckets, np.int64))


def held_in_memory(texts: pa.ChunkedArray, buckets: int) -> Texts:
    """These texts with all their features."""
    parts = list(featured(texts, buckets))
    sizes = np.concatenate([np.zeros(1, np.int64), *(np.diff(starts) for _, starts in parts)])
    return Texts(texts, np.concatenate([np.zeros(0, np.int32), *(found for found, _ in parts)]), np.cumsum(sizes))


def digest(texts: pa.ChunkedArray) -> str:
    """SHA-256 of the texts in this order, each followed by a line break."""
    found = hashlib.sha256()
    for text in texts:
        found.update(text.as_buffer())
        found.update(b"\n")
    return found.hexdigest()


def smoothed(counts: np.ndarray) -> np.ndarray:
    """float64: the probabilities of buckets that occurred so often, one added to each count (Laplace 1814).

    Among additive and Dirichlet smoothing of several strengths it was the best or within 4 % of it, by the likelihood
    of texts held out, for targets of 8,000 to 1,400,000 features (`docs/importance.md`).
    """
    return (counts + 1.0) / (counts.sum() + len(counts))


def divergence(of: np.ndarray, from_: np.ndarray) -> float:
    """Kullback and Leibler's, in nats: of a distribution (zeros allowed) from another that is positive."""
    some = of > 0
    return float((of[some] * np.log(of[some] / from_[some])).sum())


def effective_size(log_weights: np.ndarray) -> float:
    """Kish's effective sample size, (sum of w)^2 / sum of w^2, of weights given by their logs."""
    weights = np.exp(log_weights - log_weights.max())
    return float(weights.sum() ** 2 / (weights**2).sum())


class Asked(NamedTuple):
    """What decides the model but the documents."""

    name: str
    lang: str | None
    buckets: int
    limit: int
    seed: int
    about: list[str]


def train(target: list[Path], corpus: list[Path], out: Path, asked: Asked) -> dict[str, Any]:
    """Estimate, judge, and write `<name>.npy`, its card `<name>.json` and the report `<name>.md` to `out`.

    Returns the card. Raises `ValueError` where there are too few texts of either kind.
    """
    model = out / f"{asked.name}.npy"
    cards.free_for(model)
    good, of_good = documents.sample(documents.files(target), asked.limit, asked.seed)
    raw, of_raw = documents.sample(documents.files(corpus), asked.limit, asked.seed, asked.lang)
    if min(len(good), len(raw)) < _LEAST:
        raise ValueError(f"{len(good)} target texts and {len(raw)} of the corpus: at least {_LEAST} of each are needed")
    split = perplexity.apart(good, asked.seed, _HELD_OUT)
    learned = split.learned["text"]
    ours, wanted, theirs = (counted(texts, asked.buckets) for texts in (learned, split.test["text"], raw["text"]))
    for name, counts in (("target", ours), ("part of the target that is held out", wanted), ("corpus", theirs)):
        if not counts.any():
            raise ValueError(f"the {name} has no words")
    ratios = (np.log(smoothed(ours)) - np.log(smoothed(theirs))).astype(np.float32)
    write_array(model, ratios)
    card = {
        "name": asked.name, "about": asked.about, "language": [asked.lang] if asked.lang else [],
        "buckets": asked.buckets, "features": hashed.VERSION, "file": model.name,
        "bytes": model.stat().st_size, "sha256": sha256(model), "seed": asked.seed, "limit": asked.limit,
        "target": {**of_good, **_told(split), "features": int(ours.sum()), "sha256": digest(good["text"])},
        "corpus": {**of_raw, "texts": len(raw), "features": int(theirs.sum()), "sha256": digest(raw["text"]),
                   "in_target": int(pc.sum(pc.is_in(raw["text"], good["text"].combine_chunks())).as_py() or 0)},
        "facts": {"divergence": divergence(smoothed(ours), smoothed(theirs)),
                  **_facts(held_in_memory(raw["text"].slice(0, _JUDGED), asked.buckets), wanted, ratios, asked.seed)},
        "ngrams": {"for": _ngrams(learned, ratios, 1.0), "against": _ngrams(raw["text"], ratios, -1.0)},
    }  # fmt: skip
    card = finite(card)
    write_json(cards.path_of(model), card)
    with atomic(out / f"{asked.name}.md") as beside:
        beside.write_text(markdown(card), encoding="utf-8")
    return card


def _told(split: perplexity.Split) -> dict[str, Any]:
    """What a card says of what was learned from and what was not; `whole`: what was kept together."""
    return {
        "texts": len(split.learned), "domains": pc.count_distinct(split.learned["domain"]).as_py(),
        "held_out": len(split.test), "domains_held_out": pc.count_distinct(split.test["domain"]).as_py(),
        "held_out_near_learned": split.near, "whole": split.whole,
    }  # fmt: skip


def _facts(pool: Texts, wanted: np.ndarray, ratios: np.ndarray, seed: int) -> dict[str, Any]:
    """What the weights are like, and how near resampling comes to the features of the texts held out (`wanted`)."""
    sums = hashed.sums(pool.found, pool.starts, ratios)
    weighed = Weighed(pool, sums, sums / np.maximum(pool.sizes(), 1))
    lengths = pc.utf8_length(pool.texts).to_numpy()
    target = wanted / wanted.sum()
    whole = divergence(target, smoothed(hashed.counts(pool.found, len(ratios))))
    return {
        "judged": len(sums),
        "divergence_held_out": whole,
        "effective_sample": {
            per: {f"{at:g}": effective_size(values / at) for at in _TEMPERATURES[per]}
            for per, values in (("document", sums), ("feature", weighed.means))
        },
        "length_rho": {"weight": measures.rank_correlation(sums, lengths),
                       "mean": measures.rank_correlation(weighed.means, lengths)},
        "weights": {f"{q:g}": float(np.percentile(sums, q)) for q in (0, 1, 10, 50, 90, 99, 100)},
        "resampled": [_resampled(weighed, target, whole, rate, seed) for rate in RATES],
        "ends": {"highest": _samples(weighed, np.argsort(-sums, kind="stable")),
                 "lowest": _samples(weighed, np.argsort(sums, kind="stable"))},
    }  # fmt: skip


def _resampled(weighed: Weighed, target: np.ndarray, whole: float, rate: float, seed: int) -> dict[str, Any]:
    """The paper's KL reduction, for each way of choosing this share of the documents.

    `target` is the distribution to come near to, `whole` its divergence from all documents. Means over several draws
    where chance takes part.
    """
    corpus, random = weighed.corpus, np.random.default_rng(seed)
    noise = random.gumbel(size=(_DRAWS, len(weighed.sums)))
    keys = {"random": noise, "drawn": weighed.sums + noise, "highest": weighed.sums[None],
            "highest_mean": weighed.means[None], "drawn_mean": weighed.means + _DRAWN_AT * noise}  # fmt: skip
    count = max(1, round(rate * len(weighed.sums)))
    told: dict[str, Any] = {"rate": rate, "texts": count}
    for way, drawn in keys.items():
        chosen = [np.argsort(-key, kind="stable")[:count] for key in drawn]
        left = [divergence(target, smoothed(corpus.counts(rows, len(target)))) for rows in chosen]
        share = [corpus.sizes()[rows].sum() / len(corpus.found) for rows in chosen]
        told[way] = {"reduction": float(whole - np.mean(left)), "share_of_features": float(np.mean(share))}
    return told


def _samples(weighed: Weighed, order: np.ndarray) -> list[dict[str, Any]]:
    return [
        {"weight": float(weighed.sums[at]), "mean": float(weighed.means[at]),
         "text": " ".join(weighed.corpus.texts[int(at)].as_py()[: 4 * _SHOWN].split())[:_SHOWN]}
        for at in order[:_SAMPLES]
    ]  # fmt: skip


def _ngrams(texts: pa.ChunkedArray, ratios: np.ndarray, sign: float) -> list[Any]:
    """The n-grams that add most to the weights of these texts, or, with a negative sign, take most from them.

    Looked for in the first texts; [n-gram, log ratio of its bucket, occurrences].
    """
    seen: Counter[bytes] = Counter()
    data, offsets = hashed.tokens(*text_buffers(texts.slice(0, _LISTED)))
    for first, last in zip(offsets, offsets[1:]):
        row = data[first:last].tobytes().split()
        seen.update(row)
        seen.update(b" ".join(pair) for pair in zip(row, row[1:]))
    names = sorted(seen)
    ends = np.cumsum([0, *(len(name) + 1 for name in names)])
    found, starts = hashed.features(np.frombuffer(b"".join(name + b" " for name in names), np.uint8), ends, len(ratios))
    ratio = ratios[found[starts[1:] - 1]].astype(np.float64)  # the last feature of a pair is the pair
    worth = sign * ratio * np.array([seen[name] for name in names])
    best = np.argsort(-worth, kind="stable")[:_TOP]
    return [[names[at].decode(), float(ratio[at]), seen[names[at]]] for at in best]


# The card for people


def markdown(card: dict[str, Any]) -> str:
    """The card as a page."""
    facts = card["facts"]
    lines = [
        *_head(card),
        "| measure | value |",
        "|---|---|",
        f"| divergence of the target from the corpus, nats a feature | {facts['divergence']:.3f} |",
        f"| the same of the target that is held out | {facts['divergence_held_out']:.3f} |",
        *(
            f"| effective sample size, of {facts['judged']:,}, `per: {per}`, temperature {', '.join(sizes)} | "
            f"{', '.join(f'{size:,.1f}' for size in sizes.values())} |"
            for per, sizes in facts["effective_sample"].items()
        ),
        *(f"| rho of {name} and length | {figure(rho)} |" for name, rho in facts["length_rho"].items()),
        f"| weights, percentiles {', '.join(facts['weights'])} | "
        f"{', '.join(f'{value:,.1f}' for value in facts['weights'].values())} |",
        "",
        "## How much nearer to the held-out target",
        "",
        "Nats by which the divergence falls; in brackets the share of the corpus's features that the documents hold.",
        "",
        f"| documents | {' | '.join(WAYS.values())} |",
        f"|---{'|---' * len(WAYS)}|",
        *(_row(entry) for entry in facts["resampled"]),
    ]
    for title, entries in (("highest", facts["ends"]["highest"]), ("lowest", facts["ends"]["lowest"])):
        lines += ["", f"## Texts of the {title} weight", ""]
        lines += [f"- {one['weight']:,.1f} ({one['mean']:+.2f} a feature): {plain(one['text'])}" for one in entries]
    for title, side in (("for the target, by what they add to its texts", "for"),
                        ("against it, by what they take from the corpus's", "against")):  # fmt: skip
        lines += ["", f"## What speaks {title}", ""]
        lines += [", ".join(f"{plain(name)} ({ratio:+.2f})" for name, ratio, _ in card["ngrams"][side])]
    return "\n".join(lines) + "\n"


def _head(card: dict[str, Any]) -> list[str]:
    target, corpus = card["target"], card["corpus"]
    apart = f", of {target['domains_held_out']:,} domains besides the {target['domains']:,} learned from"
    return [
        f"# {card['name']}",
        "",
        *(f"{paragraph}\n" for paragraph in card["about"]),
        f"Log importance weights by hashed words and word pairs, {card['buckets']:,} buckets; languages: "
        f"{', '.join(card['language']) or 'any'}; {card['bytes']:,} bytes, sha256 `{card['sha256']}`.",
        "",
        f"Target: {target['texts']:,} texts, {target['features']:,} features, and {target['held_out']:,} texts held "
        f"out{apart if target['whole'] == 'domains' else ''}; {target['held_out_near_learned']:,} more were left out, "
        f"as they nearly repeat a text learned from. Corpus: {corpus['texts']:,} texts, {corpus['features']:,} "
        f"features; {corpus['in_target']:,} texts of it are in the target, too.",
        "",
        *([_ONE_DOMAIN, ""] if target["whole"] == "texts" else []),
    ]


def _row(entry: dict[str, Any]) -> str:
    cells = (f"{entry[way]['reduction']:+.3f} ({entry[way]['share_of_features']:.1%})" for way in WAYS)
    return f"| {entry['rate']:.0%} = {entry['texts']:,} | {' | '.join(cells)} |"


def commands(app: typer.Typer) -> None:
    """Add `train-importance` to the command line."""
    app.command("train-importance")(train_importance)


def train_importance(
    target: Annotated[list[Path], typer.Option(help="Texts to be like: .parquet, .jsonl, .txt or folders of them.")],
    corpus: Annotated[list[Path], typer.Option(help="What will be chosen from, or a sample of it.")],
    out: Annotated[Path, typer.Option(help="The folder for the model, its card and its report.")],
    name: Annotated[str, typer.Option(help="Of the files written.")] = "importance",
    lang: Annotated[str | None, typer.Option(help="Only texts of the corpus in this language, ISO 639-1.")] = None,
    about: Annotated[list[str] | None, typer.Option(help="A paragraph for the card: what the texts are.")] = None,
    buckets: Annotated[int, typer.Option(min=2, max=1 << 24, help="That n-grams are hashed into.")] = 10_000,
    limit: Annotated[int, typer.Option(min=_LEAST, help="Texts of each kind, sampled by hash.")] = 500_000,
    seed: Annotated[int, typer.Option(min=0, help="Of the samples, and of the draws that are judged.")] = 1,
) -> None:
    """Estimate for `importance` what makes texts likelier in a target than in a corpus; writes model and card."""
    try:
        card = train(target, corpus, out, Asked(name, lang, buckets, limit, seed, about or []))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    tenth = next(entry for entry in card["facts"]["resampled"] if entry["rate"] == 0.1)
    print(f"{out / name}.npy: {card['bytes']:,} bytes, divergence {card['facts']['divergence']:.3f} nats a feature; a "
          f"tenth of the corpus drawn by weight is {tenth['drawn']['reduction']:+.3f} nats nearer to the held-out "
          f"target than the corpus, one drawn at random {tenth['random']['reduction']:+.3f}")  # fmt: skip
