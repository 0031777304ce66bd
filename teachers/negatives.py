"""Negatives for a reranker: other candidates of the first stage, and any items."""

from __future__ import annotations

import numpy as np

TRIES = 8  # redraws of items that may not be negatives


def draw_negatives(
    candidates: np.ndarray, valid: np.ndarray, target: np.ndarray, seen: np.ndarray, n_items: int, count: int,
    hard: int, rng: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """Negatives of some contexts: `hard` of them candidates of the first stage, the rest uniform over the catalogue.

    Args:
        candidates: Of the first stage (B, K).
        valid: Which of them count (B, K).
        target: The item that came next (B,); never a negative.
        seen: Items of the history (B, S), padded with N; no negatives either, unless nothing else is left.
        n_items: N.
        count: M.
        hard: At most M; where a row has fewer candidates, uniform ones stand in.
        rng: Decides the draws.

    Returns:
        int64 (B, M).
    """
    drawn = rng.integers(0, n_items, (len(target), count))
    for _ in range(TRIES):
        wrong = (drawn == target[:, None]) | (drawn[:, :, None] == seen[:, None, :]).any(-1)
        if not wrong.any():
            break
        drawn[wrong] = rng.integers(0, n_items, int(wrong.sum()))
    if hard:
        key = np.where(valid & (candidates != target[:, None]), rng.random(candidates.shape), 2.0)
        order = np.argsort(key, axis=1)[:, :hard]
        usable = np.take_along_axis(key, order, 1) < 2.0
        drawn[:, : order.shape[1]] = np.where(
            usable, np.take_along_axis(candidates, order, 1), drawn[:, : order.shape[1]]
        )
    return drawn
