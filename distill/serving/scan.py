"""Exact top k at the cost of an int8 scan, with a certificate.

First pass (one ONNX graph): int8 scores of all items, hidden ones masked, and the groups of items with the highest
upper bounds. Second pass (numpy): the k-th largest lower bound among the groups is a threshold that k items are known
to reach, so an item whose upper bound is below it can't be listed; the others are scored from the float32 table. The
list is certified if its k-th score lies above the upper bounds of all groups that weren't opened. If it doesn't, more
groups are opened, and at last the whole table is scanned, so that the lists are exact in every case.

What is exact is defined in `distill.serving.rescore`; the bounds are derived in distill.export.scan_graph.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime

from distill.errors import UserError
from distill.serving.rescore import EMPTY, exact_scores, first_keys, full_scan, keys_of, opened_keys
from distill.serving.scan_files import FILES, check_file, mapped_array
from distill.serving.session import open_session

OPENED, ALL = ["opened", "upper", "margin", "scores"], ["best_of_groups", "all_margins", "open_scores"]
DENSE = 2**16  # up to so many places all groups are opened at once, which is faster than to rank them
SCORES_AT_ONCE = 2**22  # first-pass scores of one call, 16 MB
ATTEMPTS = (1, 4, 16)  # times as many groups are opened before the whole table is scanned
SLACK = 1e-6  # relative, for the additions that join float32 scores and margins
LARGEST = 1e37  # scores that may come near to the end of float32 are left to float64
LOWEST = np.finfo(np.float32).min  # anything above -inf
SMALLEST_QUERY = 1e-20  # below, products of float32 numbers lose their relative accuracy
SMALLEST_PEAK = 1e-30  # blocks of a query below are rounded to zeros
UP = 1 + 1e-5  # margins are kept in float32: rounded up


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
    """

    session: onnxruntime.InferenceSession
    table: np.ndarray
    bias: np.ndarray
    items: np.ndarray
    n_items: int
    size: int
    width: int
    places: np.ndarray = field(init=False, repr=False)
    empty: np.ndarray = field(init=False, repr=False)
    largest_row: float = field(init=False)
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
        object.__setattr__(self, "largest_row", largest * np.sqrt(self.table.shape[1]) + 1)
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
        except (KeyError, ValueError) as error:
            raise UserError(f"{folder / FILES['scan']} is no graph of an exact scan. Export it again.") from error
        fits = table.ndim == 2 and table.shape[1] == dim and len(table) == len(bias) == len(items)
        fits &= table.dtype == bias.dtype == np.float32 and items.dtype == np.int64 and len(table) % size == 0
        if not fits:
            raise UserError(
                f"The files of the exact scan in {folder} don't fit each other: the table is {table.shape} "
                f"{table.dtype}, there are {len(bias)} biases, {len(items)} items, and the graph reads {dim} dims. "
                "Export the bundle again."
            )
        return cls(session, table, np.array(bias), np.array(items), int(items.max()), size, width)

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
        norms = np.sqrt(np.einsum("bd,bd->b", queries, queries, dtype=np.float64))
        if not np.isfinite(norms).all():
            raise UserError("A query holds NaN or infinite numbers; expected finite ones.")
        in_range = (norms > SMALLEST_QUERY) & (norms * self.largest_row < LARGEST)
        n_groups = len(self.table) // self.size
        first = n_groups if len(self.table) <= DENSE else min(n_groups, k + k // 2 + 32)
        at_once = max(1, SCORES_AT_ONCE // len(self.table))
        if len(queries) <= at_once and in_range.all():  # nearly always the whole story, so it is kept short
            found = self._attempt(queries, norms, hidden, k, first)
            if found.certified.all():
                return found
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
                _put(found, some, self._attempt(queries[some], norms[some], hidden[some], k, groups))
            left = left[~found.certified[left]]
        left = np.flatnonzero(~found.certified)
        if len(left):
            keys = full_scan(self.table, self.bias, self.items, queries[left], hidden[left], k)
            everything = np.full(len(left), self.n_items)
            _put(found, left, Found(*opened_keys(keys), np.zeros(len(left), bool), everything))
        return found

    def _attempt(self, queries: np.ndarray, norms: np.ndarray, hidden: np.ndarray, k: int, groups: int) -> Found:
        """What opening so many groups gives; lists that aren't certified may be wrong."""
        rounded, spread = self._rounded(queries, norms)
        everything = groups * self.size == len(self.table)
        count = np.array([1 if everything else groups], np.int64)
        inputs = {"rounded": rounded, "spread": spread, "hidden": hidden, "groups": count}
        if everything:
            best, margin, scores = self.session.run(ALL, inputs)
            upper = best + margin
        else:
            opened, upper, margin, scores = self.session.run(OPENED, inputs)
        # Each group holds an item that reaches its lower bound, so k items reach the k-th largest of these.
        threshold = np.full((len(queries), 1), LOWEST)
        if groups >= k:
            threshold = np.partition(upper - 2 * margin, groups - k, axis=1)[:, groups - k, None]
            threshold = np.maximum(threshold - np.float32(SLACK) * np.abs(threshold), LOWEST)
        near = np.flatnonzero(upper >= threshold)  # of the b * M groups
        cut = np.maximum(threshold - margin, LOWEST).ravel()[near]
        chosen = np.flatnonzero(scores.reshape(-1, self.size)[near] >= cut[:, None])
        slot, within = near[chosen // self.size], chosen % self.size
        flat = slot * self.size + within
        place = flat % len(self.table) if everything else opened.ravel()[slot] * self.size + within
        row = None if len(queries) == 1 else slot // groups
        wide = queries.astype(np.float64)
        values = exact_scores(self.table.take(place, axis=0), self.bias[place], wide[0] if row is None else wide[row])
        self._check_kernel(values, scores.ravel()[flat], margin.ravel()[slot])
        keys, counts = _rectangle(keys_of(values, self.items[place]), row, len(queries))
        ids, listed = opened_keys(first_keys(keys, k))
        if everything:
            return Found(ids, listed, np.ones(len(queries), bool), counts)
        rest = upper[:, -1]  # bounds the groups that weren't opened; -inf if all their items are hidden
        beyond = np.maximum(rest * np.float32(1 + SLACK), rest * np.float32(1 - SLACK))
        return Found(ids, listed, (listed[:, -1] > beyond) | (rest == -np.inf), counts)

    def _rounded(self, queries: np.ndarray, norms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The queries that the graph multiplies, float32 (b, D), and the factors of its margins, float32 (b, 3).

        Rounding them here makes them exactly what an int8 kernel can represent, so that it is known what is lost,
        and a kernel that computes in float32 multiplies the same numbers.
        """
        n_queries, dim = queries.shape
        blocks = -(-dim // self.width)
        padded = queries if blocks * self.width == dim else np.pad(queries, ((0, 0), (0, blocks * self.width - dim)))
        cube = padded.reshape(n_queries, blocks, self.width)
        peaks = np.maximum(cube.max(axis=2, keepdims=True), -cube.min(axis=2, keepdims=True))
        steps = np.maximum(peaks, np.float32(SMALLEST_PEAK)) / np.float32(127)
        rounded = (np.rint(cube / steps) * steps).reshape(padded.shape)[:, :dim]
        lost = queries - rounded
        spread = np.ones((n_queries, 3), np.float32)
        spread[:, 0] = norms * UP
        spread[:, 1] = (np.sqrt(np.einsum("bd,bd->b", lost, lost)) + self.relative_rounding * norms) * UP
        return np.ascontiguousarray(rounded), spread

    def _hidden(self, seen: np.ndarray | None, n_queries: int) -> np.ndarray:
        """Places that are never listed, int64 (B, S): those that hold no item, and those of the seen items."""
        empty = np.broadcast_to(self.empty, (n_queries, len(self.empty)))
        if seen is None:
            return np.ascontiguousarray(empty)
        if seen.ndim != 2 or len(seen) != n_queries or seen.dtype.kind not in "iu":
            raise UserError(
                f"Seen items of shape {seen.shape} ({seen.dtype}) were given; expected ({n_queries}, S) whole numbers."
            )
        if seen.size and not (seen.min() >= 0 and seen.max() <= self.n_items):
            raise UserError(f"Seen items must be 0 to {self.n_items - 1}, or {self.n_items} for padding.")
        return np.concatenate([empty, self.places[seen]], axis=1)

    def _check_kernel(self, exact: np.ndarray, scanned: np.ndarray, margin: np.ndarray) -> None:
        """Refuses a runtime whose first pass isn't the arithmetic that the bounds are made for."""
        off = np.abs(exact - scanned)
        if (off > margin).any():
            raise UserError(
                f"onnxruntime {onnxruntime.__version__} computes int8 scores on this processor that are off by up to "
                f"{off.max():.3g}, beyond the proved bound, so no certificate can be given. "
                "Use the variant fp32, and report it."
            )


def _put(found: Found, rows: np.ndarray, part: Found) -> None:
    """Copies the answers of some queries into the whole."""
    found.ids[rows], found.scores[rows] = part.ids, part.scores
    found.certified[rows], found.candidates[rows] = part.certified, part.candidates


def _rectangle(keys: np.ndarray, row: np.ndarray | None, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys (n_rows, most) filled up with `EMPTY`, and how many there are in each row; `row` ascends, None is row 0."""
    if row is None:
        return keys[None], np.array([len(keys)])
    counts = np.bincount(row, minlength=n_rows)
    filled = np.full((n_rows, int(counts.max(initial=0))), EMPTY)
    filled[row, np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)] = keys
    return filled, counts


def rounding(dim: int) -> float:
    """Bound on the float32 rounding of the first pass, relative to ||q|| ||x'||.

    The kernel sums (code + 128) times the query and takes 128 times the query's sum away again. Both are at most
    2 sqrt(D) ||q|| ||x'||, and pass through a few roundings of 2^-24; a kernel without int8 adds up D products.
    """
    return 2.0**-22 * (8 * np.sqrt(dim) + dim)
