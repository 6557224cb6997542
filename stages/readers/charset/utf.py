"""Unicode gone wrong: stray bytes in UTF-8, text that was encoded twice, UTF-16 and UTF-32 without a mark."""

import re
from collections import Counter
from typing import NamedTuple

from stages.readers.charset.labels import python_codec
from stages.readers.charset.multibyte import FREQUENT

_MOSTLY = 0.7  # share of the bytes beyond ASCII that form UTF-8, from which a text is UTF-8; accents in Thai reach .45
_MIXED = 0.5  # the same where all that is well-formed is Latin, and all stray bytes read as windows-1252
_DAMAGE = 0.02  # of all characters of a text may be damaged, and three more
_STRAY = re.compile("[\udc80-\udcff]+")
_BEYOND_LATIN = re.compile("[\u0370-\u1dff\u2c00-\U0010ffff]")
_LATIN = re.compile("[A-Za-z\xc0-\u024f]")

_FIX_HINT = re.compile(
    b"\xc3[\x82-\xb4](?:\xc2[\x80-\xbf]|\xc5[\x92\x93\xa0\xa1\xb8\xbd\xbe]|\xc6\x92|\xcb[\x86\x9c]|\xe2[\x80\x82\x84])"
)
"""UTF-8 of what the first two bytes of a character in UTF-8 are in windows-1252. It is sought in bytes, which is fast,
and is rare in text that was encoded once."""

_CP1252 = bytes(range(0x80, 0x100)).decode("cp1252", "replace")
_BYTE_OF = {char: byte for byte, char in enumerate(_CP1252, 0x80) if char != "\ufffd"} | {
    chr(byte): byte for byte in range(0x80, 0x100) if byte in (0x81, 0x8D, 0x8F, 0x90, 0x9D) or byte >= 0xA0
}
_ENCODED_ONCE = re.compile("[" + "".join(re.escape(char) for char in _BYTE_OF) + "]{2,}")
_SEQUENCES = re.compile(rb"[\xc2-\xf4][\x80-\xbf]+")
_CERTAIN_SEQUENCES = 3  # encoded twice without a gap: no writing has such a row of signs by itself


class Mended(NamedTuple):
    """A text, how many characters of it are U+FFFD for damaged bytes, and how many places were put right."""

    text: str
    replaced: int = 0
    repaired: int = 0


def mostly_utf8(data: bytes) -> Mended | None:
    """Text that is UTF-8 but for some bytes; None where it is not.

    A stray byte becomes a letter or sign of windows-1252 where that is certain: in a text of Latin letters, where it
    stands as that letter or sign would. Any other becomes U+FFFD.
    """
    text = data.decode("utf-8", "surrogateescape")
    stray = sum(map(len, _STRAY.findall(text)))
    high = len(data) - len(data.translate(None, _HIGH))
    share = (high - stray) / high
    if share < _MIXED:
        return None
    latin = not _BEYOND_LATIN.search(_STRAY.sub("", text))
    mended, replaced = [], 0
    end = 0
    for match in _STRAY.finditer(text):
        read = _by_windows_1252(text, match) if latin else None
        mended += [text[end : match.start()], read or "\ufffd" * len(match[0])]
        replaced += 0 if read else len(match[0])
        end = match.end()
    mended.append(text[end:])
    if (share < _MOSTLY and (replaced or not latin)) or replaced > 3 + _DAMAGE * len(text):
        return None
    return Mended("".join(mended), replaced, stray - replaced)


_HIGH = bytes(range(0x80, 0x100))


def _by_windows_1252(text: str, match: re.Match[str]) -> str | None:
    """What a run of stray bytes is in windows-1252, None where that is not certain."""
    read = match[0].encode("utf-8", "surrogateescape").decode("cp1252", "replace")
    before, after = text[match.start() - 1 : match.start()], text[match.end() : match.end() + 1]
    if len(read) > 3 or "\ufffd" in read:
        return None
    if all(map(str.isalpha, read)):
        neighbours = [char for char in (before, after) if _LATIN.match(char)]
        small = any(char.islower() for char in neighbours)
        if read[0].isupper() and (before.islower() or (read[-1].isupper() and after and not after.isalpha() and small)):
            return None  # the first byte of a character that was cut off is a capital in windows-1252
        return read if neighbours else None
    if len(read) > 1:
        return None
    return read if read in "‘’“”–—…€™®„" or not _LATIN.match(before) else None


