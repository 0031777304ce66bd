"""Losses on hard labels: the observed next item."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from distill.objectives.candidates import NOTHING, draw_negatives, mean_over, mean_within
from distill.objectives.reading import is_shared, log_total, picked
from distill.soft.target import SoftTarget


def cross_entropy(scores: Tensor, target: SoftTarget, smoothing: float = 0.0, logit_adjustment: float = 0.0) -> Tensor:
    """Full-softmax cross-entropy on the next item; contexts without a label don't count.

    References:
        Menon et al. 2021, "Long-tail learning via logit adjustment", eq. 10, for `logit_adjustment`.

    Requirements:
        Items already seen must be masked with -inf in `scores`; a label is never a seen item.

    Inputs:
        scores: Student scores (B, N).
        target: Uses `label`, and `popularity` where `logit_adjustment` isn't 0.
        smoothing: Share of the target mass spread evenly over the unmasked items.
        logit_adjustment: tau; adds tau * log(popularity) to the scores in training only, so that the served scores
            favour rare items.

    Relations:
        `listwise_kl` with the label as the teacher's only item is this loss.

    Returns:
        The mean over labelled contexts; 0 where there are none.

    Example:
        >>> scores = torch.tensor([[0.0, 0.0, -torch.inf]])
        >>> round(float(cross_entropy(scores, SoftTarget(torch.tensor([1])))), 4)  # log 2
        0.6931
    """
    labelled = target.label >= 0
    plain = not (logit_adjustment or smoothing)
    if plain and torch.compiler.is_compiling():  # without a look at the batch
        own = picked(scores, target.label[:, None])[:, 0]
        return mean_over(log_total(scores) - torch.where(labelled, own, 0.0), labelled)
    if not bool(labelled.any()):
        return scores[:0].sum()  # 0, with a gradient of 0; multiplying by 0 would make nan of the masked -inf
    if plain and (is_shared(scores) or bool(labelled.all())):
        return mean_over(log_total(scores) - picked(scores, target.label[:, None])[:, 0], labelled)
    if not bool(labelled.all()):
        scores = scores[labelled]
    label = target.label[labelled]
    if logit_adjustment:
        assert target.popularity is not None, "logit_adjustment needs the items' popularity"
        scores = scores + logit_adjustment * (target.popularity + 0.5 / len(target.popularity)).log()
    normaliser = scores.logsumexp(-1)
    loss = normaliser - scores.gather(1, label[:, None])[:, 0]
    if smoothing:
        masked = scores.isinf()
        uniform = normaliser - scores.masked_fill(masked, 0.0).sum(-1) / (~masked).sum(-1)
        loss = (1 - smoothing) * loss + smoothing * uniform
    return loss.mean()


def sampled_softmax(
    scores: Tensor,
    target: SoftTarget,
    negatives: int = 512,
    proposal: Literal["uniform", "popularity"] = "uniform",
) -> Tensor:
    """Cross-entropy with the other items' part of the normaliser estimated from a sample that the batch shares.

    L = -s_y + log(e^{s_y} + sum_{j drawn, j != y} e^{s_j} / (S Q_j)): inside the logarithm stands an unbiased estimate
    of the full sum, because the label itself is not drawn, and so not corrected.

    References:
        Bengio and Senécal 2008, "Adaptive importance sampling to accelerate training of a neural probabilistic language
        model"; Yi et al. 2019, "Sampling-bias-corrected neural modeling for large corpus item recommendations" (logQ).

    Requirements:
        Seen items masked with -inf in `scores`.

    Inputs:
        scores: Student scores (B, N).
        target: Uses `label`, and `popularity` for that proposal.
        negatives: S, draws with replacement from torch's global generator; 0 takes the whole catalogue.
        proposal: Q: uniform over the catalogue, or in proportion to the train events (plus half an average item's).

    Relations:
        With negatives=0 it is `cross_entropy`; with more and more draws it converges to it.

    Returns:
        The mean over labelled contexts; 0 where there are none.

    Example:
        >>> target = SoftTarget(torch.tensor([1]))
        >>> round(float(sampled_softmax(torch.tensor([[0.0, 1.0]]), target, negatives=0)), 4)
        0.3133
    """
    if negatives <= 0:
        return cross_entropy(scores, target)
    drawn, share = draw_items(scores.shape[1], negatives, proposal, target, scores)
    label, own, labelled = _labels(scores, target)
    others = scores.index_select(1, drawn) - (negatives * share[drawn]).log()
    others = others.masked_fill((drawn == label[:, None]) | others.isneginf(), NOTHING)
    return mean_over(torch.cat([own[:, None], others], 1).logsumexp(-1) - own, labelled)


def draw_items(n_items: int, count: int, proposal: str, target: SoftTarget, like: Tensor) -> tuple[Tensor, Tensor]:
    """Items drawn with replacement (count,) and the proposal's probabilities (N,), of the type and device of `like`."""
    if proposal == "uniform":
        share = torch.full((n_items,), 1 / n_items, dtype=like.dtype, device=like.device)
        return torch.randint(n_items, (count,), device=like.device), share
    assert target.popularity is not None, "the proposal 'popularity' needs the items' popularity"
    share = target.popularity.to(like.dtype) + 0.5 / n_items
    share = share / share.sum()
    return torch.multinomial(share, count, replacement=True), share


def in_batch_softmax(scores: Tensor, target: SoftTarget) -> Tensor:
    """Cross-entropy with the other labels of the batch as the negatives, corrected for how often each is a label.

    L = -s_y + log(e^{s_y} + sum_{c, y_c != y} e^{s_{y_c}} / (B Q(y_c))), over the B labelled contexts c of the batch, Q
    the train share: what `sampled_softmax` estimates, from draws that are there anyway.

    References:
        Yi et al. 2019, "Sampling-bias-corrected neural modeling for large corpus item recommendations", eq. 3 and 4.

    Requirements:
        Seen items masked with -inf in `scores`. Batches of some hundred contexts at least.

    Inputs:
        scores: Student scores (B, N).
        target: Uses `label` and `popularity`.

    Relations:
        `sampled_softmax` with the proposal "popularity" and B draws, but for the labels being the draws.

    Returns:
        The mean over labelled contexts; 0 where there are none.

    Example:
        >>> target = SoftTarget(torch.tensor([0, 1]), popularity=torch.tensor([0.5, 0.5]))
        >>> round(float(in_batch_softmax(torch.zeros(2, 2), target)), 4)  # log 2
        0.6931
    """
    assert target.popularity is not None, "in_batch_softmax needs the items' popularity"
    label, own, labelled = _labels(scores, target)
    drawn = target.label[target.label >= 0]
    if not len(drawn):
        return scores[:0].sum()
    share = target.popularity.to(scores.dtype)[drawn].clamp_min(torch.finfo(torch.float32).tiny)
    others = scores.index_select(1, drawn) - (len(drawn) * share).log()
    others = others.masked_fill((drawn == label[:, None]) | others.isneginf(), NOTHING)
    return mean_over(torch.cat([own[:, None], others], 1).logsumexp(-1) - own, labelled)


def bpr(scores: Tensor, target: SoftTarget, negatives: int = 1, shared: bool = False) -> Tensor:
    """Bayesian personalised ranking: the label above items that the context hasn't met.

    L = mean_j -log sigmoid(s_y - s_j).

    References:
        Rendle et al. 2009, "BPR: Bayesian personalized ranking from implicit feedback", eq. 4, without its regulariser.

    Requirements:
        Seen items masked with -inf in `scores`.

    Inputs:
        scores: Student scores (B, N).
        target: Uses `label`.
        negatives: Items j drawn uniformly for each context; 0 takes all.
        shared: Draw them once for the whole batch: one matrix product, so that hundreds cost little more than a few.

    Relations:
        `soft_bpr` with a teacher that is certain (p = 1) of the label is this loss.

    Returns:
        The mean over labelled contexts with a negative; 0 where there are none.

    Example:
        >>> target = SoftTarget(torch.tensor([1]))
        >>> round(float(bpr(torch.tensor([[1.0, 1.0, 1.0]]), target, negatives=0)), 4)  # log 2
        0.6931
    """
    label, own, labelled = _labels(scores, target)
    if shared and negatives > 0:
        drawn = torch.randint(scores.shape[1], (negatives,), device=scores.device).unique()
        others = scores.index_select(1, drawn)
        usable = ~others.isneginf() & (drawn != label[:, None])
        others = others.masked_fill(~usable, 0.0)
    else:
        others, usable = _other_scores(scores, label, labelled, negatives)
    return mean_over(mean_within(softplus(others - own[:, None]), usable), labelled & usable.any(-1))


def bce(scores: Tensor, target: SoftTarget, negatives: int = 1) -> Tensor:
    """Binary cross-entropy: the label is a yes, items that the context hasn't met are a no.

    L = -log sigmoid(s_y) - mean_j log(1 - sigmoid(s_j)).

    References:
        Kang and McAuley 2018, "Self-attentive sequential recommendation" (SASRec), eq. 7.

    Requirements:
        Seen items masked with -inf in `scores`.

    Inputs:
        scores: Student scores (B, N).
        target: Uses `label`.
        negatives: Items j drawn uniformly for each context; 0 takes all.

    Relations:
        `soft_bce` has a teacher's probabilities in place of yes and no.

    Returns:
        The mean over labelled contexts; 0 where there are none.

    Example:
        >>> target = SoftTarget(torch.tensor([1]))
        >>> round(float(bce(torch.tensor([[0.0, 0.0, 0.0]]), target, negatives=0)), 4)  # 2 log 2
        1.3863
    """
    label, own, labelled = _labels(scores, target)
    others, usable = _other_scores(scores, label, labelled, negatives)
    return mean_over(softplus(-own) + mean_within(softplus(others), usable), labelled)


def _labels(scores: Tensor, target: SoftTarget) -> tuple[Tensor, Tensor, Tensor]:
    """Labels (B,), the student's scores of them (B,), and which contexts have one that isn't masked (B,)."""
    label = target.label.clamp_min(0)
    own = picked(scores, target.label[:, None])[:, 0]
    labelled = (target.label >= 0) & ~own.isneginf()
    return label, own.masked_fill(~labelled, 0.0), labelled


def _other_scores(scores: Tensor, label: Tensor, labelled: Tensor, negatives: int) -> tuple[Tensor, Tensor]:
    """Scores of items that aren't the label (B, J), 0 where one can't be used, and which can."""
    if negatives > 0:
        drawn, usable = draw_negatives(scores, negatives, label[:, None], labelled[:, None])
        others = scores.gather(1, drawn)
    else:
        others = scores
        usable = (~scores.isneginf()).scatter(1, label[:, None], False)
    return others.masked_fill(~usable, 0.0), usable
