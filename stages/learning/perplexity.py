"""Train a character n-gram model for `perplexity`, and say what its bits per character are worth.

Whole domains are held out (single texts where all are of one), and all figures are of them. Texts that are of another
language are left out. Memory: the texts that are sampled, and `kneser_ney`'s.
"""

import math
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import typer
import xxhash

from pipeline.schema import split_batches, text_buffers
from pipeline.storage import atomic, sha256, write_json
from stages.kernels import ngrams
from stages.kernels.ngrams import STEPS
from stages.learning import documents, kneser_ney, measures, report
from stages.learning.kneser_ney import width
from stages.models import cards
from stages.models import ngrams as reader

ORDERS = dict.fromkeys(("zh", "yue", "wuu", "ja", "ko"), 5)  # of many characters, each worth more
ORDER = 7
_HELD_OUT, _MOST = 0.1, 0.5  # share of the text; its bound, where whole domains can keep to it
_NEARLY, _FEWEST = 0.9, 0.5  # of that share: what is near enough to it, and the lower bound
_FEW = 20  # documents to judge by, below which the report warns
_SAMPLED = 2000  # texts whose language is looked at
_LEAST = 20  # documents to learn from and to judge by, together
_MEGABYTES = 0.001, 100.0  # of a model
_SHOWN = 160  # characters of a sample


def gather(paths: list[Path], lang: str, limit: int, seed: int) -> tuple[pa.Table, str, dict[str, int]]:
    """At most `limit` texts in this language (`auto`: that of most), the language, and what was left out.

    Raises `ValueError` where there are too few.
    """
    files = documents.files(paths)
    if lang == "auto":
        lang = documents.main_language(documents.sample(files, _SAMPLED, seed)[0]["text"])
    table, counts = documents.sample(files, limit, seed, lang)
    if len(table) < _LEAST:
        raise ValueError(
            f"{len(table)} different texts in {lang!r} among {counts['read']}: at least {_LEAST} are needed"
        )
    return table, lang, counts


