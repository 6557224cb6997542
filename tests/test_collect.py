"""Files in, rows out: what every format, compression, naming and damage comes to."""

import bz2
import gzip
import json
import lzma
import random
import re
import shutil
import struct
import tracemalloc
import zlib
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import schema
from stages.collect import Collect
from stages.readers import http
from stages.readers.records import lines

SAMPLES = Path(__file__).parent.parent / "data_samples"
WARC = SAMPLES / "sample.warc.gz"


def collect(*paths, split_bytes=None, **fields):
    """The stage; `split_bytes` may be smaller than a configuration can say."""
    source = Collect(paths=[str(path) for path in paths], **fields)
    return source.model_copy(update={"split_bytes": split_bytes} if split_bytes else {})


def rows(*paths, **fields):
    """Every row of these inputs, and a check of the columns on the way."""
    source = collect(*paths, **fields)
    wanted = {**schema.DOCUMENT, **source.columns(), **schema.DROP}
    found = []
    for split in source.inputs():
        for table in source.read(split):
            assert table.schema == pa.schema(list(wanted.items()))
            table.validate(full=True)
            found += table.to_pylist()
    assert all((row["text"] == "") == (row["drop"] is not None) for row in found)
    assert len({row["id"] for row in found}) == len(found)
    return found


def reasons(*paths, **fields):
    return Counter(row["drop"] for row in rows(*paths, **fields))


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def jsonl(*records) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


@pytest.fixture(scope="module")
def sample():
    return rows(WARC)


@pytest.fixture(scope="module")
def members():
    """(start, end) in the file of every gzip member of the sample, found with zlib alone."""
    data, found, place = WARC.read_bytes(), [], 0
    while place < len(data):
        member = zlib.decompressobj(31)
        member.decompress(data[place:])
        end = len(data) - len(member.unused_data)
        found.append((place, end))
        place = end
    return found


# WARC


def test_every_response_of_the_sample_has_its_fate(sample):
    fates = {row["url"]: (row["drop"], row["drop_value"]) for row in sample}
    assert len(sample) == 187
    assert Counter(row["drop"] for row in sample) == {None: 182, "http_status": 2, "not_html": 2, "empty": 1}
    noise = {url.split("/")[-1]: fate for url, fate in fates.items() if "noise.example" in url}
    assert noise == {
        "missing.html": ("http_status", 404),
        "redirect.html": ("http_status", 302),
        "empty.html": ("empty", None),
        "data.json": ("not_html", None),
        "robots.txt": (None, None),
        "pixel.png": ("not_html", None),
        "exact-copy.html": (None, None),
    }


def test_sample_rows_agree_with_the_manifest(sample):
    listed = [line.split("\t")[0] for line in (SAMPLES / "sample_manifest.tsv").read_text("utf-8").splitlines()[1:]]
    assert {row["url"] for row in sample} == set(listed)
    by_url = {row["url"]: row for row in sample}
    assert by_url["http://noise.example/robots.txt"]["mime"] == "text/plain"
    assert by_url["http://noise.example/exact-copy.html"]["text"] == by_url["http://udhr.example/eng.html"]["text"]
    assert all(
        row["date"].startswith("2026-11-21T21:24:") and row["source_id"].startswith("urn:uuid:") for row in sample
    )


def test_warc_offsets_are_places_in_the_file(sample, members):
    starts = {start for start, _ in members}
    assert len({row["offset"] for row in sample}) == 187
    for row in sample[::20]:
        assert row["offset"] in starts
        record = gzip.GzipFile(fileobj=open(WARC, "rb"))  # noqa: SIM115
        record.fileobj.seek(row["offset"])
        assert row["url"].encode() in record.read(600)


