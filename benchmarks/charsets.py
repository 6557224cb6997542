"""How many byte strings each library reads rightly: chardet's labelled files, and translations of programs.

    pip download --no-binary :all: --no-deps chardet==5.2.0 && tar xf chardet-5.2.0.tar.gz
    python benchmarks/charsets.py chardet-5.2.0/tests
    python benchmarks/charsets.py --messages /usr/share/locale

The first form reads files whose folder names their charset. The second encodes the messages of `.mo` files (any Debian
system has them) in every charset that can express the language, in short and long pieces, without a label, with the
right one and with a wrong one. charset_normalizer and chardet are measured beside this project where they are
installed; they take no label. A piece counts as right where the text is the same, character by character.
"""

import argparse
import gettext
import importlib.util
import random
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from stages.readers import charset  # noqa: E402

Reader = Callable[[bytes, str | None], str | None]

WEST = "cp1252 mac_roman"
CHARSETS = {
    "de fr es it nl": WEST + " iso8859_15", "pt_BR da sv fi nb ca gl eu ga id": WEST, "en_GB is": "cp1252",
    "pl cs sk hu hr sl": "cp1250 iso8859_2", "ro": "cp1250", "lt lv": "cp1257 iso8859_13", "et": "cp1257 cp1252",
    "tr": "cp1254", "vi": "cp1258",
    "ru uk bg be sr mk": "cp1251 iso8859_5 mac_cyrillic cp855 koi8_r koi8_u cp866",
    "el": "cp1253 iso8859_7", "he": "cp1255 iso8859_8", "ar": "cp1256 iso8859_6", "fa ur": "cp1256", "th": "cp874",
    "zh_CN": "gb18030 gbk", "zh_TW": "big5 gb18030", "zh_HK": "big5hkscs", "ja": "cp932 euc_jp iso2022_jp",
    "ko": "cp949 johab iso2022_kr",
}  # fmt: skip
"""The charsets that each language was written in, as Python names them; all languages also in UTF-8 and UTF-16."""

UNICODE = "utf_8 utf_16_le utf_16_be"
SIZES = (20, 60, 250, 1000)  # characters
PIECES = 12  # of each language, charset and size


class Sample(NamedTuple):
    name: str
    group: str
    data: bytes
    label: str | None
    text: str


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("files", nargs="?", type=Path, help="the folder `tests` of chardet's source distribution")
    arguments.add_argument("--messages", type=Path, help="a folder of translations, LANGUAGE/LC_MESSAGES/*.mo")
    arguments.add_argument("--misses", action="store_true", help="name every piece that this project misreads")
    given = arguments.parse_args()
    if not given.files and not given.messages:
        arguments.error("name chardet's tests, or --messages with a folder of translations")
    samples = list(labelled(given.files)) if given.files else []
    if given.messages:
        samples += translated(given.messages)
    if not samples:
        sys.exit("no samples in that folder")
    for name, reader in readers().items():
        report(name, reader, samples, given.misses or bool(given.files))


def report(name: str, reader: Reader, samples: list[Sample], misses: bool) -> None:
    right: defaultdict[str, Counter[bool]] = defaultdict(Counter)
    for sample in samples:
        is_right = same(reader(sample.data, sample.label), sample.text)
        right[sample.group][is_right] += 1
        if misses and not is_right:
            print(f"  {name} misreads {sample.name}")
    for group, counts in sorted(right.items()):
        print(f"{name:20} {group:24} {counts[True]:5} of {counts.total():5}  {counts[True] / counts.total():.3f}")
    print(f"{name}: {sum(counts[True] for counts in right.values())} of {len(samples)}")


def readers() -> dict[str, Reader]:
    found: dict[str, Reader] = {"gristmill": ours}
    for name, make in (("charset_normalizer", normalizer), ("chardet", chardet)):
        if importlib.util.find_spec(name):
            found[name] = make()
    return found


def ours(data: bytes, label: str | None) -> str | None:
    decoded = charset.decode(data, label, html=b"<" in data[:1000])
    return decoded[0] if decoded else None


def normalizer() -> Reader:
    from charset_normalizer import from_bytes

    def read(data: bytes, label: str | None) -> str | None:
        best = from_bytes(data).best()
        return decoded(data, best.encoding) if best else None

    return read


