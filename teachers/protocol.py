"""What a teacher's member must offer to be trained, fused, saved and asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from distill.data.contexts import ContextBatch
from distill.data.dataset import Dataset
from distill.job import Job


@dataclass(frozen=True)
class Inputs:
    """What a member is fitted on.

    Attributes:
        dataset: Only its train part may be learned from.
        vectors: Item vectors (N, d) of the members fitted before, by member name.
        seed: Seed of the experiment.
        device: Where to compute.
    """

    dataset: Dataset
    vectors: dict[str, Tensor]
    seed: int
    device: torch.device


class Member(Protocol):
    """One scorer of a fused teacher: a language model, a history model on its vectors, or a classic one.

    A plug-in's constructor takes its settings as plain arguments. Then `prepare` is called once; where `job` gives
    something to train, the engine trains it, calling `refresh` before each validation; `finish` gets the best weights.

    A member may also offer `context_vectors(batch) -> (B, H)`, its own vectors of the histories; the setting
    `scores.hidden` stores them for losses on representations.
    """

    def prepare(self, inputs: Inputs) -> None:
        """Builds tables or modules from the train part; closed-form members are fitted here."""

    def job(self) -> Job | None:
        """What the engine is to train, or None."""

    def refresh(self, model: nn.Module, accelerator: Any) -> None:
        """Recomputes what `score` needs from the (wrapped) model in training; called in every process."""

    def finish(self, weights: dict[str, Tensor]) -> None:
        """Takes the best weights of the training."""

    def score(self, batch: ContextBatch) -> Tensor:
        """Raw log-scores (B, N) over the catalogue; seen items are masked by the caller."""

    def item_vectors(self) -> Tensor | None:
        """Item vectors (N, d) that other members and students may start from, or None."""

    def save(self, folder: Path) -> None:
        """Writes safetensors, and Hugging Face files where there is a language model; no pickle."""

    def load(self, folder: Path) -> Self:
        """Reads what `save` wrote into a member made with the same settings."""
