"""A tokenizer of the corpus's own, trained and judged by one command: `train-tokenizer`.

What it learns from and what is held out is settled in `balance`. What it is worth is measured beside the vocabularies
of GPT-2, cl100k and o200k where they lie on this machine; nothing is downloaded.

The merges of a small vocabulary are the first merges of a large one. One training therefore gives every point of the
curve from which the size is chosen.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import typer

from pipeline import storage
from stages import tokens
from stages.learning import ranks, tokenizer_report
from stages.learning.balance import Asked, Balance, Held, Limits, held_out, limits, sampled
from stages.learning.corpora import Unusable
from stages.learning.ranks import EOS


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
    words = _word_costs(path, held)
    whole = np.zeros(len(lengths), np.int64)
    rows = _rows("all", ["all"], whole, dict.fromkeys(words, 0), held, lengths, words)
    for by, part in (("lang", 0), ("source", 1)):
        names, group = np.unique(np.array(held.docs[by].to_pylist(), object), return_inverse=True)
        place = {name: at for at, name in enumerate(names)}
        rows += _rows(by, names.tolist(), group, {pair: place[pair[part]] for pair in words}, held, lengths, words)
    size = tokens.vocab_size(path)
    return {"vocab_size": size, "unused_held_out": int(size - used), "common_han": _common_han(path), "rows": rows}


def _encoded(path: Path, docs: pa.Table) -> tuple[np.ndarray, int]:
    """Tokens of each document, and how many different ids there are in all; EOS counts as an id, not as a token."""
    done = tokens.Tokens(tokenizer=path, train=None, eos=EOS, encoder="auto").apply(docs)
    return done["n_tokens"].to_numpy() - 1, len(np.unique(done["input_ids"].combine_chunks().flatten().to_numpy()))


def _as_documents(texts: Iterable[str]) -> pa.Table:
    text = pa.array(texts, pa.string())
    return pa.table({"id": pa.array([f"{at:032x}" for at in range(len(text))]), "text": text})


def _word_costs(path: Path, held: Held) -> dict[tuple[str, str], np.ndarray]:
    """int64[3] for each (language, source): words, their tokens, and words of more than one token."""
    every = sorted({word for counts in held.words.values() for word in counts})
    pieces, _ = _encoded(path, _as_documents(f" {word}" for word in every))
    cost = dict(zip(every, pieces.tolist()))
    return {
        pair: np.array([
            sum(counts.values()),
            sum(cost[word] * number for word, number in counts.items()),
            sum(number for word, number in counts.items() if cost[word] > 1),
        ])
        for pair, counts in held.words.items()
    }  # fmt: skip


def _rows(
    by: str, names: list[str], group: np.ndarray, pairs: dict[tuple[str, str], int], held: Held, lengths: np.ndarray,
    words: dict[tuple[str, str], np.ndarray],
) -> list[dict[str, Any]]:  # fmt: skip
    """The figures of each group, of documents (`group`: its place in `names`) and of words (`pairs`: the same)."""
    spaced, sizes, chars = (held.docs[name].to_numpy() for name in ("spaced", "n_bytes", "n_chars"))
    summed = {
        name: np.bincount(group, values, len(names)).astype(np.int64).tolist()
        for name, values in (("documents", None), ("bytes", sizes), ("tokens", lengths),
                             ("unspaced", lengths * ~spaced), ("characters", chars * ~spaced))
    }  # fmt: skip
    of_words = np.zeros((len(names), 3), np.int64)
    for pair, at in pairs.items():
        of_words[at] += words[pair]
    rows = []
    for at, name in enumerate(names):
        count, pieces, continued = of_words[at].tolist()
        documents, size, made, unspaced, characters = (column[at] for column in summed.values())
        rows.append({
            "by": by, "group": name, "documents": documents, "bytes": size, "tokens": made,
            "bytes_per_token": size / max(1, made),
            "tokens_per_word": pieces / count if count else None,
            "continued_words": continued / count if count else None,
            "tokens_per_character": unspaced / characters if characters else None,
        })  # fmt: skip
    return rows


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
    with TemporaryDirectory() as scratch:
        found = _judged(asked, wanted, content, settled, held, Path(scratch))
    _write(out, smaller(content, found["vocab_size"]))
    told = {
        "asked": wanted, "seed": asked.seed, "heldout": asked.heldout, "read": settled.read,
        "balance": asked.balance.value if asked.balance else None, "sample": settled.told,
        "body": asked.body, "width": asked.width, **found, "sha256": storage.sha256(out / "tokenizer.json"),
    }  # fmt: skip
    with storage.atomic(out / "report.md") as beside:
        beside.write_text(tokenizer_report.markdown(told), encoding="utf-8")
    storage.write_json(out / "report.json", told)
    return told


def _judged(
    asked: Asked, wanted: list[int], content: dict[str, Any], settled: Limits, held: Held, scratch: Path
) -> dict[str, Any]:
    """The size that is chosen, and every figure of the sizes that are wanted and of the vocabularies beside them."""
    reached = len(content["model"]["vocab"])
    measured: dict[int, dict[str, Any]] = {}
    for size in sorted({min(size, reached) for size in wanted}):
        path = scratch / str(size) / "tokenizer.json"
        storage.write_json(path, smaller(content, size))
        measured[size] = measure(path, held)
    rows = curve(measured, (asked.balance or Balance.LANG).value, asked.body, asked.width)
    chosen = min(asked.vocab_size or next(row["vocab_size"] for row in rows if row["knee"]), reached)
    pattern = content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    compared = _compared(asked, held, pattern, scratch)
    return {
        "vocab_size": chosen, "reached": reached, "curve": rows,
        "unused_in_sample": unused(scratch / str(chosen) / "tokenizer.json", sampled(asked, settled)),
        "missing": sorted(ranks.REFERENCES.keys() - compared.keys()),
        "tokenizers": {"this": measured[chosen], **compared},
    }  # fmt: skip


def _write(out: Path, content: dict[str, Any]) -> None:
    """tokenizer.json and its configuration, as `transformers` loads them, and the ranks for tiktoken."""
    storage.write_json(out / "tokenizer.json", content)
    storage.write_json(out / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": EOS, "eos_token": EOS, "add_prefix_space": False,
        "clean_up_tokenization_spaces": False, "model_max_length": 1 << 30,
    })  # fmt: skip
    ranks.write(out / "tokenizer.tiktoken", content)


def commands(app: typer.Typer) -> None:
    """Add `train-tokenizer` to the command line."""
    app.command("train-tokenizer")(train_tokenizer)


def train_tokenizer(
    corpora: Annotated[
        list[Path],
        typer.Argument(metavar="CORPUS...", help="Runs, folders, .parquet, .jsonl (with a field text), .txt."),
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
    print(tokenizer_report.markdown(told))
    print(f"{out}: tokenizer.json, tokenizer_config.json, tokenizer.tiktoken, report.json, report.md")
