"""What is learned from: files read as documents, near duplicates found, domains kept apart."""

import gzip
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from conftest import ROOT

from stages.learning import corpora, documents
from stages.learning.corpora import Unusable


def read(path: Path) -> Iterator[pa.Table]:
    return documents.examples_of([path], None, Counter())


def samples() -> list[dict]:
    with gzip.open(ROOT / "data_samples/sample_text.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def prose(count: int, seed: int) -> list[str]:
    """Passages of the English samples, none twice."""
    text = " ".join(row["text"] for row in samples() if row["lang"] == "en")
    words = text.split()
    chance = random.Random(seed)
    return [" ".join(words[at : at + chance.randrange(30, 90)]) for at in chance.sample(range(len(words) - 90), count)]


def large(texts: list[str]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(texts, pa.large_string())])


# Corpora: what is read, and what in it is no document

TEXT = "Alle Menschen sind frei und gleich.\n"


def packed(path: Path, text: str) -> Path:
    data = text.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes({".gz": gzip.compress, ".zst": zstandard.compress}.get(path.suffix, bytes)(data))
    return path


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.txt.zst", "A.TXT.GZ"])
def test_a_text_file_is_read_as_text_however_it_is_packed(name: str, tmp_path: Path) -> None:
    path = packed(tmp_path / name.lower(), TEXT).rename(tmp_path / name)
    assert next(read(path)).to_pylist() == [{"text": TEXT, "domain": f"{tmp_path.name}/{name}"}]


def test_folders_are_searched_through(tmp_path: Path) -> None:
    wanted = [
        packed(tmp_path / name, json.dumps({"text": TEXT})) for name in ("a/b/c.jsonl.zst", "a/d.ndjson", "e.txt")
    ]
    for name in ("a/dataset_info.json", ".hidden/f.jsonl", "g.csv", "report.json"):
        packed(tmp_path / name, "{}")
    assert documents.files([tmp_path]) == wanted
    assert documents.files([tmp_path / "a/dataset_info.json"]) == [tmp_path / "a/dataset_info.json"], "if it is named"


def run(folder: Path, groups: dict[str, list[str]]) -> Path:
    """A run directory: what remains of it in each group, and files beside that are no documents."""
    for name, texts in groups.items():
        (folder / name / "verdicts").mkdir(parents=True)
        pq.write_table(pa.table({"id": ["a"], "drop": ["b"]}), folder / name / "verdicts/verdicts-00000.losses.parquet")
        (folder / name / "rejected").mkdir()
        pq.write_table(pa.table({"text": ["rejected"]}), folder / name / "rejected/part-00000.parquet")
        packed(folder / name / "part-00000.json", "{}")
        pq.write_table(
            pa.table({"text": texts} if texts else {"input_ids": [[1]]}), folder / name / "part-00000.parquet"
        )
    packed(folder / "plan.json", "{}")
    listed = [{"folder": name} for name in groups]
    packed(folder / "report.json", json.dumps({"state": "done", "funnel": [], "groups": listed}))
    return folder


def texts_of(path: Path) -> list[str]:
    return [text for file in documents.files([path]) for table in read(file) for text in table["text"].to_pylist()]


def test_a_run_is_what_it_kept(tmp_path: Path) -> None:
    one = run(tmp_path / "runs/one", {"1-dedup-a1a1a1": ["old"], "2-lines-b2b2b2": ["kept"], "3-shards-c3c3c3": []})
    assert texts_of(one) == ["kept"]
    assert texts_of(one / "1-dedup-a1a1a1") == ["old"]
    assert texts_of(tmp_path) == ["kept"], "however deep it lies"
    with pytest.raises(ValueError, match="no group of this run keeps texts"):
        documents.files([run(tmp_path / "two", {"1-shards-a1a1a1": []})])
    packed(tmp_path / "three/plan.json", "{}")
    with pytest.raises(ValueError, match="three: a run that is not finished"):
        documents.files([tmp_path / "three"])


