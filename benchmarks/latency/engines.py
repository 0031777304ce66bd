"""What is measured: something that answers requests. A factory opens it inside the process that is measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.latency.streams import read_histories
from distill.serving.runtime import Bundle


@dataclass(frozen=True)
class Engine:
    """An opened recommender.

    Attributes:
        one: Row of the histories to its top k.
        many: Rows (B,) to their top k at once; None where it answers one at a time only.
        rows: Histories there are.
    """

    one: Callable[[int], Any]
    many: Callable[[np.ndarray], Any] | None
    rows: int


def open_bundle(folder: str, variant: str, histories: str, k: int, threads: int) -> Engine:
    """An exported bundle through the serving runtime, which is what production calls.

    Args:
        folder: The bundle.
        variant: "fp32", "int8", ….
        histories: File of `write_histories`.
        k: Places in a list.
        threads: Threads inside an operator; 0 for as many as there are cores.
    """
    bundle = Bundle.open(Path(folder), variant, threads)
    rows = read_histories(histories)
    return Engine(
        one=lambda row: bundle.recommend_one(rows[row], k),
        many=lambda numbers: bundle.recommend([rows[row] for row in numbers], k),
        rows=len(rows),
    )


def open_wait(seconds: float, stall_at: int = -1, stall_seconds: float = 0.0) -> Engine:
    """A known wait in place of a model: it shows whether the stopwatch is right.

    Args:
        seconds: Length of each call.
        stall_at: Number of the call that takes longer, counted from the first; -1 for none.
        stall_seconds: How much longer.
    """
    state = {"calls": 0}

    def wait(row: int) -> None:
        end = time.perf_counter() + seconds + (stall_seconds if state["calls"] == stall_at else 0.0)
        state["calls"] += 1
        time.sleep(max(0.0, end - time.perf_counter() - 2e-4))
        while time.perf_counter() < end:
            pass

    return Engine(one=wait, many=None, rows=1)
