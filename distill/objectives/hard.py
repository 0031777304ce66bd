"""Losses on hard labels: the observed next item."""

from __future__ import annotations

from torch import Tensor

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
    """
    labelled = target.label >= 0
    if not bool(labelled.any()):
        return scores[:0].sum()  # 0, with a gradient of 0; multiplying by 0 would make nan of the masked -inf
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
