"""What losses on vectors share: the pairs that they compare, and what they say where the teacher has none."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from distill.errors import UserError
from distill.objectives.knowledge import Knowledge, Representation
from distill.soft.target import SoftTarget

Side = Literal["contexts", "items"]


def feature_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over rows of |student - teacher|^2 / width; (R, T) both, no gradient into the teacher's."""
    return (student - teacher.detach().to(student.dtype)).square().mean(-1).mean()


class Pair(nn.Module):
    """The vectors of both sides that a loss compares: contexts of the batch, or drawn items."""

    vectors: Tensor | None

    def __init__(self, knowledge: Knowledge, side: Side, samples: int, loss: str) -> None:
        """Checks that the teacher's are there.

        Raises:
            UserError: They aren't; the setting that mends it is named.
        """
        super().__init__()
        self.side, self.samples, self.loss = side, samples, loss
        if side == "items":
            vectors = item_vectors(knowledge, loss)
            self.width = vectors.shape[1]
            self.register_buffer("vectors", vectors, persistent=False)
        else:
            require_hidden(knowledge, loss)
            self.width = knowledge.hidden

    def forward(self, representation: Representation, target: SoftTarget) -> tuple[Tensor, Tensor]:
        """Student's (R, D) and teacher's (R, T); the latter without a gradient."""
        if self.side == "contexts":
            return representation.query, hidden_of(target, representation.query, self.loss)
        assert self.vectors is not None
        table = representation.table
        chosen = draw_rows(len(table), self.samples, table.device)
        return table[chosen], self.vectors[chosen].to(table.dtype)


def require_hidden(knowledge: Knowledge, loss: str) -> None:
    """Raises UserError where the store holds no vectors of the teacher for `loss`."""
    if not knowledge.hidden:
        raise UserError(
            f"The loss {loss} compares vectors of contexts, and the store holds none of the teacher's. Set "
            "'scores.hidden' to a member that has them (such as the text_tower) and run: distill score-teacher CONFIG"
        )


def item_vectors(knowledge: Knowledge, loss: str) -> Tensor:
    """The teacher's item vectors (N, T).

    Raises:
        UserError: It has none.
    """
    if knowledge.item_vectors is None:
        raise UserError(
            f"The loss {loss} compares item vectors, and this teacher has none. Add a member that has, such as "
            "text_tower or text_space, to 'teacher.members'."
        )
    return knowledge.item_vectors.detach()


def hidden_of(target: SoftTarget, like: Tensor, loss: str) -> Tensor:
    """The teacher's vectors of the batch (B, H), in the type of `like`, without a gradient.

    Raises:
        UserError: This batch has none.
    """
    if target.hidden is None:
        raise UserError(
            f"The loss {loss} compares vectors of contexts, and its teacher gave none. Set 'scores.hidden' to a member "
            "that has them (such as the text_tower) and run: distill score-teacher CONFIG"
        )
    return target.hidden.detach().to(like.dtype)


def draw_rows(count: int, samples: int, device: torch.device) -> Tensor:
    """Different numbers below `count`, from torch's global generator; 0 samples takes all."""
    if 0 < samples < count:
        return torch.randperm(count, device=device)[:samples]
    return torch.arange(count, device=device)
