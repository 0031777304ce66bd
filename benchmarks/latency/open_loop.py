"""Open loop: requests come when they come, and each is timed from the moment at which it was due.

A closed loop waits for a slow answer before it asks again, so one stall of 100 ms counts once (coordinated omission).
Users don't wait for each other: here every request that was due during the stall counts with its own delay.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

SPIN = 200_000  # nanoseconds before a start that are waited for actively: a sleep may oversleep by as much


class Clock(Protocol):
    """Where time comes from; tests have one of their own."""

    def now(self) -> int:
        """Nanoseconds since some fixed moment."""

    def wait_until(self, moment: int) -> None:
        """Returns at that moment, or at once where it is over."""


class WallClock:
    """The real time: sleeps while there is time, then spins."""

    def now(self) -> int:
        """`time.perf_counter_ns`."""
        return time.perf_counter_ns()

    def wait_until(self, moment: int) -> None:
        """Sleeps up to shortly before the moment and spins from there on."""
        left = moment - time.perf_counter_ns()
        if left > SPIN:
            time.sleep((left - SPIN) / 1e9)
        while time.perf_counter_ns() < moment:
            pass


def arrivals(rate: float, count: int, seed: int) -> np.ndarray:
    """Moments of a Poisson process: gaps are exponential, so bursts come as they do from independent users.

    Args:
        rate: Mean requests a second.
        count: Requests.
        seed: The same seed gives the same moments.

    Returns:
        Nanoseconds from the start of the run, int64 (count,), rising.
    """
    gaps = np.random.default_rng(seed).exponential(1e9 / rate, count)
    return np.cumsum(gaps).astype(np.int64)


def run_open_loop(
    call: Callable[[int], Any], starts: np.ndarray, clock: Clock | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Serves requests one after the other, each not before it is due.

    Args:
        call: Does the work for the i-th request.
        starts: When each request is due, from `arrivals`.
        clock: The real time by default.

    Returns:
        Nanoseconds from the due moment to the answer (n,), waiting in line included, and of the work alone (n,).
    """
    clock = clock or WallClock()
    latency, work = np.empty(len(starts), np.int64), np.empty(len(starts), np.int64)
    begin = clock.now()
    for number, due in enumerate((starts + begin).tolist()):
        clock.wait_until(due)
        started = clock.now()
        call(number)
        done = clock.now()
        latency[number], work[number] = done - due, done - started
    return latency, work


def queue(starts: np.ndarray, work: np.ndarray) -> np.ndarray:
    """What an ideal single server gives: nanoseconds from each due moment to the answer (n,).

    Answer n is done at max(answer n - 1 done, due n) + work n (Lindley, 1952), here without a loop.

    Args:
        starts: Due moments (n,).
        work: Nanoseconds of work of each request (n,).
    """
    total = np.cumsum(work)
    idle = np.maximum.accumulate(starts - (total - work))
    return idle + total - starts
