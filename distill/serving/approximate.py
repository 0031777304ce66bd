"""Approximate top k with faiss or usearch, only as an option: what it misses is measured on the table's own items.

Needs an extra, "faiss" or "usearch". Where an answer has to be exact, `distill.serving.scan` is it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from distill.errors import UserError
from distill.serving.scan import CertifiedIndex

Search = Callable[[np.ndarray, int], np.ndarray]
PROBES, LINKS = 16, 32
ALIGNED = 16


@dataclass(frozen=True)
class Approximate:
    """An approximate index, and how much of the exact lists it finds.

    Attributes:
        kind: Its name in `KINDS`.
        search: Queries float32 (B, D) and k to items int64 (B, k), -1 at empty places. Nothing is masked.
        recall: Mean share of the exact top k that it lists.
        queries: Over how many queries.
        k: At which k.
    """

    kind: str
    search: Search
    recall: float
    queries: int
    k: int


def build(kind: str, index: CertifiedIndex, queries: np.ndarray, k: int = 100) -> Approximate:
    """Builds an approximate index of the items of an exact one, and measures its recall.

    Args:
        kind: A name in `KINDS`.
        index: The exact index; its float32 table is copied.
        queries: What will be asked, such as the vectors of real histories, float32 (B, D).
        k: Where recall is measured.

    Raises:
        UserError: The kind is unknown, or its package isn't installed.
    """
    if kind not in KINDS:
        raise UserError(f"There is no approximate search '{kind}'; known are {', '.join(KINDS)}.")
    held = np.flatnonzero(index.items < index.n_items)
    # The inner product with (q, 1) adds the bias to the score. Zeros fill up to a multiple of 16 dims: at others, the
    # 8-bit kernels of faiss fall back to a loop over single numbers.
    wide = index.dim + 1 if index.bias.any() else index.dim
    wide += -wide % ALIGNED
    rows = np.zeros((len(held), wide), np.float32)
    rows[:, : index.dim] = index.table[held]
    if wide > index.dim:
        rows[:, index.dim] = index.bias[held]
    inner = KINDS[kind](rows)

    def search(asked: np.ndarray, k: int) -> np.ndarray:
        filled = np.zeros((len(asked), wide), np.float32)
        filled[:, : index.dim] = asked
        if wide > index.dim:
            filled[:, index.dim] = 1
        found = inner(filled, min(k, len(held)))
        return np.where(found >= 0, index.items[held[np.maximum(found, 0)]], -1)

    return Approximate(kind, search, recall(search(queries, k), index.search(queries, k).ids), len(queries), k)


def recall(found: np.ndarray, wanted: np.ndarray) -> float:
    """Mean share of the items of `wanted` (B, k) that `found` (B, k) holds; -1 marks empty places."""
    shares = [len(np.intersect1d(a, b[b >= 0])) / max(1, (b >= 0).sum()) for a, b in zip(found, wanted, strict=True)]
    return float(np.mean(shares)) if shares else 1.0


def faiss_flat(rows: np.ndarray) -> Search:
    """faiss IndexFlatIP: all float32 scores."""
    faiss = _package("faiss", "faiss")
    return _faiss_search(_filled(faiss.IndexFlatIP(rows.shape[1]), rows))


def faiss_sq8(rows: np.ndarray) -> Search:
    """faiss 8-bit scalar quantiser, the first 4 k of which are scored again in float32."""
    faiss = _package("faiss", "faiss")
    coarse = faiss.IndexScalarQuantizer(rows.shape[1], faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    refined = faiss.IndexRefineFlat(coarse)
    refined.k_factor = 4
    return _faiss_search(_filled(refined, rows))


def faiss_ivf(rows: np.ndarray) -> Search:
    """faiss inverted lists: the items of the 16 cells nearest to the query."""
    faiss = _package("faiss", "faiss")
    cells = int(max(1, min(4 * np.sqrt(len(rows)), len(rows) // 39)))  # faiss asks for 39 rows a cell to train on
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(rows.shape[1]), rows.shape[1], cells, faiss.METRIC_INNER_PRODUCT)
    index.nprobe = PROBES
    return _faiss_search(_filled(index, rows))


def usearch_hnsw(rows: np.ndarray) -> Search:
    """usearch's graph of near neighbours (HNSW)."""
    engine = _package("usearch.index", "usearch")
    index = engine.Index(ndim=rows.shape[1], metric="ip", dtype="f32", connectivity=LINKS)
    index.add(np.arange(len(rows)), rows)

    def search(queries: np.ndarray, k: int) -> np.ndarray:
        return np.asarray(index.search(queries, k).keys, np.int64).reshape(len(queries), k)

    return search


KINDS: dict[str, Callable[[np.ndarray], Search]] = {
    "faiss_flat": faiss_flat,
    "faiss_sq8": faiss_sq8,
    "faiss_ivf": faiss_ivf,
    "usearch": usearch_hnsw,
}


def _filled(index: Any, rows: np.ndarray) -> Any:
    if not index.is_trained:
        index.train(rows)
    index.add(rows)
    return index


def _faiss_search(index: Any) -> Search:
    return lambda queries, k: index.search(queries, k)[1]


def _package(module: str, name: str) -> Any:
    """Imports a package of the extra `name`."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"This approximate search needs the package {module.partition('.')[0]}: pip install 'taildistill[{name}]'"
        ) from error
