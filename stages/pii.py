"""Replace personal data that can be recognised without doubt: addresses of people and of machines, numbers of people.

A replacement keeps the sentence readable and can belong to nobody: it comes from a range that was reserved for
examples, or that its own rules exclude. Replacing twice changes nothing. Almost every document holds nothing of the
kind; those are told apart by one pass over the bytes and their text is not even copied.
"""

import datetime
import functools
import ipaddress
import re
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipeline import schema
from pipeline.stage import Stage
from stages.kernels import personal

EMAIL = "email@example.com"  # RFC 2606
IPV4 = "192.0.2.1"  # RFC 5737, documentation
IPV6 = "2001:db8::1"  # RFC 3849, documentation
PHONE_CN = "10000000000"  # mobile numbers begin with 13 to 19
ID_CN = "0" * 18  # there is no region 00, and the check digit is wrong


class Pii(Stage):
    """Replace e-mail and public IP addresses, Chinese mobile numbers and resident identity numbers.

    `email`: addresses in Latin, Greek or Cyrillic letters, accents and apostrophes included, but not those in domains
    reserved for examples. `ip`: IPv4 and IPv6 addresses that are globally routable, unless the words around or a
    comparison (`name==1.2.3.4`) say it is a version, or a line starts with it like a section number (four numbers below
    32, a space, a letter); 1.2.3.4 within a sentence cannot be told from an address. `phone_cn`: 11 digits that begin
    with 13 to 19, alone or grouped 3-4-4, with or without +86, one or several in a row, but not in a path (`/13...`) or
    a query (`id=13...`); mobile numbers carry no checksum, so other numbers of that form are taken too. `id_cn`:
    18 digits (or 17 and X) with a region, a date of birth and the checksum of GB 11643. Digits, letters and signs of
    full width count as the plain ones.

    Columns: `pii_email`, `pii_ip`, `pii_phone_cn`, `pii_id_cn`, how many were replaced. Nothing is dropped.
    """

    adds: ClassVar[dict[str, pa.DataType]] = {
        "pii_email": pa.int32(),
        "pii_ip": pa.int32(),
        "pii_phone_cn": pa.int32(),
        "pii_id_cn": pa.int32(),
    }

    email: bool = Field(default=True, description="replace e-mail addresses")
    ip: bool = Field(default=True, description="replace public IP addresses")
    phone_cn: bool = Field(default=True, description="replace Chinese mobile numbers")
    id_cn: bool = Field(default=True, description="replace Chinese resident identity numbers")

    def apply(self, docs: pa.Table) -> pa.Table:
        found = personal.candidates(*schema.text_buffers(docs["text"]))[: len(docs)]
        counts = {name: np.zeros(len(docs), np.int32) for name in self.adds}
        changed: dict[int, str] = {}
        for row in np.flatnonzero(found & self._wanted()).tolist():
            before = text = docs["text"][row].as_py()
            for name, bits, replace in _KINDS:
                if found[row] & bits and getattr(self, name):
                    text, counts[f"pii_{name}"][row] = replace(text)
            if text != before:
                changed[row] = text
        for name, column in counts.items():
            docs = schema.set_column(docs, name, pa.array(column, pa.int32()))
        return schema.set_column(docs, "text", _with(docs["text"], changed)) if changed else docs

    def _wanted(self) -> int:
        return sum({bits for name, bits, _ in _KINDS if getattr(self, name)})

    def tally(self, docs: pa.Table) -> dict[str, int]:
        """How many of each kind were replaced."""
        return {name: int(pc.sum(docs[name]).as_py() or 0) for name in self.adds}


def _with(texts: pa.ChunkedArray, changed: dict[int, str]) -> pa.ChunkedArray:
    mask = np.zeros(len(texts), bool)
    mask[list(changed)] = True
    replacements = pa.array([changed[row] for row in sorted(changed)], texts.type)
    return pc.replace_with_mask(texts.combine_chunks(), pa.array(mask), replacements)


_WIDE = re.compile("[\uff0b\uff0d-\uff19\uff20-\uff3a\uff3f\uff41-\uff5a]")
_NARROW = {code: code - 0xFEE0 for code in range(0xFF0B, 0xFF5B) if _WIDE.match(chr(code))}


@functools.lru_cache(maxsize=1)  # each kind asks again
def _narrow(text: str) -> str:
    """`text` with digits, letters and signs of full width as the plain ones; each character keeps its place."""
    return text.translate(_NARROW) if _WIDE.search(text) else text


