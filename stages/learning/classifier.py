"""Train a classifier that tells texts worth having from the others, and say how far to believe it.

Positives are given; negatives are given too, or sampled from the corpus itself, less what nearly repeats a positive
(else the model learns that its own positives are bad). Domains are divided between training, calibration and test, so
that no figure in the card is for a site the model has seen. The recipe is DataComp-LM's (Li et al. 2024,
arXiv:2406.11794): fastText on words and pairs of words; Chinese is cut into characters and their pairs and triples.

Scores must not follow length: documents are judged by three windows, and half of those learned from are cut to a random
length, so that neither class is the one of short texts.
"""

import os
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import fasttext
import numpy as np
import pyarrow as pa
import typer

from pipeline.schema import text_buffers
from pipeline.storage import atomic, sha256, write_json
from stages.learning import documents, report
from stages.learning.documents import SPLITS
from stages.models import cards, classifiers
from stages.models.classifiers import Preparation

LABELS = ("__label__other", "__label__keep")  # by bool(positive)
_UNSPACED = {"zh", "yue", "wuu", "ja", "th", "lo", "km", "my"}  # where words have to be made of characters
_WINDOW = 600  # bytes in each of three pieces
_SHORTEST = 100  # bytes of prepared text that a cut aims at, at least
_LEFT = 50  # and that it leaves, at least
_CHANCE = 0.5  # ROC-AUC of one that knows nothing
_LEAST = 20  # documents of each kind, before anything can be learned or said
_BATCH = 20_000  # texts prepared at a time
_LARGEST_SEED = (1 << 31) - 1  # fastText's is of 32 bits, with a sign
_SAMPLED = 2000  # positives whose language is looked at, where it is not named


class Recipe(NamedTuple):
    """How to train; everything that decides the model but the documents."""

    lang: str
    seed: int = 1
    threads: int = 1  # more are faster, and no two runs then agree to the last bit
    dim: int = 16
    epochs: int = 5
    rate: float = 0.1
    rows: int = 0  # words and n-grams that a quantised model keeps; 0: not quantised

    def preparation(self) -> Preparation:
        """What is done to the text, before and after training."""
        return Preparation("fold", "han-chars" if self.lang in _UNSPACED else "words", _WINDOW)

    def arguments(self) -> dict[str, Any]:
        """fastText's."""
        ngrams = 3 if self.preparation().segmentation == "han-chars" else 2
        return {"dim": self.dim, "epoch": self.epochs, "lr": self.rate, "wordNgrams": ngrams, "minCount": 5,
                "bucket": 1 << 20, "loss": "softmax", "thread": self.threads, "seed": self.seed}  # fmt: skip


class Examples(NamedTuple):
    """Documents of both kinds, positives first."""

    table: pa.Table  # documents.EXAMPLE
    labels: np.ndarray  # bool
    counts: dict[str, Any]  # what was left out, and why
    foreign: int = 0  # negatives that were given though they are in other languages


def gather(
    positives: list[Path], negatives: list[Path] | None, corpus: list[Path], lang: str, limit: int, seed: int,
    trusted: bool = False,
) -> tuple[Examples, str]:  # fmt: skip
    """The examples, and their language. `negatives` None: sampled from `corpus`, as many as there are positives.

    Texts in other languages are left out, but not positives that are `trusted`, and not negatives that were given: what
    is bad about them may be that they are like no language (lists, shuffled words). Raises `ValueError` where there are
    too few of either kind.
    """
    source = documents.files(positives)
    if lang == "auto":
        lang = documents.main_language(documents.sample(source, min(limit, _SAMPLED), seed)[0]["text"])
    documents.check_language(lang)
    good, of_good = documents.sample(source, limit, seed, None if trusted else lang)
    _check_number("positives", good, lang, of_good)
    if negatives is None:
        bad, of_bad = _drawn(documents.files(corpus), documents.sketched(good["text"]), lang, seed + 1)
    else:
        bad, of_bad = documents.sample(documents.files(negatives), limit, seed + 1)
        bad, of_bad["near_a_positive"] = _unlike(bad, documents.sketched(good["text"]), limit)
    _check_number("negatives", bad, lang, of_bad)
    labels = np.arange(len(good) + len(bad)) < len(good)
    foreign = sum(one != lang for one in documents.languages(bad["text"])) if negatives is not None else 0
    counts = {"positives": of_good, "negatives": of_bad}
    return Examples(pa.concat_tables([good, bad]), labels, counts, foreign), lang


