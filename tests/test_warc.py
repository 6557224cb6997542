"""WARC and ARC files as crawlers write them, and as they arrive: every record has its row, and costs no other one."""

import gzip
import random
import runpy
import zlib
from collections import Counter

import lz4.frame
import pytest
import zstandard
from conftest import ROOT
from test_collect import rows, write

from stages.readers import archive, compression, http
from stages.readers.archive import Lost, Record
from stages.readers.sniff import is_binary, is_html, is_page, sniff

PAGE = b"<!doctype html><html><head><title>%d</title></head><body><p>page %d \xc3\xa9</p></body></html>\n"
LAYOUTS = {
    "plain": b"".join,
    "gz": lambda records: b"".join(map(gzip.compress, records)),
    "zst": lambda records: b"".join(map(zstandard.compress, records)),
    "lz4": lambda records: b"".join(map(lz4.frame.compress, records)),
    "one member": lambda records: gzip.compress(b"".join(records)),
}
layouts = pytest.mark.parametrize("layout", LAYOUTS)


def page(number: int, fill: int = 0) -> bytes:
    return PAGE % (number, number) + b"<p>more</p>\n" * fill


def answer(
    body: bytes, mime: str | None = "text/html; charset=utf-8", *more: str, end: str = "\r\n", status="HTTP/1.1 200 OK"
) -> bytes:
    fields = [status, *([f"Content-Type: {mime}"] if mime else []), *more, "", ""]
    return end.join(fields).encode() + body


def record(
    number: int, block: bytes, kind="response", end="\r\n", length: object = None, **fields: str | None
) -> bytes:
    """A WARC record; a field that is None is left out."""
    url = f"http://page.example/{number}"
    media = "application/http; msgtype=response"
    named: dict[str, object] = {
        "WARC-Type": kind, "WARC-Record-ID": f"<urn:uuid:{number}>", "WARC-Target-URI": url, "Content-Type": media,
        "Content-Length": len(block) if length is None else length,
    }  # fmt: skip
    named |= {name.replace("_", "-"): value for name, value in fields.items()}
    head = end.join(["WARC/1.0", *(f"{name}: {value}" for name, value in named.items() if value is not None), "", ""])
    return head.encode() + block + b"\r\n\r\n"


def recased(one: bytes, case) -> bytes:
    """A record whose header names are written otherwise."""
    head, gap, block = one.partition(b"\r\n\r\n")
    version, *fields = head.split(b"\r\n")
    return (
        b"\r\n".join([version, *(case(name) + b":" + value for name, _, value in (f.partition(b":") for f in fields))])
        + gap
        + block
    )


def arc(number: int, block: bytes, length: object = None, version: int = 1) -> bytes:
    size = len(block) if length is None else length
    more = "200 a1b2 - 17 x.arc.gz " if version == 2 else ""
    return f"http://page.example/{number} 192.0.2.7 20040102030405 text/html {more}{size}\n".encode() + block + b"\n"


def urls(found) -> list[str]:
    return [row["url"].rpartition("/")[2] for row in found if not row["drop"]]


# headers


@layouts
@pytest.mark.parametrize("case", [bytes.lower, bytes.upper, bytes.title, bytes.swapcase])
def test_warc_names_in_any_case(tmp_path, layout, case):
    records = [record(at, answer(page(at))) for at in range(4)]
    wanted = rows(write(tmp_path / "a.warc", LAYOUTS[layout](records)))
    found = rows(write(tmp_path / "b" / "a.warc", LAYOUTS[layout]([recased(one, case) for one in records])))
    kept = ("url", "source_id", "text", "mime", "charset", "metadata", "drop")
    assert urls(wanted) == ["0", "1", "2", "3"]
    assert [[row[name] for name in kept] for row in found] == [[row[name] for name in kept] for row in wanted]


