"""Finer fusion: weights of their own for each popularity stratum of items or each group of users, where they help."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from teachers.fusion import fit_weights
from teachers.grouped import Grouped, activity_groups, tertiles

FACTORS = (0.0, 0.5, 0.75, 1.33, 2.0)
SHARES = (0.1, 0.3)
OFFSETS = (-0.5, -0.25, 0.25, 0.5)  # of the fused scores' mean standard deviation
SURE = 1.645  # standard errors by which finer weights must win on users that they weren't fitted on
Values = Callable[[Tensor, np.ndarray], np.ndarray]  # fused scores (R, N) and their rows to a value a user (R,)


def finer(
    by: str,
    scores: Mapping[str, Tensor],
    weights: Mapping[str, float],
    strata: Tensor,
    lengths: Tensor,
    cuts: list[int],
    value: Callable[[Tensor, Tensor], float],
) -> Grouped:
    """Weights by group from common ones, by one round of coordinate search in each group.

    Args:
        by: "item_stratum" or "user_activity".
        scores: Member name to scores (U, N).
        weights: Common weights on the scores' own scale.
        strata, lengths: Stratum of each item (N,), length of each history (U,).
        cuts: Of the lengths.
        value: Fused scores (R, N) and rows (R,) to what is to be maximised.
    """
    used = [name for name in scores if weights[name]]
    kept = {name: [0.0] * (int(strata.max()) + 1 if by == "item_stratum" else len(cuts) + 1) for name in scores}
    total = torch.stack([scores[name] * weights[name] for name in used]).sum(0)
    spread = float(total.std(dim=1).mean())
    units = {name: spread / max(float(s.std(dim=1).mean()), 1e-9) for name, s in scores.items()}
    for name in used:
        kept[name] = [weights[name]] * len(kept[name])
    if by == "item_stratum":
        return _by_item(scores, units, kept, total, strata, value)
    groups = activity_groups(lengths, cuts)
    for group in range(len(cuts) + 1):
        rows = torch.nonzero(groups == group)[:, 0]
        if not len(rows):
            continue
        fused = total[rows]
        best = value(fused, rows)
        for name in scores:
            own, start = scores[name][rows], kept[name][group]
            rest = fused - start * own
            for weight in offers(start, units[name]) if len(scores) > 1 else ():
                found = value(rest + weight * own, rows)
                if found > best + 1e-7:
                    best, kept[name][group] = found, weight
            fused = rest + kept[name][group] * own
        scale = spread / max(float(fused.std(dim=1).mean()), 1e-9)  # one sharpness is to suit all groups
        for name in scores:
            kept[name][group] *= scale
    return Grouped(by, kept, [], cuts)


def offers(weight: float, unit: float) -> list[float]:
    """Weights to try in place of one: multiples of it, or small ones on the member's unit scale where it is 0."""
    return [factor * weight for factor in FACTORS] if weight else [share * unit for share in SHARES]


def _by_item(
    scores: Mapping[str, Tensor],
    units: dict[str, float],
    kept: dict[str, list[float]],
    total: Tensor,
    strata: Tensor,
    value: Callable[[Tensor, Tensor], float],
) -> Grouped:
    """A member's weight in a stratum is changed around the stratum's mean, so that items don't all rise or fall."""
    everyone = torch.arange(len(total))
    strata_count = len(next(iter(kept.values())))
    offsets, unit = [0.0] * strata_count, float(total.std(dim=1).mean())
    best = value(total, everyone)
    for stratum in range(strata_count):
        inside = strata == stratum
        if not inside.any():
            continue
        for name in scores:
            part = scores[name][:, inside]
            middle, start = float(part.mean()), kept[name][stratum]
            before = total[:, inside]
            trial = total.clone()
            for weight in offers(start, units[name]):
                trial[:, inside] = before + (weight - start) * (part - middle)
                found = value(trial, everyone)
                if found > best + 1e-7:
                    best, kept[name][stratum] = found, weight
            change = kept[name][stratum] - start
            offsets[stratum] -= change * middle
            total[:, inside] = before + change * (part - middle)
        before, chosen = total[:, inside], 0.0
        trial = total.clone()
        for step in OFFSETS:
            trial[:, inside] = before + step * unit
            found = value(trial, everyone)
            if found > best + 1e-7:
                best, chosen = found, step * unit
        offsets[stratum] += chosen
        total[:, inside] = before + chosen
    return Grouped("item_stratum", kept, offsets)


