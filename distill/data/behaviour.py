"""What a history says about its user's behaviour: how long, how recent, how often, how dear, and of which kinds."""

from __future__ import annotations

import numpy as np

from distill.data.contexts import Contexts
from distill.data.dataset import Dataset, Lists

DAY = 86400.0


def behaviour_names(dataset: Dataset, price: str = "price") -> list[str]:
    """Names of the columns of `behaviour_features`, F of them."""
    names = ["length", "recency", "frequency", "timed"]
    names += ["price_mean", "price_spread"] if price in dataset.features.items.numbers else []
    categories = dataset.features.items.vocabularies.get(dataset.features.categories, [])
    return names + [f"{dataset.features.categories}={value}" for value in categories]


def behaviour_features(
    dataset: Dataset, contexts: Contexts, rows: np.ndarray, now: np.ndarray | None = None, price: str = "price"
) -> np.ndarray:
    """Behaviour features of contexts, from their own histories alone: nothing that comes after a context is read.

    - length: log(1 + items of the history);
    - recency: log(1 + days from its last event until `now`, or without `now` from the event before it);
    - frequency: log(1 + events a day over its span, of a day at least);
    - timed: share of its items with a known time; synthetic items (roll-outs, appends) have none, and without any the
      two columns before are 0;
    - price_mean and price_spread: mean and standard deviation of the items' prices in units of the catalogue's standard
      deviation, where there is an attribute `price`;
    - one column a category: its share of the history, where the data set has categories; an item with several
      categories gives each an equal share of itself.

    Args:
        dataset: With times, prices and categories where it has them.
        contexts: The contexts.
        rows: Row ids, int (B,).
        now: When each row is asked, seconds since 1970, int64 (B,), or None.
        price: Name of the item attribute that is a price.

    Returns:
        float32 (B, F); see `behaviour_names`.
    """
    rows = np.asarray(rows, np.int64)
    lengths = contexts.lengths[rows]
    begins = np.concatenate([[0], np.cumsum(lengths)])
    owner = np.repeat(np.arange(len(rows)), lengths)
    place = np.arange(begins[-1]) - begins[owner] + contexts.start[rows][owner]
    items = contexts.items[place].astype(np.int64)
    owner, items = owner[items < dataset.n_items], items[items < dataset.n_items]  # masked items say nothing
    columns = [np.log1p(lengths), *_in_time(dataset, contexts.user[rows], owner, items, lengths, now)]
    if price in dataset.features.items.numbers:
        columns += _prices(dataset, price, owner, items, len(rows))
    features = np.stack(columns, axis=1)
    if dataset.categories is not None:
        features = np.concatenate([features, _category_mix(dataset, owner, items, len(rows))], axis=1)
    return features.astype(np.float32)


def _in_time(
    dataset: Dataset,
    user: np.ndarray,
    owner: np.ndarray,
    items: np.ndarray,
    lengths: np.ndarray,
    now: np.ndarray | None,
) -> list[np.ndarray]:
    """Recency, frequency and the share of items with a time, (B,) each."""
    rows = len(lengths)
    if dataset.times is None:
        return [np.zeros(rows)] * 3
    present = np.unique(user[user >= 0])  # the events of these users alone are looked through
    done, when = (Lists(dataset.indptr, column).take(present) for column in (dataset.items, dataset.times))
    keys = np.append(present[done.row_numbers()].astype(np.int64) * dataset.n_items + done.items, -1)
    by_key = np.argsort(keys)
    wanted = np.where(user[owner] >= 0, user[owner].astype(np.int64) * dataset.n_items + items, -2)
    found = by_key[np.minimum(np.searchsorted(keys, wanted, sorter=by_key), len(keys) - 1)]
    known = keys[found] == wanted
    owner, times = owner[known], when.items[found[known]]
    order = np.lexsort((times, owner))
    owner, times = owner[order], times[order]
    counts = np.bincount(owner, minlength=rows)
    ends = np.cumsum(counts)
    some, several = counts > 0, counts > 1
    last, first, before = np.zeros(rows), np.zeros(rows), np.zeros(rows)
    last[some], first[some] = times[ends[some] - 1], times[ends[some] - counts[some]]
    before[several] = times[ends[several] - 2]
    gap = np.where(several, last - before, 0.0) if now is None else np.where(some, np.maximum(now - last, 0), 0.0)
    rate = np.where(some, counts / np.maximum((last - first) / DAY, 1.0), 0.0)
    return [np.log1p(gap / DAY), np.log1p(rate), counts / np.maximum(lengths, 1)]


def _prices(dataset: Dataset, price: str, owner: np.ndarray, items: np.ndarray, rows: int) -> list[np.ndarray]:
    """Mean and spread of the known prices of each history, standardised, (B,) each; 0 without any."""
    about = dataset.features.items.statistics()["numeric"][price]
    values = (dataset.features.items.numbers[price][items] - about["mean"]) / (about["std"] or 1.0)
    known = ~np.isnan(values)
    count = np.maximum(np.bincount(owner[known], minlength=rows), 1)
    mean = np.bincount(owner[known], weights=values[known], minlength=rows) / count
    square = np.bincount(owner[known], weights=values[known] ** 2, minlength=rows) / count
    return [mean, np.sqrt(np.maximum(square - mean**2, 0))]


def _category_mix(dataset: Dataset, owner: np.ndarray, items: np.ndarray, rows: int) -> np.ndarray:
    """Share of each category in each history, (B, C); rows without a category are 0."""
    categories = dataset.categories
    assert categories is not None  # the caller looked
    width = len(dataset.features.items.vocabularies[dataset.features.categories])
    chosen = categories.take(items)
    entry = chosen.row_numbers()
    cell = owner[entry] * width + chosen.items
    mix = np.bincount(cell, weights=1.0 / chosen.lengths[entry], minlength=rows * width).reshape(rows, width)
    return mix / np.maximum(mix.sum(1, keepdims=True), 1e-12)
