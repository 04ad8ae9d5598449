"""SIGTERM between two steps and not in the middle of one: what is half written in memory would be no checkpoint."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGTERM_EXIT = 128 + signal.SIGTERM


class StopRequest:
    """Whether this process was asked to end; made by `between_steps`."""

    def __init__(self) -> None:
        self.asked = False

    def note(self, number: int, frame: FrameType | None) -> None:
        """The signal handler: remembers."""
        self.asked = True

    def listen(self) -> None:
        """Takes SIGTERM over, from whoever handles it now; only a main thread may."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.note)

    def obey(self) -> None:
        """Ends the process with code 143 if it was asked to."""
        if self.asked:
            raise SystemExit(SIGTERM_EXIT)


@contextmanager
def between_steps() -> Iterator[StopRequest]:
    """Inside this block SIGTERM only sets a flag; afterwards it does what it did before, and is obeyed if it came."""
    request = StopRequest()
    before = signal.getsignal(signal.SIGTERM)
    request.listen()
    try:
        yield request
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
    request.obey()
