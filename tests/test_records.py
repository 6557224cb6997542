"""Records as people really have them: JSON in all its forms, CSV and TSV with stray quotation marks, nested fields."""

import bz2
import codecs
import gzip
import json
import lzma
import sys
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.collect import Collect
from stages.readers import compression, delimited, jsonstream, paths, textstream

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import fuzz_files

TEXTS = ["The bell of the old ferry rings twice.", "渡船的钟敲了两下。", 'He said "no", twice; naïve {as} [ever].']


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows(path: Path, **fields) -> list[dict]:
    source = Collect(paths=[str(path)], **fields)
    return [row for split in source.inputs() for table in source.read(split) for row in table.to_pylist()]


def texts(path: Path, **fields) -> list[str]:
    return [row["text"] for row in rows(path, **fields) if row["drop"] is None]


def reasons(path: Path, **fields) -> list[str | None]:
    return [row["drop"] for row in rows(path, **fields)]


# JSON


def forms(records: list[dict]) -> dict[str, str]:
    """The same records in each layout that is met."""
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    pretty = [json.dumps(record, ensure_ascii=False, indent=2) for record in records]
    return {
        "list": "[" + ", ".join(lines) + "]",
        "list over lines": json.dumps(records, indent=1),
        "list, a record a line": "[\n" + ",\n".join(lines) + "\n]\n",
        "records over lines": "\n".join(pretty),
        "records in a row": "".join(lines),
        "rfc 7464": "".join(f"\x1e{line}\n" for line in lines),
        "with a mark": "\ufeff" + "\n".join(lines),
        "two lists": f"[{lines[0]}]\n[" + ",".join(lines[1:]) + "]",
    }


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.ndjson"])
@pytest.mark.parametrize("form", forms([{}, {}]))
def test_each_layout_of_json_gives_its_records(tmp_path, name, form):
    records = [
        {"text": text, "url": f"http://ferry.example/{at}", "more": {"n": [at]}} for at, text in enumerate(TEXTS)
    ]
    found = rows(write(tmp_path / name, forms(records)[form]))
    assert [(row["text"], row["url"]) for row in found] == [(record["text"], record["url"]) for record in records]
    assert [json.loads(row["metadata"]) for row in found] == [{"more": {"n": [at]}} for at in range(3)]
    assert len({row["id"] for row in found}) == 3


@pytest.mark.parametrize(
    "charset", ["utf-8-sig", "utf-16-le", "utf-16-be", "utf-16", "utf-32", "utf-32-le", "utf-32-be", "gb18030"]
)
@pytest.mark.parametrize("form", ["list", "lines", "csv", "tsv"])
def test_each_charset_of_records(tmp_path, charset, form):
    texts_ = [
        "渡船的钟敲了两下，我们就知道风要来了，大家都把窗子关上。",
        "河对岸的灯还亮着，像一颗不肯睡的星星，在水里慢慢地摇。",
    ]
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts_)
    table = "".join(f"{text}\t{at}\n" for at, text in enumerate(texts_))
    made = {"list": json.dumps([{"text": text} for text in texts_], ensure_ascii=False), "lines": lines,
            "tsv": "text\tn\n" + table, "csv": "text,n\n" + table.replace("\t", ",")}[form]  # fmt: skip
    path = write(tmp_path / f"a.{'jsonl' if form in ('list', 'lines') else form}", made.encode(charset))
    assert texts(path) == texts_


def test_json_lines_stay_json_lines(tmp_path):
    """The layout does not depend on a damaged first line, and ids are those of lines."""
    good = b'{"text": "a good line"}\n'
    for first in (b'{"text": "cut\n', b"[1, 2\n", b"nonsense\n", b'{"text": "x"}\n'):
        found = rows(write(tmp_path / "a.jsonl", first + good * 3))
        assert [row["text"] for row in found][-3:] == ["a good line"] * 3
        if first[:1] == b"{":
            assert [row["offset"] for row in found][1:] == [len(first) + len(good) * at for at in range(3)]