def _check_number(kind: str, found: pa.Table, lang: str, counts: dict[str, int]) -> None:
    if len(found) < _LEAST:
        raise ValueError(f"{len(found)} {kind} for {lang!r}, and at least {_LEAST} are needed "
                         f"({report.met({kind: counts})})")  # fmt: skip


def _unlike(texts: pa.Table, good: documents.Sketched, wanted: int) -> tuple[pa.Table, int]:
    """The first `wanted` texts that do not nearly repeat a positive, and how many that do were passed over."""
    near = documents.near_duplicates(texts["text"], good)
    places = np.flatnonzero(~near)[:wanted]
    looked_at = int(places[-1]) + 1 if len(places) == wanted else len(texts)
    return texts.take(pa.array(places)), looked_at - len(places)


def _drawn(files: list[Path], good: documents.Sketched, lang: str, seed: int) -> tuple[pa.Table, dict[str, int]]:
    """As many texts of a corpus as there are positives, none of them like one; fewer only where the corpus has no more.

    The corpus is read again for as long as there are too few, each time for the texts that come next in the sample's
    order, so that no more are held than for one reading.
    """
    missing = len(good.texts)
    asked, above = missing + missing // 10, -1
    parts: list[pa.Table] = []
    repeated = near = 0
    while True:
        texts, counts = documents.sample(files, asked, seed, lang, above)
        kept, passed = _unlike(texts, good, missing)
        parts.append(kept)
        repeated, near, missing = repeated + counts["repeated"], near + passed, missing - len(kept)
        if not missing or len(texts) < asked:
            return pa.concat_tables(parts), {**counts, "repeated": repeated, "near_a_positive": near}
        above = documents.key(texts["text"][-1].as_py(), seed)


def model_path(out: Path, name: str, recipe: Recipe) -> Path:
    """Where the model goes. Raises `ValueError` where another model is under this name: one card cannot be of both."""
    model, other = (out / f"{name}{suffix}" for suffix in ((".ftz", ".bin") if recipe.rows else (".bin", ".ftz")))
    cards.free_for(model)
    if other.exists():  # perhaps without a card, and would be asked by this one's
        raise ValueError(f"{other} is there; train {model.name} under another --name or --out, or remove it")
    return model


def train(examples: Examples, recipe: Recipe, out: Path, name: str, about: list[str]) -> dict[str, Any]:
    """Train, judge, and write `<name>.bin` or `.ftz`, its card `<name>.json` and the report `<name>.md` to `out`.

    Returns the card. Raises `ValueError` where a split has no documents of a kind: too few domains.
    """
    model = model_path(out, name, recipe)
    places = documents.split(examples.table["domain"].to_pylist(), examples.labels, recipe.seed)
    places, repeats = _without_repeats(examples, places)
    _check(examples, places)
    _fit(examples, places == 0, recipe, model)
    scorer = classifiers.load_with(model, LABELS[1], recipe.preparation())
    judged = {split: _judged(examples, places == at, scorer) for at, split in enumerate(SPLITS) if at}
    card = report.finite({
        "name": name, "about": about, "label": LABELS[1], "language": [recipe.lang],
        "preparation": recipe.preparation()._asdict(),
        "file": model.name, "bytes": model.stat().st_size, "sha256": sha256(model),
        "training": _training(examples, places, recipe, repeats),
        "facts": report.facts(judged["test"], judged["calibrate"], recipe.seed),
    })  # fmt: skip
    write_json(cards.path_of(model), card)
    with atomic(out / f"{name}.md") as beside:
        beside.write_text(report.markdown(card), encoding="utf-8")
    return card


