"""fastText's prediction for a batch of texts: the labels and probabilities of the library, without its objects.

fastText (Joulin et al. 2016, "Bag of Tricks for Efficient Text Classification") averages one row of a table for each
word, character n-gram and word n-gram of a text, and scores the labels against that average. This follows the order of
the library's float32 operations (github.com/facebookresearch/fastText, 0.9.2), so that what comes out agrees to the
last digits; only the way there is another:

- Which rows a word stands for is remembered from one occurrence to the next, over the rows of a batch. The sums are not
  remembered, they would be rounded in another order.
- Rows are added eight at a time to what is summed so far, so that the sum is loaded and stored once for eight.

A text is one line: a newline in it is a space, and the end-of-line token `</s>` follows it, as in
`model.predict(text.replace("\\n", " "))`. As there, a word `</s>` ends the text.
"""

from typing import NamedTuple

import numpy as np

from stages.kernels import constant, inner, kernel

TREE, SIGMOIDS, SOFTMAX = range(3)
"""How labels are scored: hierarchical softmax; each for itself (one-vs-all, negative sampling); softmax."""


class Model(NamedTuple):
    """A supervised model; arrays are read-only. `stages.models.fasttext` makes it from a file."""

    word_ngrams: int  # longest n-gram of words
    minn: int  # shortest n-gram of characters, at least 1
    maxn: int  # longest, 0 for none
    bucket: int  # n-grams are hashed into as many
    loss: int  # TREE, SIGMOIDS, SOFTMAX
    words: int  # the first entries of the dictionary are words, the others labels
    letters: np.ndarray  # uint8, the bytes of all entries
    places: np.ndarray  # int64[entries + 1], where they start
    slots: np.ndarray  # int32[power of two], what `index` makes of these
    kept: np.ndarray  # uint64[bucket / 64], a bit for each bucket that is not pruned; uint64[0] where nothing is
    before: np.ndarray  # int32[bucket / 64], how many are kept before those; uint64 and this fit a cache, rows do not
    table: np.ndarray  # float32[rows, dim], the rows of words, then of the buckets that are kept
    output: np.ndarray  # float32[labels, dim]; TREE: of the inner nodes
    tree: np.ndarray  # int32[labels - 1, 2], children of inner nodes, the root last


_BASIS, _PRIME = np.uint32(2166136261), np.uint32(16777619)  # FNV-1a
_WORD_PRIME = np.uint64(116049371)
_ONE = np.uint64(1)
_BLANKS = np.uint64(1 << 32 | 0b11111 << 9 | 1)  # space, \t \n \v \f \r, \0
_SPACE = 0x20
_OPEN, _CLOSE = np.uint8(0x3C), np.uint8(0x3E)  # < and >, put around a word
_END = np.frombuffer(b"</s>", np.uint8)
_LABEL = np.frombuffer(b"__label__", np.uint8)
_SLOTS = 1 << 15  # words remembered at a time,
_LETTERS = 32  # of at most so many bytes
_IDS = 32  # and so many rows
_PIECE = 256  # characters of a long word taken at a time
_BOUND = np.float32(8)  # from minus this to this the library tabulates its sigmoid, in steps of 1/32
_SIGMOID = (1 / (1 + np.exp(-np.linspace(-_BOUND, _BOUND, 513)))).astype(np.float32)
_NOTHING, _STOP, _NO_WORD = range(-1, -4, -1)
_NO, _FIRST = np.int64(0), np.int64(1)  # numba compiles a function once more for a literal it is called with


@inner
def _fnv(value, byte):  # type: ignore[no-untyped-def]
    # The library's bytes are signed, and widened before they are mixed in.
    return np.uint32((value ^ np.uint32(np.int32(np.int8(byte)))) * _PRIME)


@inner
def _blank(byte):  # type: ignore[no-untyped-def]
    return byte <= _SPACE and (_BLANKS >> np.uint64(byte)) & _ONE != 0


@inner
def _hash(letters, start, end):  # type: ignore[no-untyped-def]
    value = _BASIS
    for place in range(start, end):
        value = _fnv(value, letters[place])
    return value


