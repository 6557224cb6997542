"""Train a character n-gram model for `perplexity`, and say what its bits per character are worth.

Interpolated modified Kneser-Ney (Chen and Goodman 1998, TR-10-98, section 3), estimated from exact counts: n-grams are
numbers of 64 bits with the symbols in them, so that no two share a count. To fit a size, the n-grams that gain least
are left out (weighted difference: Seymore and Rosenfeld 1996), and their share goes to the next shorter one. (Counting
them whole for the shorter ones, as in Kneser 1996, was worse: 5.61 and 5.89 bits instead of 5.60 and 5.82, Chinese, 2
and 0.5 MB.)

Whole domains are held out, and all figures are of them. Texts that are of another language are left out. Memory: the
texts that are sampled, and about 60 bytes for each distinct n-gram.
"""

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
from stages.kernels.ngrams import BEFORE, FIRST, STEPS, Level
from stages.learning import documents, measures, report
from stages.models import cards
from stages.models import ngrams as reader

ORDERS = dict.fromkeys(("zh", "yue", "wuu", "ja", "ko"), 5)  # of many characters, each worth more
ORDER = 7
_HELD_OUT = 0.1  # share of the characters, at most
_SEEN = 2  # a character must be met so often to be known
_WIDEST = 16  # bits of a symbol
_SAMPLED = 2000  # texts whose language is looked at
_LEAST = 20  # documents to learn from, and one to judge by
_SHOWN = 160  # characters of a sample
_FALLBACK = (0.5, 1.0, 1.5)  # discounts where counts of counts give none, as in small alphabets (Heafield's lmplz)


class Grams(NamedTuple):
    """The n-grams of one length, ascending; the first length has every symbol."""

    keys: np.ndarray  # uint64, as `ngrams.grams`
    counts: np.ndarray  # int64: how often each occurs
    shorter: np.ndarray  # int64: the place, in the length before, of the same without its first symbol
    context: np.ndarray  # int64: of the same without its last symbol; -1: not there, as before a text's first character


class Estimate(NamedTuple):
    """What a model says of the n-grams of one length."""

    chance: np.ndarray  # float64: of the last symbol after the others
    back: np.ndarray  # float64: weight of going back from this n-gram as a context
    kept: np.ndarray  # bool


def known_characters(texts: pa.ChunkedArray, limit: int) -> np.ndarray:
    """uint32, ascending: folded code points that occur at least twice, the `limit` most frequent (then the lowest)."""
    counts = np.zeros(0x110000, np.int64)
    table = ngrams.characters()
    for batch in split_batches(pa.table({"text": texts})):
        ngrams.count_characters(*text_buffers(batch["text"]), table, counts)
    counts[ngrams.BLANK] = 0
    found = np.flatnonzero(counts >= _SEEN)
    return np.sort(found[np.argsort(-counts[found], kind="stable")][:limit]).astype(np.uint32)


def count(texts: pa.ChunkedArray, known: np.ndarray, order: int) -> list[Grams]:
    """The n-grams of every length up to `order` in these texts."""
    bits, table = width(order), ngrams.symbols(known)
    keys, counts = np.zeros(0, np.uint64), np.zeros(0, np.int64)
    for batch in split_batches(pa.table({"text": texts})):
        found = np.sort(ngrams.grams(*text_buffers(batch["text"]), table, order, bits))
        starts = _starts(found)
        keys = np.concatenate([keys, found[starts]])
        counts = np.concatenate([counts, np.diff([*starts, len(found)])])
        by_key = np.argsort(keys, kind="stable")
        keys = keys[by_key]
        starts = _starts(keys)
        keys, counts = keys[starts], np.add.reduceat(counts[by_key], starts)
    longest_first = []
    for size in range(order - 1, 0, -1):
        grams, keys, counts = _shortened(keys, counts, size, bits, FIRST + len(known))
        longest_first.append(grams)
    nothing = np.zeros(len(keys), np.int64)
    return [Grams(keys, counts, nothing, nothing), *longest_first[::-1]]