def test_a_line_that_is_json_to_others(tmp_path):
    lines = [
        '{"text": "a tab\t and a bell \x07"}',
        '{"text": "one"} {"text": "two"}',
        '{"text": "comma"},',
        '{"text": "a"} 5',
        '{"text": "a"} nonsense',
    ]
    found = rows(write(tmp_path / "a.jsonl", "\n".join(lines)))
    assert [row["drop"] for row in found] == [None, None, None, None, "bad_json", "bad_json"]
    assert [row["text"] for row in found[1:4]] == ["one", "two", "comma"]
    assert len({row["id"] for row in found}) == 6


def test_what_is_broken_in_a_list_costs_itself(tmp_path):
    good = [f'{{"text": "good number {at}", "meta": {{"at": {at}}}}}' for at in range(4)]
    for broken in ('{"text": "no end', '{"text": "a" "b"}', "5", '"text"', '{"text": {"deep": [}', "nonsense", "[" * 9):
        for layout in ("[%s]", "[\n%s\n]"):
            parts = [*good[:2], broken, *good[2:]]
            found = texts(write(tmp_path / "a.json", layout % (",\n" if "\n" in layout else ", ").join(parts)))
            assert found == [f"good number {at}" for at in range(4)], broken
    cut = "[" + ", ".join(good)
    assert reasons(write(tmp_path / "b.json", cut[:-9])) == [None, None, None, "bad_json"]


def test_a_list_is_never_held_whole(tmp_path):
    path = tmp_path / "a.json"
    with path.open("w") as file:
        file.write('[{"text": "first"}')
        for at in range(40):
            file.write(',\n{"text": "' + f"{at} " + "x" * (1 << 20) + '"}')
        file.write(', {"text": "' + "y" * (20 << 20) + '"}, {"text": "last"}]')
    source = Collect(paths=[str(path)], max_document_bytes=2 << 20)
    tracemalloc.start()
    found = [row["drop"] for table in source.read(source.inputs()[0]) for row in table.select(["drop"]).to_pylist()]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == [None] * 41 + ["too_large", None]
    assert peak < 160 << 20  # a batch of 32 MB as Python objects and as a table, not the file


@given(st.lists(st.dictionaries(st.text(max_size=4), st.none() | st.text(max_size=9), min_size=1), max_size=8),
       st.integers(1, 40), st.sampled_from(["list", "list over lines", "records in a row"]))  # fmt: skip
@settings(max_examples=100)
def test_values_are_those_of_json_however_chunks_fall(records, step, form):
    made = {"list": json.dumps(records), "list over lines": json.dumps(records, indent=1),
            "records in a row": "".join(map(json.dumps, records))}[form]  # fmt: skip
    chunks = (made[at : at + step] for at in range(0, len(made), step))
    assert [value.content for value in jsonstream.values(chunks, 10_000)] == records


# CSV and TSV


def table(lines: list[str]) -> str:
    return "text,url\n" + "".join(f"{line}\n" for line in lines)


@pytest.mark.parametrize("place", [0, 7, 19])
@pytest.mark.parametrize(
    "bad", ['"never closed,http://b', 'fine,"never closed', '"a ""doubled"" one,http://b', '"closed"x,http://b']
)
def test_a_quote_that_is_not_closed_costs_its_line(tmp_path, place, bad):
    lines = [f"row {at} of many,http://a.example/{at}" for at in range(20)]
    lines[3] = '"a field\nof two lines, ""quoted""",http://a.example/3'
    lines.insert(place, bad)
    found = rows(write(tmp_path / "a.csv", table(lines)))
    assert [row["url"] for row in found if row["drop"] is None] == [f"http://a.example/{at}" for at in range(20)]
    assert [row["drop"] for row in found if row["drop"]] == ["bad_row"]
    assert next(row["text"] for row in found if row["url"] == "http://a.example/3") == 'a field\nof two lines, "quoted"'
    assert next(row["drop_value"] for row in found if row["drop"]) == place + 2 + (place > 3)


def test_quotes_that_are_never_closed_do_not_cost_time(tmp_path):
    """Each of them would be searched to the limit."""
    lines = ['"""x,y'] * 60_000
    found = reasons(write(tmp_path / "a.csv", table([*lines, "last,z"])), max_document_bytes=200_000)
    assert found[-1] is None
    assert len(found) == 60_001


