"""The two passes of an exact scan: from int8 scores to candidates, and from candidates to lists.

A lean road, since at 27,000 items a call of numpy costs as much as scoring 500 rows. Bounds are derived in
distill.export.scan_graph; float32 roundings of the sums below are smaller than `SLACK` and the excess of the margins.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnxruntime

from distill.errors import UserError
from distill.serving.rescore import EMPTY, exact_scores, first_keys, keys_of, opened_keys

SLACK = np.float32(1e-6)  # relative, for the additions that join float32 scores and margins
LOWEST = np.finfo(np.float32).min  # anything above -inf
NEVER = np.float32(-np.inf)
SMALLEST_PEAK = np.float32(1e-30)  # blocks of a query below are rounded to zeros
STEPS = np.float32(127)
UP = 1 + 1e-5  # margins are kept in float32: rounded up


class Query(NamedTuple):
    """Queries as the first pass reads them.

    Attributes:
        wide: As they were given, float64 (B, D).
        rounded: What is multiplied, float32 (B, D).
        spread: Factors of the margins, float32 (B, 3).
    """

    wide: np.ndarray
    rounded: np.ndarray
    spread: np.ndarray


class Candidates(NamedTuple):
    """Every item that may be in a list.

    Attributes:
        row: The query of each, int64 (C,), ascending; None where there is one query.
        place: Where its row lies, int64 (C,).
        scanned: Score of the first pass, float32 (C,).
        margin: How far the true score may be from it, float32 (C,).
        beyond: Upper bounds of the items that weren't looked at, float32 (B,); None where all were.
    """

    row: np.ndarray | None
    place: np.ndarray
    scanned: np.ndarray
    margin: np.ndarray
    beyond: np.ndarray | None


def rounded_queries(queries: np.ndarray, wide: np.ndarray, norms: np.ndarray, width: int, relative: float) -> Query:
    """Rounds queries to what an int8 kernel can represent.

    So it is known what is lost, and a kernel that computes in float32 multiplies the same numbers.

    Args:
        queries: float32 (B, D).
        wide: The same in float64.
        norms: Their lengths, float64 (B,).
        width: Columns that share a step.
        relative: From `rounding`.
    """
    dim = queries.shape[1]
    if dim <= width:
        rounded = _rounded(queries)
    else:
        padded = np.pad(queries, ((0, 0), (0, -dim % width)))
        rounded = _rounded(padded.reshape(len(queries), -1, width)).reshape(padded.shape)[:, :dim]
        rounded = np.ascontiguousarray(rounded)
    lost = wide - rounded
    spread = np.ones((len(queries), 3), np.float32)
    spread[:, 0] = norms * UP
    spread[:, 1] = (np.sqrt(np.einsum("bd,bd->b", lost, lost)) + relative * norms) * UP
    return Query(wide, rounded, spread)


def _rounded(blocks: np.ndarray) -> np.ndarray:
    steps = np.maximum(np.abs(blocks).max(axis=-1, keepdims=True), SMALLEST_PEAK) / STEPS
    return np.rint(blocks / steps) * steps


def rounding(dim: int) -> float:
    """Bound on the float32 rounding of the first pass, relative to ||q|| ||x'||.

    The kernel sums (code + 128) times the query and takes 128 times the query's sum away again. Both are at most
    2 sqrt(D) ||q|| ||x'||, and pass through a few roundings of 2^-24; a kernel without int8 adds up D products.
    """
    return 2.0**-22 * (8 * np.sqrt(dim) + dim)


def look_at_all(
    session: onnxruntime.InferenceSession, margins: np.ndarray, query: Query, hidden: np.ndarray, k: int
) -> Candidates:
    """Candidates among all items: the first pass of a small catalogue.

    Args:
        session: Gives `scores` (B, P); place p is in the group p % G.
        margins: Of the groups, float32 (3, G).
        query: B queries.
        hidden: Places that are never listed, int64 (B, S).
        k: Length of the lists.
    """
    scores = session.run(["scores"], {"rounded": query.rounded})[0]
    one, places, groups = len(scores) == 1, scores.shape[1], margins.shape[1]
    if one:
        scores[0, hidden[0]] = NEVER
    else:
        np.put_along_axis(scores, hidden, NEVER, axis=1)
    cube = scores.reshape(len(scores), places // groups, groups)  # maxima over rows of it are vectorised
    margin = query.spread @ margins
    lower = cube.max(axis=1) - margin if k <= groups else (cube - margin[:, None]).reshape(scores.shape)
    cut = np.maximum(reached(lower, k) - margin, LOWEST)
    flat = (cube >= cut[:, None]).ravel().nonzero()[0]
    if one:
        return Candidates(None, flat, scores[0].take(flat), margin[0].take(flat % groups), None)
    row, place = np.divmod(flat, places)
    return Candidates(row, place, scores.ravel().take(flat), margin[row, place % groups], None)


def look_at_best(
    session: onnxruntime.InferenceSession, size: int, query: Query, hidden: np.ndarray, k: int, groups: int
) -> Candidates:
    """Candidates among the items of the groups with the highest bounds: the first pass of a large catalogue.

    Args:
        session: The graph of `distill.export.scan_graph.grouped_model`.
        size: R, items in a group.
        query, hidden, k: As in `look_at_all`.
        groups: How many are opened.
    """
    inputs = {"rounded": query.rounded, "spread": query.spread, "hidden": hidden, "groups": np.array([groups])}
    opened, upper, margin, scores = session.run(["opened", "upper", "margin", "scores"], inputs)
    lower = upper - 2 * margin if k <= groups else (scores - margin[:, :, None]).reshape(len(scores), groups * size)
    cut = np.maximum(reached(lower, k) - margin, LOWEST)
    flat = (scores >= cut[:, :, None]).ravel().nonzero()[0]
    slot, within = np.divmod(flat, size)
    place = opened.ravel().take(slot) * size + within
    row = None if len(scores) == 1 else slot // groups
    return Candidates(row, place, scores.ravel().take(flat), margin.ravel().take(slot), upper[:, -1])


def reached(lower: np.ndarray, k: int) -> np.ndarray:
    """Scores (B, 1) that k items of a row are known to reach, by lower bounds (B, n) of different items."""
    count = lower.shape[1]
    if k > count:
        return np.full((len(lower), 1), LOWEST)
    found = np.partition(lower, count - k, axis=1)[:, count - k, None]
    return np.maximum(found - SLACK * np.abs(found), LOWEST)


def best_of(
    found: Candidates, table: np.ndarray, bias: np.ndarray, items: np.ndarray, wide: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The second pass: exact scores of the candidates, and the lists.

    Args:
        found: Of `look_at_all` or `look_at_best`.
        table, bias, items: By place, as in `distill.serving.scan.CertifiedIndex`.
        wide: Queries, float64 (B, D).
        k: Length of the lists.

    Returns:
        Items int64 (B, k), scores float32 (B, k), and how many candidates there were (B,).

    Raises:
        UserError: A score of the first pass is farther from the exact one than was proved.
    """
    queries = wide[0] if found.row is None else wide[found.row]
    scores = exact_scores(table.take(found.place, axis=0), bias.take(found.place), queries)
    off = np.abs(scores - found.scanned)
    if np.count_nonzero(off > found.margin):
        raise UserError(
            f"onnxruntime {onnxruntime.__version__} computes int8 scores on this processor that are off by up to "
            f"{off.max():.3g}, beyond the proved bound, so no certificate can be given. "
            "Use the variant fp32, and report it."
        )
    keys, counts = _rectangle(keys_of(scores, items.take(found.place)), found.row, len(wide))
    return *opened_keys(first_keys(keys, k)), counts


def certified(scores: np.ndarray, beyond: np.ndarray | None) -> np.ndarray:
    """Whether no item that wasn't looked at can be in a list, bool (B,).

    Args:
        scores: Of the lists, float32 (B, k).
        beyond: Of `Candidates`.
    """
    if beyond is None:
        return np.ones(len(scores), bool)
    above = np.maximum(beyond * (1 + SLACK), beyond * (1 - SLACK))
    return (scores[:, -1] > above) | (beyond == NEVER)  # -inf: all of them are hidden


def _rectangle(keys: np.ndarray, row: np.ndarray | None, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys (n_rows, most) filled up with `EMPTY`, and how many there are in each row; `row` ascends, None is row 0."""
    if row is None:
        return keys[None], np.array([len(keys)])
    counts = np.bincount(row, minlength=n_rows)
    filled = np.full((n_rows, int(counts.max(initial=0))), EMPTY)
    filled[row, np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)] = keys
    return filled, counts
