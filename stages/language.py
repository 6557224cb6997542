"""Say what language a document is in, and optionally keep only some languages.

Three witnesses, because each one alone is known to be wrong somewhere:

1. fastText's lid.176 (Joulin et al. 2016, "Bag of Tricks for Efficient Text Classification"): 176 languages, the usual
   judge of web corpora, but it has never heard of Zulu, Xhosa, Shona, Setswana... and calls them English.
2. The letters themselves: kana makes Japanese and hangul Korean; Han without kana is Chinese, however sure the model is
   that a short Chinese sentence is Japanese. They also tell simplified from traditional Chinese.
3. CLD2, asked where fastText is unsure or known to be blind.

A text in capitals is asked about in small letters: both models have learned from ordinary writing.

A document is identified by its first, middle and last `WINDOW` bytes: enough for any of the three, and the cost no
longer follows the length of the document. Letters are counted in the whole text.
"""

import functools
import itertools
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
import pycld2
from pydantic import Field

from pipeline import schema
from pipeline.stage import Stage
from stages.kernels import cases, fasttext, script, windows
from stages.models import fasttext as models

SHIPPED = Path(__file__).parent / "data" / "lid.176.ftz"

WINDOW = 600
"""Bytes of UTF-8 in each of the three pieces a long document is identified by."""

SURE = 0.9
"""From this fastText probability on, CLD2 is asked only about the labels in `_SHADOWED`."""

UNSURE = 0.7
"""Below this fastText probability, CLD2's word counts for more, even on a language fastText knows."""

_MIN_PERCENT, _MIN_FIT, _MIN_FIT_NEW, _CERTAIN_FIT = 85, 300, 400, 700
# What CLD2 must show to overrule: its share of the text, and its score per kilobyte ("normalized score"): right
# answers on 100 characters of Latin script lie above 500, random ones (product names, code) mostly below 300. Both,
# `SURE` and `UNSURE` come from a grid search over 3,024 slices of 100 characters in 126 languages of the UDHR together
# with 4,054 slices of software manuals; the optimum is flat.

_SHADOWED = {"am": {"ti"}, "bo": {"dz"}, "is": {"fo"}, "it": {"co"}, "no": {"nn"}}
# What fastText takes for a relative with full confidence (each measured as above).

_SIBLINGS = ({"hr", "bs", "sr"}, {"id", "ms"}, {"mk", "bg", "sr"}, {"nl", "af"})
# Where both models know both languages, and CLD2 is the weaker one.

_SERBO_CROATIAN = {"hr", "bs", "sr"}  # what lid.176 also calls `sh`, a code ISO has withdrawn

_RELATIVES = {
    "af": "nl", "an": "es ca oc", "ast": "es gl", "az": "tr", "ba": "tt", "be": "ru uk", "bg": "mk", "bs": "hr sr sh",
    "ca": "es oc", "cs": "sk", "da": "no nn", "es": "ca gl ast an", "fo": "is nn", "fy": "nl", "ga": "gd gv",
    "gd": "ga gv", "gl": "pt es", "hr": "bs sr sh", "id": "ms jv su", "jv": "id ms su", "ky": "kk", "lb": "de",
    "mk": "bg sr", "ms": "id jv su", "nds": "de nl", "nl": "af", "nn": "no da", "no": "nn da", "oc": "ca es fr",
    "pt": "gl", "sk": "cs", "sl": "hr sr bs sh", "sr": "hr bs sh", "su": "id ms jv", "tk": "tr az uz", "tr": "az",
    "tt": "ba", "uk": "ru be",
}  # fmt: skip
"""Whose probability is added to that of a language: fastText splits what it believes of a text among close relatives,
so that each alone stays below a threshold that the text would pass if they were one language."""