def held_out(groups: list[str], sizes: np.ndarray, seed: int, share: float = _HELD_OUT) -> np.ndarray:
    """bool: which documents are not to be learned from: whole groups (domains), about a `share` of the text (`sizes`).

    In an order that a keyed hash decides, each group that still fits into the share. Where that comes to less than nine
    tenths of it, as with a few large domains, it is that with one more, or one alone, whichever comes nearest to the
    share; at least half of it if any of these does, and never more than half of the text.
    """
    names, place = np.unique(np.array(groups, object), return_inverse=True)
    shares = np.bincount(place, sizes) / max(1, sizes.sum())
    hashes = [xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogatepass"), seed) for name in names]
    chosen, taken = np.zeros(len(names), bool), 0.0
    ordered = sorted(range(len(names)), key=hashes.__getitem__)
    for at in ordered:
        if taken + shares[at] <= share:
            chosen[at] = True
            taken += shares[at]
    if taken < _NEARLY * share:
        others = [at for at in ordered if not chosen[at]]
        options = [(taken, chosen.nonzero()[0].tolist())]
        options += [(taken + shares[at], [*options[0][1], at]) for at in others] + [(shares[at], [at]) for at in others]
        allowed = [option for option in options if option[0] <= _MOST]
        _, best = min(allowed, key=lambda option: (option[0] < _FEWEST * share, abs(option[0] - share)))
        chosen = np.isin(np.arange(len(names)), best)
    return chosen[place]


class Judged(NamedTuple):
    """Held-out texts and what a model says of them."""

    table: pa.Table  # documents.EXAMPLE
    costs: np.ndarray  # int64, tenths of a bit
    sizes: np.ndarray  # int64, characters

    def bits(self) -> float:
        """Per character, over all texts together."""
        return float(self.costs.sum() / STEPS / max(1, self.sizes.sum()))


def judge(table: pa.Table, model: reader.Model) -> Judged:
    """What this model says of these texts."""
    ready = ngrams.automaton(model.known, model.levels)
    found = [ngrams.costs(*text_buffers(batch["text"]), ready) for batch in split_batches(table)]
    return Judged(table, np.concatenate([cost for cost, _ in found]), np.concatenate([size for _, size in found]))


class Recipe(NamedTuple):
    """How to train; everything that decides the model but the documents."""

    lang: str
    order: int
    limit: int  # bytes
    seed: int = 1


def train(table: pa.Table, recipe: Recipe, counts: dict[str, int], out: Path, name: str, about: list[str]) -> Any:
    """Train, judge, and write `<name>.ngrams`, its card `<name>.json` and the report `<name>.md` to `out`.

    Returns the card, which the same table and recipe make the same. Raises `ValueError` where nothing is left to judge
    by, the size holds no model, or the card's place is taken.
    """
    path = out / f"{name}.ngrams"
    cards.free_for(path)
    split = apart(table, recipe.seed)
    known, unknown = kneser_ney.known_characters(split.learned["text"], recipe.order)
    grams = kneser_ney.count(split.learned["text"], known, recipe.order)
    by_order = []
    for size in range(1, recipe.order + 1):
        model = kneser_ney.fit(grams[:size], known, width(recipe.order), recipe.limit)
        judged = judge(split.test, model)
        by_order.append({"order": size, "bytes": len(model.encoded()), "bits_per_char": judged.bits(),
                         "grams": sum(len(level.cost) for level in model.levels)})  # fmt: skip
    reader.write(path, model)
    judged_by = {"uniform": judge(split.test, kneser_ney.uniform(known)).bits(), "by_order": by_order}
    card = {
        "name": name, "file": path.name, "about": about, "language": [recipe.lang], "order": recipe.order,
        "characters": len(known), "characters_left_out": unknown, "bytes": path.stat().st_size, "sha256": sha256(path),
        **_texts(split, int(grams[0].counts.sum()), judged, recipe.seed, counts), "facts": facts(judged) | judged_by,
    }  # fmt: skip
    write_json(cards.path_of(path), card)
    with atomic(out / f"{name}.md") as beside:
        beside.write_text(markdown(card), encoding="utf-8")
    return card


class Split(NamedTuple):
    """Texts to learn from, and texts to judge by that do not repeat them."""

    learned: pa.Table  # documents.EXAMPLE, as `test`
    test: pa.Table
    whole: str  # what was kept together: "domains" or "texts"
    near: int  # how many repeated what is learned from


def apart(table: pa.Table, seed: int, share: float = _HELD_OUT) -> Split:
    """Hold out about this share of the text, whole domains where there are several (`documents.EXAMPLE`).

    Raises `ValueError` where either side would be empty.
    """
    whole = "domains" if pc.count_distinct(table["domain"]).as_py() > 1 else "texts"
    names = table["domain" if whole == "domains" else "text"].to_pylist()
    away = held_out(names, pc.binary_length(table["text"]).to_numpy(), seed, share)
    learned, test = table.filter(pa.array(~away)), table.filter(pa.array(away))
    near = documents.near_duplicates(test["text"], learned["text"])
    test = test.filter(pa.array(~near))
    if not len(learned) or not len(test):
        raise ValueError(f"{len(learned)} texts to learn from and {len(test)} that do not repeat them to judge by")
    return Split(learned, test, whole, int(near.sum()))


def _texts(split: Split, learned: int, judged: Judged, seed: int, counts: dict[str, int]) -> dict[str, Any]:
    """What the card says of the texts on both sides; `learned` is in characters."""
    characters = int(judged.sizes.sum())
    return {
        "training": {
            "documents": len(split.learned), "characters": learned, "seed": seed, "domains": _domains(split.learned),
            "left_out": {**counts, "held_out_near_training": split.near},
        },
        "held_out": {
            "whole": split.whole, "documents": len(split.test), "characters": characters,
            "share": characters / max(1, characters + learned),
        },
    }  # fmt: skip


def _domains(table: pa.Table) -> dict[str, Any]:
    """How many domains, and the documents of the twenty largest."""
    found = Counter(table["domain"].to_pylist())
    return {"number": len(found), "largest": dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))[:20])}


def facts(judged: Judged) -> dict[str, Any]:
    """What the scores of held-out documents are like."""
    some = judged.sizes > 0
    scores = judged.costs[some] / STEPS / judged.sizes[some]
    order, texts = np.argsort(scores, kind="stable"), judged.table.filter(pa.array(some))
    places = [order[round(tenth * (len(order) - 1) / 10)] for tenth in range(11)]
    return {
        "documents": len(scores), "domains": _domains(texts), "bits_per_char": judged.bits(),
        "thirds": [float(bound) for bound in np.quantile(scores, [1 / 3, 2 / 3])],
        "length_rho": report.finite(measures.rank_correlation(scores, judged.sizes[some])),
        "deciles": [
            {"share": tenth / 10, "bits_per_char": float(scores[at]), "domain": texts["domain"][at].as_py(),
             "text": " ".join(texts["text"][at].as_py()[: 4 * _SHOWN].split())[:_SHOWN]}
            for tenth, at in enumerate(places)
        ],
    }  # fmt: skip


