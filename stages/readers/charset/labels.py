"""What the labels of charsets mean, and how Python calls them.

The names are those of the WHATWG Encoding Standard, and so is what a label means: iso-8859-1 is windows-1252, all of
GB2312 and GBK are read as GB18030. Charsets that browsers gave up (Johab, ISO-2022-KR, HZ, IBM855, UTF-32 ...) stand
behind them by the names of IANA or Python: files outside the web still use them.
"""

_CODECS: dict[str, tuple[str, str]] = {
    # name: (Python codec, labels)
    "utf-8": ("utf-8", "utf8 unicode-1-1-utf-8 unicode11utf8 x-unicode20utf8"),
    "utf-16le": ("utf-16-le", "utf-16 utf16 utf16le unicode ucs-2 csunicode iso-10646-ucs-2 unicodefeff"),
    "utf-16be": ("utf-16-be", "utf16be unicodefffe"),
    "utf-32le": ("utf-32-le", "utf-32 utf32 utf32le ucs-4 iso-10646-ucs-4"),
    "utf-32be": ("utf-32-be", "utf32be"),
    "gb18030": ("gb18030", "gbk gb2312 gb_2312 gb_2312-80 x-gbk cp936 ms936 chinese csgb2312 iso-ir-58 euc-cn"),
    "hz-gb-2312": ("hz", "hz"),
    "big5": ("big5hkscs", "big5-hkscs big5hkscs cn-big5 csbig5 x-x-big5 big-5 cp950"),
    "shift_jis": ("cp932", "shift-jis sjis x-sjis windows-31j ms_kanji ms932 csshiftjis cp932 sjis-2004"),
    "euc-jp": ("euc_jp", "x-euc-jp cseucpkdfmtjapanese eucjp euc_jp"),
    "iso-2022-jp": ("iso2022_jp_ext", "csiso2022jp"),
    "iso-2022-kr": ("iso2022_kr", "csiso2022kr"),
    "euc-kr": ("cp949", "ks_c_5601-1987 ks_c_5601-1989 ksc5601 ksc_5601 windows-949 uhc korean cseuckr cp949 euckr"),
    "johab": ("johab", "cp1361 ms1361 ksc5601-1992"),
    "windows-1252": (
        "cp1252",
        "iso-8859-1 iso8859-1 iso_8859-1 latin1 l1 ascii us-ascii cp1252 x-cp1252 ansi_x3.4-1968",
    ),
    "windows-1250": ("cp1250", "cp1250 x-cp1250"),
    "windows-1251": ("cp1251", "cp1251 x-cp1251"),
    "windows-1253": ("cp1253", "cp1253 x-cp1253"),
    "windows-1254": ("cp1254", "iso-8859-9 iso8859-9 iso_8859-9 latin5 l5 cp1254 x-cp1254"),
    "windows-1255": ("cp1255", "cp1255 x-cp1255"),
    "windows-1256": ("cp1256", "cp1256 x-cp1256"),
    "windows-1257": ("cp1257", "cp1257 x-cp1257"),
    "windows-1258": ("cp1258", "cp1258 x-cp1258"),
    "windows-874": ("cp874", "tis-620 iso-8859-11 iso8859-11 dos-874 cp874"),
    "iso-8859-2": ("iso8859_2", "iso8859-2 iso_8859-2 latin2 l2"),
    "iso-8859-3": ("iso8859_3", "iso8859-3 iso_8859-3 latin3 l3"),
    "iso-8859-4": ("iso8859_4", "iso8859-4 iso_8859-4 latin4 l4"),
    "iso-8859-5": ("iso8859_5", "iso8859-5 iso_8859-5 cyrillic"),
    "iso-8859-6": ("iso8859_6", "iso8859-6 iso_8859-6 arabic ecma-114 asmo-708"),
    "iso-8859-7": ("iso8859_7", "iso8859-7 iso_8859-7 greek greek8 ecma-118 elot_928"),
    "iso-8859-8": ("iso8859_8", "iso8859-8 iso_8859-8 iso-8859-8-i logical visual hebrew"),
    "iso-8859-10": ("iso8859_10", "iso8859-10 latin6 l6"),
    "iso-8859-13": ("iso8859_13", "iso8859-13"),
    "iso-8859-14": ("iso8859_14", "iso8859-14"),
    "iso-8859-15": ("iso8859_15", "iso8859-15 iso_8859-15 latin9 l9"),
    "iso-8859-16": ("iso8859_16", "iso8859-16"),
    "koi8-r": ("koi8_r", "koi koi8 koi8_r cskoi8r"),
    "koi8-u": ("koi8_u", "koi8-ru koi8_u"),
    "ibm866": ("cp866", "866 cp866 csibm866"),
    "ibm855": ("cp855", "855 cp855 csibm855"),
    "ibm852": ("cp852", "852 cp852"),
    "ibm850": ("cp850", "850 cp850"),
    "macintosh": ("mac_roman", "mac x-mac-roman macroman mac-roman csmacintosh"),
    "x-mac-ce": ("mac_latin2", "mac-centraleurope maccentraleurope mac-latin2 mac_latin2"),
    "x-mac-cyrillic": ("mac_cyrillic", "x-mac-ukrainian mac-cyrillic maccyrillic mac_cyrillic"),
}
_LABELS = {label: name for name, (_, labels) in _CODECS.items() for label in (name, *labels.split())}


def canonical(label: str | None) -> str | None:
    """The name of a charset by one of its labels, in any case; None for one that is unknown."""
    return _LABELS.get(label.strip().strip("\"'").lower()) if label else None


def python_codec(name: str) -> str:
    """The Python codec for the name of a charset."""
    return _CODECS[name][0] if name in _CODECS else name
