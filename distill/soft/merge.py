"""Several teachers' stores of the same contexts as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from distill.data.contexts import Contexts
from distill.errors import UserError
from distill.progress import track
from distill.runs import digest
from distill.soft.store import ABSENT, CONTEXTS, Store, StoreHeader, StoreWriter
from distill.soft.targets import WHOLE, unit_weights

How = Literal["scores", "ranks", "probabilities"]
HOWS: tuple[str, ...] = get_args(How)
BLOCK = 2048  # rows merged at once
TINY = 1e-30


def merge(folders: Sequence[Path], out: Path, how: How = "scores", weights: Sequence[float] | None = None) -> Store:
    """Writes the merged store of `folders`, and the contexts they share, into the folder `out`.

    A row lists the best K of all items that any of the stores lists for it, K being the largest of theirs. An item that
    a store doesn't list gets that store's mean over what it doesn't list, log((e^logz - sum e^s) / (N' - K)), with N'
    the items outside the history. Rows that a store left unanswered are merged from the others. Sampled tails and
    context vectors are not carried over: the first have a proposal of their own, the second a space of their own.

    Args:
        folders: Finished stores with their contexts, at least two.
        out: An empty folder.
        how: "scores": the weighted mean of log-probabilities (a product of experts). "probabilities": the weighted mean
            of probabilities (a mixture). "ranks": the weighted mean of -log(rank), whatever the scales of the scores;
            what isn't listed shares the mean rank of the rest.
        weights: One a store; all alike by default.

    Raises:
        UserError: The stores are of different data, item orders or contexts, have no common temperature 1, or the
            weights don't fit.
    """
    if how not in HOWS:
        raise UserError(f"--how is '{how}', expected one of {', '.join(HOWS)}.")
    if len(folders) < 2:
        raise UserError(f"There is {len(folders)} store to merge, expected at least two.")
    unit = np.array(unit_weights(weights, len(folders)))
    stores = [Store.open(folder, verify=True) for folder in folders]
    contexts = common_contexts(stores)
    header = merged_header(stores, [*map(float, unit), how])
    writer = StoreWriter(out, header)
    starts = [int(start) for start in stores[0].starts]
    blocks = [
        (shard, at, min(at + BLOCK, last))
        for shard, (first, last) in enumerate(zip(starts, [*starts[1:], stores[0].rows], strict=True))
        for at in range(first, last, BLOCK)
    ]
    parts: list[dict[str, np.ndarray]] = []
    for shard, first, last in track(blocks, "merging", unit=f"x {BLOCK} rows"):
        parts.append(merge_rows(stores, contexts, np.arange(first, last), header, how, unit))
        if last == (starts[shard + 1] if shard + 1 < len(starts) else stores[0].rows):
            arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            writer.write(shard, np.arange(starts[shard], last), arrays)
            parts = []
    contexts.write(out / CONTEXTS)
    writer.close(starts, stores[0].rows)
    return Store.open(out)


def common_contexts(stores: Sequence[Store]) -> Contexts:
    """The contexts of the first store, which must be those of all.

    Raises:
        UserError: Data, item order, number of contexts or a history differs; it names both folders.
    """
    first = stores[0]
    contexts = Contexts.read(first.folder / CONTEXTS, first.header.n_items)
    for store in stores[1:]:
        for name in ("data", "item_vocabulary"):
            mine, theirs = getattr(first.header, name), getattr(store.header, name)
            if mine != theirs:
                raise UserError(
                    f"{store.folder} was made for another {name.replace('_', ' ')} ({theirs[:12]}) than "
                    f"{first.folder} ({mine[:12]}); only stores of one data set can be merged."
                )
        other = Contexts.read(store.folder / CONTEXTS, first.header.n_items)
        same = len(other) == len(contexts) == first.rows == store.rows and all(
            np.array_equal(getattr(contexts, name), getattr(other, name)) for name in vars(contexts)
        )
        if not same:
            raise UserError(
                f"{store.folder} answers other contexts ({store.rows:,} rows) than {first.folder} ({first.rows:,} "
                "rows). Give both the same 'scores' settings and seed, with rollouts: 0, which each teacher draws anew."
            )
    return contexts


def merged_header(stores: Sequence[Store], recipe: Sequence[object]) -> StoreHeader:
    """Header of the merged store; its teacher's fingerprint is made of theirs and of the recipe."""
    common = [t for t in stores[0].header.temperatures if all(t in s.header.temperatures for s in stores)]
    if 1.0 not in common:
        raise UserError("The stores have no log-sum-exp at temperature 1 in common, which says what probabilities are.")
    teacher = digest([*(store.header.teacher for store in stores), *recipe])
    k = max(store.header.k for store in stores)
    return replace(stores[0].header, k=k, temperatures=common, tail=0, hidden=0, teacher=teacher)


