"""Who asks: streams of users, uniform or Zipf, and their histories as a file that every measured process reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distill.errors import UserError

STREAMS = ("uniform", "zipf")
ZIPF_EXPONENT = 1.0


def request_rows(stream: str, users: int, count: int, seed: int) -> np.ndarray:
    """The user of each request.

    Args:
        stream: "uniform", or "zipf": the r-th most active user asks in proportion to 1 / r, as on busy sites, where
            caches then help. Who is active is drawn by seed.
        users: Users there are.
        count: Requests.
        seed: Of the draw.

    Returns:
        Row numbers int64 (count,).

    Raises:
        UserError: Another stream.
    """
    rng = np.random.default_rng(seed)
    if stream == "uniform":
        return rng.integers(0, users, count)
    if stream == "zipf":
        weights = 1.0 / np.arange(1, users + 1) ** ZIPF_EXPONENT
        return rng.permutation(users)[rng.choice(users, count, p=weights / weights.sum())]
    raise UserError(f"benchmark.latency.streams holds '{stream}'; expected {' or '.join(STREAMS)}.")


def write_histories(path: Path, histories: Sequence[np.ndarray]) -> None:
    """Writes histories (item indices, oldest first, of any lengths) as one npz file."""
    ends = np.cumsum([0, *map(len, histories)])
    np.savez(path, indptr=ends, items=np.concatenate([*histories, np.empty(0, np.int64)]).astype(np.int64))


def read_histories(path: str | Path) -> list[np.ndarray]:
    """Reads what `write_histories` wrote; each is int64 (L,)."""
    with np.load(path) as found:
        return np.split(found["items"], found["indptr"][1:-1])
