"""Cross-fitted labels: a user's contexts are answered by a member that was fitted without that user."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from distill.data.contexts import ContextBatch
from distill.data.dataset import HISTORY, TRAIN, Dataset
from teachers.closed_form import ClosedForm
from teachers.protocol import Member


def can_cross_fit(member: Member) -> bool:
    """Whether a member is fitted once for each fold: those of closed form, and any with `cross_fit = True`."""
    return bool(getattr(member, "cross_fit", isinstance(member, ClosedForm)))


def folds_of(n_users: int, folds: int, seed: int) -> np.ndarray:
    """Fold of each user, int64 (U,): equal sizes but for one, drawn by seed."""
    return np.random.default_rng([seed, folds]).permutation(n_users) % folds


def without(dataset: Dataset, users: np.ndarray) -> Dataset:
    """The same data set with the train events of some users, a mask (U,), known but not trained on."""
    out = users[dataset.event_users()] & (dataset.parts == TRAIN)
    return replace(dataset, parts=np.where(out, HISTORY, dataset.parts).astype(dataset.parts.dtype))


@dataclass
class CrossFitted:
    """A member as it labels the transfer set.

    A closed-form model has seen that a user's items occur together, so asked about a prefix of that user's history it
    ranks the held-back rest too high: its answer is half a hard label. Contexts that come from a train user, synthetic
    ones as well, are answered by the member fitted on the other folds; contexts of no user by the one fitted on all.

    References:
        Wolpert 1992, "Stacked generalization"; Dao et al. 2021, "Knowledge distillation as semiparametric inference",
        section 4 (cross-fitting of the teacher's labels).

    Attributes:
        whole: Fitted on all users.
        parts: Fitted without the users of fold 0, 1, ....
        fold: Fold of each user (U,).
    """

    whole: Member
    parts: list[Member]
    fold: np.ndarray

    @torch.no_grad()
    def score(self, batch: ContextBatch) -> Tensor:
        """Raw log-scores (B, N)."""
        known = batch.user >= 0
        fold = np.where(known, self.fold[np.where(known, batch.user, 0)], -1)
        present = np.unique(fold)
        if len(present) == 1:
            return self._of(int(present[0])).score(batch)
        total: Tensor | None = None
        for number in present:
            rows = np.flatnonzero(fold == number)
            part = ContextBatch(**{f.name: getattr(batch, f.name)[rows] for f in fields(batch)})
            scores = self._of(int(number)).score(part)
            if total is None:
                total = scores.new_empty(len(fold), scores.shape[1])
            total[torch.from_numpy(rows).to(scores.device)] = scores
        assert total is not None
        return total

    def _of(self, fold: int) -> Member:
        return self.whole if fold < 0 else self.parts[fold]