def _shortened(keys: Any, counts: Any, size: int, bits: int, symbols: int) -> tuple[Grams, np.ndarray, np.ndarray]:
    """The n-grams with their places in the next shorter length (`size`), and that length's keys and counts."""
    suffixes = keys & np.uint64((1 << bits * size) - 1)
    if size == 1:
        short, shorter = np.arange(1, symbols, dtype=np.uint64), suffixes.astype(np.int64) - 1
    else:
        short, shorter = np.unique(suffixes, return_inverse=True)
    prefixes = keys >> np.uint64(bits)
    context = np.minimum(np.searchsorted(short, prefixes), len(short) - 1)
    context[short[context] != prefixes] = -1
    totals = np.bincount(shorter, counts, len(short)).astype(np.int64)
    return Grams(keys, counts, shorter, context), short, totals


def width(order: int) -> int:
    """Bits of a symbol in n-grams of this order."""
    return min(_WIDEST, 64 // order)


def _starts(keys: np.ndarray) -> np.ndarray:
    """Where each run of equal keys begins."""
    return np.flatnonzero(np.concatenate([np.ones(min(1, len(keys)), bool), keys[1:] != keys[:-1]]))


def estimate(grams: list[Grams], bits: int, kept: list[np.ndarray] | None = None) -> list[Estimate]:
    """Interpolated modified Kneser-Ney of these counts, of which only those `kept` are in the model (all, if omitted).

    Over all symbols, the chances after any context sum to 1. n-grams that reach before a text's beginning are never
    kept. A kept n-gram's context must be kept.
    """
    within = [inside(one, size, bits) for size, one in enumerate(grams)]
    counts = [grams[-1].counts]
    for size in range(len(grams) - 1, 0, -1):  # of a shorter n-gram it counts how many symbols it follows
        ways = np.where(within[size], 1, counts[-1])
        counts.append(np.bincount(grams[size].shorter, ways, len(grams[size - 1].keys)).astype(np.int64))
    made: list[Estimate] = []
    for size, (one, counted, stays) in enumerate(zip(grams, counts[::-1], kept or within)):
        starts = _starts(one.keys >> np.uint64(bits)) if size else np.zeros(1, np.int64)
        group = np.repeat(np.arange(len(starts)), np.diff([*starts, len(counted)]))
        totals = np.add.reduceat(counted, starts)
        left = np.where(stays, counted - discounts(counted), 0)
        back = 1 - np.add.reduceat(left, starts) / totals
        below = made[-1].chance[one.shorter] if size else 1 / len(counted)
        if size:
            has = np.add.reduceat(stays, starts) > 0
            made[-1].back[one.context[starts[has]]] = back[has]
        made.append(Estimate(left / totals[group] + back[group] * below, np.ones(len(counted)), stays))
    return made


def inside(grams: Grams, size: int, bits: int) -> np.ndarray:
    """bool: which n-grams (`size` symbols before the last) do not reach before a text's beginning."""
    return grams.keys >> np.uint64(size * bits) != BEFORE


def discounts(counts: np.ndarray) -> np.ndarray:
    """float64: what is taken off each count (Chen and Goodman 1998, equation 26), 0 off 0."""
    n1, n2, n3, n4 = (int((counts == number).sum()) for number in (1, 2, 3, 4))
    taken = np.array([0, *_FALLBACK])
    if n1 and n2 and n3 and n4:
        share = n1 / (n1 + 2 * n2)
        found = np.array([0, 1 - 2 * share * n2 / n1, 2 - 3 * share * n3 / n2, 3 - 4 * share * n4 / n3])
        taken = found if (found >= 0).all() else taken
    return taken[np.minimum(counts, 3)]


def worths(grams: list[Grams], bits: int) -> list[np.ndarray]:
    """float64: the bits by which each n-gram makes the texts cheaper; a context is worth its best continuation."""
    made = estimate(grams, bits)
    worth = [np.full(len(one.keys), -np.inf) for one in grams]
    for size in range(len(grams) - 1, 0, -1):
        one = grams[size]
        starts = _starts(one.keys >> np.uint64(bits))
        has = one.context >= 0
        without = made[size - 1].back[one.context] * made[size - 1].chance[one.shorter]
        gain = np.where(has, one.counts * np.log2(made[size].chance / without), -np.inf)
        gain[~inside(one, size, bits)] = -np.inf
        worth[size] = np.maximum(worth[size], gain)
        best = np.maximum.reduceat(worth[size], starts)
        place = one.context[starts]
        worth[size - 1][place[place >= 0]] = best[place >= 0]
    worth[0][:] = np.inf
    return worth


def fit(grams: list[Grams], known: np.ndarray, bits: int, limit: int) -> reader.Model:
    """The model of at most `limit` bytes, with about as many of the worthiest n-grams as go in.

    Raises `ValueError` where not even single characters do.
    """
    worth = worths(grams, bits)
    ranked = np.sort(np.concatenate([one[np.isfinite(one)] for one in worth]))[::-1]
    number, most = min(len(ranked), limit // 3), len(ranked)
    while True:
        least = ranked[number - 1] if number else np.inf
        model = _model(grams, known, bits, estimate(grams, bits, [one >= least for one in worth]))
        size = len(model.encoded())
        if size <= limit and number >= min(most, int(0.97 * number * limit / size)):
            return model
        if not number:
            raise ValueError(f"{size:,} bytes hold only the {len(known):,} characters; --size must be larger")
        if size > limit:
            most = number - 1
        number = min(most, int(0.99 * number * limit / size))


def _model(grams: list[Grams], known: np.ndarray, bits: int, made: list[Estimate]) -> reader.Model:
    """What the file holds: costs in tenths of a bit, n-grams by the number of children of each."""
    levels = []
    for size, (one, told) in enumerate(zip(grams, made)):
        children = np.zeros(len(one.keys), np.int64)
        if size + 1 < len(grams):
            longer = grams[size + 1].context[made[size + 1].kept]
            children = np.bincount(longer, minlength=len(one.keys))
        symbol = (one.keys & np.uint64((1 << bits) - 1))[told.kept].astype(np.uint16)
        levels.append(Level(symbol, _cost(told.chance[told.kept]), _cost(told.back[told.kept]),
                            children[told.kept].astype(np.uint16)))  # fmt: skip
    while len(levels) > 1 and not len(levels[-1].symbol):
        levels.pop()
    return reader.Model(known, levels)


def _uniform(known: np.ndarray) -> reader.Model:
    """Every symbol as likely as any other, whatever it follows."""
    symbols = np.arange(1, len(known) + FIRST, dtype=np.uint16)
    none = np.zeros(len(symbols), np.uint8)
    return reader.Model(known, [Level(symbols, _cost(np.full(len(symbols), 1 / len(symbols))), none, none)])


def _cost(chances: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(-STEPS * np.log2(chances)), 0, 255).astype(np.uint8)


def gather(paths: list[Path], lang: str, limit: int, seed: int) -> tuple[pa.Table, str, dict[str, int]]:
    """At most `limit` texts in this language (`auto`: that of most), the language, and what was left out.

    Raises `ValueError` where there are too few.
    """
    files = documents.files(paths)
    if lang == "auto":
        lang = documents.main_language(documents.sample(files, _SAMPLED, seed)[0]["text"])
    table, counts = documents.sample(files, limit, seed, lang)
    if len(table) < _LEAST:
        raise ValueError(f"{len(table)} texts in {lang!r} among {counts['read']}: at least {_LEAST} are needed")
    return table, lang, counts


def held_out(domains: list[str], sizes: np.ndarray, seed: int) -> np.ndarray:
    """bool: which documents are not to be learned from: whole domains, in an order that a keyed hash decides, each that
    still fits into a tenth of the text (`sizes`); the smallest domain if none does.

    Raises `ValueError` where there is but one domain.
    """
    names, place = np.unique(np.array(domains, object), return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"all texts are of one domain ({names[0]}); at least two are needed, one to judge by")
    total = np.bincount(place, sizes)
    hashes = [xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogatepass"), seed) for name in names]
    room, chosen = _HELD_OUT * total.sum(), np.zeros(len(names), bool)
    for at in sorted(range(len(names)), key=hashes.__getitem__):
        if total[at] <= room:
            chosen[at] = True
            room -= total[at]
    if not chosen.any():
        chosen[np.argmin(total)] = True
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

    Returns the card. Raises `ValueError` where the texts are of one domain, or the size holds no model.
    """
    start = time.process_time()
    away = held_out(table["domain"].to_pylist(), pc.binary_length(table["text"]).to_numpy(), recipe.seed)
    learned, test = table.filter(pa.array(~away)), table.filter(pa.array(away))
    near = documents.near_duplicates(test["text"], learned["text"])
    test = test.filter(pa.array(~near))
    if not len(learned) or not len(test):
        raise ValueError(f"{len(learned)} texts to learn from and {len(test)} that do not repeat them to judge by")
    bits = width(recipe.order)
    known = known_characters(learned["text"], (1 << bits) - FIRST)
    grams = count(learned["text"], known, recipe.order)
    by_order = []
    for size in range(1, recipe.order + 1):
        model = fit(grams[:size], known, bits, recipe.limit)
        judged = judge(test, model)
        by_order.append({"order": size, "bytes": len(model.encoded()), "bits_per_char": judged.bits(),
                         "grams": sum(len(level.cost) for level in model.levels)})  # fmt: skip
    path = out / f"{name}.ngrams"
    reader.write(path, model)
    card = {
        "name": name, "about": about, "language": [recipe.lang], "order": recipe.order, "characters": len(known),
        "bytes": path.stat().st_size, "sha256": sha256(path),
        "training": {
            "documents": len(learned), "characters": int(grams[-1].counts.sum()), "seed": recipe.seed,
            "domains": _domains(learned), "cpu_seconds": round(time.process_time() - start, 1),
            "left_out": {**counts, "held_out_near_training": int(near.sum())},
        },
        "facts": {**facts(judged), "uniform": judge(test, _uniform(known)).bits(), "by_order": by_order},
    }  # fmt: skip
    write_json(cards.path_of(path), card)
    with atomic(out / f"{name}.md") as beside:
        beside.write_text(markdown(card), encoding="utf-8")
    return card


def _domains(table: pa.Table) -> dict[str, int]:
    """Documents of each domain, the twenty largest."""
    found = Counter(table["domain"].to_pylist())
    return {"all": len(found), **dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))[:20])}


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
        f"{learned['domains']['all']:,} domains (documents: {_listed(learned['domains'])}), seed {learned['seed']}, "
        f"{learned['cpu_seconds']} CPU-seconds. Left out: {_listed(learned['left_out'])}.",
        "",
        f"## On {found['documents']:,} documents of {found['domains']['all']:,} other domains",
        "",
        f"Documents: {_listed(found['domains'])}.",
        "",
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
    return ", ".join(f"{report.plain(name)} {value:,}" for name, value in values.items() if name != "all")


def commands(app: typer.Typer) -> None:
    """Add `train-perplexity` to the command line."""
    app.command("train-perplexity")(train_perplexity)


def train_perplexity(
    texts: Annotated[list[Path], typer.Argument(help="Texts: .parquet, .jsonl, .txt or folders of them.")],
    out: Annotated[Path, typer.Option(help="The folder for the model, its card and its report.")],
    lang: Annotated[str, typer.Option(help="Their language, ISO 639-1; 'auto': that of most.")] = "auto",
    order: Annotated[int, typer.Option(min=0, max=10, help="Characters at a time; 0: by language.")] = 0,
    size: Annotated[float, typer.Option(help="Of the file, in MB, at most.")] = 1.0,
    name: Annotated[str, typer.Option(help="Of the files written.")] = "perplexity",
    about: Annotated[list[str] | None, typer.Option(help="A paragraph for the card: what the texts are.")] = None,
    limit: Annotated[int, typer.Option(min=_LEAST, help="Texts, sampled by hash.")] = 200_000,
    seed: Annotated[int, typer.Option(min=0)] = 1,
) -> None:
    """Train a character n-gram model for `perplexity`; writes the model, its card and a report."""
    try:
        table, lang, counts = gather(texts, lang, limit, seed)
        recipe = Recipe(lang, order or ORDERS.get(lang, ORDER), int(size * 1e6), seed)
        card = train(table, recipe, counts, out, name, about or [])
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    found = card["facts"]
    print(f"{out / name}.ngrams: {card['bytes']:,} bytes, {lang}, {found['bits_per_char']:.3f} bits per character on "
          f"{found['documents']:,} documents of {found['domains']['all']:,} domains not learned from "
          f"(one character at a time: {found['by_order'][0]['bits_per_char']:.3f})")  # fmt: skip
