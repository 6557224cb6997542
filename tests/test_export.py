"""Other trainers' layouts: golden bytes here, the peers' own readers where they are installed."""

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import train_corpus

from pipeline import corpus
from pipeline.export import CannotExport, Layout, _metric, export


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> corpus.Corpus:
    folder = tmp_path_factory.mktemp("export") / "corpus"
    return train_corpus.write(folder, train_corpus.words(60), train_corpus.words(5, 2), source=['a,"b"'] * 65)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> corpus.Corpus:
    """Documents "ab" and "c": five ids, of which two are EOS (256)."""
    return train_corpus.write(tmp_path_factory.mktemp("export") / "two", ["ab", "c"])


def ids(opened: corpus.Corpus, split: str) -> np.ndarray:
    return np.concatenate([opened.shard_tokens(shard) for shard in opened.shards if shard.split == split])


@pytest.mark.parametrize("layout", list(Layout))
def test_every_layout_exports_and_refuses_to_overwrite(small: corpus.Corpus, tmp_path: Path, layout: Layout) -> None:
    made = export(small, layout, tmp_path / "out", 64)
    assert len(made) >= 3
    assert (tmp_path / "out/tokenizer.json").exists()
    with pytest.raises(CannotExport, match="is not empty"):
        export(small, layout, tmp_path / "out")
    again = export(small, layout, tmp_path / "again", 64)
    assert [path.read_bytes() for path in made] == [path.read_bytes() for path in again]


def test_four_layouts_share_one_payload(small: corpus.Corpus, tmp_path: Path) -> None:
    for layout in (Layout.megatron, Layout.datatrove, Layout.olmo):
        export(small, layout, tmp_path / layout.value)
    for name, suffix in (("megatron", ".bin"), ("datatrove", ".ds"), ("olmo", ".npy")):
        payload = tmp_path / name / f"part-00001{suffix}"
        assert payload.read_bytes() == (small.folder / "part-00001.bin").read_bytes()
        assert payload.stat().st_ino == (small.folder / "part-00001.bin").stat().st_ino
    assert (tmp_path / "megatron/part-00001.idx").read_bytes() == (small.folder / "part-00001.idx").read_bytes()


def test_nanogpt(small: corpus.Corpus, tmp_path: Path) -> None:
    export(small, Layout.nanogpt, tmp_path / "out")
    for split in ("train", "val"):
        assert np.array_equal(np.memmap(tmp_path / f"out/{split}.bin", np.uint16, "r"), ids(small, split))


def test_golden_bytes_of_llmc(two: corpus.Corpus, tmp_path: Path) -> None:
    export(two, Layout.llmc, tmp_path / "out")
    data = (tmp_path / "out/train_000000.bin").read_bytes()
    assert data[:12].hex() == "88d834010100000005000000"  # 20240520, 1, 5
    assert data[12:1024] == bytes(1012)
    a, b, c = (two.tokenizer.token_to_id(letter) for letter in "abc")
    assert np.frombuffer(data[1024:], "<u2").tolist() == [256, a, b, 256, c]


def test_golden_bytes_of_datatrove(two: corpus.Corpus, tmp_path: Path) -> None:
    export(two, Layout.datatrove, tmp_path / "out")
    assert (tmp_path / "out/part-00000.ds.index").read_bytes().hex() == "03000000000000000500000000000000"
    assert (tmp_path / "out/part-00000.ds.metadata").read_text() == "tokenizer.json|2\n5\n5.00 T"


def test_golden_bytes_of_olmo(small: corpus.Corpus, two: corpus.Corpus, tmp_path: Path) -> None:
    export(two, Layout.olmo, tmp_path / "two")
    text = gzip.decompress((tmp_path / "two/part-00000.csv.gz").read_bytes()).decode()
    assert text == "0,3,train0,source,0\n3,5,train1,source,1\n"
    export(small, Layout.olmo, tmp_path / "out")
    assert gzip.decompress((tmp_path / "out/part-00000.csv.gz").read_bytes()).decode().split("\n")[0].endswith(
        ',train0,"a,""b""",0')  # fmt: skip


