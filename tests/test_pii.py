"""The pii stage: what is replaced, what only looks like it, and that nothing else is touched."""

import gzip
import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline import schema
from stages import pii
from stages.kernels import personal
from stages.pii import Pii

SAMPLES = Path(__file__).parent.parent / "data_samples"


def clean(text: str | None, **config: bool) -> str | None:
    return apply([text], **config)["text"][0].as_py()


def apply(texts: list[str | None], **config: bool) -> pa.Table:
    docs = pa.table({"text": pa.array(texts, pa.string())})
    out = Pii(**config).apply(docs)
    assert {name: out.schema.field(name).type for name in Pii.adds} == Pii.adds
    assert "drop" not in out.column_names
    return out


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to jane.doe+x@mail.corp.co.uk.", "write to email@example.com."),
        ("联系邮箱abc.def@qq.com谢谢", "联系邮箱email@example.com谢谢"),
        ("<a_b-c@gmail.com>,x@y.cn;", "<email@example.com>,email@example.com;"),
        ("mailto:foo@bar.com?subject=x", "mailto:email@example.com?subject=x"),
        ("服务器8.8.8.8在线，内网192.168.1.1", "服务器192.0.2.1在线，内网192.168.1.1"),
        ("ping 93.184.216.34:80, 8.8.4.4/32", "ping 192.0.2.1:80, 192.0.2.1/32"),
        ("from 8.8.8.8-8.8.4.4.", "from 192.0.2.1-192.0.2.1."),
        ("8.8.8.8 answered", "8.8.8.8 answered"),  # the price of the next one, told in the class's docstring
        ("see\n  • 2.1.6.1. Wireless Network Cards", "see\n  • 2.1.6.1. Wireless Network Cards"),
        ("2.1.6.1. 无线网卡", "2.1.6.1. 无线网卡"),
        ("via 2001:4860:4860::8888 or [2606:4700:4700:0:0:0:0:1111]", "via 2001:db8::1 or [2001:db8::1]"),
        ("手机13800138000。", "手机10000000000。"),
        ("+86 138-0013-8000、(+86)13912345678、8615012345678", "10000000000、10000000000、10000000000"),
        ("138 0013 8000\n19912345678 17712345678", "10000000000\n10000000000 10000000000"),
        ("身份证11010519491231002X，完", "身份证000000000000000000，完"),
        ("id: 440524188001010014", "id: 440524188001010014"),  # right checksum, born before 1900
        # What stands before an address is a version by whole words only.
        (
            "nameserver 8.8.8.8, driver: 8.8.8.8, receiver 8.8.8.8",
            "nameserver 192.0.2.1, driver: 192.0.2.1, receiver 192.0.2.1",
        ),
        (
            "conversion 8.8.8.8 rebuild 8.8.8.8 intersection 8.8.8.8",
            "conversion 192.0.2.1 rebuild 192.0.2.1 intersection 192.0.2.1",
        ),
        (
            "MailServer 8.8.8.8, web-server 8.8.8.8, сервер 8.8.8.8",
            "MailServer 192.0.2.1, web-server 192.0.2.1, сервер 192.0.2.1",
        ),
        ("服务器：8.8.8.8 版本 2.0，服务器8.8.8.8版权", "服务器：192.0.2.1 版本 2.0，服务器192.0.2.1版权"),
        (
            'ip.addr == 8.8.8.8, remote_ip != "8.8.8.8", <8.8.8.8>',
            'ip.addr == 192.0.2.1, remote_ip != "192.0.2.1", <192.0.2.1>',
        ),
        (
            "http://8.8.8.8/ localhost/8.8.8.8 root@8.8.8.8 ipinfo.io/8.8.8.8",
            "http://192.0.2.1/ localhost/192.0.2.1 root@192.0.2.1 ipinfo.io/192.0.2.1",
        ),
        (
            "version 8.8.8.8, ask 9.9.9.9; v8.8.8.8, 142.250.74.46",
            "version 8.8.8.8, ask 192.0.2.1; v8.8.8.8, 192.0.2.1",
        ),
        ("IP:2001:4860::8888, address:2606:4700::1111.", "IP:2001:db8::1, address:2001:db8::1."),
        (
            "2001:4860:4860::8888: no answer; 地址：2001:4860:4860::8888。",
            "2001:db8::1: no answer; 地址：2001:db8::1。",
        ),
        # Several numbers in a row, whatever stands between them.
        *(
            (f"请拨打13800138000{gap}13900139000。", f"请拨打10000000000{gap}10000000000。")
            for gap in (
                "/",
                ",",
                "，",
                "、",
                "-",
                ".",
                "_",
                "|",
                "+",
                "=",
                ";",
                " / ",
                "／",
                "——",
                "\\",
                " ",
                "\n",
                "或",
                " or ",
                "~",
            )
        ),
        ("138 0013 8000 139 0013 9000 138-0013-8000-139-0013-9000", "10000000000 10000000000 10000000000-10000000000"),
        ("13800138000/+8613900139000/86-137-0013-7000", "10000000000/10000000000/10000000000"),
        ("0571-88888888/13800138000, 13800138000/88888888", "0571-88888888/10000000000, 10000000000/88888888"),
        ("138.0013.8000 138·0013·8000 138–0013–8000 138\xa00013\xa08000", " ".join(["10000000000"] * 4)),
        (
            "１３８００１３８０００／＋８６１３９００１３９０００、服务器８．８．８．８",
            "10000000000／10000000000、服务器192.0.2.1",
        ),
        ("（+86）13800138000、[0086]13800138000、+86 - 13800138000", "10000000000、10000000000、10000000000"),
        ("Tel.13800138000 tel13800138000 手机=13800138000", "Tel.10000000000 tel10000000000 手机=10000000000"),
        ("11010519491231002X/１１０１０５１９４９１２３１００２Ｘ", "000000000000000000/000000000000000000"),
        # Letters with accents, apostrophes, other alphabets; words around stay.
        (
            "andré.lapierre@phare.fr, andre\u0301@phare.fr, ñandú@x.ar",
            "email@example.com, email@example.com, email@example.com",
        ),
        (
            "o'brien@x.ie, O’Brien@x.ie, 'bob@x.com', d'andre@x.fr",
            "email@example.com, email@example.com, 'email@example.com', d'email@example.com",
        ),
        ("张三zhangsan@d.cn，写信给édith@x.fr谢谢", "张三email@example.com，写信给email@example.com谢谢"),
        (
            "иван@почта.рф, почтаivan@mail.ru, γιάννης@x.gr, a@bücher.de",
            "email@example.com, почтаemail@example.com, email@example.com, email@example.com",
        ),
        ("zhang＠qq.com、ｚｈａｎｇ＠ｑｑ．ｃｏｍ", "email@example.com、email@example.com"),
    ],
)
def test_replaced(text: str, expected: str) -> None:
    assert clean(text) == expected
    assert clean(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        "icon@2x.png and lodash@4.17.21 and @decorator and user@localhost and a@b",
        "alice@example.com, bob@mail.example.org, carol@host.invalid",
        "release 1.2.3.4, v8.8.8.8, version: 9.9.9.9, 版本号 8.8.8.8, 1.2.3.4.5, libfoo-8.8.8.8, 8.8.8.8-1, 8.8.8.8_x",
        "127.0.0.1 10.1.2.3 172.16.0.1 169.254.1.1 224.0.0.1 255.255.255.255 0.0.0.0 192.0.2.44 203.0.113.7",
        "8.8.8.8-rc1 622 138 0013 8000 256.8.8.8 8.8.8 08.08.08.08 8.8.8.8888",
        "12:30:45 std::vector 2001:db8::5 fe80::1 ::1 a::b 3f2a:zz:: 2001:4860::11.2.3",
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 commit 13800138000abcdef a13800138000",
        "ISBN 978-7-301-04815-2 9787301048152, 6222 1380 0138 0008 123, 1609459200000, 0.13800138000, 13800138000.5",
        "1380013800 138001380001 12800138000 10000000000 013800138000 https://x.y/p/13800138000?id=13912345678",
        "110105194912310021 11010519491331002X 110105194912310020 01010519491231002X 111010519491231002X",
        "010-62751234 138-001-38000",
        "FileVersion 8.8.8.8, fileVer: 8.8.8.8, <version>8.8.8.8</version>, **Version:** 8.8.8.8, version (8.8.8.8)",
        "version number 8.8.8.8, 专业版8.8.8.8, 升级到8.8.8.8版, 固件 8.8.8.8, 第8.8.8.8条, 使用v8.8.8.8",
        "バージョン8.8.8.8, 버전 8.8.8.8",
        "versión 8.8.8.8, версия 8.8.8.8, subsection 8.8.8.8, the 8.8.8.8 release",
        "versions 8.8.8.8 and 8.9.1.2, from version 8.8.8.8 to 9.0.1.1, v8.8.8.8 -> v8.8.9.1",
        "lens==1.26.0.4 lens>=1.26.0.4, lens ~= 1.26.0.4, lens[a]==1.26.0.4, lens (>= 2.3.4.5), Chrome/3.0.195.38",
        "abcd:2001:4860::8888 fe80::2001:4860:1",
        "/item/13800138000.html /a/13800138000/13900139000.html x.cn/13800138000-13900139000 2023/13800138000.jpg",
        "IMG_13800138000_13900139000 a13800138000/b 1380013800013900139000 2024/05/06/13800138000 hotel13800138000",
        "622 138 0013 8000 139, 138 0013 8000 12, ISBN 978-7-138-00138-0, 2024-05-06 12:30:45, ¥1,380,013.80",
        "@decorator’s it's@ l'@ é@ ü@b",
    ],
)
def test_only_looks_like_it(text: str) -> None:
    out = apply([text])
    assert out["text"][0].as_py() == text
    assert all(out[name][0].as_py() == 0 for name in Pii.adds)