def test_a_field_larger_than_the_limit_is_one_row(tmp_path):
    large = '"' + "a line without a comma\n" * 500 + '"'
    found = rows(write(tmp_path / "a.csv", table([f"{large},http://a", "small,http://b"])), max_document_bytes=2000)
    assert [(row["drop"], row["text"]) for row in found] == [("too_large", ""), (None, "small")]
    assert found[0]["drop_value"] == len(large) + len(",http://a\n")
    unclosed = ['"never closed,http://a', *(f"row {at},http://b" for at in range(1000))]
    assert reasons(write(tmp_path / "b.csv", table(unclosed)), max_document_bytes=2000) == ["bad_row", *[None] * 1000]


def test_quotes_in_tsv_are_text_unless_said(tmp_path):
    content = 'text\turl\n"Halt! he cried\thttp://a\nthe 5" gun\thttp://b\n"quoted ""so"""\thttp://c\n'
    path = write(tmp_path / "a.tsv", content)
    assert texts(path) == ['"Halt! he cried', 'the 5" gun', '"quoted ""so"""']
    assert texts(path, quotes=True) == ['the 5" gun', 'quoted "so"']
    assert texts(write(tmp_path / "a.csv", content.replace("\t", ",")), quotes=False)[0] == '"Halt! he cried'


def test_columns_of_one_name_and_nuls(tmp_path):
    assert reasons(write(tmp_path / "a.csv", "text,text\na,b\n")) == ["repeated_column"]
    (row,) = rows(write(tmp_path / "b.csv", "text,n,n\na\0b,1,2\n"))
    assert (row["text"], json.loads(row["metadata"])) == ("ab", {"n": "1", "n_2": "2"})
    assert reasons(write(tmp_path / "c.csv", "\n\n\n")) == ["no_records"]
    assert reasons(write(tmp_path / "d.csv", "text,url\n")) == ["no_records"]


# fields in fields


NESTED = [
    {"doc": {"text": text, "pages": at}, "meta": {"url": f"http://a/{at}", "lang": None}}
    for at, text in enumerate(TEXTS)
]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet"])
def test_fields_by_their_path(tmp_path, name):
    path = tmp_path / name
    if name == "a.parquet":
        pq.write_table(pa.Table.from_pylist(NESTED), path)
    else:
        write(path, "\n".join(json.dumps(record, indent=1 if name == "a.json" else None) for record in NESTED))
    found = rows(path, text_field="doc.text", url_field="meta.url", keep_fields=["doc.pages", "meta.lang"])
    assert [(row["text"], row["url"], row["meta_doc.pages"]) for row in found] == [
        (text, f"http://a/{at}", str(at)) for at, text in enumerate(TEXTS)
    ]
    assert {row["metadata"] for row in found} == {None}
    assert [json.loads(row["metadata"]) for row in rows(path, text_field="doc.text")][1] == {
        "doc": {"pages": 1}, "meta": {"url": "http://a/1", "lang": None},
    }  # fmt: skip


FILES = [{"repo": "a", "files": [{"path": "x", "content": TEXTS[0]}, {"path": "y", "content": TEXTS[1]}]},
         {"repo": "b", "files": []}, {"repo": "c", "files": [{"path": "z", "content": TEXTS[2]}]}]  # fmt: skip


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet"])
def test_a_document_from_each_item_of_a_list(tmp_path, name):
    path = tmp_path / name
    if name == "a.parquet":
        pq.write_table(pa.Table.from_pylist(FILES), path)
    else:
        write(path, json.dumps(FILES) if name == "a.json" else "\n".join(map(json.dumps, FILES)))
    found = rows(path, text_field="files[].content", id_field="files[].path", keep_fields=["repo"])
    assert [(row["text"], row["source_id"], row["meta_repo"], row["drop"]) for row in found] == [
        (TEXTS[0], "x", "a", None),
        (TEXTS[1], "y", "a", None),
        ("", None, "b", "missing_field"),
        (TEXTS[2], "z", "c", None),
    ]
    assert len({row["id"] for row in found}) == 4


def test_a_list_of_texts_and_lists_that_cannot_be_followed(tmp_path):
    path = write(tmp_path / "a.jsonl", json.dumps({"n": 1, "texts": TEXTS}))
    assert texts(path, text_field="texts[]") == TEXTS
    for fields in ({"text_field": "a[].b[].c"}, {"text_field": "a[].b", "url_field": "c[].d"}, {"url_field": "c[].d"}):
        with pytest.raises(ValueError, match="only the list that the text is in"):
            Collect(paths=["x"], **fields)


