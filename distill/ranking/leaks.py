"""Leak checks: of a split, of the times behind it, and of ranked lists."""

from __future__ import annotations

from typing import Any

import numpy as np

from distill.data.dataset import HISTORY, PARTS, TEST, TRAIN, VALID, Dataset
from distill.data.split import check_leaks
from distill.errors import UserError
from distill.ranking.cases import Cases, contains


def check_split(dataset: Dataset, part: int) -> dict[str, Any]:
    """Checks that nothing of `part` was seen before it, and finds what is cold.

    Args:
        dataset: A prepared data set.
        part: VALID or TEST.

    Returns:
        `cold_items`: indices of the items of `part` that never occur before it, a list; `cold_targets` and
        `share_of_targets`: the events of `part` on them; `cold_users`: users of `part` without an earlier event.

    Raises:
        UserError: A pair occurs in two parts, or a user's events go back from a later part to an earlier one.
    """
    leaks = check_leaks(dataset)
    if leaks:
        raise UserError(f"The split leaks: {' '.join(leaks)} Split again with distill prepare, without repeats.")
    return _cold(dataset, part)


def _cold(dataset: Dataset, part: int) -> dict[str, Any]:
    users = dataset.event_users()
    before, inside = (dataset.parts < part) | (dataset.parts == HISTORY), dataset.parts == part
    known = np.bincount(dataset.items[before], minlength=dataset.n_items) > 0
    cold = ~known[dataset.items[inside]]
    known_users = np.bincount(users[before], minlength=dataset.n_users) > 0
    return {
        "cold_items": np.unique(dataset.items[inside][cold]).tolist(),
        "cold_targets": int(np.count_nonzero(cold)),
        "share_of_targets": float(cold.mean()) if len(cold) else 0.0,
        "cold_users": int(np.count_nonzero(~known_users[np.unique(users[inside])])),
    }


def split_report(dataset: Dataset) -> dict[str, Any]:
    """What a reader must know of a sound split before trusting numbers on it; `prepare` keeps it in the manifest.

    Returns:
        `findings`: one sentence for each way in which a model could see the future, empty where there is none;
        by part that has events, "valid" and "test": numbers of `cold_items`, `cold_targets` and `cold_users` (listed in
        items.parquet and users.parquet with 0 train_events) and `share_of_targets`, as in `check_split`.
    """
    report: dict[str, Any] = {"findings": _time_findings(dataset)}
    for name in ("valid", "test"):
        if (dataset.parts == PARTS[name]).any():
            found = _cold(dataset, PARTS[name])
            report[name] = {**found, "cold_items": len(found["cold_items"])}
    return report


def _time_findings(dataset: Dataset) -> list[str]:
    if dataset.times is None:
        return []
    findings = []
    try:
        check_times(dataset.times, np.where(dataset.parts == HISTORY, TRAIN, dataset.parts))
    except UserError as error:
        findings.append(str(error))
    users, later = dataset.event_users(), (dataset.parts == VALID) | (dataset.parts == TEST)
    known = users[~later]
    latest = np.full(dataset.n_users, np.iinfo(np.int64).min)
    if len(known):
        begins = np.flatnonzero(np.append(True, known[1:] != known[:-1]))
        latest[known[begins]] = np.maximum.reduceat(dataset.times[~later], begins)
    old = later & (dataset.times < latest[users])
    if old.any():
        findings.append(
            f"{np.count_nonzero(old):,} validation and test events of {len(np.unique(users[old])):,} users are older "
            "than a train event of the same user, as splits by lot have it: the history knows the user's future."
        )
    return findings


def check_times(times: np.ndarray, parts: np.ndarray) -> None:
    """Checks a global temporal split: no train event may lie after the first event of a later part.

    Args:
        times: Time of each event, (E,), any unit.
        parts: Part of each event, (E,).

    Raises:
        UserError: Train events lie after the cut; their number and the latest one are given.
    """
    later = times[parts > TRAIN]
    if not len(later):
        return
    cut = later.min()
    leaking = (parts == TRAIN) & (times > cut)
    if leaking.any():
        raise UserError(
            f"{np.count_nonzero(leaking)} train events lie after the cut {cut} (the latest at {times[leaking].max()}): "
            "the model would learn from the future of other users. Use data.split.name: temporal, or report the split "
            "as per-user."
        )


def list_leaks(ranked: np.ndarray, cases: Cases) -> dict[str, int]:
    """What lists hold that they shouldn't.

    Args:
        ranked: Lists, int (U, K), -1 behind the end.
        cases: The evaluated users.

    Returns:
        `seen_items`: places that hold an item of the user's own history (it can't be a hit and takes a place);
        `users_with_seen_items`; `repeats`: places that repeat an item of the list; `empty_lists`; `short_lists`: lists
        with a free place, the empty ones included.
    """
    listed = ranked >= 0
    rows = np.arange(len(ranked), dtype=np.int64)[:, None]
    seen = seen_places(ranked, cases)
    keys = np.sort(np.where(listed, rows * cases.n_items + ranked, -1), axis=1)
    return {
        "seen_items": int(np.count_nonzero(seen)),
        "users_with_seen_items": int(np.count_nonzero(seen.any(1))),
        "repeats": int(np.count_nonzero((keys[:, 1:] == keys[:, :-1]) & (keys[:, 1:] >= 0))),
        "empty_lists": int(np.count_nonzero(~listed.any(1))),
        "short_lists": int(np.count_nonzero(~listed.all(1))),
    }


def seen_places(ranked: np.ndarray, cases: Cases) -> np.ndarray:
    """Places that hold an item of the user's own history, bool (U, K)."""
    rows = np.arange(len(ranked), dtype=np.int64)[:, None]
    return contains(cases.seen_keys, np.where(ranked >= 0, rows * cases.n_items + ranked, -1))