@pytest.mark.parametrize("name", ["1-dedup2-a1a1a1", "12-Top100_v2-a1a1a1", "123-x-a1a1a1"])
def test_the_folder_of_any_stage_gives_its_documents_and_no_rejects(tmp_path: Path, name: str) -> None:
    assert texts_of(run(tmp_path, {name: ["kept"]}) / name) == ["kept"]


def test_a_run_that_goes_on_is_all_its_increments(tmp_path: Path) -> None:
    run(tmp_path / "0001", {"1-dedup-a1a1a1": ["first"]})
    run(tmp_path / "0002", {"1-dedup-a1a1a1": ["second"]})
    (tmp_path / "index").mkdir()
    pq.write_table(pa.table({"key": [1]}), tmp_path / "index/keys.parquet")
    packed(tmp_path / "LATEST", "0002/1-dedup-a1a1a1\n")
    assert texts_of(tmp_path) == ["first", "second"]


def test_what_is_no_document_is_counted(tmp_path: Path) -> None:
    lines = ['{"text": "one"}', "{broken", '{"text": " "}', '{"text": null}', "7", '{"text": 7}', '{"body": "x"}']
    packed(tmp_path / "a.jsonl", "\n".join(lines))
    pq.write_table(pa.table({"text": ["two", None, "", " \n"]}), tmp_path / "b.parquet")
    packed(tmp_path / "c.txt.gz", TEXT)
    (tmp_path / "d.txt.gz").write_bytes((tmp_path / "c.txt.gz").read_bytes()[:-9])
    some, counts = documents.sample(documents.files([tmp_path]), 10, 1)
    assert sorted(some["text"].to_pylist()) == [TEXT, "one", "two"]
    assert (counts["read"], counts["unreadable"], counts["without_text"]) == (3, 3, 7)


def test_bytes_that_are_no_utf8_are_counted(tmp_path: Path) -> None:
    raw = pa.array([b"good", b"\xff\xfe bad", None], pa.binary())
    column = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    some, counts = documents.sample([tmp_path / "a.parquet"], 10, 1)
    assert some["text"].to_pylist() == ["good"]
    assert (counts["unreadable"], counts["without_text"]) == (1, 1)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"body": "a"}\n{"body": "b"}\n', "no field 'text' in .*a.jsonl"),
        ("a.jsonl", '{"text": 1}\n', "a.jsonl: field 'text' is not text"),
        ("a.jsonl", "junk\n{\n", r"a.jsonl: none of its lines can be read \(bad_json\)"),
        ("a.parquet", pa.table({"body": ["a"]}), "no column 'text'; its columns are 'body'"),
        ("a.parquet", pa.table({"text": [b"a"]}), "column 'text' is of binary, not of text"),
        ("a.parquet", pa.table({"text": [1]}), "column 'text' is of int64, not of text"),
        ("a.parquet", "PAR1 and no more", "a.parquet: "),
        ("a.csv", "text\na\n", r"a.csv: no .parquet, .jsonl or .txt \(.gz, .zst\) there"),
    ],
)
def test_a_file_without_texts_is_named(name: str, content: pa.Table | str, said: str, tmp_path: Path) -> None:
    if isinstance(content, str):
        packed(tmp_path / name, content)
    else:
        pq.write_table(content, tmp_path / name)
    with pytest.raises(Unusable, match=said):
        texts_of(tmp_path / name)


