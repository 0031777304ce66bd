"""Several tasks on one body: next item, click, rating, and how alike two items are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional

from distill.closed_form.interactions import interaction_matrix
from distill.data.contexts import ContextBatch, Kind, from_lists
from distill.data.dataset import TRAIN, Dataset
from distill.data.outcomes import damped_biases
from distill.errors import UserError
from distill.plugins import nearest
from distill.ranking.ratings import mae, rmse

WHOLE = 1_000_000  # items of a history: all of them
TASKS = ("next_item", "click", "rating", "similarity")
RANKING = ("next_item", "click")  # what can put candidates in order, the better first
Ranking = Literal["listwise", "pairwise", "pointwise"]


def check_tasks(who: str, tasks: dict[str, float]) -> dict[str, float]:
    """The tasks of weight above 0, in the order of `TASKS`.

    Raises:
        UserError: An unknown task, a weight that is no number from 0, or none that can put items in order.
    """
    for name, weight in tasks.items():
        if name not in TASKS:
            raise UserError(f"{who}: tasks has no '{name}'{nearest(str(name), TASKS)}.")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
            raise UserError(f"{who}: tasks.{name} is {weight!r}, expected a weight from 0.")
    used = {name: float(tasks[name]) for name in TASKS if tasks.get(name)}
    if not set(used) & {*RANKING, "rating"}:
        raise UserError(f"{who}: none of tasks puts items in order; give next_item, click or rating a weight.")
    return used


def train_ratings(who: str, dataset: Dataset) -> np.ndarray:
    """The rating of every train event in stored order, float32 (E,): the events' weights.

    Raises:
        UserError: The data set has none, or they are all alike.
    """
    if dataset.weights is None:
        raise UserError(
            f"{who}: tasks.rating needs ratings, and the prepared data has none. Set data.weight=rating (and "
            f"data.columns.rating where the column has an unusual name), or leave the task out."
        )
    ratings = dataset.weights[dataset.parts == TRAIN].astype(np.float32)
    if len(ratings) and ratings.min() == ratings.max():
        raise UserError(f"{who}: tasks.rating: every train rating is {ratings[0]:g}, there is nothing to learn.")
    return ratings


@dataclass(frozen=True)
class RatingBase:
    """r = mean + user bias + item bias: where a rating starts from; a head learns what is left, in units of `scale`.

    Attributes:
        mean: Of the train ratings.
        user: Biases (U,), float32.
        item: Biases (N,), float32.
        scale: Standard deviation of what the biases leave in the train ratings.
    """

    mean: float
    user: np.ndarray
    item: np.ndarray
    scale: float

    @classmethod
    def fit(cls, dataset: Dataset, ratings: np.ndarray) -> RatingBase:
        """From the train events and their ratings (E,)."""
        lists = dataset.lists(TRAIN, TRAIN)
        users = lists.row_numbers()
        mean, item, user = damped_biases(users, lists.items, ratings, dataset.n_users, dataset.n_items)
        left = ratings - mean - item[lists.items] - user[users]
        return cls(mean, user, item, max(float(left.std()), 1e-6))

    def of(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """The base of some pairs (P,); a user below 0 has no bias."""
        known = np.where(users >= 0, self.user[np.maximum(users, 0)], 0.0)
        return (self.mean + known + self.item[items]).astype(np.float32)


def rating_figures(
    predict: Callable[[ContextBatch, np.ndarray], np.ndarray],
    base: RatingBase,
    dataset: Dataset,
    part: int,
    seed: int = 0,
    most: int = 0,
) -> dict[str, float]:
    """mae and rmse of a part's ratings, with those of the train mean and of the biases beside them.

    Args:
        predict: Contexts and one item for each (B,) to expected ratings (B,).
        base: Fitted on the train part.
        dataset: With ratings as weights.
        part: VALID or TEST; the histories are all that is known before it.
        seed: Of the draw.
        most: So many events at most; 0 for all.
    """
    assert dataset.weights is not None
    events = np.flatnonzero(dataset.parts == part)
    if most and len(events) > most:
        events = np.sort(np.random.default_rng(seed).choice(events, most, replace=False))
    if not len(events):
        return {}
    users, items = dataset.event_users()[events], dataset.items[events].astype(np.int64)
    actual = dataset.weights[events].astype(np.float64)
    contexts = from_lists(dataset.history(part).take(users), dataset.n_items, Kind.REAL, users)
    blocks = np.array_split(np.arange(len(events)), max(1, len(events) // 1024))
    told = np.concatenate([predict(contexts.batch(rows, WHOLE), items[rows]) for rows in blocks])
    predicted = {"": told, " of the mean": np.full(len(items), base.mean), " of the biases": base.of(users, items)}
    figures = {f"{f.__name__}{of}": round(f(p, actual), 6) for of, p in predicted.items() for f in (mae, rmse)}
    return figures | {"ratings": len(events)}


@dataclass(frozen=True)
class CoOccurrence:
    """How often users who took one item took another: the cosine of the two items' columns.

    Attributes:
        by_user: Train interactions (U, N), ones, CSR.
        by_item: The same as CSC.
    """

    by_user: sparse.csr_matrix
    by_item: sparse.csc_matrix

    @classmethod
    def of(cls, dataset: Dataset) -> CoOccurrence:
        """From the train part."""
        matrix = interaction_matrix(dataset)
        return cls(matrix, matrix.tocsc())

    def cosine(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Cosines of item pairs, float32 (P,), 0 to 1; 0 for an item without interactions."""
        both = np.asarray(self.by_item[:, left].multiply(self.by_item[:, right]).sum(0)).ravel()
        counts = np.diff(self.by_item.indptr)
        return (both / np.sqrt(np.maximum(counts[left] * counts[right], 1))).astype(np.float32)

    def partners(self, items: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A second item for each: one that a user of the first also took, or, as often, any item. int64 (P,)."""
        n_items = self.by_item.shape[1]
        anything = rng.integers(0, n_items, len(items))
        begin, count = self.by_item.indptr[items], np.diff(self.by_item.indptr)[items]
        if not len(self.by_item.indices):
            return anything
        last = len(self.by_item.indices) - 1
        user = self.by_item.indices[np.minimum(begin + (rng.random(len(items)) * count).astype(np.int64), last)]
        start, length = self.by_user.indptr[user], np.diff(self.by_user.indptr)[user]
        other = self.by_user.indices[np.minimum(start + (rng.random(len(items)) * length).astype(np.int64), last)]
        return np.where((count > 0) & (rng.random(len(items)) < 0.5), other, anything).astype(np.int64)


class Heads(nn.Module):
    """A shared dense layer, and one output a task: pooled (P, h) to a number a pair (P,) for each task."""

    def __init__(self, width: int, tasks: tuple[str, ...]) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.outputs = nn.ModuleDict({task: nn.Linear(width, 1) for task in tasks})

    def forward(self, pooled: Tensor) -> dict[str, Tensor]:
        """Raw outputs: logits for next item, click and similarity, the scaled residual for rating."""
        hidden = torch.tanh(self.dense(pooled.to(self.dense.weight.dtype)))
        return {task: output(hidden).squeeze(-1).float() for task, output in self.outputs.items()}


def ranking_loss(logits: Tensor, form: Ranking) -> Tensor:
    """How badly the first column is told from the others.

    Args:
        logits: Of the item that came next, then of its negatives (B, 1 + M).
        form: `listwise` is a softmax over the row, `pairwise` the mean of -log sigmoid(first - other), `pointwise` the
            binary cross-entropy of each column.

    References:
        Listwise: Cao et al. 2007, "Learning to rank: from pairwise approach to listwise approach" (top one); pairwise:
        Burges et al. 2005, "Learning to rank using gradient descent"; pointwise: Nogueira and Cho 2019, "Passage
        re-ranking with BERT", eq. 1.
    """
    if form == "listwise":
        return -functional.log_softmax(logits, dim=1)[:, 0].mean()
    if form == "pairwise":
        return functional.softplus(logits[:, 1:] - logits[:, :1]).mean()
    target = torch.zeros_like(logits)
    target[:, 0] = 1
    return functional.binary_cross_entropy_with_logits(logits, target)


def task_losses(
    outputs: dict[str, Tensor], rows: int, rating: Tensor, similarity: Tensor, form: Ranking
) -> dict[str, Tensor]:
    """The unweighted loss of each task.

    Args:
        outputs: Of `Heads`, for B (1 + M) pairs of a context and a candidate (the first of each row came next), and
            then S pairs of items.
        rows: B.
        rating: What the rating head should say of the first candidates (B,).
        similarity: Co-occurrence of the pairs of items (S,).
        form: Of the loss of `next_item`.
    """
    count = len(next(iter(outputs.values()))) - len(similarity)
    tables = {task: output[:count].view(rows, -1) for task, output in outputs.items()}
    losses = {}
    if "next_item" in tables:
        losses["next_item"] = ranking_loss(tables["next_item"], form)
    if "click" in tables:
        losses["click"] = ranking_loss(tables["click"], "pointwise")
    if "rating" in tables:
        losses["rating"] = functional.mse_loss(tables["rating"][:, 0], rating)
    if "similarity" in tables:
        losses["similarity"] = functional.mse_loss(torch.sigmoid(outputs["similarity"][count:]), similarity)
    return losses
