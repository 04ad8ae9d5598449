"""How processes of this package end: SIGTERM unwinds the stack, and a child never outlives its parent."""

import ctypes
import signal
import sys
from types import FrameType

SIGTERM_EXIT = 128 + signal.SIGTERM
PR_SET_PDEATHSIG = 1  # from linux/prctl.h


def stop_on_sigterm(number: int, frame: FrameType | None) -> None:
    """Unwinds the stack, so that run records and temporary files are put in order, and exits with 143."""
    raise SystemExit(SIGTERM_EXIT)


def die_with_parent() -> None:
    """Asks the kernel for a SIGTERM when the parent of this process ends, however it ends; on Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
