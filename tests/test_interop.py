"""The peers' own readers read our shards: `pip install -e '.[dev,interop]'`. Skipped where they are not installed.

datatrove and litdata are in test_export.py. mosaicml-streaming and ai2-olmo-core (both install on a CPU) are no part of
the `interop` extra: what they pin is at odds with ours.
"""

from pathlib import Path

import numpy as np
import pytest
import train_corpus

from pipeline import corpus
from pipeline.export import Layout, export


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> corpus.Corpus:
    folder = tmp_path_factory.mktemp("interop") / "corpus"
    return train_corpus.write(folder, train_corpus.words(60), train_corpus.words(5, 2), source=['a,"b"'] * 65)


def stream(opened: corpus.Corpus, split: str) -> np.ndarray:
    return np.concatenate([opened.shard_tokens(shard) for shard in opened.shards if shard.split == split])


def documents(count: int, top: int) -> list[np.ndarray]:
    random = np.random.default_rng(1)
    return [random.integers(0, top, random.integers(1, 400)) for _ in range(count)]


@pytest.mark.parametrize(("dtype", "top"), [("uint16", 1 << 16), ("uint32", 200_000)])
def test_megatron_reads_a_shard(tmp_path: Path, dtype: str, top: int) -> None:
    indexed = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    written = documents(200, top)
    corpus.write_bin(tmp_path / "part-00000.bin", written, dtype)
    corpus.write_idx(tmp_path / "part-00000.idx", np.array([len(ids) for ids in written]), dtype)
    read = indexed.IndexedDataset(str(tmp_path / "part-00000"))
    assert len(read) == len(written)
    assert read.document_indices.tolist() == list(range(len(written) + 1))
    for ours, theirs in zip(written, read):
        assert np.array_equal(ours, theirs)


def test_the_index_is_megatrons_byte_for_byte(tmp_path: Path) -> None:
    indexed, torch = pytest.importorskip("megatron.core.datasets.indexed_dataset"), pytest.importorskip("torch")
    written = documents(50, 1 << 16)
    builder = indexed.IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=np.uint16)
    for ids in written:
        builder.add_item(torch.from_numpy(ids.astype(np.int64)))
        builder.end_document()
    builder.finalize(str(tmp_path / "theirs.idx"))
    corpus.write_bin(tmp_path / "ours.bin", written, "uint16")
    corpus.write_idx(tmp_path / "ours.idx", np.array([len(ids) for ids in written]), "uint16")
    assert (tmp_path / "ours.bin").read_bytes() == (tmp_path / "theirs.bin").read_bytes()
    assert (tmp_path / "ours.idx").read_bytes() == (tmp_path / "theirs.idx").read_bytes()


def test_the_index_reads_back(tmp_path: Path) -> None:
    lengths = np.array([3, 1, 400], np.int32)
    corpus.write_idx(tmp_path / "a.idx", lengths, "uint16")
    read, offsets = corpus.read_idx(tmp_path / "a.idx")
    assert read.tolist() == lengths.tolist()
    assert offsets.tolist() == [0, 6, 8]


def test_golden_bytes_of_an_index(tmp_path: Path) -> None:
    """Two documents of 2 and 1 tokens, as the format is described: so that the layout is held without Megatron too."""
    corpus.write_idx(tmp_path / "a.idx", np.array([2, 1]), "uint16")
    assert (tmp_path / "a.idx").read_bytes().hex() == (
        "4d4d49444944580000" "0100000000000000" "08" "0200000000000000" "0300000000000000"
        "02000000" "01000000" "0000000000000000" "0400000000000000"
        "0000000000000000" "0100000000000000" "0200000000000000"
    )  # fmt: skip


def test_streaming_reads_mds(small: corpus.Corpus, tmp_path: Path) -> None:
    streaming = pytest.importorskip("streaming")
    export(small, Layout.mds, tmp_path / "out", 64)
    for split in ("train", "val"):
        local = str(tmp_path / "out" / split)
        streaming.base.util.clean_stale_shared_memory()
        read = streaming.StreamingDataset(local=local, shuffle=False, batch_size=1, validate_hash=None)
        tokens = stream(small, split)
        assert len(read) == len(tokens) // 64
        for i in range(len(read)):
            assert read[i]["tokens"].dtype == np.uint16
            assert np.array_equal(read[i]["tokens"], tokens[i * 64 : i * 64 + 64])


def test_olmo_reads_its_layout(small: corpus.Corpus, tmp_path: Path) -> None:
    """The documents by its sidecar and by its scan for EOS, and the windows of its fixed-length dataset."""
    numpy_dataset = pytest.importorskip("olmo_core.data.numpy_dataset")
    utils = pytest.importorskip("olmo_core.data.utils")
    export(small, Layout.olmo, tmp_path / "out")
    paths = [tmp_path / f"out/{shard.name}.npy" for shard in small.shards if shard.split == "train"]
    for path, shard in zip(paths, small.shards):
        ends = np.cumsum(small.lengths(shard))
        expected = list(zip((ends - small.lengths(shard)).tolist(), ends.tolist()))
        for by_sidecar in (True, False):
            found = utils.iter_document_indices(path, use_array_if_local=not by_sidecar, eos_token_id=train_corpus.EOS,
                                                dtype=np.uint16)  # fmt: skip
            assert list(found) == expected
    read = numpy_dataset.NumpyFSLDataset(*paths, sequence_length=32, pad_token_id=0, eos_token_id=train_corpus.EOS,
                                         vocab_size=257, dtype=np.uint16)  # fmt: skip
    read.prepare()
    windows = [tokens[i * 32 : i * 32 + 32].tolist() for tokens in map(small.shard_tokens, small.shards[: len(paths)])
               for i in range(len(tokens) // 32)]  # fmt: skip
    assert [read[i]["input_ids"].tolist() for i in range(len(read))] == windows
