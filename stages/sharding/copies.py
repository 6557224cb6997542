"""How often each document comes up in a mixture, and where: settled between scattering and gathering.

It follows from what the runs say of every document (some 100 bytes of it in memory) and from a hash of its id; a second
copy has a place of its own in the order, far from the first. `kernels/mixture.py` has the arithmetic.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.schema import set_column
from pipeline.stage import Refused
from stages.kernels import mixture
from stages.sharding import runs
from stages.sharding.mix import Mix

_MANY = 10  # documents for each bucket, of which some must be in the upper half
_UNKNOWN = -1  # the quality bucket of a document without a score


class Seen:
    """What is said of every document, as numbers, in the order of the runs.

    `batches`: at least one, with `id`, `key`, `n_tokens`, `n_bytes` and the columns that the mixture reads.
    """

    def __init__(self, mix: Mix, batches: Iterable[pa.RecordBatch], seed: int) -> None:
        self._mix = mix
        codes: dict[str, int] = {}
        values: dict[str, str] = {}
        told = [_numbers(batch, mix, seed, codes, values) for batch in batches]
        keys, self.hashed, self._tokens, self._sizes, self._times, self._bucket, group = map(np.concatenate, zip(*told))
        self._train = keys < runs.HELD_OUT
        order = np.argsort(group, kind="stable")
        order = order[self._train[order]]
        ends = np.cumsum(np.bincount(group[order], minlength=len(codes)))
        rows = dict(zip(codes, np.split(order, ends[:-1])))
        self._rows = {name: rows[name] for name in sorted(rows) if len(rows[name]) or name in mix.groups}

    def _groups(self) -> list[mixture.Group]:
        return [
            mixture.Group(name, len(rows), int((self._tokens[rows] * self._times[rows]).sum()),
                          int((self._sizes[rows].astype(np.int64) * self._times[rows]).sum()))
            for name, rows in self._rows.items()
        ]  # fmt: skip

    def available(self) -> list[dict[str, Any]]:
        """What there is of each group."""
        return [{"group": group.name, "documents": group.documents, "tokens": group.tokens} for group in self._groups()]

    def any_to_train_on(self) -> bool:
        """Whether a document is left that is not held out."""
        return bool(self._train.any())

    def settled(self) -> tuple[np.ndarray | None, dict[str, Any]]:
        """How often each document comes up, None where what is asked cannot be had; and what people are told of it."""
        try:
            times, rows = self.settle()
        except mixture.Infeasible as error:
            return None, {"by": list(self._mix.by), "refused": str(error), "groups": self.available()}
        tokens = sum(row["realised"] for row in rows)
        if not tokens:
            none = f"the mixture leaves no document to train on: its {len(rows):,} groups come to less than one each"
            return None, {"by": list(self._mix.by), "refused": none, "groups": self.available()}
        return times, {"by": list(self._mix.by), "tokens": tokens, "groups": rows}

    def settle(self) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """How often each document comes up (int16), and a row a group: asked, possible, realised. Raises `Infeasible`.

        Held-out documents come up once and belong to no group.
        """
        self._check_buckets()
        groups = self._groups()
        requests, limits = self._limited(self._mix.requests(groups))
        copies, told = np.where(self._train, 0, 1).astype(np.int16), []
        for row in self._solved(groups, requests):
            mine = self._rows[row.name]
            rates = self._rates(row, limits[row.name])
            if rates.max(initial=0) > np.iinfo(np.int16).max - 1:
                raise mixture.Infeasible(f"{row.name}: a document would come up {rates.max():,.0f} times")
            settled = mixture.cut(self.hashed[mine], self._tokens[mine], rates)
            copies[mine] = mixture.repetitions(self.hashed[mine], rates, settled)
            told.append({
                "group": row.name, "documents": row.documents, "tokens": row.available, "asked": round(row.asked),
                "possible": round(row.possible), "solved": round(row.tokens), "realised": settled.tokens,
                "epochs": round(settled.tokens / max(1, row.available), 6), "exhausted": row.exhausted,
                "left_out": int((copies[mine] == 0).sum()), "occurrences": int(copies[mine].sum()),
            })  # fmt: skip
        return copies, told

    def _solved(self, groups: list[mixture.Group], requests: dict[str, mixture.Request]) -> list[mixture.Realised]:
        try:
            return mixture.solve(groups, requests, self._mix.tokens, self._mix.max_epochs)
        except mixture.Infeasible as error:
            if not self._mix.quality:
                raise
            floor = f"the lowest {self._mix.quality.floor:.0%}"
            raise mixture.Infeasible(f"{error} (of groups with buckets the quality curve leaves out {floor})") from None

    def _limited(self, requests: dict[str, mixture.Request]) -> tuple[dict[str, mixture.Request], dict[str, float]]:
        """The requests with what a quality curve leaves of each group's most epochs; and these without."""
        limits = {}
        for name in self._rows:
            wish = requests.get(name) or requests.get(mixture.REST) or mixture.Request()
            limits[name] = self._mix.max_epochs if wish.max_epochs is None else wish.max_epochs
            held = self._by_bucket(name)
            if held is not None and wish != mixture.Request():
                most = limits[name] * float(held[self._heights() > 0].sum() / held.sum())
                requests = {**requests, name: wish._replace(max_epochs=most)}
        return requests, limits

    def _heights(self) -> np.ndarray:
        assert self._mix.quality
        return mixture.heights(**self._mix.quality.model_dump(exclude={"column"}))

    def _check_buckets(self) -> None:
        """Raises `Infeasible` where buckets were counted otherwise than the curve says: of many documents, none is in
        the upper half. (Of a group of a few the best may be lower than the best bucket.)"""
        curve, scored = self._mix.quality, self._bucket[self._train & (self._bucket != _UNKNOWN)]
        if curve and len(scored) >= _MANY * curve.buckets and (best := int(scored.max())) < curve.buckets // 2:
            raise mixture.Infeasible(
                f"'{curve.column}' goes up to {best} only: quality.buckets has to be what it was made with, "
                f"not {curve.buckets}"
            )

    def _by_bucket(self, name: str) -> np.ndarray | None:
        """Tokens in each quality bucket of a group; None where no curve applies."""
        curve, rows = self._mix.quality, self._rows[name]
        bucket = self._bucket[rows]
        if curve is None or (bucket == _UNKNOWN).all():
            return None
        if (bucket >= curve.buckets).any():
            raise mixture.Infeasible(
                f"{name}: '{curve.column}' goes up to {bucket.max()}, so quality.buckets, {curve.buckets}, is too low"
            )
        if missing := int((bucket < 0).sum()):
            raise mixture.Infeasible(f"{name}: {missing:,} of {len(rows):,} documents have no '{curve.column}'")
        return np.bincount(bucket, self._tokens[rows] * self._times[rows], curve.buckets)

    def _rates(self, row: mixture.Realised, limit: float) -> np.ndarray:
        """How often each document of a group is to come up on average."""
        rows, held = self._rows[row.name], self._by_bucket(row.name)
        if held is None:
            return row.epochs * self._times[rows]
        assert self._mix.quality
        shape = self._mix.quality.model_dump(exclude={"column", "buckets"})
        epochs = mixture.quality_curve(held, row.tokens, **shape, cap=limit)
        return epochs[self._bucket[rows]] * self._times[rows]


