"""The likelihood of the teacher's order under the student (relaxed ListMLE)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from distill.objectives.candidates import NOTHING, draw_negatives, draw_places, mean_over, mean_within, teacher_list
from distill.soft.target import SoftTarget


def relaxed_listmle(
    scores: Tensor,
    target: SoftTarget,
    top: int = 40,
    negatives: int = 40,
    form: Literal["fixed", "paper"] = "fixed",
    spread: float = 10.0,
) -> Tensor:
    """The student draws the teacher's list item by item; all that matters of other items is that they come after it.

    L = -1/K sum_k (s_{pi_k} - log(sum_{j >= k} e^{s_{pi_j}} + sum_{v in U} e^{s_v})), pi the teacher's order, U uniform
    others.

    References:
        Kang et al. 2020, "DE-RRD: A Knowledge Distillation Framework for Recommender System", eq. 9 (RRD); Xia et al.
        2008, "Listwise approach to learning to rank", for ListMLE.

    Requirements:
        Seen items masked with -inf in `scores`. Draws come from torch's global generator.

    Inputs:
        scores: Student scores (B, N).
        target: Uses the order of `items`, and `weights` (they multiply the terms of the sum over k).
        top: K.
        negatives: Number of draws for U, outside the teacher's whole list; 0 for none.
        form: "fixed" takes the teacher's K best and the mean over k. "paper" draws the K items with p proportional to
            e^(-rank / spread), which its authors gave up later, and sums over k.
        spread: In ranks.

    Relations:
        With top=1 and all other items as negatives it is `cross_entropy` on the teacher's best item; with top=1 and
        none it is 0.

    Returns:
        The mean over contexts that the teacher answered.

    Example:
        >>> target = SoftTarget(torch.tensor([0]), torch.tensor([[0, 1]]), torch.tensor([[3.0, 1.0]]))
        >>> round(float(relaxed_listmle(torch.zeros(1, 3), target, negatives=0)), 4)  # (log 2 + log 1) / 2
        0.3466
    """
    full = teacher_list(scores, target, "relaxed_listmle")
    if form == "paper":
        log_weights = (-full.rank / spread).to(scores.dtype).expand_as(full.teacher)
        given = full.at(draw_places(log_weights.masked_fill(~full.valid, -torch.inf), top)[0])
    else:
        given = full.first(top)
    drawn, usable = draw_negatives(scores, negatives, full.items, full.valid)
    nothing = scores.new_full((len(scores), 1), NOTHING)
    others = torch.cat([scores.gather(1, drawn).masked_fill(~usable, NOTHING), nothing], 1).logsumexp(-1, keepdim=True)
    listed = given.student.masked_fill(~given.valid, NOTHING)
    below = torch.cat([others, listed.flip(1)], 1).logcumsumexp(1)[:, 1:].flip(1)  # log of what is left at each k
    terms = torch.where(given.valid, given.weights * (below - listed), 0.0)
    per_context = terms.sum(-1) if form == "paper" else mean_within(terms, given.valid)
    return mean_over(per_context, given.answered)
