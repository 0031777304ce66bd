"""Losses that align the student's context vectors with the teacher's profile of them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill.objectives.knowledge import Knowledge, Representation
from distill.objectives.vectors import hidden_of, require_hidden
from distill.soft.target import SoftTarget


def info_nce(student: Tensor, teacher: Tensor, temperature: float, user: Tensor | None = None) -> Tensor:
    """Mean over rows u of -log(e^{cos(z_u, e_u) / temperature} / sum_v e^{cos(z_u, e_v) / temperature}).

    Args:
        student: Vectors z (B, D).
        teacher: Vectors e (B, D), already mapped.
        temperature: Divides the cosines.
        user: Users (B,); other rows of the same user (0 and above) aren't counted as negatives.
    """
    cosine = functional.normalize(student, dim=-1) @ functional.normalize(teacher, dim=-1).T / temperature
    if user is not None:
        same = (user[:, None] == user[None, :]) & (user >= 0)[:, None]
        cosine = cosine.masked_fill(same.fill_diagonal_(False), -torch.inf)
    return (cosine.logsumexp(-1) - cosine.diagonal()).mean()


class ContrastiveAlignment(nn.Module):
    """A context's vector is to be nearer to the teacher's vector of it than to those of the batch's other contexts.

    `info_nce` of the student's vectors and an MLP of the teacher's.

    References:
        Ren et al. 2024, "Representation learning with large language models for recommendation" (RLMRec), eq. 8
        (RLMRec-Con).

    Requirements:
        A store with the teacher's vectors (`scores.hidden`). Batches of more than a few contexts.

    Inputs:
        representation: Uses `query`.
        target: Uses `hidden`, and `user`.

    Relations:
        Only directions count; `feature_fitnet` compares places.

    Example:
        >>> same = torch.eye(2)
        >>> round(float(info_nce(same, same, temperature=1.0)), 4)  # log(1 + 1/e)
        0.3133
    """

    def __init__(
        self, knowledge: Knowledge, temperature: float = 0.2, form: Literal["fixed", "paper"] = "fixed"
    ) -> None:
        """Makes the MLP, as wide as the mean of both sides.

        Args:
            knowledge: Gives the widths.
            temperature: Divides the cosines.
            form: "paper" takes every other row as a negative; "fixed" leaves out those of the same user, of which a
                batch of contexts has many.

        Raises:
            UserError: The store holds no vectors.
        """
        super().__init__()
        require_hidden(knowledge, "contrastive_alignment")
        middle = (knowledge.dim + knowledge.hidden) // 2
        self.map = nn.Sequential(nn.Linear(knowledge.hidden, middle), nn.LeakyReLU(), nn.Linear(middle, knowledge.dim))
        self.temperature, self.form = temperature, form

    def forward(self, representation: Representation, target: SoftTarget) -> Tensor:
        """The loss, a scalar."""
        teacher = self.map(hidden_of(target, representation.query, "contrastive_alignment"))
        user = target.user if self.form == "fixed" else None
        return info_nce(representation.query, teacher, self.temperature, user)


def guide_distance(student: Tensor, profile: Tensor) -> Tensor:
    """Mean over contexts and dimensions of the squared difference of (B, D) and (B, D)."""
    return (student - profile).square().mean()


class ProfileGuide(nn.Module):
    """In the first part of the training, the student's vector is led to a linear map of the teacher's profile.

    L = MSE(h_u, W e_u) until a share `until` of the training is done, then 0: the student goes on alone.

    References:
        "User-profile distillation", ECIR 2026: a language model's profile guides a sequential recommender in a first
        phase (12 epochs) only. There h is pooled from an inner layer; a student here shows its query alone.

    Requirements:
        A store with the teacher's vectors (`scores.hidden`).

    Inputs:
        representation: Uses `query`.
        target: Uses `hidden` and `progress`.

    Relations:
        `feature_fitnet` maps the other way, and goes on to the end. The paper's weight is 0.4.

    Example:
        >>> float(guide_distance(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 0.0]])))
        5.0
    """

    def __init__(self, knowledge: Knowledge, until: float = 0.3) -> None:
        """Makes W.

        Args:
            knowledge: Gives the widths.
            until: Share of the training.

        Raises:
            UserError: The store holds no vectors.
        """
        super().__init__()
        require_hidden(knowledge, "profile_guide")
        self.map = nn.Linear(knowledge.hidden, knowledge.dim)
        self.until = until

    def forward(self, representation: Representation, target: SoftTarget) -> Tensor:
        """The loss, a scalar; after the phase it is 0 times the distance, so that every parameter keeps a gradient."""
        profile = self.map(hidden_of(target, representation.query, "profile_guide"))
        return float(target.progress < self.until) * guide_distance(representation.query, profile)
