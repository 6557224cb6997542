"""What a model has learned: bits per byte by source and language, the duplicate gap, regurgitation, minimal pairs.

Bits per byte compare models whatever their tokenizers: all nats of a document's tokens over its bytes of text. EOS has
no bytes and its loss is left out.
"""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from pipeline.corpus import Corpus
from pipeline.train.data import IGNORED, Tokens
from pipeline.train.model import GPT, sample
from pipeline.train.ranks import Ranks
from pipeline.train.recipe import Refused

ALONE = Ranks(0, 1, torch.device("cpu"))

_FORWARD = {"cpu": 1024, "cuda": 16_384}
"""Tokens a forward pass takes at once: on a CPU what its caches hold (4,096 take 1.3 times as long), on a GPU more."""


class Text(NamedTuple):
    """A document to judge a model by."""

    ids: np.ndarray  # EOS last
    n_bytes: int
    source: str
    lang: str
    document: int  # row of docs.parquet


@torch.no_grad()
def token_losses(model: Any, ids: np.ndarray, context: int, eos: int, rows: int = 16, ranks: Ranks = ALONE,
                 masked: bool = False) -> np.ndarray:  # fmt: skip
    """The loss in nats (float64) of every id, in windows of `context` that do not overlap, an EOS before the first.

    With several ranks each takes its share of the windows; all get all losses.
    """
    stream = np.concatenate([[eos], ids]).astype(np.int64)
    count = -(-len(ids) // context)
    padded = -(-count // (rows * ranks.size)) * rows * ranks.size
    inputs = np.full((padded, context), eos, np.int64)
    targets = np.full((padded, context), IGNORED, np.int64)
    inputs.ravel()[: len(ids)], targets.ravel()[: len(ids)] = stream[:-1], stream[1:]
    documents = np.cumsum(np.pad(inputs[:, :-1] == eos, ((0, 0), (1, 0))), 1) if masked else None
    losses = torch.zeros(padded, context, dtype=torch.float64)
    training = model.training
    model.eval()
    for first in range(0, padded, rows * ranks.size):
        mine = slice(first + ranks.rank * rows, first + (ranks.rank + 1) * rows)
        within = torch.from_numpy(documents[mine]).to(ranks.device) if documents is not None else None
        loss = model(torch.from_numpy(inputs[mine]).to(ranks.device), torch.from_numpy(targets[mine]).to(ranks.device),
                     documents=within)  # fmt: skip
        losses[mine] = loss.double().cpu()
    model.train(training)
    total = ranks.total(losses.to(ranks.device)) if ranks.size > 1 else losses
    return total.cpu().numpy().ravel()[: len(ids)]


def texts(
    corpus: Corpus, split: str = "val", limit: int = 1_000_000, chosen: Iterable[int] | None = None
) -> list[Text]:
    """Documents of a split, up to about `limit` tokens, or those of the given numbers."""
    tokens = Tokens(corpus, split)
    lengths, numbers = tokens.lengths(), tokens.documents()
    ends = np.cumsum(lengths)
    if chosen is None:
        places = np.arange(int(np.searchsorted(ends, limit, "left")) + 1)[: len(ends)]
    else:
        places = np.flatnonzero(np.isin(numbers, list(chosen)))
    table = corpus.docs.take(numbers[places])
    columns = [table[name].to_pylist() if name in table.column_names else ["?"] * len(table)
               for name in ("n_bytes", "source", "lang")]  # fmt: skip
    found = []
    for place, n_bytes, source, lang in zip(places.tolist(), *columns):
        ids = np.empty(lengths[place], np.int64)
        tokens.read(int(ends[place] - lengths[place]), ids)
        found.append(Text(ids, n_bytes, str(source), str(lang), int(numbers[place])))
    return found


def encoded(documents: list[Text], corpus: Corpus, tokenizer: Any, eos: int) -> list[Text]:
    """The same documents in the ids of another tokenizer: decoded and encoded again."""
    raw = [corpus.tokenizer.decode(text.ids[:-1].tolist(), skip_special_tokens=False) for text in documents]
    tokenizer.encode_special_tokens = True
    coded = tokenizer.encode_batch(raw, add_special_tokens=False)
    return [text._replace(ids=np.array([*item.ids, eos]), n_bytes=len(said.encode()))
            for text, item, said in zip(documents, coded, raw)]  # fmt: skip


class Score(NamedTuple):
    """Sums over some documents."""

    nats: float  # of their text
    n_bytes: int
    loss: float  # nats, EOS included
    tokens: int

    @property
    def bpb(self) -> float | None:
        """Bits per byte; None of no bytes."""
        return self.nats / math.log(2) / self.n_bytes if self.n_bytes else None


def score(model: Any, documents: list[Text], context: int, ranks: Ranks = ALONE, masked: bool = False) -> list[Score]:
    """A score for each document."""
    if not documents:
        return []
    eos = int(documents[0].ids[-1])
    rows = max(1, _FORWARD.get(ranks.device.type, 1024) // context)
    losses = token_losses(model, np.concatenate([text.ids for text in documents]), context, eos, rows, ranks, masked)
    ends = np.cumsum([len(text.ids) for text in documents])
    scores = []
    for text, end in zip(documents, ends.tolist()):
        mine = losses[end - len(text.ids) : end]
        scores.append(Score(float(mine[:-1].sum()), text.n_bytes, float(mine.sum()), len(mine)))
    return scores


def total(scores: Iterable[Score]) -> Score:
    columns = list(zip(*scores))
    return Score(*map(sum, columns)) if columns else Score(0.0, 0, 0.0, 0)


def summary(documents: list[Text], scores: list[Score]) -> dict[str, Any]:
    """Loss a token, bits per byte, and bits per byte by source and by language; None where there is no text."""
    whole = total(scores)
    facts: dict[str, Any] = {"loss": whole.loss / whole.tokens if whole.tokens else None, "bpb": whole.bpb,
                             "nats_per_byte": whole.nats / whole.n_bytes if whole.n_bytes else None,
                             "tokens": whole.tokens, "bytes": whole.n_bytes, "documents": len(documents)}  # fmt: skip
    for name in ("source", "lang"):
        parts = defaultdict(list)
        for text, mine in zip(documents, scores):
            parts[getattr(text, name)].append(mine)
        facts[name] = {value: {"bpb": total(mine).bpb, "bytes": total(mine).n_bytes}
                       for value, mine in sorted(parts.items())}  # fmt: skip
    return facts


def duplicates(corpus: Corpus, least: int = 2) -> dict[int, int]:
    """Training documents that are there more than once, token for token: first document -> copies, most first."""
    tokens = Tokens(corpus, "train")
    places: dict[bytes, list[int]] = defaultdict(list)
    at = 0
    for number, length in zip(tokens.documents().tolist(), tokens.lengths().tolist()):
        ids = np.empty(length, tokens.arrays[0].dtype)
        tokens.read(at, ids)
        places[hashlib.blake2b(ids.tobytes(), digest_size=16).digest()].append(number)
        at += length
    copies = {numbers[0]: len(numbers) for numbers in places.values() if len(numbers) >= least}
    return dict(sorted(copies.items(), key=lambda item: (-item[1], item[0])))


def duplicate_gap(model: Any, corpus: Corpus, context: int, most: int = 50, ranks: Ranks = ALONE) -> dict | None:
    """Bits per byte of unseen documents less those of the most repeated ones: what repetition was learned by heart.

    None where nothing is repeated, or nothing held out.
    """
    copies = dict(list(duplicates(corpus).items())[:most])
    if not copies:
        return None
    repeated = total(score(model, texts(corpus, "train", chosen=copies), context, ranks)).bpb
    unseen = total(score(model, texts(corpus, "val", 50_000), context, ranks)).bpb
    if repeated is None or unseen is None:
        return None
    return {"gap": unseen - repeated, "repeated": repeated, "unseen": unseen, "documents": len(copies),
            "copies": sum(copies.values())}  # fmt: skip


def regurgitated(model: GPT, corpus: Corpus, chosen: list[Text], prompt: int = 32, n_bytes: int = 32) -> float | None:
    """Share of documents whose next `n_bytes` bytes are what the model, after `prompt` ids, finds likeliest.

    None where no document is that long.
    """
    hits = asked = 0
    for text in chosen:
        rest = corpus.tokenizer.decode(text.ids[prompt:-1].tolist()).encode()[:n_bytes]
        if len(text.ids) <= prompt or len(rest) < n_bytes:
            continue
        made = list(sample(model, text.ids[:prompt].tolist(), n_bytes, temperature=0))
        asked += 1
        hits += corpus.tokenizer.decode(made).encode().startswith(rest)
    return hits / asked if asked else None


def pairs(model: Any, tokenizer: Any, eos: int, folder: Path, context: int, most: int = 100) -> dict[str, float | None]:
    """Accuracy by file on minimal pairs: JSON lines with `sentence_good` and `sentence_bad` (BLiMP's layout).

    A sentence's score is its summed log-probability after EOS, the paper's "simple LM method" (Warstadt et al. 2020).
    At most `most` pairs a file; None of an empty one. Raises `Refused` where there is no such file.
    """
    found: dict[str, float | None] = {}
    for path in sorted(folder.glob("*.jsonl")):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:most]]
        right = [_likelihood(model, tokenizer, eos, line["sentence_good"], context)
                 > _likelihood(model, tokenizer, eos, line["sentence_bad"], context) for line in lines]  # fmt: skip
        found[path.stem] = sum(right) / len(right) if right else None
    if not found:
        raise Refused(f"{folder}: no *.jsonl with minimal pairs there")
    return found


def _likelihood(model: Any, tokenizer: Any, eos: int, sentence: str, context: int) -> float:
    ids = np.array(tokenizer.encode(sentence, add_special_tokens=False).ids)
    return -float(token_losses(model, ids, min(context, max(1, len(ids))), eos, rows=1).sum())
