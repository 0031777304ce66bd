"""Student scores read once for all terms: one pass for the softmax's normaliser, one gradient for all that is picked.

A loss on scores needs few of a row's N numbers and the row's log-sum-exp. Each such reading, taken by itself, costs a
gradient of the size of all scores; read together they cost one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor


class _Read(torch.autograd.Function):
    """Scores (B, N) and columns (B, C) to the scores there (B, C) and the row's log-sum-exp (B,)."""

    @staticmethod
    def forward(context: Any, scores: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        total = scores.logsumexp(-1)
        empty = total.isneginf()
        # As if nothing were masked, so that it stays finite; no gradient flows, since exp(-inf) is 0.
        total = torch.where(empty, float(torch.tensor(scores.shape[1]).log()), total)
        context.save_for_backward(scores, columns, total)
        return scores.gather(1, columns), total

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        of_columns, of_total = gradients
        scores, columns, total = context.saved_tensors
        out = (scores - total[:, None]).exp_().mul_(of_total[:, None])
        return out.scatter_add_(1, columns, of_columns), None


class _Reading:
    """What was read of one matrix of scores."""

    def __init__(self, scores: Tensor, lists: Sequence[Tensor]) -> None:
        self.scores, self.lists = scores, lists
        self.read: tuple[Tensor, Tensor] | None = None

    def both(self) -> tuple[Tensor, Tensor]:
        if self.read is None:
            self.read = _Read.apply(self.scores, torch.cat(list(self.lists), 1).clamp_min(0))
        return self.read

    def picked(self, items: Tensor) -> Tensor | None:
        start = 0
        for known in self.lists:
            if known.data_ptr() == items.data_ptr() and known.shape == items.shape:  # also another view of the same
                return self.both()[0][:, start : start + known.shape[1]]
            start += known.shape[1]
        return None


_readings: ContextVar[tuple[_Reading, ...]] = ContextVar("readings", default=())


@contextlib.contextmanager
def read_together(matrices: Sequence[Tensor], lists: Sequence[Tensor]) -> Iterator[None]:
    """Inside the block, losses that read these scores share the normaliser and one gradient.

    Args:
        matrices: Score matrices (B, N), seen items masked with -inf.
        lists: Item indices (B, C) that losses will pick, the same memory that they will ask with; -1 pads.
    """
    if torch.compiler.is_compiling():  # the compiler makes one of equal sums by itself, and can't follow what is below
        yield
        return
    token = _readings.set(tuple(_Reading(scores, lists) for scores in matrices))
    try:
        yield
    finally:
        _readings.reset(token)


def picked(scores: Tensor, items: Tensor) -> Tensor:
    """Scores (B, C) of items (B, C); of item -1, those of item 0."""
    for reading in _open_readings():
        if reading.scores is scores:
            found = reading.picked(items)
            if found is not None:
                return found
    return scores.gather(1, items.clamp_min(0))


def log_total(scores: Tensor) -> Tensor:
    """log-sum-exp over the catalogue (B,), finite (and without a gradient) where everything is masked."""
    for reading in _open_readings():
        if reading.scores is scores:
            return reading.both()[1]
    if torch.compiler.is_compiling():
        empty = scores.isneginf().all(-1, keepdim=True)
        return torch.where(empty, 0.0, scores).logsumexp(-1)
    total = scores.logsumexp(-1)
    empty = total.isneginf()
    if bool(empty.any()):
        total = scores.masked_fill(empty[:, None], 0.0).logsumexp(-1)
    return total


def is_shared(scores: Tensor) -> bool:
    """Whether these scores are read together with other losses."""
    return any(reading.scores is scores for reading in _open_readings())


def _open_readings() -> tuple[_Reading, ...]:
    return () if torch.compiler.is_compiling() else _readings.get()
