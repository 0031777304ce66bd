"""The graph of a student that scores the whole catalogue by itself, such as one of neighbour lists.

    history (B, L) -> catalogue_scores (B, N) -> seen items to -inf -> TopK -> ids, scores (B, k)

There is no query, and no item table that could be searched by other means.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import onnx
import torch
from onnx import helper
from torch import Tensor, nn

from distill.errors import UserError
from distill.export.encoder import traced
from distill.export.graph import assemble
from distill.export.storage import store_encoder
from distill.export.variants import parse


class Catalogue(Protocol):
    """What export asks of such a student (see students.protocol.CatalogueStudent for shapes)."""

    n_items: int

    def catalogue_scores(self, history: Tensor) -> Tensor:
        """Scores (B, N) for histories (B, L)."""


class _Scores(nn.Module):
    """`catalogue_scores` as a forward, which is what the exporter traces."""

    def __init__(self, student: Catalogue) -> None:
        super().__init__()
        self.student = student

    def forward(self, history: Tensor) -> Tensor:
        return self.student.catalogue_scores(history)


def catalogue_graphs(student: Catalogue, variants: Sequence[str], max_length: int) -> dict[str, onnx.ModelProto]:
    """The graphs of all wanted variants; as `graph.build_graphs`, but for the output `query`, which isn't there.

    Args:
        student: In evaluation mode.
        variants: Stored forms; a width ("int8@32") or integer layers ("int8+static") make no sense here.
        max_length: Longest history that the student is asked about.

    Raises:
        UserError: A variant is unknown or makes no sense, or the student can't be exported.
    """
    wanted = {word: parse(word, student.n_items) for word in variants}
    for word, variant in wanted.items():
        if variant.rank or variant.arithmetic or variant.form.table.__module__.endswith("codebooks"):
            raise UserError(
                f"'export.variants' holds '{word}', but {type(student).__name__} has no vectors that could be narrowed "
                "or shared, and no layers. Take fp32, fp16, int8 or int4."
            )
    graphs = {}
    scorer = _trace_scores(student, max_length)
    for word, variant in wanted.items():
        small = store_encoder(scorer, student.n_items, variant.table, variant.form.matrix, {}, {})
        head = helper.make_node("Pad", ["query", "last_column", "never"], ["all_scores"])  # -inf for padding
        model = assemble(small, ([head], {"last_column": np.array([0, 0, 0, 1], np.int64)}))
        outputs = [output for output in model.graph.output if output.name != "query"]
        del model.graph.output[:]
        model.graph.output.extend(outputs)
        onnx.checker.check_model(model)
        graphs[word] = model
    return graphs


def _trace_scores(student: Catalogue, max_length: int) -> onnx.ModelProto:
    longest = max(2, max_length)
    example = torch.full((2, min(longest, 8)), student.n_items, dtype=torch.int64)
    example[:, -2:] = 0
    sizes = {"history": {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=longest)}}
    return traced(student, _Scores(student), {"history": example}, sizes, "query", "user.")