@layouts
@pytest.mark.parametrize("end", ["\n", "\r\r\n"])
def test_warc_headers_with_other_line_ends(tmp_path, layout, end):
    records = [record(at, answer(page(at)), end=end if at != 1 else "\r\n") for at in range(4)]
    found = rows(write(tmp_path / "a.warc", LAYOUTS[layout](records)))
    assert urls(found) == ["0", "1", "2", "3"]
    assert found[0]["text"] == page(0).decode()


@pytest.mark.parametrize(
    ("head", "status", "mime"),
    [
        (b"HTTP/1.1 200 OK\nContent-Type: text/html\n\n", 200, "text/html"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\n\n", 200, "text/html"),
        (b"HTTP/1.1 200 OK\nContent-Type: text/html\r\n\r\n", 200, "text/html"),
        (b"HTTP/1.1 200 OK\r\r\nContent-Type: text/html\r\r\n\r\r\n", 200, "text/html"),
        (b"HTTP/1.1 200\r\ncontent-TYPE:text/html\r\n\r\n", 200, "text/html"),
        (b"HTTP/1.1 200 \r\nContent-Type :\ttext/html \r\n\r\n", 200, "text/html"),
        (b"HTTP/2 200\r\ncontent-type: text/html\r\n\r\n", 200, "text/html"),
        (b"HTTP/2.0 404 Not Found\r\ncontent-type: text/html\r\n\r\n", 404, "text/html"),
        (b"http/1.0 200 ok\r\nContent-Type:\r\n\ttext/html;\r\n charset=x\r\n\r\n", 200, "text/html; charset=x"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Type: text/plain\r\n\r\n", 200, "text/html"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n", 200, "text/html"),
        (b"HTTP/1.1 OK\r\nContent-Type: text/html\r\n\r\n", None, "text/html"),
        (b"HTTP/1.1 200 OK\r\n\r\n", 200, None),
    ],
)  # fmt: skip
def test_http_headers(head, status, mime):
    body = b"<p>a\n\nb</p>"
    found = http.response(head + body)
    assert found is not None
    assert (found.status, found.fields.get("content-type")) == (status, mime)
    assert (head + body)[found.body :] == body


def test_a_block_that_is_no_http():
    assert http.response(b"<html>") is None
    assert http.response(b"") is None


def test_chunks_are_joined_whatever_the_case_of_the_header(tmp_path):
    chunked = b"5\r\n<p>ab\r\n6\r\ncd</p>\r\n0\r\n\r\n"
    path = write(tmp_path / "a.warc", record(1, answer(chunked, "text/html", "transfer-encoding: Chunked", end="\n")))
    assert rows(path)[0]["text"] == "<p>abcd</p>"


# lengths


@layouts
@pytest.mark.parametrize("version", ["warc", "arc"])
@pytest.mark.parametrize("wrong", [0, 1, 60, "-1", "-70", "+9", "+400", 10**9, "", "none", "1e3", 10**20])
def test_a_wrong_length_costs_no_record(tmp_path, layout, version, wrong):
    if isinstance(wrong, str) and wrong[:1] in ("-", "+"):
        wrong = len(answer(page(2, 50))) + int(wrong)
    if version == "arc" and wrong == "":
        wrong = "-"
    make = record if version == "warc" else arc
    for bad in ({2}, {0}, {5}, {1, 2, 4}, set(range(6))):
        records = [make(at, answer(page(at, 50)), length=wrong if at in bad else None) for at in range(6)]
        found = rows(write(tmp_path / f"a.{version}", LAYOUTS[layout](records)))
        good = [row for row in found if row["url"] and int(row["url"].rpartition("/")[2]) not in bad]
        assert [row["text"] for row in good] == [page(at, 50).decode() for at in range(6) if at not in bad]
        assert len(urls(found)) + Counter(row["drop"] for row in found)["truncated"] >= 6
        for row in found:  # a block that was closed is kept, with all that is in it or all but its last line ends
            if not row["drop"]:
                assert row["text"].rstrip() == page(int(row["url"].rpartition("/")[2]), 50).decode().rstrip()


def test_a_missing_length(tmp_path):
    records = [record(at, answer(page(at)), Content_Length=None) for at in range(4)]
    for layout, pack in LAYOUTS.items():
        assert urls(rows(write(tmp_path / "a.warc", pack(records)))) == ["0", "1", "2", "3"], layout


def test_a_record_cut_off_in_the_middle_of_a_file_is_counted(tmp_path):
    records = [record(at, answer(page(at, 50))) for at in range(5)]
    records[2] = records[2][:-300]
    for layout, pack in LAYOUTS.items():
        found = rows(write(tmp_path / "a.warc", pack(records)))
        assert [row["drop"] for row in found] == [None, None, "corrupt", None, None], layout
        assert urls(found) == ["0", "1", "3", "4"]


def test_a_header_that_breaks_off_costs_its_record(tmp_path):
    records = [record(at, answer(page(at))) for at in range(4)]
    for cut in (20, 50, 90):
        for layout, pack in LAYOUTS.items():
            broken = [records[0], records[1][:cut], *records[2:]]
            found = rows(write(tmp_path / "a.warc", pack(broken)))
            assert urls(found) == ["0", "2", "3"], (layout, cut)
            assert [row["drop"] for row in found] == [None, "corrupt", None, None]


def test_a_block_that_holds_a_warc_file_is_one_record(tmp_path):
    inner = b"".join(record(at, answer(page(at))) for at in range(3))
    outer = [record(7, inner, "resource", Content_Type="application/warc"), record(8, answer(page(8)))]
    for layout, pack in LAYOUTS.items():
        found = rows(write(tmp_path / "a.warc", pack(outer)))
        assert [(row["url"][-1], row["drop"]) for row in found] == [("7", "not_html"), ("8", None)], layout


@pytest.mark.parametrize("hold", [50, 1 << 20])
def test_long_blocks_with_wrong_lengths(tmp_path, monkeypatch, hold):
    monkeypatch.setattr(compression, "_CHUNK", 999)
    blocks = [answer(page(at, 2000)) for at in range(5)]
    for layout, pack in LAYOUTS.items():
        for wrong in (5, len(blocks[0]) * 2 + 77, 10**9):
            records = [record(at, block, length=wrong if at in (1, 3) else None) for at, block in enumerate(blocks)]
            path = write(tmp_path / "a.warc", pack(records))
            found = list(archive.records(str(path), hold, ("response",)))
            assert [type(one) for one in found] == [Record] * 5, (layout, wrong)
            assert [one.size for one in found] == list(map(len, blocks))
            assert all(block.startswith(one.block) for one, block in zip(found, blocks, strict=True))


def test_too_large_tells_the_real_size(tmp_path):
    records = [record(0, answer(page(0, 50)), length=9), record(1, answer(page(1, 50)))]
    found = rows(write(tmp_path / "a.warc", b"".join(records)), max_document_bytes=300)
    assert [(row["drop"], row["drop_value"]) for row in found] == [("too_large", len(page(at, 50))) for at in (0, 1)]


# files


@layouts
@pytest.mark.parametrize("version", [1, 2])
def test_arc(tmp_path, layout, version):
    about = b"%d 0 Crawler\nURL IP-address Archive-date Content-type Archive-length\n" % version
    head = b"filedesc://a.arc 0.0.0.0 20040102030405 text/plain %d\n" % len(about) + about + b"\n"
    other = b"dns:page.example 192.0.2.1 20040102030405 text/dns 9\n20040102\n\n"
    records = [arc(at, answer(page(at)), version=version) for at in range(3)]
    content = LAYOUTS[layout]([head, other, *records])
    assert sniff(head, "unknown") == "warc"
    found = rows(write(tmp_path / "a.arc", content), keep_fields=["WARC-IP-Address"])
    assert [row["drop"] for row in found] == ["not_html", None, None, None]
    assert found[1]["text"] == page(0).decode()
    assert (found[1]["url"], found[1]["date"]) == ("http://page.example/0", "2004-01-02T03:04:05Z")
    assert (found[1]["meta_WARC-IP-Address"], found[1]["source_id"]) == ("192.0.2.7", None)


def test_arc_headers_that_are_no_utf_8(tmp_path):
    odd = b"http://page.example/\xe9 192.0.2.7 20040102030405 text/\xff 12\xe9\n" + answer(page(1)) + b"\n"
    found = rows(write(tmp_path / "a.arc", odd + arc(2, answer(page(2)))))
    assert [row["url"] for row in found] == ["http://page.example/\ufffd", "http://page.example/2"]
    assert [row["drop"] for row in found] == [None, None]


@pytest.mark.parametrize("packed", [False, True])
def test_zstd_with_a_dictionary(tmp_path, packed):
    records = [record(at, answer(page(at))) for at in range(300)]
    dictionary = zstandard.train_dictionary(4000, records)
    content = zstandard.compress(dictionary.as_bytes()) if packed else dictionary.as_bytes()
    frames = list(map(zstandard.ZstdCompressor(dict_data=dictionary).compress, records))
    data = b"\x5d\x2a\x4d\x18" + len(content).to_bytes(4, "little") + content + b"".join(frames)
    found = rows(write(tmp_path / "a.warc.zst", data))
    assert [row["text"] for row in found] == [page(at).decode() for at in range(300)]
    assert found[0]["offset"] == 8 + len(content)
    place = data.index(frames[7])
    found = rows(write(tmp_path / "a.warc.zst", data[: place + 9] + bytes(20) + data[place + 29 :]))
    assert urls(found) == [str(at) for at in range(300) if at != 7]
    assert [row["drop"] for row in found if row["drop"]] == ["corrupt"]
    found = rows(write(tmp_path / "a.warc.zst", b"".join(frames)))  # the dictionary is missing
    assert {row["drop"] for row in found} == {"corrupt"}


def test_a_dictionary_that_is_damaged_is_counted(tmp_path):
    frame = zstandard.compress(b"x" * 5000)[:-5] + b"12345"
    data = b"\x5d\x2a\x4d\x18" + len(frame).to_bytes(4, "little") + frame
    found = rows(write(tmp_path / "a.warc.zst", data + zstandard.compress(record(1, answer(page(1))))))
    assert urls(found) == ["1"]


def test_members_that_do_not_keep_to_records(tmp_path):
    records = [record(at, answer(page(at, 9))) for at in range(20)]
    data = b"".join(records)
    size = 611
    members = [gzip.compress(data[at : at + size]) for at in range(0, len(data), size)]
    assert urls(rows(write(tmp_path / "a.warc.gz", b"".join(members)))) == [str(at) for at in range(20)]
    starts = [data.index(one) for one in records] + [len(data)]
    members[6] = members[6][:30] + bytes(9) + members[6][39:]
    touched = {at for at in range(20) if starts[at] < 7 * size and 6 * size < starts[at + 1]}
    found = rows(write(tmp_path / "a.warc.gz", b"".join(members)))
    assert {str(at) for at in range(20) if at not in touched} <= set(urls(found))
    assert "corrupt" in {row["drop"] for row in found}


@pytest.mark.parametrize("head", [b"junk", bytes(400), b"\n\r\n \n", b"WARC/1.0\r\n\r\n", b"\x1f\x8b\x08junk"])
def test_what_stands_before_the_first_record(tmp_path, head):
    records = [record(at, answer(page(at))) for at in range(3)]
    for layout in ("plain", "gz") if head[0] != 0x1F else ("gz",):
        found = rows(write(tmp_path / "a.warc", head + LAYOUTS[layout](records)), format="warc")
        assert urls(found) == ["0", "1", "2"]
        assert [row["drop"] for row in found if row["drop"]] == ["corrupt"]
    found = rows(write(tmp_path / "a.warc.gz", LAYOUTS["gz"]([head, *records])))
    assert urls(found) == ["0", "1", "2"]


def test_several_compressions_in_one_file(tmp_path):
    order = ("gz", "plain", "gz", "gz", "plain", "plain", "zst", "lz4")
    for order_ in (order, order[1:], order[::-1]):
        parts = [LAYOUTS[layout]([record(at, answer(page(at)))]) for at, layout in enumerate(order_)]
        found = rows(write(tmp_path / "a.warc.gz", b"".join(parts)))
        assert [row["drop"] for row in found] == [None] * len(parts)


def test_bytes_that_are_stored_as_they_are_do_not_count_as_plain(tmp_path):
    """In a frame or member that is not really compressed, a record can be seen from outside."""
    for pack in (lambda one: lz4.frame.compress(one, block_linked=False), lambda one: gzip.compress(one, 0)):
        members = [
            pack(record(at, answer(page(at) + random.Random(at).randbytes(400).hex().encode()))) for at in range(6)
        ]
        members[2] = b"xxxx" + members[2][4:]
        found = rows(write(tmp_path / "a.warc", b"".join(members)))
        assert urls(found) == ["0", "1", "3", "4", "5"]
        assert [row["drop_value"] for row in found if row["drop"] == "corrupt"] == [len(members[2])]


def test_a_file_without_a_page_says_so(tmp_path):
    others = [record(1, b"x: y", kind, Content_Type="application/json") for kind in ("warcinfo", "request", "metadata")]
    for layout, pack in LAYOUTS.items():
        found = rows(write(tmp_path / "a.wat", pack(others)))
        assert [(row["drop"], row["drop_value"]) for row in found] == [("no_records", 3)], layout


# records


def test_record_types(tmp_path):
    kinds = ("warcinfo", "request", "metadata", "continuation", "response", "Response", "revisit", "novelty", None)
    records = [record(at, answer(page(at)), kind) for at, kind in enumerate(kinds)]
    found = rows(write(tmp_path / "a.warc", b"".join(records)))
    assert [row["drop"] for row in found] == [None, None, "revisit", "record_type", "record_type"]


def test_ids_that_are_given_again(tmp_path):
    same = {"WARC_Record_ID": "<urn:uuid:same>"}
    first, second = record(0, answer(page(0)), **same), record(1, answer(page(1)), **same)
    other_address = record(2, answer(page(0)), **same)
    nameless = [record(at, answer(page(3)), WARC_Record_ID=None) for at in (3, 3)]
    found = rows(write(tmp_path / "a.warc", b"".join([first, second, first, other_address, second, *nameless])))
    assert [row["drop"] for row in found] == [None, None, "repeated_record", None, "repeated_record", None, None]
    assert len({row["id"] for row in found}) == 7


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("metadata://gnu.org/software/wget/warc/wget.log", "crawler_record"),
        ("metadata://gnu.org/software/wget/warc/MANIFEST.txt", "crawler_record"),
        ("<metadata://gnu.org/software/wget/warc/wget_arguments.txt>", "crawler_record"),
        ("METADATA:crawl/reports", "crawler_record"),
        ("urn:X-wpull:log", "crawler_record"),
        ("urn:x-grab-site:arguments", "crawler_record"),
        ("urn:pageinfo:http://page.example/", "crawler_record"),
        ("urn:text:http://page.example/", "crawler_record"),
        ("http://page.example/metadata:/wget.log", None),
        ("file:///home/metadata/urn:X-wpull", None),
        ("urn:isbn:0451450523", None),
        ("urn:uuid:6ba7b810-9dad-11d1-80b4-00c04fd430c8", None),
        ("metadatabase://shelf/1", None),
    ],
)
def test_what_crawlers_write_about_themselves(tmp_path, url, reason):
    one = record(1, b"2024-01-02 resolving page.example", "resource", Content_Type="text/plain", WARC_Target_URI=url)
    assert [row["drop"] for row in rows(write(tmp_path / "a.warc", one))] == [reason]


