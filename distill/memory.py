"""Makes the C library keep the memory that training frees: the next step wants blocks of the same size again."""

from __future__ import annotations

import contextlib
import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt
KEPT = 2**31 - 1


def keep_freed_memory() -> None:
    """Stops glibc from returning large blocks to the system at every free; does nothing on other C libraries.

    Score matrices of a batch are tens of megabytes. By default each is mapped, zeroed page by page and unmapped at
    every step, which took about a third of a student's training step on a CPU.
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(MMAP_THRESHOLD, 2**30)
        mallopt(TRIM_THRESHOLD, KEPT)
