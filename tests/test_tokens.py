"""Ids are those of `tokenizers`, whatever made them: every pre-tokenizer kind, real text, hostile text, fuzzed text."""

import gzip
import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import ROOT
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from stages import tokens
from stages.kernels import bpe
from stages.tokens import Tokens

EOS = "<|endoftext|>"
LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
CL100K = (
    rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|{LETTERS}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
KINDS: dict[str, dict[str, Any]] = {
    "trained": {"split": tokens._WORDS},
    "any_regex": {"split": r" ?[\p{L}\p{M}]+|\p{N}{1,3}| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"},
    "gpt2": {"split": None},
    "cl100k": {"split": CL100K},
    "llama3": {"split": CL100K, "ignore_merges": True},
    "qwen": {"split": CL100K.replace(r"\p{N}{1,3}", r"\p{N}"), "normalizer": normalizers.NFC()},
}
"""Pre-tokenizers of the field, and one that nobody has a scanner for."""

HOSTILE = [
    "", " ", "\n", "\r\n\r\n ", "\x00", "a\x00b\x00\x00", "\x7f\x80\x9f", "\ufeff", "\ufffd\uffff\U0010ffff",
    "\xa0\u3000 ", "e\u0301", "\u0301" * 40, "\u1100\u1161\u11a8", "ǅ ǆ İ ı ſ ß ẞ",
    "don't DON'T it's I'LL 'S ’s", "x's's'll", "\u200d\u200b", "👩‍👩‍👧‍👦🏳️‍🌈🇨🇳 🫨",
    "中文 and English 混在一起。", "「日本語」のテスト、カタカナ", "한국어 문장", "ทดสอบภาษาไทย", "हिन्दी में",
    "नमस्ते१२३", "نص عربي ٣٤٥", "שָׁלוֹם", "1234567890 12 ³½Ⅷ", "def f(x):\n\treturn  x  \n\n\n",
    "/usr/bin//\n/x.\n/y", "a" * 3000, "1" * 3000, " " * 3000, "\n" * 3000, "é" * 3000, "。" * 500, "ab" * 2000,
    "!?" * 1000, EOS, f"a{EOS}b", "<|end", "<tool>",
]  # fmt: skip


def real_texts() -> list[str]:
    """English Wikipedia and Tang poems."""
    with gzip.open(ROOT / "data_samples/sample_text.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def fuzzed(seed: int, count: int) -> Iterator[str]:
    """Strings of 1 to 40 pieces: words, ASCII, any code point, marks, signs, controls, blanks, emoji, CJK, specials.

    Odd ones are left out: `tokenizers` encodes them and their neighbours, and nothing would be compared.
    """
    pick = random.Random(seed)
    words = ["the", "The", "THE", "of's", "don't", "I'll", "naïve", "Straße", "İstanbul", "www.example.com", "中国",
             "的", "です", "안녕", "مرحبا", "שלום", "हिन्दी", "ไทย"]  # fmt: skip
    ranges = [(0x00, 0x20), (0x20, 0x7F), (0x7F, 0x250), (0x300, 0x370), (0x370, 0x600), (0x600, 0x1200),
              (0x2000, 0x2070), (0x2070, 0x2C00), (0x3000, 0x3100), (0x4E00, 0x9FFF), (0xAC00, 0xD7A4),
              (0xE000, 0x10000), (0x1F300, 0x1FB00), (0x10000, 0x30000), (0, 0xD800), (0xE0000, 0x110000)]  # fmt: skip
    for _ in range(count):
        pieces = []
        for _ in range(pick.randint(1, 40)):
            what = pick.random()
            if what < 0.3:
                pieces.append(pick.choice(words))
            elif what < 0.45:
                pieces.append(pick.choice((" ", "  ", "\n", "\r\n", "\t", "\xa0", "\u3000", " \n \n", "\u2028")))
            elif what < 0.55:
                pieces.append(
                    pick.choice(("'", "'s", "'LL", "/", "...", "!?", "_", "<|endoftext|>", "\u200d", "\ufe0f"))
                )
            elif what < 0.65:
                pieces.append(str(pick.randrange(10 ** pick.randint(1, 12))))
            else:
                low, high = pick.choice(ranges)
                pieces.append("".join(chr(pick.randrange(low, high)) for _ in range(pick.randint(1, 4))))
        if not tokens.odd(text := "".join(pieces)):
            yield text


def made(kind: dict[str, Any], texts: list[str], size: int = 1500) -> Tokenizer:
    """A small byte-level BPE with the parts of `kind`."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=kind.get("ignore_merges", False)))
    if kind["split"] is None:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        split = pre_tokenizers.Split(Regex(kind["split"]), "isolated")
        whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, whole])
    if "normalizer" in kind:
        tokenizer.normalizer = kind["normalizer"]
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[EOS], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


Maker = Callable[..., Path]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """The tokenizer.json of a kind, at a path of its own; `change` edits it first."""
    texts = [*real_texts(), *HOSTILE]
    cache = {name: made(kind, texts).to_str() for name, kind in KINDS.items()}

    def file(name: str, change: Callable[[dict[str, Any]], None] | None = None) -> Path:
        content = json.loads(cache[name])
        if change:
            change(content)
        path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        return path

    return file


def documents(texts: list[str | None]) -> pa.Table:
    return pa.table(
        {"id": [f"{i * 7919 % 100_003:032x}" for i in range(len(texts))], "text": pa.array(texts, pa.string())}
    )


def encoded(path: Path, texts: list[str | None], **fields: Any) -> tuple[list[list[int]], dict[str, int]]:
    """Ids by the stage, EOS included, and its tally."""
    stage = Tokens(tokenizer=path, **fields)
    docs = stage.apply(documents(texts))
    return docs["input_ids"].to_pylist(), stage.tally(docs)


def expected(path: Path, texts: list[str | None]) -> list[list[int]]:
    """Ids by `tokenizers` alone, text by text."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    end = [tokenizer.token_to_id(EOS)]
    return [item.ids + end for item in tokenizer.encode_batch([text or "" for text in texts], add_special_tokens=False)]


def assert_same(path: Path, texts: list[str]) -> None:
    """By the fast encoder, and equal."""
    ids, tally = encoded(path, texts)
    assert set(tally) == {"tokens"}, "the fast encoder was not used, this would compare nothing"
    wanted = expected(path, texts)
    different = [text for text, one, other in zip(texts, ids, wanted) if one != other]
    assert not different, f"{len(different)} of {len(texts)} differ, as {different[0]!r}"
    assert tally["tokens"] == sum(map(len, wanted))


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_tokenizers_on_real_and_hostile_text(kind: str, make: Maker) -> None:
    assert_same(make(kind), [*real_texts(), *HOSTILE])


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_tokenizers_on_fuzzed_text(kind: str, make: Maker) -> None:
    assert_same(make(kind), list(fuzzed(7, 10_000 // len(KINDS) + 1)))


def test_the_fast_encoder_is_made_anew_and_gives_the_same(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(next(iter(KINDS)))
    monkeypatch.setattr(tokens, "_RENEWED", 2)
    encoders = []
    for _ in range(4):
        assert_same(path, real_texts()[:5])
        encoders.append(tokens.fast(path))
    assert len(set(map(id, encoders))) >= 2, "all are held here, so no two have one address"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_tokenizers_on_100_000_fuzzed_texts(kind: str, make: Maker) -> None:
    assert_same(make(kind), list(fuzzed(11, 100_000)))


def split_shown(path: Path) -> tuple[Tokenizer, Any]:
    """Both encoders with a vocabulary in which every split shows."""
    content = json.dumps({**json.loads(path.read_text()), "model": tokens._showing(), "added_tokens": []})
    return Tokenizer.from_str(content), tokens._fast(content)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_code_point_is_split_as_by_tokenizers(kind: str, make: Maker) -> None:
    tokenizer, encoder = split_shown(make(kind))
    chars = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    for start in range(0, len(chars), 10_000):
        texts = [f"{tokens.around(c)} \n {c}{c}  {c}  1{c}'S{c}/" for c in chars[start : start + 10_000]]
        texts = [text for text in texts if not tokens.odd(text)]
        one, other = tokens.by_fast(encoder, texts), tokens.by_hf(tokenizer, texts)
        assert np.array_equal(one.offsets, other.offsets), f"in U+{start:04X}..."
        assert np.array_equal(one.ids, other.ids), f"in U+{start:04X}..."


@pytest.mark.parametrize(
    ("kind", "text"), [("any_regex", tokens.around("\u180e")), ("cl100k", "a'\u017fa"), ("trained", "a'\u017fa")]
)
def test_odd_text_is_left_to_tokenizers(kind: str, text: str, make: Maker) -> None:
    path = make(kind)
    tokenizer, encoder = split_shown(path)
    assert not tokens._agree(tokenizer, encoder, [text]), "they agree now: it needs no special treatment any more"
    one, other = tokens._by_either(tokenizer, encoder, [text, "b"]), tokens.by_hf(tokenizer, [text, "b"])
    assert one.ids.tolist() == other.ids.tolist()
    assert encoded(path, [text, "b"])[0] == expected(path, [text, "b"])


@pytest.mark.parametrize("kind", ["trained", "qwen"])
def test_what_special_tokens_are_called_is_text(kind: str, make: Maker) -> None:
    def add(content: dict[str, Any]) -> None:
        top = 1 + max(content["model"]["vocab"].values())
        tokenizer = Tokenizer.from_str(json.dumps(content))
        tokenizer.add_special_tokens(["<|im_start|>"])
        tokenizer.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("<gap>", lstrip=True, rstrip=True)])
        content["added_tokens"] = json.loads(tokenizer.to_str())["added_tokens"]
        assert content["added_tokens"][1]["id"] == top

    path = make(kind, add)
    texts = [
        EOS,
        f"a {EOS} b",
        "<|im_start|>user",
        "call <tool>now</tool>",
        "<tool>",
        "x <gap>  y",
        " <|im_start|> <gap>",
    ]
    assert_same(path, texts)
    ids, _ = encoded(path, texts)
    tokenizer = Tokenizer.from_file(str(path))
    special = {tokenizer.token_to_id(EOS), tokenizer.token_to_id("<|im_start|>")}
    assert not any(special & set(document[:-1]) for document in ids)
    assert tokenizer.token_to_id("<tool>") in ids[4], "what is no special token is a token"


def test_cutting_padding_and_chance_are_left_out(make: Maker) -> None:
    def spoil(content: dict[str, Any]) -> None:
        content["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
        content["padding"] = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                              "pad_type_id": 0, "pad_token": EOS}  # fmt: skip
        content["model"]["dropout"] = 0.5

    texts = real_texts()
    assert encoded(make("gpt2", spoil), texts)[0] == expected(make("gpt2"), texts)


def test_encoder_hf_gives_the_same_and_says_so(make: Maker) -> None:
    path, texts = make("trained"), [*HOSTILE, None]
    ids, tally = encoded(path, texts, encoder="hf")
    assert ids == encoded(path, texts)[0] == expected(path, texts)
    assert tally["encoder_hf"] == len(texts)


@pytest.mark.parametrize(
    "part",
    [
        {"normalizer": {"type": "NFKC"}},
        {"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}},
        {"pre_tokenizer": None},
    ],
)
def test_a_tokenizer_the_fast_library_is_not_for_goes_to_tokenizers(part: dict[str, Any], make: Maker) -> None:
    path, texts = make("trained", lambda content: content.update(part)), real_texts()
    ids, tally = encoded(path, texts)
    assert ids == expected(path, texts)
    assert tally["encoder_hf"] == len(texts)


def test_without_the_fast_library_all_goes_to_tokenizers(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastokens", None)
    path, texts = make("trained"), real_texts()
    ids, tally = encoded(path, texts)
    assert ids == expected(path, texts)
    assert tally["encoder_hf"] == len(texts)


class Liar:
    """A fast encoder that is wrong, or gives up, on some texts."""

    def __init__(self, honest: Any, on: Callable[[str], bool], error: bool) -> None:
        self.honest, self.on, self.error = honest, on, error

    def encode_batch_flat(self, texts: list[str], **options: bool) -> tuple[bytes, bytes]:
        ids, offsets = self.honest.encode_batch_flat(texts, **options)
        wrong = [row for row, text in enumerate(texts) if self.on(text)]
        if wrong and self.error:
            raise ValueError("match limit exceeded")
        spoiled, starts = np.frombuffer(ids, np.uint32).copy(), np.frombuffer(offsets, np.int64)
        for row in wrong:
            spoiled[starts[row] : starts[row] + 1] += 1
        return spoiled.tobytes(), offsets


def lying(monkeypatch: pytest.MonkeyPatch, on: Callable[[str], bool], error: bool) -> None:
    honest = tokens._fast
    monkeypatch.setattr(tokens, "_fast", lambda content: Liar(honest(content), on, error))


LIES = {
    "on the probe": lambda text: text == tokens._probe()[100],
    "on what is in the sample": lambda text: "太宗" in text,
}


@pytest.mark.parametrize("error", [False, True])
@pytest.mark.parametrize("lie", LIES)
def test_a_difference_sends_the_batch_to_tokenizers_and_is_counted(
    lie: str, error: bool, make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make("trained")
    texts = [text for text in real_texts() if "太宗" in text] if "sample" in lie else real_texts()
    lying(monkeypatch, LIES[lie], error)
    ids, tally = encoded(path, texts)
    assert ids == expected(path, texts)
    assert tally["encoder_fallback"] == len(texts) > 0


def test_giving_up_outside_the_sample_is_a_difference_too(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    path, texts = make("trained"), [*real_texts(), "give up here"]
    lying(monkeypatch, lambda text: text == "give up here", error=True)
    ids, tally = encoded(path, texts)
    assert ids == expected(path, texts)
    assert tally["encoder_fallback"] == len(texts)


def test_the_sample_is_small_and_keyed() -> None:
    docs = documents([f"{i} {'word ' * 2000}" for i in range(1000)])
    windows = tokens._windows(docs)
    assert len(windows) == 1 + 10_000_000 // tokens._PER_WINDOW
    assert all(len(window) == tokens._WINDOW for window in windows)
    backwards = docs.take(list(range(999, -1, -1)))
    assert sorted(windows) == sorted(tokens._windows(backwards))
    assert tokens._windows(docs.slice(0, 0)) == []
    assert tokens._windows(documents([None, ""])) == [""]


def test_ids_are_as_narrow_as_the_vocabulary(make: Maker) -> None:
    def widen(content: dict[str, Any]) -> None:
        vocabulary = content["model"]["vocab"]
        last = max(vocabulary, key=vocabulary.get)
        vocabulary[last] = 70_000  # with a gap below, as in cl100k_base

    for path, kind, size in ((make("gpt2"), pa.uint16(), 1500), (make("gpt2", widen), pa.uint32(), 70_001)):
        stage = Tokens(tokenizer=path)
        docs = stage.apply(documents(real_texts()))
        assert docs.schema.field("input_ids").type == stage.columns()["input_ids"] == pa.list_(kind)
        assert docs.schema.field("input_ids").metadata[b"vocab_size"] == str(size).encode()
        assert docs["input_ids"].to_pylist() == expected(path, real_texts())


@pytest.mark.parametrize(("size", "kind"), [(1 << 16, pa.uint16()), ((1 << 16) + 1, pa.uint32())])
def test_what_was_learned_says_how_wide_ids_are(size: int, kind: pa.DataType, make: Maker, tmp_path: Path) -> None:
    stage = Tokens(train={"vocab_size": size})
    make("trained").rename(tmp_path / "fit.tokenizer.json")
    fitted = stage.fitted(tmp_path / "fit")
    assert stage.unfitted()
    assert not fitted.unfitted()
    assert stage.columns()["input_ids"] == pa.list_(kind)
    assert fitted.apply(documents(["a", None])).schema.field("input_ids").type == fitted.columns()["input_ids"]


def test_the_kernel_ends_every_document() -> None:
    pick = random.Random(3)
    for dtype in ("uint16", "uint32"):
        documents_ = [[pick.randrange(60_000) for _ in range(pick.choice((0, 1, 5)))] for _ in range(50)]
        ids = np.array([i for ids in documents_ for i in ids], np.uint32)
        offsets = np.cumsum([0, *map(len, documents_)])
        out = bpe.terminated(ids, offsets, 9, dtype)
        assert out.dtype == dtype
        assert out.tolist() == [i for ids in documents_ for i in [*ids, 9]]
    assert bpe.terminated(np.zeros(0, np.uint32), np.zeros(1, np.int64), 9, "uint16").tolist() == []
