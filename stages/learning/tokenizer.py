"""A tokenizer of the corpus's own, trained and judged by one command: `train-tokenizer`.

It learns from a byte-balanced sample: every language (or source) gives the same number of bytes, as far as it has
them. Counting documents instead would let the language with the longest documents write the vocabulary. What it is
worth is measured on text held out by content, so that a copy of a document is never on both sides, and beside the
vocabularies of GPT-2, cl100k and o200k where they lie on this machine; nothing is downloaded.

The merges of a small vocabulary are the first merges of a large one. One training therefore gives every point of the
curve from which the size is chosen.
"""

import functools
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
import xxhash

from pipeline import storage
from pipeline.stage import Piece
from stages import tokens
from stages.kernels import mixture
from stages.kernels import text as characters
from stages.learning import ranks
from stages.learning.ranks import EOS, Unusable
from stages.readers import records
from stages.readers.rows import Fields

_TABLES, _LINES = (".parquet",), (".jsonl", ".jsonl.gz", ".jsonl.zst", ".ndjson")
_UNKNOWN = "unknown"
"""The language of a document that names none."""

_BATCH = 1000
_HELD_OUT_BYTES = 16_000_000
"""Held-out text that is measured at most, the same amount of each language and source as far as there is."""

_SHOWN = 20
"""Languages and sources that the printed report shows at most; the JSON has all."""


class Balance(str, Enum):
    """Of what the sample takes equal bytes."""

    LANG = "lang"
    SOURCE = "source"


class Asked(NamedTuple):
    """What a training is asked for."""

    corpora: tuple[Path, ...]
    vocab_size: int | None = None  # None: the knee of the curve
    balance: Balance | None = None  # None: every document has the same chance
    heldout: float = 0.05  # share of the documents
    sizes: tuple[int, ...] = ()
    sample_bytes: int = 500_000_000
    seed: int = 1
    vocabularies: tuple[Path, ...] = ()
    body: float = 85e6  # parameters of the model without its embedding
    width: int = 768


class Batch(NamedTuple):
    """Some documents. A document's keys are two halves of a hash of its text."""

    texts: list[str]
    langs: list[str]
    sources: list[str]
    order: np.ndarray  # uint64: the place in the sample
    chance: np.ndarray  # uint64: whether it is held out


class Limits(NamedTuple):
    """Which documents are taken: of each (language, source) those whose `order` is at most its limit."""

    heldout: float
    sample: dict[tuple[str, str], int]
    measured: dict[tuple[str, str], int]
    told: list[dict[str, Any]]


class Held(NamedTuple):
    """The held-out documents, and how often each word comes up in those of each (language, source) that have blanks."""

    docs: pa.Table  # id, text, lang, source, n_bytes, n_chars, spaced
    words: dict[tuple[str, str], Counter[str]]


def files(corpus: Path) -> list[Path]:
    """The Parquet and JSONL files of a corpus: a file, a folder, or a run, whose last group with text is meant.

    Raises `Unusable` where there is none.
    """
    if corpus.name.endswith((*_TABLES, *_LINES)) and corpus.is_file():
        return [corpus]
    report = storage.read_json(corpus / "report.json") or {}
    folders = [corpus / group["folder"] for group in reversed(report.get("groups", []))] or [corpus]
    for folder in folders:
        pattern = "part-*.parquet" if folder != corpus else "*"
        found = [path for path in sorted(folder.glob(pattern)) if path.name.endswith((*_TABLES, *_LINES))]
        found = [path for path in found if path.suffix != ".parquet" or "text" in _columns(path)]
        if found:
            return found
    raise Unusable(f"{corpus}: no Parquet or JSONL file with a column 'text' is there")


def _columns(path: Path) -> list[str]:
    try:
        return pq.read_schema(path).names
    except pa.ArrowInvalid as error:
        raise Unusable(f"{path}: {error}") from None


def documents(corpora: Iterable[Path], seed: int) -> Iterator[Batch]:
    """The documents of all corpora, in batches; those without text are left out."""
    for path in (path for corpus in corpora for path in files(corpus)):
        for texts, langs, sources in _table(path) if path.suffix == ".parquet" else _lines(path):
            kept = [i for i, text in enumerate(texts) if text]
            digests = [xxhash.xxh3_128_intdigest(texts[i].encode("utf-8", "surrogatepass"), seed) for i in kept]
            yield Batch(
                [texts[i] for i in kept],
                [str(langs[i] or _UNKNOWN) for i in kept],
                [str(sources[i] or path.name) for i in kept],
                np.array([digest & (1 << 64) - 1 for digest in digests], np.uint64),
                np.array([digest >> 64 for digest in digests], np.uint64),
            )


