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


def raw_text(document: Text, corpus: Corpus) -> str:
    """The text of a document whose ids are those of `corpus`."""
    return corpus.tokenizer.decode(document.ids[:-1].tolist(), skip_special_tokens=False)


def encoded(documents: list[Text], corpus: Corpus, tokenizer: Any, eos: int) -> list[Text]:
    """The same documents in the ids of another tokenizer: decoded and encoded again."""
    raw = [raw_text(text, corpus) for text in documents]
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
        ids = np.empty(length, np.int64)
        tokens.read(at, ids)
        places[_token_hash(ids)].append(number)
        at += length
    copies = {numbers[0]: len(numbers) for numbers in places.values() if len(numbers) >= least}
    return dict(sorted(copies.items(), key=lambda item: (-item[1], item[0])))


def in_training(documents: list[Text], corpus: Corpus) -> list[bool]:
    """Whether each document, in the ids of `corpus`, also stands among its training documents, token for token."""
    tokens = Tokens(corpus, "train")
    wanted = {_token_hash(text.ids): False for text in documents}
    at = 0
    for length in tokens.lengths().tolist():
        ids = np.empty(length, np.int64)
        tokens.read(at, ids)
        if (key := _token_hash(ids)) in wanted:
            wanted[key] = True
        at += length
    return [wanted[_token_hash(text.ids)] for text in documents]


def _token_hash(ids: np.ndarray) -> bytes:
    return hashlib.blake2b(ids.astype(np.int64).tobytes(), digest_size=16).digest()


def duplicate_gap(
    model: Any, corpus: Corpus, context: int, most: int = 50, ranks: Ranks = ALONE, masked: bool = False
) -> dict | None:
    """Bits per byte of unseen documents less those of the most repeated ones: what repetition was learned by heart.

    None where nothing is repeated, or nothing held out.
    """
    copies = dict(list(duplicates(corpus).items())[:most])
    if not copies:
        return None
    repeated = total(score(model, texts(corpus, "train", chosen=copies), context, ranks, masked)).bpb
    unseen = total(score(model, texts(corpus, "val", 50_000), context, ranks, masked)).bpb
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


PAIRS_READ = 100
"""Minimal pairs that are read of each file, the first ones."""


def pairs(
    model: Any, tokenizer: Any, eos: int, folder: Path, context: int, most: int = PAIRS_READ, masked: bool = False
) -> dict[str, float | None]:
    """Accuracy by file on minimal pairs: JSON lines with `sentence_good` and `sentence_bad` (BLiMP's layout).

    A sentence's score is its summed log-probability after EOS, the paper's "simple LM method" (Warstadt et al. 2020).
    At most `most` pairs a file; None of an empty one. Raises `Refused` where there is no such file, and on a line that
    is no pair.
    """
    found: dict[str, float | None] = {}
    for path in sorted(folder.glob("*.jsonl")):
        sentences = [sentence for pair in _read_pairs(path, most) for sentence in pair]
        coded = [np.array(item.ids, np.int64) for item in tokenizer.encode_batch(sentences, add_special_tokens=False)]
        scores = likelihoods(model, coded, eos, context, masked)
        right = [good > bad for good, bad in zip(scores[::2], scores[1::2])]
        found[path.stem] = sum(right) / len(right) if right else None
    if not found:
        raise Refused(f"{folder}: no *.jsonl with minimal pairs there")
    return found


def _read_pairs(path: Path, most: int) -> list[tuple[str, str]]:
    """The good and the bad sentence of each line. Raises `Refused` with the number of a line that is no pair."""
    found: list[tuple[str, str]] = []
    for number, line in enumerate(path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip() or len(found) == most:
            continue
        try:
            record = json.loads(line)
            good, bad = record["sentence_good"], record["sentence_bad"]
        except (ValueError, TypeError, KeyError):
            good = bad = None
        if not (isinstance(good, str) and isinstance(bad, str) and good and bad):
            raise Refused(f"{path}, line {number}: expected a JSON object with the texts sentence_good, sentence_bad")
        found.append((good, bad))
    return found


@torch.no_grad()
def likelihoods(model: Any, sentences: list[np.ndarray], eos: int, context: int, masked: bool = False) -> list[float]:
    """The summed log-probability (nats) of the ids of each sentence after an EOS, many sentences a forward pass.

    A sentence longer than `context` is cut into windows as `token_losses` cuts a text.
    """
    scores = np.zeros(len(sentences))
    order = sorted((len(ids), i) for i, ids in enumerate(sentences) if len(ids))  # of one length: little padding
    while order:
        length = min(context, order[-1][0])
        rows = max(1, _FORWARD["cpu"] // length)
        batch = [i for _, i in order[-rows:]]
        del order[-rows:]
        owners, inputs, targets = _windows([(i, sentences[i]) for i in batch], eos, length)
        documents = np.cumsum(np.pad(inputs[:, :-1] == eos, ((0, 0), (1, 0))), 1) if masked else None
        loss = model(torch.from_numpy(inputs), torch.from_numpy(targets),
                     documents=None if documents is None else torch.from_numpy(documents))  # fmt: skip
        np.subtract.at(scores, owners, loss.double().sum(1).numpy())
    return scores.tolist()


def _windows(
    sentences: list[tuple[int, np.ndarray]], eos: int, length: int
) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Windows of `length` over numbered sentences, each begun by an EOS: the number of each, inputs, targets."""
    counts = [-(-len(ids) // length) for _, ids in sentences]
    inputs = np.full((sum(counts), length), eos, np.int64)
    targets = np.full((sum(counts), length), IGNORED, np.int64)
    row = 0
    for (_, ids), count in zip(sentences, counts):
        stream = np.concatenate([[eos], ids])
        inputs[row : row + count].ravel()[: len(ids)] = stream[:-1]
        targets[row : row + count].ravel()[: len(ids)] = stream[1:]
        row += count
    return [i for (i, _), count in zip(sentences, counts) for _ in range(count)], inputs, targets
