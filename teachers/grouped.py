"""Weights of a fusion by group: a stratum of items by popularity, or users by the length of their history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Grouped:
    """Weights by group.

    Attributes:
        by: "item_stratum" (a group an item) or "user_activity" (a group a history, by its length).
        weights: By member, one weight a group.
        offsets: Added to the fused scores of each stratum of items.
        cuts: For user_activity, the longest history of every group but the last.
    """

    by: str
    weights: dict[str, list[float]]
    offsets: list[float] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)

    def factor(self, name: str, strata: Tensor, lengths: Tensor) -> Tensor:
        """A member's weight, to be multiplied with its scores (B, N).

        Args:
            name: The member.
            strata: Stratum of each item (N,).
            lengths: Items in each history (B,).

        Returns:
            (N,) by stratum of the items, (B, 1) by length of the histories.
        """
        table = torch.tensor(self.weights[name], device=strata.device)
        if self.by == "item_stratum":
            return table[strata]
        return table[activity_groups(lengths.to(strata.device), self.cuts)][:, None]

    def shift(self, strata: Tensor) -> Tensor | float:
        """What is added to the fused scores: (N,), or 0."""
        return torch.tensor(self.offsets, device=strata.device)[strata] if self.offsets else 0.0

    def fuse(self, scores: Mapping[str, Tensor], strata: Tensor, lengths: Tensor) -> Tensor:
        """Fused scores (B, N), before any tilt and sharpening."""
        total = torch.stack([s * self.factor(name, strata, lengths) for name, s in scores.items()]).sum(0)
        return total + self.shift(strata)


def activity_groups(lengths: Tensor, cuts: list[int]) -> Tensor:
    """Group of each history by its length (B,): 0 up to the first cut, and so on."""
    return torch.searchsorted(torch.tensor(cuts, device=lengths.device, dtype=torch.long), lengths.long())


def tertiles(lengths: Tensor) -> list[int]:
    """The two cuts that divide histories into light, medium and heavy; histories of equal length stay together."""
    return [int(cut) for cut in np.quantile(lengths.numpy(), (1 / 3, 2 / 3), method="inverted_cdf")]