def merge_rows(
    stores: Sequence[Store], contexts: Contexts, rows: np.ndarray, header: StoreHeader, how: How, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Merged items (B, K), scores (B, K) and logz (B, T) of some rows, weights (M,) one a store."""
    left = unseen_counts(contexts, rows)  # (B,) items outside the history
    found = [store.lookup(rows) for store in stores]
    answered = np.stack([(f["items"] >= 0).any(1) for f in found], 1)  # (B, M)
    share = answered * weights
    share /= np.maximum(share.sum(1, keepdims=True), TINY)
    candidates = union(np.concatenate([f["items"] for f in found], 1), header.n_items)  # (B, C), -1 pads
    total = np.zeros(candidates.shape)
    floor = np.zeros(len(rows))
    for number, (store, answer) in enumerate(zip(stores, found, strict=True)):
        one = store.header.temperatures.index(1.0)
        values, rest = log_values(answer["items"], answer["scores"], answer["logz"][:, one], left, how)
        at = positions(answer["items"], candidates, header.n_items)
        mine = np.where(at >= 0, np.take_along_axis(values, np.maximum(at, 0), 1), rest[:, None])
        if how == "probabilities":
            mine, rest = np.exp(mine), np.exp(rest)
        total += share[:, number, None] * np.where(answered[:, number, None], mine, 0.0)
        floor += share[:, number] * np.where(answered[:, number], rest, 0.0)
    if how == "probabilities":
        total, floor = np.log(np.maximum(total, TINY)), np.log(np.maximum(floor, TINY))
    known = np.any(answered, axis=1)[:, None]  # (B, 1)
    valid = (candidates >= 0) & known
    total = np.where(valid, total, -np.inf)
    unlisted = np.maximum(left - valid.sum(1), 0)
    logz = np.stack([log_sum(total / t, unlisted, floor / t) for t in header.temperatures], 1)
    order = np.argsort(-total, axis=1, kind="stable")[:, : header.k]
    best = np.take_along_axis(total, order, 1)
    items = np.where(np.isneginf(best), -1, np.take_along_axis(candidates, order, 1))
    short = header.k - items.shape[1]  # never short but in a tiny catalogue
    return {
        "items": np.pad(items, ((0, 0), (0, short)), constant_values=-1),
        "scores": np.pad(np.maximum(best, ABSENT), ((0, 0), (0, short)), constant_values=ABSENT),
        "logz": np.where(known, logz, 0.0),
    }


def log_values(
    items: np.ndarray, scores: np.ndarray, logz: np.ndarray, left: np.ndarray, how: How
) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities of a store's listed items (B, K), and of each item that it doesn't list (B,).

    For ranks they are -log(rank), which is a log-probability up to a constant under Zipf's law.
    """
    listed = (items >= 0).sum(1)
    others = np.maximum(left - listed, 1)
    if how == "ranks":
        values = np.broadcast_to(-np.log(np.arange(1, items.shape[1] + 1)), items.shape)
        return values, -np.log((listed + 1 + np.maximum(left, listed + 1)) / 2)
    values = np.where(items >= 0, scores.astype(np.float64) - logz[:, None], -np.inf)
    outside = np.maximum(1.0 - np.exp(values).sum(1), 0.0)  # half precision may take the sum a little above 1
    return values, np.log(np.maximum(outside / others, TINY))


def union(items: np.ndarray, n_items: int) -> np.ndarray:
    """Distinct items of each row (B, C), ascending, then -1; C is the longest row's number."""
    ordered = np.sort(np.where(items < 0, n_items, items), axis=1)
    ordered[:, 1:][ordered[:, 1:] == ordered[:, :-1]] = n_items
    ordered.sort(axis=1)
    width = max(1, int((ordered < n_items).sum(1).max(initial=1)))
    return np.where(ordered < n_items, ordered, -1)[:, :width]


def positions(items: np.ndarray, wanted: np.ndarray, n_items: int) -> np.ndarray:
    """Where in a row's `items` (B, K) each of `wanted` (B, C) stands, -1 where it doesn't."""
    order = np.argsort(items, axis=1, kind="stable")
    offset = np.arange(len(items), dtype=np.int64)[:, None] * (n_items + 1)
    keys = (np.take_along_axis(items, order, 1) + offset).ravel()
    asked = wanted + offset
    place = np.minimum(np.searchsorted(keys, asked), max(len(keys) - 1, 0))
    hit = (keys[place] == asked) & (wanted >= 0)
    return np.where(hit, order.ravel()[place], -1)


def log_sum(values: np.ndarray, count: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """log(sum_c e^values + count * e^floor) for values (B, C), stably."""
    rest = np.where(count > 0, floor + np.log(np.maximum(count, 1)), -np.inf)
    every = np.concatenate([values, rest[:, None]], 1)
    top = np.maximum(every.max(1), -1e30)
    return top + np.log(np.maximum(np.exp(every - top[:, None]).sum(1), TINY))


def unseen_counts(contexts: Contexts, rows: np.ndarray) -> np.ndarray:
    """Items of the catalogue outside each history (B,)."""
    seen = np.sort(contexts.batch(rows, WHOLE).seen, axis=1)
    fresh = (seen[:, 1:] != seen[:, :-1]).sum(1) + 1
    padded = seen[:, -1] == contexts.n_items
    return contexts.n_items - (fresh - padded)