_RARELY_SURE = {
    "am": 0.45, "an": 0.4, "cy": 0.4, "eu": 0.55, "ga": 0.25, "gd": 0.55, "ht": 0.2, "ilo": 0.6, "jv": 0.3, "la": 0.35,
    "lb": 0.5, "mg": 0.2, "mt": 0.6, "ne": 0.5, "ps": 0.5, "sa": 0.4, "so": 0.2, "su": 0.35, "sv": 0.6, "sw": 0.3,
    "tk": 0.6, "uz": 0.55, "war": 0.35,
}  # fmt: skip
"""The highest threshold for languages of which fastText is rarely sure: the score that 97 of 100 documents of about 350
characters reach whose language was found rightly, rounded down, at least 0.2. The documents are half of the UDHR and of
the messages of Debian's programs; in the other half no text of another language came in by it
(benchmarks/languages.py)."""

_LABELS = 5  # the likeliest ones of a text that are looked at

_CJK = frozenset({"zh", "yue", "wuu", "ja", "ko"})
_NOT_LANGUAGES = ("un", "zzp", "tlh")  # CLD2's unknown, Pig Latin, Klingon

_ISO_639_1 = """
    aar:aa abk:ab afr:af aka:ak als:sq amh:am ara:ar arb:ar arg:an asm:as ava:av aym:ay ayr:ay aze:az azj:az bak:ba
    bam:bm bel:be ben:bn bis:bi bod:bo bos:bs bre:br bul:bg cat:ca ces:cs cha:ch che:ce chv:cv cmn:zh cor:kw cos:co
    cym:cy dan:da deu:de div:dv dzo:dz ekk:et ell:el eng:en epo:eo est:et eus:eu ewe:ee fao:fo fas:fa fij:fj fin:fi
    fra:fr fry:fy ful:ff gla:gd gle:ga glg:gl glv:gv grn:gn gug:gn guj:gu hat:ht hau:ha heb:he hin:hi hrv:hr hun:hu
    hye:hy ibo:ig ido:io iku:iu ina:ia ind:id isl:is ita:it iw:he jav:jv jpn:ja jw:jv kal:kl kan:kn kas:ks kat:ka
    kaz:kk khk:mn khm:km kik:ki kin:rw kir:ky kmr:ku kor:ko kur:ku lao:lo lat:la lav:lv lim:li lin:ln lit:lt ltz:lb
    lug:lg lvs:lv mal:ml mar:mr mkd:mk mlg:mg mlt:mt mon:mn mri:mi msa:ms mya:my nav:nv nb:no nbl:nr nde:nd nep:ne
    nld:nl nno:nn nob:no nor:no npi:ne nya:ny oci:oc ori:or orm:om ory:or oss:os pan:pa pbt:ps pes:fa plt:mg pol:pl
    por:pt pus:ps que:qu quy:qu roh:rm ron:ro run:rn rus:ru sag:sg san:sa sin:si slk:sk slv:sl sme:se smo:sm sna:sn
    snd:sd som:so sot:st spa:es sqi:sq srd:sc srp:sr ssw:ss sun:su swa:sw swe:sv swh:sw tah:ty tam:ta tat:tt tel:te
    tgk:tg tgl:tl tha:th tir:ti ton:to tsn:tn tso:ts tuk:tk tur:tr twi:ak uig:ug ukr:uk urd:ur uzb:uz uzn:uz ven:ve
    vie:vi vol:vo wln:wa wol:wo xho:xh ydd:yi yid:yi yor:yo zha:za zho:zh zsm:ms zul:zu
"""
_ISO_1 = dict(pair.split(":") for pair in _ISO_639_1.split())
_WIKI = {"als": "gsw"}  # Wikipedia's own code, which lid.176 uses for Alemannic

Tag = Annotated[str, Field(pattern="^[a-z]{2,3}$", description="ISO 639-1 code, ISO 639-3 where there is none")]
Score = Annotated[float, Field(ge=0, le=1)]


class Verdict(NamedTuple):
    """A language and how far to believe in it, 0 to 1."""

    lang: str
    score: float


UNDETERMINED = Verdict("und", 0.0)


