"""What a student says of an item besides its rank: ratings, and probabilities of clicks or likes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distill.serving.session import open_session

HEADS = "heads.onnx"


class HeadGraph:
    """The exported heads, loaded. Safe to call from several threads."""

    def __init__(self, model: bytes, names: Sequence[str], threads: int = 1) -> None:
        """Loads the graph.

        Args:
            model: The bytes of an ONNX file that `distill.export.head_graph` wrote.
            names: Names of the heads (H,).
            threads: Threads inside an operator.
        """
        self.session = open_session(model, threads)
        self.names = list(names)

    def values(self, query: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Values float32 (B, K, H) of items int64 (B, K) for queries float32 (B, D); nan at items of -1."""
        values: np.ndarray = self.session.run(["values"], {"query": query, "items": np.maximum(items, 0)})[0]
        return np.where(items[..., None] >= 0, values, np.float32(np.nan))
