"""Keep the best share of the corpus by a score, exactly, and say which twentieth each document is in.

"The best tenth" can be told only by who has seen all. The k-th largest of any number of documents is found without
bringing them together: a document is one 64-bit number, its score above a hash of its `id`, in an order-preserving
form; partitions count them by their first 16 bits, the counts are added up, only the bin that holds the k-th is
counted by its next 16 bits, and so on (radix selection). After four rounds the number itself is known. So the rate is
met to the document, also where scores tie, and the answer does not depend on how documents are spread over partitions.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from pydantic import Field

from pipeline.schema import DROP
from pipeline.stage import Barrier, Part, Steps
from pipeline.storage import write_json, write_table

_DIGIT = np.uint64(16)
_DIGITS = 4  # of 16 bits
_SIGN, _ALL = np.uint32(1 << 31), np.uint32(0xFFFFFFFF)

Rate = Annotated[float, Field(ge=0, le=1)]


class CountTask(NamedTuple):
    """One partition, and the beginnings of the numbers that are looked for."""

    sketch: str
    digit: int  # 0 to 3: the 16 bits that are counted, from the top
    groups: list[str | None]  # names of the groups, parallel to `prefixes`
    prefixes: list[int]  # the bits above


class VerdictTask(NamedTuple):
    """One partition and what was found."""

    keep: "Keep"
    sketch: str
    limits: dict[str | None, "Limits"]


class Limits(NamedTuple):
    """Where a group is cut: every entry is a document's number (uint64)."""

    lowest: int | None  # of those that stay; None: none stays
    edges: list[int]  # the lowest of each bucket but the first, ascending


class Keep(Barrier):
    """Keep the share of documents that score best, and number equal buckets of them by score.

    Column: `bucket` (or as named), int8: 0 for the lowest twentieth of the documents of a group to 19 for the highest;
    null without a score. Buckets are counted before the cut, over all documents that reach this stage. Scores are
    compared as float32; equal ones are told apart by a hash of the document's `id`. The whole corpus is cut to the rate
    to the document, each group to within one. Reasons: `below_rate` (with the score of the last that stays),
    `no_score`.
    """

    column: str = Field("quality_score", description="the score: any numeric column, the highest best")
    rate: Rate = Field(1.0, description="share of the documents with a score that stays")
    by: str | None = Field("lang", description="column whose values are cut each for itself; null: all together")
    rates: dict[str, Rate] = Field({}, description="rate of single values of `by`, instead of `rate`")
    nulls: Literal["keep", "drop"] = Field("keep", description="what becomes of documents without a score")
    buckets: int = Field(20, ge=1, le=100, description="equal parts by score, in each group")
    bucket: str = Field("bucket", pattern="^[a-z][a-z0-9_]*$", description="the column for them")

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """The id, the score, and what groups are made by."""
        return tuple(dict.fromkeys(("id", self.column, *([self.by] if self.by else []))))

    def columns(self) -> dict[str, pa.DataType]:
        return {self.bucket: pa.int8()}

    def sketch(self, docs: pa.Table) -> pa.Table:
        """number (uint64, null without a score) and group (string).

        Raises `pyarrow.ArrowInvalid` where the column is not of numbers.
        """
        score = docs[self.column].cast(pa.float64()).to_numpy().astype(np.float32)
        number = ordered(score).astype(np.uint64) << np.uint64(32) | _hashes(docs["id"])
        group = docs[self.by].cast(pa.string()) if self.by else pa.nulls(len(docs), pa.string())
        return pa.table({"number": pa.array(number, mask=np.isnan(score)), "group": group})

    def resolve(self, parts: list[Part], steps: Steps) -> list[Path]:
        """Verdict files in the order of `parts`, and a `summary.json` beside the first."""
        if not parts:
            return []
        sketches = [str(part.sketch) for part in parts]
        groups = [dict(record["groups"]) for record in steps("groups", count_groups, sketches)]
        names = sorted({name for counts in groups for name in counts}, key=lambda name: (name is not None, name))
        totals = {name: sum(counts.get(name, 0) for counts in groups) for name in names}
        kept = self.shares(totals)
        wanted = [(name, rank) for name in names for rank in _ranks(totals[name], kept[name], self.buckets)]
        numbers = dict(zip(wanted, select(sketches, wanted, steps), strict=True))
        limits = {name: self._limits(name, totals[name], kept[name], numbers) for name in names}
        records = steps("verdicts", write_verdicts, [VerdictTask(self, sketch, limits) for sketch in sketches])
        files = [Path(record["file"]) for record in records]
        write_json(files[0].parent / "summary.json", self._summary(totals, kept, limits, records))
        return files

    def shares(self, totals: dict[str | None, int]) -> dict[str | None, int]:
        """How many documents of each group stay: rounded so that the sum over the groups is right, too."""
        kept, asked, given = {}, 0.0, 0
        for name, total in totals.items():
            asked += total * self.rates.get(name or "", self.rate)
            kept[name] = min(total, int(asked + 0.5) - given)
            given += kept[name]
        return kept

    def _limits(self, name: str | None, total: int, kept: int, numbers: dict[Any, int]) -> Limits:
        edges = [numbers[name, rank] for rank in _edges(total, self.buckets)]
        return Limits(numbers[name, total - kept] if kept else None, edges)

    def _summary(self, totals: Any, kept: Any, limits: dict[str | None, Limits], records: Any) -> dict[str, Any]:
        documents, scored = sum(record["rows"] for record in records), sum(totals.values())
        groups = [
            {"group": name, "scored": totals[name], "kept": kept[name], "threshold": _score(limits[name].lowest),
             "edges": [_score(edge) for edge in limits[name].edges]}
            for name in sorted(totals, key=lambda name: (-totals[name], name or ""))
        ]  # fmt: skip
        rate = sum(kept.values()) / scored if scored else None
        return {"documents": documents, "scored": scored, "kept": sum(kept.values()), "rate": rate, "groups": groups}


