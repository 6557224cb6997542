"""One page at a time through the kernels, with arrays that grow to the largest page and are used again."""

from typing import NamedTuple

import numpy as np

from stages.kernels import constant, html_names, html_references, html_tokens, html_tree, html_write, text

_TABLES = (
    html_names.ATTRIBUTE_KEYS, html_names.ATTRIBUTE_VALUES, html_names.CLASS_KEYS, html_names.CLASS_VALUES,
    html_tree.ROLE_KEYS, html_tree.ROLE_VALUES, html_tree.ROLE_FLAGS,
)  # fmt: skip


class Page(NamedTuple):
    """A page as elements and blocks of text; the arrays are views into the parser's and last until the next page."""

    data: np.ndarray  # uint8[bytes]
    elements: np.ndarray  # int32[elements, 8], columns of html_tree
    blocks: np.ndarray  # int32[blocks, 11]
    ops: np.ndarray  # int32[operations, 4]
    words: np.ndarray  # uint32[words], hashes of the words in class, id, role and itemprop
    rows: np.ndarray  # uint8[rows + 1], whether a table row is layout
    title: tuple[int, int]  # bytes of <title>


class Parser:
    """Parses pages; one for each thread."""

    def __init__(self) -> None:
        self._state = np.zeros(html_tree.STEPS + 1, np.int64)
        self._stack = np.zeros((html_tree.MOST_NESTED, 6), np.int32)
        self._opened = np.zeros(256, np.int32)
        self._arrays: dict[str, np.ndarray] = {}

    @property
    def steps(self) -> int:
        """Steps through the stack of open elements that the last page took."""
        return int(self._state[html_tree.STEPS])

    def _array(self, name: str, rows: int, columns: int, kind: type) -> np.ndarray:
        array = self._arrays.get(name)
        if array is None or len(array) < rows:
            shape = (rows + rows // 4, columns) if columns > 1 else (rows + rows // 4,)
            array = self._arrays[name] = np.zeros(shape, kind)
        return array

    def parse(self, data: np.ndarray) -> Page:
        """The tree of a page, UTF-8 in uint8[bytes]."""
        data = constant(data)
        xml = _is_xml(data[:4096].tobytes())
        most = len(data) // 2 + 2  # a tag has three bytes or more, a text between two of them one
        kinds = self._array("kinds", most, 2, np.uint8)
        ranges = self._array("ranges", most, 2, np.int32)
        count = html_tokens.tokenize(
            data, xml, html_names.TAG_KEYS, html_names.TAG_VALUES, html_names.KINDS, html_tokens.BREAKS_OUT, kinds,
            ranges,
        )  # fmt: skip
        elements = self._array("elements", count + 2, 8, np.int32)
        blocks = self._array("blocks", count + 2, 11, np.int32)
        ops = self._array("ops", 3 * count + 4, 4, np.int32)
        words = self._array("words", len(data) // 2 + 32, 1, np.uint32)
        rows = self._array("rows", count + 2, 1, np.uint8)
        rows[: count + 2] = 0
        html_tree.build(
            data, xml, kinds, ranges, count, html_names.KINDS, html_tree.OWN, _TABLES, self._state, self._stack,
            self._opened, elements, blocks, ops, words, rows,
        )  # fmt: skip
        state = self._state
        size = int(state[html_tree.BLOCKS])
        html_write.mark_layout(blocks, size, rows)
        return Page(
            data, elements[: state[html_tree.ELEMENTS]], blocks[:size], ops[: state[html_tree.OPS]],
            words[: state[html_tree.WORDS]], rows, (int(state[html_tree.TITLE0]), int(state[html_tree.TITLE1])),
        )  # fmt: skip


def _is_xml(head: bytes) -> bool:
    """Whether a page says that it is XHTML: it may come as text/html, where nobody would close a `<div/>` again."""
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<?xml") or b"www.w3.org/1999/xhtml" in head


def write(page: Page, kept: np.ndarray) -> str:
    """The text of the blocks of a page that are kept (bool[blocks])."""
    return write_parts(page, kept)[0].decode()


def write_parts(page: Page, kept: np.ndarray) -> tuple[bytes, np.ndarray]:
    """The text of the blocks that are kept, and where each block ends in it: int32[blocks]."""
    ends = np.zeros(len(page.blocks), np.int32)
    out = np.empty(html_write.room(page.blocks, page.ops, len(page.blocks)) + 64, np.uint8)
    size = html_write.write(
        page.data, page.blocks, len(page.blocks), kept, page.ops, page.rows, text.classes(), html_references.KEYS,
        html_references.CODES, html_references.WINDOWS, html_write.OPENING, out, ends, np.zeros(6, np.int64),
    )  # fmt: skip
    return out[:size].tobytes(), ends