def test_counts_and_tally() -> None:
    stage = Pii()
    out = apply(["a@b.cn c@d.cn 8.8.8.8", None, "", "电话13800138000，证11010519491231002X"])
    assert out.drop_columns("text").to_pylist() == [
        {"pii_email": 2, "pii_ip": 1, "pii_phone_cn": 0, "pii_id_cn": 0},
        {"pii_email": 0, "pii_ip": 0, "pii_phone_cn": 0, "pii_id_cn": 0},
        {"pii_email": 0, "pii_ip": 0, "pii_phone_cn": 0, "pii_id_cn": 0},
        {"pii_email": 0, "pii_ip": 0, "pii_phone_cn": 1, "pii_id_cn": 1},
    ]
    assert out["text"][1].as_py() is None
    assert stage.tally(out) == {"pii_email": 2, "pii_ip": 1, "pii_phone_cn": 1, "pii_id_cn": 1}


@pytest.mark.parametrize("kind", ["email", "ip", "phone_cn", "id_cn"])
def test_each_kind_can_be_switched_off(kind: str) -> None:
    text = "a@b.cn, host 8.8.8.8, 13800138000, 11010519491231002X"
    out = apply([text], **{kind: False}).to_pylist()[0]
    assert out[f"pii_{kind}"] == 0
    assert sum(out[name] for name in Pii.adds) == 3