def _table(path: Path) -> Iterator[tuple[list[str], list[str | None], list[str | None]]]:
    names = [name for name in ("text", "lang", "source") if name in _columns(path)]
    if "text" not in names:
        raise Unusable(f"{path}: it has no column 'text', only {', '.join(_columns(path))}")
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_BATCH, columns=names, use_threads=False):
            found = {name: batch[name].to_pylist() for name in names}
            none = [None] * len(batch)
            yield found["text"], found.get("lang", none), found.get("source", none)


def _lines(path: Path) -> Iterator[tuple[list[str], list[str | None], list[str | None]]]:
    piece = Piece(str(path), path.name, "jsonl", path.stat().st_size)
    texts: list[str] = []
    kept: list[tuple[str | None, ...]] = []
    for row in records.read_jsonl(piece, Fields(keep=("lang", "source"))):
        if row.reason is None:
            texts.append(row.text)
            kept.append(row.kept)
        if len(texts) == _BATCH:
            yield texts, [fields[0] for fields in kept], [fields[1] for fields in kept]
            texts, kept = [], []
    yield texts, [fields[0] for fields in kept], [fields[1] for fields in kept]


def limits(asked: Asked) -> Limits:
    """Read the corpora once and settle what is held out and what is learned from, whatever the order of the files."""
    pairs: dict[tuple[str, str], int] = {}
    found: list[tuple[np.ndarray, ...]] = []
    for batch in documents(asked.corpora, asked.seed):
        places = [pairs.setdefault(name, len(pairs)) for name in zip(batch.langs, batch.sources)]
        sizes = [len(text.encode("utf-8", "surrogatepass")) for text in batch.texts]
        found.append(
            (batch.order, _held_out(batch, asked.heldout), np.array(places, np.int64), np.array(sizes, np.int64))
        )
    if not pairs:
        raise Unusable("no document with text is there to learn from")
    order, held, at, size = (np.concatenate(column) for column in zip(*found))
    names = [_balanced(asked.balance, *pair) for pair in pairs]
    groups = sorted(set(names))
    if asked.balance == Balance.LANG and groups == [_UNKNOWN]:
        raise Unusable("no document names its language in a column 'lang', and so none can be balanced by it")
    group = np.array([groups.index(name) for name in names], np.int64)[at]
    learned, told = _settled(order[~held], group[~held], size[~held], groups, asked.sample_bytes)
    measured, _ = _settled(order[held], at[held], size[held], [str(name) for name in pairs], _HELD_OUT_BYTES)
    return Limits(
        asked.heldout,
        {pair: learned[groups.index(name)] for pair, name in zip(pairs, names)},
        dict(zip(pairs, measured)),
        told,
    )


def _balanced(balance: Balance | None, lang: str, source: str) -> str:
    """Which group gives a document."""
    return {None: "all", Balance.LANG: lang, Balance.SOURCE: source}[balance]


def _held_out(batch: Batch, share: float) -> np.ndarray:
    return batch.chance.astype(np.float64) < share * 2.0**64


def _settled(
    order: np.ndarray, group: np.ndarray, size: np.ndarray, names: list[str], total: int
) -> tuple[list[int], list[dict[str, Any]]]:
    """The highest `order` taken of each group (-1: none), so that all groups give equal bytes, `total` together.

    The last document of a group is taken whole.
    """
    available = np.bincount(group, size, len(names))
    wanted = mixture.filled(np.ones(len(names)), available, min(float(total), float(available.sum())))
    limits, told = [], []
    for place, name in enumerate(names):
        rows = np.flatnonzero(group == place)
        rows = rows[np.argsort(order[rows], kind="stable")]
        before = np.cumsum(size[rows]) - size[rows]
        taken = rows[before < wanted[place] - 0.5]  # what is held against it is a whole number
        limits.append(int(order[taken[-1]]) if len(taken) else -1)
        told.append({"group": name, "bytes": int(available[place]), "taken": int(size[taken].sum())})
    return limits, told


def sampled(asked: Asked, settled: Limits) -> Iterator[list[str]]:
    """The texts to learn from."""
    for batch in documents(asked.corpora, asked.seed):
        held = _held_out(batch, settled.heldout)
        ends = [settled.sample[pair] for pair in zip(batch.langs, batch.sources)]
        yield [
            text for text, own, end, out in zip(batch.texts, batch.order.tolist(), ends, held) if own <= end and not out
        ]


