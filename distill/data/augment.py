"""Synthetic contexts for the transfer set: drops, crops, single items, mixes, roll-outs and random appends.

Real prefixes are few on sparse data and mostly memorised by the teacher; what the student has to copy is the teacher's
behaviour around them. Everything here depends on the seed alone.
"""

from __future__ import annotations

import numpy as np

from distill.data.contexts import Contexts, Kind, concatenate, from_lists, prefixes, train_contexts
from distill.data.dataset import TRAIN, Dataset, Lists

DROP_SHARE = 0.25


def static_contexts(
    dataset: Dataset, seed: int, drops: int, crops: int, singles: bool, max_prefixes: int, mixes: int = 0
) -> Contexts:
    """Contexts that need no teacher: real prefixes first (their row ids never depend on the rest), then synthetic ones.

    Args:
        dataset: Only its train part is used.
        seed: Decides what is dropped, where is cropped, and who is mixed.
        drops: Copies of each train sequence with a quarter of its items left out.
        crops: Copies cut to a random contiguous piece of at least half its length.
        singles: Every catalogue item as a history of its own.
        max_prefixes: At most so many (the latest) prefixes of each synthetic sequence.
        mixes: Interleavings of each user's history with another user's.
    """
    lists = dataset.lists(TRAIN, TRAIN)
    parts = [train_contexts(dataset)]
    users = np.arange(dataset.n_users)
    for copy in range(drops):
        rng = np.random.default_rng([seed, Kind.DROP, copy])
        shorter = keep_entries(lists, rng.random(len(lists.items)) >= DROP_SHARE)
        parts.append(latest(prefixes(shorter, dataset.n_items, Kind.DROP, users), shorter, max_prefixes))
    for copy in range(crops):
        shorter = crop(lists, np.random.default_rng([seed, Kind.CROP, copy]))
        parts.append(latest(prefixes(shorter, dataset.n_items, Kind.CROP, users), shorter, max_prefixes))
    if singles:
        every = Lists(np.arange(dataset.n_items + 1, dtype=np.int64), np.arange(dataset.n_items, dtype=np.int32))
        parts.append(from_lists(every, dataset.n_items, Kind.SINGLE, np.full(dataset.n_items, -1)))
    for copy in range(mixes):
        parts.append(mixed(lists, dataset.n_items, np.random.default_rng([seed, Kind.MIX, copy])))
    return concatenate(parts)


def mixed(lists: Lists, n_items: int, rng: np.random.Generator) -> Contexts:
    """Each row's latest half interleaved at random with the latest half of another row, both in their own order.

    Such a history holds two tastes, about as long as a real one. An item that both rows hold is kept once, at its first
    place. The contexts belong to no user. Rows without items are left out, and nothing is mixed for a single row.
    """
    halves = keep_entries(lists, lists.indptr[1:][lists.row_numbers()] - np.arange(len(lists.items)) <= _half(lists))
    rows = np.flatnonzero(halves.lengths)
    if len(rows) < 2:
        return from_lists(Lists(np.zeros(1, np.int64), np.zeros(0, np.int32)), n_items, Kind.MIX, np.empty(0))
    # The next one in a random circle of all rows is never the row itself.
    circle = rng.permutation(rows)
    parts = [halves.take(circle), halves.take(np.roll(circle, -1))]
    items = np.concatenate([part.items for part in parts])
    pair = np.concatenate([part.row_numbers() for part in parts])
    source = np.repeat([0, 1], [len(part.items) for part in parts])
    keys = rng.random(len(items))
    keys = keys[np.lexsort((keys, pair, source))]  # ascending within each half: its own order is kept
    order = np.lexsort((keys, pair))
    items, pair = items[order], pair[order]
    _, first = np.unique(pair * np.int64(n_items) + items, return_index=True)
    first.sort()
    lengths = np.bincount(pair[first], minlength=len(rows))
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return from_lists(Lists(indptr, items[first]), n_items, Kind.MIX, np.full(len(rows), -1))


