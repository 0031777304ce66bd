"""EASE, the closed-form item-item autoencoder, with recency decay."""

from __future__ import annotations

import torch

from distill.errors import UserError
from teachers.closed_form import ItemItem, interaction_matrix
from teachers.protocol import Inputs

MAX_ITEMS = 30_000


class Ease(ItemItem):
    """B = I - P / diag(P), P = (X'X + l2 I)^-1, zero diagonal; the score is the decayed history times B.

    X holds the events' weights where `data.weight` gave them any, else 1.

    References:
        Steck 2019, "Embarrassingly shallow autoencoders for sparse data", eq. 8. The recency decay on the history is
        this project's; without it EASE is a straw man on sequential data.
    """

    def __init__(self, l2: float = 100.0, decay: float = 4.0, floor: float = 0.003) -> None:
        """Settings.

        Args:
            l2: Ridge strength; larger for sparser or larger data.
            decay: Time constant of the history's recency decay, in items.
            floor: Added before the logarithm, so that items without evidence differ from impossible ones.
        """
        self.l2, self.decay, self.floor = l2, decay, floor

    def prepare(self, inputs: Inputs) -> None:
        """Inverts the Gram matrix (N, N): memory 4 N^2 bytes twice, time N^3."""
        n_items = inputs.dataset.n_items
        if n_items > MAX_ITEMS:
            raise UserError(
                f"ease: the catalogue has {n_items:,} items and EASE inverts a dense matrix of that side (limit "
                f"{MAX_ITEMS:,}). Use the member 'itemknn' instead, or filter items with data.min_item_events."
            )
        matrix = interaction_matrix(inputs.dataset, weighted=True)
        gram = torch.from_numpy((matrix.T @ matrix).toarray())
        gram.diagonal().add_(self.l2)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
        table = -inverse / inverse.diagonal()
        table.fill_diagonal_(0.0)
        self.table = table
