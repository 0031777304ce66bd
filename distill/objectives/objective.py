"""The one module that training wraps: a student together with its weighted losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill.config import Loss, value_at
from distill.job import Batch
from distill.objectives.by_rows import RowScores, by_rows
from distill.objectives.by_sets import SetScores, by_sets
from distill.objectives.knowledge import Knowledge, Representation
from distill.objectives.reading import read_together
from distill.objectives.term import Term
from distill.soft.target import SoftTarget
from distill.tensors import mask_seen, query_of
from distill.windows.seen import seen_of

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
        self.forms = _forms(self.terms, student)
        self.steps = steps
        self.run: Callable[[Batch, float], dict[str, Tensor]] = self._losses
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
        return self.run(batch, min(1.0, float(self.step) / self.steps) if self.steps else 0.0)

    def compile(self, **settings: Any) -> None:
        """Has torch.compile make a program of all but the look at the clock; the settings are torch.compile's."""
        self.run = torch.compile(self._losses, **settings)

    def _losses(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        if "set_row" in batch:
            return self._by_sets(batch, progress)
        state = self._query(batch)
        if self.forms:
            return self._by_rows(state, batch, progress)
        table, bias = self.student.item_table(), self.student.item_bias()
        query = state[:, : table.shape[1]]
        scores = functional.linear(query, table, bias).float()
        if hasattr(self.student, "all_corrections"):  # a student of pairs: what it adds to the dot products
            scores = scores + self.student.all_corrections(state)
        scores = _masked(scores, batch)
        seen = batch.get("seen", batch["history"])  # windows are for losses on labels, none of which looks here
        representation = Representation(query, table, bias, scores, batch["history"], seen)
        side = scores
        if self.side is not None:
            side_bias = torch.where(bias.isneginf(), bias, self.side_bias)  # what the student leaves out stays out
            side = _masked(functional.linear(self.side(query), table, side_bias).float(), batch)
        with read_together([scores] if side is scores else [scores, side], self._lists(batch)):
            named, parts = self._term_losses(scores, side, representation, batch, progress)
        for name, (weight, value) in self._head_losses(query, table, batch).items():
            named[name] = value
            parts.append(weight * value)
        if self.training:
            self.step += 1
        return {**named, "loss": torch.stack(parts).sum() if parts else 0.0 * query.sum()}

    def _term_losses(
        self, scores: Tensor, side: Tensor, representation: Representation, batch: Batch, progress: float
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Each term's loss by name, and the weighted parts of the total."""
        named: dict[str, Tensor] = {}
        parts: list[Tensor] = []
        for number, (name, term) in enumerate(zip(self.names, self.terms, strict=True)):
            assert isinstance(term, Term)
            weight = value_at(term.loss.weight, progress)
            if not weight:
                named[name] = scores.new_zeros(())
                continue
            value = term(side if term.auxiliary else scores, representation, self._target(batch, term, progress))
            named[name] = value
            parts.append(weight * self._balance(number, term, value) * value)
        return named, parts

    def _lists(self, batch: Batch) -> list[Tensor]:
        """What the terms pick of the scores: the labels, and each teacher's lists."""
        teachers = dict.fromkeys(term.loss.teacher for term in self.terms if isinstance(term, Term))
        lists = [batch.get(f"{teacher}/items" if teacher else "items") for teacher in teachers]
        return [batch["label"][:, None], *(found for found in lists if found is not None)]

    def _by_rows(self, query: Tensor, batch: Batch, progress: float) -> dict[str, Tensor]:
        """The losses where none needs more than some items' rows: the catalogue's size costs nothing."""
        rows, table, bias = self._rows()
        scores = RowScores(query.float(), rows, table, bias, seen_of(batch, len(bias)))
        return self._formed(self.forms, scores, batch, progress)

    def _by_sets(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """The losses of histories that have many labels each, see `distill.windows.halves`."""
        forms = [by_sets(term.function, name) for name, term in zip(self.names, self.terms, strict=True)]  # type: ignore[arg-type]
        items, row = batch["history"], batch["set_row"]
        query = self.student.encode_sets(items, row, len(batch["user"]))
        rows, table, bias = self._rows()
        label, label_row = batch["label"], batch["label_row"]
        owned, owner = torch.cat([items, label]), torch.cat([row, label_row])
        scores = SetScores(query.float(), rows, table, bias, label, label_row, owned, owner)
        return self._formed(forms, scores, batch, progress)

    def _rows(self) -> tuple[Callable[[Tensor], Tensor], Tensor | None, Tensor]:
        """What gives the vectors of some items, the whole table unless rows alone are read, and the biases."""
        bias = self.student.item_bias()
        if getattr(self.student, "by_rows", False) and self.training:
            return self.student.item_rows, None, bias
        table = self.student.item_table()
        return partial(_rows_of, table), table, bias

    def _formed(
        self, forms: Sequence[Callable[..., Tensor]], scores: RowScores | SetScores, batch: Batch, progress: float
    ) -> dict[str, Tensor]:
        """The losses in forms that make their scores themselves."""
        named: dict[str, Tensor] = {}
        parts: list[Tensor] = []
        for number, (name, term, form) in enumerate(zip(self.names, self.terms, forms, strict=True)):
            assert isinstance(term, Term)
            settings = {key: value_at(value, progress) for key, value in term.loss.arguments.items()}
            named[name] = form(scores, self._target(batch, term, progress), **settings)
            weight = value_at(term.loss.weight, progress)
            parts.append(weight * self._balance(number, term, named[name]) * named[name])
        if self.training:
            self.step += 1
        return {**named, "loss": torch.stack(parts).sum()}

    def _query(self, batch: Batch) -> Tensor:
        if "window_first" in batch:
            queries: Tensor = self.student.encode_windows(
                batch["history"], len(batch["label"]) // len(batch["window_first"])
            )
            return queries
        return query_of(self.student, batch["history"], batch.get("user"))

    def _head_losses(self, query: Tensor, table: Tensor, batch: Batch) -> dict[str, tuple[float, Tensor]]:
        """Weight and loss of the student's heads beside the ranking, where it has any."""
        heads = getattr(self.student, "head_losses", None)
        return heads(query, table, batch) if heads is not None else {}

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


def _forms(terms: Any, student: Any) -> list[Callable[..., Tensor]]:
    """Each loss in its form that needs rows alone; [] where one of them, or the student, needs the whole catalogue."""
    if hasattr(student, "all_corrections") or getattr(student, "heads", None) is not None:
        return []
    plain = [not (term.loss.gate or term.loss.strata or term.auxiliary) for term in terms]
    forms = [by_rows(term.function, term.loss.arguments) for term in terms]
    found = [form for form in forms if form is not None]
    return found if all(plain) and len(found) == len(forms) else []


def _rows_of(table: Tensor, items: Tensor) -> Tensor:
    return functional.embedding(items, table)


def _masked(scores: Tensor, batch: Batch) -> Tensor:
    """Scores (B, N), -inf at seen items, in place."""
    if "window_first" in batch:
        return seen_of(batch, scores.shape[1]).mask(scores)  # type: ignore[union-attr]
    return mask_seen(scores, batch["seen"])


def _unique(names: Sequence[str]) -> list[str]:
    """Names of terms; a loss that is used twice, with other settings, becomes name and name_2."""
    taken: dict[str, int] = {"loss": 1}
    unique = []
    for name in names:
        taken[name] = taken.get(name, 0) + 1
        unique.append(name if taken[name] == 1 else f"{name}_{taken[name]}")
    return unique
