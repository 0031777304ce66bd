"""What a teacher's member must offer to be trained, fused, saved and asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from distill.data.contexts import ContextBatch
from distill.data.dataset import Dataset
from distill.job import Job


@dataclass(frozen=True)
class Earlier:
    """A member fitted before, as later ones may build on it.

    Attributes:
        name: What it is: a short name or a dotted path.
        arguments: Its settings.
        member: Itself, fitted.
    """

    name: str
    arguments: dict[str, Any]
    member: Member


@dataclass(frozen=True)
class Inputs:
    """What a member is fitted on.

    Attributes:
        dataset: Only its train part may be learned from.
        vectors: Item vectors (N, d) of the members fitted before, by member name.
        seed: Seed of the experiment.
        device: Where to compute.
        members: The members fitted before, by member name.
    """

    dataset: Dataset
    vectors: dict[str, Tensor]
    seed: int
    device: torch.device
    members: dict[str, Earlier] = field(default_factory=dict)


class Member(Protocol):
    """One scorer of a fused teacher: a language model, a history model on its vectors, or a classic one.

    A plug-in's constructor takes its settings as plain arguments. Then `prepare` is called once; where `job` gives
    something to train, the engine trains it, calling `refresh` before each validation; `finish` gets the best weights.

    A member may also offer `context_vectors(batch) -> (B, H)`, its own vectors of the histories; the setting
    `scores.hidden` stores them for losses on representations. Two attributes count where it has them:
    `validation_users`, on how many users at most validation asks it (and the fusion that it is part of), for members
    that take long to answer; and `figures`, what else member.json is to report.

    A member with `settle(quality)` is asked, after `finish`, to choose what only validation can tell, such as whether a
    gate stays open; `quality()` is the validation ndcg@10 of its `score` as it is at that moment.

    A member that answers many contexts together at less cost offers `answering(batch)`: something whose `score` gives
    the same scores for any part of `batch` (row ids ascending). Scoring asks for it with some thousand neighbouring
    contexts, and then for their scores in blocks that fit in memory.
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
