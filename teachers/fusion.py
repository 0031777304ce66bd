"""Late fusion: a weighted sum of the members' log-scores, tilted against popularity; all found on validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from distill.data.contexts import ContextBatch
from distill.tensors import mask_seen
from teachers.grouped import Grouped
from teachers.protocol import Member

STEPS = (0.0, 0.5, 0.7, 0.85, 1.0, 1.18, 1.4, 2.0)
STARTS = (0.0, 0.03, 0.1, 0.3, 1.0)
TILTS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)


@dataclass
class FusedTeacher:
    """Members and their weights; the scores are log-probabilities up to a constant.

    score = sharpness * (sum_m weight_m * score_m - tilt * log(events + 1)).

    Attributes:
        members: Members by name.
        weights: One a member; those of weight 0 aren't asked.
        sharpness: Makes the softmax of the scores as sure as the validation items say.
        tilt: How much of the popularity prior is taken out.
        prior: log(train events + 1) of every item (N,); needed where `tilt` isn't 0.
        groups: Weights by stratum of the items or length of the history, in place of `weights`.
        strata: Stratum of every item (N,); needed with `groups`.
    """

    members: dict[str, Member]
    weights: dict[str, float]
    sharpness: float = 1.0
    tilt: float = 0.0
    prior: Tensor | None = None
    groups: Grouped | None = None
    strata: Tensor | None = None

    @torch.no_grad()
    def score(self, batch: ContextBatch) -> Tensor:
        """Fused scores (B, N); seen items are not masked."""
        total: Tensor | None = None
        for name, member in self.members.items():
            if self.groups is not None and any(self.groups.weights[name]):
                part = member.score(batch)
                part.mul_(self.sharpness * self._factor(name, batch, part.device))
            elif self.groups is None and self.weights[name]:
                part = member.score(batch).mul_(self.sharpness * self.weights[name])
            else:
                continue
            total = part if total is None else total.add_(part)
        if total is None:
            raise ValueError("every member's weight is zero")
        if self.groups is not None and self.groups.offsets:
            assert self.strata is not None, "weights by stratum need the items' strata"
            total.add_(self.sharpness * self.groups.shift(self.strata.to(total.device)))
        if self.tilt:
            assert self.prior is not None, "a tilt needs the items' prior"
            total.sub_(self.sharpness * self.tilt * self.prior.to(total.device))
        return total

    def _factor(self, name: str, batch: ContextBatch, device: torch.device) -> Tensor:
        assert self.groups is not None and self.strata is not None, "weights by group need the items' strata"
        lengths = torch.from_numpy((batch.seen < len(self.strata)).sum(1))
        return self.groups.factor(name, self.strata.to(device), lengths)


def fit_weights(
    scores: Mapping[str, Tensor], quality: Callable[[Tensor], float], rounds: int
) -> tuple[dict[str, float], float]:
    """Coordinate search over the members' weights.

    Each member's scores are first brought to one scale (unit mean standard deviation over the catalogue), so one grid
    fits all. The search starts from the best single member, offers every other member in turn a few starting weights,
    and then scales one weight after the other, keeping what helps; a member that doesn't help ends with weight 0.

    Args:
        scores: Member name to finite scores of the validation cases (U, N), seen items not masked.
        quality: What to maximise, given fused scores (U, N).
        rounds: Passes over all members.

    Returns:
        Weights on the members' original scale, and the best quality.
    """
    scale = {name: 1.0 / max(float(s.std(dim=1).mean()), 1e-9) for name, s in scores.items()}
    alone = {name: quality(s * scale[name]) for name, s in scores.items()}
    first = max(alone, key=lambda name: alone[name])
    weights = {name: float(name == first) for name in scores}
    best = alone[first]
    total = scores[first] * scale[first]
    for _ in range(rounds):
        before = best
        for name in sorted(scores, key=lambda n: -alone[n]):
            unit = scores[name] * scale[name]
            rest = total - weights[name] * unit
            if not any(w for n, w in weights.items() if n != name):
                continue
            grid = [weights[name] * s for s in STEPS] if weights[name] else list(STARTS)
            for weight in grid:
                value = quality(rest + weight * unit)
                if value > best + 1e-7:
                    best, weights[name] = value, weight
            total = rest + weights[name] * unit
        if best <= before:
            break
    return {name: w * scale[name] for name, w in weights.items()}, best


def fit_tilt(
    fused: Tensor, prior: Tensor, quality: Callable[[Tensor], float], accuracy: Callable[[Tensor], float], cost: float
) -> float:
    """How much of the popularity prior to take out of fused scores: what maximises `quality` at a bounded cost.

    Adding a multiple of the log prior to a classifier's scores moves its balance between frequent and rare classes
    after training. Where every member has learned popularity from the same events, the fusion counts it several times
    over; what is too much of it, validation tells.

    References:
        Menon et al. 2021, "Long-tail learning via logit adjustment", section 4.1 (post-hoc adjustment).

    Args:
        fused: Scores (U, N), seen items not masked.
        prior: log(train events + 1) (N,).
        quality: What to maximise, given scores (U, N).
        accuracy: What may not suffer, given scores (U, N).
        cost: Largest share of the untilted scores' accuracy that the tilt may cost.

    Returns:
        The tilt, on the scores' own scale; 0 where no tilt helps.
    """
    spread = float(prior.std())
    if spread < 1e-9:
        return 0.0
    unit = float(fused.std(dim=1).mean()) / spread
    tilted = {tilt: fused - tilt * unit * prior for tilt in TILTS}
    least = (1 - cost) * accuracy(fused)
    worth = {tilt: quality(scores) for tilt, scores in tilted.items() if not tilt or accuracy(scores) >= least}
    return max(worth, key=lambda tilt: worth[tilt]) * unit


def fit_sharpness(fused: Tensor, seen: Tensor, labels: Tensor) -> float:
    """The factor that maximises the mean log-likelihood of the validation items under a softmax.

    Args:
        fused: Scores (U, N).
        seen: Items to mask (U, S), padded with N.
        labels: One validation item a case (U,).
    """
    masked = mask_seen(fused.clone(), seen)
    best, best_likelihood = 1.0, -float("inf")
    for sharpness in torch.logspace(-1, 1, 41).tolist():
        log_p = torch.log_softmax(masked * sharpness, -1).gather(1, labels[:, None])
        likelihood = float(log_p.mean())
        if likelihood > best_likelihood:
            best, best_likelihood = sharpness, likelihood
    return best