def test_a_name_with_dots_comes_before_a_path():
    record = {"a.b": 1, "a": {"b": 2, "c": 3}}
    assert paths.value(record, "a.b") == 1
    assert paths.value(record, "a.c") == 3
    assert paths.without(record, ["a.b"]) == {"a": {"b": 2, "c": 3}}
    assert paths.without(record, ["a.c", "a.x.y"]) == {"a.b": 1, "a": {"b": 2}}
    assert record == {"a.b": 1, "a": {"b": 2, "c": 3}}


# pages in records

PAGE = "<!DOCTYPE html>\n<html><head><title>t</title></head><body><p>The ferry.</p></body></html>"


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_a_page_in_a_field_is_html(tmp_path, name):
    contents = [PAGE, "  \n" + PAGE, "<b>no page", "text"]
    path = tmp_path / name
    if name == "a.parquet":
        pq.write_table(pa.table({"text": contents}), path)
    elif name == "a.csv":
        write(path, table([f'"{text}",u' for text in contents]))
    else:
        write(path, "\n".join(json.dumps({"text": text}) for text in contents))
    assert [row["mime"] for row in rows(path)] == ["text/html", "text/html", "text/plain", "text/plain"]
    assert {row["mime"] for row in rows(path, html_field="text")} == {"text/html"}
    with pytest.raises(ValueError, match="keep one of them"):
        Collect(paths=["x"], text_field="a", html_field="b")


# Parquet


def broken_strings(*values: bytes) -> pa.Array:
    raw = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())


def test_parquet_columns_that_are_not_utf8(tmp_path):
    bad = broken_strings(b"caf\xe9", b"2")
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"text": ["a", "b"], "id": bad, "other": bad, "in": pa.StructArray.from_arrays([bad], ["x"])}), path
    )
    found = rows(path, id_field="id")
    assert [(row["text"], row["source_id"]) for row in found] == [("a", "caf\ufffd"), ("b", "2")]
    assert json.loads(found[0]["metadata"]) == {"other": "caf\ufffd", "in": {"x": "caf\ufffd"}}


def test_parquet_binary_text(tmp_path):
    path = tmp_path / "a.parquet"
    contents = [
        TEXTS[1].encode(),
        PAGE.replace("ferry", "渡船的钟敲了两下我们就知道风要来了").encode("gb18030"),
        None,
        b"\x01\x02\x03\xff" * 9,
    ]
    for kind in (pa.binary(), pa.large_binary()):
        pq.write_table(pa.table({"text": pa.array(contents, kind)}), path)
        found = rows(path)
        assert [row["drop"] for row in found] == [None, None, "missing_field", "undecodable"]
        assert (found[0]["text"], "渡船的钟" in found[1]["text"], found[1]["mime"]) == (TEXTS[1], True, "text/html")


def test_every_byte_of_a_parquet_footer(tmp_path):
    """A wrong byte costs the file or a stretch of it, whatever pyarrow says; never another file."""
    write(tmp_path / "good.jsonl", '{"text": "good"}\n')
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": TEXTS, "id": ["1", "2", "3"]}), path, row_group_size=2)
    whole = path.read_bytes()
    length = int.from_bytes(whole[-8:-4], "little") + 8
    for at in range(len(whole) - length, len(whole), 7):
        harmed = bytearray(whole)
        harmed[at] ^= 0xFF
        found = rows(write(path, bytes(harmed)).parent)
        assert [row["text"] for row in found if row["source"].endswith("good.jsonl")] == ["good"]
        assert any(row["source"].endswith("a.parquet") for row in found), at


def test_parquet_columns_of_one_name(tmp_path):
    path = tmp_path / "a.parquet"
    values = pa.array(["a", "b"])
    pq.write_table(pa.Table.from_arrays([values, values], names=["text", "text"]), path)
    assert reasons(path) == ["repeated_column"]
    pq.write_table(pa.Table.from_arrays([values, values, values], names=["text", "n", "n"]), path)
    assert json.loads(rows(path)[1]["metadata"]) == {"n": "b", "n_2": "b"}


