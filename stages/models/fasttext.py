"""fastText models (.bin, .ftz): the file as arrays that `stages.kernels.fasttext` predicts with.

The format is that of fastText 0.9 (github.com/facebookresearch/fastText; file versions 11 and 12): arguments, words and
labels, input matrix, output matrix, little-endian, no padding. A dense input matrix stays in the file, mapped, so that
all workers of a machine share it. A quantised one is expanded to float32 (Joulin et al. 2016, "FastText.zip": a row is
one code for each of its sub-vectors, the number of one of 256 centroids, and maybe a code for its norm).

Kernels index memory by what the file says without looking, so nothing of it is believed: every figure is held against
the others and against the length of the file before it is used, also before memory of its size is asked for.
"""

import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stages.kernels import fasttext

_MAGIC, _VERSIONS = 793712314, (11, 12)

MARK = _MAGIC.to_bytes(4, "little")
"""The first bytes of a model."""
_SUPERVISED = 3
_LOSSES = {1: fasttext.TREE, 2: fasttext.SIGMOIDS, 3: fasttext.SOFTMAX, 4: fasttext.SIGMOIDS}  # 2: negative sampling
_CENTROIDS = 256
_NEVER = 10**15  # count of a node of the tree that is not there yet
_LONGEST = 1000  # no n-gram is of more words or characters; rooms in the kernel grow with it


class Classifier(NamedTuple):
    """Labels as in the file (`__label__en`), and the model whose predictions are indices into them."""

    labels: list[str]
    model: fasttext.Model


class _Arguments(NamedTuple):
    """What training left in the file: thirteen numbers, of which prediction needs six."""

    dim: int
    ws: int
    epoch: int
    min_count: int
    neg: int
    word_ngrams: int
    loss: int
    kind: int
    bucket: int
    minn: int
    maxn: int
    lr_update_rate: int
    t: float


class _Dictionary(NamedTuple):
    entries: list[bytes]  # words, then labels
    counts: list[int]
    words: int
    pruned: np.ndarray | None  # int32[kept, 2], the buckets that are kept and their rows, counted after the words'


class _Damaged(Exception):
    """The file contradicts itself, or ends early."""


def _check(holds: bool, why: str) -> None:
    if not holds:
        raise _Damaged(why)


def read(path: Path) -> Classifier:
    """The supervised model in this file.

    Raises `ValueError` for a file that is no fastText model, one that is cut short or whose figures do not fit each
    other, and one trained without labels (skipgram, cbow); `OSError` for one that cannot be read.
    """
    try:
        return _classifier(_File(path))
    except (struct.error, _Damaged) as error:
        raise ValueError(f"{path} is a damaged fastText model: {error}") from error


def _classifier(file: "_File") -> Classifier:
    magic, version = file.numbers("ii") if len(file.data) >= 8 else (0, 0)
    if magic != _MAGIC or version not in _VERSIONS:
        raise ValueError(f"{file.path} is not a fastText model")
    arguments = _Arguments(*file.numbers("12id"))
    if arguments.kind != _SUPERVISED or arguments.loss not in _LOSSES:
        raise ValueError(f"{file.path} is a fastText model of words, not a classifier")
    _check_arguments(arguments)
    if version == 11:  # supervised models of that time had no character n-grams, whatever their arguments say
        arguments = arguments._replace(maxn=0)
    dictionary = _dictionary(file, arguments.bucket)
    quantised = file.flag()
    table = _matrix(file, quantised, arguments.dim)
    output = _matrix(file, file.flag() and quantised, arguments.dim)
    labels = [label.decode("utf-8", "replace") for label in dictionary.entries[dictionary.words :]]
    buckets = arguments.bucket if dictionary.pruned is None else len(dictionary.pruned)
    _check(len(table) >= dictionary.words + buckets, f"{len(table)} rows for {dictionary.words} words + {buckets}")
    _check(len(output) >= len(labels), f"{len(output)} rows for {len(labels)} labels")
    return Classifier(labels, _model(arguments, dictionary, table, output))


