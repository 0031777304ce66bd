"""Loads an exported model and asks it once: `python -m distill.serving.probe MODEL N_ITEMS`.

Run in a process of its own, so that a crash of the runtime becomes an exit code.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from distill.errors import UserError
from distill.serving.exact import ExactGraph
from distill.serving.session import Graph


def probe(path: Path, n_items: int) -> None:
    """Ranks for two short histories and one of padding alone, in one batch and one by one.

    Args:
        path: A model file, or a folder that holds the files of an exact scan.
        n_items: N.

    Raises:
        UserError: The model can't be loaded, or gives something else than ranked items.
    """
    graph = ExactGraph.open(path) if path.is_dir() else Graph(path.read_bytes(), n_items)
    history = np.array([[n_items, 0], [0, n_items - 1], [n_items, n_items]], np.int64)
    k = min(3, n_items)
    together, _ = graph.top(history, history, k)
    alone, scores = graph.top(history[1:2], history[1:2], k)
    if together.shape != (3, k) or not ((together >= -1) & (together < n_items)).all() or np.isnan(scores).any():
        raise UserError(f"The model gives ids {together.tolist()} and scores {scores.tolist()} for {n_items} items.")
    if not set(alone[0].tolist()).isdisjoint({0, n_items - 1}):
        raise UserError(f"The model lists items that were masked: {alone.tolist()}.")


if __name__ == "__main__":
    try:
        probe(Path(sys.argv[1]), int(sys.argv[2]))
    except UserError as error:
        sys.exit(str(error))
