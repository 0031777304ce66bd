"""A simulated reader whose truth is known, so that online estimators can be checked before anybody goes online."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distill.ranking.cases import Cases
from distill.ranking.judged import Judged


@dataclass(frozen=True)
class ClickModel:
    """Position-based clicks: a place is examined, and an examined item is clicked if it attracts; clicks may convert.

    Source: Craswell et al. (2008), An experimental comparison of click position-bias models.

    Attributes:
        relevant: Chance of a click on an examined relevant item (one of the user's held-out items).
        other: Chance of a click on any other examined item.
        decay: Place r is examined with probability r ** -decay.
        converts: Chance that a click on a relevant item converts.
        other_converts: Chance that any other click converts.
    """

    relevant: float = 0.6
    other: float = 0.05
    decay: float = 1.0
    converts: float = 0.3
    other_converts: float = 0.05

    def click_chances(self, shown: np.ndarray, cases: Cases) -> np.ndarray:
        """Probability of a click on each place of the lists shown, (U, K); 0 in free places."""
        judged = _judged(shown, cases)
        examined = np.arange(1, shown.shape[1] + 1) ** -self.decay
        return np.where(judged.hits, self.relevant, self.other) * examined * judged.listed

    def conversion_chances(self, shown: np.ndarray, cases: Cases) -> np.ndarray:
        """Probability that a click on each place converts, (U, K)."""
        return np.where(_judged(shown, cases).hits, self.converts, self.other_converts)

    def simulate(self, shown: np.ndarray, cases: Cases, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """One visit of each user.

        Args:
            shown: Lists shown, int (U, K), -1 behind the end.
            cases: The users, whose truth says what is relevant.
            seed: Seed of the visit.

        Returns:
            Clicks and conversions, bool (U, K) each.
        """
        rng = np.random.default_rng(seed)
        clicks = rng.random(shown.shape) < self.click_chances(shown, cases)
        converted = clicks & (rng.random(shown.shape) < self.conversion_chances(shown, cases))
        return clicks, converted

    def true_ctr(self, shown: np.ndarray, cases: Cases) -> float:
        """The exact click-through rate of these lists: expected clicks / impressions."""
        return float(self.click_chances(shown, cases).sum() / np.count_nonzero(shown >= 0))

    def true_cvr(self, shown: np.ndarray, cases: Cases) -> float:
        """The conversion rate of these lists: expected conversions / expected clicks."""
        clicks = self.click_chances(shown, cases)
        return float((clicks * self.conversion_chances(shown, cases)).sum() / clicks.sum())


def _judged(shown: np.ndarray, cases: Cases) -> Judged:
    return Judged(shown, cases, np.zeros(cases.n_items, bool))
