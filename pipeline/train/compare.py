"""Which corpus is better? Models of one size learn from each for one budget; held-out bits per byte decide.

Runs are paired: with the same seed two runs start from the same weights and draw their windows by the same seed, so
the difference of a pair varies less than a run does. Each learning rate is judged by itself, since a ranking can turn
with it (arXiv 2512.24503 advises a reduced one for proxies). The measure is bits per byte, as likelihoods of small
models predict the ranking at scale where accuracies do not (DataDecide, arXiv 2504.11393).

Two things vary: the runs, by their seed, and the documents that happen to judge. The verdict is on the first; beside it
stands the interval over documents, which says whether other documents would have judged these same runs alike. That one
alone proves nothing of the corpora: two runs on one corpus differ too.
"""

import math
import os
import re
import statistics
from collections.abc import Callable, Iterator
from html import escape
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline import chart, corpus, storage
from pipeline.corpus import Corpus
from pipeline.train import checkpoint, evaluate, loop
from pipeline.train.data import Dataset
from pipeline.train.evaluate import Text
from pipeline.train.recipe import Recipe, Refused, read_record

_SHINGLE = 48
_LEAKED = 0.5
"""A held-out document is not used where half of its 48-byte pieces stand in some training corpus word for word."""

_MOST_SEEDS = 1000

_FEW = 30
"""With fewer held-out documents than this the report warns: Student's interval leans on there being some."""

_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
"""Student's t, 97.5 %, for 1 to 15 degrees of freedom; beyond, 1.96 + 2.5 / df is right within 0.01."""


class Design(NamedTuple):
    """What is run for each corpus."""

    tokens: int
    seeds: tuple[int, ...]
    rates: tuple[float, ...]  # multiples of the recipe's


class Difference(NamedTuple):
    """Bits per byte of one corpus's runs less those of another's, paired by seed."""

    mean: float
    deviation: float | None  # and the interval: None with a single pair
    low: float | None  # of the 95 % confidence interval
    high: float | None
    seeds: int

    @property
    def resolved(self) -> bool:
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


class OverDocuments(NamedTuple):
    """The same difference, with the spread of the documents that judge instead of that of the seeds."""

    low: float
    high: float
    better: int  # documents of which the second corpus's runs say fewer bits
    documents: int


def quantile(freedom: int) -> float:
    """Student's t at 97.5 %."""
    return _T[freedom - 1] if freedom <= len(_T) else 1.96 + 2.5 / freedom


def difference(one: list[float], other: list[float]) -> Difference:
    """The paired difference one - other with its 95 % confidence interval; none with a single pair."""
    pairs = [a - b for a, b in zip(one, other)]
    mean = statistics.fmean(pairs)
    if len(pairs) < 2:
        return Difference(mean, None, None, None, 1)
    deviation = statistics.stdev(pairs)
    half = quantile(len(pairs) - 1) * deviation / math.sqrt(len(pairs))
    return Difference(mean, deviation, mean - half, mean + half, len(pairs))


def over_documents(one: np.ndarray, other: np.ndarray, n_bytes: np.ndarray) -> OverDocuments | None:
    """Nats of each document under one and the other (means over seeds): 95 % interval of the difference in bits a byte.

    By the linearised variance of a ratio (Cochran, Sampling Techniques, 1977, 6.4), documents being drawn at random;
    None of a single document.
    """
    count = len(n_bytes)
    if count < 2:
        return None
    bits = (one - other) / math.log(2)
    mean = bits.sum() / n_bytes.sum()
    rest = bits - mean * n_bytes
    half = quantile(count - 1) * math.sqrt(count / (count - 1) * float((rest**2).sum())) / n_bytes.sum()
    return OverDocuments(float(mean - half), float(mean + half), int((bits > 0).sum()), count)


def seeds_needed(found: Difference) -> int | None:
    """With how many seeds a difference like this one would be resolved; None where that is beyond 1,000 or unknown."""
    if found.mean == 0 or found.deviation is None:
        return None
    for count in range(2, _MOST_SEEDS + 1):
        if quantile(count - 1) * found.deviation / math.sqrt(count) < abs(found.mean):
            return count
    return None


