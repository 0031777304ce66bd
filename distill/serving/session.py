"""One exported graph, loaded: arrays of item indices in, ranked items out."""

from __future__ import annotations

import numpy as np
import onnxruntime

from distill.errors import UserError
from distill.serving.external import external_files

SCORES_AT_ONCE = 2**22  # scores of one call: 16 MB as float32, five times that inside the int8 graph
OUTPUTS = ["ids", "scores"]


def open_session(model: bytes, threads: int = 1) -> onnxruntime.InferenceSession:
    """Opens a graph for serving: few threads that don't spin, which is what keeps p99 low beside busy neighbours.

    Args:
        model: The bytes of an ONNX file. Bytes, not a path: what is loaded is what was checked.
        threads: Threads inside an operator.

    Raises:
        UserError: onnxruntime refuses the graph, or the graph keeps weights in other files.
    """
    outside = external_files(model)
    if outside:
        raise UserError(
            f"The model keeps weights in other files ({', '.join(outside)}); a bundle's model holds all of its own, so "
            "this one was not written by export-student. Export it again."
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no public base class
        raise UserError(f"onnxruntime {onnxruntime.__version__} can't load the model: {error}") from error


class Graph:
    """An exported graph, loaded: histories in, ranked items out. Safe to call from several threads."""

    def __init__(self, model: bytes, n_items: int, threads: int = 1) -> None:
        """Loads the graph.

        Args:
            model: The bytes of an ONNX file with the inputs and outputs that export writes.
            n_items: Catalogue size N, also the padding index.
            threads: Threads inside an operator.
        """
        self.session = open_session(model, threads)
        self.n_items = n_items

    def top(
        self, history: np.ndarray, seen: np.ndarray, k: int, user: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best k items of each history; large batches are walked through in pieces.

        Args:
            history: Item indices, int64 (B, L), padded on the left with N; B and L at least 1.
            seen: Items never listed, int64 (B, S), padded with N; S may be 0.
            k: 1..N.
            user: What is known of the users, float32 (B, D), for a graph with that input; None for nothing.

        Returns:
            ids int64 (B, k), best first, -1 where fewer than k items are left, and scores float32 (B, k).
        """
        rows = max(1, SCORES_AT_ONCE // (self.n_items + 1))
        length = np.array([k], np.int64)
        if user is not None:
            return self._top_of_users(history, seen, length, user, rows)
        if len(history) <= rows:
            # Binding inputs and outputs beforehand was measured too: it saves less than 1 % at batch 1.
            ids, scores = self.session.run(OUTPUTS, {"history": history, "seen": seen, "k": length})
            return ids, scores
        pieces = [slice(start, start + rows) for start in range(0, len(history), rows)]
        parts = [self.session.run(OUTPUTS, {"history": history[p], "seen": seen[p], "k": length}) for p in pieces]
        return np.concatenate([ids for ids, _ in parts]), np.concatenate([scores for _, scores in parts])

    def query(self, history: np.ndarray, user: np.ndarray | None = None) -> np.ndarray:
        """Queries float32 (B, D) of histories (B, L), of a student that ranks by a dot product; as in `top`."""
        feed = {"history": history, "seen": np.empty((len(history), 0), np.int64), "k": np.ones(1, np.int64)}
        if user is not None:
            feed["user"] = user
        rows = max(1, SCORES_AT_ONCE // (self.n_items + 1))
        parts = []
        for start in range(0, len(history), rows):
            piece = {name: value if name == "k" else value[start : start + rows] for name, value in feed.items()}
            parts.append(self.session.run(["query"], piece)[0])
        return np.concatenate(parts)

    def _top_of_users(
        self, history: np.ndarray, seen: np.ndarray, k: np.ndarray, user: np.ndarray, rows: int
    ) -> tuple[np.ndarray, np.ndarray]:
        parts = []
        for start in range(0, len(history), rows):
            piece = slice(start, start + rows)
            feed = {"history": history[piece], "seen": seen[piece], "k": k, "user": user[piece]}
            parts.append(self.session.run(OUTPUTS, feed))
        return np.concatenate([ids for ids, _ in parts]), np.concatenate([scores for _, scores in parts])
