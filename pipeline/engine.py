"""map(fn, tasks), in this process, in one beside it or on Ray. The only file that knows Ray.

Ray Core tasks, one a partition: files carry the data, Ray carries small records. Nothing here is stateful: no actors,
no object store, no named singletons, so a lost worker costs its task and nothing else. `fn` must be idempotent.
"""

import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pipeline import address as addresses
from pipeline import project
from pipeline.address import NoCluster
from pipeline.child import Child, Died

TICK = 1.0
"""Seconds after which `map` hands control back while no task ends."""

ANSWER = 30.0
"""Seconds that a cluster has to answer."""


class Done(NamedTuple):
    """The end of one task: what it returned, or why there is nothing."""

    place: int  # of the task in the list
    record: Any
    error: str | None
    died: bool = False  # with its process


class Tick(NamedTuple):
    """No task has ended for a while; these are handed out."""

    places: tuple[int, ...]


class Engine(Protocol):
    """Somewhere to run tasks."""

    workers: int
    disposable: bool
    """Whether tasks run in processes that may end without harm to this one."""

    def map(self, fn: Callable[[Any], Any], tasks: list[Any]) -> Iterator[Done | Tick]:
        """Call `fn` on each task; ends come in any order. An exception or a crash ends its own task and no other."""
        ...

    def kill(self, host: str, pid: int) -> None:
        """End the process of a task, which does not end itself."""
        ...

    def everywhere(self, fn: Callable[[Any], Any], task: Any) -> list[tuple[str, Any]]:
        """`fn(task)` on each machine of a cluster, or a sentence why not, with the machine's name; [] without one."""
        ...


class Inline:
    """Tasks one after the other in this process: for calls from Python and for pdb. A crash ends everything."""

    workers = 0
    disposable = False

    def map(self, fn: Callable[[Any], Any], tasks: list[Any]) -> Iterator[Done | Tick]:
        for index, task in enumerate(tasks):
            yield _guarded(fn, index, task)

    def kill(self, host: str, pid: int) -> None:
        raise RuntimeError("a task that runs in this process cannot be ended by it")

    def everywhere(self, fn: Callable[[Any], Any], task: Any) -> list[tuple[str, Any]]:
        return []


class Beside:
    """Tasks one after the other in a process beside this one, which survives a crash: `workers: 0`."""

    workers = 0
    disposable = True

    def __init__(self) -> None:
        # A copy of this process costs nothing, but is safe only as long as no threads run here: so now, and only once.
        self._child: Child | None = Child(forked=sys.platform == "linux")

    def map(self, fn: Callable[[Any], Any], tasks: list[Any]) -> Iterator[Done | Tick]:
        for index, task in enumerate(tasks):
            self._child = self._child or Child()
            try:
                self._child.send(_guarded, fn, index, task)
                while not self._child.ready(TICK):
                    yield Tick((index,))
                yield self._child.answer()
            except Died as died:
                self._child = None
                yield Done(index, None, died.how, died=True)

    def kill(self, host: str, pid: int) -> None:
        if self._child and self._child.pid == pid:
            os.kill(pid, signal.SIGKILL)

    def everywhere(self, fn: Callable[[Any], Any], task: Any) -> list[tuple[str, Any]]:
        return []

    def close(self) -> None:
        if self._child:
            self._child.close()