def encoded_once(text: str, data: bytes) -> Mended:
    """`text` with every place put right that was UTF-8, read as windows-1252 and encoded again; `data` is its UTF-8.

    A place is put right where the text has no other letters beyond ASCII to speak of, or where it is long enough to be
    nothing else.
    """
    if not _FIX_HINT.search(data):
        return Mended(text)
    runs = [(match, _once(match[0])) for match in _ENCODED_ONCE.finditer(text)]
    double = sum(len(match[0]) for match, once in runs if once is not None)
    beyond = len(text) - len(text.encode("ascii", "ignore"))
    all_of_them = double >= 0.8 * beyond
    out, end, repaired = [], 0, 0
    for match, once in runs:
        if once is not None and (all_of_them or len(once) >= _CERTAIN_SEQUENCES):
            out += [text[end : match.start()], once]
            end, repaired = match.end(), repaired + len(once)
    return Mended("".join([*out, text[end:]]), 0, repaired)


def _once(run: str) -> str | None:
    """The characters whose UTF-8 is this run in windows-1252; None where it is not well-formed."""
    try:
        return bytes(map(_BYTE_OF.__getitem__, run)).decode("utf-8")
    except UnicodeDecodeError:
        return None


_WIDE = {"utf-32le": 4, "utf-32be": 4, "utf-16le": 2, "utf-16be": 2}
_LOOKED_AT = 4000  # characters
_WIDE_DECLARED, _WIDE_FOUND = 0.7, 0.9  # least share of characters that look like text
_SHORTEST = 8  # characters of a text that nobody says to be of two or four bytes each


def wide(data: bytes, names: list[str]) -> tuple[str, str] | None:
    """UTF-16 or UTF-32 without a byte order mark, and its name; `names` are the charsets declared.

    An incomplete character at the end is left out.
    """
    best: tuple[float, str, str] | None = None
    for name, size in _WIDE.items():
        is_declared = any(known.startswith(name[:6]) for known in names)
        text = _wide_text(data, name, size)
        if text is None or (not is_declared and len(text) < _SHORTEST):
            continue
        quality = _like_text(text[:_LOOKED_AT])
        if quality >= (_WIDE_DECLARED if is_declared else _WIDE_FOUND) and (best is None or quality > best[0]):
            best = quality, text, name
    return best[1:] if best else None


def _wide_text(data: bytes, name: str, size: int) -> str | None:
    try:
        return data[: len(data) // size * size].decode(python_codec(name))
    except UnicodeDecodeError:
        return None


def _like_text(text: str) -> float:
    """Share of the characters that are of ASCII, common signs, or of the script that most others are of.

    Bytes of another kind, read in twos, are of many scripts, and their Han characters are rare ones.
    """
    plain = len(_PLAIN.findall(text))
    scripts = Counter(map(_script, _PLAIN.sub("", text)))
    scripts.pop(None, None)
    if scripts["han"] and sum(map(FREQUENT.__contains__, text)) < 0.2 * (scripts["han"] - len(_KANA.findall(text))):
        scripts.pop("han")
    return (plain + max(scripts.values(), default=0)) / max(1, len(text))


_PLAIN = re.compile("[\t\n\r\f -~\xa0-\xbf\u2010-\u2044\u20ac\u3000-\u3011\uff01-\uff0f\uff1a-\uff20]")
_KANA = re.compile("[\u3041-\u30ff]")


def _script(char: str) -> str | int | None:
    """Roughly the script of a character, None for what is in no text."""
    code = ord(char)
    if not char.isprintable():
        return None
    if "\u3041" <= char <= "\u30ff" or "\u3400" <= char <= "\u9fff" or code >= 0x20000:
        return "han"
    if "\uac00" <= char <= "\ud7a3":
        return "hangul" if len(char.encode("euc_kr", "ignore")) == 2 else None  # a fifth of them are used
    return "latin" if code < 0x250 or 0x1E00 <= code < 0x1F00 else code >> 8
