"""Clusters announce the end of a job with SIGTERM: training then writes a checkpoint and leaves."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

TERMINATED = 128 + signal.SIGTERM  # exit code by shell convention


@contextmanager
def sigterm_noted() -> Iterator[Callable[[], bool]]:
    """Holds back SIGTERM inside the block; yields a function that says whether one came.

    Signal handlers belong to the main thread; in another thread nothing is held back.
    """
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield came.is_set
        return

    def note(number: int, frame: FrameType | None) -> None:
        came.set()

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
    if came.is_set():  # it came after the last step
        signal.raise_signal(signal.SIGTERM)
