"""Bytes in, text out: the real pages of the sample, and the same texts cut short, undeclared and lied about."""

import html
import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.collect import Collect
from stages.readers.charset import Decoded, canonical, decode, python_codec
from stages.readers.charset.declared import declared
from stages.readers.charset.utf import encoded_once
from stages.readers.sniff import is_binary

WARC = Path(__file__).parent.parent / "data_samples" / "sample.warc.gz"
CASES = {
    "cmn_hans.gb18030.header": "gb18030",
    "cmn_hans.gbk.meta": "gb18030",
    "cmn_hans.gb2312.none": "gb18030",
    "cmn_hant.big5.header": "big5",
    "cmn_hant.big5.none": "big5",
    "jpn.shift_jis.meta": "shift_jis",
    "jpn.euc_jp.none": "euc-jp",
    "kor.euc_kr.header": "euc-kr",
    "rus.koi8_r.none": "koi8-r",
    "rus.windows-1251.meta": "windows-1251",
    "fra.iso-8859-1.header": "windows-1252",
    "pol.iso-8859-2.none": "iso-8859-2",
    "cmn_hans.gb18030.wrong-meta": "gb18030",
    "eng.utf-16.header": "utf-16le",
    "cmn_hans.utf8.wrong-header": "utf-8",
}


@pytest.fixture(scope="module")
def pages():
    source = Collect(paths=[str(WARC)])
    return {row["url"]: row for split in source.inputs() for table in source.read(split) for row in table.to_pylist()}


@pytest.fixture(scope="module")
def texts(pages):
    """The words of each language's page, without markup."""
    return {url.split("/")[-1][:-5]: words(row["text"]) for url, row in pages.items() if "udhr.example" in url}


