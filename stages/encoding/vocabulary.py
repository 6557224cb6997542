"""Changes to the content of a tokenizer.json that keep every id.

`hidden` renames tokens, so that no text becomes one of them. `filled` adds tokens that no text contains where ids are
missing. Both take what `json.loads(Tokenizer.to_str())` gives, in which merges are pairs, and return a changed copy.
"""

from typing import Any

Content = dict[str, Any]
"""The content of a tokenizer.json. The library owns its fields; this module reads the few that name tokens."""

MOST_MISSING = 1 << 20
"""`filled` leaves wider gaps alone: a vocabulary with a few very high ids is not worth a million names."""

_OUTSIDE = "\U0010ffff"
"""Not a character, and not in the alphabet of byte-level tokenizers: no text becomes a token with this in its name."""

_UNSEEN = _OUTSIDE * 128
"""Begins the name of a token that no text must become with any kind of tokenizer. A page that contains U+10FFFF 128
times in a row is not met by chance, and WordPiece looks up no word of more than 100 characters."""


def specials(content: Content) -> dict[str, int]:
    """Name and id of each token that is marked as special, in the order of the file."""
    return {token["content"]: token["id"] for token in content["added_tokens"] if token["special"]}


def unknown(content: Content) -> tuple[str, int] | None:
    """Name and id of the token for what the vocabulary does not have; None where there is no such token."""
    model = content["model"]
    if model["type"] == "Unigram":
        index = model.get("unk_id")
        return None if index is None else (model["vocab"][index][0], index)
    name = model.get("unk_token")
    return (name, model["vocab"][name]) if name in model["vocab"] else None


def byte_tokens(content: Content, alphabet: list[str]) -> set[str]:
    """The tokens that stand for one byte of ordinary text. `alphabet` has those of byte-level tokenizers."""
    fallback = {f"<0x{byte:02X}>" for byte in range(256)} if content["model"].get("byte_fallback") else set()
    byte_level = content["model"]["type"] == "BPE" and all(byte in content["model"]["vocab"] for byte in alphabet)
    return {*fallback, *(alphabet if byte_level else [])}


def hidden(content: Content, ids: set[int]) -> Content:
    """The tokenizer with other names for the tokens `ids`: it encodes all other text as before.

    The text `</s>` then becomes the ids of `<`, `/`, `s`, `>` or whatever else the vocabulary has for it.
    """
    model = content["model"]
    pairs = model["vocab"] if isinstance(model["vocab"], list) else model["vocab"].items()
    names = dict(_numbered(model["vocab"])) | {token["content"]: token["id"] for token in content["added_tokens"]}
    new = {name: f"{_UNSEEN}{id_}" for name, id_ in names.items() if id_ in ids}
    renamed = [(new.get(name, name), value) for name, value in pairs]
    changed = {**model, "vocab": renamed if isinstance(model["vocab"], list) else dict(renamed)}
    if "merges" in model:
        changed["merges"] = [pair for pair in model["merges"] if not {*pair, _merged(model, *pair)} & new.keys()]
    if "unk_token" in model:
        changed["unk_token"] = _for_unknown(model, new)
    return {**content, "model": changed, "added_tokens": [_renamed(token, new) for token in content["added_tokens"]]}


def _numbered(vocabulary: Any) -> list[tuple[str, int]]:
    """Names and ids: a Unigram model lists (name, score) by id, the others have a table."""
    if isinstance(vocabulary, list):
        return [(name, id_) for id_, (name, _) in enumerate(vocabulary)]
    return list(vocabulary.items())


def _merged(model: dict[str, Any], left: str, right: str) -> str:
    """What a merge of BPE makes of two tokens."""
    return left + right.removeprefix(model.get("continuing_subword_prefix") or "")


def _for_unknown(model: dict[str, Any], new: dict[str, str]) -> str | None:
    """The token for unknown words. Where a model of words has none, this is a hidden token, which the caller removes.

    The text of a hidden token is an unknown word then, and the library would raise an error for it.
    """
    name = model["unk_token"]
    if model["type"] in ("WordLevel", "WordPiece") and name not in model["vocab"]:
        return next((other for one, other in new.items() if one in model["vocab"]), name)
    return new.get(name, name)


def _renamed(token: dict[str, Any], new: dict[str, str]) -> dict[str, Any]:
    """An added token under its new name, marked as special: the library then does not look for it in text."""
    if token["content"] not in new:
        return token
    return {**token, "content": new[token["content"]], "special": True, "normalized": False}


def filled(content: Content) -> Content:
    """A byte-level tokenizer without gaps between the ids of its model, as `fastokens` demands.

    Those of cl100k_base and o200k_base have a gap before the special tokens.
    """
    vocabulary: dict[str, int] = content["model"]["vocab"]
    taken = set(vocabulary.values())
    missing = 1 + max(taken, default=-1) - len(taken)
    if not 0 < missing <= MOST_MISSING:
        return content
    added = {token["id"]: token["content"] for token in content["added_tokens"]}
    names = {added.get(id_, f"{_OUTSIDE}{id_}"): id_ for id_ in range(max(taken)) if id_ not in taken}
    return {**content, "model": {**content["model"], "vocab": {**vocabulary, **names}}}