@pytest.mark.parametrize("pack", [lambda data: data, zstandard.compress, gzip.compress, bz2.compress, lzma.compress])
def test_warc_reads_the_same_in_every_compression(tmp_path, sample, pack):
    plain = gzip.decompress(WARC.read_bytes())
    path = write(tmp_path / "sample.warc", pack(plain))
    assert [(row["url"], row["text"], row["drop"]) for row in rows(path)] == [
        (row["url"], row["text"], row["drop"]) for row in sample
    ]


def test_warc_of_zstd_frames_has_frame_offsets(tmp_path, members):
    data = WARC.read_bytes()
    frames = [zstandard.compress(gzip.decompress(data[start:end])) for start, end in members]
    found = rows(write(tmp_path / "sample.warc.zst", b"".join(frames)))
    starts = [sum(map(len, frames[:at])) for at in range(len(frames))]
    assert len(found) == 187
    assert {row["offset"] for row in found} <= set(starts)


def test_truncated_warc_loses_only_its_tail(tmp_path, sample, members):
    data = WARC.read_bytes()
    draw = random.Random(3)
    cuts = [5, 9, 300, *(draw.randrange(len(data)) for _ in range(12)), len(data) - 1, members[40][1] - 4]
    for cut in cuts:
        found = rows(write(tmp_path / "data_samples" / "sample.warc.gz", data[:cut]))
        whole = [row for row in sample if next(end for start, end in members if start == row["offset"]) <= cut]
        kept = [row for row in found if row["drop"] not in ("truncated", "corrupt")]
        assert kept == whole, cut
        assert [row["drop"] for row in found[len(kept) :]] == ["truncated"], cut


def test_truncation_at_a_member_border_is_a_whole_file(tmp_path, sample, members):
    path = write(tmp_path / "sample.warc.gz", WARC.read_bytes()[: members[100][1]])
    assert reasons(path) == {None: sum(row["offset"] <= members[100][0] for row in sample)}


def test_truncated_plain_and_single_member_warc(tmp_path, sample):
    plain = gzip.decompress(WARC.read_bytes())
    for content in (plain[:1_500_000], gzip.compress(plain)[:500_000]):
        found = rows(write(tmp_path / "cut.warc", content))
        count = len(found) - 1
        assert count > 80
        assert [row["text"] for row in found[:count]] == [row["text"] for row in sample[:count]]
        assert found[-1]["drop"] == "truncated"