def verdict(one: str, other: str, found: Difference) -> str:
    """What a difference means, in a sentence."""
    pair = f"{one} and {other}: not resolved"
    if found.mean == 0:
        return f"{pair}: no difference at all in {found.seeds} seeds"
    if found.low is None:
        return f"{pair}: {found.mean:+.4f} bits a byte in one seed, and one seed says nothing of the spread"
    size = (
        f"{abs(found.mean):.4f} bits a byte, 95 % interval {found.low:+.4f} to {found.high:+.4f}, {found.seeds} seeds"
    )
    if found.resolved:
        better, worse = (other, one) if found.mean > 0 else (one, other)
        return f"{better} is better than {worse} by {size}"
    needed = seeds_needed(found)
    more = f"needs about {needed} seeds" if needed else f"not with {_MOST_SEEDS:,} seeds either"
    return f"{pair} ({size}); {more}"


class Planned(NamedTuple):
    """One run of the design."""

    corpus: str  # its name in the report
    rate: float
    seed: int
    recipe: Recipe
    digest: str  # of everything that its figures depend on

    def folder(self, out: Path) -> Path:
        """Other settings give another digest and so another folder: figures are never those of other settings."""
        return out / f"{self.recipe.name}-{self.digest[:12]}"


_SETS = {"corpus": "its arguments", "train.steps": "--tokens", "train.seed": "--seeds", "data.seed": "--seeds",
         "train.eval_tokens": "the documents that judge"}  # fmt: skip
"""Keys of the recipe that a comparison sets itself, and from what."""

_REPORTS = ("report.md", "report.html", "report.json")


def refuse_set(keys: list[str]) -> None:
    """Raise `Refused` where `--set` names a key that a comparison sets itself: it would change nothing."""
    for key in keys:
        if key in _SETS:
            raise Refused(f"--set {key}: compare sets this key itself, by {_SETS[key]}")


def compare(recipe: Recipe, paths: list[Path], design: Design, out: Path, heldout: Path | None = None,
            say: Callable[[str], None] = print) -> str:  # fmt: skip
    """Run the design and write report.md, report.html and report.json into `out`; returns the report as Markdown.

    Finished runs are kept under a digest of their settings, so the same call goes on, and a call with other settings
    runs what they change. The report of other settings is renamed. Raises `Refused` where there is nothing fair to
    compare.
    """
    if len(paths) < 2:
        raise Refused("compare: two corpora at least")
    corpora = {name: corpus.open(path) for name, path in zip(_names(paths), paths)}
    judged_by, told = held_out(corpora, corpus.open(heldout) if heldout else None)
    steps = design.tokens // (recipe.train.batch * recipe.model.context)
    if steps < 1:
        raise Refused(f"compare: {design.tokens:,} tokens are less than a batch")
    judges = {name: _judges(texts) for name, texts in judged_by.items()}
    runs = _planned(recipe, corpora, design, steps)
    digest = storage.digest([[run.digest for run in runs], list(judges.items())])
    with storage.lock(out):
        _keep_other_report(out, digest, say)
        for warning in told["warnings"]:
            say(warning)
        results = []
        for run in runs:
            result = _judged(run, corpora[run.corpus], out, judged_by[run.corpus], judges[run.corpus], say)
            results.append({"corpus": run.corpus, "rate": run.rate, "seed": run.seed,
                            "folder": run.folder(out).name, **result})  # fmt: skip
            say(f"{run.recipe.name}: {result['bpb']:.4f} bits a byte, {result['cpu_seconds']:.0f} CPU-s")
        eaten = {name: consumed(recipe, opened, steps * recipe.train.batch) for name, opened in corpora.items()}
        found = _differences(results, design)
        blocks = list(_blocks(recipe, design, results, found, eaten, told, out))
        shown = [{key: value for key, value in run.items() if key not in ("nats", "n_bytes")} for run in results]
        return _write_reports(out, blocks, {
            "digest": digest, "design": design._asdict(), "recipe": recipe.model_dump(mode="json"),
            "held_out": told, "runs": shown, "consumed": eaten, "differences": found,
        })  # fmt: skip


def _planned(recipe: Recipe, corpora: dict[str, Corpus], design: Design, steps: int) -> list[Planned]:
    """The runs of a design, in the order they are run."""
    found = []
    for rate in design.rates:
        for seed in design.seeds:
            for name, opened in corpora.items():
                one = _recipe(recipe, opened, f"{name}-lr{rate:g}-seed{seed}", steps, rate, seed)
                found.append(Planned(name, rate, seed, one, loop.exact_digest(one, opened)))
    return found


