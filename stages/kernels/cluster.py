"""From equal keys to verdicts: union-find gathers documents that may be alike, leader clustering says which ones leave.

Union-find only groups: its components are chains of unverified agreements. Within a component, documents are taken in
the order in which they are to be kept; each either leaves because of one document kept before it, with a measured
similarity, or is kept. So there are no chains, and nothing leaves for a document that is itself gone.
"""

import numpy as np
from numba import njit

JACCARD, CONTAINED = 1, 2

_LONGER = 16  # a leader this many times longer is searched instead of read through


@njit(cache=True, nogil=True)
def sort_rows(rows):  # type: ignore[no-untyped-def]
    """Sort uint64[2, n] in place by the first row, stably; needs as much room again.

    Radix sort by the 32 bits below those that all keys share, four passes of 8; keys are hashes, so next to nothing is
    left out of order for the insertion sort at the end. 0.024 us a row on one core (8.5 million random keys); six
    passes of 11 bits took 0.058, `argsort` and the gather after it 0.17.
    """
    differ = np.uint64(0)
    for i in range(1, rows.shape[1]):
        differ |= rows[0, i] ^ rows[0, 0]
    base = 32
    while base and not differ >> np.uint64(31 + base):
        base -= 1
    places = np.zeros((4, 256), np.int64)
    for i in range(rows.shape[1]):
        for turn in range(4):
            places[turn, (rows[0, i] >> np.uint64(base + 8 * turn)) & np.uint64(255)] += 1
    source, target = rows, np.empty_like(rows)
    for turn in range(4):
        total = 0
        for digit in range(256):
            total, places[turn, digit] = total + places[turn, digit], total
        shift = np.uint64(base + 8 * turn)
        for i in range(rows.shape[1]):
            digit = (source[0, i] >> shift) & np.uint64(255)
            place = places[turn, digit]
            places[turn, digit] = place + 1
            target[0, place] = source[0, i]
            target[1, place] = source[1, i]
        source, target = target, source
    _insert(rows)


@njit(cache=True, nogil=True)
def _insert(rows):  # type: ignore[no-untyped-def]
    """Insertion sort, stable, of rows that are nearly in order."""
    for i in range(1, rows.shape[1]):
        key, owner = rows[0, i], rows[1, i]
        place = i
        while place and rows[0, place - 1] > key:
            rows[0, place] = rows[0, place - 1]
            rows[1, place] = rows[1, place - 1]
            place -= 1
        if place < i:
            rows[0, place] = key
            rows[1, place] = owner


@njit(cache=True, nogil=True)
def find(parent, node):  # type: ignore[no-untyped-def]
    """The root of `node`, halving the path on the way."""
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@njit(cache=True, nogil=True)
def unite(parent, keys, nodes, copies):  # type: ignore[no-untyped-def]
    """Unite the nodes of every run of equal `keys`, in place; the smaller root wins, so order does not matter.

    `parent` int64[all], `keys` uint64 sorted, `nodes` uint64 ascending within a key, `copies` bool[all]: set for all
    but the first node of a run whose key is odd (an exact key).
    """
    first = 0
    for i in range(1, len(keys)):
        if keys[i] != keys[first]:
            first = i
            continue
        if keys[i] & np.uint64(1):
            copies[nodes[i]] = True
        a = find(parent, np.int64(nodes[first]))
        b = find(parent, np.int64(nodes[i]))
        if a < b:
            parent[b] = a
        elif b < a:
            parent[a] = b


@njit(cache=True, nogil=True)
def flatten(parent):  # type: ignore[no-untyped-def]
    """Point every node at its root, in place; returns the nodes of components of two and more, ascending."""
    larger = np.zeros(len(parent), np.bool_)
    number = 0
    for node in range(len(parent)):  # roots are smaller than what they hold, so one pass in order is enough
        root = parent[parent[node]]
        parent[node] = root
        if root != node:
            number += 1 if larger[root] else 2
            larger[root] = True
            larger[node] = True
    members = np.empty(number, np.int64)
    place = 0
    for node in range(len(parent)):
        if larger[node]:
            members[place] = node
            place += 1
    return members


@njit(cache=True, nogil=True)
def unite_capped(starts, nodes, always, weights, limit):  # type: ignore[no-untyped-def]
    """Union-find over whole groups in the given order that refuses groups which would make a component too heavy.

    Group g is `nodes[starts[g]:starts[g + 1]]`; a group is united as a whole or not at all, so the outcome does not
    depend on how nodes are numbered. `always[g]` groups are never refused. Returns (roots, number of refused groups).
    """
    parent = np.arange(len(weights))
    heavy = weights.copy()
    refused = 0
    for group in range(len(starts) - 1):
        total = 0
        first, stop = starts[group], starts[group + 1]
        roots = np.unique(np.array([find(parent, nodes[i]) for i in range(first, stop)]))
        for root in roots:
            total += heavy[root]
        if total > limit and len(roots) > 1 and not always[group]:
            refused += 1
            continue
        for root in roots:
            parent[root] = roots[0]
        heavy[roots[0]] = total
    for node in range(len(parent)):
        parent[node] = find(parent, node)
    return parent, refused


