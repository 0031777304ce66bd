"""Distillation of item vectors after a low-pass filter on the item graph (FreqD)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distill.errors import UserError
from distill.objectives.knowledge import Knowledge, Representation
from distill.objectives.vectors import draw_rows, feature_distance, item_vectors
from distill.soft.target import SoftTarget


class FeatureFrequency(nn.Module):
    """FitNet on item vectors after a filter that lets through what neighbours in the item graph share.

    L = |P(H e_s) - H e_t|^2 / d, a mean over drawn items; H = alpha A + (1 - alpha) I, A the normalised adjacency
    D^-1/2 W D^-1/2 of the graph of items that follow each other.

    References:
        Zhu and Zhang 2024, "Exploring feature-based knowledge distillation for recommender system: a frequency
        perspective" (FreqD), with its one-hop filter.

    Requirements:
        A teacher with item vectors, and pairs of items that follow each other in train sequences.

    Inputs:
        representation: Uses `table`.

    Relations:
        With alpha=0 it is `FeatureFitnet` on the items, without its bias.

    Example:
        >>> pairs = torch.tensor([[0], [1]])
        >>> graph_filter(pairs, torch.ones(1), torch.tensor([[1.0], [0.0], [5.0]]), alpha=0.5).tolist()
        [[0.5], [0.5], [2.5]]
    """

    rows: Tensor
    weights: Tensor
    filtered: Tensor

    def __init__(self, knowledge: Knowledge, alpha: float = 0.2, samples: int = 512) -> None:
        """Filters the teacher's vectors, once.

        Args:
            knowledge: Gives item vectors and pairs.
            alpha: Weight of the neighbours; 0.5 and less keeps every eigenvalue of H at 0 or above.
            samples: Items drawn for each batch; 0 takes all.

        Raises:
            UserError: The teacher has no item vectors, or there are no pairs.
        """
        super().__init__()
        vectors = item_vectors(knowledge, "feature_frequency")
        if knowledge.pairs is None or knowledge.pair_counts is None or not knowledge.pairs.numel():
            raise UserError(
                "The loss feature_frequency filters over items that follow each other in train sequences, and there is "
                "no such pair. Train it in train-student, on data in which users have two events and more."
            )
        self.alpha, self.samples = alpha, samples
        rows, weights = adjacency(knowledge.pairs, knowledge.pair_counts, knowledge.n_items)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("weights", weights, persistent=False)
        self.register_buffer("filtered", _filter(rows, weights.to(vectors.dtype), vectors, alpha), persistent=False)
        self.map = nn.Linear(knowledge.dim, vectors.shape[1], bias=False)

    def forward(self, representation: Representation, target: SoftTarget) -> Tensor:
        """The loss, a scalar."""
        table = representation.table
        student = _filter(self.rows, self.weights.to(table.dtype), table, self.alpha)
        chosen = draw_rows(len(table), self.samples, table.device)
        return feature_distance(self.map(student[chosen]), self.filtered[chosen])


def graph_filter(pairs: Tensor, counts: Tensor, vectors: Tensor, alpha: float) -> Tensor:
    """alpha A + (1 - alpha) I times vectors (N, D), A the normalised adjacency of the weighted pairs (2, E)."""
    rows, weights = adjacency(pairs, counts, len(vectors))
    return _filter(rows, weights.to(vectors.dtype), vectors, alpha)


def adjacency(pairs: Tensor, counts: Tensor, n_items: int) -> tuple[Tensor, Tensor]:
    """D^-1/2 W D^-1/2 of the undirected graph, as places (2, F) and weights (F,), sorted, each place once."""
    both = torch.sparse_coo_tensor(
        torch.cat([pairs, pairs.flip(0)], 1),
        torch.cat([counts, counts]).double(),
        (n_items, n_items),
        check_invariants=False,
    ).coalesce()
    rows, weights = both.indices(), both.values()
    degree = torch.zeros(n_items, dtype=weights.dtype, device=weights.device).index_add(0, rows[0], weights)
    scale = degree.clamp_min(1e-12).rsqrt()
    return rows, (weights * scale[rows[0]] * scale[rows[1]]).float()


def _filter(rows: Tensor, weights: Tensor, vectors: Tensor, alpha: float) -> Tensor:
    """An isolated item keeps its (1 - alpha) part alone."""
    n_items = len(vectors)
    matrix = torch.sparse_coo_tensor(rows, weights, (n_items, n_items), is_coalesced=True, check_invariants=False)
    return alpha * torch.sparse.mm(matrix, vectors) + (1 - alpha) * vectors
