"""What a student must offer to be trained, exported and served."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor
from torch.nn import functional

from distill.data.dataset import Dataset
from distill.tensors import query_of


@runtime_checkable
class Student(Protocol):
    """A history goes in, a vector comes out; items are rows of a table; the score is their dot product plus a bias.

    `encode` alone becomes the ONNX graph; the table and the bias are stored beside it and may be compressed. Histories
    are right-aligned and padded on the left with n_items.

    A student may offer more:

    - `user_vectors(users)`: what is added to the queries of known users, see `distill.tensors.query_of`;
    - `attach(dataset)`, called once before training: what it takes from the train part, such as a graph;
    - `served_state()`, called once after training: the weights to save, such as tables with the graph worked in, which
      a student that is built anew without text vectors can load.
    """

    n_items: int

    def encode(self, history: Tensor) -> Tensor:
        """Queries (B, D) for histories (B, L), int64."""

    def item_table(self) -> Tensor:
        """Item vectors (N, D), folded: what is multiplied with the query at serving time."""

    def item_bias(self) -> Tensor:
        """One number an item (N,)."""


@runtime_checkable
class PairwiseStudent(Protocol):
    """A student that looks at a history and an item together: dot product plus bias plus a correction of the pair.

    `encode` gives states (B, S), whose first D numbers are the query of the dot product. At serving the `candidates`
    best by dot product are retrieved, and they alone are corrected and ranked again.
    """

    n_items: int
    candidates: int

    def encode(self, history: Tensor) -> Tensor:
        """States (B, S) for histories (B, L), int64; S is D or more."""

    def item_table(self) -> Tensor:
        """Item vectors (N, D), folded."""

    def item_bias(self) -> Tensor:
        """One number an item (N,)."""

    def correction(self, state: Tensor, items: Tensor) -> Tensor:
        """What is added (B, C) to the scores of items (B, C), int64."""

    def all_corrections(self, state: Tensor) -> Tensor:
        """The same for the whole catalogue (B, N)."""


@runtime_checkable
class CatalogueStudent(Protocol):
    """A student whose scores are no dot products of small vectors, such as a sum of neighbour lists."""

    n_items: int

    def catalogue_scores(self, history: Tensor) -> Tensor:
        """Scores (B, N) for histories (B, L), int64."""


@runtime_checkable
class ClosedFormStudent(Protocol):
    """A student of any of the forms above that is solved, not trained: without losses, teacher or control."""

    def fit_closed_form(self, dataset: Dataset, seed: int = 0) -> None:
        """Solves for everything that the state dict holds, from the train part."""


def scores(student: Any, history: Tensor, users: Tensor | None = None) -> Tensor:
    """Scores (B, N) over the catalogue for histories (B, L) of users (B,); seen items are not masked.

    Users, -1 for an unknown one, matter to students with a user side alone.
    """
    if isinstance(student, CatalogueStudent):
        return student.catalogue_scores(history)
    state, table = query_of(student, history, users), student.item_table()
    found = functional.linear(state[:, : table.shape[1]], table, student.item_bias())
    return found + student.all_corrections(state) if isinstance(student, PairwiseStudent) else found


def two_stage_scores(student: PairwiseStudent, history: Tensor, seen: Tensor) -> Tensor:
    """As `scores`, but -inf for items that retrieval doesn't find: what an exported file ranks.

    Args:
        student: In evaluation mode.
        history: Histories (B, L).
        seen: Items that are never listed (B, S), padded with N or more.
    """
    state, table = student.encode(history), student.item_table()
    retrieved = functional.linear(state[:, : table.shape[1]], table, student.item_bias())
    hidden = functional.pad(retrieved, (0, 1)).scatter(1, seen.clamp_max(student.n_items), -float("inf"))[:, :-1]
    items = hidden.topk(min(student.candidates, student.n_items), dim=1).indices
    corrected = hidden.gather(1, items) + student.correction(state, items)
    return hidden.fill_(-float("inf")).scatter(1, items, corrected)