def _training(examples: Examples, places: np.ndarray, recipe: Recipe, repeats: dict[str, int]) -> dict[str, Any]:
    """What a card says of what was learned from, and how."""
    learned = examples.labels[places == 0]
    return {
        "positives": int(learned.sum()),
        "negatives": int((~learned).sum()),
        "domains": len(set(examples.table["domain"].filter(pa.array(places == 0)).to_pylist())),
        "left_out": {**examples.counts, **repeats},
        "negatives_in_other_languages": examples.foreign,
        "arguments": {**recipe.arguments(), "rows": recipe.rows},
    }


def _without_repeats(examples: Examples, places: np.ndarray) -> tuple[np.ndarray, dict[str, int]]:
    """The splits without what one of them nearly repeats of another (-1): mirrors, licences; and how many that were.

    What is near a document learned from is not judged by; nor does a document calibrate that is near one of the test.
    """
    texts, places = examples.table["text"], places.copy()
    counts = {}
    for name, others, of in (("test_near_training", places > 0, places == 0),
                             ("calibrate_near_test", places == 1, places == 2)):  # fmt: skip
        rows = np.flatnonzero(others & (places >= 0))
        near = documents.near_duplicates(texts.take(pa.array(rows)), texts.filter(pa.array(of & (places >= 0))))
        places[rows[near]] = -1
        counts[name] = int(near.sum())
    return places, counts


def _check(examples: Examples, places: np.ndarray) -> None:
    for at, name in enumerate(SPLITS):
        labels = examples.labels[places == at]
        if not labels.any() or labels.all():
            number = len(set(examples.table["domain"].to_pylist()))
            raise ValueError(f"{number} domains cannot be divided: no {'negatives' if labels.any() else 'positives'} "
                             f"to {name}; give documents of more domains (url, domain or source)")  # fmt: skip


def _fit(examples: Examples, chosen: np.ndarray, recipe: Recipe, model: Path) -> None:
    """Train on these rows, quantise if asked to, and save."""
    rows = np.random.default_rng(recipe.seed).permutation(np.flatnonzero(chosen))
    texts = examples.table["text"].take(pa.array(rows))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "lines.txt")
        with open(path, "wb") as file:
            for label, line in zip(examples.labels[rows], _lines(texts, recipe), strict=True):
                if line:  # of a text of nothing but marks, say, no token is left
                    file.write(LABELS[int(label)].encode() + b" " + line + b"\n")
        learner = fasttext.train_supervised(path, verbose=0, **recipe.arguments())
        if recipe.rows:
            learner.quantize(path, qnorm=True, retrain=True, cutoff=recipe.rows, epoch=2, lr=recipe.rate / 4,
                             thread=recipe.threads, verbose=0)  # fmt: skip
    with atomic(model) as beside:
        learner.save_model(str(beside))


def _lines(texts: pa.ChunkedArray, recipe: Recipe) -> list[bytes]:
    """Prepared texts; every other one is cut to a random length, short ones as likely as long ones (log-uniform)."""
    random = np.random.default_rng(recipe.seed)
    lines = []
    for start in range(0, len(texts), _BATCH):
        data, offsets = recipe.preparation()(*text_buffers(texts.slice(start, _BATCH)))
        raw = data.tobytes()
        for at in range(len(offsets) - 1):
            line = raw[offsets[at] : offsets[at + 1]]
            target = int(_SHORTEST * (4 * _WINDOW / _SHORTEST) ** random.random())
            if at % 2 and len(line) > target:
                line = _cut(line, int(random.integers(len(line) - target)), target)
            lines.append(line)
    return lines


def _cut(line: bytes, place: int, target: int) -> bytes:
    """Whole tokens of a line, `target` bytes of them at most, from the first that begins after `place` on.

    `place` is more than `target` bytes before the end. Where long tokens leave fewer than `_LEFT` bytes, it is `target`
    bytes at least instead, from the token on that `place` is in.
    """
    first = line.find(b" ", place) + 1
    last = line.rfind(b" ", first, first + target)
    if last - first < _LEFT:
        first = line.rfind(b" ", 0, place) + 1
        last = line.find(b" ", first + target)
    return line[first:last] if last >= 0 else line[first:]


