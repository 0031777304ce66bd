"""Small tensor helpers that teachers, objectives and stages share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from distill.data.contexts import Contexts
from distill.job import Batch


def mask_seen(scores: Tensor, seen: Tensor) -> Tensor:
    """Sets the scores (B, N) of seen items (B, S) to -inf, in place.

    Seen items are padded with N or more; a row of padding alone masks nothing.
    """
    n_items = scores.shape[1]
    if torch.compiler.is_compiling():  # without a look at the batch
        hidden = torch.zeros(len(scores), n_items + 1, dtype=torch.bool, device=scores.device)
        return scores.masked_fill(hidden.scatter(1, seen.clamp_max(n_items), True)[:, :n_items], -torch.inf)
    last = seen[:, -1:].clamp_max(n_items - 1)
    empty = seen[:, -1] >= n_items
    index = torch.where(seen < n_items, seen, last)
    if bool(empty.any()):
        kept = scores[empty].clone()
        scores = scores.scatter_(1, index, -torch.inf)
        scores[empty] = kept
        return scores
    return scores.scatter_(1, index, -torch.inf)


def shuffled(rows: np.ndarray, batch_size: int, seed: int, epoch: int, most: int = 0) -> list[np.ndarray]:
    """Rows in batches of about `batch_size`, in an order that depends on (seed, epoch) alone; [] for no rows.

    With `most`, an epoch is a random sample of at most so many rows, another one each time.
    """
    if not len(rows):
        return []
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    order = order[:most] if most else order
    return np.array_split(order, max(1, round(len(order) / batch_size)))


def next_item_batch(contexts: Contexts, rows: np.ndarray, max_length: int) -> Batch:
    """Tensors history (B, L), seen (B, S) and label (B,) of some contexts."""
    batch = contexts.batch(rows, max_length)
    return {
        "history": torch.from_numpy(batch.history),
        "seen": torch.from_numpy(batch.seen),
        "label": torch.from_numpy(batch.target),
    }


def query_of(student: Any, history: Tensor, users: Tensor | None = None) -> Tensor:
    """A student's queries (B, D) for histories (B, L), with what it knows of the users (B,) if it has a user side."""
    query: Tensor = student.encode(history)
    known = getattr(student, "user_vectors", None)
    addition = None if users is None or known is None else known(users)
    return query if addition is None else query + addition


def history_pools(history: Tensor, table: Tensor, decays: Tensor, dropped: float = 0.0) -> Tensor:
    """Weighted means of the history's item vectors, one for each decay.

    pool_k = sum_j w_kj table[item_j] / sum_j w_kj, w_kj = exp(-age_j / decay_k), age 0 for the latest item.

    Args:
        history: Item indices (B, L), right-aligned, padded with N or more.
        table: Item vectors (N, D).
        decays: Time constants in items (K,); gradients flow into them.
        dropped: Share of history items left out at random, for training; a history that would be empty stays whole.

    Returns:
        (B, K, D); zeros for an empty history.

    The sum is an embedding bag: the vectors of B x L items are never laid out, which is four to seven times faster on a
    CPU than gathering them.
    """
    inside = history < table.shape[0]
    index = torch.where(inside, history, 0)
    age = torch.arange(history.shape[1] - 1, -1, -1, device=history.device, dtype=table.dtype)
    kept = inside.to(table.dtype)
    if dropped:
        remaining = kept * (torch.rand_like(kept) >= dropped)
        kept = torch.where(remaining.any(1, keepdim=True), remaining, kept)
    weights = torch.exp(-age / decays[:, None])[:, None, :] * kept  # (K, B, L)
    weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-6)
    if torch.compiler.is_exporting():  # ONNX has no embedding bag, it would become a loop over the batch
        return weights.transpose(0, 1) @ functional.embedding(index, table)
    pools = [functional.embedding_bag(index, table, per_sample_weights=w, mode="sum") for w in weights]
    return torch.stack(pools, 1)


def nearest_rows(vectors: Tensor, count: int, block: int = 1024) -> Tensor:
    """Of each row, the `count` others with the largest cosine, int64 (R, count), in blocks of rows.

    Args:
        vectors: Rows (R, D); with fewer than two rows each row is its own neighbour.
        count: At most R - 1.
        block: Rows compared at once.
    """
    unit = functional.normalize(vectors, dim=-1)
    if len(unit) < 2:
        return torch.zeros(len(unit), count, dtype=torch.int64)
    parts = []
    for first in range(0, len(unit), block):
        similar = unit[first : first + block] @ unit.T
        rows = torch.arange(len(similar))
        similar[rows, rows + first] = -2.0
        parts.append(similar.topk(count, dim=1).indices)
    return torch.cat(parts)
