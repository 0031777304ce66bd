"""Item-based nearest neighbours with recency decay."""

from __future__ import annotations

import torch

from distill.closed_form.interactions import interaction_matrix
from distill.closed_form.item_item import similarities
from teachers.closed_form import ItemItem
from teachers.protocol import Inputs


class ItemKNN(ItemItem):
    """s_ij = c_ij / ((n_i n_j)^alpha + shrink), c the co-occurrence, n the popularity, the top neighbours kept.

    With weighted events (`data.weight`) c_ij sums the products of the weights and n_i their squares.

    References:
        Deshpande & Karypis 2004, "Item-based top-N recommendation algorithms", section 4, with alpha as the exponent
        (0.5 is cosine) and a shrink term against chance co-occurrence.
    """

    def __init__(
        self, alpha: float = 0.75, shrink: float = 10.0, neighbours: int = 200, decay: float = 4.0, floor: float = 0.003
    ) -> None:
        """Settings.

        Args:
            alpha: Exponent of the popularity normalisation.
            shrink: Added to the denominator.
            neighbours: Neighbours kept an item.
            decay: Time constant of the history's recency decay, in items.
            floor: Added before the logarithm.
        """
        self.alpha, self.shrink, self.neighbours = alpha, shrink, neighbours
        self.decay, self.floor = decay, floor

    def prepare(self, inputs: Inputs) -> None:
        """Counts co-occurrences on train and normalises them."""
        matrix = interaction_matrix(inputs.dataset, weighted=True)
        table = torch.from_numpy(similarities(matrix, self.alpha, self.shrink).toarray())
        if self.neighbours < table.shape[1]:
            least = table.topk(self.neighbours, dim=1).values[:, -1:]
            table = torch.where(table >= least, table, 0.0)
        self.table = table / table.max().clamp_min(1e-12)