def _judges(texts: list[Text]) -> str:
    """A digest of the documents that judge: their ids, sizes, sources and languages."""
    return storage.digest([[text.ids.tolist(), text.n_bytes, text.source, text.lang] for text in texts])


def _keep_other_report(out: Path, digest: str, say: Callable[[str], None]) -> None:
    """Rename the report of another comparison, so that none stands there while this one runs, or is killed."""
    try:
        old = read_record(out / "report.json")
    except Refused as error:
        say(f"{error}; it is written again")
        return
    if old is None or old.get("digest") == digest:
        return
    if "differences" not in old:
        raise Refused(f"{out}: its report.json is not of a comparison; give another --out")
    end = str(old.get("digest", "earlier"))[:12]
    for name in _REPORTS:
        if (path := out / name).exists():
            os.replace(path, path.with_stem(f"report-{end}"))
    say(f"{out}: the report there is of other settings or corpora; it is now report-{end}")


def _write_reports(out: Path, blocks: list[tuple[str, Any]], record: dict[str, Any]) -> str:
    """The three forms of the report, JSON last; returns the Markdown."""
    text = _markdown(blocks)
    for name, content in (("report.md", text), ("report.html", _html(blocks))):
        with storage.atomic(out / name) as beside:
            beside.write_text(content, encoding="utf-8")
    storage.write_json(out / "report.json", record)
    return text


def _recipe(recipe: Recipe, opened: Corpus, name: str, steps: int, rate: float, seed: int) -> Recipe:
    """The recipe of one run: everything but corpus, rate and seed is alike."""
    changed = {"steps": steps, "seed": seed, "lr": recipe.train.lr * rate, "eval_every": 0, "keep": 1, "eval_tokens": 1}
    return recipe.model_copy(update={
        "corpus": opened.folder, "name": name, "train": recipe.train.model_copy(update=changed),
        "data": recipe.data.model_copy(update={"seed": seed}),
    })  # fmt: skip


def _names(paths: list[Path]) -> list[str]:
    """A short name for each corpus; a letter in front where names repeat."""
    names = [path.resolve().name for path in paths]
    if len(set(names)) == len(names):
        return names
    return [f"{chr(ord('A') + i)}-{name}" for i, name in enumerate(names)]


def held_out(corpora: dict[str, Corpus], judge: Corpus | None) -> tuple[dict[str, list[Text]], dict[str, Any]]:
    """The documents that judge, in the ids of each corpus, and what is to be said of them.

    Without a corpus that judges, those that every corpus holds out. Of both none that leaked into a training corpus.
    """
    first = judge or min(corpora.values(), key=lambda opened: len(_held_ids(opened)))
    texts = evaluate.texts(first)
    if judge is None:
        common = set.intersection(*(set(_held_ids(opened)) for opened in corpora.values()))
        texts = [text for text in texts if first.docs["id"][text.document].as_py() in common]
    found = len(texts)
    leaked = np.zeros(found, bool)
    for opened in corpora.values():
        leaked |= leaks(texts, first, opened) >= _LEAKED
    texts = [text for text, gone in zip(texts, leaked) if not gone]
    if not texts:
        raise Refused("compare: no document is held out of all corpora (or all of them leaked into one); give "
                      "--heldout, or a larger val_fraction to 'shards'")  # fmt: skip
    warnings = []
    held = len(texts)
    texts = _expressed(texts, first, corpora)
    if len(texts) < held:
        warnings.append(f"{held - len(texts)} held-out documents do not judge: a tokenizer cannot say all of their "
                        "text, and what it leaves out would cost its corpus no bits.")  # fmt: skip
    if len(texts) < _FEW:
        warnings.append(f"Only {len(texts)} held-out documents judge: others might judge otherwise. A larger "
                        "val_fraction of 'shards', or --heldout, gives more.")  # fmt: skip
    facts = {"documents": len(texts), "leaked": found - held, "not_expressed": held - len(texts),
             "bytes": sum(text.n_bytes for text in texts), "warnings": warnings}  # fmt: skip
    return {name: evaluate.encoded(texts, first, opened.tokenizer, opened.manifest["eos_id"])
            for name, opened in corpora.items()}, facts  # fmt: skip