def _numbers(
    run: pa.RecordBatch, mix: Mix, seed: int, codes: dict[str, int], values: dict[str, str]
) -> tuple[np.ndarray, ...]:
    """Of each document of a run: key, hash, tokens, bytes, copies in one epoch, bucket and number of its group.

    `codes` has the number of each group seen so far, `values` what the columns of each name were.
    """
    columns = [pc.fill_null(run[name].cast(pa.string()), "null") for name in mix.by]
    names = pc.binary_join_element_wise(*columns, "\x00").dictionary_encode()
    local = [codes.setdefault(mix.group(_name(joined, values)), len(codes)) for joined in names.dictionary.to_pylist()]
    times = np.ones(len(run), np.int64)
    if mix.upsample:  # the document itself and those that left because of it
        times = mixture.upsampled(1 + pc.fill_null(run[mix.upsample], 0).to_numpy(zero_copy_only=False))
    bucket = np.full(len(run), _UNKNOWN)
    if mix.quality:
        bucket = pc.fill_null(_whole(run, mix.quality.column).cast(pa.int64()), _UNKNOWN).to_numpy(zero_copy_only=False)
    return (run["key"].to_numpy(), mixture.hashes(run["id"].to_pylist(), seed), run["n_tokens"].to_numpy(),
            run["n_bytes"].to_numpy(), times, bucket,
            np.array(local, np.int32)[names.indices.to_numpy()])  # fmt: skip


