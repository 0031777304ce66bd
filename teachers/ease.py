"""EASE, the closed-form item-item autoencoder, with recency decay."""

from __future__ import annotations

from distill.closed_form.interactions import interaction_matrix
from distill.closed_form.item_item import ease_table
from teachers.closed_form import ItemItem
from teachers.protocol import Inputs


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
        self.table = ease_table(interaction_matrix(inputs.dataset, weighted=True), self.l2)