def held_out(asked: Asked, settled: Limits) -> Held:
    """The text to measure on."""
    rows: list[dict[str, Any]] = []
    words: dict[tuple[str, str], Counter[str]] = {}
    for batch in documents(asked.corpora, asked.seed):
        held = _held_out(batch, settled.heldout)
        for at in np.flatnonzero(held).tolist():
            pair, text = (batch.langs[at], batch.sources[at]), batch.texts[at]
            if int(batch.order[at]) <= settled.measured[pair]:
                rows.append({"text": text, "lang": pair[0], "source": pair[1], **_counts(text)})
                words.setdefault(pair, Counter()).update(text.split() if rows[-1]["spaced"] else [])
    if not rows:
        raise Unusable(f"no document was held out at a share of {asked.heldout}; a higher --heldout measures something")
    docs = pa.Table.from_pylist(rows)
    docs = docs.append_column("id", pa.array([f"{at:032x}" for at in range(len(docs))]))
    return Held(docs, {pair: _bare(counts) for pair, counts in words.items()})


def _counts(text: str) -> dict[str, Any]:
    kinds = characters.classes()[np.frombuffer(text.encode("utf-32-le", "replace"), np.uint32)]
    unspaced = np.count_nonzero(kinds & characters.UNSPACED)
    return {
        "n_bytes": len(text.encode("utf-8", "replace")),
        "n_chars": int(np.count_nonzero(kinds & characters.SPACE == 0)),
        "spaced": bool(2 * unspaced <= np.count_nonzero(kinds & characters.LETTER)),
    }


def _bare(counts: Counter[str]) -> Counter[str]:
    """Words without the punctuation around them."""
    bare: Counter[str] = Counter()
    for word, count in counts.items():
        bare[word.strip(_signs())] += count
    del bare[""]
    return bare


@functools.cache
def _signs() -> str:
    return "".join(char for char in map(chr, range(0x30000)) if unicodedata.category(char)[0] in "PS")


def smaller(content: dict[str, Any], size: int) -> dict[str, Any]:
    """The tokenizer.json of the first `size` ids: what training for `size` would have given."""
    vocab = {token: id_ for token, id_ in content["model"]["vocab"].items() if id_ < size}
    merges = [pair for pair in content["model"]["merges"] if "".join(pair) in vocab]
    return {**content, "model": {**content["model"], "vocab": vocab, "merges": merges}}


def measure(path: Path, held: Held) -> dict[str, Any]:
    """What a tokenizer.json makes of held-out text: of the whole, of each language, of each source.

    Tokens per word and the share of continued words (more than one token) follow Rust et al. 2021: a word is what
    stands between blanks, without the punctuation around it, encoded with the blank before it. Of documents whose
    letters are mostly of a script without blanks, tokens per character are told instead. Tokens leave EOS out.
    """
    lengths, used = _encoded(path, held.docs)
    every = sorted({word for counts in held.words.values() for word in counts})
    pieces, _ = _encoded(path, _as_documents(f" {word}" for word in every))
    cost = dict(zip(every, pieces.tolist()))
    size = tokens.vocab_size(path)
    lang, source = held.docs["lang"].to_pylist(), held.docs["source"].to_pylist()
    rows = [_row("all", "all", held, lengths, np.ones(len(lang), bool), list(held.words), cost)]
    for by, part, column in (("lang", 0, np.array(lang)), ("source", 1, np.array(source))):
        for name in sorted(set(column.tolist())):
            pairs = [pair for pair in held.words if pair[part] == name]
            rows.append(_row(by, name, held, lengths, column == name, pairs, cost))
    return {"vocab_size": size, "unused_held_out": int(size - used), "common_han": _common_han(path), "rows": rows}


def _encoded(path: Path, docs: pa.Table) -> tuple[np.ndarray, int]:
    """Tokens of each document, and how many different ids there are in all; EOS counts as an id, not as a token."""
    done = tokens.Tokens(tokenizer=path, train=None, eos=EOS, encoder="auto").apply(docs)
    return done["n_tokens"].to_numpy() - 1, len(np.unique(done["input_ids"].combine_chunks().flatten().to_numpy()))


def _as_documents(texts: Iterable[str]) -> pa.Table:
    text = pa.array(texts, pa.string())
    return pa.table({"id": pa.array([f"{at:032x}" for at in range(len(text))]), "text": text})


