"""One term of the total loss: a loss function or module, and everything a config may wrap around it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from distill.config import Loss, Schedule, value_at
from distill.errors import UserError
from distill.objectives.knowledge import Knowledge, Representation
from distill.objectives.popularity import adjust
from distill.objectives.reliability import reliability
from distill.objectives.strata import within_strata
from distill.plugins import resolve
from distill.soft.target import SoftTarget


class Term(nn.Module):
    """A loss by name with its schedules, gate, strata and head.

    A function `f(scores, target, **settings)` compares scores; a class with `forward(representation, target)` compares
    vectors and may hold parameters of its own.
    """

    def __init__(self, loss: Loss, knowledge: Knowledge) -> None:
        """Resolves the loss.

        Raises:
            UserError: A loss on vectors with a schedule, gate, strata or auxiliary head, which only losses on scores
                take.
        """
        super().__init__()
        self.loss = loss
        found = resolve("loss", loss.name)
        on_vectors = inspect.isclass(found)
        if on_vectors:
            _refuse_score_options(loss)
        self.module: nn.Module | None = found(knowledge=knowledge, **loss.arguments) if on_vectors else None
        self.function: Callable[..., Tensor] | None = None if on_vectors else found

    @property
    def auxiliary(self) -> bool:
        """Whether it acts on the side head's scores."""
        return self.loss.head == "auxiliary"

    def forward(self, scores: Tensor, representation: Representation, target: SoftTarget) -> Tensor:
        """The loss, a scalar, without its weight."""
        if self.module is not None:
            return self.module(representation, target)
        assert self.function is not None
        settings = {name: value_at(value, target.progress) for name, value in self.loss.arguments.items()}
        function = partial(self.function, **settings)
        if self.loss.gate:
            gate = self.loss.gate if isinstance(self.loss.gate, dict) else {}
            target = replace(target, weights=reliability(scores, target, **gate))
        if not self.loss.strata:
            return function(scores, target)
        if self.loss.popularity_adjustment:
            target = adjust(target, self.loss.popularity_adjustment)
        return within_strata(function, scores, target)


def _refuse_score_options(loss: Loss) -> None:
    asked: dict[str, Any] = {
        "gate": loss.gate,
        "strata": loss.strata,
        "head: auxiliary": loss.head == "auxiliary",
        "a schedule of a setting": any(isinstance(v, Schedule) for v in loss.arguments.values()),
    }
    for what, given in asked.items():
        if given:
            raise UserError(
                f"loss '{loss.name}' compares vectors, not scores, so it can't take {what}. Its weight may have a "
                "schedule."
            )
