"""The tokenizer of HTML: against a plain one in Python, and on what the WHATWG standard says of odd markup."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.kernels import html_tokens
from stages.kernels.html_names import KINDS, RAW, TAG
from stages.kernels.html_tokens import BREAKS_OUT, CLOSE, CLOSED, OPEN, TEXT, VERBATIM

NAMES = {number: name for name, number in TAG.items()}
SPACE = rb"[ \t\n\r\f]"
_TAG = re.compile(rb"</?([A-Za-z][^ \t\n\r\f/>]*)")
_ATTRIBUTE = re.compile(
    rb"[ \t\n\r\f/]*(?:([^ \t\n\r\f/>][^ \t\n\r\f/>=]*)(?:[ \t\n\r\f]*=[ \t\n\r\f]*"
    rb"(?:\"[^\"]*(?:\"|$)|'[^']*(?:'|$)|[^ \t\n\r\f>]*))?)?"
)

Token = tuple[int, str, bytes]


def read(page: bytes, xml: bool = False) -> list[Token]:
    kinds, ranges = html_tokens.tokens(np.frombuffer(page, np.uint8), xml)
    return [
        (int(kind), NAMES.get(int(tag), ""), page[first:last])
        for (kind, tag), (first, last) in zip(kinds, ranges, strict=True)
    ]


def shown(page: str, xml: bool = False) -> str:
    """The tokens as text: `<p a=1>`, `</p>`, `<br/>`, `"text"`, `'verbatim'`."""
    forms = {TEXT: '"{1}"', VERBATIM: "'{1}'", OPEN: "<{0}{1}>", CLOSED: "<{0}{1}>", CLOSE: "</{0}>"}
    return "".join(forms[kind].format(name, raw.decode()) for kind, name, raw in read(page.encode(), xml))


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("<P Class='a>b' id=x>Hi &amp; you", "<p Class='a>b' id=x>\"Hi &amp; you\""),
        ("a < b <3 <> </> c</ d>e", '"a < b <3 <> "" c""e"'),
        ("x<!-- a > b -- c -->y<!-->z<!--->w<!-- --!>v", '"x""y""z""w""v"'),
        ("x<!doctype html>y<?php a ?>z", '"x""y""z"'),
        ("<script>if (a<b) '</scr'</SCRIPT x>y", "<script>'if (a<b) '</scr''</script>\"y\""),
        (
            "<script><!-- <script> a </script> --> b</script>c",
            "<script>'<!-- <script> a </script> --> b'</script>\"c\"",
        ),
        ("<script><!-- a </script>c", "<script>'<!-- a '</script>\"c\""),
        ("<title>a<b>&amp;</title>", '<title>"a<b>&amp;"</title>'),
        ("<textarea><p></textarea>", '<textarea>"<p>"</textarea>'),
        ("<style><p></styles></style>x", "<style>'<p></styles>'</style>\"x\""),
        ("<plaintext></p></plaintext>", "<plaintext>'</p></plaintext>'"),
        ("<a b = c d= 'e' f='g'h =i / j/>x", "<a b = c d= 'e' f='g'h =i / j/>\"x\""),
        ("<a =b>x", '<a =b>"x"'),
        ("<a href=x/>y", '<a href=x/>"y"'),
        ("<br/><div/>", "<br/><div/>"),
        ("x<p", '"x"'),
        ("x<p a='>", '"x"'),
        ("x<", '"x<"'),
        ("x<!-- ", '"x"'),
        ("<svg><title><b>x</svg><title><b>", '<svg><title><b>"x"</svg><title>"<b>"'),
        ("<svg><![CDATA[a<b]]></svg><![CDATA[c]]>d", "<svg>'a<b'</svg>\"d\""),
    ],
)
def test_odd_markup_is_cut_as_the_standard_cuts_it(page: str, expected: str) -> None:
    assert shown(page) == expected


def test_xml_has_cdata_everywhere_and_empty_elements() -> None:
    assert shown("<script/><div/><![CDATA[a<b]]>c", xml=True) == "<script/><div/>'a<b'\"c\""
    assert read(b"<div/>", True)[0][0] == CLOSED
    assert read(b"<a x=y/>", True)[0][0] == OPEN  # the slash belongs to the value


def twin(page: bytes, xml: bool) -> list[Token]:
    """The same tokens, by searching for the next thing from each place."""
    found: list[Token] = []
    place = text = 0
    foreign = ""

    def flush(upto: int) -> None:
        if text < upto:
            found.append((TEXT, "", page[text:upto]))

    while (place := page.find(b"<", place)) >= 0 and place + 1 < len(page):
        tag = _TAG.match(page, place)
        if tag:
            flush(place)
            end, closed = twin_attributes(page, tag.end())
            if end < 0:
                return found
            name = tag[1].decode("latin-1").lower()
            name = name if name in TAG else ""
            attributes = page[tag.end() : end]
            text = place = end + 1
            if page[tag.start() + 1 : tag.start() + 2] == b"/":
                found.append((CLOSE, name, attributes))
                foreign = "" if name == foreign else foreign
                continue
            if foreign and name and BREAKS_OUT[TAG[name]]:
                foreign = ""
            found.append((CLOSED if closed else OPEN, name, attributes))
            if closed and (xml or foreign):
                continue
            if name in ("svg", "math") and not foreign and not closed:
                foreign = name
            elif name and KINDS[TAG[name]] & RAW and not foreign:
                place = twin_raw_end(page, place, tag[1], name)
                if text < place:
                    found.append((TEXT if name in ("title", "textarea") else VERBATIM, name, page[text:place]))
                text = place
        elif page[place + 1 : place + 2] in (b"!", b"?") or (
            page[place + 1 : place + 2] == b"/" and place + 2 < len(page)
        ):
            flush(place)
            if (xml or foreign) and page.startswith(b"<![CDATA[", place):
                end = page.find(b"]]>", place + 9)
                end = len(page) if end < 0 else end
                found.append((VERBATIM, "", page[place + 9 : end]))
                place = min(end + 3, len(page))
            elif page.startswith(b"<!--", place):
                comment = re.compile(rb"<!--(?:>|->|.*?--!?>|.*$)", re.S).match(page, place)
                assert comment
                place = comment.end()
            else:
                end = page.find(b">", place)
                place = len(page) if end < 0 else end + 1
            text = place
        else:
            place += 1
    flush(len(page))
    return found


def twin_attributes(page: bytes, place: int) -> tuple[int, bool]:
    """The place of the `>` of a tag, -1 for none, and whether `/` ends it."""
    slash = False
    while place < len(page):
        if page[place] == 62:
            return place, slash
        match = _ATTRIBUTE.match(page, place)
        assert match
        slash = match[1] is None and match[0].endswith(b"/")
        if match.end() == place:
            return -1, False
        place = match.end()
    return -1, False


def twin_raw_end(page: bytes, place: int, raw: bytes, name: str) -> int:
    if name == "plaintext":
        return len(page)
    end = re.compile(rb"</" + re.escape(raw) + SPACE[:-1] + rb"/>]", re.I)
    if name == "script":
        whole = rb"(?s:.*?)(?=(?:<!--)|" + end.pattern + rb"|\Z)"
        while not end.match(page, (stop := re.compile(whole, re.I).match(page, place).end())):  # type: ignore[union-attr]
            if stop == len(page):
                return stop
            place = twin_escaped(page, stop, end)
            if end.match(page, place):
                return place
        return stop
    found = end.search(page, place)
    return found.start() if found else len(page)


def twin_escaped(page: bytes, place: int, end: re.Pattern[bytes]) -> int:
    """From a script's `<!--` to behind its `-->`, or to the end tag that counts in it."""
    step = re.compile(rb"-->|<script" + SPACE[:-1] + rb"/>]|" + end.pattern, re.I)
    place, twice = place + 2, False
    while found := step.search(page, place):
        if found[0] == b"-->":
            return found.end()
        if found[0][:2] == b"</":
            if not twice:
                return found.start()
            twice = False
        else:
            twice = True
        place = found.start() + 1
    return len(page)


