"""What events were worth: the weight of a user's event with an item, and the bias model of such weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distill.data.dataset import Dataset

DAMPING = 10.0  # events of average worth that are added to every user and item


@dataclass(frozen=True)
class Outcomes:
    """Weights of events, looked up by user and item.

    Attributes:
        n_items: N.
        keys: user * N + item of each event, sorted, int64 (E,).
        values: Their weights, float32 (E,).
    """

    n_items: int
    keys: np.ndarray
    values: np.ndarray

    @classmethod
    def of_part(cls, dataset: Dataset, part: int) -> Outcomes:
        """The events of one part of a data set that has weights."""
        assert dataset.weights is not None  # the caller looked
        rows = np.flatnonzero(dataset.parts == part)
        keys = dataset.event_users()[rows].astype(np.int64) * dataset.n_items + dataset.items[rows]
        order = np.argsort(keys, kind="stable")
        return cls(dataset.n_items, keys[order], dataset.weights[rows][order].astype(np.float32))

    @property
    def users(self) -> np.ndarray:
        """Users of the events, int64 (E,)."""
        return self.keys // self.n_items

    @property
    def items(self) -> np.ndarray:
        """Items of the events, int64 (E,)."""
        return self.keys % self.n_items

    def of(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Weights float32 (B,) of the events of users and items (B,); nan where there is none, or either is -1."""
        found = np.full(len(users), np.nan, np.float32)
        if not len(self.keys):
            return found
        wanted = np.where((users >= 0) & (items >= 0), users.astype(np.int64) * self.n_items + items, -1)
        place = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        known = self.keys[place] == wanted
        found[known] = self.values[place[known]]
        return found


def damped_biases(
    users: np.ndarray, items: np.ndarray, values: np.ndarray, n_users: int, n_items: int
) -> tuple[float, np.ndarray, np.ndarray]:
    """The bias model value = base + b_item + b_user, items first, then users, means drawn to 0 by ten events.

    Args:
        users, items: Of the events, (E,).
        values: Their values (E,).
        n_users, n_items: U and N.

    Returns:
        The mean, biases of items float32 (N,) and of users float32 (U,), 0 without events.

    References:
        Koren 2010, "Factor in the neighbors", section 2.1: decoupled estimates of damped biases.
    """
    base = float(values.mean()) if len(values) else 0.0
    rest = values.astype(np.float64) - base
    of_items = np.bincount(items, rest, n_items) / (np.bincount(items, minlength=n_items) + DAMPING)
    rest = rest - of_items[items]
    of_users = np.bincount(users, rest, n_users) / (np.bincount(users, minlength=n_users) + DAMPING)
    return base, of_items.astype(np.float32), of_users.astype(np.float32)
