"""Settings of the section `benchmark`."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Benchmark:
    """What is compared, and how it is timed."""

    baselines: list[str] = field(default_factory=lambda: ["popularity", "itemknn", "ease"])
    seeds: int = 1
    resamples: int = 1000
    latency_calls: int = 2000
    teacher_latency_calls: int = 200
