"""Which graph a student gets: by a dot product, in two stages, or by its own scores of the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from distill.export.catalogue_graph import catalogue_graphs
from distill.export.graph import build_graphs
from distill.export.rerank_graph import rerank_graphs


def is_pairwise(student: Any) -> bool:
    """Whether it corrects what a dot product retrieves."""
    return hasattr(student, "correction")


def is_plain(student: Any) -> bool:
    """Whether its scores are dot products and biases, and nothing else."""
    return not is_pairwise(student) and not hasattr(student, "catalogue_scores")


def student_graphs(
    student: Any, variants: Sequence[str], max_length: int, histories: np.ndarray | None = None
) -> dict[str, onnx.ModelProto]:
    """The graphs of all wanted variants of any student; arguments and results as in `graph.build_graphs`.

    Raises:
        UserError: A variant is unknown or doesn't fit the student, or the student can't be exported.
    """
    if hasattr(student, "catalogue_scores"):
        return catalogue_graphs(student, variants, max_length)
    if is_pairwise(student):
        return rerank_graphs(student, variants, max_length, histories)
    return build_graphs(student, variants, max_length, histories)


def width(student: Any) -> int:
    """Dimensions of its item vectors; 0 where it has none."""
    return 0 if hasattr(student, "catalogue_scores") else int(student.item_table().shape[1])