@njit(cache=True, nogil=True)
def _number(values, ids, firsts):  # type: ignore[no-untyped-def]
    """Number the distinct `values` of a component from 0 into `ids`; returns how many documents have each (int32)."""
    size = 4
    while size < 2 * len(values):
        size *= 2
    places = np.zeros(size, np.int32)  # 1 + number, 0 is free
    counts = np.zeros(len(values), np.int32)
    last = np.uint64(size - 1)
    number = 0
    for i in range(len(values)):
        place = values[i] & last
        while places[place] and firsts[places[place] - 1] != values[i]:
            place = (place + np.uint64(1)) & last
        if not places[place]:
            firsts[number] = values[i]
            number += 1
            places[place] = number
        ids[i] = places[place] - 1
        counts[ids[i]] += 1
    return counts[:number]


@njit(cache=True, nogil=True)
def _overlap(ids, mark, stamp):  # type: ignore[no-untyped-def]
    """How many of a leader's shingles carry the mark of the document at hand."""
    common = 0
    for number in ids:
        common += mark[number] == stamp
    return common


@njit(cache=True, nogil=True)
def _overlap_sorted(short, long):  # type: ignore[no-untyped-def]
    """How many values of the sorted `short` are in the much longer sorted `long`, by binary search."""
    common = 0
    low = 0
    for value in short:
        high = len(long)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if long[middle] < value else (low, middle)
        if low == len(long):
            break
        common += long[low] == value
    return common


@njit(cache=True, nogil=True)
def _listed(keys, filled, posts, postings, seen, found, stamp):  # type: ignore[no-untyped-def]
    """Collect the leaders on the lists of these keys (numbers, -1 for none) in `found`; returns how many."""
    number = 0
    for key in keys:
        if key < 0:
            continue
        for i in range(posts[key], posts[key] + filled[key]):
            leader = postings[i]
            if seen[leader] != stamp:
                seen[leader] = stamp
                found[number] = leader
                number += 1
    return number


@njit(cache=True, nogil=True)
def _enlist(x, keys, filled, posts, postings, unlisted):  # type: ignore[no-untyped-def]
    """Put leader x on the list of each of its keys that is not full; marks and counts the others."""
    full = 0
    for band, key in enumerate(keys):
        if key < 0:
            continue
        place = posts[key] + filled[key]
        if place < posts[key + 1]:
            postings[place] = x
            filled[key] += 1
        else:
            unlisted[band] = True
            full += 1
    return full


@njit(cache=True, nogil=True)
def _key_numbers(keys):  # type: ignore[no-untyped-def]
    """int32[n, bands]: the number of each key among those of two documents and more, -1 for others; their sizes."""
    numbers = np.empty(keys.size, np.int32)
    flat = keys.reshape(-1)
    sizes = _number(flat, numbers, np.empty(keys.size, np.uint64))
    for i in range(len(flat)):
        if not flat[i] or sizes[numbers[i]] < 2:
            numbers[i] = -1
    return numbers.reshape(keys.shape), sizes


@njit(cache=True, nogil=True)
def _standing(found, number, x, starts, shared, threshold, containment):  # type: ignore[no-untyped-def]
    """Move the leaders that could still be x's keeper, by size and shared shingles alone, to the front; their count."""
    size = starts[x + 1] - starts[x]
    kept = 0
    for i in range(number):
        y = found[i]
        other = starts[y + 1] - starts[y]
        most = min(shared[x], shared[y])
        alike = most >= threshold * (size + other - most) - 1e-9
        if alike or (other >= size and most >= containment * size - 1e-9):
            found[kept] = y
            kept += 1
    return kept


@njit(cache=True, nogil=True)
def _ascending(values):  # type: ignore[no-untyped-def]
    """Sort a few values in place: insertion sort."""
    for i in range(1, len(values)):
        value = values[i]
        place = i
        while place and values[place - 1] > value:
            values[place] = values[place - 1]
            place -= 1
        values[place] = value


@njit(cache=True, nogil=True)
def _choose(candidates, x, starts, values, ids, mark, threshold, containment, counts):  # type: ignore[no-untyped-def]
    """The first of the candidates that is a keeper of x: (its number or -1, score, how)."""
    size = starts[x + 1] - starts[x]
    _ascending(candidates)
    for y in candidates:
        other = starts[y + 1] - starts[y]
        if other > _LONGER * size:
            common = _overlap_sorted(values[starts[x] : starts[x + 1]], values[starts[y] : starts[y + 1]])
        else:
            common = _overlap(ids[starts[y] : starts[y + 1]], mark, x + 1)
        counts[0] += 1
        jaccard = common / (size + other - common)
        inside = common / size
        if jaccard >= threshold:
            return y, jaccard, JACCARD
        if inside >= containment and other >= size:
            return y, inside, CONTAINED
        counts[1] += 1
    return -1, 0.0, 0


