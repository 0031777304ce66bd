"""Real train histories by which roundings are calibrated."""

from __future__ import annotations

import numpy as np

from distill.data.contexts import train_contexts
from distill.data.dataset import Dataset


def calibration_histories(dataset: Dataset, rows: int, max_length: int, seed: int = 0) -> np.ndarray | None:
    """Prefixes of train sequences, drawn by seed; validation and test take no part.

    Args:
        dataset: A prepared data set.
        rows: How many at most; 0 for none.
        max_length: L, the last so many items of each.
        seed: Of the draw.

    Returns:
        Item indices int64 (Q, L), padded on the left with N; None for no rows.
    """
    contexts = train_contexts(dataset)
    if not rows or not len(contexts):
        return None
    drawn = np.arange(len(contexts))
    if len(drawn) > rows:
        drawn = np.sort(np.random.default_rng(seed).choice(drawn, rows, replace=False))
    return contexts.batch(drawn, max_length).history
