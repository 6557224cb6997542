"""A corpus whose files are not as its manifest says is refused when it is opened; Hugging Face reads a Parquet one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import train_corpus
from typer.testing import CliRunner

from pipeline import browse, corpus, manifest, storage
from pipeline.__main__ import app, main
from pipeline.corpus import NotACorpus
from pipeline.export import Layout, export


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> corpus.Corpus:
    """70 training documents in two shards, 8 held out."""
    return train_corpus.write(tmp_path_factory.mktemp("made") / "c", train_corpus.words(70), train_corpus.words(8, 2))


@pytest.fixture(scope="module")
def parquet(made: corpus.Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "parquet"
    export(made, Layout.parquet, folder)
    return folder


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def shorter(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(20))


def fewer_rows(path: Path) -> None:
    pq.write_table(pq.read_table(path).slice(1), path)


def without_sizes(folder: Path) -> None:
    """An older manifest, which has no sizes."""
    content = storage.read_json(folder / "manifest.json")
    files = {name: {"sha256": facts["sha256"]} for name, facts in content["files"].items()}
    storage.write_json(folder / "manifest.json", {**content, "files": files})


@pytest.mark.parametrize("damage", [shorter, longer, Path.unlink])
@pytest.mark.parametrize("name", ["part-00001.bin", "val-00000.bin", "part-00000.idx", "docs.parquet"])
def test_a_file_of_another_size_is_refused(
    made: corpus.Corpus, name: str, damage: Callable[[Path], None], tmp_path: Path
) -> None:
    folder = copied(made.folder, tmp_path / "c")
    size = (folder / name).stat().st_size
    damage(folder / name)
    with pytest.raises(NotACorpus) as told:
        corpus.open(folder)
    assert str(told.value).startswith(f"{folder / name}: ")
    if damage is Path.unlink:
        assert "is missing" in str(told.value)
    elif name != "docs.parquet":  # no size of it is in this manifest
        assert f"has {size + (20 if damage is longer else -3):,} bytes, the manifest says {size:,}" in str(told.value)
    assert corpus.verify(corpus.open(folder, sizes=False)) == [str(told.value)]


@pytest.mark.parametrize("damage", [shorter, longer, fewer_rows, Path.unlink])
@pytest.mark.parametrize("name", ["train-00001.parquet", "validation-00000.parquet", "docs.parquet"])
@pytest.mark.parametrize("sized", [True, False])
def test_of_parquet_rows_are_counted(
    parquet: Path, name: str, damage: Callable[[Path], None], sized: bool, tmp_path: Path
) -> None:
    folder = copied(parquet, tmp_path / "c")
    if not sized:
        without_sizes(folder)
    damage(folder / name)
    with pytest.raises(NotACorpus) as told:
        corpus.open(folder)
    assert str(told.value).startswith(f"{folder / name}: ")
    if damage is fewer_rows and not sized:
        assert "rows, the manifest says" in str(told.value)


def test_a_damaged_parent_is_named(tmp_path: Path) -> None:
    train_corpus.write(tmp_path / "1", train_corpus.words(20))
    train_corpus.write(tmp_path / "2", train_corpus.words(20, 2), parent=tmp_path / "1")
    shorter(tmp_path / "1/part-00000.bin")
    with pytest.raises(NotACorpus, match=r"1/part-00000\.bin: has .* bytes, the manifest says"):
        corpus.open(tmp_path / "2")


def test_several_are_counted(made: corpus.Corpus, tmp_path: Path) -> None:
    folder = copied(made.folder, tmp_path / "c")
    for path in folder.glob("part-*.bin"):
        shorter(path)
    with pytest.raises(NotACorpus, match=r"part-00000\.bin: has .*; 1 more files are wrong, `verify` lists them"):
        corpus.open(folder)
    assert len(corpus.verify(corpus.open(folder, sizes=False))) == 2


BROKEN: dict[str, tuple[Callable[[str], str], str]] = {
    "cut off": (lambda text: text[: len(text) // 2], "is damaged, it is not JSON"),
    "empty": (lambda text: "", "is damaged, it is not JSON"),
    "no JSON": (lambda text: "part-00000.bin", "is damaged, it is not JSON"),
    "null": (lambda text: "null", "is damaged: "),
    "a list": (lambda text: f"[{text}]", "is damaged: "),
    "no shards": (lambda text: text.replace('"shards"', '"shard"'), "is damaged: shards: Field required"),
    "no tokens of a shard": (lambda text: text.replace('"tokens"', '"token"'), r"is damaged: shards\.0\.tokens: "),
    "text for a number": (lambda text: text.replace('"eos_id": 256', '"eos_id": "256"'), "is damaged: eos_id: "),
    "too deep": (lambda text: "[" * 100_000, "is damaged, it is not JSON"),
    "another type": (lambda text: text.replace('"uint16"', '"float"'), "is damaged: dtype: "),
    "no sum": (lambda text: text.replace('"documents": 78', '"documents": 77'), "77 documents in all, but 78 in the"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_damaged_manifest_is_named(how: str, made: corpus.Corpus, tmp_path: Path) -> None:
    folder, (change, said) = copied(made.folder, tmp_path / "c"), BROKEN[how]
    path = folder / "manifest.json"
    before = path.read_text()
    path.write_text(change(before))
    assert path.read_text() != before
    with pytest.raises(NotACorpus, match=rf"c/manifest\.json {said}|c/manifest\.json is damaged: .*{said}"):
        corpus.open(folder)
    wrong, _ = browse.verify(folder)
    assert len(wrong) == 1
    assert str(path) in wrong[0]


def test_a_manifest_that_is_not_utf_8_is_named(made: corpus.Corpus, tmp_path: Path) -> None:
    folder = copied(made.folder, tmp_path / "c")
    (folder / "manifest.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(NotACorpus, match=r"manifest\.json is damaged, it is not JSON"):
        corpus.open(folder)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"groups": []}', '{"groups": [{}]}', '"text"'])
def test_a_damaged_report_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(NotACorpus, match=r"report\.json is damaged|no manifest\.json there"):
        corpus.open(tmp_path)


def test_eos_inside_documents_is_counted(tmp_path: Path) -> None:
    opened = train_corpus.write(tmp_path / "c", ["abcdef", "ghij", "klm"], ["no", "nop"])
    assert corpus.verify(opened) == []
    path = opened.folder / "part-00000.bin"
    ids = np.fromfile(path, np.uint16)
    ids[[1, 3, 8]] = train_corpus.EOS  # two in the first document, one in the second
    ids.tofile(path)
    content = storage.read_json(opened.folder / "manifest.json")
    content["files"]["part-00000.bin"]["sha256"] = storage.sha256(path)
    storage.write_json(opened.folder / "manifest.json", content)
    assert corpus.verify(corpus.open(opened.folder)) == [
        f"{opened.folder / 'part-00000'}: EOS stands 3 times inside documents, in 2 of 3"
    ]


def verified(folder: Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["verify", str(folder)])
    return done.exit_code, done.output


def test_verify_takes_the_folder_of_a_corpus(made: corpus.Corpus, parquet: Path, tmp_path: Path) -> None:
    for folder in (copied(made.folder, tmp_path / "copied"), parquet):
        code, said = verified(folder)
        assert (code, said.splitlines()[-1]) == (0, f"{folder}: verified")
        assert "78 documents" in said
    shorter(tmp_path / "copied/val-00000.bin")
    code, said = verified(tmp_path / "copied")
    assert code == 1
    assert "val-00000.bin: has" in said.replace("\n", "")


def test_verify_takes_a_copied_chain(tmp_path: Path) -> None:
    train_corpus.write(tmp_path / "a/0001/c", train_corpus.words(20))
    train_corpus.write(tmp_path / "a/0002/c", train_corpus.words(10, 2), parent=tmp_path / "a/0001/c")
    (tmp_path / "a/LATEST").write_text("0002/c\n")
    shutil.move(tmp_path / "a", tmp_path / "b")
    code, said = verified(tmp_path / "b")
    assert (code, said.splitlines()[-1]) == (0, f"{tmp_path / 'b'}: verified")
    assert said.startswith("30 documents, ")


def test_verify_of_neither_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["pipeline", "verify", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "and no corpus" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize("layout", [Layout.megatron, Layout.parquet])
def test_an_export_is_a_corpus(layout: Layout, made: corpus.Corpus, tmp_path: Path) -> None:
    grown = train_corpus.write(
        tmp_path / "2", train_corpus.words(9, 3), train_corpus.words(2, 4), parent=made.folder, tag="b"
    )
    export(grown, layout, tmp_path / "out")
    opened = corpus.open(tmp_path / "out")
    assert corpus.verify(opened) == []
    assert len(opened.parts) == 1
    for (row, ids), (row_, ids_) in zip(grown.documents(), opened.documents(), strict=True):
        assert row["id"] == row_["id"]
        assert np.array_equal(ids, ids_)
    names = opened.docs["shard"].to_pylist()
    assert {name: names.count(name) for name in set(names)} == {one.name: one.documents for one in opened.shards}


def test_parquet_shards_have_one_schema(parquet: Path) -> None:
    wanted = pa.schema([("id", pa.string()), ("input_ids", pa.list_(pa.int32()))])
    assert all(pq.read_schema(path) == wanted for path in parquet.glob("*-0*.parquet"))


def test_hugging_face_reads_the_folder(
    made: corpus.Corpus, parquet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    folder = copied(parquet, tmp_path / "validation-train/my test")  # names that could be taken for splits
    (folder / "rejected").mkdir()
    shutil.copy(folder / "docs.parquet", folder / "rejected/mixture.parquet")  # as a run with a mixture has it
    read = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in read.items()} == {"train": 70, "validation": 8}
    for split, name in (("train", "train"), ("validation", "val")):
        shards = [shard for shard in made.shards if shard.split == name]
        ids = [made.tokens(shard.first + i).tolist() for shard in shards for i in range(shard.documents)]
        assert read[split]["input_ids"][:] == ids
        assert read[split].column_names == ["id", "input_ids"]


def test_parquet_corpora_of_older_versions_open(parquet: Path, tmp_path: Path) -> None:
    """Their shards are called part-* and val-*, with unsigned ids."""
    folder = copied(parquet, tmp_path / "old")
    content: dict[str, Any] = storage.read_json(folder / "manifest.json")
    docs = pq.read_table(folder / "docs.parquet").to_pandas()
    for shard in content["shards"]:
        old = shard["name"].replace("train", "part").replace("validation", "val")
        table = pq.read_table(folder / f"{shard['name']}.parquet")
        lists = table["input_ids"].cast(pa.list_(pa.uint16()))
        pq.write_table(table.set_column(1, "input_ids", lists), folder / f"{old}.parquet")
        (folder / f"{shard['name']}.parquet").unlink()
        del content["files"][f"{shard['name']}.parquet"]
        content["files"][f"{old}.parquet"] = {"sha256": storage.sha256(folder / f"{old}.parquet")}
        docs["shard"] = docs["shard"].replace(shard["name"], old)
        shard["name"] = old
    pq.write_table(pa.Table.from_pandas(docs), folder / "docs.parquet")
    content["files"]["docs.parquet"] = {"sha256": storage.sha256(folder / "docs.parquet")}
    storage.write_json(folder / manifest.MANIFEST, content)
    opened = corpus.open(folder)
    assert corpus.verify(opened) == []
    assert [shard.name for shard in opened.shards] == ["part-00000", "part-00001", "val-00000"]
    assert opened.text(70) == corpus.open(parquet).text(70)
    assert json.dumps(opened.docs["shard"].to_pylist()).count("val-00000") == 8
