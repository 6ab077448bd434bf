"""What ends a command from outside: the first signal in good order, the second at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

# The exit code of each; job queues announce an end by USR1.
STOP_SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGUSR1: 143}


class Stopped(Exception):  # noqa: N818 - it is no error
    """The user or the system asked the command to end, and it has done so in good order."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class StopRequest:
    """Which signal has arrived, if any."""

    number: int | None = None


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turn the first stop signal into a request; the second ends the process at once."""
    request = StopRequest()

    def note(number: int, _frame: FrameType | None) -> None:
        request.number = number
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, note) for number in STOP_SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Where there is nothing to save, the first stop signal ends the work in progress.

    Raises:
        Stopped: a signal arrived.
    """

    def stop(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        name = signal.Signals(number)
        raise Stopped(f"stopped by {name.name} before it was done", STOP_SIGNALS[name])

    before = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