def _expressed(texts: list[Text], home: Corpus, corpora: dict[str, Corpus]) -> list[Text]:
    """The texts that the tokenizer of every corpus gives back as they are; all of them where there is one tokenizer.

    Raises `Refused` where there is none.
    """
    tokenizers = {opened.manifest["tokenizer"]["sha256"]: opened for opened in corpora.values()}
    if len(tokenizers) == 1:
        return texts
    for opened in tokenizers.values():
        coded = evaluate.encoded(texts, home, opened.tokenizer, opened.manifest["eos_id"])
        raw = [evaluate.raw_text(text, home) for text in texts]
        texts = [text for text, one, said in zip(texts, coded, raw) if evaluate.raw_text(one, opened) == said]
        if not texts:
            raise Refused(
                f"compare: the tokenizer of {opened.folder} gives none of the held-out documents back as they are, so "
                "bits a byte under it are no measure; make the corpora with one tokenizer"
            )
    return texts


def _held_ids(opened: Corpus) -> list[str]:
    parts = [opened.docs["id"].slice(shard.first, shard.documents) for shard in opened.shards if shard.split == "val"]
    return [id_ for part in parts for id_ in part.to_pylist()]


def leaks(texts: list[Text], home: Corpus, opened: Corpus) -> np.ndarray:
    """The share of each text's 48-byte pieces that some training document of `opened` contains."""
    raw = [evaluate.raw_text(text, home).encode() for text in texts]
    pieces = [_hashes(data)[::_SHINGLE] for data in raw]
    wanted = np.unique(np.concatenate([np.zeros(0, np.uint64), *pieces]))
    seen = np.zeros(len(wanted), bool)
    for text in _training(opened):
        there = _hashes(text)
        place = np.minimum(np.searchsorted(wanted, there), max(0, len(wanted) - 1))
        if len(wanted):
            seen[place[wanted[place] == there]] = True
    return np.array([seen[np.searchsorted(wanted, mine)].mean() if len(mine) else 0.0 for mine in pieces])


def _training(opened: Corpus) -> Iterator[bytes]:
    """The text of the training documents, many at a time."""
    gathered: list[list[int]] = []
    size = 0
    for row, ids in opened.documents():
        if row["shard"].startswith("val"):
            continue
        gathered.append(ids[:-1].tolist())
        size += len(ids)
        if size > 1_000_000:
            yield "\0".join(opened.tokenizer.decode_batch(gathered, skip_special_tokens=False)).encode()
            gathered, size = [], 0
    yield "\0".join(opened.tokenizer.decode_batch(gathered, skip_special_tokens=False)).encode()


def _hashes(data: bytes) -> np.ndarray:
    """A polynomial hash modulo 2**64 of each stretch of 48 bytes (uint64); of the whole where it is shorter."""
    letters = np.frombuffer(data, np.uint8).astype(np.uint64)
    length = min(_SHINGLE, len(letters))
    count = len(letters) - length + 1
    total = np.zeros(count if length else 0, np.uint64)
    for i in range(length):
        total = total * np.uint64(0x9E3779B97F4A7C15) + letters[i : i + count] + np.uint64(1)
    return total


def _judged(
    run: Planned, opened: Corpus, out: Path, texts: list[Text], judges: str, say: Callable[[str], None]
) -> dict[str, Any]:
    """Train, or take what was trained, and judge; the figures are kept as long as the same documents judge."""
    folder = run.folder(out)
    done = loop.train(run.recipe, opened, folder, loop.quiet)
    try:
        kept = read_record(folder / "judged.json", "digest", "judges")
    except Refused as error:
        say(f"{error}; the run is judged again")
        kept = None
    if kept is not None and (kept["digest"], kept["judges"]) == (run.digest, judges):
        return kept
    path = checkpoint.latest(folder, say)
    model, state = checkpoint.load(path)
    if state["step"] != run.recipe.train.steps:
        raise Refused(f"{path}: the newest whole checkpoint is of step {state['step']} of {run.recipe.train.steps}; "
                      f"remove {folder}, and the same command trains it again")  # fmt: skip
    context, masked = run.recipe.model.context, run.recipe.data.mask == "document"
    scores = evaluate.score(model, texts, context, masked=masked)
    facts = evaluate.summary(texts, scores)
    gap = evaluate.duplicate_gap(model, opened, context, masked=masked)
    result = {"bpb": facts["bpb"], "lang": facts["lang"], "source": facts["source"], "gap": gap,
              "cpu_seconds": done["cpu_seconds"], "fingerprint": done["fingerprint"], "judges": judges,
              "digest": run.digest, "nats": [mine.nats for mine in scores],
              "n_bytes": [mine.n_bytes for mine in scores]}  # fmt: skip
    storage.write_json(folder / "judged.json", result)
    return result


