"""The East Asian charsets: reading them as browsers do, and how likely a text in one of them is."""

import codecs
import functools
import re
import unicodedata
from collections import Counter
from typing import NamedTuple

from stages.readers.charset.labels import python_codec
from stages.readers.charset.likelihood import mixed, split

_LANGUAGES = {"gb18030": "zh", "big5": "zh", "shift_jis": "ja", "euc-jp": "ja", "euc-kr": "ko", "johab": "ko"}
_ASCII_CHARS = re.compile("[\x00-\x7f]+")
_INNER = "[^\x00-\x7f\u3000-\u3011\uff01-\uff1f]"
_EDGE = re.compile(f"(?<=[A-Za-z]){_INNER}|{_INNER}(?=[A-Za-z])")
_ALONE = re.compile(f"(?<=[a-z]){_INNER}(?=[a-z])")
_ASCII_LETTERS = re.compile("[A-Za-z]")

FREQUENT = frozenset(
    "的一是不了在人有我他这這个個们們中来來上大为為和国國地到以说說时時要就出会會可也你对對生能而子那得于於着着下自之年过過发發后後作里"
    "用道行所然家种種事成方多经經么麼去法学學如都同现現当當没沒动動面起看定天分还還进進好小部其些主样樣理心她本前开開但因只从從想实實"
    "日军軍者意无無力它与與长長把机機十民第公此已工使情明性知全三又关關点點正业業外将將两兩高间間由问問很最重并並物手应應战戰向头頭文体體"
    "政美相见見被利什二等产產或新己制身果加西斯月话話合回特代内內信表化老给給世位次度门門任常先海通教儿兒原东東声聲提立及比员員解水名真论論"
    "处處走义義各入几幾口认認条條平系气氣题題活尔爾更别別打女变變四神总總何电電数數安少报報才结結反受目太量再感建务務做接必场場件计計管期市直德资資命山金指克许許统統区區保"
    "至队隊形社便空决決治展马馬科司五基眼书書非则則听聽白却卻界达達光放强強即像难難且权權思王象完设設式色路记記南品住告类類求据據程北边邊死张張该該交规規万萬取拉格望觉覺术術领領共确確传傳师師"
)
"""About the 300 most frequent Chinese characters, simplified and traditional: half of any running Chinese text, and a
twentieth of the characters that a wrong charset makes of it."""

_KANA = re.compile("[\u3041-\u3096\u30fc]")
_KATAKANA = re.compile("[\u30a1-\u30fa]")
_HALF_WIDTH = re.compile("[\uff61-\uff9f]")
_HANGUL = re.compile("[\uac00-\ud7a3]")
_HAN = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_PUNCTUATION = frozenset("　、。，．・：；？！（）「」『』【】《》〈〉“”‘’…—～·〜％")
_ASCII_LETTER = -3.0  # about what a letter costs as a letter of a language with an alphabet
_AT_EDGE = -5.0  # where a letter of ASCII touches a character: "Vim编辑器" is written, but rarely
_ALONE_COST = -6.0  # one character within a word of small letters: an accented letter read wrongly
_DAMAGED = -20.0

_COSTS = {
    # logarithms of the probability of one character, from the share of the class in running text and its size:
    #      frequent Han, level 1, level 2, other Han, hiragana, katakana, half-width, hangul, other hangul, signs
    "zh": (-7.0, -9.2, -11.5, -14.0, -10.5, -10.5, -14.0, -15.0, -17.0, -5.5),
    "ja": (-7.7, -8.8, -11.5, -14.0, -4.9, -6.3, -9.5, -15.0, -17.0, -5.5),
    "ko": (-11.5, -12.0, -13.0, -15.0, -13.0, -13.0, -15.0, -7.8, -15.0, -5.5),
}
_FREQUENT_HAN, _FIRST, _SECOND, _OTHER_HAN, _HIRAGANA, _KATA, _HALF, _HANG, _OTHER_HANG, _MARK = range(10)
_LEVELS = {
    # the charset whose order tells how frequent a Han character is, and where its second level starts
    "gb18030": ("gb2312", 0xD8), "big5": ("big5", 0xC9), "shift_jis": ("euc_jp", 0xD0), "euc-jp": ("euc_jp", 0xD0),
    "euc-kr": ("euc_kr", 0xFF), "johab": ("euc_kr", 0xFF),
}  # fmt: skip


class Text(NamedTuple):
    """A text, and how many characters of it are U+FFFD for bytes that mean nothing."""

    text: str
    replaced: int


def read(data: bytes, name: str) -> Text:
    """`data` in the charset `name`, with U+FFFD for what is in no table of that charset."""
    text = data.decode(python_codec(name), _HANDLERS.get(name, "replace"))
    if name == "gb18030":
        text = text.translate(_GB18030_2022)
    return Text(text, text.count("\ufffd"))


def character_scores(words: bytes) -> list[tuple[str, float]]:
    """Each East Asian charset with the logarithm of the probability of the text, comparable to `letter_scores`."""
    of_ascii, beyond = split(words)
    high_letters = sum(len(_ASCII_LETTERS.findall(word.decode("latin-1"))) for word in beyond)
    letters = high_letters + sum(map(len, of_ascii))
    against = mixed(of_ascii, beyond)
    return [(name, _score(words, name, letters, high_letters) + against) for name in _LANGUAGES]