def test_responses_without_http(tmp_path):
    blocks = [
        (page(1), "application/http", None),
        (page(1), "text/html; charset=utf-8", None),
        (b"GET / HTTP/1.1", "application/http", "not_html"),
        (b"domain: page.example", "text/plain", "not_html"),
        (answer(page(1)), "text/html", None),
        (answer(page(1)), None, None),
    ]
    path = write(
        tmp_path / "a.warc",
        b"".join(record(1, block, Content_Type=mime, WARC_Record_ID=None) for block, mime, _ in blocks),
    )
    found = rows(path)
    assert [row["drop"] for row in found] == [reason for *_, reason in blocks]
    assert {row["text"] for row in found if not row["drop"]} == {page(1).decode()}


# what a body is

XHTML = b'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN" "x.dtd">\n<html xmlns="http://www.w3.org/1999/xhtml"><head/><body><p>a</p></body></html>'
BARE_XHTML = b'\xef\xbb\xbf<?xml version="1.0"?><?xml-stylesheet href="a.xsl"?><!-- c --><!-- d -->\n<html xmlns="http://www.w3.org/1999/xhtml"><body/></html>'
RSS = b'<?xml version="1.0"?>\n<rss version="2.0"><channel><description>&lt;html></description></channel></rss>'
ATOM = b'<feed xmlns="http://www.w3.org/2005/Atom"><content type="xhtml"><html><body/></html></content></feed>'
SVG = b'<?xml version="1.0"?><!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "x.dtd"><svg><title>a</title></svg>'
HTML = b"\n<!-- saved -->\n<HTML><HEAD><TITLE>a</TITLE></HEAD><BODY>b</BODY></HTML>"
TEXT = b"How to write a page: start with <html> and <body>, then <p>."
FRAGMENT = b"<p>no page, only a part of one</p>"


