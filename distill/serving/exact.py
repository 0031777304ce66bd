"""A student served exactly: its user side, and the certified scan behind it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from distill.serving.scan import CertifiedIndex, Found
from distill.serving.scan_files import ENCODER, check_file
from distill.serving.session import open_session

VARIANT = "exact"


class ExactGraph:
    """The user side of a student and the exact scan behind it; answers like `distill.serving.session.Graph`."""

    def __init__(self, encoder: onnxruntime.InferenceSession, index: CertifiedIndex) -> None:
        self.session = encoder
        self.index = index
        self.n_items = index.n_items

    @classmethod
    def open(cls, folder: str | Path, hashes: dict[str, str] | None = None, threads: int = 1) -> ExactGraph:
        """Opens what `write_exact` wrote with an encoder.

        Args:
            folder, hashes, threads: As in `CertifiedIndex.open`.

        Raises:
            UserError: As there.
        """
        path = Path(folder) / ENCODER
        check_file(path, None if hashes is None else hashes.get(ENCODER, "none"))
        return cls(open_session(path.read_bytes(), threads), CertifiedIndex.open(folder, hashes, threads))

    def top(
        self, history: np.ndarray, seen: np.ndarray, k: int, user: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The exact best k items of each history; arguments and results as in `Graph.top`."""
        found = self.search(history, seen, k, user)
        return found.ids, found.scores

    def search(self, history: np.ndarray, seen: np.ndarray, k: int, user: np.ndarray | None = None) -> Found:
        """The same, with what is known of each list."""
        return self.index.search(self.query(history, user), k, seen)

    def query(self, history: np.ndarray, user: np.ndarray | None = None) -> np.ndarray:
        """Queries float32 (B, D); arguments as in `Graph.top`."""
        query: np.ndarray = self.session.run(["query"], {"history": history})[0]
        return query if user is None else query + user
