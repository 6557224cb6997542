"""The main text of a page: parsed, judged block by block, written."""

import threading

import numpy as np

from stages.extraction import model
from stages.extraction.page import Parser, write

_OWN = threading.local()


def main_text(page: bytes) -> str:
    """The text of a page (UTF-8), without menus, advertising and the rest of its frame.

    Takes time in proportion to the length of the page, whatever it holds.
    """
    if not hasattr(_OWN, "parser"):
        _OWN.parser = Parser()
    tree = _OWN.parser.parse(np.frombuffer(page or b" ", np.uint8))
    if len(tree.blocks) == 0:
        return ""
    likely, found = model.shipped().likely(tree)
    return write(tree, model.choose(tree, likely, found))