def _score(words: bytes, name: str, letters: int, high_letters: int) -> float:
    """`letters` of ASCII, of which `high_letters` stand in words with bytes beyond ASCII, are in `words` byte by byte.

    Those that are the second byte of a character are part of its cost; the others in such words are paid for singly.
    """
    text = words.decode(python_codec(name), "replace")
    if 0 < text.count("\ufffd") <= 2 + len(text) // 20:  # few enough to be signs that browsers know
        text, _ = read(words, name)
    taken = letters - len(_ASCII_LETTERS.findall(text))
    beyond = _ASCII_CHARS.sub("", text)
    cost = sum(_cost(char, name) * count for char, count in Counter(beyond).items()) + _ASCII_LETTER * max(
        0, high_letters - taken
    )
    return cost + _AT_EDGE * len(_EDGE.findall(text)) + _ALONE_COST * len(_ALONE.findall(text))


@functools.lru_cache(1 << 16)
def _cost(char: str, name: str) -> float:
    costs = _COSTS[_LANGUAGES[name]]
    if char == "\ufffd" or "\ue000" <= char <= "\uf8ff" or "\x80" <= char <= "\x9f":
        return _DAMAGED
    if char in _PUNCTUATION:
        return costs[_MARK]
    for pattern, place in ((_KANA, _HIRAGANA), (_KATAKANA, _KATA), (_HALF_WIDTH, _HALF)):
        if pattern.match(char):
            return costs[place]
    if _HANGUL.match(char):
        return costs[_HANG if len(_encoded(char, "euc_kr")) == 2 else _OTHER_HANG]
    if _HAN.match(char):
        return costs[_han(char, name)]
    return -10.0 if unicodedata.category(char)[0] in "LNPSZ" else _DAMAGED


def _han(char: str, name: str) -> int:
    if char in FREQUENT:
        return _FREQUENT_HAN
    codec, second = _LEVELS[name]
    coded = _encoded(char, codec)
    if len(coded) != 2:
        return _OTHER_HAN
    return _FIRST if coded[0] < second else _SECOND


def _encoded(char: str, codec: str) -> bytes:
    return char.encode(codec, "ignore")


_GB18030_2022 = dict(
    zip(
        (0xE78D, 0xE78E, 0xE78F, 0xE790, 0xE791, 0xE792, 0xE793, 0xE794, 0xE795, 0xE796, 0xE7C7, 0xE816, 0xE817, 0xE818,
         0xE81E, 0xE826, 0xE82B, 0xE82C, 0xE831, 0xE832, 0xE83B, 0xE843, 0xE854, 0xE855, 0xE864),
        "︐︒︑︓︔︕︖︗︘︙ḿ\U00020087\U00020089\U000200cc龴龵龶龷\U000215d7龸\U0002298f龹龺\U000241fe龻",
        strict=True,
    )
)  # fmt: skip
"""What Python's GB18030, of 2000, puts into the private use area, and the edition of 2022 where it belongs."""


def _gbk_error(error: UnicodeError) -> tuple[str, int]:
    """0x80 is the euro sign in windows-936, and browsers read it so."""
    assert isinstance(error, UnicodeDecodeError)
    return "€" if error.object[error.start] == 0x80 else "\ufffd", error.start + 1


def _big5_error(error: UnicodeError) -> tuple[str, int]:
    """What HKSCS has no place for may be in Microsoft's extension."""
    assert isinstance(error, UnicodeDecodeError)
    return _pair(error, "cp950", error.object[error.start : error.start + 2])


def _euc_jp_error(error: UnicodeError) -> tuple[str, int]:
    """The signs and names that NEC and IBM added stand in the rows where windows-31j has them."""
    assert isinstance(error, UnicodeDecodeError)
    pair = error.object[error.start : error.start + 2]
    if len(pair) < 2 or min(pair) < 0xA1:
        return "\ufffd", error.start + 1
    row, cell = pair[0] - 0xA0, pair[1] - 0xA0
    lead = (row + 1) // 2 + (0x80 if row < 63 else 0xC0)
    trail = cell + (0x9E if row % 2 == 0 else 0x3F if cell < 64 else 0x40)
    return _pair(error, "cp932", bytes([lead, trail]))


def _pair(error: UnicodeDecodeError, codec: str, pair: bytes) -> tuple[str, int]:
    """Two bytes by another codec, or U+FFFD for the first: a sign of ASCII behind a damaged byte is not lost."""
    try:
        text = pair.decode(codec)
    except UnicodeDecodeError:
        return "\ufffd", error.start + 1
    return (text, error.start + 2) if len(text) == 1 else ("\ufffd", error.start + 1)


_HANDLERS = {"gb18030": "gristmill.gbk", "big5": "gristmill.big5", "euc-jp": "gristmill.euc-jp"}
codecs.register_error("gristmill.gbk", _gbk_error)
codecs.register_error("gristmill.big5", _big5_error)
codecs.register_error("gristmill.euc-jp", _euc_jp_error)