def consumed(recipe: Recipe, opened: Corpus, samples: int) -> dict[str, Any]:
    """What a run really learned from: tokens by source and language, epochs, and the share that is copies."""
    data = Dataset(opened, recipe.data, recipe.model.context, samples)
    seen, numbers = data.exposure(samples), data.tokens.documents()
    total = int(seen.sum())
    facts: dict[str, Any] = {"tokens": total, "epochs": total / data.tokens.size, "documents": int((seen > 0).sum())}
    facts |= {name: told for name, told in data.tokens_by(samples).items() if name in ("source", "lang")}
    copies = evaluate.duplicates(opened)
    lengths = dict(zip(numbers.tolist(), data.lengths.tolist()))
    facts["copied"] = sum(lengths[number] * (count - 1) for number, count in copies.items()) / data.tokens.size
    return facts


def _differences(results: list[dict[str, Any]], design: Design) -> list[dict[str, Any]]:
    found = []
    for rate in design.rates:
        for one, other in combinations(dict.fromkeys(result["corpus"] for result in results), 2):
            runs = [[r for r in results if r["corpus"] == name and r["rate"] == rate] for name in (one, other)]
            pair = difference(*([run["bpb"] for run in mine] for mine in runs))
            first, second = (np.mean([run["nats"] for run in mine], axis=0) for mine in runs)
            over = over_documents(first, second, np.array(runs[0][0]["n_bytes"]))
            found.append({"rate": rate, "one": one, "other": other, **pair._asdict(), "resolved": pair.resolved,
                          "verdict": verdict(one, other, pair), "over_documents": over and over._asdict()})  # fmt: skip
    return found


def _blocks(recipe: Recipe, design: Design, results: list[dict], found: list[dict], eaten: dict[str, dict],
            told: dict[str, Any], out: Path) -> Iterator[tuple[str, Any]]:  # fmt: skip
    """The report, piece by piece: (kind, content)."""
    names = list(eaten)
    yield "title", f"Corpora compared: {', '.join(names)}"
    yield "points", [f"at {pair['rate']:g} x the learning rate: {pair['verdict']}" for pair in found]
    for warning in told["warnings"]:
        yield "text", warning
    model = recipe.model
    yield "text", (f"{design.tokens:,} tokens a run, {len(design.seeds)} seeds, a model of depth {model.layers} and "
                   f"width {model.width}, windows of {model.context}; judged on {told['documents']} held-out documents "
                   f"of {told['bytes']:,} bytes ({told['leaked']} more were left out: half of their text is in a "
                   "training corpus).")  # fmt: skip
    loop_ = recipe.train
    yield "text", (f"{loop_.optimizer}, learning rate {loop_.lr:g} times the multiple in each table, {loop_.batch} "
                   f"windows a step, precision {loop_.precision}, windows cut by {recipe.data.pack}; the whole recipe "
                   "is in report.json.")  # fmt: skip
    yield "heading", "Differences, bits a byte"
    yield "table", _pairs(found)
    yield "heading", "Bits a byte"
    yield "table", _losses(names, design, results)
    yield "heading", "What each run really learned from"
    yield "table", [["corpus", "tokens", "epochs", "documents", "copies", "by source", "by language"],
                    *([name, f"{e['tokens']:,}", f"{e['epochs']:.2f}", f"{e['documents']:,}", f"{e['copied']:.1%}",
                       _shares(e.get("source", {}), e["tokens"]), _shares(e.get("lang", {}), e["tokens"])]
                      for name, e in eaten.items())]  # fmt: skip
    yield "heading", "Bits a byte by language"
    languages = sorted({lang for result in results for lang in result["lang"]})
    yield "table", [["corpus", *languages], *([name, *(
        f"{statistics.fmean(r['lang'][lang]['bpb'] for r in results if r['corpus'] == name):.4f}" for lang in languages
    )] for name in names)]  # fmt: skip
    yield "heading", "Training loss"
    seed = design.seeds[0]
    for rate in design.rates:
        lines = {
            r["corpus"]: loop.read_log(out / r["folder"])[0] for r in results if (r["rate"], r["seed"]) == (rate, seed)
        }
        yield "picture", chart.curves(f"{rate:g} x the learning rate, seed {seed}", lines, "step", "nats a token")
    yield "text", ("Curves of training, on each corpus's own text (in report.html): they show that runs went well, not "
                   "which corpus to take.")  # fmt: skip


