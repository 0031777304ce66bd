"""Single stream: the next request begins when the last is answered. Models take turns, so that noise hits all alike."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from benchmarks.latency.figures import figures

Call = Callable[[int], Any]  # takes the number of the call, so that it may walk through real histories
ROUNDS = 10
WARMUP = 200
WARMUP_SECONDS = 2.0


def measure(call: Call, calls: int, warmup: int = WARMUP) -> dict[str, float]:
    """Latency of one model.

    Args:
        call: Does the work for the i-th request and returns when the answer is there.
        calls: Timed calls, at least 1.
        warmup: Calls before them; fewer where they take longer than two seconds together.

    Returns:
        Milliseconds: "first" (the very first call) and what `figures` gives of the timed calls.
    """
    return measure_interleaved({"model": call}, {"model": calls}, warmup)["model"]


def measure_interleaved(
    models: Mapping[str, Call], calls: Mapping[str, int], warmup: int = WARMUP
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
    with one_torch_thread():
        first = {name: timed(call, range(1))[0] for name, call in models.items()}
        for name, call in models.items():
            warm(call, min(warmup, calls[name]))
        times = in_turns({name: partial(timed, call) for name, call in models.items()}, calls)
    return {name: figures(np.array(times[name]), first[name]) for name in models}


def measure_for(call: Call, seconds: float, most: int) -> dict[str, float]:
    """Latency of one slow model: the first call apart, then calls until the time is over, at least one.

    Args:
        call: As in `measure`.
        seconds: For the timed calls together.
        most: Calls at most.
    """
    with one_torch_thread():
        first = timed(call, range(1))[0]
        calls = max(1, min(most, int(seconds * 1e9 / max(first, 1))))
        return figures(np.array(timed(call, range(1, calls + 1))), first)


def in_turns(
    runners: Mapping[str, Callable[[range], list[int]]], calls: Mapping[str, int], rounds: int = ROUNDS
) -> dict[str, list[int]]:
    """Lets each runner make its calls a block at a time, forwards and then backwards through the runners.

    Args:
        runners: Numbers of calls to nanoseconds of each, by name.
        calls: Calls of each runner.
        rounds: Blocks of each runner.

    Returns:
        Nanoseconds of every call, by name.
    """
    times: dict[str, list[int]] = {name: [] for name in runners}
    for turn in range(rounds):
        for name in list(runners) if turn % 2 == 0 else list(runners)[::-1]:
            start, stop = (calls[name] * t // rounds for t in (turn, turn + 1))
            if stop > start:
                times[name] += runners[name](range(start, stop))
    return times


def timed(call: Call, numbers: range) -> list[int]:
    """Nanoseconds of each call."""
    clock, spent = time.perf_counter_ns, []
    for number in numbers:
        begin = clock()
        call(number)
        spent.append(clock() - begin)
    return spent


def warm(call: Call, calls: int, seconds: float = WARMUP_SECONDS) -> int:
    """Calls without a stopwatch, until there were enough or the time is over; returns how many there were."""
    end = time.perf_counter() + seconds
    for number in range(calls):
        call(number)
        if time.perf_counter() > end:
            return number + 1
    return calls


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