def prove(
    by: str, scores: Mapping[str, Tensor], strata: Tensor, lengths: Tensor, values: Values, rounds: int, seed: int
) -> dict[str, Any]:
    """Whether finer weights win on users that they weren't fitted on.

    Users are cut into two halves by seed. Common and finer weights are fitted on one and compared on the other, and the
    other way round.

    Args:
        by: "item_stratum" or "user_activity".
        scores: Member name to scores of the validation cases (U, N).
        strata, lengths: Stratum of each item (N,), length of each history (U,).
        values: Fused scores and the rows they belong to, to a value a user.
        rounds: Passes of the search for the common weights.
        seed: Of the halves.

    Returns:
        `gain`, the mean difference a user; `standard_error`, paired over users; `accepted`, that the gain is more than
        `SURE` standard errors.
    """
    users = len(lengths)
    if users < 4:
        return {"gain": 0.0, "standard_error": 0.0, "accepted": False}
    order = np.random.default_rng(seed).permutation(users)
    halves = (np.sort(order[: users // 2]), np.sort(order[users // 2 :]))
    difference = np.zeros(users)
    cuts = tertiles(lengths)
    for fitted, held in (halves, halves[::-1]):
        one, two = ({name: s[torch.from_numpy(rows)] for name, s in scores.items()} for rows in (fitted, held))
        common, _ = fit_weights(one, lambda fused, rows=fitted: float(values(fused, rows).mean()), rounds)  # type: ignore[misc]
        own = finer(by, one, common, strata, lengths[fitted], cuts, _mean_of(values, fitted))
        plain = torch.stack([two[name] * weight for name, weight in common.items()]).sum(0)
        difference[held] = values(own.fuse(two, strata, lengths[held]), held) - values(plain, held)
    gain, error = float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(users))
    return {"gain": gain, "standard_error": error, "accepted": bool(gain > SURE * error and gain > 0)}


def fit_groups(
    by: str,
    scores: Mapping[str, Tensor],
    weights: Mapping[str, float],
    strata: Tensor,
    lengths: Tensor,
    values: Values,
    rounds: int,
    seed: int,
) -> tuple[Grouped | None, dict[str, Any]]:
    """Finer weights where they prove themselves; "auto" takes what wins by more.

    Args:
        by: "none", "item_stratum", "user_activity" or "auto".
        weights: The common weights, fitted on all users.
        scores, strata, lengths, values, rounds, seed: As in `prove`.

    Returns:
        The weights by group, fitted on all users, or None for the common ones; and what was tried.
    """
    kinds = {"none": (), "auto": ("item_stratum", "user_activity")}.get(by, (by,))
    tried = {kind: prove(kind, scores, strata, lengths, values, rounds, seed) for kind in kinds}
    proven = [kind for kind in kinds if tried[kind]["accepted"]]
    if not proven:
        return None, tried
    best = max(proven, key=lambda kind: tried[kind]["gain"])
    every = np.arange(len(lengths))
    return finer(best, scores, weights, strata, lengths, tertiles(lengths), _mean_of(values, every)), tried


def _mean_of(values: Values, rows: np.ndarray) -> Callable[[Tensor, Tensor], float]:
    """The mean value of some of `rows`, which are given by their place in it."""
    return lambda fused, places: float(values(fused, rows[places.numpy()]).mean())
