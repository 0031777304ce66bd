"""The one evaluator: full-catalogue ranking by any scorer, then metrics, values a user and intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from distill.data.dataset import Lists
from distill.errors import UserError
from distill.progress import track
from distill.ranking.bootstrap import bootstrap
from distill.ranking.cases import Cases
from distill.ranking.judged import Judged
from distill.ranking.metrics import ExposureMetric, PooledMetric, UserMetric, parse
from distill.ranking.segments import tail_items
from distill.ranking.topk import top_k

BATCH_SCORES = 2**26  # scores asked for at once: 256 MB of float32
CACHE_SCORES = 2**18  # scores ranked at once: 1 MB of float32, which stays in the processor's cache


def rank(
    score: Callable[[np.ndarray], np.ndarray], cases: Cases, k: int, batch_size: int = 1024, label: str = ""
) -> np.ndarray:
    """Ranks the full catalogue for each user, without the items that the user has seen.

    Args:
        score: Takes row numbers of the cases, int64 (b,), and returns their scores of all items, (b, N): a numpy
            array or anything that `np.asarray` takes. What it returns is only read.
        cases: Who is ranked for; `cases.seen` is masked.
        k: Length of the lists, 1..N.
        batch_size: Rows asked for at once; fewer where the catalogue is so large that a batch would exceed 256 MB.
        label: Name for the progress display; none by default.

    Returns:
        Item indices, int32 (U, k): best first, ties by lower item index, -1 where fewer than k items are left.

    Raises:
        UserError: k is out of range; scores have a wrong shape, are NaN or +inf. (-inf means: never list this item.)
    """
    if not 1 <= k <= cases.n_items:
        raise UserError(
            f"Lists of k = {k} items were asked for; expected 1 to {cases.n_items}, the size of the catalogue."
        )
    users, step = len(cases), min(max(batch_size, 1), max(1, BATCH_SCORES // cases.n_items))
    ranked = np.empty((users, k), np.int32)
    starts = range(0, users, step)
    for start in track(starts, label, unit="batches") if label else starts:
        rows = np.arange(start, min(start + step, users))
        ranked[rows] = _rank_batch(_scores(score(rows), rows, cases.n_items), cases.seen, start, k)
    return ranked


def rank_array(scores: np.ndarray, cases: Cases, k: int) -> np.ndarray:
    """`rank` with ready scores of all users, (U, N)."""
    return rank(lambda rows: scores[rows[0] : rows[-1] + 1], cases, k)


def _scores(scores: object, rows: np.ndarray, n_items: int) -> np.ndarray:
    array = np.asarray(scores)
    if array.shape != (len(rows), n_items):
        raise UserError(
            f"The scorer returned an array of shape {array.shape} for {len(rows)} rows, expected "
            f"{(len(rows), n_items)}: one score for each item of the catalogue, without a padding column."
        )
    if array.dtype in (np.float32, np.float64):
        return array
    return array.astype(np.float32 if array.dtype == np.float16 else np.float64)


def _rank_batch(scores: np.ndarray, seen: Lists, start: int, k: int) -> np.ndarray:
    """Ranks rows start, start + 1, … block by block in a buffer, so that the scorer's own array is never written to."""
    rows, n_items = scores.shape
    block = max(1, CACHE_SCORES // n_items)
    buffer = np.empty((min(block, rows), n_items), scores.dtype)
    ranked = np.empty((rows, k), np.int32)
    for first in range(0, rows, block):
        last = min(first + block, rows)
        part = buffer[: last - first]
        np.copyto(part, scores[first:last])
        bounds = seen.indptr[start + first : start + last + 1]
        flat = np.repeat(np.arange(last - first) * n_items, np.diff(bounds))
        part.reshape(-1)[flat + seen.items[bounds[0] : bounds[-1]]] = -np.inf
        ranked[first:last] = top_k(part, k, first_row=start + first)
    return ranked


@dataclass(frozen=True)
class Evaluation:
    """What lists are worth.

    Attributes:
        per_user: Value of each user by metric, float64 (U,); nan where the user doesn't take part (for instance no
            relevant tail item). Only metrics that are means over users.
        values: The metric by name, list-level metrics such as "coverage@10" included.
        counts: How many users take part, by metric.
        judged: The lists, the cases and the tail that were evaluated.
    """

    per_user: dict[str, np.ndarray]
    values: dict[str, float]
    counts: dict[str, int] = field(default_factory=dict)
    judged: Judged | None = field(default=None, repr=False)

    def intervals(self, resamples: int = 1000, seed: int = 0, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """Bootstrap intervals over users, for every metric. See `distill.ranking.bootstrap.bootstrap`."""
        if self.judged is None:
            raise UserError("This evaluation doesn't hold its lists, so it has no intervals.")
        return bootstrap(
            self.judged, list(self.values), self.per_user, self.values, resamples=resamples, seed=seed, level=level
        )


def evaluate(ranked: np.ndarray, cases: Cases, metrics: Sequence[str], tail: np.ndarray | None = None) -> Evaluation:
    """Evaluates ranked lists, whoever made them.

    Args:
        ranked: Item indices, int (U, K), best first, -1 behind the end of a shorter list; one row a row of the cases.
        cases: The evaluated users.
        metrics: Names such as "ndcg@10"; K must reach the largest cutoff.
        tail: Which items are tail, bool (N,); by default items outside the most popular set that holds 80 % of train
            interactions.

    Raises:
        UserError: Lists of another shape, with unknown or repeated items, or shorter than a cutoff; an unknown metric.
    """
    ranked = np.asarray(ranked)
    parsed = [parse(name) for name in metrics]
    _check_ranked(ranked, cases)
    for p in parsed:
        if p.k > ranked.shape[1]:
            raise UserError(f"'{p.name}' needs lists of {p.k} items, these have {ranked.shape[1]}.")
    judged = Judged(ranked, cases, tail_items(cases.popularity) if tail is None else tail)
    per_user: dict[str, np.ndarray] = {}
    values: dict[str, float] = {}
    counts: dict[str, int] = {}
    exposures: dict[int, np.ndarray] = {}
    for name, metric, k in ((p.name, p.metric, p.k) for p in parsed):
        if isinstance(metric, UserMetric):
            per_user[name] = metric.function(judged, k)
            takes_part = ~np.isnan(per_user[name])
            counts[name] = int(np.count_nonzero(takes_part))
            values[name] = float(per_user[name][takes_part].mean()) if counts[name] else float("nan")
        elif isinstance(metric, PooledMetric):
            values[name] = float(metric.combine(metric.columns(judged, k).sum(0)))
        elif isinstance(metric, ExposureMetric):
            if k not in exposures:
                exposures[k] = judged.exposures(k)
            values[name] = float(metric.function(exposures[k], judged))
    return Evaluation(per_user, values, counts, judged)


def _check_ranked(ranked: np.ndarray, cases: Cases) -> None:
    if ranked.ndim != 2 or len(ranked) != len(cases) or not np.issubdtype(ranked.dtype, np.integer):
        raise UserError(
            f"Lists have shape {ranked.shape} and type {ranked.dtype}; expected integers (U, K) with U = {len(cases)}, "
            "one row for each evaluated user."
        )
    if not len(ranked):
        raise UserError("There is no user to evaluate: the cases are empty.")
    if ranked.shape[1] == 0:
        raise UserError("The lists have no places (K = 0); expected at least 1.")
    if ranked.min() < -1 or ranked.max() >= cases.n_items:
        row, place = (int(x) for x in np.argwhere((ranked < -1) | (ranked >= cases.n_items))[0])
        raise UserError(
            f"The list of row {row} holds item {ranked[row, place]} at place {place + 1}; expected item indices 0 to "
            f"{cases.n_items - 1}, or -1 behind the end of a shorter list."
        )
    free = ranked < 0
    if (free[:, :-1] & ~free[:, 1:]).any():
        row = int(np.argwhere(free[:, :-1] & ~free[:, 1:])[0][0])
        raise UserError(f"The list of row {row} has a gap: -1 may only stand behind the last item.")
    ordered = np.sort(ranked, axis=1)
    repeated = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if repeated.any():
        row, place = (int(x) for x in np.argwhere(repeated)[0])
        raise UserError(
            f"{np.count_nonzero(repeated.any(1))} lists hold an item more than once; the first is row {row}, item "
            f"{ordered[row, place]}. A repeated hit would count twice: make the lists without repeats."
        )
