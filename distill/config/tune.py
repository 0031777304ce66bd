"""Settings of the search for settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Tune:
    """`distill tune`: the same budget for the distilled student and for the one without distillation.

    Attributes:
        trials: Trainings of each of the two.
        seconds: After so many seconds of training one of the two gets no further trial; 0 for no limit.
        startup: Trials drawn at random before the sampler learns from them, and before any is stopped early.
        prune: Stop a trial whose validation figure is below the median of the others at the same evaluation.
        space: Setting to `{low, high, log}` or `{choices}`, laid over the student's own; null takes a setting out.
    """

    trials: int = 20
    seconds: float = 0.0
    startup: int = 5
    prune: bool = True
    space: dict[str, Any] = field(default_factory=dict)
