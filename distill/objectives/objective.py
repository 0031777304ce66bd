"""The one module that training wraps: a student together with its weighted losses."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill.config import Loss
from distill.job import Batch
from distill.plugins import resolve
from distill.soft.target import SoftTarget
from distill.tensors import mask_seen


class Objective(nn.Module):
    """total = sum_m weight_m * loss_m(student scores, target); every loss is a mean over contexts."""

    strata: Tensor
    popularity: Tensor

    def __init__(self, student: Any, losses: Sequence[Loss], strata: Tensor, popularity: Tensor) -> None:
        """Binds the losses' settings.

        Args:
            student: Anything under the Student protocol that is also a module.
            losses: Names, weights and settings.
            strata: Popularity stratum of each item, int64 (N,).
            popularity: Train share of each item (N,).
        """
        super().__init__()
        self.student = student
        functions = [partial(resolve("loss", x.name), **x.arguments) for x in losses]
        names = _unique([x.name.rpartition(":")[2] for x in losses])
        self.terms = list(zip(names, [float(x.weight) for x in losses], functions, strict=True))
        self.register_buffer("strata", strata, persistent=False)
        self.register_buffer("popularity", popularity, persistent=False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Named losses of a batch with history (B, L), seen (B, S), label (B,) and, distilled, items, scores, logz."""
        query = self.student.encode(batch["history"])
        scores = functional.linear(query, self.student.item_table(), self.student.item_bias()).float()
        scores = mask_seen(scores, batch["seen"])
        target = SoftTarget(
            label=batch["label"],
            items=batch.get("items"),
            scores=batch.get("scores"),
            logz=batch.get("logz"),
            strata=self.strata,
            popularity=self.popularity,
        )
        named = {name: term(scores, target) for name, _, term in self.terms}
        total = torch.stack([weight * named[name] for name, weight, _ in self.terms]).sum()
        return {**named, "loss": total}


def _unique(names: Sequence[str]) -> list[str]:
    """Names of terms; a loss that is used twice, with other settings, becomes name and name_2."""
    taken: dict[str, int] = {"loss": 1}
    unique = []
    for name in names:
        taken[name] = taken.get(name, 0) + 1
        unique.append(name if taken[name] == 1 else f"{name}_{taken[name]}")
    return unique
