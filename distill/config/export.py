"""Settings of the section `export`."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Export:
    """Which ONNX files are written, and how far they may be from the torch student.

    Attributes:
        variants: Stored forms: "fp32", "fp16", "int8", "int4", "pq", "kmeans", "pruned", "low_rank"; with "@32" the
            best 32 dimensions of the table, with "+dynamic" or "+static" int8 arithmetic in the layers.
        graphs: "top_k", and beside it "scores" (all scores) and "query" (the user vector, with the table as a file).
        calibration: Train histories by which roundings are calibrated; 0 rounds each number by itself.
        finetune_steps: Steps of training with the rounded table, for each variant that rounds to int8 or less and
            fails the gate; 0 for none.
        teacher: Export the teacher as well, for comparison.
        k: Length of the lists that the bundle gives by default.
        min_overlap: Least mean overlap of the top 10 with torch's (fp32: always 0.999).
        min_retention: Least share of torch's ndcg@10 on validation.
        min_tail_retention: The same for tail_ndcg@10 and tail_coverage@10, within two standard errors.
    """

    variants: list[str] = field(default_factory=lambda: ["fp32", "int8"])
    graphs: list[str] = field(default_factory=lambda: ["top_k"])
    calibration: int = 4096
    finetune_steps: int = 0
    teacher: bool = False
    k: int = 100
    min_overlap: float = 0.9
    min_retention: float = 0.98
    min_tail_retention: float = 0.9
