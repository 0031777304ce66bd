"""What the losses of a training know of items, users and the teacher's space."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.config import Loss
from distill.data.contexts import Contexts, Kind
from distill.data.dataset import TRAIN, Dataset
from distill.data.strata import popularity_strata
from distill.objectives.knowledge import Knowledge
from distill.plugins import resolve
from distill.soft.targets import Targets
from distill.tensors import nearest_rows

STRATA = 4
NEIGHBOURS = 10


def knowledge_of(
    dataset: Dataset,
    student: Any,
    losses: Sequence[Loss],
    vectors: Tensor | None,
    contexts: Contexts,
    targets: Targets | None,
    build: Callable[[int], Any],
) -> Knowledge:
    """Popularity for all losses; what only losses on vectors need is worked out where there are any.

    Args:
        dataset: Prepared data.
        student: The student that is trained; its item table gives the width.
        losses: Terms of the total loss.
        vectors: The teacher's item vectors (N, T) or None.
        contexts: The rows of the training.
        targets: The run's teacher, or None.
        build: Makes a further student from a seed.
    """
    share = torch.from_numpy(dataset.popularity / max(1, dataset.popularity.sum())).float()
    table = student.item_table()
    known: dict[str, Any] = {
        "dim": table.shape[1],
        "n_items": dataset.n_items,
        "n_users": dataset.n_users,
        "strata": torch.from_numpy(popularity_strata(dataset.popularity, STRATA)),
        "popularity": share,
        "build": build,
    }
    if any(inspect.isclass(resolve("loss", loss.name)) for loss in losses):
        lists = dataset.lists(TRAIN, TRAIN)
        pairs, counts = item_pairs(lists.items, lists.row_numbers(), dataset.n_items)
        known |= {
            "item_vectors": vectors,
            "user_events": torch.from_numpy(np.diff(lists.indptr).astype(np.int64)),
            "pairs": torch.from_numpy(pairs),
            "pair_counts": torch.from_numpy(counts),
        }
        if targets is not None and targets.hidden:
            known |= {"hidden": targets.hidden, "neighbours": user_neighbours(contexts, targets, dataset.n_users)}
    return Knowledge(**known)


def item_pairs(items: np.ndarray, rows: np.ndarray, n_items: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of items that follow each other in a row, (2, E), and how often (E,)."""
    together = rows[1:] == rows[:-1]
    keys = items[:-1][together].astype(np.int64) * n_items + items[1:][together]
    found, counts = np.unique(keys, return_counts=True)
    return np.stack([found // n_items, found % n_items]), counts.astype(np.float32)


def user_neighbours(contexts: Contexts, targets: Targets, n_users: int) -> Tensor:
    """Users whose whole train history is nearest in the teacher's space, int64 (U, M); a user without one has itself.

    Args:
        contexts: The transfer set; a user's last real context is the whole train history.
        targets: The teacher, which gives hidden vectors.
        n_users: U.
    """
    real = np.flatnonzero((contexts.kind == Kind.REAL) & (contexts.user >= 0))
    last = np.full(n_users, -1, np.int64)
    np.maximum.at(last, contexts.user[real], real)
    users = np.flatnonzero(last >= 0)
    vectors = targets.lookup(last[users])["hidden"].float()
    near = nearest_rows(vectors, min(NEIGHBOURS, max(1, len(users) - 1)))
    out = torch.arange(n_users)[:, None].repeat(1, near.shape[1])
    out[torch.from_numpy(users)] = torch.from_numpy(users)[near]
    return out
