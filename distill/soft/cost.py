"""What asking a teacher will take and what it took: time and, where an hour has a price, money."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

PROBE = 512  # contexts on which the time of all others is estimated
RUN = 128  # of these lie side by side, as they do in scoring: a teacher may answer neighbours together
WORTH_ESTIMATING = 20 * PROBE


def probe_rows(asked: np.ndarray) -> list[np.ndarray]:
    """Some rows out of the rows (R,) that a teacher is asked about, in runs spread over all of them."""
    starts = np.linspace(0, max(0, len(asked) - RUN), PROBE // RUN).astype(np.int64)
    return [asked[start : start + RUN] for start in np.unique(starts)]


def estimated_seconds(answer: Callable[[np.ndarray], Any], asked: np.ndarray, pending: int, processes: int) -> float:
    """How long a teacher will need for its contexts.

    Args:
        answer: Answers some rows, storing aside.
        asked: Rows that it is asked about.
        pending: How many are still to be answered, over all processes.
        processes: How many share the work.
    """
    runs = probe_rows(asked)
    answer(runs[0][:8])  # what is done once only doesn't count
    begin = time.perf_counter()
    for rows in runs:
        answer(rows)
    return (time.perf_counter() - begin) / sum(map(len, runs)) * pending / processes


def in_words(pending: int, seconds: float, price_per_hour: float) -> str:
    """An estimate as a sentence."""
    price = f", cost {seconds / 3600 * price_per_hour:,.4g}" if price_per_hour else ""
    return f"asking the teacher about {pending:,} contexts: estimated time {seconds:,.1f} s{price}"


def bill(contexts: int, in_this_run: int, seconds: float, select: str, price_per_hour: float) -> dict[str, Any]:
    """What the manifest says of a teacher's cost."""
    found: dict[str, Any] = {"contexts": contexts, "contexts_in_this_run": in_this_run, "seconds": round(seconds, 2)}
    found["select"] = select
    if price_per_hour:
        found["price"] = float(f"{seconds / 3600 * price_per_hour:.4g}")
    return found