@inner
def _equal(one, start, end, other, at, until):  # type: ignore[no-untyped-def]
    if end - start != until - at:
        return False
    step = 0
    while step < end - start and one[start + step] == other[at + step]:
        step += 1
    return step == end - start


# Dictionary


def index(letters: np.ndarray, places: np.ndarray) -> np.ndarray:
    """int32[power of two]: the number of the dictionary entry whose hash leads there (linear probing), -1 for none."""
    slots = np.full(max(16, 1 << (2 * len(places) - 1).bit_length()), -1, np.int32)
    _index(constant(letters), constant(places), slots)
    return slots


@kernel
def _index(letters, places, slots):  # type: ignore[no-untyped-def]
    mask = len(slots) - 1
    for entry in range(len(places) - 1):
        slot = np.int64(_hash(letters, places[entry], places[entry + 1])) & mask
        while slots[slot] >= 0:
            slot = (slot + 1) & mask
        slots[slot] = entry


@inner
def _find(data, start, end, value, model):  # type: ignore[no-untyped-def]
    """The number of the entry `data[start:end]`, hashed to `value`, or -1."""
    mask = len(model.slots) - 1
    slot = np.int64(value) & mask
    while model.slots[slot] >= 0:
        entry = model.slots[slot]
        if _equal(data, start, end, model.letters, model.places[entry], model.places[entry + 1]):
            return np.int64(entry)
        slot = (slot + 1) & mask
    return np.int64(-1)