def test_golden_bytes_of_mds(two: corpus.Corpus, tmp_path: Path) -> None:
    export(two, Layout.mds, tmp_path / "out", 2)
    data = (tmp_path / "out/train/shard.00000.mds").read_bytes()
    count, first, second, end = struct.unpack_from("<4I", data)
    config = json.loads(data[16:first])
    assert (count, second - first, end) == (2, 4, len(data))
    assert config["column_encodings"] == ["ndarray:uint16:2"]
    assert config["column_sizes"] == [4]
    assert np.array_equal(np.frombuffer(data[first:], "<u2"), ids(two, "train")[:4])
    index = json.loads((tmp_path / "out/train/index.json").read_text())
    assert index["shards"][0]["raw_data"] == {"basename": "shard.00000.mds", "bytes": len(data), "hashes": {}}


def test_golden_bytes_of_litdata(two: corpus.Corpus, tmp_path: Path) -> None:
    export(two, Layout.litdata, tmp_path / "out")
    data = (tmp_path / "out/train/chunk-0-0.bin").read_bytes()
    assert struct.unpack_from("<4I", data) == (2, 16, 22, 26)
    assert np.array_equal(np.frombuffer(data[16:], "<u2"), ids(two, "train"))


def test_parquet(small: corpus.Corpus, tmp_path: Path) -> None:
    export(small, Layout.parquet, tmp_path / "out")
    table = pq.read_table(tmp_path / "out/train-00000.parquet")
    assert table["id"].to_pylist() == small.docs["id"].to_pylist()[:50]
    assert table["input_ids"].to_pylist()[7] == small.tokens(7).tolist()


def test_counts_are_told_as_datatrove_tells_them() -> None:
    told = [_metric(count) for count in (5, 67_489, 123_456, 1_536_000, 999, 2_000_000_000)]
    assert told == ["5.00 T", "67.5 kT", "123 kT", "1.54 MT", "999 T", "2.00 GT"]


def test_datatrove_reads_it(small: corpus.Corpus, tmp_path: Path) -> None:
    loader = pytest.importorskip("datatrove.utils.dataset")
    humanize = pytest.importorskip("humanize")
    export(small, Layout.datatrove, tmp_path / "out")
    read = loader.DatatroveFolderDataset(str(tmp_path / "out"), seq_len=32, filename_pattern="part-*.ds", token_size=2)
    at = 0
    for shard in small.shards[:2]:
        tokens = small.shard_tokens(shard)
        for window in range(len(tokens) // 33):
            assert read[at]["input_ids"].tolist() == tokens[window * 33 : window * 33 + 33].tolist()
            at += 1
    assert at == len(read)
    for count in (5, 67_489, 123_456, 1_536_000, 999):
        assert _metric(count) == humanize.metric(count, unit="T")


def test_litdata_reads_it(small: corpus.Corpus, tmp_path: Path) -> None:
    litdata = pytest.importorskip("litdata")
    export(small, Layout.litdata, tmp_path / "out")
    loader = litdata.TokensLoader(block_size=32)
    read = litdata.StreamingDataset(str(tmp_path / "out/train"), item_loader=loader, shuffle=False, drop_last=False)
    got = [read[i].tolist() for i in range(len(read))]
    expected = [
        tokens[i * 32 : i * 32 + 32].tolist()
        for tokens in map(small.shard_tokens, small.shards[:2])
        for i in range(len(tokens) // 32)
    ]
    assert got == expected


def test_megatron_reads_it(small: corpus.Corpus, tmp_path: Path) -> None:
    indexed = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    export(small, Layout.megatron, tmp_path / "out")
    read = indexed.IndexedDataset(str(tmp_path / "out/part-00000"))
    assert [ids_.tolist() for ids_ in read] == [small.tokens(i).tolist() for i in range(50)]
