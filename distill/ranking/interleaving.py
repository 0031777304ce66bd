"""Team-draft interleaving: two rankers share one list, and clicks say whose items are preferred."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distill.errors import UserError
from distill.ranking.cases import Cases
from distill.ranking.click_model import ClickModel
from distill.ranking.resampling import mean_intervals
from distill.ranking.significance import sign_flip


@dataclass(frozen=True)
class Interleaved:
    """Lists that two rankers drafted together.

    Attributes:
        items: Item indices, int (U, k), -1 behind the end.
        team: 0 where the first ranker chose the item, 1 where the second did, -1 behind the end; int8 (U, k).
    """

    items: np.ndarray
    team: np.ndarray


@dataclass(frozen=True)
class Preference:
    """Whom the users prefer.

    Attributes:
        first, second, ties: Users with more clicks on the first's items, on the second's, or as many on both.
        preference: (second + ties / 2) / users - 1/2: above 0 where the second ranker is preferred.
        low, high: Its 95 % bootstrap interval over users.
        p_value: Two-sided sign-flip p value.
    """

    first: int
    second: int
    ties: int
    preference: float
    low: float
    high: float
    p_value: float


def team_draft(first: np.ndarray, second: np.ndarray, k: int, seed: int = 0) -> Interleaved:
    """Drafts one list of k from two: the team with fewer items picks its best free one, a coin decides when both are
    even.

    Drafting stops when either list is used up. The loop is over places; all users are drafted at once.
    Source: Radlinski, Kurup and Joachims (2008), How does clickthrough data reflect retrieval quality?

    Args:
        first, second: Lists, int (U, K), best first, -1 behind the end.
        k: Length of the drafted list.
        seed: Seed of the coins.

    Raises:
        UserError: Different numbers of users, or k < 1.
    """
    if len(first) != len(second) or k < 1:
        raise UserError(
            f"Team draft needs two lists of the same users and k >= 1; got {len(first)}, {len(second)}, {k}."
        )
    users = np.arange(len(first))
    rng = np.random.default_rng(seed)
    lists = (np.asarray(first), np.asarray(second))
    free = [ranked >= 0 for ranked in lists]
    items, team = np.full((len(users), k), -1, np.int64), np.full((len(users), k), -1, np.int8)
    lead = np.zeros(len(users), np.int64)  # picks of the first team minus picks of the second
    for place in range(k):
        going = free[0].any(1) & free[1].any(1)
        chooser = np.where(lead == 0, rng.integers(0, 2, len(users)), (lead > 0).astype(np.int64))
        best = [ranked[users, np.argmax(unused, axis=1)] for ranked, unused in zip(lists, free, strict=True)]
        pick = np.where(going, np.where(chooser == 0, best[0], best[1]), -1)
        items[:, place], team[:, place] = pick, np.where(going, chooser, -1)
        lead += np.where(going, 1 - 2 * chooser, 0)
        for ranked, unused in zip(lists, free, strict=True):
            np.logical_and(unused, ranked != pick[:, None], out=unused)
    return Interleaved(items, team)


def credit(drafted: Interleaved, clicks: np.ndarray, resamples: int = 1000, seed: int = 0) -> Preference:
    """Counts clicks by team: a user's vote goes to the team with more of them.

    Source: Chapelle, Joachims, Radlinski and Yue (2012), Large-scale validation and analysis of interleaved search
    evaluation.

    Args:
        drafted: The lists shown.
        clicks: What was clicked, bool (U, k).
        resamples: Resamples of the interval.
        seed: Seed of resamples and flips.
    """
    votes = np.sign(((drafted.team == 1) & clicks).sum(1) - ((drafted.team == 0) & clicks).sum(1)).astype(np.float64)
    low, high = mean_intervals(votes[:, None] / 2, resamples, seed)[0]
    return Preference(
        first=int(np.count_nonzero(votes < 0)),
        second=int(np.count_nonzero(votes > 0)),
        ties=int(np.count_nonzero(votes == 0)),
        preference=float(votes.mean() / 2),
        low=float(low),
        high=float(high),
        p_value=float(sign_flip(votes, seed=seed)[0]),
    )


def replay(
    first: np.ndarray, second: np.ndarray, cases: Cases, k: int, model: ClickModel | None = None, seed: int = 0
) -> Preference:
    """Interleaves the lists of two rankers (two exported bundles, say) on held-out logs, read by a simulated user.

    Args:
        first, second: Lists of the cases' users, int (U, K).
        cases: Held-out items: what a simulated user finds relevant.
        k: Length of the list shown.
        model: How users click.
        seed: Seed of draft, clicks and resamples.
    """
    drafted = team_draft(first, second, k, seed)
    clicks, _ = (model or ClickModel()).simulate(drafted.items, cases, seed + 1)
    return credit(drafted, clicks, seed=seed)
