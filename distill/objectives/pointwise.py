"""Pointwise losses: each item of the teacher's list by itself."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from distill.objectives import candidates
from distill.objectives.candidates import (
    TeacherList,
    draw_negatives,
    draw_places,
    estimated_rank,
    mean_over,
    teacher_list,
)
from distill.soft.target import SoftTarget


def soft_bce(
    scores: Tensor,
    target: SoftTarget,
    temperature: float = 2.0,
    samples: int = 30,
    sampling: Literal["uniform", "rank", "discrepancy"] = "uniform",
    spread: float = 20.0,
    epsilon: float = 0.01,
    rank_samples: int = 128,
    negatives: int = 30,
    standardise: bool = True,
) -> Tensor:
    """Binary cross-entropy of each candidate against the teacher's softened yes.

    L = mean over i in C of BCE-with-logits(s_i, sigmoid(t_i / temperature)). C is a draw from the teacher's list, and
    uniform others.

    References:
        Hinton et al. 2015, section 2; Lee et al. 2019, "Collaborative Distillation for Top-N Recommendation"
        (rank-aware sampling); Kweon et al. 2021, "Bidirectional Distillation for Top-K Recommender System"
        (discrepancy).

    Requirements:
        Seen items masked with -inf in `scores`. Draws come from torch's global generator.

    Inputs:
        scores: Student scores (B, N).
        target: Uses `items`, `scores`, `weights` (they multiply the listed items' terms), and for the negatives' scores
            what `score_of` finds.
        temperature: 2 in Collaborative Distillation, 5 in Bidirectional Distillation.
        samples: S, candidates drawn without replacement from the teacher's list; 0 takes all.
        sampling: "uniform"; "rank" draws with p proportional to exp(-rank / (S * spread)); "discrepancy" with
            tanh(max(epsilon * (student's rank - teacher's rank), 0)), so only items that the student ranks too low.
        spread: T of "rank".
        epsilon: Of "discrepancy".
        rank_samples: Items from which the student's rank is estimated; 0 counts it.
        negatives: Uniform items outside the list, a context; 0 for none.
        standardise: Scale the teacher's scores to mean 0 and deviation 1 over list and negatives. Raw log-probabilities
            are all negative: without this every answer is a no.

    Relations:
        With a teacher of +-infinity it is `bce`.

    Returns:
        The mean over contexts that have a candidate.

    Example:
        >>> target = SoftTarget(torch.tensor([0]), torch.tensor([[0, 1]]), torch.tensor([[3.0, 1.0]]))
        >>> settings = {"samples": 0, "negatives": 0, "temperature": 1.0}
        >>> round(float(soft_bce(torch.tensor([[1.0, -1.0, 0.0]]), target, **settings)), 4)  # entropy of sigmoid(1)
        0.5822
    """
    given = teacher_list(scores, target, "soft_bce")
    drawn, usable = draw_negatives(scores, negatives, given.items, given.valid)
    everyone = torch.cat([given.valid, usable], 1)
    teacher = torch.cat([given.teacher, target.score_of(drawn, given.unseen).to(scores.dtype)], 1)
    if standardise:
        teacher = candidates.standardise(teacher, everyone)
    listed = given.valid.shape[1]
    log_weights = _sampling_weights(scores, given, sampling, samples * spread, epsilon, rank_samples)
    place, chosen = draw_places(log_weights, samples)
    student = torch.cat([given.student.gather(1, place), scores.gather(1, drawn)], 1)
    used = torch.cat([chosen, usable], 1)
    answer = torch.sigmoid(torch.cat([teacher[:, :listed].gather(1, place), teacher[:, listed:]], 1) / temperature)
    weights = torch.cat([given.weights.gather(1, place), torch.ones_like(drawn, dtype=scores.dtype)], 1)
    answer, student = answer.masked_fill(~used, 0.5), student.masked_fill(~used, 0.0)
    terms = weights * binary_cross_entropy_with_logits(student, answer, reduction="none")
    return mean_over(candidates.mean_within(terms, used), given.answered & used.any(-1))


def rank_distillation(
    scores: Tensor,
    target: SoftTarget,
    top: int = 10,
    decay: float = 1.0,
    discrepancy: float = 0.1,
    warmup: float = 0.1,
    samples: int = 100,
    form: Literal["fixed", "paper"] = "fixed",
) -> Tensor:
    """The teacher's best items as further positives, the more so the lower the student ranks them.

    L = sum_k w_k softplus(-s_{i_k}) over the teacher's top K, w_k = e^{-k/decay} / sum. After a warm-up it is
    multiplied by max(tanh(discrepancy * (r_k - k)), 0), r_k the student's rank of the item.

    References:
        Tang and Wang 2018, "Ranking Distillation: Learning compact ranking models with high performance for recommender
        systems", eq. 7 to 10.

    Requirements:
        Seen items masked with -inf in `scores`. It has positives alone: use it beside a loss with negatives.

    Inputs:
        scores: Student scores (B, N).
        target: Uses `items`, `weights` (they multiply the w_k) and `progress`.
        top: K.
        decay: lambda, in ranks.
        discrepancy: mu.
        warmup: Share of the training before the student's rank counts (10 of 100 epochs in the paper).
        samples: Items from which the student's rank is estimated; 0 counts it over the catalogue.
        form: "paper" scales the product of both weights to sum 1; "fixed" doesn't, so that a student who agrees with
            the teacher is left alone.

    Relations:
        During the warm-up, with top=1, it is the positive half of `bce` on the teacher's best item.

    Returns:
        The mean over contexts that the teacher answered.

    Example:
        >>> target = SoftTarget(torch.tensor([0]), torch.tensor([[0, 1]]), torch.tensor([[3.0, 1.0]]))
        >>> round(float(rank_distillation(torch.tensor([[0.0, 0.0, 2.0]]), target)), 4)  # log 2
        0.6931
    """
    given = teacher_list(scores, target, "rank_distillation").first(top)
    rank = given.rank.to(scores.dtype)
    weights = torch.where(given.valid, torch.exp(-(rank - 1) / decay), 0.0)
    weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-12)
    if target.progress >= warmup:
        student_rank = estimated_rank(scores, given.student, samples)
        weights = weights * torch.tanh(discrepancy * (student_rank - rank)).clamp_min(0.0)
        if form == "paper":
            weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-12)
    return mean_over((weights * given.weights * softplus(-given.student)).sum(-1), given.answered)


def _sampling_weights(
    scores: Tensor, given: TeacherList, sampling: str, scale: float, epsilon: float, rank_samples: int
) -> Tensor:
    """Log of the weights with which the list's items are drawn (B, K); -inf where one can't be."""
    if sampling == "uniform":
        log_weights = torch.zeros_like(given.teacher)
    elif sampling == "rank":
        log_weights = (-given.rank / max(scale, 1e-12)).to(scores.dtype).expand_as(given.teacher)
    else:
        behind = estimated_rank(scores, given.student, rank_samples) - given.rank
        log_weights = torch.tanh((epsilon * behind).clamp_min(0.0)).log()
    return log_weights.masked_fill(~given.valid, -torch.inf)