class OnRay:
    """Tasks on a Ray cluster, at most two a worker in flight."""

    disposable = True

    def __init__(self, ray: Any, workers: int, *, embedded: bool) -> None:
        self.workers, self._embedded = workers, embedded
        self._ray = ray
        self._task = ray.remote(_away).options(num_cpus=1, max_retries=0, retry_exceptions=False)

    def map(self, fn: Callable[[Any], Any], tasks: list[Any]) -> Iterator[Done | Tick]:
        waiting = list(enumerate(tasks))[::-1]
        shared = self._ray.put(fn)
        flying: dict[Any, int] = {}
        ticked = time.monotonic()
        while waiting or flying:
            while waiting and len(flying) < 2 * self.workers:
                index, task = waiting.pop()
                flying[self._task.remote(shared, index, task, os.getcwd())] = index
            ready, _ = self._ray.wait(list(flying), num_returns=1, timeout=TICK)
            for reference in ready:
                yield self._end(reference, flying.pop(reference))
            if time.monotonic() - ticked > TICK:
                yield Tick(tuple(flying.values()))
                ticked = time.monotonic()

    def kill(self, host: str, pid: int) -> None:
        """By a task on the same machine, since a process that is stopped hears nothing from Ray."""
        for name, node in self._nodes():
            if name == host:
                self._at(node, _kill).remote(pid)

    def everywhere(self, fn: Callable[[Any], Any], task: Any) -> list[tuple[str, Any]]:
        if self._embedded:
            return []
        asked = [(name, self._at(node, _away).remote(fn, 0, task, "/")) for name, node in self._nodes()]
        answers = []
        for name, reference in asked:
            try:
                done = self._ray.get(reference, timeout=ANSWER)
                answers.append((name, done.record if done.error is None else done.error.strip().splitlines()[-1]))
            except self._ray.exceptions.GetTimeoutError:
                answers.append((name, f"it does not answer within {ANSWER:.0f} s"))
            except self._ray.exceptions.RayError as error:
                answers.append((name, (str(error).strip().splitlines() or [type(error).__name__])[-1]))
        return answers

    def _nodes(self) -> list[tuple[str, str]]:
        """The machines of the cluster that can work: their names and what Ray calls them."""
        alive = [node for node in self._ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        return [(node["NodeManagerHostname"], node["NodeID"]) for node in alive]

    def _at(self, node: str, fn: Callable[..., Any]) -> Any:
        """`fn` as a task on that machine, even if all its cores are taken."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(node, soft=False)
        return self._ray.remote(fn).options(num_cpus=0, max_retries=0, scheduling_strategy=there)

    def _end(self, reference: Any, index: int) -> Done:
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except errors.RayError as error:
            lines = str(error).strip().splitlines() or [""]
            died = isinstance(error, (errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError))
            said = f"{type(error).__name__}: {lines[0 if died else -1]}"
            return Done(index, None, said if died else f"Ray could not run it ({said})", died)


def _away(fn: Callable[[Any], Any], index: int, task: Any, folder: str) -> Done:
    """A task in a worker of Ray, whose working folder may be another; relative paths are the driver's."""
    os.chdir(folder)
    return _guarded(fn, index, task)


def _kill(pid: int) -> None:
    if Path(f"/proc/{pid}/cmdline").exists() and b"ray::" not in Path(f"/proc/{pid}/cmdline").read_bytes():
        return  # the number belongs to another process by now
    os.kill(pid, signal.SIGKILL)


def _guarded(fn: Callable[[Any], Any], index: int, task: Any) -> Done:
    try:
        return Done(index, fn(task), None)
    except Exception:  # noqa: BLE001 - whatever a stage raises ends its own partition, and is reported in full
        return Done(index, None, traceback.format_exc())


@contextmanager
def open_engine(workers: int | None, address: str | None = None, *, inline: bool = False) -> Iterator[Engine]:
    """The engine for `workers` (0: one process, None: a worker a core), or for the cluster at `address`.

    With `inline`, no workers and no address, tasks run in this very process. Raises `NoCluster`.
    """
    if address is None and workers == 0:
        if inline:
            yield Inline()
            return
        beside = Beside()
        try:
            yield beside
        finally:
            beside.close()
        return
    ray, temporary = _start(workers, address)
    try:
        cluster = int(ray.cluster_resources().get("CPU", 1))
        yield OnRay(ray, workers or cluster, embedded=temporary is not None)
    finally:
        _stop(ray, temporary)


def _start(workers: int | None, address: str | None) -> tuple[Any, Path | None]:
    """Connect to the cluster, or start an embedded one on loopback only, whose session folder is ours to remove."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address is not None:
        return _connect(address), None
    # Read when ray is imported: without it every daemon and worker listens on all interfaces (Ray 2.60).
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    # A token of this run's own. Ray would write one to ~/.ray, readable by all, and every later connection to a cluster
    # without tokens would fail because of it.
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    import ray

    _sweep()
    temporary = Path(tempfile.mkdtemp(prefix=f"gristmill-ray-{os.getpid()}-"))
    with _own_handlers(), _in_folder(temporary):
        ray.init(
            address="local",
            num_cpus=workers,  # None: as many as this process may use, which Ray finds out
            include_dashboard=False,
            object_store_memory=100 << 20,  # records only go through it
            log_to_driver=False,
            logging_level="ERROR",
            _temp_dir=str(temporary),
            job_config=ray.job_config.JobConfig(_py_driver_sys_path=_import_path()),
        )
    return ray, temporary


def _connect(address: str) -> Any:
    """Join the cluster at `address`. Raises `NoCluster` when it does not answer, or not to us."""
    addresses.reach(address)
    child = Child(quiet=True)  # what Ray's compiled part logs, for minutes where a cluster is dead, stays in there
    try:
        mode, reason = child.call(_try_to_join, address, limit=ANSWER)
    except Died as died:
        reason = f"it does not answer within {ANSWER:.0f} s" if died.late else died.how
    finally:
        child.close()
    if reason:
        raise NoCluster(f"no Ray cluster to work on at {address}: {reason}")
    os.environ["RAY_AUTH_MODE"] = mode
    import ray

    with _own_handlers():
        variables = {project.VARIABLE: os.environ[project.VARIABLE]} if project.folders() else {}
        job = ray.job_config.JobConfig(
            runtime_env={"env_vars": variables} if variables else None, _py_driver_sys_path=_import_path()
        )
        with tempfile.TemporaryDirectory(prefix="gristmill-") as empty, _in_folder(Path(empty)):
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", job_config=job)
    return ray


def _import_path() -> list[str]:
    """Where this process finds modules, for the workers, which put one path after the other in front of theirs."""
    return [path for path in reversed(sys.path) if path]


@contextmanager
def _in_folder(folder: Path) -> Iterator[None]:
    """Connect to Ray from an empty folder.

    Workers look for modules first in the folder that the driver connects from, where any folder named `stages` would
    hide ours. Tasks work in the driver's own folder (`_away`).
    """
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _try_to_join(address: str) -> tuple[str, str]:
    """In a process of its own: the authentication that the cluster wants, and why joining fails, if it does.

    The cluster is asked without a token first. That a token lies in ~/.ray says nothing about this cluster, and one
    without tokens breaks off later, in the middle of the work, when it is sent one.
    """
    os.environ["RAY_AUTH_MODE"] = mode = "disabled"
    import ray

    try:
        if not address.startswith("ray://"):
            mode = _mode(ray, address)
        os.environ["RAY_AUTH_MODE"] = mode
        ray._raylet.Config.initialize("")  # it has read the variable before
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        ray.shutdown()
    except Exception as error:  # noqa: BLE001 - whatever Ray raises becomes the reason
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return mode, lines[0]
    return mode, ""


def _mode(ray: Any, address: str) -> str:
    """`disabled`, or `token` where the cluster does not talk without one."""
    if address == "auto":
        address = ray._private.services.canonicalize_bootstrap_address_or_die("auto")
    try:
        ray._raylet.GcsClient(address=address).internal_kv_get(b"session_name", b"session", timeout=10)
    except ray.exceptions.AuthenticationError:
        return "token"
    return "disabled"


@contextmanager
def _own_handlers() -> Iterator[None]:
    """Keep the signal handlers of this program; Ray sets one for SIGTERM that ends the process at once."""
    here = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items() if here else ():
            signal.signal(number, handler)


_PATIENCE = 3.0  # seconds that Ray has to end its processes


def _stop(ray: Any, temporary: Path | None) -> None:
    """Leave the cluster; of one that was started here nothing stays, neither processes nor files."""
    family = _descendants(os.getpid()) if temporary else {}
    late = threading.Timer(_PATIENCE, _end_all, [family])
    late.start()
    try:
        ray.shutdown()  # of a cluster that was not started here, this only disconnects
    finally:
        late.cancel()
        _end_all(family)
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)


def _descendants(pid: int) -> dict[int, str]:
    """The processes that this one has started, directly or not, and when each began; none where there is no /proc."""
    parents: dict[int, tuple[int, str]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        if facts := _stat(int(folder.name)):
            parents[int(folder.name)] = facts
    family: dict[int, str] = {}
    grown = {pid}
    while grown:
        grown = {one for one, (parent, _) in parents.items() if parent in grown}
        family |= {one: parents[one][1] for one in grown}
    return family


def _stat(pid: int) -> tuple[int, str] | None:
    """The parent of a process, and when it began."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[1]), fields[19]


def _end_all(family: dict[int, str]) -> None:
    """End those that are still there."""
    for pid, began in family.items():
        facts = _stat(pid)
        if facts and facts[1] == began:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def _sweep() -> None:
    """Remove the session folders of earlier runs that were killed: Ray itself never does."""
    for folder in Path(tempfile.gettempdir()).glob("gristmill-ray-*-*"):
        owner = folder.name.split("-")[2]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists() and Path("/proc").exists():
            shutil.rmtree(folder, ignore_errors=True)
