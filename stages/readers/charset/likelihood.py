"""Which single-byte charset a text is in: the one that makes the likeliest letters of its bytes.

Every pair of a charset and a language written in it is a hypothesis. Its score is the logarithm of the probability of
the words that hold bytes beyond ASCII: each letter by the one before it (`stages/data/letters.json`), whether it is a
capital, and what other signs stand between. Words of ASCII alone are the same in every charset; they count a little,
since they tell in which language the others are likely to be.
"""

import functools
import json
import math
import unicodedata
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stages.readers.charset.labels import python_codec

LETTERS = Path(__file__).parents[2] / "data" / "letters.json"

_WEST = "en de fr es it pt nl da nb nn sv fi is fo ga ca gl eu af sq id br et"
_EAST = "pl cs sk hu hr bs sl ro sq"
_CYRILLIC = "ru uk be bg sr mk"
_GROUPS: dict[str, dict[str, str]] = {
    # script: {charset: languages written in it}
    "Latn": {
        "windows-1252": _WEST, "iso-8859-15": _WEST, "macintosh": _WEST, "ibm850": _WEST,
        "windows-1250": _EAST, "iso-8859-2": _EAST, "x-mac-ce": _EAST, "ibm852": _EAST, "iso-8859-16": "ro pl hu",
        "windows-1254": "tr", "iso-8859-3": "tr mt eo", "windows-1257": "lt lv et", "iso-8859-13": "lt lv et",
        "iso-8859-4": "lt lv et", "iso-8859-10": "lt is", "iso-8859-14": "cy ga", "windows-1258": "vi",
    },
    "Cyrl": {
        "windows-1251": _CYRILLIC, "iso-8859-5": _CYRILLIC, "x-mac-cyrillic": _CYRILLIC, "ibm855": _CYRILLIC,
        "koi8-r": "ru bg", "koi8-u": "uk be", "ibm866": "ru uk be bg",
    },
    "Grek": {"windows-1253": "el", "iso-8859-7": "el"},
    "Hebr": {"windows-1255": "he", "iso-8859-8": "he"},
    "Arab": {"windows-1256": "ar fa ur", "iso-8859-6": "ar"},
    "Thai": {"windows-874": "th"},
}  # fmt: skip

_BLANK, _OTHER = 0, 1  # what is no letter; a letter of another script
_COMMON = frozenset("\xa0“”‘’–—…«»„‚‹›°§©®™€£•·№¡¿")
_SIGN, _RARE_SIGN, _DRAWING, _IMPOSSIBLE = -4.5, -9.0, -11.0, -16.0  # logarithms of probabilities, set by hand
_JOINING, _OPENING, _CLOSING = "\xa0’–—·\xad", "“«‘„‚‹¡¿€£№§", "”»…™®€°›"
_TOUCHING = -4.0  # a sign at a letter where it does not belong: "ksi±¿ka" is Latin-2 read as Latin-1
_FOREIGN = -9.0  # a letter of another script within a word
_LOWER, _UPPER = 1, 2
_CASE = np.log(np.array([[1, 0.85, 0.15], [1, 0.997, 0.003], [1, 0.5, 0.5]]))
"""From what (no letter, small, capital) to what; small to capital betrays KOI8-R read as windows-1251 and back."""

_NOISE, _NOISE_ASCII = -np.log(128.0) - 0.5, -np.log(52.0) - 0.5  # a byte beyond ASCII, an ASCII letter beside one
_NOISE_PRIOR = -30.0  # short texts have names and words of any language in them
_LOANED = -4.0  # a word or name of another language: "Señor" in English
_MIXED = 1.5
_BACKOFF = 8.0  # pairs that a letter seen never before counts as
_CONTEXT = 100.0  # letters that all words of ASCII together count as
_TO_WORDS = bytes(byte if byte >= 0x80 or chr(byte).isalpha() else 0x20 for byte in range(256))


class Score(NamedTuple):
    """A charset and the logarithm of the probability of the text in its likeliest language."""

    charset: str
    score: float


class _Pairs(NamedTuple):
    """Bytes that follow each other within and around words, and how often each pair is met."""

    first: np.ndarray
    second: np.ndarray
    counts: np.ndarray


class _Reading(NamedTuple):
    """What a charset makes of each byte: the letter's number in the script's alphabet, its case, the cost of a sign."""

    letters: np.ndarray  # int64[256]
    case: np.ndarray  # int64[256]
    signs: np.ndarray  # float64[256]
    after: np.ndarray  # float64[256]: what a sign costs more behind a letter
    before: np.ndarray  # float64[256]: what it costs more before one
    languages: np.ndarray  # rows of the script's table


class _Script(NamedTuple):
    chances: np.ndarray  # float32[language, letter, letter], logarithms
    readings: dict[str, _Reading]


def letter_scores(words: bytes) -> list[Score]:
    """Every charset with its score, in no order; `words` is text without markup."""
    of_ascii, beyond = split(words)
    pairs = _pairs(beyond)
    context = np.maximum(_context(_pairs(of_ascii)), _LOANED * len(beyond))
    found = []
    for name in _GROUPS:
        script = _script(name)
        for charset, reading in script.readings.items():
            score = _score(script, reading, pairs)
            # The words of ASCII in a Russian page are of any language, but most of its words are not of ASCII.
            score += context[reading.languages] if name == "Latn" else mixed(of_ascii, beyond)
            found.append(Score(charset, float(score.max())))
    return found


def mixed(of_ascii: list[bytes], beyond: list[bytes]) -> float:
    """What speaks against a script other than Latin where most words are of ASCII letters."""
    return -_MIXED * math.log1p(sum(map(len, of_ascii)) / sum(map(len, beyond)))