_LATIN, _GREEK, _CYRILLIC = "A-Za-z\xc0-\xd6\xd8-\xf6\xf8-\u024f\u1e00-\u1eff", "\u0370-\u03ff", "\u0400-\u052f"
_LOCAL = re.compile(
    "|".join(rf"[{script}0-9_][{script}0-9\u0300-\u036f._%+'’-]*\Z" for script in (_LATIN, _GREEK, _CYRILLIC))
)
_LOCAL_LENGTH = 64  # RFC 5321
_ELISION = re.compile(r"(?i)(?:[cdjlmnst]|qu)['’]")  # a French or Italian word before the address: d'andre@...
_LABEL = rf"[{_LATIN}{_GREEK}{_CYRILLIC}0-9]"
_DOMAIN = re.compile(
    rf"(?:{_LABEL}(?:(?:{_LABEL}|[\u0300-\u036f-]){{0,61}}{_LABEL})?\.)+"
    rf"([A-Za-z]{{2,24}}|[{_CYRILLIC}]{{2,24}}|[{_GREEK}]{{2,24}})(?![A-Za-z0-9_@-])"
)
_RESERVED = re.compile(r"(?i)(?:.*\.)?(?:example\.(?:com|net|org)|example|invalid|test|localhost)\Z")
_FILES = {"png", "jpg", "jpeg", "gif", "svg", "webp", "css", "js"}  # icon@2x.png


def replace_emails(text: str) -> tuple[str, int]:
    """`text` with its e-mail addresses replaced, and how many there were."""
    plain = _narrow(text)
    pieces, done, free = [], 0, 0  # `free`: the first character that may belong to the next address
    at = plain.find("@")
    while at >= 0:
        local = _LOCAL.search(plain, max(free, at - _LOCAL_LENGTH - 1), at)
        domain = _DOMAIN.match(plain, at + 1)
        if local and domain:
            free = domain.end()
            fits = at - local.start() <= _LOCAL_LENGTH
            if fits and domain[1].lower() not in _FILES and not _RESERVED.match(domain[0]):
                elision = _ELISION.match(plain, local.start(), at - 1)
                pieces += [text[done : elision.end() if elision else local.start()], EMAIL]
                done = domain.end()
        at = plain.find("@", max(at + 1, free))
    return ("".join(pieces) + text[done:] if pieces else text), len(pieces) // 2


# Each pattern begins with the digits it looks for, which `re` finds fast, and looks behind them afterwards.
_IPV4 = re.compile(
    r"[0-9](?<![A-Za-z0-9_.][0-9])(?<![A-Za-z]-[0-9])[0-9]{0,2}\.(?:[0-9]{1,3}\.){2}[0-9]{1,3}"
    r"(?![A-Za-z0-9_]|\.[0-9]|-[A-Za-z]|-[0-9]+(?![0-9]|\.[0-9]))"
)
_IPV6 = re.compile(
    r"[23](?<![A-Za-z0-9_.][23])[0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{0,4}){1,6}(?::[0-9A-Fa-f]{1,4}|(?<=:):)"
    r"(?![A-Za-z0-9_]|:[0-9A-Za-z_:]|\.[0-9])"
)
_PART = re.compile(r"(?:(?<![A-Za-z0-9_])[0-9A-Fa-f]{1,4}|:):\Z")  # of a longer address, before what looks like one


def replace_ips(text: str) -> tuple[str, int]:
    """`text` with its globally routable IPv4 and IPv6 addresses replaced, and how many there were."""
    text, sixes = _replaced(_IPV6, text, text, _public_ipv6, IPV6)
    text, fours = _replaced(_IPV4, text, _narrow(text), _Versions().are_not, IPV4)
    return text, fours + sixes


