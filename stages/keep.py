"""Keep the best share of the corpus by a score, exactly, or draw one; say which twentieth each document is in.

"The best tenth" can be told only by who has seen all. The k-th largest of any number of documents is found without
bringing them together: a document is one 64-bit number, its score above half a hash of its `id`, in an order-preserving
form; partitions count them by their first 16 bits, the counts are added up, only the bin that holds the k-th is
counted by its next 16 bits, and so on (radix selection). After four rounds the number itself is known; where several
documents have it (of n equal scores one has a twin with probability n / 2^32), the other half of the hash is counted
too. So the rate is met to the document, also where scores tie, but for n / 2^64, and the answer does not depend on how
documents are spread over partitions.

A draw is a cut, too: the k largest of log-weight + Gumbel noise are a sample of k without replacement in proportion to
the weights (Yellott 1977; Vieira 2014, "Gumbel-max trick and weighted reservoir sampling"; Kool et al. 2019,
arXiv:1903.06059). With the noise a hash of (seed, id), what is drawn is decided by nothing but the seed and the corpus.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from pydantic import Field, model_validator

from pipeline.schema import DROP
from pipeline.stage import Barrier, Part, Steps
from pipeline.storage import write_json, write_table

_DIGITS, _DIGIT = 4, np.uint64(16)  # of a number; its bits
_TIE = np.uint64(32)  # bits of a tie
_SIGN, _ALL = np.uint32(1 << 31), np.uint32(0xFFFFFFFF)

_UNSCORED = 0.1  # share of the documents that may stay without a score before the summary raises an alarm

Rate = Annotated[float, Field(ge=0, le=1)]


class Place(NamedTuple):
    """Where a document stands in the order."""

    number: int  # uint64, of the sketch
    tie: int  # uint32, of the sketch; 0 for a place whose number one document has: it is reached by the number alone


Found: TypeAlias = dict[tuple[str | None, int], Place]
"""What is at an ascending rank (0: the lowest) of a group."""


class CountTask(NamedTuple):
    """One partition, and the beginnings of the numbers that are looked for."""

    sketch: str
    column: str  # of the sketch: "number", or "score"
    digit: int  # 0 to 3: the 16 bits of the column that are counted, from the top; 4: the tie
    groups: list[str | None]  # names of the groups, parallel to `prefixes`
    prefixes: list[int]  # the bits above; 4: the number


class Digit(NamedTuple):
    """What a round of counting finds out about one document."""

    value: int
    rank: int  # of the document among those that have this digit, too
    documents: int  # which are so many


class VerdictTask(NamedTuple):
    """One partition and what was found."""

    keep: "Keep"
    sketch: str
    limits: dict[str | None, "Limits"]


class Limits(NamedTuple):
    """Where a group is cut."""

    lowest: Place | None  # of those that stay; None: none stays
    edges: list[Place]  # the lowest of each bucket but the first, ascending, by score


class Keep(Barrier):
    """Keep the share of documents that score best, and number equal buckets of them by score.

    Column: `bucket` (or as named), int8: 0 for the worst twentieth of the documents of a group to 19 for the best; null
    without a score. Buckets are counted by score before the cut, over all documents that reach this stage. Scores are
    compared as float32: those that round to the same one tie, as do all beyond 3.4e38, which are infinite. Ties are
    decided by a 64-bit hash of the document's `id`. The whole corpus is cut to the rate to the document, each group to
    within one, as long as ids differ.

    With a `temperature` the share is drawn, without replacement, in proportion to exp(column / temperature), with
    `lowest` to exp(-column / temperature): each score has noise of its own added to it (with `lowest` subtracted),
    `temperature` times standard Gumbel by (seed, id), and the best stay. The softmax of scores over a temperature is
    QuRating's (Wettig et al. 2024, arXiv:2402.09739); at 1, with the weights of `importance`, it is DSIR's resampling
    (Xie et al. 2023, arXiv:2302.03169).

    Reasons, each with the figure that was compared and that of the last that stays: `below_rate`, `above_rate` (with
    `lowest`), `not_drawn` (the figures are scores with their noise), `tied` (the two figures are equal, so the hash has
    decided); and `no_score`.
    """

    alarm_share: ClassVar[float | None] = None  # to drop most documents is what it is for

    column: str = Field("quality_score", description="the score: any numeric column, the highest best")
    lowest: bool = Field(False, description="the lowest scores are best, as of bits per character")
    rate: Rate = Field(1.0, description="share of the documents with a score that stays")
    by: str | None = Field("lang", description="column whose values are cut each for itself; null: all together")
    rates: dict[str, Rate] = Field({}, description="rate of single values of `by`, instead of `rate`")
    temperature: float = Field(
        0.0,
        ge=0,
        description="0: the best stay; else they are drawn in proportion to exp(column / temperature), "
        "with `lowest` to exp(-column / temperature)",
    )
    seed: int = Field(1, ge=0, lt=1 << 64, description="of the draw: another seed is another sample")
    nulls: Literal["keep", "drop"] = Field("keep", description="what becomes of documents without a score")
    buckets: int = Field(20, ge=1, le=100, description="equal parts by score, in each group")
    bucket: str = Field("bucket", pattern="^[a-z][a-z0-9_]*$", description="the column for them")

    @model_validator(mode="after")
    def _rates_of_groups(self) -> "Keep":
        if self.rates and self.by is None:
            raise ValueError("`rates` are of the values of `by`, which is null")
        return self

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """The id, the score, and what groups are made by."""
        return tuple(dict.fromkeys(("id", self.column, *([self.by] if self.by else []))))

    @property
    def numbers(self) -> tuple[str, ...]:  # type: ignore[override]
        """The score."""
        return (self.column,)

    @property
    def groups(self) -> tuple[str, ...]:  # type: ignore[override]
        """What is cut each for itself."""
        return (self.by,) if self.by else ()

    def columns(self) -> dict[str, pa.DataType]:
        return {self.bucket: pa.int8()}

    def sketch(self, docs: pa.Table) -> pa.Table:
        """number (uint64, null without a score), tie (uint32, between equal numbers), group (string), and, where
        documents are drawn, score as number is.

        Documents are cut by `number` and put into buckets by `score`, the same where there is none. Raises
        `pyarrow.ArrowInvalid` where the column is not of numbers.
        """
        best = docs[self.column].cast(pa.float64(), safe=False).to_numpy() * (-1 if self.lowest else 1)
        ties = _hashes(docs["id"])
        keys = {"number": best}
        if self.temperature:
            keys = {"number": best + self.temperature * gumbel(docs["id"], self.seed), "score": best}
        columns = {name: pa.array(_numbers(key, ties), mask=np.isnan(best)) for name, key in keys.items()}
        group = docs[self.by].cast(pa.string()) if self.by else pa.nulls(len(docs), pa.string())
        return pa.table({**columns, "tie": pa.array((ties >> _TIE).astype(np.uint32)), "group": group})

    def resolve(self, parts: list[Part], steps: Steps) -> list[Path]:
        """Verdict files in the order of `parts`, and a `summary.json` beside the first."""
        if not parts:
            return []
        sketches = [str(part.sketch) for part in parts]
        groups = [dict(record["groups"]) for record in steps("groups", count_groups, sketches)]
        names = sorted({name for counts in groups for name in counts}, key=lambda name: (name is not None, name))
        totals = {name: sum(counts.get(name, 0) for counts in groups) for name in names}
        shares = self.shares(totals)
        cuts = [(name, totals[name] - shares[name]) for name in names if shares[name]]
        edges = [(name, rank) for name in names for rank in _edges(totals[name], self.buckets)]
        if self.temperature:
            lowest, scores = select(sketches, "number", cuts, steps), select(sketches, "score", edges, steps)
        else:  # one question instead of two
            lowest = scores = select(sketches, "number", sorted({*cuts, *edges}, key=_by_name), steps)
        limits = {name: self._limits(name, totals[name], shares[name], lowest, scores) for name in names}
        records = steps("verdicts", write_verdicts, [VerdictTask(self, sketch, limits) for sketch in sketches])
        files = [Path(record["file"]) for record in records]
        write_json(files[0].parent / "summary.json", self._summary(totals, limits, records))
        return files

    def shares(self, totals: dict[str | None, int]) -> dict[str | None, int]:
        """How many documents of each group stay: rounded so that the sum over the groups is right, too."""
        kept, asked, given = {}, 0.0, 0
        for name, total in totals.items():
            asked += total * (self.rate if name is None else self.rates.get(name, self.rate))
            kept[name] = min(total, int(asked + 0.5) - given)
            given += kept[name]
        return kept

    def _limits(self, name: str | None, total: int, kept: int, lowest: Found, scores: Found) -> Limits:
        edges = [scores[name, rank] for rank in _edges(total, self.buckets)]
        return Limits(lowest[name, total - kept] if kept else None, edges)

    def figures(self, numbers: np.ndarray) -> np.ndarray:
        """float64: the scores, or scores with noise, in numbers of the sketch (uint64), as the column has them."""
        return _scores(numbers) * -1 + 0.0 if self.lowest else _scores(numbers)

    def figure(self, place: Place | None) -> float | None:
        """The same of one place; None of none."""
        return None if place is None else float(self.figures(np.array([place.number], np.uint64))[0])

    def reason(self) -> str:
        """Why a document leaves that has a score."""
        return "not_drawn" if self.temperature else "above_rate" if self.lowest else "below_rate"

    def _summary(self, totals: Any, limits: dict[str | None, Limits], records: Any) -> dict[str, Any]:
        documents, scored = sum(record["rows"] for record in records), sum(totals.values())
        counted = [dict(record["kept"]) for record in records]
        kept = {name: sum(counts[name] for counts in counted) for name in totals}
        groups = [
            {"group": name, "scored": totals[name], "kept": kept[name], "threshold": self.figure(limits[name].lowest),
             "edges": [self.figure(edge) for edge in limits[name].edges]}
            for name in sorted(totals, key=lambda name: (-totals[name], name or ""))
        ]  # fmt: skip
        rate = sum(kept.values()) / scored if scored else None
        unused = sorted(set(self.rates) - set(totals))  # misspelt, or of documents that did not come this time
        return {"documents": documents, "scored": scored, "kept": sum(kept.values()), "rate": rate, "groups": groups,
                "rates_unused": unused, "alarms": self._alarms(documents, scored, unused)}  # fmt: skip

    def _alarms(self, documents: int, scored: int, unused: list[str]) -> list[dict[str, str]]:
        """What a rate that was asked for did not do, which nobody would see by the number of documents."""
        found = []
        if documents and not scored:
            found.append(f"no document has a {self.column}, so nothing was cut")
        elif self.nulls == "keep" and documents - scored > _UNSCORED * documents:
            found.append(f"{documents - scored:,} of {documents:,} documents have no {self.column} and stay, "
                         "`nulls: drop` drops them")  # fmt: skip
        if unused:
            found.append(f"`rates` names {', '.join(map(repr, unused))}, which no document with a {self.column} is of")
        return [{"said": sentence} for sentence in found]


def ordered(scores: np.ndarray) -> np.ndarray:
    """uint32 in the order of these as float32 (M. Herf, "Radix tricks", 2001): -0 as 0, infinities at the ends, and
    there what is beyond float32.
    """
    with np.errstate(over="ignore"):
        bits = (scores.astype(np.float32) + np.float32(0)).view(np.uint32)
    return np.where(bits & _SIGN, bits ^ _ALL, bits | _SIGN)


def _scores(numbers: np.ndarray) -> np.ndarray:
    """float64: the scores in documents' numbers (uint64), by the inverse of `ordered`."""
    top = (numbers >> np.uint64(32)).astype(np.uint32)
    return np.where(top & _SIGN, top ^ _SIGN, top ^ _ALL).view(np.float32).astype(np.float64)


