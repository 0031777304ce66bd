"""Exact top k at the cost of an int8 scan, with a certificate.

First pass (an ONNX graph): int8 scores of all items. The k-th largest lower bound among groups of items is a threshold
that k items are known to reach, so an item whose upper bound is below it can't be listed. Second pass (numpy): the
others are scored from the float32 table. Of a small catalogue all groups are looked at, which proves the list; of a
large one those with the highest upper bounds, and the list is certified if its k-th score lies above the bounds of the
rest. If it doesn't, more groups are opened, and at last the whole table is scanned, so that the lists are exact in
every case.

The passes are in `distill.serving.passes`; what is exact is defined in `distill.serving.rescore`; the bounds are
derived in distill.export.scan_graph.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime

from distill.errors import UserError
from distill.serving.passes import best_of, certified, look_at_all, look_at_best, rounded_queries, rounding
from distill.serving.rescore import full_scan, opened_keys
from distill.serving.scan_files import ALL_GROUPS, FILES, MARGINS, check_file, mapped_array
from distill.serving.session import open_session

FEW_AT_ONCE = 2**18  # first-pass scores of one call where numpy reads them all, 1 MB: they stay in the cache
MANY_AT_ONCE = 2**22  # where the graph gives a few of them away, 16 MB
ATTEMPTS = (1, 4, 16)  # times as many groups are opened before the whole table is scanned
LARGEST = 1e37  # scores that may come near to the end of float32 are left to float64
SMALLEST_QUERY = 1e-20  # below, products of float32 numbers lose their relative accuracy


@dataclass(frozen=True)
class Found:
    """Exact lists, and how they were come by.

    Attributes:
        ids: Items int64 (B, k), best first, -1 where fewer than k items are left.
        scores: float32 (B, k), -inf there.
        certified: Whether the bounds proved the list, bool (B,); the others were found by scanning the whole table.
        candidates: Rows scored in float64 from the float32 table, int64 (B,); N where the whole table was scanned.
    """

    ids: np.ndarray
    scores: np.ndarray
    certified: np.ndarray
    candidates: np.ndarray

    @property
    def rescans(self) -> int:
        """Queries for which the whole table was scanned."""
        return int((~self.certified).sum())


@dataclass(frozen=True)
class CertifiedIndex:
    """An opened exact scan. Safe to call from several threads.

    Attributes:
        session: The first pass.
        table: Rows by place, float32 (P, D), read from disk where needed.
        bias: By place, float32 (P,).
        items: Item of each place, int64 (P,), N at places that hold none.
        n_items: N.
        size: R, items in a group.
        width: Columns of a query that share a step.
        margins: Of the groups, float32 (3, G), where a query looks at all of them; None where the graph ranks them.
    """

    session: onnxruntime.InferenceSession
    table: np.ndarray
    bias: np.ndarray
    items: np.ndarray
    n_items: int
    size: int
    width: int
    margins: np.ndarray | None
    places: np.ndarray = field(init=False, repr=False)
    empty: np.ndarray = field(init=False, repr=False)
    longest_query: float = field(init=False)
    relative_rounding: float = field(init=False)

    def __post_init__(self) -> None:
        empty = np.flatnonzero(self.items == self.n_items)
        places = np.full(self.n_items + 1, empty[-1])  # items that are nowhere, and padding: an empty place
        places[self.items] = np.arange(len(self.items))
        places[self.n_items] = empty[-1]
        chunks = range(0, len(self.table), 2**16)
        largest = max(float(np.abs(self.table[start : start + 2**16]).max()) for start in chunks)
        object.__setattr__(self, "places", places)
        object.__setattr__(self, "empty", empty)
        room = LARGEST - float(np.abs(self.bias).max())  # a query that is no longer keeps all scores below LARGEST
        object.__setattr__(self, "longest_query", room / (largest * np.sqrt(self.table.shape[1]) + 1))
        object.__setattr__(self, "relative_rounding", rounding(self.table.shape[1]))

    @classmethod
    def open(cls, folder: str | Path, hashes: dict[str, str] | None = None, threads: int = 1) -> CertifiedIndex:
        """Opens what `distill.export.scan_graph.write_exact` wrote.

        The float32 table stays on disk as a memory map: of 1,000,000 rows a query reads a few hundred.

        Args:
            folder: Where the files lie.
            hashes: sha256 of the files by name; None leaves them unchecked.
            threads: Threads inside an operator.

        Raises:
            UserError: A file is missing, altered, or doesn't fit the others.
        """
        folder = Path(folder)
        for name in FILES.values():
            check_file(folder / name, None if hashes is None else hashes.get(name, "none"))
        session = open_session((folder / FILES["scan"]).read_bytes(), threads)
        table, bias, items = (mapped_array(folder / FILES[name]) for name in ("table", "bias", "items"))
        about = session.get_modelmeta().custom_metadata_map
        try:
            dim, width, size = (int(about[name]) for name in ("dim", "width", "group"))
            every_group = about["looks_at"] == ALL_GROUPS
        except (KeyError, ValueError) as error:
            raise UserError(f"{folder / FILES['scan']} is no graph of an exact scan. Export it again.") from error
        margins = None
        if every_group:
            check_file(folder / MARGINS, None if hashes is None else hashes.get(MARGINS, "none"))
            margins = np.array(mapped_array(folder / MARGINS))
        fits = table.ndim == 2 and table.shape[1] == dim and len(table) == len(bias) == len(items)
        fits &= table.dtype == bias.dtype == np.float32 and items.dtype == np.int64 and len(table) % size == 0
        fits &= margins is None or (margins.dtype == np.float32 and margins.shape == (3, len(table) // size))
        if not fits:
            raise UserError(
                f"The files of the exact scan in {folder} don't fit each other: the table is {table.shape} "
                f"{table.dtype}, there are {len(bias)} biases, {len(items)} items, and the graph reads {dim} dims. "
                "Export the bundle again."
            )
        return cls(session, table, np.array(bias), np.array(items), int(items.max()), size, width, margins)

    @property
    def dim(self) -> int:
        """D."""
        return self.table.shape[1]

    def search(self, queries: np.ndarray, k: int, seen: np.ndarray | None = None) -> Found:
        """The exact best k items for each query.

        Args:
            queries: Finite, float32 (B, D).
            k: Length of the lists, at least 1.
            seen: Items never listed, int64 (B, S), padded with N; None hides nothing.

        Raises:
            UserError: The queries have another shape or aren't finite, k is below 1, or `seen` doesn't fit.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise UserError(f"Queries of shape {queries.shape} were given; expected (B, {self.dim}).")
        if k < 1:
            raise UserError(f"Lists of k = {k} items were asked for; expected 1 or more.")
        hidden = self._hidden(seen, len(queries))
        wide = queries.astype(np.float64)
        norms = np.sqrt(np.einsum("bd,bd->b", wide, wide))
        in_range = (norms > SMALLEST_QUERY) & (norms < self.longest_query)
        n_groups = len(self.table) // self.size
        first = n_groups if self.margins is not None else min(n_groups, k + k // 2 + 32)
        at_once = max(1, (MANY_AT_ONCE if self.margins is None else FEW_AT_ONCE) // len(self.table))
        if len(queries) <= at_once and np.count_nonzero(in_range) == len(queries):
            # Nearly always the whole story, so it is kept short.
            found = self._attempt(queries, wide, norms, hidden, k, first)
            if np.count_nonzero(found.certified) == len(queries):
                return found
        if not np.isfinite(norms).all():
            raise UserError("A query holds NaN or infinite numbers; expected finite ones.")
        found = Found(
            np.empty((len(queries), k), np.int64),
            np.empty((len(queries), k), np.float32),
            np.zeros(len(queries), bool),
            np.full(len(queries), self.n_items),
        )
        left = np.flatnonzero(in_range)
        for groups in sorted({min(n_groups, times * first) for times in ATTEMPTS}):
            for start in range(0, len(left), at_once):
                some = left[start : start + at_once]
                part = self._attempt(queries[some], wide[some], norms[some], hidden[some], k, groups)
                _put(found, some, part)
            left = left[~found.certified[left]]
        left = np.flatnonzero(~found.certified)
        if len(left):
            keys = full_scan(self.table, self.bias, self.items, queries[left], hidden[left], k)
            everything = np.full(len(left), self.n_items)
            _put(found, left, Found(*opened_keys(keys), np.zeros(len(left), bool), everything))
        return found

    def _attempt(
        self, queries: np.ndarray, wide: np.ndarray, norms: np.ndarray, hidden: np.ndarray, k: int, groups: int
    ) -> Found:
        """What looking at so many groups gives; lists that aren't certified may be wrong."""
        query = rounded_queries(queries, wide, norms, self.width, self.relative_rounding)
        if self.margins is None:
            candidates = look_at_best(self.session, self.size, query, hidden, k, groups)
        else:
            candidates = look_at_all(self.session, self.margins, query, hidden, k)
        ids, scores, counts = best_of(candidates, self.table, self.bias, self.items, wide, k)
        return Found(ids, scores, certified(scores, candidates.beyond), counts)

    def _hidden(self, seen: np.ndarray | None, n_queries: int) -> np.ndarray:
        """Places that are never listed, int64 (B, S): those that hold no item, and those of the seen items."""
        empty = self.empty[None] if n_queries == 1 else np.broadcast_to(self.empty, (n_queries, len(self.empty)))
        if seen is None:
            return np.ascontiguousarray(empty)
        if seen.ndim != 2 or len(seen) != n_queries or seen.dtype.kind not in "iu":
            raise UserError(
                f"Seen items of shape {seen.shape} ({seen.dtype}) were given; expected ({n_queries}, S) whole numbers."
            )
        # As unsigned numbers, negative ones are large: one pass finds both kinds of mistake.
        if seen.size and seen.astype(np.int64, copy=False).view(np.uint64).max() > self.n_items:
            raise UserError(f"Seen items must be 0 to {self.n_items - 1}, or {self.n_items} for padding.")
        return np.concatenate([empty, self.places[seen]], axis=1)


def _put(found: Found, rows: np.ndarray, part: Found) -> None:
    """Copies the answers of some queries into the whole."""
    found.ids[rows], found.scores[rows] = part.ids, part.scores
    found.certified[rows], found.candidates[rows] = part.certified, part.candidates