PIECES = st.sampled_from(
    [b"<div", b"<p>", b"</p>", b"</div ", b">", b"<!--", b"-->", b"--!>", b"<script>", b"</script>", b"<script ", b"'",
     b'"', b"=", b" a", "汉".encode(), b"/", b"<", b"<svg>", b"</svg>", b"<math/>", b"<title>", b"</title>",
     b"<![CDATA[", b"]]>", b"<?x", b"<!d", b"</", b"<br/>", b"-", b"x", b"<xmp>", b"</xmp>", b"<plaintext>", b"\0",
     b"\xff"]
)  # fmt: skip


@settings(deadline=None, max_examples=400)  # the first call compiles
@given(st.lists(PIECES, max_size=24).map(b"".join), st.booleans())
def test_the_kernel_and_its_twin_agree(page: bytes, xml: bool) -> None:
    assert read(page, xml) == twin(page, xml)


@settings(deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_cut_in_order(page: bytes, xml: bool) -> None:
    kinds, ranges = html_tokens.tokens(np.frombuffer(page, np.uint8), xml)
    flat = ranges.reshape(-1)
    assert (np.diff(flat) >= 0).all()
    assert not len(flat) or 0 <= flat[0] <= flat[-1] <= len(page)
    assert len(kinds) <= 2 * page.count(b"<") + 1
