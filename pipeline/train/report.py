"""What `eval` and `trace` tell of a training run."""

from pathlib import Path
from typing import Any

from pipeline.corpus import Corpus
from pipeline.train import evaluate
from pipeline.train.data import Dataset
from pipeline.train.loop import read_rows, traced
from pipeline.train.model import GPT
from pipeline.train.recipe import Recipe, Refused


def examined(model: GPT, recipe: Recipe, own: Corpus, judge: Corpus, pairs: Path | None) -> dict[str, Any]:
    """Held-out figures on `judge`, and what the model kept of its own training corpus."""
    context = recipe.model.context
    documents = evaluate.texts(judge)
    if judge.manifest["tokenizer"]["sha256"] != own.manifest["tokenizer"]["sha256"]:
        documents = evaluate.encoded(documents, judge, own.tokenizer, own.manifest["eos_id"])
    masked = recipe.data.mask == "document"
    scores = evaluate.score(model, documents, context, masked=masked)
    facts = evaluate.summary(documents, scores)
    known = evaluate.in_training(documents, own)
    rest = [score for score, is_known in zip(scores, known) if not is_known]
    facts |= {"in_training": sum(known), "bpb_of_others": evaluate.total(rest).bpb}
    facts["duplicates"] = evaluate.duplicate_gap(model, own, context, masked=masked)
    copies = list(evaluate.duplicates(own))[:20]
    for name, chosen in (("repeated", copies), ("unseen", None)):
        texts = evaluate.texts(own, "train" if chosen else "val", 20_000, chosen) if chosen != [] else []
        facts[f"regurgitated_{name}"] = evaluate.regurgitated(model, own, texts[:20])
    if pairs:
        eos = own.manifest["eos_id"]
        facts["pairs"] = evaluate.pairs(model, own.tokenizer, eos, pairs, context, masked=masked)
    return facts


def told(facts: dict[str, Any], step: int) -> str:
    """The figures of `examined` for a person."""
    if facts["bpb"] is None:
        lines = [f"after step {step}: no held-out documents, so nothing to judge by (shards.val_fraction, --corpus)"]
    else:
        lines = [f"after step {step}: {facts['bpb']:.4f} bits a byte, {facts['loss']:.4f} nats a token, on "
                 f"{facts['documents']} held-out documents of {facts['bytes']:,} bytes"]  # fmt: skip
    if facts["in_training"]:
        others = facts["bpb_of_others"]
        lines.append(f"{facts['in_training']} of these documents stand in the training corpus, too, so the figure is "
                     "too good; " + ("there are no others" if others is None
                                     else f"the others take {others:.4f} bits a byte"))  # fmt: skip
    for name in ("source", "lang"):
        for value, part in facts[name].items():
            if part["bytes"]:
                lines.append(f"  {name} {value}: {part['bpb']:.4f} bits a byte ({part['bytes']:,} bytes)")
    if gap := facts["duplicates"]:
        lines.append(f"duplicate gap: {gap['gap']:+.4f} bits a byte ({gap['documents']} documents that are there "
                     f"{gap['copies']} times: {gap['repeated']:.4f}; unseen: {gap['unseen']:.4f})")  # fmt: skip
    else:
        lines.append("duplicate gap: no document of the training corpus is there twice, or it holds none out")
    for name in ("repeated", "unseen"):
        if (share := facts[f"regurgitated_{name}"]) is not None:
            lines.append(f"continued word for word for 32 bytes: {share:.1%} of {name} documents")
    if "pairs" in facts:
        lines.append(f"minimal pairs, the first {evaluate.PAIRS_READ} of each file:")
    for name, share in facts.get("pairs", {}).items():
        lines.append(f"pairs {name}: {'none in the file' if share is None else f'{share:.1%}'}")
    return "\n".join(lines)


def behind(recipe: Recipe, corpus: Corpus, folder: Path, step: int) -> list[dict[str, Any]]:
    """The windows of step `step` (the first is 1), highest loss first.

    Raises `Refused` beyond the recipe's steps.
    """
    spec = recipe.train
    if not 1 <= step <= spec.steps:
        raise Refused(f"step {step}: the run has steps 1 to {spec.steps}")
    data = Dataset(corpus, recipe.data, recipe.model.context, spec.steps * spec.batch)
    rows = read_rows(folder, spec.batch)
    return traced(data, corpus, step - 1, spec.batch, rows[step - 1] if step <= len(rows) else None)