# files


def test_a_column_that_is_missing_in_one_table_and_in_all(tmp_path):
    write(tmp_path / "a.csv", "text,url\nx,u\n")
    write(tmp_path / "b.csv", "body\nx\n")
    pq.write_table(pa.table({"text": ["y"]}), tmp_path / "c.parquet")
    assert reasons(tmp_path) == [None, "no_text_field", None]
    assert [row["url"] for row in rows(tmp_path, url_field="url")] == ["u", None, None]
    with pytest.raises(
        ValueError, match=r"a\.csv: no column 'x'; its columns are 'text', 'url'; nor has any of the 2 other"
    ):
        rows(tmp_path, text_field="x")
    write(tmp_path / "d.txt", "a text has no columns")
    assert reasons(tmp_path, text_field="x") == ["no_text_field"] * 3 + [None]


def test_links_are_followed_once_and_never_in_a_circle(tmp_path):
    (tmp_path / "data" / "real").mkdir(parents=True)
    (tmp_path / "far").mkdir()
    write(tmp_path / "data" / "real" / "a.txt", "a")
    write(tmp_path / "far" / "b.txt", "b")
    write(tmp_path / "outside.txt", "not below the folder")
    for name, target in {"alias": "real", "far": "../far", "up": "..", "self": ".", "real/loop": ".."}.items():
        (tmp_path / "data" / name).symlink_to(target)
    for path in (tmp_path / "data", tmp_path / "data" / "**", tmp_path / "data" / "**" / "*.txt"):
        assert [(row["source"], row["text"]) for row in rows(path)] == [
            ("data/far/b.txt", "b"),
            ("data/real/a.txt", "a"),
        ]


def test_two_names_that_look_alike_are_two(tmp_path):
    write(tmp_path / "%D6.txt", "one")
    with open(bytes(tmp_path) + b"/\xd6.txt", "w") as file:
        file.write("two")
    found = rows(tmp_path)
    assert sorted(row["text"] for row in found) == ["one", "two"]
    assert len({row["source"] for row in found}) == len({row["id"] for row in found}) == 2


@pytest.mark.parametrize("pack", [zstandard.compress, gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.csv"])
def test_a_bomb_is_not_read_on(tmp_path, monkeypatch, pack, name):
    monkeypatch.setattr(compression, "_BOMB_BYTES", 1 << 20)
    monkeypatch.setattr(compression, "_BOMB_RATIO", 5)
    head = {"a.csv": b"text\n", "a.json": b"[\n", "a.jsonl": b"", "a.txt": b""}[name]
    for run in (b"\n", b"x"):
        path = write(tmp_path / name, pack(head + run * (12 << 20)))
        found = rows(path, max_document_bytes=30 << 20)
        assert [row["drop"] for row in found] == ["too_large"]
        assert found[0]["drop_value"] < 4 << 20


def test_split_bytes_has_a_lower_bound():
    with pytest.raises(ValueError, match="greater than or equal to 1024"):
        Collect(paths=["x"], split_bytes=1)


def test_utf16_is_told_from_other_text():
    assert textstream.wide("text".encode("utf-16-be")) == "utf-16be"
    assert textstream.wide("正文,网址\n一些文字,地址\n".encode("utf-16-le") * 9) == "utf-16le"
    assert textstream.wide(codecs.BOM_UTF8 + b"text") is None
    assert textstream.wide(b"a\0 plain text with a NUL \0 or \0 two") is None
    assert textstream.wide(TEXTS[1].encode() * 9) is None


def test_an_error_of_a_reader_names_the_file(tmp_path, monkeypatch):
    path = write(tmp_path / "a.csv", "text\nx\n")
    source = Collect(paths=[str(path)])
    splits = source.inputs()
    monkeypatch.setattr(delimited, "_from_cells", lambda *_: 1 / 0)
    with pytest.raises(ValueError, match=r"a\.csv: ZeroDivisionError"):
        list(source.read(splits[0]))


@pytest.mark.parametrize("kind", [*fuzz_files.KINDS, "parquet"])
def test_damaged_files_cost_at_most_themselves(tmp_path, kind):
    assert fuzz_files.check(7, kind, 12, tmp_path).problems == ()
