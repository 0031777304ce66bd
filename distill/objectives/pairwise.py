"""Pairwise losses: score differences of the teacher's best to the student's hard negatives, and inside strata."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus

from distill.objectives import candidates
from distill.objectives.candidates import TeacherList, contains, mean_over, mean_within, student_top, teacher_list
from distill.soft.target import SoftTarget


def margin_mse(
    scores: Tensor,
    target: SoftTarget,
    temperature: float = 1.0,
    top: int = 10,
    negatives: int = 30,
    standardise: bool = True,
) -> Tensor:
    """The student's margins are to equal the teacher's.

    L = mean over pairs of ((s_i - s_j) - (t_i - t_j) / temperature)^2; i among the teacher's best `top`, j among the
    student's best `negatives` of the others.

    References:
        Hofstätter et al. 2020, "Improving efficient neural ranking models with cross-architecture knowledge
        distillation", eq. 5.

    Requirements:
        Seen items masked with -inf in `scores`. top * negatives numbers a context are held in memory.

    Inputs:
        scores: Student scores (B, N).
        target: Uses `items`, `scores`, `weights` (item i's weight multiplies its pairs), and for the negatives what
            `score_of` finds.
        temperature: Divides the teacher's margins.
        top: Number of i.
        negatives: Number of j.
        standardise: Scale the teacher's scores to deviation 1 over all i and j of a context. Without it the student
            must reach the teacher's own scale, which a student with bounded scores can't.

    Relations:
        `soft_bpr` asks for the teacher's odds; this for its margin.

    Returns:
        The mean over contexts with a pair.

    Example:
        >>> target = SoftTarget(torch.tensor([0]), torch.tensor([[0, 1]]), torch.tensor([[3.0, 1.0]]))
        >>> settings = {"top": 1, "negatives": 1, "standardise": False}
        >>> float(margin_mse(torch.tensor([[0.0, 1.0, -9.0]]), target, **settings))  # (-1 - 2)^2
        9.0
    """

    def cost(student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher / temperature).square()

    return _over_pairs(cost, scores, target, top, negatives, standardise, "margin_mse")


def soft_bpr(
    scores: Tensor,
    target: SoftTarget,
    temperature: float = 1.0,
    top: int = 10,
    negatives: int = 30,
    standardise: bool = True,
) -> Tensor:
    """BPR whose answer is the teacher's odds in place of a certain yes.

    L = mean over pairs of -(p log sigmoid(s_i - s_j) + (1 - p) log sigmoid(s_j - s_i)), p = sigmoid((t_i - t_j) /
    temperature); i among the teacher's best `top`, j among the student's best `negatives` of the others.

    References:
        Burges et al. 2005, "Learning to rank using gradient descent" (RankNet), eq. 3, with the teacher's
        probabilities.

    Requirements:
        Seen items masked with -inf in `scores`. top * negatives numbers a context are held in memory.

    Inputs:
        scores: Student scores (B, N).
        target: Uses `items`, `scores`, `weights` (item i's weight multiplies its pairs), and for the negatives what
            `score_of` finds.
        temperature: Divides the teacher's margins.
        top: Number of i.
        negatives: Number of j.
        standardise: Scale the teacher's scores to deviation 1 over all i and j of a context.

    Relations:
        With p = 1 it is `bpr`.

    Returns:
        The mean over contexts with a pair.

    Example:
        >>> target = SoftTarget(torch.tensor([0]), torch.tensor([[0, 1]]), torch.tensor([[1.0, 1.0]]))
        >>> round(float(soft_bpr(torch.zeros(1, 3), target, top=1, negatives=1)), 4)  # log 2
        0.6931
    """

    def cost(student: Tensor, teacher: Tensor) -> Tensor:
        p = torch.sigmoid(teacher / temperature)
        return p * softplus(-student) + (1 - p) * softplus(student)

    return _over_pairs(cost, scores, target, top, negatives, standardise, "soft_bpr")


def unkd(scores: Tensor, target: SoftTarget, pairs: int = 30, top: int = 1000, spread: float = 20.0) -> Tensor:
    """The teacher's order inside each popularity stratum, from pairs of its list.

    L = mean over strata of the mean over pairs of -log sigmoid(s_i - s_j); both items of a pair are drawn from the
    stratum's part of the teacher's list with p proportional to e^(-rank in the stratum / spread), i being the better
    one.

    References:
        Chen et al. 2023, "Unbiased Knowledge Distillation for Recommendation" (UnKD), section 4.2. Its code computes
        weights of a user's strata and doesn't use them; here each stratum that has a pair weighs the same.

    Requirements:
        Seen items masked with -inf in `scores`. Draws come from torch's global generator.

    Inputs:
        scores: Student scores (B, N).
        target: Uses the order of `items`, `strata`, and `weights` (the better item's multiplies its pairs).
        pairs: Pairs drawn in each stratum; a draw of twice the same item doesn't count. 0 takes all pairs, weighted by
            their probability, in K * K numbers a context.
        top: Length of the list used; the store may hold less.
        spread: In ranks.

    Relations:
        `stratified_kl` compares distributions where this compares orders.

    Returns:
        The mean over contexts with a pair of the mean over their strata with one.

    Example:
        >>> strata, teacher = torch.tensor([0, 1, 0]), torch.tensor([[3.0, 2.0, 1.0]])
        >>> target = SoftTarget(torch.tensor([0]), torch.tensor([[0, 1, 2]]), teacher, strata=strata)
        >>> round(float(unkd(torch.tensor([[1.0, 5.0, 1.0]]), target, pairs=0)), 4)  # log 2: items 0 and 2
        0.6931
    """
    given = teacher_list(scores, target, "unkd").first(top)
    assert target.strata is not None
    groups = int(target.strata.max()) + 1
    group = target.strata[given.items].masked_fill(~given.valid, -1)
    member = group[:, None, :] == torch.arange(groups, device=group.device)[None, :, None]  # (B, G, K)
    rank = member.cumsum(-1)
    weight = torch.where(member, torch.exp(-(rank - 1).to(scores.dtype) / spread), 0.0)
    loss, found = _all_pairs(given, member, weight) if pairs <= 0 else _drawn_pairs(given, member, weight, pairs)
    return mean_over(mean_within(loss, found), found.any(-1))


def _drawn_pairs(given: TeacherList, member: Tensor, weight: Tensor, pairs: int) -> tuple[Tensor, Tensor]:
    """Losses of the strata (B, G), from drawn pairs, and which strata have one."""
    rows, groups, length = weight.shape
    enough = member.sum(-1, keepdim=True) >= 2
    drawn = torch.multinomial(torch.where(enough, weight, 1.0).reshape(-1, length), 2 * pairs, replacement=True)
    first, second = drawn.reshape(rows, groups * pairs, 2).unbind(-1)
    better, worse = torch.minimum(first, second), torch.maximum(first, second)
    loss = given.weights.gather(1, better) * softplus(given.student.gather(1, worse) - given.student.gather(1, better))
    counted = (better != worse).reshape(rows, groups, pairs) & enough
    mean = torch.where(counted, loss.reshape(rows, groups, pairs), 0.0).sum(-1) / counted.sum(-1).clamp_min(1)
    return mean, counted.any(-1)


def _all_pairs(given: TeacherList, member: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """What `_drawn_pairs` estimates."""
    length = weight.shape[-1]
    above = torch.ones(length, length, dtype=torch.bool, device=weight.device).triu(1)
    loss = softplus(given.student[:, None, :] - given.student[:, :, None]) * given.weights[:, :, None] * above
    p = torch.einsum("bgi,bgj,ij->bg", weight, weight, above.to(weight.dtype))
    mean = torch.einsum("bgi,bij,bgj->bg", weight, loss, weight) / p.clamp_min(1e-12)
    return mean, member.sum(-1) >= 2


def _over_pairs(
    cost: Callable[[Tensor, Tensor], Tensor],
    scores: Tensor,
    target: SoftTarget,
    top: int,
    negatives: int,
    standardise: bool,
    name: str,
) -> Tensor:
    """Mean over contexts and pairs of cost(student's margin, teacher's margin), both (B, top, negatives)."""
    given = teacher_list(scores, target, name).first(top)
    items, usable = student_top(scores, top + negatives)
    usable = usable & ~contains(scores.shape[1], given.items, given.valid, items)
    usable = usable & (usable.cumsum(-1) <= negatives)
    teacher = torch.cat([given.teacher, target.score_of(items, given.unseen).to(scores.dtype)], 1)
    everyone = torch.cat([given.valid, usable], 1)
    teacher = candidates.standardise(teacher, everyone) if standardise else teacher.masked_fill(~everyone, 0.0)
    student = scores.gather(1, items).masked_fill(~usable, 0.0)
    best = given.items.shape[1]
    margin = given.student[:, :, None] - student[:, None, :]
    wanted = teacher[:, :best, None] - teacher[:, None, best:]
    pairs = given.valid[:, :, None] & usable[:, None, :]
    loss = mean_within(given.weights[:, :, None] * cost(margin, wanted), pairs)
    return mean_over(loss, pairs.flatten(1).any(-1))
