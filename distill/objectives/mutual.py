"""Two students that teach each other while both learn from the labels and the teacher's lists."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from distill.errors import UserError
from distill.objectives.hard import cross_entropy
from distill.objectives.knowledge import Knowledge, Representation
from distill.soft.target import SoftTarget
from distill.tensors import mask_seen


class Mutual(nn.Module):
    """Mutual distillation with a peer: a second student of the same kind, other seed, thrown away after training.

    L = KL(q_peer || q_student) + KL(q_student || q_peer) + CE(peer, label); in each KL the one that teaches gets no
    gradient, and q is the softmax over the unseen catalogue.

    References:
        Zhang et al. 2018, "Deep Mutual Learning", eq. 4 to 6; Kweon et al. 2021, "Bidirectional Distillation for Top-K
        Recommender System", where teacher and student play these two parts.

    Requirements:
        `knowledge.build`, which the training stage gives.

    Inputs:
        representation: Uses `history`, `seen` and `scores`.
        target: Uses `label`, for the peer.

    Relations:
        With a frozen peer it is self-distillation.

    Example:
        >>> import torch
        >>> fair, sure = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0]]).log()
        >>> round(float(kl(sure.clamp_min(-50.0), fair)), 4)  # log 2
        0.6931
    """

    def __init__(self, knowledge: Knowledge, peer_seed: int = 1000, peer_labels: float = 1.0) -> None:
        """Builds the peer.

        Args:
            knowledge: Gives the builder of students.
            peer_seed: Seed of the peer's first weights.
            peer_labels: Weight of the peer's own cross-entropy.
        """
        super().__init__()
        if knowledge.build is None:
            raise UserError("The loss mutual needs a builder of students; it can only be used in train-student.")
        self.peer: Any = knowledge.build(peer_seed)
        self.peer_labels = peer_labels

    def forward(self, representation: Representation, target: SoftTarget) -> Tensor:
        """The sum of both directions and the peer's own loss, a mean over contexts."""
        state, table = self.peer.encode(representation.history), self.peer.item_table()
        query = state[:, : table.shape[1]]
        scores = functional.linear(query, table, self.peer.item_bias()).float()
        if hasattr(self.peer, "all_corrections"):
            scores = scores + self.peer.all_corrections(state)
        scores = mask_seen(scores, representation.seen)
        both = kl(scores.detach(), representation.scores) + kl(representation.scores.detach(), scores)
        return both + self.peer_labels * cross_entropy(scores, target)


def kl(teacher: Tensor, student: Tensor) -> Tensor:
    """Mean over contexts of KL(softmax(teacher) || softmax(student)); both (B, N) with -inf at the same places."""
    masked = teacher.isinf()
    log_p = teacher.log_softmax(-1).masked_fill(masked, 0.0)
    log_q = student.log_softmax(-1).masked_fill(masked, 0.0)
    p = log_p.exp().masked_fill(masked, 0.0)
    return (p * (log_p - log_q)).sum(-1).mean()
