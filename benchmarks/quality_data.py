"""The texts the shipped classifiers learn from, made of unpacked Debian packages: good ones, and others.

    python benchmarks/quality_data.py OUT FOLDER...

A folder holds a folder for each package, named after it (`apt-get download NAME; dpkg -x`). Positives are the main text
of handbooks, manuals and books; negatives are what crawls are full of, of the same packages where possible, so that
the two do not differ by subject:

    menus       links and captions of a page without its main text, and strings of user interfaces (.mo catalogues)
    lists       generated interface documentation (doxygen, javadoc), tables of contents, name lists
    boilerplate changelogs and copyright files
    shuffled    a positive with its words (Chinese: characters) in another order

Both are cut to lengths of one log-uniform distribution. The domain of a text is the family of its package (without
version, language, architecture). Writes OUT/LANG-{positives,negatives}.parquet: text, domain, kind.
"""

import gettext
import gzip
import random
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

GOOD = [
    "anarchism",
    "bible-kjv-text",
    "dict-foldoc",
    "dict-jargon",
    "debian-handbook",
    "debian-reference",
    "debian-policy",
    "debian-faq",
    "developers-reference",
    "maint-guide",
    "debmake-doc",
    "harden-doc",
    "debian-history",
    "installation-guide",
    "apache-doc",
    "linux-doc",
    "python-doc",
    "postgresql-doc",
    "git-doc",
    "gnucash-docs",
    "gimp-help",
    "kicad-doc",
    "libreoffice-help",
    "aptitude-doc",
    "debian-edu-doc",
    "gnome-user-docs",
    "lilypond-doc-html",
    "manpages",
]
LISTS = ["libstdc++-doc", "libboost-doc", "libbiojava-java-doc"]
FAMILY = re.compile(r"-(amd64|legacy|en-gb|en-us|en|zh-cn|zh-tw|zh|[0-9][0-9.]*)(?=-|$)|(?<=[a-z])[0-9][0-9.]*(?=-|$)")
OTHER = re.compile(r"-(ca|cs|de|es|fi|fr|hu|id|it|ja|ko|nl|pt|pt-br|ru|vi|arm64|armhf|i386|gb)$")  # mirrors, languages

HAN = re.compile("[\u3400-\u9fff]")
LETTER = re.compile(r"[A-Za-z\u00c0-\u024f\u3400-\u9fff]")
ROFF = re.compile(r"\\f.|\\[&|^]|\\\(..|\\s[-+]?\d")
SHORTEST, LONGEST = 200, 8000  # characters
MOST = 1500  # texts of one kind of one family
PAGES = 900  # read of one package


def family(package: str) -> str:
    return FAMILY.sub("", package)


def language(text: str) -> str | None:
    han, letters = len(HAN.findall(text)), len(LETTER.findall(text))
    if letters < 0.3 * len(text):
        return None
    if han > 0.4 * letters:
        return "zh"
    words = Counter(re.findall("[a-z]+", text.lower()))
    common = sum(words[word] for word in ("the", "of", "and", "to", "a", "in", "is", "for", "this", "be"))
    return "en" if han == 0 and common > 0.12 * max(1, sum(words.values())) else None


def pieces(text: str, chance: random.Random) -> Iterator[str]:
    """A text in pieces of random length, cut between lines where there are any."""
    lines = text.splitlines(keepends=True)
    part, size, target = [], 0, SHORTEST * (LONGEST / SHORTEST) ** chance.random()
    for line in lines:
        for start in range(0, len(line), LONGEST):
            part.append(line[start : start + LONGEST])
            size += len(part[-1])
            if size >= target:
                yield "".join(part).strip()
                part, size, target = [], 0, SHORTEST * (LONGEST / SHORTEST) ** chance.random()
    if size >= SHORTEST / 2:
        yield "".join(part).strip()


def opened(path: Path) -> str:
    data = path.read_bytes()
    if path.suffix in (".gz", ".dz"):
        data = gzip.decompress(data)
    return data.decode("utf-8", "replace")


def page(path: Path) -> tuple[str, str]:
    """The main text of a page, and what is beside it."""
    html = opened(path)
    tree = HTMLTree.parse(html)
    main = extract_plain_text(tree, main_content=True, alt_texts=False)
    whole = extract_plain_text(tree, main_content=False, alt_texts=False)
    known = set(main.splitlines())
    return main, "\n".join(line for line in whole.splitlines() if line.strip() and line not in known)


