"""Ctrl-C, SIGTERM and SIGHUP stop a run alike: once, with everything that it started ended."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """A signal asked the program to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise `Stopped` in here at the first signal; later ones are not heard, so that what ends is ended in peace.

    A signal that this process was started to ignore (as by `nohup`) stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    heard = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    came: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        came.append(number)
        for one in heard:
            signal.signal(one, signal.SIG_IGN)
        raise Stopped(number)

    for number in heard:
        signal.signal(number, stop)
    try:
        yield
    except KeyboardInterrupt:  # Ray's compiled part raises one of its own in place of ours
        raise Stopped(came[0] if came else signal.SIGINT) from None
    finally:
        if not came:  # a program that was stopped is about to end
            for number in heard:
                signal.signal(number, before[number])
