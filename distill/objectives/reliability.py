"""How much each of the teacher's items can be trusted."""

from __future__ import annotations

import torch
from torch import Tensor

from distill.objectives.candidates import NOTHING, contains, student_top, teacher_list
from distill.soft.target import SoftTarget


def reliability(
    scores: Tensor,
    target: SoftTarget,
    position: float = 0.3,
    confidence: float = 0.5,
    overlap: float = 0.1,
    beta: float = 1.0,
    top: int = 0,
) -> Tensor:
    """Weights of the teacher's items, to be used as `SoftTarget.weights`.

    w_k is proportional to position * e^(-k / beta) + confidence * p_k + overlap * 1[item in the student's top]; k is
    the teacher's rank from 1, p_k its probability of the item (e^(t - logz), or the softmax over its list without
    logz). An item that the teacher ranks first, is sure of, or that the student finds as well, counts for more.

    References:
        Cui et al. 2024, "Distillation matters: empowering sequential recommenders to match the performance of large
        language models" (DLLM2Rec), section 3.2. In its public code the weights of the samples are lost in a broadcast.

    Args:
        scores: Student scores (B, N), seen items masked with -inf; no gradient flows into them.
        target: Uses `items`, `scores` and `logz`.
        position, confidence, overlap: The three parts' coefficients, gamma.
        beta: Decay of the first part, in ranks.
        top: Length of the student's list; 0 takes that of the teacher's.

    Returns:
        Weights (B, K) with mean 1 over the batch's items; 0 where there is none.

    Raises:
        UserError: The target has no teacher.

    Example:
        >>> target = SoftTarget(torch.tensor([0]), torch.tensor([[0, 1]]), torch.tensor([[3.0, 1.0]]))
        >>> weights = reliability(torch.tensor([[0.0, 1.0, 2.0]]), target, position=1.0, confidence=0.0, overlap=0.0)
        >>> [round(w, 3) for w in weights[0].tolist()]  # 2 / (1 + 1/e), and what is left
        [1.462, 0.538]
    """
    scores = scores.detach()
    given = teacher_list(scores, target, "with a gate")
    parts = position * torch.exp(-given.rank.to(scores.dtype) / beta).expand_as(given.teacher)
    if confidence:
        if target.logz is None or 1.0 not in target.temperatures:
            p = given.teacher.masked_fill(~given.valid, NOTHING).softmax(-1)
        else:
            p = (given.teacher - target.log_normaliser().to(scores.dtype)[:, None]).exp().clamp_max(1.0)
        parts = parts + confidence * p
    if overlap:
        best, usable = student_top(scores, top or given.items.shape[1])
        if not top:  # the list's own length, however far it is padded
            places = torch.arange(best.shape[1], device=best.device)
            usable = usable & (places < given.valid.sum(-1, keepdim=True))
        parts = parts + overlap * contains(scores.shape[1], best, usable, given.items)
    parts = torch.where(given.valid, parts, 0.0)
    mean = parts.sum() / given.valid.sum().clamp_min(1)
    return parts / mean.clamp_min(1e-12)
