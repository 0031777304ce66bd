"""Item-based nearest neighbours with recency decay."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse

from teachers.closed_form import ItemItem, interaction_matrix
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
        together = (matrix.T @ matrix).tocoo()
        count = np.asarray(matrix.multiply(matrix).sum(0)).ravel()
        denominator = (count[together.row] * count[together.col]) ** self.alpha + self.shrink
        values = np.where(together.row == together.col, 0.0, together.data / denominator).astype(np.float32)
        dense = sparse.csr_matrix((values, (together.row, together.col)), shape=together.shape).toarray()
        table = torch.from_numpy(dense)
        if self.neighbours < table.shape[1]:
            least = table.topk(self.neighbours, dim=1).values[:, -1:]
            table = torch.where(table >= least, table, 0.0)
        self.table = table / table.max().clamp_min(1e-12)