_WORD = rf"(?:(?<![{_LATIN}{_CYRILLIC}])|(?-i:(?<=[a-z])(?=[A-Z])))"  # where one starts: not in server, but in FileVer
_VERSION = re.compile(
    rf"(?i)(?:{_WORD}(?:v\.?\s?|(?:ver\.?|vers(?:ion|ión|ão|ie)s?|version[ei]n?|wersj[aię]|верси[а-я]{{1,2}}|releases?|"
    r"builds?|rev(?:ision)?\.?|firmware|(?:sub-?)?sections?|chapter|clause)(?:\s(?:number|no\.|nr\.|is))?"
    r"[\s:=\"'“”‘’`*>(\[]{0,6})"
    r"|(?:版本[号號]?[为為是]?|固件|版|第|章节?|§|バージョン|버전)[\s:：=＝\"'“”‘’「`*(（]{0,6})\Z"
)
_NUMBER_AHEAD = r"[\s:：=v+(（\[]{0,6}[0-9]"  # then the word speaks of that number
_VERSION_AFTER = re.compile(
    rf"(?i)[ )\"'”]{{0,2}}(?:版(?![权權]|本?{_NUMBER_AHEAD})|(?:version|release)(?![a-z]|{_NUMBER_AHEAD}))"
)
_COMPARED = re.compile(r"(?:[<>~]=|~>|(?<![\w.])([A-Za-z][\w.\[\]-]*)[ \"')]{0,2}[=!]==?)[ \"'(]{0,2}\Z")  # a==1.2.3.4
_PRODUCT = re.compile(r"(?<![\w./:-])([A-Z]+[a-z]\w*)/\Z")  # Chrome/3.0.195.38
_HOLDS_ADDRESS = re.compile(r"(?i)(?<![a-z])(?:ip|ipv4|src|dst|dns|peer)(?![a-z])|ip\Z|addr|host|server|remote|client")
_BEFORE = 40  # characters that what stands before an address may take
_BETWEEN = re.compile(r"(?i)\s*(?:[-,/~–—、，至到和与及或→]|->|to|and|or|through|und|bis|et|à|y|e)\s*(?:v\.?)?")
_HEADING = re.compile(r"[.)、．]?\s+[^\W\d_]")


class _Versions:
    """Tells the addresses of a text from its version numbers; in `versions 1.2.3.4 to 1.2.4.0` both are versions."""

    def __init__(self) -> None:
        self._last: re.Match[str] | None = None

    def are_not(self, match: re.Match[str]) -> bool:
        if _is_version(match) or (self._last is not None and _goes_on(self._last, match)):
            self._last = match
            return False
        return _public(match[0]) and not _is_heading(match)


def _is_version(match: re.Match[str]) -> bool:
    text, start = match.string, match.start()
    first = max(0, start - _BEFORE)
    if _VERSION.search(text, first, start) or _VERSION_AFTER.match(text, match.end()):
        return True
    name = _COMPARED.search(text, first, start) or _PRODUCT.search(text, first, start)
    return name is not None and not (name[1] and _HOLDS_ADDRESS.search(name[1]))


def _goes_on(version: re.Match[str], match: re.Match[str]) -> bool:
    near = abs(int(version[0].split(".")[0]) - int(match[0].split(".")[0])) <= 1
    return near and _BETWEEN.fullmatch(match.string, version.end(), match.start()) is not None


def _is_heading(match: re.Match[str]) -> bool:
    text, start = match.string, match.start()
    is_first = not text[text.rfind("\n", 0, start) + 1 : start].strip(" \t•·*#|-–—")
    small = all(int(part) < 32 for part in match[0].split("."))
    return is_first and small and _HEADING.match(text, match.end()) is not None


def _public_ipv6(match: re.Match[str]) -> bool:
    return _public(match[0]) and not _PART.search(match.string, max(0, match.start() - 6), match.start())


