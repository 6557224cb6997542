"""The text of a special token in a document is text, whatever kind of tokenizer there is, and decodes to itself."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tokens import CL100K, KINDS, documents, fuzzed, made, real_texts
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from stages import tokens
from stages.kernels import bpe
from stages.tokens import Tokens

LETTERS = sorted(set("</s>[SEP]CLSabcdefghijklmnopqrstuvwxyz.unk|"))
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def unigram(*, bytes_: bool = False, normalizer: Any = None) -> Tokenizer:
    """Pieces are letters, and `<unk>`, `<pad>`, `</s>` at the best score, as in the T5 and Llama families."""
    pieces = ["<unk>", "<pad>", "</s>", *([f"<0x{byte:02X}>" for byte in range(256)] if bytes_ else []), "▁", *LETTERS]
    scored = [(piece, 0.0 if n < 3 else -5.0 - n / 100) for n, piece in enumerate(pieces)]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=0, byte_fallback=bytes_))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.add_special_tokens(["<unk>", "<pad>", "</s>"])
    return tokenizer


def wordpiece(*, pieces: bool = True) -> Tokenizer:
    words = ["[UNK]", "[CLS]", "</s>", "the", "token", *(LETTERS if pieces else [])]
    vocabulary = {word: n for n, word in enumerate([*words, *(f"##{letter}" for letter in LETTERS if pieces)])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    tokenizer.add_special_tokens(["[UNK]", "[CLS]", "</s>"])
    return tokenizer


def wordlevel(*, unknown: bool = True) -> Tokenizer:
    """A table of words; `</s>` is one of them and is not marked as special."""
    vocabulary = {word: n for n, word in enumerate([*(["[UNK]"] if unknown else []), "</s>", "the", "token"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def byte_level(change: Callable[[Tokenizer], None], vocabulary: list[str] = (), merges: list[tuple] = ()) -> Tokenizer:
    alphabet = {token: n for n, token in enumerate([*BYTES, *vocabulary])}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    change(tokenizer)
    return tokenizer


MERGES = [("<", "/"), ("</", "s"), ("</s", ">"), ("</s>", "</s>")]
"""They make `</s>` out of letters, and more of it: no pre-tokenizer must come between."""


def merged() -> Tokenizer:
    tokenizer = byte_level(lambda one: None, ["".join(pair) for pair in MERGES], MERGES)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return tokenizer


def added(**flags: bool) -> Callable[[Tokenizer], None]:
    def change(tokenizer: Tokenizer) -> None:
        tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
        tokenizer.add_tokens([AddedToken("</s>", **flags)])
        tokenizer.add_tokens([AddedToken("<after>", normalized=False)])
        tokenizer.add_special_tokens(["<last>"])

    return change


LOSSLESS: dict[str, Callable[[], Tokenizer]] = {
    "unigram": unigram,
    "unigram with bytes": lambda: unigram(bytes_=True),
    "bpe, not special": lambda: byte_level(added(normalized=False)),
    "bpe, not special, blanks": lambda: byte_level(added(lstrip=True, rstrip=True)),
    "bpe, not special, whole words": lambda: byte_level(added(single_word=True)),
    "bpe, merged": merged,
}
LOSSY: dict[str, Callable[[], Tokenizer]] = {
    "wordpiece": wordpiece,
    "wordpiece of words": lambda: wordpiece(pieces=False),
    "wordlevel": wordlevel,
}
TEXTS = [
    "the token </s> of",
    "</s>",
    "</s></s>",
    " </s> ",
    "the </s>",
    "</s> the",
    "a</s>b",
    "</s>\n</s>",
    "<s>the</s>",
]


def encoded(tokenizer: Tokenizer, texts: list[str], folder: Path, **fields: Any) -> tuple[list[list[int]], dict]:
    path = folder / f"{abs(hash(tokenizer.to_str()))}.json"
    tokenizer.save(str(path))
    stage = Tokens(tokenizer=path, **{"eos": "</s>", **fields})
    docs = stage.apply(documents(texts))
    return docs["input_ids"].to_pylist(), stage.tally(docs)


def as_is(tokenizer: Tokenizer, text: str) -> list[int]:
    """What the library alone makes of a text that is to have no special tokens."""
    tokenizer.encode_special_tokens = True
    return tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("kind", [*LOSSLESS, *LOSSY])
def test_eos_stands_at_the_end_only(kind: str, tmp_path: Path) -> None:
    tokenizer = {**LOSSLESS, **LOSSY}[kind]()
    end = tokenizer.token_to_id("</s>")
    hurt = [text for text in TEXTS if end in as_is(tokenizer, text)]
    assert hurt, "the library alone does no damage, so this would show nothing"
    ids, tally = encoded(tokenizer, [*TEXTS, "the token"], tmp_path)
    for text, document in zip([*TEXTS, "the token"], ids):
        assert document.count(end) == 1
        assert document[-1] == end
        if text not in hurt:
            assert document[:-1] == as_is(tokenizer, text), "what was not damaged is as the library has it"
    assert tally["special_text"] == len(hurt)


@pytest.mark.parametrize("kind", LOSSLESS)
def test_it_decodes_to_the_text(kind: str, tmp_path: Path) -> None:
    tokenizer = LOSSLESS[kind]()
    texts = [text.replace("\n", "") for text in TEXTS]
    ids, _ = encoded(tokenizer, texts, tmp_path)
    for text, document in zip(texts, ids):
        assert tokenizer.decode(document[:-1], skip_special_tokens=False).strip() == text.strip()


def test_other_ids_of_the_document_and_its_neighbours_stay(tmp_path: Path) -> None:
    tokenizer = byte_level(added(normalized=False))
    ids, tally = encoded(tokenizer, ["a <tool> b", "a <tool> </s> <after> b <last>", "b <after>"], tmp_path)
    assert ids[0][:-1] == as_is(tokenizer, "a <tool> b")
    assert ids[2][:-1] == as_is(tokenizer, "b <after>")
    assert tokenizer.token_to_id("<tool>") in ids[1], "what is no special token is a token"
    assert tokenizer.token_to_id("<after>") in ids[1], "it has the id it had"
    assert tokenizer.token_to_id("<last>") not in ids[1]
    assert tally == {"tokens": sum(map(len, ids)), "special_text": 1}, "by the fast encoder"


@pytest.mark.parametrize("kind", ["bpe, not special", "bpe, not special, blanks", "bpe, merged"])
def test_both_encoders_give_the_same(kind: str, tmp_path: Path) -> None:
    texts = [*TEXTS, *real_texts()[:20], *(f"{text[:9]}</s>{text[9:]}" for text in fuzzed(5, 300))]
    fast, tally = encoded(LOSSLESS[kind](), texts, tmp_path)
    slow, told = encoded(LOSSLESS[kind](), texts, tmp_path, encoder="hf")
    assert fast == slow
    assert "encoder_hf" not in tally, "the fast encoder was not used, this would compare nothing"
    assert told["encoder_hf"] == len(texts)
    assert tally["special_text"] == told["special_text"] > 0


@pytest.mark.parametrize(("normalizer", "text"), [
    (normalizers.NFKC(), "a ＜／ｓ＞ b"), (normalizers.Lowercase(), "a </S> b"),
    (normalizers.Replace("&lt;", "<"), "a &lt;/s> b"),
])  # fmt: skip
def test_what_a_normalizer_makes_of_text(normalizer: Any, text: str, tmp_path: Path) -> None:
    tokenizer = unigram(normalizer=normalizer)
    assert tokenizer.token_to_id("</s>") in as_is(tokenizer, text)
    ids, tally = encoded(tokenizer, [text], tmp_path)
    assert ids[0].count(2) == 1
    assert tokenizer.decode(ids[0][:-1], skip_special_tokens=False) == "a </s> b"
    assert tally["special_text"] == 1


def test_an_added_token_that_a_normalizer_makes(tmp_path: Path) -> None:
    def change(tokenizer: Tokenizer) -> None:
        tokenizer.normalizer = normalizers.NFKC()
        added(normalized=True)(tokenizer)

    tokenizer = byte_level(change)
    assert tokenizer.token_to_id("</s>") in as_is(tokenizer, "a ＜／ｓ＞ b")
    ids, _ = encoded(tokenizer, ["a ＜／ｓ＞ b"], tmp_path)
    assert tokenizer.decode(ids[0][:-1], skip_special_tokens=False) == "a </s> b"


def test_unknown_characters_are_no_damage(tmp_path: Path) -> None:
    ids, tally = encoded(unigram(), ["中 the", "the", "<pad> the"], tmp_path)
    assert 0 in ids[0], "the id of unknown characters"
    assert 1 not in ids[2]
    assert tally["special_text"] == 1


def test_the_name_of_the_unknown_token_is_text(tmp_path: Path) -> None:
    tokenizer = unigram()
    ids, tally = encoded(tokenizer, ["a <unk> b", "中 a <unk> b", "中"], tmp_path)
    assert tokenizer.decode(ids[0][:-1], skip_special_tokens=False) == "a <unk> b"
    assert ids[1].count(0) == 1
    assert tally["special_text"] == 2


def test_unknown_characters_that_are_eos_are_left_out(tmp_path: Path) -> None:
    ids, tally = encoded(unigram(), ["a中b", "ab"], tmp_path, eos="<unk>")
    assert ids[0] == ids[1]
    assert ids[0].count(0) == 1
    assert tally["special_text"] == 1


def test_words_are_left_out_where_there_is_no_token_for_unknown_ones(tmp_path: Path) -> None:
    ids, _ = encoded(wordlevel(unknown=False), ["the </s> token"], tmp_path)
    assert ids == [[1, 2, 0]]


def test_not_even_the_hidden_name_becomes_eos(tmp_path: Path) -> None:
    name = tokens.vocabulary.hidden(json.loads(unigram().to_str()), {2})["model"]["vocab"][2][0]
    ids, _ = encoded(unigram(), [f"the </s> {name} token"], tmp_path)
    assert ids[0].count(2) == 1


def test_a_learned_vocabulary_whose_eos_is_a_word(tmp_path: Path) -> None:
    stage = Tokens.model_validate({"train": {"vocab_size": 400}, "eos": "the"})
    texts = ["the cat and the dog of the house"] * 50
    learned = tokens.trained([texts], 400, "the")
    learned.save(str(tmp_path / "fit.tokenizer.json"))
    fitted = stage.fitted(tmp_path / "fit")
    assert 0 in as_is(learned, texts[0]), "the merges make EOS of the word"
    docs = fitted.apply(documents(texts[:2]))
    for document in docs["input_ids"].to_pylist():
        assert document.index(0) == len(document) - 1
        assert learned.decode(document[:-1], skip_special_tokens=False) == texts[0]
    assert fitted.tally(docs)["special_text"] == 2


@given(st.lists(st.text(st.sampled_from("</s> ab＜中▁\n"), max_size=12), max_size=6))
@settings(max_examples=60, deadline=None)
def test_never_eos_inside(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    tokenizer = unigram(bytes_=True, normalizer=normalizers.NFKC())
    ids, _ = encoded(tokenizer, texts, tmp_path_factory.mktemp("given"))
    assert all(document.count(2) == 1 and document[-1] == 2 for document in ids)
    for text, document in zip(texts, ids):
        if 2 not in (alone := as_is(tokenizer, text)):
            assert document[:-1] == alone


@pytest.mark.parametrize("eos", ["Ċ", "a"])
def test_eos_that_is_a_byte_is_refused(eos: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"the token '{eos}' is a byte of ordinary text; its special tokens: <last>"):
        encoded(byte_level(added()), ["a"], tmp_path, eos=eos)
    with pytest.raises(ValueError, match=f"'{eos}' is part of ordinary text"):
        Tokens.model_validate({"train": {"vocab_size": 400}, "eos": eos})
    with pytest.raises(ValueError, match="'<0x0A>' is a byte of ordinary text"):
        encoded(unigram(bytes_=True), ["a"], tmp_path, eos="<0x0A>")


def test_eos_that_is_unknown_is_told_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no token '<eos>'; its special tokens: <unk>, <pad>, </s>"):
        encoded(unigram(), ["a"], tmp_path, eos="<eos>")
    with pytest.raises(ValueError, match=r"has no token '<eos>'; it has no special tokens"):
        encoded(wordlevel(), ["a"], tmp_path, eos="<eos>")
    many = byte_level(lambda one: one.add_special_tokens([f"<{n}>" for n in range(25)]))
    with pytest.raises(ValueError, match=r"<18>, <19> and 5 more"):
        encoded(many, ["a"], tmp_path, eos="<eos>")


def with_a_gap(split: str) -> dict[str, Any]:
    """As cl100k_base and o200k_base are distributed: special tokens stand in the model, after a gap."""
    content = json.loads(made({"split": split}, real_texts()).to_str())
    words = {name: id_ - 1 for name, id_ in content["model"]["vocab"].items() if id_}
    special = {"<|endoftext|>": len(words) + 1, "<|fim_prefix|>": len(words) + 2, "<|endofprompt|>": len(words) + 20}
    content["model"]["vocab"] = {**words, **special}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    content["added_tokens"] = [{"id": id_, "content": name, **flags} for name, id_ in special.items()]
    return content


@pytest.mark.parametrize("split", [CL100K, KINDS["trained"]["split"]], ids=["cl100k", "o200k"])
def test_a_gap_before_the_special_tokens_is_for_the_fast_encoder(split: str, tmp_path: Path) -> None:
    content = with_a_gap(split)
    tokenizer = Tokenizer.from_str(json.dumps(content))
    texts = [*real_texts(), *fuzzed(3, 1500), "a<|fim_prefix|>b", "<|endofprompt|>"]
    ids, tally = encoded(tokenizer, texts, tmp_path, eos="<|endoftext|>")
    assert set(tally) == {"tokens"}, "the fast encoder was not used, this would compare nothing"
    end = content["model"]["vocab"]["<|endoftext|>"]
    assert ids == [[*as_is(tokenizer, text), end] for text in texts]


def test_added_tokens_in_a_gap_keep_their_ids(tmp_path: Path) -> None:
    """The library numbers them from the size of the model on, which may lie in the gap."""
    content = with_a_gap(CL100K)
    content["added_tokens"] = content["added_tokens"][:1]
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("<b>", normalized=False)])
    texts = [*real_texts()[:20], "a <tool> b<b>", "<b>"]
    ids, tally = encoded(tokenizer, texts, tmp_path, eos="<|endoftext|>")
    assert [document[:-1] for document in ids] == [as_is(tokenizer, text) for text in texts]
    assert set(tally) == {"tokens"}, "the fast encoder was not used, this would compare nothing"
    assert tokenizer.token_to_id("<tool>") in ids[-2]


def test_a_very_wide_gap_is_left_alone() -> None:
    content = {"model": {"vocab": {"a": 0, "b": tokens.vocabulary.MOST_MISSING + 2}}, "added_tokens": []}
    assert tokens.vocabulary.filled(content) is content


def test_the_kernel_finds_kinds() -> None:
    pick = np.random.default_rng(1)
    lengths = pick.integers(0, 4, 60)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids, kinds = pick.integers(0, 9, offsets[-1]).astype(np.uint32), np.array([0, 1, 2, 1, 2, 0, 0, 0, 0], np.uint8)
    expected = [int(np.bitwise_or.reduce(kinds[ids[a:b]], initial=0)) for a, b in zip(offsets, offsets[1:])]
    assert bpe.kinds_in(ids, offsets, kinds).tolist() == expected
    assert set(expected) == {0, 1, 2, 3}