def _half(lists: Lists) -> np.ndarray:
    """Half the length of each entry's row, rounded up."""
    return ((lists.lengths + 1) // 2)[lists.row_numbers()]


def last_real_rows(contexts: Contexts) -> np.ndarray:
    """Row ids of the real contexts that hold a user's whole train sequence: where roll-outs start."""
    return np.flatnonzero((contexts.kind == Kind.REAL) & (contexts.target < 0))


def extended(contexts: Contexts, rows: np.ndarray, items: np.ndarray, kind: Kind) -> Contexts:
    """One new context a row: the history of `rows` (R,) with `items` (R,) appended."""
    lengths = contexts.lengths[rows] + 1
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    flat = np.empty(indptr[-1], np.int32)
    last = indptr[1:] - 1
    flat[last] = items
    body = np.ones(len(flat), bool)
    body[last] = False
    old = lengths - 1
    starts = np.concatenate([[0], np.cumsum(old)])[:-1]
    flat[body] = contexts.items[np.arange(old.sum()) - np.repeat(starts - contexts.start[rows], old)]
    return from_lists(Lists(indptr, flat), contexts.n_items, kind, contexts.user[rows])


def rollouts(
    contexts: Contexts, rows: np.ndarray, items: np.ndarray, scores: np.ndarray, count: int, power: float, seed: int
) -> Contexts:
    """Histories extended by an item drawn from the teacher's top K with probability proportional to p ** power.

    Args:
        contexts: Where the histories lie.
        rows: Row ids to extend, (R,).
        items, scores: The teacher's top K of those rows, (R, K); -1 pads.
        count: Draws a row, without replacement where K allows.
        power: Below 1 it flattens the teacher's distribution.
        seed: Decides the draws.
    """
    rng = np.random.default_rng([seed, Kind.ROLLOUT])
    # The Gumbel top-k trick draws without replacement from softmax(power * scores), for all rows at once.
    keys = np.where(items >= 0, power * scores.astype(np.float64) + rng.gumbel(size=scores.shape), -np.inf)
    best = np.argsort(-keys, axis=1, kind="stable")[:, :count]
    drawn = np.take_along_axis(items, best, 1)
    owner = np.repeat(rows, drawn.shape[1])
    flat = drawn.ravel()
    return extended(contexts, owner[flat >= 0], flat[flat >= 0], Kind.ROLLOUT)


def appends(contexts: Contexts, rows: np.ndarray, count: int, seed: int) -> Contexts:
    """Histories extended by a uniformly drawn item, `count` a row; draws that repeat the history are left out."""
    rng = np.random.default_rng([seed, Kind.APPEND])
    owner = np.repeat(rows, count)
    items = rng.integers(0, contexts.n_items, len(owner)).astype(np.int32)
    lengths = contexts.lengths[owner]
    flat = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths - contexts.start[owner], lengths)
    repeated = np.zeros(len(owner), bool)
    np.logical_or.at(
        repeated, np.repeat(np.arange(len(owner)), lengths), contexts.items[flat] == np.repeat(items, lengths)
    )
    return extended(contexts, owner[~repeated], items[~repeated], Kind.APPEND)


def keep_entries(lists: Lists, keep: np.ndarray) -> Lists:
    """The entries of each row where `keep` (indptr[-1],) is true."""
    counts = np.bincount(lists.row_numbers()[keep], minlength=len(lists))
    return Lists(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), lists.items[keep])


def crop(lists: Lists, rng: np.random.Generator) -> Lists:
    """A random contiguous piece of each row, at least half as long as the row."""
    lengths = lists.lengths
    kept = np.ceil(lengths * rng.uniform(0.5, 1.0, len(lists))).astype(np.int64)
    first = np.floor((lengths - kept + 1) * rng.random(len(lists))).astype(np.int64)
    place = np.arange(len(lists.items)) - lists.indptr[:-1][lists.row_numbers()]
    owner = lists.row_numbers()
    return keep_entries(lists, (place >= first[owner]) & (place < (first + kept)[owner]))


def latest(contexts: Contexts, lists: Lists, count: int) -> Contexts:
    """Of all prefixes of `lists`, the `count` longest of each row."""
    left = lists.indptr[1:][lists.row_numbers()] - np.arange(1, len(lists.items) + 1)
    return contexts.take(left < count)
