"""Line ends, blank lines, NULs and byte-order marks: what `collect` makes alike in every format, and what it leaves."""

import gzip
import json
import re
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline import schema
from stages.collect import Collect
from stages.extract import tidy
from stages.kernels import whitespace
from stages.readers.rows import document_id, regular


def rewritten(texts: list[str]) -> list[str]:
    """By the kernels: rows that need nothing are passed through, the others rewritten."""
    data, offsets = schema.text_buffers(pa.array(texts, pa.string()))
    data, offsets, _ = whitespace.regular(data, offsets, whitespace.irregular(data, offsets))
    return [data[start:end].tobytes().decode() for start, end in zip(offsets[:-1], offsets[1:], strict=True)]


def twin(text: str) -> str:
    text = re.sub(whitespace.LINE_ENDS, "\n", text.replace("\0", "").lstrip("\ufeff"))
    return re.sub(rf"(?m)^[{whitespace.BLANK}]+$", "", text)


def table(texts: list[str], mime: str | None = "text/plain") -> pa.Table:
    return pa.table({"text": pa.array(texts, pa.string()), "mime": pa.array([mime] * len(texts), pa.string())})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one.\r\n\r\ntwo.\r\n", "one.\n\ntwo.\n"),
        ("one.\rtwo.\r\rthree.", "one.\ntwo.\n\nthree."),
        ("one.\u2028two.\u2029three.", "one.\ntwo.\nthree."),
        ("第一段。\n\u3000\n第二段。\n \t\xa0\n第三段。", "第一段。\n\n第二段。\n\n第三段。"),
        ("one.\n\u200b\ntwo.\n\ufeff\nthree.\n\u2060\xad\u2800\n\u3164", "one.\n\ntwo.\n\nthree.\n\n"),
        ("\n\f\nPage 2\f", "\n\nPage 2\f"),
        ("\ufeff\ufeffone\0.\0", "one."),
        ("\0\ufefftwo\r\0\nthree", "two\nthree"),
    ],
)
def test_made_regular(text: str, expected: str) -> None:
    assert regular(table([text]))["text"].to_pylist() == [expected]
    assert twin(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "def f():\n    if x:\n\treturn 1  \n\n\fclass A:\n        pass\n",  # indentation, trailing blanks, a page break
        "\u3000\u3000段首空两格。\n\n  two  ",
        "می\u200cخواهم \u200fا\u200e e\u0301 👩\u200d🚀 ❤\ufe0f",
        "an ellipsis of windows-1252\x85 and half a letter Ã\x85",
        "a mark \ufeff in the middle, a tab\tand a vertical\vone",
    ],
)
def test_left_alone(text: str) -> None:
    docs = table([text, "", "plain"])
    assert regular(docs) is docs


def test_markup_is_left_alone() -> None:
    docs = table(["<pre>\r\n \r\n</pre>\0"], "text/html; charset=utf-8")
    assert regular(docs) is docs
    assert regular(table(["a\r\nb"], None))["text"].to_pylist() == ["a\nb"]


def test_what_has_nothing_left_is_empty_and_a_reason_given_before_stays() -> None:
    docs = schema.mark(
        table(["\0\0", "\ufeff", " \n\u200b", "\0text", "", "\r"]), [None, None, None, None, "too_large", "bad_row"]
    )
    out = regular(docs)
    assert out["text"].to_pylist() == ["", "", "", "text", "", ""]
    assert out["drop"].to_pylist() == ["empty", "empty", "empty", None, "too_large", "bad_row"]
    assert out.schema == docs.schema


PIECES = st.sampled_from(
    ["\r", "\n", "\r\n", "\0", "\ufeff", "\u2028", "\u2029", " ", "\t", "\xa0", "\u3000", "\u200b", "\f", "\x85",
     "\u2060", "\u2027", "a", "é", "汉", "🚀", "."]
)  # fmt: skip


@settings(deadline=None, max_examples=500)  # the first call compiles
@example(["\r\0\n", "\ufeff", "\u2800", "a\u2028"])
@given(st.lists(st.lists(PIECES, max_size=10).map("".join) | st.text(max_size=20), max_size=5))
def test_the_kernels_do_what_their_twin_does_and_nothing_twice(texts: list[str]) -> None:
    once = rewritten(texts)
    assert once == [twin(text) for text in texts]
    data, offsets = schema.text_buffers(pa.array(once, pa.string()))
    assert not whitespace.irregular(data, offsets).any()


@given(st.lists(PIECES, max_size=20).map("".join))
def test_an_extracted_text_is_regular_already(text: str) -> None:
    clean = tidy("a" + text + "a")
    assert twin(clean) == clean


def test_every_blank_character_shows_nothing() -> None:
    shown = {"\u2800", "\u034f", "\u115f", "\u1160", "\u17b4", "\u17b5", "\u3164", "\uffa0"}
    for char in set(whitespace.BLANK) - shown:
        assert unicodedata.category(char) in ("Cc", "Cf", "Zs", "Mn", "Cn"), hex(ord(char))
    missing = [
        code
        for code in range(0x10000)
        if (chr(code).isspace() or unicodedata.category(chr(code)) == "Zs")
        and chr(code) not in whitespace.BLANK + "\r\n\u2028\u2029"
    ]
    assert not missing


def test_every_format_is_collected_alike(tmp_path: Path) -> None:
    lines = ["First line of it.", "", "  Indented, second.", "", "Third."]
    text = "\ufeff" + "\r\n".join(lines).replace("\r\n\r\n", "\r\n\u3000\r\n")
    (tmp_path / "a.txt").write_bytes(text.encode())
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": text + "\0"}) + "\n")
    (tmp_path / "c.csv").write_bytes(b'text,n\r\n"' + text.encode() + b'",1\r\n')
    pq.write_table(pa.table({"text": [text + "\0"]}), tmp_path / "d.parquet")
    head = "WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: http://a.example/\r\nContent-Type: text/plain"
    wet = f"{head}\r\nContent-Length: {len(text.encode())}\r\n\r\n{text}\r\n\r\n".encode()
    (tmp_path / "e.warc.wet.gz").write_bytes(gzip.compress(wet))
    collect = Collect(paths=[str(tmp_path)])
    rows = [row for split in collect.inputs() for docs in collect.read(split) for row in docs.to_pylist()]
    assert [row["drop"] for row in rows] == [None] * 5
    assert {row["text"] for row in rows} == {"\n".join(lines)}
    assert rows[1]["id"] == document_id(f"{tmp_path.name}/b.jsonl", "0")