def _pairs(found: list[dict]) -> list[list[str]]:
    """The table of differences, first less second: above 0, the second is better."""
    rows = [["first", "second", "rate x", "difference", "95 % over seeds", "95 % over documents",
             "second better on"]]  # fmt: skip
    for pair in found:
        seeds = "-" if pair["low"] is None else f"{pair['low']:+.4f} to {pair['high']:+.4f}"
        over = pair["over_documents"]
        rows.append([pair["one"], pair["other"], f"{pair['rate']:g}", f"{pair['mean']:+.4f}", seeds,
                     f"{over['low']:+.4f} to {over['high']:+.4f}" if over else "-",
                     f"{over['better']} of {over['documents']} documents" if over else "-"])  # fmt: skip
    return rows


def _losses(names: list[str], design: Design, results: list[dict]) -> list[list[str]]:
    """The table of every run's bits per byte."""
    rows = [["corpus", "rate x", "mean", "deviation", "by seed", "duplicate gap", "CPU-s"]]
    for name in names:
        for rate in design.rates:
            mine = [r for r in results if r["corpus"] == name and r["rate"] == rate]
            bpb, gaps = [r["bpb"] for r in mine], [r["gap"]["gap"] for r in mine if r["gap"]]
            spread = f"{statistics.stdev(bpb):.4f}" if len(bpb) > 1 else "-"
            rows.append([name, f"{rate:g}", f"{statistics.fmean(bpb):.4f}", spread,
                         " ".join(f"{value:.4f}" for value in bpb),
                         f"{statistics.fmean(gaps):+.4f}" if gaps else "no copies",
                         f"{sum(r['cpu_seconds'] for r in mine):.0f}"])  # fmt: skip
    return rows


def _shares(parts: dict[str, int], total: int) -> str:
    largest = sorted(parts.items(), key=lambda item: -item[1])
    shown = [f"{name} {count / max(1, total):.1%}" for name, count in largest[:8]]
    return ", ".join(shown + ([f"{len(parts) - 8} more"] if len(parts) > 8 else []))


def _markdown(blocks: list[tuple[str, Any]]) -> str:
    lines: list[str] = []
    for kind, content in blocks:
        if kind == "table":
            head, *rows = [[cell.replace("|", "\\|") for cell in row] for row in content]
            lines += [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
        elif kind == "points":
            lines += [f"- {point}" for point in content]
        elif kind != "picture":
            lines.append({"title": "# ", "heading": "## ", "text": ""}[kind] + content)
        lines += [""] if kind != "picture" else []
    return "\n".join(lines)


_STYLE = """
body{font:15px/1.45 sans-serif;color:#222;background:#fff;max-width:1000px;margin:2em auto;padding:0 1em}
h2{margin:1.6em 0 .5em;font-size:1.2em}li{margin:.3em 0}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:14px}
td,th{border:1px solid #ccc;padding:4px 9px;text-align:left;vertical-align:top}th{background:#f3f3f3}
td.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
svg{display:block;max-width:760px;margin:.5em 0 1em;border:1px solid #eee}
"""


def _html(blocks: list[tuple[str, Any]]) -> str:
    made = ['<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f"<title>Corpora compared</title><style>{_STYLE}</style>"]  # fmt: skip
    for kind, content in blocks:
        if kind == "table":
            head, *rows = content
            made.append(
                '<div class="wide"><table><tr>' + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"
            )
            made += ["<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows]
            made.append("</table></div>")
        elif kind == "points":
            made.append("<ul>" + "".join(f"<li>{escape(point)}</li>" for point in content) + "</ul>")
        elif kind == "picture":
            made.append(content)
        else:
            tag = {"title": "h1", "heading": "h2", "text": "p"}[kind]
            made.append(f"<{tag}>{escape(content)}</{tag}>")
    return "\n".join(made) + "\n"


def _cell(text: str) -> str:
    figures = re.fullmatch(r"[-+\d.,% ]+( to [-+\d.]+)?", text)
    return f"<td{' class=n' * bool(figures)}>{escape(text)}</td>"
