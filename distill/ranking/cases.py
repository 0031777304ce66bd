"""Who is evaluated: one row a user, with what is masked, what counts as a hit, and the counts that metrics need."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from distill.data.dataset import PARTS, TRAIN, Dataset, Lists
from distill.errors import UserError


@dataclass(frozen=True)
class Cases:
    """The users of one evaluation; row numbers of every array and list here are "rows of the cases".

    Attributes:
        users: Data set index of each evaluated user, int64 (U,).
        seen: Items known before the evaluated part (the history in time order); masked in the ranking.
        truth: Relevant items of each user, without repeats and outside `seen`.
        n_items: Catalogue size N.
        popularity: Train interactions of each item, int64 (N,).
        activity: Train interactions of each evaluated user, int64 (U,).
        n_train_users: Users with at least one train interaction, evaluated or not.
        categories: Categories of each item (rows = items), for calibration; None where the data set has none.
        fingerprint: Fingerprint of the data set; evaluations of different data are never compared. "" if unknown.
    """

    users: np.ndarray
    seen: Lists
    truth: Lists
    n_items: int
    popularity: np.ndarray
    activity: np.ndarray
    n_train_users: int
    categories: Lists | None = None
    fingerprint: str = ""

    def __len__(self) -> int:
        return len(self.users)

    @cached_property
    def truth_keys(self) -> np.ndarray:
        """Sorted keys row * N + item of the relevant pairs, int64 (sum of |R_u|,)."""
        return pair_keys(self.truth, self.n_items)

    @cached_property
    def seen_keys(self) -> np.ndarray:
        """Sorted keys row * N + item of the masked pairs, int64."""
        return pair_keys(self.seen, self.n_items)

    def take(self, rows: np.ndarray) -> Cases:
        """The cases of some rows only, for instance of one segment of users."""
        return replace(
            self,
            users=self.users[rows],
            seen=self.seen.take(rows),
            truth=self.truth.take(rows),
            activity=self.activity[rows],
        )


def pair_keys(lists: Lists, n_items: int) -> np.ndarray:
    """Sorted keys row * N + item of all pairs in `lists`, int64."""
    return np.sort(lists.row_numbers() * np.int64(n_items) + lists.items)


def contains(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Whether each of `wanted` (any shape) occurs in the sorted array `keys`."""
    if not len(keys):
        return np.zeros(wanted.shape, bool)
    place = np.searchsorted(keys, wanted)
    return keys[np.minimum(place, len(keys) - 1)] == wanted


def cases_of(dataset: Dataset, part: int) -> Cases:
    """The users with at least one item in `part`, as cases.

    Args:
        dataset: A prepared data set.
        part: VALID (the history is train) or TEST (the history is train and validation).

    Raises:
        UserError: The part is empty or isn't one to evaluate on; a user's item occurs twice (within or across parts).
    """
    name = {number: name for name, number in PARTS.items()}.get(part, str(part))
    if part <= TRAIN or part not in PARTS.values():
        raise UserError(f"Part '{name}' can't be evaluated on; expected 'valid' or 'test'.")
    train = dataset.lists(TRAIN, TRAIN)
    truth = dataset.lists(part, part)
    users = np.flatnonzero(truth.lengths > 0)
    if not len(users):
        raise UserError(
            f"No user has an item in the {name} part, so there is nothing to evaluate. "
            "Give that part a share in data.split.ratios, or lower data.min_user_events."
        )
    cases = Cases(
        users=users,
        seen=dataset.history(part).take(users),
        truth=truth.take(users),
        n_items=dataset.n_items,
        popularity=dataset.popularity.astype(np.int64),
        activity=train.lengths[users],
        n_train_users=int(np.count_nonzero(train.lengths)),
        categories=dataset.categories,
        fingerprint=dataset.fingerprint,
    )
    _check_pairs(cases, dataset, name)
    return cases


def _check_pairs(cases: Cases, dataset: Dataset, name: str) -> None:
    keys = np.sort(np.concatenate([np.unique(cases.seen_keys), cases.truth_keys]))
    repeated = keys[1:][keys[1:] == keys[:-1]]
    if len(repeated):
        row, item = divmod(int(repeated[0]), cases.n_items)
        raise UserError(
            f"{len(repeated)} user-item pairs of the {name} part occur twice (in it, or also in the parts before it); "
            f"the first is user '{dataset.user_ids[cases.users[row]]}', item '{dataset.item_ids[item]}'. A seen item "
            "is masked and could never be a hit. Prepare the data without repeats (data.duplicates: first or last)."
        )
