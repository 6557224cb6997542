"""What a page says of its charset: the HTML standard's search for a `<meta>`, and the XML declaration.

A `<meta>` in a comment, a script, a style sheet, a template or the like is text and no declaration.
"""

import re

from stages.readers.charset.labels import canonical

_SEARCHED = 1 << 16  # bytes; the standard says 1024, but scripts and comments of many pages stand before the <meta>
_PART = re.compile(
    rb"""<!--(?:-?>|.*?--!?>|.*\Z)                                 # a comment, closed or not
    |<!\[CDATA\[(?:.*?\]\]>|.*\Z)
    |<(script|style|noscript|template|title|textarea|xmp|iframe|noembed|noframes|svg|math|object|select)\b[^>]*>
        (?:.*?</\1\s*>|.*\Z)
    |<(meta|body)(?=[\s/>])((?:[^>"']|"[^"]*"|'[^']*')*)
    |<[a-z/!?](?:[^>"']|"[^"]*"|'[^']*')*""",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
_ATTRIBUTE = re.compile(rb"""([^\s"'>/=]+)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""")
_CONTENT = re.compile(rb"""charset\s*=\s*["']?\s*([A-Za-z0-9_.:-]{2,40})""", re.IGNORECASE)
_XML = re.compile(rb"""\A\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([A-Za-z0-9_.:-]{2,40})""", re.IGNORECASE)


def declared(data: bytes, http_charset: str | None, html: bool) -> list[str]:
    """The names of the charsets that the HTTP header and the page declare, without those we do not know."""
    found = [canonical(http_charset)]
    if html:
        for label in (_xml(data), _meta(data[:_SEARCHED])):
            name = canonical(label)
            found.append("utf-8" if name and name.startswith("utf-") else name)  # it was read as ASCII just now
    return [name for name in found if name]


def _xml(data: bytes) -> str | None:
    match = _XML.search(data[:1024])
    return match[1].decode("ascii") if match else None


def _meta(head: bytes) -> str | None:
    """The label in the first `<meta>` that declares one, by `charset` or by `http-equiv` and `content`."""
    for part in _PART.finditer(head):
        name = (part[2] or b"").lower()
        if name == b"body":
            return None
        if name == b"meta" and (label := _label(part[3])):
            return label
    return None


def _label(attributes: bytes) -> str | None:
    values: dict[bytes, bytes] = {}
    for match in _ATTRIBUTE.finditer(attributes):
        values.setdefault(match[1].lower(), match[2] or match[3] or match[4] or b"")  # the first of a name counts
    label = values.get(b"charset")
    if label is None and values.get(b"http-equiv", b"").strip().lower() == b"content-type":
        match_content = _CONTENT.search(values.get(b"content", b""))
        label = match_content[1] if match_content else None
    return label.decode("ascii", "replace").strip() if label else None
