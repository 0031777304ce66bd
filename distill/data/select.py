"""Which contexts a costly teacher is asked about when it can't be asked about all.

All four ways are cheap, need no teacher, and depend on the seed alone.
"""

from __future__ import annotations

import numpy as np

from distill.data.contexts import Contexts
from distill.data.dataset import TRAIN, Dataset, Lists

WINDOW = 5  # events at most so far apart count as a pair
RECENT = 10  # latest items of a history that are looked at
DECAY = 3.0  # their weights are exp(-age / DECAY)
PRIOR = 10.0  # pairs' worth of popularity mixed into an item's neighbours
WIDTH = 32  # random coordinates of an item
BITS = 10  # a history is in one of 2 ** BITS clusters
BLOCK = 65_536  # contexts looked at once


def select(dataset: Dataset, contexts: Contexts, count: int, how: str, seed: int) -> np.ndarray:
    """Row ids of `count` contexts, ascending, int64.

    Args:
        dataset: Its train part says how popular items are and which go together.
        contexts: The candidates.
        count: How many are chosen; all where there are no more.
        how: "uniform": at random. "uncertainty": where the next item is hardest to guess, see `uncertainty`.
            "tail_first": where the label (or, without one, the latest item) is rarest in train. "diversity": taken in
            turn from clusters of alike histories, see `clusters`.
        seed: Decides between equals.

    References:
        Settles 2009, "Active learning literature survey", sections 3.1 (uncertainty) and 5.1 (diversity).
    """
    rng = np.random.default_rng([seed, len(contexts)])
    chance = rng.random(len(contexts))
    if count >= len(contexts):
        return np.arange(len(contexts))
    if how == "uniform":
        rank = chance
    elif how == "uncertainty":
        rank = -uncertainty(dataset, contexts)
    elif how == "tail_first":
        latest = contexts.items[np.maximum(contexts.stop - 1, 0)] if len(contexts.items) else contexts.target
        item = np.where(contexts.target >= 0, contexts.target, latest)
        rank = dataset.popularity[item].astype(np.float64)
    elif how == "diversity":
        rank = turns(clusters(dataset, contexts, seed), chance).astype(np.float64)
    else:
        raise ValueError(f"no way to select is called '{how}'")
    return np.sort(np.lexsort((chance, rank))[:count])


def wanted_count(budget: float, total: int) -> int:
    """Contexts that a budget pays for: a share of `total` below 1, or a number; 0 and 1 for all."""
    if budget in (0, 1):
        return total
    return min(total, max(1, round(budget * total))) if budget < 1 else min(total, int(budget))


def uncertainty(dataset: Dataset, contexts: Contexts) -> np.ndarray:
    """How hard the next item is to guess, in nats (R,): the mean entropy of what goes together with the latest items.

    An item's neighbours are the items at most WINDOW events away from it in train sequences, in proportion to their
    counts, with popularity as a prior of PRIOR pairs: an item without neighbours is as uncertain as popularity is. The
    mean over a history weighs recent items more. It bounds the entropy of the item-based nearest-neighbour guess, which
    is the mixture of these distributions, from below, without a row of scores for each context.
    """
    left, right, counts = neighbours(dataset)
    popular = (dataset.popularity + 1.0) / (dataset.popularity.sum() + dataset.n_items)
    plogp = popular * np.log(popular)
    total = np.bincount(left, counts, dataset.n_items)
    share = PRIOR / (total + PRIOR)  # weight of the prior in each item's distribution
    p = counts / (total + PRIOR)[left] + share[left] * popular[right]
    near = np.bincount(left, p * np.log(p), dataset.n_items)
    # Everything that is no neighbour has the probability share * popular; its part of the entropy is a closed form.
    far_mass = 1.0 - np.bincount(left, popular[right], dataset.n_items)
    far_plogp = plogp.sum() - np.bincount(left, plogp[right], dataset.n_items)
    entropy = -(near + share * (np.log(share) * far_mass + far_plogp))
    return recent_mean(contexts, entropy[:, None])[:, 0]


def clusters(dataset: Dataset, contexts: Contexts, seed: int) -> np.ndarray:
    """Clusters of alike histories, int64 (R,): the signs of BITS random projections of their latest items.

    Items get random coordinates, to which those of their neighbours in train are added, so that histories of other but
    related items fall together too.

    References:
        Charikar 2002, "Similarity estimation techniques from rounding algorithms", for the signs; Sahlgren 2005, "An
        introduction to random indexing", for the coordinates.
    """
    rng = np.random.default_rng(seed)
    own = rng.normal(size=(dataset.n_items, WIDTH))
    left, right, counts = neighbours(dataset)
    total = np.maximum(np.bincount(left, counts, dataset.n_items), 1.0)
    related = np.stack([np.bincount(left, counts * own[right, d], dataset.n_items) for d in range(WIDTH)], 1)
    vectors = own + 2.0 * related / total[:, None]
    vectors -= vectors.mean(0)
    signs = recent_mean(contexts, vectors @ rng.normal(size=(WIDTH, BITS))) > 0
    return signs @ (1 << np.arange(BITS))


def turns(cluster: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """In which round each row is taken, when every round takes one of each cluster that has any left, int64 (R,)."""
    order = np.lexsort((chance, cluster))
    ordered = cluster[order]
    fresh = np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)]
    begin = np.maximum.accumulate(np.where(fresh, np.arange(len(ordered)), 0))
    out = np.empty(len(cluster), np.int64)
    out[order] = np.arange(len(ordered)) - begin
    return out


def neighbours(dataset: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of different items at most WINDOW events apart in train: left, right (P,) both ways round, and counts."""
    lists: Lists = dataset.lists(TRAIN, TRAIN)
    owner, items = lists.row_numbers(), lists.items.astype(np.int64)
    keys = []
    for distance in range(1, WINDOW + 1):
        near = (owner[:-distance] == owner[distance:]) & (items[:-distance] != items[distance:])
        first, second = items[:-distance][near], items[distance:][near]
        keys += [first * dataset.n_items + second, second * dataset.n_items + first]
    unique, counts = np.unique(np.concatenate(keys), return_counts=True)
    return unique // dataset.n_items, unique % dataset.n_items, counts.astype(np.float64)


def recent_mean(contexts: Contexts, values: np.ndarray) -> np.ndarray:
    """Weighted mean of values (N, D) over each history's latest items (R, D), recent ones more; 0 without any."""
    out = np.zeros((len(contexts), values.shape[1]))
    padded = np.concatenate([values, np.zeros((1, values.shape[1]))])
    weights = np.exp(-np.arange(RECENT) / DECAY)
    for first in range(0, len(contexts), BLOCK):
        rows = slice(first, first + BLOCK)
        total = np.zeros(len(out[rows]))
        for age in range(RECENT):
            place = contexts.stop[rows] - 1 - age
            inside = place >= contexts.start[rows]
            if not inside.any():
                break
            item = np.where(inside, contexts.items[np.where(inside, place, 0)], contexts.n_items)
            out[rows] += weights[age] * padded[item]
            total += weights[age] * inside
        out[rows] /= np.maximum(total, 1e-12)[:, None]
    return out
