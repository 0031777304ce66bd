"""The machine: what it was doing before the measurement, how fast its memory is, how large this process is (Linux)."""

from __future__ import annotations

import os
import platform
import re
import time
from pathlib import Path
from typing import Any

import numpy as np

BUSY = 0.10  # above this background load a result is marked unreliable


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory bandwidth and what was going on before."""
    load = background_load()
    return {
        "processor": processor(),
        "cores": len(cores()),
        "background_load": load,
        "reliable": load <= BUSY,
        "memory_bytes_per_second": memory_bandwidth(),
    }


def cores() -> list[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


def processor() -> str:
    """The model name of the processor, and nothing else of the machine."""
    path = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", path.read_text()) if path.is_file() else None
    return found[1].strip() if found else platform.machine()


def background_load(seconds: float = 1.0) -> float:
    """Share of all cores that others keep busy while this process sleeps, 0 to 1."""
    before = _ticks()
    time.sleep(seconds)
    busy, total = (after - earlier for after, earlier in zip(_ticks(), before, strict=True))
    return busy / total if total else 0.0


def memory_bandwidth(megabytes: int = 256, repeats: int = 7) -> float:
    """Bytes a second that one core reads from memory: the best of several dot products over a large array.

    A catalogue scored in full is read once a request, so its bytes over this figure is the least a request can take.

    Args:
        megabytes: Size of the array, far above the cache.
        repeats: Tries.
    """
    values = np.ones(megabytes * 250_000, np.float32)
    best = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        np.dot(values, values)
        best = min(best, time.perf_counter() - begin)
    return values.nbytes / best  # both operands are the same bytes, which are read once


def resident_bytes() -> int:
    """Memory that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _ticks() -> tuple[int, int]:
    """Busy and total clock ticks of all cores so far."""
    numbers = [int(n) for n in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle = numbers[3] + numbers[4]
    return sum(numbers) - idle, sum(numbers)
