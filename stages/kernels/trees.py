"""Boosted trees as arrays: the sum of the leaves that a row of features falls into."""

from stages.kernels import kernel


@kernel
def add_trees(rows, roots, features, limits, lower, upper, leaves, out):  # type: ignore[no-untyped-def]
    """Add to `out` float32[rows] the leaf of each tree for every row of `rows` float32[rows, features].

    `roots` int32[trees]; of each node the feature it asks, the limit (`<=` goes lower), and where to go: a node, or
    `-1 - leaf`.
    """
    for number in range(len(rows)):
        row = rows[number]
        total = out[number]
        for tree in range(len(roots)):
            node = roots[tree]
            while node >= 0:
                node = lower[node] if row[features[node]] <= limits[node] else upper[node]
            total += leaves[-1 - node]
        out[number] = total