def _name(joined: str, values: dict[str, str]) -> str:
    """What documents are called whose columns are `joined`, by zero bytes; one name is not for two."""
    name = joined.replace("\x00", "/")
    if values.setdefault(name, joined) != joined:
        raise Refused(f"mix: different values of the columns it is by are all called {name}; take fewer of them")
    return name


def _whole(run: pa.RecordBatch, column: str) -> pa.Array:
    if not pa.types.is_integer(run[column].type):
        raise Refused(f"mix: quality.column '{column}' is not of integers, as a bucket is, but {run[column].type}")
    return run[column]


def write(out: Path, copies: np.ndarray, hashed: np.ndarray) -> np.ndarray:
    """Every place that documents of a scattered partition have in the order, sorted; tokens in each range of keys.

    A row is `key`, `run` and `row` of the document, and which `copy` it is; one left out has a row of its own key.
    """
    batches = list(runs.read(out))
    sizes = [batch.num_rows for batch in batches]
    keys, lengths = (np.concatenate([np.zeros(0, kind), *(batch[name].to_numpy() for batch in batches)])
                     for name, kind in (("key", np.uint64), ("n_tokens", np.int32)))  # fmt: skip
    document, copy, elsewhere = mixture.occurrences(copies, hashed)
    key = np.where(copy > 0, elsewhere >> np.uint64(1), keys[document])
    order = np.argsort(key, kind="stable")
    run = np.repeat(np.arange(len(batches)), sizes)
    row = np.arange(len(keys)) - np.repeat(np.cumsum([0, *sizes])[:-1], sizes)
    table = pa.table({"key": key[order], "run": run[document[order]].astype(np.int32),
                      "row": row[document[order]].astype(np.int32), "copy": copy[order].astype(np.int16)})  # fmt: skip
    with storage.atomic(runs.named(out, "-mix.arrow")) as beside, pa.ipc.new_file(beside, table.schema) as writer:
        writer.write_table(table)
    return runs.by_range(key[copy >= 0], lengths[document][copy >= 0])


def slices(out: Path, low: int, high: int) -> Iterator[pa.Table]:
    """What `runs.slices` gives, of a mixture: a row for each copy of a document, and for each that is left out."""
    with pa.memory_map(str(runs.named(out, "-mix.arrow"))) as source:
        places = pa.ipc.open_file(source).read_all()
        keys = places["key"].to_numpy()
        first = int(np.searchsorted(keys, np.uint64(low), "left"))
        places = places.slice(first, int(np.searchsorted(keys, np.uint64(high), "right")) - first)
        for number, run in enumerate(runs.read(out)):
            mine = places.filter(pc.equal(places["run"], number))
            if len(mine):
                rows = pa.Table.from_batches([run]).take(mine["row"])
                yield set_column(rows, "key", mine["key"]).append_column("copy", mine["copy"])
