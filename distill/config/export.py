"""Settings of the section `export`."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Export:
    """Which ONNX variants are written, and how far they may be from the torch student.

    Attributes:
        variants: "fp32", "int8".
        k: Length of the lists that the bundle gives by default.
        min_overlap: Least mean overlap of the top 10 with torch's (fp32: always 0.999).
        min_retention: Least share of torch's ndcg@10 on validation.
        min_tail_retention: The same for tail_ndcg@10 and tail_coverage@10, within two standard errors.
    """

    variants: list[str] = field(default_factory=lambda: ["fp32", "int8"])
    k: int = 100
    min_overlap: float = 0.9
    min_retention: float = 0.98
    min_tail_retention: float = 0.9