def test_every_wrong_digit_of_an_identity_number_breaks_its_checksum() -> None:
    number = "11010519491231002X"
    assert pii.is_id_cn(number)
    for place in range(17):
        for digit in "0123456789":
            changed = number[:place] + digit + number[place + 1 :]
            assert pii.is_id_cn(changed) == (changed == number)


def test_an_untouched_batch_is_passed_on_without_a_copy() -> None:
    texts = pa.array(["plain text, 3.14, 2024-05-06", "普通文本"])
    out = Pii().apply(pa.table({"text": texts}))
    assert out["text"].chunk(0).buffers()[2].address == texts.buffers()[2].address
    assert len(Pii().apply(pa.table({"text": pa.array([], pa.string())}))) == 0


def test_nothing_in_real_articles_poems_and_declarations_changes() -> None:
    with gzip.open(SAMPLES / "sample_text.jsonl.gz", "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    texts += [row["page"] for row in json.loads((Path(__file__).parent / "data" / "udhr.json").read_text())["texts"]]
    assert apply(texts)["text"].to_pylist() == texts


PIECES = st.sampled_from(
    ["a", "@", ".", "-", " ", "b.com", "x@y.cn", "8.8.8.8", "1", "3", "13800138000", "11010519491231002X", "86", "+86",
     "2001:4860::1", ":", "汉", "\n", "X", "_", "example.com", "1.2.3.4", "v", "(", ")", "00", "/", "é", "'", "=", "==",
     "ver", "１", "３", "＠", "．", "–", "\xa0", "version ", " to ", "tel", "и", "138 0013 8000", "版"]
)  # fmt: skip


@settings(deadline=None, max_examples=500)
@example("2001:4860::11.2.3.4")
@example("x@y.cn_x@y.cn")
@example("x@y.cn.a@b.cn")
@example("11010519491231002X==8.8.8.8")
@example("8.8.8.8版+8613800138000")
@example("138 0013 8000:2001:4860::1")
@example("11010519491231002X-1.2.3.4")
@example("2001:4860::1a-8.8.8.8")
@given(st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=60))
def test_replacing_twice_changes_nothing(text: str) -> None:
    once = clean(text)
    assert clean(once) == once


@settings(deadline=None)
@given(st.text(st.characters(exclude_characters="@", exclude_categories=["Nd", "Cs"])))
def test_a_text_without_digits_and_at_signs_is_untouched(text: str) -> None:
    assert clean(text) == text


@settings(deadline=None)
@given(st.lists(st.lists(PIECES, max_size=12).map("".join), max_size=4))
def test_the_scan_misses_no_row_the_exact_patterns_would_change(texts: list[str]) -> None:
    found = personal.candidates(*schema.text_buffers(pa.array(texts, pa.string())))
    for text, bits in zip(texts, found, strict=True):
        for _, wanted, replace in pii._KINDS:
            assert bits & wanted or replace(text) == (text, 0)


def test_long_runs_cost_linear_time() -> None:
    text = "a" * 300_000 + "@" + "b." * 100_000 + "1" * 300_000 + "1.2." * 50_000 + "@" * 100_000
    assert clean(text) == text


def test_a_row_does_not_depend_on_its_batch() -> None:
    pool = ["a@b.cn", "plain", "8.8.8.8 is up", "13800138000", "汉字"]
    texts = random.Random(7).choices(pool, k=50)
    whole, parts = apply(texts), [apply(texts[:17]), apply(texts[17:])]
    assert pa.concat_tables(parts).to_pylist() == whole.to_pylist()
    assert int(np.sum(whole["pii_email"].to_numpy())) == texts.count("a@b.cn")
