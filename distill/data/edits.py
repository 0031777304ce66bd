"""Edited copies of train sequences: items masked, a piece shuffled, items replaced by similar ones.

Other than drops and crops these keep the length, so that every item stays as old as it was. All of it depends on the
seed and on the train part alone.

References:
    Xie et al. 2022, "Contrastive learning for sequential recommendation" (CL4SRec), section 3.2, for mask and reorder;
    Liu et al. 2021, "Contrastive self-supervised sequential recommendation with robust augmentation" (CoSeRec), section
    3.2, for substitution by similar items.
"""

from __future__ import annotations

import numpy as np

from distill.data.contexts import Contexts, Kind, prefixes
from distill.data.dataset import TRAIN, Dataset, Lists
from distill.data.select import neighbours
from distill.data.similar import alike_texts

SHARE = 0.25  # of a sequence's items that are masked or replaced
SIMILAR = 10  # neighbours of an item that may stand in its place


def edited_contexts(dataset: Dataset, seed: int, copies: dict[Kind, int], similar: str, count: int) -> list[Contexts]:
    """The latest prefixes of edited copies of each user's train sequence, without labels.

    Prefixes that an edit left as they were are real contexts already, and are left out; so are those whose latest item
    is masked.

    Args:
        dataset: Only its train part is used.
        seed: Decides every edit.
        copies: How many copies of each kind: MASK, REORDER, SUBSTITUTE.
        similar: "cooccurrence" or "text": what makes items similar.
        count: At most so many (the longest) prefixes of each copy.
    """
    lists = dataset.lists(TRAIN, TRAIN)
    users = np.arange(dataset.n_users)
    left = lists.indptr[1:][lists.row_numbers()] - np.arange(1, len(lists.items) + 1)
    table = similar_items(dataset, similar, seed) if copies.get(Kind.SUBSTITUTE) else None
    parts = []
    for kind, wanted in copies.items():
        for copy in range(wanted):
            rng = np.random.default_rng([seed, kind, copy])
            if table is not None and kind == Kind.SUBSTITUTE:
                edited = substitute(lists, table, dataset.n_items, rng)
            else:
                edited = mask(lists, dataset.n_items, rng) if kind == Kind.MASK else reorder(lists, rng)
            every = prefixes(edited, dataset.n_items, kind, users)
            parts.append(every.take((left < count) & changed(lists, edited) & (edited.items < dataset.n_items)))
    return parts


def changed(lists: Lists, edited: Lists) -> np.ndarray:
    """Which prefixes differ from those of `lists`, bool (indptr[-1],): all from the first edited place of a row on."""
    differs = np.concatenate([[0], np.cumsum(lists.items != edited.items)])
    return differs[1:] > differs[lists.indptr[:-1]][lists.row_numbers()]


def mask(lists: Lists, n_items: int, rng: np.random.Generator) -> Lists:
    """About a quarter of each row's items made padding (`n_items`); the latest item of a row always stays.

    Unlike a dropped item, a masked one leaves its place empty, so that earlier items don't become younger.
    """
    hidden = rng.random(len(lists.items)) < SHARE
    hidden[lists.indptr[1:][lists.lengths > 0] - 1] = False
    return Lists(lists.indptr, np.where(hidden, n_items, lists.items).astype(np.int32))


def reorder(lists: Lists, rng: np.random.Generator) -> Lists:
    """A random contiguous piece of each row, half as long as the row but two items at least, shuffled."""
    lengths, owner = lists.lengths, lists.row_numbers()
    size = np.minimum(np.maximum((lengths + 1) // 2, 2), lengths)
    first = np.floor((lengths - size + 1) * rng.random(len(lists))).astype(np.int64)
    place = np.arange(len(lists.items)) - lists.indptr[:-1][owner]
    inside = (place >= first[owner]) & (place < (first + size)[owner])
    # Random keys within the piece sort it anew; whole numbers elsewhere keep the rest where it is.
    keys = np.where(inside, first[owner] + rng.random(len(place)) * size[owner], place)
    return Lists(lists.indptr, lists.items[np.lexsort((keys, owner))])


def substitute(lists: Lists, similar: np.ndarray, n_items: int, rng: np.random.Generator) -> Lists:
    """About a quarter of each row's items replaced by similar ones; no item comes twice into a row.

    Args:
        lists: The sequences.
        similar: Items that may stand in an item's place (N, M), the found ones first, padded with -1.
        n_items: N.
        rng: Decides which items, and by what.
    """
    choices = (similar >= 0).sum(1)[lists.items]
    drawn = np.floor(rng.random(len(choices)) * choices).astype(np.int64)
    wanted = (rng.random(len(choices)) < SHARE) & (choices > 0)
    place = np.flatnonzero(wanted)
    items = similar[lists.items[place], drawn[place]]
    row = lists.row_numbers() * np.int64(n_items)
    keys = row[place] + items
    _, once = np.unique(keys, return_index=True)  # the first of equal substitutes in a row
    fresh = once[~np.isin(keys[once], row + lists.items)]
    edited = lists.items.copy()
    edited[place[fresh]] = items[fresh]
    return Lists(lists.indptr, edited)


def similar_items(dataset: Dataset, how: str, seed: int) -> np.ndarray:
    """The most similar items of each item, int32 (N, SIMILAR), best first, padded with -1.

    Args:
        dataset: Only items with train events are looked at, and only they are found.
        how: "cooccurrence": items near each other in train sequences, by the cosine of their counts. "text": items
            whose texts have words in common, see `distill.data.similar`.
        seed: Of the coordinates that stand for words.
    """
    if how == "text":
        return alike_texts(dataset.texts, dataset.popularity > 0, SIMILAR, seed)
    left, right, counts = neighbours(dataset)
    total = np.bincount(left, counts, dataset.n_items)
    cosine = counts / np.sqrt(total[left] * total[right])
    order = np.lexsort((right, -cosine, left))
    left, right = left[order], right[order]
    begins = np.concatenate([[0], np.cumsum(np.bincount(left, minlength=dataset.n_items))])[:-1]
    rank = np.arange(len(left)) - begins[left]
    table = np.full((dataset.n_items, SIMILAR), -1, np.int32)
    best = rank < SIMILAR
    table[left[best], rank[best]] = right[best]
    return table