def _check_arguments(arguments: _Arguments) -> None:
    _check(arguments.dim > 0, f"vectors of {arguments.dim} dimensions")
    _check(arguments.bucket >= 0, f"{arguments.bucket} buckets")
    for length in (arguments.word_ngrams, arguments.minn, arguments.maxn):
        _check(0 <= length <= _LONGEST, f"n-grams of {length}")


def _model(arguments: _Arguments, dictionary: _Dictionary, table: np.ndarray, output: np.ndarray) -> fasttext.Model:
    letters = np.frombuffer(b"".join(dictionary.entries), np.uint8)
    places = np.cumsum([0, *map(len, dictionary.entries)]).astype(np.int64)
    kept, before, order = _kept(dictionary, arguments.bucket)
    return fasttext.Model(
        word_ngrams=arguments.word_ngrams if arguments.bucket else 1,
        minn=max(1, arguments.minn),
        maxn=arguments.maxn if arguments.bucket else 0,
        bucket=arguments.bucket,
        loss=_LOSSES[arguments.loss],
        words=dictionary.words,
        letters=letters,
        places=_constant(places),
        slots=_constant(fasttext.index(letters, _constant(places))),
        kept=_constant(kept),
        before=_constant(before),
        table=table if dictionary.pruned is None else _constant(table[order]),
        output=_constant(output.copy()),
        tree=_tree(dictionary.counts[dictionary.words :]),
    )