def _judged(examples: Examples, chosen: np.ndarray, scorer: classifiers.Scorer) -> report.Judged:
    part = examples.table.filter(pa.array(chosen))
    scores = [
        classifiers.score(*text_buffers(part["text"].slice(start, _BATCH)), scorer)
        for start in range(0, len(part), _BATCH)
    ]
    texts, domains = part["text"].to_pylist(), part["domain"].to_pylist()
    return report.Judged(texts, domains, examples.labels[chosen], np.nan_to_num(np.concatenate(scores)))


def commands(app: typer.Typer) -> None:
    """Add `train-classifier` to the command line."""
    app.command("train-classifier")(train_classifier)


def train_classifier(
    positives: Annotated[
        list[Path], typer.Option(help="Good texts: runs, folders, .parquet, .jsonl, .txt; may be repeated.")
    ],
    out: Annotated[Path, typer.Option(help="The folder for the model, its card and its report.")],
    negatives: Annotated[list[str] | None, typer.Option(help="Others, taken as they are; 'auto': of --corpus.")] = None,
    corpus: Annotated[list[Path] | None, typer.Option(help="What negatives are sampled from.")] = None,
    lang: Annotated[str, typer.Option(help="Their language, ISO 639-1; 'auto': that of most positives.")] = "auto",
    lang_check: Annotated[bool, typer.Option(help="Leave out positives identified as of another language.")] = True,
    name: Annotated[str, typer.Option(help="Of the files written.")] = "classifier",
    about: Annotated[list[str] | None, typer.Option(help="A paragraph for the card: what the texts are.")] = None,
    limit: Annotated[int, typer.Option(min=_LEAST, help="Texts of each kind, sampled by hash.")] = 200_000,
    rows: Annotated[
        int, typer.Option(min=0, max=1 << 30, help="Quantise to so many n-grams (50000: 1 MB); 0: do not.")
    ] = 0,
    dim: Annotated[int, typer.Option(min=1, max=10_000)] = Recipe("").dim,
    epochs: Annotated[int, typer.Option(min=1, max=10_000)] = Recipe("").epochs,
    threads: Annotated[int, typer.Option(min=1, max=1024, help="1: the same model each time.")] = 1,
    seed: Annotated[int, typer.Option(min=0, max=_LARGEST_SEED)] = 1,
) -> None:
    """Train a classifier for `classify` from good texts and others; writes a model, its card and a report."""
    start = time.process_time()
    sampled = not negatives or negatives == ["auto"]
    if sampled and not corpus:
        raise typer.BadParameter("negatives are sampled from a corpus, which --corpus must name")
    if corpus and not sampled:
        raise typer.BadParameter("--corpus is what negatives are sampled from; beside --negatives it has no use")
    given = None if sampled else [Path(path) for path in negatives or []]
    try:
        recipe = Recipe(lang, seed=seed, threads=threads, dim=dim, epochs=epochs, rows=rows)
        model = model_path(out, name, recipe)
        examples, lang = gather(positives, given, corpus or [], lang, limit, seed, not lang_check)
        card = train(examples, recipe._replace(lang=lang), out, name, about or [])
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    found = card["facts"]
    print(f"{model}: {card['bytes']:,} bytes, {lang}, ROC-AUC {found['roc_auc']['value']:.3f} "
          f"({found['roc_auc']['low']:.3f} to {found['roc_auc']['high']:.3f}) on {found['test']['domains']} domains "
          f"not learned from, rho with length {found['score_length_rho']['all']:.2f}, "
          f"{time.process_time() - start:.1f} CPU-seconds")  # fmt: skip
    print(report.training(card["training"]))
    if found["roc_auc"]["low"] <= _CHANCE:
        print("Note: by its interval this may be no better than chance: more texts, of more domains, or more --epochs "
              "where there are few.")  # fmt: skip