@inner
def _row(bucket, words, kept, before):  # type: ignore[no-untyped-def]
    """The row of the table for this bucket, or -1; the arguments are those of `Model`."""
    if len(kept) == 0:
        return words + bucket
    bits, bit = kept[bucket >> 6], np.uint64(bucket & 63)
    if bits >> bit & _ONE == 0:
        return np.int64(-1)
    bits &= (_ONE << bit) - _ONE  # count them: Hacker's Delight, figure 5-2
    bits -= bits >> _ONE & np.uint64(0x5555555555555555)
    bits = (bits & np.uint64(0x3333333333333333)) + (bits >> np.uint64(2) & np.uint64(0x3333333333333333))
    bits = (bits + (bits >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return words + before[bucket >> 6] + np.int64(bits * np.uint64(0x0101010101010101) >> np.uint64(56))


# Rows of a text


@inner
def _subwords(word, end, first, last, model, ids, count):  # type: ignore[no-untyped-def]
    """Append the rows of the n-grams of `word[:end]` that start at a place in [first, last); returns the new count.

    The word stands in < and >, neither of which is an n-gram by itself.
    """
    words, kept, before = np.int64(model.words), model.kept, model.before
    minn, maxn, bucket = model.minn, model.maxn, np.uint32(model.bucket)
    for at in range(first, last):
        if word[at] & 0xC0 == 0x80:
            continue
        value, place = _BASIS, at
        for size in range(1, maxn + 1):
            value = _fnv(value, word[place])
            place += 1
            while place < end and word[place] & 0xC0 == 0x80:
                value = _fnv(value, word[place])
                place += 1
            if size >= minn and (size > 1 or (at > 0 and place < end)):
                row = _row(np.int64(value % bucket), words, kept, before)
                if row >= 0:
                    ids[count] = row
                    count += 1
            if place == end:
                break
    return count


@inner
def _entry(data, start, end, value, model):  # type: ignore[no-untyped-def]
    """What the word is: its number in the dictionary, or _NOTHING (unknown), _STOP (`</s>`), _NO_WORD (a label)."""
    entry = _find(data, start, end, value, model)
    if _equal(data, start, end, _END, _NO, np.int64(len(_END))):
        return np.int64(_STOP)
    if entry >= model.words:
        return np.int64(_NO_WORD)
    known_by = start + len(_LABEL) if start + len(_LABEL) < end else end
    if entry < 0 and _equal(data, start, known_by, _LABEL, _NO, np.int64(len(_LABEL))):
        return np.int64(_NO_WORD)
    return entry


@inner
def _end_of_line(model):  # type: ignore[no-untyped-def]
    """The number of the word `</s>`, or -1."""
    size = np.int64(len(_END))
    entry = _find(_END, _NO, size, _hash(_END, _NO, size), model)
    return entry if entry < model.words else np.int64(-1)


@inner
def _add_rows(table, ids, count, total):  # type: ignore[no-untyped-def]
    """Add these rows to `total`, one after the other."""
    done = _NO
    while done + 8 <= count:
        a, b, c, d = table[ids[done]], table[ids[done + 1]], table[ids[done + 2]], table[ids[done + 3]]
        e, f, g, h = table[ids[done + 4]], table[ids[done + 5]], table[ids[done + 6]], table[ids[done + 7]]
        for i in range(len(total)):
            total[i] = (((((((total[i] + a[i]) + b[i]) + c[i]) + d[i]) + e[i]) + f[i]) + g[i]) + h[i]
        done += 8
    for one in range(done, count):
        row = table[ids[one]]
        for i in range(len(total)):
            total[i] += row[i]


@inner
def _add_word_ngrams(hashes, words, model, ids, total):  # type: ignore[no-untyped-def]
    """Add the rows of the n-grams of the words hashed to `hashes[:words]` to `total`; returns how many."""
    count = added = _NO
    for first in range(words):
        value = np.uint64(np.int64(hashes[first]))
        for last in range(first + 1, min(words, first + model.word_ngrams)):
            if count == len(ids):
                _add_rows(model.table, ids, count, total)
                added, count = added + count, _NO
            value = value * _WORD_PRIME + np.uint64(np.int64(hashes[last]))
            row = _row(np.int64(value % np.uint64(model.bucket)), np.int64(model.words), model.kept, model.before)
            if row >= 0:
                ids[count] = row
                count += 1
    _add_rows(model.table, ids, count, total)
    return added + count


@inner
def _spell(data, start, end, entry, model, word, ids, count, total):  # type: ignore[no-untyped-def]
    """Append the rows of a word; returns the new count, and how many were added to `total` to make room."""
    added = _NO
    if entry >= 0:
        ids[count] = entry
        count += 1
    if model.maxn == 0:
        return count, added
    size = end - start + 2
    word[0], word[size - 1] = _OPEN, _CLOSE
    for step in range(1, size - 1):
        word[step] = data[start + step - 1]
    for first in range(_NO, size, _PIECE):
        if count + _PIECE * model.maxn > len(ids):
            _add_rows(model.table, ids, count, total)
            added, count = added + count, _NO
        count = _subwords(word, size, first, min(size, first + _PIECE), model, ids, count)
    return count, added


@inner
def _embed(data, start, end, model, memory, word, ids, hashes, total):  # type: ignore[no-untyped-def]
    """The average of the rows of the text `data[start:end]` into `total`; returns how many rows that were."""
    letters, sizes, counts, rows = memory
    for i in range(len(total)):
        total[i] = np.float32(0)
    count = added = words = _NO
    place = start
    while place <= end:
        value, first = _BASIS, place
        while place < end and not _blank(data[place]):
            value = _fnv(value, data[place])
            place += 1
        size = place - first
        place += 1
        if size == 0:
            continue
        if count + _IDS > len(ids):
            _add_rows(model.table, ids, count, total)
            added, count = added + count, _NO
        slot = np.int64(value) & (len(sizes) - 1)
        if sizes[slot] == size and _equal(data, first, first + size, letters[slot], _NO, size):
            for one in range(counts[slot]):
                ids[count + one] = rows[slot, one]
            count += counts[slot]
        else:
            entry = _entry(data, first, first + size, value, model)
            if entry == _STOP:
                break
            if entry == _NO_WORD:
                continue
            before = count
            count, flushed = _spell(data, first, first + size, entry, model, word, ids, count, total)
            added += flushed
            if size <= _LETTERS and flushed == 0 and count - before <= _IDS:
                sizes[slot], counts[slot] = size, count - before
                for step in range(size):
                    letters[slot, step] = data[first + step]
                for step in range(count - before):
                    rows[slot, step] = ids[before + step]
        if model.word_ngrams > 1:
            hashes[words] = np.int32(value)
            words += 1
    return _close(model, ids, count, added, hashes, words, total)


@inner
def _close(model, ids, count, added, hashes, words, total):  # type: ignore[no-untyped-def]
    """Add what is left, the end of the line and the n-grams of words, and divide."""
    _add_rows(model.table, ids, count, total)
    added += count
    entry = _end_of_line(model)
    if entry >= 0:
        ids[0] = entry
        _add_rows(model.table, ids, _FIRST, total)
        added += 1
    if model.word_ngrams > 1:
        hashes[words] = np.int32(_hash(_END, _NO, np.int64(len(_END))))
        added += _add_word_ngrams(hashes, words + 1, model, ids, total)
    if added:
        share = np.float32(1.0 / added)
        for i in range(len(total)):
            total[i] *= share
    return added


# The best labels: a heap as the C++ library of GNU keeps it, whose order of equals the answer depends on


@inner
def _rise(scores, labels, hole, top, score, label):  # type: ignore[no-untyped-def]
    """Move the hole up to where (score, label) fits, and put it there; the lowest score is at the top."""
    parent = (hole - 1) // 2
    while hole > top and scores[parent] > score:
        scores[hole], labels[hole] = scores[parent], labels[parent]
        hole = parent
        parent = (hole - 1) // 2
    scores[hole], labels[hole] = score, label


@inner
def _pop(scores, labels, size):  # type: ignore[no-untyped-def]
    """Move the lowest of `size` to the end, and make a heap of the others."""
    size -= 1
    score, label = scores[size], labels[size]
    scores[size], labels[size] = scores[0], labels[0]
    hole = child = _NO
    while child < (size - 1) // 2:
        child = 2 * (child + 1)
        if scores[child] > scores[child - 1]:
            child -= 1
        scores[hole], labels[hole] = scores[child], labels[child]
        hole = child
    if size % 2 == 0 and child == (size - 2) // 2:
        child = 2 * child + 1
        scores[hole], labels[hole] = scores[child], labels[child]
        hole = child
    _rise(scores, labels, hole, _NO, score, label)


@inner
def _offer(scores, labels, size, k, score, label):  # type: ignore[no-untyped-def]
    """Keep the best k of what is offered; returns how many there are now."""
    _rise(scores, labels, size, _NO, score, label)
    if size < k:
        return size + 1
    _pop(scores, labels, size + 1)
    return size


# Scores of labels


@inner
def _log(chance):  # type: ignore[no-untyped-def]
    return np.float32(np.log(np.float64(chance) + 1e-5))


@inner
def _dot(row, total):  # type: ignore[no-untyped-def]
    value = np.float32(0)
    for i in range(len(total)):
        value += row[i] * total[i]
    return value


@inner
def _descend(model, total, k, stack, scores, labels):  # type: ignore[no-untyped-def]
    """The best k labels of the tree, left before right, passing over branches that cannot be among them."""
    nodes, sums = stack
    leaves = len(model.tree) + 1
    nodes[0], sums[0] = 2 * leaves - 2, np.float32(0)
    waiting, size = _FIRST, _NO
    lowest = _log(np.float32(0))
    while waiting:
        waiting -= 1
        node, score = nodes[waiting], sums[waiting]
        if score < lowest or (size == k and score < scores[0]):
            continue
        if node < leaves:
            size = _offer(scores, labels, size, k, score, node)
            continue
        right = _dot(model.output[node - leaves], total)
        right = np.float32(1.0 / np.float64(np.float32(1) + np.exp(-right)))
        nodes[waiting], sums[waiting] = model.tree[node - leaves, 1], score + _log(right)
        left = np.float32(1.0 - np.float64(right))
        nodes[waiting + 1], sums[waiting + 1] = model.tree[node - leaves, 0], score + _log(left)
        waiting += 2
    return size


@inner
def _chances(model, total, chances):  # type: ignore[no-untyped-def]
    """The probability of every label: softmax, or each label for itself."""
    for label in range(len(chances)):
        chances[label] = _dot(model.output[label], total)
    if model.loss == SOFTMAX:
        highest, whole = chances[0], np.float32(0)
        for chance in chances:
            highest = max(highest, chance)
        for label in range(len(chances)):
            chances[label] = np.exp(chances[label] - highest)
            whole += chances[label]
        for label in range(len(chances)):
            chances[label] /= whole
        return
    for label in range(len(chances)):
        value = chances[label]
        if value > _BOUND:
            chances[label] = 1
        elif value >= -_BOUND:
            chances[label] = _SIGMOID[np.int64((value + _BOUND) * np.float32(32))]
        else:
            chances[label] = 0


@inner
def _scan(model, total, k, chances, scores, labels):  # type: ignore[no-untyped-def]
    """The best k labels where every one has to be looked at."""
    _chances(model, total, chances)
    size = _NO
    for label in range(len(chances)):
        score = _log(chances[label])
        if size < k or score >= scores[0]:
            size = _offer(scores, labels, size, k, score, label)
    return size


def predict(data: np.ndarray, offsets: np.ndarray, model: Model, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The best `k` labels of every row, best first: int32[rows, k], float32[rows, k]; -1 and 0 where there are fewer.

    `data` is UTF-8 (uint8), `offsets` int64[rows + 1]. A label is an index into the labels of the model. Probabilities
    are the library's: up to 1e-5 too high for each factor, so a sure label may have a little more than 1.
    """
    found, chances, _ = predict_and_count(data, offsets, model, k)
    return found, chances


def predict_and_count(
    data: np.ndarray, offsets: np.ndarray, model: Model, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same, and int64[rows]: how many rows of the table the text was looked up as, its end of line not counted.

    Where that is 0 the model knows nothing of the text, and what it says is what it says of any such.
    """
    rows, dim, choices = len(offsets) - 1, model.table.shape[1], len(model.tree) + 1
    found, chances = np.full((rows, k), -1, np.int32), np.zeros((rows, k), np.float32)
    counts = np.zeros(rows, np.int64)
    size, longest = int(offsets[rows] - offsets[0]), int(np.diff(offsets).max(initial=0))
    slots = 64
    while slots < _SLOTS and slots < size // 8:
        slots *= 2
    memory = (
        np.empty((slots, _LETTERS), np.uint8),
        np.zeros(slots, np.uint8),
        np.empty(slots, np.uint8),
        np.empty((slots, _IDS), np.int32),
    )
    ids = np.empty(2 * _PIECE * max(1, model.maxn) + 2 * _IDS, np.int32)
    word = np.empty(longest + 2, np.uint8)
    hashes = np.empty(longest // 2 + 2 if model.word_ngrams > 1 else 0, np.int32)
    total, every = np.empty(dim, np.float32), np.empty(choices, np.float32)
    stack = np.empty(choices + 1, np.int64), np.empty(choices + 1, np.float32)
    best = np.empty(k + 1, np.float32), np.empty(k + 1, np.int64)
    answers = found, chances, counts
    _predict(constant(data), offsets, model, memory, (word, ids, hashes), total, every, stack, best, answers)
    return answers


@kernel
def _predict(data, offsets, model, memory, rooms, total, every, stack, heap, answers):  # type: ignore[no-untyped-def]
    (word, ids, hashes), (scores, labels), (found, chances, counts) = rooms, heap, answers
    k = found.shape[1]
    end = _end_of_line(model)
    for row in range(len(offsets) - 1):
        looked_up = _embed(data, offsets[row], offsets[row + 1], model, memory, word, ids, hashes, total)
        counts[row] = looked_up - (1 if end >= 0 else 0)
        if not looked_up:
            continue
        if model.loss == TREE:
            best = _descend(model, total, k, stack, scores, labels)
        else:
            best = _scan(model, total, k, every, scores, labels)
        for rest in range(best, 1, -1):
            _pop(scores, labels, rest)
        for place in range(best):
            found[row, place], chances[row, place] = labels[place], np.exp(scores[place])