def _kept(dictionary: _Dictionary, bucket: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`Model.kept` and `Model.before`, and the order that brings the rows of kept buckets into that of the buckets."""
    if dictionary.pruned is None:
        return np.zeros(0, np.uint64), np.zeros(0, np.int32), np.zeros(0, np.int64)
    pairs = dictionary.pruned[np.argsort(dictionary.pruned[:, 0], kind="stable")]
    buckets, rows = pairs[:, 0].astype(np.int64), pairs[:, 1].astype(np.int64)
    kept, counts = np.zeros(-(-bucket // 64), np.uint64), np.zeros(-(-bucket // 64), np.int32)
    np.bitwise_or.at(kept, buckets >> 6, np.uint64(1) << (buckets & 63).astype(np.uint64))
    np.add.at(counts, buckets >> 6, np.int32(1))
    order = np.concatenate([np.arange(dictionary.words), dictionary.words + rows])
    return kept, np.cumsum(counts, dtype=np.int32) - counts, order


class _File:
    """A mapped file that is read from front to back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with open(path, "rb") as file:
            is_empty = not file.seek(0, 2)
            self.data: Any = b"" if is_empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.place = 0

    def numbers(self, form: str) -> tuple[Any, ...]:
        """Numbers of a `struct` format."""
        form = "<" + form
        found = struct.unpack_from(form, self.data, self.place)
        self.place += struct.calcsize(form)
        return found

    def flag(self) -> bool:
        return bool(self.numbers("?")[0])

    def array(self, dtype: str, size: int) -> np.ndarray:
        """A one-dimensional array, as a view of the file."""
        _check(size >= 0, f"an array of {size}")
        start, self.place = self.place, self.place + size * np.dtype(dtype).itemsize
        if self.place > len(self.data):
            raise _Damaged(f"it ends {self.place - len(self.data)} bytes early")
        return np.frombuffer(self.data, dtype, size, start)

    def word(self) -> bytes:
        """Bytes up to a zero."""
        end = self.data.find(b"\0", self.place)
        _check(end >= 0, "it ends within a word")
        start, self.place = self.place, end + 1
        return self.data[start:end]


def _dictionary(file: _File, bucket: int) -> _Dictionary:
    size, words, labels, _, pruned = file.numbers("iiiqq")
    fits = words >= 0 and labels > 0 and words + labels == size and pruned >= -1
    _check(fits, f"{words} words and {labels} labels of {size}, {pruned} buckets kept")
    entries, counts = [], []
    for number in range(size):
        entries.append(file.word())
        count, kind = file.numbers("qb")
        counts.append(count)
        _check(kind == (number >= words), "words and labels are mixed")
    _check(min(counts) >= 0 and sum(counts) < _NEVER, "words or labels occur impossibly often")
    pairs = file.array("<i4", 2 * pruned).reshape(-1, 2) if pruned >= 0 else None
    if pairs is not None:
        for numbers, limit in ((pairs[:, 0], bucket), (pairs[:, 1], len(pairs))):
            _check(len(np.unique(numbers)) == len(numbers), "a bucket is kept twice")
            _check(numbers.min(initial=0) >= 0 and numbers.max(initial=-1) < limit, "a kept bucket is out of range")
    return _Dictionary(entries, counts, words, pairs)


def _matrix(file: _File, quantised: bool, dim: int) -> np.ndarray:
    """float32[rows, dim]."""
    return _quantised(file, dim) if quantised else _dense(file, dim)


def _dense(file: _File, dim: int) -> np.ndarray:
    rows, columns = file.numbers("qq")
    _check(columns == dim and rows >= 0, f"a matrix of {rows} rows of {columns}, not {dim}")
    return file.array("<f4", rows * dim).reshape(rows, dim)


def _quantised(file: _File, dim: int) -> np.ndarray:
    """A product-quantised matrix, expanded."""
    normed = file.flag()
    rows, columns, size = file.numbers("qqi")
    _check(columns == dim and rows >= 0, f"a matrix of {rows} rows of {columns}, not {dim}")
    codes = file.array("u1", size)
    parts = _centroids(file, dim)
    _check(rows * len(parts) == size, f"{size} codes for {rows} rows of {len(parts)}")
    codes = codes.reshape(rows, len(parts))
    norms = file.array("u1", rows) if normed else None
    scales = _centroids(file, 1)[0] if normed else None
    table = np.empty((rows, dim), np.float32)
    start = 0
    for number, part in enumerate(parts):
        table[:, start : start + part.shape[1]] = part[codes[:, number]]
        start += part.shape[1]
    if scales is not None:
        table *= scales[norms]
    return _constant(table)


def _centroids(file: _File, dim: int) -> list[np.ndarray]:
    """float32[256, width] for each sub-vector of a vector; the last one may be narrower."""
    columns, parts, width, last = file.numbers("iiii")
    _check(columns == dim, f"centroids of {columns}, not {dim}")
    _check(parts > 0 and 0 < last <= width and width * (parts - 1) + last == dim, f"{parts} parts of {width}, {last}")
    flat = file.array("<f4", dim * _CENTROIDS)
    ends = np.cumsum([width] * (parts - 1) + [last]) * _CENTROIDS
    return [piece.reshape(_CENTROIDS, -1) for piece in np.split(flat, ends[:-1])]


def _tree(counts: list[int]) -> np.ndarray:
    """int32[labels - 1, 2]: the children of the inner nodes of the Huffman tree over the labels, the last the root.

    Children below the number of labels are labels, others inner nodes counted on from there. Counts fall from label to
    label, as the dictionary has them; ties go as they do in fastText, whose rows of the output matrix they name.
    """
    labels = len(counts)
    weight = [*counts, *[_NEVER] * (labels - 1)]
    tree = np.zeros((labels - 1, 2), np.int32)
    leaf, node = labels - 1, labels
    for inner in range(labels - 1):
        for side in range(2):
            if leaf >= 0 and weight[leaf] < weight[node]:
                tree[inner, side] = leaf
                leaf -= 1
            else:
                tree[inner, side] = node
                node += 1
        weight[labels + inner] = weight[tree[inner, 0]] + weight[tree[inner, 1]]
    return _constant(tree)


def _constant(array: np.ndarray) -> np.ndarray:
    """The array, read-only as those in the file are: kernels are compiled for one kind."""
    array.setflags(write=False)
    return array