@pytest.mark.parametrize(
    ("declared", "body", "mime"),
    [
        ("text/html", TEXT, "text/html"), ("text/html", FRAGMENT, "text/html"), ("text/html", b"\x89PNG\r\n", None),
        ("text/plain", HTML, "text/html"), ("text/plain", XHTML, "text/html"), ("text/plain", TEXT, "text/plain"),
        ("text/plain", FRAGMENT, "text/plain"), ("text/plain", b"<html> is the first tag", "text/plain"),
        ("text/plain", HTML.decode().encode("utf-16"), "text/html"), ("text/plain", RSS, "text/plain"),
        ("text/plain", HTML.decode().encode("utf-16-le"), "text/html"),
        ("application/xhtml+xml", XHTML, "text/html"), ("application/xhtml+xml", BARE_XHTML, "text/html"),
        ("application/xhtml+xml", HTML, "text/html"), ("application/xhtml+xml", RSS, None),
        ("application/xhtml+xml", SVG, None),
        ("application/xml", XHTML, "text/html"), ("text/xml", BARE_XHTML, "text/html"),
        ("application/vnd.wap.xhtml+xml", XHTML, "text/html"), ("application/rss+xml", RSS, None),
        ("application/xml", RSS, None), ("text/xml", ATOM, None), ("image/svg+xml", SVG, None),
        ("application/xml", b"<catalogue><html/></catalogue>", None), ("text/xml", b"", None),
        ("", HTML, "text/html"), ("", TEXT, "text/plain"), ("", b"\0\1\2\3\4", None),
        ("application/octet-stream", HTML, "text/html"), ("application/octet-stream", TEXT, None),
        ("unknown/unknown", XHTML, "text/html"), ("text/x-html", HTML, "text/html"), ("*/*", HTML, "text/html"),
        ("httpd/unix-directory", HTML, "text/html"), ("text", TEXT, None),
        ("application/json", HTML, None), ("text/css", HTML, None), ("image/png", HTML, None),
    ],
)  # fmt: skip
def test_media(declared, body, mime):
    assert http.media(declared, body) == mime


