"""Where a student's targets come from: the store, or teachers asked on the spot; both give the same dictionary.

The keys are field names of `SoftTarget`, so a training batch takes them as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from distill.data.contexts import ContextBatch, Contexts
from distill.errors import UserError
from distill.soft.store import ABSENT, Store
from distill.tensors import mask_seen

SELECTED_BY_NUMPY = 8192  # columns up to which numpy selects the largest
WHOLE = 1_000_000  # longest history a teacher is asked about: nothing is cut
Ask = Callable[[ContextBatch], Tensor]


class Targets(Protocol):
    """A teacher's answers by row id.

    Attributes:
        rows: Contexts that can be looked up, 0 to rows - 1.
        temperatures: Temperatures of the columns of `logz`.
        hidden: Width H of the teacher's context vectors; 0 where there are none.
    """

    rows: int
    temperatures: tuple[float, ...]
    hidden: int

    def lookup(self, rows: np.ndarray) -> dict[str, Tensor]:
        """Answers to the contexts `rows` (B,), in that order, under the names of `SoftTarget`'s fields.

        Returns:
            items int64 (B, K), best first, -1 where there is no more; scores float32 (B, K); logz float32 (B, T); and
            where there are any tail_items int64, tail_scores, tail_logq float32 (B, S), hidden float32 (B, H) and
            dense float32 (B, N), -inf at seen items. A context that no teacher was asked about has items -1 throughout.
        """


class StoreTargets:
    """Answers that were stored before; reading is memory-mapped."""

    def __init__(self, store: Store, names: Sequence[str] | None = None) -> None:
        """Wraps a store.

        Args:
            store: An open store.
            names: Fields to look up; by default all that the store holds.

        Raises:
            UserError: A field that the store doesn't hold, for instance hidden vectors.
        """
        self.store, self.rows = store, store.rows
        self.names = tuple(names) if names is not None else store.fields
        store.require(self.names)
        self.temperatures = tuple(store.header.temperatures)
        self.hidden = store.header.hidden if "hidden" in self.names else 0

    def lookup(self, rows: np.ndarray) -> dict[str, Tensor]:
        """See `Targets.lookup`."""
        found = self.store.lookup(rows, self.names)
        return {
            name: torch.from_numpy(value).to(torch.int64 if value.dtype.kind == "i" else torch.float32)
            for name, value in found.items()
        }


class LiveTargets:
    """Answers of one or several teachers, asked when they are needed.

    Several teachers are fused as the weighted mean of their log-softmax scores over the items outside the history: a
    product of experts, in which the scale and offset of each teacher's scores don't count twice.
    """

    def __init__(
        self,
        ask: Ask | Sequence[Ask],
        contexts: Contexts,
        k: int,
        temperatures: Sequence[float] = (1.0,),
        weights: Sequence[float] | None = None,
        context_vectors: Ask | None = None,
        dense: bool = True,
        cache_rows: int = 0,
    ) -> None:
        """Settings.

        Args:
            ask: A teacher's unmasked scores (B, N) of a batch of contexts, or several such functions.
            contexts: What row ids mean.
            k: Items an answer lists, less than the catalogue.
            temperatures: Where log-sum-exp is given; 1 should be among them.
            weights: One a teacher, not negative; all alike by default. They are scaled to add to 1.
            context_vectors: The teacher's vectors (B, H) of a batch, or None.
            dense: Whether an answer holds the whole row of scores too.
            cache_rows: Answers kept in memory; 0 keeps none. The first ones asked for stay: training walks over all
                rows once an epoch, and a cache that makes room for the latest would have lost each row by then.

        Raises:
            UserError: k reaches the catalogue, or the weights don't fit the teachers.
        """
        self.ask = (ask,) if callable(ask) else tuple(ask)
        check_k(k, contexts.n_items)
        self.weights = unit_weights(weights, len(self.ask))
        self.contexts, self.k, self.rows = contexts, k, len(contexts)
        self.temperatures = tuple(temperatures)
        self.context_vectors, self.dense = context_vectors, dense
        self.hidden = 0
        if context_vectors is not None and self.rows:
            self.hidden = context_vectors(contexts.batch(np.zeros(1, np.int64), WHOLE)).shape[1]
        self._place = np.full(self.rows if cache_rows else 0, -1, np.int64)  # row id to its place in the cache
        self._room, self._used = min(cache_rows, self.rows), 0
        self._kept: dict[str, Tensor] = {}

    def lookup(self, rows: np.ndarray) -> dict[str, Tensor]:
        """See `Targets.lookup`. Rows that are in the cache aren't asked again."""
        rows = np.asarray(rows, np.int64)
        if not self._room:
            return self._answer(rows)
        fresh = np.unique(rows[self._place[rows] < 0])
        answers = self._answer(fresh) if len(fresh) or not self._kept else {}
        self._keep(fresh, answers)
        place = self._place[rows]
        kept = torch.from_numpy(np.flatnonzero(place >= 0))
        others = torch.from_numpy(np.flatnonzero(place < 0))
        at = torch.from_numpy(np.searchsorted(fresh, rows[place < 0]))
        out = {}
        for name, cache in self._kept.items():
            out[name] = cache.new_empty(len(rows), cache.shape[1])
            out[name][kept] = cache[torch.from_numpy(place[place >= 0])]
            if len(others):
                out[name][others] = answers[name][at]
        return out

    def _keep(self, rows: np.ndarray, answers: dict[str, Tensor]) -> None:
        for name, value in answers.items():
            self._kept.setdefault(name, value.new_empty(self._room, value.shape[1]))
        count = min(self._room - self._used, len(rows))
        places = np.arange(self._used, self._used + count)
        for name, value in answers.items():
            self._kept[name][self._used : self._used + count] = value[:count]
        self._place[rows[:count]] = places
        self._used += count

    @torch.no_grad()
    def _answer(self, rows: np.ndarray) -> dict[str, Tensor]:
        batch = self.contexts.batch(rows, WHOLE)
        seen = torch.from_numpy(batch.seen)
        scores = self._fused(batch, seen)
        out = top_answers(scores, self.k, self.temperatures)
        if self.dense:
            out["dense"] = scores
        if self.context_vectors is not None:
            out["hidden"] = self.context_vectors(batch).float().cpu()
        return out

    def _fused(self, batch: ContextBatch, seen: Tensor) -> Tensor:
        """Masked scores (B, N): a single teacher's own, or the weighted mean of log-softmax scores."""
        if len(self.ask) == 1:
            return mask_seen(self.ask[0](batch).float().cpu().clone(), seen)
        total = torch.zeros(len(batch.row_id), self.contexts.n_items)
        for ask, weight in zip(self.ask, self.weights, strict=True):
            if weight:
                scores = mask_seen(ask(batch).float().cpu().clone(), seen)
                total += weight * scores.log_softmax(-1)
        return total