def markdown(card: dict[str, Any]) -> str:
    """The card for people."""
    learned, found = card["training"], card["facts"]
    low, high = found["thirds"]
    lines = [
        f"# {card['name']}",
        "",
        *(f"{paragraph}\n" for paragraph in card["about"]),
        f"Characters, up to {card['order']} at a time, interpolated modified Kneser-Ney; language: "
        f"{', '.join(card['language'])}; {card['characters']:,} characters known; {card['bytes']:,} bytes, sha256 "
        f"`{card['sha256']}`.",
        "",
        f"Learned from {learned['characters']:,} characters in {learned['documents']:,} documents of "
        f"{learned['domains']['number']:,} domains (documents: {_listed(learned['domains']['largest'])}), seed "
        f"{learned['seed']}. Left out: {_listed(learned['left_out'])}.",
        "",
        f"## On {judged_on(card)}",
        "",
        f"Documents: {_listed(found['domains']['largest'])}.",
        "",
        *(f"**Note**: {sentence}\n" for sentence in warnings(card)),
        "| model | bits per character | n-grams | bytes |",
        "|---|---|---|---|",
        f"| uniform | {found['uniform']:.3f} | | |",
        *(f"| order {one['order']} | {one['bits_per_char']:.3f} | {one['grams']:,} | {one['bytes']:,} |"
          for one in found["by_order"]),
        "",
        f"CCNet's thirds of these documents: head below {low:.3f}, middle to {high:.3f}, tail above. Rank correlation "
        f"of bits per character with length: {report.figure(found['length_rho'])}.",
        "",
        "| share of documents below | bits per character | domain | text |",
        "|---|---|---|---|",
        *(f"| {one['share']:.0%} | {one['bits_per_char']:.3f} | {report.plain(one['domain'])} | "
          f"{report.plain(one['text'])} |" for one in found["deciles"]),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{report.plain(name)} {value:,}" for name, value in values.items())


def judged_on(card: dict[str, Any]) -> str:
    """How much text the figures are of, and from where."""
    held = card["held_out"]
    number = card["facts"]["domains"]["number"]
    apart = f"{number:,} domain{'s' * (number != 1)} not learned from"
    where = apart if held["whole"] == "domains" else "the one domain learned from"
    return f"{held['documents']:,} documents ({held['characters']:,} characters, {held['share']:.1%}) of {where}"


def warnings(card: dict[str, Any]) -> list[str]:
    """What its reader should know before believing the figures."""
    held, known, cut, order = card["held_out"], card["characters"], card["characters_left_out"], card["order"]
    found = []
    if held["whole"] == "texts":
        found.append("all texts are of one domain: texts are held out, not domains, and the figures flatter the model.")
    if held["documents"] < _FEW:
        found.append(f"judged on {held['documents']} documents only: other ones would give other figures.")
    if cut:
        found.append(
            f"only the {known:,} most frequent characters are known, {cut:,} others are not: at order {order} a "
            f"character has {width(order)} bits of 64; a lower order knows more."
        )
    return found


def commands(app: typer.Typer) -> None:
    """Add `train-perplexity` to the command line."""
    app.command("train-perplexity")(train_perplexity)


def train_perplexity(
    texts: Annotated[list[Path], typer.Argument(help="Texts: .parquet, .jsonl, .txt or folders of them.")],
    out: Annotated[Path, typer.Option(help="The folder for the model, its card and its report.")],
    lang: Annotated[str, typer.Option(help="Their language, ISO 639-1; 'auto': that of most.")] = "auto",
    order: Annotated[
        int,
        typer.Option(
            min=0,
            max=10,
            help="Characters at a time; 0: by language. They share 64 bits: so 4,093 different ones can be known "
            "at order 5, 509 at 7, 61 at 10.",
        ),
    ] = 0,
    size: Annotated[
        float, typer.Option(min=_MEGABYTES[0], max=_MEGABYTES[1], help="Of the file, in MB, at most.")
    ] = 1.0,
    name: Annotated[str, typer.Option(help="Of the files written.")] = "perplexity",
    about: Annotated[list[str] | None, typer.Option(help="A paragraph for the card: what the texts are.")] = None,
    limit: Annotated[int, typer.Option(min=_LEAST, help="Texts, sampled by hash.")] = 200_000,
    seed: Annotated[int, typer.Option(min=0)] = 1,
) -> None:
    """Train a character n-gram model for `perplexity`; writes the model, its card and a report."""
    start = time.process_time()
    if not math.isfinite(size):
        raise typer.BadParameter(f"--size {size} is no number of MB")
    try:
        table, lang, counts = gather(texts, lang, limit, seed)
        recipe = Recipe(lang, order or ORDERS.get(lang, ORDER), int(size * 1e6), seed)
        card = train(table, recipe, counts, out, name, about or [])
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    found = card["facts"]
    print(f"{out / name}.ngrams: {card['bytes']:,} bytes, {lang}, {found['bits_per_char']:.3f} bits per character on "
          f"{judged_on(card)} (one character at a time: {found['by_order'][0]['bits_per_char']:.3f}), "
          f"{time.process_time() - start:.1f} CPU-seconds")  # fmt: skip
    for sentence in warnings(card):
        print(f"Note: {sentence}")
