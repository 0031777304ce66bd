"""What a student must offer to be trained, exported and served."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor
from torch.nn import functional


@runtime_checkable
class Student(Protocol):
    """A history goes in, a vector comes out; items are rows of a table; the score is their dot product plus a bias.

    `encode` alone becomes the ONNX graph; the table and the bias are stored beside it and may be compressed. Histories
    are right-aligned and padded on the left with n_items.
    """

    n_items: int

    def encode(self, history: Tensor) -> Tensor:
        """Queries (B, D) for histories (B, L), int64."""

    def item_table(self) -> Tensor:
        """Item vectors (N, D), folded: what is multiplied with the query at serving time."""

    def item_bias(self) -> Tensor:
        """One number an item (N,)."""


def scores(student: Student, history: Tensor) -> Tensor:
    """Scores (B, N) over the catalogue for histories (B, L); seen items are not masked."""
    return functional.linear(student.encode(history), student.item_table(), student.item_bias())
