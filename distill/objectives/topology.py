"""Distillation of a space's shape: which contexts are alike, not where they lie."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill.objectives.knowledge import Knowledge, Representation
from distill.objectives.vectors import hidden_of, require_hidden
from distill.soft.target import SoftTarget


def topology_distance(student: Tensor, teacher: Tensor, group: Tensor, alpha: float) -> Tensor:
    """How far two spaces differ in shape, on two levels.

    alpha * mean over (g, i) of (cos(P_g, h_i) - cos'(P'_g, h'_i))^2
    + (1 - alpha) * mean over pairs i != j of one group of (cos(h_i, h_j) - cos'(h'_i, h'_j))^2,
    P_g the mean vector of group g; plain is the student's, ' the teacher's.

    Args:
        student: Vectors (B, D).
        teacher: Vectors (B, H); no gradient flows into them.
        group: Group of each row, int64 (B,).
        alpha: Share of the first level.
    """
    teacher = teacher.detach()
    groups = int(group.max()) + 1
    member = functional.one_hot(group, groups).to(student.dtype)  # (B, G)
    filled = member.sum(0) > 0
    difference = _cosine(_prototypes(student, member), student) - _cosine(_prototypes(teacher, member), teacher)
    between = (difference.square() * filled[:, None]).sum() / (filled.sum() * len(group))
    same = (group[:, None] == group[None, :]).fill_diagonal_(False)
    inside = ((_cosine(student, student) - _cosine(teacher, teacher)).square() * same).sum() / same.sum().clamp_min(1)
    return alpha * between + (1 - alpha) * inside


def anchor_groups(teacher: Tensor, groups: int) -> Tensor:
    """Groups of a batch (B,): each row goes to the nearest, by cosine, of `groups` rows drawn as anchors."""
    anchors = torch.randperm(len(teacher), device=teacher.device)[:groups]
    return _cosine(teacher, teacher[anchors]).argmax(-1)


class Topology(nn.Module):
    """Hierarchical topology distillation: cosines within groups of a batch, and from groups to contexts.

    `topology_distance` has the formula.

    References:
        Kang et al. 2021, "Topology Distillation for Recommender System" (HTD), eq. 7 to 11. There groups are learned
        along; here they are one step of k-means in the teacher's space, anew for each batch, which needs no parameters
        and can't collapse.

    Requirements:
        A store with the teacher's vectors (`scores.hidden`). Anchors come from torch's global generator.

    Inputs:
        representation: Uses `query`.
        target: Uses `hidden`.

    Relations:
        With groups=1 and alpha=0 it is full topology distillation (FTD). Vectors may have any two widths: no map is
        learned, unlike in `feature_fitnet`.

    Example:
        >>> rotated = torch.tensor([[0.0, 2.0], [-2.0, 0.0]])  # by a right angle, and scaled: the same shape
        >>> float(topology_distance(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), rotated, torch.tensor([0, 0]), 0.5))
        0.0
    """

    def __init__(self, knowledge: Knowledge, groups: int = 30, alpha: float = 0.5) -> None:
        """Keeps the settings.

        Args:
            knowledge: Says whether the store holds vectors.
            groups: Anchors a batch.
            alpha: Share of the level between groups.

        Raises:
            UserError: The store holds no vectors.
        """
        super().__init__()
        require_hidden(knowledge, "topology")
        self.groups, self.alpha = groups, alpha

    def forward(self, representation: Representation, target: SoftTarget) -> Tensor:
        """The loss, a scalar."""
        teacher = hidden_of(target, representation.query, "topology")
        return topology_distance(representation.query, teacher, anchor_groups(teacher, self.groups), self.alpha)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosines (A, B) of the rows of (A, D) and (B, D)."""
    return functional.normalize(a, dim=-1) @ functional.normalize(b, dim=-1).T


def _prototypes(vectors: Tensor, member: Tensor) -> Tensor:
    """Mean vector of each group (G, D)."""
    return (member.T @ vectors) / member.sum(0)[:, None].clamp_min(1)