def _numbers(scores: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """uint64: the order of the scores, as float32, above the lower half of what decides between equal ones."""
    return ordered(scores).astype(np.uint64) << _TIE | ties & np.uint64(_ALL)


def _hashes(ids: pa.ChunkedArray) -> np.ndarray:
    """uint64: what decides between equal scores."""
    return np.array([xxhash.xxh3_64_intdigest(str(name).encode()) for name in ids.to_pylist()], np.uint64)


def gumbel(ids: pa.ChunkedArray, seed: int) -> np.ndarray:
    """float64: standard Gumbel noise by (seed, id), finite; no other hash of an id, such as that of its place in the
    shards, tells anything of it.
    """
    drawn = [xxhash.xxh3_64_intdigest(b"draw " + str(name).encode(), seed) >> 12 for name in ids.to_pylist()]
    uniform = (np.array(drawn, np.float64) + 0.5) / (1 << 52)  # never 0 or 1, not even rounded
    return -np.log(-np.log(uniform))


def _edges(total: int, buckets: int) -> list[int]:
    """The ascending rank of the first document of each bucket but the first, as far as there are documents.

    Document r of n is in bucket floor(r buckets / n).
    """
    return [rank for bucket in range(1, buckets) if (rank := -(-total * bucket // buckets)) < total]


def _by_name(wanted: tuple[str | None, int]) -> tuple[bool, str | None, int]:
    name, rank = wanted
    return name is not None, name, rank


def select(sketches: list[str], column: str, wanted: list[tuple[str | None, int]], steps: Steps) -> Found:
    """What is in this column at these ascending ranks in their groups: a round of counting for each digit, and one
    more for the ties of numbers that several documents have.
    """
    names, numbers, ties = [name for name, _ in wanted], [0] * len(wanted), [0] * len(wanted)
    found = [Digit(0, rank, 1) for _, rank in wanted]
    for digit in range(_DIGITS if wanted else 0):
        ranks = [one.rank for one in found]
        found = _next_digits(CountTask("", column, digit, names, numbers), ranks, sketches, steps)
        numbers = [number << 16 | one.value for number, one in zip(numbers, found, strict=True)]
    shared = [at for at, one in enumerate(found) if one.documents > 1]
    if shared:
        task = CountTask("", column, _DIGITS, [names[at] for at in shared], [numbers[at] for at in shared])
        found = _next_digits(task, [found[at].rank for at in shared], sketches, steps)
        for at, one in zip(shared, found, strict=True):
            ties[at] = one.value
    return {asked: Place(number, tie) for asked, number, tie in zip(wanted, numbers, ties, strict=True)}


def _next_digits(asked: CountTask, ranks: list[int], sketches: list[str], steps: Steps) -> list[Digit]:
    """The digit after each prefix for the document of this rank among those that have the prefix."""
    wanted = list(zip(asked.groups, asked.prefixes, strict=True))
    bins = sorted(set(wanted), key=_by_name)
    names, begins = [name for name, _ in bins], [prefix for _, prefix in bins]
    tasks = [asked._replace(sketch=sketch, groups=names, prefixes=begins) for sketch in sketches]
    records = steps(f"{asked.column}-digit-{asked.digit}", count_digits, tasks)
    total = _added([record["file"] for record in records])
    place, found = {one: at for at, one in enumerate(bins)}, []
    for one, rank in zip(wanted, ranks, strict=True):
        digits, ends = total[place[one]]
        at = int(np.searchsorted(ends, rank, side="right"))
        before = int(ends[at - 1]) if at else 0
        found.append(Digit(int(digits[at]), rank - before, int(ends[at]) - before))
    return found


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
    bins, starts = np.unique(keys >> _TIE, return_index=True)
    digits = np.split((keys & np.uint64(_ALL)).astype(np.int64), starts[1:])
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
    """One partition's counts of the digits that follow the prefixes: key (bin << 32 | digit), count."""
    table = _sketch(task.sketch)
    table = table.filter(pc.is_valid(table[task.column]))
    above, digits = _split(table, task)
    keys = []
    runs = _runs(task.groups)
    for name, mine in _by_group(table["group"], list(runs)):
        first, last = runs[name]
        prefixes = np.array(task.prefixes[first:last], np.uint64)
        place = np.minimum(np.searchsorted(prefixes, above[mine]), len(prefixes) - 1)
        hit = prefixes[place] == above[mine]
        keys.append((place[hit] + first).astype(np.uint64) << _TIE | digits[mine[hit]])
    found, counts = np.unique(np.concatenate([*keys, np.zeros(0, np.uint64)]), return_counts=True)
    path = Path(f"{out}.parquet")
    write_table(path, pa.table({"key": pa.array(found, pa.uint64()), "count": pa.array(counts, pa.int64())}))
    return {"file": str(path)}


def _split(table: pa.Table, task: CountTask) -> tuple[np.ndarray, np.ndarray]:
    """uint64, uint64: what prefixes are compared with, and the digit that follows."""
    number = table[task.column].to_numpy()
    if task.digit == _DIGITS:
        return number, table["tie"].to_numpy().astype(np.uint64)
    shift = np.uint64(48 - 16 * task.digit)
    return number >> shift >> _DIGIT, number >> shift & np.uint64(0xFFFF)  # in two steps: a shift by 64 is none


def _by_group(groups: pa.ChunkedArray, names: list[str | None]) -> Iterator[tuple[str | None, np.ndarray]]:
    """The rows of each of these groups; those of other groups in none."""
    codes = pc.index_in(groups, pa.array(names, pa.string())).fill_null(-1).to_numpy()
    order = np.argsort(codes, kind="stable")
    ends = np.searchsorted(codes[order], np.arange(len(names) + 1))
    return ((name, order[first:last]) for name, first, last in zip(names, ends, ends[1:]))


def _runs(groups: list[str | None]) -> dict[str | None, tuple[int, int]]:
    """Where each group's prefixes stand: they are sorted by group."""
    found: dict[str | None, tuple[int, int]] = {}
    for at, name in enumerate(groups):
        found[name] = (found.get(name, (at, at))[0], at + 1)
    return found


def write_verdicts(task: VerdictTask, out: Path) -> dict[str, Any]:
    """One partition's verdicts, a row a document; how many stay of each group's that have a score."""
    table = _sketch(task.sketch)
    number, has_score = pc.fill_null(table["number"], 0).to_numpy(), pc.is_valid(table["number"]).to_numpy()
    score = pc.fill_null(table["score"], 0).to_numpy() if "score" in table.column_names else number
    tie = table["tie"].to_numpy()
    bucket, goes = np.zeros(len(table), np.int8), np.zeros(len(table), bool)
    limits, kept = np.full(len(table), np.nan), []
    for name, mine in _by_group(table["group"], list(task.limits)):
        limit, mine = task.limits[name], mine[has_score[mine]]
        bucket[mine] = _buckets(score[mine], tie[mine], limit.edges)
        goes[mine] = True if limit.lowest is None else _below(number[mine], tie[mine], limit.lowest)
        limits[mine] = np.nan if limit.lowest is None else task.keep.figure(limit.lowest)
        kept.append((name, len(mine) - int(goes[mine].sum())))
    figures = task.keep.figures(number)
    reasons = np.full(len(table), None, object)
    reasons[goes] = task.keep.reason()
    reasons[goes & (figures == limits)] = "tied"
    if task.keep.nulls == "drop":
        reasons[~has_score] = "no_score"
    verdicts = pa.table({
        task.keep.bucket: pa.array(bucket, mask=~has_score),
        "drop": pa.array(reasons, pa.string()),
        "drop_value": pa.array(np.where(goes, figures, np.nan), from_pandas=True),
        "drop_limit": pa.array(np.where(goes, limits, np.nan), from_pandas=True),
    })  # fmt: skip
    path = Path(f"{out}.parquet")
    write_table(path, verdicts.cast(pa.schema([*task.keep.columns().items(), *DROP.items()])))
    return {"file": str(path), "rows": len(table), "kept": kept}


def _below(number: np.ndarray, tie: np.ndarray, place: Place) -> np.ndarray:
    least = np.uint64(place.number)
    return (number < least) | (number == least) & (tie < place.tie)


def _buckets(number: np.ndarray, tie: np.ndarray, edges: list[Place]) -> np.ndarray:
    """int64: how many edges each document is not below."""
    found = np.searchsorted(np.array([edge.number for edge in edges], np.uint64), number, side="right")
    for edge in edges:
        if edge.tie:  # seldom: the others are reached by the number alone
            found -= (number == np.uint64(edge.number)) & (tie < edge.tie)
    return found