def test_utf_16_without_a_mark_is_no_binary():
    text = "<html><body>人人生而自由，在尊严和权利上一律平等。</body></html>".encode("utf-16-le")
    assert http.media("text/html", text, "utf-16") == "text/html"
    assert not is_binary(HTML.decode().encode("utf-16-be"))
    assert is_binary(bytes(range(9)) * 50)


def test_nuls_in_a_page_do_no_harm():
    assert http.media("text/html", HTML.replace(b"a", bytes(30))) == "text/html"
    assert http.media("text/html", b"\0\0\0\x18ftypmp42" + bytes(90)) is None


def test_text_files_that_are_pages():
    assert sniff(HTML, "a.txt") == "html"
    assert sniff(XHTML, "a") == "html"
    assert sniff(TEXT, "a.txt") == "text"
    assert sniff(HTML, "a.md.gz") == "html"


def test_a_thousand_comments_are_passed_over():
    comments = b"<!-- c -->\n" * 1000
    assert not is_html(comments + b"text")
    assert is_html(comments + HTML)
    assert is_page(comments + HTML)


# whatever comes

fuzz = runpy.run_path(str(ROOT / "benchmarks" / "fuzz_warc.py"), run_name="fuzz_warc")


@pytest.mark.parametrize("layout", fuzz["LAYOUTS"])
def test_damaged_files_lose_no_intact_page(tmp_path, layout):
    for seed in range(60):
        file = fuzz["damaged"](layout, seed)
        assert not fuzz["outcome"](file, tmp_path / "a").missing, seed


