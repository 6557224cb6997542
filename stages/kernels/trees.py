"""Boosted trees as arrays: the sum of the leaves that a row of features falls into.

A leaf is a node that leads to itself, so each row takes as many steps in a tree as the tree is deep, without a branch
that could be foretold wrongly, and four rows walk side by side: twice as fast as one after the other.
"""

import numpy as np

from stages.kernels import inlined, kernel

_TOGETHER = 32  # rows that a tree is asked about in a row: they and the tree stay in the fastest cache


@inlined
def _step(row, node, nodes, limits):  # type: ignore[no-untyped-def]
    at = np.uint64(node)
    above = row[np.uint64(nodes[at, 0])] > limits[at, 3]
    return nodes[at, np.uint64(1) + np.uint64(above)]


@kernel
def add_trees(rows, roots, depths, nodes, limits, out):  # type: ignore[no-untyped-def]
    """Add to `out` float32[rows] the leaf of each tree for every row of `rows` float32[rows, features].

    `roots` and `depths` int32[trees]. `nodes` int32[nodes, 4]: the feature that a node asks, where to go at or below
    its limit, where to go above it, and the bits of the limit, which `limits` float32[nodes, 4] shows. A leaf leads to
    itself and has its value for a limit.
    """
    for start in range(0, len(rows), _TOGETHER):
        stop = min(start + _TOGETHER, len(rows))
        for tree in range(len(roots)):
            depth = depths[tree]
            number = start
            while number + 3 < stop:
                a, b, c, d = roots[tree], roots[tree], roots[tree], roots[tree]
                for _ in range(depth):
                    a = _step(rows[number], a, nodes, limits)
                    b = _step(rows[number + 1], b, nodes, limits)
                    c = _step(rows[number + 2], c, nodes, limits)
                    d = _step(rows[number + 3], d, nodes, limits)
                out[number] += limits[a, 3]
                out[number + 1] += limits[b, 3]
                out[number + 2] += limits[c, 3]
                out[number + 3] += limits[d, 3]
                number += 4
            while number < stop:
                node = roots[tree]
                for _ in range(depth):
                    node = _step(rows[number], node, nodes, limits)
                out[number] += limits[node, 3]
                number += 1