def ordered(scores: np.ndarray) -> np.ndarray:
    """uint32 in the order of these float32 (M. Herf, "Radix tricks", 2001): -0 as 0, infinities at the ends."""
    bits = (scores.astype(np.float32) + np.float32(0)).view(np.uint32)
    return np.where(bits & _SIGN, bits ^ _ALL, bits | _SIGN)


def _scores(numbers: np.ndarray) -> np.ndarray:
    """float64: the scores in documents' numbers (uint64), by the inverse of `ordered`."""
    top = (numbers >> np.uint64(32)).astype(np.uint32)
    return np.where(top & _SIGN, top ^ _SIGN, top ^ _ALL).view(np.float32).astype(np.float64)


def _score(number: int | None) -> float | None:
    return None if number is None else float(_scores(np.array([number], np.uint64))[0])


def _hashes(ids: pa.ChunkedArray) -> np.ndarray:
    """uint64 below 2^32: what decides between equal scores."""
    return np.array([xxhash.xxh3_64_intdigest(str(name).encode()) & 0xFFFFFFFF for name in ids.to_pylist()], np.uint64)


def _edges(total: int, buckets: int) -> list[int]:
    """The ascending rank of the first document of each bucket but the first, as far as there are documents.

    Document r of n is in bucket floor(r buckets / n).
    """
    return [rank for bucket in range(1, buckets) if (rank := -(-total * bucket // buckets)) < total]


def _ranks(total: int, kept: int, buckets: int) -> list[int]:
    """Ascending ranks (0: the lowest) whose numbers have to be found."""
    return sorted({*_edges(total, buckets), *([total - kept] if kept else [])})


def select(sketches: list[str], wanted: list[tuple[str | None, int]], steps: Steps) -> list[int]:
    """The numbers that have these ascending ranks in their groups: a round of counting for each digit."""
    prefixes, ranks = [0] * len(wanted), [rank for _, rank in wanted]
    for digit in range(_DIGITS):
        bins = sorted({(name is not None, name, prefix) for (name, _), prefix in zip(wanted, prefixes, strict=True)})
        names, begins = [name for _, name, _ in bins], [prefix for _, _, prefix in bins]
        tasks = [CountTask(sketch, digit, names, begins) for sketch in sketches]
        total = _added([record["file"] for record in steps(f"digit-{digit}", count_digits, tasks)])
        place = {(name, prefix): at for at, (_, name, prefix) in enumerate(bins)}
        for at, (name, _) in enumerate(wanted):
            digits, ends = total[place[name, prefixes[at]]]
            found = int(np.searchsorted(ends, ranks[at], side="right"))
            ranks[at] -= int(ends[found - 1]) if found else 0
            prefixes[at] = prefixes[at] << 16 | int(digits[found])
    return prefixes


def _added(files: list[str]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """For each bin the digits that occur in it, ascending, and how many documents there are up to each."""
    total = pa.table({"key": pa.array([], pa.uint64()), "count": pa.array([], pa.int64())})
    for file in files:
        total = (
            pa.concat_tables([total, pq.read_table(file, use_threads=False)])
            .group_by("key")
            .aggregate([("count", "sum")])
        )
        total = total.rename_columns(["key", "count"])
    total = total.sort_by("key")
    keys, counts = total["key"].to_numpy(), total["count"].to_numpy()
    bins, starts = np.unique(keys >> _DIGIT, return_index=True)
    digits = np.split((keys & np.uint64(0xFFFF)).astype(np.int64), starts[1:])
    return {int(b): (d, np.cumsum(c)) for b, d, c in zip(bins, digits, np.split(counts, starts[1:]))}


def _sketch(path: str) -> pa.Table:
    with pa.memory_map(path) as source:
        return pa.ipc.open_file(source).read_all()


def count_groups(sketch: str, out: Path) -> dict[str, Any]:
    """How many documents with a score each group of one partition has."""
    table = _sketch(sketch)
    counted = table.filter(pc.is_valid(table["number"])).group_by("group").aggregate([([], "count_all")])
    return {"groups": list(zip(counted["group"].to_pylist(), counted["count_all"].to_pylist(), strict=True))}


def count_digits(task: CountTask, out: Path) -> dict[str, Any]:
    """One partition's counts of the digits that follow the prefixes: key (bin << 16 | digit), count."""
    table = _sketch(task.sketch)
    table = table.filter(pc.is_valid(table["number"]))
    names = list(dict.fromkeys(task.groups))
    group = pc.index_in(table["group"], pa.array(names, pa.string())).to_numpy().astype(np.int64)
    number = table["number"].to_numpy()
    shift = np.uint64(48 - 16 * task.digit)
    above = number >> shift >> _DIGIT  # in two steps: a shift by 64 is none
    keys = []
    for name, (first, last) in _runs(task.groups).items():
        mine = group == names.index(name)
        prefixes = np.array(task.prefixes[first:last], np.uint64)
        place = np.minimum(np.searchsorted(prefixes, above[mine]), len(prefixes) - 1)
        hit = prefixes[place] == above[mine]
        digits = (number[mine] >> shift & np.uint64(0xFFFF))[hit]
        keys.append((place[hit] + first).astype(np.uint64) << _DIGIT | digits)
    found, counts = np.unique(np.concatenate([*keys, np.zeros(0, np.uint64)]), return_counts=True)
    path = Path(f"{out}.parquet")
    write_table(path, pa.table({"key": pa.array(found, pa.uint64()), "count": pa.array(counts, pa.int64())}))
    return {"file": str(path)}


def _runs(groups: list[str | None]) -> dict[str | None, tuple[int, int]]:
    """Where each group's prefixes stand: they are sorted by group."""
    found: dict[str | None, tuple[int, int]] = {}
    for at, name in enumerate(groups):
        found[name] = (found.get(name, (at, at))[0], at + 1)
    return found


def write_verdicts(task: VerdictTask, out: Path) -> dict[str, Any]:
    """One partition's verdicts, a row a document."""
    table = _sketch(task.sketch)
    number, has_score = pc.fill_null(table["number"], 0).to_numpy(), pc.is_valid(table["number"]).to_numpy()
    bucket, goes = np.zeros(len(table), np.int8), np.zeros(len(table), bool)
    limits = np.full(len(table), np.nan)
    for name, limit in task.limits.items():
        mine = has_score & _is(table["group"], name)
        bucket[mine] = np.searchsorted(np.array(limit.edges, np.uint64), number[mine], side="right")
        goes[mine] = True if limit.lowest is None else number[mine] < np.uint64(limit.lowest)
        limits[mine] = np.nan if limit.lowest is None else _score(limit.lowest)
    scores = _scores(number)
    reasons = np.full(len(table), None, object)
    reasons[goes] = "below_rate"
    if task.keep.nulls == "drop":
        reasons[~has_score] = "no_score"
    verdicts = pa.table({
        task.keep.bucket: pa.array(bucket, mask=~has_score),
        "drop": pa.array(reasons, pa.string()),
        "drop_value": pa.array(np.where(goes, scores, np.nan), from_pandas=True),
        "drop_limit": pa.array(np.where(goes, limits, np.nan), from_pandas=True),
    })  # fmt: skip
    path = Path(f"{out}.parquet")
    write_table(path, verdicts.cast(pa.schema([*task.keep.columns().items(), *DROP.items()])))
    return {"file": str(path), "rows": len(table), "dropped": len(table) - verdicts["drop"].null_count}


def _is(groups: pa.ChunkedArray, name: str | None) -> np.ndarray:
    found = pc.is_null(groups) if name is None else pc.fill_null(pc.equal(groups, name), False)
    return found.to_numpy()
