"""The one module that training wraps: a student together with its weighted losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill.config import Loss, value_at
from distill.job import Batch
from distill.objectives.knowledge import Knowledge, Representation
from distill.objectives.term import Term
from distill.soft.target import SoftTarget
from distill.tensors import mask_seen

SOFT = ("items", "scores", "logz", "tail_items", "tail_scores", "tail_logq", "hidden", "dense")
MOMENTUM = 0.98  # of the running means that balance terms: about the last 50 steps


class Objective(nn.Module):
    """total = sum_m weight_m * loss_m(student, target); every loss is a mean over contexts."""

    strata: Tensor
    popularity: Tensor
    step: Tensor
    sizes: Tensor

    def __init__(
        self,
        student: Any,
        losses: Sequence[Loss],
        knowledge: Knowledge,
        steps: int = 0,
        temperatures: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        """Binds the losses' settings.

        Args:
            student: A module under the Student protocol.
            losses: Names, weights and settings.
            knowledge: What losses know of items and users.
            steps: Training steps in all, for schedules; 0 leaves them at their start.
            temperatures: Temperatures at which each teacher's logz is given, by the losses' `teacher`.
        """
        super().__init__()
        self.student = student
        self.terms = nn.ModuleList(Term(loss, knowledge) for loss in losses)
        self.names = _unique([loss.name.rpartition(":")[2] for loss in losses])
        self.steps = steps
        self.temperatures = {name: tuple(t) for name, t in (temperatures or {}).items()}
        self.register_buffer("strata", knowledge.strata, persistent=False)
        self.register_buffer("popularity", knowledge.popularity, persistent=False)
        self.register_buffer("step", torch.zeros(()))
        self.register_buffer("sizes", torch.zeros(len(losses)))
        self.side: nn.Linear | None = None
        if any(loss.head == "auxiliary" for loss in losses):
            self.side = nn.Linear(knowledge.dim, knowledge.dim)
            nn.init.eye_(self.side.weight)
            nn.init.zeros_(self.side.bias)
            self.side_bias = nn.Parameter(torch.zeros(knowledge.n_items))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Named losses of a batch with history (B, L), seen (B, S), label (B,), user (B,) and a teacher's answers.

        The run's teacher answers under the names of SoftTarget's fields, another one under "<teacher>/<field>".
        """
        progress = min(1.0, float(self.step) / self.steps) if self.steps else 0.0
        query, table, bias = self.student.encode(batch["history"]), self.student.item_table(), self.student.item_bias()
        scores = mask_seen(functional.linear(query, table, bias).float(), batch["seen"])
        representation = Representation(query, table, bias, scores, batch["history"], batch["seen"])
        side = scores
        if self.side is not None:
            side = mask_seen(functional.linear(self.side(query), table, self.side_bias).float(), batch["seen"])
        named: dict[str, Tensor] = {}
        parts: list[Tensor] = []
        for number, (name, term) in enumerate(zip(self.names, self.terms, strict=True)):
            assert isinstance(term, Term)
            weight = value_at(term.loss.weight, progress)
            if not weight:
                named[name] = query.new_zeros(())
                continue
            value = term(side if term.auxiliary else scores, representation, self._target(batch, term, progress))
            named[name] = value
            parts.append(weight * self._balance(number, term, value) * value)
        if self.training:
            self.step += 1
        return {**named, "loss": torch.stack(parts).sum() if parts else 0.0 * query.sum()}

    def _target(self, batch: Batch, term: Term, progress: float) -> SoftTarget:
        teacher = term.loss.teacher
        prefix = f"{teacher}/" if teacher else ""
        return SoftTarget(
            label=batch["label"],
            **{name: batch.get(prefix + name) for name in SOFT},
            temperatures=self.temperatures.get(teacher, (1.0,)),
            user=batch.get("user"),
            strata=self.strata,
            popularity=self.popularity,
            progress=progress,
        )

    def _balance(self, number: int, term: Term, value: Tensor) -> float:
        """mean(first term) / mean(this term) where it is asked for; both means forget old steps at one rate."""
        if self.training:
            self.sizes[number] = MOMENTUM * self.sizes[number] + (1 - MOMENTUM) * value.detach().abs()
        if not term.loss.balance or number == 0 or float(self.sizes[number]) <= 0:
            return 1.0
        return float(self.sizes[0] / self.sizes[number])


def _unique(names: Sequence[str]) -> list[str]:
    """Names of terms; a loss that is used twice, with other settings, becomes name and name_2."""
    taken: dict[str, int] = {"loss": 1}
    unique = []
    for name in names:
        taken[name] = taken.get(name, 0) + 1
        unique.append(name if taken[name] == 1 else f"{name}_{taken[name]}")
    return unique