def _row(
    by: str, group: str, held: Held, lengths: np.ndarray, mask: np.ndarray, pairs: list[Any], cost: dict[str, int]
) -> dict[str, Any]:
    spaced, sizes, chars = (held.docs[name].to_numpy() for name in ("spaced", "n_bytes", "n_chars"))
    words: Counter[str] = Counter()
    for pair in pairs:
        words.update(held.words[pair])
    made, count, unspaced = int(lengths[mask].sum()), sum(words.values()), mask & ~spaced
    return {
        "by": by,
        "group": group,
        "documents": int(mask.sum()),
        "bytes": int(sizes[mask].sum()),
        "tokens": made,
        "bytes_per_token": float(sizes[mask].sum() / max(1, made)),
        "tokens_per_word": sum(cost[word] * n for word, n in words.items()) / count if count else None,
        "continued_words": sum(n for word, n in words.items() if cost[word] > 1) / count if count else None,
        "tokens_per_character": float(lengths[unspaced].sum() / chars[unspaced].sum()) if unspaced.any() else None,
    }


def common_han() -> list[str]:
    """The 3,755 characters of level 1 of GB 2312 (rows 16 to 55): the commonest of simplified Chinese."""
    cells = [(row, cell) for row in range(0xB0, 0xD8) for cell in range(0xA1, 0xFF)]
    return [char for char in (bytes(cell).decode("gb2312", "ignore") for cell in cells) if char]


def _common_han(path: Path) -> float:
    lengths, _ = _encoded(path, _as_documents(common_han()))
    return float(np.mean(lengths == 1))


def unused(path: Path, texts: Iterable[list[str]]) -> int:
    """Ids, EOS left out, that a tokenizer does not make anywhere in these texts: steps on the way to longer tokens."""
    seen = np.zeros(tokens.vocab_size(path), bool)
    stage = tokens.Tokens(tokenizer=path, train=None, eos=EOS, encoder="auto")
    for batch in texts:
        ids = stage.apply(_as_documents(batch))["input_ids"].combine_chunks().flatten().to_numpy()
        seen[ids] = True
    return int(np.count_nonzero(~seen)) - int(not seen[tokens.load(path).token_to_id(EOS)])


def curve(measured: dict[int, dict[str, Any]], by: str, body: float, width: int) -> list[dict[str, Any]]:
    """Bytes per token against the cost of the embedding, a row for each vocabulary size, and the knee among them.

    Training costs about 6 operations a parameter and token (Kaplan et al. 2020), the embedding's parameters counted
    once, as the output layer reads them: 6 (body + width V) / bytes per token a byte of text. The knee is the size
    where that is least. Each group of `by` counts the same in bytes per token, whatever there is of it.
    """
    rows = []
    for size, facts in sorted(measured.items()):
        groups = [row for row in facts["rows"] if row["by"] == by]
        per_token = len(groups) / sum(row["tokens"] / row["bytes"] for row in groups)
        embedding = width * size
        rows.append({
            "vocab_size": size, "bytes_per_token": per_token, "embedding": embedding,
            "embedding_share": embedding / (body + embedding), "cost": 6 * (body + embedding) / per_token,
        })  # fmt: skip
    least = min(row["cost"] for row in rows)
    return [{**row, "knee": row["cost"] == least, "cost_to_least": row["cost"] / least} for row in rows]


def _compared(asked: Asked, held: Held, pattern: str, scratch: Path) -> dict[str, dict[str, Any]]:
    """What the references make of the same text."""
    patterns = {"gpt2": None, "cl100k": ranks.CL100K, "o200k": pattern}
    found = {}
    for name, path in ranks.references(asked.vocabularies).items():
        home = scratch / name / "tokenizer.json"
        storage.write_json(home, ranks.read(path, patterns[name]))
        found[name] = measure(home, held)
    return found