def words(page: str) -> str:
    body = re.sub(r"<title.*?</title>|<[^>]*>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(body).split())


@pytest.mark.parametrize("case", CASES)
def test_charset_cases_of_the_sample(pages, texts, case):
    row = pages[f"http://enc.example/{case}.html"]
    assert row["charset"] == CASES[case]
    assert words(row["text"]) == texts[case.split(".")[0]]


def test_every_other_page_of_the_sample_is_utf8_or_what_its_header_says(pages):
    others = {row["charset"] for url, row in pages.items() if not row["drop"] and "enc.example" not in url}
    assert others == {"utf-8", "euc-kr"}
    korean = [row for row in pages.values() if row["charset"] == "euc-kr" and "/ko/" in row["url"]]
    assert len(korean) == 4
    assert all("아파치" in row["text"] for row in korean)


def found(data: bytes, header: str | None = None, page: bool = True):
    result = decode(b'<html><body><div class="a">' + data + b"</div></body></html>" if page else data, header, page)
    return result and (result.text, result.charset)


def cuts(text: str, size: int):
    return [text[at : at + size] for at in range(0, len(text) - size, max(size, len(text) // 40))]


@pytest.mark.parametrize(
    ("language", "codec", "name"),
    [
        ("cmn_hans", "gb18030", "gb18030"), ("cmn_hant", "gb18030", "gb18030"), ("cmn_hant", "big5", "big5"),
        ("jpn", "shift_jis", "shift_jis"), ("jpn", "euc_jp", "euc-jp"), ("kor", "euc_kr", "euc-kr"),
        ("rus", "koi8_r", "koi8-r"), ("rus", "cp1251", "windows-1251"), ("ukr", "cp1251", "windows-1251"),
        ("arb", "cp1256", "windows-1256"), ("heb", "cp1255", "windows-1255"), ("tha", "cp874", "windows-874"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("header", [None, "iso-8859-1", "utf-8"])
@pytest.mark.parametrize(("size", "agreement"), [(200, 1.0), (60, 0.93)])
def test_undeclared_or_lied_about(texts, language, codec, name, header, size, agreement):
    parts = [cut.encode(codec, "ignore") for cut in cuts(texts[language], size)]
    right = [found(part, header) is not None and part.decode(codec) in found(part, header)[0] for part in parts]
    assert sum(right) >= agreement * len(right)
    assert found(parts[0], name, page=False) == (parts[0].decode(python_codec(name)), name)


@pytest.mark.parametrize(("language", "codec"), [("cmn_hans", "gbk"), ("cmn_hant", "big5")])
@pytest.mark.parametrize("header", [None, "iso-8859-1"])
@pytest.mark.parametrize(("size", "agreement"), [(30, 0.96), (15, 0.92)])
def test_a_chinese_sentence_is_enough(texts, language, codec, header, size, agreement):
    parts = [cut.encode(codec, "ignore") for cut in cuts(texts[language], size)]
    right = [part.decode(codec) in (found(part, header) or ("",))[0] for part in parts]
    assert sum(right) >= agreement * len(right)


@pytest.mark.parametrize("meta", ["utf-8", "iso-8859-1", "windows-1252", "nonsense", "gb2312"])
def test_gbk_page_whatever_its_meta_says(texts, meta):
    page = f'<html><head><meta charset="{meta}"></head><body>{texts["cmn_hans"][:300]}</body></html>'
    assert decode(page.encode("gbk"), None, html=True) == Decoded(page, "gb18030")
    assert decode(page.encode("gbk"), meta, html=True) == Decoded(page, "gb18030")


@pytest.mark.parametrize("header", ["iso-8859-1", "gbk", "windows-1251", "utf-16", "unheard-of", None])
@pytest.mark.parametrize("language", ["fra", "cmn_hant", "rus", "tha", "hin"])
def test_utf8_survives_any_header(texts, language, header):
    assert found(texts[language].encode(), header, page=False) == (texts[language], "utf-8")


def test_western_text_keeps_its_accents(texts):
    for language in ("fra", "deu_1996", "spa", "ita", "por_BR"):
        data = texts[language].encode("cp1252", "ignore")
        assert found(data, "iso-8859-1", page=False) == (data.decode("cp1252"), "windows-1252")
        assert found(data, None, page=False)[0] == data.decode("cp1252")


def test_polish_served_as_western_is_noticed(texts):
    data = texts["pol"].encode("iso8859_2", "ignore")
    assert found(data, "iso-8859-1", page=False) == (data.decode("iso8859_2"), "iso-8859-2")


def test_byte_order_marks():
    for codec, name in (("utf-8-sig", "utf-8"), ("utf-16", "utf-16le"), ("utf-32", "utf-32le")):
        assert decode("一 text".encode(codec), "koi8-r") == Decoded("一 text", name)
    assert decode(b"\xfe\xff\x4e\x00", None) == Decoded("一", "utf-16be")


WIDE = [
    "Plain words, told in wide letters.",
    "Широкие буквы",
    "山里的泉水最好，井水次之，我们都这么说。",
    "모든 인간은 자유롭다",
]


@pytest.mark.parametrize("name", ["utf-16le", "utf-16be", "utf-32le", "utf-32be"])
@pytest.mark.parametrize("text", WIDE)
@pytest.mark.parametrize("header", [True, False])
def test_wide_characters_need_no_mark(name, text, header):
    page = f"<html><head><title>x</title></head><body><p>{text}</p></body></html>"
    data = page.encode(python_codec(name))
    assert decode(data, name if header else None, html=True) == Decoded(page, name)
    assert decode(data + b"<", name if header else None, html=True) == Decoded(page, name)  # cut within a character
    assert not is_binary(data)


def test_seven_bits():
    for text, codec, name in (
        ("日本語のテキスト", "iso2022_jp", "iso-2022-jp"),
        ("모든 인간은 자유롭다", "iso2022_kr", "iso-2022-kr"),
        ("山里的泉水最好", "hz", "hz-gb-2312"),
    ):
        assert decode(text.encode(codec), name) == Decoded(text, name)
    assert decode(b"a ~{b~} c") == Decoded("a ~{b~} c", "utf-8")  # HZ is believed where it is declared


def test_binary_is_undecodable():
    draw = random.Random(3)
    assert decode(bytes(range(1, 32)) * 40) is None
    assert decode(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR") is None
    for size in (60, 500, 5000):
        assert decode(draw.randbytes(size)) is None
        assert decode(bytes(draw.randrange(0x80, 0x100) for _ in range(size))) is None  # not a control among them


def test_nuls_are_taken_out():
    assert decode(b"text\0with a nul") == Decoded("textwith a nul", "utf-8", nuls=1)
    assert decode("caf\0é, naïve".encode("cp1252")) == Decoded("café, naïve", "windows-1252", nuls=1)
    assert decode("\ufefftext\0with".encode("utf-16-le")) == Decoded("textwith", "utf-16le", nuls=1)
    assert decode("文字\0文字，我们的国家".encode("gbk"), "gbk") == Decoded("文字文字，我们的国家", "gb18030", nuls=1)


@pytest.mark.parametrize(
    ("before", "stray", "after", "read"),
    [
        ("Für größere Gruppen; F", b"\xfc", "r Gäste", "ü"),
        ("Die Größe der Schl", b"\xfc", "ssel", "ü"),
        ("Größen, Ma", b"\xdf", "e", "ß"),
        ("très “bien” dit ", b"\x93", "oui", "“"),
        ("la señora and the keeper", b"\x92", "s lamp", "’"),
        ("今天的价格是", b"\xa3", "五块钱，谁家都买得起", "\ufffd"),
        ("Сегодня ", b"\xf1\xe5", " в городе", "\ufffd\ufffd"),
        ("déjà caf", b"\xc3", " là", "\ufffd"),  # the first half of é
    ],
)
def test_stray_bytes_in_utf8(before, stray, after, read):
    wanted = before + read + after
    replaced = read.count("\ufffd")
    data = before.encode() + stray + after.encode()
    for header in (None, "iso-8859-1", "windows-1251"):
        assert decode(data, header) == Decoded(wanted, "utf-8", replaced, len(stray) - replaced)


def test_damage_is_held_against_the_whole_text():
    text = "A long English text with a café in it. " * 20
    assert decode(text.encode() + b"caf\xe9 again").text == text + "café again"


@pytest.mark.parametrize("text", ["Größe und Übermut", "Старый маяк", "山里的泉水最好", "naïve “café” — 5 €"])
def test_what_was_encoded_twice_is_put_right(text):
    twice = "".join(
        bytes([byte]).decode("cp1252") if byte not in (0x81, 0x8D, 0x8F, 0x90, 0x9D) else chr(byte)
        for byte in text.encode()
    )
    result = decode(f"<p>plain words</p><p>{twice}</p>".encode(), None, html=True)
    assert result.text == f"<p>plain words</p><p>{text}</p>"
    assert result.charset == "utf-8"
    assert result.repaired > 0


@pytest.mark.parametrize(
    "text",
    [
        "ＦＵＬＬ ｗｉｄｔｈ “curly” ‘quotes’ ﬁne … ①",
        "Le café s’écrit parfois cafÃ©, déjà vu à l’école.",  # a text about it
        "NÃO É VERDADE; IRMÃ, MAÇÃ",
        "Â Ã Ä",
        "½ Ã — 3 Â°",
    ],
)
def test_what_was_encoded_once_is_left(text):
    assert decode(text.encode()) == Decoded(text, "utf-8")


@pytest.mark.parametrize(
    "wrapped",
    ["<!-- {} -->", "<script>{}</script>", "<style>{}</style>", "<noscript>{}</noscript>", "<template>{}</template>",
     "<title>{}</title>", "<textarea>{}</textarea>", "<![CDATA[{}]]>", "<!--[if IE]>{}<![endif]-->",
     "<p title='{}'>", "<meta name=description content='{}'>"],
)  # fmt: skip
def test_a_declaration_that_is_text_is_none(wrapped):
    meta = '<meta charset="koi8-r">'
    assert declared(f"<html><head>{wrapped.format(meta)}</head>".encode(), None, html=True) == []
    page = f'<html><head>{wrapped.format(meta)}<meta charset="windows-1251"></head>'
    assert declared(page.encode(), None, html=True) == ["windows-1251"]


@pytest.mark.parametrize(
    ("head", "names"),
    [
        ('<META http-equiv="Content-Type" content="text/html; charset=big5">', ["big5"]),
        ("<meta content='text/html;charset=gbk' http-equiv=content-type>", ["gb18030"]),
        ("<meta charset = windows-1251 />", ["windows-1251"]),
        ('<meta name="keywords" content="charset=koi8-r"><meta charset=gbk>', ["gb18030"]),
        ('<?xml version="1.0" encoding="shift_jis"?><html>', ["shift_jis"]),
        ("<!--> <meta charset=gbk>", ["gb18030"]),
        ("<!-- <meta charset=gbk>", []),
        ("<meta charset=utf-16>", ["utf-8"]),
        ("<body><meta charset=gbk>", []),
    ],
)
def test_declarations(head, names):
    assert declared(head.encode(), None, html=True) == names


RUSSIAN = "Старый маяк на краю мола построили после того, как за одну зиму погибли три корабля. Москва, Россия, Юг."


@pytest.mark.parametrize("codec", ["cp1251", "koi8_r", "iso8859_5", "cp866", "mac_cyrillic", "cp855"])
@pytest.mark.parametrize("label", [None, "windows-1251", "koi8-r", "iso-8859-5", "ibm866", "x-mac-cyrillic", "latin1"])
@pytest.mark.parametrize("text", [RUSSIAN, RUSSIAN.upper(), RUSSIAN.lower()])
def test_cyrillic_by_its_letters(codec, label, text):
    assert decode(text.encode(codec), label).text == text


@pytest.mark.parametrize(
    ("text", "codec"),
    [
        ("Señor Muñoza sold the oil, and his piñata stood in the hall of the old tower.", "cp1252"),
        ("The maker, one Brøndholm, put an ø on every plate that left the house.", "cp1252"),
        ("We met at the café and he paid 5 £ for it – “a lot”, as he said.", "cp1252"),
        ("Zażółć gęślą jaźń, powiedziała źle ubrana śpiewaczka", "cp1250"),
        ("Zażółć gęślą jaźń, powiedziała źle ubrana śpiewaczka", "iso8859_2"),
        ("Dünyanın en büyük şehirlerinden biri olan İstanbul çok güzeldir", "cp1254"),
        ("Visi žmonės gimsta laisvi ir lygūs savo orumu ir teisėmis", "cp1257"),
        ("Český rozhlas vysílá zprávy každou celou hodinu, říká ředitel", "cp852"),
        ("L’été dernier, la forêt brûlait déjà près de l’école", "mac_roman"),
    ],
)
def test_languages_of_latin_letters(text, codec):
    assert decode(text.encode(codec)).text == text


def test_letters_that_charsets_got_late():
    assert decode(
        "一箱卖€五块钱，我们的价格".encode("gb18030").replace("€".encode("gb18030"), b"\x80"), "gbk"
    ) == Decoded("一箱卖€五块钱，我们的价格", "gb18030")
    assert decode(b"\xfe\x59\xa6\xd9" + "我们的国家".encode("gbk"), "gbk").text == "龴︐我们的国家"
    text = "佢哋喺呢度食嘢，我哋唔知點解"
    assert decode(text.encode("big5hkscs"), "big5") == Decoded(text, "big5")
    text = "新しい①番のカメラと髙橋さん"
    assert (
        decode(b"\xbf\xb7\xa4\xb7\xa4\xa4\xad\xa1" + "番のカメラ".encode("euc_jp"), "euc-jp").text
        == "新しい①番のカメラ"
    )
    assert decode(text.encode("cp932"), None) == Decoded(text, "shift_jis")
    assert decode("모든 인간은 자유롭다".encode("johab"), "johab") == Decoded("모든 인간은 자유롭다", "johab")


def test_a_few_damaged_characters_do_not_cost_a_page(texts):
    data = texts["cmn_hans"].encode()[:-1]  # cut within the last character
    assert decode(data, "iso-8859-1")[:2] == (texts["cmn_hans"][:-1] + "\ufffd" * 2, "utf-8")
    data = texts["cmn_hans"].encode("gbk")
    harmed = data[:300] + b"\xff" + data[300:]
    result = decode(harmed, "gb2312")
    assert result.charset == "gb18030"
    assert result.text.replace("\ufffd", "") == texts["cmn_hans"]
    assert result.replaced == 1


def test_what_was_put_right_is_counted(tmp_path):
    (tmp_path / "a.html").write_bytes("<p>Größe und Übermut, F".encode() + b"\xfcr \0alle und jeden</p>")
    (tmp_path / "b.txt").write_text("clean", encoding="utf-8")
    source = Collect(paths=[str(tmp_path)])
    (table,) = [table for split in source.inputs() for table in source.read(split)]
    assert table["metadata"].to_pylist() == ['{"decoding":{"repaired":1,"nuls":1}}', None]
    assert source.tally(table) == {"decoding_replaced": 0, "decoding_repaired": 1, "decoding_nuls": 1}


@pytest.mark.parametrize(
    "piece", [b"<", b"<script", b"<!--", b"<meta ", b"a" * 50, b"\xe9 ", b"<a '", b"\xc3\x82\xc2\x80"]
)
def test_long_nonsense_is_read_in_time(piece):
    decode(piece * 20_000 + b"\xe9", None, html=True)


def test_labels():
    assert [canonical(label) for label in ("ISO-8859-1", " gb2312", '"GBK"', "Shift_JIS", "sjis", "l5", "utf8")] == [
        "windows-1252", "gb18030", "gb18030", "shift_jis", "shift_jis", "windows-1254", "utf-8"
    ]  # fmt: skip
    assert [canonical(label) for label in (None, "", "utf-7", "rot13", "unicode_escape", "idna")] == [None] * 6


@given(st.binary(), st.sampled_from([None, "gbk", "utf-8", "utf-16", "iso-8859-1", "big5", "x"]), st.booleans())
def test_any_bytes(data, header, page):
    result = decode(data, header, page)
    if result is not None:
        text, name = result[:2]
        assert "\0" not in text
        text.encode("utf-8")  # no lone surrogates
        assert not text.startswith("\ufeff") or data.count(b"\xef\xbb\xbf") > 1 or name != "utf-8"
        assert canonical(name) or name.startswith("utf-32")


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1))
def test_any_unicode_text_in_utf8(text):
    text = text.removeprefix("\ufeff")
    assert decode(text.encode(), None)[:2] == (encoded_once(text, text.encode()).text, "utf-8")