class Language(Stage):
    """Identify the language; keep the languages named, when they are certain enough.

    Columns: `lang`, ISO 639-1 where it exists, else 639-3 (Chinese is `zh` whatever its script; Cantonese is `yue` only
    where fastText is at least 0.8 sure, Wu is always `zh`); `und` where there is not a letter. `lang_score`, 0 to 1:
    fastText's probability, with that of close relatives added (of Bosnian and Serbian to that of Croatian ...); for
    Chinese and Japanese the sum over the languages written in Han characters, since the letters decide between those;
    the share of the text CLD2 gave the language where CLD2 decided. `script`, ISO 15924: Latn,
    Cyrl, Arab, Jpan, Kore, Hans, Hant (Hani where all its characters are common to both)...

    Reasons: `language`, not one of `keep`; `language_score`, below the threshold: `scores` of the language, else
    `min_score`, or less for a language of which fastText is rarely sure (Irish 0.25, Swahili 0.3 ...).
    """

    alarm_share: ClassVar[float | None] = 0.99  # of a crawl of the whole web, a rare language is a hundredth
    adds: ClassVar[dict[str, pa.DataType]] = {"lang": pa.string(), "lang_score": pa.float32(), "script": pa.string()}

    keep: list[Tag] = Field(default=[], description="languages to keep; none named: all are kept, and only annotated")
    min_score: Score = Field(
        default=0.65, description="lowest score of a kept document (0.65: FineWeb); less where the model is rarely sure"
    )
    scores: dict[Tag, Score] = Field(default={}, description="lowest score of single languages, instead of min_score")
    model: Path | None = Field(default=None, description="a fastText model (.bin, .ftz) instead of lid.176.ftz")

    def files(self) -> list[Path]:
        return [self.model or SHIPPED]

    def apply(self, docs: pa.Table) -> pa.Table:
        data, offsets = schema.text_buffers(docs["text"])
        counts = script.count(data, offsets, script.table(), len(script.SCRIPTS))[: len(docs)]
        langs, scores = identify(data, offsets, counts, self.model or SHIPPED)
        columns = {
            "lang": pa.array(langs, pa.string()),
            "lang_score": pa.array(scores, pa.float32()),
            "script": pa.array(_scripts(langs, counts), pa.string()),
        }
        for name, column in columns.items():
            docs = schema.set_column(docs, name, column)
        return self._marked(docs, langs, scores) if self.keep else docs

    def _marked(self, docs: pa.Table, langs: list[str], scores: np.ndarray) -> pa.Table:
        wanted = np.array([lang in self.keep for lang in langs], bool)
        limits = np.array([self._limit(lang) for lang in langs], np.float64)
        low = wanted & (scores < limits.astype(np.float32))
        pairs = zip(wanted.tolist(), low.tolist(), strict=True)
        reasons = ["language_score" if is_low else None if is_wanted else "language" for is_wanted, is_low in pairs]
        return schema.mark(docs, reasons, np.where(low, scores, np.nan), np.where(low, limits, np.nan))

    def _limit(self, lang: str) -> float:
        return self.scores.get(lang, min(self.min_score, _RARELY_SURE.get(lang, 1.0)))

    def tally(self, docs: pa.Table) -> dict[str, int]:
        """Documents a language."""
        return {f"lang_{pair['values']}": pair["counts"] for pair in docs["lang"].value_counts().to_pylist()}


def identify(data: np.ndarray, offsets: np.ndarray, counts: np.ndarray, model: Path) -> tuple[list[str], np.ndarray]:
    """The language of every row of `schema.text_buffers`, and how far to believe in it (float32).

    `counts` is what `script.count` says of these rows, `model` a fastText file.
    """
    texts, places = _in_small_letters(*windows.sample(data, offsets, WINDOW))
    labels, chances = _predict(texts, places, model)
    languages = _languages(model)
    langs = [languages[label] for label in labels[:, 0]]
    scores = chances[:, 0].copy()
    letters = counts[:, _LETTERS].sum(axis=1)
    plain = (scores >= SURE) & (counts[:, _EAST_ASIAN].sum(axis=1) == 0)  # fastText is believed without a question
    plain &= ~np.isin(labels[:, 0], [i for i, lang in enumerate(languages) if lang in _DOUBTED])
    known = frozenset(languages)
    for row in np.flatnonzero(~plain | (letters == 0)):
        verdict = UNDETERMINED
        if letters[row]:
            pairs = zip(labels[row].tolist(), chances[row].tolist(), strict=True)
            found = [Verdict(languages[label], chance) for label, chance in pairs if label >= 0]
            verdict = _judge(found, counts[row], texts[places[row] : places[row + 1]].tobytes(), known)
        langs[row], scores[row] = verdict
    return langs, scores.astype(np.float32)