def chardet() -> Reader:
    import chardet as library

    def read(data: bytes, label: str | None) -> str | None:
        name = library.detect(data)["encoding"]
        return decoded(data, name) if name else None

    return read


def decoded(data: bytes, name: str) -> str | None:
    """The text by a charset's name; the name of a subset means the whole, as on the web (Shift_JIS is windows-31j)."""
    whole = None if name.lower().startswith("utf") else charset.canonical(name)
    try:
        return data.decode(charset.python_codec(whole) if whole else name, "replace")
    except LookupError:
        return None


def same(text: str | None, wanted: str) -> bool:
    return text is not None and plain(text) == plain(wanted)


def plain(text: str) -> str:
    """The text without byte order mark, NULs and the difference between composed and decomposed letters."""
    return unicodedata.normalize("NFC", text.removeprefix("\ufeff").replace("\0", ""))


def labelled(folder: Path) -> Iterator[Sample]:
    """chardet's files; the language that ends some folders' names is no part of the charset."""
    for path in sorted(folder.glob("*/*")):
        name = re.sub(r"(?i)^((?:iso-8859|windows|utf)-\w+)-[a-z]{4,}$", r"\1", path.parent.name)
        if path.suffix not in (".html", ".txt", ".xml", ".srt"):
            continue
        data = path.read_bytes()
        text = decoded(data, name)
        if text is not None:
            yield Sample(f"{path.parent.name}/{path.name}", "labelled files", data, None, text)


def translated(folder: Path) -> Iterator[Sample]:
    draw = random.Random(0)
    for languages, codecs in CHARSETS.items():
        for language in languages.split():
            text = messages(folder / language / "LC_MESSAGES")
            for codec in f"{codecs} {UNICODE}".split():
                yield from pieces(draw, language, codec, text, codecs.split())


def pieces(draw: random.Random, language: str, codec: str, text: str, codecs: list[str]) -> Iterator[Sample]:
    """Pieces with letters beyond ASCII, each without a label, with the right one and with a wrong one."""
    for size in SIZES:
        for number in range(PIECES):
            start = draw.randrange(max(1, len(text) - size))
            piece = text[start : start + size]
            piece = vietnamese(piece) if codec == "cp1258" else piece
            data = piece.encode(codec, "ignore")
            wanted = data.decode(codec)
            if wanted.isascii():
                continue
            wrong = draw.choice(["utf-8", "iso-8859-1", "windows-1251", "gbk", *codecs])
            for kind, label in (("none", None), ("right", codec.replace("_", "-")), ("wrong", wrong)):
                name = f"{language}.{codec}.{size}.{number}, label {label}"
                yield Sample(name, f"{size:4} characters, {kind}", data, label, wanted)


def vietnamese(text: str) -> str:
    """Letters with their tone marks apart, as windows-1258 writes them."""
    return re.sub("[^\x00-\x7fâăêôơưđÂĂÊÔƠƯĐ]", lambda match: tone_apart(match[0]), unicodedata.normalize("NFC", text))


def tone_apart(letter: str) -> str:
    marks = unicodedata.normalize("NFD", letter)
    tones = [mark for mark in marks if mark in "\u0300\u0301\u0303\u0309\u0323"]
    return unicodedata.normalize("NFC", "".join(mark for mark in marks if mark not in tones)) + "".join(tones)


def messages(folder: Path) -> str:
    """The translations in a folder's catalogues, in the order of the files' names, one after the other."""
    found: dict[str, None] = {}
    for path in sorted(folder.glob("*.mo")):
        try:
            with path.open("rb") as file:
                catalogue: Any = gettext.GNUTranslations(file)
        except (UnicodeDecodeError, IndexError):
            print(f"{path} is left out: its header is damaged", file=sys.stderr)
            continue
        for source, text in catalogue._catalog.items():  # there is no public way to list them
            if source and isinstance(text, str) and text != source and len(text) > 15:
                found[re.sub(r"%[-0-9.]*l?[a-zA-Z]|\s+", " ", text).strip()] = None
    return "\n".join(found)[:400_000]


if __name__ == "__main__":
    main()