def prose(text: str) -> bool:
    """Whether most of it is in lines as long as sentences: what a positive has to be, and a menu must not."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    full = sum(len(line) for line in lines if len(line) > (25 if HAN.search(line) else 60))
    return full > 0.6 * max(1, sum(map(len, lines)))


def manual(text: str) -> str:
    """A manual page without its requests."""
    lines = []
    for line in text.splitlines():
        request = re.match(r"[.'](\S*)\s*(.*)", line)
        if not request:
            lines.append(ROFF.sub("", line))
        elif request[1] in ("SH", "SS", "B", "I", "BR", "IR", "TP", "PP", "BI"):
            lines.append(("\n" if request[1] in ("SH", "SS", "PP", "TP") else "") + ROFF.sub("", request[2]))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def entries(package: str, path: Path) -> list[str]:
    """The texts of a file that is no page: a dictionary's entries together, a book, sayings."""
    text = opened(path)
    if package == "manpages-zh":
        return [manual(text)]
    if package in ("dict-foldoc", "dict-jargon"):
        return [re.sub(r"\n +", " ", text[text.find("\n\n", len(text) // 50) :])]
    return [text]


def packages(folders: list[Path]) -> list[tuple[str, Path]]:
    return sorted((path.name, path) for folder in folders for path in folder.iterdir() if path.is_dir())


class Collection:
    """Texts by language, class, kind and family."""

    def __init__(self) -> None:
        self.chance = random.Random(1)
        self.texts: dict[tuple[str, bool, str, str], dict[str, None]] = defaultdict(dict)

    def add(self, text: str, good: bool, kind: str, domain: str, lang: str | None = None) -> None:
        for piece in pieces(text, self.chance):
            found = lang or language(piece)
            if found and len(piece) >= SHORTEST / 2 and (kind not in ("text", "menus") or prose(piece) == good):
                self.texts[found, good, kind, domain][piece] = None

    def shuffle(self) -> None:
        for (lang, good, _, domain), texts in list(self.texts.items()):
            chosen = self.chance.sample(list(texts), min(len(texts), MOST) // 4) if good else []
            for text in chosen:
                units = list(text) if lang == "zh" else text.split()
                self.chance.shuffle(units)
                self.texts[lang, False, "shuffled", domain][("" if lang == "zh" else " ").join(units)] = None

    def write(self, out: Path) -> None:
        for lang in ("en", "zh"):
            for good, name in ((True, "positives"), (False, "negatives")):
                rows = [
                    (text, domain, kind)
                    for (its, is_good, kind, domain), texts in sorted(self.texts.items())
                    if (its, is_good) == (lang, good)
                    for text in random.Random(2).sample(sorted(texts), min(len(texts), MOST))
                ]
                columns = {key: [row[at] for row in rows] for at, key in enumerate(("text", "domain", "kind"))}
                pq.write_table(pa.table(columns), out / f"{lang}-{name}.parquet", compression="zstd")
                print(lang, name, len(rows), *(Counter(row[at] for row in rows).most_common(40) for at in (2, 1)))


def take(package: str, path: Path, texts: Collection) -> None:
    """Everything of one package."""
    domain = family(package)
    pages = [p for p in sorted(path.rglob("*")) if re.search(r"\.html(\.gz|\.zh-cn.*|\.en)?$", p.name) and p.is_file()]
    menus = {"en": [], "zh": []}  # of all pages together: a menu is short, and length is not to give it away
    for file in random.Random(package).sample(pages, min(len(pages), PAGES)):
        main, beside = page(file)
        if domain in LISTS:
            texts.add(main, False, "lists", domain)
        elif domain in GOOD:
            contents = re.search(r"genindex|/index\.|toc|search|modindex", str(file))
            texts.add(main, not contents, "lists" if contents else "text", domain)
        menus["zh" if len(HAN.findall(beside)) > 0.2 * len(beside) else "en"].append(beside)
    for lang, found in menus.items():
        texts.add("\n".join(found), False, "menus", domain, lang)
    others = {"bible-kjv-text": "*.data", "dict-foldoc": "*.dict*", "dict-jargon": "*.dict*", "manpages-zh": "*.gz"}
    for file in sorted(path.rglob(others[package])) if package in others else []:
        if "/doc/" not in str(file) or package == "bible-kjv-text":
            for text in entries(package, file):
                texts.add(text, True, "text", domain)


def machine(texts: Collection) -> None:
    """What this computer has of menus and boilerplate; a package is a domain."""
    for path in sorted(Path("/usr/share/doc").glob("*/changelog*.gz"))[:1500]:
        texts.add(opened(path)[:12_000], False, "boilerplate", path.parent.name, "en")
    for path in sorted(Path("/usr/share/doc").glob("*/copyright"))[::2]:
        texts.add(opened(path)[:12_000], False, "boilerplate", path.parent.name, "en")
    for path in sorted(Path("/usr").rglob("zh_[CT][NW]/LC_MESSAGES/*.mo")):
        with path.open("rb") as file:
            strings = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
        for lang, found in (("zh", strings.values()), ("en", strings)):
            short = [s if isinstance(s, str) else s[0] for s in found]
            texts.add("\n".join(s for s in short if 1 < len(s) < 40 and "\n" not in s), False, "menus", path.stem, lang)


def main(out: Path, folders: list[Path]) -> None:
    texts = Collection()
    newest = {
        FAMILY.sub("", re.sub(r"-(zh|en)(?=-|$)", r"+\1", name)): (name, path) for name, path in packages(folders)
    }
    for package, path in sorted(newest.values()):
        if family(package) in (*GOOD, *LISTS) and not OTHER.search(package):
            take(package, path, texts)
    machine(texts)
    texts.shuffle()
    out.mkdir(parents=True, exist_ok=True)
    texts.write(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