def learn(asked: Asked, out: Path) -> dict[str, Any]:
    """Train, measure, choose, write to the folder `out`; returns the report, which is written last.

    Raises `Unusable` where there is nothing to learn from or no size to train for.
    """
    wanted = sorted({*asked.sizes, *([asked.vocab_size] if asked.vocab_size else [])})
    if not wanted or wanted[0] < 300:
        raise Unusable("give a --vocab-size, or --sizes to choose from, of 300 and more")
    settled = limits(asked)
    held = held_out(asked, settled)
    content = json.loads(tokens.trained(sampled(asked, settled), wanted[-1], EOS).to_str())
    reached = len(content["model"]["vocab"])
    with TemporaryDirectory() as scratch:
        measured: dict[int, dict[str, Any]] = {}
        for size in sorted({min(size, reached) for size in wanted}):
            path = Path(scratch) / str(size) / "tokenizer.json"
            storage.write_json(path, smaller(content, size))
            measured[size] = measure(path, held)
        rows = curve(measured, (asked.balance or Balance.LANG).value, asked.body, asked.width)
        chosen = min(asked.vocab_size or next(row["vocab_size"] for row in rows if row["knee"]), reached)
        pattern = content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
        compared = _compared(asked, held, pattern, Path(scratch))
        never = unused(Path(scratch) / str(chosen) / "tokenizer.json", sampled(asked, settled))
    _write(out, smaller(content, chosen))
    told = {
        "vocab_size": chosen, "asked": wanted, "reached": reached, "seed": asked.seed, "heldout": asked.heldout,
        "balance": asked.balance.value if asked.balance else None, "sample": settled.told,
        "unused_in_sample": never, "curve": rows, "body": asked.body, "width": asked.width,
        "missing": sorted(ranks.REFERENCES.keys() - compared.keys()),
        "tokenizers": {"this": measured[chosen], **compared},
        "sha256": storage.sha256(out / "tokenizer.json"),
    }  # fmt: skip
    (out / "report.md").write_text(markdown(told), encoding="utf-8")
    storage.write_json(out / "report.json", told)
    return told


def _write(out: Path, content: dict[str, Any]) -> None:
    """tokenizer.json and its configuration, as `transformers` loads them, and the ranks for tiktoken."""
    storage.write_json(out / "tokenizer.json", content)
    storage.write_json(out / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": EOS, "eos_token": EOS, "add_prefix_space": False,
        "clean_up_tokenization_spaces": False, "model_max_length": 1 << 30,
    })  # fmt: skip
    ranks.write(out / "tokenizer.tiktoken", content)


def markdown(told: dict[str, Any]) -> str:
    """The report for people."""
    parts = [f"# A tokenizer of {told['vocab_size']:,} ids\n"]
    if told["reached"] < told["asked"][-1]:
        parts.append(f"The sample gives {told['reached']:,} ids and no more; {told['asked'][-1]:,} were asked for.\n")
    parts.append(f"{told['unused_in_sample']:,} ids come up nowhere in the text it learned from.\n")
    sample = [[row["group"], f"{row['bytes'] / 1e6:.2f}", f"{row['taken'] / 1e6:.2f}"] for row in told["sample"]]
    parts.append(f"## Sample, by {told['balance'] or 'chance'}\n\n" + _drawn(["of", "MB there", "MB taken"], sample))
    if told["balance"] and all(row["taken"] == row["bytes"] for row in told["sample"]):
        total, least = (extreme(row["taken"] for row in told["sample"]) for extreme in (sum, min))
        parts.append(
            f"All there is was taken, and nothing balanced: --sample-bytes below {total} takes less of the largest, "
            f"{least * len(told['sample'])} the same of all.\n"
        )
    parts.append("## Held-out text, bytes per token\n\n" + _side_by_side(told["tokenizers"]))
    if told["missing"]:
        parts.append(f"Not compared, as no file of it is here: {', '.join(told['missing'])}.\n")
    parts.append("## Words and characters of held-out text\n\n" + _words(told["tokenizers"]))
    parts.append("## Vocabularies\n\n" + _vocabularies(told["tokenizers"]))
    parts.append("## Size\n\n" + _curve(told))
    return "\n".join(parts)