def test_a_table_that_is_damaged_inside_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": prose(300, 1)}), tmp_path / "a.parquet", compression="zstd")
    raw = bytearray((tmp_path / "a.parquet").read_bytes())
    raw[len(raw) // 3 : len(raw) // 2] = bytes(len(raw) // 2 - len(raw) // 3)
    (tmp_path / "a.parquet").write_bytes(raw)
    with pytest.raises(Unusable, match=r"a\.parquet: "):
        texts_of(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    "texts", [[f"{at} " + "hello world " * 30_000 for at in range(200)], ["hello " * 60_000] * 200]
)
def test_a_table_of_long_texts_is_read_a_part_at_a_time(texts: list[str], tmp_path: Path) -> None:
    """72 MB, which the table stores in as much or, of copies, in 360 kB."""
    pq.write_table(pa.table({"text": [*texts, None]}), tmp_path / "a.parquet", compression="zstd")
    batches = list(corpora.read(tmp_path / "a.parquet"))
    assert max(batch.docs.nbytes for batch in batches) < 34 << 20
    assert [text for batch in batches for text in batch.docs["text"].to_pylist()] == texts
    assert sum(batch.counts()["without_text"] for batch in batches) == 1


def test_rows_are_read_as_many_at_a_time_as_their_size_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"{at} " + "hello world " * 30_000 for at in range(100)]
    with pq.ParquetWriter(tmp_path / "a.parquet", pa.schema({"text": pa.string()}), compression="zstd") as file:
        file.write_table(pa.table({"text": ["short"] * 3000}))
        file.write_table(pa.table({"text": texts}))
    asked, plain = [], pq.ParquetFile.iter_batches

    def counted(file: pq.ParquetFile, rows: int, **more: object) -> object:
        asked.append(rows)
        return plain(file, rows, **more)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    assert texts_of(tmp_path / "a.parquet") == ["short"] * 3000 + texts
    assert asked[0] == 1000
    assert 80 < asked[1] < (32 << 20) / 360_000


@pytest.mark.parametrize(
    "column", [pa.array(["a", "b", "a"]).dictionary_encode(), pa.array(["a", "b", "a"], pa.large_string())]
)
def test_text_is_text_in_whatever_type_of_column(column: pa.Array, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": column, "url": [1, 2, 3], "source": [["x"], None, []]}), tmp_path / "a.parquet")
    (table,) = read(tmp_path / "a.parquet")
    domains = ['["x"]', f"{tmp_path.name}/a.parquet", "[]"]
    assert table.to_pylist() == [{"text": text, "domain": domain} for text, domain in zip("aba", domains)]


def test_what_names_no_domain_is_passed_over(tmp_path: Path) -> None:
    wrong = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.array([0, 2], pa.int32()).buffers()[1], pa.py_buffer(b"\xff\xfe")]
    )
    url = pa.concat_arrays([wrong, pa.array(["http://[::1]:80/", "https://www.a.org./x", ""])])
    table = pa.table({"text": list("abcd"), "url": url, "domain": ["", "x", "x", ""], "source": ["s", "s", "s", ""]})
    pq.write_table(table, tmp_path / "a.parquet")
    (found,) = read(tmp_path / "a.parquet")
    assert found["domain"].to_pylist() == ["s", "[::1]", "a.org", f"{tmp_path.name}/a.parquet"]


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.jsonl").write_text(json.dumps({"text": f"A text of {name}."}) + "\n")
    found, _ = documents.sample(documents.files([tmp_path]), 10, 1)
    assert sorted(found["domain"].to_pylist()) == ["a/data.jsonl", "b/data.jsonl"]


# Near duplicates, domains


def test_near_duplicates_are_found_and_nothing_else() -> None:
    texts = prose(60, 3)
    edited = [" ".join(["Otherwise,", *text.split()]) for text in texts[:30]]
    found = documents.near_duplicates(
        pa.chunked_array([[*edited, texts[1].upper(), ""]]), pa.chunked_array([texts[:20], ["", texts[59]]])
    )
    assert found[:20].all()
    assert not found[20:30].any()
    assert found[30:].tolist() == [True, False]


WORDS = [f"w{at}" for at in range(3000)]


def changed(words: list[str], count: int, chance: random.Random) -> str:
    """These words with so many of them, apart, replaced: each takes 5 shingles away and brings 5 others."""
    words, step = words[:], len(words) // count
    for at in range(count):
        words[at * step + chance.randrange(4, step - 4)] = chance.choice(WORDS)
    return " ".join(words)