def _public(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return parsed.is_global and not parsed.is_multicast and not parsed.is_reserved


_GAP = "[-. \xa0\xb7\u2009\u200a\u2010-\u2014\u202f\u3000]"  # between the groups of a number
_PHONE_CN = re.compile(rf"1[3-9](?:[0-9]{{9}}|[0-9]({_GAP})[0-9]{{4}}\1[0-9]{{4}})(?![0-9])")
_PREFIX = rf"(?P<prefix>(?:(?:(?:(?:\+|00) ?)?86|[(（\[](?:\+|00)?86[)）\]]){_GAP}{{0,3}})?)"
_BEFORE_PHONE = re.compile(
    r"(?:(?<![A-Za-z0-9_/=+])(?<![A-Za-z0-9]\.)(?<![A-Za-z0-9]-)"
    r"|(?i:(?<![A-Za-z])(?:tel|phone|mobile|mob|cell|whatsapp|wechat|vx|wx)|手机号?|电话|微信)[.=]?"
    rf"|(?<![A-Za-z0-9_./=+:-])(?:\(?0[0-9]{{2,3}}\)?{_GAP}?)?[2-9][0-9]{{6,7}}/){_PREFIX}\Z"  # a landline and a slash
)
_AFTER_PHONE = re.compile(r"(?![A-Za-z0-9_]|[.-][0-9])")
_LINK = re.compile(rf"(?:[^\w\n]|_){{1,5}}?{_PREFIX}")  # from one number to the next


def replace_phones_cn(text: str) -> tuple[str, int]:
    """`text` with its Chinese mobile numbers replaced, and how many there were."""
    pieces, done = [], 0
    for start, end in _phones(_narrow(text)):
        pieces += [text[done:start], PHONE_CN]
        done = end
    return ("".join(pieces) + text[done:] if pieces else text), len(pieces) // 2


def _phones(text: str) -> list[tuple[int, int]]:
    """Where numbers start, with their prefix, and end. A number may begin where one before it ends, and vice versa."""
    matches = list(_PHONE_CN.finditer(text))
    starts: list[int | None] = []
    links: list[bool] = []  # from the number before
    done = 0
    for match in matches:
        link = _LINK.fullmatch(text, done, match.start()) if done else None
        links.append(link is not None)
        before = link if link and starts[-1] is not None else _before_phone(match, done)
        starts.append(before.start("prefix") if before else None)
        done = match.end()
    found, goes_on = [], False
    for match, start, link_before in reversed(list(zip(matches, starts, links, strict=True))):
        ends = goes_on or _ends(match)
        if ends and start is not None:
            found.append((start, match.end()))
        goes_on = ends and link_before
    return found[::-1]


def _before_phone(match: re.Match[str], done: int) -> re.Match[str] | None:
    """What stands before a number; None where that belongs to it."""
    text = match.string
    before = _BEFORE_PHONE.search(text, max(done, match.start() - _BEFORE), match.start())
    if before and match[1]:
        start = before.start("prefix")
        if re.fullmatch(f"[0-9]{{3}}{re.escape(match[1])}", text[max(0, start - 4) : start]):
            return None
    return before


def _ends(match: re.Match[str]) -> bool:
    more = match[1] and re.compile(f"{re.escape(match[1])}[0-9]").match(match.string, match.end())
    return not more and _AFTER_PHONE.match(match.string, match.end()) is not None


_ID_CN = re.compile(
    r"[1-9](?:(?<![A-Za-z0-9_./=][1-9])|(?<=[0-9]{17}[0-9Xx]/[1-9]))[0-9]{16}[0-9Xx](?![A-Za-z0-9_]|\.[0-9])"
)
_REGIONS = "11 12 13 14 15 21 22 23 31 32 33 34 35 36 37 41 42 43 44 45 46 50 51 52 53 54 61 62 63 64 65 71 81 82 83 91"
# GB/T 2260: the first two digits of an administrative code.


def replace_ids_cn(text: str) -> tuple[str, int]:
    """`text` with its resident identity numbers replaced, and how many there were."""
    return _replaced(_ID_CN, text, _narrow(text), lambda match: is_id_cn(match[0]), ID_CN)


def is_id_cn(number: str) -> bool:
    """Whether 18 characters are a resident identity number by GB 11643-1999: region, date of birth, check digit.

    The check digit is ISO 7064 MOD 11-2: the digits weighted by 2^(17-i) mod 11 must sum to 1 mod 11, X being 10.
    """
    if number[:2] not in _REGIONS.split() or not "1900" <= number[6:10] <= "2099":
        return False
    try:
        datetime.date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return False
    digits = [10 if char in "Xx" else int(char) for char in number]
    return sum(digit * pow(2, 17 - place, 11) for place, digit in enumerate(digits)) % 11 == 1


def _replaced(
    pattern: re.Pattern[str], text: str, plain: str, wanted: Callable[[re.Match[str]], bool], by: str
) -> tuple[str, int]:
    """`text` with `by` wherever the pattern matches `plain`, which has the same length, and the match is wanted."""
    matches = [match for match in pattern.finditer(plain) if wanted(match)]
    if not matches:
        return text, 0
    starts = [0, *(match.end() for match in matches)]
    pieces = [text[start : match.start()] for start, match in zip(starts, matches, strict=False)]
    return by.join([*pieces, text[starts[-1] :]]), len(matches)


# Addresses of machines come last: what is next to one decides whether it is one, and must not change any more.
_KINDS: tuple[tuple[str, int, Callable[[str], tuple[str, int]]], ...] = (
    ("email", personal.EMAIL, replace_emails),
    ("id_cn", personal.NUMBER, replace_ids_cn),
    ("phone_cn", personal.NUMBER, replace_phones_cn),
    ("ip", personal.IPV4 | personal.IPV6, replace_ips),
)
