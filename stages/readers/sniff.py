"""What a file is, by its first plain bytes and its suffix: the content decides where it is unmistakable."""

import re
from pathlib import PurePath

from stages.readers.charset import looks_wide

KINDS = ("warc", "html", "jsonl", "parquet", "csv", "tsv", "text")

_SUFFIXES = {
    ".warc": "warc", ".wet": "warc", ".wat": "warc", ".arc": "warc",
    ".html": "html", ".htm": "html", ".xhtml": "html", ".shtml": "html",
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet", ".pq": "parquet",
    ".csv": "csv", ".tsv": "tsv", ".txt": "text", ".text": "text", ".md": "text", ".rst": "text", "": "text",
}  # fmt: skip
_COMPRESSED = {".gz", ".zst", ".zstd", ".lz4", ".bz2", ".xz"}
_BINARY = (
    b"\x89PNG",
    b"GIF8",
    b"\xff\xd8\xff",
    b"%PDF-",
    b"PK\x03\x04",
    b"\x7fELF",
    b"RIFF",
    b"\x00\x00\x00",
    b"OggS",
    b"ID3",
)
_CONTROLS = bytes(code for code in range(0x20) if code not in b"\t\n\r\f\x0e\x0f\x1b")
_PROLOG = rb"(?:\xef\xbb\xbf|\xff\xfe|\xfe\xff)?\s*(?:<(?:\?[^>]*|!--(?:(?!-->).)*--)>\s*)*"
_HTML = re.compile(_PROLOG + rb"<(?:!doctype\s+html|html|head|body|meta|title)\b", re.I | re.S)
_PAGE = re.compile(
    _PROLOG + rb"<(?:!doctype\s+html|html|head|body)\b.*?<(?:head|body|title|meta|div|p|h1)\b", re.I | re.S
)
_ROOT = re.compile(
    _PROLOG + rb"(?:<!doctype\b[^>\[]*(?:\[[^\]]*\]\s*)?>\s*)?(?:<!--(?:(?!-->).)*-->\s*)*<([a-z][\w:.-]*)", re.I | re.S
)
_JSON = re.compile(rb'^(?:\xef\xbb\xbf)?\s*(?:\[\s*)?\{\s*(?:"|\})')
_JSON_LINE = re.compile(rb'^\{\s*"[^"\x00-\x1f]*"\s*:', re.M)


def suffix(name: str) -> str:
    """The suffix of a file name in lower case, looking past that of a compression; a leading dot is not a suffix."""
    path = PurePath(name.lower())
    return PurePath(path.stem).suffix if path.suffix in _COMPRESSED else path.suffix


def sniff(head: bytes, name: str) -> str | None:
    """One of `KINDS` for a file called `name` that starts with the plain bytes `head`; None for unknown."""
    if head.startswith((b"WARC/", b"filedesc:")):  # the second is ARC, from before WARC
        return "warc"
    if head.startswith(b"PAR1"):
        return "parquet"
    known = _SUFFIXES.get(suffix(name))
    if known in ("warc", "parquet"):  # a damaged one: its reader says what can be saved
        return known
    if is_binary(head) and not _has_records(head, known):
        return None
    if known == "text" and is_page(head):
        return "html"
    if known and suffix(name):
        return known
    if is_html(head):
        return "html"
    return "jsonl" if _JSON.match(head) else known


def _has_records(head: bytes, kind: str | None) -> bool:
    """Whether a file of records holds some in spite of the noise in it: its header line, or a line of JSON, is good."""
    if kind == "jsonl":
        return _JSON_LINE.search(head) is not None
    return kind in ("csv", "tsv") and not is_binary(head.partition(b"\n")[0])


def is_html(head: bytes) -> bool:
    """Whether these are the first bytes of an HTML page, or of one without its first tags."""
    return _HTML.match(_narrow(head)) is not None


def is_page(head: bytes) -> bool:
    """Whether these are the first bytes of a whole HTML page, whatever it is said to be."""
    return _PAGE.match(_narrow(head)) is not None


def root(head: bytes) -> str:
    """The name of the first element, in lower case; "" where there is none."""
    match = _ROOT.match(_narrow(head))
    return match[1].decode().lower() if match else ""


def is_binary(head: bytes) -> bool:
    """Whether these are the first bytes of an image, an archive or the like: nothing that a charset makes text of."""
    narrow = _narrow(head)
    if not narrow.startswith(_BINARY):
        controls = len(narrow) - len(narrow.translate(None, _CONTROLS))
        if controls > 0.03 * len(narrow) and is_html(narrow):
            controls -= narrow.count(0)  # NULs in a page do no harm
        if controls <= 0.03 * len(narrow):
            return False
    return not looks_wide(head)  # the costly question last


def _narrow(head: bytes) -> bytes:
    """`head` without the NULs of UTF-16, where every second byte is one, as in markup."""
    nuls = head.count(0)
    if nuls < len(head) // 4:
        return head
    high = max(head[::2].count(0), head[1::2].count(0))
    return head.replace(b"\0", b"") if nuls - high <= 0.05 * nuls else head