@pytest.mark.parametrize("layout", [layout for layout in fuzz["LAYOUTS"] if layout != "one member"])
def test_what_is_read_does_not_depend_on_how_much_is_held(tmp_path, monkeypatch, layout):
    monkeypatch.setattr(compression, "_CHUNK", 200)
    for seed in range(30):
        path = write(tmp_path / "a", fuzz["damaged"](layout, seed).data)
        parts = [list(archive.records(str(path), hold, ("response",))) for hold in (100, 1 << 20)]
        whole, scanned = (
            [part._replace(block=b"") if isinstance(part, Record) else part for part in one] for one in parts
        )
        assert scanned == whole, seed


def test_files_of_starts_only_come_to_an_end(tmp_path):
    for start in (b"WARC/1.0\r\nWARC-Type: response\r\n", b"WARC/1.0\r\nContent-Length: 99999\r\n\r\n", b"\n" * 50):
        for pack in (LAYOUTS["plain"], LAYOUTS["one member"]):
            path = write(tmp_path / "a.warc", pack([start * 20_000]))
            assert sum(1 for _ in archive.records(str(path), 1000, ("response",))) <= 20_000


def test_losses_cover_what_is_not_read(tmp_path):
    """In a plain file every byte is of a record, of a loss, or a line end."""
    for seed in range(40):
        data = fuzz["damaged"]("warc", seed).data
        path = write(tmp_path / "a.warc", data)
        parts = list(archive.records(str(path), 1 << 20, ("response",)))
        places = [part.start[0] for part in parts]
        assert places == sorted(set(places)), seed
        for part, after in zip(parts, [*places[1:], len(data)], strict=True):
            end = (
                part.start[0] + part.size
                if isinstance(part, Lost)
                else data.index(part.block, part.start[0]) + part.size
            )
            assert not data[end:after].strip(b"\r\n"), seed
        assert not data[: places[0]].strip(b"\r\n"), seed


def test_bodies_that_are_coded(tmp_path):
    body = page(1, 500)
    packed = zlib.compressobj(wbits=-15)
    raw = packed.compress(body) + packed.flush()
    codings = {"gzip": gzip.compress(body), "Deflate": raw, "zstd": zstandard.compress(body)}
    records = [
        record(at, answer(coded, "text/html", f"CONTENT-ENCODING: {name}", end="\n"))
        for at, (name, coded) in enumerate(codings.items())
    ]
    assert {row["text"] for row in rows(write(tmp_path / "a.warc", b"".join(records)))} == {body.decode()}
