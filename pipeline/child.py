"""A process of its own that works for its parent, which survives whatever happens in it.

The parent sends a function and its arguments through a socket and waits for the answer. A process that dies of a
segmentation fault, is killed, or takes longer than it may raises `Died` in the parent and nothing else.
"""

import ctypes
import faulthandler
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import IO, Any

_LOOK = 0.5  # seconds between two looks at whether the process is still there
_PR_SET_PDEATHSIG = 1  # of Linux: the signal a process gets when its parent ends


class Died(RuntimeError):
    """The process ended before it answered, or was ended because it was `late`."""

    def __init__(self, how: str, late: bool = False) -> None:
        super().__init__(how)
        self.how, self.late = how, late


class Child:
    """One process, started at once; works on one call at a time.

    `forked` makes it a copy of this process, which costs nothing but is only safe while this process has no threads of
    its own; otherwise it is a new interpreter (about 1 s). What a `quiet` one says on stderr is kept for the message of
    `Died`.
    """

    def __init__(self, *, forked: bool = False, quiet: bool = False) -> None:
        ours, theirs = socket.socketpair()
        self._errors: IO[bytes] | None = None
        self._popen: subprocess.Popen[bytes] | None = None
        self._status: int | None = None  # as subprocess has it: minus the signal, or the exit code
        if forked:
            self.pid = _fork(ours, theirs)
        else:
            self._errors = tempfile.TemporaryFile() if quiet else None  # noqa: SIM115 - as long as the process is there
            self._popen = _execute(theirs, self._errors)
            self.pid = self._popen.pid
        theirs.close()
        self._connection = Connection(ours.detach())

    def call(self, fn: Callable[..., Any], *args: Any, limit: float | None = None) -> Any:
        """`fn(*args)` in that process; both must pickle.

        Raises `Died` when the process ends or needs more than `limit` seconds, `RuntimeError` with the traceback when
        `fn` raises.
        """
        self.send(fn, *args)
        until = None if limit is None else time.monotonic() + limit
        while not self.ready(_LOOK if until is None else min(_LOOK, max(0.0, until - time.monotonic()))):
            if until is not None and time.monotonic() >= until:
                self._ask_where()
                self.close()
                raise Died(f"needed more than {limit:.3g} s{self._place()}", late=True)
        return self.answer()

    def send(self, fn: Callable[..., Any], *args: Any) -> None:
        """Begin a call; the answer is there when `ready` says so."""
        try:
            self._connection.send((fn, args))
        except OSError:
            raise self._died() from None

    def ready(self, seconds: float) -> bool:
        """Wait so long for the answer, or for the end of the process."""
        return self._connection.poll(seconds) or self._ended()

    def answer(self) -> Any:
        """The answer to `send`. Raises as `call` does."""
        try:
            if not self._connection.poll(0):  # it has ended, while a process that it started holds the socket open
                raise EOFError
            good, value = self._connection.recv()
        except (EOFError, OSError):
            raise self._died() from None
        if not good:
            raise RuntimeError(value)
        return value

    def close(self) -> None:
        """End the process, whatever it is at."""
        if not self._ended():
            os.kill(self.pid, signal.SIGKILL)
            self._wait()
        self._connection.close()

    def _died(self) -> Died:
        """Why it is gone; a process that has closed its socket is about to end."""
        until = time.monotonic() + 5
        while not self._ended() and time.monotonic() < until:
            time.sleep(0.01)
        self.close()
        assert self._status is not None
        name = signal.Signals(-self._status).name if self._status < 0 else ""
        how = f"the process was ended by {name}" if name else f"the process ended itself with code {self._status}"
        return Died(how + self._place())

    def _place(self) -> str:
        """Where the process was in Python's code, if its stderr says so; code of its own rather than of a library."""
        if self._errors is None or self._errors.closed:
            return ""
        self._errors.seek(0)
        stack = self._errors.read().decode("utf-8", "replace").rpartition("most recent call first):")[2]
        frames = re.findall(r'File "([^"]+)", line (\d+) in (\S+)', stack)
        own = [frame for frame in frames if not frame[0].startswith((sys.prefix, sys.base_prefix, "<"))]
        if not frames:
            return ""
        path, line, name = (own or frames)[0]
        return f" ({os.path.basename(path)}, line {line}, in {name})"

    def _ask_where(self) -> None:
        """Have a quiet process write on stderr where it is, even while compiled code does not return."""
        if self._errors is None:
            return
        before, until = os.fstat(self._errors.fileno()).st_size, time.monotonic() + 2
        os.kill(self.pid, signal.SIGUSR1)
        while os.fstat(self._errors.fileno()).st_size == before and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.1)  # the whole of it

    def _ended(self) -> bool:
        if self._status is None and self._popen:
            self._status = self._popen.poll()
        elif self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status is not None

    def _wait(self) -> None:
        while not self._ended():
            time.sleep(0.005)


def _fork(ours: socket.socket, theirs: socket.socket) -> int:
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        ours.close()
        _serve(theirs.detach(), parent)
    finally:  # nothing of the parent's own is finished here: no context manager, no exit handler
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _execute(theirs: socket.socket, errors: IO[bytes] | None) -> "subprocess.Popen[bytes]":
    code = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        f"from pipeline.child import _begin; _begin({theirs.fileno()}, {os.getpid()}, {errors is not None})"
    )
    stdin = None if errors is None else subprocess.DEVNULL
    return subprocess.Popen([sys.executable, "-c", code], pass_fds=[theirs.fileno()], stdin=stdin, stderr=errors)


def _begin(descriptor: int, parent: int, quiet: bool) -> None:
    """What a new interpreter does; its crash leaves Python's stack on stderr if somebody reads it there."""
    if quiet:
        faulthandler.enable()
        faulthandler.register(signal.SIGUSR1)
    _serve(descriptor, parent)


def _serve(descriptor: int, parent: int) -> None:
    """Answer calls until the parent closes the socket or is gone."""
    os.set_inheritable(descriptor, False)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):  # meant for the parent, which ends this process
        signal.signal(number, _pass)
    _end_with(parent)
    connection = Connection(descriptor)
    while True:
        try:
            fn, args = connection.recv()
        except (EOFError, OSError):
            return
        except Exception:  # noqa: BLE001 - what was sent cannot be read here: said to the parent like any other error
            connection.send((False, traceback.format_exc()))
            continue
        try:
            answer = (True, fn(*args))
        except Exception:  # noqa: BLE001 - said to the parent
            answer = (False, traceback.format_exc())
        connection.send(answer)


def _pass(number: int, frame: Any) -> None:
    """Not `SIG_IGN`, which programs that a stage starts would inherit."""


def _end_with(parent: int) -> None:
    """Have Linux end this process when its parent is gone, even while it hangs; elsewhere it ends after its call."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