def top_answers(scores: Tensor, k: int, temperatures: Sequence[float]) -> dict[str, Tensor]:
    """A teacher's masked scores (B, N), -inf at seen items, as items (B, k), scores (B, k) and logz (B, T).

    Rows with fewer than k unseen items are padded with item -1.
    """
    values, items = largest(scores, k)
    missing = values.isneginf()
    return {
        "items": items.masked_fill(missing, -1),
        "scores": values.masked_fill(missing, ABSENT),
        "logz": torch.stack([(scores if t == 1 else scores / t).logsumexp(-1) for t in temperatures], 1),
    }


def largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row (B, N), best first, and where they are, int64; equal ones in any order.

    Up to some thousand columns numpy's selection takes half the time of torch's on a CPU.
    """
    if scores.device.type != "cpu" or not k < scores.shape[1] <= SELECTED_BY_NUMPY:
        best = scores.topk(k, dim=1)
        return best.values, best.indices
    array = scores.detach().numpy()
    items = np.argpartition(array, array.shape[1] - k, axis=1)[:, -k:]
    values = np.take_along_axis(array, items, 1)
    order = np.argsort(-values, axis=1, kind="stable")
    found = np.take_along_axis(values, order, 1), np.take_along_axis(items, order, 1)
    return torch.from_numpy(found[0]), torch.from_numpy(found[1])


def check_k(k: int, n_items: int) -> None:
    """Refuses a list as long as the catalogue or an empty one.

    Raises:
        UserError: k is not between 1 and n_items - 1.
    """
    if not 1 <= k < n_items:
        raise UserError(
            f"'scores.k' is {k}, expected 1 to {n_items - 1}: the catalogue has {n_items} items. Lower it, for "
            f"instance scores.k={min(100, max(1, n_items // 10))}."
        )


def unit_weights(weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
    """Weights of several teachers, scaled to add to 1; all alike where none are given.

    Raises:
        UserError: Another number of weights than teachers, a negative or infinite one, or all zero.
    """
    given = [1.0] * count if weights is None else [float(w) for w in weights]
    if len(given) != count:
        raise UserError(f"There are {len(given)} weights for {count} teachers; give one for each.")
    if not all(np.isfinite(given)) or min(given) < 0 or sum(given) <= 0:
        raise UserError(f"Weights of teachers are {given}, expected numbers of 0 or more, not all 0.")
    return tuple(w / sum(given) for w in given)
