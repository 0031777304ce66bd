"""Search for settings on validation under a stated budget: a start, a grid walked key by key, then draws."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.baselines import GRIDS

NEAR = 0.15  # how far a draw beside the best goes, as a share of the range


@dataclass(frozen=True)
class Range:
    """The values that a setting may take.

    Attributes:
        low, high: Both ends, included.
        log: Draw evenly on a logarithmic scale.
        whole: Round to a whole number.
        choices: The only values, in place of two ends.
    """

    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    choices: tuple[Any, ...] = ()

    def draw(self, rng: np.random.Generator) -> Any:
        """A value from anywhere in the range."""
        if self.choices:
            return self.choices[int(rng.integers(len(self.choices)))]
        return self._value(rng.random())

    def near(self, value: Any, rng: np.random.Generator) -> Any:
        """A value beside another: a neighbouring choice or the same, or a normal step of `NEAR` of the range."""
        if self.choices:
            place = self.choices.index(value) if value in self.choices else int(rng.integers(len(self.choices)))
            return self.choices[int(np.clip(place + rng.integers(-1, 2), 0, len(self.choices) - 1))]
        ends = np.log([self.low, self.high]) if self.log else np.array([self.low, self.high])
        at = np.log(max(value, self.low)) if self.log else value
        return self._value(float(np.clip((at - ends[0]) / (ends[1] - ends[0]) + NEAR * rng.standard_normal(), 0, 1)))

    def words(self) -> str:
        """The range as a reader sees it: "1 to 100 (log)", "32, 64, 128"."""
        if self.choices:
            return ", ".join(f"{choice:g}" if isinstance(choice, float) else str(choice) for choice in self.choices)
        return f"{self.low:g} to {self.high:g}{' (log)' if self.log else ''}"

    def _value(self, share: float) -> Any:
        """The value at a share of the way from `low` to `high`, in three significant digits."""
        if self.log:
            found = float(np.exp(np.log(self.low) + share * (np.log(self.high) - np.log(self.low))))
        else:
            found = self.low + share * (self.high - self.low)
        return round(found) if self.whole else float(f"{found:.3g}")


Settings = dict[str, Any]
DECAY = Range(1, 100, log=True)
RANGES: dict[str, dict[str, Range]] = {
    "popularity": {},
    "itemknn": {
        "decay": DECAY,
        "alpha": Range(0.3, 1.0),
        "shrink": Range(0.3, 300, log=True),
        "neighbours": Range(choices=(50, 100, 200, 500)),
    },
    "ease": {"decay": DECAY, "l2": Range(3, 3000, log=True)},
    "ials": {
        "decay": DECAY,
        "unobserved": Range(0.003, 1, log=True),
        "l2": Range(0.0003, 0.3, log=True),
        "dim": Range(choices=(32, 64, 128)),
        "frequency": Range(0.0, 1.0),
    },
    "sasrec": {
        "dropout": Range(0.1, 0.6),
        "learning_rate": Range(0.0005, 0.01, log=True),
        "dim": Range(choices=(32, 64, 128)),
        "blocks": Range(choices=(1, 2, 3)),
        "batch_size": Range(choices=(32, 64, 128)),
        "scale": Range(8, 24),
    },
    "lightgcn": {
        "dropout": Range(0.0, 0.6),
        "learning_rate": Range(0.001, 0.02, log=True),
        "layers": Range(choices=(1, 2, 3)),
        "decay": DECAY,
        "dim": Range(choices=(32, 64, 128)),
    },
}
STUDENT_RANGES = {
    "dropout": Range(0.0, 0.6),
    "item_dropout": Range(0.0, 0.6),
    "scale": Range(8, 24),
    "fit.learning_rate": Range(0.0005, 0.01, log=True),
    "fit.epochs": Range(5, 25, whole=True),
    "fit.batch_size": Range(choices=(256, 512, 1024)),
}
# Walked first, key by key at the best of the others; the first value of each is where the search starts.
WALKS: dict[str, dict[str, list[Any]]] = {
    **GRIDS,
    "ials": {"decay": [10.0, 3.0], "unobserved": [0.1, 0.03], "l2": [0.003, 0.03]},
    "sasrec": {"dropout": [0.2, 0.45], "learning_rate": [0.005, 0.0015]},
    "lightgcn": {"dropout": [0.2, 0.4]},
}
SHARES = {"ials": 0.75, "sasrec": 0.35, "lightgcn": 0.35, "student_without_distillation": 0.35}  # of the budget


@dataclass(frozen=True)
class Trial:
    """Settings that were tried, what they were worth on validation, and how long it took."""

    settings: Settings
    quality: float
    seconds: float


def budget_of(name: str, trials: int) -> int:
    """How many trials a model gets of a budget: all where a fit is cheap, a third where it is a training."""
    return max(1, round(trials * SHARES.get(name, 1.0)))


def best_of(trials: Sequence[Trial]) -> Trial:
    """The trial that did best on validation; of equals the first."""
    return max(trials, key=lambda trial: trial.quality)


def propose(
    done: Sequence[Trial], start: Settings, ranges: Mapping[str, Range], walk: Mapping[str, list[Any]], seed: int
) -> Settings:
    """The next settings, which depend on the finished trials and the seed alone, so a stopped search goes on exactly.

    The start comes first, then the walk over the grid, then by turns a draw from the whole ranges and one beside the
    best so far.

    Args:
        done: Finished trials in order.
        start: Where the search starts; has a value for every key.
        ranges: By key.
        walk: By key the values of the grid, the first of which is the start's.
        seed: Decides the draws.
    """
    if not done:
        return dict(start)
    at = 1
    for key, values in walk.items():
        if len(done) < at + len(values) - 1:
            return {**best_of(done[:at]).settings, key: values[1 + len(done) - at]}
        at += len(values) - 1
    rng = np.random.default_rng([seed, len(done), zlib.crc32(" ".join(ranges).encode())])
    best = best_of(done).settings
    if (len(done) - at) % 2:
        return {key: spread.draw(rng) for key, spread in ranges.items()}
    return {key: spread.near(best[key], rng) for key, spread in ranges.items()}


def search(
    start: Settings,
    ranges: Mapping[str, Range],
    walk: Mapping[str, list[Any]],
    trials: int,
    quality: Callable[[int, Settings], float],
    seed: int = 0,
    seconds: float = 0.0,
    done: Sequence[Trial] = (),
    keep: Callable[[list[Trial]], None] = lambda trials: None,
) -> list[Trial]:
    """Tries settings until the budget is spent.

    Args:
        start, ranges, walk, seed: See `propose`.
        trials: Most trials; without ranges there is one.
        quality: Number of the trial and its settings to its figure on validation.
        seconds: No trial starts after this time over all trials; 0 for no limit. The first is always made.
        done: Trials of an earlier run that was stopped.
        keep: Called with all trials after each.

    Returns:
        All trials in order.
    """
    found = list(done)
    most = trials if ranges else 1
    while len(found) < most and not (found and seconds and sum(t.seconds for t in found) >= seconds):
        settings = propose(found, start, ranges, walk, seed)
        begin = time.perf_counter()
        value = quality(len(found), settings)
        found.append(Trial(settings, value, round(time.perf_counter() - begin, 2)))
        keep(found)
    return found
