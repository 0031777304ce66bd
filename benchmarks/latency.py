"""How long one call takes: single-stream latency, measured so that noise hits every model alike."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

Call = Callable[[int], Any]  # takes the number of the call, so that it may walk through real histories
ROUNDS = 10
WARMUP_SECONDS = 2.0


def measure(call: Call, calls: int, warmup: int = 200) -> dict[str, float]:
    """Latency of one model.

    Args:
        call: Does the work for the i-th request and returns when the answer is there.
        calls: Timed calls, at least 1.
        warmup: Calls before them; fewer where they take longer than two seconds together.

    Returns:
        Milliseconds: "first" (the very first call), "min", "p50", "p90", "p99", "mean" of the timed calls; and "calls".
    """
    return measure_interleaved({"model": call}, {"model": calls}, warmup)["model"]


def measure_interleaved(
    models: Mapping[str, Call], calls: Mapping[str, int], warmup: int = 200
) -> dict[str, dict[str, float]]:
    """Latency of several models in turns: A B C C B A …, so that a busy neighbour or a slow clock hits all of them.

    PyTorch, where it is loaded, is held to one thread meanwhile.

    Args:
        models: Calls by name.
        calls: Timed calls of each model.
        warmup: As in `measure`.

    Returns:
        What `measure` returns, by name.
    """
    times: dict[str, list[int]] = {name: [] for name in models}
    with one_torch_thread():
        first = {name: timed(call, range(1))[0] for name, call in models.items()}
        for call in models.values():
            warm(call, warmup)
        for turn in range(ROUNDS):
            names = list(models) if turn % 2 == 0 else list(models)[::-1]
            for name in names:
                start, stop = (calls[name] * t // ROUNDS for t in (turn, turn + 1))
                times[name] += timed(models[name], range(start, stop))
    return {name: summary(np.array(times[name]), first[name]) for name in models}


def timed(call: Call, numbers: range) -> list[int]:
    """Nanoseconds of each call."""
    clock, spent = time.perf_counter_ns, []
    for number in numbers:
        begin = clock()
        call(number)
        spent.append(clock() - begin)
    return spent


def warm(call: Call, calls: int) -> None:
    """Calls without a stopwatch, until there were enough or two seconds are over."""
    end = time.perf_counter() + WARMUP_SECONDS
    for number in range(calls):
        call(number)
        if time.perf_counter() > end:
            break


def summary(nanoseconds: np.ndarray, first: int) -> dict[str, float]:
    """Figures in milliseconds of timed calls."""
    values = nanoseconds / 1e6
    p50, p90, p99 = np.percentile(values, [50, 90, 99])
    figures = {"first": first / 1e6, "min": values.min(), "p50": p50, "p90": p90, "p99": p99, "mean": values.mean()}
    return {name: float(value) for name, value in figures.items()} | {"calls": len(values)}


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """PyTorch on one thread inside, as before afterwards; nothing where it isn't loaded."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