@pytest.mark.parametrize("at", [0, 2, 77, 186])
@pytest.mark.parametrize("harm", ["zeros", "flip", "noise", "header"])
def test_corrupt_member_costs_that_member(tmp_path, sample, members, at, harm):
    data = bytearray(WARC.read_bytes())
    start = sample[at]["offset"]
    end = next(end for begin, end in members if begin == start)
    if harm == "flip":
        data[(start + end) // 2] ^= 0x10
    elif harm == "header":
        data[start] ^= 0xFF
    else:
        size = 60 if harm == "zeros" else end - start
        data[start + 12 : start + 12 + size] = bytes(size) if harm == "zeros" else random.Random(1).randbytes(size)
        data = data[: len(WARC.read_bytes())]
    found = rows(write(tmp_path / "data_samples" / "sample.warc.gz", bytes(data)))
    bad = [row for row in found if row["drop"] in ("corrupt", "truncated")]
    good = [row for row in found if row not in bad]
    assert [row for row in sample if row in good] == good  # nothing made up, ids and offsets as before
    assert len(good) == 186
    assert len(bad) in (1, 2)
    assert bad[0]["offset"] == start
    if harm != "noise" and at != 186:
        assert bad[0]["drop_value"] == end - start


def test_what_damage_does_not_touch_is_read_as_before(tmp_path, sample, members):
    whole = WARC.read_bytes()[: members[150][1]]
    wanted = [row for row in sample if row["offset"] <= members[150][0]]
    for seed in range(60):
        draw = random.Random(seed)
        data, harmed = bytearray(whole), []
        for _ in range(draw.choice([1, 2, 4])):
            start, size = draw.randrange(len(data)), draw.choice([1, 8, 300, 9000])
            noise = draw.randbytes(size) if size > 1 else bytes([data[start] ^ (1 << draw.randrange(8))])
            data[start : start + size] = noise[: len(data) - start]
            harmed.append((start, start + size))
        touched = {begin for begin, end in members if any(a < end and begin < b for a, b in harmed)}
        found = list(rows(write(tmp_path / "data_samples" / "sample.warc.gz", bytes(data))))
        read = [row for row in found if row["drop"] not in ("corrupt", "truncated")]
        assert [row for row in wanted if row in read] == read, seed  # nothing that is not there
        assert [row for row in read if row["offset"] not in touched] == [
            row for row in wanted if row["offset"] not in touched
        ], seed
        assert len(read) == len(wanted) or len(found) > len(read), seed


def test_corrupt_stretch_of_a_plain_warc_is_stepped_over(tmp_path, sample):
    plain = gzip.decompress(WARC.read_bytes())
    places = [match.start() for match in re.finditer(rb"WARC/1.0\r\nWARC-Type: response", plain)]
    harmed = plain[: places[50]] + bytes(300) + plain[places[50] + 300 :]
    found = rows(write(tmp_path / "data.warc", harmed))
    assert [row["url"] for row in found if row["drop"] != "corrupt"] == [
        row["url"] for at, row in enumerate(sample) if at != 50
    ]
    assert next(row["drop_value"] for row in found if row["drop"] == "corrupt") >= 5000


def record(kind: str, body: bytes, mime: str = "application/http; msgtype=response", **headers: str) -> bytes:
    lines = [f"WARC-Type: {kind}", f"Content-Type: {mime}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(["WARC/1.0", *lines, "", ""]).encode() + body + b"\r\n\r\n"


def response(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode() + body


def test_record_types_and_bodies(tmp_path):
    html = b"<!doctype html><p>Hello there</p>"
    chunked = b"5\r\n" + html[:5] + b"\r\n%x\r\n" % (len(html) - 5) + html[5:] + b"\r\n0\r\n\r\n"
    cases = [
        (record("warcinfo", b"software: x", "application/warc-fields"), "no row"),
        (record("request", b"GET / HTTP/1.1\r\n\r\n", "application/http"), "no row"),
        (record("response", response(html, "Content-Type: text/html")), None),
        (record("response", response(chunked, "Content-Type: text/html", "Transfer-Encoding: chunked")), None),
        (record("response", response(html, "Content-Type: text/html", "Transfer-Encoding: chunked")), None),
        (record("response", response(gzip.compress(html), "Content-Type: text/html", "Content-Encoding: gzip")), None),
        (record("response", response(zlib.compress(html), "Content-Type: text/html", "Content-Encoding: deflate")), None),  # noqa: E501
        (record("response", response(html, "Content-Type: text/html", "Content-Encoding: br")), None),
        (record("response", response(html)), None),
        (record("response", response(b"\x89PNG\r\n\x1a\n\0\0", "Content-Type: text/html")), "not_html"),
        (record("response", response(b"\x89PNG\r\n\x1a\n\0\0")), "not_html"),
        (record("response", response(b"x\x1f\x8b", "Content-Type: application/pdf")), "not_html"),
        (record("response", response(gzip.compress(html)[:12] + b"xxxxxxxxxxxxx", "Content-Type: text/html", "Content-Encoding: gzip")), "undecodable"),  # noqa: E501
        (record("response", b"\x07", "text/dns"), "not_html"),
        (record("response", response(b"", "Content-Type: text/html", status="500 Oops")), "http_status"),
        (record("response", response(b"  \n", "Content-Type: text/html")), "empty"),
        (record("response", response(b"<p>" + b"x" * 5000, "Content-Type: text/html")), "too_large"),
        (record("response", response(gzip.compress(b"<p>" * 50000), "Content-Type: text/html", "Content-Encoding: gzip")), "too_large"),  # noqa: E501
        (record("revisit", response(b"", "Content-Type: text/html")), "revisit"),
        (record("resource", html, "text/html"), None),
        (record("resource", b"{}", "application/json"), "not_html"),
        (record("conversion", "一些文字".encode(), "text/plain"), None),
        (record("response", response(html, "Content-Type: text/html"), WARC_Record_ID="<urn:a>"), None),
        (record("response", response(html, "Content-Type: text/html"), WARC_Record_ID="<urn:a>"), "repeated_record"),
    ]  # fmt: skip
    path = write(tmp_path / "cases.warc", b"".join(content for content, _ in cases))
    found = rows(path, max_document_bytes=4000)
    assert [row["drop"] for row in found] == [reason for _, reason in cases if reason != "no row"]
    assert {row["text"] for row in found if row["mime"] == "text/html" and not row["drop"]} == {html.decode()}
    assert found[-3]["text"] == "一些文字"


def test_chunks_cut_short_give_what_is_there():
    assert http.decoded(b"3\r\nabc\r\n5\r\nde", "chunked", "", 100) == b"abcde"
    assert http.decoded(gzip.compress(b"z" * 1000), "", "gzip", 10) == b"z" * 11


def test_warc_headers_can_be_kept(tmp_path):
    body = response(b"<p>x</p>", "Content-Type: text/html", "Server: nginx")
    path = write(tmp_path / "a.warc", record("response", body, WARC_IP_Address="192.0.2.1"))
    (row,) = rows(path, keep_fields=["Server", "WARC-IP-Address", "nothing"])
    assert (row["meta_Server"], row["meta_WARC-IP-Address"], row["meta_nothing"]) == ("nginx", "192.0.2.1", None)


# JSONL


def test_jsonl_fields(tmp_path):
    record = {
        "text": "太宗皇帝",
        "id": 7,
        "url": "http://a",
        "when": "2020-01-02",
        "lang": "zh",
        "n": 1,
        "more": [1, {"a": None}],
    }
    path = write(tmp_path / "a.jsonl", jsonl(record))
    (row,) = rows(path, id_field="id", date_field="when", keep_fields=["lang", "n"])
    assert (row["text"], row["source_id"], row["url"], row["date"]) == ("太宗皇帝", "7", "http://a", "2020-01-02")
    assert (row["meta_lang"], row["meta_n"], json.loads(row["metadata"])) == ("zh", "1", {"more": [1, {"a": None}]})
    assert list(Collect(paths=[str(path)], keep_fields=["lang"]).columns()) == ["meta_lang"]


def test_bad_lines_cost_themselves(tmp_path):
    content = b"\n".join(
        [
            b'\xef\xbb\xbf{"text": "with a mark"}',
            b'{"text": "cut',
            b"",
            b"[1, 2]",
            b'{"no": 1}',
            b'{"text": null}',
            b'{"text": 5}',
            b'{"text": " \\n"}',
            b"   ",
            b'{"text": "a", "x": NaN}',
            b'{"text": "lone \\ud800 half"}',
            b"\x00\x01\x02",
            b"[" * 100_000,
            '{"text": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心"}'.encode("gbk"),
            b'{"text": "last, without an end of line"}',
        ]
    )
    found = rows(write(tmp_path / "a.jsonl", content))
    assert [(row["drop"], row["drop_value"]) for row in found] == [
        (None, None), ("bad_json", 2), ("bad_json", 4), ("missing_field", None), ("missing_field", None),
        ("wrong_type", None), ("empty", None), (None, None), (None, None), ("undecodable", None), ("bad_json", 13),
        (None, None), (None, None),
    ]  # fmt: skip
    assert found[8]["text"] == "lone \ufffd half"
    assert found[11]["text"].startswith("人人生而自由")
    assert found[11]["charset"] == "gb18030"


def test_deep_and_huge_values_in_other_fields(tmp_path):
    deep = [b'{"text": "x", "d": ' + b"[" * depth + b"]" * depth + b"}" for depth in (300, 1000, 100_000)]
    huge = b'{"text": "x", "n": 123456789012345678901234567890, "m": NaN}'
    found = rows(write(tmp_path / "a.jsonl", b"\n".join([*deep, huge])))
    assert [row["drop"] for row in found][0::2] == [None, "bad_json"]
    assert "123456789012345678901234567890" in found[3]["metadata"]


def test_one_long_line_does_not_fill_memory(tmp_path):
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(jsonl({"text": "before"}) + b'{"text": "')
        for _ in range(60):
            file.write(b"x" * (1 << 20))
        file.write(b'"}\n' + jsonl({"text": "after"}))
    tracemalloc.start()
    found = rows(path, max_document_bytes=1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [(row["text"], row["drop"]) for row in found] == [("before", None), ("", "too_large"), ("after", None)]
    assert (found[1]["drop_value"], found[1]["drop_limit"]) == (60 * (1 << 20) + 12, 1 << 20)
    assert peak < 8 << 20


@given(
    st.lists(
        st.one_of(st.integers(0, 40).map(lambda size: jsonl({"text": "é" * size})), st.just(b"\n"), st.just(b"bad\n"))
    ),
    st.integers(1, 200),
    st.booleans(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_byte_ranges_give_what_the_whole_file_gives(tmp_path, content, split_bytes, end):
    data = b"".join(content)
    path = write(tmp_path / "a.jsonl", data if end else data.removesuffix(b"\n"))
    whole = rows(path, format="jsonl")
    assert rows(path, format="jsonl", split_bytes=split_bytes) == whole
    records = sum(line != b"\n" for line in content)
    assert len(whole) == (records or 1)
    assert records or whole[0]["drop"] == ("no_records" if path.stat().st_size else "empty_file")


@given(st.lists(st.binary(max_size=30)), st.integers(1, 40), st.integers(0, 20))
def test_lines_are_those_of_split(parts, step, limit):
    data = b"\n".join(parts)
    chunks = (data[at : at + step] for at in range(0, len(data), step))
    wanted = data.split(b"\n")[: None if data and not data.endswith(b"\n") else -1]
    found = list(lines(chunks, b"\n", 0, limit))
    assert [line.size for line in found] == [len(line) for line in wanted]
    assert [line.content for line in found] == [line if len(line) <= limit else None for line in wanted]
    assert all(
        data[line.offset : line.offset + line.size] == line_wanted
        for line, line_wanted in zip(found, wanted, strict=True)
    )


@pytest.mark.parametrize(
    ("name", "pack"), [("gz", gzip.compress), ("zst", zstandard.compress), ("bz2", bz2.compress), ("xz", lzma.compress)]
)
def test_compressed_jsonl(tmp_path, name, pack):
    records = [{"text": random.Random(at).randbytes(200).hex()} for at in range(3000)]
    half = len(records) // 2
    data = pack(jsonl(*records[:half])) + pack(jsonl(*records[half:]))  # two members, frames or streams
    path = write(tmp_path / "data", data)
    assert [row["text"] for row in rows(path)] == [record["text"] for record in records]
    cut = rows(write(tmp_path / f"cut.jsonl.{name}", data[: len(data) * 3 // 4]))
    assert len(cut) - 1 >= half
    assert [row["text"] for row in cut[:-1]] == [record["text"] for record in records[: len(cut) - 1]]
    assert cut[-1]["drop"] == "truncated"
    harmed = bytearray(data)
    harmed[len(pack(jsonl(*records[:half]))) + 40] ^= 0xFF
    found = rows(write(tmp_path / f"harmed.jsonl.{name}", bytes(harmed)))
    assert [row["text"] for row in found[:half]] == [record["text"] for record in records[:half]]
    assert found[-1]["drop"] in ("corrupt", "bad_json", "undecodable")


# CSV, Parquet, single files


def test_csv_and_tsv(tmp_path):
    content = 'text,url,lang\n"a, ""quoted""\ntwo lines",http://a,en\n\nshort,row\n汉字,,zh\n,http://b,en\n"broken"x,1,2\nlast,c,d\n'
    found = rows(write(tmp_path / "a.csv", content), keep_fields=["lang"])
    assert [(row["text"], row["drop"], row["offset"]) for row in found] == [
        ('a, "quoted"\ntwo lines', None, 0), ("", "bad_row", 1), ("汉字", None, 2), ("", "empty", 3),
        ("", "bad_row", 4), ("last", None, 5),
    ]  # fmt: skip
    assert [row["drop_value"] for row in found if row["drop"] == "bad_row"] == [5, 8]
    assert found[0]["meta_lang"] == "en"
    (row,) = rows(write(tmp_path / "b.tsv", "url\ttext\nx\tein Wort\n"))
    assert (row["text"], row["url"]) == ("ein Wort", "x")


def test_csv_in_other_charsets_and_sizes(tmp_path):
    text = "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。"
    for codec in ("gb18030", "utf-16", "utf-8-sig"):
        (row,) = rows(write(tmp_path / f"{codec}.csv", f"text,n\n{text},1\n".encode(codec)))
        assert row["text"] == text
    big = f"text\n{'x' * 500_000}\nsmall\n" + '"' + "y\n" * 3_000 + '"\nend\n'
    found = rows(write(tmp_path / "big.csv", big), max_document_bytes=1000)
    assert found[0]["drop"] == "too_large"
    assert found[0]["drop_value"] == 500_000
    assert found[1]["text"] == "small"
    assert found[2]["drop"] == "bad_row"
    late = b"text\n" + b"plain\n" * 100_000 + b"\xff\xfe\xfd\nlast\n"
    assert reasons(write(tmp_path / "late.csv", late)) == {None: 100_001, "undecodable": 1}


def test_truncated_csv(tmp_path):
    data = gzip.compress(
        b"text\n" + b"".join(random.Random(at).randbytes(50).hex().encode() + b"\n" for at in range(5000))
    )
    found = rows(write(tmp_path / "a.csv.gz", data[: len(data) // 2]))
    assert len(found) > 1000
    assert {row["drop"] for row in found[:-1]} == {None}
    assert found[-1]["drop"] == "truncated"


@pytest.mark.parametrize("fields", [{"text_field": "body"}, {"url_field": "body"}, {"keep_fields": ["body"]}])
@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_missing_column_says_which_there_are(tmp_path, name, fields):
    path = write(tmp_path / name, "text,link\nx,y\n")
    if name.endswith("parquet"):
        pq.write_table(pa.table({"text": ["x"], "link": ["y"]}), path)
    with pytest.raises(ValueError, match=rf"{name}: no column 'body'; its columns are 'text', 'link'"):
        rows(path, **fields)


def test_parquet(tmp_path):
    table = pa.table(
        {
            "text": ["一", None, "", "x" * 200, "b", "c"],
            "id": [1, 2, 3, 4, 5, 6],
            "when": pa.array([0, 1, 2, 3, 4, 5], pa.timestamp("s")),
            "score": [0.5, None, 1, 2, 3, float("nan")],
        }
    )
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, row_group_size=2)
    whole = rows(path, date_field="when", keep_fields=["id"], max_document_bytes=100)
    assert [(row["text"], row["drop"]) for row in whole] == [
        ("一", None), ("", "missing_field"), ("", "empty"), ("", "too_large"), ("b", None), ("c", None)
    ]  # fmt: skip
    assert (whole[3]["drop_value"], whole[3]["drop_limit"]) == (200, 100)
    assert [row["offset"] for row in whole] == [0, 1, 2, 3, 4, 5]
    assert (whole[0]["date"], whole[0]["meta_id"], json.loads(whole[0]["metadata"])) == (
        "1970-01-01T00:00:00",
        "1",
        {"score": 0.5},
    )
    split = collect(path, split_bytes=1).inputs()
    assert [(part.pieces[0].start, part.pieces[0].stop) for part in split] == [(0, 1), (1, 2), (2, 3)]
    assert rows(path, split_bytes=1, date_field="when", keep_fields=["id"], max_document_bytes=100) == whole


def test_parquet_of_the_wrong_type_or_bytes(tmp_path):
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "a.parquet")
    assert reasons(tmp_path / "a.parquet") == {"wrong_type": 1}
    pq.write_table(pa.table({"text": pa.array(["a", "b"]).dictionary_encode()}), tmp_path / "b.parquet")
    assert [row["text"] for row in rows(tmp_path / "b.parquet")] == ["a", "b"]
    wrong = pa.array([b"fine", b"\x01\x02\xff\x03", "é".encode()], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": wrong}), tmp_path / "c.parquet")
    assert [(row["text"], row["drop"]) for row in rows(tmp_path / "c.parquet")] == [
        ("fine", None), ("", "undecodable"), ("é", None)
    ]  # fmt: skip


def test_damaged_parquet_keeps_the_other_row_groups(tmp_path):
    path = tmp_path / "a.parquet"
    texts = [random.Random(at).randbytes(500).hex() for at in range(300)]
    pq.write_table(pa.table({"text": texts}), path, row_group_size=100, use_dictionary=False, compression="zstd")
    data = bytearray(path.read_bytes())
    place = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data[place : place + 200] = bytes(200)
    found = rows(write(path, bytes(data)))
    assert [row["text"] for row in found if not row["drop"]] == texts[:100] + texts[200:]
    assert [(row["drop"], row["offset"]) for row in found if row["drop"]] == [("corrupt", 100)]
    assert reasons(write(tmp_path / "b.parquet", bytes(data[:5000]))) == {"damaged_file": 1}


def test_a_file_is_a_document(tmp_path):
    write(tmp_path / "a.html", "<p>Hé".encode("latin-1") + b"llo</p>")
    write(tmp_path / "b.txt", "plain")
    write(tmp_path / "c", "<!DOCTYPE html><title>no suffix</title>")
    write(tmp_path / "d.txt.xz", lzma.compress(b"packed"))
    write(tmp_path / "e.html.gz", gzip.compress(b"<p>cut</p>" * 100)[:-9])
    write(tmp_path / "f.txt", "x" * 2000)
    write(tmp_path / "g.txt", " ")
    found = {row["source"].split("/")[1]: row for row in rows(tmp_path, max_document_bytes=1000)}
    assert [(row["text"][:5], row["mime"], row["drop"]) for row in found.values()] == [
        ("<p>Hé", "text/html", None), ("plain", "text/plain", None), ("<!DOC", "text/html", None),
        ("packe", "text/plain", None), ("", None, "truncated"), ("", "text/plain", "too_large"),
        ("", "text/plain", "empty"),
    ]  # fmt: skip


def test_files_that_are_nothing(tmp_path):
    write(tmp_path / "empty.jsonl", b"")
    write(tmp_path / "empty.txt.gz", gzip.compress(b""))
    write(tmp_path / "garbage.bin", random.Random(5).randbytes(5000))
    write(tmp_path / "garbage.jsonl", random.Random(6).randbytes(5000))
    write(tmp_path / "picture.html", b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR")
    write(tmp_path / "style.css", "body {color: red}")
    write(tmp_path / "garbage.warc.gz", random.Random(7).randbytes(5000))
    write(tmp_path / ".hidden", "text")
    write(tmp_path / ".git" / "config", "text")
    write(tmp_path / "good.txt", "good")
    assert {row["source"].split("/")[1]: row["drop"] for row in rows(tmp_path)} == {
        "empty.jsonl": "empty_file", "empty.txt.gz": "empty_file", "garbage.bin": "unknown_format",
        "garbage.jsonl": "unknown_format", "picture.html": "unknown_format", "style.css": "unknown_format",
        "garbage.warc.gz": "corrupt", "good.txt": None,
    }  # fmt: skip


# names, paths, partitions


def test_names_and_ids_do_not_depend_on_where_the_data_lies(tmp_path):
    write(tmp_path / "one" / "crawl" / "a" / "x.jsonl", jsonl({"text": "1"}, {"text": "2"}))
    write(tmp_path / "one" / "crawl" / "y.txt", "3")
    before = rows(tmp_path / "one" / "crawl")
    assert [row["source"] for row in before] == ["crawl/a/x.jsonl", "crawl/a/x.jsonl", "crawl/y.txt"]
    shutil.move(tmp_path / "one", tmp_path / "two")
    assert rows(tmp_path / "two" / "crawl") == before
    assert rows(tmp_path / "two" / "crawl" / "**") == before
    assert rows(tmp_path / "two" / "crawl" / "*" / "*.jsonl", tmp_path / "two" / "crawl") == before
    assert rows(tmp_path / "two" / "crawl" / "a" / "x.jsonl")[0]["source"] == "a/x.jsonl"


def test_one_name_for_two_files_becomes_two(tmp_path):
    write(tmp_path / "one" / "crawl" / "x.txt", "1")
    write(tmp_path / "two" / "crawl" / "x.txt", "2")
    found = rows(tmp_path / "one" / "crawl", tmp_path / "two" / "crawl" / "x.txt")
    assert [row["source"] for row in found] == [(tmp_path / n / "crawl" / "x.txt").as_posix() for n in ("one", "two")]


def test_relative_paths_and_a_bare_string(tmp_path, monkeypatch):
    write(tmp_path / "data" / "x.txt", "1")
    monkeypatch.chdir(tmp_path)
    split = Collect(paths="data/*.txt").inputs()
    assert [piece.source for part in split for piece in part.pieces] == ["data/x.txt"]


def test_own_ids_are_kept_and_may_repeat(tmp_path):
    found = rows(write(tmp_path / "a.jsonl", jsonl({"text": "1", "k": "p"}, {"text": "2", "k": "p"})), id_field="k")
    assert [row["source_id"] for row in found] == ["p", "p"]
    assert found[0]["id"] != found[1]["id"]


@pytest.mark.parametrize(
    ("given_path", "message"),
    [
        ("crawl/a.jsnl", r"no file matches .*a.jsnl; did you mean .*crawl/a.jsonl\?"),
        ("crawll/*.jsonl", r"no file matches .*; did you mean .*crawl\?"),
        ("zzz/*", r"no file matches .*zzz/\*$"),
        ("cr*", r"matches only folders; to read what is in them, write .*cr\*/\*\*"),
        ("nothing", r"no files in the folder .*nothing"),
    ],
)
def test_path_that_matches_nothing(tmp_path, given_path, message):
    write(tmp_path / "crawl" / "a.jsonl", "{}")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match=message) as error:
        Collect(paths=[str(tmp_path / given_path)]).inputs()
    assert "\n" not in str(error.value)


def test_small_files_are_packed_and_big_ones_stand_alone(tmp_path):
    for name, size in (("a", 40), ("b", 40), ("c", 40), ("d", 500), ("e", 10)):
        write(tmp_path / f"{name}.txt", "x" * size)
    splits = collect(tmp_path, split_bytes=100).inputs()
    assert [[Path(piece.path).stem for piece in split.pieces] for split in splits] == [["a", "b"], ["c"], ["d"], ["e"]]


def test_batches_stay_small(tmp_path, monkeypatch):
    monkeypatch.setattr(schema, "BATCH_BYTES", 1000)
    path = write(tmp_path / "a.jsonl", jsonl(*({"text": "x" * 300} for _ in range(20))))
    source = Collect(paths=[str(path)])
    sizes = [len(table) for table in source.read(source.inputs()[0])]
    assert sum(sizes) == 20
    assert max(sizes) <= 4
