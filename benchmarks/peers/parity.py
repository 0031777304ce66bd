"""How two libraries' numbers are compared and printed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version

import numpy as np

TOLERANCE = 1e-9


@dataclass(frozen=True)
class Row:
    """One metric of one peer beside ours.

    Attributes:
        peer: Library and version.
        metric: The peer's name of it.
        ours: Ours, with the conversion where conventions differ.
        value: Mean over users by the peer.
        difference: Largest absolute difference, over users where the peer gives values a user.
    """

    peer: str
    metric: str
    ours: str
    value: float
    difference: float


def row(package: str, metric: str, ours: str, theirs: np.ndarray | float, mine: np.ndarray | float) -> Row:
    """Compares values a user (U,), or two numbers."""
    theirs, mine = np.atleast_1d(np.asarray(theirs, np.float64)), np.atleast_1d(np.asarray(mine, np.float64))
    return Row(f"{package} {version(package)}", metric, ours, float(theirs.mean()), float(np.abs(theirs - mine).max()))


def report(rows: list[Row]) -> int:
    """Prints a Markdown table and one JSON line; the exit code is 1 where a difference exceeds 1e-9."""
    print("| peer | its metric | ours | value | largest difference |\n|---|---|---|---|---|")
    for r in rows:
        print(f"| {r.peer} | {r.metric} | {r.ours} | {r.value:.6f} | {r.difference:.1e} |")
    print(json.dumps({"parity": [asdict(r) for r in rows]}))
    return int(any(r.difference > TOLERANCE for r in rows))


def of_users(values: dict[str, float], users: int, name: Callable[[int], str] = "u{}".format) -> np.ndarray:
    """A peer's values by user name as an array, (U,)."""
    return np.array([values[name(user)] for user in range(users)])