def shingles(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return set(zip(*(words[at:] for at in range(5))))


def test_near_duplicates_are_those_of_a_plain_count() -> None:
    """Jaccard from 0.6 to 0.9 by the definition; band keys alone would take those below 0.8, too."""
    chance = random.Random(3)
    originals = [chance.choices(WORDS, k=300) for _ in range(200)]
    texts = [changed(words, 3 + at % 12, chance) for at, words in enumerate(originals)]
    plain = [" ".join(words) for words in originals]
    exact = [len(shingles(a) & shingles(b)) / len(shingles(a) | shingles(b)) for a, b in zip(texts, plain)]
    similarity = np.array(exact)
    keys, known = documents.sketched(large(texts)).keys, documents.sketched(large(plain)).keys
    shared = (keys == known).any(axis=1)
    assert (shared & (similarity < 0.8)).sum() > 50
    assert (shared & (similarity >= 0.8)).sum() > 50
    assert np.array_equal(documents.near_duplicates(large(texts), large(plain)), shared & (similarity >= 0.8))


def test_how_many_others_are_alike_and_in_which_order_changes_nothing() -> None:
    """1,500 texts of Jaccard 0.76, 200 in each band, hide one of 0.82 from who looks at some of a band only."""
    chance = random.Random(4)
    words = chance.choices(WORDS, k=300)
    others, text = [changed(words, 8, chance) for _ in range(1500)], large([" ".join(words)])
    assert not documents.near_duplicates(text, large(others))[0]
    for at in (0, 10, 700, 1490, 1500):
        near = changed(words, 6, chance)
        assert documents.near_duplicates(text, large([near]))[0]
        assert documents.near_duplicates(text, large([*others[:at], near, *others[at:]]))[0]


def test_a_near_duplicate_of_another_that_is_asked_about_is_none() -> None:
    chance = random.Random(5)
    words = chance.choices(WORDS, k=300)
    alike = [" ".join(words), changed(words, 1, chance), changed(words, 1, chance)]
    assert documents.near_duplicates(large(alike), large([changed(words, 8, chance)])).tolist() == [False] * 3
    assert documents.near_duplicates(large(alike), large(prose(3, 1))).tolist() == [False] * 3
    assert documents.near_duplicates(large([]), large(alike)).tolist() == []
    assert documents.near_duplicates(large(alike), large([])).tolist() == [False] * 3


def test_pages_with_the_same_furniture_cost_little() -> None:
    """4,000 pages that share 500 of 600 words: each pair in one band or another, none a near duplicate."""
    chance = random.Random(6)
    head = chance.choices(WORDS, k=450)
    pages = [" ".join(head + chance.choices(WORDS, k=150)) for _ in range(4000)]
    documents.near_duplicates(large(pages[:2]), large(pages[2:4]))
    start = time.process_time()
    assert not documents.near_duplicates(large(pages[::2]), large(pages[1::2])).any()
    assert time.process_time() - start < 2


def test_a_hash_of_the_name_divides_domains_of_one_size() -> None:
    domains = [f"d{at:03}" for at in range(90) for _ in range(2)]
    labels = np.arange(180) % 2 == 0
    first = documents.split(domains, labels, 1)
    assert not np.array_equal(first, documents.split(domains, labels, 2))
    assert (first[:60] == 0).mean() < 0.9, "not by the names themselves"
    assert (first[-60:] == 0).mean() < 0.9


def test_no_domain_is_in_two_splits() -> None:
    chance = random.Random(5)
    domains = [f"d{int(chance.paretovariate(1))}" for _ in range(5000)]
    labels = np.array([hash_(domain) % 3 > 0 if chance.random() < 0.7 else chance.random() < 0.5 for domain in domains])
    places = documents.split(domains, labels, 1)
    for name in set(domains):
        assert len({place for place, domain in zip(places, domains) if domain == name}) == 1
    for side in (labels, ~labels):
        shares = np.bincount(places[side], minlength=3) / side.sum()
        assert np.abs(shares - documents.SHARES).max() < 0.05
    order = np.random.default_rng(1).permutation(5000)
    assert np.array_equal(documents.split([domains[at] for at in order], labels[order], 1), places[order])


def hash_(name: str) -> int:
    return sum(map(ord, name))
