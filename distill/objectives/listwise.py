"""Listwise losses on a teacher's top K: one softmax over the catalogue, or one inside each popularity stratum."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from distill.errors import UserError
from distill.objectives.candidates import NOTHING, TeacherList, contains, mean_over, teacher_list
from distill.objectives.reading import log_total
from distill.soft.target import SoftTarget

Direction = Literal["forward", "reverse", "jsd"]
LEAST_MASS = 1e-6  # of a bucket: log(0) and log(1 - 1) stay finite
Cells = tuple[Tensor, Tensor, Tensor]  # log p, log q and how often each cell counts, all (B, C)


def listwise_kl(
    scores: Tensor,
    target: SoftTarget,
    sharpening: float = 2.0,
    rest: float = 0.2,
    temperature: float = 1.0,
    direction: Direction = "forward",
    tail: Literal["bucket", "ignore", "sampled"] = "bucket",
) -> Tensor:
    """Divergence between the teacher's and the student's distribution over the catalogue, from the teacher's top K.

    L = temperature^2 * D(p, q), q = softmax(s / temperature). Inside the top K, p is proportional to
    softmax(sharpening * t / temperature). `tail` says what becomes of the other items:

    - "bucket": they are one item, with the mass r = `rest` for the teacher and 1 - sum_k q_k for the student. With the
      defaults, L = -(1 - r) sum_k p_k log q_k - r log(1 - sum_k q_k).
    - "ignore": they don't exist; both softmaxes run over the top K.
    - "sampled": each item counts, with the teacher's true probability. The sum over items outside the top K is
      estimated from the sampled tail, without bias; a live teacher's whole row makes it exact.

    References:
        Hinton et al. 2015, "Distilling the knowledge in a neural network", section 2, for the softened softmax; Agarwal
        et al. 2024, "On-policy distillation of language models", for the directions; the sharpened top K with a fixed
        rest is this project's (docs/distillation.md has the evidence).

    Requirements:
        Seen items masked with -inf in `scores`; the teacher's items are never seen ones. "sampled" needs
        `scores.tail_samples`, and logz at temperature / sharpening.

    Inputs:
        scores: Student scores (B, N).
        target: Uses `items`, `scores` and `weights` (they multiply p inside the top K, which keeps its mass); `logz`
            when `rest` is negative; `logz` and the tail, or `dense`, for "sampled".
        sharpening: beta, an inverse temperature on the teacher's scores alone.
        rest: Mass of the bucket; a negative number takes the teacher's own (1 minus the mass of its unsharpened top K).
        temperature: Of both softmaxes.
        direction: "forward" is the cross-entropy -sum p log q, which is KL(p || q) up to the teacher's entropy;
            "reverse" KL(q || p), which seeks the teacher's mode; "jsd" the Jensen-Shannon divergence.
        tail: As above.

    Relations:
        Forward, with one item and rest=0, it is `cross_entropy` on that item. Run per stratum (`strata: true`) with
        tail="ignore" it is close to `stratified_kl`, which weighs strata within each context.

    Returns:
        The mean over contexts that the teacher answered.

    Raises:
        UserError: "sampled" without a tail, or logz at a temperature that the store doesn't hold.

    Example:
        >>> target = SoftTarget(torch.tensor([1]), torch.tensor([[1]]), torch.tensor([[2.0]]))
        >>> round(float(listwise_kl(torch.tensor([[0.0, 0.0, 0.0, 0.0]]), target, rest=0.0)), 4)  # log 4
        1.3863
    """
    given = teacher_list(scores, target, "listwise_kl")
    beta = sharpening / temperature
    log_p = (
        (beta * given.teacher + given.weights.clamp_min(1e-30).log()).masked_fill(~given.valid, NOTHING)
    ).log_softmax(-1)
    if tail == "ignore":
        log_q = (given.student / temperature).masked_fill(~given.valid, NOTHING).log_softmax(-1)
        cells = [(log_p, log_q, given.valid)]
    else:
        scaled = scores if temperature == 1 else scores / temperature
        total = log_total(scaled)[:, None]
        log_q = (given.student / temperature - total).masked_fill(~given.valid, 0.0)
        if tail == "bucket":
            share = _rest(given, target, rest, temperature)
            top_mass = (log_q.exp() * given.valid).sum(-1, keepdim=True).clamp(max=1 - LEAST_MASS)
            inside = (1 - share).clamp_min(LEAST_MASS * LEAST_MASS).log() + log_p
            bucket = (share.clamp_min(LEAST_MASS).log(), torch.log1p(-top_mass), given.answered[:, None])
            if direction == "forward":  # a share of exactly 0 or 1 stays so
                loss = -(1 - share[:, 0]) * (log_p.exp() * log_q).sum(-1) - share[:, 0] * bucket[1][:, 0]
                return temperature**2 * mean_over(loss, given.answered)
            cells = [(inside, log_q, given.valid), bucket]
        else:
            logz = _full_normaliser(target, beta).to(scores.dtype)[:, None]
            mass = (beta * given.teacher - logz).masked_fill(~given.valid, NOTHING).logsumexp(-1, keepdim=True)
            cells = [(mass + log_p, log_q, given.valid), _other_items(scaled - total, given, target, beta, logz)]
    loss = torch.stack([_divergence(*part, direction) for part in cells]).sum(0)
    return temperature**2 * mean_over(loss, given.answered)


def stratified_kl(scores: Tensor, target: SoftTarget, sharpening: float = 2.0) -> Tensor:
    """KL between teacher and student inside each popularity stratum of the teacher's top K, strata weighted equally.

    Inside a stratum popularity can't explain the order, so what is learned there is preference: the teacher's view of
    the tail isn't drowned by its view of the head.

    References:
        Chen et al. 2023, "Unbiased Knowledge Distillation for Recommendation" (UnKD), section 4, generalised from pairs
        to a softmax.

    Requirements:
        Seen items masked with -inf in `scores`.

    Inputs:
        scores: Student scores (B, N).
        target: Uses `items`, `scores`, `weights` (they multiply the teacher's probabilities) and `strata`.
        sharpening: Inverse temperature on the teacher's scores.

    Relations:
        With one stratum it is the KL over the top K alone, without a rest.

    Returns:
        The mean over contexts that the teacher answered of the mean over strata that hold at least two of the top K;
        0 where there is none.

    Example:
        >>> strata, teacher = torch.tensor([0, 0, 0]), torch.tensor([[0.5, 0.0]])
        >>> target = SoftTarget(torch.tensor([0]), torch.tensor([[0, 1]]), teacher, strata=strata)
        >>> round(float(stratified_kl(torch.tensor([[1.0, 0.0, 9.0]]), target)), 4)  # the same odds, sharpened
        0.0
    """
    given = teacher_list(scores, target, "stratified_kl")
    assert target.strata is not None
    groups = int(target.strata.max()) + 1
    group = target.strata[given.items].masked_fill(~given.valid, -1)
    member = group[:, None, :] == torch.arange(groups, device=group.device)[None, :, None]  # (B, G, K)
    teacher = sharpening * given.teacher + given.weights.clamp_min(1e-30).log()
    log_p = _log_softmax_within(teacher.masked_fill(~given.valid, 0.0), member)
    log_q = _log_softmax_within(given.student, member)
    divergence = (log_p.exp() * (log_p - log_q) * member).sum(-1)  # (B, G)
    counted = member.sum(-1) >= 2
    per_context = (divergence * counted).sum(-1) / counted.sum(-1).clamp_min(1)
    return mean_over(per_context, given.answered)


def _rest(given: TeacherList, target: SoftTarget, rest: float, temperature: float) -> Tensor:
    """The teacher's mass outside the top K (B, 1)."""
    if rest >= 0:
        return torch.full_like(given.student[:, :1], rest)
    inside = torch.logsumexp((given.teacher / temperature).masked_fill(~given.valid, NOTHING), -1)
    return (1 - (inside - target.log_normaliser(temperature)).exp()).clamp(0, 1)[:, None]


def _full_normaliser(target: SoftTarget, beta: float) -> Tensor:
    """log-sum-exp of beta times the teacher's scores over the whole catalogue (B,)."""
    if target.dense is not None:
        return log_total(beta * target.dense)
    return target.log_normaliser(1 / beta)


def _other_items(log_q: Tensor, given: TeacherList, target: SoftTarget, beta: float, logz: Tensor) -> Cells:
    """What stands outside the top K: all of it, or the sampled tail, weighted by 1 / (S * probability of the draw)."""
    n_items = log_q.shape[1]
    if target.dense is not None:
        items = torch.arange(n_items, device=log_q.device).expand(len(log_q), -1)
        teacher, weight = target.dense.to(log_q.dtype), torch.ones_like(log_q)
    elif target.tail_items is not None and target.tail_scores is not None and target.tail_logq is not None:
        items, teacher = target.tail_items.clamp_min(0), target.tail_scores.to(log_q.dtype)
        weight = (-target.tail_logq.to(log_q.dtype)).exp() / items.shape[1]
        weight = weight.masked_fill(target.tail_items < 0, 0.0)
        log_q = log_q.gather(1, items)
    else:
        raise UserError(
            "The loss listwise_kl with tail 'sampled' needs a sample of the items outside the teacher's top K, and the "
            "store holds none. Set 'scores.tail_samples' (512, say) and run: distill score-teacher CONFIG"
        )
    counts = ~(log_q.isneginf() | teacher.isneginf() | contains(n_items, given.items, given.valid, items))
    log_p = (beta * teacher - logz).masked_fill(~counts, 0.0)
    return log_p, log_q.masked_fill(~counts, 0.0), weight * counts


def _divergence(log_p: Tensor, log_q: Tensor, weight: Tensor, direction: Direction) -> Tensor:
    """Sum over cells (B, C) of each one's part of the divergence (B,)."""
    if direction == "forward":
        parts = -log_p.exp() * log_q
    elif direction == "reverse":
        parts = log_q.exp() * (log_q - log_p)
    else:
        log_m = torch.logaddexp(log_p, log_q) - torch.log(log_p.new_tensor(2.0))
        parts = 0.5 * (log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m))
    return torch.where(weight > 0, parts * weight, 0.0).sum(-1)


def _log_softmax_within(values: Tensor, member: Tensor) -> Tensor:
    """Log-softmax of (B, K) inside each group of (B, G, K); 0 outside the group."""
    spread = values[:, None, :].masked_fill(~member, NOTHING)
    return torch.where(member, spread - spread.logsumexp(-1, keepdim=True), 0.0)
