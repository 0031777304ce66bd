"""Listwise losses on a teacher's top K: one softmax over the catalogue, or one inside each popularity stratum."""

from __future__ import annotations

import torch
from torch import Tensor

from distill.errors import UserError
from distill.soft.target import SoftTarget

NOTHING = -1e30  # a score without weight in any softmax; finite, so that rows of nothing else stay free of nan


def listwise_kl(scores: Tensor, target: SoftTarget, sharpening: float = 2.0, rest: float = 0.2) -> Tensor:
    """Cross-entropy of the student against the teacher's sharpened top K plus one bucket for all other items.

    L = -(1 - r) sum_k p_k log q_k - r log(1 - sum_k q_k), with p = softmax(sharpening * t) over the teacher's top K, q
    the student's softmax over the whole catalogue, and r the mass of the rest.

    References:
        Hinton et al. 2015, "Distilling the knowledge in a neural network", section 2, for the softened softmax; the
        sharpened top K with a fixed rest is this project's (docs/distillation.md has the evidence).

    Requirements:
        Seen items masked with -inf in `scores`; the teacher's items are never seen ones.

    Inputs:
        scores: Student scores (B, N).
        target: Uses `items`, `scores`, and `logz` when `rest` is negative.
        sharpening: beta, an inverse temperature on the teacher's scores inside the top K.
        rest: Mass of the bucket; a negative number takes the teacher's own (1 minus the mass of its top K).

    Relations:
        Up to the teacher's entropy, which is constant, it is KL(teacher || student); the gradient is the same.

    Returns:
        The mean over contexts that the teacher answered.
    """
    items, teacher, valid = _teacher(target)
    log_q = scores.gather(1, items) - scores.logsumexp(-1, keepdim=True)
    log_q = log_q.masked_fill(~valid, 0.0)
    answered = valid.any(-1)
    p = torch.softmax((sharpening * teacher).masked_fill(~valid, NOTHING), -1)
    top_mass = (log_q.exp() * valid).sum(-1).clamp(max=1 - 1e-6)
    if rest < 0:
        inside = torch.logsumexp(teacher.masked_fill(~valid, NOTHING), -1)
        share = (1 - (inside - target.log_normaliser()).exp()).clamp(0, 1)
    else:
        share = torch.full_like(top_mass, rest)
    loss = -(1 - share) * (p * log_q).sum(-1) - share * torch.log1p(-top_mass)
    return (loss * answered).sum() / answered.sum().clamp_min(1)


def stratified_kl(scores: Tensor, target: SoftTarget, sharpening: float = 2.0) -> Tensor:
    """KL between teacher and student inside each popularity stratum of the teacher's top K, strata weighted equally.

    Inside a stratum popularity can't explain the order, so what is learned there is preference: the teacher's view of
    the tail isn't drowned by its view of the head.

    References:
        Chen et al. 2023, "Unbiased Knowledge Distillation for Recommendation" (UnKD), section 4, generalised from pairs
        to a softmax.

    Inputs:
        scores: Student scores (B, N).
        target: Uses `items`, `scores` and `strata`.
        sharpening: Inverse temperature on the teacher's scores.

    Relations:
        With one stratum it is the KL over the top K alone, without a rest.

    Returns:
        The mean over contexts that the teacher answered of the mean over strata that hold at least two of the top K;
        0 where there is none.
    """
    items, teacher, valid = _teacher(target)
    assert target.strata is not None
    groups = int(target.strata.max()) + 1
    group = target.strata[items].masked_fill(~valid, -1)
    member = group[:, None, :] == torch.arange(groups, device=group.device)[None, :, None]  # (B, G, K)
    student = scores.gather(1, items).masked_fill(~valid, 0.0)
    log_p = _log_softmax_within((sharpening * teacher).masked_fill(~valid, 0.0), member)
    log_q = _log_softmax_within(student, member)
    divergence = (log_p.exp() * (log_p - log_q) * member).sum(-1)  # (B, G)
    counted = member.sum(-1) >= 2
    per_context = (divergence * counted).sum(-1) / counted.sum(-1).clamp_min(1)
    return per_context.sum() / valid.any(-1).sum().clamp_min(1)


def _log_softmax_within(values: Tensor, member: Tensor) -> Tensor:
    """Log-softmax of (B, K) inside each group of (B, G, K); 0 outside the group."""
    spread = values[:, None, :].masked_fill(~member, NOTHING)
    return torch.where(member, spread - spread.logsumexp(-1, keepdim=True), 0.0)


def _teacher(target: SoftTarget) -> tuple[Tensor, Tensor, Tensor]:
    if target.items is None or target.scores is None:
        raise UserError(
            "The losses listwise_kl and stratified_kl need a teacher's scores; 'control_losses' trains without a "
            "teacher. Move them to 'losses'."
        )
    valid = target.items >= 0
    return target.items.clamp_min(0), target.scores.float(), valid