@njit(cache=True, nogil=True)
def _component(starts, values, keys, settled, threshold, containment, per_key, answer):  # type: ignore[no-untyped-def]
    """Leader clustering of one component, see `leaders`; document i is `values[starts[i]:starts[i + 1]]`."""
    keeper, score, how, unlisted, counts = answer
    documents = len(starts) - 1
    ids = np.empty(len(values), np.int32)
    frequency = _number(values, ids, np.empty(len(values), np.uint64))
    mark = np.zeros(len(frequency), np.int32)  # 1 + the last document that had the shingle and was compared
    numbers, sizes = _key_numbers(keys)
    posts = np.zeros(len(sizes) + 1, np.int64)  # the leaders of key k: postings[posts[k]:][:filled[k]]
    for key in range(len(sizes)):
        posts[key + 1] = posts[key] + min(sizes[key], per_key)
    postings = np.empty(posts[-1], np.int32)
    filled = np.zeros(len(sizes), np.int32)
    seen = np.zeros(documents, np.int32)  # 1 + the last document that it was found for
    found = np.empty(documents, np.int32)
    shared = np.zeros(documents, np.int64)  # shingles that some other document of the component has too
    for x in range(documents):
        mine = ids[starts[x] : starts[x + 1]]
        for shingle in mine:
            shared[x] += frequency[shingle] > 1
        if len(mine) and not settled[x]:
            number = _listed(numbers[x], filled, posts, postings, seen, found, x + 1)
            candidates = found[: _standing(found, number, x, starts, shared, threshold, containment)]
            if len(candidates):
                for shingle in mine:
                    mark[shingle] = x + 1
                keeper[x], score[x], how[x] = _choose(
                    candidates, x, starts, values, ids, mark, threshold, containment, counts
                )
        if keeper[x] < 0:
            counts[2] += _enlist(x, numbers[x], filled, posts, postings, unlisted[x])


@njit(cache=True, nogil=True)
def leaders(groups, starts, values, keys, settled, threshold, containment, per_key):  # type: ignore[no-untyped-def]
    """Leader clustering within components, among documents that share a key.

    Component g is the documents `groups[g]` to `groups[g + 1]`, in the order in which they are to be kept; document i's
    sorted distinct shingle hashes are `values[starts[i]:starts[i + 1]]` (none: it is kept and keeps nothing), its band
    keys `keys[i]` (uint64[n, bands], 0 for none). Those `settled` (bool[n]) are kept whatever they are like.

    A document is compared with the kept documents before it that are on the list of one of its keys, and leaves for the
    first of them with a Jaccard similarity of at least `threshold`, or which holds at least `containment` of its
    shingles and is not smaller. A key lists the first `per_key` kept documents that have it. Whether two documents are
    compared is thus their own affair, whatever else is in the component; that is why a batch added later, with the kept
    documents before it alone, comes to the same answer as everything at once.

    Returns keeper (int64[n], -1 where kept), score (float64[n]: J, or the share contained), how (int8[n]: JACCARD,
    CONTAINED), unlisted (bool[n, bands]: a kept document that found the key's list full), counts (int64[3]: pairs
    compared, pairs refused, places on lists refused).
    """
    number = len(starts) - 1
    keeper = np.full(number, -1, np.int64)
    score = np.zeros(number, np.float64)
    how = np.zeros(number, np.int8)
    unlisted = np.zeros(keys.shape, np.bool_)
    counts = np.zeros(3, np.int64)
    for group in range(len(groups) - 1):
        a, b = groups[group], groups[group + 1]
        if b - a < 2:
            continue
        mine = keeper[a:b]
        own = values[starts[a] : starts[b]]
        bounds = starts[a : b + 1] - starts[a]
        answer = (mine, score[a:b], how[a:b], unlisted[a:b], counts)
        _component(bounds, own, keys[a:b], settled[a:b], threshold, containment, per_key, answer)
        for i in range(b - a):
            if mine[i] >= 0:
                mine[i] += a
    return keeper, score, how, unlisted, counts


@njit(cache=True, nogil=True)
def shared_with(keys, others):  # type: ignore[no-untyped-def]
    """bool[len(keys)]: whether each of the sorted `keys` is among the sorted `others`; one pass over both."""
    both = np.zeros(len(keys), np.bool_)
    place = 0
    for i in range(len(keys)):
        while place < len(others) and others[place] < keys[i]:
            place += 1
        both[i] = place < len(others) and others[place] == keys[i]
    return both