def _drawn(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table whose columns stand below each other."""
    widths = [max(len(line[at]) for line in [head, *rows]) for at in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in [head, *rows]]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:], ""])


def _groups(tokenizers: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    rows = tokenizers["this"]["rows"]
    shown = []
    for by in ("all", "lang", "source"):
        largest = sorted((row for row in rows if row["by"] == by), key=lambda row: (-row["bytes"], row["group"]))
        shown += [(by, row["group"]) for row in largest[:_SHOWN]]
    return shown


def _facts(tokenizers: dict[str, dict[str, Any]], name: str, group: tuple[str, str]) -> dict[str, Any]:
    return next(row for row in tokenizers[name]["rows"] if (row["by"], row["group"]) == group)


def _side_by_side(tokenizers: dict[str, dict[str, Any]]) -> str:
    rows = []
    for group in _groups(tokenizers):
        per = {name: _facts(tokenizers, name, group)["bytes_per_token"] for name in tokenizers}
        others = [f"{value:.3f} ({per['this'] / value:.2f}x)" for name, value in per.items() if name != "this"]
        kilobytes = f"{_facts(tokenizers, 'this', group)['bytes'] / 1e3:,.0f}"
        rows.append([group[0], group[1], kilobytes, f"{per['this']:.3f}", *others])
    return _drawn(["by", "of", "kB", *tokenizers], rows)


def _words(tokenizers: dict[str, dict[str, Any]]) -> str:
    rows = []
    for group in _groups(tokenizers):
        cells = []
        for name in tokenizers:
            facts = _facts(tokenizers, name, group)
            words, characters_ = facts["tokens_per_word"], facts["tokens_per_character"]
            told = [f"{words:.2f} a word, {facts['continued_words']:.1%} continued"] if words is not None else []
            told += [f"{characters_:.3f} a character"] if characters_ is not None else []
            cells.append("; ".join(told))
        rows.append([*group, *cells])
    return _drawn(["by", "of", *tokenizers], rows)


def _vocabularies(tokenizers: dict[str, dict[str, Any]]) -> str:
    rows = [[name, f"{facts['vocab_size']:,}", f"{facts['unused_held_out']:,}", f"{facts['common_han']:.1%}"]
            for name, facts in tokenizers.items()]  # fmt: skip
    return _drawn(["of", "ids", "not in held-out text", "common Han characters that are one token"], rows)


def _curve(told: dict[str, Any]) -> str:
    rows = [
        [f"{row['vocab_size']:,}", f"{row['bytes_per_token']:.3f}", f"{row['embedding'] / 1e6:.1f} M",
         f"{row['embedding_share']:.1%}", f"{row['cost_to_least']:.3f}", "knee" if row["knee"] else ""]
        for row in told["curve"]
    ]  # fmt: skip
    rule = (
        f"The knee is where a byte of text costs the fewest operations, 6 (body + width x ids) / bytes per token, with "
        f"a body of {told['body'] / 1e6:,.0f} M parameters and width {told['width']}; "
        f"every {told['balance'] or 'lang'} counts the same.\n"
    )
    return _drawn(["ids", "bytes per token", "embedding", "of the model", "cost", ""], rows) + "\n" + rule


def commands(app: typer.Typer) -> None:
    """Add `train-tokenizer` to the command line."""
    app.command("train-tokenizer")(train_tokenizer)


def train_tokenizer(
    corpora: Annotated[
        list[Path],
        typer.Argument(metavar="CORPUS...", help="Runs, folders, Parquet or JSONL files with a column text."),
    ],
    vocab_size: Annotated[
        int | None, typer.Option(min=300, help="Ids, EOS included; if omitted, the knee of --sizes.")
    ] = None,
    byte_balance: Annotated[Balance | None, typer.Option(help="Learn from equal bytes of each of these.")] = None,
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("runs/tokenizer"),
    heldout: Annotated[float, typer.Option(min=0.0001, max=0.5, help="Share of documents to measure on.")] = 0.05,
    sizes: Annotated[str, typer.Option(help="Sizes to compare, as 8000,16000,32000.")] = "",
    sample_bytes: Annotated[int, typer.Option(min=1, help="Learn from so much text at most.")] = 500_000_000,
    seed: Annotated[int, typer.Option(min=0, help="Of the sample and of what is held out.")] = 1,
    vocabulary: Annotated[
        list[Path] | None, typer.Option(help="A folder with r50k_base.tiktoken and the like, to compare with.")
    ] = None,
    body: Annotated[float, typer.Option(min=1, help="Parameters of the model without embedding, for the knee.")] = 85e6,
    width: Annotated[int, typer.Option(min=1, help="Width of the model, for the knee.")] = 768,
) -> None:
    """Train a tokenizer on a byte-balanced sample; say what it is worth beside GPT-2, cl100k and o200k."""
    try:
        points = tuple(int(size) for size in sizes.split(",") if size)
    except ValueError:
        raise typer.BadParameter(
            f"{sizes}: expected numbers with commas between, as 8000,16000", param_hint="--sizes"
        ) from None
    asked = Asked(tuple(corpora), vocab_size, byte_balance, heldout, points, sample_bytes, seed,
                  tuple(vocabulary or ()), body, width)  # fmt: skip
    try:
        told = learn(asked, out)
    except Unusable as error:
        raise typer.BadParameter(str(error)) from None
    print(markdown(told))
    print(f"{out}: tokenizer.json, tokenizer_config.json, tokenizer.tiktoken, report.json, report.md")
