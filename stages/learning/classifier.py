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
from collections import Counter
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
from stages.readers import classifiers
from stages.readers.classifiers import Preparation

LABELS = ("__label__other", "__label__keep")  # by bool(positive)
_UNSPACED = {"zh", "yue", "wuu", "ja", "th", "lo", "km", "my"}  # where words have to be made of characters
_WINDOW = 600  # bytes in each of three pieces
_SHORTEST = 100  # bytes of prepared text that a cut leaves, at least
_LEAST = 20  # documents of each kind, before anything can be learned or said
_BATCH = 20_000  # texts prepared at a time
_SAMPLED = 2000  # positives whose language is looked at


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


def gather(
    positives: list[Path], negatives: list[Path] | None, corpus: list[Path], lang: str, limit: int, seed: int
) -> tuple[Examples, str]:
    """The examples, and their language. `negatives` None: sampled from `corpus`, as many as there are positives.

    Raises `ValueError` where there are too few of either kind.
    """
    good, of_good = documents.sample(documents.files(positives), limit, seed)
    lang = _language(good) if lang == "auto" else lang
    wanted = limit if negatives is not None else len(good) + len(good) // 10
    source = documents.files(corpus if negatives is None else negatives)
    bad, of_bad = documents.sample(source, wanted, seed + 1, lang if negatives is None else None)
    near = documents.near_duplicates(bad["text"], good["text"])
    bad = bad.filter(pa.array(~near)).slice(0, limit if negatives is not None else len(good))
    if min(len(good), len(bad)) < _LEAST:
        raise ValueError(f"{len(good)} positives and {len(bad)} negatives: at least {_LEAST} of each are needed")
    counts = {"positives": of_good, "negatives": {**of_bad, "near_a_positive": int(near.sum())}}
    labels = np.arange(len(good) + len(bad)) < len(good)
    return Examples(pa.concat_tables([good, bad]), labels, counts), lang


def _language(table: pa.Table) -> str:
    found = Counter(documents.languages(table["text"].slice(0, _SAMPLED)))
    found.pop(None, None)
    if not found:
        raise ValueError("the positives are in no language that can be told; name it with --lang")
    return str(min(found, key=lambda name: (-found[name], str(name))))


def train(examples: Examples, recipe: Recipe, out: Path, name: str, about: list[str]) -> dict[str, Any]:
    """Train, judge, and write `<name>.bin` or `.ftz`, its card `<name>.json` and the report `<name>.md` to `out`.

    Returns the card. Raises `ValueError` where a split has no documents of a kind: too few domains.
    """
    start = time.process_time()
    places = documents.split(examples.table["domain"].to_pylist(), examples.labels, recipe.seed)
    places = _without_repeats(examples, places)
    _check(examples, places)
    model = out / f"{name}{'.ftz' if recipe.rows else '.bin'}"
    _fit(examples, places == 0, recipe, model)
    seconds = time.process_time() - start
    scorer = classifiers.load_with(model, LABELS[1], recipe.preparation())
    judged = {split: _judged(examples, places == at, scorer) for at, split in enumerate(SPLITS) if at}
    learned = examples.labels[places == 0]
    domains = np.array(examples.table["domain"].to_pylist(), object)
    card = {
        "name": name, "about": about, "label": LABELS[1], "language": [recipe.lang],
        "preparation": recipe.preparation()._asdict(), "bytes": model.stat().st_size, "sha256": sha256(model),
        "training": {
            "positives": int(learned.sum()), "negatives": int((~learned).sum()),
            "domains": len(set(domains[places == 0])), "cpu_seconds": round(seconds, 1),
            "left_out": {**examples.counts, "test_near_training": int((places < 0).sum())},
            "arguments": {**recipe.arguments(), "rows": recipe.rows},
        },
        "facts": report.facts(judged["test"], judged["calibrate"], recipe.seed),
    }  # fmt: skip
    card = report.finite(card)
    write_json(classifiers.card_path(model), card)
    with atomic(out / f"{name}.md") as beside:
        beside.write_text(report.markdown(card), encoding="utf-8")
    return card


def _without_repeats(examples: Examples, places: np.ndarray) -> np.ndarray:
    """The splits, -1 for a document of another split that nearly repeats one learned from: mirrors, licences."""
    texts, learned = examples.table["text"], places == 0
    repeats = documents.near_duplicates(texts.filter(pa.array(~learned)), texts.filter(pa.array(learned)))
    places = places.copy()
    places[np.flatnonzero(~learned)[repeats]] = -1
    return places


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
                first = line.find(b" ", int(random.integers(len(line) - target))) + 1
                line = line[first : max(line.rfind(b" ", first, first + target), first + 1)]
            lines.append(line)
    return lines


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
    positives: Annotated[list[Path], typer.Option(help="Good texts: .parquet, .jsonl, .txt or folders of them.")],
    out: Annotated[Path, typer.Option(help="The folder for the model, its card and its report.")],
    negatives: Annotated[list[str] | None, typer.Option(help="Other texts; 'auto': from --corpus.")] = None,
    corpus: Annotated[list[Path] | None, typer.Option(help="What negatives are sampled from.")] = None,
    lang: Annotated[str, typer.Option(help="Their language, ISO 639-1; 'auto': the positives'.")] = "auto",
    name: Annotated[str, typer.Option(help="Of the files written.")] = "classifier",
    about: Annotated[list[str] | None, typer.Option(help="A paragraph for the card: what the texts are.")] = None,
    limit: Annotated[int, typer.Option(min=_LEAST, help="Texts of each kind, sampled by hash.")] = 200_000,
    rows: Annotated[int, typer.Option(min=0, help="Quantise to so many n-grams (60000: 2 MB); 0: do not.")] = 0,
    dim: Annotated[int, typer.Option(min=1)] = Recipe("").dim,
    epochs: Annotated[int, typer.Option(min=1)] = Recipe("").epochs,
    threads: Annotated[int, typer.Option(min=1, help="1: the same model each time.")] = 1,
    seed: Annotated[int, typer.Option(min=0)] = 1,
) -> None:
    """Train a classifier for `classify` from good texts and others; writes a model, its card and a report."""
    sampled = not negatives or negatives == ["auto"]
    if sampled and not corpus:
        raise typer.BadParameter("negatives are sampled from a corpus, which --corpus must name")
    given = None if sampled else [Path(path) for path in negatives or []]
    try:
        examples, lang = gather(positives, given, corpus or [], lang, limit, seed)
        recipe = Recipe(lang, seed=seed, threads=threads, dim=dim, epochs=epochs, rows=rows)
        card = train(examples, recipe, out, name, about or [])
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    found = card["facts"]
    print(f"{out / name}: {card['bytes']:,} bytes, {lang}, ROC-AUC {found['roc_auc']['value']:.3f} "
          f"({found['roc_auc']['low']:.3f} to {found['roc_auc']['high']:.3f}) on {found['test']['domains']} domains "
          f"not learned from, rho with length {found['score_length_rho']['all']:.2f}")  # fmt: skip