def noise(words: bytes) -> float:
    """The score that a text would have if every byte in its words were as likely as any other, and a little less."""
    beyond = b"".join(split(words)[1])
    high = len(beyond) - len(beyond.translate(None, bytes(range(0x80, 0x100))))
    return _NOISE * high + _NOISE_ASCII * (len(beyond) - high) + _NOISE_PRIOR


def split(text: bytes) -> tuple[list[bytes], list[bytes]]:
    """The words of ASCII letters alone, and those with bytes beyond ASCII."""
    words = text.translate(_TO_WORDS).split(b" ")
    return [word for word in words if word and word.isascii()], [word for word in words if not word.isascii()]


def _pairs(words: list[bytes]) -> _Pairs:
    data = np.frombuffer(b" " + b" ".join(words) + b" ", np.uint8).astype(np.int64)
    keys, counts = np.unique(data[:-1] * 256 + data[1:], return_counts=True)
    return _Pairs(keys // 256, keys % 256, counts.astype(np.float64))


def _score(script: _Script, reading: _Reading, pairs: _Pairs) -> np.ndarray:
    """The score of each language of a reading."""
    first, second = reading.letters[pairs.first], reading.letters[pairs.second]
    signs = reading.signs[pairs.second] + _CASE[reading.case[pairs.first], reading.case[pairs.second]]
    signs += reading.after[pairs.second] * (reading.case[pairs.first] > 0)
    signs += reading.before[pairs.first] * (reading.case[pairs.second] > 0)
    chances = script.chances[reading.languages][:, first, second] + signs
    return np.asarray(chances @ pairs.counts)


def _context(pairs: _Pairs) -> np.ndarray:
    """How much less likely each language of Latin letters makes the words of ASCII than the likeliest does."""
    script = _script("Latn")
    letters = script.readings["windows-1252"].letters
    likely = script.chances[:, letters[pairs.first], letters[pairs.second]] @ pairs.counts
    return np.asarray((likely - likely.max()) * min(1.0, _CONTEXT / pairs.counts.sum()))


@functools.cache
def _table() -> dict[str, dict[str, int]]:
    """How often each pair of letters is met in each language."""
    languages = json.loads(LETTERS.read_text(encoding="utf-8"))["languages"]
    return {
        name: {entry[:2]: int(entry[2:]) for entry in entries.split(",") if entry}
        for name, entries in languages.items()
    }


@functools.cache
def _script(name: str) -> _Script:
    charsets = _GROUPS[name]
    table = _table()
    languages = sorted({language for line in charsets.values() for language in line.split()})
    used = {char for language in languages for pair in table[language] for char in pair}
    reachable = {char.lower() for charset in charsets for char in _characters(charset) if _is_letter(char)}
    if name != "Latn":
        reachable = {char for char in reachable if not unicodedata.name(char, "").startswith("LATIN")}
    alphabet = {char: at for at, char in enumerate([" ", "\0", *sorted((used | reachable) - {" "})])}
    counts = np.zeros((len(languages), len(alphabet), len(alphabet)))
    for row, language in enumerate(languages):
        for pair, count in table[language].items():
            counts[row, alphabet[pair[0]], alphabet[pair[1]]] = count
    readings = {charset: _reading(charset, line.split(), languages, alphabet) for charset, line in charsets.items()}
    return _Script(_chances(counts), readings)


def _chances(counts: np.ndarray) -> np.ndarray:
    """Logarithms of the probability of the second letter after the first, none of them zero."""
    single = counts.sum(axis=1)
    single /= single.sum(axis=1, keepdims=True)
    single = 0.95 * single + 0.04 * single.mean(axis=0) + 0.01 / single.shape[1]
    after = counts.sum(axis=2, keepdims=True)
    chances = np.log((counts + _BACKOFF * single[:, None, :]) / (after + _BACKOFF))
    chances[:, :, _OTHER] = _FOREIGN
    chances[:, _BLANK, _BLANK] = 0.0  # the table has one blank for each run of what is no letter
    return chances.astype(np.float32)


def _reading(charset: str, used: list[str], languages: list[str], alphabet: dict[str, int]) -> _Reading:
    letters, case = np.zeros(256, np.int64), np.zeros(256, np.int64)
    signs, after, before = np.zeros(256), np.zeros(256), np.zeros(256)
    for byte, char in enumerate(_characters(charset)):
        if _is_letter(char):
            letters[byte] = alphabet.get(char.lower()[0], _OTHER)  # of two in one case: İ
            case[byte] = _UPPER if char.isupper() else _LOWER
        elif byte >= 0x80:
            signs[byte] = _sign(char)
            after[byte] = 0.0 if char in _JOINING + _CLOSING else _TOUCHING
            before[byte] = 0.0 if char in _JOINING + _OPENING else _TOUCHING
    return _Reading(letters, case, signs, after, before, np.array([languages.index(language) for language in used]))


def _sign(char: str) -> float:
    if char in _COMMON:
        return _SIGN
    if "\u2500" <= char <= "\u25a0":
        return _DRAWING
    return _RARE_SIGN if unicodedata.category(char)[0] in "PSNZ" or char == "\xad" else _IMPOSSIBLE


def _is_letter(char: str) -> bool:
    return char not in "ªº" and unicodedata.category(char)[0] in "LM"


@functools.cache
def _characters(charset: str) -> str:
    """What each of the 256 bytes means, U+FFFF where it means nothing."""
    return "".join(bytes([byte]).decode(python_codec(charset), "replace") for byte in range(256)).replace(
        "\ufffd", "\uffff"
    )