_CAPITALS = 0.6  # share of the letters that are one or the other


def _in_small_letters(texts: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The texts, those in small letters that are mostly in capitals; as `schema.text_buffers` gives them."""
    counts = cases.count(texts, places)
    rows = np.flatnonzero(counts[:, 1] > _CAPITALS * counts.sum(axis=1))
    if not len(rows):
        return texts, places
    pieces = [texts[start:end].tobytes() for start, end in itertools.pairwise(places.tolist())]
    for row in rows:
        pieces[row] = _small(pieces[row].decode()).encode()
    sizes = np.cumsum([0, *map(len, pieces)])
    return np.frombuffer(b"".join(pieces), np.uint8), sizes.astype(places.dtype)


def _small(text: str) -> str:
    """In small letters; where the capital I with a dot is written, the one without is that of Turkish."""
    return (text.replace("I", "ı").replace("İ", "i") if "İ" in text else text).lower()


@functools.cache
def _load(path: Path) -> models.Classifier:
    return models.read(path)


@functools.cache
def _languages(path: Path) -> list[str]:
    """The language of each label."""
    return [_language(label) for label in _load(path).labels]


def _predict(texts: np.ndarray, places: np.ndarray, model: Path) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest labels of every text, and their probabilities."""
    labels, chances = fasttext.predict(texts, places, _load(model).model, _LABELS)
    # Sums of a hierarchical softmax in float32 end a little above 1.
    return labels, np.minimum(1.0, chances.astype(np.float64))


@functools.cache
def _language(label: str) -> str:
    """The language code in a model's label: `__label__en`, or `__label__eng_Latn`."""
    name, _, suffix = label.removeprefix("__label__").partition("_")
    return _ISO_1.get(name, name) if suffix else _WIKI.get(name) or _ISO_1.get(name, name)


_HANI, _HANS, _HANT, _KANA, _HANG, _BOPO = (
    script.SCRIPTS.index(name) for name in ("Hani", "Hans", "Hant", "Kana", "Hang", "Bopo")
)
_EAST_ASIAN = [_HANI, _HANS, _HANT, _KANA, _HANG, _BOPO]
_LETTERS = slice(1, None)  # all but Zyyy
_DOUBTED = _CJK | {"sh", *_SHADOWED}  # labels that are looked into however sure fastText is


def _judge(found: list[Verdict], counts: np.ndarray, sample: bytes, known: frozenset[str]) -> Verdict:
    han = int(counts[_HANI] + counts[_HANS] + counts[_HANT])
    kana, hangul, letters = int(counts[_KANA]), int(counts[_HANG]), int(counts[_LETTERS].sum())
    cjk = han + kana + hangul + int(counts[_BOPO])
    if cjk and (2 * cjk >= letters or (found and found[0].lang in _CJK)):
        return _by_letters(found, sample, han, kana, hangul)
    found = [verdict for verdict in found if verdict.lang not in _CJK or cjk]
    if found and found[0].lang == "sh":
        member = next((verdict.lang for verdict in found if verdict.lang in _SERBO_CROATIAN), "hr")
        found[0] = Verdict(member, found[0].score)
    verdict = _with_second_opinion(found[0] if found else UNDETERMINED, sample, known)
    return _with_relatives(found, verdict) if found and verdict is found[0] else verdict


def _with_relatives(found: list[Verdict], verdict: Verdict) -> Verdict:
    relatives = _RELATIVES.get(verdict.lang, "").split()
    added = sum(other.score for other in found[1:] if other.lang in relatives or other.lang == verdict.lang)
    return Verdict(verdict.lang, min(1.0, verdict.score + added))


def _by_letters(found: list[Verdict], sample: bytes, han: int, kana: int, hangul: int) -> Verdict:
    """Chinese, Japanese or Korean: what the letters say, as far as fastText or CLD2 believes in any of them."""
    belief = min(1.0, sum(verdict.score for verdict in found if verdict.lang in _CJK))
    if belief < UNSURE:
        second, _ = _cld2(sample)
        belief = max(belief, second.score) if second.lang in _CJK else belief
    first = found[0] if found else UNDETERMINED
    if hangul >= kana and 4 * hangul >= han:
        return Verdict("ko", belief)
    # Japanese is about half kana, a headline a fifth; the song titles in a Chinese page are a trace.
    if 10 * kana >= kana + han or (first.lang == "ja" and 50 * kana >= kana + han):
        return Verdict("ja", belief)
    return first if first.lang == "yue" and first.score >= 0.8 else Verdict("zh", belief)


def _with_second_opinion(first: Verdict, sample: bytes, known: frozenset[str]) -> Verdict:
    """fastText's verdict, or CLD2's where that is the better witness; `known` is what fastText can say at all."""
    shadowed = _SHADOWED.get(first.lang, set())
    if first.score >= SURE and not shadowed:
        return first
    second, fit = _cld2(sample)
    if second.lang == first.lang or second is UNDETERMINED:
        return first
    if first.score >= SURE or second.lang in shadowed:
        return second if second.lang in shadowed else first
    if second.score * 100 < _MIN_PERCENT:
        return first
    if second.lang not in known:
        return second if fit >= _MIN_FIT_NEW else first
    if any({first.lang, second.lang} <= siblings for siblings in _SIBLINGS):
        return first
    if first.score >= 0.3 and first.lang not in _cld2_languages() and fit < _CERTAIN_FIT:
        return first
    return second if first.score < UNSURE and fit >= _MIN_FIT else first


def _cld2(sample: bytes) -> tuple[Verdict, float]:
    """CLD2's language with its share of the text, and the score per kilobyte it reached."""
    reliable, _, found = pycld2.detect(sample, isPlainText=True, bestEffort=True)
    _, code, percent, fit = found[0]
    code = code.partition("-")[0]
    if not reliable or code in _NOT_LANGUAGES or code == "xx":
        return UNDETERMINED, 0.0
    return Verdict(_ISO_1.get(code, code), percent / 100), float(fit)


@functools.cache
def _cld2_languages() -> frozenset[str]:
    codes = {code.partition("-")[0] for name, code in pycld2.LANGUAGES if name in pycld2.DETECTED_LANGUAGES}
    return frozenset(_ISO_1.get(code, code) for code in codes)


def _scripts(langs: list[str], counts: np.ndarray) -> np.ndarray:
    """The script most letters belong to; Jpan and Kore include Han, Hans and Hant by which of them is seen more."""
    lang = np.array(langs, object)
    cjk = np.array([lang in _CJK for lang in langs], bool)
    groups = counts.copy()
    groups[:, np.array([_HANS, _HANT, _BOPO, 0])] = 0
    groups[:, _HANI] += counts[:, _HANS] + counts[:, _HANT] + counts[:, _BOPO]
    # A page about software may have more Latin letters than Chinese characters.
    groups[np.ix_(cjk, np.array([_HANI, _KANA, _HANG]))] *= 1000
    most = groups.argmax(axis=1)
    names = np.array(script.SCRIPTS, object)[most]
    han, kana, hangul = most == _HANI, most == _KANA, most == _HANG
    simplified, traditional = counts[:, _HANS], counts[:, _HANT]
    choices: list[Any] = ["Zyyy", names, "Kore", "Jpan", "Hani", "Hans"]
    rules = [
        ~groups.any(axis=1),
        ~(han | kana | hangul),
        (lang == "ko") | (hangul & ~cjk),
        (lang == "ja") | kana,
        simplified == traditional,
        simplified > traditional,
    ]
    return np.select(rules, choices, "Hant")
