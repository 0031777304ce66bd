"""Settings of the section `benchmark`."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Latency:
    """The full latency benchmark: `distill benchmark CONFIG --only latency`."""

    calls: int = 10_000
    warmup: int = 200
    seconds: float = 8.0
    loads: list[float] = field(default_factory=lambda: [0.5, 0.7, 0.9])
    batches: list[int] = field(default_factory=lambda: [1, 8, 64, 256, 1024])
    catalogues: list[int] = field(default_factory=lambda: [100_000, 1_000_000])
    streams: list[str] = field(default_factory=lambda: ["uniform", "zipf"])
    peers: list[str] = field(default_factory=lambda: ["implicit", "faiss"])
    p99_bound_ms: float = 10.0
    core_hour_price: float = 0.04


@dataclass(frozen=True)
class Benchmark:
    """What is compared, and how it is timed."""

    baselines: list[str] = field(default_factory=lambda: ["popularity", "itemknn", "ease"])
    seeds: int = 1
    resamples: int = 1000
    latency_calls: int = 10_000
    teacher_latency_calls: int = 200
    live_seconds: float = 4.0
    latency: Latency = field(default_factory=Latency)
